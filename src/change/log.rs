//! One line in the bundle's log for each transaction.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::change::reason::Outcome;
use crate::page;
use crate::protocol::End;
use crate::text::Plain;

/// The keys of the message: which daemon's change and what came of it, by whom, and that it is no good news.
pub const CHANGE: &str = "X_SIDECAR_CHANGE";
/// See [`CHANGE`].
pub const BY: &str = "X_SIDECAR_BY";
/// See [`CHANGE`].
pub const WARNING: &str = "X_SIDECAR_WARNING";
/// How long init's queue may be full.
const A_MOMENT: Duration = Duration::from_secs(1);

/// Has init write it, in its own form and between the lines of the daemons. An init that doesn't take it in time, or
/// is at its end, writes none.
pub fn tell(daemon: &str, by: &Plain, end: &End) {
    let outcome = match end.ended.outcome {
        Outcome::Unchanged => "unchanged",
        Outcome::Delivered => "delivered",
        Outcome::Live => "live",
        Outcome::NotProven => "not proven",
        Outcome::RolledBack => "rolled back",
        Outcome::Down => "DOWN",
        // Nothing came of it, and the caller knows.
        _ => return,
    };
    let is_good = matches!(outcome, "live" | "delivered" | "unchanged");
    let warning = if is_good { String::new() } else { format!("{WARNING}=1\n") };
    let _ = send(&format!("{CHANGE}={daemon}: {outcome}\n{BY}={by}\n{warning}"));
}

fn send(message: &str) -> Option<usize> {
    let socket = page::read().ok()?.socket?;
    let init = SocketAddr::from_abstract_name(socket.strip_prefix('@')?).ok()?;
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_write_timeout(Some(A_MOMENT)).ok()?;
    socket.send_to_addr(message.as_bytes(), &init).ok()
}
