//! Finds out which lines the new content changes.

use std::time::{Duration, Instant};

use similar::{Algorithm, DiffOp, capture_diff_slices_deadline};

use crate::protocol::{Diff, Hunk, Lines};
use crate::text::Printable;

/// The most hunks that are reported. Further ones are only counted.
const MAX_HUNKS: usize = 100;
const MAX_LINES_SHOWN: usize = 60;
/// If the shortest diff takes longer than this, a longer one is accepted.
const LONGEST: Duration = Duration::from_millis(500);

/// Compares line by line. The text of the lines may hold credentials, so it is returned only if `show` is set.
#[must_use]
pub fn lines(old: &[u8], new: &[u8], show: bool) -> Diff {
    let (old, new) = (split(old), split(new));
    let ops = capture_diff_slices_deadline(Algorithm::Myers, &old, &new, Some(Instant::now() + LONGEST));
    let changes: Vec<&DiffOp> = ops.iter().filter(|op| !matches!(op, DiffOp::Equal { .. })).collect();
    let mut shown = 0;
    let mut text = |sign: &str, lines: Option<&[&[u8]]>| -> Vec<Printable> {
        let lines = if show { lines.unwrap_or_default() } else { &[] };
        let left = MAX_LINES_SHOWN - shown;
        shown += lines.len().min(left);
        lines
            .iter()
            .take(left)
            .map(|line| Printable::new(&format!("{sign}{}", String::from_utf8_lossy(line))))
            .collect()
    };
    let hunk = |op: &&DiffOp| {
        let (was, is) = (op.old_range(), op.new_range());
        let mut lines = text("-", old.get(was.clone()));
        lines.extend(text("+", new.get(is.clone())));
        Hunk { old: span(&was), new: span(&is), text: show.then_some(lines) }
    };
    let hunks: Vec<Hunk> = changes.iter().take(MAX_HUNKS).map(hunk).collect();
    Diff { more: changes.len() - hunks.len(), hunks }
}

fn span(range: &std::ops::Range<usize>) -> Lines {
    Lines { first: range.start + 1, count: range.len() }
}

fn split(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|b| *b == b'\n').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_gives_line_numbers_and_the_text_only_on_request() {
        let (old, new) = (&b"a\nb\nc\nd\n"[..], &b"a\nB\nsecret\nc\nd\ne"[..]);
        let diff = lines(old, new, false);
        let hunk = |old, new| Hunk { old, new, text: None };
        let lines_of = |first, count| Lines { first, count };
        assert_eq!(diff.hunks, [hunk(lines_of(2, 1), lines_of(2, 2)), hunk(lines_of(5, 0), lines_of(6, 1))]);
        assert!(!serde_json::to_string(&diff).unwrap().contains("secret"));
        let texts: Vec<Printable> = lines(old, new, true).hunks.into_iter().filter_map(|h| h.text).flatten().collect();
        assert_eq!(texts, ["-b", "+B", "+secret", "+e"].map(Printable::new));
        assert_eq!(lines(old, old, true), Diff { hunks: Vec::new(), more: 0 });
    }

    #[test]
    fn what_is_told_is_bounded() {
        let many = |word: &str| (0..50_000).map(|n| word.repeat(n % 9) + "\n").collect::<String>();
        let diff = lines(many("a").as_bytes(), many("b").as_bytes(), true);
        assert!(serde_json::to_string(&diff).unwrap().len() < crate::protocol::MAX_BYTES / 2);
    }
}
