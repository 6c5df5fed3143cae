use super::*;
use crate::status::{InitState, Outcome};
use crate::table::Table;

mod order;
mod policy;
mod requests;

/// A supervisor of the whole table, which has begun; nothing has been answered yet.
fn begun(text: &str) -> (Supervisor, Vec<Action>) {
    let table = Table::parse(text, "test").unwrap();
    let all: Vec<usize> = (0..table.daemons.len()).collect();
    let mut init = Supervisor::new(&table, &all);
    let actions = init.handle(at(0), Event::Begin);
    (init, actions)
}

/// Each daemon of the table has executed its command at 0 ms: the first one as pid 10, the next as pid 11.
fn up_all(text: &str) -> Supervisor {
    let (mut init, _) = begun(text);
    let mut daemon = 0;
    for pid in 10..100 {
        if init.view(daemon).is_some() {
            up(&mut init, 0, daemon, pid);
            daemon += 1;
        }
    }
    init
}

fn state(init: &Supervisor, daemon: usize) -> DaemonState {
    init.view(daemon).unwrap().state
}

fn ask(init: &mut Supervisor, ms: u64, line: &str) -> Vec<Action> {
    let request = crate::request::Request::parse(line.as_bytes()).unwrap();
    init.handle(at(ms), Event::Request(Some(request)))
}

/// What became of the last request to a daemon, and the generation that it is about.
fn outcome(init: &Supervisor, daemon: usize) -> (crate::status::RequestOutcome, Option<u64>) {
    let last = init.view(daemon).unwrap().requests.pop().unwrap();
    (last.outcome, last.generation)
}

fn table() -> Table {
    let text = "grace = \"8s\"\n[[daemon]]\nname = \"alpha\"\ncommand = [\"a\"]\n[[daemon]]\nname = \"beta\"\ncommand = [\"b\"]\n\
                [signals]\nHUP = { forward = \"alpha\" }\nUSR1 = { restart = \"beta\" }\n";
    Table::parse(text, "test").unwrap()
}

fn at(ms: u64) -> Moment {
    Duration::from_millis(ms)
}

/// Both daemons run: alpha as pid 10, beta as pid 11.
fn running() -> Supervisor {
    let mut init = Supervisor::new(&table(), &[0, 1]);
    let _ = init.handle(at(0), Event::Begin);
    up(&mut init, 0, 0, 10);
    up(&mut init, 0, 1, 11);
    init
}

/// A start works: `pid` has executed the command.
fn up(init: &mut Supervisor, ms: u64, daemon: usize, pid: i32) {
    let _ = init.handle(at(ms), Event::Started { daemon, pid });
    let _ = init.handle(at(ms), Event::Executed { daemon, pid });
}

fn ended(pid: i32, end: End) -> Event {
    Event::Ended { pid, end, oom_kills: 0, words: String::new() }
}

/// The end of a process that leaves nobody behind.
fn gone(init: &mut Supervisor, ms: u64, daemon: usize, pid: i32, end: End) -> Vec<Action> {
    let mut actions = init.handle(at(ms), ended(pid, end));
    actions.extend(init.handle(at(ms), left(daemon, pid, &[])));
    acts(actions)
}

/// The clock goes on, and init wakes whenever it has asked to. What it does until then.
fn pass(init: &mut Supervisor, until: u64) -> Vec<Action> {
    let mut actions = Vec::new();
    while let Some(next) = init.next().filter(|next| *next <= at(until)) {
        assert!(actions.len() < 1000, "it spins: {next:?}");
        actions.extend(init.handle(next, Event::Time));
    }
    actions
}

/// What is left of a session.
fn left(daemon: usize, sid: i32, pids: &[i32]) -> Event {
    Event::Members { daemon, sid, pids: pids.to_vec() }
}

fn kill(pid: i32, signal: i32) -> Action {
    Action::Kill { pid, signal }
}

/// TERM and CONT.
fn asked(pid: i32) -> [Action; 2] {
    [kill(pid, TERM), kill(pid, CONT)]
}

fn member(sid: i32, pid: i32, signal: i32) -> Action {
    Action::KillMember { sid, pid, signal }
}

/// SIGKILL to what is left of a daemon's session, its group first.
fn kill_left(daemon: usize, sid: i32, pids: &[i32]) -> [Action; 2] {
    [Action::KillGroup(sid), Action::KillMembers { daemon, sid, pids: pids.to_vec() }]
}

/// The kernel's answer to that.
fn killed_left(daemon: usize, sid: i32, killed: &[i32], refused: &[i32]) -> Event {
    Event::MembersKilled { daemon, sid, killed: killed.to_vec(), refused: refused.to_vec() }
}

fn look(daemon: usize, sid: i32) -> Action {
    Action::LookAtMembers { daemon, sid }
}

/// The lines of the log.
fn told(actions: &[Action]) -> Vec<&str> {
    actions.iter().filter_map(|a| if let Action::Tell(line) = a { Some(line.text.as_str()) } else { None }).collect()
}

fn acts(actions: Vec<Action>) -> Vec<Action> {
    actions.into_iter().filter(|a| !matches!(a, Action::Tell(..))).collect()
}

#[test]
fn an_unset_selection_means_all() {
    assert_eq!(select(&table(), None).selected, [0, 1]);
}

#[test]
fn an_empty_selection_means_all() {
    assert_eq!(select(&table(), Some("")).selected, [0, 1]);
}

#[test]
fn a_selection_of_whitespace_only_means_all() {
    assert_eq!(select(&table(), Some("  \t")).selected, [0, 1]);
}

#[test]
fn an_explicit_subset_is_selected_and_nobody_else() {
    assert_eq!(select(&table(), Some("beta")).selected, [1]);
}

#[test]
fn selected_daemons_are_in_the_tables_order() {
    assert_eq!(select(&table(), Some("beta,alpha,beta")).selected, [0, 1]);
}

#[test]
fn unknown_names_are_ignored_and_told() {
    let selection = select(&table(), Some("nobody,beta,Alpha"));
    assert_eq!(selection, Selection { selected: vec![1], unknown: vec!["nobody".to_owned(), "Alpha".to_owned()] });
    assert!(select(&table(), Some("nobody")).selected.is_empty());
}

#[test]
fn whitespace_around_names_is_stripped() {
    let selection = select(&table(), Some(" beta ,\talpha\n,, "));
    assert_eq!(selection, Selection { selected: vec![0, 1], unknown: Vec::new() });
}

