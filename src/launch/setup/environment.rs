//! A daemon's environment: init's variables that are passed to it, then its `env_file`, then its `environment`.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::libc;

use super::read_bounded;
use super::users::Identity;
use crate::launch::Environment;
use crate::table::Process;
use crate::table::process::is_set_by_init;

const PATH: &str = "PATH";
const OF_THE_USER: [&str; 3] = ["HOME", "USER", "LOGNAME"];

/// Why an `env_file` can't be used.
#[derive(Debug)]
pub enum NoEnvFile {
    /// It can't be read.
    Unreadable(PathBuf, io::Error),
    /// This line is wrong, and why.
    Line(PathBuf, usize, &'static str),
}

impl fmt::Display for NoEnvFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(path, e) if e.raw_os_error() == Some(libc::ELOOP) => write!(
                f,
                "cannot read its env_file {}: it is a symbolic link, which isn't followed; name the file that it leads to",
                path.display()
            ),
            Self::Unreadable(path, e) if e.kind() == io::ErrorKind::PermissionDenied => write!(
                f,
                "cannot read its env_file {}: {e}; init reads it, so make it readable for uid {}",
                path.display(),
                nix::unistd::geteuid()
            ),
            Self::Unreadable(path, e) => write!(f, "cannot read its env_file {}: {e}", path.display()),
            Self::Line(path, line, why) => write!(f, "its env_file {}, line {line}: {why}", path.display()),
        }
    }
}

