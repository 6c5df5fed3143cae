//! The promises of init, each with its name, checked against what was done to the simulated kernel.
//!
//! Nothing here looks at how the core decides: what is true is worked out again, from requests served and calls made.

use sidecar::request::{Request, Verb};
use sidecar::status::{DaemonState, InitState, LastExit, Outcome, RequestOutcome};
use sidecar::supervisor::{Event, Supervisor, View};
use sidecar::table::{Action, Ready, RestartPolicy, Table};

use crate::kernel::{CONT, End, KILL, Kernel, Life, Millis, TERM, URG, Uid, WINCH, bit};

/// How long init waits at most for the end of what it has killed.
const GIVE_UP: Millis = 2_000;
/// How late init may be woken, and still not see a pause.
const LATE: Millis = 500;
/// How long a signal is held at most.
const HOLD: Millis = 20_000;
/// How long init sleeps at most while a daemon is stopping.
const TICK: Millis = 1_000;
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

/// A daemon's process, as the kernel knows it.
#[derive(Clone, Debug)]
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

/// What was reached, so that a run which reaches nothing can't pass for a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Replaced,
    DeadStarted,
    StartFailed,
    KilledAtDeadline,
    KilledAtOnce,
    ClearingTimedOut,
    WaitedForGroup,
    Held,
    Delivered,
    DeliveredUnseen,
    NeverCaught,
    HeldEndedWithProcess,
    Refused,
    ShutdownCutRestart,
    PendingAtStart,
    StoppedTermed,
    Orphan,
    Coalesced,
    PidReused,
    DiedBeforeSignal,
    Reloaded,
    PageRead,
    ExitedByItself,
    ExitedOnRequest,
    StoppedBeforeStart,
    SignalAfterTheEnd,
    Late,
    SeenBlocked,
    Paused,
    MemberAsked,
    MemberKilledAtDeadline,
    MemberKilledAtOnce,
    MemberOfAnotherGroup,
    ExecLate,
    StoppedBeforeExec,
    GivenUpTraced,
    Garbage,
    BackoffCutShort,
    StartedUnready,
    StoppedStarted,
    Superseded,
    Requested,
    StoppedWaiting,
    StartedReady,
    ProbeSucceeded,
    ProbeFailed,
    Done,
    LongestDelay,
    EssentialEnded,
    Revived,
    RequestDelivered,
    Probed,
    ProbeTimedOut,
    ProbeCutShort,
    Stopped,
}

pub const MARKS: usize = Mark::ALL.len();

impl Mark {
    pub const ALL: [Self; 55] = [
        Self::Replaced,
        Self::DeadStarted,
        Self::StartFailed,
        Self::KilledAtDeadline,
        Self::KilledAtOnce,
        Self::ClearingTimedOut,
        Self::WaitedForGroup,
        Self::Held,
        Self::Delivered,
        Self::DeliveredUnseen,
        Self::NeverCaught,
        Self::HeldEndedWithProcess,
        Self::Refused,
        Self::ShutdownCutRestart,
        Self::PendingAtStart,
        Self::StoppedTermed,
        Self::Orphan,
        Self::Coalesced,
        Self::PidReused,
        Self::DiedBeforeSignal,
        Self::Reloaded,
        Self::PageRead,
        Self::ExitedByItself,
        Self::ExitedOnRequest,
        Self::StoppedBeforeStart,
        Self::SignalAfterTheEnd,
        Self::Late,
        Self::SeenBlocked,
        Self::Paused,
        Self::MemberAsked,
        Self::MemberKilledAtDeadline,
        Self::MemberKilledAtOnce,
        Self::MemberOfAnotherGroup,
        Self::ExecLate,
        Self::StoppedBeforeExec,
        Self::GivenUpTraced,
        Self::Garbage,
        Self::BackoffCutShort,
        Self::StartedUnready,
        Self::StoppedStarted,
        Self::Superseded,
        Self::Requested,
        Self::StoppedWaiting,
        Self::StartedReady,
        Self::ProbeSucceeded,
        Self::ProbeFailed,
        Self::Done,
        Self::LongestDelay,
        Self::EssentialEnded,
        Self::Revived,
        Self::RequestDelivered,
        Self::Probed,
        Self::ProbeTimedOut,
        Self::ProbeCutShort,
        Self::Stopped,
    ];
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
    pub exited: Option<i32>,
    /// A line that says so is due in the log, or was met.
    owes_refusal: bool,
    says_never: u32,
    no_masks: bool,
    pub broken: Option<Broken>,
    pub marks: [u64; MARKS],
}

