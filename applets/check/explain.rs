//! What a table means, in words.

use std::collections::HashSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use sidecar::table::{
    Action, Daemon, Output, Process, Ready, RestartPolicy, Table, Ulimit, User, start_order, stop_order,
};
use sidecar::text::one_line;

use super::{name, time};

pub fn meaning(table: &Table, source: &str) -> String {
    let mut text = format!("{}: daemons, in table order\n", one_line(source));
    for daemon in &table.daemons {
        let _ = writeln!(text, "\n{}", daemon.name);
        for (key, value) in lines(table, daemon) {
            let _ = writeln!(text, "  {key:<8} {value}");
        }
    }
    if table.output == Output::Json {
        text.push_str("\noutput: each line is a JSON object, init's own too\n");
    }
    if table.require_sandbox {
        text.push_str("\ninit starts nothing if the kernel can't enforce all of a sandbox\n");
    }
    orders(&mut text, table);
    if table.wiring.is_empty() {
        return text + "\nno signal has a rule\n";
    }
    text.push_str("\nsignals\n");
    for rule in &table.wiring {
        let name = name(table, rule.daemon);
        let action = match rule.action {
            Action::Restart => format!("restarts {name}"),
            Action::Forward { always: false } => format!("is forwarded to {name} once it has a handler"),
            Action::Forward { always: true } => format!("is forwarded to {name} at once, with or without a handler"),
        };
        let _ = writeln!(text, "  {:<8} {action}", rule.signal.to_string());
    }
    text
}

/// What there is to say about a daemon: keys and values.
fn lines(table: &Table, daemon: &Daemon) -> Vec<(&'static str, String)> {
    let mut lines = vec![("command", words(&daemon.command))];
    if daemon.is_oneshot {
        lines.push(("oneshot", "runs once, to its end".to_owned()));
    }
    if !daemon.depends_on.is_empty() {
        let of = |daemon: &usize| {
            let is_oneshot = table.daemons.get(*daemon).is_some_and(|daemon| daemon.is_oneshot);
            format!("{} {}", name(table, *daemon), if is_oneshot { "has exited 0" } else { "is ready" })
        };
        let conditions: Vec<String> = daemon.depends_on.iter().map(of).collect();
        lines.push(("starts", format!("once {}", conditions.join(" and "))));
    }
    lines.push(("ready", ready(daemon)));
    lines.push(("restart", restart(daemon)));
    lines.push(("stop", stop(daemon)));
    if !daemon.is_oneshot {
        lines.push(("settle", time(daemon.settle)));
    }
    if let Some(config) = &daemon.config {
        let check = config.check.as_ref().map_or("unchecked".to_owned(), |c| format!("checked by {}", words(c)));
        lines.push(("config", format!("{}, {check}", quoted(&config.path.display().to_string()))));
    }
    lines.extend(process(daemon));
    if !daemon.listen.is_empty() {
        let held: Vec<String> = daemon.listen.iter().map(ToString::to_string).collect();
        lines.push(("listen", format!("on {}, held by init over restarts", held.join(", "))));
    }
    lines.extend(sandbox(table, daemon).into_iter().map(|line| ("sandbox", line)));
    if !daemon.ignore.is_empty() {
        let ignored: Vec<String> = daemon.ignore.iter().map(ToString::to_string).collect();
        lines.push(("ignores", format!("{} from its start", ignored.join(", "))));
    }
    lines
}

/// The user it runs as, and what it inherits. Values of variables may be secrets and aren't shown.
fn process(daemon: &Daemon) -> Vec<(&'static str, String)> {
    let Process { user, environment, env_file, pass_environment, working_dir, ulimits } = &daemon.process;
    let path = |path: &PathBuf| quoted(&path.display().to_string());
    let mut lines = Vec::new();
    if let Some(User { user, group }) = user {
        let groups = group.as_ref().map_or("with its groups".to_owned(), |group| format!("with group {group} alone"));
        lines.push(("user", format!("{user} {groups}; HOME, USER and LOGNAME are that user's unless set here")));
    }
    if let Some(names) = pass_environment {
        let names: Vec<String> =
            std::iter::once("PATH".to_owned()).chain(names.iter().map(|name| quoted(name))).collect();
        lines.push(("inherits", format!("{} from init's environment, nothing else", names.join(", "))));
    }
    if let Some(file) = env_file {
        lines.push(("env_file", path(file)));
    }
    if !environment.is_empty() {
        let names: Vec<String> = environment.iter().map(|(name, _)| quoted(name)).collect();
        lines.push(("sets", names.join(", ")));
    }
    lines.extend(working_dir.iter().map(|directory| ("runs in", path(directory))));
    if !ulimits.is_empty() {
        let limit = |Ulimit { name, value }: &Ulimit| {
            format!("{name} {}", value.map_or("unlimited".to_owned(), |value| value.to_string()))
        };
        lines.push(("ulimits", ulimits.iter().map(limit).collect::<Vec<_>>().join(", ")));
    }
    lines
}

