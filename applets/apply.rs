//! `apply-allowlist`, `apply-egress` and `apply`: arguments in, a line for each bundle and an exit code out.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};
use sidecar::apply::docker::Docker;
use sidecar::apply::identify::is_possible_name;
use sidecar::apply::report::{Asked, Failure, Report};
use sidecar::apply::{Change, Want, protocol, run, stop};
use sidecar::table::{Signal, parse_duration};
use sidecar::text::Plain;

use crate::args::{self, Early};
use crate::out;

/// What `--help` adds to argh's text.
pub const PROMISE: &str = "
Exit 0 means that the change is live and was seen to be: the daemon's next process is ready and stayed
so for its settling time, or the running one took the signal and stayed up. Nothing else in the bundle moves.
With --file any other exit means that content and daemon are as they were (5 excepted): the content is checked
by the daemon's own checker inside the bundle, put in place, proven, or taken back. Without --file the file is
checked where it lies before anything is sent.
A forward to a daemon that can't say whether it obeyed ends as `delivered`, exit 0, and the line says so.
With --signal-only 0 means that docker took the signal.
The first Ctrl-C asks for the way back and waits for it; the second leaves, and the bundle settles by itself.

Exit codes (several bundles: the highest):
  0  live
  1  not live: refused with nothing sent, or rolled back, or (without --file) not proven; the line says which
  2  usage
  3  bundle or docker unreachable: docker not installed or not running, no such container, not running, paused
  4  not a sidecar bundle; nothing was sent
  5  neither the new content nor the old comes up, or it can't be told: a person must act

Environment: SIDECAR_DOCKER names another docker CLI (podman, nerdctl).
";
/// A day: nobody waits longer, and no clock overflows.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Make a change live in running bundles by a signal that is wired in them, and see that it is.
#[derive(FromArgs, ArgsInfo)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
#[argh(help_triggers("-h", "--help"))]
pub struct General {
    /// the signal: HUP, USR1, USR2, WINCH or RTMIN+N
    #[argh(option)]
    signal: String,
    /// the new content: a file, or - for stdin
    #[argh(option)]
    file: Option<String>,
    /// with --file: go as far as the check, and tell which lines would change
    #[argh(switch)]
    dry_run: bool,
    /// with --dry-run: tell the lines' text too, which may hold credentials
    #[argh(switch)]
    show_content: bool,
    /// with --file: even where this content is live already
    #[argh(switch)]
    force: bool,
    /// who does it, as the record and the log tell (default user@host)
    #[argh(option)]
    by: Option<String>,
    /// bounds the wait for another apply, then the time from the check to the proof: 500ms, 30s, 2m (default 30s)
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
        #[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
        #[argh(help_triggers("-h", "--help"))]
        pub struct $name {
            /// the new content: a file, or - for stdin
            #[argh(option)]
            file: Option<String>,
            /// with --file: go as far as the check, and tell which lines would change
            #[argh(switch)]
            dry_run: bool,
            /// with --dry-run: tell the lines' text too, which may hold credentials
            #[argh(switch)]
            show_content: bool,
            /// with --file: even where this content is live already
            #[argh(switch)]
            force: bool,
            /// who does it, as the record and the log tell (default user@host)
            #[argh(option)]
            by: Option<String>,
            /// bounds the wait for another apply, then the time from the check to the proof: 500ms, 30s, 2m (default 30s)
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
                let Self { file, dry_run, show_content, force, by, timeout, json, signal_only, bundles } = self;
                let signal = signal.to_string();
                General { signal, file, dry_run, show_content, force, by, timeout, json, signal_only, bundles }
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
    let want = match want(&options, timeout) {
        Ok(want) => want,
        Err(message) => return usage(&asked, options.json, message),
    };
    let by = Plain::new(&options.by.clone().unwrap_or_else(caller));
    let change = Change { signal, timeout, want, by };
    stop::watch();
    let mut code = 0;
    let mut written = Ok(());
    run(&Docker::from_env(), &change, &options.bundles, |report| {
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

fn want(options: &General, timeout: Duration) -> Result<Want, String> {
    let General { file, dry_run, show_content, force, signal_only, .. } = options;
    let no = |message: &str| Err(format!("{message}; nothing was sent to any bundle"));
    let Some(file) = file else {
        return match (dry_run, show_content, force) {
            (true, ..) => no("--dry-run needs --file"),
            (_, true, _) => no("--show-content needs --dry-run"),
            (.., true) => no("--force needs --file"),
            _ => Ok(if *signal_only { Want::SignalOnly } else { Want::InPlace }),
        };
    };
    if *signal_only {
        return no("--signal-only sends a signal and no content: give it or --file");
    }
    if *show_content && !dry_run {
        return no("--show-content needs --dry-run");
    }
    let content = match content(file, timeout) {
        Ok(content) => content,
        Err(message) => return no(&format!("--file {file:?}: {message}")),
    };
    let (show, force) = (*show_content, *force);
    Ok(if *dry_run { Want::DryRun { content, show } } else { Want::File { content, force } })
}

/// Reads the content: no more than its bound, and a pipe that never ends not for ever.
fn content(file: &str, timeout: Duration) -> Result<Vec<u8>, String> {
    let stream: Box<dyn Read + Send> =
        if file == "-" { Box::new(io::stdin()) } else { Box::new(File::open(file).map_err(|e| e.to_string())?) };
    // A person types as long as it takes.
    let timeout = if file == "-" && io::stdin().is_terminal() { MAX_TIMEOUT } else { timeout };
    let (sender, receiver) = mpsc::channel();
    let read = move || {
        let mut bytes = Vec::new();
        let read = stream.take(protocol::MAX_CONTENT + 1).read_to_end(&mut bytes);
        let _ = sender.send(read.map(|_| bytes));
    };
    thread::Builder::new().spawn(read).map_err(|e| e.to_string())?;
    let bytes = receiver.recv_timeout(timeout).map_err(|_| "it did not end within --timeout".to_owned())?;
    let bytes = bytes.map_err(|e| e.to_string())?;
    if bytes.len() as u64 > protocol::MAX_CONTENT {
        return Err("it is larger than 1 MiB".to_owned());
    }
    Ok(bytes)
}

/// user@host of whoever runs this.
fn caller() -> String {
    let user = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let host = nix::unistd::gethostname().map(|host| host.to_string_lossy().into_owned());
    format!("{}@{}", user.unwrap_or_else(|| nix::unistd::getuid().to_string()), host.unwrap_or_default())
}
