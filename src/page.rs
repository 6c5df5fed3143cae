//! Reads the status page that PID 1 keeps at a fixed descriptor, checks that it is one, and writes requests to PID 1.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::stat::Mode;
use nix::time::{ClockId, clock_gettime};

use crate::request::{CHANGES_FD, REQUEST_FD, Request};
use crate::status::{PAGE_FD, PAGE_NAME, Page, SCHEMA};

/// The largest page that is read, in bytes: several times what the largest table needs.
const MAX_BYTES: u64 = 16 << 20;
/// How long init may take from its start to its first page.
const TO_COME_UP: Duration = Duration::from_secs(1);
/// How often to look for it until then.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// How often to read the page if nothing reports its changes, in milliseconds.
const UNTOLD_INTERVAL: u16 = 5;
/// The shortest time between two wake-ups, since another process than init may cause them.
const SHORTEST: Duration = Duration::from_millis(1);

/// Reads the page of PID 1.
///
/// # Errors
/// Why PID 1 isn't `sidecar init`, or why its page can't be read.
pub fn read() -> Result<Page, String> {
    read_at(Path::new(&format!("/proc/1/fd/{PAGE_FD}")))
}

/// Sends init a request, and waits for at most `timeout` until there is room for it. With `None` it only checks that this user may
/// send one.
///
/// # Errors
/// This user may not, PID 1 takes no requests, or there was no room in time.
pub fn ask(request: Option<&Request>, timeout: Duration) -> io::Result<()> {
    let mut pipe =
        open_pipe(1, REQUEST_FD, OFlag::O_WRONLY)?.ok_or_else(|| io::Error::other("PID 1 takes no requests"))?;
    let Some(request) = request else { return Ok(()) };
    let until = Instant::now() + timeout;
    // A write of less than PIPE_BUF goes into the pipe as a whole or not at all.
    while let Err(e) = pipe.write(request.to_string().as_bytes()) {
        match e.kind() {
            io::ErrorKind::WouldBlock if Instant::now() < until => thread::sleep(Duration::from_millis(5)),
            io::ErrorKind::WouldBlock => {
                return Err(io::Error::other("it isn't reading its requests, and there is no room for another"));
            }
            io::ErrorKind::Interrupted => {}
            _ => return Err(e),
        }
    }
    Ok(())
}

/// Opens the pipe that an init has at this descriptor. `None` if there is no pipe.
fn open_pipe(init: i32, fd: i32, way: OFlag) -> io::Result<Option<File>> {
    let path = PathBuf::from(format!("/proc/{init}/fd/{fd}"));
    // The link is checked first, since opening a stranger's descriptor can have side effects.
    if !path.read_link()?.as_os_str().as_encoded_bytes().starts_with(b"pipe:[") {
        return Ok(None);
    }
    Ok(Some(File::from(open(&path, way | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK, Mode::empty())?)))
}

/// Waits for the page of an init to change. No change after this value was made is missed.
pub struct Changes {
    /// An epoll that reports each write of init to the pipe, and the pipe. `None` if they couldn't be opened.
    told: Option<(Epoll, File)>,
    woken: Instant,
}

impl Changes {
    /// Begins to watch the init with this pid. If it can't, each wait is so short that no change is missed for long.
    #[must_use]
    pub fn of(init: i32) -> Self {
        let told = || {
            let mut pipe = open_pipe(init, CHANGES_FD, OFlag::O_RDWR).ok()??;
            let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).ok()?;
            epoll.add(&pipe, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0)).ok()?;
            // Linux 5.5 to 5.13 doesn't report a write to a pipe that isn't empty.
            for _ in 0..2 {
                pipe.write_all(b"\n").ok()?;
                epoll.wait(&mut [EpollEvent::empty()], PollTimeout::ZERO).ok().filter(|told| *told == 1)?;
            }
            Some((epoll, pipe))
        };
        Self { told: told(), woken: Instant::now() }
    }

    /// How long a wait of this many milliseconds may really last.
    #[must_use]
    pub fn longest(&self, ms: u16) -> u16 {
        if self.told.is_some() { ms } else { ms.min(UNTOLD_INTERVAL) }
    }

    /// A descriptor that is readable once the page has changed.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.told.as_ref().map(|(epoll, _)| epoll.0.as_fd())
    }

    /// Call this once [`Self::fd`] is readable, before reading the page. Later changes make it readable again.
    pub fn take(&mut self) {
        if let Some((epoll, _)) = &self.told {
            let _ = epoll.wait(&mut [EpollEvent::empty()], PollTimeout::ZERO);
        }
        thread::sleep(SHORTEST.saturating_sub(self.woken.elapsed()));
        self.woken = Instant::now();
    }

    /// Waits for a change, for at most this many milliseconds.
    pub fn wait(&mut self, ms: u16) {
        let ms = self.longest(ms);
        let Some(fd) = self.fd() else { return thread::sleep(Duration::from_millis(ms.into())) };
        if poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::from(ms)).is_ok_and(|n| n > 0) {
            self.take();
        }
    }
}

/// `CLOCK_MONOTONIC`, the page's clock, in milliseconds.
#[must_use]
pub fn now_ms() -> u64 {
    // clock_gettime can't fail for this clock.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |t| {
        let millis = t.tv_sec().saturating_mul(1000).saturating_add(t.tv_nsec() / 1_000_000);
        u64::try_from(millis).unwrap_or(0)
    })
}

/// Reads the page of the init that started this process, whether that is PID 1 or not.
///
/// # Errors
/// As of [`read`].
pub fn read_of_parent() -> Result<Page, String> {
    read_at(Path::new(&format!("/proc/{}/fd/{PAGE_FD}", nix::unistd::getppid())))
}

