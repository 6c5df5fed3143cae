//! The engine's CLI, a thin layer: it is run with time-outs and what it says is bounded. What it means is judged
//! elsewhere.
//!
//! Each call has a process group of its own, so that a wrapper script's children end with it, and so that a Ctrl-C
//! in the terminal reaches this program alone. Readers are threads that nobody joins: a stranger that keeps a pipe
//! open can't hold up a call that has ended.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::stop::{self, Gate, Word};

/// The variable that names another CLI.
pub const VARIABLE: &str = "SIDECAR_DOCKER";
/// How often it is seen whether a person wants to leave, or the gate says otherwise.
pub const A_LOOK: Duration = Duration::from_millis(50);
/// As many open files are enough; macOS allows as many to one process, and no endless number.
const MAX_FILES: u64 = 10_240;
/// How long a call that has said all that it says may take to exit.
const TO_EXIT: Duration = Duration::from_secs(2);

/// What a call came to.
#[derive(Debug)]
pub struct Output {
    /// Whether it exited 0.
    pub success: bool,
    /// What it printed, at most as much as was asked for.
    pub stdout: Vec<u8>,
    /// The same of stderr.
    pub stderr: Vec<u8>,
}

/// Why a call came to nothing.
#[derive(Debug)]
pub enum CallError {
    /// It could not be executed.
    Spawn(io::Error),
    /// It was killed at the end of its time.
    TimedOut,
    /// It was killed, since nobody waits for it any more.
    Left,
}

/// The program that the environment names.
#[must_use]
pub fn from_env() -> OsString {
    let named = std::env::var_os(VARIABLE).filter(|name| !name.is_empty());
    named.unwrap_or_else(|| "docker".into())
}

/// As many open files as the system allows, within reason: a bundle that is under way takes three. Where that can't be had
/// it goes on with what there is.
pub fn raise_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(MAX_FILES)), hard);
    }
}

/// Runs it to its end, or kills it when `timeout` has passed, or when a person has asked `patience` times to stop.
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
    let mut child = spawn(program, arguments, Stdio::null()).map_err(CallError::Spawn)?;
    let stdout = child.take_stdout(max_bytes);
    let stderr = child.take_stderr(max_bytes);
    let all = |stream: Receiver<Vec<u8>>| {
        loop {
            match stream.recv_timeout(left(deadline).min(A_LOOK)) {
                Ok(bytes) => return Ok(bytes),
                Err(_) if stop::count() >= patience => return Err(CallError::Left),
                Err(mpsc::RecvTimeoutError::Timeout) if !left(deadline).is_zero() => {}
                Err(_) => return Err(CallError::TimedOut),
            }
        }
    };
    let (stdout, stderr) = (all(stdout)?, all(stderr)?);
    let status = child.wait(deadline).ok_or(CallError::TimedOut)?;
    Ok(Output { success: status.success(), stdout, stderr })
}

/// Starts one that is talked to.
///
/// # Errors
/// It could not be executed.
pub fn session(program: &OsStr, arguments: &[String], max_bytes: usize) -> io::Result<Session> {
    let mut child = spawn(program, arguments, Stdio::piped())?;
    let stdin = write_all(child.0.stdin.take());
    let lines = child.take_lines(max_bytes);
    let stderr = child.take_stderr(max_bytes);
    Ok(Session { stdin, lines, stderr, child })
}

fn spawn(program: &OsStr, arguments: &[String], stdin: Stdio) -> io::Result<Group> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    command.spawn().map(Group)
}

/// A call that is talked to, line by line.
#[derive(Debug)]
pub struct Session {
    stdin: Option<Sender<Vec<u8>>>,
    lines: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
    child: Group,
}

/// What came instead of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoLine {
    /// The call's output has ended, in the middle of a line or with more than it may say, perhaps.
    Ended,
    /// The time is up.
    TimedOut,
    /// The gate says that it goes back.
    Stopped,
    /// A person leaves: nobody waits any more.
    Left,
}

impl Session {
    /// Says something, and doesn't wait until it is heard. That nobody listens any more shows in what is heard next.
    pub fn say(&mut self, bytes: &[u8]) {
        let _ = self.stdin.as_ref().map(|stdin| stdin.send(bytes.to_vec()));
    }

