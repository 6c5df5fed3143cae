//! `init`: PID 1 of a bundle.

use std::path::PathBuf;
use std::process::ExitCode;

use argh::{ArgsInfo, FromArgs};
use nix::sys::signal::SigSet;
use sidecar::init;
use sidecar::table::Table;

use crate::args::{self, Early};
use crate::out;

/// Starts and supervises the selected daemons. Exits with the highest of its daemons' last exit codes (128+N
/// for a daemon that signal N killed), or with 2 if the daemon table is invalid.
#[derive(FromArgs, ArgsInfo)]
#[argh(help_triggers("-h", "--help"))]
pub struct Init {
    #[argh(
        option,
        description = "the daemon table, a TOML file (default: $SIDECAR_CONFIG, else /etc/sidecar/daemons.toml, else the built-in table)"
    )]
    config: Option<PathBuf>,
}

/// Runs init. Every signal is blocked; init unblocks them for its daemons.
pub fn run(args: &[String], _inherited: SigSet) -> ExitCode {
    let init: Init = match args::parse("init", args) {
        Ok(init) => init,
        Err(Early::Help(text)) => return out::exit(0, out::print(&text)),
        Err(Early::Usage(message)) => return out::usage("init", &message),
    };
    let named = init.config.or_else(|| std::env::var_os("SIDECAR_CONFIG").filter(|v| !v.is_empty()).map(PathBuf::from));
    let table = match Table::load(named.as_deref()) {
        Ok((table, _)) => table,
        Err(e) => return out::usage("init", &e.to_string()),
    };
    match init::run(table) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(255)),
        Err(e) => {
            out::error(&format!("init: {e}"));
            ExitCode::from(e.code)
        }
    }
}
