//! The shell around the supervisor, which makes all of init's system calls. It decides nothing.
//!
//! One thread, one poll loop: gather events, let the supervisor decide, act.

mod changes;
mod children;
mod fixed;
mod json;
mod limits;
mod log;
mod notify;
mod probe;
mod publish;
pub mod relay;
mod requests;
mod setups;
mod signals;
mod sockets;
mod watch;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags};
use nix::time::{ClockId, clock_gettime};

use crate::request::{LOCK_FD, SETUPS_FD};
use crate::status::{InitState, Plan, SCHEMA, Status, Wired};
use crate::supervisor::{Disposition, End, Ended, Event, Line, Moment, Sent, Supervisor, System, View, select};
use crate::table::{Action, Daemon as Spec, Output, Signal, Table};

use crate::launch::sandbox::Kernel;
use crate::launch::setup::Published;
use crate::launch::{Environment, Limit, MAX_REPORT, Parent, Program, Report, Sockets, Started, Streams};
use changes::Changes;
use children::{Child, OomKills, session};
use fixed::FixedFd;
use probe::Probe;
use publish::{PageFd, Parts};
use relay::{Sink, Source, Stream};
use requests::Requests;
use watch::{For, Watch};

/// Selects daemons by name.
pub const SELECTION: &str = "CLAUDE_BOTTLE_SIDECAR_DAEMONS";
/// How long init waits, before it exits, for a reader of the log that reads nothing.
const DRAIN: Duration = Duration::from_millis(500);
/// The same for a reader that is slow: after a shutdown, which somebody waits for, and in all other cases.
const DRAIN_ASKED: Duration = Duration::from_millis(800);
const DRAIN_ALONE: Duration = Duration::from_secs(5);
/// How many children one round handles, so that an endless stream of them can't delay a signal.
const ROUND: usize = 256;
/// The most that is read at once. malloc maps a buffer of this size from the kernel, so it takes no memory until it is used.
const BUFFER: usize = 256 * 1024;
/// The numbers that descriptors are watched under; each stream has its own.
const NOTIFY: u64 = 0;
const SINKS: u64 = 1;
const REQUESTS: u64 = 3;
const STREAMS: u64 = 4;
/// How soon init tries again to watch a descriptor that the kernel refused to watch.
const WATCH_AGAIN: Duration = Duration::from_millis(100);
/// If orphans end in quicker succession than this, they are reaped together: waking up costs more than reaping one.
const TOGETHER: Duration = Duration::from_millis(1);
/// How much of the stack is given back: reading the table needs far more of it than all that comes after.
const STACK: usize = 256 * 1024;
/// How many times one round writes output that was read before, as long as the reader keeps up.
const FEEDS: usize = 16;
/// If init isn't PID 1: how long it waits, before it exits, for children that it has killed.
const LAST_CHILDREN: Duration = Duration::from_secs(2);

/// Why init can't begin.
#[derive(Debug)]
pub struct CannotBegin {
    why: String,
    /// The exit code.
    pub code: u8,
}

impl CannotBegin {
    fn new(why: String) -> Self {
        Self { why, code: 1 }
    }

    /// The container lacks what the table asks for.
    fn wrong_table(why: String) -> Self {
        Self { why, code: 2 }
    }
}

impl std::fmt::Display for CannotBegin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for CannotBegin {}

/// Runs init to its end and returns its exit code. Every signal must be blocked.
///
/// # Errors
/// The kernel refused something that init needs; nothing was started.
pub fn run(table: Table) -> Result<i32, CannotBegin> {
    log::set_up(table.output);
    let mut shell =
        Shell::new(&table).map_err(|e| CannotBegin::new(format!("cannot begin: {e}; no daemon was started")))?;
    let selection = std::env::var_os(SELECTION).map(|v| v.to_string_lossy().into_owned());
    let selection = select(&table, selection.as_deref());
    for name in &selection.unknown {
        tracing::warn!("{SELECTION} names {name:?}, which is not in the daemon table; ignored");
    }
    if selection.selected.is_empty() {
        tracing::info!("no daemons selected");
        shell.finish(DRAIN_ASKED);
        return Ok(0);
    }
    if let Some(Published { file, kernel }) = setups::make(&table, &selection.selected)? {
        shell.setups_fd.replace(file);
        shell.kernel = Some(kernel);
    }
    shell.select(&table, &selection.selected);
    shell.sockets = sockets::bind(&shell.specs).map_err(CannotBegin::new)?;
    let core = Supervisor::new(&table, &selection.selected);
    drop(table);
    Ok(shell.supervise(core))
}

