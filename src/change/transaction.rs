//! A change from taking the lock to its result: the steps, their order, and what follows if one fails.
//!
//! ```text
//!   lock → recover what was interrupted → look → stage → check → keep → record `interrupted`
//!        → install → signal and prove → offer to the host → record `live` → sweep
//! ```
//!
//! Until `install`, any failure is a refusal, and leaves nothing behind. After that, the change ends live or is undone: if the host
//! hangs up or asks to go back, the time is up, the bundle stops, or there is no proof. The change takes effect at a single moment,
//! when the record becomes `live`. Without new content, the file in place is checked and proven, and there is no way back.
//!
//! All decisions are here; [`Hands`] carries out single steps, in a bundle or in a simulation. If the simulation kills the helper,
//! that is an error that skips all further steps.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::proof::{self, Look, Proof, Target, Trigger, Verdict};
use super::reason::{CheckerFault, Ended, FileFault, Outcome, Reason, RecordedOutcome, Recovered, Shortfall};
use super::record::{Content, Files, Found, LiveIn, Mount, Name, Record, SCHEMA, Stamp};
use super::recovery::{self, Theirs, unless_killed};
use super::{Stop, Tried};
use crate::protocol::{Diff, End, HelperMessage, HostMessage, Task};
use crate::request::{Request, Verb};
use crate::status::{DaemonState, InitState, Page, Plan};
use crate::table::Signal;
use crate::text::Printable;

/// The shortest time that the host gets to acknowledge the proof, in milliseconds.
pub const ACK_TIMEOUT: u64 = 5000;
/// How often a daemon is asked whether it is ready, in milliseconds.
const POLL_INTERVAL: u64 = 5;
/// How often the status page is read although nothing says that it has changed, in milliseconds. It is long, since in a fleet
/// hundreds of helpers may wait at once.
const RARE_POLL_INTERVAL: u64 = 1000;
/// How often the helper tries to take a lock that another process holds, in milliseconds.
const LOCK_POLL_INTERVAL: u16 = 20;
/// The shortest time that going back gets, in milliseconds.
const SHORTEST_WAY_BACK: u64 = 1000;
/// The longest that one probe may take, in milliseconds.
const PROBE_TIMEOUT: u64 = 10_000;
/// How often going back restarts a daemon if others restart it at the same time.
const MOST_RESTARTS: u32 = 5;
/// How long a helper may live beyond all of its deadlines, in milliseconds.
const SLACK: u64 = 30_000;

/// What the host asks for.
#[derive(Clone, Debug)]
pub struct Order {
    /// The identifier of this change. No other change has it.
    pub id: Printable,
    /// Who makes the change: `user@host`, or what the caller gave with `--by`.
    pub by: Printable,
    /// When the change began, in UTC.
    pub at: Printable,
    /// What makes init act: a signal or a request.
    pub trigger: Trigger,
    /// Whether the helper sends the signal itself, instead of the host. (It always sends a request itself.)
    pub from_inside: bool,
    /// Whether a daemon that was stopped on request is started. An apply refuses instead.
    pub starts_stopped: bool,
    /// In milliseconds. It limits the wait for another change, and again the time from the check to the proof.
    pub timeout_ms: u64,
    /// What the host asks for.
    pub task: Task,
    /// The new content, if the task has one.
    pub content: Option<Vec<u8>>,
}

impl Order {
    /// Whether the helper makes init act, and not the host.
    #[must_use]
    pub fn is_sent_from_inside(&self) -> bool {
        self.from_inside || matches!(self.trigger, Trigger::Request { .. })
    }

    /// Whether there is nothing to do: the order is to start a daemon that runs already.
    fn is_met(&self, page: &Page) -> bool {
        let Trigger::Request { verb: Verb::Start, daemon } = &self.trigger else { return false };
        let now = proof::find(page, daemon).map(|(daemon, _)| daemon);
        now.is_some_and(|now| now.state == DaemonState::Running && !proof::is_stopped(now))
    }

    /// Makes init act. Doesn't wait for the result.
    ///
    /// # Errors
    /// The signal or the request could not be sent.
    pub fn send(&self, hands: &mut impl Hands) -> Tried<()> {
        match &self.trigger {
            Trigger::Signal(signal) => hands.signal(*signal),
            Trigger::Request { verb, daemon } => {
                hands.request(Some(&Request { id: self.id.to_string(), verb: *verb, daemon: daemon.clone() }))
            }
        }
    }
}

/// Identifies the bundle in which the change is made, by the kernel's boot and the pid namespace.
#[derive(Clone, Debug, Default)]
pub struct Home {
    /// The kernel's boot id; empty if it can't be read.
    pub boot: Printable,
    /// The inode number of the pid namespace; `None` if it can't be read.
    pub pids: Option<u64>,
}

/// Who holds the lock, as the holder writes it into the lock's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Who makes the change.
    pub by: Printable,
    /// When the change began, in UTC.
    pub since: Printable,
    /// When the holder must be done, in milliseconds of the monotonic clock. After that it may be killed.
    pub until_ms: u64,
}

/// The result of running a checker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// The checker passed the content.
    Passed,
    /// The checker refused the content.
    Refused {
        /// Its exit code; `None` if a signal killed it.
        code: Option<i32>,
        /// The part of its output that was kept.
        words: String,
    },
    /// The checker could not be executed.
    NotRun {
        /// The system's error message.
        words: String,
    },
}

/// A line for the bundle's log.
#[derive(Clone, Debug)]
pub struct Line<'a> {
    /// The daemon whose file was changed.
    pub daemon: &'a str,
    /// Who made the change.
    pub by: &'a Printable,
    /// The result.
    pub outcome: Outcome,
    /// The sha256 of the old and the new content.
    pub sha256: (Option<&'a Printable>, Option<&'a Printable>),
}

