//! Attacks on PID 1 by a process of the same user or in the same network namespace: init must keep working.

use std::fs;
use std::io::IoSlice;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, setsockopt, socket, sockopt,
};

use super::calls::assert_does_not_spin;
use super::faults::Strace;
use super::harness::stat;
use super::{Bundle, Setup, TWO};

/// beta says that it is ready, again and again.
const NOTIFIES: &str = r#"
[[daemon]]
name = "alpha"
command = ["sleep", "1000"]
[[daemon]]
name = "beta"
ready = { notify = true }
command = ["perl", "-MSocket", "-e", '''
    my $name = $ENV{NOTIFY_SOCKET}; $name =~ s/^@/\0/; socket(my $s, PF_UNIX, SOCK_DGRAM, 0) or die;
    for (;;) { select(undef, undef, undef, 0.02); send($s, "READY=1", 0, pack_sockaddr_un($name)) if -e "DIR/go" }''']
[signals]
USR1 = { restart = "alpha" }
"#;

fn address(bundle: &Bundle) -> UnixAddr {
    let mut name = None;
    bundle.wait_until("a socket", || {
        name = bundle.page()["socket"].as_str().map(str::to_owned);
        name.is_some()
    });
    UnixAddr::new_abstract(name.unwrap().strip_prefix('@').unwrap().as_bytes()).unwrap()
}

/// A socket whose last close takes a minute, since it has unsent data that nobody reads.
fn lingering() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 600 }).unwrap();
    stream.set_nonblocking(true).unwrap();
    while std::io::Write::write(&mut &stream, &[0; 4096]).is_ok() {}
    stream.set_nonblocking(false).unwrap();
    (stream, peer)
}

/// Sends the socket in a datagram and closes it before init does, so that the sender's close is not the last one.
fn send_with(bundle: &Bundle, address: &UnixAddr, stream: TcpStream) -> nix::Result<usize> {
    bundle.signal("STOP");
    bundle.wait_until("a stopped init", || stat(bundle.pid(), 3).as_deref() == Some("T"));
    let from = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let fds = [stream.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    let sent = sendmsg(from.as_raw_fd(), &[IoSlice::new(b"READY=1")], &rights, MsgFlags::empty(), Some(address));
    if sent.is_err() {
        setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 0, l_linger: 0 })?;
    }
    drop(stream);
    bundle.signal("CONT");
    sent
}

#[test]
fn a_descriptor_in_a_notification_is_refused() {
    let bundle = Setup::new(NOTIFIES).start();
    let address = address(&bundle);
    bundle.wait_for_generation(0, 1);
    let (stream, _peer) = lingering();
    // Before Linux 6.16 it is taken; see the next test.
    let sent = send_with(&bundle, &address, stream);
    assert!(matches!(sent, Err(nix::errno::Errno::EPERM) | Ok(_)), "{sent:?}");
    bundle.signal("USR1");
    // It doesn't wait for as long as init would if it closed the socket.
    bundle.wait_for_generation(0, 2);
}

#[test]
fn where_the_kernel_cannot_refuse_descriptors_a_child_takes_them_away() {
    let bundle = Setup::new(NOTIFIES).closed().start();
    bundle.wait_until_closed();
    let strace = Strace::attach(
        &bundle,
        &["--trace=setsockopt".to_owned(), "--inject=setsockopt:error=ENOPROTOOPT:when=1".to_owned()],
    );
    bundle.open();
    let address = address(&bundle);
    bundle.wait_for_generation(0, 1);
    strace.detach();
    assert!(bundle.read("trace").contains("INJECTED"), "{}", bundle.read("trace"));
    let descriptors = bundle.descriptors();
    for n in 0..12 {
        let (stream, peer) = lingering();
        send_with(&bundle, &address, stream).unwrap();
        bundle.signal("USR1");
        bundle.wait_for_generation(0, 2 + n);
        drop(peer);
    }
    bundle.write("go", "");
    bundle.wait_until("READY=1", || bundle.page()["plans"][1]["notified"] == true);
    bundle.wait_until("no child but the two daemons", || bundle.children().len() == 2);
    bundle.wait_until("no descriptor more", || bundle.descriptors() <= descriptors);
}

