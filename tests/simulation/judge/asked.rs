//! What is asked of init: signals that have a rule, and requests.

use sidecar::request::{Request, Verb};
use sidecar::status::{Outcome, RequestOutcome};
use sidecar::table::{Action, SignalRule};

use super::{Asked, Expected, Fate, HOLD, Judge, Mark, Process, STRAYS, Served, is_held};
use crate::kernel::{Millis, bit};

impl Judge {
    pub(super) fn signal(&mut self, at: usize, now: Millis) {
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
                    (Some(process), _) if !process.is_being_ended() => {
                        let signal = self.table.wiring[at].signal.number();
                        Expected::Held(self.held_since(slot, signal).unwrap_or(now))
                    }
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

    /// Since when this signal is held for a daemon: whoever asks for it again waits with the first.
    fn held_since(&self, at: usize, signal: i32) -> Option<Millis> {
        let wired = self.table.wiring.iter().zip(self.requests.iter().zip(&self.targets));
        let wired = wired.filter(|(rule, (_, target))| rule.signal.number() == signal && **target == Some(at));
        let by_rule = wired.filter_map(|(_, (served, _))| match served.expected {
            Expected::Held(since) => Some(since),
            _ => None,
        });
        let asked = self.slots[at].requests.iter().filter(|request| request.holds(signal));
        let by_request = asked.filter_map(|request| match request.fate {
            Fate::Held(since) => Some(since),
            _ => None,
        });
        by_rule.chain(by_request).min()
    }

    /// Signals that were pending when init began are served once it has started whoever may start.
    pub(super) fn serve_what_was_pending(&mut self, now: Millis) {
        for at in 0..self.slots.len() {
            if !self.slots[at].waits {
                continue;
            }
            self.set(at, |e| matches!(e, Expected::Held(_)), Outcome::Refused);
            let served = self.requests.iter().zip(&self.targets).filter(|(_, target)| **target == Some(at));
            if served.into_iter().any(|(served, _)| served.expected == Expected::Is(Outcome::Restarting)) {
                self.want(at, now);
            }
        }
    }

    /// Somebody asked for a process that starts from now on.
    pub(super) fn want(&mut self, at: usize, now: Millis) {
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
    pub(super) fn request(&mut self, request: &Request, now: Millis) {
        let is_over = self.is_over();
        let Some(at) = self.slots.iter().position(|s| s.name == request.daemon) else {
            return self.stray(now);
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
            Verb::Start if runs => (Fate::Is(RequestOutcome::Running), generation),
            // The start that is under way is the one that was asked for.
            Verb::Start if is_live && !is_ending => (Fate::Pending, generation),
            Verb::Restart | Verb::Start => {
                self.want(at, now);
                (Fate::Pending, None)
            }
            Verb::Stop => {
                let is_cleared = slot.process.as_ref().is_none_or(|p| p.left.is_settled);
                (self.stop(at, is_live || is_waited_for || slot.backoff.is_some() && !is_cleared), None)
            }
            Verb::Signal(signal) if is_live && !is_ending => {
                (Fate::Held(self.held_since(at, signal.number()).unwrap_or(now)), None)
            }
            Verb::Signal(_) => (Fate::Is(RequestOutcome::Refused), None),
        };
        let id = request.id.clone();
        self.slots[at].requests.push(Asked { id, verb: request.verb, fate, generation, looked: None, is_news: true });
    }

    /// A request that came to nothing: the log tells of such ones, but at most once a second.
    pub(super) fn stray(&mut self, now: Millis) {
        self.strays = self.strays.or(Some(now + STRAYS));
        self.mark(Mark::Garbage);
    }

    /// A stop on request: what becomes of it at once.
    pub(super) fn stop(&mut self, at: usize, is_there: bool) -> Fate {
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

    /// init sends a daemon's process a signal that somebody asked for.
    pub(super) fn forward(&mut self, at: usize, signal: i32, takes: bool, is_safe: bool, now: Millis) {
        if !self.is_held_for(at, signal) {
            let is_restart = |w: &&SignalRule| w.signal.number() == signal && w.action == Action::Restart;
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
            request.generation = Some(slot.starts);
            slot.process.iter_mut().for_each(|process| process.sent |= bit(signal));
            self.marks[Mark::RequestDelivered as usize] += 1;
        }
        if !is_safe && !always {
            broken!(self, "no signal reaches a process that doesn't catch it", "signal {signal} for daemon {at}");
        }
        self.mark(if takes { Mark::Delivered } else { Mark::DeliveredUnseen });
    }

    /// A signal that is yet to reach a daemon's process, because somebody asked for it.
    pub(super) fn is_held_for(&self, at: usize, signal: i32) -> bool {
        let is_wired = |(rule, (request, target)): (&SignalRule, (&Served, &Option<usize>))| {
            let is_held = matches!(request.expected, Expected::Held(_));
            rule.signal.number() == signal && *target == Some(at) && is_held
        };
        self.table.wiring.iter().zip(self.requests.iter().zip(&self.targets)).any(is_wired)
            || self.slots[at].requests.iter().any(|request| request.holds(signal))
    }

    /// init looks whether a daemon takes a signal.
    pub fn looked(&mut self, pid: i32, signal: i32, now: Millis) {
        let Some(at) = self.slots.iter().position(|s| s.unreaped().is_some_and(|p| p.pid == pid)) else {
            broken!(self, "no process is looked at that isn't ours", "pid {pid}");
            return;
        };
        let mut held: Option<(Millis, Option<Millis>)> = None;
        let wires = self.table.wiring.iter().zip(self.requests.iter_mut().zip(&self.targets));
        let is_it = |(rule, (_, target)): &(&SignalRule, (&mut Served, &Option<usize>))| {
            rule.signal.number() == signal && **target == Some(at)
        };
        for (_, (request, _)) in wires.filter(is_it) {
            let last = request.looked.replace(now);
            if let Expected::Held(since) = request.expected {
                held = Some((since, last));
            }
        }
        for request in self.slots[at].requests.iter_mut().filter(|request| request.holds(signal)) {
            let last = request.looked.replace(now);
            if let Fate::Held(since) = request.fate {
                held = Some((since, last));
            }
        }
        let Some((since, last)) = held else {
            broken!(self, "init checks for a handler only while a signal is held", "pid {pid}, signal {signal}");
            return;
        };
        if last.is_some_and(|last| last > since && now < last + 10 && now < since + HOLD) {
            broken!(
                self,
                "while a signal is held, init checks for a handler every 10 to 50 ms",
                "pid {pid}, signal {signal}, at {last:?}"
            );
        }
    }
}
