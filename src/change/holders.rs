//! Which processes hold the listening sockets: an answer on a daemon's port proves nothing if another process gave it.
//!
//! A daemon's own processes are those of its session and their descendants. A socket whose holder can't be seen counts as nobody's.
//!
//! A process that has outlived its daemon in a session of its own (`su -c`, `setsid`) serves the old content. It is recognized in
//! two ways:
//! - The processes that ran and listened before a restart are remembered for as long as the change lasts.
//! - [`Mark`]: init writes a daemon's name and generation into the environment of its process, and fork and exec pass them on. That
//!   tells a leftover of a start long ago from the processes of other daemons, and from those of the current start. A process whose
//!   environment was cleared (`env -i`, `su -`) may still have the stdout or stderr of its start, which init no longer reads.
//!
//! A mark can incriminate a leftover or clear it. It never makes a process a daemon's own, since any process can execute itself with
//! a forged mark. If an old process does that to look like the current one, or like another daemon's, it is believed unless it holds
//! an address that is probed. That is a daemon attacking its own change; a sandbox with `sessions = false` leaves none of its
//! processes alive.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;

use nix::unistd::{Gid, Uid, geteuid, setfsgid, setfsuid};

use super::reason::Shortfall;
use crate::status::{Daemon, OUTPUT_MODE, Page, Plan};
use crate::table::Ready;
use crate::table::process::{DAEMON, GENERATION};
use crate::text::Printable;

/// The most that is read of one of the kernel's tables, in bytes.
const MAX_TABLE: u64 = 4 << 20;
/// The most that the kernel takes as arguments and environment of one process: execve(2).
const MAX_ENVIRONMENT: u64 = 6 << 20;
/// How many descriptors of one process are looked at.
const MAX_FDS: usize = 1 << 16;
/// How far up ancestors are looked for.
const MAX_DEPTH: usize = 64;

/// A socket to which anybody can send: one that listens, or a datagram socket that has an address (and, with UDP, isn't connected).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listener {
    at: At,
    /// `None` for a unix socket, since the kernel doesn't show it.
    user: Option<u32>,
    inode: u64,
}

/// The address of such a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
enum At {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    Unix(String),
}

impl Listener {
    fn tcp(&self) -> Option<SocketAddr> {
        if let At::Tcp(addr) = self.at { Some(addr) } else { None }
    }

    /// Whether it has an address of this daemon's `listen`. If init holds it too, it is the socket that init holds for this daemon.
    fn is_for(&self, daemon: &Daemon) -> bool {
        let is_same =
            |addr: SocketAddr| daemon.listen.iter().any(|own| (own.ip(), own.port()) == (addr.ip(), addr.port()));
        self.tcp().is_some_and(is_same)
    }

    fn name(&self) -> Printable {
        Printable::new(&match &self.at {
            At::Tcp(addr) => format!("port {}", addr.port()),
            At::Udp(addr) => format!("UDP port {}", addr.port()),
            At::Unix(path) => format!("the socket {path}"),
        })
    }
}

/// A process, as /proc shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Process {
    parent: i32,
    session: i32,
    /// In clock ticks since boot. Pid and start time together identify one process.
    started: u64,
    user: u32,
    group: u32,
    /// The thread to look at: the main one or, if that has ended, another one. (For an ended main thread, /proc shows neither descriptors
    /// nor an environment.)
    thread: i32,
    /// Whether its descriptors could be read. Those of another user's process can't.
    is_seen: bool,
    name: String,
}

/// What shows to which start of a daemon a process belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Mark {
    /// Its environment names a daemon and a generation, or that of the process that started it does.
    Start { daemon: String, generation: u64 },
    /// Its stdout or stderr is a pipe that init has closed, which init does at the second start after the pipe's own.
    Past,
}

/// Everything that was seen in one look at /proc.
#[derive(Debug, Default)]
struct Seen {
    listeners: Vec<Listener>,
    processes: BTreeMap<i32, Process>,
    /// The pids of the processes that hold a listener's socket, by the socket's inode.
    holders: BTreeMap<u64, BTreeSet<i32>>,
    /// The marks of leftovers that hold such a socket, and of their ancestors.
    marks: BTreeMap<i32, Mark>,
    /// Whether a change must be proven. If so, a process without a mark counts as an old one.
    is_for_a_change: bool,
}

/// What was seen before each restart of one change.
#[derive(Debug, Default)]
pub struct Past {
    looks: Vec<(Page, Seen)>,
    /// The index of the look right before the restart with the new content.
    before_new: Option<usize>,
}

impl Past {
    /// Takes a look before a daemon is restarted, with the new content or the old.
    pub fn remember(&mut self, page: &Page, is_new: bool) {
        if is_new {
            self.before_new = Some(self.looks.len());
        }
        self.looks.push((page.clone(), look(listeners())));
    }

    /// What was seen before the change, if this is on the way back.
    fn before(&self) -> Option<&(Page, Seen)> {
        self.looks.split_last().and_then(|(_, earlier)| earlier.get(self.before_new?))
    }

    /// The process or socket because of which it isn't certain that this daemon serves.
    #[must_use]
    pub fn stranger(&self, page: &Page, daemon: &str) -> Option<Shortfall> {
        let listeners = listeners();
        if listeners.is_empty() {
            return None;
        }
        let now = look(listeners).with_marks(page, !self.looks.is_empty());
        let left_over = || self.looks.iter().find_map(|(was, then)| now.left_over(page, daemon, was, then));
        now.judge(page, daemon, self.before()).or_else(left_over)
    }

