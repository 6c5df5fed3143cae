//! A daemon's file, and beside it the record of its last transaction, the new content and the old.
//!
//! Every name is looked up in the one directory that was opened, and no symlink is followed there: a daemon may write
//! to it. Each write is a file of its own, synced, then renamed, then the directory is synced.

use std::ffi::{CStr, OsString};
use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use serde::{Deserialize, Serialize};

use crate::change::transaction::{Doing, Event, Mark, Trouble};
use crate::protocol::sha256;
use crate::text::Plain;

/// The largest old content that is kept, in bytes.
const MAX_OLD: u64 = 16 << 20;
/// The largest record that is read, in bytes.
const MAX_RECORD: u64 = 64 << 10;
/// The largest access control list that can be, in bytes: `XATTR_SIZE_MAX`, xattr(7).
const MAX_ACL: usize = 64 << 10;
/// What Linux calls a file's access control list, acl(5).
const ACL: &CStr = c"system.posix_acl_access";
/// How many transactions before the last are remembered.
const MAX_PAST: usize = 32;
/// The version of the record.
const SCHEMA: u32 = 1;

/// What is known of the last transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The one that the host gave it.
    pub id: Plain,
    /// When it began, in UTC.
    pub at: Plain,
    /// By whom.
    pub by: Plain,
    /// Of the content before; `None` where there was none to go back to.
    pub old_sha256: Option<Plain>,
    /// Of the content that was to become live.
    pub new_sha256: Plain,
    /// What came of it.
    pub outcome: Mark,
    /// How long it took.
    pub ms: u64,
    /// The process in which it was proven.
    #[serde(default)]
    pub live_in: Option<LiveIn>,
    /// What became of those before, the last first: a host whose connection broke asks by id.
    #[serde(default)]
    pub past: Vec<(Plain, Mark)>,
}

/// One process, and the file that it read: as long as both are so, it serves what it served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveIn {
    /// The kernel's boot.
    pub boot: Plain,
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
    inode: u64,
    /// The time of its last change, in seconds and nanoseconds.
    changed: (i64, i64),
}

impl Record {
    /// A new one, which follows `last`.
    #[must_use]
    pub fn new(id: Plain, at: Plain, by: Plain, old: Option<Plain>, new: Plain, last: Option<Self>) -> Self {
        let mut past = Vec::new();
        if let Some(last) = last {
            past.push((last.id, last.outcome));
            past.extend(last.past.into_iter().take(MAX_PAST - 1));
        }
        let outcome = Mark::Interrupted;
        Self { schema: SCHEMA, id, at, by, old_sha256: old, new_sha256: new, outcome, ms: 0, live_in: None, past }
    }

