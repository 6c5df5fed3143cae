//! `user`, `environment`, `env_file`, `pass_environment`, `working_dir`, `ulimits`: the user that a daemon runs as, and what it
//! inherits.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::check::{At, MAX_ARGUMENT, MAX_ARGUMENTS, MAX_PATH};

/// The names of [`Ulimit`]: Compose's, and `as`, which Docker doesn't take. Each is an `RLIMIT_` of setrlimit(2).
pub const ULIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];
/// The variable that has a daemon's name. Its process passes it on to what it starts.
pub const DAEMON: &str = "SIDECAR_DAEMON";
/// The variable that has the generation of a daemon's process: 1 for its first start.
pub const GENERATION: &str = "SIDECAR_GENERATION";
/// The variables that init sets for daemons: the two above, and those of `sd_notify`(3) and `sd_listen_fds`(3). If init itself was
/// started with any of them, it passes them to nobody.
const SET_BY_INIT: [&str; 7] =
    [DAEMON, GENERATION, "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDNAMES"];
/// The most variables that one daemon may state, and the most names that it may pass on.
const MAX_VARIABLES: usize = 1000;
/// The longest name of a user or group (`LOGIN_NAME_MAX` less its NUL).
const MAX_USER: usize = 255;

/// How a daemon's process differs from init. By default it has init's user, environment, directory and limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// `None`: init's own.
    pub user: Option<User>,
    /// Variables that it gets on top of those that are passed and those of `env_file`, ordered by name.
    pub environment: Vec<(String, String)>,
    /// A file of `KEY=value` lines, on top of what is passed.
    pub env_file: Option<PathBuf>,
    /// The names of init's variables that it gets. A `*` at the end of a name matches any ending. `None` for all variables.
    pub pass_environment: Option<Vec<String>>,
    /// `None`: init's own.
    pub working_dir: Option<PathBuf>,
    /// Soft and hard limits, in the order of their names.
    pub ulimits: Vec<Ulimit>,
}

/// A user as the table names it, not looked up yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// A name or a uid.
    pub user: String,
    /// A name or a gid; `None`: the user's own groups.
    pub group: Option<String>,
}

/// One limit of setrlimit(2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// The limit's name, as in Compose: `nofile`, for example.
    pub name: String,
    /// Soft and hard, in the unit of setrlimit(2); `None`: unlimited.
    pub value: Option<u64>,
}

/// Reads `user`.
pub(super) fn user(text: &Spanned<String>) -> At<User> {
    let spelled = text.get_ref();
    let (user, group) = spelled.split_once(':').map_or((spelled.as_str(), None), |(user, group)| (user, Some(group)));
    for (kind, name) in [Some(("user", user)), group.map(|group| ("group", group))].into_iter().flatten() {
        let fault = if name.is_empty() {
            format!("has no {kind}")
        } else if name.len() > MAX_USER || name.contains(|c: char| c == ':' || c.is_whitespace() || c.is_control()) {
            format!("has a {kind} that isn't a valid name")
        } else if name.starts_with('-') {
            format!("has a {kind} that begins with -")
        } else if is_number(name) && !name.parse::<u32>().is_ok_and(|id| id != u32::MAX) {
            format!("has a number that is out of range (the highest is {})", u32::MAX - 1)
        } else {
            continue;
        };
        let fix = "write \"NAME\", \"UID\", \"NAME:GROUP\" or \"UID:GID\"";
        return Err((text.span(), format!("user = {spelled:?} {fault}; {fix}")));
    }
    Ok(User { user: user.to_owned(), group: group.map(str::to_owned) })
}

/// Whether init sets this variable for daemons itself, whatever is stated or passed.
#[must_use]
pub fn is_set_by_init(variable: &OsStr) -> bool {
    SET_BY_INIT.iter().any(|name| variable == *name)
}

fn is_number(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_digit())
}

/// Reads `environment`.
pub(super) fn environment(all: BTreeMap<Spanned<String>, Spanned<String>>) -> At<Vec<(String, String)>> {
    let mut total = 0;
    for (count, (name, value)) in all.iter().enumerate() {
        check_variable("environment", name.get_ref()).map_err(|message| (name.span(), message))?;
        let wrong = |message: String| Err((name.span(), message));
        let (name, value) = (name.get_ref(), value.get_ref());
        if is_set_by_init(name.as_ref()) {
            return wrong(format!("environment has {name}, which init sets for each daemon; take it out"));
        }
        if value.contains('\0') {
            return wrong(format!("the value of {name:?} has a NUL byte, which no variable can hold; take it out"));
        }
        let length = name.len() + 1 + value.len();
        if length > MAX_ARGUMENT {
            return wrong(format!(
                "{name:?} is too long with its value; the kernel takes at most {MAX_ARGUMENT} bytes: put it into a file"
            ));
        }
        total += length + 9;
        if total > MAX_ARGUMENTS || count >= MAX_VARIABLES {
            return wrong(format!(
                "environment is too long; state at most {MAX_VARIABLES} variables of {MAX_ARGUMENTS} bytes together"
            ));
        }
    }
    Ok(all.into_iter().map(|(name, value)| (name.into_inner(), value.into_inner())).collect())
}

