//! Starts, ends, restarts, and what a daemon's process is born with.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::libc;

use super::calls::assert_idle;
use super::harness::stat;
use super::{Bundle, Setup, TWO};

#[test]
fn a_daemon_gets_default_signals_a_session_and_its_own_stdio() {
    needs!(Native("qemu keeps real-time signals for itself, and knows no PR_SET_CHILD_SUBREAPER"));
    let bundle = Setup::new(
        r#"
[[daemon]]
name = "status"
command = ["cat", "/proc/self/status"]
[[daemon]]
name = "ignores"
command = ["cat", "/proc/self/status"]
ignore = ["HUP", "RTMIN+3"]
[[daemon]]
name = "stat"
command = ["cat", "/proc/self/stat"]
[[daemon]]
name = "fds"
command = ["ls", "-l", "/proc/self/fd"]
[[daemon]]
name = "last"
command = ["sleep", "1000"]
"#,
    )
    // Ignored: HUP, PIPE, CHLD and a real-time signal; blocked: all; open: 5 and 77.
    .wrapped(&[
        "perl",
        "-MPOSIX",
        "-e",
        "$SIG{$_} = 'IGNORE' for qw(HUP PIPE CHLD NUM40); $^F = 99; open(my $a, '<', '/dev/zero'); POSIX::dup2(3, 77); \
         sigprocmask(SIG_SETMASK, POSIX::SigSet->new(1 .. 31, 34 .. 64)); exec @ARGV",
    ])
    .start();
    for name in ["status", "ignores", "stat", "fds"] {
        bundle.wait_for("err", &format!("{name} (pid"));
    }
    bundle.wait_for("out", "[fds]");
    let out = bundle.read("out");
    let line = |name: &str, key: &str| {
        let start = format!("[{name}] {key}");
        out.lines().find_map(|l| l.strip_prefix(&start)).unwrap_or_else(|| panic!("{start}: {out}")).trim().to_owned()
    };
    for mask in ["SigBlk:", "SigIgn:", "SigCgt:", "SigPnd:", "ShdPnd:"] {
        assert_eq!(line("status", mask), "0000000000000000", "{mask}");
    }
    assert_eq!(line("ignores", "SigIgn:"), "0000001000000001");
    let stat = line("stat", "");
    let fields: Vec<&str> = stat.split(' ').collect();
    // Process, group and session have one number: proc(5).
    assert_eq!((fields[4], fields[5]), (fields[0], fields[0]));
    let targets: Vec<&str> =
        out.lines().filter(|l| l.starts_with("[fds]")).filter_map(|l| l.split(" -> ").nth(1)).collect();
    // The fourth is what ls reads.
    assert_eq!(targets.len(), 4, "{out}");
    assert_eq!(targets[0], "/dev/null");
    assert!(targets[1].starts_with("pipe:") && targets[2].starts_with("pipe:") && targets[1] != targets[2], "{out}");
}

#[test]
fn a_crash_is_logged_with_code_or_signal_and_age_and_starts_no_shutdown() {
    let bundle = Bundle::start(&TWO.replace("sleep 1000", "sh -c 'exit 7'"));
    bundle.wait_for("err", "exited 7 after ");
    let log = bundle.read("err");
    let age = log.split_once("exited 7 after ").unwrap().1.split_once(" s").unwrap().0;
    assert!(age.parse::<f64>().unwrap() < 60.0, "an age, not a point of the clock: {log}");
    let pid = bundle.daemon(0)["pid"].clone();
    assert_eq!(bundle.daemon(1)["state"], "exited");
    assert_eq!(bundle.daemon(1)["last_exit"]["code"], 7);
    assert_eq!(bundle.page()["status"]["state"], "running");
    bundle.signal("HUP");
    bundle.wait_for("out", "took HUP");
    assert_eq!(bundle.daemon(0)["pid"], pid);
}

#[test]
fn all_succeed_exits_0_and_all_that_die_unattended_exit_with_the_maximum() {
    needs!(Native("qemu keeps real-time signals for itself, and knows no PR_SET_CHILD_SUBREAPER"));
    let table = |codes: [&str; 3]| {
        let daemon =
            |(n, end): (usize, &&str)| format!("[[daemon]]\nname = \"d{n}\"\ncommand = [\"sh\", \"-c\", \"{end}\"]\n");
        codes.iter().enumerate().map(daemon).collect::<String>()
    };
    // A real-time signal's number too, and what dumps core.
    let cases = [
        (["exit 0", "exit 0", "exit 0"], 0),
        (["exit 3", "exit 0", "exit 1"], 3),
        (["kill -SEGV $$", "exit 0", "exit 1"], 139),
        (["exit 0", "kill -40 $$", "exit 1"], 168),
        (["ulimit -c 9; kill -QUIT $$", "exit 130", "exit 0"], 131),
        (["exit 255", "kill -TERM $$", "exit 0"], 255),
        (["exit 0", "kill -TERM $$", "exit 0"], 143),
    ];
    for (ends, code) in cases {
        let mut bundle = Bundle::start(&table(ends));
        assert_eq!(bundle.exit_code(), code, "{ends:?}");
        assert!(!bundle.read("err").contains("SIGTERM"), "{}", bundle.read("err"));
    }
}

