"""The cases for Kubernetes: docs/kubernetes.md as it is written, then bundles that fail on demand, then a fleet.

`agent-0` and `agent-1` are the page's pods. `toy` has the daemons of the matrix for containers; `fleet` is a Deployment of the page's pod.
"""

import base64
import json
import random
import re
import shlex
import shutil
import time

import machine as machines
import matrix
from host import Case, World, Wrong
from matrix import GIT_GATE, PIPELOCK, all_ready, nothing_missing, outcome, says, within

PAGE = machines.REPOSITORY / "docs" / "kubernetes.md"
FLEET = 20
# The seed of what is chosen at random: which pods of the fleet are deleted, and when.
SEED = 20261128


def blocks():
    """The page's code blocks, in order: (heading, language, text)."""
    heading, found = "", []
    for match in re.finditer(r"(?ms)^#+ (?P<heading>[^\n]+)$|^```(?P<language>\w+)\n(?P<text>.*?)^```$", PAGE.read_text()):
        if match["heading"]:
            heading = match["heading"]
        else:
            found.append((heading, match["language"], match["text"]))
    return found


class Cluster(World):
    """A cluster of one node, and the directory in which the page's commands run."""

    def __init__(self, machine, words):
        super().__init__(machine, {"dir": "/data/files", "page": "/data/page", **words})
        self.before = None
        self.choices = random.Random(SEED)
        page, files = machine.data / "page", machine.data / "files"
        shutil.copytree(machines.REPOSITORY / "bundle", page / "bundle")
        files.mkdir()
        for word in ("old", "new", "newer", "bad", "dies", "unready", "picky"):
            (files / word).write_text(word)
        (files / "daemons.toml").write_text(matrix.TOY)
        self.page, self.files = page, files

    def run(self, command, timeout=120):
        return super().run(f"cd {self.words['page']}\n{command}", timeout)

    def apply(self, *objects):
        """`kubectl apply` of these objects."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        (self.files / "objects.json").write_text(text)
        self.check("kubectl apply --filename={dir}/objects.json")

    def remove(self, *names):
        self.run(f"kubectl -n agents delete pod --ignore-not-found --wait --timeout=120s {' '.join(names)}", 150)

    def inside(self, pod, command, container="bundle"):
        return self.run(f"kubectl -n agents exec {pod} -c {container} -- {command}")

    def wait_ready(self, *pods):
        names = " ".join(f"pod/{pod}" for pod in pods)
        self.check(f"kubectl -n agents wait --for=condition=Ready --timeout=240s {names}", 260)

    def status(self, pod):
        done = self.inside(pod, "/proc/1/exe status --json")
        try:
            return {daemon["name"]: daemon["pid"] for daemon in json.loads(done.out)["daemons"]}
        except (ValueError, KeyError):
            raise Wrong(f"no status of {pod}: {done.said.strip()[-300:]}") from None

    def begin(self, case):
        self.before = None
        if case.moves is not ANY and self.run("kubectl -n agents get pod agent-0").code == 0:
            self.before = self.status("agent-0")

    def end(self, case, done):
        if self.before is None:
            return
        moved = {name for name, pid in self.status("agent-0").items() if pid != self.before[name]}
        if moved != case.moves:
            raise Wrong(f"daemons with a new process in agent-0: {', '.join(sorted(moved)) or 'none'}; expected: {', '.join(sorted(case.moves)) or 'none'}")


# For cases in which the processes of agent-0 don't matter.
ANY = None


# Objects.

HARDENED = {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
POD_SECURITY = {"runAsUser": 1000, "runAsGroup": 1000, "runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def pod(name, *containers, labels=None, namespace="agents", **spec):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": labels or {}},
            "spec": {"automountServiceAccountToken": False, "terminationGracePeriodSeconds": 20, "securityContext": POD_SECURITY, "containers": list(containers), **spec}}


def container(name, image, command=(), **more):
    """Without `command`, the image's own entrypoint runs."""
    return {"name": name, "image": image, "securityContext": HARDENED, **({"command": list(command)} if command else {}), **more}


def stranger(name="other"):
    return container(name, "debian:bookworm-slim", ["sh", "-c", "trap 'exit 0' TERM; sleep infinity & wait"])


