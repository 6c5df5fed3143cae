//! The attacks of each daemon that the agent talks to, run in its place in a real bundle.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and its helpers are tests too")]

#[allow(dead_code, reason = "the attacks themselves are run by another program")]
mod attacks;
#[allow(dead_code, reason = "it belongs to other tests")]
#[path = "../containers/mod.rs"]
mod containers;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use attacks::{Attack, UNCOVERED, all_attacks};
use containers::{Container, Dir, docker, wait_until};

const TABLE: &str = include_str!("../../bundle/daemons.toml");

/// Who is taken over, and what it attacks. All of them lie in the same network namespace, where pipelock listens on 8888.
struct Taken {
    name: &'static str,
    command: &'static str,
    prey: &'static str,
}

const EGRESS: Taken = Taken {
    name: "egress",
    command: "/usr/local/bin/egress-entrypoint",
    prey: "own=/tmp/egress own-rules=/etc/sidecar/egress/routes.yaml rules=/etc/sidecar/pipelock/pipelock.yaml \
           secret=/var/lib/git-gate/secret/key mirror=/mirror/git-gate/secret/key others=/tmp/git-gate \
           data=/var/lib/git-gate/data another=git-gate word=--base-path=/var/lib/git-gate open-port=9418",
};
const GIT_GATE: Taken = Taken { name: "git-gate", command: "/usr/local/bin/git-gate-entrypoint", prey: FROM_GIT_GATE };
const SUPERVISE: Taken =
    Taken { name: "supervise", command: "/usr/local/bin/supervise-entrypoint", prey: FROM_SUPERVISE };
const FROM_GIT_GATE: &str = "own=/tmp/git-gate rules=/etc/sidecar/egress/routes.yaml secret=/var/lib/egress/secret/key \
           mirror=/mirror/egress/secret/key others=/tmp/egress data=/var/lib/egress/data \
           another=egress word=/opt/egress/bin/mitmdump open-port=9100";
const FROM_SUPERVISE: &str = "rules=/etc/sidecar/egress/routes.yaml secret=/var/lib/egress/secret/key \
           mirror=/mirror/egress/secret/key others=/tmp/egress data=/var/lib/egress/data \
           another=egress word=/opt/egress/bin/mitmdump open-port=9080";
const OF_ALL: &str =
    "open=/open table=/etc/sidecar/daemons.toml terminal=/dev/pts/0 free-port=8889 anothers-port=8888 go=/open/go";

/// The attacker, linked statically.
fn attacker() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let arch = std::env::consts::ARCH;
        let target = format!("{arch}-unknown-linux-gnu");
        let into = Path::new(env!("CARGO_TARGET_TMPDIR")).join("attacker");
        // An explicit target keeps the flag away from build scripts, which can't be static.
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--locked", "--example", "attacker", "--target", &target, "--target-dir"])
            .arg(&into)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            .status();
        assert!(status.unwrap().success());
        into.join(target).join("debug/examples/attacker")
    };
    BUILT.get_or_init(build).clone()
}

/// The built-in table with this daemon's command replaced, and its sandbox too unless it keeps that.
fn table(taken: &Taken, has_sandbox: bool) -> String {
    let command = format!("command = [\"{}\"]", taken.command);
    assert!(TABLE.contains(&command), "the built-in table starts {} by another command", taken.name);
    let prey = format!("{} {OF_ALL}", taken.prey);
    let words: Vec<&str> = ["/attacker/attacker"].into_iter().chain(prey.split_whitespace()).collect();
    let mut text = TABLE.replace(&command, &format!("command = {words:?}"));
    if !has_sandbox {
        let start = text.find("\"/attacker/attacker\"").unwrap();
        let from = start + text[start..].find("[daemon.sandbox]").unwrap();
        let to = from + text[from..].find("\n[").unwrap();
        text.replace_range(from..to, "");
    }
    text
}

/// A bundle in which it attacks, and what is beside it.
struct World {
    bundle: Container,
    /// What is mounted; the second is open to all.
    dirs: [Dir; 5],
}

fn start(taken: &Taken, has_sandbox: bool) -> World {
    let program = Dir::new();
    fs::copy(attacker(), program.path().join("attacker")).unwrap();
    let (open, egress, git_gate, rules) = (Dir::new(), Dir::new(), Dir::new(), Dir::new());
    fs::create_dir(open.path().join("heap")).unwrap();
    for n in 0..8 {
        open.write(&format!("heap-{n}"), "");
        fs::rename(open.path().join(format!("heap-{n}")), open.path().join(format!("heap/{n}"))).unwrap();
    }
    open.write("file", "open");
    for dir in [&egress, &git_gate] {
        fs::create_dir(dir.path().join("secret")).unwrap();
        fs::write(dir.path().join("secret/key"), "key").unwrap();
        dir.write("data", "data");
    }
    for (name, text) in [
        ("egress", include_str!("../../bundle/egress/routes.yaml")),
        ("pipelock", include_str!("../../bundle/pipelock/pipelock.yaml")),
    ] {
        let dir = rules.path().join(name);
        fs::create_dir(&dir).unwrap();
        let file = if name == "egress" { "routes.yaml" } else { "pipelock.yaml" };
        fs::write(dir.join(file), text).unwrap();
    }
    rules.write("daemons.toml", &table(taken, has_sandbox));
    let all = [&program, &open, &egress, &git_gate, &rules];
    // It all belongs to the bundle's user.
    for dir in all {
        assert!(Command::new("chown").args(["-R", "1000:1000"]).arg(dir.path()).status().unwrap().success());
    }
    let volumes = [
        program.at("/attacker:ro"),
        open.at("/open"),
        egress.at("/var/lib/egress"),
        egress.at("/mirror/egress"),
        git_gate.at("/var/lib/git-gate"),
        git_gate.at("/mirror/git-gate"),
        rules.at("/etc/sidecar"),
    ];
    // Docker's own filter refuses some attacks too; Kubernetes has none unless it is asked for.
    let mut options = vec!["--security-opt=seccomp=unconfined"];
    options.extend(volumes.iter().map(String::as_str));
    let bundle = Container::bundle(&options);
    World { bundle, dirs: [program, open, egress, git_gate, rules] }
}

