//! `apply-allowlist`, `apply-egress` and `apply`: arguments in, a line for each bundle and an exit code out.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};
use sidecar::apply::docker::Docker;
use sidecar::apply::identify::is_possible_name;
use sidecar::apply::report::{Asked, Failure, Report};
use sidecar::apply::{Change, run};
use sidecar::table::{Signal, parse_duration};

use crate::args::{self, Early};
use crate::out;

/// What `--help` adds to argh's text.
const PROMISE: &str = "
Exit 0 means that the change is live and was seen to be: the daemon's next process is ready and stayed
so for its settling time, or the running one took the signal and stayed up. Nothing else in the bundle moves.
A forward to a daemon that can't say whether it obeyed ends as `delivered`, exit 0, and the line says so.
With --signal-only 0 means that docker took the signal.

Exit codes (several bundles: the highest):
  0  live
  1  not live: refused with nothing sent, or not proven; the line says which, and in what state the daemon is
  2  usage
  3  bundle or docker unreachable: docker not installed or not running, no such container, not running, paused
  4  not a sidecar bundle; nothing was sent

Environment: SIDECAR_DOCKER names another docker CLI (podman, nerdctl).
";
/// A day: nobody waits longer, and no clock overflows.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Make a change live in running bundles by a signal that is wired in them, and see that it is.
#[derive(FromArgs, ArgsInfo)]
#[argh(help_triggers("-h", "--help"))]
struct General {
    /// the signal: HUP, USR1, USR2, WINCH or RTMIN+N
    #[argh(option)]
    signal: String,
    /// how long it may take from the signal to the proof, as 500ms, 30s or 2m (default 30s)
    #[argh(option, default = "String::from(\"30s\")")]
    timeout: String,
    /// one JSON object for each bundle on stdout, errors too
    #[argh(switch)]
    json: bool,
    /// send the signal and don't wait for the proof
    #[argh(switch)]
    signal_only: bool,
    /// names or ids of the bundles' containers
    #[argh(positional, arg_name = "BUNDLE")]
    bundles: Vec<String>,
}

/// The same with the signal preset.
macro_rules! preset {
    ($name:ident, $about:literal) => {
        #[doc = $about]
        #[derive(FromArgs, ArgsInfo)]
        #[argh(help_triggers("-h", "--help"))]
        struct $name {
            /// how long it may take from the signal to the proof, as 500ms, 30s or 2m (default 30s)
            #[argh(option, default = "String::from(\"30s\")")]
            timeout: String,
            /// one JSON object for each bundle on stdout, errors too
            #[argh(switch)]
            json: bool,
            /// send the signal and don't wait for the proof
            #[argh(switch)]
            signal_only: bool,
            /// names or ids of the bundles' containers
            #[argh(positional, arg_name = "BUNDLE")]
            bundles: Vec<String>,
        }

        impl $name {
            fn with(self, signal: Signal) -> General {
                let Self { timeout, json, signal_only, bundles } = self;
                General { signal: signal.to_string(), timeout, json, signal_only, bundles }
            }
        }
    };
}

preset!(Allowlist, "Put a new allowlist into effect in running bundles (signal USR1), and see that it is.");
preset!(Egress, "Make egress reload its routes in running bundles (signal HUP), and see that it did.");

/// `apply-allowlist`.
pub fn allowlist(args: &[String]) -> ExitCode {
    let name = "apply-allowlist";
    serve(name, args, args::parse::<Allowlist>(name, args).map(|a| a.with(Signal::USR1)))
}

/// `apply-egress`.
pub fn egress(args: &[String]) -> ExitCode {
    let name = "apply-egress";
    serve(name, args, args::parse::<Egress>(name, args).map(|a| a.with(Signal::HUP)))
}

/// `apply`.
pub fn general(args: &[String]) -> ExitCode {
    serve("apply", args, args::parse::<General>("apply", args))
}

fn serve(applet: &'static str, raw: &[String], parsed: Result<General, Early>) -> ExitCode {
    let options = match parsed {
        Ok(options) => options,
        Err(Early::Help(text)) => return out::exit(0, out::print(&(text + PROMISE))),
        Err(Early::Usage(message)) => {
            let json = raw.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--json");
            return usage(&Asked { applet, signal: None }, json, message);
        }
    };
    let signal = match signal(&options.signal) {
        Ok(signal) => signal,
        Err(message) => return usage(&Asked { applet, signal: None }, options.json, message),
    };
    let asked = Asked { applet, signal: Some(signal) };
    let timeout = match check(&options) {
        Ok(timeout) => timeout,
        Err(message) => return usage(&asked, options.json, message),
    };
    let change = Change { signal, timeout, signal_only: options.signal_only };
    let mut code = 0;
    let mut written = Ok(());
    run(&Docker::from_env(), change, &options.bundles, |report| {
        code = code.max(report.exit());
        let result = tell(&asked, options.json, &report);
        if written.is_ok() {
            written = result;
        }
    });
    out::exit(code, written)
}

fn usage(asked: &Asked, json: bool, message: String) -> ExitCode {
    let report = Report::failed(None, Failure::Usage(message));
    out::exit(report.exit(), tell(asked, json, &report))
}

fn tell(asked: &Asked, json: bool, report: &Report) -> io::Result<()> {
    if json {
        out::print(&(report.json(asked) + "\n"))
    } else if report.is_success() {
        out::print(&(report.line(asked) + "\n"))
    } else {
        out::error(&report.line(asked));
        Ok(())
    }
}

fn signal(name: &str) -> Result<Signal, String> {
    let upper = name.to_ascii_uppercase();
    let known = Signal::from_name(upper.strip_prefix("SIG").unwrap_or(&upper));
    known
        .filter(|signal| signal.is_wireable())
        .ok_or_else(|| format!("--signal {name:?} can't be wired; give HUP, USR1, USR2, WINCH or RTMIN+N"))
}

fn check(options: &General) -> Result<Duration, String> {
    let timeout = parse_duration(&options.timeout).filter(|t| !t.is_zero() && *t <= MAX_TIMEOUT);
    let timeout = timeout.ok_or_else(|| {
        let given = &options.timeout;
        format!("--timeout {given:?} is no time to wait; give a whole number and ms, s or m, from 1ms to 1440m")
    })?;
    if options.bundles.is_empty() {
        return Err("no bundle named; give one container's name or more".to_owned());
    }
    match options.bundles.iter().find(|name| !is_possible_name(name)) {
        Some(name) => Err(format!("{name:?} is a name that no container can have; nothing was sent to any bundle")),
        None => Ok(timeout),
    }
}
