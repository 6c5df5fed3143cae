//! How a change ended, and why it failed: one type each, shared by the helper, the protocol and the report.
//!
//! This module has one sentence for each reason. It says what failed, names the file by its path, and says what to do. The report
//! adds what was left untouched and what may still happen, since that depends on how the change ended.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::text::Printable;

/// How a change ended for one bundle: its name in JSON, and its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The change is live, and was seen to be.
    Live,
    /// The daemon has the signal and lives; it can't say whether it obeyed.
    Delivered,
    /// A request stopped the daemon.
    Stopped,
    /// The daemon runs already, so a start had nothing to do.
    Running,
    /// The daemon doesn't run, so a stop had nothing to do.
    NotRunning,
    /// The signal was sent, as `--signal-only` asked; the result was not checked.
    Sent,
    /// The content was live already.
    Unchanged,
    /// The content passed the check; a dry run does nothing else.
    DryRun,
    /// This bundle was never begun, because another one failed.
    Untouched,
    /// Nothing was changed or sent, or the daemon itself refused the reload.
    Refused,
    /// The old content is back, and the daemon is as it was.
    RolledBack,
    /// A later request replaced this one.
    Superseded,
    /// The kernel didn't let init do what was requested.
    Failed,
    /// The signal was sent, but nothing proved that the change is live.
    NotProven,
    /// The command line makes no sense.
    Usage,
    /// The bundle, or docker, can't be reached.
    Unreachable,
    /// PID 1 is `sidecar init`, but this user may not send it requests.
    NotAllowed,
    /// PID 1 isn't `sidecar init`.
    NotASidecarBundle,
    /// The daemon doesn't come up with the old content either.
    Down,
    /// It isn't known what became of the change.
    Unsettled,
}

impl Outcome {
    /// Its name in JSON.
    #[must_use]
    pub fn name(self) -> String {
        serde_json::to_string(&self).unwrap_or_default().replace('"', "")
    }

    /// The exit code.
    #[must_use]
    pub fn exit(self) -> u8 {
        match self {
            Self::Live
            | Self::Delivered
            | Self::Stopped
            | Self::Running
            | Self::NotRunning
            | Self::Sent
            | Self::Unchanged
            | Self::DryRun => 0,
            Self::Untouched | Self::Refused | Self::RolledBack | Self::Superseded | Self::Failed | Self::NotProven => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::NotAllowed | Self::NotASidecarBundle => 4,
            Self::Down | Self::Unsettled => 5,
        }
    }
}

/// How a change or a request ended, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// How it ended.
    pub outcome: Outcome,
    /// Why it failed; `None` if it ended well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Reason>,
    /// For [`Outcome::Down`]: why the daemon isn't up with the old content either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back: Option<Reason>,
}

impl Ended {
    /// It ended well.
    #[must_use]
    pub fn well(outcome: Outcome) -> Self {
        Self { outcome, why: None, back: None }
    }

    /// It failed.
    #[must_use]
    pub fn badly(outcome: Outcome, why: Reason) -> Self {
        Self { outcome, why: Some(why), back: None }
    }

    /// Neither the new content nor the old is up.
    #[must_use]
    pub fn down(why: Reason, back: Reason) -> Self {
        Self { outcome: Outcome::Down, why: Some(why), back: Some(back) }
    }

    /// Whether the exit code is 0.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.outcome.exit() == 0
    }
}

/// The end of a change for which nothing was changed or sent.
impl From<Reason> for Ended {
    fn from(why: Reason) -> Self {
        Self::badly(why.outcome(), why)
    }
}

/// The outcome in the record beside a daemon's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordedOutcome {
    /// It was begun, and nobody has finished or undone it yet.
    Interrupted,
    /// The new content was proven.
    Live,
    /// The daemon took the signal, and can't say more.
    Delivered,
    /// Without `--file`: the change was not proven. With `--file`: somebody else has put other content there.
    NotProven,
    /// The old content is back.
    RolledBack,
    /// The old content is back, but the daemon doesn't come up with it.
    Down,
}