#[test]
fn a_crash_and_then_term_exits_with_the_crashers_code() {
    let mut bundle = Bundle::start(&TWO.replace("exec sleep 1000", "exit 1"));
    bundle.wait_for("err", "exited 1");
    bundle.wait_for("out", "alpha is up");
    bundle.signal("TERM");
    assert_eq!(bundle.exit_code(), 1);
}

#[test]
fn a_missing_command_counts_as_127_and_a_forbidden_one_as_126() {
    needs!(Native("a program that is not there counts as one that ran and exited 127: vfork is a fork"));
    for (command, code) in [("/no/such/program", 127), ("no-such-program", 127), ("/etc/passwd", 126), ("/bin", 126)] {
        let mut bundle = Bundle::start(&format!("[[daemon]]\nname = \"alpha\"\ncommand = [\"{command}\"]\n"));
        assert_eq!(bundle.exit_code(), code, "{command}");
        let log = bundle.read("err");
        assert!(log.contains(&format!("cannot start alpha: cannot execute {command:?}: ")), "{log}");
    }
    // A script without a first line that says by what: ENOEXEC, for which glibc's execvp asks a shell.
    let bundle = Bundle::start(
        "[[daemon]]\nname = \"alpha\"\ncommand = [\"sh\", \"-c\", \"exec sleep 1000\"]\n\
         [[daemon]]\nname = \"beta\"\ncommand = [\"DIR/script\"]\n[signals]\nUSR1 = { restart = \"beta\" }\n",
    );
    bundle.wait_for("err", "counts as exited 127");
    bundle.write("script", "echo ran in a shell\n");
    fs::set_permissions(bundle.dir.join("script"), fs::Permissions::from_mode(0o755)).unwrap();
    bundle.signal("USR1");
    bundle.outcome("USR1", "failed");
    assert_eq!(bundle.daemon(1)["state"], "failed");
    assert_eq!(bundle.daemon(1)["last_exit"]["code"], 126);
    assert_eq!(bundle.daemon(1)["generation"], 2);
    bundle.wait_until_started();
    assert_eq!(bundle.daemon(0)["state"], "running");
}

#[test]
fn a_fork_that_fails_counts_as_126_is_said_and_leaves_the_sibling_alone() {
    needs!(Root);
    // init and one daemon are two processes of that user.
    let setup = Setup::new(&TWO.replace("while :; do sleep 0.02; done", "exec sleep 1000"));
    let mut bundle = setup.under_user(&["--nproc=2"]).start();
    bundle.wait_for("err", "cannot start beta: cannot fork: ");
    bundle.wait_for("out", "alpha is up");
    assert_eq!(bundle.daemon(0)["state"], "running");
    assert_eq!(bundle.daemon(1)["last_exit"]["code"], 126);
    bundle.signal("TERM");
    assert_eq!(bundle.exit_code(), 126);
}

#[test]
fn a_restart_gives_a_new_pid_and_leaves_the_sibling_alone() {
    let bundle = Bundle::start(&TWO.replace("exec sleep", "echo > DIR/printed; exec sleep"));
    bundle.wait_for("out", "alpha is up");
    bundle.wait_for("printed", "\n");
    let before = bundle.page();
    bundle.signal("USR1");
    bundle.wait_for_generation(1, 2);
    let after = bundle.page();
    let pid = |page: &serde_json::Value, index: usize| page["status"]["daemons"][index]["pid"].as_i64().unwrap();
    assert_eq!(pid(&after, 0), pid(&before, 0));
    assert_ne!(pid(&after, 1), pid(&before, 1));
    assert_eq!(after["status"]["daemons"][1]["restarts"], 1);
    bundle.outcome("USR1", "restarted");
    // The old process's unfinished line is printed, and not glued to the new one's.
    bundle.wait_for("out", "[beta] no newline\n");
}

