//! Requests: restart, stop, start and signal by name.

use super::*;
use crate::status::RequestOutcome::{
    Delivered, Failed, Held, NeverCaught, NotRunning, Pending, Refused, Running, Started, Stopped, Superseded,
};

#[test]
fn a_requested_restart_is_pending_until_its_process_has_executed() {
    let mut init = running();
    let actions = ask(&mut init, 1, "a-1 restart beta");
    assert_eq!(told(&actions), ["request a-1: restart beta", "restarting beta"]);
    assert_eq!((acts(actions), outcome(&init, 1)), (asked(11).to_vec(), (Pending, None)));
    assert_eq!(gone(&mut init, 2, 1, 11, End::Code(0)).last(), Some(&Action::Start(1)));
    let _ = init.handle(at(3), Event::Started { daemon: 1, pid: 12 });
    assert_eq!(outcome(&init, 1), (Pending, Some(2)));
    let _ = init.handle(at(4), Event::Executed { daemon: 1, pid: 12 });
    assert_eq!(outcome(&init, 1), (Started, Some(2)));
    let request = init.view(1).unwrap().requests.remove(0);
    assert_eq!((request.id.as_str(), request.verb.as_str()), ("a-1", "restart"));
}

#[test]
fn a_replacement_that_can_not_be_executed_fails_its_request() {
    let mut init = running();
    let _ = ask(&mut init, 1, "1 restart beta");
    let _ = gone(&mut init, 2, 1, 11, End::Code(0));
    let _ = init.handle(at(3), Event::StartFailed { daemon: 1, code: 126, why: "no fork".to_owned() });
    assert_eq!((outcome(&init, 1), state(&init, 1)), ((Failed, Some(2)), DaemonState::Failed));
}

#[test]
fn a_stopped_daemon_keeps_the_bundle_up_until_a_request_starts_it() {
    let mut init = running();
    let actions = ask(&mut init, 1, "1 stop beta");
    assert_eq!(told(&actions), ["request 1: stop beta", "stopping beta"]);
    assert_eq!((acts(actions), outcome(&init, 1)), (asked(11).to_vec(), (Pending, None)));
    let actions = gone(&mut init, 2, 1, 11, End::Signal(TERM));
    assert_eq!(actions.last(), Some(&Action::Reap(11)));
    assert_eq!((outcome(&init, 1), state(&init, 1)), ((Stopped, None), DaemonState::Stopped));
    assert_eq!(gone(&mut init, 3, 0, 10, End::Code(0)).last(), Some(&Action::Reap(10)));
    assert_eq!(init.next(), None);
    assert_eq!(acts(ask(&mut init, 4, "2 start beta")), [Action::Start(1)]);
    up(&mut init, 4, 1, 12);
    assert_eq!((outcome(&init, 1), init.view(1).unwrap().restarts), ((Started, Some(2)), 1));
}

#[test]
fn a_shutdown_of_a_bundle_whose_daemons_are_stopped_exits_143() {
    let mut init = running();
    for (daemon, name, pid) in [(0, "alpha", 10), (1, "beta", 11)] {
        let _ = ask(&mut init, 1, &format!("1 stop {name}"));
        let _ = gone(&mut init, 2, daemon, pid, End::Signal(TERM));
    }
    assert_eq!(acts(init.handle(at(3), Event::Stop)), [Action::Exit(143)]);
}

#[test]
fn a_requested_stop_ends_once_the_members_have_ended() {
    let mut init = running();
    let _ = ask(&mut init, 1, "1 stop beta");
    let _ = init.handle(at(2), ended(11, End::Code(0)));
    let actions = acts(init.handle(at(2), left(1, 11, &[13])));
    assert_eq!(actions, [member(11, 13, TERM), member(11, 13, CONT), Action::Reap(11)]);
    assert_eq!((outcome(&init, 1), state(&init, 1)), ((Pending, None), DaemonState::Stopping));
    let _ = init.handle(at(3), left(1, 11, &[]));
    assert_eq!((outcome(&init, 1), state(&init, 1)), ((Stopped, None), DaemonState::Stopped));
}

