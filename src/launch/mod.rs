//! Starts a daemon's process. A start never blocks its caller: it forks, and the result of the exec comes through a pipe that the
//! exec closes (`O_CLOEXEC`).

mod child;
mod lookup;
mod probe;
mod report;
pub mod sandbox;
pub mod setup;
mod sockets;

use std::cell::Cell;
use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc;
use nix::sys::resource::Resource;
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{ForkResult, fork, pipe2};

use crate::change::store;
use crate::status::OUTPUT_MODE;
use crate::table::process::{DAEMON, GENERATION, is_set_by_init};
pub use lookup::look_up;
pub use probe::{PROBE, probe};
pub use report::{MAX_REPORT, Report};
use setup::{NotSetUp, Setups};
pub use sockets::{NotHeld, Sockets};

/// The hidden applet that [`Program::start`] has a child execute if a change of the daemon's file was interrupted.
pub const RECOVER: &str = "recover-and-start";

/// The last signal of Linux, on every machine that this runs on.
pub const LAST_SIGNAL: i32 = 64;

/// Sets every signal to its default, as a daemon is started with them: execve(2) would keep those that are ignored.
pub fn default_dispositions() {
    (1..=LAST_SIGNAL).for_each(|number| set_disposition(number, libc::SIG_DFL));
}

/// To `SIG_DFL` or `SIG_IGN`. (It fails for KILL and STOP alone.)
pub fn set_disposition(number: i32, to: libc::sighandler_t) {
    let action = [to as u64, 0, 0, 0];
    // SAFETY: rt_sigaction(2) reads what the kernel calls a sigaction, 32 bytes that begin with the handler; no flags.
    // The call of libc's leaves out two signals that it keeps for itself.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, number, action.as_ptr(), 0usize, 8usize) };
}

/// The variable that names the `sd_notify`(3) socket.
const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// Everything that execve(2) needs, made before the fork: nothing may allocate between fork and exec.
pub struct Program {
    paths: Vec<CString>,
    argv: Vec<CString>,
    envp: Environment,
    ignore: Vec<i32>,
    recovery: Option<Recovery>,
    /// What the child executes in place of the program: [`setup::SET_UP_AND_START`].
    setup: Option<Vec<CString>>,
}

/// How a child finds out that a change of its daemon's file was interrupted, and what it executes then.
struct Recovery {
    /// The record of the last change.
    record: CString,
    /// What an interrupted change leaves beside the file.
    leftovers: Vec<CString>,
    argv: Vec<CString>,
}

/// What each child inherits from the process that starts it.
#[derive(Clone, Copy)]
pub struct Parent<'a> {
    /// /dev/null, its stdin.
    pub null: BorrowedFd<'a>,
    /// The limits to restore in it.
    pub limits: &'a [Limit],
    /// How the table's daemons are set up.
    pub setups: Option<BorrowedFd<'a>>,
    /// The sockets that the parent holds for it.
    pub sockets: Option<&'a Sockets>,
    /// The daemon that is started, and its generation; `None`: a probe.
    pub start: Option<(&'a str, u64)>,
}

/// A limit, and the values to restore.
pub type Limit = (Resource, libc::rlimit);

/// An environment, which many daemons share.
#[derive(Clone)]
pub struct Environment(Rc<[CString]>);

impl Environment {
    /// An environment with these variables.
    #[must_use]
    pub fn new(pairs: impl Iterator<Item = (OsString, OsString)>) -> Self {
        let pair = |(k, v): (OsString, OsString)| [k.into_vec(), b"=".to_vec(), v.into_vec()].concat();
        Self(pairs.map(pair).filter_map(|pair| CString::new(pair).ok()).collect())
    }

    /// The environment that the init with this pid was started with (proc(5)), without the variables that init itself sets for daemons.
    ///
    /// # Errors
    /// The kernel doesn't let this user look.
    pub fn of_init(pid: i32) -> io::Result<impl Iterator<Item = (OsString, OsString)>> {
        let pair = |pair: &[u8]| {
            // A variable's name may begin with an equals sign.
            let at = pair.iter().skip(1).position(|byte| *byte == b'=')? + 1;
            let (key, value) = pair.split_at_checked(at)?;
            let key = OsStr::from_bytes(key).to_owned();
            let value = OsString::from_vec(value.get(1..)?.to_vec());
            (!is_set_by_init(&key)).then_some((key, value))
        };
        let pairs: Vec<_> =
            std::fs::read(format!("/proc/{pid}/environ"))?.split(|byte| *byte == 0).filter_map(pair).collect();
        Ok(pairs.into_iter())
    }

