//! A change of the daemon's file in a simulated bundle: the real cores of the transaction and of its proof decide, the
//! hands, the host and all that goes wrong are simulated, and the promises are checked as it goes.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sidecar::change::proof::{Finding, Incarnation, Proof, Refusal, Short, Step, target, undone};
use sidecar::change::transaction::{Action, Doing, Ending, Event, Mark, Mode, Transaction, Trouble};
use sidecar::status::{DaemonState, InitState};
use sidecar::table::{Ready, Signal};
use sidecar::text::Plain;

use crate::bundle::{Bundle, Content, Nature, SETTLE, TICK};
use crate::choices::Choices;
use crate::plants::Plant;

/// How long a change may take, in milliseconds.
const TIMEOUT: u64 = 500;
/// How long the host has to acknowledge the proof, at least.
const TO_ACK: u64 = 250;

/// A promise that was not kept.
#[derive(Clone, Debug)]
pub struct Broken {
    pub promise: &'static str,
    pub how: String,
}

/// What the host is like now.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of the world, not a mode")]
struct Host {
    is_alive: bool,
    is_connected: bool,
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
    /// Exit 3: the bundle went away, and what was placed is taken back before its next start.
    Gone,
    /// Exit 5.
    Unknown,
    /// There is nobody left who could tell.
    Nobody,
}

/// The helper was killed.
struct Killed;

struct Change<'a> {
    bundle: Bundle,
    choices: &'a mut Choices,
    mode: Mode,
    is_restart: bool,
    host: Host,
    deadline: u64,
    checked: bool,
    place_failed: bool,
    /// What is to lie there after the way back.
    back_to: Content,
    /// Of the daemon, when the proof began: generation, and how many signals were served.
    since: (u64, u64),
    /// The process that was proven.
    after: Option<Incarnation>,
    steps: u64,
    broken: Option<Broken>,
}

/// What came of one schedule.
pub struct Outcome {
    pub broken: Option<Broken>,
    pub told: Told,
    pub steps: u64,
    pub log: Vec<String>,
}

fn io(doing: Doing) -> Trouble {
    Trouble::Io { doing, words: Plain::new("the disk is full") }
}

