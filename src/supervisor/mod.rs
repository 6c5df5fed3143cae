//! What init decides: events in, actions out. No clock, no system call, no global.
//!
//! The time comes with the event, as a point of the monotonic clock. Each deadline is stored in the state that it belongs to,
//! so a deadline of an earlier stop can't fire in a later one.
//!
//! `daemon` is the life of one daemon and `stop` its end. `policy` says whether and when it is started again, `probe` whether it is
//! ready, and `requests` what became of requests to it. `bundle` handles what concerns all daemons, `order` their dependencies, and
//! `turn` the handling of one event. `driver` carries out the actions on a [`System`]: init itself, or the tests' simulated kernel.

mod bundle;
mod daemon;
mod driver;
mod order;
mod policy;
mod probe;
mod requests;
mod selection;
mod stop;
mod turn;

use std::fmt;
use std::time::Duration;

pub use bundle::Supervisor;
pub use driver::{Ended, Sent, System};
pub use selection::{Selection, select};

use crate::request::Request;
use crate::status::{self, DaemonState, LastExit, WaitingFor};
use crate::table::Signal;

/// A point of the monotonic clock.
pub type Moment = Duration;
/// Signal numbers that are the same on every Linux that this runs on: signal(7).
const KILL: i32 = 9;
const TERM: i32 = 15;
const CONT: i32 = 18;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited {code}"),
            Self::Signal(signal) => write!(f, "was killed by signal {signal}"),
        }
    }
}

/// What a process would do with a signal, according to `/proc/PID/status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// It catches it (`SigCgt`), or blocks it and some others (`SigBlk`), as a process that uses signalfd(2) does.
    Taken,
    /// It blocks every signal, SIGSEGV too: as libc does for the length of a fork or of a thread's start, vfork(2)
    /// until the child has executed. A signal that is sent meanwhile is delivered afterwards and kills it.
    Blocked,
    /// It does neither: the signal would kill it, or be lost.
    NotTaken,
    /// /proc shows no signal masks.
    Unknown,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Start the daemons. Signals that were already pending are delivered as events before this one.
    Begin,
    /// TERM, INT or QUIT.
    Stop,
    /// A signal that has a rule, or could have one.
    Signal(Signal),
    /// The fork of a start worked. Whether its exec worked comes later, as [`Event::Executed`] or [`Event::NotExecuted`].
    Started {
        /// Which daemon.
        daemon: usize,
        /// Its process, which leads a session and a process group of its own.
        pid: i32,
    },
    /// The close-on-exec pipe of a start was closed without a report: the command runs. (If the child was killed
    /// before its exec, that looks the same; its end follows.)
    Executed {
        /// Which daemon.
        daemon: usize,
        /// Its process.
        pid: i32,
    },
    /// The child of a start couldn't execute the command. It exits at once; its end follows.
    NotExecuted {
        /// Which daemon.
        daemon: usize,
        /// Its process.
        pid: i32,
        /// 127 (not found) or 126 (anything else).
        code: i32,
        /// Why, for the log.
        why: String,
    },
    /// A start failed before there was a child.
    StartFailed {
        /// Which daemon.
        daemon: usize,
        /// 127 (not found) or 126 (anything else).
        code: i32,
        /// Why, for the log.
        why: String,
    },
    /// A child has ended. If it is init's own, it isn't reaped yet; an orphan is.
    Ended {
        /// The child, a daemon's process or an orphan.
        pid: i32,
        /// How it ended.
        end: End,
        /// How many OOM kills the memory cgroup has counted since init last looked. 0 unless signal 9 killed the child.
        oom_kills: u64,
        /// The last line that it printed, if it is a probe; else empty.
        words: String,
    },
    /// The answer to [`Action::Probe`]: this process asks the daemon whether it is ready, and exits 0 if it is. Its end
    /// comes as [`Event::Ended`], as that of any child.
    ProbeStarted {
        /// Which daemon.
        daemon: usize,
        /// The probe, which leads a session and a process group of its own.
        pid: i32,
    },
    /// The answer to [`Action::Probe`] if there is no probe.
    ProbeFailed {
        /// Which daemon.
        daemon: usize,
        /// Why.
        why: String,
    },
    /// A request came through PID 1's descriptor. `None` for a line that isn't a request.
    Request(Option<Request>),
    /// The answer to an [`Action::Kill`] that the kernel refused.
    NotSent {
        /// The process.
        pid: i32,
        /// The signal's number.
        signal: i32,
    },
    /// The answer to [`Action::LookAtMembers`].
    Members {
        /// Which daemon.
        daemon: usize,
        /// The session: the pid of the process that led it.
        sid: i32,
        /// Its live processes (no zombies), without its leader.
        pids: Vec<i32>,
    },
    /// The answer to [`Action::KillMembers`]. Those that are in neither list had ended, or left the session.
    MembersKilled {
        /// Which daemon.
        daemon: usize,
        /// The session.
        sid: i32,
        /// The processes that were sent SIGKILL.
        killed: Vec<i32>,
        /// The processes that the kernel doesn't let init kill.
        refused: Vec<i32>,
    },
    /// The answer to [`Action::LookAtMask`].
    Mask {
        /// Which daemon.
        daemon: usize,
        /// The process that was looked at.
        pid: i32,
        /// The signal in question.
        signal: Signal,
        /// What the process would do with it.
        disposition: Disposition,
    },
    /// An `sd_notify`(3) message from this process.
    Notify {
        /// The sender, as the kernel tells it.
        pid: i32,
        /// `READY=1` was in it.
        ready: bool,
        /// `RELOADING=1` with `MONOTONIC_USEC=`, in microseconds.
        reloading: Option<u64>,
        /// `ERRNO=`, 0 if there is none.
        errno: i32,
        /// The sender's session (getsid(2)) at the receipt; `None` if the sender is gone already.
        session: Option<i32>,
    },
    /// The time that [`Supervisor::next`] returned has come.
    Time,
}

