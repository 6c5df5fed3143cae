//! The result of an apply, for one bundle and for all: one line for people, or one JSON object.
//!
//! Each [`Reason`] has its sentence; the line adds the outcome, what was left untouched, and which siblings changed.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::change::proof::{Act, Incarnation, Target, Trigger};
use crate::change::reason::{Outcome, Reason, Recovered, Shortfall, aside};
use crate::protocol::{Diff, End, Hunk};
use crate::request::Verb;
use crate::text::Printable;

/// The version of the JSON object; keys may be added without a new version.
const SCHEMA: u32 = 1;

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The applet's name.
    pub applet: &'static str,
    /// What makes init act; `None` in a usage error, when it isn't known.
    pub trigger: Option<Trigger>,
    /// The program that reaches the bundles: docker, podman, kubectl.
    pub tool: Printable,
}

/// How long each step took, in milliseconds; 0 for one that wasn't needed or not reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Millis {
    pub identify: u64,
    pub wait: u64,
    pub check: u64,
    pub signal: u64,
    pub prove: u64,
    pub back: u64,
    pub total: u64,
}

/// The result of an apply for one bundle.
#[derive(Clone, Debug)]
pub struct Report {
    /// The bundle, as the caller named it; `None` in a usage error.
    pub bundle: Option<String>,
    /// The context through which it was reached, if the caller named one.
    pub context: Option<String>,
    /// How it ended and what was seen: the helper's last message, or what went wrong on the host before that.
    pub end: End,
    /// docker's error message, if `docker kill` failed.
    pub kill: Option<Printable>,
    /// Why the fleet asked this bundle to go back; `None` if it didn't, or if a person asked.
    pub because: Option<Printable>,
    /// What init does to which daemon, once that is known.
    pub target: Option<Target>,
    /// Whether docker accepted the signal.
    pub sent: bool,
    /// The container's STOPSIGNAL, if it doesn't stop init.
    pub stop_signal: Option<Printable>,
    /// How long each step took.
    pub ms: Millis,
}

impl Report {
    /// The report of a bundle for which nothing was done.
    #[must_use]
    pub fn failed(bundle: Option<String>, why: Reason) -> Self {
        Self {
            bundle,
            context: None,
            end: End::new(why.into()),
            kill: None,
            because: None,
            target: None,
            sent: false,
            stop_signal: None,
            ms: Millis::default(),
        }
    }

    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> u8 {
        self.end.ended.outcome.exit()
    }

