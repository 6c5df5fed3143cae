//! An apply to many bundles: who they are, then each in a thread of its own, begun and told when the [`Fleet`] says so.

use std::collections::VecDeque;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::docker::{self, A_LOOK};
use super::engine::Engine;
use super::fleet::{Action, Counts, Event, Fleet, Plan, Why};
use super::identify;
use super::protocol::MAX_BYTES;
use super::report::{Failure, Report};
use super::stop::{self, Gate, Word};
use super::{Bundle, Change, TO_ANSWER, call_failed, millis};
use crate::text::Plain;

/// By how much the bundles' own deadline is later than that for all: the host decides for all of them first.
const SLACK: Duration = Duration::from_secs(10);
/// How much an engine may say when it lists containers.
const MAX_LIST: usize = 1 << 20;

/// Which bundles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Select {
    /// Those of these names or ids, which are possible ones ([`identify::is_possible_name`]).
    Names(Vec<String>),
    /// Those that run and carry the label of a bundle, and these labels.
    Labels(Vec<String>),
}

/// What is told while it goes on.
#[derive(Debug)]
pub enum Told {
    /// One bundle ended, or was spared.
    Report(Box<Report>),
    /// How far all of them are.
    Counts(Counts),
}

/// One bundle that was asked for.
struct Member<'a> {
    engine: &'a Engine,
    context: Option<String>,
    name: Option<String>,
    id: Result<String, Failure>,
}

/// What a bundle's thread tells.
enum Note {
    Proven(usize),
    Ended(usize, Box<Report>),
}

/// Makes the change live in each bundle; `tell` gets the reports, one a bundle, as they come.
pub fn run(engines: &[Engine], change: &Change, select: &Select, plan: Plan, mut tell: impl FnMut(Told)) {
    let started = Instant::now();
    let members = members(engines, select);
    if members.is_empty() {
        let labels = match select {
            Select::Names(_) => Vec::new(),
            Select::Labels(labels) => labels.clone(),
        };
        tell(Told::Report(Box::new(Report::failed(None, Failure::NoneFound { labels }))));
        return;
    }
    let gate = Gate::new(if plan.together { Word::Hold } else { Word::Commit });
    let mut fleet = Fleet::new(plan, members.len());
    let mut todo = VecDeque::new();
    for (n, member) in members.iter().enumerate() {
        if let Err(failure) = &member.id {
            tell(Told::Report(Box::new(member.report(Report::failed(None, failure.clone()), started))));
            todo.extend(fleet.on(Event::Ended(n, false)));
        }
    }
    todo.extend(fleet.on(Event::Start));
    let all = All { members: &members, change, gate: &gate, started, together: plan.together };
    thread::scope(|scope| {
        let (sender, notes) = mpsc::channel();
        let (mut back, mut stopped, mut late) = (None, false, false);
        loop {
            while let Some(action) = todo.pop_front() {
                match action {
                    Action::Begin(n) => {
                        let (all, sender) = (&all, sender.clone());
                        if thread::Builder::new().spawn_scoped(scope, move || all.serve(n, &sender)).is_err() {
                            let words = Plain::new("the machine allows no further thread");
                            let failure = Failure::Unreachable { what: "exec", words };
                            let report = all.report(n, Report::failed(None, failure));
                            tell(Told::Report(Box::new(report)));
                            todo.extend(fleet.on(Event::Ended(n, false)));
                        }
                    }
                    Action::Spare(n, why) => {
                        let failure = Failure::Untouched { why: all.words(why) };
                        tell(Told::Report(Box::new(all.report(n, Report::failed(None, failure)))));
                    }
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
            match notes.recv_timeout(A_LOOK) {
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
    /// Of the time for all.
    fn left(&self) -> Duration {
        self.change.timeout.saturating_sub(self.started.elapsed())
    }

    /// One that exists: the others never begin.
    fn serve(&self, n: usize, notes: &Sender<Note>) {
        let Some((member, Ok(id))) = self.members.get(n).map(|member| (member, &member.id)) else { return };
        let timeout = if self.together { self.left() + SLACK } else { self.change.timeout };
        let proven = || {
            let _ = notes.send(Note::Proven(n));
        };
        let (engine, change, gate, started) = (member.engine, self.change, self.gate, self.started);
        let report = Bundle { engine, change, id, started, timeout, gate, proven: &proven }.apply();
        let _ = notes.send(Note::Ended(n, Box::new(self.report(n, report))));
    }

    fn report(&self, n: usize, report: Report) -> Report {
        match self.members.get(n) {
            Some(member) => member.report(report, self.started),
            None => report,
        }
    }

    fn words(&self, why: Why) -> Plain {
        match why {
            Why::Failed(n) => {
                let report = self.report(n, Report::failed(None, Failure::Missing));
                Plain::new(&format!("{} failed", report.who().unwrap_or_default()))
            }
            Why::Stopped => Plain::new("interrupted"),
            Why::Late => Plain::new("the time was up before the last one was proven"),
        }
    }
}

impl Member<'_> {
    fn report(&self, mut report: Report, started: Instant) -> Report {
        report.bundle.clone_from(&self.name);
        report.context.clone_from(&self.context);
        report.ms.total = millis(started);
        report
    }
}

/// Who is asked for, each once: two contexts may lead to one Engine. A name is served wherever it is found.
fn members<'a>(engines: &'a [Engine], select: &Select) -> Vec<Member<'a>> {
    let mut found: Vec<Member<'a>> = thread::scope(|scope| {
        let ask = |engine: &'a Engine| {
            let asked = thread::Builder::new().spawn_scoped(scope, move || on_engine(engine, select));
            (engine, asked)
        };
        let asked: Vec<_> = engines.iter().map(ask).collect();
        let answer = |asked: thread::ScopedJoinHandle<'_, _>| asked.join().ok();
        asked
            .into_iter()
            .flat_map(|(engine, asked)| asked.ok().and_then(answer).unwrap_or_else(|| on_engine(engine, select)))
            .collect()
    });
    let mut members: Vec<Member<'a>> = Vec::new();
    found.sort_by_key(|member| member.id == Err(Failure::Missing));
    for mut member in found {
        let is_there = |other: &Member<'_>| match &member.id {
            Ok(_) => other.id == member.id,
            Err(Failure::Missing) => other.name == member.name,
            Err(_) => false,
        };
        if !members.iter().any(is_there) {
            // One that is missing is so everywhere.
            member.context = member.context.filter(|_| engines.len() == 1 || member.id != Err(Failure::Missing));
            members.push(member);
        }
    }
    members
}

