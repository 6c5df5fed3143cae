//! The status page and the applet that shows it.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use serde_json::Value;
use sidecar::page::Changes;

use super::faults::Strace;
use super::harness::PATIENCE;
use super::{Bundle, Setup, TWO};

#[test]
fn status_shows_each_daemon_and_its_exit_code_is_a_health_check() {
    let bundle = Bundle::start(&TWO.replace("exec sleep 1000", "test ! -e DIR/fail || exit 3; exec sleep 1000"));
    bundle.wait_for("out", "alpha is up");
    bundle.wait_for_generation(1, 1);
    let (code, out, _) = bundle.status(&["--json"]);
    assert_eq!(code, 0);
    let status: Value = serde_json::from_str(&out).unwrap();
    crate::schemas::assert_fits("status", &status);
    assert_eq!((&status["schema"], &status["pid"], &status["state"]), (&1.into(), &1.into(), &"running".into()));
    assert_eq!(status["daemons"][1]["name"], "beta");
    // An age, not a point of the clock.
    assert!(status["daemons"][1]["uptime_ms"].as_u64().unwrap() < 60_000);
    bundle.write("fail", "");
    bundle.signal("USR1");
    bundle.wait_for("err", "exited 3");
    bundle.wait_until("the end on the page", || bundle.daemon(1)["state"] == "exited");
    let (code, out, _) = bundle.status(&[]);
    assert_eq!(code, 1);
    assert!(out.contains("exited"), "{out}");
}

#[test]
fn without_its_fixed_descriptor_init_runs_without_a_status_page() {
    let table = TWO.replace("printf 'no newline'", "echo beta is up");
    let mut bundle = Setup::new(&table).wrapped(&["prlimit", "--nofile=64"]).start();
    bundle.wait_for("out", "alpha is up");
    bundle.wait_for("out", "beta is up");
    bundle.wait_for("err", "no status page: ");
    let (code, _, error) = bundle.status(&[]);
    assert_eq!(code, 4, "{error}");
    bundle.signal("USR1");
    bundle.wait_until("a second start", || bundle.read("err").matches(" starting beta").count() == 2);
    bundle.signal("TERM");
    assert_eq!(bundle.exit_code(), 143);
}

#[test]
fn a_page_that_is_published_can_not_be_changed_in_place() {
    let bundle = Bundle::start(TWO);
    bundle.wait_for("out", "alpha is up");
    bundle.wait_until_started();
    let before = bundle.page();
    let path = format!("/proc/{}/fd/100", bundle.pid());
    // As root, who may open anything.
    let mut page = OpenOptions::new().write(true).open(path).unwrap();
    assert_eq!(page.write(b"x").unwrap_err().raw_os_error(), Some(nix::libc::EPERM));
    assert!(page.set_len(0).is_err());
    assert_eq!(bundle.page(), before);
}

#[test]
fn a_page_read_half_written_never_is_however_often_it_changes() {
    let bundle = Bundle::start(TWO);
    bundle.wait_for("out", "alpha is up");
    let path = format!("/proc/{}/fd/100", bundle.pid());
    let (mut last, mut reads, start) = (0, 0, Instant::now());
    while reads < 20_000 || last <= 10 {
        assert!(start.elapsed() < PATIENCE, "it hardly changed: {last}");
        reads += 1;
        if reads % 20 == 0 {
            bundle.signal("USR1");
        }
        let text = std::fs::read(&path).unwrap();
        let page = sidecar::page::parse(&text).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&text)));
        let generation = page.status.daemons[1].generation;
        assert!(generation >= last, "an older page came after a newer one");
        last = generation;
    }
}

#[test]
fn whoever_waits_for_the_page_is_woken_by_its_change_and_by_nothing_else() {
    let bundle = Bundle::start(TWO);
    bundle.wait_until_started();
    let mut changes = Changes::of(bundle.pid());
    let path = format!("/proc/{}/fd/104", bundle.pid());
    let mut pipe = OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(path).unwrap();
    // Somebody of the same user fills it.
    while pipe.write(&[0; 4096]).is_ok() {}
    // Whether it slept for as long as it may: only the clock tells who has ended a wait.
    let mut sleeps = |ms: u16| {
        let before = Instant::now();
        changes.wait(ms);
        before.elapsed() >= Duration::from_millis(ms.into())
    };
    bundle.wait_until("a wait that nothing ends", || sleeps(300));
    bundle.signal("USR1");
    while bundle.daemon(1)["generation"] != 2 {
        assert!(!sleeps(60_000), "it isn't woken");
    }
}

#[test]
fn status_waits_for_the_first_page_of_an_init_that_has_just_been_executed() {
    let bundle = Setup::new(TWO).closed().start();
    bundle.wait_until_closed();
    let delay = ["--trace=memfd_create".to_owned(), "--inject=memfd_create:delay_enter=400000:when=1".to_owned()];
    let strace = Strace::attach(&bundle, &delay);
    bundle.open();
    let is_init =
        || std::fs::read_link(format!("/proc/{}/exe", bundle.pid())).is_ok_and(|exe| exe.ends_with("sidecar"));
    bundle.wait_until("init's exec", is_init);
    let (code, _, error) = bundle.status(&[]);
    strace.detach();
    // The daemons may still be starting.
    assert!(code < 2, "{code}: {error}");
}
