"""Who is measured, and how each is set up: as favourably as its documentation allows.

A contender gets `n` daemons d0, d1, … that are all the same program (probe.c). What it can't do is a reason in `cannot`,
by scenario; the table shows that reason instead of a figure.
"""

from __future__ import annotations

import os
import json
import shutil
import signal
import subprocess
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass
class Setting:
    """What a contender is set up with: a directory of its own on tmpfs, and the daemons' command lines."""

    dir: Path
    commands: list[list[str]]

    def write(self, name: str, text: str, mode: int = 0o644) -> str:
        path = self.dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return str(path)


@dataclass
class Contender:
    name: str
    #: The command line of PID 1.
    set_up: Callable[[Setting], list[str]]
    #: Replaces d1: in the time that counts, so no shell and no detour. Gets PID 1 and the setting.
    restart: Callable[[int, Setting], None] | None = None
    #: By scenario: why there is no figure.
    cannot: dict[str, str] = field(default_factory=dict)
    #: Programs that must be there, and how they get there.
    needs: list[str] = field(default_factory=list)
    install: str = ""
    stop: signal.Signals = signal.SIGTERM
    env: dict[str, str] = field(default_factory=dict)
    #: The least time between two starts of a daemon, in s: some make a quicker one wait.
    pause: float = 0.0
    #: Rounds are this many times rarer where it is slow and its figure is far from the others'.
    rarely: int = 1


def usr1(pid: int, _setting: Setting) -> None:
    os.kill(pid, signal.SIGUSR1)


def run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def toml(setting: Setting) -> str:
    quoted = lambda words: "[" + ", ".join(f'"{w}"' for w in words) + "]"
    daemons = "".join(f'[[daemon]]\nname = "d{i}"\ncommand = {quoted(c)}\n' for i, c in enumerate(setting.commands))
    wiring = 'USR1 = { restart = "d1" }' if len(setting.commands) > 1 else 'USR1 = { restart = "d0" }'
    return setting.write("table.toml", f"{daemons}[signals]\n{wiring}\n")


def sandboxed(sidecar: str) -> Contender | None:
    """sidecar with the sandboxes of the built-in table, and what their daemons keep from each other; None: it has none."""
    daemons = tomllib.loads((HERE.parent / "bundle/daemons.toml").read_text())["daemon"]
    if not all("sandbox" in daemon for daemon in daemons):
        return None
    list_of = lambda paths: "[" + ", ".join(json.dumps(path) for path in paths) + "]"

    def set_up(setting: Setting) -> list[str]:
        table, made = '[signals]\nUSR1 = { restart = "d1" }\n', []
        for i, (daemon, command) in enumerate(zip(daemons, setting.commands, strict=True)):
            sandbox = daemon["sandbox"]
            made += sandbox.get("write", [])
            table += f'[[daemon]]\nname = "d{i}"\ncommand = {list_of(command)}\n'
            if "config" in daemon:
                table += f'config = {{ path = {json.dumps(daemon["config"]["path"])} }}\n'
            # Its stamps are its own as well.
            sandbox = sandbox | {"write": [*sandbox.get("write", []), command[2]]}
            keys = "".join(f"{key} = {list_of(v) if isinstance(v, list) and key in ('write', 'private') else json.dumps(v)}\n" for key, v in sandbox.items())
            table += f"[daemon.sandbox]\n{keys}"
        file = setting.write("table.toml", table)
        # In this mount namespace alone: what they may write to isn't made on the machine itself.
        script = 'for at in /var/lib /tmp; do mount -t tmpfs none $at || exit; done; mkdir -p $MADE && exec "$@"'
        return ["env", f"MADE={' '.join(made)}", "sh", "-c", script, "-", sidecar, "init", f"--config={file}"]

    return Contender("sidecar", set_up, restart=usr1)


def services(setting: Setting, log: str | None = None) -> str:
    """A directory for s6, runit and daemontools. `run` is the daemon itself: no shell is started first."""
    for i, command in enumerate(setting.commands):
        setting.write(f"scan/d{i}/args", " ".join(command[1:]))
        (setting.dir / f"scan/d{i}/run").symlink_to(command[0])
        if log:
            setting.write(f"scan/d{i}/log/run", f"#!/bin/sh\nexec {log.format(name=f'd{i}')}\n", 0o755)
    return str(setting.dir / "scan")


def control(_pid: int, setting: Setting) -> None:
    """What `s6-svc -t`, `sv t` and `svc -t` write, without the time that these take to start."""
    with open(setting.dir / "scan/d1/supervise/control", "wb", buffering=0) as fifo:
        fifo.write(b"t")


def dinit(setting: Setting) -> list[str]:
    for i, command in enumerate(setting.commands):
        setting.write(f"services/d{i}", f"type = process\ncommand = {' '.join(command)}\nrestart = false\n")
    depends = "".join(f"waits-for = d{i}\n" for i in range(len(setting.commands)))
    setting.write("services/boot", f"type = internal\n{depends}")
    return ["dinit", "--container", "-q", "-d", str(setting.dir / "services"), "-p", str(setting.dir / "socket")]


