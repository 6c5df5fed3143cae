//! Bugs that real inits shipped, put between the core and the kernel, to see that they are found.

use sidecar::request::Verb;
use sidecar::supervisor::{Disposition, End, Event};
use sidecar::table::{Action, Signal, Table};

use crate::judge::Judge;
use crate::kernel::{CONT, HUP, KILL, Kernel, Millis, TERM};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    OneWaitForOneSigchld,
    GroupKilledAfterTheReap,
    MaskInherited,
    DeadlineMovedByASecondTerm,
    KillTimerOfAnEarlierStop,
    RestartWaitsInPlace,
    StartDuringShutdown,
    ForwardBeforeTheHandler,
    StalePidSignalled,
    StoppedProcessNeverGetsItsTerm,
    ReplacementMeetsTheOldWorker,
    PageReadHalfWritten,
    ForkTakenForAHandler,
    MembersKilledUnasked,
    MemberOutsideTheGroupForgotten,
    ExecThatNeverComesBlocksAShutdown,
    TracedChildWaitedForForEver,
    GraceRunsOnInAPause,
    DelayResetByACrash,
    PolicyStartsAStoppedDaemon,
    FailedOneshotTakenForReady,
    PolicyInAShutdown,
    ProbeLeftRunning,
    ProbeThatTakesForEver,
    ProbesPileUp,
    ReadyAndNobodySees,
    EssentialsCodeHidden,
    DependencyStoppedFirst,
    HeldSignalOutlivesItsProcess,
    RequestForgotten,
    AlwaysTerm,
}

pub const ALL: [Bug; 31] = [
    Bug::OneWaitForOneSigchld,
    Bug::GroupKilledAfterTheReap,
    Bug::MaskInherited,
    Bug::DeadlineMovedByASecondTerm,
    Bug::KillTimerOfAnEarlierStop,
    Bug::RestartWaitsInPlace,
    Bug::StartDuringShutdown,
    Bug::ForwardBeforeTheHandler,
    Bug::StalePidSignalled,
    Bug::StoppedProcessNeverGetsItsTerm,
    Bug::ReplacementMeetsTheOldWorker,
    Bug::PageReadHalfWritten,
    Bug::ForkTakenForAHandler,
    Bug::MembersKilledUnasked,
    Bug::MemberOutsideTheGroupForgotten,
    Bug::ExecThatNeverComesBlocksAShutdown,
    Bug::TracedChildWaitedForForEver,
    Bug::GraceRunsOnInAPause,
    Bug::DelayResetByACrash,
    Bug::PolicyStartsAStoppedDaemon,
    Bug::FailedOneshotTakenForReady,
    Bug::PolicyInAShutdown,
    Bug::ProbeLeftRunning,
    Bug::ProbeThatTakesForEver,
    Bug::ProbesPileUp,
    Bug::ReadyAndNobodySees,
    Bug::EssentialsCodeHidden,
    Bug::DependencyStoppedFirst,
    Bug::HeldSignalOutlivesItsProcess,
    Bug::RequestForgotten,
    Bug::AlwaysTerm,
];

/// The bug that is planted, and what it needs to remember.
#[derive(Debug)]
pub struct Planted {
    bug: Option<Bug>,
    /// A SIGCHLD was taken in, and no wait was made for it.
    pub sigchld: bool,
    restarts: Vec<(Signal, usize)>,
    /// By daemon: its first process and its last.
    pids: Vec<(i32, i32)>,
    to_kill: Option<i32>,
    has_stop: bool,
    moved_to: Millis,
    /// A daemon, its process, and when that is to be killed.
    timers: Vec<(usize, i32, Millis)>,
    has_started: bool,
    /// By daemon: when it is started although nobody asked for that.
    starts: Vec<Option<Millis>>,
    /// A daemon, its process that has ended, and a signal that was held for it.
    kept: Vec<(usize, i32, i32)>,
}

impl Planted {
    pub fn new(bug: Option<Bug>, table: &Table) -> Self {
        let restarts = (0..).zip(&table.wiring).filter(|(_, w)| w.action == Action::Restart);
        Self {
            bug,
            sigchld: true,
            restarts: restarts.map(|(i, w)| (w.signal, i)).collect(),
            pids: vec![(0, 0); table.daemons.len()],
            to_kill: None,
            has_stop: false,
            moved_to: 0,
            timers: Vec::new(),
            has_started: false,
            starts: vec![None; table.daemons.len()],
            kept: Vec::new(),
        }
    }

