//! The attacks. Each does no more harm than it must to show that it works.

use std::ffi::CString;
use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg, setsockopt, sockopt};

pub struct Attack {
    pub name: &'static str,
    /// What becomes of it in the sandbox.
    pub expected: &'static str,
    run: fn(&Prey) -> io::Result<()>,
}

/// As the daemon's child, as an orphan of its own, and as another program that executes it.
pub const WAYS: &[&str] = &["child", "orphan", "exec"];

/// What is attacked.
struct Prey {
    dir: PathBuf,
    /// beta's process.
    beta: i32,
    open_port: u16,
    free_port: u16,
}

/// The daemon: runs all attacks, one after the other, once it may.
pub fn all() {
    let me = std::env::current_exe().unwrap();
    let dir = std::env::current_dir().unwrap();
    while !dir.join("alpha/go").exists() {
        std::thread::sleep(std::time::Duration::from_millis(3));
    }
    for attack in ATTACKS {
        for way in WAYS {
            let mut command = match *way {
                "child" => Command::new(&me),
                // Nobody waits for it but init; the shell that reads its line ends with it.
                "orphan" => shell("(\"$@\" & ) | cat", &me),
                _ => shell("exec \"$@\"", &me),
            };
            command.args(["--exact", "the_program_that_attacks", "--nocapture", "--test-threads=1"]);
            let output = command.env("ATTACKER", attack.name).stdin(Stdio::null()).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let result = text.lines().find_map(|line| line.strip_prefix("result ")).map(str::to_owned);
            let result = result.unwrap_or_else(|| match output.status.signal() {
                Some(signal) => format!("signal-{signal}"),
                None if *way == "orphan" => "no-word".to_owned(),
                None => format!("code-{}", output.status.code().unwrap_or(-1)),
            });
            println!("\nattack {} {way} {result}", attack.name);
        }
    }
    loop {
        std::thread::sleep(std::time::Duration::from_secs(1000));
    }
}

fn shell(script: &str, program: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script, "-"]).arg(program);
    command
}

/// One attack: prints what came of it.
pub fn one(name: &str) {
    let port = |name| std::env::var(name).unwrap().parse().unwrap();
    let prey = Prey {
        dir: std::env::current_dir().unwrap(),
        beta: find("1000000001"),
        open_port: port("OPEN_PORT"),
        free_port: port("FREE_PORT"),
    };
    let attack = ATTACKS.iter().find(|attack| attack.name == name).unwrap();
    let result = match (attack.run)(&prey) {
        Ok(()) => "ok".to_owned(),
        Err(e) => e
            .raw_os_error()
            .map_or_else(|| format!("{e:?}"), |errno| format!("{:?}", nix::errno::Errno::from_raw(errno))),
    };
    println!("\nresult {}", result.replace(' ', "-"));
    io::stdout().flush().unwrap();
}

/// The process with this argument: command lines can be read by everybody.
fn find(argument: &str) -> i32 {
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let has = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == argument.as_bytes())
    };
    all.filter(|pid| has(pid)).min().unwrap_or(-1)
}

fn checked(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

macro_rules! call {
    ($number:expr $(, $argument:expr)*) => {
        // SAFETY: the pointers among the arguments lead to what lives through the call.
        checked(unsafe { libc::syscall($number $(, $argument)*) })
    };
}

/// A descriptor that a call has made.
fn owned(fd: i64) -> OwnedFd {
    // SAFETY: it was made by the call just before, and nobody else knows of it.
    unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) }
}

fn write(path: PathBuf) -> io::Result<()> {
    fs::OpenOptions::new().append(true).open(path).map(drop)
}

fn read(path: PathBuf) -> io::Result<()> {
    fs::read(path).map(drop)
}

fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    call!(libc::SYS_socket, family, kind, protocol).map(owned)
}

fn loopback(port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: 2,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
        sin_zero: [0; 8],
    }
}

fn send_to(socket: &OwnedFd, flags: i32, port: u16) -> io::Result<()> {
    let (to, size) = (loopback(port), size_of::<libc::sockaddr_in>());
    call!(libc::SYS_sendto, socket.as_raw_fd(), c"x".as_ptr(), 1usize, flags, &raw const to, size).map(drop)
}

fn limits(pid: i32) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    call!(libc::SYS_prlimit64, pid, libc::RLIMIT_CORE, 0usize, &raw mut limit)?;
    call!(libc::SYS_prlimit64, pid, libc::RLIMIT_CORE, &raw const limit, 0usize).map(drop)
}

fn seize(pid: i32) -> io::Result<()> {
    call!(libc::SYS_ptrace, libc::PTRACE_SEIZE, pid, 0usize, 0usize).map(drop)
}

fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    call!(libc::SYS_pidfd_open, pid, 0).map(owned)
}