    /// The environment of a bundle's daemons: init's own, with init's `sd_notify`(3) socket, and without the `sd_listen_fds`(3) variables
    /// that init itself may have been given.
    #[must_use]
    pub fn of_daemons(inits: impl Iterator<Item = (OsString, OsString)>, socket: Option<&str>) -> Self {
        let socket = socket.map(|name| (NOTIFY_SOCKET.into(), name.into()));
        Self::new(inits.filter(|(key, _)| !is_set_by_init(key)).chain(socket))
    }
}

/// A process that was forked, and the ends of its pipes.
pub struct Started {
    /// The process; it leads a session and a process group of its own.
    pub pid: i32,
    /// Its stdout.
    pub stdout: OwnedFd,
    /// Its stderr; `None` if that goes to the same pipe as its stdout.
    pub stderr: Option<OwnedFd>,
    /// Closes once it has executed its program or ended; before that it may carry a [`Report`].
    pub report: OwnedFd,
}

/// Where the process's stdout and stderr go.
#[derive(Clone, Copy)]
pub enum Streams {
    /// Each to a pipe of its own.
    Two,
    /// Both to the same pipe.
    One,
}

/// Why a daemon's program wasn't started.
#[derive(Debug, PartialEq, Eq)]
pub enum NotStarted {
    /// A step before execve(2) failed.
    Before(&'static str, Errno),
    /// Its process couldn't be set up, or couldn't execute the program after that.
    Refused(Refused),
    /// execve(2) failed for this program.
    Execute(String, Errno),
    /// The program exists, but its interpreter doesn't: that of a script's `#!` line, or an ELF file's loader.
    NoInterpreter {
        /// The program.
        program: String,
        /// The missing interpreter.
        interpreter: String,
    },
}

impl NotStarted {
    /// The exit code that it counts as, the same as in a shell.
    #[must_use]
    pub fn code(&self) -> i32 {
        match self {
            Self::Refused(why) => why.code().into(),
            Self::Execute(_, Errno::ENOENT) | Self::NoInterpreter { .. } => 127,
            Self::Before(..) | Self::Execute(..) => 126,
        }
    }
}

impl fmt::Display for NotStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Before(step, e) => write!(f, "cannot {step}: {}", io::Error::from(*e)),
            Self::Refused(Refused { why, .. }) => f.write_str(why),
            Self::Execute(program, e) => write!(f, "cannot execute {program:?}: {}", io::Error::from(*e)),
            Self::NoInterpreter { program, interpreter } => {
                write!(f, "cannot execute {program:?}: its interpreter {interpreter:?} is missing")?;
                if interpreter.ends_with('\r') {
                    f.write_str(" (the file has Windows line endings)")?;
                }
                Ok(())
            }
        }
    }
}

/// Why an applet couldn't become the daemon or the command.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// The program isn't there.
    pub is_not_found: bool,
    /// Why.
    pub why: String,
}

impl Refused {
    /// The exit code that it counts as, the same as in a shell.
    #[must_use]
    pub fn code(&self) -> u8 {
        if self.is_not_found { 127 } else { 126 }
    }

    fn report(&self, pipe: BorrowedFd<'_>) -> ExitCode {
        let _ = nix::unistd::write(pipe, &report::refused(self));
        ExitCode::from(self.code())
    }
}

impl From<NotSetUp> for Refused {
    fn from(why: NotSetUp) -> Self {
        Self { is_not_found: false, why: why.to_string() }
    }
}

fn no_pipe(e: Errno) -> NotStarted {
    NotStarted::Before("make a pipe", e)
}

/// A pipe that init reads without waiting; each end is a description of its own, so the daemon's stays blocking.
fn pipe(is_output: bool) -> Result<(OwnedFd, OwnedFd), NotStarted> {
    let (from, to) = pipe2(OFlag::O_CLOEXEC).map_err(no_pipe)?;
    fcntl(&from, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(no_pipe)?;
    if is_output {
        // So that a daemon that drops root can still open /dev/stdout and /dev/stderr. If this fails, it can't.
        let _ = fchmod(&to, Mode::from_bits_truncate(OUTPUT_MODE));
    }
    Ok((from, to))
}

fn c_strings<'a>(all: impl IntoIterator<Item = &'a [u8]>) -> Vec<CString> {
    all.into_iter().filter_map(|bytes| CString::new(bytes).ok()).collect()
}

/// An array as execve(2) takes it: pointers, and a null pointer at the end.
fn pointers(list: &[CString]) -> Vec<*const libc::c_char> {
    list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
}

/// The signals as an argument.
fn ignored(ignore: &[i32]) -> String {
    ignore.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}

