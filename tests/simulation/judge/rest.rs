//! What must be true whenever init waits for the next event.

use sidecar::supervisor::Supervisor;
use sidecar::table::Action;

use super::{Expected, Fate, GIVE_UP, HOLD, Judge, LOOK, PROBE_PAUSES, Process, SILENT, TICK, is_held};
use crate::kernel::{Kernel, Life, Millis};

impl Judge {
    /// init waits: everything that was to be done at this moment is done.
    pub fn rest(&mut self, kernel: &Kernel, core: &Supervisor) {
        let now = kernel.now;
        let is_left = |p: &&crate::kernel::Process| p.parent == 0 && !p.traced && matches!(p.life, Life::Zombie(_));
        if let Some(zombie) = kernel.processes.iter().find(is_left) {
            broken!(self, "every child is reaped exactly once", "pid {} is left a zombie", zombie.pid);
        }
        let next = core.next().map(|at| u64::try_from(at.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX));
        let mut must_wake = false;
        for at in 0..self.slots.len() {
            must_wake |= self.rest_before_the_start(at, now, next);
            let Some(process) = self.slots[at].process.clone() else { continue };
            let is_stopping = process.is_waited_for() || process.reaped.is_none() && process.is_being_ended();
            if is_stopping && now > process.silent + SILENT {
                broken!(
                    self,
                    "a long stop logs which processes it waits for",
                    "not that of daemon {at} since {}",
                    process.silent
                );
            }
            if process.reaped.is_none() {
                must_wake |= self.rest_of_the_living(at, &process, now, next);
            } else {
                self.rest_after_the_end(kernel, at, &process, next);
                must_wake |= !process.left.is_settled;
            }
        }
        must_wake |= self.rest_of_the_held(now, next);
        let backoff = self.slots.iter().filter_map(|slot| slot.backoff).min();
        if let Some(due) = self.strays {
            if now >= due || next.is_none_or(|next| next > due) {
                broken!(self, "a request that has no effect is logged", "due at {due}, now {now}: {next:?}");
            }
            must_wake = true;
        }
        match next {
            Some(next) if next <= now => broken!(self, "init never spins", "due at {next}, now {now}"),
            Some(next) if !must_wake && backoff != Some(next) => {
                broken!(self, "an idle init makes no system call", "due at {next}, now {now}");
            }
            _ => {}
        }
        if self.exited.is_none() && self.is_over() {
            broken!(self, "init ends when it should and never sooner", "it goes on with nothing left");
        }
    }

    /// The same for a daemon whose process lives, as far as init knows. Whether init must wake for it soon.
    fn rest_of_the_living(&mut self, at: usize, process: &Process, now: Millis, next: Option<Millis>) -> bool {
        let pid = process.pid;
        let is_ended = process.is_being_ended();
        let ask_by = self.asks_by[at].filter(|by| now < *by && self.has_dependents(at));
        if !is_ended && ask_by.is_some_and(|by| next.is_none_or(|next| next > by)) {
            broken!(
                self,
                "a dependency is asked to stop after its dependents, or at half its grace",
                "daemon {at} is to be asked at {ask_by:?}, due at {next:?}"
            );
        }
        let is_asked = self.slots[at].wanted.is_some() || self.slots[at].is_stopped || self.stopping.is_some();
        if is_asked && ask_by.is_none() && !is_ended {
            broken!(self, "a request is handled at once", "pid {pid} of daemon {at} was not asked to end");
        }
        if process.termed && !process.continued {
            broken!(self, "a stopped process gets its stop signal", "no CONT for pid {pid} of daemon {at}");
        }
        if let (Some(deadline), None) = (process.deadline, process.killed)
            && (now >= deadline || next.is_none_or(|next| next > deadline))
        {
            broken!(self, "a deadline never moves", "pid {pid} of daemon {at}, due at {deadline}, now {now}");
        }
        if process.killed.is_some_and(|killed| now >= killed + GIVE_UP) {
            broken!(self, "a stop goes on 2 s after SIGKILL", "pid {pid} of daemon {at}");
        }
        let is_stopping = is_ended || self.stopping.is_some();
        if is_stopping && next.is_none_or(|next| next > now + TICK) {
            broken!(self, "a stopping init wakes once a second", "due at {next:?}, now {now}");
        }
        is_stopping
    }

    /// The same for the signals that are held for a process that has executed its command.
    fn rest_of_the_held(&mut self, now: Millis, next: Option<Millis>) -> bool {
        let executed = |slot: usize| {
            !self.slots[slot].waits && self.slots[slot].unreaped().is_none_or(|p| p.executed == Some(Ok(())))
        };
        let wired =
            self.requests.iter().zip(&self.targets).zip(&self.table.wiring).filter_map(|((r, target), rule)| {
                let Expected::Held(since) = r.expected else { return None };
                target
                    .filter(|slot| executed(*slot))
                    .map(|slot| (slot, since, rule.action == Action::Forward { always: true }))
            });
        let mut held: Vec<(usize, Millis, bool)> = wired.collect();
        for (at, slot) in self.slots.iter().enumerate().filter(|(at, _)| executed(*at)) {
            let since = slot.requests.iter().filter_map(|request| match request.fate {
                Fate::Held(since) => Some((at, since, !is_held(request.signal()))),
                _ => None,
            });
            held.extend(since);
        }
        for (at, since, always) in &held {
            if now >= since + HOLD {
                broken!(self, "a signal is held for 20 s", "for daemon {at}, since {since}, now {now}");
            }
            if next.is_none_or(|next| next > now + LOOK) {
                broken!(
                    self,
                    "while a signal is held, init checks for a handler every 10 to 50 ms",
                    "daemon {at} is not looked at again"
                );
            }
            if self.no_masks || *always {
                broken!(self, "`always` sends a signal at once", "a signal is held for daemon {at}");
            }
        }
        !held.is_empty()
    }

