//! Sockets that init holds for a daemon, in a network namespace of the test's own.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

use nix::libc;

use super::faults::Strace;
use super::harness::PATIENCE;
use super::{Bundle, Setup};

/// Answers each connection with its pid once it has read a line; opens its socket as `sd_listen_fds`(3) tells.
const SERVES: &str = r#"
    $| = 1; die "not for me" unless $ENV{LISTEN_PID} == $$; open(my $socket, "+<&=", 3) or die;
    print "serving\n"; while (accept(my $c, $socket)) { <$c>; print $c "$$\n"; close $c }"#;
const ALPHA: &str = r#"
grace = "30s"
[[daemon]]
name = "alpha"
command = ["perl", "-e", '''SCRIPT''']
listen = [{ tcp = "127.0.0.1:9100" }]
[[daemon]]
name = "beta"
command = ["sleep", "1000"]
[signals]
USR1 = { restart = "alpha" }
"#;

fn alpha(script: &str) -> String {
    ALPHA.replace("SCRIPT", script)
}

/// With a loopback interface that is nobody else's.
fn apart(table: &str) -> Setup {
    Setup::new(table).wrapped(&["unshare", "--net", "sh", "-c", "ip link set lo up; exec \"$@\"", "-"])
}

/// Does something in the bundle's network namespace.
fn inside<T: Send>(bundle: &Bundle, act: impl FnOnce() -> T + Send) -> T {
    let namespace = File::open(format!("/proc/{}/ns/net", bundle.pid())).unwrap();
    let enter_and_act = || {
        // SAFETY: setns(2) takes numbers; it moves this thread alone.
        let moved = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
        assert_eq!(moved, 0, "{}", io::Error::last_os_error());
        act()
    };
    std::thread::scope(|scope| scope.spawn(enter_and_act).join().unwrap())
}

