//! What README and docs/ say, as far as it can be checked without a container.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and its helpers are tests too")]

mod pages;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use pages::{blocks, pages, read, root};
use sidecar::change::reason::Outcome;
use sidecar::status::{DaemonState, Status};

const SIDECAR: &str = env!("CARGO_BIN_EXE_sidecar");

/// Exit code, stdout and stderr.
fn sidecar(arguments: &[&str], stdin: &str) -> (i32, String, String) {
    let mut command = Command::new(SIDECAR);
    let piped = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    // It needn't read it.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn check(table: &str, from: &str) {
    let (code, _, err) = sidecar(&["check", "/dev/stdin"], table);
    assert_eq!(code, 0, "{from}: {err}\n{table}");
}

#[test]
fn the_readme_has_at_most_200_lines_of_100_columns() {
    let readme = read("README.md");
    assert!(readme.lines().count() <= 200, "{} lines", readme.lines().count());
    let long: Vec<&str> = readme.lines().filter(|line| line.chars().count() > 100).collect();
    assert!(long.is_empty(), "{long:#?}");
}

/// The anchor that a heading gets.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || ['-', '_'].contains(c)).collect()
}

fn anchors(page: &str) -> BTreeSet<String> {
    let text = read(page);
    text.lines().filter(|line| line.starts_with('#')).map(|line| anchor(line.trim_start_matches('#').trim())).collect()
}

