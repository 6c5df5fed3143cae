//! The status document: written by init, read by `status` and, through the helper in the bundle, by the host.
//!
//! init publishes a [`Page`] in a sealed memfd at descriptor [`PAGE_FD`]. In the page every `*_ms` field that ends
//! up as an age holds a point of `CLOCK_MONOTONIC` in milliseconds; [`Page::aged`] turns them into ages, so that
//! an idle init has nothing to update.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::table::{Config, Ready};

/// The descriptor of PID 1 under which the page is found: `/proc/1/fd/100`.
pub const PAGE_FD: i32 = 100;
/// The name of the memfd, as `/proc/1/fd/100` shows it.
pub const PAGE_NAME: &str = "sidecar-status";
/// The version of the document; keys may be added within it, none changes its meaning.
pub const SCHEMA: u32 = 1;

/// What init does as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InitState {
    /// Supervising.
    Running,
    /// A shutdown is under way: nothing is started any more.
    Stopping,
}

/// What one daemon does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DaemonState {
    /// It was forked, and its command is yet to be executed.
    Starting,
    /// Its process lives.
    Running,
    /// Its process, or what is left of its process group, is being ended.
    Stopping,
    /// Its process has ended.
    Exited,
    /// Its command could not be executed.
    Failed,
}

/// What became of a wired signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The old process is being stopped.
    Restarting,
    /// The replacement was started.
    Restarted,
    /// The replacement could not be executed, or the kernel let init neither send the signal nor end the old process.
    Failed,
    /// A forward waits for the daemon's handler.
    Held,
    /// The signal was sent to the daemon.
    Delivered,
    /// Nothing was done: the daemon isn't selected, doesn't run or is stopping, or init is.
    Refused,
    /// A held signal was dropped: the daemon never caught it.
    NeverCaught,
}

/// The last signal of its kind that init served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// Counts the signals of this kind that were served.
    pub seq: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// Since the outcome last changed.
    pub age_ms: u64,
    /// For a forward to a daemon with `notify`: the errno with which the daemon ended the reload that it began
    /// after this signal was delivered, 0 where it obeyed; `None` until it says so.
    #[serde(default)]
    pub reload_errno: Option<i32>,
}

/// A wired signal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wired {
    /// The daemon that the signal is passed on to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<String>,
    /// The daemon that is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<String>,
    /// The last one served.
    pub last: Option<Last>,
}

/// How a daemon's last process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastExit {
    /// Its exit code, where it exited; 126 or 127 where it could not be executed.
    pub code: Option<i32>,
    /// The number of the signal that killed it.
    pub signal: Option<i32>,
    /// Whether init had asked it to end.
    pub by_init: bool,
}

/// One selected daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// Its name in the table.
    pub name: String,
    /// What it does.
    pub state: DaemonState,
    /// Its process, where there is one.
    pub pid: Option<i32>,
    /// Counts its starts, a failed one too.
    pub generation: u64,
    /// Counts its starts by request after the first.
    pub restarts: u64,
    /// How long its process has run; `None` where there is none.
    pub uptime_ms: Option<u64>,
    /// How its last process ended; `None` before the first end.
    pub last_exit: Option<LastExit>,
    /// For a daemon with `config`: its last transaction, null in the page, filled in by `status` from the record beside
    /// the file. Absent for others.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub transaction: Option<serde_json::Value>,
    /// With `--ready`: whether its probe succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
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
    /// What init does.
    pub state: InitState,
    /// In table order.
    pub selected: Vec<String>,
    /// In table order.
    pub unselected: Vec<String>,
    /// By the signal's name.
    pub signals: BTreeMap<String, Wired>,
    /// The selected ones, in table order.
    pub daemons: Vec<Daemon>,
}

/// What a reader needs to know of a daemon beyond the public document, to judge whether it is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// How its readiness is told.
    pub ready: Option<Ready>,
    /// With `notify`: whether the process of this generation has said READY=1 and is not reloading.
    pub notified: bool,
    /// How long it must stay ready, in milliseconds.
    pub settle_ms: u64,
    /// From SIGTERM to SIGKILL, in milliseconds.
    pub grace_ms: u64,
    /// Its rules.
    pub config: Option<Config>,
}

/// What init publishes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// The public document, with points of the monotonic clock where it shows ages.
    pub status: Status,
    /// One for each of `status.daemons`, in their order.
    pub plans: Vec<Plan>,
    /// The socket on which init takes the log line of a change; `None`: it takes none.
    #[serde(default)]
    pub socket: Option<String>,
}

/// A key that is there with the value null, as opposed to one that isn't there.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<serde_json::Value>, D::Error> {
    serde_json::Value::deserialize(deserializer).map(Some)
}

impl Page {
    /// The public document with ages in the place of points: `now_ms` is `CLOCK_MONOTONIC` in milliseconds.
    #[must_use]
    pub fn aged(self, now_ms: u64) -> Status {
        let mut status = self.status;
        for last in status.signals.values_mut().filter_map(|wired| wired.last.as_mut()) {
            last.age_ms = now_ms.saturating_sub(last.age_ms);
        }
        for uptime in status.daemons.iter_mut().filter_map(|daemon| daemon.uptime_ms.as_mut()) {
            *uptime = now_ms.saturating_sub(*uptime);
        }
        status
    }
}
