//! The promises of init, each with its name, checked against what was done to the simulated kernel.
//!
//! Nothing here looks at how the core decides: what is true is worked out again, from requests served and calls made.

use sidecar::status::{DaemonState, InitState, LastExit, Outcome};
use sidecar::supervisor::{Event, Supervisor};
use sidecar::table::{Action, Table};

use crate::kernel::{CONT, End, KILL, Kernel, Life, Millis, TERM, Uid, bit};

/// How long a replacement waits at most for the old group to be gone.
const CLEARING: Millis = 2_000;
/// How long a signal is held at most.
const HOLD: Millis = 20_000;
/// How far apart the looks at a group or a mask are at most.
const LOOK: Millis = 50;

/// A daemon's process, as the kernel knows it.
#[derive(Clone, Debug)]
struct Process {
    uid: Uid,
    pid: i32,
    since: Millis,
    termed: Option<Millis>,
    continued: bool,
    killed: bool,
    swept: bool,
    reaped: Option<Millis>,
}

impl Process {
    fn is_being_ended(&self) -> bool {
        self.termed.is_some() || self.killed
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
    owes_end: bool,
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
    ready: bool,
    reloading: Option<u64>,
}

impl Slot {
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
}

pub const MARKS: usize = Mark::ALL.len();

impl Mark {
    pub const ALL: [Self; 28] = [
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
    ];
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    pub promise: &'static str,
    pub how: String,
}

#[derive(Debug)]
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
    pub fn new(table: &Table, selected: &[usize], no_masks: bool, marks: [u64; MARKS]) -> Self {
        let slot = |i: &usize| Slot {
            name: table.daemons[*i].name.clone(),
            says_start: false,
            owes_term: false,
            owes_end: false,
            says_left: false,
            grace: u64::try_from(table.daemons[*i].grace.as_millis()).unwrap_or(u64::MAX),
            starts: 0,
            process: None,
            failed: false,
            part: None,
            last_exit: None,
            wanted: None,
            gone: None,
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
            marks,
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
            let left = kernel
                .processes
                .iter()
                .find(|p| p.family == Some((at, old.uid)) && Some(p.uid) != came.ok().map(|c| c.0));
            let due = old.reaped.is_some_and(|reaped| now >= reaped + CLEARING);
            match left {
                Some(left) if !due => {
                    let pid = left.pid;
                    broken!(
                        self,
                        "no process of an old group is there when its replacement starts",
                        "daemon {at} was started while pid {pid} of its old group was there"
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
                    termed: None,
                    continued: false,
                    killed: false,
                    swept: false,
                    reaped: None,
                });
                for (request, _) in self.requests.iter_mut().zip(&self.targets).filter(|(_, t)| **t == Some(at)) {
                    if let Expected::Held(since) = &mut request.expected {
                        *since = now;
                    }
                }
                self.set(at, |e| e == Expected::Is(Outcome::Restarting), Outcome::Restarted);
            }
            Err(code) => {
                slot.failed = true;
                slot.part = Some(Part::Code(code));
                slot.last_exit = Some(LastExit { code: Some(code), signal: None, by_init: false });
                self.set(at, |e| e == Expected::Is(Outcome::Restarting), Outcome::Failed);
                self.set(at, |e| matches!(e, Expected::Held(_)), Outcome::Refused);
                self.mark(Mark::StartFailed);
            }
        }
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
        let of = |s: &Slot| s.unreaped().is_some_and(|p| p.pid == pid.abs());
        let Some(at) = self.slots.iter().position(of) else {
            broken!(self, "no signal is sent to a pid that isn't ours at that moment", "signal {signal} for {pid}");
            return;
        };
        let Some(target) = kernel.by_pid(pid.abs()).map(|i| &kernel.processes[i]) else {
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
        if pid < 0 {
            process.swept = true;
            if signal != KILL || !is_zombie {
                broken!(self, "a group is killed once its daemon's process has ended", "signal {signal} for {pid}");
            }
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
                process.termed = Some(now);
                if is_stopped {
                    self.mark(Mark::StoppedTermed);
                }
            }
            CONT => process.continued = true,
            KILL if process.killed => broken!(self, "one KILL a stop", "a second KILL for pid {pid}"),
            KILL => {
                process.killed = true;
                match process.termed {
                    None if grace == 0 => self.mark(Mark::KilledAtOnce),
                    Some(since) if now >= since.saturating_add(grace) => self.mark(Mark::KilledAtDeadline),
                    since => {
                        broken!(
                            self,
                            "a deadline never moves",
                            "KILL for pid {pid}, asked at {since:?}, grace {grace}"
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
            self.slots.iter_mut().filter(is).for_each(|s| s.owes_end = false);
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
        slot.owes_end = true;
        let Some(process) = &mut slot.process else { return };
        process.reaped = Some(kernel.now);
        let (swept, termed, killed) = (process.swept, process.termed.is_some(), process.killed);
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
        if !swept {
            broken!(self, "the group is killed before its leader is reaped", "pid {pid} of daemon {at}");
        }
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
        if let Some(at) = self.slots.iter().position(|s| s.unreaped().is_some() || s.wanted.is_some()) {
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
        if let Some(at) = self.slots.iter().position(|s| s.owes_term || s.owes_end || s.says_start) {
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
                Some(_) => DaemonState::Running,
                None if slot.wanted.is_some() => DaemonState::Stopping,
                None if slot.failed => DaemonState::Failed,
                None => DaemonState::Exited,
            };
            let since = process.map(|p| std::time::Duration::from_millis(p.since));
            let truth = (state, process.map(|p| p.pid), since, slot.starts, slot.starts.saturating_sub(1));
            let shown = (view.state, view.pid, view.since, view.generation, view.restarts);
            let ends = self.stopping.is_some() || process.is_some_and(Process::is_being_ended);
            let (last_exit, ready) = (slot.last_exit, slot.ready);
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
        let is_left = |p: &&crate::kernel::Process| p.parent == 0 && matches!(p.life, Life::Zombie(_));
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
                if process.termed.is_some() && !process.continued {
                    broken!(self, "a stopped process gets its TERM", "no CONT for pid {} of daemon {at}", process.pid);
                }
                if let (Some(termed), false) = (process.termed, process.killed) {
                    let deadline = termed.saturating_add(self.slots[at].grace);
                    must_wake = true;
                    if now >= deadline || next.is_none_or(|next| next > deadline) {
                        broken!(
                            self,
                            "a deadline never moves",
                            "pid {} of daemon {at}, due at {deadline}, now {now}",
                            process.pid
                        );
                    }
                }
                continue;
            }
            if wanted.is_none() {
                continue;
            }
            must_wake = true;
            if kernel.has_group(process.pid) {
                self.slots[at].gone = None;
            } else {
                let gone = *self.slots[at].gone.get_or_insert(now);
                if now > gone + LOOK {
                    broken!(
                        self,
                        "a replacement starts when the old group is gone",
                        "daemon {at}, gone since {gone}, now {now}"
                    );
                }
            }
            if process.reaped.is_some_and(|reaped| now >= reaped + CLEARING) {
                broken!(
                    self,
                    "a replacement starts at the latest 2 s after",
                    "daemon {at}, ended at {:?}, now {now}",
                    process.reaped
                );
            }
            if next.is_none_or(|next| next > now + LOOK) {
                broken!(self, "a replacement starts when the old group is gone", "daemon {at} is not looked at again");
            }
        }
        for at in 0..self.requests.len() {
            let Expected::Held(since) = self.requests[at].expected else { continue };
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

    /// Nothing is left to supervise.
    fn is_over(&self) -> bool {
        self.begun && self.slots.iter().all(|s| s.unreaped().is_none() && s.wanted.is_none())
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
        let slot = self.slots.get(at)?;
        Some(slot.unreaped()?.termed?.saturating_add(slot.grace))
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