#[test]
fn death_by_a_signal_that_was_not_requested_counts_as_killed_by_others() {
    let mut init = running();
    assert_eq!(acts(ask(&mut init, 1, "1 signal CONT alpha")), [kill(10, CONT)]);
    let _ = gone(&mut init, 2, 0, 10, End::Signal(11));
    assert_eq!(gone(&mut init, 3, 1, 11, End::Code(0)).last(), Some(&Action::Exit(128 + 11)));
}

#[test]
fn each_process_that_a_daemon_leaves_is_asked_to_stop_once() {
    let mut init = running();
    let _ = ask(&mut init, 1, "1 stop beta");
    let _ = init.handle(at(2), ended(11, End::Code(0)));
    let _ = init.handle(at(2), left(1, 11, &[12, 13]));
    let look = init.next();
    let _ = init.handle(at(3), ended(12, End::Code(0)));
    let _ = init.handle(at(3), ended(99, End::Code(0)));
    // The end of one of several is no reason to look at once, and neither is a stranger's.
    assert_eq!(init.next(), look);
    assert!(acts(init.handle(at(10), left(1, 11, &[13]))).is_empty());
}

#[test]
fn a_stop_that_leaves_nobody_says_nothing_of_processes_that_are_left() {
    let mut init = running();
    let _ = ask(&mut init, 1, "1 stop beta");
    let _ = init.handle(at(2), ended(11, End::Code(0)));
    let actions = init.handle(at(2), left(1, 11, &[]));
    assert!(told(&actions).iter().all(|line| !line.contains("left")), "{actions:?}");
}

#[test]
fn an_orphans_end_does_not_hurry_the_next_look_at_a_session() {
    let mut init = running();
    let _ = ask(&mut init, 1, "1 stop beta");
    let _ = init.handle(at(2), ended(11, End::Code(0)));
    let look = init.next();
    let _ = init.handle(at(3), ended(99, End::Code(0)));
    assert_eq!(init.next(), look);
}

#[test]
fn starting_a_running_or_stopping_a_stopped_daemon_does_nothing() {
    let mut init = running();
    assert!(acts(ask(&mut init, 1, "1 start beta")).is_empty());
    assert_eq!(outcome(&init, 1), (Running, Some(1)));
    let _ = gone(&mut init, 2, 1, 11, End::Code(3));
    assert!(acts(ask(&mut init, 3, "2 stop beta")).is_empty());
    assert_eq!((outcome(&init, 1), state(&init, 1)), ((NotRunning, None), DaemonState::Exited));
}

#[test]
fn a_stop_in_backoff_cancels_the_next_start() {
    let mut init = up_all("[[daemon]]\nname = \"alpha\"\ncommand = [\"a\"]\nrestart = \"always\"\n");
    let _ = gone(&mut init, 0, 0, 10, End::Code(1));
    let _ = ask(&mut init, 50, "1 stop alpha");
    assert_eq!((outcome(&init, 0), state(&init, 0), init.next()), ((Stopped, None), DaemonState::Stopped, None));
}

#[test]
fn a_daemon_that_is_stopped_is_not_started_by_its_policy() {
    let mut init = up_all("[[daemon]]\nname = \"alpha\"\ncommand = [\"a\"]\nrestart = \"always\"\n");
    let _ = ask(&mut init, 0, "1 stop alpha");
    let _ = gone(&mut init, 1, 0, 10, End::Code(1));
    assert_eq!((state(&init, 0), init.next()), (DaemonState::Stopped, None));
}

#[test]
fn the_latest_request_supersedes_the_one_whose_end_it_changes() {
    let mut init = running();
    let _ = ask(&mut init, 0, "1 restart beta");
    assert!(acts(ask(&mut init, 1, "2 stop beta")).is_empty(), "no second stop signal");
    assert!(acts(ask(&mut init, 2, "3 start beta")).is_empty());
    assert!(acts(ask(&mut init, 3, "4 restart beta")).is_empty());
    assert_eq!(acts(pass(&mut init, 8000)), [kill(11, KILL)], "no deadline moves");
    assert_eq!(gone(&mut init, 8001, 1, 11, End::Signal(KILL)).last(), Some(&Action::Start(1)));
    up(&mut init, 8002, 1, 12);
    let requests: Vec<_> = init.view(1).unwrap().requests.iter().map(|r| (r.outcome, r.generation)).collect();
    assert_eq!(requests, [(Superseded, None), (Superseded, None), (Started, Some(2)), (Started, Some(2))]);
}

