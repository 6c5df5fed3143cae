//! A simulated bundle as a change meets it: the disk, init, the daemon whose file is changed. Its clock moves when told.

use std::collections::BTreeMap;

use sidecar::change::transaction::Mark;
use sidecar::status::{Daemon, DaemonState, InitState, Last, LastExit, Outcome, Page, Plan, SCHEMA, Status, Wired};
use sidecar::table::Ready;

use crate::plants::Plant;

/// How long a step of the clock is, in milliseconds.
pub const TICK: u64 = 25;
/// How long a daemon must stay ready.
pub const SETTLE: u64 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Old,
    New,
    /// A person's.
    Theirs,
}

/// What a daemon makes of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    Good,
    /// It ends when it reads it.
    Dies,
    /// It ends before it has settled.
    DiesSoon,
    /// It runs and never gets ready; on a reload: it never says what it made of it.
    NeverReady,
    /// It can't be executed; on a reload: it refuses.
    Refuses,
}

/// The files of the one daemon.
#[derive(Clone, Debug)]
pub struct Disk {
    pub path: Content,
    pub staged: Option<Content>,
    pub kept: Option<Content>,
    pub record: Option<Mark>,
    /// Whether the record is this transaction's.
    pub is_ours: bool,
    /// A person's content was put beside the file.
    pub aside: bool,
    /// What a person has written over, and what the record said then.
    pub over: Option<(Content, Option<Mark>)>,
}

/// What init does, as far as a change can tell.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of the world, not a mode")]
pub struct Bundle {
    pub now: u64,
    pub disk: Disk,
    /// init and all else runs.
    pub is_up: bool,
    pub is_stopping: bool,
    ends_at: u64,
    pub state: DaemonState,
    pub generation: u64,
    /// What the running process has read.
    pub serves: Option<Content>,
    born: u64,
    gone_at: u64,
    starts_again: bool,
    last_exit: Option<LastExit>,
    restart: Option<(u64, Outcome)>,
    forward: Option<(u64, Outcome, Option<i32>)>,
    /// What is pending, and when it is served: a restart, or a forward.
    pending: Vec<(bool, u64)>,
    /// Since when the running process has been ready.
    ready_since: Option<u64>,
    /// Since when the last reload was obeyed.
    pub obeyed_at: Option<u64>,
    /// By content: old, new, a person's.
    pub natures: [Nature; 3],
    pub ready: Option<Ready>,
    /// How long it takes to end, to get ready, and to install its handler.
    pub slow: u64,
    /// Another's apply, or this one's helper, holds the lock.
    pub locked: bool,
    /// The daemon died, or was restarted, by another's doing.
    pub disturbed: bool,
    /// Starts since the file was last put back.
    pub starts_since_back: u64,
    pub plant: Option<Plant>,
    pub log: Option<Vec<String>>,
}

impl Bundle {
    pub fn new([old, new]: [Nature; 2], ready: Option<Ready>, slow: u64, was_dead: bool, plant: Option<Plant>) -> Self {
        let last_exit = Some(LastExit { code: Some(1), signal: None, by_init: false });
        Self {
            now: 1_000,
            disk: Disk {
                path: Content::Old,
                staged: None,
                kept: None,
                record: None,
                is_ours: false,
                aside: false,
                over: None,
            },
            is_up: true,
            is_stopping: false,
            ends_at: 0,
            state: if was_dead { DaemonState::Exited } else { DaemonState::Running },
            generation: 3,
            serves: (!was_dead).then_some(Content::Old),
            born: 0,
            gone_at: 0,
            starts_again: false,
            last_exit: last_exit.filter(|_| was_dead),
            restart: Some((2, Outcome::Restarted)),
            forward: Some((1, Outcome::Delivered, Some(0))),
            pending: Vec::new(),
            ready_since: (!was_dead).then_some(0),
            obeyed_at: None,
            natures: [old, new, Nature::Good],
            ready,
            slow,
            locked: false,
            disturbed: false,
            starts_since_back: 0,
            plant,
            log: None,
        }
    }

    pub fn say(&mut self, text: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(log) = &mut self.log {
            log.push(format!("{now:>6} ms  {}", text()));
        }
    }

    pub fn nature(&self) -> Nature {
        self.nature_of(self.serves.unwrap_or(self.disk.path))
    }

    pub fn nature_of(&self, content: Content) -> Nature {
        self.natures[content as usize]
    }

    /// A person saves the file, whatever lies there.
    pub fn save(&mut self, nature: Nature) {
        self.say(|| format!("a person saves the file: {nature:?}"));
        if self.disk.path != Content::Theirs {
            self.disk.over = Some((self.disk.path, self.disk.record));
        }
        (self.disk.path, self.natures[Content::Theirs as usize]) = (Content::Theirs, nature);
    }

