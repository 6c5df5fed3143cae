//! What only Linux has: the applets that are part of a bundle, or look into it from inside.

#[path = "helper.rs"]
mod helper;
#[path = "init.rs"]
pub mod init;
#[path = "status.rs"]
pub mod status;

use crate::{Applet, Run};

/// Whether they run on this system.
pub const HERE: bool = true;
pub const INIT: Run = Run::Blocked(init::run);
pub const STATUS: Run = Run::Plain(status::run);
pub const HELPER: Run = Run::Plain(helper::run);
/// What init has a daemon's child execute, and nobody calls by hand.
pub const RECOVER: &[Applet] = &[
    Applet {
        name: sidecar::launch::RECOVER,
        about: "",
        inside: true,
        run: Run::Plain(sidecar::launch::recover_and_start),
    },
    Applet {
        name: sidecar::launch::sandbox::CONFINE,
        about: "",
        inside: true,
        run: Run::Plain(sidecar::launch::confine_and_start),
    },
];
