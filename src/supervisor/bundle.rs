//! The bundle as a whole: which daemons are started, what a signal does, the shutdown, and the exit code.

use std::time::Duration;

use super::daemon::{Cause, Daemon};
use super::order::Order;
use super::turn::{SignalRule, Turn};
use super::{Action, End, Event, Line, Moment, TERM, View};
use crate::request::{Request, Verb};
use crate::status::{InitState, Last, Outcome, WaitingFor};
use crate::table::{Action as RuleAction, Signal, Table};

/// If init wakes up this much later than it asked to, it could not run in between, for example because its container was
/// paused.
const PAUSE: Duration = Duration::from_millis(500);
/// While a daemon is stopping, init wakes up at least this often, so that it notices most of a pause.
const TICK: Duration = Duration::from_secs(1);
/// RTMIN+3: the STOPSIGNAL of images made for systemd, which a bundle's image may have inherited.
const RTMIN_3: Signal = Signal::RealTime(3);
/// How often the log reports requests that came to nothing.
const REPORT_STRAYS: Duration = Duration::from_secs(1);

/// How far init has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Nothing was started yet.
    Fresh,
    Begun,
    /// Nothing is left to supervise, and the exit code was given.
    Over,
}

/// Requests that came to nothing, since the log last told of them.
#[derive(Clone, Copy, Debug, Default)]
struct Strays {
    count: u64,
    told: Option<Moment>,
}

impl Strays {
    /// When the log is to report them.
    fn next(self) -> Option<Moment> {
        let due = self.told.map_or(Moment::ZERO, |told| told + REPORT_STRAYS);
        (self.count > 0).then_some(due)
    }

    fn report(&mut self, turn: &mut Turn<'_>) {
        if self.next().is_none_or(|due| due > turn.now) {
            return;
        }
        let count = std::mem::take(&mut self.count);
        self.told = Some(turn.now);
        let requests = if count == 1 { "1 request".to_owned() } else { format!("{count} requests") };
        turn.tell(Line::warn(format!("{requests} ignored: not a request, or for no selected daemon")));
    }
}

