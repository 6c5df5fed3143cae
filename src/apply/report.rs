//! What an apply came to, for one bundle: one line for people or one object of JSON, and the exit code. This is the
//! one place where outcomes, codes and words are made.

use serde::Serialize;

use super::proof::{Act, Incarnation, Refusal, Short, Target};
use super::protocol::{PROTOCOL, VERSION};
use crate::table::Signal;
use crate::text::Plain;

/// The version of the JSON object; keys may be added within it.
const SCHEMA: u32 = 1;

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The applet's name.
    pub applet: &'static str,
    /// The signal; `None` where that isn't known, in a usage error.
    pub signal: Option<Signal>,
}

/// How it ended where it ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Success {
    /// The change is live, and was seen to be.
    Live,
    /// The daemon has the signal and lives; it can't say whether it obeyed.
    Delivered,
    /// docker took the signal, and no more was asked for.
    Sent,
}

/// How it ended otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The command line makes no sense.
    Usage(String),
    /// The docker CLI can't be executed.
    NoDocker {
        /// Its name.
        program: Plain,
        /// The system's words.
        words: Plain,
    },
    /// docker doesn't do what was asked of it.
    Unreachable {
        /// Of which step.
        what: &'static str,
        /// Its own words.
        words: Plain,
    },
    /// There is no such container.
    Missing,
    /// It doesn't run.
    NotRunning {
        /// Its state in docker's words.
        state: Plain,
    },
    /// It is paused.
    Paused,
    /// Its PID 1 isn't its own.
    SharesPids {
        /// `HostConfig.PidMode`.
        mode: Plain,
    },
    /// Its PID 1 is docker's.
    DockerInit,
    /// It wasn't started as one of ours.
    Stranger {
        /// What it was started with.
        program: Plain,
    },
    /// The helper ran, and PID 1 is no init of ours.
    NotInit {
        /// The helper's words.
        error: Plain,
    },
    /// What should be our helper gave no answer that makes sense.
    NoAnswer {
        /// What it, or docker, complained about.
        words: Plain,
    },
    /// The bundle speaks another protocol.
    OtherProtocol {
        /// That one.
        protocol: u32,
        /// The bundle's version.
        version: Plain,
    },
    /// init would do nothing, so nothing was sent.
    Refused(Refusal),
    /// `docker kill` failed.
    KillFailed {
        /// docker's words.
        words: Plain,
        /// Whether they mean that the container is gone.
        gone: bool,
    },
    /// `docker kill` did not end in time.
    KillTimedOut,
    /// The helper's word was lost, or made no sense, after the signal was sent.
    Lost {
        /// What it, or docker, complained about.
        words: Plain,
    },
    /// The daemon refused the reload.
    ReloadRefused {
        /// By this errno.
        errno: i32,
    },
    /// It was not seen to be live.
    Unproven(Short),
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

/// What an apply came to, for one bundle.
#[derive(Clone, Debug)]
pub struct Report {
    /// As it was named; `None` in a usage error.
    pub bundle: Option<String>,
    /// How it ended.
    pub result: Result<Success, Failure>,
    /// What the signal is wired to, where that came to be known.
    pub target: Option<Target>,
    /// The daemon as it was seen last, after the signal was sent.
    pub after: Option<Incarnation>,
    /// Other daemons that moved, where that was looked at.
    pub siblings_moved: Option<Vec<Plain>>,
    /// How long it took.
    pub ms: Millis,
}

/// The outcome's name in JSON, and its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Live,
    Delivered,
    Sent,
    Refused,
    NotProven,
    Usage,
    Unreachable,
    NotASidecarBundle,
}

impl Outcome {
    fn exit(self) -> u8 {
        match self {
            Self::Live | Self::Delivered | Self::Sent => 0,
            Self::Refused | Self::NotProven => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::NotASidecarBundle => 4,
        }
    }
}

impl Report {
    /// Of a bundle to which nothing happened.
    #[must_use]
    pub fn failed(bundle: Option<String>, failure: Failure) -> Self {
        let ms = Millis::default();
        Self { bundle, result: Err(failure), target: None, after: None, siblings_moved: None, ms }
    }

    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> u8 {
        self.outcome().exit()
    }

