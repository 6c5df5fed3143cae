//! Landlock's three system calls: landlock(7). The structures and numbers are those of linux/landlock.h, to which later
//! kernels only add. They take a structure that is shorter than theirs as if zeros followed.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd};

use nix::libc;

use super::paths::Access;
use super::{ABI_DEVICES, ABI_SIGNALS, ABI_TCP, ABI_TRUNCATION};
use crate::table::sandbox::Sandbox;

const EXECUTE: u64 = 1 << 0;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
/// The rights from `REMOVE_DIR` to `MAKE_SYM`, which version 1 has besides the four above.
const CHANGE_DIR: u64 = 0x1ff0;
/// The right to make devices. It is never granted, since no daemon needs it.
const MAKE_CHAR: u64 = 1 << 6;
const MAKE_BLOCK: u64 = 1 << 11;
/// Moves and links between directories, since version 2. In version 1 a domain allows none.
const REFER: u64 = 1 << 13;
/// Since version 3.
const TRUNCATE: u64 = 1 << 14;
/// Since version 5.
const IOCTL_DEV: u64 = 1 << 15;

/// Since version 4.
const BIND_TCP: u64 = 1 << 0;
const CONNECT_TCP: u64 = 1 << 1;

/// Signals to processes outside the domain, since version 6.
const SCOPE_SIGNAL: u64 = 1 << 1;

const CREATE_RULESET_VERSION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;
const RULE_NET_PORT: u32 = 2;

#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: i32,
}

#[repr(C)]
struct NetPortAttr {
    allowed_access: u64,
    port: u64,
}

/// The version of Landlock's interface that the kernel has.
///
/// # Errors
/// ENOSYS: the kernel has no Landlock, or a filter of system calls doesn't know it. EOPNOTSUPP: Landlock is switched off. EPERM: a
/// filter refuses it.
pub fn version() -> io::Result<u32> {
    let nothing = std::ptr::null::<RulesetAttr>();
    // SAFETY: with this flag the call takes no structure.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0usize, CREATE_RULESET_VERSION) };
    u32::try_from(version).map_err(|_| io::Error::last_os_error())
}

/// A set of rules that doesn't restrict any process yet.
pub struct Ruleset {
    fd: File,
    handled: u64,
}

/// What a sandbox forbids unless a rule allows it, on a kernel with this version.
fn attributes(sandbox: &Sandbox, abi: u32) -> RulesetAttr {
    let since = |version, right| if abi >= version { right } else { 0 };
    let asked = |ports: &Option<Vec<u16>>, right| if ports.is_some() { since(ABI_TCP, right) } else { 0 };
    RulesetAttr {
        handled_access_fs: EXECUTE
            | WRITE_FILE
            | READ_FILE
            | READ_DIR
            | CHANGE_DIR
            | REFER
            | since(ABI_TRUNCATION, TRUNCATE)
            | since(ABI_DEVICES, IOCTL_DEV),
        handled_access_net: asked(&sandbox.bind, BIND_TCP) | asked(&sandbox.connect, CONNECT_TCP),
        scoped: since(ABI_SIGNALS, SCOPE_SIGNAL),
    }
}

/// The rights that a rule grants. For anything but a directory, the kernel refuses a rule with rights that only directories have.
fn rights(access: Access, is_directory: bool, handled: u64) -> u64 {
    let read = EXECUTE | READ_FILE | READ_DIR;
    let all = match access {
        Access::Read => read,
        Access::Write => read | WRITE_FILE | TRUNCATE | IOCTL_DEV | REFER | (CHANGE_DIR & !(MAKE_CHAR | MAKE_BLOCK)),
    };
    let of_files = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;
    handled & if is_directory { all } else { all & of_files }
}

impl Ruleset {
    /// Makes a ruleset with the rules for ports. Call [`Self::allow`] for each file.
    ///
    /// # Errors
    /// The kernel refused it.
    pub fn new(sandbox: &Sandbox, abi: u32) -> io::Result<Self> {
        let attributes = attributes(sandbox, abi);
        // An older kernel accepts a structure with parts that it doesn't know only if those are 0, which they are here.
        let size = size_of::<RulesetAttr>();
        // SAFETY: the structure lives through the call, and has that size.
        let fd = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attributes, size, 0u32) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
        // SAFETY: it was made above, and nobody else knows of it.
        let ruleset = Self { fd: unsafe { File::from_raw_fd(fd) }, handled: attributes.handled_access_fs };
        for (ports, right) in [(&sandbox.bind, BIND_TCP), (&sandbox.connect, CONNECT_TCP)] {
            for port in ports.iter().flatten().filter(|_| attributes.handled_access_net & right != 0) {
                let rule = NetPortAttr { allowed_access: right, port: u64::from(*port) };
                ruleset.add(RULE_NET_PORT, (&raw const rule).cast())?;
            }
        }
        Ok(ruleset)
    }

    /// Adds a rule that allows access to a file and to everything below it.
    ///
    /// # Errors
    /// The kernel refused it.
    pub fn allow(&self, file: BorrowedFd<'_>, is_directory: bool, access: Access) -> io::Result<()> {
        let allowed_access = rights(access, is_directory, self.handled);
        let rule = PathBeneathAttr { allowed_access, parent_fd: file.as_raw_fd() };
        match self.add(RULE_PATH_BENEATH, (&raw const rule).cast()) {
            // For a file of an internal file system, such as a mounted namespace (nsfs), there can be no rule, and none is needed.
            Err(e) if e.raw_os_error() == Some(libc::EBADFD) => Ok(()),
            result => result,
        }
    }

    fn add(&self, kind: u32, rule: *const libc::c_void) -> io::Result<()> {
        // SAFETY: the callers' rule is of that kind, and lives through the call.
        match unsafe { libc::syscall(libc::SYS_landlock_add_rule, self.fd.as_raw_fd(), kind, rule, 0u32) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Restricts this process and all its descendants, for good. `no_new_privs` must be set.
    ///
    /// # Errors
    /// The kernel refused it, with E2BIG if it would be the 17th layer.
    pub fn restrict_self(&self) -> io::Result<()> {
        // SAFETY: landlock_restrict_self(2) takes numbers.
        match unsafe { libc::syscall(libc::SYS_landlock_restrict_self, self.fd.as_raw_fd(), 0u32) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_handles_what_it_knows_and_no_more() {
        let sandbox = Sandbox { bind: Some(vec![1]), ..Sandbox::default() };
        let handled = |abi| {
            let RulesetAttr { handled_access_fs, handled_access_net, scoped } = attributes(&sandbox, abi);
            (handled_access_fs, handled_access_net, scoped)
        };
        assert_eq!(handled(2), (0x3fff, 0, 0));
        assert_eq!(handled(3), (0x7fff, 0, 0));
        assert_eq!(handled(4), (0x7fff, BIND_TCP, 0));
        assert_eq!(handled(5), (0xffff, BIND_TCP, 0));
        assert_eq!(handled(6), (0xffff, BIND_TCP, SCOPE_SIGNAL));
        assert_eq!(handled(7), handled(6));
    }

    #[test]
    fn a_rule_grants_no_devices_and_no_directory_rights_to_a_file() {
        let all = 0xffff;
        assert_eq!(rights(Access::Read, true, all), 0b1101);
        assert_eq!(rights(Access::Read, false, all), 0b0101);
        assert_eq!(rights(Access::Write, true, all), 0xffff & !MAKE_CHAR & !MAKE_BLOCK);
        assert_eq!(rights(Access::Write, false, all), 0xc007);
    }
}
