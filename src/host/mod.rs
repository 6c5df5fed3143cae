//! A change made live in running bundles, by a signal to their init, and seen to be live.
//!
//! [`run::run`] is the host's side. What it hears is judged by parts that do no I/O: [`identify`] says who the bundles
//! are ([`pods`] in Kubernetes), [`fleet`] which of them begins when, [`proof`] (in the helper inside the bundle) whether the change is live,
//! [`report`] what it is called.

use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant};

pub mod docker;
pub mod engine;
pub mod fleet;
pub mod identify;
pub mod pods;

pub mod report;
pub mod run;

pub mod stop;

use self::docker::{CallError, NoLine, POLL_INTERVAL, Session};
use self::engine::{BundleRef, Engine};
use self::report::{Failure, Report, Success};
use self::stop::{Gate, Word};
use crate::change::proof::Finding;
use crate::change::transaction::{Ending, Mark, Trouble};
use crate::protocol;
use crate::protocol::{End, Heard, MAX_BYTES, PROTOCOL, Reply, Request, Say, Task, Tell, VERSION};
use crate::table::Signal;
use crate::text::Printable;

/// The helper's applet.
pub const HELPER: &str = "witness";
/// The longest that docker, or the helper, may take to say who is there.
const TO_ANSWER: Duration = Duration::from_secs(30);
/// How long after its own deadline the helper's last word is waited for.
const LAST_WORD: Duration = Duration::from_secs(8);
/// The longest grace that a bundle is believed to have.
const LONGEST_GRACE: Duration = Duration::from_secs(10 * 60);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Change {
    /// The signal that makes init act.
    pub signal: Signal,
    /// How long it may take to begin, and then to the proof.
    pub timeout: Duration,
    /// What is to be done.
    pub task: Task,
    /// The new content, for a task that has one.
    pub content: Vec<u8>,
    /// Who asks for it.
    pub by: Printable,
}

/// One bundle that may be ours.
struct Bundle<'a> {
    engine: &'a Engine,
    change: &'a Change,
    bundle: &'a BundleRef,
    started: Instant,
    /// The change's, or what is left of the time for all.
    timeout: Duration,
    /// What is told to all of the fleet.
    gate: &'a Gate,
    /// Tells the fleet that this one is proven.
    proven: &'a dyn Fn(),
}

/// What a connection broke off with.
enum Lost {
    /// Nothing that makes sense came.
    Words(Printable),
    /// A person leaves.
    Left,
}

