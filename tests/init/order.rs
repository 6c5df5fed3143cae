//! Who waits for whom, and how: probes, oneshots, restart policies and requests, on real processes.

use std::process::Command;
use std::time::{Duration, Instant};

use nix::libc;
use serde_json::{Value, json};

use super::calls::{assert_does_not_spin, assert_idle};
use super::harness::stat;
use super::{Bundle, Setup};

/// db listens on this address once DIR/go is there, and answers as a web server whose /health is there once DIR/well is. app
/// waits until it is ready.
const DB: &str = r#"
[[daemon]]
name = "db"
command = ["perl", "-MSocket", "-e", '''
    my ($ip, $port) = split /:/, "PLACE"; select undef, undef, undef, 0.01 until -e "DIR/go";
    socket(my $s, PF_INET, SOCK_STREAM, 0); setsockopt($s, SOL_SOCKET, SO_REUSEADDR, 1);
    $SIG{PIPE} = "IGNORE"; bind($s, pack_sockaddr_in($port, inet_aton($ip))) or die "$!"; listen($s, 9);
    while (1) { accept(my $c, $s) or next; sysread $c, my $asked, 999;
        syswrite $c, "HTTP/1.1 " . (-e "DIR/well" ? 200 : 503) . " x\r\n\r\n"; close $c }''']
ready = READY
[[daemon]]
name = "app"
command = ["sh", "-c", "echo app is up; exec sleep 1000"]
depends_on = ["db"]
"#;

fn why(bundle: &Bundle, index: usize) -> Value {
    bundle.daemon(index)["waiting_for"][0].clone()
}

/// What became of a request, once that is final.
fn answer(bundle: &Bundle, index: usize, id: &str) -> Value {
    let mut found = Value::Null;
    bundle.wait_until(&format!("the end of request {id}"), || {
        let daemon = bundle.daemon(index);
        found =
            daemon["requests"].as_array().into_iter().flatten().find(|r| r["id"] == id).cloned().unwrap_or_default();
        !matches!(found["outcome"].as_str(), None | Some("pending" | "held"))
    });
    found
}

