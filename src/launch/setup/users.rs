//! Users and groups, looked up in /etc/passwd and /etc/group: a static binary has no other way.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use nix::libc;
use serde::{Deserialize, Serialize};

use super::read_bounded;
use crate::table::{Table, User};

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// The user and groups of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The user as the table names it.
    pub stated: String,
    /// Its uid.
    pub uid: u32,
    /// Its gid.
    pub gid: u32,
    /// Its supplementary groups.
    pub groups: Vec<u32>,
    /// Its name and home directory, if /etc/passwd has it.
    pub account: Option<(String, PathBuf)>,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (uid {}, gid {})", self.stated, self.uid, self.gid)
    }
}

/// Why a user of the table can't be found.
#[derive(Debug)]
pub enum NoUser {
    /// A file can't be read.
    Unreadable(&'static str, io::Error),
    /// The file has no such name.
    Unknown(&'static str, String),
    /// 4294967295, which means "unchanged" to the kernel.
    Reserved(String),
}

impl fmt::Display for NoUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(file, e) => write!(f, "cannot read {file}: {e}"),
            Self::Unknown(file, name) => {
                let what = if *file == PASSWD { ("user", "uid") } else { ("group", "gid") };
                write!(f, "{file} has no {} {name:?}; add it to the image, or write its number ({})", what.0, what.1)
            }
            Self::Reserved(number) => write!(f, "{number} is no uid or gid: to the kernel it means \"unchanged\""),
        }
    }
}

/// What the two files say.
#[derive(Default)]
pub struct Users {
    passwd: String,
    group: String,
}

impl Users {
    /// Reads both files. One that doesn't exist counts as empty: an image FROM scratch has neither.
    ///
    /// # Errors
    /// A file exists but can't be read.
    pub fn read() -> Result<Self, NoUser> {
        let text = |file| match read_bounded(Path::new(file), libc::O_CLOEXEC) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            Err(e) => Err(NoUser::Unreadable(file, e)),
        };
        Ok(Self { passwd: text(PASSWD)?, group: text(GROUP)? })
    }

    /// Looks a user up, and its groups.
    ///
    /// # Errors
    /// There is none.
    pub fn find(&self, user: &User) -> Result<Identity, NoUser> {
        let number = number(&user.user)?;
        let is_meant = |line: &Account<'_>| number.map_or(line.name == user.user, |uid| line.uid == uid);
        let account = self.accounts().find(is_meant);
        let uid = number.or_else(|| account.as_ref().map(|line| line.uid));
        let uid = uid.ok_or_else(|| NoUser::Unknown(PASSWD, user.user.clone()))?;
        let (gid, groups) = match &user.group {
            Some(group) => (self.gid(group)?, Vec::new()),
            None => match &account {
                Some(line) => (line.gid, self.groups_of(line.name, line.gid)),
                None => (uid, Vec::new()),
            },
        };
        if groups.iter().chain([&uid, &gid]).any(|id| *id == u32::MAX) {
            return Err(NoUser::Reserved(u32::MAX.to_string()));
        }
        let stated = user.group.iter().fold(user.user.clone(), |user, group| format!("{user}:{group}"));
        let account = account.map(|line| (line.name.to_owned(), PathBuf::from(line.home)));
        Ok(Identity { stated, uid, gid, groups, account })
    }

    fn accounts(&self) -> impl Iterator<Item = Account<'_>> {
        // passwd(5)
        self.passwd.lines().filter_map(|line| {
            let [name, _, uid, gid, _, home, ..] = *line.split(':').collect::<Vec<_>>().as_slice() else { return None };
            Some(Account { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
        })
    }

    /// Name, gid and members: group(5).
    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let [name, _, gid, members, ..] = *line.split(':').collect::<Vec<_>>().as_slice() else { return None };
            Some((name, gid.parse().ok()?, members))
        })
    }

    fn gid(&self, group: &str) -> Result<u32, NoUser> {
        if let Some(gid) = number(group)? {
            return Ok(gid);
        }
        let found = self.groups().find_map(|(name, gid, _)| (name == group).then_some(gid));
        found.ok_or_else(|| NoUser::Unknown(GROUP, group.to_owned()))
    }

    fn groups_of(&self, user: &str, primary: u32) -> Vec<u32> {
        let is_member = |members: &str| members.split(',').any(|member| member.trim() == user);
        let others = self.groups().filter(|(_, gid, members)| *gid != primary && is_member(members));
        let mut all = vec![primary];
        for (_, gid, _) in others {
            if !all.contains(&gid) {
                all.push(gid);
            }
        }
        all
    }
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// A uid or gid; `None`: it is a name.
fn number(text: &str) -> Result<Option<u32>, NoUser> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse() {
        Ok(number) if number < u32::MAX => Ok(Some(number)),
        _ => Err(NoUser::Reserved(text.to_owned())),
    }
}

