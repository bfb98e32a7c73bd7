//! JSON as a tree whose numbers and texts keep the bytes in which they are written.
//!
//! [`serde_json::Value`] would round large numbers, and its equality depends on features that any crate of the program can switch on.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// The most digits of a decimal number that an `f64` keeps apart from its neighbours.
const FLOAT_DIGITS: usize = 17;

/// The deepest nesting that is taken apart. Below it, values are compared by their text.
const MAX_DEPTH: usize = 64;

/// A JSON value. Two are equal if they differ in the order of an object's entries, in white space, and in the form of a float (`1e300` and
/// `1e+300`) only.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Tree<'j> {
    Object(BTreeMap<String, Tree<'j>>),
    Array(Vec<Tree<'j>>),
    /// The text of any other value.
    Leaf(Cow<'j, str>),
}

impl<'j> Tree<'j> {
    /// Parses `json`; `None` if it is not one JSON value.
    pub(crate) fn parse(json: &'j [u8]) -> Option<Self> {
        serde_json::from_slice(json).ok().map(|raw: &RawValue| Self::of(raw.get(), 0))
    }

    fn of(text: &'j str, depth: usize) -> Self {
        let of = |raw: &'j RawValue| Self::of(raw.get(), depth + 1);
        if depth < MAX_DEPTH {
            if text.starts_with('{')
                && let Ok(entries) = serde_json::from_str::<BTreeMap<String, &'j RawValue>>(text)
            {
                return Self::Object(entries.into_iter().map(|(name, raw)| (name, of(raw))).collect());
            }
            if text.starts_with('[')
                && let Ok(entries) = serde_json::from_str::<Vec<&'j RawValue>>(text)
            {
                return Self::Array(entries.into_iter().map(of).collect());
            }
        }
        Self::Leaf(float(text).map_or(Cow::Borrowed(text), Cow::Owned))
    }

    /// Passes each part of the tree to `take`, in an order that does not depend on the order of an object's entries. Different trees lead to
    /// different bytes.
    pub(crate) fn visit(&self, take: &mut impl FnMut(&[u8])) {
        match self {
            Self::Object(entries) => {
                take(b"{");
                for (name, value) in entries {
                    take(&name.len().to_be_bytes());
                    take(name.as_bytes());
                    value.visit(take);
                }
                take(b"}");
            }
            Self::Array(entries) => {
                take(b"[");
                for value in entries {
                    value.visit(take);
                }
                take(b"]");
            }
            Self::Leaf(text) => {
                take(b"=");
                take(&text.len().to_be_bytes());
                take(text.as_bytes());
            }
        }
    }

    /// Returns whether this tree is like `first` wherever `first` and `second` agree.
    pub(crate) fn fits(&self, first: &Tree<'_>, second: &Tree<'_>) -> bool {
        match (first, second) {
            (Tree::Object(a), Tree::Object(b)) => {
                let Self::Object(own) = self else { return false };
                // A name that only one of the two has was made up.
                let same_names = a.len() == b.len() && a.keys().eq(b.keys());
                (!same_names || own.keys().eq(a.keys()))
                    && a.iter().all(|(name, first)| {
                        b.get(name).is_none_or(|second| own.get(name).is_some_and(|own| own.fits(first, second)))
                    })
            }
            (Tree::Array(a), Tree::Array(b)) if a.len() == b.len() => {
                let Self::Array(own) = self else { return false };
                own.len() == a.len() && own.iter().zip(a).zip(b).all(|((own, first), second)| own.fits(first, second))
            }
            (Tree::Leaf(a), Tree::Leaf(b)) if a == b => matches!(self, Self::Leaf(own) if own == a),
            _ => true,
        }
    }
}

/// Returns one form for a float that encoders write in several. An integer, or a number with more digits than a float has, keeps its text.
fn float(text: &str) -> Option<String> {
    let is_number = text.starts_with(|first: char| first == '-' || first.is_ascii_digit());
    if !is_number || !text.contains(['.', 'e', 'E']) {
        return None;
    }
    let mantissa = text.split(['e', 'E']).next().unwrap_or(text);
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).skip_while(|digit| *digit == b'0').count();
    let number: f64 = text.parse().ok()?;
    (digits <= FLOAT_DIGITS && number.is_finite()).then(|| format!("{number:e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(json: &str) -> Tree<'_> {
        Tree::parse(json.as_bytes()).unwrap()
    }

    fn bytes(json: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        tree(json).visit(&mut |part| bytes.extend_from_slice(part));
        bytes
    }

    #[test]
    fn order_of_entries_and_white_space_do_not_count() {
        let (one, other) = (r#"{"a":[1,{"c":2,"b":3}],"d":"x"}"#, r#" { "d" : "x", "a" : [ 1, {"b":3, "c":2} ] } "#);
        assert_eq!(tree(one), tree(other));
        assert_eq!(bytes(one), bytes(other));
    }

    #[test]
    fn form_of_a_float_does_not_count() {
        for (one, other) in [("1e300", "1e+300"), ("1E3", "1000.0"), ("-2.50", "-2.5"), ("1e-7", "0.0000001")] {
            assert_eq!(tree(one), tree(other));
            assert_eq!(bytes(one), bytes(other));
        }
        assert_ne!(tree("0.30000000000000004"), tree("0.3"));
        assert_ne!(tree("12345678901234567.81"), tree("12345678901234567.82"));
        assert_ne!(tree("\"1e3\""), tree("\"1E3\""));
    }

    #[test]
    fn large_numbers_and_shapes_are_told_apart() {
        let texts =
            ["18446744073709551617", "18446744073709551618", "[1,2]", "[2,1]", "[[1],2]", "[12]", "{}", "\"{}\""];
        for (place, one) in texts.iter().enumerate() {
            for other in &texts[place + 1..] {
                assert_ne!(tree(one), tree(other));
                assert_ne!(bytes(one), bytes(other));
            }
        }
    }

    #[test]
    fn nesting_has_a_bound_and_no_json_is_no_tree() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert_eq!(tree(&deep), tree(&deep));
        assert!(Tree::parse(b"{\"a\":").is_none() && Tree::parse(b"").is_none());
    }

    #[test]
    fn only_what_two_agree_on_is_compared() {
        let (first, second) = (r#"{"seat":1,"at":5,"tags":["a","x"]}"#, r#"{"seat":1,"at":6,"tags":["a","y"]}"#);
        let fits = |own: &str| tree(own).fits(&tree(first), &tree(second));
        assert!(fits(r#"{"seat":1,"at":9,"tags":["a","z"]}"#));
        assert!(!fits(r#"{"seat":2,"at":9,"tags":["a","z"]}"#));
        assert!(!fits(r#"{"seat":1,"at":9,"tags":["b","z"]}"#));
        assert!(!fits(r#"{"seat":1,"at":9,"tags":["a"]}"#));
        assert!(!fits(r#"{"seat":1,"at":9}"#));
        assert!(tree(r#"{"k9":{"a":1}}"#).fits(&tree(r#"{"k1":{"a":1}}"#), &tree(r#"{"k2":{"a":1}}"#)));
    }
}
