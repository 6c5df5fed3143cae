//! Attacks of a daemon that was taken over, run from inside a daemon of a real init: in its sandbox each fails with the error
//! that is expected, and without one it succeeds. An attack that never worked would prove nothing.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and its helpers are tests too")]

#[macro_use]
#[path = "../needs/mod.rs"]
mod needs;

#[allow(unused_imports, reason = "some is for a test in a real bundle")]
mod attacks;
#[path = "../harness/mod.rs"]
mod harness;
mod older;
mod terminal;

use std::collections::BTreeMap;
use std::net::TcpListener;

use attacks::{Attack, UNCOVERED, all_attacks};
use harness::{Bundle, Setup};
use terminal::Terminal;

/// alpha is taken over, beta is the victim; DIR/mirror shows beta's secrets a second time.
const TABLE: &str = r#"
[[daemon]]
name = "alpha"
command = ["EXE", "--exact", "the_program_that_attacks", "--nocapture", "--test-threads=1"]
config = { path = "DIR/alpha-rules/rules" }
SANDBOX
[[daemon]]
name = "beta"
command = ["sh", "-c", "echo data > DIR/beta/data; exec sleep 1000000001"]
config = { path = "DIR/beta-rules/rules" }
[daemon.sandbox]
write = ["DIR/beta"]
private = ["DIR/beta-secrets", "DIR/beta-later/key"]
[signals]
USR1 = { restart = "alpha" }
USR2 = { restart = "beta" }
"#;

const SANDBOX: &str = "[daemon.sandbox]\nwrite = ['DIR/alpha']\nbind = []\nconnect = []\nsessions = false\n";

const PREPARE: &str = "cd DIR; mkdir alpha alpha-rules beta beta-rules beta-secrets beta-later open open/heap mirror
    chmod 777 DIR alpha open
    echo rules > alpha-rules/rules; echo rules > beta-rules/rules; echo key > beta-secrets/key; echo open > open/file
    for n in 0 1 2 3 4 5 6 7; do : > open/heap/$n; done
    mount --bind beta-secrets mirror; exec \"$@\"";

/// What alpha attacks; OPEN is listened on, FREE isn't.
const PREY: &str = "PREY=own=DIR/alpha own-rules=DIR/alpha-rules/rules rules=DIR/beta-rules/rules secret=DIR/beta-secrets/key \
    mirror=DIR/mirror/key others=DIR/beta data=DIR/beta/data open=DIR/open table=DIR/table.toml terminal=TERMINAL \
    word=1000000001 another=beta open-port=OPEN free-port=FREE anothers-port=FREE go=DIR/go";

/// Without any capability, as a bundle is run.
const HARDENED: &[&str] = &["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"];

/// What there is to be attacked beside daemons.
struct World {
    terminal: Terminal,
    open: TcpListener,
    free: u16,
}

impl World {
    fn new() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { terminal: Terminal::new(), open: TcpListener::bind("127.0.0.1:0").unwrap(), free }
    }

    /// A bundle in which alpha attacks as soon as `DIR/go` is there; init is root, and has every capability.
    fn bundle(&self, sandbox: &str) -> Setup {
        let exe = std::env::current_exe().unwrap();
        let table = TABLE.replace("SANDBOX", sandbox).replace("EXE", exe.to_str().unwrap());
        let prey = PREY
            .replace("TERMINAL", self.terminal.path())
            .replace("OPEN", &self.open.local_addr().unwrap().port().to_string())
            .replace("FREE", &self.free.to_string());
        let prepare = ["sh", "-c", PREPARE, "-", "env", &prey];
        Setup::new(&table).wrapped(&prepare).env("ATTACKER", "all")
    }
}

/// Runs all attacks, and returns what became of each, by its name and the way it was run.
fn attacked(bundle: &Bundle) -> BTreeMap<(String, String), String> {
    bundle.wait_for_generation(0, 1);
    bundle.wait_for_generation(1, 1);
    bundle.wait_until("beta's data", || bundle.dir.join("beta/data").exists());
    bundle.write("go", "");
    bundle.wait_for("out", "that was all");
    attacks::results(&bundle.read("out"), "alpha")
}

#[test]
fn in_its_sandbox_each_attack_fails_with_the_expected_error() {
    let world = World::new();
    let bundle = world.bundle(SANDBOX).start();
    let all = attacked(&bundle);
    let sandbox = bundle.daemon(0)["sandbox"].clone();
    assert_eq!(sandbox["missing"], serde_json::json!([]), "this kernel can't enforce it: {sandbox}");
    let wrong = attacks::wrong(&all, all_attacks().chain(UNCOVERED), Attack::fails);
    assert!(wrong.is_empty(), "{wrong}\n{}", bundle.read("err"));
    assert_eq!(bundle.daemon(1)["state"], "running");
}

