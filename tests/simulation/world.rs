//! The real core on the simulated kernel, event by event, with the judge looking on.

use std::time::Duration;

use sidecar::request::{Request, Verb};
use sidecar::supervisor::{Disposition, Ended, Event, Line, Sent, Supervisor, System};
use sidecar::table::{RestartPolicy, Signal, Table};

use crate::bugs::{Bug, Planted};
use crate::judge::{Broken, Judge, MARKS, Mark};
use crate::kernel::{End, Exec, INT, KILL, Kernel, Life, Millis, QUIT, Role, SEGV, TERM, bit};
use crate::rng::Rng;
use crate::schedule::{Ask, Note, Schedule, Step, What, When};

/// No schedule takes longer than this after its last step: the longest grace and some.
const LONGEST: Millis = 120_000;
/// In a schedule whose daemons end by themselves: how often they do before the bundle is stopped.
const SELF_ENDS: u32 = 12;
/// An init that is woken later than this could not run.
const LATE: Millis = 500;
/// More looks at the clock than this at one moment are spinning, too.
const SPINS: u32 = 100_000;
/// More rounds than this at one moment is spinning.
const ROUNDS: u32 = 1_000;

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub broken: Option<Broken>,
    pub events: u64,
    pub exit: Option<i32>,
}

/// init's surroundings.
#[derive(Debug)]
pub struct World {
    pub kernel: Kernel,
    pub judge: Judge,
    schedule: Schedule,
    refuse: Option<Exec>,
    within: Vec<(u32, What)>,
    notes: Vec<Event>,
    /// What waits in the pipe of requests, and how many there have been.
    requests: Vec<Event>,
    asked: u64,
    /// By slot: what its processes are like, the signal that asks it to stop, and how many probes it has had.
    roles: Vec<Role>,
    stops: Vec<i32>,
    probes: Vec<u64>,
    /// The names of the selected daemons, and of one that isn't.
    names: Vec<String>,
    unselected: Option<String>,
    /// What is served now was planted: the judge must not know of it.
    is_hidden: bool,
    /// The status page: two halves, which are one thing to a reader.
    page: (u64, u64),
    events: u64,
    spins: (Millis, u32),
    pub planted: Planted,
    seen: Vec<(i32, Signal, Disposition)>,
    /// What happened, line by line, where somebody wants to read it.
    pub trace: Option<Vec<String>>,
}

macro_rules! trace {
    ($world:expr, $($what:tt)*) => {
        if let Some(trace) = &mut $world.trace {
            trace.push(format!("{:>7} ms  {}", $world.kernel.now - 1_000, format!($($what)*)));
        }
    };
}

/// Runs a schedule.
pub fn run(schedule: &Schedule, tables: &[Table], bug: Option<Bug>, marks: &mut [u64; MARKS]) -> Outcome {
    let mut world = World::new(schedule, &tables[schedule.table], bug, marks);
    world.run(&tables[schedule.table]);
    *marks = world.judge.marks;
    Outcome { broken: world.judge.broken, events: world.events, exit: world.judge.exited }
}

/// The same, told line by line.
pub fn tell(schedule: &Schedule, tables: &[Table], bug: Option<Bug>) -> Vec<String> {
    let mut world = World::new(schedule, &tables[schedule.table], bug, &[0; MARKS]);
    world.trace = Some(Vec::new());
    world.run(&tables[schedule.table]);
    world.trace.take().unwrap_or_default()
}

impl World {
    pub fn new(schedule: &Schedule, table: &Table, bug: Option<Bug>, marks: &[u64; MARKS]) -> Self {
        let mut kernel = Kernel::new();
        kernel.boot(schedule.pids);
        let selected = || schedule.selected.iter().map(|i| &table.daemons[*i]);
        let role =
            |d: &sidecar::table::Daemon| Role { is_oneshot: d.is_oneshot, is_kept: d.restart != RestartPolicy::No };
        let is_unselected = |i: &usize| !schedule.selected.contains(i);
        Self {
            kernel,
            judge: Judge::new(table, &schedule.selected, schedule.no_masks, marks),
            schedule: schedule.clone(),
            refuse: None,
            within: Vec::new(),
            notes: Vec::new(),
            requests: Vec::new(),
            asked: 0,
            roles: selected().map(role).collect(),
            stops: selected().map(|d| d.stop_signal.number()).collect(),
            probes: vec![0; schedule.selected.len()],
            names: selected().map(|d| d.name.clone()).collect(),
            unselected: (0..table.daemons.len()).find(is_unselected).map(|i| table.daemons[i].name.clone()),
            is_hidden: false,
            page: (0, 0),
            events: 0,
            spins: (0, 0),
            planted: Planted::new(bug, table),
            seen: Vec::new(),
            trace: None,
        }
    }