/// The steps that carry out a change. Each is a single step; none decides what follows.
#[allow(clippy::missing_errors_doc, reason = "each fails for the reason that it returns")]
pub trait Hands: Sized {
    /// A daemon's file, and what lies beside it.
    type Files: Files;
    /// Reads the monotonic clock, in milliseconds.
    fn now_ms(&mut self) -> u64;
    /// Identifies this bundle.
    fn home(&mut self) -> Home;
    /// Tries to take the bundle's lock. Returns false if another process holds it.
    fn lock(&mut self) -> Tried<bool>;
    /// Writes into the lock, which this process holds, who holds it.
    fn hold(&mut self, holder: &Holder) -> Tried<()>;
    /// Reads from the lock who holds it, or who held it last.
    fn holder(&mut self) -> Tried<Option<Holder>>;
    /// Kills the helper that holds the lock although all of its deadlines have passed.
    fn end_overdue_helper(&mut self) -> Tried<()>;
    /// Opens the directory of the daemon's file.
    fn open(&mut self, path: &Path) -> Tried<Self::Files>;
    /// Reads the status page.
    fn page(&mut self) -> Tried<Page>;
    /// Asks the daemon whether it is ready, the way its table entry says. The inner error says what is missing.
    fn probe(&mut self, page: &Page, daemon: &str, timeout_ms: u64) -> Tried<Result<(), Shortfall>>;
    /// Notes which processes run and listen before a restart, so that a probe knows which ones the restart should have ended. `is_new`:
    /// the restart is with the new content.
    fn remember(&mut self, page: &Page, is_new: bool);
    /// A process that has begun to listen since the first such note and belongs to no daemon.
    fn newcomer(&mut self, page: &Page, daemon: &str) -> Option<Shortfall>;
    /// Runs a checker. It calls `go_on` every few milliseconds, and kills the checker if that fails.
    fn check(
        &mut self,
        daemon: &str,
        command: &[String],
        go_on: &mut dyn FnMut(&mut Self) -> Tried<()>,
    ) -> Tried<Checked>;
    /// Sends init a signal.
    fn signal(&mut self, signal: Signal) -> Tried<()>;
    /// Sends init a request. With `None` it only checks that this user may send one.
    fn request(&mut self, request: Option<&Request>) -> Tried<()>;
    /// Sends the host a message.
    fn say(&mut self, message: HelperMessage) -> Tried<()>;
    /// Waits for a message from the host, until `ms` milliseconds have passed or the status page has changed.
    fn hear(&mut self, ms: u16) -> Tried<Option<HostMessage>>;
    /// Waits until `ms` milliseconds have passed or the status page has changed. It doesn't read what the host says.
    fn pause(&mut self, ms: u16) -> Tried<()>;
    /// Compares two contents line by line. `show`: with the lines' text.
    fn diff(&mut self, old: &[u8], new: &[u8], show: bool) -> Diff;
    /// Writes a line to the bundle's log.
    fn log(&mut self, line: &Line<'_>);
}

/// Makes a change, from taking the lock to the result.
///
/// # Errors
/// The simulation's helper was killed.
pub fn change<H: Hands>(hands: &mut H, order: &Order) -> Tried<End> {
    let mut change = Change::new(hands, order);
    let ended = change.under_the_lock();
    change.end.ended = unless_killed(ended)?.unwrap_or_else(Ended::from);
    Ok(change.end)
}

/// Recovers whatever was interrupted, then returns what became of the change with the order's id. `None`: that change put nothing in
/// place.
///
/// # Errors
/// The simulation's helper was killed.
pub fn what_became_of<H: Hands>(hands: &mut H, order: &Order) -> Tried<Option<RecordedOutcome>> {
    let outcome = Change::new(hands, order).outcome_on_record();
    // If it can't be found out, it is still open: the holder of the lock may finish it.
    Ok(unless_killed(outcome)?.unwrap_or(Some(RecordedOutcome::Interrupted)))
}

/// What init would do to which daemon.
///
/// # Errors
/// Why init would do nothing.
pub fn target(page: &Page, order: &Order) -> Result<Target, Reason> {
    let target = proof::target(page, &order.trigger)?;
    let now = proof::find(page, target.daemon.as_str()).map(|(daemon, _)| daemon);
    match now {
        Some(now) if proof::is_stopped(now) && !order.starts_stopped => Err(Reason::Stopped { daemon: target.daemon }),
        _ => Ok(target),
    }
}

/// Whether the record says that the last change of that daemon was interrupted. False if the record can't be read.
///
/// # Errors
/// The simulation's helper was killed.
pub fn is_interrupted<H: Hands>(hands: &mut H, plan: &Plan) -> Tried<bool> {
    let Some(config) = &plan.config else { return Ok(false) };
    let Ok(mut files) = unless_killed(hands.open(&config.path))? else { return Ok(false) };
    Ok(unless_killed(files.record())?.is_ok_and(|record| record.is_some_and(|record| record.is_interrupted())))
}

/// The daemon, as it was when the change began.
struct Daemon {
    name: String,
    plan: Plan,
    was_dead: bool,
}

/// The file that must be at the path at every later look.
#[derive(Clone)]
struct Placed {
    sha256: Printable,
    stamp: Stamp,
}

impl Placed {
    fn of(file: &Content) -> Self {
        Self { sha256: file.sha256(), stamp: file.stamp }
    }
}

struct Change<'a, H: Hands> {
    hands: &'a mut H,
    order: &'a Order,
    end: End,
    began: u64,
    deadline: u64,
    /// The signal or the request was sent, by the host or by this helper.
    is_sent: bool,
    /// The host has acknowledged the proof.
    is_acked: bool,
    /// How many restarts this change has requested.
    restarts: u32,
}

