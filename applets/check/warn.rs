//! Warnings about tables that are valid but would surprise you later.

use std::io;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use nix::sys::statvfs::{FsFlags, statvfs};
use sidecar::table::{Action, DAEMON_KEYS, Daemon, Ready, RestartPolicy, Signal, Table};

use super::explain::quoted;
use super::{name, time};

/// How long docker and most orchestrators wait by default between TERM and KILL for PID 1.
const DOCKER_WAITS: Duration = Duration::from_secs(10);
/// init ends within a second of its last daemon.
const INIT_TAKES: Duration = Duration::from_secs(1);

/// The ports that the kernel may give to outgoing connections.
pub struct LocalPorts {
    range: RangeInclusive<u16>,
    reserved: Vec<RangeInclusive<u16>>,
}

impl LocalPorts {
    /// The kernel's default ports.
    pub fn usual() -> Self {
        Self { range: 32768..=60999, reserved: Vec::new() }
    }

    /// The ports of this kernel, in this network namespace.
    pub fn here() -> Self {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default();
        Self::parse(&read("ip_local_port_range"), &read("ip_local_reserved_ports")).unwrap_or_else(Self::usual)
    }

    /// Two numbers; and a list like `8080,9148-9150`.
    fn parse(range: &str, reserved: &str) -> Option<Self> {
        let mut ends = range.split_whitespace().map_while(|end| end.parse().ok());
        let part = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
        };
        Some(Self { range: ends.next()?..=ends.next()?, reserved: reserved.split(',').filter_map(part).collect() })
    }

    fn contains(&self, port: u16) -> bool {
        self.range.contains(&port) && !self.reserved.iter().any(|reserved| reserved.contains(&port))
    }
}