    /// A process that has begun to listen since the first look and belongs to no daemon. (A server that went into the background also
    /// outlives going back.)
    #[must_use]
    pub fn newcomer(&self, page: &Page, daemon: &str) -> Option<Shortfall> {
        let (_, first) = self.looks.first()?;
        let (daemon, _) = super::proof::find(page, daemon)?;
        let now = look(listeners()).with_marks(page, true);
        let is_new = |listener: &&Listener| first.listeners.iter().all(|was| was.inode != listener.inode);
        now.suspect(page, daemon, false, is_new)
    }
}

impl Seen {
    /// `before` is what was seen before the change, if this is on the way back. A leftover that held its socket then doesn't count.
    fn judge(&self, page: &Page, daemon: &str, before: Option<&(Page, Self)>) -> Option<Shortfall> {
        let (now, plan) = super::proof::find(page, daemon)?;
        let session = now.pid?;
        let held = |listener: &Listener, pid: i32| self.held(page, listener, pid);
        let is_own = |listener: &Listener, pid: i32| {
            if pid == page.status.pid { listener.is_for(now) } else { self.owner(pid, &[Some(session)]).is_some() }
        };
        let others = |l: &Listener| self.holders_of(l).find(|pid| !is_own(l, *pid)).map(|pid| held(l, pid));
        let probed = probed(plan);
        let on_probed = |listener: &&Listener| probed.is_some_and(|addr| overlap(listener, addr));
        // It shares one of its ports with another process (SO_REUSEPORT), so the kernel picks which of them gets a connection.
        let own: Vec<&Listener> = self.tcp().filter(|l| self.holders_of(l).any(|pid| is_own(l, pid))).collect();
        let on_own = |listener: &&Listener| own.iter().filter_map(|own| own.tcp()).any(|own| overlap(listener, own));
        let answers = self.tcp().filter(|l| on_probed(l) || on_own(l)).find_map(others);
        let is_as_it_was = |listener: &Listener| before.is_some_and(|(was, then)| then.is_held_by_left(was, listener));
        answers.or_else(|| self.suspect(page, now, probed.is_some(), |listener| !is_as_it_was(listener)))
    }

    /// A process that belongs to no daemon and may be left over from an earlier generation of this one.
    fn suspect(
        &self,
        page: &Page,
        daemon: &Daemon,
        is_probed: bool,
        among: impl Fn(&&Listener) -> bool,
    ) -> Option<Shortfall> {
        // The first generation has no leftovers. If no change must be proven, missing one does little harm.
        let in_doubt = self.is_for_a_change && daemon.generation > 1;
        let is_suspect = |listener: &Listener, pid: i32| {
            // If the probed address is known, it is also known which process answers there.
            let is_unknown_server = !is_probed && listener.tcp().is_some();
            match self.mark(page, pid) {
                Some(Mark::Start { daemon: of, generation }) if *of == daemon.name => {
                    // With a tcp or http probe it is known which process answered, so an agent left over from an earlier start doesn't matter.
                    let counts = self.is_for_a_change || !is_probed;
                    counts && *generation != daemon.generation || is_unknown_server
                }
                Some(Mark::Start { .. }) => is_unknown_server,
                Some(Mark::Past) => in_doubt || is_unknown_server,
                // Its environment was cleared or overwritten.
                None => !is_probed && in_doubt || is_unknown_server,
            }
        };
        let holder = |listener: &Listener| {
            self.holders_of(listener).find(|pid| self.is_left(page, *pid) && is_suspect(listener, *pid))
        };
        self.listeners.iter().filter(among).find_map(|l| holder(l).map(|pid| self.held(page, l, pid)))
    }

    /// Whether a process that was the daemon's own before its restart (at `then`) still listens, or a process that can't be seen has been
    /// listening on the daemon's address since before the restart.
    fn left_over(&self, page: &Page, daemon: &str, was: &Page, then: &Self) -> Option<Shortfall> {
        let (now, plan) = super::proof::find(page, daemon)?;
        let now = now.pid;
        let before = super::proof::find(was, daemon)?.0.pid.filter(|pid| Some(*pid) != now)?;
        let is_old = |pid: &i32, process: &Process| {
            then.owner(*pid, &[Some(before)]).is_some()
                && then.processes.get(pid).is_some_and(|old| old.started == process.started)
                && self.owner(*pid, &[now]).is_none()
        };
        let old = self.processes.iter().filter(|(pid, process)| is_old(pid, process));
        // If a process can't be seen, any socket of its user that listened before may be its own.
        let listens = |listener: &&Listener, pid: i32, process: &Process| {
            let is_old_one = || listener.user == Some(process.user) && then.listeners.contains(listener);
            let is_held = self.holders_of(listener).any(|holder| holder == pid);
            is_held || !process.is_seen && !self.holders.contains_key(&listener.inode) && is_old_one()
        };
        let listener = |(pid, process): (&i32, &Process)| {
            self.listeners.iter().find(|l| listens(l, *pid, process)).map(|l| self.held(page, l, *pid))
        };
        let unseen = |listener: &&Listener| {
            probed(plan).is_some_and(|addr| overlap(listener, addr))
                && !self.holders.contains_key(&listener.inode)
                && then.listeners.contains(listener)
        };
        let is_unseen =
            || self.listeners.iter().find(unseen).map(|l| Shortfall::SocketHeld { socket: l.name(), by: None });
        old.map(listener).find_map(|held| held).or_else(is_unseen)
    }

