"""The cases for container engines, and the bundles that they act on.

`real` is the bundle of this repository with its four daemons, an agent's MCP session that must outlive everything, and a
web server that plays the internet. `toy` has daemons that fail on demand; `f1` to `f3` are a fleet of such bundles.
"""

import json
import re
import shlex
import shutil
import time

import buildx
import machine as machines
import user
from host import Case, World, Wrong

DAEMONS = ("egress", "pipelock", "git-gate", "supervise")

# alpha serves the word in its file. With `dies` it dies, with `unready` it is never ready, and its checker refuses `bad`.
TOY = """grace = "1s"
[[daemon]]
name = "alpha"
command = ["sh", "-c", '''
cd /etc/sidecar/pipelock; [ -e rules ] || printf old > rules
rm -f /tmp/ready; rules=$(cat rules)
[ "$rules" = dies ] && exit 3
printf %s "$rules" > /tmp/serving
[ "$rules" = unready ] || : > /tmp/ready
while :; do sleep 0.05; done
''']
config = { path = "/etc/sidecar/pipelock/rules", check = ["sh", "-c", '[ "$(cat "$0")" != bad ] && [ "$(cat "$0") $PICKY" != "picky yes" ]', "{}"] }
ready = { exec = ["sh", "-c", "test -e /tmp/ready"] }
settle = "100ms"
[[daemon]]
name = "beta"
command = ["sh", "-c", "while :; do sleep 1; done"]
[signals]
USR1 = { restart = "alpha" }
"""

# Answers with the request's Authorization header.
WEB = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"authorization: " + self.headers.get("Authorization", "none").encode())
ThreadingHTTPServer(("127.0.0.1", 8000), Handler).serve_forever()
"""

# Prints what the agent gets through egress and pipelock: the status code and the body.
GET = """
import urllib.error, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": "http://127.0.0.1:9080"}))
try:
    with opener.open("http://web.test:8000/", timeout=20) as answer:
        print(answer.status, answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code)
"""

# One MCP session that lasts to the end of the run. It calls supervise all the time, and ends if a call fails.
AGENT = """
import asyncio
from mcp import Client
async def main():
    async with Client("http://127.0.0.1:9100/mcp", mode="legacy") as client:
        print("open", flush=True)
        while True:
            async with asyncio.timeout(20):
                assert not (await client.call_tool("ping", {})).is_error
            await asyncio.sleep(0.05)
