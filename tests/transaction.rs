//! A change as a transaction, on a real init as PID 1 of a real pid namespace, the docker CLI being a stand-in.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and its helpers are tests too")]

mod harness;
#[macro_use]
mod needs;
mod rng;
mod schemas;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use harness::{Bundle, SIDECAR, Setup, end_of, stat, with_more_time};
use rng::Rng;
use serde_json::Value;
use sidecar::protocol::PROTOCOL;

/// alpha is restarted by USR1, and is ready once `DIR/ready` names its own process, not the one before it; beta reloads on HUP and
/// says so by `sd_notify`. Each writes what it serves to a file.
const TABLE: &str = r#"
grace = "1s"
[[daemon]]
name = "alpha"
command = ["sh", "-c", '''
rules=$(cat DIR/conf/rules)
case $rules in
  dies) exit 3 ;;
  late) echo $$ > DIR/ready; sleep 0.5; exit 4 ;;
  stubborn) trap '' TERM ;;
  writes) echo more >> DIR/conf/rules ;;
esac
printf %s "$rules" > DIR/serving
[ "$rules" = unready ] || echo $$ > DIR/ready
while :; do sleep 0.02; done
''']
config = { path = "DIR/conf/rules", check = ["sh", "-c", '''
case $(cat "$0") in
  bad) echo "$0: line 1: bad" >&2; exit 1 ;;
  hangs) echo $$ > DIR/checker; sleep 1000 & wait ;;
  yells) yes ;;
  chats*) yes | head -c 3000000; echo last word; [ "$(cat "$0")" = chats ] || exit 1 ;;
  edits) echo more >> "$0" ;;
  leaves) exec perl -e 'setpgrp(0, getpgrp(getppid())); sleep 1000' ;;
  stays) setsid sh -c 'touch DIR/away; sleep 20' & until [ -e DIR/away ]; do :; done; echo what it said; exit 1 ;;
esac
''', "{}"] }
ready = { exec = ["sh", "-c", "read pid < DIR/ready && kill -0 $pid"] }
settle = "SETTLE"

[[daemon]]
name = "beta"
command = ["python3", "-c", '''
import os, signal, socket, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
def say(text): s.sendto(text.encode(), "\0" + os.environ["NOTIFY_SOCKET"][1:])
def load():
    rules = open("DIR/beta/routes").read()
    if rules == "dies": os._exit(5)
    if rules == "refused": return 22
    open("DIR/beta-serving", "w").write(rules)
    return 0
def hup(*_):
    say("RELOADING=1\nMONOTONIC_USEC=%d" % (time.monotonic_ns() // 1000))
    say("READY=1\nERRNO=%d" % load())
load()
signal.signal(signal.SIGHUP, hup)
say("READY=1")
while True: signal.pause()
''']
config = { path = "DIR/beta/routes" }
ready = { notify = true }

[signals]
USR1 = { restart = "alpha" }
USR2 = { restart = "beta" }
HUP = { forward = "beta" }
"#;

/// Of the table.
const ALPHA_READY: &str = r#"ready = { exec = ["sh", "-c", "read pid < DIR/ready && kill -0 $pid"] }"#;

fn start() -> Bundle {
    with(|table| table)
}

fn with(change: impl Fn(String) -> String) -> Bundle {
    in_environment(&[], change)
}

