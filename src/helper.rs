//! The host's helper in the bundle: says who PID 1 is and what it would do, then carries out the change from inside.
//!
//! It decides nothing (that is [`Transaction`]'s and [`Proof`]'s), works as any user that may read the status page,
//! and needs nothing of the image. Whatever becomes of the host, of docker or of their connection, it comes to an end
//! by itself: every wait has a deadline, and nothing waits for its stdout.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::kill;
use nix::unistd::{Pid, read};

use crate::change::command::{self, Ended};
use crate::change::proof::{self, Finding, Proof, Refusal, Short, Step, Verdict};
use crate::change::reason::{self, Ended as Why, Outcome, Reason, RecordedOutcome};
use crate::change::store::{Content, LiveIn, Record, Store};
use crate::change::transaction::{Action, Doing, Ending, Event, Mark, Mode, Transaction, Trouble};
use crate::change::{clock, diff, lock, log, probe};
use crate::page;
use crate::protocol::{
    self, Answer, End, HelperMessage, HostMessage, MAX_BYTES, MAX_CONTENT, PROTOCOL, Reply, Request, Task, sha256,
};
use crate::status::{InitState, Page, Plan};
use crate::table::Signal;
use crate::text::Plain;

/// How long the host may take to say what it wants, or to take what is said.
const A_LINE: Duration = Duration::from_secs(10);
/// How long it has at least to acknowledge the proof.
const TO_ACK: Duration = Duration::from_secs(5);
/// How often the page is looked at, in milliseconds.
const LOOK: u16 = 5;
/// The same while the host's word is waited for, which wakes it anyway: of a fleet hundreds may wait at once.
const LOOK_HELD: u16 = 50;
/// How often it is tried to take a lock that another holds, in milliseconds.
const TRY: u16 = 20;

/// Serves one host over stdin and stdout. Returns false where the host said nothing that could be understood, or
/// hung up.
#[must_use]
pub fn run() -> bool {
    let mut host = Host { heard: Vec::new(), sent: false, acked: false };
    let Some(line) = host.line(Instant::now() + A_LINE) else { return false };
    match protocol::request(&line) {
        Ok(request) => serve(&mut host, &request),
        Err(Some(_)) => answer(Reply::Protocol),
        Err(None) => false,
    }
}

fn serve(host: &mut Host, request: &Request) -> bool {
    let page = match page::read() {
        Ok(page) => page,
        Err(error) => return answer(Reply::NotInit { error: Plain::new(&error) }),
    };
    let timeout = Duration::from_millis(request.timeout_ms);
    if request.task == Task::Ask {
        return answer(asked_after(host, request, &page, timeout));
    }
    let Some(signal) = Signal::from_name(&request.signal) else {
        return answer(Reply::Refused { why: refusal(Refusal::NotWired, request, ""), target: None });
    };
    match proof::target(&page, signal) {
        Ok(target) if !answer(Reply::Hello { target: target.clone() }) => return false,
        Ok(_) if request.task == Task::Identify && !request.from_inside => return true,
        Ok(_) if request.task == Task::Identify => {
            return match signal_init(signal) {
                Ok(()) => tell(&HelperMessage::Sent),
                Err(why) => tell(&HelperMessage::End(Box::new(refused(&why, request, None)))),
            };
        }
        Ok(_) => {}
        // It may have died of what was interrupted: then that is settled first, by a restart.
        Err((Refusal::NotRunning, Some(target)))
            if request.task != Task::Identify && is_interrupted(&page, &target) =>
        {
            if !answer(Reply::Hello { target }) {
                return false;
            }
        }
        Err((why, target)) => {
            let daemon = target.as_ref().map_or("", |target| target.daemon.as_str());
            return answer(Reply::Refused { why: refusal(why, request, daemon), target });
        }
    }
    let (mode, content) = match &request.task {
        Task::File { bytes, sha256, .. } => (Mode::File, Some((*bytes, sha256))),
        Task::DryRun { bytes, sha256, .. } => (Mode::DryRun, Some((*bytes, sha256))),
        Task::Identify | Task::InPlace | Task::Ask => (Mode::InPlace, None),
    };
    let started = Instant::now();
    let content = match content.map(|(bytes, digest)| host.content(bytes, digest, started + timeout)).transpose() {
        Ok(content) => content,
        Err(why) => return tell(&HelperMessage::End(Box::new(refused(&why, request, None)))),
    };
    let end = match queue(host, request, started + timeout) {
        Ok(_lock) => change(host, request, signal, mode, content, started),
        Err(why) => refused(&why, request, None),
    };
    tell(&HelperMessage::End(Box::new(end)))
}