    fn run(&mut self, table: &Table) {
        let mut core = Supervisor::new(table, &self.schedule.selected);
        let steps = std::mem::take(&mut self.schedule.steps);
        let (before, after): (Vec<Step>, Vec<Step>) = steps.into_iter().partition(|s| s.when == When::Before);
        for step in before {
            self.happen(step.what);
        }
        // As the shell begins: what was pending comes before the first start.
        let mut events = self.signals();
        events.push(Event::Begin);
        self.take(&mut core, events);
        self.work(&mut core);
        for step in after {
            if self.is_over() {
                break;
            }
            match (step.what, step.when) {
                (What::Wait(millis), when) => self.wait(&mut core, millis, when != When::Unserved),
                (What::Pause(millis), _) => self.pause(&mut core, millis),
                (what, When::Within(n)) => self.within.push((n, what)),
                (what, when) => {
                    self.happen(what);
                    if when == When::Served {
                        self.work(&mut core);
                    }
                }
            }
        }
        self.come_to_rest(&mut core);
        if self.kernel.reused {
            self.judge.mark(Mark::PidReused);
        }
        if self.kernel.coalesced {
            self.judge.mark(Mark::Coalesced);
        }
    }

    pub fn is_over(&self) -> bool {
        self.judge.exited.is_some() || self.judge.broken.is_some()
    }

    /// Nothing disturbs any more: init must end.
    fn come_to_rest(&mut self, core: &mut Supervisor) {
        for (_, what) in std::mem::take(&mut self.within) {
            self.happen(what);
        }
        self.work(core);
        let mut until = self.kernel.now + LONGEST;
        let mut rounds = if self.schedule.stop { 0 } else { SELF_ENDS };
        while !self.is_over() && (!self.judge.is_stopping() || self.kernel.now <= until) {
            if !self.judge.is_stopping() {
                until = self.kernel.now + LONGEST;
            }
            if rounds > 0 {
                for daemon in 0..self.judge.daemons() {
                    let is_kept = self.roles[daemon].is_kept;
                    self.happen(if is_kept { What::Exit(daemon, 0) } else { What::Hit(daemon, KILL) });
                }
                rounds -= 1;
                self.work(core);
            } else if !self.judge.is_stopping() {
                // A policy, or a daemon that is stopped on request, keeps it up.
                self.happen(What::Signal(TERM));
                self.work(core);
            }
            let next = [self.kernel.next(), self.due(core)].into_iter().flatten().min();
            // A replacement may have come of the last deaths: they die in the next round.
            let next = next.unwrap_or(if self.judge.is_stopping() { until + 1 } else { 0 });
            self.wait(core, next.saturating_sub(self.kernel.now).max(1), true);
        }
        if self.judge.broken.is_none() {
            self.judge.end();
        }
    }

    fn due(&self, core: &Supervisor) -> Option<Millis> {
        let core = core.next().map(|at| u64::try_from(at.as_micros().div_ceil(1000)).unwrap_or(u64::MAX));
        core.into_iter().chain(self.planted.next()).min()
    }

