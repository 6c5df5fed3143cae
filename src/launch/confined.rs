//! The hidden applet that runs a command in a daemon's sandbox: [`crate::change::confined::RUN_CONFINED`].

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use super::sandbox::{self, NotConfined};
use crate::change::confined::{Task, wrapped};
use crate::status::Page;

/// The command that runs this one in the sandbox of a daemon that need not be selected; itself if that has none.
///
/// # Errors
/// What its sandbox is can't be read.
pub fn command_of_any(page: &Page, daemon: &str, command: &[String]) -> Result<Vec<String>, NotConfined> {
    let is_confined = sandbox::of_init(page.status.pid)?.is_some_and(|all| all.has(daemon));
    Ok(if is_confined { wrapped(page.status.pid, daemon, Task::Command, command) } else { command.to_vec() })
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
