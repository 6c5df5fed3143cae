//! `user`, `environment`, `env_file`, `pass_environment`, `working_dir`, `ulimits`: whose a daemon's process is, and what it
//! inherits. init is root with the three capabilities that it needs for that, and no other.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Output};

use super::harness::{self, children_of, exe, stat};
use super::{Bundle, Setup};

const THREE: &str = "-all,+setuid,+setgid,+kill";
/// Users of the tests' own take the place of this machine's.
const ACCOUNTS: &str = "printf 'root:x:0:0::/root:/bin/sh\\nweb:x:3333:3334::/srv/web:/bin/sh\\n' > DIR/passwd; \
     printf 'root:x:0:\\nweb:x:3334:\\nmedia:x:3500:nobody,web\\nlogs:x:3501:web\\nother:x:3502:\\n' > DIR/group; \
     mount --bind DIR/passwd /etc/passwd; mount --bind DIR/group /etc/group; exec \"$@\"";

/// init as root with these capabilities alone.
fn with_capabilities(table: &str, capabilities: &str) -> Setup {
    let bounds = format!("--bounding-set={capabilities}");
    Setup::new(table).wrapped(&["sh", "-c", ACCOUNTS, "-", "setpriv", &bounds])
}

fn with_three(table: &str) -> Setup {
    with_capabilities(table, THREE)
}

/// The table of one daemon, with these keys, that a shell runs.
fn alpha(keys: &str, script: &str) -> String {
    format!("[[daemon]]\nname = \"alpha\"\ncommand = [\"/bin/sh\", \"-c\", '''{script}''']\n{keys}\n")
}

/// What the daemon with these keys prints, if the script comes to its end.
fn said(keys: &str, script: &str) -> String {
    let mut bundle = with_three(&alpha(keys, script)).start();
    let code = bundle.exit_code();
    assert_eq!(code, 0, "{} {}", bundle.read("out"), bundle.read("err"));
    bundle.read("out").lines().map(|line| line.trim_start_matches("[alpha] ").to_owned() + "\n").collect()
}

/// Why the daemon with these keys isn't started. `prepare` is called with the bundle's directory right before.
fn refused(keys: &str, prepare: &str) -> String {
    let table = alpha(keys, "echo it runs");
    let accounts = ACCOUNTS.replace("exec \"$@\"", &format!("{prepare}; exec \"$@\""));
    let mut bundle = Setup::new(&table)
        .wrapped(&["sh", "-c", &accounts, "-", "setpriv", &format!("--bounding-set={THREE}")])
        .start();
    assert_eq!(bundle.exit_code(), 126, "{}", bundle.read("err"));
    assert_eq!(bundle.read("out"), "", "it runs");
    let dir = bundle.dir.to_str().unwrap().to_owned();
    let log = bundle.read("err");
    let line = log
        .lines()
        .find(|line| line.contains("cannot") || line.contains("env_file"))
        .unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains("alpha"), "{line}");
    line.replace(&dir, "DIR")
}

fn run_as(bundle: &Bundle, arguments: &[&str]) -> (i32, String, String) {
    let mut command = bundle.inside(&["setpriv", &format!("--bounding-set={THREE}"), &exe(), "run-as"]);
    harness::said(&command.args(arguments).output().unwrap())
}

const IDS: &str = "id -u; id -g; id -G; grep -E '^(Uid|Gid|CapInh|CapPrm|CapEff|CapAmb|NoNewPrivs)' /proc/self/status | tr -s '\\t' ' '";

#[test]
fn a_daemon_runs_as_its_user_for_good_and_without_capabilities() {
    needs!(Root);
    let none = "0000000000000000";
    let all = |uid: u32, gid: u32| {
        format!(
            "Uid: {uid} {uid} {uid} {uid}\nGid: {gid} {gid} {gid} {gid}\nCapInh: {none}\nCapPrm: {none}\nCapEff: {none}\n\
             CapAmb: {none}\nNoNewPrivs: 1\n"
        )
    };
    assert_eq!(said("user = \"web\"", IDS), format!("3333\n3334\n3334 3500 3501\n{}", all(3333, 3334)));
    assert_eq!(said("user = \"3333:other\"", IDS), format!("3333\n3502\n3502\n{}", all(3333, 3502)));
    assert_eq!(said("user = \"4444\"", IDS), format!("4444\n4444\n4444\n{}", all(4444, 4444)));
    // Root without a capability.
    assert_eq!(said("user = \"root\"", IDS), format!("0\n0\n0\n{}", all(0, 0)));
}

