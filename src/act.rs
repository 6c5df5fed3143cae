//! Acts on one daemon from inside its bundle, by a request: `restart`, `start`, `stop`, `signal`.
//!
//! A restart and a start are changes without new content. So they take the lock, recover what was interrupted, check the daemon's
//! file and prove the result as an apply does: [`transaction`]. A stop and a signal take no lock, and are over once the status page
//! shows what became of them: [`Watch`].

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::change::inside::{Asker, Inside};
use crate::change::proof::{self, Seen, Target, Trigger};
use crate::change::reason::{Ended, Outcome, Reason, RecordedOutcome, Shortfall};
use crate::change::transaction::{self, Order};
use crate::change::{Stop, Tried, clock};
use crate::page::{self, Changes};
use crate::protocol::{End, HelperMessage, HostMessage, Task};
use crate::request::{KEPT, Request, Verb};
use crate::status::{self, InitState, Page, RequestOutcome};
use crate::text::Printable;

/// How often to check whether the caller has gone, in milliseconds.
const POLL_INTERVAL: u16 = 50;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// What the caller asks for.
#[derive(Clone, Debug)]
pub struct Act {
    /// What to do.
    pub verb: Verb,
    /// Who asks for it.
    pub by: Printable,
    /// How long to wait for the lock, and then again for the result.
    pub timeout: Duration,
    /// Returns true once the caller no longer wants to wait.
    pub is_left: fn() -> bool,
}

/// The result for one daemon.
#[derive(Debug)]
pub struct Done {
    /// What init does to which daemon, and the daemon's state before; `None` if the table has no such daemon, or there is no status
    /// page.
    pub target: Option<Target>,
    /// How it ended.
    pub end: End,
}

impl Act {
    /// Acts on a daemon, and waits for the result.
    #[must_use]
    pub fn on(&self, daemon: &str) -> Done {
        let trigger = Trigger::Request { verb: self.verb, daemon: daemon.to_owned() };
        let Ok(page) = page::read() else { return Done { target: None, end: End::new(Reason::Stopping.into()) } };
        let target = trigger.target(&page);
        let end = match (proof::target(&page, &trigger), self.verb) {
            _ if (self.is_left)() => End::new(Reason::Interrupted.into()),
            (Err(why), _) => End::new(why.into()),
            (Ok(_), Verb::Restart | Verb::Start) => return self.change(trigger, target),
            (Ok(target), Verb::Stop | Verb::Signal(_)) => self.ask(&page, trigger, target),
        };
        Done { target, end }
    }

    fn change(&self, trigger: Trigger, before: Option<Target>) -> Done {
        let timeout_ms = u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX);
        let order = Order {
            id: Printable::new(&id()),
            by: self.by.clone(),
            at: clock::utc_now(),
            trigger,
            from_inside: true,
            starts_stopped: true,
            timeout_ms,
            task: Task::InPlace,
            content: None,
        };
        let mut inside = Inside::new(Person { is_left: self.is_left, target: before }, self.timeout);
        let mut end = transaction::change(&mut inside, &order).unwrap_or_else(|_| End::new(Reason::Interrupted.into()));
        end.ended = judged(end.ended, end.recovered.iter().any(|one| one.outcome == RecordedOutcome::Down));
        Done { target: inside.asker.target, end }
    }

    fn ask(&self, page: &Page, trigger: Trigger, target: Target) -> End {
        let (started, id) = (Instant::now(), id());
        let request = Request { id: id.clone(), verb: self.verb, daemon: target.daemon.to_string() };
        if let Err(e) = page::ask(Some(&request), self.timeout) {
            return End::new(crate::change::inside::may_not_act(&e).into());
        }
        let mut watch = Watch::new(page, &id, trigger, target);
        let mut changes = Changes::of(1);
        loop {
            let seen = page::read().map(|page| watch.observe(&page));
            let ended = match seen {
                Ok(Some(ended)) => ended,
                _ if (self.is_left)() => Ended::badly(Outcome::NotProven, Reason::Cancelled),
                // If a page can't be read, the next one will do, or the deadline passes.
                _ if started.elapsed() < self.timeout => {
                    changes.wait(POLL_INTERVAL);
                    continue;
                }
                _ => watch.give_up(),
            };
            return watch.end(ended);
        }
    }
}

