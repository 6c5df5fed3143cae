//! Wakes the processes that wait for the status page to change: a helper, or `restart` and the like.
//!
//! Each of them has the pipe behind [`CHANGES_FD`] open, and epoll(7) wakes it at each write (`EPOLLET`). None of them reads the
//! bytes, since that would take them from the others. A process that may open the pipe could still fill it or empty it. That
//! costs init a bounded number of calls, and the others a wake-up; they also look at intervals, so they don't depend on it.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{pipe2, read, write};

use super::fixed::FixedFd;
use crate::request::CHANGES_FD;

/// The pipe.
pub struct Changes {
    reader: FixedFd,
    writer: OwnedFd,
}

impl Changes {
    /// Makes the pipe.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn open() -> nix::Result<Self> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        Ok(Self { reader: FixedFd::new(CHANGES_FD, reader), writer })
    }

    /// See [`FixedFd::reserve`].
    pub fn reserve(&mut self) {
        self.reader.reserve();
    }

    /// The page has changed. `buffer` is overwritten if the pipe is full and has to be emptied.
    pub fn tell(&self, buffer: &mut [u8]) {
        if write(&self.writer, b"\n") == Err(Errno::EAGAIN) {
            let _ = read(self.reader.usual().as_fd(), buffer);
            let _ = write(&self.writer, b"\n");
        }
    }
}
