//! System calls as attackers make them: by number, past what a library checks.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg, setsockopt, sockopt};

/// The process with this argument: command lines can be read by everybody.
pub fn find(argument: &str) -> i32 {
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let has = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == argument.as_bytes())
    };
    all.filter(|pid| has(pid)).min().unwrap_or(-1)
}

pub fn checked(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

macro_rules! call {
    ($number:expr $(, $argument:expr)*) => {
        // SAFETY: the pointers among the arguments lead to what lives through the call.
        $crate::attacks::calls::checked(unsafe { nix::libc::syscall($number $(, $argument)*) })
    };
}
pub(crate) use call;

/// A descriptor that a call has made.
pub fn owned(fd: i64) -> OwnedFd {
    // SAFETY: it was made by the call just before, and nobody else knows of it.
    unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) }
}

/// In a child, which has one thread, whatever this process has.
pub fn forked(attack: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    // SAFETY: the child makes system calls, and allocates: no other thread of this process does at that time.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => {
            let code = attack().err().map_or(0, |e| e.raw_os_error().unwrap_or(255));
            // SAFETY: it ends this process, and runs nothing of the parent's.
            unsafe { libc::_exit(code) }
        }
        nix::unistd::ForkResult::Parent { child } => match nix::sys::wait::waitpid(child, None)? {
            nix::sys::wait::WaitStatus::Exited(_, 0) => Ok(()),
            nix::sys::wait::WaitStatus::Exited(_, code) => Err(io::Error::from_raw_os_error(code)),
            other => Err(io::Error::other(format!("{other:?}"))),
        },
    }
}

/// As root of a user namespace of its own, with all capabilities there.
pub fn as_a_new_root(attack: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    forked(|| {
        call!(libc::SYS_unshare, libc::CLONE_NEWUSER | libc::CLONE_NEWNS)?;
        attack()
    })
}

pub fn write(path: impl AsRef<Path>) -> io::Result<()> {
    fs::OpenOptions::new().append(true).open(path).map(drop)
}

pub fn read(path: impl AsRef<Path>) -> io::Result<()> {
    fs::read(path).map(drop)
}

pub fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    call!(libc::SYS_socket, family, kind, protocol).map(owned)
}

pub fn loopback(port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: 2,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
        sin_zero: [0; 8],
    }
}

pub fn send_to(socket: &OwnedFd, flags: i32, port: u16) -> io::Result<()> {
    let (to, size) = (loopback(port), size_of::<libc::sockaddr_in>());
    call!(libc::SYS_sendto, socket.as_raw_fd(), c"x".as_ptr(), 1usize, flags, &raw const to, size).map(drop)
}

pub fn limits(pid: i32) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    call!(libc::SYS_prlimit64, pid, libc::RLIMIT_CORE, 0usize, &raw mut limit)?;
    call!(libc::SYS_prlimit64, pid, libc::RLIMIT_CORE, &raw const limit, 0usize).map(drop)
}

/// Becomes its tracer, without stopping it; and lets it go, before the next one comes.
pub fn seize(pid: i32) -> io::Result<()> {
    call!(libc::SYS_ptrace, libc::PTRACE_SEIZE, pid, 0usize, 0usize)?;
    call!(libc::SYS_ptrace, libc::PTRACE_INTERRUPT, pid, 0usize, 0usize)?;
    let_go(pid)
}

/// The same, by what stops it.
pub fn attach(pid: i32) -> io::Result<()> {
    call!(libc::SYS_ptrace, libc::PTRACE_ATTACH, pid, 0usize, 0usize)?;
    let_go(pid)
}

fn let_go(pid: i32) -> io::Result<()> {
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), Some(nix::sys::wait::WaitPidFlag::__WALL))?;
    call!(libc::SYS_ptrace, libc::PTRACE_DETACH, pid, 0usize, 0usize).map(drop)
}

pub fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    call!(libc::SYS_pidfd_open, pid, 0).map(owned)
}

/// Where what has these permissions lies in the memory of a process. In the sandbox it isn't told, and isn't needed to be
/// refused.
pub fn mapped(pid: i32, permissions: &str) -> usize {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let line = maps.lines().find(|line| line.contains(permissions)).unwrap_or_default();
    usize::from_str_radix(line.split('-').next().unwrap_or_default(), 16).unwrap_or(0x1000)
}

pub fn queue(pid: i32) -> io::Result<()> {
    let mut info = [0u8; 128];
    info[..4].copy_from_slice(&libc::SIGWINCH.to_ne_bytes());
    info[8..12].copy_from_slice(&(-1i32).to_ne_bytes());
    call!(libc::SYS_rt_sigqueueinfo, pid, libc::SIGWINCH, info.as_ptr()).map(drop)
}

pub fn open_as_writer(path: impl AsRef<Path>) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(path).map(drop)
}

/// Sends a datagram to init's `sd_notify`(3) socket, with what comes along.
pub fn notify(text: &[u8], along: &[ControlMessage<'_>]) -> io::Result<()> {
    let name = std::env::var("NOTIFY_SOCKET").unwrap();
    let to = UnixAddr::new_abstract(name.strip_prefix('@').unwrap().as_bytes())?;
    let from = socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0)?;
    sendmsg(from.as_raw_fd(), &[io::IoSlice::new(text)], along, MsgFlags::empty(), Some(&to))?;
    Ok(())
}

/// A connection whose last close waits 1 s for its unread bytes: socket(7).
pub fn lingering(port: u16) -> io::Result<std::net::TcpStream> {
    let stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nonblocking(true)?;
    let linger = libc::linger { l_onoff: 1, l_linger: 1 };
    setsockopt(&stream, sockopt::Linger, &linger)?;
    let bytes = vec![0; 1 << 20];
    for _ in 0..100 {
        if (&stream).write(&bytes).is_err() {
            break;
        }
    }
    Ok(stream)
}
