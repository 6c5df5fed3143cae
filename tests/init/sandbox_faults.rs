//! Each system call of a child that confines itself fails once, until it becomes its daemon (strace(1), `-e inject`). The daemon
//! runs in its whole sandbox, or it isn't started.
//!
//! By default each error of each call is tried once. `INIT_FAULTS=all` tries it everywhere; where a loop makes the same call again
//! and again, as it does for each file of a directory, the first and the last one stand for all.

use std::collections::BTreeSet;

use super::faults::{Strace, is_hit, is_whole_walk};
use super::harness::{Bundle, Setup};

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

/// The calls that the child made until it executed the daemon's program, one by one: of each its name, and what tells it from
/// the same call elsewhere.
fn calls(trace: &str) -> Vec<(String, String)> {
    let (before, _) = trace.split_once("execve(\"/bin/sh\"").unwrap_or_else(|| panic!("no daemon in {trace}"));
    let forked = before.rfind("setsid(").map(|at| before[..at].rfind('\n').map_or(0, |end| end + 1)).unwrap();
    let pid = before[forked..].split(' ').next().unwrap();
    let mut calls: Vec<(String, String)> = Vec::new();
    for line in before.lines().filter_map(|line| line.strip_prefix(pid)) {
        let Some((name, arguments)) = line.trim_start().split_once('(') else { continue };
        let last = calls.last().map_or("", |(name, _)| name);
        calls.push((name.to_owned(), format!("{last} {}", shape(arguments))));
    }
    // The daemon's own program.
    calls.push(("execve".to_owned(), "the daemon".to_owned()));
    calls
}

/// Arguments and result without numbers, names of files and names of capabilities.
fn shape(arguments: &str) -> String {
    let outside = arguments.split('"').step_by(2).collect::<Vec<_>>().join("\"\"");
    let words = outside.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let is_constant = |word: &&str| word.starts_with(|c: char| c.is_ascii_alphabetic()) && !word.starts_with("CAP_");
    words.filter(is_constant).collect::<Vec<_>>().join(" ")
}

/// Which occurrences of a call are tried, from 1.
fn tried(calls: &[(String, String)], call: &str) -> BTreeSet<usize> {
    let all: Vec<&str> = calls.iter().filter(|(name, _)| name == call).map(|(_, place)| place.as_str()).collect();
    let ends = |place: &&str| {
        let at = |other: &&str| other == place;
        [all.iter().position(at), all.iter().rposition(at)].into_iter().flatten().map(|index| index + 1)
    };
    all.iter().flat_map(ends).collect()
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
    let all = calls(&bundle.read("trace"));
    for call in ["landlock_add_rule", "landlock_restrict_self", "seccomp", "mkdirat", "getdents64", "readlinkat"] {
        assert!(all.iter().any(|(name, _)| name == call), "no {call}: {all:?}");
    }
    let (mut hit, mut count, mut refused) = (0, 0, 0);
    for (call, errors) in ERRORS {
        let occurrences = all.iter().filter(|(name, _)| name == call).count();
        if occurrences == 0 {
            continue;
        }
        for (number, error) in errors.iter().enumerate() {
            let how = if error.contains('=') { (*error).to_owned() } else { format!("error={error}") };
            let chosen = BTreeSet::from([1 + number * 7 % occurrences]);
            for when in if is_whole_walk() { tried(&all, call) } else { chosen } {
                let _ = again();
                let inject = format!("--inject={call}:{how}:when={when}");
                eprintln!("{inject}");
                let strace = Strace::attach(&bundle, &["-f".to_owned(), format!("--trace={call}"), inject.clone()]);
                let is_started = restart(&bundle);
                strace.detach();
                let out = bundle.read("out");
                assert!(!out.contains("open: "), "{inject}: {out}");
                hit += usize::from(is_hit(&bundle.read("trace")));
                (count, refused) = (count + 1, refused + usize::from(!is_started));
            }
        }
    }
    println!("{count} faults, {hit} met a call, {refused} times alpha wasn't started");
    assert!(hit * 10 >= count * 8, "only {hit} of {count} faults met a call");
    assert!(restart(&bundle), "{}", bundle.read("err"));
}
