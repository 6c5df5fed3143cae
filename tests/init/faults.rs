//! Each system call of init fails once, at each of its occurrences (strace(1), `-e inject`). init and its daemons survive,
//! the request is served or logged as failed, and the next request is served. A start succeeds and logs what it had to
//! leave out, or it says why it can't and leaves nothing behind; a shutdown ends.
//!
//! By default a sample is tried; `INIT_FAULTS=all` tries every fault.

use std::collections::BTreeMap;
use std::fs::File;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::libc;

use super::harness::{Bundle, PATIENCE, Setup, stat, wait_until};

/// alpha takes a HUP, says so, and leaves an orphan; beta is restarted, and says that it is ready; gamma just runs.
const TABLE: &str = r#"
grace = "1s"
[[daemon]]
name = "alpha"
command = ["/usr/bin/perl", "-e", '''
$| = 1; open F, ">>DIR/took"; select F; $| = 1; select STDOUT;
$SIG{HUP} = sub { $n++; print "took $n\n"; my $p = fork; if (!$p) { fork or exit 3; exit } waitpid $p, 0; print F "$n\n" };
print "alpha is up\n"; sleep 1000 while 1''']
[[daemon]]
name = "beta"
command = ["/usr/bin/perl", "-MSocket", "-e", '''
$| = 1; socket S, AF_UNIX, SOCK_DGRAM, 0; $a = $ENV{NOTIFY_SOCKET}; $a =~ s/^@/\0/;
send S, "READY=1", 0, pack "S a*", AF_UNIX, $a; print "beta is up\n"; sleep 1000 while 1''']
ready = { notify = true }
[[daemon]]
name = "gamma"
command = ["sleep", "1000"]
[signals]
HUP = { forward = "alpha" }
USR1 = { restart = "beta" }
USR2 = { restart = "alpha" }
WINCH = { restart = "gamma" }
"#;
/// alpha obeys and exits 3; beta dies of its TERM; gamma outlives its grace.
const ENDING: &str = r#"
grace = "1s"
[[daemon]]
name = "alpha"
command = ["/usr/bin/perl", "-e", '$| = 1; $SIG{TERM} = sub { print "last words\n"; exit 3 }; LEAVE print "it is up\n"; sleep 1000 while 1']
[[daemon]]
name = "beta"
command = ["/usr/bin/perl", "-e", '$| = 1; print "it is up\n"; sleep 1000']
[[daemon]]
name = "gamma"
grace = "50ms"
command = ["/usr/bin/perl", "-e", '$| = 1; $SIG{TERM} = "IGNORE"; print "it is up\n"; sleep 1000 while 1']
"#;