/// The environment of a daemon. `inherited` is init's, with what init sets for daemons.
///
/// # Errors
/// Its `env_file` can't be used.
pub fn of_daemon(
    process: &Process,
    user: Option<&Identity>,
    inherited: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Environment, NoEnvFile> {
    let mut all: BTreeMap<OsString, OsString> = BTreeMap::new();
    let mut inits = Vec::new();
    for (key, value) in inherited {
        if is_set_by_init(&key) {
            inits.push((key, value));
        } else if is_passed(&key, process.pass_environment.as_deref()) {
            // If there are two, getenv(3) finds the first.
            all.entry(key).or_insert(value);
        }
    }
    if let Some(user) = user {
        let (name, home) = user.account.as_ref().map_or((None, Path::new("/")), |(name, home)| (Some(name), home));
        for key in OF_THE_USER {
            // A variable that is passed by its full name counts as stated too.
            let is_stated = process.pass_environment.iter().flatten().any(|name| name == key);
            if is_stated && all.contains_key(OsStr::new(key)) {
                continue;
            }
            let value = if key == "HOME" { Some(home.as_os_str().to_owned()) } else { name.map(OsString::from) };
            match value {
                Some(value) => all.insert(key.into(), value),
                // Another user's name is worse than none.
                None => all.remove(OsStr::new(key)),
            };
        }
    }
    if let Some(path) = &process.env_file {
        all.extend(read(path)?);
    }
    all.extend(process.environment.iter().map(|(key, value)| (key.into(), value.into())));
    all.retain(|key, _| !is_set_by_init(key));
    all.extend(inits);
    Ok(Environment::new(all.into_iter()))
}

fn is_passed(key: &OsStr, names: Option<&[String]>) -> bool {
    let is_meant = |name: &String| match name.strip_suffix('*') {
        Some(start) => key.as_bytes().starts_with(start.as_bytes()),
        None => key == name.as_str(),
    };
    key == PATH || names.is_none_or(|names| names.iter().any(is_meant))
}

/// Reads an `env_file`.
///
/// # Errors
/// It isn't a readable regular file of at most 1 MiB, or a line is wrong.
pub fn read(path: &Path) -> Result<Vec<(OsString, OsString)>, NoEnvFile> {
    let text = read_bounded(path, libc::O_NOFOLLOW).map_err(|e| NoEnvFile::Unreadable(path.to_owned(), e))?;
    parse(&text).map_err(|(line, why)| NoEnvFile::Line(path.to_owned(), line, why))
}

/// Reads `KEY=value` lines, empty lines, and comments, which begin with `#`. Space around a value isn't part of it, nor are quotes
/// around the whole value; nothing else has a meaning.
fn parse(text: &[u8]) -> Result<Vec<(OsString, OsString)>, (usize, &'static str)> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut all = Vec::new();
    for (line, number) in text.split(|byte| *byte == b'\n').zip(1..) {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let no = |why| Err((number, why));
        let Some(at) = line.iter().position(|byte| *byte == b'=') else {
            return no("no `=`; write KEY=value, or begin a comment with #");
        };
        let (key, value) = line.split_at_checked(at).unwrap_or_default();
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if key.is_empty() || key.iter().any(u8::is_ascii_whitespace) {
            return no("the part before `=` isn't a valid name; write KEY=value, without `export`");
        } else if line.contains(&0) {
            return no("a NUL byte, which no variable can have");
        }
        let value = match value {
            [quote @ (b'"' | b'\''), inside @ .., last] if quote == last && !inside.contains(quote) => inside,
            [b'"' | b'\'', ..] => {
                return no("the closing quote isn't at the end of the line; quote all of the value or none of it");
            }
            value => value,
        };
        all.push((OsString::from_vec(key.to_vec()), OsString::from_vec(value.to_vec())));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn pairs(all: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        all.iter().map(|(key, value)| (key.into(), value.into())).collect()
    }

    /// Of a process with init's environment as it usually is.
    fn of(process: &Process, user: Option<&Identity>) -> String {
        let inits = [
            ("PATH", "/bin"),
            ("HOME", "/root"),
            ("USER", "root"),
            ("TZ", "UTC"),
            ("AWS_ID", "1"),
            ("AWS_KEY", "2"),
            ("NOTIFY_SOCKET", "@1"),
            ("SIDECAR_DAEMON", "web"),
            ("SIDECAR_GENERATION", "2"),
        ];
        let env = of_daemon(process, user, pairs(&inits).into_iter()).unwrap();
        let words: Vec<&str> = env.0.iter().map(|pair| pair.to_str().unwrap()).collect();
        words.join(" ")
    }

    fn names(all: &[&str]) -> Vec<String> {
        all.iter().map(|name| (*name).to_owned()).collect()
    }

    fn www() -> Identity {
        let account = Some(("www".to_owned(), PathBuf::from("/var/www")));
        Identity { stated: "www".to_owned(), uid: 33, gid: 33, groups: Vec::new(), account }
    }

    #[test]
    fn what_is_not_named_is_not_passed_except_path_and_what_init_sets() {
        let passes = |all| of(&Process { pass_environment: Some(names(all)), ..Process::default() }, None);
        assert_eq!(passes(&[]), "NOTIFY_SOCKET=@1 PATH=/bin SIDECAR_DAEMON=web SIDECAR_GENERATION=2");
        assert_eq!(
            passes(&["TZ", "AWS_*", "NONE"]),
            "AWS_ID=1 AWS_KEY=2 NOTIFY_SOCKET=@1 PATH=/bin SIDECAR_DAEMON=web SIDECAR_GENERATION=2 TZ=UTC"
        );
        assert_eq!(passes(&["*"]), of(&Process::default(), None));
    }

    #[test]
    fn what_is_stated_replaces_what_is_passed_but_not_what_init_sets() {
        let environment = [
            ("PATH", "/mine"),
            ("TZ", "CET"),
            ("NOTIFY_SOCKET", "@forged"),
            ("LISTEN_FDS", "9"),
            ("SIDECAR_DAEMON", "forged"),
            ("SIDECAR_GENERATION", "1"),
        ];
        let environment = environment.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
        let process = Process { environment, pass_environment: Some(names(&["TZ"])), ..Process::default() };
        assert_eq!(of(&process, None), "NOTIFY_SOCKET=@1 PATH=/mine SIDECAR_DAEMON=web SIDECAR_GENERATION=2 TZ=CET");
    }

    #[test]
    fn a_user_has_its_own_home_and_name_unless_they_are_stated() {
        let all = "AWS_ID=1 AWS_KEY=2 HOME=/var/www LOGNAME=www NOTIFY_SOCKET=@1 PATH=/bin SIDECAR_DAEMON=web SIDECAR_GENERATION=2 TZ=UTC USER=www";
        assert_eq!(of(&Process::default(), Some(&www())), all);
        let stated = Process {
            environment: vec![("HOME".to_owned(), "/srv".to_owned())],
            pass_environment: Some(names(&["USER", "LOG*"])),
            ..Process::default()
        };
        assert_eq!(
            of(&stated, Some(&www())),
            "HOME=/srv LOGNAME=www NOTIFY_SOCKET=@1 PATH=/bin SIDECAR_DAEMON=web SIDECAR_GENERATION=2 USER=root"
        );
        let nobody = Identity { account: None, ..www() };
        let process = Process { pass_environment: Some(names(&["USE*"])), ..Process::default() };
        assert_eq!(
            of(&process, Some(&nobody)),
            "HOME=/ NOTIFY_SOCKET=@1 PATH=/bin SIDECAR_DAEMON=web SIDECAR_GENERATION=2"
        );
    }

    #[test]
    fn a_file_has_lines_comments_and_quotes() {
        let text = b"\xef\xbb\xbfA=1\r\n\n  # no\n B= 2 = 3 \nC=\"a b \"\nD=' # '\nE=\nF=\"\"\nA=4\nG=a # b\nH=it's";
        let values = parse(text).unwrap();
        assert_eq!(
            values,
            pairs(&[
                ("A", "1"),
                ("B", "2 = 3"),
                ("C", "a b "),
                ("D", " # "),
                ("E", ""),
                ("F", ""),
                ("A", "4"),
                ("G", "a # b"),
                ("H", "it's")
            ])
        );
    }

    #[test]
    fn a_bad_line_is_reported_by_its_number_and_never_by_its_value() {
        for (text, line, why) in [
            ("A=1\nSECRET\n", 2, "no `=`"),
            ("=secret", 1, "a valid name"),
            ("export A=secret", 1, "without `export`"),
            ("\n\nA=secret\0", 3, "NUL"),
            ("A=\"secret", 1, "quote"),
            ("A='secret' # x", 1, "quote"),
            ("A='", 1, "quote"),
        ] {
            let (at, told) = parse(text.as_bytes()).unwrap_err();
            assert_eq!(at, line, "{text}");
            assert!(told.contains(why) && !told.contains("secret"), "{told}");
        }
    }
}