/// Reads the page of PID 1. If PID 1 is this very program and was started a moment ago, it waits for the page.
///
/// # Errors
/// As of [`read`].
pub fn read_when_up() -> Result<Page, String> {
    let until = Instant::now() + TO_COME_UP;
    loop {
        match read() {
            Err(_) if Instant::now() < until && is_this_program(1) => thread::sleep(POLL_INTERVAL),
            read => return read,
        }
    }
}

/// Whether the kernel lets this user look at PID 1's descriptors.
#[must_use]
pub fn may_look() -> bool {
    let link = Path::new(&format!("/proc/1/fd/{PAGE_FD}")).read_link();
    !link.is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied)
}

/// Whether that process, which isn't this one, executes the same file.
fn is_this_program(pid: u32) -> bool {
    let file = |of: &str| std::fs::metadata(format!("/proc/{of}/exe")).map(|meta| (meta.dev(), meta.ino())).ok();
    pid != std::process::id() && file("self").is_some_and(|this| file(&pid.to_string()) == Some(this))
}

fn read_at(path: &Path) -> Result<Page, String> {
    // The link is checked first, since opening a stranger's descriptor (a terminal's, say) can have side effects.
    is_ours(&path.read_link().map_err(|e| unreadable(&e))?)?;
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let mut file = File::from(open(path, flags, Mode::empty()).map_err(|e| unreadable(&e.into()))?);
    // The descriptor may have been replaced since, and a file on disk can have that name. But if the kernel says that a file is
    // sealed, no daemon of the same user can have rewritten it.
    let link = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    is_ours(&link.read_link().map_err(|e| unreadable(&e))?)?;
    let seals = fcntl(&file, FcntlArg::F_GET_SEALS).unwrap_or(0);
    if !SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_WRITE) {
        return Err("the status page of PID 1 isn't sealed, so anyone may have written it".to_owned());
    }
    let mut text = Vec::new();
    (&mut file).take(MAX_BYTES + 1).read_to_end(&mut text).map_err(|e| unreadable(&e))?;
    if text.len() as u64 > MAX_BYTES {
        return Err("the status page of PID 1 is larger than 16 MiB".to_owned());
    }
    parse(&text)
}

/// Reads the text of a page.
///
/// # Errors
/// It isn't a page, or isn't of this version.
pub fn parse(text: &[u8]) -> Result<Page, String> {
    let page: Page = serde_json::from_slice(text).map_err(|e| {
        format!("the status page of PID 1 can't be read by this version: {e}; use /proc/1/exe, the very program that wrote it")
    })?;
    if page.status.schema != SCHEMA {
        let schema = page.status.schema;
        return Err(format!(
            "the status page of PID 1 has schema {schema}, this program knows {SCHEMA}; use /proc/1/exe"
        ));
    }
    if page.plans.len() != page.status.daemons.len() {
        return Err("the status page of PID 1 contradicts itself".to_owned());
    }
    Ok(page)
}

fn is_ours(link: &Path) -> Result<(), String> {
    let ours = format!("/memfd:{PAGE_NAME} (deleted)");
    if link.as_os_str() == ours.as_str() { Ok(()) } else { Err(not_ours()) }
}

fn not_ours() -> String {
    "PID 1 is not `sidecar init`, or it runs without a status page (then its log says so)".to_owned()
}

fn unreadable(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::NotFound => not_ours(),
        io::ErrorKind::PermissionDenied => {
            "this user may not look at PID 1; run it inside the bundle (docker exec NAME /proc/1/exe status), as the user that PID 1 \
             runs as"
                .to_owned()
        }
        _ => format!("cannot read the status page of PID 1: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, OwnedFd};

    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;
    use crate::sample;

    fn publish(name: &str, text: &[u8], seals: SealFlag) -> (OwnedFd, PathBuf) {
        let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        let mut file = File::from(fd);
        file.write_all(text).unwrap();
        let fd = OwnedFd::from(file);
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        (fd, path)
    }

    #[test]
    fn a_sealed_page_is_read_from_its_start_each_time() {
        let page = sample::page();
        let text = serde_json::to_vec(&page).unwrap();
        let (_fd, path) = publish(PAGE_NAME, &text, SealFlag::F_SEAL_WRITE);
        assert_eq!(read_at(&path).unwrap(), page);
        assert_eq!(read_at(&path).unwrap(), page);
    }

    #[test]
    fn what_a_daemon_could_have_written_is_not_believed() {
        let text = serde_json::to_vec(&sample::page()).unwrap();
        let (_fd, path) = publish(PAGE_NAME, &text, SealFlag::F_SEAL_GROW);
        assert!(read_at(&path).unwrap_err().contains("sealed"));
        let (_fd, path) = publish("other", &text, SealFlag::F_SEAL_WRITE);
        assert!(read_at(&path).unwrap_err().contains("not `sidecar init`"));
        assert!(read_at(Path::new("/proc/self/fd/987")).unwrap_err().contains("not `sidecar init`"));
    }

    #[test]
    fn garbage_and_too_much_are_errors() {
        let (_fd, path) = publish(PAGE_NAME, b"{}", SealFlag::F_SEAL_WRITE);
        assert!(read_at(&path).is_err());
        let (_fd, path) = publish(PAGE_NAME, &vec![b' '; (16 << 20) + 1], SealFlag::F_SEAL_WRITE);
        assert!(read_at(&path).unwrap_err().contains("larger"));
        let mut page = sample::page();
        page.plans.pop();
        assert!(parse(&serde_json::to_vec(&page).unwrap()).unwrap_err().contains("contradicts"));
    }
}
