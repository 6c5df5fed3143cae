//! Wired signals: restart, forward, and what is told of them.

use nix::libc;

use super::{Bundle, Setup, TWO};

#[test]
fn a_forward_reaches_the_named_child_alone_once_it_catches_the_signal() {
    needs!(Native("until its exec a daemon seems to catch what init catches"));
    let bundle = Bundle::start(&TWO.replace("trap 'echo", "while ! test -e DIR/go; do sleep 0.02; done; trap 'echo"));
    bundle.wait_for("err", "starting beta");
    bundle.signal("HUP");
    bundle.outcome("HUP", "held");
    bundle.write("go", "");
    bundle.outcome("HUP", "delivered");
    bundle.wait_for("out", "[alpha] took HUP");
    assert_eq!(bundle.daemon(0)["generation"], 1);
    bundle.wait_until_started();
    assert_eq!((&bundle.daemon(1)["state"], &bundle.daemon(1)["generation"]), (&"running".into(), &1.into()));
}

#[test]
fn a_held_signal_ends_with_the_process_that_it_was_for() {
    needs!(Native("until its exec a daemon seems to catch what init catches"));
    let bundle =
        Bundle::start(&TWO.replace("trap 'echo", "while ! test -e DIR/go; do sleep 0.02; done; exit 3; trap 'echo"));
    bundle.wait_for("err", "starting beta");
    bundle.signal("HUP");
    bundle.outcome("HUP", "held");
    bundle.write("go", "");
    bundle.outcome("HUP", "refused");
    assert_eq!(bundle.daemon(0)["last_exit"]["code"], 3);
}

#[test]
fn a_forward_to_a_daemon_that_does_not_run_is_a_logged_no_op() {
    let table =
        TWO.replace("trap 'echo took HUP' HUP;", "trap 'sleep 1000' TERM;") + "USR2 = { restart = \"alpha\" }\n";
    let bundle = Bundle::start(&table);
    bundle.wait_for("out", "alpha is up");
    bundle.signal("USR2");
    bundle.wait_until("a stop", || bundle.daemon(0)["state"] == "stopping");
    bundle.signal("HUP");
    bundle.wait_for("err", "SIGHUP for alpha: it is stopping; nothing was done");
    let bundle = Setup::new(&TWO.replace("echo alpha is up;", "exit 1;")).start();
    bundle.wait_for("err", "alpha (pid");
    bundle.signal("HUP");
    bundle.wait_for("err", "SIGHUP for alpha: it isn't running; nothing was done");
    let bundle = Setup::new(TWO).select("beta").start();
    bundle.wait_for("err", "starting beta");
    bundle.signal("HUP");
    bundle.wait_for("err", "SIGHUP for alpha: it isn't selected; nothing was done");
    assert_eq!(bundle.daemon(0)["generation"], 1);
}

#[test]
fn a_restart_of_a_daemon_that_is_not_selected_is_a_logged_no_op() {
    let bundle = Setup::new(TWO).select("alpha").start();
    bundle.wait_for("out", "alpha is up");
    bundle.signal("USR1");
    bundle.wait_for("err", "SIGUSR1 for beta: it isn't selected; nothing was done");
    assert_eq!(bundle.served("USR1", 1), "refused");
    assert_eq!(bundle.children().len(), 1);
}

#[test]
fn a_forward_with_when_always_is_sent_at_once() {
    // sleep neither catches nor blocks it, and dies of it.
    let bundle = Bundle::start(&TWO.replace("forward = \"alpha\"", "forward = \"beta\", when = \"always\""));
    bundle.wait_for("out", "alpha is up");
    bundle.wait_until("sleep", || {
        let pids = bundle.children();
        let comm = |pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        pids.iter().any(|pid| comm(pid) == "sleep\n")
    });
    bundle.signal("HUP");
    bundle.outcome("HUP", "delivered");
    bundle.wait_until("its end", || bundle.daemon(1)["last_exit"]["signal"] == 1);
    assert_eq!(bundle.daemon(1)["last_exit"]["by_init"], false);
}

