//! What the host and the helper in the bundle say to each other: JSON, one object a line.
//!
//! The first line each way carries the protocol's number. A side that hears a number that it doesn't know says what
//! to upgrade. Keys may be added within a number; what is there is parsed strictly, and every text that came from
//! the other side is [`Plain`].

use serde::{Deserialize, Serialize};

use super::proof::{Refusal, Target};
use crate::text::Plain;

/// The protocol that this version speaks.
pub const PROTOCOL: u32 = 1;
/// The most that one side reads of the other, in bytes, all lines together.
pub const MAX_BYTES: usize = 64 * 1024;
/// The version that each side tells.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The host's first line: what it is about to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The host's version.
    pub version: Plain,
    /// The signal that it would send, as the table names it.
    pub signal: String,
    /// How long the helper looks for a proof, counted from its answer.
    pub timeout_ms: u64,
}

/// The host's second line: the signal is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum Say {
    /// docker took the signal, so init has it pending at least.
    Sent,
}

/// The helper's first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The bundle's version.
    pub version: Plain,
    /// What it found.
    #[serde(flatten)]
    pub reply: Reply,
}

/// Who is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// This init, which would act on the signal. The helper stays and looks for the proof.
    Hello {
        /// What it would act on.
        target: Target,
    },
    /// This init, which would do nothing.
    Refused {
        /// Why not.
        why: Refusal,
        /// What the signal is wired to, where it is.
        target: Option<Target>,
    },
    /// PID 1 is no init of ours.
    NotInit {
        /// What the page's reader says.
        error: Plain,
    },
    /// The request has a protocol that the helper doesn't know.
    Protocol,
}

/// What the host makes of the helper's first line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It speaks this protocol.
    Reply(Reply),
    /// It speaks another.
    OtherProtocol {
        /// The one it speaks.
        protocol: u32,
        /// Its version.
        version: Plain,
    },
}

/// Reads the helper's first line; `None` if it is none.
#[must_use]
pub fn hear(line: &[u8]) -> Option<Heard> {
    #[derive(Deserialize)]
    struct First {
        protocol: u32,
        version: Plain,
    }
    // The number alone first: what else another protocol's line holds isn't known.
    let First { protocol, version } = serde_json::from_slice(line).ok()?;
    if protocol != PROTOCOL {
        return Some(Heard::OtherProtocol { protocol, version });
    }
    match serde_json::from_slice::<Answer>(line).ok()?.reply {
        Reply::Protocol => Some(Heard::OtherProtocol { protocol, version }),
        reply => Some(Heard::Reply(reply)),
    }
}

/// Reads the host's first line. `Err(None)`: it is none; `Err(Some(n))`: of another protocol.
///
/// # Errors
/// See above.
pub fn request(line: &[u8]) -> Result<Request, Option<u32>> {
    #[derive(Deserialize)]
    struct First {
        protocol: u32,
    }
    let First { protocol } = serde_json::from_slice(line).map_err(|_| None)?;
    if protocol != PROTOCOL {
        return Err(Some(protocol));
    }
    serde_json::from_slice(line).map_err(|_| None)
}

/// One object as a line.
#[must_use]
pub fn line(message: &impl Serialize) -> String {
    // Plain structs of strings and numbers: they can't fail to serialize.
    let mut line = serde_json::to_string(message).unwrap_or_default();
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::proof::{Act, Incarnation};

    fn hello() -> Reply {
        let before = Incarnation { pid: Some(17), generation: 1 };
        Reply::Hello { target: Target { action: Act::Restart, daemon: Plain::new("pipelock"), before, seq: 0 } }
    }

    #[test]
    fn what_one_side_says_the_other_hears() {
        for reply in [hello(), Reply::Refused { why: Refusal::NotWired, target: None }] {
            let said = line(&Answer { protocol: PROTOCOL, version: Plain::new("1"), reply: reply.clone() });
            assert_eq!(hear(said.as_bytes()), Some(Heard::Reply(reply)));
        }
        let asked = Request { protocol: 1, version: Plain::new("1"), signal: "HUP".to_owned(), timeout_ms: 5 };
        assert_eq!(request(line(&asked).as_bytes()), Ok(asked));
    }

    #[test]
    fn another_protocol_is_told_by_its_number_alone() {
        let newer = br#"{"protocol":2,"version":"9\u001b[2J","else":[]}"#;
        assert_eq!(hear(newer), Some(Heard::OtherProtocol { protocol: 2, version: Plain::new("9\x1b[2J") }));
        assert_eq!(request(newer), Err(Some(2)));
        let older = br#"{"protocol":1,"version":"0.9","reply":"protocol"}"#;
        assert_eq!(hear(older), Some(Heard::OtherProtocol { protocol: 1, version: Plain::new("0.9") }));
    }

    #[test]
    fn garbage_is_not_heard() {
        for garbage in [
            &b""[..],
            b"\xff\xfe",
            b"[]",
            b"{}",
            b"Linux 6.1",
            br#"{"protocol":1,"version":"1"}"#,
            br#"{"protocol":1,"version":"1","reply":"hello"}"#,
            br#"{"protocol":-1,"version":"1","reply":"protocol"}"#,
            br#"{"protocol":1,"version":"1","reply":"protocol"} trailing"#,
        ] {
            assert_eq!(hear(garbage), None, "{}", String::from_utf8_lossy(garbage));
        }
    }
}
