//! What others find by a fixed number: the pipe for requests and the file of the apply lock.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, OFlag, fcntl};
use nix::libc;

use super::{Bundle, TWO};

/// Opens a descriptor of init's for writing, as the applets do.
fn open(bundle: &Bundle, number: i32) -> File {
    OpenOptions::new().write(true).open(format!("/proc/{}/fd/{number}", bundle.pid())).unwrap()
}

/// How many bytes of requests init hasn't read yet.
fn unread(pipe: &impl AsFd) -> i32 {
    let mut count = 0;
    // SAFETY: FIONREAD writes an int.
    let result = unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&pipe.as_fd()), libc::FIONREAD, &raw mut count) };
    assert_eq!(result, 0);
    count
}

#[test]
fn init_reads_its_request_pipe_after_a_sender_closed_it() {
    let bundle = Bundle::start(TWO);
    bundle.wait_until_started();
    for n in 0..3 {
        let pipe = open(&bundle, 101);
        let flags = OFlag::from_bits_retain(fcntl(&pipe, FcntlArg::F_GETFL).unwrap());
        assert!(!flags.contains(OFlag::O_NONBLOCK), "a sender waits for room");
        bundle.ask(&format!("{n} no-such-verb alpha"));
        bundle.wait_until("an empty pipe", || unread(&pipe) == 0);
    }
    // Those that came within a second of the first are told after it.
    let told = || {
        let log = bundle.read("err");
        let count = |line: &str| line.split(" request").next()?.rsplit(' ').next()?.parse::<usize>().ok();
        log.lines().filter(|line| line.contains(" ignored: ")).filter_map(count).sum::<usize>()
    };
    bundle.wait_until("three lines that are no requests", || told() == 3);
    // A pipe without a writer would be readable for ever.
    super::calls::assert_idle(&bundle);
}

#[test]
fn a_flood_of_requests_delays_no_signal_and_takes_no_memory() {
    let mut bundle = Bundle::start(&TWO.replace("while :; do sleep 0.02; done", "sleep 1000 & wait"));
    bundle.wait_for("out", "alpha is up");
    bundle.wait_until_started();
    let is_over = AtomicBool::new(false);
    let texts = [
        "\n1 restart nobody\n".repeat(200),
        "\n".repeat(4096),
        "x".repeat(4096),
        "no request\n".repeat(300),
        format!("\n1 signal {} alpha\n", "Y".repeat(600)),
    ];
    std::thread::scope(|scope| {
        for text in texts {
            let (mut pipe, is_over) = (open(&bundle, 101), &is_over);
            // Its end, not a full pipe's, ends the writer: a closed pipe is an error.
            scope.spawn(move || while !is_over.load(Ordering::Relaxed) && pipe.write_all(text.as_bytes()).is_ok() {});
        }
        for generation in 2..7 {
            bundle.signal("USR1");
            bundle.wait_for_generation(1, generation);
        }
        let status = fs::read_to_string(format!("/proc/{}/status", bundle.pid())).unwrap();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")).unwrap();
        assert!(rss.parse::<u32>().unwrap() < 40_000, "{rss} kB");
        // The writers go on until this has been seen.
        bundle.signal("TERM");
        bundle.wait_for("err", "forwarding SIGTERM to alpha");
        assert_eq!(bundle.exit_code(), 143);
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn the_apply_lock_is_one_file_that_never_grows() {
    let bundle = Bundle::start(TWO);
    bundle.wait_until_started();
    let path = format!("/proc/{}/fd/102", bundle.pid());
    assert_eq!(fs::read_link(&path).unwrap().to_str(), Some("/memfd:sidecar-lock (deleted)"));
    let (one, other) = (open(&bundle, 102), open(&bundle, 102));
    let mut held = Flock::lock(one, FlockArg::LockExclusiveNonblock).unwrap();
    assert_eq!(Flock::lock(other, FlockArg::LockExclusiveNonblock).unwrap_err().1, Errno::EWOULDBLOCK);
    held.write_all(b"a@b since 12:00\n").unwrap();
    assert!(fs::read(&path).unwrap().starts_with(b"a@b since 12:00\n\0"));
    assert_eq!(fs::metadata(&path).unwrap().len(), 4096);
    for size in [0, 4097] {
        assert_eq!(held.set_len(size).unwrap_err().raw_os_error(), Some(libc::EPERM));
    }
    drop(held);
    assert!(Flock::lock(open(&bundle, 102), FlockArg::LockExclusiveNonblock).is_ok());
}
