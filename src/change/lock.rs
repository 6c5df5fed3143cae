//! One apply at a time in a bundle: a flock(2) on the bundle's pid namespace. It dies with its holder, leaves nothing
//! in any directory, and nobody outside of the bundle can take it, as they could a name in a shared network namespace.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use crate::text::Plain;

/// Where a holder tells who it is: a memfd under this number, as init's page is.
const HOLDER_FD: i32 = 101;
const HOLDER_NAME: &str = "sidecar-apply";

/// The lock, as long as it lives.
pub struct Lock(#[allow(dead_code, reason = "it is held")] Flock<File>);

/// Who holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Whose apply.
    pub by: Plain,
    /// Since when, in UTC.
    pub since: Plain,
}

/// Takes it if it is free; `Ok(None)`: it isn't.
///
/// # Errors
/// The system knows no such lock.
pub fn try_take() -> Result<Option<Lock>, String> {
    let file = File::open("/proc/self/ns/pid").map_err(|e| format!("/proc/self/ns/pid: {e}"))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(Lock(lock))),
        Err((_, Errno::EWOULDBLOCK | Errno::EINTR)) => Ok(None),
        Err((_, e)) => Err(format!("flock of /proc/self/ns/pid: {e}")),
    }
}

/// Tells who holds it, to those who wait. That it can't be told is no reason not to go on.
pub fn tell(holder: &Holder) {
    let Ok(fd) = memfd_create(HOLDER_NAME, MFdFlags::MFD_CLOEXEC) else { return };
    let mut file = File::from(fd);
    let text = serde_json::to_vec(holder).unwrap_or_default();
    if file.write_all(&text).is_ok() {
        // SAFETY: dup3(2) to a number that nothing in this process owns; it stays open as long as the process lives.
        unsafe { libc::dup3(OwnedFd::from(file).as_raw_fd(), HOLDER_FD, libc::O_CLOEXEC) };
    }
}

/// Who holds it, where that can be seen.
#[must_use]
pub fn holder() -> Option<Holder> {
    let ours = format!("/memfd:{HOLDER_NAME} (deleted)");
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let path = entry.path().join("fd").join(HOLDER_FD.to_string());
        (path.read_link().ok()?.as_os_str() == ours.as_str()).then_some(())?;
        let text = std::fs::read(path).ok().filter(|text| text.len() <= 4096)?;
        serde_json::from_slice(&text).ok()
    })
}