/// init is of a user whose daemon makes itself root: kill(2) is refused (EPERM).
#[test]
fn a_signal_that_the_kernel_does_not_let_init_send_is_reported_as_failed() {
    needs!(Root);
    let table = r#"
grace = "100ms"
[[daemon]]
name = "alpha"
command = ["DIR/su", "--reuid", "0", "perl", "-e", '$| = 1; $SIG{HUP} = sub {}; print "it is up\n"; sleep 1000 while 1']
[signals]
HUP = { forward = "alpha" }
USR1 = { restart = "alpha" }
"#;
    let su = "cp \"$(command -v setpriv)\" DIR/su && chmod 4755 DIR/su && exec \"$@\"";
    for is_pid_1 in [true, false] {
        let setup = Setup::new(table);
        let setup = if is_pid_1 { setup } else { setup.not_as_pid_1() };
        let mut bundle = setup.wrapped(&["sh", "-c", su, "-"]).under_user(&["--core=0"]).start();
        bundle.wait_for("out", "it is up");
        bundle.signal("HUP");
        bundle.outcome("HUP", "failed");
        bundle.signal("USR1");
        bundle.outcome("USR1", "failed");
        assert_eq!((&bundle.daemon(0)["state"], &bundle.daemon(0)["generation"]), (&"running".into(), &1.into()));
        bundle.signal("TERM");
        let code = bundle.exit_code();
        assert_eq!(if is_pid_1 { code.to_string() } else { bundle.read("code") }.trim(), "137");
        let log = bundle.read("err");
        for (number, times) in [("1", 1), ("15", 2), ("9", 2)] {
            assert_eq!(log.matches(&format!("cannot send signal {number} to pid ")).count(), times, "{log}");
        }
        assert_eq!(log.contains("are left behind"), !is_pid_1, "{log}");
    }
}

#[test]
fn without_signal_masks_in_proc_a_forward_is_sent_at_once() {
    let table = TWO.replace("forward = \"alpha\"", "forward = \"beta\"");
    let mut bundle = Setup::new(&table).wrapped(&["sh", "-c", "mount -t tmpfs none /proc && exec \"$@\"", "-"]).start();
    bundle.wait_for("out", "alpha is up");
    bundle.wait_for_generation(1, 1);
    bundle.signal("HUP");
    bundle.wait_for("err", "WARN /proc shows no signal masks here; sending SIGHUP to beta");
    bundle.wait_until("its end", || bundle.daemon(1)["last_exit"]["signal"] == 1);
    bundle.signal("TERM");
    // Of a signal that init did not send to end it.
    assert_eq!(bundle.exit_code(), 129);
}

#[test]
fn the_wired_signal_of_a_restart_never_reaches_the_daemon() {
    let bundle = Setup::one("trap 'echo took USR1' USR1; echo up; while :; do sleep 0.02; done").start();
    bundle.wait_for("out", "up");
    bundle.signal("USR1");
    bundle.wait_for_generation(0, 2);
    assert!(!bundle.read("out").contains("took USR1"));
}

#[test]
fn a_signal_that_is_not_wired_changes_nothing() {
    let bundle = Bundle::start(TWO);
    bundle.wait_for("out", "alpha is up");
    bundle.wait_until_started();
    let before = bundle.page();
    for signal in ["WINCH", "USR2", "ALRM", "TSTP", "PIPE", "CHLD"] {
        bundle.signal(signal);
    }
    bundle.signal_number(libc::SIGRTMIN());
    bundle.wait_for("err", "SIGUSR2 has no signal rule");
    bundle.signal("HUP");
    bundle.wait_for("out", "took HUP");
    assert_eq!(bundle.page()["status"]["daemons"], before["status"]["daemons"]);
}

#[test]
fn a_real_time_signal_can_be_wired() {
    let bundle = Bundle::start(&TWO.replace("USR1 =", "\"RTMIN+3\" ="));
    bundle.wait_for("out", "alpha is up");
    bundle.signal_number(37);
    bundle.wait_for_generation(1, 2);
    bundle.wait_for("err", "received SIGRTMIN+3 from outside of this pid namespace");
}

