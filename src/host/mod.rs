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

use self::docker::{A_LOOK, CallError, NoLine, Session};
use self::engine::{Engine, Place};
use self::report::Report;
use self::stop::{Gate, Word};
use crate::change::proof::Act;
use crate::change::reason::{Ended, Outcome, Reason, RecordedOutcome};
use crate::protocol;
use crate::protocol::{
    End, HELPER, Heard, HelperMessage, HostMessage, MAX_BYTES, PROTOCOL, Reply, Request, Task, VERSION,
};
use crate::table::Signal;
use crate::text::Plain;

/// How long docker, or the helper, may take for what isn't part of the change: to say who is there.
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
    pub want: Want,
    /// Who asks for it.
    pub by: Plain,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Want {
    /// Send the signal, and don't look for the proof.
    SignalOnly,
    /// Make live what was changed by other means.
    InPlace,
    /// Make this content live.
    File {
        /// At most [`protocol::MAX_CONTENT`] bytes.
        content: Vec<u8>,
        /// Even where it is live already.
        force: bool,
    },
    /// Say what this content would change.
    DryRun {
        /// At most [`protocol::MAX_CONTENT`] bytes.
        content: Vec<u8>,
        /// With the lines' text.
        show: bool,
    },
}

impl Want {
    fn content(&self) -> Option<&[u8]> {
        match self {
            Self::SignalOnly | Self::InPlace => None,
            Self::File { content, .. } | Self::DryRun { content, .. } => Some(content),
        }
    }

    fn task(&self) -> Task {
        match self {
            Self::SignalOnly => Task::Identify,
            Self::InPlace => Task::InPlace,
            Self::File { content, force } => {
                Task::File { bytes: content.len() as u64, sha256: protocol::sha256(content), force: *force }
            }
            Self::DryRun { content, show } => {
                Task::DryRun { bytes: content.len() as u64, sha256: protocol::sha256(content), show: *show }
            }
        }
    }
}

/// One bundle that may be ours.
struct Bundle<'a> {
    engine: &'a Engine,
    change: &'a Change,
    place: &'a Place,
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
    Words(Plain),
    /// A person leaves.
    Left,
}