impl<'a, H: Hands> Change<'a, H> {
    fn new(hands: &'a mut H, order: &'a Order) -> Self {
        let began = hands.now_ms();
        Self {
            hands,
            order,
            end: End::new(Reason::Late.into()),
            began,
            deadline: began.saturating_add(order.timeout_ms),
            is_sent: false,
            is_acked: false,
            restarts: 0,
        }
    }

    fn is_in_place(&self) -> bool {
        self.order.content.is_none()
    }

    fn under_the_lock(&mut self) -> Tried<Ended> {
        self.lock()?;
        let page = self.hands.page()?;
        let name = self.order.trigger.daemon(&page).unwrap_or_default();
        let (files, unrecovered) = self.recover_all(&name)?;
        if let Some(why) = unrecovered {
            self.may_go_on(&name, why)?;
        }
        // The recovery may have changed what the signal would do.
        let page = self.hands.page()?;
        let target = target(&page, self.order)?;
        let Some((was, plan)) = proof::find(&page, &name) else { return Err(Reason::Late.into()) };
        if self.order.is_met(&page) {
            self.end.after = Some(target.before);
            return Ok(Ended::well(Outcome::Running));
        }
        let now = self.hands.now_ms();
        let daemon = Daemon { name, plan: plan.clone(), was_dead: proof::is_down(was, now) };
        self.end.wait_ms = now.saturating_sub(self.began);
        (self.began, self.deadline) = (now, now.saturating_add(self.order.timeout_ms));
        self.hold(daemon.plan.grace_ms)?;
        let (ended, shas) = match files {
            _ if self.is_in_place() => self.in_place(&daemon, files)?,
            Some(files) => self.with_content(&daemon, files, &page)?,
            None => return Err(Reason::NoConfig { daemon: target.daemon }.into()),
        };
        self.hands.log(&Line {
            daemon: &daemon.name,
            by: &self.order.by,
            outcome: ended.outcome,
            sha256: (shas.0.as_ref(), shas.1.as_ref()),
        });
        Ok(ended)
    }

    fn outcome_on_record(&mut self) -> Tried<Option<RecordedOutcome>> {
        self.lock()?;
        let page = self.hands.page()?;
        let daemon = self.order.trigger.daemon(&page).unwrap_or_default();
        let Some(mut files) = self.recover_all(&daemon)?.0 else { return Ok(None) };
        Ok(recovery::record(&mut files)?.and_then(|record| record.outcome_of(&self.order.id)))
    }

    // Waiting.

    fn go_on(&mut self, ms: u16) -> Tried<()> {
        go_on(self.hands, ms, self.deadline, &mut self.is_sent, &mut self.is_acked)
    }

    /// Waits for the bundle's lock.
    fn lock(&mut self) -> Tried<()> {
        while !self.hands.lock()? {
            let waited = self.go_on(LOCK_POLL_INTERVAL);
            let holder = self.hands.holder()?;
            let now = self.hands.now_ms();
            if holder.as_ref().is_some_and(|holder| now > holder.until_ms) {
                self.hands.end_overdue_helper()?;
                if self.hands.lock()? {
                    break;
                }
            }
            waited.map_err(|why| locked(why, holder.map(|holder| (holder.by, holder.since))))?;
        }
        // The longest grace isn't known yet; whoever comes next waits longer than this.
        self.hold(0)
    }

    /// Writes into the lock who holds it, and until when at most.
    fn hold(&mut self, grace_ms: u64) -> Tried<()> {
        let (by, since) = (self.order.by.clone(), self.order.at.clone());
        let until_ms = self.until_ms(grace_ms);
        self.hands.hold(&Holder { by, since, until_ms })
    }

    /// Waits for the directory's lock, since another bundle may mount the same directory.
    fn lock_directory(&mut self, files: &mut H::Files) -> Tried<()> {
        loop {
            if files.lock()? {
                return Ok(());
            }
            let waited = self.go_on(LOCK_POLL_INTERVAL);
            let record = unless_killed(files.record())?.ok().flatten().filter(Record::is_interrupted);
            let (home, now) = (self.hands.home(), self.hands.now_ms());
            if record.as_ref().is_some_and(|record| record.is_overdue(&home.boot, now)) {
                // Most likely its helper was stopped (SIGSTOP), in a bundle that can't be reached from here.
                return Ok(());
            }
            waited.map_err(|why| locked(why, record.map(|record| (record.by, record.at))))?;
        }
    }

    // Recovery.

    /// Recovers every daemon's interrupted change, and removes leftovers. Returns the file that this change is about, with its directory
    /// locked, and the reason if that file's earlier change can't be recovered.
    fn recover_all(&mut self, name: &str) -> Tried<(Option<H::Files>, Option<Reason>)> {
        let page = self.hands.page()?;
        // The other daemons come first: two daemons may share a directory, which can be locked only once.
        for (daemon, plan) in page.status.daemons.iter().zip(&page.plans) {
            let Some(config) = plan.config.as_ref().filter(|_| daemon.name != name) else { continue };
            let Ok(mut files) = unless_killed(self.hands.open(&config.path))? else { continue };
            // If it isn't locked now, another bundle's helper is at work there.
            if unless_killed(files.lock())? == Ok(true) {
                let _ = unless_killed(self.recover(&daemon.name, plan, &mut files))?;
            }
        }
        let Some((_, plan)) = proof::find(&page, name) else { return Ok((None, None)) };
        let Some(config) = &plan.config else { return Ok((None, None)) };
        let mut files = match self.hands.open(&config.path) {
            Ok(files) => files,
            Err(Stop::Because(Reason::File { fault: FileFault::Missing, .. })) if self.is_in_place() => {
                return Ok((None, None));
            }
            Err(stop) => return Err(stop),
        };
        self.lock_directory(&mut files)?;
        let recovered = self.recover(name, plan, &mut files);
        Ok((Some(files), unless_killed(recovered)?.err()))
    }

