//! A change of the daemon's file in a simulated bundle: what decides is the code that ships, over hands, a host and a disk that
//! are simulated, with all that can go wrong. The promises are checked as it goes.

use std::cell::{RefCell, RefMut};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use sidecar::change::proof::Trigger;
use sidecar::change::reason::Outcome as Said;
use sidecar::change::reason::{FileFault, FileStep, Reason, RecordedOutcome, Shortfall};
use sidecar::change::record::{self, Files, Found, Mount, Name, Record};
use sidecar::change::transaction::{self, Checked, Hands, Holder, Home, Line, Order};
use sidecar::change::{Stop, Tried};
use sidecar::protocol::{Diff, End, HelperMessage, HostMessage, Task};
use sidecar::request::{Request, Verb};
use sidecar::status::{DaemonState, Page};
use sidecar::table::{Ready, Signal};
use sidecar::text::Printable;

use crate::bundle::{Asked, Bundle, Cause, Content, NAME, Nature, SETTLE, TICK, boot, bytes, failed};
use crate::campaign::run_each;
use crate::choices::Choices;
use crate::judge::Broken;
use crate::plants::Plant;

/// How long a change may take, in milliseconds.
const TIMEOUT: u64 = 500;
/// How much happens in a schedule at most.
const MOST_STEPS: u64 = 10_000;

/// What the host is like now.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of the world, not a mode")]
struct Host {
    is_gone: bool,
    is_cut_off: bool,
    cancels: bool,
    /// It said that its signal is out, or that it isn't.
    said: Option<bool>,
    /// After so many looks.
    says_in: u64,
    /// It has sent its acknowledgement, which may be on its way.
    acked: bool,
    /// After so many looks.
    acks_in: Option<u64>,
    sent: bool,
}

/// What the host tells the person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Exit 0.
    Live,
    /// Exit 0, of a daemon that can't say whether it obeyed.
    Delivered,
    /// Exit 0 of a dry run.
    Checked,
    /// Exit 1.
    AsItWas,
    /// Exit 3: the bundle went away, and what was put in place is taken back before its next start.
    Gone,
    /// Exit 5.
    Unknown,
    /// There is nobody left who could tell.
    Nobody,
}

/// What the helper that is at work came for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Helper {
    /// The change.
    Changes,
    /// Only to ask what became of it.
    Asks,
    /// Another host's dry run.
    RunsDry,
}

#[allow(clippy::struct_excessive_bools, reason = "each is a fact of the world, not a mode")]
struct World<'a> {
    bundle: Bundle,
    choices: &'a mut Choices,
    task: Task,
    begun_by: Asked,
    /// The helper signals init, not the host.
    from_inside: bool,
    helper: Helper,
    /// The host was told how long a recovery takes.
    is_told_to_wait: bool,
    /// What the bundle's log was told last.
    logged: Option<Said>,
    host: Host,
    /// Of the daemon, when the proof began: when, its generation, and how many signals were served.
    since: Option<(u64, u64, u64)>,
    /// The generation that was offered as proven.
    offered: Option<u64>,
    is_checked: bool,
    /// What the disk, or a person, did to the change.
    is_disturbed: bool,
    was_install_lost: bool,
    /// A person wrote to the new content before the helper had looked at it.
    was_written_over_at_once: bool,
    /// The new content, as it was seen in place.
    placed: Option<record::Content>,
    /// How often the helper has waited for less than 5 ms.
    short_waits: u64,
    restarts_by_others: u64,
    /// How often the helper has had the daemon restarted, but for the change itself.
    restarts_back: u64,
    steps: u64,
    broken: Option<Broken>,
}

/// A handle on it: the helper's hands, and its file.
#[derive(Clone)]
struct Sim<'a>(Rc<RefCell<World<'a>>>);

/// What came of one schedule.
pub struct Outcome {
    pub broken: Option<Broken>,
    pub told: Told,
    pub steps: u64,
    pub log: Vec<String>,
}