/// What is done under the lock.
fn change(
    host: &mut Host,
    request: &Request,
    signal: Signal,
    mode: Mode,
    content: Option<Vec<u8>>,
    started: Instant,
) -> End {
    let unsettled = settle(host, request);
    // The one before this may have changed what the signal meets.
    let Ok(page) = page::read() else { return refused(&Trouble::Stopping, request, None) };
    let (target, plan) = match proof::target(&page, signal) {
        Ok(target) => match proof::find(&page, target.daemon.as_str()) {
            Some((_, plan)) => (target.clone(), plan.clone()),
            None => return refused(&Trouble::Target { why: Refusal::NotSelected }, request, None),
        },
        Err((why, _)) => return refused(&Trouble::Target { why }, request, None),
    };
    let daemon = target.daemon.as_str().to_owned();
    if let Some((_, back)) = unsettled.into_iter().find(|(name, _)| *name == daemon) {
        // Who applies what lies there, where nothing is kept that could come back, says that it is right.
        if !(mode == Mode::InPlace && back == Trouble::KeptGone) {
            let back = Box::new(back);
            let plan = Some((daemon.as_str(), &plan, None));
            return refused(&Trouble::Unsettled { daemon: Plain::new(&daemon), back }, request, plan);
        }
    }
    let mut job = Job::new(host, request, &daemon, &plan, signal);
    job.content = content;
    job.end.wait_ms = millis(started);
    let was_dead = target.before.pid.is_none();
    job.run(Transaction::new(mode, was_dead)).1
}

/// Whether the last change of that daemon was interrupted, as far as can be told.
fn is_interrupted(page: &Page, target: &proof::Target) -> bool {
    let config = proof::find(page, target.daemon.as_str()).and_then(|(_, plan)| plan.config.as_ref());
    let record = config.and_then(|config| Store::open(&config.path).ok()?.record().ok()?);
    record.is_some_and(|record| record.outcome == Mark::Interrupted)
}

/// Settles what was interrupted, of every daemon, and sweeps. Returns those of which it couldn't be, and why.
fn settle(host: &mut Host, request: &Request) -> Vec<(String, Trouble)> {
    let Ok(page) = page::read() else { return Vec::new() };
    let mut unsettled = Vec::new();
    for (daemon, plan) in page.status.daemons.iter().zip(&page.plans) {
        let Some(store) = plan.config.as_ref().and_then(|config| Store::open(&config.path).ok()) else { continue };
        let record = match store.record() {
            Ok(Some(record)) if record.outcome == Mark::Interrupted => record,
            Ok(_) => {
                // What one that was killed before, or after, has left.
                store.sweep();
                continue;
            }
            Err(why) => {
                unsettled.push((daemon.name.clone(), why));
                continue;
            }
        };
        // The signal isn't used: the way back takes the restart that is wired.
        let mut job = Job::new(host, request, &daemon.name, plan, Signal::HUP);
        (job.store, job.record) = (Some(store), Some(record));
        let (end, _) = job.run(Transaction::new(Mode::Settle, false));
        if let Ending::Down { back: back @ (Trouble::KeptGone | Trouble::Io { .. }), .. } = end {
            unsettled.push((daemon.name.clone(), back));
        }
    }
    unsettled
}

fn asked_after(host: &mut Host, request: &Request, page: &Page, timeout: Duration) -> Reply {
    // Where it can't be had, whoever holds it may yet decide: nothing is known.
    let Ok(_lock) = queue(host, request, Instant::now() + timeout) else {
        return Reply::Recorded { outcome: Some(RecordedOutcome::Interrupted) };
    };
    let _ = settle(host, request);
    let wired = page.status.signals.get(&request.signal);
    let daemon = wired.and_then(|wired| wired.restart.as_ref().or(wired.forward.as_ref()));
    let config = daemon.and_then(|daemon| proof::find(page, daemon)?.1.config.as_ref());
    let record = config.map_or(Ok(None), |config| Store::open(&config.path).and_then(|store| store.record()));
    let outcome = match record {
        Ok(record) => record.and_then(|record| record.outcome_of(&request.id)),
        // What was placed can't be told.
        Err(_) => Some(Mark::Interrupted),
    };
    Reply::Recorded { outcome: outcome.map(recorded) }
}

