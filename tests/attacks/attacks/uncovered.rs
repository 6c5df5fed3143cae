//! What the sandbox doesn't cover, as docs/security.md says: each of these works in it too.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;
use nix::sys::socket::{Backlog, listen};

use super::Keeper::Nobody;
use super::calls::{call, notify, owned, read, socket};
use super::{Attack, attack};

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

pub const UNCOVERED: &[Attack] = &[
    attack("see that a hidden file exists", "ok", Nobody, |prey| fs::metadata(&prey.secret).map(drop)),
    attack("watch names come and go in a hidden directory", "ok", Nobody, |prey| {
        let watch = call!(libc::SYS_inotify_init1, 0).map(owned)?;
        let directory = c(prey.rules.parent().unwrap());
        call!(libc::SYS_inotify_add_watch, watch.as_raw_fd(), directory.as_ptr(), libc::IN_CREATE).map(drop)
    }),
    attack("change the mode of a sibling's file", "ok", Nobody, |prey| {
        fs::set_permissions(&prey.data, fs::metadata(&prey.data)?.permissions())
    }),
    attack("change the times of a sibling's file", "ok", Nobody, |prey| {
        call!(libc::SYS_utimensat, libc::AT_FDCWD, c(&prey.data).as_ptr(), 0usize, 0).map(drop)
    }),
    attack("read a sibling's command line", "ok", Nobody, |prey| read(format!("/proc/{}/cmdline", prey.another))),
    attack("choose a sibling's processors (sched_setaffinity)", "ok", Nobody, |prey| {
        let mut set = [0u64; 16];
        let size = call!(libc::SYS_sched_getaffinity, prey.another, 128, set.as_mut_ptr())?;
        call!(libc::SYS_sched_setaffinity, prey.another, size, set.as_ptr()).map(drop)
    }),
    attack("send to an abstract Unix socket", "ok", Nobody, |_| notify(b"STATUS=an attack", &[])),
    attack("create System V shared memory", "ok", Nobody, |_| {
        let id = call!(libc::SYS_shmget, std::process::id(), 4096usize, libc::IPC_CREAT | 0o600)?;
        call!(libc::SYS_shmctl, id, libc::IPC_RMID, 0usize).map(drop)
    }),
    attack("listen without binding, on a port that the kernel chooses", "ok", Nobody, |_| {
        let socket = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
        listen(&socket, Backlog::new(1).unwrap()).map_err(io::Error::from)
    }),
];
