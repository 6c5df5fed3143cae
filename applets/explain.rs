//! `--explain`: what an outcome or a state means, and what to do. The words are those of docs/troubleshooting.md.

use std::process::ExitCode;

use crate::out;

const PAGE: &str = include_str!("../docs/troubleshooting.md");

/// Prints the section of a word, as it stands in JSON, in `status`, or in a line (`rolled back`, `DOWN`).
pub fn run(words: &[&str]) -> ExitCode {
    let word = words.join("-").to_ascii_lowercase().replace([' ', '_'], "-");
    if let Some(text) = section(&word) {
        return out::exit(0, out::print(&format!("{text}\n")));
    }
    let known: Vec<&str> = sections().map(|(name, _)| name).collect();
    out::usage("sidecar", &format!("{word:?} is neither an outcome nor a state; known words: {}", known.join(", ")))
}

fn section(word: &str) -> Option<&'static str> {
    sections().find(|(name, _)| *name == word).map(|(_, text)| text)
}

/// Each section: its name, and its text with the name.
fn sections() -> impl Iterator<Item = (&'static str, &'static str)> {
    PAGE.split("\n### ").skip(1).filter_map(|rest| {
        let text = rest.split("\n## ").next()?.trim_end();
        Some((text.lines().next()?, text))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn each_section_ends_with_its_own_text() {
        let (first, last) = (section("down").unwrap(), section("usage").unwrap());
        assert!(first.starts_with("down\n") && first.ends_with("restart NAME"), "{first}");
        assert!(last.ends_with("sidecar apply --help"), "{last}");
    }
}