/// Waits for the lock, and tells others that it is held.
fn queue(host: &mut Host, request: &Request, deadline: Instant) -> Result<lock::Lock, Trouble> {
    loop {
        match lock::try_take() {
            Ok(Some(lock)) => {
                lock::tell(&lock::Holder { by: request.by.clone(), since: clock::utc_now() });
                return Ok(lock);
            }
            Ok(None) => {}
            Err(words) => return Err(Trouble::NoLock { words: Plain::new(&words) }),
        }
        match host.left(TRY, deadline) {
            Some(Trouble::Late) => {
                let unknown = || Plain::new("somebody");
                let (by, since) = lock::holder().map_or_else(|| (unknown(), Plain::default()), |h| (h.by, h.since));
                return Err(Trouble::Locked { by, since });
            }
            Some(why) => return Err(why),
            None => {}
        }
    }
}

/// One transaction's hands.
struct Job<'a> {
    host: &'a mut Host,
    request: &'a Request,
    daemon: &'a str,
    plan: &'a Plan,
    signal: Signal,
    store: Option<Store>,
    record: Option<Record>,
    content: Option<Vec<u8>>,
    old: Option<Content>,
    /// The sha256 of what is to lie at `path`: from the check on the new content, after the way back the old one. `None`
    /// where that can't be told.
    new: Option<Plain>,
    at: Plain,
    began: Instant,
    deadline: Instant,
    end: End,
}

impl<'a> Job<'a> {
    fn new(host: &'a mut Host, request: &'a Request, daemon: &'a str, plan: &'a Plan, signal: Signal) -> Self {
        let began = Instant::now();
        Self {
            host,
            request,
            daemon,
            plan,
            signal,
            store: None,
            record: None,
            content: None,
            old: None,
            new: None,
            at: clock::utc_now(),
            began,
            deadline: began + Duration::from_millis(request.timeout_ms),
            end: refused(&Trouble::Late, request, None),
        }
    }

    fn run(mut self, mut transaction: Transaction) -> (Ending, End) {
        let mut event = Event::Begin;
        loop {
            let action = transaction.on(event);
            let done = match action {
                Action::Look => self.look(),
                Action::Stage => self.stage(),
                Action::Check => self.check(),
                Action::Keep => self.keep(),
                Action::Note(mark) => self.note(mark),
                Action::Place => self.store().and_then(Store::place).map(|()| Event::Done),
                Action::Prove => self.prove(),
                Action::Offer => self.offer(),
                Action::Restore => self.restore(),
                Action::Revive => self.revive(),
                Action::Sweep => {
                    if let Some(store) = self.store.as_ref().filter(|_| self.content.is_some() || self.record.is_some())
                    {
                        store.sweep();
                    }
                    Ok(Event::Done)
                }
                Action::End(ending) => {
                    let pid = self.end.after.and_then(|after| after.pid);
                    let said = (self.daemon, self.plan, pid);
                    self.end.ended = ended(&ending, self.request, Some(said));
                    // Who settles another's change did not make it.
                    let by = self.record.as_ref().map_or(&self.request.by, |record| &record.by);
                    log::tell(self.daemon, by, &self.end);
                    return (ending, self.end);
                }
            };
            event = done.unwrap_or_else(Event::Failed);
        }
    }

    fn store(&self) -> Result<&Store, Trouble> {
        self.store.as_ref().ok_or(Trouble::NoConfig)
    }

    fn old(&self) -> Result<&Content, Trouble> {
        self.old.as_ref().ok_or(Trouble::NoConfig)
    }

