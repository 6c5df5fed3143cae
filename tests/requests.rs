//! `restart`, `stop`, `start` and `signal`, inside a real pid namespace whose PID 1 is a real init.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and its helpers are tests too")]

#[macro_use]
mod needs;
mod schemas;

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

const SIDECAR: &str = env!("CARGO_BIN_EXE_sidecar");

/// alpha is ready once `DIR/ready` names its process, and does what `DIR/conf/rules` says; beta only runs. slow ignores TERM, deaf
/// never catches HUP, dies exits at once, once is a oneshot that exits with what `DIR/once` says; unused isn't selected.
const TABLE: &str = r#"
grace = "2s"
[[daemon]]
name = "alpha"
command = ["sh", "-c", '''
case $(cat DIR/conf/rules) in dies) exit 3 ;; unready) sleep 1000 ;; esac
echo $$ > DIR/ready; while :; do sleep 0.02; done
''']
config = { path = "DIR/conf/rules", check = ["sh", "-c", "! grep bad \"$0\"", "{}"] }
ready = { exec = ["sh", "-c", "read pid < DIR/ready && kill -0 $pid"] }
settle = "100ms"
[[daemon]]
name = "beta"
command = ["sh", "-c", "trap 'echo >> DIR/hups' HUP; while :; do sleep 0.02; done"]
settle = "100ms"
[[daemon]]
name = "slow"
command = ["sh", "-c", "trap '' TERM; touch DIR/slow; while :; do sleep 0.02; done"]
settle = "100ms"
[[daemon]]
name = "deaf"
command = ["sleep", "1000"]
[[daemon]]
name = "dies"
command = ["sh", "-c", "test -e DIR/lives && exec sleep 1000; exit 7"]
restart = "always"
[[daemon]]
name = "once"
command = ["sh", "-c", "exit $(cat DIR/once)"]
oneshot = true
[[daemon]]
name = "unused"
command = ["sleep", "1000"]

[signals]
USR1 = { restart = "alpha" }
"#;

const SELECTED: &str = "alpha,beta,slow,deaf,dies,once";

static NEXT: AtomicU32 = AtomicU32::new(0);

struct Bundle {
    dir: PathBuf,
    unshare: Child,
    init: String,
}

impl Bundle {
    fn start() -> Self {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("sidecar-requests-{}-{n}", std::process::id()));
        fs::create_dir_all(dir.join("conf")).unwrap();
        fs::write(dir.join("conf/rules"), "good").unwrap();
        fs::write(dir.join("once"), "0").unwrap();
        fs::write(dir.join("table.toml"), TABLE.replace("DIR", dir.to_str().unwrap())).unwrap();
        let log = fs::File::create(dir.join("log")).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child", SIDECAR, "init"]);
        command.arg(format!("--config={}", dir.join("table.toml").display()));
        command.env("CLAUDE_BOTTLE_SIDECAR_DAEMONS", SELECTED).stdin(Stdio::null()).stdout(Stdio::null());
        let unshare = command.stderr(log).spawn().unwrap();
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let start = Instant::now();
        let init = loop {
            let init = fs::read_to_string(&children).unwrap_or_default().trim().to_owned();
            if !init.is_empty() || start.elapsed() > Duration::from_secs(20) {
                break init;
            }
        };
        let bundle = Self { dir, unshare, init };
        bundle.wait_until("all run", || {
            let is = |name: &str, state: &str| bundle.daemon(name)["state"] == state;
            bundle.path("slow").exists() && is("deaf", "running") && is("dies", "backoff") && is("once", "done")
        });
        bundle.wait_until("ready", || bundle.run(&["status", "--ready", "--json"]).0["daemons"][0]["ready"] == true);
        bundle
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn wait_until(&self, what: &str, condition: impl Fn() -> bool) {
        let start = Instant::now();
        while !condition() {
            let log = fs::read_to_string(self.path("log")).unwrap_or_default();
            assert!(start.elapsed() < Duration::from_secs(30), "not in time: {what}; log: {log}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What runs inside, by another user perhaps.
    fn command(&self, by: &[&str], args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init, "-p", "-m"]).args(by).arg(SIDECAR).args(args).env("USER", "me");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        command
    }

    fn begin(&self, args: &[&str]) -> Child {
        self.command(&[], args).spawn().unwrap()
    }

    /// The object that it prints, and its exit code.
    fn run(&self, args: &[&str]) -> (Value, i32) {
        let (out, _, code) = said(&self.command(&[], args).output().unwrap());
        let value: Value = serde_json::from_str(out.lines().next_back().unwrap_or_default()).unwrap_or_default();
        if value.is_object() {
            schemas::assert_fits(if args[0] == "status" { "status" } else { "apply" }, &value);
        }
        (value, code)
    }

    /// Its words, with which stream they stand on, and its exit code.
    fn says(&self, args: &[&str]) -> (String, String, i32) {
        said(&self.command(&[], args).output().unwrap())
    }

    fn daemon(&self, name: &str) -> Value {
        let status = self.run(&["status", "--json"]).0;
        status["daemons"].as_array().into_iter().flatten().find(|d| d["name"] == name).cloned().unwrap_or_default()
    }

    fn is_asked(&self, name: &str, verb: &str) -> bool {
        let requests = self.daemon(name)["requests"].clone();
        requests.as_array().into_iter().flatten().any(|request| request["verb"] == verb)
    }

    fn write(&self, request: &str) {
        let pipe = format!("/proc/{}/fd/101", self.init);
        fs::OpenOptions::new().write(true).open(pipe).unwrap().write_all(request.as_bytes()).unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-9", &self.init]).status();
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn said(output: &Output) -> (String, String, i32) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr), output.status.code().unwrap_or(-1))
}

