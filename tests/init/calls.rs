//! What init asks of the kernel, counted: this is stable where time isn't. `docs/performance.md` states the numbers.
//!
//! A count is exact where each call follows from one event, and the test makes that event happen once. Where events can
//! come together, as on a loaded machine, and be served by fewer calls, the number is the most that it may be.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::mem::size_of;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::libc;

use super::harness::{Bundle, PATIENCE, stat};

const TWO_THAT_REST: &str = r#"
[[daemon]]
name = "alpha"
command = ["sh", "-c", "while ! test -e DIR/go; do sleep 0.02; done; rm DIR/go; ($LEAVE &); echo left > DIR/left; exec sleep 1000"]
[[daemon]]
name = "beta"
command = ["sleep", "1000"]
[signals]
USR1 = { restart = "beta" }
"#;

fn ptrace(request: libc::c_uint, pid: i32, address: usize, data: usize) {
    // SAFETY: the requests used below take no address, or that of a structure that the caller has, and its size.
    let result = unsafe { libc::ptrace(request, pid, address, data) };
    assert!(result >= 0, "ptrace: {}", std::io::Error::last_os_error());
}

/// Stops at each system call that a process begins and tells its number, until it is `done`, which is asked while it
/// waits: ptrace(2), as strace does it.
pub fn follow(pid: i32, began: impl FnOnce(), mut at_entry: impl FnMut(i64), mut done: impl FnMut() -> bool) {
    ptrace(libc::PTRACE_SEIZE, pid, 0, usize::try_from(libc::PTRACE_O_TRACESYSGOOD).unwrap());
    ptrace(libc::PTRACE_INTERRUPT, pid, 0, 0);
    began();
    let started = Instant::now();
    let mut is_waiting = false;
    loop {
        if started.elapsed() > PATIENCE {
            // Whose tracer takes no notice of its end stays, and whoever waits for it waits for ever.
            // SAFETY: kill(2) has no memory effects.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            // SAFETY: waitpid(2) takes no address here.
            while unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) } == pid {}
            panic!("it isn't done");
        }
        let mut status = 0;
        // SAFETY: waitpid(2) writes an int.
        if unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL | libc::WNOHANG) } == 0 {
            if is_waiting && done() {
                break;
            }
            std::thread::yield_now();
            continue;
        }
        let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
        let mut pass_on = 0;
        if signal == libc::SIGTRAP | 0x80 {
            // SAFETY: all its fields are numbers.
            let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
            let size = size_of::<libc::ptrace_syscall_info>();
            // SAFETY: the kernel writes at most `size` bytes there.
            unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, pid, size, &raw mut info) };
            is_waiting = false;
            if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
                // SAFETY: it is an entry.
                let entry = unsafe { info.u.entry };
                let number = match i64::try_from(entry.nr).unwrap() {
                    libc::SYS_waitid if entry.args[0] == u64::from(libc::P_PID) => WAITID_ONE,
                    number => number,
                };
                is_waiting = number == libc::SYS_ppoll;
                at_entry(number);
            }
        } else if event == 0 {
            pass_on = usize::try_from(signal).unwrap();
        }
        ptrace(libc::PTRACE_SYSCALL, pid, 0, pass_on);
    }
    ptrace(libc::PTRACE_INTERRUPT, pid, 0, 0);
    let mut status = 0;
    // SAFETY: as above.
    unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
    ptrace(libc::PTRACE_DETACH, pid, 0, 0);
}

/// At the entry of a read(2) or a write(2): it is asked for this many bytes at most.
pub fn at_most(pid: i32, most: u64) {
    let mut all = std::mem::MaybeUninit::<libc::user_regs_struct>::zeroed();
    let mut place = libc::iovec { iov_base: all.as_mut_ptr().cast(), iov_len: size_of::<libc::user_regs_struct>() };
    let place = (&raw mut place) as usize;
    ptrace(libc::PTRACE_GETREGSET, pid, usize::try_from(libc::NT_PRSTATUS).unwrap(), place);
    // SAFETY: all its fields are numbers, and the kernel has filled them in.
    let registers = unsafe { all.assume_init_mut() };
    #[cfg(target_arch = "x86_64")]
    let count = &mut registers.rdx;
    #[cfg(target_arch = "aarch64")]
    let count = &mut registers.regs[2];
    *count = most.min(*count);
    ptrace(libc::PTRACE_SETREGSET, pid, usize::try_from(libc::NT_PRSTATUS).unwrap(), place);
}

