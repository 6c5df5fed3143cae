//! `init`: PID 1 of a bundle.

use std::path::PathBuf;
use std::process::ExitCode;

use argh::{ArgsInfo, FromArgs};
use nix::sys::signal::SigSet;
use nix::unistd::getppid;
use sidecar::table::Table;
use sidecar::{init, page};

use crate::args::{self, Early};
use crate::out;

/// Starts and supervises the selected daemons. Exits with the highest of its daemons' last exit codes (128+N
/// for a daemon that signal N killed), or with 2 if the daemon table is invalid or the bundle
/// has an init already.
#[derive(FromArgs, ArgsInfo)]
#[argh(help_triggers("-h", "--help"))]
pub struct Init {
    #[argh(
        option,
        description = "the daemon table, a TOML file (default: $SIDECAR_CONFIG, else /etc/sidecar/daemons.toml, else the built-in table)"
    )]
    config: Option<PathBuf>,
}

/// Whether `docker exec` or the like has started this process in a container that runs: its parent isn't in this pid namespace,
/// as that of a daemon's child is, and its files are those of PID 1, as those of another container (`--pid container:NAME`) aren't.
fn came_by_exec() -> bool {
    let mounts = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    std::process::id() != 1 && getppid().as_raw() == 0 && mounts("self").is_some_and(|own| mounts("1") == Some(own))
}

/// Runs init. Every signal is blocked; init unblocks them for its daemons.
pub fn run(args: &[String], _inherited: SigSet) -> ExitCode {
    let init: Init = match args::parse("init", args) {
        Ok(init) => init,
        Err(Early::Help(text)) => return out::exit(0, out::print(&text)),
        Err(Early::Usage(message)) => return out::usage("init", &message),
    };
    if came_by_exec() && page::read().is_ok() {
        let message = "PID 1 is sidecar init already and runs this bundle's daemons; nothing was started; to see them: \
                       /proc/1/exe status, to restart one: /proc/1/exe restart NAME";
        return out::usage("init", message);
    }
    let named = init.config.or_else(|| std::env::var_os("SIDECAR_CONFIG").filter(|v| !v.is_empty()).map(PathBuf::from));
    let table = match Table::load(named.as_deref()) {
        Ok((table, _)) => table,
        Err(e) => return out::usage("init", &format!("{e}; no daemon was started")),
    };
    match init::run(table) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(255)),
        Err(e) => {
            out::error(&format!("init: {e}"));
            ExitCode::from(e.code)
        }
    }
}