#[test]
fn an_init_that_cannot_become_a_daemons_user_starts_nothing() {
    needs!(Root);
    let table = alpha("user = \"web\"", "echo it runs");
    let none = |setup: Setup, words: &[&str]| {
        let mut bundle = setup.start();
        assert_eq!(bundle.exit_code(), 2, "{}", bundle.read("err"));
        let log = bundle.read("err");
        assert_eq!((bundle.read("out").as_str(), log.lines().count()), ("", 1), "{log}");
        for word in words.iter().chain(&["alpha", "no daemon was started"]) {
            assert!(log.contains(word), "{log}");
        }
    };
    none(with_capabilities(&table, "-all,+setuid,+setgid"), &["needs CAP_KILL;", "--cap-add KILL"]);
    none(with_capabilities(&table, "-all,+kill"), &["CAP_SETUID and CAP_SETGID;"]);
    none(Setup::new(&table).under_user(&[]), &["must be root"]);
    none(with_three(&table.replace("web", "nobody-here")), &["/etc/passwd has no user \"nobody-here\""]);
    none(with_three(&table.replace("web", "web:no-group")), &["/etc/group has no group \"no-group\""]);
}

#[test]
fn a_user_whom_only_an_unselected_daemon_has_needs_no_capability() {
    let table =
        alpha("", "echo it runs") + "[[daemon]]\nname = \"beta\"\ncommand = [\"sleep\", \"9\"]\nuser = \"web\"\n";
    let mut bundle = with_capabilities(&table, "-all").select("alpha").start();
    assert_eq!(bundle.exit_code(), 0, "{}", bundle.read("err"));
}

#[test]
fn a_daemon_of_another_user_can_open_its_stdout_and_stderr_anew() {
    needs!(Root);
    let script = "echo out > /dev/stdout; echo err >> /dev/stderr; echo out of a child > /proc/self/fd/1";
    let mut bundle = with_three(&alpha("user = \"web\"", script)).start();
    assert_eq!(bundle.exit_code(), 0, "{}", bundle.read("err"));
    assert_eq!(bundle.read("out"), "[alpha] out\n[alpha] out of a child\n");
    assert!(bundle.read("err").contains("[alpha] err\n"));
}

#[test]
fn what_one_daemon_is_given_is_not_in_the_environment_of_another() {
    let env = "env | grep -vE '^(PWD|_|SHLVL|OLDPWD)=' | sort";
    let table = format!(
        "{}[[daemon]]\nname = \"beta\"\ncommand = [\"/bin/sh\", \"-c\", '''{env}''']\npass_environment = []\n",
        alpha(
            "pass_environment = [\"TZ\", \"CRED_*\"]\nenvironment = { TOKEN = \"secret\" }\nenv_file = \"DIR/env\"",
            env
        )
    );
    let write = "printf 'KEY=\"a b\"\\nTOKEN=less\\n' > DIR/env; chmod 600 DIR/env; exec \"$@\"";
    let setup = Setup::new(&table).wrapped(&["sh", "-c", write, "-"]);
    let mut bundle = setup.env("CRED_ID", "1").env("CRED_KEY", "2").env("TZ", "UTC").env("OTHER", "x").start();
    assert_eq!(bundle.exit_code(), 0, "{}", bundle.read("err"));
    let path = format!("PATH={}\n", std::env::var("PATH").unwrap());
    let of = |name: &str| -> String {
        let prefix = format!("[{name}] ");
        let out = bundle.read("out");
        let lines = out
            .lines()
            .filter_map(|line| line.strip_prefix(&prefix))
            .filter(|line| !line.starts_with("NOTIFY_SOCKET=@") && !line.starts_with("SIDECAR_"));
        lines.map(|line| line.to_owned() + "\n").collect()
    };
    assert_eq!(of("alpha"), format!("CRED_ID=1\nCRED_KEY=2\nKEY=a b\n{path}TOKEN=secret\nTZ=UTC\n"));
    assert_eq!(of("beta"), path);
    assert_eq!(bundle.read("out").matches("NOTIFY_SOCKET=@").count(), 2);
}

