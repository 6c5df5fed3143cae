//! The shell around the decision core: the only place of init with system calls. It decides nothing.
//!
//! One thread, one poll loop: gather events, let the core decide, act.

mod log;
mod notify;
mod publish;
mod relay;
mod signals;
mod spawn;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::time::{ClockId, clock_gettime};

use crate::core::{Action, Core, Disposition, End, Event, Level, Moment, select};
use crate::inside::store;
use crate::status::{Daemon, PAGE_FD, Page, Plan, SCHEMA, Status, Wired};
use crate::table::{Action as WireAction, Ready, Signal, Table};

use relay::{Sink, Stream};
use spawn::Program;

/// Selects daemons by name.
pub const SELECTION: &str = "CLAUDE_BOTTLE_SIDECAR_DAEMONS";
/// How long init waits at its end for a log's reader that takes nothing.
const DRAIN: Duration = Duration::from_millis(500);
/// How long init, where it isn't PID 1, waits for children that it killed at its end.
const LAST_CHILDREN: Duration = Duration::from_secs(2);

/// Why init can't begin.
#[derive(Debug)]
pub struct CannotBegin(String);

impl std::fmt::Display for CannotBegin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CannotBegin {}

/// Runs init to its end and returns its exit code. Every signal must be blocked.
///
/// # Errors
/// Where the kernel refuses what init can't do without; nothing was started then.
pub fn run(table: &Table) -> Result<i32, CannotBegin> {
    log::set_up();
    let mut shell = Shell::new(table).map_err(|e| CannotBegin(format!("cannot begin: {e}; no daemon was started")))?;
    let selection = std::env::var_os(SELECTION).map(|v| v.to_string_lossy().into_owned());
    let selection = select(table, selection.as_deref());
    for name in &selection.unknown {
        tracing::warn!("{SELECTION} names {name:?}, which is no daemon of the table; ignored");
    }
    if selection.selected.is_empty() {
        tracing::info!("no daemons selected");
        shell.finish();
        return Ok(0);
    }
    shell.select(table, &selection.selected);
    Ok(shell.supervise())
}

