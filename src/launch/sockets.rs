//! Sockets that init holds for a daemon across restarts: connections wait in their backlog while one process follows
//! another.
//!
//! The daemon has descriptors of these sockets too, and can do with them what it likes. A call on a socket takes the socket's lock,
//! and a process that sends from memory on a hung mount never releases it. So once the daemon has run, init leaves all calls on its
//! sockets to children.

use std::cell::Cell;
use std::ffi::CString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, bind, setsockopt, socket,
    sockopt,
};
use nix::unistd::{ForkResult, fork, pipe2};

use super::child;

/// What a child's `LISTEN_PID` begins with; it writes its pid behind that.
const LISTEN_PID: &[u8] = b"LISTEN_PID=";
/// Room for the digits of any pid, and a NUL.
const PID_SIZE: usize = 11;

/// The sockets of one daemon, in the order of its table.
#[derive(Default)]
pub struct Sockets {
    fds: Vec<OwnedFd>,
    /// `LISTEN_FDS` and `LISTEN_FDNAMES`.
    variables: Vec<CString>,
    is_listening: bool,
    /// A pipe that ends once the child that makes them refuse connections has done so.
    refusing: Option<OwnedFd>,
}

/// Why a socket can't be held.
#[derive(Debug, PartialEq, Eq)]
pub struct NotHeld(pub SocketAddr, pub Errno);

impl Sockets {
    /// Binds them, and makes them listen.
    ///
    /// # Errors
    /// The first address that can't be bound.
    pub fn bind(name: &str, addresses: &[SocketAddr]) -> Result<Self, NotHeld> {
        let hold = |address: &SocketAddr| hold(*address).map_err(|e| NotHeld(*address, e));
        let fds = addresses.iter().map(hold).collect::<Result<Vec<_>, _>>()?;
        if fds.is_empty() {
            return Ok(Self::default());
        }
        // As systemd names those of a unit.
        let names = vec![name; fds.len()].join(":");
        let variables = [format!("LISTEN_FDS={}", fds.len()), format!("LISTEN_FDNAMES={names}")];
        let variables = variables.into_iter().filter_map(|text| CString::new(text).ok()).collect();
        Ok(Self { fds, variables, is_listening: true, refusing: None })
    }

    /// Call this once the daemon's next process has been forked. That process makes the sockets listen.
    pub fn started(&mut self) {
        self.is_listening = true;
        self.refusing = None;
    }

    /// From now on connections are refused, and waiting ones are reset; the ports stay taken. Does nothing if they are refused already.
    ///
    /// # Errors
    /// No child could be forked to do it, so they keep listening.
    pub fn refuse(&mut self) -> io::Result<()> {
        if self.fds.is_empty() || !self.is_listening {
            return Ok(());
        }
        let (refusing, done) = pipe2(OFlag::O_CLOEXEC)?;
        let sockets = self.for_child();
        // SAFETY: init has one thread; the child makes async-signal-safe calls only, on memory made before.
        if let ForkResult::Child = unsafe { fork() }? {
            // SAFETY: this is the child.
            unsafe { child::refuse(&sockets) }
        }
        drop(done);
        (self.is_listening, self.refusing) = (false, Some(refusing));
        Ok(())
    }

    pub(super) fn for_child(&self) -> child::Sockets<'_> {
        child::Sockets {
            fds: self.fds.iter().map(|fd| Cell::new(fd.as_raw_fd())).collect(),
            refusing: self.refusing.as_ref().map(AsRawFd::as_raw_fd),
            variables: &self.variables,
            pid: LISTEN_PID.iter().copied().chain([0; PID_SIZE]).map(Cell::new).collect(),
            pid_at: LISTEN_PID.len(),
        }
    }
}

/// How many sockets this process was given: `sd_listen_fds`(3).
pub fn passed() -> i32 {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    let is_mine = number("LISTEN_PID") == Some(std::process::id());
    number("LISTEN_FDS").filter(|_| is_mine).and_then(|number| i32::try_from(number).ok()).unwrap_or(0)
}

fn hold(address: SocketAddr) -> nix::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    let to: &dyn SockaddrLike = match address {
        SocketAddr::V4(address) => &SockaddrIn::from(address),
        SocketAddr::V6(address) => {
            // net.ipv6.bindv6only may say otherwise.
            setsockopt(&fd, sockopt::Ipv6V6Only, &false)?;
            &SockaddrIn6::from(address)
        }
    };
    bind(fd.as_raw_fd(), to)?;
    // SAFETY: listen(2) takes numbers.
    Errno::result(unsafe { libc::listen(fd.as_raw_fd(), child::BACKLOG) })?;
    Ok(fd)
}
