//! Runs the engine's CLI with a time limit, and bounds what it may print. Other modules judge its output.
//!
//! Each call has a process group of its own, so that a wrapper script's children are killed with it, and so that a
//! Ctrl-C in the terminal reaches this program alone. A call ends when its process ends: a wrapper may leave a child
//! behind that keeps the pipes open.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::stop::{self, Gate, Word};

/// The variable that names another CLI.
pub const VARIABLE: &str = "SIDECAR_DOCKER";
/// How often a wait checks whether a process has ended, somebody has pressed Ctrl-C, or the gate has changed.
pub const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The shortest wait between two such looks.
const MIN_PAUSE: Duration = Duration::from_millis(1);
/// The limit of open files to ask for. It is enough, and macOS allows a process this many but won't accept "unlimited".
const MAX_FILES: u64 = 10_240;
/// How long a session may take to exit after it was hung up on.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// The result of a call.
#[derive(Debug)]
pub struct Output {
    /// Whether it exited 0.
    pub success: bool,
    /// Its stdout, up to the bound.
    pub stdout: Vec<u8>,
    /// Its stderr, up to the bound.
    pub stderr: Vec<u8>,
}

/// Why a call has no result.
#[derive(Debug)]
pub enum CallError {
    /// It could not be executed.
    Spawn(io::Error),
    /// It took too long and was killed.
    TimedOut,
    /// It was killed because somebody pressed Ctrl-C.
    Left,
}

/// The program that the environment names.
#[must_use]
pub fn from_env() -> OsString {
    let named = std::env::var_os(VARIABLE).filter(|name| !name.is_empty());
    named.unwrap_or_else(|| "docker".into())
}

/// Raises the limit of open files as far as the system allows, up to a bound: each bundle under way takes three. If that fails, the
/// limit stays as it is.
pub fn raise_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(MAX_FILES)), hard);
    }
}

/// Runs the program to its end, or kills it once `timeout` has passed or somebody has pressed Ctrl-C `patience` times.
///
/// # Errors
/// See [`CallError`].
pub fn call(
    program: &OsStr,
    arguments: &[String],
    max_bytes: usize,
    timeout: Duration,
    patience: usize,
) -> Result<Output, CallError> {
    let deadline = Instant::now() + timeout;
    let mut call = Session::start(program, arguments, Stdio::null(), max_bytes).map_err(CallError::Spawn)?;
    while !call.is_over {
        if stop::count() >= patience {
            return Err(CallError::Left);
        }
        if left(deadline).is_zero() {
            return Err(CallError::TimedOut);
        }
        call.turn(left(deadline));
    }
    let success = call.status.is_some_and(|status| status.success());
    Ok(Output {
        success,
        stdout: std::mem::take(&mut call.stdout.bytes),
        stderr: std::mem::take(&mut call.stderr.bytes),
    })
}

/// Why there is no line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoLine {
    /// The output has ended, perhaps in the middle of a line, or exceeded its bound.
    Ended,
    /// The time is up.
    TimedOut,
    /// The gate says to go back.
    Stopped,
    /// A person pressed Ctrl-C twice.
    Left,
}

/// A call with which the host talks, line by line.
#[derive(Debug)]
pub struct Session {
    child: Child,
    /// How it exited; `None` while it runs.
    status: Option<ExitStatus>,
    /// Whether it has ended and all of its output was read.
    is_over: bool,
    /// How long to wait before the next look at it. Short at first, since most calls end soon after their last output.
    pause: Duration,
    stdin: Option<ChildStdin>,
    /// What is still to be written to its stdin.
    to_say: Vec<u8>,
    stdout: Stream<ChildStdout>,
    stderr: Stream<ChildStderr>,
}

impl Session {
    /// Starts a call. The host can talk to it if `stdin` is a pipe.
    ///
    /// # Errors
    /// It could not be executed.
    pub fn start(program: &OsStr, arguments: &[String], stdin: Stdio, max_bytes: usize) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn()?;
        let stdin = child.stdin.take();
        if let Some(stdin) = &stdin {
            // Only our end, so that a child that reads nothing can't block us.
            let _ = fcntl(stdin, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        }
        let stdout = Stream { pipe: child.stdout.take(), bytes: Vec::new(), max_bytes };
        let stderr = Stream { pipe: child.stderr.take(), bytes: Vec::new(), max_bytes };
        Ok(Self { child, status: None, is_over: false, pause: MIN_PAUSE, stdin, to_say: Vec::new(), stdout, stderr })
    }

    /// Queues bytes, which the next turns write. If nobody reads them any more, the next `hear` shows that.
    pub fn say(&mut self, bytes: &[u8]) {
        self.to_say.extend_from_slice(bytes);
    }