fn now() -> Moment {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

struct Shell {
    core: Core,
    signals: signals::Signals,
    notify: Option<notify::Notify>,
    null: OwnedFd,
    sinks: Vec<Sink>,
    streams: Vec<Stream>,
    programs: Vec<Program>,
    page: Page,
    table: Table,
    has_page: bool,
    buffer: Vec<u8>,
    exit: Option<i32>,
    is_pid_1: bool,
}

impl Shell {
    fn new(table: &Table) -> io::Result<Self> {
        // SAFETY: close_range(2) takes numbers only. Descriptors that init was started with are nobody's here and
        // must not reach a daemon; a kernel before 5.11 refuses, and there init's own are closed at exec anyway.
        unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        let mut caught: Vec<i32> = vec![libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGCHLD];
        caught.extend([Signal::HUP, Signal::USR1, Signal::USR2].map(Signal::number));
        caught.extend(table.wiring.iter().map(|w| w.signal.number()));
        caught.sort_unstable();
        caught.dedup();
        let signals = signals::Signals::catch(caught)?;
        let null = OwnedFd::from(std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?);
        let is_pid_1 = std::process::id() == 1;
        if !is_pid_1 {
            nix::sys::prctl::set_child_subreaper(true)?;
        }
        let status = Status {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: i32::try_from(std::process::id()).unwrap_or(0),
            state: crate::status::InitState::Running,
            selected: Vec::new(),
            unselected: Vec::new(),
            signals: std::collections::BTreeMap::new(),
            daemons: Vec::new(),
        };
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let mut sinks = vec![Sink::open(stderr.as_fd())?];
        // Two queues into one file would cut each other's lines.
        let id = |fd| nix::sys::stat::fstat(fd).map(|s| (s.st_dev, s.st_ino));
        if id(stdout.as_fd())? != id(stderr.as_fd())? {
            sinks.push(Sink::open(stdout.as_fd())?);
        }
        Ok(Self {
            core: Core::new(table, &[]),
            signals,
            notify: None,
            null,
            sinks,
            streams: Vec::new(),
            programs: Vec::new(),
            page: Page { status, plans: Vec::new() },
            table: table.clone(),
            has_page: true,
            buffer: vec![0; 64 * 1024],
            exit: None,
            is_pid_1,
        })
    }

    fn select(&mut self, table: &Table, selected: &[usize]) {
        self.core = Core::new(table, selected);
        let is_selected = |i: &usize| selected.contains(i);
        let names = |keep: bool| -> Vec<String> {
            (0..).zip(&table.daemons).filter(|(i, _)| is_selected(i) == keep).map(|(_, d)| d.name.clone()).collect()
        };
        (self.page.status.selected, self.page.status.unselected) = (names(true), names(false));
        self.table.daemons = selected.iter().filter_map(|i| table.daemons.get(*i)).cloned().collect();
        if self.table.daemons.iter().any(|d| d.ready == Some(Ready::Notify)) {
            match notify::Notify::open() {
                Ok(socket) => self.notify = Some(socket),
                Err(e) => tracing::warn!("no socket for sd_notify: {e}; daemons with notify never count as ready"),
            }
        }
        for (name, wire) in table.wiring.iter().map(|w| (w.signal.to_string(), w)) {
            let daemon = table.daemons.get(wire.daemon).map(|d| d.name.clone());
            let wired = match wire.action {
                WireAction::Restart => Wired { forward: None, restart: daemon, last: None },
                WireAction::Forward { .. } => Wired { forward: daemon, restart: None, last: None },
            };
            self.page.status.signals.insert(name, wired);
        }
        for spec in &self.table.daemons {
            let mut env: Vec<(OsString, OsString)> =
                std::env::vars_os().filter(|(key, _)| key != "NOTIFY_SOCKET").collect();
            if let (Some(Ready::Notify), Some(socket)) = (&spec.ready, &self.notify) {
                env.push(("NOTIFY_SOCKET".into(), socket.name.clone().into()));
            }
            let ignore = spec.ignore.iter().map(|s| s.number()).collect();
            self.programs.push(Program::new(&spec.command, env, ignore));
        }
    }

    fn supervise(&mut self) -> i32 {
        self.publish();
        // What was pending before the first start comes first; what comes from here on is served after it.
        for event in self.gather_signals() {
            self.dispatch(event);
        }
        self.dispatch(Event::Begin);
        loop {
            self.reap();
            if let Some(code) = self.exit {
                self.finish();
                return code;
            }
            if self.core.next().is_some_and(|at| at <= now()) {
                self.dispatch(Event::Time);
                continue;
            }
            self.publish();
            self.flush();
            self.wait();
        }
    }

    /// Waits for something to happen and takes it in.
    fn wait(&mut self) {
        let timeout = self.core.next().map_or(PollTimeout::NONE, |at| {
            // Rounded up: a millisecond too late is one wake-up less.
            let millis = at.saturating_sub(now()).as_micros().div_ceil(1000);
            PollTimeout::try_from(i32::try_from(millis).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX)
        });
        let mut fds = vec![PollFd::new(self.signals.fd(), PollFlags::POLLIN)];
        fds.extend(self.notify.as_ref().map(|n| PollFd::new(n.fd(), PollFlags::POLLIN)));
        let writing: Vec<usize> =
            (0..self.sinks.len()).filter(|i| self.sinks.get(*i).is_some_and(Sink::is_waiting)).collect();
        fds.extend(writing.iter().filter_map(|i| self.sinks.get(*i)).map(|s| PollFd::new(s.fd(), PollFlags::POLLOUT)));
        let first = fds.len();
        let open: Vec<usize> = (0..self.streams.len()).filter(|i| self.may_read(*i)).collect();
        fds.extend(open.iter().filter_map(|i| self.streams.get(*i)).map(|s| PollFd::new(s.fd(), PollFlags::POLLIN)));
        if poll(&mut fds, timeout).is_err() {
            // EINTR: a handler ran, and the next round sees what it wrote.
            return;
        }
        let is_up = |fd: &PollFd<'_>| fd.revents().is_some_and(|r| !r.is_empty());
        let signalled = fds.first().is_some_and(is_up);
        let notified = self.notify.is_some() && fds.get(1).is_some_and(is_up);
        let readable: Vec<usize> =
            fds.iter().skip(first).zip(&open).filter(|(fd, _)| is_up(fd)).map(|(_, index)| *index).collect();
        drop(fds);
        for index in readable.into_iter().rev() {
            self.pump(index);
        }
        while let Some(event) = notified.then(|| self.notify.as_ref()?.take()).flatten() {
            self.dispatch(event);
        }
        if signalled {
            let events = self.gather_signals();
            // Deaths come before anything that might signal.
            self.reap();
            for event in events {
                self.dispatch(event);
            }
        }
    }

    fn may_read(&self, index: usize) -> bool {
        self.streams.get(index).is_some_and(|stream| {
            self.core.is_being_ended(stream.daemon) || self.sinks.get(stream.sink).is_some_and(|sink| !sink.is_full())
        })
    }

    /// Reads a stream once and lets go of it at its end.
    fn pump(&mut self, index: usize) -> bool {
        let Some(stream) = self.streams.get_mut(index) else { return false };
        let Some(sink) = self.sinks.get_mut(stream.sink) else { return false };
        match stream.pump(&mut self.buffer, sink) {
            Some(0) => {
                self.streams.swap_remove(index);
                false
            }
            Some(_) => true,
            None => false,
        }
    }

    fn gather_signals(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for (number, sender) in self.signals.take() {
            if number == libc::SIGCHLD {
                continue;
            }
            let event = match number {
                libc::SIGTERM | libc::SIGINT | libc::SIGQUIT => Event::Stop,
                _ => match Signal::from_number(number) {
                    Some(signal) => Event::Signal(signal),
                    None => continue,
                },
            };
            tracing::info!(signal = number, sender, "signal received");
            events.push(event);
        }
        events
    }

    /// Takes in every child that has ended: SIGCHLDs coalesce, signal(7).
    fn reap(&mut self) {
        while let Some((pid, end)) = look_for_ended() {
            self.dispatch(Event::Ended { pid, end });
        }
    }

    fn dispatch(&mut self, event: Event) {
        let mut queue = VecDeque::from([event]);
        while let Some(event) = queue.pop_front() {
            for action in self.core.handle(now(), event) {
                queue.extend(self.act(action));
            }
        }
    }

    fn act(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Start(daemon) => Some(self.start(daemon)),
            Action::Kill { pid, signal } => {
                signals::kill(pid, signal);
                None
            }
            Action::KillGroup(pgid) => {
                signals::kill(-pgid, libc::SIGKILL);
                None
            }
            Action::Reap(pid) => {
                // SAFETY: waitpid(2) with no status, on a child that has ended.
                unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
                None
            }
            Action::LookAtGroup { daemon, pgid } => Some(Event::Group { daemon, empty: !signals::kill(-pgid, 0) }),
            Action::LookAtMask { daemon, pid, signal } => {
                Some(Event::Mask { daemon, pid, signal, disposition: disposition(pid, signal) })
            }
            Action::Tell(Level::Info, text) => {
                tracing::info!("{text}");
                None
            }
            Action::Tell(Level::Warn, text) => {
                tracing::warn!("{text}");
                None
            }
            Action::Exit(code) => {
                self.exit = Some(code);
                None
            }
        }
    }

    fn start(&mut self, daemon: usize) -> Event {
        let generation = self.core.view(daemon).map_or(0, |v| v.generation);
        let name = self.table.daemons.get(daemon).map_or_else(String::new, |d| d.name.clone());
        self.let_go_of_old_streams(daemon, generation);
        let config = self.table.daemons.get(daemon).and_then(|d| d.config.as_ref());
        match config.and_then(|config| store::settle_before_start(&config.path)) {
            None => {}
            Some(Ok(settled)) => tracing::warn!("{settled}"),
            Some(Err(unsettled)) => tracing::error!("{unsettled}"),
        }
        let Some(program) = self.programs.get(daemon) else {
            return Event::StartFailed { daemon, code: 126, why: "no such daemon".to_owned() };
        };
        match program.start(&self.null, &self.signals.caught) {
            Ok(started) => {
                let stdout = self.sinks.len() - 1;
                self.streams.push(Stream::new(started.stdout, &name, daemon, generation, stdout));
                self.streams.push(Stream::new(started.stderr, &name, daemon, generation, 0));
                Event::Started { daemon, pid: started.pid }
            }
            Err(e) => {
                let code = if e.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
                Event::StartFailed { daemon, code, why: e.to_string() }
            }
        }
    }

    /// The old process's unfinished line ends here, so that it isn't glued to the new one's. A pipe that a process
    /// outside of the old group still holds stays open for one generation more, so that they can't pile up.
    fn let_go_of_old_streams(&mut self, daemon: usize, generation: u64) {
        for index in (0..self.streams.len()).rev() {
            let Some(stream) = self.streams.get(index).filter(|s| s.daemon == daemon) else { continue };
            let is_too_old = stream.generation + 1 < generation;
            for _ in 0..16 {
                if !self.pump(index) {
                    break;
                }
            }
            let Some(stream) = self.streams.get_mut(index).filter(|s| s.daemon == daemon && s.generation < generation)
            else {
                continue;
            };
            if let Some(sink) = self.sinks.get_mut(stream.sink) {
                stream.finish(sink);
            }
            if is_too_old {
                self.streams.swap_remove(index);
            }
        }
    }

    fn publish(&mut self) {
        if !self.has_page {
            return;
        }
        let millis = |m: Moment| u64::try_from(m.as_millis()).unwrap_or(u64::MAX);
        let mut page = self.page.clone();
        page.status.state = self.core.state();
        for (index, wire) in self.table.wiring.iter().enumerate() {
            if let Some(wired) = page.status.signals.get_mut(&wire.signal.to_string()) {
                wired.last = self.core.last(index);
            }
        }
        page.status.daemons.clear();
        page.plans.clear();
        for (index, spec) in self.table.daemons.iter().enumerate() {
            let Some(view) = self.core.view(index) else { continue };
            page.status.daemons.push(Daemon {
                name: spec.name.clone(),
                state: view.state,
                pid: view.pid,
                generation: view.generation,
                restarts: view.restarts,
                uptime_ms: view.since.map(millis),
                last_exit: view.last_exit,
                transaction: spec.config.as_ref().map(|_| serde_json::Value::Null),
                ready: None,
            });
            page.plans.push(Plan {
                ready: spec.ready.clone(),
                notified: view.notified,
                settle_ms: millis(spec.settle),
                grace_ms: millis(spec.grace),
                config: spec.config.clone(),
            });
        }
        if page == self.page && !page.status.daemons.is_empty() {
            return;
        }
        if let Err(e) = publish::publish(&page) {
            self.has_page = false;
            tracing::warn!("no status page at descriptor {PAGE_FD}: {e}; running without one");
        }
        self.page = page;
    }

    fn flush(&mut self) -> bool {
        if let Some(stderr) = self.sinks.first_mut() {
            for line in log::take().split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
                stderr.line("", line);
            }
        }
        self.sinks.iter_mut().map(Sink::flush).filter(|progress| *progress).count() > 0
    }

    fn finish(&mut self) {
        if !self.is_pid_1 {
            self.kill_last_children();
        }
        let mut until = now() + DRAIN;
        loop {
            let mut progress = false;
            for index in (0..self.streams.len()).rev() {
                if self.streams.get(index).is_some_and(|s| self.sinks.get(s.sink).is_some_and(|k| !k.is_full())) {
                    progress |= self.pump(index);
                }
            }
            if !progress {
                for stream in &mut self.streams {
                    if let Some(sink) = self.sinks.get_mut(stream.sink) {
                        stream.finish(sink);
                    }
                }
            }
            if self.flush() {
                until = now() + DRAIN;
                progress = true;
            }
            let waiting = self.sinks.iter().any(Sink::is_waiting);
            if (!progress && !waiting) || now() >= until {
                return;
            }
            if !progress {
                let mut fds: Vec<PollFd<'_>> = self
                    .sinks
                    .iter()
                    .filter(|s| s.is_waiting())
                    .map(|s| PollFd::new(s.fd(), PollFlags::POLLOUT))
                    .collect();
                let left = until.saturating_sub(now()).as_millis();
                let _ = poll(
                    &mut fds,
                    PollTimeout::try_from(i32::try_from(left).unwrap_or(0)).unwrap_or(PollTimeout::ZERO),
                );
            }
        }
    }

    /// What a subreaper still has: a PID 1 takes all with it, anybody else would leave it behind.
    fn kill_last_children(&mut self) {
        let until = now() + LAST_CHILDREN;
        let me = std::process::id();
        while now() < until {
            self.reap();
            let path = format!("/proc/{me}/task/{me}/children");
            let children = std::fs::read_to_string(path).unwrap_or_default();
            let pids: Vec<i32> = children.split_whitespace().filter_map(|p| p.parse().ok()).collect();
            if pids.is_empty() {
                return;
            }
            for pid in pids {
                signals::kill(pid, libc::SIGKILL);
            }
            let mut fds = [PollFd::new(self.signals.fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, PollTimeout::from(10u8));
            let _ = self.signals.take();
        }
    }
}

