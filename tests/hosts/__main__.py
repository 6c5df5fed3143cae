"""Runs the matrix: `scripts/hosts` says how."""

import argparse
import datetime
import os
import re
import signal
import sys
import time

import machine as machines
import report
from docker import Docker28, Docker29, Gvisor
from host import Cell, run_case
from kubernetes import Kubernetes
from machine import Machine, Trouble, say
from podman import PodmanRootless

# The columns of the report, in order.
HOSTS = [Docker28(), Docker29(), PodmanRootless(), Gvisor(), Kubernetes()]


def run_host(host, only):
    """Returns whether every case was as it should be."""
    began = time.monotonic()
    say(f"\n== {host.title}")
    # The output of every command.
    (machines.CACHE / f"{host.name}.log").unlink(missing_ok=True)
    host.build()
    lower = machines.root(host.packages)
    cells, versions = {}, []
    machine = Machine(host.name, lower, host.cgroup)
    try:
        with machine:
            # The first run's builds don't count.
            ends = time.monotonic() + host.limit
            world = host.start(machine)
            versions = host.versions(world)
            say(f"  started after {time.monotonic() - began:.0f} s: " + ", ".join(f"{what} {version}" for what, version in versions))
            for case in host.cases():
                if only and not re.search(only, case.name):
                    continue
                if time.monotonic() > ends:
                    cells[case.name] = Cell("wrong", f"not tried: {host.limit // 60} minutes were over")
                    continue
                cells[case.name] = run_case(host, world, case)
    finally:
        left = machine.left_over()
        say("  all of it is gone: processes, mounts, cgroups, files" if not left else "  LEFT OVER: " + "; ".join(left))
    cells[report.LAST] = Cell("wrong", "; ".join(left)) if left else Cell("ok")
    for name, cell in cells.items():
        if cell.kind == "not here":
            say(f"  –    {name}: {cell.why}")
    wrong = [name for name, cell in cells.items() if cell.kind == "wrong"]
    took = time.monotonic() - began
    say(f"  {host.name}: {sum(cell.kind == 'ok' for cell in cells.values())} as they should be, {len(wrong)} not, in {took:.0f} s")
    report.keep(host, datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"), versions, cells, took, only)
    return not wrong


def main():
    names = [host.name for host in HOSTS]
    parser = argparse.ArgumentParser(prog="scripts/hosts")
    parser.add_argument("name", choices=[*names, "all"])
    parser.add_argument("--only", metavar="PATTERN", default="")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    # Ctrl-C and TERM raise an exception, so that everything is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # A shell starts background jobs with INT ignored; a case that sends INT needs the default.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.umask(0o022)
    machines.CACHE.mkdir(parents=True, exist_ok=True)
    machines.sweep()
    good = True
    for host in HOSTS:
        if options.name not in (host.name, "all"):
            continue
        try:
            good &= run_host(host, options.only)
        except Trouble as trouble:
            say(f"  {host.name}: {trouble}")
            good = False
        except KeyboardInterrupt:
            return 130
    if not options.keep:
        report.write(HOSTS)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
