//! On a real Engine: if an old process outlives its daemon and keeps the port, a change may only be called live if the
//! new content is served. This is tried for each kind of `ready`, each way in which a process can outlive its daemon, and
//! each reaction of the replacement to a port that is taken. `scripts/test` runs this; `SIDECAR_ROUNDS` sets how often
//! each is tried.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and its helpers are tests too")]
#![allow(dead_code, reason = "what another test file needs of the containers")]

mod containers;

use std::process::Command;

use containers::{Container, Dir, Said, binary, said};

const PYTHON: &str = "/usr/bin/python3 -S -E /etc/sidecar/server.py";

/// How an old process outlives its daemon.
#[derive(Clone, Copy, PartialEq)]
enum Leftover {
    /// A child that TERM doesn't end, in the daemon's own group.
    Group,
    /// bash's job control: a group of its own, in the daemon's session.
    Job,
    /// `su -c USER` makes a session of its own, and waits 2 s before it kills what is in it: the grace is shorter.
    Su,
    /// A session of its own, which nothing ends.
    Session,
    /// The server itself goes into the background.
    Background,
}

const LEFTOVERS: [Leftover; 5] =
    [Leftover::Group, Leftover::Job, Leftover::Su, Leftover::Session, Leftover::Background];

/// What a replacement does if its port is taken. `loads` gives up too, but later than `settle`.
const MANNERS: [(&str, &str); 4] =
    [("gives-up", "USR1"), ("loads", "USR2"), ("waits", "RTMIN+1"), ("shares", "RTMIN+2")];

impl Leftover {
    fn name(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Job => "job",
            Self::Su => "su",
            Self::Session => "session",
            Self::Background => "background",
        }
    }

    /// A restart ends what is left in the daemon's session, so the change is live.
    fn is_swept(self) -> bool {
        matches!(self, Self::Group | Self::Job)
    }

    fn command(self, serve: &str) -> String {
        match self {
            Self::Group => format!("sh|-c|{PYTHON} {serve} & wait"),
            Self::Job => format!("bash|-c|set -m; {PYTHON} {serve} & fg %1"),
            Self::Su => format!("su|-s|/bin/sh|-c|exec {PYTHON} {serve}|nobody"),
            Self::Session => format!("sh|-c|nohup setsid {PYTHON} {serve} & wait"),
            Self::Background => format!("{PYTHON} {}", serve.replace("serve", "background")).replace(' ', "|"),
        }
    }
}

fn port(manner: usize) -> usize {
    8080 + manner
}

fn rules(manner: &str) -> String {
    format!("/etc/sidecar/{manner}/rules")
}

fn array(words: &str) -> String {
    format!("{:?}", words.split('|').collect::<Vec<_>>())
}

fn table(ready: &str, leftover: Leftover) -> String {
    use std::fmt::Write;
    // Keeps the bundle running when all others have ended.
    let mut table = "grace = \"300ms\"\n[[daemon]]\nname = \"idle\"\ncommand = [\"sleep\", \"1000\"]\n".to_owned();
    let mut signals = "[signals]\n".to_owned();
    for (n, (manner, signal)) in MANNERS.iter().enumerate() {
        let (port, rules) = (port(n), rules(manner));
        let mut command = leftover.command(&format!("serve {manner} {port} {rules}"));
        let ready = match ready {
            "tcp" => format!("ready = {{ tcp = \"127.0.0.1:{port}\" }}\n"),
            "http" => format!("ready = {{ http = \"http://127.0.0.1:{port}/\" }}\n"),
            "exec" => format!("ready = {{ exec = {} }}\n", array(&format!("{PYTHON} ask {port}").replace(' ', "|"))),
            "notify" => {
                command = format!("{}|{command}", format!("{PYTHON} lead {port}").replace(' ', "|"));
                "ready = { notify = true }\n".to_owned()
            }
            _ => String::new(),
        };
        let command = array(&command);
        write!(
            table,
            "[[daemon]]\nname = \"{manner}\"\ncommand = {command}\nconfig = {{ path = \"{rules}\" }}\n{ready}"
        )
        .unwrap();
        writeln!(signals, "\"{signal}\" = {{ restart = \"{manner}\" }}").unwrap();
    }
    table + &signals
}