/// The decisions of init: one for each run.
#[derive(Debug)]
pub struct Supervisor {
    daemons: Vec<Daemon>,
    order: Order,
    rules: Vec<SignalRule>,
    progress: Progress,
    is_stopping: bool,
    /// The exit code, if the end of an essential daemon began the shutdown.
    essential: Option<i32>,
    strays: Strays,
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
            SignalRule::new(rule.signal, rule.action.clone(), target, daemon)
        });
        Self {
            rules: rules.collect(),
            order: Order::new(table, selected),
            daemons,
            progress: Progress::Fresh,
            is_stopping: false,
            essential: None,
            strays: Strays::default(),
            last: Moment::ZERO,
        }
    }

    /// Decides what follows from an event at `now`.
    pub fn handle(&mut self, now: Moment, event: Event) -> Vec<Action> {
        let actions = self.make_up_for_a_pause(now, &event);
        let Self { daemons, order, rules, is_stopping, .. } = self;
        let mut turn = Turn::new(now, *is_stopping, rules, actions);
        let by_pid = |d: &&mut Daemon, pid: i32| d.pid() == Some(pid);
        sessions_are_gone(&event, daemons, &mut turn);
        match event {
            Event::Begin => {
                self.progress = Progress::Begun;
                if !turn.is_stopping {
                    begin(daemons, order, &mut turn);
                }
            }
            Event::Stop => shut_down(daemons, order, is_stopping, &mut turn),
            Event::Signal(signal) if turn.rules.iter().any(|rule| rule.signal == signal) => {
                serve(signal, daemons, order, self.progress, &mut turn);
            }
            Event::Signal(signal) => signal_without_rule(signal, daemons, order, is_stopping, &mut turn),
            Event::Started { daemon, pid } => {
                if let Some(forking) = daemons.get_mut(daemon) {
                    forking.started(pid, &mut turn);
                }
                // Since the start was requested, the end of an essential daemon has begun a shutdown.
                if turn.is_stopping {
                    let dependent = living_dependents(daemons, order).get(daemon).copied().flatten();
                    end_one(daemon, dependent, daemons, &mut turn);
                }
            }
            Event::Executed { daemon, .. }
            | Event::NotExecuted { daemon, .. }
            | Event::StartFailed { daemon, .. }
            | Event::Members { daemon, .. }
            | Event::MembersKilled { daemon, .. }
            | Event::Mask { daemon, .. }
            | Event::ProbeStarted { daemon, .. }
            | Event::ProbeFailed { daemon, .. } => {
                if let Some(daemon) = daemons.get_mut(daemon) {
                    daemon.answered(event, &mut turn);
                }
            }
            Event::Request(request) => {
                let is_taken = request.is_some_and(|r| serve_request(r, daemons, order, self.progress, &mut turn));
                self.strays.count += u64::from(!is_taken);
            }
            Event::Ended { pid, end, oom_kills, words } => {
                if let Some(daemon) = daemons.iter_mut().find(|d| by_pid(d, pid)) {
                    daemon.ended(end, oom_kills, &mut turn);
                } else if let Some(daemon) = daemons.iter_mut().find(|d| d.probe() == Some(pid)) {
                    daemon.probe_ended(end, words, &mut turn);
                } else {
                    orphan_ended(pid, end, daemons, &mut turn);
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
            Event::Time => {
                for daemon in &mut *daemons {
                    daemon.time(&mut turn);
                }
            }
        }
        self.strays.report(&mut turn);
        if self.progress == Progress::Begun {
            if let Some((daemon, code)) = turn.essential.take()
                && !turn.is_stopping
            {
                let name = daemons.get(daemon).map_or("", Daemon::name);
                turn.tell(Line::warn(format!("{name} is essential and has ended; shutting down")).of(daemon));
                self.essential = Some(code);
                shut_down(daemons, order, is_stopping, &mut turn);
            }
            if turn.is_stopping {
                ask_the_spared(daemons, order, &mut turn);
            } else {
                start_the_waiting(daemons, order, &mut turn);
            }
        }
        let mut actions = turn.actions;
        if self.progress == Progress::Begun && self.daemons.iter().all(|d| d.is_over(self.is_stopping)) {
            self.progress = Progress::Over;
            actions.push(Action::Exit(self.exit_code()));
        }
        actions
    }

    /// Moves deadlines by the length of a pause: grace is time in which a daemon can act, which it can't while the container is paused.
    /// An answer that comes late to an action doesn't count as a pause, since init may have looked at very many processes. Otherwise a
    /// daemon could delay the end of its stop by forking.
    fn make_up_for_a_pause(&mut self, now: Moment, event: &Event) -> Vec<Action> {
        let is_answer = matches!(event, Event::Members { .. } | Event::MembersKilled { .. } | Event::Mask { .. });
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
        self.daemons.iter().filter_map(Daemon::next).chain(tick).chain(self.strays.next()).min()
    }

    /// The state of init as a whole.
    #[must_use]
    pub fn state(&self) -> InitState {
        if self.is_stopping { InitState::Stopping } else { InitState::Running }
    }

    /// What status shows of a daemon.
    #[must_use]
    pub fn view(&self, daemon: usize) -> Option<View> {
        let waiting = self.daemons.get(daemon)?;
        let waiting_for = if waiting.is_waiting() { unready(daemon, &self.daemons, &self.order) } else { Vec::new() };
        Some(View { waiting_for, ..waiting.view() })
    }

    /// The outcome of a rule's last signal, by the rule's index in the table.
    #[must_use]
    pub fn last(&self, rule: usize) -> Option<Last> {
        self.rules.get(rule)?.last()
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

    /// Whether it is a daemon's own process or a probe, and not an orphan that init has inherited.
    pub(super) fn is_own(&self, pid: i32) -> bool {
        self.daemons.iter().any(|d| d.pid() == Some(pid) || d.probe() == Some(pid))
    }

    fn exit_code(&self) -> i32 {
        match self.essential.or_else(|| self.daemons.iter().filter_map(Daemon::code).max()) {
            Some(code) if code < 0 => 128 - code,
            Some(code) => code,
            None if self.is_stopping => 128 + TERM,
            None => 0,
        }
    }
}

fn orphan_ended(pid: i32, end: End, daemons: &mut [Daemon], turn: &mut Turn<'_>) {
    turn.tell(Line::debug(format!("reaped orphan (pid {pid}): it {end}")).pid(pid).end(end));
    for daemon in daemons {
        daemon.orphan_ended(pid, turn.now);
    }
}

/// The dependencies of a daemon that were not ready yet.
fn unready(daemon: usize, daemons: &[Daemon], order: &Order) -> Vec<WaitingFor> {
    let dependencies = order.dependencies(daemon).iter().filter_map(|index| daemons.get(*index));
    let unready = dependencies.filter(|d| !d.was_ready());
    unready.map(|d| WaitingFor { daemon: d.name().to_owned(), why: d.why_unready() }).collect()
}

fn listed(unready: &[WaitingFor]) -> String {
    let each: Vec<String> = unready.iter().map(|w| format!("{} ({})", w.daemon, w.why)).collect();
    each.join(", ")
}

fn is_met(daemon: usize, daemons: &[Daemon], order: &Order) -> bool {
    order.dependencies(daemon).iter().filter_map(|index| daemons.get(*index)).all(Daemon::was_ready)
}

/// Starts the daemons without dependencies; the others wait.
fn begin(daemons: &mut [Daemon], order: &Order, turn: &mut Turn<'_>) {
    for (index, dependency) in order.unselected() {
        let name = daemons.get(*index).map_or("", Daemon::name);
        let text = format!("{name} depends on {dependency}, which isn't selected; that counts as met");
        turn.tell(Line::info(text).of(*index));
    }
    for index in 0..daemons.len() {
        let is_met = is_met(index, daemons, order);
        match daemons.get_mut(index).filter(|d| d.is_fresh()) {
            Some(daemon) if is_met => daemon.start(Cause::Asked, turn),
            Some(daemon) => daemon.wait(),
            None => {}
        }
    }
    for (index, daemon) in daemons.iter().enumerate().filter(|(_, d)| d.is_waiting()) {
        let text = format!("{} waits for {}", daemon.name(), listed(&unready(index, daemons, order)));
        turn.tell(Line::info(text).of(index));
    }
    // Signals that were pending are handled now, as if they had come after the starts.
    for index in 0..daemons.len() {
        let is_to_restart = turn.rules.iter().any(|rule| rule.daemon == Some(index) && rule.is(Outcome::Restarting));
        if is_to_restart {
            tell_of_early_start(index, daemons, order, turn);
        }
        if let Some(daemon) = daemons.get_mut(index).filter(|d| d.is_waiting()) {
            daemon.drop_held("it waits for its dependencies", turn);
            if is_to_restart {
                daemon.restart(turn);
            }
        }
    }
}

/// Starts the daemons whose dependencies are all ready by now, and probes those that others still wait for.
fn start_the_waiting(daemons: &mut [Daemon], order: &Order, turn: &mut Turn<'_>) {
    if !daemons.iter().any(|daemon| daemon.is_waiting() || daemon.is_probed()) {
        return;
    }
    let mut is_waited_for = vec![false; daemons.len()];
    let never_ready = std::mem::take(&mut turn.never_ready);
    for index in 0..daemons.len() {
        if !daemons.get(index).is_some_and(Daemon::is_waiting) {
            continue;
        }
        if is_met(index, daemons, order) {
            if let Some(daemon) = daemons.get_mut(index) {
                daemon.start(Cause::Asked, turn);
            }
            continue;
        }
        let name = daemons.get(index).map_or("", Daemon::name);
        for dependency in order.dependencies(index) {
            if let Some(wanted) = is_waited_for.get_mut(*dependency) {
                *wanted = true;
            }
            if let Some(failed) = daemons.get(*dependency).filter(|_| never_ready.contains(dependency)) {
                let text = format!(
                    "{name} can't start: {} has ended before it was ready ({}); start or restart either of them",
                    failed.name(),
                    failed.why_unready()
                );
                turn.tell(Line::warn(text).of(index));
            }
        }
    }
    for (daemon, is_waited_for) in daemons.iter_mut().zip(is_waited_for) {
        daemon.tend_probes(is_waited_for, turn);
    }
}

/// If a new process has the number of an old session as its pid, that session is gone: the kernel doesn't reuse the number while a
/// process of the session is left.
fn sessions_are_gone(event: &Event, daemons: &mut [Daemon], turn: &mut Turn<'_>) {
    if let Event::Started { pid, .. } | Event::ProbeStarted { pid, .. } = event {
        for daemon in daemons {
            daemon.session_is_gone(*pid, turn);
        }
    }
}

/// For each daemon, another one that has to end before it in a shutdown, if any.
fn living_dependents(daemons: &[Daemon], order: &Order) -> Vec<Option<usize>> {
    order.living_dependents(&daemons.iter().map(|d| !d.is_over(true)).collect::<Vec<bool>>())
}

fn ask_the_spared(daemons: &mut [Daemon], order: &Order, turn: &mut Turn<'_>) {
    if !daemons.iter().any(Daemon::is_spared) {
        return;
    }
    for (daemon, dependent) in living_dependents(daemons, order).into_iter().enumerate() {
        if let Some(daemon) = daemons.get_mut(daemon).filter(|_| dependent.is_none()) {
            daemon.spare_no_more(turn);
        }
    }
}

fn shut_down(daemons: &mut [Daemon], order: &Order, is_stopping: &mut bool, turn: &mut Turn<'_>) {
    if std::mem::replace(is_stopping, true) {
        turn.tell(Line::info("already shutting down; no deadline changes".to_owned()));
        return;
    }
    turn.is_stopping = true;
    let dependents = living_dependents(daemons, order);
    for (index, dependent) in dependents.into_iter().enumerate() {
        end_one(index, dependent, daemons, turn);
    }
}

fn end_one(index: usize, dependent: Option<usize>, daemons: &mut [Daemon], turn: &mut Turn<'_>) {
    let dependent = dependent.and_then(|d| daemons.get(d)).map(|d| d.name().to_owned());
    if let Some(daemon) = daemons.get_mut(index) {
        daemon.shut_down(dependent.as_deref(), turn);
    }
}

const OVER: &str = "every daemon has ended and init is about to exit";
pub(super) const STOPPING: &str = "a shutdown is under way";

/// Logs that a daemon that waits for others is started anyway.
fn tell_of_early_start(index: usize, daemons: &[Daemon], order: &Order, turn: &mut Turn<'_>) {
    if let Some(daemon) = daemons.get(index).filter(|d| d.is_waiting()) {
        let unready = listed(&unready(index, daemons, order));
        let text = format!("{} is started on request although it depends on {unready}", daemon.name());
        turn.tell(Line::info(text).of(index));
    }
}

fn signal_without_rule(
    signal: Signal,
    daemons: &mut [Daemon],
    order: &Order,
    is_stopping: &mut bool,
    turn: &mut Turn<'_>,
) {
    if signal == RTMIN_3 {
        turn.tell(Line::info(format!("SIG{signal} has no signal rule, so it asks for a shutdown")));
        return shut_down(daemons, order, is_stopping, turn);
    }
    let text = format!(
        "SIG{signal} has no signal rule; nothing was done. If `docker stop` sent it, the image sets STOPSIGNAL: set it \
         to SIGTERM"
    );
    turn.tell(Line::warn(text));
}

/// Applies the rule of a signal.
fn serve(signal: Signal, daemons: &mut [Daemon], order: &Order, progress: Progress, turn: &mut Turn<'_>) {
    let now = turn.now;
    let Some(rule) = turn.rules.iter_mut().find(|rule| rule.signal == signal) else { return };
    rule.seq += 1;
    (rule.delivered, rule.reload_errno, rule.generation) = (None, None, None);
    let (action, target, index) = (rule.action.clone(), rule.target.clone(), rule.daemon);
    rule.last = Some(match action {
        RuleAction::Restart => (Outcome::Restarting, now),
        RuleAction::Forward { .. } => (Outcome::Held, now),
    });
    let served = match index {
        // The signal came together with the end of the last daemon, and init is about to exit.
        _ if progress == Progress::Over => Err(OVER),
        None => Err("it isn't selected"),
        Some(_) if turn.is_stopping => Err(STOPPING),
        Some(index) => apply(&action, signal, index, daemons, order, turn),
    };
    if let Err(why) = served {
        let line = Line::warn(format!("SIG{signal} for {target}: {why}; nothing was done"));
        turn.tell(index.map_or(line.clone(), |daemon| line.of(daemon)));
        turn.set_outcome(signal, Outcome::Refused);
    }
}

fn apply(
    action: &RuleAction,
    signal: Signal,
    index: usize,
    daemons: &mut [Daemon],
    order: &Order,
    turn: &mut Turn<'_>,
) -> Result<(), &'static str> {
    if *action == RuleAction::Restart {
        tell_of_early_start(index, daemons, order, turn);
    }
    let Some(daemon) = daemons.get_mut(index) else { return Ok(()) };
    match action {
        RuleAction::Restart => daemon.restart(turn),
        // There is no process that could reload, so start one: it reads its configuration.
        RuleAction::Forward { .. } if daemon.is_in_backoff() => {
            turn.set_outcome(signal, Outcome::Restarting);
            daemon.restart(turn);
        }
        RuleAction::Forward { always } => daemon.forward(signal, *always, turn)?,
    }
    Ok(())
}

/// Handles a request. Returns false if no selected daemon has its name.
fn serve_request(
    request: Request,
    daemons: &mut [Daemon],
    order: &Order,
    progress: Progress,
    turn: &mut Turn<'_>,
) -> bool {
    let Some(index) = daemons.iter().position(|d| d.name() == request.daemon) else { return false };
    let refused = match progress {
        Progress::Fresh => Some("init has not begun"),
        Progress::Over => Some(OVER),
        Progress::Begun => turn.is_stopping.then_some(STOPPING),
    };
    let Request { id, verb, daemon: name } = request;
    let text = format!("request {id}: {verb} {name}");
    if refused.is_none() {
        turn.tell(Line::info(text.clone()).of(index));
        if matches!(verb, Verb::Restart | Verb::Start) {
            tell_of_early_start(index, daemons, order, turn);
        }
    }
    if let Some(Err(why)) = daemons.get_mut(index).map(|daemon| daemon.request(id, verb, refused, turn)) {
        turn.tell(Line::warn(format!("{text}: {why}; nothing was done")).of(index));
    }
    true
}

/// Handles a READY=1 that didn't come from a daemon's own process. If the sender has ended already, as systemd-notify
/// has, its session is unknown, and any daemon that still waits may be meant.
fn strangers_ready(pid: i32, session: Option<i32>, daemons: &mut [Daemon], turn: &mut Turn<'_>) {
    // A sender that shares only the network namespace has no pid here, and doesn't count.
    if pid <= 0 {
        return;
    }
    let is_daemons = session.is_some_and(|sid| daemons.iter().any(|d| d.pid() == Some(sid)));
    let is_meant = |d: &&mut Daemon| d.may_be_misnotified() && (!is_daemons || d.pid() == session);
    if let Some(daemon) = daemons.iter_mut().find(is_meant) {
        daemon.tell_of_stranger(pid, turn);
    }
}
