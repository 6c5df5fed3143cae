//! On a real Engine: if an old process outlives its daemon and keeps the socket, a change may only be called live if the
//! new content is served. This is tried for each kind of `ready`, each way in which a process can outlive its daemon, each
//! reaction of the replacement to a socket that is taken, and for processes that are one restart old and older. `scripts/test` runs
//! this; `SIDECAR_ROUNDS` sets how often each is tried.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and its helpers are tests too")]
#![allow(dead_code, reason = "what another test file needs of the containers")]

mod containers;

use std::process::Command;

use containers::{Container, Dir, Said, binary, said, wait_until};
use serde_json::Value;

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
    /// The same with a cleared environment.
    Login,
    /// A session of its own, which nothing ends.
    Session,
    /// The same with a cleared environment.
    Cleared,
    /// The server itself goes into the background.
    Background,
}

const LEFTOVERS: [Leftover; 7] = [
    Leftover::Group,
    Leftover::Job,
    Leftover::Su,
    Leftover::Login,
    Leftover::Session,
    Leftover::Cleared,
    Leftover::Background,
];

/// What a replacement does if its socket is taken. `loads` gives up too, but later than `settle`.
const MANNERS: [(&str, &str); 4] =
    [("gives-up", "USR1"), ("loads", "USR2"), ("waits", "RTMIN+1"), ("shares", "RTMIN+2")];

impl Leftover {
    fn name(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Job => "job",
            Self::Su => "su",
            Self::Login => "login",
            Self::Session => "session",
            Self::Cleared => "cleared",
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
            Self::Login => format!("su|-s|/bin/sh|-c|exec {PYTHON} {serve}|-|nobody"),
            Self::Session => format!("sh|-c|nohup setsid {PYTHON} {serve} & wait"),
            Self::Cleared => format!("sh|-c|nohup env -i setsid {PYTHON} {serve} & wait"),
            Self::Background => format!("{PYTHON} {}", serve.replace("serve", "background")).replace(' ', "|"),
        }
    }
}

