//! On files.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::Path;

use nix::libc;

use super::Keeper::{Files, Truncation};
use super::calls::{as_a_new_root, call, owned, read, write};
use super::{Attack, Prey, attack};

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

/// `rename`(2), which says EXDEV if Landlock minds that the move would widen what may be done with the file.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to).map_err(|e| match e.raw_os_error() {
        Some(libc::EXDEV) => io::Error::from_raw_os_error(libc::EACCES),
        _ => e,
    })
}

/// Puts a link in the place of a directory, as the sandbox of a later start would follow it; and the directory back.
fn replace_by_a_link(directory: &Path, to: &Path) -> io::Result<()> {
    let aside = directory.with_extension(format!("aside-{}", std::process::id()));
    fs::rename(directory, &aside)?;
    symlink(to, directory).and_then(|()| fs::remove_file(directory)).and(fs::rename(aside, directory))
}

fn own_rules(prey: &Prey) -> &Path {
    prey.own_rules.as_deref().unwrap()
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap()
}

/// The name beside a daemon's file that sidecar uses for its record, or for the content that it keeps.
fn beside(rules: &Path, before: &str, after: &str) -> std::path::PathBuf {
    rules.with_file_name(format!("{before}{}{after}", rules.file_name().unwrap().to_str().unwrap()))
}

/// Forges a file beside a daemon's, and removes it.
fn forge(path: &Path) -> io::Result<()> {
    fs::write(path, "{}").and_then(|()| fs::remove_file(path))
}

