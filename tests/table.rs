//! What a daemon table may contain, and that each error names the line and the fix.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sidecar::table::sandbox::Sandbox;
use sidecar::table::{
    Action, BUILT_IN, DAEMON_KEYS, MAX_DAEMONS, MAX_LISTEN, MAX_NAME, Output, Process, Ready, RestartPolicy, Signal,
    Table, Ulimit, User, parse_duration, start_order, stop_order,
};

const DAEMON: &str = "[[daemon]]\nname = \"alpha\"\ncommand = [\"a\"]\n";

#[test]
fn each_daemon_of_the_built_in_table_states_its_readiness() {
    let table = Table::parse(BUILT_IN, "built-in").unwrap();
    let names: Vec<&str> = table.daemons.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(names, ["egress", "pipelock", "git-gate", "supervise"]);
    assert!(table.daemons.iter().all(|d| d.ready.is_some()));
    assert_eq!(table.daemons[0].ready, Some(Ready::Notify));
    let wired: Vec<String> = table.wiring.iter().map(|w| w.signal.to_string()).collect();
    assert_eq!(wired, ["HUP", "USR1", "USR2", "RTMIN+1", "RTMIN+2"]);
}

#[test]
fn a_duration_is_a_whole_number_and_a_unit() {
    for (text, millis) in [("0s", 0), ("300ms", 300), ("8s", 8000), ("2m", 120_000)] {
        assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
    }
    assert_eq!(parse_duration("10080m"), Some(Duration::from_secs(7 * 24 * 3600)));
    for text in [
        "",
        "8",
        "s",
        "10081m",
        "9223372036854775808ms",
        "-1s",
        "1.5s",
        "1h",
        "8 s",
        "99999999999999999999s",
        "18446744073709551615m",
    ] {
        assert_eq!(parse_duration(text), None, "{text}");
    }
}

#[test]
fn the_default_grace_is_8_s_and_a_daemons_own_wins() {
    let table = Table::parse(&format!("{DAEMON}[[daemon]]\nname = \"b\"\ncommand = [\"b\"]\ngrace = \"0s\"\n"), "t");
    let graces: Vec<Duration> = table.unwrap().daemons.iter().map(|d| d.grace).collect();
    assert_eq!(graces, [Duration::from_secs(8), Duration::ZERO]);
}

#[test]
fn lines_get_a_prefix_unless_the_table_asks_for_json() {
    let output = |line: &str| Table::parse(&format!("{line}\n{DAEMON}"), "t").map(|t| t.output);
    assert_eq!(output(""), Ok(Output::Prefix));
    assert_eq!(output("output = \"prefix\""), Ok(Output::Prefix));
    assert_eq!(output("output = \"json\""), Ok(Output::Json));
    for (line, error) in [
        ("output = \"JSON\"", "t:1: output = \"JSON\" is unknown; write \"prefix\" (the default) or \"json\""),
        ("output = 1", "t:1: invalid type: integer `1`; write \"prefix\" or \"json\""),
    ] {
        assert_eq!(output(line).unwrap_err().to_string(), error);
    }
}

/// A daemon of that name with these lines.
fn daemon(name: &str, lines: &str) -> String {
    format!("[[daemon]]\nname = \"{name}\"\ncommand = [\"x\"]\n{lines}\n")
}

#[test]
fn by_default_a_daemon_is_not_restarted_and_is_stopped_by_term() {
    let alpha = Table::parse(DAEMON, "f").unwrap().daemons.remove(0);
    assert_eq!((alpha.restart, alpha.stop_signal), (RestartPolicy::No, Signal::TERM));
    assert!(alpha.depends_on.is_empty() && !alpha.is_oneshot && !alpha.is_essential);
}

#[test]
fn in_the_built_in_table_only_pipelock_may_connect_anywhere() {
    let table = Table::parse(BUILT_IN, "built-in").unwrap();
    let sandboxes = || table.daemons.iter().map(|daemon| daemon.sandbox.as_ref().unwrap());
    let connects = sandboxes().map(|sandbox| sandbox.connect.clone()).collect::<Vec<_>>();
    assert_eq!(connects, [Some(vec![8888]), None, Some(vec![]), Some(vec![])]);
    assert!(
        sandboxes().all(|sandbox| sandbox.bind.as_ref().is_some_and(|ports| ports.len() <= 1) && !sandbox.sessions)
    );
    let mut write: Vec<_> = sandboxes().flat_map(|sandbox| &sandbox.write).collect();
    write.sort();
    assert!(write.windows(2).all(|two| !two[1].starts_with(two[0])), "{write:?}");
}

#[test]
fn the_built_in_table_starts_its_daemons_again_when_they_fail() {
    let table = Table::parse(BUILT_IN, "built-in").unwrap();
    assert!(table.daemons.iter().all(|daemon| daemon.restart == RestartPolicy::OnFailure));
}

#[test]
fn the_tables_restart_policy_holds_for_each_daemon_that_states_none() {
    for (spelled, policy) in
        [("no", RestartPolicy::No), ("on-failure", RestartPolicy::OnFailure), ("always", RestartPolicy::Always)]
    {
        let own = format!("restart = \"{spelled}\"");
        for (first, second, expected) in [
            ("", own.as_str(), [RestartPolicy::No, policy]),
            (own.as_str(), "", [policy, policy]),
            (own.as_str(), "restart = \"no\"", [policy, RestartPolicy::No]),
        ] {
            let text = format!("{first}\n{}{}", daemon("a", ""), daemon("b", second));
            let policies: Vec<_> = Table::parse(&text, "f").unwrap().daemons.iter().map(|d| d.restart).collect();
            assert_eq!(policies, expected, "{text}");
        }
    }
}

#[test]
fn a_oneshot_takes_the_tables_always_as_on_failure() {
    let restart = |top: &str, own: &str| {
        let text = format!("{top}\n{}", daemon("a", &format!("oneshot = true\n{own}")));
        Table::parse(&text, "f").map(|table| (table.daemons[0].is_oneshot, table.daemons[0].restart))
    };
    assert_eq!(restart("", ""), Ok((true, RestartPolicy::No)));
    assert_eq!(restart("restart = \"always\"", ""), Ok((true, RestartPolicy::OnFailure)));
    assert_eq!(restart("restart = \"always\"", "restart = \"no\""), Ok((true, RestartPolicy::No)));
    let error = restart("", "restart = \"always\"").unwrap_err().to_string();
    assert_eq!(
        error,
        "f:6: a oneshot runs once to its end, so restart = \"always\" makes no sense; write \"on-failure\", which runs it \
         again until it exits 0"
    );
}

#[test]
fn a_oneshot_has_no_readiness_no_config_and_no_signal_rule() {
    let oneshot = |lines: &str| error(&daemon("a", &format!("oneshot = true\n{lines}")));
    assert_eq!(
        oneshot("ready = { notify = true }"),
        "f:5: a oneshot has no `ready`: it is ready once it has exited 0; remove either `ready` or oneshot = true"
    );
    assert_eq!(
        oneshot("config = { path = \"/a\" }"),
        "f:5: a oneshot has no `config`: apply proves a new file with a daemon that runs on; remove either `config` or \
         oneshot = true"
    );
    for action in ["restart", "forward"] {
        assert_eq!(
            oneshot(&format!("[signals]\nHUP = {{ {action} = \"a\" }}")),
            "f:6: HUP names \"a\", which is a oneshot; remove either the rule or oneshot = true there"
        );
    }
}

