//! A kernel that is simulated: processes, groups, sessions, signals, and a clock that only moves when told.
//!
//! Only what init can see or cause of fork(2), execve(2), kill(2), wait(2), signal(7), credentials(7).

use std::time::Duration;

pub use sidecar::supervisor::End;

use crate::rng::Rng;

pub const HUP: i32 = 1;
pub const INT: i32 = 2;
pub const QUIT: i32 = 3;
pub const KILL: i32 = 9;
pub const USR1: i32 = 10;
pub const SEGV: i32 = 11;
pub const USR2: i32 = 12;
pub const TERM: i32 = 15;
pub const CHLD: i32 = 17;
pub const CONT: i32 = 18;
pub const STOP: i32 = 19;
pub const URG: i32 = 23;
pub const WINCH: i32 = 28;

/// Milliseconds of the simulated clock.
pub type Millis = u64;
/// Never given twice, as a pid is: what the checks know a process by. 0 is init.
pub type Uid = u32;

pub fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// What becomes of an attempt to start a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exec {
    Works,
    NoFork,
    NotFound,
    Denied,
}

/// What a daemon's process does by itself. Drawn anew for each generation, from the schedule's seed alone.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a habit of its own")]
pub struct Nature {
    pub exec: Exec,
    /// From the fork to the exec, or to its failure; `None`: it hangs for ever.
    pub exec_after: Option<Millis>,
    /// When it has its handlers; `None`: it never has any.
    pub catches_at: Option<Millis>,
    /// It takes its signals by signalfd(2), which blocks them, rather than by handlers.
    pub blocks: bool,
    pub blocks_all: bool,
    pub ignores_term: bool,
    /// From TERM to its end, and the code of that.
    pub term: (Millis, i32),
    /// From the signal that kills it to its death.
    pub dying: Millis,
    pub dies_at: Option<(Millis, End)>,
    pub forks_at: Option<(Millis, Kind)>,
    /// It reaps its own children.
    pub reaps: bool,
    pub members: Members,
}

/// What the processes do that it forks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Members {
    /// Die of a TERM.
    Die,
    /// Are done with their work so much later.
    Finish(Millis),
    /// End by themselves so long after their fork, asked or not.
    Brief(Millis),
    IgnoreTerm,
    /// Fork at each TERM, and end then.
    Fork,
}

/// What a probe does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It exits with this code, so much later.
    Exits(Millis, i32),
    Hangs,
    NoFork,
}

impl Answer {
    /// What the n-th probe of a daemon does.
    pub fn draw(seed: u64, daemon: usize, n: u64) -> Self {
        let mut rng = Rng::new(seed ^ (daemon as u64 + 7).wrapping_mul(0xa24b) ^ n.wrapping_mul(0x2_0000_0003));
        match rng.below(16) {
            0..=4 => Self::Exits(*rng.pick(&[0, 1, 30, 400]), 0),
            5..=11 => Self::Exits(*rng.pick(&[0, 1, 30, 400]), *rng.pick(&[1, 1, 126, 127])),
            // Just in time, and just too late.
            12 => Self::Exits(9_999, 0),
            13 => Self::Exits(10_001, 0),
            14 => Self::Hangs,
            _ => Self::NoFork,
        }
    }
}

/// Where a daemon's worker lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In the daemon's group.
    Worker,
    /// In a group of its own, in the daemon's session.
    Group,
    /// In a session of its own.
    Away,
    /// In the daemon's group, init's child from the start: its parent has ended.
    Orphan,
}

/// What the table makes of a daemon, as far as it concerns how its processes are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Role {
    pub is_oneshot: bool,
    /// Its policy starts it again.
    pub is_kept: bool,
}

/// Nothing out of the ordinary.
pub const PLAIN: Nature = Nature {
    exec: Exec::Works,
    exec_after: Some(0),
    catches_at: Some(5),
    blocks: false,
    blocks_all: false,
    ignores_term: false,
    term: (5, 0),
    dying: 0,
    dies_at: None,
    forks_at: None,
    reaps: true,
    members: Members::Die,
};

