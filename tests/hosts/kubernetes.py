"""Kubernetes: one node, out of the Go modules of kube-apiserver, controllers, scheduler and kubelet, and of Debian's containerd,
etcd and kubectl. Its cases, the page that is executed among them, are in `pods.py`.
"""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import go
import images
import machine as machines
import pods
from host import Host, kernel_versions

VERSION = "1.36.3"
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet")
NODE = "node1"
ADDRESS = "10.0.2.100"
STATE = "/var/lib/kube"
PAUSE = "docker.io/library/sidecar-hosts-pause:local"
# The certificates: name, subject, other names.
PEOPLE = (
    ("apiserver", "/CN=kube-apiserver", f"DNS:localhost,IP:127.0.0.1,IP:{ADDRESS}"),
    ("apiserver-kubelet", "/O=system:masters/CN=kube-apiserver-kubelet-client", ""),
    ("admin", "/O=system:masters/CN=admin", ""),
    ("controller", "/CN=system:kube-controller-manager", ""),
    ("scheduler", "/CN=system:kube-scheduler", ""),
    ("node", f"/O=system:nodes/CN=system:node:{NODE}", f"DNS:{NODE},IP:{ADDRESS}"),
    ("operator", "/O=people/CN=operator", ""),
    ("reader", "/O=people/CN=reader", ""),
    ("nobody", "/O=people/CN=nobody", ""),
)

CERTIFICATES = """
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 30 -subj /CN=kube-ca
cert() {
  openssl req -newkey rsa:2048 -nodes -keyout $1.key -out $1.csr -subj "$2"
  printf 'keyUsage=digitalSignature,keyEncipherment\\nextendedKeyUsage=serverAuth,clientAuth\\n%s\\n' "${3:+subjectAltName=$3}" > $1.ext
  openssl x509 -req -in $1.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile $1.ext -out $1.crt
}
openssl genrsa -out sa.key 2048
openssl rsa -in sa.key -pubout -out sa.pub
"""

CONTAINERD = f"""version = 3
root = "/data/containerd"
state = "/run/containerd-kube"
[grpc]
address = "/run/containerd/containerd.sock"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{PAUSE}"
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "/etc/cni/net.d"
"""

NETWORK = {"cniVersion": "1.0.0", "name": "pods", "plugins": [
    {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}

KUBELET = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
    "failCgroupV1": False, "cgroupDriver": "cgroupfs", "enforceNodeAllocatable": [], "failSwapOn": False,
    "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
    "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}, "x509": {"clientCAFile": f"{STATE}/ca.crt"}},
    "authorization": {"mode": "Webhook"},
    # /proc/sys and oom_score_adj can't be written from inside a container.
    "featureGates": {"KubeletInUserNamespace": True},
    "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%"},
    "imageGCHighThresholdPercent": 100, "resolvConf": "/etc/resolv.conf",
}

# Starts a program again whenever it ends, as a node's service manager would, but not while the file /run/NAME.away exists.
AGAIN = 'name=$1; shift; while :; do [ -e "/run/$name.away" ] || "$@" || true; sleep 0.5; done'


def modules(text):
    """Turns k8s.io/kubernetes's own go.mod into one for a module that builds its programs. The staging modules come from the proxy,
    where they have versions of their own, not from a directory below."""
    published = "v0." + VERSION.split(".", 1)[1]
    lines = []
    for line in text.splitlines():
        words = line.split()
        if line.startswith("module "):
            line = "module scratch/kubernetes"
        elif words[:1] and words[0].startswith("k8s.io/") and words[1:2] == ["v0.0.0"]:
            line = f"\t{words[0]} {published}"
        elif words[1:2] == ["=>"] and words[2].startswith("./staging/"):
            line = f"\t{words[0]} => {words[0]} {published}"
        lines.append(line)
    return "\n".join([*lines, "", f"require k8s.io/kubernetes v{VERSION}", ""])