#[test]
fn all_succeed_exits_0() {
    let mut init = running();
    let _ = gone(&mut init, 1, 0, 10, End::Code(0));
    let actions = gone(&mut init, 2, 1, 11, End::Code(0));
    assert_eq!(actions, [look(1, 11), Action::KillGroup(11), Action::Reap(11), Action::Exit(0)]);
}

#[test]
fn a_crash_starts_no_shutdown_and_siblings_live() {
    let mut init = running();
    let actions = gone(&mut init, 1, 0, 10, End::Code(1));
    assert_eq!(actions, [look(0, 10), Action::KillGroup(10), Action::Reap(10)]);
    assert_eq!(init.state(), InitState::Running);
    assert_eq!(init.next(), None);
}

#[test]
fn a_crash_and_then_term_exits_with_the_crashers_code() {
    let mut init = running();
    let _ = gone(&mut init, 1, 0, 10, End::Code(1));
    let actions = acts(init.handle(at(2), Event::Stop));
    assert_eq!(actions, asked(11));
    let actions = gone(&mut init, 3, 1, 11, End::Signal(TERM));
    assert_eq!(actions.last(), Some(&Action::Exit(1)));
}

#[test]
fn all_that_die_unattended_exit_with_the_maximum() {
    let mut init = running();
    let _ = gone(&mut init, 1, 0, 10, End::Code(3));
    let actions = gone(&mut init, 2, 1, 11, End::Signal(11));
    assert_eq!(actions.last(), Some(&Action::Exit(139)));
}

#[test]
fn a_restart_replaces_in_place_once_nothing_of_the_old_session_is_left() {
    let mut init = running();
    assert_eq!(acts(init.handle(at(1), Event::Signal(Signal::USR1))), asked(11));
    let actions = gone(&mut init, 2, 1, 11, End::Signal(TERM));
    assert_eq!(actions, [look(1, 11), Action::KillGroup(11), Action::Reap(11), Action::Start(1)]);
    up(&mut init, 8, 1, 12);
    let view = init.view(1).unwrap();
    assert_eq!((view.pid, view.generation, view.restarts), (Some(12), 2, 1));
    assert_eq!(init.last(1).unwrap().outcome, Outcome::Restarted);
    assert_eq!(init.view(0).unwrap().pid, Some(10));
}

/// beta was asked to make room for a replacement and has ended at once; these are left of its session.
fn left_by_a_restart(pids: &[i32]) -> (Supervisor, Vec<Action>) {
    let mut init = running();
    let _ = init.handle(at(0), Event::Signal(Signal::USR1));
    assert_eq!(acts(init.handle(at(0), ended(11, End::Code(0)))), [look(1, 11)]);
    let actions = init.handle(at(0), left(1, 11, pids));
    (init, actions)
}

#[test]
fn a_restart_asks_the_rest_of_a_session_before_its_leader_is_reaped() {
    let (_, actions) = left_by_a_restart(&[13, 14]);
    let ask = |pid| [member(11, pid, TERM), member(11, pid, CONT)];
    assert!(told(&actions).iter().any(|line| line.contains("2 processes (pid 13, 14)")), "{actions:?}");
    assert_eq!(acts(actions), [ask(13).to_vec(), ask(14).to_vec(), vec![Action::Reap(11)]].concat());
}

#[test]
fn a_child_forked_while_a_session_is_asked_to_stop_is_asked_once_too() {
    let (mut init, _) = left_by_a_restart(&[13]);
    let actions = acts(init.handle(at(5), left(1, 11, &[13, 15])));
    assert_eq!(actions, [member(11, 15, TERM), member(11, 15, CONT)]);
    assert!(acts(init.handle(at(10), left(1, 11, &[13, 15]))).is_empty());
}

#[test]
fn members_have_the_rest_of_the_grace_and_are_killed_at_the_deadline() {
    let mut init = running();
    let _ = init.handle(at(0), Event::Signal(Signal::USR1));
    assert!(acts(pass(&mut init, 7000)).is_empty());
    let _ = init.handle(at(7000), ended(11, End::Code(0)));
    let _ = init.handle(at(7000), left(1, 11, &[13]));
    let looks = acts(pass(&mut init, 7004));
    assert_eq!(looks, []);
    let _ = init.handle(at(7005), left(1, 11, &[13]));
    let _ = init.handle(at(7500), left(1, 11, &[13]));
    let _ = init.handle(at(7999), left(1, 11, &[13]));
    assert_eq!(acts(init.handle(at(8000), Event::Time)), [look(1, 11)]);
    assert_eq!(acts(init.handle(at(8000), left(1, 11, &[13]))), kill_left(1, 11, &[13]));
    let actions = init.handle(at(8000), killed_left(1, 11, &[13], &[]));
    assert_eq!(told(&actions), ["1 process (pid 13) of beta was left and was killed"]);
    assert_eq!(acts(init.handle(at(8001), left(1, 11, &[]))), [Action::Start(1)]);
}

#[test]
fn members_of_a_daemon_that_used_up_its_grace_are_killed_with_it() {
    let mut init = running();
    let _ = init.handle(at(0), Event::Signal(Signal::USR1));
    assert_eq!(acts(pass(&mut init, 8000)), [kill(11, KILL)]);
    let _ = init.handle(at(8001), ended(11, End::Signal(KILL)));
    let actions = acts(init.handle(at(8001), left(1, 11, &[13])));
    assert_eq!(actions, [&kill_left(1, 11, &[13])[..], &[Action::Reap(11)]].concat());
}

#[test]
fn a_forward_that_is_always_sent_changes_one_that_is_held_for_a_handler() {
    let mut init = Supervisor::new(
        &Table::parse(
            "[[daemon]]\nname = \"a\"\ncommand = [\"a\"]\n[signals]\nHUP = { forward = \"a\", when = \"always\" }\n",
            "test",
        )
        .unwrap(),
        &[0],
    );
    let _ = init.handle(at(0), Event::Begin);
    let _ = init.handle(at(0), Event::Started { daemon: 0, pid: 10 });
    assert!(acts(ask(&mut init, 0, "1 signal HUP a")).is_empty());
    assert!(acts(init.handle(at(0), Event::Signal(Signal::HUP))).is_empty());
    let actions = acts(init.handle(at(1), Event::Executed { daemon: 0, pid: 10 }));
    assert!(actions.contains(&kill(10, Signal::HUP.number())), "{actions:?}");
}

#[test]
fn when_always_sends_a_signal_without_looking_for_a_handler() {
    let mut init = up_all(
        "[[daemon]]\nname = \"a\"\ncommand = [\"a\"]\n[signals]\nHUP = { forward = \"a\", when = \"always\" }\n",
    );
    assert_eq!(acts(init.handle(at(0), Event::Signal(Signal::HUP))), [kill(10, Signal::HUP.number())]);
}

