//! What people who know another tool or another version may write, and what to write instead.

use super::signal::Signal;

const DEPENDS_ON: &str =
    r#"write an array of names, like ["db"]: each must be ready first (a oneshot: must have exited 0)"#;
const RESTART: &str = r#"write "no", "on-failure" or "always""#;

const ENVIRONMENT: &str = r#"write { KEY = "value" }: each value is a string in quotes, and a number is one too"#;
const ULIMITS: &str = "write { nofile = 1024, core = 0 }: one number for the soft and the hard limit; -1 is unlimited";
const LISTEN: &str = r#"write [{ tcp = "0.0.0.0:9100" }]"#;

/// Keys of Docker Compose, supervisord, s6-rc and systemd.
const KEYS: &[(&[&str], &str)] = &[
    (&["stop_grace_period", "stopwaitsecs", "timeout-kill", "TimeoutStopSec"], "write grace"),
    (&["healthcheck"], "write ready"),
    (&["test"], "write exec, without \"CMD\""),
    (
        &["interval", "timeout", "retries", "start_period", "start_interval"],
        "remove it: a daemon is probed until it is ready, and only while something waits for that",
    ),
    (&["entrypoint", "cmd", "run", "up", "ExecStart"], "write command: the program and its arguments"),
    (&["container_name", "process_name"], "write name"),
    (&["services", "program", "programs"], "write a [[daemon]] with name and command for each"),
    (
        &["supervisord", "supervisorctl", "unix_http_server", "inet_http_server", "rpcinterface", "serverurl"],
        "remove it: commands come through docker exec, like docker exec NAME /proc/1/exe status",
    ),
    (&["nodaemon"], "remove it: init is the container's first process"),
    (&["image", "build"], "a daemon is a program of this container's image: write command"),
    (
        &[
            "ports",
            "expose",
            "networks",
            "network_mode",
            "links",
            "volumes",
            "tmpfs",
            "devices",
            "secrets",
            "configs",
            "labels",
            "logging",
            "hostname",
            "dns",
            "extra_hosts",
            "cap_add",
            "cap_drop",
            "device_cgroup_rules",
            "dns_search",
            "ipc",
            "pid",
            "pids_limit",
            "oom_score_adj",
            "platform",
            "pull_policy",
            "runtime",
            "shm_size",
            "sysctls",
            "userns_mode",
            "uts",
            "volumes_from",
            "security_opt",
            "privileged",
            "read_only",
            "deploy",
            "mem_limit",
            "cpus",
            "init",
            "tty",
            "stdin_open",
        ],
        "that is set for the whole container, where you start it (compose.yaml, docker run)",
    ),
    (
        &["profiles", "autostart"],
        "all daemons start, or those that CLAUDE_BOTTLE_SIDECAR_DAEMONS names in the container's environment",
    ),
    (&["autorestart", "restart_policy"], r#"write restart = "no", "on-failure" or "always""#),
    (&["startretries"], "remove it: restart never gives up"),
    (&["exitcodes"], r#"remove it: with restart = "on-failure" any exit code but 0 is a failure"#),
    (&["startsecs"], "write settle"),
    (&["priority"], r#"daemons start in the table's order; if one must wait for another, write depends_on = ["NAME"]"#),
    (&["dependencies", "After", "Requires", "Wants"], "write depends_on"),
    (&["down-signal", "KillSignal"], "write stop_signal"),
    (
        &["stopasgroup", "killasgroup"],
        "remove it: the processes that a daemon leaves behind are asked to stop too, and then killed",
    ),
    (
        &[
            "stdout_logfile",
            "stderr_logfile",
            "redirect_stderr",
            "stdout_logfile_maxbytes",
            "stderr_logfile_maxbytes",
            "stdout_logfile_backups",
            "stderr_logfile_backups",
            "stdout_syslog",
            "stderr_syslog",
            "stdout_events_enabled",
            "stderr_events_enabled",
            "logfile",
            "loglevel",
        ],
        "remove it: what a daemon prints goes to the container's log",
    ),
    (&["numprocs"], "write a [[daemon]] for each process"),
    (&["type"], "write oneshot = true for one that runs once to its end; others need nothing"),
    (&["notification-fd"], "write ready = { notify = true } for a daemon that speaks sd_notify, or a probe"),
    (&["directory", "chdir", "cwd", "WorkingDirectory"], "write working_dir"),
    (&["envfile", "EnvironmentFile", "dotenv"], "write env_file"),
    (&["env", "envs"], r#"write environment = { KEY = "value" }"#),
    (&["group", "Group", "gid"], r#"write it in user, like user = "NAME:GROUP""#),
    (&["uid"], r#"write user, like user = "1000""#),
    (
        &["group_add", "SupplementaryGroups"],
        "remove it: with user = \"NAME\" a daemon is in all the groups that /etc/group has that user in",
    ),
    (&["umask"], r#"set it in the command: ["sh", "-c", "umask 027; exec PROGRAM"]"#),
    (&["ReadWritePaths"], "write it below [daemon.sandbox], as write"),
    (
        &[
            "minfds",
            "minprocs",
            "LimitNOFILE",
            "LimitCORE",
            "LimitNPROC",
            "LimitMEMLOCK",
            "LimitSTACK",
            "LimitAS",
            "rlimits",
            "nofile",
        ],
        "write ulimits = { nofile = 1024 }",
    ),
    (&["sockets", "socket", "ListenStream"], r#"write listen = [{ tcp = "0.0.0.0:9100" }]"#),
];

/// The keys of a `[[daemon]]`.
pub const DAEMON_KEYS: [&str; 20] = [
    "name",
    "command",
    "grace",
    "ignore",
    "config",
    "ready",
    "settle",
    "restart",
    "depends_on",
    "oneshot",
    "essential",
    "stop_signal",
    "user",
    "environment",
    "env_file",
    "pass_environment",
    "working_dir",
    "ulimits",
    "listen",
    "sandbox",
];
const TABLE_KEYS: [&str; 2] = ["output", "require_sandbox"];
const SANDBOX_KEYS: [&str; 6] = ["write", "private", "bind", "connect", "udp", "sessions"];

/// Where a known key belongs that stands in the wrong place. (All lines below a header belong to that header.)
fn place_of(key: &str, expected: &str) -> Option<&'static str> {
    let expects = |known: &str| expected.contains(&format!("`{known}`"));
    let (is_table, is_daemon, is_sandbox) = (expects("require_sandbox"), expects("command"), expects("sessions"));
    if TABLE_KEYS.contains(&key) && (is_daemon || is_sandbox) {
        Some("it is for all daemons: write it above the first [[daemon]]")
    } else if DAEMON_KEYS.contains(&key) && is_table {
        Some("write it below the [[daemon]] that it is for")
    } else if DAEMON_KEYS.contains(&key) && is_sandbox {
        Some("it belongs to the daemon: write it above [daemon.sandbox]")
    } else if SANDBOX_KEYS.contains(&key) && is_daemon {
        Some("write it below [daemon.sandbox]")
    } else {
        None
    }
}

/// What to write instead of an unknown key. `expected` is the parser's list of the keys that are known there.
pub(super) fn instead_of(key: &str, expected: &str) -> Option<String> {
    let letters = |word: &str| word.replace(['-', '_'], "").to_ascii_lowercase();
    // Every second piece was in backticks.
    let known = expected.split('`').skip(1).step_by(2).find(|known| letters(known) == letters(key));
    let place = || place_of(key, expected).map(str::to_owned);
    let elsewhere = || KEYS.iter().find(|(keys, _)| keys.contains(&key)).map(|(_, fix)| (*fix).to_owned());
    known.map(|known| format!("write {known}")).or_else(place).or_else(elsewhere)
}

/// What the key of this line takes; `section` is the header above the line.
pub(super) fn fix_of(line: &str, section: &str) -> Option<&'static str> {
    let key = line.split('=').next().unwrap_or_default().trim();
    let is_in = |table: &str| {
        let header = |line: &str| line.trim_start_matches('[').starts_with(&format!("daemon.{table}"));
        key == table || key.starts_with(&format!("{table}.")) || header(line) || header(section)
    };
    Some(match key {
        _ if is_in("environment") => ENVIRONMENT,
        _ if is_in("ulimits") => ULIMITS,
        "restart" | "forward" if section.starts_with("[signals") => r#"write a daemon's name, like "proxy""#,
        "name" => r#"write a string, like "proxy""#,
        "command" | "check" | "exec" => r#"write an array of strings, like ["/bin/a", "--x"]: there is no shell"#,
        "ignore" => r#"write an array of strings, like ["HUP"]"#,
        "grace" | "settle" => r#"write a duration in quotes, like "8s""#,
        "output" => r#"write "prefix" or "json""#,
        "restart" => RESTART,
        "depends_on" => DEPENDS_ON,
        "oneshot" | "essential" | "udp" | "sessions" | "require_sandbox" => "write true or false, without quotes",
        "stop_signal" => r#"write a signal's name in quotes, like "TERM""#,
        "ready" => {
            r#"write { tcp = "127.0.0.1:80" }, { http = "http://127.0.0.1/" }, { exec = ["a"] } or { notify = true }"#
        }
        "config" => r#"write { path = "/etc/a", check = ["a", "{}"] }"#,
        "signals" | "[[signals]]" => r#"write [signals] and below it lines like USR1 = { restart = "NAME" }"#,
        "write" | "private" => r#"write an array of absolute paths, like ["/var/lib/a"]"#,
        "user" => r#"write it in quotes, like "app", "1000", "app:group" or "1000:1000""#,
        "env_file" => r#"write one absolute path in quotes, like "/etc/app.env""#,
        "pass_environment" => r#"write an array of names, like ["TZ", "LC_*"]"#,
        "working_dir" => r#"write an absolute path in quotes, like "/srv/app""#,
        "listen" | "tcp" | "[[daemon.listen]]" | "[daemon.listen]" => LISTEN,
        "bind" | "connect" => "write an array of TCP ports, like [8888]",
        "[[daemon.sandbox]]" | "sandbox" => "write [daemon.sandbox] below its [[daemon]]",
        "daemon" => "write [[daemon]]",
        _ if key.starts_with("depends_on.") || key.starts_with("[daemon.depends_on") => DEPENDS_ON,
        _ if key.starts_with("[daemon") => "write [[daemon]]",
        _ if key.starts_with("[program:") => "write [[daemon]], and below it name and command",
        _ if key.starts_with("RTMIN+") => r#"a name with a plus needs quotes, like "RTMIN+1""#,
        _ if Signal::from_name(key.trim_matches('"')).is_some() => {
            r#"write { restart = "NAME" } or { forward = "NAME" }"#
        }
        _ => return None,
    })
}