#[test]
fn each_start_tells_its_daemon_and_generation_and_nothing_overrides_them() {
    let tell = "echo $SIDECAR_DAEMON $SIDECAR_GENERATION $(env | grep -Ec '^SIDECAR_(DAEMON|GENERATION)=')";
    // Each tells it, and so does its probe, which is none of its generations.
    let daemon = |name: &str, keys: &str| {
        let ready = format!("ready = {{ exec = [\"/bin/sh\", \"-c\", \"{tell} > DIR/{name}.probe\"] }}\n");
        let command = format!("command = [\"/bin/sh\", \"-c\", \"{tell} >> DIR/{name}; exec sleep 1000\"]\n");
        format!("[[daemon]]\nname = \"{name}\"\n{command}{ready}{keys}")
    };
    let env_file = "env_file = \"DIR/env\"\npass_environment = [\"SIDECAR_*\"]\n";
    let last = "[[daemon]]\nname = \"last\"\ncommand = [\"sleep\", \"1000\"]\ndepends_on = [\"plain\", \"set-up\"]\n";
    let signals = "[signals]\nUSR1 = { restart = \"plain\" }\nUSR2 = { restart = \"set-up\" }\n";
    let table = daemon("plain", "") + &daemon("set-up", env_file) + last + signals;
    let forge = "echo SIDECAR_DAEMON=forged > DIR/env; echo SIDECAR_GENERATION=7 >> DIR/env; exec \"$@\"";
    let setup = Setup::new(&table).wrapped(&["sh", "-c", forge, "-"]);
    let bundle = setup.env("SIDECAR_DAEMON", "forged").env("SIDECAR_GENERATION", "9").start();
    bundle.wait_for_generation(2, 1);
    for name in ["plain", "set-up"] {
        assert_eq!(bundle.read(&format!("{name}.probe")), "0\n", "{name}");
    }
    bundle.signal("USR1");
    bundle.signal("USR2");
    for name in ["plain", "set-up"] {
        bundle.wait_for(name, &format!("{name} 2 2\n"));
        assert_eq!(bundle.read(name), format!("{name} 1 2\n{name} 2 2\n"));
    }
}

#[test]
fn a_user_has_its_own_home_and_name() {
    needs!(Root);
    assert_eq!(said("user = \"web\"", "echo $HOME $USER $LOGNAME"), "/srv/web web web\n");
    assert_eq!(said("user = \"4444\"", "echo $HOME ${USER-none} ${LOGNAME-none}"), "/ none none\n");
    assert_eq!(said("user = \"web\"\nenvironment = { HOME = \"/tmp\" }", "echo $HOME $USER"), "/tmp web\n");
}

#[test]
fn a_daemon_whose_env_file_cannot_be_read_is_not_started() {
    needs!(Root);
    let file = "env_file = \"DIR/env\"";
    let told = |prepare: &str, words: &str| {
        let line = refused(file, prepare);
        assert!(line.contains(words) && line.contains("env_file DIR/env"), "{line}");
    };
    told("true", "No such file");
    told("echo A=1 > DIR/x; ln -s x DIR/env", "symbolic link");
    told("mkfifo DIR/env", "isn't a regular file");
    told("mkdir DIR/env", "isn't a regular file");
    told("head -c 1048577 /dev/zero > DIR/env", "larger than 1 MiB");
    told("printf 'A=1\\nhush\\n' > DIR/env", "line 2: no `=`");
    assert!(!refused(file, "printf 'A=1\\nhush\\n' > DIR/env").contains("hush"));
    // Root may read it by a capability alone that it doesn't have.
    told("echo A=1 > DIR/env; chown 3333 DIR/env; chmod 600 DIR/env", "make it readable for uid 0");
}

