//! Many bundles at once on real engines. They are the binary FROM scratch with busybox: what is looked at here is the
//! fleet. `scripts/test` builds the image and runs this.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and its helpers are tests too")]
#![allow(dead_code, reason = "what another test file needs of the containers")]

mod containers;
mod rng;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use containers::{Container, Dir, SIDECAR, scratch_image, unique, wait_until};
use rng::Rng;
use serde_json::{Value, json};

/// alpha writes what it serves to a file. Of new content a bundle makes what its BAD says.
const TABLE: &str = r#"
grace = "1s"
[[daemon]]
name = "alpha"
command = ["/busybox", "sh", "-c", '''
cd /etc/sidecar/pipelock
if [ ! -e rules ]; then
  printf old > rules
  [ "$BAD" != symlink ] || { /busybox mv rules real; /busybox ln -s real rules; }
fi
/busybox rm -f /tmp/ready; rules=$(/busybox cat rules)
[ "$BAD" = dies ] && [ "$rules" != old ] && exit 3
printf %s "$rules" > /tmp/serving
[ "$BAD" = unready ] && [ "$rules" != old ] || : > /tmp/ready
exec /busybox sleep 100000
''']
config = { path = "/etc/sidecar/pipelock/rules", check = ["/busybox", "sh", "-c", '[ "$BAD" != checker ]', "{}"] }
ready = { exec = ["/busybox", "test", "-e", "/tmp/ready"] }
settle = "100ms"
[[daemon]]
name = "beta"
command = ["/busybox", "sleep", "100000"]
[signals]
USR1 = { restart = "alpha" }
"#;

/// What a bundle tells of itself: on disk, served, the record, helpers at it, what else lies there. Those who are at it
/// are looked for first: what is read while one goes on is old by the time that it has ended.
const LOOK: &str = r#"
helpers=$(/busybox grep -al '^/proc/1/exe.helper' /proc/[0-9]*/cmdline | /busybox wc -l)
left=$(/busybox ls -A /etc/sidecar/pipelock | /busybox grep -c sidecar-)
/busybox cat /etc/sidecar/pipelock/rules; echo; /busybox cat /tmp/serving; echo
/busybox sed 's/.*"outcome":"\([a-z-]*\)".*/\1/' /etc/sidecar/pipelock/.rules.sidecar 2> /dev/null || echo none
echo; echo "$helpers"; echo "$left"
"#;

/// An engine's CLI, what it is called with, and what an apply is told of it.
#[derive(Clone)]
struct Engine {
    program: &'static str,
    image: String,
    environment: Vec<(&'static str, String)>,
    told: Vec<String>,
    /// The option that leads to another Engine.
    host: Option<String>,
    /// Where the stand-in for kubectl finds its pods.
    pods: Option<PathBuf>,
}

impl Engine {
    fn docker() -> Self {
        Self {
            program: "docker",
            image: scratch_image(),
            environment: Vec::new(),
            told: Vec::new(),
            host: None,
            pods: None,
        }
    }

    /// A stand-in for kubectl: what runs in its pods are Docker's containers.
    fn kubectl(dir: &Dir) -> Self {
        let (pods, calls) = (dir.path().join("pods"), dir.path().join("calls"));
        fs::create_dir(&pods).unwrap();
        let stand_in = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kubectl-stand-in");
        let environment = vec![
            ("PATH", format!("{stand_in}:{}", std::env::var("PATH").unwrap())),
            ("PODS", pods.display().to_string()),
            ("CALLS", calls.display().to_string()),
        ];
        let told = ["--via=kubectl", "-n", "agents"].map(str::to_owned).to_vec();
        Self { environment, told, pods: Some(pods), ..Self::docker() }
    }