// As linux/capability.h numbers them.
const CAP_KILL: u32 = 5;
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;

/// What this process lacks to start these daemons (by their indices) as their users; `None` if it lacks nothing.
#[must_use]
pub fn what_is_lacking(table: &Table, selected: &[usize]) -> Option<String> {
    let mut daemons = selected.iter().filter_map(|index| table.daemons.get(*index));
    let daemon = daemons.find(|daemon| daemon.process.user.is_some())?;
    let uid = nix::unistd::geteuid();
    if !uid.is_root() {
        return Some(format!("daemon {:?} has a `user`, so init must be root, but it runs as uid {uid}", daemon.name));
    }
    let has = effective_capabilities();
    let needed = [("SETUID", CAP_SETUID), ("SETGID", CAP_SETGID), ("KILL", CAP_KILL)];
    let lacking: Vec<&str> = needed.iter().filter(|(_, n)| has & (1 << n) == 0).map(|(name, _)| *name).collect();
    (!lacking.is_empty()).then(|| {
        let (names, options) = (lacking.join(" and CAP_"), lacking.join(" --cap-add "));
        format!("daemon {:?} has a `user`, so init needs CAP_{names}; add --cap-add {options}", daemon.name)
    })
}

/// The effective capabilities as bits: capabilities(7). If they can't be read, there are none.
fn effective_capabilities() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn users() -> Users {
        Users {
            passwd:
                "root:x:0:0:root:/root:/bin/sh\n# a comment\nbroken:x:no:1::/:\nwww:x:33:33:www:/var/www:/bin/false\n\
                     odd:x:4294967295:7::/:\nalso-33:x:33:34::/srv:\n"
                    .to_owned(),
            group: "root:x:0:\nwww:x:33:\nmedia:x:500:other,www\nlogs:x:501:www\nmedia-too:x:500:www\nno:x:502:wwww\n"
                .to_owned(),
        }
    }

    fn find(stated: &str) -> Result<Identity, String> {
        let (user, group) = stated.split_once(':').map_or((stated, None), |(user, group)| (user, Some(group)));
        users().find(&User { user: user.to_owned(), group: group.map(str::to_owned) }).map_err(|e| e.to_string())
    }

    fn ids(stated: &str) -> (u32, u32, Vec<u32>) {
        let found = find(stated).unwrap();
        (found.uid, found.gid, found.groups)
    }

    #[test]
    fn a_name_and_its_uid_take_its_primary_group_and_those_that_list_it() {
        assert_eq!(ids("www"), (33, 33, vec![33, 500, 501]));
        assert_eq!(ids("33"), (33, 33, vec![33, 500, 501]));
        assert_eq!(find("www").unwrap().account, Some(("www".to_owned(), PathBuf::from("/var/www"))));
    }

    #[test]
    fn a_uid_that_nobody_has_is_its_own_gid_and_has_no_groups() {
        let found = find("12345").unwrap();
        assert_eq!((found.uid, found.gid, found.groups, found.account), (12345, 12345, Vec::new(), None));
    }

    #[test]
    fn a_stated_group_is_the_only_one() {
        assert_eq!(ids("www:media"), (33, 500, Vec::new()));
        assert_eq!(ids("www:7"), (33, 7, Vec::new()));
        assert_eq!(ids("1:0"), (1, 0, Vec::new()));
    }

    #[test]
    fn whoever_is_not_there_is_told_by_name_and_file() {
        assert!(find("nobody").unwrap_err().starts_with("/etc/passwd has no user \"nobody\""));
        assert!(find("broken").unwrap_err().starts_with("/etc/passwd has no user \"broken\""));
        assert!(find("www:staff").unwrap_err().starts_with("/etc/group has no group \"staff\""));
    }

    #[test]
    fn the_number_that_would_change_nothing_is_no_user_and_no_group() {
        for stated in ["4294967295", "99999999999", "1:4294967295", "odd", "odd:1"] {
            assert!(find(stated).unwrap_err().contains("unchanged"), "{stated}");
        }
    }
}
