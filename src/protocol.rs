//! What the host and the helper in the bundle say to each other: JSON, one object a line.
//!
//! The first line each way has the protocol's number. A side that gets a number that it doesn't know says which side to upgrade.
//! Keys may be added without a new number. Known keys are parsed strictly, and every text from the other side is [`Printable`].

use std::fmt::Write;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::change::proof::{Incarnation, Target};
use crate::change::reason::{Ended, Reason, RecordedOutcome, Recovered};
use crate::text::Printable;

/// The protocol that this version speaks.
pub const PROTOCOL: u32 = 5;
/// The hidden applet that is the helper. Protocol 3 called it `witness`.
pub const HELPER: &str = "helper";
/// The most that one side reads from the other, in bytes, all lines together.
pub const MAX_BYTES: usize = 64 * 1024;
/// The largest content, in bytes.
pub const MAX_CONTENT: u64 = 1 << 20;
/// The version that each side sends.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The host's first line: what it is about to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The host's version.
    pub version: Printable,
    /// The signal that the host would send, as the table names it.
    #[serde(default)]
    pub signal: Option<String>,
    /// Instead of a signal: the daemon that the helper asks init to restart.
    #[serde(default)]
    pub daemon: Option<String>,
    /// Whether the helper sends the signal, since the host can't.
    #[serde(default)]
    pub from_inside: bool,
    /// In milliseconds. It limits the wait for another apply, and again the time from the check to the proof.
    pub timeout_ms: u64,
    /// What to do.
    pub task: Task,
    /// The change's identifier, by which the host can ask later what became of it.
    pub id: Printable,
    /// Who makes the change.
    pub by: Printable,
}

/// What the helper must do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "kebab-case")]
pub enum Task {
    /// Only say what is there.
    Identify,
    /// Prove the file in place, which was changed by other means.
    InPlace,
    /// Make new content live. The host sends it as raw bytes after the helper's first line.
    File {
        /// The content's length, in bytes.
        bytes: u64,
        /// The content's sha256.
        sha256: Printable,
        /// Whether to apply it even if it is live already.
        force: bool,
    },
    /// Check new content, and say which lines it would change.
    DryRun {
        /// The content's length, in bytes.
        bytes: u64,
        /// The content's sha256.
        sha256: Printable,
        /// Whether to send the text of those lines too.
        show: bool,
    },
    /// Recover what was interrupted, and say what became of the change with the request's id.
    Ask,
}

/// What the host sends after its first line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum HostMessage {
    /// docker accepted the signal, so it is at least pending for init.
    Sent,
    /// docker failed to send the signal, as far as the host knows.
    NotSent,
    /// The host has received the proof: commit.
    Ack,
    /// Undo the change.
    Cancel,
}

/// What the helper sends after its first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum HelperMessage {
    /// An earlier, interrupted change is recovered first.
    Recovering {
        /// How long that may take, in milliseconds: its daemon's grace and the timeout again.
        within_ms: u64,
    },
    /// Send the signal now.
    Go {
        /// What init does to which daemon, and the daemon's state now.
        target: Target,
        /// The daemon's grace, in milliseconds: from its stop signal to SIGKILL.
        grace_ms: u64,
    },
    /// The helper has sent the signal or the request, and won't prove anything.
    Sent,
    /// The change is proven. The helper commits it once the host acknowledges.
    Proven,
    /// The last message.
    End(Box<End>),
}

/// How a change ended, and what was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// How it ended, and why.
    #[serde(flatten)]
    pub ended: Ended,
    /// Earlier, interrupted changes that were recovered first.
    #[serde(default)]
    pub recovered: Vec<Recovered>,
    /// The old file's uid and gid, if its owner couldn't be kept.
    #[serde(default)]
    pub owner_was: Option<(u32, u32)>,
    /// The daemon's process at the last look, if something was sent.
    pub after: Option<Incarnation>,
    /// Other daemons that got another process, or lost theirs, during the proof.
    pub siblings_moved: Option<Vec<Printable>>,
    /// Whether a checker passed the content; `None` if there is no file, or the change ended before the check.
    pub checked: Option<bool>,
    /// What a dry run would change.
    #[serde(default)]
    pub diff: Option<Diff>,
    /// How long the wait for another apply took, and the recovery of what it left.
    pub wait_ms: u64,
    /// How long the check took.
    pub check_ms: u64,
    /// How long going back took.
    pub back_ms: u64,
}

impl End {
    /// An end of which nothing else is known yet.
    #[must_use]
    pub fn new(ended: Ended) -> Self {
        Self {
            ended,
            recovered: Vec::new(),
            owner_was: None,
            after: None,
            siblings_moved: None,
            checked: None,
            diff: None,
            wait_ms: 0,
            check_ms: 0,
            back_ms: 0,
        }
    }
}

/// Which lines change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diff {
    /// The first hunks, in order.
    pub hunks: Vec<Hunk>,
    /// How many further hunks there are.
    pub more: usize,
}

