//! Dependencies: who waits for whom at the start, probes, oneshots, and the order of a shutdown.

use super::*;

/// app depends on db; db has a probe.
const PROBED: &str = "[[daemon]]\nname = \"db\"\ncommand = [\"d\"]\nready = { tcp = \"127.0.0.1:5432\" }\n\
                      [[daemon]]\nname = \"app\"\ncommand = [\"a\"]\ndepends_on = [\"db\"]\n\
                      [signals]\nHUP = { forward = \"app\" }\nUSR1 = { restart = \"app\" }\n";

/// app depends on db, which is ready once it runs.
fn plain() -> String {
    PROBED.replace("ready = { tcp = \"127.0.0.1:5432\" }\n", "")
}

/// app depends on setup, which is run once.
const ONESHOT: &str = "[[daemon]]\nname = \"setup\"\ncommand = [\"s\"]\noneshot = true\n\
                       [[daemon]]\nname = \"app\"\ncommand = [\"a\"]\ndepends_on = [\"setup\"]\n";

/// db runs as pid 10, and pid 20 probes it since 0 ms.
fn probing() -> Supervisor {
    let (mut init, _) = begun(PROBED);
    let _ = init.handle(at(0), Event::Started { daemon: 0, pid: 10 });
    assert_eq!(acts(init.handle(at(0), Event::Executed { daemon: 0, pid: 10 })), [Action::Probe(0)]);
    let _ = init.handle(at(0), Event::ProbeStarted { daemon: 0, pid: 20 });
    init
}

fn probed(init: &mut Supervisor, ms: u64, pid: i32, code: i32, words: &str) -> Vec<Action> {
    let end = End::Code(code);
    init.handle(at(ms), Event::Ended { pid, end, oom_kills: 0, words: words.to_owned() })
}

fn killed(pid: i32) -> [Action; 2] {
    [kill(pid, KILL), Action::KillGroup(pid)]
}

/// What app waits for.
fn whys(init: &Supervisor) -> Vec<String> {
    init.view(1).unwrap().waiting_for.iter().map(|w| format!("{}: {}", w.daemon, w.why)).collect()
}

#[test]
fn a_daemon_waits_until_its_dependency_has_executed_its_command() {
    let (mut init, actions) = begun(&plain());
    assert_eq!(told(&actions), ["starting db", "app waits for db (starting)"]);
    assert_eq!(acts(actions), [Action::Start(0)]);
    assert_eq!((state(&init, 1), whys(&init)), (DaemonState::Waiting, vec!["db: starting".to_owned()]));
    assert!(acts(init.handle(at(1), Event::Started { daemon: 0, pid: 10 })).is_empty());
    assert_eq!(acts(init.handle(at(2), Event::Executed { daemon: 0, pid: 10 })), [Action::Start(1)]);
    up(&mut init, 3, 1, 11);
    assert_eq!((init.view(1).unwrap().generation, whys(&init).len(), init.next()), (1, 0, None));
}

#[test]
fn a_dependency_that_waits_itself_or_is_stopping_is_told_so() {
    let third = "[[daemon]]\nname = \"third\"\ncommand = [\"t\"]\ndepends_on = [\"app\"]\n[signals]";
    let (init, _) = begun(&PROBED.replace("[signals]", third));
    let waiting_for = init.view(2).unwrap().waiting_for.pop().unwrap();
    assert_eq!((waiting_for.daemon.as_str(), waiting_for.why.as_str()), ("app", "waiting"));
    let mut init = probing();
    let _ = ask(&mut init, 1, "1 restart db");
    assert_eq!(whys(&init), ["db: stopping"]);
}

#[test]
fn a_daemon_waits_until_the_probe_of_its_dependency_has_passed() {
    let mut init = probing();
    assert_eq!(whys(&init), ["db: not probed yet"]);
    let actions = probed(&mut init, 5, 20, 0, "");
    assert_eq!(acts(actions), [Action::KillGroup(20), Action::Reap(20), Action::Start(1)]);
    up(&mut init, 5, 1, 11);
    assert_eq!(init.next(), None);
}

