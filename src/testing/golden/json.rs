//! JSON whose values keep their text. Neither the form nor the comparison depends on features of serde_json that another crate switches on.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::codec::tree::Tree;

/// One level of a JSON value.
enum Level<'j> {
    Object(BTreeMap<String, &'j RawValue>),
    Array(Vec<&'j RawValue>),
    /// The text of any other value.
    Leaf(&'j str),
}

impl<'j> Level<'j> {
    fn of(json: &'j str) -> Self {
        let json = json.trim();
        if json.starts_with('{')
            && let Ok(fields) = serde_json::from_str(json)
        {
            return Self::Object(fields);
        }
        if json.starts_with('[')
            && let Ok(items) = serde_json::from_str(json)
        {
            return Self::Array(items);
        }
        Self::Leaf(json)
    }
}

/// Writes JSON with one line for each value and sorted fields.
pub(super) fn pretty(json: &str) -> String {
    let mut text = String::new();
    write(json, 0, &mut text);
    text
}

fn write(json: &str, depth: usize, text: &mut String) {
    let (entries, ends) = match Level::of(json) {
        Level::Leaf(leaf) => return text.push_str(leaf),
        Level::Object(fields) => {
            let named = |(name, value): (String, &RawValue)| (format!("{}: ", quoted(&name)), value.get().to_owned());
            (fields.into_iter().map(named).collect::<Vec<_>>(), ['{', '}'])
        }
        Level::Array(items) => {
            (items.into_iter().map(|item| (String::new(), item.get().to_owned())).collect(), ['[', ']'])
        }
    };
    text.push(ends[0]);
    let count = entries.len();
    for (place, (name, value)) in entries.into_iter().enumerate() {
        for part in ["\n", &"  ".repeat(depth + 1), &name] {
            text.push_str(part);
        }
        write(&value, depth + 1, text);
        text.push_str(if place + 1 < count { "," } else { "\n" });
    }
    if count > 0 {
        text.push_str(&"  ".repeat(depth));
    }
    text.push(ends[1]);
}

fn quoted(name: &str) -> String {
    serde_json::Value::from(name).to_string()
}

/// The places at which two JSON values differ.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Differences {
    /// Fields that only the newer value has.
    pub(super) added: Vec<String>,
    pub(super) other: Vec<String>,
}

/// Compares two JSON values.
pub(super) fn differences(before: &str, now: &str) -> Differences {
    let mut found = Differences::default();
    compare(before, now, "$", &mut found);
    found
}

fn compare(before: &str, now: &str, path: &str, found: &mut Differences) {
    let tree = |json: &str| Tree::parse(json.as_bytes()).is_some();
    if tree(before) && Tree::parse(before.as_bytes()) == Tree::parse(now.as_bytes()) {
        return;
    }
    match (Level::of(before), Level::of(now)) {
        (Level::Object(before), Level::Object(now)) => {
            for (name, value) in &before {
                match now.get(name) {
                    Some(now) => compare(value.get(), now.get(), &format!("{path}.{name}"), found),
                    None => found.other.push(format!("{path}.{name}: {} is gone", value.get())),
                }
            }
            let added = now.iter().filter(|(name, _)| !before.contains_key(*name));
            found.added.extend(added.map(|(name, value)| format!("{path}.{name}: {}", value.get())));
        }
        (Level::Array(before), Level::Array(now)) if before.len() == now.len() => {
            for (place, (before, now)) in before.iter().zip(now).enumerate() {
                compare(before.get(), now.get(), &format!("{path}[{place}]"), found);
            }
        }
        _ => found.other.push(format!("{path}: {} became {}", before.trim(), now.trim())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_sorted_and_numbers_keep_their_digits() {
        let json = r#"{"b":340282366920938463463374607431768211455,"a":[],"c":{"x":"ü\n"}}"#;
        let text = pretty(json);
        let lines = "{\n  \"a\": [],\n  \"b\": 340282366920938463463374607431768211455,\n  \"c\": {\n    \"x\": \"ü\\n\"\n  }\n}";
        assert_eq!(text, lines);
        assert_eq!(differences(json, &text), Differences::default());
    }

    #[test]
    fn each_difference_has_its_place() {
        let found = differences(r#"{"a":1,"b":[{"c":1},2],"d":"x"}"#, r#"{"d":"y","b":[{"c":1,"e":null},2.0],"f":[]}"#);
        assert_eq!(found.added, ["$.b[0].e: null", "$.f: []"]);
        assert_eq!(found.other, ["$.a: 1 is gone", "$.b[1]: 2 became 2.0", "$.d: \"x\" became \"y\""]);
        assert_eq!(differences("[1]", "[1,2]").other, ["$: [1] became [1,2]"]);
        let large = differences("18446744073709551617", "18446744073709551618");
        assert_eq!(large.other.len(), 1);
    }
}
