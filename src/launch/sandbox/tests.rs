//! The rules for files, compared with a slow computation over random trees, and with what they should be in corners.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use super::paths::{Access, Claims, Entry, Found, Kind, Mount, NoRules, Tree, plan};
use crate::rng::Rng;
use crate::table::Table;

/// File systems without hard links, and mounts of them.
#[derive(Default)]
struct World {
    inodes: RefCell<Vec<Inode>>,
    mounts: Vec<(Mount, usize)>,
}

struct Inode {
    parent: usize,
    kind: Kind,
    below: BTreeMap<OsString, usize>,
}

#[derive(Clone, Debug)]
struct Node {
    path: PathBuf,
    mount: usize,
    inode: usize,
}

impl World {
    fn inode(&self, parent: usize, name: &str, kind: Kind) -> usize {
        let mut inodes = self.inodes.borrow_mut();
        let new = inodes.len();
        inodes.push(Inode { parent: if name.is_empty() { new } else { parent }, kind, below: BTreeMap::new() });
        if !name.is_empty() {
            inodes[parent].below.insert(OsString::from(name), new);
        }
        new
    }

    /// Mounts a part of a file system.
    fn mount(&mut self, device: u32, root: &str, inode: usize, on: Option<&Node>) {
        let id = 10 + self.mounts.len() as u64;
        let (parent, point) = match on {
            Some(on) => (self.mounts[on.mount].0.id, on.path.clone()),
            None => (1, PathBuf::from("/")),
        };
        self.mounts.push((Mount { id, parent, device: (0, device), root: PathBuf::from(root), point }, inode));
    }

    fn found(&self, mut node: Node) -> Found<Node> {
        // What is mounted there last covers the rest.
        while let Some(over) = self.mounts.iter().rposition(|(mount, _)| {
            mount.parent == self.mounts[node.mount].0.id && mount.point == node.path && node.path != Path::new("/")
        }) {
            node = Node { mount: over, inode: self.mounts[over].1, path: node.path };
        }
        let kind = self.inodes.borrow()[node.inode].kind.clone();
        Found { id: (0, node.inode as u64), links: 1, mount: self.mounts[node.mount].0.id, kind, node }
    }

    /// A directory and its like, by a path with links.
    fn follow(&self, path: &Path, links: usize) -> Option<Found<Node>> {
        let mut at = self.root().ok()?;
        for name in path.iter().skip(1) {
            let next = self.look(&at.node, name).ok()?;
            at = match &next.kind {
                Kind::Link(_) if links == 0 => return None,
                Kind::Link(target) => self.follow(target, links - 1)?,
                _ => next,
            };
        }
        Some(at)
    }

    /// The inodes of a file and of all that is above it, as Landlock walks over them: of a place where something is
    /// mounted only what is above.
    fn above(&self, node: &Node) -> Vec<usize> {
        let (mut all, mut at) = (Vec::new(), node.clone());
        loop {
            all.push(at.inode);
            while self.mounts[at.mount].1 == at.inode {
                let (mount, _) = &self.mounts[at.mount];
                let Some(on) = self.mounts.iter().position(|(on, _)| on.id == mount.parent) else { return all };
                // The place that it covers: by the names from the root of the mount that this is on.
                let rest = mount.point.strip_prefix(&self.mounts[on].0.point).unwrap();
                let below = |inode: usize, name: &OsStr| self.inodes.borrow()[inode].below[name];
                at = Node { path: mount.point.clone(), mount: on, inode: rest.iter().fold(self.mounts[on].1, below) };
            }
            at.inode = self.inodes.borrow()[at.inode].parent;
        }
    }

    /// All that has a name, without links.
    fn all(&self) -> Vec<Node> {
        let mut all = vec![self.root().unwrap()];
        let mut at = 0;
        while let Some(found) = all.get(at).cloned() {
            at += 1;
            for entry in self.list(&found.node).unwrap() {
                let next = self.look(&found.node, &entry.name).unwrap();
                if !matches!(next.kind, Kind::Link(_)) && all.len() < 3000 {
                    all.push(next);
                }
            }
        }
        all.into_iter().map(|found| found.node).collect()
    }

