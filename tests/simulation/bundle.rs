//! A simulated bundle as a change meets it: the disk, init, the daemon whose file is changed. Its clock moves when told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sidecar::change::reason::{FileFault, FileStep, Reason, RecordedOutcome};
use sidecar::change::record::{self, Attributes, Files, Found, Mount, Name, Record, Stamp};
use sidecar::change::{Stop, Tried, recovery};
use sidecar::request::{Request, Verb};
use sidecar::status::{
    self, Daemon, DaemonState, InitState, Last, LastExit, Outcome, Page, Plan, RequestOutcome, SCHEMA, Status, Wired,
};
use sidecar::table::{Config, Ready};
use sidecar::text::Printable;

use crate::plants::Plant;

/// How long a step of the clock is, in milliseconds.
pub const TICK: u64 = 25;
/// The daemon.
pub const NAME: &str = "filter";
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

/// One file: names that lead to the same one have the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File {
    pub content: Content,
    pub inode: u64,
    changed: i64,
}

/// The files of the one daemon.
#[derive(Clone, Debug)]
pub struct Disk {
    names: [Option<File>; 5],
    pub record: Option<Record>,
    /// Whether the file system knows `RENAME_EXCHANGE` and second names.
    pub is_modern: bool,
    /// What a person has written over, and what the record said then.
    pub over: Option<(Content, Option<RecordedOutcome>)>,
    clock: i64,
}

impl Disk {
    fn new(is_modern: bool) -> Self {
        let mut disk = Self { names: [None; 5], record: None, is_modern, over: None, clock: 1 };
        disk.put(Name::Path, Content::Old);
        disk
    }

    pub fn at(&self, name: Name) -> Option<File> {
        self.names[name as usize]
    }

    /// What lies there; there is always something at the path.
    pub fn content(&self, name: Name) -> Option<Content> {
        self.at(name).map(|file| file.content)
    }

    pub fn path(&self) -> Content {
        self.content(Name::Path).unwrap_or(Content::Old)
    }

    pub fn outcome(&self) -> Option<RecordedOutcome> {
        self.record.as_ref().map(|record| record.outcome)
    }

    pub fn is_interrupted(&self) -> bool {
        self.outcome() == Some(RecordedOutcome::Interrupted)
    }

    fn tick(&mut self) -> i64 {
        self.clock += 1;
        self.clock
    }

    /// A new file.
    pub fn put(&mut self, name: Name, content: Content) {
        let changed = self.tick();
        self.names[name as usize] = Some(File { content, inode: changed.unsigned_abs(), changed });
    }

    /// Whatever leads to the same file sees it change.
    pub fn touch(&mut self, name: Name, content: Option<Content>) {
        let (changed, Some(file)) = (self.tick(), self.at(name)) else { return };
        for other in self.names.iter_mut().flatten().filter(|other| other.inode == file.inode) {
            (other.content, other.changed) = (content.unwrap_or(other.content), changed);
        }
    }

    pub fn clear(&mut self, name: Name) {
        self.names[name as usize] = None;
    }

    fn move_to(&mut self, from: Name, to: Name) {
        // Two names of one file stay what they are, rename(2).
        let is_same = self.at(from).map(|f| f.inode) == self.at(to).map(|f| f.inode);
        if let Some(file) = self.at(from).filter(|_| !is_same) {
            self.names[to as usize] = Some(file);
            self.clear(from);
            self.touch(to, None);
        }
    }
}

/// Without any fault: init's, and what the helper's are made of.
impl Files for Disk {
    fn path(&self) -> &Path {
        Path::new("/rules")
    }

    fn path_of(&self, name: Name) -> PathBuf {
        PathBuf::from(format!("/{name:?}"))
    }

    fn lock(&mut self) -> Tried<bool> {
        Ok(true)
    }

    fn read(&mut self, name: Name) -> Tried<Found> {
        Ok(self.at(name).map_or(Found::Nothing, |file| {
            Found::File(record::Content {
                bytes: bytes(file.content).to_vec(),
                stamp: Stamp { inode: file.inode, changed: (file.changed, 0) },
                links: 1,
                attributes: Attributes::default(),
            })
        }))
    }

    fn record(&mut self) -> Tried<Option<Record>> {
        Ok(self.record.clone())
    }

    fn write_record(&mut self, record: &Record) -> Tried<()> {
        self.record = Some(record.clone());
        self.clear(Name::NewRecord);
        Ok(())
    }

    fn write(&mut self, name: Name, bytes: &[u8], _: &record::Content) -> Tried<Option<(u32, u32)>> {
        let content = match bytes {
            b"old" => Content::Old,
            b"new" => Content::New,
            _ => Content::Theirs,
        };
        self.put(name, content);
        Ok(None)
    }

