//! What runs inside the bundle, beside init: it reads init's status page and probes the daemons.
//! Everything here needs /proc; the host's side doesn't use it.

pub mod page;
pub mod probe;
pub mod witness;
