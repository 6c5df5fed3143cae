//! Restart policies, order, oneshots and requests in real containers on a real Engine. `scripts/test` builds the image
//! and runs this.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and its helpers are tests too")]
#![allow(dead_code, reason = "what another test file needs of the containers")]

mod containers;

use std::process::Command;

use containers::{Container, Dir, Said, binary, docker, image, other_binary, said, wait_until};
use serde_json::Value;

/// An app that needs a migration and a database, each of which goes on once its file is there. They write to stderr, as
/// init does, so that the log has one order.
const APP: &str = r#"
[[daemon]]
name = "migrate"
oneshot = true
command = ["sh", "-c", '''
echo migrating >&2
until [ -e /etc/sidecar/migrate ]; do sleep 0.02; done
exit "$(cat /etc/sidecar/migrate)"
''']

[[daemon]]
name = "db"
command = ["sh", "-c", '''
trap 'echo the db closes >&2; exit 0' INT
until [ -e /etc/sidecar/db ]; do sleep 0.02; done
: > /tmp/db
while :; do sleep 0.02; done
''']
ready = { exec = ["sh", "-c", "test -e /tmp/db || { echo no db yet; exit 1; }"] }
stop_signal = "INT"

[[daemon]]
name = "app"
depends_on = ["migrate", "db"]
command = ["sh", "-c", '''
trap 'sleep 1; echo the app says good-bye >&2; exit 0' TERM
test -e /tmp/db && echo the app is up >&2
while :; do sleep 0.02; done
''']

# Or the bundle would end if the migration fails.
[[daemon]]
name = "beside"
command = ["sleep", "1000"]
"#;

fn sidecar(arguments: &[&str]) -> Said {
    said(Command::new(binary()).args(arguments))
}

/// Asks inside the bundle: `restart`, `stop`, `start`, `signal`.
fn ask(bundle: &Container, arguments: &[&str]) -> Said {
    bundle.try_exec(&[&["/proc/1/exe"], arguments].concat())
}

fn state(bundle: &Container, name: &str) -> String {
    bundle.daemon(name)["state"].as_str().unwrap_or_default().to_owned()
}

fn until_state(bundle: &Container, name: &str, wanted: &str) {
    wait_until(&format!("{name} {wanted}"), || (state(bundle, name) == wanted).then_some(()));
}

/// Whether status, and so the HEALTHCHECK, calls the bundle healthy.
fn is_healthy(bundle: &Container) -> bool {
    ask(bundle, &["status"]).0 == 0
}

/// Where the first line is that has these words.
fn place(log: &str, words: &str) -> usize {
    log.lines().position(|line| line.contains(words)).unwrap_or_else(|| panic!("no line has {words:?}: {log}"))
}

#[test]
fn an_app_starts_once_its_migration_is_done_and_its_database_ready() {
    let dir = Dir::new();
    let bundle = Container::with_table(&dir, APP, &[]);
    let waits_for = |names: &[&str]| {
        wait_until(&format!("the wait for {names:?}"), || {
            let app = bundle.daemon("app");
            let waiting: Vec<_> = app["waiting_for"].as_array()?.iter().map(|one| one["daemon"].clone()).collect();
            (app["state"] == "waiting" && waiting == names).then_some(app)
        })
    };
    waits_for(&["migrate", "db"]);
    dir.write("migrate", "0");
    until_state(&bundle, "migrate", "done");
    wait_until("why", || {
        let app = waits_for(&["db"]);
        app["waiting_for"][0]["why"].as_str().unwrap().contains("no db yet").then_some(())
    });
    assert!(!bundle.log().contains("starting app"), "{}", bundle.log());
    assert!(!is_healthy(&bundle));
    dir.write("db", "");
    wait_until("app", || bundle.log().contains("the app is up").then_some(()));
    until_state(&bundle, "app", "running");
    assert!(is_healthy(&bundle), "a oneshot that is done counts as running: {}", bundle.status());
}