    fn link(&mut self, from: Name, to: Name) -> Tried<bool> {
        if self.is_modern {
            self.names[to as usize] = self.at(from);
            self.touch(to, None);
        }
        Ok(self.is_modern)
    }

    fn exchange(&mut self, one: Name, other: Name) -> Tried<bool> {
        if !self.is_modern {
            return Ok(false);
        }
        if self.at(one).is_none() || self.at(other).is_none() {
            return Err(failed(FileStep::Install));
        }
        self.names.swap(one as usize, other as usize);
        self.touch(one, None);
        self.touch(other, None);
        Ok(true)
    }

    fn rename(&mut self, from: Name, to: Name) -> Tried<()> {
        self.move_to(from, to);
        Ok(())
    }

    fn remove(&mut self, name: Name) -> Tried<()> {
        self.clear(name);
        Ok(())
    }

    fn mount(&mut self) -> Tried<Mount> {
        Ok(Mount::No)
    }

    fn is_where_it_was(&mut self) -> Tried<bool> {
        Ok(true)
    }
}

pub fn bytes(content: Content) -> &'static [u8] {
    match content {
        Content::Old => b"old",
        Content::New => b"new",
        Content::Theirs => b"theirs",
    }
}

pub fn failed(step: FileStep) -> Stop {
    Reason::file(Path::new("/rules"), FileFault::System { step, words: Printable::new("EIO") }).into()
}

/// What a process was started for. Nothing: by its restart policy, or with the bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    Signal,
    Request(String),
}

/// What init is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    Restart,
    Forward,
    Request(Request),
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
    /// It is started again when it dies.
    is_revived: bool,
    /// What the last process was started for, and the next one will be.
    pub causes: Vec<Cause>,
    next_causes: Vec<Cause>,
    revives_at: u64,
    restart: Option<Last>,
    forward: Option<Last>,
    requests: Vec<status::Request>,
    /// What is pending, and when it is served.
    pending: Vec<(Asked, u64)>,
    /// Since when the running process has been ready.
    ready_since: Option<u64>,
    /// Since when the last reload was obeyed.
    pub obeyed_at: Option<u64>,
    /// By content: old, new, a person's.
    pub natures: [Nature; 3],
    pub ready: Option<Ready>,
    /// How long it takes to end, to get ready, and to install its handler.
    pub slow: u64,
    /// Another's apply, or this one's helper, holds the lock, and until when it may be at work.
    pub locked: Option<u64>,
    /// How often the container was started: each time with a pid namespace of its own.
    pub boots: u64,
    /// Another process answers on the daemon's port.
    pub is_held: bool,
    /// The daemon died, or was restarted, by another's doing.
    pub disturbed: bool,
    /// Somebody restarts it again and again.
    pub is_restarted_often: bool,
    /// Starts since the file was last put back.
    pub starts_since_back: u64,
    pub plant: Option<Plant>,
    pub log: Option<Vec<String>>,
}