#[test]
fn each_link_from_page_to_page_leads_somewhere() {
    let mut broken = Vec::new();
    for page in pages() {
        let directory = Path::new(&page).parent().unwrap().to_owned();
        for link in read(&page).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") || link.contains(char::is_whitespace) {
                continue;
            }
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { page.clone() } else { directory.join(path).display().to_string() };
            let is_there = root().join(&target).exists();
            if !is_there || !heading.is_empty() && !anchors(&target).contains(heading) {
                broken.push(format!("{page}: {link}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

const OTHERS: &str = "[[daemon]]\nname = \"migrate\"\ncommand = [\"true\"]\noneshot = true\n
[[daemon]]\nname = \"db\"\ncommand = [\"true\"]\n";

#[test]
fn each_table_on_the_pages_is_valid() {
    let mut count = 0;
    for page in pages() {
        for block in blocks(&page, "toml") {
            // One that only shows rules has its daemon from the text around it.
            let proxy = "[[daemon]]\nname = \"proxy\"\ncommand = [\"proxy\"]\n";
            let is_whole = block.contains("[[daemon]]");
            check(&if is_whole { block } else { format!("{proxy}{block}") }, &page);
            count += 1;
        }
    }
    assert!(count >= 5, "only {count} were found");
}

#[test]
fn the_example_of_each_key_of_the_table_is_valid() {
    let (page, mut heading, mut count) = (read("docs/table.md"), "", 0);
    for line in page.lines() {
        heading = line.strip_prefix("## ").unwrap_or(heading);
        if !line.starts_with("| `") {
            continue;
        }
        let example = line.strip_suffix("` |").and_then(|row| row.rsplit('`').next()).unwrap_or_default();
        let own = |key: &str, line: &'static str| if example.starts_with(key) { "" } else { line };
        let proxy =
            ["[[daemon]]\n", own("name", "name = \"proxy\"\n"), own("command", "command = [\"proxy\"]\n")].concat();
        let table = match heading {
            "For all daemons" => format!("{example}\n{proxy}"),
            "For one daemon" | "`ready`: how to tell" => format!("{OTHERS}{proxy}{example}"),
            "`[daemon.sandbox]`: what a daemon may do" => {
                // udp = true alone restricts nothing, which is an error.
                let connect = if example.starts_with("udp") { "connect = []\n" } else { "" };
                format!("{proxy}[daemon.sandbox]\n{connect}{example}")
            }
            _ => continue,
        };
        assert!(example.contains(" = "), "no example: {line}");
        check(&table, line);
        count += 1;
    }
    assert_eq!(count, 4 + 19 + 4 + 6, "of all daemons, of one, of its readiness, of its sandbox");
}

#[test]
fn the_json_on_the_pages_can_be_parsed() {
    let mut found = Vec::new();
    for block in pages().iter().flat_map(|page| blocks(page, "json")) {
        let object: serde_json::Value = serde_json::from_str(&block).unwrap_or_else(|e| panic!("{e}: {block}"));
        if object.get("daemons").is_some() {
            serde_json::from_str::<Status>(&block).unwrap();
            assert_eq!(object["version"], env!("CARGO_PKG_VERSION"));
        }
        found.push(object);
    }
    assert!(found.len() >= 2, "{found:?}");
}

#[test]
fn the_applets_page_names_each_option_that_help_shows() {
    let page = read("docs/applets.md");
    for applet in sidecar(&["--list"], "").1.lines() {
        let help = sidecar(&[applet, "--help"], "").1;
        for line in help.lines().filter(|line| line.starts_with("  -")) {
            let words = line.split([' ', ',', ':']).filter(|word| word.starts_with('-'));
            for option in words.filter(|word| !["-h", "--help"].contains(word)) {
                assert!(
                    page.contains(&format!("{option} ")) || page.contains(&format!("{option}`")),
                    "{applet} {option}"
                );
            }
        }
        assert!(page.contains(&format!("`{applet} ")) || page.contains(&format!("`{applet}`")), "{applet}");
    }
}

/// All of them: a new one doesn't compile until it has its place here.
fn outcomes() -> Vec<Outcome> {
    use Outcome as O;
    let after = |outcome| match outcome {
        O::Live => Some(O::Delivered),
        O::Delivered => Some(O::Stopped),
        O::Stopped => Some(O::Running),
        O::Running => Some(O::NotRunning),
        O::NotRunning => Some(O::Sent),
        O::Sent => Some(O::Unchanged),
        O::Unchanged => Some(O::DryRun),
        O::DryRun => Some(O::Untouched),
        O::Untouched => Some(O::Refused),
        O::Refused => Some(O::RolledBack),
        O::RolledBack => Some(O::Superseded),
        O::Superseded => Some(O::Failed),
        O::Failed => Some(O::NotProven),
        O::NotProven => Some(O::Usage),
        O::Usage => Some(O::Unreachable),
        O::Unreachable => Some(O::NotAllowed),
        O::NotAllowed => Some(O::NotASidecarBundle),
        O::NotASidecarBundle => Some(O::Down),
        O::Down => Some(O::Unsettled),
        O::Unsettled => None,
    };
    std::iter::successors(Some(O::Live), |outcome| after(*outcome)).collect()
}

/// The same of states.
fn states() -> Vec<String> {
    use DaemonState as S;
    let after = |state| match state {
        S::Starting => Some(S::Running),
        S::Running => Some(S::Stopping),
        S::Stopping => Some(S::Exited),
        S::Exited => Some(S::Failed),
        S::Failed => Some(S::Waiting),
        S::Waiting => Some(S::Backoff),
        S::Backoff => Some(S::Stopped),
        S::Stopped => Some(S::Done),
        S::Done => None,
    };
    let all = std::iter::successors(Some(S::Starting), |state| after(*state));
    all.map(|state| serde_json::to_string(&state).unwrap().replace('"', "")).collect()
}

#[test]
fn each_outcome_and_each_state_is_explained() {
    let words = outcomes().into_iter().map(|outcome| (outcome.name(), outcome.exit()));
    for (word, exit) in words.chain(states().into_iter().map(|state| (state, 0))) {
        let (code, out, err) = sidecar(&["--explain", &word], "");
        assert!(code == 0 && out.starts_with(&format!("{word}\n")), "{word}: {err}");
        if exit > 0 {
            assert!(out.contains("exit code ") || out.contains("Exit code "), "{out}");
            assert!(out.contains("Untouched: ") && out.lines().any(|line| line.starts_with("    ")), "{out}");
        }
    }
}

#[test]
fn each_exit_code_of_an_apply_is_on_the_page_with_its_outcomes() {
    let page = read("docs/exit-codes.md");
    for outcome in outcomes() {
        let row = format!("`{}`", outcome.name());
        let is_listed = |line: &str| line.starts_with(&format!("| {} |", outcome.exit())) && line.contains(&row);
        assert!(page.lines().any(is_listed), "{row} {}", outcome.exit());
    }
}

#[test]
fn each_script_and_test_that_a_page_names_exists() {
    let manifest = read("Cargo.toml");
    for page in pages() {
        let text = read(&page);
        let named = |before: &'static str| {
            let is_name = |c: char| c.is_ascii_alphanumeric() || ['-', '_', '/', '.'].contains(&c);
            text.split(before).skip(1).map(move |rest| rest.split(|c| !is_name(c)).next().unwrap_or_default())
        };
        for script in named("scripts/").map(|name| name.trim_end_matches('.')).filter(|name| !name.is_empty()) {
            assert!(root().join("scripts").join(script).exists(), "{page}: scripts/{script}");
        }
        for test in named("--test ") {
            let places = [format!("tests/{test}.rs"), format!("tests/{test}/main.rs")];
            let is_there = places.iter().any(|place| root().join(place).exists());
            assert!(is_there || manifest.contains(&format!("name = \"{test}\"")), "{page}: --test {test}");
        }
    }
}

#[test]
fn the_two_pictures_differ_only_in_their_colours() {
    let without_colours = |name: &str| {
        let text = fs::read_to_string(root().join("docs").join(name)).unwrap();
        text.split('#')
            .enumerate()
            .map(|(i, rest)| if i == 0 { rest } else { rest.get(6..).unwrap_or(rest) })
            .collect::<String>()
    };
    assert_eq!(without_colours("bundle-light.svg"), without_colours("bundle-dark.svg"));
    let readme = read("README.md");
    assert!(readme.contains("docs/bundle-light.svg") && readme.contains("docs/bundle-dark.svg"), "both are shown");
}
