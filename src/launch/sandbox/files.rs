//! The real directory tree.
//!
//! It is walked from its root on, name by name, by descriptors: no link is followed by the kernel, so none can be put
//! there between a look and the next. A look takes what is known of a file (`AT_STATX_DONT_SYNC`) and asks no server.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::rc::Rc;

use nix::fcntl::{OFlag, openat, readlinkat};
use nix::libc;
use nix::sys::stat::{Mode, SFlag, mkdirat};

use super::paths::{Found, Kind, Mount, Tree};

/// The tree that this process sees.
pub struct Files;

impl Tree for Files {
    type Node = Rc<OwnedFd>;

    fn root(&self) -> io::Result<Found<Self::Node>> {
        found(nix::fcntl::open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?)
    }

    fn look(&self, directory: &Self::Node, name: &OsStr) -> io::Result<Found<Self::Node>> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        found(openat(directory.as_fd(), name, flags, Mode::empty())?)
    }

    fn list(&self, directory: &Self::Node) -> io::Result<Vec<OsString>> {
        // Through the descriptor: the directory's name may lead elsewhere by now.
        let all = fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
        let is_link = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_symlink());
        let but_links = all.filter(|entry| !entry.as_ref().is_ok_and(is_link));
        but_links.map(|entry| Ok(entry?.file_name())).collect()
    }

    fn mounts(&self) -> io::Result<Vec<Mount>> {
        let text = fs::read("/proc/self/mountinfo")?;
        Ok(text.split(|byte| *byte == b'\n').filter_map(mount).collect())
    }
}

/// Makes a directory that is its owner's alone.
///
/// # Errors
/// It can't be made. One that is there already is taken.
pub fn make(parent: &Rc<OwnedFd>, name: &OsStr) -> io::Result<()> {
    match mkdirat(parent.as_fd(), name, Mode::S_IRWXU) {
        Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn found(fd: OwnedFd) -> io::Result<Found<Rc<OwnedFd>>> {
    let mut stat = MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT;
    let mask = libc::STATX_TYPE | libc::STATX_INO | libc::STATX_MNT_ID;
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
    Ok(Found { node: Rc::new(fd), id: (device, stat.stx_ino), mount: stat.stx_mnt_id, kind })
}

/// A line of mountinfo: `proc_pid_mountinfo`(5).
fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse().ok();
    let (id, parent) = (number()?, number()?);
    let (major, minor) = std::str::from_utf8(fields.next()?).ok()?.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    Some(Mount { id, parent, device, root: unescaped(fields.next()?), point: unescaped(fields.next()?) })
}

/// Spaces and the like are written as `\040`.
fn unescaped(mut text: &[u8]) -> PathBuf {
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
