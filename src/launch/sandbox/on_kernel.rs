//! Tests the rules on this kernel: makes random trees with symbolic links, hard links and mounts, confines a thread, and compares what
//! it can open with a slow computation.
//!
//! `SANDBOX_TREES=20000 cargo test --lib on_this_kernel -- --nocapture` tries more of them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use nix::libc;

use super::tests::Dice;
use super::{Entry, Kernel, NotConfined, Plan, confine_by};
use crate::table::sandbox::Sandbox;

const TREES: &str = "SANDBOX_TREES";
/// The variable that is set in the process that makes the trees, which has a mount namespace of its own.
const HERE: &str = "SANDBOX_TREES_HERE";

#[test]
fn on_this_kernel_a_confined_thread_opens_exactly_what_is_allowed() {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]);
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", "launch::sandbox::on_kernel::random_trees", "--nocapture", "--test-threads=1"]);
    command.env(HERE, std::env::var(TREES).unwrap_or_else(|_| "400".to_owned()));
    let output = command.output().unwrap();
    let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && told.contains(" trees: "), "{told}");
    println!("{}", told.lines().find(|line| line.contains(" trees: ")).unwrap());
}

/// Does nothing unless the test above has started it.
#[test]
fn random_trees() {
    let Some(trees) = std::env::var(HERE).ok().and_then(|number| number.parse::<u64>().ok()) else { return };
    let root = std::env::temp_dir();
    mount("none", &root, "tmpfs", 0);
    fs::create_dir(root.join("proc")).unwrap();
    mount("/proc", &root.join("proc"), "", libc::MS_BIND | libc::MS_REC);
    nix::unistd::chroot(&root).unwrap();
    std::env::set_current_dir("/").unwrap();
    let mut counts = Counts::default();
    for seed in 1..=trees {
        one(&mut Dice::new(seed), &mut counts, seed);
        clear();
    }
    println!("{trees} trees: {counts:?}");
    let Counts { confined, hidden, later, exact, .. } = counts;
    assert!(confined * 3 > trees && hidden > trees && later * 10 > trees && exact * 10 > trees, "{counts:?}");
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    confined: u64,
    refused: u64,
    /// How many files and directories a confined thread has tried to open.
    tried: u64,
    hidden: u64,
    writable: u64,
    /// Trees in which no file has a second name. In those, what must open is compared too.
    exact: u64,
    /// Hidden paths that were made after the confinement.
    later: u64,
}

fn mount(what: &str, on: &Path, kind: &str, flags: libc::c_ulong) {
    let c = |bytes: &[u8]| CString::new(bytes).unwrap();
    let (what, on, kind) = (c(what.as_bytes()), c(on.as_os_str().as_bytes()), c(kind.as_bytes()));
    // SAFETY: all three are C strings that live through the call.
    let result = unsafe { libc::mount(what.as_ptr(), on.as_ptr(), kind.as_ptr(), flags, std::ptr::null()) };
    assert_eq!(result, 0, "{what:?} on {on:?}: {}", io::Error::last_os_error());
}

/// Device, mount point and source of all mounts, except those of /proc.
fn mounts() -> Vec<(String, String, String)> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let all = text.lines().map(|line| {
        let mut fields = line.split(' ').skip(2);
        let mut next = || fields.next().unwrap().to_owned();
        let (device, root, point) = (next(), next(), next());
        (device, point, root)
    });
    all.filter(|(_, point, _)| !point.starts_with("/proc")).collect()
}

fn clear() {
    for (_, point, _) in mounts().iter().rev().filter(|(_, point, _)| point != "/") {
        let point = CString::new(point.as_str()).unwrap();
        // SAFETY: it is a C string.
        unsafe { libc::umount2(point.as_ptr(), libc::MNT_DETACH) };
    }
    for entry in fs::read_dir("/").unwrap().map(Result::unwrap).filter(|entry| entry.file_name() != "proc") {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }
}

type Id = (u64, u64);

/// A file with a name, and the directories on the way to it from the root on, which Landlock walks upwards.
struct Node {
    path: PathBuf,
    is_directory: bool,
    /// Whether it is a file with several hard links.
    has_links: bool,
    above: Vec<Id>,
}

fn id(metadata: &fs::Metadata) -> Id {
    (metadata.dev(), metadata.ino())
}