    /// What became of the transaction of that id, where that is known.
    #[must_use]
    pub fn outcome_of(&self, id: &Plain) -> Option<Mark> {
        let past = || self.past.iter().find(|(past, _)| past == id).map(|(_, mark)| *mark);
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

/// A file's content, and what of it must be kept.
pub struct Content {
    /// What it holds.
    pub bytes: Vec<u8>,
    /// Which version this is.
    pub stamp: Stamp,
    uid: u32,
    gid: u32,
    mode: u32,
    acl: Option<Vec<u8>>,
}

/// One daemon's file.
pub struct Store {
    dir: OwnedFd,
    directory: PathBuf,
    name: OsString,
}

impl Store {
    /// Opens the directory of the file at `path`.
    ///
    /// # Errors
    /// It isn't there or may not be searched.
    pub fn open(path: &Path) -> Result<Self, Trouble> {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return Err(Trouble::NotAFile) };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = nix::fcntl::open(directory, flags, Mode::empty()).map_err(|e| match e {
            Errno::ENOENT => Trouble::Missing,
            e => trouble(Doing::Open, &e.into()),
        })?;
        Ok(Self { dir, directory: directory.to_owned(), name: name.to_owned() })
    }

    fn beside(&self, before: &str, after: &str) -> OsString {
        let mut name = OsString::from(before);
        name.push(&self.name);
        name.push(after);
        name
    }

    fn record_name(&self) -> OsString {
        self.beside(".", ".sidecar")
    }

    fn kept_name(&self) -> OsString {
        self.beside(".sidecar-old.", "")
    }

    /// The name's end stays: a checker may go by it.
    fn staged_name(&self) -> OsString {
        self.beside(".sidecar-new.", "")
    }

    /// What a person wrote while a change was under way that was taken back.
    fn other_name(&self) -> OsString {
        self.beside(".sidecar-other.", "")
    }

    /// Where the staged file is.
    #[must_use]
    pub fn staged(&self) -> PathBuf {
        self.directory.join(self.staged_name())
    }

    /// The record, where there is one.
    ///
    /// # Errors
    /// It can't be read, and old content is kept of which nobody knows now whether it is to go back.
    pub fn record(&self) -> Result<Option<Record>, Trouble> {
        let record = self.read(&self.record_name(), MAX_RECORD).ok();
        let record = record.and_then(|content| serde_json::from_slice(&content.bytes).ok());
        if let Some(record) = record.filter(|record: &Record| record.schema == SCHEMA) {
            return Ok(Some(record));
        }
        let Ok(kept) = self.read(&self.kept_name(), MAX_OLD) else { return Ok(None) };
        // A first change that was killed before its record was written has placed nothing.
        let is_here = self.current().is_ok_and(|now| now.bytes == kept.bytes);
        if is_here { Ok(None) } else { Err(Trouble::RecordGone) }
    }

    /// The file's content, once it is known that it can be replaced.
    ///
    /// # Errors
    /// Why it can't be.
    pub fn replaceable(&self) -> Result<Content, Trouble> {
        self.regular()?;
        if self.is_mounted().map_err(|e| trouble(Doing::Open, &e))? {
            return Err(Trouble::Mounted);
        }
        self.current()
    }

    /// The file's content.
    ///
    /// # Errors
    /// It can't be read.
    pub fn current(&self) -> Result<Content, Trouble> {
        self.read(&self.name, MAX_OLD).map_err(|e| match e.kind() {
            io::ErrorKind::FileTooLarge => Trouble::TooLarge,
            io::ErrorKind::NotFound => Trouble::Missing,
            _ => trouble(Doing::Read, &e),
        })
    }

    fn regular(&self) -> Result<(), Trouble> {
        let stat = self.stat(&self.name).map_err(|e| match e {
            Errno::ENOENT => Trouble::Missing,
            e => trouble(Doing::Read, &e.into()),
        })?;
        match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFREG => Ok(()),
            SFlag::S_IFLNK => Err(Trouble::Symlink),
            _ => Err(Trouble::NotAFile),
        }
    }

