//! Restart policies, and what the end of an essential daemon means.

use super::*;

const ON_FAILURE: &str = "restart = \"on-failure\"\n[[daemon]]\nname = \"alpha\"\ncommand = [\"a\"]\n\
                          [[daemon]]\nname = \"beta\"\ncommand = [\"b\"]\n\
                          [signals]\nHUP = { forward = \"alpha\" }\nUSR1 = { restart = \"alpha\" }\n";

#[test]
fn a_daemon_that_crashes_is_started_again_100_ms_later() {
    let mut init = up_all(ON_FAILURE);
    let _ = gone(&mut init, 1000, 0, 10, End::Code(1));
    let view = init.view(0).unwrap();
    assert_eq!((view.state, view.starts_at), (DaemonState::Backoff, Some(at(1100))));
    assert!(pass(&mut init, 1099).is_empty());
    assert_eq!(acts(pass(&mut init, 1100)), [Action::Start(0)]);
    up(&mut init, 1100, 0, 12);
    let view = init.view(0).unwrap();
    assert_eq!((view.state, view.generation, view.revivals, view.restarts), (DaemonState::Running, 2, 1, 0));
    assert_eq!(init.next(), None);
}

#[test]
fn a_stop_while_a_crashed_session_is_cleared_cancels_the_next_start() {
    let mut init = up_all(ON_FAILURE);
    let _ = init.handle(at(1000), ended(10, End::Code(1)));
    assert_eq!(init.view(0).unwrap().starts_at, Some(at(1100)));
    let _ = ask(&mut init, 1001, "1 stop alpha");
    let _ = init.handle(at(1002), left(0, 10, &[]));
    assert_eq!((outcome(&init, 0).0, state(&init, 0)), (crate::status::RequestOutcome::Stopped, DaemonState::Stopped));
    assert!(acts(pass(&mut init, 5000)).is_empty());
}

#[test]
fn a_shutdown_while_a_crashed_session_is_cleared_cancels_its_start() {
    let mut init = up_all(ON_FAILURE);
    let _ = init.handle(at(1000), ended(10, End::Code(1)));
    let _ = init.handle(at(1001), Event::Stop);
    let _ = init.handle(at(1002), left(0, 10, &[]));
    assert_eq!(gone(&mut init, 1003, 1, 11, End::Code(0)).last(), Some(&Action::Exit(1)));
}

#[test]
fn a_stop_of_an_ended_daemon_does_nothing_while_its_session_is_cleared() {
    let mut init = up_all(ON_FAILURE);
    let _ = init.handle(at(1000), ended(10, End::Code(0)));
    let _ = ask(&mut init, 1001, "1 stop alpha");
    assert_eq!(outcome(&init, 0).0, crate::status::RequestOutcome::NotRunning);
    let _ = init.handle(at(1002), left(0, 10, &[]));
    assert_eq!(state(&init, 0), DaemonState::Exited);
}

/// It dies as soon as it was started, again and again. The delays between death and start, in milliseconds.
fn delays(init: &mut Supervisor, mut ms: u64, pids: std::ops::Range<i32>) -> Vec<u64> {
    let mut delays = Vec::new();
    for pid in pids {
        let _ = gone(init, ms, 0, pid, End::Code(1));
        let starts_at = init.view(0).unwrap().starts_at.unwrap();
        assert_eq!(acts(init.handle(starts_at, Event::Time)), [Action::Start(0)]);
        let due = u64::try_from(starts_at.as_millis()).unwrap();
        delays.push(due - ms);
        ms = due;
        up(init, ms, 0, pid + 1);
    }
    delays
}

#[test]
fn each_further_death_doubles_the_delay_up_to_a_minute() {
    let mut init = up_all("[[daemon]]\nname = \"alpha\"\ncommand = [\"a\"]\nrestart = \"on-failure\"\n");
    let seen = delays(&mut init, 0, 10..22);
    assert_eq!(seen, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000]);
}

#[test]
fn a_process_that_has_run_for_10_s_makes_the_next_delay_100_ms_again() {
    let mut init = up_all("[[daemon]]\nname = \"alpha\"\ncommand = [\"a\"]\nrestart = \"on-failure\"\n");
    assert_eq!(delays(&mut init, 0, 10..13), [100, 200, 400]);
    let _ = gone(&mut init, 700 + 9_999, 0, 13, End::Code(1));
    assert_eq!(init.view(0).unwrap().starts_at, Some(at(700 + 9_999 + 800)));
    let _ = init.handle(at(20_000), Event::Time);
    up(&mut init, 20_000, 0, 14);
    let _ = gone(&mut init, 30_000, 0, 14, End::Code(1));
    assert_eq!(init.view(0).unwrap().starts_at, Some(at(30_100)));
}

