//! README and the pages of docs/, as their readers find them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and its helpers are tests too")]
#![allow(dead_code, reason = "each test that includes this uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn read(page: &str) -> String {
    fs::read_to_string(root().join(page)).unwrap_or_else(|e| panic!("{page}: {e}"))
}

/// Each page, by its path from the repository's root.
pub fn pages() -> Vec<String> {
    let markdown = |directory: &str| -> Vec<PathBuf> {
        let entries = fs::read_dir(root().join(directory)).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
    };
    let all = [markdown("."), markdown("docs")].concat();
    let mut names: Vec<String> =
        all.iter().map(|path| path.strip_prefix(root()).unwrap().display().to_string()).collect();
    names.sort();
    assert!(names.len() > 10 && names.contains(&"README.md".to_owned()), "{names:?}");
    names
}

/// The blocks of a page in one language, without the indentation that they have in a list.
pub fn blocks(page: &str, language: &str) -> Vec<String> {
    let (text, mut found, mut open) = (read(page), Vec::new(), None);
    for line in text.lines() {
        let fence = line.trim_start();
        match &mut open {
            None if fence.starts_with("```") => {
                let indent = line.len() - fence.len();
                open = Some((indent, fence == format!("```{language}"), String::new()));
            }
            None => {}
            Some((_, is_wanted, block)) if fence == "```" => {
                if *is_wanted {
                    found.push(std::mem::take(block));
                }
                open = None;
            }
            Some((indent, _, block)) => {
                block.push_str(line.get(*indent..).unwrap_or_default());
                block.push('\n');
            }
        }
    }
    assert!(open.is_none(), "{page} has a block without an end");
    found
}
