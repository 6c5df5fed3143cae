//! The promises of init, each with its name, checked against what was done to the simulated kernel.
//!
//! Nothing here looks at how the core decides: what is true is worked out again, from requests served and calls made.

macro_rules! broken {
    ($judge:expr, $promise:literal, $($how:tt)*) => {
        $judge.fail($promise, || format!($($how)*))
    };
}

mod asked;
mod life;
mod mark;
mod probes;
mod rest;
mod shown;

pub use mark::{MARKS, Mark};

use sidecar::request::Verb;
use sidecar::status::{LastExit, Outcome, RequestOutcome};
use sidecar::supervisor::Event;
use sidecar::table::{Action, Ready, RestartPolicy, SignalRule, Table};

use crate::kernel::{CONT, KILL, Kernel, Life, Millis, TERM, URG, Uid, WINCH, bit};

/// How long init waits at most for the end of what it has killed.
const GIVE_UP: Millis = 2_000;
/// How late init may be woken, and still not see a pause.
const LATE: Millis = 500;
/// How long a signal is held at most.
const HOLD: Millis = 20_000;
/// How long init sleeps at most while a daemon is stopping.
const TICK: Millis = 1_000;
/// How long a stop takes at most without the log saying whom it waits for.
const SILENT: Millis = 4_000;
/// How far apart the looks at a session or a mask are at most.
const LOOK: Millis = 50;

/// The delays of a restart policy, which are docker's: the first, the longest, and how long a process runs for the next
/// one to be the first again.
const FIRST_DELAY: Millis = 100;
const LONGEST_DELAY: Millis = 60_000;
const STEADY: Millis = 10_000;
/// How long a probe may take, and the pauses between two of them.
const PROBE: Millis = 10_000;
const PROBE_PAUSES: std::ops::RangeInclusive<Millis> = 100..=1_000;
/// How many of a daemon's requests status shows, beside those that are undecided.
const SHOWN: usize = 8;
/// How long the log may wait before it tells of requests that came to nothing.
const STRAYS: Millis = 1_000;

/// A daemon's process, as the kernel knows it.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination")]
struct Process {
    uid: Uid,
    pid: i32,
    since: Millis,
    /// What has become of its exec: `Err` is the code that it counts as.
    executed: Option<Result<(), i32>>,
    termed: bool,
    /// When it, or what it left, is to be killed, if it was asked to end.
    deadline: Option<Millis>,
    continued: bool,
    /// init has heard of its end.
    has_ended: bool,
    /// Since when the log has said nothing of the stop.
    silent: Millis,
    killed: Option<Millis>,
    /// The signals that it was sent because somebody asked for that.
    sent: u64,
    /// Its group was killed once it had ended.
    swept: bool,
    /// Since when it isn't init's any more: reaped, or given up.
    reaped: Option<Millis>,
    /// What is left of its session.
    left: Left,
}

/// What a daemon's process leaves of its session, as far as it concerns init.
#[derive(Clone, Debug, Default)]
struct Left {
    /// Nobody, as init has seen, or it has given up.
    is_settled: bool,
    asked: Vec<Uid>,
    /// Who was asked and is yet to be told to go on.
    to_continue: Vec<Uid>,
    /// When they were killed first.
    killed: Option<Millis>,
    /// A replacement was to start after them, and a shutdown came: it waits for them.
    is_waited_for: bool,
}

impl Process {
    fn is_being_ended(&self) -> bool {
        self.termed || self.killed.is_some()
    }

    /// It has ended, it was asked to, and others of its session have yet to.
    fn is_waited_for(&self) -> bool {
        self.reaped.is_some() && !self.left.is_settled && (self.is_being_ended() || self.left.is_waited_for)
    }
}

/// What a daemon's end is to init's exit code.
#[derive(Clone, Copy, Debug)]
enum Part {
    Code(i32),
    /// init's own signal.
    Own(i32),
}

#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct Slot {
    name: String,
    /// What the log said, and what it has yet to say.
    says_start: bool,
    owes_term: bool,
    says_end: bool,
    owes_killed: bool,
    owes_oom: bool,
    says_left: bool,
    grace: Millis,
    stop_signal: i32,
    policy: RestartPolicy,
    is_oneshot: bool,
    is_essential: bool,
    /// How it is seen to be ready: by a probe, by READY=1, or else by its exec.
    is_probed: bool,
    notifies: bool,
    /// The selected ones among its dependencies.
    depends_on: Vec<usize>,
    /// It was, once.
    was_ready: bool,
    /// Its first start is to come once its dependencies were ready.
    waits: bool,
    /// Its first start comes by itself, and not because somebody asked for it.
    is_in_turn: bool,
    /// It was stopped on request, and nobody has asked for it since.
    is_stopped: bool,
    /// A shutdown came while it waited for its start.
    was_forgotten: bool,
    /// It is a oneshot whose last end was a success.
    is_done: bool,
    /// When its policy starts it.
    backoff: Option<Millis>,
    /// How often it has ended by itself without having run for long, the last times in a row, and when it did first.
    ends: u32,
    first_end: Millis,
    /// What its policy has waited for since.
    delays: Millis,
    revivals: u64,
    requests: Vec<Asked>,
    probe: Option<Probe>,
    /// When the last probe ended, and of which process it was.
    probed: Option<(Uid, Millis)>,
    starts: u64,
    process: Option<Process>,
    failed: bool,
    part: Option<Part>,
    last_exit: Option<LastExit>,
    /// A replacement was asked for and has not been started.
    wanted: Option<Millis>,
    /// Since when nothing of the old group is there.
    gone: Option<Millis>,
    generation: u64,
    ready: bool,
    reloading: Option<u64>,
}