#[test]
fn each_signal_served_is_logged_with_its_name_and_where_it_came_from() {
    let bundle = Bundle::start(&TWO.replace("exec sleep 1000", "echo $$ > DIR/pid; kill -HUP 1; exec sleep 1000"));
    bundle.wait_for("out", "took HUP");
    let log = bundle.read("err");
    let pid = bundle.read("pid").trim().to_owned();
    assert!(log.contains(&format!("received SIGHUP from pid {pid}\n")), "{log}");
    bundle.signal("USR1");
    bundle.wait_for("err", "received SIGUSR1 from outside of this pid namespace\n");
}

/// Leaves these pending for init: blocked, then sent to itself before it executes init.
fn pending(signals: &str) -> String {
    format!(
        "sigprocmask(SIG_SETMASK, POSIX::SigSet->new(1 .. 31, 34 .. 64)); kill $_ => $$ for qw({signals}); exec @ARGV"
    )
}

#[test]
fn asked_to_stop_before_any_daemon_ran_exits_143_and_starts_nothing() {
    let mut bundle = Setup::new(TWO).wrapped(&["perl", "-MPOSIX", "-e", &pending("TERM")]).start();
    assert_eq!(bundle.exit_code(), 143);
    assert!(!bundle.read("err").contains("starting"), "{}", bundle.read("err"));
}

#[test]
fn a_wired_signal_that_is_pending_at_the_start_is_served_after_it() {
    let bundle = Setup::new(TWO).wrapped(&["perl", "-MPOSIX", "-e", &pending("HUP USR1")]).start();
    bundle.wait_for("out", "took HUP");
    bundle.outcome("USR1", "restarted");
    assert_eq!((&bundle.daemon(1)["generation"], &bundle.daemon(1)["restarts"]), (&1.into(), &0.into()));
}

/// Speaks `sd_notify`(3): READY=1 once DIR/ready is there; at a HUP the errno that is in DIR/errno.
const NOTIFIES: &str = r#"
[[daemon]]
name = "alpha"
ready = { notify = true }
command = ["perl", "-MSocket", "-MTime::HiRes=clock_gettime,CLOCK_MONOTONIC,sleep", "-e", '''
    my $name = $ENV{NOTIFY_SOCKET};
    $name =~ s/^@/\0/;
    sub say_to { socket(my $s, PF_UNIX, SOCK_DGRAM, 0) or die; send($s, $_[0], 0, pack_sockaddr_un($name)) or die }
    my $reload = 0;
    $SIG{HUP} = sub { $reload = 1 };
    if (!fork) { say_to("READY=1"); open(my $f, ">", "DIR/stranger"); exit }
    sleep 0.01 until -e "DIR/ready";
    say_to("READY=1\nSTATUS=up");
    for (;;) {
        sleep 0.01;
        next if !$reload;
        $reload = 0;
        say_to(sprintf("RELOADING=1\nMONOTONIC_USEC=%d", clock_gettime(CLOCK_MONOTONIC) * 1e6));
        sleep 0.01 until -e "DIR/errno";
        open(my $f, "<", "DIR/errno");
        say_to("READY=1\nERRNO=" . <$f>);
    }
''']
[[daemon]]
name = "beta"
command = ["sh", "-c", "echo socket=$NOTIFY_SOCKET; exec sleep 1000"]
[signals]
HUP = { forward = "alpha" }
USR1 = { restart = "alpha" }
"#;

