//! Daemons with a `user` in real containers: init is root with exactly the three capabilities that it needs for that, in an
//! image that has nothing but the binary. `scripts/test` builds the image and runs this.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and its helpers are tests too")]
#![allow(dead_code, reason = "what another test file needs of the containers")]

mod containers;

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use containers::{Container, Dir, binary, docker, said, scratch_image, wait_until};
use serde_json::Value;

/// alpha opens its stdout anew, and tells what it serves and as whom. Its checker and its probe look at whom they are.
const TABLE: &str = r#"
grace = "1s"
[[daemon]]
name = "alpha"
user = "4711"
pass_environment = []
environment = { TOKEN = "t" }
command = ["/busybox", "sh", "-c", '''
echo anew > /dev/stdout
rules=$(/busybox cat /data/rules)
[ "$rules" = dies ] && exit 3
echo "serves $rules as $(/busybox id -u):$(/busybox id -g) ${OTHER-}" >> /dev/stderr
while :; do /busybox sleep 0.05; done
''']
config = { path = "/data/rules", check = ["/busybox", "sh", "-c", '[ "$(/busybox id -u)$TOKEN" = 4711t ] && [ "$(/busybox cat "$0")" != bad ]', "{}"] }
ready = { exec = ["/busybox", "sh", "-c", '[ "$(/busybox id -u)$TOKEN" = 4711t ]'] }
settle = "100ms"
[[daemon]]
name = "beta"
user = "4712:4713"
depends_on = ["alpha"]
command = ["/busybox", "sh", "-c", "trap '' TERM; echo up; while :; do /busybox sleep 0.05; done"]
"#;

fn options(dir: &Dir, capabilities: &str) -> Vec<String> {
    let mut all: Vec<String> = [
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--network=none",
        "--volume=/bin/busybox:/busybox:ro",
        "--env=SIDECAR_CONFIG=/table/daemons.toml",
        "--env=OTHER=of-init",
    ]
    .map(str::to_owned)
    .to_vec();
    all.extend(capabilities.split(',').map(|name| format!("--cap-add={name}")));
    all.push(dir.at("/table"));
    all
}

/// The directory that holds the rules is mounted at /data; it and the file in it belong to these.
struct Rules(Dir);

impl Rules {
    fn of(directory: u32, file: u32) -> Self {
        let dir = Dir::new();
        let path = dir.write("rules", "old");
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        chown(path, Some(file), Some(file)).unwrap();
        chown(dir.path(), Some(directory), Some(directory)).unwrap();
        Self(dir)
    }

    /// What lies there: names, owners, modes, inodes and contents.
    fn state(&self) -> Vec<(String, u32, u32, u32, u64, String)> {
        let one = |path: &Path| {
            let meta = fs::metadata(path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, meta.uid(), meta.gid(), meta.mode(), meta.ino(), fs::read_to_string(path).unwrap())
        };
        let mut all: Vec<_> = fs::read_dir(self.0.path()).unwrap().map(|entry| one(&entry.unwrap().path())).collect();
        all.sort();
        all
    }
}

fn start(table: &Dir, rules: &Rules, image: &str) -> Container {
    table.write("daemons.toml", TABLE);
    let mut all = options(table, "SETUID,SETGID,KILL");
    all.push(rules.0.at("/data"));
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    Container::run(&all, image, &["init"])
}