#[test]
fn the_end_of_the_last_member_is_noticed_at_once() {
    let (mut init, _) = left_by_a_restart(&[13]);
    let _ = init.handle(at(2), ended(13, End::Signal(TERM)));
    assert_eq!(init.next(), Some(at(2)));
    assert_eq!(acts(init.handle(at(2), Event::Time)), [look(1, 11)]);
    assert_eq!(acts(init.handle(at(2), left(1, 11, &[]))), [Action::Start(1)]);
}

#[test]
fn a_shutdown_waits_for_members_and_they_do_not_change_its_code() {
    let mut init = Supervisor::new(&table(), &[1]);
    let _ = init.handle(at(0), Event::Begin);
    up(&mut init, 0, 0, 11);
    let _ = init.handle(at(0), Event::Stop);
    let _ = init.handle(at(1), ended(11, End::Code(3)));
    let actions = acts(init.handle(at(1), left(0, 11, &[13])));
    assert_eq!(actions, [member(11, 13, TERM), member(11, 13, CONT), Action::Reap(11)]);
    assert_eq!(init.view(0).unwrap().state, DaemonState::Stopping);
    let _ = init.handle(at(2), ended(13, End::Signal(TERM)));
    assert_eq!(acts(init.handle(at(2), left(0, 11, &[]))), [Action::Exit(3)]);
}

#[test]
fn a_shutdown_while_a_replacement_waits_for_members_ends_once_they_have() {
    let (mut init, _) = left_by_a_restart(&[13]);
    let _ = init.handle(at(1), Event::Stop);
    let _ = gone(&mut init, 2, 0, 10, End::Signal(TERM));
    assert_eq!(acts(init.handle(at(3), left(1, 11, &[]))), [Action::Exit(0)]);
}

#[test]
fn after_an_unrequested_death_the_whole_session_is_killed_at_once() {
    let mut init = running();
    let _ = init.handle(at(1), ended(10, End::Code(1)));
    let actions = acts(init.handle(at(1), left(0, 10, &[13, 14])));
    assert_eq!(actions, [&kill_left(0, 10, &[13, 14])[..], &[Action::Reap(10)]].concat());
    let actions = init.handle(at(1), killed_left(0, 10, &[13, 14], &[]));
    assert_eq!(told(&actions), ["2 processes (pid 13, 14) of alpha were left and were killed"]);
    assert_eq!(init.view(0).unwrap().state, DaemonState::Exited);
}

#[test]
fn what_a_killed_member_has_forked_is_killed_too_and_nobody_twice() {
    let mut init = running();
    let _ = init.handle(at(1), ended(10, End::Code(1)));
    let _ = init.handle(at(1), left(0, 10, &[13]));
    let _ = init.handle(at(1), killed_left(0, 10, &[13], &[]));
    assert_eq!(acts(init.handle(at(6), Event::Time)), [look(0, 10)]);
    assert_eq!(acts(init.handle(at(6), left(0, 10, &[13, 15]))), kill_left(0, 10, &[15]));
    assert!(init.handle(at(6), killed_left(0, 10, &[15], &[])).is_empty());
    let actions = init.handle(at(11), left(0, 10, &[]));
    assert_eq!(told(&actions), ["1 process of alpha appeared meanwhile and was killed too"]);
    assert_eq!(init.next(), None);
}

#[test]
fn members_that_init_may_not_kill_do_not_count_as_killed() {
    let mut init = running();
    let _ = init.handle(at(1), ended(10, End::Code(1)));
    let _ = init.handle(at(1), left(0, 10, &[13, 14]));
    let actions = init.handle(at(1), killed_left(0, 10, &[14], &[13]));
    let killed = "1 process (pid 14) of alpha was left and was killed";
    assert_eq!(told(&actions), ["1 process (pid 13) of alpha can't be killed", killed]);
    let _ = init.handle(at(6), left(0, 10, &[13, 15]));
    let actions = init.handle(at(6), killed_left(0, 10, &[], &[15]));
    assert_eq!(told(&actions), ["1 process (pid 15) of alpha can't be killed"]);
    assert!(told(&init.handle(at(11), left(0, 10, &[]))).is_empty());
}

#[test]
fn members_that_had_ended_by_themselves_are_not_counted_as_killed() {
    let mut init = running();
    let _ = init.handle(at(1), ended(10, End::Code(1)));
    let _ = init.handle(at(1), left(0, 10, &[13]));
    assert!(init.handle(at(1), killed_left(0, 10, &[], &[])).is_empty());
}

#[test]
fn the_log_counts_what_was_killed_when_init_stopped_waiting() {
    let mut init = running();
    let _ = init.handle(at(1), ended(10, End::Code(1)));
    let _ = init.handle(at(1), left(0, 10, &[13]));
    let _ = init.handle(at(1), killed_left(0, 10, &[13], &[]));
    let actions = init.handle(at(2001), left(0, 10, &[13, 15]));
    assert_eq!(
        told(&actions),
        ["2 processes (pid 13, 15) of alpha still not gone 2 s after SIGKILL; continuing without waiting"]
    );
    let actions = init.handle(at(2001), killed_left(0, 10, &[15], &[]));
    assert_eq!(told(&actions), ["1 process of alpha appeared meanwhile and was killed too"]);
}

#[test]
fn a_restart_starts_a_dead_daemon_once_its_session_is_empty() {
    let mut init = running();
    let _ = init.handle(at(0), ended(11, End::Code(1)));
    let _ = init.handle(at(0), left(1, 11, &[13]));
    assert!(acts(init.handle(at(1), Event::Signal(Signal::USR1))).is_empty());
    assert_eq!(init.view(1).unwrap().state, DaemonState::Stopping);
    assert_eq!(acts(init.handle(at(1), Event::Time)), [look(1, 11)]);
    assert_eq!(acts(init.handle(at(2), left(1, 11, &[]))), [Action::Start(1)]);
}

#[test]
fn a_daemon_that_survives_its_kill_is_replaced_after_two_seconds() {
    let mut init = running();
    let _ = init.handle(at(0), Event::Signal(Signal::USR1));
    assert_eq!(acts(pass(&mut init, 9999)), [kill(11, KILL)]);
    assert_eq!(acts(init.handle(at(10_000), Event::Time)), [look(1, 11)]);
    let actions = init.handle(at(10_000), left(1, 11, &[]));
    assert!(told(&actions)[0].contains("is another process tracing it?"), "{actions:?}");
    assert_eq!(acts(actions), [Action::KillGroup(11), Action::Start(1)]);
    up(&mut init, 10_000, 1, 12);
    assert_eq!(acts(init.handle(at(20_000), ended(11, End::Signal(KILL)))), []);
    assert_eq!(init.view(1).unwrap().pid, Some(12));
}

