//! `apply-allowlist`, `apply-egress` and `apply`: arguments in, a line for each bundle and an exit code out.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};
use sidecar::change::reason::Reason;
use sidecar::host::docker;
use sidecar::host::engine::{Engine, Kind};
use sidecar::host::fleet::Plan;
use sidecar::host::identify::is_possible_name;
use sidecar::host::report::{Asked, Report};
use sidecar::host::run::{Select, run};
use sidecar::host::{Change, Want, stop};
use sidecar::protocol;
use sidecar::table::{Signal, parse_duration};
use sidecar::text::Plain;

use crate::args::{self, Early};
use crate::out;
use crate::show::{self, Show};

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

Environment: SIDECAR_DOCKER names another docker CLI (podman, nerdctl). With --via kubectl it isn't used.
";
/// A day: nobody waits longer, and no clock overflows.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// What the command line asks for.
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
struct Options {
    signal: String,
    file: Option<String>,
    dry_run: bool,
    show_content: bool,
    force: bool,
    by: Option<String>,
    timeout: String,
    json: bool,
    signal_only: bool,
    label: Vec<String>,
    all: bool,
    parallel: usize,
    canary: Option<usize>,
    rollback_all: bool,
    context: Vec<String>,
    via: Option<String>,
    namespace: Option<String>,
    selector: Vec<String>,
    container: Option<String>,
    bundles: Vec<String>,
}

/// An applet's arguments: what all of them have, and the signal where it isn't preset.
macro_rules! applet {
    ($name:ident, $about:literal, [$($own:tt)*], $signal:expr) => {
        #[doc = $about]
        #[derive(FromArgs, ArgsInfo)]
        #[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
        #[argh(help_triggers("-h", "--help"))]
        pub struct $name {
            $($own)*
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
            /// in place of names, the bundles that run and carry this label: KEY=VALUE (repeatable: each of them)
            #[argh(option)]
            label: Vec<String>,
            /// in place of names, every bundle that runs: what carries the label sidecar.schema
            #[argh(switch)]
            all: bool,
            /// how many may be under way at once (default 32)
            #[argh(option, default = "32")]
            parallel: usize,
            /// the first N, and only if all of them end well the others
            #[argh(option)]
            canary: Option<usize>,
            /// with --file: all or none, each stays uncommitted until the last is proven; --timeout is for all together
            #[argh(switch)]
            rollback_all: bool,
            /// the docker context to reach the bundles by (repeatable: names are looked for in each of them)
            #[argh(option)]
            context: Vec<String>,
            /// kubectl: bundles are names of pods, contexts those of its configuration
            #[argh(option)]
            via: Option<String>,
            /// with --via kubectl: the pods' namespace, if not the context's own
            #[argh(option, short = 'n')]
            namespace: Option<String>,
            /// with --via kubectl: in place of names, the pods that run, carry the label sidecar.schema and match (repeatable)
            #[argh(option, short = 'l')]
            selector: Vec<String>,
            /// with --via kubectl: the bundle's container, where a pod has several that may be meant
            #[argh(option, short = 'c')]
            container: Option<String>,
            /// names or ids of the bundles' containers
            #[argh(positional, arg_name = "BUNDLE")]
            bundles: Vec<String>,
        }

        impl $name {
            fn options(self) -> Options {
                let signal: fn(&Self) -> String = $signal;
                Options {
                    signal: signal(&self),
                    file: self.file,
                    dry_run: self.dry_run,
                    show_content: self.show_content,
                    force: self.force,
                    by: self.by,
                    timeout: self.timeout,
                    json: self.json,
                    signal_only: self.signal_only,
                    label: self.label,
                    all: self.all,
                    parallel: self.parallel,
                    canary: self.canary,
                    rollback_all: self.rollback_all,
                    context: self.context,
                    via: self.via,
                    namespace: self.namespace,
                    selector: self.selector,
                    container: self.container,
                    bundles: self.bundles,
                }
            }
        }
    };
}

applet!(
    General,
    "Make a change live in running bundles by a signal that is wired in them, and see that it is.",
    [
        /// the signal: HUP, USR1, USR2, WINCH or RTMIN+N
        #[argh(option)]
        signal: String,
    ],
    |this| this.signal.clone()
);
applet!(Allowlist, "Put a new allowlist into effect in running bundles (signal USR1), and see that it is.", [], |_| {
    Signal::USR1.to_string()
});
applet!(Egress, "Make egress reload its routes in running bundles (signal HUP), and see that it did.", [], |_| {
    Signal::HUP.to_string()
});

