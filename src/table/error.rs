//! Why a text is not a valid table: one line with the file, the line and the fix.

use std::fmt;
use std::ops::Range;

use crate::text::one_line;

use super::spelling;

/// The longest error, in characters. A text that it quotes may be much longer; then the middle is cut out, since the
/// problem is named at the beginning and the fix at the end.
const MAX_CHARS: usize = 400;
/// The parser refuses keys with this many parts, without saying where or why.
const MAX_KEY_PARTS: usize = 80;
/// How serde shows a date to those who don't expect one.
const DATE: &str = "$__toml_private_datetime";

/// Said of a whole file that is another tool's.
const SUPERVISORD: &str = "this is supervisord's configuration, not a daemon table; write a file with a [[daemon]] for each \
                           program (docs/moving.md has supervisord's keys beside those of a table)";

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

    /// Makes an error from the TOML parser's: adds the line if the parser doesn't know it, and what to write instead.
    pub(super) fn from_toml(error: &toml::de::Error, text: &str, source: &str) -> Self {
        let line = match error.span() {
            Some(span) => Some(line_of(text.as_bytes(), span.start)),
            None if error.message() == "recursion limit" => deep_key(text),
            None => None,
        };
        let is_table = text.contains("[[daemon]]");
        if let Some(index) = text.lines().position(is_of_supervisord).filter(|_| !is_table) {
            return Self::new(source, Some(index + 1), SUPERVISORD);
        }
        let value = error.span().and_then(|span: Range<usize>| text.get(span)).unwrap_or_default();
        let above = line.map_or(0, |line| line - 1);
        let content = text.lines().nth(above).unwrap_or_default().trim();
        let section = text.lines().take(above).filter(|line| line.starts_with('[')).last().unwrap_or_default();
        Self::new(source, line, &with_fix(error.message(), value, content, section))
    }
}

/// Whether a header is one that only supervisord's files have: a name with a colon has to be quoted in TOML.
fn is_of_supervisord(line: &str) -> bool {
    let line = line.trim();
    line == "[supervisord]" || line.starts_with("[program:")
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
fn with_fix(message: &str, value: &str, line: &str, section: &str) -> String {
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
    if let Some(key) = message.strip_prefix("unknown field `").and_then(|rest| rest.strip_suffix('`')) {
        return spelling::instead_of(key, expected).map_or_else(whole, |fix| format!("{message}; {fix}"));
    }
    if message.starts_with("missing field") {
        return whole();
    }
    let Some(fix) = spelling::fix_of(line, section) else { return whole() };
    let message = match message {
        // The parser guesses from the first letter what an unquoted word is: `no` begins like nan.
        "string values must be quoted" | "invalid boolean" | "invalid float" => "an unquoted word",
        other => other,
    };
    format!("{message}; {fix}")
}
