//! `run-as`: runs a command as a daemon's process is run.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use argh::{ArgsInfo, FromArgs};
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::SigSet;
use sidecar::launch::setup::run;
use sidecar::launch::{Environment, MAX_REPORT, NotStarted, Program, default_dispositions};
use sidecar::page;

use crate::args::{self, Early};
use crate::out;

/// What `--help` adds to argh's text.
pub const CODES: &str = "
The command gets the daemon's user, environment, directory, limits and sandbox,
and a session of its own: the terminal that run-as was called on is not its
controlling terminal. run-as passes HUP, INT, QUIT, TERM, USR1 and USR2 on to
the command's process group.

Exit codes:
  N    the command's own; 128+N if signal N killed it
  2    usage, for example a daemon that is not in the table
  4    PID 1 is not `sidecar init`
  126  the command could not be executed
  127  the command was not found
";

/// The signals that are passed on.
const PASSED_ON: [i32; 6] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2];

/// Run a command as a daemon runs: docker exec BUNDLE /proc/1/exe run-as NAME -- COMMAND.
#[derive(FromArgs, ArgsInfo)]
#[argh(help_triggers("-h", "--help"))]
pub struct Options {
    /// the daemon
    #[argh(positional, arg_name = "NAME")]
    name: String,
    /// the command and its arguments, after `--`
    #[argh(positional, arg_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs the applet. Every signal is blocked.
pub fn run(args: &[String], _inherited: SigSet) -> ExitCode {
    let Options { name, command } = match args::parse("run-as", args) {
        Ok(options) => options,
        Err(Early::Help(text)) => return out::exit(0, out::print(&(text + CODES))),
        Err(Early::Usage(message)) => return out::usage("run-as", &message),
    };
    if command.is_empty() {
        return out::usage("run-as", "no command to run; run-as NAME -- COMMAND");
    }
    let page = match page::read_when_up() {
        Ok(page) => page,
        Err(message) => return failed(4, &message),
    };
    let names = || page.status.selected.iter().chain(&page.status.unselected);
    if !names().any(|known| *known == name) {
        let names: Vec<&str> = names().map(String::as_str).collect();
        return out::usage("run-as", &format!("no daemon {name:?} in the table; it has {}", names.join(", ")));
    }
    let inits = match Environment::of_init(1) {
        Ok(inits) => inits,
        Err(e) => return failed(4, &format!("cannot read the environment of PID 1: {e}")),
    };
    let env = Environment::of_daemons(inits, page.socket.as_deref());
    let command = match run::command_of_any(&page, &name, &command) {
        Ok(command) => command,
        Err(why) => return failed(126, &why.to_string()),
    };
    let program = Program::new(&command, &env, Vec::new(), None);
    default_dispositions();
    match program.start_here() {
        Ok((pid, report)) => wait(pid, report, &program),
        Err(e) => not_started(&e),
    }
}

fn failed(code: u8, message: &str) -> ExitCode {
    out::error(&format!("run-as: {message}"));
    ExitCode::from(code)
}

fn not_started(e: &NotStarted) -> ExitCode {
    failed(u8::try_from(e.code()).unwrap_or(126), &e.to_string())
}

/// Waits until the command ends, and passes on signals until then.
fn wait(pid: i32, report: OwnedFd, program: &Program) -> ExitCode {
    let mut said = Vec::new();
    // The pipe is closed when the child executes the command or ends.
    let _ = File::from(report).take(MAX_REPORT as u64).read_to_end(&mut said);
    if let Some(why) = program.read_report(&said).failed {
        return not_started(&why);
    }
    let mut awaited = SigSet::empty();
    for number in PASSED_ON.into_iter().chain([libc::SIGCHLD]) {
        if let Ok(signal) = nix::sys::signal::Signal::try_from(number) {
            awaited.add(signal);
        }
    }
    loop {
        let mut status = 0;
        // SAFETY: waitpid(2) writes to the status.
        match unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) } {
            0 => {}
            -1 if Errno::last() == Errno::EINTR => {}
            -1 => return failed(126, &format!("cannot wait for pid {pid}: {}", std::io::Error::last_os_error())),
            _ if libc::WIFSIGNALED(status) => return ExitCode::from(code(128 + libc::WTERMSIG(status))),
            _ => return ExitCode::from(code(libc::WEXITSTATUS(status))),
        }
        match awaited.wait() {
            Ok(nix::sys::signal::Signal::SIGCHLD) | Err(_) => {}
            // SAFETY: kill(2) has no memory effects, and the group's leader isn't reaped.
            Ok(signal) => drop(unsafe { libc::kill(-pid, signal as i32) }),
        }
    }
}

fn code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(u8::MAX)
}
