//! Generated orders, the same in every run.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::SystemTime;

pub(crate) const HEADER: &str = " customer_id  date number_of_cds  dollar_value\r\n";

/// The number of orders in the generated file: enough that deliveries after the first are needed.
pub(crate) const LINES: u32 = 400;

/// Returns orders of customers with 1 to 9 orders each. Some orders are free, some customers order twice on one day,
/// and the CDs run out of stock.
pub(crate) fn generated_orders(lines: u32) -> String {
    let mut random = Random(1997);
    let (mut text, mut customer, mut left) = (HEADER.to_owned(), 0, 0);
    for _ in 0..lines {
        if left == 0 {
            (customer, left) = (customer + 1, 1 + random.below(9));
        }
        left -= 1;
        let date = 19_970_000 + (random.below(2) * 10_000) + (1 + random.below(12)) * 100 + 1 + random.below(3);
        let cents = if random.below(20) == 0 { 0 } else { random.below(100_000) };
        let quantity = 1 + random.below(400);
        let dollars = format!("{}.{:02}", cents / 100, cents % 100);
        let _ = write!(text, " {customer:05} {date} {quantity:>2} {dollars:>7}\r\n");
    }
    text
}

/// A generator of our own (xorshift), so that a seed always gives the same numbers.
pub(crate) struct Random(u64);

impl Random {
    /// Seeds the generator from `SHOP_SEED`, or else from the clock, and prints the seed.
    pub(crate) fn seeded() -> Self {
        let clock = || SystemTime::UNIX_EPOCH.elapsed().map_or(1, |time| u64::from(time.subsec_nanos()) + 1);
        let seed = std::env::var("SHOP_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(clock);
        println!("SHOP_SEED={seed}");
        Self(seed)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }
}

#[test]
fn the_generated_file_covers_the_special_cases() {
    let file = generated_orders(LINES);
    let lines: Vec<Vec<&str>> = file.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    let days: BTreeSet<_> = lines.iter().map(|line| (line[0], line[1])).collect();
    assert!(days.len() < lines.len(), "no customer orders twice on one day");
    assert!(lines.iter().any(|line| line[3] == "0.00"), "no order is free");
}