def toy_pod(name, command=("/sbin/init",), labels=None, others=(), **environment):
    """A toy's pod. It has no kubelet probes, since the cases check readiness themselves."""
    variables = {"SIDECAR_CONFIG": "/table/daemons.toml", "PICKY": "no", **environment}
    bundle = container("bundle", "sidecar-bundle:local", command, env=[{"name": key, "value": value} for key, value in variables.items()],
                       volumeMounts=[{"name": "table", "mountPath": "/table"}, {"name": "files", "mountPath": "/etc/sidecar/pipelock"}, {"name": "tmp", "mountPath": "/tmp"}])
    volumes = [{"name": "table", "configMap": {"name": "toy"}}, {"name": "files", "emptyDir": {}}, {"name": "tmp", "emptyDir": {"medium": "Memory"}}]
    return pod(name, bundle, *others, labels={"sidecar.schema": "1"} if labels is None else labels, volumes=volumes)


def outlived_toy():
    """The toy as a native sidecar, beside an agent that takes long to end."""
    made_of = toy_pod("toy")
    bundle = made_of["spec"]["containers"].pop()
    made_of["spec"] |= {"initContainers": [{**bundle, "restartPolicy": "Always"}], "containers": [container("agent", "debian:bookworm-slim", SLOW)]}
    return made_of


# What is prepared before a case.

def page_file(text):
    """Writes a block of YAML to the file that its first line names."""
    name = re.match(r"# (\S+)\n", text)[1]
    return lambda world: (world.page / name).write_text(text)


def serving(world, name):
    return world.inside(name, "cat /tmp/serving").out


def made(*objects, ready=()):
    """Makes these pods anew; the previous ones with their names are removed."""
    def do(world):
        world.run("kubectl -n agents create configmap toy --from-file={dir}/daemons.toml")
        world.remove(*(one["metadata"]["name"] for one in objects))
        world.apply(*objects)
        for name in ready:
            world.machine.wait(lambda name=name: world.inside(name, "/proc/1/exe status --ready").code == 0, f"readiness of {name}", 240)
    return do


def toy(world):
    """The toy runs and serves `old`."""
    ends = world.run("kubectl -n agents get pod toy --output='jsonpath={.metadata.deletionTimestamp}'")
    if ends.code != 0 or ends.out or world.inside("toy", "/proc/1/exe status --ready").code != 0:
        made(toy_pod("toy"), ready=["toy"])(world)
    if serving(world, "toy") != "old":
        world.check("apply-allowlist --via kubectl -n agents --file {dir}/old toy")


def new_toy(*others, **more):
    return made(toy_pod("toy", others=others, **more), ready=["toy"])


def before(command):
    def do(world):
        world.check(command)
    return do


# What must be true afterwards.

def serve(word, *names):
    """These toys have that word in their file and serve it."""
    def check(world, _):
        for name in names or ("toy",):
            ends = time.monotonic() + 90
            while True:
                found = (serving(world, name), world.inside(name, "cat /etc/sidecar/pipelock/rules").out)
                if found == (word, word):
                    break
                if time.monotonic() > ends:
                    raise Wrong(f"{name} serves “{found[0]}” and has “{found[1]}” instead of “{word}”")
                time.sleep(0.5)
            beside = world.inside(name, "ls -A /etc/sidecar/pipelock").out.split()
            if set(beside) - {"rules", ".rules.sidecar"}:
                raise Wrong(f"left beside the file of {name}: {beside}")
    return check


def says_not(*words):
    def check(_, done):
        for word in words:
            if word in done.said:
                raise Wrong(f"it says “{word}”")
    return check


def same_file(*names):
    """The page's pods have the content of config/pipelock.yaml."""
    def check(world, _):
        wanted = world.check("sha256sum < config/pipelock.yaml")
        for name in names:
            found = world.inside(name, "cat /etc/sidecar/pipelock/pipelock.yaml")
            if world.check(f"printf %s {shlex.quote(base64.b64encode(found.out.encode()).decode())} | base64 -d | sha256sum") != wanted:
                raise Wrong(f"{name} has another file")
    return check