#[test]
fn a_dead_daemon_is_simply_started_by_a_restart() {
    let bundle = Bundle::start(&TWO.replace("exec sleep 1000", "test -e DIR/again && exec sleep 1000"));
    bundle.wait_for("err", "beta (pid");
    bundle.write("again", "");
    bundle.signal("USR1");
    bundle.wait_for_generation(1, 2);
    assert_eq!(bundle.daemon(1)["restarts"], 1);
}

#[test]
fn an_old_worker_is_gone_before_the_replacement_starts() {
    let table = TWO.replace("name = \"beta\"", "name = \"beta\"\ngrace = \"300ms\"");
    let bundle = Bundle::start(&table.replace(
        "printf 'no newline'; exec sleep 1000",
        "echo run >> DIR/runs; sh -c 'trap : TERM; exec 9> DIR/lock; flock -n 9; test $? != 1 || echo old worker lives; while :; do sleep 0.02; done' & wait",
    ));
    bundle.wait_for("runs", "run\n");
    for generation in 2..6 {
        bundle.signal("USR1");
        bundle.wait_for_generation(1, generation);
        bundle.wait_until("its run", || bundle.read("runs").lines().count() as u64 == generation);
    }
    assert!(!bundle.read("out").contains("old worker lives"), "{}", bundle.read("out"));
}

#[test]
fn what_is_left_of_the_group_of_a_daemon_that_died_is_killed() {
    let worker =
        "(trap '' TERM HUP; echo > DIR/worker; exec sleep 1000) & while ! test -e DIR/worker; do :; done; exit 1";
    let bundle = Bundle::start(&TWO.replace("printf 'no newline'; exec sleep 1000", worker));
    bundle.wait_for("err", "exited 1");
    bundle.wait_until("alpha alone", || bundle.children().len() == 1);
    bundle.wait_until_started();
    assert_eq!(bundle.daemon(0)["state"], "running");
}

#[test]
fn a_restart_kills_what_outlives_its_grace_and_goes_on() {
    let table = TWO
        .replace("printf 'no newline'; exec sleep 1000", "trap '' TERM; echo > DIR/up; while :; do sleep 0.02; done");
    let bundle = Bundle::start(&table.replace("name = \"beta\"", "name = \"beta\"\ngrace = \"100ms\""));
    bundle.wait_for("up", "\n");
    bundle.signal("USR1");
    bundle.wait_for_generation(1, 2);
    let exit = &bundle.daemon(1)["last_exit"];
    assert_eq!((&exit["signal"], &exit["by_init"]), (&9.into(), &true.into()));
}

#[test]
fn two_hundred_restarts_in_a_burst_leave_one_process_and_no_zombie() {
    let bundle = Bundle::start(TWO);
    bundle.wait_for("out", "alpha is up");
    let sibling = bundle.daemon(0)["pid"].clone();
    for _ in 0..200 {
        bundle.signal("USR1");
    }
    // What was asked last is served last: a forward to the sibling.
    bundle.signal("HUP");
    bundle.wait_for("out", "took HUP");
    bundle.wait_until("rest", || bundle.daemon(1)["state"] == "running" && bundle.children().len() == 2);
    assert_eq!(bundle.daemon(0)["pid"], sibling);
    let comms: BTreeSet<Option<String>> = bundle.children().iter().map(|pid| stat(*pid, 3)).collect();
    assert!(!comms.contains(&Some("Z".to_owned())), "{comms:?}");
}

#[test]
fn a_hundred_restarts_leave_no_descriptor_and_no_process_behind() {
    // Each leaves a process outside of its group that holds its pipes, for as long as the next two take.
    let bundle = Bundle::start(&TWO.replace("exec sleep 1000", "setsid sleep 0.05 & exec sleep 1000"));
    bundle.wait_for("out", "alpha is up");
    bundle.wait_for_generation(1, 1);
    let at_rest = |generation: u64| {
        bundle.wait_for_generation(1, generation);
        bundle.wait_until("rest", || bundle.children().len() == 2);
        let mut fds = bundle.descriptors();
        bundle.wait_until("closed pipes", || {
            let before = std::mem::replace(&mut fds, bundle.descriptors());
            before == fds
        });
        fds
    };
    let before = at_rest(1);
    for generation in 2..=101 {
        bundle.signal("USR1");
        bundle.wait_for_generation(1, generation);
    }
    bundle.wait_until("as few descriptors as before", || at_rest(101) <= before);
}

