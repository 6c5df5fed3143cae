//! Signals of init: what it catches, and what it hands down.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::raw::WithRawSiginfo;

/// The last signal of Linux, on every machine that this runs on.
const LAST: i32 = 64;

/// Signals that were caught, behind a descriptor that poll(2) can wait for.
pub struct Signals {
    delivery: SignalDelivery<UnixStream, WithRawSiginfo>,
    /// The numbers that are caught.
    pub caught: Vec<i32>,
    /// A SIGCHLD came, or one may have: whoever looks and finds no child that has ended takes it back.
    pub a_child_ended: bool,
    /// All others.
    others: SigSet,
}

impl Signals {
    /// Catches these signals. `main` has blocked every signal before: the kernel drops, without an error, what PID 1
    /// neither blocks nor handles (`pid_namespaces`(7)). They stay blocked but while init waits ([`Self::let_in`]).
    ///
    /// # Errors
    /// Where no socket pair can be had or a signal can't be caught; init can't run then.
    pub fn catch(caught: Vec<i32>) -> io::Result<Self> {
        for number in 1..=LAST {
            // SAFETY: rt_sigaction(2) reads what the kernel calls a sigaction: 32 bytes of zero are SIG_DFL without flags.
            // The call of libc's leaves out two signals that it keeps for itself. Every signal is blocked here. What
            // init was started with ignored would else be ignored in its daemons: execve(2) keeps SIG_IGN.
            unsafe { libc::syscall(libc::SYS_rt_sigaction, number, [0u64; 4].as_ptr(), 0usize, 8usize) };
        }
        let (read, write) = UnixStream::pair()?;
        let delivery = SignalDelivery::with_pipe(read, write, WithRawSiginfo, &caught)?;
        let mut set = SigSet::all();
        for number in &caught {
            let mut raw = *set.as_ref();
            // SAFETY: a sigset_t that SigSet initialised, and a valid signal number.
            unsafe { libc::sigdelset(&raw mut raw, *number) };
            // SAFETY: raw came from an initialised set.
            set = unsafe { SigSet::from_sigset_t_unchecked(raw) };
        }
        // An init that was executed by another program has that one's children.
        Ok(Self { delivery, caught, a_child_ended: true, others: set })
    }

    /// Does something, a wait as a rule, in which the signals may come. They are blocked all the rest of the time: a
    /// thousand orphans that end while one is reaped are one SIGCHLD then, not a thousand calls of the handler, and
    /// a child that shares init's handlers until it executes can't run them.
    pub fn let_in<T>(&self, wait: impl FnOnce() -> T) -> T {
        // Neither can fail: the sets are valid.
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.others), None);
        let result = wait();
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None);
        result
    }

    /// Readable when a signal is there.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.delivery.get_read().as_fd()
    }

    /// The signals caught since the last call, but for SIGCHLD.
    pub fn take(&mut self) -> Vec<Caught> {
        let (children, others): (Vec<_>, Vec<_>) =
            self.delivery.pending().partition(|info| info.si_signo == libc::SIGCHLD);
        self.a_child_ended |= !children.is_empty();
        others.iter().map(|info| Caught { number: info.si_signo, sender: Sender::of(info) }).collect()
    }
}

/// A signal that was caught.
pub struct Caught {
    /// Its number.
    pub number: i32,
    /// Where it came from.
    pub sender: Sender,
}

/// Where a signal came from: sigaction(2), `si_code`.
pub enum Sender {
    /// A process of this pid namespace.
    Process(i32),
    /// A process that this pid namespace doesn't show, as `docker kill` is.
    Outside,
    /// The kernel, as for a key at the terminal.
    Kernel,
}

impl Sender {
    fn of(info: &libc::siginfo_t) -> Self {
        if !matches!(info.si_code, libc::SI_USER | libc::SI_QUEUE | libc::SI_TKILL) {
            return Self::Kernel;
        }
        // SAFETY: the kernel fills in si_pid for a signal that a process sent.
        match unsafe { info.si_pid() } {
            0 => Self::Outside,
            pid => Self::Process(pid),
        }
    }
}

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(pid) => write!(f, "pid {pid}"),
            Self::Outside => f.write_str("outside of this pid namespace"),
            Self::Kernel => f.write_str("the kernel"),
        }
    }
}

/// Sends a signal; to a group where the number is negative.
///
/// # Errors
/// ESRCH: there is none. EPERM: there is, but it is another user's.
pub fn kill(pid: i32, signal: i32) -> nix::Result<()> {
    // SAFETY: kill(2) has no memory effects; nix's own takes no real-time signals.
    Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}
