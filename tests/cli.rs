//! The binary without a container: dispatch, `--install`, usage, `check`, `status` and `apply` where there is no
//! bundle, or one that lies.

#![allow(clippy::unwrap_used, reason = "clippy knows tests by their attribute, not the helpers beside them")]

mod harness;
#[macro_use]
mod needs;

use std::env::consts::ARCH;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use harness::{SIDECAR, end_of, said};
use sidecar::protocol::PROTOCOL;

/// A directory of the test's own, gone with it.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("cli-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// With a stand-in for the docker CLI that notes its calls; `bundle` is the shell code that plays the bundle.
    fn docker(&self, bundle: &str) -> Command {
        let mut command = Command::new(SIDECAR);
        command.env("SIDECAR_DOCKER", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/docker-stand-in"));
        command.env("CALLS", self.join("calls")).env("BUNDLE", bundle);
        command
    }

    /// The same for kubectl: the pod b1.
    fn kubectl(&self, bundle: &str) -> Command {
        let pod = r#"{"metadata":{"name":"b1","uid":"u"},"spec":{"containers":[{"name":"c","command":["/sbin/init"]}]},
            "status":{"phase":"Running","containerStatuses":[{"name":"c","containerID":"i","state":{"running":{}}}]}}"#;
        self.write("b1.json", pod);
        let stand_in = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kubectl-stand-in");
        let mut command = Command::new(SIDECAR);
        command.env("PATH", format!("{stand_in}:{}", std::env::var("PATH").unwrap())).env("PODS", &self.0);
        command.env("CALLS", self.join("calls")).env("BUNDLE", bundle);
        command
    }

    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.join("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    harness::wait_until(what, String::new, condition);
}

fn run<S: AsRef<OsStr>>(command: &mut Command, args: &[S]) -> (i32, String, String) {
    let command = command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    said(&end_of(command.spawn().unwrap()))
}

fn sidecar<S: AsRef<OsStr>>(args: &[S]) -> (i32, String, String) {
    run(&mut Command::new(SIDECAR), args)
}

fn called_as(name: &OsStr, args: &[&str]) -> (i32, String, String) {
    run(Command::new(SIDECAR).arg0(name), args)
}

#[test]
fn the_applet_is_the_exact_base_name_or_else_the_first_argument() {
    for name in ["check", "/usr/local/bin/check", "./check"] {
        assert_eq!(called_as(name.as_ref(), &[]).0, 0, "{name}");
    }
    for name in ["exe", "/proc/1/exe", "preinit", "check.sh", "recheck", "Check", ""] {
        let (code, out, _) = called_as(name.as_ref(), &["check"]);
        assert!(code == 0 && out.contains("built-in table"), "{name}");
    }
    // An applet's name goes before the first argument.
    assert_eq!(called_as("check".as_ref(), &["status"]).0, 2);
    // But where /proc/1/exe can't be executed, init's may be the only path that is known.
    assert_eq!(called_as("/sbin/init".as_ref(), &["status"]).0, 4);
    assert_eq!(called_as("/sbin/init".as_ref(), &["init"]).0, 2);
}

#[test]
fn anything_else_prints_the_applet_list_and_exits_2() {
    for args in [&[][..], &["preinit"], &["init.sh"], &["--nonsense"], &["--list", "more"], &["--install"], &["help"]] {
        let (code, out, err) = sidecar(args);
        assert!(code == 2 && out.is_empty() && !err.is_empty(), "{args:?}: {code} {out}{err}");
    }
    assert!(sidecar(&["init.sh"]).2.contains("  apply-egress "));
}

#[test]
fn a_name_that_is_not_utf_8_is_unknown_and_no_crash() {
    let odd = OsStr::from_bytes(b"\xffinit");
    assert_eq!(called_as(odd, &["--version"]).0, 0);
    assert_eq!(sidecar(&[odd]).0, 2);
    let (code, _, err) = sidecar(&[OsString::from("check"), odd.to_owned()]);
    assert!(code == 2 && err.lines().count() == 1, "{err}");
}

#[test]
fn an_error_is_one_line_that_moves_no_cursor_whatever_it_quotes() {
    let dir = Dir::new();
    let unknown_key = dir.write("a.toml", "[[daemon]]\nname='a'\ncommand=['a']\n\"\\u001b[2J\\nz\" = 1\n");
    for args in [
        &["check", unknown_key.to_str().unwrap()][..],
        &["check", "/nowhere\u{1b}[2J\nz"],
        &["check", "--\u{1b}[2J\nz"],
        &["apply-allowlist", "--\u{1b}[2J\nz", "b1"],
        &["--install", "/nowhere\u{1b}[2J\nz"],
    ] {
        let (code, out, err) = sidecar(args);
        assert!(code != 0 && out.is_empty() && err.lines().count() == 1, "{args:?}: {err}");
        assert!(err.contains("\\u{1b}[2J") && !err.contains('\u{1b}'), "{err}");
    }
}

#[test]
fn an_argument_that_is_not_utf_8_is_a_usage_error_of_its_applet() {
    let odd = OsStr::from_bytes(b"\xff");
    for applet in ["apply", "apply-allowlist", "apply-egress", "restart", "stop", "start", "signal"] {
        let (code, out, err) = sidecar(&[applet.as_ref(), odd]);
        assert!(code == 2 && out.is_empty() && err.starts_with(&format!("{applet}: ")), "{err}");
        let (code, out, err) = sidecar(&[applet.as_ref(), odd, "--json".as_ref()]);
        let object: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, err.as_str(), &object["bundle"], &object["exit"]), (2, "", &().into(), &2.into()));
        assert_eq!((&object["applet"], &object["outcome"]), (&applet.into(), &"usage".into()));
    }
}

