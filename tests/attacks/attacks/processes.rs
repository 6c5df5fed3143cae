//! On other processes, and on init.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;

use nix::libc;
use nix::sys::socket::ControlMessage;

use super::Keeper::{Capabilities, Filter, Processes, Signals};
use super::calls::{
    attach, call, checked, limits, lingering, mapped, notify, open_as_writer, owned, pidfd, queue, read, seize,
};
use super::{Attack, Without, attack};

/// What only a kernel with `dev.tty.legacy_tiocsti` lets anybody do.
pub const PUSH_INPUT: &str = "push input into a terminal (TIOCSTI)";

fn group(pid: i32) -> i32 {
    nix::unistd::getpgid(Some(nix::unistd::Pid::from_raw(pid))).unwrap().as_raw()
}

/// To what the attacker has itself, so that nothing changes: daemons all have init's.
fn prioritize(which: u32, who: i32) -> io::Result<()> {
    call!(libc::SYS_setpriority, which, who, nice()?).map(drop)
}

/// From -20 to 19.
fn nice() -> io::Result<i32> {
    let twenty_less = call!(libc::SYS_getpriority, libc::PRIO_PROCESS, 0)?;
    Ok(20 - i32::try_from(twenty_less).unwrap())
}

/// One byte, read from another's memory, and written back if `is_write`.
fn memory(pid: i32, is_write: bool) -> io::Result<()> {
    let mut byte = [0u8; 1];
    let base = mapped(pid, if is_write { " rw-p" } else { " r" });
    let here = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let there = libc::iovec { iov_base: base as *mut libc::c_void, iov_len: 1 };
    let call = |number| call!(number, pid, &raw const here, 1usize, &raw const there, 1usize, 0usize).map(drop);
    if !is_write {
        return call(libc::SYS_process_vm_readv);
    }
    let _ = call(libc::SYS_process_vm_readv);
    call(libc::SYS_process_vm_writev)
}

