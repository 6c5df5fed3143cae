//! What runs inside the bundle, beside init: it reads init's status page and probes the daemons.
//! Everything here needs /proc; the host's side doesn't use it.

pub mod clock;
pub mod command;
pub mod diff;
pub mod lock;
pub mod log;
pub mod page;
pub mod probe;
pub mod store;
pub mod witness;
