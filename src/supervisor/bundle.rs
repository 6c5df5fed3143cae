//! The bundle as a whole: who is started, what a signal does, the shutdown, and the exit code.

use std::time::Duration;

use super::daemon::Daemon;
use super::{Action, Event, Line, Moment, TERM, View};
use crate::status::{InitState, Last, Outcome};
use crate::table::{Action as RuleAction, Signal, Table};

/// If init wakes up this much later than it asked to, it could not run in between, for example because its container was
/// paused.
const PAUSE: Duration = Duration::from_millis(500);
/// While a daemon is stopping, init wakes up at least this often, so that it notices most of a pause.
const TICK: Duration = Duration::from_secs(1);
/// RTMIN+3: the STOPSIGNAL of images made for systemd, which a bundle's image may have inherited.
const RTMIN_3: Signal = Signal::RealTime(3);

/// A signal rule, and the outcome of the last signal that it applied to.
#[derive(Debug)]
pub(super) struct SignalRule {
    signal: Signal,
    action: RuleAction,
    target: String,
    /// `None`: its daemon isn't selected.
    daemon: Option<usize>,
    seq: u64,
    last: Option<(Outcome, Moment)>,
    /// When it was sent to the process that its daemon has now.
    delivered: Option<Moment>,
    reload_errno: Option<i32>,
}

/// The handling of one event: its time, and the actions that follow from it.
pub(super) struct Turn<'a> {
    pub(super) now: Moment,
    /// A shutdown is under way.
    pub(super) is_stopping: bool,
    rules: &'a mut [SignalRule],
    actions: Vec<Action>,
}

impl Turn<'_> {
    pub(super) fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    pub(super) fn tell(&mut self, line: Line) {
        self.actions.push(Action::Tell(line));
    }

    /// A bug in init. PID 1 continues; a test fails.
    pub(super) fn impossible(&mut self, what: &str) {
        debug_assert!(false, "{what}");
        self.tell(Line::warn(format!("a bug in init: {what}; ignored")));
    }

    fn rules_of(&mut self, daemon: usize) -> impl Iterator<Item = &mut SignalRule> {
        self.rules.iter_mut().filter(move |rule| rule.daemon == Some(daemon))
    }

    /// Sets the outcome of every rule that waits for this daemon's restart.
    pub(super) fn restart_ends(&mut self, daemon: usize, outcome: Outcome) {
        let now = self.now;
        for rule in self.rules_of(daemon).filter(|rule| rule.last.is_some_and(|(o, _)| o == Outcome::Restarting)) {
            rule.last = Some((outcome, now));
        }
    }

    /// Sets the outcome of a forward.
    pub(super) fn signal_ends(&mut self, signal: Signal, outcome: Outcome) {
        if let Some(rule) = self.rules.iter_mut().find(|rule| rule.signal == signal) {
            rule.last = Some((outcome, self.now));
            rule.delivered = (outcome == Outcome::Delivered).then_some(self.now);
        }
    }

    pub(super) fn forward_failed(&mut self, signal: i32) {
        if let Some(signal) = self.rules.iter().map(|rule| rule.signal).find(|s| s.number() == signal) {
            self.signal_ends(signal, Outcome::Failed);
        }
    }

    /// If a later process reloads, that doesn't answer a signal that this one got.
    pub(super) fn process_ends(&mut self, daemon: usize) {
        self.rules_of(daemon).for_each(|rule| rule.delivered = None);
    }

    /// A daemon has finished the reload that it began at `began`, in microseconds.
    pub(super) fn reload_ends(&mut self, daemon: usize, began: u64, errno: i32) {
        for rule in self.rules_of(daemon) {
            if rule.delivered.is_some_and(|at| u128::from(began) >= at.as_micros()) {
                rule.reload_errno = Some(errno);
            }
        }
    }
}

/// How far init is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Nothing was started yet.
    Fresh,
    Begun,
    /// Nothing is left to supervise, and the exit code was given.
    Over,
}

/// The decisions of init: one for each run.
#[derive(Debug)]
pub struct Supervisor {
    daemons: Vec<Daemon>,
    rules: Vec<SignalRule>,
    progress: Progress,
    is_stopping: bool,
    /// When the last event was served.
    last: Moment,
}

impl Supervisor {
    /// Supervises the selected daemons of a table; `selected` has their indices in table order.
    #[must_use]
    pub fn new(table: &Table, selected: &[usize]) -> Self {
        let specs = selected.iter().filter_map(|i| table.daemons.get(*i));
        let daemons: Vec<Daemon> = (0..).zip(specs).map(|(index, spec)| Daemon::new(index, spec)).collect();
        let rules = table.wiring.iter().map(|rule| {
            let target = table.daemons.get(rule.daemon).map_or_else(String::new, |d| d.name.clone());
            let daemon = daemons.iter().position(|d| d.name() == target);
            let (signal, action) = (rule.signal, rule.action.clone());
            SignalRule { signal, action, target, daemon, seq: 0, last: None, delivered: None, reload_errno: None }
        });
        let rules = rules.collect();
        Self { daemons, rules, progress: Progress::Fresh, is_stopping: false, last: Moment::ZERO }
    }