#[test]
fn on_failure_leaves_one_that_exited_0_and_always_starts_it_again() {
    let after = |policy: &str, end| {
        let text = format!("restart = \"{policy}\"\n[[daemon]]\nname = \"alpha\"\ncommand = [\"a\"]\n");
        let mut init = up_all(&text);
        let _ = gone(&mut init, 5000, 0, 10, end);
        state(&init, 0)
    };
    assert_eq!(after("on-failure", End::Code(0)), DaemonState::Exited);
    assert_eq!(after("always", End::Code(0)), DaemonState::Backoff);
    assert_eq!(after("no", End::Code(1)), DaemonState::Exited);
    // init sent no TERM.
    assert_eq!(after("on-failure", End::Signal(TERM)), DaemonState::Backoff);
}

#[test]
fn a_command_that_cannot_be_executed_is_tried_again() {
    let (mut init, _) = begun("[[daemon]]\nname = \"alpha\"\ncommand = [\"a\"]\nrestart = \"on-failure\"\n");
    let failed = |code| Event::StartFailed { daemon: 0, code, why: "no fork".to_owned() };
    assert!(acts(init.handle(at(0), failed(126))).is_empty());
    assert_eq!(init.view(0).unwrap().starts_at, Some(at(100)));
    assert_eq!(acts(init.handle(at(100), Event::Time)), [Action::Start(0)]);
    let _ = init.handle(at(100), Event::Started { daemon: 0, pid: 10 });
    let not = Event::NotExecuted { daemon: 0, pid: 10, code: 127, why: "not found".to_owned() };
    let _ = init.handle(at(50_000), not);
    let _ = init.handle(at(50_000), ended(10, End::Code(127)));
    let view = init.view(0).unwrap();
    assert_eq!((view.state, view.starts_at), (DaemonState::Backoff, Some(at(50_200))));
}

#[test]
fn the_delay_counts_from_the_death_and_the_session_must_be_empty_as_well() {
    let mut init = up_all(ON_FAILURE);
    let _ = init.handle(at(1000), ended(10, End::Code(1)));
    let _ = init.handle(at(1000), left(0, 10, &[13]));
    assert_eq!(state(&init, 0), DaemonState::Backoff);
    assert!(!acts(pass(&mut init, 1004)).contains(&Action::Start(0)));
    assert!(acts(init.handle(at(1300), left(0, 10, &[13]))).is_empty());
    assert_eq!(acts(init.handle(at(1310), left(0, 10, &[]))), [Action::Start(0)]);
}

#[test]
fn a_restart_of_one_in_backoff_starts_it_at_once_and_resets_the_delay() {
    let mut init = up_all(ON_FAILURE);
    let _ = delays(&mut init, 0, 10..11);
    let _ = gone(&mut init, 100, 0, 11, End::Code(1));
    assert_eq!(acts(init.handle(at(150), Event::Signal(Signal::USR1))), [Action::Start(0)]);
    up(&mut init, 150, 0, 12);
    assert_eq!((init.last(1).unwrap().outcome, init.last(1).unwrap().generation), (Outcome::Restarted, Some(3)));
    let _ = gone(&mut init, 160, 0, 12, End::Code(1));
    let view = init.view(0).unwrap();
    assert_eq!((view.starts_at, view.restarts, view.revivals), (Some(at(260)), 1, 1));
}

#[test]
fn a_start_on_request_and_a_restart_of_one_that_runs_reset_the_delay_too() {
    let mut init = up_all(ON_FAILURE);
    let _ = delays(&mut init, 0, 10..12);
    let _ = gone(&mut init, 300, 0, 12, End::Code(1));
    assert_eq!(acts(ask(&mut init, 310, "1 start alpha")), [Action::Start(0)]);
    up(&mut init, 310, 0, 13);
    let _ = gone(&mut init, 320, 0, 13, End::Code(1));
    assert_eq!(init.view(0).unwrap().starts_at, Some(at(420)));
    let mut init = up_all(ON_FAILURE);
    let _ = delays(&mut init, 0, 10..12);
    let _ = init.handle(at(310), Event::Signal(Signal::USR1));
    let _ = gone(&mut init, 310, 0, 12, End::Signal(TERM));
    up(&mut init, 310, 0, 13);
    let _ = gone(&mut init, 320, 0, 13, End::Code(1));
    assert_eq!(init.view(0).unwrap().starts_at, Some(at(420)));
}

