//! The process that asks a daemon whether it is ready. init itself does no network I/O.

use std::io::Write;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use crate::change::{probe, proof};
use crate::page;
use crate::text::Printable;

/// The hidden applet: `probe NAME PID` exits 0 if the daemon with that process is ready, else it prints a line that says
/// why not.
pub const PROBE: &str = "probe";
/// How long the page may take to show that process: init publishes the page after it has started the probe.
const TO_SHOW: Duration = Duration::from_secs(1);
/// How often the page is read meanwhile.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Runs the applet.
#[must_use]
pub fn probe(args: &[String]) -> ExitCode {
    let Err(why) = ask(args) else { return ExitCode::SUCCESS };
    // The exit code counts even if nobody reads the line.
    let _ = writeln!(std::io::stdout(), "{why}");
    ExitCode::FAILURE
}

fn ask(args: &[String]) -> Result<(), Printable> {
    let words = |text: &str| Printable::new(text);
    let [name, pid] = args else { return Err(words("usage: probe NAME PID; init calls it")) };
    let until = Instant::now() + TO_SHOW;
    loop {
        let page = page::read_of_parent().map_err(|why| words(&why))?;
        let shown = proof::find(&page, name).and_then(|(daemon, _)| daemon.pid);
        if shown.is_some_and(|shown| shown.to_string() == *pid) {
            return probe::why_not(&page, name, probe::INITS_TIMEOUT);
        }
        if Instant::now() > until {
            return Err(words(&format!("its process {pid} isn't there any more")));
        }
        thread::sleep(POLL_INTERVAL);
    }
}
