//! What an apply came to, for one bundle: one line for people or one object of JSON, and the exit code. This is the
//! one place where outcomes, codes and words are made.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::change::proof::{Act, Finding, Incarnation, Refusal, Short, Target};
use crate::change::transaction::{Doing, Trouble};
use crate::protocol::{Diff, Hunk, PROTOCOL, VERSION};
use crate::table::Signal;
use crate::text::Printable;

/// The version of the JSON object; keys may be added within it.
const SCHEMA: u32 = 1;

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The applet's name.
    pub applet: &'static str,
    /// The signal; `None` where that isn't known, in a usage error.
    pub signal: Option<Signal>,
    /// The program that reaches the bundles: docker, podman, kubectl.
    pub tool: Printable,
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
    /// The content was live already.
    Unchanged,
    /// The content passes the check, and no more was asked for.
    DryRun,
}

/// How it ended otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The command line makes no sense.
    Usage(String),
    /// The docker CLI can't be executed.
    NoDocker {
        /// Its name.
        program: Printable,
        /// The system's words.
        words: Printable,
    },
    /// docker doesn't do what was asked of it.
    Unreachable {
        /// Of which step.
        what: &'static str,
        /// Its own words.
        words: Printable,
    },
    /// There is no such container.
    Missing,
    /// There is no container with the label of a bundle and these.
    NoneFound {
        /// Those that were asked for.
        labels: Vec<String>,
    },
    /// It was never begun.
    Untouched {
        /// Why.
        why: Printable,
    },
    /// It doesn't run.
    NotRunning {
        /// Its state in docker's words.
        state: Printable,
    },
    /// It is paused.
    Paused,
    /// Its PID 1 isn't its own.
    SharesPids {
        /// `HostConfig.PidMode`.
        mode: Printable,
    },
    /// Its PID 1 is docker's.
    DockerInit,
    /// It wasn't started as one of ours.
    Stranger {
        /// What it was started with.
        program: Printable,
    },
    /// Nothing tells that one of the pod's containers is one of ours.
    StrangePod {
        /// The one that was asked for.
        container: Option<Printable>,
    },
    /// The pod has several containers that may be meant, or not the one that was asked for.
    WhichContainer {
        /// Those that it has.
        of: Vec<Printable>,
    },
    /// The helper ran, and PID 1 is no init of ours.
    NotInit {
        /// The helper's words.
        error: Printable,
    },
    /// What should be our helper gave no answer that makes sense.
    NoAnswer {
        /// What it, or docker, complained about.
        words: Printable,
    },
    /// The bundle speaks another protocol.
    OtherProtocol {
        /// That one.
        protocol: u32,
        /// The bundle's version.
        version: Printable,
    },
    /// init would do nothing, so nothing was sent.
    Refused(Refusal),
    /// `docker kill` failed.
    KillFailed {
        /// docker's words.
        words: Printable,
        /// Whether they mean that the container is gone.
        gone: bool,
    },
    /// `docker kill` did not end in time.
    KillTimedOut,
    /// The helper's word was lost, or made no sense, after the signal was sent.
    Lost {
        /// What it, or docker, complained about.
        words: Printable,
    },
    /// The daemon refused the reload.
    ReloadRefused {
        /// By this errno.
        errno: i32,
    },
    /// It was not seen to be live.
    Unproven(Short),
    /// A person asked to stop before anything was begun.
    Interrupted,
    /// Nothing was changed or sent.
    NotChanged(Trouble),
    /// Without new content: it was not seen to be live, for another reason.
    NotProven(Trouble),
    /// The old content is back, and the daemon is up with it.
    RolledBack {
        /// Why.
        why: Trouble,
        /// What docker said where it did not take the signal.
        kill: Option<Printable>,
    },
    /// The daemon isn't up with the old content either.
    Down {
        /// Why the new one was taken back.
        why: Trouble,
        /// Why the old one isn't up.
        back: Trouble,
    },
    /// The bundle went away before the change was committed.
    Vanished {
        /// docker's words.
        words: Printable,
    },
    /// What became of it can't be told.
    Unsettled {
        /// docker's words.
        words: Printable,
    },
}

