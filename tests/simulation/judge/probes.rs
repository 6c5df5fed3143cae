//! Probes: children that ask a daemon whether it is ready.

use super::{Judge, Mark, PROBE, PROBE_PAUSES, Probe, Slot};
use crate::kernel::{KILL, Kernel, Life, Uid};

impl Judge {
    /// A probe was started, or couldn't be.
    pub fn probe(&mut self, kernel: &Kernel, at: usize, came: Option<(Uid, i32)>) {
        let now = kernel.now;
        if self.stopping.is_some() || self.exited.is_some() {
            broken!(self, "nothing starts after a shutdown was asked for", "a probe of daemon {at} was started");
        }
        if let Some(probe) = &self.slots[at].probe {
            let pid = probe.pid;
            broken!(self, "at most one probe at a time for each daemon", "daemon {at} has pid {pid} already");
        }
        if !self.is_waited_for(at) || !self.slots[at].is_probed {
            broken!(self, "a daemon is probed only while another waits for it", "daemon {at}");
        }
        let up = self.slots[at].unreaped().filter(|p| p.executed == Some(Ok(())) && !p.is_being_ended());
        let Some(of) = up.map(|p| p.uid) else {
            broken!(self, "only a running daemon is probed", "daemon {at}");
            return;
        };
        let pause = self.slots[at].probed.filter(|(uid, _)| *uid == of).map(|(_, ended)| now - ended);
        if pause.is_some_and(|pause| pause < *PROBE_PAUSES.start()) {
            broken!(self, "a probe is tried again after 100 ms to 1 s", "daemon {at}, after {pause:?}");
        }
        let slot = &mut self.slots[at];
        match came {
            Some((uid, pid)) => {
                slot.probe = Some(Probe { uid, pid, of, since: now, until: now + PROBE, killed: false });
                self.mark(Mark::Probed);
            }
            None => slot.probed = Some((of, now)),
        }
    }

    /// The group of a probe is killed: since it has ended, takes too long, or nobody waits any more.
    pub(super) fn kill_probe(&mut self, kernel: &Kernel, at: usize, signal: i32) {
        let is_wanted = self.is_probe_wanted(at);
        let Some(probe) = &mut self.slots[at].probe else { return };
        let has_ended = kernel.by_uid(probe.uid).is_none_or(|i| matches!(kernel.processes[i].life, Life::Zombie(_)));
        let is_late = kernel.now >= probe.since + PROBE;
        let pid = probe.pid;
        if !has_ended {
            probe.killed = true;
        }
        if is_late && !has_ended {
            self.mark(Mark::ProbeTimedOut);
        } else if !has_ended {
            self.mark(Mark::ProbeCutShort);
        }
        if signal != KILL || !has_ended && !is_late && is_wanted {
            broken!(self, "a probe has 10 s", "signal {signal} for pid {pid}, which probes daemon {at}");
        }
    }

    /// Whether the answer of a daemon's probe still matters.
    pub(super) fn is_probe_wanted(&self, at: usize) -> bool {
        let slot = &self.slots[at];
        let is_up = |uid: Uid| slot.unreaped().is_some_and(|p| p.uid == uid && !p.is_being_ended() && !p.has_ended);
        let is_of_now = slot.probe.as_ref().is_some_and(|probe| is_up(probe.of));
        self.stopping.is_none() && self.is_waited_for(at) && is_of_now
    }

    /// The process that probes a daemon.
    pub fn probe_of(&self, at: usize) -> Option<i32> {
        self.slots.get(at)?.probe.as_ref().map(|probe| probe.pid)
    }

    /// Whether the answer of this probe still matters, if it is one that lives.
    pub fn live_probe(&self, kernel: &Kernel, pid: i32) -> Option<bool> {
        let is_it = |slot: &Slot| slot.probe.as_ref().is_some_and(|probe| probe.pid == pid);
        let at = self.slots.iter().position(is_it)?;
        let is_alive = kernel.by_pid(pid).is_some_and(|i| kernel.processes[i].life == Life::Alive);
        is_alive.then(|| self.is_probe_wanted(at))
    }
}