/// A probe that isn't reaped.
#[derive(Clone, Debug)]
struct Probe {
    uid: Uid,
    pid: i32,
    /// The process that is probed.
    of: Uid,
    since: Millis,
    /// Until when it may take, pauses apart.
    until: Millis,
    killed: bool,
}

/// A request about a daemon.
#[derive(Clone, Debug)]
struct Asked {
    id: String,
    verb: Verb,
    fate: Fate,
    generation: Option<u64>,
    looked: Option<Millis>,
    /// It was decided, and status hasn't shown it yet.
    is_news: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Pending,
    Held(Millis),
    Is(RequestOutcome),
}

impl Asked {
    fn is(&mut self, outcome: RequestOutcome) {
        (self.fate, self.is_news) = (Fate::Is(outcome), true);
    }

    fn wants_start(&self) -> bool {
        self.fate == Fate::Pending && matches!(self.verb, Verb::Restart | Verb::Start)
    }

    fn wants_stop(&self) -> bool {
        self.fate == Fate::Pending && self.verb == Verb::Stop
    }

    fn signal(&self) -> i32 {
        if let Verb::Signal(signal) = self.verb { signal.number() } else { 0 }
    }

    fn holds(&self, signal: i32) -> bool {
        matches!((self.fate, self.verb), (Fate::Held(_), Verb::Signal(held)) if held.number() == signal)
    }
}

/// Whether a signal ends a process that does nothing about it, and can be caught.
fn is_held(signal: i32) -> bool {
    !matches!(signal, KILL | CONT | WINCH | URG)
}

impl Slot {
    fn keeps_init(&self) -> bool {
        let is_waited_for = self.process.as_ref().is_some_and(Process::is_waited_for);
        self.unreaped().is_some() || self.wanted.is_some() || is_waited_for
    }

    fn unreaped(&self) -> Option<&Process> {
        self.process.as_ref().filter(|p| p.reaped.is_none())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Nothing,
    Held(Millis),
    Is(Outcome),
}

/// The signals of one rule that were served.
#[derive(Clone, Debug)]
struct Served {
    seq: u64,
    expected: Expected,
    /// What it started.
    generation: Option<u64>,
    delivered: Option<Millis>,
    errno: Option<i32>,
    /// When it was last looked whether its daemon takes it.
    looked: Option<Millis>,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    pub promise: &'static str,
    pub how: String,
}

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of the world, not a mode")]
pub struct Judge {
    table: Table,
    slots: Vec<Slot>,
    /// By the table's wiring: the slot that it is for.
    targets: Vec<Option<usize>>,
    requests: Vec<Served>,
    begun: bool,
    stopping: Option<Millis>,
    /// By slot: when it is asked to end at the latest in the shutdown.
    asks_by: Vec<Option<Millis>>,
    /// The daemon whose end began the shutdown.
    essential: Option<usize>,
    /// Until when the log may owe how many requests came to nothing.
    strays: Option<Millis>,
    pub exited: Option<i32>,
    /// A line that says so is due in the log, or was met.
    owes_refusal: bool,
    says_never: u32,
    no_masks: bool,
    pub broken: Option<Broken>,
    pub marks: [u64; MARKS],
}

impl Judge {
    pub fn new(table: &Table, selected: &[usize], no_masks: bool, marks: &[u64; MARKS]) -> Self {
        let is_probed = |ready: &Option<Ready>| !matches!(ready, None | Some(Ready::Notify));
        let slot = |i: &usize| Slot {
            stop_signal: table.daemons[*i].stop_signal.number(),
            policy: table.daemons[*i].restart,
            is_oneshot: table.daemons[*i].is_oneshot,
            is_essential: table.daemons[*i].is_essential,
            is_probed: is_probed(&table.daemons[*i].ready),
            notifies: table.daemons[*i].ready == Some(Ready::Notify),
            depends_on: selected
                .iter()
                .enumerate()
                .filter(|(_, index)| table.daemons[*i].depends_on.contains(index))
                .map(|(slot, _)| slot)
                .collect(),
            was_ready: false,
            waits: false,
            is_in_turn: false,
            is_stopped: false,
            was_forgotten: false,
            is_done: false,
            backoff: None,
            ends: 0,
            first_end: 0,
            delays: 0,
            revivals: 0,
            requests: Vec::new(),
            probe: None,
            probed: None,
            name: table.daemons[*i].name.clone(),
            says_start: false,
            owes_term: false,
            says_end: false,
            owes_killed: false,
            owes_oom: false,
            says_left: false,
            grace: u64::try_from(table.daemons[*i].grace.as_millis()).unwrap_or(u64::MAX),
            starts: 0,
            process: None,
            failed: false,
            part: None,
            last_exit: None,
            wanted: None,
            gone: None,
            generation: 0,
            ready: false,
            reloading: None,
        };
        let request = Served {
            seq: 0,
            expected: Expected::Nothing,
            generation: None,
            delivered: None,
            errno: None,
            looked: None,
        };
        Self {
            slots: selected.iter().map(slot).collect(),
            targets: table.wiring.iter().map(|w| selected.iter().position(|s| *s == w.daemon)).collect(),
            requests: vec![request; table.wiring.len()],
            table: table.clone(),
            begun: false,
            stopping: None,
            asks_by: vec![None; selected.len()],
            essential: None,
            strays: None,
            exited: None,
            owes_refusal: false,
            says_never: 0,
            no_masks,
            broken: None,
            marks: *marks,
        }
    }