/// Where its program lies in the memory of a process.
fn mapped(pid: i32) -> io::Result<usize> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    usize::from_str_radix(maps.split('-').next().unwrap_or_default(), 16).map_err(io::Error::other)
}

fn queue(pid: i32) -> io::Result<()> {
    let mut info = [0u8; 128];
    info[..4].copy_from_slice(&libc::SIGWINCH.to_ne_bytes());
    info[8..12].copy_from_slice(&(-1i32).to_ne_bytes());
    call!(libc::SYS_rt_sigqueueinfo, pid, libc::SIGWINCH, info.as_ptr()).map(drop)
}

fn open_as_writer(path: String) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(path).map(drop)
}

/// Sends a datagram to init's `sd_notify`(3) socket, with what comes along.
fn notify(text: &[u8], along: &[ControlMessage<'_>]) -> io::Result<()> {
    let name = std::env::var("NOTIFY_SOCKET").unwrap();
    let to = UnixAddr::new_abstract(name.strip_prefix('@').unwrap().as_bytes())?;
    let from = socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0)?;
    sendmsg(from.as_raw_fd(), &[io::IoSlice::new(text)], along, MsgFlags::empty(), Some(&to))?;
    Ok(())
}

/// A connection whose last close waits 1 s for its unread bytes: socket(7).
fn lingering(port: u16) -> io::Result<std::net::TcpStream> {
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

const fn attack(name: &'static str, expected: &'static str, run: fn(&Prey) -> io::Result<()>) -> Attack {
    Attack { name, expected, run }
}

/// init itself refuses it: EPERM from Linux 6.16 on.
pub const HAND_OVER: &str = "hand-init-a-socket-that-lingers";

pub const ATTACKS: &[Attack] = &[
    // Files.
    attack("read-anothers-secret", "EACCES", |prey| read(prey.dir.join("beta-secrets/key"))),
    attack("read-anothers-secret-by-a-second-mount", "EACCES", |prey| read(prey.dir.join("mirror/key"))),
    attack("read-anothers-secret-through-proc", "EACCES", |prey| {
        read(PathBuf::from(format!("/proc/{}/root{}/beta-secrets/key", prey.beta, prey.dir.display())))
    }),
    attack("read-anothers-secret-by-a-link-of-ones-own", "EACCES", |prey| {
        let link = prey.dir.join(format!("alpha/link-{}", std::process::id()));
        std::os::unix::fs::symlink(prey.dir.join("beta-secrets"), &link)?;
        read(link.join("key"))
    }),
    attack("link-anothers-secret-into-ones-own-directory", "EXDEV", |prey| {
        let name = format!("alpha/hard-{}", std::process::id());
        fs::hard_link(prey.dir.join("beta-secrets/key"), prey.dir.join(name))
    }),
    attack("read-what-another-writes", "EACCES", |prey| read(prey.dir.join("beta/data"))),
    attack("list-anothers-configuration", "EACCES", |prey| fs::read_dir(prey.dir.join("beta-rules")).map(drop)),
    attack("read-anothers-configuration", "EACCES", |prey| read(prey.dir.join("beta-rules/rules"))),
    attack("write-anothers-configuration", "EACCES", |prey| write(prey.dir.join("beta-rules/rules"))),
    attack("write-ones-own-configuration", "EACCES", |prey| write(prey.dir.join("alpha-rules/rules"))),
    attack("truncate-ones-own-configuration", "EACCES", |prey| {
        let path = CString::new(prey.dir.join("alpha-rules/rules").to_str().unwrap()).unwrap();
        call!(libc::SYS_truncate, path.as_ptr(), 6usize).map(drop)
    }),
    attack("replace-ones-own-configuration", "EACCES", |prey| {
        let new = prey.dir.join(format!("alpha/new-{}", std::process::id()));
        fs::write(&new, "rules\n")?;
        // To the same name again: the next way needs it.
        fs::rename(new, prey.dir.join("alpha-rules/rules")).map_err(|e| match e.raw_os_error() {
            // What Landlock says where a move would widen what may be done with the file.
            Some(libc::EXDEV) => io::Error::from_raw_os_error(libc::EACCES),
            _ => e,
        })
    }),
    attack("forge-a-record-beside-ones-own-configuration", "EACCES", |prey| {
        fs::write(prey.dir.join("alpha-rules/.other.sidecar"), "{}")
    }),
    attack("forge-a-kept-copy-of-anothers-configuration", "EACCES", |prey| {
        fs::write(prey.dir.join("beta-rules/.sidecar-old.rules"), "rules")
    }),
    attack("read-the-daemon-table", "EACCES", |prey| read(prey.dir.join("table.toml"))),
    attack("write-a-file-that-is-open-to-all", "EACCES", |prey| write(prey.dir.join("open/file"))),
    attack("make-a-file-outside", "EACCES", |prey| {
        fs::write(prey.dir.join(format!("open/new-{}", std::process::id())), "x")
    }),
    attack("make-a-fifo-outside", "EACCES", |prey| {
        let name = prey.dir.join(format!("open/fifo-{}", std::process::id()));
        nix::unistd::mkfifo(&name, nix::sys::stat::Mode::S_IRWXU).map_err(io::Error::from)
    }),
    attack("make-a-device", "EACCES", |prey| {
        let name =
            CString::new(prey.dir.join(format!("alpha/device-{}", std::process::id())).to_str().unwrap()).unwrap();
        // /dev/null by another name; the kernel lets Landlock answer before it asks for CAP_MKNOD.
        call!(libc::SYS_mknodat, libc::AT_FDCWD, name.as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(1, 3)).map(drop)
    }),
    attack("open-a-new-terminal", "EACCES", |_| open_as_writer("/dev/ptmx".to_owned())),
    attack("list-the-terminals-of-operators", "EACCES", |_| fs::read_dir("/dev/pts").map(drop)),
    // Other processes.
    attack("read-the-environment-of-pid-1", "EACCES", |_| read(PathBuf::from("/proc/1/environ"))),
    attack("read-anothers-environment", "EACCES", |prey| read(PathBuf::from(format!("/proc/{}/environ", prey.beta)))),
    attack("read-anothers-memory", "EACCES", |prey| fs::File::open(format!("/proc/{}/mem", prey.beta)).map(drop)),
    attack("read-anothers-memory-by-a-call", "EPERM", |prey| {
        let mut byte = [0u8; 1];
        // In the sandbox it isn't told, and isn't needed to be refused.
        let base = mapped(prey.beta).unwrap_or(0x1000);
        let here = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
        let there = libc::iovec { iov_base: base as *mut libc::c_void, iov_len: 1 };
        call!(libc::SYS_process_vm_readv, prey.beta, &raw const here, 1usize, &raw const there, 1usize, 0usize)
            .map(drop)
    }),
    attack("take-anothers-descriptor", "EPERM", |prey| {
        let pidfd = pidfd(prey.beta)?;
        call!(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), 1, 0).map(owned).map(drop)
    }),
    attack("compare-descriptors-with-pid-1", "EPERM", |_| {
        call!(libc::SYS_kcmp, std::process::id(), 1, 0, 0usize, 0usize).map(drop)
    }),
    attack("trace-pid-1", "EPERM", |_| seize(1)),
    attack("trace-another", "EPERM", |prey| seize(prey.beta)),
    attack("signal-pid-1", "EPERM", |_| call!(libc::SYS_kill, 1, libc::SIGWINCH).map(drop)),
    attack("signal-another", "EPERM", |prey| call!(libc::SYS_kill, prey.beta, libc::SIGWINCH).map(drop)),
    attack("signal-a-thread-of-another", "EPERM", |prey| {
        call!(libc::SYS_tgkill, prey.beta, prey.beta, libc::SIGWINCH).map(drop)
    }),
    attack("queue-a-signal-for-pid-1", "EPERM", |_| queue(1)),
    attack("signal-another-by-a-pidfd", "EPERM", |prey| {
        let pidfd = pidfd(prey.beta)?;
        call!(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGWINCH, 0usize, 0).map(drop)
    }),
    attack("set-limits-of-pid-1", "EPERM", |_| limits(1)),
    attack("set-limits-of-another", "EPERM", |prey| limits(prey.beta)),
    attack("set-the-priority-of-another", "EPERM", |prey| {
        call!(libc::SYS_setpriority, libc::PRIO_PROCESS, prey.beta, 0).map(drop)
    }),
    attack("set-the-priority-of-all-of-the-user", "EPERM", |_| {
        call!(libc::SYS_setpriority, libc::PRIO_USER, 0, 0).map(drop)
    }),
    attack("set-the-io-priority-of-another", "EPERM", |prey| {
        call!(libc::SYS_ioprio_set, 1, prey.beta, 0x4004).map(drop)
    }),
    attack("set-the-scheduling-of-another", "EPERM", |prey| {
        let zero = 0i32;
        call!(libc::SYS_sched_setscheduler, prey.beta, libc::SCHED_OTHER, &raw const zero).map(drop)
    }),
    attack("write-to-the-containers-log-past-init", "EACCES", |_| {
        // To open it is enough: nothing is forged.
        open_as_writer("/proc/1/fd/1".to_owned())
    }),
    attack("write-to-anothers-log", "EACCES", |prey| open_as_writer(format!("/proc/{}/fd/1", prey.beta))),
    attack("read-the-status-page-past-init", "EACCES", |_| read(PathBuf::from("/proc/1/fd/100"))),
    attack("read-what-the-sandboxes-are", "EACCES", |_| read(PathBuf::from("/proc/1/fd/103"))),
    attack("take-the-apply-lock", "EACCES", |_| {
        let lock = fs::OpenOptions::new().read(true).write(true).open("/proc/1/fd/102")?;
        // SAFETY: flock(2) takes numbers. It waits for another way's, which ends at once.
        checked(unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX) }.into()).map(drop)
    }),
    attack("ask-init-for-a-start-of-another", "EACCES", |_| {
        // It runs already, so nothing comes of it.
        let line = format!("\nattack-{} start beta\n", std::process::id());
        fs::OpenOptions::new().write(true).open("/proc/1/fd/101")?.write_all(line.as_bytes())
    }),
    attack("say-that-another-is-ready", "EPERM", |prey| {
        let me = nix::unistd::getuid().as_raw();
        let beta = libc::ucred { pid: prey.beta, uid: me, gid: nix::unistd::getgid().as_raw() };
        notify(b"READY=1", &[ControlMessage::ScmCredentials(&beta.into())])
    }),
    attack(HAND_OVER, "EACCES", |prey| {
        let stream = lingering(prey.open_port)?;
        notify(b"READY=1", &[ControlMessage::ScmRights(&[stream.as_raw_fd()])])
    }),
    attack("ask-for-the-end-of-another-when-memory-is-short", "EACCES", |prey| {
        let path = format!("/proc/{}/oom_score_adj", prey.beta);
        let mut old = String::new();
        let mut file = fs::OpenOptions::new().read(true).write(true).open(path)?;
        file.read_to_string(&mut old)?;
        file.write_all(old.trim().as_bytes())
    }),
    attack("enter-the-namespaces-of-pid-1", "EACCES", |_| fs::File::open("/proc/1/ns/mnt").map(drop)),
    attack("leave-the-session", "EPERM", |_| {
        // No leader of a group may, so a child does.
        let mut command = Command::new("true");
        // SAFETY: setsid(2) is async-signal-safe.
        unsafe {
            std::os::unix::process::CommandExt::pre_exec(&mut command, || checked(libc::setsid().into()).map(drop));
        }
        command.status().map(drop)
    }),
    attack("leave-the-process-group", "EPERM", |_| {
        let mut command = Command::new("true");
        // SAFETY: setpgid(2) is async-signal-safe.
        unsafe {
            std::os::unix::process::CommandExt::pre_exec(&mut command, || {
                checked(libc::setpgid(0, 0).into()).map(drop)
            });
        }
        command.status().map(drop)
    }),
    // The network.
    attack("bind-anothers-port", "EACCES", |prey| TcpListener::bind(("127.0.0.1", prey.free_port)).map(drop)),
    attack("bind-any-free-port", "EACCES", |_| TcpListener::bind("0.0.0.0:0").map(drop)),
    attack("connect-by-tcp", "EACCES", |prey| std::net::TcpStream::connect(("127.0.0.1", prey.open_port)).map(drop)),
    attack("connect-by-mptcp", "EPROTONOSUPPORT", |_| socket(libc::AF_INET, libc::SOCK_STREAM, 262).map(drop)),
    attack("connect-by-fast-open", "EPERM", |prey| {
        let socket = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
        send_to(&socket, libc::MSG_FASTOPEN, prey.open_port)
    }),
    attack("send-by-udp", "EACCES", |prey| {
        let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
        send_to(&socket, 0, prey.free_port)
    }),
    attack("send-raw", "EACCES", |_| socket(libc::AF_INET, libc::SOCK_RAW, 255).map(drop)),
    attack("send-packets", "EAFNOSUPPORT", |_| socket(libc::AF_PACKET, libc::SOCK_RAW, 0).map(drop)),
    attack("ask-for-all-sockets", "EPROTONOSUPPORT", |_| socket(libc::AF_NETLINK, libc::SOCK_RAW, 4).map(drop)),
    attack("connect-by-io-uring", "ENOSYS", |_| {
        let mut parameters = [0u8; 120];
        call!(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()).map(owned).map(drop)
    }),
    // The kernel.
    attack("keep-a-key-for-all-of-the-user", "EPERM", |_| {
        // To the keyring of this process alone.
        call!(libc::SYS_add_key, c"user".as_ptr(), c"sidecar".as_ptr(), c"x".as_ptr(), 1usize, -2).map(drop)
    }),
    #[cfg(target_arch = "x86_64")]
    attack("call-by-another-architectures-numbers", "signal-31", |_| {
        let mut result = 20i32;
        // SAFETY: i386's getpid(2) has no arguments.
        unsafe { std::arch::asm!("int 0x80", inout("eax") result, options(nostack)) };
        checked(result.into()).map(drop)
    }),
];
