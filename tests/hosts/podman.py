"""podman 5 as an ordinary user: no daemon, no root, user-mode networking."""

import images
import matrix
import user
from host import Host, fill, kernel_versions

CONFIGURATION = """[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


class UserContainers(matrix.Containers):
    """The same bundles, with all commands run as the user."""

    def run(self, command, timeout=120):
        return self.machine.run(user.command(fill(f"export SIDECAR_DOCKER=podman; {command}", self.words)), timeout=timeout)


class PodmanRootless(Host):
    name = "podman-rootless"
    title = "podman 5 rootless"
    without = {
        "the engine can't be reached: exit 3": "podman has no engine that could be out of reach",
        "the engine is killed in the middle: nothing is left half done": "podman has no engine that could be killed",
        "compose.yaml: up, healthy, an apply, down": "compose needs Docker's socket",
        "scripts/demo ends in PASS": "the demo runs docker",
        "buildx builds the target sidecar for amd64 and arm64 in one go": "buildx is part of Docker",
    }

    def build(self):
        self.built, self.filter = images.build()

    def start(self, machine):
        images.bring(machine, self.built)
        machine.run(user.MAKE, check=True)
        (machine.data / user.USER / ".config/containers/containers.conf").write_text(CONFIGURATION)
        words = {"docker": "podman", "image": images.BUNDLE, "base": images.BASE, "exe": "/proc/1/exe",
                 # podman leaves it to systemd's timers, and there is no systemd here.
                 "run_healthcheck": "podman healthcheck run real", "until_now": "--stream=false"}
        world = UserContainers(machine, words)
        world.check("podman load --quiet --input /data/images.tar", 600)
        machine.run("rm /data/images.tar", check=True)
        return world

    def cases(self):
        return matrix.CASES

    def versions(self, world):
        info = world.check("podman info --format '{{.Version.Version}} {{.Store.GraphDriverName}} {{.Host.CgroupManager}} {{.Host.OCIRuntime.Name}}'").split()
        runtime = world.check(f"{info[3]} --version | head -n 1")
        return [("podman", info[0]), ("storage", info[1]), ("runtime", runtime), *kernel_versions(world)]
