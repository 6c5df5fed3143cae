//! Carries out what the supervisor decides: each action is one call to a [`System`], and the answer is an event.
//!
//! init is one system, the simulated kernel of the tests is another: both run what is written here.

use std::collections::VecDeque;

use super::{Action, Disposition, End, Event, KILL, Line, Moment, Supervisor};
use crate::table::Signal;

/// The result of a kill(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It was sent.
    Yes,
    /// There is no such process (ESRCH).
    Gone,
    /// It is another user's (EPERM).
    Refused,
}

/// A child that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The child.
    pub pid: i32,
    /// How it ended.
    pub end: End,
    /// How many OOM kills the memory cgroup has counted since this was last asked; 0 unless the end is signal 9.
    pub oom_kills: u64,
    /// The last line that it printed, if it is a probe; else empty.
    pub words: String,
}

/// What carries out the actions.
pub trait System {
    /// The monotonic clock.
    fn now(&mut self) -> Moment;
    /// Starts a daemon's process without waiting for its exec; the answer is [`Event::Started`] or
    /// [`Event::StartFailed`].
    fn start(&mut self, daemon: usize, generation: u64) -> Event;
    /// Starts a process that asks a daemon whether it is ready, without waiting for it; the answer is
    /// [`Event::ProbeStarted`] or [`Event::ProbeFailed`].
    fn probe(&mut self, daemon: usize) -> Event;
    /// kill(2): a negative pid is a process group.
    fn kill(&mut self, pid: i32, signal: i32) -> Sent;
    /// Whether the exec of a started process worked, if that is known by now and wasn't reported before:
    /// [`Event::Executed`] or [`Event::NotExecuted`]. Once the process has ended it is always known.
    fn exec_outcome(&mut self, daemon: usize, pid: i32) -> Option<Event>;
    /// Sends a signal to a process. If it has left this session by now, it counts as gone.
    fn kill_member(&mut self, sid: i32, pid: i32, signal: i32) -> Sent;
    /// The live processes of a session (no zombies), without its leader. Empty if the leader lives: the old session is
    /// gone then, and its number belongs to a new one.
    fn members(&mut self, sid: i32) -> Vec<i32>;
    /// The next child that has ended. This reaps an orphan. A child of init's own is reaped by [`Self::reap`], since its group must be
    /// killed before.
    fn ended(&mut self, is_own: impl Fn(i32) -> bool) -> Option<Ended>;
    /// Reaps a child that has ended.
    fn reap(&mut self, pid: i32);
    /// What a process would do with a signal.
    fn disposition(&mut self, pid: i32, signal: Signal) -> Disposition;
    /// Writes a line to init's log.
    fn tell(&mut self, line: Line);
    /// Called before each event is handled; only the simulation's judge needs it.
    fn serving(&mut self, _: &Event) {}
    /// Called after each event that may have changed the status.
    fn changed(&mut self, core: &Supervisor);
}

impl Supervisor {
    /// Handles what has happened since the last time. Returns the exit code if nothing is left to supervise.
    ///
    /// Deaths come before anything that might signal: SIGCHLDs coalesce, and a pid is only ours until it is reaped.
    /// The result of an exec comes before the death of its process, and so does what a process has notified: deaths bring
    /// starts, and a new process may get the sender's pid.
    pub fn take(&mut self, system: &mut impl System, events: impl IntoIterator<Item = Event>) -> Option<i32> {
        let is_first =
            |event: &Event| matches!(event, Event::Executed { .. } | Event::NotExecuted { .. } | Event::Notify { .. });
        let (first, events): (Vec<Event>, Vec<Event>) = events.into_iter().partition(is_first);
        let mut exit = None;
        for event in first {
            exit = self.serve(system, event).or(exit);
        }
        exit = self.take_ended(system).or(exit);
        for event in events {
            // An exec that succeeded in time counts, even if its report wasn't read yet.
            if matches!(event, Event::Stop | Event::Signal(_) | Event::Request(_)) {
                for (daemon, pid) in self.starting() {
                    exit = self.take_exec(system, daemon, pid).or(exit);
                }
            }
            exit = self.serve(system, event).or(exit);
        }
        loop {
            exit = self.take_ended(system).or(exit);
            if exit.is_some() || self.next().is_none_or(|at| at > system.now()) {
                return exit;
            }
            exit = self.serve(system, Event::Time);
        }
    }

