//! Checks the dependencies between the parts of `src/` (drawn in `src/lib.rs`) by reading the code.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and its helpers are tests too")]

use std::fs;
use std::path::{Path, PathBuf};

/// A file's code, without comments and unit tests.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let shipped = text.split("#[cfg(test)]").next().unwrap();
    shipped.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn files(rooms: &[&str]) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut to_look_at: Vec<PathBuf> = rooms.iter().map(|room| root.join(room)).collect();
    let mut found = Vec::new();
    while let Some(path) = to_look_at.pop() {
        if path.is_dir() {
            to_look_at.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.file_name().is_some_and(|name| name != "tests.rs") {
            found.push(path);
        }
    }
    assert!(found.len() >= rooms.len() && found.iter().all(|file| file.is_file()), "{found:?}");
    found
}

/// Fails and lists the lines in these parts that contain one of `forbidden`.
fn none_names(rooms: &[&str], forbidden: &[&str]) {
    let mut wrong = Vec::new();
    for file in files(rooms) {
        for line in code(&file).lines().filter(|line| forbidden.iter().any(|word| line.contains(word))) {
            wrong.push(format!("{}: {}", file.display(), line.trim()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_runs_in_a_bundle_knows_nothing_of_the_host() {
    let rooms = [
        "init",
        "launch",
        "supervisor",
        "change",
        "act.rs",
        "helper.rs",
        "protocol.rs",
        "page.rs",
        "status.rs",
        "table",
    ];
    none_names(&rooms, &["crate::host", "super::host"]);
}

#[test]
fn decisions_make_no_system_call_and_read_no_clock() {
    let rooms = [
        "supervisor",
        "change/proof.rs",
        "change/reason.rs",
        "change/record.rs",
        "change/recovery.rs",
        "change/transaction.rs",
    ];
    let hands = [
        "nix::",
        "libc::",
        "std::fs",
        "std::net",
        "std::process",
        "std::thread",
        "Instant::now",
        "SystemTime",
        "unsafe",
    ];
    none_names(&rooms, &hands);
}

#[test]
fn init_does_not_know_the_helper() {
    none_names(&["init", "launch", "supervisor"], &["crate::helper"]);
}

/// Every file of Rust in the repository's own folders.
fn rust_files() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut to_look_at: Vec<PathBuf> =
        ["src", "applets", "tests", "fuzz/fuzz_targets"].map(|folder| root.join(folder)).into();
    let mut found = Vec::new();
    while let Some(path) = to_look_at.pop() {
        if path.is_dir() {
            to_look_at.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    assert!(found.len() > 100, "{found:?}");
    found
}

/// A test's name is a sentence. What grows beyond this makes more than one claim.
#[test]
fn no_name_is_longer_than_70_characters() {
    let mut long = Vec::new();
    for file in rust_files() {
        let text = fs::read_to_string(&file).unwrap();
        let words = text.split(|c: char| c != '_' && !c.is_ascii_alphanumeric());
        long.extend(
            words
                .filter(|word| word.len() > 70 && word.contains('_'))
                .map(|word| format!("{}: {word}", file.display())),
        );
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}