#[test]
fn depends_on_names_daemons_before_and_after_it_in_the_table() {
    let text = daemon("a", "depends_on = [\"c\", \"b\"]") + &daemon("b", "") + &daemon("c", "depends_on = [\"b\"]");
    let table = Table::parse(&text, "f").unwrap();
    assert_eq!(table.daemons.iter().map(|d| d.depends_on.as_slice()).collect::<Vec<_>>(), [&[2, 1][..], &[], &[1]]);
    assert_eq!(start_order(&table.daemons), [[1], [2], [0]]);
    assert_eq!(stop_order(&table.daemons), [[0], [2], [1]]);
}

#[test]
fn a_shutdown_asks_those_first_on_which_nobody_depends() {
    // `alone` starts first, but nobody has to end before it.
    let text = daemon("db", "") + &daemon("alone", "") + &daemon("app", "depends_on = [\"db\"]");
    let daemons = Table::parse(&text, "f").unwrap().daemons;
    assert_eq!(start_order(&daemons), [vec![0, 1], vec![2]]);
    assert_eq!(stop_order(&daemons), [vec![1, 2], vec![0]]);
}

#[test]
fn a_dependency_on_nobody_on_itself_or_twice_is_an_error_in_its_line() {
    for (names, expected) in [
        ("\"b\",\n\"none\"", "f:5: depends_on has \"none\", which is not a daemon in this table; name one that is"),
        ("\"a\"", "f:4: \"a\" depends on itself; remove it from its depends_on"),
        ("\"b\",\n\n\"b\"", "f:6: depends_on has \"b\" twice; keep one of the two"),
    ] {
        assert_eq!(error(&(daemon("a", &format!("depends_on = [{names}]")) + &daemon("b", ""))), expected);
    }
}

#[test]
fn a_circle_of_dependencies_is_told_from_its_first_daemon_in_the_table() {
    let on = |name: &str, names: &str| daemon(name, &format!("depends_on = [{names}]"));
    let two = on("a", "\"b\"") + &on("b", "\"a\"");
    assert_eq!(error(&two), "f:4: depends_on goes in a circle: a -> b -> a; remove one of these dependencies");
    // `out` waits for the circle, but isn't in it.
    let three =
        on("out", "\"z\"") + &on("x", "\"ok\", \"y\"") + &on("y", "\"z\"") + &on("z", "\"x\"") + &daemon("ok", "");
    assert_eq!(error(&three), "f:8: depends_on goes in a circle: x -> y -> z -> x; remove one of these dependencies");
}

#[test]
fn a_long_circle_of_dependencies_is_told_briefly() {
    let chain = |first: &str| -> String {
        let on = |n: usize| if n == 0 { first.to_owned() } else { format!("depends_on = [\"d{}\"]", n - 1) };
        (0..MAX_DAEMONS).map(|n| daemon(&format!("d{n}"), &on(n))).collect()
    };
    assert_eq!(start_order(&Table::parse(&chain(""), "f").unwrap().daemons).len(), MAX_DAEMONS);
    let error = error(&chain("depends_on = [\"d999\"]"));
    assert!(
        error.starts_with("f:4: depends_on goes in a circle: d0 -> d999 -> d998 -> ") && error.len() < 500,
        "{error}"
    );
    assert!(error.ends_with(" -> d1 -> d0; remove one of these dependencies"), "{error}");
}

#[test]
fn a_stop_signal_is_named_with_or_without_sig() {
    let signal = |name: &str| Table::parse(&daemon("a", &format!("stop_signal = \"{name}\"")), "f");
    for name in ["TERM", "QUIT", "INT", "USR1", "WINCH", "ABRT", "RTMIN+3"] {
        for spelled in [name.to_owned(), format!("SIG{name}")] {
            assert_eq!(signal(&spelled).unwrap().daemons[0].stop_signal.to_string(), name);
        }
    }
    for (name, fix) in [
        ("KILL", "KILL can't ask a process to stop; write another, like \"TERM\""),
        ("SIGSTOP", "STOP can't ask a process to stop; write another, like \"TERM\""),
        ("CONT", "CONT can't ask a process to stop; write another, like \"TERM\""),
        ("CHLD", "CHLD can't ask a process to stop; write another, like \"TERM\""),
        ("15", "write it by its name, \"TERM\""),
        ("37", "write it by its name, \"RTMIN+3\""),
        ("sigquit", "write it by its name, \"QUIT\""),
        ("9", "no signal has that name; write one like \"TERM\", \"QUIT\" or \"RTMIN+3\""),
        ("SIGSIGTERM", "no signal has that name; write one like \"TERM\", \"QUIT\" or \"RTMIN+3\""),
        ("RTMIN+31", "no signal has that name; write one like \"TERM\", \"QUIT\" or \"RTMIN+3\""),
        ("", "no signal has that name; write one like \"TERM\", \"QUIT\" or \"RTMIN+3\""),
    ] {
        assert_eq!(signal(name).unwrap_err().to_string(), format!("f:4: stop_signal = {name:?}: {fix}"));
    }
}

#[test]
fn only_signals_that_programs_are_started_with_ignored_can_be_ignored() {
    let ignore = |name: &str| Table::parse(&daemon("a", &format!("ignore = [\"{name}\"]")), "f");
    for name in ["HUP", "INT", "PIPE", "CHLD", "TTOU", "IO", "RTMIN+30"] {
        assert!(ignore(name).is_ok(), "{name}");
    }
    for name in ["KILL", "STOP", "CONT", "SEGV", "ABRT", "SIGHUP"] {
        let error = ignore(name).unwrap_err().to_string();
        assert!(error.starts_with(&format!("f:4: {name:?} is not a signal that can be ignored; ")), "{error}");
    }
}

#[test]
fn a_forward_may_say_when_always() {
    let table = Table::parse(&format!("{DAEMON}[signals]\nRTMIN+3 = {{ forward = \"alpha\" }}\n"), "t");
    assert!(table.is_err(), "a bare key can't have a plus in TOML");
    let text = format!("{DAEMON}[signals]\n\"RTMIN+3\" = {{ forward = \"alpha\", when = \"always\" }}\n");
    let table = Table::parse(&text, "t").unwrap();
    assert_eq!(table.wiring[0].action, Action::Forward { always: true });
    assert_eq!(table.wiring[0].signal, Signal::RealTime(3));
}

