//! The host's helper in the bundle: says who PID 1 is and what it would do, then looks for the proof that it did.
//!
//! It decides nothing (that is [`Proof`]'s), works as any user that may read the status page, needs nothing of the
//! image, and ends when the host hangs up, when nobody reads it, or at its own deadline.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::read;

use super::{page, probe};
use crate::apply::proof::{self, Proof, Step, Verdict};
use crate::apply::protocol::{self, Answer, MAX_BYTES, PROTOCOL, Reply, Request, Say};
use crate::status::Page;
use crate::table::Signal;
use crate::text::Plain;

/// How long the host may take to say what it wants.
const FIRST_LINE: Duration = Duration::from_secs(10);
/// How often the page is looked at.
const LOOK: u16 = 5;

/// Serves one host over stdin and stdout. Returns false where the host said nothing that could be understood, or
/// hung up.
#[must_use]
pub fn run() -> bool {
    let mut host = Host { heard: Vec::new() };
    let Some(line) = host.line(Instant::now() + FIRST_LINE) else { return false };
    let request = match protocol::request(&line) {
        Ok(request) => request,
        Err(Some(_)) => return say(&answer(Reply::Protocol)),
        Err(None) => return false,
    };
    let timeout = Duration::from_millis(request.timeout_ms);
    let reply = identify(&request);
    let (page, signal, target) = match reply {
        Ok(found) => found,
        Err(reply) => return say(&answer(reply)),
    };
    let mut proof = Proof::new(&page, signal, target.clone());
    if !say(&answer(Reply::Hello { target })) {
        return false;
    }
    let deadline = Instant::now().checked_add(timeout);
    look(&mut host, &mut proof, deadline).is_some_and(|verdict| say(&protocol::line(&verdict)))
}

fn identify(request: &Request) -> Result<(Page, Signal, proof::Target), Reply> {
    let page = page::read().map_err(|error| Reply::NotInit { error: Plain::new(&error) })?;
    let not_wired = || Reply::Refused { why: proof::Refusal::NotWired, target: None };
    let signal = Signal::from_name(&request.signal).ok_or_else(not_wired)?;
    let target = proof::target(&page, signal).map_err(|(why, target)| Reply::Refused { why, target })?;
    Ok((page, signal, target))
}

/// `None`: the host hung up.
fn look(host: &mut Host, proof: &mut Proof, deadline: Option<Instant>) -> Option<Verdict> {
    let left = || deadline.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
    let mut sent = false;
    let mut answer = None;
    while !left().is_zero() {
        // A page that can't be read is passed over: the next one tells, or the deadline does.
        if let Ok(page) = page::read() {
            match proof.observe(page::now_ms(), &page, sent, answer.take()) {
                Step::Done(verdict) => return Some(verdict),
                Step::Wait { probe: false } => {}
                Step::Wait { probe: true } => {
                    answer = probe_target(&page, proof, left().min(probe::TIMEOUT));
                    if answer == Some(true) {
                        continue;
                    }
                }
            }
        }
        if let Some(line) = host.poll(LOOK).ok()? {
            sent |= serde_json::from_slice(&line).is_ok_and(|say: Say| say == Say::Sent);
        }
    }
    Some(proof.give_up())
}

fn probe_target(page: &Page, proof: &Proof, timeout: Duration) -> Option<bool> {
    proof::find(page, proof.daemon()).map(|(_, plan)| probe::ready(plan, timeout))
}

fn answer(reply: Reply) -> String {
    protocol::line(&Answer { protocol: PROTOCOL, version: Plain::new(protocol::VERSION), reply })
}

fn say(line: &str) -> bool {
    let mut stdout = io::stdout().lock();
    stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()).is_ok()
}

/// The host is gone, or says more than it may.
struct HungUp;

/// The other end of stdin and stdout.
struct Host {
    heard: Vec<u8>,
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

    /// Waits for at most `millis` for a line of the host's.
    fn poll(&mut self, millis: u16) -> Result<Option<Vec<u8>>, HungUp> {
        if let Some(line) = self.take_line() {
            return Ok(Some(line));
        }
        let (stdin, stdout) = (io::stdin(), io::stdout());
        // Of stdout nothing is asked: that its reader is gone is told all the same.
        let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN), PollFd::new(stdout.as_fd(), PollFlags::empty())];
        match poll(&mut fds, PollTimeout::from(millis)) {
            Ok(0) | Err(Errno::EINTR) => return Ok(None),
            Ok(_) => {}
            Err(_) => return Err(HungUp),
        }
        let said = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        let [input, output] = &fds;
        if said(output) {
            return Err(HungUp);
        }
        if !said(input) {
            return Ok(None);
        }
        let mut buffer = [0; 4096];
        match read(stdin.as_fd(), &mut buffer) {
            Ok(0) => return Err(HungUp),
            Ok(n) => self.heard.extend(buffer.iter().take(n)),
            Err(Errno::EINTR) => return Ok(None),
            Err(_) => return Err(HungUp),
        }
        if self.heard.len() > MAX_BYTES { Err(HungUp) } else { Ok(self.take_line()) }
    }

    fn take_line(&mut self) -> Option<Vec<u8>> {
        let end = self.heard.iter().position(|b| *b == b'\n')?;
        let mut line: Vec<u8> = self.heard.drain(..=end).collect();
        line.pop();
        Some(line)
    }
}
