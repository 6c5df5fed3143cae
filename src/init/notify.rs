//! The `sd_notify`(3) socket. The helper of a change writes to it too: its log line goes through init's own queue, so it can't land
//! in the middle of another line. A daemon that may not read the status page asks for the status here.
//!
//! Any process in the network namespace can send to it. So a datagram from outside the bundle may cost init no more than a check of
//! its sender, and init must never close a descriptor that came with one: the last close of a TCP socket with `SO_LINGER` blocks for
//! as long as its sender chose (socket(7)).

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::cmsg_space;
use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, UnixCredentials, bind, getsockname,
    recvmsg, sendto, setsockopt, socket, sockopt,
};
use nix::unistd::{ForkResult, fork, pipe2};

use super::log;
use super::signals::kill;
use crate::change::log::{BY, CHANGE, NEW, OLD, WARNING};
use crate::supervisor::Event;
use crate::text::Printable;

/// The option that says whether a socket accepts descriptors (Linux 6.16, asm-generic/socket.h); libc doesn't have it yet. If a socket
/// doesn't accept them, the sender's sendmsg(2) fails (EPERM).
const SO_PASSRIGHTS: libc::c_int = 83;
/// How many datagrams one round handles, so that an endless stream of them can't delay a signal.
const ROUND: usize = 256;
/// How many are taken before a start. The socket's queue holds far fewer (`net.unix.max_dgram_qlen`), so this covers all that came
/// before it.
const QUEUE: usize = 1024;
/// The datagram that asks for the status.
const ASKS: &[u8] = b"STATUS?";
/// How many are answered in one round.
const MAX_ANSWERS: usize = 16;
/// How long init waits for a child to take a datagram with descriptors in it.
const TAKE_AWAY_MS: u16 = 50;
/// How many descriptors fit into a datagram: the kernel's `SCM_MAX_FD`.
const MAX_DESCRIPTORS: usize = 253;

/// How many children may be closing a stranger's descriptors at once.
const MAX_CHILDREN: usize = 8;

/// A datagram socket with an abstract name that the kernel chose: two bundles may share a network namespace.
pub struct Notify {
    fd: OwnedFd,
    /// What `NOTIFY_SOCKET` is set to.
    pub name: String,
    /// Whether epoll watches it.
    pub is_watched: bool,
    /// Whether the kernel refuses descriptors.
    refuses_descriptors: bool,
    /// Children that each take a datagram with descriptors, including one that may not have taken its datagram yet.
    children: Vec<i32>,
    late: Option<i32>,
    /// The addresses of those who have asked for the status.
    asking: Vec<UnixAddr>,
    buffer: Box<[u8; 4096]>,
}

/// What is known of a datagram; its text is in the buffer.
struct Received {
    size: usize,
    /// 0 for a sender outside of init's pid namespace.
    pid: i32,
    uid: u32,
    has_descriptors: bool,
    from: Option<UnixAddr>,
}

