//! The hidden applet that runs a command as a daemon runs: [`crate::change::set_up::SET_UP_AND_RUN`].

use std::ffi::OsString;
use std::process::ExitCode;

use nix::sys::prctl::{get_pdeathsig, set_pdeathsig};
use nix::unistd::getppid;

use super::{NotSetUp, Ready, Setups, unreadable};
use crate::change::set_up::{Task, wrapped};
use crate::launch::{Environment, NOTIFY_SOCKET, Refused};
use crate::status::Page;

/// The command that runs this one as that daemon runs, whether or not the daemon is selected. It is the command itself if the
/// daemon has no set-up.
///
/// # Errors
/// How it is set up can't be read.
pub fn command_of_any(page: &Page, daemon: &str, command: &[String]) -> Result<Vec<String>, NotSetUp> {
    let is_set_up = Setups::of_init(page.status.pid)?.is_some_and(|all| all.has(daemon));
    Ok(if is_set_up { wrapped(page.status.pid, daemon, Task::Command, command) } else { command.to_vec() })
}

/// Runs the applet. If that fails, it says on stderr why.
#[must_use]
pub fn set_up_and_run(args: &[String]) -> ExitCode {
    let [init, task, daemon, command @ ..] = args else { return ExitCode::from(126) };
    let refused = set_up(init, task, daemon).map_or_else(Refused::from, |ready| ready.execute(command, Vec::new()));
    eprintln!("sidecar: {}", refused.why);
    ExitCode::from(refused.code())
}

fn set_up(init: &str, task: &str, daemon: &str) -> Result<Ready, NotSetUp> {
    let no_init = || unreadable(&format!("{init:?} isn't an init"));
    let init = init.parse().map_err(|_| no_init())?;
    let all = Setups::of_init(init)?.ok_or_else(no_init)?;
    let inherited =
        Environment::of_init(init).map_err(|e| unreadable(&format!("the environment of pid {init}: {e}")))?;
    let socket = std::env::var_os(NOTIFY_SOCKET).map(|socket| (OsString::from(NOTIFY_SOCKET), socket));
    let (parent, signal) = (getppid(), get_pdeathsig());
    let ready = all.set_up(daemon, task == Task::Probe.word(), inherited.chain(socket))?;
    // The change of user has reset it: prctl(2).
    if let Ok(Some(signal)) = signal
        && (set_pdeathsig(signal).is_err() || getppid() != parent)
    {
        return Err(unreadable(&"its caller has ended"));
    }
    Ok(ready)
}