fn on_engine<'a>(engine: &'a Engine, select: &Select) -> Vec<Member<'a>> {
    let member = |name, id| Member { engine, context: engine.context.clone(), name, id };
    let failed = |name, failure| member(name, Err(failure));
    let names = match select {
        Select::Names(names) => names.clone(),
        Select::Labels(labels) => match docker::call(&engine.program, &engine.list(labels), MAX_LIST, TO_ANSWER) {
            Ok(output) if output.success => {
                String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
            }
            Ok(output) => {
                let words = Plain::from_bytes(&output.stderr);
                return vec![failed(None, Failure::Unreachable { what: "ps", words })];
            }
            Err(e) => return vec![failed(None, call_failed(engine, "ps", &e))],
        },
    };
    if names.is_empty() {
        return Vec::new();
    }
    let max_bytes = MAX_BYTES.saturating_mul(names.len());
    match docker::call(&engine.program, &engine.inspect(&names), max_bytes, TO_ANSWER) {
        Ok(output) => {
            let by_label = matches!(select, Select::Labels(_));
            let found = identify::identify(&names, &output.stdout, &output.stderr).into_iter();
            let name = |name: Option<String>, asked| if by_label { name.unwrap_or(asked) } else { asked };
            let mut members: Vec<_> = found.map(|f| member(Some(name(f.name, f.asked)), f.id)).collect();
            if by_label {
                members.sort_by(|a, b| a.name.cmp(&b.name));
            }
            members
        }
        Err(e) => {
            let failure = call_failed(engine, "inspect", &e);
            let first = |n: &usize| !names.iter().take(*n).any(|other| Some(other) == names.get(*n));
            let once = (0..names.len()).filter(first).filter_map(|n| names.get(n).cloned());
            once.map(|name| failed(Some(name), failure.clone())).collect()
        }
    }
}