impl Notify {
    /// Opens it.
    ///
    /// # Errors
    /// The kernel refuses; daemons with `notify` are never ready then.
    pub fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
        let off: libc::c_int = 0;
        let size = libc::socklen_t::try_from(size_of_val(&off)).unwrap_or(4);
        // SAFETY: setsockopt(2) reads an int. (Before bind(2): until then nobody can send anything.)
        let set =
            unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, (&raw const off).cast(), size) };
        setsockopt(&fd, sockopt::PassCred, &true)?;
        bind(fd.as_raw_fd(), &UnixAddr::new_unnamed())?;
        let addr: UnixAddr = getsockname(fd.as_raw_fd())?;
        let name = addr.as_abstract().ok_or_else(|| io::Error::other("no abstract name was given"))?;
        let name = format!("@{}", String::from_utf8_lossy(name));
        let (children, late, asking, buffer) = (Vec::new(), None, Vec::new(), Box::new([0; 4096]));
        Ok(Self { fd, name, is_watched: false, refuses_descriptors: set == 0, children, late, asking, buffer })
    }

    /// What poll(2) waits for.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether the next datagram may be looked at.
    #[must_use]
    pub fn may_be_read(&self) -> bool {
        self.late.is_none() && self.children.len() < MAX_CHILDREN
    }

    /// A child was reaped.
    pub fn reaped(&mut self, pid: i32) {
        self.children.retain(|child| *child != pid);
        self.late = self.late.filter(|late| *late != pid);
    }

    /// Takes pending datagrams, up to a bound, and passes their meaning to the supervisor.
    pub fn take(&mut self) -> Vec<Event> {
        self.take_some(ROUND)
    }

    /// Takes all that is there, right before a start, so that the new process can't be taken for an earlier sender that had the same
    /// pid.
    pub fn empty(&mut self) -> Vec<Event> {
        self.take_some(QUEUE)
    }

    /// Takes at most `most` datagrams. One from outside this pid namespace costs a single call.
    fn take_some(&mut self, most: usize) -> Vec<Event> {
        let mut events = Vec::new();
        for _ in 0..most {
            let received = if self.refuses_descriptors {
                self.receive(MsgFlags::empty())
            } else if !self.may_be_read() {
                return events;
            } else {
                // Peeking installs no descriptor; the datagram keeps its own.
                match self.receive(MsgFlags::MSG_PEEK) {
                    Ok(looked) if looked.has_descriptors => {
                        self.give_to_a_child();
                        continue;
                    }
                    // The same datagram again: nobody else reads from this socket.
                    looked => looked.and_then(|_| self.receive(MsgFlags::empty())),
                }
            };
            let Ok(Received { size, pid, uid, from, .. }) = received else { return events };
            if pid == 0 {
                continue;
            }
            let text = self.buffer.get(..size).unwrap_or_default();
            if text == ASKS {
                self.asking.extend(from.filter(|from| is_autobound(from) && self.asking.len() < MAX_ANSWERS));
                continue;
            }
            let text = String::from_utf8_lossy(text).into_owned();
            events.extend(Message { pid, uid, text }.event_or_log());
        }
        events
    }

    /// Answers those who have asked for the status.
    pub fn answer(&mut self, status: impl FnOnce() -> Vec<u8>) {
        if self.asking.is_empty() {
            return;
        }
        let status = status();
        for to in self.asking.drain(..) {
            // An answer that nobody reads fills the buffer of the socket that sent it. So each has a socket of its own, without a
            // name: the credentials that come with it (SO_PASSCRED, unix(7)) show that it is init's.
            let Ok(socket) = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None) else {
                continue;
            };
            let _ = sendto(socket.as_raw_fd(), &status, &to, MsgFlags::MSG_DONTWAIT);
        }
    }

    /// The next datagram. The kernel tells who sent it.
    fn receive(&mut self, more: MsgFlags) -> nix::Result<Received> {
        // Room for the sender's credentials and nothing else.
        let mut space = cmsg_space!(UnixCredentials);
        let mut iov = [IoSliceMut::new(&mut self.buffer[..])];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC | more;
        let message = recvmsg::<UnixAddr>(self.fd.as_raw_fd(), &mut iov, Some(&mut space), flags)?;
        let who = message.cmsgs().ok().and_then(|mut all| {
            all.find_map(|c| match c {
                ControlMessageOwned::ScmCredentials(who) => Some((who.pid(), who.uid())),
                _ => None,
            })
        });
        let (pid, uid) = who.unwrap_or((0, u32::MAX));
        let has_descriptors = message.flags.contains(MsgFlags::MSG_CTRUNC);
        Ok(Received { size: message.bytes, pid, uid, has_descriptors, from: message.address })
    }

    /// Makes a child take the next datagram; the descriptors in it are closed when the child exits.
    fn give_to_a_child(&mut self) {
        let Ok((told, tell)) = pipe2(OFlag::O_CLOEXEC) else { return };
        let (socket, tell_fd) = (self.fd.as_raw_fd(), tell.as_raw_fd());
        // SAFETY: init has one thread; the child makes async-signal-safe calls only.
        match unsafe { fork() } {
            Ok(ForkResult::Parent { child }) => {
                drop(tell);
                self.children.push(child.as_raw());
                let mut fds = [PollFd::new(told.as_fd(), PollFlags::POLLIN)];
                // The child executes only some ten lines before it reports. If somebody has stopped it, the main loop handles that.
                if !poll(&mut fds, PollTimeout::from(TAKE_AWAY_MS)).is_ok_and(|n| n > 0) {
                    let _ = kill(child.as_raw(), libc::SIGKILL);
                    self.late = Some(child.as_raw());
                }
            }
            // SAFETY: it is the child.
            Ok(ForkResult::Child) => unsafe { take_away(socket, tell_fd) },
            Err(_) => {}
        }
    }
}

/// The child's side of [`Notify::give_to_a_child`]. Closing the descriptors may block for as long as their
/// sender likes, at the latest in the child's exit.
///
/// # Safety
/// The caller is the child of a process with one thread.
unsafe fn take_away(socket: i32, tell: i32) -> ! {
    let mut text = [0u8; 1];
    // Room for all that fit into a datagram: what can't be installed is closed at once.
    let mut control = [0u64; MAX_DESCRIPTORS];
    // SAFETY: every pointer is to what is on this stack, with its size; the rest takes numbers.
    unsafe {
        libc::dup2(socket, 0);
        libc::dup2(tell, 1);
        libc::syscall(libc::SYS_close_range, 2, libc::c_uint::MAX, 0);
        let mut iov = libc::iovec { iov_base: text.as_mut_ptr().cast(), iov_len: text.len() };
        let mut message = std::mem::zeroed::<libc::msghdr>();
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        libc::recvmsg(0, &raw mut message, libc::MSG_DONTWAIT);
        libc::close(1);
        libc::_exit(0)
    }
}

/// Whether the kernel has chosen this name: abstract, five hexadecimal digits (autobind, unix(7)). A path could be a link to
/// somebody else's socket by the time of the answer.
fn is_autobound(address: &UnixAddr) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    address.as_abstract().is_some_and(|name| name.len() == 5 && name.iter().all(is_digit))
}

/// One datagram from this pid namespace.
struct Message {
    pid: i32,
    uid: u32,
    text: String,
}

impl Message {
    fn value(&self, key: &str) -> Option<&str> {
        self.text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    }

    /// The event that it means for the supervisor. If it reports a change, that is logged instead.
    fn event_or_log(&self) -> Option<Event> {
        if let Some(change) = self.value(CHANGE) {
            self.log(&Printable::new(change));
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

    /// Only init's own user may report changes.
    fn log(&self, change: &Printable) {
        if ![0, nix::unistd::geteuid().as_raw()].contains(&self.uid) {
            return;
        }
        let by = Printable::new(self.value(BY).unwrap_or_default());
        let [old, new] =
            [OLD, NEW].map(|key| self.value(key).map(|digits| tracing::field::display(Printable::new(digits))));
        let daemon = change.as_str().split_once(": ").map(|(daemon, _)| daemon).filter(|_| log::has_fields());
        if self.value(WARNING).is_none() {
            tracing::info!(daemon, %by, old, new, "change of {change}");
        } else {
            tracing::warn!(daemon, %by, old, new, "change of {change}");
        }
    }
}
