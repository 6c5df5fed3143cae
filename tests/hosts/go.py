"""Builds programs from the Go module proxy, with the Go on PATH."""

import json
import os
import re
import shutil
import subprocess

import machine as machines

NEEDED = (1, 26)
ENVIRONMENT = {"GOFLAGS": "-mod=mod", "CGO_ENABLED": "0"}


def _go():
    program = shutil.which("go")
    version = subprocess.run([program, "env", "GOVERSION"], stdout=subprocess.PIPE, text=True, check=False).stdout if program else ""
    numbers = re.match(r"go(\d+)\.(\d+)", version)
    if not numbers or tuple(map(int, numbers.groups())) < NEEDED:
        raise machines.Trouble(f"Go {NEEDED[0]}.{NEEDED[1]} or newer is needed on PATH, as in Debian's golang-go of {machines.SUITE}")
    return program


def download(module):
    """Downloads MODULE@VERSION; returns what `go mod download -json` says about it."""
    # In a directory without a go.mod.
    return json.loads(machines.local([_go(), "mod", "download", "-json", module], f"the download of {module}", cwd="/"))


def write_mod(path, text, module=None):
    """Writes a go.mod made from another one: without its tools, and under another name if `module` is given."""
    text = re.sub(r"(?ms)^tool \(.*?^\)\n?|^tool [^(\n]*\n", "", text)
    path.write_text(re.sub(r"(?m)^module .*", f"module {module}", text) if module else text)


def build(directory, package, to, flags=""):
    """Builds a package in the module at `directory`. That takes minutes, so it runs at low priority."""
    command = ["nice", "-n", "5", _go(), "build", "-trimpath", "-ldflags", f"-s -w {flags}", "-o", to, package]
    machines.local(command, f"the build of {package}", cwd=directory, env={**os.environ, **ENVIRONMENT})
