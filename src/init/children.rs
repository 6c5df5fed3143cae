//! What init looks up about processes: its children's ends, a session's members, a daemon's signal masks.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{Pid, getsid};

use super::signals;
use crate::supervisor::{Disposition, End};
use crate::table::Signal;

/// A child that needs its parent to act.
pub enum Child {
    /// It has ended, and isn't reaped yet.
    Ended(i32, End),
    /// It traces itself (`PTRACE_TRACEME`) and was stopped by this signal until its parent resumes it: ptrace(2).
    Traced(i32, i32),
}

/// Looks for a child that has ended or that a trace has stopped: the given one, or any. It is neither reaped nor resumed.
///
/// # Errors
/// ECHILD: there is none.
pub fn peek(child: Option<i32>) -> nix::Result<Option<Child>> {
    wait(child, libc::WNOWAIT)
}

/// The same for this child, and reaps it.
///
/// # Errors
/// ECHILD: it isn't a child of init.
pub fn reap(child: i32) -> nix::Result<Option<Child>> {
    wait(Some(child), 0)
}

fn wait(child: Option<i32>, more: libc::c_int) -> nix::Result<Option<Child>> {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let (of, id) = child.map_or((libc::P_ALL, 0), |pid| (libc::P_PID, pid.cast_unsigned()));
    // A traced child is reported even without WSTOPPED.
    let flags = libc::WEXITED | libc::WNOHANG | more;
    // SAFETY: info is valid for a write. nix's own waitid fails on a child that a real-time signal killed.
    while unsafe { libc::waitid(of, id, info.as_mut_ptr(), flags) } < 0 {
        if Errno::last() != Errno::EINTR {
            return Err(Errno::last());
        }
    }
    // SAFETY: zeroed, and filled in by waitid(2) if there was a child.
    let (pid, status, code) = unsafe {
        let info = info.assume_init();
        (info.si_pid(), info.si_status(), info.si_code)
    };
    Ok(match code {
        _ if pid == 0 => None,
        libc::CLD_EXITED => Some(Child::Ended(pid, End::Code(status))),
        libc::CLD_KILLED | libc::CLD_DUMPED => Some(Child::Ended(pid, End::Signal(status))),
        _ => Some(Child::Traced(pid, status)),
    })
}

/// Detaches from a child that traces itself and passes on the signal that stopped it, as if it weren't traced.
pub fn detach(pid: i32, signal: i32) {
    // The kernel's own SIGTRAP after an exec is for the tracer only. (The upper bits hold a ptrace event.)
    let signal = if signal & 0x7f == libc::SIGTRAP { 0 } else { signal & 0x7f };
    // SAFETY: ptrace(2) takes numbers here.
    unsafe { libc::ptrace(libc::PTRACE_DETACH, pid, 0usize, usize::try_from(signal).unwrap_or(0)) };
}

/// The session of a process.
pub fn session(pid: i32) -> Option<i32> {
    getsid(Some(Pid::from_raw(pid))).ok().map(Pid::as_raw)
}

/// Whether the process exists and isn't a zombie.
fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// The living processes of a session whose leader has ended; `leaders` are those of the daemons.
///
/// A process that outlives its daemon is an orphan, or descends from one. So if all of init's children are daemons' own processes,
/// nothing is left, and one read shows that. proc(5) warns that `children` may miss some while others are reaped, but only init reaps
/// its children, and it doesn't during the read.
pub fn members(sid: i32, leaders: &[i32]) -> Vec<i32> {
    if let Ok(children) = children() {
        let mut pids = children.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok());
        if pids.all(|pid| pid == sid || leaders.contains(&pid)) {
            return Vec::new();
        }
    }
    let Ok(all) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let members: Vec<i32> = pids.filter(|pid| *pid != sid && session(*pid) == Some(sid) && lives(*pid)).collect();
    // If the leader lives, this is another session that got the same number.
    if !members.is_empty() && lives(sid) { Vec::new() } else { members }
}

/// The pids of init's own children, as proc(5) lists them. They are read in as few pieces as the kernel allows, since it searches for
/// its place in the list anew for each piece.
fn children() -> io::Result<String> {
    let mut file = fs::File::open("/proc/thread-self/children")?;
    let (mut text, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(String::from_utf8_lossy(&text).into_owned()),
            n => text.extend_from_slice(piece.get(..n).unwrap_or_default()),
        }
    }
}

/// Sends a signal to a process if it is of this session: through a pidfd, which can't refer to another process later.
///
/// # Errors
/// ESRCH: it isn't there, or not of this session. Otherwise the kernel refuses.
pub fn kill_member(sid: i32, pid: i32, signal: i32) -> nix::Result<()> {
    // SAFETY: pidfd_open(2) takes numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    // SAFETY: it was made above, and nobody else knows of it.
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    if session(pid) != Some(sid) {
        return Err(Errno::ESRCH);
    }
    let Some(fd) = fd else {
        // Before Linux 5.3, or without a descriptor left.
        return signals::kill(pid, signal);
    };
    // SAFETY: pidfd_send_signal(2) takes no siginfo here.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    Errno::result(result).map(drop)
}

/// What a process would do with a signal: `/proc/PID/status`, proc(5).
pub fn disposition(pid: i32, signal: Signal) -> Disposition {
    let text = match fs::read_to_string(format!("/proc/{pid}/status")) {
        Ok(text) => text,
        // It isn't reaped yet, so it is missing only if this /proc doesn't show processes.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            return Disposition::Unknown;
        }
        // No descriptor is left, for example; the next look may succeed.
        Err(_) => return Disposition::NotTaken,
    };
    let mask = |key: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(key))?;
        u64::from_str_radix(value.trim(), 16).ok()
    };
    match (mask("SigCgt:"), mask("SigBlk:")) {
        (None, None) => Disposition::Unknown,
        (caught, blocked) => {
            let has = |mask: Option<u64>, number: i32| mask.unwrap_or(0) & (1 << (number - 1)) != 0;
            if has(caught, signal.number()) {
                Disposition::Taken
            } else if !has(blocked, signal.number()) {
                Disposition::NotTaken
            } else if has(blocked, libc::SIGSEGV) {
                Disposition::Blocked
            } else {
                Disposition::Taken
            }
        }
    }
}

/// The OOM kills in init's memory cgroup, as the kernel counts them.
pub struct OomKills(u64);

impl OomKills {
    /// Counts from now on.
    #[must_use]
    pub fn count() -> Self {
        Self(oom_kills())
    }

    /// How many there were since the last call.
    pub fn since(&mut self) -> u64 {
        let now = oom_kills();
        now.saturating_sub(std::mem::replace(&mut self.0, now))
    }
}

/// Read from the container's cgroup, version 2 or 1 (cgroups(7)); 0 if it isn't mounted.
fn oom_kills() -> u64 {
    let files = ["/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"];
    let text = files.iter().find_map(|file| fs::read_to_string(file).ok()).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}