/// Where the content of the daemon with this manner is served.
fn address(ready: &str, manner: usize) -> String {
    match ready {
        "unix" | "datagrams" => format!("{ready}:/tmp/{manner}"),
        "udp" => format!("udp:{}", 8080 + manner),
        _ => format!("tcp:{}", 8080 + manner),
    }
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
        let (address, rules) = (address(ready, n), rules(manner));
        let (port, health) = (8080 + n, 9080 + n);
        let mut command = leftover.command(&format!("serve {manner} {address} {rules}"));
        let ready = match ready {
            "tcp" => format!("ready = {{ tcp = \"127.0.0.1:{port}\" }}\n"),
            "http" => format!("ready = {{ http = \"http://127.0.0.1:{port}/\" }}\n"),
            // It is served at another port than the one that is asked.
            "health" => {
                command = format!("{}|{command}", format!("{PYTHON} health {health}").replace(' ', "|"));
                format!("ready = {{ tcp = \"127.0.0.1:{health}\" }}\n")
            }
            "notify" => {
                command = format!("{}|{command}", format!("{PYTHON} lead {address}").replace(' ', "|"));
                "ready = { notify = true }\n".to_owned()
            }
            "nothing" => String::new(),
            _ => format!("ready = {{ exec = {} }}\n", array(&format!("{PYTHON} ask {address}").replace(' ', "|"))),
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

/// Restarts a daemon by its signal, and waits until its old leader is gone.
fn restart(bundle: &Container, manner: &str, signal: &str) {
    let generation = |daemon: &Value| daemon["generation"].as_u64();
    let before = generation(&bundle.daemon(manner));
    bundle.kill(signal);
    wait_until("next generation", || {
        let daemon = bundle.daemon(manner);
        let is_over = daemon["state"] == "running" || daemon["state"] == "exited";
        (is_over && generation(&daemon) > before).then_some(())
    });
}

/// Changes each daemon of a new bundle, once it has been restarted so often, until that is live, and not more than twice. Returns a line
/// for each try, and what is wrong with it, if anything.
fn changes(ready: &str, leftover: Leftover, restarts: usize) -> Vec<(String, Option<&'static str>)> {
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
    let addresses: Vec<String> = (0..MANNERS.len()).map(|n| address(ready, n)).collect();
    let up = || python(&bundle, &[&["up"], &*addresses.iter().map(String::as_str).collect::<Vec<_>>()].concat());
    let (code, _, err) = up();
    assert_eq!(code, 0, "{err}");
    for _ in 0..restarts {
        MANNERS.iter().for_each(|(manner, signal)| restart(&bundle, manner, signal));
    }
    assert_eq!(up().0, 0);
    // A change that can't become live needs no long wait.
    let timeout = if leftover.is_swept() { "--timeout=20s" } else { "--timeout=3s" };
    let mut tries = Vec::new();
    for (n, (manner, signal)) in MANNERS.iter().enumerate() {
        let file = format!("--file={}", new.display());
        let mut before = "old".to_owned();
        for number in 1..=2 {
            let mut apply = Command::new(binary());
            let (exit, out, err) = said(apply.args(["apply", "--signal", signal, &file, timeout, &bundle.name]));
            let (_, served, nobody) = python(&bundle, &["look", &addresses[n]]);
            let served = if served.is_empty() { "nobody" } else { served.trim() };
            let wrong = match (exit, served) {
                (0, "new") => None,
                (0, _) => Some("it was called live although the new content is not served"),
                _ if leftover.is_swept() => Some("a restart ends this leftover, so the change should be live"),
                // 3: docker took longer than the time-out on a loaded machine, and nothing was sent.
                (1 | 3, "old") | (5, _) => None,
                (1 | 3, _) if served == before => None,
                (1, _) => Some("exit 1 means that nothing changed, but what was served before is not served"),
                _ => Some("no change should end with this exit code"),
            };
            let what = format!("{ready} {} {manner}, {restarts} restarts, change {number}", leftover.name());
            let line = format!("{what}: exit {exit}, served: {served}: {}", (out + &err + &nobody).trim());
            println!("{line}");
            tries.push((line, wrong));
            before = served.to_owned();
            // Who gives up leaves nothing to be mistaken for it.
            if exit == 0 || *manner == "gives-up" {
                break;
            }
        }
    }
    tries
}

fn no_leftover_makes_a_change_live(ready: &str) {
    let rounds = std::env::var("SIDECAR_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1);
    let tries: Vec<_> = std::thread::scope(|scope| {
        // Every second bundle's daemons have been restarted before.
        let restarts = move |round: usize, leftover: Leftover| (round + leftover as usize + ready.len()) % 2 * 2;
        let round = move |leftover| {
            (0..rounds).flat_map(|round| changes(ready, leftover, restarts(round, leftover))).collect::<Vec<_>>()
        };
        let of = |leftover| scope.spawn(move || round(leftover));
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
fn no_old_process_at_another_port_than_the_probes_makes_a_change_live() {
    no_leftover_makes_a_change_live("health");
}

#[test]
fn no_old_process_that_answers_an_exec_probe_makes_a_change_live() {
    no_leftover_makes_a_change_live("exec");
}

#[test]
fn no_old_process_that_answers_an_exec_probe_by_udp_makes_a_change_live() {
    no_leftover_makes_a_change_live("udp");
}

#[test]
fn no_old_process_that_holds_a_unix_socket_makes_a_change_live() {
    no_leftover_makes_a_change_live("unix");
}

#[test]
fn no_old_process_that_takes_datagrams_by_a_path_makes_a_change_live() {
    no_leftover_makes_a_change_live("datagrams");
}

#[test]
fn no_old_process_can_make_its_replacement_look_live() {
    no_leftover_makes_a_change_live("notify");
}

#[test]
fn no_old_process_makes_a_change_live_if_its_daemon_has_no_ready() {
    no_leftover_makes_a_change_live("nothing");
}

#[test]
fn an_agent_of_a_sibling_or_of_the_daemon_itself_blocks_no_change() {
    let dir = Dir::new();
    dir.write("server.py", include_str!("leftovers/server.py"));
    std::fs::create_dir(dir.path().join("web")).unwrap();
    std::fs::write(dir.path().join("web/rules"), "old").unwrap();
    let new = dir.write("new", "new");
    let (rules, ask) = (rules("web"), array(&format!("{PYTHON} ask unix:/tmp/web").replace(' ', "|")));
    // As ssh-agent does: a session of its own, and a unix socket. web ends the one of its last process.
    let serve = array(&format!("sh|-c|{PYTHON} agent /tmp/own; exec {PYTHON} serve loads unix:/tmp/web {rules}"));
    let sibling = array(&format!("sh|-c|{PYTHON} agent /tmp/agent-$SIDECAR_GENERATION; exec sleep 1000"));
    let table = format!(
        "grace = \"300ms\"\n[[daemon]]\nname = \"sibling\"\ncommand = {sibling}\n\
        [[daemon]]\nname = \"web\"\ncommand = {serve}\nready = {{ exec = {ask} }}\nconfig = {{ path = \"{rules}\" }}\n\
        [signals]\nUSR1 = {{ restart = \"web\" }}\nUSR2 = {{ restart = \"sibling\" }}\n"
    );
    let bundle = Container::with_table(&dir, &table, &["--user=0"]).ready();
    // The sibling's old one goes on, too.
    restart(&bundle, "sibling", "USR2");
    restart(&bundle, "web", "USR1");
    let file = format!("--file={}", new.display());
    for content in ["new", "newer"] {
        dir.write("new", content);
        let said = said(Command::new(binary()).args(["apply", "--signal", "USR1", &file, &bundle.name]));
        assert_eq!(said.0, 0, "{said:?}");
        assert_eq!(python(&bundle, &["look", "unix:/tmp/web"]).1.trim(), content);
    }
}