def is_gone(name):
    def check(world, _):
        world.machine.wait(lambda: world.run(f"kubectl -n agents get pod {name}").code != 0, f"end of the pod {name}", 60)
    return check


def untouched(world, _):
    """Nothing was executed in the pod `other`: only its own processes run there."""
    seen = world.inside("other", "sh -c 'cat /proc/[0-9]*/comm'", "other").out.split()
    if set(seen) - {"sh", "sleep", "cat", "pause"}:
        raise Wrong(f"processes in the container: {seen}")


def in_the_middle(action, timeout="15s", word="unready", pods="toy"):
    """Applies content with which the toy is never ready, runs the action once the toy serves it, and exits with the apply's exit code."""
    return f"""
        set -m
        apply-allowlist --via kubectl -n agents --file {{dir}}/{word} --timeout {timeout} {pods} > /tmp/said 2>&1 & apply=$!
        for _ in $(seq 100); do [ "$(kubectl -n agents exec toy -c bundle -- cat /tmp/serving)" != {word} ] && kill -0 $apply || break; sleep 0.1; done
        {action}
        wait $apply; code=$?; cat /tmp/said; exit $code
    """


API = "kube-apiserver"


def api_back(world, _):
    world.run(f"rm -f /run/{API}.away")
    world.machine.wait(lambda: world.run("kubectl get --raw /readyz").code == 0, "answer of the API server", 120)


# A fleet.

def make_fleet(world):
    """The page's pod as a Deployment. Only two daemons are selected, those that need no Python: two busy cores couldn't start the
    others twenty times within minutes."""
    text = next(text for _, language, text in blocks() if language == "yaml" and "kind: Pod" in text)
    (world.page / "fleet.yaml").write_text(text)
    one = json.loads(world.check("kubectl create --dry-run=client --output=json --filename=fleet.yaml"))
    spec = one["spec"]
    for part in spec["initContainers"]:
        if "startupProbe" in part:
            part["env"] = [{"name": "CLAUDE_BOTTLE_SIDECAR_DAEMONS", "value": "pipelock,git-gate"}]
            part["startupProbe"] |= {"timeoutSeconds": 20, "periodSeconds": 5, "failureThreshold": 120}
            part["readinessProbe"] |= {"timeoutSeconds": 20, "periodSeconds": 60}
    template = {"metadata": {"labels": {"sidecar.schema": "1", "fleet": "yes"}}, "spec": spec}
    world.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "fleet", "namespace": "agents"},
                 "spec": {"replicas": FLEET, "selector": {"matchLabels": {"fleet": "yes"}}, "template": template}})


def fleet(world):
    """Twenty pods, all ready."""
    if world.run("kubectl -n agents get deployment fleet").code != 0:
        world.remove("toy", "other", "agent-0", "agent-1", "agent-cm", "agent-sub")
        make_fleet(world)
    world.check("kubectl -n agents rollout status deployment/fleet --timeout=600s", 620)
    # Wait until the pods that the last case deleted are gone.
    world.machine.wait(lambda: len(world.check("kubectl -n agents get pods -l fleet=yes --output=name").split()) == FLEET, "fleet of twenty", 120)


def files_of(world, names):
    """The sha256 of each of these pods' files."""
    script = "echo {} $(kubectl -n agents exec {} -c bundle -- cat /etc/sidecar/pipelock/pipelock.yaml | sha256sum)"
    told = world.check(f"printf '%s\\n' {' '.join(names)} | xargs -P 4 -I '{{}}' sh -c {shlex.quote(script)}", 240)
    return {line.split()[0]: line.split()[1] for line in told.splitlines()}


def alive(world):
    listed = json.loads(world.check("kubectl -n agents get pods -l fleet=yes --output=json"))["items"]
    return {one["metadata"]["name"]: "deletionTimestamp" in one["metadata"] for one in listed if one["status"]["phase"] == "Running"}


