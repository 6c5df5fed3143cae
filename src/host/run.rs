//! An apply to many bundles: finds them, then handles each in a thread of its own. The [`Fleet`] decides when each begins.

use std::cell::Cell;
use std::collections::{HashSet, VecDeque};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::conversation::Conversation;
use super::docker::POLL_INTERVAL;
use super::engine::{BundleRef, Engine};
use super::fleet::{Action, Counts, Event, Fleet, Plan, Why};
use super::identify::Found;
use super::report::Report;
use super::stop::{self, Gate, Word};
use super::{Change, look, millis};
use crate::change::reason::{OwnWords, Reason};
use crate::text::Printable;

/// How much later the bundles' own deadline is than the one for all bundles, so that the host decides first.
const SLACK: Duration = Duration::from_secs(10);
/// How long an engine may take to notice that a container has ended.
const NOTICE_DELAY: Duration = Duration::from_millis(500);

/// Which bundles the apply is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Select {
    /// Those with these names or ids, each of which a container can have ([`is_possible_name`](super::identify::is_possible_name)).
    Names(Vec<String>),
    /// The running ones that have a bundle's label, and these labels (in Kubernetes: match these selectors).
    Labels(Vec<String>),
}

/// What is reported while the apply runs.
#[derive(Debug)]
pub enum Told {
    /// One bundle ended, or was left untouched.
    Report(Box<Report>),
    /// The progress of all bundles.
    Counts(Counts),
    /// How many pods were left out of a selection because they are being deleted. Reported at most once, and first.
    Terminating(usize),
}

/// One bundle of this apply.
struct Member<'a> {
    engine: &'a Engine,
    context: Option<String>,
    name: Option<String>,
    /// An identifier that no other bundle has; `None` if it wasn't found.
    id: Option<String>,
    bundle: Result<BundleRef, Reason>,
    /// The path of the program that it was started with, if that is one of ours.
    program: Option<String>,
    stop_signal: Option<Printable>,
}

/// What a bundle's thread reports.
enum Note {
    Proven(usize),
    Ended(usize, Box<Report>),
}

/// Makes the change in each bundle. `tell` gets one report per bundle, as soon as it is done.
pub fn run(engines: &[Engine], change: &Change, select: &Select, plan: Plan, mut tell: impl FnMut(Told)) {
    let started = Instant::now();
    let (members, terminating) = members(engines, select, change.timeout);
    if terminating > 0 {
        tell(Told::Terminating(terminating));
    }
    if members.is_empty() {
        let labels = match select {
            Select::Names(_) => Vec::new(),
            Select::Labels(labels) => labels.iter().cloned().map(OwnWords).collect(),
        };
        let is_pod = engines.iter().any(Engine::is_kubectl);
        tell(Told::Report(Box::new(Report::failed(None, Reason::NoneFound { is_pod, labels, terminating }))));
        return;
    }
    let gate = Gate::new(if plan.together { Word::Hold } else { Word::Commit });
    let all = All { members: &members, change, gate: &gate, started, together: plan.together };
    let mut fleet = Fleet::new(plan, members.len());
    let mut todo = VecDeque::new();
    for (n, member) in members.iter().enumerate() {
        if let Err(why) = &member.bundle {
            tell(all.failed(n, why.clone()));
            todo.extend(fleet.on(Event::Ended(n, false)));
        }
    }
    todo.extend(fleet.on(Event::Start));
    thread::scope(|scope| {
        let (sender, notes) = mpsc::channel();
        let (mut back, mut stopped, mut late) = (None, false, false);
        loop {
            while let Some(action) = todo.pop_front() {
                match action {
                    Action::Begin(n) => {
                        let (all, sender) = (&all, sender.clone());
                        if thread::Builder::new().spawn_scoped(scope, move || all.serve(n, &sender)).is_err() {
                            let words = Printable::new("the machine allows no more threads");
                            tell(all.failed(n, Reason::CallFailed { call: Printable::new("exec"), words }));
                            todo.extend(fleet.on(Event::Ended(n, false)));
                        }
                    }
                    Action::Spare(n, why) => tell(all.failed(n, Reason::Fleet { why: all.words(why) })),
                    Action::Commit => gate.say(Word::Commit),
                    Action::GoBack(why) => {
                        gate.say(Word::Back);
                        back = Some(why);
                    }
                }
            }
            tell(Told::Counts(fleet.counts()));
            if fleet.is_over() {
                break;
            }
            match notes.recv_timeout(POLL_INTERVAL) {
                Ok(Note::Proven(n)) if plan.together => todo.extend(fleet.on(Event::Proven(n))),
                Ok(Note::Ended(n, mut report)) => {
                    if let Some(why) = back.filter(|why| *why != Why::Stopped) {
                        report.because(&all.words(why));
                    }
                    todo.extend(fleet.on(Event::Ended(n, report.is_success())));
                    tell(Told::Report(report));
                }
                Ok(Note::Proven(_)) | Err(_) => {}
            }
            if stop::count() > 0 && !std::mem::replace(&mut stopped, true) {
                todo.extend(fleet.on(Event::Stop));
            }
            if all.left().is_zero() && !std::mem::replace(&mut late, true) {
                todo.extend(fleet.on(Event::Late));
            }
        }
    });
}