#[test]
fn a_daemon_starts_in_its_directory_as_its_user_by_its_own_path() {
    needs!(Root);
    let table = "[[daemon]]\nname = \"alpha\"\ncommand = [\"program\"]\nworking_dir = \"DIR/work\"\nuser = \"web\"\n\
                 environment = { PATH = \"bin:/usr/bin:/bin\" }\n";
    let make = "mkdir -p DIR/work/bin; printf '#!/bin/sh\\npwd\\n' > DIR/work/bin/program; chmod +x DIR/work/bin/program; exec \"$@\"";
    let mut bundle = Setup::new(table).wrapped(&["sh", "-c", ACCOUNTS, "-", "sh", "-c", make, "-"]).start();
    assert_eq!(bundle.exit_code(), 0, "{}", bundle.read("err"));
    assert_eq!(bundle.read("out"), format!("[alpha] {}/work\n", bundle.dir.display()));
}

#[test]
fn a_daemon_that_cannot_enter_its_directory_is_not_started() {
    needs!(Root);
    let line = refused("working_dir = \"DIR/none\"", "true");
    assert!(line.contains("cannot change to its working_dir DIR/none: No such file"), "{line}");
    let line = refused("working_dir = \"DIR/roots\"\nuser = \"web\"", "mkdir -m 700 DIR/roots");
    assert!(line.contains("cannot change to its working_dir DIR/roots: Permission denied"), "{line}");
}

#[test]
fn a_program_that_is_not_in_a_daemons_own_path_counts_as_127() {
    let table = "[[daemon]]\nname = \"alpha\"\ncommand = [\"sh\"]\nenvironment = { PATH = \"/nowhere\" }\n";
    let mut bundle = Bundle::start(table);
    assert_eq!(bundle.exit_code(), 127, "{}", bundle.read("err"));
    assert!(bundle.read("err").contains("cannot execute \"sh\": No such file or directory"), "{}", bundle.read("err"));
}

#[test]
fn ulimits_set_soft_and_hard_limits_up_to_what_the_container_has() {
    needs!(Root);
    let script = "ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Hc";
    assert_eq!(said("ulimits = { nofile = 77, core = 0 }\nuser = \"web\"", script), "77\n77\n0\n0\n");
    let line = refused("ulimits = { nofile = 900000000 }", "true");
    assert!(line.contains("cannot set its ulimit nofile to 900000000: "), "{line}");
}

#[test]
fn a_daemons_low_limits_do_not_keep_its_sandbox_from_being_made() {
    needs!(Root);
    let keys = "ulimits = { nofile = 4, fsize = 0 }\nuser = \"web\"\n[daemon.sandbox]\nwrite = [\"DIR/a/b\"]";
    let table = alpha(keys, "echo it runs");
    let make = "mkdir -p DIR/a/b; exec \"$@\"";
    let mut bundle = Setup::new(&table).wrapped(&["sh", "-c", ACCOUNTS, "-", "sh", "-c", make, "-"]).start();
    assert_eq!((bundle.exit_code(), bundle.read("out").as_str()), (0, "[alpha] it runs\n"), "{}", bundle.read("err"));
}

#[test]
fn a_write_whose_last_component_cannot_be_made_is_told_as_such() {
    let line = refused("[daemon.sandbox]\nwrite = [\"/proc/none\"]", "true");
    assert!(line.contains("it may write to /proc/none, which isn't there and can't be made: No such file"), "{line}");
}

#[test]
fn a_directory_that_init_makes_for_a_sandboxed_daemon_is_its_users() {
    needs!(Root);
    let table = alpha("user = \"web\"\n[daemon.sandbox]\nwrite = [\"DIR/all/mine\"]", "echo kept > DIR/all/mine/file");
    let prepare = "mkdir DIR/all; chmod 1777 DIR/all; exec \"$@\"";
    let bounds = format!("--bounding-set={THREE}");
    let setup = Setup::new(&table).wrapped(&["sh", "-c", ACCOUNTS, "-", "sh", "-c", prepare, "-", "setpriv", &bounds]);
    let mut bundle = setup.start();
    assert_eq!(bundle.exit_code(), 0, "{}", bundle.read("err"));
    let made = fs::metadata(bundle.dir.join("all/mine")).unwrap();
    assert_eq!((made.uid(), made.gid(), made.permissions().mode() & 0o777), (3333, 3334, 0o700));
    assert_eq!(bundle.read("all/mine/file"), "kept\n");
}