#[test]
fn a_failed_probe_is_tried_again_after_100_ms_growing_to_1_s() {
    let mut init = probing();
    let (mut now, mut pauses) = (5, Vec::new());
    for (pid, words) in (20..).zip(["refused", "refused", "refused", "refused", "held by pid 31", ""]) {
        let actions = probed(&mut init, now, pid, 1, words);
        let is_new = pid == 20 || words != "refused";
        assert_eq!(told(&actions).len(), usize::from(is_new), "{actions:?}");
        let next = init.next().unwrap();
        pauses.push(next.saturating_sub(at(now)).as_millis());
        let early = next.saturating_sub(Duration::from_millis(1));
        assert!(acts(init.handle(early, Event::Time)).is_empty());
        assert_eq!(acts(init.handle(next, Event::Time)), [Action::Probe(0)]);
        now = u64::try_from(next.as_millis()).unwrap();
        let _ = init.handle(at(now), Event::ProbeStarted { daemon: 0, pid: pid + 1 });
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
    assert_eq!(whys(&init), ["db: probe exited 1"]);
}

#[test]
fn a_probe_that_takes_10_s_is_killed_and_the_next_one_waits_for_its_end() {
    let mut init = probing();
    assert!(pass(&mut init, 9_999).is_empty());
    let actions = pass(&mut init, 10_000);
    assert_eq!(told(&actions), ["db isn't ready yet: probe timed out"]);
    assert_eq!(acts(actions), killed(20));
    assert_eq!((whys(&init), init.next()), (vec!["db: probe timed out".to_owned()], None));
    let end = Event::Ended { pid: 20, end: End::Signal(KILL), oom_kills: 0, words: "too late".to_owned() };
    assert_eq!(acts(init.handle(at(12_000), end)), [Action::KillGroup(20), Action::Reap(20)]);
    assert_eq!(acts(pass(&mut init, 12_100)), [Action::Probe(0)]);
    assert_eq!(whys(&init), ["db: probe timed out"]);
}

#[test]
fn a_pause_takes_nothing_from_a_probes_10_s() {
    let (mut init, _) = begun(
        &PROBED.replace("[signals]", "[[daemon]]\nname = \"other\"\ncommand = [\"o\"]\ngrace = \"60s\"\n[signals]"),
    );
    up(&mut init, 0, 2, 12);
    up(&mut init, 0, 0, 10);
    let _ = init.handle(at(0), Event::ProbeStarted { daemon: 0, pid: 20 });
    // While it waits for the end of other, it asks to be woken each second.
    let _ = ask(&mut init, 0, "1 stop other");
    let actions = init.handle(at(6000), Event::Time);
    assert!(told(&actions)[0].contains("init could not run for 5.0 s"), "{actions:?}");
    assert!(acts(pass(&mut init, 14_999)).is_empty());
    assert_eq!(acts(pass(&mut init, 15_000)), killed(20));
}

#[test]
fn a_forked_probe_that_nobody_needs_any_more_is_killed_and_reaped() {
    let forking = || {
        let (mut init, _) = begun(PROBED);
        up(&mut init, 0, 0, 10);
        init
    };
    let mut init = forking();
    let _ = ask(&mut init, 1, "1 stop app");
    assert_eq!(acts(init.handle(at(1), Event::ProbeStarted { daemon: 0, pid: 20 })), killed(20));
    assert_eq!(acts(probed(&mut init, 2, 20, 0, "")), [Action::KillGroup(20), Action::Reap(20)]);
    // A shutdown doesn't wait for it: its end is an orphan's.
    let mut init = forking();
    let _ = init.handle(at(1), Event::Stop);
    assert_eq!(acts(init.handle(at(1), Event::ProbeStarted { daemon: 0, pid: 20 })), killed(20));
    assert_eq!(acts(probed(&mut init, 2, 20, 0, "")), []);
}

#[test]
fn a_probe_that_can_not_be_started_is_tried_again() {
    let (mut init, _) = begun(PROBED);
    up(&mut init, 0, 0, 10);
    let _ = init.handle(at(0), Event::ProbeFailed { daemon: 0, why: "no fork".to_owned() });
    assert_eq!((whys(&init), init.next()), (vec!["db: no fork".to_owned()], Some(at(100))));
}

#[test]
fn nobody_is_probed_while_nobody_waits_for_it() {
    let table = Table::parse(PROBED, "test").unwrap();
    let mut init = Supervisor::new(&table, &[0]);
    let _ = init.handle(at(0), Event::Begin);
    let _ = init.handle(at(0), Event::Started { daemon: 0, pid: 10 });
    assert!(init.handle(at(0), Event::Executed { daemon: 0, pid: 10 }).is_empty());
    assert_eq!(init.next(), None);
    // The one that waited is stopped.
    let mut init = probing();
    assert_eq!(acts(ask(&mut init, 1, "1 stop app")), killed(20));
    let _ = probed(&mut init, 2, 20, 0, "");
    assert_eq!((state(&init, 1), init.next()), (DaemonState::Stopped, None));
}

#[test]
fn a_probe_of_a_process_that_has_ended_says_nothing_of_the_next_one() {
    let mut init = probing();
    let _ = ask(&mut init, 1, "1 restart db");
    assert_eq!(gone(&mut init, 1, 0, 10, End::Code(1)).last(), Some(&Action::Start(0)));
    let _ = init.handle(at(2), Event::Started { daemon: 0, pid: 12 });
    assert!(acts(init.handle(at(2), Event::Executed { daemon: 0, pid: 12 })).is_empty(), "one at a time");
    let actions = acts(probed(&mut init, 3, 20, 0, ""));
    assert_eq!(actions, [Action::KillGroup(20), Action::Reap(20), Action::Probe(0)]);
}

#[test]
fn a_daemon_waits_for_the_ready_1_of_its_dependency() {
    let (mut init, _) = begun(&PROBED.replace("tcp = \"127.0.0.1:5432\"", "notify = true"));
    up(&mut init, 0, 0, 10);
    assert_eq!(whys(&init), ["db: has not said READY=1"]);
    assert_eq!(acts(init.handle(at(1), ready(10, Some(10)))), [Action::Start(1)]);
}

#[test]
fn a_daemon_waits_until_a_oneshot_has_exited_0() {
    let (mut init, _) = begun(ONESHOT);
    up(&mut init, 0, 0, 10);
    assert_eq!((state(&init, 0), whys(&init)), (DaemonState::Running, vec!["setup: not finished".to_owned()]));
    let actions = gone(&mut init, 5, 0, 10, End::Code(0));
    assert_eq!(actions, [look(0, 10), Action::Start(1), Action::KillGroup(10), Action::Reap(10)]);
    assert_eq!(state(&init, 0), DaemonState::Done);
    let _ = init.handle(at(5), Event::Started { daemon: 1, pid: 11 });
    let _ = init.handle(at(5), Event::Executed { daemon: 1, pid: 11 });
    assert_eq!(init.next(), None);
}

#[test]
fn a_oneshot_that_succeeds_at_once_is_no_reason_to_warn() {
    let (mut init, _) = begun(ONESHOT);
    up(&mut init, 0, 0, 10);
    let actions = init.handle(at(5), ended(10, End::Code(0)));
    let lines = actions.iter().filter_map(|a| if let Action::Tell(line) = a { Some(line.level) } else { None });
    assert_eq!(lines.collect::<Vec<Level>>(), [Level::Info, Level::Info], "its end, and the start of app: {actions:?}");
}

#[test]
fn init_exits_with_the_code_of_a_failed_oneshot_if_nothing_else_runs() {
    let (mut init, _) = begun(ONESHOT);
    up(&mut init, 0, 0, 10);
    let actions = init.handle(at(5), ended(10, End::Code(4)));
    let text = "app can't start: setup has ended before it was ready (exited 4); start or restart either of them";
    assert!(told(&actions).contains(&text), "{actions:?}");
    assert_eq!(acts(init.handle(at(5), left(0, 10, &[]))).last(), Some(&Action::Exit(4)));
    assert_eq!((state(&init, 0), state(&init, 1)), (DaemonState::Failed, DaemonState::Waiting));
}

#[test]
fn a_oneshot_that_is_run_again_and_exits_0_lets_its_dependents_start() {
    let (mut init, _) = begun(&format!("{ONESHOT}[[daemon]]\nname = \"other\"\ncommand = [\"o\"]\n"));
    up(&mut init, 0, 0, 10);
    up(&mut init, 0, 2, 12);
    let _ = gone(&mut init, 5, 0, 10, End::Code(4));
    assert_eq!((whys(&init), init.next()), (vec!["setup: exited 4".to_owned()], None));
    assert_eq!(acts(ask(&mut init, 9, "1 start setup")), [Action::Start(0)]);
    up(&mut init, 9, 0, 13);
    assert!(gone(&mut init, 9, 0, 13, End::Code(0)).contains(&Action::Start(1)));
}

#[test]
fn a_oneshot_that_was_asked_to_end_has_not_succeeded() {
    let (mut init, _) = begun(ONESHOT);
    up(&mut init, 0, 0, 10);
    let _ = ask(&mut init, 1, "1 stop setup");
    let actions = gone(&mut init, 2, 0, 10, End::Code(0));
    assert!(!actions.contains(&Action::Start(1)) && actions.last() == Some(&Action::Reap(10)), "{actions:?}");
    assert_eq!((state(&init, 0), whys(&init)), (DaemonState::Stopped, vec!["setup: stopped".to_owned()]));
}

#[test]
fn a_oneshot_with_on_failure_is_tried_again_until_it_exits_0() {
    let (mut init, _) = begun(&ONESHOT.replace("oneshot = true", "oneshot = true\nrestart = \"on-failure\""));
    up(&mut init, 0, 0, 10);
    let _ = gone(&mut init, 1, 0, 10, End::Code(1));
    assert_eq!(whys(&init), ["setup: exited 1; in backoff"]);
    assert_eq!(acts(pass(&mut init, 101)), [Action::Start(0)]);
    up(&mut init, 101, 0, 12);
    assert!(gone(&mut init, 102, 0, 12, End::Code(0)).contains(&Action::Start(1)));
}

#[test]
fn a_dependency_that_ends_after_it_was_ready_moves_no_dependent() {
    let text = format!("{}[[daemon]]\nname = \"late\"\ncommand = [\"l\"]\ndepends_on = [\"db\", \"setup\"]\n", plain());
    let text = text.replace("[signals]\nHUP = { forward = \"app\" }\nUSR1 = { restart = \"app\" }\n", "");
    let (mut init, _) = begun(&format!("{text}{}", ONESHOT.split("[[daemon]]\nname = \"app\"").next().unwrap()));
    up(&mut init, 0, 0, 10);
    up(&mut init, 0, 1, 11);
    up(&mut init, 0, 3, 13);
    let _ = gone(&mut init, 1, 0, 10, End::Code(1));
    assert_eq!((state(&init, 1), state(&init, 2)), (DaemonState::Running, DaemonState::Waiting));
    assert!(gone(&mut init, 2, 3, 13, End::Code(0)).contains(&Action::Start(2)));
}

#[test]
fn a_dependency_that_is_not_selected_counts_as_met_and_so_do_its_own() {
    let text = "[[daemon]]\nname = \"a\"\ncommand = [\"a\"]\n[[daemon]]\nname = \"b\"\ncommand = [\"b\"]\ndepends_on = [\"a\"]\n\
                [[daemon]]\nname = \"c\"\ncommand = [\"c\"]\ndepends_on = [\"b\"]\n";
    let mut init = Supervisor::new(&Table::parse(text, "test").unwrap(), &[0, 2]);
    let actions = init.handle(at(0), Event::Begin);
    assert_eq!(told(&actions)[0], "c depends on b, which isn't selected; that counts as met");
    assert_eq!(acts(actions), [Action::Start(0), Action::Start(1)]);
}

#[test]
fn a_request_starts_a_waiting_daemon_at_once() {
    let early = "app is started on request although it depends on db (not probed yet)";
    let mut init = probing();
    let actions = ask(&mut init, 1, "7 restart app");
    assert_eq!(told(&actions), ["request 7: restart app", early, "starting app"]);
    assert_eq!(acts(actions), [vec![Action::Start(1)], killed(20).to_vec()].concat());
    let mut init = probing();
    let actions = init.handle(at(1), Event::Signal(Signal::USR1));
    assert_eq!(told(&actions), [early, "starting app"]);
    up(&mut init, 1, 1, 11);
    let (last, view) = (init.last(1).unwrap(), init.view(1).unwrap());
    assert_eq!((last.outcome, last.generation, view.restarts), (Outcome::Restarted, Some(1), 0));
}

#[test]
fn a_forward_to_a_daemon_that_waits_is_a_no_op() {
    let mut init = probing();
    let actions = init.handle(at(1), Event::Signal(Signal::HUP));
    assert_eq!(told(&actions), ["SIGHUP for app: it waits for its dependencies; nothing was done"]);
    assert_eq!((init.last(0).unwrap().outcome, state(&init, 1)), (Outcome::Refused, DaemonState::Waiting));
}

#[test]
fn signals_pending_at_the_start_are_served_as_if_they_came_later() {
    let mut init = Supervisor::new(&Table::parse(PROBED, "test").unwrap(), &[0, 1]);
    let _ = init.handle(at(0), Event::Signal(Signal::HUP));
    let _ = init.handle(at(0), Event::Begin);
    assert_eq!((init.last(0).unwrap().outcome, state(&init, 1)), (Outcome::Refused, DaemonState::Waiting));
    let mut init = Supervisor::new(&Table::parse(PROBED, "test").unwrap(), &[0, 1]);
    let _ = init.handle(at(0), Event::Signal(Signal::USR1));
    assert_eq!(acts(init.handle(at(0), Event::Begin)), [Action::Start(0), Action::Start(1)]);
}

#[test]
fn a_dependency_that_was_stopped_on_request_can_still_be_met() {
    let (mut init, _) = begun(&plain());
    let _ = init.handle(at(0), Event::Started { daemon: 0, pid: 10 });
    let _ = ask(&mut init, 0, "1 stop db");
    let actions = acts(init.handle(at(1), ended(10, End::Signal(TERM))));
    assert_eq!(actions, [Action::KillGroup(10), Action::Reap(10)]);
    assert_eq!((state(&init, 0), whys(&init)), (DaemonState::Stopped, vec!["db: stopped".to_owned()]));
    let _ = ask(&mut init, 2, "2 start db");
    let _ = init.handle(at(2), Event::Started { daemon: 0, pid: 12 });
    assert_eq!(acts(init.handle(at(2), Event::Executed { daemon: 0, pid: 12 })), [Action::Start(1)]);
}

/// Three in a row: web depends on app, app on db.
fn chain() -> Supervisor {
    up_all(
        "[[daemon]]\nname = \"db\"\ncommand = [\"d\"]\n[[daemon]]\nname = \"app\"\ncommand = [\"a\"]\ndepends_on = [\"db\"]\n\
         [[daemon]]\nname = \"web\"\ncommand = [\"w\"]\ndepends_on = [\"app\"]\ngrace = \"2s\"\n",
    )
}

#[test]
fn a_shutdown_asks_a_dependency_once_its_dependents_have_ended() {
    let mut init = chain();
    let actions = init.handle(at(0), Event::Stop);
    assert_eq!(
        told(&actions),
        [
            "db is asked to stop once its dependents have ended (app runs), in 4.0 s at the latest",
            "app is asked to stop once its dependents have ended (web runs), in 4.0 s at the latest",
            "forwarding SIGTERM to web"
        ]
    );
    assert_eq!(acts(actions), asked(12));
    assert!((0..3).all(|daemon| state(&init, daemon) == DaemonState::Stopping));
    let actions = gone(&mut init, 100, 2, 12, End::Signal(TERM));
    assert!(actions.ends_with(&asked(11)), "{actions:?}");
    let actions = gone(&mut init, 200, 1, 11, End::Signal(TERM));
    assert!(actions.ends_with(&asked(10)), "{actions:?}");
    assert_eq!(gone(&mut init, 300, 0, 10, End::Signal(TERM)).last(), Some(&Action::Exit(143)));
}

#[test]
fn a_dependency_is_asked_to_stop_after_half_of_its_grace_at_the_latest() {
    let mut init = up_all(&plain());
    assert_eq!(acts(init.handle(at(0), Event::Stop)), asked(11));
    assert!(acts(pass(&mut init, 3_999)).is_empty());
    assert_eq!(acts(init.handle(at(4_000), Event::Time)), asked(10));
    assert!(acts(pass(&mut init, 7_999)).is_empty());
    assert_eq!(acts(pass(&mut init, 8_000)), [kill(10, KILL), kill(11, KILL)]);
}

#[test]
fn dependents_through_a_daemon_that_does_not_run_are_waited_for_too() {
    let mut init = chain();
    let _ = gone(&mut init, 0, 1, 11, End::Code(0));
    assert_eq!(acts(init.handle(at(1), Event::Stop)), asked(12));
    let actions = gone(&mut init, 2, 2, 12, End::Signal(TERM));
    assert!(actions.ends_with(&asked(10)), "{actions:?}");
}

#[test]
fn dependents_through_two_daemons_that_do_not_run_are_waited_for_too() {
    let daemon =
        |name: &str, on: &str| format!("[[daemon]]\nname = \"{name}\"\ncommand = [\"x\"]\ndepends_on = [{on}]\n");
    let links = [("a", ""), ("b", "\"a\""), ("c", "\"b\""), ("d", "\"c\"")];
    let mut init = up_all(&links.map(|(name, on)| daemon(name, on)).concat());
    let _ = gone(&mut init, 0, 1, 11, End::Code(0));
    let _ = gone(&mut init, 0, 2, 12, End::Code(0));
    assert_eq!(acts(init.handle(at(1), Event::Stop)), asked(13));
}

#[test]
fn a_daemon_that_ends_before_a_shutdown_has_asked_it_has_ended_by_itself() {
    let mut init = chain();
    let _ = init.handle(at(0), Event::Stop);
    let _ = init.handle(at(1), ended(10, End::Signal(TERM)));
    let actions = acts(init.handle(at(1), left(0, 10, &[13])));
    assert_eq!(actions, [&kill_left(0, 10, &[13])[..], &[Action::Reap(10)]].concat());
    let _ = gone(&mut init, 2, 2, 12, End::Signal(TERM));
    assert_eq!(gone(&mut init, 3, 1, 11, End::Signal(TERM)).last(), Some(&Action::Exit(143)));
    assert!(!init.view(0).unwrap().last_exit.unwrap().by_init);
}

#[test]
fn a_dependency_with_a_grace_of_0_is_killed_at_once_in_a_shutdown() {
    let mut init = up_all(&format!("grace = \"0s\"\n{}", plain()));
    assert_eq!(acts(init.handle(at(0), Event::Stop)), [kill(10, KILL), kill(11, KILL)]);
}

#[test]
fn a_pause_takes_nothing_from_the_time_that_a_dependency_is_spared() {
    let mut init = up_all(&plain());
    let _ = init.handle(at(0), Event::Stop);
    let _ = init.handle(at(1_000), Event::Time);
    // It had asked to be woken at 2 s.
    assert!(acts(init.handle(at(6_000), Event::Time)).is_empty());
    assert!(acts(pass(&mut init, 7_999)).is_empty());
    assert_eq!(acts(pass(&mut init, 8_000)), asked(10));
}

#[test]
fn a_shutdown_kills_a_probe_forgets_those_that_wait_and_waits_for_neither() {
    let mut init = probing();
    let actions = acts(init.handle(at(1), Event::Stop));
    assert_eq!(actions, [killed(20), asked(10)].concat());
    assert_eq!(state(&init, 1), DaemonState::Exited);
    assert_eq!(gone(&mut init, 2, 0, 10, End::Signal(TERM)).last(), Some(&Action::Exit(143)));
}
