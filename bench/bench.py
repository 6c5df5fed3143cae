"""Measures `sidecar init` beside its peers and beside a floor of bare system calls. Called by scripts/bench.

What makes such figures wrong, and what is done about it here:
- Times on a shared machine mean nothing; ratios within one run do. Contenders take turns, in another order each round,
  and a ratio is the median over the rounds of this contender's figure by the floor's of the same round.
- Each contender really is PID 1 of a fresh pid namespace with its own /proc (launch.c): as anything else an init may
  not get orphans, nor protection from signals.
- The daemon itself tells when it runs (probe.c), and launch.c when PID 1 begins and ends, by CLOCK_MONOTONIC: this
  harness waking up late changes no figure.
- A signal that comes at a fixed time after the start keeps step with a contender that polls: it comes after a random one.
- CPU is the kernel's own count in ns (a cgroup's, or a process's clock); ticks of 10 ms, as /proc/PID/stat has them,
  miss a process that always sleeps when the tick comes. A supervisor is all of its processes, not PID 1 alone.
- Memory is from smaps_rollup: private dirty is what would be free without it.
- An orphan that is a zombie isn't gone: it still answers kill(pid, 0), and is waited for.
- Neighbours take the processor away in the middle of a figure: all that is measured, the floor too, runs under SCHED_RR,
  which an ordinary process can't displace (--fair: it doesn't, for a machine that does nothing else).
- Orphans pile up before PID 1 gets its turn if the processor is busy, and then cost less: PID 1 goes first (SCHED_RR at a higher
  priority), so that it is woken for each, as it is on a machine with a processor to spare.
- Everything that is written lies on tmpfs, and the first round, with cold caches, isn't counted.
- The relay's output is drained and its lines are counted: who loses lines is fast.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from contenders import Contender, Setting, contenders, is_missing, sandboxed
from report import GOALS, SCENARIOS, Result, markdown, picture, table

BUILD = Path(os.environ["SIDECAR_BENCH_BUILD"])
LAUNCH, PROBE, FLOOR = (str(BUILD / name) for name in ("launch", "probe", "floor"))
SIDECAR = os.environ["SIDECAR_BENCH_BINARY"]
MANY = 400


class Failed(Exception):
    """A contender didn't do what was waited for."""


