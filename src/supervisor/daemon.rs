//! The life of one daemon.
//!
//! | state | a restart request | a stop request | its process ends | its time is up | a shutdown |
//! | --- | --- | --- | --- | --- | --- |
//! | fresh | starts with the rest | – | – | – | never starts |
//! | waiting | starts | stopped | – | – | exited |
//! | forking | that start is it | – | – | – | as soon as it is known: as starting |
//! | starting | asked to stop | asked to stop | backoff or failed | – | asked to stop, or spared |
//! | running | asked to stop | asked to stop | clearing, killed | – | asked to stop, or spared |
//! | stopping, spared | – | – | clearing, killed | asked to stop | – |
//! | stopping, asked | a replacement follows | none follows | clearing, asked | KILL; stopping, killed | none follows |
//! | stopping, killed | a replacement follows | none follows | clearing, killed | goes on without its end | none follows |
//! | clearing, asked | a replacement follows | none follows | – | KILL; clearing, killed | none follows |
//! | clearing, killed | a replacement follows | none follows | – | goes on with what is left | none follows |
//! | backoff | starts | stopped | – | starts | exited |
//! | exited, failed, done, stopped | starts | – | – | – | – |
//!
//! Clearing: the daemon's process has ended, and other processes of its session are left, its members. If it ended on
//! request, they get its stop signal too and have the rest of its grace; otherwise they are killed at once. Once none
//! is left, what follows comes: its replacement, the rest of its backoff, or nothing. If the kernel refuses the KILL, a
//! stopping daemon runs on; in a shutdown it counts as killed.
//!
//! A daemon whose process ends by itself goes through clearing to backoff, exited, failed or done, as its policy says.
//!
//! Spared: in a shutdown, a daemon runs on while its dependents end, for half of its grace at most.

mod requested;
mod shown;
mod shutdown;
mod signals;

use std::time::Duration;

use super::policy::{Delay, starts_again};
use super::probe::Probes;
use super::requests::Requests;
use super::stop::{After, Clearing, Fate, Phase, Stop, Who, named, processes, tell_of_more};
use super::turn::Turn;
use super::{Action, CONT, End, Event, KILL, Line, Moment};
use crate::status::{LastExit, Outcome, RequestOutcome};
use crate::table::{Daemon as Spec, Ready, RestartPolicy, Signal};
use signals::{Held, Said};

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
    /// Its first start waits for its dependencies.
    Waiting,
    /// The answer to [`Action::Start`] is due.
    Forking,
    Starting(Process, Exec),
    Running(Process),
    Stopping(Process, Exec, Stop),
    Clearing(Clearing),
    /// It has ended by itself, and is started again at this time.
    Backoff(Moment),
    Exited,
    Failed,
    /// A request stopped it.
    Stopped,
    /// It is a oneshot, and exited 0.
    Done,
}

/// Why a daemon is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Its turn has come, or a request or signal asked for it.
    Asked,
    Policy,
}

/// What makes a daemon ready, for those that depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReadyBy {
    Exec,
    Probe,
    Notify,
    /// It is a oneshot: it exits 0.
    Success,
}

/// What is known of the exec of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exec {
    Pending,
    Done,
    /// It failed, and counts as having exited with this code.
    Failed(i32),
}

#[derive(Debug)]
pub(super) struct Daemon {
    index: usize,
    name: String,
    grace: Duration,
    stop_signal: Signal,
    policy: RestartPolicy,
    is_essential: bool,
    ready_by: ReadyBy,
    state: State,
    generation: u64,
    /// How many of its starts were by its policy.
    revivals: u64,
    delay: Delay,
    /// It has been ready once, so its dependents may start, whatever happens to it later.
    was_ready: bool,
    probes: Probes,
    requests: Requests,
    last_exit: Option<LastExit>,
    /// Its part in init's exit code: negative if init's own signal killed it.
    code: Option<i32>,
    held: Vec<Held>,
    /// How many signals were delivered to it, and which of them on request, to the process that it has now: a bit for
    /// each number.
    deliveries: u64,
    requested_signals: u128,
    /// What its process has said by `sd_notify`(3).
    said: Said,
}

