//! Runs one of the bundle's own programs, a checker or a probe, to its end or to the end of its time.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

/// The most that is read of a program's words, in bytes; one that says more finds its pipe closed.
const MAX_WORDS: u64 = 16 << 10;

/// How it ended.
pub enum Ended {
    /// By itself, with these words.
    Exited(ExitStatus, Vec<u8>),
    /// It was killed, since it was not to go on.
    Stopped,
    /// It can't be executed.
    NotRun(std::io::Error),
}

/// Runs it. `go_on` is asked every few milliseconds. It has a process group of its own, which is killed when its
/// process has ended or is to end: nothing of it outlives the call.
pub fn run(command: &[String], with_words: bool, mut go_on: impl FnMut() -> bool) -> Ended {
    let Some((program, arguments)) = command.split_first() else {
        return Ended::NotRun(std::io::ErrorKind::InvalidInput.into());
    };
    let words = || if with_words { Stdio::piped() } else { Stdio::null() };
    let mut command = Command::new(program);
    command.args(arguments).process_group(0).stdin(Stdio::null()).stdout(words()).stderr(words());
    // SAFETY: prctl(2) alone, which is async-signal-safe: it ends with this thread, however that ends.
    unsafe { command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)) };
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(e) => return Ended::NotRun(e),
    };
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    let words = [read(child.stdout.take()), read(child.stderr.take())];
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
    // Not reaped yet, so the number is still its own.
    let _ = killpg(pid, Signal::SIGKILL);
    // It may have left its own group.
    let _ = kill(pid, Signal::SIGKILL);
    reap(&mut child, ended, &words)
}

fn reap(child: &mut Child, ended: bool, words: &[Receiver<Vec<u8>>; 2]) -> Ended {
    match child.wait() {
        Ok(status) if ended => {
            // Who left the group may hold the pipe on: what it says is not waited for.
            let until = Instant::now() + Duration::from_millis(200);
            let left = || until.saturating_duration_since(Instant::now());
            let words = words.iter().flat_map(|words| std::iter::from_fn(|| words.recv_timeout(left()).ok()));
            Ended::Exited(status, words.flatten().collect())
        }
        Ok(_) => Ended::Stopped,
        Err(e) => Ended::NotRun(e),
    }
}

fn read(stream: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    let read = move || {
        let Some(mut stream) = stream.map(|stream| stream.take(MAX_WORDS)) else { return };
        let mut bytes = [0; 4096];
        while let Ok(n @ 1..) = stream.read(&mut bytes) {
            let _ = sender.send(bytes.iter().take(n).copied().collect());
        }
    };
    let _ = thread::Builder::new().spawn(read);
    receiver
}