impl Nature {
    pub fn draw(seed: u64, daemon: usize, generation: u64, role: Role) -> Self {
        let mut rng =
            Rng::new(seed ^ (daemon as u64 + 1).wrapping_mul(0x9e6d) ^ generation.wrapping_mul(0x1_0000_0001));
        // What it is like in all its generations.
        let mut whole = Rng::new(seed ^ (daemon as u64 + 1).wrapping_mul(0x51ed));
        let mut nature = Self::draw_life(&mut rng);
        if role.is_oneshot {
            let fails = *whole.pick(&[0, 0, 1, 2, 5, u64::MAX]);
            let code = if generation > fails { 0 } else { *whole.pick(&[1, 2, 255]) };
            let after = *rng.pick(&[0, 1, 30, 900, 12_000]);
            nature.dies_at = (!whole.one_in(12)).then_some((after, End::Code(code)));
        } else if role.is_kept && whole.one_in(3) {
            // It crashes again and again.
            let end = *whole.pick(&[End::Code(0), End::Code(1), End::Code(1), End::Signal(SEGV)]);
            let after = *whole.pick(&[0, 1, 30, 3_000, 9_990, 10_010]);
            nature.dies_at = Some((after, end));
        }
        nature
    }

    fn draw_life(rng: &mut Rng) -> Self {
        if rng.one_in(3) {
            return PLAIN;
        }
        let end = |rng: &mut Rng| match rng.below(4) {
            0 => End::Code(0),
            1 => End::Signal(SEGV),
            _ => End::Code(i32::try_from(rng.below(256)).unwrap_or(0)),
        };
        Self {
            exec: match rng.below(24) {
                0 => Exec::NoFork,
                1 => Exec::NotFound,
                2 => Exec::Denied,
                _ => Exec::Works,
            },
            exec_after: *rng.pick(&[Some(0), Some(0), Some(0), Some(0), Some(1), Some(30), Some(5_000), None]),
            catches_at: *rng.pick(&[None, Some(0), Some(1), Some(7), Some(30), Some(400), Some(3_000), Some(25_000)]),
            blocks: rng.one_in(4),
            blocks_all: rng.one_in(2),
            ignores_term: rng.one_in(5),
            term: (*rng.pick(&[0, 0, 2, 40, 900, 6_000]), *rng.pick(&[0, 0, 0, 1, 15, 143])),
            dying: *rng.pick(&[0, 0, 0, 1, 4, 50, 2_500]),
            dies_at: rng.one_in(5).then(|| (*rng.pick(&[0, 1, 10, 500, 9_000]), end(rng))),
            forks_at: rng.one_in(3).then(|| (*rng.pick(&[0, 3, 60]), Kind::draw(rng))),
            reaps: !rng.one_in(4),
            members: *rng.pick(&[
                Members::Die,
                Members::Finish(3),
                Members::Finish(700),
                Members::Brief(5),
                Members::Brief(1_200),
                Members::IgnoreTerm,
                Members::Fork,
            ]),
        }
    }
}

impl Kind {
    pub fn draw(rng: &mut Rng) -> Self {
        *rng.pick(&[Self::Worker, Self::Worker, Self::Group, Self::Away, Self::Orphan])
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Alive,
    /// A signal has killed it, and it isn't gone yet: it takes up its pid and its port still.
    Dying(End),
    Zombie(End),
}

#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Process {
    pub uid: Uid,
    pub pid: i32,
    pub parent: Uid,
    pub pgid: i32,
    pub sid: i32,
    /// The daemon in whose session it was born, and that process.
    pub family: Option<(usize, Uid)>,
    pub life: Life,
    pub stopped: bool,
    /// Another process traces it: init doesn't see its end.
    pub traced: bool,
    /// It was forked when its parent was asked to end.
    pub late: bool,
    /// The signal that asks it to end.
    pub stop: i32,
    /// It asks this daemon whether it is ready.
    pub probes: Option<usize>,
    /// It is its program, and no copy of init any more.
    pub executed: bool,
    pub caught: u64,
    pub blocked: u64,
    pub pending: u64,
    /// It blocks every signal for a moment: libc in a fork(2), vfork(2).
    pub is_veiled: bool,
    pub nature: Nature,
}

