//! `check`: validates a daemon table and says what it means. Starts nothing.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};
use sidecar::table::{Action, Daemon, Output, Ready, Signal, Table};
use sidecar::text::one_line;

use crate::args::{self, Early};
use crate::out;

/// How long docker and most orchestrators of containers wait by themselves, between TERM and KILL for PID 1.
const DOCKER_WAITS: Duration = Duration::from_secs(10);
/// init ends within a second of its last daemon.
const INIT_TAKES: Duration = Duration::from_secs(1);

/// What `--help` adds to argh's text.
pub const CODES: &str = "
Warnings go to stderr.

Exit codes:
  0  the table is valid
  2  it is invalid, or a usage error
";

/// Validate a daemon table and explain what it means; starts nothing. Without FILE, the table that init would use.
#[derive(FromArgs, ArgsInfo)]
#[argh(help_triggers("-h", "--help"))]
pub struct Options {
    /// the table, as FILE
    #[argh(option)]
    config: Option<PathBuf>,
    /// the table to validate
    #[argh(positional, arg_name = "FILE")]
    file: Option<PathBuf>,
}

/// Runs the applet.
pub fn run(args: &[String]) -> ExitCode {
    let options: Options = match args::parse("check", args) {
        Ok(options) => options,
        Err(Early::Help(text)) => {
            return out::exit(0, out::print(&(text + CODES)));
        }
        Err(Early::Usage(message)) => return out::usage("check", &message),
    };
    let named = match (options.config, options.file) {
        (Some(_), Some(_)) => return out::usage("check", "give FILE or --config FILE, not both"),
        (Some(file), None) | (None, Some(file)) => Some(file),
        // As init does.
        (None, None) => std::env::var_os("SIDECAR_CONFIG").filter(|file| !file.is_empty()).map(PathBuf::from),
    };
    match Table::load(named.as_deref()) {
        Ok((table, source)) => {
            let written = out::print(&meaning(&table, &source));
            for warning in warnings(&table) {
                out::error(&format!("{source}: warning: {warning}"));
            }
            out::exit(0, written)
        }
        Err(e) => out::usage("check", &e.to_string()),
    }
}

fn meaning(table: &Table, source: &str) -> String {
    let mut text = format!("{}: daemons, in start order\n", one_line(source));
    for daemon in &table.daemons {
        let command: Vec<String> = daemon.command.iter().map(|arg| quoted(arg)).collect();
        let _ = writeln!(text, "\n{}\n  command  {}", daemon.name, command.join(" "));
        let grace = if daemon.grace.is_zero() { "none: KILL at once".to_owned() } else { time(daemon.grace) };
        let _ = writeln!(text, "  grace    {grace}\n  ready    {}", ready(daemon));
        let _ = writeln!(text, "  settle   {}", time(daemon.settle));
        if let Some(config) = &daemon.config {
            let check = config.check.as_ref().map_or_else(
                || "unchecked".to_owned(),
                |check| format!("checked by {}", check.iter().map(|arg| quoted(arg)).collect::<Vec<_>>().join(" ")),
            );
            let _ = writeln!(text, "  config   {}, {check}", quoted(&config.path.display().to_string()));
        }
        for line in sandbox(daemon) {
            let _ = writeln!(text, "  sandbox  {line}");
        }
        if !daemon.ignore.is_empty() {
            let ignored: Vec<String> = daemon.ignore.iter().map(ToString::to_string).collect();
            let _ = writeln!(text, "  ignores  {} from its start", ignored.join(", "));
        }
    }
    if table.output == Output::Json {
        text.push_str("\noutput: each line is a JSON object, init's own too\n");
    }
    if table.require_sandbox {
        text.push_str("\ninit starts nothing if the kernel lacks a part of a sandbox\n");
    }
    if table.wiring.is_empty() {
        return text + "\nno signal has a rule\n";
    }
    text.push_str("\nsignals\n");
    for rule in &table.wiring {
        let name = table.daemons.get(rule.daemon).map_or("?", |daemon| &daemon.name);
        let action = match rule.action {
            Action::Restart => format!("restarts {name}"),
            Action::Forward { always: false } => format!("is forwarded to {name} once it has a handler"),
            Action::Forward { always: true } => format!("is forwarded to {name} at once, with or without a handler"),
        };
        let _ = writeln!(text, "  {:<8} {action}", rule.signal.to_string());
    }
    text
}

