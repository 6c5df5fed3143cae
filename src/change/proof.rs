//! Decides whether a change is live, from what init's status page shows. No I/O, no clock: pages, answers of probes and the
//! time come in, a verdict goes out.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::reason::{Outcome, Reason, Shortfall};
use crate::request::Verb;
use crate::status::{self, Daemon, DaemonState, InitState, Last, LastExit, Page, Plan, RequestOutcome};
use crate::table::{Ready, Signal};
use crate::text::Printable;

/// How often a daemon is probed again during its settling time, in milliseconds.
const ASK_AGAIN_MS: u64 = 50;
/// After a crash, a process that has run for less than this may be in a crash loop; init's delays start over after this time.
/// In milliseconds.
const CRASH_LOOP_MS: u64 = 10_000;
/// If the deadline cuts a probe short before this time, in milliseconds, its silence says nothing.
const A_MOMENT_MS: u64 = 1000;
/// The daemon isn't ready, and it isn't known why.
const NOT_READY: Shortfall = Shortfall::NotReady { why: None };

/// What init does to the daemon when it gets the signal or the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    /// It restarts the daemon.
    Restart,
    /// It passes the signal on.
    Forward,
}

impl Act {
    /// Its name in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Forward => "forward",
        }
    }
}

/// One process of a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incarnation {
    /// `None` if the daemon has no process.
    pub pid: Option<i32>,
    /// How often the daemon had been started: 1 for its first process.
    pub generation: u64,
}

/// What init does to which daemon, and the daemon's state before that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// What init does.
    pub action: Act,
    /// The daemon to which it does that.
    pub daemon: Printable,
    /// The daemon's process before.
    pub before: Incarnation,
    /// How many signals of this kind init had handled before.
    pub seq: u64,
}

/// The end of a proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// [`Outcome::Live`] or [`Outcome::Delivered`], or why neither is proven.
    pub proven: Result<Outcome, Reason>,
    /// The daemon's process at the last look.
    pub after: Incarnation,
    /// Other daemons that got another process, or lost theirs, during the proof.
    pub siblings_moved: Vec<Printable>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// Look again.
    Wait {
        /// Whether to probe the daemon first, and pass the answer along with the next page.
        probe: bool,
    },
    /// The proof is over.
    Done(Verdict),
}

/// What makes init act on a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// A signal that has a rule in the table.
    Signal(Signal),
    /// A request, which needs no rule.
    Request {
        /// What is requested.
        verb: Verb,
        /// The daemon that it is for.
        daemon: String,
    },
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(signal) | Self::Request { verb: Verb::Signal(signal), .. } => write!(f, "{signal}"),
            Self::Request { verb, .. } => write!(f, "the {verb} request"),
        }
    }
}

impl Trigger {
    /// The request that restarts a daemon.
    #[must_use]
    pub fn restart(daemon: &str) -> Self {
        Self::Request { verb: Verb::Restart, daemon: daemon.to_owned() }
    }

    /// The reason for a result that isn't proven, with what was missing.
    #[must_use]
    pub fn unproven(&self, daemon: &str, pid: Option<i32>, shortfall: Shortfall) -> Reason {
        Reason::Unproven { daemon: Printable::new(daemon), sent: Printable::new(&self.to_string()), pid, shortfall }
    }

    /// The name of the daemon that it acts on in this bundle. `None` if the table has no rule or no daemon for it.
    #[must_use]
    pub fn daemon(&self, page: &Page) -> Option<String> {
        match self {
            Self::Signal(_) => self.target(page).map(|target| target.daemon.to_string()),
            Self::Request { daemon, .. } => Some(daemon.clone()),
        }
    }

    /// What it does to which daemon of this bundle, and that daemon's state. If the daemon isn't selected, its generation is 0.
    #[must_use]
    pub fn target(&self, page: &Page) -> Option<Target> {
        let (mut action, name, seq) = match self {
            Self::Signal(signal) => {
                let rule = page.status.signals.get(&signal.to_string())?;
                let seq = rule.last.map_or(0, |last| last.seq);
                match (&rule.restart, &rule.forward) {
                    (Some(name), None) => (Act::Restart, name, seq),
                    (None, Some(name)) => (Act::Forward, name, seq),
                    _ => return None,
                }
            }
            Self::Request { daemon, .. } => {
                let mut all = page.status.selected.iter().chain(&page.status.unselected);
                (Act::Restart, all.find(|name| *name == daemon)?, 0)
            }
        };
        let now = find(page, name).map(|(daemon, _)| daemon);
        if now.is_some_and(|now| now.state == DaemonState::Backoff) {
            // If there is no process that could get the signal, init starts one.
            action = Act::Restart;
        }
        let before = now.map_or(Incarnation { pid: None, generation: 0 }, incarnation);
        Some(Target { action, daemon: Printable::new(name), before, seq })
    }
}

/// What `trigger` would do in this bundle.
///
/// # Errors
/// The reason if it would do nothing.
pub fn target(page: &Page, trigger: &Trigger) -> Result<Target, Reason> {
    let sent = Printable::new(&trigger.to_string());
    let Some(target) = trigger.target(page) else {
        return Err(match trigger {
            Trigger::Signal(_) => Reason::NotWired { signal: sent },
            Trigger::Request { daemon, .. } => Reason::NoDaemon { daemon: Printable::new(daemon) },
        });
    };
    let daemon = target.daemon.clone();
    let Some((now, _)) = find(page, daemon.as_str()) else {
        return Err(Reason::NotSelected { sent, daemon });
    };
    if page.status.state == InitState::Stopping {
        return Err(Reason::Stopping);
    }
    if target.action == Act::Forward && !matches!(now.state, DaemonState::Running | DaemonState::Stopped) {
        return Err(Reason::NotRunning { signal: sent, daemon });
    }
    Ok(target)
}

