//! On the network, and on the kernel.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::libc;

use super::Keeper::{Filter, Tcp};
#[cfg(target_arch = "x86_64")]
use super::calls::checked;
use super::calls::{call, loopback, owned, send_to, socket};
use super::{Attack, attack};

/// By IPv4 in a socket of IPv6's.
fn connect_to_a_mapped_address(port: u16) -> io::Result<()> {
    let socket = socket(libc::AF_INET6, libc::SOCK_STREAM, 0)?;
    let to = std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets();
    let to = libc::sockaddr_in6 {
        sin6_family: 10,
        sin6_port: port.to_be(),
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr { s6_addr: to },
        sin6_scope_id: 0,
    };
    call!(libc::SYS_connect, socket.as_raw_fd(), &raw const to, size_of::<libc::sockaddr_in6>()).map(drop)
}

/// The SYN and the first byte in one call.
fn fast_open_by_a_message(port: u16, is_many: bool) -> io::Result<()> {
    let socket = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    let (mut to, text) = (loopback(port), *b"x");
    let mut bytes = libc::iovec { iov_base: text.as_ptr().cast_mut().cast(), iov_len: 1 };
    let mut both = libc::mmsghdr {
        msg_hdr: libc::msghdr {
            msg_name: (&raw mut to).cast(),
            msg_namelen: 16,
            msg_iov: &raw mut bytes,
            msg_iovlen: 1,
            msg_control: std::ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        },
        msg_len: 0,
    };
    if is_many {
        return call!(libc::SYS_sendmmsg, socket.as_raw_fd(), &raw mut both, 1, libc::MSG_FASTOPEN).map(drop);
    }
    call!(libc::SYS_sendmsg, socket.as_raw_fd(), &raw mut both.msg_hdr, libc::MSG_FASTOPEN).map(drop)
}

/// `TCP_FASTOPEN_CONNECT`: the call only notes the address, and the first write connects.
fn fast_open_later(port: u16) -> io::Result<()> {
    let socket = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    let (one, to) = (1i32, loopback(port));
    let option = (libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT);
    call!(libc::SYS_setsockopt, socket.as_raw_fd(), option.0, option.1, &raw const one, 4)?;
    call!(libc::SYS_connect, socket.as_raw_fd(), &raw const to, size_of::<libc::sockaddr_in>())?;
    call!(libc::SYS_write, socket.as_raw_fd(), c"x".as_ptr(), 1usize).map(drop)
}

/// Waits for the moment in which nobody has it, 30 s at most.
fn take(port: u16) -> io::Result<()> {
    let start = Instant::now();
    loop {
        match TcpListener::bind(("127.0.0.1", port)) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && start.elapsed() < Duration::from_secs(30) => {}
            result => return result.map(drop),
        }
    }
}

/// While it is attacked, the test restarts the daemon whose port it is.
pub const TAKE_PORT: &str = "take over a sibling's port while that one restarts";

pub const ATTACKS: &[Attack] = &[
    attack("bind a sibling's port", "EACCES", Tcp, |prey| TcpListener::bind(("127.0.0.1", prey.free_port)).map(drop)),
    attack(TAKE_PORT, "EACCES", Tcp, |prey| take(prey.anothers_port)),
    attack("bind any free port", "EACCES", Tcp, |_| TcpListener::bind("0.0.0.0:0").map(drop)),
    attack("connect by TCP", "EACCES", Tcp, |prey| {
        std::net::TcpStream::connect(("127.0.0.1", prey.open_port)).map(drop)
    }),
    attack("connect by TCP to an IPv4 address mapped into IPv6", "EACCES", Tcp, |prey| {
        connect_to_a_mapped_address(prey.open_port)
    }),
    attack("open an MPTCP socket", "EPROTONOSUPPORT", Filter, |_| {
        socket(libc::AF_INET, libc::SOCK_STREAM, 262).map(drop)
    }),
    attack("connect by TCP Fast Open (sendto)", "EPERM", Filter, |prey| {
        let socket = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
        send_to(&socket, libc::MSG_FASTOPEN, prey.open_port)
    }),
    attack("connect by TCP Fast Open (sendmsg)", "EPERM", Filter, |prey| fast_open_by_a_message(prey.open_port, false)),
    attack("connect by TCP Fast Open (sendmmsg)", "EPERM", Filter, |prey| fast_open_by_a_message(prey.open_port, true)),
    attack("connect by TCP Fast Open at the first write", "EACCES", Tcp, |prey| fast_open_later(prey.open_port)),
    attack("send a UDP datagram", "EACCES", Filter, |prey| {
        let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
        send_to(&socket, 0, prey.free_port)
    }),
    attack("open a raw IP socket", "EACCES", Filter, |_| socket(libc::AF_INET, libc::SOCK_RAW, 255).map(drop))
        .without(super::Without::NeedsCapability),
    attack("open a packet socket", "EAFNOSUPPORT", Filter, |_| socket(libc::AF_PACKET, libc::SOCK_RAW, 0).map(drop))
        .without(super::Without::NeedsCapability),
    attack("list all sockets of the bundle (sock_diag)", "EPROTONOSUPPORT", Filter, |_| {
        socket(libc::AF_NETLINK, libc::SOCK_RAW, 4).map(drop)
    }),
    attack("set up io_uring, whose calls no filter sees", "ENOSYS", Filter, |_| {
        let mut parameters = [0u8; 120];
        call!(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()).map(owned).map(drop)
    }),
];

pub const ON_THE_KERNEL: &[Attack] = &[
    attack("add a key to a keyring", "EPERM", Filter, |_| {
        // To the keyring of this process alone.
        call!(libc::SYS_add_key, c"user".as_ptr(), c"sidecar".as_ptr(), c"x".as_ptr(), 1usize, -2).map(drop)
    }),
    attack("open the user's keyring, which siblings share", "EPERM", Filter, |_| {
        // KEYCTL_GET_KEYRING_ID, KEY_SPEC_USER_KEYRING: keyctl(2).
        call!(libc::SYS_keyctl, 0, -4, 1).map(drop)
    }),
    #[cfg(target_arch = "x86_64")]
    attack("make an i386 system call (int 0x80)", "signal-31", Filter, |_| {
        let mut result = 20i32;
        // SAFETY: i386's getpid(2) has no arguments.
        unsafe { std::arch::asm!("int 0x80", inout("eax") result, options(nostack)) };
        checked(result.into()).map(drop)
    }),
    #[cfg(target_arch = "x86_64")]
    attack("make an x32 system call", "signal-31", Filter, |_| call!(0x4000_0000 | libc::SYS_getpid).map(drop))
        .without(super::Without::IfKernelHas),
];
