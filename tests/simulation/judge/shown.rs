//! Status equals the truth, after every event.

use sidecar::status::{DaemonState, InitState, Outcome, RequestOutcome};
use sidecar::supervisor::{Supervisor, View};

use super::{Expected, Fate, HOLD, Judge, Mark, Process, SHOWN};
use crate::kernel::Millis;

impl Judge {
    /// After every event: what status shows is what is.
    pub fn compare(&mut self, core: &Supervisor, now: Millis) {
        if self.owes_refusal {
            broken!(self, "what is refused is logged", "it was not");
        }
        if let Some(at) = self.slots.iter().position(|s| {
            let is_asked = s.unreaped().is_some_and(Process::is_being_ended);
            s.owes_killed || s.says_start || s.owes_term && is_asked
        }) {
            broken!(self, "a start, a stop and an end are logged", "not so of daemon {at}");
        }
        for at in 0..self.slots.len() {
            let Some(view) = core.view(at) else {
                broken!(self, "status shows the truth", "daemon {at} isn't shown");
                continue;
            };
            self.compare_start(at);
            let state = self.state(at);
            let slot = &self.slots[at];
            let process = slot.unreaped();
            let since = process.map(|p| std::time::Duration::from_millis(p.since));
            let by_request = slot.starts.saturating_sub(1 + slot.revivals);
            let starts_at = slot.backoff.map(std::time::Duration::from_millis);
            let truth = (state, process.map(|p| p.pid), since, slot.starts, by_request, slot.revivals, starts_at);
            let shown =
                (view.state, view.pid, view.since, view.generation, view.restarts, view.revivals, view.starts_at);
            let is_cleared = slot.process.as_ref().is_some_and(|p| p.reaped.is_some() && slot.keeps_init());
            let ends = self.stopping.is_some() || process.is_some_and(Process::is_being_ended) || is_cleared;
            let is_back = view.generation < slot.generation;
            let (last_exit, ready) = (slot.last_exit, slot.ready);
            if is_back {
                broken!(self, "a generation never goes back", "daemon {at}: {}", view.generation);
            }
            self.slots[at].generation = view.generation;
            if shown != truth {
                broken!(self, "status shows the truth", "daemon {at}: {shown:?}, is {truth:?}");
            }
            if view.last_exit != last_exit {
                broken!(self, "status shows the truth", "daemon {at}: {:?}, is {last_exit:?}", view.last_exit);
            }
            self.compare_waiting(at, &view);
            self.compare_requests(at, &view, now);
            if view.notified != ready {
                broken!(self, "status shows the truth", "daemon {at}: notified is {}", view.notified);
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
                    "every request ends in an outcome that status shows",
                    "wire {at}: {:?}, is {outcome:?}",
                    shown.map(|l| l.outcome)
                );
            }
            if shown.map_or(0, |l| l.seq) != request.seq {
                broken!(
                    self,
                    "every request ends in an outcome that status shows",
                    "wire {at}: {shown:?}, is {}",
                    request.seq
                );
            }
            if shown.is_some_and(|l| l.generation != request.generation) {
                broken!(
                    self,
                    "a restart is shown with the generation that it started",
                    "wire {at}: {shown:?}, is {:?}",
                    request.generation
                );
            }
            if shown.is_some_and(|l| l.reload_errno != request.errno) {
                broken!(
                    self,
                    "a reload is shown with the signal that it answers",
                    "wire {at}: {shown:?}, is {:?}",
                    request.errno
                );
            }
        }
    }

    /// Whoever is to start has been started, unless there is something left of the old process.
    fn compare_start(&mut self, at: usize) {
        let slot = &self.slots[at];
        if slot.wanted.is_some() && slot.process.as_ref().is_none_or(|p| p.reaped.is_some() && p.left.is_settled) {
            broken!(self, "a daemon starts as soon as it may", "daemon {at}");
        }
    }

    /// What a daemon is doing.
    pub(super) fn state(&self, at: usize) -> DaemonState {
        let slot = &self.slots[at];
        match slot.unreaped() {
            Some(process) if process.is_being_ended() || self.stopping.is_some() => DaemonState::Stopping,
            Some(process) if process.executed == Some(Ok(())) => DaemonState::Running,
            Some(_) => DaemonState::Starting,
            None if slot.keeps_init() => DaemonState::Stopping,
            None if slot.backoff.is_some() => DaemonState::Backoff,
            None if slot.waits => DaemonState::Waiting,
            None if slot.is_stopped => DaemonState::Stopped,
            None if slot.was_forgotten => DaemonState::Exited,
            None if slot.is_done => DaemonState::Done,
            None if slot.failed || slot.is_oneshot && slot.last_exit.is_some_and(|exit| !exit.by_init) => {
                DaemonState::Failed
            }
            None => DaemonState::Exited,
        }
    }

    /// A daemon that waits names each dependency that it waits for, and says why.
    pub(super) fn compare_waiting(&mut self, at: usize, view: &View) {
        let mut truth: Vec<&str> = Vec::new();
        if self.slots[at].waits {
            truth.extend(self.unready(at).map(|dependency| self.slots[dependency].name.as_str()));
        }
        let mut shown: Vec<&str> = view.waiting_for.iter().map(|waiting| waiting.daemon.as_str()).collect();
        truth.sort_unstable();
        shown.sort_unstable();
        if shown != truth || view.waiting_for.iter().any(|waiting| waiting.why.is_empty()) {
            let how = format!("daemon {at} waits for {:?}, is {truth:?}", view.waiting_for);
            broken!(self, "a waiting daemon shows which daemons it waits for, and why", "{how}");
        }
    }

    /// Each request is told: until it is decided, and for as long as it is one of the last.
    pub(super) fn compare_requests(&mut self, at: usize, view: &View, now: Millis) {
        let slot = &mut self.slots[at];
        // A stop has succeeded once nothing of the daemon is left.
        if !slot.keeps_init() {
            for request in slot.requests.iter_mut().filter(|request| request.wants_stop()) {
                request.is(RequestOutcome::Stopped);
                self.marks[Mark::Stopped as usize] += 1;
            }
        }
        let mut wrong = None;
        for (nth, request) in slot.requests.iter_mut().rev().enumerate() {
            let shown = view.requests.iter().find(|shown| shown.id == request.id);
            if let (Some(RequestOutcome::NeverCaught), Fate::Held(since)) = (shown.map(|s| s.outcome), request.fate)
                && now >= since + HOLD
            {
                request.is(RequestOutcome::NeverCaught);
                self.marks[Mark::NeverCaught as usize] += 1;
            }
            let outcome = match request.fate {
                Fate::Pending => RequestOutcome::Pending,
                Fate::Held(_) => RequestOutcome::Held,
                Fate::Is(outcome) => outcome,
            };
            let is_shown = shown.is_some_and(|shown| {
                (shown.outcome, shown.generation, &shown.verb)
                    == (outcome, request.generation, &request.verb.to_string())
            });
            let is_news = std::mem::take(&mut request.is_news);
            let is_due = nth == 0 || is_news || !outcome.is_final();
            if if is_due { !is_shown } else { shown.is_some() && !is_shown } {
                wrong = Some(format!("{request:?}, shown as {shown:?}"));
            }
        }
        let count = slot.requests.len();
        if view.requests.len() < count.min(SHOWN)
            || view.requests.iter().any(|s| slot.requests.iter().all(|r| r.id != s.id))
        {
            wrong = Some(format!("{:?} of {count}", view.requests));
        }
        if let Some(wrong) = wrong {
            broken!(self, "every request ends in an outcome that status shows", "daemon {at}: {wrong}");
        }
    }
}