asyncio.run(main())
"""


class Containers(World):
    """The bundles on an engine. Each is started before the first case that needs it."""

    def __init__(self, machine, words, start_engine=None):
        super().__init__(machine, {**words, "dir": "/data/files"})
        self.start_engine = start_engine
        self.before, self.hups = None, 0
        self.began = "0"
        # Which bundles run, and which failed to start.
        self.up, self.failed = set(), set()
        files = machine.data / "files"
        files.mkdir()
        allowlist = (machines.REPOSITORY / "bundle/pipelock/pipelock.yaml").read_text()
        allowlist += '\nssrf:\n  ip_allowlist: ["127.0.0.0/8"]\n'
        texts = {
            "web": allowlist.replace("api.anthropic.com", "web.test"),
            "elsewhere": allowlist.replace("api.anthropic.com", "elsewhere.test"),
            "both": allowlist.replace('"api.anthropic.com"', '"web.test"\n  - "elsewhere.test"'),
            "typo": allowlist.replace("mode: strict", "mod: strict"),
            "routes": 'routes:\n  - host: web.test\n    scheme: http\n    headers:\n      Authorization: "new"\n',
            "daemons.toml": TOY,
            **{word: word for word in ("old", "new", "newer", "bad", "dies", "unready", "picky")},
        }
        for name, text in texts.items():
            (files / name).write_text(text)
        self.copy_repository(machine.data / "copy")
        (files / "clients").mkdir()
        for name, text in (("web.py", WEB), ("get.py", GET), ("agent.py", AGENT)):
            (files / "clients" / name).write_text(text)

    def copy_repository(self, copy):
        """Copies what scripts/demo and compose.yaml need. The images exist already, so the stand-in for lib.sh does nothing."""
        for path in ("compose.yaml", "bundle/egress/routes.yaml", "bundle/pipelock/pipelock.yaml", "scripts/demo", *(f"scripts/demo.d/{program}.py" for program in
                     ("agent", "caller", "outage", "taken_over", "web"))):
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(machines.REPOSITORY / path, copy / path)
        (copy / "scripts/lib.sh").write_text("ensure_engine() { :; }\nensure_images() { :; }\n")
        (copy / "dist").mkdir()
        shutil.copy(machines.REPOSITORY / "dist/sidecar", copy / "dist/sidecar")

    # The hardening that docs/bundle.md recommends.
    HARDENED = "--read-only --cap-drop ALL --security-opt no-new-privileges --tmpfs /tmp"

    def start_real(self):
        if "real" in self.up:
            return
        if "real" in self.failed:
            raise Wrong("the bundle didn't come up before")
        self.failed.add("real")
        self.remove("real", "web", "agent")
        self.check("{docker} run -d --name real " + self.HARDENED + " --add-host web.test:127.0.0.1 -v /etc/sidecar/pipelock"
                   " -v /etc/sidecar/egress -v /var/lib/egress -v /var/lib/git-gate {image}", 180)
        self.wait_ready("real")
        self.client("web", "-d", "web.py")
        self.client("agent", "-d", "agent.py")
        self.machine.wait(lambda: "open" in self.run("{docker} logs agent").said, "MCP session", 300)
        self.check("apply-allowlist --file {dir}/elsewhere real")
        self.up.add("real")
        self.failed.clear()

    def client(self, name, how, program):
        """Runs one of the programs above in the bundle's network namespace."""
        return self.run("{docker} run " + how + (f" --name {name}" if name else "") + " --network container:real -v {dir}/clients:/clients:ro"
                        " --entrypoint /opt/supervise/bin/python {image} -u /clients/" + program, 180)

    def start_toys(self, *names):
        for name in names:
            if name not in self.up:
                picky = "yes" if name == "f1" else "no"
                self.check("{docker} run -d --name " + name + " " + self.HARDENED + " --network none --label fleet=" + ("no" if name == "toy" else "yes")
                           + f" -e PICKY={picky} -e SIDECAR_CONFIG=/table/daemons.toml -v {{dir}}:/table:ro -v /etc/sidecar/pipelock {{image}}", 180)
                self.wait_ready(name)
                self.up.add(name)

    def remove(self, *names):
        for name in names:
            self.run("{docker} rm -f -v " + name)
            self.up.discard(name)

    def wait_ready(self, name, seconds=300):
        self.machine.wait(lambda: self.run("{docker} exec " + name + " {exe} status --ready").code == 0, f"readiness of {name}", seconds)

    def pids(self, name):
        done = self.run("{docker} exec " + name + " {exe} status --json")
        try:
            return {daemon["name"]: daemon["pid"] for daemon in json.loads(done.out)["daemons"]}
        except (ValueError, KeyError):
            raise Wrong(f"no status of {name}: {done.said.strip()[-300:]}") from None

    def content(self, name="real"):
        return self.run("{docker} exec " + name + " cat /etc/sidecar/pipelock/pipelock.yaml /etc/sidecar/egress/routes.yaml").out

    def served(self):
        """What the agent gets from web.test."""
        return self.client("", "--rm", "get.py").out.strip()

    def serving(self, name):
        return self.run("{docker} exec " + name + " cat /tmp/serving").out

    def begin(self, case):
        self.before = (self.pids("real"), self.content()) if "real" in self.up else None

    def end(self, case, done):
        if self.before is None or "real" not in self.up:
            return
        moved = {name for name, pid in self.pids("real").items() if pid != self.before[0].get(name)}
        if moved != case.moves:
            raise Wrong(f"daemons with a new process: {', '.join(sorted(moved)) or 'none'}; expected: {', '.join(sorted(case.moves)) or 'none'}")
        if "true" not in self.run("{docker} inspect --format '{{.State.Running}}' agent").out:
            raise Wrong("the agent's MCP session broke: " + self.run("{docker} logs agent").said.strip()[-300:])