impl Failure {
    /// What docker said.
    pub(super) fn into_words(self) -> Option<Printable> {
        match self {
            Self::KillFailed { words, .. } | Self::Lost { words } => Some(words),
            Self::KillTimedOut => Some(Printable::new("its kill did not end in time")),
            _ => None,
        }
    }
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
    /// The context that it was reached by, where one was named.
    pub context: Option<String>,
    /// How it ended.
    pub result: Result<Success, Failure>,
    /// Why the fleet asked it to go back, where no person did.
    pub because: Option<Printable>,
    /// What the signal is wired to, where that came to be known.
    pub target: Option<Target>,
    /// The daemon as it was seen last, after the signal was sent.
    pub after: Option<Incarnation>,
    /// The signal by which the engine stops the container, if that isn't one that stops init.
    pub stop_signal: Option<Printable>,
    /// Other daemons that moved, where that was looked at.
    pub siblings_moved: Option<Vec<Printable>>,
    /// Whether docker took the signal.
    pub sent: bool,
    /// Whether a checker passed the content, where there is a file.
    pub checked: Option<bool>,
    /// What a dry run found.
    pub diff: Option<Diff>,
    /// How long it took.
    pub ms: Millis,
}

/// The outcome's name in JSON, and its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Live,
    Delivered,
    Sent,
    Unchanged,
    DryRun,
    Untouched,
    Refused,
    RolledBack,
    NotProven,
    Usage,
    Unreachable,
    NotASidecarBundle,
    Down,
    Unsettled,
}

impl Outcome {
    fn exit(self) -> u8 {
        match self {
            Self::Live | Self::Delivered | Self::Sent | Self::Unchanged | Self::DryRun => 0,
            Self::Untouched | Self::Refused | Self::RolledBack | Self::NotProven => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::NotASidecarBundle => 4,
            Self::Down | Self::Unsettled => 5,
        }
    }
}

impl Report {
    /// Of a bundle to which nothing happened.
    #[must_use]
    pub fn failed(bundle: Option<String>, failure: Failure) -> Self {
        let ms = Millis::default();
        Self {
            bundle,
            context: None,
            result: Err(failure),
            because: None,
            target: None,
            after: None,
            stop_signal: None,
            siblings_moved: None,
            sent: false,
            checked: None,
            diff: None,
            ms,
        }
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

    /// How it is called; `None` in a usage error.
    #[must_use]
    pub fn who(&self) -> Option<String> {
        match (&self.context, &self.bundle) {
            (Some(context), Some(bundle)) => Some(format!("{context}/{bundle}")),
            (one, None) | (None, one) => one.clone(),
        }
    }

    /// It was asked to go back, for this reason.
    pub fn because(&mut self, why: &Printable) {
        self.because = Some(why.clone());
        if let Err(Failure::Interrupted | Failure::NotChanged(Trouble::Cancelled)) = &self.result {
            self.result = Err(Failure::Untouched { why: why.clone() });
        }
    }

    fn outcome(&self) -> Outcome {
        match &self.result {
            Ok(Success::Live) => Outcome::Live,
            Ok(Success::Delivered) => Outcome::Delivered,
            Ok(Success::Sent) => Outcome::Sent,
            Ok(Success::Unchanged) => Outcome::Unchanged,
            Ok(Success::DryRun) => Outcome::DryRun,
            Err(failure) => match failure {
                Failure::Usage(_) => Outcome::Usage,
                Failure::NoDocker { .. }
                | Failure::Unreachable { .. }
                | Failure::Missing
                | Failure::NoneFound { .. }
                | Failure::NotRunning { .. }
                | Failure::Paused
                | Failure::Vanished { .. }
                | Failure::KillFailed { gone: true, .. } => Outcome::Unreachable,
                Failure::SharesPids { .. }
                | Failure::DockerInit
                | Failure::Stranger { .. }
                | Failure::StrangePod { .. }
                | Failure::NotInit { .. }
                | Failure::NoAnswer { .. } => Outcome::NotASidecarBundle,
                Failure::NotChanged(Trouble::Unsettled { .. }) | Failure::Down { .. } => Outcome::Down,
                Failure::Unsettled { .. } => Outcome::Unsettled,
                Failure::Untouched { .. } => Outcome::Untouched,
                Failure::RolledBack { .. } => Outcome::RolledBack,
                Failure::OtherProtocol { .. }
                | Failure::WhichContainer { .. }
                | Failure::Interrupted
                | Failure::NotChanged(_)
                | Failure::Refused(_)
                | Failure::KillFailed { gone: false, .. }
                | Failure::ReloadRefused { .. } => Outcome::Refused,
                Failure::KillTimedOut | Failure::Lost { .. } | Failure::Unproven(_) | Failure::NotProven(_) => {
                    Outcome::NotProven
                }
            },
        }
    }

    /// The line for people, without its end. It begins with the bundle's name.
    #[must_use]
    pub fn line(&self, asked: &Asked) -> String {
        let who = self.who().unwrap_or_else(|| asked.applet.to_owned());
        match &self.result {
            Ok(success) => format!("{who}: {}", self.good(*success, asked)),
            Err(failure) => format!("{who}: {}{}", self.bad(failure, asked), self.moved()),
        }
    }

    /// What people should know besides, for stderr. In JSON it is a key.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        let (who, signal) = (self.who()?, self.stop_signal.as_ref()?);
        Some(format!(
            "{who}: note: the container's stop signal is {signal}, perhaps by an image that it is based on, and that doesn't stop sidecar: \
             a docker stop ends in SIGKILL; set STOPSIGNAL SIGTERM in its Dockerfile (compose: stop_signal: SIGTERM)"
        ))
    }

