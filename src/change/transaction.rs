//! What to do at each step of a change when this or that happens. No I/O, no clock: an event comes in, the one thing
//! to do next goes out, and what came of that is the next event.
//!
//! | state      | done                           | refused, failed or left           |
//! |------------|--------------------------------|-----------------------------------|
//! | Looking    | Staging (no file: Checking)    | Sweeping: refused (or unchanged)  |
//! | Staging    | Checking                       | Sweeping: refused                 |
//! | Checking   | Keeping (dry run: Sweeping; no file: Proving) | Sweeping: refused  |
//! | Keeping    | Noting                         | Sweeping: refused                 |
//! | Noting     | Placing                        | Sweeping: refused                 |
//! | Placing    | Proving                        | Restoring                         |
//! | Proving    | Offering (no file: Closing)    | Restoring (no file: Closing)      |
//! | Offering   | Committing, once acknowledged  | Restoring                         |
//! | Committing | Sweeping: live                 | Restoring                         |
//! | Restoring  | Reviving                       | Ended: down                       |
//! | Reviving   | Closing: rolled back (a person's content: not proven) | Closing: down |
//! | Closing    | Sweeping                       | Sweeping                          |
//! | Sweeping   | Ended                          | Ended                             |
//!
//! Left means that the host hung up or asks for the way back, that the time is up or that the bundle is stopping.
//! From Noting to Committing the record on disk says `interrupted`: whoever finds it so, with the lock free, begins
//! at Restoring ([`Mode::Settle`]). The record's change to `live` is the one point at which the change is made.

use serde::{Deserialize, Serialize};

use super::proof::{Finding, Refusal, Short};
use crate::text::Plain;

/// What a transaction is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The file was changed by other means: check it where it lies, then prove. There is no way back.
    InPlace,
    /// New content, put in place and proven, or taken back.
    File,
    /// New content, up to the check.
    DryRun,
    /// Takes back what an interrupted one left.
    Settle,
}

/// What a record says of its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mark {
    /// Begun, and nobody has settled it yet.
    Interrupted,
    /// The new content was proven.
    Live,
    /// The daemon took the signal, and can't say more.
    Delivered,
    /// Without `--file`: not proven.
    NotProven,
    /// The old content is back.
    RolledBack,
    /// The old content is back and the daemon does not come up with it.
    Down,
}

/// What stands in the way, before or after something was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "trouble", rename_all = "kebab-case")]
pub enum Trouble {
    /// init would do nothing.
    Target {
        /// Why.
        why: Refusal,
    },
    /// Another apply is at it.
    Locked {
        /// Whose.
        by: Plain,
        /// Since when.
        since: Plain,
    },
    /// The lock can't be had for another reason.
    NoLock {
        /// The system's words.
        words: Plain,
    },
    /// An interrupted one before this can't be settled.
    Unsettled {
        /// Of this daemon.
        daemon: Plain,
        /// Why not.
        back: Box<Trouble>,
    },
    /// `--file` for a daemon without `config`.
    NoConfig,
    /// `--file` where no signal restarts the daemon.
    NoWayBack,
    /// This user may not signal PID 1.
    MayNotSignal,
    /// There is no file at `path`.
    Missing,
    /// A symlink is.
    Symlink,
    /// Something else is.
    NotAFile,
    /// The file is a mount of its own, so it can't be replaced.
    Mounted,
    /// The old content is larger than what is kept.
    TooLarge,
    /// The owner can't be kept.
    Owner {
        /// The file's user.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// The content did not arrive as it was sent.
    Garbled,
    /// The system refused.
    Io {
        /// What was being done.
        doing: Doing,
        /// Its words.
        words: Plain,
    },
    /// The checker refused the content.
    Checker {
        /// Its exit code, where it exited.
        code: Option<i32>,
        /// Its words.
        words: Plain,
    },
    /// The checker did not end in time.
    CheckerHung,
    /// The checker can't be executed.
    CheckerNotRun {
        /// The system's words.
        words: Plain,
    },
    /// The proof was not found.
    Unproven {
        /// What was.
        finding: Finding,
    },
    /// The host hung up.
    HostGone,
    /// The host asked for the way back.
    Cancelled,
    /// docker did not take the signal.
    NotSent,
    /// The time is up.
    Late,
    /// The bundle is stopping.
    Stopping,
    /// Whoever was at it is gone.
    Interrupted,
    /// What was kept of the old content isn't what was recorded.
    KeptGone,
    /// Old content was kept, and the record that says whether it is to go back can't be read.
    RecordGone,
    /// Somebody else wrote to the file meanwhile.
    Changed,
}

/// What the system was asked for when it refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Doing {
    /// Opening the directory.
    Open,
    /// Reading the old content.
    Read,
    /// Writing the new content beside it.
    Stage,
    /// Keeping the old content.
    Keep,
    /// Writing the record.
    Note,
    /// Putting the new content in place.
    Place,
    /// Putting the old content back.
    Restore,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The lock is held.
    Begin,
    /// What was to be done is done.
    Done,
    /// These very bytes are live already, in the process that still runs.
    Unchanged,
    /// It is not done, and for a step that changes something: perhaps.
    Failed(Trouble),
    /// The host has left, the time is up or the bundle is stopping; what was to be done isn't.
    Left(Trouble),
    /// The proof was found: [`Finding::Live`] or [`Finding::Delivered`].
    Proven(Finding),
    /// Something else than the new content was in its place: a person was there. Settling leaves it; else it is put
    /// beside the file, and the old is back.
    Replaced,
}