#[test]
fn an_error_names_the_file_the_line_and_what_is_wrong() {
    let cases = [
        ("", "f: no daemons"),
        ("[[daemon]]\nname = \"a\"\ncomand = [\"a\"]\n", "f:3: unknown field `comand`"),
        ("grace = \"8 s\"\n[[daemon]]\nname = \"a\"\ncommand = [\"a\"]\n", "f:1: grace"),
        ("grace = 8\n", "f:1: invalid type: integer `8`; write a duration in quotes"),
        (
            "[[daemon]]\nname = \"a\"\ncommand = \"/bin/a --x\"\n",
            "f:3: invalid type: string \"/bin/a --x\"; write an array",
        ),
        ("[[daemon]]\nname = \"a\"\n", "f:1: missing field `command`"),
        ("[daemon]\nname = \"a\"\ncommand = [\"a\"]\n", "f:1: invalid type: map; write [[daemon]]"),
        (
            "[[daemon]]\nname = \"a\"\ncommand = [\"a\"]\nready = \"127.0.0.1:80\"\n",
            "f:4: invalid type: string \"127.0.0.1:80\"; write { tcp",
        ),
        ("[signals]\nUSR1 = \"a\"\n", "f:2: invalid type: string \"a\"; write { restart"),
        ("[signals]\nRTMIN+1 = { restart = \"a\" }\n", "f:2: invalid unquoted key.*needs quotes, like \"RTMIN+1\""),
        ("[[daemon]]\nname = \"-a\"\ncommand = [\"a\"]\n", "f:2: \"-a\" is not a valid daemon name"),
        ("[[daemon]]\nname = \"a\"\ncommand = []\n", "f:3: command is empty"),
        ("[[daemon]]\nname = \"a\"\ncommand = [\"\"]\n", "f:3: command has an empty program"),
        ("[[daemon]]\nname = \"a\"\ncommand = [\"a\", \"\\u0000\"]\n", "f:3: command has a NUL byte"),
        ("[[daemon]]\nname = \"a\"\ncommand = [\"a\"]\nignore = [\"NOPE\"]\n", "f:4: \"NOPE\""),
        ("[[daemon]]\nname = \"a\"\ncommand = [\"a\"]\nready = { tcp = \"localhost:1\" }\n", "f:4: ready.tcp"),
        ("[[daemon]]\nname = \"a\"\ncommand = [\"a\"]\nready = {}\n", "f:4: ready takes exactly one"),
        ("[[daemon]]\nname = \"a\"\ncommand = [\"a\"]\nconfig = { path = \"x\" }\n", "f:4: config.path"),
        (
            "[[daemon]]\nname = \"a\"\ncommand = [\"a\"]\nconfig = { path = \"/x\", check = [\"c\"] }\n",
            "f:4: config.check",
        ),
    ];
    let wiring = [
        ("NOPE = { restart = \"alpha\" }", "is not a signal"),
        ("TERM = { restart = \"alpha\" }", "can't have a rule"),
        ("SEGV = { restart = \"alpha\" }", "can't have a rule"),
        ("\"RTMIN+31\" = { restart = \"alpha\" }", "is not a signal"),
        ("\"RTMIN+01\" = { restart = \"alpha\" }", "is not a signal"),
        ("\"RTMIN++1\" = { restart = \"alpha\" }", "is not a signal"),
        ("HUP = {}", "no action"),
        ("HUP = { forward = \"alpha\", restart = \"alpha\" }", "two actions"),
        ("HUP = { forward = \"nobody\" }", "not a daemon in this table"),
        ("HUP = { restart = \"alpha\", when = \"always\" }", "when"),
    ];
    let wiring = wiring.map(|(line, text)| (format!("{DAEMON}[signals]\n{line}\n"), format!("f:5: .*{text}")));
    let twice = format!("{DAEMON}{DAEMON}");
    let same_file =
        |name, path| format!("[[daemon]]\nname = \"{name}\"\ncommand = [\"a\"]\nconfig = {{ path = \"{path}\" }}\n");
    let same_file = same_file("a", "/x/y") + &same_file("b", "/x//y");
    let cases = cases.map(|(text, error)| (text.to_owned(), error.to_owned()));
    let twice = (twice, "f:5: a second daemon named".to_owned());
    let same_file = (same_file, "f:6: config.path is also that of \"a\"".to_owned());
    for (text, expected) in cases.into_iter().chain(wiring).chain([twice, same_file]) {
        let error = Table::parse(&text, "f").unwrap_err().to_string();
        let (start, rest) = expected.split_once(".*").unwrap_or((&expected, ""));
        assert!(error.starts_with(start) && error.contains(rest), "{text}\nexpected {expected}\ngot {error}");
    }
}

fn error(text: &str) -> String {
    Table::parse(text, "f").err().map(|e| e.to_string()).unwrap_or_default()
}

#[test]
fn a_key_that_is_nested_too_deeply_is_told_with_its_line() {
    let deep = ".a".repeat(200);
    for line in [
        format!("x{deep} = 1"),
        format!("[x{deep}]"),
        format!("config = {{ x{deep} = 1 }}"),
        format!("x = {}", "[".repeat(200)),
        format!("x = {}", "{a=".repeat(200)),
    ] {
        let error = error(&format!("# a comment{deep}\n{DAEMON}{line}\n"));
        assert!(error.starts_with("f:5: nested too deeply;"), "{error}");
    }
}

#[test]
fn a_date_is_called_a_date_whichever_key_it_is_given_to() {
    let tables = [
        ("grace = 2026-01-01T00:00:00Z", "f:4: invalid type: date or time; write a duration"),
        ("ready = 10:00:00", "f:4: invalid type: date or time; write { tcp"),
        ("ready = { notify = 2026-01-01 }", "f:4: invalid type: date or time; write { tcp"),
        ("config = 2026-01-01", "f:4: invalid type: date or time; write { path"),
        ("config = { path = 2026-01-01 }", "f:4: invalid type: date or time; write { path"),
        ("[signals]\nHUP = 2026-01-01", "f:5: invalid type: date or time; write { restart"),
    ];
    for (line, expected) in tables {
        let error = error(&format!("{DAEMON}{line}\n"));
        assert!(error.starts_with(expected), "{error}");
    }
    for table in ["signals = 2026-01-01", "daemon = [2026-01-01]", "[[daemon]]\nname = 2026-01-01\ncommand = [\"a\"]"] {
        assert!(error(table).contains(": invalid type: date or time; write "), "{}", error(table));
    }
}

#[test]
fn nothing_of_a_table_reaches_a_terminal_that_it_would_act_on() {
    // Right-to-left override and isolate, no width, a byte order mark, escape, C1.
    let odd = "\u{202e}\u{2066}\u{200b}\u{feff}";
    let escaped = "\\u001b\\u009b";
    for line in [
        format!("\"{odd}{escaped}\" = 1"),
        format!("grace = \"{odd}{escaped}\""),
        format!("ignore = \"{odd}{escaped}\""),
        format!("ignore = [\"{odd}{escaped}\"]"),
        format!("config = {{ path = \"{odd}{escaped}\" }}"),
        format!("config = {{ \"{odd}{escaped}\" = 1 }}"),
        format!("ready = {{ tcp = \"{odd}{escaped}\" }}"),
        format!("ready = {{ http = \"{odd}{escaped}\" }}"),
        format!("[signals]\n\"{odd}{escaped}\" = {{ restart = \"alpha\" }}"),
        format!("[signals]\nHUP = {{ restart = \"{odd}{escaped}\" }}"),
        format!("[signals]\nHUP = {{ forward = \"alpha\", when = \"{odd}{escaped}\" }}"),
    ] {
        let error = error(&format!("{DAEMON}{line}\n"));
        assert!(error.bytes().all(|b| matches!(b, b' '..=b'~')), "{error:?}");
    }
    assert!(error(&format!("{DAEMON}\"\u{202e}x\" = 1")).contains("unknown field `\\u{202e}x`"));
}