#[test]
fn a_shutdown_waits_at_most_two_seconds_after_a_kill() {
    let mut init = Supervisor::new(&table(), &[1]);
    let _ = init.handle(at(0), Event::Begin);
    up(&mut init, 0, 0, 11);
    let _ = init.handle(at(0), Event::Stop);
    assert_eq!(acts(pass(&mut init, 9999)), [kill(11, KILL)]);
    assert_eq!(acts(init.handle(at(10_000), Event::Time)), [look(0, 11)]);
    let actions = acts(init.handle(at(10_000), left(0, 11, &[])));
    assert_eq!(actions, [Action::KillGroup(11), Action::Exit(137)]);
}

#[test]
fn a_stop_that_takes_long_says_every_3_seconds_whom_it_waits_for() {
    let mut init = running();
    let _ = init.handle(at(0), Event::Signal(Signal::USR1));
    let actions = pass(&mut init, 7000);
    assert_eq!(
        told(&actions),
        [
            "still waiting for beta to end after 3 s: pid 11; KILL follows in 5 s",
            "still waiting for beta to end after 6 s: pid 11; KILL follows in 2 s",
        ]
    );
}

#[test]
fn a_pause_takes_nothing_from_a_grace() {
    let mut init = running();
    let _ = init.handle(at(0), Event::Signal(Signal::USR1));
    let _ = pass(&mut init, 2000);
    // It had asked to be woken at 3 s.
    let actions = init.handle(at(12_000), Event::Time);
    assert!(told(&actions)[0].contains("init could not run for 9.0 s"), "{actions:?}");
    assert!(acts(pass(&mut init, 16_999)).is_empty());
    assert_eq!(acts(pass(&mut init, 17_000)), [kill(11, KILL)]);
}

#[test]
fn a_look_at_very_many_members_that_takes_long_is_no_pause() {
    let mut init = running();
    let _ = init.handle(at(0), Event::Signal(Signal::USR1));
    let _ = init.handle(at(100), ended(11, End::Code(0)));
    let actions = init.handle(at(1100), left(1, 11, &[12]));
    assert!(told(&actions).iter().all(|line| !line.contains("could not run")), "{actions:?}");
}

#[test]
fn a_wait_that_is_half_a_second_late_moves_no_deadline() {
    let mut init = running();
    let _ = init.handle(at(0), Event::Signal(Signal::USR1));
    let _ = init.handle(at(1500), Event::Time);
    assert_eq!(acts(pass(&mut init, 8000)), [kill(11, KILL)]);
}

#[test]
fn while_a_daemon_is_stopping_init_wakes_at_least_once_a_second() {
    let mut init = running();
    let _ = init.handle(at(0), Event::Signal(Signal::USR1));
    assert_eq!(init.next(), Some(at(1000)));
    let _ = init.handle(at(700), Event::Signal(Signal::USR1));
    assert_eq!(init.next(), Some(at(1700)));
}

#[test]
fn a_replacement_waits_at_most_two_seconds_for_the_old_session() {
    let mut init = running();
    let _ = init.handle(at(0), Event::Signal(Signal::USR1));
    assert_eq!(acts(pass(&mut init, 8000)), [kill(11, KILL)]);
    let _ = init.handle(at(8000), ended(11, End::Signal(KILL)));
    let _ = init.handle(at(8000), left(1, 11, &[13]));
    for ms in [8400, 8800, 9200, 9600, 9999] {
        assert!(acts(init.handle(at(ms), left(1, 11, &[13]))).is_empty());
    }
    let actions = init.handle(at(10_000), left(1, 11, &[13]));
    assert!(told(&actions)[0].contains("still not gone 2 s after SIGKILL"), "{actions:?}");
    assert_eq!(acts(actions), [Action::Start(1)]);
}

#[test]
fn a_pause_takes_nothing_from_the_2_s_after_a_kill() {
    let mut init = running();
    let _ = init.handle(at(0), Event::Signal(Signal::USR1));
    let _ = pass(&mut init, 8000);
    let _ = init.handle(at(8000), ended(11, End::Signal(KILL)));
    let _ = init.handle(at(8000), left(1, 11, &[13]));
    let lost = at(15_000).saturating_sub(init.next().unwrap());
    let _ = init.handle(at(15_000), Event::Time);
    let give_up = at(10_000) + lost;
    let early = give_up.saturating_sub(Duration::from_millis(1));
    assert!(acts(init.handle(early, left(1, 11, &[13]))).is_empty());
    assert_eq!(acts(init.handle(give_up, left(1, 11, &[13]))), [Action::Start(1)]);
}

#[test]
fn the_line_of_a_forwarded_term_has_the_pid_of_whom_it_goes_to() {
    let mut init = running();
    let actions = init.handle(at(1), Event::Stop);
    let pid = actions.iter().find_map(|action| match action {
        Action::Tell(line) if line.text == "forwarding SIGTERM to beta" => line.pid,
        _ => None,
    });
    assert_eq!(pid, Some(11));
}

#[test]
fn of_many_pids_the_first_ones_are_named() {
    let of = |count: i32| super::stop::named(&(1..=count).collect::<Vec<_>>());
    let names = (1..=10).map(|pid| pid.to_string()).collect::<Vec<_>>().join(", ");
    assert_eq!((of(10), of(11)), (format!("10 processes (pid {names})"), format!("11 processes (pid {names}, …)")));
}

#[test]
fn a_signal_that_a_daemon_without_a_grace_dies_of_was_not_sent_by_init() {
    let mut init = up_all(
        "[[daemon]]\nname = \"a\"\ncommand = [\"a\"]\n[[daemon]]\nname = \"b\"\ncommand = [\"b\"]\ngrace = \"0s\"\n",
    );
    let _ = init.handle(at(1), Event::Stop);
    let _ = gone(&mut init, 2, 0, 10, End::Code(0));
    assert_eq!(gone(&mut init, 2, 1, 11, End::Signal(TERM)).last(), Some(&Action::Exit(128 + TERM)));
}

#[test]
fn a_second_restart_request_sends_no_second_term_and_moves_no_deadline() {
    let mut init = running();
    let _ = init.handle(at(0), Event::Signal(Signal::USR1));
    assert!(acts(pass(&mut init, 5000)).is_empty());
    assert!(acts(init.handle(at(5000), Event::Signal(Signal::USR1))).is_empty());
    assert_eq!(acts(pass(&mut init, 8000)), [kill(11, KILL)]);
    assert_eq!(init.last(1).unwrap().seq, 2);
}

