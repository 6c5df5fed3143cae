//! A bundle without a container: init under `unshare --pid`. And how a test waits: for a condition, never for a time.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and its helpers are tests too")]
#![allow(dead_code, reason = "not every test program needs all of it")]

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use serde_json::Value;

/// How long a test waits for what must come: a loaded machine is no failure.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub const SIDECAR: &str = env!("CARGO_BIN_EXE_sidecar");

pub const TWO: &str = r#"
grace = "30s"
[[daemon]]
name = "alpha"
command = ["sh", "-c", "trap 'echo took HUP' HUP; echo alpha is up; while :; do sleep 0.02; done"]
[[daemon]]
name = "beta"
command = ["sh", "-c", "printf 'no newline'; exec sleep 1000"]
[signals]
HUP = { forward = "alpha" }
USR1 = { restart = "beta" }
"#;

/// How init is started. Its streams go to files unless told otherwise.
pub struct Setup {
    table: String,
    files: Vec<(&'static str, String)>,
    wrap: Vec<String>,
    env: Vec<(&'static str, String)>,
    out: Option<OwnedFd>,
    err: Option<OwnedFd>,
    is_copy: bool,
    is_pid_1: bool,
}

impl Setup {
    /// With this table, where DIR stands for the bundle's directory.
    pub fn new(table: &str) -> Self {
        let (table, files, wrap, env) = (table.to_owned(), Vec::new(), Vec::new(), Vec::new());
        Self { table, files, wrap, env, out: None, err: None, is_copy: false, is_pid_1: true }
    }

    /// This file is there before init starts.
    pub fn file(mut self, name: &'static str, text: &str) -> Self {
        self.files.push((name, text.to_owned()));
        self
    }

    /// With one daemon, which a shell runs.
    pub fn one(script: &str) -> Self {
        let table = "[[daemon]]\nname = \"alpha\"\ncommand = [\"sh\", \"-c\", '''SCRIPT''']\n[signals]\n\
                     HUP = { forward = \"alpha\" }\nUSR1 = { restart = \"alpha\" }\n";
        Self::new(&table.replace("SCRIPT", script))
    }

    pub fn env(mut self, key: &'static str, value: &str) -> Self {
        self.env.push((key, value.to_owned()));
        self
    }

    pub fn select(self, names: &str) -> Self {
        self.env("CLAUDE_BOTTLE_SIDECAR_DAEMONS", names)
    }

    /// This command executes init, by the arguments that follow its own.
    pub fn wrapped(mut self, command: &[&str]) -> Self {
        self.wrap.extend(command.iter().map(|word| (*word).to_owned()));
        self
    }

    pub fn stdout(mut self, to: impl AsFd) -> Self {
        self.out = Some(to.as_fd().try_clone_to_owned().unwrap());
        self
    }

    pub fn stderr(mut self, to: impl AsFd) -> Self {
        self.err = Some(to.as_fd().try_clone_to_owned().unwrap());
        self
    }

    /// DIR/hung is a file system that answers nobody: whoever looks there waits until it is killed.
    pub fn with_hung_mount(self) -> Self {
        let script = "mkdir DIR/hung; exec 3<>/dev/fuse; mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 none \
                      DIR/hung; sleep 1000 <&3 & exec 3>&-; exec \"$@\"";
        self.wrapped(&["sh", "-c", script, "-"])
    }

    /// As a user whom nobody else is, not even this test run by somebody else, with `prlimit`'s options.
    pub fn under_user(mut self, limits: &[&str]) -> Self {
        static USER: AtomicU32 = AtomicU32::new(0);
        let id = 1_000_000 + std::process::id() * 64 + USER.fetch_add(1, Ordering::Relaxed);
        let id = &id.to_string();
        // It may not be able to reach the binary where that was built.
        self.is_copy = true;
        self.wrapped(&["prlimit"]).wrapped(limits).wrapped(&["setpriv", "--reuid", id, "--regid", id, "--clear-groups"])
    }

    /// It waits to be executed until [`Bundle::open`]: a tracer sees its first call.
    pub fn closed(self) -> Self {
        self.wrapped(&["sh", "-c", "mkfifo gate; read go <> gate; exec \"$@\"", "-"])
    }

    /// As the child of a shell that is PID 1; the shell notes init's exit code and who is still there.
    pub fn not_as_pid_1(mut self) -> Self {
        self.is_pid_1 = false;
        self.wrapped(&["sh", "-c", "\"$@\"; echo $? > code; cat /proc/[0-9]*/stat > left; mv left who-is-left", "-"])
    }

    pub fn start(self) -> Bundle {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("sidecar-{}-{n}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let table = ("table.toml", self.table.replace("DIR", dir.to_str().unwrap()));
        for (name, text) in self.files.iter().chain([&table]) {
            fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
            fs::write(dir.join(name), text).unwrap();
        }
        if self.is_copy {
            // By a process of its own: a child of a parallel test could hold what we write, and exec fail (ETXTBSY).
            assert!(Command::new("cp").arg(SIDECAR).arg(dir.join("sidecar")).status().unwrap().success());
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        }
        let mut bundle = Bundle { dir, setup: self, child: None, pid: OnceLock::new() };
        bundle.boot();
        bundle
    }
}

pub struct Bundle {
    pub dir: PathBuf,
    setup: Setup,
    /// unshare, while it runs.
    child: Option<Child>,
    pid: OnceLock<i32>,
}

/// Waits for a condition, not for a time.
pub fn wait_until(what: &str, context: impl Fn() -> String, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not seen: {what}; {}", context());
        thread::sleep(Duration::from_millis(3));
    }
}

/// What a process says and how it ends. One that takes longer than a test waits is killed, which fails the test.
pub fn end_of(child: Child) -> Output {
    let id = child.id().cast_signed();
    let (ends, ended) = mpsc::channel::<()>();
    let watch = thread::spawn(move || {
        let is_late = ended.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout);
        // SAFETY: kill(2) has no memory effects; the process is waited for until it ends.
        is_late && unsafe { libc::kill(id, libc::SIGKILL) } == 0
    });
    let output = child.wait_with_output().unwrap();
    drop(ends);
    assert!(!watch.join().unwrap(), "it didn't end: {output:?}");
    output
}

/// Gives more and more time, until what must be told when that is up was seen: on a loaded machine it may have been too short.
pub fn with_more_time<T>(what: &str, mut seen_in: impl FnMut(&str) -> Option<T>) -> T {
    ["500ms", "3s", "15s", "60s"]
        .into_iter()
        .find_map(|time| seen_in(&format!("--timeout={time}")))
        .unwrap_or_else(|| panic!("not even within a minute: {what}"))
}

/// A field of `/proc/PID/stat` by its number in proc(5), from 3 on; none where the process is gone.
pub fn stat(pid: i32, field: usize) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.split(' ').nth(field - 3).map(str::to_owned)
}