/// An id that no other request of this bundle has.
fn id() -> String {
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{}-{}-{count}", std::process::id(), page::now_ms())
}

/// Turns the end of a change into that of a request: if another request replaced it, it is superseded; and if the daemon isn't up
/// after its interrupted change was undone, it is down.
fn judged(ended: Ended, is_down: bool) -> Ended {
    match (&ended.outcome, ended.why) {
        (Outcome::NotProven, Some(why)) if is_down => Ended { outcome: Outcome::Down, why: Some(why), back: None },
        (
            Outcome::NotProven,
            Some(
                why @ Reason::Unproven {
                    shortfall: Shortfall::Superseded | Shortfall::Stopped | Shortfall::Replaced,
                    ..
                },
            ),
        ) => Ended::badly(Outcome::Superseded, why),
        (_, Some(why @ Reason::MayNotAct { .. })) => Ended::badly(Outcome::NotAllowed, why),
        (outcome, why) => Ended { outcome: *outcome, why, back: ended.back },
    }
}

/// The caller, who runs this applet.
struct Person {
    is_left: fn() -> bool,
    target: Option<Target>,
}

impl Asker for Person {
    fn say(&mut self, message: HelperMessage) -> Tried<()> {
        if let HelperMessage::Go { target, .. } = message {
            self.target = Some(target);
        }
        Ok(())
    }

    fn hear(&mut self, ms: u16, changes: &mut Changes) -> Tried<Option<HostMessage>> {
        if !(self.is_left)() {
            changes.wait(ms.min(POLL_INTERVAL));
        }
        Ok((self.is_left)().then_some(HostMessage::Cancel))
    }
}

impl From<Stop> for Ended {
    fn from(stop: Stop) -> Self {
        let Stop::Because(why) = stop else { return Reason::Interrupted.into() };
        judged(why.into(), false)
    }
}

/// Finds the outcome of a stop or a signal. No I/O: pages come in.
#[derive(Debug)]
pub struct Watch {
    id: String,
    seen: Seen,
    /// The ids of the requests that the page showed before this one.
    others: Vec<String>,
    is_known: bool,
    shortfall: Shortfall,
}

impl Watch {
    /// Begins with a page from before the request.
    #[must_use]
    pub fn new(page: &Page, id: &str, trigger: Trigger, target: Target) -> Self {
        let before = proof::find(page, target.daemon.as_str()).into_iter();
        let others = before.flat_map(|(daemon, _)| &daemon.requests).map(|request| request.id.clone()).collect();
        let seen = Seen::new(page, trigger, target);
        Self { id: id.to_owned(), seen, others, is_known: false, shortfall: Shortfall::Unserved }
    }

    /// Takes in a page. `None` if there is no outcome yet.
    #[must_use]
    pub fn observe(&mut self, page: &Page) -> Option<Ended> {
        let (daemon, _) = self.seen.look(page)?;
        let request = daemon.requests.iter().find(|request| request.id == self.id);
        self.is_known |= request.is_some();
        match request {
            Some(request) => self.decided(request),
            None if self.is_known => Some(self.badly(Outcome::NotProven, Shortfall::Forgotten)),
            None => {
                // So many other requests have come since that this one may have appeared and gone between two looks.
                let is_others = daemon.requests.iter().any(|request| self.others.contains(&request.id));
                let is_gone = daemon.requests.len() >= KEPT && !is_others;
                self.shortfall = if is_gone { Shortfall::Forgotten } else { Shortfall::Unserved };
                None
            }
        }
        .or_else(|| {
            let is_stopping = page.status.state == InitState::Stopping;
            is_stopping.then(|| Ended::badly(Outcome::NotProven, Reason::Stopping))
        })
    }