    /// Decides what follows from an event at `now`.
    pub fn handle(&mut self, now: Moment, event: Event) -> Vec<Action> {
        let actions = self.make_up_for_a_pause(now, &event);
        let Self { daemons, rules, is_stopping, .. } = self;
        let mut turn = Turn { now, is_stopping: *is_stopping, rules, actions };
        let by_pid = |d: &&mut Daemon, pid: i32| d.pid() == Some(pid);
        match event {
            Event::Begin => {
                self.progress = Progress::Begun;
                if !turn.is_stopping {
                    for daemon in daemons {
                        daemon.start(&mut turn);
                    }
                }
            }
            Event::Stop => shut_down(daemons, is_stopping, &mut turn),
            Event::Signal(signal) => {
                if turn.rules.iter().any(|rule| rule.signal == signal) {
                    serve(signal, daemons, self.progress, &mut turn);
                } else if signal == RTMIN_3 {
                    turn.tell(Line::info(format!("SIG{signal} has no signal rule, so it asks for a shutdown")));
                    shut_down(daemons, is_stopping, &mut turn);
                } else {
                    let text = format!(
                        "SIG{signal} has no signal rule; nothing was done. If `docker stop` sent it, the image \
                         sets STOPSIGNAL: set it to SIGTERM"
                    );
                    turn.tell(Line::warn(text));
                }
            }
            Event::Started { daemon, .. }
            | Event::Executed { daemon, .. }
            | Event::NotExecuted { daemon, .. }
            | Event::StartFailed { daemon, .. }
            | Event::Members { daemon, .. }
            | Event::Mask { daemon, .. } => {
                if let Some(daemon) = daemons.get_mut(daemon) {
                    daemon.answered(event, &mut turn);
                }
            }
            Event::ProbeStarted { .. } | Event::ProbeFailed { .. } | Event::Request(_) => {}
            Event::Ended { pid, end, oom_kills, words: _ } => {
                if let Some(daemon) = daemons.iter_mut().find(|d| by_pid(d, pid)) {
                    daemon.ended(end, oom_kills, &mut turn);
                } else {
                    turn.act(Action::Reap(pid));
                    let text = format!("reaped orphan (pid {pid}): it {end}");
                    turn.tell(Line::debug(text).pid(pid).end(end));
                    for daemon in daemons {
                        daemon.orphan_ended(pid, now);
                    }
                }
            }
            Event::NotSent { pid, signal } => {
                if let Some(daemon) = daemons.iter_mut().find(|d| by_pid(d, pid)) {
                    daemon.not_sent(signal, &mut turn);
                }
            }
            Event::Notify { pid, ready, reloading, errno, session } => {
                if let Some(daemon) = daemons.iter_mut().find(|d| by_pid(d, pid)) {
                    daemon.notify(ready, reloading, errno, &mut turn);
                } else if ready {
                    strangers_ready(pid, session, daemons, &mut turn);
                }
            }
            Event::Time => daemons.iter_mut().for_each(|d| d.time(&mut turn)),
        }
        let mut actions = turn.actions;
        if self.progress == Progress::Begun && self.daemons.iter().all(|d| d.is_over(self.is_stopping)) {
            self.progress = Progress::Over;
            actions.push(Action::Exit(self.exit_code()));
        }
        actions
    }

    /// Grace is time in which a daemon can do something, and while the container is paused it can't. An answer that takes
    /// long is no pause, but a look at very many processes: else whoever makes these would move the end of a stop.
    fn make_up_for_a_pause(&mut self, now: Moment, event: &Event) -> Vec<Action> {
        let is_answer = matches!(event, Event::Members { .. } | Event::Mask { .. });
        let asked = self.next().map(|next| next.max(self.last)).filter(|_| !is_answer);
        self.last = now;
        let Some(lost) = asked.map(|asked| now.saturating_sub(asked)).filter(|lost| *lost > PAUSE) else {
            return Vec::new();
        };
        self.daemons.iter_mut().for_each(|d| d.move_deadlines(lost));
        if !self.daemons.iter().any(Daemon::has_deadline) {
            return Vec::new();
        }
        let text = format!(
            "init could not run for {:.1} s (was the container paused?); every grace is extended by that time",
            lost.as_secs_f64()
        );
        vec![Action::Tell(Line::info(text))]
    }