fn apply(bundle: &Container, content: &str) -> Value {
    let mut command = Command::new(binary());
    command.args(["apply", "--daemon", "alpha", "--json", "--file", "-", &bundle.name]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(content.as_bytes()).unwrap();
    serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap()
}

/// The scratch image with a health check, gone with its handle.
struct WithHealthcheck(String);

impl WithHealthcheck {
    fn build() -> Self {
        let mut build = Command::new("docker");
        let mut child =
            build.args(["build", "--quiet", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let text = format!("FROM {}\nHEALTHCHECK --interval=1s CMD [\"/sidecar\", \"status\"]\n", scratch_image());
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        Self(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }
}

impl Drop for WithHealthcheck {
    fn drop(&mut self) {
        said(Command::new("docker").args(["rmi", "--no-prune", &self.0]));
    }
}

#[test]
fn daemons_of_unlisted_users_can_reopen_their_streams() {
    let (table, rules, image) = (Dir::new(), Rules::of(0, 0), WithHealthcheck::build());
    let bundle = start(&table, &rules, &image.0).ready();
    wait_until("beta", || bundle.log().contains("[beta] up").then_some(()));
    let log = bundle.log();
    assert!(log.contains("[alpha] anew\n") && log.contains("[alpha] serves old as 4711:4711 \n"), "{log}");
    wait_until("health", || (bundle.inspect("{{.State.Health.Status}}") == "healthy").then_some(()));
    let ids = "echo $(/busybox id -u) $(/busybox id -g) $(/busybox id -G) ${OTHER-none}";
    let (code, out, err) = bundle.try_exec(&["/proc/1/exe", "run-as", "beta", "--", "/busybox", "sh", "-c", ids]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "4712 4713 4713 of-init\n", ""));
    let (code, out, err) = bundle.try_exec(&["/proc/1/exe", "restart", "beta", "alpha"]);
    assert_eq!(code, 0, "{out} {err}");
    // It ignores TERM: only a KILL ends it.
    assert!(bundle.log().contains("was killed by signal 9"), "{}", bundle.log());
    docker(&["stop", &bundle.name]);
    assert_eq!(bundle.inspect("{{.State.ExitCode}}"), "137", "beta was killed");
}

#[test]
fn a_change_is_checked_and_proven_as_the_daemons_user() {
    let (table, rules) = (Dir::new(), Rules::of(0, 0));
    let bundle = start(&table, &rules, &scratch_image()).ready();
    let is = |report: &Value, outcome: &str| assert_eq!(report["outcome"], outcome, "{report} {}", bundle.log());
    is(&apply(&bundle, "new"), "live");
    assert!(bundle.log().contains("serves new as 4711:4711"), "{}", bundle.log());
    is(&apply(&bundle, "bad"), "refused");
    is(&apply(&bundle, "dies"), "rolled-back");
    let state = rules.state();
    let rules = state.iter().find(|(name, ..)| name == "rules").unwrap();
    assert_eq!((rules.1, rules.2, rules.3 & 0o777, rules.5.as_str()), (0, 0, 0o644, "new"));
    assert_eq!(state.len(), 2, "the file and its record: {state:?}");
}

#[test]
fn content_of_another_owner_is_refused_before_anything_is_touched() {
    for (directory, file) in [(0, 4711), (4711, 4711), (4711, 0)] {
        let (table, rules) = (Dir::new(), Rules::of(directory, file));
        let bundle = start(&table, &rules, &scratch_image()).ready();
        let before = (rules.state(), bundle.pids());
        let report = apply(&bundle, "new");
        assert_eq!((&report["outcome"], &report["exit"]), (&Value::from("refused"), &Value::from(1)), "{report}");
        assert!(report["error"].as_str().unwrap().contains("/data"), "{report}");
        assert_eq!((rules.state(), bundle.pids()), before, "{report}");
        eprintln!("{directory} {file}: {report}");
    }
}

#[test]
fn a_container_that_lacks_a_capability_for_users_exits_2_and_names_it() {
    let table = Dir::new();
    table.write("daemons.toml", TABLE);
    for (capabilities, lacking) in
        [("SETUID,SETGID", "CAP_KILL"), ("SETUID,KILL", "CAP_SETGID"), ("SETGID,KILL", "CAP_SETUID")]
    {
        let all = options(&table, capabilities);
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let bundle = Container::run(&all, &scratch_image(), &["init"]);
        wait_until("its end", || (!bundle.is_running()).then_some(()));
        assert_eq!(bundle.inspect("{{.State.ExitCode}}"), "2", "{}", bundle.log());
        let log = bundle.log();
        assert!(log.contains(&format!("needs {lacking};")) && log.lines().count() == 1, "{log}");
    }
}
