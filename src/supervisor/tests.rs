use super::*;

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
    let mut core = Supervisor::new(&table(), &[0, 1]);
    let _ = core.handle(at(0), Event::Begin);
    let _ = core.handle(at(0), Event::Started { daemon: 0, pid: 10 });
    let _ = core.handle(at(0), Event::Started { daemon: 1, pid: 11 });
    core
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
    let mut core = running();
    let _ = core.handle(at(1), Event::Ended { pid: 10, end: End::Code(0), oom_kills: 0 });
    let actions = core.handle(at(2), Event::Ended { pid: 11, end: End::Code(0), oom_kills: 0 });
    assert_eq!(acts(actions), [Action::KillGroup(11), Action::Reap(11), Action::Exit(0)]);
}

#[test]
fn a_crash_starts_no_shutdown_and_siblings_live() {
    let mut core = running();
    let actions = core.handle(at(1), Event::Ended { pid: 10, end: End::Code(1), oom_kills: 0 });
    assert_eq!(acts(actions), [Action::KillGroup(10), Action::Reap(10)]);
    assert_eq!(core.state(), InitState::Running);
    assert_eq!(core.next(), None);
}

#[test]
fn a_crash_and_then_term_exits_with_the_crashers_code() {
    let mut core = running();
    let _ = core.handle(at(1), Event::Ended { pid: 10, end: End::Code(1), oom_kills: 0 });
    let actions = acts(core.handle(at(2), Event::Stop));
    assert_eq!(actions, [Action::Kill { pid: 11, signal: TERM }, Action::Kill { pid: 11, signal: CONT }]);
    let actions = acts(core.handle(at(3), Event::Ended { pid: 11, end: End::Signal(TERM), oom_kills: 0 }));
    assert_eq!(actions.last(), Some(&Action::Exit(1)));
}

#[test]
fn all_that_die_unattended_exit_with_the_maximum() {
    let mut core = running();
    let _ = core.handle(at(1), Event::Ended { pid: 10, end: End::Code(3), oom_kills: 0 });
    let actions = acts(core.handle(at(2), Event::Ended { pid: 11, end: End::Signal(11), oom_kills: 0 }));
    assert_eq!(actions.last(), Some(&Action::Exit(139)));
}

#[test]
fn a_restart_replaces_in_place_once_the_old_group_is_gone() {
    let mut core = running();
    let actions = acts(core.handle(at(1), Event::Signal(Signal::USR1)));
    assert_eq!(actions, [Action::Kill { pid: 11, signal: TERM }, Action::Kill { pid: 11, signal: CONT }]);
    let actions = acts(core.handle(at(2), Event::Ended { pid: 11, end: End::Signal(TERM), oom_kills: 0 }));
    assert_eq!(actions, [Action::KillGroup(11), Action::Reap(11), Action::LookAtMembers { daemon: 1, sid: 11 }]);
    assert!(acts(core.handle(at(2), Event::Members { daemon: 1, sid: 11, pids: vec![13] })).is_empty());
    assert_eq!(acts(core.handle(at(7), Event::Members { daemon: 1, sid: 11, pids: vec![] })), [Action::Start(1)]);
    let _ = core.handle(at(8), Event::Started { daemon: 1, pid: 12 });
    let view = core.view(1).unwrap();
    assert_eq!((view.pid, view.generation, view.restarts), (Some(12), 2, 1));
    assert_eq!(core.last(1).unwrap().outcome, Outcome::Restarted);
    assert_eq!(core.view(0).unwrap().pid, Some(10));
}

#[test]
fn a_replacement_starts_after_2_s_even_if_the_old_group_is_not_gone() {
    let mut core = running();
    let _ = core.handle(at(0), Event::Signal(Signal::USR1));
    let _ = core.handle(at(0), Event::Ended { pid: 11, end: End::Code(0), oom_kills: 0 });
    assert!(acts(core.handle(at(1999), Event::Members { daemon: 1, sid: 11, pids: vec![13] })).is_empty());
    assert_eq!(acts(core.handle(at(2000), Event::Members { daemon: 1, sid: 11, pids: vec![13] })), [Action::Start(1)]);
}

#[test]
fn a_second_restart_request_sends_no_second_term_and_moves_no_deadline() {
    let mut core = running();
    let _ = core.handle(at(0), Event::Signal(Signal::USR1));
    assert!(acts(core.handle(at(5000), Event::Signal(Signal::USR1))).is_empty());
    assert_eq!(core.next(), Some(at(8000)));
    assert_eq!(core.last(1).unwrap().seq, 2);
}