    /// When [`Event::Time`] is due, unless another event comes first.
    #[must_use]
    pub fn next(&self) -> Option<Moment> {
        let tick = self.daemons.iter().any(Daemon::has_deadline).then(|| self.last + TICK);
        self.daemons.iter().filter_map(Daemon::next).chain(tick).min()
    }

    /// What init does as a whole.
    #[must_use]
    pub fn state(&self) -> InitState {
        if self.is_stopping { InitState::Stopping } else { InitState::Running }
    }

    /// What status shows of a daemon.
    #[must_use]
    pub fn view(&self, daemon: usize) -> Option<View> {
        self.daemons.get(daemon).map(Daemon::view)
    }

    /// The outcome of a rule's last signal, by the rule's index in the table.
    #[must_use]
    pub fn last(&self, rule: usize) -> Option<Last> {
        let rule = self.rules.get(rule)?;
        let (outcome, at) = rule.last?;
        let age_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        Some(Last { seq: rule.seq, outcome, age_ms, reload_errno: rule.reload_errno, generation: None })
    }

    /// Whether the daemon is being stopped. Its output must be read then even if there is no room for it: a process
    /// that is blocked on a full pipe can't obey its TERM.
    #[must_use]
    pub fn is_being_ended(&self, daemon: usize) -> bool {
        self.is_stopping || self.daemons.get(daemon).is_some_and(Daemon::is_being_ended)
    }

    /// The daemons whose exec has not been reported yet, and their processes.
    pub(super) fn starting(&self) -> Vec<(usize, i32)> {
        (0..).zip(&self.daemons).filter_map(|(daemon, d)| Some((daemon, d.starting()?))).collect()
    }

    /// The daemon of a process that was asked to end before anything was known of its exec.
    pub(super) fn stopping_before_its_exec(&self, pid: i32) -> Option<usize> {
        self.daemons.iter().position(|d| d.stopping_before_its_exec() == Some(pid))
    }

    fn exit_code(&self) -> i32 {
        match self.daemons.iter().filter_map(Daemon::code).max() {
            Some(code) if code < 0 => 128 - code,
            Some(code) => code,
            None if self.is_stopping => 128 + TERM,
            None => 0,
        }
    }
}

fn shut_down(daemons: &mut [Daemon], is_stopping: &mut bool, turn: &mut Turn<'_>) {
    if std::mem::replace(is_stopping, true) {
        turn.tell(Line::info("already shutting down; no deadline changes".to_owned()));
        return;
    }
    turn.is_stopping = true;
    for daemon in daemons {
        daemon.shut_down(turn);
    }
}

/// Applies the rule of a signal.
fn serve(signal: Signal, daemons: &mut [Daemon], progress: Progress, turn: &mut Turn<'_>) {
    let Some(rule) = turn.rules.iter_mut().find(|rule| rule.signal == signal) else { return };
    rule.seq += 1;
    (rule.delivered, rule.reload_errno) = (None, None);
    let (action, target, index) = (rule.action.clone(), rule.target.clone(), rule.daemon);
    let daemon = index.and_then(|daemon| daemons.get_mut(daemon));
    let outcome = match daemon {
        // The signal came together with the last death, and init is about to exit.
        _ if progress == Progress::Over => Err("every daemon has ended and init is about to exit"),
        None => Err("it isn't selected"),
        Some(_) if turn.is_stopping => Err("a shutdown is under way"),
        Some(daemon) => match action {
            RuleAction::Restart => {
                daemon.restart(turn);
                Ok(Outcome::Restarting)
            }
            RuleAction::Forward { always } => daemon.forward(signal, always, turn),
        },
    };
    let outcome = outcome.unwrap_or_else(|why| {
        let line = Line::warn(format!("SIG{signal} for {target}: {why}; nothing was done"));
        turn.tell(index.map_or(line.clone(), |daemon| line.of(daemon)));
        Outcome::Refused
    });
    if let Some(rule) = turn.rules.iter_mut().find(|rule| rule.signal == signal) {
        rule.last = Some((outcome, turn.now));
    }
}

/// Handles a READY=1 that didn't come from a daemon's own process. If the sender has ended already, as systemd-notify
/// has, its session is unknown, and any daemon that still waits may be meant.
fn strangers_ready(pid: i32, session: Option<i32>, daemons: &mut [Daemon], turn: &mut Turn<'_>) {
    // A sender that shares only the network namespace has no pid here and doesn't count.
    if pid <= 0 {
        return;
    }
    let is_daemons = session.is_some_and(|sid| daemons.iter().any(|d| d.pid() == Some(sid)));
    let is_meant = |d: &&mut Daemon| d.may_be_misnotified() && (!is_daemons || d.pid() == session);
    if let Some(daemon) = daemons.iter_mut().find(is_meant) {
        daemon.tell_of_stranger(pid, turn);
    }
}