impl World<'_> {
    fn check(&mut self, is_kept: bool, promise: &'static str) {
        if !is_kept && self.broken.is_none() {
            self.broken = Some(Broken { promise, how: self.summary() });
        }
    }

    fn is(&self, plant: Plant) -> bool {
        self.bundle.plant == Some(plant)
    }

    fn is_restart(&self) -> bool {
        self.begun_by != Asked::Forward
    }

    fn is_file(&self) -> bool {
        matches!(self.task, Task::File { .. })
    }

    /// Time goes on, and anything may happen in it.
    fn step(&mut self) -> Tried<()> {
        self.count()?;
        match self.choices.fault(16) {
            1 => return self.die("the helper is killed"),
            2 => self.bundle.kill(),
            3 => self.bundle.stop(true),
            4 => self.bundle.stop(false),
            5 => self.hang_up("the host is killed", false),
            6 => self.hang_up("the connection breaks", true),
            7 => self.host.cancels = true,
            8 => self.bundle.die(),
            9 => {
                self.restarts_by_others += 1;
                self.bundle.ask(Asked::Restart, 0);
            }
            10 => {
                self.bundle.say(|| "a stranger takes the port".to_owned());
                self.bundle.is_held = true;
            }
            // It holds the lock on.
            11 => {
                self.bundle.say(|| "the helper is stopped for good".to_owned());
                return Err(Stop::Killed);
            }
            12 => self.bundle.person_asks(Verb::Stop),
            13 => {
                self.restarts_by_others += 1;
                self.bundle.person_asks(Verb::Restart);
            }
            14 => {
                self.bundle.say(|| "somebody restarts the daemon again and again".to_owned());
                self.bundle.is_restarted_often = true;
            }
            n => self.person(n.saturating_sub(14)),
        }
        self.bundle.tick();
        if self.bundle.is_up { Ok(()) } else { Err(Stop::Killed) }
    }

    /// The helper has init act.
    fn is_by_the_helper(&self) -> bool {
        self.from_inside || matches!(self.begun_by, Asked::Request(_))
    }

    /// The helper waits. Right before a deadline, it may do so for a moment only.
    fn wait(&mut self, ms: u16) -> Tried<()> {
        self.short_waits += u64::from(ms < 5);
        self.check(self.short_waits <= 3, "a change that waits doesn't spin");
        let is_unsent = self.since.is_some() && self.is_by_the_helper() && !self.host.sent;
        self.check(!is_unsent, "the signal is sent by whoever is to send it");
        self.step()
    }

    fn count(&mut self) -> Tried<()> {
        self.steps += 1;
        self.check(self.steps < MOST_STEPS, "a change comes to an end");
        if self.steps < MOST_STEPS { Ok(()) } else { Err(Stop::Killed) }
    }

    /// Nothing, or a person saves the file: one that is good, as a new file or in place, or one that the daemon dies of.
    fn person(&mut self, choice: usize) {
        match choice {
            0 => return,
            1 => self.bundle.save(Nature::Good, true),
            2 => self.bundle.save(Nature::Dies, false),
            _ => self.bundle.save(Nature::Good, false),
        }
        self.is_disturbed = true;
    }

    fn die<T>(&mut self, how: &str) -> Tried<T> {
        self.bundle.say(|| how.to_owned());
        self.bundle.locked = None;
        Err(Stop::Killed)
    }

    fn hang_up(&mut self, how: &str, is_alive: bool) {
        self.bundle.say(|| how.to_owned());
        self.host.is_cut_off = true;
        self.host.is_gone |= !is_alive;
    }

    /// Something is done to the disk, or not, or perhaps; or a person comes right before it.
    fn disk<T>(
        &mut self,
        what: &str,
        faults: usize,
        step: FileStep,
        effect: impl FnOnce(&mut Bundle) -> Tried<T>,
    ) -> Tried<T> {
        self.count()?;
        self.bundle.say(|| format!("helper: {what}"));
        match self.choices.fault(faults) {
            1 => return self.die("the helper is killed before it"),
            2 => {
                effect(&mut self.bundle)?;
                return self.die("the helper is killed after it");
            }
            3 => {
                self.bundle.say(|| "it fails".to_owned());
                self.is_disturbed = true;
                return Err(failed(step));
            }
            4 => {
                effect(&mut self.bundle)?;
                self.bundle.say(|| "it fails, done though it is".to_owned());
                (self.is_disturbed, self.was_install_lost) = (true, step == FileStep::Install);
                return Err(failed(step));
            }
            n => self.person(n.saturating_sub(4)),
        }
        effect(&mut self.bundle)
    }

    fn trigger(&self) -> Trigger {
        match &self.begun_by {
            Asked::Restart => Trigger::Signal(Signal::USR1),
            Asked::Forward => Trigger::Signal(Signal::HUP),
            Asked::Request(_) => Trigger::restart(NAME),
        }
    }

    /// Whether the running process is the one that this change is proven in.
    fn is_own_process(&self) -> bool {
        let b = &self.bundle;
        match &self.begun_by {
            Asked::Request(request) => b.causes.contains(&Cause::Request(request.id.clone())),
            // A signal has no name: another's is as good.
            Asked::Restart => b.causes.contains(&Cause::Signal),
            Asked::Forward => {
                let was = self.since.map(|(_, generation, _)| generation);
                was == Some(b.generation) || b.causes.contains(&Cause::Signal)
            }
        }
    }

    fn served(&self) -> u64 {
        let signals = self.bundle.page().status.signals;
        let last = signals.get(&self.trigger().to_string()).and_then(|rule| rule.last).map_or(0, |last| last.seq);
        if matches!(self.begun_by, Asked::Request(_)) { u64::from(self.is_own_process()) } else { last }
    }

    /// The helper has the daemon started.
    fn starts(&mut self) {
        let is_stopped = self.bundle.is_stopped();
        self.check(!is_stopped, "a stopped daemon stays stopped");
    }

    /// What is called live must be so.
    fn is_live(&mut self) {
        let b = &self.bundle;
        let Some((_, generation, seq)) = self.since else { return };
        let is_up = b.state == DaemonState::Running && b.serves == Some(Content::New);
        let is_served = self.served() > seq;
        let is_own = self.is_own_process();
        let is_so = if self.is_restart() || b.causes.contains(&Cause::Signal) && b.generation > generation {
            is_up && is_served && b.generation > generation && b.ready_for().is_some_and(|ready| ready >= SETTLE)
        } else if b.ready == Some(Ready::Notify) {
            is_up && b.obeyed_at.is_some_and(|at| b.now >= at + SETTLE)
        } else {
            is_served && b.state == DaemonState::Running
        };
        let is_sent = self.host.sent;
        self.check(is_own, "a generation of another start is never taken for the proof");
        self.check(is_sent, "nothing counts before the signal is sent");
        self.check(is_so, "a daemon that is found live is live, and has settled");
    }

    /// Something is put in the place of the file.
    fn installs(&mut self) {
        let disk = self.bundle.disk.clone();
        self.check(self.is_file(), "without new content nothing is written to the file");
        self.check(self.is_checked, "nothing unchecked is put in place");
        let is_marked = disk.is_interrupted() && disk.record.as_ref().is_some_and(|r| r.id == id());
        self.check(is_marked, "whoever finds new content in place can recover the change");
        let is_kept = disk.content(Name::Kept) == disk.content(Name::Path);
        self.check(is_kept || self.is_disturbed, "while new content is in place, the old content is kept");
    }

    /// The old content is put back because the proof wasn't found.
    fn goes_back(&mut self) {
        let (b, host) = (&self.bundle, &self.host);
        if let Some(offered) = self.offered {
            let goes_on = host.acked && !host.is_cut_off && !host.cancels && !self.is_disturbed && !b.is_stopping;
            let is_up = b.state == DaemonState::Running && b.generation == offered && !b.is_stopped();
            let is_wanted = goes_on && is_up && !b.disturbed && b.disk.path() == Content::New;
            return self.check(!is_wanted, "what was proven and acknowledged isn't undone");
        }
        let Some((at, generation, seq)) = self.since else { return };
        let is_late = b.now >= at + TIMEOUT && !host.is_cut_off && !host.cancels && !self.is_disturbed && host.sent;
        let is_good = self.is_restart()
            && self.is_own_process()
            && is_late
            && !b.is_stopping
            && !b.is_held
            && b.disk.path() == Content::New
            && b.generation > generation
            && self.served() > seq
            && b.ready_for().is_some_and(|ready| ready > SETTLE + 4 * TICK);
        self.check(!is_good, "a daemon that is live is found to be live");
    }

    /// Exit 5 is told, with the old content in place or not.
    fn must_act(&mut self, is_as_it_was: bool) -> Told {
        let b = &self.bundle;
        // Each restart by somebody else costs time, of which the way back hasn't enough for three.
        let is_disturbed = self.is_disturbed || b.disturbed || self.restarts_by_others > 2;
        let is_excused = is_disturbed || b.is_held || b.disk.path() != Content::Old;
        self.check(!is_as_it_was || is_excused, "exit 5 means that somebody must act");
        Told::Unknown
    }

    fn summary(&self) -> String {
        let b = &self.bundle;
        let over = b.disk.over;
        let names = [Name::Path, Name::Staged, Name::Kept, Name::Other].map(|name| b.disk.content(name));
        format!("{:?} serves {:?}; {names:?} {:?} {over:?}", b.state, b.serves, b.disk.outcome())
    }

    /// What the host says, and why not to go on, if so.
    fn heard(&mut self) -> Tried<Option<HostMessage>> {
        if self.since.is_some() && !self.host.sent && self.is(Plant::CountsBeforeItIsSent) {
            return Ok(Some(HostMessage::Sent));
        }
        if self.offered.is_some() && !self.host.acked && self.is(Plant::CommitsUnacknowledged) {
            return Ok(Some(HostMessage::Ack));
        }
        if let Some(in_looks) = self.host.acks_in.as_mut() {
            if *in_looks == 0 {
                self.host.acks_in = None;
                self.host.acked = true;
                return Ok(Some(HostMessage::Ack));
            }
            *in_looks -= 1;
        }
        self.host.says_in = self.host.says_in.saturating_sub(1);
        let says = !self.host.is_cut_off && self.host.says_in == 0;
        match self.host.said.take_if(|_| says) {
            Some(true) => {
                self.host.sent = true;
                Ok(Some(HostMessage::Sent))
            }
            Some(false) => Ok(Some(HostMessage::NotSent)),
            None if self.host.is_cut_off => Err(Reason::HostGone.into()),
            None if self.host.cancels => Ok(Some(HostMessage::Cancel)),
            None => Ok(None),
        }
    }

    /// docker kill.
    fn go(&mut self, target: &sidecar::change::proof::Target) {
        self.since = Some((self.bundle.now, target.before.generation, target.seq));
        self.host.sent = false;
        self.starts();
        let asked = self.begun_by.clone();
        if self.is(Plant::TakesTheOldProcessForTheNew) {
            self.bundle.lie(&asked);
        }
        if self.is_by_the_helper() {
            return;
        }
        let (said, lands) = match self.choices.fault(5) {
            1 => (Some(false), None),
            // It is given up, and lands all the same.
            2 => (Some(false), Some(12 * TICK)),
            3 => (Some(true), Some(6 * TICK)),
            4 => {
                self.hang_up("the host is killed beside docker kill", false);
                (None, Some(3 * TICK))
            }
            5 => {
                self.host.says_in = 8;
                (Some(true), Some(7 * TICK))
            }
            _ => (Some(true), Some(0)),
        };
        self.host.said = said;
        if let Some(after) = lands {
            self.bundle.ask(asked, after);
        }
    }

    fn offer(&mut self) -> Tried<()> {
        self.offered = Some(self.bundle.generation);
        if self.is(Plant::SweepsBeforeTheCommit) {
            self.bundle.disk.clear(Name::Kept);
        }
        match self.choices.fault(4) {
            1 => self.hang_up("the host is killed before it acknowledges", false),
            2 => {
                self.hang_up("the host acknowledges, and is killed", false);
                self.host.acks_in = Some(0);
            }
            3 => {
                // It was sent, and is lost.
                self.host.acked = true;
                self.hang_up("the acknowledgement is lost", true);
                return self.step();
            }
            // Others of the fleet aren't proven yet.
            4 => self.host.acks_in = Some(3),
            _ => self.host.acks_in = Some(0),
        }
        Ok(())
    }

    /// What was told must be so, now or once it is at rest; `since`: but for what a person wrote since.
    fn is_as_told(&mut self, told: Told, was_dead: bool, at_rest: bool, since: bool) {
        let b = &self.bundle;
        let (path, serves) = (b.disk.path(), b.serves);
        let is_old_good = b.nature_of(Content::Old) == Nature::Good;
        let is_excused = b.disturbed || b.is_stopped() || b.is_stopping || !b.is_up || !is_old_good;
        // It may die once it has settled, and ends with the bundle; it may not serve something else.
        let ends = !at_rest && b.is_stopping;
        let was_as_dead = |content| was_dead && content == Content::Old;
        let is = |content| ends || serves == Some(content) || serves.is_none() && (is_excused || was_as_dead(content));
        // What a person wrote lies there, which the daemon may have died of.
        let is_theirs = path == Content::Theirs && serves != Some(Content::New);
        // Over the old content, or over the new before it was looked at: nothing of the change is there any more.
        let is_early = |over| over == Content::Old || self.was_written_over_at_once;
        let is_over_old = is_theirs && b.disk.over.is_some_and(|(over, _)| is_early(over));
        let is_kept = match told {
            _ if since => !matches!(told, Told::AsItWas | Told::Gone) || path != Content::New,
            Told::Live => path == Content::New && is(Content::New),
            Told::Delivered => path == Content::New,
            Told::AsItWas if self.is_file() => path == Content::Old && is(Content::Old) || is_over_old,
            Told::Gone if at_rest => path == Content::Old && is(Content::Old) || is_theirs,
            Told::Checked => path == Content::Old && is(Content::Old) || is_over_old,
            _ => true,
        };
        let promise = if matches!(told, Told::Live | Told::Delivered) {
            "exit 0 means that the new content is live"
        } else {
            "any other exit but 5 means that content and daemon are as they were"
        };
        self.check(is_kept, promise);
    }
}