/// The level of a line in init's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Useful only for troubleshooting.
    Debug,
    /// Normal operation.
    Info,
    /// Something did not go as requested.
    Warn,
}

/// A line for init's log. The other fields repeat what the text says, for programs that read the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its level.
    pub level: Level,
    /// What it says.
    pub text: String,
    /// The daemon that it concerns.
    pub daemon: Option<usize>,
    /// The process that it concerns.
    pub pid: Option<i32>,
    /// How that process ended, or what its end counts as.
    pub end: Option<End>,
}

impl Line {
    fn new(level: Level, text: String) -> Self {
        Self { level, text, daemon: None, pid: None, end: None }
    }

    fn debug(text: String) -> Self {
        Self::new(Level::Debug, text)
    }

    fn info(text: String) -> Self {
        Self::new(Level::Info, text)
    }

    fn warn(text: String) -> Self {
        Self::new(Level::Warn, text)
    }

    fn of(self, daemon: usize) -> Self {
        Self { daemon: Some(daemon), ..self }
    }

    fn pid(self, pid: i32) -> Self {
        Self { pid: Some(pid), ..self }
    }

    fn end(self, end: End) -> Self {
        Self { end: Some(end), ..self }
    }
}

/// What to do. Actions are carried out in order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Start the daemon; answered by [`Event::Started`] or [`Event::StartFailed`].
    Start(usize),
    /// Send a signal to a process that is not reaped yet; answered by [`Event::NotSent`] if the kernel refuses.
    Kill {
        /// The process.
        pid: i32,
        /// The signal's number.
        signal: i32,
    },
    /// SIGKILL to what is left of a process group whose leader is not reaped yet.
    KillGroup(i32),
    /// Reap a child that has ended.
    Reap(i32),
    /// Send a signal to a process if it still belongs to this session.
    KillMember {
        /// The session.
        sid: i32,
        /// The process.
        pid: i32,
        /// The signal's number.
        signal: i32,
    },
    /// SIGKILL to those of these processes that still belong to this session; answered by [`Event::MembersKilled`].
    KillMembers {
        /// Of which daemon.
        daemon: usize,
        /// The session.
        sid: i32,
        /// The processes.
        pids: Vec<i32>,
    },
    /// List the remaining processes of a session; answered by [`Event::Members`].
    LookAtMembers {
        /// For which daemon.
        daemon: usize,
        /// The session.
        sid: i32,
    },
    /// Find out what a process would do with a signal; answered by [`Event::Mask`].
    LookAtMask {
        /// For which daemon.
        daemon: usize,
        /// The process.
        pid: i32,
        /// The signal in question.
        signal: Signal,
    },
    /// Start a process that asks the daemon whether it is ready; answered by [`Event::ProbeStarted`] or
    /// [`Event::ProbeFailed`].
    Probe(usize),
    /// A line for init's log.
    Tell(Line),
    /// Nothing is left to supervise: exit with this code.
    Exit(i32),
}

/// What status shows of one daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Its state.
    pub state: DaemonState,
    /// Its process.
    pub pid: Option<i32>,
    /// When that process was started.
    pub since: Option<Moment>,
    /// How often it was started.
    pub generation: u64,
    /// How many of those were requested, after the first.
    pub restarts: u64,
    /// How many of those were by its restart policy.
    pub revivals: u64,
    /// In backoff: when it is started again.
    pub starts_at: Option<Moment>,
    /// Waiting: for which daemons, and why they aren't ready.
    pub waiting_for: Vec<WaitingFor>,
    /// The last requests.
    pub requests: Vec<status::Request>,
    /// How its last process ended.
    pub last_exit: Option<LastExit>,
    /// Whether it has said READY=1 and is not reloading.
    pub notified: bool,
}

impl View {
    /// Whether its sockets listen, so that connections wait for its process or for the next one. If nothing is going to start the
    /// daemon, connections are refused, since a client would wait forever. They are also refused while its first start waits for
    /// other daemons, since that has no time limit.
    #[must_use]
    pub fn listens(&self) -> bool {
        match self.state {
            DaemonState::Starting | DaemonState::Running | DaemonState::Stopping | DaemonState::Backoff => true,
            // init starts it as soon as it begins.
            DaemonState::Exited => self.generation == 0,
            DaemonState::Failed | DaemonState::Waiting | DaemonState::Stopped | DaemonState::Done => false,
        }
    }
}

#[cfg(test)]
mod tests;