/// The one thing to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Look at the file, and at whether there is anything to do.
    Look,
    /// Write the new content beside the old.
    Stage,
    /// Run the daemon's checker: on the staged file, or on the one in place.
    Check,
    /// Keep a copy of the old content.
    Keep,
    /// Write the record.
    Note(Mark),
    /// Put the staged file in place.
    Place,
    /// Tell the host to send the signal, and look for the proof.
    Prove,
    /// Tell the host of the proof, and wait for its acknowledgement.
    Offer,
    /// Put the old content back.
    Restore,
    /// Restart the daemon, and look for the proof of that.
    Revive,
    /// Remove what was staged, and what was kept.
    Sweep,
    /// Nothing more.
    End(Ending),
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ending", rename_all = "kebab-case")]
pub enum Ending {
    /// The content was live already.
    Unchanged,
    /// The content passes the check.
    Checked,
    /// Live, or delivered.
    Live {
        /// Which.
        finding: Finding,
    },
    /// Nothing was changed or sent.
    Refused {
        /// Why.
        why: Trouble,
    },
    /// Sent, without `--file`, and not seen to be live.
    NotProven {
        /// What was seen.
        why: Trouble,
    },
    /// Content and daemon are as they were.
    RolledBack {
        /// Why.
        why: Trouble,
    },
    /// The daemon isn't up with the old content either.
    Down {
        /// Why the new one was taken back.
        why: Trouble,
        /// Why the old one isn't up.
        back: Trouble,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Start,
    Looking,
    Staging,
    Checking,
    Keeping,
    Noting,
    Placing,
    Proving,
    Offering(Finding),
    Committing(Finding),
    Restoring(Trouble),
    /// What the record is to say, and why the new content was taken back.
    Reviving(Mark, Trouble),
    Closing(Ending),
    Sweeping(Ending),
    Ended(Ending),
}

/// One change of one daemon, under the bundle's lock.
#[derive(Debug)]
pub struct Transaction {
    mode: Mode,
    state: State,
    was_dead: bool,
}

impl Transaction {
    /// `was_dead`: the daemon had no process when it began, so it is as it was where it has none again.
    #[must_use]
    pub fn new(mode: Mode, was_dead: bool) -> Self {
        Self { mode, state: State::Start, was_dead }
    }

