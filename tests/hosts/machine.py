"""A machine of namespaces: mounts, processes, network, names and cgroups of its own, on a root out of Debian's packages.

What is started in it ends with it, whatever becomes of the program that made it. Its root is a layer over the cached one,
its way out is user-mode networking: neither this machine's files nor its network rules are touched.
"""

import fcntl
import hashlib
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / "target" / "hosts"
RUNS = CACHE / "run"
CGROUP = "sidecar-hosts"
SUITE = "forky"

# The packages of Debian forky that all environments need; each environment adds its own.
PACKAGES = """ca-certificates tini iproute2 iptables nftables procps slirp4netns git python3 curl jq psmisc util-linux
    docker.io docker-cli docker-buildx docker-compose containerd runc crun podman kubectl etcd-server containernetworking-plugins
    fuse-overlayfs passt uidmap catatonit conmon dbus dbus-user-session openssl qemu-user""".split()

PATH = "/opt/sidecar/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What PID 1 of the machine does first. $1: the machine's name, $2: the directory of its layers, $3: v1 or v2, $4: the cached root below them.
BEGIN = r"""
set -e
name=$1 layers=$2 cgroup=$3
hostname "$name"
root=$layers/root
mount -t overlay -o "lowerdir=$4,upperdir=$layers/upper,workdir=$layers/work" overlay "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
if [ "$cgroup" = v2 ]; then
  mount -t cgroup2 none "$root/sys/fs/cgroup"
  # Only a cgroup without processes can give controllers to those below it.
  mkdir -p "$root/sys/fs/cgroup/init"
  echo 0 > "$root/sys/fs/cgroup/init/cgroup.procs"
  for controller in $(cat "$root/sys/fs/cgroup/cgroup.controllers"); do
    echo "+$controller" > "$root/sys/fs/cgroup/cgroup.subtree_control" || true
  done
else
  # Read as a whole, before the mounts below appear in it.
  mounts=$(cat /proc/mounts)
  mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
  while read -r _ at kind options _; do
    [ "$kind" = cgroup ] || continue
    mkdir -p "$root/sys/fs/cgroup/${at##*/}"
    own=
    for option in $(echo "$options" | tr , ' '); do
      case $option in rw | ro | nosuid | nodev | noexec | relatime) ;; name=*) own=none,$option ;; *) own=$own${own:+,}$option ;; esac
    done
    mount -t cgroup -o "$own" cgroup "$root/sys/fs/cgroup/${at##*/}"
  done <<< "$mounts"
fi
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mkdir -p "$root/run/lock" "$root/data"
mount --bind "$layers/data" "$root/data"
mkdir -p "$root/.old"
cd "$root"
pivot_root . .old
umount -l /.old
mount --make-rshared /
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
ip link set lo up
sysctl -qw net.ipv4.ip_forward=1 || true
exec tini -s -- sleep infinity
"""


class Trouble(Exception):
    """An environment can't be set up: one sentence that says why."""


class Done:
    """The result of a command."""

    def __init__(self, code, out, err, seconds):
        self.code, self.out, self.err, self.seconds = code, out, err, seconds

    @property
    def said(self):
        return self.out + self.err


def say(text):
    print(text, flush=True)


def local(command, what, log=None, **options):
    """Runs a command on this machine. If it fails, the error has its output."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode != 0:
        raise Trouble(f"{what} failed: {done.stdout[-2000:]}")
    return done.stdout


def cached(name, key, make):
    """The directory target/hosts/NAME, which `make(directory)` fills once for each `key`."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"{name}.lock", "w") as lock:
        # Another run may be making it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _cached(name, key, make)


def _cached(name, key, make):
    directory, stamp = CACHE / name, CACHE / f"{name}.key"
    key = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
    if directory.is_dir() and stamp.is_file() and stamp.read_text() == key:
        return directory
    say(f"making {directory.relative_to(REPOSITORY)}")
    new = CACHE / f"{name}.new"
    for old in (new, directory):
        shutil.rmtree(old, ignore_errors=True)
    stamp.unlink(missing_ok=True)
    new.mkdir(parents=True)
    began = time.monotonic()
    make(new)
    new.rename(directory)
    stamp.write_text(key)
    say(f"made {directory.relative_to(REPOSITORY)} in {time.monotonic() - began:.0f} s")
    return directory


def mirror():
    """Where this machine's apt finds Debian."""
    command = ["bash", "-c", ". scripts/lib.sh; apt_mirror main"]
    found = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    return found or "http://deb.debian.org/debian"


def root(packages=()):
    """The cached root with these packages, besides those that all environments need."""
    wanted = sorted({*PACKAGES, *packages})
    return cached("root", [SUITE, wanted], lambda directory: make_root(directory, wanted))