impl RecordedOutcome {
    /// What the recovery of an interrupted change came to, as a clause of a sentence.
    #[must_use]
    pub fn of_recovery(self) -> &'static str {
        match self {
            Self::NotProven => "somebody has put other content there since, which stays",
            Self::Down => "the old content is back, and the daemon doesn't come up with it",
            Self::Interrupted => "the old content can't be put back",
            Self::Live | Self::Delivered | Self::RolledBack => "the old content is back",
        }
    }
}

/// An earlier change that was interrupted, and what its recovery came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// The daemon whose file was changed.
    pub daemon: Printable,
    /// Who made the change.
    pub by: Printable,
    /// When the change began, in UTC.
    pub at: Printable,
    /// What its record says now; [`RecordedOutcome::Interrupted`] if the old content can't be put back.
    pub outcome: RecordedOutcome,
    /// Why the daemon isn't up with the content that is in place, or wasn't restarted with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Reason>,
}

impl fmt::Display for Recovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { daemon, by, at, outcome, why } = self;
        write!(f, "an earlier change of {daemon} by {by}, at {at}, was interrupted: ")?;
        f.write_str(outcome.of_recovery())?;
        match why {
            Some(why) if *outcome == RecordedOutcome::NotProven => write!(f, " ({daemon} isn't up with it: {why})"),
            Some(why) => write!(f, " ({why})"),
            None => Ok(()),
        }
    }
}

/// Why a change or a request failed, or couldn't begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the sentence below says what each is")]
pub enum Reason {
    // init would do nothing.
    NotWired { signal: Printable },
    NoDaemon { daemon: Printable },
    NotSelected { sent: Printable, daemon: Printable },
    Stopped { daemon: Printable },
    NotRunning { signal: Printable, daemon: Printable },
    RequestRefused { sent: Printable, daemon: Printable, why: Printable },
    Stopping,
    MayNotAct { words: Printable },
    NotAsked { words: Printable },

    // The lock.
    Locked { by: Printable, since: Printable },
    NoLock { words: Printable },

    // The table.
    NoConfig { daemon: Printable },

    // The daemon's file or a file beside it, and the checker, which checks the content that is for `path`.
    File { path: Printable, fault: FileFault },
    Checker { path: Printable, fault: CheckerFault },
    // An earlier change was interrupted and can't be undone.
    Unrecovered { daemon: Printable, why: Box<Reason> },

    // init was asked to act on the daemon, but nothing proved that the change is live.
    Unproven { daemon: Printable, sent: Printable, pid: Option<i32>, shortfall: Shortfall },

    // The host, and the time.
    Garbled,
    HostGone,
    Cancelled,
    NotSent,
    Late,
    Interrupted,

    // What only the host sees.
    Usage { message: OwnWords },
    NoProgram { program: Printable, words: Printable },
    CallFailed { call: Printable, words: Printable },
    NoSuch { is_pod: bool },
    NoneFound { is_pod: bool, labels: Vec<OwnWords>, terminating: usize },
    NotUp { state: Printable },
    Paused,
    SharesPids { mode: Printable },
    DockerInit,
    Stranger { program: Printable },
    StrangePod { container: Option<Printable> },
    WhichContainer { of: Vec<Printable> },
    NotInit { error: Printable },
    NoAnswer { words: Printable },
    MayNotAsk { words: Printable },
    NotByExe { words: Printable },
    OtherProtocol { ours: (u32, Printable), theirs: (u32, Printable) },
    KillFailed { kill: Printable, words: Printable, gone: bool },
    KillTimedOut { kill: Printable },
    Lost { sent: Printable, words: Printable },
    Vanished { words: Printable },
    PausedMidway,
    Unknown { words: Printable },
    Fleet { why: Printable },
}

/// The host's own words. If one comes from a bundle, reading it makes it printable, like all other text from there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OwnWords(pub String);

