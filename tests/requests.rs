//! `restart`, `stop`, `start` and `signal`, inside a real pid namespace whose PID 1 is a real init.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and its helpers are tests too")]

mod harness;
#[macro_use]
mod needs;
mod schemas;

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use harness::{Bundle, SIDECAR, Setup, children_of, end_of, said, stat, with_more_time};
use serde_json::Value;

/// alpha is ready once `DIR/ready` names its process, and does what `DIR/conf/rules` says; beta only runs. slow ignores TERM and
/// ends only once it may, deaf never catches HUP, dies and its twin exit at once, once is a oneshot that exits with what `DIR/once`
/// says; unused isn't selected.
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
command = ["sh", "-c", "trap '' TERM; touch DIR/slow; until [ -e DIR/end-$$ ]; do sleep 0.02; done"]
grace = "5m"
settle = "100ms"
[[daemon]]
name = "deaf"
command = ["sleep", "1000"]
[[daemon]]
name = "dies"
command = ["sh", "-c", "test -e DIR/lives && exec sleep 1000; exit 7"]
restart = "always"
[[daemon]]
name = "twin"
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

const SELECTED: &str = "alpha,beta,slow,deaf,dies,twin,once";

/// Exit code, stdout and stderr.
type Said = (i32, String, String);

fn start() -> Bundle {
    let setup = Setup::new(TABLE).select(SELECTED).file("conf/rules", "good").file("once", "0");
    let bundle = setup.start();
    bundle.wait_until("all run", || {
        let is = |name: &str, state: &str| bundle.shown(name)["state"] == state;
        bundle.dir.join("slow").exists() && is("deaf", "running") && is("dies", "backoff") && is("once", "done")
    });
    bundle.wait_until("ready", || bundle.run(&["status", "--ready", "--json"]).0["daemons"][0]["ready"] == true);
    bundle
}

impl Bundle {
    fn begin(&self, args: &[&str]) -> Child {
        let mut command = self.inside(&[&[SIDECAR], args].concat());
        command.env("USER", "me").stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn().unwrap()
    }

    fn says(&self, args: &[&str]) -> Said {
        ended(self.begin(args))
    }

    /// The object that it prints, and its exit code.
    fn run(&self, args: &[&str]) -> (Value, i32) {
        let (code, out, _) = self.says(args);
        let value: Value = serde_json::from_str(out.lines().next_back().unwrap_or_default()).unwrap_or_default();
        if value.is_object() {
            schemas::assert_fits(if args[0] == "status" { "status" } else { "apply" }, &value);
        }
        (value, code)
    }

    /// A daemon as `status` shows it.
    fn shown(&self, name: &str) -> Value {
        let status = self.run(&["status", "--json"]).0;
        status["daemons"].as_array().into_iter().flatten().find(|d| d["name"] == name).cloned().unwrap_or_default()
    }

    /// Waits until init has been asked to do this so often.
    fn wait_until_asked(&self, name: &str, verb: &str, times: usize) {
        self.wait_until(&format!("a {verb} of {name}"), || {
            let requests = self.shown(name)["requests"].clone();
            requests.as_array().into_iter().flatten().filter(|request| request["verb"] == verb).count() == times
        });
    }

    fn let_slow_end(&self) {
        self.write(&format!("end-{}", self.shown("slow")["pid"]), "");
    }
}

fn ended(child: Child) -> Said {
    said(&end_of(child))
}

#[track_caller]
fn is_good(said: &Said, begins: &str) {
    assert!(said.0 == 0 && said.2.is_empty() && said.1.starts_with(begins) && said.1.ends_with(" ms\n"), "{said:?}");
}

#[track_caller]
fn is_bad(said: &Said, code: i32, words: &str) {
    assert!(said.0 == code && said.1.is_empty() && said.2.contains(words), "{said:?}");
    assert_eq!(said.2.lines().count(), 1, "{said:?}");
}

/// The applet can't prove it in the time that it is given, and says why.
#[track_caller]
fn is_bad_in_time(bundle: &Bundle, args: &[&str], words: &str) -> Said {
    with_more_time(words, |timeout| {
        let said = bundle.says(&[args, &[timeout]].concat());
        is_bad(&said, 1, "");
        said.2.contains(words).then_some(said)
    })
}

