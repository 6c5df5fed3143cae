//! init's signals: which ones it takes, which ones it leaves to the kernel, and how it waits for them.
//!
//! Every signal that init cares about stays blocked for good, and init reads pending ones from a signalfd(2). So init has no
//! handlers: nothing nests, no matter how many signals are queued; no call is ever interrupted; and a child has no handler to
//! undo before its exec.

use std::fmt;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::SigSet;
use nix::sys::time::TimeSpec;

use crate::launch::{LAST_SIGNAL, default_dispositions, set_disposition};
use crate::table::Signal;

/// glibc keeps the real-time signals before this one for itself: signal(7).
const RTMIN: i32 = 34;
/// systemd's signal for a shutdown: images that were made for systemd have it as their STOPSIGNAL.
const RTMIN_PLUS_3: i32 = RTMIN + 3;
/// A request to end the bundle.
const STOPS: [i32; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT];
/// How many signals one round takes, so that a long queue of real-time signals doesn't delay the first ones.
const ROUND: usize = 16;
/// If the kernel doesn't let init poll its descriptors (`RLIMIT_NOFILE` was lowered from outside), it waits this long
/// before it tries again.
const WITHOUT_DESCRIPTORS: Duration = Duration::from_millis(100);

/// The signals that init waits for.
pub struct Signals {
    fd: OwnedFd,
    /// Three sets: all signals that init takes, the same without SIGCHLD, and those that end the bundle.
    all: libc::sigset_t,
    others: libc::sigset_t,
    stops: libc::sigset_t,
    /// A signal that was taken while init waited without descriptors, or let ends of children pile up.
    taken: Option<Pending>,
    /// A SIGCHLD came, or one may have. It is cleared by the next look that finds no ended child.
    pub a_child_ended: bool,
    /// The child that the last SIGCHLD named; others may have ended since.
    pub told_of: Option<i32>,
    /// The last wait was short and brought nothing but ends of orphans.
    pub are_orphans_many: bool,
}

impl Signals {
    /// Starts to wait for these signals and the few that init always takes. `main` has already blocked every signal: the
    /// kernel drops, without an error, what PID 1 neither blocks nor handles (`pid_namespaces`(7)).
    ///
    /// # Errors
    /// No descriptor is left for signalfd(2); init can't run then.
    pub fn take_over(wired: impl IntoIterator<Item = i32>, is_pid_1: bool) -> io::Result<Self> {
        let mut wanted = [libc::SIGCHLD, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGWINCH].to_vec();
        wanted.extend(STOPS);
        // Without a rule these change nothing, but they are logged.
        wanted.push(RTMIN_PLUS_3);
        wanted.extend(wired);
        // Otherwise signals that init was started with ignored would be ignored in its daemons: execve(2) keeps SIG_IGN.
        default_dispositions();
        if is_pid_1 {
            // The kernel drops a signal that PID 1 neither blocks nor handles, so nobody can fill a queue with it.
            let unwanted: Vec<i32> = (RTMIN..=LAST_SIGNAL).filter(|number| !wanted.contains(number)).collect();
            for number in &unwanted {
                // Ignoring a signal also drops one that is already pending: sigaction(2).
                set_disposition(*number, libc::SIG_IGN);
                set_disposition(*number, libc::SIG_DFL);
            }
            let unwanted = set_of(&unwanted);
            // SAFETY: sigprocmask(2) reads a set that was initialised.
            unsafe { libc::sigprocmask(libc::SIG_UNBLOCK, &raw const unwanted, std::ptr::null_mut()) };
        }
        let (all, stops) = (set_of(&wanted), set_of(&STOPS));
        wanted.retain(|number| *number != libc::SIGCHLD);
        let others = set_of(&wanted);
        // `main` has blocked all but those that libc keeps for itself.
        // SAFETY: rt_sigprocmask(2) reads a set that was initialised, its first 8 bytes.
        unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, &raw const all, 0usize, 8usize) };
        // SAFETY: signalfd(2) reads a set that was initialised. nix's own takes no real-time signals.
        let fd = Errno::result(unsafe { libc::signalfd(-1, &raw const all, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) })?;
        // SAFETY: it was made above, and nobody else knows of it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // If another program has executed init, that program's children are now init's.
        let (taken, a_child_ended, told_of) = (None, true, None);
        Ok(Self { fd, all, others, stops, taken, a_child_ended, told_of, are_orphans_many: false })
    }

    /// Lets children's ends pile up for that long, unless another signal comes.
    pub fn let_ends_pile_up(&mut self, time: Duration) {
        if self.taken.is_none() {
            self.taken = next(&self.others, time);
        }
    }

    /// Waits for one of these descriptors or a signal; returns which of the two came.
    ///
    /// ppoll(2) continues by itself after a SIGSTOP or if a debugger attaches, unlike `epoll_wait`(2).
    pub fn wait(&mut self, fds: &[PollFd<'_>], longest: Option<Duration>) -> (bool, bool) {
        let signals = PollFd::new(self.fd.as_fd(), PollFlags::POLLIN);
        let mut all: Vec<PollFd<'_>> = fds.iter().cloned().chain([signals]).collect();
        let is_up = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
        let longest = if self.taken.is_some() { Some(Duration::ZERO) } else { longest };
        match ppoll(&mut all, longest.map(TimeSpec::from), None) {
            Ok(_) => {
                let (signals, others) = all.split_last().map_or((false, &[][..]), |(last, rest)| (is_up(last), rest));
                (others.iter().any(is_up), signals || self.taken.is_some())
            }
            Err(Errno::EINTR) => (false, self.taken.is_some()),
            // It fails if there are more descriptors than RLIMIT_NOFILE allows now (EINVAL), or without memory (ENOMEM).
            // The open ones still work, so all of them are looked at.
            Err(_) => {
                let longest = longest.map_or(WITHOUT_DESCRIPTORS, |longest| longest.min(WITHOUT_DESCRIPTORS));
                if self.taken.is_none() {
                    self.taken = next(&self.all, longest);
                }
                (true, self.taken.is_some())
            }
        }
    }

    /// The pending signals except SIGCHLD; a request to end the bundle comes first.
    pub fn take(&mut self) -> Vec<Caught> {
        let mut infos = [const { MaybeUninit::<libc::signalfd_siginfo>::uninit() }; ROUND];
        // SAFETY: read(2) writes at most that many bytes there.
        let bytes = unsafe { libc::read(self.fd.as_raw_fd(), infos.as_mut_ptr().cast(), size_of_val(&infos)) };
        let count = usize::try_from(bytes).unwrap_or(0) / size_of::<libc::signalfd_siginfo>();
        // Signals sent to init's one thread come before those sent to its process, so an endless stream of the former would
        // hide the latter. And if the descriptor can't be read, waiting for it must not spin.
        let more = match count {
            ROUND => next(&self.stops, Duration::ZERO),
            0 => next(&self.all, Duration::ZERO),
            _ => None,
        };
        // SAFETY: signalfd(2) has filled in this many.
        let read = infos.iter().take(count).map(|info| Pending::from(unsafe { info.assume_init_ref() }));
        let mut others = Vec::new();
        for Pending { number, code, pid } in more.into_iter().chain(self.taken.take()).chain(read) {
            if number == libc::SIGCHLD {
                self.a_child_ended = true;
                // A forged SIGCHLD can only name a wrong pid, which does no harm.
                self.told_of = Some(pid);
            } else {
                others.push(Caught { number, sender: Sender::of(code, pid) });
            }
        }
        others.sort_by_key(|caught| !caught.is_stop());
        others
    }
}

