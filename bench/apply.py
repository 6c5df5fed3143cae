"""What `apply-allowlist` takes beyond docker's own calls, on containers that are nothing but sidecar and two daemons.

Their daemon is ready once it runs and has no settling time: what is left is docker's inspect, exec and kill, which are
measured beside it in every round, the restart, and what the applet itself adds. Called by scripts/bench --apply.

One bundle is changed again and again; --bundles N changes N at once as well, beside N times docker's own calls at once.
What is left for sidecar is to be within the spread of docker's calls: their 10th to their 90th percentile.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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


def own_calls(name: str) -> dict[str, float]:
    """docker's own, those of an apply but for the inspect."""
    return {
        "docker exec": timed("docker", "exec", "-i", name, "/bench/sidecar", "--version")[0],
        # No signal rule names it: init takes it and does nothing more.
        "docker kill": timed("docker", "kill", "--signal", "WINCH", name)[0],
    }


def in_a_row(name: str, rounds: int) -> list[dict[str, float]]:
    rows = []
    for _ in range(rounds + 1):
        row = {"docker inspect": timed("docker", "inspect", name)[0]} | own_calls(name)
        row["docker's own calls"] = sum(row.values())
        row["apply-allowlist"], text = timed(SIDECAR, "apply-allowlist", "--json", name)
        row |= {f"  its own count: {key}": ms for key, ms in json.loads(text)["ms"].items()}
        row["beyond docker's calls"] = row["apply-allowlist"] - row["docker's own calls"]
        rows.append(row)
    # The first round has cold caches.
    return rows[1:]


def at_once(names: list[str], rounds: int) -> list[dict[str, float]]:
    rows = []
    with ThreadPoolExecutor(len(names)) as pool:
        for _ in range(rounds + 1):
            began = time.monotonic()
            inspect = timed("docker", "inspect", *names)[0]
            list(pool.map(own_calls, names))
            own = (time.monotonic() - began) * 1000
            took = timed(SIDECAR, "apply-allowlist", "--parallel", str(len(names)), *names)[0]
            rows.append({"docker inspect": inspect, "docker's own calls": own, "apply-allowlist": took, "beyond docker's calls": took - own})
    return rows[1:]


def show(what: str, rows: list[dict[str, float]]) -> bool:
    print(f"{what}: median and 10th to 90th percentile of {len(rows)} rounds, ms")
    spread = 0.0
    for key in rows[0]:
        values = sorted(row[key] for row in rows)
        at = lambda p: values[round(p * (len(values) - 1))]
        if key == "docker's own calls":
            spread = at(0.9) - at(0.1)
        print(f"  {key:<28} {statistics.median(values):9.1f}  [{at(0.1):.1f} to {at(0.9):.1f}]")
    beyond = statistics.median(row["beyond docker's calls"] for row in rows)
    print(f"  {'met' if beyond <= spread else 'NOT met'}: {beyond:.1f} ms beyond docker's own calls, whose spread is {spread:.1f} ms")
    return beyond <= spread


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench --apply", description="Measures apply-allowlist beside docker's own calls.")
    parser.add_argument("--rounds", type=int, default=25, help="changes of one bundle, one after the other")
    parser.add_argument("--bundles", type=int, default=0, help="as many bundles are changed at once as well, in five rounds")
    options = parser.parse_args()
    names = [f"{NAME}-{i}" for i in range(max(options.bundles, 1))]
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        (here / "table.toml").write_text(TABLE)
        for program in (SIDECAR, f"{BUILD}/probe"):
            target = here / Path(program).name.split("-")[0].split(".")[0]
            target.write_bytes(Path(program).read_bytes())
            target.chmod(0o755)
        image = f"{NAME}:image"
        (here / "Dockerfile").write_text('FROM scratch\nCOPY . /bench/\nENTRYPOINT ["/bench/sidecar", "init", "--config=/bench/table.toml"]\n')
        timed("docker", "build", "-q", "-t", image, directory)
        try:
            for name in names:
                timed("docker", "run", "-d", "--name", name, "--tmpfs", "/tmp", image)
            time.sleep(0.5)
            met = [show("one bundle", in_a_row(names[0], options.rounds))]
            if options.bundles:
                met.append(show(f"{options.bundles} bundles at once", at_once(names, 5)))
        finally:
            subprocess.run(["docker", "rm", "-f", *names], capture_output=True, check=False)
            subprocess.run(["docker", "rmi", image], capture_output=True, check=False)
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
