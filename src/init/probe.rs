//! Probes: short-lived children that ask a daemon whether it is ready.

use nix::unistd::read;

use crate::launch::{Environment, MAX_REPORT, NotStarted, PROBE, Parent, Program, Started, Streams};
use crate::text::Printable;

/// How much of a probe's output is read, which is what its pipe holds by default. Ours prints one line.
const MAX_OUTPUT: usize = 64 * 1024;
/// How much of its end is kept.
const KEPT: usize = 4096;

/// A probe that isn't reaped yet.
pub struct Probe {
    program: Program,
    started: Started,
}

impl Probe {
    /// Starts a probe of the daemon with this process, which has this environment. It is executed as a daemon is.
    ///
    /// # Errors
    /// The step that failed, and why.
    pub fn start(name: &str, pid: i32, env: &Environment, parent: Parent<'_>) -> Result<Self, NotStarted> {
        let command = ["/proc/self/exe", PROBE, name, &pid.to_string()].map(str::to_owned);
        let program = Program::new(&command, env, Vec::new(), None);
        let started = program.start(parent, Streams::One)?;
        Ok(Self { program, started })
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.started.pid
    }

    /// The last line that it printed, or why it could not be executed. This is read only once the probe has ended: nothing needs it
    /// before, and the pipe holds more than a probe prints.
    #[must_use]
    pub fn words(&self) -> String {
        let (mut bytes, mut said, mut size) = ([0; KEPT], Vec::new(), 0);
        while let Ok(n @ 1..) = read(&self.started.stdout, &mut bytes) {
            said.extend_from_slice(bytes.get(..n).unwrap_or_default());
            said.drain(..said.len().saturating_sub(KEPT));
            size += n;
            if size >= MAX_OUTPUT {
                break;
            }
        }
        let said = String::from_utf8_lossy(&said);
        let last = said.lines().rev().map(str::trim).find(|line| !line.is_empty());
        last.map_or_else(|| self.not_executed(), |last| Printable::new(last).as_str().to_owned())
    }

    fn not_executed(&self) -> String {
        let mut report = [0; MAX_REPORT];
        let size = read(&self.started.report, &mut report).unwrap_or(0);
        let report = self.program.read_report(report.get(..size).unwrap_or_default());
        report.failed.map(|why| why.to_string()).unwrap_or_default()
    }
}