    /// The directories and files that this list makes; `/a/b -> /c` is a link, and what ends with a slash a directory.
    fn of(lines: &[&str]) -> Self {
        let mut world = Self::default();
        let root = world.inode(0, "", Kind::Directory);
        world.mount(0, "/", root, None);
        for line in lines {
            world.add(root, line);
        }
        world
    }

    fn add(&self, root: usize, line: &str) -> usize {
        let (path, target) = line.split_once(" -> ").map_or((line, None), |(path, target)| (path, Some(target)));
        let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        names.iter().enumerate().fold(root, |at, (index, name)| {
            let is_last = index + 1 == names.len() && !path.ends_with('/');
            let kind = match target {
                Some(target) if is_last => Kind::Link(PathBuf::from(target)),
                None if is_last => Kind::File,
                _ => Kind::Directory,
            };
            let there = self.inodes.borrow()[at].below.get(OsStr::new(name)).copied();
            there.unwrap_or_else(|| self.inode(at, name, kind))
        })
    }
}

impl Tree for World {
    type Node = Node;

    fn root(&self) -> io::Result<Found<Node>> {
        Ok(self.found(Node { path: PathBuf::from("/"), mount: 0, inode: self.mounts[0].1 }))
    }

    fn look(&self, directory: &Node, name: &OsStr) -> io::Result<Found<Node>> {
        let inode = self.inodes.borrow()[directory.inode].below.get(name).copied().ok_or(io::ErrorKind::NotFound)?;
        Ok(self.found(Node { path: directory.path.join(name), mount: directory.mount, inode }))
    }

    fn open(&self, directory: &Node, name: &OsStr) -> io::Result<Node> {
        Ok(self.look(directory, name)?.node)
    }

    fn list(&self, directory: &Node) -> io::Result<Vec<Entry>> {
        let inodes = self.inodes.borrow();
        // As getdents(2) does, it tells what is below a mount and not what is mounted.
        let entry = |(name, inode): (&OsString, &usize)| {
            let kind = &inodes[*inode].kind;
            let is_directory = (!matches!(kind, Kind::Link(_))).then_some(*kind == Kind::Directory);
            Entry { name: name.clone(), is_directory }
        };
        Ok(inodes[directory.inode].below.iter().map(entry).collect())
    }

    fn mounts(&self) -> io::Result<Vec<Mount>> {
        Ok(self.mounts.iter().map(|(mount, _)| mount.clone()).collect())
    }
}

type Rules = HashMap<usize, Access>;

fn rules(world: &World, all: &[Claims], hidden: &[&str]) -> Result<Rules, NoRules> {
    let hidden: Vec<PathBuf> = hidden.iter().map(PathBuf::from).collect();
    let plan = plan(world, all, 0, &hidden)?;
    for (parent, path) in &plan.missing {
        world.inode(parent.node.inode, path.file_name().unwrap().to_str().unwrap(), Kind::Directory);
    }
    let mut rules = Rules::new();
    plan.rules(world, &mut |node, is_directory, access| {
        assert_eq!(is_directory, world.inodes.borrow()[node.inode].kind == Kind::Directory, "{node:?}");
        // Landlock adds the rights of two rules for one inode.
        if rules.get(&node.inode) != Some(&Access::Write) {
            rules.insert(node.inode, access);
        }
        Ok(())
    })?;
    Ok(rules)
}

fn claims(write: &[&str], private: &[&str]) -> Claims {
    let paths = |all: &[&str]| all.iter().map(PathBuf::from).collect();
    Claims { write: paths(write), private: paths(private) }
}

fn granted(world: &World, rules: &Rules, node: &Node) -> Option<Access> {
    let all: Vec<Access> = world.above(node).iter().filter_map(|inode| rules.get(inode).copied()).collect();
    all.iter().find(|access| **access == Access::Write).or(all.first()).copied()
}

/// What may be read and written, as `r` or `w` before the path; files only.
fn seen(world: &World, rules: &Rules) -> Vec<String> {
    let mut seen = Vec::new();
    for node in world.all() {
        let letter = match granted(world, rules, &node) {
            _ if world.inodes.borrow()[node.inode].kind != Kind::File => continue,
            None => continue,
            Some(Access::Read) => 'r',
            Some(Access::Write) => 'w',
        };
        seen.push(format!("{letter} {}", node.path.display()));
    }
    seen.sort();
    seen
}

