"""podman 5 as an ordinary user: no daemon, no root, user-mode networking."""

import images
import matrix
from host import Host, fill, kernel_versions

USER = "alice"
HOME = f"/data/{USER}"

# As root in the machine: the command is run as the user, in a cgroup that she may divide.
AS_USER = f"""
echo 0 > /sys/fs/cgroup/{USER}/session/cgroup.procs
exec setpriv --reuid={USER} --regid={USER} --init-groups env -C {HOME} HOME={HOME} USER={USER} XDG_RUNTIME_DIR=/run/user/{USER} \\
  SIDECAR_DOCKER=podman bash -c "$1"
"""

# Device nodes that a login's udev rules would open to her; subordinate ids come with useradd.
MAKE_USER = f"""
set -e
mount -t tmpfs tmpfs /dev/net
mknod -m 666 /dev/net/tun c 10 200
mknod -m 666 /run/fuse c 10 229
mount --bind /run/fuse /dev/fuse
useradd --create-home --home-dir {HOME} --shell /bin/bash {USER}
install -d -o {USER} -g {USER} -m 700 /run/user/{USER}
mkdir -p /sys/fs/cgroup/{USER}/session
chown {USER}: /sys/fs/cgroup/{USER} /sys/fs/cgroup/{USER}/cgroup.* /sys/fs/cgroup/{USER}/session /sys/fs/cgroup/{USER}/session/cgroup.*
install -d -o {USER} -g {USER} {HOME}/.config {HOME}/.config/containers
"""

CONFIGURATION = """[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


class UserContainers(matrix.Containers):
    """The same bundles, all commands run as the user."""

    def run(self, command, timeout=120):
        return self.machine.run(["bash", "-c", AS_USER, "-", fill(command, self.words)], timeout=timeout)


class PodmanRootless(Host):
    name = "podman-rootless"
    title = "podman 5 rootless"
    without = {
        "no engine: 3": "podman has no engine that could be away",
        "the engine killed in the middle: nothing half-done": "podman has no engine that could be killed",
        "compose.yaml: up, healthy, an apply, down": "compose is for Docker's socket",
        "scripts/demo ends in PASS": "the demo runs docker",
    }

    def build(self):
        self.built, self.filter = images.build()

    def start(self, machine):
        images.bring(machine, self.built)
        machine.run(MAKE_USER, check=True)
        (machine.data / USER / ".config/containers/containers.conf").write_text(CONFIGURATION)
        words = {"docker": "podman", "image": images.BUNDLE, "base": images.BASE, "exe": "/proc/1/exe", "run_options": "",
                 # There is no systemd here whose timers would run it.
                 "run_healthcheck": "podman healthcheck run real", "events": " --stream=false"}
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