impl Bundle<'_> {
    fn apply(&self) -> Report {
        let mut report = Report::failed(None, Reason::Late);
        report.ended = self.steps(&mut report).unwrap_or_else(Ended::from);
        report
    }

    fn open(&self) -> Result<Session, Reason> {
        let helper = self.engine.exec(self.place, HELPER);
        let session = docker::session(&self.engine.program, &helper, MAX_BYTES);
        session.map_err(|e| call_failed(self.engine, "exec", &CallError::Spawn(e)))
    }

    fn request(&self, task: Task, timeout: Duration, id: &Plain) -> String {
        protocol::line(&Request {
            protocol: PROTOCOL,
            version: Plain::new(VERSION),
            signal: self.change.signal.to_string(),
            from_inside: self.kill().is_none(),
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            task,
            id: id.clone(),
            by: self.change.by.clone(),
        })
    }

    fn steps(&self, report: &mut Report) -> Result<Ended, Reason> {
        if self.gate.says(Word::Back) {
            return Err(Reason::Interrupted);
        }
        let mut session = self.open()?;
        let (timeout, want) = (self.timeout, &self.change.want);
        let id = random_id();
        session.say(self.request(want.task(), timeout, &id).as_bytes());
        let first = session.hear(Instant::now() + TO_ANSWER, self.gate, false);
        report.ms.identify = millis(self.started);
        // From inside it may be out before the first word is heard.
        let may_be_sent = matches!(want, Want::SignalOnly | Want::InPlace) && self.kill().is_none();
        let Some(heard) = first.as_ref().ok().and_then(|line| protocol::hear(line)) else {
            return Err(match no_answer(first.err(), &session.end()) {
                Reason::CallFailed { words, .. } if may_be_sent && !never_began(&words) => self.lost(words),
                Reason::Interrupted if may_be_sent => self.lost(Plain::new("interrupted")),
                why => why,
            });
        };
        match heard {
            Heard::Reply(Reply::Hello { target }) => report.target = Some(target),
            Heard::Reply(Reply::Refused { why, target }) => {
                report.target = target;
                return Err(why);
            }
            Heard::Reply(Reply::NotInit { error }) => return Err(Reason::NotInit { error }),
            Heard::Reply(Reply::Protocol | Reply::Recorded { .. }) => return Err(no_answer(None, &session.end())),
            Heard::OtherProtocol { protocol, version } => return Err(other_protocol(protocol, version)),
        }
        if matches!(want, Want::SignalOnly) {
            let started = Instant::now();
            let sent = match self.kill() {
                Some(kill) => self.signal(&kill, timeout),
                None => self.sent_from_inside(&mut session, started + timeout),
            };
            report.ms.signal = millis(started);
            return sent.map(|()| Ended::well(Outcome::Sent));
        }
        // Only now: what may hold credentials is told to no stranger.
        if let Some(content) = want.content() {
            session.say(content);
        }
        let mut talk = Talk { session, gate: self.gate, stopped: false, acked: false, grace: Duration::ZERO };
        match self.transact(&mut talk, report) {
            Ok(ended) => Ok(ended),
            Err((_, Some(why))) => Err(why),
            Err((lost, None)) => {
                let words = match &lost {
                    Lost::Words(words) => words.clone(),
                    Lost::Left => Plain::default(),
                };
                match (want, lost) {
                    (Want::File { .. }, Lost::Words(_)) => self.ask(&talk, &id),
                    (Want::File { .. }, Lost::Left) => Err(Reason::Unknown { words }),
                    // From inside it may be out before the word of it arrives.
                    (Want::InPlace, _) if report.sent || self.kill().is_none() => Err(self.lost(words)),
                    _ => Err(Reason::HostGone),
                }
            }
        }
    }

    /// From the content to the last word. On a connection that broke also tells what docker's kill had said.
    fn transact(&self, talk: &mut Talk<'_>, report: &mut Report) -> Result<Ended, (Lost, Option<Reason>)> {
        let timeout = self.timeout;
        let file = matches!(self.change.want, Want::File { .. });
        // The wait for another, the settling of what that left, the check.
        let begin = Instant::now() + timeout * 3 + TO_ANSWER;
        let (target, grace) = match talk.hear(begin).map_err(|lost| (lost, None))? {
            HelperMessage::Go { target, grace_ms } => (target, Duration::from_millis(grace_ms)),
            HelperMessage::End(end) => return self.judge(*end, talk, report),
            HelperMessage::Sent | HelperMessage::Proven => return Err((talk.garbage(), None)),
        };
        report.target = Some(target);
        talk.grace = grace.min(LONGEST_GRACE);
        let go = Instant::now();
        // What the helper sends by itself it has sent with this word.
        let sent = self.kill().map_or(Ok(()), |kill| self.signal(&kill, timeout));
        report.ms.signal = millis(go);
        let (say, not_sent) = match sent {
            Ok(()) => (HostMessage::Sent, None),
            Err(why) if !file => return Ok(why.into()),
            Err(why) => (HostMessage::NotSent, Some(why)),
        };
        report.sent = not_sent.is_none();
        report.kill = match &not_sent {
            Some(Reason::KillFailed { words, .. } | Reason::Lost { words, .. }) => Some(words.clone()),
            Some(Reason::KillTimedOut { .. }) => Some(Plain::new("its kill did not end in time")),
            _ => None,
        };
        talk.say(say);
        let sent = Instant::now();
        let end = go + timeout * 2 + talk.grace + LAST_WORD;
        let mut heard = talk.hear(end);
        if file && matches!(heard, Ok(HelperMessage::Proven)) {
            report.ms.prove = millis(sent);
            (self.proven)();
            heard = match talk.hold(end + LAST_WORD) {
                Ok(None) => {
                    talk.acked = true;
                    talk.say(HostMessage::Ack);
                    talk.hear(end + LAST_WORD)
                }
                Ok(Some(tell)) => Ok(tell),
                Err(lost) => Err(lost),
            };
        }
        // What was placed is placed, whatever docker says of the kill: then the bundle is asked.
        let gone = not_sent.as_ref().filter(|f| !file && matches!(f, Reason::KillFailed { gone: true, .. })).cloned();
        match heard {
            Ok(HelperMessage::End(end)) => {
                if report.ms.prove == 0 {
                    report.ms.prove = millis(sent).saturating_sub(end.back_ms);
                }
                self.judge(*end, talk, report)
            }
            Ok(HelperMessage::Go { .. } | HelperMessage::Sent | HelperMessage::Proven) => Err((talk.garbage(), gone)),
            Err(lost) => Err((lost, gone)),
        }
    }

    fn judge(&self, end: End, talk: &mut Talk<'_>, report: &mut Report) -> Result<Ended, (Lost, Option<Reason>)> {
        (report.ms.wait, report.ms.check, report.ms.back) = (end.wait_ms, end.check_ms, end.back_ms);
        (report.after, report.siblings_moved) = (end.after, end.siblings_moved);
        (report.checked, report.diff) = (end.checked, end.diff);
        (report.recovered, report.owner_was) = (end.recovered, end.owner_was);
        let file = matches!(self.change.want, Want::File { .. });
        let before = report.target.as_ref().map(|target| (target.action, target.before.generation));
        let is_later = before.zip(report.after).is_some_and(|((action, before), after)| match action {
            Act::Restart => after.generation > before,
            Act::Forward => after.generation == before,
        });
        let may_be = match end.ended.outcome {
            Outcome::Live | Outcome::Delivered => is_later && (talk.acked || report.sent && !file),
            Outcome::Unchanged => file,
            Outcome::DryRun => matches!(self.change.want, Want::DryRun { .. }),
            Outcome::Refused | Outcome::NotProven | Outcome::RolledBack | Outcome::Down => end.ended.why.is_some(),
            _ => false,
        };
        // What the bundle can't mean isn't believed.
        if may_be { Ok(end.ended) } else { Err((talk.garbage(), None)) }
    }

    fn lost(&self, words: Plain) -> Reason {
        Reason::Lost { signal: Plain::new(&self.change.signal.to_string()), words }
    }

    /// The connection broke: the bundle is asked once more what became of it.
    fn ask(&self, talk: &Talk<'_>, id: &Plain) -> Result<Ended, Reason> {
        let time = self.timeout * 2 + talk.grace + LAST_WORD;
        let until = Instant::now() + time * 2 + TO_ANSWER;
        let ask = || {
            let mut session = self.open().map_err(|_| (NoLine::Ended, Plain::default()))?;
            session.say(self.request(Task::Ask, time, id).as_bytes());
            let line = session.hear(until, self.gate, true).map_err(|no| (no, Plain::from_bytes(&session.end())))?;
            match protocol::hear(&line) {
                Some(Heard::Reply(Reply::Recorded { outcome })) => Ok(outcome),
                _ => Err((NoLine::Ended, Plain::from_bytes(&session.end()))),
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
            if !talk.acked && is_dead(&words) { Reason::Vanished { words } } else { Reason::Unknown { words } }
        })?;
        match outcome {
            Some(RecordedOutcome::Live) if talk.acked => Ok(Ended::well(Outcome::Live)),
            Some(RecordedOutcome::Delivered) if talk.acked => Ok(Ended::well(Outcome::Delivered)),
            Some(RecordedOutcome::RolledBack) => Ok(Ended::badly(Outcome::RolledBack, Reason::HostGone)),
            Some(RecordedOutcome::Down) => Ok(Ended::down(Reason::HostGone, Reason::Interrupted)),
            Some(_) => Err(Reason::Unknown { words: Plain::default() }),
            None => Err(Reason::HostGone),
        }
    }

    fn kill(&self) -> Option<Vec<String>> {
        self.engine.kill(self.place, self.change.signal)
    }

    fn signal(&self, kill: &[String], timeout: Duration) -> Result<(), Reason> {
        let call = || Plain::new(&format!("{} kill --signal {}", self.engine.name(), self.change.signal));
        match docker::call(&self.engine.program, kill, MAX_BYTES, timeout, 2) {
            Ok(output) if output.success => Ok(()),
            Ok(output) => {
                let words = Plain::from_bytes(&output.stderr);
                let gone = is_gone(&words);
                Err(if !gone && is_broken(&words) {
                    self.lost(words)
                } else {
                    Reason::KillFailed { kill: call(), words, gone }
                })
            }
            Err(CallError::TimedOut | CallError::Left) => Err(Reason::KillTimedOut { kill: call() }),
            Err(e) => Err(call_failed(self.engine, "kill", &e)),
        }
    }

    /// Waits until the helper has sent the signal by itself.
    fn sent_from_inside(&self, session: &mut Session, deadline: Instant) -> Result<(), Reason> {
        let line = session.hear(deadline, self.gate, true);
        match line.as_ref().map(|line| serde_json::from_slice(line)) {
            Ok(Ok(HelperMessage::Sent)) => Ok(()),
            Ok(Ok(HelperMessage::End(end))) if end.ended.outcome == Outcome::Refused => {
                Err(end.ended.why.unwrap_or(Reason::NotSent))
            }
            _ => Err(self.lost(Plain::from_bytes(&session.end()))),
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
    fn say(&mut self, say: HostMessage) {
        self.session.say(protocol::line(&say).as_bytes());
    }

    fn hear(&mut self, deadline: Instant) -> Result<HelperMessage, Lost> {
        loop {
            match self.session.hear(deadline, self.gate, self.stopped) {
                Ok(line) => return serde_json::from_slice(&line).map_err(|_| self.garbage()),
                Err(NoLine::Stopped) => {
                    self.stopped = true;
                    self.say(HostMessage::Cancel);
                }
                Err(NoLine::Left) => return Err(Lost::Left),
                Err(NoLine::Ended | NoLine::TimedOut) => return Err(self.garbage()),
            }
        }
    }

    /// Waits until the gate lets it commit: `None`. Else what the helper said meanwhile.
    fn hold(&mut self, deadline: Instant) -> Result<Option<HelperMessage>, Lost> {
        while self.gate.says(Word::Hold) {
            match self.session.hear(Instant::now() + A_LOOK, self.gate, true) {
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
        Lost::Words(Plain::from_bytes(&self.session.end()))
    }
}

/// A name for one transaction, which no other has.
fn random_id() -> Plain {
    // The standard library's own source of random keys.
    let word = || std::collections::hash_map::RandomState::new().build_hasher().finish();
    Plain::new(&format!("{:016x}{:016x}", word(), word()))
}

/// Nothing that makes sense came from where the helper should be; the host sent nothing yet.
fn no_answer(no_line: Option<NoLine>, stderr: &[u8]) -> Reason {
    let words = Plain::from_bytes(stderr);
    let failed = |words| Reason::CallFailed { call: Plain::new("exec"), words };
    match no_line {
        Some(NoLine::Stopped | NoLine::Left) => Reason::Interrupted,
        Some(NoLine::TimedOut) => failed(Plain::new("it gave no answer in time")),
        Some(_) if is_gone(&words) || is_broken(&words) => failed(words),
        // A bundle of protocol 3, which doesn't know the helper by this name.
        _ if words.as_str().contains("sidecar: no applet \"helper\"") => other_protocol(3, Plain::new("of before 1.1")),
        _ => Reason::NoAnswer { words },
    }
}

fn other_protocol(protocol: u32, version: Plain) -> Reason {
    Reason::OtherProtocol { ours: (PROTOCOL, Plain::new(VERSION)), theirs: (protocol, version) }
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

fn is_dead(words: &Plain) -> bool {
    let words = words.as_str().to_lowercase();
    DEAD.iter().any(|phrase| words.contains(phrase))
}

fn is_gone(words: &Plain) -> bool {
    let lower = words.as_str().to_lowercase();
    is_dead(words) || GONE.iter().any(|phrase| lower.contains(phrase))
}

fn is_broken(words: &Plain) -> bool {
    let words = words.as_str().to_lowercase();
    BROKEN.iter().chain(&UNBEGUN).any(|phrase| words.contains(phrase))
}

fn never_began(words: &Plain) -> bool {
    let lower = words.as_str().to_lowercase();
    is_gone(words) || UNBEGUN.iter().any(|phrase| lower.contains(phrase))
}

fn call_failed(engine: &Engine, what: &'static str, e: &CallError) -> Reason {
    match e {
        CallError::Spawn(e) => Reason::NoProgram {
            program: Plain::from_bytes(engine.program.as_encoded_bytes()),
            words: Plain::new(&e.to_string()),
        },
        CallError::Left => Reason::Interrupted,
        CallError::TimedOut => {
            Reason::CallFailed { call: Plain::new(what), words: Plain::new("it gave no answer in time") }
        }
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