fn ready(daemon: &Daemon) -> String {
    match &daemon.ready {
        None if daemon.is_oneshot => "when it has exited 0".to_owned(),
        None => "while its process lives".to_owned(),
        Some(Ready::Tcp(addr)) => format!("when {addr} accepts a connection"),
        Some(Ready::Http { addr, path }) => format!("when GET http://{addr}{path} answers 200 to 399"),
        Some(Ready::Exec(command)) => format!("when it exits 0: {}", words(command)),
        Some(Ready::Notify) => "when it says so (sd_notify)".to_owned(),
    }
}

/// What its sandbox allows, and what is private to it, one line each.
fn sandbox(table: &Table, daemon: &Daemon) -> Vec<String> {
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
        let is_tcp_alone = !sandbox.udp && (sandbox.bind.is_some() || sandbox.connect.is_some());
        let udp = match (is_tcp_alone, sandbox.udp) {
            (true, _) => "; no UDP",
            (false, true) => "; UDP on any port",
            (false, false) => "",
        };
        lines.push(format!("binds to {}, connects to {}{udp}", ports(&sandbox.bind), ports(&sandbox.connect)));
        if !sandbox.sessions {
            lines.push("can't leave its session and process group".to_owned());
        }
    }
    if !table.has_sandboxes() {
        return lines;
    }
    let others = |path: &PathBuf| {
        let others = table.daemons.iter().filter(|other| other.name != daemon.name);
        others
            .filter(|other| other.own_paths().any(|own| own == path))
            .map(|other| other.name.as_str())
            .collect::<Vec<_>>()
    };
    // Its `env_file` has a line of its own.
    let mut own: Vec<PathBuf> = daemon.private.clone();
    if table.has_sandboxes() {
        own.extend(daemon.config_directory().map(Path::to_owned));
        own.extend(daemon.sandbox.iter().flat_map(|sandbox| sandbox.write.clone()));
    }
    let mut told = HashSet::new();
    own.retain(|path| told.insert(path.clone()));
    let (alone, shared): (Vec<PathBuf>, Vec<PathBuf>) = own.into_iter().partition(|path| others(path).is_empty());
    if !alone.is_empty() {
        lines.push(format!("no other sandboxed daemon can read {}", paths(&alone)));
    }
    for path in shared {
        lines.push(format!(
            "shares {} with {}; no other sandboxed daemon can read it",
            quoted(&path.display().to_string()),
            others(&path).join(", ")
        ));
    }
    lines
}

/// What follows when it ends by itself.
fn restart(daemon: &Daemon) -> String {
    let again = "started again after 100ms, doubling up to 1m while it keeps ending";
    let (policy, is_kept) = match (daemon.restart, daemon.is_oneshot) {
        (RestartPolicy::Always, _) => (format!("always: {again}"), true),
        (RestartPolicy::OnFailure, true) => (format!("on-failure, until it exits 0: {again}"), true),
        (RestartPolicy::OnFailure, false) => (format!("on-failure: {again}"), false),
        (RestartPolicy::No, _) => ("no: once it has ended, only a request or a signal starts it".to_owned(), false),
    };
    match (daemon.is_essential && !is_kept, daemon.is_oneshot, daemon.restart) {
        (false, _, _) => policy,
        (true, true, _) => "no: if it fails, the bundle shuts down (essential)".to_owned(),
        (true, false, RestartPolicy::No) => "no: when it ends, the bundle shuts down (essential)".to_owned(),
        (true, false, _) => format!("{policy}; when it exits 0, the bundle shuts down (essential)"),
    }
}

