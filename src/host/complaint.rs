//! What the complaints of docker, podman, nerdctl and kubectl mean. They are judged as a whole; only what a person is
//! shown of them is cut. No I/O.

use super::docker::CallError;
use super::engine::Engine;
use crate::change::reason::Reason;
use crate::text::Printable;

/// Nothing of the container runs any more.
const DEAD: [&str; 7] = [
    "no such container",
    "no container with",
    "is not running",
    "container state improper",
    "error from server (notfound)",
    "container not found",
    "in a completed pod",
];
/// It can't be reached.
const UNREACHABLE: [&str; 8] = [
    "is paused",
    "is restarting",
    "cannot connect to",
    "is the docker daemon running",
    "unable to connect to the server",
    "the connection to the server",
    "error from server (forbidden)",
    "error: you must be logged in",
];
/// The client's connection broke, or one behind it. What was asked for may have been done.
const BROKEN: [&str; 6] = [
    "error during connect",
    "error sending request",
    "unexpected eof",
    "connection reset by peer",
    "i/o timeout",
    "tls handshake timeout",
];
/// kubectl's connection broke before anything was executed.
const UNBEGUN: [&str; 3] = ["error dialing backend", "error from server", "unable to upgrade connection"];

/// All that a call has complained about.
#[derive(Clone, Debug, Default)]
pub struct Complaint(String);

impl Complaint {
    pub fn new(stderr: &[u8]) -> Self {
        Self(String::from_utf8_lossy(stderr).into_owned())
    }

    pub fn is_empty(&self) -> bool {
        self.0.trim().is_empty()
    }

    /// What a person is shown of it.
    pub fn words(&self) -> Printable {
        Printable::new(&self.0)
    }

    pub fn says(&self, phrases: &[&str]) -> bool {
        let lower = self.0.to_lowercase();
        phrases.iter().any(|phrase| lower.contains(phrase))
    }

    /// Nothing of the container runs any more.
    pub fn is_dead(&self) -> bool {
        self.says(&DEAD)
    }

    /// The container can't be reached: nothing was done there.
    pub fn is_gone(&self) -> bool {
        self.is_dead() || self.says(&UNREACHABLE)
    }

    /// The connection broke, in the middle perhaps.
    pub fn is_broken(&self) -> bool {
        self.says(&BROKEN) || self.says(&UNBEGUN)
    }

    /// Nothing was executed there.
    pub fn never_began(&self) -> bool {
        self.is_gone() || self.says(&UNBEGUN)
    }
}

/// Why a call came to nothing, before anything was sent.
pub fn call_failed(engine: &Engine, what: &str, e: &CallError) -> Reason {
    match e {
        CallError::Spawn(e) => Reason::NoProgram {
            program: Printable::from_bytes(engine.program.as_encoded_bytes()),
            words: Printable::new(&e.to_string()),
        },
        CallError::Left => Reason::Interrupted,
        CallError::TimedOut => {
            Reason::CallFailed { call: Printable::new(what), words: Printable::new("it gave no answer in time") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_judged_by_all_of_it_though_little_is_shown() {
        let long =
            [&b"x".repeat(1000)[..], b"Error response from daemon: No such container: b1", &b"y".repeat(1000)].concat();
        let complaint = Complaint::new(&long);
        assert!(complaint.is_dead() && complaint.is_gone() && complaint.never_began() && !complaint.is_broken());
        assert!(!complaint.words().as_str().contains("No such"), "{}", complaint.words());
    }
}
