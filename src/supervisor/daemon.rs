//! The life of one daemon.
//!
//! | state | a restart request | its process ends | its time is up | a shutdown |
//! | --- | --- | --- | --- | --- |
//! | fresh | starts with the rest | – | – | never starts |
//! | forking | that start is it | – | – | – |
//! | starting | TERM, stopping | failed | – | TERM, stopping |
//! | running | TERM, stopping | clearing, killed | – | TERM, stopping |
//! | stopping, asked | a replacement follows | clearing, asked | KILL; stopping, killed | no replacement |
//! | stopping, killed | a replacement follows | clearing, killed | goes on without its end | no replacement |
//! | clearing, asked | a replacement follows | – | KILL; clearing, killed | no replacement |
//! | clearing, killed | a replacement follows | – | goes on with what is left | no replacement |
//! | exited, failed | starts | – | – | – |
//!
//! Clearing: the daemon's process has ended, and other processes of its session are left, its members. If it ended on
//! request, they get a TERM too and have the rest of its grace; otherwise they are killed at once. Once none
//! is left the replacement starts, or the daemon has exited. If the kernel refuses the KILL, a stopping daemon runs
//! on; in a shutdown it counts as killed.

use std::time::Duration;

use super::bundle::Turn;
use super::stop::{After, Clearing, Phase, Stop, Who, named, processes};
use super::{Action, CONT, Disposition, End, Event, KILL, Line, Moment, TERM, View};
use crate::status::{DaemonState, LastExit, Outcome};
use crate::table::{Daemon as Spec, Ready, Signal};

/// How often init checks whether a daemon catches a held signal.
const LOOK_AT_MASK: Duration = Duration::from_millis(20);
/// If a daemon blocks every signal in this many checks in a row (a second's worth), it reads them with signalfd(2).
/// Checks are counted, not time: on a busy machine two of them may be far apart, and the daemon may fork at each.
const LASTING: u32 = 50;
/// How long a signal is held for a daemon that doesn't catch it.
const HOLD: Duration = Duration::from_secs(20);
/// The exit code of a process that outlives the shutdown, so that a sibling's 0 doesn't hide it.
const UNENDED: i32 = 128 + KILL;
/// A daemon that exits 0 this soon has probably gone into the background.
const TOO_SOON: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    pid: i32,
    since: Moment,
}

#[derive(Debug)]
enum State {
    Fresh,
    /// The answer to [`Action::Start`] is due.
    Forking,
    Starting(Process, Exec),
    Running(Process),
    Stopping(Process, Exec, Stop),
    Clearing(Clearing),
    Exited,
    Failed,
}

/// What is known of the exec of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exec {
    Pending,
    Done,
    /// It failed, and counts as having exited with this code.
    Failed(i32),
}

#[derive(Clone, Copy, Debug)]
struct Held {
    signal: Signal,
    /// Sent as soon as there is a process, without checking for a handler.
    always: bool,
    until: Moment,
    look: Moment,
    /// In how many checks in a row the daemon blocked every signal.
    blocked: u32,
}

#[derive(Debug)]
pub(super) struct Daemon {
    index: usize,
    name: String,
    grace: Duration,
    /// It is ready once it says READY=1.
    notifies: bool,
    state: State,
    generation: u64,
    last_exit: Option<LastExit>,
    /// Its part in init's exit code: negative if init's own signal killed it.
    code: Option<i32>,
    held: Vec<Held>,
    notified: bool,
    /// The `MONOTONIC_USEC` of a reload under way.
    reloading: Option<u64>,
    /// Whether the log has warned, for this generation, that another process's READY=1 doesn't count.
    told_of_stranger: bool,
}