#[test]
fn a_daemon_starts_in_a_directory_that_is_made_for_it_at_that_start() {
    let keys = "working_dir = \"DIR/made\"\n[daemon.sandbox]\nwrite = [\"DIR/made\"]";
    let table = alpha(keys, "pwd; echo kept > file");
    let mut bundle = Bundle::start(&table);
    assert_eq!(bundle.exit_code(), 0, "{}", bundle.read("err"));
    assert_eq!(bundle.read("out"), format!("[alpha] {}/made\n", bundle.dir.display()));
    assert_eq!(bundle.read("made/file"), "kept\n");
}

#[test]
fn the_target_of_a_link_that_the_user_cannot_follow_is_hidden_too() {
    needs!(Root);
    let table = alpha("user = \"web\"\n[daemon.sandbox]", "cat DIR/open/secret 2>&1")
        + "[[daemon]]\nname = \"beta\"\ncommand = [\"true\"]\n[daemon.sandbox]\nprivate = [\"DIR/closed/link\"]\n";
    let make = "mkdir DIR/open; echo hush > DIR/open/secret; mkdir -m 700 DIR/closed; ln -s DIR/open/secret DIR/closed/link; exec \"$@\"";
    let bounds = format!("--bounding-set={THREE}");
    let setup = Setup::new(&table).wrapped(&["sh", "-c", ACCOUNTS, "-", "sh", "-c", make, "-", "setpriv", &bounds]);
    let mut bundle = setup.start();
    assert_eq!(bundle.exit_code(), 1, "{}", bundle.read("err"));
    assert!(bundle.read("out").ends_with("Permission denied\n"), "{}", bundle.read("out"));
}

#[test]
fn daemons_of_other_users_are_stopped_killed_and_swept_like_any() {
    needs!(Root);
    let script =
        "trap '' TERM; setpriv --pdeathsig clear sleep 1000 & echo $! > /dev/stdout; while :; do sleep 0.05; done";
    let table =
        format!("grace = \"100ms\"\n{}[signals]\nUSR1 = {{ restart = \"alpha\" }}\n", alpha("user = \"web\"", script));
    let mut bundle = with_three(&table).start();
    bundle.wait_for_generation(0, 1);
    bundle.wait_for("out", "\n");
    let pids = || -> Vec<i32> {
        let of_web = |pid: &i32| fs::metadata(format!("/proc/{pid}")).is_ok_and(|meta| meta.uid() == 3333);
        bundle.children().into_iter().filter(of_web).collect()
    };
    let leader = pids()[0];
    bundle.signal("USR1");
    bundle.wait_for_generation(0, 2);
    bundle.wait_until("its next trap", || bundle.read("out").lines().count() == 2);
    assert!(stat(leader, 3).is_none_or(|state| state == "Z"));
    // The sleeper of the first was an orphan of the same session.
    bundle.wait_until("one process of the user's", || pids().len() == 1);
    bundle.signal("TERM");
    assert_eq!(bundle.exit_code(), 137);
}

#[test]
fn a_daemon_of_another_user_may_say_ready_and_ask_for_the_status() {
    needs!(Root);
    let script = r#"use Socket; $| = 1; socket S, AF_UNIX, SOCK_DGRAM, 0; $a = $ENV{NOTIFY_SOCKET}; $a =~ s/^@/\0/;
        bind S, pack "S", AF_UNIX; $to = pack "S a*", AF_UNIX, $a; send S, "READY=1", 0, $to; send S, "STATUS?", 0, $to;
        recv S, $b, 65536, 0; print "answered\n" if $b =~ /"name":"alpha"/; sleep 1000"#;
    let table = format!(
        "[[daemon]]\nname = \"alpha\"\ncommand = [\"/usr/bin/perl\", \"-e\", '''{script}''']\nuser = \"web\"\n\
         pass_environment = []\nready = {{ notify = true }}\n\
         [[daemon]]\nname = \"beta\"\ndepends_on = [\"alpha\"]\ncommand = [\"echo\", \"after it\"]\n"
    );
    let bundle = with_three(&table).start();
    bundle.wait_for("out", "[alpha] answered\n");
    bundle.wait_for("out", "[beta] after it\n");
}