    fn look(&mut self) -> Result<Event, Trouble> {
        if self.request.from_inside {
            kill(Pid::from_raw(1), None).map_err(|_| Trouble::MayNotSignal)?;
        }
        let Some(config) = &self.plan.config else {
            return if self.content.is_some() { Err(Trouble::NoConfig) } else { Ok(Event::Done) };
        };
        let Some(content) = &self.content else {
            self.store = Store::open(&config.path).ok();
            self.new = self.store.as_ref().and_then(|store| store.current().ok()).map(|now| sha256(&now.bytes));
            return Ok(Event::Done);
        };
        let page = page::read().map_err(|_| Trouble::Stopping)?;
        if restart_of(&page, self.daemon).is_none() {
            return Err(Trouble::NoWayBack);
        }
        kill(Pid::from_raw(1), None).map_err(|_| Trouble::MayNotSignal)?;
        let store = Store::open(&config.path)?;
        let old = store.replaceable()?;
        let new = sha256(content);
        let same = old.bytes == *content;
        let (mut force, mut changed) = (true, None);
        match &self.request.task {
            Task::File { force: asked, .. } => force = *asked,
            Task::DryRun { show, .. } => changed = Some(diff::lines(&old.bytes, content, *show)),
            Task::Identify | Task::InPlace | Task::Ask => {}
        }
        self.end.diff = changed;
        let live = store.record()?.filter(|record| record.outcome == Mark::Live && record.new_sha256 == new);
        let was = live.and_then(|live| live.live_in);
        let is_live = was.is_some() && was == live_in(self.daemon, &page, &old);
        (self.store, self.old, self.new) = (Some(store), Some(old), Some(new));
        if same && !force && is_live && probe::ready(self.plan, probe::TIMEOUT) {
            return Ok(Event::Unchanged);
        }
        Ok(Event::Done)
    }

    /// What is checked, and proven, must be what lies there: else nobody knows what the daemon has read.
    fn nobody_wrote(&self) -> Result<(), Trouble> {
        let (Some(new), Some(store)) = (&self.new, &self.store) else { return Ok(()) };
        if store.current().is_ok_and(|now| sha256(&now.bytes) == *new) { Ok(()) } else { Err(Trouble::Changed) }
    }

    fn stage(&mut self) -> Result<Event, Trouble> {
        if let Some(why) = self.host.left(0, self.deadline) {
            return Ok(Event::Left(why));
        }
        self.store()?.stage(self.content.as_deref().unwrap_or_default(), self.old()?)?;
        Ok(Event::Done)
    }

    fn check(&mut self) -> Result<Event, Trouble> {
        let Some(config) = &self.plan.config else { return Ok(Event::Done) };
        let Some(check) = &config.check else {
            self.end.checked = Some(false);
            return Ok(Event::Done);
        };
        let file = if self.content.is_some() { self.store()?.staged() } else { config.path.clone() };
        let file = file.to_string_lossy();
        let command: Vec<String> = check.iter().map(|argument| argument.replace("{}", &file)).collect();
        let started = Instant::now();
        let mut left = None;
        let ended = command::run(&command, true, || {
            left = self.host.left(0, self.deadline);
            left.is_none()
        });
        self.end.check_ms = millis(started);
        match ended {
            Ended::Exited(status, _) if status.success() => {
                if self.content.is_none() {
                    self.nobody_wrote()?;
                }
                self.end.checked = Some(true);
                Ok(Event::Done)
            }
            Ended::Exited(status, words) => {
                // It was asked about a name that nobody knows.
                let words = String::from_utf8_lossy(&words).replace(&*file, &config.path.to_string_lossy());
                Err(Trouble::Checker { code: status.code(), words: Plain::new(&words) })
            }
            Ended::Stopped if left == Some(Trouble::Late) => Err(Trouble::CheckerHung),
            Ended::Stopped => Ok(Event::Left(left.unwrap_or(Trouble::Late))),
            Ended::NotRun(e) => Err(Trouble::CheckerNotRun { words: Plain::new(&e.to_string()) }),
        }
    }

    fn keep(&mut self) -> Result<Event, Trouble> {
        self.store()?.keep(self.old()?, self.content.as_deref().unwrap_or_default())?;
        Ok(Event::Done)
    }

    fn note(&mut self, mark: Mark) -> Result<Event, Trouble> {
        if mark == Mark::Interrupted {
            // Nothing is placed before this; nothing that the host does afterwards goes unanswered.
            if let Some(why) = self.host.left(0, self.deadline) {
                return Ok(Event::Left(why));
            }
        }
        let record = self.record.take();
        let store = self.store()?;
        let mut record = if let Some(record) = record {
            record
        } else {
            let (id, by) = (self.request.id.clone(), self.request.by.clone());
            let old = self.old.as_ref().map(|old| sha256(&old.bytes));
            let new = self.new.clone().ok_or(Trouble::Missing)?;
            Record::new(id, self.at.clone(), by, old, new, store.record().ok().flatten())
        };
        record.outcome = mark;
        record.ms = millis(self.began);
        if mark == Mark::Live {
            let now = store.current().ok().filter(|now| sha256(&now.bytes) == record.new_sha256);
            record.live_in = page::read().ok().zip(now).and_then(|(page, now)| live_in(self.daemon, &page, &now));
        }
        let noted = store.note(&record);
        self.record = Some(record);
        noted.map(|()| Event::Done)
    }