def supervisord(setting: Setting) -> list[str]:
    socket = setting.dir / "socket"
    head = f"""[supervisord]
nodaemon=true
user=root
logfile=/dev/null
logfile_maxbytes=0
pidfile={setting.dir}/pid
[unix_http_server]
file={socket}
[supervisorctl]
serverurl=unix://{socket}
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""
    programs = "".join(
        f"[program:d{i}]\ncommand={' '.join(c)}\nstartsecs=0\npriority={i}\n"
        "stdout_logfile=/dev/fd/1\nstdout_logfile_maxbytes=0\nredirect_stderr=true\n"
        for i, c in enumerate(setting.commands))
    return ["supervisord", "-c", setting.write("supervisord.conf", head + programs)]


def circus(setting: Setting) -> list[str]:
    head = f"[circus]\nendpoint = ipc://{setting.dir}/e\npubsub_endpoint = ipc://{setting.dir}/p\nlogoutput = /dev/null\n"
    watchers = "".join(f"[watcher:d{i}]\ncmd = {' '.join(c)}\n" for i, c in enumerate(setting.commands))
    return ["circusd", setting.write("circus.ini", head + watchers)]


def horust(setting: Setting) -> list[str]:
    for i, command in enumerate(setting.commands):
        setting.write(f"services/d{i}.toml", f'command = "{" ".join(command)}"\n')
    return ["horust", "--services-path", str(setting.dir / "services"), "--uds-folder-path", str(setting.dir)]


ONE = "it runs one program"
NO_PREFIX = "no prefix"
ALONE = dict.fromkeys(["start4", "start4-cpu", "restart", "restart400", "shutdown", "dirty", "growth", "start400", "idle"], ONE)


def contenders(sidecar: str, floor: str) -> list[Contender]:
    reference = str(HERE / "reference_init.py")
    arguments = lambda s: [str(len(s.commands)), s.commands[0][0], *s.commands[0][2:]]
    alone = lambda *front: lambda s: [*front, *s.commands[0]]
    return [
        Contender("floor", lambda s: [floor, *arguments(s)], restart=usr1, cannot={"relay": "see floor -p"}),
        Contender("floor -p", lambda s: [floor, "-p", *arguments(s)], restart=usr1),
        Contender("sidecar", lambda s: [sidecar, "init", f"--config={toml(s)}"], restart=usr1),
        Contender("reference", lambda s: ["python3", reference, toml(s)], restart=usr1, needs=["python3"],
                  install="apt-get install python3", env={"REFERENCE_INIT_PREFIX": "0"}, rarely=2,
                  cannot={"orphans-cpu": "never reaps them"}),
        Contender("tini", alone("tini", "--"), needs=["tini"], install="apt-get install tini",
                  cannot={**ALONE, "relay": NO_PREFIX}),
        Contender("dumb-init", alone("dumb-init", "--"), needs=["dumb-init"], install="apt-get install dumb-init",
                  cannot={**ALONE, "relay": NO_PREFIX}),
        Contender("catatonit", alone("catatonit", "--"), needs=["catatonit"], install="apt-get install catatonit",
                  cannot={**ALONE, "relay": NO_PREFIX}),
        Contender("dinit", dinit, restart=lambda _, s: run("dinitctl", "-p", f"{s.dir}/socket", "restart", "d1"),
                  needs=["dinit", "dinitctl"], install="apt-get install dinit (Debian 13 and later)",
                  cannot={"relay": NO_PREFIX}),
        Contender("s6", lambda s: ["s6-svscan", services(s)], restart=control, needs=["s6-svscan"],
                  install="apt-get install s6", cannot={"relay": "see s6-log"}, pause=1.05, rarely=4),
        Contender("s6-log", lambda s: ["s6-svscan", services(s, "s6-log -b 'p[{name}] ' 1")], restart=control,
                  needs=["s6-svscan", "s6-log"], install="apt-get install s6", pause=1.05, rarely=4),
        Contender("runit", lambda s: ["runsvdir", services(s)], restart=control, needs=["runsvdir"],
                  install="apt-get install runit", pause=1.05, rarely=4, stop=signal.SIGHUP,
                  cannot={"relay": "svlogd's prefix goes to files", "shutdown": "runsvdir leaves before its daemons do"}),
        Contender("daemontools", lambda s: ["svscan", services(s)], restart=control, needs=["svscan"],
                  install="apt-get install daemontools", pause=1.05, rarely=4,
                  cannot={"relay": NO_PREFIX, "shutdown": "svscan's end kills them unasked"}),
        Contender("supervisord", supervisord, needs=["supervisord", "supervisorctl"], install="apt-get install supervisor",
                  restart=lambda _, s: run("supervisorctl", "-c", f"{s.dir}/supervisord.conf", "restart", "d1"),
                  cannot={"relay": NO_PREFIX}, rarely=8),
        Contender("circus", circus, needs=["circusd", "circusctl"], install="pip install circus",
                  restart=lambda _, s: run("circusctl", "--endpoint", f"ipc://{s.dir}/e", "restart", "d1"),
                  cannot={"relay": NO_PREFIX}, rarely=8),
        Contender("horust", horust, needs=["horust"], install="cargo install horust", rarely=8,
                  cannot={"relay": NO_PREFIX, "restart": "no such request", "restart400": "no such request"}),
    ]


def is_missing(contender: Contender) -> bool:
    return any(shutil.which(program) is None for program in contender.needs)