impl Recovery {
    fn new(config: &Path, command: &[String], ignore: &[i32]) -> Self {
        let ignore = ignored(ignore);
        let head = [b"sidecar", RECOVER.as_bytes(), config.as_os_str().as_bytes(), ignore.as_bytes()];
        let argv = c_strings(head.into_iter().chain(command.iter().map(String::as_bytes)));
        let (record, leftovers) = store::names_beside(config);
        let c = |path: &Path| CString::new(path.as_os_str().as_bytes()).unwrap_or_default();
        Self { record: c(&record), leftovers: leftovers.iter().map(|path| c(path)).collect(), argv }
    }
}

impl Program {
    /// Looks the program up in PATH if its name has no slash. `env` is the daemon's whole environment, `config` the file
    /// whose interrupted change is recovered before each start.
    #[must_use]
    pub fn new(command: &[String], env: &Environment, ignore: Vec<i32>, config: Option<&Path>) -> Self {
        let name = command.first().map_or("", String::as_str);
        let path = env.0.iter().find_map(|pair| pair.to_bytes().strip_prefix(b"PATH="));
        let dirs = OsStr::from_bytes(path.unwrap_or(b"/usr/local/bin:/usr/bin:/bin"));
        let paths: Vec<Vec<u8>> = if name.contains('/') {
            vec![name.as_bytes().to_vec()]
        } else {
            std::env::split_paths(dirs).map(|dir| dir.join(name).into_os_string().into_vec()).collect()
        };
        let recovery = config.map(|config| Recovery::new(config, command, &ignore));
        let (paths, argv) = (paths.iter().map(Vec::as_slice), command.iter().map(String::as_bytes));
        Self { paths: c_strings(paths), argv: c_strings(argv), envp: env.clone(), ignore, recovery, setup: None }
    }

    /// The same, set up as the daemon of this name is; the rest are the arguments of [`Program::new`].
    #[must_use]
    pub fn set_up(mut self, name: &str, command: &[String], config: Option<&Path>) -> Self {
        let ignore = ignored(&self.ignore);
        let config = config.map_or(&[][..], |config| config.as_os_str().as_bytes());
        let head = [b"sidecar", setup::SET_UP_AND_START.as_bytes(), name.as_bytes(), config, ignore.as_bytes()];
        self.setup = Some(c_strings(head.into_iter().chain(command.iter().map(String::as_bytes))));
        self
    }

    /// The environment that the program gets.
    #[must_use]
    pub fn environment(&self) -> &Environment {
        &self.envp
    }

    /// Forks the process and returns at once. Every signal must be blocked, so that none is served twice.
    ///
    /// # Errors
    /// The step that failed, and why; there is no process then.
    pub fn start(&self, parent: Parent<'_>, streams: Streams) -> Result<Started, NotStarted> {
        let (stdout, out) = pipe(true)?;
        let (stderr, err) = match streams {
            Streams::Two => pipe(true).map(|(stderr, err)| (Some(stderr), Some(err)))?,
            Streams::One => (None, None),
        };
        let (report, told) = pipe(false)?;
        let stdio = [parent.null.as_raw_fd(), out.as_raw_fd(), err.as_ref().unwrap_or(&out).as_raw_fd()];
        let pid = self.fork(stdio, &told, Some(parent))?;
        Ok(Started { pid, stdout, stderr, report })
    }

    /// The same, on the caller's own stdin, stdout and stderr. Returns the process and the pipe for its report.
    ///
    /// # Errors
    /// The step that failed, and why; there is no process then.
    pub fn start_here(&self) -> Result<(i32, OwnedFd), NotStarted> {
        let (report, told) = pipe2(OFlag::O_CLOEXEC).map_err(no_pipe)?;
        self.fork([0, 1, 2], &told, None).map(|pid| (pid, report))
    }

    fn fork(&self, stdio: [RawFd; 3], told: &OwnedFd, parent: Option<Parent<'_>>) -> Result<i32, NotStarted> {
        let setups = parent.and_then(|parent| parent.setups);
        let sockets = parent.and_then(|parent| parent.sockets).map(Sockets::for_child).unwrap_or_default();
        let start = parent.and_then(|parent| parent.start);
        let start = start.map(|(name, number)| [format!("{DAEMON}={name}"), format!("{GENERATION}={number}")]);
        let start: Vec<CString> = start.into_iter().flatten().filter_map(|text| CString::new(text).ok()).collect();
        let child = child::Child {
            paths: pointers(&self.paths),
            argv: pointers(&self.argv),
            // If a variable occurs twice, most programs take the first one.
            envp: sockets
                .variables()
                .chain(start.iter().map(|text| text.as_ptr()))
                .chain(pointers(&self.envp.0))
                .collect(),
            ignore: &self.ignore,
            limits: parent.map_or(&[], |parent| parent.limits),
            stdio,
            report: Cell::new(told.as_raw_fd()),
            sockets,
            recovery: self.recovery.as_ref().map(|recovery| child::Recovery {
                record: recovery.record.as_ptr(),
                leftovers: pointers(&recovery.leftovers),
                argv: pointers(&recovery.argv),
            }),
            setup: self
                .setup
                .as_ref()
                .zip(setups)
                .map(|(argv, setups)| child::Setup { argv: pointers(argv), setups: setups.as_raw_fd() }),
        };
        if self.setup.is_some() && child.setup.is_none() {
            let why = "it isn't known how its process is set up".to_owned();
            return Err(NotStarted::Refused(Refused { is_not_found: false, why }));
        }
        // SAFETY: the caller has one thread; the child makes async-signal-safe calls only, on memory made before.
        match unsafe { fork() }.map_err(|e| NotStarted::Before("fork", e))? {
            ForkResult::Parent { child } => Ok(child.as_raw()),
            // SAFETY: this is the child, and all pointers are to strings and arrays that live until its exec.
            ForkResult::Child => unsafe { child::run(&child) },
        }
    }

