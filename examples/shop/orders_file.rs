//! Reads the file of orders line by line, with only one line in memory.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use chrono::NaiveDate;

use crate::domain::Cents;

/// The columns in the header line.
const HEADER: [&str; 4] = ["customer_id", "date", "number_of_cds", "dollar_value"];

/// Maximum length of a line in bytes. It keeps a file without line ends from filling the memory.
const LONGEST_LINE: u64 = 200;

/// Maximum number of CDs in an order.
const MOST_CDS: u32 = 100_000;

/// Maximum number of digits of a dollar value: even the sum of a billion orders fits into 64 bits.
const DOLLAR_DIGITS: usize = 8;

/// Number of different CDs in the shop.
pub const PRODUCTS: u64 = 100;

/// The contents of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sale {
    /// The line's number in the file; the header is line 1.
    pub line: u64,
    pub customer: u32,
    pub date: NaiveDate,
    pub quantity: u32,
    pub amount: Cents,
    /// Whether the customer pays at all.
    pub is_paid: bool,
}

impl Sale {
    /// Returns the product, which is derived from the line's number, since the file has none. It is the lower of two uniform draws, so that
    /// some products sell better.
    pub fn product(&self) -> u64 {
        let mixed = mix(self.line);
        (mixed % PRODUCTS).min((mixed >> 32) % PRODUCTS)
    }
}

/// Spreads adjacent numbers over all 64 bits (splitmix64).
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// The reason why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadFile {
    #[error("cannot read {}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{}, line {line}: {problem}", path.display())]
    Malformed { path: PathBuf, line: u64, problem: BadLine },
}

/// The problem with a line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    #[error("the header `{}` is missing", HEADER.join(" "))]
    NoHeader,
    #[error("longer than {LONGEST_LINE} bytes")]
    TooLong,
    #[error("not UTF-8 text")]
    NotText,
    #[error("{0} columns, expected 4")]
    Columns(usize),
    #[error("`{0}` is not a customer id: use up to 9 digits, not zero")]
    Customer(String),
    #[error("`{0}` is not a date in the form yyyymmdd")]
    Date(String),
    #[error("`{0}` is not a number of CDs from 1 to {MOST_CDS}")]
    Quantity(String),
    #[error("`{0}` is not an amount in dollars: use up to {DOLLAR_DIGITS} digits and at most two decimals")]
    Amount(String),
    #[error("the sum of all amounts is too large")]
    Sum,
}

/// The interval of lines that are not paid; `None` if all are paid. The file does not have this information.
pub type Unpaid = Option<NonZeroU64>;

/// The sales of a file, in file order. Reading ends at the first error.
#[derive(Debug)]
pub struct OrdersFile {
    path: PathBuf,
    unpaid: Unpaid,
    reader: BufReader<File>,
    line: u64,
    text: Vec<u8>,
}

impl OrdersFile {
    /// Opens the file and reads its header.
    pub fn open(path: &Path, unpaid: Unpaid) -> Result<Self, BadFile> {
        let path = path.to_owned();
        let file = File::open(&path).map_err(|source| BadFile::Unreadable { path: path.clone(), source })?;
        let mut orders = Self { path, unpaid, reader: BufReader::new(file), line: 0, text: Vec::new() };
        let header = orders.next_line()?.is_some_and(|text| text.split_whitespace().eq(HEADER));
        if header { Ok(orders) } else { Err(orders.malformed(BadLine::NoHeader)) }
    }

    /// Returns the next sale, or `None` at the end of the file.
    pub fn next_sale(&mut self) -> Result<Option<Sale>, BadFile> {
        let line = self.line + 1;
        let is_paid = self.unpaid.is_none_or(|every| !line.is_multiple_of(every.get()));
        let Some(parsed) = self.next_line()?.map(|text| parse(line, is_paid, text)) else { return Ok(None) };
        parsed.map(Some).map_err(|problem| self.malformed(problem))
    }

    /// Returns an error for the line that was read last.
    pub fn malformed(&self, problem: BadLine) -> BadFile {
        BadFile::Malformed { path: self.path.clone(), line: self.line.max(1), problem }
    }

    fn next_line(&mut self) -> Result<Option<&str>, BadFile> {
        self.text.clear();
        let mut limited = self.reader.by_ref().take(LONGEST_LINE + 1);
        let read = limited
            .read_until(b'\n', &mut self.text)
            .map_err(|source| BadFile::Unreadable { path: self.path.clone(), source })?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        let whole = self.text.last() == Some(&b'\n');
        if !whole && self.text.len() as u64 > LONGEST_LINE {
            return Err(self.malformed(BadLine::TooLong));
        }
        match std::str::from_utf8(&self.text) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(self.malformed(BadLine::NotText)),
        }
    }
}