/// What it may do, and what is private to it, a line each.
fn sandbox(daemon: &Daemon) -> Vec<String> {
    let paths =
        |all: &[PathBuf]| all.iter().map(|path| quoted(&path.display().to_string())).collect::<Vec<_>>().join(", ");
    let mut lines = Vec::new();
    if let Some(sandbox) = &daemon.sandbox {
        let ports = |ports: &Option<Vec<u16>>| match ports.as_deref() {
            None => "any TCP port".to_owned(),
            Some([]) => "no TCP port".to_owned(),
            Some(all) => format!("TCP {}", all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        };
        lines.push(match sandbox.write.as_slice() {
            [] => "writes nowhere".to_owned(),
            all => format!("writes to {} only", paths(all)),
        });
        let udp = match (sandbox.udp, sandbox.bind.is_some() || sandbox.connect.is_some()) {
            (false, true) => "; no UDP",
            _ => "",
        };
        lines.push(format!("binds to {}, connects to {}{udp}", ports(&sandbox.bind), ports(&sandbox.connect)));
        if !sandbox.sessions {
            lines.push("can't leave its session and process group".to_owned());
        }
    }
    if !daemon.private.is_empty() {
        lines.push(format!("alone reads {}", paths(&daemon.private)));
    }
    lines
}

/// Directories that two sandboxed daemons may write to: each may spoil what the other wrote.
fn shared(table: &Table) -> Vec<String> {
    let mut warnings = Vec::new();
    for (index, one) in table.daemons.iter().enumerate() {
        for other in table.daemons.iter().skip(index + 1) {
            let (Some(mine), Some(theirs)) = (&one.sandbox, &other.sandbox) else { continue };
            for path in mine.write.iter().filter(|path| theirs.write.contains(path)) {
                warnings.push(format!(
                    "{:?} and {:?} may both write to {}; give each a directory of its own, or neither is safe from the other there",
                    one.name,
                    other.name,
                    quoted(&path.display().to_string())
                ));
            }
        }
    }
    warnings
}

fn ready(daemon: &Daemon) -> String {
    match &daemon.ready {
        None => "while its process lives".to_owned(),
        Some(Ready::Tcp(addr)) => format!("when {addr} accepts a connection"),
        Some(Ready::Http { addr, path }) => format!("when GET http://{addr}{path} answers 200 to 399"),
        Some(Ready::Exec(command)) => {
            format!("when it exits 0: {}", command.iter().map(|arg| quoted(arg)).collect::<Vec<_>>().join(" "))
        }
        Some(Ready::Notify) => "when it says so (sd_notify)".to_owned(),
    }
}

fn warnings(table: &Table) -> Vec<String> {
    let mut warnings = shared(table);
    for rule in &table.wiring {
        let Some(daemon) = table.daemons.get(rule.daemon) else { continue };
        let forward = matches!(rule.action, Action::Forward { .. });
        let way_back = table.wiring.iter().any(|r| r.daemon == rule.daemon && r.action == Action::Restart);
        if forward && daemon.config.is_some() && !way_back {
            warnings.push(format!(
                "{signal} is forwarded to {name:?}, which has `config`, and no signal restarts it: if a reload kills it, \
                 there is no way back; add one under [signals], as in USR2 = {{ restart = {name:?} }}",
                signal = rule.signal,
                name = daemon.name
            ));
        }
        if rule.signal == Signal::WINCH {
            warnings.push(format!(
                "WINCH {} {:?}, but a terminal attached to the container sends WINCH at each resize; \
                 use \"RTMIN+1\", or HUP, USR1 or USR2 if one is free",
                if forward { "is forwarded to" } else { "restarts" },
                daemon.name
            ));
        }
    }
    if let Some(daemon) = table.daemons.iter().max_by_key(|daemon| daemon.grace)
        && daemon.grace.saturating_add(INIT_TAKES) > DOCKER_WAITS
    {
        let needed = daemon.grace.saturating_add(INIT_TAKES).as_millis().div_ceil(1000) + 1;
        warnings.push(format!(
            "the grace of {:?} is {}, but docker kills a container 10s after asking it to stop: set `stop_grace_period: {needed}s` \
             (compose), `docker stop -t {needed}`, or `terminationGracePeriodSeconds: {needed}` (Kubernetes)",
            daemon.name,
            time(daemon.grace)
        ));
    }
    warnings
}

/// As the table would spell it.
fn time(duration: Duration) -> String {
    match duration.as_millis() {
        ms if ms % 60_000 == 0 && ms > 0 => format!("{}m", ms / 60_000),
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    }
}

/// A word as it is, anything else so that its ends show and a terminal takes no order from it.
fn quoted(arg: &str) -> String {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '\\');
    if !arg.is_empty() && arg.chars().all(plain) { arg.to_owned() } else { format!("{arg:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Table {
        Table::parse(text, "test").unwrap()
    }

    #[test]
    fn the_built_in_table_has_no_warnings() {
        let table = table(sidecar::table::BUILT_IN);
        assert_eq!(warnings(&table), Vec::<String>::new());
        let text = meaning(&table, "test");
        for line in ["HUP      is forwarded to egress once it has a handler", "USR1     restarts pipelock"] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn a_forward_without_a_way_back_is_warned_of() {
        let text = "[[daemon]]\nname='a'\ncommand=['a']\nconfig={path='/a'}\n[signals]\nHUP={forward='a'}\n";
        assert!(warnings(&table(text))[0].contains("USR2 = { restart = \"a\" }"));
        assert!(warnings(&table(&format!("{text}USR2={{restart='a'}}\n"))).is_empty());
        assert!(warnings(&table(&text.replace("config={path='/a'}\n", ""))).is_empty());
    }

    #[test]
    fn winch_with_a_rule_is_warned_of_since_a_terminals_resize_sends_it() {
        let with = |line: &str| warnings(&table(&format!("[[daemon]]\nname='a'\ncommand=['a']\n[signals]\n{line}\n")));
        assert!(with("WINCH={restart='a'}").concat().starts_with("WINCH restarts \"a\", but a terminal"));
        assert!(with("WINCH={forward='a'}").concat().contains("use \"RTMIN+1\""));
        assert!(with("'RTMIN+1'={restart='a'}").is_empty());
    }

    #[test]
    fn a_sandbox_is_explained_and_a_directory_that_two_may_write_to_is_warned_of() {
        let text = "[[daemon]]\nname='a'\ncommand=['a']\n[daemon.sandbox]\nwrite=['/w']\nprivate=['/p']\nconnect=[]\nsessions=false\n\
                    [[daemon]]\nname='b'\ncommand=['b']\n[daemon.sandbox]\nwrite=['/w']\nbind=[80, 443]\nudp=true\n";
        let meaning = meaning(&table(text), "test");
        for line in [
            "  sandbox  writes to /w only\n  sandbox  binds to any TCP port, connects to no TCP port; no UDP\n",
            "  sandbox  can't leave its session and process group\n  sandbox  alone reads /p\n",
            "  sandbox  binds to TCP 80, 443, connects to any TCP port\n",
        ] {
            assert!(meaning.contains(line), "{meaning}");
        }
        assert!(warnings(&table(text)).concat().contains("\"a\" and \"b\" may both write to /w"));
    }

    #[test]
    fn json_output_is_told() {
        let text = "output='json'\n[[daemon]]\nname='a'\ncommand=['a']\n";
        assert!(meaning(&table(text), "test").contains("each line is a JSON object"));
        assert!(!meaning(&table(sidecar::table::BUILT_IN), "test").contains("JSON"));
    }

    #[test]
    fn a_grace_that_outlasts_docker_is_warned_of_with_what_is_needed() {
        let with = |grace: &str| warnings(&table(&format!("grace='{grace}'\n[[daemon]]\nname='a'\ncommand=['a']\n")));
        assert!(with("9s").is_empty());
        let warning = with("30s").concat();
        assert!(warning.starts_with("the grace of \"a\" is 30s,"));
        assert!(warning.contains("stop_grace_period: 32s") && warning.contains("terminationGracePeriodSeconds: 32"));
        assert_eq!(with("9001ms").len(), 1);
    }
}
