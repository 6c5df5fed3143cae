//! The host's helper in the bundle: says who PID 1 is and what init would do, then carries out the change from inside.
//!
//! It decides nothing ([`transaction`] does), runs as any user that may read the status page, and needs nothing from the image.
//! Whatever happens to the host, docker or their connection, it ends by itself: every wait has a deadline, and it never blocks on
//! its stdout.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::read;

use crate::change::inside::{Asker, Inside};
use crate::change::proof::Trigger;
use crate::change::reason::Reason;
use crate::change::transaction::{self, Order};
use crate::change::{Stop, Tried, clock, proof};
use crate::page::{self, Changes};
use crate::protocol::{
    self, Answer, End, HelperMessage, HostMessage, MAX_BYTES, MAX_CONTENT, PROTOCOL, Reply, Request, Task, sha256,
};
use crate::status::Page;
use crate::table::Signal;
use crate::text::Printable;

/// How long the host may take to send its request, or to read what the helper sends.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait for init to make room for a request.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves one host over stdin and stdout. Returns false if the host's request could not be understood, or the host hung up.
#[must_use]
pub fn run() -> bool {
    // So that a daemon of the same user can't read what comes in or forge what goes out. If this fails, the helper goes on.
    let _ = nix::sys::prctl::set_dumpable(false);
    let mut inside = Inside::new(Host { heard: Vec::new() }, ASK_TIMEOUT);
    let Some(line) = inside.asker.line(Instant::now() + REQUEST_TIMEOUT) else { return false };
    match protocol::first::<Request>(&line) {
        Some(Ok(request)) => serve(&mut inside, request),
        Some(Err(_)) => answer(Reply::Protocol),
        None => false,
    }
}

fn serve(inside: &mut Inside<Host>, request: Request) -> bool {
    let page = match page::read() {
        Ok(page) => page,
        Err(error) => return answer(Reply::NotInit { error: Printable::new(&error) }),
    };
    let timeout = Duration::from_millis(request.timeout_ms);
    let Request { signal, daemon, from_inside, timeout_ms, task, id, by, .. } = request;
    let signal = signal.unwrap_or_default();
    let trigger = match (daemon, Signal::from_name(&signal)) {
        (Some(daemon), _) => Trigger::restart(&daemon),
        (None, Some(signal)) => Trigger::Signal(signal),
        (None, None) => {
            let why = Reason::NotWired { signal: Printable::new(&signal) };
            return answer(Reply::Refused { why, target: None });
        }
    };
    let at = clock::utc_now();
    let mut order = Order { id, by, at, trigger, from_inside, starts_stopped: false, timeout_ms, task, content: None };
    if order.task == Task::Ask {
        let outcome = transaction::what_became_of(inside, &order);
        return outcome.is_ok_and(|outcome| answer(Reply::Recorded { outcome }));
    }
    match transaction::target(&page, &order) {
        Ok(target) if !answer(Reply::Hello { target: target.clone() }) => return false,
        Ok(_) if order.task == Task::Identify && !order.is_sent_from_inside() => return true,
        Ok(_) if order.task == Task::Identify => {
            return match order.send(inside) {
                Ok(()) => say(&HelperMessage::Sent),
                Err(stop) => end(stop),
            };
        }
        Ok(_) => {}
        // The interrupted change may be what killed the daemon. If so, it is recovered first, by a restart.
        Err(why) => match (&why, order.trigger.target(&page)) {
            (Reason::NotRunning { .. }, Some(target))
                if order.task != Task::Identify && is_interrupted(inside, &page, &target) =>
            {
                if !answer(Reply::Hello { target }) {
                    return false;
                }
            }
            (_, target) => return answer(Reply::Refused { why, target }),
        },
    }
    if let Task::File { bytes, sha256, .. } | Task::DryRun { bytes, sha256, .. } = &order.task {
        match inside.asker.content(*bytes, sha256, Instant::now() + timeout) {
            Ok(content) => order.content = Some(content),
            Err(why) => return end(why.into()),
        }
    }
    transaction::change(inside, &order).is_ok_and(|end| say(&HelperMessage::End(Box::new(end))))
}

fn is_interrupted(inside: &mut Inside<Host>, page: &Page, target: &proof::Target) -> bool {
    let plan = proof::find(page, target.daemon.as_str()).map(|(_, plan)| plan);
    plan.is_some_and(|plan| transaction::is_interrupted(inside, plan) == Ok(true))
}

impl Asker for Host {
    fn say(&mut self, message: HelperMessage) -> Tried<()> {
        if say(&message) { Ok(()) } else { Err(Reason::HostGone.into()) }
    }

    fn hear(&mut self, ms: u16, changes: &mut Changes) -> Tried<Option<HostMessage>> {
        let line = self.poll(ms, Some(changes)).map_err(|HungUp| Reason::HostGone)?;
        Ok(line.and_then(|line| serde_json::from_slice(&line).ok()))
    }
}

