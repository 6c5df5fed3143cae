//! The host's side of an apply: a change made live in running bundles, by a signal to their init, and seen to be live.
//!
//! ```text
//!   run            all bundles of one apply: who they are, then each in a thread of its own
//!   ├── look       asks the engine who is there and in which state
//!   │   └── identify   who the containers are, by what `docker inspect` says; pods: by what `kubectl get` says
//!   ├── fleet      which bundle begins when, and whether those that are changed stay so
//!   └── conversation   one bundle: what is said to the helper inside it, and what is made of its answers
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

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Change {
    /// What makes init act.
    pub trigger: Trigger,
    /// How long it may take to begin, and then to the proof.
    pub timeout: Duration,
    /// What is to be done.
    pub task: Task,
    /// The new content, if the task has one: at most [`protocol::MAX_CONTENT`](crate::protocol::MAX_CONTENT) bytes.
    pub content: Vec<u8>,
    /// Who asks for it.
    pub by: Printable,
}

/// How long a step may take that only asks who is there: as long as was asked for, but starting docker alone can take
/// half a second, and after half a minute there won't be an answer.
fn to_ask(timeout: Duration) -> Duration {
    timeout.clamp(Duration::from_secs(1), Duration::from_secs(30))
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