#[test]
fn a_restart_during_a_shutdown_is_a_no_op_and_nothing_is_started() {
    let mut init = running();
    let _ = init.handle(at(0), Event::Signal(Signal::USR1));
    let _ = init.handle(at(1), Event::Stop);
    assert!(acts(init.handle(at(2), Event::Signal(Signal::USR1))).is_empty());
    assert_eq!(init.last(1).unwrap().outcome, Outcome::Refused);
    let actions = gone(&mut init, 3, 1, 11, End::Signal(TERM));
    assert_eq!(actions, [look(1, 11), Action::KillGroup(11), Action::Reap(11)]);
    let actions = gone(&mut init, 4, 0, 10, End::Signal(TERM));
    assert_eq!(actions.last(), Some(&Action::Exit(143)));
}

#[test]
fn a_daemon_that_ignores_term_is_killed_once_its_grace_is_over() {
    let mut init = Supervisor::new(&table(), &[1]);
    let _ = init.handle(at(0), Event::Begin);
    up(&mut init, 0, 0, 11);
    let _ = init.handle(at(100), Event::Stop);
    assert!(acts(pass(&mut init, 8099)).is_empty());
    assert_eq!(acts(init.handle(at(8100), Event::Time)), [kill(11, KILL)]);
    assert_eq!(gone(&mut init, 8101, 0, 11, End::Signal(KILL)).last(), Some(&Action::Exit(137)));
}

#[test]
fn a_second_shutdown_request_never_moves_the_deadline() {
    let mut init = running();
    let _ = init.handle(at(0), Event::Stop);
    assert!(acts(pass(&mut init, 4000)).is_empty());
    assert!(acts(init.handle(at(4000), Event::Stop)).is_empty());
    assert_eq!(acts(pass(&mut init, 8000)), [kill(10, KILL), kill(11, KILL)]);
}

#[test]
fn a_forward_is_held_until_the_daemon_takes_it_and_reaches_it_alone() {
    let mut init = running();
    let look = Action::LookAtMask { daemon: 0, pid: 10, signal: Signal::HUP };
    assert_eq!(acts(init.handle(at(0), Event::Signal(Signal::HUP))), std::slice::from_ref(&look));
    let mask = |disposition| Event::Mask { daemon: 0, pid: 10, signal: Signal::HUP, disposition };
    assert!(acts(init.handle(at(0), mask(Disposition::NotTaken))).is_empty());
    assert_eq!(acts(init.handle(at(20), Event::Time)), [look]);
    let actions = acts(init.handle(at(20), mask(Disposition::Taken)));
    assert_eq!(actions, [kill(10, 1)]);
    assert_eq!(init.last(0).unwrap().outcome, Outcome::Delivered);
    assert_eq!(init.next(), None);
}

#[test]
fn a_forward_that_is_never_caught_is_dropped_after_20_s_and_said_so() {
    let mut init = running();
    let mask = Event::Mask { daemon: 0, pid: 10, signal: Signal::HUP, disposition: Disposition::NotTaken };
    let _ = init.handle(at(0), Event::Signal(Signal::HUP));
    for look in 0..1000 {
        assert!(acts(init.handle(at(20 * look), mask.clone())).is_empty());
        assert_eq!(init.last(0).unwrap().outcome, Outcome::Held);
    }
    assert!(acts(init.handle(at(20_000), mask)).is_empty());
    assert_eq!(init.last(0).unwrap().outcome, Outcome::NeverCaught);
}

#[test]
fn a_forward_that_the_kernel_refuses_is_reported_as_failed() {
    let mut init = running();
    let _ = init.handle(at(0), Event::Signal(Signal::HUP));
    let taken = Event::Mask { daemon: 0, pid: 10, signal: Signal::HUP, disposition: Disposition::Taken };
    let _ = init.handle(at(0), taken);
    let _ = init.handle(at(1), Event::NotSent { pid: 10, signal: 1 });
    let _ = init.handle(at(2), Event::Notify { pid: 10, ready: true, reloading: Some(1_500), errno: 0, session: None });
    let last = init.last(0).unwrap();
    assert_eq!((last.outcome, last.reload_errno), (Outcome::Failed, None));
    let _ = init.handle(at(3), Event::Signal(Signal::HUP));
    assert_eq!(init.last(0).unwrap().outcome, Outcome::Held);
}

#[test]
fn a_restart_of_a_daemon_that_cannot_be_killed_fails() {
    let mut init = running();
    let _ = init.handle(at(0), Event::Signal(Signal::USR1));
    let _ = init.handle(at(0), Event::NotSent { pid: 11, signal: TERM });
    assert_eq!(acts(pass(&mut init, 8000)), [kill(11, KILL)]);
    assert!(acts(init.handle(at(8000), Event::NotSent { pid: 11, signal: KILL })).is_empty());
    assert_eq!(init.last(1).unwrap().outcome, Outcome::Failed);
    assert_eq!((init.view(1).unwrap().state, init.view(1).unwrap().pid), (DaemonState::Running, Some(11)));
    let actions = acts(init.handle(at(9000), Event::Signal(Signal::USR1)));
    assert_eq!(actions, asked(11));
}

#[test]
fn a_daemon_that_can_not_be_killed_holds_up_no_shutdown_beyond_its_grace() {
    let mut init = Supervisor::new(&table(), &[1]);
    let _ = init.handle(at(0), Event::Begin);
    up(&mut init, 0, 0, 11);
    let _ = init.handle(at(0), Event::Stop);
    let _ = pass(&mut init, 8000);
    assert_eq!(acts(init.handle(at(8000), Event::NotSent { pid: 11, signal: KILL })), [Action::Exit(137)]);
}

#[test]
fn a_forward_to_a_daemon_that_is_not_selected_is_a_no_op() {
    let mut init = Supervisor::new(&table(), &[1]);
    let _ = init.handle(at(0), Event::Begin);
    up(&mut init, 0, 0, 11);
    assert!(acts(init.handle(at(1), Event::Signal(Signal::HUP))).is_empty());
    assert_eq!(init.last(0).unwrap().outcome, Outcome::Refused);
}

#[test]
fn a_restart_of_a_daemon_that_is_not_selected_is_a_no_op() {
    let mut init = Supervisor::new(&table(), &[0]);
    let _ = init.handle(at(0), Event::Begin);
    up(&mut init, 0, 0, 10);
    assert!(acts(init.handle(at(1), Event::Signal(Signal::USR1))).is_empty());
    assert_eq!(init.last(1).unwrap().outcome, Outcome::Refused);
}