    fn prove(&mut self) -> Result<Event, Trouble> {
        let page = page::read().map_err(|_| Trouble::Stopping)?;
        let target = proof::target(&page, self.signal).map_err(|(why, _)| Trouble::Target { why })?;
        let mut proof = Proof::new(&page, self.signal, target.clone());
        if !tell(&HelperMessage::Go { target, grace_ms: self.plan.grace_ms }) {
            return Ok(Event::Left(Trouble::HostGone));
        }
        self.host.sent = false;
        if self.request.from_inside {
            signal_init(self.signal)?;
            self.host.sent = true;
        }
        loop {
            if let Some(verdict) = look_at(&mut proof, self.host.sent, self.deadline) {
                let proven = self.judge(verdict)?;
                self.nobody_wrote()?;
                return Ok(proven);
            }
            match self.host.left(LOOK, self.deadline) {
                None => {}
                Some(Trouble::Late) => return self.judge(proof.give_up()),
                Some(why) => {
                    self.saw(proof.give_up());
                    return Ok(Event::Left(why));
                }
            }
        }
    }

    fn saw(&mut self, verdict: Verdict) -> Finding {
        self.end.after = Some(verdict.after);
        self.end.siblings_moved = Some(verdict.siblings_moved);
        verdict.finding
    }

    fn judge(&mut self, verdict: Verdict) -> Result<Event, Trouble> {
        match self.saw(verdict) {
            finding @ (Finding::Live | Finding::Delivered) => Ok(Event::Proven(finding)),
            Finding::Unproven(Short::InitStopping) => Err(Trouble::Stopping),
            finding => Err(Trouble::Unproven { finding }),
        }
    }

    fn offer(&mut self) -> Result<Event, Trouble> {
        self.host.acked = false;
        if !tell(&HelperMessage::Proven) {
            return Ok(Event::Left(Trouble::HostGone));
        }
        let deadline = self.deadline.max(Instant::now() + TO_ACK);
        loop {
            if let Some(why) = self.host.left(LOOK_HELD, deadline) {
                return Ok(Event::Left(why));
            }
            // Until it is committed what was proven must go on.
            let page = page::read().map_err(|_| Trouble::Stopping)?;
            if page.status.state == InitState::Stopping {
                return Ok(Event::Left(Trouble::Stopping));
            }
            if let Some(finding) = proof::undone(&page, self.daemon, self.end.after) {
                return Err(Trouble::Unproven { finding });
            }
            if self.host.acked {
                self.nobody_wrote()?;
                return Ok(Event::Done);
            }
        }
    }

    fn restore(&mut self) -> Result<Event, Trouble> {
        let record = self.record.as_ref().ok_or(Trouble::KeptGone)?;
        // Without content it is another's that is settled.
        let later = self.content.is_none();
        let restored = self.store()?.restore(record, later)?;
        let is_left = later && restored == Event::Replaced;
        self.new = record.old_sha256.clone().filter(|_| !is_left);
        Ok(restored)
    }

    fn revive(&mut self) -> Result<Event, Trouble> {
        let started = Instant::now();
        let revived = self.restart(started);
        self.end.back_ms = millis(started);
        self.nobody_wrote()?;
        revived
    }

    fn restart(&mut self, started: Instant) -> Result<Event, Trouble> {
        let page = page::read().map_err(|_| Trouble::Stopping)?;
        let signal = restart_of(&page, self.daemon).ok_or(Trouble::NoWayBack)?;
        let target = match proof::target(&page, signal) {
            Ok(target) => target,
            Err((Refusal::Stopping, _)) => return Err(Trouble::Stopping),
            Err((why, _)) => return Err(Trouble::Target { why }),
        };
        let mut proof = Proof::new(&page, signal, target);
        signal_init(signal)?;
        let time = Duration::from_millis(self.plan.grace_ms.saturating_add(self.request.timeout_ms));
        let deadline = started + time.max(Duration::from_secs(1));
        let verdict = loop {
            if let Some(verdict) = look_at(&mut proof, true, deadline) {
                break verdict;
            }
            if Instant::now() >= deadline {
                break proof.give_up();
            }
            std::thread::sleep(Duration::from_millis(u64::from(LOOK)));
        };
        self.judge(verdict)
    }
}