def another_list(world):
    """Writes old.yaml, which all pods have now, and new.yaml, which has one more domain."""
    names = list(alive(world))
    files = files_of(world, names)
    if len(set(files.values())) != 1:
        world.check("apply-allowlist --via kubectl -n agents --file config/pipelock.yaml -l fleet=yes", 300)
    world.check(f"kubectl -n agents exec {names[0]} -c bundle -- cat /etc/sidecar/pipelock/pipelock.yaml > old.yaml")
    number = world.choices.randrange(10**6)
    world.check(f"sed 's/^api_allowlist:/&\\n  - \"host-{number}.test\"/' old.yaml > new.yaml")


def victims(count):
    """Chooses which pods are deleted, and how long after the apply has begun; sets {deletions}."""
    def do(world):
        names = sorted(alive(world))
        chosen = world.choices.sample(names, count)
        pauses = [round(world.choices.uniform(0.2, 2.0), 2) for _ in chosen]
        world.words["deletions"] = ": " + "".join(f"; sleep {pause}; kubectl -n agents delete pod --wait=false {name}" for pause, name in zip(pauses, chosen, strict=True))
        world.words["victims"] = " ".join(chosen)
        world.selected = names
    return do


def fleet_apply(options):
    return f"""
        {{ {{deletions}}; }} > /tmp/deleted 2>&1 & deletions=$!
        apply-allowlist --via kubectl -n agents --file new.yaml --json --timeout 300s --parallel 4 {options} -l fleet=yes > /tmp/told.json; code=$?
        wait $deletions; cat /tmp/told.json; exit $code
    """


def as_told(one_state=False, terminating=0):
    """Each surviving pod has the content that its line says, and the summary agrees with the lines."""
    def check(world, done):
        told = [json.loads(line) for line in done.out.splitlines()]
        lines, summary = told[:-1], told[-1]
        if summary.get("outcome") != "summary":
            raise Wrong(f"the last object isn't a summary: {summary}")
        counted = {}
        for line in lines:
            counted.setdefault(line["outcome"], []).append(line["bundle"])
        if {key: sorted(names) for key, names in counted.items()} != {key: sorted(names) for key, names in summary["summary"].items()}:
            raise Wrong(f"the summary says {summary['summary']}, and the lines {counted}")
        if done.code != max(line["exit"] for line in lines) or summary["exit"] != done.code:
            raise Wrong(f"exit code {done.code}, but {max(line['exit'] for line in lines)} in the lines and {summary['exit']} in the summary")
        if terminating is not None and summary.get("terminating", 0) != terminating:
            raise Wrong(f"terminating: {summary.get('terminating')} instead of {terminating}")
        old, new = (world.check(f"sha256sum < {name}").split()[0] for name in ("old.yaml", "new.yaml"))
        living = [name for name, ends in alive(world).items() if not ends]
        found = files_of(world, [line["bundle"] for line in lines if line["bundle"] in living])
        for line in lines:
            wanted = new if line["outcome"] in ("live", "unchanged") else old
            if found.get(line["bundle"], wanted) != wanted:
                raise Wrong(f"the line says that {line['bundle']} is {line['outcome']}, but it has {'the new' if found[line['bundle']] == new else 'the old'} file: {line}")
        if one_state and len(set(found.values())) != 1:
            raise Wrong("the surviving pods have different files")
        world.tally = {outcome: len(names) for outcome, names in counted.items()}
        machines.say(f"       {', '.join(f'{number} {outcome}' for outcome, number in world.tally.items())}; of the {len(lines)} pods {len(found)} are there at the end")
    return check


def all_are(outcome):
    def check(world, done):
        if set(world.tally) != {outcome}:
            raise Wrong(f"outcomes: {world.tally}")
    return check


AFTER_PAGE = {"An apply": same_file("agent-0", "agent-1"), "An operator's day": same_file("agent-0", "agent-1")}


def is_not(outcome):
    def check(world, _):
        if outcome in world.tally:
            raise Wrong(f"outcomes: {world.tally}")
    return check


def slow_ones(world):
    """Three pods that stay terminating until their slow containers end."""
    names = ["slow-1", "slow-2", "slow-3"]
    labels = {"sidecar.schema": "1", "fleet": "yes"}
    made(*(pod(name, container("bundle", "debian:bookworm-slim", SLOW), labels=labels) for name in names))(world)
    world.wait_ready(*names)
    world.check("kubectl -n agents delete pod --wait=false " + " ".join(names))


