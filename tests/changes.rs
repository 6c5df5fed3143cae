//! A change as a transaction on a real Engine: the real filter, and bad days of host, docker and bundle.
//! `scripts/test` builds the image and runs this; `SIDECAR_ROUNDS` sets how often each victim is killed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and its helpers are tests too")]
#![allow(dead_code, reason = "what another test file needs of the containers")]

mod containers;
mod rng;

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use containers::{Container, Dir, binary, docker, said, scratch_image, wait_until};
use rng::Rng;
use serde_json::Value;
use sidecar::protocol::HELPER;

const PIPELOCK: &str = include_str!("../bundle/pipelock/pipelock.yaml");

/// alpha writes what it serves to a file.
const TABLE: &str = r#"
grace = "1s"
[[daemon]]
name = "alpha"
command = ["SHELL", "-c", '''
cd /etc/sidecar/pipelock; [ -e rules ] || printf old > rules
rm -f /tmp/ready; rules=$(cat rules)
[ "$rules" = dies ] && exit 3
printf %s "$rules" > /tmp/serving
[ "$rules" = unready ] || : > /tmp/ready
while :; do sleep 0.05; done
''']
config = { path = "/etc/sidecar/pipelock/rules", check = ["SHELL", "-c", '[ "$(cat "$0")" != bad ]', "{}"] }
ready = { exec = ["SHELL", "-c", "test -e /tmp/ready"] }
settle = "100ms"
# Or the bundle would end with alpha: nothing would be left to supervise.
[[daemon]]
name = "beta"
command = ["SHELL", "-c", "while :; do sleep 1; done"]
[signals]
USR1 = { restart = "alpha" }
"#;

struct Bundle {
    container: Container,
    _dir: Dir,
}

impl Bundle {
    fn start() -> Self {
        let dir = Dir::new();
        dir.write("daemons.toml", &TABLE.replace("SHELL", "sh"));
        let table = dir.at("/table");
        let options = [table.as_str(), "--env=SIDECAR_CONFIG=/table/daemons.toml", "--volume=/etc/sidecar/pipelock"];
        Self { container: Container::bundle(&options).ready(), _dir: dir }
    }

    fn cat(&self, file: &str) -> String {
        self.container.try_exec(&["cat", file]).1
    }

    fn rules(&self) -> String {
        self.cat("/etc/sidecar/pipelock/rules")
    }

    fn serving(&self) -> String {
        self.cat("/tmp/serving")
    }

    fn begin(&self, content: &str, options: &[&str]) -> Child {
        apply("apply-allowlist", &self.container, content, options)
    }

    fn change(&self, content: &str, options: &[&str]) -> Value {
        ended(self.begin(content, options))
    }

    /// In place, and taken up by the daemon.
    fn begin_unready(&self, options: &[&str]) -> Child {
        let host = self.begin("unready", options);
        wait_until("unready content", || (self.serving() == "unready").then_some(()));
        host
    }

    /// The pids, on the host, of the helpers in it.
    fn helpers(&self) -> Vec<String> {
        let (_, out, _) = said(Command::new("docker").args(["top", &self.container.name, "-eo", "pid,args"]));
        let rows = out.lines().filter(|row| row.ends_with(&format!("/proc/1/exe {HELPER}")));
        rows.filter_map(|row| row.split_whitespace().next().map(str::to_owned)).collect()
    }

    /// Nobody is at it any more, and what is on disk is what is served.
    fn settled(&self) -> String {
        wait_until("end of the helpers", || self.helpers().is_empty().then_some(()));
        let rules = self.rules();
        wait_until("it on disk served", || (self.serving() == rules).then_some(()));
        rules
    }

    fn leftovers(&self) -> String {
        let (_, names, _) = self.container.try_exec(&["ls", "-A", "/etc/sidecar/pipelock"]);
        let known = ["rules", ".rules.sidecar", "pipelock.yaml"];
        names.lines().filter(|name| !known.contains(name)).collect()
    }

    fn transaction(&self) -> Value {
        self.container.daemon("alpha")["transaction"]["outcome"].clone()
    }
}

