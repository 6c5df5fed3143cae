//! One apply at a time in a bundle: a flock(2) on the bundle's pid namespace. It dies with its holder, leaves nothing
//! in any directory, and nobody outside of the bundle can take it, as they could a name in a shared network namespace.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::reason::Reason;
use crate::text::Printable;

/// The pid namespace, which is the same file for every process of a bundle.
const NAMESPACE: &str = "/proc/self/ns/pid";
/// The most that is read of the kernel's list of locks, in bytes.
const MAX_LOCKS: u64 = 1 << 20;

/// The lock, as long as it lives.
pub struct Lock(#[allow(dead_code, reason = "it is held")] Flock<File>);

/// Takes it if it is free; `Ok(None)`: it isn't.
///
/// # Errors
/// The system knows no such lock.
pub fn try_take() -> Result<Option<Lock>, Reason> {
    let failed = |words: String| Reason::NoLock { words: Printable::new(&format!("{NAMESPACE}: {words}")) };
    let file = File::open(NAMESPACE).map_err(|e| failed(e.to_string()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(Lock(lock))),
        Err((_, Errno::EWOULDBLOCK | Errno::EINTR)) => Ok(None),
        Err((_, e)) => Err(failed(e.to_string())),
    }
}

/// Kills whoever holds it: a helper that is stopped, say. It is called for one that has had all its time.
pub fn end_holder() {
    if let Some(pid) = holder() {
        // A process that is killed has let go of its locks once it is gone; stopped ones are killed as well.
        let _ = kill(pid, Signal::SIGKILL);
        for _ in 0..100 {
            if kill(pid, None).is_err() || holder() != Some(pid) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// Who holds it, by `proc_locks(5)`: `1: FLOCK  ADVISORY  WRITE 17 00:04:4026532561 0 EOF`.
fn holder() -> Option<Pid> {
    let namespace = std::fs::metadata(NAMESPACE).ok()?.ino();
    let mut text = String::new();
    File::open("/proc/locks").ok()?.take(MAX_LOCKS).read_to_string(&mut text).ok()?;
    let pid = text.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let kind = words.next().filter(|kind| *kind == "FLOCK")?;
        let (pid, file) = (words.nth(2)?, words.next()?);
        let inode: u64 = file.rsplit(':').next()?.parse().ok()?;
        (kind == "FLOCK" && inode == namespace).then(|| pid.parse::<i32>().ok()).flatten()
    })?;
    // Another namespace's process has no number here.
    (pid > 1).then(|| Pid::from_raw(pid))
}

/// The kernel's boot; empty if it can't be told.
#[must_use]
pub fn boot() -> Printable {
    Printable::new(&std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default())
}

/// The bundle's pid namespace.
#[must_use]
pub fn namespace() -> Option<u64> {
    std::fs::metadata(NAMESPACE).ok().map(|meta| meta.ino())
}