fn python(bundle: &Container, arguments: &[&str]) -> Said {
    let program: Vec<&str> = PYTHON.split(' ').chain(arguments.iter().copied()).collect();
    bundle.try_exec(&program)
}

/// Changes each daemon of a new bundle once. Returns a line for each try, and what is wrong with it, if anything.
fn changes(ready: &str, leftover: Leftover) -> Vec<(String, Option<&'static str>)> {
    let dir = Dir::new();
    dir.write("server.py", include_str!("leftovers/server.py"));
    for (manner, _) in MANNERS {
        let own = dir.path().join(manner);
        std::fs::create_dir(&own).unwrap();
        std::fs::write(own.join("rules"), "old").unwrap();
    }
    let new = dir.write("new", "new");
    // Only root may use su, and needs a capability to kill another user's process. All bundles get the same options.
    let options = ["--user=0", "--cap-add=SETUID", "--cap-add=SETGID", "--cap-add=KILL"];
    let bundle = Container::with_table(&dir, &table(ready, leftover), &options);
    let ports: Vec<String> = (0..MANNERS.len()).map(|n| port(n).to_string()).collect();
    let (code, _, err) = python(&bundle, &[&["up"], &*ports.iter().map(String::as_str).collect::<Vec<_>>()].concat());
    assert_eq!(code, 0, "{err}");
    // A change that can't become live needs no long wait.
    let timeout = if leftover.is_swept() { "--timeout=20s" } else { "--timeout=1500ms" };
    let mut tries = Vec::new();
    for (n, (manner, signal)) in MANNERS.iter().enumerate() {
        let file = format!("--file={}", new.display());
        let mut apply = Command::new(binary());
        let (exit, out, err) = said(apply.args(["apply", "--signal", signal, &file, timeout, &bundle.name]));
        let (_, served, nobody) = python(&bundle, &["look", &ports[n]]);
        let served = if served.is_empty() { "nobody" } else { served.trim() };
        let wrong = match (exit, served) {
            (0, "new") => None,
            (0, _) => Some("it was called live although the new content is not served"),
            _ if leftover.is_swept() => Some("a restart ends this leftover, so the change should be live"),
            // 3: docker took longer than the time-out on a loaded machine, and nothing was sent.
            (1 | 3, "old") | (5, _) => None,
            (1, _) => Some("exit 1 means that nothing changed, but the old content is not served"),
            _ => Some("no change should end with this exit code"),
        };
        let name = leftover.name();
        let line = format!("{ready} {name} {manner}: exit {exit}, served: {served}: {}", (out + &err + &nobody).trim());
        println!("{line}");
        tries.push((line, wrong));
    }
    tries
}

fn no_leftover_makes_a_change_live(ready: &str) {
    let rounds = std::env::var("SIDECAR_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(2);
    let tries: Vec<_> = std::thread::scope(|scope| {
        let of = |leftover| scope.spawn(move || (0..rounds).flat_map(|_| changes(ready, leftover)).collect::<Vec<_>>());
        LEFTOVERS.map(of).into_iter().flat_map(|tries| tries.join().unwrap()).collect()
    });
    let wrong: Vec<_> = tries.iter().filter_map(|(line, wrong)| wrong.map(|why| format!("{why}: {line}"))).collect();
    assert!(wrong.is_empty(), "{} of {} tries:\n{}", wrong.len(), tries.len(), wrong.join("\n"));
}

#[test]
fn no_old_process_that_answers_the_tcp_probe_makes_a_change_live() {
    no_leftover_makes_a_change_live("tcp");
}

#[test]
fn no_old_process_that_answers_the_http_probe_makes_a_change_live() {
    no_leftover_makes_a_change_live("http");
}

#[test]
fn no_old_process_that_answers_an_exec_probe_makes_a_change_live() {
    no_leftover_makes_a_change_live("exec");
}

#[test]
fn no_old_process_can_make_its_replacement_look_live() {
    no_leftover_makes_a_change_live("notify");
}

#[test]
fn no_old_process_makes_a_change_live_if_its_daemon_has_no_ready() {
    no_leftover_makes_a_change_live("nothing");
}
