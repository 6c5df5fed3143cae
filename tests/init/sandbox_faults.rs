//! Each system call of a child that confines itself fails once, until it becomes its daemon (strace(1), `-e inject`). The daemon
//! runs in its whole sandbox, or it isn't started.
//!
//! By default each error of each call is tried once; `INIT_FAULTS=all` tries every occurrence.

use std::collections::BTreeMap;

use super::bundle::{Bundle, Setup};
use super::faults::{Strace, is_hit, is_whole_walk};

/// alpha says what it can do that its sandbox forbids. What is beta's is told by a link.
const TABLE: &str = r#"
[[daemon]]
name = "alpha"
command = ["/bin/sh", "-c", '''
(cat DIR/secrets/key) > /dev/null 2>&1 && echo "open: key"
(cat DIR/beta/data) > /dev/null 2>&1 && echo "open: data"
(echo x >> DIR/file) 2> /dev/null && echo "open: file"
(ulimit -v 1000000000; kill -0 1) 2> /dev/null && echo "open: init"
echo checked; exec sleep 1000''']
[daemon.sandbox]
write = ["DIR/alpha", "DIR/made"]
connect = []
[[daemon]]
name = "beta"
command = ["sleep", "1000"]
[daemon.sandbox]
write = ["DIR/beta"]
private = ["DIR/current/key"]
[signals]
USR1 = { restart = "alpha" }
"#;
const PREPARE: &str = "cd DIR; mkdir alpha beta secrets; echo key > secrets/key; echo data > beta/data; ln -s secrets current; > file; exec \"$@\"";

/// How each call fails. What isn't here can't fail, or not in a way that matters: these are all that take part in a sandbox.
const ERRORS: [(&str, &[&str]); 24] = [
    ("setsid", &["EPERM"]),
    ("dup2", &["EMFILE", "EBADF"]),
    ("dup3", &["EBUSY"]),
    ("fcntl", &["EMFILE", "ENOMEM"]),
    ("close_range", &["ENOSYS"]),
    ("execve", &["ENOMEM", "EACCES", "ENOENT"]),
    ("openat", &["EMFILE", "ENFILE", "ENOMEM", "EIO", "EINTR"]),
    ("statx", &["ENOMEM", "EIO", "ENOSYS", "EINTR"]),
    ("fstat", &["ENOMEM", "EIO"]),
    ("newfstatat", &["ENOMEM", "EIO"]),
    ("read", &["EIO", "EINTR"]),
    ("pread64", &["EIO", "EINTR", "retval=0"]),
    ("readlinkat", &["EIO", "ENOMEM"]),
    ("getdents64", &["EIO", "ENOMEM", "ENOENT"]),
    ("mkdirat", &["EACCES", "ENOSPC", "EROFS"]),
    ("close", &["EIO", "EINTR"]),
    ("mmap", &["ENOMEM"]),
    ("brk", &["retval=0"]),
    ("prctl", &["EPERM", "EINVAL"]),
    ("capset", &["EPERM"]),
    ("landlock_create_ruleset", &["ENOSYS", "EOPNOTSUPP", "EPERM", "ENOMEM", "EMFILE"]),
    ("landlock_add_rule", &["ENOMEM", "EINVAL", "EPERM", "EBADF"]),
    ("landlock_restrict_self", &["E2BIG", "ENOMEM", "EPERM"]),
    ("seccomp", &["ENOMEM", "EINVAL", "EACCES", "ENOSYS"]),
];

/// How often the child made each call until it executed the daemon's program.
fn calls(trace: &str) -> BTreeMap<String, usize> {
    let (before, _) = trace.split_once("execve(\"/bin/sh\"").unwrap_or_else(|| panic!("no daemon in {trace}"));
    let forked = before.rfind("setsid(").map(|at| before[..at].rfind('\n').map_or(0, |end| end + 1)).unwrap();
    let pid = before[forked..].split(' ').next().unwrap();
    let mut calls = BTreeMap::new();
    for line in before.lines().filter_map(|line| line.strip_prefix(pid)) {
        if let Some((name, _)) = line.trim_start().split_once('(') {
            *calls.entry(name.to_owned()).or_default() += 1;
        }
    }
    // The daemon's own program.
    *calls.entry("execve".to_owned()).or_default() += 1;
    calls
}

/// Restarts alpha, and returns whether it was started.
fn restart(bundle: &Bundle) -> bool {
    let count = |file: &str, what: &str| bundle.read(file).matches(what).count();
    let (checked, failed) = (count("out", "[alpha] checked"), count("err", "cannot start alpha"));
    // Not by its restart.
    let ends = || {
        let log = bundle.read("err");
        log.lines().filter(|line| line.contains(" alpha (pid ") && !line.contains("signal 15 ")).count()
    };
    let ended = ends();
    bundle.signal("USR1");
    bundle.wait_until("alpha, or why there is none", || {
        count("out", "[alpha] checked") > checked || count("err", "cannot start alpha") > failed || ends() > ended
    });
    count("out", "[alpha] checked") > checked
}

#[test]
fn whatever_call_fails_a_daemon_runs_in_its_whole_sandbox_or_not_at_all() {
    needs!(Native("ptrace is not there, or watches qemu"));
    let bundle = Setup::new(TABLE).wrapped(&["sh", "-c", PREPARE, "-"]).start();
    bundle.wait_for("out", "[alpha] checked");
    let again = || std::fs::remove_dir(bundle.dir.join("made"));
    again().unwrap();
    let strace = Strace::attach(&bundle, &["-f".to_owned()]);
    assert!(restart(&bundle));
    strace.detach();
    let counted = calls(&bundle.read("trace"));
    for call in ["landlock_add_rule", "landlock_restrict_self", "seccomp", "mkdirat", "getdents64", "readlinkat"] {
        assert!(counted.contains_key(call), "no {call}: {counted:?}");
    }
    let (mut hit, mut tried, mut refused) = (0, 0, 0);
    for (call, errors) in ERRORS {
        let Some(count) = counted.get(call) else { continue };
        for (number, error) in errors.iter().enumerate() {
            let how = if error.contains('=') { (*error).to_owned() } else { format!("error={error}") };
            let chosen = 1 + number * 7 % count;
            for when in (1..=*count).filter(|when| is_whole_walk() || *when == chosen) {
                let _ = again();
                let inject = format!("--inject={call}:{how}:when={when}");
                let strace = Strace::attach(&bundle, &["-f".to_owned(), format!("--trace={call}"), inject.clone()]);
                let is_started = restart(&bundle);
                strace.detach();
                let out = bundle.read("out");
                assert!(!out.contains("open: "), "{inject}: {out}");
                hit += usize::from(is_hit(&bundle.read("trace")));
                (tried, refused) = (tried + 1, refused + usize::from(!is_started));
            }
        }
    }
    println!("{tried} faults, {hit} met a call, {refused} times alpha wasn't started");
    assert!(hit * 10 >= tried * 8, "only {hit} of {tried} faults met a call");
    assert!(restart(&bundle), "{}", bundle.read("err"));
}
