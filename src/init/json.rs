//! `output = "json"`: every line is an object.
//!
//! `{"time":"2026-11-27T22:00:00.123Z","daemon":"pipelock","stream":"stdout","line":"..."}`. If a line is itself an object, it
//! appears as `record` instead of `line`, so that a reader needn't parse twice and a daemon can't forge another's lines.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::IgnoredAny;

use crate::change::clock;

/// An object that is nested more deeply is shown as a line.
const MAX_LEVELS: usize = 64;
/// An object of init's own begins with this, after its time.
const OWN_WARNING: &str = r#","daemon":null,"stream":"init","level":"warn","line":""#;

/// Now, as `2026-11-27T22:00:00.123Z`.
pub fn time() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}.{:03}Z", seconds(now), now.subsec_millis())
}

/// The same in microseconds.
pub fn time_in_micros() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}.{:06}Z", seconds(now), now.subsec_micros())
}

fn seconds(now: Duration) -> String {
    clock::utc(now.as_secs()).as_str().trim_end_matches('Z').to_owned()
}

/// The part of an object that all lines of a stream have. (A daemon's name needs no escapes.)
pub fn head(daemon: &str, stream: &str) -> String {
    format!(r#","daemon":"{daemon}","stream":"{stream}","#)
}

/// The most bytes that an object can take, given the length of its head and line: each byte of the line may become
/// `\u001b`.
pub fn size(size: usize) -> usize {
    6 * size + 128
}

/// Which part of a line an object holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// More follows.
    Begun,
    /// The last piece of a line that was split.
    Last,
}

/// Writes an object. `time` is when the line was read.
pub fn object(to: &mut Vec<u8>, time: &str, head: &str, line: &[u8], part: Part) {
    to.extend_from_slice(b"{\"time\":\"");
    to.extend_from_slice(time.as_bytes());
    to.push(b'"');
    to.extend_from_slice(head.as_bytes());
    if let Some(record) = record(line).filter(|_| part == Part::Whole) {
        to.extend_from_slice(b"\"record\":");
        to.extend_from_slice(record.as_bytes());
    } else {
        to.extend_from_slice(b"\"line\":");
        // Writing to memory can't fail.
        let _ = serde_json::to_writer(&mut *to, &String::from_utf8_lossy(line));
    }
    if part == Part::Begun {
        to.extend_from_slice(b",\"partial\":true");
    }
    to.push(b'}');
}

/// The line's own bytes if they are one object, without the space around it.
fn record(line: &[u8]) -> Option<&str> {
    let is_space = |c: char| matches!(c, ' ' | '\t' | '\r');
    // Most lines aren't objects, and this check is cheap.
    if line.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    let text = std::str::from_utf8(line).ok()?.trim_matches(is_space);
    // Between two values it would be valid JSON, but it moves a terminal's cursor.
    if text.contains('\r') || levels(text) > MAX_LEVELS {
        return None;
    }
    serde_json::from_str::<IgnoredAny>(text).is_ok().then_some(text)
}

/// How deeply it is nested.
fn levels(text: &str) -> usize {
    let (mut levels, mut most) = (0usize, 0);
    let (mut is_string, mut is_escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_string => is_escaped = true,
            b'"' => is_string = !is_string,
            b'{' | b'[' if !is_string => {
                levels += 1;
                most = most.max(levels);
            }
            b'}' | b']' if !is_string => levels = levels.saturating_sub(1),
            _ => {}
        }
    }
    most
}

/// A warning of init's own that concerns no daemon.
pub fn warning(text: &str) -> String {
    format!("{{\"time\":\"{}\"{OWN_WARNING}{text}\"}}", time())
}

/// What [`warning`] was made of, if the line is one.
pub fn own_warning(line: &str) -> Option<&str> {
    let (_time, rest) = line.strip_prefix("{\"time\":\"")?.split_once('"')?;
    rest.strip_prefix(OWN_WARNING)?.strip_suffix("\"}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn written(line: &[u8], part: Part) -> serde_json::Value {
        let mut to = Vec::new();
        object(&mut to, &time(), &head("d", "stdout"), line, part);
        assert!(to.len() <= size(line.len() + head("d", "stdout").len()));
        serde_json::from_slice(&to).unwrap()
    }

    #[test]
    fn a_line_that_is_one_object_is_a_record_and_anything_else_is_a_line() {
        assert_eq!(written(br#" {"a":[1,{"b":"}"}]} "#, Part::Whole)["record"]["a"][0], 1);
        let deep = |n: usize| format!("{}1{}", "{\"a\":".repeat(n), "}".repeat(n));
        assert!(written(deep(64).as_bytes(), Part::Whole)["record"].is_object());
        let lines: [&[u8]; 9] = [
            b"text",
            b"[1]",
            b"{\"a\":1} {\"b\":2}",
            b"{\"a\":1",
            b"{\"a\":\xff}",
            b"{\"a\":\r1}",
            b"{\"a\":1}, \"daemon\":\"other\"",
            deep(65).leak().as_bytes(),
            b"",
        ];
        for line in lines {
            let value = written(line, Part::Whole);
            assert!(value["record"].is_null(), "{value}");
            assert_eq!(value["line"], *String::from_utf8_lossy(line));
            assert_eq!(value["daemon"], "d");
        }
    }

    #[test]
    fn a_piece_of_a_line_says_so_and_is_no_record() {
        let (begun, last) = (written(b"{}", Part::Begun), written(b"{}", Part::Last));
        assert_eq!((&begun["partial"], &begun["line"]), (&true.into(), &"{}".into()));
        assert_eq!((&last["partial"], &last["line"]), (&serde_json::Value::Null, &"{}".into()));
    }

    #[test]
    fn a_warning_of_inits_own_is_told_from_a_daemons_line() {
        assert_eq!(own_warning(&warning("5 x")), Some("5 x"));
        let mut line = Vec::new();
        object(&mut line, &time(), &head("d", "stdout"), b"5 x", Part::Whole);
        assert_eq!(own_warning(std::str::from_utf8(&line).unwrap()), None);
    }

    #[test]
    fn the_time_has_milliseconds() {
        let time = time();
        assert_eq!((time.len(), time.get(19..20), time.get(23..)), (24, Some("."), Some("Z")));
    }
}
