//! The promises of init, each with its name, checked against what was done to the simulated kernel.
//!
//! Nothing here looks at how the core decides: what is true is worked out again, from requests served and calls made.

use sidecar::status::{DaemonState, InitState, LastExit, Outcome};
use sidecar::supervisor::{Event, Supervisor};
use sidecar::table::{Action, Table};

use crate::kernel::{CONT, End, KILL, Kernel, Life, Millis, TERM, Uid, bit};

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
    says_left: bool,
    grace: Millis,
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

#[derive(Clone, Debug)]
struct Request {
    seq: u64,
    expected: Expected,
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
}

pub const MARKS: usize = Mark::ALL.len();

impl Mark {
    pub const ALL: [Self; 36] = [
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
    requests: Vec<Request>,
    begun: bool,
    stopping: Option<Millis>,
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
        let slot = |i: &usize| Slot {
            name: table.daemons[*i].name.clone(),
            says_start: false,
            owes_term: false,
            says_end: false,
            owes_killed: false,
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
        let request = Request { seq: 0, expected: Expected::Nothing, delivered: None, errno: None, looked: None };
        Self {
            slots: selected.iter().map(slot).collect(),
            targets: table.wiring.iter().map(|w| selected.iter().position(|s| *s == w.daemon)).collect(),
            requests: vec![request; table.wiring.len()],
            table: table.clone(),
            begun: false,
            stopping: None,
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
        for request in &mut self.requests {
            if let Expected::Held(since) = &mut request.expected {
                *since += lost;
            }
        }
    }

    /// init takes this in now.
    pub fn serving(&mut self, event: &Event, now: Millis) {
        match event {
            Event::Begin => {
                self.begun = true;
                if self.stopping.is_none() {
                    for slot in &mut self.slots {
                        slot.wanted = Some(now);
                    }
                }
            }
            Event::Stop => {
                if self.stopping.is_some() {
                    return;
                }
                self.stopping = Some(now);
                for slot in &mut self.slots {
                    slot.owes_term = slot.unreaped().is_some_and(|p| !p.is_being_ended());
                }
                for slot in 0..self.slots.len() {
                    if self.slots[slot].wanted.take().is_some() {
                        if let Some(process) = &mut self.slots[slot].process {
                            process.left.is_waited_for = true;
                        }
                        self.mark(Mark::ShutdownCutRestart);
                    }
                    self.set(slot, |e| matches!(e, Expected::Held(_)), Outcome::Refused);
                    self.set(slot, |e| e == Expected::Is(Outcome::Restarting), Outcome::Refused);
                }
                if !self.begun {
                    self.mark(Mark::StoppedBeforeStart);
                }
            }
            Event::Signal(signal) => {
                let Some(at) = self.table.wiring.iter().position(|w| w.signal == *signal) else { return };
                self.signal(at, now);
            }
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
                let Some(began) = slot.reloading.take() else { return };
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
                        let slot = &mut self.slots[slot];
                        slot.wanted = slot.wanted.or(Some(now));
                    } else {
                        self.mark(Mark::PendingAtStart);
                    }
                    Expected::Is(Outcome::Restarting)
                }
                Action::Forward { .. } => match (&self.slots[slot].unreaped(), self.requests[at].expected) {
                    (_, held @ Expected::Held(_)) => held,
                    (Some(process), _) if !process.is_being_ended() => Expected::Held(now),
                    (None, _) if !begun => Expected::Held(now),
                    _ => Expected::Is(Outcome::Refused),
                },
            },
        };
        let request = &mut self.requests[at];
        request.seq += 1;
        request.expected = expected;
        (request.delivered, request.errno) = (None, None);
        match expected {
            Expected::Held(_) => self.mark(Mark::Held),
            Expected::Is(Outcome::Refused) => {
                self.owes_refusal = true;
                self.mark(Mark::Refused);
            }
            _ => {}
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
        if self.slots[at].starts == 0 && self.slots[..at].iter().any(|s| s.starts == 0) {
            broken!(self, "daemons start in the table's order", "daemon {at} was started before another");
        }
        if self.slots[at].wanted.is_none() {
            broken!(self, "nothing starts unasked", "daemon {at} was started");
        }
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
        slot.wanted = None;
        slot.gone = None;
        slot.says_left = false;
        slot.starts += 1;
        (slot.ready, slot.reloading) = (false, None);
        match came {
            Ok((uid, pid)) => {
                slot.failed = false;
                slot.process = Some(Process {
                    uid,
                    pid,
                    since: now,
                    executed: None,
                    termed: false,
                    deadline: None,
                    continued: false,
                    killed: None,
                    swept: false,
                    reaped: None,
                    left: Left::default(),
                });
            }
            Err(code) => {
                self.failed(at, code);
            }
        }
    }

