//! The decision core of init: events in, actions out. No clock, no system call, no global.
//!
//! The time comes with the event, as a point of the monotonic clock. A deadline lives in the state that it is for,
//! so one of an earlier stop can't fire in a later one.
//!
//! | state | a restart request | its process ends | the deadline | a shutdown |
//! | --- | --- | --- | --- | --- |
//! | fresh | starts with the rest | – | – | is never started |
//! | running | TERM, stopping | exited | – | TERM, stopping |
//! | stopping | replacement wanted | clearing, or exited | KILL; where that is refused, running | no replacement; where KILL is refused, exited |
//! | clearing | nothing more | – | starts, logged | exited |
//! | exited, failed | starts, or clearing | – | – | – |

mod driver;
mod selection;

use std::time::Duration;

pub use driver::{Ended, Sent, System};
pub use selection::{Selection, select};

use crate::status::{DaemonState, InitState, Last, LastExit, Outcome};
use crate::table::{Action as WireAction, Signal, Table};

/// A point of the monotonic clock.
pub type Moment = Duration;
/// Signal numbers that are the same on every Linux that this runs on: signal(7).
const KILL: i32 = 9;
const TERM: i32 = 15;
const CONT: i32 = 18;
/// How long a replacement waits for the old process group to be gone once that was killed.
const CLEARING: Duration = Duration::from_secs(2);
/// How often a process group that is being cleared is looked at.
const LOOK_AT_GROUP: Duration = Duration::from_millis(5);
/// How often it is looked at whether a daemon catches a held signal.
const LOOK_AT_MASK: Duration = Duration::from_millis(20);
/// At how many looks in a row, a second's worth, a daemon must block every signal for that to be its way of taking
/// them. Looks, not time: on a busy machine two of them may be far apart, with a fork at each.
const LASTING: u32 = 50;
/// How long a signal is held for a daemon that doesn't catch it.
const HOLD: Duration = Duration::from_secs(20);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// What a process would do with a signal, as `/proc/PID/status` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// It catches it (`SigCgt`), or blocks it among chosen ones (`SigBlk`, signalfd(2)).
    Taken,
    /// It blocks every signal, SIGSEGV too: as libc does for the length of a fork or of a thread's start, vfork(2)
    /// until the child has executed. A signal that is sent meanwhile is served afterwards, by death.
    Blocked,
    /// It does neither: the signal would kill it, or be lost.
    NotTaken,
    /// /proc shows no signal masks.
    Unknown,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Start the daemons. Signals that were pending before come before it.
    Begin,
    /// TERM, INT or QUIT.
    Stop,
    /// A wired signal, or one that could be wired.
    Signal(Signal),
    /// The fork of a start worked. What became of the exec comes as [`Event::Executed`] or [`Event::NotExecuted`].
    Started {
        /// Which daemon.
        daemon: usize,
        /// Its process, which leads a session and a process group of its own.
        pid: i32,
    },
    /// The close-on-exec pipe of a start was closed without a word: the command runs. (Or the child was killed before
    /// its exec, which looks the same; its end follows.)
    Executed {
        /// Which daemon.
        daemon: usize,
        /// Its process.
        pid: i32,
    },
    /// The child of a start couldn't execute the command. It exits at once; its end follows.
    NotExecuted {
        /// Which daemon.
        daemon: usize,
        /// Its process.
        pid: i32,
        /// 127 (not found) or 126 (anything else).
        code: i32,
        /// Why, for the log.
        why: String,
    },
    /// A start failed before there was a child.
    StartFailed {
        /// Which daemon.
        daemon: usize,
        /// 127 (not found) or 126 (anything else).
        code: i32,
        /// Why, for the log.
        why: String,
    },
    /// A child has ended and is not reaped yet.
    Ended {
        /// The child, a daemon's process or an orphan.
        pid: i32,
        /// How it ended.
        end: End,
        /// How many OOM kills the memory cgroup has counted since init last looked. It looks if the end is signal 9.
        oom_kills: u64,
    },
    /// The answer to an [`Action::Kill`] that the kernel refused.
    NotSent {
        /// The process.
        pid: i32,
        /// The signal's number.
        signal: i32,
    },
    /// The answer to [`Action::LookAtMembers`].
    Members {
        /// Which daemon.
        daemon: usize,
        /// The session: the pid of the process that led it.
        sid: i32,
        /// Its living processes (a zombie doesn't live), without its leader.
        pids: Vec<i32>,
    },
    /// The answer to [`Action::LookAtMask`].
    Mask {
        /// Which daemon.
        daemon: usize,
        /// The process that was looked at.
        pid: i32,
        /// The signal in question.
        signal: Signal,
        /// What it would do with it.
        disposition: Disposition,
    },
    /// An `sd_notify`(3) message from this process.
    Notify {
        /// The sender, as the kernel tells it.
        pid: i32,
        /// `READY=1` was in it.
        ready: bool,
        /// `RELOADING=1` with `MONOTONIC_USEC=`, in microseconds.
        reloading: Option<u64>,
        /// `ERRNO=`, 0 if there is none.
        errno: i32,
        /// The sender's session (getsid(2)) at the receipt; `None` if the sender is gone already.
        session: Option<i32>,
    },
    /// A moment that [`Supervisor::next`] named has come.
    Time,
}

