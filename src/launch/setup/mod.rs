//! What a daemon's process gets before its exec, if the table says so: an environment, limits, a user, a directory and a
//! sandbox of its own.
//!
//! init's child does this by executing a hidden applet, [`SET_UP_AND_START`], which then executes the daemon. init can't do it
//! itself, since looking at files can take long on a slow file system, and between fork and exec nothing may allocate memory. The
//! applet reads what it needs from a memfd that init has made once. The same code sets up probes, checkers and `run-as`: [`run`].

pub mod environment;
mod limits;
pub mod run;
pub mod users;

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::libc;
use nix::unistd::{Gid, Uid, chdir, setgroups, setresgid, setresuid};
use serde::{Deserialize, Serialize};

use super::sandbox::{self, Kernel, NotConfined, Plan};
use super::{Environment, Program, Refused};
use crate::request::{SETUPS_FD, SETUPS_NAME};
use crate::table::{Daemon, Process, Table, Ulimit};
use environment::NoEnvFile;
use users::{Identity, NoUser, Users};

/// The hidden applet that sets itself up and becomes the daemon.
pub const SET_UP_AND_START: &str = "set-up-and-start";
/// The largest file that is read here, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// How each daemon of a table is set up, as the applets read it.
#[derive(Serialize, Deserialize)]
pub struct Setups {
    sandboxes: Plan,
    processes: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    name: String,
    user: Option<Identity>,
    process: Process,
}

impl Daemon {
    /// Whether its process needs a set-up between fork and exec.
    #[must_use]
    pub fn is_set_up(&self) -> bool {
        self.sandbox.is_some() || self.process != Process::default()
    }
}

/// Why the users of a table can't be looked up.
#[derive(Debug)]
pub struct NoSuchUser {
    /// The daemon whose user it is.
    pub daemon: String,
    /// Why.
    pub why: NoUser,
}

impl fmt::Display for NoSuchUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the user of daemon {:?}: {}", self.daemon, self.why)
    }
}

impl Setups {
    /// The setups of all daemons of a table, selected or not, since their files exist either way. `None`: no daemon needs one.
    ///
    /// # Errors
    /// A daemon's user isn't known.
    pub fn new(table: &Table) -> Result<Option<Self>, NoSuchUser> {
        if !table.daemons.iter().any(Daemon::is_set_up) {
            return Ok(None);
        }
        let mut users = None;
        let mut entry = |daemon: &Daemon| {
            let mut find = |user| {
                let users = match &mut users {
                    Some(users) => users,
                    none => none.insert(Users::read()?),
                };
                users.find(user)
            };
            let user = daemon.process.user.as_ref().map(&mut find).transpose();
            let user = user.map_err(|why| NoSuchUser { daemon: daemon.name.clone(), why })?;
            Ok(Entry { name: daemon.name.clone(), user, process: daemon.process.clone() })
        };
        let processes = table.daemons.iter().map(&mut entry).collect::<Result<_, _>>()?;
        Ok(Some(Self { sandboxes: Plan::new(table), processes }))
    }

    /// Writes them to this memfd, and seals it.
    ///
    /// # Errors
    /// There is no memory left, or a path isn't UTF-8.
    pub fn publish(&self, mut file: File) -> io::Result<Published> {
        file.write_all(&serde_json::to_vec(self)?)?;
        let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        Ok(Published { file: file.into(), kernel: self.sandboxes.kernel().clone() })
    }

    /// Reads what init has published.
    ///
    /// # Errors
    /// It can't be read.
    pub fn read(published: impl AsFd) -> Result<Self, NotSetUp> {
        let read = || {
            // Other children share the open file and its position, so read at fixed offsets.
            let file = File::from(published.as_fd().try_clone_to_owned()?);
            let mut text = vec![0; usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?];
            file.read_exact_at(&mut text, 0)?;
            Ok(serde_json::from_slice(&text)?)
        };
        read().map_err(|e: io::Error| unreadable(&e))
    }