    fn held(&self, page: &Page, listener: &Listener, pid: i32) -> Shortfall {
        let name = self.processes.get(&pid).map_or("?", |process| process.name.as_str());
        let is_its = |other: &&Daemon| {
            if pid == page.status.pid { listener.is_for(other) } else { self.owner(pid, &[other.pid]).is_some() }
        };
        let owner = page.status.daemons.iter().find(is_its);
        let name = Printable::new(owner.map_or(name, |owner| &owner.name));
        Shortfall::SocketHeld { socket: listener.name(), by: Some((pid, name)) }
    }

    fn tcp(&self) -> impl Iterator<Item = &Listener> {
        self.listeners.iter().filter(|listener| listener.tcp().is_some())
    }

    /// Whether it descends from init, but from no running daemon.
    fn is_left(&self, page: &Page, pid: i32) -> bool {
        let sessions: Vec<Option<i32>> = page.status.daemons.iter().map(|daemon| daemon.pid).collect();
        ![1, page.status.pid].contains(&pid) && self.is_inits(pid) && self.owner(pid, &sessions).is_none()
    }

    /// Whether only leftovers hold this socket.
    fn is_held_by_left(&self, page: &Page, listener: &Listener) -> bool {
        let mut holders = self.holders_of(listener).peekable();
        self.listeners.contains(listener) && holders.peek().is_some() && holders.all(|pid| self.is_left(page, pid))
    }

    fn holders_of(&self, listener: &Listener) -> impl Iterator<Item = i32> {
        self.holders.get(&listener.inode).into_iter().flatten().copied()
    }

    /// The one of these sessions that it, or an ancestor of it, is in.
    fn owner(&self, pid: i32, sessions: &[Option<i32>]) -> Option<i32> {
        self.line(pid).map(|(_, process)| process.session).find(|session| sessions.contains(&Some(*session)))
    }

    /// Whether it descends from init. A process that `docker exec` started doesn't.
    fn is_inits(&self, pid: i32) -> bool {
        self.line(pid).any(|(_, process)| process.parent == 1)
    }

    /// The process and its ancestors, without init.
    fn line(&self, pid: i32) -> impl Iterator<Item = (i32, &Process)> {
        let get = |pid: i32| self.processes.get(&pid).map(|process| (pid, process));
        let next = move |(_, process): &(i32, &Process)| get(process.parent).filter(|(pid, _)| *pid > 1);
        std::iter::successors(get(pid), next).take(MAX_DEPTH)
    }

    /// Its mark, or else that of the process that started it. A mark that names a daemon that isn't in the table is ignored.
    fn mark(&self, page: &Page, pid: i32) -> Option<&Mark> {
        let has = |name: &str| page.status.selected.iter().chain(&page.status.unselected).any(|daemon| daemon == name);
        let says = |mark: &&Mark| if let Mark::Start { daemon, .. } = mark { has(daemon) } else { true };
        self.line(pid).filter_map(|(pid, _)| self.marks.get(&pid)).find(says)
    }

    /// Reads the marks that show which daemon's leftover a process is.
    fn with_marks(mut self, page: &Page, is_for_a_change: bool) -> Self {
        self.is_for_a_change = is_for_a_change;
        let holders: BTreeSet<i32> = self.holders.values().flatten().copied().collect();
        let left = holders.into_iter().filter(|pid| self.is_left(page, *pid));
        let lines: BTreeSet<i32> = left.flat_map(|pid| self.line(pid).map(|(pid, _)| pid)).collect();
        if lines.is_empty() {
            return self;
        }
        let read = pipes(page.status.pid);
        let mark = |pid| {
            let environment = environment(pid)?;
            let is_past = || outputs(pid).any(|pipe| read.as_ref().is_some_and(|read| !read.contains(&pipe)));
            Some(mark_in(&environment).or_else(|| is_past().then_some(Mark::Past)))
        };
        let marks = ask(&self.processes, lines, mark);
        self.marks = marks.into_iter().filter_map(|(pid, mark)| Some((pid, mark?))).collect();
        self
    }
}

/// The address that is probed, if it is known.
fn probed(plan: &Plan) -> Option<SocketAddr> {
    match &plan.ready {
        Some(Ready::Tcp(addr) | Ready::Http { addr, .. }) => Some(*addr),
        Some(Ready::Notify | Ready::Exec(_)) | None => None,
    }
}

/// Whether a connection to that address may reach it.
fn overlap(listener: &Listener, other: SocketAddr) -> bool {
    let Some(one) = listener.tcp() else { return false };
    let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
    one.port() == other.port() && (a == b || a.is_unspecified() || b.is_unspecified())
}

fn listeners() -> Vec<Listener> {
    // The states are TCP_LISTEN, and TCP_CLOSE, which a datagram socket has if it isn't connected.
    let read = |name: &str| read(&Path::new("/proc/self/net").join(name));
    let tcp = ["tcp", "tcp6"].iter().flat_map(|name| parse(&read(name), "0A", At::Tcp));
    let udp = ["udp", "udp6"].iter().flat_map(|name| parse(&read(name), "07", At::Udp));
    tcp.chain(udp).chain(parse_unix(&read("unix"))).collect()
}