@contextlib.contextmanager
def cgroup2() -> Iterator[Path]:
    """Where it is mounted. The CPU of short-lived processes can't be told without it, so it is where it wasn't."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    if there := next((where for _, where, kind, *_ in mounts if kind == "cgroup2"), None):
        yield Path(there)
        return
    with tempfile.TemporaryDirectory(prefix="sidecar-bench-") as where:
        subprocess.run(["mount", "-t", "cgroup2", "none", where], check=True)
        try:
            yield Path(where)
        finally:
            subprocess.run(["umount", where], check=True)


def cpu_ns(pids: list[int]) -> int:
    """What living processes have used, all their threads included: clock_getcpuclockid(3) of each."""
    return sum(time.clock_gettime_ns((~pid << 3) | 2) for pid in pids)


class Trial:
    """One life of one contender."""

    def __init__(self, contender: Contender, root: Path, cgroups: Path, n: int, work: tuple[str, ...] = (), drain: bool = False):
        self.contender = contender
        self.dir = Path(tempfile.mkdtemp(dir=root))
        self.cgroup = Path(tempfile.mkdtemp(dir=cgroups))
        self.stamps = self.dir / "stamps"
        self.stamps.touch()
        self.setting = Setting(self.dir, [[PROBE, f"d{i}", str(self.stamps), *work] for i in range(n)])
        command = contender.set_up(self.setting)
        log = "-" if drain else str(self.dir / "log")
        env = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG")} | contender.env
        if drain and contender.name == "reference":
            env["REFERENCE_INIT_PREFIX"] = "1"
        self.launcher = subprocess.Popen([LAUNCH, str(self.stamps), str(self.cgroup), log, *command], env=env,
                                         stdin=subprocess.DEVNULL, start_new_session=True)
        self.began = self.wait("exec")[0]
        self.pid = int(next(s[1] for s in self.all_stamps() if s[0] == "pid"))

    def all_stamps(self) -> list[tuple[str, str, int]]:
        lines = self.stamps.read_text().splitlines(keepends=True)
        return [(name, pid, int(t)) for name, pid, t in (line.split() for line in lines if line.endswith("\n"))]

    def wait(self, name: str, count: int = 1, timeout: float = 20) -> list[int]:
        """The moments of the first `count` stamps of that name; of a name that ends in *, of all that begin so."""
        until = time.monotonic() + timeout
        while True:
            has = lambda s: s.startswith(name[:-1]) if name.endswith("*") else s == name
            found = [t for s, _, t in self.all_stamps() if has(s)]
            if len(found) >= count and (name != "exec" or any(s == "pid" for s, *_ in self.all_stamps())):
                return found[:count]
            if time.monotonic() > until:
                raise Failed(f"{self.contender.name}: no {name} ({len(found)} of {count}) within {timeout} s: {self.log()}")
            time.sleep(0.002)

    def log(self) -> str:
        with contextlib.suppress(OSError):
            return (self.dir / "log").read_text(errors="replace")[-400:]
        return ""

    def supervisors(self) -> list[int]:
        """Its own processes: all in its cgroup but the daemons."""
        pids = [int(p) for p in (self.cgroup / "cgroup.procs").read_text().split()]
        own = []
        for pid in pids:
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/exe") != PROBE:
                    own.append(pid)
        return own

    def used_ns(self) -> int:
        stat = (self.cgroup / "cpu.stat").read_text()
        return next(int(line.split()[1]) * 1000 for line in stat.splitlines() if line.startswith("usage_usec"))

    def memory(self) -> int:
        """Private dirty in KiB."""
        lines = [line.split() for pid in self.supervisors() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
        return sum(int(words[1]) for words in lines if words[0] == "Private_Dirty:")

    def switches(self) -> int:
        return sum(int(line.split()[1]) for pid in self.supervisors() for status in Path(f"/proc/{pid}/task").glob("*/status")
                   for line in status.read_text().splitlines() if "ctxt_switches" in line)

    def settle(self) -> None:
        time.sleep(random.uniform(0.03, 0.13))

    def at_rest(self) -> int:
        """What its processes have used once they do nothing more than poll: less than 0.2 ms in 0.2 s."""
        pids = self.supervisors()
        before, until = -1_000_000, time.monotonic() + 60
        while (used := cpu_ns(pids)) - before > 200_000 and time.monotonic() < until:
            before = used
            time.sleep(0.2)
        return used

    def restart(self, times: int) -> list[float]:
        assert self.contender.restart is not None
        took = []
        for generation in range(2, times + 2):
            time.sleep(self.contender.pause)
            self.settle()
            sent = time.monotonic_ns()
            self.contender.restart(self.pid, self.setting)
            took.append(self.wait("d1", generation)[-1] - sent)
        return took

    def shut_down(self) -> int:
        sent = time.monotonic_ns()
        os.kill(self.pid, self.contender.stop)
        return self.wait("end")[0] - sent

    def close(self) -> None:
        with contextlib.suppress(OSError):
            # PID 1's end is the end of all in its namespace.
            os.kill(self.pid, signal.SIGKILL)
        self.launcher.wait()
        until = time.monotonic() + 5
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                self.cgroup.rmdir()
                break
            time.sleep(0.005)
        shutil.rmtree(self.dir, ignore_errors=True)


class Bench:
    def __init__(self, root: Path, cgroups: Path, quick: bool, only: list[str], rounds: int | None, scenarios: list[str]):
        self.root, self.cgroups, self.quick = root, cgroups, quick
        names = only or (["floor", "floor -p", "sidecar", "reference"] if quick else [])
        known = contenders(SIDECAR, FLOOR)
        if unknown := set(names) - {c.name for c in known}:
            sys.exit(f"scripts/bench: no contender is called {', '.join(sorted(unknown))}; there are: {', '.join(c.name for c in known)}")
        chosen = [c for c in known if not names or c.name in names or c.name.startswith("floor")]
        self.missing = {c.name: c.install for c in chosen if is_missing(c)}
        self.contenders = [c for c in chosen if c.name not in self.missing]
        self.rounds = rounds
        self.scenarios = scenarios
        self.is_rr = os.sched_getscheduler(0) == os.SCHED_RR
        #: scenario, contender, round: the figures of that round.
        self.figures: dict[str, dict[str, dict[int, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
        self.failed: dict[str, dict[str, str]] = defaultdict(dict)

    def wants(self, *scenarios: str) -> bool:
        return not self.scenarios or any(s in self.scenarios for s in scenarios)

    def add(self, scenario: str, contender: Contender, turn: int, *figures: float) -> None:
        # Round 0 has cold caches.
        if turn > 0 and scenario not in contender.cannot:
            self.figures[scenario][contender.name][turn].extend(figures)

    @contextlib.contextmanager
    def trial(self, contender: Contender, *scenarios: str, **how) -> Iterator[Trial]:
        """A trial whose failure is a blank with its reason, not the end of the run."""
        trial = None
        try:
            trial = Trial(contender, self.root, self.cgroups, **how)
            yield trial
        except (Failed, OSError, subprocess.SubprocessError, StopIteration) as e:
            for scenario in scenarios:
                self.failed[scenario].setdefault(contender.name, str(e))
            print(f"\n{e}", file=sys.stderr)
        finally:
            if trial is not None:
                trial.close()

    def turns(self, what: str, rounds: int, *scenarios: str) -> Iterator[tuple[int, Contender]]:
        """Every contender that can do any of these scenarios, round by round, in another order each time."""
        if not self.wants(*scenarios):
            return
        rounds = self.rounds or rounds
        able = [c for c in self.contenders if not all(s in c.cannot for s in scenarios)]
        for turn in range(rounds + 1):
            if sys.stderr.isatty():
                print(f"\r\033[K{what}: round {turn} of {rounds}", end="", file=sys.stderr, flush=True)
            random.shuffle(able)
            for contender in able:
                failures = any(contender.name in self.failed[s] for s in scenarios)
                if not failures and (turn <= 1 or turn % contender.rarely == 0):
                    yield turn, contender
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)

    def run(self) -> None:
        few = lambda full, quick: quick if self.quick else full
        names = ("start4", "start4-cpu", "restart", "shutdown", "dirty")
        for turn, c in self.turns("four daemons", few(40, 10), *names):
            with self.trial(c, *names, n=4) as t:
                self.add("start4", c, turn, max(t.wait("d*", 4)) - t.began)
                # What is done after the fourth daemon runs belongs to it, what a poller does for ever doesn't.
                time.sleep(0.05)
                self.add("start4-cpu", c, turn, t.used_ns())
                self.add("dirty", c, turn, t.memory())
                if c.restart and "restart" not in c.cannot:
                    self.add("restart", c, turn, *t.restart(2 if c.pause else 5))
                if "shutdown" not in c.cannot:
                    t.settle()
                    self.add("shutdown", c, turn, t.shut_down())

        for turn, c in self.turns("one daemon", few(40, 10), "start1"):
            with self.trial(c, "start1", n=1) as t:
                self.add("start1", c, turn, t.wait("d0")[0] - t.began)

        names = ("start400", "restart400", "growth")
        for turn, c in self.turns(f"{MANY} daemons", few(10, 3), *names):
            with self.trial(c, *names, n=MANY) as t:
                self.add("start400", c, turn, max(t.wait("d*", MANY, timeout=30)) - t.began)
                t.settle()
                four = [x for figures in self.figures["dirty"][c.name].values() for x in figures]
                if four:
                    self.add("growth", c, turn, (t.memory() - statistics.median(four)) / (MANY - 4))
                if c.restart and "restart400" not in c.cannot:
                    self.add("restart400", c, turn, *t.restart(2 if c.pause else 5))

        megabytes = 80
        for turn, c in self.turns("log relay", few(10, 3), "relay"):
            with self.trial(c, "relay", n=1, work=("lines", str(megabytes)), drain=True) as t:
                t.wait("d0-done", timeout=120)
                used = t.at_rest()
                os.kill(t.pid, signal.SIGKILL)
                t.wait("drained")
                lines = next(s[2] for s in t.all_stamps() if s[0] == "drained")
                if lines < megabytes * 10_000:
                    raise Failed(f"{c.name}: {megabytes * 10_000 - lines} lines were lost")
                self.add("relay", c, turn, used)

        count = few(10_000, 1_000)
        for turn, c in self.turns("orphans", few(10, 5), "orphans-cpu"):
            with self.trial(c, "orphans-cpu", n=1, work=("orphans", str(count))) as t:
                t.wait("d0-ready", timeout=30)
                own = t.supervisors()
                for pid in own if self.is_rr else []:
                    os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(2))
                before = cpu_ns(own)
                t.wait("d0-gone", timeout=60)
                time.sleep(0.02)
                self.add("orphans-cpu", c, turn, (cpu_ns(own) - before) / count)

        if self.wants("sandbox"):
            self.sandbox(few(40, 10))
        if self.wants("idle"):
            self.idle(few(60, 5))
        if self.wants("size"):
            self.figures["size"]["sidecar"][1] = [os.stat(SIDECAR).st_size]

    def sandbox(self, rounds: int) -> None:
        """The same restart with a sandbox and without, side by side."""
        plain = next((c for c in self.contenders if c.name == "sidecar"), None)
        confined = sandboxed(SIDECAR)
        hidden = [path for path in (SIDECAR, PROBE, str(self.root)) if path.startswith(("/tmp/", "/var/lib/"))]
        if plain is None:
            return
        if confined is None or hidden:
            why = f"{hidden[0]} lies where the sandboxes' daemons write" if hidden else "the built-in table has no sandboxes"
            self.failed["sandbox"]["sidecar"] = why
            return
        for turn in range((self.rounds or rounds) + 1):
            both = [plain, confined]
            random.shuffle(both)
            with self.trial(both[0], "sandbox", n=4) as a, self.trial(both[1], "sandbox", n=4) as b:
                took = {}
                for trial in (a, b):
                    trial.wait("d*", 4)
                    took[trial.contender is confined] = statistics.median(trial.restart(5))
                self.add("sandbox", plain, turn, took[True] - took[False])
            if self.failed["sandbox"]:
                return

    def idle(self, seconds: int) -> None:
        """All side by side: who does nothing disturbs nobody."""
        with contextlib.ExitStack() as stack:
            trials = []
            for c in self.contenders:
                if "idle" not in c.cannot:
                    t = stack.enter_context(self.trial(c, "idle", n=4))
                    t.wait("d*", 4)
                    trials.append(t)
            time.sleep(2)
            before = [(t.switches(), cpu_ns(t.supervisors())) for t in trials]
            time.sleep(seconds)
            for t, (switches, cpu) in zip(trials, before):
                self.add("idle", t.contender, 1, (t.switches() - switches) * 60 / seconds)
                self.add("idle-cpu", t.contender, 1, (cpu_ns(t.supervisors()) - cpu) * 60 / seconds)

    def results(self) -> dict[str, dict[str, Result]]:
        out: dict[str, dict[str, Result]] = {}
        for scenario in SCENARIOS:
            if not self.wants(scenario.name):
                continue
            rows = out[scenario.name] = {}
            base = "floor -p" if scenario.name == "relay" else "floor"
            floors = {turn: statistics.median(v) for turn, v in self.figures[scenario.name][base].items() if v}
            for c in self.contenders:
                rounds = {turn: v for turn, v in self.figures[scenario.name][c.name].items() if v}
                if not rounds:
                    why = self.failed[scenario.name].get(c.name) or c.cannot.get(scenario.name) or ("" if c.restart else "no such request")
                    rows[c.name] = Result(blank=why)
                    continue
                figures = sorted(x for v in rounds.values() for x in v)
                ratios = [statistics.median(v) / floors[turn] for turn, v in rounds.items() if floors.get(turn)]
                at = lambda p: figures[round(p * (len(figures) - 1))]
                rows[c.name] = Result(statistics.median(figures), at(0.1), at(0.9), len(figures),
                                      statistics.median(ratios) if ratios and scenario.by_floor else None)
        return out


def machine() -> dict[str, object]:
    model = next((line.split(": ")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), platform.machine())
    version = subprocess.run([SIDECAR, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return {"date": datetime.date.today().isoformat(), "cpu": model, "cores": os.cpu_count(), "kernel": platform.release(), "version": version}


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measures `sidecar init` beside its peers and beside a floor of bare system calls.",
                                     epilog="scripts/bench --apply measures apply-allowlist on a real container instead.")
    parser.add_argument("--quick", action="store_true", help="floor, reference and sidecar alone, few rounds: under two minutes")
    parser.add_argument("--json", action="store_true", help="the result as JSON on stdout, in the place of the table")
    parser.add_argument("--markdown", action="store_true", help="the result as the table of docs/performance.md")
    parser.add_argument("--svg", metavar="FILE", help="also draw the ratios into FILE")
    parser.add_argument("--fair", action="store_true", help="under the scheduler's ordinary class")
    parser.add_argument("--rounds", type=int, help="rounds of each scenario")
    parser.add_argument("--only", metavar="NAME", action="append", default=[], help="this contender (and both floors); may be repeated")
    parser.add_argument("--scenario", metavar="NAME", action="append", default=[], choices=[s.name for s in SCENARIOS],
                        help=f"this scenario; may be repeated: {', '.join(s.name for s in SCENARIOS)}")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("scripts/bench: it makes pid namespaces and cgroups, which only root may; nothing was measured")
    if not options.fair:
        try:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        except PermissionError:
            print("scripts/bench: no SCHED_RR here (it needs CAP_SYS_NICE): neighbours are in the figures", file=sys.stderr)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))

    tmpfs = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    root = Path(tempfile.mkdtemp(prefix="sidecar-bench-", dir=tmpfs))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with cgroup2() as hierarchy:
        cgroups = Path(tempfile.mkdtemp(prefix="sidecar-bench-", dir=hierarchy))
        bench = Bench(root, cgroups, options.quick, options.only, options.rounds, options.scenario)
        try:
            bench.run()
        finally:
            shutil.rmtree(root, ignore_errors=True)
            with contextlib.suppress(OSError):
                cgroups.rmdir()
    results = bench.results()
    about = machine()
    if options.json:
        rows = {s: {c: r.json() for c, r in rows.items()} for s, rows in results.items()}
        print(json.dumps({"schema": 1, "machine": about, "results": rows, "goals": GOALS, "missing": bench.missing}, indent=1))
    elif options.markdown:
        print(markdown(results))
    else:
        print(table(results, about, bench.missing))
    if options.svg:
        Path(options.svg).write_text(picture(results, about))
    own = [(s, results[s.name].get("sidecar")) for s in SCENARIOS if s.name in results]
    blank = [s.name for s, r in own if r is not None and (r.ratio if s.by_floor else r.median) is None]
    if blank:
        print(f"scripts/bench: no figure of sidecar's, or none of the floor's, for {', '.join(blank)}", file=sys.stderr)
    return 1 if blank or any("sidecar" in failures for failures in bench.failed.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
