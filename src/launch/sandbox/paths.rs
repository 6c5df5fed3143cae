//! Computes which files a sandboxed daemon may read and write, as rules for Landlock.
//!
//! Landlock has only rules that allow, each for an inode and everything below it. So everything around a hidden path is allowed level
//! by level: in each directory on the way, every entry except the one that leads there gets a rule. The directory itself gets none, so
//! it can't be listed, and what is created in it later is hidden as well.
//!
//! A rule is for an inode, not for a name, and an inode can have several names: one on each mount that shows the same part of the
//! same file system. The list of mounts shows these names, and they are hidden as well; any others are found by device and inode.
//! Each look at a file takes time. So a file is opened without a look if it can't be another name of a hidden file: nothing is
//! mounted on it, its file system is mounted once, and no hidden file has several hard links.
//!
//! The computation works on a [`Tree`], so that a test can compare it with a slow computation on trees of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// The most symbolic links in one path, as in the kernel (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// A directory tree.
pub trait Tree {
    /// A file that stays open, whatever becomes of its name.
    type Node: Clone;

    /// Its root.
    ///
    /// # Errors
    /// It can't be opened.
    fn root(&self) -> io::Result<Found<Self::Node>>;

    /// The file of this name in a directory. A symbolic link isn't followed.
    ///
    /// # Errors
    /// There is none, or it can't be opened.
    fn look(&self, directory: &Self::Node, name: &OsStr) -> io::Result<Found<Self::Node>>;

    /// Opens the file of this name in a directory without looking at it.
    ///
    /// # Errors
    /// There is none, or it can't be opened.
    fn open(&self, directory: &Self::Node, name: &OsStr) -> io::Result<Self::Node>;

    /// The entries of a directory. Symbolic links may be left out, since a link needs no rule.
    ///
    /// # Errors
    /// It can't be read.
    fn list(&self, directory: &Self::Node) -> io::Result<Vec<Entry>>;

    /// What is mounted where.
    ///
    /// # Errors
    /// It can't be read.
    fn mounts(&self) -> io::Result<Vec<Mount>>;
}

/// An entry of a directory.
pub struct Entry {
    /// Its name.
    pub name: OsString,
    /// Whether it is a directory; `None` if that takes a look at the file.
    pub is_directory: Option<bool>,
}

/// A file that was found.
#[derive(Clone)]
pub struct Found<N> {
    /// The file.
    pub node: N,
    /// Its device and inode.
    pub id: (u64, u64),
    /// How many names it has on its file system (`st_nlink`).
    pub links: u64,
    /// The number of the mount that it was found on.
    pub mount: u64,
    /// What kind of file it is.
    pub kind: Kind,
}

/// A kind of file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A symbolic link, and where it leads.
    Link(PathBuf),
    /// A character device.
    Device,
    /// Anything else.
    File,
}

/// A line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its number.
    pub id: u64,
    /// The number of the mount that it is on.
    pub parent: u64,
    /// The file system: mounts with the same device show the same one.
    pub device: (u32, u32),
    /// The part of the file system that it shows.
    pub root: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
}

/// The paths that a daemon claims as its own. They are absolute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// The paths that it may write to; empty if it isn't sandboxed.
    pub write: Vec<PathBuf>,
    /// Further paths that only it may read.
    pub private: Vec<PathBuf>,
}

/// What one rule allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading and executing.
    Read,
    /// Everything.
    Write,
}

/// Why no rules can be made.
#[derive(Debug)]
pub enum NoRules {
    /// A symbolic link lies where a sandboxed daemon may write.
    Link(PathBuf),
    /// A path in `write` can't be opened.
    NoWrite(PathBuf, io::Error),
    /// The last component of a path in `write` is missing and can't be made.
    NotMade(PathBuf, io::Error),
    /// A hidden path lies below a path that the daemon may write to.
    HiddenBelowWrite {
        /// The hidden path.
        hidden: PathBuf,
        /// The path that it may write to.
        write: PathBuf,
    },
    /// Another mount shows something hidden below this path, which is the daemon's own.
    OnTheWay(PathBuf),
    /// A look at a file failed.
    Look(PathBuf, io::Error),
}