    fn stat(&self, name: &OsString) -> nix::Result<FileStat> {
        fstatat(&self.dir, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
    }

    /// A mount point can't be renamed over (EBUSY), and in another mount namespace the rename would detach it.
    fn is_mounted(&self) -> io::Result<bool> {
        let path = self.directory.canonicalize()?.join(&self.name);
        let table = std::fs::read("/proc/self/mountinfo")?;
        let points = table.split(|b| *b == b'\n').filter_map(|line| line.split(|b| *b == b' ').nth(4));
        Ok(points.map(unescape).any(|point| point.as_os_str() == path.as_os_str()))
    }

    fn read(&self, name: &OsString, max: u64) -> io::Result<Content> {
        // Not to hang on a FIFO that a daemon put there.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = File::from(openat(&self.dir, name.as_os_str(), flags, Mode::empty())?);
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        let (mut bytes, acl) = (Vec::new(), acl(&file));
        file.take(max + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > max {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        let stamp = Stamp { inode: meta.ino(), changed: (meta.ctime(), meta.ctime_nsec()) };
        Ok(Content { bytes, stamp, uid: meta.uid(), gid: meta.gid(), mode: meta.mode() & 0o7777, acl })
    }

    /// Writes `bytes` beside the file, with the owner and the mode of `like`.
    fn write(&self, name: &OsString, bytes: &[u8], like: &Content, doing: Doing) -> Result<(), Trouble> {
        self.remove(name);
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let private = Mode::S_IRUSR | Mode::S_IWUSR;
        let file = openat(&self.dir, name.as_os_str(), flags, private).map_err(|e| trouble(doing, &e.into()))?;
        let written = fill(File::from(file), bytes, like, doing);
        if written.is_err() {
            self.remove(name);
        }
        written
    }

    /// Writes the new content beside the old.
    ///
    /// # Errors
    /// The system refuses, or the owner can't be kept.
    pub fn stage(&self, bytes: &[u8], old: &Content) -> Result<(), Trouble> {
        self.write(&self.staged_name(), bytes, old, Doing::Stage)
    }

    /// Keeps the old content.
    ///
    /// # Errors
    /// The system refuses; the file isn't what it was any more, or what was staged isn't `new`, which was checked.
    pub fn keep(&self, old: &Content, new: &[u8]) -> Result<(), Trouble> {
        let staged = self.read(&self.staged_name(), MAX_OLD).map_err(|_| Trouble::Changed)?;
        if self.replaceable()?.bytes != old.bytes || staged.bytes != new {
            return Err(Trouble::Changed);
        }
        self.write(&self.kept_name(), &old.bytes, old, Doing::Keep)?;
        self.sync().map_err(|e| trouble(Doing::Keep, &e))
    }

    /// Writes the record.
    ///
    /// # Errors
    /// The system refuses; the record is what it was, then.
    pub fn note(&self, record: &Record) -> Result<(), Trouble> {
        let text = serde_json::to_vec(record).map_err(|e| trouble(Doing::Note, &e.into()))?;
        let like = Content {
            bytes: Vec::new(),
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            mode: 0o644,
            acl: None,
            stamp: Stamp { inode: 0, changed: (0, 0) },
        };
        let beside = self.beside(".", ".sidecar-new");
        self.write(&beside, &text, &like, Doing::Note)?;
        renameat(&self.dir, beside.as_os_str(), &self.dir, self.record_name().as_os_str())
            .map_err(|e| trouble(Doing::Note, &e.into()))?;
        // Whoever reads it now sees it, so it is done: a change that is marked as live and taken back all the same would
        // be settled by nobody. Not to be on the disk yet matters to a power cut alone.
        let _ = self.sync();
        Ok(())
    }

    /// Puts the staged content in place.
    ///
    /// # Errors
    /// The system refuses; it may be in place all the same.
    pub fn place(&self) -> Result<(), Trouble> {
        self.rename(&self.staged_name(), &self.name).map_err(|e| trouble(Doing::Place, &e))
    }

    /// Puts the old content back, as the record has it. It may be there already: [`Event::Done`]. Something else than
    /// the new a person put there, [`Event::Replaced`]: it is left where nobody has been at it since (`later`), else it
    /// is put beside the file.
    ///
    /// # Errors
    /// What was kept isn't what was recorded, or the system refuses.
    pub fn restore(&self, record: &Record, later: bool) -> Result<Event, Trouble> {
        let now = self.current().map(|now| Some(sha256(&now.bytes)));
        let is_known = |now: &Option<Plain>| now.as_ref() == Some(&record.new_sha256) || *now == record.old_sha256;
        // What can't be read isn't the new content, which could.
        let is_theirs = now.as_ref().map_or_else(|e| *e != Trouble::Missing, |now| !is_known(now));
        if later && is_theirs {
            return Ok(Event::Replaced);
        }
        let kept = self.read(&self.kept_name(), MAX_OLD).ok().map(|kept| sha256(&kept.bytes));
        if kept.is_some() && kept == record.old_sha256 {
            if is_theirs {
                // No link(2): theirs may be a file of another user's (proc_sys_fs(5), protected_hardlinks).
                renameat(&self.dir, self.name.as_os_str(), &self.dir, self.other_name().as_os_str())
                    .map_err(|e| trouble(Doing::Restore, &e.into()))?;
            }
            self.rename(&self.kept_name(), &self.name).map_err(|e| trouble(Doing::Restore, &e))?;
            return Ok(if is_theirs { Event::Replaced } else { Event::Done });
        }
        if now.is_ok_and(|now| now == record.old_sha256) { Ok(Event::Done) } else { Err(Trouble::KeptGone) }
    }

    /// Removes what a transaction leaves beside the file, but for the record.
    pub fn sweep(&self) {
        for name in [self.staged_name(), self.kept_name(), self.beside(".", ".sidecar-new")] {
            self.remove(&name);
        }
    }

    fn remove(&self, name: &OsString) {
        let _ = unlinkat(&self.dir, name.as_os_str(), UnlinkatFlags::NoRemoveDir);
    }

    fn rename(&self, from: &OsString, to: &OsString) -> io::Result<()> {
        renameat(&self.dir, from.as_os_str(), &self.dir, to.as_os_str())?;
        self.sync()
    }

    fn sync(&self) -> io::Result<()> {
        match nix::unistd::fsync(&self.dir) {
            // A file system that can't sync a directory says so.
            Ok(()) | Err(Errno::EINVAL) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

fn fill(mut file: File, bytes: &[u8], like: &Content, doing: Doing) -> Result<(), Trouble> {
    let meta = file.metadata().map_err(|e| trouble(doing, &e))?;
    if (meta.uid(), meta.gid()) != (like.uid, like.gid) {
        let owner = Trouble::Owner { uid: like.uid, gid: like.gid };
        fchown(&file, Some(like.uid), Some(like.gid)).map_err(|_| owner)?;
    }
    file.write_all(bytes)
        .and_then(|()| set_acl(&file, like.acl.as_deref()))
        // After the owner: chown(2) takes bits of the mode away.
        .and_then(|()| file.set_permissions(Permissions::from_mode(like.mode)))
        .and_then(|()| file.sync_all())
        .map_err(|e| trouble(doing, &e))
}

/// A file's access control list; `None` where it has none, or the file system knows none.
fn acl(file: &File) -> Option<Vec<u8>> {
    let mut acl = vec![0_u8; MAX_ACL];
    // SAFETY: fgetxattr(2) reads a C string and writes at most the buffer's length into it.
    let length = unsafe { libc::fgetxattr(file.as_raw_fd(), ACL.as_ptr(), acl.as_mut_ptr().cast(), acl.len()) };
    acl.truncate(usize::try_from(length).ok()?);
    Some(acl)
}

/// Gives a file this list, or takes away the one that its directory gave it (`default` entries, acl(5)).
fn set_acl(file: &File, acl: Option<&[u8]>) -> io::Result<()> {
    let fd = file.as_raw_fd();
    let Some(acl) = acl else {
        // SAFETY: fremovexattr(2) reads a C string. That there is none, or that the file system knows none, is as well.
        unsafe { libc::fremovexattr(fd, ACL.as_ptr()) };
        return Ok(());
    };
    // SAFETY: fsetxattr(2) reads a C string and the buffer's length of the buffer.
    if unsafe { libc::fsetxattr(fd, ACL.as_ptr(), acl.as_ptr().cast(), acl.len(), 0) } == 0 {
        return Ok(());
    }
    let e = io::Error::last_os_error();
    Err(io::Error::new(e.kind(), format!("its access control list can't be kept: {e}")))
}

/// What init does before it starts a daemon: an interrupted transaction of its file, with nobody at it, is taken back.
/// The text is for init's log; `None`: there was nothing to do.
#[must_use]
pub fn settle_before_start(path: &Path) -> Option<Result<String, String>> {
    let store = Store::open(path).ok()?;
    let record = store.record();
    if record.as_ref().is_ok_and(|record| record.as_ref().is_none_or(|record| record.outcome != Mark::Interrupted)) {
        return None;
    }
    // Whoever holds it restarts the daemon again after the way back.
    let _lock = super::lock::try_take().ok()??;
    let path = path.display();
    let Ok(Some(mut record)) = record else {
        return Some(Err(format!(
            "the record of the last change of {path} can't be read, and old content is kept beside it (.sidecar-old.*): \
             the file may hold what was never proven; see which is right, put it there, and remove that copy"
        )));
    };
    let (by, outcome, what) = match store.restore(&record, true) {
        Ok(Event::Replaced) => (&record.by, Mark::NotProven, "somebody has put other content there since, which stays"),
        Ok(_) => (&record.by, Mark::RolledBack, "the old content is back"),
        Err(Trouble::Io { words, .. }) => {
            return Some(Err(format!(
                "the change of {path} by {} was interrupted, and the old content can't be put back: {words}; \
                 the file holds what was never proven",
                record.by
            )));
        }
        Err(_) => {
            return Some(Err(format!(
                "the change of {path} by {} was interrupted, and what was kept of the old content isn't what was recorded: \
                 the file holds what was never proven; put the right content there",
                record.by
            )));
        }
    };
    let said = format!("the change of {path} by {by} was interrupted: {what}");
    record.outcome = outcome;
    let _ = store.note(&record);
    store.sweep();
    Some(Ok(said))
}

/// The record of the last change of the file at `path`, and what an interrupted change leaves beside it.
#[must_use]
pub fn names_beside(path: &Path) -> (PathBuf, [PathBuf; 2]) {
    let beside = |before: &str, after: &str| {
        let mut name = OsString::from(before);
        name.push(path.file_name().unwrap_or_default());
        name.push(after);
        path.with_file_name(name)
    };
    (beside(".", ".sidecar"), [beside(".sidecar-new.", ""), beside(".sidecar-old.", "")])
}

fn trouble(doing: Doing, e: &io::Error) -> Trouble {
    Trouble::Io { doing, words: Plain::new(&e.to_string()) }
}

/// mountinfo writes space, tab, newline and backslash as `\NNN`, proc(5).
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::new();
    let mut rest = field;
    while let Some((first, more)) = rest.split_first() {
        let octal = more.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        out.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { more.get(3..).unwrap_or_default() } else { more };
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn a_mount_point_with_a_space_in_its_name_is_known() {
        assert_eq!(unescape(br"/etc/a\040b\134c").as_os_str().as_bytes(), br"/etc/a b\c");
        assert_eq!(unescape(br"/x\9").as_os_str().as_bytes(), br"/x\9");
    }
}