pub const ATTACKS: &[Attack] = &[
    attack("read a sibling's secret", "EACCES", Files, |prey| read(&prey.secret)),
    attack("read a sibling's secret through a second mount of the same volume", "EACCES", Files, |prey| {
        read(&prey.mirror)
    }),
    attack("read a sibling's secret through /proc/PID/root", "EACCES", Files, |prey| {
        read(format!("/proc/{}/root{}", prey.another, prey.secret.display()))
    }),
    attack("read a sibling's secret through a symlink in its own directory", "EACCES", Files, |prey| {
        let link = prey.new_name("link");
        symlink(parent(&prey.secret), &link)?;
        read(link.join(prey.secret.file_name().unwrap()))
    }),
    attack("open a sibling's secret as a path only, then reopen it for reading", "EACCES", Files, |prey| {
        let path = fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&prey.secret)?;
        read(format!("/proc/self/fd/{}", path.as_raw_fd()))
    }),
    attack("read a sibling's secret as root of a user namespace, by chroot", "EACCES", Files, |prey| {
        as_a_new_root(|| {
            call!(libc::SYS_chroot, c(parent(&prey.secret)).as_ptr())?;
            read(Path::new("/").join(prey.secret.file_name().unwrap()))
        })
    }),
    attack("bind-mount a sibling's secrets into its own directory, in a user namespace", "EPERM", Files, |prey| {
        let place = prey.new_name("mount");
        fs::create_dir(&place)?;
        as_a_new_root(|| {
            let (from, to) = (c(parent(&prey.secret)), c(&place));
            call!(libc::SYS_mount, from.as_ptr(), to.as_ptr(), 0usize, libc::MS_BIND, 0usize)?;
            read(place.join(prey.secret.file_name().unwrap()))
        })
    }),
    attack("read a sibling's secret in a detached mount, in a user namespace", "EACCES", Files, |prey| {
        const OPEN_TREE_CLONE: i32 = 1;
        as_a_new_root(|| {
            let from = c(parent(&prey.secret));
            let tree = call!(libc::SYS_open_tree, libc::AT_FDCWD, from.as_ptr(), OPEN_TREE_CLONE).map(owned)?;
            let name = c(Path::new(prey.secret.file_name().unwrap()));
            call!(libc::SYS_openat, tree.as_raw_fd(), name.as_ptr(), libc::O_RDONLY).map(owned).map(drop)
        })
    }),
    attack("hard-link a sibling's secret into its own directory", "EXDEV", Files, |prey| {
        // What lies in another file system can't be linked, with or without a sandbox: then a name beside it.
        let name = prey.new_name("hard");
        fs::hard_link(&prey.secret, &name).or_else(|e| match fs::read(&prey.secret) {
            Ok(_) if e.raw_os_error() == Some(libc::EXDEV) => {
                fs::hard_link(&prey.secret, beside(&prey.secret, "hard", &std::process::id().to_string()))
            }
            _ => Err(e),
        })
    }),
    attack("read a sibling's data", "EACCES", Files, |prey| read(&prey.data)),
    attack("write to a sibling's data", "EACCES", Files, |prey| write(&prey.data)),
    attack("list a sibling's configuration directory", "EACCES", Files, |prey| {
        fs::read_dir(parent(&prey.rules)).map(drop)
    }),
    attack("read a sibling's configuration", "EACCES", Files, |prey| read(&prey.rules)),
    attack("write to a sibling's configuration", "EACCES", Files, |prey| write(&prey.rules)),
    attack("forge the record of a change of a sibling's configuration", "EACCES", Files, |prey| {
        forge(&beside(&prey.rules, ".", ".sidecar.x"))
    }),
    attack("forge the kept old copy of a sibling's configuration", "EACCES", Files, |prey| {
        forge(&beside(&prey.rules, ".sidecar-old.", ".x"))
    }),
    attack("write to its own configuration", "EACCES", Files, |prey| write(own_rules(prey))),
    attack("truncate its own configuration", "EACCES", Truncation, |prey| {
        // To the length that it has.
        let size = fs::metadata(own_rules(prey))?.len();
        call!(libc::SYS_truncate, c(own_rules(prey)).as_ptr(), size).map(drop)
    }),
    attack("replace its own configuration by a rename", "EACCES", Files, |prey| {
        // In the directory itself if the attacker's own is on another file system. By the same bytes.
        let beside = beside(own_rules(prey), ".new-", &std::process::id().to_string());
        let new = prey.new_name("new");
        fs::copy(own_rules(prey), &new)?;
        rename(&new, own_rules(prey)).or_else(|_| {
            fs::copy(own_rules(prey), &beside)?;
            rename(&beside, own_rules(prey))
        })
    }),
    attack("forge the record of a change of its own configuration", "EACCES", Files, |prey| {
        forge(&beside(own_rules(prey), ".", ".sidecar.x"))
    }),
    attack("forge the kept old copy of its own configuration", "EACCES", Files, |prey| {
        forge(&beside(own_rules(prey), ".sidecar-old.", ".x"))
    }),
    attack("replace its own directory with a symlink, to widen its next sandbox", "EACCES", Files, |prey| {
        replace_by_a_link(prey.own(), parent(&prey.secret))
    }),
    attack("replace a sibling's directory with a symlink, to widen that one's next sandbox", "EACCES", Files, |prey| {
        replace_by_a_link(&prey.others, parent(&prey.secret))
    }),
    attack("read the daemon table", "EACCES", Files, |prey| read(&prey.table)),
    attack("write to a world-writable file", "EACCES", Files, |prey| write(prey.open.join("file"))),
    attack("delete a file in a world-writable directory", "EACCES", Files, |prey| {
        // The first that the attacks before have left.
        let all = (0..100).map(|n| prey.open.join(format!("heap/{n}"))).find(|path| path.exists());
        fs::remove_file(all.unwrap())
    }),
    attack("create a file in a world-writable directory", "EACCES", Files, |prey| {
        fs::write(prey.open.join(format!("new-{}", std::process::id())), "x")
    }),
    attack("create a directory in a world-writable directory", "EACCES", Files, |prey| {
        fs::create_dir(prey.open.join(format!("dir-{}", std::process::id())))
    }),
    attack("create a symlink in a world-writable directory", "EACCES", Files, |prey| {
        symlink("/", prey.open.join(format!("link-{}", std::process::id())))
    }),
    attack("create a FIFO in a world-writable directory", "EACCES", Files, |prey| {
        let name = prey.open.join(format!("fifo-{}", std::process::id()));
        nix::unistd::mkfifo(&name, nix::sys::stat::Mode::S_IRWXU).map_err(io::Error::from)
    }),
    attack("create a Unix socket in a world-writable directory", "EACCES", Files, |prey| {
        std::os::unix::net::UnixListener::bind(prey.open.join(format!("socket-{}", std::process::id()))).map(drop)
    }),
    attack("create POSIX shared memory in /dev/shm", "EACCES", Files, |_| {
        forge(Path::new(&format!("/dev/shm/{}", std::process::id())))
    }),
    attack("create a POSIX message queue", "EACCES", Files, |_| {
        let name = CString::new(format!("sidecar-{}", std::process::id())).unwrap();
        // One message of one byte: a user may not have much of these.
        let attributes = [0i64, 1, 1, 0, 0, 0, 0, 0];
        call!(libc::SYS_mq_open, name.as_ptr(), libc::O_CREAT | libc::O_RDWR, 0o600, attributes.as_ptr()).map(owned)?;
        call!(libc::SYS_mq_unlink, name.as_ptr()).map(drop)
    }),
    attack("create a device node in its own directory", "EACCES", Files, |prey| {
        // /dev/null by another name; the kernel lets Landlock answer before it asks for CAP_MKNOD.
        let name = c(&prey.new_name("device"));
        call!(libc::SYS_mknodat, libc::AT_FDCWD, name.as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(1, 3)).map(drop)
    })
    .without(super::Without::NeedsCapability),
    attack("open a new terminal (/dev/ptmx)", "EACCES", Files, |_| super::calls::open_as_writer("/dev/ptmx")),
    attack("list operators' terminals (/dev/pts)", "EACCES", Files, |_| fs::read_dir("/dev/pts").map(drop)),
    attack("read what an operator types", "EACCES", Files, |prey| fs::File::open(&prey.terminal).map(drop)),
    attack("write to an operator's terminal", "EACCES", Files, |prey| super::calls::open_as_writer(&prey.terminal)),
];