/// The daemon as it runs now with this file; `None` where that can't be told from another process later.
fn live_in(daemon: &str, page: &Page, file: &Content) -> Option<LiveIn> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let (now, _) = proof::find(page, daemon)?;
    now.pid?;
    Some(LiveIn {
        boot: Plain::new(&boot),
        pid: now.pid,
        generation: now.generation,
        since_ms: now.uptime_ms,
        file: file.stamp,
    })
}

/// Signals PID 1.
fn signal_init(signal: Signal) -> Result<(), Trouble> {
    // SAFETY: kill(2) takes numbers only; nix's own knows no real-time signals.
    if unsafe { nix::libc::kill(1, signal.number()) } == 0 { Ok(()) } else { Err(Trouble::MayNotSignal) }
}

/// One look at the page, with the probe that the proof asks for.
fn look_at(proof: &mut Proof, sent: bool, deadline: Instant) -> Option<Verdict> {
    let mut answer = None;
    loop {
        // A page that can't be read is passed over: the next one tells, or the deadline does.
        let page = page::read().ok()?;
        match proof.observe(page::now_ms(), &page, sent, answer.take()) {
            Step::Done(verdict) => return Some(verdict),
            Step::Wait { probe: false } => return None,
            Step::Wait { probe: true } => {
                let left = deadline.saturating_duration_since(Instant::now());
                let ready =
                    proof::find(&page, proof.daemon()).map(|(_, plan)| probe::ready(plan, left.min(probe::TIMEOUT)));
                if ready != Some(true) {
                    // The answer goes with the page that it was asked for.
                    return match proof.observe(page::now_ms(), &page, sent, ready) {
                        Step::Done(verdict) => Some(verdict),
                        Step::Wait { .. } => None,
                    };
                }
                answer = ready;
            }
        }
    }
}

/// The signal that restarts the daemon.
fn restart_of(page: &Page, daemon: &str) -> Option<Signal> {
    let restarts = |wired: &crate::status::Wired| wired.restart.as_deref() == Some(daemon);
    page.status.signals.iter().find(|(_, wired)| restarts(wired)).and_then(|(name, _)| Signal::from_name(name))
}

/// Who is spoken of: a daemon, its plan, and its process.
type About<'a> = Option<(&'a str, &'a Plan, Option<i32>)>;

fn refused(why: &Trouble, request: &Request, about: About<'_>) -> End {
    End {
        ended: ended(&Ending::Refused { why: why.clone() }, request, about),
        recovered: Vec::new(),
        owner_was: None,
        after: None,
        siblings_moved: None,
        checked: None,
        diff: None,
        wait_ms: 0,
        check_ms: 0,
        back_ms: 0,
    }
}

fn recorded(mark: Mark) -> RecordedOutcome {
    match mark {
        Mark::Interrupted => RecordedOutcome::Interrupted,
        Mark::Live => RecordedOutcome::Live,
        Mark::Delivered => RecordedOutcome::Delivered,
        Mark::NotProven => RecordedOutcome::NotProven,
        Mark::RolledBack => RecordedOutcome::RolledBack,
        Mark::Down => RecordedOutcome::Down,
    }
}

fn refusal(why: Refusal, request: &Request, daemon: &str) -> Reason {
    let (signal, daemon) = (Plain::new(&request.signal), Plain::new(daemon));
    match why {
        Refusal::NotWired => Reason::NotWired { signal },
        Refusal::Stopping => Reason::Stopping,
        Refusal::NotSelected => Reason::NotSelected { signal, daemon },
        Refusal::NotRunning => Reason::NotRunning { signal, daemon },
    }
}

fn ended(ending: &Ending, request: &Request, about: About<'_>) -> Why {
    let why = |why: &Trouble| reason(why, request, about);
    match ending {
        Ending::Unchanged => Why::well(Outcome::Unchanged),
        Ending::Checked => Why::well(Outcome::DryRun),
        Ending::Live { finding: Finding::Delivered } => Why::well(Outcome::Delivered),
        Ending::Live { .. } => Why::well(Outcome::Live),
        Ending::Refused { why: trouble } => Why::from(why(trouble)),
        Ending::NotProven { why: trouble @ Trouble::Unproven { finding: Finding::ReloadRefused { .. } } } => {
            Why::badly(Outcome::Refused, why(trouble))
        }
        Ending::NotProven { why: trouble } => Why::badly(Outcome::NotProven, why(trouble)),
        Ending::RolledBack { why: trouble } => Why::badly(Outcome::RolledBack, why(trouble)),
        Ending::Down { why: trouble, back } => Why::down(why(trouble), why(back)),
    }
}