/// Whether a request has stopped the daemon, or is stopping it.
#[must_use]
pub fn is_stopped(daemon: &Daemon) -> bool {
    let is_under_way = |request: &status::Request| {
        request.verb == Verb::Stop.to_string() && request.outcome == RequestOutcome::Pending
    };
    daemon.state == DaemonState::Stopped || daemon.requests.iter().any(is_under_way)
}

/// Whether the daemon has no process, or only one that a crash loop has just started. If so, it is no worse off without one.
#[must_use]
pub fn is_down(daemon: &Daemon, now_ms: u64) -> bool {
    let is_crash = daemon.revivals > 0 && daemon.last_exit.is_some_and(|exit| !exit.by_init);
    let is_young = daemon.uptime_ms.is_some_and(|since| now_ms.saturating_sub(since) < CRASH_LOOP_MS);
    daemon.pid.is_none() || is_crash && is_young
}

/// Why the proof no longer holds for a daemon that was proven in the process `after`; `None` if it still does.
#[must_use]
pub fn undone(page: &Page, daemon: &str, trigger: &Trigger, after: Option<Incarnation>) -> Option<Reason> {
    let (now, plan) = find(page, daemon)?;
    let is_up = now.state == if plan.is_oneshot { DaemonState::Done } else { DaemonState::Running };
    if is_up && after == Some(incarnation(now)) && !is_stopped(now) {
        return None;
    }
    let shortfall = match after {
        Some(after) if after.generation < now.generation => gone(now),
        _ => down(now).unwrap_or(Shortfall::Replaced),
    };
    Some(trigger.unproven(daemon, now.pid, shortfall))
}

/// What the pages show of a daemon and its siblings after a signal or a request was sent.
#[derive(Debug)]
pub struct Seen {
    /// The signal or the request.
    pub trigger: Trigger,
    /// What it does to which daemon, and the daemon's state before.
    pub target: Target,
    /// The daemon's process at the last look.
    pub after: Incarnation,
    /// The other daemons' processes before.
    siblings: Vec<(String, Incarnation)>,
    /// The siblings that got another process, or lost theirs, since then.
    pub moved: Vec<Printable>,
}

impl Seen {
    /// Begins with the page from which `target` was read.
    #[must_use]
    pub fn new(page: &Page, trigger: Trigger, target: Target) -> Self {
        let others = page.status.daemons.iter().filter(|daemon| daemon.name != target.daemon.as_str());
        let siblings = others.map(|daemon| (daemon.name.clone(), incarnation(daemon))).collect();
        Self { after: target.before, siblings, moved: Vec::new(), trigger, target }
    }

    /// Takes in a page. Returns the daemon's part of it, unless the page doesn't have the daemon.
    pub fn look<'a>(&mut self, page: &'a Page) -> Option<(&'a Daemon, &'a Plan)> {
        let now_of = |name: &str| find(page, name).map(|(daemon, _)| incarnation(daemon));
        let moved = self.siblings.iter().filter(|(name, was)| now_of(name) != Some(*was));
        self.moved = moved.map(|(name, _)| Printable::new(name)).collect();
        let found = find(page, self.target.daemon.as_str())?;
        self.after = incarnation(found.0);
        Some(found)
    }

    /// The reason for a result that isn't proven, with what was missing.
    #[must_use]
    pub fn unproven(&self, shortfall: Shortfall) -> Reason {
        self.trigger.unproven(self.target.daemon.as_str(), self.after.pid, shortfall)
    }
}

/// Looks for the proof that one signal or one request took effect.
#[derive(Debug)]
pub struct Proof {
    seen: Seen,
    /// The request's id.
    id: String,
    /// What is still missing.
    shortfall: Shortfall,
    /// A page has shown the request.
    is_known: bool,
    /// The generation that is ready, and since when without a break.
    ready_since: Option<(u64, u64)>,
    next_probe: u64,
    /// The generation that the probe under way is for.
    asked: Option<u64>,
}

impl Proof {
    /// Begins with the page from which [`target`] was read. `id` is the request's, if it is a request.
    #[must_use]
    pub fn new(page: &Page, trigger: &Trigger, id: &str, target: Target) -> Self {
        Self {
            seen: Seen::new(page, trigger.clone(), target),
            id: id.to_owned(),
            shortfall: Shortfall::Unserved,
            is_known: false,
            ready_since: None,
            next_probe: 0,
            asked: None,
        }
    }