#[test]
fn a_stop_of_one_whose_exec_is_under_way_ends_as_any_other() {
    let mut init = starting();
    assert_eq!(acts(ask(&mut init, 1, "1 stop beta")), asked(11));
    let actions = acts(init.handle(at(2), ended(11, End::Signal(TERM))));
    assert_eq!(actions, [Action::KillGroup(11), Action::Reap(11)]);
    assert_eq!((outcome(&init, 0), state(&init, 0)), ((Stopped, None), DaemonState::Stopped));
}

#[test]
fn a_stop_refuses_a_wired_restart_that_is_under_way() {
    let mut init = running();
    let _ = init.handle(at(0), Event::Signal(Signal::USR1));
    let _ = ask(&mut init, 1, "1 stop beta");
    assert_eq!(init.last(1).unwrap().outcome, Outcome::Refused);
    assert_eq!(gone(&mut init, 2, 1, 11, End::Code(0)).last(), Some(&Action::Reap(11)));
}

#[test]
fn a_daemon_that_can_not_be_killed_fails_the_stop_and_runs_on() {
    let mut init = running();
    let _ = ask(&mut init, 0, "1 stop beta");
    let _ = pass(&mut init, 8000);
    let _ = init.handle(at(8000), Event::NotSent { pid: 11, signal: KILL });
    assert_eq!((outcome(&init, 1), state(&init, 1)), ((Failed, None), DaemonState::Running));
}

#[test]
fn a_signal_on_request_is_held_until_the_daemon_catches_it() {
    let mut init = running();
    let look = Action::LookAtMask { daemon: 0, pid: 10, signal: Signal::USR2 };
    assert_eq!(acts(ask(&mut init, 0, "1 signal USR2 alpha")), [look]);
    assert_eq!(outcome(&init, 0), (Held, None));
    let mask = |disposition| Event::Mask { daemon: 0, pid: 10, signal: Signal::USR2, disposition };
    let _ = init.handle(at(0), mask(Disposition::NotTaken));
    assert_eq!(acts(init.handle(at(20), mask(Disposition::Taken))), [kill(10, 12)]);
    assert_eq!((outcome(&init, 0), init.next()), ((Delivered, Some(1)), None));
    let _ = ask(&mut init, 30, "2 signal USR2 alpha");
    let _ = init.handle(at(20_030), mask(Disposition::NotTaken));
    assert_eq!(outcome(&init, 0), (NeverCaught, None));
}

#[test]
fn a_signal_that_can_not_be_caught_or_ends_no_process_is_sent_at_once() {
    for (name, number) in [("WINCH", 28), ("URG", 23), ("CHLD", 17), ("TSTP", 20), ("TTIN", 21), ("TTOU", 22)] {
        let mut init = running();
        assert_eq!(acts(ask(&mut init, 0, &format!("1 signal {name} alpha"))), [kill(10, number)]);
        assert_eq!(outcome(&init, 0), (Delivered, Some(1)));
    }
}

#[test]
fn one_delivery_of_a_signal_serves_all_who_wait_for_it() {
    let mut init = running();
    let _ = init.handle(at(0), Event::Signal(Signal::HUP));
    assert!(acts(ask(&mut init, 1, "1 signal HUP alpha")).is_empty());
    let taken = Event::Mask { daemon: 0, pid: 10, signal: Signal::HUP, disposition: Disposition::Taken };
    assert_eq!(acts(init.handle(at(2), taken)), [kill(10, 1)]);
    assert_eq!((init.last(0).unwrap().outcome, outcome(&init, 0)), (Outcome::Delivered, (Delivered, Some(1))));
}