/// `proc(5)`: `Num: RefCount Protocol Flags Type St Inode Path`; a listening socket has the flag `SO_ACCEPTCON`.
fn parse_unix(table: &str) -> Vec<Listener> {
    let parse = |line: &str| {
        let mut words = line.split_whitespace();
        let (flags, kind, inode) = (words.nth(3)?, words.next()?, words.nth(1)?);
        // The path may hold spaces.
        let path = words.collect::<Vec<_>>().join(" ");
        let is_listening = u32::from_str_radix(flags, 16).ok()? & 0x1_0000 != 0;
        // A datagram socket's state doesn't matter: it is "connected" as soon as a client connects to it.
        let is_for_datagrams = kind == "0002" && !path.is_empty() && !is_chosen_by_the_kernel(&path);
        let listener = Listener { at: At::Unix(path), user: None, inode: inode.parse().ok()? };
        (is_listening || is_for_datagrams).then_some(listener)
    };
    table.lines().filter_map(parse).collect()
}

/// `unix(7)`, "Autobind feature": a client has such a name so that it can be answered.
fn is_chosen_by_the_kernel(path: &str) -> bool {
    path.strip_prefix('@').is_some_and(|name| name.len() == 5 && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// `proc_net_tcp(5)`: `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode`.
fn parse(table: &str, state_wanted: &str, at: impl Fn(SocketAddr) -> At) -> Vec<Listener> {
    let parse = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let (addr, state, user, inode) = (words.next()?, words.nth(1)?, words.nth(3)?, words.nth(1)?);
        let (ip, port) = addr.split_once(':')?;
        let addr = SocketAddr::new(address(ip)?, u16::from_str_radix(port, 16).ok()?);
        (state == state_wanted).then_some(Listener {
            at: at(addr),
            user: user.parse().ok(),
            inode: inode.parse().ok()?,
        })
    };
    table.lines().filter_map(parse).collect()
}

/// Reads words of four bytes, each printed as a number in this machine's byte order.
fn address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let bytes: Vec<u8> = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)))
        }
        _ => None,
    }
}

fn look(listeners: Vec<Listener>) -> Seen {
    let inodes: BTreeSet<u64> = listeners.iter().map(|listener| listener.inode).collect();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    // A process that ends during the look is skipped.
    let mut processes: BTreeMap<i32, Process> = pids.filter_map(|pid| Some((pid, process_of(pid)?))).collect();
    let all: Vec<i32> = processes.keys().copied().collect();
    let mut holders: BTreeMap<u64, BTreeSet<i32>> = BTreeMap::new();
    for (pid, sockets) in ask(&processes, all, |pid| sockets(pid, &inodes)) {
        if let Some(process) = processes.get_mut(&pid) {
            process.is_seen = true;
        }
        for inode in sockets {
            holders.entry(inode).or_default().insert(pid);
        }
    }
    Seen { listeners, processes, holders, ..Seen::default() }
}

/// Which of the sockets in `asked`, given by inode, a process holds. `None` if this user may not see that.
fn sockets(pid: i32, asked: &BTreeSet<u64>) -> Option<Vec<u64>> {
    let mut held = Vec::new();
    for fd in fs::read_dir(of(pid, "fd")).ok()?.flatten().take(MAX_FDS) {
        let target = match fs::read_link(fd.path()) {
            Ok(target) => target,
            Err(e) if e.kind() == ErrorKind::PermissionDenied => return None,
            Err(_) => continue,
        };
        let inode = target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        held.extend(inode.filter(|inode| asked.contains(inode)));
    }
    Some(held)
}

/// A process's environment as it was at its exec, unless the process has overwritten it since. `None` if this user may not see it.
fn environment(pid: i32) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(of(pid, "environ")).ok()?.take(MAX_ENVIRONMENT).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The inodes of the pipes that a process holds. `None` if this user may not see that.
fn pipes(pid: i32) -> Option<BTreeSet<u64>> {
    let links = fs::read_dir(of(pid, "fd")).ok()?.flatten().take(MAX_FDS);
    let pipe = |link: PathBuf| link.to_str()?.strip_prefix("pipe:[")?.strip_suffix(']')?.parse().ok();
    Some(links.filter_map(|fd| pipe(fs::read_link(fd.path()).ok()?)).collect())
}

/// The inodes of init's pipes that are its stdout or stderr.
fn outputs(pid: i32) -> impl Iterator<Item = u64> {
    let all = ["fd/1", "fd/2"].into_iter().filter_map(move |fd| fs::metadata(of(pid, fd)).ok());
    all.filter(|file| file.file_type().is_fifo() && file.mode() & 0o7777 == OUTPUT_MODE).map(|file| file.ino())
}

/// If a variable occurs twice, the first one counts, as for most programs.
fn mark_in(environment: &[u8]) -> Option<Mark> {
    let value = |name: &str| {
        let value = |pair| <[u8]>::strip_prefix(pair, name.as_bytes())?.strip_prefix(b"=");
        environment.split(|byte| *byte == 0).find_map(value).and_then(|value| str::from_utf8(value).ok())
    };
    Some(Mark::Start { daemon: value(DAEMON)?.to_owned(), generation: value(GENERATION)?.parse().ok()? })
}

