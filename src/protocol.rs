//! What the host and the helper in the bundle say to each other: JSON, one object a line.
//!
//! The first line each way carries the protocol's number. A side that hears a number that it doesn't know says what
//! to upgrade. Keys may be added within a number; what is there is parsed strictly, and every text that came from
//! the other side is [`Printable`].

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
/// The most that one side reads of the other, in bytes, all lines together.
pub const MAX_BYTES: usize = 64 * 1024;
/// The largest content, in bytes.
pub const MAX_CONTENT: u64 = 1 << 20;
/// The version that each side tells.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The host's first line: what it is about to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The host's version.
    pub version: Printable,
    /// The signal that it would send, as the table names it.
    #[serde(default)]
    pub signal: Option<String>,
    /// Instead of a signal: the daemon that init is to be asked to restart, by the helper.
    #[serde(default)]
    pub daemon: Option<String>,
    /// The helper sends the signal by itself: the host can't.
    #[serde(default)]
    pub from_inside: bool,
    /// How long it may take: the wait for another apply, then the time from the check to the proof.
    pub timeout_ms: u64,
    /// What is to be done.
    pub task: Task,
    /// The transaction's own name, by which it is asked after.
    pub id: Printable,
    /// Who asks for it.
    pub by: Printable,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "kebab-case")]
pub enum Task {
    /// Say who is there, no more.
    Identify,
    /// Prove a file that was changed by other means.
    InPlace,
    /// Make this content live. It follows the helper's first line, raw.
    File {
        /// Its length.
        bytes: u64,
        /// Its digest.
        sha256: Printable,
        /// Even where it is live already.
        force: bool,
    },
    /// Say what this content would change.
    DryRun {
        /// Its length.
        bytes: u64,
        /// Its digest.
        sha256: Printable,
        /// With the lines' text.
        show: bool,
    },
    /// Recover what was interrupted, and say what became of the change of that id.
    Ask,
}

/// What the host says after its first line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum HostMessage {
    /// docker took the signal, so init has it pending at least.
    Sent,
    /// docker did not, as far as can be told.
    NotSent,
    /// The proof was heard: commit.
    Ack,
    /// Go back.
    Cancel,
}

/// What the helper says after its first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum HelperMessage {
    /// An earlier, interrupted change is recovered first: its daemon's grace and the time-out again.
    Recovering {
        /// How long that may take.
        within_ms: u64,
    },
    /// Send the signal now.
    Go {
        /// What it would act on, as that stands now.
        target: Target,
        /// From a SIGTERM to a SIGKILL of it.
        grace_ms: u64,
    },
    /// The signal was sent from inside, and no more was asked for.
    Sent,
    /// It is proven; committed once it is acknowledged.
    Proven,
    /// The last word.
    End(Box<End>),
}

/// How it ended, and what was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// How, and why.
    #[serde(flatten)]
    pub ended: Ended,
    /// What was recovered first of earlier, interrupted changes.
    #[serde(default)]
    pub recovered: Vec<Recovered>,
    /// The owner that the file had, if it couldn't be kept.
    #[serde(default)]
    pub owner_was: Option<(u32, u32)>,
    /// The daemon as it was seen last, if a signal was sent.
    pub after: Option<Incarnation>,
    /// Other daemons that got another process, or lost theirs, meanwhile.
    pub siblings_moved: Option<Vec<Printable>>,
    /// Whether a checker passed the content; `None` where there is no file, or it didn't come so far.
    pub checked: Option<bool>,
    /// What a dry run found.
    #[serde(default)]
    pub diff: Option<Diff>,
    /// The wait for another apply, and the recovery of what it left.
    pub wait_ms: u64,
    /// The check.
    pub check_ms: u64,
    /// The way back.
    pub back_ms: u64,
}

impl End {
    /// It ended so, and nothing else is known yet.
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
    /// In order.
    pub hunks: Vec<Hunk>,
    /// How many further ones there are.
    pub more: usize,
}

/// Lines that take others' place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hunk {
    /// Those that go.
    pub old: Lines,
    /// Those that come.
    pub new: Lines,
    /// Both, behind - and +, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<Vec<Printable>>,
}

/// Some lines of a file; where there are none, `first` is the one before which they would be.
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

/// Who is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// This init, which would act on the signal. The helper stays.
    Hello {
        /// What it would act on.
        target: Target,
    },
    /// This init, which would do nothing.
    Refused {
        /// Why not.
        why: Reason,
        /// What the signal is wired to, where it is.
        target: Option<Target>,
    },
    /// What became of the change that was asked after.
    Recorded {
        /// `None`: it put nothing in place.
        outcome: Option<RecordedOutcome>,
    },
    /// PID 1 is no init of ours.
    NotInit {
        /// What the page's reader says.
        error: Printable,
    },
    /// The request has a protocol that the helper doesn't know.
    Protocol,
}

/// The number and the version of a side that speaks another protocol.
pub type OtherProtocol = (u32, Printable);

/// What each side's first line begins with. It is read alone first: what else another protocol's line holds isn't known.
#[derive(Deserialize)]
struct First {
    protocol: u32,
    version: Printable,
}

/// Reads one side's first line; `None` if it is none.
#[must_use]
pub fn first<T: DeserializeOwned>(line: &[u8]) -> Option<Result<T, OtherProtocol>> {
    let First { protocol, version } = serde_json::from_slice(line).ok()?;
    if protocol == PROTOCOL { serde_json::from_slice(line).ok().map(Ok) } else { Some(Err((protocol, version))) }
}

/// The sha256 in hex, by which both sides know a content.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Printable {
    let mut hex = String::new();
    for byte in Sha256::digest(bytes) {
        let _ = write!(hex, "{byte:02x}");
    }
    Printable::new(&hex)
}

/// One object as a line.
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
