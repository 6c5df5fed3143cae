//! One bundle: what the host says to the helper inside it, and what follows from the answers.
//!
//! ```text
//!   host                                             helper
//!   request: what is to be done          ─────▶
//!                                        ◀─────      hello: what is there; or why not
//!   the content, if there is one         ─────▶      recovers what was interrupted, checks, puts it in place
//!                                        ◀─────      go (or the end)
//!   the signal, through docker kill; sent ────▶      looks for the proof
//!                                        ◀─────      proven (with content only)
//!   ack, or cancel                       ─────▶      commits, or takes it back
//!                                        ◀─────      the end: how it ended
//! ```
//!
//! Each wait has a limit that follows from `--timeout`. If the connection breaks in the middle of a change, a second exec asks the
//! bundle what became of it.

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use super::complaint::{Complaint, call_failed};
use super::docker::{self, CallError, NoLine, POLL_INTERVAL, Session};
use super::engine::{BundleRef, Engine, PID_1_EXE};
use super::look::{self, State};
use super::report::Report;
use super::stop::{self, Gate, Word};
use super::{Change, millis, to_ask};
use crate::change::proof::{Act, Trigger};
use crate::change::reason::{Ended, Outcome, Reason, RecordedOutcome};
use crate::protocol::{
    self, Answer, End, HELPER, HelperMessage, HostMessage, MAX_BYTES, OtherProtocol, PROTOCOL, Reply, Request, Task,
    VERSION,
};
use crate::text::Printable;

/// How long the host waits for the helper's last message beyond the helper's own deadline.
const LAST_WORD: Duration = Duration::from_secs(8);
/// The longest grace that the host believes a bundle to have.
const LONGEST_GRACE: Duration = Duration::from_secs(10 * 60);
/// The grace of a bundle that hasn't told it yet.
const USUAL_GRACE: Duration = Duration::from_secs(8);
/// How often the host asks again what became of a change if the bundle breaks off without an answer. If the bundle can't be reached,
/// the host asks until the time is up.
const ASK_AGAIN: usize = 3;
/// The pause before the host asks again: the first one, and all later ones.
const ASK_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(4));
/// The exit code of `docker exec` if the helper was killed.
const KILLED: i32 = 137;
/// Its exit codes if the helper could not be executed.
const NOT_EXECUTED: [i32; 2] = [126, 127];

/// One bundle, and what it is asked to do.
pub(super) struct Conversation<'a> {
    pub engine: &'a Engine,
    pub change: &'a Change,
    pub bundle: &'a BundleRef,
    /// The path of the program that it was started with, if that is one of ours.
    pub program: Option<&'a str>,
    /// Whether the helper is executed by that path, since `/proc/1/exe` can't be executed, as in gVisor.
    pub by_path: Cell<bool>,
    pub started: Instant,
    /// The change's timeout or, with `--rollback-all`, what is left of the time for all bundles.
    pub timeout: Duration,
    /// What all bundles of the fleet are told.
    pub gate: &'a Gate,
    /// Tells the fleet that this bundle is proven.
    pub proven: &'a dyn Fn(),
}

/// Why a connection ended early.
enum Lost {
    /// It broke, or what came through it could not be understood.
    Broken(Complaint),
    /// A person pressed Ctrl-C twice.
    Left,
}

impl Lost {
    fn words(&self) -> Printable {
        match self {
            Self::Broken(complaint) => complaint.words(),
            Self::Left => Printable::new("interrupted"),
        }
    }
}

