"""Docker: version 28 of Debian, 29 out of its Go modules, and with gVisor as a runtime."""

import images
import matrix
from host import Host, kernel_versions


class Docker(Host):
    """An Engine in a machine with cgroup v2, its files on this machine's disk."""

    # What dockerd is started with beyond its root.
    options = ()
    # For `docker run`.
    run_options = ""
    exe = "/proc/1/exe"

    def build(self):
        self.built, self.filter = images.build()

    def start(self, machine):
        images.bring(machine, self.built)
        self.install(machine)
        self.start_engine(machine)
        machine.run("docker load --quiet --input /data/images.tar", timeout=600, check=True)
        machine.run("rm /data/images.tar", check=True)
        words = {"docker": "docker", "image": images.BUNDLE, "base": images.BASE, "exe": self.exe, "run_options": self.run_options}
        return matrix.Containers(machine, words, start_engine=lambda: self.start_engine(machine))

    def install(self, machine):
        pass

    def start_engine(self, machine):
        process = machine.start("dockerd", ["dockerd", "--data-root", "/data/docker", *self.options])
        machine.wait(lambda: machine.run("docker info").code == 0, "answer of dockerd", 60)
        return process

    def cases(self):
        return matrix.CASES

    def versions(self, world):
        version = world.check("docker version --format '{{.Client.Version}} {{.Server.Version}} {{.Server.APIVersion}}'").split()
        info = world.check("docker info --format '{{.Driver}} {{.CgroupDriver}} {{.CgroupVersion}}'").split()
        runtime = world.check("runc --version | head -n 1")
        return [("CLI", version[0]), ("Engine", version[1]), ("API", version[2]), ("storage", info[0]), ("runtime", runtime),
                ("compose", world.run("docker compose version --short").out.strip()), *kernel_versions(world)]


class Docker28(Docker):
    name = "docker28"
    title = "Docker 28"