    fn is(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    pub fn waits(&mut self) -> bool {
        !self.is(Bug::OneWaitForOneSigchld) || std::mem::take(&mut self.sigchld)
    }

    pub fn waits_in_place(&self, events: &[Event]) -> bool {
        self.is(Bug::RestartWaitsInPlace) && events.iter().any(|e| matches!(e, Event::Signal(_)))
    }

    /// The wire of a restart.
    pub fn wire(&self, signal: Signal) -> Option<usize> {
        self.restarts.iter().find(|(s, _)| *s == signal).map(|(_, wire)| *wire)
    }

    /// What init sees of those that are left of a session.
    pub fn members(&self, kernel: &Kernel, sid: i32, all: Vec<i32>) -> Vec<i32> {
        match self.bug {
            // It doesn't look again.
            Some(Bug::ReplacementMeetsTheOldWorker) if kernel.by_pid(sid).is_none() => Vec::new(),
            Some(Bug::MemberOutsideTheGroupForgotten) => {
                let is_in_group = |pid: &i32| kernel.processes.iter().any(|p| p.pid == *pid && p.pgid == sid);
                all.into_iter().filter(is_in_group).collect()
            }
            _ => all,
        }
    }

    /// The signal that a member gets.
    pub fn kill_member(&self, signal: i32) -> i32 {
        if signal != CONT && self.is(Bug::MembersKilledUnasked) { KILL } else { signal }
    }

    /// It sees nothing of a pause.
    pub fn runs_in_a_pause(&self) -> bool {
        self.is(Bug::GraceRunsOnInAPause)
    }

    /// It waits in place for the end of whom it has killed.
    pub fn waits_for_the_traced(&self) -> bool {
        self.is(Bug::TracedChildWaitedForForEver)
    }

    /// Requests that nobody made, and it serves.
    pub fn believes(&mut self, kernel: &Kernel, judge: &Judge) -> Vec<(usize, Verb)> {
        let mut due = Vec::new();
        for daemon in 0..judge.daemons() {
            let is_meant = match self.bug {
                Some(Bug::DelayResetByACrash) => judge.is_in_backoff(daemon),
                Some(Bug::PolicyStartsAStoppedDaemon) => judge.is_stopped(daemon) && judge.pid(daemon).is_none(),
                _ => return due,
            };
            self.starts[daemon] = self.starts[daemon].or(Some(kernel.now + 100)).filter(|_| is_meant);
            if self.starts[daemon].is_some_and(|at| at <= kernel.now) {
                self.starts[daemon] = None;
                due.push((daemon, Verb::Start));
            }
        }
        due
    }

    /// What it takes for the end of a child.
    pub fn ended(&self, judge: &Judge, pid: i32, end: End) -> End {
        let is_probe = (0..judge.daemons()).any(|daemon| judge.probe_of(daemon) == Some(pid));
        let is_oneshot = (0..judge.daemons()).any(|daemon| judge.pid(daemon) == Some(pid) && judge.is_oneshot(daemon));
        match (self.bug, end) {
            (Some(Bug::FailedOneshotTakenForReady), End::Code(_)) if is_oneshot => End::Code(0),
            (Some(Bug::ReadyAndNobodySees), End::Code(0)) if is_probe => End::Code(1),
            _ => end,
        }
    }

    /// The code that it exits with.
    pub fn exit(&self, code: i32, judge: &Judge) -> i32 {
        if self.is(Bug::EssentialsCodeHidden) { judge.highest_code().unwrap_or(code) } else { code }
    }

    pub fn loses_request(&self, nth: u64) -> bool {
        self.is(Bug::RequestForgotten) && nth.is_multiple_of(3)
    }

    /// How many probes it starts at once.
    pub fn probes_at_once(&self) -> u32 {
        if self.is(Bug::ProbesPileUp) { 2 } else { 1 }
    }

    pub fn mask(&self) -> u64 {
        if self.is(Bug::MaskInherited) { u64::MAX } else { 0 }
    }

    pub fn tears_pages(&self) -> bool {
        self.is(Bug::PageReadHalfWritten)
    }

    pub fn disposition(&self, is: Disposition) -> Disposition {
        let is_forked = is == Disposition::Blocked && self.is(Bug::ForkTakenForAHandler);
        if is_forked || self.is(Bug::ForwardBeforeTheHandler) { Disposition::Taken } else { is }
    }

    pub fn serving(&mut self, event: &Event, kernel: &Kernel, judge: &Judge) {
        if let Event::Ended { pid, .. } = event
            && self.is(Bug::HeldSignalOutlivesItsProcess)
        {
            let of = (0..judge.daemons()).find(|daemon| judge.pid(*daemon) == Some(*pid));
            self.kept.extend(of.and_then(|daemon| Some((daemon, *pid, judge.held(daemon, HUP)?))));
        }
        let is_second = *event == Event::Stop && std::mem::replace(&mut self.has_stop, true);
        if is_second && self.is(Bug::DeadlineMovedByASecondTerm) {
            self.moved_to = (0..judge.daemons()).map(|d| kernel.now.saturating_add(judge.grace(d))).max().unwrap_or(0);
        }
    }

    pub fn started(&mut self, daemon: usize, pid: i32) {
        if let Some((first, last)) = self.pids.get_mut(daemon) {
            *last = pid;
            if *first == 0 {
                *first = pid;
            }
        }
    }

    /// What becomes of a call of kill(2).
    pub fn kill(&mut self, pid: i32, signal: i32, kernel: &Kernel, judge: &Judge) -> Option<(i32, i32)> {
        let daemon = (0..judge.daemons()).find(|d| judge.pid(*d) == Some(pid));
        let is_starting = kernel.processes.iter().any(|p| p.pid == pid && !p.executed);
        match (self.bug, signal) {
            (Some(Bug::ExecThatNeverComesBlocksAShutdown), _) if is_starting => None,
            (Some(Bug::GroupKilledAfterTheReap), KILL) if pid < 0 => {
                self.to_kill = Some(-pid);
                None
            }
            (Some(Bug::StoppedProcessNeverGetsItsTerm), CONT) => None,
            (Some(Bug::ProbeLeftRunning), KILL) if judge.live_probe(kernel, pid.abs()) == Some(false) => None,
            (Some(Bug::ProbeThatTakesForEver), KILL) if judge.live_probe(kernel, pid.abs()) == Some(true) => None,
            (Some(Bug::AlwaysTerm), _) if daemon.is_some_and(|d| judge.stop_signal(d) == signal) => Some((pid, TERM)),
            (Some(Bug::DeadlineMovedByASecondTerm), KILL) if pid > 0 && kernel.now < self.moved_to => {
                self.timers.push((daemon.unwrap_or(0), 0, self.moved_to));
                None
            }
            (Some(Bug::KillTimerOfAnEarlierStop), TERM) => {
                if let Some(daemon) = daemon {
                    self.timers.push((daemon, pid, kernel.now.saturating_add(judge.grace(daemon))));
                }
                Some((pid, signal))
            }
            (Some(Bug::StalePidSignalled), TERM | CONT) => {
                let first = self.pids.iter().find(|(_, last)| *last == pid).map_or(pid, |(first, _)| *first);
                Some((first, signal))
            }
            _ => Some((pid, signal)),
        }
    }

    /// What is sent once a process was reaped.
    pub fn reaped(&mut self, pid: i32) -> Option<(i32, i32)> {
        (self.to_kill.take()? == pid).then_some((-pid, KILL))
    }

    pub fn starts_in_shutdown(&mut self, judge: &Judge, reaped: Option<usize>) -> Option<usize> {
        if self.is(Bug::PolicyInAShutdown) {
            return reaped.filter(|_| judge.is_stopping());
        }
        let starts = self.is(Bug::StartDuringShutdown) && judge.is_stopping() && !self.has_started;
        self.has_started |= starts;
        starts.then_some(0)
    }

    pub fn next(&self) -> Option<Millis> {
        self.timers.iter().map(|(_, _, at)| *at).chain(self.starts.iter().flatten().copied()).min()
    }

    /// Timers that the core knows nothing of: they ask what state the daemon is in, not which stop they are for.
    pub fn before_work(&mut self, kernel: &mut Kernel, judge: &mut Judge) {
        for (daemon, of, signal) in std::mem::take(&mut self.kept) {
            match judge.pid(daemon) {
                Some(pid) if pid != of => {
                    judge.kill(kernel, pid, signal);
                    kernel.kill(pid, signal);
                }
                _ => self.kept.push((daemon, of, signal)),
            }
        }
        if self.is(Bug::DependencyStoppedFirst) && judge.is_stopping() {
            for daemon in 0..judge.daemons() {
                if let Some(pid) = judge.pid(daemon).filter(|_| !judge.is_being_ended(daemon)) {
                    judge.kill(kernel, pid, judge.stop_signal(daemon));
                    kernel.kill(pid, judge.stop_signal(daemon));
                }
            }
        }
        while let Some(at) = self.timers.iter().position(|(_, _, at)| *at <= kernel.now) {
            let (daemon, of, _) = self.timers.remove(at);
            let due = judge.due(daemon).is_some_and(|due| due <= kernel.now);
            if let Some(pid) = judge.pid(daemon).filter(|pid| *pid != of && !due && judge.is_being_ended(daemon)) {
                judge.kill(kernel, pid, KILL);
                kernel.kill(pid, KILL);
            }
        }
    }
}
