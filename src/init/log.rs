//! init's own log: `tracing` into a bounded buffer that the poll loop hands to stderr.

use std::io;
use std::sync::Mutex;

use tracing::level_filters::LevelFilter;

/// What the log holds between two rounds of the poll loop, in bytes.
const BOUND: usize = 64 * 1024;

static BUFFER: Mutex<Buffer> = Mutex::new(Buffer { lines: Vec::new(), dropped: 0 });

struct Buffer {
    lines: Vec<u8>,
    dropped: u64,
}

struct Writer;

impl io::Write for Writer {
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

/// Takes what was logged since the last call; lines that found no room are counted in a line of their own.
pub fn take() -> Vec<u8> {
    let Ok(mut buffer) = BUFFER.lock() else { return Vec::new() };
    let mut lines = std::mem::take(&mut buffer.lines);
    if buffer.dropped > 0 {
        lines.extend_from_slice(format!("{} lines of init's log were dropped\n", buffer.dropped).as_bytes());
        buffer.dropped = 0;
    }
    lines
}

/// Sets the log up from `SIDECAR_LOG` and `SIDECAR_LOG_FORMAT`; a bad value is a warning.
pub fn set_up() {
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
    let builder = tracing_subscriber::fmt()
        .with_max_level(known.unwrap_or(LevelFilter::INFO))
        .with_target(false)
        .with_ansi(false)
        .log_internal_errors(false)
        .with_writer(|| Writer);
    if format == "json" {
        builder.json().flatten_event(true).init();
    } else {
        builder.init();
    }
    if known.is_none() {
        tracing::warn!("SIDECAR_LOG={level:?} is none of error, warn, info, debug, trace; using info");
    }
    if !matches!(format.as_str(), "" | "text" | "json") {
        tracing::warn!("SIDECAR_LOG_FORMAT={format:?} is neither text nor json; using text");
    }
}