# What is prepared before a case.

def real(world):
    world.start_real()


def toy(world):
    """The toy runs and serves `old`."""
    world.start_toys("toy")
    if world.serving("toy") != "old":
        world.check("apply-allowlist --file {dir}/old toy")


def fleet(world):
    """Only the three bundles of the fleet run, and serve `old`."""
    world.remove("real", "web", "agent", "toy")
    world.start_toys("f1", "f2", "f3")
    world.check("apply-allowlist --file {dir}/old --label fleet=yes")


def container(options, image="{image}", arguments=""):
    """A new container named `other`, in place of the previous one."""
    def made(world):
        world.remove("other")
        world.began = str(int(time.time()) - 1)
        world.check("{docker} run -d --name other " + options + " " + image + " " + arguments, 180)
    return made


def before(command):
    def done(world):
        world.check(command)
    return done


# What must be true afterwards.

def says(*words):
    def check(_, done):
        for word in words:
            if word not in done.said:
                raise Wrong(f"it doesn't say “{word}”")
    return check


def outcome(**wanted):
    """Compares keys of the object that --json prints."""
    def check(_, done):
        try:
            told = json.loads(done.out)
        except ValueError:
            raise Wrong("stdout isn't JSON") from None
        for key, value in wanted.items():
            if told.get(key) != value:
                raise Wrong(f"{key} is {told.get(key)!r} instead of {value!r}")
    return check


def gets(answer):
    """The agent gets this answer from the web server, which the allowlist may or may not name."""
    def check(world, _):
        served = world.served()
        if served != answer:
            raise Wrong(f"the agent gets “{served}” instead of “{answer}”")
    return check


def content_is(file, name="real"):
    def check(world, _):
        wanted = world.run("cat {dir}/" + file).out
        if not world.content(name).startswith(wanted):
            raise Wrong(f"the bundle doesn't have the content of {file}")
    return check


def same_content(world, _):
    if world.content() != world.before[1]:
        raise Wrong("the content has changed")


def serve(word, *names):
    """These toys have that word in their file and serve it, and nothing is left beside the file."""
    def check(world, _):
        for name in names or ("toy",):
            world.wait_ready(name)
            found = (world.serving(name), world.run("{docker} exec " + name + " cat /etc/sidecar/pipelock/rules").out)
            ends = time.monotonic() + 60
            while found != (word, word) and time.monotonic() < ends:
                time.sleep(0.3)
                found = (world.serving(name), world.run("{docker} exec " + name + " cat /etc/sidecar/pipelock/rules").out)
            if found != (word, word):
                raise Wrong(f"{name} serves “{found[0]}” and has “{found[1]}” instead of “{word}”")
            beside = world.run("{docker} exec " + name + " ls -A /etc/sidecar/pipelock").out.split()
            if set(beside) - {"rules", ".rules.sidecar", "pipelock.yaml"}:
                raise Wrong(f"left beside the file of {name}: {beside}")
    return check


def ready(world, _):
    world.wait_ready("real")


def replaced(world, _):
    """pipelock has another process than before the case, and the bundle is ready."""
    old = world.before[0]["pipelock"]
    world.machine.wait(lambda: world.pids("real")["pipelock"] not in (None, old), "a new process of pipelock", 60)
    world.wait_ready("real")


def untouched(world, _):
    """The engine's events show that nothing was executed in the container `other`, and that it got no signal."""
    # By its id, since the previous container had the same name.
    events = world.check("{docker} events {until_now} --since " + world.began + " --filter container=$({docker} inspect --format '{{.Id}}' other) --format '{{.}}'")
    if "start" not in events:
        raise Wrong("the engine's events don't even show its start, so they prove nothing")
    for line in events.splitlines():
        if "exec" in line or "kill" in line:
            raise Wrong(f"the engine's events show: {line[:200]}")


def runs(name, wanted="true"):
    def check(world, _):
        if world.run("{docker} inspect --format '{{.State.Running}}' " + name).out.strip() != wanted:
            raise Wrong(f"State.Running of {name} isn't {wanted}")
    return check


def after(command):
    def check(world, _):
        world.check(command)
    return check