    /// Podman with a storage of its own in `dir`, which holds the image under test. It runs what Docker runs: runc, within
    /// the limits that this machine has.
    fn podman(dir: &Dir) -> Self {
        let at = |name: &str| dir.path().join(name).display().to_string();
        let storage = format!(
            "[storage]\ndriver = \"overlay\"\ngraphroot = {:?}\nrunroot = {:?}\n",
            at("podman"),
            at("podman-run")
        );
        let containers = "[engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
             [containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n";
        let environment = vec![
            ("CONTAINERS_STORAGE_CONF", dir.write("storage.conf", &storage).display().to_string()),
            ("CONTAINERS_CONF", dir.write("containers.conf", containers).display().to_string()),
        ];
        let mut podman = Self { program: "podman", environment, ..Self::docker() };
        containers::docker(&["save", "--output", &at("image.tar"), &scratch_image()]);
        let loaded = podman.call(&["load", "--quiet", "--input", &at("image.tar")]);
        loaded.trim().rsplit(' ').next().unwrap().clone_into(&mut podman.image);
        podman
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        command.args(&self.host).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    fn call(&self, arguments: &[&str]) -> String {
        let (code, out, err) = containers::said(self.command().args(arguments));
        assert_eq!(code, 0, "{} {arguments:?}: {err}", self.program);
        out
    }
}

/// A second Engine on this machine, for as long as its handle lives: its socket, data and processes are its own, and so
/// are its mounts and its network, in which it makes a docker0. The first one's would be deleted by `--bridge=none`.
struct SecondEngine {
    dockerd: Option<Child>,
    dir: Dir,
}

impl SecondEngine {
    fn start() -> Self {
        let dir = Dir::new();
        // Where a containerd runs already, this one's would be the same. Whoever starts it may be killed.
        let script = "mkdir -p /run/containerd && mount -t tmpfs none /run/containerd && exec setpriv --pdeathsig TERM dockerd \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--net", "sh", "-c", script, "sh", "--iptables=false"]);
        let at = |option: &str, name: &str| format!("--{option}{}", dir.path().join(name).display());
        command.args([
            at("host=unix://", "socket"),
            at("data-root=", "data"),
            at("exec-root=", "run"),
            at("pidfile=", "pid"),
        ]);
        command.arg(format!("--config-file={}", dir.write("daemon.json", "{}").display()));
        let log = fs::File::create(dir.path().join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let path = std::env::var("PATH").unwrap_or_default();
        let dockerd = command.env("PATH", path + ":/usr/sbin:/sbin").spawn().unwrap();
        let mut engine = Self { dockerd: Some(dockerd), dir };
        wait_until("second Engine", || {
            let ended = engine.dockerd.as_mut().unwrap().try_wait().unwrap();
            let log = || fs::read_to_string(engine.dir.path().join("log")).unwrap_or_default();
            assert!(ended.is_none(), "a second Engine takes root, and does not start: {}", log());
            (containers::said(Command::new("docker").args([engine.host().as_str(), "version"])).0 == 0).then_some(())
        });
        engine
    }

    fn socket(&self) -> String {
        format!("unix://{}", self.dir.path().join("socket").display())
    }

    fn host(&self) -> String {
        format!("--host={}", self.socket())
    }

    fn stop(&mut self) {
        if let Some(mut dockerd) = self.dockerd.take() {
            let _ = Command::new("kill").arg(dockerd.id().to_string()).status();
            let _ = dockerd.wait();
        }
    }
}

impl Drop for SecondEngine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// One bundle, removed with its handle.
struct Bundle {
    engine: Engine,
    name: String,
}

#[derive(Debug, PartialEq, Eq)]
struct State {
    rules: String,
    serving: String,
    record: String,
    is_settled: bool,
}

impl Bundle {
    /// The one of the fleet `label` that comes as the `n`th, by its name.
    fn start(engine: &Engine, dir: &Dir, label: &str, n: usize, bad: &str) -> Self {
        let bundle = Self { engine: engine.clone(), name: format!("{label}-{n:02}") };
        let (fleet, kind) = (format!("--label=fleet={label}"), bad);
        let (table, bad) = (dir.at("/table"), format!("--env=BAD={bad}"));
        bundle.engine.call(&[
            "run",
            "--detach",
            "--name",
            &bundle.name,
            "--label=sidecar.schema=1",
            &fleet,
            &format!("--label=bad={kind}"),
            "--read-only",
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges",
            "--network=none",
            "--tmpfs=/tmp",
            "--tmpfs=/etc/sidecar/pipelock",
            "--volume=/bin/busybox:/busybox:ro",
            &table,
            "--env=SIDECAR_CONFIG=/table/daemons.toml",
            &bad,
            &bundle.engine.image,
            "init",
        ]);
        if let Some(pods) = &engine.pods {
            let labels = json!({ "sidecar.schema": "1", "fleet": label, "bad": kind });
            pod(pods, &bundle.name, &labels, &[("bundle", "/sbin/init")]);
        }
        bundle
    }

    fn state(&self) -> State {
        self.look().unwrap_or_else(|said| panic!("{}: {said}", self.name))
    }

    /// An error: what was said instead, as by one that has just been started.
    fn look(&self) -> Result<State, String> {
        let mut command = self.engine.command();
        let (_, out, err) = containers::said(command.args(["exec", &self.name, "/busybox", "sh", "-c", LOOK]));
        let lines: Vec<&str> = out.lines().filter(|line| !line.is_empty()).collect();
        let [rules, serving, record, helpers, left] = lines[..] else { return Err(out + &err) };
        Ok(State {
            rules: rules.to_owned(),
            serving: serving.to_owned(),
            record: record.to_owned(),
            is_settled: helpers == "0" && left == "0",
        })
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = containers::said(self.engine.command().args(["rm", "--force", "--volumes", &self.name]));
    }
}

/// Writes what the stand-in for kubectl says of a pod that runs, of these containers and their programs.
fn pod(pods: &Path, name: &str, labels: &Value, containers: &[(&str, &str)]) {
    let spec = |(name, program): &(&str, &str)| json!({ "name": name, "image": "i", "command": [program] });
    let status = |(name, _): &(&str, &str)| {
        let id = format!("containerd://{name}");
        json!({ "name": name, "containerID": id, "state": { "running": { "startedAt": "2026-11-24T10:00:00Z" } } })
    };
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": "agents", "uid": name, "labels": labels },
        "spec": { "containers": containers.iter().map(spec).collect::<Vec<_>>() },
        "status": {
            "phase": "Running",
            "containerStatuses": containers.iter().map(status).collect::<Vec<_>>()
        }
    });
    fs::write(pods.join(format!("{name}.json")), pod.to_string()).unwrap();
}