#[test]
fn without_a_sandbox_each_attack_succeeds_unless_init_refuses_it() {
    needs!(Root);
    let world = World::new();
    let bundle = world.bundle("").start();
    let all = attacked(&bundle);
    let wrong = attacks::wrong(&all, all_attacks().chain(UNCOVERED), |attack, _, got| attack.is_as_without(got, true));
    assert!(wrong.is_empty(), "{wrong}\n{}", bundle.read("err"));
    // What asked init for a start was heard, and what lingers holds nobody up.
    let asked = |text: &serde_json::Value| text.to_string().contains("attack-");
    bundle.wait_until("a request's outcome", || asked(&bundle.daemon(1)["requests"]));
    bundle.signal("USR2");
    bundle.wait_for_generation(1, 2);
}

#[test]
fn the_tables_of_attacks_in_the_docs_are_those_that_the_suite_prints() {
    let docs = include_str!("../../docs/security.md");
    for table in attacks::tables() {
        println!("{table}");
        let differs = table.lines().find(|line| !docs.lines().any(|other| other == *line));
        assert!(docs.contains(&table), "docs/security.md lacks it; the first line that differs: {differs:?}");
    }
}

/// beta's probe and beta's checker, and what `run-as` is given, say what they could read of alpha's.
const ASKED: &str = r#"
[[daemon]]
name = "alpha"
command = ["sleep", "1000"]
[daemon.sandbox]
private = ["DIR/secret"]
write = ["DIR/alpha"]
[[daemon]]
name = "beta"
command = ["sleep", "1000"]
ready = { exec = ["sh", "-c", "cat DIR/secret/key > DIR/beta/probed && exit 0; echo refused > DIR/beta/probed; exit 0"] }
config = { path = "DIR/rules/rules", check = ["sh", "-c", "cat DIR/secret/key > DIR/beta/checked || echo refused $(cat $0) > DIR/beta/checked", "{}"] }
settle = "10ms"
[daemon.sandbox]
write = ["DIR/beta"]
[[daemon]]
name = "gamma"
command = ["sleep", "1000"]
depends_on = ["beta"]
[[daemon]]
name = "delta"
command = ["sleep", "1000"]
"#;

