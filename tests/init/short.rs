//! Reads and writes that move fewer bytes than requested: because a file may not grow any more (setrlimit(2),
//! `RLIMIT_FSIZE`), or because the test has lowered the count of the call (ptrace(2)).

use std::fs;
use std::process::Command;

use nix::libc;

use super::calls::{at_most, follow};
use super::harness::{Bundle, Setup};

/// For each HUP alpha prints a line to one stream, and to the other that it has done so. At first it prints so much that
/// the file is larger than anything else init writes.
const TABLE: &str = r#"
[[daemon]]
name = "alpha"
command = ["/usr/bin/perl", "-e", '''
use IO::Handle; my ($to, $other) = TO eq "STDOUT" ? (*STDOUT, *STDERR) : (*STDERR, *STDOUT); $_->autoflush(1) for $to, $other;
$SIG{HUP} = sub { $n++; print $to "took $n end\n"; print $other "said $n\n" };
print $to "x" x 80, "\n" for 1 .. 800; print $other "it is up\n"; sleep 1000 while 1''']
[signals]
HUP = { forward = "alpha" }
"#;

/// Limits the size of every file that init writes.
fn limit(bundle: &Bundle, size: &str) {
    let mut prlimit = Command::new("prlimit");
    let limited = prlimit.args(["--pid", &bundle.pid().to_string(), &format!("--fsize={size}:")]).status();
    assert!(limited.unwrap().success());
}

/// The whole lines of a log, and how many it says were dropped. A part of a line is on a line of its own.
fn whole_lines(text: &str) -> (Vec<&str>, usize) {
    let (mut whole, mut dropped) = (Vec::new(), 0);
    for line in text.lines().filter(|line| !line.ends_with("xxx")) {
        let told = line.strip_suffix(" lines were dropped here: the reader was too slow");
        if number(line).is_some() || OWN.iter().any(|own| line.get(27..) == Some(own)) {
            whole.push(line);
        } else if let Some(n) = told {
            dropped += n.parse::<usize>().unwrap();
        } else {
            let beginnings = ["[alpha]", "Z  INFO", " were dropped"].map(|what| line.matches(what).count());
            assert!(beginnings.iter().sum::<usize>() <= 1, "{line:?} in {text}");
        }
    }
    (whole, dropped)
}

const OWN: [&str; 3] = [
    "  INFO starting alpha",
    "  INFO received SIGHUP from outside of this pid namespace",
    "  INFO forwarding SIGHUP to alpha",
];

/// The number in one of alpha's lines.
fn number(line: &str) -> Option<usize> {
    line.strip_prefix("[alpha] took ")?.strip_suffix(" end")?.parse().ok()
}

#[test]
fn at_whatever_byte_a_log_is_full_each_line_is_whole_or_counted() {
    for (to, other, each) in [("out", "err", 1), ("err", "out", 3)] {
        let bundle = Bundle::start(&TABLE.replace("TO", if to == "out" { "STDOUT" } else { "STDERR" }));
        bundle.wait_for(other, "[alpha] it is up\n");
        bundle.wait_until("all of it", || bundle.read(to).matches("xxx\n").count() == 800);
        let mut n = 0;
        let mut say = |until: &str, word: &str| {
            n += 1;
            bundle.signal("HUP");
            bundle.wait_for(until, &format!("[alpha] {word} {n}"));
        };
        say(to, "took");
        for room in 0.."[alpha] took 100 end\n".len() {
            limit(&bundle, &(bundle.read(to).len() + room).to_string());
            say(other, "said");
            say(other, "said");
            limit(&bundle, "unlimited");
            say(to, "took");
        }
        bundle.wait_for(to, &format!("[alpha] took {n} end\n"));
        let text = bundle.read(to);
        let (whole, dropped) = whole_lines(&text);
        let took: Vec<usize> = whole.iter().filter_map(|line| number(line)).collect();
        assert!(took.is_sorted_by(|a, b| a < b), "{text}");
        let starting = usize::from(to == "err");
        assert_eq!(whole.len() + dropped, n * each + starting, "{text}");
        assert!(dropped >= n / 3, "{text}");
    }
}

