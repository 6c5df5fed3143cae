//! The attacks, what should become of each, and the table that says so. Each does no more harm than it must to show that it
//! works.

mod calls;
mod files;
mod network;
mod processes;
mod uncovered;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub use network::TAKE_PORT;
pub use processes::PUSH_INPUT;

/// One attack.
pub struct Attack {
    /// As the table prints it. In what the attacker writes, hyphens stand for its spaces.
    pub name: &'static str,
    /// What becomes of it in the sandbox.
    pub expected: &'static str,
    pub keeper: Keeper,
    pub without: Without,
    run: fn(&Prey) -> io::Result<()>,
}

/// What stops an attack, and so since when.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Keeper {
    /// It gives its capabilities up.
    Capabilities,
    /// The filter of system calls.
    Filter,
    /// Landlock's rules for files.
    Files,
    /// Landlock's domain, out of which nobody traces or reads a process.
    Processes,
    Truncation,
    Tcp,
    Signals,
    /// Nobody does: the sandbox doesn't cover it.
    Nobody,
}

impl Keeper {
    /// The first version of Landlock that does; 0: none is needed.
    pub fn abi(self) -> u32 {
        match self {
            Self::Capabilities | Self::Filter | Self::Nobody => 0,
            Self::Files | Self::Processes => 2,
            Self::Truncation => 3,
            Self::Tcp => 4,
            Self::Signals => 6,
        }
    }

    /// What `status` says is missing from a kernel with an older one.
    pub fn word(self) -> &'static str {
        match self {
            Self::Capabilities | Self::Filter | Self::Nobody => "",
            Self::Files => "files",
            Self::Processes => "processes",
            Self::Truncation => "truncation",
            Self::Tcp => "tcp",
            Self::Signals => "signals",
        }
    }

    fn since(self) -> &'static str {
        match self {
            Self::Capabilities => "any",
            Self::Filter => "4.14",
            Self::Files | Self::Processes => "5.19",
            Self::Truncation => "6.2",
            Self::Tcp => "6.7",
            Self::Signals => "6.12",
            Self::Nobody => "",
        }
    }
}

/// What becomes of an attack without a sandbox.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Without {
    Works,
    /// init refuses it all the same: EPERM.
    InitRefuses,
    /// It needs a capability, which no daemon of a hardened bundle has: EPERM.
    NeedsCapability,
    /// It works if this kernel was built with what it uses, and is ENOSYS otherwise.
    IfKernelHas,
}

impl Without {
    /// Whether this came of it as it should.
    pub fn is(self, result: &str, has_capabilities: bool) -> bool {
        match self {
            Self::Works => result == "ok",
            Self::InitRefuses => result == "EPERM",
            Self::NeedsCapability => result == if has_capabilities { "ok" } else { "EPERM" },
            Self::IfKernelHas => result == "ok" || result == "ENOSYS",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Works => "works",
            Self::InitRefuses => "init itself refuses it",
            Self::NeedsCapability => "EPERM: no capability",
            Self::IfKernelHas => "works if the kernel has x32",
        }
    }
}

/// As the daemon's child, as an orphan of its own, as another program that executes it, and from memory alone.
pub const WAYS: &[&str] = &["child", "orphan", "exec", "memory"];

/// What is attacked, by whom.
pub struct Prey {
    /// Where the attacker may write, if it may anywhere.
    own: Option<PathBuf>,
    /// The file of its `config`, if it has one.
    own_rules: Option<PathBuf>,
    /// That of another daemon.
    rules: PathBuf,
    /// What is private to another, and the same by a second mount.
    secret: PathBuf,
    mirror: PathBuf,
    /// Where another may write, and a file there.
    others: PathBuf,
    data: PathBuf,
    /// What every user may write to; `open/heap` has files to be removed.
    open: PathBuf,
    table: PathBuf,
    /// An operator's terminal.
    terminal: PathBuf,
    another: i32,
    another_name: String,
    open_port: u16,
    free_port: u16,
    /// The port of a daemon that the test restarts.
    anothers_port: u16,
}

