//! The daemon table: TOML in, a checked [`Table`] or an error with file, line and fix out.
//!
//! The built-in table is that same TOML, embedded: one format, one parser.

mod check;
mod error;
mod listen;
mod order;
pub mod process;
pub mod sandbox;
mod signal;
mod spelling;

use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use check::parse_duration;
pub use error::TableError;
pub use listen::MAX_LISTEN;
pub use order::{start_order, stop_order};
pub use process::{Process, ULIMITS, Ulimit, User};
pub use signal::Signal;
pub use spelling::DAEMON_KEYS;

/// The table that is used if no file replaces it.
pub const BUILT_IN: &str = include_str!("../../bundle/daemons.toml");
/// The name under which [`BUILT_IN`] appears in errors and in `check`.
pub const BUILT_IN_NAME: &str = "built-in table";
/// If this file exists, it replaces the whole built-in table.
pub const DEFAULT_PATH: &str = "/etc/sidecar/daemons.toml";
/// The largest file that is read as a table, in bytes.
pub const MAX_BYTES: u64 = 1 << 20;
/// The most daemons that a table may hold. Each takes descriptors and a place in the status page.
pub const MAX_DAEMONS: usize = 1000;
/// The longest name of a daemon, in bytes: it stands before each of its lines.
pub const MAX_NAME: usize = 63;
/// The longest duration: a week.
pub const MAX_DURATION: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What a signal rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Stop that daemon and start its replacement in the same slot.
    Restart,
    /// Send the signal on to that daemon's process.
    Forward {
        /// Send at once, without checking whether the daemon catches it (`when = "always"`).
        always: bool,
    },
}

/// One line of `[signals]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignalRule {
    /// The signal that init receives.
    pub signal: Signal,
    /// What init does when it receives it.
    pub action: Action,
    /// The daemon that it applies to, as an index into [`Table::daemons`].
    pub daemon: usize,
}

/// How to tell whether a daemon is ready to serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ready {
    /// A TCP connection is accepted.
    Tcp(SocketAddr),
    /// `GET` answers 200 to 399.
    Http {
        /// Where the server listens.
        addr: SocketAddr,
        /// The URL's path, at least `/`.
        path: String,
    },
    /// The command exits 0.
    Exec(Vec<String>),
    /// The daemon says so itself, by `sd_notify`(3).
    Notify,
}

/// A daemon's configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Its absolute path in the bundle.
    pub path: PathBuf,
    /// The command that checks such a file, with `{}` in place of the file's path; `None` if there is no checker.
    pub check: Option<Vec<String>>,
}

/// How init writes what daemons print, and its own log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// Text, each line after `[NAME] `.
    #[default]
    Prefix,
    /// One JSON object per line.
    Json,
}

/// What follows when a daemon ends by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// It stays ended until a request starts it.
    #[default]
    No,
    /// It is started again unless it exited 0.
    OnFailure,
    /// It is started again.
    Always,
}

/// One daemon of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// `[a-z0-9][a-z0-9-]*`, at most [`MAX_NAME`] bytes, unique in the table.
    pub name: String,
    /// Program and arguments for `execve`; no shell. A program without a slash is looked up in PATH.
    pub command: Vec<String>,
    /// The time from its stop signal to SIGKILL.
    pub grace: Duration,
    /// Signals that are ignored when it starts.
    pub ignore: Vec<Signal>,
    /// Its configuration file, if `apply --file` may replace it.
    pub config: Option<Config>,
    /// How to tell whether it is ready; `None`: it is ready while its process lives.
    pub ready: Option<Ready>,
    /// How long it must stay ready before a change counts as live.
    pub settle: Duration,
    /// What follows when it ends by itself. Never [`RestartPolicy::Always`] for a oneshot.
    pub restart: RestartPolicy,
    /// The daemons that must be ready before its first start, as indices into [`Table::daemons`]. There is no circle.
    pub depends_on: Vec<usize>,
    /// Whether it runs once to its end.
    pub is_oneshot: bool,
    /// Whether the bundle ends when it ends for good.
    pub is_essential: bool,
    /// The signal that asks it to stop.
    pub stop_signal: Signal,
    /// The user it runs as, and what it inherits.
    pub process: Process,
    /// The sockets that init holds for it, all of TCP.
    pub listen: Vec<SocketAddr>,
    /// What it may do; `None`: whatever its user may.
    pub sandbox: Option<sandbox::Sandbox>,
    /// Paths that no other sandboxed daemon may read, besides those that are private anyway: [`Daemon::own_paths`].
    pub private: Vec<PathBuf>,
}

/// A checked daemon table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The daemons in start order: at least one, at most [`MAX_DAEMONS`].
    pub daemons: Vec<Daemon>,
    /// The signal rules: at most one per signal, ordered by signal.
    pub wiring: Vec<SignalRule>,
    /// How lines are written.
    pub output: Output,
    /// init starts nothing if the kernel can't enforce every part of a selected daemon's sandbox.
    pub require_sandbox: bool,
    /// The file that it was read from; `None`: the built-in table. It is hidden from sandboxed daemons.
    pub file: Option<PathBuf>,
}

impl Table {
    /// The index of the daemon of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<usize> {
        self.daemons.iter().position(|d| d.name == name)
    }

    /// Reads and checks a table; `source` is the name that errors show.
    ///
    /// # Errors
    /// The first error, with its line and how to fix it.
    pub fn parse(text: &str, source: &str) -> Result<Self, TableError> {
        check::table(text, source)
    }

    /// The table that `init` and `check` use: `named` if a file was named (it must exist then), else
    /// [`DEFAULT_PATH`] if it is there, else [`BUILT_IN`]. Also returns where it came from.
    ///
    /// # Errors
    /// The file exists but can't be read or is not a valid table. The built-in table is never used in its place.
    pub fn load(named: Option<&Path>) -> Result<(Self, String), TableError> {
        let (path, must_exist) = named.map_or((Path::new(DEFAULT_PATH), false), |p| (p, true));
        let source = path.display().to_string();
        let bytes = match read_bounded(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound && !must_exist => {
                return Ok((Self::parse(BUILT_IN, BUILT_IN_NAME)?, BUILT_IN_NAME.to_owned()));
            }
            Err(e) => {
                let hint = match e.kind() {
                    io::ErrorKind::IsADirectory => {
                        "; docker creates a directory if a bind mount's source is missing: create the file, then recreate the container"
                    }
                    io::ErrorKind::NotFound => "; create it, or name another with --config or SIDECAR_CONFIG",
                    io::ErrorKind::PermissionDenied => "; make it readable for the user that init runs as",
                    _ => "",
                };
                return Err(TableError::new(&source, None, &format!("cannot read the daemon table: {e}{hint}")));
            }
        };
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok((Self { file: std::path::absolute(path).ok(), ..Self::parse(text, &source)? }, source)),
            Err(e) => {
                let line = error::line_of(&bytes, e.valid_up_to());
                Err(TableError::new(&source, Some(line), "this line isn't UTF-8; save the table in that encoding"))
            }
        }
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("it is larger than 1 MiB; a daemon table is a few lines"));
    }
    Ok(bytes)
}
