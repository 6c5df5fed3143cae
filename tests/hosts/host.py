"""What an environment and a case are. Each environment is a subclass of `Host`, in a file of its own; `__main__` lists them."""

import dataclasses
import re
from collections.abc import Callable

import machine as machines


class Wrong(machines.Trouble):
    """Something isn't as it should be: a sentence."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A row of the matrix."""

    # What the row is called, in every environment's column.
    name: str
    # As a person types it, run by bash in the machine. `{name}` is filled in from the world's `words`.
    command: str
    # What it must exit with; None if that is no matter.
    exit: int | None
    # What must be true afterwards: functions of (world, done) that raise Wrong, or return False.
    then: tuple[Callable, ...] = ()
    # What is made so before: functions of the world.
    first: tuple[Callable, ...] = ()
    # Daemons that get another process by it. All others must keep theirs: `World.begin` and `end` see to that.
    moves: frozenset[str] = frozenset()
    # How long the command may take, in seconds.
    within: int = 120


@dataclasses.dataclass
class Cell:
    """What a case came to in an environment: `ok`, `wrong` or `not here`, and why."""

    kind: str
    why: str = ""
    seconds: float = 0


class World:
    """What the cases of one environment act on. `words` are filled in for `{name}` in a case's command."""

    def __init__(self, machine, words):
        self.machine, self.words = machine, dict(words)

    def run(self, command, timeout=120):
        return self.machine.run(fill(command, self.words), timeout=timeout)

    def check(self, command, timeout=120):
        done = self.run(command, timeout)
        if done.code != 0:
            raise Wrong(f"exit {done.code} of {fill(command, self.words)}: {done.said.strip()[-600:]}")
        return done.out.strip()

    def begin(self, case):
        """Before each case."""

    def end(self, case, done):
        """After each case: what must always be true."""


def fill(command, words):
    """Braces that are no word's stay as they are: commands have JSON and templates in them."""
    return re.sub(r"\{(\w+)\}", lambda found: str(words.get(found[1], found[0])), command)


class Host:
    """An environment."""

    # As scripts/hosts is told, and the column's title.
    name = ""
    title = ""
    # v2, or v1: which cgroups its machine has.
    cgroup = "v2"
    # Debian packages beyond those of `machine.PACKAGES`, which are the same for all.
    packages: tuple[str, ...] = ()
    # Cases that it can't have: name → the reason, a half sentence.
    without: dict[str, str] = {}
    # How long all of it may take, in seconds.
    limit = 1800

    def build(self):
        """What no package has: kept below target/hosts by `machine.cached`. No machine runs yet."""

    def start(self, machine):
        """Starts the engine in the machine and gives it the images. Returns the world."""
        raise NotImplementedError

    def cases(self):
        """Its rows of the matrix, in order."""
        raise NotImplementedError

    def versions(self, world):
        """A list of (what, version)."""
        raise NotImplementedError


def kernel_versions(world):
    # Without what its builder calls it.
    kernel = world.run("uname -r").out.split("-")[0].strip()
    kind = world.machine.cgroup
    controllers = world.run("cat /sys/fs/cgroup/cgroup.controllers 2> /dev/null").out.split()
    return [("kernel", kernel), ("cgroup", f"{kind} ({' '.join(controllers) or 'no controllers'})" if kind == "v2" else kind)]


def run_case(host, world, case):
    if case.name in host.without:
        return Cell("not here", host.without[case.name])
    command, done = fill(case.command, world.words), None
    try:
        for prepare in case.first:
            prepare(world)
        world.begin(case)
        done = world.run(case.command, timeout=case.within)
        with open(machines.CACHE / f"{host.name}.log", "a", encoding="utf-8") as log:
            log.write(f"== {case.name}\n$ {command}\n{done.said}exit {done.code} after {done.seconds:.1f} s\n")
        if case.exit is not None and done.code != case.exit:
            raise Wrong(f"exit {done.code} in place of {case.exit}")
        for check in case.then:
            if check(world, done) is False:
                raise Wrong(f"not true: {check.__name__}")
        world.end(case, done)
    except machines.Trouble as wrong:
        said = f"\n      $ {command}\n      {done.said.strip()[-1500:]}" if done else ""
        machines.say(f"  NOT  {case.name}: {wrong}{said}")
        return Cell("wrong", str(wrong), done.seconds if done else 0)
    machines.say(f"  ok   {case.name} ({done.seconds:.1f} s)")
    return Cell("ok", "", done.seconds)
