//! In place of `inside.rs` where there is no Linux: the same names, which say where they run.

use std::process::ExitCode;

use crate::{Run, out};

pub const HERE: bool = false;
pub const INIT: Run = Run::Blocked(|_, _| {
    out::error(&format!("init: it is PID 1 of a bundle, inside its Linux container; {}", outside()));
    ExitCode::from(2)
});
pub const STATUS: Run = Run::Plain(|_| {
    out::error(&format!("status: it is for inside a bundle: docker exec BUNDLE /proc/1/exe status; {}", outside()));
    ExitCode::from(4)
});
pub const WITNESS: Run = Run::Plain(|_| ExitCode::FAILURE);

fn outside() -> String {
    format!("on {} only the host's applets run", std::env::consts::OS)
}