    /// The object for programs, on one line, without its end.
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
            action: Option<Act>,
            daemon: Option<&'a Printable>,
            before: Option<Incarnation>,
            after: Option<Incarnation>,
            siblings_moved: Option<&'a [Printable]>,
            ms: Millis,
            #[serde(skip_serializing_if = "Option::is_none")]
            checked: Option<bool>,
            #[serde(skip_serializing_if = "Option::is_none")]
            diff: Option<&'a Diff>,
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
            outcome: self.outcome(),
            signal: asked.signal.map(|s| s.to_string()),
            action: self.target.as_ref().map(|t| t.action),
            daemon: self.target.as_ref().map(|t| &t.daemon),
            // A generation of 0 stands for a daemon that isn't selected: nothing is known of it.
            before: self.target.as_ref().map(|t| t.before).filter(|before| before.generation > 0),
            after: self.after,
            siblings_moved: self.siblings_moved.as_deref(),
            ms: self.ms,
            checked: self.checked,
            diff: self.diff.as_ref(),
            stop_signal: self.stop_signal.as_ref(),
            error: self.result.as_ref().err().map(|failure| self.bad(failure, asked)),
        };
        // Printable structs of strings and numbers: they can't fail to serialize.
        serde_json::to_string(&object).unwrap_or_default()
    }

    fn good(&self, success: Success, asked: &Asked) -> String {
        let (signal, daemon, tool, ms) = (signal(asked), self.daemon(), &asked.tool, self.ms.total);
        let siblings = if self.siblings_moved.as_ref().is_none_or(Vec::is_empty) { "; siblings untouched" } else { "" };
        let unchecked = if self.checked == Some(false) { "; unchecked: its table entry names no checker" } else { "" };
        let tail = format!("{siblings}{}{unchecked}; {ms} ms", self.moved());
        let restart = self.target.as_ref().is_some_and(|t| t.action == Act::Restart);
        match success {
            Success::Live if restart => format!("live: {daemon} was restarted and is ready: {}{tail}", self.change()),
            Success::Live => format!("live: {daemon} took {signal} and says that it obeyed: {}{tail}", self.change()),
            Success::Delivered => format!(
                "delivered: {daemon} took {signal} and stays up: {}; whether it obeyed it can't say (its `ready` is not notify){tail}",
                self.change()
            ),
            Success::Unchanged => format!(
                "unchanged: this very content was proven live in the process of {daemon} that still runs; nothing was sent{unchecked}; {ms} ms"
            ),
            Success::DryRun => {
                let passes = if self.checked == Some(false) { "unchecked" } else { "the checker passes it" };
                let diff = self.diff.as_ref().map_or_else(String::new, diff);
                format!("dry run: {passes}; {diff}; nothing was changed or sent; {ms} ms")
            }
            Success::Sent => {
                format!("sent: {signal} for {daemon}, by {tool}; what came of it was not looked at; {ms} ms")
            }
        }
    }

    fn bad(&self, failure: &Failure, asked: &Asked) -> String {
        let (signal, daemon, tool, ps) = (signal(asked), self.daemon(), &asked.tool, ps(asked));
        let thing = if is_kubectl(asked) { "pod" } else { "container" };
        match failure {
            Failure::Usage(message) => message.clone(),
            Failure::NoDocker { program, words } => format!(
                "cannot run {program}: {words}; nothing was sent; install it, or name another docker CLI with SIDECAR_DOCKER"
            ),
            Failure::Unreachable { what, words } => {
                let words = if words.as_str().is_empty() { "it says nothing of this bundle" } else { words.as_str() };
                format!("{tool} {what} failed: {words}; nothing was sent; see whether `{ps}` shows the bundle")
            }
            Failure::Missing => format!("no such {thing}; nothing was sent; `{ps}` shows those that run"),
            Failure::NotRunning { state } => {
                format!("it is not running ({state}); nothing was sent; a new start reads the new files anyway")
            }
            Failure::NoneFound { labels } => {
                let labels: String = labels.iter().flat_map(|label| [" and ", label]).collect();
                format!("no running {thing} carries the label sidecar.schema{labels}; nothing was sent; `{ps}` shows those that run")
            }
            Failure::Untouched { why } => format!("untouched: {why}; nothing was changed or sent"),
            Failure::Paused => format!("it is paused; nothing was sent; `{tool} unpause` it, then apply again"),
            Failure::SharesPids { mode } => format!(
                "not a sidecar bundle: it shares a pid namespace ({mode}), so its PID 1 is another's; nothing was executed or sent; start it with one of its own"
            ),
            Failure::DockerInit => "not a sidecar bundle: it was started with --init, so docker's own init is PID 1; \
                 nothing was executed or sent; start it without --init (compose: without `init: true`), sidecar reaps by itself"
                .to_owned(),
            Failure::Stranger { program } => format!(
                "not a sidecar bundle: its image has no label sidecar.schema and it was started with {program}; \
                 nothing was executed or sent; see whether the name is right"
            ),
            Failure::StrangePod { container } => strange_pod(container.as_ref()),
            Failure::WhichContainer { of } => which_container(of),
            Failure::NotInit { error } => format!("not a sidecar bundle: {error}; nothing was sent"),
            Failure::NoAnswer { words } => format!(
                "not a sidecar bundle: its PID 1 gave no answer that makes sense{}; nothing was sent; \
                 its image may hold an older sidecar, docker's default init may be PID 1, or it has no room for one more process",
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
                let left = if *gone { "the container can't be reached" } else { "the daemon is as it was" };
                format!("{tool} kill --signal {signal} failed: {words}; nothing was sent, {left}; mend that and apply again")
            }
            Failure::KillTimedOut => format!(
                "not proven: {tool} kill --signal {signal} did not end in time; {daemon} was not seen to act on it, and it may yet; \
                 see `{tool} exec` ... `/proc/1/exe status`, then apply again"
            ),
            Failure::Lost { words } => format!(
                "not proven: {signal} was sent, or may have been, then the bundle said nothing that makes sense{}; in what state {daemon} is can't be told; \
                 see whether the bundle runs and what its log says",
                aside(words)
            ),
            Failure::ReloadRefused { errno } => format!(
                "refused: {daemon} took {signal} and refused to reload (errno {errno}): it runs on with what it had; \
                 see its log, mend its file and apply again"
            ),
            Failure::Unproven(short) => format!("not proven: {}", self.short(*short, asked)),
            Failure::Interrupted => "refused: interrupted; nothing was changed or sent".to_owned(),
            Failure::NotChanged(why @ Trouble::Unsettled { .. }) => format!("DOWN: {}", self.trouble(why, asked)),
            Failure::NotChanged(why) => {
                format!("refused: {}; nothing was changed or sent", self.trouble(why, asked))
            }
            Failure::NotProven(why) => format!(
                "not proven: {signal} was sent, then: {}; there is no old content to go back to without --file; look with status",
                self.trouble(why, asked)
            ),
            Failure::RolledBack { why, kill } => format!(
                "rolled back: {}{}; the old content is back and {daemon} is as it was{}",
                self.trouble(why, asked),
                kill.as_ref().map_or_else(String::new, aside),
                if self.after.is_some_and(|after| after.pid.is_none()) { ": dead".to_owned() } else { self.pid() }
            ),
            Failure::Down { why, back } => format!(
                "DOWN: {}; the way back failed too: {}; {daemon} NEEDS A PERSON: see its log, mend what it lacks, then apply again",
                self.trouble(why, asked),
                self.trouble(back, asked)
            ),
            Failure::Vanished { words } => format!(
                "the bundle went away before the change was committed{}; the new content isn't live: \
                 init puts the old one back before it next starts {daemon}, but for what somebody else wrote since",
                aside(words)
            ),
            Failure::Unsettled { words } => format!(
                "UNSETTLED: what became of the change can't be told{}; the bundle settles it by itself in the time that \
                 was given; look with status (`transaction`) which content is live",
                aside(words)
            ),
        }
    }

    /// What stood in the way, without what was left of it.
    fn trouble(&self, why: &Trouble, asked: &Asked) -> String {
        let (signal, daemon) = (signal(asked), self.daemon());
        match why {
            Trouble::Target { why } => {
                let words = self.refused(*why, asked);
                words.split("; ").next().unwrap_or_default().trim_start_matches("refused: ").to_owned()
            }
            Trouble::Locked { by, since } => {
                let since = if since.as_str().is_empty() { String::new() } else { format!(", since {since}") };
                format!(
                    "another apply is at it, by {by}{since}; apply again when it has ended, or give a longer --timeout"
                )
            }
            Trouble::NoLock { words } => format!("the bundle's lock can't be had: {words}"),
            Trouble::Unsettled { daemon, back } => match &**back {
                Trouble::KeptGone => format!(
                    "an earlier change of {daemon} was interrupted, and what was kept of its old content is gone: its file holds what \
                     was never proven; put the right content there by hand, then apply without --file"
                ),
                Trouble::RecordGone => format!(
                    "the record of an earlier change of {daemon} can't be read, and old content is kept beside its file (.sidecar-old.*): \
                     see which of the two is right, put it there by hand, remove that copy, then apply without --file"
                ),
                back => format!(
                    "an earlier change of {daemon} was interrupted and can't be taken back: {}; its file holds what was never \
                     proven; mend that, then apply again",
                    self.trouble(back, asked)
                ),
            },
            Trouble::NoConfig => {
                format!("{daemon} has no `config` in the bundle's table, so there is no file to change")
            }
            Trouble::NoWayBack => format!(
                "no signal restarts {daemon}, so there would be no way back; wire one under [signals] in the bundle's table"
            ),
            Trouble::MayNotSignal => format!(
                "the user of `{} exec` may not signal the bundle's init; run it as the container's own user",
                asked.tool
            ),
            Trouble::Missing => {
                format!("the file of {daemon} isn't there; create it once, so that there is a way back")
            }
            Trouble::Symlink => format!("a symlink is where the file of {daemon} should be; put a file there"),
            Trouble::NotAFile => format!("what is where the file of {daemon} should be is no regular file"),
            Trouble::Mounted => format!(
                "the file of {daemon} is a bind mount of its own, so it can't be replaced; mount its directory instead"
            ),
            Trouble::TooLarge => format!("the old content of {daemon} is larger than what is kept"),
            Trouble::Owner { uid, gid } => format!(
                "the owner of the file of {daemon} ({uid}:{gid}) can't be kept by the bundle's user; give the file to that user"
            ),
            Trouble::Garbled => "the content did not arrive as it was sent; apply again".to_owned(),
            Trouble::Io { doing, words } => {
                let doing = match doing {
                    Doing::Open => "open its directory",
                    Doing::Read => "read the old content",
                    Doing::Stage => "write the new content beside the old",
                    Doing::Keep => "keep the old content",
                    Doing::Note => "write the record",
                    Doing::Place => "put the new content in place",
                    Doing::Restore => "put the old content back",
                };
                format!("cannot {doing} ({daemon}): {words}")
            }
            Trouble::Checker { code, words } => {
                let code = code.map_or_else(|| "was killed".to_owned(), |code| format!("exits {code}"));
                format!("the checker of {daemon} {code}{}; mend the content", aside(words))
            }
            Trouble::CheckerHung => {
                format!("the checker of {daemon} did not end in time and was killed; give a longer --timeout")
            }
            Trouble::CheckerNotRun { words } => format!("the checker of {daemon} can't be executed: {words}"),
            Trouble::Unproven { finding } => match finding {
                Finding::ReloadRefused { errno } => {
                    format!("{daemon} took {signal} and refused to reload (errno {errno})")
                }
                Finding::Unproven(short) => self.fell_short(*short, asked),
                Finding::Live | Finding::Delivered => "it was proven".to_owned(),
            },
            Trouble::HostGone => "the connection to the bundle broke".to_owned(),
            Trouble::Cancelled => self.because.as_ref().map_or_else(|| "interrupted".to_owned(), Printable::to_string),
            Trouble::NotSent => format!("{} did not take the signal", asked.tool),
            Trouble::Late => "the time is up".to_owned(),
            Trouble::Stopping => "the bundle is stopping".to_owned(),
            Trouble::Interrupted => "it was interrupted".to_owned(),
            Trouble::KeptGone => {
                "what was kept of the old content isn't what was recorded: the file holds what was never proven"
                    .to_owned()
            }
            Trouble::RecordGone => "the record of the last change can't be read".to_owned(),
            Trouble::Changed => {
                format!(
                    "somebody else wrote to the file of {daemon} meanwhile; see who does (what the way back finds there it \
                     keeps beside it as .sidecar-other.*), then apply again"
                )
            }
        }
    }

    /// What was missing, where the state that it left is no more.
    fn fell_short(&self, short: Short, asked: &Asked) -> String {
        let (signal, daemon) = (signal(asked), self.daemon());
        match short {
            Short::Unserved => format!("init has not served {signal} in time"),
            Short::InitRefused => format!("init could do nothing with {signal}"),
            Short::InitStopping => "the bundle began to stop".to_owned(),
            Short::OldStopping => format!("the old process of {daemon} did not end in time"),
            Short::Dead { code, signal } => match (code, signal) {
                (Some(code), _) => format!("{daemon} exited with code {code}"),
                (None, Some(signal)) => format!("{daemon} was killed by signal {signal}"),
                (None, None) => format!("{daemon} ended"),
            },
            Short::NotExecuted { .. } => format!("the command of {daemon} could not be executed"),
            Short::NotReady => format!("{daemon} was not ready in time"),
            Short::NotSettled => format!("{daemon} was not ready for its settling time in time"),
            Short::Held => format!("{daemon} had no handler for {signal} in time"),
            Short::NeverCaught => format!("{daemon} never caught {signal}"),
            Short::ReloadPending => format!("{daemon} did not say in time what it made of {signal}"),
            Short::Replaced => format!("the process of {daemon} that was to take {signal} was replaced by another"),
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
        let pid = self.pid();
        match short {
            Short::Unserved => format!(
                "{signal} was sent, but init has not served it: {daemon} is as it was{pid}, and the signal may yet take effect; look again with status"
            ),
            Short::InitRefused => {
                format!(
                    "{signal} was sent, but init could do nothing with it: {daemon} is as it was{pid}; see the bundle's log for the reason"
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
                    "{daemon} {how} and is dead; its siblings run on; see the bundle's log, mend its file and apply again"
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

    fn pid(&self) -> String {
        self.after.and_then(|after| after.pid).map_or_else(String::new, |pid| format!(" (pid {pid})"))
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
        let names: Vec<&str> = moved.iter().take(10).map(Printable::as_str).collect();
        format!("; meanwhile also moved: {}", names.join(", "))
    }
}

/// What an apply came to, for all of its bundles.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    names: BTreeMap<Outcome, Vec<String>>,
    exit: u8,
}

impl Summary {
    /// Takes in one bundle's.
    pub fn add(&mut self, report: &Report) {
        self.exit = self.exit.max(report.exit());
        self.names.entry(report.outcome()).or_default().extend(report.who());
    }

    /// The exit code: the highest.
    #[must_use]
    pub fn exit(&self) -> u8 {
        self.exit
    }

    /// How many bundles it is of.
    #[must_use]
    pub fn bundles(&self) -> usize {
        self.names.values().map(Vec::len).sum()
    }

    /// The line for people, without its end: by name, where not all are the same.
    #[must_use]
    pub fn line(&self, asked: &Asked, ms: u128) -> String {
        let group = |(outcome, names): (&Outcome, &Vec<String>)| {
            let outcome = serde_json::to_string(outcome).unwrap_or_default().replace('"', "").replace('-', " ");
            let who = if self.names.len() > 1 { format!(" ({})", names.join(", ")) } else { String::new() };
            format!("{} {outcome}{who}", names.len())
        };
        let groups: Vec<String> = self.names.iter().map(group).collect();
        format!("{}: {} bundles: {}; {ms} ms", asked.applet, self.bundles(), groups.join("; "))
    }

    /// The object for programs, on one line, without its end.
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
            ms: BTreeMap<&'a str, u128>,
        }
        let (applet, exit, bundles, summary) = (asked.applet, self.exit, self.bundles(), &self.names);
        let ms = BTreeMap::from([("total", ms)]);
        let object = Object { schema: SCHEMA, applet, bundle: (), exit, outcome: "summary", bundles, summary, ms };
        serde_json::to_string(&object).unwrap_or_default()
    }
}

fn strange_pod(container: Option<&Printable>) -> String {
    let which = container.map_or_else(|| "any container".to_owned(), |name| format!("container {name}"));
    format!(
        "not a sidecar bundle: nothing in the pod's manifest tells that {which} of it is one; nothing was executed or sent; \
         give the bundle's container the `command` [\"/sbin/init\"], or the pod the label sidecar.schema where it has one container"
    )
}

fn which_container(of: &[Printable]) -> String {
    let of: Vec<&str> = of.iter().take(10).map(Printable::as_str).collect();
    let of = of.join(", ");
    format!("refused: which container is meant? the pod has {of}; nothing was executed or sent; name one with -c")
}

/// What shows the containers that run.
fn ps(asked: &Asked) -> String {
    if is_kubectl(asked) { "kubectl get pods".to_owned() } else { format!("{} ps", asked.tool) }
}

fn is_kubectl(asked: &Asked) -> bool {
    asked.tool.as_str() == "kubectl"
}

fn signal(asked: &Asked) -> String {
    asked.signal.map_or_else(|| "the signal".to_owned(), |signal| signal.to_string())
}

/// Which lines change, as people count them.
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

fn aside(words: &Printable) -> String {
    if words.as_str().is_empty() { String::new() } else { format!(" ({words})") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Asked {
        Asked { applet: "apply-allowlist", signal: Some(Signal::USR1), tool: Printable::new("docker") }
    }

    fn live() -> Report {
        let before = Incarnation { pid: Some(17), generation: 1 };
        let target = Target { action: Act::Restart, daemon: Printable::new("pipelock"), before, seq: 0 };
        Report {
            bundle: Some("b1".to_owned()),
            context: None,
            result: Ok(Success::Live),
            because: None,
            target: Some(target),
            after: Some(Incarnation { pid: Some(31), generation: 2 }),
            stop_signal: None,
            siblings_moved: Some(Vec::new()),
            sent: true,
            checked: None,
            diff: None,
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
        assert_eq!(object(&live().json(&asked())), object(contract));
    }

    #[test]
    fn a_usage_error_is_one_object_with_the_bundle_null() {
        let report = Report::failed(None, Failure::Usage("no".to_owned()));
        let asked = Asked { signal: None, ..asked() };
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
        report.siblings_moved = Some(vec![Printable::new("egress")]);
        assert!(report.line(&asked()).ends_with("; meanwhile also moved: egress; 144 ms"), "{}", report.line(&asked()));
    }

    #[test]
    fn one_that_went_back_for_another_s_sake_says_whose_also_where_it_did_not_come_up() {
        let (why, dead) = (Trouble::Cancelled, Trouble::Late);
        let back = Failure::RolledBack { why: why.clone(), kill: None };
        for failure in [back, Failure::Down { why: why.clone(), back: dead }, Failure::NotChanged(why)] {
            let mut report = Report::failed(Some("b1".to_owned()), failure);
            assert!(report.line(&asked()).contains(": interrupted; "));
            report.because(&Printable::new("b2 failed"));
            assert!(report.line(&asked()).contains(": b2 failed; "), "{}", report.line(&asked()));
        }
    }

    #[test]
    fn every_failure_has_its_outcome_and_code_and_says_it_on_one_line() {
        let p = || Printable::new("words");
        let cases = [
            (Failure::NoDocker { program: p(), words: p() }, "unreachable", 3),
            (Failure::Unreachable { what: "inspect", words: p() }, "unreachable", 3),
            (Failure::Missing, "unreachable", 3),
            (Failure::NoneFound { labels: vec!["a=b".to_owned()] }, "unreachable", 3),
            (Failure::Untouched { why: p() }, "untouched", 1),
            (Failure::NotRunning { state: p() }, "unreachable", 3),
            (Failure::Paused, "unreachable", 3),
            (Failure::KillFailed { words: p(), gone: true }, "unreachable", 3),
            (Failure::SharesPids { mode: p() }, "not-a-sidecar-bundle", 4),
            (Failure::DockerInit, "not-a-sidecar-bundle", 4),
            (Failure::Stranger { program: p() }, "not-a-sidecar-bundle", 4),
            (Failure::StrangePod { container: Some(p()) }, "not-a-sidecar-bundle", 4),
            (Failure::WhichContainer { of: vec![p(), p()] }, "refused", 1),
            (Failure::NotInit { error: p() }, "not-a-sidecar-bundle", 4),
            (Failure::NoAnswer { words: p() }, "not-a-sidecar-bundle", 4),
            (Failure::OtherProtocol { protocol: 4, version: p() }, "refused", 1),
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
            (Failure::Interrupted, "refused", 1),
            (Failure::NotChanged(Trouble::Symlink), "refused", 1),
            (Failure::NotChanged(Trouble::Unsettled { daemon: p(), back: Box::new(Trouble::KeptGone) }), "down", 5),
            (Failure::NotProven(Trouble::NotSent), "not-proven", 1),
            (Failure::RolledBack { why: Trouble::Late, kill: Some(p()) }, "rolled-back", 1),
            (Failure::Down { why: Trouble::Late, back: Trouble::KeptGone }, "down", 5),
            (Failure::Vanished { words: p() }, "unreachable", 3),
            (Failure::Unsettled { words: p() }, "unsettled", 5),
        ];
        for (failure, outcome, exit) in cases {
            let report = Report::failed(Some("b1".to_owned()), failure.clone());
            let object: serde_json::Value = serde_json::from_str(&report.json(&asked())).unwrap();
            assert_eq!((&object["outcome"], &object["exit"]), (&outcome.into(), &exit.into()), "{failure:?}");
            let line = report.line(&asked());
            assert!(line.starts_with("b1: ") && !line.contains('\n') && !line.contains("  "), "{line}");
            assert_eq!(object["after"], serde_json::Value::Null);
        }
    }
}