#[test]
fn a_held_signal_on_request_ends_with_the_process_that_it_was_for() {
    let mut init = running();
    let _ = ask(&mut init, 0, "1 signal USR2 alpha");
    let _ = gone(&mut init, 1, 0, 10, End::Code(0));
    assert_eq!(outcome(&init, 0), (Refused, None));
}

#[test]
fn a_signal_that_the_kernel_refuses_has_failed_and_earlier_ones_have_not() {
    let mut init = running();
    let _ = ask(&mut init, 0, "1 signal WINCH alpha");
    let _ = ask(&mut init, 0, "2 signal WINCH alpha");
    let _ = init.handle(at(0), Event::NotSent { pid: 10, signal: 28 });
    let outcomes: Vec<_> = init.view(0).unwrap().requests.iter().map(|r| r.outcome).collect();
    assert_eq!(outcomes, [Delivered, Failed]);
}

#[test]
fn a_signal_to_one_that_does_not_run_or_is_stopping_is_refused() {
    let mut init = running();
    let _ = gone(&mut init, 0, 0, 10, End::Code(1));
    let actions = ask(&mut init, 1, "1 signal HUP alpha");
    assert_eq!(told(&actions)[1], "request 1: signal HUP alpha: it isn't running; nothing was done");
    let _ = ask(&mut init, 1, "2 stop beta");
    let _ = ask(&mut init, 1, "3 signal WINCH beta");
    assert_eq!((outcome(&init, 0), outcome(&init, 1)), ((Refused, None), (Refused, None)));
}

#[test]
fn the_page_tells_why_a_request_was_refused() {
    let why = |init: &Supervisor, daemon: usize| init.view(daemon).unwrap().requests.pop().unwrap().why;
    let mut init = running();
    let _ = ask(&mut init, 0, "1 signal HUP alpha");
    assert_eq!(why(&init, 0), None);
    let _ = ask(&mut init, 1, "2 stop beta");
    let _ = ask(&mut init, 1, "3 signal HUP beta");
    assert_eq!(why(&init, 1).as_deref(), Some("it is stopping"));
    let _ = init.handle(at(2), Event::Stop);
    assert_eq!(why(&init, 0).as_deref(), Some("a shutdown is under way"), "it was held");
    let _ = ask(&mut init, 3, "4 start alpha");
    assert_eq!(why(&init, 0).as_deref(), Some("a shutdown is under way"));
}

#[test]
fn a_signal_to_a_dead_daemon_is_refused_even_if_its_members_live() {
    let mut init = running();
    let _ = init.handle(at(1), ended(11, End::Code(1)));
    let _ = init.handle(at(1), left(1, 11, &[13]));
    let _ = ask(&mut init, 2, "1 signal HUP beta");
    assert_eq!(init.view(1).unwrap().requests.pop().unwrap().why.as_deref(), Some("it isn't running"));
}

#[test]
fn a_signal_to_one_that_waits_is_refused_because_it_waits() {
    let mut init = begun(
        "[[daemon]]\nname = \"db\"\ncommand = [\"d\"]\n[[daemon]]\nname = \"web\"\ncommand = [\"w\"]\ndepends_on = [\"db\"]\n",
    )
    .0;
    let _ = ask(&mut init, 0, "1 signal HUP web");
    let request = init.view(1).unwrap().requests.pop().unwrap();
    assert_eq!((request.outcome, request.why.as_deref()), (Refused, Some("it waits for its dependencies")));
}

#[test]
fn death_by_a_requested_signal_is_a_failure_but_not_in_the_exit_code() {
    let mut init = up_all("[[daemon]]\nname = \"alpha\"\ncommand = [\"a\"]\nrestart = \"on-failure\"\n");
    let _ = ask(&mut init, 0, "1 signal USR2 alpha");
    let taken = Event::Mask { daemon: 0, pid: 10, signal: Signal::USR2, disposition: Disposition::Taken };
    let _ = init.handle(at(0), taken);
    let _ = gone(&mut init, 1, 0, 10, End::Signal(12));
    let view = init.view(0).unwrap();
    assert_eq!((view.state, view.last_exit.unwrap().by_init), (DaemonState::Backoff, false));
    assert_eq!(acts(init.handle(at(2), Event::Stop)), [Action::Exit(140)]);
    // With a sibling that exited 0 its -12 is no maximum.
    let mut init = running();
    let _ = ask(&mut init, 0, "1 signal WINCH alpha");
    let _ = gone(&mut init, 1, 0, 10, End::Signal(28));
    assert_eq!(gone(&mut init, 2, 1, 11, End::Code(0)).last(), Some(&Action::Exit(0)));
}