fn connect_to(bundle: &Bundle, address: &str) -> io::Result<TcpStream> {
    let address: SocketAddr = address.parse().unwrap();
    let stream = inside(bundle, || TcpStream::connect_timeout(&address, PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn connect(bundle: &Bundle) -> io::Result<TcpStream> {
    connect_to(bundle, "127.0.0.1:9100")
}

/// The pid of the process that answers.
fn answer(mut stream: TcpStream) -> io::Result<String> {
    stream.write_all(b"who?\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

fn is_refused(bundle: &Bundle) -> bool {
    connect(bundle).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
}

fn wait_until_refused(bundle: &Bundle) {
    bundle.wait_until("a refusal", || is_refused(bundle));
}

fn wait_for_state(bundle: &Bundle, index: usize, state: &str) {
    bundle.wait_until(state, || bundle.daemon(index)["state"] == state);
}

/// What a daemon says of itself: its variables, and the address of each descriptor beyond stdio.
const TELLS: &str = r#"
    use Socket; $| = 1;
    print "$_=$ENV{$_}\n" for grep { /^LISTEN/ } sort keys %ENV; print "me=$$\n";
    for my $fd (3..200) {
        open(my $s, "+<&=", $fd) or next;
        my ($error, @address) = getaddrinfo_of($s); print "$fd: @address\n" }
    sub getaddrinfo_of { my $name = getsockname($_[0]) or return (0, "no socket");
        my $family = sockaddr_family($name); my ($port, $ip) = $family == AF_INET ? sockaddr_in($name) : sockaddr_in6($name);
        return (0, Socket::inet_ntop($family, $ip), $port) }
    print "told\n"; sleep 1000"#;

fn tells(more: &str) -> String {
    let listen = "listen = [{ tcp = \"0.0.0.0:9100\" }, { tcp = \"[::]:9101\" }, { tcp = \"127.0.0.1:80\" }]";
    let table = alpha(TELLS).replace("listen = [{ tcp = \"127.0.0.1:9100\" }]", listen);
    table.replace("[signals]", &format!("{more}\n[signals]"))
}

fn told(bundle: &Bundle, count: usize) -> String {
    bundle.wait_until("what it has", || bundle.read("out").matches("[alpha] told").count() == count);
    bundle.read("out").replace("[alpha] ", "")
}

fn has_its_sockets(bundle: &Bundle, pid: i64) {
    let text = told(bundle, 1);
    let expected = format!(
        "LISTEN_FDNAMES=alpha:alpha:alpha\nLISTEN_FDS=3\nLISTEN_PID={pid}\nme={pid}\n3: 0.0.0.0 9100\n4: :: 9101\n5: 127.0.0.1 80\ntold\n"
    );
    assert_eq!(text, expected);
}

/// As the daemon sees it.
fn pid_inside(bundle: &Bundle, index: usize) -> i64 {
    wait_for_state(bundle, index, "running");
    bundle.daemon(index)["pid"].as_i64().unwrap()
}

#[test]
fn a_daemon_gets_its_sockets_from_descriptor_3_on_in_table_order() {
    let bundle = apart(&tells("")).start();
    has_its_sockets(&bundle, pid_inside(&bundle, 0));
}

#[test]
fn a_sandboxed_daemon_needs_no_right_to_bind_its_sockets() {
    let table = tells("").replacen("listen =", "sandbox = { bind = [], connect = [] }\nlisten =", 1);
    let bundle = apart(&table).start();
    has_its_sockets(&bundle, pid_inside(&bundle, 0));
    let table = alpha(SERVES).replacen("listen =", "sandbox = { bind = [], connect = [] }\nlisten =", 1);
    let bundle = apart(&table).start();
    bundle.wait_for("out", "serving");
    assert_eq!(answer(connect(&bundle).unwrap()).unwrap(), pid_inside(&bundle, 0).to_string());
}

#[test]
fn a_sandboxed_probe_may_connect_to_the_socket_that_init_holds() {
    let serves = SERVES.replace("print $c \"$$\\n\"", "print $c \"HTTP/1.0 200 OK\\r\\n\\r\\n\"");
    let ready = "ready = { http = \"http://127.0.0.1:9100/\" }\nsandbox = { bind = [], connect = [] }\nlisten =";
    let waits = "command = [\"sleep\", \"1000\"]\ndepends_on = [\"alpha\"]";
    let table = alpha(&serves).replacen("listen =", ready, 1).replace("command = [\"sleep\", \"1000\"]", waits);
    let bundle = apart(&table).start();
    wait_for_state(&bundle, 1, "running");
}

#[test]
fn if_no_process_can_be_made_connections_wait_and_the_log_says_so() {
    let bundle = apart(&alpha(SERVES)).start();
    bundle.wait_for("out", "serving");
    let fault = ["--trace=clone", "--inject=clone:error=EAGAIN:when=1"].map(str::to_owned);
    let strace = Strace::attach(&bundle, &fault);
    bundle.ask("1 stop alpha");
    bundle.wait_for("err", "cannot refuse connections to alpha: ");
    strace.detach();
    assert!(connect(&bundle).is_ok());
    bundle.ask("2 start alpha");
    bundle.wait_until("an answer", || connect(&bundle).and_then(answer).is_ok());
    bundle.ask("3 stop alpha");
    wait_until_refused(&bundle);
}

#[test]
fn a_daemon_gets_its_sockets_after_its_interrupted_change_is_recovered() {
    let table = tells("").replacen("listen =", "config = { path = \"DIR/config\" }\nlisten =", 1);
    let left = "echo new > DIR/config; echo old > DIR/.sidecar-old.config; exec \"$@\"";
    let bundle = apart(&table).wrapped(&["sh", "-c", left, "-"]).start();
    has_its_sockets(&bundle, pid_inside(&bundle, 0));
}

#[test]
fn no_sibling_and_no_command_of_run_as_gets_a_daemons_sockets() {
    let table = alpha(SERVES).replace("[\"sleep\", \"1000\"]", &format!("[\"perl\", \"-e\", '''{TELLS}''']"));
    let table = table.replace("name = \"beta\"", "name = \"beta\"\nready = { exec = [\"perl\", \"-e\", '''PROBE'''] }");
    let probe =
        TELLS.replace("sleep 1000", "exit 0").replacen("$| = 1;", "open STDOUT, \">\", \"DIR/probe\"; $| = 1;", 1);
    let waits = "[[daemon]]\nname = \"gamma\"\ncommand = [\"sleep\", \"1000\"]\ndepends_on = [\"beta\"]\n[signals]";
    let table = table.replace("PROBE", &probe).replace("[signals]", waits);
    let bundle = apart(&table)
        .env("LISTEN_FDS", "2")
        .env("LISTEN_PID", "1")
        .env("LISTEN_FDNAMES", "a:b")
        .env("LISTEN_PIDFDID", "7")
        .start();
    wait_for_state(&bundle, 2, "running");
    bundle.wait_for("out", "[beta] told");
    let out = bundle.read("out").replace("[beta] ", "").replace("[alpha] serving\n", "");
    assert_eq!(out, format!("me={}\ntold\n", pid_inside(&bundle, 1)));
    let probe = bundle.read("probe");
    assert!(probe.starts_with("me=") && probe.lines().count() == 2, "{probe}");
    let script = TELLS.replace("sleep 1000", "exit 0");
    let output = super::run_as::run_as(&bundle, &["alpha", "--", "perl", "-e", &script]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("me=") && text.ends_with("\ntold\n") && text.lines().count() == 2, "{text}");
}

#[test]
fn a_socket_on_all_of_ipv6_takes_ipv4_connections_too() {
    let table = alpha(SERVES).replace("127.0.0.1:9100", "[::]:9100");
    let only = "ip link set lo up; echo 1 > /proc/sys/net/ipv6/bindv6only; exec \"$@\"";
    let bundle = Setup::new(&table).wrapped(&["unshare", "--net", "sh", "-c", only, "-"]).start();
    bundle.wait_for("out", "serving");
    let pid = pid_inside(&bundle, 0).to_string();
    for address in ["127.0.0.1:9100", "[::1]:9100"] {
        assert_eq!(answer(connect_to(&bundle, address).unwrap()).unwrap(), pid, "{address}");
    }
}

#[test]
fn a_connection_that_is_made_between_two_processes_waits_for_the_next_one() {
    // It serves only if it may.
    let script = format!("exit 1 unless -e 'DIR/go'; {SERVES}");
    let table = format!("restart = \"on-failure\"\n{}", alpha(&script));
    let bundle = apart(&table).start();
    wait_for_state(&bundle, 0, "backoff");
    let early = connect(&bundle).unwrap();
    bundle.write("go", "");
    let pid = answer(early).unwrap();
    assert_eq!(pid, pid_inside(&bundle, 0).to_string());
    // The old process ends only once it is allowed to.
    let table = alpha(&format!(
        "$SIG{{TERM}} = sub {{ print \"asked\\n\"; select(undef, undef, undef, 0.02) until -e 'DIR/end'; exit 0 }}; {SERVES}"
    ));
    let bundle = apart(&table).start();
    bundle.wait_for("out", "serving");
    let old = answer(connect(&bundle).unwrap()).unwrap();
    bundle.signal("USR1");
    // Until then it accepts.
    bundle.wait_for("out", "asked");
    let waiting = connect(&bundle).unwrap();
    bundle.write("end", "");
    let new = answer(waiting).unwrap();
    assert_ne!(old, new);
    bundle.wait_for_generation(0, 2);
    assert_eq!(new, pid_inside(&bundle, 0).to_string());
}

#[test]
fn while_a_daemon_is_stopped_its_connections_are_refused() {
    // It accepts none until it is asked to stop and started again.
    let script = format!("$| = 1; unless (-e 'DIR/go') {{ print \"up\\n\"; sleep 1000 }} {SERVES}");
    let bundle = apart(&alpha(&script)).start();
    bundle.wait_for("out", "[alpha] up");
    let mut waiting = connect(&bundle).unwrap();
    bundle.ask("1 stop alpha");
    let error = waiting.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    wait_until_refused(&bundle);
    wait_for_state(&bundle, 0, "stopped");
    bundle.write("go", "");
    bundle.ask("2 start alpha");
    bundle.wait_for("out", "serving");
    assert_eq!(answer(connect(&bundle).unwrap()).unwrap(), pid_inside(&bundle, 0).to_string());
}

#[test]
fn connections_to_a_daemon_that_ended_for_good_are_refused() {
    let ends = "[\"sh\", \"-c\", \"until test -e DIR/go; do sleep 0.02; done\"]";
    let table = alpha("").replace("[\"perl\", \"-e\", '''''']", ends);
    let bundle = apart(&table).start();
    bundle.wait_until_started();
    assert!(connect(&bundle).is_ok());
    bundle.write("go", "");
    wait_until_refused(&bundle);
    wait_for_state(&bundle, 0, "exited");
    let bundle = apart(&alpha("").replace("[\"perl\", \"-e\", '''''']", "[\"/no/such\"]")).start();
    wait_for_state(&bundle, 0, "failed");
    wait_until_refused(&bundle);
}

#[test]
fn connections_to_a_daemon_that_waits_for_others_are_refused() {
    let table = alpha(SERVES).replace("listen =", "depends_on = [\"beta\"]\nlisten =");
    let table = table
        .replace("[\"sleep\", \"1000\"]", "[\"sleep\", \"1000\"]\nready = { exec = [\"test\", \"-e\", \"DIR/go\"] }");
    let bundle = apart(&table).start();
    wait_for_state(&bundle, 0, "waiting");
    wait_until_refused(&bundle);
    bundle.write("go", "");
    bundle.wait_for("out", "serving");
    assert_eq!(answer(connect(&bundle).unwrap()).unwrap(), pid_inside(&bundle, 0).to_string());
}

#[test]
fn nobody_else_can_have_a_daemons_port_even_while_it_is_stopped() {
    let bundle = apart(&alpha(SERVES)).start();
    bundle.wait_for("out", "serving");
    // A connection is left that would keep others from the port by itself.
    let left = connect(&bundle).unwrap();
    // It allows the port to be shared with sockets that don't listen (SO_REUSEADDR).
    let bind = |address: &'static str| inside(&bundle, || TcpListener::bind(address).map(drop)).map_err(|e| e.kind());
    let is_taken = || ["127.0.0.1:9100", "0.0.0.0:9100", "[::]:9100"].map(bind) == [Err(ErrorKind::AddrInUse); 3];
    assert!(is_taken());
    bundle.ask("1 stop alpha");
    wait_until_refused(&bundle);
    assert!(is_taken());
    drop(left);
    assert!(is_taken());
    bundle.ask("2 start alpha");
    bundle.wait_until("an answer", || connect(&bundle).and_then(answer).is_ok());
    assert!(is_taken());
}

#[test]
fn what_a_daemon_does_to_its_socket_is_undone_before_its_next_start() {
    let spoils = [
        "setsockopt($s, SOL_SOCKET, SO_REUSEADDR, 0)",
        "shutdown($s, 2)",
        "fcntl($s, F_SETFL, O_NONBLOCK)",
        "listen($s, 0)",
        "shutdown($s, 2); socket(my $o, PF_INET, SOCK_STREAM, 0); listen($o, 9); connect($s, getsockname($o))",
    ];
    for spoil in spoils {
        let script = format!(
            "use Socket; use Fcntl; $| = 1; unless (-e 'DIR/go') {{ open(my $s, '+<&=', 3); do {{ {spoil} }} or die $!; print \"spoiled\\n\"; sleep 1000 }} {SERVES}"
        );
        let bundle = apart(&alpha(&script)).start();
        bundle.wait_for("out", "spoiled");
        bundle.write("go", "");
        bundle.signal("USR1");
        bundle.wait_for_generation(0, 2);
        bundle.wait_for("out", "serving");
        // A socket that doesn't wait would have ended it, and a short backlog wouldn't take these.
        let pid = pid_inside(&bundle, 0).to_string();
        let all: Vec<TcpStream> = (0..5).map(|_| connect(&bundle).unwrap()).collect();
        assert!(all.into_iter().all(|stream| answer(stream).unwrap() == pid), "{spoil}");
    }
}

#[test]
fn a_start_waits_until_the_stop_before_it_has_reset_the_connections() {
    let bundle = apart(&alpha(SERVES)).start();
    bundle.wait_for("out", "serving");
    let late = ["-f", "--trace=shutdown", "--inject=shutdown:delay_enter=300000"].map(str::to_owned);
    let strace = Strace::attach(&bundle, &late);
    bundle.ask("1 stop alpha");
    wait_for_state(&bundle, 0, "stopped");
    bundle.ask("2 start alpha");
    bundle.wait_until("a second process", || bundle.read("out").matches("serving").count() == 2);
    strace.detach();
    bundle.wait_until("the daemons alone", || bundle.children().len() == 2);
    assert_eq!(answer(connect(&bundle).unwrap()).unwrap(), pid_inside(&bundle, 0).to_string());
}

#[test]
fn an_address_that_is_taken_is_reported_and_nothing_is_started() {
    needs!(Root);
    let is_told = |setup: Setup, address: &str, why: &str| {
        let mut bundle = setup.start();
        assert_eq!(bundle.exit_code(), 1, "{}", bundle.read("err"));
        let expected = format!("init: cannot listen on {address} for alpha: {why}; no daemon was started\n");
        let log = bundle.read("err");
        assert!(log.ends_with(&expected) && !log.contains("starting"), "{log}");
        assert_eq!(log.lines().count(), 1, "{log}");
    };
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    let at = |address: &str| alpha(SERVES).replace("127.0.0.1:9100", address);
    is_told(Setup::new(&at(&address)), &address, "Address already in use (os error 98)");
    is_told(apart(&at("192.0.2.1:9100")), "192.0.2.1:9100", "Cannot assign requested address (os error 99)");
    is_told(apart(&at("127.0.0.1:80")).under_user(&[]), "127.0.0.1:80", "Permission denied (os error 13)");
}

#[test]
fn init_is_idle_while_it_holds_sockets_and_nothing_happens() {
    let bundle = apart(&alpha(SERVES)).start();
    bundle.wait_for("out", "serving");
    bundle.wait_until_started();
    let _waiting = connect(&bundle).unwrap();
    bundle.ask("1 stop alpha");
    wait_until_refused(&bundle);
    super::calls::assert_idle(&bundle);
}

#[test]
fn the_status_shows_the_addresses_of_a_daemon_and_none_of_others() {
    let bundle = apart(&tells("")).start();
    bundle.wait_until_started();
    let (_, text, _) = bundle.status(&["--json"]);
    let status: serde_json::Value = serde_json::from_str(&text).unwrap();
    crate::schemas::assert_fits("status", &status);
    assert_eq!(status["daemons"][0]["listen"], serde_json::json!(["0.0.0.0:9100", "[::]:9101", "127.0.0.1:80"]));
    assert!(status["daemons"][1].get("listen").is_none(), "{status}");
}

/// What became of calls: answered, refused, ended by the process that had accepted them.
#[derive(Debug, Default)]
struct Calls {
    answered: usize,
    refused: usize,
    ended: usize,
    longest: Duration,
}

/// Four callers, each of whom asks again and again, while the daemon is restarted this often.
fn calls_over_restarts(bundle: &Bundle, rounds: u64) -> Calls {
    bundle.wait_until_started();
    bundle.wait_until("an answer", || connect(bundle).and_then(answer).is_ok());
    let (calls, stop) = (Mutex::new(Calls::default()), AtomicBool::new(false));
    let call = || {
        while !stop.load(Ordering::Relaxed) {
            let began = Instant::now();
            let answered = TcpStream::connect("127.0.0.1:9100").and_then(answer);
            let mut calls = calls.lock().unwrap();
            match answered {
                Ok(text) if !text.is_empty() => {
                    calls.answered += 1;
                    calls.longest = calls.longest.max(began.elapsed());
                }
                Err(e) if e.kind() == ErrorKind::ConnectionRefused => calls.refused += 1,
                _ => calls.ended += 1,
            }
            drop(calls);
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..4).map(|_| scope.spawn(|| inside(bundle, call))).collect();
        for generation in 2..2 + rounds {
            bundle.signal("USR1");
            bundle.wait_for_generation(0, generation);
            let before = calls.lock().unwrap().answered;
            bundle.wait_until("an answer", || calls.lock().unwrap().answered > before);
        }
        stop.store(true, Ordering::Relaxed);
        for caller in callers {
            caller.join().unwrap();
        }
    });
    calls.into_inner().unwrap()
}

/// `SIDECAR_ROUNDS` sets how often the daemon is restarted.
#[test]
fn over_many_restarts_under_load_listen_refuses_no_call() {
    let rounds = std::env::var("SIDECAR_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(20);
    let bundle = apart(&alpha(SERVES)).start();
    let held = calls_over_restarts(&bundle, rounds);
    println!("{rounds} restarts: {held:?}");
    assert_eq!(held.refused, 0, "{held:?}");
    let binds = SERVES.replace(
        "die \"not for me\" unless $ENV{LISTEN_PID} == $$; open(my $socket, \"+<&=\", 3) or die;",
        "use Socket; socket(my $socket, PF_INET, SOCK_STREAM, 0); setsockopt($socket, SOL_SOCKET, SO_REUSEADDR, 1);
         bind($socket, sockaddr_in(9100, INADDR_LOOPBACK)) or die; listen($socket, 4096) or die;",
    );
    let table = alpha(&binds).replace("listen = [{ tcp = \"127.0.0.1:9100\" }]\n", "");
    let bound = calls_over_restarts(&apart(&table).start(), rounds);
    println!("{rounds} restarts without listen: {bound:?}");
    assert!(bound.refused > 0, "{bound:?}");
}

#[test]
fn a_daemon_with_variables_and_limits_of_its_own_gets_its_sockets() {
    let more = "pass_environment = []\nenvironment = { A = \"b\" }\nulimits = { nofile = 64 }\nlisten =";
    let bundle = apart(&tells("").replacen("listen =", more, 1)).start();
    has_its_sockets(&bundle, pid_inside(&bundle, 0));
}

/// init's socket, as the daemon has it.
fn held_socket(bundle: &Bundle) -> OwnedFd {
    let pid = bundle.pid();
    // SAFETY: pidfd_open(2) and pidfd_getfd(2) take numbers, and what they return is ours.
    unsafe {
        let of = OwnedFd::from_raw_fd(i32::try_from(libc::syscall(libc::SYS_pidfd_open, pid, 0)).unwrap());
        let get = |fd: i32| i32::try_from(libc::syscall(libc::SYS_pidfd_getfd, of.as_raw_fd(), fd, 0)).unwrap();
        let all = (3..100).map(get).filter(|fd| *fd >= 0).map(|fd| OwnedFd::from_raw_fd(fd));
        all.into_iter().find(|fd| sockname(fd).is_some_and(|port| port == 9100)).unwrap()
    }
}

fn sockname(fd: &OwnedFd) -> Option<u16> {
    Some(nix::sys::socket::getsockname::<nix::sys::socket::SockaddrIn>(fd.as_raw_fd()).ok()?.port())
}

/// A page of memory that isn't there: whoever reads it waits until this is dropped, userfaultfd(2).
struct MissingPage {
    _holds: OwnedFd,
    at: usize,
}

impl MissingPage {
    fn new() -> io::Result<Self> {
        const API: libc::c_ulong = 0xc018_aa3f;
        const REGISTER: libc::c_ulong = 0xc020_aa00;
        // SAFETY: the calls take numbers, or pointers to arrays on this stack that have the kernel's sizes; the page is
        // never used for anything else.
        unsafe {
            let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            let holds = OwnedFd::from_raw_fd(i32::try_from(fd).unwrap());
            let (kind, access) = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, libc::PROT_READ | libc::PROT_WRITE);
            let at = libc::mmap(std::ptr::null_mut(), 4096, access, kind, -1, 0) as usize;
            let (mut api, mut range) = ([0xaa_u64, 0, 0], [at as u64, 4096, 1, 0]);
            assert_eq!(libc::ioctl(holds.as_raw_fd(), API as _, api.as_mut_ptr()), 0);
            assert_eq!(libc::ioctl(holds.as_raw_fd(), REGISTER as _, range.as_mut_ptr()), 0);
            Ok(Self { _holds: holds, at })
        }
    }
}

#[test]
fn a_daemon_that_locks_its_own_socket_delays_its_own_start_alone() {
    let page = match MissingPage::new() {
        Ok(page) => page,
        Err(e) => return println!("not tried: no userfaultfd: {e}"),
    };
    let table = alpha(SERVES).replace("USR1", "USR2 = { restart = \"beta\" }\nUSR1");
    let bundle = apart(&table.replace("30s", "200ms")).start();
    bundle.wait_for("out", "serving");
    let socket = held_socket(&bundle);
    let other = inside(&bundle, || TcpListener::bind("127.0.0.1:0")).unwrap();
    let to = nix::sys::socket::SockaddrIn::new(127, 0, 0, 1, other.local_addr().unwrap().port());
    nix::sys::socket::shutdown(socket.as_raw_fd(), nix::sys::socket::Shutdown::Both).unwrap();
    nix::sys::socket::connect(socket.as_raw_fd(), &to).unwrap();
    let (at, tid) = (page.at, AtomicI32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: gettid(2) and send(2) take numbers; the page is mapped.
            unsafe {
                tid.store(libc::gettid(), Ordering::Relaxed);
                libc::send(socket.as_raw_fd(), at as *const libc::c_void, 4096, libc::MSG_NOSIGNAL)
            }
        });
        let waits_for = || std::fs::read_to_string(format!("/proc/self/task/{}/wchan", tid.load(Ordering::Relaxed)));
        bundle.wait_until("a sender that waits", || waits_for().is_ok_and(|text| text.contains("userfault")));
        bundle.signal("USR1");
        wait_for_state(&bundle, 0, "starting");
        bundle.signal("USR2");
        bundle.wait_for_generation(1, 2);
        assert_eq!(bundle.daemon(0)["state"], "starting");
        drop(page);
    });
    bundle.wait_until("an answer", || connect(&bundle).and_then(answer).is_ok());
}
