//! Turns the parser's result into a checked table, or returns the first error.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::error::{TableError, line_of};
use super::listen::{self, RawListen};
use super::order;
use super::process;
use super::sandbox::{self, RawSandbox};
use super::signal::Signal;
use super::{
    Action, Config, Daemon, MAX_DAEMONS, MAX_DURATION, MAX_NAME, Output, Process, Ready, RestartPolicy, SignalRule,
    Table,
};

const DEFAULT_GRACE: Duration = Duration::from_secs(8);
const DEFAULT_SETTLE: Duration = Duration::from_millis(300);
/// The longest argument that the kernel executes a program with, in bytes (`MAX_ARG_STRLEN` less its NUL).
pub(super) const MAX_ARGUMENT: usize = (128 << 10) - 1;
/// The most that a command's arguments may take together, their pointers included: half of what the kernel has for them
/// and the environment if the stack's limit is the usual 8 MiB.
pub(super) const MAX_ARGUMENTS: usize = 1 << 20;
/// The longest path that the kernel takes, in bytes (`PATH_MAX` less its NUL).
pub(super) const MAX_PATH: usize = 4095;
/// The longest name of a file that leaves room for `.sidecar-other.` before it.
const MAX_FILE_NAME: usize = 255 - ".sidecar-other.".len();