impl<'de> Deserialize<'de> for OwnWords {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Printable::deserialize(deserializer).map(|words| Self(words.to_string()))
    }
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the sentence below says what each is")]
pub enum FileFault {
    Missing,
    Symlink,
    NotAFile,
    Mounted,
    Unlinked,
    TooLarge,
    Owner {
        uid: u32,
        gid: u32,
    },
    /// Somebody else wrote to it.
    Changed,
    /// Its path leads to another directory now than when the change began.
    Moved,
    /// The kept copy of the old content is gone, or isn't the content that was recorded.
    KeptGone,
    /// Old content is kept, but the record that says whether it must be put back can't be read.
    RecordGone,
    /// A system call failed.
    System {
        step: FileStep,
        words: Printable,
    },
}

/// What was being done when a system call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the words below say what each is")]
pub enum FileStep {
    Open,
    Read,
    Stage,
    Keep,
    Record,
    Install,
    Restore,
}

/// How the checker failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "checker", rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the sentence below says what each is")]
pub enum CheckerFault {
    Refused { code: Option<i32>, words: Printable },
    Hung,
    NotRun { words: Printable },
}

/// What was still missing when a proof was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "shortfall", rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the sentence below says what each is")]
pub enum Shortfall {
    Unserved,
    /// `why` is the reason on the status page.
    InitRefused {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<Printable>,
    },
    OldStopping,
    Dead {
        code: Option<i32>,
        killed_by: Option<i32>,
    },
    NotExecuted {
        code: Option<i32>,
    },
    /// `why` is the probe's last answer, for example "connection refused on 127.0.0.1:8888".
    NotReady {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<Printable>,
    },
    NotSettled,
    /// `by` is the pid and the name of the process that holds it, if that can be seen.
    SocketHeld {
        socket: Printable,
        by: Option<(i32, Printable)>,
    },
    Held,
    NeverCaught,
    ReloadPending,
    ReloadRefused {
        errno: i32,
    },
    Replaced,
    /// A request is stopping it, and its process still lives.
    StillStopping,
    /// A request stopped it.
    Stopped,
    /// A later request replaced this one.
    Superseded,
    /// The status page doesn't show the request any more.
    Forgotten,
    /// It is a oneshot that still runs.
    NotDone,
    /// The daemon's generation went down.
    Contradiction,
}

impl Reason {
    /// A fault of the file at `path`.
    #[must_use]
    pub fn file(path: &std::path::Path, fault: FileFault) -> Self {
        Self::File { path: Printable::new(&path.to_string_lossy()), fault }
    }

    /// The outcome if nothing was changed or sent for this reason.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Usage { .. } => Outcome::Usage,
            Self::NoProgram { .. }
            | Self::CallFailed { .. }
            | Self::NoSuch { .. }
            | Self::NoneFound { .. }
            | Self::NotUp { .. }
            | Self::Paused
            | Self::Vanished { .. }
            | Self::PausedMidway
            | Self::KillFailed { gone: true, .. } => Outcome::Unreachable,
            Self::SharesPids { .. }
            | Self::DockerInit
            | Self::Stranger { .. }
            | Self::StrangePod { .. }
            | Self::NotInit { .. }
            | Self::NoAnswer { .. }
            | Self::MayNotAsk { .. }
            | Self::NotByExe { .. } => Outcome::NotASidecarBundle,
            Self::Unrecovered { .. } => Outcome::Down,
            Self::Unknown { .. } => Outcome::Unsettled,
            Self::Fleet { .. } => Outcome::Untouched,
            Self::KillTimedOut { .. } | Self::Lost { .. } => Outcome::NotProven,
            _ => Outcome::Refused,
        }
    }
}