#[test]
fn a_restart_is_live_once_the_new_process_is_ready_and_no_sibling_moves() {
    let bundle = start();
    bundle.write("lives", "");
    // Its policy may have started it by now.
    is_good(&bundle.says(&["restart", "dies"]), "live: dies was restarted and is ready: ");
    let said = bundle.says(&["restart", "alpha"]);
    is_good(&said, "live: alpha was restarted and is ready: pid ");
    assert!(said.1.contains("generation 1 -> 2; siblings untouched; "), "{said:?}");
    assert_eq!(bundle.shown("alpha")["restarts"], 1);
}

#[test]
fn a_stopped_daemon_stays_stopped_whatever_its_policy_until_it_is_started() {
    let bundle = start();
    is_good(
        &bundle.says(&["stop", "beta", "dies"]),
        "stopped: beta was stopped, and stays stopped until it is started; ",
    );
    let before = bundle.shown("dies");
    assert_eq!(before["state"], "stopped");
    let starts = || bundle.shown("twin")["revivals"].as_u64().unwrap();
    let by_now = starts();
    // Their delays are the same, so that dies would have been started before the second of these.
    bundle.wait_until("two more starts of its twin", || starts() >= by_now + 2);
    assert_eq!(bundle.shown("dies")["generation"], before["generation"]);
    is_good(&bundle.says(&["start", "beta"]), "live: beta was started and is ready: pid none -> ");
    is_good(&bundle.says(&["stop", "alpha"]), "stopped: alpha ");
    is_good(&bundle.says(&["restart", "alpha"]), "live: alpha was restarted ");
}

#[test]
fn what_is_so_already_is_exit_0_and_says_so() {
    let bundle = start();
    let said = bundle.says(&["start", "beta"]);
    is_good(&said, "running: beta is running already (pid ");
    assert_eq!(bundle.shown("beta")["generation"], 1);
    is_good(&bundle.says(&["stop", "beta"]), "stopped: ");
    is_good(&bundle.says(&["stop", "beta"]), "not running: beta isn't running; nothing was done; ");
    is_good(&bundle.says(&["stop", "once"]), "not running: once ");
    // Also if its file would be refused.
    bundle.write("conf/rules", "bad");
    is_good(&bundle.says(&["start", "alpha"]), "running: alpha ");
}

#[test]
fn a_start_of_a_daemon_in_backoff_is_proven_by_its_new_process() {
    let bundle = start();
    is_bad(&bundle.says(&["restart", "dies"]), 1, "not proven: dies exited with code 7");
    bundle.wait_until("a long delay", || bundle.shown("dies")["starts_in_ms"].as_u64() > Some(4000));
    bundle.write("lives", "");
    let revivals = bundle.shown("dies")["revivals"].clone();
    is_good(&bundle.says(&["restart", "dies"]), "live: dies was restarted");
    // By the request, and not by its policy after the delay.
    assert_eq!(bundle.shown("dies")["revivals"], revivals);
}

#[test]
fn a_oneshot_is_run_again_and_live_once_it_has_exited_0() {
    let bundle = start();
    is_good(&bundle.says(&["restart", "once"]), "live: once ran and exited 0 (generation 2); ");
    bundle.write("once", "9");
    is_bad(&bundle.says(&["start", "once"]), 1, "not proven: ");
    assert_eq!(bundle.shown("once")["generation"], 3);
}

#[test]
fn a_file_that_the_checker_refuses_leaves_the_running_daemon_alone() {
    let bundle = start();
    bundle.write("conf/rules", "bad");
    is_bad(&bundle.says(&["restart", "alpha"]), 1, "refused: alpha: the checker of ");
    assert_eq!(bundle.shown("alpha")["generation"], 1);
    bundle.write("conf/rules", "dies");
    is_bad(&bundle.says(&["restart", "alpha"]), 1, "not proven: alpha exited with code 3");
    bundle.write("conf/rules", "unready");
    is_bad_in_time(&bundle, &["restart", "alpha"], "not proven: alpha runs");
}

#[test]
fn a_stop_that_takes_too_long_is_reported_as_not_proven() {
    let bundle = start();
    is_bad_in_time(&bundle, &["stop", "slow"], "not proven: slow is still being stopped (pid ");
    bundle.let_slow_end();
    bundle.wait_until("it ends", || bundle.shown("slow")["state"] == "stopped");
}

