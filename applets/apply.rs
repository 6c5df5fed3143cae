//! `apply-allowlist`, `apply-egress` and `apply`: arguments in, a line for each bundle and an exit code out.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};
use sidecar::change::proof::Trigger;
use sidecar::change::reason::{OwnWords, Reason};
use sidecar::host::docker;
use sidecar::host::engine::{Engine, Kind};
use sidecar::host::fleet::Plan;
use sidecar::host::identify::is_possible_name;
use sidecar::host::report::{Asked, Report};
use sidecar::host::run::{Select, run};
use sidecar::host::{Change, stop};
use sidecar::protocol::{self, Task};
use sidecar::table::{MAX_NAME, Signal, parse_duration};
use sidecar::text::Printable;

use crate::args::{self, Early};
use crate::out;
use crate::show::{self, Show};

/// What `--help` adds to argh's text.
pub const PROMISE: &str = "
Exit 0 means that the change is live, and that this was verified: the daemon's next process is ready and has stayed
ready for its settling time, or the running process took the signal and stayed up. No other daemon is touched.
With --file, the daemon's own checker first checks the new content inside the bundle. The new content then replaces
the old, and is rolled back if it isn't proven. With any other exit code but 5, content and daemon are as they were.
Without --file, the file that is in place is checked before anything is sent.
If a daemon can't say whether it obeyed a forwarded signal, the outcome is `delivered` (exit 0), and the line says so.
With --signal-only, exit 0 means that docker took the signal, or with --daemon that init has the request.
The first Ctrl-C asks for the old content back and waits for it. The second exits at once, and the bundle
recovers by itself.
What an outcome means, and what to do: sidecar --explain OUTCOME.

Exit codes (several bundles: the highest):
  0  live
  1  not live: refused and nothing sent, or rolled back, or (without --file) not proven; the line says which
  2  usage
  3  bundle or docker unreachable: docker not installed or no answer, no such container, not running, paused
  4  not a sidecar bundle; nothing was sent
  5  neither the new content nor the old comes up, or apply can't tell: manual action needed

Environment: SIDECAR_DOCKER names another docker CLI (podman, nerdctl). It isn't used with --via kubectl.
";
/// The longest --timeout, a day: nobody waits longer, and no clock overflows.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Gives a macro what all three applets take.
macro_rules! options {
    ($then:ident $($first:tt)*) => {
        $then! {
            $($first)*
            /// the new content: a file, or - for stdin
            #[argh(option)]
            file: Option<String>,
            /// with --file: only check, and show which lines would change
            #[argh(switch)]
            dry_run: bool,
            /// with --dry-run: show the text of those lines too, which may hold credentials
            #[argh(switch)]
            show_content: bool,
            /// with --file: apply even if this content is live already
            #[argh(switch)]
            force: bool,
            /// who makes the change, for the record and the log (default: user@host)
            #[argh(option)]
            by: Option<String>,
            /// limits the wait for another change and, separately, everything from the check to the proof: 500ms, 30s, 2m (default: 30s)
            #[argh(option, default = "String::from(\"30s\")")]
            timeout: String,
            /// one JSON object per bundle on stdout, also for errors
            #[argh(switch)]
            json: bool,
            /// send the signal (or the request) and don't wait for proof
            #[argh(switch)]
            signal_only: bool,
            /// instead of names: all running bundles with this label, KEY=VALUE (if repeated: with all of the labels)
            #[argh(option)]
            label: Vec<String>,
            /// instead of names: every running bundle, that is, every container with the label sidecar.schema
            #[argh(switch)]
            all: bool,
            /// how many bundles to change at once (default: 32)
            #[argh(option, default = "32")]
            parallel: usize,
            /// change the first N bundles, and the others only if all of those succeed
            #[argh(option)]
            canary: Option<usize>,
            /// with --file: change all bundles or none; none is committed before the last one is proven, and --timeout is for all together
            #[argh(switch)]
            rollback_all: bool,
            /// the docker context through which to reach the bundles (if repeated: names are looked up in each)
            #[argh(option)]
            context: Vec<String>,
            /// the only value is `kubectl`: bundles are pods, and contexts are kubectl's
            #[argh(option)]
            via: Option<String>,
            /// with --via kubectl: the pods' namespace (default: the context's)
            #[argh(option, short = 'n')]
            namespace: Option<String>,
            /// with --via kubectl, instead of names: the running pods with the label sidecar.schema that match (may be repeated)
            #[argh(option, short = 'l')]
            selector: Vec<String>,
            /// with --via kubectl: the bundle's container, if more than one container of the pod could be it
            #[argh(option, short = 'c')]
            container: Option<String>,
            /// names or ids of the bundles' containers
            #[argh(positional, arg_name = "BUNDLE")]
            bundles: Vec<String>,
        }
    };
}