#[test]
fn what_left_its_session_delays_neither_a_restart_nor_the_end() {
    let mut bundle = Bundle::start(&TWO.replace("exec sleep 1000", "setsid sleep 1000 & exec sleep 1000"));
    bundle.wait_for("out", "alpha is up");
    bundle.wait_for_generation(1, 1);
    let before = bundle.descriptors();
    for generation in 2..8 {
        bundle.signal("USR1");
        bundle.wait_for_generation(1, generation);
    }
    // Two pipes more: those of the generation before.
    bundle.wait_until("few descriptors", || bundle.descriptors() <= before + 2);
    bundle.signal("TERM");
    assert_eq!(bundle.exit_code(), 143);
}

#[test]
fn a_restart_without_a_descriptor_left_fails_and_the_next_one_works() {
    let bundle = Bundle::start(TWO);
    bundle.wait_for("out", "alpha is up");
    bundle.wait_for_generation(1, 1);
    let limit = |soft: libc::rlim_t| {
        let limit = libc::rlimit { rlim_cur: soft, rlim_max: 1024 };
        // SAFETY: prlimit(2) reads the limit it is given and writes none.
        let set = unsafe { libc::prlimit(bundle.pid(), libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) };
        assert_eq!(set, 0);
    };
    limit(4);
    bundle.signal("USR1");
    bundle.wait_for("err", "cannot start beta: cannot make a pipe: ");
    bundle.wait_for("err", "no status page: ");
    let (code, _, error) = bundle.status(&[]);
    assert_eq!(code, 4, "{error}");
    limit(1024);
    bundle.signal("USR1");
    bundle.wait_for_generation(1, 3);
    assert_eq!(bundle.status(&[]).0, 0);
}

#[test]
fn an_orphan_is_reaped_at_once() {
    let bundle = Setup::one("sh -c 'sleep 0.1 & echo $! > orphan' ; exec sleep 1000").start();
    bundle.wait_until("an orphan", || bundle.read("orphan").ends_with('\n'));
    bundle.wait_until("its end", || bundle.children().len() == 1);
    bundle.wait_until_started();
    assert_eq!(bundle.daemon(0)["state"], "running");
    assert!(!bundle.read("err").contains("WARN"), "{}", bundle.read("err"));
}

#[test]
fn where_it_is_not_pid_1_init_adopts_orphans_and_leaves_no_process_behind() {
    needs!(Native("qemu keeps real-time signals for itself, and knows no PR_SET_CHILD_SUBREAPER"));
    let bundle = Setup::one(
        "sh -c 'setsid sleep 1000 & sh -c \"sleep 0.1 &\"'; setsid sh -c 'trap : TERM; while :; do sleep 0.02; done' & \
         echo up; exec sleep 1000",
    )
    .not_as_pid_1()
    .start();
    bundle.wait_for("out", "up");
    // The daemon and the sleeper whose parent is gone.
    bundle.wait_until("an adopted orphan", || bundle.children().len() == 2);
    bundle.signal("TERM");
    bundle.wait_for("who-is-left", "\n");
    assert_eq!(bundle.read("code"), "143\n");
    // The shell that notes this.
    let left = bundle.read("who-is-left");
    assert_eq!(left.lines().count(), 1, "{left}");
}

#[test]
fn an_idle_init_makes_no_system_call() {
    needs!(Strace, Native("ptrace is not there, or watches qemu"));
    let table = TWO.replace("while :; do sleep 0.02; done", "sleep 1000 & wait");
    let bundle = Bundle::start(&table.replace("printf 'no newline'", "echo beta is up"));
    bundle.wait_for("out", "alpha is up");
    bundle.wait_for("out", "beta is up");
    bundle.wait_for_generation(1, 1);
    assert_idle(&bundle);
    bundle.signal("HUP");
    bundle.wait_for("out", "took HUP");
}

#[test]
fn init_blocks_every_signal_before_it_looks_at_anything() {
    needs!(Native("ptrace is not there, or watches qemu"));
    let bundle = Setup::one("exit 0")
        .not_as_pid_1()
        .wrapped(&["strace", "-o", "DIR/trace", "-e", "trace=rt_sigprocmask,openat,rt_sigaction"])
        .start();
    bundle.wait_for("code", "0");
    let trace = bundle.read("trace");
    let block = trace.find("rt_sigprocmask(SIG_BLOCK, ~[").unwrap_or_else(|| panic!("{trace}"));
    assert!(block < trace.find("table.toml").unwrap(), "{trace}");
    // What Rust's runtime does before main is all that precedes it.
    assert!(
        trace[..block]
            .lines()
            .filter(|l| l.contains("rt_sigaction"))
            .all(|l| ["PIPE", "SEGV", "BUS"].iter().any(|s| l.contains(s)))
    );
}