impl Bundle<'_> {
    fn apply(&self) -> Report {
        let mut report = Report::failed(None, Failure::Missing);
        report.result = self.steps(&mut report);
        report
    }

    fn open(&self) -> Result<Session, Failure> {
        let helper = self.engine.exec(self.bundle, HELPER);
        let session = docker::session(&self.engine.program, &helper, MAX_BYTES);
        session.map_err(|e| call_failed(self.engine, "exec", &CallError::Spawn(e)))
    }

    fn request(&self, task: Task, timeout: Duration, id: &Printable) -> String {
        protocol::line(&Request {
            protocol: PROTOCOL,
            version: Printable::new(VERSION),
            signal: self.change.signal.to_string(),
            from_inside: self.kill().is_none(),
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            task,
            id: id.clone(),
            by: self.change.by.clone(),
        })
    }

    fn steps(&self, report: &mut Report) -> Result<Success, Failure> {
        if self.gate.says(Word::Back) {
            return Err(Failure::Interrupted);
        }
        let mut session = self.open()?;
        let (timeout, task) = (self.timeout, &self.change.task);
        let id = random_id();
        session.say(self.request(task.clone(), timeout, &id).as_bytes());
        let first = session.hear(Instant::now() + to_ask(timeout), self.gate, false);
        report.ms.identify = millis(self.started);
        // From inside it may be out before the first word is heard.
        let may_be_sent = matches!(task, Task::Identify | Task::InPlace) && self.kill().is_none();
        let Some(heard) = first.as_ref().ok().and_then(|line| protocol::hear(line)) else {
            return Err(match no_answer(first.err(), session.end()) {
                Failure::Unreachable { words, .. } if may_be_sent && !never_began(&words) => Failure::Lost { words },
                Failure::Interrupted if may_be_sent => Failure::Lost { words: Printable::new("interrupted") },
                failure => failure,
            });
        };
        match heard {
            Heard::Reply(Reply::Hello { target }) => report.target = Some(target),
            Heard::Reply(Reply::Refused { why, target }) => {
                report.target = target;
                return Err(Failure::Refused(why));
            }
            Heard::Reply(Reply::NotInit { error }) => return Err(Failure::NotInit { error }),
            Heard::Reply(Reply::Protocol | Reply::Settled { .. }) => return Err(no_answer(None, session.end())),
            Heard::OtherProtocol { protocol, version } => return Err(Failure::OtherProtocol { protocol, version }),
        }
        if matches!(task, Task::Identify) {
            let started = Instant::now();
            let sent = match self.kill() {
                Some(kill) => self.signal(&kill, timeout),
                None => sent_from_inside(&mut session, started + timeout, self.gate),
            };
            report.ms.signal = millis(started);
            return sent.map(|()| Success::Sent);
        }
        // Only now: what may hold credentials is told to no stranger.
        session.say(&self.change.content);
        let mut talk = Talk { session, gate: self.gate, stopped: false, acked: false, grace: Duration::ZERO };
        match self.transact(&mut talk, report) {
            Ok(result) => result,
            Err((_, Some(failure))) => Err(failure),
            Err((lost, None)) => {
                let words = match &lost {
                    Lost::Words(words) => words.clone(),
                    Lost::Left => Printable::default(),
                };
                match (task, lost) {
                    (Task::File { .. }, Lost::Words(_)) => self.ask(&talk, &id),
                    (Task::File { .. }, Lost::Left) => Err(Failure::Unsettled { words }),
                    // From inside it may be out before the word of it arrives.
                    (Task::InPlace, _) if report.sent || self.kill().is_none() => Err(Failure::Lost { words }),
                    _ => Err(Failure::NotChanged(Trouble::HostGone)),
                }
            }
        }
    }

    /// From the content to the last word. On a connection that broke also tells what docker's kill had said.
    fn transact(
        &self,
        talk: &mut Talk<'_>,
        report: &mut Report,
    ) -> Result<Result<Success, Failure>, (Lost, Option<Failure>)> {
        let timeout = self.timeout;
        let file = matches!(self.change.task, Task::File { .. });
        // The wait for another, the settling of what that left, the check.
        let begin = Instant::now() + timeout * 3 + TO_ANSWER;
        let (target, grace) = match talk.hear(begin).map_err(|lost| (lost, None))? {
            Tell::Go { target, grace_ms } => (target, Duration::from_millis(grace_ms)),
            Tell::End(end) => return self.judge(*end, talk, report, None),
            Tell::Sent | Tell::Proven => return Err((talk.garbage(), None)),
        };
        report.target = Some(target);
        talk.grace = grace.min(LONGEST_GRACE);
        let go = Instant::now();
        // What the helper sends by itself it has sent with this word.
        let sent = self.kill().map_or(Ok(()), |kill| self.signal(&kill, timeout));
        report.ms.signal = millis(go);
        let (say, not_sent) = match sent {
            Ok(()) => (Say::Sent, None),
            Err(failure) if !file => return Ok(Err(failure)),
            Err(failure) => (Say::NotSent, Some(failure)),
        };
        report.sent = not_sent.is_none();
        talk.say(say);
        let sent = Instant::now();
        let end = go + timeout * 2 + talk.grace + LAST_WORD;
        let mut heard = talk.hear(end);
        if file && matches!(heard, Ok(Tell::Proven)) {
            report.ms.prove = millis(sent);
            (self.proven)();
            heard = match talk.hold(end + LAST_WORD) {
                Ok(None) => {
                    talk.acked = true;
                    talk.say(Say::Ack);
                    talk.hear(end + LAST_WORD)
                }
                Ok(Some(tell)) => Ok(tell),
                Err(lost) => Err(lost),
            };
        }
        // What was placed is placed, whatever docker says of the kill: then the bundle is asked.
        let gone = not_sent.as_ref().filter(|f| !file && matches!(f, Failure::KillFailed { gone: true, .. })).cloned();
        match heard {
            Ok(Tell::End(end)) => {
                if report.ms.prove == 0 {
                    report.ms.prove = millis(sent).saturating_sub(end.back_ms);
                }
                self.judge(*end, talk, report, not_sent)
            }
            Ok(Tell::Go { .. } | Tell::Sent | Tell::Proven) => Err((talk.garbage(), gone)),
            Err(lost) => Err((lost, gone)),
        }
    }

    fn judge(
        &self,
        end: End,
        talk: &mut Talk<'_>,
        report: &mut Report,
        not_sent: Option<Failure>,
    ) -> Result<Result<Success, Failure>, (Lost, Option<Failure>)> {
        (report.ms.wait, report.ms.check, report.ms.back) = (end.wait_ms, end.check_ms, end.back_ms);
        (report.after, report.siblings_moved) = (end.after, end.siblings_moved);
        (report.checked, report.diff) = (end.checked, end.diff);
        let file = matches!(self.change.task, Task::File { .. });
        Ok(match end.ending {
            Ending::Unchanged if file => Ok(Success::Unchanged),
            Ending::Checked if matches!(self.change.task, Task::DryRun { .. }) => Ok(Success::DryRun),
            Ending::Live { finding: Finding::Live } if talk.acked || report.sent && !file => Ok(Success::Live),
            Ending::Live { finding: Finding::Delivered } if talk.acked || report.sent && !file => {
                Ok(Success::Delivered)
            }
            // What the bundle can't mean: it isn't believed.
            Ending::Unchanged | Ending::Checked | Ending::Live { .. } => return Err((talk.garbage(), None)),
            Ending::Refused { why: Trouble::Target { why } } => Err(Failure::Refused(why)),
            Ending::Refused { why } => Err(Failure::NotChanged(why)),
            Ending::NotProven { why: Trouble::Unproven { finding: Finding::ReloadRefused { errno } } } => {
                Err(Failure::ReloadRefused { errno })
            }
            Ending::NotProven { why: Trouble::Unproven { finding: Finding::Unproven(short) } } => {
                Err(Failure::Unproven(short))
            }
            Ending::NotProven { why } => Err(Failure::NotProven(why)),
            Ending::RolledBack { why } => {
                Err(Failure::RolledBack { why, kill: not_sent.and_then(Failure::into_words) })
            }
            Ending::Down { why, back } => Err(Failure::Down { why, back }),
        })
    }

    /// The connection broke: the bundle is asked once more what became of it.
    fn ask(&self, talk: &Talk<'_>, id: &Printable) -> Result<Success, Failure> {
        let time = self.timeout * 2 + talk.grace + LAST_WORD;
        let until = Instant::now() + time * 2 + TO_ANSWER;
        let ask = || {
            let mut session = self.open().map_err(|_| (NoLine::Ended, Printable::default()))?;
            session.say(self.request(Task::Ask, time, id).as_bytes());
            let line = session.hear(until, self.gate, true).map_err(|no| (no, Printable::from_bytes(session.end())))?;
            match protocol::hear(&line) {
                Some(Heard::Reply(Reply::Settled { outcome })) => Ok(outcome),
                _ => Err((NoLine::Ended, Printable::from_bytes(session.end()))),
            }
        };
        let mut answer = ask();
        // A bundle that is being stopped breaks off once more, or has no init any more; then docker says what became of it.
        for _ in 0..3 {
            match &answer {
                Err((NoLine::Ended, words)) if !is_gone(words) => std::thread::sleep(Duration::from_millis(500)),
                _ => break,
            }
            answer = ask();
        }
        let outcome = answer.map_err(|(_, words)| {
            // Without an acknowledgement it isn't committed, whatever became of the bundle.
            if !talk.acked && is_dead(&words) { Failure::Vanished { words } } else { Failure::Unsettled { words } }
        })?;
        match outcome {
            Some(Mark::Live) if talk.acked => Ok(Success::Live),
            Some(Mark::Delivered) if talk.acked => Ok(Success::Delivered),
            Some(Mark::RolledBack) => Err(Failure::RolledBack { why: Trouble::HostGone, kill: None }),
            Some(Mark::Down) => Err(Failure::Down { why: Trouble::HostGone, back: Trouble::Interrupted }),
            Some(Mark::Live | Mark::Delivered | Mark::NotProven | Mark::Interrupted) => {
                Err(Failure::Unsettled { words: Printable::default() })
            }
            None => Err(Failure::NotChanged(Trouble::HostGone)),
        }
    }

    fn kill(&self) -> Option<Vec<String>> {
        self.engine.kill(self.bundle, self.change.signal)
    }

    fn signal(&self, kill: &[String], timeout: Duration) -> Result<(), Failure> {
        match docker::call(&self.engine.program, kill, MAX_BYTES, timeout, 2) {
            Ok(output) if output.success => Ok(()),
            Ok(output) => {
                let words = Printable::from_bytes(&output.stderr);
                let gone = is_gone(&words);
                Err(if !gone && is_broken(&words) {
                    Failure::Lost { words }
                } else {
                    Failure::KillFailed { words, gone }
                })
            }
            Err(CallError::TimedOut | CallError::Left) => Err(Failure::KillTimedOut),
            Err(e) => Err(call_failed(self.engine, "kill", &e)),
        }
    }
}

