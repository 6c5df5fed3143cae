//! What `sidecar init` promises, seen on the real binary as PID 1 of a real pid namespace.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and its helpers are tests too")]

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A bundle without a container: init under `unshare --pid`, its streams in files.
struct Bundle {
    dir: PathBuf,
    unshare: Child,
}

impl Bundle {
    fn start(table: &str, selection: Option<&str>) -> Self {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("sidecar-init-{}-{n}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = |name: &str| fs::File::create(dir.join(name)).unwrap();
        file("table.toml").write_all(table.replace("DIR", dir.to_str().unwrap()).as_bytes()).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child", env!("CARGO_BIN_EXE_sidecar"), "init"]);
        command.arg(format!("--config={}", dir.join("table.toml").display()));
        command.env_remove("CLAUDE_BOTTLE_SIDECAR_DAEMONS").stdin(Stdio::null());
        command.envs(selection.map(|s| ("CLAUDE_BOTTLE_SIDECAR_DAEMONS", s)));
        let unshare = command.stdout(file("out")).stderr(file("err")).spawn().unwrap();
        Self { dir, unshare }
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.join(name)).unwrap_or_default()
    }

    fn wait_for(&self, name: &str, text: &str) {
        self.wait_until(&format!("{text:?} in {name}"), || self.read(name).contains(text));
    }

    fn wait_until(&self, what: &str, condition: impl Fn() -> bool) {
        let start = Instant::now();
        while !condition() {
            let log = self.read("err");
            assert!(start.elapsed() < Duration::from_secs(20), "no {what}; out: {}; log: {log}", self.read("out"));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The pid of init outside of its namespace: the one child of unshare.
    fn pid(&self) -> String {
        let id = self.unshare.id();
        let start = Instant::now();
        loop {
            let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
            if !children.is_empty() || start.elapsed() > Duration::from_secs(20) {
                return children.trim().to_owned();
            }
        }
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([&format!("-{signal}"), &self.pid()]).status().unwrap().success());
    }

    fn status(&self) -> serde_json::Value {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid(), "-p", "-m", env!("CARGO_BIN_EXE_sidecar"), "status", "--json"]);
        let Output { stdout, .. } = command.output().unwrap();
        serde_json::from_slice(&stdout).unwrap_or_default()
    }

    fn exit_code(&mut self) -> i32 {
        self.unshare.wait().unwrap().code().unwrap()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

const TWO: &str = r#"
grace = "5s"
[[daemon]]
name = "alpha"
command = ["sh", "-c", "trap 'echo took HUP' HUP; echo alpha is up; while :; do sleep 0.05; done"]
[[daemon]]
name = "beta"
command = ["sh", "-c", "printf 'no newline'; exec sleep 1000"]
[signals]
HUP = { forward = "alpha" }
USR1 = { restart = "beta" }
"#;

#[test]
fn term_to_the_real_process_logs_each_start_and_forward_and_exits_143() {
    let mut bundle = Bundle::start(TWO, None);
    bundle.wait_for("out", "[alpha] alpha is up\n");
    bundle.signal("TERM");
    assert_eq!(bundle.exit_code(), 143);
    let log = bundle.read("err");
    for line in ["starting alpha", "starting beta", "forwarding SIGTERM to alpha", "forwarding SIGTERM to beta"] {
        assert!(log.contains(line), "{line} isn't in: {log}");
    }
}

#[test]
fn a_restart_gives_a_new_pid_in_the_same_slot_and_leaves_the_sibling_alone() {
    let bundle = Bundle::start(TWO, None);
    bundle.wait_for("out", "alpha is up");
    let before = bundle.status();
    bundle.signal("USR1");
    bundle.wait_until("second generation", || bundle.status()["daemons"][1]["generation"] == 2);
    let after = bundle.status();
    assert_eq!(after["daemons"][0]["pid"], before["daemons"][0]["pid"]);
    assert_ne!(after["daemons"][1]["pid"], before["daemons"][1]["pid"]);
    assert_eq!(after["signals"]["USR1"]["last"]["outcome"], "restarted");
    // The old process's unfinished line is printed, and not glued to the new one's.
    bundle.wait_for("out", "[beta] no newline\n");
}

#[test]
fn a_forward_reaches_the_named_child_alone_once_it_catches_the_signal() {
    let table = TWO.replace("trap 'echo", "sleep 0.3; trap 'echo");
    let bundle = Bundle::start(&table, None);
    bundle.wait_for("err", "starting beta");
    bundle.signal("HUP");
    bundle.wait_for("out", "[alpha] took HUP");
    let status = bundle.status();
    assert_eq!(status["daemons"][0]["generation"], 1);
    assert_eq!(status["daemons"][1]["state"], "running");
}

#[test]
fn a_selection_that_selects_nothing_exits_0_at_once_and_says_so() {
    let mut bundle = Bundle::start(TWO, Some("nobody"));
    assert_eq!(bundle.exit_code(), 0);
    assert!(bundle.read("err").contains("no daemons selected"));
}

#[test]
fn a_command_that_is_not_found_counts_as_127_and_one_that_may_not_run_as_126() {
    for (command, code) in [("/no/such/program", 127), ("/etc/passwd", 126), ("/bin", 126)] {
        let table = format!("[[daemon]]\nname = \"alpha\"\ncommand = [\"{command}\"]\n");
        assert_eq!(Bundle::start(&table, None).exit_code(), code, "{command}");
    }
}

#[test]
fn an_old_worker_is_gone_before_the_replacement_starts() {
    let table = TWO.replace(
        "printf 'no newline'; exec sleep 1000",
        "echo run >> DIR/runs; sh -c 'trap : TERM; exec 9> DIR/lock; flock -n 9 || echo old worker lives; while :; do sleep 0.02; done' & wait",
    );
    let bundle = Bundle::start(&table, None);
    bundle.wait_for("runs", "run\n");
    for generation in 2..6 {
        bundle.signal("USR1");
        bundle.wait_until("new generation", || bundle.status()["daemons"][1]["generation"] == generation);
        bundle.wait_until("its run", || bundle.read("runs").lines().count() == generation);
    }
    assert!(!bundle.read("out").contains("old worker lives"), "{}", bundle.read("out"));
}