/// How loud a line of init's log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Of interest only to somebody who looks for something.
    Debug,
    /// Everyday.
    Info,
    /// Something was not as asked for.
    Warn,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Start the daemon; answered by [`Event::Started`] or [`Event::StartFailed`].
    Start(usize),
    /// Send a signal to a process that is not reaped yet; answered by [`Event::NotSent`] where that is refused.
    Kill {
        /// The process.
        pid: i32,
        /// The signal's number.
        signal: i32,
    },
    /// SIGKILL to what is left of a process group whose leader is not reaped yet.
    KillGroup(i32),
    /// Reap a child that has ended.
    Reap(i32),
    /// Send a signal to a process if it still belongs to this session.
    KillMember {
        /// The session.
        sid: i32,
        /// The process.
        pid: i32,
        /// The signal's number.
        signal: i32,
    },
    /// Tell which processes of a session are left; answered by [`Event::Members`].
    LookAtMembers {
        /// For which daemon.
        daemon: usize,
        /// The session.
        sid: i32,
    },
    /// Tell what a process would do with a signal; answered by [`Event::Mask`].
    LookAtMask {
        /// For which daemon.
        daemon: usize,
        /// The process.
        pid: i32,
        /// The signal in question.
        signal: Signal,
    },
    /// A line for init's log.
    Tell(Level, String),
    /// Nothing is left to supervise: exit with this code.
    Exit(i32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Fresh,
    Starting,
    Running { pid: i32, since: Moment },
    Stopping { pid: i32, since: Moment, deadline: Moment, termed: bool, killed: bool, replace: bool },
    Clearing { pgid: i32, until: Moment, look: Moment },
    Exited,
    Failed,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    signal: Signal,
    /// Sent without a look as soon as there is a process.
    always: bool,
    until: Moment,
    look: Moment,
    /// At how many looks in a row the daemon blocked every signal.
    blocked: u32,
}

#[derive(Debug)]
struct Daemon {
    name: String,
    grace: Duration,
    state: State,
    generation: u64,
    last_exit: Option<LastExit>,
    /// Its part in init's exit code: negative where init's own signal killed it.
    code: Option<i32>,
    /// The old process group, and when it stops to matter, where it may still have members.
    swept: Option<(i32, Moment)>,
    held: Vec<Held>,
    notified: bool,
    /// The `MONOTONIC_USEC` of a reload under way.
    reloading: Option<u64>,
}

#[derive(Debug)]
struct Wire {
    signal: Signal,
    action: WireAction,
    target: String,
    daemon: Option<usize>,
    seq: u64,
    last: Option<(Outcome, Moment)>,
    delivered: Option<Moment>,
    reload_errno: Option<i32>,
}

/// What status shows of one daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// What it does.
    pub state: DaemonState,
    /// Its process.
    pub pid: Option<i32>,
    /// When that was started.
    pub since: Option<Moment>,
    /// Counts its starts.
    pub generation: u64,
    /// Counts those by request.
    pub restarts: u64,
    /// How its last process ended.
    pub last_exit: Option<LastExit>,
    /// Whether it has said READY=1 and is not reloading.
    pub notified: bool,
}

