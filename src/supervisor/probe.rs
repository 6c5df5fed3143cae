//! Whether a daemon is ready. init starts a process that finds out, and does so only while another daemon waits for the answer.

use std::time::Duration;

use super::turn::Turn;
use super::{Action, End, KILL, Line, Moment};

/// A probe that takes longer is killed, and counts as failed.
const LONGEST: Duration = Duration::from_secs(10);
/// The first and the longest pause between two probes; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The probes of one daemon. There is at most one process at a time.
#[derive(Debug)]
pub(super) struct Probes {
    daemon: usize,
    state: State,
    /// The pause before the next one.
    pause: Duration,
    /// Why the last one failed.
    why: Option<String>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// No probe is needed: nobody waits for the daemon, or it doesn't run.
    Idle,
    /// The answer to [`Action::Probe`] is due.
    Forking,
    Running {
        pid: i32,
        until: Moment,
    },
    /// It was killed, and its end is still to come. Its answer doesn't count.
    Killed {
        pid: i32,
        /// It was killed since it took too long, and somebody still needs an answer.
        timed_out: bool,
    },
    Paused(Moment),
}

impl Probes {
    pub(super) fn new(daemon: usize) -> Self {
        Self { daemon, state: State::Idle, pause: FIRST_PAUSE, why: None }
    }

    pub(super) fn pid(&self) -> Option<i32> {
        match self.state {
            State::Running { pid, .. } | State::Killed { pid, .. } => Some(pid),
            _ => None,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// Why the daemon isn't ready.
    pub(super) fn why(&self) -> &str {
        self.why.as_deref().unwrap_or("not probed yet")
    }

    pub(super) fn next(&self) -> Option<Moment> {
        match self.state {
            State::Running { until, .. } | State::Paused(until) => Some(until),
            _ => None,
        }
    }

    /// Moves deadlines: init could not run for this long, and neither could the probe.
    pub(super) fn move_deadlines(&mut self, lost: Duration) {
        if let State::Running { until, .. } = &mut self.state {
            *until += lost;
        }
    }

    /// Begins to probe the daemon's process, unless that is under way.
    pub(super) fn want(&mut self, turn: &mut Turn<'_>) {
        if matches!(self.state, State::Idle) {
            (self.pause, self.why) = (FIRST_PAUSE, None);
            self.begin(turn);
        }
    }

    /// Ends the probes: nobody needs an answer any more, or the daemon's process has ended.
    pub(super) fn want_none(&mut self, turn: &mut Turn<'_>) {
        self.state = match self.state {
            State::Running { pid, .. } => {
                kill(pid, turn);
                State::Killed { pid, timed_out: false }
            }
            State::Killed { pid, .. } => State::Killed { pid, timed_out: false },
            State::Idle | State::Forking | State::Paused(_) => State::Idle,
        };
    }

    /// Forgets the probe, since a shutdown doesn't wait for it. From now on its end is handled like an orphan's.
    pub(super) fn forget(&mut self, turn: &mut Turn<'_>) {
        if let State::Running { pid, .. } | State::Killed { pid, .. } = self.state {
            kill(pid, turn);
        }
        self.state = State::Idle;
    }

    fn begin(&mut self, turn: &mut Turn<'_>) {
        self.state = State::Forking;
        turn.act(Action::Probe(self.daemon));
    }

    pub(super) fn started(&mut self, pid: i32, turn: &mut Turn<'_>) {
        if matches!(self.state, State::Forking) {
            self.state = State::Running { pid, until: turn.now + LONGEST };
        } else {
            // Nobody needs it any more.
            kill(pid, turn);
            if matches!(self.state, State::Idle) && !turn.is_stopping {
                self.state = State::Killed { pid, timed_out: false };
            }
        }
    }

    pub(super) fn failed_to_start(&mut self, name: &str, why: String, turn: &mut Turn<'_>) {
        if matches!(self.state, State::Forking) {
            self.fail(name, why, turn);
        }
    }

    /// The probe has ended and isn't reaped yet. Returns whether the daemon is ready.
    pub(super) fn ended(&mut self, name: &str, end: End, words: String, turn: &mut Turn<'_>) -> bool {
        let Some(pid) = self.pid() else { return false };
        turn.act(Action::KillGroup(pid));
        turn.act(Action::Reap(pid));
        match self.state {
            State::Running { .. } if end == End::Code(0) => {
                self.state = State::Idle;
                return true;
            }
            State::Running { .. } => {
                let why = if words.is_empty() { format!("probe {end}") } else { words };
                self.fail(name, why, turn);
            }
            State::Killed { timed_out: true, .. } => self.wait(turn),
            _ => self.state = State::Idle,
        }
        false
    }

    fn fail(&mut self, name: &str, why: String, turn: &mut Turn<'_>) {
        self.tell(name, why, turn);
        self.wait(turn);
    }

    fn wait(&mut self, turn: &Turn<'_>) {
        self.state = State::Paused(turn.now + self.pause);
        self.pause = LONGEST_PAUSE.min(self.pause * 2);
    }

    /// Logs why the daemon isn't ready: each reason once, not at each probe.
    fn tell(&mut self, name: &str, why: String, turn: &mut Turn<'_>) {
        if self.why.as_ref() != Some(&why) {
            turn.tell(Line::info(format!("{name} isn't ready yet: {why}")).of(self.daemon));
            self.why = Some(why);
        }
    }

    pub(super) fn time(&mut self, name: &str, turn: &mut Turn<'_>) {
        match self.state {
            State::Paused(until) if until <= turn.now => self.begin(turn),
            State::Running { pid, until } if until <= turn.now => {
                self.tell(name, "probe timed out".to_owned(), turn);
                kill(pid, turn);
                self.state = State::Killed { pid, timed_out: true };
            }
            _ => {}
        }
    }
}

/// Kills the probe: its group, and the process itself, since right after its fork it doesn't lead the group yet.
fn kill(pid: i32, turn: &mut Turn<'_>) {
    turn.act(Action::Kill { pid, signal: KILL });
    turn.act(Action::KillGroup(pid));
}
