//! A bundle without a container: init under `unshare --pid`.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::libc;
use serde_json::Value;

/// How long a test waits for what must come: a loaded machine is no failure.
pub const PATIENCE: Duration = Duration::from_secs(40);

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

static NEXT: AtomicU32 = AtomicU32::new(0);

/// How init is started. Its streams go to files unless told otherwise.
pub struct Setup {
    table: String,
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
        let table = table.to_owned();
        Self { table, wrap: Vec::new(), env: Vec::new(), out: None, err: None, is_copy: false, is_pid_1: true }
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
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("sidecar-init-{}-{n}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = |name: &str| fs::File::create(dir.join(name)).unwrap();
        file("table.toml").write_all(self.table.replace("DIR", dir.to_str().unwrap()).as_bytes()).unwrap();
        let mut binary = PathBuf::from(env!("CARGO_BIN_EXE_sidecar"));
        if self.is_copy {
            // By a process of its own: a child of a parallel test could hold what we write, and exec fail (ETXTBSY).
            assert!(Command::new("cp").arg(&binary).arg(dir.join("sidecar")).status().unwrap().success());
            binary = dir.join("sidecar");
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        }
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
        command.args(self.wrap.iter().map(|word| word.replace("DIR", dir.to_str().unwrap())));
        command.arg(binary).arg("init").arg(format!("--config={}", dir.join("table.toml").display()));
        command.stdin(Stdio::null()).current_dir(&dir).env_remove("CLAUDE_BOTTLE_SIDECAR_DAEMONS");
        // cargo's: with it the loader looks through directories of which a bundle knows nothing.
        command.env_remove("LD_LIBRARY_PATH");
        command.envs(self.env);
        command.stdout(self.out.map_or_else(|| file("out").into(), Stdio::from));
        command.stderr(self.err.map_or_else(|| file("err").into(), Stdio::from));
        let child = command.spawn().unwrap();
        Bundle { dir, child, is_pid_1: self.is_pid_1, pid: OnceLock::new() }
    }
}

pub struct Bundle {
    pub dir: PathBuf,
    child: Child,
    is_pid_1: bool,
    pid: OnceLock<i32>,
}

/// Waits for a condition, not for a time.
pub fn wait_until(what: &str, context: impl Fn() -> String, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not seen: {what}; {}", context());
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// A field of `/proc/PID/stat` by its number in proc(5), from 3 on; none where the process is gone.
pub fn stat(pid: i32, field: usize) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.split(' ').nth(field - 3).map(str::to_owned)
}

impl Bundle {
    pub fn start(table: &str) -> Self {
        Setup::new(table).start()
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
            let child = self.only_child(self.child.id().cast_signed());
            if self.is_pid_1 { child } else { self.only_child(child) }
        })
    }

    fn only_child(&self, id: i32) -> i32 {
        let mut pid = 0;
        self.wait_until("init's process", || {
            let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
            pid = children.trim().parse().unwrap_or(0);
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
        fs::write(self.dir.join("gate"), "\n").unwrap();
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

    /// What the applet says, run in the namespace as `docker exec` does.
    pub fn status(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = Command::new("nsenter");
        // Under emulation that is the emulator.
        let exe = std::env::var("PID_1_EXE").unwrap_or_else(|_| "/proc/1/exe".to_owned());
        command.args(["-t", &self.pid().to_string(), "-p", "-m", &exe, "status"]).args(arguments);
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }

    /// The processes whose parent is init, zombies too.
    pub fn children(&self) -> Vec<i32> {
        let pid = self.pid();
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// init's exit code, as a shell has it, where it has ended.
    pub fn try_code(&mut self) -> Option<i32> {
        let status = self.child.try_wait().unwrap()?;
        status.code().or_else(|| status.signal().map(|signal| 128 + signal))
    }

    pub fn exit_code(&mut self) -> i32 {
        let mut code = None;
        let (dir, child) = (&self.dir, &mut self.child);
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

impl Drop for Bundle {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let id = self.child.id();
            let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
            match children.trim().parse() {
                // With a PID 1 ends its namespace, and unshare waits for that. Its --kill-child alone would not do: a
                // change of the user undoes it, prctl(2).
                // SAFETY: kill(2) has no memory effects, and unshare has not reaped it.
                Ok(pid) => drop(unsafe { libc::kill(pid, libc::SIGKILL) }),
                Err(_) => drop(self.child.kill()),
            }
            let _ = self.child.wait();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}