/// What can be seen of these processes, by the thread to look at. In a container even root lacks `CAP_SYS_PTRACE`, so it can't read
/// another user's sockets and environment. But the key `user` needs the right to become that user, so root looks again as that user
/// at what was refused.
fn ask<T: Send>(
    processes: &BTreeMap<i32, Process>,
    pids: impl IntoIterator<Item = i32>,
    look: impl Fn(i32) -> Option<T> + Sync,
) -> Vec<(i32, T)> {
    let (mut answers, mut refused) = (Vec::new(), Vec::new());
    for (pid, process) in pids.into_iter().filter_map(|pid| Some((pid, processes.get(&pid)?))) {
        match look(process.thread) {
            Some(answer) => answers.push((pid, answer)),
            None => refused.push((pid, process)),
        }
    }
    if refused.is_empty() || !geteuid().is_root() {
        return answers;
    }
    let look_as_its_user = |(pid, process): (i32, &Process)| {
        setfsgid(Gid::from_raw(process.group));
        setfsuid(Uid::from_raw(process.user));
        Some((pid, look(process.thread)?))
    };
    // Uid and gid are set for this thread only, so nothing has to be undone. If no thread can be made, everything stays refused.
    let look_again = || refused.into_iter().filter_map(look_as_its_user).collect::<Vec<_>>();
    let again = thread::scope(|scope| thread::Builder::new().spawn_scoped(scope, look_again).ok()?.join().ok());
    answers.extend(again.into_iter().flatten());
    answers
}

fn of(pid: i32, file: &str) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join(file)
}

fn process_of(pid: i32) -> Option<Process> {
    // If a process has made itself undumpable, the files in its directory belong to root, but the directory itself doesn't.
    let directory = fs::metadata(of(pid, "")).ok()?;
    let stat = read(&of(pid, "stat"));
    let thread = if has_ended(&stat) { other_thread(pid) } else { None };
    Some(Process { thread: thread.unwrap_or(pid), ..process(&stat, directory.uid(), directory.gid())? })
}

fn has_ended(stat: &str) -> bool {
    stat.rsplit_once(") ").is_none_or(|(_, tail)| tail.starts_with(['Z', 'X']))
}

/// A live thread of a process whose main thread has ended. A zombie has none.
fn other_thread(pid: i32) -> Option<i32> {
    let threads = fs::read_dir(of(pid, "task")).ok()?.flatten();
    threads.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(|id| !has_ended(&read(&of(*id, "stat"))))
}

/// `proc_pid_stat(5)`: `pid (name) state ppid pgrp session ...`; the name may hold anything.
fn process(stat: &str, user: u32, group: u32) -> Option<Process> {
    let (head, tail) = stat.rsplit_once(") ")?;
    let (pid, name) = head.split_once(" (")?;
    let mut words = tail.split_whitespace().skip(1);
    let (parent, session) = (words.next()?.parse().ok()?, words.nth(1)?.parse().ok()?);
    let started = words.nth(15)?.parse().ok()?;
    let thread = pid.parse().ok()?;
    Some(Process { parent, session, started, user, group, thread, is_seen: false, name: name.to_owned() })
}

