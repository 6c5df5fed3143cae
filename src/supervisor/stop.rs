//! A stop of one daemon: first of its process, then of what else is left of its session.

use std::time::Duration;

use super::turn::Turn;
use super::{Action, CONT, Line, Moment};
use crate::table::Signal;

/// How long init waits for a process to end after it has sent SIGKILL.
const GIVE_UP: Duration = Duration::from_secs(2);
/// The first and the longest pause between two looks at a session; it doubles each time.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LONGEST_LOOK: Duration = Duration::from_millis(40);
/// How often a stop logs which processes it waits for.
const REPORT: Duration = Duration::from_secs(3);
/// How many pids a log line lists.
const NAMED: usize = 10;

/// The daemon that is being stopped.
#[derive(Clone, Copy)]
pub(super) struct Who<'a> {
    pub(super) daemon: usize,
    pub(super) name: &'a str,
    /// The signal that asks it to stop.
    pub(super) signal: Signal,
}

/// The phase that a stop has reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stop {
    pub(super) phase: Phase,
    pub(super) after: After,
    /// When it began.
    since: Moment,
    /// When it next logs which processes it waits for.
    pub(super) report: Moment,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Phase {
    /// In a shutdown, it runs on until its dependents have ended, at the latest until `ask`.
    Spared { ask: Moment, deadline: Moment },
    /// What is left at the deadline is killed.
    Asked { deadline: Moment },
    /// Init stops waiting at `give_up`, even if processes are left. `asked`: its stop signal was sent before the KILL.
    Killed { asked: bool, give_up: Moment },
}

/// What follows a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    Replacement,
    /// Nothing: a request stopped it.
    Stopped,
    /// Nothing: a shutdown ended it.
    Nothing,
    /// It ended by itself.
    Death(Fate),
}

/// What becomes of a daemon that has ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its policy starts it again at this time.
    Backoff(Moment),
    Exited,
    Failed,
    Done,
}

/// A session whose leader has ended.
#[derive(Debug)]
pub(super) struct Clearing {
    pub(super) sid: i32,
    /// Until its leader is reaped, the numbers of session and group can't have been given to anybody else.
    pub(super) is_leader_reaped: bool,
    pub(super) stop: Stop,
    /// The processes found at the last look, without those whose end init has seen since.
    pub(super) left: Vec<i32>,
    /// The processes that were sent the signal of this phase, in order.
    signalled: Vec<i32>,
    /// `None`: none was killed. Otherwise, how many were killed after the log named the first ones.
    more_killed: Option<usize>,
    pub(super) look: Moment,
    pause: Duration,
}

impl Phase {
    /// The phase after a SIGKILL at `now`.
    pub(super) fn killed(now: Moment, asked: bool) -> Self {
        Self::Killed { asked, give_up: now + GIVE_UP }
    }

    pub(super) fn was_asked(self) -> bool {
        matches!(self, Self::Asked { .. } | Self::Killed { asked: true, .. })
    }

    pub(super) fn due(self) -> Moment {
        match self {
            Self::Spared { ask, .. } => ask,
            Self::Asked { deadline } => deadline,
            Self::Killed { give_up, .. } => give_up,
        }
    }
}

impl Stop {
    pub(super) fn new(now: Moment, phase: Phase, after: After) -> Self {
        Self { phase, after, since: now, report: now + REPORT }
    }

    /// Switches to SIGKILL for everything that is left.
    pub(super) fn killed(self, now: Moment) -> Self {
        Self { phase: Phase::killed(now, self.phase.was_asked()), ..self }
    }

    pub(super) fn move_by(&mut self, lost: Duration) {
        match &mut self.phase {
            Phase::Spared { ask, deadline } => {
                *ask += lost;
                *deadline += lost;
            }
            Phase::Asked { deadline } => *deadline += lost,
            Phase::Killed { give_up, .. } => *give_up += lost,
        }
        self.report += lost;
    }

    /// Logs what a long stop is still waiting for.
    pub(super) fn report(&mut self, who: Who<'_>, whom: &str, turn: &mut Turn<'_>) {
        if self.report > turn.now {
            return;
        }
        self.report = turn.now + REPORT;
        let seconds = |d: Duration| format!("{:.0} s", d.as_secs_f64());
        let waits = seconds(turn.now.saturating_sub(self.since));
        let left = seconds(self.phase.due().saturating_sub(turn.now));
        let next = match self.phase {
            Phase::Spared { .. } => format!("its stop signal follows in {left}, or once its dependents have ended"),
            Phase::Asked { .. } => format!("KILL follows in {left}"),
            Phase::Killed { .. } => format!("it was killed; init continues without it in {left}"),
        };
        let text = format!("still waiting for {} to end after {waits}: {whom}; {next}", who.name);
        turn.tell(Line::info(text).of(who.daemon));
    }
}

impl Clearing {
    pub(super) fn new(sid: i32, is_leader_reaped: bool, stop: Stop, now: Moment) -> Self {
        let (left, signalled) = (Vec::new(), Vec::new());
        Self { sid, is_leader_reaped, stop, left, signalled, more_killed: None, look: now, pause: FIRST_LOOK }
    }