/// The core: one for each run of init.
#[derive(Debug)]
pub struct Supervisor {
    daemons: Vec<Daemon>,
    wires: Vec<Wire>,
    stopping: bool,
    begun: bool,
    ended: bool,
}

impl Supervisor {
    /// A core for the selected daemons of a table, given as indices in table order.
    #[must_use]
    pub fn new(table: &Table, selected: &[usize]) -> Self {
        let daemons: Vec<Daemon> = selected
            .iter()
            .filter_map(|i| table.daemons.get(*i))
            .map(|spec| Daemon {
                name: spec.name.clone(),
                grace: spec.grace,
                state: State::Fresh,
                generation: 0,
                last_exit: None,
                code: None,
                swept: None,
                held: Vec::new(),
                notified: false,
                reloading: None,
            })
            .collect();
        let wires = table
            .wiring
            .iter()
            .map(|wire| {
                let target = table.daemons.get(wire.daemon).map_or_else(String::new, |d| d.name.clone());
                let daemon = daemons.iter().position(|d| d.name == target);
                let (signal, action) = (wire.signal, wire.action.clone());
                Wire { signal, action, target, daemon, seq: 0, last: None, delivered: None, reload_errno: None }
            })
            .collect();
        Self { daemons, wires, stopping: false, begun: false, ended: false }
    }

    /// Decides what follows from an event at `now`.
    pub fn handle(&mut self, now: Moment, event: Event) -> Vec<Action> {
        let mut out = Vec::new();
        match event {
            Event::Begin => self.begin(&mut out),
            Event::Stop => self.stop(now, &mut out),
            Event::Signal(signal) => self.signal(now, signal, &mut out),
            Event::Started { daemon, pid } => self.started(now, daemon, pid, &mut out),
            Event::StartFailed { daemon, code, why } => self.start_failed(now, daemon, code, &why, &mut out),
            // Until the supervisor knows of them: a child that couldn't execute its command ends as any other.
            Event::Executed { .. } | Event::NotExecuted { .. } => {}
            Event::Ended { pid, end, oom_kills: _ } => self.process_ended(now, pid, end, &mut out),
            Event::NotSent { pid, signal } => self.not_sent(now, pid, signal, &mut out),
            Event::Members { daemon, sid: _, pids } => self.group(now, daemon, pids.is_empty(), &mut out),
            Event::Mask { daemon, pid, signal, disposition } => {
                self.mask(now, daemon, pid, signal, disposition, &mut out);
            }
            Event::Notify { pid, ready, reloading, errno, session: _ } => self.notify(pid, ready, reloading, errno),
            Event::Time => self.time(now, &mut out),
        }
        self.end(&mut out);
        out
    }

    /// When [`Event::Time`] is due, if nothing happens before.
    #[must_use]
    pub fn next(&self) -> Option<Moment> {
        let states = self.daemons.iter().filter_map(|d| match d.state {
            State::Stopping { deadline, killed: false, .. } => Some(deadline),
            State::Clearing { look, .. } => Some(look),
            _ => None,
        });
        // Before its start there is nothing to look at.
        let running = self.daemons.iter().filter(|d| matches!(d.state, State::Running { .. }));
        states.chain(running.flat_map(|d| d.held.iter().map(|h| h.look))).min()
    }

    /// What init does as a whole.
    #[must_use]
    pub fn state(&self) -> InitState {
        if self.stopping { InitState::Stopping } else { InitState::Running }
    }

    /// What status shows of a daemon.
    #[must_use]
    pub fn view(&self, daemon: usize) -> Option<View> {
        let d = self.daemons.get(daemon)?;
        let (state, process) = match d.state {
            State::Running { pid, since } => (DaemonState::Running, Some((pid, since))),
            State::Stopping { pid, since, .. } => (DaemonState::Stopping, Some((pid, since))),
            State::Clearing { .. } => (DaemonState::Stopping, None),
            State::Fresh | State::Starting | State::Exited => (DaemonState::Exited, None),
            State::Failed => (DaemonState::Failed, None),
        };
        Some(View {
            state,
            pid: process.map(|p| p.0),
            since: process.map(|p| p.1),
            generation: d.generation,
            // Each start after the first one is by request.
            restarts: d.generation.saturating_sub(1),
            last_exit: d.last_exit,
            notified: d.notified,
        })
    }

