//! Whether a change is live, judged from what init's status page shows. No I/O, no clock: pages, results of probes
//! and the time come in, a verdict goes out.

use serde::{Deserialize, Serialize};

use crate::status::{Daemon, DaemonState, InitState, Last, Outcome, Page, Plan};
use crate::table::{Ready, Signal};
use crate::text::Plain;

/// While a daemon is ready and settles, it is asked again this often, in milliseconds.
const ASK_AGAIN_MS: u64 = 50;

/// What init does to the daemon on this signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    /// Replaces it.
    Restart,
    /// Passes the signal on.
    Forward,
}

/// One process of a daemon's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incarnation {
    /// `None` where there is none.
    pub pid: Option<i32>,
    /// Counts the daemon's starts.
    pub generation: u64,
}

/// What a signal is wired to, and how that stood before it was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// What init does.
    pub action: Act,
    /// To this daemon.
    pub daemon: Plain,
    /// Which stood so.
    pub before: Incarnation,
    /// How many signals of this kind init had served.
    pub seq: u64,
}

/// Why init would do nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// The table wires it to nothing.
    NotWired,
    /// The bundle is shutting down.
    Stopping,
    /// The daemon isn't selected in this bundle.
    NotSelected,
    /// A forward to a daemon that doesn't run.
    NotRunning,
}

/// How far it had come when it was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Short {
    /// init served no such signal.
    Unserved,
    /// init served it and did nothing.
    InitRefused,
    /// The bundle is shutting down.
    InitStopping,
    /// The old process, or what is left of its group, is still being ended.
    OldStopping,
    /// The daemon's process has ended.
    Dead {
        /// Its exit code, where it exited.
        code: Option<i32>,
        /// What killed it, where that did.
        signal: Option<i32>,
    },
    /// The replacement could not be executed.
    NotExecuted {
        /// 126 or 127.
        code: Option<i32>,
    },
    /// The process that should run does, but isn't ready.
    NotReady,
    /// It is ready, but has not been for its settling time.
    NotSettled,
    /// The signal still waits for the daemon's handler.
    Held,
    /// The signal was dropped: the daemon never caught it.
    NeverCaught,
    /// The daemon has the signal and hasn't said what it made of it.
    ReloadPending,
    /// The process that took the signal was replaced by another since.
    Replaced,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "finding", rename_all = "kebab-case")]
pub enum Finding {
    /// Seen to be live.
    Live,
    /// A forward to a daemon that can't say whether it obeyed.
    Delivered,
    /// The daemon refused the reload, by `ERRNO=`.
    ReloadRefused {
        /// Which.
        errno: i32,
    },
    /// Not seen to be live.
    Unproven(Short),
}

/// The helper's last line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// What came of it.
    #[serde(flatten)]
    pub finding: Finding,
    /// The daemon as it was seen last.
    pub after: Incarnation,
    /// Other daemons that got another process, or lost theirs, meanwhile.
    pub siblings_moved: Vec<Plain>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Look again; `probe`: ask the daemon whether it is ready, and bring the answer with the next page.
    Wait {
        /// Whether to ask.
        probe: bool,
    },
    /// It is settled.
    Done(Verdict),
}

/// What `signal` would do in this bundle.
///
/// # Errors
/// Why it would do nothing, and what it is wired to where it is.
pub fn target(page: &Page, signal: Signal) -> Result<Target, (Refusal, Option<Target>)> {
    let wired = page.status.signals.get(&signal.to_string());
    let (action, name, last) = match wired.map(|w| (&w.restart, &w.forward, w.last)) {
        Some((Some(name), None, last)) => (Act::Restart, name, last),
        Some((None, Some(name), last)) => (Act::Forward, name, last),
        _ => return Err((Refusal::NotWired, None)),
    };
    let daemon = find(page, name);
    let target = Target {
        action,
        daemon: Plain::new(name),
        before: daemon.map_or(Incarnation { pid: None, generation: 0 }, |(d, _)| incarnation(d)),
        seq: last.map_or(0, |last| last.seq),
    };
    let Some((daemon, _)) = daemon else { return Err((Refusal::NotSelected, Some(target))) };
    if page.status.state == InitState::Stopping {
        return Err((Refusal::Stopping, Some(target)));
    }
    if action == Act::Forward && daemon.state != DaemonState::Running {
        return Err((Refusal::NotRunning, Some(target)));
    }
    Ok(target)
}