    fn recover(&mut self, name: &str, plan: &Plan, files: &mut H::Files) -> Tried<()> {
        let Some(mut record) = recovery::record(files)?.filter(Record::is_interrupted) else {
            // Leftovers of a helper that was killed before it wrote its record, or after it was done.
            return recovery::sweep(files);
        };
        // From here on this helper is at work, so init must not take the change for abandoned.
        record.until = Some(self.until(plan));
        self.hold(plan.grace_ms)?;
        let _ = unless_killed(files.write_record(&record))?;
        if self.order.task != Task::Ask {
            // The host must wait this much longer for the go-ahead. The recovery goes on even if the host has left.
            let within_ms = self.way_back_ms(plan.grace_ms);
            let _ = unless_killed(self.hands.say(HelperMessage::Recovering { within_ms }))?;
        }
        let told = |outcome, why, record: &Record| Recovered {
            daemon: Printable::new(name),
            by: record.by.clone(),
            at: record.at.clone(),
            outcome,
            why,
        };
        let restored = match unless_killed(recovery::put_back(files, &record, Theirs::Stays))? {
            Ok(restored) => restored,
            Err(why) => {
                self.end.recovered.push(told(RecordedOutcome::Interrupted, Some(why.clone()), &record));
                return Err(why.into());
            }
        };
        let mut outcome = RecordedOutcome::RolledBack;
        let mut why = None;
        if restored.was_theirs {
            // The daemon should serve what is on disk, but a person's typo must not take down the running daemon.
            outcome = RecordedOutcome::NotProven;
            why = unless_killed(self.check(name, plan, files.path(), &files.path_of(Name::Path)))?.err();
        }
        if why.is_none() {
            let placed = restored.now.as_ref().map(Placed::of);
            why = unless_killed(self.revive(name, plan, files, placed.as_ref()))?.err();
            if why.as_ref().is_some_and(|why| !is_as_it_was(why, record.was_dead)) {
                outcome = RecordedOutcome::Down;
            }
        }
        if record.home.is_some() && record.home != self.hands.home().pids {
            // Another bundle made the change, and that bundle's daemon may serve content that was never proven.
            outcome = RecordedOutcome::NotProven;
        }
        record.outcome = outcome;
        self.hands.log(&Line {
            daemon: name,
            // The line names who made the change, since recovering it isn't a change of its own.
            by: &record.by,
            outcome: match outcome {
                RecordedOutcome::Down => Outcome::Down,
                RecordedOutcome::NotProven => Outcome::NotProven,
                _ => Outcome::RolledBack,
            },
            sha256: (record.old_sha256.as_ref(), Some(&record.new_sha256)),
        });
        self.end.recovered.push(told(outcome, why, &record));
        recovery::close(files, &record)
    }

    /// Checks whether this change may go on although an earlier one can't be recovered.
    fn may_go_on(&self, name: &str, why: Reason) -> Tried<()> {
        let fault = if let Reason::File { fault, .. } = &why { Some(fault) } else { None };
        if self.is_in_place() && fault == Some(&FileFault::KeptGone) {
            // There is no kept content to restore, and without --file the caller says that the content in place is right.
            return Ok(());
        }
        let is_known = fault == Some(&FileFault::RecordGone)
            || self.end.recovered.iter().any(|one| one.outcome == RecordedOutcome::Interrupted);
        // If it isn't even known whether there was a change to recover, everything stays as it is.
        Err(if is_known { Reason::Unrecovered { daemon: Printable::new(name), why: Box::new(why) } } else { why }
            .into())
    }

    // Without new content.

    fn in_place(&mut self, daemon: &Daemon, files: Option<H::Files>) -> Tried<(Ended, Shas)> {
        if self.order.is_sent_from_inside() {
            self.hands.request(None)?;
        }
        let mut files = files;
        let mut placed = None;
        if let Some(files) = &mut files {
            if let Found::File(file) = files.read(Name::Path)? {
                if file.links == 0 || files.mount()? == Mount::Deleted {
                    return Err(Reason::file(files.path(), FileFault::Unlinked).into());
                }
                placed = Some(Placed::of(&file));
            }
            self.end.checked = self.check(&daemon.name, &daemon.plan, files.path(), &files.path_of(Name::Path))?;
            nobody_wrote(files, placed.as_ref())?;
        }
        let proven = self.prove(daemon).and_then(|outcome| {
            files.as_mut().map_or(Ok(()), |files| still_there(files, placed.as_ref()))?;
            Ok(outcome)
        });
        let (ended, outcome) = match unless_killed(proven)? {
            Ok(outcome) => (Ended::well(outcome), recorded(outcome)),
            Err(why) => {
                let is_refused = matches!(why, Reason::Unproven { shortfall: Shortfall::ReloadRefused { .. }, .. });
                // If init couldn't be asked, nothing was sent.
                let is_refused = is_refused || matches!(why, Reason::MayNotAct { .. } | Reason::NotAsked { .. });
                let outcome = if is_refused { Outcome::Refused } else { Outcome::NotProven };
                (Ended::badly(outcome, why), RecordedOutcome::NotProven)
            }
        };
        let sha256 = placed.as_ref().map(|placed| placed.sha256.clone());
        if let (Some(files), Some(sha256)) = (&mut files, &sha256) {
            // Without new content the record only informs others, so a failed write does no harm.
            if let Ok(last) = unless_killed(files.record())? {
                let record = self.new_record(daemon, outcome, None, sha256.clone());
                if unless_killed(files.write_record(&record.after(last)))?.is_ok() {
                    recovery::sweep(files)?;
                }
            }
        }
        Ok((ended, (None, sha256)))
    }

