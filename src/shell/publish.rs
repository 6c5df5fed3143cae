//! Puts the status page in place.

use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::status::{PAGE_FD, PAGE_NAME, Page};

/// Replaces the page as a whole. It is sealed before it is put there: a daemon of the same user could open it
/// through /proc and rewrite it in place.
///
/// # Errors
/// Where no memfd can be had, or `RLIMIT_NOFILE` doesn't allow the fixed descriptor.
pub fn publish(page: &Page) -> io::Result<()> {
    let text = serde_json::to_vec(page)?;
    let fd: OwnedFd = memfd_create(PAGE_NAME, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(&text)?;
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    // SAFETY: dup3(2) replaces the page's own descriptor, which nothing else in this process owns, in one step.
    if unsafe { libc::dup3(file.as_raw_fd(), PAGE_FD, libc::O_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
