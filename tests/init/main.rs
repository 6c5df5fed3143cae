//! What `sidecar init` promises (section by section of its documentation), seen on the real binary as PID 1 of a real
//! pid namespace.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and its helpers are tests too")]

#[macro_use]
#[path = "../needs/mod.rs"]
mod needs;

mod calls;
mod faults;
#[path = "../harness/mod.rs"]
mod harness;
mod hostile;
mod life;
mod listen;
mod notify;
mod order;
mod output;
mod process;
mod requests;
mod run_as;
mod sandbox_faults;
#[path = "../schemas/mod.rs"]
mod schemas;
mod short;
mod shutdown;
mod signals;
mod start;
mod status;

use harness::{Bundle, Setup, TWO};