def make_root(directory, packages):
    # An older debootstrap has no script for this suite.
    script = "/usr/share/debootstrap/scripts/sid"
    local(["debootstrap", "--variant=minbase", "--include=ca-certificates", SUITE, directory, mirror(), script], "debootstrap")
    name_servers(directory)
    for certificate in pathlib.Path("/usr/local/share/ca-certificates").glob("*.crt"):
        shutil.copy(certificate, directory / "usr/local/share/ca-certificates")
    nothing_starts = directory / "usr/sbin/policy-rc.d"
    nothing_starts.write_text("#!/bin/sh\nexit 101\n")
    nothing_starts.chmod(0o755)
    # A mirror may serve a snapshot, whose lists count as expired.
    apt = 'APT::Install-Recommends "false"; Acquire::Check-Valid-Until "false"; Dpkg::Use-Pty "false";\n'
    (directory / "etc/apt/apt.conf.d/90hosts").write_text(apt)
    environment = {"PATH": PATH, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    inside = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "chroot", directory]
    local([*inside, "update-ca-certificates"], "update-ca-certificates", env=environment)
    local([*inside, "apt-get", "update"], "apt-get update", env=environment)
    install = "mount -t proc proc /proc; apt-get install -y " + " ".join(packages)
    # etcd-server starts a unit in its postinst, which fails if no unit can be started; the program is installed all the same.
    done = subprocess.run([*inside, "sh", "-c", install], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    missing = [p for p in packages if not (directory / f"var/lib/dpkg/info/{p}.list").exists() and not list((directory / "var/lib/dpkg/info").glob(f"{p}:*.list"))]
    if missing:
        raise Trouble(f"apt-get didn't install {' '.join(missing)}: {done.stdout[-2000:]}")


def name_servers(directory):
    """This machine's resolver; if that is on loopback, the one that user-mode networking has."""
    text = pathlib.Path("/etc/resolv.conf").read_text()
    if "nameserver 127." in text:
        text = "nameserver 10.0.2.3\n"
    (directory / "etc/resolv.conf").unlink(missing_ok=True)
    (directory / "etc/resolv.conf").write_text(text)


def hierarchies():
    """Where this machine's cgroups are: a list of (directory, version)."""
    rows = [line.split() for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
    return [(pathlib.Path(row[1]), row[2]) for row in rows if row[2] in ("cgroup", "cgroup2")]


class Machine:
    """`with Machine(...) as machine:`; `machine.data` is shown in it as /data."""

    def __init__(self, name, lower, cgroup="v2"):
        self.name, self.lower, self.cgroup = name, lower, cgroup
        self.layers = RUNS / f"{name}-{os.getpid()}"
        self.data = self.layers / "data"
        self.logs = self.layers / "log"
        self.pid = None
        self.processes = []

    def __enter__(self):
        for part in ("root", "upper", "work", "data", "log"):
            (self.layers / part).mkdir(parents=True)
        try:
            self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _begin(self):
        if not any(kind == "cgroup2" for _, kind in hierarchies()):
            raise Trouble("there is no cgroup v2 hierarchy on this machine")
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--fork",
                   "--kill-child=KILL", "--propagation", "private", "bash", "-c", BEGIN, "-", self.name, str(self.layers), self.cgroup, str(self.lower)]
        outer = self._spawn(command, "machine", preexec_fn=self._prepare)
        self.pid = self._wait(lambda: self._first_process(outer), f"the machine {self.name}", outer)
        # The address must be there before any program needs it.
        slirp = ["setpriv", "--pdeathsig", "KILL", "nsenter", "-t", str(self.pid), "--mount", "--", "slirp4netns", "--configure",
                 "--mtu=65520", "--netns-type=path", "/proc/1/ns/net", "tap0"]
        network = self._spawn(slirp, "network")
        self._wait(lambda: "10.0.2.100" in self.run("ip -4 addr show tap0").out, "a way out of the machine", network)

    def _prepare(self):
        """Runs before there is a cgroup namespace: the machine gets a cgroup of its own, so that everything in it can be found at the end."""
        # A shell that runs this in the background makes it ignore Ctrl-C; what is tested here must not inherit that.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        for directory, _ in hierarchies():
            own = directory / CGROUP / self.layers.name
            for made in (own.parent, own):
                made.mkdir(exist_ok=True)
                # No process can join a cpuset whose cpus or mems are empty.
                for part in ("cpuset.cpus", "cpuset.mems"):
                    if (made / part).is_file() and not (made / part).read_text().strip() and (made.parent / part).is_file():
                        (made / part).write_text((made.parent / part).read_text())
            # With v1, each process of the root cgroup would otherwise get as much of a busy CPU as the whole machine.
            if (own.parent / "cpu.shares").is_file():
                (own.parent / "cpu.shares").write_text("20480")
            inner = own / "init" if (own / "init").is_dir() else own
            (inner / "cgroup.procs").write_text("0")

    def _spawn(self, command, log, **options):
        with open(self.logs / log, "ab") as out:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, **options)
        self.processes.append(process)
        return process

    def _first_process(self, outer):
        for child in pathlib.Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split():
            if pathlib.Path(f"/proc/{child}/comm").read_text().strip() == "tini":
                return int(child)
        return None

    def _wait(self, look, what, process=None, seconds=30):
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if process and process.poll() is not None:
                break
            try:
                found = look()
            except OSError:
                found = None
            if found:
                return found
            time.sleep(0.1)
        logs = process and "".join(f"\n{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in sorted(self.logs.iterdir()))
        raise Trouble(f"no {what}{logs or f' within {seconds} s'}")

    def wait(self, look, what, seconds=60):
        """Waits until `look()` is true."""
        return self._wait(look, what, None, seconds)

    def _inside(self, command, environment):
        if isinstance(command, str):
            command = ["bash", "-c", command]
        variables = {"PATH": PATH, "HOME": "/root", "TERM": "dumb", "LANG": "C.UTF-8", **(environment or {})}
        enter = ["nsenter", "-t", str(self.pid), "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--"]
        return [*enter, "env", "-i", *(f"{k}={v}" for k, v in variables.items()), *map(str, command)]

    def run(self, command, timeout=120, environment=None, check=False):
        """Runs a command in the machine to its end; bash runs a string."""
        began = time.monotonic()
        inside = self._inside(command, environment)
        process = subprocess.Popen(inside, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                                   preexec_fn=self._prepare)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            kill(process.pid, os.killpg)
            out, err = process.communicate()
            err += f"\n(killed after {timeout} s)".encode()
        except BaseException:
            kill(process.pid, os.killpg)
            # As a zombie it would keep its cgroup.
            process.communicate()
            raise
        done = Done(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"), time.monotonic() - began)
        if check and done.code != 0:
            shown = command if isinstance(command, str) else shlex.join(map(str, command))
            raise Trouble(f"exit {done.code} of {shown}: {done.said.strip()[-1500:]}")
        return done

    def start(self, log, command, environment=None):
        """Starts a command in the machine, in the background; its output goes to the log of this name."""
        return self._spawn(self._inside(command, environment), log, preexec_fn=self._prepare)

    def log(self, name):
        return (self.logs / name).read_text(errors="replace") if (self.logs / name).is_file() else ""

    def __exit__(self, *_):
        # With the first process the kernel ends all others of the namespace, and with the last one all its mounts.
        if self.pid:
            kill(self.pid)
        for process in reversed(self.processes):
            kill(process.pid)
            process.wait()
        remove_cgroups(self.layers.name)
        remove_tree(self.layers)

    def left_over(self):
        """What is left of the machine: a list of sentences, empty if all is gone."""
        # Its last processes may still be ending.
        for _ in range(50):
            if not left_over(self.layers.name):
                break
            time.sleep(0.2)
        return left_over(self.layers.name)


def kill(pid, how=os.kill):
    try:
        how(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def remove_cgroups(name):
    """Removes them once their processes have ended, the last of which outlives its machine for a moment."""
    for directory, _ in hierarchies():
        own = directory / CGROUP / name
        for _ in range(100):
            for inner in sorted(own.rglob("*/"), key=lambda path: -len(path.parts)):
                if inner.is_dir():
                    remove_directory(inner)
            if not own.is_dir() or remove_directory(own):
                break
            time.sleep(0.1)
        remove_directory(own.parent)


def remove_directory(path):
    try:
        path.rmdir()
    except OSError:
        return False
    return True


def remove_tree(path):
    """Removes a directory, but nothing that is mounted below it. (A file that an engine made immutable isn't expected.)"""
    for _ in range(20):
        subprocess.run(["rm", "-rf", "--one-file-system", path], stderr=subprocess.DEVNULL, check=False)
        if not path.exists():
            return
        time.sleep(0.2)


def left_over(name):
    found = []
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        if f"/{name}" in line:
            found.append(f"mounted: {line.split()[4]}")
    for directory, _ in hierarchies():
        if (directory / CGROUP / name).exists():
            found.append(f"a cgroup: {directory / CGROUP / name}")
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if name in (process / "cmdline").read_text() or f"/{CGROUP}/{name}" in (process / "cgroup").read_text():
                found.append(f"a process: {process.name} ({(process / 'comm').read_text().strip()})")
        except OSError:
            continue
    if (RUNS / name).exists():
        found.append(f"files: {RUNS / name}")
    return found


def sweep():
    """Removes what an earlier run left behind because it was killed."""
    names = {path.name for path in RUNS.glob("*")} if RUNS.is_dir() else set()
    for directory, _ in hierarchies():
        names |= {path.name for path in (directory / CGROUP).glob("*/")}
    for name in names:
        owner = name.rsplit("-", 1)[-1]
        if owner.isdigit() and not pathlib.Path(f"/proc/{owner}").exists():
            remove_cgroups(name)
            remove_tree(RUNS / name)