impl fmt::Display for NoRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(path) => write!(
                f,
                "{} is a symbolic link where a sandboxed daemon may write, so it isn't followed; replace it by what it leads to",
                path.display()
            ),
            Self::NoWrite(path, e) => {
                write!(f, "it may write to {}, which can't be opened: {e}; create it, or mount it", path.display())
            }
            Self::NotMade(path, e) => {
                write!(
                    f,
                    "it may write to {}, which isn't there and can't be made: {e}; create it, or mount it",
                    path.display()
                )
            }
            Self::HiddenBelowWrite { hidden, write } => write!(
                f,
                "{} is hidden from it but lies below {}, which it may write to; move one of the two",
                hidden.display(),
                write.display()
            ),
            Self::OnTheWay(path) => write!(
                f,
                "another mount shows something that is hidden from it below {}, which is its own; remove that mount",
                path.display()
            ),
            Self::Look(path, e) => write!(f, "cannot look at {}: {e}", path.display()),
        }
    }
}

/// A path in which all links were followed, as far as it exists.
struct Resolved<N> {
    path: PathBuf,
    /// The part that exists, from the root on.
    chain: Chain<N>,
    /// How many names at its end don't exist.
    missing: usize,
    /// Whether it leads through a directory that a sandboxed daemon may write to.
    is_through_written: bool,
}

impl<N> Resolved<N> {
    fn mount(&self) -> u64 {
        self.chain.last().map_or(0, |found| found.mount)
    }
}

/// The claims on a path and on what is below it, as a tree of names.
#[derive(Default)]
struct Mark {
    claim: Option<Claim>,
    below: BTreeMap<OsString, Mark>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Claim {
    Hidden,
    Own(Access),
}

impl Mark {
    fn set(&mut self, path: &Path, claim: Claim) {
        let names = path.components().filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            _ => None,
        });
        names.fold(self, |mark, name| mark.below.entry(name).or_default()).claim = Some(claim);
    }

    /// The first hidden path below this one.
    fn hidden_below(&self, path: &Path) -> Option<PathBuf> {
        self.below.iter().find_map(|(name, mark)| {
            let path = path.join(name);
            if mark.claim == Some(Claim::Hidden) { Some(path) } else { mark.hidden_below(&path) }
        })
    }

    fn hides_below(&self) -> bool {
        self.below.values().any(|mark| mark.claim == Some(Claim::Hidden) || mark.hides_below())
    }

    fn write_at_or_below(&self, path: &Path) -> Option<PathBuf> {
        if self.claim == Some(Claim::Own(Access::Write)) {
            return Some(path.to_owned());
        }
        self.below.iter().find_map(|(name, mark)| mark.write_at_or_below(&path.join(name)))
    }
}

/// Follows links, except in a directory for which `is_written` returns true.
fn resolve<T: Tree>(tree: &T, path: &Path, is_written: impl Fn(&Path) -> bool) -> Result<Resolved<T::Node>, NoRules> {
    let mut links = 0;
    let mut todo: Vec<OsString> = names(path).into_iter().rev().collect();
    let mut path = PathBuf::from("/");
    let mut chain = vec![tree.root().map_err(|e| NoRules::Look(path.clone(), e))?];
    let mut is_through_written = false;
    while let Some(name) = todo.pop() {
        if name == ".." {
            path.pop();
            chain.truncate((chain.len() - 1).max(1));
            continue;
        }
        let is_written = is_written(&path);
        is_through_written |= is_written;
        let Some(next) = look(tree, &chain, &path, &name)? else {
            let rest: Vec<OsString> =
                [name].into_iter().chain(todo.into_iter().rev()).filter(|name| name != "..").collect();
            let missing = rest.len();
            return Ok(Resolved {
                path: rest.into_iter().fold(path, |path, name| path.join(name)),
                chain,
                missing,
                is_through_written,
            });
        };
        let Kind::Link(target) = next.kind else {
            path.push(name);
            chain.push(next);
            continue;
        };
        links += 1;
        if is_written {
            return Err(NoRules::Link(path.join(name)));
        } else if links > MAX_LINKS {
            return Err(NoRules::Look(path.join(name), io::Error::from_raw_os_error(nix::libc::ELOOP)));
        }
        if target.is_absolute() {
            path = PathBuf::from("/");
            chain.truncate(1);
        }
        todo.extend(names(&target).into_iter().rev());
    }
    Ok(Resolved { path, chain, missing: 0, is_through_written })
}

/// The next file of a chain; `None` if there is none, or the process that starts the daemon can't reach it. With any other error it
/// would be unknown what is there, and whether it is a link.
fn look<T: Tree>(
    tree: &T,
    chain: &[Found<T::Node>],
    path: &Path,
    name: &OsStr,
) -> Result<Option<Found<T::Node>>, NoRules> {
    let Some(last) = chain.last() else { return Ok(None) };
    match tree.look(&last.node, name) {
        Ok(found) => Ok(Some(found)),
        Err(e) if is_absent(&e) => Ok(None),
        Err(e) => Err(NoRules::Look(path.join(name), e)),
    }
}