#[test]
fn what_runs_as_a_user_for_a_caller_that_ends_ends_with_it() {
    needs!(Root);
    let bundle = with_three(&alpha("user = \"web\"", "exec sleep 1000")).start();
    bundle.wait_for_generation(0, 1);
    let exe = env!("CARGO_BIN_EXE_sidecar");
    let script = format!("setpriv --pdeathsig KILL {exe} set-up-and-run 1 command alpha sleep 999 & wait");
    let mut nsenter = bundle.inside(&["sh", "-c", &script]).spawn().unwrap();
    let is_sleep = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "sleep\n");
    let (mut shell, mut sleep) = (0, 0);
    bundle.wait_until("its sleep", || {
        shell = children_of(nsenter.id().cast_signed()).first().copied().unwrap_or(0);
        sleep = children_of(shell).first().copied().unwrap_or(0);
        is_sleep(&sleep)
    });
    // SAFETY: kill(2) has no memory effects; nsenter has not reaped it.
    assert_eq!(unsafe { nix::libc::kill(shell, nix::libc::SIGKILL) }, 0);
    bundle.wait_until("its end", || stat(sleep, 3).is_none_or(|state| state == "Z"));
    let _ = nsenter.wait();
}

/// Everything at once: alpha's command, and what others run as it, tell all that they have.
const TELL: &str = "id -u; id -G; pwd; ulimit -Hn; echo $TOKEN $KEY ${OTHER-none}; cat DIR/hidden/file 2>/dev/null || echo hidden; \
                    grep -E '^(NoNewPrivs|CapPrm|Seccomp):' /proc/self/status | tr '\\n' ' '; echo";

fn everything() -> Setup {
    let keys = "user = \"web\"\nenvironment = { TOKEN = \"t\", PATH = \"/usr/bin:/bin\" }\nenv_file = \"DIR/env\"\npass_environment = []\nworking_dir = \"/usr\"\n\
                ulimits = { nofile = 99 }\nready = { exec = [\"sh\", \"-c\", '''(TELL) > DIR/all/probe'''] }\n\
                [daemon.sandbox]\nwrite = [\"DIR/all\"]";
    let table = alpha(&keys.replace("TELL", TELL), &format!("{TELL}; exec sleep 1000"))
        + "[[daemon]]\nname = \"beta\"\ncommand = [\"true\"]\ndepends_on = [\"alpha\"]\n[daemon.sandbox]\nprivate = [\"DIR/hidden\"]\n";
    let make =
        "mkdir DIR/all DIR/hidden; chown 3333 DIR/all; echo seen > DIR/hidden/file; echo KEY=k > DIR/env; exec \"$@\"";
    let bounds = format!("--bounding-set={THREE}");
    Setup::new(&table)
        .wrapped(&["sh", "-c", ACCOUNTS, "-", "sh", "-c", make, "-", "setpriv", &bounds])
        .env("OTHER", "o")
}

#[test]
fn a_probe_and_run_as_run_with_all_that_the_daemon_has() {
    needs!(Root);
    let bundle = everything().start();
    bundle.wait_until("beta's end", || bundle.daemon(1)["last_exit"]["code"] == 0);
    bundle.wait_for("out", "Seccomp");
    let out = bundle.read("out").replace("[alpha] ", "");
    assert!(out.starts_with("3333\n3334 3500 3501\n/usr\n99\nt k none\nhidden\n"), "{out} {}", bundle.read("err"));
    assert!(out.contains("NoNewPrivs:\t1") && out.contains("Seccomp:\t2"), "{out}");
    assert_eq!(bundle.read("all/probe"), out, "{}", bundle.read("err"));
    let tell = TELL.replace("DIR", bundle.dir.to_str().unwrap());
    assert_eq!(run_as(&bundle, &["alpha", "--", "/bin/sh", "-c", &tell]), (0, out, String::new()));
    let (code, _, error) = run_as(&bundle, &["alpha", "--", "no-such-program"]);
    assert_eq!(
        (code, error.as_str()),
        (127, "sidecar: cannot execute \"no-such-program\": No such file or directory (os error 2)\n")
    );
}