/// Which signals stop it, and when.
fn stop(daemon: &Daemon) -> String {
    if daemon.grace.is_zero() {
        return "KILL at once".to_owned();
    }
    let signal = daemon.stop_signal;
    let only = if signal.ends_by_default() { "" } else { " (which stops it only if it has a handler)" };
    format!("{signal}{only}, then KILL after {}", time(daemon.grace))
}

/// The order of starts and of a shutdown, if that isn't simply the table's order.
fn orders(text: &mut String, table: &Table) {
    if table.daemons.iter().all(|daemon| daemon.depends_on.is_empty()) {
        return;
    }
    let mut list = |title: &str, groups: Vec<Vec<usize>>| {
        let _ = writeln!(text, "\n{title}");
        for (number, group) in (1..).zip(groups) {
            let names: Vec<&str> = group.iter().map(|daemon| name(table, *daemon)).collect();
            let _ = writeln!(text, "  {number:<8} {}", names.join(", "));
        }
    };
    list("order of start: each once what it depends on is ready", start_order(&table.daemons));
    list(
        "order of a shutdown: each once what depends on it has ended, at the latest when half of its grace has passed",
        stop_order(&table.daemons),
    );
}

fn words(command: &[String]) -> String {
    command.iter().map(|arg| quoted(arg)).collect::<Vec<_>>().join(" ")
}