/// `work` on each, four at a time.
fn each<T: Sync, R: Send>(items: &[T], work: impl Fn(usize, &T) -> R + Sync) -> Vec<R> {
    let share = |first: usize| {
        let mine = items.iter().enumerate().skip(first).step_by(4);
        mine.map(|(n, item)| (n, work(n, item))).collect::<Vec<_>>()
    };
    let share = &share;
    let mut all: Vec<(usize, R)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|first| scope.spawn(move || share(first))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    all.sort_by_key(|(n, _)| *n);
    all.into_iter().map(|(_, result)| result).collect()
}

struct Fleet {
    label: String,
    bundles: Vec<Bundle>,
    engine: Engine,
    _dir: Dir,
}

/// What one apply said, by bundle, once its summary was seen to say the same.
#[derive(Debug)]
struct Said {
    exit: i32,
    outcomes: BTreeMap<String, String>,
    errors: BTreeMap<String, String>,
}

impl Said {
    fn of(&self, outcome: &str) -> BTreeSet<&str> {
        self.outcomes.iter().filter(|(_, told)| *told == outcome).map(|(name, _)| name.as_str()).collect()
    }
}

impl Fleet {
    fn start(engine: &Engine, bad: &[&str]) -> Self {
        Self::labelled(engine, bad, unique("fleet"))
    }

    fn labelled(engine: &Engine, bad: &[&str], label: String) -> Self {
        Self::with_table(TABLE, engine, bad, label)
    }

    /// No signal has a rule.
    fn without_rules(engine: &Engine, bad: &[&str]) -> Self {
        let (table, _) = TABLE.split_once("[signals]").unwrap();
        Self::with_table(table, engine, bad, unique("fleet"))
    }

    fn with_table(table: &str, engine: &Engine, bad: &[&str], label: String) -> Self {
        let dir = Dir::new();
        dir.write("daemons.toml", table);
        let bundles = each(bad, |n, bad| Bundle::start(engine, &dir, &label, n, bad));
        let fleet = Self { label, bundles, engine: engine.clone(), _dir: dir };
        fleet.wait_until_settled();
        fleet
    }

    fn wait_until_settled(&self) -> Vec<State> {
        each(&self.bundles, |_, bundle| {
            wait_until("bundle that is settled", || {
                bundle.look().ok().filter(|state| state.is_settled && state.rules == state.serving)
            })
        })
    }

    fn name(&self, n: usize) -> &str {
        &self.bundles[n].name
    }

    fn names(&self) -> Vec<&str> {
        self.bundles.iter().map(|bundle| bundle.name.as_str()).collect()
    }

    fn label(&self) -> String {
        self.by("fleet", &self.label)
    }

    /// The option that chooses by this label.
    fn by(&self, key: &str, value: &str) -> String {
        let option = if self.engine.pods.is_some() { "--selector" } else { "--label" };
        format!("{option}={key}={value}")
    }

    /// In a process group of its own.
    fn begin(&self, content: &str, arguments: &[&str]) -> Child {
        self.begin_by(&["apply-allowlist", "--file=-"], content, arguments)
    }

    fn begin_by(&self, applet: &[&str], content: &str, arguments: &[&str]) -> Child {
        let mut command = Command::new(SIDECAR);
        command.env("SIDECAR_DOCKER", self.engine.program).envs(self.engine.environment.clone());
        command.args(applet).arg("--json").args(&self.engine.told).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), content.as_bytes()).unwrap();
        child
    }

    fn change(&self, content: &str, arguments: &[&str]) -> Said {
        ended(self.begin(content, arguments))
    }

    /// By `apply --daemon alpha`.
    fn change_by_name(&self, content: &str, arguments: &[&str]) -> Said {
        ended(self.begin_by(&["apply", "--daemon=alpha", "--file=-"], content, arguments))
    }

    /// The same without new content.
    fn restart_by_name(&self, arguments: &[&str]) -> Said {
        ended(self.begin_by(&["apply", "--daemon=alpha"], "", arguments))
    }

    /// How often each one's alpha was restarted on request, and beta.
    fn restarts(&self) -> Vec<(u64, u64)> {
        let of = |bundle: &Bundle| {
            let status = bundle.engine.call(&["exec", &bundle.name, "/proc/1/exe", "status", "--json"]);
            let status = serde_json::from_str::<Value>(&status).unwrap();
            let of = |daemon: usize| status["daemons"][daemon]["restarts"].as_u64().unwrap();
            (of(0), of(1))
        };
        self.bundles.iter().map(of).collect()
    }

    /// Which of them have this content, after nobody is at them any more.
    fn with(&self, content: &str) -> BTreeSet<&str> {
        let states = self.wait_until_settled();
        let with = self.bundles.iter().zip(states).filter(|(_, state)| state.rules == content);
        with.map(|(bundle, _)| bundle.name.as_str()).collect()
    }
}

fn ended(child: Child) -> Said {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let summary = lines.pop().unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let who = |line: &Value| {
        let all = [&line["context"], &line["bundle"]];
        all.into_iter().filter_map(Value::as_str).collect::<Vec<_>>().join("/")
    };
    let told = |key: &str| lines.iter().map(|line| (who(line), text(&line[key]))).collect();
    let said = Said { exit: output.status.code().unwrap(), outcomes: told("outcome"), errors: told("error") };
    assert_eq!(said.outcomes.len(), lines.len(), "one line a bundle: {lines:?}");
    let mut groups: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, outcome) in &said.outcomes {
        groups.entry(outcome.clone()).or_default().insert(name.clone());
    }
    let in_summary: BTreeMap<String, BTreeSet<String>> = serde_json::from_value(summary["summary"].clone()).unwrap();
    assert_eq!(in_summary, groups, "the summary says what the lines say");
    assert_eq!((&summary["exit"], &summary["bundles"]), (&said.exit.into(), &lines.len().into()));
    said
}