impl Process {
    /// What `/proc/PID/status` shows as `SigBlk`.
    pub fn mask(&self) -> u64 {
        if self.is_veiled { !(bit(KILL) | bit(STOP)) } else { self.blocked }
    }
}

#[derive(Clone, Copy, Debug)]
enum Do {
    Finish,
    End(End),
    Catch,
    Fork(Kind),
    Unveil,
    Untrace,
    Exec,
    /// What its exec failed with is told; it exits.
    Fail(i32),
}

/// Whether it is of a daemon's session, and doesn't lead it.
fn is_member(p: &Process) -> bool {
    p.family.is_some() && p.sid != p.pid
}

/// The kernel.
#[derive(Debug)]
pub struct Kernel {
    pub now: Millis,
    pub processes: Vec<Process>,
    /// What is to come by itself, of which process.
    agenda: Vec<(Millis, Uid, Do)>,
    /// Signals that wait for init: each standard one once, SIGCHLD apart.
    pub signals: Vec<i32>,
    pub sigchld: bool,
    /// What came of execs, and init hasn't read yet: `Err` is the exit code. A pipe that is closed by a death says Ok.
    pub execs: Vec<(i32, Result<(), i32>)>,
    last_pid: i32,
    last_uid: Uid,
    /// The OOM kills that the memory cgroup has counted and init hasn't read.
    pub oom_kills: u64,
    pub pids: i32,
    pub reused: bool,
    pub coalesced: bool,
}

impl Kernel {
    pub fn new() -> Self {
        Self {
            now: 0,
            processes: Vec::new(),
            agenda: Vec::new(),
            signals: Vec::new(),
            sigchld: false,
            execs: Vec::new(),
            last_pid: 1,
            last_uid: 0,
            oom_kills: 0,
            pids: 300,
            reused: false,
            coalesced: false,
        }
    }

    pub fn boot(&mut self, pids: i32) {
        self.processes.clear();
        self.agenda.clear();
        self.signals.clear();
        self.execs.clear();
        self.now = 1_000;
        (self.sigchld, self.last_pid, self.last_uid, self.pids) = (false, 1, 0, pids);
        (self.reused, self.coalesced, self.oom_kills) = (false, false, 0);
    }

    pub fn moment(&self) -> Duration {
        Duration::from_millis(self.now)
    }

    pub fn by_uid(&self, uid: Uid) -> Option<usize> {
        self.processes.iter().position(|p| p.uid == uid)
    }

    pub fn by_pid(&self, pid: i32) -> Option<usize> {
        self.processes.iter().position(|p| p.pid == pid)
    }

    /// The living processes of a session, without its leader.
    pub fn members(&self, sid: i32) -> Vec<i32> {
        let is_alive = |p: &&Process| !matches!(p.life, Life::Zombie(_));
        if self.processes.iter().any(|p| p.pid == sid && p.life == Life::Alive) {
            return Vec::new();
        }
        self.processes.iter().filter(is_alive).filter(|p| p.sid == sid && p.pid != sid).map(|p| p.pid).collect()
    }

    pub fn has_group(&self, pgid: i32) -> bool {
        self.processes.iter().any(|p| p.pgid == pgid)
    }

    /// The next pid in turn that no process, group or session has: `alloc_pid` in the kernel.
    fn free_pid(&mut self) -> Option<i32> {
        let mut pid = self.last_pid;
        for _ in 0..self.pids {
            pid = if pid >= self.pids { 2 } else { pid + 1 };
            self.reused |= pid < self.last_pid;
            if self.processes.iter().all(|p| p.pid != pid && p.pgid != pid && p.sid != pid) {
                self.last_pid = pid;
                return Some(pid);
            }
        }
        None
    }

