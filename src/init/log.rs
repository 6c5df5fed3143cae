//! init's own log: `tracing` into a bounded buffer that the poll loop hands to stderr.

use std::fmt;
use std::io;
use std::sync::Mutex;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

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
    /// With the same keys as daemons' lines under `output = "json"`.
    Object,
}

struct Buffered;

impl io::Write for Buffered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Ok(mut buffer) = BUFFER.lock() {
            if buffer.lines.len() + bytes.len() <= BOUND {
                buffer.lines.extend_from_slice(bytes);
            } else {
                buffer.dropped += 1;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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
    let builder = tracing_subscriber::fmt()
        .with_max_level(known.unwrap_or(LevelFilter::INFO))
        .with_target(false)
        .with_ansi(false)
        .log_internal_errors(false)
        .with_writer(|| Buffered);
    match form {
        Form::Text => builder.init(),
        Form::Json => builder.json().flatten_event(true).init(),
        Form::Object => builder.event_format(Objects).init(),
    }
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

/// A line as an object, with the keys that daemons' lines have: `daemon` is null if it concerns none.
struct Objects;

impl<S, N> FormatEvent<S, N> for Objects
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields { line: String::new(), daemon: Value::Null, others: Map::new() };
        event.record(&mut fields);
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        let text = |text: &str| Value::from(text).to_string();
        write!(
            writer,
            r#"{{"time":"{}","daemon":{},"stream":"init","level":"{level}","line":{}"#,
            json::time(),
            fields.daemon,
            text(&fields.line)
        )?;
        for (key, value) in &fields.others {
            write!(writer, ",{}:{value}", text(key))?;
        }
        writer.write_str("}\n")
    }
}

struct Fields {
    line: String,
    daemon: Value,
    others: Map<String, Value>,
}

impl Fields {
    fn set(&mut self, field: &Field, value: Value) {
        match field.name() {
            "message" => self.line = value.as_str().unwrap_or_default().to_owned(),
            "daemon" => self.daemon = value,
            name => drop(self.others.insert(name.to_owned(), value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value.into());
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
