//! `restart`, `stop`, `start` and `signal`: arguments in, a line for each daemon and an exit code out.

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use argh::{ArgsInfo, FromArgs};
use sidecar::act::Act;
use sidecar::change::proof::Trigger;
use sidecar::change::reason::{Ended, Outcome, OwnWords, Reason};
use sidecar::host::report::{Asked, Report};
use sidecar::host::stop;
use sidecar::page;
use sidecar::protocol::End;
use sidecar::request::Verb;
use sidecar::table::Signal;
use sidecar::text::Printable;

use crate::args::{self, Early};
use crate::{apply, out, show};

/// What `--help` adds to argh's text.
pub const CODES: &str = "
This runs inside the bundle, as the bundle's own user: docker exec BUNDLE /proc/1/exe restart git-gate.
`restart` and `start` wait for any change that is under way, have the daemon's own checker check its file, and only then ask
init. They succeed once the new process is ready and has stayed ready for its settling time (a oneshot: once it has exited 0).
`stop` succeeds once the daemon and its children have ended. It doesn't wait for an apply: one that is under way puts the old
content back. `signal` succeeds once the daemon's process has a handler for the signal and was sent it; KILL, STOP and the
like are sent at once.
Several daemons are handled in the table's order, with one line each.
Ctrl-C ends only the wait. A request that was sent stands, and init continues with it.
What an outcome means, and what to do: /proc/1/exe --explain OUTCOME.

Exit codes (several daemons: the highest):
  0  live, stopped or delivered; or there was nothing to do: a start of a daemon that runs, a stop of one that doesn't
  1  refused, failed, superseded by a later request, or not proven; the line says which
  2  usage, or the table has no such daemon; nothing was done for any
  4  PID 1 is not `sidecar init`, or this user may not send it requests; the line says which
  5  an earlier change of the daemon was interrupted, and it doesn't come up with the old content: manual action needed
";

/// Gives an applet the arguments that all four take.
macro_rules! applet {
    ($name:ident, $about:literal, [$($own:tt)*]) => {
        #[doc = $about]
        #[derive(FromArgs, ArgsInfo)]
        #[argh(help_triggers("-h", "--help"))]
        pub struct $name {
            $($own)*
            /// how long to wait for each daemon, first for a change that is under way, then for the result: 500ms, 30s, 2m (default: 30s)
            #[argh(option, default = "String::from(\"30s\")")]
            timeout: String,
            /// one JSON object per daemon on stdout, also for errors
            #[argh(switch)]
            json: bool,
            /// names of daemons
            #[argh(positional, arg_name = "NAME")]
            names: Vec<String>,
        }

        impl From<$name> for Options {
            fn from($name { timeout, json, names, .. }: $name) -> Self {
                Self { timeout, json, names }
            }
        }
    };
}
applet!(Restart, "Restart daemons of this bundle by name, and wait until each is ready again.", []);
applet!(Stop, "Stop daemons of this bundle by name. Each stays stopped until a start or a restart.", []);
applet!(Start, "Start daemons of this bundle by name, and wait until each is ready.", []);
applet!(Send, "Send a signal to daemons of this bundle by name.", [
    /// the signal, with or without SIG: HUP, KILL, RTMIN+3
    #[argh(positional, arg_name = "SIG")]
    signal: String,
]);

struct Options {
    timeout: String,
    json: bool,
    names: Vec<String>,
}

/// `restart`.
pub fn restart(args: &[String]) -> ExitCode {
    serve("restart", args, args::parse("restart", args).map(|given: Restart| (Ok(Verb::Restart), given.into())))
}

/// `stop`.
pub fn stop(args: &[String]) -> ExitCode {
    serve("stop", args, args::parse("stop", args).map(|given: Stop| (Ok(Verb::Stop), given.into())))
}

/// `start`.
pub fn start(args: &[String]) -> ExitCode {
    serve("start", args, args::parse("start", args).map(|given: Start| (Ok(Verb::Start), given.into())))
}

/// `signal`.
pub fn signal(args: &[String]) -> ExitCode {
    let parsed = args::parse("signal", args).map(|given: Send| (verb(&given.signal), given.into()));
    serve("signal", args, parsed)
}

