//! The requests of one daemon, and what became of them.

use crate::request::{KEPT, Verb};
use crate::status::{self, RequestOutcome};
use crate::table::Signal;

/// How many requests may be undecided, so that the status page can't grow without end.
const MAX_UNDECIDED: usize = 64;

#[derive(Debug)]
struct Entry {
    id: String,
    verb: Verb,
    outcome: RequestOutcome,
    generation: Option<u64>,
    /// The number of the delivery that carried it out.
    delivery: u64,
    /// Why it was refused.
    why: Option<&'static str>,
}

/// Oldest first.
#[derive(Debug, Default)]
pub(super) struct Requests(Vec<Entry>);

impl Requests {
    fn pending(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.0.iter_mut().filter(|entry| entry.outcome == RequestOutcome::Pending)
    }

    /// The undecided ones that ask for a process, as `restart` and `start` do.
    fn starts(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.pending().filter(|entry| matches!(entry.verb, Verb::Restart | Verb::Start))
    }

    fn stops(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.pending().filter(|entry| entry.verb == Verb::Stop)
    }

    fn held(&mut self, signal: Signal) -> impl Iterator<Item = &mut Entry> {
        let is_held = |entry: &&mut Entry| entry.outcome == RequestOutcome::Held;
        self.0.iter_mut().filter(is_held).filter(move |entry| entry.verb == Verb::Signal(signal))
    }

    /// Adds an undecided request. The oldest decided ones make room for it, so the latest outcomes can still be read.
    pub(super) fn push(&mut self, id: String, verb: Verb) {
        while self.0.len() >= KEPT
            && let Some(oldest) = self.0.iter().position(|entry| entry.outcome.is_final())
        {
            self.0.remove(oldest);
        }
        // If there are too many, the oldest one is superseded, since the latest request decides.
        if self.0.len() >= MAX_UNDECIDED
            && let Some(oldest) = self.0.iter_mut().find(|entry| !entry.outcome.is_final())
        {
            oldest.outcome = RequestOutcome::Superseded;
        }
        let outcome = if matches!(verb, Verb::Signal(_)) { RequestOutcome::Held } else { RequestOutcome::Pending };
        self.0.push(Entry { id, verb, outcome, generation: None, delivery: 0, why: None });
    }

    /// Decides the request that was pushed last, unless it is decided already.
    pub(super) fn decide(&mut self, outcome: RequestOutcome, generation: Option<u64>) {
        if let Some(last) = self.0.last_mut().filter(|last| !last.outcome.is_final()) {
            (last.outcome, last.generation) = (outcome, generation);
        }
    }

    /// Refuses the request that was pushed last.
    pub(super) fn refuse(&mut self, why: &'static str) {
        self.decide(RequestOutcome::Refused, None);
        if let Some(last) = self.0.last_mut().filter(|last| last.outcome == RequestOutcome::Refused) {
            last.why = Some(why);
        }
    }

    /// A held signal was dropped: refuses the requests that asked for it.
    pub(super) fn signal_is_dropped(&mut self, signal: Signal, why: &'static str) {
        for entry in self.held(signal) {
            (entry.outcome, entry.why) = (RequestOutcome::Refused, Some(why));
        }
    }

    /// A process is being started: it is the one for every request that waits for a start.
    pub(super) fn start_begins(&mut self, generation: u64) {
        self.starts().for_each(|entry| entry.generation = Some(generation));
    }

    pub(super) fn start_ends(&mut self, outcome: RequestOutcome) {
        self.starts().for_each(|entry| entry.outcome = outcome);
    }

    /// No process will be started: refuses the requests that wait for one.
    pub(super) fn starts_are_refused(&mut self, why: &'static str) {
        for entry in self.starts() {
            (entry.outcome, entry.why) = (RequestOutcome::Refused, Some(why));
        }
    }

    pub(super) fn stop_ends(&mut self, outcome: RequestOutcome) {
        self.stops().for_each(|entry| entry.outcome = outcome);
    }

    /// Decides the requests for a held signal. Returns whether there were any.
    pub(super) fn signal_ends(
        &mut self,
        signal: Signal,
        outcome: RequestOutcome,
        generation: Option<u64>,
        delivery: u64,
    ) -> bool {
        let mut any = false;
        for entry in self.held(signal) {
            (entry.outcome, entry.generation, entry.delivery) = (outcome, generation, delivery);
            any = true;
        }
        any
    }

    /// The kernel refused this delivery, so its requests have failed.
    pub(super) fn delivery_fails(&mut self, signal: i32, delivery: u64) {
        let is_it = |entry: &&mut Entry| {
            let is_of_signal = matches!(entry.verb, Verb::Signal(s) if s.number() == signal);
            is_of_signal && entry.outcome == RequestOutcome::Delivered && entry.delivery == delivery
        };
        self.0.iter_mut().filter(is_it).for_each(|entry| entry.outcome = RequestOutcome::Failed);
    }

    pub(super) fn view(&self) -> Vec<status::Request> {
        let view = |entry: &Entry| status::Request {
            id: entry.id.clone(),
            verb: entry.verb.to_string(),
            outcome: entry.outcome,
            generation: entry.generation,
            why: entry.why.map(str::to_owned),
        };
        self.0.iter().map(view).collect()
    }
}