    fn fail(&mut self, promise: &'static str, how: impl FnOnce() -> String) {
        if self.broken.is_none() {
            self.broken = Some(Broken { promise, how: how() });
        }
    }

    pub fn mark(&mut self, mark: Mark) {
        self.marks[mark as usize] += 1;
    }

    fn set(&mut self, slot: usize, from: impl Fn(Expected) -> bool, to: Outcome) -> bool {
        let mut any = false;
        for (request, _) in self.requests.iter_mut().zip(&self.targets).filter(|(_, t)| **t == Some(slot)) {
            if from(request.expected) {
                request.expected = Expected::Is(to);
                any = true;
            }
        }
        any
    }

    /// init could not run for so long: nobody loses that time.
    pub fn lose(&mut self, lost: Millis) {
        self.mark(Mark::Paused);
        for process in self.slots.iter_mut().filter_map(|slot| slot.process.as_mut()) {
            process.silent += lost;
            let times = [&mut process.deadline, &mut process.killed, &mut process.left.killed];
            times.into_iter().flatten().for_each(|at| *at += lost);
        }
        for slot in &mut self.slots {
            slot.probe.iter_mut().for_each(|probe| probe.until += lost);
            for request in &mut slot.requests {
                if let Fate::Held(since) = &mut request.fate {
                    *since += lost;
                }
            }
        }
        self.asks_by.iter_mut().flatten().for_each(|at| *at += lost);
        for request in &mut self.requests {
            if let Expected::Held(since) = &mut request.expected {
                *since += lost;
            }
        }
    }

    /// init takes this in now.
    pub fn serving(&mut self, kernel: &Kernel, event: &Event) {
        let now = kernel.now;
        match event {
            Event::Begin => {
                self.begun = true;
                if self.stopping.is_none() {
                    self.slots.iter_mut().for_each(|slot| slot.waits = true);
                    self.start_whoever_may(now);
                    self.serve_what_was_pending(now);
                }
            }
            Event::Stop => {
                if self.stopping.is_none() {
                    self.shut_down(now, None);
                }
                if !self.begun {
                    self.mark(Mark::StoppedBeforeStart);
                }
            }
            Event::Signal(signal) => {
                let Some(at) = self.table.wiring.iter().position(|w| w.signal == *signal) else { return };
                self.signal(at, now);
            }
            Event::Request(Some(request)) => self.request(request, now),
            Event::Request(None) => self.stray(now),
            Event::Ended { pid, oom_kills, .. } => self.ended(kernel, *pid, *oom_kills),
            Event::Executed { daemon, pid } => self.executed(*daemon, *pid, now),
            Event::StartFailed { daemon, code, .. } => {
                let slot = &mut self.slots[*daemon];
                slot.part = Some(Part::Code(*code));
                slot.last_exit = Some(LastExit { code: Some(*code), signal: None, by_init: false });
                for request in slot.requests.iter_mut().filter(|request| matches!(request.fate, Fate::Held(_))) {
                    request.is(RequestOutcome::Refused);
                }
                self.set(*daemon, |e| matches!(e, Expected::Held(_)), Outcome::Refused);
                self.mark(Mark::StartFailed);
                self.follow(*daemon, false, 0, now);
            }
            Event::NotExecuted { daemon, pid, code, .. } => {
                let slot = &mut self.slots[*daemon];
                let Some(process) = slot.process.as_mut().filter(|p| p.pid == *pid && p.reaped.is_none()) else {
                    return;
                };
                process.executed = Some(Err(*code));
            }
            Event::Notify { pid, ready, reloading, errno, .. } => {
                let is_up = self.stopping.is_none();
                let from = |s: &Slot| s.unreaped().is_some_and(|p| p.pid == *pid && !p.is_being_ended() && is_up);
                let Some(at) = self.slots.iter().position(from) else { return };
                let slot = &mut self.slots[at];
                if reloading.is_some() {
                    (slot.reloading, slot.ready) = (*reloading, false);
                }
                if !*ready {
                    return;
                }
                slot.ready = true;
                let began = slot.reloading.take();
                if slot.notifies {
                    self.ready(at, now);
                }
                let Some(began) = began else { return };
                for (request, _) in self.requests.iter_mut().zip(&self.targets).filter(|(_, t)| **t == Some(at)) {
                    if request.delivered.is_some_and(|at| began >= at * 1_000) {
                        request.errno = Some(*errno);
                        self.marks[Mark::Reloaded as usize] += 1;
                    }
                }
            }
            _ => {}
        }
    }

