//! Daemons' output: whole lines, behind `[NAME] `, without ever blocking init.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, SFlag, fstat};

/// Longer lines are split at this many bytes, prefix not counted.
pub const LINE_MAX: usize = 8192;
/// A sink with this much in its queue takes no more from daemons that run.
const HIGH: usize = 256 * 1024;
/// Room beyond that for init's own lines: a daemon that is faster than the reader must not crowd them out.
const RESERVE: usize = 64 * 1024;
/// How often in a row a read may fail until its pipe is given up.
const READ_FAILURES: u8 = 16;

/// What is told of lines that are lost, behind their number.
const REPORT: &str = " lines were dropped here: nobody took them in time\n";
/// The longest report, in bytes.
const REPORT_MAX: usize = REPORT.len() + 20;

/// How many lost lines this line tells of, where it is a report.
fn told(line: &[u8]) -> Option<u64> {
    std::str::from_utf8(line.strip_suffix(REPORT.as_bytes())?).ok()?.parse().ok()
}

enum Way {
    /// A description of init's own that doesn't block, or a regular file, which never does for long.
    Write,
    /// `MSG_DONTWAIT`: a socket can't be opened again (ENXIO).
    Send,
    /// Neither goes: a pipe that poll(2) calls writable takes `PIPE_BUF` without blocking (pipe(7)).
    PollFirst,
}

/// Where lines go: init's stdout or stderr.
pub struct Sink {
    fd: OwnedFd,
    way: Way,
    queue: Vec<u8>,
    sent: usize,
    dropped: u64,
    /// Whether it is waited for.
    pub is_watched: bool,
    /// How much of init's own log came since it was full, in bytes.
    beyond: usize,
    /// What was written ends within a line.
    is_within_a_line: bool,
}

impl Sink {
    /// Opens one of init's own streams anew, so that `O_NONBLOCK` is set for nobody else.
    ///
    /// # Errors
    /// Where the descriptor isn't open or none is left.
    pub fn open(stream: BorrowedFd<'_>) -> io::Result<Self> {
        let kind = SFlag::from_bits_truncate(fstat(stream)?.st_mode) & SFlag::S_IFMT;
        let again = || {
            let path = format!("/proc/self/fd/{}", stream.as_raw_fd());
            let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
            open(path.as_str(), flags, Mode::empty()).ok()
        };
        let (own, way) = match kind {
            // A file opened anew would be written from its start.
            SFlag::S_IFREG => (None, Way::Write),
            SFlag::S_IFSOCK => (None, Way::Send),
            _ => again().map_or((None, Way::PollFirst), |fd| (Some(fd), Way::Write)),
        };
        let fd = own.map_or_else(|| stream.try_clone_to_owned(), Ok)?;
        Ok(Self {
            fd,
            way,
            queue: Vec::new(),
            sent: 0,
            dropped: 0,
            beyond: 0,
            is_watched: false,
            is_within_a_line: false,
        })
    }

    fn queued(&self) -> usize {
        self.queue.len() - self.sent
    }

    /// Whether it has no room for the lines of a daemon that runs.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.queued() >= HIGH
    }

    /// Whether something waits to be written.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.queued() > 0
    }

    /// What poll(2) waits for.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Takes a line of init's own, or counts it as dropped where there is no room.
    pub fn own_line(&mut self, line: &[u8]) {
        self.beyond = if self.is_full() { self.beyond + line.len() + 1 } else { 0 };
        self.line([b"", line, b""], self.beyond <= RESERVE);
    }

    /// Takes a line without its newline, in parts, or only counts it.
    fn line(&mut self, parts: [&[u8]; 3], keep: bool) {
        let size = parts.iter().map(|part| part.len()).sum::<usize>() + 2 + REPORT_MAX;
        if !keep || self.queue.try_reserve(size).is_err() {
            self.dropped += 1;
            return;
        }
        self.report();
        // What is short is copied byte by byte, and what is empty not at all: a call of memcpy costs as much for these as
        // for a line, the more so where libc copies by `rep movs` (musl).
        let [prefix, begun, rest] = parts;
        self.queue.extend(prefix.iter().copied());
        if !begun.is_empty() {
            self.queue.extend_from_slice(begun);
        }
        self.queue.extend_from_slice(rest);
        self.queue.push(b'\n');
    }

    /// Tells before the next line, or at the end, how many are lost here.
    pub fn report(&mut self) {
        if self.queue.is_empty() && self.is_within_a_line {
            // The rest of that line is lost.
            self.queue.push(b'\n');
        }
        if self.dropped > 0 {
            self.queue.extend_from_slice(format!("{}{REPORT}", self.dropped).as_bytes());
            self.dropped = 0;
        }
    }

    /// How many lines end with the rest of the queue. One of which only the newline is missing does not: that comes with
    /// the next line.
    fn unsent(&self) -> u64 {
        let (sent, rest) = self.queue.split_at_checked(self.sent).unwrap_or((&self.queue, &[]));
        let from = match rest.first() {
            Some(b'\n') if self.is_within_a_line => self.sent + 1,
            _ => memchr::memrchr(b'\n', sent).map_or(0, |at| at + 1),
        };
        let lines = self.queue.get(from..).unwrap_or_default().split_inclusive(|b| *b == b'\n');
        lines.map(|line| told(line).unwrap_or(1)).sum()
    }

    /// Writes what goes without waiting; tells whether anything went.
    pub fn flush(&mut self) -> bool {
        let mut progress = false;
        while let Some(rest) = self.queue.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.write(rest) {
                Ok(0) | Err(Errno::EAGAIN) => break,
                Ok(n) => {
                    self.sent += n;
                    self.is_within_a_line =
                        self.sent.checked_sub(1).and_then(|last| self.queue.get(last)) != Some(&b'\n');
                    progress = true;
                    if !self.is_full() {
                        self.report();
                    }
                }
                Err(Errno::EINTR) => {}
                // Nobody reads it (EPIPE), or it can't be kept (ENOSPC). That may pass, and daemons go on all the same.
                Err(_) => {
                    self.dropped += self.unsent();
                    self.sent = self.queue.len();
                }
            }
        }
        if self.queued() == 0 {
            // Not amid a flood: each burst would ask the kernel for its room anew.
            let is_little = std::mem::take(&mut self.sent) <= LINE_MAX;
            self.queue.clear();
            if is_little {
                self.queue.shrink_to(LINE_MAX);
            }
        } else if self.sent >= HIGH {
            let lines = memchr::memrchr(b'\n', self.queue.get(..self.sent).unwrap_or_default()).map_or(0, |at| at + 1);
            self.queue.drain(..lines);
            self.sent -= lines;
        }
        progress
    }

    fn write(&self, bytes: &[u8]) -> nix::Result<usize> {
        match self.way {
            Way::Write => nix::unistd::write(&self.fd, bytes),
            Way::Send => {
                use nix::sys::socket::{MsgFlags, send};
                send(self.fd.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)
            }
            Way::PollFirst => {
                let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLOUT)];
                if poll(&mut fds, PollTimeout::ZERO)? == 0 {
                    return Err(Errno::EAGAIN);
                }
                let end = bytes.len().min(libc::PIPE_BUF);
                nix::unistd::write(&self.fd, bytes.get(..end).unwrap_or(bytes))
            }
        }
    }
}