    /// Takes in what came of the last action, and tells the next.
    #[must_use]
    pub fn on(&mut self, event: Event) -> Action {
        let in_place = self.mode == Mode::InPlace;
        let state = std::mem::replace(&mut self.state, State::Start);
        let (state, action) = match (state, event) {
            (State::Start, _) if self.mode == Mode::Settle => (State::Restoring(Trouble::Interrupted), Action::Restore),
            (State::Start, _) => (State::Looking, Action::Look),

            // Nothing is placed yet, so nothing is left to take back.
            (State::Looking, Event::Unchanged) => sweep(Ending::Unchanged),
            (
                State::Looking | State::Staging | State::Checking | State::Keeping | State::Noting,
                Event::Failed(why) | Event::Left(why),
            ) => sweep(Ending::Refused { why }),
            (State::Looking, _) if in_place => (State::Checking, Action::Check),
            (State::Looking, _) => (State::Staging, Action::Stage),
            (State::Staging, _) => (State::Checking, Action::Check),
            (State::Checking, _) => match self.mode {
                Mode::InPlace => (State::Proving, Action::Prove),
                Mode::DryRun => sweep(Ending::Checked),
                Mode::File | Mode::Settle => (State::Keeping, Action::Keep),
            },
            (State::Keeping, _) => (State::Noting, Action::Note(Mark::Interrupted)),
            (State::Noting, _) => (State::Placing, Action::Place),

            // From here on it is live, or as it was. Without content there is no way back, and the record only tells.
            (State::Proving, Event::Failed(why) | Event::Left(why)) if in_place => {
                close(Ending::NotProven { why }, Mark::NotProven)
            }
            (State::Committing(finding), Event::Failed(_) | Event::Left(_)) if in_place => {
                sweep(Ending::Live { finding })
            }
            (
                State::Placing | State::Proving | State::Offering(_) | State::Committing(_),
                Event::Failed(why) | Event::Left(why),
            ) => back(why),
            (State::Placing, _) => (State::Proving, Action::Prove),
            (State::Proving, Event::Proven(finding)) if in_place => commit(finding),
            (State::Proving, Event::Proven(finding)) => (State::Offering(finding), Action::Offer),
            (State::Proving, Event::Begin | Event::Done | Event::Unchanged | Event::Replaced) => back(Trouble::Late),
            (State::Offering(finding), _) => commit(finding),
            (State::Committing(finding), _) => sweep(Ending::Live { finding }),

            (State::Restoring(why), Event::Failed(back) | Event::Left(back)) => end(Ending::Down { why, back }),
            // What a person has put there is theirs to judge; the daemon is only to serve what is on disk.
            (State::Restoring(why), Event::Replaced) if self.mode == Mode::Settle => {
                (State::Reviving(Mark::NotProven, why), Action::Revive)
            }
            (State::Restoring(_), Event::Replaced) => {
                (State::Reviving(Mark::RolledBack, Trouble::Changed), Action::Revive)
            }
            (State::Restoring(why), _) => (State::Reviving(Mark::RolledBack, why), Action::Revive),
            (State::Reviving(mark, why), Event::Failed(back) | Event::Left(back)) => {
                if self.is_as_it_was(&back) {
                    close(after_the_way_back(mark, why), mark)
                } else {
                    close(Ending::Down { why, back }, Mark::Down)
                }
            }
            (State::Reviving(mark, why), _) => close(after_the_way_back(mark, why), mark),

            // A record that can't be written stays as it is: `interrupted`, to be settled once more.
            (State::Closing(ending), _) => sweep(ending),
            (State::Sweeping(ending) | State::Ended(ending), _) => end(ending),
        };
        self.state = state;
        action
    }

