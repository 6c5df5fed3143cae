//! Starts a daemon's process.

use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::unistd::{dup3, pipe2};

/// All that execve(2) needs, made before the fork: nothing may allocate between fork and exec.
pub struct Program {
    paths: Vec<CString>,
    argv: Vec<CString>,
    envp: Environment,
    ignore: Vec<i32>,
}

/// What a daemon's stdio is made of, at numbers below all of init's other descriptors: stdin, and a place for each of
/// the two pipes' ends, which hold nothing between two starts.
///
/// So the child can share init's table of descriptors (`CLONE_FILES`) until it takes a copy of its lowest few:
/// else the kernel would copy and close again, among 400 daemons, 800 descriptors at each start.
pub struct Stdio {
    places: [OwnedFd; 3],
    can_share: bool,
}

impl Stdio {
    /// Before init opens anything else. `can_share`: `close_range`(2) is there (Linux 5.9), and nothing forbids it.
    ///
    /// # Errors
    /// Where /dev/null can't be opened.
    pub fn open(can_share: bool) -> std::io::Result<Self> {
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null");
        let null = OwnedFd::from(null.map_err(|e| std::io::Error::other(format!("/dev/null: {e}")))?);
        let (out, err) = (null.try_clone()?, null.try_clone()?);
        Ok(Self { places: [null, out, err], can_share })
    }

    /// Puts the two pipes' ends in place.
    fn place(&mut self, out: &OwnedFd, err: &OwnedFd) -> nix::Result<()> {
        let [_, out_place, err_place] = &mut self.places;
        dup3(out, out_place, OFlag::O_CLOEXEC)?;
        dup3(err, err_place, OFlag::O_CLOEXEC)
    }

    /// Lets go of them. (It can't fail: all of them are open.)
    fn clear(&mut self) {
        let [null, out_place, err_place] = &mut self.places;
        for place in [out_place, err_place] {
            let _ = dup3(&*null, place, OFlag::O_CLOEXEC);
        }
    }

    /// The first number beyond.
    fn beyond(&self) -> libc::c_uint {
        let last = self.places.iter().map(AsRawFd::as_raw_fd).max().unwrap_or(2);
        libc::c_uint::try_from(last + 1).unwrap_or(3)
    }
}

/// An environment, which many daemons share.
#[derive(Clone)]
pub struct Environment(Rc<[CString]>);

impl Environment {
    /// init's own, without this variable.
    #[must_use]
    pub fn inherited(without: &str) -> Self {
        let pair = |(k, v): (OsString, OsString)| [k.into_vec(), b"=".to_vec(), v.into_vec()].concat();
        let pairs = std::env::vars_os().filter(|(key, _)| key != without).map(pair);
        Self(pairs.filter_map(|pair| CString::new(pair).ok()).collect())
    }

    /// The same and one more.
    #[must_use]
    pub fn with(&self, key: &str, value: &str) -> Self {
        Self(self.0.iter().cloned().chain(CString::new(format!("{key}={value}")).ok()).collect())
    }
}

/// A started process and the ends of the pipes that its output comes through.
pub struct Started {
    /// The process; it leads a session and a process group of its own.
    pub pid: i32,
    /// Its stdout.
    pub stdout: OwnedFd,
    /// Its stderr.
    pub stderr: OwnedFd,
}

/// Why a daemon's process doesn't run.
#[derive(Debug)]
pub enum NotStarted {
    /// A step before execve(2) failed.
    Before(&'static str, Errno),
    /// execve(2) failed for this program.
    Execute(String, Errno),
}

impl NotStarted {
    /// The exit code that it counts as, as a shell has it.
    #[must_use]
    pub fn code(&self) -> i32 {
        if matches!(self, Self::Execute(_, Errno::ENOENT)) { 127 } else { 126 }
    }
}

impl fmt::Display for NotStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Before(step, e) => write!(f, "cannot {step}: {}", std::io::Error::from(*e)),
            Self::Execute(program, e) => write!(f, "cannot execute {program}: {}", std::io::Error::from(*e)),
        }
    }
}

impl Program {
    /// Looks the program up in PATH where its name has no slash. `env` is the daemon's whole environment.
    #[must_use]
    pub fn new(command: &[String], env: &Environment, ignore: Vec<i32>) -> Self {
        let name = command.first().map_or("", String::as_str);
        let path = env.0.iter().find_map(|pair| pair.to_bytes().strip_prefix(b"PATH="));
        let dirs = OsStr::from_bytes(path.unwrap_or(b"/usr/local/bin:/usr/bin:/bin"));
        let paths = if name.contains('/') {
            vec![name.as_bytes().to_vec()]
        } else {
            std::env::split_paths(dirs).map(|dir| dir.join(name).into_os_string().into_vec()).collect()
        };
        let c = |bytes: Vec<u8>| CString::new(bytes).ok();
        Self {
            paths: paths.into_iter().filter_map(c).collect(),
            argv: command.iter().filter_map(|a| c(a.as_bytes().to_vec())).collect(),
            envp: env.clone(),
            ignore,
        }
    }

