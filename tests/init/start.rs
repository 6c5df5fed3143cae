//! Starting a daemon never holds up init, and what became of the exec is told.

use std::fs;
use std::io::{ErrorKind, Write};
use std::process::Stdio;
use std::time::Instant;

use super::harness::{PATIENCE, end_of};
use super::{Bundle, Setup, TWO};

/// alpha's program is on a file system that answers nobody.
const HANGS: &str = r#"
grace = "200ms"
[[daemon]]
name = "alpha"
command = ["DIR/hung/program"]
[[daemon]]
name = "beta"
command = ["sleep", "1000"]
[signals]
USR1 = { restart = "beta" }
"#;

/// Its process, once that has no descriptors but four: stdio, and the pipe that tells of its exec.
fn wait_for_alpha_to_hang(bundle: &Bundle) -> i32 {
    let is_alpha = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "sidecar\n");
    let alpha = bundle.children().into_iter().find(is_alpha).unwrap();
    bundle.wait_until("four descriptors", || fs::read_dir(format!("/proc/{alpha}/fd")).unwrap().count() == 4);
    alpha
}

#[test]
fn a_second_init_that_docker_exec_calls_starts_nothing() {
    let bundle = Setup::new(TWO).start();
    bundle.wait_until_started();
    let table = bundle.dir.join("table.toml");
    // Into a file: an init that doesn't end would keep a pipe open.
    let said = fs::File::create(bundle.dir.join("said")).unwrap();
    let mut second = bundle.applet(&["init", "--config", table.to_str().unwrap()]);
    let output = end_of(second.stdout(Stdio::null()).stderr(said).spawn().unwrap());
    assert_eq!(output.status.code(), Some(2));
    let said = bundle.read("said");
    assert!(said.starts_with("init: PID 1 is sidecar init already"), "{said}");
}

#[test]
fn a_program_on_a_mount_that_hangs_delays_its_own_daemon_alone() {
    needs!(Root);
    let mut bundle = Setup::new(HANGS).with_hung_mount().start();
    bundle.wait_for_generation(1, 1);
    assert_eq!(bundle.daemon(0)["state"], "starting");
    bundle.signal("USR1");
    bundle.wait_for_generation(1, 2);
    assert_eq!(bundle.daemon(0)["state"], "starting");
    bundle.signal("TERM");
    // Even there a TERM ends what has no handler for it.
    assert_eq!(bundle.exit_code(), 143);
}

#[test]
fn a_file_on_a_mount_that_hangs_delays_its_own_daemon_alone() {
    needs!(Root);
    let table = HANGS.replace(
        "command = [\"DIR/hung/program\"]",
        "command = [\"sleep\", \"1000\"]\nconfig = { path = \"DIR/hung/config\" }",
    );
    let mut bundle = Setup::new(&table).with_hung_mount().start();
    bundle.wait_for_generation(1, 1);
    assert_eq!(bundle.daemon(0)["state"], "starting");
    bundle.signal("TERM");
    // Even there a TERM ends what has no handler for it.
    assert_eq!(bundle.exit_code(), 143);
}

#[test]
fn a_child_that_has_not_executed_yet_holds_no_descriptor_of_inits() {
    needs!(Root);
    let bundle = Setup::new(HANGS).with_hung_mount().start();
    bundle.wait_for_generation(1, 1);
    wait_for_alpha_to_hang(&bundle);
}

#[test]
fn a_flood_in_a_start_pipe_does_not_keep_init_reading() {
    needs!(Root);
    let bundle = Setup::new(HANGS).with_hung_mount().start();
    bundle.wait_for_generation(1, 1);
    let alpha = wait_for_alpha_to_hang(&bundle);
    let pipe = fs::OpenOptions::new().write(true).open(format!("/proc/{alpha}/fd/3")).unwrap();
    let start = Instant::now();
    while (&pipe).write_all(&[b'x'; 4096]).map_err(|e| e.kind()) != Err(ErrorKind::BrokenPipe) {
        assert!(start.elapsed() < PATIENCE, "init still reads");
    }
    bundle.signal("USR1");
    bundle.wait_for_generation(1, 2);
}

#[test]
fn a_daemon_that_gave_up_being_root_can_open_its_stdout_and_stderr_anew() {
    needs!(Root);
    let script = "echo out > /dev/stdout; echo err > /dev/stderr";
    let table = format!(
        "[[daemon]]\nname = \"alpha\"\ncommand = [\"setpriv\", \"--reuid=12345\", \"--regid=12345\", \
         \"--clear-groups\", \"sh\", \"-c\", \"{script}\"]\n"
    );
    let mut bundle = Bundle::start(&table);
    assert_eq!(bundle.exit_code(), 0, "{}", bundle.read("err"));
    assert_eq!(bundle.read("out"), "[alpha] out\n");
    assert!(bundle.read("err").contains("[alpha] err\n"));
}

#[test]
fn a_missing_interpreter_is_reported_by_name() {
    let table = "[[daemon]]\nname = \"alpha\"\ncommand = [\"DIR/script\"]\n";
    let write = "printf '#!/bin/sh\\r\\necho\\r\\n' > DIR/script; chmod +x DIR/script; exec \"$@\"";
    let mut bundle = Setup::new(table).wrapped(&["sh", "-c", write, "-"]).start();
    assert_eq!(bundle.exit_code(), 127);
    let log = bundle.read("err");
    assert!(
        log.contains("/script\": its interpreter \"/bin/sh\\r\" is missing (the file has Windows line endings)"),
        "{log}"
    );
}

#[test]
fn a_missing_program_is_reported_at_each_start() {
    let bundle =
        Bundle::start(&TWO.replace("[\"sh\", \"-c\", \"printf 'no newline'; exec sleep 1000\"]", "[\"DIR/program\"]"));
    bundle.wait_for("err", "/program\": No such file or directory");
    bundle.wait_until("a failure", || bundle.daemon(1)["state"] == "failed");
    std::os::unix::fs::symlink("/bin/cat", bundle.dir.join("program")).unwrap();
    bundle.signal("USR1");
    bundle.wait_until("its end", || bundle.daemon(1)["last_exit"]["code"] == 0);
}