impl Conversation<'_> {
    pub fn apply(&self) -> Report {
        let mut report = Report::failed(None, Reason::Interrupted);
        if !self.gate.says(Word::Back) {
            report.end.ended = self.steps(&mut report).unwrap_or_else(Ended::from);
        }
        report
    }

    fn is_file(&self) -> bool {
        matches!(self.change.task, Task::File { .. })
    }

    fn steps(&self, report: &mut Report) -> Result<Ended, Reason> {
        let id = random_id();
        let mut session = self.meet(&id, report)?;
        if self.change.task == Task::Identify {
            let started = Instant::now();
            let sent = match self.kill() {
                Some(kill) => self.signal(&kill),
                None => self.sent_from_inside(&mut session, started + self.timeout),
            };
            report.ms.signal = millis(started);
            return sent.map(|()| Ended::well(Outcome::Sent));
        }
        // The content is sent only now, since it may hold credentials that no stranger may see.
        session.say(&self.change.content);
        let until = Instant::now() + self.timeout * 2 + self.last_word();
        let mut talk = Talk { session, gate: self.gate, stopped: false, acked: false, until, grace: USUAL_GRACE };
        match self.transact(&mut talk, report) {
            Ok(ended) => Ok(ended),
            Err(Lost::Broken(_)) if self.is_file() => self.ask(&talk, &id),
            Err(Lost::Left) if self.is_file() => Err(Reason::Unknown { words: Printable::default() }),
            // A helper that sends the signal itself may have sent it before the host hears of it.
            Err(lost) if self.change.task == Task::InPlace && (report.sent || self.kill().is_none()) => {
                Err(self.lost(lost.words()))
            }
            Err(_) => Err(Reason::HostGone),
        }
    }

    /// Asks the helper what is there. If the helper is killed before it sends anything (by the OOM killer, say), another one is started.
    fn meet(&self, id: &Printable, report: &mut Report) -> Result<Session, Reason> {
        // Through kubectl the helper sends the signal itself, perhaps before its first message arrives.
        let may_be_sent = matches!(self.change.task, Task::Identify | Task::InPlace) && self.kill().is_none();
        let mut was_asked_again = false;
        let mut not_executed = None;
        loop {
            let mut session = self.open()?;
            session.say(self.request(self.change.task.clone(), self.timeout, id).as_bytes());
            let first = session.hear(Instant::now() + to_ask(self.timeout), self.gate, false);
            report.ms.identify = millis(self.started);
            let heard = first.as_deref().ok().and_then(protocol::first::<Answer>);
            match heard.map(|answer| answer.map(|answer| answer.reply)) {
                Some(Ok(Reply::Hello { target })) => {
                    report.target = Some(target);
                    return Ok(session);
                }
                Some(Ok(Reply::Refused { why, target })) => {
                    report.target = target;
                    return Err(why);
                }
                Some(Ok(Reply::NotInit { error })) => return Err(Reason::NotInit { error }),
                Some(Err(theirs)) => return Err(other_protocol(theirs)),
                Some(Ok(Reply::Protocol | Reply::Recorded { .. })) | None => {}
            }
            let complaint = Complaint::new(session.end());
            let code = session.status().and_then(|status| status.code());
            let was_killed = code == Some(KILLED);
            let never_began = complaint.never_began();
            let may_be_asked_again = !std::mem::replace(&mut was_asked_again, true);
            if first == Err(NoLine::Ended) && was_killed && !never_began && !may_be_sent && may_be_asked_again {
                continue;
            }
            // The path leads to a program in the container's own image that has one of our names.
            let was_not_executed = code.is_some_and(|code| NOT_EXECUTED.contains(&code)) && !never_began;
            if was_not_executed && self.program.is_some() && !self.by_path.replace(true) {
                not_executed = Some(self.no_answer(first, &complaint, was_killed));
                continue;
            }
            // It can't be executed by its path either: report why /proc/1/exe couldn't be.
            if let Some(why) = not_executed {
                return Err(why);
            }
            return Err(match self.no_answer(first, &complaint, was_killed) {
                Reason::CallFailed { .. } if may_be_sent && !never_began => self.lost(complaint.words()),
                Reason::Interrupted if may_be_sent => self.lost(Printable::new("interrupted")),
                why => why,
            });
        }
    }

    /// Why the helper's first message is missing or can't be understood.
    fn no_answer(&self, first: Result<Vec<u8>, NoLine>, complaint: &Complaint, was_killed: bool) -> Reason {
        match first {
            Err(NoLine::Stopped | NoLine::Left) => return Reason::Interrupted,
            Err(NoLine::TimedOut) => return call_failed(self.engine, "exec", &CallError::TimedOut),
            Ok(_) | Err(NoLine::Ended) => {}
        }
        if complaint.is_gone() || complaint.is_broken() {
            return exec_failed(complaint.words());
        }
        if first.is_err() && was_killed {
            return exec_failed(Printable::new(
                "its process in the bundle was killed before it sent anything (exit code 137), perhaps because memory ran out",
            ));
        }
        // In protocol 3 the helper has another name.
        if complaint.says(&["sidecar: no applet \"helper\""]) {
            return other_protocol((3, Printable::new("from before 1.1")));
        }
        // docker says on stdout that it can't execute something.
        let said = if complaint.is_empty() { Complaint::new(&first.unwrap_or_default()) } else { complaint.clone() };
        let words = said.words();
        // gVisor's message. It mentions permission too, so it is looked for first.
        if said.says(&[&format!("failed to load {PID_1_EXE}")]) {
            Reason::NotByExe { words }
        } else if said.says(&["permission denied"]) {
            Reason::MayNotAsk { words }
        } else {
            Reason::NoAnswer { words }
        }
    }

    fn open(&self) -> Result<Session, Reason> {
        let program = self.program.filter(|_| self.by_path.get()).unwrap_or(PID_1_EXE);
        let helper = self.engine.exec(self.bundle, program, HELPER);
        let session = Session::start(&self.engine.program, &helper, Stdio::piped(), MAX_BYTES);
        session.map_err(|e| call_failed(self.engine, "exec", &CallError::Spawn(e)))
    }

    fn request(&self, task: Task, timeout: Duration, id: &Printable) -> String {
        protocol::line(&Request {
            protocol: PROTOCOL,
            version: Printable::new(VERSION),
            signal: match &self.change.trigger {
                Trigger::Signal(signal) => Some(signal.to_string()),
                Trigger::Request { .. } => None,
            },
            daemon: match &self.change.trigger {
                Trigger::Signal(_) => None,
                Trigger::Request { daemon, .. } => Some(daemon.clone()),
            },
            from_inside: self.kill().is_none(),
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            task,
            id: id.clone(),
            by: self.change.by.clone(),
        })
    }

    /// Everything from the content to the helper's last message.
    fn transact(&self, talk: &mut Talk<'_>, report: &mut Report) -> Result<Ended, Lost> {
        let (target, grace) = loop {
            match talk.hear()? {
                HelperMessage::Recovering { within_ms } => {
                    talk.until += Duration::from_millis(within_ms).min(LONGEST_GRACE);
                }
                HelperMessage::Go { target, grace_ms } => break (target, Duration::from_millis(grace_ms)),
                HelperMessage::End(end) => return self.judge(*end, talk, report),
                HelperMessage::Sent | HelperMessage::Proven => return Err(talk.garbage()),
            }
        };
        report.target = Some(target);
        talk.grace = grace.min(LONGEST_GRACE);
        let go = Instant::now();
        // A helper that sends the signal itself has sent it by now.
        let sent = self.kill().map_or(Ok(()), |kill| self.signal(&kill));
        report.ms.signal = millis(go);
        report.sent = sent.is_ok();
        match sent {
            Ok(()) => talk.say(HostMessage::Sent),
            Err(why) if !self.is_file() => return Ok(why.into()),
            // A helper in a paused container says nothing.
            Err(Reason::KillFailed { gone: true, .. }) if self.state() == State::Paused => {
                return Ok(Reason::PausedMidway.into());
            }
            // Whatever docker says about the kill, the new content is in place, so the helper must undo it.
            Err(why) => {
                talk.say(HostMessage::NotSent);
                report.kill = match why {
                    Reason::KillFailed { words, .. } | Reason::Lost { words, .. } => Some(words),
                    Reason::KillTimedOut { .. } => Some(Printable::new("its kill did not end in time")),
                    _ => None,
                };
            }
        }
        let sent = Instant::now();
        let way_back = if self.is_file() { talk.grace + self.timeout } else { Duration::ZERO };
        talk.until = go.max(sent) + self.timeout + way_back + self.last_word();
        let mut heard = match talk.hear_by(talk.until.min(go.max(sent) + self.timeout + self.last_word()))? {
            Some(heard) => heard,
            // docker accepts a signal for a paused container, and delivers it once the container is unpaused.
            None if self.is_file() && self.state() == State::Paused => return Ok(Reason::PausedMidway.into()),
            None => talk.hear()?,
        };
        if self.is_file() && matches!(heard, HelperMessage::Proven) {
            report.ms.prove = millis(sent);
            (self.proven)();
            heard = talk.hold()?;
        }
        let HelperMessage::End(end) = heard else { return Err(talk.garbage()) };
        if report.ms.prove == 0 {
            report.ms.prove = millis(sent).saturating_sub(end.back_ms);
        }
        self.judge(*end, talk, report)
    }

    /// Takes in the last message, unless it contradicts what was asked.
    fn judge(&self, end: End, talk: &mut Talk<'_>, report: &mut Report) -> Result<Ended, Lost> {
        let before = report.target.as_ref().map(|target| (target.action, target.before.generation));
        // A process from before the signal doesn't prove a restart.
        let is_later = before.zip(end.after).is_some_and(|((action, before), after)| match action {
            Act::Restart => after.generation > before,
            Act::Forward => after.generation >= before,
        });
        let may_be = match end.ended.outcome {
            Outcome::Live | Outcome::Delivered => is_later && (talk.acked || report.sent && !self.is_file()),
            Outcome::Unchanged => self.is_file(),
            Outcome::DryRun => matches!(self.change.task, Task::DryRun { .. }),
            Outcome::Refused | Outcome::NotProven | Outcome::RolledBack | Outcome::Down => end.ended.why.is_some(),
            _ => false,
        };
        if !may_be {
            return Err(talk.garbage());
        }
        (report.ms.wait, report.ms.check, report.ms.back) = (end.wait_ms, end.check_ms, end.back_ms);
        report.end = end;
        Ok(report.end.ended.clone())
    }

    /// After the connection broke: asks the bundle what became of the change. The bundle can't answer before the helper that is still
    /// at work has ended or has used up its time.
    fn ask(&self, talk: &Talk<'_>, id: &Printable) -> Result<Ended, Reason> {
        let wait = talk.until.saturating_duration_since(Instant::now()) + self.last_word();
        // First the bundle recovers what that helper left half done, which has a time of its own.
        let until = Instant::now() + wait + talk.grace + self.timeout + self.last_word();
        let ask = || {
            let mut session = self.open().map_err(|_| (NoLine::Left, Complaint::default()))?;
            session.say(self.request(Task::Ask, wait, id).as_bytes());
            let line = session.hear(until, self.gate, true);
            match line.as_deref().map(protocol::first::<Answer>) {
                Ok(Some(Ok(Answer { reply: Reply::Recorded { outcome }, .. }))) => Ok(outcome),
                Ok(_) => Err((NoLine::Ended, Complaint::new(session.end()))),
                Err(no_line) => Err((*no_line, Complaint::new(session.end()))),
            }
        };
        let (mut senseless, mut pause) = (0, ASK_PAUSE.0);
        let (answer, state) = loop {
            let answer = ask();
            let Err((no_line, complaint)) = &answer else { break (answer, State::Running) };
            let is_away = complaint.is_away();
            let state = match complaint.is_dead() {
                true => State::Gone,
                // If the engine can't be reached, it doesn't know either.
                false if is_away => State::Unknown,
                false => self.state(),
            };
            senseless += usize::from(!is_away);
            let may_ask = *no_line == NoLine::Ended && matches!(state, State::Running | State::Unknown);
            if !may_ask || senseless > ASK_AGAIN || Instant::now() + pause >= until || stop::count() > 1 {
                break (answer, state);
            }
            // A bundle that is being stopped breaks off again. Once it has stopped, docker says so.
            thread::sleep(pause);
            pause = if is_away { (pause * 2).min(ASK_PAUSE.1) } else { pause };
        };
        match answer {
            Ok(Some(RecordedOutcome::Live)) if talk.acked => Ok(Ended::well(Outcome::Live)),
            Ok(Some(RecordedOutcome::Delivered)) if talk.acked => Ok(Ended::well(Outcome::Delivered)),
            Ok(Some(RecordedOutcome::RolledBack)) => Ok(Ended::badly(Outcome::RolledBack, Reason::HostGone)),
            Ok(Some(RecordedOutcome::Down)) => Ok(Ended::down(Reason::HostGone, Reason::Interrupted)),
            Ok(Some(_)) => Err(Reason::Unknown { words: Printable::default() }),
            Ok(None) => Err(Reason::HostGone),
            // Without an acknowledgement the change isn't committed, whatever became of the bundle.
            Err((_, complaint)) if !talk.acked && state == State::Gone => {
                Err(Reason::Vanished { words: complaint.words() })
            }
            Err(_) if !talk.acked && state == State::Paused => Err(Reason::PausedMidway),
            Err((_, complaint)) => Err(Reason::Unknown { words: complaint.words() }),
        }
    }

    /// The bundle's present state, as the engine shows it.
    fn state(&self) -> State {
        look::state(self.engine, self.bundle, self.timeout)
    }

    /// How long to wait for the helper's last message beyond its own deadline.
    fn last_word(&self) -> Duration {
        to_ask(self.timeout).min(LAST_WORD)
    }

    /// The command that signals the bundle's init. `None` if the helper inside makes init act.
    fn kill(&self) -> Option<Vec<String>> {
        match &self.change.trigger {
            Trigger::Signal(signal) => self.engine.kill(self.bundle, *signal),
            Trigger::Request { .. } => None,
        }
    }

    fn signal(&self, kill: &[String]) -> Result<(), Reason> {
        let call = || Printable::new(&format!("{} kill --signal {}", self.engine.name(), self.change.trigger));
        match docker::call(&self.engine.program, kill, MAX_BYTES, self.timeout, 2) {
            Ok(output) if output.success => Ok(()),
            Ok(output) => {
                let complaint = Complaint::new(&output.stderr);
                let (words, gone) = (complaint.words(), complaint.is_gone());
                let is_unknown = !gone && complaint.is_broken();
                Err(if is_unknown { self.lost(words) } else { Reason::KillFailed { kill: call(), words, gone } })
            }
            Err(CallError::TimedOut | CallError::Left) => Err(Reason::KillTimedOut { kill: call() }),
            Err(e) => Err(call_failed(self.engine, "kill", &e)),
        }
    }

    /// Waits until the helper has sent the signal or the request.
    fn sent_from_inside(&self, session: &mut Session, deadline: Instant) -> Result<(), Reason> {
        let line = session.hear(deadline, self.gate, true);
        match line.as_ref().map(|line| serde_json::from_slice(line)) {
            Ok(Ok(HelperMessage::Sent)) => Ok(()),
            Ok(Ok(HelperMessage::End(end))) if end.ended.outcome == Outcome::Refused => {
                Err(end.ended.why.unwrap_or(Reason::NotSent))
            }
            _ => Err(self.lost(Complaint::new(session.end()).words())),
        }
    }

    fn lost(&self, words: Printable) -> Reason {
        Reason::Lost { sent: Printable::new(&self.change.trigger.to_string()), words }
    }
}