/// The kernel signals the owner of a socket on which something comes in: fcntl(2), `F_SETSIG`. It tells nobody that it may not.
fn have_stopped(pid: i32) -> io::Result<()> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    let set = |command: i32, value: i32| call!(libc::SYS_fcntl, theirs.as_raw_fd(), command, value).map(drop);
    // F_SETSIG and F_SETOWN: asm-generic/fcntl.h.
    set(10, libc::SIGSTOP)?;
    set(8, pid)?;
    set(libc::F_SETFL, libc::O_ASYNC)?;
    (&ours).write_all(b"x")?;
    // The signal is pending at once, or it was refused. On a loaded machine it may be pending for long.
    for _ in 0..50 {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let pending = status
            .lines()
            .filter_map(|line| line.split_once("Pnd:\t"))
            .any(|(_, mask)| u64::from_str_radix(mask, 16).is_ok_and(|mask| mask & 1 << (libc::SIGSTOP - 1) != 0));
        if pending || status.contains("\nState:\tT") {
            return call!(libc::SYS_kill, pid, libc::SIGCONT).map(drop);
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    Err(io::Error::from_raw_os_error(libc::EPERM))
}

static UNLOCKED: i32 = 0;

/// The attacker's own, as its controlling one if that is possible; else stdin, of which the kernel would say that it is none.
fn push_input() -> io::Result<()> {
    let push = |fd: i32| call!(libc::SYS_ioctl, fd, libc::TIOCSTI, c"x".as_ptr()).map(drop);
    let Ok(terminal) = fs::OpenOptions::new().read(true).write(true).open("/dev/ptmx") else { return push(0) };
    super::calls::forked(|| {
        call!(libc::SYS_setsid)?;
        call!(libc::SYS_ioctl, terminal.as_raw_fd(), libc::TIOCSPTLCK, &raw const UNLOCKED)?;
        let slave = call!(libc::SYS_ioctl, terminal.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR).map(owned)?;
        call!(libc::SYS_ioctl, slave.as_raw_fd(), libc::TIOCSCTTY, 0)?;
        push(slave.as_raw_fd())
    })
}

/// A counter of the processor time that a process uses.
fn count(pid: i32) -> io::Result<()> {
    let mut attributes = [0u8; 112];
    // PERF_TYPE_SOFTWARE, its size, PERF_COUNT_SW_TASK_CLOCK; of user space alone: perf_event_open(2).
    attributes[0] = 1;
    attributes[4] = 112;
    attributes[8] = 1;
    attributes[40] = 0b110_0000;
    call!(libc::SYS_perf_event_open, attributes.as_ptr(), pid, -1, -1, 0).map(owned).map(drop)
}

pub const ATTACKS: &[Attack] = &[
    attack("read a sibling's environment", "EACCES", Processes, |prey| read(format!("/proc/{}/environ", prey.another))),
    attack("open a sibling's memory (/proc/PID/mem)", "EACCES", Processes, |prey| {
        fs::File::open(format!("/proc/{}/mem", prey.another)).map(drop)
    }),
    attack("read a sibling's memory (process_vm_readv)", "EPERM", Filter, |prey| memory(prey.another, false)),
    attack("write to a sibling's memory (process_vm_writev)", "EPERM", Filter, |prey| memory(prey.another, true)),
    attack("read a sibling's memory map", "EACCES", Processes, |prey| read(format!("/proc/{}/maps", prey.another))),
    attack("take a sibling's descriptor (pidfd_getfd)", "EPERM", Filter, |prey| {
        let pidfd = pidfd(prey.another)?;
        call!(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), 1, 0).map(owned).map(drop)
    }),
    attack("trace a sibling (PTRACE_SEIZE)", "EPERM", Filter, |prey| seize(prey.another)),
    attack("trace and stop a sibling (PTRACE_ATTACH)", "EPERM", Filter, |prey| attach(prey.another)),
    attack("count a sibling's instructions (perf)", "EACCES", Processes, |prey| count(prey.another)),
    attack("signal a sibling", "EPERM", Signals, |prey| call!(libc::SYS_kill, prey.another, libc::SIGWINCH).map(drop)),
    attack("stop a sibling (SIGSTOP)", "EPERM", Signals, |prey| {
        call!(libc::SYS_kill, prey.another, libc::SIGSTOP)?;
        call!(libc::SYS_kill, prey.another, libc::SIGCONT).map(drop)
    }),
    attack("signal a sibling's process group", "EPERM", Signals, |prey| {
        call!(libc::SYS_kill, -group(prey.another), libc::SIGWINCH).map(drop)
    }),
    attack("signal a sibling's thread (tgkill)", "EPERM", Signals, |prey| {
        call!(libc::SYS_tgkill, prey.another, prey.another, libc::SIGWINCH).map(drop)
    }),
    attack("queue a signal for a sibling (sigqueue)", "EPERM", Signals, |prey| queue(prey.another)),
    attack("have the kernel signal a sibling (F_SETOWN)", "EPERM", Filter, |prey| have_stopped(prey.another)),
    attack("signal a sibling through a pidfd", "EPERM", Filter, |prey| {
        let pidfd = pidfd(prey.another)?;
        call!(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGWINCH, 0usize, 0).map(drop)
    }),
    attack("set a sibling's limits (prlimit)", "EPERM", Filter, |prey| limits(prey.another)),
    attack("set a sibling's priority", "EPERM", Filter, |prey| prioritize(libc::PRIO_PROCESS, prey.another)),
    attack("set the priority of a sibling's process group", "EPERM", Filter, |prey| {
        prioritize(libc::PRIO_PGRP, group(prey.another))
    }),
    attack("set the priority of all the user's processes", "EPERM", Filter, |_| prioritize(libc::PRIO_USER, 0)),
    attack("set a sibling's I/O priority", "EPERM", Filter, |prey| {
        call!(libc::SYS_ioprio_set, 1, prey.another, 0x4004).map(drop)
    }),
    attack("set the I/O priority of all the user's processes", "EPERM", Filter, |_| {
        call!(libc::SYS_ioprio_set, 3, nix::unistd::getuid().as_raw(), 0x4004).map(drop)
    }),
    attack("set a sibling's scheduler (sched_setscheduler)", "EPERM", Filter, |prey| {
        let zero = 0i32;
        call!(libc::SYS_sched_setscheduler, prey.another, libc::SCHED_OTHER, &raw const zero).map(drop)
    }),
    attack("set a sibling's scheduling parameters (sched_setparam)", "EPERM", Filter, |prey| {
        let zero = 0i32;
        call!(libc::SYS_sched_setparam, prey.another, &raw const zero).map(drop)
    }),
    attack("set a sibling's scheduling attributes (sched_setattr)", "EPERM", Filter, |prey| {
        let mut attributes = [0u8; 48];
        attributes[0] = 48;
        attributes[16..20].copy_from_slice(&nice()?.to_ne_bytes());
        call!(libc::SYS_sched_setattr, prey.another, attributes.as_ptr(), 0).map(drop)
    }),
    attack("write to a sibling's stdout, to forge its log", "EACCES", Processes, |prey| {
        open_as_writer(format!("/proc/{}/fd/1", prey.another))
    }),
    attack("make the OOM killer choose a sibling", "EACCES", super::Keeper::Files, |prey| {
        let path = format!("/proc/{}/oom_score_adj", prey.another);
        let mut old = String::new();
        let mut file = fs::OpenOptions::new().read(true).write(true).open(path)?;
        file.read_to_string(&mut old)?;
        file.write_all(old.trim().as_bytes())
    }),
    attack("leave its session", "EPERM", Filter, |_| {
        // No leader of a group may, so a child does.
        super::calls::forked(|| call!(libc::SYS_setsid).map(drop))
    }),
    attack("leave its process group", "EPERM", Filter, |_| {
        super::calls::forked(|| call!(libc::SYS_setpgid, 0, 0).map(drop))
    }),
];