/// A child that has ended, left unreaped so that its process group can be killed before its id is free.
fn look_for_ended() -> Option<(i32, End)> {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: info is valid for a write. nix's own waitid fails on a child that a real-time signal killed.
    if unsafe { libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), flags) } < 0 {
        return None;
    }
    // SAFETY: zeroed, and filled in by waitid(2) where there was a child.
    let (pid, status, code) = unsafe {
        let info = info.assume_init();
        (info.si_pid(), info.si_status(), info.si_code)
    };
    (pid != 0).then_some((pid, if code == libc::CLD_EXITED { End::Code(status) } else { End::Signal(status) }))
}

/// What a process would do with a signal: `/proc/PID/status`, proc(5).
fn disposition(pid: i32, signal: Signal) -> Disposition {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/status")) else {
        let proc_is_there = std::path::Path::new("/proc/self/status").exists();
        return if proc_is_there { Disposition::NotTaken } else { Disposition::Unknown };
    };
    let mask = |key: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(key))?;
        u64::from_str_radix(value.trim(), 16).ok()
    };
    match (mask("SigCgt:"), mask("SigBlk:")) {
        (None, None) => Disposition::Unknown,
        (caught, blocked) => {
            let has = |mask: Option<u64>, number: i32| mask.unwrap_or(0) & (1 << (number - 1)) != 0;
            if has(caught, signal.number()) {
                Disposition::Taken
            } else if !has(blocked, signal.number()) {
                Disposition::NotTaken
            } else if has(blocked, libc::SIGSEGV) {
                Disposition::Blocked
            } else {
                Disposition::Taken
            }
        }
    }
}
