//! A change made live in running bundles, by a signal to their init, and seen to be live.
//!
//! [`run`] is the host's side. What it hears is judged by parts that do no I/O: [`identify`] says who the bundles
//! are, [`proof`] (in the helper inside the bundle) whether the change is live, [`report`] what it is called.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

pub mod docker;
pub mod identify;
pub mod proof;
pub mod protocol;
pub mod report;
#[cfg(test)]
pub mod sample;

use self::docker::{CallError, Docker};
use self::proof::{Finding, Verdict};
use self::protocol::{Heard, MAX_BYTES, PROTOCOL, Reply, Request, Say, VERSION};
use self::report::{Failure, Report, Success};
use crate::table::Signal;
use crate::text::Plain;

/// The helper's applet.
pub const HELPER: &str = "witness";
/// How long docker, or the helper, may take for what isn't part of the change: to say who is there.
const TO_ANSWER: Duration = Duration::from_secs(30);
/// How long after its own deadline the helper's last word is waited for.
const LAST_WORD: Duration = Duration::from_secs(3);

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// The signal that makes init act.
    pub signal: Signal,
    /// How long it may take from the signal to the proof.
    pub timeout: Duration,
    /// Don't look for the proof.
    pub signal_only: bool,
}

/// Makes the change live in each bundle, side by side; `each` gets the reports, one a bundle, as they come.
/// `names` are possible ones ([`identify::is_possible_name`]).
pub fn run(docker: &Docker, change: Change, names: &[String], mut each: impl FnMut(Report)) {
    let started = Instant::now();
    let mut inspect = vec!["inspect", "--type", "container", "--format", identify::FORMAT];
    inspect.extend(names.iter().map(String::as_str));
    let max_bytes = MAX_BYTES.saturating_mul(names.len());
    let output = match docker.call(&inspect, max_bytes, TO_ANSWER) {
        Ok(output) => output,
        Err(e) => {
            let failure = call_failed(docker, "inspect", &e);
            for (_, name) in
                names.iter().enumerate().filter(|(n, name)| !names.iter().take(*n).any(|other| other == *name))
            {
                let mut report = Report::failed(Some(name.clone()), failure.clone());
                report.ms.total = millis(started);
                each(report);
            }
            return;
        }
    };
    let bundles = identify::identify(names, &output.stdout, &output.stderr);
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        for (name, found) in bundles {
            let sender = sender.clone();
            let serve = move || {
                let mut report = match found {
                    Ok(id) => Bundle { docker, change, id: &id, started }.apply(),
                    Err(failure) => Report::failed(None, failure),
                };
                report.bundle = Some(name.to_owned());
                report.ms.total = millis(started);
                let _ = sender.send(report);
            };
            if thread::Builder::new().spawn_scoped(scope, serve).is_err() {
                let words = Plain::new("the machine allows no further thread");
                each(Report::failed(Some(name.to_owned()), Failure::Unreachable { what: "exec", words }));
            }
        }
        drop(sender);
        receiver.iter().for_each(&mut each);
    });
}

/// One bundle that may be ours.
struct Bundle<'a> {
    docker: &'a Docker,
    change: Change,
    id: &'a str,
    started: Instant,
}

impl Bundle<'_> {
    fn apply(&self) -> Report {
        let mut report = Report::failed(None, Failure::Missing);
        report.result = self.steps(&mut report);
        report
    }

    fn steps(&self, report: &mut Report) -> Result<Success, Failure> {
        let helper = ["exec", "-i", self.id, "/proc/1/exe", HELPER];
        let session = self.docker.session(&helper, MAX_BYTES);
        let mut session = session.map_err(|e| call_failed(self.docker, "exec", &CallError::Spawn(e)))?;
        let timeout = self.change.timeout;
        session.say(&protocol::line(&Request {
            protocol: PROTOCOL,
            version: Plain::new(VERSION),
            signal: self.change.signal.to_string(),
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        }));
        let first = session.hear(Instant::now() + TO_ANSWER);
        report.ms.identify = millis(self.started);
        let Some(heard) = first.as_ref().ok().and_then(|line| protocol::hear(line)) else {
            return Err(no_answer(first.is_ok(), &session.end()));
        };
        match heard {
            Heard::Reply(Reply::Hello { target }) => report.target = Some(target),
            Heard::Reply(Reply::Refused { why, target }) => {
                report.target = target;
                return Err(Failure::Refused(why));
            }
            Heard::Reply(Reply::NotInit { error }) => return Err(Failure::NotInit { error }),
            Heard::Reply(Reply::Protocol) => return Err(no_answer(true, &session.end())),
            Heard::OtherProtocol { protocol, version } => return Err(Failure::OtherProtocol { protocol, version }),
        }
        let hello = Instant::now();
        let signal = self.signal(timeout);
        report.ms.signal = millis(hello);
        signal?;
        if self.change.signal_only {
            return Ok(Success::Sent);
        }
        session.say(&protocol::line(&Say::Sent));
        let sent = Instant::now();
        let last = session.hear(hello + timeout + LAST_WORD);
        report.ms.prove = millis(sent);
        let verdict = last.as_ref().ok().and_then(|line| serde_json::from_slice::<Verdict>(line).ok());
        let Some(verdict) = verdict else {
            return Err(Failure::Lost { words: Plain::from_bytes(&session.end()) });
        };
        report.after = Some(verdict.after);
        report.siblings_moved = Some(verdict.siblings_moved);
        match verdict.finding {
            Finding::Live => Ok(Success::Live),
            Finding::Delivered => Ok(Success::Delivered),
            Finding::ReloadRefused { errno } => Err(Failure::ReloadRefused { errno }),
            Finding::Unproven(short) => Err(Failure::Unproven(short)),
        }
    }

    fn signal(&self, timeout: Duration) -> Result<(), Failure> {
        let signal = self.change.signal.to_string();
        match self.docker.call(&["kill", "--signal", &signal, self.id], MAX_BYTES, timeout) {
            Ok(output) if output.success => Ok(()),
            Ok(output) => {
                let words = Plain::from_bytes(&output.stderr);
                let gone = is_gone(&words);
                Err(Failure::KillFailed { words, gone })
            }
            Err(CallError::TimedOut) => Err(Failure::KillTimedOut),
            Err(e) => Err(call_failed(self.docker, "kill", &e)),
        }
    }
}

/// Nothing that makes sense came from where the helper should be; nothing was sent yet.
fn no_answer(said_something: bool, stderr: &[u8]) -> Failure {
    let words = Plain::from_bytes(stderr);
    if !said_something && is_gone(&words) {
        Failure::Unreachable { what: "exec", words }
    } else {
        Failure::NoAnswer { words }
    }
}

/// Whether docker's words (podman's, nerdctl's) mean that the container isn't there to be reached.
fn is_gone(words: &Plain) -> bool {
    let words = words.as_str().to_lowercase();
    let phrases = [
        "no such container",
        "no container with",
        "is not running",
        "is paused",
        "is restarting",
        "container state improper",
        "cannot connect to",
        "is the docker daemon running",
    ];
    phrases.iter().any(|phrase| words.contains(phrase))
}

fn call_failed(docker: &Docker, what: &'static str, e: &CallError) -> Failure {
    match e {
        CallError::Spawn(e) => Failure::NoDocker {
            program: Plain::from_bytes(docker.program.as_encoded_bytes()),
            words: Plain::new(&e.to_string()),
        },
        CallError::TimedOut => Failure::Unreachable { what, words: Plain::new("it gave no answer in time") },
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