/// Twenty, of which three are bad, each in its way.
fn bad_at(bad: [usize; 3]) -> Vec<&'static str> {
    let kind = |n| bad.iter().position(|at| *at == n).map_or("no", |kind| ["checker", "dies", "symlink"][kind]);
    (0..20).map(kind).collect()
}

/// With and without canary and rollback, by name and by label: who is changed, who goes back, who is never touched.
fn twenty_of_which_three_are_bad(engine: &Engine) {
    let fleet = Fleet::start(engine, &bad_at([5, 9, 13]));
    let (all, label) = (fleet.names(), fleet.label());
    let bad = BTreeSet::from([fleet.name(5), fleet.name(9), fleet.name(13)]);
    let good: BTreeSet<&str> = all.iter().copied().filter(|name| !bad.contains(name)).collect();
    let refused = BTreeSet::from([fleet.name(5), fleet.name(13)]);

    let said = fleet.change("first", &all);
    assert_eq!((said.exit, said.of("live"), said.of("refused")), (1, good.clone(), refused.clone()), "{said:?}");
    assert_eq!(said.of("rolled-back"), BTreeSet::from([fleet.name(9)]));
    assert_eq!(fleet.with("first"), good);

    let said = fleet.change("second", &[&label, "--canary=3"]);
    assert_eq!((said.exit, said.of("live"), said.of("refused")), (1, good.clone(), refused), "{said:?}");
    assert_eq!(fleet.with("second"), good);

    let mut canary = vec!["--canary=2", fleet.name(9), fleet.name(0)];
    canary.extend(all.iter().filter(|name| **name != fleet.name(9) && **name != fleet.name(0)));
    let said = fleet.change("third", &canary);
    assert_eq!((said.exit, said.of("live").len(), said.of("untouched").len()), (1, 1, 18), "{said:?}");
    let spared = &said.errors[fleet.name(1)];
    assert_eq!(*spared, format!("untouched: {} failed; nothing was changed or sent", fleet.name(9)));
    assert_eq!(fleet.with("third"), BTreeSet::from([fleet.name(0)]));

    // By what can't go wrong together: those of the label that are good. Then all of them.
    let no = fleet.by("bad", "no");
    let said = fleet.change("fourth", &[&label, &no, "--rollback-all", "--canary=1", "--parallel=4"]);
    assert_eq!((said.exit, said.of("live")), (0, good.clone()), "{said:?}");
    assert_eq!(fleet.with("fourth"), good);
    let (first, last) =
        (all[..5].iter().copied().collect::<BTreeSet<_>>(), all[10..].iter().copied().collect::<BTreeSet<_>>());
    for arguments in [&[label.as_str()][..], &all] {
        let said = fleet.change("fifth", &[&["--rollback-all", "--canary=5", "--parallel=4"], arguments].concat());
        assert_eq!((said.exit, said.of("live").len(), said.outcomes.len()), (1, 0, 20), "{said:?}");
        // The sixth is refused once the first five are proven. What is beside it may have come so far or not.
        assert_eq!(said.of("refused"), BTreeSet::from([fleet.name(5)]), "{said:?}");
        assert!(said.of("rolled-back").is_superset(&first) && said.of("untouched").is_superset(&last), "{said:?}");
        assert_eq!(fleet.with("fifth"), BTreeSet::new());
        assert_eq!(fleet.with("fourth"), good);
    }
}

#[test]
fn twenty_bundles_three_of_them_bad_end_as_the_summary_says() {
    twenty_of_which_three_are_bad(&Engine::docker());
}

#[test]
fn twenty_of_podmans_of_which_three_are_bad_end_in_the_same_way() {
    let dir = Dir::new();
    twenty_of_which_three_are_bad(&Engine::podman(&dir));
}

#[test]
fn twenty_pods_three_of_them_bad_end_as_the_summary_says() {
    let dir = Dir::new();
    twenty_of_which_three_are_bad(&Engine::kubectl(&dir));
    // kubectl has no kill.
    let calls = fs::read_to_string(dir.path().join("calls")).unwrap();
    let verbs: BTreeSet<&str> = calls.lines().map(|call| call.split('"').nth(3).unwrap()).collect();
    assert_eq!(verbs, BTreeSet::from(["get", "exec"]));
}

#[test]
fn apply_daemon_with_a_file_changes_a_fleet_without_a_signal_rule() {
    let fleet = Fleet::without_rules(&Engine::docker(), &["no", "dies", "checker", "no"]);
    let said = fleet.change_by_name("new", &[&fleet.label()]);
    let good = BTreeSet::from([fleet.name(0), fleet.name(3)]);
    assert_eq!((said.exit, said.of("live")), (1, good.clone()), "{said:?}");
    assert_eq!(said.of("rolled-back"), BTreeSet::from([fleet.name(1)]), "{said:?}");
    assert_eq!(said.of("refused"), BTreeSet::from([fleet.name(2)]), "{said:?}");
    assert_eq!(fleet.with("new"), good);
}

