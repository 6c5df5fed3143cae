//! The shell around the decision core: the only place of init with system calls. It decides nothing.
//!
//! One thread, one poll loop: gather events, let the core decide, act.

mod log;
mod notify;
mod publish;
pub mod relay;
mod signals;

mod watch;

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags};
use nix::time::{ClockId, clock_gettime};

use crate::change::store;
use crate::status::{Daemon, InitState, Plan, SCHEMA, Status, Wired};
use crate::supervisor::{Core, Disposition, End, Event, Level, Moment, Sent, System, select};
use crate::table::{Action, Daemon as Spec, Ready, Signal, Table};

use crate::launch::{Environment, Program, Stdio};
use publish::Entry;
use relay::{Sink, Stream};
use watch::{For, Watch};

/// Selects daemons by name.
pub const SELECTION: &str = "CLAUDE_BOTTLE_SIDECAR_DAEMONS";
/// How long init waits at its end for a log's reader that takes nothing.
const DRAIN: Duration = Duration::from_millis(500);
/// The same for one that takes little at a time, after a shutdown that somebody waits for, and where nobody does.
const DRAIN_ASKED: Duration = Duration::from_millis(800);
const DRAIN_ALONE: Duration = Duration::from_secs(5);
/// How many children or messages one round takes in: whoever makes them without end must not hold up a signal.
const ROUND: usize = 256;
/// What is read at once, at most. So large that malloc takes it from the kernel as zeros that cost nothing until then.
const BUFFER: usize = 256 * 1024;
/// What the descriptors are watched under; a stream has a number of its own.
const NOTIFY: u64 = 0;
const SINKS: u64 = 1;
const STREAMS: u64 = 3;
/// How soon what the kernel would not watch is tried again.
const WATCH_AGAIN: Duration = Duration::from_millis(100);
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
pub fn run(table: Table) -> Result<i32, CannotBegin> {
    log::set_up();
    let mut shell = Shell::new(&table).map_err(|e| CannotBegin(format!("cannot begin: {e}; no daemon was started")))?;
    let selection = std::env::var_os(SELECTION).map(|v| v.to_string_lossy().into_owned());
    let selection = select(&table, selection.as_deref());
    for name in &selection.unknown {
        tracing::warn!("{SELECTION} names {name:?}, which is no daemon of the table; ignored");
    }
    if selection.selected.is_empty() {
        tracing::info!("no daemons selected");
        shell.finish(DRAIN_ASKED);
        return Ok(0);
    }
    shell.select(&table, &selection.selected);
    let core = Core::new(&table, &selection.selected);
    drop(table);
    Ok(shell.supervise(core))
}

/// A step of init's beginning that failed.
fn step<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> String {
    move |e| format!("{what}: {}", e.into())
}

