//! The lock that allows one apply at a time in a bundle: a flock(2) on a memfd of PID 1's, opened through `/proc/1/fd/102`. It is
//! released when its holder dies, and leaves nothing in any directory. A process may open it if the kernel lets it trace PID 1:
//! proc(5), ptrace(2).
//!
//! The holder writes into it who it is. Any process of the same user could write there too, so an overdue holder is killed only if
//! the kernel's own list of locks names it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, open};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, major, minor};
use nix::unistd::{Pid, getpid};
use serde::{Deserialize, Serialize};

use super::reason::Reason;
use super::transaction::Holder;
use crate::request::{LOCK_FD, LOCK_NAME};
use crate::text::Printable;

/// This process's pid namespace: the same file for every process of a bundle.
const NAMESPACE: &str = "/proc/self/ns/pid";
/// The most that is read of the kernel's list of locks, in bytes.
const MAX_LOCKS: u64 = 1 << 20;
/// How often that list is read, at most, until the lock is found in it.
const LOOKS: usize = 20;
/// How much the holder writes, and how much of it is read, in bytes.
const HOLDER_BYTES: usize = 1024;

/// The lock, held for as long as this value lives.
pub struct Lock(Flock<File>);

/// What the holder writes.
#[derive(Serialize, Deserialize)]
struct Written {
    pid: i32,
    #[serde(flatten)]
    holder: Holder,
}

/// Takes the lock if it is free; `Ok(None)` if it isn't. `init` is init's pid, as this process sees it.
///
/// # Errors
/// This user may not open the lock's file, init has none, or flock(2) fails.
pub fn try_take(init: Pid) -> Result<Option<Lock>, Reason> {
    let file = file_of(init).map_err(|e| no_lock(init, &e))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(Lock(lock))),
        Err((_, Errno::EWOULDBLOCK | Errno::EINTR)) => Ok(None),
        Err((_, e)) => Err(no_lock(init, &e.into())),
    }
}

impl Lock {
    /// Writes into the file who holds the lock. That only informs others, so a failed write does no harm.
    pub fn tell(&self, holder: &Holder) {
        let written = Written { pid: getpid().as_raw(), holder: holder.clone() };
        let mut text = serde_json::to_vec(&written).unwrap_or_default();
        // Long enough to overwrite everything that the previous holder wrote.
        text.resize(HOLDER_BYTES, b' ');
        let _ = self.0.write_all_at(&text, 0);
    }
}

/// Who holds the lock, or held it last, as that process wrote it.
#[must_use]
pub fn holder(init: Pid) -> Option<Holder> {
    Some(read(&file_of(init).ok()?)?.holder)
}

fn read(file: &File) -> Option<Written> {
    let mut text = [0; HOLDER_BYTES];
    let bytes = file.read_at(&mut text, 0).ok()?;
    serde_json::from_slice(text.get(..bytes)?).ok()
}

/// Kills the holder, for example a helper that was stopped (SIGSTOP). Called once the holder has used up all of its time.
pub fn end_holder(init: Pid) {
    let Ok(file) = file_of(init) else { return };
    // The kernel's list is read in pieces, and may lack an entry while others come and go.
    let Some(pid) = (0..LOOKS).find_map(|_| holder_in_kernel(&file)) else { return };
    // If they differ, another process has just taken the lock and hasn't written its name yet.
    if read(&file).is_none_or(|written| written.pid != pid.as_raw()) {
        return;
    }
    // SIGKILL ends stopped processes too. The lock is released once the process is gone.
    let _ = kill(pid, Signal::SIGKILL);
    for _ in 0..100 {
        if kill(pid, None).is_err() || holder_in_kernel(&file) != Some(pid) {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn file_of(init: Pid) -> io::Result<File> {
    let path = PathBuf::from(format!("/proc/{init}/fd/{LOCK_FD}"));
    // The link is checked first, since opening a stranger's descriptor can have side effects.
    if path.read_link()?.as_os_str() != format!("/memfd:{LOCK_NAME} (deleted)").as_str() {
        return Err(io::Error::other("it isn't the lock of a `sidecar init`"));
    }
    Ok(File::from(open(&path, OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK, Mode::empty())?))
}

fn no_lock(init: Pid, e: &io::Error) -> Reason {
    let words = match e.kind() {
        io::ErrorKind::PermissionDenied => {
            "this user may not open it; run it as the user that the container runs as".to_owned()
        }
        _ => e.to_string(),
    };
    Reason::NoLock { words: Printable::new(&format!("/proc/{init}/fd/{LOCK_FD}: {words}")) }
}

/// The pid of the holder, from `proc_locks(5)`: `1: FLOCK  ADVISORY  WRITE 17 00:01:2057 0 EOF`, with the device in hex.
fn holder_in_kernel(file: &File) -> Option<Pid> {
    let meta = file.metadata().ok()?;
    let lock = format!("{:02x}:{:02x}:{}", major(meta.dev()), minor(meta.dev()), meta.ino());
    let mut text = String::new();
    File::open("/proc/locks").ok()?.take(MAX_LOCKS).read_to_string(&mut text).ok()?;
    let pid = text.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next().filter(|kind| *kind == "FLOCK")?;
        let (pid, file) = (words.nth(2)?, words.next()?);
        (file == lock).then(|| pid.parse::<i32>().ok()).flatten()
    })?;
    // A process of another pid namespace has no pid here.
    (pid > 1).then(|| Pid::from_raw(pid))
}

/// The kernel's boot id; empty if it can't be read.
#[must_use]
pub fn boot() -> Printable {
    Printable::new(&std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default())
}

/// The inode number of the bundle's pid namespace.
#[must_use]
pub fn namespace() -> Option<u64> {
    std::fs::metadata(NAMESPACE).ok().map(|meta| meta.ino())
}
