//! What is on disk for one daemon's file: its content, and beside it the record of its last change. No I/O.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Tried;
use super::reason::{FileFault, RecordedOutcome};
use crate::protocol::sha256;
use crate::text::Printable;

/// How many changes before the last are remembered.
const MAX_PAST: usize = 32;
/// The version of the record.
pub const SCHEMA: u32 = 1;

/// What is known of the last change. Version 1.0 reads and writes it too: keys may be added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The one that the host gave it.
    pub id: Printable,
    /// When it began, in UTC.
    pub at: Printable,
    /// By whom.
    pub by: Printable,
    /// Of the content before; `None` if there was none to go back to.
    pub old_sha256: Option<Printable>,
    /// Of the content that was to become live.
    pub new_sha256: Printable,
    /// What came of it.
    pub outcome: RecordedOutcome,
    /// How long it took.
    pub ms: u64,
    /// The process in which it was proven.
    #[serde(default)]
    pub live_in: Option<LiveIn>,
    /// What became of those before, the last first: a host whose connection broke asks by id.
    #[serde(default)]
    pub past: Vec<(Printable, RecordedOutcome)>,
    /// The daemon had no process before, so it is as it was if it has none again.
    #[serde(default)]
    pub was_dead: bool,
    /// Until when its helper may be at work: the boot, and milliseconds of the monotonic clock.
    #[serde(default)]
    pub until: Option<(Printable, u64)>,
    /// The pid namespace of the bundle that made it: two bundles may mount one directory.
    #[serde(default)]
    pub home: Option<u64>,
}

/// One process, and the file that it read: as long as both are so, it serves what it served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveIn {
    /// The kernel's boot.
    pub boot: Printable,
    /// The process.
    pub pid: Option<i32>,
    /// Counted by init.
    pub generation: u64,
    /// Its start, on the monotonic clock.
    pub since_ms: Option<u64>,
    /// The file.
    pub file: Stamp,
}

/// One version of a file: as long as this is so, nobody has written to it or put another in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Its number.
    pub inode: u64,
    /// The time of its last change, in seconds and nanoseconds.
    pub changed: (i64, i64),
}

impl Record {
    /// Puts the one before it among those of the past.
    #[must_use]
    pub fn after(mut self, last: Option<Self>) -> Self {
        if let Some(last) = last {
            self.past.push((last.id, last.outcome));
            self.past.extend(last.past.into_iter().take(MAX_PAST - 1));
        }
        self
    }

    /// Whether somebody must finish it or take it back.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.outcome == RecordedOutcome::Interrupted
    }

    /// Whether its helper, if it still lives, has had all the time that it was given.
    #[must_use]
    pub fn is_overdue(&self, boot: &Printable, now_ms: u64) -> bool {
        self.until.as_ref().is_some_and(|(of, until)| of != boot || now_ms > *until)
    }

    /// What became of the change of that id, if that is known.
    #[must_use]
    pub fn outcome_of(&self, id: &Printable) -> Option<RecordedOutcome> {
        let past = || self.past.iter().find(|(past, _)| past == id).map(|(_, outcome)| *outcome);
        if self.id == *id { Some(self.outcome) } else { past() }
    }

    /// As `status` shows it.
    #[must_use]
    pub fn shown(&self) -> serde_json::Value {
        serde_json::json!({
            "at": self.at, "old_sha256": self.old_sha256, "new_sha256": self.new_sha256,
            "outcome": self.outcome, "ms": self.ms, "by": self.by,
        })
    }
}

/// The names of a daemon's file, and of what a change puts beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// The file.
    Path,
    /// `.sidecar-new.NAME`: the new content, until it is in place.
    Staged,
    /// `.sidecar-old.NAME`: the old content, until the new is proven.
    Kept,
    /// `.sidecar-other.NAME`: what a person wrote meanwhile.
    Other,
    /// `.NAME.sidecar-new`: a record that isn't renamed to its own name yet.
    NewRecord,
    /// `.NAME.sidecar`: the record.
    Record,
}

impl Name {
    /// In the directory of the file of this name. A staged content's name ends as the file's does: a checker may go by it.
    #[must_use]
    pub fn beside(self, file: &OsStr) -> OsString {
        let (before, after) = match self {
            Self::Path => ("", ""),
            Self::Staged => (".sidecar-new.", ""),
            Self::Kept => (".sidecar-old.", ""),
            Self::Other => (".sidecar-other.", ""),
            Self::NewRecord => (".", ".sidecar-new"),
            Self::Record => (".", ".sidecar"),
        };
        [OsStr::new(before), file, OsStr::new(after)].into_iter().collect()
    }
}

/// What lies under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing: the only thing that means that there is no such file.
    Nothing,
    /// A regular file.
    File(Content),
    /// Something else, or too much.
    Odd(FileFault),
}