/// What has become of a daemon that was proven in the process `after`; `None`: it still runs.
#[must_use]
pub fn undone(page: &Page, daemon: &str, after: Option<Incarnation>) -> Option<Finding> {
    let (now, _) = find(page, daemon)?;
    let runs = now.state == DaemonState::Running && after == Some(incarnation(now));
    let short = match now.state {
        DaemonState::Exited | DaemonState::Failed => ended(now),
        DaemonState::Starting | DaemonState::Running | DaemonState::Stopping => Short::Replaced,
    };
    (!runs).then_some(Finding::Unproven(short))
}

/// Looks for the proof that one signal took effect.
#[derive(Debug)]
pub struct Proof {
    signal: String,
    target: Target,
    /// The other daemons, as they stood before.
    siblings: Vec<(String, Incarnation)>,
    /// What is missing still, and the daemon as it was seen last.
    short: Short,
    after: Incarnation,
    moved: Vec<Plain>,
    /// Since when which generation has been ready without a break.
    ready_since: Option<(u64, u64)>,
    next_probe: u64,
    /// The generation that an outstanding probe asks.
    asked: Option<u64>,
}

impl Proof {
    /// Starts with the page that [`target`] was read from.
    #[must_use]
    pub fn new(page: &Page, signal: Signal, target: Target) -> Self {
        let others = page.status.daemons.iter().filter(|d| d.name != target.daemon.as_str());
        Self {
            signal: signal.to_string(),
            siblings: others.map(|d| (d.name.clone(), incarnation(d))).collect(),
            short: Short::Unserved,
            after: target.before,
            moved: Vec::new(),
            ready_since: None,
            next_probe: 0,
            asked: None,
            target,
        }
    }

    /// Takes a page in that was read at `now_ms`. `sent`: the host says that its signal is out; before that nothing
    /// counts, since what moves may be another's doing. `probe`: the answer that the last step asked for.
    #[must_use]
    pub fn observe(&mut self, now_ms: u64, page: &Page, sent: bool, probe: Option<bool>) -> Step {
        let asked = self.asked.take();
        self.moved = self.siblings.iter().filter(|(name, was)| now_of(page, name) != Some(*was)).map(name_of).collect();
        let Some((daemon, plan)) = find(page, self.target.daemon.as_str()) else { return Step::Wait { probe: false } };
        self.after = incarnation(daemon);
        if !sent {
            return Step::Wait { probe: false };
        }
        if page.status.state == InitState::Stopping {
            return self.done(Finding::Unproven(Short::InitStopping));
        }
        let last = page.status.signals.get(&self.signal).and_then(|wired| wired.last);
        let Some(last) = last.filter(|last| last.seq > self.target.seq) else {
            return self.wait(Short::Unserved);
        };
        if last.outcome == Outcome::Refused {
            return self.done(Finding::Unproven(Short::InitRefused));
        }
        let judged = match self.target.action {
            Act::Restart => self.restarted(last, daemon),
            Act::Forward => self.forwarded(last, daemon, plan),
        };
        match judged {
            Judged::Final(finding) => self.done(finding),
            Judged::NotYet(short) => self.wait(short),
            Judged::UpIs(finding) => {
                self.settle(now_ms, daemon, plan, probe.filter(|_| asked == Some(daemon.generation)), finding)
            }
        }
    }

    /// The daemon that it is about.
    #[must_use]
    pub fn daemon(&self) -> &str {
        self.target.daemon.as_str()
    }

    /// What is to be said where the time is up.
    #[must_use]
    pub fn give_up(&self) -> Verdict {
        self.verdict(Finding::Unproven(self.short))
    }

