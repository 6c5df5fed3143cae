//! The sandbox of a daemon: `[daemon.sandbox]` of the table, enforced by Landlock (files, TCP ports, other processes) and a
//! filter of system calls. Neither needs a privilege.
//!
//! A sandbox is made by the process that then executes the daemon, as a part of its [setup](super::setup).

mod files;
mod landlock;
#[cfg(test)]
mod on_kernel;
mod paths;
mod seccomp;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::libc;
use serde::{Deserialize, Serialize};

use crate::status;
use crate::table::sandbox::{Sandbox, TERMINALS};
use crate::table::{Daemon, Table};
use files::{Files, Open};
use paths::{Access, Claims, Kind, NoRules};

// The first version of Landlock's interface that can enforce each part: landlock(7).
/// Linux 5.19. Version 1 would forbid moving any file to another directory, so it isn't used.
const ABI_FILES: u32 = 2;
/// Linux 6.2.
const ABI_TRUNCATION: u32 = 3;
/// Linux 6.7.
const ABI_TCP: u32 = 4;
/// Linux 6.10: ioctl(2) on devices.
const ABI_DEVICES: u32 = 5;
/// Linux 6.12.
const ABI_SIGNALS: u32 = 6;

/// Devices that every daemon may read and write.
const DEVICES: [&str; 6] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

/// What this kernel enforces of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// The version of Landlock's interface; 0 if there is none.
    abi: u32,
    /// Why there is none.
    why: Option<String>,
    /// Whether filters of system calls can end a process (Linux 4.14).
    filters: bool,
}

impl Kernel {
    /// Finds out what this kernel can enforce.
    #[must_use]
    pub fn ask() -> Self {
        let (abi, why) = match landlock::version() {
            Ok(abi) => (abi, None),
            Err(e) => (0, Some(why_no_landlock(&e))),
        };
        Self { abi, why, filters: has_filters() }
    }

    /// Which parts of this sandbox the kernel can't enforce, and why.
    #[must_use]
    pub fn shortfall(&self, sandbox: &Sandbox) -> status::Sandbox {
        let asks_for_tcp = sandbox.bind.is_some() || sandbox.connect.is_some();
        let missing = [
            ("files", self.abi < ABI_FILES),
            ("processes", self.abi < ABI_FILES),
            ("truncation", self.abi < ABI_TRUNCATION),
            ("tcp", asks_for_tcp && self.abi < ABI_TCP),
            ("devices", self.abi < ABI_DEVICES),
            ("signals", self.abi < ABI_SIGNALS),
            ("system-calls", !self.filters),
        ];
        let missing: Vec<String> =
            missing.into_iter().filter(|(_, is_missing)| *is_missing).map(|(name, _)| name.to_owned()).collect();
        let why = match self.abi {
            0 => self.why.clone(),
            1 => Some("Landlock 1 (before Linux 5.19) would forbid every move between directories".to_owned()),
            _ if !self.filters => Some("no filter of system calls can end a process before Linux 4.14".to_owned()),
            _ => None,
        };
        status::Sandbox { abi: self.abi, missing, why }
    }
}

fn has_filters() -> bool {
    let action: u32 = libc::SECCOMP_RET_KILL_PROCESS;
    // SAFETY: the call reads the number that the pointer leads to.
    unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) == 0 }
}

fn why_no_landlock(e: &io::Error) -> String {
    match e.raw_os_error() {
        Some(libc::ENOSYS) => {
            "the kernel has no Landlock (Linux 5.13), or the container's filter of system calls doesn't know it"
                .to_owned()
        }
        Some(libc::EOPNOTSUPP) => "Landlock is switched off; add it to lsm= on the kernel's command line".to_owned(),
        Some(libc::EPERM) => {
            "the container's filter of system calls refuses Landlock; upgrade the container engine".to_owned()
        }
        _ => format!("Landlock can't be used: {e}"),
    }
}

/// The sandboxes of a table, as the applets read them.
#[derive(Serialize, Deserialize)]
pub struct Plan {
    kernel: Kernel,
    /// The daemon table.
    table: Option<PathBuf>,
    daemons: Vec<Entry>,
    /// Where symbolic links lead to, found as init's user, since the daemon's user may lack the permission to follow them.
    #[serde(default, skip_serializing)]
    targets: Vec<PathBuf>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    name: String,
    /// `None` if it isn't sandboxed. Its private files are hidden from sandboxed daemons all the same.
    sandbox: Option<Sandbox>,
    private: Vec<PathBuf>,
    /// The ports of the sockets that init holds for it.
    listen: Vec<u16>,
}

impl Entry {
    fn new(daemon: &Daemon) -> Self {
        let private = daemon.private_paths().map(Path::to_owned).collect();
        let listen = daemon.listen.iter().map(SocketAddr::port).collect();
        Self { name: daemon.name.clone(), sandbox: daemon.sandbox.clone(), private, listen }
    }