    /// What became of the last signal of a wire, by its index in the table's wiring.
    #[must_use]
    pub fn last(&self, wire: usize) -> Option<Last> {
        let wire = self.wires.get(wire)?;
        let (outcome, at) = wire.last?;
        let age_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        Some(Last { seq: wire.seq, outcome, age_ms, reload_errno: wire.reload_errno })
    }

    /// Whether the daemon is being ended, so that its output must be read come what may: a process that is
    /// blocked on a full pipe can't obey its TERM.
    #[must_use]
    pub fn is_being_ended(&self, daemon: usize) -> bool {
        self.stopping || self.daemons.get(daemon).is_some_and(|d| matches!(d.state, State::Stopping { .. }))
    }

    fn begin(&mut self, out: &mut Vec<Action>) {
        self.begun = true;
        if self.stopping {
            return;
        }
        for index in 0..self.daemons.len() {
            self.start(index, out);
        }
    }

    fn start(&mut self, index: usize, out: &mut Vec<Action>) {
        if let Some(d) = self.daemons.get_mut(index) {
            d.state = State::Starting;
            d.generation += 1;
            d.swept = None;
            out.push(Action::Tell(Level::Info, format!("starting {}", d.name)));
            out.push(Action::Start(index));
        }
    }

    fn started(&mut self, now: Moment, index: usize, pid: i32, out: &mut Vec<Action>) {
        let Some(d) = self.daemons.get_mut(index) else { return };
        d.state = State::Running { pid, since: now };
        d.notified = false;
        d.reloading = None;
        for held in &mut d.held {
            held.until = now + HOLD;
            held.look = now;
        }
        let at_once: Vec<Signal> = d.held.extract_if(.., |h| h.always).map(|h| h.signal).collect();
        for signal in at_once {
            self.deliver(now, index, pid, signal, out);
        }
        self.settle_restart(now, index, Outcome::Restarted);
        if self.stopping {
            self.stop_one(now, index, false, out);
        }
    }

    fn start_failed(&mut self, now: Moment, index: usize, code: i32, why: &str, out: &mut Vec<Action>) {
        let Some(d) = self.daemons.get_mut(index) else { return };
        d.state = State::Failed;
        d.code = Some(code);
        d.last_exit = Some(LastExit { code: Some(code), signal: None, by_init: false });
        out.push(Action::Tell(Level::Warn, format!("cannot start {}: {why}; counts as exited {code}", d.name)));
        self.drop_held(now, index, out);
        self.settle_restart(now, index, Outcome::Failed);
    }

    /// Every wire that waits for this daemon's restart has its outcome now.
    fn settle_restart(&mut self, now: Moment, index: usize, outcome: Outcome) {
        for wire in self.wires.iter_mut().filter(|w| w.daemon == Some(index)) {
            if wire.last.is_some_and(|(o, _)| o == Outcome::Restarting) {
                wire.last = Some((outcome, now));
            }
        }
    }

    /// A held signal ends with the process that it was for.
    fn drop_held(&mut self, now: Moment, index: usize, out: &mut Vec<Action>) {
        let Some(d) = self.daemons.get_mut(index) else { return };
        for held in d.held.drain(..) {
            let text = format!("SIG{} was held for {} and ends with its process", held.signal, d.name);
            out.push(Action::Tell(Level::Warn, text));
        }
        for wire in self.wires.iter_mut().filter(|w| w.daemon == Some(index)) {
            if wire.last.is_some_and(|(o, _)| o == Outcome::Held) {
                wire.last = Some((Outcome::Refused, now));
            }
        }
    }

    fn stop(&mut self, now: Moment, out: &mut Vec<Action>) {
        if self.stopping {
            out.push(Action::Tell(Level::Info, "a shutdown is under way already; no deadline moves".to_owned()));
            return;
        }
        self.stopping = true;
        for index in 0..self.daemons.len() {
            self.drop_held(now, index, out);
            self.settle_restart(now, index, Outcome::Refused);
            let Some(d) = self.daemons.get_mut(index) else { continue };
            match &mut d.state {
                State::Running { .. } => {
                    out.push(Action::Tell(Level::Info, format!("forwarding SIGTERM to {}", d.name)));
                    self.stop_one(now, index, false, out);
                }
                State::Stopping { replace, .. } => {
                    *replace = false;
                    let text = format!("{} is stopping already; it keeps its deadline", d.name);
                    out.push(Action::Tell(Level::Info, text));
                }
                State::Clearing { .. } => d.state = State::Exited,
                State::Fresh | State::Starting | State::Exited | State::Failed => {}
            }
        }
    }