/// Whether this error means that there is no such file, at least for this process.
pub fn is_absent(e: &io::Error) -> bool {
    use nix::libc::{EACCES, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR};
    matches!(e.raw_os_error(), Some(ENOENT | ENOTDIR | EACCES | ENAMETOOLONG | ELOOP))
        || e.kind() == io::ErrorKind::NotFound
}

/// The rest of a path below this directory, without a slash before it; empty if the path is the directory. As all paths here, both
/// have no slash at their end.
fn rest<'a>(path: &'a Path, directory: &Path) -> Option<&'a OsStr> {
    let rest = match directory.as_os_str().as_bytes() {
        b"/" => path.as_os_str().as_bytes().strip_prefix(b"/")?,
        directory => match path.as_os_str().as_bytes().strip_prefix(directory)? {
            [] => &[],
            [b'/', rest @ ..] => rest,
            _ => return None,
        },
    };
    Some(OsStr::from_bytes(rest))
}

/// Whether two paths are the same. Comparing bytes is quicker than comparing part by part.
fn is_same(one: &Path, other: &Path) -> bool {
    one.as_os_str() == other.as_os_str()
}

fn join(directory: &Path, rest: &OsStr) -> PathBuf {
    if rest.is_empty() { directory.to_owned() } else { directory.join(rest) }
}

fn names(path: &Path) -> Vec<OsString> {
    let name = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        _ => None,
    };
    path.components().filter_map(name).collect()
}

/// All names of the file at a path without links: the path itself, and the names on other mounts that show the file, a part of it, or
/// what is mounted below it. Also the names of the mount points on the way, since Landlock walks on from there.
fn all_names(mounts: &[Mount], path: &Path, mount: u64) -> Vec<PathBuf> {
    let mut all = vec![path.to_owned()];
    // The mounts that show this part of a file system and, with `and_parts`, those that show a part of it.
    let add = |all: &mut Vec<PathBuf>, device, inside: &Path, and_parts: bool, but: &Path| {
        for other in mounts.iter().filter(|other| other.device == device) {
            let name = match rest(inside, &other.root) {
                Some(rest) => join(&other.point, rest),
                None if and_parts && rest(&other.root, inside).is_some() => other.point.clone(),
                None => continue,
            };
            if !is_same(&name, but) && !all.iter().any(|other| is_same(other, &name)) {
                all.push(name);
            }
        }
    };
    let (mut at, mut mount) = (path.to_owned(), mount);
    // No chain of mounts is longer than the list.
    for _ in mounts {
        let Some(on) = mounts.iter().find(|other| other.id == mount) else { break };
        let Some(rest) = rest(&at, &on.point) else { break };
        // A directory on the way isn't hidden as a whole.
        add(&mut all, on.device, &join(&on.root, rest), at == path, &at);
        (at, mount) = (on.point.clone(), on.parent);
    }
    // What is mounted below any of these belongs to it. (This ends: each name is a mount point plus the end of an earlier path.)
    let mut next = 0;
    while let Some(name) = all.get(next).cloned() {
        next += 1;
        for below in mounts.iter().filter(|below| rest(&below.point, &name).is_some_and(|rest| !rest.is_empty())) {
            add(&mut all, below.device, &below.root, true, &below.point);
        }
    }
    all
}

/// What is hidden from a daemon, and what is its own.
pub struct Plan<N> {
    marks: Mark,
    /// Device and inode of the hidden files, and of the directories on the way to them. If a file has one of these but no mark, the list
    /// of mounts doesn't show this name of it, and it gets no rule.
    hidden: BTreeSet<(u64, u64)>,
    on_the_way: BTreeSet<(u64, u64)>,
    /// Whether a hidden file has several hard links.
    has_links: bool,
    mounts: Vec<Mount>,
    /// Directories that must be made before the rules: the directory above each, and its whole path.
    pub missing: Vec<(Found<N>, PathBuf)>,
}