#[test]
fn a_signal_sent_to_one_process_does_not_explain_the_death_of_the_next() {
    let mut init = running();
    let _ = ask(&mut init, 0, "1 signal WINCH beta");
    let _ = init.handle(at(0), Event::Signal(Signal::USR1));
    let _ = gone(&mut init, 0, 1, 11, End::Code(0));
    up(&mut init, 0, 1, 12);
    let _ = gone(&mut init, 1, 1, 12, End::Signal(28));
    assert_eq!(gone(&mut init, 2, 0, 10, End::Code(0)).last(), Some(&Action::Exit(156)));
}

#[test]
fn requests_in_a_shutdown_are_refused_and_a_restart_under_way_is_too() {
    let mut init = running();
    let _ = ask(&mut init, 0, "1 restart alpha");
    let _ = ask(&mut init, 0, "2 stop beta");
    let _ = init.handle(at(1), Event::Stop);
    assert_eq!((outcome(&init, 0), outcome(&init, 1)), ((Refused, None), (Pending, None)));
    let why = |init: &Supervisor| init.view(0).unwrap().requests.pop().unwrap().why;
    assert_eq!(why(&init).as_deref(), Some("a shutdown is under way"));
    let actions = ask(&mut init, 2, "3 start alpha");
    assert_eq!(told(&actions), ["request 3: start alpha: a shutdown is under way; nothing was done"]);
    let _ = gone(&mut init, 3, 1, 11, End::Signal(TERM));
    assert_eq!((outcome(&init, 0), outcome(&init, 1)), ((Refused, None), (Stopped, None)));
}

#[test]
fn the_last_8_requests_are_kept_and_those_that_are_undecided() {
    let mut init = running();
    let _ = ask(&mut init, 0, "held signal USR2 alpha");
    for id in 0..20 {
        let _ = ask(&mut init, 0, &format!("{id} start alpha"));
    }
    let ids: Vec<String> = init.view(0).unwrap().requests.into_iter().map(|r| r.id).collect();
    assert_eq!(ids, ["held", "13", "14", "15", "16", "17", "18", "19"]);
}

#[test]
fn however_many_requests_are_undecided_the_latest_one_is_served() {
    let mut init = running();
    for id in 0..1000 {
        let _ = ask(&mut init, 0, &format!("{id} signal USR2 alpha"));
    }
    let requests = init.view(0).unwrap().requests;
    assert!(requests.len() < 100, "{}", requests.len());
    assert_eq!(requests.first().map(|first| first.outcome), Some(Superseded));
    assert_eq!(acts(ask(&mut init, 0, "1000 stop alpha")), asked(10));
}

#[test]
fn requests_that_come_to_nothing_are_logged_at_most_once_a_second() {
    let mut init = running();
    let stray = |requests| format!("{requests} ignored: not a request, or for no selected daemon");
    assert_eq!(told(&init.handle(at(0), Event::Request(None))), [stray("1 request")]);
    assert!(ask(&mut init, 10, "1 stop nobody").is_empty());
    assert!(init.handle(at(20), Event::Request(None)).is_empty());
    assert_eq!(init.next(), Some(at(1000)));
    assert_eq!(told(&pass(&mut init, 1000)), [stray("2 requests")]);
    assert_eq!(init.next(), None);
}

#[test]
fn a_restart_runs_a_oneshot_that_is_done_again() {
    let mut init = up_all(
        "[[daemon]]\nname = \"setup\"\ncommand = [\"s\"]\noneshot = true\n[[daemon]]\nname = \"b\"\ncommand = [\"b\"]\n",
    );
    let _ = gone(&mut init, 1, 0, 10, End::Code(0));
    assert_eq!(state(&init, 0), DaemonState::Done);
    assert_eq!(acts(ask(&mut init, 2, "1 restart setup")), [Action::Start(0)]);
    up(&mut init, 2, 0, 12);
    assert_eq!((outcome(&init, 0), state(&init, 0)), ((Started, Some(2)), DaemonState::Running));
}

