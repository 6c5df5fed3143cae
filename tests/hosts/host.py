"""Environments and cases. Each environment is a subclass of `Host`, in a file of its own; `__main__` lists them."""

import dataclasses
import re
from collections.abc import Callable

import machine as machines


class Wrong(machines.Trouble):
    """A case failed: one sentence that says what is wrong."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A row of the matrix."""

    # The row's name, the same for every environment.
    name: str
    # The command as a person would type it. bash runs it in the machine; `{name}` is filled in from the world's `words`.
    command: str
    # The exit code that it must have; None if any will do.
    exit: int | None
    # What must be true afterwards: functions of (world, done) that raise Wrong, or return False.
    then: tuple[Callable, ...] = ()
    # What is prepared before: functions of the world.
    first: tuple[Callable, ...] = ()
    # The daemons that get another process. All others must keep theirs; `World.begin` and `end` check that.
    moves: frozenset[str] = frozenset()
    # How long the command may take, in seconds.
    within: int = 120


@dataclasses.dataclass
class Cell:
    """The result of a case in an environment: `ok`, `wrong` or `not here`, and why."""

    kind: str
    why: str = ""
    seconds: float = 0


class World:
    """What the cases of one environment act on. `words` has the values for `{name}` in a case's command."""

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
        """Called before each case."""

    def end(self, case, done):
        """Called after each case: checks what must always be true."""


def fill(command, words):
    """Fills in `{word}`. Other braces stay as they are, since commands have JSON and templates in them."""
    return re.sub(r"\{(\w+)\}", lambda found: str(words.get(found[1], found[0])), command)


class Host:
    """An environment."""

    # Its name on scripts/hosts's command line, and the title of its column.
    name = ""
    title = ""
    # The version of cgroups that its machine has: v1 or v2.
    cgroup = "v2"
    # Debian packages beyond those of `machine.PACKAGES`, which are the same for all.
    packages: tuple[str, ...] = ()
    # Cases that can't run there: name → the reason, a clause.
    without: dict[str, str] = {}
    # How long all of it may take, in seconds.
    limit = 1800

    def build(self):
        """Builds what no package has; `machine.cached` keeps it below target/hosts. No machine runs yet."""

    def start(self, machine):
        """Starts the engine in the machine and loads the images into it. Returns the world."""
        raise NotImplementedError

    def cases(self):
        """Its rows of the matrix, in order."""
        raise NotImplementedError

    def versions(self, world):
        """A list of (what, version)."""
        raise NotImplementedError


def kernel_versions(world):
    # Without the builder's suffix.
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
            raise Wrong(f"exit code {done.code} instead of {case.exit}")
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
