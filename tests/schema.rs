//! The files of `schema/`, which editors and programs read, against what sidecar itself reads and prints. Tests of real inits
//! (tests/init, tests/requests.rs, tests/transaction.rs) check theirs as well.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and its helpers are tests too")]

mod schemas;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use schemas::{assert_fits, misfits, schema};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sidecar::change::proof::{Act, Incarnation, Target, Trigger};
use sidecar::change::reason::{Ended, Outcome, Reason, RecordedOutcome};
use sidecar::host::report::{Asked, Report};
use sidecar::protocol::{Diff, End, Hunk, Lines};
use sidecar::request::Verb;
use sidecar::status;
use sidecar::table::{Signal, Table};
use sidecar::text::Printable;

/// What is said of a table with this line below a whole daemon.
fn said(line: &str) -> String {
    let text = format!("[[daemon]]\nname = \"a\"\ncommand = [\"a\"]\n{line}\n");
    Table::parse(&text, "t").unwrap_err().to_string()
}

/// The names that an error of the parser lists.
fn listed(error: &str) -> BTreeSet<String> {
    let (_, list) = error.split_once("expected").unwrap_or_else(|| panic!("{error}"));
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn keys(schema: &Value, pointer: &str) -> BTreeSet<String> {
    schema.pointer(pointer).unwrap().as_object().unwrap().keys().cloned().collect()
}

#[test]
fn the_keys_of_the_schema_are_those_of_the_parser() {
    let schema = schema("table");
    let cases = [
        ("/properties", Table::parse("nokey = 1", "t").unwrap_err().to_string()),
        ("/definitions/daemon/properties", said("nokey = 1")),
        ("/definitions/config/properties", said("config = { nokey = 1 }")),
        ("/definitions/ready/properties", said("ready = { nokey = 1 }")),
        ("/definitions/daemon/properties/listen/items/properties", said("listen = [{ nokey = 1 }]")),
        ("/definitions/sandbox/properties", said("[daemon.sandbox]\nnokey = 1")),
        ("/definitions/rule/properties", said("[signals]\nHUP = { nokey = 1 }")),
    ];
    for (pointer, error) in cases {
        assert_eq!(keys(&schema, pointer), listed(&error), "{pointer}");
    }
    let error = said("ulimits = { nokey = 1 }");
    let limits: BTreeSet<String> = error.rsplit_once(" one of ").unwrap().1.split(", ").map(str::to_owned).collect();
    assert_eq!(keys(&schema, "/definitions/daemon/properties/ulimits/properties"), limits);
}

#[test]
fn the_signals_of_the_schema_are_those_of_the_parser() {
    let schema = schema("table");
    let all: Vec<Signal> = (1..=64).filter_map(Signal::from_number).collect();
    let by = |is: fn(Signal) -> bool| {
        all.iter().filter(|signal| is(**signal)).map(ToString::to_string).collect::<BTreeSet<_>>()
    };
    assert_eq!(stated(&schema, "/properties/signals/propertyNames/enum"), by(Signal::is_wireable));
    assert_eq!(stated(&schema, "/definitions/daemon/properties/ignore/items/enum"), by(Signal::is_ignorable));
    let mut stops = by(Signal::can_stop);
    stops.extend(stops.clone().iter().map(|name| format!("SIG{name}")));
    assert_eq!(stated(&schema, "/definitions/daemon/properties/stop_signal/enum"), stops);
}

/// Whatever lies below a folder.
fn files(folder: &str, ends: &str) -> Vec<PathBuf> {
    let mut to_look_at = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    let mut found = Vec::new();
    while let Some(path) = to_look_at.pop() {
        if path.is_dir() {
            to_look_at.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.to_string_lossy().ends_with(ends) {
            found.push(path);
        }
    }
    found
}

#[test]
fn every_table_of_this_repository_fits_the_schema() {
    let schema = schema("table");
    let mut tables = Vec::new();
    let mut add = |from: &Path, text: &str| tables.push((from.to_owned(), text.to_owned()));
    for path in [files("bundle", ".toml"), files("examples", ".toml"), files("fuzz/corpus/table", "")].concat() {
        add(&path, &String::from_utf8_lossy(&fs::read(&path).unwrap()));
    }
    for path in files("tests", ".rs") {
        for text in fs::read_to_string(&path).unwrap().split("r#\"").skip(1) {
            add(&path, text.split("\"#").next().unwrap());
        }
    }
    for path in files("docs", ".md") {
        for text in fs::read_to_string(&path).unwrap().split("```toml\n").skip(1) {
            add(&path, text.split("```").next().unwrap());
        }
    }
    let mut valid = 0;
    for (path, text) in tables {
        if Table::parse(&text, "t").is_err() {
            continue;
        }
        valid += 1;
        let wrong = misfits(&schema, &toml::from_str(&text).unwrap());
        assert!(wrong.is_empty(), "a table in {}: {}\n{text}", path.display(), wrong.join("\n"));
    }
    assert!(valid > 50, "{valid} tables");
}

#[test]
fn what_is_plainly_wrong_in_a_table_is_against_the_schema_too() {
    let schema = schema("table");
    let lines = [
        "nokey = 1",
        "grace = 8",
        "grace = \"8\"",
        "grace = \"8h\"",
        "grace = \"s\"",
        "restart = \"unless-stopped\"",
        "depends_on = \"b\"",
        "oneshot = \"yes\"",
        "stop_signal = \"KILL\"",
        "ignore = [\"KILL\"]",
        "ready = { tcp = \"127.0.0.1:80\", notify = true }",
        "ready = {}",
        "ready = { notify = false }",
        "ready = { http = \"https://127.0.0.1/\" }",
        "config = { check = [\"a\"] }",
        "environment = { PORT = 8000 }",
        "environment = [\"PORT=8000\"]",
        "ulimits = { nofile = -1 }",
        "ulimits = { files = 10 }",
        "listen = [{ udp = \"127.0.0.1:80\" }]",
        "user = 1000",
        "[daemon.sandbox]\nbind = [0]",
        "[daemon.sandbox]\nconnect = [65536]",
        "[signals]\nUSR1 = { restart = \"a\", forward = \"a\" }",
        "[signals]\nUSR1 = { restart = \"a\", when = \"always\" }",
    ];
    for line in lines {
        let text = format!("[[daemon]]\nname = \"a\"\ncommand = [\"a\"]\n{line}\n");
        assert!(Table::parse(&text, "t").is_err(), "the parser takes {line}");
        assert!(!misfits(&schema, &toml::from_str(&text).unwrap()).is_empty(), "the schema takes {line}");
    }
    for text in [
        "",
        "[[daemon]]\nname = \"a\"",
        "[[daemon]]\nname = \"A\"\ncommand = [\"a\"]",
        "[[daemon]]\nname = \"a\"\ncommand = []",
    ] {
        assert!(
            Table::parse(text, "t").is_err() && !misfits(&schema, &toml::from_str(text).unwrap()).is_empty(),
            "{text}"
        );
    }
    for rule in [
        "TERM = { restart = \"a\" }",
        "HUP = {}",
        "HUP = { forward = \"a\", restart = \"a\" }",
        "HUP = { forward = \"a\", when = \"now\" }",
    ] {
        let text = format!("[[daemon]]\nname = \"a\"\ncommand = [\"a\"]\n[signals]\n{rule}\n");
        assert!(
            Table::parse(&text, "t").is_err() && !misfits(&schema, &toml::from_str(&text).unwrap()).is_empty(),
            "{rule}"
        );
    }
}

/// The names of all values of an enum, by the error of its parser.
fn names<T: DeserializeOwned>() -> BTreeSet<String> {
    let Err(error) = serde_json::from_str::<T>("\"none\"") else { panic!("none is one of them") };
    listed(&error.to_string())
}

fn stated(schema: &Value, pointer: &str) -> BTreeSet<String> {
    let list = schema.pointer(pointer).unwrap().as_array().unwrap();
    list.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_states_and_outcomes_of_the_schemas_are_those_that_are_printed() {
    let (status, apply) = (schema("status"), schema("apply"));
    assert_eq!(stated(&status, "/properties/state/enum"), names::<status::InitState>());
    let of_daemon = |pointer: &str| stated(&status, &format!("/definitions/{pointer}/enum"));
    assert_eq!(of_daemon("daemon/properties/state"), names::<status::DaemonState>());
    assert_eq!(of_daemon("request/properties/outcome"), names::<status::RequestOutcome>());
    assert_eq!(of_daemon("signal/properties/last/properties/outcome"), names::<status::Outcome>());
    assert_eq!(of_daemon("daemon/properties/transaction/properties/outcome"), names::<RecordedOutcome>());
    assert_eq!(stated(&apply, "/properties/outcome/enum"), names::<Outcome>());
}

#[test]
fn an_object_of_every_outcome_of_an_apply_fits_the_schema() {
    let p = || Printable::new("words");
    let before = Incarnation { pid: Some(17), generation: 1 };
    let target = Target { action: Act::Restart, daemon: Printable::new("pipelock"), before, seq: 0 };
    let triggers = [Verb::Restart, Verb::Stop, Verb::Start, Verb::Signal(Signal::HUP)]
        .map(|verb| Some(Trigger::Request { verb, daemon: "pipelock".to_owned() }));
    for trigger in triggers.into_iter().chain([None, Some(Trigger::Signal(Signal::USR1))]) {
        let asked = Asked { applet: "apply-allowlist", trigger, tool: Printable::new("docker") };
        for name in names::<Outcome>() {
            let outcome: Outcome = serde_json::from_value(name.into()).unwrap();
            let ended = if outcome.exit() == 0 { Ended::well(outcome) } else { Ended::badly(outcome, Reason::Late) };
            let bare = Report::failed(None, Reason::Late);
            let mut whole = Report::failed(Some("b1".to_owned()), Reason::Late);
            whole.end = End::new(ended.clone());
            whole.end.after = Some(Incarnation { pid: None, generation: 2 });
            whole.end.siblings_moved = Some(vec![p()]);
            whole.end.checked = Some(false);
            whole.end.owner_was = Some((0, 0));
            let lines = Lines { first: 1, count: 1 };
            whole.end.diff =
                Some(Diff { hunks: vec![Hunk { old: lines, new: lines, text: Some(vec![p()]) }], more: 0 });
            (whole.target, whole.context, whole.stop_signal) =
                (Some(target.clone()), Some("far".to_owned()), Some(p()));
            for mut report in [bare, whole] {
                report.end.ended = ended.clone();
                let object: Value = serde_json::from_str(&report.json(&asked)).unwrap();
                assert_fits("apply", &object);
            }
        }
    }
}