fn in_environment(env: &[(&'static str, &str)], change: impl Fn(String) -> String) -> Bundle {
    let table = change(TABLE.to_owned()).replace("SETTLE", "100ms");
    let setup = Setup::new(&table).file("conf/rules", "old").file("beta/routes", "old");
    let bundle = env.iter().fold(setup, |setup, (key, value)| setup.env(key, value)).start();
    bundle.wait_until_ready();
    bundle
}

impl Bundle {
    fn wait_until_ready(&self) {
        self.wait_until("both are ready", || {
            let ready = self.sidecar(&["status", "--ready", "--json"]);
            ready["daemons"]
                .as_array()
                .is_some_and(|all| !all.is_empty() && all.iter().all(|d| d["ready"] == true || d["name"] == "once"))
        });
    }

    /// As `docker kill` and a later `docker start` would, but for the command that executes init.
    fn reboot_by(&mut self, command: &[&str]) {
        self.stop();
        // What another boot's process wrote, which may have had the same pid.
        let _ = fs::remove_file(self.dir.join("ready"));
        self.boot_by(command);
        self.wait_until_ready();
    }

    fn sidecar(&self, args: &[&str]) -> Value {
        let output = self.inside(&[&[SIDECAR], args].concat()).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// An apply in a process group of its own, since the docker CLI's stand-in makes children.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(SIDECAR);
        command.env("SIDECAR_DOCKER", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/docker-stand-in"));
        command.env("CALLS", self.dir.join("calls")).env("INIT", self.pid().to_string()).env("USER", "me");
        command.args(args).args(["--json", "b1"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0);
        command
    }

    fn begin(&self, content: &str, args: &[&str]) -> Child {
        given(&mut self.command(&[&["apply-allowlist", "--file=-"], args].concat()), content)
    }

    fn allowlist(&self, content: &str, args: &[&str]) -> Value {
        ended(self.begin(content, args))
    }

    fn egress(&self, content: &str, args: &[&str]) -> Value {
        ended(given(&mut self.command(&[&["apply-egress", "--file=-"], args].concat()), content))
    }

    fn in_place(&self, args: &[&str]) -> Value {
        ended(given(&mut self.command(&[&["apply-allowlist"], args].concat()), ""))
    }

    fn calls(&self) -> Vec<String> {
        self.read("calls").lines().map(str::to_owned).collect()
    }

    /// What became of the daemon's last change, as `status` tells it.
    fn transaction(&self, index: usize) -> Value {
        self.sidecar(&["status", "--json"])["daemons"][index]["transaction"].clone()
    }

    fn generation(&self) -> u64 {
        self.daemon(0)["generation"].as_u64().unwrap()
    }

    fn record(&self) -> Value {
        serde_json::from_str(&self.read("conf/.rules.sidecar")).unwrap_or_default()
    }

    /// What lies beside the content, but for the record.
    fn left(&self) -> Vec<String> {
        let names = fs::read_dir(self.dir.join("conf")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "rules" && name != ".rules.sidecar").collect()
    }

    /// On disk and in the process that runs.
    fn serves(&self, content: &str) {
        assert_eq!((self.read("conf/rules"), self.read("serving")), (content.to_owned(), content.to_owned()));
        assert_eq!(self.left(), [] as [&str; 0]);
        assert_eq!(self.daemon(0)["state"], "running");
    }

    fn serves_now(&self, content: &str) {
        self.wait_until("it is served", || self.read("serving") == content);
    }

    /// The processes of its pid namespace, as they are seen from outside.
    fn processes(&self) -> Vec<String> {
        let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/pid")).ok();
        let of_init = namespace(&self.pid().to_string());
        let all = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
        all.filter(|process| namespace(process).is_some_and(|of| Some(of) == of_init)).collect()
    }

    /// The pid outside of a process in the bundle.
    fn outside(&self, pid: &Value) -> String {
        let last = format!("\t{pid}");
        let is_it = |status: String| status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with(&last));
        let is_it = |process: &String| fs::read_to_string(format!("/proc/{process}/status")).is_ok_and(is_it);
        self.processes().into_iter().find(is_it).unwrap()
    }

    fn helpers(&self) -> Vec<String> {
        let is_helper = |process: &String| {
            fs::read(format!("/proc/{process}/cmdline")).is_ok_and(|line| line.ends_with(b"helper\0"))
        };
        self.processes().into_iter().filter(is_helper).collect()
    }

    /// Stops the helpers. What one has just forked holds its lock too until it has executed its own program, and goes on.
    fn stop_helpers(&self) -> Vec<String> {
        let mut helpers = self.helpers();
        let all = helpers.clone();
        let parent = |pid: &String| stat(pid.parse().unwrap(), 4);
        helpers.retain(|pid| parent(pid).is_none_or(|parent| !all.contains(&parent)));
        for pid in &helpers {
            assert!(Command::new("kill").args(["-STOP", pid]).status().unwrap().success());
        }
        helpers
    }
}

/// Starts it with this on its stdin.
fn given(command: &mut Command, content: &str) -> Child {
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(content.as_bytes()).unwrap();
    child
}

fn ended(child: Child) -> Value {
    let output = end_of(child);
    let text = String::from_utf8(output.stdout).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text:?} {:?}", output.stderr));
    assert_eq!(value["exit"], output.status.code().unwrap(), "{value}");
    schemas::assert_fits("apply", &value);
    value
}

/// What is judged by its outcome, its code and words of its error.
#[track_caller]
fn is(report: &Value, outcome: &str, exit: i32, words: &str) {
    assert_eq!((&report["outcome"], &report["exit"]), (&outcome.into(), &exit.into()), "{report}");
    assert!(says(report, words), "{report}");
}

fn says(report: &Value, words: &str) -> bool {
    report["error"].as_str().unwrap_or_default().contains(words)
}

/// The same of a change that can't be live in the time that it is given.
fn is_in_time(outcome: &str, exit: i32, words: &str, change: impl Fn(&str) -> Value) {
    with_more_time(words, |timeout| {
        let report = change(timeout);
        assert_ne!(report["exit"], 0, "{report}");
        says(&report, words).then(|| is(&report, outcome, exit, words))
    });
}

#[test]
fn new_content_is_live_with_three_calls_of_docker() {
    needs!(Root);
    let bundle = start();
    fs::set_permissions(bundle.dir.join("conf/rules"), fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(bundle.dir.join("conf/rules"), Some(12), Some(34)).unwrap();
    let report = bundle.allowlist("new", &[]);
    is(&report, "live", 0, "");
    assert_eq!((&report["after"]["generation"], &report["checked"]), (&2.into(), &true.into()));
    assert_eq!(report["siblings_moved"], Value::Array(Vec::new()));
    assert_eq!(bundle.calls(), ["inspect", "exec", "kill"]);
    bundle.serves("new");
    let meta = fs::metadata(bundle.dir.join("conf/rules")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o640, 12, 34));
    let record = bundle.transaction(0).clone();
    assert_eq!(record["outcome"], "live");
    assert!(record["by"].as_str().unwrap().starts_with("me@"), "{record}");
    assert_eq!(bundle.transaction(1), Value::Null);
}

#[test]
fn without_a_file_what_lies_there_is_checked_before_anything_is_sent() {
    let bundle = start();
    bundle.write("conf/rules", "bad");
    let report = bundle.in_place(&[]);
    is(&report, "refused", 1, "line 1: bad");
    assert_eq!((bundle.generation(), bundle.calls()), (1, vec!["inspect".to_owned(), "exec".to_owned()]));
    bundle.write("conf/rules", "new");
    is(&bundle.in_place(&[]), "live", 0, "");
    bundle.serves("new");
    bundle.write("conf/rules", "dies");
    is(&bundle.in_place(&[]), "not-proven", 1, "exited with code 3");
    assert_eq!(bundle.read("conf/rules"), "dies");
    // Without its directory there is nothing to recover, and only new content needs one.
    fs::remove_dir_all(bundle.dir.join("conf")).unwrap();
    is(&bundle.allowlist("new", &[]), "refused", 1, "conf/rules doesn't exist");
    is(&bundle.in_place(&[]), "live", 0, "");
}

#[test]
fn content_that_the_checker_refuses_changes_nothing() {
    let bundle = start();
    let report = bundle.allowlist("bad", &[]);
    is(&report, "refused", 1, "conf/rules: line 1: bad");
    assert_eq!((bundle.generation(), bundle.calls()), (1, vec!["inspect".to_owned(), "exec".to_owned()]));
    bundle.serves("old");
    assert_eq!(bundle.record(), Value::Null);
}

#[test]
fn a_checker_that_hangs_is_killed_with_its_children() {
    let bundle = start();
    let hangs = |content, timeout: &str| bundle.allowlist(content, &[timeout]);
    is_in_time("refused", 1, "did not end in time", |timeout| hangs("hangs", timeout));
    bundle.wait_for("checker", "\n");
    let checker = format!("/proc/{}/root", bundle.read("checker").trim());
    bundle.wait_until("the checker is gone", || !bundle.inside(&["test", "-e", &checker]).status().unwrap().success());
    is_in_time("refused", 1, "did not end in time", |timeout| hangs("leaves", timeout));
    is_in_time("refused", 1, "did not end in time", |timeout| hangs("yells", timeout));
    is(&bundle.allowlist("stays", &[]), "refused", 1, "what it said");
    bundle.serves("old");
}

#[test]
fn content_that_the_daemon_dies_of_is_taken_back() {
    let bundle = start();
    let report = bundle.allowlist("dies", &[]);
    is(&report, "rolled-back", 1, "exited with code 3; the old content is back");
    assert_eq!(report["after"]["generation"], 3);
    bundle.serves("old");
    assert_eq!(bundle.record()["outcome"], "rolled-back");
    // By init, so that it is a line of its own whatever else is written.
    bundle.wait_until("told", || bundle.read("err").contains(" WARN change of alpha: rolled back by=me@"));
}

#[test]
fn content_that_the_daemon_dies_of_within_its_settling_time_is_taken_back() {
    let bundle = with(|table| table.replace("SETTLE", "1s"));
    is(&bundle.allowlist("late", &[]), "rolled-back", 1, "exited with code 4");
    bundle.serves("old");
}

#[test]
fn content_with_which_the_daemon_never_becomes_ready_is_taken_back() {
    let bundle = start();
    is_in_time("rolled-back", 1, "not ready in time", |timeout| bundle.allowlist("unready", &[timeout]));
    bundle.serves("old");
}

#[test]
fn a_daemon_that_ignores_term_is_killed_on_the_way_there_and_back() {
    let bundle = start();
    is(&bundle.allowlist("stubborn", &[]), "live", 0, "");
    is(&bundle.allowlist("dies", &[]), "rolled-back", 1, "");
    bundle.serves("stubborn");
}

#[test]
fn where_the_old_content_does_not_come_up_either_a_person_must_act() {
    let bundle = with(|table| table.replace("rules=$(cat", "test -e DIR/broken && exit 9; rules=$(cat"));
    bundle.write("broken", "");
    is(&bundle.allowlist("new", &[]), "down", 5, "manual action needed");
    assert_eq!((bundle.read("conf/rules").as_str(), bundle.record()["outcome"].as_str()), ("old", Some("down")));
    // It was dead before: so it is as it was.
    is(&bundle.allowlist("new", &[]), "rolled-back", 1, "");
    fs::remove_file(bundle.dir.join("broken")).unwrap();
    is(&bundle.allowlist("new", &[]), "live", 0, "");
    bundle.serves("new");
}

#[test]
fn egress_obeys_refuses_or_dies_of_it() {
    let bundle = start();
    let report = bundle.egress("new", &[]);
    is(&report, "live", 0, "");
    assert_eq!((&report["after"]["generation"], &report["checked"]), (&1.into(), &false.into()));
    assert_eq!(bundle.read("beta-serving"), "new");
    is(&bundle.egress("refused", &[]), "rolled-back", 1, "errno 22");
    is(&bundle.egress("dies", &[]), "rolled-back", 1, "exited with code 5");
    assert_eq!((bundle.read("beta/routes"), bundle.read("beta-serving")), ("new".to_owned(), "new".to_owned()));
    assert_eq!(bundle.daemon(1)["generation"], 3);
    assert_eq!(bundle.generation(), 1);
    fs::write(bundle.dir.join("beta/routes"), "refused").unwrap();
    is(&ended(bundle.command(&["apply-egress"]).spawn().unwrap()), "refused", 1, "errno 22");
}

#[test]
fn the_same_content_is_unchanged_only_if_the_running_process_proved_it() {
    let bundle = start();
    is(&bundle.allowlist("old", &[]), "live", 0, "");
    is(&bundle.allowlist("old", &[]), "unchanged", 0, "");
    assert_eq!(bundle.generation(), 2);
    is(&bundle.allowlist("old", &["--force"]), "live", 0, "");
    bundle.signal("USR1");
    bundle.wait_until("restarted", || bundle.generation() == 4 && bundle.daemon(0)["state"] == "running");
    is(&bundle.allowlist("old", &[]), "live", 0, "");
    assert_eq!(bundle.generation(), 5);
    // A daemon that watches its file may have read what was there in between.
    bundle.write("conf/rules", "between");
    bundle.write("conf/rules", "old");
    is(&bundle.allowlist("old", &[]), "live", 0, "");
    assert_eq!(bundle.generation(), 6);
}

#[test]
fn what_is_live_is_what_was_checked_whoever_else_writes_to_the_file() {
    let bundle = start();
    is(&bundle.allowlist("edits", &[]), "refused", 1, "somebody else wrote");
    assert_eq!(bundle.generation(), 1);
    is(&bundle.allowlist("writes", &[]), "rolled-back", 1, "somebody else wrote");
    assert_eq!(bundle.read("conf/.sidecar-other.rules"), "writesmore\n");
    fs::remove_file(bundle.dir.join("conf/.sidecar-other.rules")).unwrap();
    bundle.serves("old");
    bundle.write("conf/rules", "edits");
    is(&bundle.in_place(&[]), "refused", 1, "somebody else wrote");
    bundle.write("conf/rules", "writes");
    is(&bundle.in_place(&[]), "not-proven", 1, "somebody else wrote");
}

#[test]
fn a_rollback_to_content_that_somebody_else_wrote_to_is_none() {
    let bundle = start();
    bundle.write("conf/rules", "writes");
    is(&bundle.allowlist("dies", &[]), "down", 5, "going back failed too: somebody else wrote");
    assert_eq!(bundle.read("conf/rules"), "writesmore\n");
    bundle.write("conf/rules", "writes");
    is(&bundle.allowlist("writes", &[]), "down", 5, "going back failed too: somebody else wrote");
    assert_eq!(bundle.left(), [".sidecar-other.rules"]);
}

#[test]
fn a_daemon_that_dies_after_its_proof_and_before_the_commit_is_not_live() {
    let bundle = start();
    let mut command = bundle.inside(&[SIDECAR, "helper"]);
    let mut helper = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut host = helper.stdin.take().unwrap();
    let mut said = BufReader::new(helper.stdout.take().unwrap()).lines();
    let sha256 = "11507a0e2f5e69d5dfa40a62a1bd7b6ee57e6bcd85c67c9b8431b36fff21c437";
    let task = serde_json::json!({ "task": "file", "bytes": 3, "sha256": sha256, "force": false });
    let mut request =
        serde_json::json!({ "protocol": PROTOCOL, "version": "1", "signal": "USR1", "timeout_ms": 60_000 });
    (request["task"], request["id"], request["by"]) = (task, "1".into(), "me".into());
    host.write_all(format!("{request}\nnew").as_bytes()).unwrap();
    let mut hear = |words: &str| assert!(said.any(|line| line.unwrap().contains(words)), "not said: {words}");
    hear("go");
    bundle.signal("USR1");
    host.write_all(b"{\"say\":\"sent\"}\n").unwrap();
    hear("proven");
    bundle.serves_now("new");
    kill_all(&[bundle.outside(&bundle.daemon(0)["pid"])]);
    bundle.wait_until("dead", || bundle.daemon(0)["state"] != "running" || bundle.daemon(0)["generation"] == 3);
    // It may be gone already.
    let _ = host.write_all(b"{\"say\":\"ack\"}\n");
    hear("rolled-back");
    helper.wait().unwrap();
    bundle.serves("old");
}

#[test]
fn the_access_control_list_of_the_file_is_kept() {
    needs!(Root);
    let bundle = start();
    let python = |code: &str| {
        let file = bundle.dir.join("conf/rules");
        let output = Command::new("python3").args(["-c", code]).arg(file).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    // acl(5) of owner, user 1234, group, mask and others, as xattr(7) holds it.
    python(
        "import os, struct, sys\n\
         acl = [(1, 6, -1), (2, 4, 1234), (4, 4, -1), (16, 4, -1), (32, 0, -1)]\n\
         acl = struct.pack('<I', 2) + b''.join(struct.pack('<HHi', *entry) for entry in acl)\n\
         os.setxattr(sys.argv[1], 'system.posix_acl_access', acl)",
    );
    let list = || python("import os, sys; print(os.getxattr(sys.argv[1], 'system.posix_acl_access'))");
    let before = list();
    is(&bundle.allowlist("new", &[]), "live", 0, "");
    assert_eq!(list(), before);
    is(&bundle.allowlist("dies", &[]), "rolled-back", 1, "");
    assert_eq!(list(), before);
}

#[test]
fn a_dry_run_checks_tells_the_lines_and_changes_nothing() {
    let bundle = start();
    let report = bundle.allowlist("secret", &["--dry-run"]);
    is(&report, "dry-run", 0, "");
    assert_eq!(report["diff"]["hunks"][0]["new"]["count"], 1);
    assert!(!report.to_string().contains("secret"));
    let report = bundle.allowlist("secret", &["--dry-run", "--show-content"]);
    assert_eq!(report["diff"]["hunks"][0]["text"], Value::from(["-old", "+secret"].map(Value::from).to_vec()));
    is(&bundle.allowlist("bad", &["--dry-run"]), "refused", 1, "bad");
    assert_eq!((bundle.generation(), bundle.record()), (1, Value::Null));
    bundle.serves("old");
}

#[test]
fn what_can_not_be_replaced_is_found_out_before_anything_is_touched() {
    let bundle = start();
    let rules = bundle.dir.join("conf/rules");
    fs::rename(&rules, bundle.dir.join("conf/elsewhere")).unwrap();
    is(&bundle.allowlist("new", &[]), "refused", 1, "doesn't exist");
    symlink("elsewhere", &rules).unwrap();
    is(&bundle.allowlist("new", &[]), "refused", 1, "symlink");
    assert_eq!(bundle.read("conf/elsewhere"), "old");
    fs::remove_file(&rules).unwrap();
    fs::create_dir(&rules).unwrap();
    is(&bundle.allowlist("new", &[]), "refused", 1, "not a regular file");
    fs::remove_dir(&rules).unwrap();
    fs::write(&rules, "old").unwrap();
    let inside = |args: &[&str]| {
        assert!(bundle.inside(args).status().unwrap().success());
    };
    let other = bundle.dir.join("conf/elsewhere");
    inside(&["mount", "--bind", other.to_str().unwrap(), rules.to_str().unwrap()]);
    is(&bundle.allowlist("new", &[]), "refused", 1, "mount its directory");
    inside(&["umount", rules.to_str().unwrap()]);
    let conf = bundle.dir.join("conf");
    inside(&["mount", "--bind", conf.to_str().unwrap(), conf.to_str().unwrap()]);
    inside(&["mount", "-o", "remount,ro,bind", conf.to_str().unwrap()]);
    is(&bundle.allowlist("new", &[]), "refused", 1, "Read-only");
    // A check in place needs nothing of it.
    is(&bundle.in_place(&[]), "live", 0, "");
    assert_eq!(bundle.generation(), 2);
}

#[test]
fn a_full_disk_changes_nothing() {
    let bundle = start();
    let conf = bundle.dir.join("conf");
    let conf = conf.to_str().unwrap();
    let mount = format!("mount -t tmpfs -o size=64k none {conf} && printf old > {conf}/rules");
    assert!(bundle.inside(&["sh", "-c", &mount]).status().unwrap().success());
    let large = "#".repeat(60_000);
    is(&bundle.allowlist(&large, &[]), "refused", 1, "No space left");
    let looked = bundle.inside(&["sh", "-c", &format!("ls -A {conf}; cat {conf}/rules")]).output().unwrap();
    assert_eq!(String::from_utf8(looked.stdout).unwrap(), "rules\nold");
    assert_eq!(bundle.generation(), 1);
}

#[test]
fn too_much_content_or_one_that_never_ends_is_refused_early() {
    let bundle = start();
    let zero = || fs::File::open("/dev/zero").unwrap();
    let report = ended(bundle.command(&["apply-allowlist", "--file=-"]).stdin(zero()).spawn().unwrap());
    is(&report, "usage", 2, "larger than 1 MiB");
    is(&ended(bundle.command(&["apply-allowlist", "--file=/dev/zero"]).spawn().unwrap()), "usage", 2, "1 MiB");
    let mut silent = bundle.command(&["apply-allowlist", "--file=-", "--timeout=100ms"]).spawn().unwrap();
    let stdin = silent.stdin.take();
    is(&ended(silent), "usage", 2, "did not end");
    drop(stdin);
    let fifo = bundle.dir.join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let file = format!("--file={}", fifo.display());
    let report = ended(bundle.command(&["apply-allowlist", &file, "--timeout=100ms"]).spawn().unwrap());
    is(&report, "usage", 2, "did not end");
    assert_eq!(bundle.calls(), [] as [&str; 0]);
    // What it may be is the checker's matter.
    is(&bundle.allowlist("", &[]), "live", 0, "");
    is(&bundle.allowlist("a\0b", &[]), "live", 0, "");
    is(&bundle.allowlist(&"#".repeat(1 << 20), &[]), "live", 0, "");
}

#[test]
fn one_that_waits_too_long_is_told_who_is_at_it_and_since_when() {
    let bundle = start();
    let first = bundle.begin("unready", &["--timeout=5m", "--by=somebody else"]);
    bundle.wait_until("placed", || bundle.read("conf/rules") == "unready");
    is_in_time("refused", 1, "by somebody else, since 20", |timeout| bundle.allowlist("new", &[timeout]));
    signal(&first, "INT");
    is(&ended(first), "rolled-back", 1, "");
    bundle.serves("old");
}

#[test]
fn twenty_at_once_serialise_and_what_was_last_said_to_be_live_is_live() {
    let bundle = start();
    let all: Vec<Child> = (0..20).map(|n| bundle.begin(&format!("content {n}"), &["--timeout=5m"])).collect();
    let reports: Vec<Value> = all.into_iter().map(ended).collect();
    for report in &reports {
        is(report, "live", 0, "");
    }
    let generation = |n: &usize| reports[*n]["after"]["generation"].as_u64();
    let last = (0..20).max_by_key(generation).unwrap();
    bundle.serves(&format!("content {last}"));
    assert_eq!(bundle.generation(), 21);
}

#[test]
fn after_a_host_is_killed_the_bundle_settles_by_itself() {
    let bundle = start();
    let mut host = bundle.begin("unready", &["--timeout=60s"]);
    bundle.wait_until("placed", || bundle.read("conf/rules") == "unready");
    host.kill().unwrap();
    host.wait().unwrap();
    bundle.wait_until("settled", || bundle.helpers().is_empty());
    bundle.serves("old");
    assert_eq!(bundle.record()["outcome"], "rolled-back");
}

#[test]
fn ctrl_c_asks_for_the_way_back_and_waits_for_it() {
    let bundle = start();
    let host = bundle.begin("unready", &["--timeout=60s"]);
    bundle.wait_until("placed", || bundle.read("conf/rules") == "unready");
    signal(&host, "INT");
    is(&ended(host), "rolled-back", 1, "interrupted");
    bundle.serves("old");
}

#[test]
fn ctrl_c_before_anything_is_begun_ends_a_call_of_docker_that_hangs() {
    let bundle = start();
    let host = bundle.command(&["apply-allowlist"]).env("INSPECT_TAKES", "1000").spawn().unwrap();
    bundle.wait_until("asked", || bundle.calls() == ["inspect"]);
    signal(&host, "INT");
    is(&ended(host), "refused", 1, "interrupted; nothing was changed or sent");
}

#[test]
fn the_second_ctrl_c_leaves_and_the_bundle_settles_by_itself() {
    let bundle = with(|table| table.replace("grace = \"1s\"", "grace = \"5m\""));
    is(&bundle.allowlist("stubborn", &[]), "live", 0, "");
    let host = bundle.begin("new", &["--timeout=60s"]);
    bundle.wait_until("its restart", || bundle.daemon(0)["state"] == "stopping");
    signal(&host, "INT");
    bundle.wait_until("on the way back", || bundle.read("conf/rules") == "stubborn");
    signal(&host, "INT");
    is(&ended(host), "unsettled", 5, "finishes or undoes it by itself");
    kill_all(&[bundle.outside(&bundle.daemon(0)["pid"])]);
    bundle.wait_until("settled", || bundle.helpers().is_empty());
    bundle.serves("stubborn");
}

#[test]
fn where_the_helper_is_killed_the_host_asks_once_more_and_that_settles_it() {
    let bundle = start();
    let host = bundle.begin("unready", &["--timeout=60s"]);
    bundle.wait_until("placed", || bundle.read("conf/rules") == "unready");
    kill_all(&bundle.helpers());
    is(&ended(host), "rolled-back", 1, "the connection to the bundle broke");
    bundle.serves("old");
}

#[test]
fn if_docker_and_helper_are_gone_the_bundle_is_asked_what_happened() {
    let bundle = start();
    let mut command = bundle.command(&["apply-allowlist", "--file=-"]);
    let host = given(command.env("KILL_WAITS", "1").env("KILL_FAILS", "Container b1 is paused"), "new");
    bundle.wait_until("placed", || bundle.read("conf/rules") == "new");
    kill_all(&bundle.helpers());
    bundle.write("calls-go-on", "");
    is(&ended(host), "rolled-back", 1, "the connection to the bundle broke");
    bundle.serves("old");
}

#[test]
fn a_broken_connection_and_an_unreadable_record_need_a_person() {
    let bundle = start();
    let host = bundle.begin("unready", &["--timeout=60s"]);
    bundle.wait_until("served", || bundle.read("serving") == "unready");
    bundle.write("conf/.rules.sidecar", "garbage");
    kill_all(&bundle.helpers());
    is(&ended(host), "unsettled", 5, "it isn't known what became of the change");
    assert_eq!(bundle.read("conf/.sidecar-old.rules"), "old");
    assert_eq!(bundle.transaction(0)["outcome"], "unreadable");
}

#[test]
fn a_signal_of_which_docker_lost_the_answer_is_never_told_as_not_sent() {
    let bundle = start();
    for how in [&[][..], &["--signal-only"]] {
        let mut command = bundle.command(&[&["apply-allowlist"], how].concat());
        let host = command.env("KILL_FAILS", "error during connect: Post \"http://x/kill\": EOF").spawn().unwrap();
        is(&ended(host), "not-proven", 1, "USR1 was sent, or may have been");
    }
}

fn signal(child: &Child, signal: &str) {
    let kill = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
}

fn kill_all(pids: &[String]) {
    for pid in pids {
        let _ = Command::new("kill").args(["-9", "--", pid]).stderr(Stdio::null()).status();
    }
}

/// The new content is in place and served, and neither the host nor the helper lives.
fn interrupted(bundle: &Bundle) {
    let mut host = bundle.begin("unready", &["--timeout=60s"]);
    bundle.wait_until("served", || bundle.read("serving") == "unready");
    // Stopped first, so that it can't ask once more.
    signal(&host, "STOP");
    kill_all(&bundle.helpers());
    bundle.wait_until("nobody is at it", || bundle.helpers().is_empty());
    host.kill().unwrap();
    host.wait().unwrap();
    assert_eq!(bundle.transaction(0)["outcome"], "interrupted");
    assert_eq!(bundle.read("conf/rules"), "unready");
}

#[test]
fn the_next_apply_of_any_daemon_settles_an_interrupted_change() {
    let bundle = start();
    interrupted(&bundle);
    is(&bundle.egress("new", &[]), "live", 0, "");
    bundle.serves("old");
    is(&bundle.allowlist("dies", &[]), "rolled-back", 1, "");
    bundle.serves("old");
}

#[test]
fn init_settles_an_interrupted_change_before_it_starts_that_daemon() {
    let bundle = start();
    interrupted(&bundle);
    bundle.signal("USR1");
    bundle.wait_until("old content", || bundle.read("serving") == "old");
    bundle.serves("old");
    assert_eq!(bundle.transaction(0)["outcome"], "rolled-back");
    assert!(bundle.read("err").contains("the old content is back"));
}

#[test]
fn if_the_old_content_is_lost_what_a_person_put_there_is_kept() {
    let bundle = start();
    let kept = bundle.dir.join("conf/.sidecar-old.rules");
    interrupted(&bundle);
    fs::remove_file(&kept).unwrap();
    is(&bundle.allowlist("new", &[]), "down", 5, "put the right content there by hand, then apply without --file");
    is(&bundle.egress("new", &[]), "live", 0, "");
    // Even where that is what was never proven. It isn't ready.
    is_in_time("not-proven", 1, "not ready", |timeout| bundle.in_place(&[timeout]));

    let bundle = start();
    interrupted(&bundle);
    fs::remove_file(bundle.dir.join("conf/.sidecar-old.rules")).unwrap();
    bundle.write("conf/rules", "third");
    is(&bundle.egress("new", &[]), "live", 0, "");
    bundle.serves("third");
    assert_eq!(bundle.record()["outcome"], "not-proven");
}

#[test]
fn an_apply_without_a_file_takes_what_a_person_wrote_over_a_change() {
    let bundle = start();
    interrupted(&bundle);
    bundle.write("conf/rules", "mine");
    is(&bundle.in_place(&["--by=person"]), "live", 0, "");
    bundle.serves("mine");
    let told = "change of alpha: not proven by=me@";
    bundle.wait_until("told", || bundle.read("err").contains(told));
}

#[test]
fn a_file_removed_during_an_interrupted_change_comes_back() {
    let bundle = start();
    let rules = bundle.dir.join("conf/rules");
    interrupted(&bundle);
    fs::remove_file(&rules).unwrap();
    is(&bundle.egress("new", &[]), "live", 0, "");
    bundle.serves("old");
    interrupted(&bundle);
    fs::remove_file(&rules).unwrap();
    bundle.write("mine", "mine");
    symlink(bundle.dir.join("mine"), &rules).unwrap();
    is(&bundle.egress("new", &["--force"]), "live", 0, "");
    assert!(rules.is_symlink());
    bundle.serves("mine");
}

#[test]
fn what_was_kept_is_not_removed_where_the_record_can_not_be_read() {
    let bundle = start();
    interrupted(&bundle);
    bundle.write("conf/.rules.sidecar", "garbage");
    is(&bundle.allowlist("new", &[]), "down", 5, "can't be read, and old content is kept");
    is(&bundle.in_place(&[]), "down", 5, "can't be read, and old content is kept");
    bundle.signal("USR1");
    bundle.wait_until("told", || bundle.read("err").contains("can't be read, and old content is kept"));
    assert_eq!(bundle.read("conf/.sidecar-old.rules"), "old");
    // As the words say.
    fs::rename(bundle.dir.join("conf/.sidecar-old.rules"), bundle.dir.join("conf/rules")).unwrap();
    is(&bundle.in_place(&[]), "live", 0, "");
    bundle.serves("old");
}

#[test]
fn a_forward_whose_daemon_died_of_what_was_interrupted_settles_that_first() {
    let bundle = start();
    let mut command = bundle.command(&["apply-egress", "--file=-"]);
    let mut host = given(command.env("KILL_WAITS", "1"), "x");
    bundle.wait_until("placed", || bundle.read("beta/routes") == "x");
    signal(&host, "STOP");
    kill_all(&bundle.helpers());
    // The stand-in that waits before its signal too.
    kill_all(&[format!("-{}", host.id())]);
    host.wait().unwrap();
    kill_all(&[bundle.outside(&bundle.daemon(1)["pid"])]);
    bundle.wait_until("dead", || bundle.daemon(1)["state"] == "exited");
    is(&bundle.egress("new", &[]), "live", 0, "");
    assert_eq!((bundle.read("beta-serving"), &bundle.daemon(1)["generation"]), ("new".to_owned(), &2.into()));
}

#[test]
fn a_signal_that_comes_late_restarts_the_old_content() {
    let bundle = start();
    with_more_time("it goes back", |timeout| {
        let mut command = bundle.command(&["apply-allowlist", "--file=-", timeout]);
        let report = ended(given(command.env("KILL_IS_LATE", "1"), "new"));
        assert_ne!(report["outcome"], "live", "{report}");
        (report["outcome"] == "rolled-back").then_some(())
    });
    // The next process writes it anew.
    fs::remove_file(bundle.dir.join("serving")).unwrap();
    bundle.write("calls-go-on", "");
    bundle.serves_now("old");
    bundle.serves("old");
}

#[test]
fn a_bundle_that_is_killed_in_the_middle_starts_with_the_old_content() {
    let mut bundle = start();
    let mut host = bundle.begin("unready", &["--timeout=60s"]);
    bundle.wait_until("placed", || bundle.read("conf/rules") == "unready");
    bundle.stop();
    host.kill().unwrap();
    let mut said = String::new();
    host.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    host.wait().unwrap();
    bundle.reboot_by(&[]);
    bundle.serves("old");
    assert!(bundle.read("err").contains("the old content is back"), "{}", bundle.read("err"));
}

/// How many seeded rounds each victim is killed in; more by the environment.
fn rounds() -> u64 {
    std::env::var("SIDECAR_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(20)
}

/// Kills the victim at a seeded moment of a change, and sees what is left.
fn random_kills(victim: fn(&Bundle, &mut Child)) {
    let bundle = start();
    let mut live = "old".to_owned();
    for seed in 1..=rounds() {
        let new = format!("content {seed}");
        let mut host = bundle.begin(&new, &["--timeout=60s"]);
        let micros = Rng::new(seed).below(450_000);
        // No condition: at any moment.
        std::thread::sleep(Duration::from_micros(micros));
        victim(&bundle, &mut host);
        let output = end_of(host);
        bundle.wait_until("settled", || bundle.helpers().is_empty());
        if bundle.record()["outcome"] == "interrupted" {
            // Both were killed; the next one settles it. Here it only looks.
            bundle.allowlist("x", &["--dry-run"]);
        }
        let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let now = bundle.read("conf/rules");
        println!("seed {seed}: {} after {} ms: {now}", said["outcome"], micros / 1000);
        match said["outcome"].as_str() {
            Some("live") => assert_eq!(now, new),
            Some("rolled-back" | "refused" | "unreachable" | "not-a-sidecar-bundle") => assert_eq!(now, live),
            Some(other) => panic!("seed {seed}: {other}: {said}"),
            None => assert!(now == new || now == live, "seed {seed}: {now}"),
        }
        bundle.wait_until("the content on disk is served", || bundle.read("serving") == now);
        let leftovers = bundle.left();
        assert!(leftovers.is_empty() || said == Value::Null, "seed {seed}: {leftovers:?} {said}");
        live = now;
    }
    is(&bundle.allowlist("end", &[]), "live", 0, "");
    bundle.serves("end");
}

#[test]
fn a_host_that_is_killed_at_any_moment_leaves_the_old_or_the_new() {
    random_kills(|_, host| host.kill().unwrap());
}

#[test]
fn a_helper_killed_at_any_moment_leaves_the_old_or_the_new() {
    random_kills(|bundle, _| kill_all(&bundle.helpers()));
}

#[test]
fn what_a_host_and_helper_killed_at_any_moment_leave_is_settled_next() {
    random_kills(|bundle, host| {
        host.kill().unwrap();
        kill_all(&bundle.helpers());
    });
}

#[test]
fn no_word_of_environment_or_content_is_in_logs_status_or_records() {
    let bundle = in_environment(&[("API_KEY", "canary-environment"), ("SIDECAR_LOG", "trace")], |table| {
        table.replace("  bad)", "  bad*)").replace("  dies)", "  dies*)")
    });
    let mut told = String::new();
    let mut tell = |outcome: &str, report: Value| {
        assert_eq!(report["outcome"], outcome, "{report}");
        told += &report.to_string();
    };
    tell("live", bundle.allowlist("first canary-content", &[]));
    tell("dry-run", bundle.allowlist("other canary-content", &["--dry-run"]));
    tell("live", bundle.allowlist("second canary-content", &[]));
    tell("unchanged", bundle.allowlist("second canary-content", &[]));
    tell("refused", bundle.allowlist("bad canary-content", &[]));
    tell("rolled-back", bundle.allowlist("dies canary-content", &[]));
    tell("live", bundle.egress("canary-content", &[]));
    tell("rolled-back", bundle.egress("refused", &[]));
    bundle.write("conf/rules", "bad canary-content");
    tell("refused", bundle.in_place(&[]));
    // For people: no --json.
    for content in ["third canary-content", "bad canary-content", "dies canary-content"] {
        let json = bundle.command(&["apply-allowlist", "--file=-"]);
        let mut command = Command::new(SIDECAR);
        command.args(json.get_args().filter(|word| *word != "--json"));
        command.envs(json.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(content.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        told += &String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    }
    let inside = |args: &[&str]| {
        let output = bundle.inside(args).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    let page = inside(&["cat", "/proc/1/fd/100"]);
    let status = inside(&[SIDECAR, "status"]) + &inside(&[SIDECAR, "status", "--json", "--ready"]);
    let records = bundle.read("conf/.rules.sidecar") + &bundle.read("beta/.routes.sidecar");
    // They hold what is looked through.
    assert!(
        told.contains("line 1: bad") && page.contains("\"plans\"") && status.contains("alpha"),
        "{told}{page}{status}"
    );
    assert!(records.contains("old_sha256") && bundle.read("err").contains("starting alpha"), "{records}");
    for (what, text) in
        [("told", told), ("page", page), ("status", status), ("records", records), ("log", bundle.read("err"))]
    {
        assert!(!text.contains("canary"), "{what}: {text}");
    }
    // A negative control: the daemon has it, and what is asked for is shown.
    let environment = inside(&["sh", "-c", "cat /proc/[0-9]*/environ"]);
    assert!(environment.contains("canary-environment"));
    let shown = bundle.allowlist("other canary-content", &["--dry-run", "--show-content"]);
    assert!(shown.to_string().contains("canary-content"), "{shown}");
}

/// What was recovered of an earlier change, as the report tells it.
fn settled(report: &Value) -> String {
    report["settled"].as_array().map(|all| all.iter().map(Value::to_string).collect()).unwrap_or_default()
}

#[test]
fn a_record_that_can_not_be_read_stops_the_change_and_loses_nothing() {
    let bundle = start();
    interrupted(&bundle);
    // The record is the first file that it can't open any more.
    let mut command = bundle.command(&["apply-allowlist", "--file=-"]);
    let host = given(command.env("LIMITED", "prlimit --nofile=8"), "new");
    is(&ended(host), "refused", 1, ".rules.sidecar: ");
    assert_eq!((bundle.read("conf/rules"), bundle.read("conf/.sidecar-old.rules")), ("unready".into(), "old".into()));
    let report = bundle.allowlist("new", &[]);
    is(&report, "live", 0, "");
    bundle.serves("new");
}

#[test]
fn what_was_recovered_of_an_earlier_change_is_told_by_a_dry_run_too() {
    let bundle = start();
    interrupted(&bundle);
    let report = bundle.allowlist("new", &["--dry-run"]);
    is(&report, "dry-run", 0, "");
    assert!(settled(&report).contains("an earlier change of alpha by me@"), "{report}");
    assert!(settled(&report).contains("the old content is back"), "{report}");
    assert_eq!(bundle.allowlist("new", &["--dry-run"])["settled"], Value::Null);
    bundle.serves("old");
}

#[test]
fn a_daemon_dead_before_an_interrupted_change_is_dead_after_recovery() {
    let bundle = start();
    bundle.write("conf/rules", "dies");
    bundle.signal("USR1");
    bundle.wait_until("dead", || bundle.daemon(0)["state"] == "exited");
    let host = bundle.begin("unready", &["--timeout=60s"]);
    bundle.wait_until("served", || bundle.read("serving") == "unready");
    kill_all(&bundle.helpers());
    is(&ended(host), "rolled-back", 1, "the connection to the bundle broke");
    assert_eq!((bundle.read("conf/rules").as_str(), &bundle.record()["outcome"]), ("dies", &"rolled-back".into()));
}

#[test]
fn an_immutable_file_is_refused_and_nothing_is_left_beside_it() {
    let bundle = start();
    let rules = bundle.dir.join("conf/rules");
    let chattr = |flag: &str| Command::new("chattr").arg(flag).arg(&rules).stderr(Stdio::null()).status();
    if !chattr("+i").is_ok_and(|status| status.success()) {
        println!("not tried: this file system knows no immutable files");
        return;
    }
    for _ in 0..2 {
        let report = bundle.allowlist("new", &[]);
        chattr(if bundle.left().is_empty() { "+i" } else { "-i" }).unwrap();
        is(&report, "refused", 1, "conf/rules: ");
        bundle.serves("old");
    }
    chattr("-i").unwrap();
    assert_eq!(bundle.generation(), 1);
    is(&bundle.allowlist("new", &[]), "live", 0, "");
}

#[test]
fn a_typo_that_a_person_left_over_an_interrupted_change_restarts_nobody() {
    let bundle = start();
    interrupted(&bundle);
    bundle.write("conf/rules", "bad");
    let report = bundle.egress("new", &[]);
    is(&report, "live", 0, "");
    assert!(settled(&report).contains("line 1: bad") && settled(&report).contains("which stays"), "{report}");
    assert_eq!((bundle.generation(), &bundle.daemon(0)["state"]), (2, &"running".into()));
    assert_eq!((bundle.read("conf/rules"), bundle.left().len()), ("bad".to_owned(), 0));
    let report = bundle.in_place(&[]);
    is(&report, "refused", 1, "line 1: bad");
}

#[test]
fn a_checker_may_print_a_lot_and_its_first_and_last_words_are_told() {
    let bundle = start();
    is(&bundle.allowlist("chats", &[]), "live", 0, "");
    let report = bundle.allowlist("chats and refuses", &[]);
    is(&report, "refused", 1, "y");
    bundle.serves("chats");
}

#[test]
fn a_rollback_puts_the_original_file_itself_back() {
    let bundle = start();
    let rules = bundle.dir.join("conf/rules");
    let python = |code: &str| {
        let output = Command::new("python3").args(["-c", code]).arg(&rules).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    python("import os, sys; os.setxattr(sys.argv[1], 'user.owner', b'me'); os.utime(sys.argv[1], (7, 7))");
    fs::hard_link(&rules, bundle.dir.join("link")).unwrap();
    let of = || fs::metadata(&rules).map(|meta| (meta.ino(), meta.mtime(), meta.nlink())).unwrap();
    let attribute = || python("import os, sys; print(os.getxattr(sys.argv[1], 'user.owner'))");
    let (before, owner) = (of(), attribute());
    is(&bundle.allowlist("dies", &[]), "rolled-back", 1, "");
    assert_eq!((of(), attribute()), (before, owner.clone()));
    is(&bundle.allowlist("new", &[]), "live", 0, "");
    assert_eq!((attribute(), bundle.read("link")), (owner, "old".to_owned()));
    bundle.serves("new");
}

#[test]
fn an_agent_from_before_the_change_makes_no_way_back_fail() {
    // As ssh-agent does: a session of its own, and a unix socket.
    let agent = r#"
[ -e DIR/agent ] || setsid --fork python3 -c '
import socket, time
server = socket.socket(socket.AF_UNIX)
server.bind("DIR/agent")
server.listen()
open("DIR/agents", "w").write("up")
time.sleep(1000)
' < /dev/null > /dev/null 2>&1
rules="#;
    let bundle = with(|table| table.replacen("\nrules=", agent, 1));
    bundle.wait_until("the agent is up", || !bundle.read("agents").is_empty());
    for _ in 0..2 {
        is(&bundle.allowlist("new", &["--timeout=2s"]), "rolled-back", 1, "agent is held by pid");
        bundle.serves("old");
        assert_eq!((bundle.left().len(), &bundle.transaction(0)["outcome"]), (0, &"rolled-back".into()));
    }
}

#[test]
fn two_bundles_that_mount_one_directory_are_served_one_after_the_other() {
    let one = start();
    let shared = one.dir.join("conf").display().to_string();
    let two = with(|table| table.replace("DIR/conf", &shared));
    for n in 0..6 {
        let new = format!("content {n}");
        let hosts = [one.begin(&new, &["--timeout=60s"]), two.begin(&new, &["--timeout=60s"])];
        for report in hosts.map(ended) {
            is(&report, "live", 0, "");
        }
        one.serves(&new);
        assert_eq!(two.read("serving"), new);
    }
    // One that the second one's daemon doesn't bear: neither loses the first one's content.
    is(&one.allowlist("kept", &[]), "live", 0, "");
    let hosts = [one.begin("dies", &["--timeout=60s"]), two.begin("dies", &["--timeout=60s"])];
    for report in hosts.map(ended) {
        is(&report, "rolled-back", 1, "exited with code 3");
    }
    one.serves("kept");
}

#[test]
fn the_same_bytes_in_another_file_are_not_what_was_put_in_place() {
    let bundle = with(|table| table.replace("SETTLE", "2s"));
    let host = bundle.begin("new", &["--timeout=60s"]);
    bundle.serves_now("new");
    let (rules, away) = (bundle.dir.join("conf/rules"), bundle.dir.join("away"));
    fs::rename(&rules, &away).unwrap();
    fs::write(&rules, "new").unwrap();
    is(&ended(host), "rolled-back", 1, "somebody else wrote");
    bundle.wait_until("old", || bundle.read("serving") == "old" && bundle.read("conf/rules") == "old");
}

#[test]
fn a_directory_whose_link_is_switched_meanwhile_is_not_proven() {
    // current isn't there yet when init starts.
    let bundle = with(|table| {
        let table = table.replace("SETTLE", "1s").replace("path = \"DIR/conf/", "path = \"DIR/current/");
        table
            .replace("rules=$(cat DIR/conf/rules)", "rules=$(cat DIR/current/rules 2> /dev/null || cat DIR/conf/rules)")
    });
    let current = bundle.dir.join("current");
    symlink("conf", &current).unwrap();
    fs::create_dir(bundle.dir.join("release")).unwrap();
    bundle.write("release/rules", "evil");
    let host = bundle.begin("new", &["--timeout=60s"]);
    bundle.serves_now("new");
    fs::remove_file(&current).unwrap();
    symlink("release", &current).unwrap();
    is(&ended(host), "rolled-back", 1, "another directory");
    assert_eq!(bundle.read("conf/rules"), "old");
}

#[test]
fn the_next_apply_ends_a_stopped_helper_once_its_time_is_over() {
    let bundle = start();
    let mut host = bundle.begin("unready", &["--timeout=60s"]);
    bundle.wait_until("served", || bundle.read("serving") == "unready");
    let stopped = bundle.stop_helpers();
    signal(&host, "KILL");
    host.wait().unwrap();
    is_in_time("refused", 1, "another change is under way, by me@", |timeout| bundle.allowlist("new", &[timeout]));
    // Its time is over: it is written into the lock, by which the next one judges.
    let lock = format!("/proc/{}/fd/102", bundle.pid());
    let lock = fs::OpenOptions::new().read(true).write(true).open(lock).unwrap();
    let mut text = [0; 1024];
    lock.read_at(&mut text, 0).unwrap();
    let mut holder: Value = serde_json::from_slice(&text).unwrap();
    holder["until_ms"] = 1.into();
    lock.write_all_at(format!("{:1024}", holder.to_string()).as_bytes(), 0).unwrap();
    let report = bundle.allowlist("new", &[]);
    is(&report, "live", 0, "");
    assert!(settled(&report).contains("the old content is back"), "{report}");
    bundle.serves("new");
    assert!(bundle.helpers().iter().all(|pid| !stopped.contains(pid)));
}

#[test]
fn a_helper_that_is_stopped_is_ended_by_init_once_its_time_is_over() {
    let bundle = start();
    let mut host = bundle.begin("unready", &["--timeout=60s"]);
    bundle.wait_until("served", || bundle.read("serving") == "unready");
    bundle.stop_helpers();
    signal(&host, "KILL");
    host.wait().unwrap();
    let mut record = bundle.record();
    record["until"][1] = 1.into();
    fs::write(bundle.dir.join("conf/.rules.sidecar"), record.to_string()).unwrap();
    bundle.signal("USR1");
    bundle.wait_until("old content", || bundle.read("serving") == "old");
    bundle.wait_until("ended", || bundle.helpers().is_empty());
    bundle.serves("old");
}

#[test]
fn what_a_helper_left_while_writing_its_record_is_swept() {
    let bundle = start();
    let unwritten = bundle.dir.join("conf/.rules.sidecar-new");
    fs::write(&unwritten, "{").unwrap();
    is(&bundle.allowlist("new", &["--dry-run"]), "dry-run", 0, "");
    bundle.serves("old");
    fs::write(&unwritten, "{").unwrap();
    bundle.signal("USR1");
    bundle.wait_until("swept", || bundle.left().is_empty());
}

#[test]
fn what_one_that_was_killed_before_its_record_has_left_is_swept_by_init() {
    let bundle = start();
    bundle.write("conf/.sidecar-new.rules", "new");
    fs::hard_link(bundle.dir.join("conf/rules"), bundle.dir.join("conf/.sidecar-old.rules")).unwrap();
    bundle.signal("USR1");
    bundle.wait_until("swept", || bundle.left().is_empty());
    bundle.wait_until("restarted", || bundle.generation() == 2 && bundle.daemon(0)["state"] == "running");
    bundle.serves("old");
}

#[test]
fn a_file_replaced_under_its_own_bind_mount_is_refused() {
    let bundle = start();
    let (rules, source) = (bundle.dir.join("conf/rules"), bundle.dir.join("source"));
    fs::write(&source, "mounted").unwrap();
    let inside = |args: &[&str]| {
        assert!(bundle.inside(args).status().unwrap().success());
    };
    inside(&["mount", "--bind", source.to_str().unwrap(), rules.to_str().unwrap()]);
    is(&bundle.in_place(&[]), "live", 0, "");
    // It is still there by another name, and then by none.
    let other = bundle.dir.join("other");
    fs::hard_link(&source, &other).unwrap();
    bundle.write("next", "next");
    fs::rename(bundle.dir.join("next"), &source).unwrap();
    is(&bundle.in_place(&[]), "refused", 1, "conf/rules is a bind mount of a file that was replaced");
    fs::remove_file(other).unwrap();
    let report = bundle.in_place(&[]);
    is(&report, "refused", 1, "conf/rules is a bind mount of a file that was replaced");
    is(&report, "refused", 1, "mount its directory instead");
    assert_eq!(bundle.generation(), 2);
}

#[test]
fn a_port_that_an_old_process_holds_proves_nothing() {
    let server = "import socket; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); \
                  s.bind((\"127.0.0.1\", PORT)); s.listen(); held = [s.accept() for _ in iter(int, 1)]";
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = server.replace("PORT", &port.to_string());
    let start = format!("setsid python3 -c '{server}' & while :; do sleep 1; done");
    let bundle = with(|table| {
        let ready = format!("ready = {{ tcp = \"127.0.0.1:{port}\" }}");
        let table = table.replace(ALPHA_READY, &ready);
        table.replace("while :; do sleep 0.02; done", &start)
    });
    // Its server is in a session of its own, and outlives it.
    let report = with_more_time("who holds the port", |timeout| {
        let report = bundle.allowlist("new", &[timeout]);
        assert_ne!(report["outcome"], "live", "{report}");
        says(&report, &format!("port {port} is held by pid ")).then_some(report)
    });
    assert!(says(&report, "(python3)"), "{report}");
    let status = bundle.sidecar(&["status", "--ready", "--json"]);
    let alpha = &status["daemons"][0];
    let why = alpha["not_ready"].as_str().unwrap_or_default();
    assert!(alpha["ready"] == false && why.starts_with(&format!("port {port} is held by pid ")), "{status}");
}

#[test]
fn a_port_held_before_the_restart_by_somebody_unseen_proves_nothing() {
    needs!(Root);
    // As in docker, root may not trace: nobody sees the descriptors of a server that makes itself undumpable. init has adopted it.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let undumpable = format!("syscall({}, {}, 0, 0, 0)", nix::libc::SYS_prctl, nix::libc::PR_SET_DUMPABLE);
    let server = format!(
        "{undumpable}; use IO::Socket; $s = IO::Socket::INET->new(LocalAddr => \"127.0.0.1:{port}\", Listen => 9, ReuseAddr => 1) or die $!; $s->accept while 1"
    );
    let start = "setsid sh -c \"echo \\$\\$ > DIR/parent; setpriv --reuid=1000 --clear-groups perl DIR/server & wait\" & \
                 while :; do sleep 1; done";
    let mut bundle = with(|table| {
        let ready = format!("ready = {{ tcp = \"127.0.0.1:{port}\" }}");
        let start = format!("echo '{server}' > DIR/server; {start}");
        table.replace(ALPHA_READY, &ready).replace("while :; do sleep 0.02; done", &start)
    });
    bundle.reboot_by(&["setpriv", "--bounding-set=-sys_ptrace"]);
    let parent = bundle.outside(&bundle.read("parent").trim().parse::<u32>().unwrap().into());
    kill_all(&[parent]);
    with_more_time("that somebody holds the port", |timeout| {
        let mut command = bundle.command(&["apply-allowlist", "--file=-", timeout]);
        let report = ended(given(command.env("LIMITED", "setpriv --bounding-set=-sys_ptrace"), "new"));
        assert_ne!(report["outcome"], "live", "{report}");
        says(&report, &format!("port {port} is held by a process from before the restart")).then_some(())
    });
}

#[test]
fn a_unix_socket_that_an_old_process_listens_on_proves_nothing() {
    let bundle = with(|table| {
        let unix = "use IO::Socket; $s = IO::Socket::UNIX->new";
        let connect = format!("ready = {{ exec = [\"perl\", \"-e\", '{unix}(\"DIR/socket\") or exit 1'] }}");
        let server = format!("{unix}(Local => \"DIR/socket\", Listen => 9) or exit 1; $s->accept while 1");
        let start = format!("setsid perl -e '{server}' & while :; do sleep 1; done");
        table.replace(ALPHA_READY, &connect).replace("while :; do sleep 0.02; done", &start)
    });
    let socket = bundle.dir.join("socket");
    bundle.wait_until("a server", || UnixStream::connect(&socket).is_ok());
    with_more_time("who holds the socket", |timeout| {
        let report = bundle.allowlist("new", &[timeout]);
        assert_ne!(report["outcome"], "live", "{report}");
        says(&report, &format!("{} is held by pid ", socket.display())).then_some(())
    });
}

#[test]
fn the_log_tells_of_a_change_by_the_sha256_of_both_contents() {
    let bundle = start();
    is(&bundle.allowlist("new", &[]), "live", 0, "");
    // sha256 of "old" and of "new".
    bundle.wait_until("told", || bundle.read("err").contains("old=cba06b5736fa new=11507a0e2f5e"));
}

#[test]
fn a_proof_in_which_the_generation_did_not_rise_is_not_believed() {
    let bundle = start();
    let target = r#""target":{"action":"restart","daemon":"alpha","before":{"pid":17,"generation":2},"seq":0}"#;
    for generation in [1, 2] {
        let after = format!(r#""after":{{"pid":31,"generation":{generation}}},"siblings_moved":[],"checked":true"#);
        let lie = format!(
            r#"echo '{{"protocol":{PROTOCOL},"version":"1","reply":"hello",{target}}}'; read a
               echo '{{"step":"go",{target},"grace_ms":0}}'; read b
               echo '{{"step":"end","outcome":"live",{after},"wait_ms":0,"check_ms":0,"back_ms":0}}'"#
        );
        let mut command = bundle.command(&["apply-allowlist"]);
        is(&ended(command.env("INIT", "").env("BUNDLE", lie).spawn().unwrap()), "not-proven", 1, "USR1 was sent");
    }
}

#[test]
fn what_a_person_writes_between_the_last_look_and_the_rename_is_not_lost() {
    let bundle = start();
    let mut command = bundle.command(&["apply-allowlist", "--file=-", "--timeout=60s"]);
    // renameat2(2) begins two seconds late.
    let delay = format!(
        "strace -f -qq -o {}/trace -e trace=renameat2 -e inject=renameat2:delay_enter=2000000:when=1",
        bundle.dir.display()
    );
    let host = given(command.env("LIMITED", delay), "new");
    let call = format!("{} ", nix::libc::SYS_renameat2);
    let is_there =
        |pid: &String| fs::read_to_string(format!("/proc/{pid}/syscall")).is_ok_and(|s| s.starts_with(&call));
    bundle.wait_until("the helper at its rename", || bundle.helpers().iter().any(is_there));
    bundle.write("conf/a-person-s", "a person's");
    fs::rename(bundle.dir.join("conf/a-person-s"), bundle.dir.join("conf/rules")).unwrap();
    is(&ended(host), "refused", 1, "");
    bundle.serves_now("old");
    assert_eq!((bundle.read("conf/rules"), bundle.generation()), ("a person's".to_owned(), 1));
    assert_eq!(bundle.left(), [] as [&str; 0]);
}

#[test]
fn nobody_of_the_same_user_can_speak_for_a_helper_it_has_stopped() {
    const USER: [&str; 5] = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--"];
    needs!(Root);
    let mut bundle = start();
    bundle.stop();
    assert!(Command::new("chown").args(["-R", "1000:1000"]).arg(&bundle.dir).status().unwrap().success());
    bundle.reboot_by(&USER);
    let mut command = bundle.command(&["apply-allowlist", "--file=-", "--timeout=60s"]);
    // As runc does it, the helper's pipe is its user's.
    let by = bundle.dir.join("by");
    fs::write(&by, format!("chown 1000 /proc/self/fd/1; exec {} \"$@\"", USER.join(" "))).unwrap();
    let host = given(command.env("LIMITED", format!("sh {}", by.display())), "unready");
    bundle.wait_until("served", || bundle.read("serving") == "unready");
    let attack = "kill -STOP $0 || exit 9; ( : >> /proc/$0/fd/1 ) 2> /dev/null && exit 8; kill -CONT $0";
    let helpers = bundle.helpers();
    let is_ours = |pid: &&String| fs::read(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm != b"setpriv\n");
    for pid in helpers.iter().filter(is_ours) {
        let code = Command::new(USER[0]).args(&USER[1..]).args(["sh", "-c", attack, pid]).status().unwrap().code();
        assert_eq!(code, Some(0), "9: it can't be stopped; 8: its stdout can be opened");
    }
    assert!(!helpers.is_empty());
    signal(&host, "INT");
    is(&ended(host), "rolled-back", 1, "");
}

#[test]
fn a_file_of_root_that_its_group_may_write_becomes_the_bundles_own() {
    // As OpenShift has it: an arbitrary user of the group root.
    const USER: [&str; 5] = ["setpriv", "--reuid=1000", "--regid=0", "--clear-groups", "--"];
    needs!(Root);
    let mut bundle = start();
    bundle.stop();
    let mode = |name: &str, mode| fs::set_permissions(bundle.dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
    for (name, bits) in [(".", 0o777), ("conf", 0o775), ("conf/rules", 0o664), ("beta", 0o775), ("beta/routes", 0o644)]
    {
        mode(name, bits);
    }
    for name in ["serving", "beta-serving"] {
        fs::remove_file(bundle.dir.join(name)).unwrap();
    }
    bundle.reboot_by(&USER);
    let apply = |applet: &str, content: &str| {
        let mut command = bundle.command(&[applet, "--file=-"]);
        ended(given(command.env("LIMITED", USER.join(" ")), content))
    };
    let of = |name: &str| fs::metadata(bundle.dir.join(name)).map(|m| (m.uid(), m.gid(), m.mode() & 0o7777)).unwrap();
    let report = apply("apply-allowlist", "dies");
    is(&report, "rolled-back", 1, "");
    assert_eq!((of("conf/rules"), &report["owner_was"]), ((0, 0, 0o664), &Value::Null));
    let report = apply("apply-allowlist", "new");
    is(&report, "live", 0, "");
    assert_eq!((of("conf/rules"), report["owner_was"].to_string()), ((1000, 0, 0o664), "[0,0]".to_owned()));
    bundle.serves("new");
    // What its group may not write is its owner's.
    is(&apply("apply-egress", "new"), "refused", 1, "can't keep the owner of");
    assert_eq!(bundle.read("beta/routes"), "old");
}

// By a request, with policies, and with people who stop and start.

/// alpha alone, with these lines.
fn alpha_with(lines: &str) -> Bundle {
    with(|table| {
        let (alpha, rest) = table.split_once("\n[[daemon]]\nname = \"beta\"").unwrap();
        let rules = rest.split_once("[signals]").unwrap().1.replace("HUP = { forward = \"beta\" }\n", "");
        let rules = rules.replace("USR2 = { restart = \"beta\" }\n", "");
        format!("{alpha}\n{lines}\n[signals]{rules}")
    })
}

impl Bundle {
    fn by_request(&self, daemon: &str, content: Option<&str>, args: &[&str]) -> Value {
        let daemon = format!("--daemon={daemon}");
        let file: &[&str] = if content.is_some() { &["--file=-"] } else { &[] };
        let mut command = self.command(&[&["apply", daemon.as_str()], file, args].concat());
        ended(given(&mut command, content.unwrap_or_default()))
    }

    /// Asks init, as a person does.
    fn asks(&self, verb: &str, daemon: &str) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        self.ask(&format!("{} {verb} {daemon}", NEXT.fetch_add(1, Ordering::Relaxed)));
    }
}

#[test]
fn a_daemon_is_changed_and_taken_back_by_its_name_alone() {
    let bundle = with(|table| table.split_once("[signals]").unwrap().0.to_owned());
    let report = bundle.by_request("alpha", Some("new"), &[]);
    is(&report, "live", 0, "");
    assert_eq!(
        (&report["signal"], &report["action"], &report["daemon"]),
        (&Value::Null, &"restart".into(), &"alpha".into())
    );
    assert_eq!((&report["before"]["generation"], &report["after"]["generation"]), (&1.into(), &2.into()));
    bundle.serves("new");
    is(&bundle.by_request("alpha", Some("dies"), &[]), "rolled-back", 1, "exited with code 3; the old content is back");
    bundle.serves("new");
    is(&bundle.by_request("alpha", Some("other"), &["--dry-run"]), "dry-run", 0, "");
    is(&bundle.by_request("alpha", Some("new"), &[]), "live", 0, "");
    is(&bundle.by_request("alpha", Some("new"), &[]), "unchanged", 0, "");
    is(&bundle.by_request("alpha", None, &[]), "live", 0, "");
    is(&bundle.by_request("alpha", None, &["--signal-only"]), "sent", 0, "");
    bundle.wait_until("restarted", || bundle.daemon(0)["generation"] == 7);
    is(&bundle.by_request("gamma", None, &[]), "refused", 1, "the bundle's table has no daemon gamma");
    let calls = bundle.calls();
    assert!(calls.iter().all(|call| !call.contains("kill")), "{calls:?}");
}

#[test]
fn a_forward_whose_daemon_no_signal_restarts_is_taken_back() {
    let bundle = with(|table| table.replace("USR2 = { restart = \"beta\" }", ""));
    is(&bundle.egress("new", &[]), "live", 0, "");
    is(&bundle.egress("refused", &[]), "rolled-back", 1, "errno 22");
    is(&bundle.egress("dies", &[]), "rolled-back", 1, "exited with code 5");
    assert_eq!((bundle.read("beta/routes"), bundle.read("beta-serving")), ("new".to_owned(), "new".to_owned()));
}

#[test]
fn a_lone_daemon_that_dies_of_new_content_comes_back_with_the_old() {
    let bundle = alpha_with("restart = \"on-failure\"");
    is(&bundle.allowlist("dies", &[]), "rolled-back", 1, "exited with code 3; the old content is back");
    // In the same init: another one is no process of this bundle's.
    bundle.serves("old");
}

#[test]
fn a_process_that_dies_while_it_is_proven_is_a_failure() {
    let bundle = with(|table| table.replace("SETTLE", "1500ms\"\nrestart = \"on-failure"));
    is(&bundle.allowlist("late", &[]), "rolled-back", 1, "exited with code 4");
    bundle.serves("old");
}

#[test]
fn a_rollback_tells_what_the_daemon_answered_last() {
    // It answers once, and the time that is up cuts the next probe short.
    let probe = r#"ready = { exec = ["sh", "-c", """
[ "$(cat DIR/conf/rules)" = unready ] || exit 0
[ ! -e DIR/asked ] || exec sleep 1000
touch DIR/asked
echo the database is away
exit 3"""] }"#;
    let bundle = with(|table| table.replace(ALPHA_READY, probe));
    let words = "was not ready in time (`sh -c ...` exited 3: the database is away";
    is_in_time("rolled-back", 1, words, |timeout| {
        let _ = fs::remove_file(bundle.dir.join("asked"));
        bundle.allowlist("unready", &[timeout])
    });
    bundle.serves("old");
    // It answers nothing at all.
    is(&bundle.allowlist("unready", &["--timeout=1s"]), "rolled-back", 1, "(`sh -c ...` did not end within ");
}

#[test]
fn a_daemon_in_backoff_with_the_old_content_again_is_as_it_was() {
    let bundle = with(|table| table.replace("SETTLE", "100ms\"\nrestart = \"on-failure"));
    bundle.write("conf/rules", "dies");
    bundle.signal("USR1");
    bundle.wait_until("it crashes", || bundle.daemon(0)["revivals"].as_u64() >= Some(3));
    is_in_time("rolled-back", 1, "not ready in time", |timeout| bundle.allowlist("unready", &[timeout]));
    assert_eq!(bundle.read("conf/rules"), "dies");
    is(&bundle.allowlist("new", &[]), "live", 0, "");
    bundle.serves("new");
}

#[test]
fn a_forward_to_a_daemon_in_backoff_starts_it_and_proves_that_start() {
    let bundle =
        with(|table| table.replace("ready = { notify = true }", "ready = { notify = true }\nrestart = \"on-failure\""));
    bundle.write("beta/routes", "dies");
    bundle.asks("restart", "beta");
    bundle.wait_until("it crashes", || bundle.daemon(1)["revivals"].as_u64() >= Some(4));
    bundle.wait_until("backoff", || bundle.daemon(1)["state"] == "backoff");
    let report = bundle.egress("new", &[]);
    is(&report, "live", 0, "");
    assert_eq!(report["action"], "restart");
    assert_eq!((bundle.read("beta/routes"), bundle.read("beta-serving")), ("new".to_owned(), "new".to_owned()));
}

#[test]
fn a_stopped_daemon_is_not_started_by_an_apply() {
    let bundle = start();
    bundle.asks("stop", "alpha");
    bundle.wait_until("stopped", || bundle.daemon(0)["state"] == "stopped");
    for report in [bundle.allowlist("new", &[]), bundle.in_place(&[]), bundle.by_request("alpha", Some("new"), &[])] {
        is(&report, "refused", 1, "alpha was stopped on request; start it first");
    }
    assert_eq!((&bundle.daemon(0)["state"], bundle.read("conf/rules")), (&"stopped".into(), "old".to_owned()));
    bundle.asks("start", "alpha");
    bundle.wait_until("started", || bundle.daemon(0)["state"] == "running");
    is(&bundle.allowlist("new", &[]), "live", 0, "");
}

#[test]
fn a_daemon_stopped_in_mid_change_has_its_old_content_and_stays_stopped() {
    let bundle = start();
    let host = bundle.begin("unready", &["--timeout=60s"]);
    bundle.wait_until("served", || bundle.read("serving") == "unready");
    bundle.asks("stop", "alpha");
    is(
        &ended(host),
        "rolled-back",
        1,
        "alpha was stopped on request meanwhile; the old content is back and alpha is left stopped",
    );
    assert_eq!((&bundle.daemon(0)["state"], bundle.read("conf/rules")), (&"stopped".into(), "old".to_owned()));
    assert_eq!(bundle.left(), [] as [&str; 0]);
}

#[test]
fn a_oneshot_is_run_again_and_its_exit_0_is_the_proof() {
    let bundle = with(|table| {
        table.replace("\n[signals]", "\n[[daemon]]\nname = \"once\"\ncommand = [\"sh\", \"-c\", \"test ! -e DIR/broken\"]\noneshot = true\n[signals]")
    });
    bundle.wait_until("done", || bundle.daemon(2)["state"] == "done");
    let report = bundle.by_request("once", None, &[]);
    is(&report, "live", 0, "");
    assert_eq!((&report["after"]["generation"], &bundle.daemon(2)["state"]), (&2.into(), &"done".into()));
    is(&bundle.by_request("once", Some("new"), &[]), "refused", 1, "once has no `config`");
    bundle.write("broken", "");
    is(&bundle.by_request("once", None, &[]), "not-proven", 1, "once exited with code 1");
}
