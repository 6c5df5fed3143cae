//! Text from outside, made safe for a terminal.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

/// The longest foreign text that is shown, in characters.
const MAX_CHARS: usize = 300;
/// How much of a longer text's beginning is shown. The rest is its end, where most programs put the reason.
const HEAD_CHARS: usize = 80;
/// Marks the place where text was cut out.
const CUT: &str = " ... ";

/// A text of printable ASCII and limited length. People see text from a bundle or the docker CLI only in this form. Reading one from
/// JSON converts it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Printable(String);

impl Printable {
    /// Escapes what isn't printable ASCII, joins lines by `; ` and cuts out the middle of what is too long.
    #[must_use]
    pub fn new(raw: &str) -> Self {
        let mut out = String::new();
        let mut before = "";
        for line in raw.lines().map(str::trim).filter(|line| !line.is_empty()) {
            // docker repeats the same complaint for each container.
            if line == before {
                continue;
            }
            if !before.is_empty() {
                out.push_str("; ");
            }
            before = line;
            for c in line.chars() {
                match c {
                    ' '..='~' => out.push(c),
                    _ => out.extend(c.escape_default()),
                }
            }
        }
        if out.len() > MAX_CHARS {
            // ASCII, so that every byte is a character.
            let tail = out.split_off(out.len() - (MAX_CHARS - HEAD_CHARS - CUT.len()));
            out.truncate(HEAD_CHARS);
            out = [out.trim_end(), CUT, tail.trim_start()].concat();
        }
        Self(out)
    }

    /// The same for bytes. What isn't UTF-8 is shown as `\u{fffd}`.
    #[must_use]
    pub fn from_bytes(raw: &[u8]) -> Self {
        Self::new(&String::from_utf8_lossy(raw))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Printable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for Printable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|raw| Self::new(&raw))
    }
}

/// Puts the caller's own text (a file's name, say) on one line. Printable characters stay, Unicode included. Others are escaped:
/// control characters, and characters that change the direction of a line or have no width.
#[must_use]
pub fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // Quotes and backslashes are printable.
        if matches!(c, '"' | '\'' | '\\') { out.push(c) } else { out.extend(c.escape_debug()) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Printable, one_line};

    #[test]
    fn the_callers_own_words_stay_but_for_what_moves_a_cursor() {
        assert_eq!(one_line("b\u{e9}b\u{e9}: a\tb\n\x1b[2J\u{9b}"), "b\u{e9}b\u{e9}: a\\tb\\n\\u{1b}[2J\\u{9b}");
        assert_eq!(
            one_line("\"a\" 'b' c\\d \u{202e}e\u{2066}\u{200b}\u{feff}"),
            "\"a\" 'b' c\\d \\u{202e}e\\u{2066}\\u{200b}\\u{feff}"
        );
    }

    #[test]
    fn nothing_that_moves_a_cursor_gets_through() {
        assert_eq!(Printable::new("a\x1b[2Jb\u{202e}\u{9b}c").as_str(), "a\\u{1b}[2Jb\\u{202e}\\u{9b}c");
        assert_eq!(Printable::from_bytes(b"\xff").as_str(), "\\u{fffd}");
        assert_eq!(serde_json::from_str::<Printable>(r#""\u0007""#).unwrap().as_str(), "\\u{7}");
    }

    #[test]
    fn several_lines_become_one() {
        assert_eq!(Printable::new("one\r\n\n  two\ntwo\n").as_str(), "one; two");
    }

    #[test]
    fn a_long_text_keeps_its_beginning_and_more_of_its_end() {
        let long =
            Printable::new(&format!("error during connect: {} Host key verification failed.", "x".repeat(1 << 20)));
        assert!(long.as_str().starts_with("error during connect: xxx") && long.as_str().len() <= 300, "{long}");
        assert!(long.as_str().ends_with("xxx Host key verification failed."), "{long}");
        assert_eq!(Printable::new(long.as_str()), long, "the other side cuts it no further");
    }
}