impl Reason {
    /// What was left untouched, as the end of a sentence. For a change that ended for this reason before anything was put in place or
    /// sent.
    #[must_use]
    pub fn untouched(&self) -> &'static str {
        match self {
            Self::Usage { .. }
            | Self::Vanished { .. }
            | Self::PausedMidway
            | Self::Unknown { .. }
            | Self::Lost { .. }
            | Self::KillTimedOut { .. }
            | Self::Unrecovered { .. }
            | Self::Unproven { .. } => "",
            Self::RequestRefused { .. } => "; nothing was done",
            Self::SharesPids { .. }
            | Self::DockerInit
            | Self::Stranger { .. }
            | Self::StrangePod { .. }
            | Self::WhichContainer { .. } => "; nothing was executed or sent",
            Self::NotWired { .. }
            | Self::NoDaemon { .. }
            | Self::NotSelected { .. }
            | Self::Stopped { .. }
            | Self::NotRunning { .. }
            | Self::Stopping
            | Self::OtherProtocol { .. }
            | Self::KillFailed { .. } => "; nothing was sent",
            _ if matches!(self.outcome(), Outcome::Unreachable | Outcome::NotASidecarBundle) => "; nothing was sent",
            _ => "; nothing was changed or sent",
        }
    }
}

impl fmt::Display for Reason {
    #[allow(clippy::too_many_lines, reason = "a list of sentences")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotWired { signal } => {
                write!(f, "{signal} has no rule in the bundle; add one under [signals] in its table")
            }
            Self::NoDaemon { daemon } => write!(f, "the bundle's table has no daemon {daemon}; check the name"),
            Self::NotSelected { sent, daemon } => write!(
                f,
                "{sent} is for {daemon}, which is not selected in the bundle; see CLAUDE_BOTTLE_SIDECAR_DAEMONS"
            ),
            Self::Stopped { daemon } => write!(
                f,
                "{daemon} was stopped on request; start it first: docker exec BUNDLE /proc/1/exe start {daemon}"
            ),
            Self::NotRunning { signal, daemon } => write!(
                f,
                "{signal} is for {daemon}, which isn't running; start it first: docker exec BUNDLE /proc/1/exe start {daemon}"
            ),
            Self::RequestRefused { sent, daemon, why } => write!(f, "{sent} for {daemon} was refused: {why}"),
            Self::Stopping => f.write_str("the bundle is stopping"),
            Self::MayNotAct { words } => {
                write!(f, "this user may not send requests to the bundle's init: {words}; run it as the user that the container runs as")
            }
            Self::NotAsked { words } => {
                write!(f, "cannot send a request to the bundle's init: {words}; see the bundle's log, then try again")
            }
            Self::Locked { by, since } => {
                write!(f, "another change is under way, by {by}")?;
                if !since.as_str().is_empty() {
                    write!(f, ", since {since}")?;
                }
                f.write_str("; try again when it has ended, or give a longer --timeout")
            }
            Self::NoLock { words } => write!(f, "the bundle's lock can't be taken: {words}"),
            Self::NoConfig { daemon } => {
                write!(
                    f,
                    "{daemon} has no `config` in the bundle's table, so there is no file to change; give it one there, like \
                     config = {{ path = \"/etc/{daemon}.conf\" }}"
                )
            }
            Self::File { path, fault } => fault.tell(path, f),
            Self::Checker { path, fault } => match fault {
                CheckerFault::Refused { code: Some(code), words } => {
                    write!(f, "the checker of {path} exited with code {code}{}; fix the content", aside(words))
                }
                CheckerFault::Refused { code: None, words } => {
                    write!(f, "the checker of {path} was killed{}", aside(words))
                }
                CheckerFault::Hung => {
                    write!(f, "the checker of {path} did not end in time and was killed; give a longer --timeout")
                }
                CheckerFault::NotRun { words } => write!(f, "the checker of {path} can't be executed: {words}"),
            },
            Self::Unrecovered { daemon, why } => match &**why {
                Self::File { path, fault: FileFault::KeptGone } => write!(
                    f,
                    "an earlier change of {daemon} was interrupted, and the kept copy of the old content is gone: {path} holds content \
                     that was never proven; put the right content there by hand, then apply without --file"
                ),
                Self::File { path, fault: FileFault::RecordGone } => write!(
                    f,
                    "the record of an earlier change of {path} can't be read, and old content is kept beside it (.sidecar-old.*): \
                     decide which of the two is right, put it there by hand, remove the copy, then apply without --file"
                ),
                why => write!(
                    f,
                    "an earlier change of {daemon} was interrupted and can't be undone: {why}; its file holds content that was \
                     never proven; fix the cause, then try again"
                ),
            },
            Self::Unproven { daemon, sent, pid, shortfall } => shortfall.tell(daemon, sent, *pid, f),
            Self::Garbled => f.write_str("the content did not arrive as it was sent; try again"),
            Self::HostGone => f.write_str("the connection to the bundle broke"),
            Self::Cancelled | Self::Interrupted => f.write_str("interrupted"),
            Self::NotSent => f.write_str("the signal could not be sent"),
            Self::Late => f.write_str("the time is up"),
            Self::Usage { message } => f.write_str(&message.0),
            Self::NoProgram { program, words } => {
                write!(f, "cannot run {program}: {words}; install it, or name another docker CLI with SIDECAR_DOCKER")
            }
            Self::CallFailed { call, words } => {
                let words =
                    if words.as_str().is_empty() { "it printed nothing about this bundle" } else { words.as_str() };
                write!(f, "{call} failed: {words}; check whether the bundle runs")
            }
            Self::NoSuch { is_pod } => write!(f, "no such {}; check the name", thing(*is_pod)),
            Self::NoneFound { is_pod, labels, terminating } => {
                write!(f, "no running {} carries the label sidecar.schema", thing(*is_pod))?;
                for OwnWords(label) in labels {
                    write!(f, " and {label}")?;
                }
                match terminating {
                    0 => Ok(()),
                    count => write!(f, " ({count} that are terminating were left out)"),
                }
            }
            Self::NotUp { state } => {
                write!(f, "it is not running ({state}); when it is started, it reads the files that are in place then")
            }
            Self::Paused => f.write_str("it is paused; unpause it, then try again"),
            Self::SharesPids { mode } => write!(
                f,
                "not a sidecar bundle: it shares a pid namespace ({mode}), so PID 1 isn't its own; start it without `pid:` \
                 (docker run: without --pid)"
            ),
            Self::DockerInit => f.write_str(
                "not a sidecar bundle: it was started with --init, so docker's own init is PID 1; \
                 start it without --init (compose: without `init: true`), since sidecar reaps orphans itself",
            ),
            Self::Stranger { program } => write!(
                f,
                "not a sidecar bundle: its image has no label sidecar.schema and it was started with {program}; \
                 check the name"
            ),
            Self::StrangePod { container } => {
                f.write_str("not a sidecar bundle: nothing in the pod's manifest says that ")?;
                match container {
                    Some(name) => write!(f, "container {name}")?,
                    None => f.write_str("any container")?,
                }
                f.write_str(
                    " is a bundle; give the bundle's container the `command` [\"/sbin/init\"], \
                     or, if it is the pod's only container, give the pod the label sidecar.schema",
                )
            }
            Self::WhichContainer { of } => {
                let of: Vec<&str> = of.iter().take(10).map(Printable::as_str).collect();
                write!(f, "which container is meant? the pod has {}; name one with -c", of.join(", "))
            }
            Self::NotInit { error } => write!(f, "not a sidecar bundle, or its status can't be read: {error}"),
            Self::MayNotAsk { words } => write!(
                f,
                "this user may not execute the program of the container's PID 1 ({words}); use the user that \
                 the container runs as"
            ),
            Self::NotByExe { words } => write!(
                f,
                "the container's runtime can't execute /proc/1/exe ({words}); gVisor can't. Start the container with the absolute path \
                 of the sidecar binary, as in ENTRYPOINT [\"/sbin/init\"]: an apply then uses that path"
            ),
            Self::NoAnswer { words } => write!(
                f,
                "not a sidecar bundle: its PID 1 gave no valid answer{}; perhaps its image has an \
                 older sidecar, docker's own init is PID 1, or its pids limit is reached",
                aside(words)
            ),
            Self::OtherProtocol { ours: (our, version), theirs: (their, other) } => {
                let upgrade = if their > our { "this program" } else { "the bundle's image" };
                write!(
                    f,
                    "the bundle's sidecar {other} speaks protocol {their}, this one ({version}) speaks {our}; \
                     upgrade {upgrade}"
                )
            }
            Self::KillFailed { kill, words, gone } => {
                let left = if *gone { "the container can't be reached" } else { "the daemon is as it was" };
                write!(f, "{kill} failed: {words}; {left}; fix the cause, then try again")
            }
            Self::KillTimedOut { kill } => write!(
                f,
                "{kill} did not end in time; the daemon has not acted on it so far, but it still may; check status, then try again"
            ),
            Self::Lost { sent, words } => write!(
                f,
                "{sent} was sent, or may have been, but the bundle then gave no valid answer{}, so the daemon's state isn't \
                 known; check whether the bundle runs, and read its log",
                aside(words)
            ),
            Self::Vanished { words } => write!(
                f,
                "the bundle went away before the change was committed{}; the new content isn't live: init puts the old one back \
                 before it next starts the daemon, unless somebody else has written to the file since",
                aside(words)
            ),
            Self::PausedMidway => f.write_str(
                "the bundle was paused before the change was committed; the new content isn't live, and the change goes back once the \
                 bundle is unpaused; unpause it, then try again",
            ),
            Self::Unknown { words } => write!(
                f,
                "it isn't known what became of the change{}; the bundle finishes or undoes it by itself within the --timeout; \
                 then check with status (`transaction`) which content is live",
                aside(words)
            ),
            Self::Fleet { why } => write!(f, "{why}"),
        }
    }
}