    /// Sends the members their signals. True once there is nobody to wait for any more.
    pub(super) fn is_done(&mut self, who: Who<'_>, mut pids: Vec<i32>, turn: &mut Turn<'_>) -> bool {
        // There may be thousands of pids, and PID 1 has other things to do, so they are looked up by binary search.
        pids.sort_unstable();
        let is_first = !std::mem::replace(&mut self.is_leader_reaped, true);
        if let Phase::Asked { deadline } = self.stop.phase
            && deadline <= turn.now
            && !pids.is_empty()
        {
            self.stop.phase = Phase::killed(turn.now, true);
            self.signalled.clear();
        }
        // A pid that is gone may be reused by another process.
        self.signalled.retain(|pid| pids.binary_search(pid).is_ok());
        let new: Vec<i32> = pids.iter().copied().filter(|pid| self.signalled.binary_search(pid).is_err()).collect();
        match self.stop.phase {
            Phase::Asked { .. } if !new.is_empty() => self.ask(who, &new, is_first, turn),
            Phase::Asked { .. } | Phase::Spared { .. } => {}
            Phase::Killed { .. } => self.kill(who, &new, is_first, turn),
        }
        if is_first {
            // None was seen. A process that was forked during the look is killed with the group, if it is in it.
            if pids.is_empty() && matches!(self.stop.phase, Phase::Asked { .. }) {
                turn.act(Action::KillGroup(self.sid));
            }
            turn.act(Action::Reap(self.sid));
        }
        self.signalled.extend(new);
        self.signalled.sort_unstable();
        let is_given_up = matches!(self.stop.phase, Phase::Killed { give_up, .. } if give_up <= turn.now);
        if pids.is_empty() || is_given_up {
            tell_of_more(who, self.more_killed.unwrap_or(0), turn);
            if !pids.is_empty() {
                let text = format!(
                    "{} of {} still not gone 2 s after SIGKILL; continuing without waiting",
                    named(&pids),
                    who.name
                );
                turn.tell(Line::warn(text).of(who.daemon));
            }
            return true;
        }
        self.left = pids;
        self.look = self.stop.phase.due().min(turn.now + self.pause);
        self.pause = LONGEST_LOOK.min(self.pause * 2);
        false
    }

    fn ask(&mut self, who: Who<'_>, new: &[i32], is_first: bool, turn: &mut Turn<'_>) {
        if is_first {
            let text = format!("forwarding SIG{} to what is left of {}: {}", who.signal, who.name, named(new));
            turn.tell(Line::info(text).of(who.daemon));
        }
        for pid in new {
            turn.act(Action::KillMember { sid: self.sid, pid: *pid, signal: who.signal.number() });
            turn.act(Action::KillMember { sid: self.sid, pid: *pid, signal: CONT });
        }
    }

    /// An orphan has ended, which may be the last process that this stop waits for.
    pub(super) fn orphan_ended(&mut self, pid: i32, now: Moment) {
        let count = self.left.len();
        self.left.retain(|left| *left != pid);
        self.signalled.retain(|signalled| *signalled != pid);
        if count > 0 && self.left.is_empty() {
            self.look = now;
        }
    }

    fn kill(&mut self, who: Who<'_>, new: &[i32], is_first: bool, turn: &mut Turn<'_>) {
        if is_first || !new.is_empty() {
            turn.act(Action::KillGroup(self.sid));
        }
        if new.is_empty() {
            return;
        }
        turn.act(Action::KillMembers { daemon: who.daemon, sid: self.sid, pids: new.to_vec() });
        self.pause = FIRST_LOOK;
    }

    /// Logs that these were sent SIGKILL.
    pub(super) fn were_killed(&mut self, who: Who<'_>, killed: &[i32], turn: &mut Turn<'_>) {
        if let Some(more) = &mut self.more_killed {
            *more += killed.len();
        } else if !killed.is_empty() {
            self.more_killed = Some(0);
            let were = if killed.len() == 1 { "was left and was killed" } else { "were left and were killed" };
            turn.tell(Line::warn(format!("{} of {} {were}", named(killed), who.name)).of(who.daemon));
        }
    }
}

/// Logs how many processes of a daemon appeared, and were killed, after the others.
pub(super) fn tell_of_more(who: Who<'_>, killed: usize, turn: &mut Turn<'_>) {
    if killed > 0 {
        let were = if killed == 1 { "was" } else { "were" };
        let text = format!("{} of {} appeared meanwhile and {were} killed too", processes(killed), who.name);
        turn.tell(Line::warn(text).of(who.daemon));
    }
}

pub(super) fn processes(count: usize) -> String {
    if count == 1 { "1 process".to_owned() } else { format!("{count} processes") }
}

/// Their number and their pids.
pub(super) fn named(pids: &[i32]) -> String {
    let names: Vec<String> = pids.iter().take(NAMED).map(ToString::to_string).collect();
    let more = if pids.len() > NAMED { ", …" } else { "" };
    format!("{} (pid {}{more})", processes(pids.len()), names.join(", "))
}