fn check_variable(key: &str, name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err(format!("{key} has an empty name; name the variable"));
    }
    if name.contains('=') {
        return Err(format!("{key} has {name:?}, but no variable's name contains `=`; write only the name"));
    }
    if name.contains('\0') {
        return Err(format!("{key} has {name:?}, but no variable's name contains a NUL byte; take it out"));
    }
    Ok(())
}

/// Reads `pass_environment`.
pub(super) fn pass_environment(list: Vec<Spanned<String>>) -> At<Vec<String>> {
    if let Some(more) = list.get(MAX_VARIABLES) {
        let message =
            format!("pass_environment has too many names; write at most {MAX_VARIABLES}, or `*` at their end");
        return Err((more.span(), message));
    }
    let mut seen = HashSet::new();
    for name in &list {
        let spelled = name.get_ref();
        let wrong = |message: String| Err((name.span(), message));
        if let Some((variable, value)) = spelled.split_once('=') {
            return wrong(format!(
                "pass_environment has {spelled:?}, but takes only names; to set the variable, write environment = {{ {variable} = {value:?} }}"
            ));
        }
        check_variable("pass_environment", spelled).map_err(|message| (name.span(), message))?;
        if spelled.strip_suffix('*').unwrap_or(spelled).contains('*') {
            return wrong(format!("pass_environment has {spelled:?}, but a `*` stands for the end of a name only"));
        }
        if !seen.insert(spelled.as_str()) {
            return wrong(format!("pass_environment has {spelled:?} twice; keep one of the two"));
        }
    }
    Ok(list.into_iter().map(Spanned::into_inner).collect())
}

/// Reads `env_file`.
pub(super) fn env_file(text: &Spanned<String>) -> At<PathBuf> {
    let path = path("env_file", text)?;
    if matches!(text.get_ref().rsplit('/').next(), None | Some("" | ".")) {
        let message = format!("env_file = {:?} names no file; write its absolute path", text.get_ref());
        return Err((text.span(), message));
    }
    Ok(path)
}

/// Reads `working_dir`.
pub(super) fn working_dir(text: &Spanned<String>) -> At<PathBuf> {
    path("working_dir", text)
}

fn path(key: &str, text: &Spanned<String>) -> At<PathBuf> {
    let spelled = text.get_ref();
    let wrong = |fault: &str| Err((text.span(), format!("{key} = {spelled:?} {fault}")));
    if spelled.contains('\0') {
        return wrong("has a NUL byte, which no path can hold; take it out");
    }
    if !spelled.starts_with('/') {
        return wrong("is not an absolute path; write it from / on");
    }
    if spelled.len() > MAX_PATH {
        return wrong(&format!("is too long; use at most {MAX_PATH} bytes"));
    }
    let path = Path::new(spelled);
    if path.components().any(|part| part == Component::ParentDir) {
        return wrong("contains `..`; write the path without it");
    }
    Ok(path.components().collect())
}

/// Reads `ulimits`.
pub(super) fn ulimits(all: BTreeMap<Spanned<String>, Spanned<i64>>) -> At<Vec<Ulimit>> {
    let one = |(name, number): (Spanned<String>, Spanned<i64>)| {
        let wrong = |span: Range<usize>, message: String| Err((span, message));
        let spelled = name.get_ref();
        if !ULIMITS.contains(&spelled.as_str()) {
            let lower = spelled.to_ascii_lowercase();
            let meant = lower.strip_prefix("rlimit_").or(lower.strip_prefix("limit")).unwrap_or(&lower);
            let fix = match ULIMITS.iter().find(|known| **known == meant) {
                Some(known) => format!("write {known}"),
                None => format!("write one of {}", ULIMITS.join(", ")),
            };
            return wrong(name.span(), format!("ulimits has {spelled:?}, which isn't a limit; {fix}"));
        }
        let value = match *number.get_ref() {
            // Not even root may go beyond fs.nr_open.
            -1 if spelled == "nofile" => {
                let message = "ulimits.nofile = -1: open files can't be unlimited; write a number, \
                               of at most fs.nr_open (usually 1048576)";
                return wrong(number.span(), message.to_owned());
            }
            -1 => None,
            other => Some(u64::try_from(other).map_err(|_| {
                let message =
                    format!("ulimits.{spelled} = {other} is out of range; write 0 or more, or -1 for unlimited");
                (number.span(), message)
            })?),
        };
        Ok(Ulimit { name: name.into_inner(), value })
    };
    all.into_iter().map(one).collect()
}