    fn executed(&mut self, daemon: usize, pid: i32, now: Millis) {
        let slot = &mut self.slots[daemon];
        let Some(process) = slot.process.as_mut().filter(|p| p.pid == pid && p.reaped.is_none()) else {
            return;
        };
        process.executed = Some(Ok(()));
        if process.since < now {
            self.marks[Mark::ExecLate as usize] += 1;
        }
        if process.is_being_ended() {
            return;
        }
        for (request, _) in self.requests.iter_mut().zip(&self.targets).filter(|(_, t)| **t == Some(daemon)) {
            if let Expected::Held(since) = &mut request.expected {
                *since = now;
            }
        }
        self.set(daemon, |e| e == Expected::Is(Outcome::Restarting), Outcome::Restarted);
        let slot = &mut self.slots[daemon];
        for request in &mut slot.requests {
            match request.fate {
                Fate::Pending if request.wants_start() => {
                    request.is(RequestOutcome::Started);
                }
                Fate::Held(_) => request.fate = Fate::Held(now),
                _ => {}
            }
        }
        if !slot.is_oneshot && !slot.is_probed && !slot.notifies {
            self.ready(daemon, now);
        }
    }

    /// A start was tried: with the mask that it hands down, and the process that came of it or its exit code.
    pub fn start(&mut self, kernel: &Kernel, at: usize, blocked: u64, came: Result<(Uid, i32), i32>) {
        let now = kernel.now;
        if self.stopping.is_some() || self.exited.is_some() {
            broken!(self, "nothing starts after a shutdown was asked for", "daemon {at} was started");
        }
        if let Some(old) = self.slots[at].unreaped() {
            let pid = old.pid;
            broken!(self, "a daemon has at most one live process", "daemon {at} was started while pid {pid} was there");
        }
        if self.slots[at].starts == 0
            && self.slots[..at].iter().any(|s| s.starts == 0 && s.wanted.is_some() && s.is_in_turn)
        {
            broken!(self, "daemons start in the table's order", "daemon {at} was started before another");
        }
        self.judge_start(at, now);
        if blocked != 0 {
            broken!(self, "a daemon starts with an empty mask", "daemon {at} was started with {blocked:x} blocked");
        }
        if !self.slots[at].failed
            && let Some(old) = self.slots[at].process.clone()
        {
            let is_left = |p: &&crate::kernel::Process| {
                let is_new = Some(p.uid) == came.ok().map(|c| c.0);
                // Its end may have come, and can't be seen.
                p.family == Some((at, old.uid)) && p.uid != old.uid && !is_new && !matches!(p.life, Life::Zombie(_))
            };
            let left = kernel.processes.iter().find(is_left);
            let due = old.left.killed.or(old.killed).is_some_and(|killed| now >= killed + GIVE_UP);
            match left {
                Some(left) if !due => {
                    let pid = left.pid;
                    broken!(
                        self,
                        "no process of an old session is there when its replacement starts",
                        "daemon {at} was started while pid {pid} of its old session was there"
                    );
                }
                Some(left) => {
                    let pid = left.pid;
                    self.mark(Mark::ClearingTimedOut);
                    if !self.slots[at].says_left {
                        broken!(self, "a start, a stop and an end are logged", "not so that pid {pid} was left");
                    }
                }
                None if old.reaped.is_some_and(|reaped| now > reaped) => self.mark(Mark::WaitedForGroup),
                None => {}
            }
            self.mark(if old.is_being_ended() { Mark::Replaced } else { Mark::DeadStarted });
        }
        self.number_is_given(came.ok().map(|(_, pid)| pid));
        let slot = &mut self.slots[at];
        if !std::mem::take(&mut slot.says_start) {
            broken!(self, "a start, a stop and an end are logged", "the start of daemon {at} was not");
            return;
        }
        (slot.wanted, slot.backoff, slot.is_done) = (None, None, false);
        slot.gone = None;
        slot.says_left = false;
        slot.starts += 1;
        (slot.ready, slot.reloading) = (false, None);
        let generation = Some(slot.starts);
        slot.requests.iter_mut().filter(|request| request.wants_start()).for_each(|r| r.generation = generation);
        for (request, _) in self.requests.iter_mut().zip(&self.targets).filter(|(_, t)| **t == Some(at)) {
            if request.expected == Expected::Is(Outcome::Restarting) {
                request.generation = generation;
            }
        }
        match came {
            Ok((uid, pid)) => {
                slot.failed = false;
                slot.process = Some(Process {
                    uid,
                    pid,
                    since: now,
                    executed: None,
                    termed: false,
                    sent: 0,
                    deadline: None,
                    continued: false,
                    has_ended: false,
                    silent: now,
                    killed: None,
                    swept: false,
                    reaped: None,
                    left: Left::default(),
                });
            }
            // What follows comes with the event that tells of it.
            Err(_) => slot.failed = true,
        }
    }