    fn decided(&mut self, request: &status::Request) -> Option<Ended> {
        Some(match request.outcome {
            RequestOutcome::Stopped => Ended::well(Outcome::Stopped),
            RequestOutcome::NotRunning => Ended::well(Outcome::NotRunning),
            RequestOutcome::Delivered => Ended::well(Outcome::Delivered),
            RequestOutcome::Pending | RequestOutcome::Held => {
                let is_held = request.outcome == RequestOutcome::Held;
                self.shortfall = if is_held { Shortfall::Held } else { Shortfall::StillStopping };
                return None;
            }
            RequestOutcome::NeverCaught => self.badly(Outcome::NotProven, Shortfall::NeverCaught),
            RequestOutcome::Superseded => self.badly(Outcome::Superseded, Shortfall::Superseded),
            RequestOutcome::Failed => self.badly(Outcome::Failed, Shortfall::InitRefused { why: None }),
            RequestOutcome::Refused => match &request.why {
                Some(why) => Reason::RequestRefused {
                    sent: Printable::new(&self.seen.trigger.to_string()),
                    daemon: self.seen.target.daemon.clone(),
                    why: Printable::new(why),
                }
                .into(),
                None => self.badly(Outcome::Refused, Shortfall::InitRefused { why: None }),
            },
            // A stop or a signal can't have these outcomes.
            RequestOutcome::Started | RequestOutcome::Running => {
                self.badly(Outcome::NotProven, Shortfall::InitRefused { why: None })
            }
        })
    }

    /// The result if the time is up.
    #[must_use]
    pub fn give_up(&self) -> Ended {
        self.badly(Outcome::NotProven, self.shortfall.clone())
    }

    fn badly(&self, outcome: Outcome, shortfall: Shortfall) -> Ended {
        Ended::badly(outcome, self.seen.unproven(shortfall))
    }