#[test]
fn a_dependent_of_a_failed_oneshot_starts_once_that_succeeds() {
    let dir = Dir::new();
    dir.write("migrate", "3");
    dir.write("db", "");
    let bundle = Container::with_table(&dir, APP, &[]);
    until_state(&bundle, "migrate", "failed");
    let why = wait_until("the wait for migrate alone", || {
        let app = bundle.daemon("app");
        let waiting = app["waiting_for"].as_array()?;
        (waiting.len() == 1 && waiting[0]["daemon"] == "migrate").then(|| waiting[0]["why"].to_string())
    });
    assert!(why.contains('3'), "{why}");
    assert!(!is_healthy(&bundle));
    let told = |line: &&str| line.contains("app") && line.contains("migrate") && line.contains("wait");
    assert!(bundle.log().lines().any(|line| told(&line)), "{}", bundle.log());
    let (code, _, err) = ask(&bundle, &["restart", "migrate"]);
    assert_eq!(code, 1, "{err}");
    assert_eq!(state(&bundle, "app"), "waiting");
    dir.write("migrate", "0");
    let (code, out, err) = ask(&bundle, &["restart", "migrate"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("live: migrate"), "{out}");
    until_state(&bundle, "app", "running");
    assert!(is_healthy(&bundle));
}

#[test]
fn a_bundle_with_only_dependents_of_a_failed_oneshot_left_ends() {
    let table = r#"
[[daemon]]
name = "migrate"
oneshot = true
command = ["sh", "-c", "exit 3"]
[[daemon]]
name = "app"
depends_on = ["migrate"]
command = ["sleep", "1000"]
"#;
    let bundle = Container::with_table(&Dir::new(), table, &[]);
    wait_until("end", || (!bundle.is_running()).then_some(()));
    assert_eq!(bundle.inspect("{{.State.ExitCode}}"), "3", "{}", bundle.log());
    assert!(!bundle.log().contains("starting app"), "{}", bundle.log());
}

#[test]
fn a_oneshot_with_a_restart_policy_is_tried_again_until_it_exits_0() {
    let dir = Dir::new();
    let table = APP.replace("oneshot = true", "oneshot = true\nrestart = \"on-failure\"");
    dir.write("migrate", "3");
    dir.write("db", "");
    let bundle = Container::with_table(&dir, &table, &[]);
    wait_until("a few tries", || (bundle.daemon("migrate")["revivals"].as_u64()? >= 3).then_some(()));
    assert_eq!(state(&bundle, "app"), "waiting");
    dir.write("migrate", "0");
    until_state(&bundle, "app", "running");
    assert_eq!(state(&bundle, "migrate"), "done");
}

/// Says when it was started, and dies.
const CRASHER: &str = r#"
[[daemon]]
name = "crasher"
restart = "on-failure"
command = ["sh", "-c", "date +%s%3N; exit 7"]
[[daemon]]
name = "twin"
restart = "on-failure"
command = ["sh", "-c", "exit 7"]
[[daemon]]
name = "beside"
command = ["sleep", "1000"]
"#;

/// The times at which the crasher was started, in milliseconds.
fn starts(bundle: &Container) -> Vec<u64> {
    let log = bundle.log();
    log.lines().filter_map(|line| line.strip_prefix("[crasher] ")?.parse().ok()).collect()
}

#[test]
fn a_daemon_that_keeps_dying_is_started_with_the_delays_that_docker_has() {
    let bundle = Container::with_table(&Dir::new(), CRASHER, &[]);
    let starts = wait_until("six starts", || Some(starts(&bundle)).filter(|starts| starts.len() >= 6));
    for (n, pair) in starts.windows(2).enumerate() {
        // It dies after it has said its time, so the time between two of them is the delay and a little more.
        assert!(pair[1] - pair[0] >= 100 << n, "start {}: {starts:?}", n + 1);
    }
    let backoff = wait_until("backoff", || Some(bundle.daemon("crasher")).filter(|d| d["state"] == "backoff"));
    assert!(backoff["starts_in_ms"].as_u64().is_some_and(|ms| ms <= 60_000), "{backoff}");
    assert_eq!(
        backoff["generation"].as_u64().unwrap(),
        1 + backoff["revivals"].as_u64().unwrap() + backoff["restarts"].as_u64().unwrap(),
        "{backoff}"
    );
    assert!(!is_healthy(&bundle));
    assert_eq!(bundle.daemon("beside")["generation"], 1);
    docker(&["stop", &bundle.name]);
    assert_eq!(bundle.inspect("{{.State.ExitCode}}"), "7", "a crash loop that is ended has the crash's code");
}

#[test]
fn a_daemon_stopped_in_its_crash_loop_stays_stopped() {
    let dir = Dir::new();
    let bundle = Container::with_table(&dir, CRASHER, &[]);
    until_state(&bundle, "crasher", "backoff");
    let (code, _, err) = ask(&bundle, &["stop", "crasher"]);
    assert_eq!(code, 0, "{err}");
    let stopped = bundle.daemon("crasher");
    assert_eq!(stopped["state"], "stopped");
    let starts = || bundle.daemon("twin")["revivals"].as_u64().unwrap();
    let by_now = starts();
    // Their delays are the same, so that the crasher would have been started before the second of these.
    wait_until("two more starts of its twin", || (starts() >= by_now + 2).then_some(()));
    assert_eq!(bundle.daemon("crasher")["generation"], stopped["generation"]);
    let (code, _, err) = ask(&bundle, &["start", "crasher"]);
    assert_eq!(code, 1, "what dies at once isn't live: {err}");
    wait_until("its policy again", || {
        (bundle.daemon("crasher")["revivals"].as_u64() > stopped["revivals"].as_u64()).then_some(())
    });
    docker(&["restart", &bundle.name]);
    until_state(&bundle, "crasher", "backoff");
}

const ESSENTIAL: &str = r#"
[[daemon]]
name = "app"
essential = true
command = ["sh", "-c", "until [ -e /etc/sidecar/end ]; do sleep 0.02; done; exit 5"]
[[daemon]]
name = "beside"
command = ["sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.02; done"]
"#;

#[test]
fn the_end_of_an_essential_daemon_ends_the_bundle_with_its_code_alone() {
    let dir = Dir::new();
    let bundle = Container::with_table(&dir, ESSENTIAL, &[]).ready();
    for verb in ["restart", "stop", "start"] {
        let (code, _, err) = ask(&bundle, &[verb, "app"]);
        assert_eq!(code, 0, "a {verb} on request is no end: {err}");
    }
    assert_eq!(bundle.daemon("beside")["generation"], 1);
    dir.write("end", "");
    wait_until("end", || (!bundle.is_running()).then_some(()));
    assert_eq!(bundle.inspect("{{.State.ExitCode}}"), "5", "{}", bundle.log());
    assert!(bundle.log().contains("beside (pid"), "{}", bundle.log());
}

/// Two servers that need the same port. Whichever doesn't get it tries again.
const BLUE_GREEN: &str = r#"
restart = "on-failure"
[[daemon]]
name = "blue"
command = ["python3", "/etc/sidecar/server.py", "blue"]
ready = { tcp = "127.0.0.1:8000" }
[[daemon]]
name = "green"
command = ["python3", "/etc/sidecar/server.py", "green"]
ready = { tcp = "127.0.0.1:8000" }
[[daemon]]
name = "beside"
command = ["sleep", "1000"]
"#;

const SERVER: &str = r#"
import socket, sys
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", 8000))
server.listen()
while True:
    client, _ = server.accept()
    client.sendall(sys.argv[1].encode())
    client.close()
"#;

const WHO: &str = "import socket; print(socket.create_connection(('127.0.0.1', 8000)).recv(99).decode())";

#[test]
fn two_daemons_swap_roles_by_requests_and_no_policy_swaps_them_back() {
    let dir = Dir::new();
    dir.write("server.py", SERVER);
    let bundle = Container::with_table(&dir, BLUE_GREEN, &[]);
    let ask = |verb: &str, name: &str| {
        let (code, out, err) = ask(&bundle, &[verb, name]);
        assert_eq!(code, 0, "{verb} {name}: {out}{err}");
        out
    };
    ask("stop", "green");
    ask("restart", "blue");
    let revivals = || ["blue", "green"].map(|name| bundle.daemon(name)["revivals"].clone());
    let before = revivals();
    for round in 0..10 {
        let (old, new) = if round % 2 == 0 { ("blue", "green") } else { ("green", "blue") };
        assert!(ask("stop", old).contains("stopped"));
        assert!(ask("start", new).starts_with(&format!("live: {new}")));
        let (_, out, err) = bundle.try_exec(&["python3", "-c", WHO]);
        assert_eq!(out.trim(), new, "round {round}: {err}");
        assert_eq!((state(&bundle, old), state(&bundle, new)), ("stopped".into(), "running".into()));
    }
    assert_eq!(revivals(), before);
    assert_eq!(bundle.daemon("beside")["generation"], 1);
}

/// Ten daemons that each need the one before, ten that need the last of these, and twenty that need nobody.
fn forty() -> String {
    let daemon = |n: usize| {
        let needs = match n {
            1..=9 => format!("depends_on = [\"d{}\"]", n - 1),
            10..=19 => "depends_on = [\"d9\"]".to_owned(),
            _ => String::new(),
        };
        format!(
            r#"
[[daemon]]
name = "d{n}"
{needs}
command = ["sh", "-c", "date +%s.%N > /tmp/d{n}; exec sleep 1000"]
ready = {{ exec = ["sh", "/etc/sidecar/probe", "d{n}"] }}
"#
        )
    };
    (0..40).map(daemon).collect()
}

/// It says when it began and ended.
const PROBE: &str = r#"
echo "$1 began $(date +%s.%N)" >> /tmp/probes
sleep 0.3
echo "$1 ended $(date +%s.%N)" >> /tmp/probes
"#;

#[test]
fn forty_daemons_start_little_slower_than_their_longest_chain() {
    let dir = Dir::new();
    dir.write("probe", PROBE);
    let bundle = Container::with_table(&dir, &forty(), &[]);
    wait_until("all forty", || is_healthy(&bundle).then_some(()));
    let time = |text: &str| text.trim().parse::<f64>().unwrap();
    let probes = bundle.try_exec(&["cat", "/tmp/probes"]).1;
    let of = |n: usize, what: &str| {
        let head = format!("d{n} {what} ");
        let times: Vec<f64> = probes.lines().filter_map(|line| line.strip_prefix(&head)).map(time).collect();
        assert_eq!(times.len(), 1, "one probe is enough for d{n}: {probes}");
        times[0]
    };
    let started = |n: usize| time(&bundle.try_exec(&["cat", &format!("/tmp/d{n}")]).1);
    let (mut probing, mut between) = (0.0, 0.0);
    for n in 0..10 {
        probing += of(n, "ended") - of(n, "began");
        between += of(n, "began") - started(n) + started(n + 1) - of(n, "ended");
        assert!(started(n + 1) > of(n, "ended"), "d{} was started before d{n} was ready", n + 1);
    }
    // Nobody waits for the others, so nobody asks them.
    assert_eq!(probes.lines().count(), 20, "{probes}");
    assert!(between < probing, "{probing} s in probes, {between} s between them");
    println!("{probing:.3} s in ten probes, {between:.3} s between them");
}

#[test]
fn docker_stop_asks_the_dependent_before_its_database() {
    let dir = Dir::new();
    dir.write("migrate", "0");
    dir.write("db", "");
    let bundle = Container::with_table(&dir, APP, &[]);
    until_state(&bundle, "app", "running");
    wait_until("app", || bundle.log().contains("the app is up").then_some(()));
    docker(&["stop", &bundle.name]);
    let log = bundle.log();
    // What init says of a moment may come after what a daemon says of it.
    for order in [
        ["forwarding SIGTERM to app", "app (pid", "forwarding SIGINT to db"],
        ["the app is up", "the app says good-bye", "the db closes"],
    ] {
        let places = order.map(|words| place(&log, words));
        assert!(places.is_sorted(), "{places:?}: {log}");
    }
    assert!(!log.contains("forwarding SIGINT to migrate") && !log.contains("forwarding SIGTERM to db"), "{log}");
    assert_eq!(bundle.inspect("{{.State.ExitCode}}"), "0", "{log}");
}

#[test]
fn docker_calls_a_bundle_unhealthy_while_a_daemon_is_in_backoff() {
    let dir = Dir::new();
    let table = APP.replace(
        "[\"sleep\", \"1000\"]",
        "[\"sh\", \"-c\", \"until [ -e /etc/sidecar/crash ]; do sleep 0.02; done; exit 1\"]",
    );
    dir.write("daemons.toml", &table.replace("name = \"beside\"", "name = \"beside\"\nrestart = \"always\""));
    dir.write("db", "");
    let volume = dir.at("/etc/sidecar");
    let mut options = vec![volume.as_str(), "--health-interval=1s", "--health-start-period=0s", "--health-retries=1"];
    let other = other_binary();
    options.extend(other.as_deref());
    let bundle = Container::run(&options, &image(), &[]);
    let health = |wanted: &str| {
        wait_until(wanted, || (bundle.inspect("{{.State.Health.Status}}") == wanted).then_some(()));
    };
    // The app waits for the migration.
    health("unhealthy");
    dir.write("migrate", "0");
    health("healthy");
    dir.write("crash", "");
    health("unhealthy");
    std::fs::remove_file(dir.path().join("crash")).unwrap();
    health("healthy");
}

fn others(pids: &[(String, u64)], name: &str) -> Vec<(String, u64)> {
    pids.iter().filter(|(other, _)| other != name).cloned().collect()
}

#[test]
fn a_request_in_the_real_bundle_restarts_git_gate_alone() {
    let bundle = Container::bundle(&[]).ready();
    let before = bundle.pids();
    let (code, out, err) = ask(&bundle, &["restart", "git-gate"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("live: git-gate"), "{out}");
    let after = bundle.pids();
    assert_eq!(others(&after, "git-gate"), others(&before, "git-gate"));
    assert_ne!(after, before);
    assert_eq!(bundle.try_exec(&["git", "ls-remote", "git://127.0.0.1:9418/.ready.git"]).0, 0);
}

#[test]
fn each_of_the_four_real_daemons_comes_back_after_a_kill() {
    let bundle = Container::bundle(&[]).ready();
    for name in ["egress", "pipelock", "git-gate", "supervise"] {
        let before = bundle.pids();
        let pid = bundle.daemon(name)["pid"].to_string();
        assert_eq!(bundle.try_exec(&["sh", "-c", &format!("kill -KILL {pid}")]).0, 0);
        wait_until("its revival", || (bundle.daemon(name)["revivals"] == 1).then_some(()));
        wait_until("readiness", || (ask(&bundle, &["status", "--ready"]).0 == 0).then_some(()));
        let after = bundle.pids();
        assert_eq!(others(&after, name), others(&before, name));
        assert_ne!(after, before);
    }
}

#[test]
fn an_apply_by_daemon_name_needs_no_signal_rule() {
    let dir = Dir::new();
    let table = r#"
[[daemon]]
name = "proxy"
command = ["sh", "-c", "cp /etc/sidecar/list /tmp/serving; grep -qx deadly /etc/sidecar/list && exit 4; exec sleep 1000"]
config = { path = "/etc/sidecar/list", check = ["sh", "-c", "! grep -qx bad \"$0\"", "{}"] }
[[daemon]]
name = "beside"
command = ["sleep", "1000"]
"#;
    dir.write("list", "old");
    let options = ["--user=0", "--cap-add=DAC_OVERRIDE"];
    let bundle = Container::with_table(&dir, table, &options).ready();
    let serving = || bundle.try_exec(&["cat", "/tmp/serving"]).1;
    let apply = |content: &str| {
        let file = format!("--file={}", dir.write("new", content).display());
        let (code, out, _) = sidecar(&["apply", "--daemon=proxy", "--json", &file, &bundle.name]);
        let object: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(object["exit"], code);
        (object["outcome"].as_str().unwrap().to_owned(), object)
    };
    let (outcome, object) = apply("new");
    assert_eq!((outcome.as_str(), serving().as_str()), ("live", "new"), "{object}");
    assert_eq!((&object["signal"], &object["daemon"]), (&Value::Null, &"proxy".into()), "{object}");
    for content in ["bad", "deadly"] {
        let (outcome, object) = apply(content);
        assert_eq!(outcome, if content == "bad" { "refused" } else { "rolled-back" }, "{object}");
        assert_eq!(serving(), "new");
        assert_eq!(state(&bundle, "proxy"), "running");
    }
    assert_eq!(ask(&bundle, &["stop", "proxy"]).0, 0);
    let (outcome, object) = apply("newer");
    assert_eq!(outcome, "refused", "{object}");
    assert_eq!(
        (state(&bundle, "proxy").as_str(), bundle.try_exec(&["cat", "/etc/sidecar/list"]).1.as_str()),
        ("stopped", "new")
    );
    assert_eq!(bundle.daemon("beside")["generation"], 1);
}

#[test]
fn an_apply_to_git_gate_by_its_name_is_live_and_moves_nobody_else() {
    let bundle = Container::bundle(&[]).ready();
    let before = bundle.pids();
    let (code, out, err) = sidecar(&["apply", "--daemon=git-gate", &bundle.name]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with(&format!("{}: live: git-gate", bundle.name)), "{out}");
    let after = bundle.pids();
    assert_eq!(others(&after, "git-gate"), others(&before, "git-gate"));
    assert_ne!(after, before);
}
