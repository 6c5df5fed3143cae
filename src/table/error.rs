//! Why a text is not a valid table: one line with the file, the line and the fix.

use std::fmt;
use std::ops::Range;

use crate::text::one_line;

use super::signal::Signal;

/// The longest error, in characters. A text that it quotes may be much longer; then the middle is cut out, since the
/// problem is named at the beginning and the fix at the end.
const MAX_CHARS: usize = 400;
/// The parser refuses keys with this many parts, without saying where or why.
const MAX_KEY_PARTS: usize = 80;
/// How serde shows a date to those who don't expect one.
const DATE: &str = "$__toml_private_datetime";

/// Why a text is not a valid table.
#[derive(Debug, PartialEq, Eq)]
pub struct TableError {
    /// The file's name, or [`super::BUILT_IN_NAME`].
    pub source: String,
    /// Counted from 1; `None` if no one line is wrong.
    pub line: Option<usize>,
    /// What is wrong and how to fix it. Has no control characters, and a bounded length.
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

impl TableError {
    pub(super) fn new(source: &str, line: Option<usize>, message: &str) -> Self {
        Self { source: source.to_owned(), line, message: shortened(&one_line(message)) }
    }

    /// The TOML parser's message, with the line if the parser doesn't know it, and with what to write instead.
    pub(super) fn from_toml(error: &toml::de::Error, text: &str, source: &str) -> Self {
        let line = match error.span() {
            Some(span) => Some(line_of(text.as_bytes(), span.start)),
            None if error.message() == "recursion limit" => deep_key(text),
            None => None,
        };
        let value = error.span().and_then(|span: Range<usize>| text.get(span)).unwrap_or_default();
        let content = line.and_then(|line| text.lines().nth(line - 1)).unwrap_or_default().trim();
        Self::new(source, line, &with_fix(error.message(), value, content))
    }
}

/// The number of the line that holds the byte at `offset`.
pub(super) fn line_of(text: &[u8], offset: usize) -> usize {
    1 + text.iter().take(offset).filter(|b| **b == b'\n').count()
}

/// The line of a key with too many parts: usually before a `=` or in a header, otherwise in an inline table.
fn deep_key(text: &str) -> Option<usize> {
    let is_deep = |part: &str| !part.trim_start().starts_with('#') && part.matches('.').count() + 1 >= MAX_KEY_PARTS;
    let is_key = |line: &str| is_deep(line.split('=').next().unwrap_or_default());
    text.lines().position(is_key).or_else(|| text.lines().position(is_deep)).map(|index| index + 1)
}

fn shortened(message: &str) -> String {
    let length = message.chars().count();
    if length <= MAX_CHARS {
        return message.to_owned();
    }
    let half = MAX_CHARS / 2;
    let end = message.chars().skip(length - half);
    message.chars().take(half).chain(" ... ".chars()).chain(end).collect()
}

/// The parser's message, with what to write instead if it only names the parser's own types.
fn with_fix(message: &str, value: &str, line: &str) -> String {
    if message == "duplicate key" {
        return "this key is already set; keep one of the two".to_owned();
    }
    if message == "recursion limit" || message.starts_with("cannot recurse") {
        return format!("nested too deeply; no key of a daemon table has {MAX_KEY_PARTS} parts or levels");
    }
    let is_date = message.contains(DATE)
        || (message.starts_with("invalid type: map") && value.starts_with(|c: char| c.is_ascii_digit()));
    let (message, expected) = match message.split_once(", expected") {
        _ if is_date => ("invalid type: date or time", ""),
        Some((found, expected)) => (found, expected),
        None => (message, ""),
    };
    let message = message.strip_suffix(" as i128").unwrap_or(message);
    let whole = || if expected.is_empty() { message.to_owned() } else { format!("{message}, expected{expected}") };
    let fix = match of_another_format(message) {
        Some(fix) => fix,
        None if message.starts_with("unknown field") || message.starts_with("missing field") => return whole(),
        None => match fix_of(line) {
            Some(fix) => fix,
            None => return whole(),
        },
    };
    format!("{message}; {fix}")
}

/// The key to write instead of one from Docker Compose.
fn of_another_format(message: &str) -> Option<&'static str> {
    match message.strip_prefix("unknown field `")?.strip_suffix('`')? {
        "stop_grace_period" => Some("write grace"),
        "healthcheck" => Some("write ready"),
        _ => None,
    }
}

/// What the key of this line takes.
fn fix_of(line: &str) -> Option<&'static str> {
    let key = line.split('=').next().unwrap_or_default().trim();
    Some(match key {
        "name" => r#"write a string, like "proxy""#,
        "command" | "check" | "exec" => r#"write an array of strings, like ["/bin/a", "--x"]: there is no shell"#,
        "ignore" => r#"write an array of strings, like ["HUP"]"#,
        "grace" | "settle" => r#"write a duration in quotes, like "8s""#,
        "output" => r#"write "prefix" or "json""#,
        "ready" => {
            r#"write { tcp = "127.0.0.1:80" }, { http = "http://127.0.0.1/" }, { exec = ["a"] } or { notify = true }"#
        }
        "config" => r#"write { path = "/etc/a", check = ["a", "{}"] }"#,
        "signals" | "[[signals]]" => r#"write [signals] and below it lines like USR1 = { restart = "NAME" }"#,
        "write" | "private" => r#"write an array of absolute paths, like ["/var/lib/a"]"#,
        "bind" | "connect" => "write an array of TCP ports, like [8888]",
        "udp" | "sessions" | "require_sandbox" => "write true or false",
        "[[daemon.sandbox]]" | "sandbox" => "write [daemon.sandbox] below its [[daemon]]",
        "daemon" => "write [[daemon]]",
        _ if key.starts_with("[daemon") => "write [[daemon]]",
        _ if key.starts_with("RTMIN+") => r#"a name with a plus needs quotes, like "RTMIN+1""#,
        _ if Signal::from_name(key.trim_matches('"')).is_some() => {
            r#"write { restart = "NAME" } or { forward = "NAME" }"#
        }
        _ => return None,
    })
}
