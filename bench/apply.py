"""What `apply-allowlist` takes beyond docker's own calls, on a container that is nothing but sidecar and two daemons.

Its daemon is ready once it runs and has no settling time: what is left is docker's inspect, exec and kill, which are
measured beside it in every round, the restart, and what the applet itself adds. Called by scripts/bench --apply.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 25
SIDECAR, BUILD = os.environ["SIDECAR_BENCH_BINARY"], os.environ["SIDECAR_BENCH_BUILD"]
NAME = f"bench-apply-{os.getpid()}"
TABLE = """[[daemon]]
name = "d0"
command = ["/bench/probe", "d0", "/tmp/stamps"]
[[daemon]]
name = "d1"
command = ["/bench/probe", "d1", "/tmp/stamps"]
settle = "0ms"
[signals]
USR1 = { restart = "d1" }
"""


def timed(*command: str) -> tuple[float, str]:
    began = time.monotonic()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"scripts/bench: {' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return (time.monotonic() - began) * 1000, done.stdout


def main() -> int:
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        (here / "table.toml").write_text(TABLE)
        for program in (SIDECAR, f"{BUILD}/probe"):
            target = here / Path(program).name.split("-")[0]
            target.write_bytes(Path(program).read_bytes())
            target.chmod(0o755)
        image = f"{NAME}:image"
        (here / "Dockerfile").write_text('FROM scratch\nCOPY . /bench/\nENTRYPOINT ["/bench/sidecar", "init", "--config=/bench/table.toml"]\n')
        timed("docker", "build", "-q", "-t", image, directory)
        try:
            timed("docker", "run", "-d", "--name", NAME, "--tmpfs", "/tmp", image)
            time.sleep(0.5)
            for turn in range(ROUNDS + 1):
                row = {
                    "docker inspect": timed("docker", "inspect", NAME)[0],
                    "docker exec": timed("docker", "exec", "-i", NAME, "/bench/sidecar", "--version")[0],
                    # It is wired to nothing: init takes it and does nothing more.
                    "docker kill": timed("docker", "kill", "--signal", "WINCH", NAME)[0],
                }
                took, text = timed(SIDECAR, "apply-allowlist", "--json", NAME)
                parts = json.loads(text)["ms"]
                row["apply-allowlist"] = took
                row |= {f"  its own count: {key}": ms for key, ms in parts.items()}
                row["beyond docker's calls"] = took - row["docker inspect"] - row["docker exec"] - row["docker kill"]
                for key, ms in row.items():
                    # The first round has cold caches.
                    figures.setdefault(key, []).extend([ms] if turn else [])
        finally:
            subprocess.run(["docker", "rm", "-f", NAME], capture_output=True, check=False)
            subprocess.run(["docker", "rmi", image], capture_output=True, check=False)
    print(f"median and 10th to 90th percentile of {ROUNDS} rounds, ms")
    for key, values in figures.items():
        values.sort()
        at = lambda p: values[round(p * (len(values) - 1))]
        print(f"  {key:<28} {statistics.median(values):7.1f}  [{at(0.1):.1f} to {at(0.9):.1f}]")
    beyond = statistics.median(figures["beyond docker's calls"])
    print(f"beyond docker's own calls: {beyond:.1f} ms, {'met' if beyond <= 50 else 'NOT met'}: <= 50 ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