/// The talk with a helper that has said hello.
struct Talk<'a> {
    session: Session,
    gate: &'a Gate,
    /// Whether the helper was told to go back.
    stopped: bool,
    /// Whether the helper was told to commit.
    acked: bool,
    /// When the helper's next message is overdue.
    until: Instant,
    /// The daemon's grace.
    grace: Duration,
}

impl Talk<'_> {
    fn say(&mut self, message: HostMessage) {
        self.session.say(protocol::line(&message).as_bytes());
    }

    fn hear(&mut self) -> Result<HelperMessage, Lost> {
        self.hear_by(self.until)?.ok_or_else(|| self.garbage())
    }

    /// Waits for a message. `Ok(None)` if none came until then.
    fn hear_by(&mut self, until: Instant) -> Result<Option<HelperMessage>, Lost> {
        loop {
            match self.session.hear(until, self.gate, self.stopped) {
                Ok(line) => return serde_json::from_slice(&line).map(Some).map_err(|_| self.garbage()),
                Err(NoLine::Stopped) => {
                    self.stopped = true;
                    self.say(HostMessage::Cancel);
                }
                Err(NoLine::Left) => return Err(Lost::Left),
                Err(NoLine::TimedOut) => return Ok(None),
                Err(NoLine::Ended) => return Err(self.garbage()),
            }
        }
    }

    /// The change is proven: waits until the gate says commit or go back, tells the helper, and waits for its last message.
    fn hold(&mut self) -> Result<HelperMessage, Lost> {
        // The helper waits for the timeout that it was given: with `--rollback-all`, the time for all bundles.
        let overdue = self.until + LAST_WORD;
        while self.gate.says(Word::Hold) {
            match self.session.hear(Instant::now() + POLL_INTERVAL, self.gate, true) {
                Err(NoLine::TimedOut) if Instant::now() < overdue => {}
                Ok(line) => return serde_json::from_slice(&line).map_err(|_| self.garbage()),
                Err(NoLine::Left) => return Err(Lost::Left),
                Err(_) => return Err(self.garbage()),
            }
        }
        if self.gate.says(Word::Commit) {
            self.acked = true;
            self.say(HostMessage::Ack);
        }
        self.hear()
    }

    /// Hangs up, since the helper sent something that can't be understood.
    fn garbage(&mut self) -> Lost {
        Lost::Broken(Complaint::new(self.session.end()))
    }
}

/// A random identifier for one change.
fn random_id() -> Printable {
    // The standard library's own source of random keys.
    let word = || std::collections::hash_map::RandomState::new().build_hasher().finish();
    Printable::new(&format!("{:016x}{:016x}", word(), word()))
}

fn exec_failed(words: Printable) -> Reason {
    Reason::CallFailed { call: Printable::new("exec"), words }
}

fn other_protocol(theirs: OtherProtocol) -> Reason {
    Reason::OtherProtocol { ours: (PROTOCOL, Printable::new(VERSION)), theirs }
}