impl FileFault {
    fn tell(&self, path: &Printable, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => {
                write!(f, "{path} doesn't exist; create it once, so that there is something to go back to")
            }
            Self::Symlink => write!(f, "{path} is a symlink; put a file there"),
            Self::NotAFile => write!(f, "{path} is not a regular file"),
            Self::Mounted => {
                write!(f, "{path} is a bind mount of its own, so it can't be replaced; mount its directory instead")
            }
            Self::Unlinked => write!(
                f,
                "{path} is a bind mount of a file that was replaced or removed on the host, so the bundle still has the old one; \
                 mount its directory instead"
            ),
            Self::TooLarge => write!(f, "{path} is too large: only up to 16 MiB of old content can be kept"),
            Self::Owner { uid, gid } => write!(
                f,
                "the bundle's user can't keep the owner of {path} ({uid}:{gid}); chown the file to the bundle's user"
            ),
            Self::Changed => write!(
                f,
                "somebody else wrote to {path} meanwhile; find out who (what they wrote is kept beside it as .sidecar-other.* if the change \
                 is taken back), then try again"
            ),
            Self::Moved => write!(
                f,
                "{path} leads to another directory than when the change began; try again when nobody is switching it"
            ),
            Self::KeptGone => write!(
                f,
                "the kept copy of the old content isn't what was recorded: {path} holds content that was never proven"
            ),
            Self::RecordGone => {
                write!(f, "the record of the last change of {path} can't be read, and old content is kept beside it")
            }
            Self::System { step, words } => {
                let step = match step {
                    FileStep::Open => "open the directory of",
                    FileStep::Read => "read",
                    FileStep::Stage => "write the new content beside",
                    FileStep::Keep => "keep the old content of",
                    FileStep::Record => "write the record of",
                    FileStep::Install => "put the new content in place of",
                    FileStep::Restore => "put the old content back in place of",
                };
                write!(f, "cannot {step} {path}: {words}")
            }
        }
    }
}

