//! One line in the bundle's log for each transaction.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use nix::libc;

use super::clock;
use crate::apply::proof::Finding;
use crate::apply::protocol::End;
use crate::apply::transaction::Ending;
use crate::text::Plain;

/// Writes it where init's own log goes, in the form that the environment asks init for. A log that nobody reads, or
/// that isn't a pipe or a terminal (a file's position is init's own), gets none.
pub fn tell(daemon: &str, by: &Plain, end: &End) {
    let outcome = match &end.ending {
        Ending::Unchanged => "unchanged",
        // Nothing came of it, and the caller knows.
        Ending::Checked | Ending::Refused { .. } => return,
        Ending::Live { finding: Finding::Delivered } => "delivered",
        Ending::Live { .. } => "live",
        Ending::NotProven { .. } => "not proven",
        Ending::RolledBack { .. } => "rolled back",
        Ending::Down { .. } => "DOWN",
    };
    let (level, at) =
        (if matches!(outcome, "live" | "delivered" | "unchanged") { "INFO" } else { "WARN" }, clock::utc_now());
    let line = if std::env::var("SIDECAR_LOG_FORMAT").is_ok_and(|format| format == "json") {
        let message = format!("change of {daemon}: {outcome}");
        let line = serde_json::json!({ "timestamp": at, "level": level, "message": message, "by": by });
        format!("{line}\n")
    } else {
        format!("{at}  {level} change of {daemon}: {outcome} by={by}\n")
    };
    // One write of less than PIPE_BUF bytes: it stays one line.
    let _ = open().map(|mut log| log.write_all(line.as_bytes()));
}

fn open() -> Option<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let log = OpenOptions::new().append(true).custom_flags(flags).open("/proc/1/fd/2").ok()?;
    let kind = log.metadata().ok()?.file_type();
    (kind.is_fifo() || kind.is_char_device()).then_some(log)
}
