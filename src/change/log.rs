//! One line in the bundle's log for each change.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use super::reason::Outcome;
use super::transaction::Line;
use crate::page;
use crate::text::Printable;

/// The key for the daemon's name and the outcome, in a message to init's notify socket.
pub const CHANGE: &str = "X_SIDECAR_CHANGE";
/// The key for who made the change.
pub const BY: &str = "X_SIDECAR_BY";
/// The key for the first digits of the old content's sha256.
pub const OLD: &str = "X_SIDECAR_OLD";
/// The key for the first digits of the new content's sha256.
pub const NEW: &str = "X_SIDECAR_NEW";
/// The key that makes the line a warning.
pub const WARNING: &str = "X_SIDECAR_WARNING";
/// How long to wait if init's queue is full.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// Asks init to write the line, so that it has the form of init's log and can't land in the middle of another line. If init doesn't
/// take it in time, or is about to exit, the line is lost.
pub fn tell(line: &Line<'_>) {
    let outcome = match line.outcome {
        Outcome::Unchanged => "unchanged",
        Outcome::Delivered => "delivered",
        Outcome::Live => "live",
        Outcome::NotProven => "not proven",
        Outcome::RolledBack => "rolled back",
        Outcome::Down => "DOWN",
        // Nothing was changed, and the caller knows.
        _ => return,
    };
    let warning = if line.outcome.exit() == 0 { String::new() } else { format!("{WARNING}=1\n") };
    let digits = |key, sha256: Option<&Printable>| {
        let digits = sha256.and_then(|all| all.as_str().get(..12));
        digits.map_or_else(String::new, |digits| format!("{key}={digits}\n"))
    };
    let (old, new) = (digits(OLD, line.sha256.0), digits(NEW, line.sha256.1));
    let _ = send(&format!("{CHANGE}={}: {outcome}\n{BY}={}\n{old}{new}{warning}", line.daemon, line.by));
}

fn send(message: &str) -> Option<usize> {
    let socket = page::read().ok()?.socket?;
    let init = SocketAddr::from_abstract_name(socket.strip_prefix('@')?).ok()?;
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_write_timeout(Some(SEND_TIMEOUT)).ok()?;
    socket.send_to_addr(message.as_bytes(), &init).ok()
}