#[test]
fn an_error_that_quotes_a_long_text_is_short_and_ends_in_its_fix() {
    let error = error(&format!("grace = \"{}\"\n{DAEMON}", "x".repeat(100_000)));
    assert!(error.len() < 500 && error.ends_with(r#"ms, s or m, as in "8s""#), "{error}");
}

#[test]
fn names_numbers_and_sizes_out_of_range_are_errors() {
    let daemon = |name: &str| daemon(name, "");
    assert!(Table::parse(&daemon(&"a".repeat(MAX_NAME)), "f").is_ok());
    let many = |n: usize| (0..n).map(|n| daemon(&format!("d{n}"))).collect::<String>();
    assert!(Table::parse(&many(MAX_DAEMONS), "f").is_ok());
    let cases = [
        (daemon(&"a".repeat(MAX_NAME + 1)), "f:2: name is too long (64 bytes); use at most 63"),
        (many(26_000), "f:4002: 26000 daemons are too many; a table holds at most 1000"),
        (
            format!("grace = \"9223372036854775808ms\"\n{DAEMON}"),
            "f:1: grace = \"9223372036854775808ms\" is out of range; the longest is a week, \"10080m\"",
        ),
        (
            format!("{DAEMON}settle = \"99999999999999999999m\"\n"),
            "f:4: settle = \"99999999999999999999m\" is out of range",
        ),
        (format!("{DAEMON}ready = {{ tcp = \"127.0.0.1:0\" }}\n"), "f:4: ready has port 0"),
        (format!("{DAEMON}ready = {{ http = \"http://127.0.0.1:0/\" }}\n"), "f:4: ready has port 0"),
        (
            format!("{DAEMON}ready = {{ exec = [\"a\", \"{}\"] }}\n", "x".repeat(131_072)),
            "f:4: ready.exec has an argument that is too long",
        ),
        (
            format!("[[daemon]]\nname = \"a\"\ncommand = [{}]\n", "\"x\",".repeat(200_000)),
            "f:3: command has more arguments",
        ),
        (format!("{DAEMON}config = {{ path = \"/{}\" }}\n", "x".repeat(241)), "f:4: config.path is too long"),
        (format!("{DAEMON}config = {{ path = \"{}/x\" }}\n", "/x".repeat(2_047)), "f:4: config.path is too long"),
    ];
    for (table, expected) in cases {
        assert!(error(&table).starts_with(expected), "{} is not {expected}", error(&table));
    }
}

#[test]
fn a_config_path_names_one_file_in_one_way() {
    let with = |path: &str| Table::parse(&format!("{DAEMON}config = {{ path = \"{path}\" }}\n"), "f");
    for path in ["/a", "/a/b.c", "/a/..b", "/a/.b", "/.../a", "/a.sidecar", "/a/b.sidecar-old"] {
        assert!(with(path).is_ok(), "{path}");
    }
    for path in ["", "/", "//", "/a/", "/a/.", "/a/..", "/..", "/.", "a", "./a", "../a"] {
        let error = with(path).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("f:4: config.path = \"{path}\" names no file; write its absolute path")),
            "{error}"
        );
    }
    assert!(with("/a/../b").unwrap_err().to_string().contains("contains `..`; write the path without it"));
    for path in ["/a/.b.sidecar", "/a/.sidecar-old.b", "/a/.sidecar-new.b", "/a/.sidecar-other.b"] {
        assert!(with(path).unwrap_err().to_string().contains("reserves for its own files"), "{path}");
    }
}