def build_programs(directory):
    with tempfile.TemporaryDirectory(dir=machines.CACHE) as scratch:
        own = pathlib.Path(go.download(f"k8s.io/kubernetes@v{VERSION}")["GoMod"]).read_text()
        (pathlib.Path(scratch) / "go.mod").write_text(modules(own))
        package = "k8s.io/component-base/version"
        major, minor, _ = VERSION.split(".")
        for program in PROGRAMS:
            machines.say(f"  building {program}")
            go.build(scratch, f"k8s.io/kubernetes/cmd/{program}", directory / program,
                     f"-X {package}.gitVersion=v{VERSION} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}")


def pause_image(directory, root):
    """Makes the pause image from catatonit, which has a mode for the process that holds a pod's namespaces."""
    shutil.copy(root / "usr/bin/catatonit", directory / "pause")
    tag = PAUSE.removeprefix("docker.io/library/")
    script = f"""tar -C {directory} -c pause | docker import --change 'ENTRYPOINT ["/pause", "-P"]' - {tag} && docker save --output {directory}/pause.tar {tag}"""
    try:
        machines.local(["bash", "-c", script], "docker import")
    finally:
        subprocess.run(["docker", "rmi", tag], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


class Kubernetes(Host):
    name = "kubernetes"
    title = "Kubernetes"

    # The version of cgroups in which this machine has the controllers that kubelet needs, for memory and processes.
    @property
    def cgroup(self):
        return "v1" if any(kind == "cgroup" and path.name == "memory" for path, kind in machines.hierarchies()) else "v2"

    def build(self):
        self.built, self.filter = images.build()
        self.programs = machines.cached("kubernetes", VERSION, build_programs)
        root = machines.root(self.packages)
        self.pause = machines.cached("pause", (root / "usr/bin/catatonit").stat().st_size, lambda directory: pause_image(directory, root))

    def start(self, machine):
        images.bring(machine, self.built)
        (machine.data / "kube").mkdir()
        for program in PROGRAMS:
            os.link(self.programs / program, machine.data / "kube" / program)
        os.link(self.pause / "pause.tar", machine.data / "pause.tar")
        self.certificates(machine)
        self.start_runtime(machine)
        self.start_servers(machine)
        self.start_kubelet(machine)
        return pods.Cluster(machine, {})

    def certificates(self, machine):
        lines = [f"cert {name} '{subject}' '{others}'" for name, subject, others in PEOPLE]
        machine.run(f"mkdir -p {STATE} /root/.kube && cd {STATE} && exec 2> openssl.log && set -e\n{CERTIFICATES}" + "\n".join(lines), check=True)
        users = [name for name, _, _ in PEOPLE]
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "admin",
            "clusters": [{"name": "one", "cluster": {"server": "https://127.0.0.1:6443", "certificate-authority": f"{STATE}/ca.crt"}}],
            "users": [{"name": user, "user": {"client-certificate": f"{STATE}/{user}.crt", "client-key": f"{STATE}/{user}.key"}} for user in users],
            # Two names for this one cluster, since the page has a command for two clusters.
            "contexts": [{"name": name, "context": {"cluster": "one", "user": user}} for name, user in [*((u, u) for u in users), ("east", "admin"), ("west", "admin")]],
        }
        write(machine, "/root/.kube/config", json.dumps(config))
        for user in users:
            write(machine, f"{STATE}/{user}.conf", json.dumps({**config, "current-context": user}))

    def start_again(self, machine, name, command):
        return machine.start(name, ["bash", "-c", AGAIN, "-", name, *command])

    def start_runtime(self, machine):
        write(machine, "/run/containerd.toml", CONTAINERD)
        write(machine, "/etc/cni/net.d/10-pods.conflist", json.dumps(NETWORK))
        machine.start("containerd", ["containerd", "--config", "/run/containerd.toml"])
        machine.wait(lambda: machine.run("ctr version").code == 0, "answer of containerd")
        for archive in ("pause", "images"):
            machine.run(f"ctr -n k8s.io images import /data/{archive}.tar && rm /data/{archive}.tar", timeout=600, check=True)
        for ours, name in ((images.BUNDLE, "sidecar-bundle:local"), (images.BASE, "debian:bookworm-slim")):
            machine.run(f"ctr -n k8s.io images tag docker.io/library/{ours} docker.io/library/{name}", check=True)

    def start_servers(self, machine):
        machine.start("etcd", ["etcd", "--data-dir", "/data/etcd", "--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls",
                               "http://127.0.0.1:2379", "--listen-peer-urls", "http://127.0.0.1:2380", "--unsafe-no-fsync"])
        self.start_again(machine, "kube-apiserver", [
            "/data/kube/kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--service-cluster-ip-range=10.96.0.0/16",
            f"--service-account-key-file={STATE}/sa.pub", f"--service-account-signing-key-file={STATE}/sa.key",
            "--service-account-issuer=https://kubernetes.default.svc", "--authorization-mode=Node,RBAC", f"--client-ca-file={STATE}/ca.crt",
            f"--tls-cert-file={STATE}/apiserver.crt", f"--tls-private-key-file={STATE}/apiserver.key",
            f"--kubelet-client-certificate={STATE}/apiserver-kubelet.crt", f"--kubelet-client-key={STATE}/apiserver-kubelet.key",
            # For exec and logs, the API server couldn't resolve the node's name.
            "--kubelet-preferred-address-types=InternalIP", "--allow-privileged=true", "--enable-admission-plugins=NodeRestriction",
            "--bind-address=127.0.0.1", f"--advertise-address={ADDRESS}"])
        machine.wait(lambda: machine.run("kubectl get --raw /readyz").code == 0, "answer of the API server", 120)
        machine.start("controllers", ["/data/kube/kube-controller-manager", f"--kubeconfig={STATE}/controller.conf",
                                      f"--service-account-private-key-file={STATE}/sa.key", f"--root-ca-file={STATE}/ca.crt",
                                      "--use-service-account-credentials=true", "--leader-elect=false"])
        # Without a service account no pod is admitted. Its presence shows that the controller that makes one works.
        machine.wait(lambda: machine.run("kubectl -n default get serviceaccount default").code == 0, "work of the controllers", 120)
        machine.start("scheduler", ["/data/kube/kube-scheduler", f"--kubeconfig={STATE}/scheduler.conf", "--leader-elect=false"])

    def start_kubelet(self, machine):
        write(machine, "/run/kubelet.yaml", json.dumps(KUBELET))
        self.start_again(machine, "kubelet", ["/data/kube/kubelet", "--config=/run/kubelet.yaml", f"--kubeconfig={STATE}/node.conf", f"--hostname-override={NODE}",
                                              "--root-dir=/data/kubelet", f"--node-ip={ADDRESS}"])
        is_ready = "kubectl get node " + NODE + " -o jsonpath='{.status.conditions[?(@.type==\"Ready\")].status}'"
        machine.wait(lambda: machine.run(is_ready).out == "True", "ready node", 180)

    def cases(self):
        return pods.cases()

    def versions(self, world):
        told = json.loads(world.check("kubectl version --output=json"))
        containerd = world.check("containerd --version").split()[2]
        runc = world.check("runc --version | head -n 1").split()[-1]
        etcd = world.check("etcd --version | head -n 1").split()[-1]
        return [("Kubernetes", told["serverVersion"]["gitVersion"].removeprefix("v")), ("kubectl", told["clientVersion"]["gitVersion"].removeprefix("v")),
                ("containerd", containerd.removesuffix("+unknown")), ("runc", runc), ("etcd", etcd), ("filter", self.filter.split(",")[0]), *kernel_versions(world)]


def write(machine, path, text):
    machine.run(["sh", "-c", 'mkdir -p "$(dirname "$1")" && printf %s "$2" > "$1"', "-", path, text], check=True)