#[test]
fn a_daemon_is_started_once_its_dependency_accepts_a_connection() {
    let table = DB.replace("READY", r#"{ tcp = "PLACE" }"#).replace("PLACE", "127.9.1.1:7001");
    let bundle = Bundle::start(&table);
    let refused = json!({ "daemon": "db", "why": "connection refused on 127.9.1.1:7001" });
    bundle.wait_until("why it waits", || why(&bundle, 1) == refused);
    let app = bundle.daemon(1);
    assert_eq!((&app["state"], &app["generation"], &app["pid"]), (&"waiting".into(), &0.into(), &Value::Null));
    let (code, shown, _) = bundle.status(&[]);
    assert!(
        code == 1 && shown.contains("\napp waits for db: connection refused on 127.9.1.1:7001\n"),
        "{code}: {shown}"
    );
    let descriptors = bundle.descriptors();
    bundle.write("go", "");
    bundle.wait_for_generation(1, 1);
    assert_eq!(bundle.status(&[]).0, 0);
    assert!(bundle.daemon(1)["waiting_for"].is_null());
    // No probe is left, nor a pipe of one; app has its two.
    bundle.wait_until("db and app alone", || bundle.children().len() == 2);
    bundle.wait_until("their pipes alone", || bundle.descriptors() <= descriptors + 2);
    assert_idle(&bundle);
}

#[test]
fn a_probe_finds_the_page_of_an_init_that_is_not_pid_1() {
    let ready = r#"{ exec = ["test", "-e", "DIR/well"] }"#;
    let table = DB.replace("READY", ready).replace("PLACE", "127.9.1.7:7007");
    let bundle = Setup::new(&table).not_as_pid_1().start();
    let said = json!({ "daemon": "db", "why": "`test -e ...` exited 1" });
    bundle.wait_until("why it waits", || why(&bundle, 1) == said);
    bundle.write("well", "");
    bundle.wait_for_generation(1, 1);
}

#[test]
fn a_daemon_is_started_once_the_one_that_it_depends_on_answers_with_200() {
    let table = DB.replace("READY", r#"{ http = "http://PLACE/health" }"#).replace("PLACE", "127.9.1.2:7002");
    let bundle = Bundle::start(&table);
    bundle.write("go", "");
    let unwell = json!({ "daemon": "db", "why": "HTTP 503 from http://127.9.1.2:7002/health" });
    bundle.wait_until("why it waits", || why(&bundle, 1) == unwell);
    bundle.write("well", "");
    bundle.wait_for_generation(1, 1);
}

#[test]
fn a_command_probe_has_the_environment_of_the_dependency() {
    let ready = r#"{ exec = ["sh", "-c", "echo $A_SECRET >&2; test -e DIR/well"] }"#;
    let bundle =
        Setup::new(&DB.replace("READY", ready).replace("PLACE", "127.9.1.3:7003")).env("A_SECRET", "is 42").start();
    let said = json!({ "daemon": "db", "why": "`sh -c ...` exited 1: is 42" });
    bundle.wait_until("why it waits", || why(&bundle, 1) == said);
    bundle.write("well", "");
    bundle.wait_for_generation(1, 1);
    // A probe's output is in nobody's log.
    assert!(!bundle.read("out").contains("42") && !bundle.read("err").contains("] is 42"), "{}", bundle.read("err"));
}

#[test]
fn an_answer_on_the_port_of_another_daemon_does_not_make_one_ready() {
    let table = DB.replace("READY", r#"{ tcp = "PLACE" }"#).replace("PLACE", "127.9.1.4:7004");
    let squatter = table.replace("name = \"db\"", "name = \"squatter\"").replace("[[daemon]]\nname = \"app\"", "[[daemon]]\nname = \"db\"\ncommand = [\"sleep\", \"1000\"]\nready = { tcp = \"127.9.1.4:7004\" }\n[[daemon]]\nname = \"app\"");
    let bundle = Bundle::start(&squatter);
    bundle.write("go", "");
    bundle.wait_until("who holds it", || {
        let pid = &bundle.daemon(0)["pid"];
        why(&bundle, 2)["why"] == format!("port 7004 is held by pid {pid} (squatter)")
    });
    assert_eq!(bundle.daemon(2)["state"], "waiting");
}

#[test]
fn a_probe_that_hangs_is_killed_and_the_next_one_may_answer() {
    let ready = r#"{ exec = ["sh", "-c", "test -e DIR/well || kill -STOP $PPID"] }"#;
    let since = Instant::now();
    let bundle = Bundle::start(&DB.replace("READY", ready).replace("PLACE", "127.9.1.5:7005"));
    let is_stopped = |pid: &i32| stat(*pid, 3).as_deref() == Some("T");
    bundle.wait_until("a stopped probe", || bundle.children().iter().any(is_stopped));
    bundle.wait_until("why it waits", || why(&bundle, 1)["why"] == "probe timed out");
    // The promise is a time: it has 10 s.
    assert!(since.elapsed() >= Duration::from_secs(10), "{:?}", since.elapsed());
    bundle.write("well", "");
    bundle.wait_for_generation(1, 1);
    bundle.wait_until("no probe", || bundle.children().len() == 2);
}

#[test]
fn nothing_of_a_probe_outlives_the_process_that_it_asks_about() {
    let ready = r#"{ exec = ["sh", "-c", "sleep 1000 & echo > DIR/asked; sleep 1000"] }"#;
    let table = DB.replace("READY", ready).replace("PLACE", "127.9.1.8:7008");
    let bundle = Bundle::start(&format!("{table}[[daemon]]\nname = \"other\"\ncommand = [\"sleep\", \"1000\"]\n"));
    bundle.wait_until("a probe", || bundle.dir.join("asked").exists());
    let db = bundle.children()[0];
    // SAFETY: kill(2) has no memory effects, and init has not reaped it.
    assert_eq!(unsafe { libc::kill(db, libc::SIGKILL) }, 0);
    bundle.wait_for("err", "app can't start");
    // Orphans become init's children.
    bundle.wait_until("the other one alone", || bundle.children().len() == 1);
}

#[test]
fn a_shutdown_does_not_wait_for_a_probe() {
    let ready = r#"{ exec = ["sh", "-c", "echo > DIR/asked; exec sleep 1000"] }"#;
    let mut bundle = Bundle::start(&DB.replace("READY", ready).replace("PLACE", "127.9.1.6:7006"));
    bundle.wait_until("a probe", || bundle.dir.join("asked").exists());
    let before = Instant::now();
    bundle.signal("TERM");
    assert_eq!(bundle.exit_code(), 143);
    // Only the clock tells: at the end of its 10 s the probe would be killed, and the shutdown would go on.
    assert!(before.elapsed() < Duration::from_secs(9), "{:?}", before.elapsed());
}

/// setup ends with DIR/code, and is tried again until that is 0.
const SETUP: &str = r#"
[[daemon]]
name = "setup"
command = ["sh", "-c", "until test -e DIR/code; do sleep 0.01; done; echo it ran; exit $(cat DIR/code)"]
oneshot = true
restart = "on-failure"
[[daemon]]
name = "app"
command = ["sh", "-c", "echo app is up; exec sleep 1000"]
depends_on = ["setup"]
"#;

#[test]
fn a_oneshot_is_tried_again_until_it_exits_0() {
    let bundle = Bundle::start(SETUP);
    bundle.wait_for_generation(0, 1);
    assert_eq!(bundle.daemon(1)["state"], "waiting");
    bundle.write("code", "3");
    bundle.wait_until("three attempts", || bundle.read("out").matches("it ran").count() >= 3);
    assert_eq!(bundle.daemon(1)["state"], "waiting");
    assert_eq!(bundle.status(&[]).0, 1);
    bundle.write("code", "0");
    bundle.wait_for_generation(1, 1);
    let setup = bundle.daemon(0);
    assert_eq!((&setup["state"], &setup["last_exit"]["code"]), (&"done".into(), &0.into()));
    assert!(setup["revivals"].as_u64().unwrap() >= 2, "{setup}");
    // Nobody asks a oneshot whether it is ready.
    let (code, shown, _) = bundle.status(&["--ready", "--json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    crate::schemas::assert_fits("status", &shown);
    assert_eq!((code, &shown["daemons"][0]["ready"], &shown["daemons"][1]["ready"]), (0, &Value::Null, &true.into()));
}

#[test]
fn a_daemon_in_backoff_shows_when_it_starts_again_and_how_often_it_did() {
    let table = "[[daemon]]\nname = \"alpha\"\ncommand = [\"sh\", \"-c\", \"exit 7\"]\nrestart = \"always\"\n";
    let mut bundle = Bundle::start(table);
    bundle.wait_until("some deaths", || bundle.daemon(0)["revivals"].as_u64() >= Some(4));
    bundle.wait_until("backoff", || bundle.daemon(0)["state"] == "backoff");
    let (code, shown, _) = bundle.status(&["--json"]);
    let alpha = serde_json::from_str::<Value>(&shown).unwrap()["daemons"][0].clone();
    assert_eq!((code, &alpha["state"], &alpha["last_exit"]["code"]), (1, &"backoff".into(), &7.into()));
    assert_eq!(alpha["generation"].as_u64().unwrap(), 1 + alpha["revivals"].as_u64().unwrap());
    // Doubled at least four times by now, and an age: not a point of the clock.
    assert!(alpha["starts_in_ms"].as_u64().unwrap() <= 60_000, "{alpha}");
    let (_, table, _) = bundle.status(&[]);
    assert!(table.contains("backoff, in "), "{table}");
    // Between two starts init only waits.
    assert_does_not_spin(&bundle);
    bundle.signal("TERM");
    assert_eq!(bundle.exit_code(), 7);
}

const BY_REQUEST: &str = r#"
[[daemon]]
name = "alpha"
command = ["sh", "-c", "trap 'echo took HUP' HUP; echo alpha is up; while :; do sleep 0.02; done"]
restart = "on-failure"
[[daemon]]
name = "beta"
command = ["sleep", "1000"]
"#;

#[test]
fn a_request_is_served_and_what_came_of_it_stands_in_the_page() {
    let mut bundle = Bundle::start(BY_REQUEST);
    bundle.wait_for("out", "alpha is up");
    bundle.wait_until_started();
    let beta = bundle.daemon(1)["pid"].clone();
    bundle.ask("r1 restart alpha");
    let restarted = answer(&bundle, 0, "r1");
    assert_eq!(
        (&restarted["verb"], &restarted["outcome"], &restarted["generation"]),
        (&"restart".into(), &"started".into(), &2.into())
    );
    bundle.wait_until("its handler", || bundle.read("out").matches("alpha is up").count() == 2);
    bundle.ask("r2 signal HUP alpha");
    assert_eq!(answer(&bundle, 0, "r2")["outcome"], "delivered");
    bundle.wait_for("out", "took HUP");
    bundle.ask("r3 stop alpha");
    assert_eq!(answer(&bundle, 0, "r3")["outcome"], "stopped");
    assert_eq!(bundle.daemon(0)["state"], "stopped");
    bundle.ask("r4 stop alpha");
    assert_eq!(answer(&bundle, 0, "r4")["outcome"], "not-running");
    bundle.ask("r5 start alpha");
    assert_eq!(answer(&bundle, 0, "r5")["generation"], 3);
    bundle.ask("r6 start alpha");
    assert_eq!(answer(&bundle, 0, "r6")["outcome"], "running");
    let alpha = bundle.daemon(0);
    assert_eq!((&alpha["generation"], &alpha["restarts"], &alpha["revivals"]), (&3.into(), &2.into(), &0.into()));
    assert_eq!(bundle.daemon(1)["pid"], beta);
    bundle.signal("TERM");
    assert_eq!(bundle.exit_code(), 143);
}

#[test]
fn bad_requests_are_counted_and_logged_at_most_once_a_second() {
    let bundle = Bundle::start(BY_REQUEST);
    bundle.wait_until_started();
    let lines = || bundle.read("err").lines().count();
    let before = lines();
    let since = Instant::now();
    for n in 0..500 {
        bundle.ask(&format!("r{n} restart nobody"));
        bundle.ask("nonsense");
    }
    bundle.ask("last restart alpha");
    assert_eq!(answer(&bundle, 0, "last")["outcome"], "started");
    // The promise is so many lines in a time. Its own lines: restarting, starting.
    let most = 2 * (since.elapsed().as_secs() + 2) + 4;
    assert!(u64::try_from(lines() - before).unwrap() <= most, "{}", bundle.read("err"));
}

#[test]
fn a_flood_of_requests_for_a_daemon_delays_no_term() {
    let mut bundle = Bundle::start(BY_REQUEST);
    bundle.wait_for("out", "alpha is up");
    bundle.wait_until_started();
    let path = format!("/proc/{}/fd/101", bundle.pid());
    let flood = "import sys\nf = open(sys.argv[1], 'wb', 0)\ntry:\n for n in range(10**7): f.write(b'\\n%d restart alpha\\n' % n)\nexcept OSError: sys.exit(3)";
    let mut flooder = Command::new("python3").args(["-c", flood, &path]).spawn().unwrap();
    bundle.wait_until("restarts", || bundle.daemon(0)["generation"].as_u64() >= Some(5));
    bundle.signal("TERM");
    bundle.exit_code();
    // SAFETY: kill(2) has no memory effects, and it isn't reaped.
    unsafe { libc::kill(flooder.id().cast_signed(), libc::SIGKILL) };
    // Killed, or ended by init's end (3): the TERM didn't wait for the flood to be over (0).
    assert_ne!(flooder.wait().unwrap().code(), Some(0), "the flood was over before the TERM was served");
}

#[test]
fn a_message_read_before_its_pid_became_a_dependents_does_not_count() {
    let table = r#"
[[daemon]]
name = "alpha"
ready = { notify = true }
command = ["perl", "-MSocket", "-e", '''
    $n = $ENV{NOTIFY_SOCKET}; $n =~ s/^@/\0/; $SIG{HUP} = sub { socket S, PF_UNIX, SOCK_DGRAM, 0;
    send S, "READY=1", 0, pack_sockaddr_un($n); open F, ">DIR/said" }; open F, ">DIR/up"; sleep 1 while 1''']
[[daemon]]
name = "beta"
ready = { notify = true }
command = ["sleep", "1000"]
depends_on = ["alpha"]
"#;
    for _ in 0..5 {
        let bundle = Bundle::start(table);
        bundle.wait_until("alpha's handler", || bundle.dir.join("up").exists());
        bundle.wait_for_generation(0, 1);
        let alpha = bundle.children()[0];
        bundle.signal("STOP");
        bundle.wait_until("a stopped init", || stat(bundle.pid(), 3).as_deref() == Some("T"));
        // SAFETY: kill(2) has no memory effects, and init has not reaped it.
        assert_eq!(unsafe { libc::kill(alpha, libc::SIGHUP) }, 0);
        bundle.wait_until("alpha's word", || bundle.dir.join("said").exists());
        let pid = super::notify::ready_from_the_next_pid(&bundle);
        bundle.signal("CONT");
        bundle.wait_for_generation(1, 1);
        bundle.signal("USR2");
        bundle.wait_for("err", "SIGUSR2");
        if bundle.daemon(1)["pid"] == pid {
            return assert_eq!(bundle.page()["plans"][1]["notified"], false);
        }
    }
    panic!("beta never got the pid");
}

#[test]
fn an_idle_init_makes_no_system_call_whatever_is_in_its_table() {
    needs!(Strace, Native("ptrace is not there, or watches qemu"));
    let bundle = Bundle::start(
        r#"
restart = "on-failure"
[[daemon]]
name = "setup"
command = ["true"]
oneshot = true
[[daemon]]
name = "alpha"
command = ["sleep", "1000"]
ready = { exec = ["true"] }
depends_on = ["setup"]
[[daemon]]
name = "beta"
command = ["sleep", "1000"]
restart = "always"
depends_on = ["alpha"]
[[daemon]]
name = "broken"
command = ["/no/such/program"]
restart = "no"
[[daemon]]
name = "waits"
command = ["sleep", "1000"]
depends_on = ["broken"]
"#,
    );
    for index in [1, 2] {
        bundle.wait_for_generation(index, 1);
    }
    bundle.ask("r1 restart beta");
    assert_eq!(answer(&bundle, 2, "r1")["outcome"], "started");
    bundle.ask("r2 stop alpha");
    assert_eq!(answer(&bundle, 1, "r2")["outcome"], "stopped");
    let states: Vec<Value> = (0..5).map(|n| bundle.daemon(n)["state"].clone()).collect();
    assert_eq!(states, ["done", "stopped", "running", "failed", "waiting"]);
    assert_idle(&bundle);
}