    fn add(&mut self, parent: Uid, like: Option<usize>, nature: Nature) -> Option<usize> {
        let pid = self.free_pid()?;
        self.last_uid += 1;
        let like = like.and_then(|i| self.processes.get(i));
        let process = Process {
            uid: self.last_uid,
            pid,
            parent,
            pgid: like.map_or(pid, |p| p.pgid),
            sid: like.map_or(pid, |p| p.sid),
            family: like.and_then(|p| p.family),
            life: Life::Alive,
            stopped: false,
            traced: false,
            late: false,
            stop: like.map_or(TERM, |p| p.stop),
            probes: None,
            executed: true,
            caught: 0,
            blocked: 0,
            pending: 0,
            is_veiled: false,
            nature,
        };
        self.processes.push(process);
        Some(self.processes.len() - 1)
    }

    /// fork(2) and setsid(2) of a daemon, with the mask that init hands down; its exec follows.
    pub fn start(&mut self, daemon: usize, nature: Nature, exec: Exec, blocked: u64, stop: i32) -> Option<(Uid, i32)> {
        let index = self.add(0, None, nature)?;
        let p = self.processes.get_mut(index)?;
        (p.family, p.stop) = (Some((daemon, p.uid)), stop);
        p.blocked = blocked;
        p.executed = false;
        let (uid, pid, now) = (p.uid, p.pid, self.now);
        let then = match exec {
            Exec::Works => Do::Exec,
            Exec::NotFound => Do::Fail(127),
            Exec::Denied | Exec::NoFork => Do::Fail(126),
        };
        match nature.exec_after {
            Some(0) => self.exec(index, then),
            Some(after) => self.agenda.push((now + after, uid, then)),
            None => {}
        }
        Some((uid, pid))
    }

    /// A child of init's, in a session of its own, that asks a daemon whether it is ready; it may have a child itself.
    pub fn probe(&mut self, daemon: usize, answer: Answer, has_worker: bool) -> Option<(Uid, i32)> {
        if answer == Answer::NoFork {
            return None;
        }
        let index = self.add(0, None, PLAIN)?;
        let p = self.processes.get_mut(index)?;
        p.probes = Some(daemon);
        let (uid, pid) = (p.uid, p.pid);
        if has_worker {
            self.fork(index, Kind::Worker);
        }
        match answer {
            Answer::Exits(0, code) => self.die(index, End::Code(code)),
            Answer::Exits(after, code) => self.agenda.push((self.now + after, uid, Do::End(End::Code(code)))),
            Answer::Hangs | Answer::NoFork => {}
        }
        Some((uid, pid))
    }

    fn exec(&mut self, index: usize, what: Do) {
        let Some(p) = self.processes.get_mut(index) else { return };
        if p.life != Life::Alive {
            return;
        }
        if let Do::Fail(code) = what {
            self.execs.push((p.pid, Err(code)));
            p.executed = true;
            return self.die(index, End::Code(code));
        }
        p.executed = true;
        self.execs.push((p.pid, Ok(())));
        let (uid, nature, now) = (p.uid, p.nature, self.now);
        if let Some(after) = nature.catches_at {
            self.agenda.push((now + after, uid, Do::Catch));
        }
        if let Some((after, end)) = nature.dies_at {
            self.agenda.push((now + after, uid, Do::End(end)));
        }
        if let Some((after, kind)) = nature.forks_at {
            self.agenda.push((now + after, uid, Do::Fork(kind)));
        }
    }

    pub fn fork(&mut self, parent: usize, kind: Kind) {
        let Some(p) = self.processes.get(parent) else { return };
        if p.life != Life::Alive || p.stopped || !p.executed {
            return;
        }
        let (parent_uid, nature) = (p.uid, p.nature);
        let of = if kind == Kind::Orphan { 0 } else { parent_uid };
        let (term, ignores_term) = match nature.members {
            Members::Finish(after) => ((after, 0), false),
            members => (PLAIN.term, members == Members::IgnoreTerm),
        };
        let nature = Nature { dying: nature.dying, members: nature.members, term, ignores_term, ..PLAIN };
        let Some(index) = self.add(of, Some(parent), nature) else { return };
        let Some(p) = self.processes.get_mut(index) else { return };
        match kind {
            Kind::Worker | Kind::Orphan => {}
            Kind::Group => p.pgid = p.pid,
            Kind::Away => (p.pgid, p.sid, p.family) = (p.pid, p.pid, None),
        }
        if matches!(nature.members, Members::Finish(_)) && kind != Kind::Away {
            p.caught |= bit(p.stop);
        }
        let uid = p.uid;
        if let Members::Brief(after) = nature.members {
            self.agenda.push((self.now + after, uid, Do::End(End::Code(0))));
        }
    }