/// Counts the system calls that a process begins from `act` on until `done`. How often it waits, and so how often it
/// lets signals in, depends on what comes first, so only the calls in `counted` are.
fn count(pid: i32, counted: &[i64], act: impl FnOnce(), mut done: impl FnMut() -> bool) -> BTreeMap<i64, usize> {
    let (mut calls, mut act) = (BTreeMap::new(), Some(act));
    let has_acted = Cell::new(false);
    let at_entry = |number| {
        if number == libc::SYS_ppoll && act.is_some() {
            act.take().unwrap()();
            has_acted.set(true);
        } else if act.is_none() && counted.contains(&number) {
            *calls.entry(number).or_default() += 1;
        }
    };
    follow(pid, || (), at_entry, || has_acted.get() && done());
    calls
}

/// waitid(2) of one child: one of any child passes by all that live.
const WAITID_ONE: i64 = -1;

const COUNTED: [i64; 10] = [
    WAITID_ONE,
    libc::SYS_clone,
    libc::SYS_pipe2,
    libc::SYS_memfd_create,
    libc::SYS_kill,
    libc::SYS_waitid,
    libc::SYS_wait4,
    libc::SYS_dup3,
    libc::SYS_epoll_ctl,
    libc::SYS_recvmsg,
];

/// Both of its daemons run, and init waits.
fn at_rest(table: &str) -> Bundle {
    let bundle = Bundle::start(table);
    for daemon in [0, 1] {
        bundle.wait_for_generation(daemon, 1);
    }
    bundle
}

#[test]
fn a_restart_makes_only_the_system_calls_that_it_needs() {
    needs!(Native("ptrace is not there, or watches qemu"));
    let bundle = at_rest(TWO_THAT_REST);
    let calls = count(
        bundle.pid(),
        &COUNTED,
        || bundle.signal("USR1"),
        || bundle.daemon(1)["generation"] == 2 && bundle.daemon(1)["state"] == "running",
    );
    let most = [
        (libc::SYS_clone, 1),
        // No notification is left from before the start.
        (libc::SYS_recvmsg, 1),
        // stdout, stderr, and what became of the exec.
        (libc::SYS_pipe2, 3),
        // TERM, CONT, and KILL to the group.
        (libc::SYS_kill, 3),
        // The one that ended, seen and reaped, and then none.
        (WAITID_ONE, 2),
        (libc::SYS_waitid, 1),
        // It is stopping, starting, running.
        (libc::SYS_memfd_create, 3),
        (libc::SYS_dup3, 3),
        // The old pipes out, the three new ones in, and the last of these out.
        (libc::SYS_epoll_ctl, 6),
    ];
    let most = BTreeMap::from(most);
    // An end that comes with another event is served with it, and one page shows both.
    let is_allowed = |(call, count): (&i64, &usize)| most.get(call).is_some_and(|most| count <= most);
    assert!(calls.iter().all(is_allowed) && calls[&libc::SYS_clone] == 1, "{calls:?}, at most {most:?}");
}

#[test]
fn an_orphan_that_sigchld_names_is_reaped_by_one_call_of_four() {
    needs!(Native("ptrace is not there, or watches qemu"));
    let table = TWO_THAT_REST.replace("$LEAVE", "exec sh -c 'while ! test -e DIR/left; do sleep 0.02; done'");
    let bundle = at_rest(&table);
    // The shell's own child ends too, and is the shell's to reap; the other one is init's.
    let before = bundle.children().len();
    let counted = [&COUNTED[..], &[LOOK, libc::SYS_read, libc::SYS_write, libc::SYS_rt_sigtimedwait]].concat();
    let calls = count(
        bundle.pid(),
        &counted,
        || bundle.write("go", ""),
        || bundle.read("left") == "left\n" && bundle.children().len() == before,
    );
    // What is pending, it, and whether there is another. (The fourth is the wait.) Exact: there is one SIGCHLD.
    assert_eq!(calls, BTreeMap::from([(libc::SYS_read, 1), (WAITID_ONE, 1), (libc::SYS_waitid, 1)]));
}