impl Daemon {
    pub(super) fn new(index: usize, spec: &Spec) -> Self {
        Self {
            index,
            name: spec.name.clone(),
            grace: spec.grace,
            stop_signal: spec.stop_signal,
            policy: spec.restart,
            is_essential: spec.is_essential,
            ready_by: match spec.ready {
                _ if spec.is_oneshot => ReadyBy::Success,
                None => ReadyBy::Exec,
                Some(Ready::Notify) => ReadyBy::Notify,
                Some(_) => ReadyBy::Probe,
            },
            state: State::Fresh,
            generation: 0,
            revivals: 0,
            delay: Delay::first(),
            was_ready: false,
            probes: Probes::new(index),
            requests: Requests::default(),
            last_exit: None,
            code: None,
            held: Vec::new(),
            deliveries: 0,
            requested_signals: 0,
            said: Said::default(),
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

    /// Its process, if it isn't known yet whether it has executed its command, and nobody has asked it to end.
    pub(super) fn starting(&self) -> Option<i32> {
        if let State::Starting(process, Exec::Pending) = self.state { Some(process.pid) } else { None }
    }

    /// Its process, if it was asked to end before it was known whether it has executed its command.
    pub(super) fn stopping_before_its_exec(&self) -> Option<i32> {
        if let State::Stopping(process, Exec::Pending, _) = self.state { Some(process.pid) } else { None }
    }

    fn who(&self) -> Who<'_> {
        Who { daemon: self.index, name: &self.name, signal: self.stop_signal }
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
        self.stop().is_some_and(|stop| !matches!(stop.after, After::Death(_)))
    }

    /// Whether it, or what is left of its session, is still being waited for.
    pub(super) fn has_deadline(&self) -> bool {
        self.stop().is_some()
    }

    /// Whether init needn't wait for it any more.
    pub(super) fn is_over(&self, is_stopping: bool) -> bool {
        match &self.state {
            // If any dependency of a waiting daemon weren't over, init would wait for that one anyway.
            State::Exited | State::Failed | State::Done | State::Waiting => true,
            // It may still be started.
            State::Fresh | State::Stopped => is_stopping,
            // They were sent SIGKILL, and the kernel waits for them when the pid namespace ends.
            State::Clearing(clearing) => {
                let is_dead = matches!(clearing.stop.after, After::Death(fate) if !matches!(fate, Fate::Backoff(_)));
                clearing.is_leader_reaped && is_dead
            }
            _ => false,
        }
    }

    pub(super) fn is_fresh(&self) -> bool {
        matches!(self.state, State::Fresh)
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting)
    }

    /// It has ended, and its policy starts it again.
    pub(super) fn is_in_backoff(&self) -> bool {
        self.starts_at().is_some()
    }

    pub(super) fn was_ready(&self) -> bool {
        self.was_ready
    }

    /// When [`Self::time`] has something to do.
    pub(super) fn next(&self) -> Option<Moment> {
        let next = match &self.state {
            State::Running(_) => self.held.iter().map(|held| held.look).min(),
            State::Stopping(.., stop) => Some(stop.phase.due().min(stop.report)),
            State::Clearing(clearing) => Some(clearing.look.min(clearing.stop.report)),
            State::Backoff(at) => Some(*at),
            _ => None,
        };
        next.into_iter().chain(self.probes.next()).min()
    }

    /// Init could not run for this long, so deadlines move by it.
    pub(super) fn move_deadlines(&mut self, lost: Duration) {
        if let Some(stop) = self.stop_mut() {
            stop.move_by(lost);
        }
        self.held.iter_mut().for_each(|held| held.until += lost);
        self.probes.move_deadlines(lost);
    }

    /// Its first start waits for its dependencies.
    pub(super) fn wait(&mut self) {
        self.state = State::Waiting;
    }

    pub(super) fn start(&mut self, cause: Cause, turn: &mut Turn<'_>) {
        if turn.is_stopping {
            return turn.impossible("a start in a shutdown");
        }
        self.state = State::Forking;
        self.generation += 1;
        if cause == Cause::Policy {
            self.revivals += 1;
        }
        self.requested_signals = 0;
        self.said = Said::default();
        turn.restart_begins(self.index, self.generation);
        self.requests.start_begins(self.generation);
        turn.tell(Line::info(format!("starting {}", self.name)).of(self.index));
        turn.act(Action::Start(self.index));
    }