fn verb(name: &str) -> Result<Verb, String> {
    let upper = name.to_ascii_uppercase();
    let known = Signal::from_name(upper.strip_prefix("SIG").unwrap_or(&upper));
    known
        .map(Verb::Signal)
        .ok_or_else(|| format!("{name:?} is not a signal; give a name such as HUP, TERM, KILL or RTMIN+3"))
}

fn serve(applet: &'static str, raw: &[String], parsed: Result<(Result<Verb, String>, Options), Early>) -> ExitCode {
    let (verb, options) = match parsed {
        Ok(parsed) => parsed,
        Err(Early::Help(text)) => return out::exit(0, out::print(&(text + CODES))),
        Err(Early::Usage(message)) => return apply::usage(applet, raw.iter().map(String::as_str), &message),
    };
    // So that a daemon of the same user can't read another daemon's file in this process's memory.
    let _ = nix::sys::prctl::set_dumpable(false);
    let mut told = Told { applet, json: options.json, exit: 0, written: Ok(()) };
    match plan(verb, &options) {
        Ok(plan) => plan.carry_out(&mut told),
        Err(why @ Reason::MayNotAct { .. }) => {
            let mut report = Report::failed(None, why.clone());
            report.end = End::new(Ended::badly(Outcome::NotAllowed, why));
            told.tell(None, &report);
        }
        Err(why) => told.tell(None, &Report::failed(None, why)),
    }
    apply::exit((told.exit, told.written))
}

/// What to do, once the command line is known to be right.
struct Plan {
    verb: Verb,
    timeout: Duration,
    /// In the table's order. Unselected ones come first, since they are refused.
    names: Vec<String>,
}

fn plan(verb: Result<Verb, String>, options: &Options) -> Result<Plan, Reason> {
    let usage = |message: String| Reason::Usage { message: OwnWords(message + "; nothing was done for any daemon") };
    let verb = verb.map_err(usage)?;
    let timeout = apply::timeout(&options.timeout).map_err(usage)?;
    if options.names.is_empty() {
        return Err(usage("no daemon named".to_owned()));
    }
    let page = page::read_when_up().map_err(|error| {
        if page::may_look() {
            Reason::NotInit { error: Printable::new(&error) }
        } else {
            Reason::MayNotAct { words: Printable::new("it may not look at PID 1") }
        }
    })?;
    let known = || page.status.unselected.iter().chain(&page.status.selected);
    if let Some(name) = options.names.iter().find(|name| known().all(|known| known != *name)) {
        let known: Vec<&str> = page.status.daemons.iter().map(|daemon| daemon.name.as_str()).collect();
        let known = known.join(", ");
        return Err(usage(format!("the bundle's table has no daemon {name:?}; the selected daemons are {known}")));
    }
    Ok(Plan { verb, timeout, names: known().filter(|name| options.names.contains(name)).cloned().collect() })
}

impl Plan {
    fn carry_out(self, told: &mut Told) {
        stop::watch();
        let by = Printable::new(&format!("{} ({})", apply::caller(), told.applet));
        let act = Act { verb: self.verb, by, timeout: self.timeout, is_left: || stop::count() > 0 };
        for name in self.names {
            let started = Instant::now();
            let done = act.on(&name);
            let mut report = Report::failed(None, Reason::Interrupted);
            (report.target, report.end) = (done.target, done.end);
            (report.ms.wait, report.ms.check) = (report.end.wait_ms, report.end.check_ms);
            report.ms.total = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            report.ms.prove = report.ms.total.saturating_sub(report.ms.wait.saturating_add(report.ms.check));
            told.tell(Some(Trigger::Request { verb: self.verb, daemon: name }), &report);
        }
    }
}

/// What was printed so far.
struct Told {
    applet: &'static str,
    json: bool,
    exit: u8,
    written: io::Result<()>,
}

impl Told {
    fn tell(&mut self, trigger: Option<Trigger>, report: &Report) {
        let asked = Asked { applet: self.applet, trigger, tool: Printable::default() };
        self.exit = self.exit.max(report.exit());
        let written = show::report(&asked, self.json, report);
        if self.written.is_ok() {
            self.written = written;
        }
    }
}
