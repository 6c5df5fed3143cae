//! The applets that exist on Linux only: those that are part of a bundle or look into it from inside.

#[path = "act.rs"]
pub mod act;
#[path = "helper.rs"]
mod helper;
#[path = "check/here.rs"]
mod here;
#[path = "init.rs"]
pub mod init;
#[path = "run_as.rs"]
pub mod run_as;
#[path = "status.rs"]
pub mod status;

use crate::{Applet, Run};

pub use here::lacks;

/// Whether they run on this system.
pub const HERE: bool = true;
pub const INIT: Run = Run::Blocked(init::run);
pub const RUN_AS: Run = Run::Blocked(run_as::run);
pub const RESTART: Run = Run::Plain(act::restart);
pub const STOP: Run = Run::Plain(act::stop);
pub const START: Run = Run::Plain(act::start);
pub const SIGNAL: Run = Run::Plain(act::signal);
pub const STATUS: Run = Run::Plain(status::run);
pub const HELPER: Run = Run::Plain(helper::run);
/// Applets that init has its children execute. Nobody calls them by hand.
pub const OF_INIT: &[Applet] = &[
    Applet {
        name: sidecar::launch::RECOVER,
        about: "",
        inside: true,
        run: Run::Plain(sidecar::launch::recover_and_start),
    },
    Applet {
        name: sidecar::change::set_up::SET_UP_AND_RUN,
        about: "",
        inside: true,
        run: Run::Plain(sidecar::launch::setup::run::set_up_and_run),
    },
    Applet { name: sidecar::launch::PROBE, about: "", inside: true, run: Run::Plain(sidecar::launch::probe) },
    Applet {
        name: sidecar::launch::setup::SET_UP_AND_START,
        about: "",
        inside: true,
        run: Run::Plain(sidecar::launch::set_up_and_start),
    },
];

/// Why this command's program couldn't be started here.
pub fn fault_of(command: &[String]) -> Option<String> {
    sidecar::launch::look_up(command).err().map(|why| why.to_string())
}