#[test]
fn a_start_of_one_whose_exec_is_under_way_is_decided_by_that_exec() {
    let mut init = starting();
    let _ = ask(&mut init, 1, "1 start beta");
    assert_eq!(outcome(&init, 0), (Pending, Some(1)));
    let _ = init.handle(at(2), Event::Executed { daemon: 0, pid: 11 });
    assert_eq!(outcome(&init, 0), (Started, Some(1)));
}

#[test]
fn a_wired_restart_tells_the_generation_that_it_started() {
    let mut init = running();
    let _ = init.handle(at(0), Event::Signal(Signal::USR1));
    assert_eq!(init.last(1).unwrap().generation, None);
    let _ = gone(&mut init, 1, 1, 11, End::Code(0));
    up(&mut init, 1, 1, 12);
    assert_eq!(init.last(1).unwrap().generation, Some(2));
    let _ = init.handle(at(2), Event::Signal(Signal::USR1));
    assert_eq!(init.last(1).unwrap().generation, None);
}

/// A kernel in which every exec works at once, and is told only to who asks. Of a session that has lost its leader, it lets init
/// kill the processes with an even number; those below 14 have ended meanwhile.
#[derive(Default)]
struct Quick {
    pid: i32,
    ended: Option<Ended>,
    members: Vec<i32>,
    told: Vec<String>,
}

impl System for Quick {
    fn now(&mut self) -> Moment {
        at(0)
    }
    fn start(&mut self, daemon: usize, _: u64) -> Event {
        self.pid += 1;
        Event::Started { daemon, pid: self.pid }
    }
    fn probe(&mut self, daemon: usize) -> Event {
        Event::ProbeFailed { daemon, why: String::new() }
    }
    fn kill(&mut self, _: i32, _: i32) -> Sent {
        Sent::Yes
    }
    fn exec_outcome(&mut self, daemon: usize, pid: i32) -> Option<Event> {
        Some(Event::Executed { daemon, pid })
    }
    fn kill_member(&mut self, _: i32, pid: i32, _: i32) -> Sent {
        match pid {
            ..14 => Sent::Gone,
            _ if pid % 2 == 0 => Sent::Yes,
            _ => Sent::Refused,
        }
    }
    fn members(&mut self, _: i32) -> Vec<i32> {
        std::mem::take(&mut self.members)
    }
    fn ended(&mut self, _: impl Fn(i32) -> bool) -> Option<Ended> {
        self.ended.take()
    }
    fn reap(&mut self, _: i32) {}
    fn disposition(&mut self, _: i32, _: Signal) -> Disposition {
        Disposition::NotTaken
    }
    fn tell(&mut self, line: Line) {
        self.told.push(line.text);
    }
    fn changed(&mut self, _: &Supervisor) {}
}

#[test]
fn an_exec_before_a_request_counts_even_if_its_report_is_still_unread() {
    let mut init = Supervisor::new(&table(), &[1]);
    let request = crate::request::Request::parse(b"1 start beta");
    let _ = init.take(&mut Quick { pid: 10, ..Quick::default() }, [Event::Begin, Event::Request(request)]);
    assert_eq!(outcome(&init, 0), (Running, Some(1)));
}

#[test]
fn only_processes_that_the_kernel_let_init_kill_count_as_killed() {
    let mut init = Supervisor::new(&table(), &[1]);
    let mut system = Quick { pid: 10, ..Quick::default() };
    let _ = init.take(&mut system, [Event::Begin]);
    (system.members, system.told) = (vec![12, 13, 14, 15], Vec::new());
    system.ended = Some(Ended { pid: 11, end: End::Code(1), oom_kills: 0, words: String::new() });
    let _ = init.take_ended(&mut system);
    let told = ["1 process (pid 15) of beta can't be killed", "1 process (pid 14) of beta was left and was killed"];
    assert_eq!(system.told[system.told.len() - 2..], told);
}