#[test]
fn an_odd_encoding_is_told_with_its_line() {
    let directory = std::env::temp_dir().join(format!("sidecar-table-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = directory.join("daemons.toml");
    let load = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        Table::load(Some(&file)).map_err(|e| (e.line, e.message))
    };
    let latin1 = load(&[DAEMON.as_bytes(), b"# caf\xe9\n"].concat());
    assert_eq!(latin1.unwrap_err(), (Some(4), "this line isn't UTF-8; save the table in that encoding".to_owned()));
    let nul = load(format!("{DAEMON}\0").as_bytes());
    assert_eq!(nul.unwrap_err(), (Some(4), "a NUL byte; a daemon table is text".to_owned()));
    let windows = DAEMON.replace('\n', "\r\n");
    assert!(load(format!("\u{feff}{windows}").as_bytes()).is_ok());
    assert_eq!(load(format!("{windows}x = 1\r\n").as_bytes()).unwrap_err().0, Some(4));
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_key_that_another_tool_spells_otherwise_is_told_with_ours() {
    for (line, fix) in [
        ("stop_grace_period = \"8s\"", "write grace"),
        ("[daemon.healthcheck]\ntest = [\"CMD\", \"a\"]", "write ready"),
        ("ready = { test = [\"CMD\", \"a\"] }", "write exec, without \"CMD\""),
        ("[daemon.ready]\ninterval = \"5s\"", "only while something waits for that"),
        ("entrypoint = [\"a\"]", "write command: the program and its arguments"),
        ("container_name = \"a\"", "write name"),
        ("image = \"a\"", "a daemon is a program of this container's image: write command"),
        ("ports = [\"80:80\"]", "where you start it (compose.yaml, docker run)"),
        ("[services.web]", "write a [[daemon]] with name and command for each"),
        ("dependsOn = [\"a\"]", "write depends_on"),
        ("stop-signal = \"TERM\"", "write stop_signal"),
        ("stopsignal = \"TERM\"", "write stop_signal"),
        ("autorestart = true", "write restart = \"no\", \"on-failure\" or \"always\""),
        ("priority = 1", "write depends_on = [\"NAME\"]"),
        ("stopwaitsecs = 10", "write grace"),
        ("startsecs = 1", "write settle"),
        ("stdout_logfile_maxbytes = 0", "what a daemon prints goes to the container's log"),
        ("minfds = 1024", "write ulimits = { nofile = 1024 }"),
        ("[supervisorctl]\nserverurl = \"a\"", "like docker exec NAME /proc/1/exe status"),
        ("[program.web]", "write a [[daemon]] with name and command for each"),
        ("autostart = false", "CLAUDE_BOTTLE_SIDECAR_DAEMONS names in the container's environment"),
        ("dependencies = [\"a\"]", "write depends_on"),
    ] {
        let error = error(&format!("{DAEMON}{line}\n"));
        assert!(error.contains(": unknown field `") && error.ends_with(fix), "{error}");
    }
}

#[test]
fn a_key_of_systemd_or_compose_is_told_with_ours() {
    for (line, fix) in [
        ("directory = '/a'", "write working_dir"),
        ("WorkingDirectory = '/a'", "write working_dir"),
        ("working-dir = '/a'", "write working_dir"),
        ("User = 'a'", "write user"),
        ("Group = 'a'", "write it in user, like user = \"NAME:GROUP\""),
        ("group_add = ['a']", "a daemon is in all the groups that /etc/group has that user in"),
        ("umask = '022'", "set it in the command: [\"sh\", \"-c\", \"umask 027; exec PROGRAM\"]"),
        ("Environment = 'A=b'", "write environment"),
        ("env = { A = 'b' }", "write environment = { KEY = \"value\" }"),
        ("EnvironmentFile = '/a'", "write env_file"),
        ("PassEnvironment = 'A'", "write pass_environment"),
        ("LimitNOFILE = 1024", "write ulimits = { nofile = 1024 }"),
        ("ListenStream = 80", "write listen = [{ tcp = \"0.0.0.0:9100\" }]"),
        ("ExecStart = '/a'", "write command: the program and its arguments"),
        ("expose = [80]", "where you start it (compose.yaml, docker run)"),
        ("privileged = true", "where you start it (compose.yaml, docker run)"),
        ("cap_add = ['KILL']", "where you start it (compose.yaml, docker run)"),
        ("sysctls = { a = 1 }", "where you start it (compose.yaml, docker run)"),
    ] {
        let error = error(&format!("{DAEMON}{line}\n"));
        assert!(error.starts_with("f:4: unknown field `") && error.ends_with(fix), "{error}");
    }
}

#[test]
fn a_configuration_of_supervisord_is_called_that() {
    let conf =
        "; of a container\n[supervisord]\nnodaemon=true\n[program:web]\ncommand=gunicorn\nenvironment=PORT=\"80\"\n";
    let said = error(conf);
    assert!(
        said.starts_with("f:2: this is supervisord's configuration, not a daemon table; write a file with a"),
        "{said}"
    );
    assert!(error("[program:web]\ncommand=a\n").starts_with("f:1: this is supervisord's configuration"));
    // A table may have a line like that in a script.
    let said =
        error("[[daemon]]\nname = \"a\"\ncommand = [\"sh\", \"-c\", \"\"\"\n[supervisord]\n\"\"\"]\nnokey = 1\n");
    assert!(said.starts_with("f:6: unknown field `nokey`"), "{said}");
}

#[test]
fn a_key_in_the_wrong_place_is_told_where_it_belongs() {
    let at_daemon = "write it below the [[daemon]] that it is for";
    for key in DAEMON_KEYS.iter().filter(|key| !matches!(**key, "grace" | "restart")) {
        let error = error(&format!("{key} = 1\n{DAEMON}"));
        assert_eq!(error, format!("f:1: unknown field `{key}`; {at_daemon}"));
    }
    let at_sandbox = "it belongs to the daemon: write it above [daemon.sandbox]";
    let at_top = "it is for all daemons: write it above the first [[daemon]]";
    for (lines, fix) in [
        ("[daemon.sandbox]\nuser = 'a'", at_sandbox),
        ("[daemon.sandbox]\nlisten = []", at_sandbox),
        ("[daemon.sandbox]\nrequire_sandbox = true", at_top),
        ("\nrequire_sandbox = true", at_top),
        ("\noutput = 'json'", at_top),
        ("\nwrite = ['/a']", "write it below [daemon.sandbox]"),
        ("\nudp = true", "write it below [daemon.sandbox]"),
    ] {
        let error = error(&format!("{DAEMON}{lines}\n"));
        assert!(error.starts_with("f:5: unknown field `") && error.ends_with(&format!("; {fix}")), "{error}");
    }
}

#[test]
fn a_daemon_that_states_nothing_of_its_process_gets_what_init_has() {
    let alpha = Table::parse(DAEMON, "f").unwrap().daemons.remove(0);
    assert_eq!((alpha.process, alpha.listen), (Process::default(), Vec::new()));
}

#[test]
fn a_process_is_made_as_its_keys_say() {
    let text = daemon(
        "a",
        "user = 'app:1000'\nenvironment = { B = '', A = 'x=y z' }\nenv_file = '/etc//a/./env'\n\
         pass_environment = ['TZ', 'LC_*', '*']\nworking_dir = '/srv/a/'\nulimits = { nofile = 1024, core = 0, memlock = -1 }",
    );
    let process = Table::parse(&text, "f").unwrap().daemons.remove(0).process;
    let limit = |name: &str, value| Ulimit { name: name.to_owned(), value };
    let expected = Process {
        user: Some(User { user: "app".to_owned(), group: Some("1000".to_owned()) }),
        environment: [("A", "x=y z"), ("B", "")].map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        env_file: Some(PathBuf::from("/etc/a/env")),
        pass_environment: Some(["TZ", "LC_*", "*"].map(str::to_owned).to_vec()),
        working_dir: Some(PathBuf::from("/srv/a")),
        ulimits: vec![limit("core", Some(0)), limit("memlock", None), limit("nofile", Some(1024))],
    };
    assert_eq!(process, expected);
    // Compose's long form, as TOML has it.
    let tables = daemon("a", "[daemon.environment]\nA = 'x=y z'\nB = ''\n[daemon.ulimits]\ncore = 0");
    assert_eq!(Table::parse(&tables, "f").unwrap().daemons[0].process.environment, expected.environment);
}

#[test]
fn a_user_is_a_name_or_a_number_with_or_without_a_group() {
    let user = |spelled: &str| Table::parse(&daemon("a", &format!("user = {spelled:?}")), "f");
    for (spelled, name, group) in [
        ("app", "app", None),
        ("1000", "1000", None),
        ("app:www-data", "app", Some("www-data")),
        ("0:4294967294", "0", Some("4294967294")),
        ("_apt:nogroup", "_apt", Some("nogroup")),
    ] {
        let User { user, group: its } = user(spelled).unwrap().daemons.remove(0).process.user.unwrap();
        assert_eq!((user.as_str(), its.as_deref()), (name, group));
    }
    for (spelled, fault) in [
        ("", "has no user"),
        (":1000", "has no user"),
        ("app:", "has no group"),
        ("a:b:c", "has a group that isn't a valid name"),
        ("a b", "has a user that isn't a valid name"),
        ("a\nb", "has a user that isn't a valid name"),
        ("-1", "has a user that begins with -"),
        ("4294967295", "has a number that is out of range (the highest is 4294967294)"),
        ("1:99999999999999999999", "has a number that is out of range (the highest is 4294967294)"),
    ] {
        let fix = "write \"NAME\", \"UID\", \"NAME:GROUP\" or \"UID:GID\"";
        assert_eq!(user(spelled).unwrap_err().to_string(), format!("f:4: user = {spelled:?} {fault}; {fix}"));
    }
}

#[test]
fn a_process_that_cannot_be_made_is_an_error_with_its_line_and_the_fix() {
    let user = "write it in quotes, like \"app\", \"1000\", \"app:group\" or \"1000:1000\"";
    let environment = "write { KEY = \"value\" }: each value is a string in quotes, and a number is one too";
    let ulimits = "write { nofile = 1024, core = 0 }: one number for the soft and the hard limit; -1 is unlimited";
    for (lines, expected) in [
        ("user = 1000", format!("4: invalid type: integer `1000`; {user}")),
        ("user = app", format!("4: an unquoted word; {user}")),
        ("environment = ['A=b']", format!("4: invalid type: sequence; {environment}")),
        ("environment = { PORT = 80 }", format!("4: invalid type: integer `80`; {environment}")),
        ("environment.PORT = 80", format!("4: invalid type: integer `80`; {environment}")),
        ("[daemon.environment]\nA = 'a'\nPORT = 80", format!("6: invalid type: integer `80`; {environment}")),
        ("[daemon.environment]\nname = true", format!("5: invalid type: boolean `true`; {environment}")),
        ("[daemon.environment.A]\nb = 'c'", format!("4: invalid type: map; {environment}")),
        ("environment = { '' = 'a' }", "4: environment has an empty name; name the variable".to_owned()),
        (
            "[daemon.environment]\n'A=b' = 'c'",
            "5: environment has \"A=b\", but no variable's name contains `=`; write only the name".to_owned(),
        ),
        (
            "environment = { \"A\\u0000\" = 'c' }",
            "4: environment has \"A\\0\", but no variable's name contains a NUL byte; take it out".to_owned(),
        ),
        (
            "[daemon.environment]\nA = ''\nB = \"\\u0000\"",
            "6: the value of \"B\" has a NUL byte, which no variable can hold; take it out".to_owned(),
        ),
        (
            "environment = { NOTIFY_SOCKET = '' }",
            "4: environment has NOTIFY_SOCKET, which init sets for each daemon; take it out".to_owned(),
        ),
        (
            "env_file = ['/a', '/b']",
            "4: invalid type: sequence; write one absolute path in quotes, like \"/etc/app.env\"".to_owned(),
        ),
        ("env_file = 'a.env'", "4: env_file = \"a.env\" is not an absolute path; write it from / on".to_owned()),
        ("env_file = '/a/../b'", "4: env_file = \"/a/../b\" contains `..`; write the path without it".to_owned()),
        ("env_file = '/a/'", "4: env_file = \"/a/\" names no file; write its absolute path".to_owned()),
        ("env_file = '/a/.'", "4: env_file = \"/a/.\" names no file; write its absolute path".to_owned()),
        ("env_file = '/'", "4: env_file = \"/\" names no file; write its absolute path".to_owned()),
        (
            "pass_environment = 'TZ'",
            "4: invalid type: string \"TZ\"; write an array of names, like [\"TZ\", \"LC_*\"]".to_owned(),
        ),
        (
            "pass_environment = ['TZ',\n'A=b']",
            "5: pass_environment has \"A=b\", but takes only names; to set the variable, write environment = { A = \"b\" }".to_owned(),
        ),
        ("pass_environment = ['']", "4: pass_environment has an empty name; name the variable".to_owned()),
        (
            "pass_environment = ['*_PROXY']",
            "4: pass_environment has \"*_PROXY\", but a `*` stands for the end of a name only".to_owned(),
        ),
        ("pass_environment = ['A', 'A']", "4: pass_environment has \"A\" twice; keep one of the two".to_owned()),
        (
            "pass_environment = [\"A\\u0000\"]",
            "4: pass_environment has \"A\\0\", but no variable's name contains a NUL byte; take it out".to_owned(),
        ),
        ("working_dir = 'srv'", "4: working_dir = \"srv\" is not an absolute path; write it from / on".to_owned()),
        (
            "working_dir = \"/a\\u0000\"",
            "4: working_dir = \"/a\\0\" has a NUL byte, which no path can hold; take it out".to_owned(),
        ),
        ("working_dir = '/a/..'", "4: working_dir = \"/a/..\" contains `..`; write the path without it".to_owned()),
        ("ulimits = { nofile = { soft = 1, hard = 2 } }", format!("4: invalid type: map; {ulimits}")),
        ("[daemon.ulimits.nofile]\nsoft = 1", format!("4: invalid type: map; {ulimits}")),
        ("[daemon.ulimits]\nnofile = '1024'", format!("5: invalid type: string \"1024\"; {ulimits}")),
        ("ulimits = { core = 'unlimited' }", format!("4: invalid type: string \"unlimited\"; {ulimits}")),
        ("ulimits.core = unlimited", format!("4: an unquoted word; {ulimits}")),
        ("ulimits = 1024", format!("4: invalid type: integer `1024`; {ulimits}")),
        ("ulimits = { LimitNOFILE = 1 }", "4: ulimits has \"LimitNOFILE\", which isn't a limit; write nofile".to_owned()),
        ("ulimits = { RLIMIT_CORE = 1 }", "4: ulimits has \"RLIMIT_CORE\", which isn't a limit; write core".to_owned()),
        (
            "ulimits = { files = 1 }",
            "4: ulimits has \"files\", which isn't a limit; write one of as, core, cpu, data, fsize, locks, memlock, msgqueue, \
             nice, nofile, nproc, rss, rtprio, rttime, sigpending, stack"
                .to_owned(),
        ),
        ("ulimits = { core = -2 }", "4: ulimits.core = -2 is out of range; write 0 or more, or -1 for unlimited".to_owned()),
        (
            "ulimits = { nofile = -1 }",
            "4: ulimits.nofile = -1: open files can't be unlimited; write a number, of at most fs.nr_open (usually 1048576)"
                .to_owned(),
        ),
    ] {
        assert_eq!(error(&format!("{DAEMON}{lines}\n")), format!("f:{expected}"), "{lines}");
    }
}

#[test]
fn an_environment_and_a_path_longer_than_the_kernel_takes_are_errors() {
    let many = |n: usize| (0..n).map(|n| format!("V{n} = ''\n")).collect::<Vec<_>>().concat();
    assert_eq!(error(&daemon("a", &format!("[daemon.environment]\n{}", many(1000)))), "");
    let names = |n: usize| (0..n).map(|n| format!("'V{n}',")).collect::<Vec<_>>().concat();
    assert_eq!(error(&daemon("a", &format!("pass_environment = [{}]", names(1000)))), "");
    for (lines, expected) in [
        (format!("[daemon.environment]\n{}", many(1001)), "environment is too long; state at most 1000 variables"),
        (format!("environment = {{ A = '{}' }}", "x".repeat(131_070)), "\"A\" is too long with its value;"),
        (
            (0..9).map(|n| format!("environment.A{n} = '{}'\n", "x".repeat(120_000))).collect::<Vec<_>>().concat(),
            "environment is too long; state at most 1000 variables of 1048576 bytes",
        ),
        (format!("pass_environment = [{}]", names(1001)), "f:4: pass_environment has too many names"),
        (format!("working_dir = '/{}'", "x".repeat(4095)), "f:4: working_dir = \"/xxx"),
        (format!("env_file = '/{}'", "x".repeat(4095)), "f:4: env_file = \"/xxx"),
    ] {
        let error = error(&daemon("a", &lines));
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn listen_names_the_sockets_of_a_daemon_in_its_order() {
    let text =
        daemon("a", "listen = [{ tcp = '[::1]:80' }, { tcp = '0.0.0.0:9100' }]\nready = { tcp = '127.0.0.1:80' }")
            + &daemon("b", "[[daemon.listen]]\ntcp = '0.0.0.0:80'");
    let table = Table::parse(&text, "f").unwrap();
    let addresses = |daemon: usize| table.daemons[daemon].listen.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        (addresses(0), addresses(1)),
        (vec!["[::1]:80".to_owned(), "0.0.0.0:9100".to_owned()], vec!["0.0.0.0:80".to_owned()])
    );
}

#[test]
fn a_socket_that_init_cannot_hold_is_an_error_with_line_and_fix() {
    let form = "write [{ tcp = \"0.0.0.0:9100\" }]";
    let no_address = |spelled: &str| {
        format!(
            "4: listen has {spelled:?}, which is not an address; write IP:PORT, as in \"0.0.0.0:9100\", or \"[::]:9100\" for \
             IPv6 too"
        )
    };
    for (lines, expected) in [
        ("listen = '0.0.0.0:80'", format!("4: invalid type: string \"0.0.0.0:80\"; {form}")),
        ("listen = ['0.0.0.0:80']", format!("4: invalid type: string \"0.0.0.0:80\"; {form}")),
        ("listen = { tcp = '0.0.0.0:80' }", format!("4: invalid type: map; {form}")),
        ("listen = [{ tcp = 80 }]", format!("4: invalid type: integer `80`; {form}")),
        ("[[daemon.listen]]\ntcp = 80", format!("5: invalid type: integer `80`; {form}")),
        ("[daemon.listen]\ntcp = '0.0.0.0:80'", format!("4: invalid type: map; {form}")),
        ("listen = [{ udp = '0.0.0.0:80' }]", "4: unknown field `udp`, expected `tcp`".to_owned()),
        ("listen = [{ tcp = '0.0.0.0:0' }]", "4: listen has \"0.0.0.0:0\" with port 0, which stands for any free port; write the daemon's port".to_owned()),
        ("listen = [{ tcp = ':80' }]", no_address(":80")),
        ("listen = [{ tcp = 'localhost:80' }]", no_address("localhost:80")),
        ("listen = [{ tcp = '80' }]", no_address("80")),
        ("listen = [{ tcp = '0.0.0.0:65536' }]", no_address("0.0.0.0:65536")),
        (
            "oneshot = true\nlisten = [{ tcp = '0.0.0.0:80' }]",
            "5: a oneshot has no `listen`: nobody would accept a connection once it has ended; remove either `listen` or \
             oneshot = true"
                .to_owned(),
        ),
    ] {
        assert_eq!(error(&format!("{DAEMON}{lines}\n")), format!("f:{expected}"), "{lines}");
    }
}

#[test]
fn two_sockets_that_the_kernel_would_not_hold_at_once_are_an_error() {
    let listen = |addr: &str| format!("listen = [{{ tcp = '{addr}' }}]");
    let fix = "give each socket an address or a port of its own";
    for (held, further, described) in [
        ("0.0.0.0:80", "127.0.0.1:80", "0.0.0.0:80 (every address of IPv4)"),
        ("127.0.0.1:80", "0.0.0.0:80", "127.0.0.1:80 already"),
        ("127.0.0.1:80", "127.0.0.1:80", "127.0.0.1:80 already"),
        ("[::]:80", "127.0.0.1:80", "[::]:80 (every address, of IPv4 too)"),
        ("[::]:80", "[::1]:80", "[::]:80 (every address, of IPv4 too)"),
        ("[::1]:80", "[::]:80", "[::1]:80 already"),
        ("0.0.0.0:80", "[::]:80", "0.0.0.0:80 (every address of IPv4)"),
        ("0.0.0.0:80", "[::ffff:127.0.0.1]:80", "0.0.0.0:80 (every address of IPv4)"),
        ("127.0.0.1:80", "[::ffff:127.0.0.1]:80", "127.0.0.1:80 already"),
    ] {
        let of_two = error(&(daemon("a", &listen(held)) + &daemon("b", &listen(further))));
        assert_eq!(of_two, format!("f:8: listen has {further}, but \"a\" listens on {described}; {fix}"));
        let of_one = error(&daemon("a", &format!("listen = [{{ tcp = '{held}' }},\n{{ tcp = '{further}' }}]")));
        assert_eq!(of_one, format!("f:5: listen has {further}, but it listens on {described}; {fix}"));
    }
    for (held, further) in [
        ("0.0.0.0:80", "127.0.0.1:81"),
        ("127.0.0.1:80", "127.0.0.2:80"),
        ("0.0.0.0:80", "[::1]:80"),
        ("[fe80::1%1]:80", "[fe80::1%2]:80"),
    ] {
        assert_eq!(error(&(daemon("a", &listen(held)) + &daemon("b", &listen(further)))), "");
    }
}

#[test]
fn a_tcp_probe_of_a_socket_that_init_holds_is_an_error() {
    let with = |listen: &str, ready: &str| {
        error(&daemon("a", &format!("ready = {{ {ready} }}\nlisten = [{{ tcp = '{listen}' }}]")))
    };
    for (listen, ready) in [("0.0.0.0:80", "127.0.0.1:80"), ("127.0.0.1:80", "0.0.0.0:80"), ("[::]:80", "127.0.0.1:80")]
    {
        assert_eq!(
            with(listen, &format!("tcp = '{ready}'")),
            format!(
                "f:5: ready.tcp would connect to {listen}, which init holds whether or not \"a\" serves; write ready = {{ http \
                 = \"http://IP:PORT/PATH\" }} or {{ notify = true }}"
            )
        );
    }
    for (listen, ready) in [
        ("127.0.0.1:80", "tcp = '127.0.0.1:81'"),
        ("127.0.0.1:80", "http = 'http://127.0.0.1:80/'"),
        ("127.0.0.1:80", "notify = true"),
    ] {
        assert_eq!(with(listen, ready), "");
    }
}

#[test]
fn more_sockets_than_init_has_descriptors_for_are_an_error() {
    let listen = |daemon: usize, n: usize| {
        (0..n).map(|n| format!("{{ tcp = '127.0.{daemon}.{n}:80' }},")).collect::<Vec<_>>().concat()
    };
    let one = |number: usize, n: usize| daemon(&format!("d{number}"), &format!("listen = [{}]", listen(number, n)));
    assert_eq!(error(&one(0, MAX_LISTEN)), "");
    let too_many = "f:4: listen has too many addresses; a daemon may have 64, and a table 1000 in all";
    assert_eq!(error(&one(0, MAX_LISTEN + 1)), too_many);
    assert_eq!(error(&(0..20).map(|number| one(number, 50)).collect::<String>()), "");
    assert!(error(&(0..21).map(|number| one(number, 50)).collect::<String>()).ends_with("a table 1000 in all"));
}

#[test]
fn a_value_that_another_tool_spells_otherwise_is_told_with_ours() {
    let no_map = "invalid type: map; write an array of names, like [\"db\"]: each must be ready first (a oneshot: must have \
                  exited 0)";
    let three = "write \"no\", \"on-failure\" or \"always\"";
    let is_unknown = |value: &str, fix: &str| format!("restart = {value:?} is unknown; {fix}");
    for (line, expected) in [
        ("depends_on = { db = { condition = \"service_healthy\" } }", no_map.to_owned()),
        ("depends_on.db.condition = \"service_healthy\"", no_map.to_owned()),
        ("[daemon.depends_on.db]\ncondition = \"service_healthy\"", no_map.to_owned()),
        ("depends_on = \"db\"", no_map.replace("map", "string \"db\"")),
        (
            "restart = \"unless-stopped\"",
            is_unknown("unless-stopped", "write \"always\": a daemon that was stopped on request stays stopped"),
        ),
        (
            "restart = \"on-failure:5\"",
            is_unknown(
                "on-failure:5",
                "write \"on-failure\": it never gives up, and waits up to a minute between two tries",
            ),
        ),
        ("restart = \"never\"", is_unknown("never", three)),
        ("restart = true", format!("invalid type: boolean `true`; {three}")),
        ("restart = no", format!("an unquoted word; {three}")),
        ("restart = on-failure", format!("an unquoted word; {three}")),
        ("oneshot = \"yes\"", "invalid type: string \"yes\"; write true or false, without quotes".to_owned()),
        ("essential = yes", "an unquoted word; write true or false, without quotes".to_owned()),
        ("stop_signal = 15", "invalid type: integer `15`; write a signal's name in quotes, like \"TERM\"".to_owned()),
        ("stop_signal = TERM", "an unquoted word; write a signal's name in quotes, like \"TERM\"".to_owned()),
    ] {
        assert_eq!(error(&format!("{DAEMON}{line}\n")), format!("f:4: {expected}"));
    }
    let rule = error(&format!("{DAEMON}[signals.HUP]\nrestart = true\n"));
    assert_eq!(rule, "f:5: invalid type: boolean `true`; write a daemon's name, like \"proxy\"");
}

#[test]
fn a_key_that_is_there_twice_is_told_as_that() {
    for text in [format!("grace = \"1s\"\ngrace = \"2s\"\n{DAEMON}"), format!("{DAEMON}name = \"b\"\n")] {
        assert!(error(&text).ends_with(": this key is already set; keep one of the two"), "{}", error(&text));
    }
}

fn daemons(tables: &[(&str, &str)]) -> String {
    let one = |(name, rest): &(&str, &str)| format!("[[daemon]]\nname = \"{name}\"\ncommand = [\"a\"]\n{rest}\n");
    tables.iter().map(one).collect()
}

#[test]
fn a_sandbox_states_what_a_daemon_may_do_and_private_alone_makes_none() {
    let text = daemons(&[
        (
            "a",
            "[daemon.sandbox]\nwrite = ['/var//a/', '/var/a']\nbind = [80, 22, 80]\nconnect = []\nudp = true\nsessions = false",
        ),
        ("b", "[daemon.sandbox]\nprivate = ['/secrets/./b']"),
        ("c", "[daemon.sandbox]"),
        ("d", ""),
    ]);
    let table = Table::parse(&format!("require_sandbox = true\n{text}"), "t").unwrap();
    let [a, b, c, d] = &table.daemons[..] else { panic!("four daemons") };
    let sandbox = a.sandbox.as_ref().unwrap();
    assert_eq!(sandbox.write, [PathBuf::from("/var/a")]);
    assert_eq!((sandbox.bind.as_deref(), sandbox.connect.as_deref()), (Some(&[22, 80][..]), Some(&[][..])));
    assert!(sandbox.udp && !sandbox.sessions && table.require_sandbox);
    assert_eq!((b.sandbox.as_ref(), &b.private[..]), (None, &[PathBuf::from("/secrets/b")][..]));
    let empty = Sandbox { sessions: true, ..Sandbox::default() };
    assert_eq!((c.sandbox.as_ref(), d.sandbox.as_ref()), (Some(&empty), None));
}

#[test]
fn an_env_file_is_private_to_the_daemons_that_name_it() {
    let text = daemons(&[
        ("a", "env_file = '/e/a'\nconfig = { path = '/c/a' }\n[daemon.sandbox]\nwrite = ['/w']\nprivate = ['/p']"),
        ("b", "env_file = '/e/a'"),
    ]);
    let table = Table::parse(&text, "t").unwrap();
    let private = |daemon: usize| table.daemons[daemon].private_paths().collect::<Vec<_>>();
    assert_eq!((private(0), private(1)), (["/p", "/e/a", "/c"].map(Path::new).to_vec(), vec![Path::new("/e/a")]));
    assert_eq!(table.daemons[0].own_paths().collect::<Vec<_>>(), ["/w", "/p", "/e/a", "/c"].map(Path::new));
}

#[test]
fn a_sandbox_that_cannot_keep_its_promise_is_an_error_with_line_and_fix() {
    let sandbox = |line: &str| daemons(&[("a", &format!("[daemon.sandbox]\n{line}"))]);
    for (line, expected) in [
        ("write = ['var']", "f:5: write names \"var\"; write absolute paths"),
        ("private = ['/a/../b']", "f:5: private names \"/a/../b\", which contains `..`"),
        ("write = ['//']", "f:5: write names /, which keeps nothing apart"),
        ("write = ['/dev/pts/1']", "f:5: write names \"/dev/pts/1\", but /dev/pts is hidden"),
        ("write = '/a'", "f:5: invalid type: string \"/a\"; write an array of absolute paths"),
        ("bind = [0]", "f:5: bind has port 0, which stands for any free port"),
        ("connect = [65536]", "f:5: invalid value: integer `65536`; write an array of TCP ports"),
        ("udp = true", "f:5: udp restricts nothing unless bind or connect is set; add connect = []"),
        ("sessions = 'no'", "f:5: invalid type: string \"no\"; write true or false"),
        ("read = ['/a']", "f:5: unknown field `read`"),
    ] {
        let error = error(&sandbox(line));
        assert!(error.starts_with(expected), "{line}: {error}");
    }
    let config = |path: &str| format!("config = {{ path = '{path}' }}");
    let write = |path: &str| format!("[daemon.sandbox]\nwrite = ['{path}']");
    for (a, b, expected) in [
        (config("/etc/a"), write("/b"), "f:2: config.path lies in /etc, which can't be hidden"),
        (config("/a"), write("/b"), "f:2: config.path lies in /, which can't be hidden"),
        (
            config("/etc/x/a"),
            config("/etc/x/b") + "\n" + &write("/c"),
            "f:2: config.path lies in the same directory as that of \"b\"",
        ),
        (config("/b/rules/a"), write("/b"), "f:2: config.path lies below /b, which \"b\" may write to"),
        (
            config("/b/a") + "\n" + &write("/b"),
            String::new(),
            "f:2: config.path lies below /b, which \"a\" may write to",
        ),
        (write("/b/a"), write("/b"), "f:7: write names /b, but /b/a below it is private to \"a\""),
        (write("/dev"), String::new(), "f:2: write names /dev, but /dev/pts below it is hidden"),
    ] {
        let error = error(&daemons(&[("a", &a), ("b", &b)]));
        assert!(error.starts_with(expected), "{error}, not {expected}");
    }
    let keys = |key: &str, path: &str| format!("{key} = '{path}'\n");
    for (key, path, lies) in
        [("env_file", "/b/a/env", "lies below"), ("env_file", "/b", "is"), ("working_dir", "/b/a", "lies below")]
    {
        let expected = |writer: &str| format!("f:2: {key} {lies} /b, which {writer:?} may write to; put it elsewhere");
        assert_eq!(error(&daemons(&[("a", &keys(key, path)), ("b", &write("/b"))])), expected("b"));
        assert_eq!(error(&daemons(&[("a", &(keys(key, path) + &write("/b"))), ("b", "")])), expected("a"));
    }
    let whole = error(&daemons(&[("a", &(config("/c/a") + "\n" + &write("/c/a"))), ("b", "")]));
    assert_eq!(whole, "f:2: config.path is /c/a, which \"a\" may write to; put it elsewhere");
    // It can't be replaced by a link, since its parent is nobody's to write to.
    assert_eq!(error(&daemons(&[("a", &(keys("working_dir", "/b") + &write("/b"))), ("b", &write("/b"))])), "");
    // Both may write there, and what lies where another writes is its owner's.
    assert_eq!(error(&daemons(&[("a", &write("/b")), ("b", &write("/b"))])), "");
    assert_eq!(error(&daemons(&[("a", &write("/b/a")), ("b", "[daemon.sandbox]\nprivate = ['/b']")])), "");
    // Nothing is to be kept apart.
    assert_eq!(error(&daemons(&[("a", &config("/etc/a")), ("b", &config("/etc/b"))])), "");
}