fn now() -> Moment {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

struct Shell {
    signals: signals::Signals,
    notify: Option<notify::Notify>,
    stdio: Stdio,
    sinks: Vec<Sink>,
    streams: Vec<Stream>,
    specs: Vec<Spec>,
    programs: Vec<Program>,
    /// The wired signals' names, in the order of the table's wiring.
    wires: Vec<String>,
    place: publish::Place,
    /// The page without its daemons.
    head: Status,
    entries: Vec<Entry>,
    /// What is published isn't what it should be.
    is_stale: bool,
    /// An event was served: the page may show other than what is.
    changed: bool,
    watch: Watch,
    /// The number that the next stream is watched under.
    next_number: u64,
    /// How many children this round has taken in.
    taken_in: usize,
    buffer: Vec<u8>,
    is_pid_1: bool,
}

impl Shell {
    fn new(table: &Table) -> Result<Self, String> {
        let stdio = Stdio::open(close_strangers_descriptors()).map_err(step("daemons' stdio"))?;
        let mut caught: Vec<i32> = vec![libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGCHLD];
        caught.extend([Signal::HUP, Signal::USR1, Signal::USR2].map(Signal::number));
        caught.extend(table.wiring.iter().map(|w| w.signal.number()));
        caught.sort_unstable();
        caught.dedup();
        let signals = signals::Signals::catch(caught).map_err(step("signals"))?;
        let watch = Watch::new().map_err(step("epoll"))?;
        let is_pid_1 = std::process::id() == 1;
        if !is_pid_1 {
            nix::sys::prctl::set_child_subreaper(true).map_err(step("orphans"))?;
        }
        let status = Status {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: i32::try_from(std::process::id()).unwrap_or(0),
            state: InitState::Running,
            selected: Vec::new(),
            unselected: Vec::new(),
            signals: std::collections::BTreeMap::new(),
            daemons: Vec::new(),
        };
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let mut sinks = vec![Sink::open(stderr.as_fd()).map_err(step("stderr"))?];
        // Two queues into one file would cut each other's lines.
        let id = |fd| nix::sys::stat::fstat(fd).map(|s| (s.st_dev, s.st_ino));
        if id(stdout.as_fd()).map_err(step("stdout"))? != id(stderr.as_fd()).map_err(step("stderr"))? {
            sinks.push(Sink::open(stdout.as_fd()).map_err(step("stdout"))?);
        }
        Ok(Self {
            signals,
            notify: None,
            stdio,
            sinks,
            streams: Vec::new(),
            specs: Vec::new(),
            programs: Vec::new(),
            wires: Vec::new(),
            place: publish::Place::default(),
            head: status,
            entries: Vec::new(),
            is_stale: true,
            changed: true,
            watch,
            next_number: STREAMS,
            taken_in: 0,
            buffer: vec![0; BUFFER],
            is_pid_1,
        })
    }

    fn select(&mut self, table: &Table, selected: &[usize]) {
        let is_selected = |i: &usize| selected.contains(i);
        let names = |keep: bool| -> Vec<String> {
            (0..).zip(&table.daemons).filter(|(i, _)| is_selected(i) == keep).map(|(_, d)| d.name.clone()).collect()
        };
        (self.head.selected, self.head.unselected) = (names(true), names(false));
        self.specs = selected.iter().filter_map(|i| table.daemons.get(*i)).cloned().collect();
        if self.specs.iter().any(|d| d.ready == Some(Ready::Notify) || d.config.is_some()) {
            match notify::Notify::open() {
                Ok(socket) => self.notify = Some(socket),
                Err(e) => tracing::warn!(
                    "no socket for sd_notify: {e}; daemons with notify never count as ready, and no change is logged"
                ),
            }
        }
        for (name, wire) in table.wiring.iter().map(|w| (w.signal.to_string(), w)) {
            let daemon = table.daemons.get(wire.daemon).map(|d| d.name.clone());
            let wired = match wire.action {
                Action::Restart => Wired { forward: None, restart: daemon, last: None },
                Action::Forward { .. } => Wired { forward: daemon, restart: None, last: None },
            };
            self.head.signals.insert(name.clone(), wired);
            self.wires.push(name);
        }
        let env = Environment::inherited("NOTIFY_SOCKET");
        let notifying = self.notify.as_ref().map(|socket| env.with("NOTIFY_SOCKET", &socket.name));
        for spec in &self.specs {
            let env = notifying.as_ref().filter(|_| spec.ready == Some(Ready::Notify)).unwrap_or(&env);
            let ignore = spec.ignore.iter().map(|s| s.number()).collect();
            self.programs.push(Program::new(&spec.command, env, ignore));
        }
        self.specs.iter_mut().for_each(|spec| spec.command = Vec::new());
        // Grown by doubling they would leave holes.
        self.streams.reserve_exact(2 * self.specs.len());
        self.entries.reserve_exact(self.specs.len());
        self.programs.shrink_to_fit();
    }

    fn supervise(&mut self, mut core: Core) -> i32 {
        // Before any daemon's pipe could get the page's descriptor number.
        self.publish(&core);
        // What was pending before the first start comes first; what comes from here on is served after it.
        self.signals.wait(&mut [], Some(Duration::ZERO));
        let mut events = self.gather_signals();
        events.push(Event::Begin);
        let mut is_settled = false;
        loop {
            self.taken_in = 0;
            if let Some(code) = core.take(self, events) {
                self.finish(if core.state() == InitState::Stopping { DRAIN_ASKED } else { DRAIN_ALONE });
                return code;
            }
            self.publish(&core);
            self.flush();
            if !std::mem::replace(&mut is_settled, true) {
                give_back_memory();
            }
            events = self.wait(&core);
        }
    }

    /// Waits for something to happen, moves what daemons wrote, and returns the rest.
    fn wait(&mut self, core: &Core) -> Vec<Event> {
        let next = if self.taken_in < ROUND { core.next() } else { Some(Moment::ZERO) };
        let mut longest = next.map(|at| at.saturating_sub(now()));
        let mut refused = false;
        if let Some(socket) = self.notify.as_mut().filter(|socket| !socket.is_watched) {
            socket.is_watched = self.watch.set(socket.fd(), NOTIFY, For::Reading, true);
            refused |= !socket.is_watched;
        }
        for (sink, number) in self.sinks.iter_mut().zip(SINKS..) {
            let wanted = sink.is_waiting();
            if wanted != sink.is_watched {
                sink.is_watched = self.watch.set(sink.fd(), number, For::Writing, wanted);
                refused |= wanted && !sink.is_watched;
            }
        }
        for index in 0..self.streams.len() {
            let wanted = self.may_read(index, core);
            if let Some(stream) = self.streams.get_mut(index).filter(|s| s.is_watched != wanted) {
                stream.is_watched = self.watch.set(stream.fd(), stream.number, For::Reading, wanted);
                refused |= wanted && !stream.is_watched;
            }
        }
        if refused {
            longest = longest.into_iter().chain([WATCH_AGAIN]).min();
        }
        let mut fds = [PollFd::new(self.watch.fd(), PollFlags::POLLIN)];
        let (is_up, signalled) = self.signals.wait(&mut fds, longest);
        let mut up = if is_up { self.watch.up() } else { Vec::new() };
        let notified = up.contains(&NOTIFY);
        up.retain(|number| *number >= STREAMS);
        for number in up {
            let index = self.streams.iter().position(|s| s.number == number);
            if let Some(index) = index.filter(|i| self.may_read(*i, core)) {
                self.pump(index);
            }
        }
        self.streams.retain(|s| !s.ended);
        let notify = self.notify.as_ref().filter(|_| notified);
        let messages = std::iter::from_fn(|| notify?.take()).take(ROUND);
        let mut events: Vec<Event> = messages.filter_map(|message| message.event_or_log()).collect();
        if signalled {
            events.extend(self.gather_signals());
        }
        events
    }

    fn may_read(&self, index: usize, core: &Core) -> bool {
        self.streams.get(index).is_some_and(|s| core.is_being_ended(s.daemon) || self.has_room(s))
    }

    fn has_room(&self, stream: &Stream) -> bool {
        self.sinks.get(stream.sink).is_some_and(|sink| !sink.is_full())
    }

    /// Reads a stream once and tells how much.
    fn pump(&mut self, index: usize) -> usize {
        let Some(stream) = self.streams.get_mut(index) else { return 0 };
        self.sinks.get_mut(stream.sink).map_or(0, |sink| stream.pump(&mut self.buffer, sink))
    }

    fn gather_signals(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for caught in self.signals.take() {
            let Some(signal) = Signal::from_number(caught.number) else { continue };
            tracing::info!("received SIG{signal} from {}", caught.sender);
            events.push(match caught.number {
                libc::SIGTERM | libc::SIGINT | libc::SIGQUIT => Event::Stop,
                _ => Event::Signal(signal),
            });
        }
        events
    }

    /// What the old process wrote comes before what the new one will, its unfinished line too. A pipe that a process
    /// outside of the old group still holds stays open for one generation more, so that they can't pile up.
    fn let_go_of_old_streams(&mut self, daemon: usize, generation: u64) {
        for index in 0..self.streams.len() {
            let Some(old) = self.streams.get(index).filter(|s| s.daemon == daemon) else { continue };
            let is_too_old = old.generation + 1 < generation;
            // As much as a pipe holds by default, and then some; a writer without end isn't waited for.
            let may_read = |shell: &Self| is_too_old || shell.streams.get(index).is_some_and(|s| shell.has_room(s));
            let is_empty = (0..16).any(|_| may_read(self) && self.pump(index) == 0);
            let Some(stream) = self.streams.get_mut(index) else { continue };
            stream.ended |= is_too_old;
            if let (true, Some(sink)) = (is_empty || is_too_old, self.sinks.get_mut(stream.sink)) {
                stream.finish(sink);
            }
        }
        self.streams.retain(|s| !s.ended);
    }

    fn publish(&mut self, core: &Core) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let millis = |m: Moment| u64::try_from(m.as_millis()).unwrap_or(u64::MAX);
        let head = &mut self.head;
        self.is_stale |= std::mem::replace(&mut head.state, core.state()) != core.state();
        for (wire, name) in self.wires.iter().enumerate() {
            if let Some(wired) = head.signals.get_mut(name) {
                self.is_stale |= std::mem::replace(&mut wired.last, core.last(wire)) != core.last(wire);
            }
        }
        self.entries.resize_with(self.specs.len(), Entry::default);
        for (index, (spec, entry)) in self.specs.iter().zip(&mut self.entries).enumerate() {
            let Some(view) = core.view(index).filter(|view| entry.view != Some(*view)) else { continue };
            let daemon = Daemon {
                name: spec.name.clone(),
                state: view.state,
                pid: view.pid,
                generation: view.generation,
                restarts: view.restarts,
                uptime_ms: view.since.map(millis),
                last_exit: view.last_exit,
                transaction: spec.config.as_ref().map(|_| serde_json::Value::Null),
                ready: None,
            };
            let plan = Plan {
                ready: spec.ready.clone(),
                notified: view.notified,
                settle_ms: millis(spec.settle),
                grace_ms: millis(spec.grace),
                config: spec.config.clone(),
            };
            *entry = Entry::new(view, &daemon, &plan);
            self.is_stale = true;
        }
        if self.is_stale {
            let socket = self.notify.as_ref().map(|socket| socket.name.as_str());
            self.is_stale = !self.place.put(|| publish::text(head, &self.entries, socket));
        }
    }

    fn flush(&mut self) -> bool {
        if let Some(stderr) = self.sinks.first_mut() {
            for line in log::take().split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
                stderr.own_line(line);
            }
        }
        self.sinks.iter_mut().map(Sink::flush).filter(|progress| *progress).count() > 0
    }

    fn finish(&mut self, longest: Duration) {
        if !self.is_pid_1 {
            self.kill_last_children();
        }
        self.streams.iter_mut().for_each(Stream::want_no_more);
        let mut end = now() + longest;
        let mut until = now() + DRAIN;
        loop {
            for index in 0..self.streams.len() {
                if self.streams.get(index).is_some_and(|s| self.has_room(s)) {
                    self.pump(index);
                }
            }
            self.streams.retain(|s| !s.ended);
            if self.flush() {
                until = now() + DRAIN;
            }
            let waiting = self.sinks.iter().filter(|s| s.is_waiting());
            let mut fds: Vec<PollFd<'_>> = waiting.map(|s| PollFd::new(s.fd(), PollFlags::POLLOUT)).collect();
            let left = until.min(end).saturating_sub(now());
            if (fds.is_empty() && self.streams.is_empty()) || left.is_zero() {
                self.sinks.iter_mut().for_each(Sink::report);
                self.flush();
                return;
            }
            let longest = if fds.is_empty() { Duration::ZERO } else { left };
            let (_, signalled) = self.signals.wait(&mut fds, Some(longest));
            drop(fds);
            if signalled && self.gather_signals().contains(&Event::Stop) {
                end = end.min(now() + DRAIN_ASKED);
            }
        }
    }

    /// What a subreaper still has: a PID 1 takes all with it, anybody else would leave it behind.
    fn kill_last_children(&mut self) {
        let until = now() + LAST_CHILDREN;
        let me = std::process::id();
        while now() < until {
            // No daemon is left whose end could be of interest.
            // SAFETY: waitpid(2) with no status, on any child that has ended.
            match unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } {
                0 => {}
                -1 if Errno::last() == Errno::ECHILD => return,
                _ => continue,
            }
            let path = format!("/proc/{me}/task/{me}/children");
            let children = std::fs::read_to_string(path).unwrap_or_default();
            for pid in children.split_whitespace().filter_map(|p| p.parse().ok()) {
                let _ = signals::kill(pid, libc::SIGKILL);
            }
            self.signals.wait(&mut [], Some(Duration::from_millis(10)));
            let _ = self.signals.take();
        }
        tracing::warn!("some children are left behind: they can't be killed");
    }
}

