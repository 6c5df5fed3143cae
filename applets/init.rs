//! `init`: PID 1 of a bundle.

use std::process::ExitCode;

use nix::sys::signal::SigSet;

/// Stands until the real one is merged: says so and starts nothing.
pub fn run(_args: &[String], _inherited: SigSet) -> ExitCode {
    crate::out::usage("init", "this build has no init yet")
}
