//! Between fork and exec: nothing but async-signal-safe calls (signal-safety(7)) on memory that was made before the fork.
//!
//! If anything blocks here (a command or a file on a hung mount, a SIGSTOP), it blocks only this child.

use std::cell::Cell;
use std::ffi::CString;

use nix::libc;

use super::Limit;
use super::report::{HEAD, Step};

/// A child's first descriptor after stdio. First come its sockets, as `sd_listen_fds`(3) wants them, then the pipe for its report, then
/// (if it has to set itself up) the memfd that says how daemons are set up.
pub const FIRST_FD: i32 = 3;
/// No descriptor.
const NONE: i32 = -1;
/// The sizes of an int and a sockaddr, and `AF_UNSPEC`: connect(2) to that disconnects a socket.
const INT: libc::socklen_t = 4;
const ADDRESS: libc::socklen_t = 16;
const UNSPEC: libc::sa_family_t = 0;
/// How many connections wait to be accepted; `net.core.somaxconn` is the most.
pub const BACKLOG: i32 = 4096;
/// If `close_range`(2) is missing (before Linux 5.9), descriptors up to this one are closed one by one; exec closes the rest.
const CLOSED_ONE_BY_ONE: i32 = 4096;
/// What a record of an interrupted change contains. At most [`MAX_RECORD`] bytes are searched for it.
const INTERRUPTED: &[u8] = b"\"interrupted\"";
const MAX_RECORD: usize = 16 * 1024;

/// What the child needs. Lists end with a null pointer, as execve(2) has them.
pub struct Child<'a> {
    pub paths: Vec<*const libc::c_char>,
    pub argv: Vec<*const libc::c_char>,
    pub envp: Vec<*const libc::c_char>,
    pub ignore: &'a [i32],
    pub limits: &'a [Limit],
    pub stdio: [i32; 3],
    pub report: Cell<i32>,
    pub sockets: Sockets<'a>,
    pub recovery: Option<Recovery>,
    pub setup: Option<Setup>,
}

/// See [`super::Sockets`].
#[derive(Default)]
pub struct Sockets<'a> {
    pub fds: Vec<Cell<i32>>,
    /// They may listen only once the other end of this pipe is closed.
    pub refusing: Option<i32>,
    pub variables: &'a [CString],
    /// `LISTEN_PID=`, and room for the pid that the child writes there.
    pub pid: Vec<Cell<u8>>,
    pub pid_at: usize,
}

impl Sockets<'_> {
    /// What they add to an environment.
    pub fn variables(&self) -> impl Iterator<Item = *const libc::c_char> {
        let pid = self.pid.first().map(|first| first.as_ptr().cast_const().cast());
        self.variables.iter().map(|text| text.as_ptr()).chain(pid.filter(|_| !self.fds.is_empty()))
    }
}

/// How the child is set up: by the hidden applet, because setting it up looks at files and allocates memory.
pub struct Setup {
    pub argv: Vec<*const libc::c_char>,
    pub setups: i32,
}

/// See [`super::Recovery`].
pub struct Recovery {
    pub record: *const libc::c_char,
    pub leftovers: Vec<*const libc::c_char>,
    pub argv: Vec<*const libc::c_char>,
}