impl System for Shell {
    fn now(&mut self) -> Moment {
        now()
    }

    fn start(&mut self, daemon: usize, generation: u64) -> Event {
        self.let_go_of_old_streams(daemon, generation);
        let (Some(program), Some(spec)) = (self.programs.get(daemon), self.specs.get(daemon)) else {
            return Event::StartFailed { daemon, code: 126, why: "no such daemon".to_owned() };
        };
        match spec.config.as_ref().and_then(|config| store::recover_before_start(&config.path)) {
            None => {}
            Some(Ok(settled)) => tracing::warn!("{settled}"),
            Some(Err(unsettled)) => tracing::error!("{unsettled}"),
        }
        match program.start(&mut self.stdio, &self.signals.caught) {
            Ok(started) => {
                let ends = [(started.stdout, self.sinks.len() - 1), (started.stderr, 0)];
                for ((fd, sink), number) in ends.into_iter().zip(self.next_number..) {
                    self.streams.push(Stream::new(fd, &spec.name, daemon, generation, sink, number));
                }
                self.next_number += 2;
                Event::Started { daemon, pid: started.pid }
            }
            Err(e) => Event::StartFailed { daemon, code: e.code(), why: e.to_string() },
        }
    }

    fn kill(&mut self, pid: i32, signal: i32) -> Sent {
        match signals::kill(pid, signal) {
            Ok(()) => Sent::Yes,
            Err(Errno::ESRCH) => Sent::Gone,
            Err(e) => {
                if signal != 0 {
                    tracing::warn!("cannot send signal {signal} to {pid}: {}", io::Error::from(e));
                }
                Sent::Refused
            }
        }
    }