    /// The clock goes on; init wakes when it is due, unless it doesn't get to run.
    pub fn wait(&mut self, core: &mut Supervisor, millis: Millis, is_served: bool) {
        let until = self.kernel.now + millis;
        while !self.is_over() {
            let next = [self.kernel.next(), self.due(core).filter(|_| is_served)].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= until) else { break };
            self.kernel.now = self.kernel.now.max(next);
            while self.kernel.step() {}
            if is_served {
                self.work(core);
            }
        }
        self.kernel.now = self.kernel.now.max(until);
        if !is_served {
            if self.due(core).is_some_and(|due| due < until) {
                self.judge.mark(Mark::Late);
            }
            self.lose(core, until);
            self.work(core);
        }
    }

    /// The container stands still, and the clock goes on.
    fn pause(&mut self, core: &mut Supervisor, millis: Millis) {
        trace!(self, "  Pause({millis})");
        self.kernel.freeze(millis);
        let until = self.kernel.now + millis;
        self.lose(core, until);
        if self.planted.runs_in_a_pause() {
            return self.wait(core, millis, true);
        }
        self.kernel.now = until;
        self.work(core);
    }

    /// From when init had asked to be woken until then it can't run.
    fn lose(&mut self, core: &Supervisor, until: Millis) {
        let asked = core.next().map(|at| u64::try_from(at.as_millis()).unwrap_or(u64::MAX));
        let lost = asked.map_or(0, |asked| until.saturating_sub(asked));
        if lost > LATE {
            self.judge.lose(lost);
        }
    }

    /// init works for as long as there is work, as the shell's poll loop does.
    pub fn work(&mut self, core: &mut Supervisor) {
        for round in 0.. {
            if self.is_over() {
                return;
            }
            self.planted.before_work(&mut self.kernel, &mut self.judge);
            let is_due = self.due(core).is_some_and(|due| due <= self.kernel.now);
            let is_told = self.kernel.sigchld || !self.kernel.signals.is_empty() || !self.kernel.execs.is_empty();
            let is_told = is_told || !self.notes.is_empty() || !self.requests.is_empty();
            if !is_told && !is_due {
                break;
            }
            if round > ROUNDS {
                self.judge.broken.get_or_insert(Broken { promise: "init never spins", how: String::new() });
                return;
            }
            let mut events = std::mem::take(&mut self.notes);
            for (pid, came) in std::mem::take(&mut self.kernel.execs) {
                events.extend(self.exec_event(pid, came));
            }
            events.extend(self.signals());
            let requests = std::mem::take(&mut self.requests);
            events.extend(requests);
            self.take(core, events);
            self.take_planted(core);
        }
        self.judge.rest(&self.kernel, core);
    }

    fn signals(&mut self) -> Vec<Event> {
        self.planted.sigchld |= std::mem::take(&mut self.kernel.sigchld);
        let event = |signal: i32| match signal {
            TERM | INT | QUIT => Some(Event::Stop),
            _ => Signal::from_number(signal).map(Event::Signal),
        };
        std::mem::take(&mut self.kernel.signals).into_iter().filter_map(event).collect()
    }

    pub fn take(&mut self, core: &mut Supervisor, events: Vec<Event>) {
        if self.planted.waits_in_place(&events) {
            return self.take_and_wait_in_place(core, events);
        }
        if let Some(code) = core.take(self, events) {
            let exit = self.planted.exit(code, &self.judge);
            trace!(self, "init exits {exit}");
            self.judge.exit(exit);
        }
    }

    /// What a bug makes the core believe, and nobody asked for.
    fn take_planted(&mut self, core: &mut Supervisor) {
        for (daemon, verb) in self.planted.believes(&self.kernel, &self.judge) {
            let request = Request { id: "planted".to_owned(), verb, daemon: self.names[daemon].clone() };
            self.is_hidden = true;
            self.take(core, vec![Event::Request(Some(request))]);
            self.is_hidden = false;
        }
    }

    /// A bug that a real init shipped: a restart that is not over until the old process has ended.
    fn take_and_wait_in_place(&mut self, core: &mut Supervisor, events: Vec<Event>) {
        for event in events {
            let wire = match &event {
                Event::Signal(signal) => self.planted.wire(*signal),
                _ => None,
            };
            let target = wire.and_then(|w| self.judge.target(w)).and_then(|d| self.judge.pid(d));
            if let Some(code) = core.take(self, [event]) {
                self.judge.exit(code);
            }
            let Some(pid) = target else { continue };
            for _ in 0..200 {
                let ended = self.kernel.by_pid(pid).and_then(|i| self.kernel.processes.get(i));
                let Some(next) = self.kernel.next() else { break };
                if ended.is_none_or(|p| matches!(p.life, Life::Zombie(_))) {
                    break;
                }
                self.kernel.now = self.kernel.now.max(next.min(self.due(core).unwrap_or(next)));
                while self.kernel.step() {}
                self.judge.rest(&self.kernel, core);
            }
        }
    }

    pub fn happen(&mut self, what: What) {
        trace!(self, "  {what:?}");
        let leader = |world: &Self, daemon| world.judge.pid(daemon).and_then(|pid| world.kernel.by_pid(pid));
        match what {
            What::Wait(_) | What::Pause(_) => {}
            What::Trace(daemon, millis) => {
                if let Some(index) = leader(self, daemon) {
                    self.kernel.trace(index, millis);
                }
            }
            What::Signal(signal) => self.kernel.signal(signal),
            What::Hit(daemon, signal) => {
                if let Some(pid) = self.judge.pid(daemon) {
                    self.kernel.kill(pid, signal);
                }
            }
            What::Exit(daemon, code) => {
                if let Some(index) = leader(self, daemon) {
                    self.kernel.die(index, End::Code(code));
                }
            }
            What::Fork(daemon, kind) => {
                if let Some(index) = leader(self, daemon) {
                    self.kernel.fork(index, kind);
                }
            }
            What::WorkerEnds(n) => {
                let pids: Vec<i32> = (0..self.judge.daemons()).filter_map(|d| self.judge.pid(d)).collect();
                let is_other = |i: &usize| !pids.contains(&self.kernel.processes[*i].pid);
                let nth = (0..self.kernel.processes.len()).filter(is_other).nth(n);
                if let Some(index) = nth {
                    self.kernel.die(index, End::Code(0));
                }
            }
            What::Orphan(is_dead) => self.kernel.orphan(is_dead),
            What::Refuse(exec) => self.refuse = Some(exec),
            What::Catch(daemon) => {
                if let Some(index) = leader(self, daemon) {
                    self.kernel.catch(index);
                }
            }
            What::Veil(daemon, millis) => {
                if let Some(index) = leader(self, daemon) {
                    self.kernel.veil(index, millis);
                }
            }
            What::Note(daemon, note, is_worker) => {
                let Some(leader) = leader(self, daemon).map(|i| &self.kernel.processes[i]) else { return };
                let uid = leader.uid;
                let worker = self.kernel.processes.iter().find(|p| p.parent == uid);
                let sender = if is_worker { worker } else { Some(leader) };
                let Some(sender) = sender else { return };
                let micros = self.kernel.now * 1_000;
                let (ready, reloading, errno) = match note {
                    Note::Ready => (true, None, 0),
                    Note::Reloading => (false, Some(micros), 0),
                    Note::Refused => (true, None, 22),
                };
                let session = Some(sender.sid);
                self.notes.push(Event::Notify { pid: sender.pid, ready, reloading, errno, session });
            }
            What::Request(daemon, ask) => self.ask(daemon, ask),
            What::Burst(n, seed) => {
                let mut rng = Rng::new(seed);
                for _ in 0..n {
                    let daemon = rng.below(self.names.len() as u64) as usize;
                    self.ask(daemon, Ask::draw(&mut rng));
                }
            }
            What::Garbage(is_line) => {
                let name = self.unselected.clone().unwrap_or_else(|| "nobody".to_owned());
                let request = Request { id: "g".to_owned(), verb: Verb::Restart, daemon: name };
                self.requests.push(Event::Request(is_line.then_some(request)));
            }
            What::OutOfMemory(daemon) => {
                if let Some(index) = leader(self, daemon) {
                    self.kernel.kill_for_memory(index);
                }
            }
            What::HitProbe(daemon) => {
                if let Some(pid) = self.judge.probe_of(daemon) {
                    self.kernel.kill(pid, KILL);
                }
            }
            What::Read => {
                self.judge.mark(Mark::PageRead);
                if self.page.0 != self.page.1 {
                    self.judge.broken.get_or_insert(Broken {
                        promise: "a status page is read as a whole",
                        how: format!("{:?}", self.page),
                    });
                }
            }
        }
    }

    fn ask(&mut self, daemon: usize, ask: Ask) {
        let verb = match ask {
            Ask::Restart => Verb::Restart,
            Ask::Stop => Verb::Stop,
            Ask::Start => Verb::Start,
            Ask::Signal(number) => {
                let Some(signal) = Signal::from_number(number) else { return };
                Verb::Signal(signal)
            }
        };
        let Some(name) = self.names.get(daemon) else { return };
        self.asked += 1;
        let request = Request { id: format!("r{}", self.asked), verb, daemon: name.clone() };
        if self.planted.loses_request(self.asked) {
            self.judge.serving(&self.kernel, &Event::Request(Some(request)));
        } else {
            self.requests.push(Event::Request(Some(request)));
        }
    }

    fn exec_event(&self, pid: i32, came: Result<(), i32>) -> Option<Event> {
        let daemon = (0..self.judge.daemons()).find(|d| self.judge.pid(*d) == Some(pid))?;
        Some(match came {
            Ok(()) => Event::Executed { daemon, pid },
            Err(code) => Event::NotExecuted { daemon, pid, code, why: String::new() },
        })
    }

    /// A system call: what happens meanwhile happens before it.
    fn enter(&mut self) {
        if self.within.is_empty() {
            return;
        }
        for (left, _) in &mut self.within {
            *left = left.saturating_sub(1);
        }
        while let Some(at) = self.within.iter().position(|(left, _)| *left == 0) {
            let (_, what) = self.within.remove(at);
            self.happen(what);
        }
    }
}