    // With new content.

    fn with_content(&mut self, daemon: &Daemon, mut files: H::Files, page: &Page) -> Tried<(Ended, Shas)> {
        let prepared = match unless_killed(self.prepare(daemon, &mut files, page))? {
            Ok(Prepared::Go(record, old, staged)) => Ok((*record, old, staged)),
            Ok(Prepared::Over(outcome)) => Err(Ended::well(outcome)),
            Err(why) => Err(why.into()),
        };
        let (mut record, old, staged) = match prepared {
            Ok(prepared) => prepared,
            Err(ended) => {
                recovery::sweep(&mut files)?;
                return Ok((ended, Shas::default()));
            }
        };
        let mut is_placed = false;
        let live = install(&mut files, &old, &staged).and_then(|placed| {
            is_placed = true;
            self.make_live(daemon, &mut files, &mut record, &placed)
        });
        let why = match unless_killed(live)? {
            Ok(outcome) => {
                recovery::sweep(&mut files)?;
                return Ok((Ended::well(outcome), (record.old_sha256, Some(record.new_sha256))));
            }
            Err(why) => why,
        };
        // A step that failed may have taken effect all the same.
        let is_there = is_placed
            || match unless_killed(files.read(Name::Path))? {
                Ok(Found::File(file)) => file.stamp.inode == staged.stamp.inode,
                Ok(Found::Nothing | Found::Odd(_)) => false,
                Err(_) => true,
            };
        if !is_there {
            // This change's content isn't in place.
            record.outcome = RecordedOutcome::RolledBack;
            recovery::close(&mut files, &record)?;
            return Ok((why.into(), Shas::default()));
        }
        let ended = self.go_back(daemon, &mut files, &mut record, why)?;
        Ok((ended, (record.old_sha256, Some(record.new_sha256))))
    }

    /// All steps before the new content is put in place.
    fn prepare(&mut self, daemon: &Daemon, files: &mut H::Files, page: &Page) -> Tried<Prepared> {
        let content = self.order.content.as_deref().unwrap_or_default();
        // Going back needs a request, so make sure that this user may send one.
        self.hands.request(None)?;
        let old = match files.read(Name::Path)? {
            Found::File(file) => file,
            Found::Nothing => return Err(Reason::file(files.path(), FileFault::Missing).into()),
            Found::Odd(fault) => return Err(Reason::file(files.path(), fault).into()),
        };
        if files.mount()? != Mount::No {
            return Err(Reason::file(files.path(), FileFault::Mounted).into());
        }
        let is_forced = match self.order.task {
            Task::File { force, .. } => force,
            Task::DryRun { show, .. } => {
                self.end.diff = Some(self.hands.diff(&old.bytes, content, show));
                true
            }
            Task::Identify | Task::InPlace | Task::Ask => true,
        };
        let last = recovery::record(files)?;
        if !is_forced && old.bytes == content && self.is_live(daemon, page, last.as_ref(), &old)? {
            return Ok(Prepared::Over(Outcome::Unchanged));
        }
        self.go_on(0)?;
        files.remove(Name::Staged)?;
        self.end.owner_was = files.write(Name::Staged, content, &old)?;
        let Found::File(staged) = files.read(Name::Staged)? else { return Err(changed(files)) };
        self.end.checked = self.check(&daemon.name, &daemon.plan, files.path(), &files.path_of(Name::Staged))?;
        if matches!(self.order.task, Task::DryRun { .. }) {
            self.end.owner_was = None;
            return Ok(Prepared::Over(Outcome::DryRun));
        }
        // Make sure that what was checked is what is put in place, and that what is kept is what was there.
        if files.read(Name::Staged)? != Found::File(staged.clone()) || staged.bytes != content {
            return Err(changed(files));
        }
        let old = keep(files, &old)?;
        // The last look at the host before anything is put in place. From here on, hanging up or a cancel undoes the change.
        self.go_on(0)?;
        let sha256 = (Some(old.sha256()), staged.sha256());
        let record = self.new_record(daemon, RecordedOutcome::Interrupted, sha256.0, sha256.1).after(last);
        files.write_record(&record)?;
        Ok(Prepared::Go(Box::new(record), old, staged))
    }

    /// Whether this very file was proven in the process that still runs, and is ready.
    fn is_live(&mut self, daemon: &Daemon, page: &Page, last: Option<&Record>, old: &Content) -> Tried<bool> {
        let last = last.filter(|last| last.outcome == RecordedOutcome::Live && last.new_sha256 == old.sha256());
        let was = last.and_then(|last| last.live_in.as_ref());
        if was.is_none() || was != self.live_in(page, &daemon.name, old.stamp).as_ref() {
            return Ok(false);
        }
        Ok(self.hands.probe(page, &daemon.name, PROBE_TIMEOUT.min(self.order.timeout_ms))?.is_ok())
    }

    fn live_in(&mut self, page: &Page, name: &str, file: Stamp) -> Option<LiveIn> {
        let boot = self.hands.home().boot;
        let (now, _) = proof::find(page, name).filter(|_| !boot.as_str().is_empty())?;
        now.pid?;
        Some(LiveIn { boot, pid: now.pid, generation: now.generation, since_ms: now.uptime_ms, file })
    }

    fn new_record(
        &mut self,
        daemon: &Daemon,
        outcome: RecordedOutcome,
        old: Option<Printable>,
        new: Printable,
    ) -> Record {
        Record {
            schema: SCHEMA,
            id: self.order.id.clone(),
            at: self.order.at.clone(),
            by: self.order.by.clone(),
            old_sha256: old,
            new_sha256: new,
            outcome,
            ms: self.hands.now_ms().saturating_sub(self.began),
            live_in: None,
            past: Vec::new(),
            was_dead: daemon.was_dead,
            until: Some(self.until(&daemon.plan)),
            home: self.hands.home().pids,
        }
    }