#[test]
fn apply_daemon_restarts_that_daemon_alone_in_each_bundle_of_a_fleet() {
    let fleet = Fleet::without_rules(&Engine::docker(), &["no", "no", "no"]);
    let said = fleet.restart_by_name(&[&fleet.label()]);
    assert_eq!((said.exit, said.of("live").len()), (0, 3), "{said:?}");
    assert_eq!(fleet.restarts(), [(1, 0); 3]);
}

#[test]
fn a_canary_of_apply_daemon_that_fails_spares_the_rest() {
    let fleet = Fleet::without_rules(&Engine::docker(), &["no", "dies", "no", "no"]);
    let said = fleet.change_by_name("new", &["--canary=2", &fleet.label()]);
    assert_eq!((said.exit, said.of("rolled-back")), (1, BTreeSet::from([fleet.name(1)])), "{said:?}");
    assert_eq!(said.of("untouched"), BTreeSet::from([fleet.name(2), fleet.name(3)]), "{said:?}");
    let restarts: Vec<u64> = fleet.restarts().into_iter().map(|(alpha, _)| alpha).collect();
    assert_eq!((fleet.with("new"), &restarts[2..]), (BTreeSet::from([fleet.name(0)]), &[0, 0][..]));
}

#[test]
fn a_canary_of_apply_daemon_that_is_refused_spares_the_rest() {
    let fleet = Fleet::without_rules(&Engine::docker(), &["checker", "no", "no"]);
    let said = fleet.restart_by_name(&["--canary=1", &fleet.label()]);
    assert_eq!((said.exit, said.of("refused")), (1, BTreeSet::from([fleet.name(0)])), "{said:?}");
    assert_eq!(said.of("untouched"), BTreeSet::from([fleet.name(1), fleet.name(2)]), "{said:?}");
    assert_eq!(fleet.restarts(), [(0, 0); 3]);
}

#[test]
fn apply_daemon_with_rollback_all_takes_every_bundle_back_if_one_fails() {
    let fleet = Fleet::without_rules(&Engine::docker(), &["no", "no", "dies"]);
    let together = ["--rollback-all", &fleet.label()];
    let said = fleet.change_by_name("new", &together);
    assert_eq!((said.exit, said.of("rolled-back").len()), (1, 3), "{said:?}");
    assert_eq!(fleet.with("old").len(), 3);
}

#[test]
fn apply_daemon_with_rollback_all_is_live_everywhere_if_none_fails() {
    let fleet = Fleet::without_rules(&Engine::docker(), &["no", "no", "no"]);
    let said = fleet.change_by_name("new", &["--rollback-all", "--canary=1", &fleet.label()]);
    assert_eq!((said.exit, said.of("live").len()), (0, 3), "{said:?}");
    assert_eq!(fleet.with("new").len(), 3);
}

#[test]
fn apply_daemon_with_rollback_all_and_no_file_is_a_usage_error() {
    let fleet = Fleet::without_rules(&Engine::docker(), &["no"]);
    let mut command = Command::new(SIDECAR);
    let (code, _, err) = containers::said(command.args(["apply", "--daemon=alpha", "--rollback-all", fleet.name(0)]));
    assert_eq!((code, err.contains("--rollback-all needs --file")), (2, true), "{err}");
    assert_eq!(fleet.restarts(), [(0, 0)]);
}

#[test]
fn through_kubectl_apply_daemon_with_a_file_changes_a_fleet() {
    let dir = Dir::new();
    let fleet = Fleet::without_rules(&Engine::kubectl(&dir), &["no", "dies", "checker", "no"]);
    let said = fleet.change_by_name("new", &["--canary=1", &fleet.label()]);
    let good = BTreeSet::from([fleet.name(0), fleet.name(3)]);
    assert_eq!((said.exit, said.of("live")), (1, good.clone()), "{said:?}");
    assert_eq!(said.of("rolled-back"), BTreeSet::from([fleet.name(1)]), "{said:?}");
    assert_eq!(said.of("refused"), BTreeSet::from([fleet.name(2)]), "{said:?}");
    assert_eq!(fleet.with("new"), good);
    let said = fleet.change_by_name("newer", &["--rollback-all", &fleet.label()]);
    assert_eq!((said.exit, said.of("live").len()), (1, 0), "{said:?}");
    assert_eq!(fleet.with("new"), good);
}

#[test]
fn through_kubectl_apply_daemon_without_a_file_restarts_it_once() {
    let dir = Dir::new();
    let fleet = Fleet::without_rules(&Engine::kubectl(&dir), &["no", "no"]);
    let said = fleet.restart_by_name(&[&fleet.label()]);
    assert_eq!((said.exit, said.of("live").len()), (0, 2), "{said:?}");
    assert_eq!(fleet.restarts(), [(1, 0); 2]);
    let said = fleet.restart_by_name(&["--signal-only", &fleet.label()]);
    assert_eq!((said.exit, said.of("sent").len()), (0, 2), "{said:?}");
    wait_until("restart", || (fleet.restarts() == [(2, 0); 2]).then_some(()));
}