fn id() -> Printable {
    Printable::new("1")
}

fn dry_run() -> Task {
    Task::DryRun { bytes: 3, sha256: Printable::default(), show: false }
}

fn own_request() -> Request {
    Request { id: id().to_string(), verb: Verb::Restart, daemon: NAME.to_owned() }
}

impl<'a> Sim<'a> {
    fn world(&self) -> RefMut<'_, World<'a>> {
        self.0.borrow_mut()
    }

    fn order(&self) -> Order {
        let world = self.world();
        let task = world.task.clone();
        let content = (task != Task::InPlace).then(|| bytes(Content::New).to_vec());
        let by = Printable::new("me");
        Order {
            id: id(),
            by,
            at: Printable::default(),
            trigger: world.trigger(),
            from_inside: world.from_inside,
            starts_stopped: false,
            timeout_ms: TIMEOUT,
            task,
            content,
        }
    }

    /// A helper comes for what was asked for, and its last word is looked at.
    fn helper(&mut self) -> Tried<End> {
        let order = self.order();
        // Before anything else: a host isn't told to go on where init would refuse.
        let ended = transaction::change(self, &order);
        let mut world = self.world();
        if let Ok(end) = &ended {
            world.bundle.locked = None;
            let ended = end.ended.clone();
            world.bundle.say(|| format!("helper: {ended:?}"));
            let is_down = ended.outcome == Said::Down;
            let stops = is_down && ended.back == Some(Reason::Stopping);
            world.check(!stops, "a bundle that is stopping doesn't count as down");
            let says = |why: &Option<Reason>| matches!(why, Some(Reason::File { fault: FileFault::Changed, .. }));
            let is_so = !(says(&ended.why) || says(&ended.back)) || world.bundle.disk.over.is_some();
            world.check(is_so, "if it says that somebody else wrote to the file, somebody did");
            if matches!(ended.outcome, Said::Live | Said::Delivered) && !world.is_file() {
                world.is_live();
            }
        }
        ended
    }

