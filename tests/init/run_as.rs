//! `run-as`: a command as a daemon's process is.

use std::process::{Command, Stdio};

use super::harness::{children_of, said, stat};
use super::{Bundle, Setup, TWO};

pub fn run_as(bundle: &Bundle, arguments: &[&str]) -> Command {
    bundle.applet(&[&["run-as"], arguments].concat())
}

fn ran(bundle: &Bundle, arguments: &[&str]) -> (i32, String, String) {
    said(&run_as(bundle, arguments).output().unwrap())
}

#[test]
fn a_command_gets_the_environment_of_the_daemon_and_not_the_callers() {
    let bundle = Setup::one("env | sort > DIR/env; exec sleep 1000").env("A_CREDENTIAL", "x=y").start();
    bundle.wait_until_started();
    bundle.wait_for("env", "PWD=");
    let output =
        run_as(&bundle, &["alpha", "--", "sh", "-c", "env | sort"]).env("OF_THE_CALLER", "1").output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    // The shells' own differ, and a command is none of the daemon's generations.
    let of = |text: &str| {
        text.lines()
            .filter(|l| !["_=", "PWD=", "SHLVL=", "SIDECAR_"].iter().any(|own| l.starts_with(own)))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(of(&out), of(&bundle.read("env")));
    assert!(out.contains("A_CREDENTIAL=x=y\n") && out.contains("\nNOTIFY_SOCKET=@"), "{out}");
    assert!(!out.contains("SIDECAR_DAEMON") && !out.contains("SIDECAR_GENERATION"), "{out}");
}

#[test]
fn a_command_has_its_own_session_and_default_signals() {
    let bundle = Bundle::start(TWO);
    bundle.wait_until_started();
    let mut command = Command::new("perl");
    let ignore = "$SIG{$_} = 'IGNORE' for qw(HUP PIPE CHLD NUM40); exec @ARGV";
    let inner = run_as(&bundle, &["alpha", "--", "sh", "-c", "cat /proc/$$/stat; cat /proc/self/status"]);
    command.args(["-e", ignore]).arg(inner.get_program()).args(inner.get_args());
    let out = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let (stat, masks) = out.split_once('\n').unwrap();
    let fields: Vec<&str> = stat.split(' ').collect();
    assert_eq!((fields[4], fields[5], fields[6]), (fields[0], fields[0], "0"), "{out}");
    for mask in ["SigBlk", "SigIgn", "SigCgt"] {
        assert!(masks.contains(&format!("{mask}:\t0000000000000000")), "{out}");
    }
}

#[test]
fn the_exit_code_is_the_commands_own_126_127_or_128_and_the_signal() {
    let bundle = Bundle::start(TWO);
    bundle.wait_until_started();
    let code = |command: &[&str]| ran(&bundle, &[&["beta", "--"], command].concat());
    assert_eq!(code(&["sh", "-c", "echo out; echo err >&2; exit 7"]), (7, "out\n".to_owned(), "err\n".to_owned()));
    assert_eq!(code(&["true"]).0, 0);
    assert_eq!(code(&["sh", "-c", "kill -TERM $$"]).0, 143);
    let (no_such, _, error) = code(&["no-such-program"]);
    assert_eq!(
        (no_such, error.as_str()),
        (127, "run-as: cannot execute \"no-such-program\": No such file or directory (os error 2)\n")
    );
    assert_eq!(code(&["/etc/passwd"]).0, 126);
}

#[test]
fn a_signal_to_run_as_reaches_the_command_and_its_children() {
    let bundle = Bundle::start(TWO);
    bundle.wait_until_started();
    let script = "trap 'exit 9' TERM; echo up; sleep 1000 & wait";
    let child = run_as(&bundle, &["alpha", "--", "sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let id = child.id().cast_signed();
    // nsenter has executed run-as in its own child: that is what a container's exec runs.
    let child_of = |pid: i32| children_of(pid).first().copied().unwrap_or(0);
    let (mut pid, mut sleep) = (0, 0);
    bundle.wait_until("run-as and its command", || {
        pid = child_of(id);
        sleep = child_of(child_of(pid));
        // Before its exec it still has the shell's handler, and would outlive its TERM.
        std::fs::read_to_string(format!("/proc/{sleep}/comm")).is_ok_and(|name| name == "sleep\n")
    });
    // SAFETY: kill(2) has no memory effects; nsenter has not reaped it.
    assert_eq!(unsafe { nix::libc::kill(pid, nix::libc::SIGTERM) }, 0);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(9));
    bundle.wait_until("its child's end", || stat(sleep, 3).is_none_or(|state| state == "Z"));
}

#[test]
fn an_unknown_name_is_usage_and_no_command_is_run() {
    let bundle = Setup::new(TWO).select("alpha").start();
    bundle.wait_until_started();
    let touch = bundle.dir.join("touched");
    let touch = touch.to_str().unwrap();
    let (code, _, error) = ran(&bundle, &["gamma", "--", "touch", touch]);
    assert_eq!((code, error.as_str()), (2, "run-as: no daemon \"gamma\" in the table; it has alpha, beta\n"));
    assert!(!bundle.dir.join("touched").exists());
    // One that isn't selected is in the table.
    assert_eq!(ran(&bundle, &["beta", "--", "touch", touch]).0, 0);
    assert!(bundle.dir.join("touched").exists());
    for arguments in [&["alpha"][..], &["alpha", "--"], &[], &["alpha", "ls", "-l"]] {
        assert_eq!(ran(&bundle, arguments).0, 2, "{arguments:?}");
    }
}
