//! The host's side of an apply: makes a change in running bundles, by a signal to their init, and verifies that it is live.
//!
//! ```text
//!   run            all bundles of one apply: finds them, then handles each in a thread of its own
//!   ├── look       asks the engine which containers there are, and in which state
//!   │   └── identify   which containers are bundles, judged by `docker inspect` (pods: by `kubectl get`)
//!   ├── fleet      decides when each bundle begins, and whether those that are proven commit or go back
//!   └── conversation   one bundle: what is said to the helper inside it, and what follows from the answers
//!       ├── docker     runs the engine's CLI: time limits, bounds
//!       └── complaint  what the CLI's complaints mean
//!   engine         what the command lines of docker, podman, nerdctl and kubectl look like
//!   stop           Ctrl-C, and what all bundles of a fleet are told at once
//!   report         the line or the object for each bundle, and the exit code
//! ```
//!
//! Whether a change is live is judged inside the bundle, by the helper ([`proof`](crate::change::proof)). `identify`,
//! `pods`, `fleet`, `complaint` and `report` do no I/O.

use std::time::{Duration, Instant};

mod complaint;
mod conversation;
pub mod docker;
pub mod engine;
pub mod fleet;
pub mod identify;
mod look;
pub mod pods;
pub mod report;
pub mod run;
pub mod stop;

use crate::change::proof::Trigger;
use crate::protocol::Task;
use crate::text::Printable;

/// What the caller asked for.
#[derive(Clone, Debug)]
pub struct Change {
    /// What makes init act.
    pub trigger: Trigger,
    /// The limit for the wait for another change, and again for the time from the check to the proof.
    pub timeout: Duration,
    /// What to do.
    pub task: Task,
    /// The new content, if the task has one: at most [`protocol::MAX_CONTENT`](crate::protocol::MAX_CONTENT) bytes.
    pub content: Vec<u8>,
    /// Who makes the change.
    pub by: Printable,
}

/// How long a call may take that only asks which containers there are: the timeout, but at least 1 s, since starting docker alone can
/// take half a second, and at most 30 s, since no answer will come after that.
fn to_ask(timeout: Duration) -> Duration {
    timeout.clamp(Duration::from_secs(1), Duration::from_secs(30))
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