    /// Takes in a page that was read at `now_ms`. `sent`: whether the signal or request was sent. Before that nothing counts, since
    /// somebody else may have caused what the page shows. `probe`: the answer to the probe that the last step asked for.
    #[must_use]
    pub fn observe(&mut self, now_ms: u64, page: &Page, sent: bool, probe: Option<Result<(), Shortfall>>) -> Look {
        let asked = self.asked.take();
        let before = self.seen.after;
        let Some((daemon, plan)) = self.seen.look(page) else { return Look::Wait { probe: false } };
        if !sent {
            return Look::Wait { probe: false };
        }
        if page.status.state == InitState::Stopping {
            return Look::Done(self.verdict(Err(Reason::Stopping)));
        }
        if daemon.generation < before.generation {
            return self.short(Shortfall::Contradiction);
        }
        if daemon.generation > before.generation {
            // The answer of an earlier process says nothing about this one.
            self.shortfall = NOT_READY;
        }
        let judged = match &self.seen.trigger {
            Trigger::Signal(signal) => {
                let last = page.status.signals.get(&signal.to_string()).and_then(|rule| rule.last);
                let last = last.filter(|last| last.seq > self.seen.target.seq);
                last.map_or(Judged::NotYet(Shortfall::Unserved), |last| self.signalled(last, daemon, plan))
            }
            Trigger::Request { .. } => {
                let request = daemon.requests.iter().find(|request| request.id == self.id);
                self.is_known |= request.is_some();
                match request {
                    Some(request) if request.outcome == RequestOutcome::Failed => self.failed(daemon),
                    Some(request) => requested(request, daemon, plan),
                    None if self.is_known => Judged::Final(Shortfall::Forgotten),
                    None => Judged::NotYet(Shortfall::Unserved),
                }
            }
        };
        match judged {
            Judged::Final(shortfall) => self.short(shortfall),
            Judged::NotYet(shortfall) => self.wait(shortfall),
            Judged::Is(outcome) => Look::Done(self.verdict(Ok(outcome))),
            Judged::UpIs(outcome) => {
                self.settle(now_ms, daemon, plan, probe.filter(|_| asked == Some(daemon.generation)), outcome)
            }
        }
    }

    /// When to look again although the page hasn't changed; `None` if only another page can bring news.
    #[must_use]
    pub fn due(&self) -> Option<u64> {
        let unready = self.asked.map(|_| 0);
        self.ready_since.map_or(unready, |_| Some(self.next_probe))
    }

    /// The daemon that it is about.
    #[must_use]
    pub fn daemon(&self) -> &str {
        self.seen.target.daemon.as_str()
    }

    /// The verdict if the time is up.
    #[must_use]
    pub fn give_up(&self) -> Verdict {
        self.verdict(Err(self.seen.unproven(self.shortfall.clone())))
    }

    /// Takes in that the deadline cut a probe short after `ms` milliseconds. The daemon's last answer still counts; a longer silence is
    /// told after it.
    pub fn cut_short(&mut self, why: &Printable, ms: u64) {
        let why = match &self.shortfall {
            Shortfall::NotReady { why: None } => why.clone(),
            Shortfall::NotReady { why: Some(before) } if ms >= A_MOMENT_MS => {
                Printable::new(&format!("{before}; then {why}"))
            }
            Shortfall::NotSettled if ms >= A_MOMENT_MS => why.clone(),
            _ => return,
        };
        self.shortfall = Shortfall::NotReady { why: Some(why) };
    }

    /// The signal or the request has failed: the command could not be executed or, if no start was counted, init may not end the old
    /// process.
    fn failed(&self, daemon: &Daemon) -> Judged {
        let is_later = daemon.generation > self.seen.target.before.generation;
        Judged::Final(down(daemon).filter(|_| is_later).unwrap_or(Shortfall::InitRefused { why: None }))
    }

    fn signalled(&self, last: Last, daemon: &Daemon, plan: &Plan) -> Judged {
        if let Some(generation) = last.generation {
            return started(generation, daemon, plan);
        }
        match last.outcome {
            status::Outcome::Refused => return Judged::Final(Shortfall::InitRefused { why: None }),
            status::Outcome::Failed => return self.failed(daemon),
            // The outcome comes with the generation that failed.
            status::Outcome::Restarting | status::Outcome::Restarted => return to_start(daemon),
            status::Outcome::Held | status::Outcome::NeverCaught | status::Outcome::Delivered => {}
        }
        if daemon.generation != self.seen.target.before.generation {
            return Judged::Final(gone(daemon));
        }
        if let Some(shortfall) = down(daemon) {
            return Judged::Final(shortfall);
        }
        match last.outcome {
            status::Outcome::NeverCaught => return Judged::Final(Shortfall::NeverCaught),
            status::Outcome::Held => return Judged::NotYet(Shortfall::Held),
            // Its process is ending; a later page shows how it ended.
            _ if daemon.state != DaemonState::Running => return Judged::NotYet(NOT_READY),
            _ => {}
        }
        if plan.ready != Some(Ready::Notify) {
            return Judged::UpIs(Outcome::Delivered);
        }
        match last.reload_errno {
            None => Judged::NotYet(Shortfall::ReloadPending),
            Some(0) => Judged::UpIs(Outcome::Live),
            Some(errno) => Judged::Final(Shortfall::ReloadRefused { errno }),
        }
    }

    /// The right process runs. It must be ready and stay ready for its settling time, and is probed until the end of that.
    fn settle(
        &mut self,
        now_ms: u64,
        daemon: &Daemon,
        plan: &Plan,
        probe: Option<Result<(), Shortfall>>,
        outcome: Outcome,
    ) -> Look {
        // A page that says "not ready" counts at once. But only a probe can tell that no other process serves in its place.
        let answer = match plan.ready {
            Some(Ready::Notify) if !plan.notified => Some(probe.filter(Result::is_err).unwrap_or(Err(NOT_READY))),
            _ => probe,
        };
        let since = self.ready_since.filter(|(generation, _)| *generation == daemon.generation);
        self.ready_since = match &answer {
            Some(Ok(())) => Some(since.unwrap_or((daemon.generation, now_ms))),
            Some(Err(_)) => None,
            None => since,
        };
        let Some((_, since)) = self.ready_since else {
            match answer {
                Some(Err(shortfall)) => self.shortfall = shortfall,
                // Its last answer still holds.
                None if matches!(self.shortfall, Shortfall::SocketHeld { .. } | Shortfall::NotReady { .. }) => {}
                _ => self.shortfall = NOT_READY,
            }
            self.asked = Some(daemon.generation);
            return Look::Wait { probe: true };
        };
        let settled_at = since.saturating_add(plan.settle_ms);
        if answer.is_some() {
            if now_ms >= settled_at {
                return Look::Done(self.verdict(Ok(outcome)));
            }
            self.next_probe = settled_at.min(now_ms.saturating_add(ASK_AGAIN_MS));
        }
        self.shortfall = Shortfall::NotSettled;
        let ask = now_ms >= self.next_probe;
        self.asked = ask.then_some(daemon.generation);
        Look::Wait { probe: ask }
    }

