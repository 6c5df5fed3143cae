//! The host's helper in the bundle: says who PID 1 is and what it would do, then carries out the change from inside.
//!
//! It decides nothing (that is [`transaction`]'s), works as any user that may read the status page,
//! and needs nothing of the image. Whatever becomes of the host, of docker or of their connection, it comes to an end
//! by itself: every wait has a deadline, and nothing waits for its stdout.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Pid, read};

use crate::change::command::{self, Ended};
use crate::change::holders::Past;
use crate::change::proof::Trigger;
use crate::change::reason::{Reason, Shortfall};
use crate::change::store::Store;
use crate::change::transaction::{self, Checked, Hands, Holder, Home, Line, Order};
use crate::change::{Stop, Tried, clock, diff, lock, log, probe, proof};
use crate::protocol::{
    self, Answer, Diff, End, HelperMessage, HostMessage, MAX_BYTES, MAX_CONTENT, PROTOCOL, Reply, Request, Task, sha256,
};
use crate::status::Page;
use crate::table::Signal;
use crate::text::Printable;
use crate::{page, request};

/// How long the host may take to say what it wants, or to take what is said.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// It is PID 1, or there is no page to read.
const INIT: Pid = Pid::from_raw(1);

/// Serves one host over stdin and stdout. Returns false if the host said nothing that could be understood, or
/// hung up.
#[must_use]
pub fn run() -> bool {
    // A daemon of the same user can't read what comes in, or write into what goes out. That it can't be had is no reason not to go on.
    let _ = nix::sys::prctl::set_dumpable(false);
    let mut host = Host { heard: Vec::new(), lock: None, past: Past::default() };
    let Some(line) = host.line(Instant::now() + REQUEST_TIMEOUT) else { return false };
    match protocol::request(&line) {
        Ok(request) => serve(&mut host, request),
        Err(Some(_)) => answer(Reply::Protocol),
        Err(None) => false,
    }
}

fn serve(host: &mut Host, request: Request) -> bool {
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
        let outcome = transaction::what_became_of(host, &order);
        return outcome.is_ok_and(|outcome| answer(Reply::Recorded { outcome }));
    }
    match transaction::target(&page, &order) {
        Ok(target) if !answer(Reply::Hello { target: target.clone() }) => return false,
        Ok(_) if order.task == Task::Identify && !order.is_sent_from_inside() => return true,
        Ok(_) if order.task == Task::Identify => {
            return match order.send(host) {
                Ok(()) => say(&HelperMessage::Sent),
                Err(stop) => end(stop),
            };
        }
        Ok(_) => {}
        // It may have died of what was interrupted: then that is recovered first, by a restart.
        Err(why) => match (&why, order.trigger.target(&page)) {
            (Reason::NotRunning { .. }, Some(target))
                if order.task != Task::Identify && is_interrupted(host, &page, &target) =>
            {
                if !answer(Reply::Hello { target }) {
                    return false;
                }
            }
            (_, target) => return answer(Reply::Refused { why, target }),
        },
    }
    if let Task::File { bytes, sha256, .. } | Task::DryRun { bytes, sha256, .. } = &order.task {
        match host.content(*bytes, sha256, Instant::now() + timeout) {
            Ok(content) => order.content = Some(content),
            Err(why) => return end(why.into()),
        }
    }
    transaction::change(host, &order).is_ok_and(|end| say(&HelperMessage::End(Box::new(end))))
}

fn is_interrupted(host: &mut Host, page: &Page, target: &proof::Target) -> bool {
    let plan = proof::find(page, target.daemon.as_str()).map(|(_, plan)| plan);
    plan.is_some_and(|plan| transaction::is_interrupted(host, plan) == Ok(true))
}

impl Hands for Host {
    type Files = Store;

    fn now_ms(&mut self) -> u64 {
        page::now_ms()
    }

    fn home(&mut self) -> Home {
        Home { boot: lock::boot(), pids: lock::namespace() }
    }

    fn lock(&mut self) -> Tried<bool> {
        self.lock = lock::try_take(INIT)?;
        Ok(self.lock.is_some())
    }

    fn hold(&mut self, holder: &Holder) -> Tried<()> {
        if let Some(lock) = &self.lock {
            lock.tell(holder);
        }
        Ok(())
    }

    fn holder(&mut self) -> Tried<Option<Holder>> {
        Ok(lock::holder(INIT))
    }

    fn end_overdue_helper(&mut self) -> Tried<()> {
        lock::end_holder(INIT);
        Ok(())
    }

    fn open(&mut self, path: &Path) -> Tried<Store> {
        Ok(Store::open(path)?)
    }

    fn page(&mut self) -> Tried<Page> {
        page::read().map_err(|_| Reason::Stopping.into())
    }

    fn probe(&mut self, page: &Page, daemon: &str, timeout_ms: u64) -> Tried<Result<(), Shortfall>> {
        Ok(probe::ready(page, daemon, Duration::from_millis(timeout_ms), &self.past))
    }

