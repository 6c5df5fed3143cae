//! Daemons' output: whole lines, behind `[NAME] ` or as JSON objects, without ever blocking init.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, SFlag, fstat};

use super::json::{self, Part};
use crate::table::Output;

/// Longer lines are split at this many bytes, prefix not counted.
pub const LINE_MAX: usize = 8192;
/// If a sink has this many bytes in its queue, it takes no more from running daemons.
const HIGH: usize = 256 * 1024;
/// Room beyond that for init's own lines: a daemon that is faster than the reader must not crowd them out.
const RESERVE: usize = 64 * 1024;
/// A pipe is given up after this many failed reads in a row.
const READ_FAILURES: u8 = 16;

/// The text of a report on lost lines, after their number.
const REPORT: &str = " lines were dropped here: the reader was too slow";
/// The longest report, in bytes.
const REPORT_MAX: usize = 256;

/// How many lost lines this line reports, if it is a report.
fn told(line: &[u8]) -> Option<u64> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let text = json::own_warning(line).unwrap_or(line);
    text.strip_suffix(REPORT)?.parse().ok()
}

enum Way {
    /// A non-blocking file description of init's own, or a regular file, which never blocks for long.
    Write,
    /// `MSG_DONTWAIT`: a socket can't be opened again (ENXIO).
    Send,
    /// If neither works: a pipe that poll(2) reports as writable takes `PIPE_BUF` without blocking (pipe(7)).
    PollFirst,
}

/// Where lines go: init's stdout or stderr.
pub struct Sink {
    fd: OwnedFd,
    way: Way,
    output: Output,
    queue: Vec<u8>,
    sent: usize,
    dropped: u64,
    /// Whether epoll watches it.
    pub is_watched: bool,
    /// How many bytes of init's own log were queued since it was full.
    beyond: usize,
    /// Whether the last write ended within a line.
    is_within_a_line: bool,
}