    /// A person wrote over what nobody has settled.
    pub fn is_over_interrupted(&self) -> bool {
        self.disk.path == Content::Theirs && self.disk.over == Some((Content::New, Some(Mark::Interrupted)))
    }

    /// A signal has come: it is served at the next step.
    pub fn signal(&mut self, is_restart: bool, after: u64) {
        if self.is_up {
            self.pending.push((is_restart, self.now + after));
        }
    }

    /// docker stop: TERM to the daemons, and an end of all soon.
    pub fn stop(&mut self, soon: bool) {
        self.say(|| "docker stop".to_owned());
        self.is_stopping = true;
        self.ends_at = self.now + if soon { TICK } else { 20 * TICK };
        self.starts_again = false;
        if self.state == DaemonState::Running {
            self.state = DaemonState::Stopping;
            self.gone_at = self.now;
        }
    }

    /// docker kill: nothing runs any more; the disk stays.
    pub fn kill(&mut self) {
        self.say(|| "the bundle is killed".to_owned());
        self.is_up = false;
        self.locked = false;
        self.pending.clear();
        self.end(DaemonState::Exited, Some(137));
    }

    /// It is started anew.
    pub fn boot(&mut self) {
        self.say(|| "the bundle starts again".to_owned());
        (self.is_up, self.is_stopping, self.starts_again, self.generation) = (true, false, false, 0);
        (self.restart, self.forward, self.last_exit) = (None, None, None);
        self.start();
    }

    fn end(&mut self, state: DaemonState, code: Option<i32>) {
        if self.serves.is_some() {
            self.say(|| "the daemon's process has ended".to_owned());
        }
        (self.state, self.serves, self.ready_since, self.obeyed_at) = (state, None, None, None);
        self.last_exit = Some(LastExit { code, signal: None, by_init: false });
        if let Some((_, outcome, None)) = &mut self.forward
            && *outcome == Outcome::Held
        {
            *outcome = Outcome::NeverCaught;
        }
    }

    /// It dies of something else.
    pub fn die(&mut self) {
        if self.state == DaemonState::Running {
            self.disturbed = true;
            self.end(DaemonState::Exited, Some(9));
        }
    }

    /// init settles what was interrupted, where nobody is at it, before it starts the daemon.
    fn settle(&mut self) {
        let is_free = !self.locked || self.plant == Some(Plant::InitSettlesUnderTheLock);
        if self.disk.record != Some(Mark::Interrupted) || !is_free {
            return;
        }
        if self.disk.path == Content::Theirs {
            self.say(|| "init leaves what a person wrote".to_owned());
            self.disk.record = Some(Mark::NotProven);
            (self.disk.staged, self.disk.kept) = (None, None);
            return;
        }
        if self.disk.kept == Some(Content::Old) {
            self.disk.path = Content::Old;
        }
        if self.disk.path == Content::Old {
            self.say(|| "init puts the old content back".to_owned());
            self.disk.record = Some(Mark::RolledBack);
            (self.disk.staged, self.disk.kept) = (None, None);
        }
    }

    fn start(&mut self) {
        self.settle();
        self.generation += 1;
        self.starts_since_back += 1;
        let content = self.disk.path;
        self.say(|| format!("the daemon starts with {content:?}"));
        if self.nature_of(content) == Nature::Refuses {
            (self.state, self.serves) = (DaemonState::Failed, None);
            self.last_exit = Some(LastExit { code: Some(127), signal: None, by_init: false });
        } else {
            (self.state, self.serves, self.born) = (DaemonState::Running, Some(content), self.now);
        }
        (self.ready_since, self.obeyed_at) = (None, None);
        let outcome = if self.state == DaemonState::Failed { Outcome::Failed } else { Outcome::Restarted };
        if let Some((_, last)) = &mut self.restart {
            *last = outcome;
        }
    }

    fn serve(&mut self, is_restart: bool) {
        self.say(|| format!("init serves a {}", if is_restart { "restart" } else { "forward" }));
        let seq = 1 + if is_restart { self.restart.map_or(0, |r| r.0) } else { self.forward.map_or(0, |f| f.0) };
        if !is_restart {
            let is_served = !self.is_stopping && self.state == DaemonState::Running;
            self.obeyed_at = None;
            self.forward = Some((seq, if is_served { Outcome::Held } else { Outcome::Refused }, None));
            return;
        }
        self.restart = Some((seq, if self.is_stopping { Outcome::Refused } else { Outcome::Restarting }));
        match self.state {
            _ if self.is_stopping => {}
            DaemonState::Running => {
                (self.state, self.starts_again, self.gone_at) = (DaemonState::Stopping, true, self.now + self.slow);
            }
            // That start is it.
            DaemonState::Starting => {}
            DaemonState::Stopping => self.starts_again = true,
            DaemonState::Exited | DaemonState::Failed => self.start(),
        }
    }