impl System for World {
    fn now(&mut self) -> Duration {
        self.enter();
        let at = self.kernel.now;
        self.spins = if self.spins.0 == at { (at, self.spins.1 + 1) } else { (at, 0) };
        // The core itself goes round here: nothing but a panic gets out of it.
        assert!(
            self.spins.1 < SPINS,
            "init never spins: it does, at {at} ms; --schedules 1 --seed {}",
            self.schedule.seed
        );
        self.kernel.moment()
    }

    fn serving(&mut self, event: &Event) {
        if self.is_hidden && matches!(event, Event::Request(_)) {
            return;
        }
        if !matches!(
            event,
            Event::Time
                | Event::Ended { .. }
                | Event::Members { .. }
                | Event::MembersKilled { .. }
                | Event::Mask { .. }
        ) {
            trace!(self, "{event:?}");
        }
        self.planted.serving(event, &self.kernel, &self.judge);
        self.judge.serving(&self.kernel, event);
    }

    fn start(&mut self, daemon: usize, generation: u64) -> Event {
        self.enter();
        let nature = self.schedule.nature(daemon, generation, self.roles[daemon]);
        let exec = self.refuse.take().unwrap_or(nature.exec);
        let blocked = self.planted.mask();
        let started = (exec != Exec::NoFork)
            .then(|| self.kernel.start(daemon, nature, exec, blocked, self.stops[daemon]))
            .flatten();
        let came = started.ok_or(126);
        trace!(self, "init: start {daemon} -> {came:?}");
        self.judge.start(&self.kernel, daemon, blocked, came);
        match came {
            Ok((_, pid)) => {
                self.planted.started(daemon, pid);
                Event::Started { daemon, pid }
            }
            Err(code) => Event::StartFailed { daemon, code, why: String::new() },
        }
    }

