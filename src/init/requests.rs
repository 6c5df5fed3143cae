//! Reads requests from the pipe behind [`REQUEST_FD`]. Each is a line; see [`Request`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{pipe2, read};

use super::fixed::FixedFd;
use crate::request::{MAX_REQUEST, REQUEST_FD, Request};
use crate::supervisor::Event;

/// How many lines one round handles, so that an endless stream of them can't delay a signal.
const ROUND: usize = 16;
/// The longest line without its two newlines.
const MAX_LINE: usize = MAX_REQUEST - 2;

/// The pipe.
pub struct Requests {
    fd: FixedFd,
    /// Kept open so that the pipe doesn't end when a sender closes it.
    #[allow(dead_code, reason = "it is held")]
    writer: OwnedFd,
    /// Whether epoll watches it.
    pub is_watched: bool,
    lines: Lines,
}

impl Requests {
    /// Makes the pipe.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn open() -> nix::Result<Self> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
        // A process that opens the pipe through /proc gets a description of its own, which blocks while the pipe is full.
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let fd = FixedFd::new(REQUEST_FD, reader);
        Ok(Self { fd, writer, is_watched: false, lines: Lines::default() })
    }

    /// See [`FixedFd::reserve`].
    pub fn reserve(&mut self) {
        self.fd.reserve();
    }

    /// What epoll watches.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.usual().as_fd()
    }

    /// Whether lines were read that had no room in the last round.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.lines.has_one()
    }

    /// The next lines, up to a bound. Reads once at most.
    pub fn take(&mut self) -> Vec<Event> {
        if !self.has_more() {
            let mut bytes = [0; ROUND * MAX_REQUEST];
            let size = read(self.fd.usual(), &mut bytes).unwrap_or(0);
            self.lines.add(bytes.get(..size).unwrap_or_default());
        }
        std::iter::from_fn(|| self.lines.next()).take(ROUND).collect()
    }
}

/// Bytes as they come, line by line.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    /// Where the next line begins.
    from: usize,
    /// The line that was begun is too long. Its beginning was dropped, and the rest will be.
    is_too_long: bool,
}

impl Lines {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.skip_newlines();
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.from..).unwrap_or_default()
    }

    /// Each line begins with a newline, too, so that it is one even if another's before it was left unfinished.
    fn skip_newlines(&mut self) {
        if !self.is_too_long {
            self.from += self.rest().iter().take_while(|b| **b == b'\n').count();
        }
    }

    fn has_one(&self) -> bool {
        self.rest().contains(&b'\n')
    }

    /// The next line; `None`: it hasn't come yet as a whole.
    fn next(&mut self) -> Option<Event> {
        let rest = self.rest();
        let Some(end) = memchr::memchr(b'\n', rest) else {
            let rest = rest.to_vec();
            self.is_too_long |= rest.len() > MAX_LINE;
            (self.bytes, self.from) = (if self.is_too_long { Vec::new() } else { rest }, 0);
            return None;
        };
        let line = rest.get(..end).filter(|line| line.len() <= MAX_LINE && !self.is_too_long);
        let request = line.and_then(Request::parse);
        self.from += end + 1;
        self.is_too_long = false;
        self.skip_newlines();
        Some(Event::Request(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(lines: &mut Lines) -> Vec<String> {
        let name = |event| match event {
            Event::Request(Some(request)) => request.daemon,
            _ => "-".to_owned(),
        };
        std::iter::from_fn(|| lines.next()).map(name).collect()
    }

    #[test]
    fn a_round_takes_sixteen_requests_and_leaves_the_rest_for_the_next() {
        let mut requests = Requests::open().unwrap();
        nix::unistd::write(&requests.writer, "\n1 stop a\n".repeat(40).as_bytes()).unwrap();
        let rounds = [16, 16, 8, 0].map(|count| (requests.take().len() == count, requests.has_more()));
        assert_eq!(rounds, [(true, true), (true, true), (true, false), (true, false)]);
    }

    #[test]
    fn requests_are_read_one_by_one_however_the_bytes_come() {
        let text = b"\n1 stop a\n\n2 stop b\nno\n\n\n3 stop c\n";
        for size in 1..=text.len() {
            let mut lines = Lines::default();
            let read: Vec<String> = text
                .chunks(size)
                .flat_map(|bytes| {
                    lines.add(bytes);
                    names(&mut lines)
                })
                .collect();
            assert_eq!(read, ["a", "b", "-", "c"], "{size}");
            assert!(lines.bytes.is_empty() && !lines.has_one(), "{size}");
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_dropped_and_takes_no_memory() {
        let mut lines = Lines::default();
        let mut dropped = Vec::new();
        for _ in 0..100 {
            lines.add(&[b'x'; 400]);
            dropped.extend(names(&mut lines));
            assert!(lines.bytes.len() <= 2 * MAX_REQUEST);
        }
        lines.add(b"1 stop x\n1 stop a\n");
        dropped.extend(names(&mut lines));
        assert_eq!(dropped, ["-", "a"]);
        let long = [b"\n1 stop ", &[b'a'; MAX_LINE - 7][..], b"\n"].concat();
        lines.add(&[&long[..], b"\n1 stop b\n"].concat());
        assert_eq!(names(&mut lines), ["-", "b"]);
    }

    #[test]
    fn an_unfinished_line_spoils_no_later_one() {
        let mut lines = Lines::default();
        lines.add(b"\n1 stop a");
        lines.add(b"\n2 stop b\n");
        assert_eq!(names(&mut lines), ["a", "b"]);
        lines.add(b"\n1 st");
        assert_eq!(names(&mut lines), Vec::<String>::new());
        lines.add(b"\n2 stop b\n");
        assert_eq!(names(&mut lines), ["-", "b"]);
    }
}