impl Sink {
    /// Opens one of init's own streams again, so that `O_NONBLOCK` affects nobody else.
    ///
    /// # Errors
    /// The descriptor isn't open or none is left.
    pub fn open(stream: BorrowedFd<'_>, output: Output) -> io::Result<Self> {
        let kind = SFlag::from_bits_truncate(fstat(stream)?.st_mode) & SFlag::S_IFMT;
        let again = || {
            let path = format!("/proc/self/fd/{}", stream.as_raw_fd());
            let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
            open(path.as_str(), flags, Mode::empty()).ok()
        };
        let (own, way) = match kind {
            // A file that is opened again would be written from its start.
            SFlag::S_IFREG => (None, Way::Write),
            SFlag::S_IFSOCK => (None, Way::Send),
            _ => again().map_or((None, Way::PollFirst), |fd| (Some(fd), Way::Write)),
        };
        let fd = own.map_or_else(|| stream.try_clone_to_owned(), Ok)?;
        Ok(Self {
            fd,
            way,
            output,
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

    /// Takes a line of init's own, or counts it as dropped if there is no room.
    pub fn own_line(&mut self, line: &[u8]) {
        self.beyond = if self.is_full() { self.beyond + line.len() + 1 } else { 0 };
        if self.has_room_for(line.len(), self.beyond <= RESERVE) {
            self.queue.extend_from_slice(line);
            self.queue.push(b'\n');
        }
    }

    /// Reserves room for a line of this many bytes, or counts the line as dropped.
    fn has_room_for(&mut self, size: usize, keep: bool) -> bool {
        if !keep || self.queue.try_reserve(size + 2 + REPORT_MAX).is_err() {
            self.dropped += 1;
            return false;
        }
        self.report();
        true
    }

    /// Takes a line without its newline, in three parts. In its text, the last two, each carriage return except one at the
    /// end becomes the two characters `\r`: otherwise a terminal would show what follows over the prefix.
    fn line(&mut self, [prefix, begun, rest]: [&[u8]; 3], has_cr: bool) {
        let size = prefix.len() + begun.len() + rest.len();
        if !self.has_room_for(if has_cr { 2 * size } else { size }, true) {
            return;
        }
        // Short parts are copied byte by byte, and empty ones not at all: a call of memcpy costs as much for them as for a
        // whole line.
        self.queue.extend(prefix.iter().copied());
        if has_cr {
            let mut text = begun.iter().chain(rest).copied().peekable();
            while let Some(byte) = text.next() {
                match byte {
                    b'\r' if text.peek().is_some() => self.queue.extend_from_slice(b"\\r"),
                    byte => self.queue.push(byte),
                }
            }
        } else {
            if !begun.is_empty() {
                self.queue.extend_from_slice(begun);
            }
            self.queue.extend_from_slice(rest);
        }
        self.queue.push(b'\n');
    }

    /// Reports, before the next line or at the end, how many lines were lost here.
    pub fn report(&mut self) {
        if self.queue.is_empty() && self.is_within_a_line {
            // The rest of that line is lost.
            self.queue.push(b'\n');
        }
        if self.dropped > 0 {
            let text = format!("{}{REPORT}", self.dropped);
            let line = if self.output == Output::Json { json::warning(&text) } else { text };
            self.queue.extend_from_slice(line.as_bytes());
            self.queue.push(b'\n');
            self.dropped = 0;
        }
    }

    /// How many lines end within the rest of the queue. A line that lacks only its newline doesn't count: the newline
    /// comes with the next line.
    fn unsent(&self) -> u64 {
        let (sent, rest) = self.queue.split_at_checked(self.sent).unwrap_or((&self.queue, &[]));
        let from = match rest.first() {
            Some(b'\n') if self.is_within_a_line => self.sent + 1,
            _ => memchr::memrchr(b'\n', sent).map_or(0, |at| at + 1),
        };
        let lines = self.queue.get(from..).unwrap_or_default().split_inclusive(|b| *b == b'\n');
        lines.map(|line| told(line).unwrap_or(1)).sum()
    }

    /// Writes as much as possible without waiting; returns whether anything was written.
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
                // There is no reader (EPIPE) or no space (ENOSPC). That may change, and daemons continue anyway.
                Err(_) => {
                    self.dropped += self.unsent();
                    self.sent = self.queue.len();
                }
            }
        }
        if self.queued() == 0 {
            // Not during a flood, where each burst would have to allocate again.
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
    /// What comes before each line: `[NAME] `, or the part of an object that is the same for all lines.
    head: String,
    /// The line that was begun.
    partial: Vec<u8>,
    /// Whether that line has a carriage return, or the bytes being fed may have one.
    has_cr: bool,
    /// Which part of its line the next object holds.
    part: Part,
    /// Output that was read but had no room in the sink.
    rest: Vec<u8>,
    /// When it was read, if that is shown.
    time: String,
    /// How much of the pipe is still to be read.
    left: usize,
    /// How many reads in a row failed.
    failed: u8,
    /// Which daemon.
    pub daemon: usize,
    /// Which start of it.
    pub generation: u64,
    /// Which sink it goes to.
    pub sink: usize,
    /// The number under which it is watched.
    pub number: u64,
    /// Whether epoll watches it.
    pub is_watched: bool,
    /// Whether it has ended.
    pub ended: bool,
}

/// Which stream of which start of which daemon.
pub struct Source<'a> {
    /// The daemon.
    pub daemon: usize,
    /// Its name.
    pub name: &'a str,
    /// Which start of it.
    pub generation: u64,
    /// `stdout` or `stderr`.
    pub stream: &'static str,
}

impl Stream {
    /// A stream whose lines go to this sink.
    #[must_use]
    pub fn new(fd: OwnedFd, from: &Source<'_>, sink: usize, number: u64, output: Output) -> Self {
        let head = match output {
            Output::Prefix => format!("[{}] ", from.name),
            Output::Json => json::head(from.name, from.stream),
        };
        Self {
            fd,
            head,
            partial: Vec::new(),
            has_cr: false,
            part: Part::Whole,
            rest: Vec::new(),
            time: String::new(),
            left: usize::MAX,
            failed: 0,
            daemon: from.daemon,
            generation: from.generation,
            sink,
            number,
            is_watched: false,
            ended: false,
        }
    }

    /// What poll(2) waits for.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether some of its output had no room in the sink: until that is written, no other stream may write there.
    #[must_use]
    pub fn has_rest(&self) -> bool {
        !self.rest.is_empty()
    }