#[test]
fn what_is_anothers_is_hidden_and_what_is_around_it_is_not() {
    let world =
        World::of(&["/etc/passwd", "/etc/app/a/own", "/etc/app/b/secret", "/etc/app/c", "/var/a/data", "/var/b/data"]);
    let all = [claims(&["/var/a"], &["/etc/app/a"]), claims(&["/var/b"], &["/etc/app/b"])];
    let rules = rules(&world, &all, &[]).unwrap();
    assert_eq!(seen(&world, &rules), ["r /etc/app/a/own", "r /etc/app/c", "r /etc/passwd", "w /var/a/data"]);
}

#[test]
fn what_both_name_is_both_daemons() {
    let world = World::of(&["/shared/data", "/other"]);
    let all = [claims(&["/shared"], &[]), claims(&["/shared"], &[])];
    assert_eq!(seen(&world, &rules(&world, &all, &[]).unwrap()), ["r /other", "w /shared/data"]);
}

#[test]
fn a_write_below_what_is_private_to_another_is_its_owners() {
    let world = World::of(&["/b/secret", "/b/for-a/data"]);
    let all = [claims(&["/b/for-a"], &[]), claims(&[], &["/b"])];
    assert_eq!(seen(&world, &rules(&world, &all, &[]).unwrap()), ["w /b/for-a/data"]);
}

#[test]
fn what_a_link_leads_to_is_hidden_and_not_the_link() {
    let world = World::of(&["/conf/current -> v2", "/conf/v2/secret", "/conf/v1/old"]);
    let all = [claims(&[], &[]), claims(&[], &["/conf/current"])];
    let hidden = rules(&world, &all, &[]);
    // A relative target goes on from where the link is; this tree's slow walk has absolute ones only.
    assert_eq!(seen(&world, &hidden.unwrap()), ["r /conf/v1/old"]);
}

#[test]
fn a_link_where_a_sandboxed_daemon_may_write_is_not_followed() {
    let world = World::of(&["/var/b/link -> /etc", "/etc/secret", "/var/a/"]);
    for all in [
        [claims(&["/var/b/link"], &[]), claims(&["/var/b"], &[])],
        [claims(&["/var/a"], &["/var/b/link"]), claims(&["/var/b"], &[])],
        [claims(&["/var/a"], &[]), claims(&["/var/b"], &["/var/b/link/x"])],
    ] {
        let error = rules(&world, &all, &[]).unwrap_err();
        assert!(matches!(&error, NoRules::Link(path) if path == Path::new("/var/b/link")), "{error}");
    }
}

#[test]
fn the_last_part_of_write_is_made_unless_a_daemon_may_write_there() {
    let world = World::of(&["/var/b/"]);
    let made = rules(&world, &[claims(&["/var/a"], &[]), claims(&["/var/b"], &[])], &[]).unwrap();
    world.add(0, "/var/a/data");
    assert_eq!(seen(&world, &made), ["w /var/a/data"]);
    for missing in ["/var/b/a", "/var/c/a"] {
        let error = rules(&world, &[claims(&[missing], &[]), claims(&["/var/b"], &[])], &[]).unwrap_err();
        assert!(matches!(&error, NoRules::NoWrite(path, _) if path == Path::new(missing)), "{error}");
    }
}

#[test]
fn what_is_hidden_must_not_lie_below_what_may_be_written_also_by_a_link() {
    let world = World::of(&["/var/a/b/secret", "/b -> /var/a/b"]);
    let error = rules(&world, &[claims(&["/var/a"], &[]), claims(&[], &["/b"])], &[]).unwrap_err();
    assert!(matches!(&error, NoRules::HiddenBelowWrite { .. }), "{error}");
}