#[test]
fn a_restart_during_a_shutdown_is_a_no_op_and_nothing_is_started() {
    let mut core = running();
    let _ = core.handle(at(0), Event::Signal(Signal::USR1));
    let _ = core.handle(at(1), Event::Stop);
    assert!(acts(core.handle(at(2), Event::Signal(Signal::USR1))).is_empty());
    assert_eq!(core.last(1).unwrap().outcome, Outcome::Refused);
    let actions = acts(core.handle(at(3), Event::Ended { pid: 11, end: End::Signal(TERM), oom_kills: 0 }));
    assert_eq!(actions, [Action::KillGroup(11), Action::Reap(11)]);
    let actions = acts(core.handle(at(4), Event::Ended { pid: 10, end: End::Signal(TERM), oom_kills: 0 }));
    assert_eq!(actions.last(), Some(&Action::Exit(143)));
}

#[test]
fn a_daemon_that_ignores_term_is_killed_at_the_grace_and_its_minus_9_shows() {
    let mut core = Supervisor::new(&table(), &[1]);
    let _ = core.handle(at(0), Event::Begin);
    let _ = core.handle(at(0), Event::Started { daemon: 0, pid: 11 });
    let _ = core.handle(at(100), Event::Stop);
    assert!(acts(core.handle(at(8099), Event::Time)).is_empty());
    assert_eq!(acts(core.handle(at(8100), Event::Time)), [Action::Kill { pid: 11, signal: KILL }]);
    assert_eq!(core.next(), None);
    let actions = acts(core.handle(at(8101), Event::Ended { pid: 11, end: End::Signal(KILL), oom_kills: 0 }));
    assert_eq!(actions.last(), Some(&Action::Exit(137)));
}

#[test]
fn a_second_shutdown_request_never_moves_the_deadline() {
    let mut core = running();
    let _ = core.handle(at(0), Event::Stop);
    assert!(acts(core.handle(at(4000), Event::Stop)).is_empty());
    assert_eq!(core.next(), Some(at(8000)));
}

#[test]
fn a_forward_is_held_until_the_daemon_takes_it_and_reaches_it_alone() {
    let mut core = running();
    let look = Action::LookAtMask { daemon: 0, pid: 10, signal: Signal::HUP };
    assert_eq!(acts(core.handle(at(0), Event::Signal(Signal::HUP))), std::slice::from_ref(&look));
    let mask = |disposition| Event::Mask { daemon: 0, pid: 10, signal: Signal::HUP, disposition };
    assert!(acts(core.handle(at(0), mask(Disposition::NotTaken))).is_empty());
    assert_eq!(acts(core.handle(at(20), Event::Time)), [look]);
    let actions = acts(core.handle(at(20), mask(Disposition::Taken)));
    assert_eq!(actions, [Action::Kill { pid: 10, signal: 1 }]);
    assert_eq!(core.last(0).unwrap().outcome, Outcome::Delivered);
    assert_eq!(core.next(), None);
}

#[test]
fn a_forward_that_is_never_caught_is_dropped_after_20_s_and_said_so() {
    let mut core = running();
    let _ = core.handle(at(0), Event::Signal(Signal::HUP));
    let mask = Event::Mask { daemon: 0, pid: 10, signal: Signal::HUP, disposition: Disposition::NotTaken };
    assert!(acts(core.handle(at(20_000), mask)).is_empty());
    assert_eq!(core.last(0).unwrap().outcome, Outcome::NeverCaught);
}

#[test]
fn a_forward_that_the_kernel_refuses_is_told_as_failed_and_a_reload_is_no_answer_to_it() {
    let mut core = running();
    let _ = core.handle(at(0), Event::Signal(Signal::HUP));
    let taken = Event::Mask { daemon: 0, pid: 10, signal: Signal::HUP, disposition: Disposition::Taken };
    let _ = core.handle(at(0), taken);
    let _ = core.handle(at(1), Event::NotSent { pid: 10, signal: 1 });
    let _ = core.handle(at(2), Event::Notify { pid: 10, ready: true, reloading: Some(1_500), errno: 0, session: None });
    let last = core.last(0).unwrap();
    assert_eq!((last.outcome, last.reload_errno), (Outcome::Failed, None));
    let _ = core.handle(at(3), Event::Signal(Signal::HUP));
    assert_eq!(core.last(0).unwrap().outcome, Outcome::Held);
}

