//! Signals of init: what it catches, and what it hands down.

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, ppoll};
use nix::sys::signal::SigSet;
use nix::sys::time::TimeSpec;
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::raw::WithRawSiginfo;

/// The last signal of Linux, on every machine that this runs on.
const LAST: i32 = 64;

/// The signals that init catches, and those that came.
pub struct Signals {
    delivery: SignalDelivery<UnixStream, WithRawSiginfo>,
    /// The numbers that are caught.
    pub caught: Vec<i32>,
    /// A SIGCHLD came, or one may have: whoever looks and finds no child that has ended takes it back.
    pub a_child_ended: bool,
    /// A child that its SIGCHLD told of; others may have ended since.
    pub told_of: Option<i32>,
    /// All others.
    others: SigSet,
}

impl Signals {
    /// Catches these signals. `main` has blocked every signal before: the kernel drops, without an error, what PID 1
    /// neither blocks nor handles (`pid_namespaces`(7)). They stay blocked but while init waits ([`Self::wait`]).
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
        Ok(Self { delivery, caught, a_child_ended: true, told_of: None, others: set })
    }

    /// Waits for one of these descriptors, or a signal; tells which of the two came. Signals are blocked all the rest of
    /// the time: a thousand orphans that end while one is reaped are one SIGCHLD then, not a thousand calls of the
    /// handler, and a child that shares init's handlers until it executes can't run them.
    ///
    /// Where no handler ran, as at a debugger's coming or a SIGCONT, ppoll(2) goes on, unlike `epoll_wait`(2).
    pub fn wait(&self, fds: &mut [PollFd<'_>], longest: Option<Duration>) -> (bool, bool) {
        let ready = ppoll(fds, longest.map(TimeSpec::from), Some(self.others));
        let is_up = ready.is_ok_and(|n| n > 0);
        // Where a descriptor is up at once no signal is let in, and under a flood of log one always is.
        let ready = if is_up { ppoll(&mut [], Some(TimeSpec::from(Duration::ZERO)), Some(self.others)) } else { ready };
        (is_up, ready.is_err())
    }

    /// The signals caught since the last call, but for SIGCHLD.
    pub fn take(&mut self) -> Vec<Caught> {
        let (children, others): (Vec<_>, Vec<_>) =
            self.delivery.pending().partition(|info| info.si_signo == libc::SIGCHLD);
        self.a_child_ended |= !children.is_empty();
        // SAFETY: the kernel fills in si_pid of every SIGCHLD; whoever sends one can only name another pid.
        self.told_of = children.last().map(|info| unsafe { info.si_pid() });
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
