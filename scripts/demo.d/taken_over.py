#!/usr/bin/python3
"""What the demo's attacker runs in place of git-gate or, for contrast, by `docker exec`: some of what a daemon that was
taken over would try. WEB is a host of the internet. Prints for each attack: ATTACK → worked, or the kernel's answer.
"""

import errno
import os
import resource
import socket

WEB = "WEB"


def read(path):
    open(path, "rb").close()


def write(path, text=""):
    with open(path, "a") as file:
        file.write(text)


def pid_of(words):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            if words in file.read():
                return int(pid)
    raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))


def connect(kind):
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.settimeout(5)
        sock.connect((WEB, 80))


def bind():
    with socket.socket() as sock:
        sock.bind(("0.0.0.0", 4444))


ATTACKS = {
    "read egress's credentials": lambda: read("/etc/sidecar/egress/routes.yaml"),
    "read egress's CA key": lambda: read("/tmp/egress/mitmproxy-ca.pem"),
    "read supervise's memory": lambda: read(f"/proc/{pid_of(b'supervise/server.py')}/mem"),
    "write pipelock's allowlist": lambda: write("/etc/sidecar/pipelock/pipelock.yaml"),
    "signal PID 1": lambda: os.kill(1, 0),
    "signal supervise": lambda: os.kill(pid_of(b"supervise/server.py"), 0),
    "set a limit of PID 1": lambda: resource.prlimit(1, resource.RLIMIT_CORE, (0, 0)),
    "connect out past pipelock": lambda: connect(socket.SOCK_STREAM),
    "the same by UDP": lambda: connect(socket.SOCK_DGRAM),
    "listen on a port of its own": bind,
    "forge a line of the log": lambda: write("/proc/1/fd/1", "[supervise] proposal 9: live, says the attacker\n"),
    "ask init for a restart": lambda: write("/proc/1/fd/101", "\ntaken-over restart git-gate\n"),
}

for name, attack in ATTACKS.items():
    try:
        attack()
        answer = "worked"
    except OSError as error:
        answer = f"{errno.errorcode.get(error.errno, '?')}, {error.strerror}"
    print(f"{name} → {answer}", flush=True)
