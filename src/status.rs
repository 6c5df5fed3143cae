//! The status document: written by init, read by `status` and, through the helper in the bundle, by the host.
//!
//! init publishes a [`Page`] in a sealed memfd at descriptor [`PAGE_FD`]. In the page, every `*_ms` field that the document shows
//! as an age holds a point in time instead, in milliseconds of `CLOCK_MONOTONIC`. So an idle init has nothing to update.
//! [`Page::aged`] turns these into ages.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::table::{Config, Ready};

/// PID 1's descriptor of the page: `/proc/1/fd/100`.
pub const PAGE_FD: i32 = 100;
/// The permissions of the pipes for daemons' output: any user may write, so a daemon that changes its user can reopen its stdout and
/// stderr. Since no other program makes pipes with these permissions, they also identify init's.
pub const OUTPUT_MODE: u32 = 0o622;
/// The name of the memfd, as `/proc/1/fd/100` shows it.
pub const PAGE_NAME: &str = "sidecar-status";
/// The version of the document. Within a version keys may be added, but none changes its meaning.
pub const SCHEMA: u32 = 1;

/// The state of init as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InitState {
    /// Supervising.
    Running,
    /// A shutdown is under way: nothing is started any more.
    Stopping,
}

/// The state of one daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DaemonState {
    /// It was forked, and its command has not been executed yet.
    Starting,
    /// Its process lives.
    Running,
    /// Its process, or what is left of its session, is being stopped.
    Stopping,
    /// Its process has ended.
    Exited,
    /// Its command could not be executed and nothing starts it again, or it is a oneshot that did not exit 0.
    Failed,
    /// Its first start waits for the daemons that it depends on.
    Waiting,
    /// It has ended, and its restart policy starts it again.
    Backoff,
    /// It was stopped on request.
    Stopped,
    /// It is a oneshot, and exited 0.
    Done,
}

/// The outcome of a signal that has a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The old process is being stopped.
    Restarting,
    /// The replacement was started.
    Restarted,
    /// The replacement could not be executed, or the kernel refused the signal or the end of the old process.
    Failed,
    /// A forward waits for the daemon's handler.
    Held,
    /// The signal was sent to the daemon.
    Delivered,
    /// Nothing was done: the daemon isn't selected, isn't running or is stopping, or init is stopping.
    Refused,
    /// A held signal was dropped: the daemon never caught it.
    NeverCaught,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RequestOutcome {
    /// It is under way: the old process is being stopped, or the new one hasn't executed its command.
    Pending,
    /// The process that it asked for has executed its command.
    Started,
    /// The daemon runs already, so a `start` had nothing to do.
    Running,
    /// It is stopped.
    Stopped,
    /// The daemon doesn't run, so a `stop` had nothing to do.
    NotRunning,
    /// The signal waits for the daemon's handler.
    Held,
    /// The signal was sent.
    Delivered,
    /// A held signal was dropped: the daemon never caught it.
    NeverCaught,
    /// Nothing was done: the daemon isn't running or is stopping, or init is stopping.
    Refused,
    /// The command could not be executed, or the kernel refused the signal or the end of the old process.
    Failed,
    /// A later request replaced it.
    Superseded,
}

impl RequestOutcome {
    /// Whether nothing can change it any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Pending | Self::Held)
    }
}

/// A request, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The identifier that the sender gave it.
    pub id: String,
    /// What was asked for, as `restart`, `stop`, `start` or `signal HUP`.
    pub verb: String,
    /// What became of it.
    pub outcome: RequestOutcome,
    /// The generation that it started; for `Running` and for a signal, the one that ran already.
    pub generation: Option<u64>,
    /// Why it was refused, in the words of init's log.
    pub why: Option<String>,
}

/// A daemon that must be ready before another's first start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingFor {
    /// Its name.
    pub daemon: String,
    /// Why it isn't ready, for example "probe timed out".
    pub why: String,
}

/// The last signal of a kind that init handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// How many signals of this kind init has handled.
    pub seq: u64,
    /// Its outcome.
    pub outcome: Outcome,
    /// The time since the outcome last changed, in milliseconds.
    pub age_ms: u64,
    /// For a forward to a daemon with `notify`: the errno with which the daemon ended the reload that it began
    /// after this signal was delivered, 0 if it succeeded; `None` until the daemon says so.
    #[serde(default)]
    pub reload_errno: Option<i32>,
    /// The generation that it started; `None`: it started none, or not yet.
    #[serde(default)]
    pub generation: Option<u64>,
}

/// A signal that has a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wired {
    /// The daemon that the signal is forwarded to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<String>,
    /// The daemon that is restarted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<String>,
    /// The last one that init handled; `None` if there was none.
    pub last: Option<Last>,
}