    /// Lets its probe connect to the daemon's own ports too.
    fn allow_probe(&mut self) {
        let Some(Sandbox { bind, connect: Some(connect), .. }) = &mut self.sandbox else { return };
        connect.extend(bind.iter().flatten().chain(&self.listen));
    }
}

/// Why a process couldn't be confined.
#[derive(Debug)]
pub enum NotConfined {
    /// The description of its sandbox can't be read.
    Plan(String),
    /// There can be no rules for its files.
    Rules(NoRules),
    /// A step failed.
    Step(&'static str, io::Error),
}

impl fmt::Display for NotConfined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plan(why) => write!(f, "cannot read what its sandbox is: {why}"),
            Self::Rules(why) => write!(f, "cannot make its sandbox: {why}"),
            Self::Step(step, e) => write!(f, "cannot make its sandbox: {step}: {e}"),
        }
    }
}

fn step(what: &'static str) -> impl Fn(io::Error) -> NotConfined {
    move |e| NotConfined::Step(what, e)
}

fn bad(e: &dyn fmt::Display) -> NotConfined {
    NotConfined::Plan(e.to_string())
}

impl Plan {
    /// The sandboxes of all daemons, selected or not, since their files exist either way.
    #[must_use]
    pub fn new(table: &Table) -> Self {
        let daemons = table.daemons.iter().map(Entry::new).collect();
        Self { kernel: Kernel::ask(), table: table.file.clone(), daemons, targets: Vec::new() }
    }

    /// What the kernel enforces of a sandbox.
    #[must_use]
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Follows the symbolic links in the other daemons' paths, so that their targets are hidden from this daemon even if its own user
    /// can't follow the links.
    pub fn follow_links(&mut self, daemon: &str) {
        let others = self.daemons.iter().filter(|entry| entry.name != daemon);
        let write = |entry: &Entry| entry.sandbox.as_ref().map(|sandbox| sandbox.write.clone()).unwrap_or_default();
        let paths = others.flat_map(|entry| write(entry).into_iter().chain(entry.private.clone()));
        let targets = paths.chain(self.table.clone()).filter_map(|path| {
            // As far as the path exists.
            let (real, rest) =
                path.ancestors().find_map(|at| Some((at.canonicalize().ok()?, path.strip_prefix(at).ok()?)))?;
            let target: PathBuf = real.join(rest).components().collect();
            (target != path).then_some(target)
        });
        self.targets = targets.collect();
    }

    /// Whether this daemon is sandboxed.
    #[must_use]
    pub fn has(&self, daemon: &str) -> bool {
        self.daemons.iter().any(|entry| entry.name == daemon && entry.sandbox.is_some())
    }

    /// Puts this process, which has one thread, into the sandbox of the daemon with that name, for good. With `own_ports` it may also
    /// connect to the ports in the daemon's `bind` and `listen`.
    ///
    /// # Errors
    /// The process must end, since part of the sandbox may be in force already.
    pub fn confine(self, daemon: &str, own_ports: bool) -> Result<(), NotConfined> {
        let mut plan = self;
        plan.daemons.iter_mut().filter(|entry| own_ports && entry.name == daemon).for_each(Entry::allow_probe);
        confine_by(&plan, daemon)
    }
}

fn confine_by(plan: &Plan, daemon: &str) -> Result<(), NotConfined> {
    let mut all = plan.daemons.iter().enumerate().filter(|(_, entry)| entry.name == daemon);
    let Some((index, sandbox)) = all.find_map(|(index, entry)| Some((index, entry.sandbox.as_ref()?))) else {
        return Err(bad(&"it isn't there"));
    };
    let Kernel { abi, filters, .. } = plan.kernel;
    let files = Files::default();
    // The paths in `write` are checked and made even if the kernel can enforce nothing.
    let paths = paths(plan, index, &files)?;
    let rules = if abi < ABI_FILES { None } else { Some(ruleset(plan, sandbox, &files, &paths)?) };
    drop((files, paths));
    give_up_privileges().map_err(|(what, e)| NotConfined::Step(what, e))?;
    if let Some(rules) = rules {
        rules.restrict_self().map_err(step("landlock_restrict_self"))?;
    }
    if filters {
        let program = seccomp::program(sandbox, abi, seccomp::HERE);
        install(&program).map_err(step("seccomp"))?;
    }
    Ok(())
}

/// Finds out what the daemon with this index may read and write, and makes the directories that are missing.
fn paths(plan: &Plan, daemon: usize, files: &Files) -> Result<paths::Plan<Rc<Open>>, NotConfined> {
    let claims = |entry: &Entry| Claims {
        write: entry.sandbox.as_ref().map(|sandbox| sandbox.write.clone()).unwrap_or_default(),
        private: entry.private.clone(),
    };
    let all: Vec<Claims> = plan.daemons.iter().map(claims).collect();
    let hidden: Vec<PathBuf> =
        TERMINALS.iter().map(PathBuf::from).chain(plan.table.clone()).chain(plan.targets.clone()).collect();
    let paths = paths::plan(files, &all, daemon, &hidden).map_err(NotConfined::Rules)?;
    for (parent, path) in &paths.missing {
        let name = path.file_name().unwrap_or_default();
        files::make(&parent.node, name).map_err(|e| NotConfined::Rules(NoRules::NotMade(path.clone(), e)))?;
    }
    Ok(paths)
}

