//! What follows from an end: a start by a policy, a dependent that may start, a shutdown, init's own end.

use sidecar::status::{LastExit, Outcome, RequestOutcome};
use sidecar::table::RestartPolicy;

use super::{Expected, FIRST_DELAY, Fate, Judge, LONGEST_DELAY, Mark, Part, STEADY};
use crate::kernel::{End, KILL, Kernel, Life, Millis, bit};

impl Judge {
    /// A shutdown, on request or because this daemon has ended.
    pub(super) fn shut_down(&mut self, now: Millis, by: Option<usize>) {
        (self.stopping, self.essential) = (Some(now), by);
        for at in 0..self.slots.len() {
            let slot = &mut self.slots[at];
            slot.was_forgotten = slot.waits || slot.backoff.is_some();
            (slot.waits, slot.backoff) = (false, None);
            slot.owes_term = slot.unreaped().is_some_and(|p| !p.is_being_ended());
            self.asks_by[at] = Some(now + slot.grace.div_ceil(2));
            for request in &mut slot.requests {
                if request.wants_start() || matches!(request.fate, Fate::Held(_)) {
                    request.is(RequestOutcome::Refused);
                }
            }
            let was_wanted = slot.wanted.take().is_some();
            if let Some(process) = &mut slot.process {
                process.left.is_waited_for |= was_wanted;
                if process.reaped.is_none() && !process.is_being_ended() {
                    process.deadline = Some(now + slot.grace);
                }
            }
            if was_wanted {
                self.mark(Mark::ShutdownCutRestart);
            }
            self.set(at, |e| matches!(e, Expected::Held(_)), Outcome::Refused);
            self.set(at, |e| e == Expected::Is(Outcome::Restarting), Outcome::Refused);
        }
    }

    /// Each daemon that waits, and whose dependencies have all been ready, is to start.
    pub(super) fn start_whoever_may(&mut self, now: Millis) {
        for at in 0..self.slots.len() {
            let is_met = self.unready(at).next().is_none();
            let slot = &mut self.slots[at];
            if slot.waits && is_met {
                if !slot.depends_on.is_empty() {
                    self.marks[Mark::StartedReady as usize] += 1;
                }
                (slot.waits, slot.is_in_turn, slot.wanted) = (false, true, Some(now));
            }
        }
    }

    pub(super) fn ready(&mut self, at: usize, now: Millis) {
        self.slots[at].was_ready = true;
        if self.stopping.is_none() {
            self.start_whoever_may(now);
        }
    }

    /// The dependencies of a daemon that have not been ready yet.
    pub(super) fn unready(&self, at: usize) -> impl Iterator<Item = usize> {
        self.slots[at].depends_on.iter().copied().filter(|dependency| !self.slots[*dependency].was_ready)
    }

    /// Whether a daemon that waits may start yet without a request for it.
    pub(super) fn can_be_met(&self, at: usize) -> bool {
        self.unready(at).all(|dependency| {
            let slot = &self.slots[dependency];
            let lives = slot.unreaped().is_some() || slot.wanted.is_some() || slot.backoff.is_some() || slot.is_stopped;
            lives || slot.waits && self.can_be_met(dependency)
        })
    }

    /// Some daemon waits for this one to be ready.
    pub(super) fn is_waited_for(&self, at: usize) -> bool {
        !self.slots[at].was_ready && self.slots.iter().any(|slot| slot.waits && slot.depends_on.contains(&at))
    }

    /// A child has ended, and init hears of it. What is true of it the kernel knows.
    pub(super) fn ended(&mut self, kernel: &Kernel, pid: i32, oom_kills: u64) {
        let Some(child) = kernel.by_pid(pid).map(|i| &kernel.processes[i]) else { return };
        let Life::Zombie(end) = child.life else { return };
        let uid = child.uid;
        if let Some(at) = self.slots.iter().position(|s| s.unreaped().is_some_and(|p| p.uid == uid)) {
            return self.process_ended(kernel.now, at, end, oom_kills);
        }
        let Some(at) = self.slots.iter().position(|s| s.probe.as_ref().is_some_and(|p| p.uid == uid)) else { return };
        let Some(probe) = self.slots[at].probe.clone() else { return };
        self.slots[at].probed = Some((probe.of, kernel.now));
        let is_up = self.slots[at].unreaped().is_some_and(|p| p.uid == probe.of && !p.is_being_ended());
        if probe.killed {
            return;
        }
        self.mark(if end == End::Code(0) { Mark::ProbeSucceeded } else { Mark::ProbeFailed });
        if end == End::Code(0) && is_up && self.stopping.is_none() {
            self.ready(at, kernel.now);
        }
    }

