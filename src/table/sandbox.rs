//! `[daemon.sandbox]`: what a daemon may do, and which files no other daemon may read.
//!
//! The checks here compare names only. Links and mounts are looked at when a daemon starts (`crate::launch::sandbox`).

use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::{Daemon, Table};

/// Paths that are hidden from every sandboxed daemon: the terminal of an operator's `docker exec -it` is there.
pub const TERMINALS: [&str; 3] = ["/dev/pts", "/dev/ptmx", "/dev/console"];
/// The longest path that the kernel takes, in bytes (`PATH_MAX` less its NUL).
const MAX_PATH: usize = 4095;
/// The most paths and ports that one daemon may name. Each of them slows down the daemon's starts.
const MAX_PATHS: usize = 100;
const MAX_PORTS: usize = 1000;

/// What a sandboxed daemon may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// The only places that it may write to.
    pub write: Vec<PathBuf>,
    /// The TCP ports that it may bind to; `None`: any.
    pub bind: Option<Vec<u16>>,
    /// The TCP ports that it may connect to, on any host; `None`: any.
    pub connect: Option<Vec<u16>>,
    /// Whether it may make UDP sockets although `bind` or `connect` is set.
    pub udp: bool,
    /// Whether it and its descendants may leave its session and process group.
    pub sessions: bool,
}

/// The section as it stands in the table.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSandbox {
    write: Option<Vec<Spanned<String>>>,
    private: Option<Vec<Spanned<String>>>,
    bind: Option<Spanned<Vec<u16>>>,
    connect: Option<Spanned<Vec<u16>>>,
    udp: Option<Spanned<bool>>,
    sessions: Option<bool>,
}

type At<T> = Result<T, (Range<usize>, String)>;

/// The sandbox and the private paths of one daemon. A daemon that states only `private` isn't sandboxed.
pub(super) fn check(raw: Option<RawSandbox>) -> At<(Option<Sandbox>, Vec<PathBuf>)> {
    let Some(raw) = raw else { return Ok((None, Vec::new())) };
    let states_only_private = raw.private.is_some()
        && raw.write.is_none()
        && raw.bind.is_none()
        && raw.connect.is_none()
        && raw.udp.is_none()
        && raw.sessions.is_none();
    let private = paths("private", &raw.private.unwrap_or_default())?;
    if states_only_private {
        return Ok((None, private));
    }
    if let Some(udp) = raw.udp.as_ref().filter(|_| raw.bind.is_none() && raw.connect.is_none()) {
        let message = "udp restricts nothing unless bind or connect is set; add connect = [], or take udp out";
        return Err((udp.span(), message.to_owned()));
    }
    let sandbox = Sandbox {
        write: paths("write", &raw.write.unwrap_or_default())?,
        bind: raw.bind.map(|list| ports("bind", list)).transpose()?,
        connect: raw.connect.map(|list| ports("connect", list)).transpose()?,
        udp: raw.udp.is_some_and(Spanned::into_inner),
        sessions: raw.sessions.unwrap_or(true),
    };
    Ok((Some(sandbox), private))
}

fn ports(key: &str, list: Spanned<Vec<u16>>) -> At<Vec<u16>> {
    let span = list.span();
    let mut list = list.into_inner();
    if list.contains(&0) {
        return Err((
            span,
            format!("{key} has port 0, which stands for any free port; name the ports, or leave {key} out"),
        ));
    }
    list.sort_unstable();
    list.dedup();
    if list.len() > MAX_PORTS {
        return Err((span, format!("{key} has too many ports; name at most {MAX_PORTS}, or leave {key} out")));
    }
    Ok(list)
}

fn paths(key: &str, list: &[Spanned<String>]) -> At<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for text in list {
        let wrong = |message: String| Err((text.span(), message));
        let spelled = text.get_ref();
        if !spelled.starts_with('/') || spelled.contains('\0') || spelled.len() > MAX_PATH {
            return wrong(format!("{key} names {spelled:?}; write absolute paths of at most {MAX_PATH} bytes"));
        }
        if Path::new(spelled).components().any(|part| part == Component::ParentDir) {
            return wrong(format!("{key} names {spelled:?}, which contains `..`; write the path without it"));
        }
        let path: PathBuf = Path::new(spelled).components().collect();
        if path == Path::new("/") {
            return wrong(format!("{key} names /, which keeps nothing apart; name the directories that are needed"));
        }
        if let Some(terminal) = TERMINALS.iter().find(|terminal| path.starts_with(terminal)) {
            return wrong(format!("{key} names {spelled:?}, but {terminal} is hidden from every sandboxed daemon"));
        }
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    match list.get(MAX_PATHS) {
        Some(more) => Err((more.span(), format!("{key} names too many paths; name at most {MAX_PATHS}"))),
        None => Ok(paths),
    }
}