#[test]
fn a_forward_to_one_in_backoff_starts_it_at_once_and_tells_the_generation() {
    let mut init = up_all(ON_FAILURE);
    let _ = gone(&mut init, 0, 0, 10, End::Code(1));
    assert_eq!(acts(init.handle(at(50), Event::Signal(Signal::HUP))), [Action::Start(0)]);
    assert_eq!(init.last(0).unwrap().outcome, Outcome::Restarting);
    up(&mut init, 50, 0, 12);
    let last = init.last(0).unwrap();
    assert_eq!((last.outcome, last.generation), (Outcome::Restarted, Some(2)));
}

#[test]
fn a_shutdown_forgets_a_backoff_but_not_the_code_of_the_crash() {
    let mut init = up_all("[[daemon]]\nname = \"alpha\"\ncommand = [\"a\"]\nrestart = \"always\"\n");
    let _ = gone(&mut init, 0, 0, 10, End::Code(7));
    assert_eq!(acts(init.handle(at(50), Event::Stop)), [Action::Exit(7)]);
}

#[test]
fn nothing_is_started_by_a_policy_once_a_shutdown_was_asked_for() {
    let mut init = up_all(ON_FAILURE);
    let _ = init.handle(at(0), Event::Stop);
    let _ = gone(&mut init, 10, 0, 10, End::Code(1));
    assert_eq!(state(&init, 0), DaemonState::Exited);
    assert_eq!(gone(&mut init, 20, 1, 11, End::Signal(TERM)).last(), Some(&Action::Exit(1)));
}

#[test]
fn a_daemon_that_a_shutdown_spares_and_that_dies_is_started_by_no_policy() {
    let text = ON_FAILURE.replace("command = [\"b\"]", "command = [\"b\"]\ndepends_on = [\"alpha\"]");
    let mut init = up_all(&text);
    assert_eq!(acts(init.handle(at(0), Event::Stop)), asked(11));
    let _ = gone(&mut init, 10, 0, 10, End::Code(1));
    assert_eq!((state(&init, 0), init.view(0).unwrap().starts_at), (DaemonState::Exited, None));
}

#[test]
fn init_goes_on_while_all_that_is_left_is_in_backoff() {
    let mut init = up_all("[[daemon]]\nname = \"alpha\"\ncommand = [\"a\"]\nrestart = \"always\"\n");
    assert_eq!(gone(&mut init, 0, 0, 10, End::Code(0)).last(), Some(&Action::Reap(10)));
    assert_eq!(init.next(), Some(at(100)));
}

/// alpha is essential, beta isn't.
fn essential(policy: &str) -> Supervisor {
    up_all(&format!(
        "[[daemon]]\nname = \"alpha\"\ncommand = [\"a\"]\nessential = true\nrestart = \"{policy}\"\n\
         [[daemon]]\nname = \"beta\"\ncommand = [\"b\"]\n"
    ))
}

#[test]
fn the_end_of_an_essential_daemon_ends_the_bundle_with_its_code() {
    for (end, code) in [(End::Code(3), 3), (End::Code(0), 0), (End::Signal(11), 139)] {
        let mut init = essential("no");
        let actions = init.handle(at(5000), ended(10, end));
        assert!(told(&actions).contains(&"alpha is essential and has ended; shutting down"), "{actions:?}");
        assert_eq!(acts(actions), [vec![look(0, 10)], asked(11).to_vec()].concat());
        let _ = init.handle(at(5000), left(0, 10, &[]));
        assert_eq!(gone(&mut init, 5001, 1, 11, End::Code(99)).last(), Some(&Action::Exit(code)));
    }
}

#[test]
fn stopping_an_essential_daemon_on_request_does_not_end_the_bundle() {
    let mut init = essential("on-failure");
    let _ = gone(&mut init, 0, 0, 10, End::Code(1));
    assert_eq!((state(&init, 0), init.state()), (DaemonState::Backoff, InitState::Running));
    let mut init = essential("no");
    let _ = ask(&mut init, 0, "1 stop alpha");
    let _ = gone(&mut init, 0, 0, 10, End::Signal(TERM));
    assert_eq!((state(&init, 0), init.state()), (DaemonState::Stopped, InitState::Running));
}

#[test]
fn in_a_requested_shutdown_the_highest_code_counts_despite_essential() {
    let mut init = essential("no");
    let _ = init.handle(at(0), Event::Stop);
    let _ = gone(&mut init, 1, 0, 10, End::Code(3));
    assert_eq!(gone(&mut init, 2, 1, 11, End::Code(9)).last(), Some(&Action::Exit(9)));
}

