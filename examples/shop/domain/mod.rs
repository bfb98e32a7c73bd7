//! The shop's domain: four kinds of aggregates, and the types they share.

pub mod inventory;
pub mod order;
pub mod payment;
pub mod user;

use std::fmt;

use retell::Value;

/// An amount of money in cents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Value)]
pub struct Cents(pub u64);

impl Cents {
    /// Adds two amounts; `None` on overflow.
    pub fn plus(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }
}

impl fmt::Display for Cents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("${}.{:02}", grouped(self.0 / 100), self.0 % 100))
    }
}

/// Formats a number with thousands separators.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_formatted_with_thousands_separators() {
        assert_eq!(Cents(5).to_string(), "$0.05");
        assert_eq!(Cents(250_031_563).to_string(), "$2,500,315.63");
        assert_eq!(Cents(100_000).to_string(), "$1,000.00");
    }
}
