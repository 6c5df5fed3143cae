//! Commands that run as a daemon does, in its sandbox: probes, checkers, and what `run-as` is given.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use super::sandbox::{self, NotConfined};
use crate::change::proof;
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
    fn word(self) -> &'static str {
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

/// The same for a daemon of which the page need not tell, since it isn't selected.
///
/// # Errors
/// What its sandbox is can't be read.
pub fn command_of_any(page: &Page, daemon: &str, command: &[String]) -> Result<Vec<String>, NotConfined> {
    let is_confined = sandbox::of_init(page.status.pid)?.is_some_and(|all| all.has(daemon));
    Ok(if is_confined { wrapped(page.status.pid, daemon, Task::Command, command) } else { command.to_vec() })
}

fn wrapped(init: i32, daemon: &str, task: Task, command: &[String]) -> Vec<String> {
    let head = ["/proc/self/exe", RUN_CONFINED, &init.to_string(), task.word(), daemon].map(str::to_owned);
    head.into_iter().chain(command.iter().cloned()).collect()
}

/// Runs the applet. It says on stderr why it can't.
#[must_use]
pub fn run_confined(args: &[String]) -> ExitCode {
    let [init, task, daemon, program, arguments @ ..] = args else { return ExitCode::from(126) };
    if let Err(why) = confine(init, task, daemon) {
        eprintln!("sidecar: {why}");
        return ExitCode::from(126);
    }
    let e = Command::new(program).args(arguments).exec();
    eprintln!("sidecar: cannot execute {program:?}: {e}");
    ExitCode::from(if e.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 })
}

fn confine(init: &str, task: &str, daemon: &str) -> Result<(), NotConfined> {
    let no_init = || NotConfined::Plan(format!("{init:?} is no init"));
    let all = sandbox::of_init(init.parse().map_err(|_| no_init())?)?.ok_or_else(no_init)?;
    all.confine(daemon, task == Task::Probe.word())
}