/// The errors that each call can fail with, besides EINTR and delays, which apply to all.
const ERRORS: [(&str, &[&str]); 48] = [
    ("clone", &["EAGAIN", "ENOMEM"]),
    ("pipe2", &["EMFILE", "ENFILE"]),
    ("memfd_create", &["EMFILE", "ENOMEM"]),
    ("write", &["EAGAIN", "ENOSPC", "EIO", "EPIPE"]),
    ("read", &["EAGAIN", "EIO"]),
    ("ppoll", &["ENOMEM"]),
    ("poll", &["ENOMEM"]),
    ("epoll_wait", &[]),
    ("epoll_ctl", &["ENOMEM", "ENOSPC"]),
    ("epoll_create1", &["EMFILE", "ENOMEM"]),
    ("fcntl", &["EMFILE", "EINVAL"]),
    ("dup3", &["EBUSY"]),
    ("fchmod", &["EPERM"]),
    ("ftruncate", &["EFBIG", "EPERM"]),
    ("signalfd4", &["EMFILE", "ENOMEM"]),
    ("rt_sigtimedwait", &["EAGAIN"]),
    ("pidfd_open", &["EMFILE", "ENOSYS"]),
    ("pidfd_send_signal", &["ENOSYS"]),
    // Linux closes a descriptor whatever close(2) returns. strace would leave the call out, and so keep it open.
    ("close", &[]),
    ("close_range", &["ENOSYS", "EPERM"]),
    ("waitid", &[]),
    ("wait4", &[]),
    ("writev", &["ENOMEM", "ENOSPC"]),
    ("kill", &["EPERM"]),
    ("openat", &["EMFILE", "ENFILE", "ENOMEM", "EACCES"]),
    ("access", &["ENOMEM"]),
    ("statx", &["ENOMEM"]),
    ("fstat", &["EIO"]),
    ("newfstatat", &["EIO", "ENOMEM"]),
    ("pread64", &["EIO"]),
    ("ioctl", &["EIO"]),
    ("recvfrom", &["EAGAIN", "ENOMEM"]),
    ("recvmsg", &["EAGAIN", "ENOMEM"]),
    ("sendto", &["EAGAIN", "ENOBUFS"]),
    ("mmap", &["ENOMEM"]),
    ("mremap", &["ENOMEM"]),
    ("mprotect", &["ENOMEM"]),
    // It returns the end as it is where it can't move that: an error would be taken for a very high one.
    ("brk", &["retval=0"]),
    ("madvise", &["EINVAL"]),
    ("prctl", &["EPERM"]),
    ("prlimit64", &["EPERM"]),
    ("getrandom", &["ENOSYS"]),
    ("sched_getaffinity", &["EPERM"]),
    ("getsid", &["ESRCH"]),
    ("socket", &["EMFILE", "ENOMEM"]),
    ("setsockopt", &["ENOPROTOOPT"]),
    ("bind", &["EADDRINUSE", "ENOMEM"]),
    ("listen", &["EADDRINUSE"]),
];
/// Calls that can't fail, or only with wrong arguments.
const NEVER: [&str; 16] = [
    "rt_sigreturn",
    "restart_syscall",
    "exit_group",
    "rt_sigprocmask",
    "rt_sigaction",
    "sigaltstack",
    "munmap",
    "getpid",
    "gettid",
    "getsockname",
    "execve",
    "arch_prctl",
    "set_tid_address",
    "set_robust_list",
    "rseq",
    "exit",
];

pub fn is_whole_walk() -> bool {
    std::env::var("INIT_FAULTS").is_ok_and(|value| value == "all")
}

/// One call and how it fails.
#[derive(Clone, Debug)]
struct Fault {
    call: String,
    how: String,
    /// Which occurrence of the call fails, from 1.
    when: usize,
}

/// strace(1) attached to a running process.
pub struct Strace(Child);

impl Strace {
    pub fn attach(bundle: &Bundle, arguments: &[String]) -> Self {
        let pid = bundle.pid();
        let mut command = Command::new("strace");
        command.args(["-p", &pid.to_string(), "-o"]).arg(bundle.dir.join("trace")).args(arguments);
        let child = command.stderr(File::create(bundle.dir.join("strace")).unwrap()).spawn().unwrap();
        bundle.wait_for("strace", "attached");
        Self(child)
    }

