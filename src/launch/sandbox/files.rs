//! The real directory tree.
//!
//! The code walks it from the root, name by name, with descriptors. The kernel follows no link on the way, so no process can slip one
//! in between two looks. A look uses what the kernel already knows about a file (`AT_STATX_DONT_SYNC`), and asks no file server. A
//! file that was looked at stays open, and later looks use that descriptor.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::rc::Rc;

use nix::fcntl::{OFlag, openat, readlinkat};
use nix::libc;
use nix::sys::stat::{Mode, SFlag, mkdirat};

use super::paths::{Entry, Found, Kind, Mount, Tree};

/// The most files that stay open. It is far below the number that a process may have (`RLIMIT_NOFILE`).
const MAX_KEPT: usize = 256;
/// How much of a directory is read at once, in bytes. Most directories fit, and each further page of memory takes time.
const CHUNK: usize = 8 * 1024;
/// The offsets of length, type and name in `struct linux_dirent64`: getdents(2).
const LENGTH: usize = 16;
const TYPE: usize = 18;
const NAME: usize = 19;
const PATH_ONLY: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// The tree that this process sees.
#[derive(Default)]
pub struct Files {
    root: RefCell<Option<Found<Rc<Open>>>>,
    kept: Cell<usize>,
    chunk: RefCell<Vec<u8>>,
}

/// A file that is open as a path only (`O_PATH`).
pub struct Open {
    fd: OwnedFd,
    /// The files in this directory that were looked at.
    below: RefCell<BTreeMap<OsString, Found<Rc<Open>>>>,
}

impl Open {
    fn new(fd: OwnedFd) -> Rc<Self> {
        Rc::new(Self { fd, below: RefCell::default() })
    }
}

impl AsFd for Open {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Tree for Files {
    type Node = Rc<Open>;

    fn root(&self) -> io::Result<Found<Self::Node>> {
        if let Some(root) = &*self.root.borrow() {
            return Ok(root.clone());
        }
        let root = found(nix::fcntl::open("/", PATH_ONLY, Mode::empty())?)?;
        Ok(self.root.borrow_mut().insert(root).clone())
    }

    fn look(&self, directory: &Self::Node, name: &OsStr) -> io::Result<Found<Self::Node>> {
        if let Some(found) = directory.below.borrow().get(name) {
            return Ok(found.clone());
        }
        let found = found(openat(directory, name, PATH_ONLY, Mode::empty())?)?;
        if self.kept.get() < MAX_KEPT {
            self.kept.set(self.kept.get() + 1);
            directory.below.borrow_mut().insert(name.to_owned(), found.clone());
        }
        Ok(found)
    }

    fn open(&self, directory: &Self::Node, name: &OsStr) -> io::Result<Self::Node> {
        Ok(Open::new(openat(directory, name, PATH_ONLY, Mode::empty())?))
    }

    fn list(&self, directory: &Self::Node) -> io::Result<Vec<Entry>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let open = openat(directory, ".", flags, Mode::empty())?;
        let mut chunk = self.chunk.borrow_mut();
        chunk.resize(CHUNK, 0);
        let mut all = Vec::new();
        loop {
            // SAFETY: the kernel writes at most that many bytes there.
            let size = unsafe { libc::syscall(libc::SYS_getdents64, open.as_raw_fd(), chunk.as_mut_ptr(), CHUNK) };
            let size = usize::try_from(size).map_err(|_| io::Error::last_os_error())?;
            if size == 0 {
                return Ok(all);
            }
            let mut rest = chunk.get(..size).unwrap_or_default();
            while let Some((entry, after)) = entry(rest) {
                all.extend(entry);
                rest = after;
            }
        }
    }

    fn mounts(&self) -> io::Result<Vec<Mount>> {
        let mut text = self.chunk.borrow_mut();
        text.clear();
        File::open("/proc/self/mountinfo")?.read_to_end(&mut text)?;
        Ok(text.split(|byte| *byte == b'\n').filter_map(mount).collect())
    }
}

/// Makes a directory to which only its owner has access. It is no error if there is one already.
///
/// # Errors
/// It can't be made.
pub fn make(parent: &Open, name: &OsStr) -> io::Result<()> {
    match mkdirat(parent, name, Mode::S_IRWXU) {
        Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn found(fd: OwnedFd) -> io::Result<Found<Rc<Open>>> {
    let mut stat = MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT;
    let mask = libc::STATX_TYPE | libc::STATX_INO | libc::STATX_NLINK | libc::STATX_MNT_ID;
    // SAFETY: the name is a C string, and statx(2) writes no more than the structure.
    if unsafe { libc::statx(fd.as_raw_fd(), c"".as_ptr(), flags, mask, stat.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all its fields are numbers.
    let stat = unsafe { stat.assume_init() };
    let kind = match SFlag::from_bits_truncate(u32::from(stat.stx_mode)) & SFlag::S_IFMT {
        SFlag::S_IFDIR => Kind::Directory,
        SFlag::S_IFLNK => Kind::Link(PathBuf::from(readlinkat(fd.as_fd(), "")?)),
        SFlag::S_IFCHR => Kind::Device,
        _ => Kind::File,
    };
    let device = libc::makedev(stat.stx_dev_major, stat.stx_dev_minor);
    let links = u64::from(stat.stx_nlink);
    Ok(Found { node: Open::new(fd), id: (device, stat.stx_ino), links, mount: stat.stx_mnt_id, kind })
}

/// Splits the first entry off from what getdents(2) wrote; returns it and the rest. The entry is `None` if it is a symbolic link,
/// the directory itself or its parent.
fn entry(bytes: &[u8]) -> Option<(Option<Entry>, &[u8])> {
    let length = bytes.get(LENGTH..TYPE)?.try_into().ok().map(u16::from_ne_bytes)?;
    let (entry, after) = bytes.split_at_checked(length.into())?;
    let name = entry.get(NAME..)?.split(|byte| *byte == 0).next()?;
    let is_directory = match *entry.get(TYPE)? {
        libc::DT_LNK => return Some((None, after)),
        libc::DT_UNKNOWN => None,
        kind => Some(kind == libc::DT_DIR),
    };
    let is_listed = name != b"." && name != b"..";
    Some((is_listed.then(|| Entry { name: OsStr::from_bytes(name).to_owned(), is_directory }), after))
}

/// Reads a line of mountinfo: `proc_pid_mountinfo`(5).
fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse().ok();
    let (id, parent) = (number()?, number()?);
    let (major, minor) = std::str::from_utf8(fields.next()?).ok()?.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    Some(Mount { id, parent, device, root: unescaped(fields.next()?), point: unescaped(fields.next()?) })
}

/// Undoes the escapes of mountinfo: a space is `\040`, for example.
fn unescaped(mut text: &[u8]) -> PathBuf {
    if !text.contains(&b'\\') {
        return PathBuf::from(OsStr::from_bytes(text));
    }
    let mut path = Vec::with_capacity(text.len());
    while let Some((first, rest)) = text.split_first() {
        let octal = rest.get(..3).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        if let Some(byte) = octal.filter(|_| *first == b'\\') {
            path.push(byte);
            text = rest.get(3..).unwrap_or_default();
        } else {
            path.push(*first);
            text = rest;
        }
    }
    PathBuf::from(OsString::from_vec(path))
}