#[test]
fn a_shutdown_terminates_all() {
    let mut init = running();
    assert_eq!(acts(init.handle(at(0), Event::Stop)), [asked(10), asked(11)].concat());
    let _ = gone(&mut init, 1, 1, 11, End::Signal(TERM));
    assert_eq!(gone(&mut init, 2, 0, 10, End::Signal(TERM)).last(), Some(&Action::Exit(143)));
}

#[test]
fn asked_to_stop_before_any_daemon_ran_exits_143_and_starts_nothing() {
    let mut init = Supervisor::new(&table(), &[0, 1]);
    let _ = init.handle(at(0), Event::Stop);
    assert_eq!(acts(init.handle(at(0), Event::Begin)), [Action::Exit(143)]);
}

#[test]
fn a_restart_that_was_pending_at_the_start_does_nothing_more() {
    let mut init = Supervisor::new(&table(), &[1]);
    let _ = init.handle(at(0), Event::Signal(Signal::USR1));
    assert_eq!(acts(init.handle(at(0), Event::Begin)), [Action::Start(0)]);
    assert!(acts(init.handle(at(1), Event::Started { daemon: 0, pid: 11 })).is_empty());
    assert!(acts(init.handle(at(1), Event::Executed { daemon: 0, pid: 11 })).is_empty());
    assert_eq!(init.last(1).unwrap().outcome, Outcome::Restarted);
    assert_eq!(init.view(0).unwrap().restarts, 0);
}

#[test]
fn a_dead_daemon_is_simply_started_by_a_restart() {
    let mut init = running();
    let _ = gone(&mut init, 0, 1, 11, End::Code(1));
    assert_eq!(acts(init.handle(at(3000), Event::Signal(Signal::USR1))), [Action::Start(1)]);
}

#[test]
fn a_reload_counts_only_where_it_began_after_the_signal_was_delivered() {
    let mut init = running();
    let _ = init.handle(at(5), Event::Signal(Signal::HUP));
    let taken = Event::Mask { daemon: 0, pid: 10, signal: Signal::HUP, disposition: Disposition::Taken };
    let _ = init.handle(at(5), taken);
    let reload = |usec| Event::Notify { pid: 10, ready: false, reloading: Some(usec), errno: 0, session: None };
    let done = Event::Notify { pid: 10, ready: true, reloading: None, errno: 22, session: None };
    let _ = init.handle(at(6), reload(4_000));
    let _ = init.handle(at(6), done.clone());
    assert_eq!(init.last(0).unwrap().reload_errno, None);
    let _ = init.handle(at(7), reload(5_500));
    let _ = init.handle(at(7), done);
    assert_eq!(init.last(0).unwrap().reload_errno, Some(22));
}

#[test]
fn a_restart_counts_only_once_its_replacement_has_started() {
    let mut init = running();
    let _ = init.handle(at(1), Event::Signal(Signal::USR1));
    assert_eq!(init.view(1).unwrap().restarts, 0);
    let _ = init.handle(at(2), Event::Stop);
    let _ = gone(&mut init, 3, 1, 11, End::Signal(TERM));
    let view = init.view(1).unwrap();
    assert_eq!((view.generation, view.restarts), (1, 0));
}

#[test]
fn a_pending_forward_with_when_always_is_sent_once_its_daemon_runs() {
    let text = "[[daemon]]\nname = \"alpha\"\ncommand = [\"a\"]\n[signals]\nHUP = { forward = \"alpha\", when = \"always\" }\n";
    let mut init = Supervisor::new(&Table::parse(text, "test").unwrap(), &[0]);
    let _ = init.handle(at(0), Event::Signal(Signal::HUP));
    assert_eq!(acts(init.handle(at(0), Event::Begin)), [Action::Start(0)]);
    assert!(acts(init.handle(at(1), Event::Started { daemon: 0, pid: 10 })).is_empty());
    let actions = acts(init.handle(at(1), Event::Executed { daemon: 0, pid: 10 }));
    assert_eq!(actions, [kill(10, 1)]);
    assert_eq!(init.last(0).unwrap().outcome, Outcome::Delivered);
    assert_eq!(init.next(), None);
}

#[test]
fn a_restart_that_comes_with_the_last_death_starts_nothing() {
    let mut init = Supervisor::new(&table(), &[1]);
    let _ = init.handle(at(0), Event::Begin);
    up(&mut init, 0, 0, 11);
    let actions = gone(&mut init, 1, 0, 11, End::Code(3));
    assert_eq!(actions.last(), Some(&Action::Exit(3)));
    assert!(acts(init.handle(at(1), Event::Signal(Signal::USR1))).is_empty());
    assert_eq!(init.last(1).unwrap().outcome, Outcome::Refused);
}

#[test]
fn a_reload_of_the_replacement_does_not_answer_for_the_old_process() {
    let text = "[[daemon]]\nname = \"alpha\"\ncommand = [\"a\"]\n[[daemon]]\nname = \"beta\"\ncommand = [\"b\"]\n\
                [signals]\nHUP = { forward = \"alpha\" }\nUSR1 = { restart = \"alpha\" }\n";
    let mut init = Supervisor::new(&Table::parse(text, "test").unwrap(), &[0, 1]);
    let _ = init.handle(at(0), Event::Begin);
    up(&mut init, 0, 0, 10);
    up(&mut init, 0, 1, 11);
    let _ = init.handle(at(1), Event::Signal(Signal::HUP));
    let taken = Event::Mask { daemon: 0, pid: 10, signal: Signal::HUP, disposition: Disposition::Taken };
    let _ = init.handle(at(1), taken);
    let _ = gone(&mut init, 2, 0, 10, End::Signal(1));
    let _ = init.handle(at(2), Event::Signal(Signal::USR1));
    up(&mut init, 3, 0, 12);
    let notify = |ready, reloading| Event::Notify { pid: 12, ready, reloading, errno: 22, session: Some(12) };
    let _ = init.handle(at(4), notify(false, Some(3_500)));
    let _ = init.handle(at(5), notify(true, None));
    assert_eq!(init.last(0).unwrap().reload_errno, None);
}

#[test]
fn the_last_look_at_a_held_signal_is_no_later_than_its_20_s() {
    let mut init = running();
    let mask = Event::Mask { daemon: 0, pid: 10, signal: Signal::HUP, disposition: Disposition::NotTaken };
    let _ = init.handle(at(0), Event::Signal(Signal::HUP));
    for look in 0..1000 {
        let _ = init.handle(at(20 * look), mask.clone());
    }
    let _ = init.handle(at(19_990), mask);
    assert_eq!(init.next(), Some(at(20_000)));
}