    /// Whether it ended well. If so, its line goes to stdout, else to stderr.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.end.ended.is_good()
    }

    /// The name that its line begins with; `None` in a usage error.
    #[must_use]
    pub fn who(&self) -> Option<String> {
        match (&self.context, &self.bundle) {
            (Some(context), Some(bundle)) => Some(format!("{context}/{bundle}")),
            (one, None) | (None, one) => one.clone(),
        }
    }

    /// Notes why the fleet asked this bundle to go back.
    pub fn because(&mut self, why: &Printable) {
        self.because = Some(why.clone());
        if self.end.ended.outcome == Outcome::Refused
            && matches!(self.end.ended.why, Some(Reason::Interrupted | Reason::Cancelled))
        {
            self.end.ended = Reason::Fleet { why: why.clone() }.into();
        }
    }

    /// The line for people, without its newline. It begins with the bundle's name.
    #[must_use]
    pub fn line(&self, asked: &Asked) -> String {
        let who = match (self.who(), &self.target) {
            (Some(who), _) => format!("{who}: "),
            (None, Some(_)) => String::new(),
            (None, None) => format!("{}: ", asked.applet),
        };
        let recovered: Vec<String> = self.end.recovered.iter().map(|one| format!("; first: {one}")).collect();
        let recovered = recovered.concat();
        match &self.end.ended.why {
            None => format!("{who}{}{recovered}", self.good(asked)),
            Some(why) => format!("{who}{}{}{recovered}", self.bad(why, asked), self.moved()),
        }
    }

    /// A note for people, which goes to stderr. (In JSON it is a key of the object.)
    #[must_use]
    pub fn note(&self) -> Option<String> {
        let (who, signal) = (self.who()?, self.stop_signal.as_ref()?);
        Some(format!(
            "{who}: note: its stop signal is {signal}, perhaps inherited from its base image, and that doesn't stop sidecar: \
             docker stop will end in SIGKILL; set STOPSIGNAL SIGTERM in the Dockerfile (compose: stop_signal: SIGTERM)"
        ))
    }

    /// The object for programs, on one line, without its newline.
    #[must_use]
    pub fn json(&self, asked: &Asked) -> String {
        #[derive(Serialize)]
        struct Object<'a> {
            schema: u32,
            applet: &'a str,
            bundle: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            context: Option<&'a str>,
            exit: u8,
            outcome: Outcome,
            signal: Option<String>,
            action: Option<&'a str>,
            daemon: Option<&'a Printable>,
            before: Option<Incarnation>,
            after: Option<Incarnation>,
            siblings_moved: Option<&'a [Printable]>,
            ms: Millis,
            #[serde(skip_serializing_if = "Option::is_none")]
            checked: Option<bool>,
            #[serde(skip_serializing_if = "Option::is_none")]
            diff: Option<&'a Diff>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            settled: Vec<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            owner_was: Option<(u32, u32)>,
            #[serde(skip_serializing_if = "Option::is_none")]
            stop_signal: Option<&'a Printable>,
            error: Option<String>,
        }
        let object = Object {
            schema: SCHEMA,
            applet: asked.applet,
            bundle: self.bundle.as_deref(),
            context: self.context.as_deref(),
            exit: self.exit(),
            outcome: self.end.ended.outcome,
            signal: match &asked.trigger {
                Some(Trigger::Signal(signal) | Trigger::Request { verb: Verb::Signal(signal), .. }) => {
                    Some(signal.to_string())
                }
                Some(Trigger::Request { .. }) | None => None,
            },
            action: match (&asked.trigger, &self.target) {
                (Some(Trigger::Request { verb, .. }), _) => Some(verb.name()),
                (_, Some(target)) => Some(target.action.name()),
                (_, None) => None,
            },
            daemon: self.target.as_ref().map(|t| &t.daemon),
            // Generation 0 stands for a daemon that isn't selected, so nothing is known about it.
            before: self.target.as_ref().map(|t| t.before).filter(|before| before.generation > 0),
            after: self.end.after,
            siblings_moved: self.end.siblings_moved.as_deref(),
            ms: self.ms,
            checked: self.end.checked,
            diff: self.end.diff.as_ref(),
            settled: self.end.recovered.iter().map(Recovered::to_string).collect(),
            owner_was: self.end.owner_was,
            stop_signal: self.stop_signal.as_ref(),
            error: self.end.ended.why.as_ref().map(|why| self.bad(why, asked)),
        };
        // Plain structs of strings and numbers: they can't fail to serialize.
        serde_json::to_string(&object).unwrap_or_default()
    }

    fn good(&self, asked: &Asked) -> String {
        let (signal, daemon, tool, ms) = (signal(asked), self.daemon(), &asked.tool, self.ms.total);
        let siblings =
            if self.end.siblings_moved.as_ref().is_none_or(Vec::is_empty) { "; siblings untouched" } else { "" };
        let unchecked =
            if self.end.checked == Some(false) { "; unchecked: its table entry names no checker" } else { "" };
        let owner = self.end.owner_was.map_or_else(String::new, |(uid, gid)| {
            format!("; the owner of its file was {uid}:{gid} and is the bundle's own user now")
        });
        let tail = format!("{siblings}{}{unchecked}{owner}; {ms} ms", self.moved());
        let restart = self.target.as_ref().is_some_and(|t| t.action == Act::Restart);
        let over = self.end.after.filter(|after| after.pid.is_none());
        match self.end.ended.outcome {
            Outcome::Live if over.is_some() => {
                format!("live: {daemon} ran and exited 0 (generation {}){tail}", over.map_or(0, |over| over.generation))
            }
            Outcome::Live if matches!(asked.trigger, Some(Trigger::Request { verb: Verb::Start, .. })) => {
                format!("live: {daemon} was started and is ready: {}{tail}", self.change())
            }
            Outcome::Live if restart => format!("live: {daemon} was restarted and is ready: {}{tail}", self.change()),
            Outcome::Live => format!("live: {daemon} took {signal} and says that it obeyed: {}{tail}", self.change()),
            Outcome::Delivered if self.is_inside() => {
                format!("delivered: {daemon} was sent {signal}{}; how it reacted was not checked{tail}", self.pid())
            }
            Outcome::Stopped => {
                format!("stopped: {daemon} was stopped, and stays stopped until it is started{tail}")
            }
            Outcome::Running => {
                format!("running: {daemon} is running already{}; nothing was done; {ms} ms", self.pid())
            }
            Outcome::NotRunning => format!("not running: {daemon} isn't running; nothing was done; {ms} ms"),
            Outcome::Delivered => format!(
                "delivered: {daemon} took {signal} and stays up: {}; it can't say whether it obeyed (its `ready` is not notify){tail}",
                self.change()
            ),
            Outcome::Unchanged => format!(
                "unchanged: the running process of {daemon} was already proven with this very content; nothing was sent{unchecked}; {ms} ms"
            ),
            Outcome::DryRun => {
                let passes = if self.end.checked == Some(false) { "unchecked" } else { "the checker passed it" };
                let diff = self.end.diff.as_ref().map_or_else(String::new, diff);
                // If an earlier change was recovered, something was changed and sent after all.
                let is_untouched = self.end.recovered.is_empty();
                let untouched =
                    if is_untouched { "nothing was changed or sent" } else { "this change itself was not made" };
                format!("dry run: {passes}; {diff}; {untouched}; {ms} ms")
            }
            _ => format!("sent: {signal} for {daemon}, by {tool}; the result was not checked; {ms} ms"),
        }
    }

    fn bad(&self, why: &Reason, asked: &Asked) -> String {
        let (signal, daemon) = (signal(asked), self.daemon());
        // The helper was only told to go back. Only the host knows why.
        let said = |why: &Reason| match (why, &self.because) {
            (Reason::Cancelled, Some(because)) => because.to_string(),
            (Reason::CallFailed { .. }, _) => format!("{} {why}", asked.tool),
            _ => why.to_string(),
        };
        let mut why_said = said(why);
        if self.is_inside() && !why_said.starts_with(&format!("{daemon} ")) {
            why_said = format!("{daemon}: {why_said}");
        }
        // If an earlier change was recovered, something was changed and sent after all.
        let untouched =
            if self.end.recovered.is_empty() { why.untouched() } else { "; this change itself was not made" };
        match (self.end.ended.outcome, why) {
            (Outcome::Untouched, _) => format!("untouched: {why_said}{untouched}"),
            (Outcome::Refused, Reason::Unproven { shortfall, .. }) => {
                format!("refused: {why_said}{}", shortfall.aftermath())
            }
            (Outcome::Refused, Reason::Stopping) => format!("refused: {why_said}{untouched}; try again when it runs"),
            (Outcome::Refused, _) => format!("refused: {why_said}{untouched}"),
            (Outcome::RolledBack, Reason::Unproven { shortfall: Shortfall::Stopped, .. }) => {
                format!("rolled back: {why_said}; the old content is back and {daemon} is left stopped")
            }
            (Outcome::RolledBack, _) => format!(
                "rolled back: {why_said}{}; the old content is back and {daemon} is as it was{}",
                self.kill.as_ref().map_or_else(String::new, aside),
                if self.end.after.is_some_and(|after| after.pid.is_none()) {
                    ": not running".to_owned()
                } else {
                    self.pid()
                }
            ),
            (Outcome::Superseded, Reason::Unproven { shortfall, .. }) => {
                format!("superseded: {why_said}{}", shortfall.aftermath())
            }
            (Outcome::Failed, _) => format!("failed: {why_said}"),
            (Outcome::NotAllowed, _) => format!("not allowed: {why_said}; nothing was sent"),
            (Outcome::NotProven, Reason::Unproven { shortfall, .. }) => {
                format!("not proven: {why_said}{}", shortfall.aftermath())
            }
            (Outcome::NotProven, Reason::KillTimedOut { .. } | Reason::Lost { .. }) => {
                format!("not proven: {why_said}")
            }
            (Outcome::NotProven, why) if self.is_inside() => format!("not proven: {why_said}{}", asked_for(why)),
            (Outcome::NotProven, _) => format!(
                "not proven: {signal} was sent, then: {why_said}; there is no old content to go back to without --file; check status"
            ),
            (Outcome::Down, _) => match &self.end.ended.back {
                None => format!("DOWN: {why_said} (sidecar --explain down)"),
                Some(back) => format!(
                    "DOWN: {why_said}; going back failed too: {}; {daemon}: manual action needed: check its log, fix the cause, \
                     then try again (sidecar --explain down)",
                    said(back)
                ),
            },
            (Outcome::Unsettled, _) => format!("UNSETTLED: {why_said} (sidecar --explain unsettled)"),
            (_, why) => why_said + why.untouched(),
        }
    }

    /// Whether it was a request from inside the bundle, for a daemon by its name.
    fn is_inside(&self) -> bool {
        self.bundle.is_none() && self.target.is_some()
    }

    fn pid(&self) -> String {
        self.end.after.and_then(|after| after.pid).map_or_else(String::new, |pid| format!(" (pid {pid})"))
    }

    fn daemon(&self) -> &str {
        self.target.as_ref().map_or("the daemon", |target| target.daemon.as_str())
    }

    fn change(&self) -> String {
        let pid = |of: Incarnation| of.pid.map_or_else(|| "none".to_owned(), |pid| pid.to_string());
        match (self.target.as_ref().map(|t| t.before), self.end.after) {
            (Some(before), Some(after)) if before != after => {
                let (old, new) = (pid(before), pid(after));
                format!("pid {old} -> {new}, generation {} -> {}", before.generation, after.generation)
            }
            (_, Some(after)) => format!("same pid {}, generation {}", pid(after), after.generation),
            (_, None) => String::new(),
        }
    }

    fn moved(&self) -> String {
        let moved = self.end.siblings_moved.as_deref().unwrap_or_default();
        if moved.is_empty() {
            return String::new();
        }
        // A table has a handful of daemons: if a bundle names a thousand, ten are enough.
        let names: Vec<&str> = moved.iter().take(10).map(Printable::as_str).collect();
        format!("; siblings that changed meanwhile: {}", names.join(", "))
    }
}