    /// One that only looks what became of it.
    fn asks(&mut self) -> Tried<Option<RecordedOutcome>> {
        let order = Order { task: Task::Ask, content: None, ..self.order() };
        self.comes_later(Helper::Asks, |sim| transaction::what_became_of(sim, &order))
    }

    /// Another's dry run, which recovers what was interrupted.
    fn runs_dry(&mut self) -> Tried<End> {
        let (task, content) = (dry_run(), Some(bytes(Content::New).to_vec()));
        let order = Order { id: Printable::new("2"), task, content, ..self.order() };
        self.comes_later(Helper::RunsDry, |sim| transaction::change(sim, &order))
    }

    /// Another helper, for a host of its own.
    fn comes_later<T>(&mut self, which: Helper, work: impl FnOnce(&mut Self) -> Tried<T>) -> Tried<T> {
        let (own, since, offered) = {
            let mut world = self.world();
            (world.short_waits, world.restarts_back, world.helper) = (0, 0, which);
            (std::mem::take(&mut world.host), world.since.take(), world.offered.take())
        };
        let done = work(self);
        let mut world = self.world();
        (world.host, world.since, world.offered) = (own, since, offered);
        if done.is_ok() {
            world.bundle.locked = None;
        }
        done
    }

    /// What the host makes of it.
    fn tell(&mut self, ended: &Tried<End>, was_dead: bool) -> Told {
        let (is_file, is_cut_off, acked, is_gone) = {
            let world = self.world();
            (world.is_file(), world.host.is_cut_off, world.host.acked, world.host.is_gone)
        };
        if let (Ok(end), false) = (ended, is_cut_off) {
            return match end.ended.outcome {
                Said::Live if acked || !is_file => Told::Live,
                Said::Delivered if acked || !is_file => Told::Delivered,
                Said::DryRun => Told::Checked,
                Said::Refused | Said::RolledBack | Said::NotProven => Told::AsItWas,
                Said::Down => {
                    let mut world = self.world();
                    let b = &world.bundle;
                    let is_up = b.serves == Some(Content::Old) || (was_dead || b.is_stopped()) && b.serves.is_none();
                    world.must_act(is_up)
                }
                _ => Told::Unknown,
            };
        }
        match (is_gone, is_file) {
            (true, _) => Told::Nobody,
            (false, false) => Told::AsItWas,
            (false, true) => self.ask(was_dead),
        }
    }

