//! Commands that run in a process set up like a daemon's: probes, checkers, and the commands of `run-as`.

use super::proof;
use crate::status::Page;

/// The hidden applet: `set-up-and-run PID TASK DAEMON COMMAND...` sets itself up like this daemon of the init with that pid, and
/// becomes the command.
pub const SET_UP_AND_RUN: &str = "set-up-and-run";

/// What the command is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// It probes the daemon, so it may also connect to the daemon's own ports.
    Probe,
    /// Anything else.
    Command,
}

impl Task {
    /// The word for it in the applet's arguments.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Command => "command",
        }
    }
}

/// The command line that runs `command` as that daemon runs. It is `command` itself if the daemon needs no set-up.
#[must_use]
pub fn command(page: &Page, daemon: &str, task: Task, command: &[String]) -> Vec<String> {
    match proof::find(page, daemon) {
        Some((_, plan)) if !plan.is_set_up => command.to_vec(),
        _ => wrapped(page.status.pid, daemon, task, command),
    }
}

/// The command line that runs `command` as a daemon with a set-up runs.
#[must_use]
pub fn wrapped(init: i32, daemon: &str, task: Task, command: &[String]) -> Vec<String> {
    let head = ["/proc/self/exe", SET_UP_AND_RUN, &init.to_string(), task.word(), daemon].map(str::to_owned);
    head.into_iter().chain(command.iter().cloned()).collect()
}
