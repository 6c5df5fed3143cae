//! Output that can't panic, as the print macros do when a stream is closed.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use sidecar::text::one_line;

/// Writes to stdout, all at once. It is no error if the reader has closed the pipe: it has what it wanted.
pub fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Writes a line to stderr. Since it may quote a file or the command line, control characters are escaped. If the write fails, it is
/// ignored: there is nobody left to tell.
pub fn error(line: &str) {
    let _ = writeln!(io::stderr(), "{}", one_line(line));
}

/// The exit code of an applet that wrote to stdout: `code`, but not 0 if the write failed.
pub fn exit(code: u8, written: io::Result<()>) -> ExitCode {
    match written {
        Ok(()) => ExitCode::from(code),
        Err(e) => {
            error(&format!("sidecar: cannot write to stdout: {e}"));
            ExitCode::from(code.max(1))
        }
    }
}

/// A usage error.
pub fn usage(applet: &str, message: &str) -> ExitCode {
    error(&format!("{applet}: {message}"));
    ExitCode::from(2)
}