    fn stop_one(&mut self, now: Moment, index: usize, replace: bool, out: &mut Vec<Action>) {
        let Some(d) = self.daemons.get_mut(index) else { return };
        let State::Running { pid, since } = d.state else { return };
        // A grace of 0 means KILL at once.
        let killed = d.grace.is_zero();
        d.state = State::Stopping { pid, since, deadline: now + d.grace, termed: !killed, killed, replace };
        if killed {
            out.push(Action::Kill { pid, signal: KILL });
        } else {
            // A stopped process takes its TERM only once it goes on.
            out.push(Action::Kill { pid, signal: TERM });
            out.push(Action::Kill { pid, signal: CONT });
        }
        self.drop_held(now, index, out);
    }

    fn signal(&mut self, now: Moment, signal: Signal, out: &mut Vec<Action>) {
        let Some(at) = self.wires.iter().position(|w| w.signal == signal) else {
            out.push(Action::Tell(Level::Info, format!("SIG{signal} isn't wired to anything; nothing was done")));
            return;
        };
        let Some(wire) = self.wires.get_mut(at) else { return };
        wire.seq += 1;
        wire.reload_errno = None;
        wire.delivered = None;
        let (action, daemon, target) = (wire.action.clone(), wire.daemon, wire.target.clone());
        let outcome = match (daemon, self.stopping) {
            // The shell serves what came together with the last death; init is as good as gone.
            _ if self.ended => Err("every daemon has ended, and so does init"),
            (Some(index), false) => match action {
                WireAction::Restart => Ok(self.restart(now, index, out)),
                WireAction::Forward { always } => self.forward(now, index, signal, always, out),
            },
            (None, _) => Err("it isn't selected"),
            (_, true) => Err("a shutdown is under way"),
        };
        let outcome = outcome.unwrap_or_else(|why| {
            out.push(Action::Tell(Level::Warn, format!("SIG{signal} for {target}: {why}; nothing was done")));
            Outcome::Refused
        });
        if let Some(wire) = self.wires.get_mut(at) {
            wire.last = Some((outcome, now));
        }
    }

    fn restart(&mut self, now: Moment, index: usize, out: &mut Vec<Action>) -> Outcome {
        let Some(d) = self.daemons.get_mut(index) else { return Outcome::Refused };
        match d.state {
            // Asked for before the first start, or while a stop for a restart is under way: that start is it.
            State::Fresh | State::Starting | State::Stopping { .. } | State::Clearing { .. } => {}
            State::Running { .. } => {
                out.push(Action::Tell(Level::Info, format!("restarting {}", d.name)));
                self.stop_one(now, index, true, out);
            }
            State::Exited | State::Failed => match d.swept {
                Some((pgid, until)) => {
                    d.state = State::Clearing { pgid, until, look: now };
                    out.push(Action::LookAtMembers { daemon: index, sid: pgid });
                }
                None => self.start(index, out),
            },
        }
        Outcome::Restarting
    }