    /// Waits for the next line, and returns it without its newline. `stopped`: the helper was told to go back already, so the gate
    /// doesn't matter.
    ///
    /// # Errors
    /// See [`NoLine`].
    pub fn hear(&mut self, deadline: Instant, gate: &Gate, stopped: bool) -> Result<Vec<u8>, NoLine> {
        loop {
            if let Some(line) = self.stdout.take_line() {
                return Ok(line);
            }
            if self.is_over || self.stdout.pipe.is_none() {
                return Err(NoLine::Ended);
            }
            if stop::count() > 1 {
                return Err(NoLine::Left);
            }
            if !stopped && gate.says(Word::Back) {
                return Err(NoLine::Stopped);
            }
            if left(deadline).is_zero() {
                return Err(NoLine::TimedOut);
            }
            self.turn(left(deadline));
        }
    }

    /// Hangs up, waits a moment for it to exit, and returns its stderr.
    pub fn end(&mut self) -> &[u8] {
        let deadline = Instant::now() + EXIT_TIMEOUT;
        while !self.is_over && !left(deadline).is_zero() {
            if self.to_say.is_empty() {
                drop(self.stdin.take());
            }
            self.turn(left(deadline));
        }
        self.kill();
        &self.stderr.bytes
    }

    /// How it exited, if it has.
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        self.status
    }

    /// Waits for at most [`POLL_INTERVAL`], then reads and writes what it can.
    fn turn(&mut self, timeout: Duration) {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        // Everything that it printed before it ended is in the pipes by now.
        let timeout = if self.status.is_some() { Duration::ZERO } else { timeout.min(self.pause) };
        let said =
            self.stdin.as_ref().filter(|_| !self.to_say.is_empty()).map(|stdin| (stdin.as_fd(), PollFlags::POLLOUT));
        let pipes = [said, self.stdout.poll_for(), self.stderr.poll_for()];
        let [may_say, may_hear, complains] = ready(pipes, timeout);
        if may_say {
            self.write();
        }
        if may_hear {
            self.stdout.read();
        }
        if complains {
            self.stderr.read();
        }
        let is_quiet = !may_hear && !complains;
        self.is_over = self.status.is_some() && is_quiet;
        self.pause = if is_quiet { (self.pause * 2).min(POLL_INTERVAL) } else { MIN_PAUSE };
    }

    fn write(&mut self) {
        match self.stdin.as_mut().map(|stdin| stdin.write(&self.to_say)) {
            Some(Ok(written)) => drop(self.to_say.drain(..written)),
            Some(Err(e)) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            // Nobody reads it any more.
            Some(Err(_)) | None => {
                self.stdin = None;
                self.to_say.clear();
            }
        }
    }

    fn kill(&mut self) {
        let Ok(group) = i32::try_from(self.child.id()) else { return };
        if self.status.is_none() {
            // It isn't reaped yet, so the pid is still its own.
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        // Don't wait forever: a process of another user can't be killed.
        let deadline = Instant::now() + EXIT_TIMEOUT;
        while self.status.is_none() && !left(deadline).is_zero() {
            self.turn(left(deadline));
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A session is left to end by itself, so that it leaves nothing half done; a plain call is killed.
        if self.stdin.is_some() {
            self.end();
        }
        self.kill();
    }
}

/// What comes through one pipe of a call.
#[derive(Debug)]
struct Stream<R> {
    /// `None` once it has ended or has exceeded its bound.
    pipe: Option<R>,
    bytes: Vec<u8>,
    /// How many more bytes it may carry.
    max_bytes: usize,
}

impl<R: Read + AsFd> Stream<R> {
    fn poll_for(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        self.pipe.as_ref().map(|pipe| (pipe.as_fd(), PollFlags::POLLIN))
    }

    fn read(&mut self) {
        let mut buffer = [0; 16384];
        let most = buffer.len().min(self.max_bytes);
        let read = self.pipe.as_mut().zip(buffer.get_mut(..most)).map(|(pipe, buffer)| pipe.read(buffer));
        match read {
            Some(Err(e)) if e.kind() == ErrorKind::Interrupted => return,
            Some(Ok(n)) if n > 0 => {
                self.bytes.extend(buffer.iter().take(n));
                self.max_bytes = self.max_bytes.saturating_sub(n);
            }
            _ => self.max_bytes = 0,
        }
        if self.max_bytes == 0 {
            self.pipe = None;
        }
    }

    fn take_line(&mut self) -> Option<Vec<u8>> {
        let end = self.bytes.iter().position(|b| *b == b'\n')?;
        let mut line: Vec<u8> = self.bytes.drain(..=end).collect();
        line.pop();
        Some(line)
    }
}

/// Which of these pipes can be written or read without blocking, or have ended. Waits for one of them for at most `timeout`.
fn ready<const N: usize>(pipes: [Option<(BorrowedFd<'_>, PollFlags)>; N], timeout: Duration) -> [bool; N] {
    let mut fds: Vec<PollFd<'_>> = pipes.iter().flatten().map(|(fd, flags)| PollFd::new(*fd, *flags)).collect();
    // Rounded up, so that a wait of less than a millisecond doesn't spin.
    let timeout = u16::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
    let polled = poll(&mut fds, PollTimeout::from(timeout));
    let mut events = fds.iter().map(|fd| polled.is_ok() && fd.revents().is_some_and(|events| !events.is_empty()));
    pipes.map(|pipe| pipe.is_some() && events.next() == Some(true))
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(program: &OsStr, arguments: &[String], max_bytes: usize) -> io::Result<Session> {
        Session::start(program, arguments, Stdio::piped(), max_bytes)
    }

    fn sh(script: &str) -> Vec<String> {
        ["-c", script].map(str::to_owned).to_vec()
    }

    #[test]
    fn a_call_is_bounded_in_bytes_and_told_by_its_exit() {
        let output =
            call("sh".as_ref(), &sh("echo out; echo err >&2; exit 3"), 1024, Duration::from_secs(20), 2).unwrap();
        assert_eq!((output.success, &*output.stdout, &*output.stderr), (false, &b"out\n"[..], &b"err\n"[..]));
        let output = call("sh".as_ref(), &sh("yes"), 1024, Duration::from_secs(20), 2).unwrap();
        assert_eq!(output.stdout.len(), 1024);
        assert!(!output.success, "the pipe broke");
    }

    #[test]
    fn a_call_that_hangs_is_killed_with_its_children() {
        let before = Instant::now();
        let script = "echo $$ >&2; sleep 60 & wait";
        let error = call("sh".as_ref(), &sh(script), 1024, Duration::from_millis(100), 2).unwrap_err();
        assert!(matches!(error, CallError::TimedOut));
        assert!(before.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_call_ends_with_its_process_though_a_child_holds_its_pipes() {
        let script = "echo out; echo err >&2; sleep 60 & echo $! >&2; exit 3";
        let output = call("sh".as_ref(), &sh(script), 1024, Duration::from_secs(30), 2).unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let pid = stderr.lines().last().unwrap().parse().unwrap();
        nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        assert_eq!((output.success, &*output.stdout, stderr.lines().next()), (false, &b"out\n"[..], Some("err")));
    }

    #[test]
    fn a_session_ends_with_its_process_though_a_child_holds_its_pipes() {
        let mut session = talk("sh".as_ref(), &sh("sleep 60 & echo $!"), 1024).unwrap();
        let (gate, soon) = (Gate::new(Word::Hold), Instant::now() + Duration::from_secs(30));
        let pid = String::from_utf8(session.hear(soon, &gate, false).unwrap()).unwrap();
        let ended = session.hear(soon, &gate, false);
        nix::sys::signal::kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL).unwrap();
        assert_eq!(ended, Err(NoLine::Ended));
    }

    #[test]
    fn one_that_can_not_be_killed_is_not_waited_for_for_ever() {
        let before = Instant::now();
        // It leaves its group for this test's own, which is not killed; its pipes are closed.
        let script = "exec perl -e 'setpgrp(0, getpgrp(getppid())); sleep 60' > /dev/null 2>&1";
        let mut session = talk("sh".as_ref(), &sh(script), 1024).unwrap();
        let pid = Pid::from_raw(session.child.id().cast_signed());
        let soon = Instant::now() + Duration::from_secs(20);
        // Its end of the pipe is closed once perl is executed.
        assert_eq!(session.hear(soon, &Gate::new(Word::Hold), false), Err(NoLine::Ended));
        while nix::unistd::getpgid(Some(pid)) != nix::unistd::getpgid(None) {}
        session.end();
        assert!(before.elapsed() < Duration::from_secs(30), "{:?}", before.elapsed());
        nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
        drop(session);
    }

    #[test]
    fn a_session_hears_whole_lines_alone_and_ends_when_hung_up_on() {
        let script = "read a; echo \"heard $a\"; printf half; read b";
        let mut session = talk("sh".as_ref(), &sh(script), 1024).unwrap();
        session.say(b"hello\n");
        let gate = Gate::new(Word::Hold);
        let soon = Instant::now() + Duration::from_secs(20);
        assert_eq!(session.hear(soon, &gate, false), Ok(b"heard hello".to_vec()));
        assert_eq!(session.hear(Instant::now(), &gate, false), Err(NoLine::TimedOut));
        session.end();
    }

    #[test]
    fn endless_output_without_a_line_is_an_end() {
        let mut session = talk("sh".as_ref(), &sh("cat /dev/zero"), 1024).unwrap();
        assert_eq!(
            session.hear(Instant::now() + Duration::from_secs(20), &Gate::new(Word::Hold), false),
            Err(NoLine::Ended)
        );
        session.end();
    }
}