impl Shortfall {
    fn tell(&self, daemon: &Printable, sent: &Printable, pid: Option<i32>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pid = pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
        match self {
            Self::Unserved => write!(f, "init did not act on {sent} in time; {daemon}{pid} is as it was"),
            Self::InitRefused { why: Some(why) } => write!(f, "init refused {sent} for {daemon}{pid}: {why}"),
            Self::InitRefused { why: None } => {
                write!(f, "init couldn't carry out {sent} for {daemon}{pid}; the bundle's log says why")
            }
            Self::OldStopping => {
                write!(
                    f,
                    "the old process of {daemon}{pid} did not end in time; give a --timeout longer than its grace"
                )
            }
            Self::Dead { code: Some(code), .. } => write!(f, "{daemon} exited with code {code}"),
            Self::Dead { killed_by: Some(signal), .. } => write!(f, "{daemon} was killed by signal {signal}"),
            Self::Dead { .. } => write!(f, "{daemon} ended"),
            Self::NotExecuted { code: Some(code) } => {
                write!(f, "the command of {daemon} could not be executed ({code})")
            }
            Self::NotExecuted { code: None } => write!(f, "the command of {daemon} could not be executed"),
            Self::NotReady { why } => {
                write!(f, "{daemon} runs{pid} but was not ready in time")?;
                if let Some(why) = why {
                    write!(f, " ({why})")?;
                }
                f.write_str("; see its log, or give a longer --timeout")
            }
            Self::NotSettled => write!(
                f,
                "{daemon} runs{pid} and is ready, but had not stayed ready for its settling time when the time was up; give a longer --timeout"
            ),
            Self::SocketHeld { socket, by } => {
                match by {
                    Some((by, name)) => write!(f, "{socket} is held by pid {by} ({name})")?,
                    None => {
                        write!(f, "{socket} is held by a process from before the restart that can't be inspected")?;
                    }
                }
                write!(f, ", so it isn't certain that {daemon}{pid} serves it; end that process")
            }
            Self::Held => {
                write!(f, "{sent} is still held: {daemon} runs{pid}, but did not install a handler for it in time")
            }
            Self::NeverCaught => {
                write!(
                    f,
                    "{sent} was dropped: {daemon} runs{pid} but has no handler for it, and {sent} would have killed it"
                )
            }
            Self::ReloadPending => write!(
                f,
                "{daemon} runs{pid}, was sent {sent}, but did not report the reload in time (RELOADING=1, then READY=1)"
            ),
            Self::ReloadRefused { errno } => write!(f, "{daemon} took {sent} and refused to reload (errno {errno})"),
            Self::Replaced => {
                write!(f, "the process to be proven was replaced by another process of {daemon}{pid}; check status")
            }
            Self::StillStopping => {
                write!(f, "{daemon} is still being stopped{pid}; give a --timeout longer than its grace")
            }
            Self::Stopped => write!(f, "{daemon} was stopped on request meanwhile"),
            Self::Superseded => write!(f, "a later request for {daemon}{pid} came before {sent} was done"),
            Self::Forgotten => {
                write!(f, "{sent} for {daemon}{pid} is gone from the status page, so its result is unknown")
            }
            Self::NotDone => write!(f, "{daemon} still runs{pid} and did not exit in time; give a longer --timeout"),
            Self::Contradiction => {
                write!(
                    f,
                    "the bundle's status page contradicts itself: the generation of {daemon}{pid} is lower than before"
                )
            }
        }
    }