#[test]
fn a_strangers_flood_of_notifications_delays_nobody_else() {
    let mut bundle = Setup::new(NOTIFIES).start();
    let address = address(&bundle);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let from = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap();
                let text = [b"READY=1\n".repeat(400)].concat();
                while !is_over.load(Ordering::Relaxed) {
                    let _ =
                        sendmsg(from.as_raw_fd(), &[IoSlice::new(&text)], &[], MsgFlags::MSG_DONTWAIT, Some(&address));
                }
            });
        }
        bundle.write("go", "");
        bundle.wait_until("READY=1", || bundle.page()["plans"][1]["notified"] == true);
        bundle.wait_for_generation(0, 1);
        for generation in 2..7 {
            bundle.signal("USR1");
            bundle.wait_for_generation(0, generation);
        }
        is_over.store(true, Ordering::Relaxed);
    });
    bundle.signal("TERM");
    assert_eq!(bundle.exit_code(), 143);
}

#[test]
fn an_init_without_a_descriptor_left_does_not_spin() {
    let mut bundle = Bundle::start(TWO);
    bundle.wait_for("out", "alpha is up");
    bundle.wait_for_generation(1, 1);
    let pid = bundle.pid();
    let limit = |soft: libc::rlim_t| {
        let limit = libc::rlimit { rlim_cur: soft, rlim_max: 1024 };
        // SAFETY: prlimit(2) reads the limit it is given and writes none.
        assert_eq!(unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) }, 0);
    };
    limit(0);
    bundle.signal("USR2");
    bundle.wait_for("err", "SIGUSR2 has no signal rule");
    assert_does_not_spin(&bundle);
    limit(1024);
    bundle.signal("USR1");
    bundle.wait_for_generation(1, 2);
    limit(0);
    bundle.signal("TERM");
    assert_eq!(bundle.exit_code(), 143);
}

/// Queues so many real-time signals as the kernel takes.
fn flood(pid: i32, number: i32) -> usize {
    for n in 0..100_000 {
        // SAFETY: all its fields are numbers.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        (info.si_signo, info.si_code) = (number, libc::SI_QUEUE);
        // SAFETY: rt_sigqueueinfo(2) reads a siginfo.
        if unsafe { libc::syscall(libc::SYS_rt_sigqueueinfo, pid, number, &raw const info) } != 0 {
            return n;
        }
    }
    100_000
}

/// A field of `/proc/PID/status`.
fn status(pid: i32, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    text.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned()
}

#[test]
fn the_kernel_drops_a_real_time_signal_that_has_no_rule() {
    let bundle = Bundle::start(TWO);
    bundle.wait_for("out", "alpha is up");
    bundle.wait_for_generation(1, 1);
    assert_eq!(flood(bundle.pid(), libc::SIGRTMIN() + 7), 100_000);
    assert_eq!(status(bundle.pid(), "ShdPnd:"), "0000000000000000");
    bundle.signal("HUP");
    bundle.wait_for("out", "took HUP");
}

#[test]
fn nobody_can_queue_so_many_signals_that_a_term_has_to_wait() {
    let mut bundle = Bundle::start(&TWO.replace("USR1 =", "\"RTMIN+7\" ="));
    bundle.wait_for("out", "alpha is up");
    bundle.wait_for_generation(1, 1);
    bundle.signal("STOP");
    bundle.wait_until("a stopped init", || stat(bundle.pid(), 3).as_deref() == Some("T"));
    // init's own bound is 128. They are served before the TERM, each within a moment.
    let queued = flood(bundle.pid(), libc::SIGRTMIN() + 7);
    assert!(queued <= 128, "{queued} wait");
    bundle.signal("TERM");
    bundle.signal("CONT");
    bundle.wait_for("err", "forwarding SIGTERM to alpha");
    bundle.exit_code();
}

#[test]
fn daemons_are_started_with_the_limits_that_init_was_started_with() {
    let wrap = ["prlimit", "--nofile=512:1024", "--sigpending=1000:2000"];
    let mut bundle = Setup::one("cat /proc/self/limits; exit 0").wrapped(&wrap).start();
    assert_eq!(bundle.exit_code(), 0);
    let out = bundle.read("out");
    for (limit, is) in [("Max open files", ["512", "1024"]), ("Max pending signals", ["1000", "2000"])] {
        let line = out.lines().find_map(|line| line.strip_prefix("[alpha] ")?.strip_prefix(limit)).unwrap();
        assert_eq!(line.split_whitespace().take(2).collect::<Vec<_>>(), is, "{out}");
    }
}