impl Change<'_> {
    fn check(&mut self, is_kept: bool, promise: &'static str, how: impl FnOnce(&Self) -> String) {
        if !is_kept && self.broken.is_none() {
            self.broken = Some(Broken { promise, how: how(self) });
        }
    }

    fn is(&self, plant: Plant) -> bool {
        self.bundle.plant == Some(plant)
    }

    /// Time goes on, and anything may happen in it.
    fn step(&mut self) -> Result<(), Killed> {
        self.steps += 1;
        match self.choices.fault(11) {
            1 => return self.die("the helper is killed"),
            2 => self.bundle.kill(),
            3 => self.bundle.stop(true),
            4 => self.bundle.stop(false),
            5 => self.hang_up("the host is killed", false),
            6 => self.hang_up("the connection breaks", true),
            7 => self.host.cancels = true,
            8 => self.bundle.die(),
            9 => self.bundle.signal(true, 0),
            n => self.person(n.saturating_sub(9)),
        }
        self.bundle.tick();
        if self.bundle.is_up { Ok(()) } else { Err(Killed) }
    }

    /// Nothing, or a person saves the file: one that is good, or one that the daemon dies of.
    fn person(&mut self, choice: usize) {
        match choice {
            0 => {}
            1 => self.bundle.save(Nature::Good),
            _ => self.bundle.save(Nature::Dies),
        }
    }

    fn die<T>(&mut self, how: &str) -> Result<T, Killed> {
        self.bundle.say(|| how.to_owned());
        Err(Killed)
    }

    fn hang_up(&mut self, how: &str, is_alive: bool) {
        self.bundle.say(|| how.to_owned());
        self.host.is_connected = false;
        self.host.is_alive &= is_alive;
    }

    /// What the host says, and why not to go on, if so.
    fn left(&mut self, deadline: u64) -> Option<Trouble> {
        if let Some(in_looks) = self.host.acks_in.as_mut() {
            if *in_looks == 0 {
                self.host.acks_in = None;
                self.host.acked = true;
                return None;
            }
            *in_looks -= 1;
        }
        self.host.says_in = self.host.says_in.saturating_sub(1);
        let says = self.host.is_connected && self.host.says_in == 0;
        match self.host.said.take_if(|_| says) {
            Some(true) => self.host.sent = true,
            Some(false) => return Some(Trouble::NotSent),
            None if !self.host.is_connected => return Some(Trouble::HostGone),
            None if self.host.cancels => return Some(Trouble::Cancelled),
            None => {}
        }
        (self.bundle.now >= deadline).then_some(Trouble::Late)
    }

    /// Something is done to the disk, or not, or perhaps.
    fn disk(&mut self, doing: Doing, effect: impl FnOnce(&mut Bundle)) -> Result<Event, Killed> {
        self.done_or_not(doing, 4, effect)
    }

    fn done_or_not(&mut self, doing: Doing, faults: usize, effect: impl FnOnce(&mut Bundle)) -> Result<Event, Killed> {
        self.steps += 1;
        match self.choices.fault(faults) {
            1 => return self.die("the helper is killed before it"),
            2 => {
                effect(&mut self.bundle);
                return self.die("the helper is killed after it");
            }
            3 => {
                self.bundle.say(|| "it fails".to_owned());
                return Ok(Event::Failed(io(doing)));
            }
            4 => {
                effect(&mut self.bundle);
                self.bundle.say(|| "it fails, done though it is".to_owned());
                return Ok(Event::Failed(io(doing)));
            }
            _ => effect(&mut self.bundle),
        }
        Ok(Event::Done)
    }

    fn signal(&self) -> Signal {
        if self.is_restart { Signal::USR1 } else { Signal::HUP }
    }

    fn served(&self, signal: Signal) -> u64 {
        self.bundle.page().status.signals[&signal.to_string()].last.map_or(0, |last| last.seq)
    }

    /// Carries out a transaction to its end, under the lock.
    fn carry_out(&mut self, mode: Mode) -> Result<Ending, Killed> {
        let was_dead = self.bundle.serves.is_none() && mode != Mode::Settle;
        let mut transaction = Transaction::new(mode, was_dead);
        let mut event = Event::Begin;
        for _ in 0..40 {
            let action = transaction.on(event);
            self.bundle.say(|| format!("helper: {action:?}"));
            let changes = matches!(action, Action::Keep | Action::Place | Action::Restore | Action::Revive);
            let is_allowed = match mode {
                Mode::File | Mode::Settle => true,
                Mode::InPlace => !changes && action != Action::Stage,
                Mode::DryRun => !changes && action != Action::Prove,
            };
            self.check(is_allowed, "without new content nothing is written to the file", |_| format!("{action:?}"));
            event = match action {
                Action::Look => match self.choices.fault(1) {
                    0 => Event::Done,
                    _ => Event::Failed(Trouble::Symlink),
                },
                Action::Stage => match self.left(self.deadline) {
                    Some(why) => Event::Left(why),
                    None => self.disk(Doing::Stage, |b| b.disk.staged = Some(Content::New))?,
                },
                Action::Check => self.run_checker(mode)?,
                Action::Keep => match self.nobody_wrote(Content::Old) {
                    Some(refused) => refused,
                    None => self.disk(Doing::Keep, |b| b.disk.kept = Some(b.disk.path))?,
                },
                Action::Note(mark) => self.note(mode, mark)?,
                Action::Place => self.place()?,
                Action::Prove => self.prove()?,
                Action::Offer => self.offer()?,
                Action::Restore => self.restore(mode)?,
                Action::Revive => self.revive()?,
                Action::Sweep => {
                    if mode != Mode::InPlace {
                        (self.bundle.disk.staged, self.bundle.disk.kept) = (None, None);
                    }
                    Event::Done
                }
                Action::End(ending) => {
                    // It ends with the bundle, and starts with the old content when that starts again.
                    let is_down = matches!(ending, Ending::Down { back: Trouble::Stopping, .. });
                    self.check(!is_down, "a bundle that stops is no bundle that is down", |_| format!("{ending:?}"));
                    let is_so = !says_changed(&ending) || self.bundle.disk.over.is_some();
                    self.check(is_so, "somebody wrote to the file where it says so", |_| format!("{ending:?}"));
                    return Ok(ending);
                }
            };
        }
        self.check(false, "a transaction comes to an end", |_| "it took forty actions".to_owned());
        Err(Killed)
    }

    /// What is checked, and proven, must be what lies there.
    fn nobody_wrote(&self, content: Content) -> Option<Event> {
        let is_there = self.bundle.disk.path == content || self.is(Plant::ProvesWhatAPersonWrote);
        (!is_there).then_some(Event::Failed(Trouble::Changed))
    }

    fn run_checker(&mut self, mode: Mode) -> Result<Event, Killed> {
        let refusal = match self.choices.fault(2) {
            0 => {
                self.step()?;
                self.left(self.deadline).map(Event::Left)
            }
            1 => Some(Event::Failed(Trouble::Checker { code: Some(1), words: Plain::default() })),
            _ => loop {
                self.step()?;
                match self.left(self.deadline) {
                    None => {}
                    Some(Trouble::Late) => break Some(Event::Failed(Trouble::CheckerHung)),
                    Some(why) => break Some(Event::Left(why)),
                }
            },
        };
        let refusal = refusal.or_else(|| self.nobody_wrote(Content::New).filter(|_| mode == Mode::InPlace));
        self.checked = refusal.is_none();
        Ok(refusal.filter(|_| !self.is(Plant::PlacesUnchecked)).unwrap_or(Event::Done))
    }

    fn note(&mut self, mode: Mode, mark: Mark) -> Result<Event, Killed> {
        if mark == Mark::Interrupted {
            if let Some(why) = self.left(self.deadline) {
                return Ok(Event::Left(why));
            }
            if self.is(Plant::PlacesUnrecorded) {
                return Ok(Event::Done);
            }
        }
        if mode == Mode::File && matches!(mark, Mark::Live | Mark::Delivered) {
            self.check(self.host.acked, "it commits only once it is acknowledged", |_| "it was not".to_owned());
            let (b, after) = (&self.bundle, self.after);
            let runs = b.state == DaemonState::Running && after.is_some_and(|after| after.generation == b.generation);
            self.check(runs, "what was proven runs still when it is committed", Self::summary);
        }
        // What couldn't be written isn't there: Store::note.
        self.done_or_not(Doing::Note, 3, |b| (b.disk.record, b.disk.is_ours) = (Some(mark), true))
    }

    fn place(&mut self) -> Result<Event, Killed> {
        let disk = self.bundle.disk.clone();
        self.check(self.checked, "nothing unchecked is put in place", |_| "it is".to_owned());
        let is_marked = disk.record == Some(Mark::Interrupted) && disk.is_ours;
        self.check(is_marked, "what is placed can be settled by whoever finds it", |_| format!("{disk:?}"));
        let is_kept = disk.kept == Some(disk.path);
        self.check(is_kept, "what is placed has a way back", |_| format!("{disk:?}"));
        let event = self.disk(Doing::Place, |b| {
            if let Some(staged) = b.disk.staged.take() {
                b.disk.path = staged;
            }
        })?;
        self.place_failed = event != Event::Done;
        Ok(event)
    }

    /// One look at the page, with the probe that is asked for.
    fn look_at(&mut self, proof: &mut Proof, sent: bool) -> Option<Finding> {
        self.steps += 1;
        let page = self.bundle.page();
        let mut answer = None;
        for _ in 0..2 {
            match proof.observe(self.bundle.now, &page, sent, answer) {
                Step::Done(verdict) => {
                    self.after = Some(verdict.after);
                    return Some(verdict.finding);
                }
                Step::Wait { probe: false } => return None,
                Step::Wait { probe: true } => answer = Some(self.bundle.is_ready()),
            }
        }
        None
    }

    fn prove(&mut self) -> Result<Event, Killed> {
        let (signal, page) = (self.signal(), self.bundle.page());
        let mut aim = match target(&page, signal) {
            Ok(aim) => aim,
            Err((why, _)) => return Ok(Event::Failed(Trouble::Target { why })),
        };
        self.since = (aim.before.generation, aim.seq);
        if self.is(Plant::TakesTheOldProcessForTheNew) {
            (aim.before.generation, aim.seq) = (aim.before.generation - 1, aim.seq.saturating_sub(1));
        }
        let mut proof = Proof::new(&page, signal, aim);
        if !self.host.is_connected {
            return Ok(Event::Left(Trouble::HostGone));
        }
        self.host.sent = false;
        // docker kill.
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
            self.bundle.signal(self.is_restart, after);
        }
        loop {
            let sent = self.host.sent || self.is(Plant::CountsBeforeItIsSent);
            if let Some(finding) = self.look_at(&mut proof, sent) {
                let is_success = matches!(finding, Finding::Live | Finding::Delivered);
                if let Some(changed) = self.nobody_wrote(Content::New).filter(|_| is_success) {
                    return Ok(changed);
                }
                return Ok(self.judge(finding, Some(Content::New), self.is_restart));
            }
            self.step()?;
            match self.left(self.deadline) {
                None => {}
                Some(Trouble::Late) => {
                    let is_good = self.is_restart
                        && self.host.sent
                        && self.bundle.generation > self.since.0
                        && self.served(signal) > self.since.1
                        && self.bundle.ready_for().is_some_and(|ready| ready > SETTLE + 4 * TICK);
                    self.check(!is_good, "what is live is found to be so", |c| format!("{:?}", proof_of(c, &proof)));
                    return Ok(self.judge(proof.give_up().finding, Some(Content::New), self.is_restart));
                }
                Some(why) => return Ok(Event::Left(why)),
            }
        }
    }

    /// What the proof says must be so. `new`: the content that is proven; `None`: whatever the way back has found.
    fn judge(&mut self, finding: Finding, new: Option<Content>, is_restart: bool) -> Event {
        let b = &self.bundle;
        let is_sent = new.is_none() || self.host.sent;
        let signal = if is_restart { Signal::USR1 } else { Signal::HUP };
        let is_served = self.served(signal) > self.since.1;
        let serves = |content| new.map_or(content != Content::New, |new| content == new);
        let is_up = b.state == DaemonState::Running && b.serves.is_some_and(serves);
        let is_so = match finding {
            Finding::Live if is_restart => {
                let is_settled = b.ready_for().is_some_and(|ready| ready >= SETTLE);
                is_up && is_served && b.generation > self.since.0 && is_settled
            }
            Finding::Live => is_up && b.obeyed_at.is_some_and(|at| b.now >= at + SETTLE),
            Finding::Delivered => !is_restart && is_served && b.state == DaemonState::Running,
            _ => true,
        };
        let is_success = matches!(finding, Finding::Live | Finding::Delivered);
        self.check(is_sent || !is_success, "nothing counts before the signal is out", |_| format!("{finding:?}"));
        self.check(is_so, "what is found live is live, and has settled", |c| {
            format!(
                "{finding:?}: {:?} serves {:?}, ready for {:?} ms",
                c.bundle.state,
                c.bundle.serves,
                c.bundle.ready_for()
            )
        });
        match finding {
            Finding::Live | Finding::Delivered => Event::Proven(finding),
            Finding::Unproven(Short::InitStopping) => Event::Failed(Trouble::Stopping),
            finding => Event::Failed(Trouble::Unproven { finding }),
        }
    }

    fn offer(&mut self) -> Result<Event, Killed> {
        if self.is(Plant::SweepsBeforeTheCommit) {
            self.bundle.disk.kept = None;
        }
        if self.is(Plant::CommitsUnacknowledged) {
            return Ok(Event::Done);
        }
        if !self.host.is_connected {
            return Ok(Event::Left(Trouble::HostGone));
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
                self.step()?;
                return Ok(Event::Left(Trouble::HostGone));
            }
            // Others of the fleet aren't proven yet.
            4 => self.host.acks_in = Some(3),
            _ => self.host.acks_in = Some(0),
        }
        let deadline = self.deadline.max(self.bundle.now + TO_ACK);
        loop {
            self.step()?;
            if let Some(why) = self.left(deadline) {
                return Ok(Event::Left(why));
            }
            let page = self.bundle.page();
            if page.status.state == InitState::Stopping {
                return Ok(Event::Left(Trouble::Stopping));
            }
            if let Some(finding) = undone(&page, "filter", self.after) {
                return Ok(Event::Failed(Trouble::Unproven { finding }));
            }
            if self.host.acked {
                return Ok(self.nobody_wrote(Content::New).unwrap_or(Event::Done));
            }
        }
    }

    fn restore(&mut self, mode: Mode) -> Result<Event, Killed> {
        self.bundle.starts_since_back = 0;
        if self.place_failed && self.is(Plant::ForgetsAPlaceThatFailed) {
            return Ok(Event::Done);
        }
        let is_theirs = self.bundle.disk.path == Content::Theirs && !self.is(Plant::WritesOverAPerson);
        self.back_to = Content::Old;
        if is_theirs && mode == Mode::Settle {
            self.back_to = Content::Theirs;
            return Ok(if self.is(Plant::CallsAPersonsContentTheOld) { Event::Done } else { Event::Replaced });
        }
        if self.bundle.disk.kept == Some(Content::Old) {
            let restored = self.disk(Doing::Restore, |b| {
                b.disk.aside |= is_theirs;
                (b.disk.path, b.disk.kept) = (Content::Old, None);
            })?;
            return Ok(if is_theirs && restored == Event::Done { Event::Replaced } else { restored });
        }
        Ok(if self.bundle.disk.path == Content::Old { Event::Done } else { Event::Failed(Trouble::KeptGone) })
    }

    fn revive(&mut self) -> Result<Event, Killed> {
        let revived = self.restart()?;
        Ok(self.nobody_wrote(self.back_to).unwrap_or(revived))
    }

    fn restart(&mut self) -> Result<Event, Killed> {
        if self.is(Plant::GoesBackWithoutARestart) {
            return Ok(Event::Done);
        }
        let page = self.bundle.page();
        let aim = match target(&page, Signal::USR1) {
            Ok(aim) => aim,
            Err((Refusal::Stopping, _)) => return Ok(Event::Failed(Trouble::Stopping)),
            Err((why, _)) => return Ok(Event::Failed(Trouble::Target { why })),
        };
        self.since = (aim.before.generation, aim.seq);
        let mut proof = Proof::new(&page, Signal::USR1, aim);
        self.bundle.signal(true, 0);
        let deadline = self.bundle.now + TIMEOUT.max(1000);
        loop {
            if let Some(finding) = self.look_at(&mut proof, true) {
                return Ok(self.judge(finding, None, true));
            }
            if self.bundle.now >= deadline {
                return Ok(self.judge(proof.give_up().finding, None, true));
            }
            self.step()?;
        }
    }

    /// A helper comes: it takes the lock, settles, and goes on with what it was sent for.
    fn helper(&mut self, mode: Option<Mode>) -> Option<Result<Ending, Killed>> {
        if !self.bundle.is_up || self.bundle.locked {
            return None;
        }
        self.bundle.say(|| format!("a helper has the lock, for {mode:?}"));
        self.bundle.locked = true;
        self.deadline = self.bundle.now + TIMEOUT;
        let settled = self.settle();
        let ended = match (settled, mode) {
            (Err(killed), _) => Some(Err(killed)),
            (Ok(()), None) => None,
            (Ok(()), Some(mode)) => Some(match target(&self.bundle.page(), self.signal()) {
                Ok(_) => self.carry_out(mode),
                Err((why, _)) => Ok(Ending::Refused { why: Trouble::Target { why } }),
            }),
        };
        self.bundle.locked = false;
        ended
    }

    fn settle(&mut self) -> Result<(), Killed> {
        if self.is(Plant::NobodySettlesWhatWasInterrupted) {
            return Ok(());
        }
        if self.bundle.disk.record == Some(Mark::Interrupted) {
            let host = Host::new();
            let own = std::mem::replace(&mut self.host, host);
            let ended = self.carry_out(Mode::Settle);
            self.host = own;
            return ended.map(drop);
        }
        if self.mode != Mode::InPlace {
            (self.bundle.disk.staged, self.bundle.disk.kept) = (None, None);
        }
        Ok(())
    }

    /// What the host makes of it.
    fn tell(&mut self, ended: Option<&Result<Ending, Killed>>) -> Told {
        let is_file = self.mode == Mode::File;
        if let (Some(Ok(ending)), true) = (ended, self.host.is_connected) {
            return match ending {
                Ending::Live { finding: Finding::Live } if self.host.acked || !is_file => Told::Live,
                Ending::Live { .. } if self.host.acked || !is_file => Told::Delivered,
                Ending::Checked => Told::Checked,
                Ending::Refused { .. } | Ending::RolledBack { .. } | Ending::NotProven { .. } => Told::AsItWas,
                Ending::Live { .. } | Ending::Unchanged | Ending::Down { .. } => Told::Unknown,
            };
        }
        match (self.host.is_alive, is_file) {
            (false, _) => Told::Nobody,
            (true, false) => Told::AsItWas,
            (true, true) => self.ask(),
        }
    }

    /// The connection broke: the host asks once more.
    fn ask(&mut self) -> Told {
        if self.host.acked && self.is(Plant::TakesALostConnectionForLive) {
            return Told::Live;
        }
        for _ in 0..3 {
            if !self.bundle.is_up {
                // Without its acknowledgement nothing was committed: the next start has the old content.
                return if self.host.acked { Told::Unknown } else { Told::Gone };
            }
            if self.bundle.disk.record == Some(Mark::Interrupted) {
                let choice = self.choices.fault(2);
                self.person(choice);
            }
            if matches!(self.helper(None), Some(Err(Killed))) {
                continue;
            }
            let disk = &self.bundle.disk;
            return match disk.record.filter(|_| disk.is_ours) {
                Some(Mark::Live) if self.host.acked => Told::Live,
                Some(Mark::Delivered) if self.host.acked => Told::Delivered,
                Some(Mark::RolledBack) | None => Told::AsItWas,
                Some(_) => Told::Unknown,
            };
        }
        Told::Unknown
    }

    fn summary(&self) -> String {
        let b = &self.bundle;
        format!("{:?} serves {:?}; {:?}", b.state, b.serves, b.disk)
    }

    /// What was told must be so, now or once it is at rest; `since`: but for what a person wrote since.
    fn is_as_told(&mut self, told: Told, was_dead: bool, at_rest: bool, since: bool) {
        let b = &self.bundle;
        let (path, serves) = (b.disk.path, b.serves);
        let is_old_good = b.nature_of(Content::Old) == Nature::Good;
        let is_excused = b.disturbed || b.is_stopping || !b.is_up || !is_old_good;
        // It may die once it has settled, and ends with the bundle; it may not serve something else.
        let ends = !at_rest && b.is_stopping;
        let was_as_dead = |content| was_dead && content == Content::Old;
        let is = |content| ends || serves == Some(content) || serves.is_none() && (is_excused || was_as_dead(content));
        // What a person wrote lies there, which the daemon may have died of.
        let is_theirs = path == Content::Theirs && serves != Some(Content::New);
        // Over the old content: nothing was placed any more.
        let is_over_old = is_theirs && b.disk.over.is_some_and(|(over, _)| over == Content::Old);
        let is_kept = match told {
            _ if since => !matches!(told, Told::AsItWas | Told::Gone) || path != Content::New,
            Told::Live => path == Content::New && is(Content::New),
            Told::Delivered => path == Content::New,
            Told::AsItWas if self.mode == Mode::File => {
                let is_old = path == Content::Old && is(Content::Old);
                is_old || is_over_old
            }
            Told::Gone if at_rest => path == Content::Old && is(Content::Old) || is_theirs,
            Told::Checked => path == Content::Old && is(Content::Old) || is_over_old,
            _ => true,
        };
        let promise = if matches!(told, Told::Live | Told::Delivered) {
            "exit 0 means that the new content is live"
        } else {
            "any other exit but 5 means that content and daemon are as they were"
        };
        self.check(is_kept, promise, |c| format!("{told:?}, {}", c.summary()));
    }

    /// No fault any more: all must come to rest, with one content on disk and in the daemon.
    fn rest(&mut self, told: Told, was_dead: bool) {
        let choice = self.choices.fault(2);
        self.person(choice);
        self.choices.end_faults();
        self.host = Host::new();
        for _ in 0..40 {
            self.bundle.tick();
        }
        if !self.bundle.is_up {
            self.bundle.boot();
            self.bundle.tick();
        }
        // Whoever comes next.
        let _ = self.helper(None);
        for _ in 0..40 {
            self.bundle.tick();
        }
        let disk = self.bundle.disk.clone();
        let is_settled = disk.record != Some(Mark::Interrupted);
        self.check(is_settled, "what was interrupted is settled by whoever comes next", Change::summary);
        let can_say = self.is_restart || self.bundle.ready == Some(Ready::Notify);
        if self.mode != Mode::InPlace {
            let serves = self.bundle.serves;
            let is_edited = disk.path == Content::Theirs && !self.bundle.is_over_interrupted();
            let is_one = serves.is_none() || serves == Some(disk.path) || !can_say || is_edited;
            self.check(is_one, "never a mix", Change::summary);
            let is_swept = disk.staged.is_none() && disk.kept.is_none();
            self.check(is_swept, "nothing is left beside the file", Change::summary);
            let is_new = disk.path == Content::New;
            let is_marked = disk.is_ours && is_committed(disk.record);
            let is_marked = is_marked && disk.over.is_none_or(|(_, record)| !is_committed(record));
            let is_left =
                !self.bundle.is_over_interrupted() || matches!(disk.record, Some(Mark::NotProven | Mark::Down));
            self.check(is_new == is_marked && is_left, "the record tells which content it is", Change::summary);
        }
        let is_there = disk.over.is_none() || disk.path == Content::Theirs || disk.aside;
        self.check(is_there, "what a person wrote is never lost", Change::summary);
        self.is_as_told(told, was_dead, true, choice > 0);
    }
}