#[test]
fn if_the_page_can_not_be_written_whole_there_is_none_until_it_can() {
    let bundle = Bundle::start(&TABLE.replace("TO", "STDOUT"));
    bundle.wait_for("err", "[alpha] it is up\n");
    let place = format!("/proc/{}/fd/100", bundle.pid());
    // The descriptor's number stays reserved, by something else.
    let is_page = || fs::read_link(&place).unwrap().to_str().unwrap().contains("sidecar-status");
    let size = fs::read(&place).unwrap().len();
    for room in [0, 1, size / 2, size - 1] {
        bundle.wait_until("a page", is_page);
        limit(&bundle, &room.to_string());
        bundle.signal("HUP");
        bundle.wait_until("no page", || !is_page());
        limit(&bundle, "unlimited");
        bundle.signal("HUP");
        bundle.outcome("HUP", "delivered");
    }
    assert_eq!(bundle.served("HUP", 8), "delivered");
}

#[test]
fn short_reads_and_writes_tear_double_and_lose_nothing() {
    needs!(Native("ptrace is not there, or watches qemu"));
    for most in [100, 7, 2, 1] {
        let table = TABLE
            .replace("TO", "STDOUT")
            .replace("1 .. 800", "1 .. 8")
            .replace("{ forward = \"alpha\" }", "{ forward = \"alpha\" }\nUSR1 = { restart = \"alpha\" }");
        let mut bundle = Setup::new(&table).closed().start();
        bundle.wait_until_closed();
        let pid = bundle.pid();
        // The calls before are the loader's, which takes a short read for the end of the file.
        let mut is_main = false;
        let at_entry = |number| {
            is_main |= number == libc::SYS_rt_sigprocmask;
            if is_main && [libc::SYS_read, libc::SYS_write].contains(&number) {
                at_most(pid, most);
            }
        };
        let (mut requests, mut hups, mut generation) = (["HUP", "HUP", "USR1", "HUP"].iter(), 0, 1);
        let done = || {
            let is_served = bundle.read("out").matches(" end\n").count() == hups
                && bundle.read("err").matches("[alpha] it is up\n").count() == generation
                && bundle.daemon(0)["generation"] == generation;
            if !is_served {
                return false;
            }
            let Some(signal) = requests.next() else { return true };
            bundle.signal(signal);
            if *signal == "HUP" {
                hups += 1;
            } else {
                generation += 1;
            }
            false
        };
        follow(pid, || bundle.open(), at_entry, done);
        assert_eq!(bundle.served("HUP", 3), "delivered");
        bundle.signal("TERM");
        assert_eq!(bundle.exit_code(), 143);
        let x = format!("[alpha] {}\n", "x".repeat(80)).repeat(8);
        let out = [&x, "[alpha] took 1 end\n[alpha] took 2 end\n", &x, "[alpha] took 1 end\n"].concat();
        assert_eq!(bundle.read("out"), out, "{most}");
        let err = bundle.read("err");
        let (own, other): (Vec<_>, Vec<_>) = err.lines().partition(|line| line.get(27..33) == Some("  INFO"));
        let own: Vec<&str> = own.iter().map(|line| line[34..].split(" (pid ").next().unwrap()).collect();
        let from = "from outside of this pid namespace";
        let hup = [&format!("received SIGHUP {from}"), "forwarding SIGHUP to alpha"];
        let restart = [&format!("received SIGUSR1 {from}"), "restarting alpha", "alpha", "starting alpha"];
        let term = [&format!("received SIGTERM {from}"), "forwarding SIGTERM to alpha", "alpha"];
        assert_eq!(own, [&["starting alpha"], &hup[..], &hup, &restart, &hup, &term].concat(), "{most}");
        assert_eq!(
            other,
            ["it is up", "said 1", "said 2", "it is up", "said 1"].map(|l| format!("[alpha] {l}")),
            "{most}"
        );
    }
}