impl Daemon {
    /// The paths that no other sandboxed daemon may read, unless it names the same path: what it may write to, and its private paths.
    pub fn own_paths(&self) -> impl Iterator<Item = &Path> {
        self.writable().map(PathBuf::as_path).chain(self.private_paths())
    }

    /// Its `private` paths, its `env_file`, and the directory of its `config`.
    pub fn private_paths(&self) -> impl Iterator<Item = &Path> {
        self.private.iter().chain(&self.process.env_file).map(PathBuf::as_path).chain(self.config_directory())
    }

    /// The paths that its sandbox lets it write to; none if it has no sandbox.
    fn writable(&self) -> impl Iterator<Item = &PathBuf> {
        self.sandbox.iter().flat_map(|sandbox| &sandbox.write)
    }

    /// The directory of its `config`, which also holds the record and the kept copy.
    #[must_use]
    pub fn config_directory(&self) -> Option<&Path> {
        self.config.as_ref()?.path.parent()
    }
}

/// Checks that all sandboxes can be enforced together. The error has the index of the daemon that is wrong.
pub(super) fn check_all(daemons: &[Daemon]) -> Result<(), (usize, String)> {
    if daemons.iter().all(|daemon| daemon.sandbox.is_none()) {
        return Ok(());
    }
    for (index, daemon) in daemons.iter().enumerate() {
        let at = |message| (index, message);
        check_config(daemons, index, daemon).map_err(at)?;
        check_read(daemons, daemon).map_err(at)?;
        for path in daemon.writable() {
            check_write(daemons, index, path).map_err(at)?;
        }
    }
    Ok(())
}

fn check_config(daemons: &[Daemon], index: usize, daemon: &Daemon) -> Result<(), String> {
    let Some(directory) = daemon.config_directory() else { return Ok(()) };
    // It will be hidden from the others, and read-only for the daemon itself.
    if directory == Path::new("/") || directory == Path::new("/etc") {
        return Err(format!(
            "config.path lies in {}, which can't be hidden from the sandboxed daemons; put it in a directory of its own",
            directory.display()
        ));
    }
    let others = || daemons.iter().enumerate().filter(|(other, _)| *other != index);
    if let Some((_, other)) = others().find(|(_, other)| other.config_directory() == Some(directory)) {
        return Err(format!(
            "config.path lies in the same directory as that of {:?}, so each of the two could read the other's; give each a directory of its own",
            other.name
        ));
    }
    Ok(())
}

/// A path that is read or entered before a daemon starts must not lie where a sandboxed daemon could replace it. A `working_dir` may
/// itself be a path in `write`, since no sandboxed daemon may write to its parent.
fn check_read(daemons: &[Daemon], daemon: &Daemon) -> Result<(), String> {
    let config = daemon.config.as_ref().map(|config| ("config.path", &config.path));
    let process = &daemon.process;
    let env_file = process.env_file.as_ref().map(|path| ("env_file", path));
    let working_dir = process.working_dir.as_ref().map(|path| ("working_dir", path));
    for (key, path) in [config, env_file, working_dir].into_iter().flatten() {
        for other in daemons {
            let is_unsafe = |write: &&PathBuf| path.starts_with(write) && (key != "working_dir" || path != *write);
            if let Some(write) = other.writable().find(is_unsafe) {
                let lies = if path == write { "is" } else { "lies below" };
                return Err(format!(
                    "{key} {lies} {}, which {:?} may write to; put it elsewhere",
                    write.display(),
                    other.name
                ));
            }
        }
    }
    Ok(())
}

/// No path that is hidden from a daemon may lie below a path that it may write to, since Landlock has no rule that takes access away.
fn check_write(daemons: &[Daemon], index: usize, path: &Path) -> Result<(), String> {
    let is_inside = |hidden: &Path| hidden != path && hidden.starts_with(path);
    if let Some(terminal) = TERMINALS.iter().find(|terminal| is_inside(Path::new(terminal))) {
        return Err(format!(
            "write names {}, but {terminal} below it is hidden; name only the paths that it needs",
            path.display()
        ));
    }
    let mine: Vec<&Path> = daemons.get(index).map(|daemon| daemon.own_paths().collect()).unwrap_or_default();
    for other in daemons.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, other)| other) {
        if let Some(hidden) = other.own_paths().find(|hidden| is_inside(hidden) && !mine.contains(hidden)) {
            return Err(format!(
                "write names {}, but {} below it is private to {:?}; name only the paths that it needs",
                path.display(),
                hidden.display(),
                other.name
            ));
        }
    }
    Ok(())
}

impl Table {
    /// Whether any daemon has a sandbox.
    #[must_use]
    pub fn has_sandboxes(&self) -> bool {
        self.daemons.iter().any(|daemon| daemon.sandbox.is_some())
    }
}
