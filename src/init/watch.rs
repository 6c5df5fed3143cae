//! What init waits for: one epoll(7) set, so that a round costs the same for four daemons and for four hundred.

use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::PollTimeout;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

/// How many descriptors one round handles; the kernel reports the others first in the next round.
const ROUND: usize = 64;

/// What to wait for on a descriptor.
#[derive(Clone, Copy)]
pub enum For {
    /// Until it can be read, or the other side has closed it.
    Reading,
    /// Until it can be written.
    Writing,
}

/// The set. Each descriptor is known by a number that the caller chose.
pub struct Watch {
    epoll: Epoll,
    found: Vec<EpollEvent>,
}

impl Watch {
    /// Makes an empty set.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> nix::Result<Self> {
        Ok(Self { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?, found: vec![EpollEvent::empty(); ROUND] })
    }

    /// Adds a descriptor to the set or removes it; returns whether it is in the set now. A regular file never is (EPERM), as
    /// it never makes a writer wait.
    pub fn set(&self, fd: impl AsFd, number: u64, what: For, wanted: bool) -> bool {
        let flags = match what {
            For::Reading => EpollFlags::EPOLLIN,
            For::Writing => EpollFlags::EPOLLOUT,
        };
        if wanted {
            return self.epoll.add(fd, EpollEvent::new(flags, number)).is_ok();
        }
        let _ = self.epoll.delete(fd);
        false
    }

    /// The set's own descriptor, readable when one in the set is ready.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// The numbers of those that are ready.
    pub fn up(&mut self) -> Vec<u64> {
        let count = self.epoll.wait(&mut self.found, PollTimeout::ZERO).unwrap_or(0);
        self.found.iter().take(count).map(EpollEvent::data).collect()
    }
}