    /// A daemon's process has ended.
    pub(super) fn process_ended(&mut self, now: Millis, at: usize, end: End, oom_kills: u64) {
        let slot = &mut self.slots[at];
        let Some(process) = &mut slot.process else { return };
        process.has_ended = true;
        let process = process.clone();
        let was_asked = process.is_being_ended();
        let is_own = match end {
            End::Code(_) => false,
            End::Signal(signal) => {
                signal == slot.stop_signal && process.termed
                    || signal == KILL && process.killed.is_some()
                    || process.sent & bit(signal) != 0
            }
        };
        slot.owes_oom = oom_kills > 0 && end == End::Signal(KILL) && process.killed.is_none();
        let is_executed = process.executed == Some(Ok(()));
        let (part, code, signal, by_init) = match (process.executed, end) {
            (Some(Err(code)), _) => (Part::Code(code), Some(code), None, false),
            (_, End::Signal(signal)) if is_own => (Part::Own(signal), None, Some(signal), was_asked),
            (None, _) => (Part::Code(126), Some(126), None, false),
            (_, End::Signal(signal)) => (Part::Code(128 + signal), None, Some(signal), was_asked),
            (_, End::Code(code)) => (Part::Code(code), Some(code), None, was_asked),
        };
        slot.part = Some(part);
        slot.last_exit = Some(LastExit { code, signal, by_init });
        slot.failed = !is_executed;
        slot.is_done = slot.is_oneshot && is_executed && end == End::Code(0) && !was_asked;
        if is_executed || is_own {
            (slot.ready, slot.reloading) = (false, None);
        }
        if !is_executed {
            self.mark(if was_asked { Mark::StoppedBeforeExec } else { Mark::StartFailed });
        }
        if self.set(at, |e| matches!(e, Expected::Held(_)), Outcome::Refused) {
            self.mark(Mark::HeldEndedWithProcess);
        }
        for (request, _) in self.requests.iter_mut().zip(&self.targets).filter(|(_, t)| **t == Some(at)) {
            // What a later process reloads by itself is no answer to a signal that this one got.
            request.delivered = None;
        }
        for request in &mut self.slots[at].requests {
            if matches!(request.fate, Fate::Held(_)) {
                request.is(RequestOutcome::Refused);
            }
        }
        if !was_asked {
            let ran = if is_executed { now - process.since } else { 0 };
            self.follow(at, is_executed && end == End::Code(0), ran, now);
        } else if !is_executed && self.slots[at].wanted.is_none() {
            self.set(at, |e| e == Expected::Is(Outcome::Restarting), Outcome::Failed);
        }
    }

    /// What follows once a daemon has ended by itself, after it ran for so long.
    pub(super) fn follow(&mut self, at: usize, is_success: bool, ran: Millis, now: Millis) {
        if self.slots[at].failed {
            self.set(at, |e| e == Expected::Is(Outcome::Restarting), Outcome::Failed);
            for request in self.slots[at].requests.iter_mut().filter(|request| request.wants_start()) {
                request.is(RequestOutcome::Failed);
            }
        }
        let slot = &mut self.slots[at];
        if slot.is_oneshot && is_success {
            self.mark(Mark::Done);
            return self.ready(at, now);
        }
        if self.stopping.is_some() {
            return;
        }
        let is_kept = match slot.policy {
            RestartPolicy::No => false,
            RestartPolicy::OnFailure => !is_success,
            RestartPolicy::Always => true,
        };
        if is_kept {
            if ran >= STEADY {
                slot.ends = 0;
            }
            if slot.ends == 0 {
                (slot.first_end, slot.delays) = (now, 0);
            }
            // 100 ms, 200 ms, 400 ms, and so on.
            let delay = LONGEST_DELAY.min(FIRST_DELAY << slot.ends.min(16));
            slot.backoff = Some(now + delay);
            slot.ends += 1;
            if delay == LONGEST_DELAY {
                self.mark(Mark::LongestDelay);
            }
        } else if slot.is_essential {
            self.mark(Mark::EssentialEnded);
            self.shut_down(now, Some(at));
        }
    }

    /// The exit code, worked out from the kernel's record.
    pub(super) fn exit_code(&self) -> i32 {
        // If the end of an essential daemon began the shutdown, its code alone counts.
        let counts = |at: usize| self.essential.is_none_or(|essential| essential == at);
        let parts = || self.slots.iter().enumerate().filter(|(at, _)| counts(*at)).filter_map(|(_, s)| s.part);
        let codes = parts().filter_map(|p| if let Part::Code(code) = p { Some(code) } else { None });
        let own = parts().filter_map(|p| if let Part::Own(signal) = p { Some(signal) } else { None });
        match (codes.max(), own.min()) {
            (Some(code), _) => code,
            (None, Some(signal)) => 128 + signal,
            (None, None) if self.stopping.is_none() => 0,
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
            broken!(self, "the exit code is what a second computation gives", "{code}, should be {should}");
        }
        if let Some(at) = self.keeps_init() {
            broken!(self, "init ends when it should and never sooner", "it ended while daemon {at} was not at its end");
        }
        if !self.begun {
            broken!(self, "init ends when it should and never sooner", "it ended before it began");
        }
        self.mark(if self.stopping.is_some() { Mark::ExitedOnRequest } else { Mark::ExitedByItself });
    }

    /// Nothing is left to supervise.
    pub(super) fn is_over(&self) -> bool {
        self.begun && self.keeps_init().is_none()
    }

    /// A daemon that runs or stops, is stopped on request, or is yet to be started by its policy or by its dependencies.
    pub(super) fn keeps_init(&self) -> Option<usize> {
        let is_to_come = |at: usize| {
            let slot = &self.slots[at];
            slot.is_stopped || slot.backoff.is_some() || slot.waits && self.can_be_met(at)
        };
        let is_stopping = self.stopping.is_some();
        (0..self.slots.len()).find(|at| self.slots[*at].keeps_init() || !is_stopping && is_to_come(*at))
    }

    /// The schedule and all of its time are over.
    pub fn end(&mut self) {
        if self.exited.is_none() {
            broken!(self, "init ends when it should and never sooner", "it never ended");
        }
    }
}