/// `apply-allowlist`.
pub fn allowlist(args: &[String]) -> ExitCode {
    let name = "apply-allowlist";
    serve(name, args, args::parse(name, args).map(Allowlist::options))
}

/// `apply-egress`.
pub fn egress(args: &[String]) -> ExitCode {
    let name = "apply-egress";
    serve(name, args, args::parse(name, args).map(Egress::options))
}

/// `apply`.
pub fn general(args: &[String]) -> ExitCode {
    serve("apply", args, args::parse("apply", args).map(General::options))
}

fn serve(applet: &'static str, raw: &[String], parsed: Result<Options, Early>) -> ExitCode {
    let docker = docker::from_env();
    let tool = Engine { program: docker.clone(), context: None, kind: Kind::Docker }.name();
    let mut asked = Asked { applet, signal: None, tool: Plain::new(&tool) };
    let options = match parsed {
        Ok(options) => options,
        Err(Early::Help(text)) => return out::exit(0, out::print(&(text + PROMISE))),
        Err(Early::Usage(message)) => return usage(applet, raw.iter().map(String::as_str), &message),
    };
    let signal = match signal(&options.signal) {
        Ok(signal) => signal,
        Err(message) => return refuse(&asked, options.json, message),
    };
    asked.signal = Some(signal);
    let timeout = match check(&options) {
        Ok(timeout) => timeout,
        Err(message) => return refuse(&asked, options.json, message),
    };
    let want = match want(&options, timeout) {
        Ok(want) => want,
        Err(message) => return refuse(&asked, options.json, message),
    };
    let by = Plain::new(&options.by.clone().unwrap_or_else(caller));
    let change = Change { signal, timeout, want, by };
    stop::watch();
    let engines = engines(&options, docker);
    asked.tool = Plain::new(&engines.first().map(Engine::name).unwrap_or_default());
    let together = options.rollback_all;
    let plan = Plan { parallel: options.parallel, canary: options.canary.unwrap_or(0), together };
    docker::raise_limit();
    let Ok(mut show) = Show::start(asked.clone(), options.json) else {
        let words = Plain::new("the machine allows no further thread");
        let report = Report::failed(None, Reason::CallFailed { call: Plain::new("inspect"), words });
        return out::exit(report.exit(), show::report(&asked, options.json, &report));
    };
    run(&engines, &change, &select(&options), plan, |told| show.tell(told));
    let (code, written) = show.end();
    out::exit(code, written)
}

/// Arguments that could not be read as a whole; whether JSON was asked for shows in them all the same.
pub fn usage<'a>(applet: &'static str, mut args: impl Iterator<Item = &'a str>, message: &str) -> ExitCode {
    let json = args.by_ref().take_while(|arg| *arg != "--").any(|arg| arg == "--json");
    refuse(&Asked { applet, signal: None, tool: Plain::default() }, json, message.to_owned())
}

fn refuse(asked: &Asked, json: bool, message: String) -> ExitCode {
    let report = Report::failed(None, Reason::Usage { message });
    out::exit(report.exit(), show::report(asked, json, &report))
}

fn signal(name: &str) -> Result<Signal, String> {
    let upper = name.to_ascii_uppercase();
    let known = Signal::from_name(upper.strip_prefix("SIG").unwrap_or(&upper));
    known
        .filter(|signal| signal.is_wireable())
        .ok_or_else(|| format!("--signal {name:?} can't be wired; give HUP, USR1, USR2, WINCH or RTMIN+N"))
}