/// The last message of a change that put nothing in place.
fn end(stop: Stop) -> bool {
    let why = match stop {
        Stop::Because(why) => why,
        Stop::Killed => Reason::Late,
    };
    say(&HelperMessage::End(Box::new(End::new(why.into()))))
}

fn answer(reply: Reply) -> bool {
    write(&protocol::line(&Answer { protocol: PROTOCOL, version: Printable::new(protocol::VERSION), reply }))
}

fn say(message: &HelperMessage) -> bool {
    write(&protocol::line(message))
}

/// Writes a line to the host, or gives the host up if it doesn't read. A pipe that poll(2) reports as writable takes `PIPE_BUF` bytes
/// without blocking.
fn write(line: &str) -> bool {
    let stdout = io::stdout();
    let until = Instant::now() + REQUEST_TIMEOUT;
    line.as_bytes().chunks(4096).all(|chunk| {
        let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)];
        let left = until.saturating_duration_since(Instant::now()).as_millis();
        let left = PollTimeout::from(u16::try_from(left).unwrap_or(u16::MAX));
        if !matches!(poll(&mut fds, left), Ok(1..)) {
            return false;
        }
        let mut stdout = stdout.lock();
        stdout.write_all(chunk).and_then(|()| stdout.flush()).is_ok()
    })
}

/// The host has hung up, or sent more than it may.
struct HungUp;

/// The other end of stdin and stdout.
struct Host {
    heard: Vec<u8>,
}

impl Host {
    fn line(&mut self, deadline: Instant) -> Option<Vec<u8>> {
        while Instant::now() < deadline {
            if let Some(line) = self.poll(100, None).ok()? {
                return Some(line);
            }
        }
        None
    }

    /// Reads the content that follows. An end of file in its middle is an error, not a shorter content.
    fn content(&mut self, bytes: u64, digest: &Printable, deadline: Instant) -> Result<Vec<u8>, Reason> {
        let size = usize::try_from(bytes).ok().filter(|_| bytes <= MAX_CONTENT).ok_or(Reason::Garbled)?;
        while self.heard.len() < size {
            if Instant::now() >= deadline {
                return Err(Reason::Late);
            }
            self.read(100, None).map_err(|_| Reason::HostGone)?;
        }
        let content: Vec<u8> = self.heard.drain(..size).collect();
        if sha256(&content) == *digest { Ok(content) } else { Err(Reason::Garbled) }
    }

    /// Waits for a line from the host, until `millis` milliseconds have passed or the page has changed.
    fn poll(&mut self, millis: u16, changes: Option<&mut Changes>) -> Result<Option<Vec<u8>>, HungUp> {
        if let Some(line) = self.take_line() {
            return Ok(Some(line));
        }
        self.read(millis, changes)?;
        if self.heard.len() > MAX_BYTES { Err(HungUp) } else { Ok(self.take_line()) }
    }

    /// Waits until the host has sent something, `millis` milliseconds have passed, or the page has changed.
    fn read(&mut self, millis: u16, changes: Option<&mut Changes>) -> Result<(), HungUp> {
        let (stdin, stdout) = (io::stdin(), io::stdout());
        let millis = changes.as_ref().map_or(millis, |changes| changes.longest(millis));
        // No event is asked of stdout: poll(2) reports all the same that its reader is gone.
        let mut fds =
            vec![PollFd::new(stdout.as_fd(), PollFlags::empty()), PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        fds.extend(changes.as_ref().and_then(|changes| changes.fd()).map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::from(millis)) {
            Ok(0) | Err(Errno::EINTR) => return Ok(()),
            Ok(_) => {}
            Err(_) => return Err(HungUp),
        }
        let said: Vec<bool> = fds.iter().map(|fd| fd.revents().is_some_and(|events| !events.is_empty())).collect();
        if let (Some(true), Some(changes)) = (said.get(2), changes) {
            changes.take();
        }
        if said.first() == Some(&true) {
            return Err(HungUp);
        }
        if said.get(1) != Some(&true) {
            return Ok(());
        }
        let mut buffer = [0; 16384];
        match read(stdin.as_fd(), &mut buffer) {
            Ok(0) => Err(HungUp),
            Ok(n) => {
                self.heard.extend(buffer.iter().take(n));
                Ok(())
            }
            Err(Errno::EINTR) => Ok(()),
            Err(_) => Err(HungUp),
        }
    }

    fn take_line(&mut self) -> Option<Vec<u8>> {
        let end = self.heard.iter().position(|b| *b == b'\n')?;
        let mut line: Vec<u8> = self.heard.drain(..=end).collect();
        line.pop();
        Some(line)
    }
}