#[test]
fn a_restart_that_a_stop_overtakes_is_superseded_and_the_other_way_round() {
    let bundle = start();
    let restart = bundle.begin(&["restart", "slow", "--timeout=5m"]);
    bundle.wait_until_asked("slow", "restart", 1);
    let stop = bundle.begin(&["stop", "slow", "--timeout=5m"]);
    bundle.wait_until_asked("slow", "stop", 1);
    bundle.let_slow_end();
    is_good(&ended(stop), "stopped: slow ");
    is_bad(&ended(restart), 1, "superseded: ");
    is_good(&bundle.says(&["start", "slow"]), "live: slow ");
    let stop = bundle.begin(&["stop", "slow", "--timeout=5m"]);
    bundle.wait_until_asked("slow", "stop", 2);
    let start = bundle.begin(&["start", "slow", "--timeout=5m"]);
    bundle.wait_until_asked("slow", "start", 2);
    bundle.let_slow_end();
    is_good(&ended(start), "live: slow ");
    is_bad(&ended(stop), 1, "superseded: slow: a later request for slow");
}

#[test]
fn a_signal_is_held_for_a_daemon_that_does_not_catch_it_yet() {
    let bundle = start();
    is_good(&bundle.says(&["signal", "SIGHUP", "beta"]), "delivered: beta was sent HUP (pid ");
    bundle.wait_until("caught", || bundle.dir.join("hups").exists());
    is_bad_in_time(&bundle, &["signal", "hup", "deaf"], "not proven: deaf: HUP is still held: deaf runs");
    is_bad(
        &bundle.says(&["signal", "HUP", "once"]),
        1,
        "refused: once: HUP for once was refused: it isn't running; nothing was done",
    );
    let object = bundle.run(&["signal", "KILL", "beta", "--json"]);
    assert_eq!((&object.0["signal"], &object.0["action"], object.1), (&"KILL".into(), &"signal".into(), 0));
    bundle.wait_until("killed", || bundle.shown("beta")["state"] == "exited");
    assert_eq!(bundle.shown("beta")["last_exit"]["signal"], 9);
}

#[test]
fn two_restarts_at_once_are_served_one_after_the_other_and_both_are_live() {
    let bundle = start();
    let both = [bundle.begin(&["restart", "beta"]), bundle.begin(&["restart", "beta"])].map(ended);
    for said in &both {
        is_good(said, "live: beta was restarted");
    }
    assert_eq!(bundle.shown("beta")["generation"], 3);
}

#[test]
fn a_request_that_waits_in_vain_for_the_lock_is_told_who_has_it() {
    let bundle = start();
    let restart = bundle.begin(&["restart", "slow", "--timeout=5m"]);
    bundle.wait_until_asked("slow", "restart", 1);
    let said = is_bad_in_time(&bundle, &["restart", "beta"], "refused: beta: another change is under way, by me@");
    assert!(said.2.contains(" (restart), since "), "{said:?}");
    is_good(&bundle.says(&["stop", "beta"]), "stopped: ");
    is_good(&bundle.says(&["signal", "WINCH", "deaf"]), "delivered: ");
    bundle.let_slow_end();
    is_good(&ended(restart), "live: slow ");
    is_good(&bundle.says(&["restart", "beta"]), "live: beta ");
}

#[test]
fn another_user_may_not_ask_and_is_told_so() {
    needs!(Root);
    let bundle = start();
    let by = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--"];
    // Where that user may execute it.
    let copy = bundle.dir.join("sidecar");
    fs::copy(SIDECAR, &copy).unwrap();
    for applet in ["restart", "stop", "start"] {
        let said = said(&bundle.inside(&by).arg(&copy).args([applet, "beta"]).output().unwrap());
        is_bad(
            &said,
            4,
            "this user may not send requests to the bundle's init: it may not look at PID 1; run it as the user",
        );
        assert!(!said.2.contains("not a sidecar"), "{said:?}");
        assert!(said.2.contains("nothing was sent"), "{said:?}");
    }
    assert_eq!(bundle.shown("beta")["generation"], 1);
}

#[test]
fn where_pid_1_is_another_program_nothing_is_asked() {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "sh", "-c", "\"$0\" restart beta; exit $?", SIDECAR]);
    is_bad(&said(&command.stdin(Stdio::null()).output().unwrap()), 4, "restart: not a sidecar bundle");
}

