//! A daemon's file, and beside it the record of its last change, the new content and the old.
//!
//! Every name is looked up in the one directory that was opened, and no symlink is followed there, since a daemon may write to it.
//! Each write goes to a new file, which is synced and renamed; then the directory is synced.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, RenameFlags, openat, renameat, renameat2};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use super::reason::{FileFault, FileStep, Reason};
use super::record::{Attributes, Content, Files, Found, Mount, Name, Record, SCHEMA, Stamp};
use super::recovery::{self, LEFTOVERS};
use super::{Stop, Tried, lock};
use crate::text::Printable;

/// The largest old content that is kept, in bytes.
const MAX_OLD: u64 = 16 << 20;
/// The largest record that is read, in bytes.
const MAX_RECORD: u64 = 64 << 10;
/// How many times a start tries to take a directory's lock, 10 ms apart.
const DYING: u32 = 50;
/// The most of a file's extended attributes that is kept, in bytes: the names, and each value (xattr(7)).
const MAX_ATTRIBUTES: usize = 64 << 10;
/// What Linux calls a file's access control list, acl(5).
const ACL: &CStr = c"system.posix_acl_access";

/// One daemon's file.
pub struct Store {
    dir: OwnedFd,
    /// A second descriptor of the directory, which holds the lock.
    lock: Option<Flock<File>>,
    path: PathBuf,
    name: OsString,
}