    /// Executes the program in the place of this process, which has one thread; `last` comes right before. Returns only if
    /// it can't.
    fn replace_this(&self, last: impl FnOnce() -> Result<(), NotSetUp>) -> Refused {
        let child = child::Child {
            paths: pointers(&self.paths),
            argv: pointers(&self.argv),
            envp: pointers(&self.envp.0),
            ignore: &self.ignore,
            limits: &[],
            stdio: [0, 1, 2],
            report: Cell::new(-1),
            sockets: child::Sockets::default(),
            recovery: None,
            setup: None,
        };
        if let Err(why) = last() {
            return Refused::from(why);
        }
        // SAFETY: only this thread runs; all pointers are to strings and arrays that outlive the call.
        let child::Failure { errno, path, head, size } = unsafe { child::execute(&child) };
        let (report, size) = report::failed(report::Step::Execute, errno, path, head.get(..size).unwrap_or_default());
        let why = self.read_report(report.get(..size).unwrap_or_default()).failed;
        why.map_or_else(Refused::default, |why| Refused { is_not_found: why.code() == 127, why: why.to_string() })
    }

    /// Reads a child's report.
    #[must_use]
    pub fn read_report(&self, report: &[u8]) -> Report {
        report::read(report, &self.paths, &self.argv)
    }
}

/// The hidden applet: recovers the interrupted change of a daemon's file, reports the result to init, and becomes the
/// daemon. `args` is what [`Program::start`] has written: the file, the ignored signals, the command.
#[must_use]
pub fn recover_and_start(args: &[String]) -> ExitCode {
    let [config, ignore, command @ ..] = args else { return ExitCode::FAILURE };
    let Some(pipe) = report_pipe() else { return ExitCode::FAILURE };
    recover(pipe, config);
    let program = Program::new(command, &Environment::new(std::env::vars_os()), numbers(ignore), None);
    program.replace_this(|| Ok(())).report(pipe)
}

/// The hidden applet [`setup::SET_UP_AND_START`]: recovers an interrupted change, sets itself up, and becomes the daemon. `args`
/// is what [`Program::set_up`] has written: the daemon's name, its file or nothing, the ignored signals, the command.
#[must_use]
pub fn set_up_and_start(args: &[String]) -> ExitCode {
    let [name, config, ignore, command @ ..] = args else { return ExitCode::FAILURE };
    let Some(pipe) = report_pipe() else { return ExitCode::FAILURE };
    if !config.is_empty() {
        recover(pipe, config);
    }
    // SAFETY: the child that executed this has put it there, and nobody else in this process knows of it.
    let setups = unsafe { OwnedFd::from_raw_fd(report_fd() + 1) };
    let ready = Setups::read(&setups).and_then(|all| all.set_up(name, false, std::env::vars_os()));
    drop(setups);
    match ready {
        Ok(ready) => ready.execute(command, numbers(ignore)).report(pipe),
        Err(why) => Refused::from(why).report(pipe),
    }
}

/// The descriptor of the pipe to init: the first one behind the daemon's sockets.
fn report_fd() -> RawFd {
    child::FIRST_FD + sockets::passed()
}

/// The pipe to init; `None` if it wasn't init that called.
fn report_pipe() -> Option<BorrowedFd<'static>> {
    // SAFETY: the child that executed this has put the pipe there, and it stays open until the exec.
    let pipe = unsafe { BorrowedFd::borrow_raw(report_fd()) };
    fcntl(pipe, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok().map(|_| pipe)
}

fn recover(pipe: BorrowedFd<'_>, config: &str) {
    if let Some(outcome) = store::recover_before_start(Path::new(config)) {
        let _ = nix::unistd::write(pipe, &report::recovered(&outcome));
    }
}

/// The signals that [`ignored`] has written.
fn numbers(ignore: &str) -> Vec<i32> {
    ignore.split(',').filter_map(|number| number.parse().ok()).collect()
}