#[test]
fn probes_checkers_and_run_as_run_in_their_daemons_sandbox() {
    let prepare =
        "cd DIR; mkdir -p alpha beta secret rules; echo key > secret/key; echo rules > rules/rules; exec \"$@\"";
    let bundle = Setup::new(ASKED).wrapped(&["sh", "-c", prepare, "-"]).start();
    bundle.wait_for_generation(2, 1);
    assert_eq!(bundle.read("beta/probed"), "refused\n");
    let key = bundle.dir.join("secret/key");
    let inside = |arguments: &[&str]| {
        let output = bundle.inside(&[&[harness::SIDECAR], arguments].concat()).output().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        (output.status.code(), text)
    };
    let run = |name: &str, command: &[&str]| inside(&[&["run-as", name, "--"], command].concat());
    let (code, text) = inside(&["restart", "beta"]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(bundle.read("beta/checked"), "refused rules\n");
    let read = ["cat", key.to_str().unwrap()];
    assert_eq!(run("alpha", &read), (Some(0), "key\n".to_owned()));
    assert_eq!(run("delta", &read), (Some(0), "key\n".to_owned()));
    let (code, text) = run("beta", &read);
    assert!(code == Some(1) && text.contains("Permission denied"), "{code:?} {text}");
    let (code, text) = run("beta", &["/no/such"]);
    assert!(code == Some(127) && text.contains("cannot execute \"/no/such\""), "{code:?} {text}");
}

/// Run by init, not by a person: it does nothing in a test run.
#[test]
fn the_program_that_attacks() {
    match std::env::var("ATTACKER").as_deref() {
        Err(_) => {}
        Ok("all") => attacks::all(&std::env::var("PREY").unwrap()),
        Ok(name) => attacks::one(name),
    }
}

/// gamma has a secret, and `DIR/way` leads to where beta may write, which has written a link there in an earlier life.
const PLANTS: &str = r#"
[[daemon]]
name = "alpha"
command = ["sh", "-c", "ln -sfn DIR/secret DIR/alpha/link; cat DIR/alpha/link/key && echo alpha reads; echo alpha ran; exec sleep 1000"]
[daemon.sandbox]
write = ["WRITE"]
[[daemon]]
name = "beta"
command = ["sleep", "1000"]
[daemon.sandbox]
write = ["DIR/beta"]
[[daemon]]
name = "gamma"
command = ["sleep", "1000"]
[daemon.sandbox]
private = ["DIR/secret"]
[signals]
USR1 = { restart = "alpha" }
"#;

fn planted(write: &str) -> Bundle {
    let prepare = "cd DIR; mkdir -p alpha beta secret; echo key > secret/key; ln -s DIR/beta way; ln -s DIR/secret beta/link; \
                   exec \"$@\"";
    Setup::new(&PLANTS.replace("WRITE", write)).wrapped(&["sh", "-c", prepare, "-"]).start()
}

#[test]
fn a_link_that_a_sibling_planted_widens_no_sandbox() {
    let bundle = planted("DIR/way/link");
    bundle.wait_for_generation(2, 1);
    for index in [0, 1] {
        bundle.wait_until("a failed start", || bundle.daemon(index)["state"] == "failed");
        assert_eq!(bundle.daemon(index)["last_exit"]["code"], 126);
    }
    let log = bundle.read("err");
    let why = "/beta/link is a symbolic link where a sandboxed daemon may write, so it isn't followed";
    assert_eq!(log.matches(why).count(), 2, "{log}");
    assert_eq!(bundle.read("out"), "");
}

#[test]
fn a_link_that_a_daemon_planted_itself_widens_no_later_sandbox_of_its_own() {
    let bundle = planted("DIR/alpha");
    bundle.wait_for("out", "alpha ran");
    bundle.signal("USR1");
    bundle.wait_until("alpha ran twice", || bundle.read("out").matches("alpha ran").count() == 2);
    assert!(!bundle.read("out").contains("alpha reads"), "{}", bundle.read("out"));
}

#[test]
fn if_a_sandbox_cannot_be_made_its_daemon_is_not_started() {
    let table = "[[daemon]]\nname = 'alpha'\ncommand = ['sh', '-c', 'echo alpha ran']\n\
                 [daemon.sandbox]\nwrite = ['DIR/no/such']\n";
    let mut bundle = Setup::new(table).start();
    assert_eq!(bundle.exit_code(), 126);
    let log = bundle.read("err");
    assert!(
        log.contains("cannot make its sandbox: it may write to") && log.contains("/no/such, which can't be opened"),
        "{log}"
    );
    assert_eq!(bundle.read("out"), "");
}

#[test]
fn the_last_part_of_a_daemons_write_is_made_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let table = "[[daemon]]\nname = 'alpha'\ncommand = ['sh', '-c', 'echo mine > DIR/made/file; exec sleep 1000']\n\
                 [daemon.sandbox]\nwrite = ['DIR/made']\n";
    let bundle = Setup::new(table).start();
    bundle.wait_until("its file", || bundle.read("made/file") == "mine\n");
    assert_eq!(std::fs::metadata(bundle.dir.join("made")).unwrap().permissions().mode() & 0o7777, 0o700);
}

#[test]
fn a_sandbox_on_a_mount_that_hangs_holds_up_its_daemon_and_not_init() {
    needs!(Root);
    let table = "grace = '1s'\n[[daemon]]\nname = 'alpha'\ncommand = ['sleep', '1000']\n\
                 [daemon.sandbox]\nwrite = ['DIR/hung/there']\n\
                 [[daemon]]\nname = 'beta'\ncommand = ['sleep', '1000']\n[signals]\nUSR2 = { restart = 'beta' }\n";
    let mut bundle = Setup::new(table).with_hung_mount().start();
    bundle.wait_for_generation(1, 1);
    bundle.signal("USR2");
    bundle.wait_for_generation(1, 2);
    assert_eq!(bundle.daemon(0)["state"], "starting");
    bundle.signal("TERM");
    assert_eq!(bundle.exit_code(), 143);
}

#[test]
fn an_interrupted_change_is_recovered_before_the_sandbox_is_made() {
    let table = "[[daemon]]\nname = 'alpha'\ncommand = ['sh', '-c', 'cat DIR/rules/rules; echo x >> DIR/rules/rules; exec sleep 1000']\n\
                 config = { path = 'DIR/rules/rules' }\n[daemon.sandbox]\nwrite = []\n";
    // A new file that a change has not put in place yet.
    let prepare = "cd DIR; mkdir rules; echo old > rules/rules; echo new > rules/.sidecar-new.rules; exec \"$@\"";
    let bundle = Setup::new(table).wrapped(&["sh", "-c", prepare, "-"]).start();
    bundle.wait_for("err", "Permission denied");
    bundle.wait_until("the leftover's end", || !bundle.dir.join("rules/.sidecar-new.rules").exists());
    assert_eq!(bundle.read("rules/rules"), "old\n");
    assert!(bundle.read("out").contains("[alpha] old"));
}