fn parse(line: u64, is_paid: bool, text: &str) -> Result<Sale, BadLine> {
    let columns: Vec<&str> = text.split_ascii_whitespace().collect();
    let [customer, date, quantity, amount] = columns[..] else { return Err(BadLine::Columns(columns.len())) };
    Ok(Sale {
        line,
        customer: parse_customer(customer).ok_or_else(|| BadLine::Customer(customer.into()))?,
        date: parse_date(date).ok_or_else(|| BadLine::Date(date.into()))?,
        quantity: parse_quantity(quantity).ok_or_else(|| BadLine::Quantity(quantity.into()))?,
        amount: parse_cents(amount).ok_or_else(|| BadLine::Amount(amount.into()))?,
        is_paid,
    })
}

/// Accepts only digits; `str::parse` would also accept a sign.
fn parse_digits<T: std::str::FromStr>(text: &str, longest: usize) -> Option<T> {
    let valid = text.len() <= longest && text.bytes().all(|byte| byte.is_ascii_digit());
    valid.then(|| text.parse().ok()).flatten()
}

fn parse_customer(text: &str) -> Option<u32> {
    parse_digits(text, 9).filter(|id| *id > 0)
}

fn parse_quantity(text: &str) -> Option<u32> {
    parse_digits(text, 9).filter(|cds| (1..=MOST_CDS).contains(cds))
}

fn parse_date(text: &str) -> Option<NaiveDate> {
    if text.len() != 8 {
        return None;
    }
    let number: u32 = parse_digits(text, 8)?;
    let year = i32::try_from(number / 10_000).ok()?;
    NaiveDate::from_ymd_opt(year, number / 100 % 100, number % 100).filter(|_| year > 0)
}

fn parse_cents(text: &str) -> Option<Cents> {
    let (dollars, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let whole: u64 = parse_digits(dollars, DOLLAR_DIGITS)?;
    let part: u64 = parse_digits(decimals, 2)?;
    let cents = if decimals.len() == 1 { part * 10 } else { part };
    Some(Cents(whole * 100 + cents))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cents_are_exact() {
        for (text, cents) in [
            ("11.77", 1177),
            ("0.00", 0),
            ("0.29", 29),
            ("12", 1200),
            ("12.5", 1250),
            ("12.05", 1205),
            ("99999999.99", 9_999_999_999),
        ] {
            assert_eq!(parse_cents(text), Some(Cents(cents)), "{text}");
        }
    }

    #[test]
    fn invalid_amounts_are_refused() {
        for text in
            ["", ".", "12.", ".5", "-1.00", "+1.00", "1e3", "NaN", "inf", "1.001", "1,00", "1.2.3", "100000000", "٣.00"]
        {
            assert_eq!(parse_cents(text), None, "{text}");
        }
    }

    #[test]
    fn dates_are_calendar_days() {
        assert_eq!(parse_date("19970101"), NaiveDate::from_ymd_opt(1997, 1, 1));
        assert_eq!(parse_date("20000229"), NaiveDate::from_ymd_opt(2000, 2, 29));
        for text in ["19970229", "19971301", "19970100", "1997-1-1", "1997011", "199701011", "00000101", "+1997011"] {
            assert_eq!(parse_date(text), None, "{text}");
        }
    }

    #[test]
    fn any_whitespace_separates_columns() {
        let sale = Sale {
            line: 2,
            customer: 1,
            date: NaiveDate::from_ymd_opt(1997, 1, 1).unwrap_or_default(),
            quantity: 3,
            amount: Cents(1177),
            is_paid: true,
        };
        assert_eq!(parse(2, true, " 00001 19970101  3   11.77\r\n"), Ok(sale));
        assert_eq!(parse(2, true, "1\t19970101\t3\t11.77"), Ok(sale));
    }

    #[test]
    fn malformed_line_error_names_the_problem() {
        for (text, problem) in [
            ("", BadLine::Columns(0)),
            ("1 19970101 1", BadLine::Columns(3)),
            ("1 19970101 1 1.00 x", BadLine::Columns(5)),
            ("x 19970101 1 1.00", BadLine::Customer("x".into())),
            ("0 19970101 1 1.00", BadLine::Customer("0".into())),
            ("1 19970101 0 1.00", BadLine::Quantity("0".into())),
            ("1 19970101 99999999999 1.00", BadLine::Quantity("99999999999".into())),
            ("1 19970101 -1 1.00", BadLine::Quantity("-1".into())),
        ] {
            assert_eq!(parse(2, true, text), Err(problem), "{text}");
        }
    }

    #[test]
    fn every_product_is_sold() {
        let mut sold: Vec<_> = (2..2000).map(|line| sale(line).product()).collect();
        sold.sort_unstable();
        sold.dedup();
        assert!(sold.len() as u64 > PRODUCTS - 5 && sold.iter().all(|product| *product < PRODUCTS));
    }

    fn sale(line: u64) -> Sale {
        Sale { line, customer: 1, date: NaiveDate::default(), quantity: 1, amount: Cents(0), is_paid: true }
    }
}
