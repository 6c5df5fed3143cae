//! One binary, many applets: the name by which it is called selects the applet, or else the first argument does.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

mod apply;
mod args;
mod check;
mod explain;
mod install;
mod out;
#[cfg(feature = "pages")]
mod pages;
mod show;
// This is the only place that separates the Linux-only applets from the rest. (With `host_only`, which a test sets, a Linux build
// has only the host's.)
#[cfg_attr(any(host_only, not(target_os = "linux")), path = "outside.rs")]
mod inside;

/// An applet, as `--list`, `--install` and `--help` know it.
struct Applet {
    name: &'static str,
    about: &'static str,
    /// Whether it runs only inside a bundle.
    inside: bool,
    run: Run,
}

/// How it is run.
enum Run {
    /// It gets its arguments, and runs with the inherited signal mask.
    Plain(fn(&[String]) -> ExitCode),
    /// It gets its arguments and the inherited signal mask, and runs with every signal still blocked.
    Blocked(fn(&[String], SigSet) -> ExitCode),
}

const APPLETS: &[Applet] = &[
    Applet {
        name: "init",
        about: "PID 1 of a bundle: starts and supervises its daemons",
        inside: true,
        run: inside::INIT,
    },
    Applet {
        name: "apply-allowlist",
        about: "puts a new allowlist into effect (USR1)",
        inside: false,
        run: Run::Plain(apply::allowlist),
    },
    Applet {
        name: "apply-egress",
        about: "makes egress reload its routes (HUP)",
        inside: false,
        run: Run::Plain(apply::egress),
    },
    Applet {
        name: "apply",
        about: "puts a changed file into effect: apply --daemon NAME, or apply --signal SIG",
        inside: false,
        run: Run::Plain(apply::general),
    },
    Applet {
        name: "status",
        about: "shows what each daemon is doing (docker exec BUNDLE /proc/1/exe status)",
        inside: true,
        run: inside::STATUS,
    },
    Applet {
        name: "restart",
        about: "restarts daemons by name, and waits until they are ready (inside the bundle, like status)",
        inside: true,
        run: inside::RESTART,
    },
    Applet {
        name: "stop",
        about: "stops daemons by name; they stay stopped until they are started",
        inside: true,
        run: inside::STOP,
    },
    Applet {
        name: "start",
        about: "starts daemons by name, and waits until they are ready",
        inside: true,
        run: inside::START,
    },
    Applet {
        name: "signal",
        about: "sends a signal to daemons by name: signal SIG NAME",
        inside: true,
        run: inside::SIGNAL,
    },
    Applet {
        name: "run-as",
        about: "runs a command as a daemon runs: run-as NAME -- COMMAND",
        inside: true,
        run: inside::RUN_AS,
    },
    Applet {
        name: "check",
        about: "validates a daemon table and says what it means",
        inside: false,
        run: Run::Plain(check::run),
    },
];

/// What the apply applets run inside a bundle. Nobody calls it by hand, so it is neither listed nor installed.
/// A host that speaks protocol 3 calls it `witness`, and is told which side to upgrade.
const HELPER: &[Applet] = &[
    Applet { name: sidecar::protocol::HELPER, about: "", inside: true, run: inside::HELPER },
    Applet { name: "witness", about: "", inside: true, run: inside::HELPER },
];

/// The applets that run on this system. (On other systems `init` is found too, but only says where it runs.)
fn here() -> impl Iterator<Item = &'static Applet> {
    APPLETS.iter().filter(|applet| inside::HERE || !applet.inside)
}

/// What `build.rs` knows of this build.
const VERSION: &str = concat!(
    "sidecar ",
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("SIDECAR_COMMIT"),
    ", ",
    env!("SIDECAR_TARGET"),
    ")\n"
);