    /// The kernel gives a number to nobody while a process of its old session is left.
    fn number_is_given(&mut self, pid: Option<i32>) {
        let processes = self.slots.iter_mut().filter_map(|slot| slot.process.as_mut());
        for process in processes.filter(|p| p.reaped.is_some() && Some(p.pid) == pid) {
            process.left.is_settled = true;
        }
    }

    /// Whether a daemon may be started now.
    fn judge_start(&mut self, at: usize, now: Millis) {
        let slot = &mut self.slots[at];
        if slot.wanted.is_some() {
            return;
        }
        let Some(due) = slot.backoff else {
            if slot.waits {
                let unready: Vec<usize> = self.unready(at).collect();
                broken!(
                    self,
                    "no daemon starts before each of its dependencies has been ready once",
                    "daemon {at} was started, and {unready:?} were not ready"
                );
            } else if slot.is_stopped {
                broken!(self, "only a request starts a stopped daemon", "daemon {at} was started");
            } else {
                broken!(self, "nothing starts without a reason", "daemon {at} was started");
            }
            return;
        };
        slot.revivals += 1;
        slot.delays += LONGEST_DELAY.min(FIRST_DELAY << (slot.ends - 1).min(16));
        let (first_end, delays) = (slot.first_end, slot.delays);
        self.mark(Mark::Revived);
        if now < due {
            broken!(
                self,
                "a delay is never shorter than docker's, and doubles",
                "daemon {at}, due at {due}, now {now}"
            );
        }
        if now - first_end < delays {
            broken!(
                self,
                "a crash loop costs at most the starts that its delays allow",
                "daemon {at}, first ended at {first_end}, delays of {delays} ms, now {now}"
            );
        }
    }

    /// Whom a KILL of a daemon's session meets: each was asked before, if its daemon was and had grace left.
    fn judge_kill(&mut self, kernel: &Kernel, at: usize, is_met: impl Fn(&crate::kernel::Process) -> bool) {
        let now = kernel.now;
        let Some(process) = &mut self.slots[at].process else { return };
        let is_member = |p: &&crate::kernel::Process| {
            p.family == Some((at, process.uid)) && p.uid != process.uid && p.life == Life::Alive && is_met(p)
        };
        let met: Vec<_> = kernel.processes.iter().filter(is_member).map(|p| (p.uid, p.pid)).collect();
        let was_asked = process.is_being_ended();
        let is_due = process.killed.is_some() || process.deadline.is_some_and(|deadline| now >= deadline);
        process.left.killed.get_or_insert(now);
        let early = met.iter().find(|(uid, _)| was_asked && !is_due && !process.left.asked.contains(uid)).copied();
        let early_asked = was_asked && !is_due && !met.is_empty();
        if !met.is_empty() {
            let is_first = process.left.killed == Some(now);
            self.slots[at].owes_killed |= is_first;
            self.mark(if was_asked { Mark::MemberKilledAtDeadline } else { Mark::MemberKilledAtOnce });
        }
        if let Some((_, pid)) = early {
            broken!(self, "what is left of a session is asked before it is killed", "pid {pid} of daemon {at}");
        } else if early_asked {
            broken!(self, "a deadline never moves", "KILL for {met:?} of daemon {at}");
        }
    }

    /// init is about to send a signal to a member of a session.
    pub fn kill_member(&mut self, kernel: &Kernel, sid: i32, pid: i32, signal: i32) {
        let Some(target) = kernel.by_pid(pid).map(|i| kernel.processes[i].clone()) else { return };
        let owner = |s: &Slot| s.process.as_ref().is_some_and(|p| p.pid == sid);
        let Some((at, leader)) = target.family.filter(|(at, _)| self.slots.get(*at).is_some_and(owner)) else {
            broken!(self, "no signal is sent to a pid that isn't ours at that moment", "signal {signal} for {pid}");
            return;
        };
        let Some(process) = &mut self.slots[at].process else { return };
        if process.uid != leader || target.uid == leader {
            broken!(self, "no signal is sent to a pid that isn't ours at that moment", "signal {signal} for {pid}");
            return;
        }
        let is_other_group = target.pgid != sid;
        let stop_signal = self.slots[at].stop_signal;
        let Some(process) = &mut self.slots[at].process else { return };
        match signal {
            _ if signal == stop_signal && process.left.asked.contains(&target.uid) => {
                broken!(self, "a stop sends one stop signal", "a second signal {signal} for pid {pid}");
            }
            _ if signal == stop_signal => {
                process.left.asked.push(target.uid);
                process.left.to_continue.push(target.uid);
                self.mark(Mark::MemberAsked);
                if is_other_group {
                    self.mark(Mark::MemberOfAnotherGroup);
                }
            }
            CONT => process.left.to_continue.retain(|uid| *uid != target.uid),
            KILL => self.judge_kill(kernel, at, |p| p.uid == target.uid),
            _ => broken!(self, "a forward reaches its daemon alone", "signal {signal} for member {pid}"),
        }
    }

