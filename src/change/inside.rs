//! Carries out the steps of a change inside a bundle, for the helper (on behalf of its host) or for an applet.

use std::io;
use std::path::Path;
use std::time::Duration;

use nix::unistd::Pid;

use super::command::{self, Ended, Group};
use super::holders::Past;
use super::reason::{Reason, Shortfall};
use super::store::Store;
use super::transaction::{Checked, Hands, Holder, Home, Line};
use super::{Stop, Tried, diff, lock, log, probe};
use crate::change::set_up;
use crate::page::{self, Changes};
use crate::protocol::{Diff, HelperMessage, HostMessage};
use crate::request::Request;
use crate::status::Page;
use crate::table::Signal;
use crate::text::Printable;

/// init is PID 1; otherwise there is no page to read.
const INIT: Pid = Pid::from_raw(1);

/// Who asks for the change: is told how far it is, and may end it early.
#[allow(clippy::missing_errors_doc, reason = "each fails if nobody is there any more")]
pub trait Asker {
    /// Sends it a message.
    fn say(&mut self, message: HelperMessage) -> Tried<()>;
    /// Waits for a message from it, until `ms` milliseconds have passed or the status page has changed.
    fn hear(&mut self, ms: u16, changes: &mut Changes) -> Tried<Option<HostMessage>>;
}

/// The [`Hands`] of one change in a bundle.
pub struct Inside<A> {
    /// Who asks for it.
    pub asker: A,
    /// How long to wait for init to make room for a request.
    pub ask_timeout: Duration,
    /// The bundle's lock, once this process holds it.
    lock: Option<lock::Lock>,
    past: Past,
    changes: Changes,
}

impl<A> Inside<A> {
    /// Hands that hold no lock yet.
    pub fn new(asker: A, ask_timeout: Duration) -> Self {
        Self { asker, ask_timeout, lock: None, past: Past::default(), changes: Changes::of(INIT.as_raw()) }
    }
}

impl<A: Asker> Hands for Inside<A> {
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

    fn remember(&mut self, page: &Page, is_new: bool) {
        self.past.remember(page, is_new);
    }

    fn newcomer(&mut self, page: &Page, daemon: &str) -> Option<Shortfall> {
        self.past.newcomer(page, daemon)
    }

    fn check(
        &mut self,
        daemon: &str,
        command: &[String],
        go_on: &mut dyn FnMut(&mut Self) -> Tried<()>,
    ) -> Tried<Checked> {
        let command = set_up::command(&self.page()?, daemon, set_up::Task::Command, command);
        let mut left = None;
        let ended = command::run(&command, Group::Own, || {
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

    fn request(&mut self, request: Option<&Request>) -> Tried<()> {
        page::ask(request, self.ask_timeout).map_err(|e| may_not_act(&e))
    }

    fn say(&mut self, message: HelperMessage) -> Tried<()> {
        self.asker.say(message)
    }

    fn hear(&mut self, ms: u16) -> Tried<Option<HostMessage>> {
        self.asker.hear(ms, &mut self.changes)
    }

    fn pause(&mut self, ms: u16) -> Tried<()> {
        self.changes.wait(ms);
        Ok(())
    }

    fn diff(&mut self, old: &[u8], new: &[u8], show: bool) -> Diff {
        diff::lines(old, new, show)
    }

    fn log(&mut self, line: &Line<'_>) {
        log::tell(line);
    }
}

/// The reason if a request could not be sent to init.
#[must_use]
pub fn may_not_act(e: &io::Error) -> Stop {
    let words = Printable::new(&e.to_string());
    match e.kind() {
        io::ErrorKind::PermissionDenied => Reason::MayNotAct { words }.into(),
        _ => Reason::NotAsked { words }.into(),
    }
}