    /// From now on, reads only what is in the pipe already: its writer may never stop.
    pub fn want_no_more(&mut self) {
        let mut there: libc::c_int = 0;
        // SAFETY: FIONREAD writes an int, and `there` is one.
        unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::FIONREAD, &raw mut there) };
        self.left = usize::try_from(there).unwrap_or(0);
    }

    /// Feeds what was left over, or else reads once; returns how much. What the sink has no room for is kept, or dropped if
    /// the daemon is being stopped.
    pub fn pump(&mut self, buffer: &mut [u8], sink: &mut Sink, may_drop: bool) -> usize {
        if self.has_rest() {
            let rest = std::mem::take(&mut self.rest);
            self.feed(&rest, sink, may_drop);
            let fed = rest.len() - self.rest.len();
            self.end(sink);
            return fed;
        }
        let most = buffer.len().min(self.left);
        let n = match nix::unistd::read(&self.fd, buffer.get_mut(..most).unwrap_or_default()) {
            Err(Errno::EAGAIN | Errno::EINTR) => return 0,
            // If its pipe were closed, the daemon would die at its next line (SIGPIPE).
            Err(_) if self.failed < READ_FAILURES => {
                self.failed += 1;
                return 0;
            }
            read => read.unwrap_or(0),
        };
        self.failed = 0;
        if sink.output == Output::Json {
            self.time = json::time();
        }
        // At its end there is nothing left to read.
        self.left = if n == 0 { 0 } else { self.left - n };
        self.feed(buffer.get(..n).unwrap_or_default(), sink, may_drop);
        self.end(sink);
        n
    }

    fn end(&mut self, sink: &mut Sink) {
        if self.left == 0 && !self.has_rest() {
            self.ended = true;
            self.finish(sink);
        }
    }

    /// Prints a last line that has no newline.
    pub fn finish(&mut self, sink: &mut Sink) {
        if !self.partial.is_empty() {
            self.emit(b"", false, sink);
        }
    }

    /// Counts what is left over as dropped.
    pub fn give_up(&mut self, sink: &mut Sink) {
        let rest = std::mem::take(&mut self.rest);
        self.feed(&rest, sink, true);
    }

    /// Prints the line that was begun. `is_cut`: it was cut here, and more of it follows.
    fn emit(&mut self, rest: &[u8], is_cut: bool, sink: &mut Sink) {
        let next = if is_cut { Part::Last } else { Part::Whole };
        let last = std::mem::replace(&mut self.part, next);
        let part = if is_cut { Part::Begun } else { last };
        match sink.output {
            Output::Prefix => sink.line([self.head.as_bytes(), &self.partial, rest], self.has_cr),
            Output::Json => {
                let line = if self.partial.is_empty() {
                    rest
                } else {
                    self.partial.extend_from_slice(rest);
                    &self.partial
                };
                if sink.has_room_for(json::size(self.head.len() + line.len()), true) {
                    json::object(&mut sink.queue, &self.time, &self.head, line, part);
                    sink.queue.push(b'\n');
                }
            }
        }
        self.partial.clear();
    }

    fn drop_line(&mut self, sink: &mut Sink) {
        sink.dropped += 1;
        self.partial.clear();
        self.part = Part::Whole;
    }

    /// Splits the output into lines, until the sink is full.
    fn feed(&mut self, mut bytes: &[u8], sink: &mut Sink, may_drop: bool) {
        self.has_cr = memchr::memchr(b'\r', bytes).is_some() || self.partial.contains(&b'\r');
        let _ = sink.queue.try_reserve((bytes.len() + bytes.len() / 8).min(HIGH));
        while !bytes.is_empty() {
            let is_full = sink.is_full();
            if is_full && !may_drop {
                self.rest = bytes.to_vec();
                return;
            }
            let room = LINE_MAX.saturating_sub(self.partial.len());
            // A newline right behind the longest line belongs to it.
            let window = bytes.get(..=room).unwrap_or(bytes);
            let (line, rest) = match memchr::memchr(b'\n', window) {
                Some(at) => (bytes.get(..at), bytes.get(at + 1..)),
                None if window.len() > room => {
                    let (line, rest) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
                    self.partial.extend_from_slice(line);
                    let cut = cut(&self.partial, rest);
                    let next = self.partial.split_off(cut);
                    if is_full {
                        self.drop_line(sink);
                    } else {
                        self.emit(b"", true, sink);
                    }
                    self.partial = next;
                    bytes = rest;
                    continue;
                }
                None => {
                    self.partial.extend_from_slice(bytes);
                    return;
                }
            };
            if is_full {
                self.drop_line(sink);
            } else {
                self.emit(line.unwrap_or_default(), false, sink);
            }
            bytes = rest.unwrap_or_default();
        }
    }
}

/// Where a line that is too long is cut: at its end, or before a UTF-8 character that continues beyond it.
fn cut(line: &[u8], next: &[u8]) -> usize {
    for back in 1..=3 {
        let Some(at) = line.len().checked_sub(back) else { break };
        let size = match line.get(at) {
            // Not a character's first byte.
            Some(0x80..=0xbf) => continue,
            Some(0xc2..=0xdf) => 2,
            Some(0xe0..=0xef) => 3,
            Some(0xf0..=0xf4) => 4,
            _ => 1,
        };
        let letter: Vec<u8> = line.iter().skip(at).chain(next).take(size).copied().collect();
        let is_one = match std::str::from_utf8(&letter) {
            Ok(_) => true,
            // The rest of it is still to come.
            Err(e) => e.error_len().is_none(),
        };
        return if size > back && is_one { at } else { line.len() };
    }
    line.len()
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn a_line_is_cut_before_a_letter_and_never_within_it_unless_it_is_none() {
        for (line, next, at) in [
            (&b"abc"[..], &b"d"[..], 3),
            ("ab\u{e9}".as_bytes(), b"d", 4),
            (b"ab\xc3", b"\xa9d", 2),
            (b"ab\xe2\x82", b"\xac", 2),
            (b"ab\xe2", b"\x82", 2),
            (b"ab\xf0\x9f\x98", b"\x80", 2),
            // Not UTF-8: a first or a continuation byte alone.
            (b"ab\xc3", b"d", 3),
            (b"ab\xa9", b"\xa9", 3),
            (b"\xa9\xa9\xa9\xa9", b"\xa9", 4),
            (b"ab\xff", b"\xa9", 3),
        ] {
            assert_eq!(cut(line, next), at, "{line:?}");
        }
    }
}
