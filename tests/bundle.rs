//! The image `bundle` and the host's applets on a real Engine: real containers whose PID 1 is our binary, the four
//! real daemons where a promise is about them. `scripts/test` builds the image and runs this.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and its helpers are tests too")]

mod containers;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use containers::{Container, Dir, Said, binary, docker, image, said, scratch_image, unique, wait_until};
use serde_json::Value;

/// Simple daemons: these tests are about init and the host's applets.
const TABLE: &str = r#"
[[daemon]]
name = "egress"
command = ["sh", "-c", "trap : HUP; while :; do sleep 0.1; done"]
[[daemon]]
name = "pipelock"
command = ["sh", "-c", "test ! -e /etc/sidecar/poison || exit 7; exec sleep 1000"]
[signals]
HUP = { forward = "egress" }
USR1 = { restart = "pipelock" }
"#;

const MCP_CLIENT: &str = r#"
import asyncio, sys
from mcp import Client

async def main():
    async with Client("http://127.0.0.1:9100/mcp", mode="legacy") as client:
        end = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        print("open", flush=True)
        for calls in range(100_000):
            assert not (await client.call_tool("ping", {})).is_error
            if end.done():
                break
            await asyncio.sleep(0.02)
        print("calls", calls + 1)

asyncio.run(main())
"#;

/// A web server on 127.0.0.1:8000 that answers with the request's Authorization, once it listens.
const WEB: &str = r#"
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"authorization: " + self.headers.get("Authorization", "none").encode())

ThreadingHTTPServer(("127.0.0.1", 8000), Handler).serve_forever()
"#;

/// One request through egress and pipelock: the code and the body.
const GET: &str = r#"
import sys, urllib.error, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": "http://127.0.0.1:9080"}))
try:
    with opener.open("http://web.test:8000/", timeout=20) as answer:
        print(answer.status, answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code)
"#;

fn sidecar(arguments: &[&str]) -> Said {
    said(Command::new(binary()).args(arguments))
}

/// An allowlist for pipelock (or tinyproxy in its place) that lets the agent reach `host`.
fn allowlist(host: &str) -> String {
    let text = include_str!("../bundle/pipelock/pipelock.yaml").replace("api.anthropic.com", host);
    assert!(text.contains(host));
    text + "\nssrf:\n  ip_allowlist: [\"127.0.0.0/8\"]\n"
}

fn route(credential: &str) -> String {
    format!("routes:\n  - host: web.test\n    scheme: http\n    headers:\n      Authorization: \"{credential}\"\n")
}

/// The four real daemons, with a web server beside them that plays the internet.
struct Real {
    pipelock: Dir,
    egress: Dir,
    bundle: Container,
    _web: Container,
}

impl Real {
    fn start() -> Self {
        let (pipelock, egress) = (Dir::new(), Dir::new());
        pipelock.write("pipelock.yaml", &allowlist("elsewhere.test"));
        egress.write("routes.yaml", &route("old"));
        let volumes = [pipelock.at("/etc/sidecar/pipelock"), egress.at("/etc/sidecar/egress")];
        let bundle = Container::bundle(&[&volumes[0], &volumes[1]]).ready();
        let network = format!("--network=container:{}", bundle.name);
        let options = [&network, "--no-healthcheck", "--entrypoint=/opt/supervise/bin/python"];
        let web = Container::run(&options, &image(), &["-c", WEB]);
        Self { pipelock, egress, bundle, _web: web }
    }

    fn get(&self) -> String {
        let (code, out, err) = said(&mut self.bundle.client(GET, &[]));
        assert_eq!(code, 0, "{err}");
        out.trim().to_owned()
    }
}

fn others(pids: &[(String, u64)], name: &str) -> Vec<(String, u64)> {
    pids.iter().filter(|(other, _)| other != name).cloned().collect()
}

#[test]
fn exit_0_of_apply_allowlist_means_that_the_new_list_is_enforced() {
    let real = Real::start();
    let before = real.bundle.pids();
    assert_eq!(real.get(), "403");
    real.pipelock.write("pipelock.yaml", &allowlist("web.test"));
    let calls = Dir::new();
    let calls = calls.write("calls", "");
    let mut command = Command::new(binary());
    command.env("SIDECAR_DOCKER", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/docker-counted")).env("CALLS", &calls);
    let (code, out, err) = said(command.args(["apply-allowlist", "--json", &real.bundle.name]));
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert_eq!(fs::read_to_string(calls).unwrap(), "inspect\nexec\nkill\n");
    let object: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&object["outcome"], &object["daemon"]), (&"live".into(), &"pipelock".into()));
    assert_eq!(real.get(), "200 authorization: old");
    let after = real.bundle.pids();
    assert_eq!(others(&after, "pipelock"), others(&before, "pipelock"));
    assert_ne!(after, before);
    assert_eq!(real.bundle.daemon("pipelock")["generation"], 2);
    assert_eq!(object["after"]["pid"], real.bundle.daemon("pipelock")["pid"]);
}

#[test]
fn exit_0_of_apply_egress_means_that_the_new_credential_is_sent() {
    let real = Real::start();
    real.pipelock.write("pipelock.yaml", &allowlist("web.test"));
    assert_eq!(sidecar(&["apply-allowlist", &real.bundle.name]).0, 0);
    let before = real.bundle.pids();
    assert_eq!(real.get(), "200 authorization: old");
    real.egress.write("routes.yaml", &route("new"));
    let (code, out, err) = sidecar(&["apply-egress", &real.bundle.name]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("live: egress took HUP and says that it obeyed: same pid"), "{out}");
    assert_eq!(real.get(), "200 authorization: new");
    real.egress.write("routes.yaml", &(route("hidden") + "    no-such-key: 1\n"));
    let (code, out, err) = sidecar(&["apply-egress", &real.bundle.name]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("refused") && !err.contains("hidden"), "{err}");
    assert_eq!(real.get(), "200 authorization: new");
    assert_eq!(real.bundle.pids(), before);
    assert!(!real.bundle.log().contains("hidden"));
}

