//! The relay of daemons' output, init's own log, and readers that are slow, stuck or gone.

use std::fs::{self, File};
use std::io::{Read, pipe};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;

use super::harness::{at_rest, stat, wait_until};
use super::{Bundle, Setup};

/// A table of daemons that perl runs, named d0, d1 and so on; USR1 restarts d0, USR2 is wired to nobody who runs.
fn perls(scripts: &[&str]) -> String {
    let daemon = |(n, script): (usize, &&str)| {
        let command = format!("[\"perl\", \"-MPOSIX\", \"-e\", '''$| = 1; {script}''']");
        format!("[[daemon]]\nname = \"d{n}\"\ncommand = {command}\n")
    };
    let daemons: String = scripts.iter().enumerate().map(daemon).collect();
    format!(
        "grace = \"300s\"\n{daemons}[[daemon]]\nname = \"nobody\"\ncommand = [\"sleep\", \"1000\"]\n\
         [signals]\nUSR1 = {{ restart = \"d0\" }}\nUSR2 = {{ restart = \"nobody\" }}\n"
    )
}

/// init with these daemons and without nobody.
fn setup(scripts: &[&str]) -> Setup {
    let names: Vec<String> = (0..scripts.len()).map(|n| format!("d{n}")).collect();
    Setup::new(&perls(scripts)).select(&names.join(","))
}

/// What a log can be.
struct Log {
    kind: &'static str,
    /// What init gets.
    fd: OwnedFd,
    reader: Box<dyn Read + Send>,
    /// init is of a user who may not open it anew.
    is_anothers: bool,
}

impl Log {
    fn all() -> [Self; 4] {
        let (reader, writer) = pipe().unwrap();
        let (anothers_reader, anothers_writer) = pipe().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        // SAFETY: each call makes a descriptor of which nobody else knows, and unlockpt(3) takes a number.
        let (main, side) = unsafe {
            let main = libc::posix_openpt(flags);
            assert!(main >= 0 && libc::unlockpt(main) == 0);
            let side = libc::ioctl(main, libc::TIOCGPTPEER, flags);
            assert!(side >= 0);
            (File::from_raw_fd(main), OwnedFd::from_raw_fd(side))
        };
        let log = |kind, fd, reader| Self { kind, fd, reader, is_anothers: false };
        [
            log("a pipe", writer.into(), Box::new(reader)),
            log("a socket", theirs.into(), Box::new(ours)),
            log("a terminal", side, Box::new(main)),
            Self { is_anothers: true, ..log("another's pipe", anothers_writer.into(), Box::new(anothers_reader)) },
        ]
    }

    fn setup(&self, scripts: &[&str]) -> Setup {
        let setup = setup(scripts);
        if self.is_anothers { setup.under_user(&["--core=0"]) } else { setup }
    }
}

/// What a log's reader has got, while it goes on reading.
struct Reading {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

fn read_all(mut from: impl Read + Send + 'static) -> Reading {
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let to = Arc::clone(&bytes);
    let thread = thread::spawn(move || {
        let mut chunk = [0; 4096];
        // A terminal's end is an error (EIO).
        while let Some(n) = from.read(&mut chunk).ok().filter(|n| *n > 0) {
            to.lock().unwrap().extend_from_slice(&chunk[..n]);
        }
    });
    Reading { bytes, thread }
}

impl Reading {
    fn so_far(&self) -> String {
        // A terminal writes CR before LF.
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).replace("\r\n", "\n")
    }

    /// To the end: init and the test have let go of it.
    fn whole(self) -> String {
        let end = || self.thread.is_finished();
        wait_until("the log's end", String::new, end);
        self.so_far()
    }
}

fn blocks(fd: impl AsFd) -> bool {
    !OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL).unwrap()).contains(OFlag::O_NONBLOCK)
}

