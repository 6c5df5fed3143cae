//! What a daemon table may say, and what each error names: line and mend.

use std::time::Duration;

use sidecar::table::{Action, BUILT_IN, Output, Ready, Signal, Table, parse_duration};

const DAEMON: &str = "[[daemon]]\nname = \"alpha\"\ncommand = [\"a\"]\n";

#[test]
fn the_built_in_table_is_a_table_in_which_each_daemon_states_its_readiness() {
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
    for text in ["", "8", "s", "-1s", "1.5s", "1h", "8 s", "99999999999999999999s", "18446744073709551615m"] {
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
        ("[signals]\nRTMIN+1 = { restart = \"a\" }\n", "f:2: invalid unquoted key.*needs quotes, as \"RTMIN+1\""),
        ("[[daemon]]\nname = \"-a\"\ncommand = [\"a\"]\n", "f:2: \"-a\" is no daemon's name"),
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
        ("NOPE = { restart = \"alpha\" }", "is no signal"),
        ("TERM = { restart = \"alpha\" }", "can't be wired"),
        ("\"RTMIN+31\" = { restart = \"alpha\" }", "is no signal"),
        ("\"RTMIN+01\" = { restart = \"alpha\" }", "is no signal"),
        ("\"RTMIN++1\" = { restart = \"alpha\" }", "is no signal"),
        ("HUP = {}", "no action"),
        ("HUP = { forward = \"alpha\", restart = \"alpha\" }", "two actions"),
        ("HUP = { forward = \"nobody\" }", "no daemon of this table"),
        ("HUP = { restart = \"alpha\", when = \"always\" }", "when"),
    ];
    let wiring = wiring.map(|(line, text)| (format!("{DAEMON}[signals]\n{line}\n"), format!("f:5: .*{text}")));
    let twice = format!("{DAEMON}{DAEMON}");
    let same_file =
        |name, path| format!("[[daemon]]\nname = \"{name}\"\ncommand = [\"a\"]\nconfig = {{ path = \"{path}\" }}\n");
    let same_file = same_file("a", "/x/y") + &same_file("b", "/x//y");
    let cases = cases.map(|(text, error)| (text.to_owned(), error.to_owned()));
    let twice = (twice, "f:5: a second daemon named".to_owned());
    let same_file = (same_file, "f:6: config.path is that of \"a\" too".to_owned());
    for (text, expected) in cases.into_iter().chain(wiring).chain([twice, same_file]) {
        let error = Table::parse(&text, "f").unwrap_err().to_string();
        let (start, rest) = expected.split_once(".*").unwrap_or((&expected, ""));
        assert!(error.starts_with(start) && error.contains(rest), "{text}\nexpected {expected}\ngot {error}");
    }
}
