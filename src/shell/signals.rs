//! Signals of init: what it catches, and what it hands down.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::raw::WithRawSiginfo;

/// Signals that were caught, behind a descriptor that poll(2) can wait for.
pub struct Signals {
    delivery: SignalDelivery<UnixStream, WithRawSiginfo>,
    /// The numbers that are caught.
    pub caught: Vec<i32>,
}

impl Signals {
    /// Catches and unblocks these signals; all others stay blocked. `main` has blocked every signal before: the
    /// kernel drops, without an error, what PID 1 neither blocks nor handles (`pid_namespaces`(7)).
    ///
    /// # Errors
    /// Where no socket pair can be had or a signal can't be caught; init can't run then.
    pub fn catch(caught: Vec<i32>) -> io::Result<Self> {
        for number in 1..=libc::SIGSYS {
            // SAFETY: signal(2) with SIG_DFL has no memory effects, and every signal is blocked here. What init was
            // started with ignored would else be ignored in its daemons: execve(2) keeps SIG_IGN.
            unsafe { libc::signal(number, libc::SIG_DFL) };
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
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&set), None)?;
        Ok(Self { delivery, caught })
    }

    /// Readable when a signal is there.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.delivery.get_read().as_fd()
    }

    /// The signals caught since the last call: number and sender (0: outside of this pid namespace).
    pub fn take(&mut self) -> Vec<(i32, i32)> {
        self.delivery
            .pending()
            // SAFETY: the kernel filled in si_pid for a signal that a process sent; for others it is 0 or a child.
            .map(|info| (info.si_signo, unsafe { info.si_pid() }))
            .collect()
    }
}

/// Sends a signal; an error means that the process is gone already, which its end will tell.
pub fn kill(pid: i32, signal: i32) -> bool {
    // SAFETY: kill(2) has no memory effects; nix's own takes no real-time signals.
    unsafe { libc::kill(pid, signal) == 0 }
}