    /// init looks who is left of a session.
    pub fn looked_at_session(&mut self, kernel: &Kernel, sid: i32, is_empty: bool) {
        let now = kernel.now;
        // The number may be another's by now: a session that is being cleared comes before a process that has it anew.
        let is_cleared = |p: &Process| p.reaped.is_some() && !p.left.is_settled;
        let is_given_up = |p: &Process| p.reaped.is_none() && p.killed.is_some_and(|killed| now >= killed + GIVE_UP);
        // A look may have been decided before the number was given to a new process.
        let was_cleared = |p: &Process| p.reaped.is_some();
        let has_ended = |p: &Process| {
            let is_zombie = |i: usize| matches!(kernel.processes[i].life, Life::Zombie(_));
            p.reaped.is_none() && kernel.by_uid(p.uid).is_some_and(is_zombie)
        };
        let find = |is_it: &dyn Fn(&Process) -> bool| {
            self.slots.iter().position(|s| s.process.as_ref().is_some_and(|p| p.pid == sid && is_it(p)))
        };
        let at = find(&has_ended)
            .or_else(|| find(&is_cleared))
            .or_else(|| find(&is_given_up))
            .or_else(|| find(&was_cleared))
            .or_else(|| find(&|_| true));
        let Some((at, slot)) = at.and_then(|at| Some((at, self.slots.get_mut(at)?))) else {
            broken!(self, "no process is looked at that isn't ours", "session {sid}");
            return;
        };
        let Some(process) = &mut slot.process else { return };
        let is_given_up = |killed: Option<Millis>| killed.is_some_and(|killed| now >= killed + GIVE_UP);
        let is_end_seen = |p: &crate::kernel::Process| !p.traced && matches!(p.life, Life::Zombie(_));
        let leader = kernel.by_uid(process.uid).map(|i| &kernel.processes[i]);
        if process.reaped.is_none() && !leader.is_some_and(is_end_seen) {
            if !is_given_up(process.killed) {
                broken!(self, "a stop goes on 2 s after SIGKILL", "session {sid} is given up too soon");
                return;
            }
            process.reaped = Some(now);
            slot.part = Some(if self.stopping.is_some() { Part::Code(128 + KILL) } else { Part::Own(KILL) });
            slot.last_exit = Some(LastExit { code: None, signal: Some(KILL), by_init: true });
            (slot.ready, slot.reloading) = (false, None);
            process.left.is_settled = is_empty;
            self.marks[Mark::GivenUpTraced as usize] += 1;
            for (request, _) in self.requests.iter_mut().zip(&self.targets).filter(|(_, t)| **t == Some(at)) {
                request.delivered = None;
            }
            return;
        }
        process.left.is_settled |= is_empty || is_given_up(process.left.killed);
    }

    /// init is about to send a signal, to a process or with a negative pid to a group.
    pub fn kill(&mut self, kernel: &Kernel, pid: i32, signal: i32) {
        let now = kernel.now;
        if signal == 0 {
            return;
        }
        if self.exited.is_some() {
            broken!(self, "init does nothing after its end", "signal {signal} for {pid}");
        }
        if pid < 0 {
            return self.kill_group(kernel, -pid, signal);
        }
        if let Some(at) = self.slots.iter().position(|s| s.probe.as_ref().is_some_and(|p| p.pid == pid)) {
            return self.kill_probe(kernel, at, signal);
        }
        let of = |s: &Slot| s.unreaped().is_some_and(|p| p.pid == pid);
        let Some(at) = self.slots.iter().position(of) else {
            broken!(self, "no signal is sent to a pid that isn't ours at that moment", "signal {signal} for {pid}");
            return;
        };
        let Some(target) = kernel.by_pid(pid).map(|i| &kernel.processes[i]) else {
            broken!(self, "no signal is sent to a pid that isn't ours at that moment", "signal {signal} for {pid}");
            return;
        };
        let is_zombie = matches!(target.life, Life::Zombie(_));
        let is_stopped = target.stopped;
        let asked = self.slots[at].wanted.is_some() || self.slots[at].is_stopped;
        let (stopping, grace) = (self.stopping, self.slots[at].grace);
        let Some(process) = &mut self.slots[at].process else { return };
        if process.uid != target.uid {
            broken!(self, "no signal is sent to a pid that isn't ours at that moment", "signal {signal} for {pid}");
            return;
        }
        let is_asked = asked || stopping.is_some();
        let is_forward = self.is_held_for(at, signal);
        let early = self.asks_by[at].filter(|by| now < *by).and_then(|_| self.dependent(at));
        let stop_signal = self.slots[at].stop_signal;
        let Some(process) = &mut self.slots[at].process else { return };
        if !is_asked && (matches!(signal, KILL | CONT) || signal == stop_signal) && !is_forward {
            broken!(self, "a restart never touches a sibling", "signal {signal} for pid {pid} of daemon {at}");
            return;
        }
        match signal {
            _ if !is_asked => {
                // What it blocks for a moment kills it afterwards.
                let takes = (target.caught | target.blocked) & bit(signal) != 0;
                return self.forward(at, signal, takes, takes || is_zombie, now);
            }
            _ if signal == stop_signal && process.is_being_ended() => {
                broken!(self, "a stop sends one stop signal", "a second signal {signal} for pid {pid}");
            }
            _ if signal == stop_signal && grace == 0 => {
                broken!(self, "a grace of 0 kills at once", "signal {signal} for pid {pid}");
            }
            _ if signal == stop_signal => {
                process.termed = true;
                process.silent = now;
                // In a shutdown it counts from the request.
                process.deadline = process.deadline.or(Some(now + grace));
                if is_stopped {
                    self.mark(Mark::StoppedTermed);
                }
                if let Some(dependent) = early {
                    broken!(
                        self,
                        "a dependency is asked to stop after its dependents, or at half its grace",
                        "daemon {at} was asked while daemon {dependent} was there"
                    );
                }
            }
            CONT => process.continued = true,
            KILL if process.killed.is_some() => broken!(self, "a stop sends one KILL", "a second KILL for pid {pid}"),
            KILL => {
                process.killed = Some(now);
                process.silent = now;
                match process.deadline {
                    _ if grace == 0 => self.mark(Mark::KilledAtOnce),
                    Some(deadline) if now >= deadline => self.mark(Mark::KilledAtDeadline),
                    deadline => {
                        broken!(
                            self,
                            "a deadline never moves",
                            "KILL for pid {pid}, due at {deadline:?}, grace {grace}"
                        );
                    }
                }
            }
            _ if signal == TERM && !process.is_being_ended() => {
                broken!(self, "a daemon gets its own stop signal", "signal {signal} for pid {pid}");
            }
            _ => broken!(self, "a stopping daemon gets no forward", "signal {signal} for pid {pid}"),
        }
        if is_zombie {
            self.mark(Mark::DiedBeforeSignal);
        }
        if self.set(at, |e| matches!(e, Expected::Held(_)), Outcome::Refused) {
            self.mark(Mark::HeldEndedWithProcess);
        }
        for request in &mut self.slots[at].requests {
            if matches!(request.fate, Fate::Held(_)) {
                request.is(RequestOutcome::Refused);
            }
        }
    }