impl Daemon {
    pub(super) fn new(index: usize, spec: &Spec) -> Self {
        Self {
            index,
            name: spec.name.clone(),
            grace: spec.grace,
            notifies: spec.ready == Some(Ready::Notify),
            state: State::Fresh,
            generation: 0,
            last_exit: None,
            code: None,
            held: Vec::new(),
            notified: false,
            reloading: None,
            told_of_stranger: false,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Its part in init's exit code.
    pub(super) fn code(&self) -> Option<i32> {
        self.code
    }

    /// Its process, unless that is reaped.
    pub(super) fn pid(&self) -> Option<i32> {
        match self.state {
            State::Starting(process, _) | State::Running(process) | State::Stopping(process, ..) => Some(process.pid),
            _ => None,
        }
    }

    /// Its process, if nothing is known of its exec yet and nobody has asked it to end.
    pub(super) fn starting(&self) -> Option<i32> {
        if let State::Starting(process, Exec::Pending) = self.state { Some(process.pid) } else { None }
    }

    /// Its process, if that was asked to end before anything was known of its exec.
    pub(super) fn stopping_before_its_exec(&self) -> Option<i32> {
        if let State::Stopping(process, Exec::Pending, _) = self.state { Some(process.pid) } else { None }
    }

    fn stop(&self) -> Option<&Stop> {
        match &self.state {
            State::Stopping(.., stop) => Some(stop),
            State::Clearing(clearing) => Some(&clearing.stop),
            _ => None,
        }
    }

    fn stop_mut(&mut self) -> Option<&mut Stop> {
        match &mut self.state {
            State::Stopping(.., stop) => Some(stop),
            State::Clearing(clearing) => Some(&mut clearing.stop),
            _ => None,
        }
    }

    /// Whether it, or what is left of its session, was asked to end.
    pub(super) fn is_being_ended(&self) -> bool {
        self.stop().is_some_and(|stop| stop.after != After::Death)
    }

    /// Whether it, or what is left of its session, is still being waited for.
    pub(super) fn has_deadline(&self) -> bool {
        self.stop().is_some()
    }

    /// Whether init needn't wait for it any more.
    pub(super) fn is_over(&self, is_stopping: bool) -> bool {
        match &self.state {
            State::Exited | State::Failed => true,
            State::Fresh => is_stopping,
            // They are killed already: the end of a pid namespace waits for them.
            State::Clearing(clearing) => clearing.is_leader_reaped && clearing.stop.after == After::Death,
            _ => false,
        }
    }

    pub(super) fn view(&self) -> View {
        let (state, process) = match self.state {
            State::Starting(process, _) => (DaemonState::Starting, Some(process)),
            State::Running(process) => (DaemonState::Running, Some(process)),
            State::Stopping(process, ..) => (DaemonState::Stopping, Some(process)),
            State::Clearing(_) if self.is_being_ended() => (DaemonState::Stopping, None),
            State::Fresh | State::Forking | State::Clearing(_) | State::Exited => (DaemonState::Exited, None),
            State::Failed => (DaemonState::Failed, None),
        };
        View {
            state,
            pid: process.map(|p| p.pid),
            since: process.map(|p| p.since),
            generation: self.generation,
            // Each start after the first one is by request.
            restarts: self.generation.saturating_sub(1),
            revivals: 0,
            starts_at: None,
            waiting_for: Vec::new(),
            requests: Vec::new(),
            last_exit: self.last_exit,
            notified: self.notified,
        }
    }

    /// When [`Self::time`] has something to do.
    pub(super) fn next(&self) -> Option<Moment> {
        match &self.state {
            State::Running(_) => self.held.iter().map(|held| held.look).min(),
            State::Stopping(.., stop) => Some(stop.phase.due().min(stop.report)),
            State::Clearing(clearing) => Some(clearing.look.min(clearing.stop.report)),
            _ => None,
        }
    }

    /// For so long init could not run: nobody loses that time.
    pub(super) fn move_deadlines(&mut self, lost: Duration) {
        if let Some(stop) = self.stop_mut() {
            stop.move_by(lost);
        }
        self.held.iter_mut().for_each(|held| held.until += lost);
    }

    pub(super) fn start(&mut self, turn: &mut Turn<'_>) {
        if turn.is_stopping {
            return turn.impossible("a start in a shutdown");
        }
        self.state = State::Forking;
        self.generation += 1;
        (self.notified, self.reloading, self.told_of_stranger) = (false, None, false);
        turn.tell(Line::info(format!("starting {}", self.name)).of(self.index));
        turn.act(Action::Start(self.index));
    }

    /// Handles the result of one of its actions.
    pub(super) fn answered(&mut self, event: Event, turn: &mut Turn<'_>) {
        match event {
            Event::Started { pid, .. } => self.started(pid, turn),
            Event::Executed { pid, .. } => self.executed(pid, turn),
            Event::NotExecuted { pid, code, why, .. } => self.not_executed(pid, code, &why, turn),
            Event::StartFailed { code, why, .. } => self.start_failed(code, &why, turn),
            Event::Members { sid, pids, .. } => self.members(sid, pids, turn),
            Event::Mask { pid, signal, disposition, .. } => self.mask(pid, signal, disposition, turn),
            _ => turn.impossible("an answer that is none"),
        }
    }

    fn started(&mut self, pid: i32, turn: &mut Turn<'_>) {
        if !matches!(self.state, State::Forking) {
            return turn.impossible("a process that was not to be started");
        }
        self.state = State::Starting(Process { pid, since: turn.now }, Exec::Pending);
    }

    fn executed(&mut self, pid: i32, turn: &mut Turn<'_>) {
        match &mut self.state {
            State::Starting(process, Exec::Pending) if process.pid == pid => self.state = State::Running(*process),
            State::Stopping(process, exec @ Exec::Pending, _) if process.pid == pid => {
                *exec = Exec::Done;
                return;
            }
            // Its end was handled already.
            _ => return,
        }
        for held in &mut self.held {
            held.until = turn.now + HOLD;
            held.look = turn.now;
        }
        let at_once: Vec<Signal> = self.held.extract_if(.., |held| held.always).map(|held| held.signal).collect();
        for signal in at_once {
            self.deliver(pid, signal, turn);
        }
        turn.restart_ends(self.index, Outcome::Restarted);
    }

    fn not_executed(&mut self, pid: i32, code: i32, why: &str, turn: &mut Turn<'_>) {
        let (State::Starting(process, exec) | State::Stopping(process, exec, _)) = &mut self.state else { return };
        if process.pid == pid && *exec == Exec::Pending {
            *exec = Exec::Failed(code);
            self.tell_of_failed_start(code, why, Some(pid), turn);
        }
    }

    fn tell_of_failed_start(&self, code: i32, why: &str, pid: Option<i32>, turn: &mut Turn<'_>) {
        let text = format!("cannot start {}: {why}; counts as exited {code}", self.name);
        turn.tell(Line { pid, ..Line::warn(text).of(self.index).end(End::Code(code)) });
    }

    fn start_failed(&mut self, code: i32, why: &str, turn: &mut Turn<'_>) {
        if !matches!(self.state, State::Forking) {
            return turn.impossible("the failure of a start that was not requested");
        }
        self.tell_of_failed_start(code, why, None, turn);
        self.fail(code, turn);
        turn.restart_ends(self.index, Outcome::Failed);
    }

    /// It has no process, and its command was not executed.
    fn fail(&mut self, code: i32, turn: &mut Turn<'_>) {
        self.state = State::Failed;
        self.code = Some(code);
        self.last_exit = Some(LastExit { code: Some(code), signal: None, by_init: false });
        self.drop_held(turn);
    }

    pub(super) fn restart(&mut self, turn: &mut Turn<'_>) {
        match &mut self.state {
            // Requested before the first start, which fulfils it.
            State::Fresh | State::Forking => {}
            // One whose exec is still to come is replaced as well: whoever asked must see a later generation, and that
            // exec may hang.
            State::Starting(Process { pid, .. }, _) | State::Running(Process { pid, .. }) => {
                turn.tell(Line::info(format!("restarting {}", self.name)).of(self.index).pid(*pid));
                self.ask_to_end(After::Replacement, turn);
            }
            State::Stopping(.., stop) => stop.after = After::Replacement,
            State::Clearing(clearing) => {
                clearing.stop.after = After::Replacement;
                clearing.look = turn.now;
            }
            State::Exited | State::Failed => self.start(turn),
        }
    }

    pub(super) fn shut_down(&mut self, turn: &mut Turn<'_>) {
        self.drop_held(turn);
        turn.restart_ends(self.index, Outcome::Refused);
        if let State::Starting(Process { pid, .. }, _) | State::Running(Process { pid, .. }) = self.state {
            turn.tell(Line::info(format!("forwarding SIGTERM to {}", self.name)).of(self.index).pid(pid));
            self.ask_to_end(After::Nothing, turn);
        } else if self.is_being_ended() {
            turn.tell(
                Line::info(format!("{} is already stopping; its deadline doesn't change", self.name)).of(self.index),
            );
            if let Some(stop) = self.stop_mut() {
                stop.after = After::Nothing;
            }
        }
    }

    fn ask_to_end(&mut self, after: After, turn: &mut Turn<'_>) {
        let (process, exec) = match self.state {
            State::Starting(process, exec) => (process, exec),
            State::Running(process) => (process, Exec::Done),
            _ => return turn.impossible("a stop of a daemon that isn't running"),
        };
        let (now, pid) = (turn.now, process.pid);
        let phase = if self.grace.is_zero() {
            turn.act(Action::Kill { pid, signal: KILL });
            Phase::killed(now, false)
        } else {
            // A stopped process takes its TERM only once it goes on.
            turn.act(Action::Kill { pid, signal: TERM });
            turn.act(Action::Kill { pid, signal: CONT });
            Phase::Asked { deadline: now + self.grace }
        };
        self.state = State::Stopping(process, exec, Stop::new(now, phase, after));
        self.drop_held(turn);
    }

    /// If init lacks permission to signal a daemon, it can't stop it either, so the restart fails. A shutdown leaves
    /// it to the kernel, which ends all that is left of a pid namespace with its PID 1.
    pub(super) fn not_sent(&mut self, signal: i32, turn: &mut Turn<'_>) {
        match self.state {
            State::Running(_) => turn.forward_failed(signal),
            State::Stopping(process, exec, _) if signal == KILL => {
                let text = format!("{} (pid {}) can't be killed", self.name, process.pid);
                turn.tell(Line::warn(text).of(self.index).pid(process.pid));
                if turn.is_stopping {
                    self.state = State::Exited;
                    self.code = Some(UNENDED);
                } else if exec == Exec::Done {
                    self.state = State::Running(process);
                } else {
                    self.state = State::Starting(process, exec);
                }
                turn.restart_ends(self.index, Outcome::Failed);
            }
            _ => {}
        }
    }

    /// Its process has ended and isn't reaped yet.
    pub(super) fn ended(&mut self, end: End, oom_kills: u64, turn: &mut Turn<'_>) {
        let (process, stop) = match self.state {
            State::Starting(process, exec) => return self.ended_before_its_exec(process, exec, end, turn),
            State::Stopping(process, exec, _) if exec != Exec::Done => {
                return self.ended_before_its_exec(process, exec, end, turn);
            }
            State::Running(process) => (process, None),
            State::Stopping(process, _, stop) => (process, Some(stop)),
            _ => return turn.impossible("the end of a process that had already ended"),
        };
        self.drop_held(turn);
        turn.process_ends(self.index);
        let (was_asked, was_killed) =
            stop.map_or((false, false), |stop| (stop.phase.was_asked(), matches!(stop.phase, Phase::Killed { .. })));
        self.code = Some(match end {
            End::Code(code) => code,
            End::Signal(n) if (n == TERM && was_asked) || (n == KILL && was_killed) => -n,
            End::Signal(n) => 128 + n,
        });
        self.set_last_exit(end, stop.is_some());
        self.tell_of_end(process, end, stop.is_some(), if was_killed { 0 } else { oom_kills }, turn);
        let now = turn.now;
        let stop = match stop {
            None => Stop::new(now, Phase::killed(now, false), After::Death),
            // Its members have no grace left.
            Some(stop) if was_killed => stop.killed(now),
            Some(stop) => stop,
        };
        self.state = State::Clearing(Clearing::new(process.pid, false, stop, now));
        turn.act(Action::LookAtMembers { daemon: self.index, sid: process.pid });
    }

    fn set_last_exit(&mut self, end: End, by_init: bool) {
        let (code, signal) = match end {
            End::Code(code) => (Some(code), None),
            End::Signal(signal) => (None, Some(signal)),
        };
        self.last_exit = Some(LastExit { code, signal, by_init });
        (self.notified, self.reloading) = (false, None);
    }

    fn tell_of_end(&self, process: Process, end: End, by_init: bool, oom_kills: u64, turn: &mut Turn<'_>) {
        let (name, pid, ran) = (&self.name, process.pid, turn.now.saturating_sub(process.since));
        let mut text = format!("{name} (pid {pid}) {end} after {:.3} s", ran.as_secs_f64());
        if end == End::Signal(KILL) && oom_kills > 0 {
            let counted = processes(usize::try_from(oom_kills).unwrap_or(usize::MAX));
            text = format!(
                "{text}; out of memory, it seems: the kernel's OOM killer has killed {counted} of this container since \
                 init last looked"
            );
        }
        let line = if by_init { Line::info(text) } else { Line::warn(text) };
        turn.tell(line.of(self.index).pid(pid).end(end));
        if !by_init && end == End::Code(0) && ran < TOO_SOON {
            let text = format!(
                "{name} exited 0 within a second of its start: if it goes into the background, configure it to stay in \
                 the foreground: init supervises nothing else"
            );
            turn.tell(Line::warn(text).of(self.index));
        }
    }

    fn ended_before_its_exec(&mut self, process: Process, exec: Exec, end: End, turn: &mut Turn<'_>) {
        let phase = self.stop().map(|stop| stop.phase);
        let sent = |signal| match phase {
            Some(Phase::Killed { asked, .. }) => signal == KILL || asked && signal == TERM,
            Some(Phase::Asked { .. }) => signal == TERM,
            None => false,
        };
        let (code, counts) = match (exec, end) {
            (Exec::Failed(code), _) => (code, String::new()),
            // Like any daemon that ends on request: a bundle that is stopped while it starts has not failed.
            (_, End::Signal(signal)) if sent(signal) => (-signal, String::new()),
            _ => (126, "; counts as exited 126".to_owned()),
        };
        if exec != Exec::Failed(code) {
            let (name, pid) = (&self.name, process.pid);
            let text = |by| format!("{name} (pid {pid}) {end}, {by}before its command was executed{counts}");
            let line = if phase.is_some() { Line::info(text("on request, ")) } else { Line::warn(text("")) };
            turn.tell(line.of(self.index).pid(pid).end(end));
        }
        turn.act(Action::KillGroup(process.pid));
        turn.act(Action::Reap(process.pid));
        let is_replaced = self.stop().is_some_and(|stop| stop.after == After::Replacement);
        self.fail(code, turn);
        if code < 0 {
            self.set_last_exit(end, true);
        }
        if is_replaced {
            self.start(turn);
        } else {
            turn.restart_ends(self.index, Outcome::Failed);
        }
    }

    /// A process has ended that is no daemon's.
    pub(super) fn orphan_ended(&mut self, pid: i32, now: Moment) {
        if let State::Clearing(clearing) = &mut self.state {
            clearing.orphan_ended(pid, now);
        }
    }

    /// Handles the list of processes that are left in its session.
    fn members(&mut self, sid: i32, pids: Vec<i32>, turn: &mut Turn<'_>) {
        if let State::Clearing(clearing) = &mut self.state
            && clearing.sid == sid
        {
            if clearing.is_done(Who { daemon: self.index, name: &self.name }, pids, turn) {
                self.go_on(turn);
            }
        } else if let State::Stopping(process, _, stop) = self.state
            && process.pid == sid
            && stop.phase.due() <= turn.now
        {
            self.go_on_without_its_end(sid, stop.killed(turn.now), pids, turn);
        }
    }

    /// Its process was killed but doesn't end, for example because another process traces it. If it ends later, init
    /// reaps it like any orphan.
    fn go_on_without_its_end(&mut self, pid: i32, stop: Stop, members: Vec<i32>, turn: &mut Turn<'_>) {
        let name = &self.name;
        let text = format!(
            "{name} (pid {pid}) has not ended 2 s after SIGKILL (is another process tracing it?); continuing without it"
        );
        turn.tell(Line::warn(text).of(self.index).pid(pid));
        turn.process_ends(self.index);
        self.code = Some(if turn.is_stopping { UNENDED } else { -KILL });
        self.set_last_exit(End::Signal(KILL), true);
        if members.is_empty() {
            turn.act(Action::KillGroup(pid));
        }
        let mut clearing = Clearing::new(pid, true, stop, turn.now);
        let is_done = clearing.is_done(Who { daemon: self.index, name: &self.name }, members, turn);
        self.state = State::Clearing(clearing);
        if is_done {
            self.go_on(turn);
        }
    }

    /// There is nothing left to wait for.
    fn go_on(&mut self, turn: &mut Turn<'_>) {
        if self.stop().is_some_and(|stop| stop.after == After::Replacement) {
            self.start(turn);
        } else {
            self.state = State::Exited;
        }
    }

    pub(super) fn forward(
        &mut self,
        signal: Signal,
        always: bool,
        turn: &mut Turn<'_>,
    ) -> Result<Outcome, &'static str> {
        match self.state {
            State::Running(process) if always => {
                self.deliver(process.pid, signal, turn);
                Ok(Outcome::Delivered)
            }
            State::Fresh | State::Forking | State::Starting(..) | State::Running(_) => {
                if self.held.iter().all(|held| held.signal != signal) {
                    let (now, until) = (turn.now, turn.now + HOLD);
                    self.held.push(Held { signal, always, until, look: now, blocked: 0 });
                    if let State::Running(Process { pid, .. }) = self.state {
                        turn.act(Action::LookAtMask { daemon: self.index, pid, signal });
                    }
                }
                Ok(Outcome::Held)
            }
            State::Stopping(..) | State::Clearing(_) if self.is_being_ended() => Err("it is stopping"),
            _ => Err("it isn't running"),
        }
    }

    /// What its process would do with a signal that is held for it.
    fn mask(&mut self, looked_at: i32, signal: Signal, disposition: Disposition, turn: &mut Turn<'_>) {
        let State::Running(Process { pid, .. }) = self.state else { return };
        let Some(at) = self.held.iter().position(|held| held.signal == signal) else { return };
        if pid != looked_at {
            return;
        }
        let Some(held) = self.held.get_mut(at) else { return };
        let is_taken = match disposition {
            Disposition::Taken => true,
            Disposition::Unknown => {
                let text = format!(
                    "/proc shows no signal masks here; sending SIG{signal} to {} without checking for a handler",
                    self.name
                );
                turn.tell(Line::warn(text).of(self.index));
                true
            }
            Disposition::Blocked => {
                held.blocked += 1;
                held.blocked >= LASTING
            }
            Disposition::NotTaken => {
                held.blocked = 0;
                false
            }
        };
        if !is_taken && turn.now < held.until {
            held.look = held.until.min(turn.now + LOOK_AT_MASK);
            return;
        }
        self.held.swap_remove(at);
        if is_taken {
            self.deliver(pid, signal, turn);
            return;
        }
        let text = format!("{} never caught SIG{signal}, which would have killed it; dropped", self.name);
        turn.tell(Line::warn(text).of(self.index));
        turn.signal_ends(signal, Outcome::NeverCaught);
    }

    fn deliver(&mut self, pid: i32, signal: Signal, turn: &mut Turn<'_>) {
        turn.tell(Line::info(format!("forwarding SIG{signal} to {}", self.name)).of(self.index).pid(pid));
        turn.act(Action::Kill { pid, signal: signal.number() });
        turn.signal_ends(signal, Outcome::Delivered);
    }

    /// Drops the held signals when the process that they were for ends.
    fn drop_held(&mut self, turn: &mut Turn<'_>) {
        for held in self.held.drain(..) {
            let text = format!("SIG{} was held for {}; dropped, since that process has ended", held.signal, self.name);
            turn.tell(Line::warn(text).of(self.index));
            turn.signal_ends(held.signal, Outcome::Refused);
        }
    }

    /// A message from its own process. (So it has executed its command, even if that wasn't reported yet.)
    pub(super) fn notify(&mut self, ready: bool, reloading: Option<u64>, errno: i32, turn: &mut Turn<'_>) {
        if !matches!(self.state, State::Starting(..) | State::Running(_)) {
            return;
        }
        if reloading.is_some() {
            self.reloading = reloading;
            self.notified = false;
        }
        if !ready {
            return;
        }
        self.notified = true;
        if let Some(began) = self.reloading.take() {
            turn.reload_ends(self.index, began, errno);
        }
    }

    /// Whether it still waits for its READY=1 and the log hasn't warned yet that another process sent one.
    pub(super) fn may_be_misnotified(&self) -> bool {
        let is_up = matches!(self.state, State::Starting(..) | State::Running(_));
        self.notifies && is_up && !self.notified && !self.told_of_stranger
    }

    pub(super) fn tell_of_stranger(&mut self, pid: i32, turn: &mut Turn<'_>) {
        self.told_of_stranger = true;
        let name = &self.name;
        let own = self.pid().unwrap_or(0);
        let text = format!(
            "READY=1 came from pid {pid}, which isn't {name}'s own process (pid {own}), so it doesn't count. Call sd_notify \
             in that process itself; a script should exec its program instead of running systemd-notify"
        );
        turn.tell(Line::warn(text).of(self.index));
    }

    /// The time that [`Self::next`] returned may have come.
    pub(super) fn time(&mut self, turn: &mut Turn<'_>) {
        let (name, daemon, now) = (&self.name, self.index, turn.now);
        let who = Who { daemon, name };
        match &mut self.state {
            State::Running(Process { pid, .. }) => {
                for held in self.held.iter().filter(|held| held.look <= now) {
                    turn.act(Action::LookAtMask { daemon, pid: *pid, signal: held.signal });
                }
            }
            State::Stopping(Process { pid, .. }, _, stop) => match stop.phase {
                Phase::Asked { deadline } if deadline <= now => {
                    *stop = stop.killed(now);
                    let text = format!("{name} (pid {pid}) outlived its grace; killing it");
                    turn.tell(Line::warn(text).of(daemon).pid(*pid));
                    turn.act(Action::Kill { pid: *pid, signal: KILL });
                }
                Phase::Killed { give_up, .. } if give_up <= now => {
                    turn.act(Action::LookAtMembers { daemon, sid: *pid });
                }
                _ => stop.report(who, &format!("pid {pid}"), turn),
            },
            State::Clearing(clearing) => {
                if clearing.look <= now {
                    // The answer sets when the next check is due.
                    turn.act(Action::LookAtMembers { daemon, sid: clearing.sid });
                }
                clearing.stop.report(who, &named(&clearing.left), turn);
            }
            _ => {}
        }
    }
}