impl Prey {
    /// By `KEY=VALUE` words.
    fn new(text: &str) -> Self {
        let value = |key: &str| text.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        let path = |key| PathBuf::from(value(key).unwrap_or_else(|| panic!("no {key}")));
        let port = |key| value(key).unwrap().parse().unwrap();
        Self {
            own: value("own").map(PathBuf::from),
            own_rules: value("own-rules").map(PathBuf::from),
            rules: path("rules"),
            secret: path("secret"),
            mirror: path("mirror"),
            others: path("others"),
            data: path("data"),
            open: path("open"),
            table: path("table"),
            terminal: path("terminal"),
            another: calls::find(value("word").unwrap()),
            another_name: value("another").unwrap().to_owned(),
            open_port: port("open-port"),
            free_port: port("free-port"),
            anothers_port: port("anothers-port"),
        }
    }

    fn own(&self) -> &Path {
        self.own.as_deref().unwrap()
    }

    /// A name in the attacker's directory that no other attack has.
    fn new_name(&self, what: &str) -> PathBuf {
        self.own().join(format!("{what}-{}", std::process::id()))
    }
}

const fn attack(
    name: &'static str,
    expected: &'static str,
    keeper: Keeper,
    run: fn(&Prey) -> io::Result<()>,
) -> Attack {
    Attack { name, expected, keeper, without: Without::Works, run }
}

impl Attack {
    const fn without(mut self, without: Without) -> Self {
        self.without = without;
        self
    }

    pub fn word(&self) -> String {
        self.name.replace(' ', "-")
    }

    /// Whether this came of it, run in this way in its sandbox, as it should.
    pub fn fails(&self, way: &str, got: &str) -> bool {
        // Nobody hears how an orphan ended.
        let is_killed = self.expected.starts_with("signal") && way == "orphan";
        got == if is_killed { "no-word" } else { self.expected }
    }

    /// Whether this came of it without a sandbox, as it should.
    pub fn is_as_without(&self, got: &str, has_capabilities: bool) -> bool {
        if self.name == PUSH_INPUT && fs::read("/proc/sys/dev/tty/legacy_tiocsti").is_ok_and(|text| text == b"0\n") {
            return got == "EIO";
        }
        self.without.is(got, has_capabilities)
    }

    /// Whether the attacker has what this is about.
    pub fn is_for(&self, has_directory: bool, has_config: bool) -> bool {
        let names = |what| self.name.contains(what);
        (has_config || !names("its own configuration")) && (has_directory || !names("its own"))
    }
}

/// What became of each attack, by its name and the way it was run, from what the daemon of this name wrote.
pub fn results(log: &str, daemon: &str) -> BTreeMap<(String, String), String> {
    let head = format!("[{daemon}] attack ");
    let result = |line: &str| {
        let mut words = line.strip_prefix(&head)?.split(' ').map(str::to_owned);
        Some(((words.next()?, words.next()?), words.next()?))
    };
    log.lines().filter_map(result).collect()
}

/// Which attacks have come to something else than they should, each in a line.
pub fn wrong<'a>(
    all: &BTreeMap<(String, String), String>,
    attacks: impl Iterator<Item = &'a Attack>,
    is_right: impl Fn(&Attack, &str, &str) -> bool,
) -> String {
    let mut text = String::new();
    for attack in attacks {
        let mut ways = all.iter().filter(|((name, _), _)| *name == attack.word()).peekable();
        if ways.peek().is_none() {
            let _ = writeln!(text, "{}: not tried", attack.name);
        }
        for ((_, way), got) in ways.filter(|((_, way), got)| !is_right(attack, way, got)) {
            let _ = writeln!(text, "{} ({way}): {got} ({} in the sandbox)", attack.name, attack.expected);
        }
    }
    text
}

/// All of them, by what they go at.
pub const ATTACKS: &[(&str, &[Attack])] = &[
    ("Files", files::ATTACKS),
    ("Other processes", processes::ATTACKS),
    ("init", processes::ON_INIT),
    ("The network", network::ATTACKS),
    ("The kernel", network::ON_THE_KERNEL),
];

pub fn all_attacks() -> impl Iterator<Item = &'static Attack> {
    ATTACKS.iter().flat_map(|(_, attacks)| *attacks)
}