/// All files of the tree, without symbolic links.
fn walk() -> Vec<Node> {
    let above = vec![id(&fs::metadata("/").unwrap())];
    let (mut all, mut at) = (vec![Node { path: PathBuf::from("/"), is_directory: true, has_links: false, above }], 0);
    while let Some(Node { path, is_directory, above, .. }) = all.get(at) {
        at += 1;
        if !is_directory || path == Path::new("/proc") || all.len() > 2000 {
            continue;
        }
        let mut more = Vec::new();
        for entry in fs::read_dir(path).unwrap().map(Result::unwrap) {
            let metadata = fs::symlink_metadata(entry.path()).unwrap();
            if metadata.is_symlink() || entry.path() == Path::new("/proc") {
                continue;
            }
            let above = above.iter().copied().chain([id(&metadata)]).collect();
            let has_links = metadata.is_file() && metadata.nlink() > 1;
            more.push(Node { path: entry.path(), is_directory: metadata.is_dir(), has_links, above });
        }
        all.append(&mut more);
    }
    all
}

fn make_tree(dice: &mut Dice) {
    let mut files: Vec<String> = Vec::new();
    for _ in 0..3 + dice.below(14) {
        let path = dice.path(4);
        // A part of the path may already be a file or a link.
        let _ = fs::create_dir_all(Path::new(&path).parent().unwrap());
        match dice.below(8) {
            0 => drop(symlink(dice.path(4), &path)),
            1 => drop(symlink(format!("..{}", dice.path(2)), &path)),
            2 | 3 => drop(fs::create_dir(&path)),
            4 if !files.is_empty() => drop(fs::hard_link(&files[dice.below(files.len())], &path)),
            _ if fs::symlink_metadata(&path).is_err() && fs::write(&path, "content").is_ok() => files.push(path),
            _ => {}
        }
    }
    for _ in 0..dice.below(4) {
        let all = walk();
        let pick = |dice: &mut Dice, is_directory| {
            let all: Vec<&Node> = all.iter().skip(1).filter(|node| node.is_directory == is_directory).collect();
            all.get(dice.below(all.len().max(1))).map(|node| node.path.clone())
        };
        let is_directory = dice.below(4) > 0;
        let Some(on) = pick(dice, is_directory) else { continue };
        if is_directory && dice.below(3) == 0 {
            mount("none", &on, "tmpfs", 0);
            fs::write(on.join("a"), "content").unwrap();
            fs::create_dir(on.join("b")).unwrap();
            fs::write(on.join("b/a"), "content").unwrap();
        } else {
            // Sometimes all that there is.
            let what =
                if is_directory && dice.below(6) == 0 { Some(PathBuf::from("/")) } else { pick(dice, is_directory) };
            mount(what.unwrap().to_str().unwrap(), &on, "", libc::MS_BIND);
        }
    }
}

fn make_claims(dice: &mut Dice) -> Plan {
    let some = |dice: &mut Dice, most| -> Vec<PathBuf> { (0..dice.below(most)).map(|_| dice.path(4).into()).collect() };
    let daemons = (0..3).map(|number| {
        let (write, private) = (some(dice, 2), some(dice, 3));
        let sandbox = (number == 0 || !write.is_empty()).then(|| Sandbox { write, ..Sandbox::default() });
        Entry { name: format!("d{number}"), sandbox, private, listen: Vec::new() }
    });
    let daemons = daemons.collect();
    let table = (dice.below(4) == 0).then(|| dice.path(4).into());
    Plan { kernel: Kernel::ask(), table, daemons, targets: Vec::new() }
}

/// The daemons' claims, by the files that they lead to.
struct Ids {
    own_write: Vec<Id>,
    own_private: Vec<Id>,
    hidden: Vec<Id>,
    hidden_names: Vec<PathBuf>,
}

impl Ids {
    fn of(plan: &Plan) -> Self {
        let ids = |paths: &mut dyn Iterator<Item = &PathBuf>| {
            paths.filter_map(|path| Some(id(&fs::metadata(path).ok()?))).collect()
        };
        let write = |entry: &'_ Entry| entry.sandbox.as_ref().map(|sandbox| sandbox.write.clone()).unwrap_or_default();
        let others =
            plan.daemons.iter().skip(1).flat_map(|entry| write(entry).into_iter().chain(entry.private.clone()));
        let others: Vec<PathBuf> = others.chain(plan.table.clone()).collect();
        Self {
            own_write: ids(&mut write(&plan.daemons[0]).iter()),
            own_private: ids(&mut plan.daemons[0].private.iter()),
            hidden: ids(&mut others.iter()),
            hidden_names: others.iter().filter_map(|path| path.canonicalize().ok()).collect(),
        }
    }