#[test]
fn orphans_that_end_in_quick_succession_pile_up_before_they_are_reaped() {
    let leave = format!("for i in {}; do (sleep 1000 &) done", "x ".repeat(100));
    let table = TWO_THAT_REST.replace("($LEAVE &)", &leave);
    // On a loaded machine the ends may come too slowly, or all before the first look.
    for _ in 0..5 {
        let bundle = at_rest(&table);
        let before = bundle.children();
        let mut are_killed = false;
        let end_them_all = || {
            let orphans: Vec<i32> = bundle.children().into_iter().filter(|pid| !before.contains(pid)).collect();
            if !are_killed && orphans.len() == 100 {
                // SAFETY: kill(2) has no memory effects, and init has reaped none of them.
                are_killed = orphans.iter().all(|pid| unsafe { libc::kill(*pid, libc::SIGKILL) } == 0);
            }
            are_killed && orphans.is_empty()
        };
        let counted = [WAITID_ONE, libc::SYS_rt_sigtimedwait];
        let calls = count(bundle.pid(), &counted, || bundle.write("go", ""), end_them_all);
        assert!(calls[&WAITID_ONE] >= 100, "{calls:?}");
        // It waits for them for a moment, and for any other signal.
        if let Some(waits) = calls.get(&libc::SYS_rt_sigtimedwait) {
            return assert!(*waits < 100, "{calls:?}");
        }
    }
    panic!("it never waited for them");
}

#[cfg(target_arch = "x86_64")]
const LOOK: i64 = libc::SYS_epoll_wait;
#[cfg(not(target_arch = "x86_64"))]
const LOOK: i64 = libc::SYS_epoll_pwait;

#[test]
fn a_burst_that_fills_a_pipe_is_found_read_and_written_in_one_call_each() {
    needs!(Native("ptrace is not there, or watches qemu"));
    let burst =
        "while ! test -e DIR/go; do sleep 0.02; done; dd if=DIR/burst bs=65536 count=1 status=none; exec sleep 1000;";
    let bundle = at_rest(&TWO_THAT_REST.replace("while ! test -e DIR/go; do sleep 0.02; done;", burst));
    let line = "a line of 64 bytes with its newline, of which a pipe holds 1024\n";
    bundle.write("burst", &line.repeat(1024));
    let relayed = format!("[alpha] {line}").repeat(1024);
    let counted = [&COUNTED[..], &[LOOK, libc::SYS_read, libc::SYS_write]].concat();
    let calls = count(bundle.pid(), &counted, || bundle.write("go", ""), || bundle.read("out") == relayed);
    // Exact: it is one write(2), during which nobody can read.
    assert_eq!(calls, BTreeMap::from([(LOOK, 1), (libc::SYS_read, 1), (libc::SYS_write, 1)]));
}

/// Two seconds, in which a process that spins would use the CPU as far as it gets it.
pub fn assert_does_not_spin(bundle: &Bundle) {
    let ticks =
        || [14, 15].into_iter().map(|field| stat(bundle.pid(), field).unwrap().parse::<u64>().unwrap()).sum::<u64>();
    let before = ticks();
    // No event tells that nothing happens: this is how long it is watched.
    std::thread::sleep(Duration::from_secs(2));
    assert!(ticks() - before < 20, "{} ticks in 2 s", ticks() - before);
}

/// Watches an init that has nothing to do for three seconds.
pub fn assert_idle(bundle: &Bundle) {
    let (pid, trace) = (bundle.pid(), bundle.dir.join("trace"));
    bundle.wait_until("a wait", || stat(pid, 3).as_deref() == Some("S"));
    let mut strace = Command::new("strace");
    let strace = strace.args(["-f", "-qq", "-o"]).arg(&trace).args(["-p", &pid.to_string()]).spawn();
    let mut strace = strace.unwrap_or_else(|e| panic!("strace, which this test needs (Debian: strace): {e}"));
    bundle.wait_until("strace at work", || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let tracer = status.lines().find_map(|l| l.strip_prefix("TracerPid:")).unwrap().trim();
        tracer == strace.id().to_string()
    });
    // As above: this is how long it is watched.
    std::thread::sleep(Duration::from_secs(3));
    // It lets go at a SIGINT, and init goes on.
    // SAFETY: kill(2) has no memory effects; strace is not reaped yet.
    assert_eq!(unsafe { libc::kill(strace.id().cast_signed(), libc::SIGINT) }, 0);
    strace.wait().unwrap();
    // The wait that it was found in, and nothing else.
    let calls = bundle.read("trace");
    assert!(calls.lines().count() == 1 && calls.contains("<detached"), "{calls}");
}