fn read(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(path) {
        let _ = file.take(MAX_TABLE).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt;

    use super::*;
    use crate::sample;

    /// pipelock is pid 17 and ready by 127.0.0.1:8888, egress is pid 12.
    fn seen(listeners: &[(&str, u64)], processes: &[(i32, i32, i32)], holders: &[(u64, i32)]) -> Seen {
        let mut seen = Seen { is_for_a_change: true, ..Seen::default() };
        for (addr, inode) in listeners {
            let at = match addr.strip_prefix("udp ") {
                Some(addr) => At::Udp(addr.parse().unwrap()),
                None => addr.parse().map_or_else(|_| At::Unix((*addr).to_owned()), At::Tcp),
            };
            let user = (!matches!(at, At::Unix(_))).then_some(9);
            seen.listeners.push(Listener { at, user, inode: *inode });
        }
        for (pid, parent, session) in processes {
            let process = Process {
                parent: *parent,
                session: *session,
                started: 7,
                user: 9,
                group: 9,
                thread: *pid,
                is_seen: true,
                name: "server".to_owned(),
            };
            seen.processes.insert(*pid, process);
        }
        for (inode, pid) in holders {
            seen.holders.entry(*inode).or_default().insert(*pid);
        }
        seen
    }

    fn held(port: u16, by: i32, name: &str) -> Shortfall {
        Shortfall::SocketHeld { socket: Printable::new(&format!("port {port}")), by: Some((by, Printable::new(name))) }
    }

    const OURS: [(i32, i32, i32); 2] = [(12, 1, 12), (17, 1, 17)];

    #[test]
    fn a_port_that_another_daemon_holds_is_reported_with_pid_and_name() {
        let page = sample::page();
        for addr in ["127.0.0.1:8888", "0.0.0.0:8888", "[::]:8888", "[::ffff:127.0.0.1]:8888"] {
            let on = |pid| seen(&[(addr, 5)], &[&OURS[..], &[(31, 1, 30), (18, 17, 18)]].concat(), &[(5, pid)]);
            assert_eq!(on(17).judge(&page, "pipelock", None), None);
            assert_eq!(on(18).judge(&page, "pipelock", None), None, "what it started itself is its own");
            assert_eq!(on(12).judge(&page, "pipelock", None), Some(held(8888, 12, "egress")), "{addr}");
            assert_eq!(on(31).judge(&page, "pipelock", None), Some(held(8888, 31, "server")), "{addr}");
        }
        let elsewhere = seen(&[("127.0.0.2:8888", 5), ("127.0.0.1:8889", 6)], &OURS, &[(5, 12), (6, 12)]);
        assert_eq!(elsewhere.judge(&page, "pipelock", None), None);
        assert_eq!(seen(&[("127.0.0.1:8888", 5)], &OURS, &[]).judge(&page, "pipelock", None), None, "nobody is seen");
    }

    #[test]
    fn a_socket_that_init_holds_belongs_to_the_daemon_that_lists_it() {
        let mut page = sample::page();
        page.status.daemons[1].listen = vec!["0.0.0.0:8888".parse().unwrap()];
        let processes = [&OURS[..], &[(1, 0, 0)]].concat();
        let ours = seen(&[("0.0.0.0:8888", 5)], &processes, &[(5, 1), (5, 17)]);
        assert_eq!((ours.judge(&page, "pipelock", None), ours.judge(&page, "egress", None)), (None, None));
        // Both would be ready by what answers there.
        page.plans[0].ready = page.plans[1].ready.clone();
        let between_two_processes = seen(&[("0.0.0.0:8888", 5)], &processes, &[(5, 1)]);
        assert_eq!(between_two_processes.judge(&page, "egress", None), Some(held(8888, 1, "pipelock")));
        assert_eq!(between_two_processes.judge(&page, "pipelock", None), None);
    }

    #[test]
    fn a_port_that_two_processes_share_proves_nothing() {
        let mut page = sample::page();
        let shared =
            seen(&[("0.0.0.0:9", 5), ("0.0.0.0:9", 6)], &[&OURS[..], &[(31, 1, 30)]].concat(), &[(5, 17), (6, 31)]);
        for ready in [None, Some(Ready::Notify), Some(Ready::Exec(Vec::new())), page.plans[1].ready.clone()] {
            page.plans[1].ready = ready;
            assert_eq!(shared.judge(&page, "pipelock", None), Some(held(9, 31, "server")));
        }
    }

    #[test]
    fn an_orphan_that_listens_leaves_a_daemon_without_an_address_unproven() {
        let mut page = sample::page();
        page.plans[1].ready = None;
        // Of no daemon's session; of a daemon's child; executed from outside.
        let on = |parent, ancestor| {
            let processes = [&OURS[..], &[(31, parent, 30), (30, ancestor, 30)]].concat();
            seen(&[("0.0.0.0:80", 5)], &processes, &[(5, 31)]).judge(&page, "pipelock", None)
        };
        assert_eq!(on(1, 0), Some(held(80, 31, "server")));
        assert_eq!(on(30, 1), Some(held(80, 31, "server")));
        assert_eq!((on(12, 0), on(30, 12), on(30, 0), on(0, 0)), (None, None, None, None));
    }

    /// What a daemon with that `ready` is told of 31, which belongs to no daemon that runs. pipelock is in generation 3, egress in 2.
    fn told_of_a_stray(listener: &str, mark: Option<(&str, u64)>, ready: Option<&Ready>) -> Option<Shortfall> {
        let mut page = sample::page();
        page.status.unselected = vec!["git-gate".to_owned()];
        page.plans[1].ready = ready.cloned();
        (page.status.daemons[0].generation, page.status.daemons[1].generation) = (2, 3);
        let mut seen = seen(&[(listener, 5)], &[&OURS[..], &[(30, 1, 30), (31, 30, 31)]].concat(), &[(5, 31)]);
        // Its parent started it with a cleared environment, or not.
        let of = if listener.starts_with('/') { 30 } else { 31 };
        let mark = mark.map(|(daemon, generation)| (of, Mark::Start { daemon: daemon.to_owned(), generation }));
        seen.marks = mark.into_iter().collect();
        seen.judge(&page, "pipelock", None)
    }

    const KINDS: [&str; 3] = ["0.0.0.0:81", "udp 0.0.0.0:53", "/run/old"];

    fn ways_to_be_ready() -> [Option<Ready>; 4] {
        let probed = sample::page().plans[1].ready.clone();
        [None, Some(Ready::Notify), Some(Ready::Exec(Vec::new())), probed]
    }

    #[test]
    fn what_is_left_of_an_earlier_generation_may_not_listen_anywhere() {
        for ready in ways_to_be_ready() {
            for listener in KINDS {
                for generation in [1, 2, 4] {
                    let told = told_of_a_stray(listener, Some(("pipelock", generation)), ready.as_ref());
                    let Some(Shortfall::SocketHeld { socket, by: Some((31, _)) }) = told else {
                        panic!("{listener} {ready:?}: {told:?}")
                    };
                    assert!(["port 81", "UDP port 53", "the socket /run/old"].contains(&socket.as_str()), "{socket}");
                }
            }
        }
    }

    #[test]
    fn agents_of_a_sibling_or_of_this_generation_may_hold_sockets() {
        for ready in ways_to_be_ready() {
            let is_probed = matches!(ready, Some(Ready::Tcp(_)));
            for mark in [("pipelock", 3), ("egress", 2), ("egress", 1), ("git-gate", 1)] {
                let is_told = KINDS.map(|listener| told_of_a_stray(listener, Some(mark), ready.as_ref()).is_some());
                assert_eq!(is_told, [!is_probed, false, false], "{mark:?} {ready:?}");
            }
        }
    }

    #[test]
    fn an_unmarked_leftover_counts_if_no_address_is_probed() {
        for ready in ways_to_be_ready() {
            let is_probed = matches!(ready, Some(Ready::Tcp(_)));
            for mark in [None, Some(("no-daemon-of-this-table", 1))] {
                let is_told = KINDS.map(|listener| told_of_a_stray(listener, mark, ready.as_ref()).is_some());
                assert_eq!(is_told, [!is_probed; 3], "{mark:?} {ready:?}");
            }
        }
        // In its first generation nothing can be left of an earlier one. In a later one whatever prints to nobody may be.
        let mut page = sample::page();
        page.plans[1].ready = None;
        page.status.daemons[1].generation = 1;
        let on = |page: &Page, listener| {
            let mut seen = seen(&[(listener, 5)], &[&OURS[..], &[(31, 1, 31)]].concat(), &[(5, 31)]);
            let unmarked = seen.judge(page, "pipelock", None).is_some();
            seen.marks.insert(31, Mark::Past);
            (unmarked, seen.judge(page, "pipelock", None).is_some())
        };
        assert_eq!(KINDS.map(|listener| on(&page, listener)), [(true, true), (false, false), (false, false)]);
        page.plans[1].ready = ways_to_be_ready()[3].clone();
        assert_eq!(KINDS.map(|listener| on(&page, listener)), [(false, false); 3]);
        page.status.daemons[1].generation = 2;
        assert_eq!(KINDS.map(|listener| on(&page, listener)), [(false, true); 3]);
        // A mere question whether it is ready goes by what shows.
        let mut seen = seen(&[("/run/old", 5)], &[&OURS[..], &[(31, 1, 31)]].concat(), &[(5, 31)]);
        page.plans[1].ready = None;
        assert!(seen.judge(&page, "pipelock", None).is_some());
        seen.is_for_a_change = false;
        assert_eq!(seen.judge(&page, "pipelock", None), None);
        seen.marks.insert(31, Mark::Start { daemon: "pipelock".to_owned(), generation: 1 });
        assert!(seen.judge(&page, "pipelock", None).is_some());
    }

    #[test]
    fn a_mark_makes_no_process_a_daemon_s_own() {
        let page = sample::page();
        let (pipelock, of) = (&page.status.daemons[1], |pid| (pid, pid));
        let mark = Mark::Start { daemon: "pipelock".to_owned(), generation: pipelock.generation };
        for (pid, session) in [of(31), (12, 12)] {
            let processes = [&OURS[..], &[(pid, 1, session)]].concat();
            let mut seen = seen(&[("127.0.0.1:8888", 5)], &processes, &[(5, pid)]);
            seen.marks.insert(pid, mark.clone());
            assert!(seen.judge(&page, "pipelock", None).is_some(), "{pid}");
        }
    }

    #[test]
    fn a_mark_is_read_of_an_environment() {
        let mark = |generation| Some(Mark::Start { daemon: "web".to_owned(), generation });
        assert_eq!(mark_in(b"PATH=/bin\0SIDECAR_DAEMON=web\0SIDECAR_GENERATION=12\0A=1\0"), mark(12));
        assert_eq!(mark_in(b"SIDECAR_GENERATION=3\0SIDECAR_DAEMON=web\0SIDECAR_DAEMON=other"), mark(3));
        for odd in [
            &b""[..],
            b"\0\0\0",
            b"SIDECAR_DAEMON=web",
            b"SIDECAR_GENERATION=3",
            b"SIDECAR_DAEMON=web\0SIDECAR_GENERATION=",
            b"SIDECAR_DAEMON=\xff\0SIDECAR_GENERATION=3",
            b"SIDECAR_DAEMON=web\0SIDECAR_GENERATION=-3",
            b"XSIDECAR_DAEMON=web\0SIDECAR_GENERATION=3",
            b"SIDECAR_DAEMONS=web\0SIDECAR_GENERATION=3",
        ] {
            assert_eq!(mark_in(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn an_old_process_that_still_listens_is_noticed_without_its_sockets() {
        let (was, mut page) = (sample::page(), sample::page());
        page.status.daemons[1].pid = Some(40);
        // 31 was a child of pipelock's with a session of its own, 32 is egress's.
        let children = [(31, 17, 31), (32, 12, 32)];
        let orphans = [(31, 1, 31), (32, 12, 32), (40, 1, 40)];
        for holders in [&[(5, 31)][..], &[]] {
            let then = seen(&[("127.0.0.1:80", 5)], &[&OURS[..], &children].concat(), holders);
            let mut now = seen(&[("127.0.0.1:80", 5)], &[&OURS[..1], &orphans].concat(), holders);
            // What can be seen of it tells that it holds nothing: then it is another's, outside of the bundle perhaps.
            assert_eq!(now.left_over(&page, "pipelock", &was, &then).is_some(), !holders.is_empty());
            now.processes.get_mut(&31).unwrap().is_seen = false;
            assert_eq!(now.left_over(&page, "pipelock", &was, &then), Some(held(80, 31, "server")));
            assert_eq!(now.left_over(&page, "egress", &was, &then), None);
            let gone = seen(&[("127.0.0.1:80", 6)], &[&OURS[..1], &orphans[1..]].concat(), holders);
            assert_eq!(gone.left_over(&page, "pipelock", &was, &then), None);
        }
        let then = seen(&[], &[&OURS[..], &children].concat(), &[]);
        let now = seen(&[("127.0.0.1:80", 6)], &[&OURS[..1], &orphans].concat(), &[]);
        assert_eq!(now.left_over(&page, "pipelock", &was, &then), None, "it listens to nothing");
        let then = seen(&[("/run/old", 5)], &[&OURS[..], &children].concat(), &[(5, 31)]);
        let now = seen(&[("/run/old", 5)], &[&OURS[..1], &orphans].concat(), &[(5, 31)]);
        let by = Some((31, Printable::new("server")));
        let held = Shortfall::SocketHeld { socket: Printable::new("the socket /run/old"), by };
        assert_eq!(now.left_over(&page, "pipelock", &was, &then), Some(held));
    }

    #[test]
    fn a_probed_port_that_was_held_before_the_restart_is_an_old_process() {
        let (was, mut page) = (sample::page(), sample::page());
        let on = |addr| seen(&[(addr, 5)], &OURS, &[]);
        let unseen = Shortfall::SocketHeld { socket: Printable::new("port 8888"), by: None };
        // A forward leaves the process that has always listened.
        assert_eq!(on("0.0.0.0:8888").left_over(&page, "pipelock", &was, &on("0.0.0.0:8888")), None);
        page.status.daemons[1].pid = Some(40);
        assert_eq!(on("0.0.0.0:8888").left_over(&page, "pipelock", &was, &on("0.0.0.0:8888")), Some(unseen));
        assert_eq!(on("0.0.0.0:8888").left_over(&page, "pipelock", &was, &seen(&[], &OURS, &[])), None, "it is new");
        assert_eq!(on("0.0.0.0:80").left_over(&page, "pipelock", &was, &on("0.0.0.0:80")), None, "another port");
    }

    #[test]
    fn the_kernels_tables_are_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:22B8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 777 1 x 100 0 0 10 0\n   \
            1: 0100007F:22B8 0100007F:9999 01 00000000:00000000 00:00000000 00000000  1000        0 778 1 x 100 0 0 10 0\n";
        let v6 =
            "   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 9 1\n";
        if cfg!(target_endian = "little") {
            assert_eq!(
                parse(table, "0A", At::Tcp),
                [Listener { at: At::Tcp("127.0.0.1:8888".parse().unwrap()), user: Some(1000), inode: 777 }]
            );
            assert_eq!(
                parse(v6, "0A", At::Tcp),
                [Listener { at: At::Tcp("[::1]:80".parse().unwrap()), user: Some(0), inode: 9 }]
            );
        }
        let odd = "31 (a) b) (c) S 1 30 29 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 4711 99";
        let process_of = |stat| process(stat, 1000, 100);
        let name = "a) b) (c".to_owned();
        let expected =
            Process { parent: 1, session: 29, started: 4711, user: 1000, group: 100, thread: 31, is_seen: false, name };
        assert_eq!(process_of(odd), Some(expected));
        let unix = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            ffff: 00000002 00000000 00010000 0001 01 4711 /run/my socket\n\
            ffff: 00000002 00000000 00010000 0001 01    9 @abstract\n\
            ffff: 00000003 00000000 00000000 0001 03 4712 /run/connected\n\
            ffff: 00000002 00000000 00000000 0002 01 4713 /run/datagrams\n\
            ffff: 00000002 00000000 00000000 0002 01 4714\n\
            ffff: 00000002 00000000 00000000 0002 01 4715 @0a1f2\n\
            ffff: 00000002 00000000 00000000 0002 03 4716 /run/connected to\n\
            ffff: 00000002 00000000 00000000 0002 01 4717 @server\n";
        let listeners = [
            ("/run/my socket", 4711),
            ("@abstract", 9),
            ("/run/datagrams", 4713),
            ("/run/connected to", 4716),
            ("@server", 4717),
        ]
        .map(|(path, inode)| Listener { at: At::Unix(path.to_owned()), user: None, inode });
        assert_eq!(parse_unix(unix), listeners);
        assert_eq!((process_of(""), process_of("1 (x"), parse("\n0: zz\n", "0A", At::Tcp)), (None, None, Vec::new()));
    }

    #[test]
    fn who_really_listens_is_seen() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = std::net::UdpSocket::bind("[::1]:0").unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        let name = format!("sidecar test {me}");
        let address = <std::os::unix::net::SocketAddr as SocketAddrExt>::from_abstract_name(&name).unwrap();
        let _unix = std::os::unix::net::UnixDatagram::bind_addr(&address).unwrap();
        let seen = look(listeners());
        for at in [At::Tcp(tcp.local_addr().unwrap()), At::Udp(udp.local_addr().unwrap()), At::Unix(format!("@{name}"))]
        {
            let ours = seen.listeners.iter().find(|listener| listener.at == at).unwrap();
            assert!(seen.holders_of(ours).any(|pid| pid == me), "{seen:?}");
        }
        udp.connect(udp.local_addr().unwrap()).unwrap();
        assert!(listeners().iter().all(|listener| listener.at != At::Udp(udp.local_addr().unwrap())));
    }
}