/// How a daemon's last process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastExit {
    /// Its exit code if it exited; 126 or 127 if it could not be executed.
    pub code: Option<i32>,
    /// The number of the signal that killed it.
    pub signal: Option<i32>,
    /// Whether init had asked it to end.
    pub by_init: bool,
}

/// What the kernel enforces of a daemon's sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// The version of Landlock's interface; 0 if there is none.
    pub abi: u32,
    /// The parts of this sandbox that the kernel can't enforce: `files`, `processes`, `truncation`, `tcp`, `devices`, `signals`,
    /// `system-calls`.
    pub missing: Vec<String>,
    /// Why Landlock isn't used, if it isn't.
    pub why: Option<String>,
}

/// One selected daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// Its name in the table.
    pub name: String,
    /// Its state.
    pub state: DaemonState,
    /// Its process, if there is one.
    pub pid: Option<i32>,
    /// How often it was started, failed starts included.
    pub generation: u64,
    /// How often a request or a signal has started it, without the first start.
    pub restarts: u64,
    /// How often its restart policy has started it. After the first start, `generation` = 1 + `restarts` + `revivals`.
    #[serde(default)]
    pub revivals: u64,
    /// In `backoff`: the time until its next start, in milliseconds; in the page, the point in time of that start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_in_ms: Option<u64>,
    /// In `waiting`: the daemons that it waits for, and why they aren't ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<WaitingFor>,
    /// The last requests, oldest first. All undecided ones are there; of the decided ones, those beyond eight in all are
    /// dropped when the next request comes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<Request>,
    /// How long its process has run, in milliseconds; `None` if there is none.
    pub uptime_ms: Option<u64>,
    /// How its last process ended; `None` before the first end.
    pub last_exit: Option<LastExit>,
    /// The sockets that init holds for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listen: Vec<SocketAddr>,
    /// Its sandbox, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Sandbox>,
    /// For a daemon with `config`: its last change. It is null in the page; `status` fills it in from the record beside the file. It is
    /// absent for other daemons.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub transaction: Option<serde_json::Value>,
    /// With `--ready`: whether its probe succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// With `--ready`: why it isn't ready, if it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_ready: Option<String>,
}

/// The public document, as `status --json` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The version of the init that wrote it.
    pub version: String,
    /// init's own pid.
    pub pid: i32,
    /// The state of init.
    pub state: InitState,
    /// In table order.
    pub selected: Vec<String>,
    /// In table order.
    pub unselected: Vec<String>,
    /// The signal rules, by the signal's name.
    pub signals: BTreeMap<String, Wired>,
    /// The selected daemons, in table order.
    pub daemons: Vec<Daemon>,
}

/// What a reader needs to know about a daemon beyond the public document, to decide whether it is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// How to tell whether it is ready.
    pub ready: Option<Ready>,
    /// With `notify`: whether the process of this generation has said READY=1 and is not reloading.
    pub notified: bool,
    /// How long it must stay ready, in milliseconds.
    pub settle_ms: u64,
    /// The time from its stop signal to SIGKILL, in milliseconds.
    pub grace_ms: u64,
    /// Whether it is a oneshot, which is ready once it has exited 0.
    #[serde(default)]
    pub is_oneshot: bool,
    /// Whether its process needs a set-up before it executes its command. Probes and checkers then need it too.
    #[serde(default)]
    pub is_set_up: bool,
    /// Its `config`.
    pub config: Option<Config>,
}

/// The page that init publishes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// The public document, with times of the monotonic clock in place of ages.
    pub status: Status,
    /// One for each of `status.daemons`, in their order.
    pub plans: Vec<Plan>,
    /// The socket on which init accepts the log line of a change; `None` if it accepts none.
    #[serde(default)]
    pub socket: Option<String>,
}

/// Distinguishes a key whose value is null from a missing key.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<serde_json::Value>, D::Error> {
    serde_json::Value::deserialize(deserializer).map(Some)
}

impl Page {
    /// The public document with ages in place of times: `now_ms` is `CLOCK_MONOTONIC` in milliseconds.
    #[must_use]
    pub fn aged(self, now_ms: u64) -> Status {
        let mut status = self.status;
        for last in status.signals.values_mut().filter_map(|wired| wired.last.as_mut()) {
            last.age_ms = now_ms.saturating_sub(last.age_ms);
        }
        for uptime in status.daemons.iter_mut().filter_map(|daemon| daemon.uptime_ms.as_mut()) {
            *uptime = now_ms.saturating_sub(*uptime);
        }
        for starts_in in status.daemons.iter_mut().filter_map(|daemon| daemon.starts_in_ms.as_mut()) {
            *starts_in = starts_in.saturating_sub(now_ms);
        }
        status
    }
}
