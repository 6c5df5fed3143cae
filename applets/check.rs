//! `check`: validates a daemon table and says what it means. Starts nothing.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};
use sidecar::table::Table;

use crate::args::{self, Early};
use crate::{inside, out};
use warn::LocalPorts;

mod explain;
mod sandbox;
mod warn;

/// What `--help` adds to argh's text.
pub const CODES: &str = "
Warnings go to stderr.

Exit codes:
  0  the table is valid
  2  it is invalid, or a usage error
";

/// Validate a daemon table and explain what it means; starts nothing. Without FILE, the table that init would use.
#[derive(FromArgs, ArgsInfo)]
#[argh(help_triggers("-h", "--help"))]
pub struct Options {
    /// the same as FILE
    #[argh(option)]
    config: Option<PathBuf>,
    /// inside a bundle: also warn about programs, files and users that are missing, and about parts of a sandbox that the kernel can't enforce
    #[argh(switch)]
    here: bool,
    /// the table to validate
    #[argh(positional, arg_name = "FILE")]
    file: Option<PathBuf>,
}

/// Runs the applet.
pub fn run(args: &[String]) -> ExitCode {
    let options: Options = match args::parse("check", args) {
        Ok(options) => options,
        Err(Early::Help(text)) => {
            return out::exit(0, out::print(&(text + CODES)));
        }
        Err(Early::Usage(message)) => return out::usage("check", &message),
    };
    if options.here && !inside::HERE {
        return out::usage(
            "check",
            "--here works only inside a bundle, on Linux; leave it out to check the table alone",
        );
    }
    let named = match (options.config, options.file) {
        (Some(_), Some(_)) => return out::usage("check", "give FILE or --config FILE, not both"),
        (Some(file), None) | (None, Some(file)) => Some(file),
        // As init does.
        (None, None) => std::env::var_os("SIDECAR_CONFIG").filter(|file| !file.is_empty()).map(PathBuf::from),
    };
    match Table::load(named.as_deref()) {
        Ok((table, source)) => {
            let written = out::print(&explain::meaning(&table, &source));
            let warnings = if options.here {
                let mut warnings = warn::warnings(&table, &LocalPorts::here());
                warnings.extend(warn::missing(&table, inside::fault_of));
                warnings.extend(inside::lacks(&table));
                warnings
            } else {
                let mut warnings = warn::warnings(&table, &LocalPorts::usual());
                warnings.extend(warn::of_its_container(&table));
                warnings
            };
            for warning in warnings {
                out::error(&format!("{source}: warning: {warning}"));
            }
            out::exit(0, written)
        }
        Err(e) => out::usage("check", &e.to_string()),
    }
}

/// A duration, as the table would spell it.
fn time(duration: Duration) -> String {
    match duration.as_millis() {
        ms if ms % 60_000 == 0 && ms > 0 => format!("{}m", ms / 60_000),
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    }
}

/// A daemon's name, by its index.
fn name(table: &Table, daemon: usize) -> &str {
    table.daemons.get(daemon).map_or("?", |daemon| &daemon.name)
}