/// A regular file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// What it holds.
    pub bytes: Vec<u8>,
    /// Which version this is.
    pub stamp: Stamp,
    /// How many names it has.
    pub links: u64,
    /// What of it must be kept.
    pub attributes: Attributes,
}

/// What a new file takes over from the old one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permissions.
    pub mode: u32,
    /// Its extended attributes, the access control list among them.
    pub extended: Vec<(std::ffi::CString, Vec<u8>)>,
}

impl Content {
    /// By what a record knows it.
    #[must_use]
    pub fn sha256(&self) -> Printable {
        sha256(&self.bytes)
    }
}

/// How a file is mounted by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mount {
    /// It isn't.
    No,
    /// It is a mount of its own.
    Own,
    /// It is, and has been replaced or removed where it came from.
    Deleted,
}

/// One daemon's file, and what lies beside it. It carries out single steps and decides nothing.
pub trait Files {
    /// Of the file.
    fn path(&self) -> &Path;
    /// Of any of the names.
    fn path_of(&self, name: Name) -> std::path::PathBuf;
    /// Locks the directory against other bundles' helpers, as long as this lives; false: another has it.
    ///
    /// # Errors
    /// The system refuses.
    fn lock(&mut self) -> Tried<bool>;
    /// What lies under this name.
    ///
    /// # Errors
    /// The system refuses.
    fn read(&mut self, name: Name) -> Tried<Found>;
    /// The record; `None`: there is no such file.
    ///
    /// # Errors
    /// The system refuses. [`FileFault::RecordGone`]: what lies there is no record.
    fn record(&mut self) -> Tried<Option<Record>>;
    /// Replaces the record, as a whole or not at all.
    ///
    /// # Errors
    /// The system refuses.
    fn write_record(&mut self, record: &Record) -> Tried<()>;
    /// Writes a new file with the attributes of `like`. Returns the owner that couldn't be kept, if the group and what it may do is.
    ///
    /// # Errors
    /// The system refuses, or the owner can't be kept.
    fn write(&mut self, name: Name, bytes: &[u8], like: &Content) -> Tried<Option<(u32, u32)>>;
    /// Gives the file a second name, which nothing has; false: the system can't.
    ///
    /// # Errors
    /// Somebody took that name.
    fn link(&mut self, from: Name, to: Name) -> Tried<bool>;
    /// Swaps what lies under two names; false: the file system can't.
    ///
    /// # Errors
    /// The system refuses.
    fn exchange(&mut self, one: Name, other: Name) -> Tried<bool>;
    /// Moves it, over whatever lies there.
    ///
    /// # Errors
    /// The system refuses.
    fn rename(&mut self, from: Name, to: Name) -> Tried<()>;
    /// Removes it, if it is there.
    ///
    /// # Errors
    /// The simulation's helper was killed: that it can't be removed is no error.
    fn remove(&mut self, name: Name) -> Tried<()>;
    /// Whether the file is a mount of its own.
    ///
    /// # Errors
    /// The system refuses.
    fn mount(&mut self) -> Tried<Mount>;
    /// Whether the path still leads to the directory that was opened.
    ///
    /// # Errors
    /// The simulation's helper was killed.
    fn is_where_it_was(&mut self) -> Tried<bool>;
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// One of this id that was made live, by a helper that had until 100 ms of the boot `b`.
    pub(in super::super) fn record(id: &str) -> Record {
        Record {
            schema: SCHEMA,
            id: Printable::new(id),
            at: Printable::default(),
            by: Printable::new("me"),
            old_sha256: Some(sha256(b"old")),
            new_sha256: sha256(b"new"),
            outcome: RecordedOutcome::Live,
            ms: 0,
            live_in: None,
            past: Vec::new(),
            was_dead: false,
            until: Some((Printable::new("b"), 100)),
            home: None,
        }
    }

    #[test]
    fn a_helper_is_overdue_after_its_time_or_in_another_boot() {
        let is_overdue = |boot: &str, now_ms| record("1").is_overdue(&Printable::new(boot), now_ms);
        assert_eq!([is_overdue("b", 99), is_overdue("b", 100), is_overdue("b", 101)], [false, false, true]);
        assert!(is_overdue("c", 0));
    }

    #[test]
    fn a_host_may_ask_for_any_of_the_last_33_changes() {
        let last = (0..40).fold(None, |last, n| Some(record(&n.to_string()).after(last))).unwrap();
        let known = (0..40).filter(|n| last.outcome_of(&Printable::new(&n.to_string())).is_some()).count();
        assert_eq!(known, 1 + MAX_PAST);
        let last = Record { outcome: RecordedOutcome::RolledBack, ..record("41") }.after(Some(last));
        assert_eq!(last.outcome_of(&Printable::new("39")), Some(RecordedOutcome::Live));
        assert_eq!(last.outcome_of(&Printable::new("0")), None);
    }
}