fn ended(child: Child) -> (String, String, i32) {
    said(&child.wait_with_output().unwrap())
}

#[track_caller]
fn is_good(said: &(String, String, i32), begins: &str) {
    assert!(said.2 == 0 && said.1.is_empty() && said.0.starts_with(begins) && said.0.ends_with(" ms\n"), "{said:?}");
}

#[track_caller]
fn is_bad(said: &(String, String, i32), code: i32, words: &str) {
    assert!(said.2 == code && said.0.is_empty() && said.1.contains(words), "{said:?}");
    assert_eq!(said.1.lines().count(), 1, "{said:?}");
}

#[test]
fn a_restart_is_live_once_the_new_process_is_ready_and_no_sibling_moves() {
    let bundle = Bundle::start();
    fs::write(bundle.path("lives"), "").unwrap();
    // Its policy may have started it by now.
    is_good(&bundle.says(&["restart", "dies"]), "live: dies was restarted and is ready: ");
    let said = bundle.says(&["restart", "alpha"]);
    is_good(&said, "live: alpha was restarted and is ready: pid ");
    assert!(said.0.contains("generation 1 -> 2; siblings untouched; "), "{said:?}");
    assert_eq!(bundle.daemon("alpha")["restarts"], 1);
}

#[test]
fn a_stopped_daemon_stays_stopped_whatever_its_policy_until_it_is_started() {
    let bundle = Bundle::start();
    is_good(
        &bundle.says(&["stop", "beta", "dies"]),
        "stopped: beta was stopped, and stays stopped until it is started; ",
    );
    let before = bundle.daemon("dies");
    assert_eq!(before["state"], "stopped");
    // Longer than its delay could be by now.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(bundle.daemon("dies")["generation"], before["generation"]);
    is_good(&bundle.says(&["start", "beta"]), "live: beta was started and is ready: pid none -> ");
    is_good(&bundle.says(&["stop", "alpha"]), "stopped: alpha ");
    is_good(&bundle.says(&["restart", "alpha"]), "live: alpha was restarted ");
}

#[test]
fn what_is_so_already_is_exit_0_and_says_so() {
    let bundle = Bundle::start();
    let said = bundle.says(&["start", "beta"]);
    is_good(&said, "running: beta is running already (pid ");
    assert_eq!(bundle.daemon("beta")["generation"], 1);
    is_good(&bundle.says(&["stop", "beta"]), "stopped: ");
    is_good(&bundle.says(&["stop", "beta"]), "not running: beta isn't running; nothing was done; ");
    is_good(&bundle.says(&["stop", "once"]), "not running: once ");
    // Also if its file would be refused.
    fs::write(bundle.path("conf/rules"), "bad").unwrap();
    is_good(&bundle.says(&["start", "alpha"]), "running: alpha ");
}

