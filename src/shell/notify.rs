//! The `sd_notify`(3) socket.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, UnixCredentials, bind, getsockname,
    recvmsg, setsockopt, socket, sockopt,
};

use crate::core::Event;

/// A datagram socket with an abstract name that the kernel chose: two bundles may share a network namespace.
pub struct Notify {
    fd: OwnedFd,
    /// What `NOTIFY_SOCKET` is set to.
    pub name: String,
}

impl Notify {
    /// Opens it.
    ///
    /// # Errors
    /// Where the kernel refuses; daemons with `notify` are never ready then.
    pub fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
        setsockopt(&fd, sockopt::PassCred, &true)?;
        bind(fd.as_raw_fd(), &UnixAddr::new_unnamed())?;
        let addr: UnixAddr = getsockname(fd.as_raw_fd())?;
        let name = addr.as_abstract().ok_or_else(|| io::Error::other("no abstract name was given"))?;
        let name = format!("@{}", String::from_utf8_lossy(name));
        Ok(Self { fd, name })
    }

    /// What poll(2) waits for.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The next message, if one is there. The kernel tells who sent it.
    pub fn take(&self) -> Option<Event> {
        let mut bytes = [0u8; 4096];
        let mut space = cmsg_space!(UnixCredentials);
        let (len, pid) = {
            let mut iov = [IoSliceMut::new(&mut bytes)];
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
            let message = recvmsg::<UnixAddr>(self.fd.as_raw_fd(), &mut iov, Some(&mut space), flags).ok()?;
            let pid = message.cmsgs().ok().and_then(|mut all| {
                all.find_map(|c| match c {
                    ControlMessageOwned::ScmCredentials(who) => Some(who.pid()),
                    _ => None,
                })
            });
            (message.bytes, pid.unwrap_or(0))
        };
        let text = String::from_utf8_lossy(bytes.get(..len).unwrap_or(&[])).into_owned();
        let value = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
        let usec = value("MONOTONIC_USEC").and_then(|v| v.parse().ok());
        Some(Event::Notify {
            pid,
            ready: value("READY") == Some("1"),
            reloading: (value("RELOADING") == Some("1")).then_some(usec).flatten(),
            errno: value("ERRNO").and_then(|v| v.parse().ok()).unwrap_or(0),
        })
    }
}
