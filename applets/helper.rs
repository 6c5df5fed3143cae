//! The helper that the apply applets run inside a bundle.

use std::process::ExitCode;

/// Runs it.
pub fn run(_args: &[String]) -> ExitCode {
    if sidecar::helper::run() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