    /// Reads the setups that the init with this pid has at [`SETUPS_FD`]. `None` if none of its daemons needs one.
    ///
    /// # Errors
    /// They can't be read, or the descriptor is something else.
    pub fn of_init(pid: i32) -> Result<Option<Self>, NotSetUp> {
        // Look at the link first: opening a stranger's descriptor can have side effects.
        let path = PathBuf::from(format!("/proc/{pid}/fd/{SETUPS_FD}"));
        let link = path.read_link().map_err(|e| unreadable(&e))?;
        if link == Path::new("/dev/null") {
            return Ok(None);
        }
        let name = format!("/memfd:{SETUPS_NAME} (deleted)");
        if link.as_os_str() != name.as_str() {
            return Err(unreadable(&format!("{} is something else", path.display())));
        }
        let file = File::open(&path).map_err(|e| unreadable(&e))?;
        // A file on disk can have that name, but can't be sealed.
        let seals = fcntl(&file, FcntlArg::F_GET_SEALS).unwrap_or(0);
        if !SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_WRITE) {
            return Err(unreadable(&"it isn't sealed, so anyone may have written it"));
        }
        Self::read(file).map(Some)
    }

    /// Whether this daemon is set up in any way.
    #[must_use]
    pub fn has(&self, daemon: &str) -> bool {
        let is_set_up = |entry: &Entry| entry.name == daemon && entry.process != Process::default();
        self.sandboxes.has(daemon) || self.processes.iter().any(is_set_up)
    }

    /// Sets this process, which has one thread, up like that daemon's process, for good. `inherited` is init's environment, with the
    /// variables that init sets for daemons. With `own_ports` it may also connect to the ports that the daemon may bind.
    ///
    /// # Errors
    /// The process must end, since it may be set up in part.
    pub fn set_up(
        mut self,
        daemon: &str,
        own_ports: bool,
        inherited: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Ready, NotSetUp> {
        let index = self.processes.iter().position(|entry| entry.name == daemon);
        let Entry { user, process, .. } =
            index.map(|index| self.processes.swap_remove(index)).ok_or_else(|| unreadable(&"it isn't there"))?;
        let env = environment::of_daemon(&process, user.as_ref(), inherited).map_err(NotSetUp::EnvFile)?;
        limits::raise(&process.ulimits)?;
        let is_sandboxed = self.sandboxes.has(daemon);
        if let Some(user) = &user {
            if is_sandboxed {
                // Do this before the change of user: that user may lack the permission to follow the links.
                self.sandboxes.follow_links(daemon);
            }
            become_user(user).map_err(|(step, e)| NotSetUp::User(user.to_string(), step, e))?;
        }
        if is_sandboxed {
            // Do this as the daemon's user: what that user can't reach needs no rule, and the directories made here belong to it.
            self.sandboxes.confine(daemon, own_ports).map_err(NotSetUp::Sandbox)?;
        }
        if let Some(directory) = &process.working_dir {
            // Do this last: the directory may have been made just now. No sandbox refuses chdir(2), since it opens nothing.
            chdir(directory).map_err(|e| NotSetUp::WorkingDir(directory.clone(), e))?;
        }
        Ok(Ready { env, limits: process.ulimits })
    }
}

/// A process that is set up, except for its limits.
pub struct Ready {
    env: Environment,
    limits: Vec<Ulimit>,
}

impl Ready {
    /// Sets the limits and executes a command, looked up by the PATH of its own environment. Returns only if it can't.
    #[must_use]
    pub fn execute(&self, command: &[String], ignore: Vec<i32>) -> Refused {
        let program = Program::new(command, &self.env, ignore, None);
        program.replace_this(|| limits::set_all(&self.limits))
    }
}

fn become_user(user: &Identity) -> Result<(), (&'static str, io::Error)> {
    let failed = |step| move |e: Errno| (step, e.into());
    let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    setgroups(&groups).map_err(failed("setgroups"))?;
    setresgid(gid, gid, gid).map_err(failed("setresgid"))?;
    setresuid(uid, uid, uid).map_err(failed("setresuid"))?;
    sandbox::give_up_privileges()
}

/// The setups as init holds them.
pub struct Published {
    /// What a child reads them from.
    pub file: OwnedFd,
    /// What the kernel enforces of a sandbox.
    pub kernel: Kernel,
}

/// Why a process couldn't be set up.
#[derive(Debug)]
pub enum NotSetUp {
    /// How it is set up can't be read.
    Unreadable(String),
    /// Its `env_file`.
    EnvFile(NoEnvFile),
    /// One of its limits.
    Limit(String),
    /// A step on the way to its user.
    User(String, &'static str, io::Error),
    /// Its directory.
    WorkingDir(PathBuf, Errno),
    /// Its sandbox.
    Sandbox(NotConfined),
}

impl fmt::Display for NotSetUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(why) => write!(f, "cannot read how its process is set up: {why}"),
            Self::EnvFile(why) => why.fmt(f),
            Self::Limit(why) => f.write_str(why),
            Self::User(user, step, e) => write!(f, "cannot switch to its user {user}: {step}: {e}"),
            Self::WorkingDir(path, e) => {
                write!(f, "cannot change to its working_dir {}: {}", path.display(), io::Error::from(*e))
            }
            Self::Sandbox(why) => why.fmt(f),
        }
    }
}

fn unreadable(e: &dyn fmt::Display) -> NotSetUp {
    NotSetUp::Unreadable(e.to_string())
}

/// Reads a regular file. It refuses everything else, so it never waits for a FIFO that somebody put there.
fn read_bounded(path: &Path, flags: i32) -> io::Result<Vec<u8>> {
    let file = File::options().read(true).custom_flags(flags | libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it isn't a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(bytes)
}