    fn probe(&mut self, daemon: usize) -> Event {
        self.enter();
        let mut last = Event::ProbeFailed { daemon, why: String::new() };
        for _ in 0..self.planted.probes_at_once() {
            self.probes[daemon] += 1;
            let n = self.probes[daemon];
            let answer = self.schedule.answer(daemon, n);
            let came = self.kernel.probe(daemon, answer, n.is_multiple_of(5));
            trace!(self, "init: probe {daemon} -> {came:?}, {answer:?}");
            self.judge.probe(&self.kernel, daemon, came);
            let Some((_, pid)) = came else {
                return Event::ProbeFailed { daemon, why: "no process left".to_owned() };
            };
            last = Event::ProbeStarted { daemon, pid };
        }
        last
    }

    fn kill(&mut self, pid: i32, signal: i32) -> Sent {
        self.enter();
        let Some((pid, signal)) = self.planted.kill(pid, signal, &self.kernel, &self.judge) else { return Sent::Gone };
        let found = if pid < 0 { self.kernel.has_group(-pid) } else { self.kernel.by_pid(pid).is_some() };
        if signal != 0 {
            trace!(self, "init: kill {pid}, signal {signal}");
        }
        self.judge.kill(&self.kernel, pid, signal);
        if pid < 0 {
            self.kernel.kill_group(-pid, signal)
        } else {
            self.kernel.kill(pid, signal)
        };
        if signal == KILL && self.planted.waits_for_the_traced() {
            let is_traced = |kernel: &Kernel| kernel.processes.iter().any(|p| p.pid == pid && p.traced);
            while let Some(next) = self.kernel.next().filter(|_| is_traced(&self.kernel)) {
                self.kernel.now = self.kernel.now.max(next);
                while self.kernel.step() {}
            }
        }
        if found { Sent::Yes } else { Sent::Gone }
    }

    fn exec_outcome(&mut self, _: usize, pid: i32) -> Option<Event> {
        self.enter();
        let at = self.kernel.execs.iter().position(|(of, _)| *of == pid)?;
        let (_, came) = self.kernel.execs.remove(at);
        self.exec_event(pid, came)
    }

