//! Output without what differs between two runs.

use regex::{Captures, Regex};

/// Replaces what differs between two runs: times of the clock and ages. Columns are as wide as these. Only a slow run reports its progress.
pub(crate) fn steady(text: &str) -> String {
    let replace = |text: &str, pattern: &str, with: &dyn Fn(&Captures<'_>) -> String| {
        Regex::new(pattern).unwrap().replace_all(text, with).into_owned()
    };
    let text = replace(text, r"(?m)^note: position \d+ of \d+.*\n", &|_| String::new());
    let text = replace(&text, r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z", &|found| match &found[0] {
        planted if planted.starts_with("2023-11-14T22:") => planted.to_owned(),
        _ => "<time>".to_owned(),
    });
    let text = replace(&text, r"\b\d+ (?:s|min|h|d)\b", &|_| "<age>".to_owned());
    let text = replace(&text, r#""(seconds|oldest_seconds)": \d+"#, &|found| format!("\"{}\": <seconds>", &found[1]));
    replace(&text, r"(\S) {2,}", &|found| format!("{}  ", &found[1]))
}
