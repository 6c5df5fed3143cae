"""`docker buildx build` of the target `sidecar` for two architectures in one go, without a registry.

The arm64 stage runs under qemu's user emulation. So that it is registered for nobody else, the Engine is a rootless one:
in a user namespace, where binfmt_misc can be mounted since Linux 6.7. The stage that copies the binary needs a shell: busybox, as an
image for both architectures.
"""

import hashlib
import io
import json
import pathlib
import shutil
import tarfile

import aarch64
import machine as machines
import user

ARCHITECTURES = ("amd64", "arm64")
APPLETS = ("sh", "cp", "chmod", "od", "tr", "sed", "uname")

# In front of the Engine, within its user namespace.
DOCKERD = """#!/bin/sh
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
cat /usr/share/qemu/binfmt.d/qemu-aarch64.conf > /proc/sys/fs/binfmt_misc/register
exec "$(which -a dockerd | sed -n 2p)" "$@"
"""

ENGINE = """
export PATH=/data/buildx/bin:/data/buildx/packages/usr/bin:$PATH DOCKERD_ROOTLESS_ROOTLESSKIT_NET=slirp4netns
mkdir -p ~/.config/docker && echo '{"features": {"containerd-snapshotter": true}}' > ~/.config/docker/daemon.json
exec sh /usr/share/docker.io/contrib/dockerd-rootless.sh
"""

BUILD = """
cd /data/buildx/source && export DOCKER_HOST=unix://$XDG_RUNTIME_DIR/docker.sock
docker buildx build --platform linux/amd64,linux/arm64 --target sidecar --build-arg RUST_IMAGE=base --build-context base=oci-layout:///data/buildx/base:both \\
  --build-arg SIDECAR_BINARY=dist/sidecar-ARCHITECTURE -t sidecar:both . || exit 1
for platform in linux/amd64 linux/arm64; do
  docker run --rm --platform $platform sidecar:both --version | sed "s#^#$platform: #" || exit 1
done
"""

NAME = "buildx builds the target sidecar for amd64 and arm64 in one go"


def build():
    """Builds what the case needs, before there is a machine."""
    return aarch64.build(), machines.cached("buildx", [ARCHITECTURES, APPLETS, machines.SUITE], fetch)


def fetch(directory):
    with machines.Machine("buildx-packages", machines.root()) as machine:
        packages = "rootlesskit busybox-static busybox-static:arm64"
        machine.run(f"dpkg --add-architecture arm64 && apt-get update && cd /data && apt-get -o APT::Sandbox::User=root download {packages}"
                    " && dpkg -x rootlesskit_*.deb packages"
                    " && for a in amd64 arm64; do dpkg -x busybox-static_*_$a.deb $a; done", timeout=300, check=True)
        shutil.copytree(machine.data / "packages", directory / "packages", symlinks=True)
        busybox = {}
        for architecture in ARCHITECTURES:
            programs = [*(machine.data / architecture).glob("**/bin/busybox")]
            busybox[architecture] = programs[0].read_bytes()
    write_image(directory / "base", busybox)


def write_image(layout, busybox):
    """Writes an OCI layout with an image for each architecture: busybox, and links for its applets."""
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(kind, data, **more):
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data), **more}

    manifests = []
    for architecture, program in busybox.items():
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as tar:
            entry = tarfile.TarInfo("bin/busybox")
            entry.size, entry.mode = len(program), 0o755
            tar.addfile(entry, io.BytesIO(program))
            for applet in APPLETS:
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
        content = layer.getvalue()
        rootfs = {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(content).hexdigest()]}
        configuration = {"architecture": architecture, "os": "linux", "config": {"Env": ["PATH=/bin"]}, "rootfs": rootfs}
        manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "config": blob("config.v1+json", json.dumps(configuration).encode()), "layers": [blob("layer.v1.tar", content)]}
        platform = {"architecture": architecture, "os": "linux"}
        manifests.append(blob("manifest.v1+json", json.dumps(manifest).encode(), platform=platform))
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests}
    top = blob("index.v1+json", json.dumps(index).encode(), annotations={"org.opencontainers.image.ref.name": "both"})
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def prepare(world):
    """Prepares the user, the build's context, and the user's Engine."""
    machine = world.machine
    binary, fetched = build()
    place = machine.data / "buildx"
    shutil.copytree(fetched, place, symlinks=True)
    (place / "bin").mkdir()
    (place / "bin/dockerd").write_text(DOCKERD)
    (place / "bin/dockerd").chmod(0o755)
    source = place / "source"
    for file in machines.local(["git", "ls-files"], "git", cwd=machines.REPOSITORY).split():
        path = machines.REPOSITORY / file
        if path.is_file():
            (source / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, source / file)
    (source / "dist").mkdir()
    shutil.copy(machines.REPOSITORY / "dist/sidecar", source / "dist/sidecar-x86_64")
    shutil.copy(pathlib.Path(binary) / "sidecar-aarch64", source / "dist")
    machine.run(user.MAKE, check=True)
    # buildx locks the layout that it reads.
    machine.run(f"chown -R {user.USER}: /data/buildx", check=True)
    machine.start("dockerd-rootless", user.command(ENGINE))
    look = user.command("docker -H unix://$XDG_RUNTIME_DIR/docker.sock info")
    machine.wait(lambda: machine.run(look).code == 0, "answer of the rootless dockerd", 60)