pub fn warnings(table: &Table, local_ports: &LocalPorts) -> Vec<String> {
    let mut warnings: Vec<String> = table
        .wiring
        .iter()
        .filter_map(|rule| {
            let action = if matches!(rule.action, Action::Forward { .. }) { "is forwarded to" } else { "restarts" };
            (rule.signal == Signal::WINCH).then(|| {
                format!(
                    "WINCH {action} {:?}, but a terminal attached to the container sends WINCH at each resize; \
             use \"RTMIN+1\", or HUP, USR1 or USR2 if one is free",
                    name(table, rule.daemon)
                )
            })
        })
        .collect();
    warnings.extend(shared(table));
    warnings.extend(as_root(table));
    warnings.extend(super::sandbox::warnings(table));
    for (index, daemon) in table.daemons.iter().enumerate() {
        warnings.extend(about_its_command(daemon));
        warnings.extend(about_its_end(daemon));
        warnings.extend(about_its_variables(daemon));
        warnings.extend(about_its_sockets(daemon, local_ports));
        let dependents: Vec<&Daemon> = table.daemons.iter().filter(|d| d.depends_on.contains(&index)).collect();
        if !dependents.is_empty() {
            warnings.extend(about_a_dependency(daemon, &dependents));
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

/// Warns about directories that two sandboxed daemons may write to: each can change what the other wrote.
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

/// Warns about daemons that run as root because they have no `user` although others do.
fn as_root(table: &Table) -> Vec<String> {
    let Some(other) = table.daemons.iter().find(|daemon| daemon.process.user.is_some()) else { return Vec::new() };
    let warning = |daemon: &Daemon| {
        let with = if daemon.sandbox.is_some() { "" } else { " with CAP_SETUID, CAP_SETGID and CAP_KILL" };
        format!(
            "{:?} has no `user`, but {:?} has one, so init is root, and {:?} runs as root too{with}; give it a `user` as well",
            daemon.name, other.name, daemon.name
        )
    };
    table.daemons.iter().filter(|daemon| daemon.process.user.is_none()).map(warning).collect()
}

/// Says what the container must provide. Only `--here`, inside it, can check that.
pub fn of_its_container(table: &Table) -> Option<String> {
    let mut all = table.daemons.iter().filter(|daemon| daemon.process.user.is_some());
    let first = &all.next()?.name;
    let who = match all.count() {
        0 => format!("{first:?} has"),
        1 => format!("{first:?} and one other have"),
        n => format!("{first:?} and {n} others have"),
    };
    Some(format!(
        "{who} a `user`, so init must be root with CAP_SETUID, CAP_SETGID and CAP_KILL, or it starts nothing: set no `USER` in \
         the image, and if compose.yaml has `cap_drop: [ALL]`, add `cap_add: [SETUID, SETGID, KILL]`"
    ))
}

/// Warns about a key of the daemon's that stands below `[daemon.environment]`, where each line is a variable.
fn about_its_variables(daemon: &Daemon) -> Vec<String> {
    let variables = daemon.process.environment.iter().map(|(variable, _)| variable.as_str());
    let warning = |key| {
        format!(
            "environment of {:?} has {key}, which is also the name of a key; if you mean the key, write it above \
             [daemon.environment]",
            daemon.name
        )
    };
    variables.filter(|variable| DAEMON_KEYS.contains(variable)).map(warning).collect()
}

/// Warns about a variable in a command that nothing expands: the program would get its name, not its value.
fn about_its_command(daemon: &Daemon) -> Option<String> {
    let has_shell = daemon.command.iter().any(|word| word.starts_with('-') && word.ends_with('c'));
    let is_variable = |rest: &str| rest.trim_start_matches('{').starts_with(|c: char| c.is_ascii_uppercase());
    let variable = |word: &&String| {
        // supervisord's spelling, or the shell's.
        word.contains("%(ENV_") || !has_shell && word.split('$').skip(1).any(is_variable)
    };
    let word = daemon.command.iter().find(variable)?;
    Some(format!(
        "command of {:?} has {}, which nothing expands: the program gets it as it is written; for a variable's value, write \
         [\"sh\", \"-c\", \"exec PROGRAM $NAME\"]",
        daemon.name,
        quoted(word)
    ))
}

fn about_its_sockets(daemon: &Daemon, local_ports: &LocalPorts) -> Vec<String> {
    let warning = |addr: &std::net::SocketAddr| {
        let (port, range) = (addr.port(), &local_ports.range);
        local_ports.contains(port).then(|| {
            format!(
                "listen of {:?} has port {port}, which the kernel may give to an outgoing connection (their range is {} to {}); \
                 then init can't bind it, and starts nothing: use another port, or name it in the sysctl \
                 net.ipv4.ip_local_reserved_ports",
                daemon.name,
                range.start(),
                range.end()
            )
        })
    };
    daemon.listen.iter().filter_map(warning).collect()
}

fn about_its_end(daemon: &Daemon) -> Vec<String> {
    let Daemon { name, stop_signal, grace, .. } = daemon;
    let mut warnings = Vec::new();
    if daemon.is_essential && daemon.restart == RestartPolicy::Always {
        warnings.push(format!(
            "essential has no effect on {name:?}: with restart = \"always\" it never ends for good; remove one of the two"
        ));
    }
    if daemon.is_essential && daemon.is_oneshot && daemon.restart == RestartPolicy::OnFailure {
        warnings.push(format!(
            "essential has no effect on the oneshot {name:?}: it is run again until it exits 0; give it restart = \"no\" if \
             the bundle should end when it fails"
        ));
    }
    if grace.is_zero() && *stop_signal != Signal::TERM {
        warnings
            .push(format!("{name:?} never gets its stop_signal {stop_signal}: its grace is 0s, so KILL comes at once"));
    }
    if daemon.ignore.contains(stop_signal) && !grace.is_zero() {
        warnings.push(format!(
            "{name:?} is started with {stop_signal} ignored, which is also the signal that asks it to stop: unless it \
             installs a handler, each stop takes {} and ends in KILL",
            time(*grace)
        ));
    }
    warnings
}

fn about_a_dependency(daemon: &Daemon, dependents: &[&Daemon]) -> Vec<String> {
    let name = &daemon.name;
    let (first, others) = match dependents {
        [first, others @ ..] => (&first.name, others.len()),
        [] => return Vec::new(),
    };
    let who = match others {
        0 => format!("{first:?}"),
        1 => format!("{first:?} and one other"),
        n => format!("{first:?} and {n} others"),
    };
    let waits = if others == 0 { "waits" } else { "wait" };
    let mut warnings = Vec::new();
    if daemon.is_oneshot && daemon.restart == RestartPolicy::No && !daemon.is_essential {
        warnings.push(format!(
            "if the oneshot {name:?} fails, {who} {waits} until somebody runs it again; give it restart = \"on-failure\" (it is \
             tried again) or essential = true (the bundle ends)"
        ));
    }
    if !daemon.is_oneshot && daemon.ready.is_none() {
        warnings.push(format!(
            "{name:?} has no `ready`, so {who} {waits} only until its program has been executed; give {name:?} a `ready` to \
             have it waited for until it serves"
        ));
    }
    if let Some(longest) = dependents.iter().max_by_key(|dependent| dependent.grace)
        && longest.grace > daemon.grace
    {
        warnings.push(format!(
            "in a shutdown {name:?} may end before {:?}, which depends on it: the grace of {name:?} is {}, that of {:?} {}; \
             make the grace of {:?} shorter, or that of {name:?} longer",
            longest.name,
            time(daemon.grace),
            longest.name,
            time(longest.grace),
            longest.name
        ));
    }
    warnings
}

/// Programs and files that the table names but that don't exist here. `fault_of` looks for a command's program.
pub fn missing(table: &Table, fault_of: fn(&[String]) -> Option<String>) -> Vec<String> {
    let mut warnings = Vec::new();
    for daemon in &table.daemons {
        let name = &daemon.name;
        let mut look = |key: &str, command: &[String]| {
            warnings.extend(fault_of(command).map(|fault| format!("{key} of {name:?}: {fault}")));
        };
        look("command", &daemon.command);
        if let Some(Ready::Exec(command)) = &daemon.ready {
            look("ready.exec", command);
        }
        if let Some(config) = &daemon.config {
            if let Some(check) = &config.check {
                look("config.check", check);
            }
            if let Err(e) = std::fs::symlink_metadata(&config.path) {
                warnings.push(format!("config.path of {name:?}: {}: {e}", config.path.display()));
            }
        }
        if let Some(path) = &daemon.process.working_dir
            && let Err(e) = std::fs::metadata(path).and_then(|found| directory(&found))
            && !(e.kind() == io::ErrorKind::NotFound && may_write(daemon, path) && is_made(table, path))
        {
            warnings.push(format!("working_dir of {name:?}: {}: {e}", path.display()));
        }
        for path in daemon.sandbox.iter().flat_map(|sandbox| &sandbox.write) {
            let Err(e) = std::fs::metadata(path) else { continue };
            let is_made = e.kind() == io::ErrorKind::NotFound && is_made(table, path);
            if !is_made {
                warnings.push(format!("write of {name:?}: {}: {e}", path.display()));
            } else if let Some(parent) = path.parent().filter(|parent| is_read_only(parent)) {
                warnings.push(format!(
                    "write of {name:?}: {} isn't there, and can't be made since {} is read-only; mount something writable at one of the two",
                    path.display(),
                    parent.display()
                ));
            }
        }
    }
    warnings
}

fn may_write(daemon: &Daemon, path: &Path) -> bool {
    daemon.sandbox.as_ref().is_some_and(|sandbox| sandbox.write.iter().any(|write| write == path))
}

fn directory(found: &std::fs::Metadata) -> io::Result<()> {
    if found.is_dir() { Ok(()) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

/// Whether the directory is mounted read-only. Its mode doesn't matter here, since another user may start the daemon.
fn is_read_only(directory: &Path) -> bool {
    statvfs(directory).is_ok_and(|found| found.flags().contains(FsFlags::ST_RDONLY))
}

/// Whether init makes this directory: only the last part of its path is missing.
fn is_made(table: &Table, path: &Path) -> bool {
    let Some(parent) = path.parent() else { return false };
    let mut writable = table.daemons.iter().flat_map(|daemon| &daemon.sandbox).flat_map(|sandbox| &sandbox.write);
    parent.is_dir() && path.symlink_metadata().is_err() && !writable.any(|write| parent.starts_with(write))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<String> {
        warnings(&Table::parse(text, "test").unwrap(), &LocalPorts::usual())
    }

    fn with(lines: &str) -> Vec<String> {
        of(&format!("[[daemon]]\nname='a'\ncommand=['a']\n{lines}\n"))
    }

    /// Two that depend on a third, which has these lines.
    fn depended_on(lines: &str) -> Vec<String> {
        with(&format!(
            "{lines}\n[[daemon]]\nname='b'\ncommand=['b']\ndepends_on=['a']\n[[daemon]]\nname='c'\ncommand=['c']\ndepends_on=['a']"
        ))
    }

    #[test]
    fn the_built_in_table_has_no_warnings() {
        assert_eq!(of(sidecar::table::BUILT_IN), Vec::<String>::new());
    }

    #[test]
    fn winch_with_a_rule_is_warned_of_since_a_terminals_resize_sends_it() {
        assert!(with("[signals]\nWINCH={restart='a'}").concat().starts_with("WINCH restarts \"a\", but a terminal"));
        assert!(with("[signals]\nWINCH={forward='a'}").concat().contains("use \"RTMIN+1\""));
        assert!(with("[signals]\n'RTMIN+1'={restart='a'}").is_empty());
    }

    #[test]
    fn a_grace_that_outlasts_docker_is_warned_of_with_what_is_needed() {
        assert!(with("grace='9s'").is_empty());
        let warning = with("grace='30s'").concat();
        assert!(warning.starts_with("the grace of \"a\" is 30s,"));
        assert!(warning.contains("stop_grace_period: 32s") && warning.contains("terminationGracePeriodSeconds: 32"));
        assert_eq!(with("grace='9001ms'").len(), 1);
    }

    #[test]
    fn a_directory_that_two_sandboxed_daemons_may_write_to_is_warned_of() {
        let text = "[[daemon]]\nname='a'\ncommand=['a']\n[daemon.sandbox]\nwrite=['/w']\n\
                    [[daemon]]\nname='b'\ncommand=['b']\n[daemon.sandbox]\nwrite=['/w']\n";
        assert!(of(text).concat().contains("\"a\" and \"b\" may both write to /w"));
    }

    #[test]
    fn a_variable_that_no_shell_expands_is_warned_of() {
        let of = |command: &str| of(&format!("[[daemon]]\nname='a'\ncommand={command}\n"));
        assert_eq!(
            of("['web', '--port', '%(ENV_PORT)s']"),
            [
                "command of \"a\" has %(ENV_PORT)s, which nothing expands: the program gets it as it is written; for a variable's \
              value, write [\"sh\", \"-c\", \"exec PROGRAM $NAME\"]"
            ]
        );
        assert_eq!(of("['web', '--url=http://${HOST}/']").len(), 1);
        assert_eq!(of("['sh', '-c', 'exec web --port %(ENV_PORT)s']").len(), 1);
        assert!(of("['sh', '-c', 'exec web --port $PORT']").is_empty());
        assert!(of("['bash', '-lc', 'exec web --port $PORT']").is_empty());
        assert!(of("['web', '^a$', '$1', 'price: $']").is_empty());
    }

    #[test]
    fn a_port_that_an_outgoing_connection_may_take_is_warned_about() {
        let on = |ports: &LocalPorts, port: u16| {
            let text = format!("[[daemon]]\nname='a'\ncommand=['a']\nlisten=[{{tcp='0.0.0.0:{port}'}}]");
            warnings(&Table::parse(&text, "test").unwrap(), ports)
        };
        assert_eq!(
            on(&LocalPorts::usual(), 32768),
            [
                "listen of \"a\" has port 32768, which the kernel may give to an outgoing connection (their range is 32768 to \
              60999); then init can't bind it, and starts nothing: use another port, or name it in the sysctl \
              net.ipv4.ip_local_reserved_ports"
            ]
        );
        assert!(on(&LocalPorts::usual(), 32767).is_empty() && on(&LocalPorts::usual(), 61000).is_empty());
        let own = LocalPorts::parse("1024\t2000\n", "1100,1200-1202\n").unwrap();
        for (port, count) in [(1023, 0), (1024, 1), (1100, 0), (1101, 1), (1200, 0), (1202, 0), (1203, 1), (2001, 0)] {
            assert_eq!(on(&own, port).len(), count, "{port}");
        }
        assert!(LocalPorts::parse("", "").is_none());
        assert!(LocalPorts::parse("1024 2000", "\n").is_some_and(|ports| ports.contains(1100)));
    }

    #[test]
    fn a_variable_with_the_name_of_a_key_is_warned_about() {
        assert_eq!(
            with("[daemon.environment]\nA='b'\nuser='app'\nrestart='no'"),
            [
                "environment of \"a\" has restart, which is also the name of a key; if you mean the key, write it above \
              [daemon.environment]",
                "environment of \"a\" has user, which is also the name of a key; if you mean the key, write it above \
              [daemon.environment]"
            ]
        );
        assert!(with("[daemon.environment]\nUSER='app'").is_empty());
    }

    #[test]
    fn a_daemon_without_a_user_beside_one_with_one_is_warned_about() {
        assert_eq!(with("user='1'"), Vec::<String>::new());
        let text = "[[daemon]]\nname='a'\ncommand=['a']\n[[daemon]]\nname='b'\ncommand=['b']\nuser='1'\n\
                    [[daemon]]\nname='c'\ncommand=['c']\n[daemon.sandbox]\n";
        let why = |name: &str, with: &str| {
            format!(
                "\"{name}\" has no `user`, but \"b\" has one, so init is root, and \"{name}\" runs as root too{with}; give it a \
                 `user` as well"
            )
        };
        assert_eq!(of(text), [why("a", " with CAP_SETUID, CAP_SETGID and CAP_KILL"), why("c", "")]);
    }

    #[test]
    fn a_working_dir_that_init_makes_is_not_missed() {
        let text = |dir: &str| {
            format!("[[daemon]]\nname='a'\ncommand=['a']\nworking_dir='{dir}'\n[daemon.sandbox]\nwrite=['/none']\n")
        };
        let missed = |dir: &str| missing(&Table::parse(&text(dir), "test").unwrap(), |_| None).len();
        assert_eq!((missed("/none"), missed("/other")), (0, 1));
    }

    #[test]
    fn a_user_is_warned_of_since_init_must_be_root_with_three_capabilities() {
        let of = |text: &str| of_its_container(&Table::parse(text, "test").unwrap());
        let daemon = |name: &str, user: &str| format!("[[daemon]]\nname='{name}'\ncommand=['a']\n{user}\n");
        assert_eq!(of(&daemon("a", "")), None);
        for (others, who) in [("", "\"b\" has"), ("c", "\"b\" and one other have"), ("cd", "\"b\" and 2 others have")] {
            let more: String = others.chars().map(|name| daemon(&name.to_string(), "user='1'")).collect();
            let warning = of(&(daemon("a", "") + &daemon("b", "user='1'") + &more)).unwrap();
            assert!(warning.starts_with(&format!(
                "{who} a `user`, so init must be root with CAP_SETUID, CAP_SETGID and CAP_KILL"
            )));
        }
    }

    #[test]
    fn a_directory_that_is_not_here_and_that_init_does_not_make_is_warned_of() {
        let text = "[[daemon]]\nname='a'\ncommand=['a']\nworking_dir='/no/such'\n[daemon.sandbox]\n\
                    write=['/none/such', '/proc', '/none', '/proc/none']\n\
                    [[daemon]]\nname='b'\ncommand=['b']\nworking_dir='/etc/passwd'\n";
        let table = Table::parse(text, "test").unwrap();
        let none = "No such file or directory (os error 2)";
        assert_eq!(
            missing(&table, |_| None),
            [
                format!("working_dir of \"a\": /no/such: {none}"),
                format!("write of \"a\": /none/such: {none}"),
                // Its parent may be written to.
                format!("write of \"a\": /proc/none: {none}"),
                "working_dir of \"b\": /etc/passwd: not a directory".to_owned(),
            ]
        );
    }

    #[test]
    fn essential_is_warned_of_if_it_has_no_effect() {
        for quiet in ["", "restart='on-failure'", "oneshot=true"] {
            assert_eq!(with(&format!("essential=true\n{quiet}")), Vec::<String>::new());
        }
        assert_eq!(
            with("essential=true\nrestart='always'"),
            [
                "essential has no effect on \"a\": with restart = \"always\" it never ends for good; remove one of the two"
            ]
        );
        assert_eq!(
            with("essential=true\noneshot=true\nrestart='on-failure'"),
            [
                "essential has no effect on the oneshot \"a\": it is run again until it exits 0; give it restart = \"no\" if the \
              bundle should end when it fails"
            ]
        );
    }

    #[test]
    fn a_stop_signal_that_is_not_sent_or_is_ignored_is_warned_of() {
        for quiet in ["grace='0s'\nstop_signal='TERM'\nignore=['TERM']", "stop_signal='QUIT'\nignore=['TERM']"] {
            assert_eq!(with(quiet), Vec::<String>::new());
        }
        assert_eq!(
            with("grace='0s'\nstop_signal='QUIT'"),
            ["\"a\" never gets its stop_signal QUIT: its grace is 0s, so KILL comes at once"]
        );
        assert_eq!(
            with("ignore=['TERM']"),
            [
                "\"a\" is started with TERM ignored, which is also the signal that asks it to stop: unless it installs a handler, \
              each stop takes 8s and ends in KILL"
            ]
        );
    }

    #[test]
    fn a_dependency_that_has_no_probe_or_may_fail_for_good_is_warned_of() {
        for quiet in ["ready={notify=true}", "oneshot=true\nrestart='on-failure'", "oneshot=true\nessential=true"] {
            assert_eq!(depended_on(quiet), Vec::<String>::new());
        }
        assert_eq!(
            depended_on(""),
            [
                "\"a\" has no `ready`, so \"b\" and one other wait only until its program has been executed; give \"a\" a `ready` to \
              have it waited for until it serves"
            ]
        );
        assert_eq!(
            depended_on("oneshot=true"),
            ["if the oneshot \"a\" fails, \"b\" and one other wait until somebody runs it again; give it restart = \
              \"on-failure\" (it is tried again) or essential = true (the bundle ends)"]
        );
    }

    #[test]
    fn a_dependency_with_less_time_to_stop_than_a_dependent_is_warned_of() {
        assert_eq!(
            depended_on("ready={notify=true}\ngrace='3s'"),
            [
                "in a shutdown \"a\" may end before \"c\", which depends on it: the grace of \"a\" is 3s, that of \"c\" 8s; make \
              the grace of \"c\" shorter, or that of \"a\" longer"
            ]
        );
        assert!(depended_on("ready={notify=true}\ngrace='9s'").is_empty());
    }

    #[test]
    fn a_program_or_file_that_is_not_here_is_warned_of_with_its_key() {
        let text =
            "[[daemon]]\nname='a'\ncommand=['x']\nready={exec=['y']}\nconfig={path='/none/such', check=['z', '{}']}\n";
        let table = Table::parse(text, "test").unwrap();
        let warnings = missing(&table, |command| Some(format!("no {}", command[0])));
        let programs = ["command of \"a\": no x", "ready.exec of \"a\": no y", "config.check of \"a\": no z"];
        assert_eq!(warnings[..3], programs);
        assert_eq!(warnings[3..], ["config.path of \"a\": /none/such: No such file or directory (os error 2)"]);
    }
}
