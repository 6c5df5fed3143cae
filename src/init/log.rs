//! init's own log: `tracing` into a bounded buffer that the poll loop hands to stderr.

use std::fmt::{self, Write};
use std::sync::Mutex;

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::json;
use crate::supervisor::{End, Level, Line};
use crate::table::Output;

/// What the log holds between two rounds of the poll loop, in bytes.
const BOUND: usize = 64 * 1024;

static BUFFER: Mutex<Buffer> = Mutex::new(Buffer { lines: Vec::new(), dropped: 0, form: Form::Text });

struct Buffer {
    lines: Vec<u8>,
    dropped: u64,
    form: Form,
}

/// The format of a line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    /// The format of `SIDECAR_LOG_FORMAT=json` without `output = "json"`.
    Json,
    /// JSON with the same keys as daemons' lines under `output = "json"`.
    Object,
}

/// Writes what is logged into the buffer. init has no spans.
struct Log {
    most: LevelFilter,
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.most
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.most)
    }

    fn event(&self, event: &Event<'_>) {
        let Ok(mut buffer) = BUFFER.lock() else { return };
        let mut fields = Fields { is_text: buffer.form == Form::Text, ..Fields::default() };
        event.record(&mut fields);
        let line = fields.line(buffer.form, event.metadata().level().as_str());
        if buffer.lines.len() + line.len() < BOUND {
            buffer.lines.extend_from_slice(line.as_bytes());
            buffer.lines.push(b'\n');
        } else {
            buffer.dropped += 1;
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Takes what was logged since the last call. If lines were dropped for lack of room, one line says how many.
pub fn take() -> Vec<u8> {
    let Ok(mut buffer) = BUFFER.lock() else { return Vec::new() };
    let mut lines = std::mem::take(&mut buffer.lines);
    if buffer.dropped > 0 {
        let text = format!("{} lines of init's log were dropped", std::mem::take(&mut buffer.dropped));
        let line = if buffer.form == Form::Text { text } else { json::warning(&text) };
        lines.extend_from_slice(line.as_bytes());
        lines.push(b'\n');
    }
    lines
}

/// Sets the log up from `SIDECAR_LOG` and `SIDECAR_LOG_FORMAT`, and from the table's `output` if the latter says nothing
/// else; a bad value is a warning.
pub fn set_up(output: Output) {
    let value = |name| std::env::var_os(name).unwrap_or_default().to_string_lossy().into_owned();
    let (level, format) = (value("SIDECAR_LOG"), value("SIDECAR_LOG_FORMAT"));
    let known = match level.as_str() {
        "" | "info" => Some(LevelFilter::INFO),
        "error" => Some(LevelFilter::ERROR),
        "warn" => Some(LevelFilter::WARN),
        "debug" => Some(LevelFilter::DEBUG),
        "trace" => Some(LevelFilter::TRACE),
        _ => None,
    };
    let form = match (format.as_str(), output) {
        ("text", _) | (_, Output::Prefix) if format != "json" => Form::Text,
        (_, Output::Json) => Form::Object,
        _ => Form::Json,
    };
    if let Ok(mut buffer) = BUFFER.lock() {
        buffer.form = form;
    }
    // It fails only if there is one already.
    let _ = tracing::subscriber::set_global_default(Log { most: known.unwrap_or(LevelFilter::INFO) });
    if known.is_none() {
        tracing::warn!("SIDECAR_LOG={level:?} is not error, warn, info, debug or trace; using info");
    }
    if !matches!(format.as_str(), "" | "text" | "json") {
        let used = if form == Form::Text { "text" } else { "json" };
        tracing::warn!("SIDECAR_LOG_FORMAT={format:?} is neither text nor json; using {used}");
    }
}

/// Whether lines have fields for programs. In text they would only repeat the text.
pub fn has_fields() -> bool {
    BUFFER.lock().is_ok_and(|buffer| buffer.form != Form::Text)
}

/// Logs a line of the supervisor's. `daemon` is the name of the one that it concerns.
pub fn tell(line: &Line, daemon: Option<&str>) {
    let Line { level, text, pid, end, .. } = line;
    let has_fields = has_fields();
    let daemon = daemon.filter(|_| has_fields);
    let pid = pid.filter(|_| has_fields);
    let (code, signal) = match end.filter(|_| has_fields) {
        Some(End::Code(code)) => (Some(code), None),
        Some(End::Signal(signal)) => (None, Some(signal)),
        None => (None, None),
    };
    match level {
        Level::Debug => tracing::debug!(daemon, pid, code, signal, "{text}"),
        Level::Info => tracing::info!(daemon, pid, code, signal, "{text}"),
        Level::Warn => tracing::warn!(daemon, pid, code, signal, "{text}"),
    }
}

/// What one event says: its text, the daemon that it concerns, and the rest in order.
#[derive(Default)]
struct Fields {
    text: String,
    daemon: Value,
    others: Vec<(&'static str, Value)>,
    /// Whether the form is text, in which strings are quoted.
    is_text: bool,
}

impl Fields {
    fn set(&mut self, field: &Field, value: Value) {
        match field.name() {
            "message" => self.text = value.as_str().unwrap_or_default().to_owned(),
            "daemon" => self.daemon = value,
            name => self.others.push((name, value)),
        }
    }

    /// The event as a line, without its newline.
    fn line(mut self, form: Form, level: &str) -> String {
        let json = |text: &str| Value::from(text).to_string();
        let mut line = String::new();
        let text = json(&self.text);
        let has_daemon = !self.daemon.is_null();
        // Writing to memory can't fail.
        let _ = match form {
            Form::Text => write!(line, "{} {level:>5} {}", json::time_in_micros(), Harmless(&self.text)),
            Form::Json => {
                write!(line, r#"{{"timestamp":"{}","level":"{level}","message":{text}"#, json::time_in_micros())
            }
            Form::Object => write!(
                line,
                r#"{{"time":"{}","daemon":{},"stream":"init","level":"{}","line":{text}"#,
                json::time(),
                self.daemon,
                level.to_ascii_lowercase()
            ),
        };
        match form {
            Form::Text | Form::Json if has_daemon => self.others.insert(0, ("daemon", self.daemon)),
            Form::Text | Form::Json => {}
            Form::Object => self.others.sort_by_key(|(key, _)| *key),
        }
        for (key, value) in &self.others {
            let _ = match (form, value) {
                (Form::Text, Value::String(value)) => write!(line, " {key}={}", Harmless(value)),
                (Form::Text, value) => write!(line, " {key}={value}"),
                _ => write!(line, ",{}:{value}", json(key)),
            };
        }
        if form != Form::Text {
            line.push('}');
        }
        line
    }
}

/// A text that moves no terminal's cursor.
struct Harmless<'a>(&'a str);

impl fmt::Display for Harmless<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\x07' | '\x08' | '\x0c' | '\x1b' | '\x7f' => write!(f, "\\x{:02x}", u32::from(c)),
            '\u{80}'..='\u{9f}' => write!(f, "\\u{{{:x}}}", u32::from(c)),
            c => f.write_char(c),
        })
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let quoted = self.is_text.then(|| format!("{value:?}"));
        self.set(field, quoted.unwrap_or_else(|| value.to_owned()).into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_time_and_level_its_text_and_what_else_is_known() {
        let fields = || Fields {
            text: "b\u{e9}ta \u{1b}[2J\u{9b}2J is \"up\"".to_owned(),
            daemon: "beta".into(),
            others: vec![("pid", 7.into()), ("code", 0.into())],
            is_text: false,
        };
        let after = |line: &str, time: usize| line.get(time..).map(str::to_owned);
        let (text, json) = (fields().line(Form::Text, "INFO"), fields().line(Form::Json, "WARN"));
        let is = r#"  INFO béta \x1b[2J\u{9b}2J is "up" daemon=beta pid=7 code=0"#;
        assert_eq!(after(&text, "2026-11-28T10:56:16.034769Z".len()).as_deref(), Some(is));
        let json: serde_json::Value = serde_json::from_str(&json).unwrap_or_default();
        assert_eq!((json["level"].as_str(), json["pid"].as_i64()), (Some("WARN"), Some(7)));
        assert_eq!((json["message"].as_str(), json["daemon"].as_str()), (Some(&*fields().text), Some("beta")));
        let object = fields().line(Form::Object, "DEBUG");
        let is = r#"","daemon":"beta","stream":"init","level":"debug","line":"#;
        let at = r#"{"time":"2026-11-28T10:56:16.034Z"#.len();
        assert!(after(&object, at).is_some_and(|rest| rest.starts_with(is)), "{object}");
        assert!(object.ends_with(r#","code":0,"pid":7}"#), "{object}");
    }
}
