//! The handling of one event: what it may change besides its own daemon, and the actions that follow.

use super::{Action, Line, Moment};
use crate::status::{Last, Outcome};
use crate::table::{Action as RuleAction, Signal};

/// A signal rule, and the outcome of the last signal that it applied to.
#[derive(Debug)]
pub(super) struct SignalRule {
    pub(super) signal: Signal,
    pub(super) action: RuleAction,
    pub(super) target: String,
    /// `None`: its daemon isn't selected.
    pub(super) daemon: Option<usize>,
    pub(super) seq: u64,
    pub(super) last: Option<(Outcome, Moment)>,
    /// The generation that it started.
    pub(super) generation: Option<u64>,
    /// When it was sent to the process that its daemon has now.
    pub(super) delivered: Option<Moment>,
    /// The number of that delivery.
    delivery: u64,
    pub(super) reload_errno: Option<i32>,
}

impl SignalRule {
    pub(super) fn new(signal: Signal, action: RuleAction, target: String, daemon: Option<usize>) -> Self {
        let (last, generation, delivered, reload_errno) = (None, None, None, None);
        Self { signal, action, target, daemon, seq: 0, last, generation, delivered, delivery: 0, reload_errno }
    }

    pub(super) fn last(&self) -> Option<Last> {
        let (outcome, at) = self.last?;
        let age_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        Some(Last { seq: self.seq, outcome, age_ms, reload_errno: self.reload_errno, generation: self.generation })
    }

    pub(super) fn is(&self, outcome: Outcome) -> bool {
        self.last.is_some_and(|(last, _)| last == outcome)
    }
}

/// The handling of one event: its time, and the actions that follow from it.
pub(super) struct Turn<'a> {
    pub(super) now: Moment,
    /// A shutdown is under way.
    pub(super) is_stopping: bool,
    /// An essential daemon has ended for good: its part in the exit code, and its index.
    pub(super) essential: Option<(usize, i32)>,
    /// Daemons that have ended for good before they were ever ready.
    pub(super) never_ready: Vec<usize>,
    pub(super) rules: &'a mut [SignalRule],
    pub(super) actions: Vec<Action>,
}

impl<'a> Turn<'a> {
    pub(super) fn new(now: Moment, is_stopping: bool, rules: &'a mut [SignalRule], actions: Vec<Action>) -> Self {
        Self { now, is_stopping, essential: None, never_ready: Vec::new(), rules, actions }
    }

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

    /// A process is being started: it is the one for every rule that waits for this daemon's restart.
    pub(super) fn restart_begins(&mut self, daemon: usize, generation: u64) {
        let restarting = self.rules_of(daemon).filter(|rule| rule.is(Outcome::Restarting));
        restarting.for_each(|rule| rule.generation = Some(generation));
    }

    /// Sets the outcome of every rule that waits for this daemon's restart.
    pub(super) fn restart_ends(&mut self, daemon: usize, outcome: Outcome) {
        let now = self.now;
        let restarting = self.rules_of(daemon).filter(|rule| rule.is(Outcome::Restarting));
        restarting.for_each(|rule| rule.last = Some((outcome, now)));
    }

    /// Sets the outcome of the last signal of this kind.
    pub(super) fn set_outcome(&mut self, signal: Signal, outcome: Outcome) {
        let now = self.now;
        self.rules.iter_mut().filter(|rule| rule.signal == signal).for_each(|rule| rule.last = Some((outcome, now)));
    }

    /// Sets the outcome of a forward that is held for this daemon.
    pub(super) fn signal_ends(&mut self, daemon: usize, signal: Signal, outcome: Outcome, delivery: u64) {
        let now = self.now;
        for rule in self.rules_of(daemon).filter(|rule| rule.signal == signal && rule.is(Outcome::Held)) {
            rule.last = Some((outcome, now));
            rule.delivered = (outcome == Outcome::Delivered).then_some(now);
            rule.delivery = delivery;
        }
    }

    /// The kernel refused this delivery.
    pub(super) fn delivery_fails(&mut self, daemon: usize, signal: i32, delivery: u64) {
        let now = self.now;
        let is_it = |rule: &&mut SignalRule| {
            rule.signal.number() == signal && rule.is(Outcome::Delivered) && rule.delivery == delivery
        };
        for rule in self.rules_of(daemon).filter(is_it) {
            rule.last = Some((Outcome::Failed, now));
            rule.delivered = None;
        }
    }

    /// Forgets deliveries to the process that has ended: a later process's reload doesn't answer a signal that this one got.
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