/// What the sandbox doesn't cover: it works in it as well.
pub use uncovered::UNCOVERED;

/// The two tables that docs/security.md has: what fails in the sandbox, and what it doesn't cover.
pub fn tables() -> [String; 2] {
    let mut tables: [String; 2] = Default::default();
    let [table, uncovered] = &mut tables;
    for (heading, attacks) in ATTACKS {
        let _ = writeln!(table, "| {heading} | without a sandbox | in its sandbox | since Linux |");
        let _ = writeln!(table, "| --- | --- | --- | --- |");
        for Attack { name, expected, keeper, without, .. } in *attacks {
            let expected = if expected.starts_with("signal-") { "killed" } else { expected };
            let _ = writeln!(table, "| {name} | {} | {expected} | {} |", without.words(), keeper.since());
        }
        table.push('\n');
    }
    for Attack { name, .. } in UNCOVERED {
        let _ = writeln!(uncovered, "- {name}");
    }
    tables
}

/// The daemon: runs all attacks on this prey, one after the other, once the file `go` says so.
pub fn all(text: &str) {
    let go = PathBuf::from(text.split_whitespace().find_map(|word| word.strip_prefix("go=")).unwrap());
    while !go.exists() {
        std::thread::sleep(std::time::Duration::from_millis(3));
    }
    let prey = Prey::new(text);
    if let Some(own) = &prey.own {
        let _ = fs::create_dir_all(own);
    }
    let is_for = |attack: &&Attack| attack.is_for(prey.own.is_some(), prey.own_rules.is_some());
    let me = std::env::current_exe().unwrap();
    let memory = nix::sys::memfd::memfd_create("program", nix::sys::memfd::MFdFlags::empty()).unwrap();
    let in_memory = PathBuf::from(format!("/proc/self/fd/{}", memory.as_raw_fd()));
    io::copy(&mut fs::File::open(&me).unwrap(), &mut fs::File::from(memory.try_clone().unwrap())).unwrap();
    let ways = std::env::var("WAYS").unwrap_or_else(|_| WAYS.join(" "));
    for attack in all_attacks().chain(UNCOVERED).filter(is_for) {
        for way in ways.split(' ') {
            println!("\nbegins {} {way} -", attack.word());
            let mut command = match way {
                "child" => Command::new(&me),
                // Nobody waits for it but init; the shell that reads its line ends with it.
                "orphan" => shell("(\"$@\" & ) | cat"),
                "memory" => Command::new(&in_memory),
                _ => shell("exec \"$@\""),
            };
            if ["orphan", "exec"].contains(&way) {
                command.arg(&me);
            }
            command.args(["--exact", "the_program_that_attacks", "--nocapture", "--test-threads=1"]);
            let output = command.env("ATTACKER", attack.name).env("PREY", text).stdin(Stdio::null()).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let result = text.lines().find_map(|line| line.strip_prefix("result ")).map(str::to_owned);
            let result = result.unwrap_or_else(|| match output.status.signal() {
                Some(signal) => format!("signal-{signal}"),
                None if way == "orphan" => "no-word".to_owned(),
                None => format!("code-{:?}-{}", output.status.code(), String::from_utf8_lossy(&output.stderr).trim())
                    .replace(char::is_whitespace, "-"),
            });
            println!("\nattack {} {way} {result}", attack.word());
        }
    }
    println!("\nthat was all");
    loop {
        std::thread::sleep(std::time::Duration::from_secs(1000));
    }
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script, "-"]);
    command
}

/// One attack: prints what came of it.
pub fn one(name: &str) {
    let prey = Prey::new(&std::env::var("PREY").unwrap());
    let attack = all_attacks().chain(UNCOVERED).find(|attack| attack.name == name).unwrap();
    let result = match (attack.run)(&prey) {
        Ok(()) => "ok".to_owned(),
        Err(e) => e
            .raw_os_error()
            .map_or_else(|| format!("{e:?}"), |errno| format!("{:?}", nix::errno::Errno::from_raw(errno))),
    };
    println!("\nresult {}", result.replace(char::is_whitespace, "-"));
    io::stdout().flush().unwrap();
}