    fn until(&mut self, plan: &Plan) -> (Printable, u64) {
        (self.hands.home().boot, self.until_ms(plan.grace_ms))
    }

    /// When this helper must be done, in milliseconds of the monotonic clock. Going back has a time of its own.
    fn until_ms(&mut self, grace_ms: u64) -> u64 {
        let deadline = self.deadline.max(self.hands.now_ms());
        [ACK_TIMEOUT, self.way_back_ms(grace_ms), SLACK].into_iter().fold(deadline, u64::saturating_add)
    }

    /// All steps from the signal to the commit.
    fn make_live(
        &mut self,
        daemon: &Daemon,
        files: &mut H::Files,
        record: &mut Record,
        placed: &Placed,
    ) -> Tried<Outcome> {
        let outcome = self.prove(daemon)?;
        still_there(files, Some(placed))?;
        self.offer(daemon)?;
        still_there(files, Some(placed))?;
        let page = self.hands.page()?;
        if outcome == Outcome::Live {
            record.live_in = self.live_in(&page, &daemon.name, placed.stamp);
        }
        record.outcome = recorded(outcome);
        record.ms = self.hands.now_ms().saturating_sub(self.began);
        files.write_record(record)?;
        Ok(outcome)
    }

    /// Tells the host about the proof, and waits until the host acknowledges it. What was proven must still be so then.
    fn offer(&mut self, daemon: &Daemon) -> Tried<()> {
        self.is_acked = false;
        self.hands.say(HelperMessage::Proven)?;
        self.deadline = self.deadline.max(self.hands.now_ms().saturating_add(ACK_TIMEOUT));
        loop {
            let now = self.hands.now_ms();
            self.go_on(wait_ms(None, now, self.deadline))?;
            let page = self.hands.page()?;
            if page.status.state == InitState::Stopping {
                return Err(Reason::Stopping.into());
            }
            if let Some(why) = proof::undone(&page, &daemon.name, &self.order.trigger, self.end.after) {
                return Err(why.into());
            }
            if self.is_acked {
                return Ok(());
            }
        }
    }

    fn go_back(&mut self, daemon: &Daemon, files: &mut H::Files, record: &mut Record, why: Reason) -> Tried<Ended> {
        let started = self.hands.now_ms();
        record.live_in = None;
        let restored = match unless_killed(recovery::put_back(files, record, Theirs::Aside))? {
            Ok(restored) => restored,
            // The record stays `interrupted`, so the next recovery tries once more.
            Err(back) => return Ok(Ended::down(why, back)),
        };
        let why = if restored.was_theirs { Reason::file(files.path(), FileFault::Changed) } else { why };
        let placed = restored.now.as_ref().map(Placed::of);
        let up = self.revive(&daemon.name, &daemon.plan, files, placed.as_ref());
        let back = unless_killed(up)?.err().filter(|back| !is_as_it_was(back, daemon.was_dead));
        self.end.back_ms = self.hands.now_ms().saturating_sub(started);
        let back = match back {
            Some(back) => Some(back),
            None => self.left_by(daemon)?,
        };
        let ended = match back {
            Some(back) => Ended::down(why, back),
            None => Ended::badly(Outcome::RolledBack, why),
        };
        let is_down = ended.outcome == Outcome::Down;
        record.outcome = if is_down { RecordedOutcome::Down } else { RecordedOutcome::RolledBack };
        record.ms = self.hands.now_ms().saturating_sub(self.began);
        recovery::close(files, record)?;
        self.end.owner_was = None;
        Ok(ended)
    }

    /// A process that the daemon left in the background while it ran with the new content, and that may still serve it.
    fn left_by(&mut self, daemon: &Daemon) -> Tried<Option<Reason>> {
        let Ok(page) = unless_killed(self.hands.page())? else { return Ok(None) };
        let newcomer = self.hands.newcomer(&page, &daemon.name);
        let pid = proof::find(&page, &daemon.name).and_then(|(now, _)| now.pid);
        Ok(newcomer.map(|shortfall| self.order.trigger.unproven(&daemon.name, pid, shortfall)))
    }

    // The daemon.

    /// Tells the host to send its signal, or makes init act itself, and waits for the proof.
    fn prove(&mut self, daemon: &Daemon) -> Tried<Outcome> {
        let page = self.hands.page()?;
        let target = target(&page, self.order)?;
        let order = self.order;
        let proof = Proof::new(&page, &order.trigger, order.id.as_str(), target.clone());
        self.hands.remember(&page, true);
        self.hands.say(HelperMessage::Go { target, grace_ms: daemon.plan.grace_ms })?;
        self.is_sent = order.is_sent_from_inside();
        if self.is_sent {
            order.send(self.hands)?;
        }
        self.watch(proof, None)
    }

    /// How long going back may take, in milliseconds: the grace and the timeout again.
    fn way_back_ms(&self, grace_ms: u64) -> u64 {
        grace_ms.saturating_add(self.order.timeout_ms).max(SHORTEST_WAY_BACK)
    }

    /// Restarts the daemon with the file in place. It fails if somebody wrote to that file meanwhile, whether or not the daemon is up.
    fn revive(&mut self, name: &str, plan: &Plan, files: &mut H::Files, placed: Option<&Placed>) -> Tried<()> {
        let up = self.restart(name, plan);
        if up != Err(Stop::Killed) {
            nobody_wrote(files, placed)?;
        }
        up
    }

