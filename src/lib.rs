//! What the applets of `sidecar` are made of.
//!
//! Arrows go down only:
//!
//! ```text
//!   applets
//!     ├── host        a change made live in running bundles, from outside, through docker or kubectl
//!     ├── init        PID 1: the only system calls of init
//!     └── helper      the process inside the bundle that carries a change out for the host
//!         act         restart, stop, start and signal inside the bundle
//!           │
//!     supervisor      what init decides          change      what a change of one file decides, and its files
//!     launch          argv, environment, descriptors → a process
//!           │
//!     table   protocol   request   page   status   text
//! ```
//!
//! `init` knows nothing of `host`. What decides (`supervisor`; `change::{transaction, recovery, proof}`) makes no system
//! call: the simulation runs the very same code.

pub mod change;
pub mod host;
pub mod protocol;
pub mod request;
#[cfg(test)]
#[path = "../tests/rng/mod.rs"]
mod rng;
#[cfg(test)]
pub mod sample;
pub mod status;
pub mod supervisor;
pub mod table;
pub mod text;

// What only Linux has: init, and what runs beside it in a bundle. All else builds for a host that is a Mac.
#[cfg(target_os = "linux")]
pub mod act;
#[cfg(target_os = "linux")]
pub mod helper;
#[cfg(target_os = "linux")]
pub mod init;
#[cfg(target_os = "linux")]
pub mod launch;
#[cfg(target_os = "linux")]
pub mod page;
