//! One line in the bundle's log for each change.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use super::reason::Outcome;
use super::transaction::Line;
use crate::page;
use crate::text::Printable;

/// The keys of the message: which daemon's change and what came of it, by whom, and that it is no good news.
pub const CHANGE: &str = "X_SIDECAR_CHANGE";
/// See [`CHANGE`].
pub const BY: &str = "X_SIDECAR_BY";
/// The first digits of the sha256 of the content before and after.
pub const OLD: &str = "X_SIDECAR_OLD";
/// See [`OLD`].
pub const NEW: &str = "X_SIDECAR_NEW";
/// See [`CHANGE`].
pub const WARNING: &str = "X_SIDECAR_WARNING";
/// How long init's queue may be full.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// Has init write it, in its own form and between the lines of the daemons. An init that doesn't take it in time, or
/// is at its end, writes none.
pub fn tell(line: &Line<'_>) {
    let outcome = match line.outcome {
        Outcome::Unchanged => "unchanged",
        Outcome::Delivered => "delivered",
        Outcome::Live => "live",
        Outcome::NotProven => "not proven",
        Outcome::RolledBack => "rolled back",
        Outcome::Down => "DOWN",
        // Nothing came of it, and the caller knows.
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