#[test]
fn through_podman_strangers_are_left_alone() {
    let dir = Dir::new();
    let podman = Engine::podman(&dir);
    let fleet = Fleet::start(&podman, &["no", "no", "no"]);
    podman.call(&["pause", fleet.name(1)]);
    podman.call(&["stop", "--time=2", fleet.name(2)]);
    let stranger = Bundle { engine: podman.clone(), name: unique("stranger") };
    let name = format!("--name={}", stranger.name);
    let sleep = [
        "--network=none",
        "--volume=/bin/busybox:/busybox:ro",
        "--entrypoint=/busybox",
        &podman.image,
        "sleep",
        "1000",
    ];
    podman.call(&[&["run", "--detach", &name][..], &sleep].concat());
    let all = [fleet.name(0), fleet.name(1), fleet.name(2), &stranger.name, "nobody"];
    let said = fleet.change("new", &all);
    assert_eq!((said.exit, said.of("live")), (4, BTreeSet::from([fleet.name(0)])), "{said:?}");
    assert_eq!(said.of("not-a-sidecar-bundle"), BTreeSet::from([stranger.name.as_str()]), "{said:?}");
    assert_eq!(said.of("unreachable"), BTreeSet::from([fleet.name(1), fleet.name(2), "nobody"]), "{said:?}");
    let told = |name: &str, words: &str| assert!(said.errors[name].starts_with(words), "{said:?}");
    told(fleet.name(1), "it is paused");
    told(fleet.name(2), "it is not running (exited)");
    told("nobody", "no such container");
    podman.call(&["unpause", fleet.name(1)]);
    assert_eq!(fleet.bundles[1].state().rules, "old");
}

#[test]
fn two_engines_are_one_fleet_by_their_contexts() {
    let bridge = || containers::docker(&["network", "inspect", "bridge", "--format={{.Id}} {{json .IPAM}}"]);
    let (was, is_up) = (bridge(), |name: &str| Path::new("/sys/class/net").join(name).exists());
    let had_docker0 = is_up("docker0");
    let mut second = SecondEngine::start();
    let config = Dir::new();
    let first_host = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned());
    let here = Engine {
        environment: vec![("DOCKER_CONFIG", config.path().display().to_string())],
        told: ["--context=first", "--context=second"].map(str::to_owned).to_vec(),
        ..Engine::docker()
    };
    for (name, host) in [("first", &first_host), ("second", &second.socket()), ("again", &first_host)] {
        here.call(&["context", "create", name, &format!("--docker=host={host}")]);
    }
    let there = Engine { host: Some(second.host()), ..here.clone() };
    let image = config.path().join("image.tar").display().to_string();
    here.call(&["save", "--output", &image, &here.image]);
    there.call(&["load", "--quiet", "--input", &image]);

    // Their names are the same: each is served in both.
    let near = Fleet::start(&here, &["no", "no", "dies"]);
    let far = Fleet::labelled(&there, &["no", "checker", "no"], near.label.clone());
    let at = |context: &str, numbers: &[usize]| {
        numbers.iter().map(|n| format!("{context}/{}", near.name(*n))).collect::<BTreeSet<_>>()
    };
    let both = |a: BTreeSet<String>, b: BTreeSet<String>| a.union(&b).cloned().collect::<BTreeSet<_>>();
    let of = |said: &Said, outcome| said.of(outcome).into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
    for (content, arguments) in
        [("first", vec![near.label()]), ("second", near.names().iter().map(|n| (*n).to_owned()).collect())]
    {
        let said = near.change(content, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let live = both(at("first", &[0, 1]), at("second", &[0, 2]));
        assert_eq!((said.exit, of(&said, "live")), (1, live), "{said:?}");
        assert_eq!(of(&said, "rolled-back"), at("first", &[2]), "{said:?}");
        assert_eq!(of(&said, "refused"), at("second", &[1]), "{said:?}");
        assert_eq!((near.with(content).len(), far.with(content).len()), (2, 2));
    }
    let no = near.by("bad", "no");
    let said = near.change("third", &[&near.label(), &no, "--rollback-all"]);
    assert_eq!((said.exit, of(&said, "live").len()), (0, 4), "{said:?}");
    // The three before it are proven before the second's other one is refused.
    let said = near.change("fourth", &["--rollback-all", "--canary=3", near.name(0), near.name(1)]);
    assert_eq!((said.exit, of(&said, "rolled-back")), (1, both(at("first", &[0, 1]), at("second", &[0]))), "{said:?}");
    assert_eq!((near.with("third").len(), far.with("third").len()), (2, 2));
    // The first that is named is the canary, also where it is nowhere.
    let said = near.change("never", &["--canary=1", "nobody", near.name(0)]);
    assert_eq!((said.exit, of(&said, "untouched")), (3, both(at("first", &[0]), at("second", &[0]))), "{said:?}");
    // Two contexts may lead to one Engine.
    let said = near.change("fifth", &["--context=again", &near.label(), &no]);
    assert_eq!((said.exit, of(&said, "live").len(), said.outcomes.len()), (0, 4, 4), "{said:?}");

    drop(far);
    second.stop();
    let said = near.change("sixth", &[&near.label(), &no]);
    assert_eq!((said.exit, of(&said, "live")), (3, at("first", &[0, 1])), "{said:?}");
    assert_eq!((bridge(), is_up("docker0")), (was, had_docker0), "the first Engine's network is as it was");
}