fn apply(applet: &str, bundle: &Container, content: &str, options: &[&str]) -> Child {
    let mut command = Command::new(binary());
    command.arg(applet).args(["--file=-", "--json", &bundle.name]).args(options);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(content.as_bytes()).unwrap();
    child
}

fn ended(child: Child) -> Value {
    let output = child.wait_with_output().unwrap();
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["exit"], output.status.code().unwrap(), "{value}");
    value
}

#[track_caller]
fn is(report: &Value, outcome: &str, exit: i32, words: &str) {
    assert_eq!((&report["outcome"], &report["exit"]), (&outcome.into(), &exit.into()), "{report}");
    assert!(report["error"].as_str().unwrap_or_default().contains(words), "{report}");
}

fn real() -> Container {
    Container::bundle(&["--volume=/etc/sidecar/pipelock", "--volume=/etc/sidecar/egress"]).ready()
}

#[test]
fn the_real_filter_takes_a_good_list_and_refuses_a_bad_one() {
    let bundle = real();
    let allowlist = |content: &str, options: &[&str]| ended(apply("apply-allowlist", &bundle, content, options));
    let good = PIPELOCK.replace("api.anthropic.com", "web.test");
    let report = allowlist(&good, &[]);
    is(&report, "live", 0, "");
    assert_eq!((&report["checked"], &report["siblings_moved"]), (&true.into(), &Value::Array(Vec::new())));
    is(&allowlist(&good, &[]), "unchanged", 0, "");
    let before = bundle.pids();
    is(
        &allowlist(&good.replace("mode: strict", "mod: strict"), &[]),
        "refused",
        1,
        "the checker of /etc/sidecar/pipelock/pipelock.yaml",
    );
    assert_eq!(bundle.pids(), before);
    // Another daemon's port, and one that nobody has: its sandbox refuses both, which the checker can't know.
    for port in [":9418", ":8889"] {
        let report = allowlist(&good.replace(":8888", port), &["--timeout=3s"]);
        is(&report, "rolled-back", 1, "the old content is back");
    }
    assert_eq!(bundle.try_exec(&["cat", "/etc/sidecar/pipelock/pipelock.yaml"]).1, good);
    assert_eq!(bundle.try_exec(&["/proc/1/exe", "status", "--ready"]).0, 0);
    assert!(bundle.log().contains("change of pipelock: rolled back"), "{}", bundle.log());
}

#[test]
fn the_real_egress_takes_routes_in_the_same_process() {
    let bundle = real();
    let egress = |content: &str, options: &[&str]| ended(apply("apply-egress", &bundle, content, options));
    let routes = "routes:\n  - host: web.test\n    headers:\n      Authorization: \"hidden\"\n";
    let before = bundle.pids();
    is(&egress(routes, &[]), "live", 0, "");
    assert_eq!(bundle.pids(), before);
    let report = egress(&(routes.to_owned() + "    no-such-key: 1\n"), &[]);
    is(&report, "refused", 1, "the checker of /etc/sidecar/egress/routes.yaml");
    assert!(!report.to_string().contains("hidden") && !bundle.log().contains("hidden"), "{report}");
    let report = egress("routes: []\n", &["--dry-run"]);
    is(&report, "dry-run", 0, "");
    assert!(!report.to_string().contains("hidden"), "{report}");
}

#[test]
fn an_allowlist_and_routes_at_once_are_both_live() {
    let bundle = real();
    let pipelock = apply("apply-allowlist", &bundle, &PIPELOCK.replace("api.anthropic.com", "web.test"), &[]);
    let egress = apply("apply-egress", &bundle, "routes: []\n# new\n", &[]);
    is(&ended(pipelock), "live", 0, "");
    is(&ended(egress), "live", 0, "");
}