    /// Waits for it after the traced process has ended.
    fn wait(mut self) {
        let since = Instant::now();
        while self.0.try_wait().unwrap().is_none() {
            if since.elapsed() > PATIENCE {
                // The kernel lets its tracees go on.
                self.0.kill().unwrap();
                self.0.wait().unwrap();
                panic!("strace didn't end");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Detaches strace.
    pub fn detach(self) {
        // SAFETY: kill(2) has no memory effects; strace is not reaped yet.
        unsafe { libc::kill(self.0.id().cast_signed(), libc::SIGINT) };
        self.wait();
    }
}

impl Fault {
    fn arguments(&self) -> Vec<String> {
        let Self { call, how, when } = self;
        vec![format!("--trace={call}"), format!("--inject={call}:{how}:when={when}")]
    }
}

pub fn is_hit(trace: &str) -> bool {
    trace.contains("(INJECTED)") || trace.contains("(DELAYED)")
}

fn count_of(text: &str, what: &str) -> usize {
    text.matches(what).count()
}

/// A bundle in which many faults are tried, one after the other.
struct Victim {
    bundle: Bundle,
    /// How often USR1 and HUP were sent.
    restarts: usize,
    hups: usize,
    alpha: i32,
    gamma: i32,
    descriptors: usize,
}

impl Victim {
    fn start() -> Self {
        let bundle = Setup::new(TABLE).start();
        bundle.wait_for("out", "[alpha] alpha is up");
        bundle.wait_for("out", "[beta] beta is up");
        bundle.wait_until("beta's word", || bundle.page()["plans"][1]["notified"] == true);
        bundle.wait_until_started();
        let pid = |bundle: &Bundle, what| Self::processes(bundle, what)[0];
        let (alpha, gamma) = (pid(&bundle, "took"), pid(&bundle, "sleep\x001000"));
        let descriptors = bundle.descriptors();
        Self { bundle, restarts: 0, hups: 0, alpha, gamma, descriptors }
    }

    /// init's children that live and have this in their command line.
    fn processes(bundle: &Bundle, what: &str) -> Vec<i32> {
        let is_one = |pid: &i32| {
            let is_alive = stat(*pid, 3).is_some_and(|state| state != "Z");
            is_alive && std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(what))
        };
        bundle.children().into_iter().filter(is_one).collect()
    }

    /// Asks for a restart and waits until it is served or logged as failed.
    fn restart(&mut self) {
        let betas = || Self::processes(&self.bundle, "READY");
        let failures = || count_of(&self.bundle.read("err"), "cannot start beta");
        let (old, failed) = (betas(), failures());
        self.bundle.signal("USR1");
        self.restarts += 1;
        self.bundle.wait_until("a restart, or why there is none", || {
            let new = betas();
            failures() > failed || (new.len() == 1 && !old.contains(&new[0]))
        });
    }

    /// Asks for a reload, which also makes an orphan, and waits until it is served or logged as failed.
    fn reload(&mut self) {
        let told = || count_of(&self.bundle.read("err"), "cannot send signal 1 ");
        let (took, failed) = (self.bundle.read("took").len(), told());
        self.bundle.signal("HUP");
        self.hups += 1;
        self.bundle
            .wait_until("a reload, or why there is none", || self.bundle.read("took").len() > took || told() > failed);
    }

    fn serve(&mut self) {
        self.restart();
        self.reload();
    }

    /// Checks, without faults, that everything runs and the next requests are served.
    fn is_well(&mut self) {
        self.serve();
        let bundle = &self.bundle;
        bundle.wait_until("the page", || {
            let page = bundle.page();
            let last = |signal: &str| page["status"]["signals"][signal]["last"].clone();
            let (restart, hup) = (last("USR1"), last("HUP"));
            page["plans"][1]["notified"] == true
                && (&restart["outcome"], &restart["seq"]) == (&"restarted".into(), &self.restarts.into())
                && (&hup["outcome"], &hup["seq"]) == (&"delivered".into(), &self.hups.into())
        });
        let took = self.bundle.read("took");
        bundle.wait_for("out", &format!("[alpha] took {}\n", took.lines().last().unwrap()));
        bundle.wait_until("no child but the three daemons", || bundle.children().len() == 3);
        let alive = |what| Self::processes(bundle, what);
        assert_eq!((alive("took"), alive("sleep\x001000")), (vec![self.alpha], vec![self.gamma]), "a sibling moved");
        bundle.wait_until("the descriptors as before", || bundle.descriptors() == self.descriptors);
        // init counts what it could not write.
        let out = bundle.read("out");
        let are_there = took.lines().all(|n| out.contains(&format!("[alpha] took {n}\n")));
        assert!(are_there || out.contains(" lines were dropped here"), "lines are lost and nobody says so: {out}");
    }
}

/// How often each call is made, according to a trace.
fn calls(trace: &str) -> BTreeMap<String, usize> {
    let mut calls = BTreeMap::new();
    for name in trace.lines().filter_map(|line| Some(line.split_once('(')?.0)) {
        if name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') && !NEVER.contains(&name) {
            *calls.entry(name.to_owned()).or_default() += 1;
        }
    }
    calls
}

/// Every call with every error at every occurrence, or a sample: each error of each call, once.
fn faults(calls: &BTreeMap<String, usize>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (call, count) in calls {
        let errors = ERRORS.iter().find(|(name, _)| name == call).map_or(&[][..], |(_, errors)| errors);
        let hows = errors.iter().map(|e| if e.contains('=') { (*e).to_owned() } else { format!("error={e}") });
        // In a sample one of them: it takes its time.
        let delays = ["delay_enter=200000", "delay_exit=200000"];
        let delays = if is_whole_walk() { &delays[..] } else { &delays[faults.len() % 2..][..1] };
        let interrupted = (!matches!(call.as_str(), "brk" | "close")).then(|| "error=EINTR".to_owned());
        for how in hows.chain(interrupted).chain(delays.iter().map(|how| (*how).to_owned())) {
            let chosen = faults.len() * 7 % count;
            let all = (0..*count).filter(|n| is_whole_walk() || *n == chosen);
            let all: Vec<_> = all.map(|n| Fault { call: call.clone(), how: how.clone(), when: 1 + n }).collect();
            faults.extend(all);
        }
    }
    faults
}

#[test]
fn whatever_call_fails_while_init_serves_the_next_request_is_served() {
    needs!(Native("ptrace is not there, or watches qemu"));
    let mut victim = Victim::start();
    let strace = Strace::attach(&victim.bundle, &[]);
    victim.serve();
    victim.bundle.wait_until("no orphan", || victim.bundle.children().len() == 3);
    strace.detach();
    let all = faults(&calls(&victim.bundle.read("trace")));
    let mut hit = 0;
    for fault in &all {
        eprintln!("{fault:?}");
        let strace = Strace::attach(&victim.bundle, &fault.arguments());
        victim.serve();
        strace.detach();
        hit += usize::from(is_hit(&victim.bundle.read("trace")));
        victim.is_well();
    }
    println!("{hit} of {} faults met a call", all.len());
    // How often it looks at /proc for a handler varies.
    assert!(hit * 10 >= all.len() * 7, "only {hit} of {} faults met a call", all.len());
}

/// The calls of a trace from the one on that has this in its line, by name: how often it came before, and in it.
fn calls_from(trace: &str, from: &str, to: &str) -> Vec<(String, usize, usize)> {
    let at = trace.find(from).unwrap_or_else(|| panic!("no {from} in {trace}"));
    let (before, rest) = trace.split_at(at);
    let rest = rest.find(to).map_or(rest, |end| &rest[..end]);
    let before = calls(before);
    let counted = |name: &str| before.get(name).copied().unwrap_or(0);
    calls(rest).into_iter().map(|(name, count)| (name.clone(), counted(&name), count)).collect()
}

/// The faults of these calls, each where it came at first.
fn faults_from(trace: &str, from: &str, to: &str) -> Vec<Fault> {
    let parts = calls_from(trace, from, to);
    let counts = parts.iter().map(|(name, _, count)| (name.clone(), *count)).collect();
    let mut faults = faults(&counts);
    for fault in &mut faults {
        fault.when += parts.iter().find(|(name, ..)| *name == fault.call).map_or(0, |(_, before, _)| *before);
    }
    faults
}

/// Checks that no process is left, and returns init's exit code.
fn end_of(bundle: &mut Bundle, is_pid_1: bool) -> i32 {
    let code = bundle.exit_code();
    if is_pid_1 {
        return code;
    }
    let left = bundle.read("who-is-left");
    assert_eq!(left.lines().count(), 1, "{left}");
    bundle.read("code").trim().parse().unwrap()
}

/// A start of init, traced from its first call.
struct Start {
    bundle: Bundle,
    is_pid_1: bool,
}

impl Start {
    fn under(is_pid_1: bool, arguments: &[String]) -> (Self, Strace) {
        let listen = "name = \"gamma\"\nlisten = [{ tcp = \"0.0.0.0:9100\" }, { tcp = \"[::]:9101\" }]";
        let setup = Setup::new(&TABLE.replace("name = \"gamma\"", listen)).wrapped(&["unshare", "--net"]);
        let bundle = if is_pid_1 { setup } else { setup.not_as_pid_1() }.closed().start();
        bundle.wait_until_closed();
        let strace = Strace::attach(&bundle, arguments);
        bundle.open();
        (Self { bundle, is_pid_1 }, strace)
    }