    /// Restarts the daemon, and waits until that is proven. It has a deadline of its own.
    fn restart(&mut self, name: &str, plan: &Plan) -> Tried<()> {
        let deadline = self.hands.now_ms().saturating_add(self.way_back_ms(plan.grace_ms));
        let mut tries = 0;
        loop {
            let page = self.hands.page()?;
            let trigger = Trigger::restart(name);
            let target = proof::target(&page, &trigger)?;
            let now = proof::find(&page, name).map(|(now, _)| now);
            if now.is_some_and(proof::is_stopped) {
                // An apply doesn't start a stopped daemon, which reads the file once somebody starts it.
                let is_ending = now.is_some_and(|now| now.state == DaemonState::Stopping);
                if !is_ending || self.hands.now_ms() >= deadline {
                    let shortfall = if is_ending { Shortfall::OldStopping } else { Shortfall::Stopped };
                    return Err(trigger.unproven(name, now.and_then(|now| now.pid), shortfall).into());
                }
                let now = self.hands.now_ms();
                self.hands.pause(wait_ms(None, now, deadline))?;
                continue;
            }
            if now.is_some_and(|now| now.state == DaemonState::Waiting) {
                return Ok(());
            }
            self.restarts += 1;
            let id = format!("{}-{}", self.order.id, self.restarts);
            let proof = Proof::new(&page, &trigger, &id, target);
            self.hands.remember(&page, false);
            self.hands.request(Some(&Request { id, verb: Verb::Restart, daemon: name.to_owned() }))?;
            tries += 1;
            match self.watch(proof, Some(deadline)) {
                // Somebody else has stopped or restarted it, so the process of this request isn't proven: try again.
                Err(Stop::Because(Reason::Unproven {
                    shortfall: Shortfall::Stopped | Shortfall::Replaced | Shortfall::Superseded | Shortfall::Forgotten,
                    ..
                })) if tries < MOST_RESTARTS && self.hands.now_ms() < deadline => {}
                done => return done.map(drop),
            }
        }
    }

    /// Reads the status page until there is a verdict. `deadline` is set while going back, which continues whatever the host says.
    fn watch(&mut self, mut proof: Proof, deadline: Option<u64>) -> Tried<Outcome> {
        loop {
            let is_sent = self.is_sent || deadline.is_some();
            if let Some(verdict) = self.look_at(&mut proof, is_sent, deadline.unwrap_or(self.deadline))? {
                return self.judge(verdict);
            }
            let now = self.hands.now_ms();
            let ms = wait_ms(proof.due(), now, deadline.unwrap_or(self.deadline));
            match deadline {
                Some(deadline) if now >= deadline => return self.judge(proof.give_up()),
                Some(_) => self.hands.pause(ms)?,
                None => match self.go_on(ms) {
                    Ok(()) => {}
                    Err(Stop::Because(Reason::Late)) => return self.judge(proof.give_up()),
                    Err(stop) => {
                        let _ = self.judge(proof.give_up());
                        return Err(stop);
                    }
                },
            }
        }
    }

    /// Reads the status page once, and probes the daemon if the proof needs it.
    fn look_at(&mut self, proof: &mut Proof, is_sent: bool, deadline: u64) -> Tried<Option<Verdict>> {
        // If a page can't be read, the next one will do, or the deadline passes.
        let Ok(page) = unless_killed(self.hands.page())? else { return Ok(None) };
        let now = self.hands.now_ms();
        match proof.observe(now, &page, is_sent, None) {
            Look::Done(verdict) => return Ok(Some(verdict)),
            Look::Wait { probe: false } => return Ok(None),
            Look::Wait { probe: true } => {}
        }
        let time = deadline.saturating_sub(now).min(PROBE_TIMEOUT);
        let answer = self.hands.probe(&page, proof.daemon(), time)?;
        let ended = self.hands.now_ms();
        if let Err(Shortfall::NotReady { why: Some(why) }) = &answer
            && ended >= deadline
        {
            proof.cut_short(why, ended.saturating_sub(now));
            return Ok(None);
        }
        // A good answer is judged with a page that was read after it, a bad one with the page that led to the probe.
        let page = match answer {
            Ok(()) => unless_killed(self.hands.page())?.ok(),
            Err(_) => Some(page),
        };
        let Some(page) = page else { return Ok(None) };
        match proof.observe(self.hands.now_ms(), &page, is_sent, Some(answer)) {
            Look::Done(verdict) => Ok(Some(verdict)),
            Look::Wait { .. } => Ok(None),
        }
    }

    fn judge(&mut self, verdict: Verdict) -> Tried<Outcome> {
        self.end.after = Some(verdict.after);
        self.end.siblings_moved = Some(verdict.siblings_moved);
        Ok(verdict.proven?)
    }

    /// Runs the daemon's checker on `file`, whose content is meant for `path`. Returns false if the daemon has no checker, and `None`
    /// if it has no file.
    fn check(&mut self, daemon: &str, plan: &Plan, path: &Path, file: &Path) -> Tried<Option<bool>> {
        let Some(config) = &plan.config else { return Ok(None) };
        let Some(check) = &config.check else { return Ok(Some(false)) };
        let (file, path) = (file.to_string_lossy(), path.to_string_lossy());
        let command: Vec<String> = check.iter().map(|argument| argument.replace("{}", &file)).collect();
        let started = self.hands.now_ms();
        let Self { hands, deadline, is_sent, is_acked, .. } = self;
        let checked = hands.check(daemon, &command, &mut |hands| go_on(hands, 0, *deadline, is_sent, is_acked));
        self.end.check_ms = self.hands.now_ms().saturating_sub(started);
        let fault = match checked {
            Ok(Checked::Passed) => return Ok(Some(true)),
            // The checker's output names the staged file. Show the real path instead.
            Ok(Checked::Refused { code, words }) => {
                CheckerFault::Refused { code, words: Printable::new(&words.replace(&*file, &path)) }
            }
            Ok(Checked::NotRun { words }) => CheckerFault::NotRun { words: Printable::new(&words) },
            Err(Stop::Because(Reason::Late)) => CheckerFault::Hung,
            Err(stop) => return Err(stop),
        };
        Err(Reason::Checker { path: Printable::new(&path), fault }.into())
    }
}

