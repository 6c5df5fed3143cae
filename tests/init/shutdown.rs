//! The end: TERM, INT and QUIT, deadlines, the exit code.

use std::time::{Duration, Instant};

use nix::libc;

use super::harness::wait_until;
use super::{Bundle, Setup, TWO};

#[test]
fn term_to_the_real_process_logs_each_start_and_forward_and_exits_143() {
    let mut bundle = Bundle::start(TWO);
    bundle.wait_for("out", "[alpha] alpha is up\n");
    bundle.signal("TERM");
    assert_eq!(bundle.exit_code(), 143);
    let log = bundle.read("err");
    for line in ["starting alpha", "starting beta", "forwarding SIGTERM to alpha", "forwarding SIGTERM to beta"] {
        assert!(log.contains(line), "{line} isn't in: {log}");
    }
    assert!(log.find("starting alpha") < log.find("starting beta"));
}

#[test]
fn int_and_quit_end_all_daemons_with_term_as_term_does() {
    for signal in ["INT", "QUIT"] {
        let mut bundle =
            Setup::one("trap 'echo took TERM; exit 5' TERM; echo up; while :; do sleep 0.02; done").start();
        bundle.wait_for("out", "up");
        bundle.signal(signal);
        assert_eq!(bundle.exit_code(), 5);
        assert!(bundle.read("out").contains("[alpha] took TERM"));
        assert!(bundle.read("err").contains("forwarding SIGTERM to alpha"));
    }
}

#[test]
fn a_daemon_that_ignores_term_is_killed_at_its_own_grace() {
    let table = TWO.replace("trap 'echo took HUP' HUP", "trap '' TERM");
    let table = table.replace("name = \"alpha\"", "name = \"alpha\"\ngrace = \"200ms\"");
    let mut bundle = Bundle::start(&table);
    bundle.wait_for("out", "alpha is up");
    let before = Instant::now();
    bundle.signal("TERM");
    assert_eq!(bundle.exit_code(), 137);
    // The promise is a time: it has its grace.
    assert!(before.elapsed() >= Duration::from_millis(200));
    assert!(bundle.read("err").contains("outlived its grace"));
}

#[test]
fn further_requests_send_no_second_term_and_move_no_deadline() {
    let script = "trap 'echo took TERM' TERM; echo it is up; while :; do sleep 0.02; done";
    let table = TWO.replace("trap 'echo took HUP' HUP; echo alpha is up", script).replace("30s", "2s");
    let mut bundle = Bundle::start(&table);
    bundle.wait_for("out", "it is up");
    bundle.signal("TERM");
    bundle.wait_for("out", "took TERM");
    let pid = bundle.pid();
    // If one of them moved the deadline, the end would never come.
    wait_until("the end", String::new, || {
        for signal in [libc::SIGTERM, libc::SIGINT] {
            // SAFETY: kill(2) has no memory effects; the process is there, or was a moment ago.
            unsafe { libc::kill(pid, signal) };
        }
        bundle.try_code().is_some()
    });
    assert_eq!(bundle.exit_code(), 137);
    assert_eq!(bundle.read("out").matches("took TERM").count(), 1);
}

#[test]
fn a_stopped_daemon_takes_its_term() {
    let mut bundle = Setup::one("trap 'exit 4' TERM; echo up; kill -STOP $$; while :; do sleep 0.02; done").start();
    bundle.wait_for("out", "up");
    bundle.wait_until("a stopped process", || {
        bundle.children().first().and_then(|pid| super::harness::stat(*pid, 3)) == Some("T".to_owned())
    });
    bundle.signal("TERM");
    assert_eq!(bundle.exit_code(), 4);
}

#[test]
fn a_shutdown_wins_over_a_restart_and_nothing_is_started_any_more() {
    let mut bundle = Bundle::start(&TWO.replace(
        "exec sleep 1000",
        "trap 'test -e DIR/go && exit 0' TERM; echo beta is up; while :; do sleep 0.02; test -e DIR/go && exit 0; done",
    ));
    bundle.wait_for("out", "beta is up");
    bundle.signal("USR1");
    bundle.wait_until("a stop", || bundle.daemon(1)["state"] == "stopping");
    bundle.signal("TERM");
    bundle.wait_until("a shutdown", || bundle.page()["status"]["state"] == "stopping");
    bundle.signal("USR1");
    assert_eq!(bundle.served("USR1", 2), "refused");
    bundle.write("go", "");
    assert_eq!(bundle.exit_code(), 0);
    let log = bundle.read("err");
    assert_eq!(log.matches(" starting beta").count(), 1, "{log}");
    assert!(log.contains("SIGUSR1 for beta: a shutdown is under way; nothing was done"), "{log}");
}

#[test]
fn a_selection_that_selects_nothing_exits_0_at_once_and_says_so() {
    let mut bundle = Setup::new(TWO).select("nobody").start();
    assert_eq!(bundle.exit_code(), 0);
    assert!(bundle.read("err").contains("no daemons selected"));
    assert!(bundle.read("err").contains("\"nobody\", which is not in the daemon table; ignored"));
}