#[test]
fn four_hundred_daemons_start_under_a_soft_limit_of_1024_descriptors() {
    let daemon = |n: usize| format!("[[daemon]]\nname = \"d{n}\"\ncommand = [\"sleep\", \"1000\"]\n");
    let table = (0..400).map(daemon).collect::<String>();
    let bundle = Setup::new(&table).wrapped(&["prlimit", "--nofile=1024:4096"]).start();
    bundle.wait_until("all four hundred", || {
        let page = bundle.page();
        (0..400).all(|n| page["status"]["daemons"][n]["state"] == "running")
    });
}

#[test]
fn a_traced_daemon_is_not_taken_for_dead_and_gets_its_signals() {
    #[cfg(target_arch = "x86_64")]
    let ptrace = 101;
    #[cfg(target_arch = "aarch64")]
    let ptrace = 117;
    let script = format!(
        "$| = 1; $SIG{{HUP}} = sub {{ print qq(took HUP\\n); syscall({ptrace}, 0, 0, 0, 0) }}; syscall({ptrace}, 0, 0, 0, 0); \
         print qq(it is up\\n); sleep 1000 while 1"
    );
    let table = format!(
        "[[daemon]]\nname = \"alpha\"\ncommand = [\"perl\", \"-e\", '''{script}''']\n[signals]\n\
         HUP = {{ forward = \"alpha\" }}\n"
    );
    let mut bundle = Bundle::start(&table);
    bundle.wait_for("out", "it is up");
    for n in 1..4 {
        bundle.signal("HUP");
        bundle.wait_until("a HUP", || bundle.read("out").matches("took HUP").count() == n);
    }
    let daemon = bundle.daemon(0);
    assert_eq!((&daemon["state"], &daemon["generation"]), (&"running".into(), &1.into()));
    bundle.signal("TERM");
    assert_eq!(bundle.exit_code(), 143);
}

#[test]
fn a_page_that_could_not_be_made_once_comes_back() {
    let daemon = |n: usize| format!("[[daemon]]\nname = \"d{n}\"\ncommand = [\"sleep\", \"1000\"]\n");
    let table = (0..50).map(daemon).collect::<String>() + "[signals]\nUSR1 = { restart = \"d0\" }\n";
    let bundle = Setup::new(&table).start();
    bundle.wait_until("all fifty", || (0..50).all(|n| bundle.daemon(n)["state"] == "running"));
    let inject = ["--trace=memfd_create".to_owned(), "--inject=memfd_create:error=EMFILE:when=1..99".to_owned()];
    let strace = Strace::attach(&bundle, &inject);
    bundle.signal("USR1");
    bundle.wait_for("err", "no status page: ");
    bundle.wait_until("a second start", || bundle.read("err").matches(" starting d0\n").count() == 2);
    let is_sleep = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "sleep\n");
    bundle.wait_until("its exec", || bundle.children().into_iter().filter(|pid| is_sleep(*pid)).count() == 50);
    strace.detach();
    bundle.signal("USR1");
    bundle.wait_for_generation(0, 3);
}

#[test]
fn an_oom_kill_is_told_beside_signal_9() {
    let mount = "mount -t tmpfs none /sys/fs/cgroup; echo 'oom_kill 3' > /sys/fs/cgroup/memory.events; exec \"$@\"";
    let killed = "echo 'oom_kill 4' > /sys/fs/cgroup/memory.events; kill -9 $$";
    let mut bundle = Setup::one(killed).wrapped(&["sh", "-c", mount, "-"]).start();
    assert_eq!(bundle.exit_code(), 137);
    let log = bundle.read("err");
    assert!(log.contains("OOM"), "{log}");
}

#[test]
fn an_init_that_is_not_pid_1_says_so_once() {
    let bundle = Setup::one("exit 0").not_as_pid_1().start();
    bundle.wait_for("code", "0");
    assert_eq!(bundle.read("err").matches("init isn't PID 1").count(), 1, "{}", bundle.read("err"));
}