    /// A daemon's command was not executed.
    fn failed(&mut self, at: usize, code: i32) {
        let slot = &mut self.slots[at];
        slot.failed = true;
        slot.part = Some(Part::Code(code));
        slot.last_exit = Some(LastExit { code: Some(code), signal: None, by_init: false });
        if self.slots[at].wanted.is_none() {
            self.set(at, |e| e == Expected::Is(Outcome::Restarting), Outcome::Failed);
        }
        self.set(at, |e| matches!(e, Expected::Held(_)), Outcome::Refused);
        self.mark(Mark::StartFailed);
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
        match signal {
            TERM if process.left.asked.contains(&target.uid) => {
                broken!(self, "one TERM a stop", "a second TERM for pid {pid}");
            }
            TERM => {
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
        let (asked, stopping, grace) = (self.slots[at].wanted.is_some(), self.stopping, self.slots[at].grace);
        let Some(process) = &mut self.slots[at].process else { return };
        if process.uid != target.uid {
            broken!(self, "no signal is sent to a pid that isn't ours at that moment", "signal {signal} for {pid}");
            return;
        }
        let is_asked = asked || stopping.is_some();
        match signal {
            TERM | KILL | CONT if !is_asked => {
                broken!(self, "a restart never touches a sibling", "signal {signal} for pid {pid} of daemon {at}");
            }
            TERM if process.is_being_ended() => {
                broken!(self, "one TERM a stop", "a second TERM for pid {pid}");
            }
            TERM if grace == 0 => broken!(self, "a grace of 0 kills at once", "TERM for pid {pid}"),
            TERM => {
                process.termed = true;
                process.deadline = Some(now + grace);
                if is_stopped {
                    self.mark(Mark::StoppedTermed);
                }
            }
            CONT => process.continued = true,
            KILL if process.killed.is_some() => broken!(self, "one KILL a stop", "a second KILL for pid {pid}"),
            KILL => {
                process.killed = Some(now);
                match process.deadline {
                    None if grace == 0 => self.mark(Mark::KilledAtOnce),
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
            _ => {
                let being_ended = process.is_being_ended();
                // What it blocks for a moment kills it afterwards.
                let takes = (target.caught | target.blocked) & bit(signal) != 0;
                if being_ended {
                    broken!(self, "a stopping daemon gets no forward", "signal {signal} for pid {pid}");
                }
                return self.forward(at, signal, takes, takes || is_zombie, now);
            }
        }
        if is_zombie {
            self.mark(Mark::DiedBeforeSignal);
        }
        if self.set(at, |e| matches!(e, Expected::Held(_)), Outcome::Refused) {
            self.mark(Mark::HeldEndedWithProcess);
        }
    }

    fn kill_group(&mut self, kernel: &Kernel, pgid: i32, signal: i32) {
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

    /// init sends a daemon's process a signal that means nothing to init itself.
    fn forward(&mut self, at: usize, signal: i32, takes: bool, is_safe: bool, now: Millis) {
        let Some(wire) = self.table.wiring.iter().position(|w| w.signal.number() == signal) else {
            broken!(self, "a forward reaches its daemon alone", "signal {signal} for daemon {at}, not wired");
            return;
        };
        let always = match self.table.wiring[wire].action {
            Action::Forward { always } => always || self.no_masks,
            Action::Restart => {
                broken!(self, "the wired signal of a restart reaches no daemon", "signal {signal} for daemon {at}");
                return;
            }
        };
        if self.targets[wire] != Some(at) || !matches!(self.requests[wire].expected, Expected::Held(_)) {
            broken!(self, "a forward reaches its daemon alone", "signal {signal} for daemon {at}, unasked");
        }
        if !is_safe && !always {
            broken!(self, "no signal reaches a process that doesn't catch it", "signal {signal} for daemon {at}");
        }
        self.requests[wire].expected = Expected::Is(Outcome::Delivered);
        self.requests[wire].delivered = Some(now);
        self.mark(if takes { Mark::Delivered } else { Mark::DeliveredUnseen });
    }

    /// init says something in its log.
    pub fn said(&mut self, text: &str) {
        if let Some(name) = text.strip_prefix("starting ") {
            self.slots.iter_mut().filter(|s| s.name == name).for_each(|s| s.says_start = true);
        } else if let Some(name) = text.strip_prefix("forwarding SIGTERM to ") {
            self.slots.iter_mut().filter(|s| s.name == name).for_each(|s| s.owes_term = false);
        } else if text.contains(" exited ") || text.contains(" was killed by signal ") {
            let is = |s: &&mut Slot| text.strip_prefix(&s.name).is_some_and(|rest| rest.starts_with(" (pid "));
            self.slots.iter_mut().filter(is).for_each(|s| s.says_end = true);
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
        let Some(wire) = self.table.wiring.iter().position(|w| w.signal.number() == signal) else { return };
        let request = &mut self.requests[wire];
        let last = request.looked.replace(now);
        let Expected::Held(since) = request.expected else {
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
        let Life::Zombie(end) = process.life else {
            broken!(self, "every child is reaped exactly once", "pid {pid} has not ended");
            return;
        };
        let uid = process.uid;
        let of = |s: &Slot| s.unreaped().is_some_and(|p| p.uid == uid);
        let Some(at) = self.slots.iter().position(of) else {
            self.mark(Mark::Orphan);
            return;
        };
        let slot = &mut self.slots[at];
        let says_end = std::mem::take(&mut slot.says_end);
        let Some(process) = &mut slot.process else { return };
        process.reaped = Some(kernel.now);
        let (swept, termed, killed) = (process.swept, process.termed, process.killed);
        let asked_nobody = process.left.asked.is_empty();
        let (executed, being_ended) = (process.executed, process.is_being_ended());
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
        if executed != Some(Ok(())) {
            if being_ended {
                self.mark(Mark::StoppedBeforeExec);
            }
            let is_own =
                matches!(end, End::Signal(TERM) if termed) || matches!(end, End::Signal(KILL) if killed.is_some());
            self.failed(at, executed.and_then(Result::err).unwrap_or(126));
            if let (End::Signal(signal), true, None | Some(Ok(()))) = (end, is_own, executed) {
                let slot = &mut self.slots[at];
                slot.part = Some(Part::Own(signal));
                slot.last_exit = Some(LastExit { code: None, signal: Some(signal), by_init: true });
                (slot.ready, slot.reloading) = (false, None);
            }
            return;
        }
        let killed = killed.is_some();
        let slot = &mut self.slots[at];
        let (code, signal) = match end {
            End::Code(code) => (Some(code), None),
            End::Signal(signal) => (None, Some(signal)),
        };
        slot.last_exit = Some(LastExit { code, signal, by_init: termed || killed });
        slot.part = Some(match end {
            End::Code(code) => Part::Code(code),
            End::Signal(TERM) if termed => Part::Own(TERM),
            End::Signal(KILL) if killed => Part::Own(KILL),
            End::Signal(signal) => Part::Code(128 + signal),
        });
        (slot.ready, slot.reloading) = (false, None);
        if self.set(at, |e| matches!(e, Expected::Held(_)), Outcome::Refused) {
            self.mark(Mark::HeldEndedWithProcess);
        }
        for (request, _) in self.requests.iter_mut().zip(&self.targets).filter(|(_, t)| **t == Some(at)) {
            // What a later process reloads by itself is no answer to a signal that this one got.
            request.delivered = None;
        }
    }

    /// The exit code, worked out from the kernel's record.
    fn exit_code(&self) -> i32 {
        let parts = || self.slots.iter().filter_map(|s| s.part);
        let codes = parts().filter_map(|p| if let Part::Code(code) = p { Some(code) } else { None });
        let own = parts().filter_map(|p| if let Part::Own(signal) = p { Some(signal) } else { None });
        match (codes.max(), own.min()) {
            (Some(code), _) => code,
            (None, Some(signal)) => 128 + signal,
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
        if let Some(at) = self.slots.iter().position(Slot::keeps_init) {
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
        if let Some(at) = self.slots.iter().position(|s| s.owes_term || s.owes_killed || s.says_start) {
            broken!(self, "a start, a stop and an end are logged", "not so of daemon {at}");
        }
        for at in 0..self.slots.len() {
            let Some(view) = core.view(at) else {
                broken!(self, "status equals the truth", "daemon {at} isn't shown");
                continue;
            };
            let slot = &self.slots[at];
            let process = slot.unreaped();
            let state = match process {
                Some(process) if process.is_being_ended() => DaemonState::Stopping,
                Some(process) if process.executed == Some(Ok(())) => DaemonState::Running,
                Some(_) => DaemonState::Starting,
                None if slot.keeps_init() => DaemonState::Stopping,
                None if slot.failed => DaemonState::Failed,
                None => DaemonState::Exited,
            };
            let since = process.map(|p| std::time::Duration::from_millis(p.since));
            let truth = (state, process.map(|p| p.pid), since, slot.starts, slot.starts.saturating_sub(1));
            let shown = (view.state, view.pid, view.since, view.generation, view.restarts);
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
            let (wanted, stopping) = (self.slots[at].wanted, self.stopping);
            let Some(process) = self.slots[at].process.clone() else { continue };
            if process.reaped.is_none() {
                if (wanted.is_some() || stopping.is_some()) && !process.is_being_ended() {
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
                if process.is_being_ended() {
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
        match next {
            Some(next) if next <= now => broken!(self, "init never spins", "due at {next}, now {now}"),
            Some(next) if !must_wake => broken!(self, "an idle init makes no system call", "due at {next}, now {now}"),
            _ => {}
        }
        if self.exited.is_none() && self.is_over() {
            broken!(self, "init ends when it should and never sooner", "it goes on with nothing left");
        }
    }

    /// The same for a daemon whose process has ended.
    fn rest_after_the_end(&mut self, kernel: &Kernel, at: usize, process: &Process, next: Option<Millis>) {
        let now = kernel.now;
        let left = &process.left;
        let is_member = |p: &&crate::kernel::Process| p.family == Some((at, process.uid)) && p.uid != process.uid;
        let members = || kernel.processes.iter().filter(is_member);
        let alive = || members().filter(|p| p.life == Life::Alive);
        let is_waited_for = self.slots[at].wanted.is_some() || process.is_waited_for();
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
        self.begun && !self.slots.iter().any(Slot::keeps_init)
    }

    /// The schedule and all of its time are over.
    pub fn end(&mut self) {
        if self.exited.is_none() {
            broken!(self, "init ends when it should and never sooner", "it never ended");
        }
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
