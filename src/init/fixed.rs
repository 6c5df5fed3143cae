//! Descriptors of init's that other processes find by their number, through `/proc/1/fd/N`.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::request::{LOCK_NAME, LOCK_SIZE};

/// A descriptor with a fixed number. init takes it early: with some forty daemons, another descriptor would get that number
/// otherwise.
pub struct FixedFd {
    number: RawFd,
    /// What it refers to unless something else was [`set`](Self::set).
    usual: OwnedFd,
    is_ours: bool,
}

impl FixedFd {
    /// Takes the number if it can; see [`Self::reserve`].
    #[must_use]
    pub fn new(number: RawFd, usual: OwnedFd) -> Self {
        let mut fd = Self { number, usual, is_ours: false };
        fd.reserve();
        fd
    }

    /// What it usually refers to, under the number that the kernel chose.
    #[must_use]
    pub fn usual(&self) -> &OwnedFd {
        &self.usual
    }

    /// Takes the number unless that is done; while `RLIMIT_NOFILE` is too low, it can't. Call this before anything is opened
    /// that could get the number.
    pub fn reserve(&mut self) {
        if !self.is_ours {
            let _ = self.dup(self.usual.as_raw_fd());
        }
    }

    /// Makes it refer to this from now on, as soon as the number can be taken.
    pub fn replace(&mut self, usual: OwnedFd) {
        self.usual = usual;
        self.take_back();
        self.reserve();
    }

    /// Makes it refer to something else.
    ///
    /// # Errors
    /// `RLIMIT_NOFILE` is too low, or the number is in use.
    pub fn set(&mut self, fd: &impl AsRawFd) -> io::Result<()> {
        self.dup(fd.as_raw_fd())
    }

    /// Makes it refer to what it usually does, or to nothing if that fails.
    pub fn take_back(&mut self) {
        if self.is_ours && self.dup(self.usual.as_raw_fd()).is_err() {
            self.is_ours = false;
            // SAFETY: this descriptor is our own.
            unsafe { libc::close(self.number) };
        }
    }

    fn dup(&mut self, fd: RawFd) -> io::Result<()> {
        let number = self.number;
        let got = if self.is_ours {
            // SAFETY: dup3(2) replaces our own descriptor, in one step.
            unsafe { libc::dup3(fd, number, libc::O_CLOEXEC) }
        } else {
            // SAFETY: the new descriptor is one that was free.
            unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, number) }
        };
        if got < 0 {
            return Err(io::Error::other(format!("RLIMIT_NOFILE doesn't allow descriptor {number}")));
        }
        if got != number {
            // SAFETY: made above.
            unsafe { libc::close(got) };
            return Err(io::Error::other(format!("descriptor {number} is in use")));
        }
        self.is_ours = true;
        Ok(())
    }
}

/// A file in memory that can be sealed.
pub fn memfd(name: &str) -> io::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // If vm.memfd_noexec is 2, a memfd must be marked as not executable; before Linux 6.3 there is no such mark.
    let no_exec = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    let fd = memfd_create(name, flags | no_exec).or_else(|_| memfd_create(name, flags))?;
    Ok(File::from(fd))
}

/// The file whose flock(2) is the apply lock. Its holder writes its name into it. Its size is sealed, so that nobody can fill
/// memory through it; so are further seals, so that it stays writable.
///
/// # Errors
/// The kernel refuses it.
pub fn lock_file() -> io::Result<OwnedFd> {
    let file = memfd(LOCK_NAME)?;
    file.set_len(LOCK_SIZE)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL))?;
    Ok(file.into())
}