fn check(options: &Options) -> Result<Duration, String> {
    let timeout = parse_duration(&options.timeout).filter(|t| !t.is_zero() && *t <= MAX_TIMEOUT);
    let timeout = timeout.ok_or_else(|| {
        let given = &options.timeout;
        format!("--timeout {given:?} is no time to wait; give a whole number and ms, s or m, from 1ms to 1440m")
    })?;
    check_via(options)?;
    let labelled = !options.label.is_empty() || !options.selector.is_empty();
    match (options.bundles.is_empty(), labelled, options.all) {
        (false, false, false) | (true, true, false) | (true, false, true) => {}
        (true, false, false) if options.via.is_some() => {
            return Err("no bundle named; give one pod's name or more, -l SELECTOR or --all".to_owned());
        }
        (true, false, false) => {
            return Err("no bundle named; give one container's name or more, --label KEY=VALUE or --all".to_owned());
        }
        _ => return Err("give bundles' names, --label (-l) or --all, one of these; nothing was sent".to_owned()),
    }
    let is_label = |label: &&String| label.split_once('=').is_some_and(|(key, _)| !key.is_empty());
    if let Some(label) = options.label.iter().find(|label| !is_label(label)) {
        return Err(format!("--label {label:?} isn't KEY=VALUE; nothing was sent to any bundle"));
    }
    // kubectl's can be anything: a cluster's address is one.
    let is_context = |context: &&String| is_possible_name(context) || options.via.is_some() && !context.is_empty();
    if let Some(context) = options.context.iter().find(|context| !is_context(context)) {
        return Err(format!(
            "--context {context:?} is a name that no context can have; nothing was sent to any bundle"
        ));
    }
    if options.parallel == 0 || options.canary == Some(0) {
        return Err("--parallel and --canary are at least 1; nothing was sent to any bundle".to_owned());
    }
    if options.rollback_all && (options.file.is_none() || options.dry_run) {
        return Err("--rollback-all needs --file, and no --dry-run: there is nothing else to go back to; nothing was sent to any bundle".to_owned());
    }
    if options.canary.is_some() && (options.signal_only || options.dry_run) {
        return Err(
            "--canary needs a proof: give it without --signal-only and --dry-run; nothing was sent to any bundle"
                .to_owned(),
        );
    }
    match options.bundles.iter().find(|name| !is_possible_name(name)) {
        Some(name) => Err(format!("{name:?} is a name that no container can have; nothing was sent to any bundle")),
        None => Ok(timeout),
    }
}

fn check_via(options: &Options) -> Result<(), String> {
    let no = |message: &str| Err(format!("{message}; nothing was sent to any bundle"));
    let Options { via, namespace, selector, container, label, .. } = options;
    match via.as_deref() {
        Some("kubectl") if !label.is_empty() => return no("--label is docker's: give -l SELECTOR with --via kubectl"),
        Some("kubectl") => {}
        Some(via) => return no(&format!("--via {via:?} isn't known: kubectl is")),
        None if namespace.is_some() || !selector.is_empty() || container.is_some() => {
            return no("-n, -l and -c need --via kubectl");
        }
        None => {}
    }
    if let Some(name) = namespace.iter().chain(container).find(|name| !is_possible_name(name)) {
        return no(&format!("{name:?} is a name that no namespace and no container can have"));
    }
    if selector.iter().any(|selector| selector.trim().is_empty()) {
        return no("-l needs a selector");
    }
    Ok(())
}

/// One for each context, or for the program's own default.
fn engines(options: &Options, docker: OsString) -> Vec<Engine> {
    let Options { via, namespace, container, context, .. } = options;
    let (program, kind) = if via.is_some() {
        ("kubectl".into(), Kind::Kubectl { namespace: namespace.clone(), container: container.clone() })
    } else {
        (docker, Kind::Docker)
    };
    let default = Engine { program, context: None, kind };
    if context.is_empty() {
        return vec![default];
    }
    context.iter().map(|name| Engine { context: Some(name.clone()), ..default.clone() }).collect()
}

fn select(options: &Options) -> Select {
    if options.bundles.is_empty() {
        Select::Labels(options.label.iter().chain(&options.selector).cloned().collect())
    } else {
        Select::Names(options.bundles.clone())
    }
}

fn want(options: &Options, timeout: Duration) -> Result<Want, String> {
    let Options { file, dry_run, show_content, force, signal_only, .. } = options;
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
    // A person types as long as it takes.
    let timeout = if file == "-" && io::stdin().is_terminal() { MAX_TIMEOUT } else { timeout };
    let (sender, receiver) = mpsc::channel();
    let file = file.to_owned();
    // A FIFO that nobody writes to holds up the open, fifo(7).
    let all = move || {
        let stream: Box<dyn Read> = if file == "-" { Box::new(io::stdin()) } else { Box::new(File::open(file)?) };
        let mut bytes = Vec::new();
        stream.take(protocol::MAX_CONTENT + 1).read_to_end(&mut bytes).map(|_| bytes)
    };
    let read = move || {
        let _ = sender.send(all());
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