    /// The next line, without its end. `stopped`: that it goes back is known already.
    ///
    /// # Errors
    /// See [`NoLine`].
    pub fn hear(&self, deadline: Instant, gate: &Gate, stopped: bool) -> Result<Vec<u8>, NoLine> {
        loop {
            match self.lines.recv_timeout(left(deadline).min(A_LOOK)) {
                Ok(line) => return Ok(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(NoLine::Ended),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
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
        }
    }

    /// Hangs up, sees it end, and tells what it complained about.
    pub fn end(&mut self) -> Vec<u8> {
        drop(self.stdin.take());
        let deadline = Instant::now() + TO_EXIT;
        if self.child.wait(deadline).is_none() {
            self.child.kill();
        }
        self.stderr.recv_timeout(left(deadline).min(Duration::from_millis(100))).unwrap_or_default()
    }
}

impl Drop for Session {
    /// A call that is left to end by itself leaves nothing half done; one that doesn't is killed.
    fn drop(&mut self) {
        self.end();
    }
}

/// A child that leads a process group, which dies with it.
#[derive(Debug)]
struct Group(Child);

impl Group {
    fn take_stdout(&mut self, max_bytes: usize) -> Receiver<Vec<u8>> {
        read_all(self.0.stdout.take(), max_bytes)
    }

    fn take_stderr(&mut self, max_bytes: usize) -> Receiver<Vec<u8>> {
        read_all(self.0.stderr.take(), max_bytes)
    }

    fn take_lines(&mut self, max_bytes: usize) -> Receiver<Vec<u8>> {
        let (sender, receiver) = mpsc::channel();
        if let Some(stdout) = self.0.stdout.take() {
            reader(move || {
                let mut stdout = BufReader::new(stdout.take(max_bytes as u64));
                let mut line = Vec::new();
                while stdout.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) && line.pop() == Some(b'\n') {
                    if sender.send(std::mem::take(&mut line)).is_err() {
                        break;
                    }
                }
            });
        }
        receiver
    }

    fn kill(&mut self) {
        if let (Ok(None), Ok(group)) = (self.0.try_wait(), i32::try_from(self.0.id())) {
            // Not reaped yet, so the number is still its own.
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
            // Not for ever: one that runs as another user isn't killed.
            let _ = self.wait(Instant::now() + TO_EXIT);
        }
    }

    fn wait(&mut self, deadline: Instant) -> Option<ExitStatus> {
        let mut pause = Duration::from_micros(200);
        loop {
            if let Ok(Some(status)) = self.0.try_wait() {
                return Some(status);
            }
            let left = left(deadline);
            if left.is_zero() {
                return None;
            }
            thread::sleep(pause.min(left));
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

fn read_all(stream: Option<impl Read + Send + 'static>, max_bytes: usize) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    reader(move || {
        let mut bytes = Vec::new();
        let _ = stream.map(|s| s.take(max_bytes as u64).read_to_end(&mut bytes));
        let _ = sender.send(bytes);
    });
    receiver
}

/// Writes what it is sent, in a thread: a pipe that nobody reads holds nobody up. Its end is the stream's.
fn write_all(stream: Option<ChildStdin>) -> Option<Sender<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel::<Vec<u8>>();
    let mut stream = stream?;
    reader(move || {
        // A reader that has gone away shows in what is heard next.
        while receiver.recv().is_ok_and(|bytes| stream.write_all(&bytes).is_ok()) {}
    });
    Some(sender)
}

/// Where the machine allows no further thread, the channel ends at once, as that of a stream that ended does.
fn reader(read: impl FnOnce() + Send + 'static) {
    let _ = thread::Builder::new().spawn(read);
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn one_that_can_not_be_killed_is_not_waited_for_for_ever() {
        let before = Instant::now();
        // It leaves its group for this test's own, which is not killed; its pipes are closed.
        let script = "exec perl -e 'setpgrp(0, getpgrp(getppid())); sleep 60' > /dev/null 2>&1";
        let mut session = session("sh".as_ref(), &sh(script), 1024).unwrap();
        let pid = Pid::from_raw(session.child.0.id().cast_signed());
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
        let mut session = session("sh".as_ref(), &sh(script), 1024).unwrap();
        session.say(b"hello\n");
        let gate = Gate::new(Word::Hold);
        let soon = Instant::now() + Duration::from_secs(20);
        assert_eq!(session.hear(soon, &gate, false), Ok(b"heard hello".to_vec()));
        assert_eq!(session.hear(Instant::now(), &gate, false), Err(NoLine::TimedOut));
        session.end();
    }

    #[test]
    fn endless_output_without_a_line_is_an_end() {
        let mut session = session("sh".as_ref(), &sh("cat /dev/zero"), 1024).unwrap();
        assert_eq!(
            session.hear(Instant::now() + Duration::from_secs(20), &Gate::new(Word::Hold), false),
            Err(NoLine::Ended)
        );
        session.end();
    }
}