    /// The connection broke: the host asks once more.
    fn ask(&mut self, was_dead: bool) -> Told {
        let acked = self.world().host.acked;
        if acked && self.world().is(Plant::TakesALostConnectionForLive) {
            return Told::Live;
        }
        for _ in 0..3 {
            {
                let mut world = self.world();
                if !world.bundle.is_up {
                    // Without its acknowledgement nothing was committed: the next start has the old content.
                    return if acked { Told::Unknown } else { Told::Gone };
                }
                if world.bundle.disk.is_interrupted() {
                    let choice = world.choices.fault(2);
                    world.person(choice);
                }
            }
            let Ok(outcome) = self.asks() else { continue };
            return match outcome {
                Some(RecordedOutcome::Live) if acked => Told::Live,
                Some(RecordedOutcome::Delivered) if acked => Told::Delivered,
                Some(RecordedOutcome::RolledBack) | None => Told::AsItWas,
                Some(RecordedOutcome::Down) => {
                    let mut world = self.world();
                    let is_as_dead = was_dead && world.bundle.serves.is_none();
                    world.must_act(is_as_dead)
                }
                Some(_) => Told::Unknown,
            };
        }
        Told::Unknown
    }

    /// No fault any more: all must come to rest, with one content on disk and in the daemon.
    fn rest(&mut self, told: Told, was_dead: bool) {
        let choice = {
            let mut world = self.world();
            let choice = world.choices.fault(2);
            world.person(choice);
            world.choices.end_faults();
            world.host = Host::default();
            world.bundle.is_held = false;
            world.bundle.is_restarted_often = false;
            for _ in 0..40 {
                world.bundle.tick();
            }
            if !world.bundle.is_up {
                world.bundle.boot();
                world.bundle.tick();
            }
            // A helper that is stopped has had all its time.
            world.bundle.now += 120_000;
            choice
        };
        // Whoever comes next.
        let is_dry_run = matches!(self.world().begun_by, Asked::Request(_));
        let _ = if is_dry_run { self.runs_dry().map(drop) } else { self.asks().map(drop) };
        let mut world = self.world();
        for _ in 0..40 {
            world.bundle.tick();
        }
        let disk = world.bundle.disk.clone();
        world.check(!disk.is_interrupted(), "whoever comes next recovers an interrupted change");
        let can_say = world.is_restart() || world.bundle.ready == Some(Ready::Notify);
        if world.task != Task::InPlace {
            let serves = world.bundle.serves;
            let is_over_interrupted = world.bundle.is_over_interrupted() && !world.was_written_over_at_once;
            let is_edited = disk.path() == Content::Theirs;
            let is_one = serves.is_none() || serves == Some(disk.path()) || !can_say || is_edited;
            world.check(is_one, "never a mix");
            let left = [Name::Staged, Name::Kept, Name::NewRecord].map(|name| disk.at(name));
            let is_swept = left.iter().all(Option::is_none);
            world.check(is_swept, "nothing is left beside the file");
            let is_new = disk.path() == Content::New;
            let is_marked = disk.record.as_ref().is_some_and(|r| r.id == id()) && is_committed(disk.outcome());
            let is_marked = is_marked && disk.over.is_none_or(|(_, record)| !is_committed(record));
            let is_left = !is_over_interrupted
                || matches!(disk.outcome(), Some(RecordedOutcome::NotProven | RecordedOutcome::Down));
            world.check(is_new == is_marked && is_left, "the record tells which content it is");
        }
        let is_there =
            disk.over.is_none() || disk.path() == Content::Theirs || disk.content(Name::Other) == Some(Content::Theirs);
        world.check(is_there, "what a person wrote is never lost");
        world.is_as_told(told, was_dead, true, choice > 0);
    }
}

