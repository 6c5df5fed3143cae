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

/// What is known about the last change. Version 1.0 reads and writes records too, so keys may only be added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The identifier that the host gave the change.
    pub id: Printable,
    /// When the change began, in UTC.
    pub at: Printable,
    /// Who made the change.
    pub by: Printable,
    /// The sha256 of the old content; `None` if there is none to go back to.
    pub old_sha256: Option<Printable>,
    /// The sha256 of the new content.
    pub new_sha256: Printable,
    /// The result.
    pub outcome: RecordedOutcome,
    /// How long the change took, in milliseconds.
    pub ms: u64,
    /// The process in which it was proven, and the file that this process read.
    #[serde(default)]
    pub live_in: Option<LiveIn>,
    /// Ids and outcomes of earlier changes, the latest first. A host whose connection broke asks for one by its id.
    #[serde(default)]
    pub past: Vec<(Printable, RecordedOutcome)>,
    /// Whether the daemon had no process before the change. If so, having none again counts as being as it was.
    #[serde(default)]
    pub was_dead: bool,
    /// When its helper must be done: the boot id, and milliseconds of the monotonic clock. After that anybody may recover the change.
    #[serde(default)]
    pub until: Option<(Printable, u64)>,
    /// The pid namespace of the bundle that made the change, since two bundles may mount one directory.
    #[serde(default)]
    pub home: Option<u64>,
}

/// One process and the file that it read. As long as both are the same, it serves the content that was proven.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveIn {
    /// The kernel's boot id.
    pub boot: Printable,
    /// The process's pid.
    pub pid: Option<i32>,
    /// The daemon's generation.
    pub generation: u64,
    /// When the process was started, in milliseconds of the monotonic clock.
    pub since_ms: Option<u64>,
    /// The version of the file.
    pub file: Stamp,
}

/// One version of a file. As long as it is the same, nobody has written to the file or put another one in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The inode number.
    pub inode: u64,
    /// The time of its last change, in seconds and nanoseconds.
    pub changed: (i64, i64),
}

impl Record {
    /// Adds the previous record, and the changes that it lists, to the past changes.
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

    /// Whether its helper, if it still lives, has used up its time.
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

    /// The form in which `status` shows it.
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
    /// `.NAME.sidecar-new`: a record that hasn't been renamed to its own name yet.
    NewRecord,
    /// `.NAME.sidecar`: the record.
    Record,
}

impl Name {
    /// The name in the directory, given the name of the daemon's file. The staged content's name ends like the file's, since a checker
    /// may go by the ending.
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

/// What is found under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// There is no such file. Nothing else is taken to mean that.
    Nothing,
    /// A regular file.
    File(Content),
    /// Something else, or a file that is too large.
    Odd(FileFault),
}

/// A regular file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Its content.
    pub bytes: Vec<u8>,
    /// Its version.
    pub stamp: Stamp,
    /// How many names (hard links) it has.
    pub links: u64,
    /// The attributes that a new file takes over.
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
    /// Its extended attributes, the access control list included.
    pub extended: Vec<(std::ffi::CString, Vec<u8>)>,
}

impl Content {
    /// The sha256 of the content, by which a record identifies it.
    #[must_use]
    pub fn sha256(&self) -> Printable {
        sha256(&self.bytes)
    }
}

/// Whether a file is a mount of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mount {
    /// It isn't one.
    No,
    /// It is one.
    Own,
    /// It is one, and its source was replaced or removed on the host.
    Deleted,
}

/// One daemon's file, and what lies beside it. It carries out single steps and decides nothing.
pub trait Files {
    /// The path of the daemon's file.
    fn path(&self) -> &Path;
    /// The path of the file with this name.
    fn path_of(&self, name: Name) -> std::path::PathBuf;
    /// Locks the directory against other bundles' helpers, for as long as this value lives. Returns false if another one holds the lock.
    ///
    /// # Errors
    /// A system call failed.
    fn lock(&mut self) -> Tried<bool>;
    /// Reads what is found under this name.
    ///
    /// # Errors
    /// A system call failed.
    fn read(&mut self, name: Name) -> Tried<Found>;
    /// Reads the record; `None` if there is no such file.
    ///
    /// # Errors
    /// A system call failed, or ([`FileFault::RecordGone`]) the file isn't a record.
    fn record(&mut self) -> Tried<Option<Record>>;
    /// Replaces the record, as a whole or not at all.
    ///
    /// # Errors
    /// A system call failed.
    fn write_record(&mut self, record: &Record) -> Tried<()>;
    /// Writes a new file with the attributes of `like`. If the owner couldn't be kept, but the group and its permissions could, it
    /// returns the old owner.
    ///
    /// # Errors
    /// A system call failed, or the owner can't be kept.
    fn write(&mut self, name: Name, bytes: &[u8], like: &Content) -> Tried<Option<(u32, u32)>>;
    /// Gives the file a second name, which must be free. Returns false if the system can't.
    ///
    /// # Errors
    /// The name is taken.
    fn link(&mut self, from: Name, to: Name) -> Tried<bool>;
    /// Exchanges two names in one step. Returns false if the file system can't.
    ///
    /// # Errors
    /// A system call failed.
    fn exchange(&mut self, one: Name, other: Name) -> Tried<bool>;
    /// Renames a file, replacing whatever has the new name.
    ///
    /// # Errors
    /// A system call failed.
    fn rename(&mut self, from: Name, to: Name) -> Tried<()>;
    /// Removes the file, if it is there. That it can't be removed is no error.
    ///
    /// # Errors
    /// The simulation's helper was killed.
    fn remove(&mut self, name: Name) -> Tried<()>;
    /// Whether the file is a mount of its own.
    ///
    /// # Errors
    /// A system call failed.
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