    /// A living daemon that depends on this one, maybe through others that don't live.
    fn dependent(&self, at: usize) -> Option<usize> {
        (0..self.slots.len()).find(|other| self.slots[*other].unreaped().is_some() && self.depends(*other, at))
    }

    fn depends(&self, at: usize, on: usize) -> bool {
        self.slots[at].depends_on.iter().any(|dependency| *dependency == on || self.depends(*dependency, on))
    }

    fn kill_group(&mut self, kernel: &Kernel, pgid: i32, signal: i32) {
        if let Some(at) = self.slots.iter().position(|s| s.probe.as_ref().is_some_and(|p| p.pid == pgid)) {
            return self.kill_probe(kernel, at, signal);
        }
        let of = |s: &Slot| s.process.as_ref().is_some_and(|p| p.pid == pgid);
        let is_there = |s: &Slot| {
            let ours = |p: &crate::kernel::Process| p.family.map(|(_, uid)| uid) == s.process.as_ref().map(|p| p.uid);
            kernel.processes.iter().any(|p| p.sid == pgid && ours(p))
        };
        let Some(at) = self.slots.iter().position(|s| of(s) && is_there(s)) else {
            broken!(
                self,
                "no signal is sent to a pid that isn't ours at that moment",
                "signal {signal} for group {pgid}"
            );
            return;
        };
        let Some(process) = &mut self.slots[at].process else { return };
        process.swept = true;
        let is_alive = |p: &crate::kernel::Process| p.uid == process.uid && !matches!(p.life, Life::Zombie(_));
        let is_given_up = process.reaped.is_some();
        if signal != KILL || (kernel.processes.iter().any(is_alive) && !is_given_up) {
            broken!(self, "a group is killed once its daemon's process has ended", "signal {signal} for {pgid}");
        }
        self.judge_kill(kernel, at, |p| p.pgid == pgid);
    }

    /// init says something in its log.
    pub fn said(&mut self, text: &str, now: Millis) {
        if text.contains(" ignored: not a request") {
            self.strays = None;
        } else if let Some(name) = text.strip_prefix("still waiting for ").and_then(|rest| rest.split(' ').next()) {
            let of = self.slots.iter_mut().filter(|s| s.name == name);
            of.filter_map(|s| s.process.as_mut()).for_each(|process| process.silent = now);
            self.mark(Mark::LongStop);
        } else if let Some(name) = text.strip_prefix("starting ") {
            self.slots.iter_mut().filter(|s| s.name == name).for_each(|s| s.says_start = true);
        } else if let Some((_, name)) = text.strip_prefix("forwarding SIG").and_then(|rest| rest.split_once(" to ")) {
            self.slots.iter_mut().filter(|s| s.name == name).for_each(|s| s.owes_term = false);
        } else if text.contains(" exited ") || text.contains(" was killed by signal ") {
            let is = |s: &&mut Slot| text.strip_prefix(&s.name).is_some_and(|rest| rest.starts_with(" (pid "));
            let tells_oom = text.contains("out of memory");
            self.slots.iter_mut().filter(is).for_each(|s| (s.says_end, s.owes_oom) = (true, s.owes_oom && !tells_oom));
        } else if text.contains(" left and ") {
            self.slots.iter_mut().filter(|s| text.contains(&s.name)).for_each(|s| s.owes_killed = false);
        } else if text.contains("still not gone") {
            self.slots.iter_mut().filter(|s| text.contains(&s.name)).for_each(|s| s.says_left = true);
        } else if text.contains("nothing was done") {
            self.owes_refusal = false;
        } else if text.contains("never caught") {
            self.says_never += 1;
        }
    }