/// Waits until what nobody reads is as full as it gets: a daemon that has more to say is blocked, or will be.
fn wait_until_stuck(bundle: &Bundle) {
    let written = |pid| {
        let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        io.lines().find_map(|l| l.strip_prefix("wchar: ")?.parse::<u64>().ok()).unwrap_or(0)
    };
    bundle.wait_until("a daemon that is blocked", || {
        let before = at_rest(bundle.pid());
        let pid = bundle.children().into_iter().max_by_key(|pid| written(*pid)).unwrap_or(0);
        let is_blocked = written(pid) > 150_000 && stat(pid, 3).as_deref() == Some("S");
        // If init read the pipe that the daemon waits at, it would have been awake meanwhile.
        is_blocked && before.is_some() && at_rest(bundle.pid()) == before
    });
}

/// The numbers in those lines that begin with `[name] word `.
fn numbers(text: &str, start: &str) -> Vec<u64> {
    text.lines().filter_map(|l| l.strip_prefix(start)?.split(' ').next()?.parse().ok()).collect()
}

fn dropped(text: &str) -> u64 {
    let told = text.lines().filter_map(|l| l.strip_suffix(" lines were dropped here: the reader was too slow"));
    told.map(|n| n.parse::<u64>().unwrap()).sum()
}

/// Says more than all buffers on the way hold, and then that it has.
const MUCH: &str = "print \"line $_ which must not be lost\\n\" for 1 .. 40_000; open(my $f, '>', 'said'); sleep 1000";
/// Says something without end, whole lines in one write each; at TERM much more, then notes how many lines it wrote.
const ENDLESS: &str = "my ($n, $end) = (0, 0); sub line { $n++ if syswrite(STDOUT, \"line $_[0] \" . 'x' x 80 . \"\\n\") } \
    if (-e 'wrote') { sleep 1000 } $SIG{TERM} = sub { $end = 1 }; my $i = 0; line(++$i) until $end; \
    line(++$i) for 1 .. 20_000; open(my $f, '>', 'wrote.new'); print $f $n; close $f; rename 'wrote.new', 'wrote'; exit 3";

#[test]
fn what_daemons_write_comes_out_as_whole_lines_behind_their_names() {
    let pieces = "for (1 .. 500) { print \"begin$_,\"; print STDERR \"begin$_,\"; print \"end$_\\n\"; print STDERR \"end$_\\n\" }";
    let mut bundle = setup(&[pieces, pieces]).start();
    assert_eq!(bundle.exit_code(), 0);
    for name in ["out", "err"] {
        let text = bundle.read(name);
        for daemon in ["[d0] ", "[d1] "] {
            let lines: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix(daemon)).collect();
            assert_eq!(lines, (1..=500).map(|n| format!("begin{n},end{n}")).collect::<Vec<_>>());
        }
    }
    assert_eq!(bundle.read("out").lines().count(), 1000);
}

#[test]
fn a_long_line_is_split_at_8192_bytes() {
    let mut bundle = setup(&["print 'x' x 20_000, \"\\n\", 'y' x 8192, \"\\n\\n\", 'last'"]).start();
    assert_eq!(bundle.exit_code(), 0);
    let out = bundle.read("out");
    let lines: Vec<(usize, Option<char>)> =
        out.lines().map(|l| l.strip_prefix("[d0] ").unwrap()).map(|l| (l.len(), l.chars().next())).collect();
    let (x, y) = (Some('x'), Some('y'));
    assert_eq!(lines, [(8192, x), (8192, x), (3616, x), (8192, y), (0, None), (4, Some('l'))]);
}

#[test]
fn a_long_line_is_cut_before_a_letter_and_never_within_it() {
    let letters = "print 'x', \"\\xc3\\xa9\" x 10_000, \"\\n\"";
    let mut bundle = setup(&[letters]).start();
    assert_eq!(bundle.exit_code(), 0);
    let out = String::from_utf8(fs::read(bundle.dir.join("out")).unwrap()).unwrap();
    let lengths: Vec<usize> = out.lines().map(|l| l.strip_prefix("[d0] ").unwrap().len()).collect();
    assert_eq!(lengths, [8191, 8192, 3618]);
}

