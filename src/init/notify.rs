//! The `sd_notify`(3) socket. The helper of a change writes to it too: only what goes through init's own queue can't
//! land in the middle of another line of the log.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, UnixCredentials, bind, getsockname,
    recvmsg, setsockopt, socket, sockopt,
};

use crate::change::log::{BY, CHANGE, WARNING};
use crate::supervisor::Event;
use crate::text::Plain;

/// A datagram socket with an abstract name that the kernel chose: two bundles may share a network namespace.
pub struct Notify {
    fd: OwnedFd,
    /// What `NOTIFY_SOCKET` is set to.
    pub name: String,
    /// Whether it is watched.
    pub is_watched: bool,
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
        Ok(Self { fd, name, is_watched: false })
    }

    /// What poll(2) waits for.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The next message, if one is there. The kernel tells who sent it.
    pub fn take(&self) -> Option<Message> {
        let mut bytes = [0u8; 4096];
        let mut space = cmsg_space!(UnixCredentials);
        let (len, pid, uid) = {
            let mut iov = [IoSliceMut::new(&mut bytes)];
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
            let message = recvmsg::<UnixAddr>(self.fd.as_raw_fd(), &mut iov, Some(&mut space), flags).ok()?;
            let who = message.cmsgs().ok().and_then(|mut all| {
                all.find_map(|c| match c {
                    ControlMessageOwned::ScmCredentials(who) => Some((who.pid(), who.uid())),
                    _ => None,
                })
            });
            let (pid, uid) = who.unwrap_or((0, u32::MAX));
            (message.bytes, pid, uid)
        };
        let text = String::from_utf8_lossy(bytes.get(..len).unwrap_or(&[])).into_owned();
        Some(Message { pid, uid, text })
    }
}

/// One datagram.
pub struct Message {
    /// 0 for a sender outside of init's pid namespace.
    pid: i32,
    uid: u32,
    text: String,
}

impl Message {
    fn value(&self, key: &str) -> Option<&str> {
        self.text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    }

    /// What it means for the core; the line of a change is logged instead.
    #[must_use]
    pub fn event_or_log(&self) -> Option<Event> {
        if let Some(change) = self.value(CHANGE) {
            self.log(&Plain::new(change));
            return None;
        }
        let usec = self.value("MONOTONIC_USEC").and_then(|v| v.parse().ok());
        Some(Event::Notify {
            pid: self.pid,
            ready: self.value("READY") == Some("1"),
            reloading: (self.value("RELOADING") == Some("1")).then_some(usec).flatten(),
            errno: self.value("ERRNO").and_then(|v| v.parse().ok()).unwrap_or(0),
            session: super::session(self.pid),
        })
    }

    /// Who shares the network namespace alone, an agent's container say, has no say here.
    fn log(&self, change: &Plain) {
        if self.pid == 0 || ![0, nix::unistd::geteuid().as_raw()].contains(&self.uid) {
            return;
        }
        let by = Plain::new(self.value(BY).unwrap_or_default());
        if self.value(WARNING).is_none() {
            tracing::info!(%by, "change of {change}");
        } else {
            tracing::warn!(%by, "change of {change}");
        }
    }
}
