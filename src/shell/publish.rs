//! Puts the status page in place.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::status::{PAGE_FD, PAGE_NAME, Page};

/// The page's descriptor.
#[derive(Default)]
pub struct Place {
    is_ours: bool,
    said: bool,
}

impl Place {
    /// Replaces the page as a whole. Where that fails there is no page, as an old one would go on telling what isn't
    /// so any more; that is logged, and tried again with the next change.
    pub fn put(&mut self, page: &Page) -> bool {
        let put = sealed(page).and_then(|file| self.dup(file.as_raw_fd()));
        if let Err(e) = &put {
            if !self.said {
                tracing::warn!("no status page: {e}; status and apply can't look into this bundle");
            }
            if std::mem::take(&mut self.is_ours) {
                // SAFETY: this descriptor is the page's own.
                unsafe { libc::close(PAGE_FD) };
            }
        }
        self.said = put.is_err();
        put.is_ok()
    }

    fn dup(&mut self, fd: RawFd) -> io::Result<()> {
        let got = if self.is_ours {
            // SAFETY: dup3(2) replaces the page's own descriptor, in one step.
            unsafe { libc::dup3(fd, PAGE_FD, libc::O_CLOEXEC) }
        } else {
            // SAFETY: the new descriptor is one that was free.
            unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, PAGE_FD) }
        };
        if got < 0 {
            return Err(io::Error::other(format!("RLIMIT_NOFILE doesn't allow descriptor {PAGE_FD}")));
        }
        if got != PAGE_FD {
            // SAFETY: made above.
            unsafe { libc::close(got) };
            return Err(io::Error::other(format!("descriptor {PAGE_FD} is in use")));
        }
        self.is_ours = true;
        Ok(())
    }
}

/// It is sealed before it is put in place: a daemon of the same user could open it through /proc and rewrite it.
fn sealed(page: &Page) -> io::Result<File> {
    let text = serde_json::to_vec(page)?;
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Where vm.memfd_noexec is 2 a memfd must say that it isn't executable; before Linux 6.3 none can.
    let no_exec = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    let fd = memfd_create(PAGE_NAME, flags | no_exec).or_else(|_| memfd_create(PAGE_NAME, flags))?;
    let mut file = File::from(fd);
    file.write_all(&text)?;
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file)
}
