//! Commands that run in a process set up like a daemon's: probes, checkers, and the commands of `run-as`.

use super::proof;
use crate::status::Page;

/// The hidden applet: `set-up-and-run PID TASK DAEMON COMMAND...` sets itself up as this daemon of the init with that pid is
/// set up, and becomes the command.
pub const SET_UP_AND_RUN: &str = "set-up-and-run";

/// What the command is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// To ask the daemon: it may also connect to the daemon's own ports.
    Probe,
    /// Anything else.
    Command,
}

impl Task {
    /// The word for it among the applet's arguments.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Command => "command",
        }
    }
}

/// The command that runs this one as that daemon runs; itself if the daemon isn't set up in any way.
#[must_use]
pub fn command(page: &Page, daemon: &str, task: Task, command: &[String]) -> Vec<String> {
    match proof::find(page, daemon) {
        Some((_, plan)) if !plan.is_set_up => command.to_vec(),
        _ => wrapped(page.status.pid, daemon, task, command),
    }
}

/// The command that runs this one as a daemon runs that is set up.
#[must_use]
pub fn wrapped(init: i32, daemon: &str, task: Task, command: &[String]) -> Vec<String> {
    let head = ["/proc/self/exe", SET_UP_AND_RUN, &init.to_string(), task.word(), daemon].map(str::to_owned);
    head.into_iter().chain(command.iter().cloned()).collect()
}