/// The result of an apply for all of its bundles.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    names: BTreeMap<Outcome, Vec<String>>,
    exit: u8,
    /// How many pods were left out because they are being deleted.
    pub terminating: usize,
}

impl Summary {
    /// Adds one bundle's report.
    pub fn add(&mut self, report: &Report) {
        self.exit = self.exit.max(report.exit());
        self.names.entry(report.end.ended.outcome).or_default().extend(report.who());
    }

    /// The exit code: the highest.
    #[must_use]
    pub fn exit(&self) -> u8 {
        self.exit
    }

    /// The outcome with the highest exit code, if that isn't 0.
    #[must_use]
    pub fn worst(&self) -> Option<Outcome> {
        self.names.keys().copied().filter(|outcome| outcome.exit() > 0).max_by_key(|outcome| outcome.exit())
    }

    /// How many bundles it covers.
    #[must_use]
    pub fn bundles(&self) -> usize {
        self.names.values().map(Vec::len).sum()
    }

    /// The line for people, without its newline. It has names unless all bundles had the same outcome.
    #[must_use]
    pub fn line(&self, asked: &Asked, ms: u128) -> String {
        let group = |(outcome, names): (&Outcome, &Vec<String>)| {
            let outcome = outcome.name().replace('-', " ");
            let who = if self.names.len() > 1 { format!(" ({})", names.join(", ")) } else { String::new() };
            format!("{} {outcome}{who}", names.len())
        };
        let groups: Vec<String> = self.names.iter().map(group).collect();
        format!("{}: {} bundles: {}; {ms} ms", asked.applet, self.bundles(), groups.join("; "))
    }