#[test]
fn in_a_shutdown_a_request_is_refused_and_one_that_waits_is_not_proven() {
    let bundle = start();
    let stop = bundle.begin(&["stop", "slow", "--timeout=5m"]);
    bundle.wait_until("asked", || bundle.shown("slow")["state"] == "stopping");
    bundle.signal("TERM");
    bundle.wait_until("stopping", || bundle.run(&["status", "--json"]).0["state"] == "stopping");
    for applet in ["restart", "stop", "start"] {
        is_bad(&bundle.says(&[applet, "slow"]), 1, "refused: slow: the bundle is stopping; nothing was sent");
    }
    is_bad(&ended(stop), 1, "not proven: slow: the bundle is stopping, so init no longer carries out the request");
}

#[test]
fn several_names_are_served_in_table_order_and_the_highest_code_counts() {
    let bundle = start();
    bundle.write("lives", "");
    let (code, out, err) = bundle.says(&["restart", "--json", "once", "unused", "beta", "beta", "alpha"]);
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
    let bundle = start();
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
        (bundle.shown("beta")["generation"].clone(), bundle.shown("beta")["state"].clone()),
        (1.into(), "running".into())
    );
    assert!(!bundle.read("err").contains("stopping beta"));
}

#[test]
fn a_full_request_pipe_delays_its_sender_alone() {
    let bundle = start();
    // init reads nothing while it is stopped by someone outside.
    bundle.signal("STOP");
    bundle.wait_until("a stopped init", || stat(bundle.pid(), 3).as_deref() == Some("T"));
    let pipe = format!("/proc/{}/fd/101", bundle.pid());
    let mut pipe = fs::OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(pipe).unwrap();
    while pipe.write(b"\nx\n").is_ok() {}
    is_bad(
        &bundle.says(&["stop", "beta", "--timeout=300ms"]),
        1,
        "refused: beta: cannot send a request to the bundle's init: ",
    );
    bundle.signal("CONT");
    is_good(&bundle.says(&["stop", "beta"]), "stopped: beta ");
}

#[test]
fn a_flood_of_others_requests_hides_no_outcome() {
    let bundle = start();
    for n in 0..300 {
        bundle.ask(&format!("flood-{n} stop deaf"));
    }
    is_good(&bundle.says(&["restart", "beta"]), "live: beta ");
}

#[test]
fn ctrl_c_stops_the_waiting_and_the_request_stands() {
    let bundle = start();
    let stop = bundle.begin(&["stop", "slow", "--timeout=5m"]);
    bundle.wait_until("asked", || bundle.shown("slow")["state"] == "stopping");
    // nsenter itself dies of it.
    let inside = children_of(stop.id().cast_signed())[0].to_string();
    assert!(Command::new("kill").args(["-INT", &inside]).status().unwrap().success());
    is_bad(&ended(stop), 1, "not proven: slow: interrupted; the request stands, and init continues with it");
    bundle.let_slow_end();
    bundle.wait_until("it ends", || bundle.shown("slow")["state"] == "stopped");
}

#[test]
fn two_daemons_swap_roles_by_requests() {
    let bundle = start();
    is_good(&bundle.says(&["stop", "beta"]), "stopped: ");
    for round in 0..5 {
        let (old, new) = if round % 2 == 0 { ("alpha", "beta") } else { ("beta", "alpha") };
        is_good(&bundle.says(&["stop", old]), "stopped: ");
        is_good(&bundle.says(&["start", new]), &format!("live: {new} was started and is ready: "));
        let state = |name: &str| bundle.shown(name)["state"].clone();
        assert_eq!((state(old), state(new)), ("stopped".into(), "running".into()));
    }
}

#[test]
fn a_leftover_whose_main_thread_has_ended_makes_no_restart_live() {
    needs!(Native("qemu shows no threads in /proc"));
    let bundle = start();
    // It has beta's mark of another start, as if it had outlived that one.
    let socket = bundle.dir.join("old");
    let server = format!(
        "import ctypes, os, socket, threading, time\n\
        server = socket.socket(socket.AF_UNIX)\nserver.bind({socket:?})\nserver.listen()\n\
        threading.Thread(target=time.sleep, args=(1000,)).start()\n\
        pthread_exit = ctypes.CDLL(None).pthread_exit\npthread_exit.argtypes = [ctypes.c_void_p]\npthread_exit(None)\n"
    );
    let mark = "exec env SIDECAR_DAEMON=beta SIDECAR_GENERATION=9 setsid --fork python3 -c \"$1\" < /dev/null > /dev/null 2>&1";
    assert!(bundle.inside(&["sh", "-c", mark, "sh", &server]).status().unwrap().success());
    bundle.wait_until("it listens", || socket.exists());
    is_bad_in_time(&bundle, &["restart", "beta"], "old is held by pid ");
}