fn main() -> ExitCode {
    // First of all: the kernel drops, without an error, what PID 1 neither blocks nor handles, so a signal that came
    // before this line is lost. (It can't fail: the arguments are constants.)
    let mut inherited = SigSet::empty();
    let _ = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), Some(&mut inherited));

    let args: Vec<OsString> = std::env::args_os().collect();
    let found = find(&args);
    if !matches!(found, Some((Applet { run: Run::Blocked(_), .. }, _))) {
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&inherited), None);
    }
    let Some((applet, rest)) = found else { return meta(args.get(1..).unwrap_or_default()) };
    let Some(rest) = rest.iter().map(|arg| arg.to_str().map(str::to_owned)).collect::<Option<Vec<String>>>() else {
        return not_utf_8(applet.name, rest);
    };
    match applet.run {
        Run::Plain(run) => run(&rest),
        Run::Blocked(run) => run(&rest, inherited),
    }
}

/// Reports this like any other usage error of that applet, as JSON if `--json` is given.
fn not_utf_8(applet: &'static str, args: &[OsString]) -> ExitCode {
    let message = "an argument is not UTF-8; names and paths must be UTF-8";
    if applet.starts_with("apply") || ["restart", "stop", "start", "signal"].contains(&applet) {
        apply::usage(applet, args.iter().filter_map(|arg| arg.to_str()), message)
    } else {
        out::usage(applet, message)
    }
}

/// The applet and its arguments.
fn find(args: &[OsString]) -> Option<(&'static Applet, &[OsString])> {
    let named = |name: &OsStr| APPLETS.iter().chain(HELPER).chain(inside::OF_INIT).find(|applet| name == applet.name);
    let (called, rest) = args.split_first()?;
    if let Some(applet) = Path::new(called).file_name().and_then(named) {
        // If `/proc/1/exe` can't be executed, `/sbin/init` may be the only path that is known of this program.
        let asked = rest.split_first().filter(|_| applet.name == "init" && std::process::id() != 1);
        let other = asked.filter(|(first, _)| *first != "init").and_then(|(first, rest)| Some((named(first)?, rest)));
        return other.or(Some((applet, rest)));
    }
    let (first, rest) = rest.split_first()?;
    Some((named(first)?, rest))
}

/// The options of the binary itself.
fn meta(args: &[OsString]) -> ExitCode {
    let args: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap_or("\u{fffd}")).collect();
    match args.as_slice() {
        ["--list"] => {
            let names: String = here().flat_map(|applet| [applet.name, "\n"]).collect();
            out::exit(0, out::print(&names))
        }
        ["--version"] => out::exit(0, out::print(VERSION)),
        ["--help" | "-h"] => out::exit(0, out::print(&help())),
        ["--explain", words @ ..] if !words.is_empty() => explain::run(words),
        [one] if one.starts_with("--explain=") => explain::run(&[one.trim_start_matches("--explain=")]),
        ["--install", directory] => install::run(Path::new(directory), here().map(|applet| applet.name)),
        [one] if one.starts_with("--install=") => {
            let directory = one.trim_start_matches("--install=");
            install::run(Path::new(directory), here().map(|applet| applet.name))
        }
        #[cfg(feature = "pages")]
        ["--pages", directory] => pages::run(Path::new(directory)),
        ["--explain"] => out::usage("sidecar", "--explain needs a word: an outcome, or a daemon's state"),
        ["--install"] => out::usage("sidecar", "--install needs the directory to make the links in"),
        args => {
            match args.first() {
                Some(first) => out::error(&format!("sidecar: no applet {first:?}")),
                None => out::error("sidecar: which applet? name one of these"),
            }
            help().lines().for_each(out::error);
            ExitCode::from(2)
        }
    }
}

fn help() -> String {
    let mut text = "Usage: sidecar APPLET [ARGUMENT...], or a link named APPLET\n\nApplets:\n".to_owned();
    for Applet { name, about, .. } in here() {
        let _ = writeln!(text, "  {name:<16} {about}");
    }
    text.push_str(
        "\nOptions:
  --list           list the applets' names
  --install DIR    make a link in DIR for each applet; replaces older sidecar links, but no other file
  --explain WORD   say what an outcome or a daemon's state means, and what to do
  --version        version, commit and target
  -h, --help       show this help; APPLET --help shows that applet's
",
    );
    text
}