    /// What may still happen, or how the daemon was left, as the end of a sentence. For a change that wasn't undone.
    #[must_use]
    pub fn aftermath(&self) -> &'static str {
        match self {
            Self::Unserved | Self::Held | Self::ReloadPending => "; it may still take effect; check status later",
            Self::OldStopping => {
                "; its replacement starts once it has ended, and may still come up; check status later"
            }
            Self::NotReady { .. } | Self::NotSettled => "; it may still become ready; check status later",
            Self::StillStopping => "; init continues with it; check status later",
            Self::NotDone => "; it may still succeed; check status later",
            Self::Stopped => "; it stays stopped until it is started",
            Self::Superseded | Self::Forgotten => "; check status, then try again",
            Self::Dead { .. } | Self::NotExecuted { .. } => {
                "; its siblings run on; it stays down unless its restart policy starts it again; see the bundle's log, fix the cause and try again"
            }
            Self::ReloadRefused { .. } => {
                "; it keeps running with what it had; see its log, fix the cause and try again"
            }
            _ => "",
        }
    }
}

/// Somebody else's words in brackets, after a space; nothing if there are none.
#[must_use]
pub fn aside(words: &Printable) -> String {
    if words.as_str().is_empty() { String::new() } else { format!(" ({words})") }
}

fn thing(is_pod: bool) -> &'static str {
    if is_pod { "pod" } else { "container" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Printable {
        Printable::new(text)
    }

    #[test]
    fn an_error_says_of_what_was_left_untouched_what_is_known() {
        let is = |why: Reason, words: &str| assert_eq!(why.untouched(), words, "{why}");
        is(Reason::NotWired { signal: text("USR1") }, "; nothing was sent");
        is(Reason::RequestRefused { sent: text("a"), daemon: text("b"), why: text("c") }, "; nothing was done");
        is(Reason::DockerInit, "; nothing was executed or sent");
        is(Reason::Paused, "; nothing was sent");
        is(Reason::PausedMidway, "");
        is(Reason::Late, "; nothing was changed or sent");
    }

    #[test]
    fn a_shortfall_says_what_may_yet_happen_or_what_to_do() {
        let is = |shortfall: Shortfall, words: &str| assert!(shortfall.aftermath().contains(words), "{shortfall:?}");
        is(Shortfall::Held, "may still take effect; check status");
        is(Shortfall::OldStopping, "may still come up; check status");
        is(Shortfall::NotReady { why: None }, "may still become ready; check status");
        is(Shortfall::StillStopping, "init continues with it; check status");
        is(Shortfall::NotDone, "may still succeed; check status");
        is(Shortfall::Stopped, "stays stopped until it is started");
        is(Shortfall::Forgotten, "check status, then try again");
        is(Shortfall::Dead { code: Some(1), killed_by: None }, "fix the cause and try again");
        is(Shortfall::ReloadRefused { errno: 22 }, "fix the cause and try again");
    }

    #[test]
    fn of_two_versions_the_older_one_is_to_be_upgraded() {
        let why = |our, their| {
            Reason::OtherProtocol { ours: (our, text("1.1.0")), theirs: (their, text("1.2.0")) }.to_string()
        };
        assert!(why(1, 2).ends_with("upgrade this program"), "{}", why(1, 2));
        assert!(why(2, 1).ends_with("upgrade the bundle's image"), "{}", why(2, 1));
    }

    #[test]
    fn it_is_said_why_a_daemon_is_not_up_with_what_a_person_wrote() {
        let said = |outcome| {
            let (daemon, by, at) = (text("a"), text("me"), text("now"));
            Recovered { daemon, by, at, outcome, why: Some(Reason::Stopping) }.to_string()
        };
        let (theirs, old) = (said(RecordedOutcome::NotProven), said(RecordedOutcome::Down));
        assert!(theirs.ends_with("which stays (a isn't up with it: the bundle is stopping)"), "{theirs}");
        assert!(old.ends_with("doesn't come up with it (the bundle is stopping)"), "{old}");
    }

    #[test]
    fn who_holds_the_lock_is_said_with_since_when_if_that_is_known() {
        let said = |since: &str| Reason::Locked { by: text("me"), since: text(since) }.to_string();
        assert!(said("").contains("by me; try"), "{}", said(""));
        assert!(said("noon").contains("by me, since noon; try"), "{}", said("noon"));
    }
}