pub const ON_INIT: &[Attack] = &[
    attack("read PID 1's environment", "EACCES", Processes, |_| read("/proc/1/environ")),
    attack("open PID 1's memory (/proc/1/mem)", "EACCES", Processes, |_| fs::File::open("/proc/1/mem").map(drop)),
    attack("write to PID 1's memory (process_vm_writev)", "EPERM", Filter, |_| memory(1, true)),
    attack("take a descriptor of PID 1's (pidfd_getfd)", "EPERM", Filter, |_| {
        let pidfd = pidfd(1)?;
        call!(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), 1, 0).map(owned).map(drop)
    }),
    attack("compare its descriptors with PID 1's (kcmp)", "EPERM", Filter, |_| {
        call!(libc::SYS_kcmp, std::process::id(), 1, 0, 0usize, 0usize).map(drop)
    }),
    attack("trace PID 1 (PTRACE_SEIZE)", "EPERM", Filter, |_| seize(1)),
    attack("trace and stop PID 1 (PTRACE_ATTACH)", "EPERM", Filter, |_| attach(1)),
    attack("signal PID 1", "EPERM", Filter, |_| call!(libc::SYS_kill, 1, libc::SIGWINCH).map(drop)),
    attack("queue a signal for PID 1 (sigqueue)", "EPERM", Filter, |_| queue(1)),
    attack("set PID 1's limits, to end it (prlimit)", "EPERM", Filter, |_| limits(1)),
    attack("set PID 1's priority", "EPERM", Filter, |_| prioritize(libc::PRIO_PROCESS, 1)),
    attack("open PID 1's mount namespace, to enter it", "EACCES", Processes, |_| {
        fs::File::open("/proc/1/ns/mnt").map(drop)
    }),
    attack("write to the container's log past init", "EACCES", Processes, |_| {
        // To open it is enough: nothing is forged.
        open_as_writer("/proc/1/fd/1")
    }),
    attack("read init's status page from its descriptor", "EACCES", Processes, |_| read("/proc/1/fd/100")),
    attack("read how daemons are set up and sandboxed from init's descriptor", "EACCES", Processes, |_| {
        read("/proc/1/fd/103")
    }),
    attack("take the apply lock", "EACCES", Processes, |_| {
        let lock = fs::OpenOptions::new().read(true).write(true).open("/proc/1/fd/102")?;
        // SAFETY: flock(2) takes numbers. It waits for another way's, which ends at once.
        checked(unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX) }.into()).map(drop)
    }),
    attack("ask init to start a sibling", "EACCES", Processes, |prey| {
        // It runs already, so nothing comes of it.
        let line = format!("\nattack-{} start {}\n", std::process::id(), prey.another_name);
        fs::OpenOptions::new().write(true).open("/proc/1/fd/101")?.write_all(line.as_bytes())
    }),
    attack("forge READY=1 for a sibling", "EPERM", Capabilities, |prey| {
        let me = nix::unistd::getuid().as_raw();
        let another = libc::ucred { pid: prey.another, uid: me, gid: nix::unistd::getgid().as_raw() };
        notify(b"READY=1", &[ControlMessage::ScmCredentials(&another.into())])
    })
    .without(Without::NeedsCapability),
    attack("hang init with a lingering socket in a notification", "EACCES", super::Keeper::Tcp, |prey| {
        let stream = lingering(prey.open_port)?;
        notify(b"READY=1", &[ControlMessage::ScmRights(&[stream.as_raw_fd()])])
    })
    .without(Without::InitRefuses),
    attack(PUSH_INPUT, "EPERM", Filter, |_| push_input()),
];