impl Hands for Sim<'_> {
    type Files = Self;

    fn now_ms(&mut self) -> u64 {
        self.world().bundle.now
    }

    fn home(&mut self) -> Home {
        Home { boot: boot(), pids: Some(self.world().bundle.boots) }
    }

    fn lock(&mut self) -> Tried<bool> {
        let mut world = self.world();
        let is_free = world.bundle.locked.is_none();
        world.bundle.locked.get_or_insert(u64::MAX);
        Ok(is_free)
    }

    fn hold(&mut self, holder: &Holder) -> Tried<()> {
        self.world().bundle.locked = Some(holder.until_ms);
        Ok(())
    }

    fn holder(&mut self) -> Tried<Option<Holder>> {
        let who = Printable::default;
        Ok(self.world().bundle.locked.map(|until_ms| Holder { by: who(), since: who(), until_ms }))
    }

    fn end_overdue_helper(&mut self) -> Tried<()> {
        let mut world = self.world();
        world.bundle.say(|| "the stopped helper is ended".to_owned());
        world.bundle.locked = None;
        Ok(())
    }

    fn open(&mut self, _: &Path) -> Tried<Self> {
        Ok(self.clone())
    }

    fn page(&mut self) -> Tried<Page> {
        Ok(self.world().bundle.page())
    }

    fn probe(&mut self, _: &Page, _: &str, _: u64) -> Tried<Result<(), Shortfall>> {
        let mut world = self.world();
        world.count()?;
        let b = &world.bundle;
        let trusts = b.plant == Some(Plant::TakesAStrangersAnswer);
        if b.is_held && !trusts {
            return Ok(Err(Shortfall::SocketHeld { socket: Printable::new("port 1"), by: None }));
        }
        Ok(if b.is_ready() || b.is_held { Ok(()) } else { Err(Shortfall::NotReady { why: None }) })
    }

    fn check(&mut self, _: &str, _: &[String], go_on: &mut dyn FnMut(&mut Self) -> Tried<()>) -> Tried<Checked> {
        let fault = self.world().choices.fault(2);
        let checked = match fault {
            0 => {
                self.world().step()?;
                go_on(self).map(|()| Checked::Passed)
            }
            1 => Ok(Checked::Refused { code: Some(1), words: String::new() }),
            _ => loop {
                self.world().step()?;
                if let Err(stop) = go_on(self) {
                    break Err(stop);
                }
            },
        };
        let mut world = self.world();
        world.is_checked = checked == Ok(Checked::Passed);
        if world.is(Plant::PlacesUnchecked) { Ok(Checked::Passed) } else { checked }
    }

    fn signal(&mut self, _: Signal) -> Tried<()> {
        let mut world = self.world();
        let is_its_own = world.from_inside;
        world.check(is_its_own, "the signal is sent by whoever is to send it");
        world.host.sent = true;
        let asked = world.begun_by.clone();
        world.bundle.ask(asked, 0);
        Ok(())
    }

    fn request(&mut self, request: Option<&Request>) -> Tried<()> {
        let mut world = self.world();
        match request {
            None => {}
            Some(request) => {
                let is_own = *request == own_request();
                world.host.sent |= is_own;
                world.starts();
                world.restarts_back += u64::from(!is_own);
                let is_told = world.helper != Helper::RunsDry || world.is_told_to_wait;
                world.check(is_told, "only a host that waits is told how long a recovery takes, and each is");
                let few = world.restarts_back <= 5;
                world.check(few, "a way back restarts the daemon five times at most");
                let asked = Asked::Request(request.clone());
                if !is_own && world.is(Plant::GoesBackWithoutARestart) {
                    world.bundle.lie(&asked);
                } else {
                    world.bundle.ask(asked, 0);
                }
            }
        }
        Ok(())
    }

    fn remember(&mut self, _: &Page, _: bool) {}

    fn newcomer(&mut self, _: &Page, _: &str) -> Option<Shortfall> {
        None
    }

    fn say(&mut self, message: HelperMessage) -> Tried<()> {
        let mut world = self.world();
        if world.host.is_cut_off {
            return Err(Reason::HostGone.into());
        }
        match message {
            HelperMessage::Go { target, .. } => world.go(&target),
            HelperMessage::Proven => {
                world.is_live();
                world.offer()?;
            }
            HelperMessage::Recovering { .. } => {
                let waits = world.helper != Helper::Asks;
                world.check(waits, "only a host that waits is told how long a recovery takes, and each is");
                world.is_told_to_wait = true;
            }
            HelperMessage::Sent | HelperMessage::End(_) => {}
        }
        Ok(())
    }

    fn hear(&mut self, ms: u16) -> Tried<Option<HostMessage>> {
        let mut world = self.world();
        if ms > 0 {
            world.wait(ms)?;
        }
        world.heard()
    }

    fn pause(&mut self, ms: u16) -> Tried<()> {
        self.world().wait(ms)
    }

    fn diff(&mut self, _: &[u8], _: &[u8], _: bool) -> Diff {
        Diff { hunks: Vec::new(), more: 0 }
    }

    fn log(&mut self, line: &Line<'_>) {
        self.world().logged = Some(line.outcome);
    }
}