#[test]
fn through_kubectl_only_the_bundles_container_is_entered() {
    let dir = Dir::new();
    let engine = Engine::kubectl(&dir);
    let pods = engine.pods.clone().unwrap();
    let fleet = Fleet::start(&engine, &["no"]);
    let (bundle, labels) = (fleet.name(0), json!({ "sidecar.schema": "1", "fleet": &fleet.label }));
    pod(&pods, bundle, &json!({}), &[("agent", "sh"), ("main", "/usr/bin/init")]);
    pod(&pods, "stranger", &labels, &[("agent", "sh"), ("helper", "preinit")]);
    pod(&pods, "ended", &json!({}), &[("main", "/usr/bin/init")]);
    let apply = |arguments: &[&str]| {
        let mut command = Command::new(SIDECAR);
        command.envs(engine.environment.clone()).args(["apply-allowlist", "--json", "--via=kubectl"]);
        let (code, out, err) = containers::said(command.args(arguments));
        assert_eq!(err, "");
        let outcome = |line: &str| serde_json::from_str::<Value>(line).unwrap()["outcome"].as_str().unwrap().to_owned();
        (code, out.lines().map(outcome).collect::<Vec<_>>())
    };
    let one = |code, outcome: &str| (code, vec![outcome.to_owned()]);
    let not_ours = || one(4, "not-a-sidecar-bundle");
    let agents = "--namespace=agents";
    assert_eq!(apply(&[agents, "stranger"]), not_ours());
    assert_eq!(apply(&[agents, "-c", "helper", "stranger"]), not_ours());
    assert_eq!(apply(&[agents, "-c", "agent", bundle]), not_ours());
    assert_eq!(apply(&[agents, "-l", &format!("fleet={}", fleet.label)]), not_ours());
    assert_eq!(apply(&[agents, "-c", "nobody", bundle]), one(1, "refused"));
    assert_eq!(apply(&[agents, "nobody"]), one(3, "unreachable"));
    assert_eq!(apply(&[agents, "--context=no:where", bundle]), one(3, "unreachable"));
    assert_eq!(apply(&["-n", "other", "--all"]), one(3, "unreachable"));
    assert_eq!(apply(&[agents, "-l", "fleet=none"]), one(3, "unreachable"));
    let calls = || fs::read_to_string(dir.path().join("calls")).unwrap();
    assert!(!calls().contains("exec"), "{}", calls());
    assert_eq!(apply(&[agents, "ended"]), one(3, "unreachable"));

    let restarts = || {
        let status = containers::docker(&["exec", bundle, "/proc/1/exe", "status", "--json"]);
        serde_json::from_str::<Value>(&status).unwrap()["daemons"][0]["restarts"].as_u64().unwrap()
    };
    assert_eq!(apply(&[agents, bundle, "--context", "here"]), one(0, "live"));
    assert_eq!(restarts(), 1);
    assert_eq!(apply(&[agents, "--signal-only", "-c", "main", bundle]), one(0, "sent"));
    wait_until("restart", || (restarts() == 2).then_some(()));
    let (_, _, log) = containers::said(Command::new("docker").args(["logs", bundle]));
    assert!(log.contains("received SIGUSR1 from pid ") && !log.contains("outside of this"), "{log}");
}

/// The first connection breaks after hello, go, proven and end.
fn wherever_the_connection_breaks(dir: &Dir, fleet: &mut Fleet, change: fn(&Fleet, &str, &[&str]) -> Said) {
    for words in 0..=4 {
        let _ = fs::remove_file(dir.path().join("calls-lost"));
        fleet.engine.environment.retain(|(name, _)| *name != "LOSES");
        fleet.engine.environment.push(("LOSES", words.to_string()));
        let new = format!("after {words}");
        let said = change(fleet, &new, &["--rollback-all", &fleet.label()]);
        assert!(dir.path().join("calls-lost").exists() && said.of("unsettled").is_empty(), "{words}: {said:?}");
        assert_eq!(said.of("live"), fleet.with(&new), "{words}: {said:?}");
        assert_eq!((said.exit == 0, said.of("live").len() == 2), (words == 4, words == 4), "{words}: {said:?}");
        assert!(words > 2 || said.of("live").is_empty(), "{words}: {said:?}");
    }
}

#[test]
fn wherever_kubectl_loses_its_connection_the_report_is_true() {
    let dir = Dir::new();
    let mut fleet = Fleet::start(&Engine::kubectl(&dir), &["no", "no"]);
    wherever_the_connection_breaks(&dir, &mut fleet, Fleet::change);
}

#[test]
fn wherever_kubectl_loses_its_connection_apply_daemon_reports_the_truth() {
    let dir = Dir::new();
    let mut fleet = Fleet::without_rules(&Engine::kubectl(&dir), &["no", "no"]);
    wherever_the_connection_breaks(&dir, &mut fleet, Fleet::change_by_name);
}

/// Makes or changes what a `ConfigMap`'s mount looks like: its files are links through `..data`, which is swapped as a whole.
fn config_map(dir: &Path, version: &str, rules: &str) {
    fs::create_dir_all(dir.join(version)).unwrap();
    fs::write(dir.join(version).join("rules"), rules).unwrap();
    symlink(version, dir.join("..new")).unwrap();
    fs::rename(dir.join("..new"), dir.join("..data")).unwrap();
    let _ = symlink("..data/rules", dir.join("rules"));
}

