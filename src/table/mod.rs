//! The daemon table: TOML in, a checked [`Table`] or an error with file, line and mend out.
//!
//! The built-in table is that same TOML, embedded: one format, one parser.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml::Spanned;

/// The table that is used where no file replaces it.
pub const BUILT_IN: &str = include_str!("../../bundle/daemons.toml");
/// The name under which [`BUILT_IN`] appears in errors and in `check`.
pub const BUILT_IN_NAME: &str = "built-in table";
/// Replaces the built-in table whole where it exists.
pub const DEFAULT_PATH: &str = "/etc/sidecar/daemons.toml";
/// The largest file that is read as a table, in bytes.
pub const MAX_BYTES: u64 = 1 << 20;

const DEFAULT_GRACE: Duration = Duration::from_secs(8);
const DEFAULT_SETTLE: Duration = Duration::from_millis(300);

/// A signal that the table may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// One with a number that POSIX or Linux fixes, by its index in [`FIXED`].
    Fixed(u8),
    /// `RTMIN+N`; the number of RTMIN is libc's to tell.
    RealTime(u8),
}

/// Name, number on Linux (the same on `x86_64` and aarch64: signal(7)), and whether `[signals]` may wire it.
const FIXED: [(&str, i32, bool); 15] = [
    ("HUP", 1, true),
    ("INT", 2, false),
    ("QUIT", 3, false),
    ("USR1", 10, true),
    ("USR2", 12, true),
    ("PIPE", 13, false),
    ("ALRM", 14, false),
    ("TERM", 15, false),
    ("CHLD", 17, false),
    ("TSTP", 20, false),
    ("TTIN", 21, false),
    ("TTOU", 22, false),
    ("URG", 23, false),
    ("WINCH", 28, true),
    ("IO", 29, false),
];
/// glibc's first real-time signal; it keeps 32 and 33 for itself. Docker's CLI counts from the same number.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

impl Signal {
    /// SIGHUP.
    pub const HUP: Self = Self::Fixed(0);
    /// SIGUSR1.
    pub const USR1: Self = Self::Fixed(3);
    /// SIGUSR2.
    pub const USR2: Self = Self::Fixed(4);

    /// Reads a name as the table spells it: `USR1`, `RTMIN+3`; no `SIG` before it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        if let Some(index) = FIXED.iter().position(|(n, _, _)| *n == name) {
            return u8::try_from(index).ok().map(Self::Fixed);
        }
        let digits = name.strip_prefix("RTMIN+")?;
        let n: u8 = digits.parse().ok()?;
        // Spelled in one way only: `RTMIN+01` beside `RTMIN+1` would wire one signal twice.
        (n.to_string() == digits && i32::from(n) <= RTMAX - RTMIN).then_some(Self::RealTime(n))
    }

    /// The signal with this number, if the table could name it.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        if (RTMIN..=RTMAX).contains(&number) {
            return u8::try_from(number - RTMIN).ok().map(Self::RealTime);
        }
        let index = FIXED.iter().position(|(_, n, _)| *n == number)?;
        u8::try_from(index).ok().map(Self::Fixed)
    }

    /// Its number on Linux.
    #[must_use]
    pub fn number(self) -> i32 {
        match self {
            Self::Fixed(index) => FIXED.get(usize::from(index)).map_or(0, |(_, number, _)| *number),
            Self::RealTime(n) => RTMIN + i32::from(n),
        }
    }

    /// Whether `[signals]` may wire it: a signal that means something else to an init stays with that.
    #[must_use]
    pub fn is_wireable(self) -> bool {
        match self {
            Self::Fixed(index) => FIXED.get(usize::from(index)).is_some_and(|(_, _, wireable)| *wireable),
            Self::RealTime(_) => true,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(index) => f.write_str(FIXED.get(usize::from(*index)).map_or("?", |(name, _, _)| name)),
            Self::RealTime(n) => write!(f, "RTMIN+{n}"),
        }
    }
}

/// What a wired signal does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Stop that daemon and start its replacement in the same slot.
    Restart,
    /// Send the signal on to that daemon's process.
    Forward {
        /// Send at once, without a look at whether the daemon catches it (`when = "always"`).
        always: bool,
    },
}

/// One line of `[signals]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wire {
    /// The signal that init receives.
    pub signal: Signal,
    /// What init does then.
    pub action: Action,
    /// The daemon it is done to, as an index into [`Table::daemons`].
    pub daemon: usize,
}