fn ruleset(
    plan: &Plan,
    sandbox: &Sandbox,
    files: &Files,
    paths: &paths::Plan<Rc<Open>>,
) -> Result<landlock::Ruleset, NotConfined> {
    let rules = landlock::Ruleset::new(sandbox, plan.kernel.abi).map_err(step("landlock_create_ruleset"))?;
    let mut allow = |node: &Rc<Open>, is_directory, access| rules.allow(node.as_fd(), is_directory, access);
    paths.rules(files, &mut allow).map_err(NotConfined::Rules)?;
    for device in DEVICES.map(Path::new) {
        match paths::exactly(files, device) {
            Ok(found) if found.kind == Kind::Device => {
                allow(&found.node, false, Access::Write).map_err(step("landlock_add_rule"))?;
            }
            // If it isn't a device, nobody gets access to it.
            Ok(_) => {}
            Err(e) if paths::is_absent(&e) => {}
            Err(e) => return Err(NotConfined::Rules(NoRules::Look(device.to_owned(), e))),
        }
    }
    Ok(rules)
}

/// Gives up all capabilities for good: with `no_new_privs` no exec brings one back (capabilities(7)).
///
/// # Errors
/// The step that failed.
pub fn give_up_privileges() -> Result<(), (&'static str, io::Error)> {
    /// `_LINUX_CAPABILITY_VERSION_3`
    const VERSION_3: u32 = 0x2008_0522;
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    nix::sys::prctl::set_no_new_privs().map_err(|e| ("no_new_privs", e.into()))?;
    // This needs CAP_SETPCAP. A process without it can gain nothing from the bounding set.
    for capability in 0..64u64 {
        // SAFETY: prctl(2) takes numbers here.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0u64, 0u64, 0u64) };
        // It isn't permitted, or the kernel has no further capabilities.
        if result != 0 {
            break;
        }
    }
    let header = Header { version: VERSION_3, pid: 0 };
    let none = [[0u32; 3]; 2];
    // SAFETY: both live through the call; version 3 has two structures of three words.
    match unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) } {
        0 => Ok(()),
        _ => Err(("capset", io::Error::last_os_error())),
    }
}

fn install(program: &[seccomp::Instruction]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel reads that many instructions, and writes nothing.
    match unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod degraded {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn without_landlock_the_directories_are_still_made_and_checked() {
        let dir = std::env::temp_dir().canonicalize().unwrap().join(format!("sidecar-degraded-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let confine = |path: &str| {
            let sandbox = Some(Sandbox { write: vec![dir.join(path)], ..Sandbox::default() });
            let entry = Entry { name: "d0".to_owned(), sandbox, private: Vec::new(), listen: Vec::new() };
            let kernel = Kernel { abi: 0, why: None, filters: false };
            let plan = Plan { kernel, table: None, daemons: vec![entry], targets: Vec::new() };
            // It gives up its privileges.
            std::thread::spawn(move || confine_by(&plan, "d0")).join().unwrap()
        };
        assert!(confine("made").is_ok() && dir.join("made").is_dir());
        assert!(matches!(confine("none/made"), Err(NotConfined::Rules(NoRules::NoWrite(..)))));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_each_version_of_landlock_cannot_do_is_told_if_it_is_asked_for() {
        let missing =
            |abi, sandbox: &Sandbox| Kernel { abi, why: None, filters: true }.shortfall(sandbox).missing.join(" ");
        let asks = Sandbox { connect: Some(Vec::new()), ..Sandbox::default() };
        let expected = [
            "files processes truncation tcp devices signals",
            "files processes truncation tcp devices signals",
            "truncation tcp devices signals",
            "tcp devices signals",
            "devices signals",
            "signals",
            "",
            "",
        ];
        for (abi, expected) in (0..).zip(expected) {
            assert_eq!(missing(abi, &asks), expected, "{abi}");
            assert_eq!(missing(abi, &Sandbox::default()), expected.replace("tcp ", ""), "{abi}");
        }
        let old = Kernel { abi: 6, why: None, filters: false };
        assert_eq!(old.shortfall(&asks).missing, ["system-calls"]);
    }

    #[test]
    fn why_there_is_no_landlock_is_told_by_the_error() {
        let why = |errno| why_no_landlock(&io::Error::from_raw_os_error(errno));
        assert!(why(libc::ENOSYS).contains("has no Landlock"));
        assert!(why(libc::EOPNOTSUPP).contains("switched off"));
        assert!(why(libc::EPERM).contains("upgrade the container engine"));
        let first = Kernel { abi: 1, why: None, filters: true }.shortfall(&Sandbox::default());
        assert!(first.why.is_some_and(|why| why.contains("before Linux 5.19")));
    }
}