    /// init reaps a process.
    pub fn reap(&mut self, kernel: &Kernel, pid: i32) {
        let Some(process) = kernel.by_pid(pid).map(|i| &kernel.processes[i]).filter(|p| p.parent == 0) else {
            broken!(self, "every child is reaped exactly once", "pid {pid} is no child");
            return;
        };
        let Life::Zombie(_) = process.life else {
            broken!(self, "every child is reaped exactly once", "pid {pid} has not ended");
            return;
        };
        let uid = process.uid;
        let of = |s: &Slot| s.unreaped().is_some_and(|p| p.uid == uid);
        let Some(at) = self.slots.iter().position(of) else {
            return self.reap_other(kernel, uid, pid);
        };
        let slot = &mut self.slots[at];
        let says_end = std::mem::take(&mut slot.says_end);
        let owes_oom = std::mem::take(&mut slot.owes_oom);
        let Some(process) = &mut slot.process else { return };
        (process.reaped, process.silent) = (Some(kernel.now), kernel.now);
        let (swept, killed, executed) = (process.swept, process.killed, process.executed);
        let asked_nobody = process.left.asked.is_empty();
        if executed != Some(Ok(())) {
            process.left.is_settled = true;
        }
        if killed.is_some_and(|killed| kernel.now > killed + GIVE_UP + LATE) {
            broken!(self, "a stop goes on 2 s after SIGKILL", "pid {pid} of daemon {at}, killed at {killed:?}");
        }
        if !swept && asked_nobody {
            broken!(self, "the group is killed before its leader is reaped", "pid {pid} of daemon {at}");
        }
        if !says_end && !matches!(executed, Some(Err(_))) {
            broken!(self, "a start, a stop and an end are logged", "not the end of daemon {at}");
        }
        if owes_oom && executed == Some(Ok(())) {
            broken!(self, "an OOM kill is logged", "not that of pid {pid} of daemon {at}");
        }
    }

    /// init reaps a probe or an orphan.
    fn reap_other(&mut self, kernel: &Kernel, uid: Uid, pid: i32) {
        let Some(at) = self.slots.iter().position(|s| s.probe.as_ref().is_some_and(|p| p.uid == uid)) else {
            self.mark(Mark::Orphan);
            return;
        };
        self.slots[at].probe = None;
        let is_left = |p: &&crate::kernel::Process| p.pgid == pid && p.uid != uid && p.life == Life::Alive;
        if let Some(left) = kernel.processes.iter().find(is_left) {
            broken!(
                self,
                "the group is killed before its leader is reaped",
                "pid {} of a probe of daemon {at}",
                left.pid
            );
        }
    }

    pub fn is_in_backoff(&self, at: usize) -> bool {
        self.slots[at].backoff.is_some()
    }

    pub fn is_stopped(&self, at: usize) -> bool {
        self.slots[at].is_stopped
    }

    pub fn is_oneshot(&self, at: usize) -> bool {
        self.slots[at].is_oneshot
    }

    pub fn stop_signal(&self, at: usize) -> i32 {
        self.slots[at].stop_signal
    }

    /// This signal, if it is held for a daemon, and no rule makes a restart of it.
    pub fn held(&self, at: usize, signal: i32) -> Option<i32> {
        let is_restart = |w: &SignalRule| w.signal.number() == signal && w.action == Action::Restart;
        let is_held = self.is_held_for(at, signal) && !self.table.wiring.iter().any(is_restart);
        is_held.then_some(signal)
    }

    /// The highest of all codes, whoever ended first.
    pub fn highest_code(&self) -> Option<i32> {
        let code = |slot: &Slot| match slot.part? {
            Part::Code(code) => Some(code),
            Part::Own(_) => None,
        };
        self.slots.iter().filter_map(code).max()
    }

    /// The process of a daemon that is not reaped.
    pub fn pid(&self, at: usize) -> Option<i32> {
        self.slots.get(at)?.unreaped().map(|p| p.pid)
    }

    pub fn is_being_ended(&self, at: usize) -> bool {
        self.slots.get(at).is_some_and(|s| s.unreaped().is_some_and(Process::is_being_ended))
    }

    /// When a daemon that was asked to end is to be killed.
    pub fn due(&self, at: usize) -> Option<Millis> {
        self.slots.get(at)?.unreaped()?.deadline
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    pub fn grace(&self, at: usize) -> Millis {
        self.slots.get(at).map_or(0, |s| s.grace)
    }

    pub fn daemons(&self) -> usize {
        self.slots.len()
    }

    pub fn target(&self, wire: usize) -> Option<usize> {
        self.targets.get(wire).copied().flatten()
    }
}