/// What the command line asks for.
macro_rules! parsed {
    ($($(#[$($attribute:tt)*])* $field:ident: $type:ident $(<$of:ident>)?,)*) => {
        #[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
        struct Options {
            trigger: Result<Trigger, String>,
            $($field: $type $(<$of>)?,)*
        }
    };
}
options!(parsed);

/// An applet's arguments: those of all three, and, if that isn't preset, what makes init act. (The macro doesn't take types as `ty`
/// fragments, since argh couldn't see then which ones are an `Option`.)
macro_rules! applet {
    ($name:ident, $about:literal, [$($own:tt)*], $trigger:expr; $($(#[$($attribute:tt)*])* $field:ident: $type:ident $(<$of:ident>)?,)*) => {
        #[doc = $about]
        #[derive(FromArgs, ArgsInfo)]
        #[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
        #[argh(help_triggers("-h", "--help"))]
        pub struct $name {
            $($own)*
            $($(#[$($attribute)*])* $field: $type $(<$of>)?,)*
        }

        impl $name {
            fn options(self) -> Options {
                let trigger: fn(&Self) -> Result<Trigger, String> = $trigger;
                Options { trigger: trigger(&self), $($field: self.$field,)* }
            }
        }
    };
}
options!(applet
    General,
    "Make a change live in running bundles, by restarting a daemon or by sending a signal that has a rule in their table, and check that it is live.",
    [
        /// the signal to send: HUP, USR1, USR2, WINCH or RTMIN+N; the bundle's table must have a rule for it
        #[argh(option)]
        signal: Option<String>,
        /// instead of a signal: the daemon to restart; the table needs no rule for it
        #[argh(option)]
        daemon: Option<String>,
    ],
    |this| match (&this.signal, &this.daemon) {
        (Some(name), None) => signal(name),
        (None, Some(name)) => daemon(name),
        (None, None) => Err("give --signal or --daemon".to_owned()),
        (Some(_), Some(_)) => Err("give --signal or --daemon, not both".to_owned()),
    };
);
options!(applet
    Allowlist, "Put a new allowlist into effect in running bundles (signal USR1), and check that it is live.", [],
    |_| Ok(Trigger::Signal(Signal::USR1));
);
options!(applet
    Egress, "Make egress reload its routes in running bundles (signal HUP), and check that it did.", [],
    |_| Ok(Trigger::Signal(Signal::HUP));
);

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
    let options = match parsed {
        Ok(options) => options,
        Err(Early::Help(text)) => return out::exit(0, out::print(&(text + PROMISE))),
        Err(Early::Usage(message)) => return usage(applet, raw.iter().map(String::as_str), &message),
    };
    let engines = engines(&options);
    let tool = Printable::new(&engines.first().map(Engine::name).unwrap_or_default());
    let mut asked = Asked { applet, trigger: None, tool };
    let change = match change(&options, &mut asked) {
        Ok(change) => change,
        Err(message) => {
            return refuse(
                &asked,
                options.json,
                Reason::Usage { message: OwnWords(message + "; nothing was sent to any bundle") },
            );
        }
    };
    stop::watch();
    docker::raise_limit();
    let Ok(mut show) = Show::start(asked.clone(), options.json) else {
        let words = Printable::new("the machine allows no more threads");
        return refuse(&asked, options.json, Reason::CallFailed { call: Printable::new("inspect"), words });
    };
    let together = options.rollback_all;
    let plan = Plan { parallel: options.parallel, canary: options.canary.unwrap_or(0), together };
    run(&engines, &change, &select(&options), plan, |told| show.tell(told));
    exit(show.end())
}

fn change(options: &Options, asked: &mut Asked) -> Result<Change, String> {
    let trigger = options.trigger.clone()?;
    asked.trigger = Some(trigger.clone());
    let timeout = timeout(&options.timeout)?;
    if let Some(message) = fault(options) {
        return Err(message);
    }
    let (task, content) = task(options, timeout)?;
    let by = Printable::new(&options.by.clone().unwrap_or_else(caller));
    Ok(Change { trigger, timeout, task, content, by })
}

/// Reports a usage error of arguments that could not be parsed. It is JSON if `--json` is among them.
pub fn usage<'a>(applet: &'static str, mut args: impl Iterator<Item = &'a str>, message: &str) -> ExitCode {
    let json = args.by_ref().take_while(|arg| *arg != "--").any(|arg| arg == "--json");
    let asked = Asked { applet, trigger: None, tool: Printable::default() };
    refuse(&asked, json, Reason::Usage { message: OwnWords(message.to_owned()) })
}

fn refuse(asked: &Asked, json: bool, why: Reason) -> ExitCode {
    let report = Report::failed(None, why);
    exit((report.exit(), show::report(asked, json, &report)))
}

/// The exit code is that of the change, even if its result couldn't be written.
pub fn exit((code, written): (u8, io::Result<()>)) -> ExitCode {
    if let Err(e) = written {
        out::error(&format!("sidecar: cannot write to stdout: {e}; the exit code, {code}, is that of the change"));
    }
    ExitCode::from(code)
}

/// The request that restarts this daemon.
fn daemon(name: &str) -> Result<Trigger, String> {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_name = name.bytes().next().is_some_and(is_word) && name.bytes().all(|b| is_word(b) || b == b'-');
    if is_name && name.len() <= MAX_NAME {
        Ok(Trigger::restart(name))
    } else {
        Err(format!(
            "--daemon {name:?} is a name that no daemon can have; a table's names are small letters, digits and -"
        ))
    }
}

fn signal(name: &str) -> Result<Trigger, String> {
    let upper = name.to_ascii_uppercase();
    let known = Signal::from_name(upper.strip_prefix("SIG").unwrap_or(&upper));
    known
        .filter(|signal| signal.is_wireable())
        .map(Trigger::Signal)
        .ok_or_else(|| format!("--signal {name:?} can't have a rule; give HUP, USR1, USR2, WINCH or RTMIN+N"))
}

/// What is wrong with the command line, if anything. If so, docker isn't called.
fn fault(options: &Options) -> Option<String> {
    let Options { bundles, label, selector, all, via, namespace, container, context, .. } = options;
    let is_kubectl = via.is_some();
    let ways = [!bundles.is_empty(), !label.is_empty() || !selector.is_empty(), *all];
    let ways = ways.into_iter().filter(|way| *way).count();
    let a_bundle = if is_kubectl { "a pod's name, -l SELECTOR" } else { "a container's name, --label KEY=VALUE" };
    let is_label = |label: &&String| label.split_once('=').is_some_and(|(key, _)| !key.is_empty());
    // A kubectl context can have any name, for example a cluster's address.
    let is_context = |name: &&String| is_possible_name(name) || is_kubectl && !name.is_empty();
    let no = |is_wrong: bool, message: &str| is_wrong.then(|| message.to_owned());
    let odd = |before: &str, name: Option<&String>, after: &str| name.map(|name| format!("{before}{name:?} {after}"));
    let rules = [
        odd("--via ", via.iter().find(|via| *via != "kubectl"), "isn't known; write --via kubectl"),
        no(is_kubectl && !label.is_empty(), "--label is docker's: give -l SELECTOR with --via kubectl"),
        no(
            !is_kubectl && (namespace.is_some() || !selector.is_empty() || container.is_some()),
            "-n, -l and -c need --via kubectl",
        ),
        odd(
            "",
            namespace.iter().chain(container).find(|name| !is_possible_name(name)),
            "is a name that no namespace and no container can have",
        ),
        no(selector.iter().any(|selector| selector.trim().is_empty()), "-l needs a selector"),
        no(ways == 0, &format!("no bundle named; give {a_bundle} or --all")),
        no(ways > 1, "give bundles' names, --label (-l) or --all, but only one of the three"),
        odd("--label ", label.iter().find(|label| !is_label(label)), "isn't KEY=VALUE"),
        odd("--context ", context.iter().find(|name| !is_context(name)), "is a name that no context can have"),
        odd("", bundles.iter().find(|name| !is_possible_name(name)), "is a name that no container can have"),
        no(options.parallel == 0 || options.canary == Some(0), "--parallel and --canary are at least 1"),
        no(
            options.rollback_all && (options.file.is_none() || options.dry_run),
            "--rollback-all needs --file, without --dry-run: otherwise there is nothing to roll back",
        ),
        no(
            options.canary.is_some() && (options.signal_only || options.dry_run),
            "--canary can't be used with --signal-only or --dry-run, which prove nothing",
        ),
        no(options.show_content && !options.dry_run, "--show-content needs --dry-run"),
        no(options.dry_run && options.file.is_none(), "--dry-run needs --file"),
        no(options.force && options.file.is_none(), "--force needs --file"),
        no(
            options.signal_only && options.file.is_some(),
            "--signal-only sends no content, so it can't be used with --file",
        ),
    ];
    rules.into_iter().flatten().next()
}

/// Reads `--timeout`.
pub fn timeout(given: &str) -> Result<Duration, String> {
    let timeout = parse_duration(given).filter(|t| !t.is_zero() && *t <= MAX_TIMEOUT);
    timeout.ok_or_else(|| {
        format!("--timeout {given:?} is not a duration; write a whole number and ms, s or m, from 1ms to 1440m")
    })
}

/// One engine for each context, or one for the program's default context.
fn engines(options: &Options) -> Vec<Engine> {
    let Options { via, namespace, container, context, .. } = options;
    let (program, kind) = if via.is_some() {
        ("kubectl".into(), Kind::Kubectl { namespace: namespace.clone(), container: container.clone() })
    } else {
        (docker::from_env(), Kind::Docker)
    };
    let engine = |context| Engine { program: program.clone(), context, kind: kind.clone() };
    if context.is_empty() {
        return vec![engine(None)];
    }
    context.iter().map(|name| engine(Some(name.clone()))).collect()
}

fn select(options: &Options) -> Select {
    if options.bundles.is_empty() {
        Select::Labels(options.label.iter().chain(&options.selector).cloned().collect())
    } else {
        Select::Names(options.bundles.clone())
    }
}

/// What to do, and the new content if there is one.
fn task(options: &Options, timeout: Duration) -> Result<(Task, Vec<u8>), String> {
    let Some(file) = &options.file else {
        return Ok((if options.signal_only { Task::Identify } else { Task::InPlace }, Vec::new()));
    };
    let content = content(file, timeout).map_err(|message| format!("--file {file:?}: {message}"))?;
    let (bytes, sha256) = (content.len() as u64, protocol::sha256(&content));
    let task = if options.dry_run {
        Task::DryRun { bytes, sha256, show: options.show_content }
    } else {
        Task::File { bytes, sha256, force: options.force }
    };
    Ok((task, content))
}

/// Reads the content, up to its largest size. A pipe that never ends is given up at the timeout.
fn content(file: &str, timeout: Duration) -> Result<Vec<u8>, String> {
    // A person at the terminal may take as long as they like.
    let timeout = if file == "-" && io::stdin().is_terminal() { MAX_TIMEOUT } else { timeout };
    let (sender, receiver) = mpsc::channel();
    let file = file.to_owned();
    // Opening a FIFO blocks until somebody writes to it: fifo(7).
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

/// Who runs this, as user@host.
pub fn caller() -> String {
    let user = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let host = nix::unistd::gethostname().map(|host| host.to_string_lossy().into_owned());
    format!("{}@{}", user.unwrap_or_else(|| nix::unistd::getuid().to_string()), host.unwrap_or_default())
}