/// How it is told that a daemon is ready to serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ready {
    /// A TCP connection is accepted.
    Tcp(SocketAddr),
    /// `GET` answers 200 to 399.
    Http {
        /// Where the server listens.
        addr: SocketAddr,
        /// What follows the authority in the URL, at least `/`.
        path: String,
    },
    /// The command exits 0.
    Exec(Vec<String>),
    /// The daemon says so itself, by `sd_notify`(3).
    Notify,
}

/// The file that a daemon reads its rules from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Where it lies in the bundle; absolute.
    pub path: PathBuf,
    /// The daemon's own checker, `{}` standing for the file; `None`: unchecked.
    pub check: Option<Vec<String>>,
}

/// How init writes what daemons print, and its own log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// Text, each line behind `[NAME] `.
    #[default]
    Prefix,
    /// One JSON object a line.
    Json,
}

/// One daemon of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// `[a-z0-9][a-z0-9-]*`, unique in the table.
    pub name: String,
    /// Program and arguments for `execve`; no shell. A program without a slash is looked up in PATH.
    pub command: Vec<String>,
    /// From SIGTERM to SIGKILL.
    pub grace: Duration,
    /// Signals that it is started with ignored.
    pub ignore: Vec<Signal>,
    /// Its rules.
    pub config: Option<Config>,
    /// How its readiness is told; `None`: it is ready while its process lives.
    pub ready: Option<Ready>,
    /// How long it must stay ready before a change counts as live.
    pub settle: Duration,
}

/// A checked daemon table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// In start order; never empty.
    pub daemons: Vec<Daemon>,
    /// At most one a signal, ordered by signal.
    pub wiring: Vec<Wire>,
    /// How lines are written.
    pub output: Output,
}

/// Why a text is no table.
#[derive(Debug, PartialEq, Eq)]
pub struct TableError {
    /// The file's name, or [`BUILT_IN_NAME`].
    pub source: String,
    /// Counted from 1; `None` where the error is in no one line.
    pub line: Option<usize>,
    /// What is wrong and how to mend it.
    pub message: String,
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.source, self.message),
            None => write!(f, "{}: {}", self.source, self.message),
        }
    }
}

impl std::error::Error for TableError {}

impl Table {
    /// The index of the daemon of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<usize> {
        self.daemons.iter().position(|d| d.name == name)
    }

    /// Reads and checks a table; `source` is the name that errors show.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line and how to mend it.
    pub fn parse(text: &str, source: &str) -> Result<Self, TableError> {
        let at = |span: std::ops::Range<usize>, message: String| TableError {
            source: source.to_owned(),
            line: Some(line_of(text, span.start)),
            message,
        };
        let raw: RawTable = toml::from_str(text).map_err(|e| {
            let line = e.span().map(|span| line_of(text, span.start));
            TableError { source: source.to_owned(), line, message: with_mend(e.message(), text, line) }
        })?;
        let grace = raw.grace.map_or(Ok(DEFAULT_GRACE), |g| duration("grace", &g)).map_err(|(s, m)| at(s, m))?;
        let output = raw.output.as_ref().map_or(Ok(Output::default()), check_output).map_err(|(s, m)| at(s, m))?;
        let mut daemons: Vec<Daemon> = Vec::new();
        for raw_daemon in raw.daemon {
            let name = raw_daemon.name.clone();
            let daemon = check_daemon(raw_daemon, grace).map_err(|(s, m)| at(s, m))?;
            if daemons.iter().any(|d| d.name == daemon.name) {
                let message = format!("a second daemon named {:?}; give each its own name", daemon.name);
                return Err(at(name.span(), message));
            }
            let file = daemon.config.as_ref().map(|config| &config.path);
            if let Some(other) = daemons.iter().find(|d| file.is_some() && d.config.as_ref().map(|c| &c.path) == file) {
                let message =
                    format!("config.path is that of {:?} too; give each daemon a file of its own", other.name);
                return Err(at(name.span(), message));
            }
            daemons.push(daemon);
        }
        if daemons.is_empty() {
            let message = "no daemons; add a [[daemon]] with name and command".to_owned();
            return Err(TableError { source: source.to_owned(), line: None, message });
        }
        let mut wiring = Vec::new();
        for (name, action) in raw.signals {
            wiring.push(check_wire(&name, action, &daemons).map_err(|(s, m)| at(s, m))?);
        }
        wiring.sort_by_key(|w| w.signal);
        Ok(Self { daemons, wiring, output })
    }

    /// The table that `init` and `check` use: `named` where one was named (it must exist then), else
    /// [`DEFAULT_PATH`] if it is there, else [`BUILT_IN`]. Also tells where it came from.
    ///
    /// # Errors
    /// A file that is there but can't be read or is no table: never the built-in table instead.
    pub fn load(named: Option<&Path>) -> Result<(Self, String), TableError> {
        let (path, must_exist) = named.map_or((Path::new(DEFAULT_PATH), false), |p| (p, true));
        let source = path.display().to_string();
        match read_bounded(path) {
            Ok(text) => Ok((Self::parse(&text, &source)?, source)),
            Err(e) if e.kind() == io::ErrorKind::NotFound && !must_exist => {
                Ok((Self::parse(BUILT_IN, BUILT_IN_NAME)?, BUILT_IN_NAME.to_owned()))
            }
            Err(e) => {
                let hint = match e.kind() {
                    io::ErrorKind::IsADirectory => {
                        "; docker makes a directory of a bind mount whose source is missing: create the file, then the container anew"
                    }
                    io::ErrorKind::NotFound => "; create it, or name another with --config or SIDECAR_CONFIG",
                    io::ErrorKind::PermissionDenied => "; let the user that init runs as read it",
                    _ => "",
                };
                Err(TableError { source, line: None, message: format!("cannot read the daemon table: {e}{hint}") })
            }
        }
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("it is larger than 1 MiB; a daemon table is a few lines"));
    }
    String::from_utf8(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("it is not UTF-8: {e}")))
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|b| *b == b'\n').count()
}