    /// The object for programs, on one line, without its newline.
    #[must_use]
    pub fn json(&self, asked: &Asked, ms: u128) -> String {
        #[derive(Serialize)]
        struct Object<'a> {
            schema: u32,
            applet: &'a str,
            bundle: (),
            exit: u8,
            outcome: &'a str,
            bundles: usize,
            summary: &'a BTreeMap<Outcome, Vec<String>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            terminating: Option<usize>,
            ms: BTreeMap<&'a str, u128>,
        }
        let (applet, exit, bundles, summary) = (asked.applet, self.exit, self.bundles(), &self.names);
        let ms = BTreeMap::from([("total", ms)]);
        let terminating = Some(self.terminating).filter(|count| *count > 0);
        let object =
            Object { schema: SCHEMA, applet, bundle: (), exit, outcome: "summary", bundles, summary, terminating, ms };
        serde_json::to_string(&object).unwrap_or_default()
    }
}

fn signal(asked: &Asked) -> String {
    asked.trigger.as_ref().map_or_else(|| "the signal".to_owned(), Trigger::to_string)
}

/// Which lines change, by their numbers from 1 on.
fn diff(diff: &Diff) -> String {
    if diff.hunks.is_empty() {
        return "no line changes".to_owned();
    }
    let lines = |first: usize, count: usize| match count {
        1 => first.to_string(),
        _ => format!("{first}-{}", first.saturating_add(count - 1)),
    };
    let hunk = |hunk: &Hunk| {
        let (old, new) = (hunk.old, hunk.new);
        let text: String = hunk.text.iter().flatten().flat_map(|line| [" [", line.as_str(), "]"]).collect();
        let (was, is) = (lines(old.first, old.count), lines(new.first, new.count));
        match (old.count, new.count) {
            (0, _) => format!("{is} new{text}"),
            (_, 0) => format!("{was} gone{text}"),
            _ => format!("{was} -> {is}{text}"),
        }
    };
    let hunks: Vec<String> = diff.hunks.iter().map(hunk).collect();
    let more = if diff.more > 0 { format!(" and {} more places", diff.more) } else { String::new() };
    format!("lines that change: {}{more}", hunks.join(", "))
}

