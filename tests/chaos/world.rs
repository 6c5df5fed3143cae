//! The bundle under chaos: what is done to it, what is seen of it, which promise it broke.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use serde_json::Value;

use crate::containers::{Container, SIDECAR, said};
use crate::report::Rest;
use crate::{DAEMONS, PIPELOCK, RESTARTS};

/// How long is waited for what must come: a loaded machine is no failure.
const PATIENCE: Duration = Duration::from_secs(90);
const EGRESS: usize = 0;

/// Sends a signal to PID 1, as often as it is told, and prints when it sent the last one.
const BURST: &str = r#"
import datetime, os, signal, sys
number = getattr(signal, "SIG" + sys.argv[1])
for _ in range(int(sys.argv[2])):
    at = datetime.datetime.now(datetime.UTC)
    os.kill(1, number)
print(at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
"#;

/// Writes that many requests to restart a daemon.
const REQUESTS: &str = r#"
import os, sys
name, times, id = sys.argv[1:]
fd = os.open("/proc/1/fd/101", os.O_WRONLY)
for n in range(int(times)):
    os.write(fd, f"\n{id}-{n} restart {name}\n".encode())
"#;

/// Lines into a daemon's own pipe, in pieces that no other writer can cut (`PIPE_BUF`).
const FLOOD: &str = r#"
import os, sys
path, name, kib = sys.argv[1:]
piece = (b"flood " + name.encode()).ljust(63, b".") + b"\n"
fd = os.open(path, os.O_WRONLY)
for _ in range(int(kib) // 4):
    os.write(fd, piece * 64)
"#;

/// Half of them end at once, the others soon.
const ORPHANS: &str = r#"
i=0
while [ $i -lt "$0" ]; do (: &); (exec sleep 0.$((i % 7)) &); i=$((i + 2)); done < /dev/null > /dev/null 2>&1
"#;

/// Takes memory until the kernel kills it: it offers itself.
const HOG: &str = r#"
with open("/proc/self/oom_score_adj", "w") as file:
    file.write("1000")
kept = []
for _ in range(256):
    kept.append(b"x" * (16 << 20))
"#;

/// What is seen at rest, in one call of docker's.
const LOOK: &str =
    "/proc/1/exe status --ready --json; ls /proc/1/fd | wc -l; sed -n 's/^RssAnon:[^0-9]*//p' /proc/1/status
cat /proc/[0-9]*/stat 2> /dev/null | sed 's/.*) //' | grep -c ^Z";

#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    Good(u64),
    /// The checker refuses it.
    Typo,
    /// The checker passes it, and pipelock can't run with it: the clients' own port. (For egress: another typo.)
    Deadly,
}

/// From before something was done to a daemon until it was seen to be ready again.
pub struct Gap {
    pub daemon: usize,
    pub cause: &'static str,
    pub from: f64,
    pub to: f64,
}

/// What the container's log said.
#[derive(Default)]
pub struct Heard {
    /// The signals that init received, and when.
    pub received: Vec<(String, String)>,
    floods: BTreeMap<String, u64>,
    /// How many lines of daemons that were being ended found no room.
    pub dropped: u64,
    /// How often lines of init's own log found none.
    pub own_dropped: u64,
    /// By daemon: its policy's delay that was told last, and when, in seconds.
    backoff: BTreeMap<String, (f64, f64)>,
    /// By daemon: each delay that was told, and how long it took until the next start.
    pub delays: BTreeMap<String, Vec<(f64, f64)>>,
}

pub struct World<'a> {
    bundle: &'a Container,
    pub heard: Arc<Mutex<Heard>>,
    pub gaps: Mutex<Vec<Gap>>,
    pub sent: Mutex<BTreeMap<String, u64>>,
    pub flooded: Mutex<u64>,
    pub orphaned: Mutex<u64>,
    /// How often a daemon was killed.
    pub killed: Mutex<u64>,
    /// What was asked for by request, and how often.
    pub asked: Mutex<BTreeMap<String, u64>>,
    broken: Mutex<Vec<String>>,
    round: Mutex<String>,
    log: Child,
}