/// One conversation with the helper.
struct Talk<'a> {
    session: Session,
    gate: &'a Gate,
    /// It was asked to go back.
    stopped: bool,
    /// It was told to commit.
    acked: bool,
    /// The daemon's.
    grace: Duration,
}

impl Talk<'_> {
    fn say(&mut self, say: Say) {
        self.session.say(protocol::line(&say).as_bytes());
    }

    fn hear(&mut self, deadline: Instant) -> Result<Tell, Lost> {
        loop {
            match self.session.hear(deadline, self.gate, self.stopped) {
                Ok(line) => return serde_json::from_slice(&line).map_err(|_| self.garbage()),
                Err(NoLine::Stopped) => {
                    self.stopped = true;
                    self.say(Say::Cancel);
                }
                Err(NoLine::Left) => return Err(Lost::Left),
                Err(NoLine::Ended | NoLine::TimedOut) => return Err(self.garbage()),
            }
        }
    }

    /// Waits until the gate lets it commit: `None`. Else what the helper said meanwhile.
    fn hold(&mut self, deadline: Instant) -> Result<Option<Tell>, Lost> {
        while self.gate.says(Word::Hold) {
            match self.session.hear(Instant::now() + POLL_INTERVAL, self.gate, true) {
                Err(NoLine::TimedOut) if Instant::now() < deadline => {}
                Ok(line) => return serde_json::from_slice(&line).map(Some).map_err(|_| self.garbage()),
                Err(NoLine::Left) => return Err(Lost::Left),
                Err(_) => return Err(self.garbage()),
            }
        }
        if self.gate.says(Word::Commit) { Ok(None) } else { self.hear(deadline).map(Some) }
    }

    /// Hangs up.
    fn garbage(&mut self) -> Lost {
        Lost::Words(Printable::from_bytes(self.session.end()))
    }
}