    /// Handles every child that has ended.
    pub fn take_ended(&mut self, system: &mut impl System) -> Option<i32> {
        let mut exit = None;
        while let Some(Ended { pid, end, oom_kills, words }) = system.ended(|pid| self.is_own(pid)) {
            if let Some((daemon, _)) = self.starting().into_iter().find(|(_, starting)| *starting == pid) {
                exit = self.take_exec(system, daemon, pid).or(exit);
            } else if let Some(daemon) = self.stopping_before_its_exec(pid)
                && let Some(event @ Event::NotExecuted { .. }) = system.exec_outcome(daemon, pid)
            {
                // Otherwise the process's death has closed the pipe, which must not be taken for the exec of a later
                // process with the same pid.
                exit = self.serve(system, event).or(exit);
            }
            exit = self.serve(system, Event::Ended { pid, end, oom_kills, words }).or(exit);
        }
        exit
    }

    fn take_exec(&mut self, system: &mut impl System, daemon: usize, pid: i32) -> Option<i32> {
        let event = system.exec_outcome(daemon, pid)?;
        self.serve(system, event)
    }

    /// Handles an event and everything that follows from it.
    fn serve(&mut self, system: &mut impl System, event: Event) -> Option<i32> {
        let mut exit = None;
        // The end of an orphan alone doesn't change the status, and thousands may end at once.
        let mut may_have_changed = !matches!(&event, Event::Ended { pid, .. } if !self.is_own(*pid));
        let mut queue = VecDeque::from([event]);
        while let Some(event) = queue.pop_front() {
            system.serving(&event);
            for action in self.handle(system.now(), event) {
                may_have_changed |= !matches!(action, Action::Tell(_));
                match action {
                    Action::Start(daemon) => {
                        let generation = self.view(daemon).map_or(0, |v| v.generation);
                        queue.push_back(system.start(daemon, generation));
                    }
                    Action::Kill { pid, signal } => {
                        // If it is gone already, its end will be reported.
                        if system.kill(pid, signal) == Sent::Refused {
                            queue.push_back(Event::NotSent { pid, signal });
                        }
                    }
                    Action::KillGroup(pgid) => {
                        system.kill(-pgid, KILL);
                    }
                    Action::Reap(pid) => system.reap(pid),
                    Action::KillMember { sid, pid, signal } => {
                        system.kill_member(sid, pid, signal);
                    }
                    Action::KillMembers { daemon, sid, pids } => {
                        let (mut killed, mut refused) = (Vec::new(), Vec::new());
                        for pid in pids {
                            match system.kill_member(sid, pid, KILL) {
                                Sent::Yes => killed.push(pid),
                                Sent::Refused => refused.push(pid),
                                Sent::Gone => {}
                            }
                        }
                        queue.push_back(Event::MembersKilled { daemon, sid, killed, refused });
                    }
                    Action::LookAtMembers { daemon, sid } => {
                        let pids = system.members(sid);
                        queue.push_back(Event::Members { daemon, sid, pids });
                    }
                    Action::LookAtMask { daemon, pid, signal } => {
                        let disposition = system.disposition(pid, signal);
                        queue.push_back(Event::Mask { daemon, pid, signal, disposition });
                    }
                    Action::Probe(daemon) => queue.push_back(system.probe(daemon)),
                    Action::Tell(line) => system.tell(line),
                    Action::Exit(code) => exit = Some(code),
                }
            }
        }
        if may_have_changed {
            system.changed(self);
        }
        exit
    }
}