/// What the threads share.
struct All<'a> {
    members: &'a [Member<'a>],
    change: &'a Change,
    gate: &'a Gate,
    started: Instant,
    together: bool,
}

impl All<'_> {
    /// How much of the time for all bundles is left.
    fn left(&self) -> Duration {
        self.change.timeout.saturating_sub(self.started.elapsed())
    }

    /// Handles one bundle that exists. (The others never begin.)
    fn serve(&self, n: usize, notes: &Sender<Note>) {
        let Some((member, Ok(bundle))) = self.members.get(n).map(|member| (member, &member.bundle)) else { return };
        let timeout = if self.together { self.left() + SLACK } else { self.change.timeout };
        let proven = || {
            let _ = notes.send(Note::Proven(n));
        };
        let (engine, change, gate, started) = (member.engine, self.change, self.gate, self.started);
        let (program, by_path) = (member.program.as_deref(), Cell::new(false));
        let conversation =
            Conversation { engine, change, bundle, program, by_path, started, timeout, gate, proven: &proven };
        let mut report = conversation.apply();
        if matches!(report.end.ended.why, Some(Reason::NoAnswer { .. })) {
            // A bundle that ended in the middle gives no answer either. Ask its engine, which may notice that a moment later.
            thread::sleep(NOTICE_DELAY);
            let name = match bundle {
                BundleRef::Container(id) => id,
                BundleRef::Pod { pod, .. } => pod,
            };
            let now = on_engine(engine, &Select::Names(vec![name.clone()]), change.timeout).0.into_iter().next();
            if let Some(Member { bundle: Err(failure), .. }) = now {
                report.end.ended = failure.into();
            }
        }
        let _ = notes.send(Note::Ended(n, Box::new(self.report(n, report))));
    }

    fn report(&self, n: usize, mut report: Report) -> Report {
        if let Some(member) = self.members.get(n) {
            report.bundle.clone_from(&member.name);
            report.context.clone_from(&member.context);
            report.stop_signal.clone_from(&member.stop_signal);
        }
        report.ms.total = millis(self.started);
        report
    }

    /// The report of a bundle that never began.
    fn failed(&self, n: usize, why: Reason) -> Told {
        Told::Report(Box::new(self.report(n, Report::failed(None, why))))
    }

    fn words(&self, why: Why) -> Printable {
        match why {
            Why::Failed(n) => {
                let report = self.report(n, Report::failed(None, Reason::Interrupted));
                Printable::new(&format!("{} failed", report.who().unwrap_or_default()))
            }
            Why::Stopped => Printable::new("interrupted"),
            Why::Late => Printable::new("the time was up before the last one was proven"),
        }
    }
}

/// The bundles that the caller asked for, and how many pods were left out.
fn members<'a>(engines: &'a [Engine], select: &Select, timeout: Duration) -> (Vec<Member<'a>>, usize) {
    let here = |engine: &'a Engine| on_engine(engine, select, timeout);
    let found = thread::scope(|scope| {
        // Engines may be far away, so all are asked at the same time. If no further thread can be made, this thread asks.
        let ask = |engine| thread::Builder::new().spawn_scoped(scope, move || here(engine)).map_err(|_| engine);
        let asked: Vec<_> = engines.iter().map(ask).collect();
        let answer = |asked: Result<thread::ScopedJoinHandle<'_, _>, _>| match asked {
            Ok(thread) => thread.join().unwrap_or_default(),
            Err(engine) => here(engine),
        };
        asked.into_iter().map(answer).collect::<Vec<_>>()
    });
    let (found, left_out): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    (once(found.into_iter().flatten().collect(), engines.len(), select), left_out.into_iter().sum())
}

/// Lists each bundle once, even if several names or contexts lead to it: two contexts may be the same Engine. If a name is found in
/// several contexts, each of those bundles is listed.
fn once<'a>(mut found: Vec<Member<'a>>, engines: usize, select: &Select) -> Vec<Member<'a>> {
    let is_missing = |member: &Member<'_>| matches!(member.bundle, Err(Reason::NoSuch { .. }));
    match select {
        // In the order in which they were named, so that the first ones are the canaries. A name missing in one context may be in another.
        Select::Names(names) => {
            let at = |member: &Member<'_>| names.iter().position(|name| member.name.as_ref() == Some(name));
            found.sort_by_key(|member| (at(member), is_missing(member)));
        }
        // Sorted by name over all contexts. A missing one went away after it was listed.
        Select::Labels(_) => {
            found.retain(|member| !is_missing(member));
            found.sort_by(|a, b| a.name.cmp(&b.name));
        }
    }
    let elsewhere: HashSet<_> = found.iter().filter(|m| m.id.is_some()).map(|member| member.name.clone()).collect();
    let mut members: Vec<Member<'a>> = Vec::new();
    for mut member in found {
        if is_missing(&member) {
            // A name that is missing everywhere is reported once.
            if elsewhere.contains(&member.name) || members.iter().any(|other| other.name == member.name) {
                continue;
            }
            member.context = member.context.filter(|_| engines == 1);
        }
        let is_it = |other: &Member<'_>| match &member.id {
            Some(_) => other.id == member.id,
            None => other.context == member.context && other.name == member.name && other.bundle == member.bundle,
        };
        if !members.iter().any(is_it) {
            members.push(member);
        }
    }
    members
}