    fn wait(&mut self, shortfall: Shortfall) -> Look {
        self.shortfall = shortfall;
        self.ready_since = None;
        Look::Wait { probe: false }
    }

    fn short(&self, shortfall: Shortfall) -> Look {
        Look::Done(self.verdict(Err(self.seen.unproven(shortfall))))
    }

    fn verdict(&self, proven: Result<Outcome, Reason>) -> Verdict {
        Verdict { proven, after: self.seen.after, siblings_moved: self.seen.moved.clone() }
    }
}

enum Judged {
    /// It failed for good.
    Final(Shortfall),
    /// This is still missing.
    NotYet(Shortfall),
    /// The right process runs. Once it is ready and has settled, this is the outcome.
    UpIs(Outcome),
    /// This is the outcome.
    Is(Outcome),
}

/// Judges a restart or a start that was requested.
fn requested(request: &status::Request, daemon: &Daemon, plan: &Plan) -> Judged {
    match (request.outcome, request.generation) {
        (RequestOutcome::Superseded, _) if is_stopped(daemon) => Judged::Final(Shortfall::Stopped),
        (RequestOutcome::Superseded, _) => Judged::Final(Shortfall::Superseded),
        (RequestOutcome::Pending | RequestOutcome::Started | RequestOutcome::Running, Some(generation)) => {
            started(generation, daemon, plan)
        }
        (RequestOutcome::Pending, None) => to_start(daemon),
        _ => Judged::Final(Shortfall::InitRefused { why: request.why.as_deref().map(Printable::new) }),
    }
}

/// Judges a daemon whose next process, which must be proven, isn't started yet.
fn to_start(daemon: &Daemon) -> Judged {
    if is_stopped(daemon) { Judged::Final(Shortfall::Stopped) } else { Judged::NotYet(Shortfall::OldStopping) }
}

/// Judges the process of this generation, which is the one to prove. A later one doesn't count: its restart policy or somebody else
/// may have started it.
fn started(generation: u64, daemon: &Daemon, plan: &Plan) -> Judged {
    if daemon.generation > generation {
        return Judged::Final(gone(daemon));
    }
    if daemon.generation < generation {
        return Judged::Final(Shortfall::Contradiction);
    }
    match daemon.state {
        DaemonState::Done if plan.is_oneshot => return Judged::Is(Outcome::Live),
        DaemonState::Running if plan.is_oneshot => return Judged::NotYet(Shortfall::NotDone),
        _ => {}
    }
    match (down(daemon), daemon.state) {
        (Some(shortfall), _) => Judged::Final(shortfall),
        (None, DaemonState::Running) => Judged::UpIs(Outcome::Live),
        // A process that died may have left others, or there is a further restart. Both end.
        (None, DaemonState::Stopping) => Judged::NotYet(Shortfall::OldStopping),
        // Its command hasn't been executed yet.
        (None, _) => Judged::NotYet(NOT_READY),
    }
}

/// Why the process of an earlier generation is gone: it ended by itself, or another one replaced it.
fn gone(daemon: &Daemon) -> Shortfall {
    match daemon.last_exit {
        _ if is_stopped(daemon) => Shortfall::Stopped,
        Some(LastExit { by_init: false, code, signal }) => Shortfall::Dead { code, killed_by: signal },
        _ => Shortfall::Replaced,
    }
}

/// Why the daemon has no process, if it has none or is being stopped.
fn down(daemon: &Daemon) -> Option<Shortfall> {
    match daemon.state {
        _ if is_stopped(daemon) => Some(Shortfall::Stopped),
        DaemonState::Exited | DaemonState::Failed | DaemonState::Backoff | DaemonState::Done => Some(ended(daemon)),
        DaemonState::Starting
        | DaemonState::Running
        | DaemonState::Stopping
        | DaemonState::Stopped
        | DaemonState::Waiting => None,
    }
}

fn ended(daemon: &Daemon) -> Shortfall {
    let (code, killed_by) = daemon.last_exit.map_or((None, None), |exit| (exit.code, exit.signal));
    // A oneshot that was executed has failed if it exited with any code but 0.
    if daemon.state == DaemonState::Failed && matches!(code, None | Some(126 | 127)) {
        Shortfall::NotExecuted { code }
    } else {
        Shortfall::Dead { code, killed_by }
    }
}

/// The daemon's present process.
#[must_use]
pub fn incarnation(daemon: &Daemon) -> Incarnation {
    Incarnation { pid: daemon.pid, generation: daemon.generation }
}