impl Store {
    /// Opens the directory of the file at `path`.
    ///
    /// # Errors
    /// It doesn't exist or may not be searched.
    pub fn open(path: &Path) -> Result<Self, Reason> {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Reason::file(path, FileFault::NotAFile));
        };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = nix::fcntl::open(directory, flags, Mode::empty()).map_err(|e| match e {
            Errno::ENOENT => Reason::file(path, FileFault::Missing),
            e => system(path, FileStep::Open, &e.into()),
        })?;
        Ok(Self { dir, lock: None, path: path.to_owned(), name: name.to_owned() })
    }

    fn name(&self, name: Name) -> OsString {
        name.beside(&self.name)
    }

    fn failed(&self, step: FileStep, e: impl Into<io::Error>) -> Stop {
        system(&self.path, step, &e.into()).into()
    }

    fn stat(&self, name: &OsStr) -> nix::Result<FileStat> {
        fstatat(&self.dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)
    }

    fn read_as(&self, name: &OsStr, max: u64) -> io::Result<Found> {
        // O_NONBLOCK: a daemon may have put a FIFO there.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match openat(&self.dir, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT) => return Ok(Found::Nothing),
            // It may be something that can't be opened, such as a link (ELOOP) or a socket (ENXIO).
            Err(e) => {
                return match self.stat(name).map(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT) {
                    Ok(SFlag::S_IFLNK) => Ok(Found::Odd(FileFault::Symlink)),
                    Ok(kind) if kind != SFlag::S_IFREG => Ok(Found::Odd(FileFault::NotAFile)),
                    _ => Err(e.into()),
                };
            }
        };
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Ok(Found::Odd(FileFault::NotAFile));
        }
        let (mut bytes, extended) = (Vec::new(), attributes(&file));
        file.take(max + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > max {
            return Ok(Found::Odd(FileFault::TooLarge));
        }
        let stamp = Stamp { inode: meta.ino(), changed: (meta.ctime(), meta.ctime_nsec()) };
        let attributes = Attributes { uid: meta.uid(), gid: meta.gid(), mode: meta.mode() & 0o7777, extended };
        Ok(Found::File(Content { bytes, stamp, links: meta.nlink(), attributes }))
    }

    /// Writes a new file, with the attributes of `like` if that is given.
    fn write_as(&self, name: &OsStr, bytes: &[u8], like: Option<&Content>) -> io::Result<Result<Owner, FileFault>> {
        self.remove_as(name);
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = File::from(openat(&self.dir, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
        let written = fill(file, bytes, like.map(|like| &like.attributes));
        if !matches!(written, Ok(Ok(_))) {
            self.remove_as(name);
        }
        written
    }

    fn remove_as(&self, name: &OsStr) {
        let _ = unlinkat(&self.dir, name, UnlinkatFlags::NoRemoveDir);
    }

    /// A rename is visible at once; only a power cut could undo one that isn't synced, so a failed sync is no error.
    fn sync(&self) {
        let _ = nix::unistd::fsync(&self.dir);
    }
}

impl Files for Store {
    fn path(&self) -> &Path {
        &self.path
    }

    fn path_of(&self, name: Name) -> PathBuf {
        self.path.with_file_name(self.name(name))
    }

    fn lock(&mut self) -> Tried<bool> {
        if self.lock.is_some() {
            return Ok(true);
        }
        // A second descriptor, since the lock ends with it.
        let file = self.dir.try_clone().map_err(|e| self.failed(FileStep::Open, e))?;
        match Flock::lock(File::from(file), FlockArg::LockExclusiveNonblock) {
            Ok(lock) => self.lock = Some(lock),
            Err((_, Errno::EWOULDBLOCK | Errno::EINTR)) => return Ok(false),
            // If the file system has no locks, two bundles can't share it.
            Err((_, Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::EINVAL | Errno::EBADF)) => {}
            Err((_, e)) => return Err(self.failed(FileStep::Open, e)),
        }
        Ok(true)
    }

    fn read(&mut self, name: Name) -> Tried<Found> {
        self.read_as(&self.name(name), MAX_OLD).map_err(|e| self.failed(FileStep::Read, e))
    }

    fn record(&mut self) -> Tried<Option<Record>> {
        let gone = || Reason::file(&self.path, FileFault::RecordGone).into();
        match self.read_as(&self.name(Name::Record), MAX_RECORD) {
            Ok(Found::Nothing) => Ok(None),
            Ok(Found::Odd(_)) => Err(gone()),
            Ok(Found::File(file)) => {
                let record = serde_json::from_slice(&file.bytes).ok();
                record.filter(|record: &Record| record.schema == SCHEMA).map(Some).ok_or_else(gone)
            }
            Err(e) => Err(system(&self.path_of(Name::Record), FileStep::Read, &e).into()),
        }
    }

    fn write_record(&mut self, record: &Record) -> Tried<()> {
        let failed = |e: io::Error| self.failed(FileStep::Record, e);
        let text = serde_json::to_vec(record).map_err(|e| failed(e.into()))?;
        let (beside, own) = (self.name(Name::NewRecord), self.name(Name::Record));
        let _ = self.write_as(&beside, &text, None).map_err(failed)?;
        let renamed = renameat(&self.dir, beside.as_os_str(), &self.dir, own.as_os_str());
        if let Err(e) = renamed {
            self.remove_as(&beside);
            return Err(failed(e.into()));
        }
        self.sync();
        Ok(())
    }

    fn write(&mut self, name: Name, bytes: &[u8], like: &Content) -> Tried<Option<(u32, u32)>> {
        let step = if name == Name::Kept { FileStep::Keep } else { FileStep::Stage };
        let written = self.write_as(&self.name(name), bytes, Some(like)).map_err(|e| self.failed(step, e))?;
        let owner_was = written.map_err(|fault| Reason::file(&self.path, fault))?;
        self.sync();
        Ok(owner_was)
    }

    fn link(&mut self, from: Name, to: Name) -> Tried<bool> {
        let (from, to) = (self.name(from), self.name(to));
        match linkat(&self.dir, from.as_os_str(), &self.dir, to.as_os_str(), AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(e @ (Errno::EEXIST | Errno::ENOENT)) => Err(self.failed(FileStep::Keep, e)),
            // Another user's file (proc_sys_fs(5), protected_hardlinks), or a file system without links.
            Err(_) => Ok(false),
        }
    }

    fn exchange(&mut self, one: Name, other: Name) -> Tried<bool> {
        let step = if one == Name::Kept { FileStep::Restore } else { FileStep::Install };
        let (one, other) = (self.name(one), self.name(other));
        let flags = RenameFlags::RENAME_EXCHANGE;
        match renameat2(&self.dir, one.as_os_str(), &self.dir, other.as_os_str(), flags) {
            Ok(()) => {
                self.sync();
                Ok(true)
            }
            Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => Ok(false),
            Err(e) => Err(self.failed(step, e)),
        }
    }

    fn rename(&mut self, from: Name, to: Name) -> Tried<()> {
        let step = if from == Name::Staged { FileStep::Install } else { FileStep::Restore };
        let (from, to) = (self.name(from), self.name(to));
        renameat(&self.dir, from.as_os_str(), &self.dir, to.as_os_str()).map_err(|e| self.failed(step, e))?;
        self.sync();
        Ok(())
    }

    fn remove(&mut self, name: Name) -> Tried<()> {
        self.remove_as(&self.name(name));
        Ok(())
    }

    /// A rename can't replace a mount point (EBUSY); from another mount namespace it would detach the mount.
    fn mount(&mut self) -> Tried<Mount> {
        let failed = |e| self.failed(FileStep::Open, e);
        let directory = self.path.parent().unwrap_or(Path::new("/")).canonicalize().map_err(failed)?;
        let path = directory.join(&self.name);
        let table = std::fs::read("/proc/self/mountinfo").map_err(failed)?;
        let mut mount = Mount::No;
        for line in table.split(|b| *b == b'\n') {
            let mut fields = line.split(|b| *b == b' ').skip(3);
            let (Some(root), Some(point)) = (fields.next(), fields.next()) else { continue };
            if unescape(point).as_os_str() == path.as_os_str() {
                mount = if unescape(root).as_os_str().as_encoded_bytes().ends_with(b"//deleted") {
                    Mount::Deleted
                } else {
                    Mount::Own
                };
            }
        }
        Ok(mount)
    }

    fn is_where_it_was(&mut self) -> Tried<bool> {
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        let id = |stat: FileStat| (stat.st_dev, stat.st_ino);
        let now = nix::sys::stat::stat(directory).map(id);
        Ok(now.is_ok() && now == fstat(&self.dir).map(id))
    }
}

/// The old file's owner, if the new file has another one.
type Owner = Option<(u32, u32)>;

fn fill(mut file: File, bytes: &[u8], like: Option<&Attributes>) -> io::Result<Result<Owner, FileFault>> {
    let Some(like) = like else {
        file.write_all(bytes)?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        return file.sync_all().map(|()| Ok(None));
    };
    let meta = file.metadata()?;
    let mut owner_was = None;
    if (meta.uid(), meta.gid()) != (like.uid, like.gid) && fchown(&file, Some(like.uid), Some(like.gid)).is_err() {
        // OpenShift has files that belong to root and that their group may write to. With the same group and mode, whoever could
        // write to the old file can write to the new one.
        let is_kept = like.mode & 0o020 != 0 && fchown(&file, None, Some(like.gid)).is_ok();
        if !is_kept {
            return Ok(Err(FileFault::Owner { uid: like.uid, gid: like.gid }));
        }
        owner_was = Some((like.uid, like.gid));
    }
    file.write_all(bytes)?;
    if !like.extended.iter().any(|(name, _)| name.as_c_str() == ACL) {
        // The file may have one from the directory's `default` entries: acl(5).
        // SAFETY: fremovexattr(2) reads a C string. It is no error if there is no list, or if the file system has none.
        unsafe { libc::fremovexattr(file.as_raw_fd(), ACL.as_ptr()) };
    }
    for (name, value) in &like.extended {
        set_attribute(&file, name, value)?;
    }
    // After the owner, since chown(2) clears bits of the mode.
    file.set_permissions(Permissions::from_mode(like.mode))?;
    file.sync_all()?;
    Ok(Ok(owner_was))
}

/// A file's extended attributes, the access control list included; none if the file system has none.
fn attributes(file: &File) -> Vec<(CString, Vec<u8>)> {
    let mut names = vec![0_u8; MAX_ATTRIBUTES];
    // SAFETY: flistxattr(2) writes at most the buffer's length into it.
    let length = unsafe { libc::flistxattr(file.as_raw_fd(), names.as_mut_ptr().cast(), names.len()) };
    names.truncate(usize::try_from(length).unwrap_or(0));
    let names = names.split(|b| *b == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let name = CString::new(name).ok()?;
        let mut value = vec![0_u8; MAX_ATTRIBUTES];
        let (fd, buffer) = (file.as_raw_fd(), value.as_mut_ptr().cast());
        // SAFETY: fgetxattr(2) reads a C string and writes at most the buffer's length into it.
        let length = unsafe { libc::fgetxattr(fd, name.as_ptr(), buffer, value.len()) };
        value.truncate(usize::try_from(length).ok()?);
        Some((name, value))
    };
    names.filter_map(value).collect()
}

/// Sets an attribute of a file. If it is one that only the kernel or a security module may set, a refusal is ignored.
fn set_attribute(file: &File, name: &CStr, value: &[u8]) -> io::Result<()> {
    let fd = file.as_raw_fd();
    // SAFETY: fsetxattr(2) reads a C string and the buffer's length of the buffer.
    let is_set = unsafe { libc::fsetxattr(fd, name.as_ptr(), value.as_ptr().cast(), value.len(), 0) } == 0;
    let is_acl = name == ACL;
    if is_set || !is_acl && !name.to_bytes().starts_with(b"user.") {
        return Ok(());
    }
    let e = io::Error::last_os_error();
    let name = name.to_string_lossy();
    let what = if is_acl { "access control list".to_owned() } else { format!("attribute {name}") };
    Err(io::Error::new(e.kind(), format!("its {what} can't be kept: {e}")))
}

/// What init does before it starts a daemon: it undoes an interrupted change of the daemon's file, if no helper is at work. The text
/// is for init's log; `None` if there was nothing to do.
///
/// # Errors
/// The text is for init's log too: the file may hold content that was never proven.
#[must_use]
pub fn recover_before_start(path: &Path) -> Option<Result<String, String>> {
    let mut files = match Store::open(path) {
        Ok(files) => files,
        Err(Reason::File { fault: FileFault::Missing, .. }) => return None,
        Err(why) => return Some(Err(why.to_string())),
    };
    let mut bundle = None;
    // `files` holds the directory's own lock until it is dropped.
    let mut directory = Store::open(path).ok()?;
    let init = nix::unistd::getppid();
    let lock = |is_overdue: bool| {
        if is_overdue {
            lock::end_holder(init);
        }
        bundle = lock::try_take(init)?;
        if bundle.is_none() {
            return Ok(false);
        }
        // If its bundle was killed a moment ago, a helper may not be gone yet.
        for _ in 0..DYING {
            if directory.lock()? || is_overdue {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(false)
    };
    recovery::before_start(&mut files, &lock::boot(), crate::page::now_ms(), lock)
}

/// The record of the last change of the file at `path`, and what an interrupted change leaves beside it.
#[must_use]
pub fn names_beside(path: &Path) -> (PathBuf, [PathBuf; 3]) {
    let beside = |name: Name| path.with_file_name(name.beside(path.file_name().unwrap_or_default()));
    (beside(Name::Record), LEFTOVERS.map(beside))
}

fn system(path: &Path, step: FileStep, e: &io::Error) -> Reason {
    Reason::file(path, FileFault::System { step, words: Printable::new(&e.to_string()) })
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

    use super::super::reason::RecordedOutcome;
    use super::super::record::tests::record;
    use super::*;

    #[test]
    fn without_the_lock_nothing_is_changed_and_an_interruption_is_reported() {
        let dir = std::env::temp_dir().join(format!("sidecar-store-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("rules");
        std::fs::write(&path, "new").unwrap();
        std::fs::write(dir.join(".sidecar-old.rules"), "old").unwrap();
        let mut store = Store::open(&path).unwrap();
        let no_lock = |_| Err(Reason::NoLock { words: Printable::new("ENOLCK") }.into());
        let told = recovery::before_start(&mut store, &Printable::default(), 0, no_lock);
        assert_eq!(told, None, "nothing was interrupted");
        let record = Record { outcome: RecordedOutcome::Interrupted, until: None, ..record("1") };
        store.write_record(&record).unwrap();
        let told = recovery::before_start(&mut store, &Printable::default(), 0, no_lock);
        assert!(told.unwrap().unwrap_err().contains("the bundle's lock can't be taken: ENOLCK"));
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        // Once it can be had, the very file that was kept is back.
        let told = recovery::before_start(&mut store, &Printable::default(), 0, |_| Ok(true));
        assert!(told.unwrap().unwrap().contains("the old content is back"));
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 2, "the file and its record");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    /// A file with these contents of it and of what lies beside it; what is done there; what is there then, but for the record.
    fn beside(files: &[(&str, &str)], act: impl FnOnce(&mut Store, &Path)) -> Vec<(String, String)> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("sidecar-beside-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        for (name, content) in files {
            std::fs::write(dir.join(name), content).unwrap();
        }
        act(&mut Store::open(&dir.join("rules")).unwrap(), &dir);
        let names = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let read = |name: String| (std::fs::read_to_string(dir.join(&name)).unwrap(), name);
        let mut all: Vec<_> = names.filter(|name| name != ".rules.sidecar").map(read).collect();
        all.sort();
        std::fs::remove_dir_all(&dir).unwrap();
        all.into_iter().map(|(content, name)| (name, content)).collect()
    }

    fn owned(all: &[(&str, &str)]) -> Vec<(String, String)> {
        all.iter().map(|(name, content)| ((*name).to_owned(), (*content).to_owned())).collect()
    }

    #[test]
    fn what_a_person_wrote_over_a_change_is_put_aside_and_told() {
        let left = beside(&[("rules", "theirs"), (".sidecar-old.rules", "old")], |store, _| {
            assert!(recovery::put_back(store, &record("1"), recovery::Theirs::Aside).unwrap().was_theirs);
        });
        assert_eq!(left, owned(&[("rules", "old"), (".sidecar-other.rules", "theirs")]));
    }

    #[test]
    fn only_what_a_person_wrote_and_lies_nowhere_else_is_put_aside() {
        let left = beside(&[("rules", "theirs"), (".sidecar-new.rules", "new")], |store, dir| {
            std::fs::hard_link(dir.join("rules"), dir.join(".sidecar-old.rules")).unwrap();
            recovery::close(store, &record("1")).unwrap();
        });
        assert_eq!(left, owned(&[("rules", "theirs")]));
        let left = beside(&[("rules", "old"), (".sidecar-new.rules", "theirs")], |store, _| {
            recovery::close(store, &record("1")).unwrap();
        });
        assert_eq!(left, owned(&[("rules", "old"), (".sidecar-other.rules", "theirs")]));
    }

    #[test]
    fn a_broken_record_matters_only_if_other_content_is_kept() {
        let is_known = |kept: &[(&str, &str)]| {
            let mut known = false;
            let all = [&[("rules", "new"), (".rules.sidecar", "{")], kept].concat();
            beside(&all, |store, _| known = recovery::record(store).is_ok());
            known
        };
        assert!(is_known(&[]) && is_known(&[(".sidecar-old.rules", "new")]));
        assert!(!is_known(&[(".sidecar-old.rules", "old")]));
    }

    #[test]
    fn a_mount_point_with_a_space_in_its_name_is_known() {
        assert_eq!(unescape(br"/etc/a\040b\134c").as_os_str().as_bytes(), br"/etc/a b\c");
        assert_eq!(unescape(br"/x\9").as_os_str().as_bytes(), br"/x\9");
    }
}