/// A plain word stays as it is. Anything else is quoted and escaped, so that its ends are visible and it can't control a terminal.
pub fn quoted(arg: &str) -> String {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '\\');
    if !arg.is_empty() && arg.chars().all(plain) { arg.to_owned() } else { format!("{arg:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(text: &str) -> String {
        meaning(&Table::parse(text, "test").unwrap(), "test")
    }

    fn with(lines: &str) -> String {
        explained(&format!("[[daemon]]\nname='a'\ncommand=['a']\n{lines}\n"))
    }

    #[test]
    fn the_rules_of_the_built_in_table_are_told() {
        let text = explained(sidecar::table::BUILT_IN);
        for line in ["HUP      is forwarded to egress once it has a handler", "USR1     restarts pipelock"] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn a_sandbox_is_explained() {
        let text = explained(
            "[[daemon]]\nname='a'\ncommand=['a']\n[daemon.sandbox]\nwrite=['/w']\nprivate=['/p', '/w']\nconnect=[]\nsessions=false\n\
             [[daemon]]\nname='b'\ncommand=['b']\n[daemon.sandbox]\nwrite=['/w']\nbind=[80, 443]\nudp=true\n\
             [[daemon]]\nname='c'\ncommand=['c']\nenv_file='/e'\nconfig={path='/c/file'}\n[daemon.sandbox]\n",
        );
        for line in [
            "  sandbox  writes to /w only\n  sandbox  binds to any TCP port, connects to no TCP port; no UDP\n",
            "  sandbox  can't leave its session and process group\n  sandbox  no other sandboxed daemon can read /p\n  \
             sandbox  shares /w with b; no other sandboxed daemon can read it\n",
            "  sandbox  binds to TCP 80, 443, connects to any TCP port; UDP on any port\n",
            "  sandbox  shares /w with a; no other sandboxed daemon can read it\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn what_is_private_without_being_named_is_told() {
        let sandbox = "[daemon.sandbox]\nwrite=['/w']\n";
        let config = "[[daemon]]\nname='a'\ncommand=['a']\nconfig={path='/etc/a/list'}\n";
        assert!(
            explained(&(config.to_owned() + sandbox))
                .contains("  sandbox  no other sandboxed daemon can read /etc/a, /w\n")
        );
        let unsandboxed = explained(&format!("{config}[[daemon]]\nname='b'\ncommand=['b']\n{sandbox}"));
        assert!(unsandboxed.contains("  sandbox  no other sandboxed daemon can read /etc/a\n"), "{unsandboxed}");
        assert!(!explained(config).contains("sandbox"));
    }

    #[test]
    fn what_a_process_inherits_is_explained_without_values_of_variables() {
        let text = with(
            "user='app'\npass_environment=['TZ', 'LC_*']\nenv_file='/e/a b'\nenvironment={KEY='secret', A='b'}\n\
             working_dir='/srv'\nulimits={nofile=1024, core=0, memlock=-1}\nlisten=[{tcp='0.0.0.0:80'}, {tcp='[::1]:81'}]",
        );
        let lines = "  user     app with its groups; HOME, USER and LOGNAME are that user's unless set here\n  inherits PATH, TZ, LC_* \
                     from init's environment, nothing else\n  env_file \"/e/a b\"\n  \
                     sets     A, KEY\n  runs in  /srv\n  ulimits  core 0, memlock unlimited, nofile 1024\n  listen   on \
                     0.0.0.0:80, [::1]:81, held by init over restarts\n";
        assert!(text.contains(lines), "{text}");
        assert!(!text.contains("secret"), "{text}");
        assert!(with("user='1:2'\npass_environment=[]").contains("  user     1 with group 2 alone; HOME"));
        assert!(with("pass_environment=[]").contains("  inherits PATH from init's environment, nothing else\n"));
        let plain = with("");
        assert!(
            ["user", "inherits", "env_file", "sets", "runs in", "ulimits", "listen"]
                .iter()
                .all(|key| !plain.contains(key))
        );
    }

    #[test]
    fn json_output_is_told() {
        assert!(
            explained("output='json'\n[[daemon]]\nname='a'\ncommand=['a']\n").contains("each line is a JSON object")
        );
        assert!(!explained(sidecar::table::BUILT_IN).contains("JSON"));
    }

    #[test]
    fn what_follows_an_end_is_told_for_each_policy() {
        let no = "no: once it has ended, only a request or a signal starts it";
        let failure = "on-failure: started again after 100ms, doubling up to 1m while it keeps ending";
        for (lines, told) in [
            ("", no.to_owned()),
            ("oneshot=true", no.to_owned()),
            ("restart='on-failure'", failure.to_owned()),
            ("restart='always'", failure.replace("on-failure", "always")),
            ("restart='always'\nessential=true", failure.replace("on-failure", "always")),
            ("restart='on-failure'\noneshot=true", failure.replace("failure:", "failure, until it exits 0:")),
            ("essential=true", "no: when it ends, the bundle shuts down (essential)".to_owned()),
            ("essential=true\noneshot=true", "no: if it fails, the bundle shuts down (essential)".to_owned()),
            (
                "essential=true\nrestart='on-failure'",
                format!("{failure}; when it exits 0, the bundle shuts down (essential)"),
            ),
        ] {
            assert!(with(lines).contains(&format!("\n  restart  {told}\n")), "{lines}\n{}", with(lines));
        }
    }

    #[test]
    fn what_asks_a_daemon_to_stop_is_told() {
        for (lines, told) in [
            ("", "TERM, then KILL after 8s"),
            ("stop_signal='SIGQUIT'\ngrace='1m'", "QUIT, then KILL after 1m"),
            ("stop_signal='WINCH'", "WINCH (which stops it only if it has a handler), then KILL after 8s"),
            ("grace='0s'", "KILL at once"),
        ] {
            assert!(with(lines).contains(&format!("\n  stop     {told}\n")), "{}", with(lines));
        }
    }

    #[test]
    fn who_starts_and_stops_after_whom_is_told_if_one_depends_on_another() {
        let text = explained(
            "[[daemon]]\nname='app'\ncommand=['a']\ndepends_on=['migrate', 'db']\n[[daemon]]\nname='db'\ncommand=['a']\n\
             [[daemon]]\nname='migrate'\ncommand=['a']\noneshot=true\ndepends_on=['db']\n[[daemon]]\nname='alone'\ncommand=['a']\n",
        );
        assert!(text.contains("\n  starts   once migrate has exited 0 and db is ready\n"), "{text}");
        assert!(text.contains("\n  oneshot  runs once, to its end\n"), "{text}");
        assert!(
            text.contains("ready\n  1        db, alone\n  2        migrate\n  3        app\n\norder of a shutdown: "),
            "{text}"
        );
        assert!(text.contains("passed\n  1        app, alone\n  2        migrate\n  3        db\n\n"), "{text}");
        assert!(!explained(sidecar::table::BUILT_IN).contains("order of"));
    }
}