#[test]
fn a_change_needs_only_its_directory_writable_in_a_from_scratch_image() {
    let dir = Dir::new();
    let table = TABLE.replace(r#""SHELL", "#, r#""/busybox", "sh", "#).replace("rm -f", "/busybox rm -f");
    let table = table.replace("sleep ", "/busybox sleep ").replace("$(cat", "$(/busybox cat");
    dir.write("daemons.toml", &table);
    let options = [
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--network=none",
        "--user=4711:4711",
        "--volume=/bin/busybox:/busybox:ro",
        "--env=SIDECAR_CONFIG=/table/daemons.toml",
        "--tmpfs=/etc/sidecar/pipelock:uid=4711,mode=700",
        "--tmpfs=/tmp:uid=4711",
        &dir.at("/table"),
    ];
    let bundle = Container::run(&options, &scratch_image(), &["init"]).ready();
    is(&ended(apply("apply-allowlist", &bundle, "new", &[])), "live", 0, "");
    is(&ended(apply("apply-allowlist", &bundle, "dies", &[])), "rolled-back", 1, "");
    assert_eq!(bundle.try_exec(&["/busybox", "cat", "/tmp/serving"]).1, "new");
}

#[test]
fn a_full_disk_or_a_file_that_is_a_mount_changes_nothing() {
    let full = Container::bundle(&["--tmpfs=/etc/sidecar/pipelock:size=8k,uid=1000"]);
    wait_until("status", || (!full.status().is_null()).then_some(()));
    let script = "printf 'version: 1\\n' > /etc/sidecar/pipelock/pipelock.yaml";
    assert_eq!(full.try_exec(&["sh", "-c", script]).0, 0);
    let report = ended(apply("apply-allowlist", &full, &"#".repeat(6000), &[]));
    is(&report, "refused", 1, "No space left");
    assert_eq!(full.try_exec(&["ls", "-A", "/etc/sidecar/pipelock"]).1, "pipelock.yaml\n");

    let dir = Dir::new();
    let file = dir.write("pipelock.yaml", PIPELOCK);
    let mounted = Container::bundle(&[&format!("--volume={}:/etc/sidecar/pipelock/pipelock.yaml", file.display())]);
    let report = ended(apply("apply-allowlist", &mounted.ready(), PIPELOCK, &[]));
    is(&report, "refused", 1, "mount its directory");
    assert_eq!(std::fs::read_to_string(file).unwrap(), PIPELOCK);
}

#[test]
fn docker_stop_in_the_middle_leaves_the_old_content() {
    let bundle = Bundle::start();
    let host = bundle.begin_unready(&["--timeout=20s"]);
    docker(&["stop", &bundle.container.name]);
    let report = ended(host);
    assert!(["rolled-back", "unreachable"].contains(&report["outcome"].as_str().unwrap()), "{report}");
    docker(&["start", &bundle.container.name]);
    wait_until("start", || (bundle.serving() == "old").then_some(()));
    assert_eq!((bundle.settled(), bundle.leftovers()), ("old".to_owned(), String::new()));
    assert_eq!(bundle.transaction(), "rolled-back");
}

#[test]
fn after_docker_kill_in_the_middle_the_next_start_has_the_old_content() {
    let bundle = Bundle::start();
    let host = bundle.begin_unready(&["--timeout=20s"]);
    bundle.container.kill("KILL");
    is(&ended(host), "unreachable", 3, "init puts the old one back before it next starts the daemon");
    docker(&["start", &bundle.container.name]);
    wait_until("start", || (bundle.serving() == "old").then_some(()));
    assert_eq!((bundle.settled(), bundle.leftovers()), ("old".to_owned(), String::new()));
    assert!(bundle.container.log().contains("the old content is back"));
}

#[test]
fn after_a_docker_pause_in_the_middle_the_change_is_rolled_back() {
    let goes_back = "goes back once the bundle is unpaused";
    let (bundle, other) = (Bundle::start(), Bundle::start());
    // While the daemon is waited for, and right before the signal, which docker takes for a paused container.
    let host = bundle.begin_unready(&["--timeout=2s"]);
    docker(&["pause", &bundle.container.name]);
    let mut command = Command::new(binary());
    command.env("SIDECAR_DOCKER", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/docker-that-pauses"));
    command.args(["apply-allowlist", "--json", "--timeout=2s", "--file=-", &other.container.name]);
    let mut second = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    second.stdin.take().unwrap().write_all(b"new").unwrap();
    for (host, bundle) in [(host, &bundle), (second, &other)] {
        is(&ended(host), "unreachable", 3, goes_back);
        docker(&["unpause", &bundle.container.name]);
        wait_until("old content", || (bundle.rules() == "old" && bundle.serving() == "old").then_some(()));
        assert_eq!((bundle.settled(), bundle.leftovers()), ("old".to_owned(), String::new()));
        is(&bundle.change("new", &[]), "live", 0, "");
    }
}

/// One allowlist for a fleet, as a directory that all of its bundles mount.
#[test]
fn two_bundles_that_mount_one_directory_both_become_live() {
    let (tables, shared) = (Dir::new(), Dir::new());
    tables.write("daemons.toml", &TABLE.replace("SHELL", "sh"));
    let options =
        [&tables.at("/table"), "--env=SIDECAR_CONFIG=/table/daemons.toml", &shared.at("/etc/sidecar/pipelock")];
    let bundles = [(); 2].map(|()| Container::bundle(&options).ready());
    for round in 1..=6 {
        let new = tables.write("new", &format!("new {round}"));
        let (file, parallel) = (format!("--file={}", new.display()), ["--parallel=32", "--parallel=1"][round % 2]);
        let names = [bundles[0].name.as_str(), &bundles[1].name];
        let (code, out, err) = said(Command::new(binary()).args(["apply-allowlist", &file, parallel]).args(names));
        let served = bundles.each_ref().map(|bundle| bundle.try_exec(&["cat", "/tmp/serving"]).1);
        let new = format!("new {round}");
        assert_eq!((code, served), (0, [new.clone(), new]), "{parallel}: {out}{err}");
    }
}

fn rounds() -> u64 {
    std::env::var("SIDECAR_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(20)
}

fn kill_9(pids: &[String]) {
    let _ = Command::new("kill").arg("-9").args(pids).stderr(Stdio::null()).status();
}

/// The children of the host: docker's CLI, as often as it is called.
fn clients(host: &Child) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{}/task", host.id())).into_iter().flatten().flatten();
    let children = threads.map(|thread| std::fs::read_to_string(thread.path().join("children")).unwrap_or_default());
    children.flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Kills the victim at a seeded moment of a change: exactly the old or exactly the new is left, and served.
fn random_kills(victim: fn(&Bundle, &mut Child)) {
    let bundle = Bundle::start();
    let mut was = "old".to_owned();
    for seed in 1..=rounds() {
        let new = format!("content {seed}");
        let mut host = bundle.begin(&new, &["--timeout=5s"]);
        let millis = Rng::new(seed).below(900);
        // No condition: at any moment.
        std::thread::sleep(Duration::from_millis(millis));
        victim(&bundle, &mut host);
        let output = host.wait_with_output().unwrap();
        let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let now = bundle.settled();
        println!("seed {seed}: {} after {millis} ms: {now}", said["outcome"]);
        match said["outcome"].as_str() {
            Some("live") => assert_eq!(now, new, "seed {seed}: {said}"),
            Some("unsettled") | None => assert!(now == new || now == was, "seed {seed}: {now}: {said}"),
            Some(_) => assert_eq!(now, was, "seed {seed}: {said}"),
        }
        assert_ne!(bundle.transaction(), "interrupted", "seed {seed}: {said}");
        was = now;
    }
    is(&bundle.change("end", &[]), "live", 0, "");
    assert_eq!((bundle.settled(), bundle.leftovers()), ("end".to_owned(), String::new()));
}

#[test]
fn a_host_that_is_killed_at_any_moment_leaves_the_old_or_the_new() {
    random_kills(|_, host| host.kill().unwrap());
}

#[test]
fn a_docker_cli_killed_at_any_moment_leaves_the_old_or_the_new() {
    random_kills(|_, host| kill_9(&clients(host)));
}

#[test]
fn a_helper_killed_at_any_moment_leaves_the_old_or_the_new_on_an_engine() {
    random_kills(|bundle, _| kill_9(&bundle.helpers()));
}