impl Files for Sim<'_> {
    fn path(&self) -> &Path {
        Path::new("/rules")
    }

    fn path_of(&self, name: Name) -> PathBuf {
        self.world().bundle.disk.path_of(name)
    }

    fn lock(&mut self) -> Tried<bool> {
        Ok(true)
    }

    fn read(&mut self, name: Name) -> Tried<Found> {
        let mut world = self.world();
        let found = world.bundle.disk.read(name)?;
        if let (Found::File(file), Name::Path) = (&found, name)
            && file.bytes == bytes(Content::New)
        {
            world.placed = Some(file.clone());
        }
        let Some(plant) = world.bundle.plant else { return Ok(found) };
        let is_proving = world.since.is_some();
        Ok(plant.misread(&world.bundle, name, found, is_proving, world.placed.as_ref(), world.was_install_lost))
    }

    fn record(&mut self) -> Tried<Option<Record>> {
        let mut world = self.world();
        let mut record = world.bundle.disk.record.clone();
        if let Some(record) = &mut record {
            if record.is_interrupted() && world.is(Plant::NobodyRecoversWhatWasInterrupted) {
                record.outcome = RecordedOutcome::NotProven;
            }
            record.was_dead &= !world.is(Plant::ForgetsThatItWasDead);
        }
        if world.choices.fault(1) == 1 {
            world.bundle.say(|| "the record can't be read".to_owned());
            world.is_disturbed = true;
            return Err(failed(FileStep::Read));
        }
        Ok(record)
    }

    fn write_record(&mut self, record: &Record) -> Tried<()> {
        let mut world = self.world();
        if record.is_interrupted() && world.is(Plant::PlacesUnrecorded) {
            return Ok(());
        }
        if world.is_file() && record.id == id() && is_committed(Some(record.outcome)) {
            let (acked, offered) = (world.host.acked, world.offered);
            world.check(acked, "it commits only once it is acknowledged");
            let b = &world.bundle;
            let runs = b.state == DaemonState::Running && offered == Some(b.generation);
            world.check(runs, "what was proven still runs when it is committed");
        }
        if world.helper != Helper::Changes && !record.is_interrupted() {
            // Both are known by the same words.
            let logged = serde_json::to_value(world.logged).unwrap();
            let is_so = logged == serde_json::to_value(record.outcome).unwrap();
            world.check(is_so, "the log and the record tell the same outcome of a recovery");
        }
        // It is a file of its own until it is renamed. What couldn't be written isn't there.
        world.bundle.disk.put(Name::NewRecord, Content::New);
        let what = format!("the record says {:?}", record.outcome);
        let written = world.disk(&what, 3, FileStep::Record, |b| b.disk.write_record(record));
        if matches!(written, Err(Stop::Because(_))) {
            world.bundle.disk.clear(Name::NewRecord);
        }
        written
    }

    fn write(&mut self, name: Name, bytes: &[u8], like: &record::Content) -> Tried<Option<(u32, u32)>> {
        self.world().disk(&format!("writes {name:?}"), 4, FileStep::Stage, |b| b.disk.write(name, bytes, like))
    }

    fn link(&mut self, from: Name, to: Name) -> Tried<bool> {
        self.world().disk(&format!("links {to:?}"), 6, FileStep::Keep, |b| b.disk.link(from, to))
    }

    fn exchange(&mut self, one: Name, other: Name) -> Tried<bool> {
        let mut world = self.world();
        if !world.bundle.disk.is_modern {
            return Ok(false);
        }
        let step = world.moves(one, other);
        world.disk(&format!("exchanges {one:?} and {other:?}"), 6, step, |b| b.disk.exchange(one, other))
    }

    fn rename(&mut self, from: Name, to: Name) -> Tried<()> {
        let mut world = self.world();
        let step = world.moves(from, to);
        world.disk(&format!("renames {from:?} to {to:?}"), 4, step, |b| b.disk.rename(from, to))
    }

    fn remove(&mut self, name: Name) -> Tried<()> {
        let mut world = self.world();
        if world.bundle.disk.at(name).is_none() {
            return Ok(());
        }
        if name == Name::Staged {
            let choice = world.choices.fault(3);
            world.person(choice);
            world.was_written_over_at_once |= choice > 0;
        }
        world.disk(&format!("removes {name:?}"), 2, FileStep::Keep, |b| b.disk.remove(name))
    }

    fn mount(&mut self) -> Tried<Mount> {
        Ok(Mount::No)
    }

    fn is_where_it_was(&mut self) -> Tried<bool> {
        Ok(true)
    }
}

impl World<'_> {
    fn moves(&mut self, from: Name, to: Name) -> FileStep {
        match (from, to) {
            (Name::Staged, Name::Path) => {
                if self.bundle.disk.content(Name::Staged) == Some(Content::New) {
                    self.installs();
                }
                FileStep::Install
            }
            (Name::Kept, Name::Path) => {
                self.goes_back();
                FileStep::Restore
            }
            _ => FileStep::Restore,
        }
    }
}

fn is_committed(record: Option<RecordedOutcome>) -> bool {
    matches!(record, Some(RecordedOutcome::Live | RecordedOutcome::Delivered))
}

