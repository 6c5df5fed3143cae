//! Commands that run as a daemon does, in its sandbox: probes, checkers, and what `run-as` is given.

use super::proof;
use crate::status::Page;

/// The hidden applet: `run-confined PID TASK DAEMON COMMAND...` confines itself as this daemon of the init with that pid
/// is confined, and becomes the command.
pub const RUN_CONFINED: &str = "run-confined";

/// What the command is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// To ask the daemon: it may also connect to the daemon's own ports.
    Probe,
    /// Anything else.
    Command,
}

impl Task {
    /// As the applet is told.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Command => "command",
        }
    }
}

/// The command that runs this one in the sandbox of a daemon; itself if that has none.
#[must_use]
pub fn command(page: &Page, daemon: &str, task: Task, command: &[String]) -> Vec<String> {
    match proof::find(page, daemon) {
        Some((found, _)) if found.sandbox.is_none() => command.to_vec(),
        _ => wrapped(page.status.pid, daemon, task, command),
    }
}

/// The command that runs this one in the sandbox of a daemon, which has one.
#[must_use]
pub fn wrapped(init: i32, daemon: &str, task: Task, command: &[String]) -> Vec<String> {
    let head = ["/proc/self/exe", RUN_CONFINED, &init.to_string(), task.word(), daemon].map(str::to_owned);
    head.into_iter().chain(command.iter().cloned()).collect()
}
