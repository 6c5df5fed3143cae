"""The binary for aarch64: scripts/cross builds it in a machine with Debian's Rust, so nothing is installed on this one."""

import os
import pathlib
import shutil
import subprocess

import machine as machines

PACKAGES = "rustc cargo gcc libc6-dev libstd-rust-dev:arm64 gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
SOURCES = ["src", "applets", "bundle/daemons.toml", "build.rs", "Cargo.toml", "Cargo.lock", "scripts/cross"]


def build():
    """The directory with `sidecar-aarch64`, which is built again if the sources have changed."""
    command = ["git", "ls-files", "--stage", "--", *SOURCES]
    key = machines.local(command, "git", cwd=machines.REPOSITORY) + machines.local(["git", "diff", "HEAD", "--", *SOURCES], "git", cwd=machines.REPOSITORY)
    return machines.cached("aarch64", key, make)


def make(directory):
    machines.local(["cargo", "fetch", "--locked"], "cargo fetch", cwd=machines.REPOSITORY)
    with machines.Machine("aarch64", machines.root()) as machine:
        copy = machine.data / "sidecar"
        files = machines.local(["git", "ls-files"], "git", cwd=machines.REPOSITORY).split()
        for file in files:
            if (machines.REPOSITORY / file).is_file():
                (copy / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(machines.REPOSITORY / file, copy / file)
        cargo = pathlib.Path(os.environ.get("CARGO_HOME") or pathlib.Path.home() / ".cargo")
        shutil.copytree(cargo / "registry", machine.data / "cargo/registry", symlinks=True)
        machine.run(f"dpkg --add-architecture arm64 && apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y {PACKAGES}", timeout=600, check=True)
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=machines.REPOSITORY, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        variables = {"CARGO_HOME": "/data/cargo", "CARGO_NET_OFFLINE": "true", "SIDECAR_COMMIT": commit}
        machine.run("cd /data/sidecar && nice -n 5 scripts/cross build", timeout=1500, environment=variables, check=True)
        shutil.copy(copy / "dist/sidecar-aarch64", directory)