/// Names the step of init's start that failed.
fn step<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> String {
    move |e| format!("{what}: {}", e.into())
}

fn millis(moment: Moment) -> u64 {
    u64::try_from(moment.as_millis()).unwrap_or(u64::MAX)
}

fn now() -> Moment {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// A process whose exec hasn't been reported yet.
struct Launch {
    daemon: usize,
    pid: i32,
    /// What it has reported so far; its exec closes the pipe.
    report: OwnedFd,
    told: Vec<u8>,
    /// The number that the pipe is watched under.
    number: u64,
    is_watched: bool,
}

struct Shell {
    signals: signals::Signals,
    notify: Option<notify::Notify>,
    /// Notifications from daemons' processes that were read before a start and aren't handled yet.
    notes: Vec<Event>,
    /// The processes that were started since notifications were read.
    born: Vec<i32>,
    /// /dev/null, for daemons.
    null: OwnedFd,
    /// The limits that daemons get back.
    limits: Vec<Limit>,
    /// What the kernel can enforce of a sandbox; `None` if no daemon needs a set-up.
    kernel: Option<Kernel>,
    output: Output,
    sinks: Vec<Sink>,
    streams: Vec<Stream>,
    launches: Vec<Launch>,
    /// The daemons' processes and the probes that aren't reaped yet.
    leaders: Vec<i32>,
    probes: Vec<Probe>,
    /// Each daemon's last process.
    pids: Vec<i32>,
    oom_kills: OomKills,
    specs: Vec<Spec>,
    programs: Vec<Program>,
    sockets: Vec<Sockets>,
    /// The names of the signals that have rules, in the table's order.
    wires: Vec<String>,
    page: PageFd,
    changes: Changes,
    requests: Requests,
    lock: FixedFd,
    /// How daemons are set up, at a fixed number for probes, checkers and `run-as` too; /dev/null if none has to be.
    setups_fd: FixedFd,
    /// The page without its daemons.
    head: Status,
    /// What the page shows of each daemon, as data and as text.
    views: Vec<Option<View>>,
    parts: Parts,
    /// The published page is out of date.
    is_stale: bool,
    /// An event was handled: the page may be out of date.
    changed: bool,
    watch: Watch,
    /// The number that the next stream is watched under.
    next_number: u64,
    /// How many children this round has handled.
    taken_in: usize,
    buffer: Vec<u8>,
}

impl Shell {
    fn new(table: &Table) -> Result<Self, String> {
        close_strangers_descriptors();
        let is_pid_1 = std::process::id() == 1;
        let wired = table.wiring.iter().map(|w| w.signal.number());
        let signals = signals::Signals::take_over(wired, is_pid_1).map_err(step("signals"))?;
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null");
        let null = OwnedFd::from(null.map_err(step("/dev/null"))?);
        // First: the descriptors with a fixed number need room.
        let limits = limits::take_over();
        // Before anything else could get their numbers.
        let page = PageFd::new(null.try_clone().map_err(step("/dev/null"))?);
        let requests = Requests::open().map_err(step("a pipe"))?;
        let changes = Changes::open().map_err(step("a pipe"))?;
        let lock = fixed::lock_file().or_else(|e| {
            tracing::warn!("no lock: {e}; apply, restart and start don't work on this bundle");
            null.try_clone()
        });
        let lock = FixedFd::new(LOCK_FD, lock.map_err(step("/dev/null"))?);
        let setups_fd = FixedFd::new(SETUPS_FD, null.try_clone().map_err(step("/dev/null"))?);
        let watch = Watch::new().map_err(step("epoll"))?;
        if !is_pid_1 {
            nix::sys::prctl::set_child_subreaper(true).map_err(step("orphans"))?;
            tracing::warn!(
                "init isn't PID 1 but pid {}: a process that it can't kill will outlive it, and signals to the container go to PID 1",
                std::process::id()
            );
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
        let mut sinks = vec![Sink::open(stderr.as_fd(), table.output).map_err(step("stderr"))?];
        // Two queues that write to the same file would cut each other's lines.
        let id = |fd| nix::sys::stat::fstat(fd).map(|s| (s.st_dev, s.st_ino));
        if id(stdout.as_fd()).map_err(step("stdout"))? != id(stderr.as_fd()).map_err(step("stderr"))? {
            sinks.push(Sink::open(stdout.as_fd(), table.output).map_err(step("stdout"))?);
        }
        Ok(Self {
            signals,
            notify: None,
            notes: Vec::new(),
            born: Vec::new(),
            null,
            limits,
            kernel: None,
            output: table.output,
            sinks,
            streams: Vec::new(),
            launches: Vec::new(),
            leaders: Vec::new(),
            probes: Vec::new(),
            pids: Vec::new(),
            oom_kills: OomKills::count(),
            specs: Vec::new(),
            programs: Vec::new(),
            sockets: Vec::new(),
            wires: Vec::new(),
            page,
            changes,
            requests,
            lock,
            setups_fd,
            head: status,
            views: Vec::new(),
            parts: Parts::default(),
            is_stale: true,
            changed: true,
            watch,
            next_number: STREAMS,
            taken_in: 0,
            buffer: vec![0; BUFFER],
        })
    }

    fn select(&mut self, table: &Table, selected: &[usize]) {
        let is_selected = |i: &usize| selected.contains(i);
        let names = |keep: bool| -> Vec<String> {
            (0..).zip(&table.daemons).filter(|(i, _)| is_selected(i) == keep).map(|(_, d)| d.name.clone()).collect()
        };
        (self.head.selected, self.head.unselected) = (names(true), names(false));
        self.specs = selected.iter().filter_map(|i| table.daemons.get(*i)).cloned().collect();
        self.pids = vec![0; self.specs.len()];
        match notify::Notify::open() {
            Ok(socket) => self.notify = Some(socket),
            Err(e) => tracing::warn!(
                "no socket for sd_notify: {e}; daemons with `notify` will never be ready, changes are not logged, and \
                 nobody who asks for the status there is answered"
            ),
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
        let socket = self.notify.as_ref().map(|socket| socket.name.as_str());
        let env = Environment::of_daemons(std::env::vars_os(), socket);
        for spec in &self.specs {
            let ignore = spec.ignore.iter().map(|s| s.number()).collect();
            let config = spec.config.as_ref().map(|config| config.path.as_path());
            let program = Program::new(&spec.command, &env, ignore, config);
            let is_set_up = spec.is_set_up();
            self.programs.push(if is_set_up { program.set_up(&spec.name, &spec.command, config) } else { program });
        }
        self.specs.iter_mut().for_each(|spec| spec.command = Vec::new());
        // Growing these by doubling would fragment the heap.
        self.streams.reserve_exact(2 * self.specs.len());
        self.views.resize(self.specs.len(), None);
        self.programs.shrink_to_fit();
    }

    fn supervise(&mut self, mut core: Supervisor) -> i32 {
        self.publish(&core);
        // Each start copies the page tables of what is there.
        give_back_memory();
        // Signals that are already pending come before the first start, later ones after it.
        let mut events = self.gather_signals();
        events.push(Event::Begin);
        let mut is_settled = false;
        loop {
            self.taken_in = 0;
            if let Some(code) = self.serve(&mut core, events) {
                self.finish(if core.state() == InitState::Stopping { DRAIN_ASKED } else { DRAIN_ALONE });
                return code;
            }
            self.signals.are_orphans_many &= !self.changed;
            self.publish(&core);
            self.flush();
            if !std::mem::replace(&mut is_settled, true) {
                give_back_memory();
            }
            events = self.wait(&core);
        }
    }

    /// Passes events to the supervisor. A notification names its sender by pid, so each is passed on by itself, and it is dropped if
    /// another process has that pid by now.
    fn serve(&mut self, core: &mut Supervisor, events: Vec<Event>) -> Option<i32> {
        let mut others = Vec::new();
        for event in events {
            let Event::Notify { pid, .. } = event else {
                others.push(event);
                continue;
            };
            let before = std::mem::take(&mut others);
            let exit = if before.is_empty() { None } else { core.take(self, before) };
            let exit = exit.or_else(|| if self.born.contains(&pid) { None } else { core.take(self, [event]) });
            if exit.is_some() {
                return exit;
            }
        }
        core.take(self, others)
    }

    /// Answers requests for the status, waits for something to happen, and passes on daemons' output. Returns all other events.
    fn wait(&mut self, core: &Supervisor) -> Vec<Event> {
        if let Some(socket) = &mut self.notify {
            let kernel = self.kernel.as_ref();
            socket.answer(|| publish::public(&self.head, &self.specs, &self.views, kernel, millis(now())));
        }
        let has_more =
            self.feed_rests(core) || self.taken_in == ROUND || self.requests.has_more() || !self.notes.is_empty();
        let next = if has_more { Some(Moment::ZERO) } else { core.next() };
        let began = now();
        let mut longest = next.map(|at| at.saturating_sub(began));
        if self.watch_all(core) {
            longest = longest.into_iter().chain([WATCH_AGAIN]).min();
        }
        if self.signals.are_orphans_many && next.is_none() && self.launches.is_empty() {
            self.signals.let_ends_pile_up(TOGETHER);
        }
        let fds = [PollFd::new(self.watch.fd(), PollFlags::POLLIN)];
        let (is_up, signalled) = self.signals.wait(&fds, longest);
        let up = if is_up { self.watch.up() } else { Vec::new() };
        let mut events = Vec::new();
        for number in &up {
            if let Some(index) = self.streams.iter().position(|s| s.number == *number) {
                if self.may_read(index, core) {
                    self.pump(index, core.is_being_ended(self.daemon_of(index)));
                }
            } else if let Some(index) = self.launches.iter().position(|l| l.number == *number) {
                events.extend(self.read_report(index));
            }
        }
        self.let_go_of_ended_streams();
        events.append(&mut self.notes);
        self.born.clear();
        if up.contains(&NOTIFY) {
            events.extend(self.notify.as_mut().map(notify::Notify::take).unwrap_or_default());
        }
        if signalled {
            events.extend(self.gather_signals());
        }
        if up.contains(&REQUESTS) || self.requests.has_more() {
            events.extend(self.requests.take());
        }
        self.signals.are_orphans_many = !is_up && events.is_empty() && now().saturating_sub(began) < 2 * TOGETHER;
        events
    }

    /// Updates what the kernel watches; returns whether it refused any of it.
    fn watch_all(&mut self, core: &Supervisor) -> bool {
        let mut refused = false;
        let watch = &self.watch;
        let mut set = |fd: std::os::fd::BorrowedFd<'_>, number, what, is_watched: &mut bool, wanted: bool| {
            if wanted != *is_watched {
                *is_watched = watch.set(fd, number, what, wanted);
                refused |= wanted && !*is_watched;
            }
        };
        if let Some(socket) = self.notify.as_mut() {
            let (wanted, mut is_watched) = (socket.may_be_read(), socket.is_watched);
            set(socket.fd(), NOTIFY, For::Reading, &mut is_watched, wanted);
            socket.is_watched = is_watched;
        }
        let mut is_watched = self.requests.is_watched;
        set(self.requests.fd(), REQUESTS, For::Reading, &mut is_watched, true);
        self.requests.is_watched = is_watched;
        for (sink, number) in self.sinks.iter_mut().zip(SINKS..) {
            let (wanted, mut is_watched) = (sink.is_waiting(), sink.is_watched);
            set(sink.fd(), number, For::Writing, &mut is_watched, wanted);
            sink.is_watched = is_watched;
        }
        for launch in &mut self.launches {
            set(launch.report.as_fd(), launch.number, For::Reading, &mut launch.is_watched, true);
        }
        let mut has_room: Vec<bool> = self.sinks.iter().map(|sink| !sink.is_full()).collect();
        for stream in self.streams.iter().filter(|stream| stream.has_rest()) {
            if let Some(has_room) = has_room.get_mut(stream.sink) {
                *has_room = false;
            }
        }
        for stream in &mut self.streams {
            let may_read = core.is_being_ended(stream.daemon) || has_room.get(stream.sink) == Some(&true);
            let (wanted, mut is_watched) = (may_read && !stream.has_rest(), stream.is_watched);
            set(stream.fd(), stream.number, For::Reading, &mut is_watched, wanted);
            stream.is_watched = is_watched;
        }
        refused
    }

    /// Continues with output that was read before but had no room. Returns whether there is more of it, and room.
    fn feed_rests(&mut self, core: &Supervisor) -> bool {
        for _ in 0..FEEDS {
            let mut all = (0..self.streams.len()).filter(|i| self.streams.get(*i).is_some_and(Stream::has_rest));
            let Some(index) = all.find(|i| self.may_read(*i, core)) else { return false };
            self.pump(index, core.is_being_ended(self.daemon_of(index)));
            self.let_go_of_ended_streams();
            self.flush();
        }
        true
    }

    fn daemon_of(&self, stream: usize) -> usize {
        self.streams.get(stream).map_or(usize::MAX, |s| s.daemon)
    }

    /// Whether a stream may be read: always if its daemon is being stopped, otherwise if its sink has room.
    fn may_read(&self, index: usize, core: &Supervisor) -> bool {
        core.is_being_ended(self.daemon_of(index)) || self.has_room(index)
    }

    /// Whether a stream's sink has room for it. At most one stream per sink may hold output that had no room.
    fn has_room(&self, index: usize) -> bool {
        let Some(stream) = self.streams.get(index) else { return false };
        let is_first = stream.has_rest() || !self.streams.iter().any(|s| s.sink == stream.sink && s.has_rest());
        is_first && self.sinks.get(stream.sink).is_some_and(|sink| !sink.is_full())
    }

    /// Feeds or reads a stream once and returns how much.
    fn pump(&mut self, index: usize, may_drop: bool) -> usize {
        let Some(stream) = self.streams.get_mut(index) else { return 0 };
        self.sinks.get_mut(stream.sink).map_or(0, |sink| stream.pump(&mut self.buffer, sink, may_drop))
    }

    /// Stops watching streams that have ended. epoll(7) would go on watching a closed descriptor as long as a child has a copy of it.
    fn let_go_of_ended_streams(&mut self) {
        for stream in self.streams.iter().filter(|s| s.ended && s.is_watched) {
            self.watch.set(stream.fd(), stream.number, For::Reading, false);
        }
        self.streams.retain(|s| !s.ended);
    }

    /// Reads a child's report; once it is complete, returns whether the exec worked.
    fn read_report(&mut self, index: usize) -> Option<Event> {
        let launch = self.launches.get_mut(index)?;
        // If it is longer, it isn't a report: another process has opened the pipe through /proc, and may write without end.
        while launch.told.len() < MAX_REPORT {
            let mut bytes = [0; 1024];
            match nix::unistd::read(&launch.report, &mut bytes) {
                Ok(0) => break,
                Ok(n) => launch.told.extend_from_slice(bytes.get(..n).unwrap_or_default()),
                Err(_) => return None,
            }
        }
        let Launch { daemon, pid, report, told, number, is_watched } = self.launches.swap_remove(index);
        if is_watched {
            self.watch.set(&report, number, For::Reading, false);
        }
        let Report { recovered, failed } = self.programs.get(daemon)?.read_report(&told);
        let name = self.specs.get(daemon).map_or("", |spec| spec.name.as_str());
        match recovered {
            Some(Ok(text)) => tracing::warn!(daemon = name, "{text}"),
            Some(Err(text)) => tracing::error!(daemon = name, "{text}"),
            None => {}
        }
        Some(match failed {
            None => Event::Executed { daemon, pid },
            Some(why) => Event::NotExecuted { daemon, pid, code: why.code(), why: why.to_string() },
        })
    }

    fn gather_signals(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for caught in self.signals.take() {
            let Some(signal) = caught.signal() else { continue };
            if caught.is_resize() && !self.head.signals.contains_key(&signal.to_string()) {
                tracing::debug!("the terminal was resized (SIG{signal}, which has no signal rule)");
                continue;
            }
            tracing::info!("received SIG{signal} from {}", caught.sender);
            events.push(if caught.is_stop() { Event::Stop } else { Event::Signal(signal) });
        }
        events
    }

    /// Prints what the old process wrote, even an unfinished line, before the new one starts. If a process outside of the old group
    /// still holds a pipe, the pipe stays open for just one more generation, so that such pipes can't pile up.
    fn let_go_of_old_streams(&mut self, daemon: usize, generation: u64) {
        for index in 0..self.streams.len() {
            let Some(old) = self.streams.get(index).filter(|s| s.daemon == daemon) else { continue };
            let is_too_old = old.generation + 1 < generation;
            // More than a pipe holds by default; a process that writes without end isn't waited for.
            let may_read = |shell: &Self| is_too_old || shell.has_room(index);
            let is_empty = (0..16).any(|_| may_read(self) && self.pump(index, is_too_old) == 0);
            let Some(stream) = self.streams.get_mut(index) else { continue };
            stream.ended |= is_too_old;
            if let (true, Some(sink)) = (is_empty || is_too_old, self.sinks.get_mut(stream.sink)) {
                stream.finish(sink);
            }
        }
        self.let_go_of_ended_streams();
    }

    fn publish(&mut self, core: &Supervisor) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let head = &mut self.head;
        self.is_stale |= std::mem::replace(&mut head.state, core.state()) != core.state();
        for (wire, name) in self.wires.iter().enumerate() {
            if let Some(wired) = head.signals.get_mut(name) {
                self.is_stale |= std::mem::replace(&mut wired.last, core.last(wire)) != core.last(wire);
            }
        }
        for (index, (spec, shown)) in self.specs.iter().zip(&mut self.views).enumerate() {
            let Some(view) = core.view(index).filter(|view| shown.as_ref() != Some(view)) else { continue };
            if let Some(sockets) = self.sockets.get_mut(index) {
                sockets::follow(sockets, spec, &view);
            }
            let daemon = publish::daemon(spec, &view, self.kernel.as_ref());
            let plan = Plan {
                ready: spec.ready.clone(),
                notified: view.notified,
                settle_ms: millis(spec.settle),
                grace_ms: millis(spec.grace),
                is_oneshot: spec.is_oneshot,
                is_set_up: spec.is_set_up(),
                config: spec.config.clone(),
            };
            self.parts.set(index, &daemon, &plan);
            *shown = Some(view);
            self.is_stale = true;
        }
        if self.is_stale {
            let socket = self.notify.as_ref().map(|socket| socket.name.as_str());
            self.is_stale = !self.page.put(head, &self.parts, socket);
            self.changes.tell(&mut self.buffer);
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
        if self.head.pid != 1 {
            self.kill_last_children();
        }
        self.streams.iter_mut().for_each(Stream::want_no_more);
        let mut end = now() + longest;
        let mut until = now() + DRAIN;
        loop {
            for index in 0..self.streams.len() {
                if self.has_room(index) {
                    self.pump(index, false);
                }
            }
            self.let_go_of_ended_streams();
            if self.flush() {
                until = now() + DRAIN;
            }
            let waiting = self.sinks.iter().filter(|s| s.is_waiting());
            let fds: Vec<PollFd<'_>> = waiting.map(|s| PollFd::new(s.fd(), PollFlags::POLLOUT)).collect();
            let left = until.min(end).saturating_sub(now());
            if (fds.is_empty() && self.streams.is_empty()) || left.is_zero() {
                for stream in &mut self.streams {
                    if let Some(sink) = self.sinks.get_mut(stream.sink) {
                        stream.give_up(sink);
                    }
                }
                self.sinks.iter_mut().for_each(Sink::report);
                self.flush();
                return;
            }
            let longest = if fds.is_empty() { Duration::ZERO } else { left };
            let (_, signalled) = self.signals.wait(&fds, Some(longest));
            drop(fds);
            if signalled && self.gather_signals().contains(&Event::Stop) {
                end = end.min(now() + DRAIN_ASKED);
            }
        }
    }

    /// Takes the fixed descriptors' numbers again, which may have been lost while `RLIMIT_NOFILE` was low, before anything else can.
    fn reserve(&mut self) {
        self.page.reserve();
        self.changes.reserve();
        self.requests.reserve();
        self.lock.reserve();
        self.setups_fd.reserve();
    }

    /// Forgets a child that was reaped, since another process may soon have its pid.
    fn forget(&mut self, pid: i32) {
        self.leaders.retain(|leader| *leader != pid);
        self.probes.retain(|probe| probe.pid() != pid);
        self.notes.retain(|event| !matches!(event, Event::Notify { pid: sender, .. } if *sender == pid));
        if let Some(socket) = &mut self.notify {
            socket.reaped(pid);
        }
    }

    /// Kills what is left if init isn't PID 1: only the end of a PID 1 ends all other processes.
    fn kill_last_children(&mut self) {
        let until = now() + LAST_CHILDREN;
        let me = std::process::id();
        while now() < until {
            // No daemon is left, so how these children end doesn't matter.
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
            self.signals.wait(&[], Some(Duration::from_millis(10)));
            let _ = self.signals.take();
        }
        tracing::warn!("some children can't be killed and are left behind");
    }
}

impl System for Shell {
    fn now(&mut self) -> Moment {
        now()
    }

    fn start(&mut self, daemon: usize, generation: u64) -> Event {
        self.let_go_of_old_streams(daemon, generation);
        self.reserve();
        let (Some(program), Some(spec)) = (self.programs.get(daemon), self.specs.get(daemon)) else {
            return Event::StartFailed { daemon, code: 126, why: "no such daemon".to_owned() };
        };
        if let Some(socket) = &mut self.notify {
            let is_daemons = |event: &Event| matches!(event, Event::Notify { pid, .. } if self.leaders.contains(pid));
            self.notes.extend(socket.empty().into_iter().filter(is_daemons));
        }
        let parent = Parent {
            null: self.null.as_fd(),
            limits: &self.limits,
            setups: self.kernel.is_some().then(|| self.setups_fd.usual().as_fd()),
            sockets: self.sockets.get(daemon),
            start: Some((&spec.name, generation)),
        };
        let Started { pid, stdout, stderr, report } = match program.start(parent, Streams::Two) {
            Ok(started) => started,
            Err(e) => return Event::StartFailed { daemon, code: e.code(), why: e.to_string() },
        };
        if let Some(sockets) = self.sockets.get_mut(daemon) {
            sockets.started();
        }
        let out = self.sinks.len() - 1;
        for (fd, sink, stream) in [(Some(stdout), out, "stdout"), (stderr, 0, "stderr")] {
            let (Some(fd), source) = (fd, Source { daemon, name: &spec.name, generation, stream }) else { continue };
            self.streams.push(Stream::new(fd, &source, sink, self.next_number, self.output));
            self.next_number += 1;
        }
        let number = self.next_number;
        self.next_number += 1;
        self.launches.push(Launch { daemon, pid, report, told: Vec::new(), number, is_watched: false });
        self.leaders.push(pid);
        self.born.push(pid);
        if let Some(last) = self.pids.get_mut(daemon) {
            *last = pid;
        }
        Event::Started { daemon, pid }
    }

    fn probe(&mut self, daemon: usize) -> Event {
        self.reserve();
        let (program, spec, pid) = (self.programs.get(daemon), self.specs.get(daemon), self.pids.get(daemon));
        let (Some(program), Some(spec), Some(pid)) = (program, spec, pid) else {
            return Event::ProbeFailed { daemon, why: "no such daemon".to_owned() };
        };
        let parent = Parent { null: self.null.as_fd(), limits: &self.limits, setups: None, sockets: None, start: None };
        match Probe::start(&spec.name, *pid, program.environment(), parent) {
            Ok(probe) => {
                let pid = probe.pid();
                self.leaders.push(pid);
                self.probes.push(probe);
                Event::ProbeStarted { daemon, pid }
            }
            Err(e) => Event::ProbeFailed { daemon, why: e.to_string() },
        }
    }

    fn kill(&mut self, pid: i32, signal: i32) -> Sent {
        match signals::kill(pid, signal) {
            Ok(()) => Sent::Yes,
            Err(Errno::ESRCH) => Sent::Gone,
            Err(e) => {
                if signal != 0 {
                    tracing::warn!("cannot send signal {signal} to pid {pid}: {}", io::Error::from(e));
                }
                Sent::Refused
            }
        }
    }

    fn exec_outcome(&mut self, _: usize, pid: i32) -> Option<Event> {
        let index = self.launches.iter().position(|launch| launch.pid == pid)?;
        self.read_report(index)
    }

    fn kill_member(&mut self, sid: i32, pid: i32, signal: i32) -> Sent {
        match children::kill_member(sid, pid, signal) {
            Ok(()) => Sent::Yes,
            Err(Errno::ESRCH) => Sent::Gone,
            Err(_) => Sent::Refused,
        }
    }

    fn members(&mut self, sid: i32) -> Vec<i32> {
        children::members(sid, &self.leaders)
    }

    fn ended(&mut self, is_own: impl Fn(i32) -> bool) -> Option<Ended> {
        while self.signals.a_child_ended && self.taken_in < ROUND {
            let look = |pid: i32| if is_own(pid) { children::peek(Some(pid)) } else { children::reap(pid) };
            // waitid(2) for any child walks over all live ones, so the child that SIGCHLD named is tried first.
            let named = self.signals.told_of.take().and_then(|pid| look(pid).ok().flatten());
            let ended = match named {
                Some(child) => Ok(Some(child)),
                // It might be a daemon's own process, so don't reap it here.
                None => children::peek(None).map(|child| match child {
                    Some(Child::Ended(pid, _)) if !is_own(pid) => look(pid).ok().flatten().or(child),
                    child => child,
                }),
            };
            self.taken_in += 1;
            match ended {
                Ok(Some(Child::Ended(pid, end))) => {
                    let is_kill = end == End::Signal(libc::SIGKILL);
                    let oom_kills = if is_kill { self.oom_kills.since() } else { 0 };
                    let words = self.probes.iter().find(|probe| probe.pid() == pid).map(Probe::words);
                    if !is_own(pid) {
                        self.forget(pid);
                    }
                    return Some(Ended { pid, end, oom_kills, words: words.unwrap_or_default() });
                }
                Ok(Some(Child::Traced(pid, signal))) => {
                    tracing::debug!("pid {pid} traced itself; detached it and passed on signal {signal}");
                    children::detach(pid, signal);
                }
                // No further SIGCHLD comes for children that this round hasn't looked at.
                Ok(None) | Err(_) => self.signals.a_child_ended = false,
            }
        }
        None
    }

    fn reap(&mut self, pid: i32) {
        let _ = children::reap(pid);
        self.forget(pid);
    }

    fn disposition(&mut self, pid: i32, signal: Signal) -> Disposition {
        children::disposition(pid, signal)
    }

    fn tell(&mut self, line: Line) {
        let daemon = line.daemon.and_then(|daemon| self.specs.get(daemon)).map(|spec| spec.name.as_str());
        log::tell(&line, daemon);
    }

    fn changed(&mut self, _: &Supervisor) {
        self.changed = true;
    }
}

/// Returns memory that was needed to read the table and start daemons to the kernel: a bundle runs for days.
#[inline(never)]
fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) releases only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
    let here = 0u8;
    // SAFETY: sysconf(3) takes a number.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(65536);
    let end = (&raw const here).addr().saturating_sub(2 * page) & !(page - 1);
    let begin = std::ptr::without_provenance_mut(end.saturating_sub(STACK));
    // SAFETY: nobody uses what lies more than a page below this frame, and the kernel keeps 1 MiB below a stack free.
    unsafe { libc::madvise(begin, STACK, libc::MADV_DONTNEED) };
}

/// Closes the descriptors beyond stdio that init was started with: they must not reach a daemon.
fn close_strangers_descriptors() {
    // SAFETY: close_range(2) takes numbers only, and init has opened nothing yet.
    if unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) } == 0 {
        return;
    }
    // Before Linux 5.9, or if a filter of system calls doesn't know it.
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<i32> = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        // SAFETY: as above.
        unsafe { libc::close(fd) };
    }
}