fn on_engine<'a>(engine: &'a Engine, select: &Select, timeout: Duration) -> (Vec<Member<'a>>, usize) {
    let context = || engine.context.clone();
    let unknown = |name, failure| {
        let bundle = Err(failure);
        Member { engine, context: context(), name, id: None, program: None, stop_signal: None, bundle }
    };
    let member = |found: Found| {
        let Found { asked, name, id, program, stop_signal, bundle } = found;
        let name = match select {
            Select::Names(_) => asked,
            Select::Labels(_) => name.unwrap_or(asked),
        };
        Member { engine, context: context(), name: Some(name), id, program, stop_signal, bundle }
    };
    match (look::find(engine, select, timeout), select) {
        (Ok(finding), _) => (finding.found.into_iter().map(member).collect(), finding.terminating),
        (Err(failure), Select::Labels(_)) => (vec![unknown(None, failure)], 0),
        (Err(failure), Select::Names(names)) => {
            (names.iter().map(|name| unknown(Some(name.clone()), failure.clone())).collect(), 0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::engine::Kind;

    /// Of these contexts, names, ids and, where it can't be served, reasons: who is left.
    fn left(found: &[(&str, &str, &str, Option<Reason>)], select: &Select) -> Vec<(Option<String>, String)> {
        let engine = Engine { program: "docker".into(), context: None, kind: Kind::Docker };
        let member = |(context, name, id, failure): &(&str, &str, &str, Option<Reason>)| {
            let id = Some((*id).to_owned()).filter(|id| !id.is_empty());
            let bundle = failure.clone().map_or_else(|| Ok(BundleRef::Container(id.clone().unwrap())), Err);
            let (context, name) = (Some((*context).to_owned()), Some((*name).to_owned()));
            Member { engine: &engine, context, name, id, program: None, stop_signal: None, bundle }
        };
        let members = once(found.iter().map(member).collect(), 2, select);
        members.into_iter().map(|member| (member.context, member.name.unwrap())).collect()
    }

    #[test]
    fn each_bundle_is_served_once_whatever_names_it_was_asked_for_by() {
        let (far, near) = (
            |name: &str| (Some("far".to_owned()), name.to_owned()),
            |name: &str| (Some("near".to_owned()), name.to_owned()),
        );
        let names = |names: &[&str]| Select::Names(names.iter().map(|name| (*name).to_owned()).collect());
        let (gone, paused) = (|| Some(Reason::NoSuch { is_pod: false }), || Some(Reason::Paused));
        let refused = || Some(Reason::CallFailed { call: Printable::new("inspect"), words: Printable::new("refused") });
        // By its name and by its id, which no other Engine knows.
        let both = names(&["b1", "01"]);
        let found = [
            ("near", "b1", "01", None),
            ("near", "01", "01", None),
            ("far", "b1", "", gone()),
            ("far", "01", "", gone()),
        ];
        assert_eq!(left(&found, &both), [near("b1")]);
        // One Engine by two contexts, also where it can't be served; and one that can't be reached, by one context that is named twice.
        let found = [
            ("near", "b1", "01", paused()),
            ("near", "01", "01", paused()),
            ("far", "b1", "01", paused()),
            ("far", "01", "01", paused()),
        ];
        assert_eq!(left(&found, &both), [near("b1")]);
        let one = names(&["b1"]);
        let found = [("near", "b1", "", refused()), ("near", "b1", "", refused()), ("far", "b1", "02", None)];
        assert_eq!(left(&found, &one), [near("b1"), far("b1")]);
        // Missing everywhere, it has no context; one that was listed and went away isn't among those that run.
        let found = [("near", "b1", "", gone()), ("far", "b1", "", gone())];
        assert_eq!(left(&found, &one), [(None, "b1".to_owned())]);
        assert_eq!(left(&found, &Select::Labels(Vec::new())), []);
    }

    #[test]
    fn the_canaries_of_a_label_are_the_first_by_name_over_all_contexts() {
        let found = [
            ("near", "b2", "02", None),
            ("near", "b4", "04", None),
            ("far", "b1", "01", None),
            ("far", "b3", "03", None),
        ];
        let names: Vec<String> = left(&found, &Select::Labels(Vec::new())).into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["b1", "b2", "b3", "b4"]);
    }
}