#[test]
fn a_daemon_that_can_not_be_killed_fails_its_restart_and_runs_on_and_the_next_restart_tries_again() {
    let mut core = running();
    let _ = core.handle(at(0), Event::Signal(Signal::USR1));
    let _ = core.handle(at(0), Event::NotSent { pid: 11, signal: TERM });
    assert_eq!(acts(core.handle(at(8000), Event::Time)), [Action::Kill { pid: 11, signal: KILL }]);
    assert!(acts(core.handle(at(8000), Event::NotSent { pid: 11, signal: KILL })).is_empty());
    assert_eq!(core.last(1).unwrap().outcome, Outcome::Failed);
    assert_eq!((core.view(1).unwrap().state, core.view(1).unwrap().pid), (DaemonState::Running, Some(11)));
    let actions = acts(core.handle(at(9000), Event::Signal(Signal::USR1)));
    assert_eq!(actions, [Action::Kill { pid: 11, signal: TERM }, Action::Kill { pid: 11, signal: CONT }]);
}

#[test]
fn a_daemon_that_can_not_be_killed_holds_up_no_shutdown_beyond_its_grace() {
    let mut core = Supervisor::new(&table(), &[1]);
    let _ = core.handle(at(0), Event::Begin);
    let _ = core.handle(at(0), Event::Started { daemon: 0, pid: 11 });
    let _ = core.handle(at(0), Event::Stop);
    let _ = core.handle(at(8000), Event::Time);
    assert_eq!(acts(core.handle(at(8000), Event::NotSent { pid: 11, signal: KILL })), [Action::Exit(137)]);
}

#[test]
fn a_forward_to_a_daemon_that_is_not_selected_is_a_no_op() {
    let mut core = Supervisor::new(&table(), &[1]);
    let _ = core.handle(at(0), Event::Begin);
    let _ = core.handle(at(0), Event::Started { daemon: 0, pid: 11 });
    assert!(acts(core.handle(at(1), Event::Signal(Signal::HUP))).is_empty());
    assert_eq!(core.last(0).unwrap().outcome, Outcome::Refused);
}

#[test]
fn a_restart_of_a_daemon_that_is_not_selected_is_a_no_op() {
    let mut core = Supervisor::new(&table(), &[0]);
    let _ = core.handle(at(0), Event::Begin);
    let _ = core.handle(at(0), Event::Started { daemon: 0, pid: 10 });
    assert!(acts(core.handle(at(1), Event::Signal(Signal::USR1))).is_empty());
    assert_eq!(core.last(1).unwrap().outcome, Outcome::Refused);
}

#[test]
fn a_shutdown_terminates_all() {
    let mut core = running();
    let kill = |pid, signal| Action::Kill { pid, signal };
    let all = [kill(10, TERM), kill(10, CONT), kill(11, TERM), kill(11, CONT)];
    assert_eq!(acts(core.handle(at(0), Event::Stop)), all);
    let _ = core.handle(at(1), Event::Ended { pid: 11, end: End::Signal(TERM), oom_kills: 0 });
    let actions = acts(core.handle(at(2), Event::Ended { pid: 10, end: End::Signal(TERM), oom_kills: 0 }));
    assert_eq!(actions.last(), Some(&Action::Exit(143)));
}

#[test]
fn asked_to_stop_before_any_daemon_ran_exits_143_and_starts_nothing() {
    let mut core = Supervisor::new(&table(), &[0, 1]);
    let _ = core.handle(at(0), Event::Stop);
    assert_eq!(acts(core.handle(at(0), Event::Begin)), [Action::Exit(143)]);
}

#[test]
fn a_restart_that_was_pending_at_the_start_does_nothing_more() {
    let mut core = Supervisor::new(&table(), &[1]);
    let _ = core.handle(at(0), Event::Signal(Signal::USR1));
    assert_eq!(acts(core.handle(at(0), Event::Begin)), [Action::Start(0)]);
    assert!(acts(core.handle(at(1), Event::Started { daemon: 0, pid: 11 })).is_empty());
    assert_eq!(core.last(1).unwrap().outcome, Outcome::Restarted);
    assert_eq!(core.view(0).unwrap().restarts, 0);
}

