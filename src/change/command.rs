//! Runs one of the bundle's own programs, a checker or a probe, until it ends or its time is up.

use std::collections::VecDeque;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::table::process::{DAEMON, GENERATION};

/// How much of a program's output is kept, from its beginning and from its end, in bytes. All of it is read.
const KEPT: usize = 1024;
/// How long to wait for more output once the process has ended: another process may still hold the pipe.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// How a program ended.
pub enum Ended {
    /// It ended by itself, with this output.
    Exited(ExitStatus, Vec<u8>),
    /// It was killed because `go_on` returned false.
    Stopped,
    /// It could not be executed.
    NotRun(std::io::Error),
}

/// The process group that a program runs in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// A group of its own, which is killed once its process has ended or must end. So nothing in the group outlives the call.
    Own,
    /// The caller's group, which somebody kills once the caller has ended. So nothing in the group outlives the caller.
    Callers,
}

/// Runs a program. It calls `go_on` every few milliseconds, and kills the program if that returns false.
pub fn run(command: &[String], group: Group, mut go_on: impl FnMut() -> bool) -> Ended {
    let Some((program, arguments)) = command.split_first() else {
        return Ended::NotRun(std::io::ErrorKind::InvalidInput.into());
    };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // If a daemon runs this, the program isn't the daemon's process, so it doesn't get these.
    command.env_remove(DAEMON).env_remove(GENERATION);
    if group == Group::Own {
        command.process_group(0);
    }
    // SAFETY: prctl(2) alone, which is async-signal-safe: it ends with this thread, however that ends.
    unsafe { command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)) };
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(e) => return Ended::NotRun(e),
    };
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    let words = [Words::of(child.stdout.take()), Words::of(child.stderr.take())];
    let mut pause = Duration::from_millis(1);
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    let ended = loop {
        match waitid(Id::Pid(pid), flags) {
            Ok(WaitStatus::StillAlive) => {}
            _ => break true,
        }
        if !go_on() {
            break false;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    };
    // It isn't reaped yet, so the pid is still its own.
    if group == Group::Own {
        let _ = killpg(pid, Signal::SIGKILL);
    }
    // It may have left its own group.
    let _ = kill(pid, Signal::SIGKILL);
    reap(&mut child, ended, &words)
}

fn reap(child: &mut Child, ended: bool, words: &[Words; 2]) -> Ended {
    match child.wait() {
        Ok(status) if ended => {
            // A process that has left the group may keep the pipe open. Don't wait for it.
            let until = Instant::now() + LAST_WORDS;
            while words.iter().any(|words| !words.is_over()) && Instant::now() < until {
                thread::sleep(Duration::from_millis(1));
            }
            Ended::Exited(status, words.iter().flat_map(Words::kept).collect())
        }
        Ok(_) => Ended::Stopped,
        Err(e) => Ended::NotRun(e),
    }
}

/// What a program writes to one stream. All of it is read, so that the program never blocks; its beginning and end are kept.
#[derive(Clone)]
struct Words(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    first: Vec<u8>,
    last: VecDeque<u8>,
    is_cut: bool,
    is_over: bool,
}

impl Words {
    fn of(stream: Option<impl Read + Send + 'static>) -> Self {
        let words = Self(Arc::default());
        let Some(mut stream) = stream else {
            words.with(|kept| kept.is_over = true);
            return words;
        };
        let reader = words.clone();
        let read = move || {
            let mut bytes = [0; 16 << 10];
            while let Ok(n @ 1..) = stream.read(&mut bytes) {
                reader.with(|kept| kept.take(bytes.get(..n).unwrap_or_default()));
            }
            reader.with(|kept| kept.is_over = true);
        };
        if thread::Builder::new().spawn(read).is_err() {
            words.with(|kept| kept.is_over = true);
        }
        words
    }

    fn with<T>(&self, act: impl FnOnce(&mut Kept) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_over(&self) -> bool {
        self.with(|kept| kept.is_over)
    }

    fn kept(&self) -> Vec<u8> {
        self.with(|kept| {
            let cut: &[u8] = if kept.is_cut { b"\n...\n" } else { b"" };
            kept.first.iter().chain(cut).chain(&kept.last).copied().collect()
        })
    }
}

impl Kept {
    fn take(&mut self, bytes: &[u8]) {
        let (first, rest) = bytes.split_at(bytes.len().min(KEPT - self.first.len()));
        self.first.extend(first);
        self.is_cut |= self.last.len() + rest.len() > KEPT;
        let rest = rest.get(rest.len().saturating_sub(KEPT)..).unwrap_or_default();
        self.last.extend(rest);
        self.last.drain(..self.last.len().saturating_sub(KEPT));
    }
}