    /// A fault for each call from `from` to `to`.
    fn faults(is_pid_1: bool, from: &str, to: &str) -> Vec<Fault> {
        let (start, strace) = Self::under(is_pid_1, &[]);
        start.bundle.wait_for("out", "[beta] beta is up");
        strace.detach();
        faults_from(&start.bundle.read("trace"), from, to)
    }

    /// Whether each daemon runs, or the log says why it doesn't.
    fn is_settled(&self) -> bool {
        // init reads daemons' output only after it has waited for the first time.
        let is_at_rest = self.bundle.read("out").contains(" is up\n");
        is_at_rest
            && DAEMONS.iter().all(|(name, what, _)| {
                Victim::processes(&self.bundle, what).len() == 1
                    || self.bundle.read("err").contains(&format!("cannot start {name}: "))
            })
    }

    /// Checks that failures are logged, that the next request starts what isn't running, and that all requests are served.
    fn is_whole(&mut self) {
        let bundle = &self.bundle;
        let (log, out) = (|| bundle.read("err"), || bundle.read("out"));
        for (name, what, signal) in DAEMONS {
            let old = Victim::processes(bundle, what);
            if old.is_empty() || name == "beta" {
                bundle.signal(signal);
                bundle.wait_until(
                    "a process",
                    || matches!(Victim::processes(bundle, what).as_slice(), [new] if !old.contains(new)),
                );
            }
        }
        let has_socket = !log().contains("no socket for sd_notify");
        bundle.wait_until("the page", || {
            let page = bundle.page();
            let restart = &page["status"]["signals"]["USR1"]["last"];
            (0..3).all(|n| page["status"]["daemons"][n]["state"] == "running")
                && (&restart["outcome"], &restart["seq"]) == (&"restarted".into(), &1.into())
                && page["plans"][1]["notified"] == has_socket
        });
        bundle.signal("HUP");
        bundle.outcome("HUP", "delivered");
        bundle.wait_until("a reload", || out().contains("[alpha] took 1\n"));
        let is_told = |text: &str, lines: &[&str]| {
            lines.iter().all(|line| text.contains(line)) || text.contains(" lines were dropped here")
        };
        bundle.wait_until("every line or how many are missing", || {
            is_told(&out(), &["[alpha] alpha is up\n", "[beta] beta is up\n"])
                && is_told(&log(), &["starting alpha\n", "starting beta\n", "starting gamma\n"])
        });
        bundle.signal("TERM");
        assert_eq!(end_of(&mut self.bundle, self.is_pid_1), 143);
    }