/// The child's side of the fork.
///
/// # Safety
/// It is the child of a process with one thread, and all pointers are valid.
pub unsafe fn run(child: &Child<'_>) -> ! {
    // SAFETY: as promised; the calls take numbers, or pointers to what is on this stack.
    unsafe {
        libc::setsid();
        for (fd, target) in child.stdio.into_iter().zip(0..) {
            if libc::dup2(fd, target) < 0 {
                fail(child, Step::Descriptors, errno(), 0, &[]);
            }
        }
        // At most these numbers are given away below, so everything goes above them first.
        let room = FIRST_FD + i32::try_from(child.sockets.fds.len()).unwrap_or(0) + 3;
        let setups = Cell::new(child.setup.as_ref().map_or(NONE, |setup| setup.setups));
        let refusing = Cell::new(child.sockets.refusing.unwrap_or(NONE));
        let others = [&child.report, &setups, &refusing];
        let all = || child.sockets.fds.iter().chain(others).filter(|fd| fd.get() != NONE);
        for fd in all() {
            let copy = libc::fcntl(fd.get(), libc::F_DUPFD_CLOEXEC, room);
            if copy < 0 {
                fail(child, Step::Descriptors, errno(), 0, &[]);
            }
            fd.set(copy);
        }
        let mut beyond = FIRST_FD;
        for fd in all() {
            if libc::dup3(fd.get(), beyond, libc::O_CLOEXEC) < 0 {
                fail(child, Step::Descriptors, errno(), 0, &[]);
            }
            fd.set(beyond);
            beyond += 1;
        }
        // exec would close them too, but a child that is stopped before that must keep none of init's descriptors open.
        if libc::syscall(libc::SYS_close_range, beyond, libc::c_uint::MAX, 0) != 0 {
            for fd in beyond..CLOSED_ONE_BY_ONE {
                libc::close(fd);
            }
        }
        for (resource, limit) in child.limits {
            libc::setrlimit(*resource as _, limit);
        }
        // From here on a signal ends the child, as it would end the daemon.
        let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
        listen(child, refusing.get());
        if let Some(setup) = &child.setup {
            libc::fcntl(child.report.get(), libc::F_SETFD, 0);
            libc::fcntl(setups.get(), libc::F_SETFD, 0);
            libc::execve(c"/proc/self/exe".as_ptr(), setup.argv.as_ptr(), child.envp.as_ptr());
            fail(child, Step::SetUp, errno(), 0, &[]);
        }
        if let Some(recovery) = child.recovery.as_ref().filter(|recovery| is_interrupted(recovery)) {
            libc::fcntl(child.report.get(), libc::F_SETFD, 0);
            libc::execve(c"/proc/self/exe".as_ptr(), recovery.argv.as_ptr(), child.envp.as_ptr());
            fail(child, Step::Recover, errno(), 0, &[]);
        }
        let Failure { errno, path, head, size } = execute(child);
        fail(child, Step::Execute, errno, path, head.get(..size).unwrap_or_default())
    }
}

/// Why the program can't be executed.
pub struct Failure {
    pub errno: i32,
    /// The index of the path that failed.
    pub path: u16,
    /// The file's first bytes, if its interpreter is missing.
    pub head: [u8; HEAD],
    pub size: usize,
}

/// Makes the sockets listen, whatever the last process did to them, and writes the child's pid into its environment.
///
/// # Safety
/// The sockets are in their places.
unsafe fn listen(child: &Child<'_>, refusing: i32) {
    let mut byte = 0u8;
    let on: libc::c_int = 1;
    // SAFETY: the calls take numbers, or pointers to what is on this stack, with its size.
    unsafe {
        if refusing != NONE {
            while libc::read(refusing, (&raw mut byte).cast(), 1) < 0 && errno() == libc::EINTR {}
            libc::close(refusing);
        }
        for socket in child.sockets.fds.iter().map(Cell::get) {
            libc::fcntl(socket, libc::F_SETFD, 0);
            libc::fcntl(socket, libc::F_SETFL, 0);
            libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, (&raw const on).cast(), INT);
            if libc::listen(socket, BACKLOG) == 0 {
                continue;
            }
            // The last process may have connected it somewhere.
            let nowhere = libc::sockaddr { sa_family: UNSPEC, sa_data: [0; 14] };
            libc::connect(socket, &raw const nowhere, ADDRESS);
            if libc::listen(socket, BACKLOG) != 0 {
                fail(child, Step::Listen, errno(), 0, &[]);
            }
        }
        write_pid(&child.sockets, libc::getpid());
    }
}

fn write_pid(sockets: &Sockets<'_>, pid: i32) {
    let digits = std::iter::successors(Some(pid), |rest| Some(rest / 10).filter(|rest| *rest > 0));
    let Some(room) = sockets.pid.get(sockets.pid_at..) else { return };
    let last = digits.clone().count();
    for (digit, to) in digits.zip(room.iter().take(last).rev()) {
        to.set(b'0' + u8::try_from(digit % 10).unwrap_or(0));
    }
}