#[test]
fn a_second_mount_above_at_and_below_what_is_hidden_is_hidden_too() {
    for (root, names) in
        [("/", vec!["r /vol/x/open", "r /mirror/x/open"]), ("/x", vec!["r /mirror/open", "r /vol/x/open"])]
    {
        let mut world = World::of(&["/vol/", "/mirror/", "/etc/passwd"]);
        let volume = world.inode(0, "", Kind::Directory);
        world.add(volume, "/x/secret/data");
        world.add(volume, "/x/open");
        let at = |world: &World, path: &str| world.follow(Path::new(path), 0).unwrap().node;
        let on = at(&world, "/vol");
        world.mount(1, "/", volume, Some(&on));
        let part = at(&world, Path::new("/vol").join(root.trim_start_matches('/')).to_str().unwrap()).inode;
        let on = at(&world, "/mirror");
        world.mount(1, root, part, Some(&on));
        let rules = rules(&world, &[claims(&[], &[]), claims(&[], &["/vol/x/secret"])], &[]).unwrap();
        let mut expected: Vec<&str> = names;
        expected.push("r /etc/passwd");
        expected.sort_unstable();
        assert_eq!(seen(&world, &rules), expected);
    }
    let mut world = World::of(&["/vol/", "/below/", "/etc/passwd"]);
    let volume = world.inode(0, "", Kind::Directory);
    let inner = world.add(volume, "/secret/inner/");
    world.add(volume, "/secret/inner/data");
    let on = world.follow(Path::new("/vol"), 0).unwrap().node;
    world.mount(1, "/", volume, Some(&on));
    let on = world.follow(Path::new("/below"), 0).unwrap().node;
    world.mount(1, "/secret/inner", inner, Some(&on));
    let rules = rules(&world, &[claims(&[], &[]), claims(&[], &["/vol/secret"])], &[]).unwrap();
    assert_eq!(seen(&world, &rules), ["r /etc/passwd"]);
}

/// Draws paths, and what else a tree is made of.
pub struct Dice(Rng);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(Rng::new(seed))
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.0.index(limit)
    }

    pub fn path(&mut self, parts: usize) -> String {
        (0..=self.below(parts)).map(|_| ["/a", "/b", "/c"][self.below(3)]).collect()
    }
}

/// A tree with mounts, and what daemons claim of it.
fn random(dice: &mut Dice) -> (World, Vec<Claims>) {
    let mut world = World::of(&[]);
    let mut roots = vec![0];
    for _ in 0..dice.below(3) {
        roots.push(world.inode(0, "", Kind::Directory));
    }
    for root in &roots {
        for _ in 0..3 + dice.below(12) {
            let path = dice.path(4);
            // A part of it may be a file or a link already.
            let line = match dice.below(6) {
                0 => format!("{path} -> {}", dice.path(4)),
                1 | 2 => path + "/",
                _ => path,
            };
            let is_below_a_directory = |path: &str| {
                let names: Vec<&str> =
                    path.split(" -> ").next().unwrap().split('/').filter(|name| !name.is_empty()).collect();
                let mut at = *root;
                for name in &names {
                    let inodes = world.inodes.borrow();
                    if inodes[at].kind != Kind::Directory {
                        return false;
                    }
                    let Some(next) = inodes[at].below.get(OsStr::new(name)) else { return true };
                    at = *next;
                }
                true
            };
            if is_below_a_directory(&line) {
                world.add(*root, &line);
            }
        }
    }
    for _ in 0..dice.below(4) {
        let device = dice.below(roots.len());
        let mut places: Vec<Node> = world.all();
        places.retain(|node| node.path != Path::new("/") && world.inodes.borrow()[node.inode].kind == Kind::Directory);
        let Some(on) = places.get(dice.below(places.len().max(1))).cloned() else { continue };
        // A part of that file system, by its own names.
        let (mut inode, mut root) = (roots[device], PathBuf::from("/"));
        for _ in 0..dice.below(3) {
            let inodes = world.inodes.borrow();
            let mut below = inodes[inode].below.iter().filter(|(_, next)| inodes[**next].kind == Kind::Directory);
            let Some((name, next)) = below.next() else { break };
            (root, inode) = (root.join(name), *next);
        }
        world.mount(u32::try_from(device).unwrap(), root.to_str().unwrap(), inode, Some(&on));
    }
    let some = |dice: &mut Dice, most| (0..dice.below(most)).map(|_| PathBuf::from(dice.path(4))).collect();
    let all = (0..3).map(|_| Claims { write: some(dice, 2), private: some(dice, 3) }).collect();
    (world, all)
}

