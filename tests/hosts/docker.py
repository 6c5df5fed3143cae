"""Docker: version 28 from Debian, version 29 built from its Go modules, and Docker with gVisor as its runtime."""

import json
import pathlib
import shutil
import subprocess
import tempfile

import buildx
import go
import images
import machine as machines
import matrix
from host import Host, kernel_versions


class Docker(Host):
    """An Engine in a machine with cgroup v2, its files on this machine's disk."""

    # What dockerd is started with beyond its root.
    options = ()
    exe = "/proc/1/exe"

    def build(self):
        self.built, self.filter = images.build()

    def start(self, machine):
        images.bring(machine, self.built)
        self.install(machine)
        self.start_engine(machine)
        machine.run("docker load --quiet --input /data/images.tar", timeout=600, check=True)
        machine.run("rm /data/images.tar", check=True)
        words = {"docker": "docker", "image": images.BUNDLE, "base": images.BASE, "exe": self.exe, "filter": self.filter, "run_healthcheck": ":", "until_now": "--until $(($(date +%s) + 1))"}
        return matrix.Containers(machine, words, start_engine=lambda: self.start_engine(machine))

    def install(self, machine):
        pass

    def start_engine(self, machine):
        machine.start("dockerd", ["dockerd", "--data-root", "/data/docker", *self.options])
        try:
            machine.wait(lambda: machine.run("docker info").code == 0, "answer of dockerd", 60)
        except machines.Trouble as trouble:
            raise machines.Trouble(f"{trouble}: {machine.log('dockerd')[-2000:]}") from None

    def cases(self):
        return matrix.CASES

    def versions(self, world):
        version = world.check("docker version --format '{{.Client.Version}} {{.Server.Version}} {{.Server.APIVersion}}'").split()
        info = world.check("docker info --format '{{.Driver}} {{.CgroupDriver}} {{.CgroupVersion}}'").split()
        runtime = world.check("runc --version | head -n 1")
        return [("CLI", version[0].split("+")[0]), ("Engine", version[1].split("+")[0]), ("API", version[2]), ("storage", info[0]), ("runtime", runtime),
                ("compose", world.run("docker compose version --short").out.strip()), *kernel_versions(world)]


class Docker28(Docker):
    name = "docker28"
    title = "Docker 28"


class Docker29(Docker):
    """The CLI and the Engine, built from the Go module proxy; containerd and runc are Debian's."""

    name = "docker29"
    title = "Docker 29"
    CLI = "v29.9.3+incompatible"
    ENGINE = "v2.0.0-beta.24"

    def build(self):
        super().build()
        self.programs = machines.cached("docker29", [self.CLI, self.ENGINE], self.build_programs)

    def build_programs(self, directory):
        with tempfile.TemporaryDirectory(dir=machines.CACHE) as scratch:
            # Both modules list what they require in a file that only their own build reads.
            cli = pathlib.Path(scratch) / "cli"
            shutil.copytree(go.download(f"github.com/docker/cli@{self.CLI}")["Dir"], cli, ignore=shutil.ignore_patterns("vendor"))
            subprocess.run(["chmod", "-R", "u+w", cli], check=True)
            # The proxy doesn't have the version that this file names.
            go.write_mod(cli / "go.mod", (cli / "vendor.mod").read_text().replace("swarmkit/v2 v2.1.3\n", "swarmkit/v2 v2.0.0\n"))
            version = self.CLI.lstrip("v").split("+")[0]
            go.build(cli, "./cmd/docker", directory / "docker", f"-X github.com/docker/cli/cli/version.Version={version}")
            engine = pathlib.Path(scratch) / "engine"
            engine.mkdir()
            module = "github.com/moby/moby/v2"
            text = pathlib.Path(go.download(f"{module}@{self.ENGINE}")["GoMod"]).read_text()
            go.write_mod(engine / "go.mod", text + f"\nrequire {module} {self.ENGINE}\n", "scratch/moby")
            for program in ("dockerd", "docker-proxy"):
                go.build(engine, f"{module}/cmd/{program}", directory / program)

    def install(self, machine):
        shutil.copytree(self.programs, machine.data / "programs")
        machine.run("install -m 755 /data/programs/* /usr/local/bin/", check=True)

    def versions(self, world):
        # A build from modules doesn't know its version.
        return [(what, self.ENGINE if what == "Engine" else version) for what, version in super().versions(world)]


class Gvisor(Docker):
    """gVisor as the Engine's default runtime."""

    name = "gvisor"
    title = "gVisor"
    # forky's package was built by a newer Go than gVisor supports, and panics.
    SUITE = "bookworm-backports"
    options = ("--config-file", "/run/docker.json")
    # With cgroup v2 it needs controllers that a kernel with both versions has bound to v1.
    cgroup = "v1"
    # It can't execute /proc/1/exe.
    exe = "/sbin/init"
    without = {
        "the kernel enforces every part of the sandboxes": "gVisor has no Landlock",
        "run-as: git-gate can't read pipelock's list": "gVisor has no Landlock",
        "apply by a real-time signal": "gVisor's kill doesn't know real-time signals; apply --daemon works",
        "scripts/demo ends in PASS": "the demo executes /proc/1/exe, which gVisor can't",
        buildx.NAME: "the same Engine as in the column of Docker 28",
    }

    def build(self):
        super().build()
        self.programs = machines.cached("gvisor", [self.SUITE], self.fetch)

    def fetch(self, directory):
        with machines.Machine("gvisor-package", machines.root(self.packages)) as machine:
            machine.run(f"echo 'deb {machines.mirror()} {self.SUITE} main' > /etc/apt/sources.list.d/runsc.list && apt-get update && cd /data"
                        f" && apt-get -o APT::Sandbox::User=root download runsc/{self.SUITE} && dpkg -x runsc_*.deb /data/out", timeout=300, check=True)
            shutil.copy(machine.data / "out/usr/bin/runsc", directory / "runsc")

    def install(self, machine):
        shutil.copy(self.programs / "runsc", machine.data / "runsc")
        # gVisor's own network stack refuses this network namespace, since it takes it for the host's.
        settings = {"default-runtime": "runsc", "runtimes": {"runsc": {"path": "/usr/local/bin/runsc", "runtimeArgs": ["--network=host"]}}}
        machine.run(["bash", "-c", 'install -m 755 /data/runsc /usr/local/bin/runsc && echo "$1" > /run/docker.json', "-", json.dumps(settings)], check=True)

    def versions(self, world):
        runsc = world.check("runsc --version | head -n 1").removeprefix("runsc version ")
        inside = world.check("{docker} run --rm {base} uname -r")
        return [("runsc", runsc), ("its kernel says", inside), *(version for version in super().versions(world) if version[0] != "runtime")]
