//! Starts a daemon's process.

use std::ffi::{CString, OsString};
use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::unistd::pipe2;

/// All that execve(2) needs, made before the fork: nothing may allocate between fork and exec.
pub struct Program {
    paths: Vec<CString>,
    argv: Vec<CString>,
    envp: Vec<CString>,
    ignore: Vec<i32>,
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
    pub fn new(command: &[String], env: Vec<(OsString, OsString)>, ignore: Vec<i32>) -> Self {
        let name = command.first().map_or("", String::as_str);
        let path = env.iter().find(|(k, _)| k == "PATH").map(|(_, v)| v.clone());
        let dirs = path.unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin"));
        let paths = if name.contains('/') {
            vec![name.as_bytes().to_vec()]
        } else {
            std::env::split_paths(&dirs).map(|dir| dir.join(name).into_os_string().into_vec()).collect()
        };
        let c = |bytes: Vec<u8>| CString::new(bytes).ok();
        let pair = |(k, v): (OsString, OsString)| c([k.into_vec(), b"=".to_vec(), v.into_vec()].concat());
        Self {
            paths: paths.into_iter().filter_map(c).collect(),
            argv: command.iter().filter_map(|a| c(a.as_bytes().to_vec())).collect(),
            envp: env.into_iter().filter_map(pair).collect(),
            ignore,
        }
    }

    /// Forks and executes; returns once the child has executed or failed to.
    ///
    /// # Errors
    /// The step that failed, and why.
    pub fn start(&self, null: &OwnedFd, caught: &[i32]) -> Result<Started, NotStarted> {
        let no_pipe = |e| NotStarted::Before("make a pipe", e);
        let (stdout, out) = pipe2(OFlag::O_CLOEXEC).map_err(no_pipe)?;
        let (stderr, err) = pipe2(OFlag::O_CLOEXEC).map_err(no_pipe)?;
        let (told, tell) = pipe2(OFlag::O_CLOEXEC).map_err(no_pipe)?;
        for fd in [&stdout, &stderr] {
            // Each end of a pipe is a description of its own: the daemon's stays blocking.
            fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(no_pipe)?;
        }
        let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
            list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let (argv, envp) = (pointers(&self.argv), pointers(&self.envp));
        let (null, out, err) = (null.as_raw_fd(), out, err);
        let fds = [null, out.as_raw_fd(), err.as_raw_fd()];
        let mut old = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: both sets are valid for writes. All signals are blocked until the child has its own dispositions:
        // one of init's handlers in the child would write into init's own pipe.
        unsafe {
            let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
            libc::sigfillset(all.as_mut_ptr());
            libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), old.as_mut_ptr());
        }
        // SAFETY: init has one thread, and the child makes async-signal-safe calls only, on memory made before.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: as above; `execute` never returns.
            unsafe { execute(self, &argv, &envp, fds, caught, tell.as_raw_fd()) }
        }
        let failed = (pid < 0).then(Errno::last);
        // SAFETY: `old` was filled in above.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, old.as_ptr(), std::ptr::null_mut()) };
        if let Some(e) = failed {
            return Err(NotStarted::Before("fork", e));
        }
        drop((tell, out, err));
        let mut errno = [0u8; 4];
        let read = loop {
            match nix::unistd::read(&told, &mut errno) {
                Err(Errno::EINTR) => {}
                other => break other.unwrap_or(0),
            }
        };
        if read == 0 {
            return Ok(Started { pid, stdout, stderr });
        }
        // SAFETY: waitpid(2) on our own child, which has failed to execute and exits at once; no status is kept.
        while unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) } < 0 && Errno::last() == Errno::EINTR {}
        let name = self.argv.first().map(|name| name.to_string_lossy().into_owned());
        Err(NotStarted::Execute(name.unwrap_or_default(), Errno::from_raw(i32::from_ne_bytes(errno))))
    }
}

/// The child's side. SAFETY: only async-signal-safe calls (signal-safety(7)), no allocation, never returns.
unsafe fn execute(
    program: &Program,
    argv: &[*const libc::c_char],
    envp: &[*const libc::c_char],
    fds: [i32; 3],
    caught: &[i32],
    tell: i32,
) -> ! {
    // SAFETY: pointers are to NUL-terminated strings and arrays that outlive the call; the rest takes numbers.
    unsafe {
        libc::setsid();
        for (fd, target) in fds.into_iter().zip(0..) {
            libc::dup2(fd, target);
        }
        for signal in caught {
            libc::signal(*signal, libc::SIG_DFL);
        }
        for signal in &program.ignore {
            libc::signal(*signal, libc::SIG_IGN);
        }
        let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
        let mut errno = libc::ENOENT;
        for path in &program.paths {
            libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr());
            let this = *libc::__errno_location();
            // As execvp(3) does: look on where it isn't, remember that it may not be executed; but no shell.
            if this != libc::ENOENT && this != libc::ENOTDIR {
                errno = this;
                if this != libc::EACCES {
                    break;
                }
            }
        }
        libc::write(tell, (&raw const errno).cast(), 4);
        libc::_exit(127)
    }
}