def canary(world):
    """The first pod by name, which is the canary, is deleted soon after the apply has begun."""
    victims(0)(world)
    world.words["deletions"] = f"sleep 0.5; kubectl -n agents delete pod --wait=false {min(alive(world))}"


LINK = "sh -c 'cd /etc/sidecar/pipelock && mv pipelock.yaml real && ln -s real pipelock.yaml'"


def odd_one(world):
    """One pod has a link in place of its file."""
    world.odd = world.choices.choice(sorted(alive(world)))
    world.inside(world.odd, LINK)


def replace_odd_one(world, _):
    world.check(f"kubectl -n agents delete pod {world.odd}")


def page_cases():
    """A case for each block of commands on the page. A block of YAML becomes the file that its first line names."""
    cases, files, numbers = [], [], {}
    for heading, language, text in blocks():
        if language == "yaml":
            files.append(page_file(text))
        if language == "sh":
            numbers[heading] = numbers.get(heading, 0) + 1
            then = (AFTER_PAGE[heading],) if heading in AFTER_PAGE else ()
            cases.append(Case(f"kubernetes.md, “{heading}”, commands {numbers[heading]}", "set -euo pipefail\n" + text, 0, then, tuple(files), moves=ANY, within=400))
            files = []
    return cases


# ConfigMaps mounted in the ways that the page advises against.

def mounted(name, mount, volume):
    """The page's pod with another mount in place of its copy of pipelock.yaml."""
    def do(world):
        text = (world.page / "agent.yaml").read_text().replace("name: agent-0", f"name: {name}")
        text = text.replace("        - { name: pipelock, mountPath: /etc/sidecar/pipelock }\n", mount).replace("    - { name: egress, emptyDir: {} }\n", "    - { name: egress, emptyDir: {} }\n" + volume)
        (world.page / f"{name}.yaml").write_text(text)
        world.check(f"kubectl apply --filename={name}.yaml")
        world.wait_ready(name)
    return do


WHOLE = mounted("agent-cm", "        - { name: list, mountPath: /etc/sidecar/pipelock }\n",
                "    - { name: list, configMap: { name: sidecar, items: [{ key: pipelock.yaml, path: pipelock.yaml }] } }\n")
SUBPATH = mounted("agent-sub", "        - { name: seed, mountPath: /etc/sidecar/pipelock/pipelock.yaml, subPath: pipelock.yaml }\n", "")
# Waits until kubelet has updated the mounted file, and prints how long that took.
ARRIVES = """
    sed -i 's/^api_allowlist:/&\\n  - "crates.io"/' config/pipelock.yaml
    kubectl -n agents create configmap sidecar --from-file=config --dry-run=client --output=yaml | kubectl apply --filename=-
    began=$SECONDS wanted=$(sha256sum < config/pipelock.yaml)
    for _ in $(seq 300); do
      [ "$(kubectl -n agents exec agent-cm -c bundle -- cat /etc/sidecar/pipelock/pipelock.yaml | sha256sum)" != "$wanted" ] || break
      sleep 1
    done
    echo "kubelet brought it after $((SECONDS - began)) s"
"""
# The same for the pod whose container never sees the update: waits for the file on the node itself.
SWAPPED = """
    seed=/data/kubelet/pods/$(kubectl -n agents get pod agent-sub --output='jsonpath={.metadata.uid}')/volumes/kubernetes.io~configmap/seed
    for _ in $(seq 300); do ! cmp -s config/pipelock.yaml $seed/pipelock.yaml || break; sleep 1; done
"""


def tell(pattern):
    """Prints the line of the output that has this text."""
    def check(_, done):
        machines.say("       " + next((line for line in done.said.splitlines() if pattern in line), "?"))
    return check


def takes(seconds):
    def check(_, done):
        if done.seconds < seconds:
            raise Wrong(f"it took {done.seconds:.1f} s; expected: at least {seconds}")
    return check


def late(world):
    text = (world.page / "agent.yaml").read_text().replace("name: agent-0", "name: late").replace("Seconds: 30", "Seconds: 10")
    (world.page / "late.yaml").write_text(re.sub(r'command: \["sh", "-c", "trap.*', 'command: ["sleep", "infinity"]', text))
    world.check("kubectl apply --filename=late.yaml")
    world.wait_ready("late")