def within(seconds):
    def check(_, done):
        if done.seconds > seconds:
            raise Wrong(f"it took {done.seconds:.1f} s; expected: at most {seconds}")
    return check


def soon(_, done):
    """The apply ended long before its --timeout."""
    seconds = int(re.search(r"ended (\d+) s later", done.out)[1])
    if seconds > 8:
        raise Wrong(f"it ended {seconds} s later")


def hups(world):
    """How many HUPs init has handled."""
    last = json.loads(world.check("{docker} exec real {exe} status --json"))["signals"]["HUP"]["last"]
    return last["seq"] if last else 0


def count_hups(world):
    world.hups = hups(world)


def one_more_hup(world, _):
    world.machine.wait(lambda: hups(world) == world.hups + 1, "signal in the bundle's status", 30)


def nothing_missing(world, done):
    missing = {daemon["name"]: daemon["sandbox"]["missing"] for daemon in json.loads(done.out)["daemons"]}
    if any(missing.values()):
        raise Wrong(f"missing: {missing}")


def all_ready(_, done):
    daemons = {daemon["name"]: daemon.get("ready") for daemon in json.loads(done.out)["daemons"]}
    if daemons != dict.fromkeys(DAEMONS, True):
        raise Wrong(f"ready: {daemons}")


def engine_again(world, _):
    """After the engine was killed: starts another one."""
    world.start_engine()


COMPOSE = """
    cd /data/copy && mkdir -p config/egress config/pipelock
    cp bundle/egress/routes.yaml config/egress/ && cp bundle/pipelock/pipelock.yaml config/pipelock/ && chown -R 1000:1000 config
    export SIDECAR_BUNDLE_IMAGE={image} SIDECAR_AGENT_IMAGE={base}
    docker compose up -d --wait && sed -i s/api.anthropic.com/web.test/ config/pipelock/pipelock.yaml \\
      && apply-allowlist "$(docker compose ps -q bundle)"
    code=$?
    docker compose exec -T bundle {exe} status
    docker compose down -v --timeout 12
    exit $code
"""
DEMO = "cd /data/copy && SIDECAR_BUNDLE_IMAGE={image} SIDECAR_FILTER='{filter}' scripts/demo"


def in_the_middle(action, timeout="15s"):
    """Applies content with which the toy is never ready, runs the action once the toy serves it, and exits with the apply's exit code."""
    return f"""
        set -m
        apply-allowlist --file {{dir}}/unready --timeout {timeout} toy > /tmp/said 2>&1 & apply=$!
        for _ in $(seq 100); do [ "$({{docker}} exec toy cat /tmp/serving)" != unready ] || break; sleep 0.1; done
        began=$SECONDS; {action}
        wait $apply; code=$?; cat /tmp/said; echo "ended $((SECONDS - began)) s later"; exit $code
    """


PIPELOCK = frozenset({"pipelock"})
GIT_GATE = frozenset({"git-gate"})