    fn remember(&mut self, page: &Page) {
        self.past.remember(page);
    }

    fn newcomer(&mut self, page: &Page) -> Option<Shortfall> {
        self.past.newcomer(page)
    }

    fn check(&mut self, command: &[String], go_on: &mut dyn FnMut(&mut Self) -> Tried<()>) -> Tried<Checked> {
        let mut left = None;
        let ended = command::run(command, true, || {
            left = go_on(self).err();
            left.is_none()
        });
        match ended {
            Ended::Exited(status, _) if status.success() => Ok(Checked::Passed),
            Ended::Exited(status, words) => {
                Ok(Checked::Refused { code: status.code(), words: String::from_utf8_lossy(&words).into_owned() })
            }
            Ended::Stopped => Err(left.unwrap_or_else(|| Reason::Late.into())),
            Ended::NotRun(e) => Ok(Checked::NotRun { words: e.to_string() }),
        }
    }

    fn signal(&mut self, signal: Signal) -> Tried<()> {
        // SAFETY: kill(2) takes numbers only; nix's own knows no real-time signals.
        let sent = unsafe { nix::libc::kill(1, signal.number()) } == 0;
        if sent { Ok(()) } else { Err(may_not_act(&io::Error::last_os_error())) }
    }

    fn request(&mut self, request: Option<&request::Request>) -> Tried<()> {
        page::ask(request).map_err(|e| may_not_act(&e))
    }

    fn say(&mut self, message: HelperMessage) -> Tried<()> {
        if say(&message) { Ok(()) } else { Err(Reason::HostGone.into()) }
    }

    fn hear(&mut self, ms: u16) -> Tried<Option<HostMessage>> {
        let line = self.poll(ms).map_err(|HungUp| Reason::HostGone)?;
        Ok(line.and_then(|line| serde_json::from_slice(&line).ok()))
    }

    fn pause(&mut self, ms: u16) -> Tried<()> {
        std::thread::sleep(Duration::from_millis(ms.into()));
        Ok(())
    }

    fn diff(&mut self, old: &[u8], new: &[u8], show: bool) -> Diff {
        diff::lines(old, new, show)
    }

    fn log(&mut self, line: &Line<'_>) {
        log::tell(line);
    }
}

fn may_not_act(e: &io::Error) -> Stop {
    Reason::MayNotAct { words: Printable::new(&e.to_string()) }.into()
}

/// The last word of one that nothing came of.
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

/// Says it, or gives the host up: a pipe that poll(2) calls writable takes `PIPE_BUF` bytes without a wait.
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

/// The host is gone, or says more than it may.
struct HungUp;

/// The other end of stdin and stdout.
struct Host {
    heard: Vec<u8>,
    /// The bundle's, once it is had.
    lock: Option<lock::Lock>,
    past: Past,
}

impl Host {
    fn line(&mut self, deadline: Instant) -> Option<Vec<u8>> {
        while Instant::now() < deadline {
            if let Some(line) = self.poll(100).ok()? {
                return Some(line);
            }
        }
        None
    }

    /// The content that follows: an end of file in its middle is no short content.
    fn content(&mut self, bytes: u64, digest: &Printable, deadline: Instant) -> Result<Vec<u8>, Reason> {
        let size = usize::try_from(bytes).ok().filter(|_| bytes <= MAX_CONTENT).ok_or(Reason::Garbled)?;
        while self.heard.len() < size {
            if Instant::now() >= deadline {
                return Err(Reason::Late);
            }
            self.read(100).map_err(|_| Reason::HostGone)?;
        }
        let content: Vec<u8> = self.heard.drain(..size).collect();
        if sha256(&content) == *digest { Ok(content) } else { Err(Reason::Garbled) }
    }

    /// Waits for at most `millis` for a line of the host's.
    fn poll(&mut self, millis: u16) -> Result<Option<Vec<u8>>, HungUp> {
        if let Some(line) = self.take_line() {
            return Ok(Some(line));
        }
        self.read(millis)?;
        if self.heard.len() > MAX_BYTES { Err(HungUp) } else { Ok(self.take_line()) }
    }

    /// Waits for at most `millis` for the host to say something.
    fn read(&mut self, millis: u16) -> Result<(), HungUp> {
        let (stdin, stdout) = (io::stdin(), io::stdout());
        // Of stdout nothing is asked: that its reader is gone is told all the same.
        let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN), PollFd::new(stdout.as_fd(), PollFlags::empty())];
        match poll(&mut fds, PollTimeout::from(millis)) {
            Ok(0) | Err(Errno::EINTR) => return Ok(()),
            Ok(_) => {}
            Err(_) => return Err(HungUp),
        }
        let said = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        let [input, output] = &fds;
        if said(output) {
            return Err(HungUp);
        }
        if !said(input) {
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