#[test]
fn a_dead_daemon_is_simply_started_by_a_restart() {
    let mut core = running();
    let _ = core.handle(at(0), Event::Ended { pid: 11, end: End::Code(1), oom_kills: 0 });
    let actions = acts(core.handle(at(3000), Event::Signal(Signal::USR1)));
    assert_eq!(actions, [Action::LookAtMembers { daemon: 1, sid: 11 }]);
    assert_eq!(acts(core.handle(at(3000), Event::Members { daemon: 1, sid: 11, pids: vec![] })), [Action::Start(1)]);
}

#[test]
fn a_reload_counts_only_where_it_began_after_the_signal_was_delivered() {
    let mut core = running();
    let _ = core.handle(at(5), Event::Signal(Signal::HUP));
    let taken = Event::Mask { daemon: 0, pid: 10, signal: Signal::HUP, disposition: Disposition::Taken };
    let _ = core.handle(at(5), taken);
    let reload = |usec| Event::Notify { pid: 10, ready: false, reloading: Some(usec), errno: 0, session: None };
    let done = Event::Notify { pid: 10, ready: true, reloading: None, errno: 22, session: None };
    let _ = core.handle(at(6), reload(4_000));
    let _ = core.handle(at(6), done.clone());
    assert_eq!(core.last(0).unwrap().reload_errno, None);
    let _ = core.handle(at(7), reload(5_500));
    let _ = core.handle(at(7), done);
    assert_eq!(core.last(0).unwrap().reload_errno, Some(22));
}

#[test]
fn a_restart_counts_once_its_replacement_is_started_and_not_where_a_shutdown_came_between() {
    let mut core = running();
    let _ = core.handle(at(1), Event::Signal(Signal::USR1));
    assert_eq!(core.view(1).unwrap().restarts, 0);
    let _ = core.handle(at(2), Event::Stop);
    let _ = core.handle(at(3), Event::Ended { pid: 11, end: End::Signal(TERM), oom_kills: 0 });
    let view = core.view(1).unwrap();
    assert_eq!((view.generation, view.restarts), (1, 0));
}

#[test]
fn a_forward_with_always_that_was_pending_at_the_start_is_sent_once_its_daemon_runs() {
    let text = "[[daemon]]\nname = \"alpha\"\ncommand = [\"a\"]\n[signals]\nHUP = { forward = \"alpha\", when = \"always\" }\n";
    let mut core = Supervisor::new(&Table::parse(text, "test").unwrap(), &[0]);
    let _ = core.handle(at(0), Event::Signal(Signal::HUP));
    assert_eq!(acts(core.handle(at(0), Event::Begin)), [Action::Start(0)]);
    let actions = acts(core.handle(at(1), Event::Started { daemon: 0, pid: 10 }));
    assert_eq!(actions, [Action::Kill { pid: 10, signal: 1 }]);
    assert_eq!(core.last(0).unwrap().outcome, Outcome::Delivered);
    assert_eq!(core.next(), None);
}

#[test]
fn a_restart_that_comes_together_with_the_last_death_starts_nothing_in_an_init_that_exits() {
    let mut core = Supervisor::new(&table(), &[1]);
    let _ = core.handle(at(0), Event::Begin);
    let _ = core.handle(at(0), Event::Started { daemon: 0, pid: 11 });
    let actions = acts(core.handle(at(1), Event::Ended { pid: 11, end: End::Code(3), oom_kills: 0 }));
    assert_eq!(actions.last(), Some(&Action::Exit(3)));
    assert!(acts(core.handle(at(1), Event::Signal(Signal::USR1))).is_empty());
    assert_eq!(core.last(1).unwrap().outcome, Outcome::Refused);
}

#[test]
fn a_reload_of_the_replacement_is_no_answer_to_a_signal_that_the_old_process_got() {
    let mut core = Supervisor::new(&table(), &[0]);
    let _ = core.handle(at(0), Event::Begin);
    let _ = core.handle(at(0), Event::Started { daemon: 0, pid: 10 });
    let _ = core.handle(at(1), Event::Signal(Signal::HUP));
    let taken = Event::Mask { daemon: 0, pid: 10, signal: Signal::HUP, disposition: Disposition::Taken };
    let _ = core.handle(at(1), taken);
    let _ = core.handle(at(2), Event::Ended { pid: 10, end: End::Signal(1), oom_kills: 0 });
    let _ = core.handle(at(3), Event::Started { daemon: 0, pid: 12 });
    let _ =
        core.handle(at(4), Event::Notify { pid: 12, ready: false, reloading: Some(3_500), errno: 0, session: None });
    let _ = core.handle(at(5), Event::Notify { pid: 12, ready: true, reloading: None, errno: 22, session: None });
    assert_eq!(core.last(0).unwrap().reload_errno, None);
}