#[test]
fn two_hundred_signals_in_a_burst_leave_one_pipelock_and_its_siblings() {
    let bundle = Container::bundle(&[]).ready();
    let before = bundle.pids();
    let mut client = bundle.client(MCP_CLIENT, &[]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "open");
    let burst: Vec<_> = (0..200)
        .map(|_| {
            Command::new("docker").args(["kill", "-s", "USR1", &bundle.name]).stdout(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut kill in burst {
        assert!(kill.wait().unwrap().success());
    }
    let bundle = bundle.ready();
    client.stdin.take().unwrap().write_all(b"end\n").unwrap();
    let calls = lines.next().expect("the session ended").unwrap();
    assert!(client.wait().unwrap().success() && calls.starts_with("calls "), "{calls}");
    let after = bundle.pids();
    assert_eq!(others(&after, "pipelock"), others(&before, "pipelock"));
    assert_ne!(after, before);
    let processes = docker(&["top", &bundle.name, "-eo", "pid,stat,args"]);
    let pipelocks = processes.lines().filter(|line| line.contains("pipelock run") || line.contains("tinyproxy -d"));
    assert_eq!(pipelocks.count(), 1, "{processes}");
    let zombie = |line: &str| line.split_whitespace().nth(1).is_some_and(|state| state.starts_with('Z'));
    assert!(!processes.lines().any(zombie), "{processes}");
}

#[test]
fn a_push_that_brings_a_secret_is_refused_without_a_word_of_it() {
    let bundle = Container::bundle(&["--env=GIT_GATE_REPOSITORIES=work"]).ready();
    let push = |text: &str| {
        let script = "test -d /tmp/clone || git init -q -b main /tmp/clone; cd /tmp/clone; echo \"$1\" >> file; git add file; \
            git -c user.name=a -c user.email=a@b.test commit -qm change; git push -q git://127.0.0.1:9418/work.git main";
        bundle.try_exec(&["sh", "-c", script, "push", text])
    };
    let (code, _, err) = push("hello");
    assert_eq!(code, 0, "{err}");
    // Put together here: nothing that looks like a token lies in this repository.
    let secret = ["gh", "p_", "R7vK2mQ9xT4bN8wZ", "1cL5hJ3fD6sG0yPaEuVi"].concat();
    for text in [format!("token = \"{secret}\""), "innocent, but the secret is in the history".to_owned()] {
        let (code, out, err) = push(&text);
        assert_eq!(code, 1, "{err}");
        assert!(err.contains("github-pat") && !(out + &err).contains(&secret), "{err}");
    }
    assert!(!bundle.log().contains(&secret));
    assert_eq!(bundle.daemon("git-gate")["generation"], 1);
}

const DAEMONS: [&str; 4] = ["egress", "pipelock", "git-gate", "supervise"];

#[test]
fn all_four_daemons_are_sandboxed_and_this_kernel_keeps_every_part_of_it() {
    let bundle = Container::bundle(&[]).ready();
    for name in DAEMONS {
        assert_eq!(bundle.daemon(name)["sandbox"]["missing"], serde_json::json!([]), "{name}");
    }
}

/// Says in which of these directories it could make a file.
const WRITES: &str = "for dir; do (: > \"$dir/written\") 2> /dev/null && echo \"$dir\"; done; exit 0";

#[test]
fn no_two_daemons_may_write_to_the_same_directory() {
    // Its root isn't read-only: what the image leaves open is looked at too.
    let bundle = Container::run(&["--no-healthcheck", "--network=none"], &image(), &[]).ready();
    let find = "find / -path /proc -prune -o -type d -writable -print";
    let all = bundle.try_exec(&["sh", "-c", find]).1;
    let all: Vec<&str> = all.lines().collect();
    assert!(["/tmp", "/var/tmp", "/dev/shm", "/var/lib/egress"].iter().all(|dir| all.contains(dir)), "{all:?}");
    let written = |name: &str| {
        let command = [&["/proc/1/exe", "run-as", name, "--", "sh", "-c", WRITES, "-"], &all[..]].concat();
        let (code, out, err) = bundle.try_exec(&command);
        assert_eq!(code, 0, "{err}");
        out.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let of_each = DAEMONS.map(written);
    let at_all: Vec<&String> = of_each.iter().flatten().collect();
    let different: BTreeSet<&String> = at_all.iter().copied().collect();
    assert_eq!(at_all.len(), different.len(), "{of_each:?}");
    assert!(of_each[0].contains(&"/tmp/egress".to_owned()), "{of_each:?}");
}

/// A hook of the repository's own that says what it can read, as one would that came by a hole in git.
const HOOK: &str = r#"
cd /var/lib/git-gate/work.git && mkdir hooks && git config --file config core.hooksPath hooks && cat > hooks/post-receive <<'END'
#!/bin/sh
for file in /var/lib/egress/mitmproxy-ca.pem /etc/sidecar/egress/routes.yaml /etc/sidecar/pipelock/pipelock.yaml HEAD; do
  if [ -n "$(cat "$file")" ]; then echo "read $file"; fi
done
END
chmod 755 hooks/post-receive
git init -q -b main /tmp/clone && cd /tmp/clone && git -c user.name=a -c user.email=a@b.test commit -qm first --allow-empty
exec git push git://127.0.0.1:9418/work.git main
"#;

#[test]
fn a_program_in_git_gate_reads_no_secret_of_its_siblings() {
    let volumes = ["--volume=/var/lib/git-gate", "--volume=/var/lib/egress", "--env=GIT_GATE_REPOSITORIES=work"];
    let bundle = Container::bundle(&volumes).ready();
    let (code, _, said) = bundle.try_exec(&["sh", "-c", HOOK]);
    assert_eq!((code, said.matches("read ").count(), said.matches("Permission denied").count()), (0, 1, 3), "{said}");
    assert!(said.contains("remote: read HEAD"), "{said}");
}

/// Restarts the daemon that is named first, as often as the second argument says, while eight callers ask it on the port that comes
/// third, each with a connection of its own. Each round ends once the new process has answered. Prints what became of the calls,
/// how long they took, and the longest time without an answer in each round, in ms.
const RESTARTS: &str = r#"
import json, socket, sys, threading, time

name, rounds, port, request = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4].encode().decode("unicode_escape").encode()
stop, lock = threading.Event(), threading.Lock()
counts = {"answered": 0, "refused": 0, "ended": 0, "hung": 0}
took, answers = [], []

def call():
    while not stop.is_set():
        began = time.monotonic()
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                connection.sendall(request)
                what = "answered" if connection.recv(4096) else "ended"
        except ConnectionRefusedError:
            what = "refused"
        except TimeoutError:
            what = "hung"
        except OSError:
            what = "ended"
        now = time.monotonic()
        with lock:
            counts[what] += 1
            if what == "answered":
                took.append(now - began)
                answers.append((began, now))
        time.sleep(0.01)

def daemon():
    while True:
        try:
            with open("/proc/1/fd/100", "rb") as page:
                return next(d for d in json.load(page)["status"]["daemons"] if d["name"] == name)
        except ValueError:
            pass

def parts(values):
    values = sorted(round(1000 * value, 1) for value in values)
    at = lambda part: values[min(len(values) - 1, int(part * len(values)))] if values else None
    return {"median": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": at(1)}

def wait_for_answer(since):
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with lock:
            if answers and answers[-1][0] >= since:
                return
        time.sleep(0.01)
    sys.exit("no answer for two minutes")

callers = [threading.Thread(target=call) for _ in range(8)]
for caller in callers:
    caller.start()
wait_for_answer(0)
gaps = []
for number in range(rounds):
    generation, first = daemon()["generation"], len(answers)
    with open("/proc/1/fd/101", "wb", buffering=0) as requests:
        requests.write(b"\nr%d restart %s\n" % (number, name.encode()))
    while (now := daemon())["generation"] == generation or now["state"] != "running":
        time.sleep(0.01)
    wait_for_answer(time.monotonic())
    with lock:
        ends = sorted(end for _, end in answers[max(0, first - 1):])
        del answers[:-1]
    gaps.append(max(b - a for a, b in zip(ends, ends[1:])))
stop.set()
for caller in callers:
    caller.join()
print(json.dumps(counts | {"rounds": rounds, "call": parts(took), "gap": parts(gaps)}))
"#;

/// What [`RESTARTS`] prints of a bundle with this daemon alone and this table.
fn restarts(name: &str, port: u16, request: &str, table: &str) -> Value {
    // `SIDECAR_ROUNDS` sets how often it is restarted.
    let rounds = std::env::var("SIDECAR_ROUNDS").unwrap_or_else(|_| "3".to_owned());
    let dir = Dir::new();
    dir.write("daemons.toml", table);
    let select = format!("--env=CLAUDE_BOTTLE_SIDECAR_DAEMONS={name}");
    let bundle = Container::bundle(&[&dir.at("/table"), "--env=SIDECAR_CONFIG=/table/daemons.toml", &select]).ready();
    let command = ["/opt/supervise/bin/python", "-c", RESTARTS, name, &rounds, &port.to_string(), request];
    let (code, out, err) = bundle.try_exec(&command);
    assert_eq!(code, 0, "{err}");
    println!("{name}: {out}");
    serde_json::from_str(&out).unwrap()
}

const BUILT_IN: &str = include_str!("../bundle/daemons.toml");
const HEALTH: &str = r"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const LISTEN: &str = "listen = [{ tcp = \"0.0.0.0:9100\" }]\n";

#[test]
fn while_supervise_restarts_under_load_no_connection_is_refused() {
    let seen = restarts("supervise", 9100, HEALTH, BUILT_IN);
    assert_eq!((&seen["refused"], &seen["hung"]), (&0.into(), &0.into()), "{seen}");
}

#[test]
fn without_listen_calls_are_refused_while_supervise_restarts() {
    assert!(BUILT_IN.contains(LISTEN));
    let binds = BUILT_IN.replace(LISTEN, "").replace("bind = []", "bind = [9100]");
    let seen = restarts("supervise", 9100, HEALTH, &binds);
    assert!(seen["refused"].as_u64() > Some(0), "{seen}");
}

#[test]
fn a_variable_is_seen_by_the_daemon_that_it_is_for_alone() {
    let variables = ["EGRESS_TEST", "PIPELOCK_TEST", "GIT_TEST", "PYTHON_TEST", "OTHER_TEST", "TZ"];
    let options = variables.map(|name| format!("--env={name}=x"));
    let bundle = Container::bundle(&options.each_ref().map(String::as_str)).ready();
    let seen = |name: &str| {
        let environment = bundle.try_exec(&["cat", &format!("/proc/{}/environ", bundle.daemon(name)["pid"])]).1;
        let has = |variable: &&str| environment.split('\0').any(|pair| pair == format!("{variable}=x"));
        variables.into_iter().filter(has).collect::<Vec<_>>().join(" ")
    };
    let expected = ["EGRESS_TEST PYTHON_TEST TZ", "PIPELOCK_TEST TZ", "GIT_TEST TZ", "PYTHON_TEST TZ"];
    assert_eq!(DAEMONS.map(seen), expected);
}

/// Asks supervise for the status, and proposes web.test; prints both answers, a line each.
const PROPOSE: &str = r#"
import asyncio, json
from mcp import Client

async def main():
    async with Client("http://127.0.0.1:9100/mcp", mode="legacy") as client:
        for name, arguments in [("status", {}), ("propose_allowlist", {"domains": ["web.test"], "reason": "why"})]:
            result = await client.call_tool(name, arguments)
            print(json.dumps(result.structured_content), flush=True)

asyncio.run(main())
"#;

#[test]
fn supervise_reports_the_status_and_sees_a_proposal_go_live() {
    let real = Real::start();
    let mut client = real.bundle.client(PROPOSE, &[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    let mut next =
        || lines.next().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap()).unwrap_or_default();
    let status = next();
    assert_eq!(status["daemons"].as_array().map(Vec::len), Some(4), "{status}: {}", real.bundle.log());
    assert_eq!(status["daemons"][1]["generation"], 1);
    wait_until("proposal", || real.bundle.log().contains("proposal 1: allow web.test").then_some(()));
    real.pipelock.write("pipelock.yaml", &allowlist("web.test"));
    assert_eq!(sidecar(&["apply-allowlist", &real.bundle.name]).0, 0);
    let answer = next();
    assert_eq!((&answer["outcome"], &answer["generation"]), (&"live".into(), &2.into()), "{answer}");
    assert!(client.wait().unwrap().success());
}

#[test]
fn with_its_volumes_the_bundle_needs_no_tmpfs() {
    let options = [
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--network=none",
        "--no-healthcheck",
        "--env=GIT_GATE_REPOSITORIES=work",
        "--volume=/var/lib/egress",
        "--volume=/var/lib/git-gate",
    ];
    let bundle = Container::run(&options, &image(), &[]).ready();
    let push = "git init -q -b main /dev/shm/clone && cd /dev/shm/clone && git -c user.name=a -c user.email=a@b.test commit -qm first --allow-empty \
                && git push git://127.0.0.1:9418/work.git main";
    let (code, _, said) = bundle.try_exec(&["sh", "-c", push]);
    assert_eq!(code, 0, "{said}");
}

#[test]
fn with_nowhere_to_write_egress_and_git_gate_say_what_to_mount() {
    let bundle = Container::run(&["--read-only", "--network=none", "--no-healthcheck"], &image(), &[]);
    for name in ["egress", "git-gate"] {
        let told = format!(
            "[{name}] neither /var/lib/{name} nor /tmp/{name} is writable: mount a volume at the one, or a tmpfs at /tmp"
        );
        wait_until(&told, || bundle.log().contains(&told).then_some(()));
    }
}

/// In the place of timeout(1): a scan may take 1 s. In the place of gitleaks: one that takes longer.
const HASTY: &str = "#!/bin/sh\nfor word; do shift; [ \"$word\" = 300 ] && word=1; set -- \"$@\" \"$word\"; done; exec /usr/bin/timeout \"$@\"\n";
const SLOW: &str = "#!/bin/sh\nexec sleep 1000\n";

#[test]
fn a_scan_that_takes_too_long_refuses_its_push_and_ends_nothing_else() {
    let dir = Dir::new();
    for (name, text) in [("timeout", HASTY), ("gitleaks", SLOW)] {
        fs::set_permissions(dir.write(name, text), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = "--env=PATH=/hasty:/usr/local/bin:/usr/bin:/bin";
    let bundle = Container::bundle(&[&dir.at("/hasty"), path, "--env=GIT_GATE_REPOSITORIES=work"]).ready();
    let push = "git init -q -b main /tmp/clone && cd /tmp/clone && git -c user.name=a -c user.email=a@b.test commit -qm first --allow-empty \
                && git push git://127.0.0.1:9418/work.git main";
    let (code, _, said) = bundle.try_exec(&["sh", "-c", push]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("could not be scanned (gitleaks: exit 124)"), "{said}");
    assert_eq!(bundle.daemon("git-gate")["generation"], 1, "{}", bundle.log());
}

/// A filter of system calls that doesn't know Landlock, as an old engine's.
const NO_LANDLOCK: &str = r#"{ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
    { "names": ["landlock_create_ruleset"], "action": "SCMP_ACT_ERRNO" } ] }"#;

#[test]
fn without_landlock_the_status_says_what_is_missing() {
    let dir = Dir::new();
    let filter = format!("--security-opt=seccomp={}", dir.write("filter", NO_LANDLOCK).display());
    let bundle = Container::bundle(&[&filter]).ready();
    for name in DAEMONS {
        let sandbox = bundle.daemon(name)["sandbox"].clone();
        assert!(sandbox["missing"].as_array().is_some_and(|all| all.contains(&"files".into())), "{name}: {sandbox}");
    }
    assert!(bundle.log().contains("the kernel can't fully enforce the sandboxes"), "{}", bundle.log());
}

#[test]
fn docker_stop_ends_within_the_longest_grace_and_a_second() {
    let bundle = Container::bundle(&[]).ready();
    // The longest grace is 8 s. The engine kills what takes longer than this, which would be 137.
    docker(&["stop", "--time=9", &bundle.name]);
    let log = bundle.log();
    for name in DAEMONS {
        assert!(log.contains(&format!("forwarding SIGTERM to {name}")), "{log}");
    }
    assert_ne!(bundle.inspect("{{.State.ExitCode}}"), "137");
}

/// Policies, a oneshot that is done and one that failed, a daemon that waits for ever, and one that was stopped.
const IDLE: &str = r#"
restart = "on-failure"
[[daemon]]
name = "migrate"
oneshot = true
command = ["true"]
[[daemon]]
name = "db"
command = ["sleep", "1000"]
depends_on = ["migrate"]
ready = { exec = ["true"] }
[[daemon]]
name = "app"
restart = "always"
command = ["sleep", "1000"]
depends_on = ["db"]
[[daemon]]
name = "fails"
oneshot = true
restart = "no"
command = ["false"]
[[daemon]]
name = "waits"
command = ["sleep", "1000"]
depends_on = ["fails"]
[[daemon]]
name = "stopped"
command = ["sleep", "1000"]
"#;

/// The only test that takes as long as the promise it checks.
#[test]
fn an_idle_pid_1_makes_no_system_call_for_a_minute() {
    let real = Container::bundle(&[]).ready();
    let table = Container::with_table(&Dir::new(), IDLE, &[]);
    for (name, state) in [("migrate", "done"), ("app", "running"), ("fails", "failed"), ("waits", "waiting")] {
        wait_until(name, || (table.daemon(name)["state"] == state).then_some(()));
    }
    assert_eq!(table.try_exec(&["/proc/1/exe", "stop", "stopped"]).0, 0);
    // What the end of the last `docker exec` made init do isn't idleness. No event tells that this is over.
    std::thread::sleep(Duration::from_secs(2));
    std::thread::scope(|scope| {
        for bundle in [&real, &table] {
            scope.spawn(|| {
                let pid = bundle.inspect("{{.State.Pid}}");
                let (_, _, trace) = said(Command::new("timeout").args(["60", "strace", "-qq", "-p", &pid]));
                // The call that it slept in before the minute, and still did after it.
                assert!(trace.ends_with(" <detached ...>\n") && trace.lines().count() <= 2, "{trace}");
                assert_eq!(trace.matches('(').count(), 1, "{trace}");
            });
        }
    });
}

#[test]
fn the_image_becomes_healthy_once_every_daemon_is_ready() {
    let options =
        ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/tmp", "--health-interval=1s"];
    let bundle = Container::run(&options, &image(), &[]);
    wait_until("health", || (bundle.inspect("{{.State.Health.Status}}") == "healthy").then_some(()));
    assert_eq!(bundle.try_exec(&["/proc/1/exe", "status", "--ready"]).0, 0);
    assert_eq!(
        bundle.inspect("{{.Config.StopSignal}} {{index .Config.Labels \"sidecar.schema\"}} {{.Path}}"),
        "SIGTERM 1 /sbin/init"
    );
    assert_ne!(bundle.try_exec(&["id", "-u"]).1.trim(), "0");
    let owned = bundle.try_exec(&[
        "sh",
        "-c",
        "test -w /etc/sidecar/pipelock || stat -c %U /etc/sidecar/pipelock /etc/sidecar/egress",
    ]);
    assert_eq!(owned.1, "sidecar\nsidecar\n");
}

/// The image holds only the binary; busybox is mounted so that there is something to run as daemons.
#[test]
fn init_works_from_scratch_with_a_read_only_root_as_any_user() {
    let dir = Dir::new();
    let table = TABLE
        .replace(r#"["sh","#, r#"["/busybox", "sh","#)
        .replace("sleep", "/busybox sleep")
        .replace("test !", "/busybox test !");
    dir.write("daemons.toml", &table);
    let volume = dir.at("/etc/sidecar");
    let options = [
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--network=none",
        "--user=4711:4711",
        "--volume=/bin/busybox:/busybox:ro",
    ];
    let bundle = Container::run(&[&options[..], &[volume.as_str()]].concat(), &scratch_image(), &["init"]).ready();
    let egress = bundle.daemon("egress");
    for applet in ["apply-allowlist", "apply-egress"] {
        let (code, out, err) = sidecar(&[applet, &bundle.name]);
        assert_eq!(code, 0, "{out}{err}");
    }
    assert_eq!(bundle.daemon("pipelock")["generation"], 2);
    assert_eq!(bundle.daemon("egress")["pid"], egress["pid"]);
    docker(&["stop", &bundle.name]);
    assert_eq!(bundle.inspect("{{.State.ExitCode}}"), "143");
}

#[test]
fn a_shell_as_pid_1_gets_neither_a_signal_nor_an_exec() {
    let trap = "trap 'exit 9' USR1; while :; do sleep 0.1; done";
    let stranger =
        Container::run(&["--entrypoint=sh", "--label=sidecar.schema=", "--no-healthcheck"], &image(), &["-c", trap]);
    for applet in ["apply-allowlist", "apply-egress"] {
        let (code, out, err) = sidecar(&[applet, &stranger.name]);
        assert_eq!((code, out.as_str()), (4, ""));
        assert!(err.starts_with(&stranger.name) && err.contains("nothing was executed or sent"), "{err}");
    }
    assert!(stranger.is_running() && stranger.was_left_alone(), "{:?}", stranger.events());
}

#[test]
fn a_stranger_that_inherits_the_images_label_gets_no_signal() {
    let trap = "trap 'exit 9' USR1; while :; do sleep 0.1; done";
    let stranger = Container::run(&["--entrypoint=sh", "--no-healthcheck"], &image(), &["-c", trap]);
    let (code, out, err) = sidecar(&["apply-allowlist", &stranger.name]);
    assert_eq!((code, out.as_str()), (4, ""), "{err}");
    assert!(stranger.is_running() && !stranger.events().iter().any(|action| action == "kill"));
}

#[test]
fn dockers_own_init_as_pid_1_is_reported_and_gets_nothing() {
    let bundle = Container::with_table(&Dir::new(), TABLE, &["--init"]);
    let (code, _, err) = sidecar(&["apply-allowlist", &bundle.name]);
    assert_eq!(code, 4);
    assert!(err.contains("--init") && err.contains("start it without"), "{err}");
    assert!(bundle.is_running() && bundle.was_left_alone());
}

#[test]
fn a_bundle_in_the_pid_namespace_of_another_gets_nothing() {
    let dir = Dir::new();
    let first = Container::with_table(&dir, TABLE, &[]);
    let second = Container::with_table(&dir, TABLE, &[&format!("--pid=container:{}", first.name)]);
    let (code, _, err) = sidecar(&["apply-allowlist", &second.name]);
    assert_eq!(code, 4, "{err}");
    assert!(second.was_left_alone() && first.was_left_alone());
}

#[test]
fn a_bundle_that_is_not_running_is_exit_3_and_a_paused_one_stays_paused() {
    let dir = Dir::new();
    let (stopped, paused) = (Container::with_table(&dir, TABLE, &[]), Container::with_table(&dir, TABLE, &[]));
    docker(&["stop", &stopped.name]);
    docker(&["pause", &paused.name]);
    let killed = stopped.events().len();
    let missing = unique("missing");
    for (name, word) in [(&stopped.name, "not running"), (&paused.name, "paused"), (&missing, "no such container")] {
        let (code, out, err) = sidecar(&["apply-allowlist", name]);
        assert_eq!((code, out.as_str(), err.lines().count()), (3, "", 1), "{err}");
        assert!(err.starts_with(name.as_str()) && err.contains(word) && err.contains("nothing was sent"), "{err}");
    }
    assert_eq!(stopped.events().len(), killed);
    assert_eq!(paused.inspect("{{.State.Status}}"), "paused");
    assert!(paused.was_left_alone());
    docker(&["unpause", &paused.name]);
}

#[test]
fn without_an_engine_behind_the_cli_it_is_exit_3() {
    let mut command = Command::new(binary());
    let (code, out, err) = said(command.env("DOCKER_HOST", "unix:///nowhere.sock").args(["apply-allowlist", "b1"]));
    assert_eq!((code, out.as_str(), err.lines().count()), (3, "", 1), "{err}");
    assert!(err.starts_with("b1: docker inspect failed: ") && err.contains("nothing was sent"), "{err}");
}

#[test]
fn a_signal_that_would_reach_no_daemon_is_not_sent() {
    let bundle = Container::with_table(&Dir::new(), TABLE, &["--env=CLAUDE_BOTTLE_SIDECAR_DAEMONS=egress"]).ready();
    for (arguments, word) in [(&["apply-allowlist"][..], "not selected"), (&["apply", "--signal=USR2"], "has no rule")]
    {
        let (code, _, err) = sidecar(&[arguments, &[bundle.name.as_str()]].concat());
        assert_eq!(code, 1);
        assert!(err.contains("refused") && err.contains(word) && err.contains("nothing was sent"), "{err}");
    }
    assert!(!bundle.events().iter().any(|action| action == "kill"));
    assert_eq!(bundle.status()["signals"]["USR1"]["last"], Value::Null);
}

#[test]
fn a_daemon_that_exits_at_once_on_its_new_start_is_exit_1() {
    let dir = Dir::new();
    let bundle = Container::with_table(&dir, TABLE, &[]).ready();
    let egress = bundle.daemon("egress");
    dir.write("poison", "");
    let (code, out, err) = sidecar(&["apply-allowlist", &bundle.name]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(
        err.contains("pipelock exited with code 7; its siblings run on; it stays down unless its restart policy"),
        "{err}"
    );
    assert_eq!(bundle.daemon("egress")["pid"], egress["pid"]);
    assert_eq!(bundle.daemon("pipelock")["state"], "exited");
    assert_eq!(bundle.try_exec(&["/proc/1/exe", "status"]).0, 1);
}

#[test]
fn a_mitmdump_without_a_handler_is_not_killed_by_the_signal() {
    let dir = Dir::new();
    let command = r#"["/opt/egress/bin/mitmdump", "--listen-port=9080", "--set=confdir=/tmp/egress"]"#;
    let bare = r#"["sh", "-c", "trap : HUP; while :; do sleep 0.1; done"]"#;
    let table = TABLE.replace(bare, command);
    assert_ne!(table, TABLE);
    let bundle = Container::with_table(&dir, &table, &[]);
    wait_until("port", || bundle.log().contains("listening").then_some(()));
    let pid = bundle.daemon("egress")["pid"].clone();
    let (code, out, err) = sidecar(&["apply-egress", "--timeout=1s", &bundle.name]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(
        err.contains("not proven") && err.contains("HUP is still held") && err.contains("may still take effect"),
        "{err}"
    );
    assert_eq!(bundle.daemon("egress")["pid"], pid);
    assert_eq!(bundle.status()["signals"]["HUP"]["last"]["outcome"], "held");
}

#[test]
fn a_bundle_that_is_stopping_gets_no_further_signal() {
    let table = TABLE.replace("trap : HUP", "trap : HUP TERM");
    let bundle = Container::with_table(&Dir::new(), &table, &[]).ready();
    bundle.kill("TERM");
    wait_until("stopping", || (bundle.status()["state"] == "stopping").then_some(()));
    let (code, _, err) = sidecar(&["apply-allowlist", &bundle.name]);
    assert_eq!(code, 1);
    assert!(err.contains("the bundle is stopping; nothing was sent"), "{err}");
    assert_eq!(bundle.events().iter().filter(|action| *action == "kill").count(), 1);
}

#[test]
fn several_bundles_are_served_side_by_side_with_the_highest_exit_code() {
    let dir = Dir::new();
    let bundles: Vec<Container> = (0..3).map(|_| Container::with_table(&dir, TABLE, &[])).collect();
    let bundles: Vec<Container> = bundles.into_iter().map(Container::ready).collect();
    let missing = unique("missing");
    let names: BTreeSet<&str> = bundles.iter().map(|bundle| bundle.name.as_str()).collect();
    let mut arguments = vec!["apply-egress", &missing];
    arguments.extend(&names);
    arguments.extend(&names);
    let (code, out, err) = sidecar(&arguments);
    assert_eq!((code, out.lines().count(), err.lines().count()), (3, 3, 2), "{out}{err}");
    assert!(err.contains("apply-egress: 4 bundles: 3 delivered ("), "{err}");
    assert!(err.contains(&format!("; 1 unreachable ({missing}); ")), "{err}");
    let told: BTreeSet<&str> = out.lines().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(told, names);
    // These daemons have no `notify`, so all that can be known is that they got the signal.
    assert!(out.lines().all(|line| line.contains(": delivered: egress took HUP and stays up")), "{out}");
}

#[test]
fn every_signal_that_a_table_may_wire_can_be_sent() {
    let names: Vec<String> =
        (0..=30).map(|n| format!("RTMIN+{n}")).chain(["USR2", "WINCH"].map(str::to_owned)).collect();
    let rules: Vec<_> = names.iter().map(|name| format!("\"{name}\" = {{ restart = \"pipelock\" }}\n")).collect();
    let bundle = Container::with_table(&Dir::new(), &(TABLE.to_owned() + &rules.concat()), &[]).ready();
    for name in &names {
        let (code, _, err) = sidecar(&["apply", "--signal", name, "--signal-only", &bundle.name]);
        assert_eq!(code, 0, "{err}");
        wait_until(name, || (bundle.status()["signals"][name]["last"]["seq"] == 1).then_some(()));
    }
}

#[test]
fn signal_only_sends_and_looks_no_further() {
    let bundle = Container::with_table(&Dir::new(), TABLE, &[]).ready();
    let (code, out, err) = sidecar(&["apply-allowlist", "--signal-only", &bundle.name]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with(&format!("{}: sent: ", bundle.name)), "{out}");
    wait_until("restart", || (bundle.daemon("pipelock")["generation"] == 2).then_some(()));
}

#[test]
fn the_default_seccomp_profile_of_docker_and_no_capability_suffice() {
    let bundle = Container::bundle(&[]).ready();
    let security = said(Command::new("docker").args(["info", "--format", "{{.SecurityOptions}}"])).1;
    assert!(security.contains("name=seccomp,profile=default"), "{security}");
    let status = bundle.try_exec(&["cat", "/proc/1/status"]).1;
    let has = |line: &str| status.lines().any(|l| l.split_whitespace().collect::<Vec<_>>().join(" ") == line);
    for line in ["Seccomp: 2", "NoNewPrivs: 1", "CapEff: 0000000000000000", "CapBnd: 0000000000000000"] {
        assert!(has(line), "{line}: {status}");
    }
    for applet in ["apply-allowlist", "apply-egress"] {
        let (code, out, err) = sidecar(&[applet, &bundle.name]);
        assert_eq!(code, 0, "{out}{err}");
    }
    // What the profile refuses, init would log.
    let log = bundle.log();
    assert!(!log.contains("no status page") && !log.contains("not permitted"), "{log}");
}

/// Each of its processes makes another one every 20 ms, as long as there is room.
const BOMB: &str = r#"
[[daemon]]
name = "bomb"
grace = "1s"
command = ["/opt/supervise/bin/python", "-c", '''
import os, time
while os.path.exists("/etc/sidecar/lit"):
    try: os.fork()
    except OSError: pass
    time.sleep(0.02)
while True: time.sleep(1)
''']
[[daemon]]
name = "calm"
command = ["sh", "-c", "trap : HUP; while :; do sleep 1000 & wait; done"]
[[daemon]]
name = "idle"
command = ["sh", "-c", "test ! -e /etc/sidecar/lit || exit 0; exec sleep 1000"]
[signals]
USR1 = { restart = "bomb" }
USR2 = { restart = "idle" }
HUP = { forward = "calm" }
"#;

#[test]
fn a_fork_bomb_in_a_daemon_ends_with_its_restart() {
    let dir = Dir::new();
    dir.write("lit", "");
    let bundle = Container::with_table(&dir, BOMB, &["--pids-limit=60"]);
    let processes = || docker(&["top", &bundle.name]).lines().count() - 1;
    wait_until("explosion", || (processes() >= 60).then_some(()));
    let logged = |words: &str| bundle.log().contains(words);
    // There is no room for another process: init logs that and continues.
    bundle.kill("USR2");
    wait_until("failure that is told", || logged("cannot start idle").then_some(()));
    assert!(logged("cannot fork") && bundle.is_running(), "{}", bundle.log());
    fs::remove_file(dir.path().join("lit")).unwrap();
    bundle.kill("USR1");
    wait_until("end of the bomb", || (processes() <= 5).then_some(()));
    bundle.kill("USR2");
    wait_until("replacement", || (bundle.daemon("idle")["state"] == "running").then_some(()));
    let status = bundle.status();
    assert_eq!(bundle.daemon("calm")["generation"], 1, "{status}");
    assert_eq!(bundle.daemon("bomb")["generation"], 2, "{status}");
    let zombies =
        bundle.try_exec(&["sh", "-c", "cat /proc/[0-9]*/stat"]).1.lines().filter(|l| l.contains(") Z ")).count();
    assert_eq!(zombies, 0);
}

/// The hook refuses so many branches at once, and has a test of its own: here it is left out.
const NO_HOOK: [&str; 3] =
    ["--env=GIT_CONFIG_COUNT=1", "--env=GIT_CONFIG_KEY_0=core.hooksPath", "--env=GIT_CONFIG_VALUE_0=/nowhere"];

/// Pushes 3,000 branches, each with a commit that it didn't have.
const PUSH: &str = r#"
set -e; export HOME=/tmp GIT_CONFIG_NOSYSTEM=1; git="git -c user.name=a -c user.email=a@b.test"
if [ ! -d /tmp/clone ]; then
  git init -q -b main /tmp/clone; cd /tmp/clone; $git commit -qm first --allow-empty
  for n in $(seq 3000); do echo "create refs/heads/b$n HEAD"; done | git update-ref --stdin
fi
cd /tmp/clone; commit=$($git commit-tree -m "$(date +%N)" -p HEAD 'HEAD^{tree}')
git for-each-ref --format="update %(refname) $commit" 'refs/heads/b*' | git update-ref --stdin
touch /tmp/begun; exec git push -q --force git://127.0.0.1:9418/work.git 'refs/heads/b*:refs/heads/b*'
"#;

/// The same, but does $2 to git-gate once $0 of them have been taken.
const INTERRUPTED: &str = r#"
touch /tmp/begun; sh -c "$1" > /tmp/said 2>&1 & push=$!
while kill -0 $push 2> /dev/null && [ "$(find /var/lib/git-gate/work.git/refs -type f -newer /tmp/begun | wc -l)" -le "$0" ]; do :; done
sh -c "$2"; done=$?; wait $push || :; exit $done
"#;

/// What starts git-gate anew. Each counts as one restart.
const ANEW: [&str; 3] =
    ["kill -RTMIN+1 1", "/proc/1/exe restart git-gate", "/proc/1/exe stop git-gate && /proc/1/exe start git-gate"];

/// `SIDECAR_ROUNDS` sets how often a push is interrupted, each time after some more of its branches.
#[test]
fn a_push_of_3000_branches_that_is_interrupted_leaves_no_lock() {
    let rounds: usize = std::env::var("SIDECAR_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(6);
    let options = ["--env=GIT_GATE_REPOSITORIES=work", "--volume=/var/lib/git-gate"];
    let bundle = Container::bundle(&[&options[..], &NO_HOOK].concat()).ready();
    let locks = || bundle.try_exec(&["find", "/var/lib/git-gate/work.git", "-name", "*.lock"]).1;
    let next_is_taken = |what: &str| {
        assert_eq!(locks(), "", "{what}: {}", bundle.log());
        let (code, _, err) = bundle.try_exec(&["sh", "-c", PUSH]);
        assert_eq!(code, 0, "{what}: {err}");
    };
    for round in 0..rounds {
        let (branches, anew) = ((1 + round * 2800 / rounds).to_string(), ANEW[round % ANEW.len()]);
        let restarts = bundle.daemon("git-gate")["restarts"].as_u64().unwrap();
        let (code, out, err) = bundle.try_exec(&["sh", "-c", INTERRUPTED, &branches, PUSH, anew]);
        assert_eq!(code, 0, "{anew}: {out}{err}");
        wait_until("restart", || (bundle.daemon("git-gate")["restarts"] == restarts + 1).then_some(()));
        wait_until("readiness", || (bundle.try_exec(&["/proc/1/exe", "status", "--ready"]).0 == 0).then_some(()));
        let ended = bundle.try_exec(&["sh", "-c", "test -s /tmp/said && tail -n 1 /tmp/said || echo the push ended"]).1;
        println!("round {round}: {anew} after {branches} branches: {}", ended.trim());
        next_is_taken(&format!("{anew} after {branches} branches"));
    }
    // KILL leaves git no time at all: what it left behind is removed at the next start.
    for end in [["stop", "--time=30"], ["kill", "--signal=KILL"]] {
        bundle.try_exec(&["touch", "/tmp/begun"]);
        let mut push = Command::new("docker");
        let mut push = push.args(["exec", &bundle.name, "sh", "-c", PUSH]).stderr(Stdio::null()).spawn().unwrap();
        let taken = ["sh", "-c", "find /var/lib/git-gate/work.git/refs -type f -newer /tmp/begun | grep -q ."];
        wait_until("first branch", || (bundle.try_exec(&taken).0 == 0).then_some(()));
        docker(&[end[0], end[1], &bundle.name]);
        push.wait().unwrap();
        docker(&["start", &bundle.name]);
        wait_until("readiness", || (bundle.try_exec(&["/proc/1/exe", "status", "--ready"]).0 == 0).then_some(()));
        next_is_taken(end[0]);
    }
}

#[test]
fn what_a_killed_push_left_behind_is_gone_after_a_restart_of_git_gate() {
    let bundle = Container::bundle(&["--env=GIT_GATE_REPOSITORIES=work", "--volume=/var/lib/git-gate"]).ready();
    let left = "cd /var/lib/git-gate/work.git; mkdir objects/tmp_objdir-incoming-x; touch refs/heads/main.lock packed-refs.lock";
    assert_eq!(bundle.try_exec(&["sh", "-c", left]).0, 0);
    assert_eq!(sidecar(&["apply", "--signal=RTMIN+1", &bundle.name]).0, 0);
    let find = ["find", "/var/lib/git-gate/work.git", "-name", "*.lock", "-o", "-name", "tmp_objdir*"];
    assert_eq!(bundle.try_exec(&find).1, "");
}

/// A server that keeps its data in memory until it is asked to end, behind a start script that doesn't `exec` it.
const KEEPER: &str = r#"
[[daemon]]
name = "keeper"
command = ["sh", "-c", '''
python3 -c "
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
path = '/etc/sidecar/data'
try: data = open(path).read()
except OSError: data = ''
print('has', data or 'nothing', flush=True)
signal.sigwait([signal.SIGTERM])
open(path, 'w').write(data + 'x')
"
exit 0
''']
[signals]
USR1 = { restart = "keeper" }
"#;

#[test]
fn a_server_behind_a_start_script_is_asked_to_end_and_keeps_its_data() {
    let dir = Dir::new();
    let bundle = Container::with_table(&dir, KEEPER, &[]);
    let has = |what: &str| wait_until(what, || bundle.log().contains(&format!("has {what}")).then_some(()));
    has("nothing");
    docker(&["stop", &bundle.name]);
    docker(&["start", &bundle.name]);
    has("x\n");
    let (code, out, err) = sidecar(&["apply", "--signal=USR1", &bundle.name]);
    assert_eq!(code, 0, "{out}{err}");
    has("xx\n");
}

/// It works for 3 s after its TERM and has a grace of 6 s. Its output wakes init up.
const SAVER: &str = r#"
[[daemon]]
name = "saver"
grace = "6s"
command = ["sh", "-c", "trap 'for n in $(seq 30); do echo $n; sleep 0.1; done; exit 42' TERM; while :; do sleep 0.1; done"]
"#;

#[test]
fn a_pause_of_the_container_takes_nothing_from_a_daemons_grace() {
    let bundle = Container::with_table(&Dir::new(), SAVER, &[]).ready();
    bundle.kill("TERM");
    wait_until("stop", || bundle.log().contains("forwarding SIGTERM to saver").then_some(()));
    docker(&["pause", &bundle.name]);
    // Longer than its grace: that the clock goes on in a pause is what this is about.
    std::thread::sleep(Duration::from_secs(9));
    docker(&["unpause", &bundle.name]);
    wait_until("end", || (!bundle.is_running()).then_some(()));
    assert_eq!(bundle.inspect("{{.State.ExitCode}}"), "42", "{}", bundle.log());
}

#[test]
fn a_stopsignal_of_rtmin_plus_3_ends_the_bundle_at_once() {
    let bundle = Container::with_table(&Dir::new(), TABLE, &["--stop-signal=SIGRTMIN+3"]).ready();
    docker(&["stop", "--time=30", &bundle.name]);
    assert_eq!(bundle.inspect("{{.State.ExitCode}}"), "143", "{}", bundle.log());
}

#[test]
fn a_signal_without_a_rule_logs_a_hint_at_the_images_stopsignal() {
    let bundle = Container::with_table(&Dir::new(), TABLE, &[]).ready();
    bundle.kill("WINCH");
    let told = |line: &&str| line.contains(" WARN ") && line.contains("WINCH") && line.contains("STOPSIGNAL");
    wait_until("warning", || bundle.log().lines().find(told).map(str::to_owned));
}

#[test]
fn a_daemon_of_another_user_opens_dev_stdout_and_dev_stderr_anew() {
    let table = r#"
[[daemon]]
name = "nobody"
command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c",
  "echo out > /dev/stdout; echo err > /dev/stderr; exec sleep 1000"]
"#;
    let options = ["--user=0", "--cap-add=SETUID", "--cap-add=SETGID"];
    let bundle = Container::with_table(&Dir::new(), table, &options);
    for line in ["[nobody] out", "[nobody] err"] {
        wait_until(line, || bundle.log().lines().any(|l| l == line).then_some(()));
    }
}

#[test]
fn an_oom_kill_is_logged_as_one_and_another_sigkill_is_not() {
    let table = r#"
[[daemon]]
name = "hog"
command = ["python3", "-c", '''
kept = []
import os
while not os.path.exists("/etc/sidecar/hungry"): pass
while True: kept.append(b"x" * (1 << 20))
''']
[[daemon]]
name = "idle"
command = ["sleep", "1000"]
[[daemon]]
name = "victim"
command = ["sh", "-c", "kill -9 $$"]
"#;
    let dir = Dir::new();
    let bundle = Container::with_table(&dir, table, &["--memory=64m", "--memory-swap=64m"]);
    let killed = |name: &str| {
        let line = |line: &&str| line.contains(&format!("{name} (pid")) && line.contains("killed by signal 9");
        wait_until(name, || bundle.log().lines().find(line).map(str::to_owned))
    };
    let line = killed("victim");
    assert!(!line.contains("OOM"), "{line}");
    dir.write("hungry", "");
    let line = killed("hog");
    assert!(line.contains("OOM"), "{line}");
}

#[test]
fn a_file_mounted_alone_and_replaced_on_the_host_is_not_called_live() {
    let dir = Dir::new();
    let rules = dir.write("rules", "old");
    let table = TABLE.replace("[signals]", "config = { path = \"/etc/rules\" }\n[signals]");
    let mount = format!("--volume={}:/etc/rules", rules.display());
    let bundle = Container::with_table(&dir, &table, &[&mount]).ready();
    let before = bundle.pids();
    // By a rename, as editors and `git pull` do it.
    dir.write("rules", "new");
    let (code, out, err) = sidecar(&["apply-allowlist", &bundle.name]);
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.contains("/etc/rules") && err.contains("mount its directory"), "{err}");
    assert_eq!(bundle.pids(), before);
}
