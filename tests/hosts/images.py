"""What is tested: the binary, and the images that scripts/lib.sh builds on this machine's Engine, saved for other engines."""

import os
import pathlib
import shutil
import subprocess

import machine as machines

# Their names in every environment.
BUNDLE = "sidecar-hosts-bundle:local"
BINARY = "sidecar-hosts-sidecar:local"
BASE = "sidecar-hosts-base:local"


def build():
    """Builds them; returns the directory with images.tar, and the sentence that says which filter is in the bundle."""
    script = """
        . scripts/lib.sh
        ensure_engine >&2
        ensure_images >&2
        docker image inspect --format '{{.Id}}' "$SIDECAR_BUNDLE_IMAGE" "$SIDECAR_IMAGE" sidecar-base:bookworm
        echo "$SIDECAR_FILTER"
    """
    done = subprocess.run(["bash", "-euc", script], cwd=machines.REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or len(lines) != 4:
        raise machines.Trouble("the images could not be built")
    ids, filter_sentence = lines[:3], lines[3].replace(os.environ.get("PIPELOCK") or "\0", "a file")
    return machines.cached("images", ids, lambda directory: save(directory, ids)), filter_sentence


def save(directory, ids):
    names = [BUNDLE, BINARY, BASE]
    try:
        for one, name in zip(ids, names, strict=True):
            machines.local(["docker", "tag", one, name], "docker tag")
        machines.local(["docker", "save", "--output", directory / "images.tar", *names], "docker save")
        # An ordinary user must be able to read it too.
        (directory / "images.tar").chmod(0o644)
    finally:
        subprocess.run(["docker", "rmi", "--no-prune", *names], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def bring(machine, built):
    """Puts the binary and the images into a machine: links for all applets in /opt/sidecar/bin, images.tar in /data."""
    shutil.copy(machines.REPOSITORY / "dist" / "sidecar", machine.data / "sidecar")
    machine.run("mkdir -p /opt/sidecar/bin && install -m 755 /data/sidecar /usr/local/bin/sidecar && sidecar --install /opt/sidecar/bin", check=True)
    os.link(pathlib.Path(built) / "images.tar", machine.data / "images.tar")
