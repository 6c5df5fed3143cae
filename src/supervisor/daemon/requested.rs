//! Requests to a daemon, and restarts by a signal.

use super::{Cause, Daemon, Process, State};
use crate::request::Verb;
use crate::status::{Outcome, RequestOutcome};
use crate::supervisor::Line;
use crate::supervisor::policy::Delay;
use crate::supervisor::stop::{After, Clearing, Fate};
use crate::supervisor::turn::Turn;

impl Daemon {
    /// A restart, by a signal or on request.
    pub(in crate::supervisor) fn restart(&mut self, turn: &mut Turn<'_>) {
        if let State::Starting(Process { pid, .. }, _) | State::Running(Process { pid, .. }) = self.state {
            self.delay = Delay::first();
            // A process that hasn't executed its command yet is replaced too: the caller must see a later generation, and that exec may
            // hang.
            turn.tell(Line::info(format!("restarting {}", self.name)).of(self.index).pid(pid));
            self.ask_to_end(After::Replacement, turn);
        } else {
            self.bring_up(turn);
        }
    }

    /// Starts it unless it has a process that nobody has asked to end.
    fn bring_up(&mut self, turn: &mut Turn<'_>) {
        self.delay = Delay::first();
        match &mut self.state {
            // The start that is already due does what was asked for.
            State::Fresh | State::Forking | State::Starting(..) | State::Running(_) => {}
            State::Stopping(.., stop) => stop.after = After::Replacement,
            State::Clearing(clearing) => {
                clearing.stop.after = After::Replacement;
                clearing.look = turn.now;
            }
            State::Waiting | State::Backoff(_) | State::Exited | State::Failed | State::Stopped | State::Done => {
                self.start(Cause::Asked, turn);
            }
        }
        self.requests.stop_ends(RequestOutcome::Superseded);
    }

    /// A stop on request. Returns its outcome if there is nothing to wait for.
    fn stop_on_request(&mut self, turn: &mut Turn<'_>) -> Option<RequestOutcome> {
        match &mut self.state {
            State::Starting(Process { pid, .. }, _) | State::Running(Process { pid, .. }) => {
                turn.tell(Line::info(format!("stopping {}", self.name)).of(self.index).pid(*pid));
                self.ask_to_end(After::Stopped, turn);
            }
            State::Stopping(.., stop) => stop.after = After::Stopped,
            State::Clearing(Clearing { stop, .. }) => match stop.after {
                After::Death(fate) if !matches!(fate, Fate::Backoff(_)) => return Some(RequestOutcome::NotRunning),
                _ => stop.after = After::Stopped,
            },
            State::Waiting | State::Backoff(_) => {
                self.state = State::Stopped;
                return Some(RequestOutcome::Stopped);
            }
            State::Fresh | State::Forking => return Some(RequestOutcome::Refused),
            State::Exited | State::Failed | State::Stopped | State::Done => return Some(RequestOutcome::NotRunning),
        }
        turn.restart_ends(self.index, Outcome::Refused);
        self.requests.start_ends(RequestOutcome::Superseded);
        None
    }

    /// Handles a request. If nothing is done, the error says why.
    pub(in crate::supervisor) fn request(
        &mut self,
        id: String,
        verb: Verb,
        refused: Option<&'static str>,
        turn: &mut Turn<'_>,
    ) -> Result<(), &'static str> {
        self.requests.push(id, verb);
        let served = refused.map_or_else(|| self.serve(verb, turn), Err);
        if let Err(why) = served {
            self.requests.refuse(why);
        }
        served
    }

    fn serve(&mut self, verb: Verb, turn: &mut Turn<'_>) -> Result<(), &'static str> {
        match (verb, &self.state) {
            (Verb::Restart, _) => self.restart(turn),
            (Verb::Start, State::Running(_)) => {
                self.requests.decide(RequestOutcome::Running, Some(self.generation));
            }
            (Verb::Start, State::Starting(..)) => {
                // The start that is under way does what was asked for.
                self.requests.start_begins(self.generation);
            }
            (Verb::Start, _) => self.bring_up(turn),
            (Verb::Stop, _) => {
                if let Some(outcome) = self.stop_on_request(turn) {
                    self.requests.decide(outcome, None);
                }
            }
            (Verb::Signal(signal), _) => return self.signal_on_request(signal, turn),
        }
        Ok(())
    }
}