pub fn now() -> f64 {
    Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap()).as_secs_f64()
}

impl<'a> World<'a> {
    pub fn new(bundle: &'a Container) -> Self {
        let mut log = Command::new("docker");
        let mut log = log
            .args(["logs", "--follow", &bundle.name])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let heard = Arc::default();
        listen(log.stdout.take().unwrap(), &heard);
        listen(log.stderr.take().unwrap(), &heard);
        Self {
            bundle,
            heard,
            gaps: Mutex::default(),
            sent: Mutex::default(),
            flooded: Mutex::default(),
            orphaned: Mutex::default(),
            killed: Mutex::default(),
            asked: Mutex::default(),
            broken: Mutex::default(),
            round: Mutex::default(),
            log,
        }
    }

    pub fn begin_round(&self, acts: &str) {
        acts.clone_into(&mut self.round.lock().unwrap());
    }

    pub fn is_whole(&self) -> bool {
        self.broken.lock().unwrap().is_empty()
    }

    pub fn broken(&self) -> Vec<String> {
        self.broken.lock().unwrap().clone()
    }

    fn breaks(&self, what: &str) {
        let round = self.round.lock().unwrap();
        self.broken.lock().unwrap().push(format!("{what}, in the round {round}"));
    }

    /// Waits for a condition. If it doesn't come, a promise is broken.
    pub fn wait(&self, what: &str, mut condition: impl FnMut() -> bool) -> bool {
        let began = Instant::now();
        while !condition() {
            if began.elapsed() > PATIENCE {
                self.breaks(&format!("not seen within {} s: {what}", PATIENCE.as_secs()));
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }

    fn python(&self, program: &str, arguments: &[&str]) -> (i32, String, String) {
        self.bundle.try_exec(&[&["/opt/supervise/bin/python", "-c", program], arguments].concat())
    }

    /// Sends a signal to init and tells when the last one was sent, at the latest.
    fn send(&self, signal: &str, times: u32) -> String {
        *self.sent.lock().unwrap().entry(signal.to_owned()).or_default() += u64::from(times);
        let (code, out, err) = if times == 1 {
            let script = "date -u +%Y-%m-%dT%H:%M:%S.%6NZ; exec docker kill --signal \"$0\" \"$1\" > /dev/null";
            said(Command::new("sh").args(["-c", script, signal, &self.bundle.name]))
        } else {
            self.python(BURST, &[signal, &times.to_string()])
        };
        assert_eq!(code, 0, "SIG{signal} can't be sent: {err}");
        out.trim().to_owned()
    }

    /// After the last one that was sent there is one that was received, and what became of it is told.
    fn is_served(&self, signal: &str, sent: &str, expected: &str) {
        let is_received = || {
            let heard = self.heard.lock().unwrap();
            heard.received.iter().any(|(name, at)| name == signal && at.as_str() >= sent)
        };
        self.wait(&format!("SIG{signal} received after {sent}"), is_received);
        let mut outcome = Value::Null;
        self.wait(&format!("an outcome of SIG{signal}"), || {
            outcome = self.bundle.status()["signals"][signal]["last"]["outcome"].clone();
            !["restarting", "held"].map(Value::from).contains(&outcome) && outcome.is_string()
        });
        if outcome != expected {
            self.breaks(&format!("the outcome of SIG{signal} is {outcome}, not {expected}"));
        }
    }

    fn is_ready(&self, daemon: usize) -> bool {
        let out = self.bundle.try_exec(&["/proc/1/exe", "status", "--ready", "--json"]).1;
        let status: Value = serde_json::from_str(&out).unwrap_or_default();
        status["daemons"][daemon]["ready"] == true && status["daemons"][daemon]["state"] == "running"
    }

    /// Does something to a daemon, that is ready again afterwards.
    fn gap(&self, daemon: usize, cause: &'static str, act: impl FnOnce()) {
        let from = now();
        act();
        self.wait(&format!("{} ready again", DAEMONS[daemon]), || self.is_ready(daemon));
        self.gaps.lock().unwrap().push(Gap { daemon, cause, from, to: now() });
    }

    fn signal_daemon(&self, daemon: usize, signal: &str) {
        let pid = self.bundle.daemon(DAEMONS[daemon])["pid"].to_string();
        let (code, _, err) = self.bundle.try_exec(&["sh", "-c", &format!("kill -{signal} {pid}")]);
        assert_eq!(code, 0, "kill -{signal} {pid}: {err}");
    }

    fn restart_once(&self, daemon: usize) {
        let sent = self.send(RESTARTS[daemon], 1);
        self.is_served(RESTARTS[daemon], &sent, "restarted");
    }

    pub fn restart(&self, daemon: usize, times: u32) {
        self.gap(daemon, if times == 1 { "a restart" } else { "a burst of 200 restarts" }, || {
            let sent = self.send(RESTARTS[daemon], times);
            self.is_served(RESTARTS[daemon], &sent, "restarted");
        });
    }

    pub fn reload(&self, times: u32) {
        let sent = self.send("HUP", times);
        self.is_served("HUP", &sent, "delivered");
    }

    /// Kills a daemon, again and again as soon as it is back; the last time a request may bring it back.
    pub fn kill(&self, daemon: usize, signal: &str, times: u32, ask: bool) {
        let name = DAEMONS[daemon];
        self.gap(daemon, "kills, and the delays of the restart policy", || {
            for n in 1..=times {
                let before = self.bundle.daemon(name);
                let delays = || self.heard.lock().unwrap().delays.get(name).cloned().unwrap_or_default();
                let known = delays().len();
                self.signal_daemon(daemon, signal);
                *self.killed.lock().unwrap() += 1;
                if ask && n == times {
                    self.wait(&format!("the end of {name}"), || self.bundle.daemon(name)["pid"] != before["pid"]);
                    self.ask("restart", daemon);
                } else {
                    let is_back = || {
                        let now = self.bundle.daemon(name);
                        now["state"] == "running"
                            && now["revivals"].as_u64() == before["revivals"].as_u64().map(|n| n + 1)
                    };
                    self.wait(&format!("{name} back by its policy"), is_back);
                    self.wait(&format!("the delay of {name} in the log"), || delays().len() > known);
                    if let Some((delay, took)) = delays().last() {
                        // The line about a delay comes a moment after the death that it counts from. (A day may have passed.)
                        if *took + 0.05 < *delay && *took > 0.0 {
                            self.breaks(&format!("{name} was started {took:.3} s after its death, not {delay} s"));
                        }
                    }
                }
            }
        });
    }

    pub fn freeze(&self, daemon: usize, length: Duration, restart: bool) {
        self.gap(daemon, "a freeze, and what the chaos let it last", || {
            self.signal_daemon(daemon, "STOP");
            std::thread::sleep(length);
            if restart {
                self.restart_once(daemon);
            } else {
                self.signal_daemon(daemon, "CONT");
            }
        });
    }

    /// Asks by an applet inside the bundle, which says that it is so.
    fn ask(&self, verb: &str, daemon: usize) {
        let (code, out, err) = self.bundle.try_exec(&["/proc/1/exe", verb, "--timeout=60s", DAEMONS[daemon]]);
        *self.asked.lock().unwrap().entry(verb.to_owned()).or_default() += 1;
        if code != 0 {
            self.breaks(&format!("{verb} {} by request is exit {code}: {out}{err}", DAEMONS[daemon]));
        }
    }

    pub fn ask_restart(&self, daemon: usize) {
        self.gap(daemon, "a restart by request", || self.ask("restart", daemon));
    }

    /// Writes requests without waiting for what becomes of them, but for the last. (While 64 are undecided, init ignores more.)
    pub fn ask_restarts(&self, daemon: usize, times: u32) {
        let (name, id) = (DAEMONS[daemon], format!("chaos-{:.6}", now()).replace('.', "-"));
        self.gap(daemon, "a burst of 60 restarts by request", || {
            let (code, _, err) = self.python(REQUESTS, &[name, &times.to_string(), &id]);
            assert_eq!(code, 0, "requests can't be written: {err}");
            *self.asked.lock().unwrap().entry("restart".to_owned()).or_default() += u64::from(times);
            let last = format!("{id}-{}", times - 1);
            let mut outcome = Value::Null;
            self.wait(&format!("an outcome of request {last}"), || {
                let requests = self.bundle.daemon(name)["requests"].clone();
                let found = requests.as_array().and_then(|all| all.iter().find(|request| request["id"] == *last));
                outcome = found.map_or(Value::Null, |request| request["outcome"].clone());
                outcome.is_string() && outcome != "pending"
            });
            if outcome != "started" {
                self.breaks(&format!("the outcome of request {last} is {outcome}"));
            }
        });
    }

    pub fn stop_and_start(&self, daemon: usize, length: Duration) {
        self.gap(daemon, "a stop by request, and what the chaos let it last", || {
            self.ask("stop", daemon);
            let generation = self.bundle.daemon(DAEMONS[daemon])["generation"].clone();
            std::thread::sleep(length);
            let now = self.bundle.daemon(DAEMONS[daemon]);
            if now["state"] != "stopped" || now["generation"] != generation {
                self.breaks(&format!("{} didn't stay stopped: {now}", DAEMONS[daemon]));
            }
            self.ask("start", daemon);
        });
    }

    pub fn flood(&self, daemon: usize, fd: u8, kib: u64) {
        let name = format!("{:.6} {daemon}", now());
        let pid = self.bundle.daemon(DAEMONS[daemon])["pid"].to_string();
        let path = format!("/proc/{pid}/fd/{fd}");
        let (code, _, err) = self.python(FLOOD, &[&path, &name, &kib.to_string()]);
        assert_eq!(code, 0, "a flood: {err}");
        let lines = kib / 4 * 64;
        *self.flooded.lock().unwrap() += lines;
        let heard = || self.heard.lock().unwrap().floods.get(&name) == Some(&lines);
        self.wait(&format!("{lines} lines of the flood {name} in the log"), heard);
    }

    pub fn orphans(&self, count: u64) {
        let (code, _, err) = self.bundle.try_exec(&["sh", "-c", ORPHANS, &count.to_string()]);
        assert_eq!(code, 0, "orphans: {err}");
        *self.orphaned.lock().unwrap() += count;
    }

    pub fn memory(&self) {
        let (code, ..) = self.python(HOG, &[]);
        if code != 137 {
            self.breaks(&format!("there was memory without end: the hog exited {code}"));
        }
    }

    pub fn allowlist(&self, content: &Content) {
        let text = include_str!("../../bundle/pipelock/pipelock.yaml")
            .replace("api.anthropic.com", "web.test")
            .replace("max_requests_per_minute: 1000", "max_requests_per_minute: 1000000")
            + "\nssrf:\n  ip_allowlist: [\"127.0.0.0/8\"]\n";
        let (cause, text, expected) = match content {
            Content::Good(n) => ("a good apply", format!("{text}# {n}\n"), "live"),
            Content::Typo => return self.apply("apply-allowlist", &text.replace("mode: strict", "mod: x"), "refused"),
            Content::Deadly => ("an apply that is taken back", text.replace(":8888", ":8000"), "rolled-back"),
        };
        self.gap(PIPELOCK, cause, || self.apply("apply-allowlist", &text, expected));
    }

    pub fn routes(&self, content: &Content) {
        let route = |n| {
            format!(
                "routes:\n  - {{ host: elsewhere.test, scheme: http, headers: {{ Authorization: \"Bearer {n}\" }} }}\n"
            )
        };
        match content {
            Content::Good(n) => self.apply("apply-egress", &route(*n), "live"),
            _ => self.apply("apply-egress", "routes: {", "refused"),
        }
    }

    fn apply(&self, applet: &str, content: &str, expected: &str) {
        let mut command = Command::new(SIDECAR);
        command.args([applet, "--file=-", "--timeout=60s", "--json", &self.bundle.name]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(content.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if said["outcome"] != expected && said["outcome"] != "unchanged" {
            self.breaks(&format!("{applet} is not {expected}: {said}"));
        }
    }

    /// Waits until the bundle has come to rest: each daemon ready, no zombie, the descriptors as at first. With what
    /// was seen first and last: nobody is another process whom nothing was done to.
    pub fn rest(&self, before: Option<(&Rest, &[usize], &Rest)>) -> Option<Rest> {
        let mut rest = None;
        let mut seen = String::new();
        let is_at_rest = || {
            seen = self.bundle.try_exec(&["sh", "-c", LOOK]).1;
            rest = Rest::read(&seen).filter(|now| {
                let first = before.map_or(now, |(first, ..)| first);
                now.is_ready && now.zombies == 0 && now.descriptors == first.descriptors
            });
            rest.is_some()
        };
        if !self.wait("the bundle at rest", is_at_rest) {
            self.breaks(&format!("this is what it looked like: {seen}"));
            return None;
        }
        if let (Some((_, asked, last)), Some(now)) = (before, &rest) {
            for name in now.moved_unasked(last, asked) {
                self.breaks(&format!("{name} is another process, and nothing was done to it"));
            }
        }
        rest
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        let _ = self.log.kill();
        let _ = self.log.wait();
    }
}

fn listen(from: impl Read + Send + 'static, heard: &Arc<Mutex<Heard>>) {
    let heard = Arc::clone(heard);
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            heard.lock().unwrap().line(&String::from_utf8_lossy(&line));
            line.clear();
        }
    });
}

/// The time of day that a line of init's begins with, in seconds.
fn seconds(line: &str) -> f64 {
    let time = line.split(['T', 'Z']).nth(1).unwrap_or_default();
    time.split(':').filter_map(|part| part.parse::<f64>().ok()).fold(0.0, |sum, part| sum * 60.0 + part)
}

impl Heard {
    fn line(&mut self, line: &str) {
        if let Some((_, flood)) = line.split_once("] flood ") {
            *self.floods.entry(flood.trim_end().trim_end_matches('.').to_owned()).or_default() += 1;
            return;
        }
        // A daemon's line could say the same.
        if line.starts_with('[') {
            return;
        }
        if let Some((before, delay)) = line.trim_end().split_once(" is started again in ") {
            let name = before.rsplit(' ').next().unwrap_or_default();
            let delay = delay.trim_end_matches(" s").parse().unwrap_or(f64::MAX);
            self.backoff.insert(name.to_owned(), (delay, seconds(line)));
        } else if let Some((_, name)) = line.trim_end().split_once(" starting ") {
            if let Some((delay, told)) = self.backoff.remove(name) {
                self.delays.entry(name.to_owned()).or_default().push((delay, seconds(line) - told));
            }
        } else if let Some((before, after)) = line.split_once(" received SIG") {
            let word = |text: &str| text.split(' ').next().unwrap_or_default().to_owned();
            self.received.push((word(after), word(before)));
        } else if let Some((count, _)) = line.split_once(" lines were dropped here") {
            self.dropped += count.parse::<u64>().unwrap_or(0);
        } else if line.contains(" lines of init's log were dropped") {
            self.own_dropped += 1;
        }
    }
}