    /// Whether it ended well: then its line belongs on stdout.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.result.is_ok()
    }

    fn outcome(&self) -> Outcome {
        match &self.result {
            Ok(Success::Live) => Outcome::Live,
            Ok(Success::Delivered) => Outcome::Delivered,
            Ok(Success::Sent) => Outcome::Sent,
            Err(failure) => match failure {
                Failure::Usage(_) => Outcome::Usage,
                Failure::NoDocker { .. }
                | Failure::Unreachable { .. }
                | Failure::Missing
                | Failure::NotRunning { .. }
                | Failure::Paused
                | Failure::KillFailed { gone: true, .. } => Outcome::Unreachable,
                Failure::SharesPids { .. }
                | Failure::DockerInit
                | Failure::Stranger { .. }
                | Failure::NotInit { .. }
                | Failure::NoAnswer { .. } => Outcome::NotASidecarBundle,
                Failure::OtherProtocol { .. }
                | Failure::Refused(_)
                | Failure::KillFailed { gone: false, .. }
                | Failure::ReloadRefused { .. } => Outcome::Refused,
                Failure::KillTimedOut | Failure::Lost { .. } | Failure::Unproven(_) => Outcome::NotProven,
            },
        }
    }

    /// The line for people, without its end. It begins with the bundle's name.
    #[must_use]
    pub fn line(&self, asked: &Asked) -> String {
        let who = self.bundle.as_deref().unwrap_or(asked.applet);
        match &self.result {
            Ok(success) => format!("{who}: {}", self.good(*success, asked)),
            Err(failure) => format!("{who}: {}{}", self.bad(failure, asked), self.moved()),
        }
    }

    /// The object for programs, on one line, without its end.
    #[must_use]
    pub fn json(&self, asked: &Asked) -> String {
        #[derive(Serialize)]
        struct Object<'a> {
            schema: u32,
            applet: &'a str,
            bundle: Option<&'a str>,
            exit: u8,
            outcome: Outcome,
            signal: Option<String>,
            action: Option<Act>,
            daemon: Option<&'a Plain>,
            before: Option<Incarnation>,
            after: Option<Incarnation>,
            siblings_moved: Option<&'a [Plain]>,
            ms: Millis,
            error: Option<String>,
        }
        let object = Object {
            schema: SCHEMA,
            applet: asked.applet,
            bundle: self.bundle.as_deref(),
            exit: self.exit(),
            outcome: self.outcome(),
            signal: asked.signal.map(|s| s.to_string()),
            action: self.target.as_ref().map(|t| t.action),
            daemon: self.target.as_ref().map(|t| &t.daemon),
            // A generation of 0 stands for a daemon that isn't selected: nothing is known of it.
            before: self.target.as_ref().map(|t| t.before).filter(|before| before.generation > 0),
            after: self.after,
            siblings_moved: self.siblings_moved.as_deref(),
            ms: self.ms,
            error: self.result.as_ref().err().map(|failure| self.bad(failure, asked)),
        };
        // Plain structs of strings and numbers: they can't fail to serialize.
        serde_json::to_string(&object).unwrap_or_default()
    }

    fn good(&self, success: Success, asked: &Asked) -> String {
        let (signal, daemon, ms) = (signal(asked), self.daemon(), self.ms.total);
        let siblings = if self.siblings_moved.as_ref().is_none_or(Vec::is_empty) { "; siblings untouched" } else { "" };
        let tail = format!("{siblings}{}; {ms} ms", self.moved());
        let restart = self.target.as_ref().is_some_and(|t| t.action == Act::Restart);
        match success {
            Success::Live if restart => format!("live: {daemon} was restarted and is ready: {}{tail}", self.change()),
            Success::Live => format!("live: {daemon} took {signal} and says that it obeyed: {}{tail}", self.change()),
            Success::Delivered => format!(
                "delivered: {daemon} took {signal} and stays up: {}; whether it obeyed it can't say (its `ready` is not notify){tail}",
                self.change()
            ),
            Success::Sent => {
                format!("sent: docker took {signal} for {daemon}; what came of it was not looked at; {ms} ms")
            }
        }
    }

    fn bad(&self, failure: &Failure, asked: &Asked) -> String {
        let (signal, daemon) = (signal(asked), self.daemon());
        match failure {
            Failure::Usage(message) => message.clone(),
            Failure::NoDocker { program, words } => format!(
                "cannot run {program}: {words}; nothing was sent; install the docker CLI, or name another with SIDECAR_DOCKER"
            ),
            Failure::Unreachable { what, words } => {
                let words = if words.as_str().is_empty() { "it says nothing of this bundle" } else { words.as_str() };
                format!("docker {what} failed: {words}; nothing was sent; see whether docker runs and `docker ps` shows the bundle")
            }
            Failure::Missing => "no such container; nothing was sent; `docker ps` shows those that run".to_owned(),
            Failure::NotRunning { state } => {
                format!("it is not running ({state}); nothing was sent; a new start reads the new files anyway")
            }
            Failure::Paused => "it is paused; nothing was sent; `docker unpause` it, then apply again".to_owned(),
            Failure::SharesPids { mode } => format!(
                "not a sidecar bundle: it shares a pid namespace ({mode}), so its PID 1 is another's; nothing was executed or sent; start it without --pid"
            ),
            Failure::DockerInit => "not a sidecar bundle: it was started with --init, so docker's own init is PID 1; \
                 nothing was executed or sent; start it without --init (compose: without `init: true`), sidecar reaps by itself"
                .to_owned(),
            Failure::Stranger { program } => format!(
                "not a sidecar bundle: its image has no label sidecar.schema and it was started with {program}; \
                 nothing was executed or sent; see whether the name is right"
            ),
            Failure::NotInit { error } => format!("not a sidecar bundle: {error}; nothing was sent"),
            Failure::NoAnswer { words } => format!(
                "not a sidecar bundle: its PID 1 gave no answer that makes sense{}; nothing was sent; \
                 its image may hold an older sidecar, or docker's default init may be PID 1",
                aside(words)
            ),
            Failure::OtherProtocol { protocol, version } => {
                let upgrade = if *protocol > PROTOCOL { "this program" } else { "the bundle's image" };
                format!(
                    "the bundle's sidecar {version} speaks protocol {protocol}, this one ({VERSION}) speaks {PROTOCOL}; nothing was sent; upgrade {upgrade}"
                )
            }
            Failure::Refused(why) => self.refused(*why, asked),
            Failure::KillFailed { words, gone } => {
                let left = if *gone { "the container is gone" } else { "the daemon is as it was" };
                format!("docker kill --signal {signal} failed: {words}; nothing was sent, {left}; mend that and apply again")
            }
            Failure::KillTimedOut => format!(
                "not proven: docker kill --signal {signal} did not end in time; {daemon} was not seen to act on it, and it may yet; \
                 see `docker exec` ... `/proc/1/exe status`, then apply again"
            ),
            Failure::Lost { words } => format!(
                "not proven: {signal} was sent, then the bundle said nothing that makes sense{}; in what state {daemon} is can't be told; \
                 see whether the bundle runs and what its log says",
                aside(words)
            ),
            Failure::ReloadRefused { errno } => format!(
                "refused: {daemon} took {signal} and refused to reload (errno {errno}): it runs on with what it had; \
                 see its log, mend its file and apply again"
            ),
            Failure::Unproven(short) => format!("not proven: {}", self.short(*short, asked)),
        }
    }

    fn refused(&self, why: Refusal, asked: &Asked) -> String {
        let (signal, daemon) = (signal(asked), self.daemon());
        match why {
            Refusal::NotWired => {
                format!(
                    "refused: {signal} is wired to nothing there; nothing was sent; wire it under [signals] in the bundle's table"
                )
            }
            Refusal::Stopping => {
                "refused: the bundle is stopping; nothing was sent; apply again when it runs".to_owned()
            }
            Refusal::NotSelected => format!(
                "refused: {signal} is wired to {daemon}, which is not selected there; nothing was sent; see CLAUDE_BOTTLE_SIDECAR_DAEMONS"
            ),
            Refusal::NotRunning => format!(
                "refused: {signal} is passed on to {daemon}, which does not run; nothing was sent; start it by the signal that restarts it"
            ),
        }
    }

    fn short(&self, short: Short, asked: &Asked) -> String {
        let (signal, daemon) = (signal(asked), self.daemon());
        let pid = self.after.and_then(|after| after.pid).map_or_else(String::new, |pid| format!(" (pid {pid})"));
        match short {
            Short::Unserved => format!(
                "{signal} was sent, but init has not served it: {daemon} is as it was{pid}, and the signal may yet take effect; look again with status"
            ),
            Short::InitRefused => {
                format!(
                    "{signal} was sent, but init did nothing with it: {daemon} is as it was{pid}; see the bundle's log for the reason"
                )
            }
            Short::InitStopping => {
                format!("the bundle began to stop: {daemon} is ending with it; apply again when the bundle runs")
            }
            Short::OldStopping => format!(
                "the time is up and {daemon} is still being stopped{pid}: its replacement starts after that and may yet come up; \
                 look again with status, or give a --timeout beyond its grace"
            ),
            Short::Dead { code, signal } => {
                let how = match (code, signal) {
                    (Some(code), _) => format!("exited with code {code}"),
                    (None, Some(signal)) => format!("was killed by signal {signal}"),
                    (None, None) => "ended".to_owned(),
                };
                format!(
                    "{daemon} {how} and is dead; its siblings run on; see the bundle's log, mend its file and restart it"
                )
            }
            Short::NotExecuted { code } => {
                let code = code.map_or_else(String::new, |code| format!(" ({code})"));
                format!(
                    "{daemon} is dead: its command could not be executed{code}; its siblings run on; see the bundle's log"
                )
            }
            Short::NotReady => {
                format!(
                    "the time is up and {daemon} runs{pid} but is not ready; it may yet be; see the bundle's log, or give a longer --timeout"
                )
            }
            Short::NotSettled => {
                format!(
                    "the time is up and {daemon} runs{pid} and is ready, but not yet for its settling time; give a longer --timeout"
                )
            }
            Short::Held => format!(
                "the time is up and {signal} is still held: {daemon} runs{pid} but has no handler for it yet; it may yet take effect; look again with status"
            ),
            Short::NeverCaught => format!(
                "{signal} was dropped: {daemon} runs{pid} as before, it never caught the signal; it is not made to reload by it"
            ),
            Short::ReloadPending => format!(
                "the time is up and {daemon} runs{pid}, has {signal} and has not said what it made of it (RELOADING=1, then READY=1); it may yet reload"
            ),
            Short::Replaced => format!(
                "the process of {daemon} that was to take {signal} was replaced by another{pid} meanwhile; look with status, then apply again"
            ),
        }
    }

    fn daemon(&self) -> &str {
        self.target.as_ref().map_or("the daemon", |target| target.daemon.as_str())
    }

    fn change(&self) -> String {
        let pid = |of: Incarnation| of.pid.map_or_else(|| "none".to_owned(), |pid| pid.to_string());
        match (self.target.as_ref().map(|t| t.before), self.after) {
            (Some(before), Some(after)) if before != after => {
                let (old, new) = (pid(before), pid(after));
                format!("pid {old} -> {new}, generation {} -> {}", before.generation, after.generation)
            }
            (_, Some(after)) => format!("same pid {}, generation {}", pid(after), after.generation),
            (_, None) => String::new(),
        }
    }

    fn moved(&self) -> String {
        let moved = self.siblings_moved.as_deref().unwrap_or_default();
        if moved.is_empty() {
            return String::new();
        }
        // A table has a handful of daemons; a bundle that names a thousand isn't believed, nor shown, at length.
        let names: Vec<&str> = moved.iter().take(10).map(Plain::as_str).collect();
        format!("; meanwhile also moved: {}", names.join(", "))
    }
}

