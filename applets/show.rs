//! What an apply shows: a line or an object for each bundle as soon as it is done, a summary if there are several, and the progress
//! if stderr is a terminal.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use sidecar::host::docker::POLL_INTERVAL;
use sidecar::host::fleet::Counts;
use sidecar::host::report::{Asked, Report, Summary};
use sidecar::host::run::Told;
use sidecar::host::stop;

use crate::out;

/// How long an apply that a person ends with Ctrl-C waits for a slow reader of stdout.
const TO_WRITE: Duration = Duration::from_secs(2);

/// Writes in a thread of its own, so that a stalled reader (a pager, say) delays no bundle and no Ctrl-C.
pub struct Show {
    told: Sender<Told>,
    written: Receiver<io::Result<()>>,
    counts: Option<Counts>,
    exit: u8,
}

impl Show {
    /// Starts the thread.
    ///
    /// # Errors
    /// The machine allows no more threads.
    pub fn start(asked: Asked, json: bool) -> io::Result<Self> {
        let (sender, told) = mpsc::channel();
        let (done, written) = mpsc::channel();
        let show = move || {
            let mut screen = Screen::new(asked, json);
            for told in told {
                screen.tell(told);
            }
            let _ = done.send(screen.end());
        };
        thread::Builder::new().spawn(show)?;
        Ok(Self { told: sender, written, counts: None, exit: 0 })
    }

    /// Queues this for the thread to show.
    pub fn tell(&mut self, told: Told) {
        match &told {
            Told::Report(report) => self.exit = self.exit.max(report.exit()),
            Told::Counts(counts) if self.counts.replace(*counts) == Some(*counts) => return,
            Told::Counts(_) | Told::Terminating(_) => {}
        }
        let _ = self.told.send(told);
    }

    /// Waits until all is written, or for a moment only if a person has pressed Ctrl-C. Returns the exit code, and whether everything
    /// could be written.
    pub fn end(self) -> (u8, io::Result<()>) {
        drop(self.told);
        let mut left = None;
        loop {
            match self.written.recv_timeout(POLL_INTERVAL) {
                Ok(written) => return (self.exit, written),
                Err(RecvTimeoutError::Timeout) if stop::count() < 2 => {}
                Err(RecvTimeoutError::Timeout) if left.get_or_insert_with(Instant::now).elapsed() < TO_WRITE => {}
                Err(_) => return (self.exit, Err(io::Error::other("nothing reads it"))),
            }
        }
    }
}

/// What is shown of one apply, and where.
struct Screen {
    asked: Asked,
    json: bool,
    /// Whether stderr is a terminal on which a line can be erased.
    live: bool,
    /// The progress on the terminal's last line, which is erased before the next output.
    progress: Option<String>,
    summary: Summary,
    started: Instant,
    written: io::Result<()>,
}

impl Screen {
    fn new(asked: Asked, json: bool) -> Self {
        let live = !json && io::stderr().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb");
        Self {
            asked,
            json,
            live,
            progress: None,
            summary: Summary::default(),
            started: Instant::now(),
            written: Ok(()),
        }
    }

    fn tell(&mut self, told: Told) {
        match told {
            Told::Report(told) => {
                self.summary.add(&told);
                self.erase();
                let written = report(&self.asked, self.json, &told);
                self.note(written);
            }
            Told::Counts(counts) => self.draw(counts),
            Told::Terminating(count) => {
                self.summary.terminating = count;
                if !self.json {
                    let pods = if count == 1 { "pod that is" } else { "pods that are" };
                    out::error(&format!("{}: note: left out {count} {pods} terminating", self.asked.applet));
                }
            }
        }
    }

    fn end(mut self) -> io::Result<()> {
        self.erase();
        if self.summary.bundles() > 1 || self.json && self.summary.terminating > 0 {
            let ms = self.started.elapsed().as_millis();
            if self.json {
                let written = out::print(&(self.summary.json(&self.asked, ms) + "\n"));
                self.note(written);
            } else {
                out::error(&self.summary.line(&self.asked, ms));
            }
        }
        // For a person, not for a log.
        if let Some(worst) = self.summary.worst().filter(|_| self.live) {
            out::error(&format!("what that means, and what to do: sidecar --explain {}", worst.name()));
        }
        self.written
    }

    fn note(&mut self, written: io::Result<()>) {
        if self.written.is_ok() {
            self.written = written;
        }
    }

    fn draw(&mut self, counts: Counts) {
        let Counts { waiting, under_way, held, well, failed } = counts;
        let all = waiting + under_way + held + well + failed;
        if !self.live || all < 2 {
            return;
        }
        let mut line = format!("{}/{all}", well + failed);
        for (count, what) in [(failed, "failed"), (under_way, "under way"), (held, "proven"), (waiting, "waiting")] {
            if count > 0 {
                let _ = write!(line, ", {count} {what}");
            }
        }
        if self.progress.as_ref() != Some(&line) {
            self.erase();
            let _ = io::stderr().write_all(line.as_bytes());
            self.progress = Some(line);
        }
    }

    fn erase(&mut self) {
        if self.progress.take().is_some() {
            // Return to the beginning of the line, and erase it.
            let _ = io::stderr().write_all(b"\r\x1b[K");
        }
    }
}

/// Writes one bundle's line or object to the stream where it belongs.
pub fn report(asked: &Asked, json: bool, report: &Report) -> io::Result<()> {
    if json {
        return out::print(&(report.json(asked) + "\n"));
    }
    if let Some(note) = report.note() {
        out::error(&note);
    }
    if report.is_success() {
        out::print(&(report.line(asked) + "\n"))
    } else {
        out::error(&report.line(asked));
        Ok(())
    }
}