/// What becomes of a request once the caller has stopped waiting for it.
fn asked_for(why: &Reason) -> &'static str {
    match why {
        Reason::Stopping => ", so init no longer carries out the request",
        _ => "; the request stands, and init continues with it; check status",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::reason::{Ended, FileFault, OwnWords, RecordedOutcome};
    use crate::table::Signal;

    fn asked() -> Asked {
        Asked {
            applet: "apply-allowlist",
            trigger: Some(Trigger::Signal(Signal::USR1)),
            tool: Printable::new("docker"),
        }
    }

    fn live() -> Report {
        let before = Incarnation { pid: Some(17), generation: 1 };
        let target = Target { action: Act::Restart, daemon: Printable::new("pipelock"), before, seq: 0 };
        let mut report = Report::failed(Some("b1".to_owned()), Reason::Late);
        report.end = End::new(Ended::well(Outcome::Live));
        report.end.after = Some(Incarnation { pid: Some(31), generation: 2 });
        report.end.siblings_moved = Some(Vec::new());
        (report.target, report.sent) = (Some(target), true);
        report.ms = Millis { identify: 92, signal: 37, prove: 15, total: 144, ..Millis::default() };
        report
    }

    #[test]
    fn the_object_is_that_of_the_contract() {
        let contract = r#"{ "schema": 1, "applet": "apply-allowlist", "bundle": "b1", "exit": 0, "outcome": "live",
            "signal": "USR1", "action": "restart", "daemon": "pipelock",
            "before": { "pid": 17, "generation": 1 }, "after": { "pid": 31, "generation": 2 }, "siblings_moved": [],
            "ms": { "identify": 92, "wait": 0, "check": 0, "signal": 37, "prove": 15, "back": 0, "total": 144 }, "error": null }"#;
        let object = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(object(&live().json(&asked())), object(contract));
    }

    #[test]
    fn a_usage_error_is_one_object_with_the_bundle_null() {
        let report = Report::failed(None, Reason::Usage { message: OwnWords("no".to_owned()) });
        let asked = Asked { trigger: None, ..asked() };
        let object: serde_json::Value = serde_json::from_str(&report.json(&asked)).unwrap();
        assert_eq!((&object["bundle"], &object["signal"], &object["error"]), (&().into(), &().into(), &"no".into()));
        assert_eq!((&object["exit"], &object["outcome"]), (&2.into(), &"usage".into()));
        assert_eq!(report.line(&asked), "apply-allowlist: no");
    }

    #[test]
    fn a_line_begins_with_the_bundle_and_says_what_moved() {
        let mut report = live();
        let siblings = "; siblings untouched; 144 ms";
        assert_eq!(
            report.line(&asked()),
            format!("b1: live: pipelock was restarted and is ready: pid 17 -> 31, generation 1 -> 2{siblings}")
        );
        report.end.siblings_moved = Some(vec![Printable::new("egress")]);
        assert!(
            report.line(&asked()).ends_with("; siblings that changed meanwhile: egress; 144 ms"),
            "{}",
            report.line(&asked())
        );
    }

    #[test]
    fn a_bundle_that_was_rolled_back_for_another_names_that_other() {
        let why = Reason::Cancelled;
        let back = Ended::badly(Outcome::RolledBack, why.clone());
        for ended in [back, Ended::down(why.clone(), Reason::Late), why.into()] {
            let mut report = Report::failed(Some("b1".to_owned()), Reason::Late);
            report.end.ended = ended;
            assert!(report.line(&asked()).contains(": interrupted; "), "{}", report.line(&asked()));
            report.because(&Printable::new("b2 failed"));
            assert!(report.line(&asked()).contains(": b2 failed; "), "{}", report.line(&asked()));
        }
    }

    #[test]
    fn every_reason_has_its_outcome_and_code_and_says_it_on_one_line() {
        let p = || Printable::new("words");
        let file = |fault| Reason::File { path: Printable::new("/etc/rules"), fault };
        let unproven = |shortfall| Reason::Unproven { daemon: p(), sent: p(), pid: Some(3), shortfall };
        let dead = || unproven(Shortfall::Dead { code: Some(1), killed_by: None });
        let badly = Ended::badly;
        let cases: [(Ended, &str, u8); 36] = [
            (Reason::NoProgram { program: p(), words: p() }.into(), "unreachable", 3),
            (Reason::CallFailed { call: Printable::new("inspect"), words: p() }.into(), "unreachable", 3),
            (Reason::NoSuch { is_pod: false }.into(), "unreachable", 3),
            (
                Reason::NoneFound { is_pod: true, labels: vec![OwnWords("a=b".to_owned())], terminating: 1 }.into(),
                "unreachable",
                3,
            ),
            (Reason::Fleet { why: p() }.into(), "untouched", 1),
            (Reason::NotUp { state: p() }.into(), "unreachable", 3),
            (Reason::Paused.into(), "unreachable", 3),
            (Reason::KillFailed { kill: p(), words: p(), gone: true }.into(), "unreachable", 3),
            (Reason::SharesPids { mode: p() }.into(), "not-a-sidecar-bundle", 4),
            (Reason::DockerInit.into(), "not-a-sidecar-bundle", 4),
            (Reason::Stranger { program: p() }.into(), "not-a-sidecar-bundle", 4),
            (Reason::StrangePod { container: Some(p()) }.into(), "not-a-sidecar-bundle", 4),
            (Reason::WhichContainer { of: vec![p(), p()] }.into(), "refused", 1),
            (Reason::NotInit { error: p() }.into(), "not-a-sidecar-bundle", 4),
            (Reason::NoAnswer { words: p() }.into(), "not-a-sidecar-bundle", 4),
            (Reason::OtherProtocol { ours: (4, p()), theirs: (5, p()) }.into(), "refused", 1),
            (Reason::NotWired { signal: p() }.into(), "refused", 1),
            (Reason::NotSelected { sent: p(), daemon: p() }.into(), "refused", 1),
            (Reason::NotRunning { signal: p(), daemon: p() }.into(), "refused", 1),
            (Reason::RequestRefused { sent: p(), daemon: p(), why: p() }.into(), "refused", 1),
            (Reason::Stopping.into(), "refused", 1),
            (Reason::KillFailed { kill: p(), words: p(), gone: false }.into(), "refused", 1),
            (badly(Outcome::Refused, unproven(Shortfall::ReloadRefused { errno: 22 })), "refused", 1),
            (Reason::KillTimedOut { kill: p() }.into(), "not-proven", 1),
            (Reason::Lost { sent: p(), words: p() }.into(), "not-proven", 1),
            (badly(Outcome::NotProven, unproven(Shortfall::Held)), "not-proven", 1),
            (badly(Outcome::NotProven, dead()), "not-proven", 1),
            (Reason::Interrupted.into(), "refused", 1),
            (file(FileFault::Symlink).into(), "refused", 1),
            (Reason::Unrecovered { daemon: p(), why: Box::new(file(FileFault::KeptGone)) }.into(), "down", 5),
            (badly(Outcome::RolledBack, Reason::Late), "rolled-back", 1),
            (Ended::down(Reason::Late, file(FileFault::KeptGone)), "down", 5),
            (Reason::Vanished { words: p() }.into(), "unreachable", 3),
            (Reason::PausedMidway.into(), "unreachable", 3),
            (Reason::NotByExe { words: p() }.into(), "not-a-sidecar-bundle", 4),
            (Reason::Unknown { words: p() }.into(), "unsettled", 5),
        ];
        for (ended, outcome, exit) in cases {
            let mut report = Report::failed(Some("b1".to_owned()), Reason::Late);
            report.end.ended = ended.clone();
            let object: serde_json::Value = serde_json::from_str(&report.json(&asked())).unwrap();
            assert_eq!((&object["outcome"], &object["exit"]), (&outcome.into(), &exit.into()), "{ended:?}");
            let line = report.line(&asked());
            assert!(line.starts_with("b1: ") && !line.contains('\n') && !line.contains("  "), "{line}");
            assert_eq!(object["after"], serde_json::Value::Null);
        }
    }

    #[test]
    fn what_was_recovered_first_is_told_and_nothing_is_called_untouched_then() {
        let p = Printable::new;
        let (daemon, by, at) = (p("pipelock"), p("me@here"), p("2026-11-28"));
        let one = Recovered { daemon, by, at, outcome: RecordedOutcome::RolledBack, why: None };
        for ended in [Reason::NoConfig { daemon: p("a") }.into(), Ended::well(Outcome::DryRun)] {
            let mut report = Report::failed(Some("b1".to_owned()), Reason::Late);
            report.end = End::new(ended);
            assert!(report.line(&asked()).contains("nothing was changed or sent"), "{}", report.line(&asked()));
            report.end.recovered = vec![one.clone()];
            let line = report.line(&asked());
            assert!(line.contains("this change itself was not made") && !line.contains("nothing was"), "{line}");
            assert!(
                line.contains("an earlier change of pipelock by me@here, at 2026-11-28, was interrupted"),
                "{line}"
            );
        }
    }
}