macro_rules! broken {
    ($judge:expr, $promise:literal, $($how:tt)*) => {
        $judge.fail($promise, || format!($($how)*))
    };
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
            Event::Request(None) => self.mark(Mark::Garbage),
            Event::Ended { pid, oom_kills, .. } => self.ended(kernel, *pid, *oom_kills),
            Event::Executed { daemon, pid } => {
                let slot = &mut self.slots[*daemon];
                let Some(process) = slot.process.as_mut().filter(|p| p.pid == *pid && p.reaped.is_none()) else {
                    return;
                };
                process.executed = Some(Ok(()));
                if process.since < now {
                    self.marks[Mark::ExecLate as usize] += 1;
                }
                if process.is_being_ended() {
                    return;
                }
                for (request, _) in self.requests.iter_mut().zip(&self.targets).filter(|(_, t)| **t == Some(*daemon)) {
                    if let Expected::Held(since) = &mut request.expected {
                        *since = now;
                    }
                }
                self.set(*daemon, |e| e == Expected::Is(Outcome::Restarting), Outcome::Restarted);
                let slot = &mut self.slots[*daemon];
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
                    self.ready(*daemon, now);
                }
            }
            Event::NotExecuted { daemon, pid, code, .. } => {
                let slot = &mut self.slots[*daemon];
                let Some(process) = slot.process.as_mut().filter(|p| p.pid == *pid && p.reaped.is_none()) else {
                    return;
                };
                process.executed = Some(Err(*code));
            }
            Event::Notify { pid, ready, reloading, errno, .. } => {
                let from = |s: &Slot| s.unreaped().is_some_and(|p| p.pid == *pid && !p.is_being_ended());
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

    fn signal(&mut self, at: usize, now: Millis) {
        let is_over = self.is_over();
        let (begun, ended) = (self.begun, self.stopping.is_some() || is_over);
        if is_over {
            self.mark(Mark::SignalAfterTheEnd);
        }
        let expected = match self.targets[at] {
            _ if ended => Expected::Is(Outcome::Refused),
            None => Expected::Is(Outcome::Refused),
            Some(slot) => match &self.table.wiring[at].action {
                Action::Restart => {
                    if begun {
                        self.want(slot, now);
                    } else {
                        self.mark(Mark::PendingAtStart);
                    }
                    Expected::Is(Outcome::Restarting)
                }
                Action::Forward { .. } => match (&self.slots[slot].unreaped(), self.requests[at].expected) {
                    (_, held @ Expected::Held(_)) => held,
                    (Some(process), _) if !process.is_being_ended() => Expected::Held(now),
                    (None, _) if !begun => Expected::Held(now),
                    _ if self.slots[slot].backoff.is_some() => {
                        self.want(slot, now);
                        Expected::Is(Outcome::Restarting)
                    }
                    _ => Expected::Is(Outcome::Refused),
                },
            },
        };
        let request = &mut self.requests[at];
        request.seq += 1;
        request.expected = expected;
        (request.generation, request.delivered, request.errno) = (None, None, None);
        match expected {
            Expected::Held(_) => self.mark(Mark::Held),
            Expected::Is(Outcome::Refused) => {
                self.owes_refusal = true;
                self.mark(Mark::Refused);
            }
            _ => {}
        }
    }

    /// Somebody asked for a process that starts from now on.
    fn want(&mut self, at: usize, now: Millis) {
        let slot = &mut self.slots[at];
        if slot.backoff.is_some() {
            self.marks[Mark::BackoffCutShort as usize] += 1;
        }
        if slot.waits {
            self.marks[Mark::StartedUnready as usize] += 1;
        }
        if slot.is_stopped {
            self.marks[Mark::StoppedStarted as usize] += 1;
        }
        slot.wanted = slot.wanted.or(Some(now));
        (slot.waits, slot.is_stopped, slot.backoff, slot.ends) = (false, false, None, 0);
        for request in slot.requests.iter_mut().filter(|request| request.wants_stop()) {
            request.is(RequestOutcome::Superseded);
            self.marks[Mark::Superseded as usize] += 1;
        }
    }

    /// Somebody asks for something through init's descriptor.
    fn request(&mut self, request: &Request, now: Millis) {
        let is_over = self.is_over();
        let Some(at) = self.slots.iter().position(|s| s.name == request.daemon) else {
            self.mark(Mark::Garbage);
            return;
        };
        self.mark(Mark::Requested);
        let is_refused = self.stopping.is_some() || is_over;
        let slot = &self.slots[at];
        let is_waited_for = slot.process.as_ref().is_some_and(Process::is_waited_for) || slot.wanted.is_some();
        let (generation, is_live) = (Some(slot.starts), slot.unreaped().is_some());
        let is_ending = is_waited_for || slot.unreaped().is_some_and(Process::is_being_ended);
        let runs = slot.unreaped().is_some_and(|p| p.executed == Some(Ok(()))) && !is_ending;
        let (fate, generation) = match request.verb {
            _ if is_refused => (Fate::Is(RequestOutcome::Refused), None),
            Verb::Restart => {
                self.want(at, now);
                (Fate::Pending, None)
            }
            Verb::Start if runs => (Fate::Is(RequestOutcome::Running), generation),
            // The start that is under way is the one that was asked for.
            Verb::Start if is_live && !is_ending => (Fate::Pending, generation),
            Verb::Start => {
                self.want(at, now);
                (Fate::Pending, None)
            }
            Verb::Stop => {
                let is_cleared = slot.process.as_ref().is_none_or(|p| p.left.is_settled);
                (self.stop(at, is_live || is_waited_for || slot.backoff.is_some() && !is_cleared), None)
            }
            Verb::Signal(_) if is_live && !is_ending => (Fate::Held(now), generation),
            Verb::Signal(_) => (Fate::Is(RequestOutcome::Refused), None),
        };
        let id = request.id.clone();
        self.slots[at].requests.push(Asked { id, verb: request.verb, fate, generation, looked: None, is_news: true });
    }

    /// A stop on request: what becomes of it at once.
    fn stop(&mut self, at: usize, is_there: bool) -> Fate {
        let slot = &mut self.slots[at];
        if !is_there && !slot.waits && slot.backoff.is_none() {
            return Fate::Is(RequestOutcome::NotRunning);
        }
        if slot.backoff.is_some() || slot.waits {
            self.marks[Mark::StoppedWaiting as usize] += 1;
        }
        (slot.waits, slot.is_stopped, slot.backoff, slot.ends) = (false, true, None, 0);
        slot.wanted = None;
        for request in slot.requests.iter_mut().filter(|request| request.wants_start()) {
            request.is(RequestOutcome::Superseded);
            self.marks[Mark::Superseded as usize] += 1;
        }
        if let Some(process) = &mut slot.process {
            process.left.is_waited_for |= is_there;
        }
        self.set(at, |e| e == Expected::Is(Outcome::Restarting), Outcome::Refused);
        if is_there { Fate::Pending } else { Fate::Is(RequestOutcome::Stopped) }
    }

    /// A shutdown, on request or because this daemon has ended.
    fn shut_down(&mut self, now: Millis, by: Option<usize>) {
        (self.stopping, self.essential) = (Some(now), by);
        for at in 0..self.slots.len() {
            let slot = &mut self.slots[at];
            slot.was_forgotten = slot.waits || slot.backoff.is_some();
            (slot.waits, slot.backoff) = (false, None);
            slot.owes_term = slot.unreaped().is_some_and(|p| !p.is_being_ended());
            self.asks_by[at] = Some(now + slot.grace / 2);
            for request in &mut slot.requests {
                if request.wants_start() || matches!(request.fate, Fate::Held(_)) {
                    request.is(RequestOutcome::Refused);
                }
            }
            let was_wanted = slot.wanted.take().is_some();
            if let Some(process) = &mut slot.process {
                process.left.is_waited_for |= was_wanted;
                if process.reaped.is_none() && !process.is_being_ended() {
                    process.deadline = Some(now + slot.grace);
                }
            }
            if was_wanted {
                self.mark(Mark::ShutdownCutRestart);
            }
            self.set(at, |e| matches!(e, Expected::Held(_)), Outcome::Refused);
            self.set(at, |e| e == Expected::Is(Outcome::Restarting), Outcome::Refused);
        }
    }

    /// Each daemon that waits, and whose dependencies have all been ready, is to start.
    fn start_whoever_may(&mut self, now: Millis) {
        for at in 0..self.slots.len() {
            let is_met = self.unready(at).next().is_none();
            let slot = &mut self.slots[at];
            if slot.waits && is_met {
                if !slot.depends_on.is_empty() {
                    self.marks[Mark::StartedReady as usize] += 1;
                }
                (slot.waits, slot.wanted) = (false, Some(now));
            }
        }
    }

    fn ready(&mut self, at: usize, now: Millis) {
        self.slots[at].was_ready = true;
        if self.stopping.is_none() {
            self.start_whoever_may(now);
        }
    }

    /// The dependencies of a daemon that have not been ready yet.
    fn unready(&self, at: usize) -> impl Iterator<Item = usize> {
        self.slots[at].depends_on.iter().copied().filter(|dependency| !self.slots[*dependency].was_ready)
    }

    /// Whether a daemon that waits may start yet without a request for it.
    fn can_be_met(&self, at: usize) -> bool {
        self.unready(at).all(|dependency| {
            let slot = &self.slots[dependency];
            let lives = slot.unreaped().is_some() || slot.wanted.is_some() || slot.backoff.is_some() || slot.is_stopped;
            lives || slot.waits && self.can_be_met(dependency)
        })
    }

    /// Some daemon waits for this one to be ready.
    fn is_waited_for(&self, at: usize) -> bool {
        !self.slots[at].was_ready && self.slots.iter().any(|slot| slot.waits && slot.depends_on.contains(&at))
    }

    /// A child has ended, and init hears of it. What is true of it the kernel knows.
    fn ended(&mut self, kernel: &Kernel, pid: i32, oom_kills: u64) {
        let Some(child) = kernel.by_pid(pid).map(|i| &kernel.processes[i]) else { return };
        let Life::Zombie(end) = child.life else { return };
        let uid = child.uid;
        if let Some(at) = self.slots.iter().position(|s| s.unreaped().is_some_and(|p| p.uid == uid)) {
            return self.process_ended(kernel.now, at, end, oom_kills);
        }
        let Some(at) = self.slots.iter().position(|s| s.probe.as_ref().is_some_and(|p| p.uid == uid)) else { return };
        let Some(probe) = self.slots[at].probe.clone() else { return };
        self.slots[at].probed = Some((probe.of, kernel.now));
        let is_up = self.slots[at].unreaped().is_some_and(|p| p.uid == probe.of && !p.is_being_ended());
        if probe.killed {
            return;
        }
        self.mark(if end == End::Code(0) { Mark::ProbeSucceeded } else { Mark::ProbeFailed });
        if end == End::Code(0) && is_up && self.stopping.is_none() {
            self.ready(at, kernel.now);
        }
    }

    /// A daemon's process has ended.
    fn process_ended(&mut self, now: Millis, at: usize, end: End, oom_kills: u64) {
        let slot = &mut self.slots[at];
        let Some(process) = slot.process.clone() else { return };
        let was_asked = process.is_being_ended();
        let is_own = match end {
            End::Code(_) => false,
            End::Signal(signal) => {
                signal == slot.stop_signal && process.termed
                    || signal == KILL && process.killed.is_some()
                    || process.sent & bit(signal) != 0
            }
        };
        slot.owes_oom = oom_kills > 0 && end == End::Signal(KILL) && process.killed.is_none();
        let is_executed = process.executed == Some(Ok(()));
        let (part, code, signal, by_init) = match (process.executed, end) {
            (Some(Err(code)), _) => (Part::Code(code), Some(code), None, false),
            (_, End::Signal(signal)) if is_own => (Part::Own(signal), None, Some(signal), was_asked),
            (None, _) => (Part::Code(126), Some(126), None, false),
            (_, End::Signal(signal)) => (Part::Code(128 + signal), None, Some(signal), was_asked),
            (_, End::Code(code)) => (Part::Code(code), Some(code), None, was_asked),
        };
        slot.part = Some(part);
        slot.last_exit = Some(LastExit { code, signal, by_init });
        slot.failed = !is_executed;
        slot.is_done = slot.is_oneshot && is_executed && end == End::Code(0);
        if is_executed || is_own {
            (slot.ready, slot.reloading) = (false, None);
        }
        if !is_executed {
            self.mark(if was_asked { Mark::StoppedBeforeExec } else { Mark::StartFailed });
        }
        if self.set(at, |e| matches!(e, Expected::Held(_)), Outcome::Refused) {
            self.mark(Mark::HeldEndedWithProcess);
        }
        for (request, _) in self.requests.iter_mut().zip(&self.targets).filter(|(_, t)| **t == Some(at)) {
            // What a later process reloads by itself is no answer to a signal that this one got.
            request.delivered = None;
        }
        for request in &mut self.slots[at].requests {
            if matches!(request.fate, Fate::Held(_)) {
                request.is(RequestOutcome::Refused);
            }
        }
        if !was_asked {
            let ran = if is_executed { now - process.since } else { 0 };
            self.follow(at, is_executed && end == End::Code(0), ran, now);
        } else if !is_executed && self.slots[at].wanted.is_none() {
            self.set(at, |e| e == Expected::Is(Outcome::Restarting), Outcome::Failed);
        }
    }

    /// What follows once a daemon has ended by itself, after it ran for so long.
    fn follow(&mut self, at: usize, is_success: bool, ran: Millis, now: Millis) {
        if self.slots[at].failed {
            self.set(at, |e| e == Expected::Is(Outcome::Restarting), Outcome::Failed);
            for request in self.slots[at].requests.iter_mut().filter(|request| request.wants_start()) {
                request.is(RequestOutcome::Failed);
            }
        }
        let slot = &mut self.slots[at];
        if slot.is_oneshot && is_success {
            self.mark(Mark::Done);
            return self.ready(at, now);
        }
        if self.stopping.is_some() {
            return;
        }
        let is_kept = match slot.policy {
            RestartPolicy::No => false,
            RestartPolicy::OnFailure => !is_success,
            RestartPolicy::Always => true,
        };
        if is_kept {
            if ran >= STEADY {
                slot.ends = 0;
            }
            if slot.ends == 0 {
                (slot.first_end, slot.delays) = (now, 0);
            }
            // 100 ms, 200 ms, 400 ms, and so on.
            let delay = LONGEST_DELAY.min(FIRST_DELAY << slot.ends.min(16));
            slot.backoff = Some(now + delay);
            slot.ends += 1;
            if delay == LONGEST_DELAY {
                self.mark(Mark::LongestDelay);
            }
        } else if slot.is_essential {
            self.mark(Mark::EssentialEnded);
            self.shut_down(now, Some(at));
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
            broken!(self, "at most one live process a daemon", "daemon {at} was started while pid {pid} was there");
        }
        if self.slots[at].starts == 0 && self.slots[..at].iter().any(|s| s.starts == 0 && s.wanted.is_some()) {
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
                    killed: None,
                    swept: false,
                    reaped: None,
                    left: Left::default(),
                });
            }
            Err(code) => {
                slot.failed = true;
                slot.part = Some(Part::Code(code));
                slot.last_exit = Some(LastExit { code: Some(code), signal: None, by_init: false });
                self.set(at, |e| matches!(e, Expected::Held(_)), Outcome::Refused);
                self.mark(Mark::StartFailed);
                self.follow(at, false, 0, now);
            }
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
                    "no daemon starts before its dependencies were ready once",
                    "daemon {at} was started, and {unready:?} were not ready"
                );
            } else if slot.is_stopped {
                broken!(self, "a stopped daemon is started by nobody but a request", "daemon {at} was started");
            } else {
                broken!(self, "nothing starts unasked", "daemon {at} was started");
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
                broken!(self, "one stop signal a stop", "a second signal {signal} for pid {pid}");
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
        let is_killed = |p: &Process| p.reaped.is_none() && (p.killed.is_some() || p.is_being_ended());
        let has_ended = |p: &Process| {
            let is_zombie = |i: usize| matches!(kernel.processes[i].life, Life::Zombie(_));
            p.reaped.is_none() && kernel.by_uid(p.uid).is_some_and(is_zombie)
        };
        let find = |is_it: &dyn Fn(&Process) -> bool| {
            self.slots.iter().position(|s| s.process.as_ref().is_some_and(|p| p.pid == sid && is_it(p)))
        };
        let at =
            find(&has_ended).or_else(|| find(&is_cleared)).or_else(|| find(&is_killed)).or_else(|| find(&|_| true));
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
        if !is_asked && matches!(signal, KILL | CONT) | (signal == stop_signal) && !is_forward {
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
                broken!(self, "one stop signal a stop", "a second signal {signal} for pid {pid}");
            }
            _ if signal == stop_signal && grace == 0 => {
                broken!(self, "a grace of 0 kills at once", "signal {signal} for pid {pid}");
            }
            _ if signal == stop_signal => {
                process.termed = true;
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
            KILL if process.killed.is_some() => broken!(self, "one KILL a stop", "a second KILL for pid {pid}"),
            KILL => {
                process.killed = Some(now);
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
                broken!(self, "a daemon is asked by its own stop signal", "signal {signal} for pid {pid}");
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

    /// A signal that is yet to reach a daemon's process, because somebody asked for it.
    fn is_held_for(&self, at: usize, signal: i32) -> bool {
        let is_wired = |(rule, (request, target)): (&sidecar::table::SignalRule, (&Served, &Option<usize>))| {
            let is_held = matches!(request.expected, Expected::Held(_));
            rule.signal.number() == signal && *target == Some(at) && is_held
        };
        self.table.wiring.iter().zip(self.requests.iter().zip(&self.targets)).any(is_wired)
            || self.slots[at].requests.iter().any(|request| request.holds(signal))
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

    /// init sends a daemon's process a signal that somebody asked for.
    fn forward(&mut self, at: usize, signal: i32, takes: bool, is_safe: bool, now: Millis) {
        if !self.is_held_for(at, signal) {
            let is_restart =
                |w: &&sidecar::table::SignalRule| w.signal.number() == signal && w.action == Action::Restart;
            if self.table.wiring.iter().any(|w| is_restart(&w)) {
                broken!(self, "the wired signal of a restart reaches no daemon", "signal {signal} for daemon {at}");
            } else {
                broken!(self, "a forward reaches its daemon alone", "signal {signal} for daemon {at}, unasked");
            }
            return;
        }
        let mut always = self.no_masks || !is_held(signal);
        for (rule, (request, target)) in self.table.wiring.iter().zip(self.requests.iter_mut().zip(&self.targets)) {
            let is_it = rule.signal.number() == signal && *target == Some(at);
            if is_it && matches!(request.expected, Expected::Held(_)) {
                always |= rule.action == Action::Forward { always: true };
                request.expected = Expected::Is(Outcome::Delivered);
                request.delivered = Some(now);
            }
        }
        let slot = &mut self.slots[at];
        for request in slot.requests.iter_mut().filter(|request| request.holds(signal)) {
            request.is(RequestOutcome::Delivered);
            slot.process.iter_mut().for_each(|process| process.sent |= bit(signal));
            self.marks[Mark::RequestDelivered as usize] += 1;
        }
        if !is_safe && !always {
            broken!(self, "no signal reaches a process that doesn't catch it", "signal {signal} for daemon {at}");
        }
        self.mark(if takes { Mark::Delivered } else { Mark::DeliveredUnseen });
    }

    /// A probe was started, or couldn't be.
    pub fn probe(&mut self, kernel: &Kernel, at: usize, came: Option<(Uid, i32)>) {
        let now = kernel.now;
        if self.stopping.is_some() || self.exited.is_some() {
            broken!(self, "nothing starts after a shutdown was asked for", "a probe of daemon {at} was started");
        }
        if let Some(probe) = &self.slots[at].probe {
            let pid = probe.pid;
            broken!(self, "at most one probe at a time for each daemon", "daemon {at} has pid {pid} already");
        }
        if !self.is_waited_for(at) || !self.slots[at].is_probed {
            broken!(self, "a daemon is probed only while another waits for it", "daemon {at}");
        }
        let up = self.slots[at].unreaped().filter(|p| p.executed == Some(Ok(())) && !p.is_being_ended());
        let Some(of) = up.map(|p| p.uid) else {
            broken!(self, "only a running daemon is probed", "daemon {at}");
            return;
        };
        let pause = self.slots[at].probed.filter(|(uid, _)| *uid == of).map(|(_, ended)| now - ended);
        if pause.is_some_and(|pause| pause < *PROBE_PAUSES.start()) {
            broken!(self, "a probe is tried again after 100 ms to 1 s", "daemon {at}, after {pause:?}");
        }
        let slot = &mut self.slots[at];
        match came {
            Some((uid, pid)) => {
                slot.probe = Some(Probe { uid, pid, of, since: now, until: now + PROBE, killed: false });
                self.mark(Mark::Probed);
            }
            None => slot.probed = Some((of, now)),
        }
    }

    /// The group of a probe is killed: since it has ended, takes too long, or nobody waits any more.
    fn kill_probe(&mut self, kernel: &Kernel, at: usize, signal: i32) {
        let is_wanted = self.is_probe_wanted(at);
        let Some(probe) = &mut self.slots[at].probe else { return };
        let has_ended = kernel.by_uid(probe.uid).is_none_or(|i| matches!(kernel.processes[i].life, Life::Zombie(_)));
        let is_late = kernel.now >= probe.since + PROBE;
        let pid = probe.pid;
        if !has_ended {
            probe.killed = true;
        }
        if is_late && !has_ended {
            self.mark(Mark::ProbeTimedOut);
        } else if !has_ended {
            self.mark(Mark::ProbeCutShort);
        }
        if signal != KILL || !has_ended && !is_late && is_wanted {
            broken!(self, "a probe has 10 s", "signal {signal} for pid {pid}, which probes daemon {at}");
        }
    }

    /// Whether the answer of a daemon's probe still matters.
    fn is_probe_wanted(&self, at: usize) -> bool {
        let slot = &self.slots[at];
        let is_up = |uid: Uid| slot.unreaped().is_some_and(|p| p.uid == uid && !p.is_being_ended());
        let is_of_now = slot.probe.as_ref().is_some_and(|probe| is_up(probe.of));
        self.stopping.is_none() && self.is_waited_for(at) && is_of_now
    }

    /// init says something in its log.
    pub fn said(&mut self, text: &str) {
        if let Some(name) = text.strip_prefix("starting ") {
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

    /// init looks whether a daemon takes a signal.
    pub fn looked(&mut self, pid: i32, signal: i32, now: Millis) {
        if !self.slots.iter().any(|s| s.unreaped().is_some_and(|p| p.pid == pid)) {
            broken!(self, "no process is looked at that isn't ours", "pid {pid}");
        }
        let mut held: Option<(Millis, Option<Millis>)> = None;
        let wires = self.table.wiring.iter().zip(&mut self.requests);
        for (_, request) in wires.filter(|(rule, _)| rule.signal.number() == signal) {
            let last = request.looked.replace(now);
            if let Expected::Held(since) = request.expected {
                held = Some((since, last));
            }
        }
        let of = self.slots.iter_mut().find(|s| s.unreaped().is_some_and(|p| p.pid == pid));
        for request in of.into_iter().flat_map(|slot| &mut slot.requests).filter(|request| request.holds(signal)) {
            let last = request.looked.replace(now);
            if let Fate::Held(since) = request.fate {
                held = Some((since, last));
            }
        }
        let Some((since, last)) = held else {
            broken!(self, "only a held signal is looked after", "pid {pid}, signal {signal}");
            return;
        };
        if last.is_some_and(|last| last > since && now < last + 10 && now < since + HOLD) {
            broken!(self, "a held signal is looked after every 10 to 50 ms", "pid {pid}, signal {signal}, at {last:?}");
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
        process.reaped = Some(kernel.now);
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
            broken!(self, "an OOM kill is told", "not that of pid {pid} of daemon {at}");
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

    /// The exit code, worked out from the kernel's record.
    fn exit_code(&self) -> i32 {
        // The end of an essential daemon alone decides, where it began the shutdown.
        let counts = |at: usize| self.essential.is_none_or(|essential| essential == at);
        let parts = || self.slots.iter().enumerate().filter(|(at, _)| counts(*at)).filter_map(|(_, s)| s.part);
        let codes = parts().filter_map(|p| if let Part::Code(code) = p { Some(code) } else { None });
        let own = parts().filter_map(|p| if let Part::Own(signal) = p { Some(signal) } else { None });
        match (codes.max(), own.min()) {
            (Some(code), _) => code,
            (None, Some(signal)) => 128 + signal,
            (None, None) if self.stopping.is_none() => 0,
            (None, None) => 143,
        }
    }

    /// init has decided to exit.
    pub fn exit(&mut self, code: i32) {
        if self.exited.is_some() {
            return;
        }
        self.exited = Some(code);
        let should = self.exit_code();
        if code != should {
            broken!(self, "the exit code equals a second computation", "{code}, should be {should}");
        }
        if let Some(at) = self.keeps_init() {
            broken!(self, "init ends when it should and never sooner", "it ended while daemon {at} was not at its end");
        }
        if !self.begun {
            broken!(self, "init ends when it should and never sooner", "it ended before it began");
        }
        self.mark(if self.stopping.is_some() { Mark::ExitedOnRequest } else { Mark::ExitedByItself });
    }

    /// After every event: what status shows is what is.
    pub fn compare(&mut self, core: &Supervisor, now: Millis) {
        if self.owes_refusal {
            broken!(self, "what is refused is logged", "it was not");
        }
        if let Some(at) = self.slots.iter().position(|s| {
            let is_asked = s.unreaped().is_some_and(Process::is_being_ended);
            s.owes_killed || s.says_start || s.owes_term && is_asked
        }) {
            broken!(self, "a start, a stop and an end are logged", "not so of daemon {at}");
        }
        for at in 0..self.slots.len() {
            let Some(view) = core.view(at) else {
                broken!(self, "status equals the truth", "daemon {at} isn't shown");
                continue;
            };
            let state = self.state(at);
            let slot = &self.slots[at];
            let process = slot.unreaped();
            let since = process.map(|p| std::time::Duration::from_millis(p.since));
            let by_request = slot.starts.saturating_sub(1 + slot.revivals);
            let starts_at = slot.backoff.map(std::time::Duration::from_millis);
            let truth = (state, process.map(|p| p.pid), since, slot.starts, by_request, slot.revivals, starts_at);
            let shown =
                (view.state, view.pid, view.since, view.generation, view.restarts, view.revivals, view.starts_at);
            let is_cleared = slot.process.as_ref().is_some_and(|p| p.reaped.is_some() && slot.keeps_init());
            let ends = self.stopping.is_some() || process.is_some_and(Process::is_being_ended) || is_cleared;
            let is_back = view.generation < slot.generation;
            let (last_exit, ready) = (slot.last_exit, slot.ready);
            if is_back {
                broken!(self, "a generation never goes back", "daemon {at}: {}", view.generation);
            }
            self.slots[at].generation = view.generation;
            if shown != truth {
                broken!(self, "status equals the truth", "daemon {at}: {shown:?}, is {truth:?}");
            }
            if view.last_exit != last_exit {
                broken!(self, "status equals the truth", "daemon {at}: {:?}, is {last_exit:?}", view.last_exit);
            }
            self.compare_waiting(at, &view);
            self.compare_requests(at, &view, now);
            if view.notified != ready {
                broken!(self, "status equals the truth", "daemon {at}: notified is {}", view.notified);
            }
            if core.is_being_ended(at) != ends {
                broken!(self, "the output of a daemon is read from its TERM on", "daemon {at}, should be {ends}");
            }
        }
        if (core.state() == InitState::Stopping) != self.stopping.is_some() {
            broken!(self, "only a request shuts down", "{:?}", core.state());
        }
        for at in 0..self.requests.len() {
            let request = self.requests[at].clone();
            let shown = core.last(at);
            let outcome = match request.expected {
                Expected::Nothing => None,
                Expected::Held(_) => Some(Outcome::Held),
                Expected::Is(outcome) => Some(outcome),
            };
            if let (Some(Outcome::NeverCaught), Expected::Held(since)) = (shown.map(|l| l.outcome), request.expected) {
                if now < since + HOLD {
                    broken!(self, "a signal is held for 20 s", "wire {at} was given up after {} ms", now - since);
                }
                if self.says_never.checked_sub(1).map(|left| self.says_never = left).is_none() {
                    broken!(self, "what is refused is logged", "wire {at} was given up, and it was not");
                }
                self.requests[at].expected = Expected::Is(Outcome::NeverCaught);
                self.mark(Mark::NeverCaught);
            } else if shown.map(|l| l.outcome) != outcome {
                broken!(
                    self,
                    "every request ends in an outcome that is told",
                    "wire {at}: {:?}, is {outcome:?}",
                    shown.map(|l| l.outcome)
                );
            }
            if shown.map_or(0, |l| l.seq) != request.seq {
                broken!(
                    self,
                    "every request ends in an outcome that is told",
                    "wire {at}: {shown:?}, is {}",
                    request.seq
                );
            }
            if shown.is_some_and(|l| l.generation != request.generation) {
                broken!(
                    self,
                    "a restart is told with the generation that it started",
                    "wire {at}: {shown:?}, is {:?}",
                    request.generation
                );
            }
            if shown.is_some_and(|l| l.reload_errno != request.errno) {
                broken!(
                    self,
                    "a reload is told of the signal that it answers",
                    "wire {at}: {shown:?}, is {:?}",
                    request.errno
                );
            }
        }
    }

    /// What a daemon is doing.
    fn state(&self, at: usize) -> DaemonState {
        let slot = &self.slots[at];
        match slot.unreaped() {
            Some(process) if process.is_being_ended() || self.stopping.is_some() => DaemonState::Stopping,
            Some(process) if process.executed == Some(Ok(())) => DaemonState::Running,
            Some(_) => DaemonState::Starting,
            None if slot.keeps_init() => DaemonState::Stopping,
            None if slot.backoff.is_some() => DaemonState::Backoff,
            None if slot.waits => DaemonState::Waiting,
            None if slot.is_stopped => DaemonState::Stopped,
            None if slot.was_forgotten => DaemonState::Exited,
            None if slot.is_done => DaemonState::Done,
            None if slot.failed || slot.is_oneshot && slot.starts > 0 => DaemonState::Failed,
            None => DaemonState::Exited,
        }
    }

    /// A daemon that waits names each dependency that it waits for, and says why.
    fn compare_waiting(&mut self, at: usize, view: &View) {
        let mut truth: Vec<&str> = Vec::new();
        if self.slots[at].waits {
            truth.extend(self.unready(at).map(|dependency| self.slots[dependency].name.as_str()));
        }
        let mut shown: Vec<&str> = view.waiting_for.iter().map(|waiting| waiting.daemon.as_str()).collect();
        truth.sort_unstable();
        shown.sort_unstable();
        if shown != truth || view.waiting_for.iter().any(|waiting| waiting.why.is_empty()) {
            let how = format!("daemon {at} waits for {:?}, is {truth:?}", view.waiting_for);
            broken!(self, "a waiting daemon tells for whom, and why", "{how}");
        }
    }

    /// Each request is told: until it is decided, and for as long as it is one of the last.
    fn compare_requests(&mut self, at: usize, view: &View, now: Millis) {
        let slot = &mut self.slots[at];
        // A stop has succeeded once nothing of the daemon is left.
        if !slot.keeps_init() {
            for request in slot.requests.iter_mut().filter(|request| request.wants_stop()) {
                request.is(RequestOutcome::Stopped);
                self.marks[Mark::Stopped as usize] += 1;
            }
        }
        let mut wrong = None;
        for (nth, request) in slot.requests.iter_mut().rev().enumerate() {
            let shown = view.requests.iter().find(|shown| shown.id == request.id);
            if let (Some(RequestOutcome::NeverCaught), Fate::Held(since)) = (shown.map(|s| s.outcome), request.fate)
                && now >= since + HOLD
            {
                request.is(RequestOutcome::NeverCaught);
                self.marks[Mark::NeverCaught as usize] += 1;
            }
            let outcome = match request.fate {
                Fate::Pending => RequestOutcome::Pending,
                Fate::Held(_) => RequestOutcome::Held,
                Fate::Is(outcome) => outcome,
            };
            let is_shown = shown.is_some_and(|shown| {
                (shown.outcome, shown.generation, &shown.verb)
                    == (outcome, request.generation, &request.verb.to_string())
            });
            let is_due = nth == 0 || !outcome.is_final() || std::mem::take(&mut request.is_news);
            if if is_due { !is_shown } else { shown.is_some() && !is_shown } {
                wrong = Some(format!("{request:?}, shown as {shown:?}"));
            }
        }
        let count = slot.requests.len();
        if view.requests.len() < count.min(SHOWN)
            || view.requests.iter().any(|s| slot.requests.iter().all(|r| r.id != s.id))
        {
            wrong = Some(format!("{:?} of {count}", view.requests));
        }
        if let Some(wrong) = wrong {
            broken!(self, "every request ends in an outcome that is told", "daemon {at}: {wrong}");
        }
    }

    /// init waits: everything that was to be done at this moment is done.
    pub fn rest(&mut self, kernel: &Kernel, core: &Supervisor) {
        let now = kernel.now;
        let is_left = |p: &&crate::kernel::Process| p.parent == 0 && !p.traced && matches!(p.life, Life::Zombie(_));
        if let Some(zombie) = kernel.processes.iter().find(is_left) {
            broken!(self, "every child is reaped exactly once", "pid {} is left a zombie", zombie.pid);
        }
        let next = core.next().map(|at| u64::try_from(at.as_millis()).unwrap_or(u64::MAX));
        let mut must_wake = false;
        for at in 0..self.slots.len() {
            must_wake |= self.rest_before_the_start(at, now, next);
            let (wanted, is_stopped) = (self.slots[at].wanted, self.slots[at].is_stopped);
            let is_to_end = self.stopping.is_some() && {
                let by = self.asks_by[at].unwrap_or(now);
                if next.is_none_or(|next| next > by) && now < by {
                    let is_there = self.slots[at].unreaped().is_some_and(|p| !p.is_being_ended());
                    if is_there {
                        broken!(
                            self,
                            "a dependency is asked to stop after its dependents, or at half its grace",
                            "daemon {at} is to be asked at {by}, due at {next:?}"
                        );
                    }
                }
                now >= by || !self.has_dependents(at)
            };
            let Some(process) = self.slots[at].process.clone() else { continue };
            if process.reaped.is_none() {
                if (wanted.is_some() || is_stopped || is_to_end) && !process.is_being_ended() {
                    broken!(
                        self,
                        "a request is served at once",
                        "pid {} of daemon {at} was not asked to end",
                        process.pid
                    );
                }
                if process.termed && !process.continued {
                    broken!(self, "a stopped process gets its TERM", "no CONT for pid {} of daemon {at}", process.pid);
                }
                if let (Some(deadline), None) = (process.deadline, process.killed)
                    && (now >= deadline || next.is_none_or(|next| next > deadline))
                {
                    broken!(
                        self,
                        "a deadline never moves",
                        "pid {} of daemon {at}, due at {deadline}, now {now}",
                        process.pid
                    );
                }
                if process.killed.is_some_and(|killed| now >= killed + GIVE_UP) {
                    broken!(self, "a stop goes on 2 s after SIGKILL", "pid {} of daemon {at}", process.pid);
                }
                if process.is_being_ended() || self.stopping.is_some() {
                    must_wake = true;
                    if next.is_none_or(|next| next > now + TICK) {
                        broken!(self, "a stopping init wakes once a second", "due at {next:?}, now {now}");
                    }
                }
                continue;
            }
            self.rest_after_the_end(kernel, at, &process, next);
            must_wake |= !process.left.is_settled;
        }
        for at in 0..self.requests.len() {
            let Expected::Held(since) = self.requests[at].expected else { continue };
            let process = self.targets[at].and_then(|slot| self.slots[slot].unreaped());
            if process.is_some_and(|p| p.executed != Some(Ok(()))) {
                continue;
            }
            must_wake = true;
            if now >= since + HOLD {
                broken!(self, "a signal is held for 20 s", "wire {at} is held since {since}, now {now}");
            }
            if next.is_none_or(|next| next > now + LOOK) {
                broken!(self, "a held signal is looked after every 10 to 50 ms", "wire {at} is not looked at again");
            }
            if self.no_masks || self.table.wiring[at].action == (Action::Forward { always: true }) {
                broken!(self, "always means at once", "wire {at} is held");
            }
        }
        for at in 0..self.slots.len() {
            let since = self.slots[at].requests.iter().find_map(|request| match request.fate {
                Fate::Held(since) => Some(since),
                _ => None,
            });
            let Some(since) = since.filter(|_| self.slots[at].unreaped().is_some_and(|p| p.executed == Some(Ok(()))))
            else {
                continue;
            };
            must_wake = true;
            if now >= since + HOLD {
                broken!(self, "a signal is held for 20 s", "daemon {at}, held since {since}, now {now}");
            }
            if self.no_masks {
                broken!(self, "always means at once", "a signal is held for daemon {at}");
            }
            if next.is_none_or(|next| next > now + LOOK) {
                broken!(self, "a held signal is looked after every 10 to 50 ms", "daemon {at} is not looked at again");
            }
        }
        let backoff = self.slots.iter().filter_map(|slot| slot.backoff).min();
        match next {
            Some(next) if !must_wake && next > now && backoff == Some(next) => {}
            Some(next) if next <= now => broken!(self, "init never spins", "due at {next}, now {now}"),
            Some(next) if !must_wake => broken!(self, "an idle init makes no system call", "due at {next}, now {now}"),
            _ => {}
        }
        if self.exited.is_none() && self.is_over() {
            broken!(self, "init ends when it should and never sooner", "it goes on with nothing left");
        }
    }

    /// Whether a dependent of this daemon, direct or not, is still to end.
    fn has_dependents(&self, at: usize) -> bool {
        let is_there = |other: &usize| self.slots[*other].keeps_init() && self.depends(*other, at);
        (0..self.slots.len()).any(|other| is_there(&other))
    }

    /// The same for what a daemon waits for before it starts. Whether init must wake for it soon.
    fn rest_before_the_start(&mut self, at: usize, now: Millis, next: Option<Millis>) -> bool {
        let slot = &self.slots[at];
        let is_clear = slot.unreaped().is_none() && !slot.process.as_ref().is_some_and(|p| !p.left.is_settled);
        if let Some(due) = slot.backoff {
            if is_clear && now >= due {
                broken!(
                    self,
                    "a policy starts its daemon when the delay is over",
                    "daemon {at}, due at {due}, now {now}"
                );
            } else if now < due && next.is_none_or(|next| next > due) {
                broken!(
                    self,
                    "a policy starts its daemon when the delay is over",
                    "daemon {at} is due at {due}: {next:?}"
                );
            }
        }
        let slot = &self.slots[at];
        if slot.wanted.is_some() && slot.unreaped().is_none() && slot.process.as_ref().is_none_or(|p| p.left.is_settled)
        {
            broken!(self, "a daemon starts as soon as it may", "daemon {at}");
        }
        let slot = &self.slots[at];
        let is_wanted = self.is_probe_wanted(at);
        if let Some(probe) = &slot.probe {
            let (pid, until, killed) = (probe.pid, probe.until, probe.killed);
            if !killed && !is_wanted {
                broken!(
                    self,
                    "a daemon is probed only while another waits for it",
                    "pid {pid} still probes daemon {at}"
                );
            }
            if !killed && (now >= until || next.is_none_or(|next| next > until)) {
                broken!(self, "a probe has 10 s", "pid {pid}, which probes daemon {at}, is due at {until}, now {now}");
            }
            return true;
        }
        let up = slot.unreaped().filter(|p| p.executed == Some(Ok(())) && !p.is_being_ended());
        let Some(of) = up.map(|p| p.uid) else { return false };
        if !slot.is_probed || !self.is_waited_for(at) || self.stopping.is_some() {
            return false;
        }
        let due = slot.probed.filter(|(uid, _)| *uid == of).map_or(now, |(_, ended)| ended + PROBE_PAUSES.end());
        if due <= now || next.is_none_or(|next| next > due) {
            broken!(
                self,
                "a probe is tried again after 100 ms to 1 s",
                "daemon {at}, due at {due}, now {now}: {next:?}"
            );
        }
        true
    }

    /// The same for a daemon whose process has ended.
    fn rest_after_the_end(&mut self, kernel: &Kernel, at: usize, process: &Process, next: Option<Millis>) {
        let now = kernel.now;
        let left = &process.left;
        let is_member = |p: &&crate::kernel::Process| p.family == Some((at, process.uid)) && p.uid != process.uid;
        let members = || kernel.processes.iter().filter(is_member);
        let alive = || members().filter(|p| p.life == Life::Alive);
        let slot = &self.slots[at];
        let is_waited_for = slot.wanted.is_some() || slot.backoff.is_some() || process.is_waited_for();
        if !process.is_being_ended() {
            if let Some(member) = alive().next() {
                broken!(
                    self,
                    "after a death that nobody asked for its session is killed at once",
                    "pid {} of daemon {at} is left",
                    member.pid
                );
            }
        } else if !left.is_settled && left.killed.is_none() {
            let is_asked = |p: &crate::kernel::Process| left.asked.contains(&p.uid) || p.late;
            if let Some(member) = alive().find(|p| !is_asked(p)) {
                broken!(
                    self,
                    "what is left of a session is asked before it is killed",
                    "pid {} of daemon {at} isn't",
                    member.pid
                );
            }
            if alive().next().is_some() && process.deadline.is_some_and(|deadline| now >= deadline) {
                broken!(self, "a deadline never moves", "daemon {at} has members at its deadline");
            }
        }
        if let Some(uid) = left.to_continue.first() {
            broken!(self, "a stopped process gets its TERM", "no CONT for a member of daemon {at}, uid {uid}");
        }
        if !is_waited_for {
            return;
        }
        if left.killed.is_some_and(|killed| now >= killed + GIVE_UP) && !left.is_settled {
            broken!(self, "a stop goes on 2 s after SIGKILL", "daemon {at}, killed at {:?}", left.killed);
        }
        if members().any(|p| !matches!(p.life, Life::Zombie(_))) {
            self.slots[at].gone = None;
        } else {
            let gone = *self.slots[at].gone.get_or_insert(now);
            if now > gone + LOOK {
                broken!(self, "init goes on when the old session is gone", "daemon {at}, gone since {gone}, now {now}");
            }
        }
        if next.is_none_or(|next| next > now + LOOK) {
            broken!(self, "init goes on when the old session is gone", "daemon {at} is not looked at again");
        }
    }

    /// Nothing is left to supervise.
    fn is_over(&self) -> bool {
        self.begun && self.keeps_init().is_none()
    }

    /// A daemon that runs or stops, is stopped on request, or is yet to be started by its policy or by its dependencies.
    fn keeps_init(&self) -> Option<usize> {
        let is_to_come = |at: usize| {
            let slot = &self.slots[at];
            slot.is_stopped || slot.backoff.is_some() || slot.waits && self.can_be_met(at)
        };
        let is_stopping = self.stopping.is_some();
        (0..self.slots.len()).find(|at| self.slots[*at].keeps_init() || !is_stopping && is_to_come(*at))
    }

    /// The schedule and all of its time are over.
    pub fn end(&mut self) {
        if self.exited.is_none() {
            broken!(self, "init ends when it should and never sooner", "it never ended");
        }
    }

    pub fn is_live_probe(&self, kernel: &Kernel, pid: i32) -> bool {
        let is_it = |slot: &Slot| slot.probe.as_ref().is_some_and(|probe| probe.pid == pid);
        let is_alive = |i: usize| kernel.processes[i].life == Life::Alive;
        self.slots.iter().any(is_it) && kernel.by_pid(pid).is_some_and(is_alive)
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

    /// A signal that is held for a daemon.
    pub fn held(&self, at: usize) -> Option<i32> {
        self.slots[at].requests.iter().find_map(|request| match (request.fate, request.verb) {
            (Fate::Held(_), Verb::Signal(signal)) => Some(signal.number()),
            _ => None,
        })
    }

    /// The highest of all codes, whoever ended first.
    pub fn highest_code(&self) -> Option<i32> {
        let code = |slot: &Slot| match slot.part? {
            Part::Code(code) => Some(code),
            Part::Own(_) => None,
        };
        self.slots.iter().filter_map(code).max()
    }

    /// The process that probes a daemon.
    pub fn probe_of(&self, at: usize) -> Option<i32> {
        self.slots.get(at)?.probe.as_ref().map(|probe| probe.pid)
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