#[test]
fn a_start_of_a_daemon_in_backoff_is_proven_by_its_new_process() {
    let bundle = Bundle::start();
    is_bad(&bundle.says(&["restart", "dies"]), 1, "not proven: dies exited with code 7");
    bundle.wait_until("a long delay", || bundle.daemon("dies")["starts_in_ms"].as_u64() > Some(1000));
    fs::write(bundle.path("lives"), "").unwrap();
    let revivals = bundle.daemon("dies")["revivals"].clone();
    is_good(&bundle.says(&["restart", "dies"]), "live: dies was restarted");
    // By the request, and not by its policy after the delay.
    assert_eq!(bundle.daemon("dies")["revivals"], revivals);
}

#[test]
fn a_oneshot_is_run_again_and_live_once_it_has_exited_0() {
    let bundle = Bundle::start();
    is_good(&bundle.says(&["restart", "once"]), "live: once ran and exited 0 (generation 2); ");
    fs::write(bundle.path("once"), "9").unwrap();
    is_bad(&bundle.says(&["start", "once"]), 1, "not proven: ");
    assert_eq!(bundle.daemon("once")["generation"], 3);
}

#[test]
fn a_file_that_the_checker_refuses_leaves_the_running_daemon_alone() {
    let bundle = Bundle::start();
    fs::write(bundle.path("conf/rules"), "bad").unwrap();
    is_bad(&bundle.says(&["restart", "alpha"]), 1, "refused: alpha: the checker of ");
    assert_eq!(bundle.daemon("alpha")["generation"], 1);
    fs::write(bundle.path("conf/rules"), "dies").unwrap();
    is_bad(&bundle.says(&["restart", "alpha"]), 1, "not proven: alpha exited with code 3");
    fs::write(bundle.path("conf/rules"), "unready").unwrap();
    is_bad(&bundle.says(&["restart", "alpha", "--timeout=3s"]), 1, "not proven: alpha runs");
}

#[test]
fn a_stop_that_takes_too_long_is_reported_as_not_proven() {
    let bundle = Bundle::start();
    is_bad(&bundle.says(&["stop", "slow", "--timeout=100ms"]), 1, "not proven: slow is still being stopped (pid ");
    bundle.wait_until("it ends", || bundle.daemon("slow")["state"] == "stopped");
}

#[test]
fn a_restart_that_a_stop_overtakes_is_superseded_and_the_other_way_round() {
    let bundle = Bundle::start();
    let restart = bundle.begin(&["restart", "slow"]);
    bundle.wait_until("asked", || bundle.is_asked("slow", "restart"));
    is_good(&bundle.says(&["stop", "slow"]), "stopped: slow ");
    is_bad(&ended(restart), 1, "superseded: ");
    is_good(&bundle.says(&["start", "slow"]), "live: slow ");
    let stop = bundle.begin(&["stop", "slow"]);
    bundle.wait_until("asked", || bundle.daemon("slow")["state"] == "stopping");
    is_good(&bundle.says(&["start", "slow"]), "live: slow ");
    is_bad(&ended(stop), 1, "superseded: slow: a later request for slow");
}

#[test]
fn a_signal_is_held_for_a_daemon_that_does_not_catch_it_yet() {
    let bundle = Bundle::start();
    is_good(&bundle.says(&["signal", "SIGHUP", "beta"]), "delivered: beta was sent HUP (pid ");
    bundle.wait_until("caught", || bundle.path("hups").exists());
    let held = bundle.says(&["signal", "hup", "deaf", "--timeout=300ms"]);
    is_bad(&held, 1, "not proven: deaf: HUP is still held: deaf runs");
    is_bad(
        &bundle.says(&["signal", "HUP", "once"]),
        1,
        "refused: once: HUP for once was refused: it isn't running; nothing was done",
    );
    let object = bundle.run(&["signal", "KILL", "beta", "--json"]);
    assert_eq!((&object.0["signal"], &object.0["action"], object.1), (&"KILL".into(), &"signal".into(), 0));
    bundle.wait_until("killed", || bundle.daemon("beta")["state"] == "exited");
    assert_eq!(bundle.daemon("beta")["last_exit"]["signal"], 9);
}

#[test]
fn two_restarts_at_once_are_served_one_after_the_other_and_both_are_live() {
    let bundle = Bundle::start();
    let both = [bundle.begin(&["restart", "beta"]), bundle.begin(&["restart", "beta"])].map(ended);
    for said in &both {
        is_good(said, "live: beta was restarted");
    }
    assert_eq!(bundle.daemon("beta")["generation"], 3);
}

