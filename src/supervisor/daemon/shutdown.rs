//! A daemon's part in a shutdown.

use std::time::Duration;

use super::{Daemon, Exec, Process, State, ask};
use crate::status::Outcome;
use crate::supervisor::Line;
use crate::supervisor::bundle::STOPPING;
use crate::supervisor::stop::{After, Clearing, Fate, Phase, Stop};
use crate::supervisor::turn::Turn;

impl Daemon {
    /// Begins its part in a shutdown. `dependent` names one that has to end before this daemon is asked to stop.
    pub(in crate::supervisor) fn shut_down(&mut self, dependent: Option<&str>, turn: &mut Turn<'_>) {
        self.drop_held(STOPPING, turn);
        self.probes.forget(turn);
        turn.restart_ends(self.index, Outcome::Refused);
        self.requests.starts_are_refused(STOPPING);
        match self.state {
            State::Starting(..) | State::Running(_) => {
                if let Some(dependent) = dependent.filter(|_| !self.grace.is_zero()) {
                    self.spare(dependent, turn);
                } else {
                    self.tell_of_stop(turn);
                    self.ask_to_end(After::Nothing, turn);
                }
            }
            State::Waiting | State::Backoff(_) => self.state = State::Exited,
            State::Stopping(.., ref mut stop) | State::Clearing(Clearing { ref mut stop, .. }) => {
                match stop.after {
                    After::Death(Fate::Backoff(_)) => stop.after = After::Death(Fate::Exited),
                    After::Replacement => stop.after = After::Nothing,
                    _ => {}
                }
                if self.is_being_ended() {
                    let text = format!("{} is already stopping; its deadline doesn't change", self.name);
                    turn.tell(Line::info(text).of(self.index));
                }
            }
            _ => {}
        }
    }

    fn tell_of_stop(&self, turn: &mut Turn<'_>) {
        let text = format!("forwarding SIG{} to {}", self.stop_signal, self.name);
        turn.tell(Line { pid: self.pid(), ..Line::info(text).of(self.index) });
    }

    /// Lets it run on while its dependents end.
    fn spare(&mut self, dependent: &str, turn: &mut Turn<'_>) {
        let (State::Starting(process, _) | State::Running(process)) = self.state else { return };
        let exec = if let State::Starting(_, exec) = self.state { exec } else { Exec::Done };
        // In milliseconds, as a table states it.
        let half = Duration::from_millis(u64::try_from(self.grace.as_millis().div_ceil(2)).unwrap_or(u64::MAX));
        let (ask, deadline) = (turn.now + half, turn.now + self.grace);
        let text = format!(
            "{} is asked to stop once its dependents have ended ({dependent} runs), in {:.1} s at the latest",
            self.name,
            half.as_secs_f64()
        );
        turn.tell(Line::info(text).of(self.index).pid(process.pid));
        self.state =
            State::Stopping(process, exec, Stop::new(turn.now, Phase::Spared { ask, deadline }, After::Nothing));
    }

    /// Whether the shutdown hasn't asked it to stop yet.
    pub(in crate::supervisor) fn is_spared(&self) -> bool {
        self.stop().is_some_and(|stop| matches!(stop.phase, Phase::Spared { .. }))
    }

    /// Asks it to stop: its dependents have ended, or their time is up.
    pub(in crate::supervisor) fn spare_no_more(&mut self, turn: &mut Turn<'_>) {
        if let State::Stopping(Process { pid, .. }, _, Stop { phase, .. }) = &mut self.state
            && let Phase::Spared { deadline, .. } = *phase
        {
            *phase = Phase::Asked { deadline };
            ask(*pid, self.stop_signal, turn);
            self.tell_of_stop(turn);
        }
    }
}
