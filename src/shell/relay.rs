//! Daemons' output: whole lines, behind `[NAME] `, without ever blocking init.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, SFlag, fstat};

/// Longer lines are split at this many bytes, prefix not counted.
pub const LINE_MAX: usize = 8192;
/// A sink with this much in its queue takes no more from daemons that run.
const HIGH: usize = 256 * 1024;

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
    broken: bool,
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
        Ok(Self { fd, way, queue: Vec::new(), sent: 0, dropped: 0, broken: false })
    }

    /// Whether it has no room for the lines of a daemon that runs.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.queue.len() - self.sent >= HIGH
    }

    /// Whether something waits to be written.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.queue.len() > self.sent
    }

    /// What poll(2) waits for.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Takes a line without its newline, or counts it as dropped where there is no room.
    pub fn line(&mut self, prefix: &str, line: &[u8]) {
        if self.broken {
            return;
        }
        if self.is_full() {
            self.dropped += 1;
            return;
        }
        if self.dropped > 0 {
            let text = format!("{} lines were dropped: the log's reader took none\n", self.dropped);
            self.queue.extend_from_slice(text.as_bytes());
            self.dropped = 0;
        }
        self.queue.extend_from_slice(prefix.as_bytes());
        self.queue.extend_from_slice(line);
        self.queue.push(b'\n');
    }

    /// Writes what goes without waiting; tells whether anything went.
    pub fn flush(&mut self) -> bool {
        let mut progress = false;
        while let Some(rest) = self.queue.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.write(rest) {
                Ok(n) => {
                    self.sent += n;
                    progress = true;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                // Nobody will ever read it (EPIPE), or it can't be kept (ENOSPC): daemons go on all the same.
                Err(e) => {
                    self.broken = e.kind() == io::ErrorKind::BrokenPipe;
                    self.sent = self.queue.len();
                }
            }
        }
        if self.sent == self.queue.len() {
            self.queue.clear();
            self.sent = 0;
        } else if self.sent >= HIGH {
            self.queue.drain(..self.sent);
            self.sent = 0;
        }
        progress
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let n = match self.way {
            Way::Write => nix::unistd::write(&self.fd, bytes)?,
            Way::Send => {
                use nix::sys::socket::{MsgFlags, send};
                send(self.fd.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?
            }
            Way::PollFirst => {
                let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLOUT)];
                if poll(&mut fds, PollTimeout::ZERO)? == 0 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                let end = bytes.len().min(libc::PIPE_BUF);
                nix::unistd::write(&self.fd, bytes.get(..end).unwrap_or(bytes))?
            }
        };
        Ok(n)
    }
}

/// One pipe of one generation of a daemon.
pub struct Stream {
    fd: OwnedFd,
    prefix: String,
    partial: Vec<u8>,
    /// Which daemon.
    pub daemon: usize,
    /// Which start of it.
    pub generation: u64,
    /// Which sink it goes to.
    pub sink: usize,
}

impl Stream {
    /// A stream whose lines begin with `[name] `.
    #[must_use]
    pub fn new(fd: OwnedFd, name: &str, daemon: usize, generation: u64, sink: usize) -> Self {
        Self { fd, prefix: format!("[{name}] "), partial: Vec::new(), daemon, generation, sink }
    }

    /// What poll(2) waits for.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Reads once; `Some(0)` is the end, `None`: nothing there now.
    pub fn pump(&mut self, buffer: &mut [u8], sink: &mut Sink) -> Option<usize> {
        match nix::unistd::read(&self.fd, buffer) {
            Ok(n) => {
                self.feed(buffer.get(..n).unwrap_or(&[]), sink);
                if n == 0 {
                    self.finish(sink);
                }
                Some(n)
            }
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => None,
            Err(_) => Some(0),
        }
    }

    /// Prints a last line that has no newline.
    pub fn finish(&mut self, sink: &mut Sink) {
        if !self.partial.is_empty() {
            sink.line(&self.prefix, &self.partial);
            self.partial.clear();
        }
    }

    fn feed(&mut self, bytes: &[u8], sink: &mut Sink) {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let (text, whole) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            self.partial.extend_from_slice(text);
            while self.partial.len() > LINE_MAX {
                let rest = self.partial.split_off(LINE_MAX);
                sink.line(&self.prefix, &self.partial);
                self.partial = rest;
            }
            if whole {
                sink.line(&self.prefix, &self.partial);
                self.partial.clear();
            }
        }
    }
}