/// A name for one transaction, which no other has.
fn random_id() -> Printable {
    // The standard library's own source of random keys.
    let word = || std::collections::hash_map::RandomState::new().build_hasher().finish();
    Printable::new(&format!("{:016x}{:016x}", word(), word()))
}

/// Waits until the helper has sent the signal by itself.
fn sent_from_inside(session: &mut Session, deadline: Instant, gate: &Gate) -> Result<(), Failure> {
    let line = session.hear(deadline, gate, true);
    match line.as_ref().map(|line| serde_json::from_slice(line)) {
        Ok(Ok(Tell::Sent)) => Ok(()),
        Ok(Ok(Tell::End(end))) => match end.ending {
            Ending::Refused { why } => Err(Failure::NotChanged(why)),
            _ => Err(Failure::Lost { words: Printable::from_bytes(session.end()) }),
        },
        _ => Err(Failure::Lost { words: Printable::from_bytes(session.end()) }),
    }
}

/// Nothing that makes sense came from where the helper should be; the host sent nothing yet.
fn no_answer(no_line: Option<NoLine>, stderr: &[u8]) -> Failure {
    let words = Printable::from_bytes(stderr);
    match no_line {
        Some(NoLine::Stopped | NoLine::Left) => Failure::Interrupted,
        Some(NoLine::TimedOut) => {
            Failure::Unreachable { what: "exec", words: Printable::new("it gave no answer in time") }
        }
        Some(_) if is_gone(&words) || is_broken(&words) => Failure::Unreachable { what: "exec", words },
        _ => Failure::NoAnswer { words },
    }
}