fn says_changed(ending: &Ending) -> bool {
    match ending {
        Ending::Refused { why } | Ending::NotProven { why } | Ending::RolledBack { why } => *why == Trouble::Changed,
        Ending::Down { why, back } => *why == Trouble::Changed || *back == Trouble::Changed,
        Ending::Unchanged | Ending::Checked | Ending::Live { .. } => false,
    }
}

fn is_committed(record: Option<Mark>) -> bool {
    matches!(record, Some(Mark::Live | Mark::Delivered))
}

fn proof_of(change: &Change<'_>, proof: &Proof) -> (u64, Finding) {
    (change.bundle.now, proof.give_up().finding)
}

impl Host {
    fn new() -> Self {
        Self {
            is_alive: true,
            is_connected: true,
            cancels: false,
            said: None,
            says_in: 0,
            acked: false,
            acks_in: None,
            sent: false,
        }
    }
}

/// One schedule, from its first choice on.
pub fn run(choices: &mut Choices, plant: Option<Plant>, with_log: bool) -> Outcome {
    let mode = [Mode::File, Mode::File, Mode::File, Mode::InPlace, Mode::DryRun][choices.pick(5)];
    let is_restart = choices.pick(2) == 0;
    let ready = [None, Some(Ready::Tcp(([127, 0, 0, 1], 1).into())), Some(Ready::Notify)][choices.pick(3)].clone();
    let new = [Nature::Good, Nature::Dies, Nature::DiesSoon, Nature::NeverReady, Nature::Refuses][choices.pick(5)];
    let was_dead = choices.pick(2) == 1;
    let old = if choices.pick(2) == 0 { Nature::Good } else { Nature::Dies };
    let slow = [0, 3 * TICK][choices.pick(2)];
    let mut bundle = Bundle::new([old, new], ready, slow, was_dead, plant);
    if mode == Mode::InPlace {
        bundle.disk.path = Content::New;
    }
    bundle.log = with_log.then(Vec::new);
    bundle.say(|| {
        format!(
            "{mode:?}, restart: {is_restart}, {:?}; new {new:?}, old {old:?}, was dead: {was_dead}, slow {slow}",
            bundle_ready(is_restart)
        )
    });
    let mut change = Change {
        bundle,
        choices,
        mode,
        is_restart,
        host: Host::new(),
        deadline: 0,
        checked: false,
        place_failed: false,
        back_to: Content::Old,
        since: (0, 0),
        after: None,
        steps: 0,
        broken: None,
    };
    let ended = change.helper(Some(mode));
    if matches!(mode, Mode::DryRun | Mode::InPlace) {
        let path = change.bundle.disk.path;
        let was = if mode == Mode::DryRun { Content::Old } else { Content::New };
        let is_untouched = path == was || path == Content::Theirs;
        change.check(is_untouched, "without new content nothing is written to the file", Change::summary);
    }
    let told = change.tell(ended.as_ref());
    change.bundle.say(|| format!("the host tells: {told:?}"));
    change.is_as_told(told, was_dead, false, false);
    change.rest(told, was_dead);
    let Change { bundle, steps, broken, .. } = change;
    Outcome { broken, told, steps, log: bundle.log.unwrap_or_default() }
}