    /// Handles the result of one of its actions.
    pub(super) fn answered(&mut self, event: Event, turn: &mut Turn<'_>) {
        match event {
            Event::Executed { pid, .. } => self.executed(pid, turn),
            Event::NotExecuted { pid, code, why, .. } => self.not_executed(pid, code, &why, turn),
            Event::StartFailed { code, why, .. } => self.start_failed(code, &why, turn),
            Event::Members { sid, pids, .. } => self.members(sid, pids, turn),
            Event::MembersKilled { sid, killed, refused, .. } => self.members_killed(sid, &killed, &refused, turn),
            Event::Mask { pid, signal, disposition, .. } => self.mask(pid, signal, disposition, turn),
            Event::ProbeStarted { pid, .. } => self.probes.started(pid, turn),
            Event::ProbeFailed { why, .. } => self.probes.failed_to_start(&self.name, why, turn),
            _ => turn.impossible("an answer that is none"),
        }
    }

    pub(super) fn started(&mut self, pid: i32, turn: &mut Turn<'_>) {
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
            // Its end has been handled already.
            _ => return,
        }
        for held in &mut self.held {
            held.until = turn.now + signals::HOLD;
            held.look = turn.now;
        }
        let at_once: Vec<Signal> = self.held.iter().filter(|held| held.always).map(|held| held.signal).collect();
        for signal in at_once {
            self.deliver(pid, signal, turn);
        }
        self.is_executed();
        turn.restart_ends(self.index, Outcome::Restarted);
        self.requests.start_ends(RequestOutcome::Started);
    }

    fn is_executed(&mut self) {
        self.was_ready |= self.ready_by == ReadyBy::Exec;
    }

    /// A start that was begun fails: there is no process that runs.
    fn start_fails(&mut self, turn: &mut Turn<'_>) {
        turn.restart_ends(self.index, Outcome::Failed);
        self.requests.start_ends(RequestOutcome::Failed);
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
        self.start_fails(turn);
        self.rest_or_back_off(code, turn);
    }

    /// Its command was not executed, and it has no process.
    fn fail(&mut self, code: i32, turn: &mut Turn<'_>) {
        self.state = State::Failed;
        self.code = Some(code);
        self.last_exit = Some(LastExit { code: Some(code), signal: None, by_init: false });
        self.drop_held("that process has ended", turn);
    }

    /// What follows when its command couldn't be executed.
    fn rest_or_back_off(&mut self, code: i32, turn: &mut Turn<'_>) {
        let fate = match self.fate(End::Code(code), Duration::ZERO, turn) {
            Fate::Exited => Fate::Failed,
            fate => fate,
        };
        self.follow(After::Death(fate), turn);
    }

    /// What follows after its process has ended by itself.
    fn fate(&mut self, end: End, ran: Duration, turn: &mut Turn<'_>) -> Fate {
        let is_oneshot = self.ready_by == ReadyBy::Success;
        if is_oneshot && end == End::Code(0) {
            self.was_ready = true;
            return Fate::Done;
        }
        if turn.is_stopping {
            return if is_oneshot { Fate::Failed } else { Fate::Exited };
        }
        if starts_again(self.policy, end) {
            let delay = self.delay.after(ran);
            let text = format!("{} is started again in {:.1} s", self.name, delay.as_secs_f64());
            turn.tell(Line::info(text).of(self.index));
            return Fate::Backoff(turn.now + delay);
        }
        if self.is_essential {
            let code = self.code.unwrap_or(0);
            turn.essential.get_or_insert((self.index, if code < 0 { 128 - code } else { code }));
        }
        if !self.was_ready {
            turn.never_ready.push(self.index);
        }
        if is_oneshot { Fate::Failed } else { Fate::Exited }
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
            ask(pid, self.stop_signal, turn);
            Phase::Asked { deadline: now + self.grace }
        };
        self.state = State::Stopping(process, exec, Stop::new(now, phase, after));
        self.drop_held("that process is being stopped", turn);
    }

    /// If init lacks permission to signal a daemon, it can't stop it either, so the restart fails. A shutdown leaves
    /// it to the kernel, which ends all that is left of a pid namespace with its PID 1.
    pub(super) fn not_sent(&mut self, signal: i32, turn: &mut Turn<'_>) {
        match self.state {
            State::Starting(..) | State::Running(_) => self.delivery_fails(signal, turn),
            State::Stopping(process, exec, _) if signal == KILL => {
                let text = format!("{} (pid {}) can't be killed", self.name, process.pid);
                turn.tell(Line::warn(text).of(self.index).pid(process.pid));
                if turn.is_stopping {
                    self.state = State::Exited;
                    self.code = Some(UNENDED);
                } else if exec == Exec::Done {
                    self.state = State::Running(process);
                    self.is_executed();
                } else {
                    self.state = State::Starting(process, exec);
                }
                self.start_fails(turn);
                self.requests.stop_ends(RequestOutcome::Failed);
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
            // It hadn't been asked to stop yet.
            State::Stopping(process, ..) if self.is_spared() => (process, None),
            State::Stopping(process, _, stop) => (process, Some(stop)),
            _ => return turn.impossible("the end of a process that had already ended"),
        };
        self.drop_held("that process has ended", turn);
        turn.process_ends(self.index);
        let (was_asked, was_killed) =
            stop.map_or((false, false), |stop| (stop.phase.was_asked(), matches!(stop.phase, Phase::Killed { .. })));
        self.code = Some(match end {
            End::Code(code) => code,
            End::Signal(n) if (n == self.stop_signal.number() && was_asked) || (n == KILL && was_killed) => -n,
            End::Signal(n) if self.was_sent(n) => -n,
            End::Signal(n) => 128 + n,
        });
        self.set_last_exit(end, stop.is_some());
        self.tell_of_end(process, end, stop.is_some(), if was_killed { 0 } else { oom_kills }, turn);
        let now = turn.now;
        let stop = match stop {
            None => {
                let fate = self.fate(end, now.saturating_sub(process.since), turn);
                Stop::new(now, Phase::killed(now, false), After::Death(fate))
            }
            // Its members get no grace.
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
        (self.said.ready, self.said.reloading) = (false, None);
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
        let is_success = self.ready_by == ReadyBy::Success && end == End::Code(0);
        let line = if by_init || is_success { Line::info(text) } else { Line::warn(text) };
        turn.tell(line.of(self.index).pid(pid).end(end));
        let is_daemon = self.ready_by != ReadyBy::Success;
        if is_daemon && !by_init && end == End::Code(0) && ran < TOO_SOON {
            let text = format!(
                "{name} exited 0 within a second of its start: if it goes into the background, configure it to stay in \
                 the foreground: init supervises nothing else"
            );
            turn.tell(Line::warn(text).of(self.index));
        }
    }

    fn ended_before_its_exec(&mut self, process: Process, exec: Exec, end: End, turn: &mut Turn<'_>) {
        let stop = self.stop().filter(|_| !self.is_spared());
        let (phase, after) = (stop.map(|stop| stop.phase), stop.map(|stop| stop.after));
        let stop_signal = self.stop_signal.number();
        let sent = |signal| {
            (match phase {
                Some(Phase::Killed { asked, .. }) => signal == KILL || asked && signal == stop_signal,
                Some(Phase::Asked { .. }) => signal == stop_signal,
                Some(Phase::Spared { .. }) | None => false,
            }) || self.was_sent(signal)
        };
        let (code, counts) = match (exec, end) {
            (Exec::Failed(code), _) => (code, String::new()),
            // It ended on request, so it isn't a failure: somebody may stop a bundle while it starts.
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
        self.fail(code, turn);
        if code < 0 {
            self.set_last_exit(end, phase.is_some());
        }
        match after {
            Some(After::Nothing) => {}
            Some(after) => self.follow(after, turn),
            None => {
                self.start_fails(turn);
                self.rest_or_back_off(code, turn);
            }
        }
        self.requests.stop_ends(RequestOutcome::Stopped);
    }

    /// A process that isn't a daemon's own has ended.
    pub(super) fn orphan_ended(&mut self, pid: i32, now: Moment) {
        if let State::Clearing(clearing) = &mut self.state {
            clearing.orphan_ended(pid, now);
        }
    }

    /// Handles the list of processes that are left in its session.
    fn members(&mut self, sid: i32, pids: Vec<i32>, turn: &mut Turn<'_>) {
        let who = Who { daemon: self.index, name: &self.name, signal: self.stop_signal };
        if let State::Clearing(clearing) = &mut self.state
            && clearing.sid == sid
        {
            if clearing.is_done(who, pids, turn) {
                self.go_on(turn);
            }
        } else if let State::Stopping(process, _, stop) = self.state
            && process.pid == sid
            && matches!(stop.phase, Phase::Killed { give_up, .. } if give_up <= turn.now)
        {
            self.go_on_without_its_end(sid, stop.killed(turn.now), pids, turn);
        }
    }

    fn members_killed(&mut self, sid: i32, killed: &[i32], refused: &[i32], turn: &mut Turn<'_>) {
        let who = Who { daemon: self.index, name: &self.name, signal: self.stop_signal };
        if !refused.is_empty() {
            turn.tell(Line::warn(format!("{} of {} can't be killed", named(refused), self.name)).of(self.index));
        }
        match &mut self.state {
            State::Clearing(clearing) if clearing.sid == sid => clearing.were_killed(who, killed, turn),
            // Init has gone on without waiting for these.
            _ => tell_of_more(who, killed.len(), turn),
        }
    }

    /// No process is left in this session, if it is the one that the daemon waits for.
    pub(super) fn session_is_gone(&mut self, sid: i32, turn: &mut Turn<'_>) {
        if matches!(&self.state, State::Clearing(clearing) if clearing.sid == sid && clearing.is_leader_reaped) {
            self.members(sid, Vec::new(), turn);
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
        let is_done = clearing.is_done(self.who(), members, turn);
        self.state = State::Clearing(clearing);
        if is_done {
            self.go_on(turn);
        }
    }

    /// No process of its session is left to wait for.
    fn go_on(&mut self, turn: &mut Turn<'_>) {
        if let Some(after) = self.stop().map(|stop| stop.after) {
            self.follow(after, turn);
        }
        self.requests.stop_ends(RequestOutcome::Stopped);
    }

    fn follow(&mut self, after: After, turn: &mut Turn<'_>) {
        self.state = match after {
            After::Replacement => return self.start(Cause::Asked, turn),
            After::Death(Fate::Backoff(at)) if at <= turn.now => return self.start(Cause::Policy, turn),
            After::Death(Fate::Backoff(at)) => State::Backoff(at),
            After::Stopped => State::Stopped,
            After::Nothing => self.ended_in_a_shutdown(),
            After::Death(Fate::Exited) => State::Exited,
            After::Death(Fate::Failed) => State::Failed,
            After::Death(Fate::Done) => State::Done,
        };
    }

    /// The state in which a shutdown leaves a daemon in backoff: for a oneshot, the one that its last end means.
    fn ended_in_a_shutdown(&self) -> State {
        match self.last_exit {
            Some(exit) if self.ready_by == ReadyBy::Success && !exit.by_init => {
                if exit.code == Some(0) {
                    State::Done
                } else {
                    State::Failed
                }
            }
            _ => State::Exited,
        }
    }

    /// Probes the daemon while somebody waits for it to be ready and only a probe can tell.
    pub(super) fn tend_probes(&mut self, is_waited_for: bool, turn: &mut Turn<'_>) {
        let can_be_probed = matches!(self.state, State::Running(_)) && self.ready_by == ReadyBy::Probe;
        if is_waited_for && can_be_probed && !self.was_ready {
            self.probes.want(turn);
        } else {
            self.probes.want_none(turn);
        }
    }

    pub(super) fn is_probed(&self) -> bool {
        !self.probes.is_idle()
    }

    /// The probe of it that hasn't been reaped yet.
    pub(super) fn probe(&self) -> Option<i32> {
        self.probes.pid()
    }

    pub(super) fn probe_ended(&mut self, end: End, words: String, turn: &mut Turn<'_>) {
        self.was_ready |= self.probes.ended(&self.name, end, words, turn);
    }

    /// The time that [`Self::next`] returned may have come.
    pub(super) fn time(&mut self, turn: &mut Turn<'_>) {
        self.probes.time(&self.name, turn);
        let (name, daemon, now) = (&self.name, self.index, turn.now);
        let who = Who { daemon, name, signal: self.stop_signal };
        match &mut self.state {
            State::Running(Process { pid, .. }) => {
                for held in self.held.iter().filter(|held| held.look <= now) {
                    turn.act(Action::LookAtMask { daemon, pid: *pid, signal: held.signal });
                }
            }
            State::Backoff(at) if *at <= now => self.start(Cause::Policy, turn),
            State::Stopping(Process { pid, .. }, _, stop) => match stop.phase {
                Phase::Spared { ask, .. } if ask <= now => self.spare_no_more(turn),
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

/// Asks a process to stop. A stopped process is continued too, since it gets the signal only then.
fn ask(pid: i32, signal: Signal, turn: &mut Turn<'_>) {
    turn.act(Action::Kill { pid, signal: signal.number() });
    turn.act(Action::Kill { pid, signal: CONT });
}