fn reason(trouble: &Trouble, request: &Request, about: About<'_>) -> Reason {
    use reason::{CheckerFault, FileFault, FileStep, Shortfall};
    let name = about.map_or("the daemon", |(name, ..)| name);
    let (signal, daemon) = (Plain::new(&request.signal), Plain::new(name));
    let path = about.and_then(|(_, plan, _)| plan.config.as_ref()).map(|config| config.path.clone());
    let path = path.unwrap_or_default();
    let file = |fault| Reason::file(&path, fault);
    let checker = |fault| Reason::Checker { path: Plain::new(&path.to_string_lossy()), fault };
    match trouble.clone() {
        Trouble::Target { why } => refusal(why, request, name),
        Trouble::Locked { by, since } => Reason::Locked { by, since },
        Trouble::NoLock { words } => Reason::NoLock { words },
        Trouble::Unsettled { daemon, back } => {
            Reason::Unrecovered { daemon, why: Box::new(reason(&back, request, about)) }
        }
        Trouble::NoConfig => Reason::NoConfig { daemon },
        Trouble::NoWayBack => Reason::NoWayBack { daemon },
        Trouble::MayNotSignal => Reason::MayNotSignal,
        Trouble::Missing => file(FileFault::Missing),
        Trouble::Symlink => file(FileFault::Symlink),
        Trouble::NotAFile => file(FileFault::NotAFile),
        Trouble::Mounted => file(FileFault::Mounted),
        Trouble::TooLarge => file(FileFault::TooLarge),
        Trouble::Owner { uid, gid } => file(FileFault::Owner { uid, gid }),
        Trouble::Garbled => Reason::Garbled,
        Trouble::Io { doing, words } => {
            let step = match doing {
                Doing::Open => FileStep::Open,
                Doing::Read => FileStep::Read,
                Doing::Stage => FileStep::Stage,
                Doing::Keep => FileStep::Keep,
                Doing::Note => FileStep::Record,
                Doing::Place => FileStep::Install,
                Doing::Restore => FileStep::Restore,
            };
            file(FileFault::System { step, words })
        }
        Trouble::Checker { code, words } => checker(CheckerFault::Refused { code, words }),
        Trouble::CheckerHung => checker(CheckerFault::Hung),
        Trouble::CheckerNotRun { words } => checker(CheckerFault::NotRun { words }),
        Trouble::Unproven { finding } => {
            let shortfall = match finding {
                Finding::ReloadRefused { errno } => Shortfall::ReloadRefused { errno },
                Finding::Unproven(short) => match short {
                    Short::Unserved => Shortfall::Unserved,
                    Short::InitRefused => Shortfall::InitRefused,
                    Short::InitStopping => return Reason::Stopping,
                    Short::OldStopping => Shortfall::OldStopping,
                    Short::Dead { code, signal } => Shortfall::Dead { code, killed_by: signal },
                    Short::NotExecuted { code } => Shortfall::NotExecuted { code },
                    Short::NotReady => Shortfall::NotReady,
                    Short::NotSettled => Shortfall::NotSettled,
                    Short::Held => Shortfall::Held,
                    Short::NeverCaught => Shortfall::NeverCaught,
                    Short::ReloadPending => Shortfall::ReloadPending,
                    Short::Replaced => Shortfall::Replaced,
                },
                Finding::Live | Finding::Delivered => return Reason::Late,
            };
            Reason::Unproven { daemon, signal, pid: about.and_then(|(.., pid)| pid), shortfall }
        }
        Trouble::HostGone => Reason::HostGone,
        Trouble::Cancelled => Reason::Cancelled,
        Trouble::NotSent => Reason::NotSent,
        Trouble::Late => Reason::Late,
        Trouble::Stopping => Reason::Stopping,
        Trouble::Interrupted => Reason::Interrupted,
        Trouble::KeptGone => file(FileFault::KeptGone),
        Trouble::RecordGone => file(FileFault::RecordGone),
        Trouble::Changed => file(FileFault::Changed),
    }
}

fn answer(reply: Reply) -> bool {
    say(&protocol::line(&Answer { protocol: PROTOCOL, version: Plain::new(protocol::VERSION), reply }))
}