    fn restarted(&self, last: Last, daemon: &Daemon) -> Judged {
        if last.outcome == Outcome::Restarting || daemon.generation <= self.target.before.generation {
            return match last.outcome {
                // No start is counted: the kernel doesn't let init end the old process.
                Outcome::Failed => Judged::Final(Finding::Unproven(Short::InitRefused)),
                _ => Judged::NotYet(Short::OldStopping),
            };
        }
        match daemon.state {
            DaemonState::Running => Judged::UpIs(Finding::Live),
            // It may be the group of a process that died, or a further restart: either comes to an end.
            DaemonState::Stopping | DaemonState::Starting => Judged::NotYet(Short::OldStopping),
            DaemonState::Exited | DaemonState::Failed => Judged::Final(Finding::Unproven(ended(daemon))),
        }
    }

    fn forwarded(&self, last: Last, daemon: &Daemon, plan: &Plan) -> Judged {
        let dead = matches!(daemon.state, DaemonState::Exited | DaemonState::Failed);
        if dead {
            return Judged::Final(Finding::Unproven(ended(daemon)));
        }
        if daemon.generation != self.target.before.generation {
            return Judged::Final(Finding::Unproven(Short::Replaced));
        }
        match last.outcome {
            Outcome::Failed => return Judged::Final(Finding::Unproven(Short::InitRefused)),
            Outcome::NeverCaught => return Judged::Final(Finding::Unproven(Short::NeverCaught)),
            Outcome::Held => return Judged::NotYet(Short::Held),
            Outcome::Delivered if daemon.state == DaemonState::Running => {}
            // Its process is ending; how it ended is known in a moment.
            _ => return Judged::NotYet(Short::NotReady),
        }
        if plan.ready != Some(Ready::Notify) {
            return Judged::UpIs(Finding::Delivered);
        }
        match last.reload_errno {
            None => Judged::NotYet(Short::ReloadPending),
            Some(0) => Judged::UpIs(Finding::Live),
            Some(errno) => Judged::Final(Finding::ReloadRefused { errno }),
        }
    }

    /// The right process runs. It must be ready, and stay so for its settling time, to the end of which it is asked.
    fn settle(&mut self, now_ms: u64, daemon: &Daemon, plan: &Plan, probe: Option<bool>, finding: Finding) -> Step {
        let answer = match plan.ready {
            None => Some(true),
            Some(Ready::Notify) => Some(plan.notified),
            Some(Ready::Tcp(_) | Ready::Http { .. } | Ready::Exec(_)) => probe,
        };
        let since = self.ready_since.filter(|(generation, _)| *generation == daemon.generation);
        self.ready_since = match answer {
            Some(true) => Some(since.unwrap_or((daemon.generation, now_ms))),
            Some(false) => None,
            None => since,
        };
        let Some((_, since)) = self.ready_since else {
            self.short = Short::NotReady;
            self.asked = Some(daemon.generation);
            return Step::Wait { probe: true };
        };
        let settled_at = since.saturating_add(plan.settle_ms);
        if answer == Some(true) {
            if now_ms >= settled_at {
                return self.done(finding);
            }
            self.next_probe = settled_at.min(now_ms.saturating_add(ASK_AGAIN_MS));
        }
        self.short = Short::NotSettled;
        let ask = now_ms >= self.next_probe;
        self.asked = ask.then_some(daemon.generation);
        Step::Wait { probe: ask }
    }

    fn wait(&mut self, short: Short) -> Step {
        self.short = short;
        self.ready_since = None;
        Step::Wait { probe: false }
    }

    fn done(&self, finding: Finding) -> Step {
        Step::Done(self.verdict(finding))
    }

    fn verdict(&self, finding: Finding) -> Verdict {
        Verdict { finding, after: self.after, siblings_moved: self.moved.clone() }
    }
}

enum Judged {
    /// Nothing can change it any more.
    Final(Finding),
    /// This is missing.
    NotYet(Short),
    /// The right process runs; once it is ready and settled, this is the finding.
    UpIs(Finding),
}