/// Looks up everything that the daemons claim, for the daemon with this index. `hidden` are paths that belong to no daemon.
///
/// # Errors
/// The daemon must not be started.
pub fn plan<T: Tree>(tree: &T, all: &[Claims], daemon: usize, hidden: &[PathBuf]) -> Result<Plan<T::Node>, NoRules> {
    let mounts = tree.mounts().map_err(|e| NoRules::Look(PathBuf::from("/proc/self/mountinfo"), e))?;
    // Every link is followed here. That does no harm: a daemon whose paths lead through a planted link is refused below.
    let mut written: Vec<PathBuf> = Vec::new();
    for path in all.iter().flat_map(|claims| &claims.write) {
        let resolved = resolve(tree, path, |_| false)?;
        written.extend(all_names(&mounts, &resolved.path, resolved.mount()));
    }
    let is_written = |path: &Path| written.iter().any(|written| rest(path, written).is_some());
    let mut plan = Plan {
        marks: Mark::default(),
        hidden: BTreeSet::new(),
        on_the_way: BTreeSet::new(),
        has_links: false,
        mounts,
        missing: Vec::new(),
    };
    // A path that other daemons name too is still its own.
    let mut mine: BTreeSet<PathBuf> = BTreeSet::new();
    let own = all.get(daemon).cloned().unwrap_or_default();
    for path in &own.private {
        let path = resolve(tree, path, is_written)?.path;
        plan.marks.set(&path, Claim::Own(Access::Read));
        mine.insert(path);
    }
    for path in &own.write {
        let mut resolved = resolve(tree, path, is_written)?;
        match resolved.chain.pop() {
            _ if resolved.missing == 0 => {}
            Some(parent) if resolved.missing == 1 && !resolved.is_through_written => {
                plan.missing.push((parent, resolved.path.clone()));
            }
            _ => return Err(NoRules::NoWrite(path.clone(), io::Error::from_raw_os_error(nix::libc::ENOENT))),
        }
        plan.marks.set(&resolved.path, Claim::Own(Access::Write));
        mine.insert(resolved.path);
    }
    let others = all.iter().enumerate().filter(|(index, _)| *index != daemon).map(|(_, claims)| claims);
    for path in others.flat_map(|claims| claims.write.iter().chain(&claims.private)).chain(hidden) {
        let resolved = resolve(tree, path, is_written)?;
        for name in all_names(&plan.mounts, &resolved.path, resolved.mount()) {
            if mine.contains(&name) {
                continue;
            }
            plan.marks.set(&name, Claim::Hidden);
            let (mut chain, is_whole) = chain(tree, &name)?;
            if let Some(found) = chain.pop_if(|_| is_whole) {
                plan.has_links |= found.kind != Kind::Directory && found.links > 1;
                plan.hidden.insert(found.id);
            }
            plan.on_the_way.extend(chain.iter().map(|found| found.id));
        }
    }
    Ok(plan)
}

/// How the walk has reached a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It may be read, but no rule allows that yet.
    Open,
    /// It may be read, by the rule of a directory above it.
    Covered,
    /// It is hidden.
    Closed,
}

/// Takes a rule: for which file, whether that is a directory, and what is allowed.
pub type Emit<'a, N> = dyn FnMut(&N, bool, Access) -> io::Result<()> + 'a;

impl<N: Clone> Plan<N> {
    /// Passes each rule to `emit`. The walk follows no link.
    ///
    /// # Errors
    /// The daemon must not be started.
    pub fn rules<T: Tree<Node = N>>(&self, tree: &T, emit: &mut Emit<'_, N>) -> Result<(), NoRules> {
        let root = tree.root().map_err(|e| NoRules::Look(PathBuf::from("/"), e))?;
        self.visit(tree, &self.marks, &root, Path::new("/"), State::Open, emit)
    }