/// The processes whose parent is this one, zombies too.
pub fn children_of(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// How often a process that sleeps has gone to sleep: one that says the same again did nothing in between.
pub fn at_rest(pid: i32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let switches = text.split_once("voluntary_ctxt_switches")?.1.to_owned();
    text.contains("\nState:\tS").then_some(switches)
}

/// PID 1's own program. Under emulation that would be the emulator.
pub fn exe() -> String {
    std::env::var("PID_1_EXE").unwrap_or_else(|_| "/proc/1/exe".to_owned())
}

/// Exit code, stdout and stderr.
pub fn said(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

impl Bundle {
    pub fn start(table: &str) -> Self {
        Setup::new(table).start()
    }

    /// Starts another init, by this command.
    pub fn boot_by(&mut self, command: &[&str]) {
        self.setup.wrap = command.iter().map(|word| (*word).to_owned()).collect();
        self.boot();
    }

    fn boot(&mut self) {
        let (dir, setup) = (&self.dir, &mut self.setup);
        let file = |name: &str| fs::File::create(dir.join(name)).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
        command.args(setup.wrap.iter().map(|word| word.replace("DIR", dir.to_str().unwrap())));
        command.arg(if setup.is_copy { dir.join("sidecar") } else { SIDECAR.into() });
        command.arg("init").arg(format!("--config={}", dir.join("table.toml").display()));
        command.stdin(Stdio::null()).current_dir(dir).env_remove("CLAUDE_BOTTLE_SIDECAR_DAEMONS");
        // cargo's: with it the loader looks through directories of which a bundle knows nothing.
        command.env_remove("LD_LIBRARY_PATH");
        command.envs(setup.env.iter().map(|(key, value)| (key, value)));
        command.stdout(setup.out.take().map_or_else(|| file("out").into(), Stdio::from));
        command.stderr(setup.err.take().map_or_else(|| file("err").into(), Stdio::from));
        self.child = Some(command.spawn().unwrap());
        self.pid = OnceLock::new();
    }

    /// Ends it at once, as `docker kill` does.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let Ok(None) = child.try_wait() else { return };
        let Some(init) = children_of(child.id().cast_signed()).first().copied() else {
            let _ = child.kill();
            let _ = child.wait();
            return;
        };
        // With a PID 1 ends its namespace, and unshare waits for that. Its --kill-child alone would not do: a change of the
        // user undoes it, prctl(2).
        // SAFETY: kill(2) has no memory effects, and unshare has not reaped it.
        unsafe { libc::kill(init, libc::SIGKILL) };
        let start = Instant::now();
        while let Ok(None) = child.try_wait() {
            if start.elapsed() > PATIENCE {
                let _ = child.kill();
            }
            wake_nsenters(init);
            thread::sleep(Duration::from_millis(3));
        }
    }

    pub fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join(name)).unwrap_or_default()).into_owned()
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.join(name), text).unwrap();
    }

    pub fn wait_for(&self, name: &str, text: &str) {
        self.wait_until(&format!("{text:?} in {name}"), || self.read(name).contains(text));
    }

    pub fn wait_until(&self, what: &str, condition: impl FnMut() -> bool) {
        wait_until(what, || format!("out: {}; log: {}", self.read("out"), self.read("err")), condition);
    }

    /// The pid of init as the test sees it: unshare's one child, or that one's.
    pub fn pid(&self) -> i32 {
        *self.pid.get_or_init(|| {
            let child = self.only_child(self.child.as_ref().unwrap().id().cast_signed());
            if self.setup.is_pid_1 { child } else { self.only_child(child) }
        })
    }

    fn only_child(&self, id: i32) -> i32 {
        let mut pid = 0;
        self.wait_until("init's process", || {
            pid = children_of(id).first().copied().unwrap_or(0);
            pid != 0
        });
        pid
    }

    /// Waits until what will be init does nothing but wait for [`Self::open`].
    pub fn wait_until_closed(&self) {
        self.wait_until("a closed gate", || {
            self.dir.join("gate").exists() && self.children().is_empty() && stat(self.pid(), 3).as_deref() == Some("S")
        });
    }

    pub fn open(&self) {
        // For reading too: to open a fifo for writing alone waits for a reader, fifo(7), and a fault that a tracer injects may have
        // ended the one that was there.
        let mut gate = fs::OpenOptions::new().read(true).write(true).open(self.dir.join("gate")).unwrap();
        gate.write_all(b"\n").unwrap();
    }

    pub fn signal_number(&self, number: i32) {
        // SAFETY: kill(2) has no memory effects; the process is a child's child that is not reaped yet.
        assert_eq!(unsafe { libc::kill(self.pid(), number) }, 0);
    }

    pub fn signal(&self, signal: &str) {
        let signal: nix::sys::signal::Signal = format!("SIG{signal}").parse().unwrap();
        self.signal_number(signal as i32);
    }

    /// The page as init published it: points of the clock in the place of ages.
    pub fn page(&self) -> Value {
        let path = format!("/proc/{}/fd/100", self.pid());
        serde_json::from_slice(&fs::read(path).unwrap_or_default()).unwrap_or_default()
    }

    /// One daemon of the page, by its place among the selected.
    pub fn daemon(&self, index: usize) -> Value {
        self.page()["status"]["daemons"][index].clone()
    }

    /// Waits until each daemon has executed its command, or couldn't.
    pub fn wait_until_started(&self) {
        let is_starting = |daemon: &Value| daemon["state"] == "starting";
        self.wait_until("all have started", || {
            let page = self.page();
            page["status"]["daemons"].as_array().is_some_and(|all| !all.iter().any(is_starting))
        });
    }

    /// What became of the last signal of a kind, once this many of them were served.
    pub fn served(&self, signal: &str, seq: u64) -> String {
        let mut last = Value::Null;
        self.wait_until(&format!("{signal} no. {seq}"), || {
            last = self.page()["status"]["signals"][signal]["last"].clone();
            last["seq"].as_u64() >= Some(seq)
        });
        last["outcome"].as_str().unwrap().to_owned()
    }

    pub fn outcome(&self, signal: &str, outcome: &str) {
        let last = || self.page()["status"]["signals"][signal]["last"]["outcome"].clone();
        self.wait_until(&format!("{signal} {outcome}"), || last() == outcome);
    }

    pub fn wait_for_generation(&self, index: usize, generation: u64) {
        self.wait_until(&format!("generation {generation}"), || {
            let daemon = self.daemon(index);
            daemon["generation"] == generation && daemon["state"] == "running"
        });
    }

    /// Asks init, as the applets do.
    pub fn ask(&self, request: &str) {
        let mut pipe = fs::OpenOptions::new().write(true).open(format!("/proc/{}/fd/101", self.pid())).unwrap();
        // In one piece, as pipe(7) promises for a short one.
        pipe.write_all(format!("\n{request}\n").as_bytes()).unwrap();
    }

    /// A command in the namespace, as `docker exec` runs it.
    pub fn inside(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid().to_string(), "-p", "-m"]).args(words).stdin(Stdio::null());
        command
    }

    /// One of its applets, there.
    pub fn applet(&self, words: &[&str]) -> Command {
        let mut command = self.inside(&[&exe()]);
        command.args(words);
        command
    }

    /// What the applet says.
    pub fn status(&self, arguments: &[&str]) -> (i32, String, String) {
        said(&self.applet(&["status"]).args(arguments).output().unwrap())
    }

    /// The processes whose parent is init, zombies too.
    pub fn children(&self) -> Vec<i32> {
        children_of(self.pid())
    }

    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// init's exit code, as a shell has it, where it has ended.
    pub fn try_code(&mut self) -> Option<i32> {
        let status = self.child.as_mut().unwrap().try_wait().unwrap()?;
        status.code().or_else(|| status.signal().map(|signal| 128 + signal))
    }

    pub fn exit_code(&mut self) -> i32 {
        let mut code = None;
        let (dir, child) = (&self.dir, self.child.as_mut().unwrap());
        let read = |name| fs::read_to_string(dir.join(name)).unwrap_or_default();
        wait_until(
            "init's end",
            || read("err"),
            || {
                code = child.try_wait().unwrap().map(|status| status.code());
                code.is_some()
            },
        );
        code.flatten().unwrap()
    }
}

/// An nsenter stops when its child in the namespace is stopped, and the namespace doesn't end before it has reaped that child.
fn wake_nsenters(init: i32) {
    let begin = format!("nsenter\0-t\0{init}\0");
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if fs::read(entry.path().join("cmdline")).is_ok_and(|words| words.starts_with(begin.as_bytes())) {
            // SAFETY: kill(2) has no memory effects.
            unsafe { libc::kill(pid, libc::SIGCONT) };
        }
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        self.stop();
        let _ = fs::remove_dir_all(&self.dir);
    }
}