    /// The same for what a daemon waits for before it starts. Whether init must wake for it soon.
    pub(super) fn rest_before_the_start(&mut self, at: usize, now: Millis, next: Option<Millis>) -> bool {
        let slot = &self.slots[at];
        let is_clear = slot.unreaped().is_none() && slot.process.as_ref().is_none_or(|p| p.left.is_settled);
        if let Some(due) = slot.backoff
            && is_clear
            && (now >= due || next.is_none_or(|next| next > due))
        {
            broken!(
                self,
                "a policy starts its daemon when the delay is over",
                "daemon {at}, due at {due}, now {now}: {next:?}"
            );
        }
        let slot = &self.slots[at];
        let is_wanted = self.is_probe_wanted(at);
        if let Some(probe) = &slot.probe {
            let (pid, until, killed) = (probe.pid, probe.until, probe.killed);
            if !killed && !is_wanted {
                broken!(
                    self,
                    "a daemon is probed only while another waits for it",
                    "pid {pid} still probes daemon {at}"
                );
            }
            if !killed && (now >= until || next.is_none_or(|next| next > until)) {
                broken!(self, "a probe has 10 s", "pid {pid}, which probes daemon {at}, is due at {until}, now {now}");
            }
            return true;
        }
        let up = slot.unreaped().filter(|p| p.executed == Some(Ok(())) && !p.is_being_ended());
        let Some(of) = up.map(|p| p.uid) else { return false };
        if !slot.is_probed || !self.is_waited_for(at) || self.stopping.is_some() {
            return false;
        }
        let due = slot.probed.filter(|(uid, _)| *uid == of).map_or(now, |(_, ended)| ended + PROBE_PAUSES.end());
        if due <= now || next.is_none_or(|next| next > due) {
            broken!(
                self,
                "a probe is tried again after 100 ms to 1 s",
                "daemon {at}, due at {due}, now {now}: {next:?}"
            );
        }
        true
    }

    /// The same for a daemon whose process has ended.
    pub(super) fn rest_after_the_end(&mut self, kernel: &Kernel, at: usize, process: &Process, next: Option<Millis>) {
        let now = kernel.now;
        let left = &process.left;
        let is_member = |p: &&crate::kernel::Process| p.family == Some((at, process.uid)) && p.uid != process.uid;
        let members = || kernel.processes.iter().filter(is_member);
        let alive = || members().filter(|p| p.life == Life::Alive);
        let slot = &self.slots[at];
        let is_cleared_first = slot.backoff.is_some() && !left.is_settled;
        let is_waited_for = slot.wanted.is_some() || is_cleared_first || process.is_waited_for();
        if !process.is_being_ended() {
            if let Some(member) = alive().next() {
                broken!(
                    self,
                    "after an unrequested death, the rest of the session is killed at once",
                    "pid {} of daemon {at} is left",
                    member.pid
                );
            }
        } else if !left.is_settled && left.killed.is_none() {
            let is_asked = |p: &crate::kernel::Process| left.asked.contains(&p.uid) || p.late;
            if let Some(member) = alive().find(|p| !is_asked(p)) {
                broken!(
                    self,
                    "what is left of a session is asked before it is killed",
                    "pid {} of daemon {at} isn't",
                    member.pid
                );
            }
            if alive().next().is_some() && process.deadline.is_some_and(|deadline| now >= deadline) {
                broken!(self, "a deadline never moves", "daemon {at} has members at its deadline");
            }
        }
        if let Some(uid) = left.to_continue.first() {
            broken!(self, "a stopped process gets its stop signal", "no CONT for a member of daemon {at}, uid {uid}");
        }
        if !is_waited_for {
            return;
        }
        if left.killed.is_some_and(|killed| now >= killed + GIVE_UP) && !left.is_settled {
            broken!(self, "a stop goes on 2 s after SIGKILL", "daemon {at}, killed at {:?}", left.killed);
        }
        if members().any(|p| !matches!(p.life, Life::Zombie(_))) {
            self.slots[at].gone = None;
        } else {
            let gone = *self.slots[at].gone.get_or_insert(now);
            if now > gone + LOOK {
                broken!(self, "init goes on when the old session is gone", "daemon {at}, gone since {gone}, now {now}");
            }
        }
        if next.is_none_or(|next| next > now + LOOK) {
            broken!(self, "init goes on when the old session is gone", "daemon {at} is not looked at again");
        }
    }

    /// Whether a dependent of this daemon, direct or not, is still to end.
    pub(super) fn has_dependents(&self, at: usize) -> bool {
        let is_there = |other: &usize| {
            let slot = &self.slots[*other];
            // What it has left is killed already, and may count or not.
            let is_left = slot.process.as_ref().is_some_and(|p| !p.left.is_settled);
            (slot.keeps_init() || is_left) && self.depends(*other, at)
        };
        (0..self.slots.len()).any(|other| is_there(&other))
    }
}