/// Makes sockets refuse connections, and exits. While a socket doesn't listen, another one can take its port if both have
/// `SO_REUSEADDR` set (socket(7)), so it is cleared here. While the socket listens it must be set: connections inherit it, and one
/// that is left without it would keep the port from listening again.
///
/// # Safety
/// The caller is the child of a process with one thread.
pub unsafe fn refuse(sockets: &Sockets<'_>) -> ! {
    let off: libc::c_int = 0;
    // SAFETY: the calls take numbers, or pointers to what is on this stack, with its size.
    unsafe {
        for fd in &sockets.fds {
            libc::setsockopt(fd.get(), libc::SOL_SOCKET, libc::SO_REUSEADDR, (&raw const off).cast(), INT);
            libc::shutdown(fd.get(), libc::SHUT_RDWR);
        }
        libc::_exit(0)
    }
}

/// Executes the program; returns only if it can't.
///
/// # Safety
/// All pointers are valid, and no other thread runs.
pub unsafe fn execute(child: &Child<'_>) -> Failure {
    // SAFETY: as promised; the rest takes numbers, or pointers to what is on this stack.
    unsafe {
        // In an applet, Rust's runtime has set it to be ignored.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        for signal in child.ignore {
            libc::signal(*signal, libc::SIG_IGN);
        }
        let mut why = libc::ENOENT;
        for path in list(&child.paths) {
            libc::execve(path, child.argv.as_ptr(), child.envp.as_ptr());
            let this = errno();
            // Like execvp(3): try the next directory if it isn't there, and remember a refusal; but never run a shell.
            if this != libc::ENOENT && this != libc::ENOTDIR {
                why = this;
                if this != libc::EACCES {
                    break;
                }
            }
        }
        let mut head = [0u8; HEAD];
        if why == libc::ENOENT {
            // If the file does exist, its interpreter is missing: the file's first bytes name it.
            for (path, index) in list(&child.paths).zip(0u16..) {
                let fd = libc::open(path, libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK);
                let size = if fd < 0 { -1 } else { libc::read(fd, head.as_mut_ptr().cast(), HEAD) };
                if let Ok(size) = usize::try_from(size) {
                    return Failure { errno: why, path: index, head, size };
                }
            }
        }
        Failure { errno: why, path: 0, head, size: 0 }
    }
}

fn list(pointers: &[*const libc::c_char]) -> impl Iterator<Item = *const libc::c_char> {
    pointers.iter().copied().take_while(|pointer| !pointer.is_null())
}

fn errno() -> i32 {
    // SAFETY: it is this thread's.
    unsafe { *libc::__errno_location() }
}

/// Whether a change of the daemon's file may have been interrupted. If unsure, it says yes, and the applet that recovers
/// finds out.
///
/// # Safety
/// All pointers are valid.
unsafe fn is_interrupted(recovery: &Recovery) -> bool {
    // SAFETY: as promised; the rest takes numbers, or pointers to what is on this stack.
    unsafe {
        for path in list(&recovery.leftovers) {
            let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
            if libc::lstat(path, stat.as_mut_ptr()) == 0 {
                return true;
            }
        }
        let fd = libc::open(recovery.record, libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOFOLLOW);
        if fd < 0 {
            return !matches!(errno(), libc::ENOENT | libc::ENOTDIR);
        }
        let mut record = [0u8; MAX_RECORD];
        let mut size = 0;
        while let Some(rest) = record.get_mut(size..).filter(|rest| !rest.is_empty()) {
            match usize::try_from(libc::read(fd, rest.as_mut_ptr().cast(), rest.len())) {
                Ok(0) => break,
                Ok(n) => size += n,
                Err(_) => return true,
            }
        }
        libc::close(fd);
        let record = record.get(..size).unwrap_or_default();
        size == MAX_RECORD || record.windows(INTERRUPTED.len()).any(|bytes| bytes == INTERRUPTED)
    }
}

/// Reports what failed, and exits.
///
/// # Safety
/// The report's pipe is open.
unsafe fn fail(child: &Child<'_>, step: Step, errno: i32, path: u16, head: &[u8]) -> ! {
    let (report, size) = super::report::failed(step, errno, path, head);
    // SAFETY: the array is on this stack, and has that many bytes. The pipe is empty and takes them all.
    unsafe {
        libc::write(child.report.get(), report.as_ptr().cast(), size);
        libc::_exit(if errno == libc::ENOENT { 127 } else { 126 })
    }
}
