//! The kernel fails init: each call that it makes, at each of its occurrences, once (strace(1), `-e inject`). init lives,
//! its daemons live, what was asked for is served or told as failed, and the next request is served.
//!
//! A sample is walked; `INIT_FAULTS=all` walks them all.

use std::collections::BTreeMap;
use std::fs::File;
use std::process::{Child, Command};

use nix::libc;

use super::bundle::{Bundle, Setup, stat};

/// alpha takes a HUP, says so, and leaves an orphan; beta is restarted, and says that it is ready; gamma is nobody's
/// business.
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
"#;

/// What each call can fail with; with EINTR and with delays each of them.
const ERRORS: [(&str, &[&str]); 27] = [
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
    ("close", &["EIO"]),
    ("waitid", &[]),
    ("wait4", &[]),
    ("kill", &["EPERM"]),
    ("openat", &["EMFILE", "ENFILE", "ENOMEM", "EACCES"]),
    ("statx", &["ENOMEM"]),
    ("fstat", &["EIO"]),
    ("ioctl", &["EIO"]),
    ("recvfrom", &["EAGAIN", "ENOMEM"]),
    ("recvmsg", &["EAGAIN", "ENOMEM"]),
    ("mmap", &["ENOMEM"]),
    ("brk", &["ENOMEM"]),
    ("madvise", &["EINVAL"]),
    ("socketpair", &["EMFILE", "ENOMEM"]),
    ("socket", &["EMFILE", "ENOMEM"]),
];
/// They fail with nothing.
const NEVER: [&str; 7] =
    ["rt_sigreturn", "restart_syscall", "exit_group", "rt_sigprocmask", "rt_sigaction", "munmap", "getpid"];

fn is_whole_walk() -> bool {
    std::env::var("INIT_FAULTS").is_ok_and(|value| value == "all")
}

/// One call that fails.
#[derive(Clone, Debug)]
struct Fault {
    call: String,
    how: String,
    /// The how-manieth.
    when: usize,
}

/// strace(1) on a process that runs already.
struct Strace(Child);

impl Strace {
    fn attach(bundle: &Bundle, arguments: &[String]) -> Self {
        let pid = bundle.pid();
        let mut command = Command::new("strace");
        command.args(["-p", &pid.to_string(), "-o"]).arg(bundle.dir.join("trace")).args(arguments);
        let child = command.stderr(File::create(bundle.dir.join("strace")).unwrap()).spawn().unwrap();
        bundle.wait_for("strace", "attached");
        Self(child)
    }

    /// Lets go of it.
    fn detach(mut self) {
        // SAFETY: kill(2) has no memory effects; strace is not reaped yet.
        unsafe { libc::kill(self.0.id().cast_signed(), libc::SIGINT) };
        self.0.wait().unwrap();
    }
}

impl Fault {
    fn arguments(&self) -> Vec<String> {
        let Self { call, how, when } = self;
        vec![format!("--trace={call}"), format!("--inject={call}:{how}:when={when}")]
    }
}

fn count_of(text: &str, what: &str) -> usize {
    text.matches(what).count()
}

/// A bundle that many faults meet, one after the other.
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

    /// Asks for a restart and waits until it is served or told as failed.
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

    /// Asks for a reload, with which an orphan comes, and waits until it is served or told as failed.
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

    /// Nothing fails any more: all is well, and the next requests are served.
    fn is_well(&mut self, may_have_left_a_descriptor: bool) {
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
        if !may_have_left_a_descriptor {
            bundle.wait_until("the descriptors as before", || bundle.descriptors() == self.descriptors);
        }
        // What init could not write it counts.
        let out = bundle.read("out");
        let are_there = took.lines().all(|n| out.contains(&format!("[alpha] took {n}\n")));
        assert!(are_there || out.contains(" lines were dropped here"), "lines are lost and nobody says so: {out}");
    }
}

/// How often each call is made, as a trace tells.
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
        for how in errors
            .iter()
            .chain(&["EINTR"])
            .map(|error| format!("error={error}"))
            .chain(["delay_enter=200000".into(), "delay_exit=200000".into()])
        {
            let chosen = faults.len() * 7 % count;
            let all = (0..*count).filter(|n| is_whole_walk() || *n == chosen);
            let all: Vec<_> = all.map(|n| Fault { call: call.clone(), how: how.clone(), when: 1 + n }).collect();
            faults.extend(all);
        }
    }
    faults
}

#[test]
fn whatever_call_fails_once_while_requests_are_served_init_and_its_daemons_live_and_the_next_request_is_served() {
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
        hit += usize::from(victim.bundle.read("trace").contains("INJECTED") || fault.how.starts_with("delay"));
        // A close(2) that strace leaves out closes nothing.
        victim.is_well(fault.call == "close");
        if fault.call == "close" {
            victim = Victim::start();
        }
    }
    println!("{hit} of {} faults met a call", all.len());
    assert!(hit * 10 >= all.len() * 8, "only {hit} of {} faults met a call", all.len());
}

#[test]
fn a_program_that_can_not_be_executed_this_once_counts_as_failed_and_the_next_restart_starts_it() {
    let mut victim = Victim::start();
    for (error, code) in [("ENOENT", 127), ("EACCES", 126), ("ETXTBSY", 126), ("ENOMEM", 126)] {
        let arguments = ["-f".to_owned(), "--trace=execve".to_owned(), format!("--inject=execve:error={error}:when=1")];
        let strace = Strace::attach(&victim.bundle, &arguments);
        victim.restart();
        let beta = victim.bundle.daemon(1);
        assert_eq!((&beta["state"], &beta["last_exit"]["code"]), (&"failed".into(), &code.into()), "{error}");
        strace.detach();
        victim.is_well(false);
    }
}