CASES = [
    # The bundle itself.
    Case("all four daemons are ready", "{docker} exec real {exe} status --ready --json", 0, (all_ready,), (real,)),
    Case("the HEALTHCHECK is healthy",
         "for _ in $(seq 60); do {run_healthcheck}; state=$({docker} inspect --format '{{.State.Health.Status}}' real); [ \"$state\" != healthy ] || break; sleep 1; done; echo $state",
         0, (says("healthy"),), (real,)),
    Case("the kernel enforces every part of the sandboxes", "{docker} exec real {exe} status --json", 0, (nothing_missing,), (real,)),
    Case("run-as: git-gate can't read pipelock's list", "{docker} exec real {exe} run-as git-gate -- cat /etc/sidecar/pipelock/pipelock.yaml", 1,
         (says("Permission denied"),), (real,)),
    # Applies.
    Case("apply-allowlist: live, and the agent reaches the new domain", "apply-allowlist --file {dir}/web real", 0,
         (says("live"), gets("200 authorization: none"), content_is("web")), (real,), moves=PIPELOCK),
    Case("the same content again: unchanged", "apply-allowlist --file {dir}/web real", 0, (says("unchanged"),), (real,)),
    Case("pipelock's own checker refuses a bad file", "apply-allowlist --file {dir}/typo real", 1, (says("checker"), same_content), (real,)),
    Case("--dry-run changes nothing", "apply-allowlist --file {dir}/elsewhere --dry-run --json real", 0, (outcome(outcome="dry-run"), same_content), (real,)),
    Case("apply-egress: the new credential is sent, and no daemon is restarted", "apply-egress --file {dir}/routes real", 0,
         (says("live"), gets("200 authorization: new")), (real,)),
    Case("--json prints one object", "apply-allowlist --file {dir}/elsewhere --json real", 0,
         (outcome(outcome="live", exit=0, daemon="pipelock", siblings_moved=[]), gets("403")), (real,), moves=PIPELOCK),
    Case("without --file, the file in place goes live", "{docker} exec -i real sh -c 'cat > /etc/sidecar/pipelock/pipelock.yaml' < {dir}/web && apply-allowlist real", 0,
         (says("live"), gets("200 authorization: new")), (real,), moves=PIPELOCK),
    Case("apply --daemon restarts git-gate", "apply --daemon git-gate real", 0, (says("live"), ready), (real,), moves=GIT_GATE),
    Case("apply by a real-time signal", "apply --signal RTMIN+1 real", 0, (says("live"), ready), (real,), moves=GIT_GATE),
    Case("--signal-only: init gets the signal", "apply-egress --signal-only real", 0, (one_more_hup,), (real, count_hups)),
    Case("kill -s USR1, without an apply, restarts pipelock", "{docker} kill -s USR1 real", 0, (replaced,), (real,), moves=PIPELOCK),
    Case("two applies at once run one after the other, and both are live",
         "apply-allowlist --file {dir}/elsewhere real & apply-allowlist --file {dir}/both real && wait $!", 0, (says("live"), ready), (real,), moves=PIPELOCK),
    # The applets inside the bundle.
    Case("restart git-gate, from inside", "{docker} exec real {exe} restart git-gate", 0, (says("live"),), (real,), moves=GIT_GATE),
    Case("stop git-gate, from inside: status shows it as stopped", "{docker} exec real {exe} stop git-gate && ! {docker} exec real {exe} status", 0, (says("stopped"),), (real,), moves=GIT_GATE),
    Case("an apply to a stopped daemon is refused", "apply --daemon git-gate real", 1, (says("stopped"),), (real,)),
    Case("start git-gate, from inside", "{docker} exec real {exe} start git-gate", 0, (says("live"), ready), (real,), moves=GIT_GATE),
    Case("signal HUP egress, from inside", "{docker} exec real {exe} signal HUP egress", 0, (), (real,)),
    Case("a daemon that is killed comes back", "{docker} exec real sh -c 'kill -KILL $(pidof pipelock || pidof tinyproxy)'", 0, (replaced,), (real,), moves=PIPELOCK),
    # Containers that don't exist or aren't bundles.
    Case("a container that doesn't exist: exit 3", "apply-allowlist --file {dir}/web nobody", 3),
    Case("an impossible name: exit 2", "apply-allowlist --file {dir}/web 'no body'", 2),
    Case("a CLI that doesn't exist: exit 3", "SIDECAR_DOCKER=/nowhere apply-allowlist --file {dir}/web real", 3, (), (real,)),
    Case("the engine can't be reached: exit 3", "DOCKER_HOST=unix:///nowhere.sock apply-allowlist --file {dir}/web real", 3, (), (real,)),
    Case("a container that isn't a bundle: exit 4, and nothing is executed in it", "apply-allowlist --file {dir}/web other", 4, (untouched,), (container("", "{base}", "sleep 1000"),)),
    Case("--pid host: exit 4, and nothing is executed", "apply-allowlist --file {dir}/web other", 4, (untouched,), (container("--pid host --label sidecar.schema=1", "{base}", "sleep 1000"),)),
    Case("--init: exit 4, and nothing is executed", "apply-allowlist --file {dir}/web other", 4, (untouched,), (container("--init --no-healthcheck"),)),
    Case("a paused bundle: exit 3, and nothing is sent", "{docker} pause real && { apply-allowlist --file {dir}/elsewhere real; code=$?; {docker} unpause real; exit $code; }", 3,
         (says("paused"), same_content), (real,)),
    Case("a stopped bundle: exit 3", "apply-allowlist --file {dir}/new other", 3, (), (container(""), before("{docker} stop -t 12 other"))),
    Case("one of two doesn't exist: exit 3, and the other is live", "apply-allowlist --file {dir}/new nobody toy", 3, (says("live"), serve("new")), (toy,)),
    # Bad content, and trouble in the middle of an apply.
    Case("content that kills the daemon is undone", "apply-allowlist --file {dir}/dies toy", 1, (says("old content is back"), serve("old")), (toy,)),
    Case("content with which the daemon is never ready is undone", "apply-allowlist --file {dir}/unready --timeout 6s toy", 1, (says("old content is back"), serve("old")), (toy,)),
    Case("Ctrl-C in the middle: the change is undone", in_the_middle("kill -INT $apply"), 1, (says("interrupted"), soon, serve("old")), (toy,)),
    Case("the apply is killed in the middle: the change is undone", in_the_middle("kill -KILL $apply"), 137, (serve("old"),), (toy,)),
    Case("the bundle is paused in the middle: exit 3, undone once it is unpaused", in_the_middle("{docker} pause toy"), 3,
         (says("unpaused"), after("{docker} unpause toy"), serve("old")), (toy,)),
    Case("the bundle is killed in the middle: exit 3, undone at its next start", in_the_middle("{docker} kill toy"), 3, (after("{docker} start toy"), serve("old")), (toy,)),
    Case("the bundle is stopped in the middle: the change is undone", in_the_middle("{docker} stop toy"), None, (after("{docker} start toy"), serve("old")), (toy,)),
    # The bundle's end.
    Case("stop ends the bundle in time, with exit code 0", "{docker} stop real > /dev/null && {docker} inspect --format 'code={{.State.ExitCode}}' real", 0,
         (says("code=0\n"), within(9)), (real, lambda world: setattr(world, "up", world.up - {"real"}))),
    # What else the pages offer.
    Case("scripts/demo ends in PASS", DEMO, 0, (says("PASS"),), (lambda world: world.remove("real", "web", "agent"),), within=400),
    Case("compose.yaml: up, healthy, an apply, down", COMPOSE, 0, (says("live"),), (lambda world: world.remove("real", "web", "agent"),), within=300),
    Case(buildx.NAME, shlex.join(user.command(buildx.BUILD)), 0, (says("linux/amd64: sidecar", "linux/arm64: sidecar"),), (buildx.prepare,), within=600),
    # A fleet.
    Case("--label: all three are live", "apply-allowlist --file {dir}/new --label fleet=yes", 0, (says("3"), serve("new", "f1", "f2", "f3")), (fleet,)),
    Case("--all: every running bundle is live", "apply-allowlist --file {dir}/newer --all", 0, (serve("newer", "f1", "f2", "f3"),), (fleet, before("{docker} rm -f other || true"))),
    Case("--canary: if it fails, the others are untouched", "apply-allowlist --file {dir}/picky --canary 1 --label fleet=yes", 1,
         (says("untouched"), serve("old", "f1", "f2", "f3")), (fleet,)),
    Case("--canary: all are live", "apply-allowlist --file {dir}/new --canary 1 --label fleet=yes", 0, (serve("new", "f1", "f2", "f3"),), (fleet,)),
    Case("--rollback-all: one refuses the content, so all go back", "apply-allowlist --file {dir}/picky --rollback-all f3 f2 f1", 1, (serve("old", "f1", "f2", "f3"),), (fleet,)),
    Case("--rollback-all: all are live", "apply-allowlist --file {dir}/new --rollback-all --label fleet=yes", 0, (serve("new", "f1", "f2", "f3"),), (fleet,)),
    # Last, since all containers end with the engine.
    Case("the engine is killed in the middle: nothing is left half done", in_the_middle("pkill -KILL dockerd", "8s"), None,
         (says("toy:"), engine_again, after("{docker} start toy"), serve("old")), (toy,)),
]
