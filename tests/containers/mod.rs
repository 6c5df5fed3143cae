//! Real containers on a real Engine, for tests: each is hardened as docs/bundle.md shows, and goes with its handle.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and its helpers are tests too")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// How long a test waits for what must come: a loaded machine is no failure.
const PATIENCE: Duration = Duration::from_secs(120);

pub const SIDECAR: &str = env!("CARGO_BIN_EXE_sidecar");

/// The binary under test: another one than this build's, if `SIDECAR_BINARY` names it. It takes the image's place too.
pub fn binary() -> String {
    std::env::var("SIDECAR_BINARY").unwrap_or_else(|_| SIDECAR.to_owned())
}

/// The option that puts that other one into a bundle.
pub fn other_binary() -> Option<String> {
    std::env::var("SIDECAR_BINARY").ok().map(|path| format!("--volume={path}:/usr/local/bin/sidecar:ro"))
}

/// What a bundle is run with in docs/bundle.md.
const HARDENED: [&str; 7] = [
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--tmpfs=/tmp",
    "--network=none",
    "--no-healthcheck",
    "--add-host=web.test:127.0.0.1",
];

/// Exit code, stdout, stderr.
pub type Said = (i32, String, String);

pub fn said(command: &mut Command) -> Said {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// What the docker CLI prints if it succeeds.
pub fn docker<S: AsRef<OsStr>>(arguments: &[S]) -> String {
    let (code, out, err) = said(Command::new("docker").args(arguments));
    let arguments: Vec<_> = arguments.iter().map(AsRef::as_ref).collect();
    assert_eq!(code, 0, "docker {arguments:?}: {err}");
    out.trim().to_owned()
}

/// The image under test, which `scripts/test` builds and names.
pub fn image() -> String {
    std::env::var("SIDECAR_BUNDLE_IMAGE")
        .unwrap_or_else(|_| panic!("no SIDECAR_BUNDLE_IMAGE: run scripts/test, which builds it"))
}

/// The image with the binary alone.
pub fn scratch_image() -> String {
    std::env::var("SIDECAR_IMAGE").unwrap_or_else(|_| panic!("no SIDECAR_IMAGE: run scripts/test, which builds it"))
}

/// A name that no other test run has.
pub fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("sidecar-test-{}-{}-{what}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

pub fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "two minutes long: no {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A directory of the test's own that containers can be shown, gone with it.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new() -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique("dir"));
        fs::create_dir_all(&path).unwrap();
        // The bundle's user is another one.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        Self(path)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let (path, new) = (self.0.join(name), self.0.join(unique(name)));
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o666)).unwrap();
        fs::rename(new, &path).unwrap();
        path
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The option that shows it to a container.
    pub fn at(&self, inside: &str) -> String {
        format!("--volume={}:{inside}", self.0.display())
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A container, removed with it.
pub struct Container {
    pub name: String,
}

impl Container {
    /// Runs `image` with `options`; its program gets `arguments`.
    pub fn run(options: &[&str], image: &str, arguments: &[&str]) -> Self {
        let name = unique("c");
        let mut all = vec!["run", "--detach", "--name", &name];
        all.extend(options);
        all.push(image);
        all.extend(arguments);
        let container = Self { name: name.clone() };
        docker(&all);
        container
    }

    /// A bundle of the image under test, hardened, that runs but needn't be ready yet.
    pub fn bundle(options: &[&str]) -> Self {
        let other = other_binary();
        let mut all = HARDENED.to_vec();
        all.extend(other.as_deref());
        all.extend(options);
        Self::run(&all, &image(), &[])
    }

    /// One that has this daemon table in place of the built-in one. Its daemons need not be real ones.
    pub fn with_table(dir: &Dir, table: &str, options: &[&str]) -> Self {
        dir.write("daemons.toml", table);
        let volume = dir.at("/etc/sidecar");
        let container = Self::bundle(&[&[volume.as_str()], options].concat());
        // It has read the table then: the directory may go.
        wait_until("first line of the log", || (!container.log().is_empty()).then_some(()));
        container
    }

    /// The same bundle, once every daemon is ready.
    pub fn ready(self) -> Self {
        wait_until("readiness", || (self.try_exec(&["/proc/1/exe", "status", "--ready"]).0 == 0).then_some(()));
        self
    }

    pub fn try_exec(&self, command: &[&str]) -> Said {
        said(Command::new("docker").args(["exec", &self.name]).args(command))
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&self.try_exec(&["/proc/1/exe", "status", "--json"]).1).unwrap_or_default()
    }

    pub fn daemon(&self, name: &str) -> Value {
        let status = self.status();
        let found = status["daemons"].as_array().and_then(|all| all.iter().find(|daemon| daemon["name"] == name));
        found.cloned().unwrap_or_default()
    }

    /// Each daemon's name and pid.
    pub fn pids(&self) -> Vec<(String, u64)> {
        let status = self.status();
        let pid = |daemon: &Value| (daemon["name"].as_str().unwrap().to_owned(), daemon["pid"].as_u64().unwrap_or(0));
        status["daemons"].as_array().unwrap().iter().map(pid).collect()
    }

    pub fn inspect(&self, template: &str) -> String {
        docker(&["inspect", "--format", template, &self.name])
    }

    pub fn is_running(&self) -> bool {
        self.inspect("{{.State.Running}}") == "true"
    }

    pub fn log(&self) -> String {
        let (_, out, err) = said(Command::new("docker").args(["logs", &self.name]));
        out + &err
    }

    pub fn kill(&self, signal: &str) {
        docker(&["kill", "--signal", signal, &self.name]);
    }

    /// A python program of the image, in the network namespace of this bundle; `arguments` become its `sys.argv[1:]`.
    pub fn client(&self, program: &str, arguments: &[&str]) -> Command {
        let network = format!("--network=container:{}", self.name);
        let mut command = Command::new("docker");
        command.args([
            "run",
            "--rm",
            "--interactive",
            "--no-healthcheck",
            &network,
            "--entrypoint=/opt/supervise/bin/python",
        ]);
        command.arg(format!("--name={}", unique("client"))).arg(image()).args(["-u", "-c", program]).args(arguments);
        command
    }

    /// What the engine noted of it so far: each action's name, as `start`, `kill`, `exec_create: ...`.
    pub fn events(&self) -> Vec<String> {
        let filter = format!("container={}", self.name);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64().to_string();
        let events = ["events", "--since=1h", "--until", &now, "--filter", &filter, "--format={{.Action}}"];
        docker(&events).lines().map(str::to_owned).collect()
    }

    /// Whether the engine was never asked to signal it or to execute something in it.
    pub fn was_left_alone(&self) -> bool {
        !self.events().iter().any(|action| action.starts_with("kill") || action.starts_with("exec"))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: {}", self.name, self.log());
        }
        said(Command::new("docker").args(["rm", "--force", "--volumes", &self.name]));
    }
}