    fn ended(&mut self) -> Option<(i32, End)> {
        if !self.signals.a_child_ended || self.taken_in == ROUND {
            return None;
        }
        // A look at any child passes by all that live, so that the one that SIGCHLD told of is looked at by itself first.
        let told_of = self.signals.told_of.take().and_then(|pid| peek(libc::P_PID, pid).ok().flatten());
        let ended = told_of.map_or_else(|| peek(libc::P_ALL, 0), |ended| Ok(Some(ended)));
        // No SIGCHLD comes again for a child that was not looked at.
        let Ok(Some(ended)) = ended else {
            self.signals.a_child_ended = false;
            return None;
        };
        self.taken_in += 1;
        Some(ended)
    }

    fn reap(&mut self, pid: i32) {
        // SAFETY: waitpid(2) with no status, on a child that has ended.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
    }

    fn disposition(&mut self, pid: i32, signal: Signal) -> Disposition {
        disposition(pid, signal)
    }

    fn tell(&mut self, level: Level, text: String) {
        match level {
            Level::Info => tracing::info!("{text}"),
            Level::Warn => tracing::warn!("{text}"),
        }
    }

    fn changed(&mut self, _: &Core) {
        self.changed = true;
    }
}

/// A child that has ended, if there is one; it isn't reaped.
fn peek(of: libc::idtype_t, pid: i32) -> nix::Result<Option<(i32, End)>> {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: info is valid for a write. nix's own waitid fails on a child that a real-time signal killed.
    while unsafe { libc::waitid(of, pid.cast_unsigned(), info.as_mut_ptr(), flags) } < 0 {
        if Errno::last() != Errno::EINTR {
            return Err(Errno::last());
        }
    }
    // SAFETY: zeroed, and filled in by waitid(2) where there was a child.
    let (pid, status, code) = unsafe {
        let info = info.assume_init();
        (info.si_pid(), info.si_status(), info.si_code)
    };
    let end = if code == libc::CLD_EXITED { End::Code(status) } else { End::Signal(status) };
    Ok(Some((pid, end)).filter(|_| pid != 0))
}

/// What was needed to read the table and to start daemons goes back to the kernel: a bundle runs for days.
fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) releases only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Those that init was started with beyond its stdio: nobody's here, and they must not reach a daemon. Tells whether
/// `close_range`(2) is there.
fn close_strangers_descriptors() -> bool {
    // SAFETY: close_range(2) takes numbers only, and init has opened nothing yet.
    if unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) } == 0 {
        return true;
    }
    // Before Linux 5.9, or where a filter of system calls doesn't know it.
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return false };
    let open: Vec<i32> = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        // SAFETY: as above.
        unsafe { libc::close(fd) };
    }
    false
}

/// What a process would do with a signal: `/proc/PID/status`, proc(5).
fn disposition(pid: i32, signal: Signal) -> Disposition {
    let text = match std::fs::read_to_string(format!("/proc/{pid}/status")) {
        Ok(text) => text,
        // It isn't reaped yet, so that it would be there if this /proc showed it.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            return Disposition::Unknown;
        }
        // No descriptor is left, say: that may be otherwise at the next look.
        Err(_) => return Disposition::NotTaken,
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