#[test]
fn the_last_look_at_an_old_session_is_no_later_than_its_2_s() {
    let mut init = running();
    let _ = init.handle(at(0), ended(11, End::Code(0)));
    for look in 0..=199 {
        let _ = init.handle(at(10 * look), left(1, 11, &[13]));
    }
    let _ = init.handle(at(1998), left(1, 11, &[13]));
    assert_eq!(init.next(), Some(at(2000)));
}

#[test]
fn a_daemon_that_blocks_every_signal_for_a_moment_gets_no_forward() {
    let mut init = running();
    let mask = |disposition| Event::Mask { daemon: 0, pid: 10, signal: Signal::HUP, disposition };
    let _ = init.handle(at(0), Event::Signal(Signal::HUP));
    assert!(acts(init.handle(at(0), mask(Disposition::Blocked))).is_empty());
    assert!(acts(init.handle(at(20), mask(Disposition::NotTaken))).is_empty());
    // Far apart, and with a fork at each look: nothing is known.
    assert!(acts(init.handle(at(40), mask(Disposition::Blocked))).is_empty());
    for look in 1..49 {
        assert!(acts(init.handle(at(300 + 20 * look), mask(Disposition::Blocked))).is_empty());
    }
    // One that goes on blocking them takes them in its own way.
    assert_eq!(acts(init.handle(at(1_280), mask(Disposition::Blocked))), [kill(10, 1)]);
}

#[test]
fn only_an_unrequested_end_is_logged_as_a_warning() {
    let mut init = running();
    let level = |actions: Vec<Action>| {
        actions.into_iter().find_map(|a| if let Action::Tell(line) = a { Some(line.level) } else { None })
    };
    assert_eq!(level(init.handle(at(1), ended(10, End::Code(0)))), Some(Level::Warn));
    let _ = init.handle(at(2), Event::Stop);
    assert_eq!(level(init.handle(at(3), ended(11, End::Code(0)))), Some(Level::Info));
}

#[test]
fn an_old_session_is_checked_only_when_it_is_due() {
    let (mut init, _) = left_by_a_restart(&[13]);
    assert!(acts(init.handle(at(4), Event::Time)).is_empty());
    assert_eq!(acts(init.handle(at(5), Event::Time)), [look(1, 11)]);
}

#[test]
fn a_signal_that_is_held_for_a_daemon_before_its_start_wakes_nobody() {
    let mut init = Supervisor::new(&table(), &[0]);
    let _ = init.handle(at(0), Event::Signal(Signal::HUP));
    assert_eq!(init.next(), None);
    let _ = init.handle(at(0), Event::Begin);
    up(&mut init, 7, 0, 10);
    assert_eq!(init.next(), Some(at(7)));
}

#[test]
fn a_supervisor_without_daemons_exits_0_as_soon_as_it_begins() {
    let mut init = Supervisor::new(&table(), &[]);
    assert_eq!(acts(init.handle(at(0), Event::Begin)), [Action::Exit(0)]);
}

/// beta alone, forked as pid 11; its exec is under way.
fn starting() -> Supervisor {
    let mut init = Supervisor::new(&table(), &[1]);
    let _ = init.handle(at(0), Event::Begin);
    let _ = init.handle(at(0), Event::Started { daemon: 0, pid: 11 });
    init
}

#[test]
fn a_daemon_is_starting_until_its_exec_and_then_running() {
    let mut init = starting();
    let shown = |init: &Supervisor| (init.view(0).unwrap().state, init.view(0).unwrap().pid);
    assert_eq!(shown(&init), (DaemonState::Starting, Some(11)));
    assert_eq!(init.next(), None);
    let _ = init.handle(at(500), Event::Executed { daemon: 0, pid: 11 });
    assert_eq!(shown(&init), (DaemonState::Running, Some(11)));
}

#[test]
fn a_command_that_can_not_be_executed_fails_once_its_process_has_ended() {
    let mut init = starting();
    let why = "cannot execute \"b\"".to_owned();
    let actions = init.handle(at(1), Event::NotExecuted { daemon: 0, pid: 11, code: 127, why });
    assert_eq!(told(&actions), ["cannot start beta: cannot execute \"b\"; counts as exited 127"]);
    let actions = acts(init.handle(at(1), ended(11, End::Code(127))));
    assert_eq!(actions, [Action::KillGroup(11), Action::Reap(11), Action::Exit(127)]);
    let view = init.view(0).unwrap();
    assert_eq!((view.state, view.last_exit.unwrap().code), (DaemonState::Failed, Some(127)));
}

#[test]
fn a_start_without_a_process_fails_at_once() {
    let mut init = Supervisor::new(&table(), &[1]);
    let _ = init.handle(at(0), Event::Begin);
    let failed = Event::StartFailed { daemon: 0, code: 126, why: "no fork".to_owned() };
    assert_eq!(acts(init.handle(at(0), failed)), [Action::Exit(126)]);
    assert_eq!(init.view(0).unwrap().state, DaemonState::Failed);
}

#[test]
fn a_shutdown_kills_one_whose_exec_never_comes_at_its_grace() {
    let mut init = starting();
    assert_eq!(acts(init.handle(at(0), Event::Stop)), asked(11));
    assert_eq!(acts(pass(&mut init, 8000)), [kill(11, KILL)]);
    let actions = init.handle(at(8001), ended(11, End::Signal(KILL)));
    assert!(told(&actions)[0].ends_with("on request, before its command was executed"), "{actions:?}");
    assert_eq!(acts(actions), [Action::KillGroup(11), Action::Reap(11), Action::Exit(137)]);
    assert_eq!(init.view(0).unwrap().state, DaemonState::Failed);
}

#[test]
fn one_that_somebody_else_kills_before_its_exec_counts_as_exited_126() {
    let mut init = starting();
    let actions = init.handle(at(1), ended(11, End::Signal(KILL)));
    assert!(told(&actions)[0].ends_with("before its command was executed; counts as exited 126"), "{actions:?}");
    assert_eq!(acts(actions).last(), Some(&Action::Exit(126)));
}

#[test]
fn a_daemon_that_execs_while_it_is_being_stopped_ends_as_usual() {
    let mut init = starting();
    let _ = init.handle(at(0), Event::Stop);
    let _ = init.handle(at(1), Event::Executed { daemon: 0, pid: 11 });
    assert_eq!(gone(&mut init, 2, 0, 11, End::Signal(TERM)).last(), Some(&Action::Exit(143)));
}

