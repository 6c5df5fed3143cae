//! Takes the place of `inside.rs` on systems other than Linux: the same names, but each only says where it runs.

use std::process::ExitCode;

use sidecar::table::Table;

use crate::{Applet, Run, out};

pub const HERE: bool = false;
pub const INIT: Run = Run::Blocked(|_, _| {
    out::error("init: runs only as PID 1 of a bundle, in its Linux container; this build has only the host's applets");
    ExitCode::from(2)
});
pub const RUN_AS: Run = Run::Blocked(|_, _| {
    out::error(
        "run-as: runs only inside a bundle (docker exec BUNDLE /proc/1/exe run-as); this build has only the host's applets",
    );
    ExitCode::from(4)
});
pub const RESTART: Run = Run::Plain(|_| {
    out::error(
        "restart: runs only inside a bundle (docker exec BUNDLE /proc/1/exe restart); this build has only the host's applets",
    );
    ExitCode::from(4)
});
pub const STOP: Run = Run::Plain(|_| {
    out::error(
        "stop: runs only inside a bundle (docker exec BUNDLE /proc/1/exe stop); this build has only the host's applets",
    );
    ExitCode::from(4)
});
pub const START: Run = Run::Plain(|_| {
    out::error(
        "start: runs only inside a bundle (docker exec BUNDLE /proc/1/exe start); this build has only the host's applets",
    );
    ExitCode::from(4)
});
pub const SIGNAL: Run = Run::Plain(|_| {
    out::error(
        "signal: runs only inside a bundle (docker exec BUNDLE /proc/1/exe signal); this build has only the host's applets",
    );
    ExitCode::from(4)
});
pub const STATUS: Run = Run::Plain(|_| {
    out::error(
        "status: runs only inside a bundle (docker exec BUNDLE /proc/1/exe status); this build has only the host's applets",
    );
    ExitCode::from(4)
});
pub const HELPER: Run = Run::Plain(|_| ExitCode::FAILURE);
pub const OF_INIT: &[Applet] = &[];

pub fn fault_of(_command: &[String]) -> Option<String> {
    None
}

pub fn lacks(_table: &Table) -> Vec<String> {
    Vec::new()
}