#[test]
fn a_request_that_waits_in_vain_for_the_lock_is_told_who_has_it() {
    let bundle = Bundle::start();
    let restart = bundle.begin(&["restart", "slow"]);
    bundle.wait_until("asked", || bundle.is_asked("slow", "restart"));
    let said = bundle.says(&["restart", "beta", "--timeout=200ms"]);
    is_bad(&said, 1, "refused: beta: another change is under way, by me@");
    assert!(said.1.contains(" (restart), since "), "{said:?}");
    is_good(&bundle.says(&["stop", "beta"]), "stopped: ");
    is_good(&bundle.says(&["signal", "WINCH", "deaf"]), "delivered: ");
    is_good(&ended(restart), "live: slow ");
    is_good(&bundle.says(&["restart", "beta"]), "live: beta ");
}

#[test]
fn another_user_may_not_ask_and_is_told_so() {
    needs!(Root);
    let bundle = Bundle::start();
    let by = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--"];
    // Where that user may execute it.
    let copy = bundle.path("sidecar");
    fs::copy(SIDECAR, &copy).unwrap();
    for applet in ["restart", "stop", "start"] {
        let mut command = Command::new("nsenter");
        command.args(["-t", &bundle.init, "-p", "-m"]).args(by).arg(&copy).args([applet, "beta"]);
        let said = said(&command.stdin(Stdio::null()).output().unwrap());
        is_bad(
            &said,
            4,
            "this user may not send requests to the bundle's init: it may not look at PID 1; run it as the user",
        );
        assert!(!said.1.contains("not a sidecar"), "{said:?}");
        assert!(said.1.contains("nothing was sent"), "{said:?}");
    }
    assert_eq!(bundle.daemon("beta")["generation"], 1);
}

#[test]
fn where_pid_1_is_another_program_nothing_is_asked() {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "sh", "-c", "\"$0\" restart beta; exit $?", SIDECAR]);
    is_bad(&said(&command.stdin(Stdio::null()).output().unwrap()), 4, "restart: not a sidecar bundle");
}

#[test]
fn in_a_shutdown_a_request_is_refused_and_one_that_waits_is_not_proven() {
    let bundle = Bundle::start();
    let stop = bundle.begin(&["stop", "slow"]);
    bundle.wait_until("asked", || bundle.daemon("slow")["state"] == "stopping");
    assert!(Command::new("kill").args(["-TERM", &bundle.init]).status().unwrap().success());
    bundle.wait_until("stopping", || bundle.run(&["status", "--json"]).0["state"] == "stopping");
    for applet in ["restart", "stop", "start"] {
        is_bad(&bundle.says(&[applet, "slow"]), 1, "refused: slow: the bundle is stopping; nothing was sent");
    }
    is_bad(&ended(stop), 1, "not proven: slow: the bundle is stopping, so init no longer carries out the request");
}

#[test]
fn several_names_are_served_in_table_order_and_the_highest_code_counts() {
    let bundle = Bundle::start();
    fs::write(bundle.path("lives"), "").unwrap();
    let output =
        bundle.command(&[], &["restart", "--json", "once", "unused", "beta", "beta", "alpha"]).output().unwrap();
    let (out, err, code) = said(&output);
    assert_eq!((err.as_str(), code), ("", 1));
    let objects: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> =
        objects.iter().map(|o| (o["daemon"].as_str().unwrap(), o["outcome"].as_str().unwrap())).collect();
    assert_eq!(told, [("unused", "refused"), ("alpha", "live"), ("beta", "live"), ("once", "live")]);
    for object in &objects {
        assert_eq!(
            (&object["schema"], &object["applet"], &object["bundle"]),
            (&1.into(), &"restart".into(), &Value::Null)
        );
    }
    assert!(objects[0]["error"].as_str().unwrap().contains("unused, which is not selected"), "{}", objects[0]);
    assert_eq!(objects[1]["after"]["generation"], 2);
}

#[test]
fn an_unknown_name_is_a_usage_error_and_nothing_is_done_for_any() {
    let bundle = Bundle::start();
    for applet in ["restart", "stop", "start"] {
        is_bad(&bundle.says(&[applet, "beta", "nobody"]), 2, "has no daemon \"nobody\"");
    }
    is_bad(&bundle.says(&["signal", "KILL", "beta", "nobody"]), 2, "nothing was done for any daemon");
    for args in [&["restart"][..], &["signal", "HUP"], &["signal", "NONE", "beta"], &["stop", "beta", "--timeout=0s"]] {
        is_bad(&bundle.says(args), 2, "nothing was done for any daemon");
    }
    let (object, code) = bundle.run(&["stop", "nobody", "--json"]);
    assert_eq!((&object["outcome"], &object["bundle"], code), (&"usage".into(), &Value::Null, 2));
    assert_eq!(
        (bundle.daemon("beta")["generation"].clone(), bundle.daemon("beta")["state"].clone()),
        (1.into(), "running".into())
    );
    assert!(!bundle.log().contains("stopping beta"));
}