/// Words of docker, podman, nerdctl and kubectl that mean that nothing of the container runs any more.
const DEAD: [&str; 7] = [
    "no such container",
    "no container with",
    "is not running",
    "container state improper",
    "error from server (notfound)",
    "container not found",
    "in a completed pod",
];
/// Further ones, that mean that it can't be reached.
const GONE: [&str; 8] = [
    "is paused",
    "is restarting",
    "cannot connect to",
    "is the docker daemon running",
    "unable to connect to the server",
    "the connection to the server",
    "error from server (forbidden)",
    "error: you must be logged in",
];

/// Those of docker's client and of kubectl that mean that their connection, or that from there on, broke. What was asked for
/// may have been done.
const BROKEN: [&str; 6] = [
    "error during connect",
    "error sending request",
    "unexpected eof",
    "connection reset by peer",
    "i/o timeout",
    "tls handshake timeout",
];

/// Those of kubectl that mean that it broke before anything was executed there.
const UNBEGUN: [&str; 3] = ["error dialing backend", "error from server", "unable to upgrade connection"];

fn is_dead(words: &Printable) -> bool {
    let words = words.as_str().to_lowercase();
    DEAD.iter().any(|phrase| words.contains(phrase))
}

fn is_gone(words: &Printable) -> bool {
    let lower = words.as_str().to_lowercase();
    is_dead(words) || GONE.iter().any(|phrase| lower.contains(phrase))
}

fn is_broken(words: &Printable) -> bool {
    let words = words.as_str().to_lowercase();
    BROKEN.iter().chain(&UNBEGUN).any(|phrase| words.contains(phrase))
}

fn never_began(words: &Printable) -> bool {
    let lower = words.as_str().to_lowercase();
    is_gone(words) || UNBEGUN.iter().any(|phrase| lower.contains(phrase))
}

fn call_failed(engine: &Engine, what: &'static str, e: &CallError) -> Failure {
    match e {
        CallError::Spawn(e) => Failure::NoDocker {
            program: Printable::from_bytes(engine.program.as_encoded_bytes()),
            words: Printable::new(&e.to_string()),
        },
        CallError::Left => Failure::Interrupted,
        CallError::TimedOut => Failure::Unreachable { what, words: Printable::new("it gave no answer in time") },
    }
}

/// How long a step may take that only asks who is there. To start docker alone can take a part of a second, so it has
/// that much, whatever was asked for.
fn to_ask(timeout: Duration) -> Duration {
    timeout.clamp(Duration::from_secs(1), TO_ANSWER)
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
