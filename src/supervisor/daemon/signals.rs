//! Signals to a daemon that don't stop it: forwards, signals on request, and what it says by `sd_notify`.

use std::time::Duration;

use super::{Daemon, Process, ReadyBy, State};
use crate::status::{Outcome, RequestOutcome};
use crate::supervisor::turn::Turn;
use crate::supervisor::{Action, Disposition, Line, Moment};
use crate::table::Signal;

/// How often init checks whether a daemon catches a held signal.
const LOOK_AT_MASK: Duration = Duration::from_millis(20);
/// If a daemon blocks every signal in this many checks in a row (a second's worth), it reads them with signalfd(2).
/// Checks are counted, not time: on a busy machine two of them may be far apart, and the daemon may fork at each.
const LASTING: u32 = 50;
/// How long a signal is held for a daemon that doesn't catch it.
pub(super) const HOLD: Duration = Duration::from_secs(20);
/// The signals that can't be caught, or end no process by default: KILL, CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG, WINCH.
/// There is no point in waiting for their handler.
const AT_ONCE: [i32; 9] = [9, 17, 18, 19, 20, 21, 22, 23, 28];

#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) signal: Signal,
    /// Sent as soon as there is a process, without checking for a handler.
    pub(super) always: bool,
    pub(super) until: Moment,
    pub(super) look: Moment,
    /// In how many checks in a row the daemon has blocked every signal.
    blocked: u32,
}

/// What a process has said by `sd_notify`(3).
#[derive(Debug, Default)]
pub(super) struct Said {
    /// READY=1, and it isn't reloading.
    pub(super) ready: bool,
    /// The `MONOTONIC_USEC` of a reload under way.
    pub(super) reloading: Option<u64>,
    /// Whether the log has warned, for this generation, that another process's READY=1 doesn't count.
    told_of_stranger: bool,
}