    fn forward(
        &mut self,
        now: Moment,
        index: usize,
        signal: Signal,
        always: bool,
        out: &mut Vec<Action>,
    ) -> Result<Outcome, &'static str> {
        let Some(d) = self.daemons.get_mut(index) else { return Err("it isn't selected") };
        match d.state {
            State::Running { pid, .. } if always => {
                self.deliver(now, index, pid, signal, out);
                Ok(Outcome::Delivered)
            }
            State::Fresh | State::Starting | State::Running { .. } => {
                if d.held.iter().all(|h| h.signal != signal) {
                    d.held.push(Held { signal, always, until: now + HOLD, look: now, blocked: 0 });
                    if let State::Running { pid, .. } = d.state {
                        out.push(Action::LookAtMask { daemon: index, pid, signal });
                    }
                }
                Ok(Outcome::Held)
            }
            State::Stopping { .. } | State::Clearing { .. } => Err("it is stopping"),
            State::Exited | State::Failed => Err("it doesn't run"),
        }
    }

    fn mask(
        &mut self,
        now: Moment,
        index: usize,
        looked_at: i32,
        signal: Signal,
        disposition: Disposition,
        out: &mut Vec<Action>,
    ) {
        let Some(d) = self.daemons.get_mut(index) else { return };
        let State::Running { pid, .. } = d.state else { return };
        let Some(at) = d.held.iter().position(|h| h.signal == signal) else { return };
        if pid != looked_at {
            return;
        }
        let Some(held) = d.held.get_mut(at) else { return };
        let is_taken = match disposition {
            Disposition::Taken => true,
            Disposition::Unknown => {
                let text = format!("/proc tells no signal masks here; SIG{signal} goes to {} at once", d.name);
                out.push(Action::Tell(Level::Warn, text));
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
        if !is_taken && now < held.until {
            held.look = held.until.min(now + LOOK_AT_MASK);
            return;
        }
        d.held.swap_remove(at);
        if is_taken {
            self.deliver(now, index, pid, signal, out);
            return;
        }
        let text = format!("{} never caught SIG{signal}, which would have killed it; dropped", d.name);
        out.push(Action::Tell(Level::Warn, text));
        if let Some(wire) = self.wires.iter_mut().find(|w| w.signal == signal) {
            wire.last = Some((Outcome::NeverCaught, now));
        }
    }

    fn deliver(&mut self, now: Moment, index: usize, pid: i32, signal: Signal, out: &mut Vec<Action>) {
        let name = self.daemons.get(index).map_or("", |d| d.name.as_str());
        out.push(Action::Tell(Level::Info, format!("forwarding SIG{signal} to {name}")));
        out.push(Action::Kill { pid, signal: signal.number() });
        if let Some(wire) = self.wires.iter_mut().find(|w| w.signal == signal) {
            wire.last = Some((Outcome::Delivered, now));
            wire.delivered = Some(now);
        }
    }

    /// Whom init may not signal, since it is another user's, it may not end either: that is its restart's failure. A
    /// shutdown leaves it to the kernel, which ends all that is left of a pid namespace with its PID 1.
    fn not_sent(&mut self, now: Moment, pid: i32, signal: i32, out: &mut Vec<Action>) {
        for (index, d) in self.daemons.iter_mut().enumerate() {
            match d.state {
                State::Running { pid: this, .. } if this == pid => {
                    if let Some(wire) = self.wires.iter_mut().find(|w| w.signal.number() == signal) {
                        wire.last = Some((Outcome::Failed, now));
                        wire.delivered = None;
                    }
                }
                State::Stopping { pid: this, since, .. } if this == pid && signal == KILL => {
                    out.push(Action::Tell(Level::Warn, format!("{} (pid {pid}) can't be killed", d.name)));
                    if self.stopping {
                        d.state = State::Exited;
                        d.code = Some(-KILL);
                    } else {
                        d.state = State::Running { pid, since };
                    }
                    return self.settle_restart(now, index, Outcome::Failed);
                }
                _ => {}
            }
        }
    }

    fn process_ended(&mut self, now: Moment, pid: i32, end: End, out: &mut Vec<Action>) {
        let of =
            |d: &Daemon| matches!(d.state, State::Running { pid: p, .. } | State::Stopping { pid: p, .. } if p == pid);
        let Some(index) = self.daemons.iter().position(of) else {
            out.push(Action::Reap(pid));
            // It may have been the last of a group that a replacement waits for.
            for (daemon, d) in self.daemons.iter().enumerate() {
                if let State::Clearing { pgid, .. } = d.state {
                    out.push(Action::LookAtMembers { daemon, sid: pgid });
                }
            }
            return;
        };
        // The group goes before the reap: until then its id can't have been given to anybody else.
        out.push(Action::KillGroup(pid));
        out.push(Action::Reap(pid));
        self.drop_held(now, index, out);
        for wire in self.wires.iter_mut().filter(|w| w.daemon == Some(index)) {
            // What a later process reloads is no answer to a signal that this one got.
            wire.delivered = None;
        }
        let Some(d) = self.daemons.get_mut(index) else { return };
        let (since, termed, killed, replace) = match d.state {
            State::Stopping { since, termed, killed, replace, .. } => (since, termed, killed, replace),
            State::Running { since, .. } => (since, false, false, false),
            _ => return,
        };
        let ran = now.saturating_sub(since).as_secs_f64();
        let (code, signal, how) = match end {
            End::Code(code) => (Some(code), None, format!("exited {code}")),
            End::Signal(signal) => (None, Some(signal), format!("was killed by signal {signal}")),
        };
        d.code = Some(match end {
            End::Code(code) => code,
            End::Signal(n) if (n == TERM && termed) || (n == KILL && killed) => -n,
            End::Signal(n) => 128 + n,
        });
        d.last_exit = Some(LastExit { code, signal, by_init: termed || killed });
        d.notified = false;
        d.reloading = None;
        let level = if termed || killed { Level::Info } else { Level::Warn };
        out.push(Action::Tell(level, format!("{} (pid {pid}) {how} after {ran:.3} s", d.name)));
        d.swept = Some((pid, now + CLEARING));
        if replace {
            d.state = State::Clearing { pgid: pid, until: now + CLEARING, look: now };
            out.push(Action::LookAtMembers { daemon: index, sid: pid });
        } else {
            d.state = State::Exited;
        }
    }

    fn group(&mut self, now: Moment, index: usize, empty: bool, out: &mut Vec<Action>) {
        let Some(d) = self.daemons.get_mut(index) else { return };
        let State::Clearing { until, look, .. } = &mut d.state else { return };
        if !empty && now < *until {
            *look = (*until).min(now + LOOK_AT_GROUP);
            return;
        }
        if !empty {
            let text = format!("the old process group of {} is still not gone after 2 s; starting anyway", d.name);
            out.push(Action::Tell(Level::Warn, text));
        }
        self.start(index, out);
    }

    fn notify(&mut self, pid: i32, ready: bool, reloading: Option<u64>, errno: i32) {
        let of = |d: &Daemon| matches!(d.state, State::Running { pid: p, .. } if p == pid);
        let Some(index) = self.daemons.iter().position(of) else { return };
        let Some(d) = self.daemons.get_mut(index) else { return };
        if reloading.is_some() {
            d.reloading = reloading;
            d.notified = false;
        }
        if !ready {
            return;
        }
        d.notified = true;
        let Some(began) = d.reloading.take() else { return };
        for wire in self.wires.iter_mut().filter(|w| w.daemon == Some(index)) {
            if wire.delivered.is_some_and(|at| u128::from(began) >= at.as_micros()) {
                wire.reload_errno = Some(errno);
            }
        }
    }

    fn time(&mut self, now: Moment, out: &mut Vec<Action>) {
        for (index, d) in self.daemons.iter_mut().enumerate() {
            match &mut d.state {
                State::Stopping { pid, deadline, killed, .. } if !*killed && *deadline <= now => {
                    *killed = true;
                    let text = format!("{} (pid {pid}) outlived its grace; killing it", d.name);
                    out.push(Action::Tell(Level::Warn, text));
                    out.push(Action::Kill { pid: *pid, signal: KILL });
                }
                // The answer to a look says when the next one is due.
                State::Clearing { pgid, look, .. } if *look <= now => {
                    out.push(Action::LookAtMembers { daemon: index, sid: *pgid });
                }
                State::Running { pid, .. } => {
                    for held in d.held.iter().filter(|h| h.look <= now) {
                        out.push(Action::LookAtMask { daemon: index, pid: *pid, signal: held.signal });
                    }
                }
                _ => {}
            }
        }
    }

    fn end(&mut self, out: &mut Vec<Action>) {
        let over = |d: &Daemon| match d.state {
            State::Exited | State::Failed => true,
            State::Fresh => self.stopping,
            _ => false,
        };
        if self.begun && !self.ended && self.daemons.iter().all(over) {
            self.ended = true;
            out.push(Action::Exit(self.exit_code()));
        }
    }

    fn exit_code(&self) -> i32 {
        match self.daemons.iter().filter_map(|d| d.code).max() {
            Some(code) if code < 0 => 128 - code,
            Some(code) => code,
            None if self.stopping => 128 + TERM,
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests;