    fn kill_member(&mut self, sid: i32, pid: i32, signal: i32) -> Sent {
        self.enter();
        let signal = self.planted.kill_member(signal);
        let process = self.kernel.by_pid(pid).and_then(|i| self.kernel.processes.get(i));
        if process.is_none_or(|p| p.sid != sid) {
            return Sent::Gone;
        }
        trace!(self, "init: kill member {pid} of {sid}, signal {signal}");
        self.judge.kill_member(&self.kernel, sid, pid, signal);
        self.kernel.kill(pid, signal);
        Sent::Yes
    }

    fn members(&mut self, sid: i32) -> Vec<i32> {
        self.enter();
        let all = self.kernel.members(sid);
        let pids = self.planted.members(&self.kernel, sid, all);
        trace!(self, "init: look at session {sid}: {pids:?}");
        self.judge.looked_at_session(&self.kernel, sid, pids.is_empty());
        pids
    }

    fn ended(&mut self, is_own: impl Fn(i32) -> bool) -> Option<Ended> {
        self.enter();
        if !self.planted.waits() {
            return None;
        }
        let mut zombies = self.kernel.processes.iter().filter_map(|p| match p.life {
            Life::Zombie(end) if p.parent == 0 && !p.traced => Some((p.pid, end, p.probes)),
            _ => None,
        });
        // The kernel has them by age, but the one that SIGCHLD told of comes first.
        let end = if self.events.is_multiple_of(3) { zombies.next_back() } else { zombies.next() };
        let (pid, end, probes) = end?;
        trace!(self, "init: pid {pid} has ended, {end:?}");
        let is_killed = end == End::Signal(KILL);
        let oom_kills = if is_killed { std::mem::take(&mut self.kernel.oom_kills) } else { 0 };
        let words = probes.map_or_else(String::new, |daemon| format!("answer {}", self.probes[daemon]));
        if !is_own(pid) {
            self.reap(pid);
        }
        Some(Ended { pid, end: self.planted.ended(&self.judge, pid, end), oom_kills, words })
    }

    fn reap(&mut self, pid: i32) {
        self.enter();
        trace!(self, "init: reap {pid}");
        let reaped = (0..self.judge.daemons()).find(|daemon| self.judge.pid(*daemon) == Some(pid));
        let reaped = reaped.filter(|daemon| self.roles[*daemon].is_kept);
        self.judge.reap(&self.kernel, pid);
        self.kernel.reap(pid);
        if let Some((group, signal)) = self.planted.reaped(pid) {
            self.judge.kill(&self.kernel, group, signal);
            self.kernel.kill_group(-group, signal);
        }
        if let Some(daemon) = self.planted.starts_in_shutdown(&self.judge, reaped) {
            let _ = self.start(daemon, 1_000);
        }
    }

    fn disposition(&mut self, pid: i32, signal: Signal) -> Disposition {
        self.enter();
        let process = self.kernel.by_pid(pid).and_then(|i| self.kernel.processes.get(i));
        let disposition = match process {
            _ if self.schedule.no_masks => Disposition::Unknown,
            // A zombie has no masks.
            Some(p) if p.life != Life::Alive => Disposition::NotTaken,
            Some(p) if p.caught & bit(signal.number()) != 0 => Disposition::Taken,
            Some(p) if p.mask() & bit(signal.number()) == 0 => Disposition::NotTaken,
            Some(p) if p.mask() & bit(SEGV) != 0 => Disposition::Blocked,
            Some(_) => Disposition::Taken,
            None => Disposition::NotTaken,
        };
        let disposition = self.planted.disposition(disposition);
        // Only where it is news.
        if self.trace.is_some()
            && self.seen.iter().rev().find(|(p, s, _)| (*p, *s) == (pid, signal)).map(|(.., d)| *d) != Some(disposition)
        {
            trace!(self, "init: look whether pid {pid} takes {signal}: {disposition:?}");
            self.seen.push((pid, signal, disposition));
        }
        self.judge.looked(pid, signal.number(), self.kernel.now);
        if disposition == Disposition::Blocked {
            self.judge.mark(Mark::SeenBlocked);
        }
        disposition
    }

    fn tell(&mut self, line: Line) {
        self.judge.said(&line.text, self.kernel.now);
        trace!(self, "init says: {}", line.text);
    }

    fn changed(&mut self, core: &Supervisor) {
        self.events += 1;
        if self.planted.tears_pages() {
            self.page.0 += 1;
            self.enter();
            self.page.1 += 1;
        } else {
            self.enter();
            self.page = (self.page.0 + 1, self.page.0 + 1);
        }
        self.judge.compare(core, self.kernel.now);
    }
}
