//! Bar charts for the terminal.

use std::fmt::Write;

/// Length of the longest bar, in characters.
const WIDTH: u64 = 40;

/// Formats one line per row: its label, the value as text, and a bar in proportion to the largest value.
pub fn bars<'a>(rows: impl Iterator<Item = (&'a str, u64, String)> + Clone) -> String {
    let largest = rows.clone().map(|(_, value, _)| value).max().unwrap_or(0).max(1);
    let mut text = String::new();
    for (label, value, shown) in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {label} {shown:>14} {}", bar(value, largest));
    }
    text
}

fn bar(value: u64, largest: u64) -> String {
    let length = u128::from(value) * u128::from(WIDTH) / u128::from(largest);
    "█".repeat(usize::try_from(length).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn largest_bar_is_full_and_the_others_proportional() {
        assert_eq!(bar(10, 10).chars().count(), 40);
        assert_eq!(bar(5, 10).chars().count(), 20);
        assert_eq!(bar(0, 10), "");
        assert_eq!(bar(u64::MAX, u64::MAX).chars().count(), 40);
    }
}