impl Bundle {
    pub fn new(
        [old, new]: [Nature; 2],
        ready: Option<Ready>,
        slow: u64,
        [was_dead, is_revived, is_modern]: [bool; 3],
        plant: Option<Plant>,
    ) -> Self {
        let dead = if is_revived { DaemonState::Backoff } else { DaemonState::Exited };
        let last_exit = Some(LastExit { code: Some(1), signal: None, by_init: false });
        Self {
            now: 1_000,
            disk: Disk::new(is_modern),
            is_up: true,
            is_stopping: false,
            ends_at: 0,
            state: if was_dead { dead } else { DaemonState::Running },
            generation: 3,
            serves: (!was_dead).then_some(Content::Old),
            born: 0,
            gone_at: 0,
            starts_again: false,
            last_exit: last_exit.filter(|_| was_dead),
            is_revived,
            causes: Vec::new(),
            next_causes: Vec::new(),
            revives_at: 1_000 + slow,
            restart: Some(last(2, Outcome::Restarted, Some(3))),
            forward: Some(Last { reload_errno: Some(0), ..last(1, Outcome::Delivered, None) }),
            requests: Vec::new(),
            pending: Vec::new(),
            ready_since: (!was_dead).then_some(0),
            obeyed_at: None,
            natures: [old, new, Nature::Good],
            ready,
            slow,
            locked: None,
            boots: 0,
            is_held: false,
            disturbed: false,
            is_restarted_often: false,
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
        self.nature_of(self.serves.unwrap_or(self.disk.path()))
    }

    pub fn nature_of(&self, content: Content) -> Nature {
        self.natures[content as usize]
    }

    /// A person saves the file, whatever lies there: as a new file, or in place.
    pub fn save(&mut self, nature: Nature, is_new: bool) {
        self.say(|| format!("a person saves {}: {nature:?}", if is_new { "a new file" } else { "the file in place" }));
        // Who wrote over the old content once is told of that.
        if self.disk.path() != Content::Theirs && !matches!(self.disk.over, Some((Content::Old, _))) {
            self.disk.over = Some((self.disk.path(), self.disk.outcome()));
        }
        self.natures[Content::Theirs as usize] = nature;
        if is_new {
            self.disk.put(Name::Path, Content::Theirs);
        } else {
            self.disk.touch(Name::Path, Some(Content::Theirs));
        }
    }

    /// A person wrote over what nobody has recovered.
    pub fn is_over_interrupted(&self) -> bool {
        self.disk.path() == Content::Theirs
            && self.disk.over == Some((Content::New, Some(RecordedOutcome::Interrupted)))
    }

    /// init is asked for something: it is served at the next step.
    pub fn ask(&mut self, asked: Asked, after: u64) {
        if self.is_up {
            self.pending.push((asked, self.now + after));
        }
    }

    /// A person asks for it.
    pub fn person_asks(&mut self, verb: Verb) {
        self.say(|| format!("a person asks for a {verb}"));
        let id = format!("person-{}", self.now);
        self.ask(Asked::Request(Request { id, verb, daemon: NAME.to_owned() }), 0);
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
        self.locked = None;
        self.pending.clear();
        self.end(DaemonState::Exited, Some(137));
    }

    /// It is started anew.
    pub fn boot(&mut self) {
        self.say(|| "the bundle starts again".to_owned());
        (self.is_up, self.is_stopping, self.starts_again, self.generation) = (true, false, false, 0);
        self.boots += 1;
        (self.is_held, self.is_restarted_often) = (false, false);
        self.next_causes.clear();
        (self.restart, self.forward, self.last_exit) = (None, None, None);
        self.requests.clear();
        self.start();
    }

    /// It ends by itself.
    fn end_by_itself(&mut self, code: i32) {
        self.end(DaemonState::Exited, Some(code));
        if self.is_revived && !self.is_stopping {
            (self.state, self.revives_at) = (DaemonState::Backoff, self.now + TICK + 2 * self.slow);
        }
    }

    fn end(&mut self, state: DaemonState, code: Option<i32>) {
        if self.serves.is_some() {
            self.say(|| "the daemon's process has ended".to_owned());
        }
        (self.state, self.serves, self.ready_since, self.obeyed_at) = (state, None, None, None);
        self.last_exit = Some(LastExit { code, signal: None, by_init: false });
        if let Some(last) = self.forward.as_mut().filter(|last| last.outcome == Outcome::Held) {
            last.outcome = Outcome::NeverCaught;
        }
    }

    /// It dies of something else.
    pub fn die(&mut self) {
        if self.state == DaemonState::Running {
            self.disturbed = true;
            self.end_by_itself(9);
        }
    }

    /// init takes back what was interrupted, if nobody is at work, before it starts the daemon.
    fn recover(&mut self) {
        let is_free = self.locked.is_none() || self.plant == Some(Plant::InitRecoversUnderTheLock);
        let said = recovery::before_start(&mut self.disk, &boot(), self.now, |is_overdue| Ok(is_free || is_overdue));
        if let Some(said) = said {
            self.say(|| format!("init: {said:?}"));
        }
    }

    fn start(&mut self) {
        self.recover();
        self.generation += 1;
        self.starts_since_back += 1;
        self.causes = std::mem::take(&mut self.next_causes);
        let content = self.disk.path();
        self.say(|| format!("the daemon starts with {content:?}"));
        if self.nature_of(content) == Nature::Refuses {
            (self.state, self.serves) = (DaemonState::Failed, None);
            self.last_exit = Some(LastExit { code: Some(127), signal: None, by_init: false });
        } else {
            (self.state, self.serves, self.born) = (DaemonState::Running, Some(content), self.now);
        }
        (self.ready_since, self.obeyed_at) = (None, None);
        let (generation, is_failed) = (Some(self.generation), self.state == DaemonState::Failed);
        for last in [&mut self.restart, &mut self.forward].into_iter().flatten() {
            if last.outcome == Outcome::Restarting {
                last.outcome = if is_failed { Outcome::Failed } else { Outcome::Restarted };
                last.generation = generation;
            }
        }
        let outcome = if is_failed { RequestOutcome::Failed } else { RequestOutcome::Started };
        for request in self.requests.iter_mut().filter(|request| request.outcome == RequestOutcome::Pending) {
            (request.outcome, request.generation) = (outcome, generation);
        }
        if is_failed && self.is_revived {
            (self.state, self.revives_at) = (DaemonState::Backoff, self.now + TICK + 2 * self.slow);
        }
    }

    /// Whether a person has stopped the daemon, as far as init knows.
    pub fn is_stopped(&self) -> bool {
        self.state == DaemonState::Stopped
            || self.requests.iter().any(|r| r.verb == "stop" && r.outcome == RequestOutcome::Pending)
    }

    /// A process is to come.
    fn replace(&mut self) {
        match self.state {
            DaemonState::Running => {
                (self.state, self.starts_again, self.gone_at) = (DaemonState::Stopping, true, self.now + self.slow);
            }
            DaemonState::Stopping => self.starts_again = true,
            _ => self.start(),
        }
    }

    fn request(&mut self, request: &Request) {
        self.say(|| format!("init serves {request:?}"));
        // The latest decides.
        for other in self.requests.iter_mut().filter(|other| other.outcome == RequestOutcome::Pending) {
            let is_same = (other.verb == "stop") == (request.verb == Verb::Stop);
            other.outcome = if is_same { RequestOutcome::Pending } else { RequestOutcome::Superseded };
        }
        let is_running = self.state == DaemonState::Running;
        let (outcome, generation) = match request.verb {
            _ if self.is_stopping => (RequestOutcome::Refused, None),
            Verb::Start if is_running => (RequestOutcome::Running, Some(self.generation)),
            Verb::Stop if self.state == DaemonState::Exited => (RequestOutcome::NotRunning, None),
            Verb::Stop if self.state == DaemonState::Failed => (RequestOutcome::NotRunning, None),
            Verb::Stop if matches!(self.state, DaemonState::Backoff | DaemonState::Stopped) => {
                self.state = DaemonState::Stopped;
                (RequestOutcome::Stopped, None)
            }
            _ => (RequestOutcome::Pending, None),
        };
        let (id, verb) = (request.id.clone(), request.verb.to_string());
        self.requests.push(status::Request { id, verb, outcome, generation, why: None });
        if self.requests.len() > 8 {
            self.requests.remove(0);
        }
        if request.verb == Verb::Stop {
            self.next_causes.clear();
        } else if outcome == RequestOutcome::Pending {
            self.next_causes.push(Cause::Request(request.id.clone()));
        }
        match request.verb {
            _ if outcome != RequestOutcome::Pending => {}
            Verb::Stop => {
                if is_running {
                    (self.state, self.gone_at) = (DaemonState::Stopping, self.now + self.slow);
                }
                self.starts_again = false;
            }
            _ => self.replace(),
        }
    }

    fn serve(&mut self, asked: Asked) {
        let is_forward = match asked {
            Asked::Request(request) => return self.request(&request),
            Asked::Restart => false,
            Asked::Forward => true,
        };
        self.say(|| format!("init serves a {asked:?}"));
        let rule = if is_forward { &mut self.forward } else { &mut self.restart };
        let seq = 1 + rule.map_or(0, |last| last.seq);
        let outcome = match self.state {
            _ if self.is_stopping => Outcome::Refused,
            DaemonState::Running if is_forward => Outcome::Held,
            DaemonState::Backoff => Outcome::Restarting,
            _ if is_forward => Outcome::Refused,
            _ => Outcome::Restarting,
        };
        *rule = Some(last(seq, outcome, None));
        if is_forward {
            self.obeyed_at = None;
        }
        if outcome == Outcome::Restarting {
            for request in &mut self.requests {
                if request.outcome == RequestOutcome::Pending && request.verb == "stop" {
                    request.outcome = RequestOutcome::Superseded;
                }
            }
            self.next_causes.push(Cause::Signal);
            self.replace();
        }
    }

    /// The daemon takes the signal that it was sent.
    fn reload(&mut self, seq: u64) {
        let content = self.disk.path();
        let notifies = self.ready == Some(Ready::Notify);
        self.say(|| format!("the daemon reloads {content:?}"));
        let errno = match self.nature_of(content) {
            Nature::Dies => {
                self.forward = Some(last(seq, Outcome::Delivered, None));
                self.end_by_itself(1);
                return;
            }
            Nature::Refuses => Some(22),
            Nature::NeverReady => None,
            Nature::Good | Nature::DiesSoon => {
                (self.serves, self.obeyed_at, self.born) = (Some(content), Some(self.now), self.now - self.slow);
                Some(0)
            }
        };
        let reload_errno = errno.filter(|_| notifies);
        self.forward = Some(Last { reload_errno, ..last(seq, Outcome::Delivered, None) });
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
        if self.is_restarted_often && self.state == DaemonState::Running {
            self.disturbed = true;
            self.ask(Asked::Restart, 0);
        }
        let (due, later) = std::mem::take(&mut self.pending).into_iter().partition(|(_, at)| *at <= self.now);
        self.pending = later;
        for (asked, _) in due {
            self.serve(asked);
        }
        if self.state == DaemonState::Stopping && self.now >= self.gone_at {
            let is_stopped = self.is_stopped();
            self.end(if is_stopped { DaemonState::Stopped } else { DaemonState::Exited }, Some(143));
            if let Some(exit) = &mut self.last_exit {
                exit.by_init = true;
            }
            for stop in self.requests.iter_mut().filter(|request| request.verb == "stop" && is_stopped) {
                if stop.outcome == RequestOutcome::Pending {
                    stop.outcome = RequestOutcome::Stopped;
                }
            }
            if std::mem::take(&mut self.starts_again) && !self.is_stopping {
                self.start();
            }
        }
        if self.state == DaemonState::Backoff && self.now >= self.revives_at && !self.is_stopping {
            self.start();
        }
        if self.state == DaemonState::Running {
            let held = self.forward.filter(|last| last.outcome == Outcome::Held);
            if let Some(last) = held.filter(|_| self.now >= self.born + self.slow) {
                self.reload(last.seq);
            }
            match self.nature() {
                Nature::Dies => self.end_by_itself(1),
                Nature::DiesSoon
                    if self.serves == Some(Content::New) && self.ready_for().is_some_and(|ready| ready >= 2 * TICK) =>
                {
                    self.end_by_itself(1);
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

    /// What a page would say by which this was served, and it wasn't.
    pub fn lie(&mut self, asked: &Asked) {
        let generation = Some(self.generation);
        if let Asked::Request(Request { id, verb, .. }) = asked {
            let (id, verb, outcome) = (id.clone(), verb.to_string(), RequestOutcome::Started);
            self.requests.push(status::Request { id, verb, outcome, generation, why: None });
        } else {
            let rule = if *asked == Asked::Forward { &mut self.forward } else { &mut self.restart };
            let seq = 1 + rule.map_or(0, |last| last.seq);
            *rule = Some(last(seq, Outcome::Restarted, generation));
        }
    }

    /// What init publishes.
    pub fn page(&self) -> Page {
        let name = || NAME.to_owned();
        let (mut requests, mut state) = (self.requests.clone(), self.state);
        let (mut restart, mut forward) = (self.restart, self.forward);
        if self.plant == Some(Plant::TakesAnotherStartForTheProof) {
            let generations = [&mut restart, &mut forward].into_iter().flatten().map(|last| &mut last.generation);
            for generation in generations.chain(requests.iter_mut().map(|request| &mut request.generation)).flatten() {
                *generation = self.generation;
            }
        }
        if self.plant == Some(Plant::StartsWhatWasStopped) {
            requests.retain(|request| request.verb != "stop");
            state = if state == DaemonState::Stopped { DaemonState::Exited } else { state };
        }
        let restart = Wired { forward: None, restart: Some(name()), last: restart };
        let forward = Wired { forward: Some(name()), restart: None, last: forward };
        let is_running = matches!(self.state, DaemonState::Running | DaemonState::Stopping);
        let daemon = Daemon {
            name: name(),
            state,
            pid: is_running.then_some(self.generation as i32 + 10),
            generation: self.generation,
            restarts: 0,
            revivals: 0,
            starts_in_ms: None,
            waiting_for: Vec::new(),
            requests,
            uptime_ms: is_running.then_some(self.born),
            last_exit: self.last_exit,
            listen: Vec::new(),
            sandbox: None,
            transaction: None,
            ready: None,
            not_ready: None,
        };
        let settle_ms = if self.plant == Some(Plant::NothingSettles) { 0 } else { SETTLE };
        let notified = self.is_ready();
        let plan = Plan {
            ready: self.ready.clone(),
            notified,
            settle_ms,
            grace_ms: 0,
            is_oneshot: false,
            is_set_up: false,
            config: Some(config()),
        };
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

fn last(seq: u64, outcome: Outcome, generation: Option<u64>) -> Last {
    Last { seq, outcome, age_ms: 0, reload_errno: None, generation }
}

/// The kernel's.
pub fn boot() -> Printable {
    Printable::new("boot")
}

fn config() -> Config {
    Config { path: "/rules".into(), check: Some(vec!["check".to_owned(), "{}".to_owned()]) }
}