/// Finds a daemon on the page, with its plan.
#[must_use]
pub fn find<'a>(page: &'a Page, name: &str) -> Option<(&'a Daemon, &'a Plan)> {
    page.status.daemons.iter().zip(&page.plans).find(|(daemon, _)| daemon.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;
    use crate::status::Outcome as Served;

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
            let trigger = Trigger::Signal(signal);
            let target = target(&page, &trigger).unwrap();
            let proof = Proof::new(&page, &trigger, "", target);
            Self { page, proof }
        }

        fn daemon(&mut self, name: &str) -> &mut Daemon {
            self.page.status.daemons.iter_mut().find(|d| d.name == name).unwrap()
        }

        fn last(&mut self, signal: &str, outcome: Served, reload_errno: Option<i32>) {
            let last = Last { seq: 1, outcome, age_ms: 0, reload_errno, generation: None };
            self.page.status.signals.get_mut(signal).unwrap().last = Some(last);
        }

        /// By this signal.
        fn restart(&mut self, pid: i32) {
            self.replace(pid);
            let generation = Some(self.daemon("pipelock").generation);
            let last = Last { seq: 1, outcome: Served::Restarted, age_ms: 0, reload_errno: None, generation };
            self.page.status.signals.get_mut("USR1").unwrap().last = Some(last);
        }

        /// By another's doing.
        fn replace(&mut self, pid: i32) {
            let d = self.daemon("pipelock");
            (d.pid, d.generation, d.state) = (Some(pid), d.generation + 1, DaemonState::Running);
        }

        fn die(&mut self, name: &str, code: i32) {
            let d = self.daemon(name);
            (d.pid, d.state) = (None, DaemonState::Exited);
            d.last_exit = Some(LastExit { code: Some(code), signal: None, by_init: false });
        }

        /// What was found, or whether it waits (`false`) or asks (`true`).
        fn at(&mut self, now: u64, probe: Option<bool>) -> Result<Result<Outcome, Shortfall>, bool> {
            let answer = probe.map(|is_ready| if is_ready { Ok(()) } else { Err(refused()) });
            match self.proof.observe(now, &self.page, true, answer) {
                Look::Wait { probe } => Err(probe),
                Look::Done(verdict) => Ok(verdict.proven.map_err(short)),
            }
        }

        fn given_up(&self) -> Shortfall {
            short(self.proof.give_up().proven.unwrap_err())
        }
    }

    fn refused() -> Shortfall {
        Shortfall::NotReady { why: Some(Printable::new("connection refused on 127.0.0.1:8888")) }
    }

    fn short(why: Reason) -> Shortfall {
        match why {
            Reason::Unproven { shortfall, .. } => shortfall,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn what_becomes_of_a_daemon_between_proof_and_commit_is_noticed() {
        let proven = Some(Incarnation { pid: Some(31), generation: 2 });
        let told = |s: &Scene| undone(&s.page, "pipelock", &Trigger::Signal(Signal::USR1), proven).map(short);
        let dead = |code| Some(Shortfall::Dead { code, killed_by: None });
        let mut s = Scene::new(Signal::USR1);
        s.restart(31);
        assert_eq!(told(&s), None);
        s.die("pipelock", 7);
        s.daemon("pipelock").last_exit = None;
        assert_eq!(told(&s), dead(None), "it has ended, and its page tells no more");
        s.die("pipelock", 7);
        s.replace(32);
        assert_eq!(told(&s), dead(Some(7)), "its policy has started another");
        s.daemon("pipelock").last_exit = Some(LastExit { code: Some(7), signal: None, by_init: true });
        assert_eq!(told(&s), Some(Shortfall::Replaced), "somebody has restarted it");
        s.daemon("pipelock").state = DaemonState::Stopped;
        assert_eq!(told(&s), Some(Shortfall::Stopped));
    }

    #[test]
    fn a_request_whose_start_fails_is_told_by_its_exit_code() {
        let (page, trigger) = (sample::page(), Trigger::restart("pipelock"));
        let target = target(&page, &trigger).unwrap();
        let mut s = Scene { proof: Proof::new(&page, &trigger, "a", target), page };
        s.replace(0);
        s.die("pipelock", 127);
        let (id, verb, generation) = ("a".to_owned(), "restart".to_owned(), Some(2));
        let request = status::Request { why: None, id, verb, outcome: RequestOutcome::Failed, generation };
        s.daemon("pipelock").requests.push(request);
        s.daemon("pipelock").state = DaemonState::Failed;
        assert_eq!(s.at(5, None), Ok(Err(Shortfall::NotExecuted { code: Some(127) })));
    }

    #[test]
    fn a_forward_whose_process_is_ending_is_not_yet_decided() {
        let mut s = Scene::new(Signal::HUP);
        s.last("HUP", Served::Delivered, None);
        s.daemon("egress").state = DaemonState::Stopping;
        assert_eq!((s.at(5, None), s.given_up()), (Err(false), NOT_READY));
    }

    #[test]
    fn a_restart_is_live_once_the_replacement_stayed_ready_for_settle() {
        let mut s = Scene::new(Signal::USR1);
        assert_eq!(s.at(0, None), Err(false));
        s.last("USR1", Served::Restarting, None);
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
        let Look::Done(verdict) = s.proof.observe(321, &s.page, true, Some(Ok(()))) else { panic!("not done") };
        assert_eq!(verdict.proven, Ok(Outcome::Live));
        assert_eq!(verdict.after, Incarnation { pid: Some(31), generation: 2 });
        assert_eq!(verdict.siblings_moved, []);
    }

    #[test]
    fn a_page_that_stays_as_it_is_is_looked_at_again_only_to_ask_the_daemon() {
        let mut s = Scene::new(Signal::USR1);
        assert_eq!((s.at(0, None), s.proof.due()), (Err(false), None), "until the signal is served");
        s.last("USR1", Served::Restarting, None);
        s.daemon("pipelock").state = DaemonState::Stopping;
        assert_eq!((s.at(5, None), s.proof.due()), (Err(false), None), "until the old process has ended");
        s.restart(31);
        assert_eq!((s.at(10, None), s.proof.due()), (Err(true), Some(0)), "until it has answered");
        assert_eq!((s.at(15, Some(false)), s.proof.due()), (Err(true), Some(0)), "until it is ready");
        assert_eq!((s.at(20, Some(true)), s.proof.due()), (Err(false), Some(70)), "while it settles");
        assert_eq!((s.at(70, None), s.proof.due()), (Err(true), Some(70)));
        assert_eq!((s.at(300, Some(true)), s.proof.due()), (Err(false), Some(320)), "at its end");
    }

    #[test]
    fn one_in_a_crash_loop_is_down_also_while_it_runs() {
        let mut page = sample::page();
        let daemon = &mut page.status.daemons[1];
        (daemon.revivals, daemon.uptime_ms) = (3, Some(500));
        assert!(!is_down(daemon, 600), "it hasn't ended by itself");
        daemon.last_exit = Some(LastExit { code: Some(1), signal: None, by_init: false });
        assert!(is_down(daemon, 10_499) && !is_down(daemon, 10_500));
        daemon.revivals = 0;
        assert!(!is_down(daemon, 600));
        daemon.pid = None;
        assert!(is_down(daemon, 600));
    }

    /// USR1 is replaced by a request of this id.
    fn of_a_request() -> Scene {
        let (page, trigger) = (sample::page(), Trigger::restart("pipelock"));
        let target = target(&page, &trigger).unwrap();
        let proof = Proof::new(&page, &trigger, "mine", target);
        Scene { page, proof }
    }

    #[test]
    fn a_request_is_proven_only_by_the_generation_that_it_started() {
        use RequestOutcome::{Failed, Pending, Refused, Started, Superseded};
        let of = |outcome, generation| {
            let mut s = of_a_request();
            s.replace(31);
            let request = |id: &str, outcome, generation| {
                let (id, verb) = (id.to_owned(), "restart".to_owned());
                status::Request { id, verb, outcome, generation, why: None }
            };
            s.daemon("pipelock").requests =
                vec![request("mine", outcome, generation), request("other", Started, Some(2))];
            s
        };
        assert_eq!(of(Started, Some(2)).at(0, None), Err(true));
        assert_eq!(of(Pending, None).at(0, None), Err(false));
        assert_eq!(of(Started, Some(1)).at(0, None), Ok(Err(Shortfall::Replaced)));
        assert_eq!(of(Started, Some(3)).at(0, None), Ok(Err(Shortfall::Contradiction)));
        assert_eq!(of(Superseded, None).at(0, None), Ok(Err(Shortfall::Superseded)));
        let why = || Some(Printable::new("a shutdown is under way"));
        let mut s = of(Refused, None);
        assert_eq!(s.at(0, None), Ok(Err(Shortfall::InitRefused { why: None })));
        s.daemon("pipelock").requests[0].why = why().map(|why| why.to_string());
        assert_eq!(s.at(0, None), Ok(Err(Shortfall::InitRefused { why: why() })));
        assert_eq!(of(Failed, None).at(0, None), Ok(Err(Shortfall::InitRefused { why: None })));
        let mut s = of(Started, Some(2));
        assert_eq!(s.at(0, None), Err(true));
        s.daemon("pipelock").requests.clear();
        assert_eq!(s.at(5, None), Ok(Err(Shortfall::Forgotten)));
        let mut s = of(Started, Some(2));
        // It has died, and its policy has started another.
        s.die("pipelock", 7);
        s.replace(32);
        assert_eq!(s.at(0, None), Ok(Err(Shortfall::Dead { code: Some(7), killed_by: None })));
        let mut s = of(Superseded, None);
        s.daemon("pipelock").state = DaemonState::Stopped;
        assert_eq!(s.at(0, None), Ok(Err(Shortfall::Stopped)));
    }

    #[test]
    fn a_oneshot_is_live_once_it_has_exited_0() {
        let mut s = of_a_request();
        s.page.plans[1].is_oneshot = true;
        s.replace(31);
        let (id, verb, generation) = ("mine".to_owned(), "restart".to_owned(), Some(2));
        let request = status::Request { id, verb, outcome: RequestOutcome::Started, generation, why: None };
        s.daemon("pipelock").requests = vec![request];
        assert_eq!(s.at(0, None), Err(false));
        assert_eq!(s.given_up(), Shortfall::NotDone);
        s.die("pipelock", 3);
        s.daemon("pipelock").state = DaemonState::Failed;
        assert_eq!(s.at(0, None), Ok(Err(Shortfall::Dead { code: Some(3), killed_by: None })));
        s.die("pipelock", 0);
        s.daemon("pipelock").state = DaemonState::Done;
        assert_eq!(s.at(5, None), Ok(Ok(Outcome::Live)));
    }

    #[test]
    fn nothing_counts_before_the_host_has_sent_its_signal() {
        let mut s = Scene::new(Signal::USR1);
        s.restart(31);
        for now in [0, 1000] {
            assert_eq!(s.proof.observe(now, &s.page, false, None), Look::Wait { probe: false });
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
        assert_eq!(s.given_up(), refused());
        assert_eq!(s.at(400, Some(true)), Err(false));
        assert_eq!(s.given_up(), Shortfall::NotSettled);
        assert_eq!(s.at(700, None), Err(true));
        assert_eq!(s.at(701, Some(true)), Ok(Ok(Outcome::Live)));
    }

    #[test]
    fn a_probe_that_the_deadline_cuts_hides_no_answer_before_it() {
        let silence = |within: &str| Printable::new(&format!("no answer from 127.0.0.1:8888 within {within}"));
        let told = |answers: &[bool], ms| {
            let mut s = Scene::new(Signal::USR1);
            s.restart(31);
            assert_eq!(s.at(0, None), Err(true));
            for is_ready in answers {
                let _ = s.at(1, Some(*is_ready));
            }
            s.proof.cut_short(&silence("9s"), ms);
            match s.given_up() {
                Shortfall::NotReady { why } => why.unwrap().to_string(),
                other => format!("{other:?}"),
            }
        };
        let refused = "connection refused on 127.0.0.1:8888";
        assert_eq!(told(&[], 5), silence("9s").as_str());
        assert_eq!(told(&[false], 999), refused);
        assert_eq!(told(&[false], 1000), format!("{refused}; then {}", silence("9s")));
        assert_eq!(told(&[true], 999), "NotSettled");
        assert_eq!(told(&[true], 1000), silence("9s").as_str());
        let mut s = Scene::new(Signal::USR1);
        s.restart(31);
        let held = Shortfall::SocketHeld { socket: Printable::new("port 8888"), by: None };
        assert_eq!(s.at(0, None), Err(true));
        let _ = s.proof.observe(1, &s.page, true, Some(Err(held.clone())));
        s.proof.cut_short(&silence("9s"), 9000);
        assert_eq!(s.given_up(), held);
    }

    #[test]
    fn a_replacement_that_dies_is_not_proven_at_once() {
        let mut s = Scene::new(Signal::USR1);
        s.restart(31);
        assert_eq!(s.at(0, None), Err(true));
        s.die("pipelock", 1);
        assert_eq!(s.at(5, Some(false)), Ok(Err(Shortfall::Dead { code: Some(1), killed_by: None })));
    }

    #[test]
    fn a_replacement_that_cannot_be_executed_is_not_proven_at_once() {
        let mut s = Scene::new(Signal::USR1);
        s.last("USR1", Served::Failed, None);
        let d = s.daemon("pipelock");
        (d.state, d.pid, d.generation) = (DaemonState::Failed, None, 2);
        d.last_exit = Some(LastExit { code: Some(127), signal: None, by_init: false });
        assert_eq!(s.at(0, None), Ok(Err(Shortfall::NotExecuted { code: Some(127) })));
    }

    #[test]
    fn what_is_missing_when_the_time_is_up_is_told() {
        let mut s = Scene::new(Signal::USR1);
        assert_eq!(s.at(0, None), Err(false));
        assert_eq!(s.given_up(), Shortfall::Unserved);
        s.last("USR1", Served::Restarting, None);
        assert_eq!(s.at(5, None), Err(false));
        assert_eq!(s.given_up(), Shortfall::OldStopping);
        s.restart(31);
        assert_eq!(s.at(10, None), Err(true));
        assert_eq!(s.given_up(), NOT_READY);
        assert_eq!(s.at(15, Some(false)), Err(true));
        assert_eq!(s.given_up(), refused());
        assert_eq!(s.at(20, None), Err(true));
        assert_eq!(s.given_up(), refused(), "it is asked once more, and hasn't answered yet");
        s.restart(32);
        assert_eq!(s.at(25, None), Err(true));
        assert_eq!(s.given_up(), NOT_READY, "another process answered that");
        let mut s = Scene::new(Signal::HUP);
        s.last("HUP", Served::Held, None);
        assert_eq!(s.at(0, None), Err(false));
        assert_eq!(s.given_up(), Shortfall::Held);
        s.last("HUP", Served::Delivered, None);
        assert_eq!(s.at(0, None), Err(false));
        assert_eq!(s.given_up(), Shortfall::ReloadPending);
    }

    #[test]
    fn a_forward_to_a_daemon_with_notify_is_live_where_it_obeyed() {
        let mut s = Scene::new(Signal::HUP);
        s.last("HUP", Served::Delivered, Some(0));
        assert_eq!(s.at(0, None), Err(true));
        assert_eq!(s.at(0, Some(true)), Err(false));
        assert_eq!(s.at(299, None), Err(true));
        assert_eq!(s.at(299, Some(true)), Err(false));
        assert_eq!(s.at(300, None), Err(true), "another may hold its port by now");
        assert_eq!(s.at(300, Some(true)), Ok(Ok(Outcome::Live)));
        let mut s = Scene::new(Signal::HUP);
        s.last("HUP", Served::Delivered, Some(22));
        assert_eq!(s.at(0, None), Ok(Err(Shortfall::ReloadRefused { errno: 22 })));
    }

    #[test]
    fn a_forward_without_notify_is_delivered() {
        let mut page = sample::page();
        page.plans[0].ready = None;
        let mut s = Scene::on(page, Signal::HUP);
        s.last("HUP", Served::Delivered, None);
        assert_eq!(s.at(0, None), Err(true));
        assert_eq!(s.at(0, Some(true)), Err(false));
        assert_eq!(s.at(300, Some(true)), Err(true), "nobody asked for that answer");
        assert_eq!(s.at(300, Some(true)), Ok(Ok(Outcome::Delivered)));
    }

    #[test]
    fn a_forward_that_kills_its_daemon_or_meets_another_process_is_not_proven() {
        let mut s = Scene::new(Signal::HUP);
        s.last("HUP", Served::Delivered, None);
        s.daemon("egress").state = DaemonState::Stopping;
        assert_eq!(s.at(0, None), Err(false));
        s.die("egress", 129);
        assert_eq!(s.at(5, None), Ok(Err(Shortfall::Dead { code: Some(129), killed_by: None })));
        let mut s = Scene::new(Signal::HUP);
        s.last("HUP", Served::Delivered, Some(0));
        s.daemon("egress").generation = 2;
        assert_eq!(s.at(0, None), Ok(Err(Shortfall::Replaced)));
        let mut s = Scene::new(Signal::HUP);
        s.last("HUP", Served::NeverCaught, None);
        assert_eq!(s.at(0, None), Ok(Err(Shortfall::NeverCaught)));
    }

    #[test]
    fn what_the_kernel_does_not_let_init_do_is_not_proven_at_once() {
        for signal in [Signal::HUP, Signal::USR1] {
            let mut s = Scene::new(signal);
            s.last(&signal.to_string(), Served::Failed, None);
            assert_eq!(s.at(0, None), Ok(Err(Shortfall::InitRefused { why: None })));
        }
    }

    #[test]
    fn a_start_that_never_came_is_not_blamed_on_an_earlier_death() {
        let mut page = sample::page();
        (page.status.daemons[1].pid, page.status.daemons[1].state) = (None, DaemonState::Exited);
        let mut s = Scene::on(page, Signal::USR1);
        s.last("USR1", Served::Failed, None);
        assert_eq!(s.at(0, None), Ok(Err(Shortfall::InitRefused { why: None })));
    }

    #[test]
    fn a_page_that_says_not_ready_counts_more_than_a_probe() {
        let mut s = Scene::new(Signal::HUP);
        s.last("HUP", Served::Delivered, Some(0));
        assert_eq!((s.at(0, None), s.at(0, Some(true))), (Err(true), Err(false)));
        s.page.plans[0].notified = false;
        assert_eq!((s.at(300, None), s.at(300, Some(true))), (Err(true), Err(true)));
        assert_eq!(s.given_up(), NOT_READY);
        assert_eq!((s.at(305, None), s.at(305, Some(false))), (Err(true), Err(true)));
        assert_eq!(s.given_up(), refused(), "the probe says why");
    }

    #[test]
    fn a_bundle_that_stops_or_refuses_ends_it() {
        let mut s = Scene::new(Signal::USR1);
        s.last("USR1", Served::Refused, None);
        assert_eq!(s.at(0, None), Ok(Err(Shortfall::InitRefused { why: None })));
        s.page.status.state = InitState::Stopping;
        let Look::Done(verdict) = s.proof.observe(0, &s.page, true, None) else { panic!("not done") };
        assert_eq!(verdict.proven, Err(Reason::Stopping));
    }

    #[test]
    fn a_page_whose_generation_goes_down_proves_nothing() {
        let mut s = Scene::new(Signal::USR1);
        s.restart(31);
        s.restart(32);
        assert_eq!(s.at(0, None), Err(true));
        s.daemon("pipelock").generation = 2;
        assert_eq!(s.at(5, Some(true)), Ok(Err(Shortfall::Contradiction)));
    }

    #[test]
    fn a_port_that_another_holds_is_what_is_missing() {
        let mut s = Scene::new(Signal::USR1);
        s.restart(31);
        assert_eq!(s.at(0, None), Err(true));
        let held = Shortfall::SocketHeld { socket: Printable::new("port 8888"), by: Some((9, Printable::new("old"))) };
        assert_eq!(s.proof.observe(5, &s.page, true, Some(Err(held.clone()))), Look::Wait { probe: true });
        assert_eq!(s.at(10, None), Err(true));
        assert_eq!(s.given_up(), held);
        assert_eq!(s.at(15, Some(true)), Err(false), "it has gone away");
    }

    #[test]
    fn a_sibling_that_moved_is_named() {
        let mut s = Scene::new(Signal::USR1);
        s.die("egress", 0);
        assert_eq!(s.at(0, None), Err(false));
        assert_eq!(s.proof.give_up().siblings_moved, [Printable::new("egress")]);
    }

    #[test]
    fn a_dead_daemon_is_a_target_of_a_restart_and_not_of_a_forward() {
        let mut s = Scene::new(Signal::USR1);
        s.die("pipelock", 1);
        s.die("egress", 1);
        let before = target(&s.page, &Trigger::Signal(Signal::USR1)).unwrap().before;
        assert_eq!(before, Incarnation { pid: None, generation: 1 });
        assert!(matches!(target(&s.page, &Trigger::Signal(Signal::HUP)), Err(Reason::NotRunning { .. })));
    }

    #[test]
    fn what_init_would_refuse_is_refused_before_anything_is_sent() {
        let mut page = sample::page();
        let why =
            |page: &Page, signal: &str| target(page, &Trigger::Signal(Signal::from_name(signal).unwrap())).unwrap_err();
        assert!(matches!(why(&page, "WINCH"), Reason::NotWired { .. }));
        page.status.state = InitState::Stopping;
        assert_eq!(why(&page, "USR1"), Reason::Stopping);
        page.status.daemons.remove(1);
        page.plans.remove(1);
        assert!(matches!(why(&page, "USR1"), Reason::NotSelected { .. }));
    }
}