#[test]
fn the_last_look_at_a_held_signal_is_no_later_than_its_20_s() {
    let mut core = running();
    let _ = core.handle(at(0), Event::Signal(Signal::HUP));
    let mask = Event::Mask { daemon: 0, pid: 10, signal: Signal::HUP, disposition: Disposition::NotTaken };
    let _ = core.handle(at(19_990), mask);
    assert_eq!(core.next(), Some(at(20_000)));
}

#[test]
fn the_last_look_at_an_old_group_is_no_later_than_its_2_s() {
    let mut core = running();
    let _ = core.handle(at(0), Event::Signal(Signal::USR1));
    let _ = core.handle(at(0), Event::Ended { pid: 11, end: End::Code(0), oom_kills: 0 });
    let _ = core.handle(at(1998), Event::Members { daemon: 1, sid: 11, pids: vec![13] });
    assert_eq!(core.next(), Some(at(2000)));
}

#[test]
fn a_daemon_that_blocks_every_signal_for_a_moment_as_a_fork_does_gets_no_forward_then() {
    let mut core = running();
    let mask = |disposition| Event::Mask { daemon: 0, pid: 10, signal: Signal::HUP, disposition };
    let _ = core.handle(at(0), Event::Signal(Signal::HUP));
    assert!(acts(core.handle(at(0), mask(Disposition::Blocked))).is_empty());
    assert!(acts(core.handle(at(20), mask(Disposition::NotTaken))).is_empty());
    // Far apart, and with a fork at each look: nothing is known.
    assert!(acts(core.handle(at(40), mask(Disposition::Blocked))).is_empty());
    for look in 1..49 {
        assert!(acts(core.handle(at(3_000 + 20 * look), mask(Disposition::Blocked))).is_empty());
    }
    // One that goes on blocking them takes them in its own way.
    assert_eq!(acts(core.handle(at(5_000), mask(Disposition::Blocked))), [Action::Kill { pid: 10, signal: 1 }]);
}

#[test]
fn an_end_that_nobody_asked_for_is_a_warning_in_the_log_and_one_that_was_asked_for_is_not() {
    let mut core = running();
    let level = |actions: Vec<Action>| {
        actions.into_iter().find_map(|a| if let Action::Tell(level, _) = a { Some(level) } else { None })
    };
    assert_eq!(level(core.handle(at(1), Event::Ended { pid: 10, end: End::Code(0), oom_kills: 0 })), Some(Level::Warn));
    let _ = core.handle(at(2), Event::Stop);
    assert_eq!(level(core.handle(at(3), Event::Ended { pid: 11, end: End::Code(0), oom_kills: 0 })), Some(Level::Info));
}

#[test]
fn an_old_group_is_looked_at_when_it_is_due_and_not_whenever_something_else_is() {
    let mut core = running();
    let _ = core.handle(at(0), Event::Signal(Signal::USR1));
    let _ = core.handle(at(0), Event::Ended { pid: 11, end: End::Code(0), oom_kills: 0 });
    let _ = core.handle(at(0), Event::Members { daemon: 1, sid: 11, pids: vec![13] });
    assert!(acts(core.handle(at(4), Event::Time)).is_empty());
    assert_eq!(acts(core.handle(at(5), Event::Time)), [Action::LookAtMembers { daemon: 1, sid: 11 }]);
}

#[test]
fn a_signal_that_is_held_for_a_daemon_before_its_start_wakes_nobody() {
    let mut core = Supervisor::new(&table(), &[0]);
    let _ = core.handle(at(0), Event::Signal(Signal::HUP));
    assert_eq!(core.next(), None);
    let _ = core.handle(at(0), Event::Begin);
    let _ = core.handle(at(7), Event::Started { daemon: 0, pid: 10 });
    assert_eq!(core.next(), Some(at(7)));
}

#[test]
fn a_core_without_daemons_exits_0_as_soon_as_it_begins() {
    let mut core = Supervisor::new(&table(), &[]);
    assert_eq!(acts(core.handle(at(0), Event::Begin)), [Action::Exit(0)]);
}
