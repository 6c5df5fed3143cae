//! A request to init: one line, written to PID 1's descriptor [`REQUEST_FD`]. The status page shows under its daemon what became
//! of it.
//!
//! ```text
//! \nID VERB [SIGNAL] NAME\n
//! ```
//!
//! A process may open `/proc/1/fd/101` only if the kernel lets it trace PID 1: proc(5), ptrace(2). So init checks no credentials.

use std::fmt;

use crate::table::{MAX_NAME, Signal};

/// PID 1's descriptor of the pipe that requests come through: `/proc/1/fd/101`.
pub const REQUEST_FD: i32 = 101;
/// PID 1's descriptor of the file whose flock(2) is the apply lock: `/proc/1/fd/102`.
pub const LOCK_FD: i32 = 102;
/// PID 1's descriptor of the file that says how its daemons' processes are set up: `/proc/1/fd/103`. It is /dev/null if none needs a
/// set-up.
pub const SETUPS_FD: i32 = 103;
/// PID 1's descriptor of the pipe that tells when the status page has changed: `/proc/1/fd/104`.
pub const CHANGES_FD: i32 = 104;
/// The name of the memfd behind [`SETUPS_FD`].
pub const SETUPS_NAME: &str = "sidecar-setups";
/// The name of the memfd behind [`LOCK_FD`], as `/proc/1/fd/102` shows it.
pub const LOCK_NAME: &str = "sidecar-lock";
/// The size of that file in bytes. It can't be changed, so the holder overwrites the file and never truncates it.
pub const LOCK_SIZE: u64 = 4096;
/// The longest request in bytes, its two newlines included. It is far below `PIPE_BUF`, so it is written in one piece: pipe(7).
pub const MAX_REQUEST: usize = 512;
/// How many decided requests of a daemon the status page keeps.
pub const KEPT: usize = 8;
/// The longest id, in bytes.
pub const MAX_ID: usize = 64;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Stop it if it runs, then start it.
    Restart,
    /// Stop it, and don't start it again.
    Stop,
    /// Start it unless it runs.
    Start,
    /// Send it this signal.
    Signal(Signal),
}

/// A request about one daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The identifier that the sender gave it: letters, digits and `-`, at most [`MAX_ID`] bytes.
    pub id: String,
    /// What it asks for.
    pub verb: Verb,
    /// The daemon's name.
    pub daemon: String,
}

impl Verb {
    /// Its name, without the name of a signal.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Stop => "stop",
            Self::Start => "start",
            Self::Signal(_) => "signal",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(signal) => write!(f, "signal {signal}"),
            verb => f.write_str(verb.name()),
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{} {} {}\n", self.id, self.verb, self.daemon)
    }
}

impl Request {
    /// Reads a line, without its newlines. `None` if it isn't a request.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(line).ok().filter(|line| line.len() + 2 <= MAX_REQUEST)?;
        let words: Vec<&str> = line.split(' ').collect();
        let (id, verb, name) = match *words.as_slice() {
            [id, "restart", name] => (id, Verb::Restart, name),
            [id, "stop", name] => (id, Verb::Stop, name),
            [id, "start", name] => (id, Verb::Start, name),
            [id, "signal", signal, name] => (id, Verb::Signal(Signal::from_name(signal)?), name),
            _ => return None,
        };
        let is_id = (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let is_name = (1..=MAX_NAME).contains(&name.len());
        (is_id && is_name).then(|| Self { id: id.to_owned(), verb, daemon: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_it_was_written() {
        for verb in
            [Verb::Restart, Verb::Stop, Verb::Start, Verb::Signal(Signal::HUP), Verb::Signal(Signal::RealTime(3))]
        {
            let request = Request { id: "a-1".to_owned(), verb, daemon: "git-gate".to_owned() };
            assert_eq!(Request::parse(request.to_string().trim_matches('\n').as_bytes()), Some(request));
        }
    }

    #[test]
    fn what_is_no_request_is_not_read_as_one() {
        let long = format!("1 stop {}", "a".repeat(MAX_REQUEST));
        for line in [
            "",
            "1",
            "1 stop",
            "1 stop a b",
            "1  stop a",
            "1 signal a",
            "1 signal NONE a",
            "1 kill a",
            "! stop a",
            &long,
        ] {
            assert_eq!(Request::parse(line.as_bytes()), None, "{line}");
        }
        assert_eq!(Request::parse(b"1 stop \xff"), None);
    }
}