#[test]
fn a_daemon_with_notify_is_ready_only_once_it_says_so() {
    let bundle = Setup::new(NOTIFIES).env("NOTIFY_SOCKET", "/nowhere").start();
    bundle.wait_until("a stranger's word", || bundle.dir.join("stranger").exists());
    let notified = || bundle.page()["plans"][0]["notified"] == true;
    // A signal that is served after that word.
    bundle.signal("USR2");
    bundle.wait_for("err", "SIGUSR2");
    assert!(!notified());
    bundle.write("ready", "");
    bundle.wait_until("READY=1", notified);
    let last = || bundle.page()["status"]["signals"]["HUP"]["last"].clone();
    bundle.signal("HUP");
    bundle.wait_until("RELOADING=1", || !notified());
    assert_eq!(last()["reload_errno"], serde_json::Value::Null);
    bundle.write("errno", "0");
    bundle.wait_until("READY=1", notified);
    assert_eq!(last()["reload_errno"], 0);
    bundle.write("errno", "22");
    bundle.signal("HUP");
    bundle.wait_until("ERRNO=22", || last()["reload_errno"] == 22);
    assert_eq!((&last()["seq"], &last()["outcome"]), (&2.into(), &"delivered".into()));
    // The replacement must say so anew; and who has no notify knows the socket too.
    std::fs::remove_file(bundle.dir.join("ready")).unwrap();
    bundle.signal("USR1");
    bundle.wait_for_generation(0, 2);
    assert!(!notified());
    bundle.write("ready", "");
    bundle.wait_until("READY=1", notified);
    bundle.wait_for("out", "[beta] socket=@");
}

#[test]
fn only_inits_own_user_may_log_what_became_of_a_change() {
    needs!(Root);
    let bundle = Setup::new(NOTIFIES).start();
    let socket = || bundle.page()["socket"].as_str().map(str::to_owned);
    bundle.wait_until("socket", || socket().is_some());
    let say = |wrap: &[&str], what: &str| {
        let script = "my $name = shift; $name =~ s/^@/\\0/; socket(my $s, PF_UNIX, SOCK_DGRAM, 0) or die; \
                      send($s, qq(X_SIDECAR_CHANGE=$ARGV[0]\nX_SIDECAR_BY=me), 0, pack_sockaddr_un($name)) or die";
        let mut command = std::process::Command::new("env");
        command.args(wrap).args(["perl", "-MSocket", "-e", script, &socket().unwrap(), what]);
        assert!(command.status().unwrap().success());
    };
    let pid = bundle.pid().to_string();
    let inside = ["nsenter", "-t", &pid, "-p"];
    say(&[], "from outside");
    say(&[&inside[..], &["setpriv", "--reuid=1234567", "--clear-groups"]].concat(), "by another user");
    say(&inside, "from inside");
    bundle.wait_for("err", "change of from inside");
    let log = bundle.read("err");
    assert_eq!(log.matches("change of").count(), 1, "{log}");
}

#[test]
fn a_flood_of_lines_messages_or_orphans_delays_no_signal() {
    let orphans = "$| = 1; print qq(up\\n); for (;;) { if (!fork) { fork; exit } wait }";
    let notify = "my $name = $ENV{NOTIFY_SOCKET}; $name =~ s/^@/\\0/; socket(my $s, PF_UNIX, SOCK_DGRAM, 0); \
                  send($s, q(STATUS=x), 0, pack_sockaddr_un($name)) for 1 .. 100_000_000";
    // Four of them: the pipe is never found empty.
    let log = "my $lines = ('x' x 99 . qq(\\n)) x 600; fork; fork; 1 while syswrite(STDERR, $lines)";
    for flood in [orphans, notify, log] {
        let table = format!(
            "[[daemon]]\nname = \"alpha\"\ncommand = [\"sleep\", \"1000\"]\n[[daemon]]\nname = \"beta\"\n\
             ready = {{ notify = true }}\ncommand = [\"perl\", \"-MSocket\", \"-e\", '''{flood}''']\n[signals]\n\
             USR1 = {{ restart = \"alpha\" }}\n"
        );
        let null = std::fs::File::options().write(true).open("/dev/null").unwrap();
        let mut bundle = Setup::new(&table).stderr(&null).start();
        bundle.wait_for_generation(1, 1);
        bundle.wait_for_generation(0, 1);
        for generation in 2..7 {
            bundle.signal("USR1");
            bundle.wait_for_generation(0, generation);
        }
        bundle.signal("TERM");
        assert_eq!(bundle.exit_code(), 143);
    }
}