fn bundle_ready(is_restart: bool) -> &'static str {
    if is_restart { "USR1" } else { "HUP" }
}

/// What a number of schedules came to.
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
    fn new() -> Self {
        Self { schedules: 0, steps: 0, told: [0; 7], failed: None }
    }

    fn take(&mut self, choices: &Choices, outcome: Outcome) -> bool {
        self.schedules += 1;
        self.steps += outcome.steps;
        for (n, told) in self.told.iter_mut().zip(TOLD) {
            *n += u64::from(told == outcome.told);
        }
        let Some(broken) = outcome.broken else { return true };
        self.failed = Some((choices.made.iter().map(|(chosen, _)| *chosen).collect(), broken));
        false
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
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let all = Mutex::new(Report::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let mut report = Report::new();
                while !stop.load(Ordering::Relaxed) {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= schedules {
                        break;
                    }
                    let mut choices = Choices::random(seed.wrapping_add(i));
                    let outcome = run(&mut choices, plant, false);
                    if !report.take(&choices, outcome) {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
                all.lock().unwrap().add(report);
            });
        }
    });
    all.into_inner().unwrap()
}

/// Every one that there is with at most so many faults.
pub fn run_all(faults: usize, plant: Option<Plant>) -> Report {
    let mut report = Report::new();
    let mut list = Some(Vec::new());
    while let Some(now) = list {
        let mut choices = Choices::list(now, faults);
        let outcome = run(&mut choices, plant, false);
        if !report.take(&choices, outcome) {
            return report;
        }
        list = choices.next();
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