    /// Waits until init is up and serves requests, or has ended; returns its exit code.
    fn judge(mut self, strace: Strace) -> Option<i32> {
        let log = self.bundle.dir.join("err");
        let log = || std::fs::read_to_string(&log).unwrap_or_default();
        wait_until("its being up, or gone", log, || self.bundle.try_code().is_some() || self.is_settled());
        if self.bundle.try_code().is_some() {
            strace.wait();
            return Some(end_of(&mut self.bundle, self.is_pid_1));
        }
        let bundle = &self.bundle;
        bundle.wait_until("a page, or why there is none", || {
            bundle.page()["status"].is_object() || bundle.read("err").contains("no status page")
        });
        strace.detach();
        self.is_whole();
        None
    }
}

/// Each daemon of the table, a text that only its command line has, and the signal that restarts it.
const DAEMONS: [(&str, &str, &str); 3] =
    [("alpha", "took", "USR2"), ("beta", "READY", "USR1"), ("gamma", "sleep\x001000", "WINCH")];
/// main's first call; whatever comes before is the loader's, libc's or the runtime's.
const MAIN: &str = "rt_sigprocmask(SIG_BLOCK, ~[";

#[test]
fn whatever_call_fails_at_its_start_init_comes_up_or_says_why_not() {
    needs!(Native("ptrace is not there, or watches qemu"));
    // To the first time that it waits without an end; and what it does only where it isn't PID 1.
    let of_pid_1 = Start::faults(true, MAIN, "], 2, NULL, NULL").into_iter().map(|fault| (true, fault));
    let others = Start::faults(false, "prctl(", "\n").into_iter().map(|fault| (false, fault));
    let (mut hit, mut ended) = (0, BTreeMap::<_, usize>::new());
    let all: Vec<_> = of_pid_1.chain(others).collect();
    for (is_pid_1, fault) in &all {
        eprintln!("{fault:?}");
        let (start, strace) = Start::under(*is_pid_1, &fault.arguments());
        let (trace, log) = (start.bundle.dir.join("trace"), start.bundle.dir.join("err"));
        let (trace, log) = (File::open(trace).unwrap(), File::open(log).unwrap());
        if let Some(code) = start.judge(strace) {
            let said = std::io::read_to_string(log).unwrap();
            // The kernel refuses what it can't do without, or the table can't be read.
            assert!([1, 2].contains(&code), "exit {code}: {said}");
            assert!(said.starts_with("init: ") && said.lines().count() == 1, "exit {code}: {said}");
            *ended.entry(code).or_default() += 1;
        }
        hit += usize::from(is_hit(&std::io::read_to_string(trace).unwrap()));
    }
    println!(
        "{hit} of {} faults met a call; exit codes of the {} that ended it: {ended:?}",
        all.len(),
        ended.values().sum::<usize>()
    );
    // What came together on a loaded machine may have been served by fewer calls.
    assert!(hit * 20 >= all.len() * 19, "only {hit} of {} faults met a call", all.len());
}

/// What comes before main is not init's own: the loader's (a static binary has none), libc's, the Rust runtime's. They
/// end the process in ways of their own where one of these fails, before anything was started:
/// - openat, read, pread64, newfstatat, mmap, mprotect, close: the loader says which library it can't load, and exits
///   127; without memory for its own first notes (the first mmap) it crashes, 139;
/// - mmap, mprotect: without a stack for its handlers Rust's runtime aborts and says so, 134.
///
/// The rest goes on without. Where a PID 1 that is traced crashes the kernel lets it live (SIGSEGV again and again), so
/// this is seen of an init that isn't PID 1.
#[test]
fn whatever_fails_before_main_init_ends_at_once_or_comes_up_whole() {
    needs!(Native("ptrace is not there, or watches qemu"));
    let all = Start::faults(false, "execve(", MAIN);
    let mut ended = BTreeMap::new();
    for fault in &all {
        eprintln!("{fault:?}");
        let (start, strace) = Start::under(false, &fault.arguments());
        let log = File::open(start.bundle.dir.join("err")).unwrap();
        if let Some(code) = start.judge(strace) {
            let said = std::io::read_to_string(log).unwrap();
            assert!(code != 0 && !said.contains("starting"), "exit {code}: {said}");
            eprintln!("  {code}: {said}");
            *ended.entry(code).or_insert(0) += 1;
        }
    }
    println!("{} faults; exit codes of those that ended it: {ended:?}", all.len());
}

#[test]
fn whatever_call_fails_in_a_shutdown_init_ends_in_time() {
    needs!(Native("ptrace is not there, or watches qemu"));
    for is_pid_1 in [true, false] {
        let end = |arguments: &[String]| {
            let leave = if is_pid_1 { "" } else { "system \"setsid sleep 1000 &\";" };
            let setup = Setup::new(&ENDING.replace("LEAVE", leave));
            let mut bundle = if is_pid_1 { setup } else { setup.not_as_pid_1() }.start();
            bundle.wait_until("all up", || bundle.read("out").matches("it is up\n").count() == 3);
            let pid = bundle.pid();
            bundle.wait_until("rest", || stat(pid, 3).as_deref() == Some("S"));
            let strace = Strace::attach(&bundle, arguments);
            bundle.signal("TERM");
            bundle.exit_code();
            strace.wait();
            bundle
        };
        let all = faults_from(&end(&[]).read("trace"), "", "no such line");
        let mut hit = 0;
        for fault in &all {
            eprintln!("{fault:?}");
            let mut bundle = end(&fault.arguments());
            hit += usize::from(is_hit(&bundle.read("trace")));
            let code = end_of(&mut bundle, is_pid_1);
            if code == 3 {
                let out = bundle.read("out");
                assert!(out.contains("[alpha] last words\n") || out.contains(" lines were dropped here"), "{out}");
            } else {
                // The TERM did not reach it, and so it was killed.
                assert!(code == 137 && fault.call == "kill", "exit {code}: {}", bundle.read("err"));
            }
        }
        println!("{hit} of {} faults met a call", all.len());
        assert!(hit * 10 >= all.len() * 7, "only {hit} of {} faults met a call", all.len());
    }
}

/// app waits until db is ready, which it is once DIR/well is there; each probe leaves a byte in DIR/asked.
const WAITING: &str = r#"
restart = "on-failure"
[[daemon]]
name = "db"
command = ["sleep", "1000"]
ready = { exec = ["sh", "-c", "printf x >> DIR/asked; test -e DIR/well"] }
[[daemon]]
name = "app"
command = ["sleep", "1000"]
depends_on = ["db"]
"#;

#[test]
fn whatever_call_fails_in_a_probe_the_dependent_starts_in_the_end() {
    needs!(Native("ptrace is not there, or watches qemu"));
    let run = |arguments: &[String]| {
        let bundle = Bundle::start(WAITING);
        bundle.wait_until("a probe", || !bundle.read("asked").is_empty());
        bundle.wait_until("why app waits", || bundle.daemon(1)["waiting_for"][0]["why"].is_string());
        // Each probe has a pipe, which may be there a moment longer than it.
        let (mut looks, mut before) = (0, usize::MAX);
        bundle.wait_until("rest, looked at ten times", || {
            let now = bundle.descriptors();
            if bundle.children().len() == 1 {
                (looks, before) = (looks + 1, before.min(now));
            }
            looks == 10
        });
        let strace = Strace::attach(&bundle, arguments);
        let asked = bundle.read("asked").len();
        bundle.ask("r1 restart nobody");
        bundle.wait_until("another probe", || bundle.read("asked").len() > asked);
        bundle.write("well", "");
        let runs = || bundle.daemon(1)["state"] == "running";
        bundle.wait_until("app, or why that isn't shown", || runs() || bundle.read("err").contains("no status page: "));
        strace.detach();
        bundle.ask("r2 restart app");
        bundle.wait_until("another app", || {
            let daemon = bundle.daemon(1);
            daemon["state"] == "running" && daemon["requests"][0]["outcome"] == "started"
        });
        bundle.wait_until("db and app alone", || bundle.children().len() == 2);
        bundle.wait_until("two pipes more", || bundle.descriptors() == before + 2);
        bundle
    };
    let all = faults(&calls(&run(&[]).read("trace")));
    let mut hit = 0;
    for fault in &all {
        eprintln!("{fault:?}");
        hit += usize::from(is_hit(&run(&fault.arguments()).read("trace")));
    }
    println!("{hit} of {} faults met a call", all.len());
    assert!(hit * 10 >= all.len() * 7, "only {hit} of {} faults met a call", all.len());
}

#[test]
fn a_restart_starts_a_program_that_could_not_be_executed_once() {
    needs!(Native("ptrace is not there, or watches qemu"));
    let mut victim = Victim::start();
    for (error, code) in [("ENOENT", 127), ("EACCES", 126), ("ETXTBSY", 126), ("ENOMEM", 126)] {
        let arguments = ["-f".to_owned(), "--trace=execve".to_owned(), format!("--inject=execve:error={error}:when=1")];
        let strace = Strace::attach(&victim.bundle, &arguments);
        victim.restart();
        victim.bundle.wait_until("a failure", || victim.bundle.daemon(1)["state"] == "failed");
        let beta = victim.bundle.daemon(1);
        assert_eq!((&beta["state"], &beta["last_exit"]["code"]), (&"failed".into(), &code.into()), "{error}");
        strace.detach();
        victim.is_well();
    }
}