    /// The daemon takes the signal that it was sent.
    fn reload(&mut self, seq: u64) {
        let content = self.disk.path;
        let notifies = self.ready == Some(Ready::Notify);
        self.say(|| format!("the daemon reloads {content:?}"));
        let errno = match self.nature_of(content) {
            Nature::Dies => {
                self.forward = Some((seq, Outcome::Delivered, None));
                self.end(DaemonState::Exited, Some(1));
                return;
            }
            Nature::Refuses => Some(22),
            Nature::NeverReady => None,
            Nature::Good | Nature::DiesSoon => {
                (self.serves, self.obeyed_at, self.born) = (Some(content), Some(self.now), self.now - self.slow);
                Some(0)
            }
        };
        self.forward = Some((seq, Outcome::Delivered, errno.filter(|_| notifies)));
    }

    /// Time goes on by one step.
    pub fn tick(&mut self) {
        self.now += TICK;
        if !self.is_up {
            return;
        }
        if self.is_stopping && self.now >= self.ends_at {
            self.kill();
            return;
        }
        let due: Vec<bool> =
            self.pending.iter().filter(|(_, at)| *at <= self.now).map(|(is_restart, _)| *is_restart).collect();
        self.pending.retain(|(_, at)| *at > self.now);
        for is_restart in due {
            self.serve(is_restart);
        }
        if self.state == DaemonState::Stopping && self.now >= self.gone_at {
            self.end(DaemonState::Exited, Some(143));
            if std::mem::take(&mut self.starts_again) && !self.is_stopping {
                self.start();
            }
        }
        if self.state == DaemonState::Running {
            if let Some((seq, Outcome::Held, _)) = self.forward
                && self.now >= self.born + self.slow
            {
                self.reload(seq);
            }
            match self.nature() {
                Nature::Dies => self.end(DaemonState::Exited, Some(1)),
                Nature::DiesSoon
                    if self.serves == Some(Content::New) && self.ready_for().is_some_and(|ready| ready >= 2 * TICK) =>
                {
                    self.end(DaemonState::Exited, Some(1));
                }
                _ => {}
            }
        }
        if self.is_ready() {
            self.ready_since.get_or_insert(self.now);
        } else {
            self.ready_since = None;
        }
    }

    /// Whether the running process serves.
    pub fn is_ready(&self) -> bool {
        let is_up = self.state == DaemonState::Running && (self.ready.is_none() || self.now >= self.born + self.slow);
        is_up && (self.nature() != Nature::NeverReady || self.ready.is_none())
    }

    /// For how long it has.
    pub fn ready_for(&self) -> Option<u64> {
        self.ready_since.map(|since| self.now - since)
    }

    /// What init publishes.
    pub fn page(&self) -> Page {
        let last = |seq, outcome, reload_errno| Last { seq, outcome, age_ms: 0, reload_errno };
        let name = || "filter".to_owned();
        let restart = Wired {
            forward: None,
            restart: Some(name()),
            last: self.restart.map(|(seq, outcome)| last(seq, outcome, None)),
        };
        let forward = Wired {
            forward: Some(name()),
            restart: None,
            last: self.forward.map(|(seq, outcome, errno)| last(seq, outcome, errno)),
        };
        let is_running = matches!(self.state, DaemonState::Running | DaemonState::Stopping);
        let daemon = Daemon {
            name: name(),
            state: self.state,
            pid: is_running.then_some(self.generation as i32 + 10),
            generation: self.generation,
            restarts: 0,
            uptime_ms: is_running.then_some(self.born),
            last_exit: self.last_exit,
            transaction: None,
            ready: None,
        };
        let settle_ms = if self.plant == Some(Plant::NothingSettles) { 0 } else { SETTLE };
        let plan = Plan { ready: self.ready.clone(), notified: self.is_ready(), settle_ms, grace_ms: 0, config: None };
        let status = Status {
            schema: SCHEMA,
            version: String::new(),
            pid: 1,
            state: if self.is_stopping { InitState::Stopping } else { InitState::Running },
            selected: vec![name()],
            unselected: Vec::new(),
            signals: BTreeMap::from([("HUP".to_owned(), forward), ("USR1".to_owned(), restart)]),
            daemons: vec![daemon],
        };
        Page { status, plans: vec![plan], socket: None }
    }
}