fn ended(daemon: &Daemon) -> Short {
    let (code, signal) = daemon.last_exit.map_or((None, None), |exit| (exit.code, exit.signal));
    if daemon.state == DaemonState::Failed { Short::NotExecuted { code } } else { Short::Dead { code, signal } }
}

fn incarnation(daemon: &Daemon) -> Incarnation {
    Incarnation { pid: daemon.pid, generation: daemon.generation }
}

/// A daemon of the page, with its plan.
#[must_use]
pub fn find<'a>(page: &'a Page, name: &str) -> Option<(&'a Daemon, &'a Plan)> {
    page.status.daemons.iter().zip(&page.plans).find(|(daemon, _)| daemon.name == name)
}

fn now_of(page: &Page, name: &str) -> Option<Incarnation> {
    find(page, name).map(|(daemon, _)| incarnation(daemon))
}

fn name_of(sibling: &(String, Incarnation)) -> Plain {
    Plain::new(&sibling.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;
    use crate::status::LastExit;

    /// One observation: the time, what the page shows, and the probe's answer. `w` waits, `?` waits and asks.
    struct Scene {
        page: Page,
        proof: Proof,
    }

    impl Scene {
        fn new(signal: Signal) -> Self {
            Self::on(sample::page(), signal)
        }

        fn on(page: Page, signal: Signal) -> Self {
            let target = target(&page, signal).unwrap();
            let proof = Proof::new(&page, signal, target);
            Self { page, proof }
        }

        fn daemon(&mut self, name: &str) -> &mut Daemon {
            self.page.status.daemons.iter_mut().find(|d| d.name == name).unwrap()
        }

        fn last(&mut self, signal: &str, outcome: Outcome, reload_errno: Option<i32>) {
            let last = Last { seq: 1, outcome, age_ms: 0, reload_errno };
            self.page.status.signals.get_mut(signal).unwrap().last = Some(last);
        }

        fn restart(&mut self, pid: i32) {
            self.last("USR1", Outcome::Restarted, None);
            let d = self.daemon("pipelock");
            (d.pid, d.generation, d.state) = (Some(pid), d.generation + 1, DaemonState::Running);
        }

        fn die(&mut self, name: &str, code: i32) {
            let d = self.daemon(name);
            (d.pid, d.state) = (None, DaemonState::Exited);
            d.last_exit = Some(LastExit { code: Some(code), signal: None, by_init: false });
        }

        /// The finding, or whether it waits (`false`) or asks (`true`).
        fn at(&mut self, now: u64, probe: Option<bool>) -> Result<Finding, bool> {
            match self.proof.observe(now, &self.page, true, probe) {
                Step::Wait { probe } => Err(probe),
                Step::Done(verdict) => Ok(verdict.finding),
            }
        }
    }

    #[test]
    fn a_restart_is_live_once_the_next_generation_was_ready_for_its_settling_time() {
        let mut s = Scene::new(Signal::USR1);
        assert_eq!(s.at(0, None), Err(false));
        s.last("USR1", Outcome::Restarting, None);
        s.daemon("pipelock").state = DaemonState::Stopping;
        assert_eq!(s.at(5, None), Err(false));
        s.restart(31);
        assert_eq!(s.at(10, None), Err(true));
        assert_eq!(s.at(15, Some(false)), Err(true));
        assert_eq!(s.at(20, Some(true)), Err(false));
        assert_eq!(s.at(69, None), Err(false));
        assert_eq!(s.at(70, None), Err(true));
        assert_eq!(s.at(71, Some(true)), Err(false));
        assert_eq!(s.at(320, None), Err(true), "asked once more at the end");
        let Step::Done(verdict) = s.proof.observe(321, &s.page, true, Some(true)) else { panic!("not done") };
        assert_eq!(verdict.finding, Finding::Live);
        assert_eq!(verdict.after, Incarnation { pid: Some(31), generation: 2 });
        assert_eq!(verdict.siblings_moved, []);
    }

    #[test]
    fn nothing_counts_before_the_host_has_sent_its_signal() {
        let mut s = Scene::new(Signal::USR1);
        s.restart(31);
        for now in [0, 1000] {
            assert_eq!(s.proof.observe(now, &s.page, false, None), Step::Wait { probe: false });
        }
        assert_eq!(s.at(1001, None), Err(true));
        assert_eq!(s.at(1002, Some(true)), Err(false), "it settles from here on");
    }

    #[test]
    fn an_answer_that_an_older_generation_gave_is_not_the_new_ones() {
        let mut s = Scene::new(Signal::USR1);
        s.restart(31);
        assert_eq!(s.at(0, None), Err(true));
        s.restart(32);
        assert_eq!(s.at(5, Some(true)), Err(true), "asks anew");
        assert_eq!(s.at(6, Some(true)), Err(false));
        s.restart(33);
        assert_eq!(s.at(306, None), Err(true), "settles anew");
    }

    #[test]
    fn one_that_is_unready_while_it_settles_settles_anew() {
        let mut s = Scene::new(Signal::USR1);
        s.restart(31);
        assert_eq!(s.at(0, None), Err(true));
        assert_eq!(s.at(1, Some(true)), Err(false));
        assert_eq!(s.at(51, None), Err(true));
        assert_eq!(s.at(52, Some(false)), Err(true));
        assert_eq!(s.proof.give_up().finding, Finding::Unproven(Short::NotReady));
        assert_eq!(s.at(400, Some(true)), Err(false));
        assert_eq!(s.proof.give_up().finding, Finding::Unproven(Short::NotSettled));
        assert_eq!(s.at(700, None), Err(true));
        assert_eq!(s.at(701, Some(true)), Ok(Finding::Live));
    }

    #[test]
    fn a_replacement_that_dies_is_not_proven_at_once() {
        let mut s = Scene::new(Signal::USR1);
        s.restart(31);
        assert_eq!(s.at(0, None), Err(true));
        s.die("pipelock", 1);
        assert_eq!(s.at(5, Some(false)), Ok(Finding::Unproven(Short::Dead { code: Some(1), signal: None })));
    }

    #[test]
    fn a_replacement_that_cannot_be_executed_is_not_proven_at_once() {
        let mut s = Scene::new(Signal::USR1);
        s.last("USR1", Outcome::Failed, None);
        let d = s.daemon("pipelock");
        (d.state, d.pid, d.generation) = (DaemonState::Failed, None, 2);
        d.last_exit = Some(LastExit { code: Some(127), signal: None, by_init: false });
        assert_eq!(s.at(0, None), Ok(Finding::Unproven(Short::NotExecuted { code: Some(127) })));
    }

    #[test]
    fn what_is_missing_when_the_time_is_up_is_told() {
        let mut s = Scene::new(Signal::USR1);
        assert_eq!(s.at(0, None), Err(false));
        assert_eq!(s.proof.give_up().finding, Finding::Unproven(Short::Unserved));
        s.last("USR1", Outcome::Restarting, None);
        assert_eq!(s.at(5, None), Err(false));
        assert_eq!(s.proof.give_up().finding, Finding::Unproven(Short::OldStopping));
        s.restart(31);
        assert_eq!(s.at(10, None), Err(true));
        assert_eq!(s.proof.give_up().finding, Finding::Unproven(Short::NotReady));
        let mut s = Scene::new(Signal::HUP);
        s.last("HUP", Outcome::Held, None);
        assert_eq!(s.at(0, None), Err(false));
        assert_eq!(s.proof.give_up().finding, Finding::Unproven(Short::Held));
        s.last("HUP", Outcome::Delivered, None);
        assert_eq!(s.at(0, None), Err(false));
        assert_eq!(s.proof.give_up().finding, Finding::Unproven(Short::ReloadPending));
    }

    #[test]
    fn a_forward_to_a_daemon_with_notify_is_live_where_it_obeyed() {
        let mut s = Scene::new(Signal::HUP);
        s.last("HUP", Outcome::Delivered, Some(0));
        assert_eq!(s.at(0, None), Err(false));
        assert_eq!(s.at(299, None), Err(false));
        assert_eq!(s.at(300, None), Ok(Finding::Live));
        let mut s = Scene::new(Signal::HUP);
        s.last("HUP", Outcome::Delivered, Some(22));
        assert_eq!(s.at(0, None), Ok(Finding::ReloadRefused { errno: 22 }));
    }

    #[test]
    fn a_forward_without_notify_is_delivered() {
        let mut page = sample::page();
        page.plans[0].ready = None;
        let mut s = Scene::on(page, Signal::HUP);
        s.last("HUP", Outcome::Delivered, None);
        assert_eq!(s.at(0, None), Err(false));
        assert_eq!(s.at(300, None), Ok(Finding::Delivered));
    }

    #[test]
    fn a_forward_that_kills_its_daemon_or_meets_another_process_is_not_proven() {
        let mut s = Scene::new(Signal::HUP);
        s.last("HUP", Outcome::Delivered, None);
        s.daemon("egress").state = DaemonState::Stopping;
        assert_eq!(s.at(0, None), Err(false));
        s.die("egress", 129);
        assert_eq!(s.at(5, None), Ok(Finding::Unproven(Short::Dead { code: Some(129), signal: None })));
        let mut s = Scene::new(Signal::HUP);
        s.last("HUP", Outcome::Delivered, Some(0));
        s.daemon("egress").generation = 2;
        assert_eq!(s.at(0, None), Ok(Finding::Unproven(Short::Replaced)));
        let mut s = Scene::new(Signal::HUP);
        s.last("HUP", Outcome::NeverCaught, None);
        assert_eq!(s.at(0, None), Ok(Finding::Unproven(Short::NeverCaught)));
    }

    #[test]
    fn what_the_kernel_does_not_let_init_do_is_not_proven_at_once() {
        for signal in [Signal::HUP, Signal::USR1] {
            let mut s = Scene::new(signal);
            s.last(&signal.to_string(), Outcome::Failed, None);
            assert_eq!(s.at(0, None), Ok(Finding::Unproven(Short::InitRefused)));
        }
    }

    #[test]
    fn a_bundle_that_stops_or_refuses_ends_it() {
        let mut s = Scene::new(Signal::USR1);
        s.last("USR1", Outcome::Refused, None);
        assert_eq!(s.at(0, None), Ok(Finding::Unproven(Short::InitRefused)));
        s.page.status.state = InitState::Stopping;
        assert_eq!(s.at(0, None), Ok(Finding::Unproven(Short::InitStopping)));
    }

    #[test]
    fn a_sibling_that_moved_is_named() {
        let mut s = Scene::new(Signal::USR1);
        s.die("egress", 0);
        assert_eq!(s.at(0, None), Err(false));
        assert_eq!(s.proof.give_up().siblings_moved, [Plain::new("egress")]);
    }

    #[test]
    fn a_dead_daemon_is_a_target_of_a_restart_and_not_of_a_forward() {
        let mut s = Scene::new(Signal::USR1);
        s.die("pipelock", 1);
        s.die("egress", 1);
        let before = target(&s.page, Signal::USR1).unwrap().before;
        assert_eq!(before, Incarnation { pid: None, generation: 1 });
        assert_eq!(target(&s.page, Signal::HUP).unwrap_err().0, Refusal::NotRunning);
    }

    #[test]
    fn what_init_would_refuse_is_refused_before_anything_is_sent() {
        let mut page = sample::page();
        assert_eq!(target(&page, Signal::from_name("WINCH").unwrap()).unwrap_err(), (Refusal::NotWired, None));
        page.status.state = InitState::Stopping;
        assert_eq!(target(&page, Signal::USR1).unwrap_err().0, Refusal::Stopping);
        page.status.daemons.remove(1);
        page.plans.remove(1);
        assert_eq!(target(&page, Signal::USR1).unwrap_err().0, Refusal::NotSelected);
    }
}