#[test]
fn a_fork_under_way_when_an_essential_daemon_fails_is_asked_to_stop() {
    let (mut init, _) = begun(
        "[[daemon]]\nname = \"alpha\"\ncommand = [\"a\"]\nessential = true\n[[daemon]]\nname = \"beta\"\ncommand = [\"b\"]\n",
    );
    let failed = Event::StartFailed { daemon: 0, code: 126, why: "no fork".to_owned() };
    assert!(acts(init.handle(at(0), failed)).is_empty());
    assert_eq!(acts(init.handle(at(0), Event::Started { daemon: 1, pid: 11 })), asked(11));
}

#[test]
fn a_daemon_and_its_members_get_its_stop_signal() {
    let text = "[[daemon]]\nname = \"alpha\"\ncommand = [\"a\"]\nstop_signal = \"INT\"\n";
    let mut init = up_all(text);
    let actions = init.handle(at(0), Event::Stop);
    assert_eq!(told(&actions), ["forwarding SIGINT to alpha"]);
    assert_eq!(acts(actions), [kill(10, 2), kill(10, CONT)]);
    let _ = init.handle(at(1), ended(10, End::Signal(2)));
    let actions = init.handle(at(1), left(0, 10, &[13]));
    assert_eq!(told(&actions), ["forwarding SIGINT to what is left of alpha: 1 process (pid 13)"]);
    assert_eq!(acts(actions), [member(10, 13, 2), member(10, 13, CONT), Action::Reap(10)]);
    assert_eq!(acts(init.handle(at(2), left(0, 10, &[]))), [Action::Exit(130)]);
    // -2 is less than a sibling's 0.
    let mut init = up_all(&format!("{text}[[daemon]]\nname = \"beta\"\ncommand = [\"b\"]\n"));
    let _ = init.handle(at(0), Event::Stop);
    let _ = gone(&mut init, 1, 0, 10, End::Signal(2));
    assert_eq!(gone(&mut init, 2, 1, 11, End::Code(0)).last(), Some(&Action::Exit(0)));
    let mut init = up_all(text);
    let _ = init.handle(at(0), Event::Stop);
    // A stranger's TERM is not what init sent.
    assert_eq!(gone(&mut init, 1, 0, 10, End::Signal(TERM)).last(), Some(&Action::Exit(143)));
    assert!(init.view(0).unwrap().last_exit.unwrap().by_init);
}

#[test]
fn sockets_listen_only_while_a_process_serves_or_is_about_to() {
    let text = ON_FAILURE.replace("command = [\"b\"]", "command = [\"b\"]\ndepends_on = [\"alpha\"]");
    let listens = |init: &Supervisor, daemon| {
        let view = init.view(daemon).unwrap();
        (view.state, view.listens())
    };
    let table = Table::parse(&text, "test").unwrap();
    let mut init = Supervisor::new(&table, &[0, 1]);
    assert!(listens(&init, 0).1 && listens(&init, 1).1, "before anything was started");
    let _ = init.handle(at(0), Event::Begin);
    let _ = init.handle(at(0), Event::Started { daemon: 0, pid: 10 });
    assert_eq!(listens(&init, 0), (DaemonState::Starting, true));
    assert_eq!(listens(&init, 1), (DaemonState::Waiting, false));
    let _ = init.handle(at(0), Event::Executed { daemon: 0, pid: 10 });
    assert_eq!(listens(&init, 0), (DaemonState::Running, true));
    let _ = ask(&mut init, 1, "1 restart alpha");
    assert_eq!(listens(&init, 0), (DaemonState::Stopping, true));
    let _ = gone(&mut init, 2, 0, 10, End::Code(0));
    up(&mut init, 2, 0, 12);
    let _ = gone(&mut init, 3, 0, 12, End::Code(1));
    assert_eq!(listens(&init, 0), (DaemonState::Backoff, true));
    let _ = ask(&mut init, 4, "2 stop alpha");
    assert_eq!(listens(&init, 0), (DaemonState::Stopped, false));
    let _ = ask(&mut init, 5, "3 start alpha");
    up(&mut init, 5, 0, 13);
    let _ = gone(&mut init, 6, 0, 13, End::Code(0));
    assert_eq!(listens(&init, 0), (DaemonState::Exited, false));
    let mut init = running();
    let _ = ask(&mut init, 1, "1 restart beta");
    let _ = gone(&mut init, 2, 1, 11, End::Code(0));
    let _ = init.handle(at(3), Event::StartFailed { daemon: 1, code: 127, why: "it isn't there".to_owned() });
    assert_eq!(listens(&init, 1), (DaemonState::Failed, false));
}