    fn visit<T: Tree<Node = N>>(
        &self,
        tree: &T,
        mark: &Mark,
        found: &Found<N>,
        path: &Path,
        state: State,
        emit: &mut Emit<'_, N>,
    ) -> Result<(), NoRules> {
        let failed = |e| NoRules::Look(path.to_owned(), e);
        if matches!(found.kind, Kind::Link(_)) {
            // It wasn't a link when the path was resolved.
            return Err(NoRules::Link(path.to_owned()));
        }
        let is_directory = found.kind == Kind::Directory;
        let hides_below = mark.hides_below();
        let state = match mark.claim {
            Some(Claim::Own(Access::Write)) => {
                if let Some(hidden) = mark.hidden_below(path) {
                    return Err(NoRules::HiddenBelowWrite { hidden, write: path.to_owned() });
                } else if self.on_the_way.contains(&found.id) {
                    return Err(NoRules::OnTheWay(path.to_owned()));
                }
                return emit(&found.node, is_directory, Access::Write).map_err(failed);
            }
            Some(Claim::Own(Access::Read)) if self.on_the_way.contains(&found.id) && !hides_below => {
                return Err(NoRules::OnTheWay(path.to_owned()));
            }
            Some(Claim::Own(Access::Read)) => State::Open,
            Some(Claim::Hidden) => State::Closed,
            // It is another name of something hidden, or of a directory on the way there.
            None if is_directory && self.is_hidden(found) && !hides_below => State::Closed,
            None if !is_directory && self.hidden.contains(&found.id) => State::Closed,
            None => state,
        };
        let mut inside = state;
        if state == State::Open {
            // A file has nothing below it, even if something is claimed there.
            if is_directory && hides_below {
                self.allow_others(tree, mark, found, path, emit)?;
            } else {
                emit(&found.node, is_directory, Access::Read).map_err(failed)?;
                inside = State::Covered;
            }
        }
        for (name, mark) in &mark.below {
            let here = path.join(name);
            match tree.look(&found.node, name) {
                Ok(next) => self.visit(tree, mark, &next, &here, inside, emit)?,
                Err(e) => {
                    if let Some(write) = mark.write_at_or_below(&here) {
                        return Err(NoRules::NoWrite(write, e));
                    } else if !is_absent(&e) {
                        return Err(NoRules::Look(here, e));
                    }
                }
            }
        }
        Ok(())
    }

    /// Allows the entries of a directory that have no mark.
    fn allow_others<T: Tree<Node = N>>(
        &self,
        tree: &T,
        mark: &Mark,
        found: &Found<N>,
        path: &Path,
        emit: &mut Emit<'_, N>,
    ) -> Result<(), NoRules> {
        let all = match tree.list(&found.node) {
            // The daemon runs as the same user, so it couldn't list the directory either.
            Err(e) if e.raw_os_error() == Some(nix::libc::EACCES) => return Ok(()),
            all => all.map_err(|e| NoRules::Look(path.to_owned(), e))?,
        };
        let on = self.mounts.iter().find(|mount| mount.id == found.mount);
        let is_shown = |mount: &&Mount| on.is_none_or(|on| on.device == mount.device);
        let has_one_name = on.is_some() && self.mounts.iter().filter(is_shown).count() == 1 && !self.has_links;
        let mount_points: Vec<&OsStr> = self.mounts.iter().filter_map(|mount| rest(&mount.point, path)).collect();
        for Entry { name, is_directory } in all.iter().filter(|entry| !mark.below.contains_key(&entry.name)) {
            let is_known = has_one_name && !mount_points.contains(&name.as_os_str());
            let opened = match is_directory.filter(|_| is_known) {
                Some(is_directory) => tree.open(&found.node, name).map(|node| Some((node, is_directory))),
                None => tree.look(&found.node, name).map(|next| {
                    // A link needs no rule, only its target may.
                    let is_open = !matches!(next.kind, Kind::Link(_)) && !self.is_hidden(&next);
                    is_open.then_some((next.node, next.kind == Kind::Directory))
                }),
            };
            let failed = |e| NoRules::Look(path.join(name), e);
            match opened {
                Ok(Some((node, is_directory))) => emit(&node, is_directory, Access::Read).map_err(failed)?,
                // The next rules would fail as well.
                Err(e) if is_out_of_resources(&e) => return Err(failed(e)),
                // It was just removed, or this user can't reach it. Its siblings still get their rules.
                Ok(None) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn is_hidden(&self, found: &Found<N>) -> bool {
        self.hidden.contains(&found.id) || self.on_the_way.contains(&found.id)
    }
}

fn is_out_of_resources(e: &io::Error) -> bool {
    use nix::libc::{EMFILE, ENFILE, ENOMEM};
    matches!(e.raw_os_error(), Some(EMFILE | ENFILE | ENOMEM))
}

type Chain<N> = Vec<Found<N>>;

/// The part of a path that exists, from the root on, and whether that is the whole path. No link is followed.
fn chain<T: Tree>(tree: &T, path: &Path) -> Result<(Chain<T::Node>, bool), NoRules> {
    let mut chain = vec![tree.root().map_err(|e| NoRules::Look(PathBuf::from("/"), e))?];
    for name in names(path) {
        match look(tree, &chain, path, &name)? {
            Some(next) => chain.push(next),
            None => return Ok((chain, false)),
        }
    }
    Ok((chain, true))
}

/// The file at a path that has no links.
///
/// # Errors
/// There is none.
pub fn exactly<T: Tree>(tree: &T, path: &Path) -> io::Result<Found<T::Node>> {
    names(path).iter().try_fold(tree.root()?, |found, name| tree.look(&found.node, name))
}
