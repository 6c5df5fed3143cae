"""An ordinary user in a machine, with what a login would provide: device nodes, a runtime directory, a delegated cgroup."""

USER = "alice"
HOME = f"/data/{USER}"

# As root in the machine, once. Subordinate ids come with useradd.
MAKE = f"""
set -e
if id {USER} > /dev/null 2>&1; then exit; fi
mount -t tmpfs tmpfs /dev/net
mknod -m 666 /dev/net/tun c 10 200
mknod -m 666 /run/fuse c 10 229
mount --bind /run/fuse /dev/fuse
useradd --create-home --home-dir {HOME} --shell /bin/bash {USER}
install -d -o {USER} -g {USER} -m 700 /run/user/{USER}
mkdir -p /sys/fs/cgroup/{USER}/session
chown {USER}: /sys/fs/cgroup/{USER} /sys/fs/cgroup/{USER}/cgroup.* /sys/fs/cgroup/{USER}/session /sys/fs/cgroup/{USER}/session/cgroup.*
install -d -o {USER} -g {USER} {HOME}/.config {HOME}/.config/containers {HOME}/.config/docker
"""

# As root in the machine: the command, $1, is run as the user.
RUN = f"""
echo 0 > /sys/fs/cgroup/{USER}/session/cgroup.procs
exec setpriv --reuid={USER} --regid={USER} --init-groups env -C {HOME} HOME={HOME} USER={USER} XDG_RUNTIME_DIR=/run/user/{USER} bash -c "$1"
"""


def command(text):
    """The arguments for `Machine.run` and `start`."""
    return ["bash", "-c", RUN, "-", text]