    /// Whether a daemon that didn't come up with the old content is no worse off than before.
    fn is_as_it_was(&self, back: &Trouble) -> bool {
        match back {
            // It ends with the bundle, and starts with the old content when that starts again.
            Trouble::Stopping | Trouble::Unproven { finding: Finding::Unproven(Short::InitStopping) } => true,
            Trouble::Unproven { finding: Finding::Unproven(Short::Dead { .. } | Short::NotExecuted { .. }) } => {
                self.was_dead
            }
            _ => false,
        }
    }
}

fn back(why: Trouble) -> (State, Action) {
    (State::Restoring(why), Action::Restore)
}

fn commit(finding: Finding) -> (State, Action) {
    let mark = if finding == Finding::Live { Mark::Live } else { Mark::Delivered };
    (State::Committing(finding), Action::Note(mark))
}

fn after_the_way_back(mark: Mark, why: Trouble) -> Ending {
    if mark == Mark::RolledBack { Ending::RolledBack { why } } else { Ending::NotProven { why } }
}

fn close(ending: Ending, mark: Mark) -> (State, Action) {
    (State::Closing(ending), Action::Note(mark))
}

fn sweep(ending: Ending) -> (State, Action) {
    (State::Sweeping(ending), Action::Sweep)
}

fn end(ending: Ending) -> (State, Action) {
    (State::Ended(ending.clone()), Action::End(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small generator of choices, so that a schedule is told by its seed.
    struct Choices(u64);

    impl Choices {
        fn pick(&mut self, n: u64) -> u64 {
            // xorshift64
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % n
        }
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Content {
        Old,
        New,
        /// Copied from what was there before.
        Torn,
    }

    /// A bundle: what is on disk, what the daemon serves, what the host believes.
    #[allow(clippy::struct_excessive_bools, reason = "each is a fact of the world, not a mode")]
    #[derive(Clone, Debug)]
    struct World {
        path: Content,
        staged: Option<Content>,
        kept: Option<Content>,
        record: Option<Mark>,
        /// What the running process has read; `None`: it is dead.
        serves: Option<Content>,
        /// What the daemon makes of the new content, and of the old.
        likes_new: bool,
        likes_old: bool,
        checked: bool,
        host_is_there: bool,
        acked: bool,
        said: Option<Ending>,
    }

    impl World {
        fn new() -> Self {
            Self {
                path: Content::Old,
                staged: None,
                kept: None,
                record: None,
                serves: Some(Content::Old),
                likes_new: true,
                likes_old: true,
                checked: false,
                host_is_there: true,
                acked: false,
                said: None,
            }
        }

        fn restart(&mut self) -> bool {
            let likes = if self.path == Content::New { self.likes_new } else { self.likes_old };
            self.serves = likes.then_some(self.path);
            likes
        }

        /// Does it, or fails with the disk, with the host, or with the checker.
        fn act(&mut self, action: &Action, choices: &mut Choices) -> Event {
            let disk_is_full = choices.pick(12) == 0;
            let full = || Event::Failed(Trouble::Io { doing: Doing::Stage, words: Plain::new("full") });
            if choices.pick(20) == 0 {
                self.host_is_there = false;
            }
            match action {
                Action::Look if choices.pick(20) == 0 => return Event::Failed(Trouble::Symlink),
                Action::Look => {}
                Action::Stage | Action::Keep if disk_is_full => return full(),
                Action::Stage => self.staged = Some(Content::New),
                Action::Check => match choices.pick(10) {
                    0 => return Event::Failed(Trouble::CheckerHung),
                    _ if !self.host_is_there => return Event::Left(Trouble::HostGone),
                    _ => self.checked = true,
                },
                Action::Keep => self.kept = Some(self.path),
                Action::Note(Mark::Interrupted) if !self.host_is_there => return Event::Left(Trouble::HostGone),
                Action::Note(_) if disk_is_full => return full(),
                Action::Note(mark) => {
                    assert!(*mark != Mark::Live || self.acked, "committed without an acknowledgement");
                    assert!(*mark != Mark::Live || self.serves == Some(Content::New), "live, but not served");
                    self.record = Some(*mark);
                }
                Action::Place => {
                    assert!(self.checked, "nothing unchecked is ever put in place");
                    assert_eq!(self.record, Some(Mark::Interrupted), "nobody could settle it");
                    assert_eq!(self.kept, Some(Content::Old), "there is no way back");
                    if let Some(staged) = self.staged.take() {
                        self.path = staged;
                    }
                    if disk_is_full {
                        return full();
                    }
                }
                Action::Prove => {
                    // The signal may come late, or never.
                    let sent = choices.pick(8) != 0;
                    let up = sent && self.restart();
                    return match choices.pick(6) {
                        0 => Event::Left(Trouble::Stopping),
                        _ if !self.host_is_there => Event::Left(Trouble::HostGone),
                        _ if up => Event::Proven(Finding::Live),
                        _ => Event::Failed(Trouble::Late),
                    };
                }
                Action::Offer => {
                    if !self.host_is_there || choices.pick(8) == 0 {
                        return Event::Left(Trouble::HostGone);
                    }
                    self.acked = true;
                }
                Action::Restore if self.kept == Some(Content::Old) => (self.path, self.kept) = (Content::Old, None),
                Action::Restore if self.path == Content::Old => {}
                Action::Restore => return Event::Failed(Trouble::KeptGone),
                Action::Revive => {
                    if !self.restart() {
                        let dead = Short::Dead { code: Some(1), signal: None };
                        return Event::Failed(Trouble::Unproven { finding: Finding::Unproven(dead) });
                    }
                }
                Action::Sweep => (self.staged, self.kept) = (None, None),
                Action::End(ending) => self.said = Some(ending.clone()),
            }
            Event::Done
        }

        /// Runs it, at most `steps` actions of it: then whoever carries it out is killed.
        fn run(&mut self, mut transaction: Transaction, steps: u64, choices: &mut Choices) {
            let mut event = Event::Begin;
            for _ in 0..steps {
                let action = transaction.on(event);
                event = self.act(&action, choices);
                if matches!(action, Action::End(_)) {
                    return;
                }
            }
        }

        /// What every next one does first.
        fn settle(&mut self) {
            if self.record == Some(Mark::Interrupted) {
                // Only the first disk is ever full in these schedules' settling; that it is again is tried below.
                self.run(Transaction::new(Mode::Settle, false), u64::MAX, &mut Choices(0x9e37_79b9));
            }
        }
    }

    #[test]
    fn whatever_fails_and_whoever_is_killed_the_bundle_is_live_or_as_it_was() {
        for seed in 1..200_000_u64 {
            let mut choices = Choices(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            let mut world = World::new();
            world.likes_new = choices.pick(3) != 0;
            let killed_after = choices.pick(24);
            world.run(Transaction::new(Mode::File, false), killed_after, &mut choices);
            let said = world.said.clone();
            world.settle();
            let what = format!("seed {seed}: {said:?} {world:?}");
            assert_eq!(world.serves, Some(world.path), "a mix: {what}");
            match said {
                Some(Ending::Live { .. }) => assert_eq!(world.path, Content::New, "{what}"),
                Some(Ending::Refused { .. } | Ending::RolledBack { .. }) => {
                    assert_eq!(world.path, Content::Old, "{what}");
                }
                Some(other) => panic!("{other:?}: {what}"),
                None => assert_eq!(world.path == Content::New, world.record == Some(Mark::Live), "{what}"),
            }
            if said.is_some() {
                assert_eq!((world.staged, world.kept), (None, None), "something is left: {what}");
            }
        }
    }

    /// Every action that succeeds, in order.
    fn walk(mode: Mode, events: &[(&Action, Event)]) -> Vec<Action> {
        let mut transaction = Transaction::new(mode, false);
        let mut event = Event::Begin;
        let mut actions = Vec::new();
        loop {
            let action = transaction.on(event);
            actions.push(action.clone());
            if matches!(action, Action::End(_)) {
                return actions;
            }
            let special = events.iter().find(|(at, _)| **at == action).map(|(_, event)| event.clone());
            let good = if action == Action::Prove { Event::Proven(Finding::Live) } else { Event::Done };
            event = special.unwrap_or(good);
        }
    }

    #[test]
    fn the_good_case_goes_through_every_step_once() {
        use Action::{Check, End, Keep, Look, Note, Offer, Place, Prove, Stage, Sweep};
        let live = Ending::Live { finding: Finding::Live };
        let note = Note(Mark::Interrupted);
        let all = [Look, Stage, Check, Keep, note, Place, Prove, Offer, Note(Mark::Live), Sweep, End(live.clone())];
        assert_eq!(walk(Mode::File, &[]), all);
        assert_eq!(walk(Mode::InPlace, &[]), [Look, Check, Prove, Note(Mark::Live), Sweep, End(live)]);
        assert_eq!(walk(Mode::DryRun, &[]), [Look, Stage, Check, Sweep, End(Ending::Checked)]);
    }

    #[test]
    fn each_step_that_fails_before_anything_is_placed_is_a_refusal() {
        for action in [Action::Look, Action::Stage, Action::Check, Action::Keep, Action::Note(Mark::Interrupted)] {
            for event in [Event::Failed(Trouble::Missing), Event::Left(Trouble::Missing)] {
                let actions = walk(Mode::File, &[(&action, event)]);
                let refused = Action::End(Ending::Refused { why: Trouble::Missing });
                assert_eq!(actions.last(), Some(&refused), "{action:?}");
                assert!(!actions.contains(&Action::Place) && !actions.contains(&Action::Revive), "{action:?}");
            }
        }
    }

    #[test]
    fn each_step_that_fails_after_that_ends_with_the_old_content_and_a_restart() {
        for action in [Action::Place, Action::Prove, Action::Offer, Action::Note(Mark::Live)] {
            for event in [Event::Failed(Trouble::Late), Event::Left(Trouble::Late)] {
                let actions = walk(Mode::File, &[(&action, event)]);
                let end = Action::End(Ending::RolledBack { why: Trouble::Late });
                let back = [Action::Restore, Action::Revive, Action::Note(Mark::RolledBack), Action::Sweep, end];
                assert!(actions.ends_with(&back), "{action:?}: {actions:?}");
            }
        }
    }

    #[test]
    fn a_daemon_that_was_dead_before_and_is_again_is_as_it_was() {
        let dead = Trouble::Unproven { finding: Finding::Unproven(Short::Dead { code: Some(1), signal: None }) };
        for (was_dead, mark) in [(true, Mark::RolledBack), (false, Mark::Down)] {
            let mut transaction = Transaction::new(Mode::Settle, was_dead);
            assert_eq!(transaction.on(Event::Begin), Action::Restore);
            assert_eq!(transaction.on(Event::Done), Action::Revive);
            assert_eq!(transaction.on(Event::Failed(dead.clone())), Action::Note(mark));
        }
    }

    #[test]
    fn what_a_person_put_there_is_never_called_the_old_content_and_is_told_of() {
        let mut settling = Transaction::new(Mode::Settle, false);
        assert_eq!(settling.on(Event::Begin), Action::Restore);
        assert_eq!(settling.on(Event::Replaced), Action::Revive);
        assert_eq!(settling.on(Event::Done), Action::Note(Mark::NotProven));
        let actions =
            walk(Mode::File, &[(&Action::Place, Event::Failed(Trouble::Late)), (&Action::Restore, Event::Replaced)]);
        assert_eq!(actions.last(), Some(&Action::End(Ending::RolledBack { why: Trouble::Changed })));
    }

    #[test]
    fn what_was_kept_and_is_gone_is_never_put_back() {
        let mut world = World { path: Content::New, kept: Some(Content::Torn), ..World::new() };
        world.record = Some(Mark::Interrupted);
        world.settle();
        assert!(matches!(world.said, Some(Ending::Down { back: Trouble::KeptGone, .. })));
        assert_eq!((world.path, world.kept), (Content::New, Some(Content::Torn)), "it is left for a person");
    }
}