/// The sha256 of the old and the new content, for the log.
type Shas = (Option<Printable>, Option<Printable>);

/// The result of [`Change::prepare`].
enum Prepared {
    /// Go on, with the record, the old content and the new.
    Go(Box<Record>, Content, Content),
    /// The change ends here, and ends well.
    Over(Outcome),
}

/// How long to wait for the next page, in milliseconds.
fn wait_ms(due: Option<u64>, now: u64, deadline: u64) -> u16 {
    let until = due.map_or(RARE_POLL_INTERVAL, |due| due.saturating_sub(now).clamp(POLL_INTERVAL, RARE_POLL_INTERVAL));
    // At least 1 ms, so that the loop doesn't spin.
    u16::try_from(until.min(deadline.saturating_sub(now)).max(1)).unwrap_or(u16::MAX)
}

/// Waits for at most `ms` milliseconds and handles what the host says. It fails if the change must not go on.
fn go_on<H: Hands>(hands: &mut H, ms: u16, deadline: u64, is_sent: &mut bool, is_acked: &mut bool) -> Tried<()> {
    match hands.hear(ms)? {
        Some(HostMessage::Sent) => *is_sent = true,
        Some(HostMessage::NotSent) => return Err(Reason::NotSent.into()),
        Some(HostMessage::Ack) => *is_acked = true,
        Some(HostMessage::Cancel) => return Err(Reason::Cancelled.into()),
        None => {}
    }
    if hands.now_ms() >= deadline { Err(Reason::Late.into()) } else { Ok(()) }
}

/// Keeps the old content: the file itself under a second name, or a copy.
fn keep(files: &mut impl Files, old: &Content) -> Tried<Content> {
    let is_old = |found: &Found| matches!(found, Found::File(file) if file.stamp == old.stamp);
    if !is_old(&files.read(Name::Path)?) {
        return Err(changed(files));
    }
    files.remove(Name::Kept)?;
    if !files.link(Name::Path, Name::Kept)? {
        files.write(Name::Kept, &old.bytes, old)?;
        return Ok(old.clone());
    }
    // The second name has changed the file's time of change.
    match (files.read(Name::Kept)?, files.read(Name::Path)?) {
        (Found::File(kept), Found::File(now)) if kept.stamp == now.stamp && now.bytes == old.bytes => Ok(now),
        _ => Err(changed(files)),
    }
}

/// Puts the staged content in place, unless somebody has written to the file since.
fn install(files: &mut impl Files, old: &Content, staged: &Content) -> Tried<Placed> {
    let is_old = |found: &Found| matches!(found, Found::File(file) if file.stamp.inode == old.stamp.inode && file.bytes == old.bytes);
    if files.exchange(Name::Staged, Name::Path)? {
        // What came back is what was in place at the moment of the exchange.
        if !is_old(&files.read(Name::Staged)?) {
            files.exchange(Name::Staged, Name::Path)?;
            return Err(changed(files));
        }
        files.remove(Name::Staged)?;
    } else {
        if !is_old(&files.read(Name::Path)?) {
            return Err(changed(files));
        }
        files.rename(Name::Staged, Name::Path)?;
    }
    match files.read(Name::Path)? {
        Found::File(now) if now.stamp.inode == staged.stamp.inode && now.bytes == staged.bytes => Ok(Placed::of(&now)),
        _ => Err(changed(files)),
    }
}

/// Checks that the file in place is the one that was put there, and that the path still leads to its directory.
fn still_there(files: &mut impl Files, placed: Option<&Placed>) -> Tried<()> {
    nobody_wrote(files, placed)?;
    if files.is_where_it_was()? { Ok(()) } else { Err(Reason::file(files.path(), FileFault::Moved).into()) }
}

/// Checks that the file is the same and that nobody wrote to it. With `None`, there was no file to compare with.
fn nobody_wrote(files: &mut impl Files, placed: Option<&Placed>) -> Tried<()> {
    let Some(placed) = placed else { return Ok(()) };
    match files.read(Name::Path)? {
        Found::File(now) if now.stamp == placed.stamp && now.sha256() == placed.sha256 => Ok(()),
        _ => Err(changed(files)),
    }
}

fn changed(files: &impl Files) -> Stop {
    Reason::file(files.path(), FileFault::Changed).into()
}

fn locked(stop: Stop, by_and_since: Option<(Printable, Printable)>) -> Stop {
    let Stop::Because(Reason::Late) = stop else { return stop };
    let (by, since) = by_and_since.unwrap_or_else(|| (Printable::new("somebody"), Printable::default()));
    Reason::Locked { by, since }.into()
}

/// Whether a daemon that didn't come up with the old content is no worse off than before.
fn is_as_it_was(back: &Reason, was_dead: bool) -> bool {
    match back {
        // It ends with the bundle or was stopped; when it starts again, it starts with the old content.
        Reason::Stopping | Reason::Unproven { shortfall: Shortfall::Stopped, .. } => true,
        Reason::Unproven { shortfall: Shortfall::Dead { .. } | Shortfall::NotExecuted { .. }, .. } => was_dead,
        _ => false,
    }
}

fn recorded(outcome: Outcome) -> RecordedOutcome {
    if outcome == Outcome::Live { RecordedOutcome::Live } else { RecordedOutcome::Delivered }
}