fn tell(step: &HelperMessage) -> bool {
    say(&protocol::line(step))
}

/// Says it, or gives the host up: a pipe that poll(2) calls writable takes `PIPE_BUF` bytes without a wait.
fn say(line: &str) -> bool {
    let stdout = io::stdout();
    let until = Instant::now() + A_LINE;
    line.as_bytes().chunks(4096).all(|chunk| {
        let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)];
        let left = until.saturating_duration_since(Instant::now()).as_millis();
        let left = PollTimeout::from(u16::try_from(left).unwrap_or(u16::MAX));
        if !matches!(poll(&mut fds, left), Ok(1..)) {
            return false;
        }
        let mut stdout = stdout.lock();
        stdout.write_all(chunk).and_then(|()| stdout.flush()).is_ok()
    })
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The host is gone, or says more than it may.
struct HungUp;

/// The other end of stdin and stdout.
struct Host {
    heard: Vec<u8>,
    sent: bool,
    acked: bool,
}

impl Host {
    fn line(&mut self, deadline: Instant) -> Option<Vec<u8>> {
        while Instant::now() < deadline {
            if let Some(line) = self.poll(100).ok()? {
                return Some(line);
            }
        }
        None
    }

    /// The content that follows: an end of file in its middle is no short content.
    fn content(&mut self, bytes: u64, digest: &Plain, deadline: Instant) -> Result<Vec<u8>, Trouble> {
        let size = usize::try_from(bytes).ok().filter(|_| bytes <= MAX_CONTENT).ok_or(Trouble::Garbled)?;
        while self.heard.len() < size {
            if Instant::now() >= deadline {
                return Err(Trouble::Late);
            }
            self.read(100).map_err(|_| Trouble::HostGone)?;
        }
        let content: Vec<u8> = self.heard.drain(..size).collect();
        if sha256(&content) == *digest { Ok(content) } else { Err(Trouble::Garbled) }
    }

    /// Waits for at most `millis`, takes in what the host says, and tells why not to go on, if so.
    fn left(&mut self, millis: u16, deadline: Instant) -> Option<Trouble> {
        match self.poll(millis) {
            Err(HungUp) => return Some(Trouble::HostGone),
            Ok(Some(line)) => match serde_json::from_slice(&line) {
                Ok(HostMessage::Sent) => self.sent = true,
                Ok(HostMessage::NotSent) => return Some(Trouble::NotSent),
                Ok(HostMessage::Ack) => self.acked = true,
                Ok(HostMessage::Cancel) => return Some(Trouble::Cancelled),
                Err(_) => {}
            },
            Ok(None) => {}
        }
        (Instant::now() >= deadline).then_some(Trouble::Late)
    }

    /// Waits for at most `millis` for a line of the host's.
    fn poll(&mut self, millis: u16) -> Result<Option<Vec<u8>>, HungUp> {
        if let Some(line) = self.take_line() {
            return Ok(Some(line));
        }
        self.read(millis)?;
        if self.heard.len() > MAX_BYTES { Err(HungUp) } else { Ok(self.take_line()) }
    }

    /// Waits for at most `millis` for the host to say something.
    fn read(&mut self, millis: u16) -> Result<(), HungUp> {
        let (stdin, stdout) = (io::stdin(), io::stdout());
        // Of stdout nothing is asked: that its reader is gone is told all the same.
        let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN), PollFd::new(stdout.as_fd(), PollFlags::empty())];
        match poll(&mut fds, PollTimeout::from(millis)) {
            Ok(0) | Err(Errno::EINTR) => return Ok(()),
            Ok(_) => {}
            Err(_) => return Err(HungUp),
        }
        let said = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        let [input, output] = &fds;
        if said(output) {
            return Err(HungUp);
        }
        if !said(input) {
            return Ok(());
        }
        let mut buffer = [0; 16384];
        match read(stdin.as_fd(), &mut buffer) {
            Ok(0) => Err(HungUp),
            Ok(n) => {
                self.heard.extend(buffer.iter().take(n));
                Ok(())
            }
            Err(Errno::EINTR) => Ok(()),
            Err(_) => Err(HungUp),
        }
    }

    fn take_line(&mut self) -> Option<Vec<u8>> {
        let end = self.heard.iter().position(|b| *b == b'\n')?;
        let mut line: Vec<u8> = self.heard.drain(..=end).collect();
        line.pop();
        Some(line)
    }
}