    /// Whether a file may be read and written. The nearest claim above it decides, and the daemon's own claim beats another's. `None` if
    /// it is a second hard link to a hidden file, which is found only if it lies on the way to something hidden.
    fn allow(&self, node: &Node) -> Option<(bool, bool)> {
        let is_own = |id: &Id| self.own_write.contains(id) || self.own_private.contains(id);
        let decides = node.above.iter().rev().find(|id| is_own(id) || self.hidden.contains(id));
        let may_read = decides.is_none_or(is_own);
        let is_link = node.has_links && decides == node.above.last() && !self.hidden_names.contains(&node.path);
        (may_read || !is_link).then(|| (may_read, node.above.iter().any(|id| self.own_write.contains(id))))
    }
}

/// Whether a file can be read and written; for a directory, whether it can be listed and a file can be made in it.
fn open(path: &Path, is_directory: bool) -> (bool, bool) {
    let is_open = |result: io::Result<()>| match result {
        Ok(()) => true,
        Err(e) if e.raw_os_error() == Some(libc::EACCES) => false,
        Err(e) => panic!("{}: {e}", path.display()),
    };
    let can_read = is_open(File::open(path).map(drop));
    if is_directory {
        let file = path.join("made");
        let can_write = is_open(File::create(&file).map(drop));
        if can_write {
            fs::remove_file(file).unwrap();
        }
        (can_read, can_write)
    } else {
        (can_read, is_open(OpenOptions::new().append(true).open(path).map(drop)))
    }
}

fn one(dice: &mut Dice, counts: &mut Counts, seed: u64) {
    make_tree(dice);
    let plan = make_claims(dice);
    let context = format!(
        "seed {seed}: {:?} {:?}; mounts: {:?}",
        plan.daemons.iter().map(|d| (d.sandbox.as_ref().map(|s| &s.write), &d.private)).collect::<Vec<_>>(),
        plan.table,
        mounts()
    );
    thread::scope(|scope| {
        let (is_confined, confined) = mpsc::channel::<Result<(), NotConfined>>();
        let (try_these, these) = mpsc::channel::<Vec<(PathBuf, bool)>>();
        let (tell, told) = mpsc::channel();
        let plan = &plan;
        scope.spawn(move || {
            is_confined.send(confine_by(plan, "d0")).unwrap();
            while let Ok(all) = these.recv() {
                tell.send(all.iter().map(|(path, is_directory)| open(path, *is_directory)).collect::<Vec<_>>())
                    .unwrap();
            }
        });
        if let Err(why) = confined.recv().unwrap() {
            assert!(matches!(why, NotConfined::Rules(_)), "{why}; {context}");
            counts.refused += 1;
            return;
        }
        counts.confined += 1;
        let mut compare = |is_exact: bool| {
            let nodes = walk();
            let has_links = nodes.iter().any(|node| node.has_links);
            let devices: Vec<String> = mounts().into_iter().map(|(device, ..)| device).collect();
            let is_shown_twice = (1..devices.len()).any(|index| devices[..index].contains(&devices[index]));
            let is_exact = is_exact && !has_links && !is_shown_twice;
            counts.exact += u64::from(is_exact);
            let ids = Ids::of(plan);
            try_these.send(nodes.iter().map(|node| (node.path.clone(), node.is_directory)).collect()).unwrap();
            // If a file can be read through one hard link, it isn't secret through another one.
            let open_links =
                nodes.iter().filter(|node| node.has_links && ids.allow(node).is_some_and(|(read, _)| read));
            let open_links: Vec<Option<&Id>> = open_links.map(|node| node.above.last()).collect();
            for (node, (can_read, can_write)) in nodes.iter().zip(told.recv().unwrap()) {
                let Some((may_read, may_write)) = ids.allow(node) else { continue };
                if !may_read && open_links.contains(&node.above.last()) {
                    continue;
                }
                let here = format!("{}; {context}", node.path.display());
                assert!(may_read || !can_read, "hidden, but it opens: {here}");
                assert!(may_write || !can_write, "it can be written: {here}");
                // A second name of an open file needn't be open, and a directory on the way to something hidden isn't.
                if is_exact && !node.is_directory {
                    assert_eq!((may_read, may_write), (can_read, can_write), "{here}");
                }
                counts.tried += 1;
                counts.hidden += u64::from(!may_read);
                counts.writable += u64::from(can_write);
            }
        };
        compare(true);
        let mut later = 0;
        for path in plan.daemons.iter().skip(1).flat_map(|entry| &entry.private) {
            // Links are followed, as in the claim.
            later += u64::from(fs::metadata(path).is_err() && fs::write(path, "content").is_ok());
        }
        if later > 0 {
            compare(false);
        }
        counts.later += later;
    });
}