#[test]
fn a_carriage_return_within_a_line_forges_no_others_prefix() {
    let mut bundle = setup(&["print \"a\\r[d1] forged\\r\\r\\n\"; print \"crlf\\r\\n\"; print \"\\rend\\r\""]).start();
    assert_eq!(bundle.exit_code(), 0);
    assert_eq!(bundle.read("out"), "[d0] a\\r[d1] forged\\r\r\n[d0] crlf\r\n[d0] \\rend\r\n");
}

#[test]
fn a_flood_of_blank_lines_costs_init_no_more_memory_than_its_bound() {
    let (reader, writer) = pipe().unwrap();
    // F_SETPIPE_SZ: a pipe of 1 MiB.
    let script = "fcntl(STDOUT, 1031, 1 << 20); my $n = 0; while ($n < 3_000_000) { $n += syswrite(STDOUT, \"\\n\" x 500_000) } \
                  print \"end\\n\"; sleep 1000";
    let name = "d".repeat(63);
    let table = format!("[[daemon]]\nname = \"{name}\"\ncommand = [\"perl\", \"-e\", '''$| = 1; {script}''']\n");
    let mut bundle = Setup::new(&table).stdout(&writer).start();
    drop(writer);
    bundle.wait_for_generation(0, 1);
    let memory = || {
        let status = fs::read_to_string(format!("/proc/{}/status", bundle.pid())).unwrap();
        let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let before = memory();
    // Nobody reads yet.
    wait_until_stuck(&bundle);
    let text = read_all(reader);
    bundle.wait_until("all of it", || text.bytes.lock().unwrap().ends_with(b"] end\n"));
    assert!(memory() < before + 4096, "{before} kB have become {} kB", memory());
    bundle.signal("TERM");
    assert_eq!(bundle.exit_code(), 143);
    let lines = text.whole();
    assert_eq!(lines.lines().count(), 3_000_001);
}

#[test]
fn with_output_json_every_line_is_an_object_that_tells_whose_it_is() {
    let script = r#"
        print "{\"msg\": \"short\"}\n", "text\n", "crlf\r\n", "a\r[d1] b\n", "bin \xff\xfe\0\n", "{\"a\":1} {}\n";
        print STDERR "{\"daemon\":\"other\"}\n"; print "\xc3\xa9" x 6000, "\n", "unfinished"; exit 3"#;
    let table = format!("output = \"json\"\n{}", perls(&[script]));
    let mut bundle = Setup::new(&table).select("d0").start();
    assert_eq!(bundle.exit_code(), 3);
    let objects = |name: &str| -> Vec<serde_json::Value> {
        let text = String::from_utf8(fs::read(bundle.dir.join(name)).unwrap()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    };
    let out = objects("out");
    for object in &out {
        assert_eq!((&object["daemon"], &object["stream"]), (&"d0".into(), &"stdout".into()));
        assert_eq!(object["time"].as_str().unwrap().len(), "2026-11-27T22:00:00.123Z".len());
    }
    assert_eq!(out[0]["record"]["msg"], "short");
    let lines: Vec<Option<&str>> = out[1..6].iter().map(|object| object["line"].as_str()).collect();
    assert_eq!(lines, ["text", "crlf\r", "a\r[d1] b", "bin \u{fffd}\u{fffd}\0", "{\"a\":1} {}"].map(Some));
    assert_eq!((&out[6]["partial"], out[6]["line"].as_str().unwrap().len()), (&true.into(), 8192));
    assert_eq!((&out[7]["partial"], out[7]["line"].as_str().unwrap().len()), (&serde_json::Value::Null, 3808));
    assert_eq!(out[8]["line"], "unfinished");
    let err = objects("err");
    let of = |stream: &str| err.iter().filter(|object| object["stream"] == stream).cloned().collect::<Vec<_>>();
    assert_eq!((&of("stderr")[0]["daemon"], &of("stderr")[0]["record"]["daemon"]), (&"d0".into(), &"other".into()));
    let own = of("init");
    assert_eq!((&own[0]["level"], &own[0]["line"]), (&"info".into(), &"starting d0".into()));
    assert_eq!((&own[0]["daemon"], own[0].get("pid")), (&"d0".into(), None));
    let end = own.last().unwrap();
    assert_eq!((&end["level"], &end["daemon"], &end["pid"]), (&"warn".into(), &"d0".into(), &2.into()));
    assert_eq!((&end["code"], &end["signal"]), (&3.into(), &serde_json::Value::Null));
    // What SIDECAR_LOG_FORMAT says goes for init's own lines.
    let mut bundle = Setup::new(&table).select("d0").env("SIDECAR_LOG_FORMAT", "text").start();
    assert_eq!(bundle.exit_code(), 3);
    assert!(bundle.read("err").contains(" INFO starting d0\n") && bundle.read("err").contains("\"stream\":\"stderr\""));
}

#[test]
fn with_output_json_what_is_dropped_is_counted_in_an_object_too() {
    let (reader, writer) = pipe().unwrap();
    let table = format!("output = \"json\"\n{}", perls(&[ENDLESS]));
    let mut bundle = Setup::new(&table).select("d0").stdout(&writer).start();
    drop(writer);
    wait_until_stuck(&bundle);
    bundle.signal("USR1");
    bundle.wait_until("what it wrote", || bundle.dir.join("wrote").exists());
    let wrote: u64 = bundle.read("wrote").parse().unwrap();
    let text = read_all(reader);
    let told = |text: &str| {
        let objects = text.lines().map_while(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let lines: Vec<_> =
            objects.map(|object| (object["stream"].clone(), object["line"].as_str().unwrap().to_owned())).collect();
        let dropped = lines.iter().filter(|(stream, _)| stream == "init").map(|(_, line)| dropped(line)).sum::<u64>();
        (lines.iter().filter(|(stream, _)| stream == "stdout").count() as u64, dropped)
    };
    bundle.wait_until("a report", || told(&text.so_far()).1 > 0);
    bundle.signal("TERM");
    assert_eq!(bundle.exit_code(), 143);
    let (lines, dropped) = told(&text.whole());
    assert_eq!(lines + dropped, wrote);
}

#[test]
fn a_log_of_any_kind_gets_every_line_and_its_description_stays_as_it_was() {
    needs!(Root);
    let script = "print \"line $_\\n\" for 1 .. 5000; print STDERR \"line $_\\n\" for 1 .. 5000";
    let all: Vec<u64> = (1..=5000).collect();
    for log in Log::all() {
        let mut bundle = log.setup(&[script]).stdout(&log.fd).start();
        let Log { kind, fd, reader, .. } = log;
        let text = read_all(reader);
        assert_eq!(bundle.exit_code(), 0, "{kind}");
        assert!(blocks(&fd), "{kind}");
        drop(fd);
        assert_eq!(numbers(&text.whole(), "[d0] line "), all, "{kind}");
        assert_eq!(numbers(&bundle.read("err"), "[d0] line "), all, "{kind}");
    }
    for log in Log::all() {
        let mut bundle = log.setup(&[script]).stdout(&log.fd).stderr(&log.fd).start();
        let Log { kind, fd, reader, .. } = log;
        let text = read_all(reader);
        assert_eq!(bundle.exit_code(), 0, "both into {kind}");
        drop(fd);
        let text = text.whole();
        assert!(text.lines().all(|l| l.starts_with("[d0] line ") || l.contains(" INFO ") || l.contains(" WARN ")));
        assert_eq!(numbers(&text, "[d0] line ").len(), 10_000, "both into {kind}");
    }
}

#[test]
fn a_file_for_both_or_appended_to_is_not_written_over() {
    let mut bundle = setup(&["print \"line $_\\n\" for 1 .. 500; print STDERR \"line $_\\n\" for 1 .. 500"])
        .wrapped(&["sh", "-c", "echo before > DIR/both; exec \"$@\" >> DIR/both 2>&1", "-"])
        .start();
    assert_eq!(bundle.exit_code(), 0);
    let text = bundle.read("both");
    assert!(text.starts_with("before\n"));
    assert_eq!(numbers(&text, "[d0] line ").len(), 1000);
    assert!(text.contains("starting d0"));
}

#[test]
fn a_stdout_and_stderr_that_are_closed_full_or_nothing_disturb_nobody() {
    let script = "print \"line $_\\n\" for 1 .. 40_000; print STDERR 'x' x 400_000; open(my $f, '>', 'said'); print $f \"all\"; exit 5";
    for redirection in [">&- 2>&- <&-", "> /dev/full 2>&1", "> /dev/null 2> /dev/null", "> /dev/full 2>&-"] {
        let exec = format!("exec \"$@\" {redirection}");
        let mut bundle = setup(&[script]).wrapped(&["sh", "-c", &exec, "-"]).start();
        assert_eq!(bundle.exit_code(), 5, "{redirection}");
        assert_eq!(bundle.read("said"), "all", "{redirection}");
    }
}

#[test]
fn a_reader_that_is_gone_disturbs_nobody() {
    needs!(Root);
    for log in Log::all() {
        let mut bundle = log.setup(&[MUCH]).stdout(&log.fd).start();
        let Log { kind, fd, reader, .. } = log;
        bundle.wait_for_generation(0, 1);
        drop((fd, reader));
        bundle.wait_until(&format!("all said to {kind}"), || bundle.dir.join("said").exists());
        bundle.signal("TERM");
        assert_eq!(bundle.exit_code(), 143, "{kind}");
    }
}

#[test]
fn a_stuck_reader_delays_no_signal_and_costs_no_line() {
    needs!(Root);
    let all: Vec<u64> = (1..=40_000).collect();
    for stream in ["STDOUT", "STDERR"] {
        let much = MUCH.replace("print \"", &format!("print {stream} \""));
        for log in Log::all() {
            let what = format!("{} as {stream}", log.kind);
            // Each start of it makes an orphan.
            let setup = log.setup(&["if (!fork) { if (!fork) { sleep 1 } exit } wait; sleep 1000", &much]);
            let setup = if stream == "STDOUT" { setup.stdout(&log.fd) } else { setup.stderr(&log.fd) };
            let mut bundle = setup.start();
            wait_until_stuck(&bundle);
            bundle.wait_for_generation(0, 1);
            assert!(!bundle.dir.join("said").exists(), "{what}");
            for generation in 2..5 {
                bundle.signal("USR1");
                bundle.wait_for_generation(0, generation);
            }
            bundle.wait_until("no orphan", || bundle.children().len() == 2);
            assert!(!bundle.dir.join("said").exists(), "{what}");
            let Log { fd, reader, .. } = log;
            drop(fd);
            let text = read_all(reader);
            bundle.wait_until("all said", || text.so_far().contains(" 40000 "));
            bundle.signal("TERM");
            assert_eq!(bundle.exit_code(), 143, "{what}");
            let text = text.whole();
            assert_eq!(numbers(&text, "[d1] line "), all, "{what}");
            assert_eq!(dropped(&text), 0, "{what}");
        }
    }
}

#[test]
fn after_its_term_a_daemon_is_read_even_if_the_reader_is_stuck() {
    needs!(Root);
    for log in Log::all() {
        let mut bundle = log.setup(&[ENDLESS]).stdout(&log.fd).start();
        wait_until_stuck(&bundle);
        bundle.signal("USR1");
        // It could not obey if nobody read it.
        bundle.wait_until("what it wrote", || bundle.dir.join("wrote").exists());
        bundle.wait_for_generation(0, 2);
        assert_eq!(bundle.daemon(0)["last_exit"]["code"], 3);
        let wrote: u64 = bundle.read("wrote").parse().unwrap();
        let Log { kind, fd, reader, .. } = log;
        drop(fd);
        let reading = read_all(reader);
        // The report comes without a further line.
        bundle.wait_until("a report", || dropped(&reading.so_far()) > 0);
        let text = reading.so_far();
        let lines = numbers(&text, "[d0] line ");
        assert_eq!(lines.len() as u64 + dropped(&text), wrote, "{kind}");
        assert!(lines.is_sorted(), "{kind}");
        bundle.signal("TERM");
        assert_eq!(bundle.exit_code(), 143, "{kind}");
    }
}

#[test]
fn a_shutdown_waits_half_a_second_for_a_stuck_reader() {
    needs!(Root);
    for log in Log::all() {
        let mut bundle = log.setup(&[ENDLESS]).stdout(&log.fd).start();
        wait_until_stuck(&bundle);
        bundle.signal("TERM");
        bundle.wait_until("its last words", || bundle.dir.join("wrote").exists());
        // Far from the grace of 300 s, which is longer than this waits.
        assert_eq!(bundle.exit_code(), 3, "{}", log.kind);
        let Log { kind, fd, reader, .. } = log;
        drop(fd);
        let text = read_all(reader).whole();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let (_, whole) = lines.split_last().unwrap();
        let is_next = |(n, l): (usize, &&str)| **l == format!("[d0] line {} {}\n", n + 1, "x".repeat(80));
        assert!(whole.len() > 20 && whole.iter().enumerate().all(is_next), "{kind}: {text}");
    }
}

#[test]
fn a_process_that_keeps_writing_to_the_log_does_not_delay_the_exit() {
    let (reader, writer) = pipe().unwrap();
    let script = "if (!fork) { setsid(); open(my $f, '>', 'escaped'); 1 while print 'x' x 80, \"\\n\" } sleep 1000";
    let mut bundle = setup(&[script]).stdout(&writer).start();
    let text = read_all(reader);
    bundle.wait_until("an escaped process", || bundle.dir.join("escaped").exists());
    bundle.wait_until("its lines", || text.so_far().contains("[d0] xxx"));
    bundle.signal("TERM");
    // The escaped process writes for ever, and this waits for less than that.
    assert_eq!(bundle.exit_code(), 143);
    drop(writer);
    text.whole();
}

#[test]
fn a_restart_loses_no_line_of_the_dead_daemon_if_the_reader_is_stuck() {
    let (reader, writer) = pipe().unwrap();
    let once = "sleep 1000 if -e 'again'; sleep 1 until -e 'go'; print \"line $_\\n\" for 1 .. 100; print 'unfinished'; exit 1";
    let mut bundle = setup(&[once, MUCH]).stdout(&writer).start();
    drop(writer);
    wait_until_stuck(&bundle);
    bundle.write("go", "");
    bundle.wait_until("its end", || bundle.daemon(0)["state"] == "exited");
    bundle.write("again", "");
    bundle.signal("USR1");
    bundle.wait_for_generation(0, 2);
    let text = read_all(reader);
    bundle.wait_until("all said", || text.so_far().contains(" 40000 "));
    bundle.signal("TERM");
    assert_eq!(bundle.exit_code(), 143);
    let text = text.whole();
    assert_eq!(numbers(&text, "[d0] line "), (1..=100).collect::<Vec<_>>());
    assert!(text.contains("[d0] unfinished\n"));
}

#[test]
fn lines_of_inits_own_log_that_find_no_room_are_counted_and_reported() {
    let (reader, writer) = pipe().unwrap();
    let mut bundle = setup(&["sleep 1000"]).stderr(&writer).start();
    drop(writer);
    bundle.wait_for_generation(0, 1);
    // Each is two lines: that it came, and that nobody it is for was selected.
    let mut seq = 0;
    while seq < 2500 {
        bundle.signal("USR2");
        seq += 1;
        assert_eq!(bundle.served("USR2", seq), "refused");
    }
    let reading = read_all(reader);
    bundle.wait_until("a report", || dropped(&reading.so_far()) > 0);
    let text = reading.so_far();
    let lines = text.lines().filter(|l| l.contains("SIGUSR2")).count() as u64;
    assert_eq!(lines + dropped(&text), 2 * seq);
    bundle.signal("TERM");
    assert_eq!(bundle.exit_code(), 143);
}

#[test]
fn a_daemon_faster_than_the_reader_does_not_crowd_out_inits_own_log() {
    let (reader, writer) = pipe().unwrap();
    let mut bundle = setup(&[&MUCH.replace("print \"", "print STDERR \"")]).stderr(&writer).start();
    drop(writer);
    wait_until_stuck(&bundle);
    for seq in 1..=50 {
        bundle.signal("USR2");
        assert_eq!(bundle.served("USR2", seq), "refused");
    }
    let text = read_all(reader);
    bundle.wait_until("all said", || text.so_far().contains(" 40000 "));
    bundle.signal("TERM");
    assert_eq!(bundle.exit_code(), 143);
    let text = text.whole();
    assert_eq!(text.lines().filter(|l| l.contains("SIGUSR2")).count(), 100);
    assert_eq!(dropped(&text), 0);
}

#[test]
fn the_log_has_levels_and_forms_and_a_bad_value_is_a_warning() {
    needs!(Native("qemu has threads of its own, which take pids"));
    let log = |level: &str, format: &str| {
        let mut bundle = setup(&["exit 1"]).env("SIDECAR_LOG", level).env("SIDECAR_LOG_FORMAT", format).start();
        assert_eq!(bundle.exit_code(), 1);
        bundle.read("err")
    };
    assert!(log("", "").contains(" INFO starting d0\n"));
    assert!(log("trace", "text").contains(" INFO starting d0\n"));
    let warn = log("warn", "text");
    assert!(!warn.contains("starting d0") && warn.contains(" WARN d0 (pid 2) exited 1 after "), "{warn}");
    assert!(warn.ends_with(" s\n") && !warn.contains("code="), "text has no fields beside it: {warn}");
    assert_eq!(log("error", "text"), "");
    let json = log("info", "json");
    let lines: Vec<serde_json::Value> = json.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(lines.iter().any(|l| l["level"] == "INFO" && l["message"] == "starting d0"), "{json}");
    assert!(lines.iter().any(|l| l["daemon"] == "d0" && l["pid"] == 2 && l["code"] == 1), "{json}");
    let bad = log("loud", "xml");
    for line in ["SIDECAR_LOG=\"loud\" is not error", "SIDECAR_LOG_FORMAT=\"xml\" is neither", " INFO starting d0\n"] {
        assert!(bad.contains(line), "{bad}");
    }
}

#[test]
fn the_last_words_of_daemons_wait_for_a_slow_reader() {
    let (mut reader, writer) = pipe().unwrap();
    let mut bundle = setup(&["print \"line $_\\n\" for 1 .. 15_000; exit 3"]).stdout(&writer).start();
    drop(writer);
    bundle.wait_for("err", "exited 3");
    let slow = thread::spawn(move || {
        let (mut text, mut chunk) = (Vec::new(), [0; 4096]);
        while let Ok(n @ 1..) = reader.read(&mut chunk) {
            text.extend_from_slice(&chunk[..n]);
            // That is how slow it is: init leaves a reader alone that takes nothing for half a second.
            thread::sleep(Duration::from_millis(20));
        }
        String::from_utf8(text).unwrap()
    });
    assert_eq!(bundle.exit_code(), 3);
    assert_eq!(numbers(&slow.join().unwrap(), "[d0] line "), (1..=15_000).collect::<Vec<_>>());
}
