//! In place of `inside.rs` where there is no Linux: the same names, which say where they run.

use std::process::ExitCode;

use sidecar::table::Table;

use crate::{Applet, Run, out};

pub const HERE: bool = false;
pub const INIT: Run = Run::Blocked(|_, _| {
    out::error("init: it is PID 1 of a bundle, inside its Linux container; this build has the host's applets alone");
    ExitCode::from(2)
});
pub const RUN_AS: Run = Run::Blocked(|_, _| {
    out::error(
        "run-as: it is for inside a bundle (docker exec BUNDLE /proc/1/exe run-as); this build has the host's applets alone",
    );
    ExitCode::from(4)
});
pub const RESTART: Run = Run::Plain(|_| {
    out::error(
        "restart: it is for inside a bundle (docker exec BUNDLE /proc/1/exe restart); this build has the host's applets alone",
    );
    ExitCode::from(4)
});
pub const STOP: Run = Run::Plain(|_| {
    out::error(
        "stop: it is for inside a bundle (docker exec BUNDLE /proc/1/exe stop); this build has the host's applets alone",
    );
    ExitCode::from(4)
});
pub const START: Run = Run::Plain(|_| {
    out::error(
        "start: it is for inside a bundle (docker exec BUNDLE /proc/1/exe start); this build has the host's applets alone",
    );
    ExitCode::from(4)
});
pub const SIGNAL: Run = Run::Plain(|_| {
    out::error(
        "signal: it is for inside a bundle (docker exec BUNDLE /proc/1/exe signal); this build has the host's applets alone",
    );
    ExitCode::from(4)
});
pub const STATUS: Run = Run::Plain(|_| {
    out::error(
        "status: it is for inside a bundle (docker exec BUNDLE /proc/1/exe status); this build has the host's applets alone",
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