/// One pipe of one generation of a daemon.
pub struct Stream {
    fd: OwnedFd,
    prefix: String,
    partial: Vec<u8>,
    /// How much of it is still wanted.
    left: usize,
    /// How many reads in a row failed.
    failed: u8,
    /// Which daemon.
    pub daemon: usize,
    /// Which start of it.
    pub generation: u64,
    /// Which sink it goes to.
    pub sink: usize,
    /// What it is watched under.
    pub number: u64,
    /// Whether it is watched.
    pub is_watched: bool,
    /// Nothing more comes out of it.
    pub ended: bool,
}

impl Stream {
    /// A stream whose lines begin with `[name] `.
    #[must_use]
    pub fn new(fd: OwnedFd, name: &str, daemon: usize, generation: u64, sink: usize, number: u64) -> Self {
        let prefix = format!("[{name}] ");
        let (partial, left) = (Vec::new(), usize::MAX);
        let (is_watched, ended) = (false, false);
        Self { fd, prefix, partial, left, failed: 0, daemon, generation, sink, number, is_watched, ended }
    }

    /// What poll(2) waits for.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// No more is wanted than what is in the pipe now: its writer may never end.
    pub fn want_no_more(&mut self) {
        let mut there: libc::c_int = 0;
        // SAFETY: FIONREAD writes an int, and `there` is one.
        unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::FIONREAD, &raw mut there) };
        self.left = usize::try_from(there).unwrap_or(0);
    }

    /// Reads once and tells how much. What is read for a sink that is full is dropped: only what a daemon that is
    /// being ended writes is read then.
    pub fn pump(&mut self, buffer: &mut [u8], sink: &mut Sink) -> usize {
        let keep = !sink.is_full();
        let most = buffer.len().min(self.left);
        let n = match nix::unistd::read(&self.fd, buffer.get_mut(..most).unwrap_or_default()) {
            Err(Errno::EAGAIN | Errno::EINTR) => return 0,
            // Whose pipe is closed dies of its next line (SIGPIPE).
            Err(_) if self.failed < READ_FAILURES => {
                self.failed += 1;
                return 0;
            }
            read => read.unwrap_or(0),
        };
        self.failed = 0;
        self.left -= n;
        self.feed(buffer.get(..n).unwrap_or_default(), sink, keep);
        if n == 0 || self.left == 0 {
            self.ended = true;
            self.finish(sink);
        }
        n
    }

    /// Prints a last line that has no newline.
    pub fn finish(&mut self, sink: &mut Sink) {
        if !self.partial.is_empty() {
            self.emit(b"", sink, true);
        }
    }

    /// Ends the line that was begun with this rest of it.
    fn emit(&mut self, rest: &[u8], sink: &mut Sink, keep: bool) {
        sink.line([self.prefix.as_bytes(), &self.partial, rest], keep);
        self.partial.clear();
    }

    fn feed(&mut self, mut bytes: &[u8], sink: &mut Sink, keep: bool) {
        if keep {
            let _ = sink.queue.try_reserve(bytes.len() + bytes.len() / 8);
        }
        while !bytes.is_empty() {
            let room = LINE_MAX - self.partial.len();
            // A newline right behind the longest line belongs to it.
            let window = bytes.get(..=room).unwrap_or(bytes);
            let (line, rest) = match memchr::memchr(b'\n', window) {
                Some(at) => (bytes.get(..at), bytes.get(at + 1..)),
                None if window.len() > room => (bytes.get(..room), bytes.get(room..)),
                None => {
                    self.partial.extend_from_slice(bytes);
                    return;
                }
            };
            self.emit(line.unwrap_or_default(), sink, keep);
            bytes = rest.unwrap_or_default();
        }
    }
}