    fn end(self, ended: Ended) -> End {
        let mut end = End::new(ended);
        end.after = Some(self.seen.after);
        end.siblings_moved = Some(self.seen.moved);
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::proof::Incarnation;
    use crate::sample;
    use crate::status::DaemonState;
    use crate::table::Signal;

    struct Scene {
        page: Page,
        why: Option<&'static str>,
        watch: Watch,
    }

    impl Scene {
        fn new(verb: Verb) -> Self {
            let page = sample::page();
            let trigger = Trigger::Request { verb, daemon: "pipelock".to_owned() };
            let target = proof::target(&page, &trigger).unwrap();
            let watch = Watch::new(&page, "a", trigger, target);
            Self { page, why: None, watch }
        }

        fn shows(&mut self, id: &str, outcome: RequestOutcome) -> Option<(Outcome, Option<Reason>)> {
            let (id, verb, generation) = (id.to_owned(), "stop".to_owned(), None);
            let request = status::Request { why: self.why.map(str::to_owned), id, verb, outcome, generation };
            self.page.status.daemons[1].requests.retain(|old| old.id != request.id);
            self.page.status.daemons[1].requests.push(request);
            self.look()
        }

        fn look(&mut self) -> Option<(Outcome, Option<Reason>)> {
            self.watch.observe(&self.page).map(|ended| (ended.outcome, ended.why))
        }
    }

    #[test]
    fn a_request_is_over_once_the_page_says_what_became_of_it() {
        use RequestOutcome as R;
        let cases = [
            (R::Stopped, Outcome::Stopped, 0),
            (R::NotRunning, Outcome::NotRunning, 0),
            (R::Delivered, Outcome::Delivered, 0),
            (R::NeverCaught, Outcome::NotProven, 1),
            (R::Refused, Outcome::Refused, 1),
            (R::Failed, Outcome::Failed, 1),
            (R::Superseded, Outcome::Superseded, 1),
        ];
        for (shown, outcome, exit) in cases {
            let mut s = Scene::new(Verb::Stop);
            assert_eq!(s.look(), None);
            assert_eq!(s.shows("b", R::Stopped), None, "another's");
            assert_eq!(s.shows("a", R::Pending), None);
            let (told, why) = s.shows("a", shown).unwrap();
            assert_eq!((told, told.exit(), why.is_none()), (outcome, exit, exit == 0));
        }
    }

    fn given_up(s: &Scene) -> Shortfall {
        match s.watch.give_up().why {
            Some(Reason::Unproven { shortfall, .. }) => shortfall,
            why => panic!("{why:?}"),
        }
    }

    #[test]
    fn what_is_missing_when_the_time_is_up_is_told() {
        let mut s = Scene::new(Verb::Stop);
        assert_eq!((s.look(), given_up(&s)), (None, Shortfall::Unserved));
        assert_eq!((s.shows("a", RequestOutcome::Pending), given_up(&s)), (None, Shortfall::StillStopping));
        let mut s = Scene::new(Verb::Signal(Signal::HUP));
        assert_eq!((s.shows("a", RequestOutcome::Held), given_up(&s)), (None, Shortfall::Held));
    }

    #[test]
    fn why_init_refuses_a_signal_is_told_as_its_log_says_it() {
        let mut s = Scene { why: Some("it is stopping"), ..Scene::new(Verb::Signal(Signal::HUP)) };
        let (outcome, why) = s.shows("a", RequestOutcome::Refused).unwrap();
        assert_eq!((outcome, outcome.exit()), (Outcome::Refused, 1));
        assert_eq!(why.unwrap().to_string(), "HUP for pipelock was refused: it is stopping");
    }

    #[test]
    fn a_signal_without_a_handler_is_reported_as_one_that_would_kill() {
        let mut s = Scene::new(Verb::Signal(Signal::from_name("TERM").unwrap()));
        let (_, why) = s.shows("a", RequestOutcome::NeverCaught).unwrap();
        let told = why.unwrap().to_string();
        assert!(told.contains("has no handler for it, and TERM would have killed it"), "{told}");
    }

    #[test]
    fn a_request_whose_id_has_gone_from_the_page_is_not_proven() {
        let mut s = Scene::new(Verb::Stop);
        assert_eq!(s.shows("a", RequestOutcome::Pending), None);
        s.page.status.daemons[1].requests.clear();
        let (outcome, why) = s.look().unwrap();
        assert_eq!(outcome, Outcome::NotProven);
        assert!(matches!(why, Some(Reason::Unproven { shortfall: Shortfall::Forgotten, .. })));
    }

    #[test]
    fn a_request_that_came_and_went_between_two_looks_is_gone() {
        let mut s = Scene::new(Verb::Stop);
        for n in 0..KEPT {
            assert_eq!(s.shows(&n.to_string(), RequestOutcome::Stopped), None);
        }
        assert_eq!(given_up(&s), Shortfall::Forgotten);
    }

    #[test]
    fn a_shutdown_ends_the_wait_unless_the_request_is_decided() {
        let mut s = Scene::new(Verb::Stop);
        s.page.status.state = InitState::Stopping;
        assert_eq!(s.look(), Some((Outcome::NotProven, Some(Reason::Stopping))));
        assert_eq!(s.shows("a", RequestOutcome::Stopped), Some((Outcome::Stopped, None)));
    }

    #[test]
    fn siblings_that_moved_are_named_and_the_daemon_itself_is_none() {
        let mut s = Scene::new(Verb::Stop);
        for daemon in &mut s.page.status.daemons {
            (daemon.pid, daemon.state) = (None, DaemonState::Exited);
        }
        let ended = s.watch.observe(&s.page).unwrap_or_else(|| s.watch.give_up());
        let end = s.watch.end(ended);
        assert_eq!(end.siblings_moved, Some(vec![Printable::new("egress")]));
        assert_eq!(end.after, Some(Incarnation { pid: None, generation: 1 }));
    }

    #[test]
    fn a_request_that_another_one_overtook_is_superseded() {
        let unproven = |shortfall| {
            let daemon = Printable::new("a");
            Ended::badly(Outcome::NotProven, Reason::Unproven { sent: daemon.clone(), daemon, pid: None, shortfall })
        };
        for shortfall in [Shortfall::Superseded, Shortfall::Stopped, Shortfall::Replaced] {
            assert_eq!(judged(unproven(shortfall), false).outcome, Outcome::Superseded);
        }
        assert_eq!(judged(unproven(Shortfall::NotReady { why: None }), false).outcome, Outcome::NotProven);
        assert_eq!(judged(unproven(Shortfall::NotReady { why: None }), true).outcome.exit(), 5);
        assert_eq!(judged(Ended::well(Outcome::Live), true).outcome, Outcome::Live);
        let denied = Reason::MayNotAct { words: Printable::new("no") };
        assert_eq!(judged(denied.into(), false).outcome.exit(), 4);
    }
}