/// Runs all attacks of that daemon.
fn attacked(taken: &Taken, has_sandbox: bool) -> (World, String) {
    let world = start(taken, has_sandbox);
    let bundle = &world.bundle;
    for daemon in ["egress", "pipelock", "git-gate", "supervise"].into_iter().filter(|name| *name != taken.name) {
        wait_until("its sibling's start", || (bundle.daemon(daemon)["state"] == "running").then_some(()));
    }
    // An operator's terminal, /dev/pts/0.
    docker(&["exec", "--detach", "--tty", &bundle.name, "sleep", "600"]);
    wait_until("the terminal", || (bundle.try_exec(&["test", "-c", "/dev/pts/0"]).0 == 0).then_some(()));
    let value = |key| taken.prey.split_whitespace().find_map(|word| word.strip_prefix(key)).unwrap();
    for port in [8888, value("open-port=").parse::<u16>().unwrap()] {
        let listens = format!(":{port:04X} 00000000:0000 0A");
        let look = || bundle.try_exec(&["grep", "-q", &listens, "/proc/net/tcp"]).0 == 0;
        wait_until("what it connects to", || look().then_some(()));
    }
    let argument = value("word=");
    wait_until("its prey", || {
        let all = bundle.try_exec(&["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'"]).1;
        all.lines().any(|line| line == argument).then_some(())
    });
    fs::write(world.dirs[1].path().join("go"), "").unwrap();
    let log = wait_until("the end of all attacks", || {
        let log = bundle.log();
        let last = log.lines().rev().find(|line| line.contains("] begins ") || line.contains("] attack "));
        // It takes the port in the moment in which nobody has it.
        if last.is_some_and(|line| line.contains(&attacks::TAKE_PORT.replace(' ', "-"))) {
            bundle.kill("USR1");
        }
        log.contains("that was all").then_some(log)
    });
    (world, log)
}

fn fails_in_its_sandbox(taken: &Taken) {
    let (world, log) = attacked(taken, true);
    let daemon = world.bundle.daemon(taken.name);
    assert_eq!(daemon["sandbox"]["missing"], serde_json::json!([]), "this kernel can't enforce it: {daemon}");
    let all = attacks::results(&log, taken.name);
    let wrong = attacks::wrong(&all, of(taken), Attack::fails);
    assert!(wrong.is_empty(), "{wrong}");
    // pipelock aside, which this test may have restarted.
    for sibling in ["egress", "git-gate", "supervise"].map(|name| world.bundle.daemon(name)) {
        assert_eq!((&sibling["state"], &sibling["generation"]), (&"running".into(), &1.into()), "{sibling}");
    }
}

fn succeeds_without_one(taken: &Taken) {
    let (_world, log) = attacked(taken, false);
    let all = attacks::results(&log, taken.name);
    let wrong = attacks::wrong(&all, of(taken), |attack, _, got| attack.is_as_without(got, false));
    assert!(wrong.is_empty(), "{wrong}");
}

fn of(taken: &Taken) -> impl Iterator<Item = &'static Attack> {
    let has = |key| taken.prey.split(' ').any(|word| word.starts_with(key));
    let (has_directory, has_config) = (has("own="), has("own-rules="));
    all_attacks().chain(UNCOVERED).filter(move |attack| attack.is_for(has_directory, has_config))
}

#[test]
fn egress_taken_over_gets_nowhere_in_its_sandbox() {
    fails_in_its_sandbox(&EGRESS);
}

#[test]
fn git_gate_taken_over_gets_nowhere_in_its_sandbox() {
    fails_in_its_sandbox(&GIT_GATE);
}

#[test]
fn supervise_taken_over_gets_nowhere_in_its_sandbox() {
    fails_in_its_sandbox(&SUPERVISE);
}

#[test]
fn egress_taken_over_without_a_sandbox_gets_all_that_the_table_says() {
    succeeds_without_one(&EGRESS);
}

#[test]
fn git_gate_taken_over_without_a_sandbox_gets_all_that_the_table_says() {
    succeeds_without_one(&GIT_GATE);
}

#[test]
fn supervise_taken_over_without_a_sandbox_gets_all_that_the_table_says() {
    succeeds_without_one(&SUPERVISE);
}