#[test]
fn a_restart_of_one_whose_exec_is_under_way_stops_it_and_starts_another() {
    let mut init = starting();
    assert_eq!(acts(init.handle(at(1), Event::Signal(Signal::USR1))), asked(11));
    let actions = acts(init.handle(at(2), ended(11, End::Signal(TERM))));
    assert_eq!(actions, [Action::KillGroup(11), Action::Reap(11), Action::Start(0)]);
    let _ = init.handle(at(2), Event::Started { daemon: 0, pid: 12 });
    let _ = init.handle(at(3), Event::Executed { daemon: 0, pid: 12 });
    assert_eq!((init.last(1).unwrap().outcome, init.view(0).unwrap().generation), (Outcome::Restarted, 2));
}

#[test]
fn a_signal_is_held_until_the_exec_and_looked_after_from_then_on() {
    let mut init = Supervisor::new(&table(), &[0]);
    let _ = init.handle(at(0), Event::Begin);
    let _ = init.handle(at(0), Event::Started { daemon: 0, pid: 10 });
    assert!(acts(init.handle(at(1), Event::Signal(Signal::HUP))).is_empty());
    assert_eq!(init.next(), None);
    let _ = init.handle(at(50_000), Event::Executed { daemon: 0, pid: 10 });
    let mask = Action::LookAtMask { daemon: 0, pid: 10, signal: Signal::HUP };
    assert_eq!(acts(init.handle(at(50_000), Event::Time)), [mask]);
    assert_eq!(init.last(0).unwrap().outcome, Outcome::Held);
}

#[test]
fn rtmin_3_asks_for_a_shutdown_unless_it_is_wired() {
    let mut init = running();
    let actions = acts(init.handle(at(0), Event::Signal(Signal::RealTime(3))));
    assert_eq!(actions, [asked(10), asked(11)].concat());
    assert_eq!(init.state(), InitState::Stopping);
    let text = "[[daemon]]\nname = \"alpha\"\ncommand = [\"a\"]\n[signals]\n\"RTMIN+3\" = { restart = \"alpha\" }\n";
    let mut init = Supervisor::new(&Table::parse(text, "test").unwrap(), &[0]);
    let _ = init.handle(at(0), Event::Begin);
    up(&mut init, 0, 0, 10);
    let _ = init.handle(at(0), Event::Signal(Signal::RealTime(3)));
    assert_eq!((init.state(), init.last(0).unwrap().outcome), (InitState::Running, Outcome::Restarting));
}

#[test]
fn a_signal_without_a_rule_changes_nothing_and_is_warned_about() {
    let mut init = running();
    let actions = init.handle(at(0), Event::Signal(Signal::USR2));
    let text = "SIGUSR2 has no signal rule; nothing was done. If `docker stop` sent it, the image sets STOPSIGNAL: \
                set it to SIGTERM";
    assert_eq!(actions, [Action::Tell(Line::warn(text.to_owned()))]);
}

#[test]
fn a_death_by_sigkill_while_the_oom_killer_was_at_work_says_so() {
    let mut init = running();
    let actions =
        init.handle(at(1), Event::Ended { pid: 10, end: End::Signal(KILL), oom_kills: 1, words: String::new() });
    assert!(told(&actions)[0].contains("OOM killer has killed 1 process of this container"), "{actions:?}");
    let _ = init.handle(at(1), left(0, 10, &[]));
    let _ = init.handle(at(1), Event::Signal(Signal::USR1));
    let _ = pass(&mut init, 8001);
    let actions =
        init.handle(at(8001), Event::Ended { pid: 11, end: End::Signal(KILL), oom_kills: 1, words: String::new() });
    assert!(!told(&actions)[0].contains("OOM"), "init itself sent that one: {actions:?}");
}

#[test]
fn a_daemon_that_exits_0_at_once_gets_a_hint_to_stay_in_the_foreground() {
    let hint = |ms, end| {
        let mut init = running();
        told(&init.handle(at(ms), ended(10, end))).iter().any(|line| line.contains("background"))
    };
    assert!(hint(999, End::Code(0)));
    assert!(!hint(1000, End::Code(0)));
    assert!(!hint(999, End::Code(1)));
    let mut init = running();
    let _ = init.handle(at(1), Event::Stop);
    assert_eq!(told(&init.handle(at(2), ended(10, End::Code(0)))).len(), 1, "it was asked to end");
}

#[test]
fn a_reaped_orphan_is_told_at_debug_with_its_pid_and_how_it_ended() {
    let end = End::Signal(11);
    let actions = running().handle(at(1), ended(99, end));
    let text = "reaped orphan (pid 99): it was killed by signal 11".to_owned();
    assert_eq!(actions, [Action::Tell(Line::debug(text).pid(99).end(end))]);
}

/// alpha says READY=1 when it is ready; it runs as pid 10.
fn notifying() -> Supervisor {
    let text = "[[daemon]]\nname = \"alpha\"\ncommand = [\"a\"]\nready = { notify = true }\n[signals]\n\
                USR1 = { restart = \"alpha\" }\n";
    let mut init = Supervisor::new(&Table::parse(text, "test").unwrap(), &[0]);
    let _ = init.handle(at(0), Event::Begin);
    up(&mut init, 0, 0, 10);
    init
}

fn ready(pid: i32, session: Option<i32>) -> Event {
    Event::Notify { pid, ready: true, reloading: None, errno: 0, session }
}

#[test]
fn a_ready_message_from_another_process_does_not_count() {
    for session in [Some(10), None] {
        let mut init = notifying();
        let actions = init.handle(at(1), ready(13, session));
        assert!(
            told(&actions)[0].starts_with("READY=1 came from pid 13, which isn't alpha's own process"),
            "{actions:?}"
        );
        assert!(!init.view(0).unwrap().notified);
        assert!(init.handle(at(2), ready(13, session)).is_empty());
        let _ = init.handle(at(3), Event::Signal(Signal::USR1));
        let _ = gone(&mut init, 3, 0, 10, End::Code(0));
        up(&mut init, 3, 0, 12);
        assert_eq!(init.handle(at(4), ready(13, session.map(|_| 12))).len(), 1);
    }
}

#[test]
fn a_ready_of_a_process_that_init_does_not_see_is_not_told() {
    assert!(notifying().handle(at(1), ready(0, None)).is_empty());
}

#[test]
fn a_ready_that_comes_before_the_exec_is_told_counts() {
    let mut init = starting();
    let _ = init.handle(at(1), ready(11, Some(11)));
    let _ = init.handle(at(1), Event::Executed { daemon: 0, pid: 11 });
    assert!(init.view(0).unwrap().notified);
}
