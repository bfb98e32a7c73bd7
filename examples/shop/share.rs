//! Divides the work among several processes: each serves its own part of the customers.

use std::num::NonZeroU32;
use std::str::FromStr;

/// Part `number` of `of` parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    number: NonZeroU32,
    of: NonZeroU32,
}

impl Share {
    /// Returns whether this process serves the customer. Ids are consecutive numbers, so the remainder distributes them evenly.
    pub fn has(self, customer: u32) -> bool {
        customer % self.of == self.number.get() - 1
    }

    /// Returns whether there are no other processes to wait for.
    pub fn is_all(self) -> bool {
        self.of == NonZeroU32::MIN
    }
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a share is written K/N, such as 1/4 to 4/4")]
pub struct BadShare;

impl FromStr for Share {
    type Err = BadShare;

    fn from_str(text: &str) -> Result<Self, BadShare> {
        let (number, of) = text.split_once('/').ok_or(BadShare)?;
        let (number, of) = (number.parse().map_err(|_| BadShare)?, of.parse().map_err(|_| BadShare)?);
        if number <= of { Ok(Self { number, of }) } else { Err(BadShare) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_customer_has_exactly_one_share() {
        let shares: Vec<Share> = ["1/3", "2/3", "3/3"].map(|text| text.parse().unwrap()).into();
        for customer in 0..100 {
            assert_eq!(shares.iter().filter(|share| share.has(customer)).count(), 1, "customer {customer}");
        }
        assert!(Share::from_str("1/1").unwrap().is_all());
    }

    #[test]
    fn invalid_shares_are_refused() {
        for text in ["", "1", "0/2", "3/2", "1/0", "a/b", "1/2/3", "-1/2"] {
            assert_eq!(Share::from_str(text), Err(BadShare), "{text}");
        }
    }
}