impl Daemon {
    /// Forwards a signal. Its rule has the outcome held until [`Turn::signal_ends`].
    pub(in crate::supervisor) fn forward(
        &mut self,
        signal: Signal,
        always: bool,
        turn: &mut Turn<'_>,
    ) -> Result<(), &'static str> {
        match self.state {
            State::Running(process) if always => self.deliver(process.pid, signal, turn),
            _ => self.hold(signal, always, turn)?,
        }
        Ok(())
    }

    pub(super) fn signal_on_request(&mut self, signal: Signal, turn: &mut Turn<'_>) -> Result<(), &'static str> {
        match self.state {
            State::Starting(process, _) | State::Running(process) if AT_ONCE.contains(&signal.number()) => {
                self.deliver(process.pid, signal, turn);
            }
            _ => self.hold(signal, false, turn)?,
        }
        Ok(())
    }

    fn hold(&mut self, signal: Signal, always: bool, turn: &mut Turn<'_>) -> Result<(), &'static str> {
        match self.state {
            State::Fresh | State::Forking | State::Starting(..) | State::Running(_) => {}
            State::Waiting => return Err("it waits for its dependencies"),
            State::Stopping(..) | State::Clearing(_) if self.is_being_ended() => return Err("it is stopping"),
            _ => return Err("it isn't running"),
        }
        if let Some(held) = self.held.iter_mut().find(|held| held.signal == signal) {
            held.always |= always;
        } else {
            let (now, until) = (turn.now, turn.now + HOLD);
            self.held.push(Held { signal, always, until, look: now, blocked: 0 });
            if let State::Running(Process { pid, .. }) = self.state {
                turn.act(Action::LookAtMask { daemon: self.index, pid, signal });
            }
        }
        Ok(())
    }

    /// Handles what its process would do with a held signal.
    pub(super) fn mask(&mut self, looked_at: i32, signal: Signal, disposition: Disposition, turn: &mut Turn<'_>) {
        let State::Running(Process { pid, .. }) = self.state else { return };
        let Some(at) = self.held.iter().position(|held| held.signal == signal) else { return };
        if pid != looked_at {
            return;
        }
        let Some(held) = self.held.get_mut(at) else { return };
        let is_taken = match disposition {
            Disposition::Taken => true,
            Disposition::Unknown => {
                let text = format!(
                    "/proc shows no signal masks here; sending SIG{signal} to {} without checking for a handler",
                    self.name
                );
                turn.tell(Line::warn(text).of(self.index));
                true
            }
            Disposition::Blocked => {
                held.blocked += 1;
                held.blocked >= LASTING
            }
            Disposition::NotTaken => {
                held.blocked = 0;
                false
            }
        };
        if !is_taken && turn.now < held.until {
            held.look = held.until.min(turn.now + LOOK_AT_MASK);
            return;
        }
        self.held.swap_remove(at);
        if is_taken {
            self.deliver(pid, signal, turn);
            return;
        }
        let text = format!("{} never caught SIG{signal}, which would have killed it; dropped", self.name);
        turn.tell(Line::warn(text).of(self.index));
        turn.signal_ends(self.index, signal, Outcome::NeverCaught, 0);
        self.requests.signal_ends(signal, RequestOutcome::NeverCaught, None, 0);
    }

    /// Sends a signal, for the rule and all requests that wait for it.
    pub(super) fn deliver(&mut self, pid: i32, signal: Signal, turn: &mut Turn<'_>) {
        self.held.retain(|held| held.signal != signal);
        self.deliveries += 1;
        turn.tell(Line::info(format!("forwarding SIG{signal} to {}", self.name)).of(self.index).pid(pid));
        turn.act(Action::Kill { pid, signal: signal.number() });
        turn.signal_ends(self.index, signal, Outcome::Delivered, self.deliveries);
        let (outcome, generation) = (RequestOutcome::Delivered, Some(self.generation));
        if self.requests.signal_ends(signal, outcome, generation, self.deliveries) {
            self.requested_signals |= bit(signal.number());
        }
    }

    /// Whether a request had this signal sent to the process. If the process died of it, init itself has ended it.
    pub(super) fn was_sent(&self, signal: i32) -> bool {
        self.requested_signals & bit(signal) != 0
    }

    /// The kernel refused the signal that was sent last.
    pub(super) fn delivery_fails(&mut self, signal: i32, turn: &mut Turn<'_>) {
        turn.delivery_fails(self.index, signal, self.deliveries);
        self.requests.delivery_fails(signal, self.deliveries);
    }

    /// Drops the held signals, for example because the process that they were for has ended.
    pub(in crate::supervisor) fn drop_held(&mut self, why: &'static str, turn: &mut Turn<'_>) {
        for held in self.held.drain(..) {
            let text = format!("SIG{} was held for {}; dropped, since {why}", held.signal, self.name);
            turn.tell(Line::warn(text).of(self.index));
            turn.signal_ends(self.index, held.signal, Outcome::Refused, 0);
            self.requests.signal_is_dropped(held.signal, why);
        }
    }

    /// A message from its own process. (So it has executed its command, even if that wasn't reported yet.)
    pub(in crate::supervisor) fn notify(
        &mut self,
        ready: bool,
        reloading: Option<u64>,
        errno: i32,
        turn: &mut Turn<'_>,
    ) {
        if !matches!(self.state, State::Starting(..) | State::Running(_)) {
            return;
        }
        if reloading.is_some() {
            self.said.reloading = reloading;
            self.said.ready = false;
        }
        if !ready {
            return;
        }
        self.said.ready = true;
        self.was_ready |= self.ready_by == ReadyBy::Notify;
        if let Some(began) = self.said.reloading.take() {
            turn.reload_ends(self.index, began, errno);
        }
    }

    /// Whether it still waits for its READY=1 and the log hasn't warned yet that another process sent one.
    pub(in crate::supervisor) fn may_be_misnotified(&self) -> bool {
        let is_up = matches!(self.state, State::Starting(..) | State::Running(_));
        self.ready_by == ReadyBy::Notify && is_up && !self.said.ready && !self.said.told_of_stranger
    }

    pub(in crate::supervisor) fn tell_of_stranger(&mut self, pid: i32, turn: &mut Turn<'_>) {
        self.said.told_of_stranger = true;
        let name = &self.name;
        let own = self.pid().unwrap_or(0);
        let text = format!(
            "READY=1 came from pid {pid}, which isn't {name}'s own process (pid {own}), so it doesn't count. Call sd_notify \
             in that process itself; a script should exec its program instead of running systemd-notify"
        );
        turn.tell(Line::warn(text).of(self.index));
    }
}

fn bit(signal: i32) -> u128 {
    u32::try_from(signal).ok().and_then(|n| 1u128.checked_shl(n)).unwrap_or(0)
}
