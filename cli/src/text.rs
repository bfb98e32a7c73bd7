//! The boundary for text that is not ours: names, payloads and errors may hold characters that control a terminal.

use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;

/// The most characters of a line for people. JSON has the whole value.
const MAX_LINE: usize = 4_096;

/// The most characters of a cell of a table.
const MAX_CELL: usize = 120;

/// A line for a terminal: it holds no active character, and is not too long. Only this module makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Safe(String);

impl Safe {
    /// Escapes and cuts a line.
    pub(crate) fn line(text: &str) -> Self {
        Self(cut(text, MAX_LINE))
    }

    /// Escapes and cuts a cell of a table.
    pub(crate) fn cell(text: &str) -> Self {
        Self(cut(text, MAX_CELL))
    }

    /// Returns the lines of a document in JSON, which is whole.
    pub(crate) fn document(value: &Value) -> serde_json::Result<Vec<Self>> {
        Ok(json(value, true)?.lines().map(|line| Self(line.to_owned())).collect())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Joins cells that were padded.
    pub(crate) fn row(cells: &[(Self, usize)]) -> Self {
        let mut line = String::new();
        for (cell, width) in cells {
            let missing = (width + 2).saturating_sub(unicode_width::UnicodeWidthStr::width(cell.as_str()));
            line.push_str(cell.as_str());
            line.extend(std::iter::repeat_n(' ', missing));
        }
        line.truncate(line.trim_end().len());
        Self(line)
    }
}

/// Returns whether a character controls a terminal or the order of text, or is invisible: control characters, format characters (bidirectional
/// marks, zero-width characters, tags), and separators of lines and paragraphs.
pub(crate) fn is_active(c: char) -> bool {
    c.is_control()
        || matches!(
            u32::from(c),
            0xAD | 0x34F
                | 0x600..=0x605
                | 0x61C
                | 0x6DD
                | 0x70F
                | 0x890..=0x891
                | 0x8E2
                | 0x115F..=0x1160
                | 0x17B4..=0x17B5
                | 0x180B..=0x180F
                | 0x200B..=0x200F
                | 0x2028..=0x202E
                | 0x2060..=0x206F
                | 0x3164
                | 0xFE00..=0xFE0F
                | 0xFEFF
                | 0xFFA0
                | 0xFFF0..=0xFFFB
                | 0x110BD
                | 0x110CD
                | 0x13430..=0x1345F
                | 0x1BCA0..=0x1BCA3
                | 0x1D173..=0x1D17A
                | 0xE0000..=0xE0FFF
        )
}

/// Escapes active characters, and cuts the text with a note after `max` characters.
fn cut(text: &str, max: usize) -> String {
    let mut safe = String::with_capacity(text.len().min(max));
    for (place, c) in text.chars().enumerate() {
        if place == max {
            // Writing to a string never fails.
            let _ = write!(safe, ".. (cut, {} bytes in all)", text.len());
            break;
        }
        escape(c, &mut safe);
    }
    safe
}

fn escape(c: char, into: &mut String) {
    match c {
        '\n' => into.push_str("\\n"),
        '\r' => into.push_str("\\r"),
        '\t' => into.push_str("\\t"),
        _ if is_active(c) => into.extend(c.escape_unicode()),
        _ => into.push(c),
    }
}

/// Escapes the active characters of a text, which is not cut.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    text.chars().for_each(|c| escape(c, &mut safe));
    safe
}

/// Returns a value as JSON, on one line or on many. Strings keep their value: active characters are written as `\uXXXX`.
pub(crate) fn json(value: &impl Serialize, is_pretty: bool) -> serde_json::Result<String> {
    let text = if is_pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) }?;
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        // In strings, serde_json has escaped it already.
        if c == '\n' || !is_active(c) {
            safe.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a string never fails.
            let _ = write!(safe, "\\u{unit:04x}");
        }
    }
    Ok(safe)
}