#[test]
fn a_config_map_is_proven_in_place_and_cannot_be_replaced() {
    let (dir, map) = (Dir::new(), Dir::new());
    dir.write("daemons.toml", TABLE);
    config_map(map.path(), "..1", "old");
    let mount = map.at("/etc/sidecar/pipelock:ro");
    let options = ["--read-only", "--cap-drop=ALL", "--network=none", "--tmpfs=/tmp", &dir.at("/table"), &mount];
    let more = ["--volume=/bin/busybox:/busybox:ro", "--env=SIDECAR_CONFIG=/table/daemons.toml"];
    let bundle = Container::run(&[&options[..], &more].concat(), &scratch_image(), &["init"]);
    wait_until("alpha", || (bundle.try_exec(&["/proc/1/exe", "status", "--ready"]).0 == 0).then_some(()));
    let apply = |arguments: &[&str]| {
        let (code, out, err) =
            containers::said(Command::new(SIDECAR).arg("apply-allowlist").args(arguments).arg(&bundle.name));
        (code, out + &err)
    };
    let serving = || bundle.try_exec(&["/busybox", "cat", "/tmp/serving"]).1;
    let new = dir.write("new", "new").display().to_string();
    let (code, said) = apply(&["--file", &new]);
    assert!(code == 1 && said.contains("is a symlink; put a file there"), "{said}");
    assert_eq!(serving(), "old");

    config_map(map.path(), "..2", "newer");
    let (code, said) = apply(&[]);
    assert_eq!((code, serving().as_str()), (0, "newer"), "{said}");
}

fn interrupt(host: &Child) {
    assert!(Command::new("kill").args(["-INT", &host.id().to_string()]).status().unwrap().success());
}

#[test]
fn after_a_ctrl_c_nothing_new_begins_and_what_is_under_way_goes_back() {
    let fleet = Fleet::start(&Engine::docker(), &["unready", "no", "unready", "no", "no"]);
    let host = fleet.begin("new", &["--timeout=60s", "--parallel=2", &fleet.label()]);
    // The one between them ends meanwhile, and makes room for the third.
    for n in [0, 2] {
        wait_until("new content", || (fleet.bundles[n].state().serving == "new").then_some(()));
    }
    interrupt(&host);
    let said = ended(host);
    assert_eq!((said.exit, said.of("live")), (1, BTreeSet::from([fleet.name(1)])), "{said:?}");
    assert_eq!(said.of("rolled-back"), BTreeSet::from([fleet.name(0), fleet.name(2)]), "{said:?}");
    assert_eq!(said.errors[fleet.name(4)], "untouched: interrupted; nothing was changed or sent");
    assert_eq!(fleet.with("new"), BTreeSet::from([fleet.name(1)]));
}

#[test]
fn together_all_wait_for_the_last_and_its_time_is_that_of_all() {
    let fleet = Fleet::start(&Engine::docker(), &["no", "no", "unready"]);
    let together = ["--rollback-all", "--parallel=1", &fleet.label()];
    let said = fleet.change("new", &[&together[..], &["--timeout=3s"]].concat());
    assert_eq!((said.exit, said.of("rolled-back").len()), (1, 3), "{said:?}");
    assert!(said.errors.values().all(|e| e.contains("the time was up before the last one was proven")), "{said:?}");

    let host = fleet.begin("new", &[&together[..], &["--timeout=60s"]].concat());
    for bundle in &fleet.bundles {
        wait_until("new content", || (bundle.state().serving == "new").then_some(()));
    }
    // Proven long since, and not committed.
    let first = fleet.bundles[0].state();
    assert_eq!((first.record.as_str(), first.is_settled), ("interrupted", false));
    interrupt(&host);
    let said = ended(host);
    assert_eq!((said.exit, said.of("rolled-back").len()), (1, 3), "{said:?}");
    assert_eq!(fleet.with("old").len(), 3);
}

#[test]
fn a_host_killed_at_any_moment_leaves_no_bundle_in_between() {
    let fleet = Fleet::start(&Engine::docker(), &["no"; 8]);
    let (label, all) = (fleet.label(), fleet.names().into_iter().collect::<BTreeSet<_>>());
    let mut was = "old".to_owned();
    for seed in 1..=20_u64 {
        let new = format!("content {seed}");
        let how: &[&str] = [&[][..], &["--rollback-all"], &["--canary=2"]][usize::try_from(seed % 3).unwrap()];
        let mut host = fleet.begin(&new, &[how, &[label.as_str(), "--parallel=4"]].concat());
        let millis = Rng::new(seed).below(1200);
        // No condition: at any moment.
        thread::sleep(Duration::from_millis(millis));
        host.kill().unwrap();
        host.wait().unwrap();
        let states = fleet.wait_until_settled();
        for (bundle, state) in fleet.bundles.iter().zip(&states) {
            assert!(state.rules == was || state.rules == new, "seed {seed}: {}: {state:?}", bundle.name);
            assert_ne!(state.record, "interrupted", "seed {seed}: {}: {state:?}", bundle.name);
        }
        let done = fleet.bundles.iter().zip(&states).filter(|(_, state)| state.rules == new);
        let done: BTreeSet<&str> = done.map(|(bundle, _)| bundle.name.as_str()).collect();
        println!("seed {seed}: killed after {millis} ms {how:?}: {} of {} changed", done.len(), all.len());
        let said = fleet.change(&new, &[&label]);
        assert_eq!((said.exit, said.of("unchanged")), (0, done.clone()), "seed {seed}: {said:?}");
        assert_eq!(said.of("live"), all.difference(&done).copied().collect(), "seed {seed}: {said:?}");
        was = new;
    }
    assert_eq!(fleet.with(&was), all);
}