/// Reads `[0-9]+(ms|s|m)`.
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
    Some(Duration::from_millis(millis))
}

/// An error with the place that it is about, before the text's lines are counted.
type At<T> = Result<T, (std::ops::Range<usize>, String)>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTable {
    grace: Option<Spanned<String>>,
    output: Option<Spanned<String>>,
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

/// What the parser says of this line, with what to write instead where it only names its own types.
fn with_mend(message: &str, text: &str, line: Option<usize>) -> String {
    let line = line.and_then(|line| text.lines().nth(line - 1)).unwrap_or_default().trim();
    let key = line.split('=').next().unwrap_or_default().trim();
    let mend = match key {
        "command" | "check" | "exec" => r#"write an array of strings, as ["/bin/a", "--x"]: there is no shell"#,
        "ignore" => r#"write an array of strings, as ["HUP"]"#,
        "grace" | "settle" => r#"write a duration in quotes, as "8s""#,
        "output" => r#"write "prefix" or "json""#,
        "ready" => {
            r#"write { tcp = "127.0.0.1:80" }, { http = "http://127.0.0.1/" }, { exec = ["a"] } or { notify = true }"#
        }
        "config" => r#"write { path = "/etc/a", check = ["a", "{}"] }"#,
        "[daemon]" => "write [[daemon]]",
        _ if key.starts_with("RTMIN+") => r#"a name with a plus needs quotes, as "RTMIN+1""#,
        _ if Signal::from_name(key.trim_matches('"')).is_some() => {
            r#"write { restart = "NAME" } or { forward = "NAME" }"#
        }
        _ => return message.to_owned(),
    };
    match message.split_once(", expected") {
        Some((found, _)) => format!("{found}; {mend}"),
        None if message.starts_with("unknown field") || message.starts_with("missing field") => message.to_owned(),
        None => format!("{message}; {mend}"),
    }
}

fn duration(key: &str, text: &Spanned<String>) -> At<Duration> {
    parse_duration(text.get_ref()).ok_or_else(|| {
        let message =
            format!("{key} = {:?} is no duration; write a whole number and ms, s or m, as in \"8s\"", text.get_ref());
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

fn check_command(key: &str, command: &[String], span: &std::ops::Range<usize>) -> At<()> {
    let wrong = |message: String| Err((span.clone(), message));
    match command.first() {
        None => wrong(format!("{key} is empty; name a program, as in [\"/usr/bin/thing\", \"--flag\"]")),
        Some(program) if program.is_empty() => wrong(format!("{key} has an empty program name; name a program")),
        Some(_) if command.iter().any(|arg| arg.contains('\0')) => {
            wrong(format!("{key} has a NUL byte, which no argument can hold; take it out"))
        }
        Some(_) => Ok(()),
    }
}

fn check_daemon(raw: RawDaemon, table_grace: Duration) -> At<Daemon> {
    let name = raw.name.get_ref();
    let mut bytes = name.bytes();
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !bytes.next().is_some_and(word) || !bytes.all(|b| word(b) || b == b'-') {
        let message = format!("{name:?} is no daemon's name; use a-z, 0-9 and -, not - first");
        return Err((raw.name.span(), message));
    }
    check_command("command", raw.command.get_ref(), &raw.command.span())?;
    let mut ignore = Vec::new();
    for signal in &raw.ignore {
        let Some(known) = Signal::from_name(signal.get_ref()) else {
            let message = format!(
                "{:?} is no signal that can be ignored; write it as in \"HUP\" or \"RTMIN+1\"",
                signal.get_ref()
            );
            return Err((signal.span(), message));
        };
        ignore.push(known);
    }
    let config = raw.config.map(check_config).transpose()?;
    let ready = raw.ready.map(check_ready).transpose()?;
    let grace = raw.grace.as_ref().map_or(Ok(table_grace), |g| duration("grace", g))?;
    let settle = raw.settle.as_ref().map_or(Ok(DEFAULT_SETTLE), |s| duration("settle", s))?;
    Ok(Daemon { name: raw.name.into_inner(), command: raw.command.into_inner(), grace, ignore, config, ready, settle })
}

fn check_config(raw: Spanned<RawConfig>) -> At<Config> {
    let span = raw.span();
    let RawConfig { path, check } = raw.into_inner();
    if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
        return Err((span, format!("config.path = {path:?} names no file; write its absolute path")));
    }
    if let Some(check) = &check {
        check_command("config.check", check, &span)?;
        if !check.iter().any(|arg| arg.contains("{}")) {
            let message = "config.check has no {}; put it where the file's name goes".to_owned();
            return Err((span, message));
        }
    }
    Ok(Config { path: PathBuf::from(path), check })
}

fn check_ready(raw: Spanned<RawReady>) -> At<Ready> {
    let span = raw.span();
    match raw.into_inner() {
        RawReady { tcp: Some(addr), http: None, exec: None, notify: None } => {
            addr.parse().map(Ready::Tcp).map_err(|_| {
                (span, format!("ready.tcp = {addr:?} is no address; write IP:PORT, as in \"127.0.0.1:8888\""))
            })
        }
        RawReady { tcp: None, http: Some(url), exec: None, notify: None } => parse_http(&url).ok_or_else(|| {
            (span, format!("ready.http = {url:?} can't be probed; write http://IP:PORT/PATH with an IP literal"))
        }),
        RawReady { tcp: None, http: None, exec: Some(command), notify: None } => {
            check_command("ready.exec", &command, &span)?;
            Ok(Ready::Exec(command))
        }
        RawReady { tcp: None, http: None, exec: None, notify: Some(true) } => Ok(Ready::Notify),
        RawReady { .. } => Err((span, "ready takes exactly one of tcp, http, exec and notify = true".to_owned())),
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

fn check_wire(name: &Spanned<String>, raw: Spanned<RawAction>, daemons: &[Daemon]) -> At<Wire> {
    let span = raw.span();
    let Some(signal) = Signal::from_name(name.get_ref()) else {
        let message =
            format!("{:?} is no signal; write HUP, USR1, USR2, WINCH or RTMIN+N (N from 0 to 30)", name.get_ref());
        return Err((name.span(), message));
    };
    if !signal.is_wireable() {
        return Err((name.span(), format!("{signal} can't be wired; use HUP, USR1, USR2, WINCH or RTMIN+N")));
    }
    let raw = raw.into_inner();
    let always = match raw.when.as_deref() {
        None => false,
        Some("always") if raw.forward.is_some() => true,
        Some(other) => {
            return Err((
                span,
                format!("when = {other:?} has no meaning here; only a forward takes when = \"always\""),
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
            format!("{signal} is wired to {target:?}, which is no daemon of this table; name one that is"),
        ));
    };
    Ok(Wire { signal, action, daemon })
}