/// Returns JSON on one line, to be shown to people.
pub(crate) fn compact(value: &Value) -> String {
    value.to_string()
}

/// Hides the passwords of URLs: of `scheme://user:password@host`, and of the parameter `password`.
pub(crate) fn without_passwords(text: &str) -> String {
    let mut hidden = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("://") {
        let (before, after) = rest.split_at(start + 3);
        hidden.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '`')).unwrap_or(after.len());
        let (url, behind) = after.split_at(end);
        // A password may hold `@`, `/` and `:` if its author did not encode them.
        match url.rsplit_once('@') {
            Some((login, host)) => match login.split_once(':') {
                Some((user, _)) => hidden.extend([user, ":***@", host]),
                None => hidden.push_str(url),
            },
            None => hidden.push_str(url),
        }
        rest = behind;
    }
    hidden.push_str(rest);
    without_parameter(&hidden)
}

/// Hides the value of each parameter `password` of a URL.
fn without_parameter(text: &str) -> String {
    let mut parts = text.split("password=");
    let mut hidden = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| c.is_whitespace() || matches!(c, '&' | '\'' | '"' | '`')).unwrap_or(part.len());
        hidden.push_str("password=***");
        hidden.push_str(&part[end..]);
    }
    hidden
}

/// Returns whether a text matches a pattern: `*` stands for any characters, and `?` for one.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => (p, t) = (p + 1, t + 1),
            // The last star takes one character more.
            _ => match star {
                Some((place, taken)) => {
                    star = Some((place, taken + 1));
                    (p, t) = (place + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn active_characters_become_visible() {
        let text = "a\u{1b}[31m\u{9b}1m\u{7f}\n\u{202e}\u{2028}\u{200b}é";
        assert_eq!(Safe::line(text).as_str(), "a\\u{1b}[31m\\u{9b}1m\\u{7f}\\n\\u{202e}\\u{2028}\\u{200b}é");
        assert_eq!(json(&"\u{9b}\u{202e}\u{e0041}\u{7f}é", false).unwrap(), r#""\u009b\u202e\udb40\udc41\u007fé""#);
    }

    #[test]
    fn long_lines_are_cut_with_a_note() {
        let line = Safe::line(&"x".repeat(10 * 1024 * 1024));
        assert!(line.as_str().len() < MAX_LINE + 100 && line.as_str().ends_with(".. (cut, 10485760 bytes in all)"));
        assert_eq!(Safe::line(&"x".repeat(MAX_LINE)).as_str().len(), MAX_LINE);
    }

    #[test]
    fn passwords_are_hidden() {
        for (text, hidden) in [
            ("postgres://shop:secret@db/shop", "postgres://shop:***@db/shop"),
            ("'mysql://shop:s:e/c@ret@db/shop' and more", "'mysql://shop:***@db/shop' and more"),
            ("postgres://db/shop?user=a&password=secret&x=1", "postgres://db/shop?user=a&password=***&x=1"),
            ("postgres://shop@db/shop", "postgres://shop@db/shop"),
            ("two a://b:c@d and e://f:g@h", "two a://b:***@d and e://f:***@h"),
        ] {
            assert_eq!(without_passwords(text), hidden);
        }
    }

    #[test]
    fn patterns_match_whole_texts() {
        for (pattern, text, is_match) in [
            ("order.*", "order.placed", true),
            ("order.*", "reorder.placed", false),
            ("*.pa?d", "order.paid", true),
            ("*a*b*", "xaxbx", true),
            ("*a*b", "xaxbx", false),
            ("", "", true),
            ("*", "", true),
            ("?", "", false),
        ] {
            assert_eq!(matches(pattern, text), is_match, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_stays_active(text in any::<String>()) {
            prop_assert!(!Safe::line(&text).as_str().chars().any(is_active));
            prop_assert!(!escaped(&text).chars().any(is_active));
            let json = json(&text, false).unwrap();
            prop_assert!(!json.chars().any(is_active));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
    }
}