def differs(name):
    """Its file is not config/pipelock.yaml."""
    def check(world, done):
        try:
            same_file(name)(world, done)
        except Wrong:
            return
        raise Wrong(f"{name} has the new file")
    return check


LISTEN = "sed 's/127.0.0.1:8888/127.0.0.1:8889/' config/pipelock.yaml > elsewhere.yaml && "
VIA = "apply-allowlist --via kubectl -n agents"
KILL_CONTAINER = """ctr -n k8s.io task kill -s KILL "$(kubectl -n agents get pod toy --output='jsonpath={.status.containerStatuses[0].containerID}' | sed s,containerd://,,)" """
# An agent that takes long to end.
SLOW = ["sh", "-c", "trap 'sleep 15; exit 0' TERM; sleep infinity & wait; wait"]


def cases():
    return [
        *page_cases(),
        # The page's pods.
        Case("all four daemons are ready", "kubectl -n agents exec agent-0 -c bundle -- /proc/1/exe status --ready --json", 0, (all_ready,)),
        Case("the kernel enforces every part of the sandboxes", "kubectl -n agents exec agent-0 -c bundle -- /proc/1/exe status --json", 0, (nothing_missing,)),
        Case("run-as: git-gate can't read pipelock's list",
             "kubectl -n agents exec agent-0 -c bundle -- /proc/1/exe run-as git-gate -- cat /etc/sidecar/pipelock/pipelock.yaml", 1, (says("Permission denied"),)),
        Case("the same content again: unchanged", VIA + " --file config/pipelock.yaml agent-0", 0, (says("unchanged"),)),
        Case("pipelock's own checker refuses a bad file", "sed 's/^mode:/mod:/' config/pipelock.yaml > typo.yaml && " + VIA + " --file typo.yaml agent-0", 1,
             (says("checker"), same_file("agent-0"))),
        Case("--dry-run changes nothing", "sed 's/docs.example.com/elsewhere.test/' config/pipelock.yaml > dry.yaml && " + VIA + " --file dry.yaml --dry-run agent-0", 0, (same_file("agent-0"),)),
        Case("content that passes the check, but with which pipelock isn't ready, is undone", LISTEN + VIA + " --file elsewhere.yaml --timeout 5s agent-0", 1,
             (says("old content is back"), same_file("agent-0")), moves=PIPELOCK),
        Case("apply-egress: live, and no daemon is restarted", "sed -i 's/^routes: .*/routes: [{ host: web.test, scheme: http, headers: { Authorization: new } }]/' config/routes.yaml"
             " && apply-egress --via kubectl -n agents --file config/routes.yaml --all", 0, (says("2 live"),)),
        Case("--json prints one object", "sed -i 's/docs.example.com/files.example.com/' config/pipelock.yaml && " + VIA + " --file config/pipelock.yaml --json agent-0", 0,
             (outcome(outcome="live", exit=0, daemon="pipelock", siblings_moved=[]), same_file("agent-0")), moves=PIPELOCK),
        Case("apply --daemon restarts git-gate", "apply --via kubectl -n agents --daemon git-gate agent-0", 0, (says("live"),), moves=GIT_GATE),
        Case("apply by a real-time signal", "apply --via kubectl -n agents --signal RTMIN+1 agent-0", 0, (says("live"),), moves=GIT_GATE),
        Case("--signal-only sends the signal", "apply-egress --via kubectl -n agents --signal-only agent-0", 0, (says("sent"),)),
        Case("exec over SPDY, as older versions of kubectl do", "KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false apply-allowlist --via kubectl -n agents agent-0", 0, (says("live"),), moves=PIPELOCK),
        Case("the page's Role is enough for an operator's day", "apply-allowlist --via kubectl --context operator -n agents --file config/pipelock.yaml --all"
             " && kubectl -n agents create configmap sidecar --from-file=config --dry-run=client --output=yaml | kubectl --context operator apply --filename=-", 0, (says("2 bundles"),), moves=ANY),
        Case("RBAC forbids listing pods: exit 3", VIA + " --context nobody --file config/pipelock.yaml --all", 3, (says("orbidden"),)),
        Case("RBAC forbids getting a pod: exit 3", VIA + " --context nobody --file config/pipelock.yaml agent-0", 3, (says("orbidden"),)),
        Case("RBAC forbids the exec: exit 3, and nothing is sent", "kubectl create clusterrolebinding reader --clusterrole=view --user=reader && "
             + VIA + " --context reader --file config/pipelock.yaml agent-0", 3, (says("orbidden"),)),
        # Other mounts of a ConfigMap.
        Case("a ConfigMap mounted as the directory: --file is refused", VIA + " --file config/pipelock.yaml agent-cm", 1, (says("is a symlink"),), (WHOLE,)),
        Case("a ConfigMap mounted by subPath: --file is refused", VIA + " --file config/pipelock.yaml agent-sub", 1, (says("mount of its own"),), (SUBPATH,)),
        Case("a ConfigMap mounted as the directory: live without --file, once kubelet has updated it", ARRIVES + VIA + " agent-cm", 0,
             (says("live"), tell("kubelet brought"), same_file("agent-cm")), within=400),
        Case("a ConfigMap mounted by subPath: the old file stays, and is refused once kubelet has the new one", SWAPPED + VIA + " agent-sub", 1,
             (says("replaced or removed"), differs("agent-sub")), within=400),
        Case("the page's pod ends well within its grace", "kubectl -n agents delete pod --ignore-not-found agent-sub agent-cm", 0, (within(12),), (WHOLE,)),
        Case("an agent that is only `sleep infinity` uses up the grace, but the bundle still ends by itself",
             "kubectl -n agents logs --follow late -c bundle > /tmp/log & kubectl -n agents delete pod late && wait $!; cat /tmp/log", 0,
             (says("forwarding SIGTERM"), takes(10)), (late,), moves=ANY),
        # Pods that don't exist or aren't bundles.
        Case("a pod that doesn't exist: exit 3", VIA + " --file {dir}/new nobody", 3),
        Case("a namespace that doesn't exist: exit 3", "apply-allowlist --via kubectl -n elsewhere --file {dir}/new agent-0", 3),
        Case("an impossible name: exit 2", VIA + " --file {dir}/new 'no body'", 2),
        Case("the engine can't be reached: exit 3", "KUBECONFIG=/nowhere " + VIA + " --file {dir}/new agent-0", 3),
        Case("a container that isn't a bundle: exit 4, and nothing is executed in it", VIA + " --file {dir}/new other", 4, (untouched,), (made(pod("other", stranger())),)),
        Case("-c names a container that isn't a bundle: exit 4, and nothing is executed", VIA + " -c other --file {dir}/new other", 4, (untouched,),
             (made(toy_pod("other", others=[stranger()])),)),
        Case("-c names a container that doesn't exist: exit 1, and nothing is executed", VIA + " -c nobody --file {dir}/new other", 1, (says("which container"), untouched)),
        Case("two bundles in a pod, without -c: exit 1", VIA + " --file {dir}/new toy", 1, (says("which container"),),
             (new_toy({**toy_pod("x")["spec"]["containers"][0], "name": "second"}),)),
        Case("two bundles in a pod, with -c: live", VIA + " -c bundle --file {dir}/new toy", 0, (says("live"), serve("new"))),
        Case("shareProcessNamespace: exit 4, and nothing is executed", VIA + " --file {dir}/new other", 4, (untouched,),
             (made({**pod("other", stranger(), labels={"sidecar.schema": "1"}), "spec": {**pod("x", stranger())["spec"], "shareProcessNamespace": True}}),)),
        Case("a pod with the label and the image's own entrypoint: live", VIA + " --file {dir}/new toy", 0, (serve("new"),), (new_toy(command=()),)),
        Case("a pod that has ended: exit 3", VIA + " --file {dir}/new other", 3, (),
             (made({**toy_pod("other", command=["/sbin/init", "--config", "/nowhere"]), "spec": {**toy_pod("other", command=["/sbin/init", "--config", "/nowhere"])["spec"],
                                                                                               "restartPolicy": "Never"}}),
              before("kubectl -n agents wait --for=jsonpath='{.status.phase}'=Failed pod/other --timeout=60s"))),
        Case("a terminating pod: exit 3, and nothing is sent", "kubectl -n agents delete pod toy --wait=false && " + VIA + " --file {dir}/new toy", 3, (says("terminating"), serve("old")),
             (made(outlived_toy(), ready=["toy"]), toy)),
        Case("one of two doesn't exist: exit 3, and the other is live", VIA + " --file {dir}/new nobody toy", 3, (says("live"), serve("new")), (lambda world: world.remove("toy"), toy)),
        # Bad content, and trouble in the middle of an apply.
        Case("content that kills the daemon is undone", VIA + " --file {dir}/dies toy", 1, (says("old content is back"), serve("old")), (toy,)),
        Case("content with which the daemon is never ready is undone", VIA + " --file {dir}/unready --timeout 2s toy", 1, (says("old content is back"), serve("old")), (toy,)),
        Case("Ctrl-C in the middle: the change is undone", in_the_middle("kill -INT $apply"), 1, (serve("old"),), (toy,)),
        Case("the apply is killed in the middle: the change is undone", in_the_middle("kill -KILL $apply"), 137, (serve("old"),), (toy,)),
        Case("kubectl is killed in the middle: the change is undone, and the line says so", in_the_middle("kill -KILL $(pgrep -P $apply)"), 1, (says("old content is back"), serve("old")), (toy,)),
        Case("the API server is killed in the middle: the line says what the bundle did", in_the_middle(f"kill -KILL $(pidof {API})"), 1,
             (says("old content is back"), api_back, serve("old")), (toy,)),
        Case("kubelet is killed in the middle: the line says what the bundle did", in_the_middle("kill -KILL $(pidof kubelet)"), 1, (says("old content is back"), serve("old")), (toy,)),
        Case("the API server doesn't come back: exit 5 once the time is up, and the bundle is as it was",
             in_the_middle(f"touch /run/{API}.away; kill -KILL $(pidof {API})", "3s"), 5, (api_back, serve("old")), (toy,)),
        Case("the bundle is killed in the middle: exit 3, undone at its next start", in_the_middle(KILL_CONTAINER), 3, (serve("old"),), (toy,)),
        Case("the pod is deleted in the middle: the change doesn't go live", in_the_middle("kubectl -n agents delete pod toy --wait=false"), None, (says_not("toy: live:"), is_gone("toy")), (toy,)),
        Case("the pod is deleted in the middle, but a slow agent keeps it: the change is undone, and the line says so",
             in_the_middle("kubectl -n agents delete pod toy --wait=false", "4s"), 1, (says("old content is back"),), (made(outlived_toy(), ready=["toy"]), toy)),
        # A fleet.
        Case("twenty pods: all are live", fleet_apply(""), 0, (as_told(), all_are("live")), (fleet, another_list, victims(0)), moves=ANY, within=400),
        Case("twenty pods, and three that are terminating: those are left out, and counted", fleet_apply("--rollback-all"), 0, (as_told(one_state=True, terminating=3), all_are("live")),
             (fleet, another_list, slow_ones, victims(0)), moves=ANY, within=400),
        Case("twenty pods, --rollback-all, one can't be changed: all keep the old file", fleet_apply("--rollback-all"), 1,
             (as_told(one_state=True), is_not("live"), replace_odd_one), (fleet, another_list, odd_one, victims(0)), moves=ANY, within=400),
        Case("twenty pods, --canary 1, the canary is deleted: each surviving pod has the content that its line says", fleet_apply("--canary 1"), None, (as_told(terminating=None),),
             (fleet, another_list, canary), moves=ANY, within=400),
        *(Case(f"twenty pods, five deleted at random, {options or 'no option'}: each surviving pod has the content that its line says ({n})", fleet_apply(options), None,
               (as_told(one_state="rollback" in options, terminating=None),), (fleet, another_list, victims(5)), moves=ANY, within=400)
          for options, rounds in (("", 1), ("--canary 2", 2), ("--rollback-all", 2)) for n in range(1, rounds + 1)),
    ]