#[test]
fn a_full_request_pipe_delays_its_sender_alone() {
    let bundle = Bundle::start();
    // init reads nothing while it is stopped by someone outside.
    assert!(Command::new("kill").args(["-STOP", &bundle.init]).status().unwrap().success());
    let pipe = format!("/proc/{}/fd/101", bundle.init);
    let mut pipe = fs::OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(pipe).unwrap();
    while pipe.write(b"\nx\n").is_ok() {}
    let before = Instant::now();
    is_bad(
        &bundle.says(&["stop", "beta", "--timeout=300ms"]),
        1,
        "refused: beta: cannot send a request to the bundle's init: ",
    );
    assert!(before.elapsed() < Duration::from_secs(10));
    assert!(Command::new("kill").args(["-CONT", &bundle.init]).status().unwrap().success());
    is_good(&bundle.says(&["stop", "beta"]), "stopped: beta ");
}

#[test]
fn a_flood_of_others_requests_hides_no_outcome() {
    let bundle = Bundle::start();
    let flood: String = (0..300).fold(String::new(), |all, n| all + &format!("\nflood-{n} stop deaf\n"));
    for chunk in flood.as_bytes().chunks(2000) {
        bundle.write(std::str::from_utf8(chunk).unwrap());
    }
    is_good(&bundle.says(&["restart", "beta"]), "live: beta ");
}

#[test]
fn ctrl_c_stops_the_waiting_and_the_request_stands() {
    let bundle = Bundle::start();
    let stop = bundle.begin(&["stop", "slow"]);
    bundle.wait_until("asked", || bundle.daemon("slow")["state"] == "stopping");
    // nsenter itself dies of it.
    let inside = fs::read_to_string(format!("/proc/{0}/task/{0}/children", stop.id())).unwrap();
    assert!(Command::new("kill").args(["-INT", inside.trim()]).status().unwrap().success());
    is_bad(&ended(stop), 1, "not proven: slow: interrupted; the request stands, and init continues with it");
    bundle.wait_until("it ends", || bundle.daemon("slow")["state"] == "stopped");
}

#[test]
fn two_daemons_swap_roles_by_requests() {
    let bundle = Bundle::start();
    is_good(&bundle.says(&["stop", "beta"]), "stopped: ");
    for round in 0..5 {
        let (old, new) = if round % 2 == 0 { ("alpha", "beta") } else { ("beta", "alpha") };
        is_good(&bundle.says(&["stop", old]), "stopped: ");
        is_good(&bundle.says(&["start", new]), &format!("live: {new} was started and is ready: "));
        let state = |name: &str| bundle.daemon(name)["state"].clone();
        assert_eq!((state(old), state(new)), ("stopped".into(), "running".into()));
    }
}

#[test]
fn a_leftover_whose_main_thread_has_ended_makes_no_restart_live() {
    needs!(Native("qemu shows no threads in /proc"));
    let bundle = Bundle::start();
    // It has beta's mark of another start, as if it had outlived that one.
    let socket = bundle.path("old");
    let server = format!(
        "import ctypes, os, socket, threading, time\n\
        server = socket.socket(socket.AF_UNIX)\nserver.bind({socket:?})\nserver.listen()\n\
        threading.Thread(target=time.sleep, args=(1000,)).start()\n\
        pthread_exit = ctypes.CDLL(None).pthread_exit\npthread_exit.argtypes = [ctypes.c_void_p]\npthread_exit(None)\n"
    );
    let mark = "exec env SIDECAR_DAEMON=beta SIDECAR_GENERATION=9 setsid --fork python3 -c \"$1\" < /dev/null > /dev/null 2>&1";
    let mut left = Command::new("nsenter");
    left.args(["-t", &bundle.init, "-p", "-m", "sh", "-c", mark, "sh", &server]);
    assert!(left.status().unwrap().success());
    bundle.wait_until("it listens", || socket.exists());
    is_bad(&bundle.says(&["restart", "beta", "--timeout=2s"]), 1, "old is held by pid ");
}