#[test]
fn the_version_names_the_commit_and_the_target() {
    let here = env!("CARGO_MANIFEST_DIR");
    let git = |what| {
        let output = Command::new("git").args(["-C", here, "rev-parse", what]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    };
    let said = sidecar(&["--version"]).1;
    let commit = if git("--show-toplevel") == here { git("HEAD") } else { "unknown".to_owned() };
    assert!(said.starts_with(&format!("sidecar {} (commit {commit}", env!("CARGO_PKG_VERSION"))), "{said}");
    assert!(said.ends_with(&format!(", {ARCH}-unknown-linux-gnu)\n")), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn list_and_help_go_to_stdout() {
    let (code, out, err) = sidecar(&["--list"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(
        out,
        "init\napply-allowlist\napply-egress\napply\nstatus\nrestart\nstop\nstart\nsignal\nrun-as\ncheck\n"
    );
    assert_eq!(sidecar(&["-h"]), sidecar(&["--help"]));
    let others = "apply-allowlist apply-egress apply status restart stop start signal run-as check";
    for applet in others.split(' ') {
        let (code, out, err) = sidecar(&[applet, "--help"]);
        assert_eq!((code, err.as_str()), (0, ""), "{applet}");
        assert_eq!(sidecar(&[applet, "-h"]).1, out);
        for promise in ["Exit codes", "  2  "] {
            assert!(out.contains(promise), "{applet}: {out}");
        }
    }
}

#[test]
fn a_closed_stdout_is_silent_and_a_full_one_is_told() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(SIDECAR).arg("--list").stdout(writer).output().unwrap();
    assert_eq!(said(&output), (0, String::new(), String::new()));
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let (code, _, err) = said(&Command::new(SIDECAR).arg("--list").stdout(full).output().unwrap());
    assert!(code == 1 && err.contains("cannot write to stdout"), "{code} {err}");
}

#[test]
fn install_makes_a_link_for_each_applet_and_replaces_its_own_older_ones() {
    let dir = Dir::new();
    symlink("/gone/sidecar", dir.join("init")).unwrap();
    symlink("../sidecar-0.9", dir.join("status")).unwrap();
    for _ in 0..2 {
        let (code, _, err) = sidecar(&["--install", dir.0.to_str().unwrap()]);
        assert_eq!((code, err.as_str()), (0, ""));
        let names = fs::read_dir(&dir.0).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        let all = "apply apply-allowlist apply-egress check init restart run-as signal start status stop";
        assert_eq!(names.join(" "), all);
        for name in names {
            assert_eq!(fs::read_link(dir.0.join(name)).unwrap(), Path::new(SIDECAR));
        }
    }
    assert_eq!(run(&mut Command::new(dir.join("check")), &[] as &[&str]).0, 0);
    assert_eq!(sidecar(&[format!("--install={}", dir.0.display())]).0, 0);
}

#[test]
fn install_replaces_nobody_elses_file_and_then_does_nothing_at_all() {
    let dir = Dir::new();
    dir.write("check", "mine");
    symlink("/lib/systemd/systemd", dir.join("init")).unwrap();
    let (code, _, err) = sidecar(&["--install", dir.0.to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(err.contains("/check,") || err.contains("/check:"), "{err}");
    assert!(err.contains("/init,") && err.contains("no link was made"), "{err}");
    assert_eq!(fs::read_to_string(dir.join("check")).unwrap(), "mine");
    assert_eq!(fs::read_link(dir.join("init")).unwrap(), Path::new("/lib/systemd/systemd"));
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 2);
    assert_eq!(sidecar(&["--install", dir.join("none").to_str().unwrap()]).0, 1);
}

#[test]
fn check_says_what_a_table_means_and_where_it_is_wrong() {
    let dir = Dir::new();
    let text = "grace = '1m'\n[[daemon]]\nname = 'a'\ncommand = ['a']\nconfig = { path = '/a' }\n[signals]\nHUP = { forward = 'a' }\n";
    let good = dir.write("good.toml", text);
    let good = good.to_str().unwrap();
    let (code, out, err) = sidecar(&["check", good]);
    assert!(code == 0 && out.contains("HUP      is forwarded to a once it has a handler"), "{out}");
    assert!(err.starts_with(&format!("{good}: warning: ")) && err.contains("stop_grace_period: 62s"), "{err}");
    for args in [&["check", "--config", good][..], &["check", &format!("--config={good}")]] {
        assert_eq!(sidecar(args), (code, out.clone(), err.clone()));
    }
    assert_eq!(run(Command::new(SIDECAR).env("SIDECAR_CONFIG", good), &["check"]), (code, out, err));
    let bad = dir.write("bad.toml", &text.replace("forward = 'a'", "forward = 'b'"));
    let (code, out, err) = sidecar(&["check", bad.to_str().unwrap()]);
    assert_eq!((code, out.as_str(), err.lines().count()), (2, "", 1));
    assert!(err.contains("bad.toml:7: "), "{err}");
    assert_eq!(sidecar(&["check", good, "--config", good]).0, 2);
    assert_eq!(sidecar(&["check", dir.join("none").to_str().unwrap()]).0, 2);
    assert_eq!(sidecar(&["check", dir.0.to_str().unwrap()]).0, 2);
}

#[test]
fn check_looks_for_programs_only_if_it_is_asked_about_what_is_here() {
    let dir = Dir::new();
    let config = dir.write("config", "");
    let text = format!(
        "[[daemon]]\nname = 'a'\ncommand = ['sh']\nready = {{ exec = ['/no/probe'] }}\n\
         config = {{ path = '{}', check = ['no-such-checker', '{{}}'] }}\n\
         [[daemon]]\nname = 'b'\ncommand = ['./b']\nconfig = {{ path = '/no/config' }}\n",
        config.display()
    );
    let table = dir.write("table.toml", &text);
    let table = table.to_str().unwrap();
    let (code, out, err) = sidecar(&["check", table]);
    assert_eq!((code, err.as_str()), (0, ""));
    let (here_code, here_out, err) = sidecar(&["check", "--here", table]);
    assert_eq!((here_code, here_out), (0, out));
    let warnings = [
        "ready.exec of \"a\": cannot execute \"/no/probe\": No such file or directory (os error 2)",
        "config.check of \"a\": cannot execute \"no-such-checker\": No such file or directory (os error 2)",
        "command of \"b\": cannot execute \"./b\": No such file or directory (os error 2)",
        "config.path of \"b\": /no/config: No such file or directory (os error 2)",
    ];
    assert_eq!(err, warnings.map(|warning| format!("{table}: warning: {warning}\n")).concat());
}

#[test]
fn check_here_looks_for_users_variables_and_directories() {
    let dir = Dir::new();
    let variables = dir.write("variables", "A=b\nexport C=secret\n");
    let text = format!(
        "[[daemon]]\nname = 'a'\ncommand = ['sh']\nuser = 'no-such-user'\nenv_file = '/no/file'\nworking_dir = '/no/directory'\n\
         [[daemon]]\nname = 'b'\ncommand = ['sh']\nuser = '0:no-such-group'\nenv_file = '{}'\n\
         [[daemon]]\nname = 'c'\ncommand = ['sh']\nuser = '54321'\nworking_dir = '/'\n[daemon.sandbox]\nwrite = ['/no/place']\n",
        variables.display()
    );
    let table = dir.write("table.toml", &text);
    let table = table.to_str().unwrap();
    let (code, out, err) = sidecar(&["check", table]);
    assert_eq!((code, err.lines().count()), (0, 1), "{err}");
    assert!(err.contains("\"a\" and 2 others have a `user`, so init must be root with CAP_SETUID"), "{err}");
    let (here_code, here_out, err) = sidecar(&["check", "--here", table]);
    assert_eq!((here_code, here_out), (0, out));
    for warning in [
        "working_dir of \"a\": /no/directory: No such file or directory (os error 2)",
        "write of \"c\": /no/place: No such file or directory (os error 2)",
        "user of \"a\": /etc/passwd has no user \"no-such-user\"; add it to the image, or write its number (uid)",
        "user of \"b\": /etc/group has no group \"no-such-group\"; add it to the image, or write its number (gid)",
        "\"a\": cannot read its env_file /no/file: No such file or directory (os error 2)",
        &format!(
            "\"b\": its env_file {}, line 2: the part before `=` isn't a valid name; write KEY=value, without `export`",
            variables.display()
        ),
    ] {
        assert!(err.contains(&format!("{table}: warning: {warning}\n")), "{warning}\nis not in\n{err}");
    }
    assert!(!err.contains("of \"c\": /etc/passwd") && !err.contains("secret"), "{err}");
}

#[test]
fn check_warns_of_a_directory_to_be_made_on_a_read_only_mount() {
    let dir = Dir::new();
    let parent = dir.join("parent");
    fs::create_dir(&parent).unwrap();
    let sandbox = format!("[daemon.sandbox]\nwrite = ['{}']\n", parent.join("made").display());
    let table = dir.write("table.toml", &format!("[[daemon]]\nname = 'a'\ncommand = ['sh']\n{sandbox}"));
    let on = |options: &str| {
        let script = "mount -t tmpfs -o \"$1\" none \"$2\" && exec \"$3\" check --here \"$4\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--map-root-user", "sh", "-c", script, "-", options]).arg(&parent).arg(SIDECAR);
        let output = command.arg(&table).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(on("rw"), "");
    let place = parent.display();
    assert_eq!(
        on("ro"),
        format!(
            "{}: warning: write of \"a\": {place}/made isn't there, and can't be made since {place} is read-only; mount something \
             writable at one of the two\n",
            table.display()
        )
    );
}

#[test]
fn status_outside_of_a_bundle_exits_4() {
    for args in [&["status"][..], &["status", "--json", "--ready"]] {
        let (code, out, err) = sidecar(args);
        assert_eq!((code, out.as_str(), err.lines().count()), (4, "", 1), "{err}");
        assert!(err.contains("PID 1"), "{err}");
    }
    assert_eq!(sidecar(&["status", "--json=1"]).0, 2);
}

#[test]
fn without_a_docker_cli_each_bundle_is_unreachable() {
    needs!(Native("a program that is not there counts as one that ran and exited 127: vfork is a fork"));
    let (code, out, err) = run(Command::new(SIDECAR).env("PATH", "/nowhere"), &["apply-egress", "b1", "b2", "b1"]);
    assert_eq!((code, out.as_str()), (3, ""), "{err}");
    let lines: Vec<&str> = err.lines().collect();
    let [b1, b2, summary] = lines[..] else { panic!("{err}") };
    assert!(b1.starts_with("b1: ") && b2.starts_with("b2: "), "{err}");
    assert!(summary.starts_with("apply-egress: 2 bundles: 2 unreachable; "), "{err}");
    assert!(err.contains("nothing was sent") && err.contains("SIDECAR_DOCKER"), "{err}");
}

#[test]
fn a_usage_error_exits_2_on_one_line_and_docker_is_not_called() {
    let dir = Dir::new();
    for args in [
        &["apply-allowlist"][..],
        &["apply-allowlist", "good", "/b1"],
        &["apply-allowlist", ""],
        &["apply-allowlist", "--", "-b"],
        &["apply-allowlist", "--json=1", "b1"],
        &["apply-allowlist", "--signal", "HUP", "b1"],
        &["apply-allowlist", "--dry-run", "b1"],
        &["apply-allowlist", "--force", "b1"],
        &["apply-allowlist", "--all", "b1"],
        &["apply-allowlist", "--all", "--label=a=b"],
        &["apply-allowlist", "--label", "a"],
        &["apply-allowlist", "--parallel=0", "b1"],
        &["apply-allowlist", "--canary=0", "b1"],
        &["apply-allowlist", "--canary=1", "--signal-only", "b1"],
        &["apply-allowlist", "--rollback-all", "b1"],
        &["apply-allowlist", "--rollback-all", "--file=/dev/null", "--dry-run", "b1"],
        &["apply-allowlist", "--context=-H", "b1"],
        &["apply-allowlist", "--via=nomad", "b1"],
        &["apply-allowlist", "--via=kubectl"],
        &["apply-allowlist", "--via=kubectl", "--label=a=b"],
        &["apply-allowlist", "--via=kubectl", "-l", "a=b", "b1"],
        &["apply-allowlist", "--via=kubectl", "-l", "", "--context=/"],
        &["apply-allowlist", "--via=kubectl", "-n", "a b", "b1"],
        &["apply-allowlist", "-n", "agents", "b1"],
        &["apply-allowlist", "-c", "bundle", "b1"],
        &["apply-allowlist", "-l", "a=b"],
        &["apply-allowlist", "--file=/dev/null", "--signal-only", "b1"],
        &["apply-allowlist", "--file=/dev/null", "--show-content", "b1"],
        &["apply-allowlist", "--file=/nowhere/at/all", "b1"],
        &["apply-egress", "--timeout", "soon", "b1"],
        &["apply-egress", "--timeout=0s", "b1"],
        &["apply-egress", "--timeout=18446744073709551615m", "b1"],
        &["apply", "b1"],
        &["apply", "--signal", "TERM", "b1"],
        &["apply", "--signal", "10", "b1"],
    ] {
        let (code, out, err) = run(&mut dir.docker("true"), args);
        assert_eq!((code, out.as_str(), err.lines().count()), (2, "", 1), "{args:?}: {err}");
        let mut json = args.to_vec();
        json.insert(1, "--json");
        let (code, out, err) = run(&mut dir.docker("true"), &json);
        assert_eq!((code, err.as_str(), out.lines().count()), (2, "", 1), "{args:?}: {out}");
        let object: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((&object["bundle"], &object["outcome"]), (&().into(), &"usage".into()));
    }
    assert_eq!(dir.calls(), [] as [&str; 0]);
}

/// Shell code of a bundle that says hello and go, then `then`.
fn hello(then: &str) -> String {
    let target = r#""target":{"action":"restart","daemon":"pipelock","before":{"pid":17,"generation":1},"seq":0}"#;
    let hello = format!(r#"echo '{{"protocol":{PROTOCOL},"version":"1.0.0","reply":"hello",{target}}}'; read a"#);
    format!(r#"{hello}; echo '{{"step":"go",{target},"grace_ms":0}}'; read b; {then}"#)
}

/// Shell code of a bundle that says hello, then `then`.
fn hello_only(then: &str) -> String {
    hello("").split_once("echo '{\"step\":\"go\"").unwrap().0.to_owned() + then
}

/// Shell code of a bundle that is live after the signal.
fn live() -> String {
    let after = r#""after":{"pid":31,"generation":2},"siblings_moved":[],"checked":true"#;
    let times = r#""wait_ms":0,"check_ms":0,"back_ms":0"#;
    hello(&format!(r#"echo '{{"step":"end","outcome":"live",{after},{times}}}'"#))
}

#[test]
fn the_good_case_takes_three_calls_of_docker() {
    let dir = Dir::new();
    let (code, out, err) = run(&mut dir.docker(&live()), &["apply-allowlist", "b1", "b1"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("b1: live: ") && out.contains("pid 17 -> 31, generation 1 -> 2"), "{out}");
    assert_eq!(dir.calls(), ["inspect", "exec", "kill"]);
}

/// Runs it by way of perl, which has this signal ignored.
fn with_ignored(signal: &str, command: &Command) -> Command {
    let mut perl = Command::new("perl");
    perl.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    perl.args(["-e", "$SIG{shift()} = 'IGNORE'; exec @ARGV", signal, SIDECAR]);
    perl
}

#[test]
fn a_caller_that_ignores_sigchld_loses_no_call_of_docker() {
    let dir = Dir::new();
    let (code, out, err) = run(&mut with_ignored("CHLD", &dir.docker(&live())), &["apply-allowlist", "b1"]);
    assert!(code == 0 && out.starts_with("b1: live: "), "{out}{err}");
}

#[test]
fn an_int_that_the_caller_ignores_stays_ignored() {
    let dir = Dir::new();
    let bundle = format!(": > \"$CALLS-asked\"; while [ ! -e \"$CALLS-go-on\" ]; do sleep 0.05; done; {}", live());
    let mut host = with_ignored("INT", &dir.docker(&bundle));
    let host = host.args(["apply-allowlist", "b1"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("its question", || dir.join("calls-asked").exists());
    for _ in 0..2 {
        assert!(Command::new("kill").args(["-INT", &host.id().to_string()]).status().unwrap().success());
    }
    dir.write("calls-go-on", "");
    let (code, out, err) = said(&host.wait_with_output().unwrap());
    assert!(code == 0 && out.starts_with("b1: live: "), "{out}{err}");
}

#[test]
fn whatever_hangs_each_step_takes_no_longer_than_was_asked_for() {
    let hang = "exec sleep 1000";
    // Who is there, the helper's first word, its go-ahead, the proof.
    let steps = [("1000", "true".to_owned()), ("0", hang.to_owned()), ("0", hello_only(hang)), ("0", hello(hang))];
    let apply = |inspect: &str, bundle: &str, file: &[&str]| {
        let dir = Dir::new();
        let args = [&["apply-allowlist", "--timeout=1s", "b1"], file].concat();
        let (code, _, err) = run(dir.docker(bundle).env("INSPECT_TAKES", inspect), &args);
        assert_ne!(code, 0, "{err}");
    };
    std::thread::scope(|scope| {
        for (inspect, bundle) in &steps {
            scope.spawn(|| apply(inspect, bundle, &[]));
            scope.spawn(|| apply(inspect, bundle, &["--file=/dev/null"]));
        }
    });
}

#[test]
fn the_wait_for_the_go_ahead_counts_what_is_recovered_first() {
    let dir = Dir::new();
    // Longer than all that --timeout gives it.
    let recovers = live().replacen("read a;", r#"read a; echo '{"step":"recovering","within_ms":60000}'; sleep 6;"#, 1);
    let (code, out, err) = run(&mut dir.docker(&recovers), &["apply-allowlist", "--timeout=1s", "b1"]);
    assert!(code == 0 && out.starts_with("b1: live: "), "{out}{err}");
}

#[test]
fn an_engine_that_lacks_a_field_of_inspect_is_asked_for_the_whole_of_it() {
    let dir = Dir::new();
    let (code, out, err) = run(dir.docker(&live()).env("OLD_ENGINE", "1"), &["apply-allowlist", "b1"]);
    assert!(code == 0 && out.starts_with("b1: live: "), "{out}{err}");
    assert_eq!(dir.calls(), ["inspect", "inspect", "exec", "kill"]);
}

#[test]
fn a_stop_signal_that_does_not_stop_sidecar_is_noted() {
    let dir = Dir::new();
    let (code, out, err) = run(dir.docker(&live()).env("STOP_SIGNAL", "SIGUSR1"), &["apply-allowlist", "b1"]);
    assert_eq!((code, out.lines().count(), err.lines().count()), (0, 1, 1), "{out}{err}");
    assert!(err.starts_with("b1: note: ") && err.contains("SIGUSR1") && err.contains("STOPSIGNAL SIGTERM"), "{err}");
    let args = ["apply-allowlist", "--json", "b1"];
    let (code, out, err) = run(dir.docker(&live()).env("STOP_SIGNAL", "SIGRTMIN+3"), &args);
    let object: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, err.as_str(), &object["stop_signal"]), (0, "", &"SIGRTMIN+3".into()));
    let (_, out, _) = run(dir.docker(&live()).env("STOP_SIGNAL", "SIGQUIT"), &args);
    assert!(!out.contains("stop_signal"), "{out}");
}

#[test]
fn the_exit_code_is_that_of_the_change_also_if_stdout_is_full() {
    let dir = Dir::new();
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for json in [&[][..], &["--json"]] {
        let mut host = dir.docker(&live());
        let (code, _, err) = said(&host.args(["apply-allowlist", "b1"]).args(json).stdout(full()).output().unwrap());
        assert!(code == 0 && err.contains("cannot write to stdout") && err.lines().count() == 1, "{code} {err}");
    }
    let dead = hello(
        r#"echo '{"step":"end","outcome":"refused","why":{"reason":"stopping"},"after":null,"siblings_moved":null,"checked":null,"wait_ms":0,"check_ms":0,"back_ms":0}'"#,
    );
    let (code, _, err) =
        said(&dir.docker(&dead).args(["apply-allowlist", "--json", "b1"]).stdout(full()).output().unwrap());
    assert!(code == 1 && err.contains("cannot write to stdout"), "{code} {err}");
}

#[test]
fn a_helper_that_is_killed_before_it_answers_is_asked_once_more() {
    let dir = Dir::new();
    let once = format!("[ -e \"$CALLS-killed\" ] || {{ : > \"$CALLS-killed\"; exit 137; }}; {}", live());
    let (code, out, err) = run(&mut dir.docker(&once), &["apply-allowlist", "b1"]);
    assert!(code == 0 && out.starts_with("b1: live: "), "{out}{err}");
    assert_eq!(dir.calls(), ["inspect", "exec", "exec", "kill"]);
    let dir = Dir::new();
    let (code, _, err) = run(&mut dir.docker("exit 137"), &["apply-allowlist", "b1"]);
    assert!(
        code == 3 && err.contains("was killed before it sent anything") && err.contains("nothing was sent"),
        "{err}"
    );
    assert_eq!(dir.calls(), ["inspect", "exec", "exec"]);
}

#[test]
fn why_the_helper_cannot_be_executed_is_told_even_from_dockers_stdout() {
    let words = "OCI runtime exec failed: exec failed: unable to start container process: exec: \"/proc/1/exe\": permission denied: unknown";
    let dir = Dir::new();
    let (code, _, err) = run(&mut dir.docker(&format!("echo '{words}'; exit 126")), &["apply-allowlist", "b1"]);
    assert!(code == 4 && err.contains(words) && err.contains("the user that the container runs as"), "{err}");
    assert!(!err.contains("not a sidecar bundle"), "{err}");
    let kubectl = format!("echo 'error: Internal error occurred: {words}' >&2; exit 126");
    let (code, _, err) = run(&mut dir.docker(&kubectl), &["apply-allowlist", "b1"]);
    assert!(code == 4 && err.contains("the user that the container runs as"), "{err}");
    let words = "OCI runtime exec failed: exec failed: no space left on device";
    let (code, _, err) = run(&mut dir.docker(&format!("echo '{words}'; exit 126")), &["apply-allowlist", "b1"]);
    assert!(code == 4 && err.contains(words), "{err}");
}

#[test]
fn a_bundle_of_another_protocol_gets_nothing() {
    let newer = r#"echo '{"protocol":99,"version":"9.0.0","reply":"protocol"}'"#;
    let older = r#"echo 'sidecar: no applet "helper"' >&2; exit 2"#;
    for (bundle, upgrade) in [(newer, "upgrade this program"), (older, "upgrade the bundle's image")] {
        let dir = Dir::new();
        let (code, _, err) = run(&mut dir.docker(bundle), &["apply-allowlist", "b1"]);
        assert!(code == 1 && err.contains(upgrade) && err.contains("nothing was sent"), "{err}");
        assert_eq!(dir.calls(), ["inspect", "exec"]);
    }
}

#[test]
fn an_old_process_is_no_proof_of_a_restart() {
    for stale in [r#""after":{"pid":17,"generation":1}"#, r#""after":null"#, r#""after":{"pid":31,"generation":0}"#] {
        let dir = Dir::new();
        let lie = live().replace(r#""after":{"pid":31,"generation":2}"#, stale);
        let (code, out, err) = run(&mut dir.docker(&lie), &["apply-allowlist", "--timeout=1s", "b1"]);
        assert!(code == 1 && out.is_empty() && err.starts_with("b1: not proven: "), "{stale}: {out}{err}");
    }
}

#[test]
fn of_what_docker_says_the_end_is_kept_since_the_reason_stands_there() {
    let dir = Dir::new();
    let url = format!("http://docker.example.com/v1.50/containers/json?filters={}", "%7B%22label%22".repeat(30));
    let words = format!(
        "error during connect: Get \"{url}\": command [ssh -- far] has exited with exit status 255: stderr=Host key verification failed."
    );
    let (code, _, err) = run(&mut dir.docker(&format!("echo '{words}' >&2; exit 1")), &["apply-allowlist", "b1"]);
    assert!(
        code == 3 && err.contains("error during connect") && err.contains("Host key verification failed."),
        "{err}"
    );
}

#[test]
fn of_two_hundred_bundles_no_more_than_the_bound_are_under_way() {
    needs!(Native("a fork of a program with many threads may stop before its exec, on a lock of qemu's"));
    let dir = Dir::new();
    let names: Vec<String> = (1..=200).map(|n| format!("b{n}")).collect();
    for (args, bundles, bound) in [(&["--timeout=2m"][..], 200, 32), (&["--timeout=2m", "--parallel=3"], 12, 3)] {
        let bundle =
            together(bound).replacen("echo '{\"step\":\"end\"", "echo - >> \"$CALLS\"; echo '{\"step\":\"end\"", 1);
        let (code, out, err) = run(dir.docker(&bundle).args(["apply-allowlist"]).args(args), &names[..bundles]);
        assert_eq!((code, out.lines().count()), (0, bundles), "{out}{err}");
        let (mut under_way, mut most) = (0, 0);
        for call in dir.calls() {
            under_way += usize::from(call == "+");
            most = most.max(under_way);
            under_way -= usize::from(call == "-");
        }
        assert_eq!(most, bound);
        fs::remove_file(dir.join("calls")).unwrap();
    }
}

/// Shell code of a bundle that is live, but not before so many are under way.
fn together(count: usize) -> String {
    let all = format!("until [ $(grep -c + \"$CALLS\") -ge {count} ]; do sleep 0.1; done");
    format!("echo + >> \"$CALLS\"; {all}; {}", live())
}

#[test]
fn a_low_limit_of_open_files_is_no_limit_of_the_fleet() {
    needs!(Native("a fork of a program with many threads may stop before its exec, on a lock of qemu's"));
    let dir = Dir::new();
    let names: Vec<String> = (1..=20).map(|n| format!("b{n}")).collect();
    let bundle = dir.docker(&together(20));
    let mut limited = Command::new("prlimit");
    limited.envs(bundle.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let (code, _, err) = run(limited.args(["--nofile=32:4096", SIDECAR, "apply-allowlist", "--timeout=2m"]), &names);
    assert_eq!(code, 0, "{err}");
}

#[test]
fn a_reader_that_takes_nothing_holds_up_no_bundle_and_no_ctrl_c() {
    let dir = Dir::new();
    let (_reader, mut writer) = std::io::pipe().unwrap();
    // As much as a pipe takes, pipe(7).
    writer.write_all(&vec![b'\n'; 65536]).unwrap();
    let mut host = dir.docker(&live());
    let mut host = host.args(["apply-allowlist", "--parallel=1", "b1", "b2"]).stdout(writer).spawn().unwrap();
    wait_until("both bundles' calls", || dir.calls().len() == 5);
    assert!(host.try_wait().unwrap().is_none(), "it doesn't wait for its reader");
    wait_until("its end", || {
        let _ = Command::new("kill").args(["-INT", &host.id().to_string()]).status();
        host.try_wait().unwrap().is_some()
    });
    assert_eq!(host.wait().unwrap().code(), Some(0), "the exit code is that of the change");
    assert_eq!(dir.calls().len(), 5);
}

#[test]
fn who_leaves_still_hears_what_became_of_it_where_the_reader_is_only_slow() {
    let dir = Dir::new();
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&vec![b'\n'; 65536]).unwrap();
    let mut command = dir.docker(&hello("cat > \"$CALLS-heard\""));
    let mut host = command.args(["apply-allowlist", "--json", "b1"]).stdout(writer).spawn().unwrap();
    // It holds the pipe's other end too.
    drop(command);
    let interrupt = || Command::new("kill").args(["-INT", &host.id().to_string()]).status();
    let heard = |words: &str| {
        let text = fs::read_to_string(dir.join("calls-heard")).unwrap_or_default();
        text.contains(words)
    };
    wait_until("a bundle that hears", || dir.join("calls-heard").exists());
    interrupt().unwrap();
    wait_until("what the first one asks for", || heard("cancel"));
    interrupt().unwrap();
    let mut said = String::new();
    reader.read_to_string(&mut said).unwrap();
    let said: serde_json::Value = serde_json::from_str(said.trim()).unwrap();
    assert_eq!((&said["exit"], host.wait().unwrap().code()), (&1.into(), Some(1)), "{said}");
}

#[test]
fn where_no_bundle_is_selected_it_exits_3_and_executes_nothing() {
    for args in [&["--all"][..], &["--label=env=prod"]] {
        let dir = Dir::new();
        let (code, out, err) = run(dir.docker("true").arg("apply-allowlist"), args);
        assert_eq!((code, out.as_str(), err.lines().count()), (3, "", 1), "{err}");
        assert!(err.contains("no running container carries the label sidecar.schema"), "{err}");
        assert_eq!(err.contains(" and env=prod; "), args != ["--all"], "{err}");
        assert_eq!(dir.calls(), ["ps"]);
        let (code, out, err) = run(dir.docker("true").args(["apply-allowlist", "--json"]), args);
        let object: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, err.as_str(), &object["bundle"], &object["exit"]), (3, "", &().into(), &3.into()));
    }
}

#[test]
fn how_far_it_is_is_shown_on_a_terminal_and_nowhere_else() {
    let dir = Dir::new();
    let (code, out, err) = run(&mut dir.docker(&live()), &["apply-allowlist", "b1", "b2"]);
    assert!(code == 0 && !(out + &err).contains('\u{1b}'), "{err}");
    assert!(err.starts_with("apply-allowlist: 2 bundles: 2 live; ") && err.lines().count() == 1, "{err}");
    let mut script = dir.docker(&live());
    let mut on_a_terminal = Command::new("script");
    on_a_terminal.envs(script.env("TERM", "xterm").get_envs().filter_map(|(name, value)| Some((name, value?))));
    let (code, out, _) = run(
        on_a_terminal.args(["--quiet", "--return", "--command"]),
        &[&format!("{SIDECAR} apply-allowlist --parallel=1 b1 b2"), "/dev/null"],
    );
    assert!(code == 0 && out.contains("0/2, 1 under way, 1 waiting\r\u{1b}[K"), "{out:?}");
    // What is shown is taken back before each line.
    let shown = |line: &str| line.rsplit("\u{1b}[K").next().unwrap_or_default().to_owned();
    let lines: Vec<String> = out.lines().map(shown).collect();
    assert!(lines.len() == 3 && lines[0].starts_with("b1: live: ") && lines[2].contains(": 2 live; "), "{lines:?}");
    // A person whose apply failed is told where to read on; a script isn't.
    let mut no_bundle = dir.docker("true");
    let hint = "what that means, and what to do: sidecar --explain not-a-sidecar-bundle";
    assert!(!run(&mut no_bundle, &["apply-allowlist", "b1"]).2.contains(hint));
    let mut on_a_terminal = Command::new("script");
    on_a_terminal.envs(no_bundle.env("TERM", "xterm").get_envs().filter_map(|(name, value)| Some((name, value?))));
    on_a_terminal.args(["--quiet", "--return", "--command"]);
    let (code, out, _) = run(&mut on_a_terminal, &[&format!("{SIDECAR} apply-allowlist b1"), "/dev/null"]);
    assert!(code == 4 && out.contains(hint), "{out}");
}

#[test]
fn explain_takes_a_word_as_it_stands_in_json_or_in_a_line() {
    let page = sidecar(&["--explain", "rolled-back"]).1;
    assert!(page.starts_with("rolled-back\n") && page.contains("the old content is back"), "{page}");
    for words in [&["--explain", "rolled", "back"][..], &["--explain=Rolled-Back"], &["--explain", "rolled_back"]] {
        assert_eq!(sidecar(words), (0, page.clone(), String::new()), "{words:?}");
    }
    let (code, out, err) = sidecar(&["--explain", "nonsense"]);
    assert!(code == 2 && out.is_empty() && err.contains("down, unsettled, "), "{err}");
    assert_eq!(sidecar(&["--explain"]).0, 2);
}

#[test]
fn a_bundle_that_lies_before_the_signal_is_no_bundle_and_gets_none() {
    for lie in ["cat /dev/zero", "yes", "true", r"printf '\033[2J\n'", r"printf '\033[2J' >&2", "echo '{}'"] {
        let dir = Dir::new();
        let (code, out, err) = run(&mut dir.docker(lie), &["apply-allowlist", "b1"]);
        assert_eq!((code, out.as_str(), err.lines().count()), (4, "", 1), "{lie}: {err}");
        assert!(err.starts_with("b1: not a sidecar bundle") && !err.contains('\u{1b}'), "{lie}: {err}");
        assert_eq!(dir.calls(), ["inspect", "exec", "inspect"], "it is looked for once more");
    }
    let dir = Dir::new();
    let (code, _, err) = run(&mut dir.docker(r#": > "$CALLS-gone""#), &["apply-allowlist", "b1"]);
    assert!(code == 3 && err.starts_with("b1: no such container; "), "it went away meanwhile: {err}");
    assert!(err.contains("nothing was sent"), "{err}");
}

#[test]
fn one_that_can_not_be_reached_any_more_is_no_stranger() {
    let said = |words: &str| format!("echo '{words}' >&2; exit 1");
    let far = "error during connect: Post \"http://x/exec\": command [ssh far] has exited with exit status 255";
    let node = "Error from server: error dialing backend: dial tcp 10.0.0.1:10250: connect: no route to host";
    let docker_29 = "failed to connect to the docker API at unix:///x; check if the path is correct and if the daemon is running: dial unix /x: connect: no such file or directory";
    let log = "E1128 07:17:10.978985    2060 memcache.go:265] \"Unhandled Error\" err=\"could not get current server API group list\"\n";
    let server =
        log.repeat(9) + "The connection to the server x:6443 was refused - did you specify the right host or port?";
    let dir = Dir::new();
    for mut command in [
        dir.docker(&said(far)),
        dir.docker(&said(docker_29)),
        dir.docker("sleep 1000"),
        dir.kubectl(&said(node)),
        dir.kubectl(&said(&server)),
    ] {
        let via = command.get_envs().any(|(name, _)| name == "PODS");
        let args: &[&str] =
            if via { &["apply-allowlist", "--via=kubectl", "-n=agents", "b1"] } else { &["apply-allowlist", "b1"] };
        let (code, _, err) = run(&mut command, args);
        assert!(code == 3 && err.contains(" exec failed: ") && err.contains("nothing was sent"), "{err}");
        assert!(!err.contains("memcache"), "{err}");
    }
}

/// Shell code of a bundle that says that it is proven, then `then`.
fn proven(then: &str) -> String {
    hello(&format!(r#"echo '{{"step":"proven"}}'; {then}"#))
}

#[test]
fn a_change_of_a_bundle_that_is_paused_in_the_middle_is_rolled_back() {
    let improper = "Error: can only kill running containers. 01 is in state paused: container state improper";
    let goes_back = "goes back once the bundle is unpaused";
    // The CLI says so, or takes the signal; then the helper is silent, or a second one can't be executed.
    for (fails, bundle, timeout) in [
        (improper, hello("sleep 1000"), "10m"),
        ("", hello("sleep 1000"), "1s"),
        ("", format!("[ ! -e \"$CALLS-paused\" ] || {{ echo '{improper}' >&2; exit 255; }}; {}", hello("true")), "10m"),
    ] {
        let dir = Dir::new();
        let file = format!("--file={}", dir.write("content", "new").display());
        let mut command = dir.docker(&bundle);
        command.env("KILL_PAUSES", "1").env("KILL_FAILS", fails);
        let args = ["apply-allowlist", "--timeout", timeout, &file, "b1"];
        let (code, _, err) = run(&mut command, &args);
        assert!(code == 3 && err.contains(goes_back) && !err.contains("nothing was"), "{code} {err}");
    }
    let dir = Dir::new();
    let file = format!("--file={}", dir.write("content", "new").display());
    let args = ["apply-allowlist", "--timeout=1s", &file, "b1"];
    let (code, _, err) = run(dir.docker(&proven("sleep 1000")).env("KILL_PAUSES", "1"), &args);
    assert!(code == 5 && err.contains("UNSETTLED"), "{code} {err}");
}

#[test]
fn a_bundle_whose_api_server_goes_away_is_asked_until_time_is_up() {
    let dir = Dir::new();
    let file = format!("--file={}", dir.write("content", "new").display());
    let recorded = format!(r#"{{"protocol":{PROTOCOL},"version":"1.0.0","reply":"recorded","outcome":"rolled-back"}}"#);
    // It breaks off, is refused four times, and then says that it went back.
    let bundle = format!(
        "n=$(cat \"$CALLS-n\" 2> /dev/null || echo 0); echo $((n + 1)) > \"$CALLS-n\"
         [ $n -gt 0 ] || {{ {}; }}
         [ $n -gt 4 ] || {{ echo 'The connection to the server x:6443 was refused - did you specify the right host or port?' >&2; exit 1; }}
         echo '{recorded}'",
        hello("echo 'error: websocket: close 1006 (abnormal closure): unexpected EOF' >&2; exit 1")
    );
    let args = ["apply-allowlist", "--via=kubectl", "--namespace=agents", "--timeout=10s", &file, "b1"];
    let (code, _, err) = run(&mut dir.kubectl(&bundle), &args);
    assert!(code == 1 && err.starts_with("b1: rolled back: "), "{code} {err}");
}

#[test]
fn a_selection_of_pods_leaves_out_those_that_are_terminating() {
    let dir = Dir::new();
    let mut command = dir.kubectl(&live());
    let pod = fs::read_to_string(dir.join("b1.json")).unwrap();
    let labelled = pod.replacen(r#""uid":"u""#, r#""uid":"u","labels":{"sidecar.schema":"1"}"#, 1);
    dir.write("b1.json", &labelled);
    let old = labelled.replacen("\"b1\"", "\"b0\"", 1).replacen(
        r#""uid":"u""#,
        r#""uid":"v","deletionTimestamp":"2026-11-28""#,
        1,
    );
    dir.write("b0.json", &old);
    let all = ["apply-allowlist", "--via=kubectl", "--namespace=agents", "--canary=1", "--all"];
    let (code, out, err) = run(&mut command, &all);
    assert!(code == 0 && out.starts_with("b1: live: ") && out.lines().count() == 1, "{code} {out}{err}");
    assert_eq!(err, "apply-allowlist: note: left out 1 pod that is terminating\n");
    let (code, out, err) = run(&mut dir.kubectl(&live()), &[&all[..1], &["--json"], &all[1..]].concat());
    assert_eq!((code, err.as_str()), (3, ""), "the pod has lost its label: {out}");
    let objects: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(objects[0]["error"].as_str().unwrap().contains("(1 that are terminating were left out)"), "{out}");
    assert_eq!((&objects[1]["outcome"], &objects[1]["terminating"]), (&"summary".into(), &1.into()));
    let (code, _, err) = run(&mut dir.kubectl(&live()), &[&all[..3], &["b0"]].concat());
    assert!(code == 3 && err.contains("its pod is terminating"), "{err}");
}

#[test]
fn through_nerdctl_only_a_container_with_its_own_pids_is_entered() {
    let nerdctl = |spec: &str, names: &[&str]| {
        let dir = Dir::new();
        let mut command = dir.docker(&live());
        let said = run(command.env("NERDCTL", "1").env("SPEC", spec), &[&["apply-allowlist"], names].concat());
        (said, dir.calls())
    };
    let private = r#"{"type":"pid"},{"type":"mount"}"#;
    let ((code, out, err), calls) = nerdctl(private, &["b1"]);
    assert!(code == 0 && out.starts_with("b1: live: "), "{out}{err}");
    assert_eq!(calls, ["inspect", "inspect", "inspect", "exec", "kill"]);
    for (spec, words) in [(r#"{"type":"mount"}"#, "shares a pid namespace (host)"), ("?", "doesn't say whether")] {
        let ((code, _, err), calls) = nerdctl(spec, &["b1"]);
        assert!(code == if spec == "?" { 3 } else { 4 } && err.contains(words), "{code} {err}");
        assert!(!calls.contains(&"exec".to_owned()) && !calls.contains(&"kill".to_owned()), "{calls:?}");
    }
    // It says nothing of those that are there if one is missing.
    let ((code, out, err), _) = nerdctl(private, &["b1", "b9"]);
    assert!(code == 3 && out.starts_with("b1: live: ") && err.contains("b9: no such container"), "{code} {out}{err}");
}

#[test]
fn if_proc_1_exe_cannot_be_executed_the_containers_own_path_is_used() {
    let words = "OCI runtime exec failed: executing processes for container: executing command \"/proc/1/exe helper\" in sandbox: failed to load /proc/1/exe: permission denied";
    let fails = format!("{{ echo '{words}'; exit 126; }}");
    let dir = Dir::new();
    let bundle = format!("[ \"$4\" = /sbin/init ] || {fails}; {}", live());
    let (code, out, err) = run(&mut dir.docker(&bundle), &["apply-allowlist", "b1"]);
    assert!(code == 0 && out.starts_with("b1: live: "), "{out}{err}");
    assert_eq!(dir.calls(), ["inspect", "exec", "exec", "kill"]);
    let (code, _, err) = run(&mut dir.docker(&fails), &["apply-allowlist", "b1"]);
    assert!(code == 4 && err.contains("can't execute /proc/1/exe") && err.contains("gVisor"), "{err}");
    assert!(err.contains("nothing was sent"), "{err}");
    // In Kubernetes the manifest tells it.
    let pod = format!("[ -e \"$CALLS-2\" ] || {{ : > \"$CALLS-2\"; {fails}; }}; {}", live());
    let args = ["apply-allowlist", "--via=kubectl", "--namespace=agents", "b1"];
    let (code, out, err) = run(&mut dir.kubectl(&pod), &args);
    assert!(code == 0 && out.starts_with("b1: live: "), "{out}{err}");
    let calls = dir.calls().pop().unwrap();
    assert!(calls.contains("/sbin/init") && !calls.contains("/proc/1/exe"), "{calls}");
}

#[test]
fn a_signal_that_kubectl_lost_sight_of_is_never_reported_as_not_sent() {
    let lost = "echo 'error: websocket: close 1006 (abnormal closure): unexpected EOF' >&2; exit 1";
    // The helper may have sent it before its first word was heard.
    for (bundle, how) in [lost, &hello(lost)].into_iter().flat_map(|b| [(b, &[][..]), (b, &["--signal-only"])]) {
        let dir = Dir::new();
        let args = [&["apply-allowlist", "--via=kubectl", "--namespace=agents", "b1"], how].concat();
        let (code, out, err) = run(&mut dir.kubectl(bundle), &args);
        assert_eq!((code, out.as_str()), (1, ""), "{err}");
        assert!(err.starts_with("b1: not proven: USR1 was sent, or may have been, but "), "{err}");
        assert!(err.contains("close 1006") && !err.contains("nothing was"), "{err}");
    }
}

#[test]
fn a_bundle_that_breaks_off_after_the_signal_leaves_it_not_proven() {
    for lie in ["true", "yes", "cat /dev/zero", "sleep 1000 & wait", r"printf '\033[2J\n'"] {
        let dir = Dir::new();
        let (code, out, err) = run(&mut dir.docker(&hello(lie)), &["apply-allowlist", "--timeout", "100ms", "b1"]);
        assert_eq!((code, out.as_str(), err.lines().count()), (1, "", 1), "{lie}: {err}");
        assert!(err.contains("not proven") && err.contains("was sent") && !err.contains('\u{1b}'), "{lie}: {err}");
    }
}

#[test]
fn a_bundle_that_lies_about_new_content_is_bounded_and_never_believed() {
    let live = r#"echo '{"step":"end","outcome":"live","after":null,"siblings_moved":null,"checked":true,"wait_ms":0,"check_ms":0,"back_ms":0}'"#;
    // It says that it is live without an acknowledgement, nothing, garbage, or too much; it reads nothing; the second
    // exec lies in the same way.
    for lie in [live, "true", "yes", "cat /dev/zero", "sleep 1000 & wait", r"printf '\033[2J\n'"] {
        let dir = Dir::new();
        let content = dir.write("content", &"x".repeat(1 << 20));
        let file = format!("--file={}", content.display());
        let args = ["apply-allowlist", "--timeout=100ms", &file, "b1"];
        let (code, out, err) = run(&mut dir.docker(&hello(lie)), &args);
        assert_eq!((code, out.as_str(), err.lines().count()), (5, "", 1), "{lie}: {err}");
        assert!(err.contains("UNSETTLED") && !err.contains('\u{1b}'), "{lie}: {err}");
    }
}