/// One schedule, from its first choice on.
pub fn run(choices: &mut Choices, plant: Option<Plant>, with_log: bool) -> Outcome {
    let file = || Task::File { bytes: 3, sha256: Printable::default(), force: false };
    let task = [file(), Task::InPlace, dry_run()][choices.pick_mostly_first(3)].clone();
    let begun_by = [Asked::Restart, Asked::Forward, Asked::Request(own_request()), Asked::Restart];
    let how = choices.pick(4);
    let (begun_by, from_inside) = (begun_by[how].clone(), how == 3);
    let ready = [None, Some(Ready::Tcp(([127, 0, 0, 1], 1).into())), Some(Ready::Notify)][choices.pick(3)].clone();
    let new = [Nature::Good, Nature::Dies, Nature::DiesSoon, Nature::NeverReady, Nature::Refuses][choices.pick(5)];
    let was_dead = choices.pick(2) == 1;
    let old = if choices.pick(2) == 0 { Nature::Good } else { Nature::Dies };
    let slow = [0, 3 * TICK][choices.pick(2)];
    let is_modern = choices.pick(2) == 0;
    let is_revived = choices.pick(2) == 1;
    let mut bundle = Bundle::new([old, new], ready, slow, [was_dead, is_revived, is_modern], plant);
    if task == Task::InPlace {
        bundle.disk.put(Name::Path, Content::New);
    }
    bundle.log = with_log.then(Vec::new);
    bundle.say(|| {
        format!(
            "{task:?} by {begun_by:?}, from inside: {from_inside}; new {new:?}, old {old:?}, was dead: {was_dead}, revived: {is_revived}, slow {slow}, {is_modern}"
        )
    });
    let was = bundle.disk.path();
    let world = World {
        bundle,
        choices,
        task,
        begun_by,
        from_inside,
        helper: Helper::Changes,
        is_told_to_wait: false,
        logged: None,
        host: Host::default(),
        since: None,
        offered: None,
        is_checked: false,
        is_disturbed: false,
        was_install_lost: false,
        was_written_over_at_once: false,
        placed: None,
        short_waits: 0,
        restarts_by_others: 0,
        restarts_back: 0,
        steps: 0,
        broken: None,
    };
    let mut sim = Sim(Rc::new(RefCell::new(world)));
    let ended = sim.helper();
    {
        let mut world = sim.world();
        let path = world.bundle.disk.path();
        let is_untouched = world.is_file() || path == was || path == Content::Theirs;
        world.check(is_untouched, "without new content nothing is written to the file");
    }
    let told = sim.tell(&ended, was_dead);
    {
        let mut world = sim.world();
        world.bundle.say(|| format!("the host tells: {told:?}"));
        world.is_as_told(told, was_dead, false, false);
    }
    sim.rest(told, was_dead);
    let mut world = sim.world();
    let (broken, log) = (world.broken.take(), world.bundle.log.take());
    Outcome { broken, told, steps: world.steps, log: log.unwrap_or_default() }
}

/// What a number of schedules came to.
#[derive(Default)]
pub struct Report {
    pub schedules: u64,
    pub steps: u64,
    /// By what was told, as [`TOLD`] has it.
    pub told: [u64; 7],
    pub failed: Option<(Vec<usize>, Broken)>,
}

pub const TOLD: [Told; 7] =
    [Told::Live, Told::Delivered, Told::Checked, Told::AsItWas, Told::Gone, Told::Unknown, Told::Nobody];

impl Report {
    /// Runs one, and says whether every promise held.
    fn run(&mut self, choices: &mut Choices, plant: Option<Plant>) -> bool {
        let outcome = run(choices, plant, false);
        self.schedules += 1;
        self.steps += outcome.steps;
        self.told[outcome.told as usize] += 1;
        let made = choices.made.iter().map(|(chosen, _)| *chosen);
        self.failed = outcome.broken.map(|broken| (made.collect(), broken));
        self.failed.is_none()
    }

    fn add(&mut self, other: Self) {
        self.schedules += other.schedules;
        self.steps += other.steps;
        self.told.iter_mut().zip(other.told).for_each(|(sum, n)| *sum += n);
        self.failed = self.failed.take().or(other.failed);
    }
}

/// Random ones, the i-th of seed S+i.
pub fn run_random(seed: u64, schedules: u64, threads: usize, plant: Option<Plant>) -> Report {
    let one = |report: &mut Report, number| report.run(&mut Choices::random(seed.wrapping_add(number)), plant);
    run_each(schedules, threads, Report::default, one, Report::add)
}

/// Every one that there is with at most so many faults.
pub fn run_all(faults: usize, plant: Option<Plant>) -> Report {
    let mut report = Report::default();
    let mut list = Some(Vec::new());
    while let Some(now) = list {
        let mut choices = Choices::list(now, faults);
        list = if report.run(&mut choices, plant) { choices.next() } else { None };
    }
    report
}

/// The failing one with as little in it as will still fail so, told step by step.
pub fn explain(list: &[usize], broken: &Broken, plant: Option<Plant>) -> String {
    let fails = |list: &[usize]| {
        let outcome = run(&mut Choices::list(list.to_vec(), usize::MAX), plant, false);
        outcome.broken.is_some_and(|b| b.promise == broken.promise)
    };
    let mut short = list.to_vec();
    for at in 0..short.len() {
        let was = std::mem::take(&mut short[at]);
        if !fails(&short) {
            short[at] = was;
        }
    }
    while short.last() == Some(&0) {
        short.pop();
    }
    let outcome = run(&mut Choices::list(short.clone(), usize::MAX), plant, true);
    let choices: Vec<String> = short.iter().map(usize::to_string).collect();
    format!(
        "broken: {}: {}\nagain: scripts/simulate --transactions --choices {}\n{}",
        broken.promise,
        outcome.broken.map_or_else(|| broken.how.clone(), |b| b.how),
        choices.join(","),
        outcome.log.join("\n")
    )
}