/// What is known of a pending signal: sigaction(2), `siginfo_t`.
struct Pending {
    number: i32,
    code: i32,
    /// The pid of the sender, or of the child that has ended. Meaningless for other signals from the kernel.
    pid: i32,
}

impl From<&libc::signalfd_siginfo> for Pending {
    fn from(info: &libc::signalfd_siginfo) -> Self {
        Self { number: info.ssi_signo.cast_signed(), code: info.ssi_code, pid: info.ssi_pid.cast_signed() }
    }
}

/// Made bit by bit, since nix's own sets hold no real-time signals.
fn set_of(numbers: &[i32]) -> libc::sigset_t {
    let bits = numbers.iter().fold(0u64, |bits, number| bits | 1 << (number - 1));
    let mut set = *SigSet::empty().as_ref();
    // SAFETY: on a 64-bit Linux a sigset_t begins with the kernel's own, which has a bit for each of the 64 signals.
    unsafe { (&raw mut set).cast::<u64>().write_unaligned(bits) };
    set
}

/// Takes one pending signal of a set, the one with the lowest number: sigtimedwait(2).
fn next(set: &libc::sigset_t, longest: Duration) -> Option<Pending> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let longest = TimeSpec::from(longest);
    // SAFETY: the set was initialised, `info` is valid for a write, and the time is on this stack.
    let number = unsafe { libc::sigtimedwait(set, info.as_mut_ptr(), longest.as_ref()) };
    // SAFETY: zeroed, and filled in if there was a signal; any bytes are an int.
    let (code, pid) = unsafe { (info.assume_init_ref().si_code, info.assume_init_ref().si_pid()) };
    (number > 0).then_some(Pending { number, code, pid })
}

/// A signal that was taken.
pub struct Caught {
    /// Its number.
    pub number: i32,
    /// Where it came from.
    pub sender: Sender,
}

impl Caught {
    /// Whether it asks for a shutdown.
    #[must_use]
    pub fn is_stop(&self) -> bool {
        STOPS.contains(&self.number)
    }

    /// Whether it is the SIGWINCH that the kernel sends when a terminal is resized.
    #[must_use]
    pub fn is_resize(&self) -> bool {
        self.number == libc::SIGWINCH && matches!(self.sender, Sender::Kernel)
    }

    /// The signal, if the table could name it.
    #[must_use]
    pub fn signal(&self) -> Option<Signal> {
        Signal::from_number(self.number)
    }
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
    fn of(code: i32, pid: i32) -> Self {
        match (code, pid) {
            (libc::SI_USER | libc::SI_QUEUE | libc::SI_TKILL, 0) => Self::Outside,
            (libc::SI_USER | libc::SI_QUEUE | libc::SI_TKILL, pid) => Self::Process(pid),
            _ => Self::Kernel,
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

/// Sends a signal; to a group if the number is negative.
///
/// # Errors
/// ESRCH: there is none. EPERM: there is, but it is another user's.
pub fn kill(pid: i32, signal: i32) -> nix::Result<()> {
    // SAFETY: kill(2) has no memory effects; nix's own takes no real-time signals.
    Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}