fn signal(asked: &Asked) -> String {
    asked.signal.map_or_else(|| "the signal".to_owned(), |signal| signal.to_string())
}

fn aside(words: &Plain) -> String {
    if words.as_str().is_empty() { String::new() } else { format!(" ({words})") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked = Asked { applet: "apply-allowlist", signal: Some(Signal::USR1) };

    fn live() -> Report {
        let before = Incarnation { pid: Some(17), generation: 1 };
        let target = Target { action: Act::Restart, daemon: Plain::new("pipelock"), before, seq: 0 };
        Report {
            bundle: Some("b1".to_owned()),
            result: Ok(Success::Live),
            target: Some(target),
            after: Some(Incarnation { pid: Some(31), generation: 2 }),
            siblings_moved: Some(Vec::new()),
            ms: Millis { identify: 92, signal: 37, prove: 15, total: 144, ..Millis::default() },
        }
    }

    #[test]
    fn the_object_is_that_of_the_contract() {
        let contract = r#"{ "schema": 1, "applet": "apply-allowlist", "bundle": "b1", "exit": 0, "outcome": "live",
            "signal": "USR1", "action": "restart", "daemon": "pipelock",
            "before": { "pid": 17, "generation": 1 }, "after": { "pid": 31, "generation": 2 }, "siblings_moved": [],
            "ms": { "identify": 92, "wait": 0, "check": 0, "signal": 37, "prove": 15, "back": 0, "total": 144 }, "error": null }"#;
        let object = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(object(&live().json(&ASKED)), object(contract));
    }

    #[test]
    fn a_usage_error_is_one_object_with_the_bundle_null() {
        let report = Report::failed(None, Failure::Usage("no".to_owned()));
        let asked = Asked { signal: None, ..ASKED };
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
            report.line(&ASKED),
            format!("b1: live: pipelock was restarted and is ready: pid 17 -> 31, generation 1 -> 2{siblings}")
        );
        report.siblings_moved = Some(vec![Plain::new("egress")]);
        assert!(report.line(&ASKED).ends_with("; meanwhile also moved: egress; 144 ms"), "{}", report.line(&ASKED));
    }

    #[test]
    fn every_failure_has_its_outcome_and_code_and_says_it_on_one_line() {
        let p = || Plain::new("words");
        let cases = [
            (Failure::NoDocker { program: p(), words: p() }, "unreachable", 3),
            (Failure::Unreachable { what: "inspect", words: p() }, "unreachable", 3),
            (Failure::Missing, "unreachable", 3),
            (Failure::NotRunning { state: p() }, "unreachable", 3),
            (Failure::Paused, "unreachable", 3),
            (Failure::KillFailed { words: p(), gone: true }, "unreachable", 3),
            (Failure::SharesPids { mode: p() }, "not-a-sidecar-bundle", 4),
            (Failure::DockerInit, "not-a-sidecar-bundle", 4),
            (Failure::Stranger { program: p() }, "not-a-sidecar-bundle", 4),
            (Failure::NotInit { error: p() }, "not-a-sidecar-bundle", 4),
            (Failure::NoAnswer { words: p() }, "not-a-sidecar-bundle", 4),
            (Failure::OtherProtocol { protocol: 2, version: p() }, "refused", 1),
            (Failure::Refused(Refusal::NotWired), "refused", 1),
            (Failure::Refused(Refusal::NotSelected), "refused", 1),
            (Failure::Refused(Refusal::NotRunning), "refused", 1),
            (Failure::Refused(Refusal::Stopping), "refused", 1),
            (Failure::KillFailed { words: p(), gone: false }, "refused", 1),
            (Failure::ReloadRefused { errno: 22 }, "refused", 1),
            (Failure::KillTimedOut, "not-proven", 1),
            (Failure::Lost { words: p() }, "not-proven", 1),
            (Failure::Unproven(Short::Held), "not-proven", 1),
            (Failure::Unproven(Short::Dead { code: Some(1), signal: None }), "not-proven", 1),
        ];
        for (failure, outcome, exit) in cases {
            let report = Report::failed(Some("b1".to_owned()), failure.clone());
            let object: serde_json::Value = serde_json::from_str(&report.json(&ASKED)).unwrap();
            assert_eq!((&object["outcome"], &object["exit"]), (&outcome.into(), &exit.into()), "{failure:?}");
            let line = report.line(&ASKED);
            assert!(line.starts_with("b1: ") && !line.contains('\n') && !line.contains("  "), "{line}");
            assert_eq!(object["after"], serde_json::Value::Null);
        }
    }
}