    /// An orphan that init inherits: nothing to do with any daemon any more.
    pub fn orphan(&mut self, is_dead: bool) {
        let Some(index) = self.add(0, None, PLAIN) else { return };
        if is_dead {
            self.die(index, End::Code(0));
        }
    }

    /// kill(2) with a pid.
    pub fn kill(&mut self, pid: i32, signal: i32) -> bool {
        let Some(index) = self.by_pid(pid) else { return false };
        self.send(index, signal);
        true
    }

    /// kill(2) with a process group. It takes the whole group at once: a fork(2) under way in it fails.
    pub fn kill_group(&mut self, pgid: i32, signal: i32) -> bool {
        // Zombies count: kill(2) succeeds on them. A process that is reaped meanwhile moves the ones behind it.
        let uids: Vec<Uid> = self.processes.iter().filter(|p| p.pgid == pgid).map(|p| p.uid).collect();
        for uid in &uids {
            if let Some(index) = self.by_uid(*uid) {
                self.send(index, signal);
            }
        }
        !uids.is_empty()
    }

    fn send(&mut self, index: usize, signal: i32) {
        let Some(p) = self.processes.get_mut(index) else { return };
        if p.life != Life::Alive || signal == 0 {
            return;
        }
        match signal {
            KILL => self.die(index, End::Signal(KILL)),
            STOP => p.stopped = true,
            CONT => {
                p.stopped = false;
                self.deliver_pending(index);
            }
            _ => {
                p.pending |= bit(signal);
                self.deliver_pending(index);
            }
        }
    }

    fn deliver_pending(&mut self, index: usize) {
        while let Some(p) = self.processes.get_mut(index) {
            // signalfd(2): the daemon blocks the signal and reads it.
            let taken_by_fd = if p.nature.blocks { p.caught } else { 0 };
            let ready = p.pending & !(p.blocked & !taken_by_fd);
            if p.stopped || p.is_veiled || p.life != Life::Alive || ready == 0 {
                return;
            }
            let signal = ready.trailing_zeros().cast_signed() + 1;
            p.pending &= !bit(signal);
            let (uid, nature, is_caught) = (p.uid, p.nature, p.caught & bit(signal) != 0);
            let is_term = signal == p.stop;
            if is_term && nature.ignores_term {
                continue;
            }
            if is_term && nature.members == Members::Fork && self.processes.get(index).is_some_and(is_member) {
                // One child, of a kind that doesn't fork again.
                self.fork(index, Kind::Group);
                if let Some(child) = self.processes.last_mut().filter(|child| child.parent == uid) {
                    child.nature.members = Members::Die;
                    child.late = true;
                }
            }
            if is_caught {
                if is_term {
                    let (after, code) = nature.term;
                    self.agenda.push((self.now + after, uid, Do::End(End::Code(code))));
                }
            } else if !matches!(signal, CHLD | URG | WINCH) {
                self.die(index, End::Signal(signal));
                return;
            }
        }
    }

    /// The process begins to end.
    pub fn die(&mut self, index: usize, end: End) {
        let Some(p) = self.processes.get_mut(index) else { return };
        if p.life != Life::Alive {
            return;
        }
        let (uid, after) = (p.uid, p.nature.dying);
        p.life = Life::Dying(end);
        if after == 0 {
            self.finish(uid);
        } else {
            self.agenda.push((self.now + after, uid, Do::Finish));
        }
    }