/// By each file's own walk upwards: the nearest claim decides, and an own one beats another's.
fn expected(world: &World, all: &[Claims], node: &Node) -> (bool, bool) {
    let inodes = |paths: &[PathBuf]| -> Vec<usize> {
        paths.iter().filter_map(|path| Some(world.follow(path, 40)?.node.inode)).collect()
    };
    let (own_write, own_private) = (inodes(&all[0].write), inodes(&all[0].private));
    let hidden: Vec<usize> =
        all[1..].iter().flat_map(|other| [inodes(&other.write), inodes(&other.private)].concat()).collect();
    let above = world.above(node);
    let may_write = above.iter().any(|inode| own_write.contains(inode));
    let decides =
        above.iter().find(|inode| own_write.contains(inode) || own_private.contains(inode) || hidden.contains(inode));
    let is_hidden = decides.is_some_and(|inode| !own_write.contains(inode) && !own_private.contains(inode));
    (!is_hidden, may_write)
}

#[test]
fn over_random_trees_the_rules_allow_what_a_slow_computation_allows() {
    let (mut compared, mut refused, mut hidden, mut later) = (0, 0, 0, 0);
    for seed in 1..1500u64 {
        let mut dice = Dice::new(seed);
        let (world, all) = random(&mut dice);
        let Ok(rules) = rules(&world, &all, &[]) else {
            refused += 1;
            continue;
        };
        let devices: Vec<(u32, u32)> = world.mounts.iter().map(|(mount, _)| mount.device).collect();
        let has_second_mounts = (1..devices.len()).any(|index| devices[..index].contains(&devices[index]));
        let check = |is_before: bool| {
            let mut hidden = 0;
            for node in world.all() {
                let (may_read, may_write) = expected(&world, &all, &node);
                let granted = granted(&world, &rules, &node);
                let context = || format!("seed {seed}: {} {all:?}", node.path.display());
                assert!(may_read || granted.is_none(), "hidden, but open: {}", context());
                assert!(may_write || granted != Some(Access::Write), "it may be written: {}", context());
                hidden += usize::from(!may_read);
                // Other names of what is open needn't be, and directories on the way to what is hidden can't be.
                if is_before && !has_second_mounts && world.inodes.borrow()[node.inode].kind == Kind::File {
                    assert_eq!(
                        (may_read, may_write),
                        (granted.is_some(), granted == Some(Access::Write)),
                        "{}",
                        context()
                    );
                }
            }
            hidden
        };
        hidden += check(true);
        compared += 1;
        // What is hidden before it exists must be hidden when it does.
        for path in all[1..].iter().flat_map(|other| &other.private) {
            let parent = path.parent().and_then(|parent| world.follow(parent, 40));
            if let Some(parent) = parent.filter(|parent| parent.kind == Kind::Directory)
                && world.look(&parent.node, path.file_name().unwrap()).is_err()
            {
                world.inode(parent.node.inode, path.file_name().unwrap().to_str().unwrap(), Kind::File);
                later += 1;
            }
        }
        check(false);
    }
    assert!(compared > 500 && hidden > 1000 && later > 100, "{compared} {refused} {hidden} {later}");
}

#[test]
fn a_probe_may_connect_to_its_daemons_own_ports() {
    let text = "[[daemon]]\nname = 'a'\ncommand = ['a']\nlisten = [{ tcp = '0.0.0.0:9100' }]\n[daemon.sandbox]\n";
    for (lines, expected) in [
        ("bind = [80]\nconnect = [443]", Some(vec![443, 80, 9100])),
        ("connect = []", Some(vec![9100])),
        ("bind = [80]", None),
    ] {
        let table = Table::parse(&format!("{text}{lines}"), "t").unwrap();
        let mut entry = super::Entry::new(&table.daemons[0]);
        entry.allow_probe();
        assert_eq!(entry.sandbox.unwrap().connect, expected, "{lines}");
    }
}