/// An error and the byte range that it is about; the line number comes later.
pub(super) type At<T> = Result<T, (Range<usize>, String)>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTable {
    grace: Option<Spanned<String>>,
    restart: Option<Spanned<String>>,
    output: Option<Spanned<String>>,
    #[serde(default)]
    require_sandbox: bool,
    #[serde(default)]
    daemon: Vec<RawDaemon>,
    #[serde(default)]
    signals: BTreeMap<Spanned<String>, Spanned<RawAction>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDaemon {
    name: Spanned<String>,
    command: Spanned<Vec<String>>,
    grace: Option<Spanned<String>>,
    #[serde(default)]
    ignore: Vec<Spanned<String>>,
    config: Option<Spanned<RawConfig>>,
    ready: Option<Spanned<RawReady>>,
    settle: Option<Spanned<String>>,
    restart: Option<Spanned<String>>,
    #[serde(default)]
    depends_on: Vec<Spanned<String>>,
    #[serde(default)]
    oneshot: bool,
    #[serde(default)]
    essential: bool,
    stop_signal: Option<Spanned<String>>,
    user: Option<Spanned<String>>,
    #[serde(default)]
    environment: BTreeMap<Spanned<String>, Spanned<String>>,
    env_file: Option<Spanned<String>>,
    pass_environment: Option<Vec<Spanned<String>>>,
    working_dir: Option<Spanned<String>>,
    #[serde(default)]
    ulimits: BTreeMap<Spanned<String>, Spanned<i64>>,
    #[serde(default)]
    listen: Vec<RawListen>,
    sandbox: Option<RawSandbox>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    path: String,
    check: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawReady {
    tcp: Option<String>,
    http: Option<String>,
    exec: Option<Vec<String>>,
    notify: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAction {
    forward: Option<String>,
    restart: Option<String>,
    when: Option<String>,
}

/// Reads and checks a whole table.
pub(super) fn table(text: &str, source: &str) -> Result<Table, TableError> {
    let at = |(span, message): (Range<usize>, String)| {
        TableError::new(source, Some(line_of(text.as_bytes(), span.start)), &message)
    };
    // The parser would only name the key before it, and editors don't show a NUL.
    if let Some(nul) = text.find('\0') {
        return Err(at((nul..nul, "a NUL byte; a daemon table is text".to_owned())));
    }
    let raw: RawTable = toml::from_str(text).map_err(|e| TableError::from_toml(&e, text, source))?;
    if raw.daemon.is_empty() {
        return Err(TableError::new(source, None, "no daemons; add a [[daemon]] with name and command"));
    }
    checked(raw).map_err(at)
}

fn checked(raw: RawTable) -> At<Table> {
    let grace = raw.grace.map_or(Ok(DEFAULT_GRACE), |g| duration("grace", &g))?;
    let restart = raw.restart.as_ref().map_or(Ok(RestartPolicy::default()), check_policy)?;
    let output = raw.output.as_ref().map_or(Ok(Output::default()), check_output)?;
    if let Some(one_more) = raw.daemon.get(MAX_DAEMONS) {
        let message = format!("{} daemons are too many; a table holds at most {MAX_DAEMONS}", raw.daemon.len());
        return Err((one_more.name.span(), message));
    }
    let mut daemons: Vec<Daemon> = Vec::with_capacity(raw.daemon.len());
    let mut names = HashSet::new();
    let mut files: HashMap<PathBuf, String> = HashMap::new();
    let spans: Vec<Range<usize>> = raw.daemon.iter().map(|daemon| daemon.name.span()).collect();
    let mut dependencies = Vec::with_capacity(raw.daemon.len());
    let mut listens = Vec::with_capacity(raw.daemon.len());
    for mut raw_daemon in raw.daemon {
        let span = raw_daemon.name.span();
        dependencies.push(std::mem::take(&mut raw_daemon.depends_on));
        listens.push(std::mem::take(&mut raw_daemon.listen));
        let daemon = check_daemon(raw_daemon, grace, restart)?;
        if !names.insert(daemon.name.clone()) {
            return Err((span, format!("a second daemon named {:?}; give each its own name", daemon.name)));
        }
        if let Some(config) = &daemon.config
            && let Some(other) = files.insert(config.path.clone(), daemon.name.clone())
        {
            return Err((span, format!("config.path is also that of {other:?}; give each daemon its own file")));
        }
        daemons.push(daemon);
    }
    order::resolve(&mut daemons, &dependencies)?;
    listen::resolve(&mut daemons, &listens)?;
    sandbox::check_all(&daemons)
        .map_err(|(index, message)| (spans.get(index).cloned().unwrap_or_default(), message))?;
    let mut wiring = Vec::new();
    for (name, action) in raw.signals {
        wiring.push(check_rule(&name, action, &daemons)?);
    }
    wiring.sort_by_key(|rule| rule.signal);
    Ok(Table { daemons, wiring, output, require_sandbox: raw.require_sandbox, file: None })
}

/// Reads `[0-9]+(ms|s|m)`, up to [`MAX_DURATION`].
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let millis = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        _ => None,
    }?;
    Some(Duration::from_millis(millis)).filter(|duration| *duration <= MAX_DURATION)
}

fn duration(key: &str, text: &Spanned<String>) -> At<Duration> {
    let spelled = text.get_ref();
    parse_duration(spelled).ok_or_else(|| {
        let unit = spelled.trim_start_matches(|c: char| c.is_ascii_digit());
        let message = if unit.len() < spelled.len() && matches!(unit, "ms" | "s" | "m") {
            format!("{key} = {spelled:?} is out of range; the longest is a week, \"10080m\"")
        } else {
            format!("{key} = {spelled:?} is not a duration; write a whole number and ms, s or m, as in \"8s\"")
        };
        (text.span(), message)
    })
}

fn check_output(text: &Spanned<String>) -> At<Output> {
    match text.get_ref().as_str() {
        "prefix" => Ok(Output::Prefix),
        "json" => Ok(Output::Json),
        other => {
            Err((text.span(), format!("output = {other:?} is unknown; write \"prefix\" (the default) or \"json\"")))
        }
    }
}

fn check_command(key: &str, command: &[String], span: &Range<usize>) -> At<()> {
    let wrong = |message: String| Err((span.clone(), message));
    match command.first() {
        None => wrong(format!("{key} is empty; name a program, as in [\"/usr/bin/thing\", \"--flag\"]")),
        Some(program) if program.is_empty() => wrong(format!("{key} has an empty program name; name a program")),
        Some(_) if command.iter().any(|arg| arg.contains('\0')) => {
            wrong(format!("{key} has a NUL byte, which no argument can hold; take it out"))
        }
        Some(_) if command.iter().any(|arg| arg.len() > MAX_ARGUMENT) => wrong(format!(
            "{key} has an argument that is too long; the kernel takes at most {MAX_ARGUMENT} bytes: put it into a file"
        )),
        Some(_) if command.iter().map(|arg| arg.len() + 9).sum::<usize>() > MAX_ARGUMENTS => {
            wrong(format!("{key} has more arguments than the kernel takes; put them into a file"))
        }
        Some(_) => Ok(()),
    }
}

/// Reads `restart`.
fn check_policy(text: &Spanned<String>) -> At<RestartPolicy> {
    let spelled = text.get_ref().as_str();
    let fix = match spelled {
        "no" => return Ok(RestartPolicy::No),
        "on-failure" => return Ok(RestartPolicy::OnFailure),
        "always" => return Ok(RestartPolicy::Always),
        "unless-stopped" => "write \"always\": a daemon that was stopped on request stays stopped",
        _ if spelled.starts_with("on-failure:") => {
            "write \"on-failure\": it never gives up, and waits up to a minute between two tries"
        }
        _ => "write \"no\", \"on-failure\" or \"always\"",
    };
    Err((text.span(), format!("restart = {spelled:?} is unknown; {fix}")))
}

/// What follows when a daemon ends by itself; `default` is the table's.
fn policy_of(raw: &RawDaemon, default: RestartPolicy) -> At<RestartPolicy> {
    let Some(stated) = &raw.restart else {
        let runs_on = raw.oneshot && default == RestartPolicy::Always;
        return Ok(if runs_on { RestartPolicy::OnFailure } else { default });
    };
    match check_policy(stated)? {
        RestartPolicy::Always if raw.oneshot => {
            let message = "a oneshot runs once to its end, so restart = \"always\" makes no sense; \
                           write \"on-failure\", which runs it again until it exits 0";
            Err((stated.span(), message.to_owned()))
        }
        policy => Ok(policy),
    }
}

/// Reads `stop_signal`, with or without SIG.
fn check_stop_signal(text: &Spanned<String>) -> At<Signal> {
    let spelled = text.get_ref();
    let find = |name: &str| Signal::from_name(name.strip_prefix("SIG").unwrap_or(name));
    let fix = match find(spelled) {
        Some(signal) if signal.can_stop() => return Ok(signal),
        Some(signal) => format!("{signal} can't ask a process to stop; write another, like \"TERM\""),
        None => match find(&spelled.to_ascii_uppercase()).or_else(|| Signal::from_number(spelled.parse().ok()?)) {
            Some(meant) if meant.can_stop() => format!("write it by its name, {:?}", meant.to_string()),
            _ => "no signal has that name; write one like \"TERM\", \"QUIT\" or \"RTMIN+3\"".to_owned(),
        },
    };
    Err((text.span(), format!("stop_signal = {spelled:?}: {fix}")))
}

/// What only a daemon that runs on can have.
fn check_oneshot(raw: &RawDaemon) -> At<()> {
    let wrong = |span: Range<usize>, message: &str| Err((span, message.to_owned()));
    if let Some(ready) = &raw.ready {
        let message =
            "a oneshot has no `ready`: it is ready once it has exited 0; remove either `ready` or oneshot = true";
        return wrong(ready.span(), message);
    }
    if let Some(config) = &raw.config {
        let message = "a oneshot has no `config`: apply proves a new file with a daemon that runs on; \
                       remove either `config` or oneshot = true";
        return wrong(config.span(), message);
    }
    Ok(())
}

fn check_daemon(raw: RawDaemon, table_grace: Duration, table_restart: RestartPolicy) -> At<Daemon> {
    let name = raw.name.get_ref();
    let mut bytes = name.bytes();
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !bytes.next().is_some_and(word) || !bytes.all(|b| word(b) || b == b'-') {
        let message = format!("{name:?} is not a valid daemon name; use a-z, 0-9 and -, and don't start with -");
        return Err((raw.name.span(), message));
    }
    if name.len() > MAX_NAME {
        let message = format!("name is too long ({} bytes); use at most {MAX_NAME}", name.len());
        return Err((raw.name.span(), message));
    }
    check_command("command", raw.command.get_ref(), &raw.command.span())?;
    let mut ignore = Vec::new();
    for signal in &raw.ignore {
        let Some(known) = Signal::from_name(signal.get_ref()).filter(|known| known.is_ignorable()) else {
            let message = format!(
                "{:?} is not a signal that can be ignored; write it as in \"HUP\" or \"RTMIN+1\"",
                signal.get_ref()
            );
            return Err((signal.span(), message));
        };
        ignore.push(known);
    }
    if raw.oneshot {
        check_oneshot(&raw)?;
    }
    let restart = policy_of(&raw, table_restart)?;
    let stop_signal = raw.stop_signal.as_ref().map_or(Ok(Signal::TERM), check_stop_signal)?;
    let config = raw.config.map(check_config).transpose()?;
    let process = Process {
        user: raw.user.as_ref().map(process::user).transpose()?,
        environment: process::environment(raw.environment)?,
        env_file: raw.env_file.as_ref().map(process::env_file).transpose()?,
        pass_environment: raw.pass_environment.map(process::pass_environment).transpose()?,
        working_dir: raw.working_dir.as_ref().map(process::working_dir).transpose()?,
        ulimits: process::ulimits(raw.ulimits)?,
    };
    let (sandbox, private) = sandbox::check(raw.sandbox)?;
    let ready = raw.ready.map(check_ready).transpose()?;
    let grace = raw.grace.as_ref().map_or(Ok(table_grace), |g| duration("grace", g))?;
    let settle = raw.settle.as_ref().map_or(Ok(DEFAULT_SETTLE), |s| duration("settle", s))?;
    Ok(Daemon {
        name: raw.name.into_inner(),
        command: raw.command.into_inner(),
        grace,
        ignore,
        config,
        ready,
        settle,
        restart,
        depends_on: Vec::new(),
        is_oneshot: raw.oneshot,
        is_essential: raw.essential,
        stop_signal,
        process,
        listen: Vec::new(),
        sandbox,
        private,
    })
}

fn check_config(raw: Spanned<RawConfig>) -> At<Config> {
    let span = raw.span();
    let RawConfig { path, check } = raw.into_inner();
    check_path(&path).map_err(|message| (span.clone(), message))?;
    if let Some(check) = &check {
        check_command("config.check", check, &span)?;
        if !check.iter().any(|arg| arg.contains("{}")) {
            let message = "config.check has no {}; put it where the file's name goes".to_owned();
            return Err((span, message));
        }
    }
    Ok(Config { path: PathBuf::from(path), check })
}

fn check_path(path: &str) -> Result<(), String> {
    let file = path.rsplit('/').next().unwrap_or_default();
    if !path.starts_with('/') || matches!(file, "" | "." | "..") || path.contains('\0') {
        return Err(format!("config.path = {path:?} names no file; write its absolute path"));
    }
    if path.split('/').any(|part| part == "..") {
        // Otherwise two spellings of one path would count as two files.
        return Err(format!("config.path = {path:?} contains `..`; write the path without it"));
    }
    if path.len() > MAX_PATH || file.len() > MAX_FILE_NAME {
        return Err(format!(
            "config.path is too long; use at most {MAX_PATH} bytes, and {MAX_FILE_NAME} for the file's name"
        ));
    }
    let is_record = file.starts_with('.') && file.ends_with(".sidecar");
    if is_record || file.starts_with(".sidecar-") {
        return Err(format!("config.path = {path:?} has a name that sidecar reserves for its own files; use another"));
    }
    Ok(())
}

fn check_ready(raw: Spanned<RawReady>) -> At<Ready> {
    let span = raw.span();
    let ready = match raw.into_inner() {
        RawReady { tcp: Some(addr), http: None, exec: None, notify: None } => {
            addr.parse().map(Ready::Tcp).map_err(|_| {
                (
                    span.clone(),
                    format!("ready.tcp = {addr:?} is not an address; write IP:PORT, as in \"127.0.0.1:8888\""),
                )
            })
        }
        RawReady { tcp: None, http: Some(url), exec: None, notify: None } => parse_http(&url).ok_or_else(|| {
            (
                span.clone(),
                format!("ready.http = {url:?} can't be probed; write http://IP:PORT/PATH with an IP literal"),
            )
        }),
        RawReady { tcp: None, http: None, exec: Some(command), notify: None } => {
            check_command("ready.exec", &command, &span)?;
            Ok(Ready::Exec(command))
        }
        RawReady { tcp: None, http: None, exec: None, notify: Some(true) } => Ok(Ready::Notify),
        RawReady { .. } => {
            Err((span.clone(), "ready takes exactly one of tcp, http, exec and notify = true".to_owned()))
        }
    }?;
    match &ready {
        Ready::Tcp(addr) | Ready::Http { addr, .. } if addr.port() == 0 => {
            Err((span, format!("ready has port 0 in {addr}, where nothing listens; write the daemon's port")))
        }
        _ => Ok(ready),
    }
}

fn parse_http(url: &str) -> Option<Ready> {
    let rest = url.strip_prefix("http://")?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    let addr = authority.parse::<SocketAddr>().ok().or_else(|| {
        let ip = authority.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(authority);
        ip.parse().ok().map(|ip| SocketAddr::new(ip, 80))
    })?;
    path.bytes().all(|b| b.is_ascii_graphic()).then(|| Ready::Http { addr, path: path.to_owned() })
}

fn check_rule(name: &Spanned<String>, raw: Spanned<RawAction>, daemons: &[Daemon]) -> At<SignalRule> {
    let span = raw.span();
    let Some(signal) = Signal::from_name(name.get_ref()) else {
        let message =
            format!("{:?} is not a signal; write HUP, USR1, USR2, RTMIN+N (N from 0 to 30) or WINCH", name.get_ref());
        return Err((name.span(), message));
    };
    if !signal.is_wireable() {
        return Err((name.span(), format!("{signal} can't have a rule; use HUP, USR1, USR2, RTMIN+N or WINCH")));
    }
    let raw = raw.into_inner();
    let always = match raw.when.as_deref() {
        None => false,
        Some("always") if raw.forward.is_some() => true,
        Some(other) => {
            return Err((
                span,
                format!(
                    "when = {other:?} is not allowed here; the only value is \"always\", and only a forward takes it"
                ),
            ));
        }
    };
    let (action, target) = match (raw.forward, raw.restart) {
        (Some(target), None) => (Action::Forward { always }, target),
        (None, Some(target)) => (Action::Restart, target),
        (None, None) => {
            return Err((span, format!("{signal} has no action; give it forward = NAME or restart = NAME")));
        }
        (Some(_), Some(_)) => return Err((span, format!("{signal} has two actions; keep one of forward and restart"))),
    };
    let Some(daemon) = daemons.iter().position(|d| d.name == target) else {
        return Err((
            span,
            format!("{signal} names {target:?}, which is not a daemon in this table; name one that is"),
        ));
    };
    if daemons.get(daemon).is_some_and(|daemon| daemon.is_oneshot) {
        let message =
            format!("{signal} names {target:?}, which is a oneshot; remove either the rule or oneshot = true there");
        return Err((span, message));
    }
    Ok(SignalRule { signal, action, daemon })
}