    /// The process has ended: its children are init's now, and its parent hears of it.
    fn finish(&mut self, uid: Uid) {
        let Some(index) = self.by_uid(uid) else { return };
        let Some(p) = self.processes.get_mut(index) else { return };
        let Life::Dying(end) = p.life else { return };
        p.life = Life::Zombie(end);
        if !std::mem::replace(&mut p.executed, true) {
            self.execs.push((p.pid, Ok(())));
        }
        let parent = p.parent;
        let traced = p.traced;
        for child in self.processes.iter_mut().filter(|p| p.parent == uid) {
            child.parent = 0;
            if matches!(child.life, Life::Zombie(_)) {
                self.coalesced |= self.sigchld;
                self.sigchld = true;
            }
        }
        if traced {
            return;
        }
        if parent == 0 {
            self.coalesced |= self.sigchld;
            self.sigchld = true;
            return;
        }
        let reaps = |p: &Process| p.uid == parent && p.nature.reaps && p.life == Life::Alive;
        if self.processes.iter().any(reaps) {
            self.processes.retain(|p| p.uid != uid);
        }
    }

    /// The kernel's OOM killer takes it.
    pub fn kill_for_memory(&mut self, index: usize) {
        if self.processes.get(index).is_some_and(|p| p.life == Life::Alive) {
            self.oom_kills += 1;
            self.send(index, KILL);
        }
    }

    /// Another process traces it for so long.
    pub fn trace(&mut self, index: usize, millis: Millis) {
        let Some(p) = self.processes.get_mut(index) else { return };
        if p.life == Life::Alive && !std::mem::replace(&mut p.traced, true) {
            self.agenda.push((self.now + millis, p.uid, Do::Untrace));
        }
    }

    /// No process runs for so long.
    pub fn freeze(&mut self, millis: Millis) {
        self.agenda.iter_mut().for_each(|(at, ..)| *at += millis);
    }

    pub fn reap(&mut self, pid: i32) {
        self.processes.retain(|p| p.pid != pid);
    }

    /// The handlers are in place now.
    pub fn catch(&mut self, index: usize) {
        let Some(p) = self.processes.get_mut(index) else { return };
        if p.life != Life::Alive || !p.executed {
            return;
        }
        let wanted = bit(HUP) | bit(USR2) | bit(TERM) | bit(WINCH) | bit(35) | bit(p.stop);
        p.caught |= wanted;
        if p.nature.blocks {
            p.blocked |= if p.nature.blocks_all { !(bit(KILL) | bit(STOP)) } else { wanted };
        }
    }

    /// The process blocks every signal for a while.
    pub fn veil(&mut self, index: usize, millis: Millis) {
        let Some(p) = self.processes.get_mut(index) else { return };
        p.is_veiled = true;
        self.agenda.push((self.now + millis, p.uid, Do::Unveil));
    }

    /// When something comes by itself.
    pub fn next(&self) -> Option<Millis> {
        self.agenda.iter().map(|(at, ..)| *at).min()
    }

    /// Does one thing that is due.
    pub fn step(&mut self) -> bool {
        let due = |(_, (at, ..)): &(usize, &(Millis, Uid, Do))| *at <= self.now;
        let Some((at, _)) = self.agenda.iter().enumerate().filter(due).min_by_key(|(i, (at, ..))| (*at, *i)) else {
            return false;
        };
        let (_, uid, what) = self.agenda.remove(at);
        let Some(index) = self.by_uid(uid) else { return true };
        let is_stopped = self.processes.get(index).is_some_and(|p| p.stopped);
        match what {
            Do::Finish => self.finish(uid),
            Do::Untrace => {
                if let Some(p) = self.processes.get_mut(index) {
                    p.traced = false;
                    self.sigchld |= p.parent == 0 && matches!(p.life, Life::Zombie(_));
                }
            }
            Do::Unveil => {
                if let Some(p) = self.processes.get_mut(index) {
                    p.is_veiled = false;
                }
                self.deliver_pending(index);
            }
            // A stopped process does nothing until it goes on.
            _ if is_stopped => self.agenda.push((self.now + 7, uid, what)),
            Do::End(end) => self.die(index, end),
            Do::Catch => self.catch(index),
            Do::Fork(kind) => self.fork(index, kind),
            Do::Exec | Do::Fail(_) => self.exec(index, what),
        }
        true
    }

    /// A signal for init. A standard one that waits already is not queued again.
    pub fn signal(&mut self, signal: i32) {
        if signal >= 34 || !self.signals.contains(&signal) {
            self.signals.push(signal);
        }
    }
}