/// Some lines, and the lines that replace them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hunk {
    /// The lines that are removed.
    pub old: Lines,
    /// The lines that are added.
    pub new: Lines,
    /// The text of both, after `-` and `+`, if the host asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<Vec<Printable>>,
}

/// A range of lines, counted from 1. If it is empty, `first` is the line before which it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Lines {
    pub first: usize,
    pub count: usize,
}

/// The helper's first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The bundle's version.
    pub version: Printable,
    /// What it found.
    #[serde(flatten)]
    pub reply: Reply,
}

/// The helper's answer to the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// init would act on the signal or the request. The helper stays.
    Hello {
        /// What init would do to which daemon.
        target: Target,
    },
    /// init would do nothing.
    Refused {
        /// Why not.
        why: Reason,
        /// What the signal or the request is about, if the table has a rule or a daemon for it.
        target: Option<Target>,
    },
    /// What became of the change that the host asked about.
    Recorded {
        /// Its outcome; `None` if it put nothing in place.
        outcome: Option<RecordedOutcome>,
    },
    /// PID 1 isn't `sidecar init`.
    NotInit {
        /// Why the status page couldn't be read.
        error: Printable,
    },
    /// The request has a protocol that the helper doesn't know.
    Protocol,
}

/// The number and the version of a side that speaks another protocol.
pub type OtherProtocol = (u32, Printable);

/// The part of each side's first line that every protocol has. It is read first, since the rest of another protocol's line isn't
/// known.
#[derive(Deserialize)]
struct First {
    protocol: u32,
    version: Printable,
}

/// Reads one side's first line; `None` if it isn't one.
#[must_use]
pub fn first<T: DeserializeOwned>(line: &[u8]) -> Option<Result<T, OtherProtocol>> {
    let First { protocol, version } = serde_json::from_slice(line).ok()?;
    if protocol == PROTOCOL { serde_json::from_slice(line).ok().map(Ok) } else { Some(Err((protocol, version))) }
}

/// The sha256 of a content in hex, by which both sides identify it.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Printable {
    let mut hex = String::new();
    for byte in Sha256::digest(bytes) {
        let _ = write!(hex, "{byte:02x}");
    }
    Printable::new(&hex)
}

/// Writes one object as a line, newline included.
#[must_use]
pub fn line(message: &impl Serialize) -> String {
    // Printable structs of strings and numbers: they can't fail to serialize.
    let mut line = serde_json::to_string(message).unwrap_or_default();
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::proof::{Act, Incarnation};

    fn hear(line: &[u8]) -> Option<Result<Reply, OtherProtocol>> {
        first::<Answer>(line).map(|answer| answer.map(|answer| answer.reply))
    }

    fn hello() -> Reply {
        let before = Incarnation { pid: Some(17), generation: 1 };
        Reply::Hello { target: Target { action: Act::Restart, daemon: Printable::new("pipelock"), before, seq: 0 } }
    }

    #[test]
    fn what_one_side_says_the_other_hears() {
        for reply in [hello(), Reply::Refused { why: Reason::Stopping, target: None }] {
            let said = line(&Answer { protocol: PROTOCOL, version: Printable::new("1"), reply: reply.clone() });
            assert_eq!(hear(said.as_bytes()), Some(Ok(reply)));
        }
        let file = Task::File { bytes: 3, sha256: Printable::new("00"), force: false };
        let asked = Request {
            protocol: PROTOCOL,
            version: Printable::new("1"),
            signal: Some("HUP".to_owned()),
            daemon: None,
            from_inside: true,
            timeout_ms: 5,
            task: file,
            id: Printable::new("1"),
            by: Printable::new("me@here"),
        };
        assert_eq!(first(line(&asked).as_bytes()), Some(Ok(asked)));
    }

    #[test]
    fn a_content_is_known_by_its_sha256() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc").as_str(), abc);
    }

    #[test]
    fn another_protocol_is_told_by_its_number_alone() {
        let newer = br#"{"protocol":6,"version":"9\u001b[2J","else":[]}"#;
        assert_eq!(hear(newer), Some(Err((6, Printable::new("9\x1b[2J")))));
        assert_eq!(first::<Request>(newer), Some(Err((6, Printable::new("9\x1b[2J")))));
        let older = br#"{"protocol":1,"version":"0.9","reply":"protocol"}"#;
        assert_eq!(hear(older), Some(Err((1, Printable::new("0.9")))));
    }

    #[test]
    fn garbage_is_not_heard() {
        for garbage in [
            &b""[..],
            b"\xff\xfe",
            b"[]",
            b"{}",
            b"Linux 6.1",
            br#"{"protocol":5,"version":"1"}"#,
            br#"{"protocol":5,"version":"1","reply":"hello"}"#,
            br#"{"protocol":-1,"version":"1","reply":"protocol"}"#,
            br#"{"protocol":5,"version":"1","reply":"protocol"} trailing"#,
        ] {
            assert_eq!(hear(garbage), None, "{}", String::from_utf8_lossy(garbage));
        }
    }
}
