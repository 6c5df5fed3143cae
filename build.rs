//! Tells the binary which commit and which target it was built from: `sidecar --version`.

use std::process::Command;

/// The parts of the repository that go into the binary.
const SOURCES: [&str; 6] = ["src", "applets", "bundle/daemons.toml", "build.rs", "Cargo.toml", "Cargo.lock"];

fn main() {
    println!("cargo::rustc-env=SIDECAR_COMMIT={}", commit());
    println!("cargo::rustc-env=SIDECAR_TARGET={}", std::env::var("TARGET").unwrap_or_default());
    println!("cargo::rerun-if-env-changed=SIDECAR_COMMIT");
    for path in SOURCES {
        println!("cargo::rerun-if-changed={path}");
    }
    for name in ["HEAD", "logs/HEAD"] {
        // If a path doesn't exist, cargo runs this script at every build.
        if let Some(path) =
            git(&["rev-parse", "--git-path", name]).filter(|path| std::fs::exists(path).is_ok_and(|is| is))
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}

/// The commit. If there is no repository, as in an image's build, `SIDECAR_COMMIT` names it.
fn commit() -> String {
    if let Some(told) = std::env::var("SIDECAR_COMMIT").ok().filter(|told| !told.is_empty()) {
        return told;
    }
    let unknown = || "unknown".to_owned();
    // An unpacked tarball may lie in somebody else's repository, whose commit it isn't.
    if git(&["rev-parse", "--show-prefix"]) != Some(String::new()) {
        return unknown();
    }
    let Some(commit) = git(&["rev-parse", "--verify", "HEAD"]) else { return unknown() };
    let mut status = vec!["status", "--porcelain", "--"];
    status.extend(SOURCES);
    match git(&status) {
        Some(changes) if changes.is_empty() => commit,
        _ => format!("{commit}, changed"),
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    // So that git doesn't write the index, which another git may be writing.
    let output = Command::new("git").arg("--no-optional-locks").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim_end().to_owned())
}