    /// Starts the process; returns once it has executed its program or failed to.
    ///
    /// As `posix_spawn`(3) does, it borrows init's memory until then (`CLONE_VM | CLONE_VFORK`): no page table is
    /// copied, none of init's pages is copied on a later write, and a failure is told without a pipe. Every signal is
    /// blocked here (`Signals::wait`): one of init's handlers in the child would write into init's own pipe. See
    /// [`Stdio`] for its descriptors.
    ///
    /// # Errors
    /// The step that failed, and why.
    pub fn start(&self, stdio: &mut Stdio, caught: &[i32]) -> Result<Started, NotStarted> {
        let no_pipe = |e| NotStarted::Before("make a pipe", e);
        let (stdout, out) = pipe2(OFlag::O_CLOEXEC).map_err(no_pipe)?;
        let (stderr, err) = pipe2(OFlag::O_CLOEXEC).map_err(no_pipe)?;
        for fd in [&stdout, &stderr] {
            // Each end of a pipe is a description of its own: the daemon's stays blocking.
            fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(no_pipe)?;
        }
        let pid = stdio.place(&out, &err).map_err(no_pipe).and_then(|()| self.execute(stdio, caught));
        stdio.clear();
        Ok(Started { pid: pid?, stdout, stderr })
    }

    fn execute(&self, stdio: &mut Stdio, caught: &[i32]) -> Result<i32, NotStarted> {
        let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
            list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let mut child = Child {
            program: self,
            argv: pointers(&self.argv),
            envp: pointers(&self.envp.0),
            fds: stdio.places.each_ref().map(AsRawFd::as_raw_fd),
            beyond: stdio.beyond(),
            shares: false,
            caught,
            failed: None,
        };
        let child: *mut Child<'_> = &raw mut child;
        let mut stack = Stack([std::mem::MaybeUninit::uninit(); STACK]);
        let mut clone = |shared| {
            let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD | shared;
            // SAFETY: init has one thread, and it stands still until the child has executed or ended (clone(2)): `child`
            // and `stack` outlive its use of them. The child makes async-signal-safe calls only, on memory made before.
            Errno::result(unsafe {
                (*child).shares = shared != 0;
                libc::clone(execute, (&raw mut stack.0).cast::<u8>().add(STACK).cast(), flags, child.cast())
            })
        };
        let mut pid = clone(if stdio.can_share { libc::CLONE_FILES } else { 0 });
        // An emulator that makes a fork of it knows no sharing.
        if stdio.can_share && pid == Err(Errno::EINVAL) {
            stdio.can_share = false;
            pid = clone(0);
        }
        let pid = pid.map_err(|e| NotStarted::Before("fork", e))?;
        // SAFETY: the child, which may have written it, is gone from this memory; volatile, as the compiler saw no write.
        let Some((step, errno)) = (unsafe { (&raw const (*child).failed).read_volatile() }) else { return Ok(pid) };
        // SAFETY: waitpid(2) on our own child, which has failed to execute and exits at once; no status is kept.
        while unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) } < 0 && Errno::last() == Errno::EINTR {}
        let name = self.argv.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let errno = Errno::from_raw(errno);
        Err(match step {
            Step::Descriptors => NotStarted::Before("have descriptors of its own", errno),
            Step::Execute => NotStarted::Execute(name, errno),
        })
    }
}

/// What the child finds in the memory that it borrows.
struct Child<'a> {
    program: &'a Program,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
    fds: [i32; 3],
    /// The first number of a descriptor that isn't the daemon's.
    beyond: libc::c_uint,
    /// It has init's own table of descriptors so far.
    shares: bool,
    caught: &'a [i32],
    /// Where it could not execute: what failed, and the errno.
    failed: Option<(Step, i32)>,
}

/// What can fail in the child.
#[derive(Clone, Copy)]
enum Step {
    Descriptors,
    Execute,
}

/// What the child's few calls need, with room to spare.
const STACK: usize = 8 * 1024;

#[repr(align(16))]
struct Stack([std::mem::MaybeUninit<u8>; STACK]);

/// The child's side: only async-signal-safe calls (signal-safety(7)), no allocation; it ends, or is another program.
extern "C" fn execute(child: *mut libc::c_void) -> libc::c_int {
    let child = child.cast::<Child<'_>>();
    // SAFETY: `child` is valid and nobody else's while the parent stands still; its pointers are to NUL-terminated
    // strings and arrays that outlive the call; the rest takes numbers.
    unsafe {
        // The copy that this takes has none from `beyond` on. Before it a dup2 would be one of init's own.
        let unshare = libc::CLOSE_RANGE_UNSHARE;
        if (*child).shares && libc::syscall(libc::SYS_close_range, (*child).beyond, libc::c_uint::MAX, unshare) != 0 {
            fail(child, Step::Descriptors, *libc::__errno_location());
        }
        libc::setsid();
        for (fd, target) in (*child).fds.into_iter().zip(0..) {
            libc::dup2(fd, target);
        }
        for signal in (*child).caught {
            libc::signal(*signal, libc::SIG_DFL);
        }
        for signal in &(*child).program.ignore {
            libc::signal(*signal, libc::SIG_IGN);
        }
        let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
        let mut errno = libc::ENOENT;
        for path in &(*child).program.paths {
            libc::execve(path.as_ptr(), (*child).argv.as_ptr(), (*child).envp.as_ptr());
            let this = *libc::__errno_location();
            // As execvp(3) does: look on where it isn't, remember that it may not be executed; but no shell.
            if this != libc::ENOENT && this != libc::ENOTDIR {
                errno = this;
                if this != libc::EACCES {
                    break;
                }
            }
        }
        fail(child, Step::Execute, errno)
    }
}

/// The child's end.
///
/// # Safety
/// `child` is valid and nobody else's.
unsafe fn fail(child: *mut Child<'_>, step: Step, errno: i32) -> ! {
    // SAFETY: so it is; _exit(2) takes a number.
    unsafe {
        (&raw mut (*child).failed).write_volatile(Some((step, errno)));
        // Under an emulator that makes a fork of this nobody reads it: the exit code says the same.
        libc::_exit(if errno == libc::ENOENT { 127 } else { 126 })
    }
}