/// The calls that set a process up, by which error each may fail.
const STEPS: [(&str, &str); 20] = [
    ("openat", "EMFILE"),
    ("openat", "EACCES"),
    ("read", "EIO"),
    ("pread64", "EIO"),
    ("readlink", "EACCES"),
    ("statx", "EIO"),
    ("fcntl", "EINVAL"),
    ("getrlimit", "EPERM"),
    ("prlimit64", "EPERM"),
    ("setgroups", "EPERM"),
    ("setresgid", "EPERM"),
    ("setresuid", "EAGAIN"),
    ("prctl", "EPERM"),
    ("capset", "EPERM"),
    ("chdir", "EACCES"),
    ("landlock_create_ruleset", "ENOMEM"),
    ("landlock_add_rule", "ENOMEM"),
    ("landlock_restrict_self", "E2BIG"),
    ("seccomp", "EINVAL"),
    ("getdents64", "EIO"),
];

#[test]
fn a_step_that_fails_never_starts_a_command_without_it() {
    needs!(Root);
    let bundle = everything().start();
    bundle.wait_until("beta's end", || bundle.daemon(1)["last_exit"]["code"] == 0);
    bundle.wait_for("out", "Seccomp");
    let good = bundle.read("out").replace("[alpha] ", "");
    let tell = TELL.replace("DIR", bundle.dir.to_str().unwrap());
    let bounds = format!("--bounding-set={THREE},+sys_ptrace");
    let exe = env!("CARGO_BIN_EXE_sidecar");
    let mut refusals = Vec::new();
    for (call, error) in STEPS {
        for when in 1..=40 {
            let log = bundle.dir.join("strace");
            let mut command = bundle.inside(&["setpriv", &bounds, "strace", "-o"]);
            command.arg(&log);
            // Not those of the loader, and not those of the command: the first exec is followed by one more.
            command.args([
                "-e",
                &format!("trace={call},execve"),
                "-e",
                &format!("inject={call}:error={error}:when={when}"),
            ]);
            command.args([exe, "set-up-and-run", "1", "command", "alpha", "/bin/sh", "-c", &tell]);
            let Output { status, stdout, stderr } = command.output().unwrap();
            let (out, err) =
                (String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into_owned());
            let log = fs::read_to_string(&log).unwrap_or_default();
            let failed_before_its_exec =
                log.rfind("execve(\"/bin/sh\"").is_none_or(|exec| log.find("INJECTED").is_some_and(|at| at < exec));
            if !log.contains("INJECTED") || !failed_before_its_exec {
                break;
            }
            // A file that can't be looked at is hidden: that of the last line, for example.
            let is_as_strict =
                |out: &str| out.lines().zip(good.lines()).all(|(out, good)| out == good || out.is_empty());
            if out.lines().count() == good.lines().count() && is_as_strict(&out) {
                continue;
            }
            // Before its main the loader says so, with 127.
            assert_eq!(out, "", "{call} {when}: {err}");
            assert!(matches!(status.code(), Some(126 | 127)), "{call} {when}: {status}: {err}");
            if !err.contains("error while loading") {
                assert!(err.starts_with("sidecar: cannot "), "{call} {when}: {err}");
            }
            refusals.push(call);
        }
    }
    for step in
        ["setgroups", "setresgid", "setresuid", "capset", "chdir", "prlimit64", "landlock_restrict_self", "seccomp"]
    {
        assert!(refusals.contains(&step), "{step} was never refused: {refusals:?}");
    }
}

#[test]
fn a_daemon_is_never_set_up_from_a_memfd_that_is_not_inits() {
    let bundle = Bundle::start(&alpha("environment = { A = \"b\" }", "exec sleep 1000"));
    bundle.wait_for_generation(0, 1);
    let pid = bundle.children()[0].to_string();
    // The daemon isn't init: it has nothing at that descriptor.
    let output = Command::new(env!("CARGO_BIN_EXE_sidecar"))
        .args(["set-up-and-run", &pid, "command", "alpha", "true"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(126));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.starts_with("sidecar: cannot read how its process is set up: "), "{error}");
}
