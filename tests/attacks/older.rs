//! The kernel as an older one: `landlock_create_ruleset`(2) says what the test likes when it is asked for the version, or fails; or
//! seccomp(2) says that it can end no process.
//!
//! init runs under a filter that has the kernel ask the test about these calls (`seccomp_unotify`(2)).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::libc;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde_json::{Value, json};

use crate::attacks::{self, Attack, Keeper, PUSH_INPUT, UNCOVERED, all_attacks};
use crate::harness::{Bundle, Setup};
use crate::{HARDENED, SANDBOX, World, attacked};

#[derive(Clone, Copy, Debug)]
enum Older {
    /// It has this version.
    Version(i64),
    /// Each of its calls fails like this.
    Fails(i32),
    /// It has this kernel's, but filters of system calls can't end a process.
    WithoutFilters,
}

impl Older {
    fn abi(self) -> u32 {
        match self {
            Self::Version(version) => version.try_into().unwrap(),
            Self::Fails(_) => 0,
            Self::WithoutFilters => 7,
        }
    }
}

/// Executes the command after `--` as a process whose kernel is an older one.
#[test]
fn the_program_that_becomes_init_on_an_older_kernel() {
    let Ok(socket) = std::env::var("OLDER_KERNEL") else { return };
    let number = |call: libc::c_long| u32::try_from(call).unwrap();
    let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // The call's number: Landlock's goes to the test; so does seccomp's, if its first argument asks for an action. All others are
    // allowed.
    let filter = [
        op(0x20, 0, 0, 0),
        op(0x15, 3, 0, number(libc::SYS_landlock_create_ruleset)),
        op(0x15, 0, 3, number(libc::SYS_seccomp)),
        op(0x20, 0, 0, 16),
        op(0x15, 0, 1, libc::SECCOMP_GET_ACTION_AVAIL),
        op(0x06, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
        op(0x06, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 7, filter: filter.as_ptr().cast_mut() };
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    nix::sys::prctl::set_no_new_privs().unwrap();
    // SAFETY: the program lives through the call.
    let fd = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    let fd = RawFd::try_from(fd).unwrap();
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    let to = UnixStream::connect(socket).unwrap();
    let fds = [fd];
    let along = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(to.as_raw_fd(), &[io::IoSlice::new(b"x")], &along, MsgFlags::empty(), None).unwrap();
    // SAFETY: it is ours. (The kernel has made it close-on-exec.)
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    let command: Vec<String> = std::env::args().skip_while(|word| word != "--").skip(1).collect();
    panic!("{}", Command::new(&command[0]).args(&command[1..]).env_remove("OLDER_KERNEL").exec());
}

/// Answers for the kernel until all that ask have ended.
fn answer(listener: &UnixListener, older: Older) {
    const VERSION: u64 = 1;
    const RECEIVE: libc::c_ulong = 0xc050_2100;
    const SEND: libc::c_ulong = 0xc018_2101;
    let (from, _) = listener.accept().unwrap();
    let (mut space, mut byte) = (nix::cmsg_space!([RawFd; 1]), [0u8; 1]);
    let mut parts = [io::IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(from.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).unwrap();
    let rights = message.cmsgs().unwrap().find_map(|one| match one {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    // SAFETY: the kernel has just made it for this process.
    let fd = unsafe { OwnedFd::from_raw_fd(rights.unwrap()) };
    loop {
        let mut ready = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&fd), nix::poll::PollFlags::POLLIN)];
        nix::poll::poll(&mut ready, nix::poll::PollTimeout::NONE).unwrap();
        if !ready[0].revents().unwrap().contains(nix::poll::PollFlags::POLLIN) {
            return;
        }
        // SAFETY: the structures are the kernel's, and live through the calls; all zero is a value of each.
        unsafe {
            let mut asked: libc::seccomp_notif = std::mem::zeroed();
            if libc::ioctl(fd.as_raw_fd(), RECEIVE, &raw mut asked) < 0 {
                // Who asked has been killed.
                continue;
            }
            let mut said: libc::seccomp_notif_resp = std::mem::zeroed();
            said.id = asked.id;
            let is_landlock = i64::from(asked.data.nr) == libc::SYS_landlock_create_ruleset;
            match older {
                Older::Fails(errno) if is_landlock => said.error = -errno,
                Older::Version(version) if is_landlock && asked.data.args[2] == VERSION => said.val = version,
                Older::WithoutFilters if !is_landlock => said.error = -libc::EOPNOTSUPP,
                _ => said.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE.try_into().unwrap(),
            }
            libc::ioctl(fd.as_raw_fd(), SEND, &raw const said);
        }
    }
}

/// The words before a command that has it run on such a kernel.
fn on(older: Older) -> Vec<String> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let socket = std::env::temp_dir().join(format!("sidecar-older-{}-{n}", std::process::id()));
    let listener = UnixListener::bind(&socket).unwrap();
    let variable = format!("OLDER_KERNEL={}", socket.display());
    std::thread::spawn(move || {
        answer(&listener, older);
        let _ = std::fs::remove_file(socket);
    });
    let exe = std::env::current_exe().unwrap();
    let name = "older::the_program_that_becomes_init_on_an_older_kernel";
    let words = ["env", &variable, exe.to_str().unwrap(), "--exact", name, "--nocapture", "--test-threads=1", "--"];
    words.map(str::to_owned).to_vec()
}

/// Starts init on it.
fn start(setup: Setup, older: Older) -> Bundle {
    let words = on(older);
    setup.wrapped(&words.iter().map(String::as_str).collect::<Vec<_>>()).start()
}

/// What `check --here` says on it of a bundle's table.
fn check(bundle: &Bundle, older: Older) -> String {
    let (words, table) = (on(older), bundle.dir.join("table.toml"));
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args([env!("CARGO_BIN_EXE_sidecar"), "check", "--here"]).arg(table);
    let output = command.output().unwrap();
    [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat()
}

/// What is missing on such a kernel, of a sandbox that asks for everything.
fn missing(older: Older) -> Vec<&'static str> {
    if matches!(older, Older::WithoutFilters) {
        return vec!["system-calls"];
    }
    let abi = older.abi();
    let since = [("files", 2), ("processes", 2), ("truncation", 3), ("tcp", 4), ("devices", 5), ("signals", 6)];
    since.into_iter().filter(|(_, first)| abi < *first).map(|(word, _)| word).collect()
}

/// What is told is true, and what is left is enforced.
fn holds_on(older: Older, why: Option<&str>) {
    let world = World::new();
    let bundle = start(world.bundle(SANDBOX).wrapped(HARDENED).env("WAYS", "child orphan"), older);
    let all = attacked(&bundle);
    let abi = older.abi();
    let wrong = attacks::wrong(&all, all_attacks().chain(UNCOVERED), |attack: &Attack, way, got| {
        match older {
            // Landlock stops some of these too; and it hides the terminals, so that there is none.
            Older::WithoutFilters if attack.keeper == Keeper::Filter => {
                let has_no_terminal = attack.name == PUSH_INPUT && got == "ENOTTY";
                has_no_terminal || attack.fails(way, got) || attack.is_as_without(got, false)
            }
            _ if abi >= attack.keeper.abi() => attack.fails(way, got),
            _ => attack.is_as_without(got, false),
        }
    });
    assert!(wrong.is_empty(), "{older:?}\n{wrong}\n{}", bundle.read("err"));

    let missing = missing(older);
    let lost = all_attacks().map(|attack| attack.keeper).filter(|keeper| abi < keeper.abi());
    assert!(lost.map(Keeper::word).all(|word| missing.contains(&word)), "an attack works, and nobody tells why");
    let sandbox = bundle.daemon(0)["sandbox"].clone();
    assert_eq!(sandbox["abi"], abi);
    assert_eq!(sandbox["missing"], json!(missing));
    assert_eq!(sandbox["why"].as_str().is_some(), why.is_some(), "{sandbox}");
    assert!(why.is_none_or(|why| sandbox["why"].as_str().unwrap().contains(why)), "{sandbox}");
    let (_, status, _) = bundle.status(&["--json"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["daemons"][0]["sandbox"], sandbox);
    let log = bundle.read("err");
    let told = format!("can't fully enforce the sandboxes: {} missing", missing.join(", "));
    assert_eq!(log.matches(&told).count(), usize::from(!missing.is_empty()), "{log}");
    let checked = check(&bundle, older);
    let told = format!(": {} missing (", missing.join(", "));
    assert_eq!(checked.contains("can't fully enforce"), !missing.is_empty(), "{checked}");
    assert!(missing.is_empty() || checked.contains(&told), "{checked}");
    drop(bundle);

    if !missing.is_empty() {
        let table = "require_sandbox = true\n[[daemon]]\nname = 'alpha'\ncommand = ['sh', '-c', 'echo alpha ran']\n\
                     [daemon.sandbox]\nconnect = []\n";
        let mut bundle = start(Setup::new(table), older);
        assert_eq!(bundle.exit_code(), 1);
        let log = bundle.read("err");
        let told = format!("the kernel can't fully enforce the sandboxes: {} missing", missing.join(", "));
        assert!(log.contains(&told) && log.contains("the table says require_sandbox; no daemon was started"), "{log}");
        assert!(!bundle.read("out").contains("alpha ran"));
    }
}

#[test]
fn without_landlock_the_report_is_true_and_the_rest_is_enforced() {
    needs!(Root);
    holds_on(Older::Fails(libc::ENOSYS), Some("has no Landlock"));
}

#[test]
fn where_filters_end_no_process_the_rest_is_enforced() {
    holds_on(Older::WithoutFilters, Some("no filter of system calls can end a process"));
}

#[test]
fn with_landlock_switched_off_the_report_is_true() {
    needs!(Root);
    holds_on(Older::Fails(libc::EOPNOTSUPP), Some("switched off"));
}

#[test]
fn where_a_filter_refuses_landlock_the_report_is_true() {
    needs!(Root);
    holds_on(Older::Fails(libc::EPERM), Some("upgrade the container engine"));
}

#[test]
fn on_each_version_of_landlock_the_report_is_true() {
    needs!(Root);
    for version in 1..=7 {
        holds_on(Older::Version(version), (version == 1).then_some("before Linux 5.19"));
    }
}
