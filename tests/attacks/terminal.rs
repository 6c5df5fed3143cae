//! A terminal as `docker exec -it` makes one for an operator.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;

use nix::libc;

pub struct Terminal {
    /// While it is open, the terminal is there.
    _master: File,
    path: String,
}

impl Terminal {
    pub fn new() -> Self {
        let master = OpenOptions::new().read(true).write(true).open("/dev/ptmx").unwrap();
        let (unlocked, mut number) = (0i32, 0u32);
        // SAFETY: the calls read and write the numbers that the pointers lead to.
        unsafe {
            assert_eq!(libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked), 0);
            assert_eq!(libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number), 0);
        }
        Self { _master: master, path: format!("/dev/pts/{number}") }
    }

    pub fn path(&self) -> &str {
        &self.path
    }
}
