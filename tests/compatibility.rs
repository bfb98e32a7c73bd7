//! The text of shapes, and the rules of compatibility: what reads what.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use retell::Codec;
use retell::shape::{Changes, Enum, Field, Number, Read, Struct, Tagging, Type, Variant, Written};
use retell::{Shape, Value};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn shape(text: &str) -> Type {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Returns what a change breaks: backward, and forward.
fn broken(old: &str, new: &str) -> (Vec<String>, Vec<String>) {
    let changes = Changes::between(&shape(old), &shape(new), Codec::Json);
    let told = |findings: &[retell::shape::Finding]| findings.iter().map(ToString::to_string).collect();
    (told(&changes.backward), told(&changes.forward))
}

#[track_caller]
fn assert_breaks(old: &str, new: &str, backward: &[&str], forward: &[&str]) {
    let found = broken(old, new);
    assert_eq!((&*found.0, &*found.1), (&*owned(backward), &*owned(forward)), "{old} -> {new}");
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn assert_fits(old: &str, new: &str) {
    assert_breaks(old, new, &[], &[]);
}

#[test]
fn a_field_with_a_default_may_come_and_go() {
    assert_fits("{a: u8}", "{a: u8, b: u8 = default}");
    assert_fits("{a: u8}", "{a: u8, b: text?}");
    assert_fits("{a: u8, b: u8 = default}", "{a: u8}");
    assert_fits("{a: u8, b: text? sometimes}", "{a: u8}");
}

#[test]
fn a_field_that_is_needed_breaks_one_side() {
    assert_breaks("{a: u8}", "{a: u8, b: u8}", &["E-FIELD-REQUIRED-ADDED at b"], &[]);
    assert_breaks("{a: u8, b: u8}", "{a: u8}", &[], &["E-FIELD-REQUIRED-REMOVED at b"]);
    assert_breaks("{a: u8 sometimes = default}", "{a: u8}", &["E-FIELD-REQUIRED-ADDED at a"], &[]);
    assert_breaks("{a: u8}", "{a: u8 sometimes = default}", &[], &["E-FIELD-REQUIRED-REMOVED at a"]);
    assert_breaks("{a: [{b: u8}]}", "{a: [{b: u8, c: u8}]}", &["E-FIELD-REQUIRED-ADDED at a[].c"], &[]);
}

#[test]
fn a_closed_reader_refuses_fields() {
    assert_breaks("{a: u8}!", "{a: u8, b: u8?}!", &[], &["E-FIELD-ADDED-TO-CLOSED at b"]);
    assert_breaks("{a: u8, b: u8?}!", "{a: u8}!", &["E-FIELD-REMOVED-FROM-CLOSED at b"], &[]);
    assert_breaks("{a: u8, b: u8?}", "{a: u8}!", &["E-FIELD-REMOVED-FROM-CLOSED at b"], &[]);
    assert_fits("{a: u8}!", "{a: u8, b: u8? not written}!");
}

#[test]
fn an_alias_heals_one_side_of_a_rename() {
    assert_breaks("{a: u8}", "{b: u8}", &["E-FIELD-REQUIRED-ADDED at b"], &["E-FIELD-REQUIRED-REMOVED at a"]);
    assert_breaks("{a: u8}", "{b|a: u8}", &[], &["E-FIELD-REQUIRED-REMOVED at a"]);
    assert_fits("{a|b: u8}", "{b|a: u8}");
    assert_breaks("<a: u8>", "<b: u8>", &["E-VARIANT-REMOVED at <a>"], &["E-VARIANT-ADDED at <b>"]);
    assert_breaks("<a: u8>", "<b|a: u8>", &[], &["E-VARIANT-ADDED at <b>"]);
}

#[test]
fn numbers_may_grow_and_not_shrink() {
    for (small, large) in [
        ("u8", "u16"),
        ("u32", "u64"),
        ("u32", "i64"),
        ("i8", "i128"),
        ("u32", "f64"),
        ("i16", "f32"),
        ("f32", "f64"),
        ("f64", "number"),
    ] {
        assert_breaks(small, large, &[], &[&format!("E-NUMBER-WIDENED: {small} became {large}")]);
        assert_breaks(large, small, &[&format!("E-NUMBER-NARROWED: {large} became {small}")], &[]);
    }
    for (one, other) in [("u64", "f64"), ("i32", "u32"), ("u32", "i32"), ("i64", "f64"), ("u64", "i64")] {
        let (backward, forward) = broken(one, other);
        assert!(backward[0].starts_with("E-NUMBER-NARROWED") && forward[0].starts_with("E-NUMBER-WIDENED"));
    }
}

#[test]
fn null_needs_a_reader_that_accepts_it() {
    assert_breaks("u8", "u8?", &[], &["E-OPTION-ADDED: u8 became u8?"]);
    assert_breaks("u8?", "u8", &["E-OPTION-REMOVED: u8? became u8"], &[]);
    assert_fits("u8?", "u8?");
    assert_breaks(
        "{a: ()}",
        "{a: u8?}",
        &[],
        &["E-OPTION-ADDED at a: () became u8?", "E-TYPE-CHANGED at a: () became u8"],
    );
}

#[test]
fn variants_may_come_if_readers_have_one_for_others() {
    assert_breaks("<a | b: u8>", "<a | b: u8 | c>", &[], &["E-VARIANT-ADDED at <c>"]);
    assert_breaks("<a | b: u8>", "<a>", &["E-VARIANT-REMOVED at <b>"], &[]);
    assert_fits("<kind in a | other = others>", "<kind in a | b | other = others>");
    assert_breaks(
        "<a: u8>",
        "<a: text>",
        &["E-TYPE-CHANGED at <a>: u8 became text"],
        &["E-TYPE-CHANGED at <a>: u8 became text"],
    );
    assert_breaks("<a>", "<a: u8>", &["E-TYPE-CHANGED at <a>: () became u8"], &["E-TYPE-CHANGED at <a>: () became u8"]);
    assert_fits("<a | b not written>", "<a | b>".replace("b>", "b not written>").as_str());
    assert_breaks("<kind in a>", "<kind in a: {b: u8}>", &["E-FIELD-REQUIRED-ADDED at <a>.b"], &[]);
    assert_fits("<kind in a>", "<kind in a: {b: u8?}>");
}

#[test]
fn another_tagging_is_another_type() {
    for (one, other) in [
        ("<a: {b: u8}>", "<kind in a: {b: u8}>"),
        ("<t and c in a: u8>", "<t and d in a: u8>"),
        ("<a: u8>", "<untagged a: u8>"),
    ] {
        let told = format!("E-TAGGING-CHANGED: {one} became {other}");
        assert_breaks(one, other, &[&told], &[&told]);
    }
    let (one, other) = ("<untagged a: u8 | b: text>", "<untagged b: text | a: u8>");
    let told = format!("E-UNTAGGED-CHANGED: {one} became {other}");
    assert_breaks(one, other, &[&told], &[&told]);
}

#[test]
fn lists_keep_their_length() {
    assert_breaks("[u8; 2]", "[u8]", &[], &["E-TYPE-CHANGED: [u8; 2] became [u8]"]);
    assert_breaks("[u8]", "[u8; 2]", &["E-TYPE-CHANGED: [u8] became [u8; 2]"], &[]);
    let told = "E-LENGTH-CHANGED: [u8; 2] became [u8; 3]";
    assert_breaks("[u8; 2]", "[u8; 3]", &[told], &[told]);
    assert_breaks("(u8, text)", "(u16, text)", &[], &["E-NUMBER-WIDENED at [0]: u8 became u16"]);
    assert_breaks("{text => u16}", "{text => u8}", &["E-NUMBER-NARROWED at {}: u16 became u8"], &[]);
}

#[test]
fn a_type_that_accepts_less_breaks_the_log() {
    assert_breaks("text", "checked text", &["E-CHECK-ADDED: text became checked text"], &[]);
    assert_breaks("checked u32", "u32", &[], &["E-CHECK-REMOVED: checked u32 became u32"]);
    assert_fits("checked u32", "checked u32");
    assert_breaks("text", "uuid", &["E-TYPE-CHANGED: text became uuid"], &[]);
    assert_breaks("uuid", "text", &[], &["E-TYPE-CHANGED: uuid became text"]);
    let told = "E-TYPE-CHANGED: date became uuid";
    assert_breaks("date", "uuid", &[told], &[told]);
}

#[test]
fn an_object_is_read_as_a_map_of_its_values() {
    assert_breaks("{a: u8, b: u8}", "{text => u8}", &[], &["E-TYPE-CHANGED: {a: u8, b: u8} became {text => u8}"]);
    assert_breaks(
        "{a: u8, b: u16}",
        "{text => u8}",
        &["E-NUMBER-NARROWED at b: u16 became u8"],
        &["E-TYPE-CHANGED: {a: u8, b: u16} became {text => u8}"],
    );
}

#[test]
fn the_unknown_is_a_doubt_and_no_error() {
    assert_fits("opaque", "opaque");
    let told = "W-OPAQUE: opaque became u8";
    assert_breaks("opaque", "u8", &[told], &[told]);
    assert!(Changes::between(&shape("opaque"), &shape("u8"), Codec::Json).is_readable());
    assert!(!Changes::between(&shape("text"), &shape("u8"), Codec::Json).is_readable());
    assert_breaks("u8", "any", &[], &["E-TYPE-CHANGED: u8 became any"]);
    assert_breaks("{a: u8, ..text}", "{a: u8}", &["W-OPAQUE at *: fields of any name"], &[]);
    assert_breaks(
        "{a: u8, b: u8?}",
        "{a: u8, ..text}",
        &["E-OPTION-REMOVED at b: u8? became text", "E-TYPE-CHANGED at b: u8 became text"],
        &["W-OPAQUE at *: fields of any name"],
    );
}

#[test]
fn types_that_contain_themselves_are_compared_once() {
    let tree = "recursive {value: u8, children: [outer 0]}";
    assert_fits(tree, tree);
    assert_fits("{value: u8}", "recursive {value: u8, children: [outer 0] = default}");
    assert_breaks(
        tree,
        "recursive {value: u16, children: [outer 0]}",
        &[],
        &["E-NUMBER-WIDENED at value: u8 became u16"],
    );
    assert_breaks(
        tree,
        "recursive {value: u8, note: text, children: [outer 0]}",
        &["E-FIELD-REQUIRED-ADDED at note"],
        &[],
    );
    // The same type, in which one level is written out.
    assert_fits(tree, "{value: u8, children: [recursive {value: u8, children: [outer 0]}]}");
    assert_fits(
        "recursive <leaf | fork: (outer 0, recursive [outer 1])>",
        "recursive <leaf | fork: (outer 0, recursive [outer 1])>",
    );
    assert!(!broken("outer 3", "u8").0.is_empty());
}

/// A compact payload has no names, so each change is one of the payload.
#[test]
fn compact_events_are_frozen() {
    let one = shape("{a: u8, b: u8 = default}");
    for other in
        ["{a: u8}", "{a: u8, b: u8 = default, c: u8?}", "{b: u8 = default, a: u8}", "{a: u16, b: u8 = default}"]
    {
        let changes = Changes::between(&one, &shape(other), Codec::Compact);
        assert_eq!(changes.backward.len(), 1, "{other}");
        assert_eq!((changes.backward[0].rule.id(), changes.forward.len()), ("E-COMPACT-CHANGED", 1), "{other}");
    }
    assert!(Changes::between(&one, &one, Codec::Compact).backward.is_empty());
}

#[test]
fn each_rule_has_a_name_and_a_cure() {
    use retell::shape::Rule;
    let rules = [
        Rule::FieldRequiredAdded,
        Rule::FieldRequiredRemoved,
        Rule::FieldRemovedFromClosed,
        Rule::FieldAddedToClosed,
        Rule::StateFieldRemoved,
        Rule::NumberNarrowed,
        Rule::NumberWidened,
        Rule::OptionRemoved,
        Rule::OptionAdded,
        Rule::VariantRemoved,
        Rule::VariantAdded,
        Rule::TaggingChanged,
        Rule::UntaggedChanged,
        Rule::LengthChanged,
        Rule::CheckAdded,
        Rule::CheckRemoved,
        Rule::TypeChanged,
        Rule::CompactChanged,
        Rule::Opaque,
    ];
    let ids: BTreeSet<_> = rules.iter().map(|rule| rule.id()).collect();
    assert_eq!(ids.len(), rules.len());
    assert!(rules.iter().all(|rule| rule.is_doubt() == rule.id().starts_with("W-") && rule.cure().len() > 20));
}

/// Any shape, also ones that no type has.
fn any_shape() -> impl Strategy<Value = Type> {
    let name =
        || prop_oneof!["[a-z][a-z_0-9-]{0,5}", "[ -~äß\"\\\\|]{0,6}", Just("in".to_owned()), Just("not".to_owned())];
    let leaf = prop_oneof![
        Just(Type::Bool),
        Just(Type::Char),
        Just(Type::Text),
        Just(Type::Unit),
        Just(Type::Bytes),
        Just(Type::Any),
        Just(Type::Opaque),
        Just(Type::Number(Number::U8)),
        Just(Type::Number(Number::I128)),
        Just(Type::Number(Number::F64)),
        Just(Type::Number(Number::Json)),
        Just(Type::Format("date-time".into())),
        (0..3usize).prop_map(Type::Outer),
        Just(Type::Tuple(vec![])),
    ];
    leaf.prop_recursive(4, 40, 4, move |inner| {
        let boxed = || inner.clone().prop_map(Box::new);
        let written = prop_oneof![Just(Written::Always), Just(Written::Sometimes), Just(Written::Never)];
        let read = prop_oneof![Just(Read::Required), Just(Read::Optional), Just(Read::Never)];
        let field = (name(), vec(name(), 0..3), inner.clone(), written, read).prop_map(
            |(name, aliases, value, written, read)| {
                let mut field = Field::new(name, value);
                (field.aliases, field.written, field.read) = (aliases, written, read);
                field
            },
        );
        let variant = (name(), vec(name(), 0..3), proptest::option::of(inner.clone()), any::<(bool, bool, bool)>())
            .prop_map(|(name, aliases, value, (is_other, is_written, is_read))| {
                let mut variant = Variant::new(name, value);
                (variant.aliases, variant.is_other, variant.is_written, variant.is_read) =
                    (aliases, is_other, is_written, is_read);
                variant
            });
        let tagging = prop_oneof![
            Just(Tagging::External),
            name().prop_map(Tagging::Internal),
            (name(), name()).prop_map(|(tag, content)| Tagging::Adjacent(tag, content)),
            Just(Tagging::Untagged),
        ];
        prop_oneof![
            boxed().prop_map(Type::Option),
            boxed().prop_map(Type::List),
            boxed().prop_map(Type::Checked),
            boxed().prop_map(Type::Recursive),
            (boxed(), 0..20usize).prop_map(|(item, length)| Type::Array(item, length)),
            vec(inner.clone(), 2..4).prop_map(Type::Tuple),
            (boxed(), boxed()).prop_map(|(key, value)| Type::Map(key, value)),
            (vec(field, 0..4), proptest::option::of(boxed()), any::<bool>()).prop_map(|(fields, rest, is_closed)| {
                let mut all = Struct::new();
                (all.fields, all.rest, all.is_closed) = (fields, rest, is_closed);
                Type::Struct(all)
            }),
            (tagging, vec(variant, 0..4)).prop_map(|(tagging, variants)| Type::Enum(Enum::new(tagging, variants))),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn the_text_of_a_shape_is_read_as_that_shape(shape in any_shape()) {
        let text = shape.to_string();
        prop_assert_eq!(text.parse::<Type>().unwrap_or_else(|error| panic!("{text}: {error}")), shape.clone());
        let spaced = text.replace(", ", " ,\n  ");
        if !text.contains('"') {
            prop_assert_eq!(spaced.parse::<Type>().unwrap(), shape);
        }
    }

    #[test]
    fn any_other_text_is_an_error_and_no_panic(text in "[a-z{}<>()\\[\\]?!:|,;=. \"0-9]{0,40}") {
        if let Ok(shape) = text.parse::<Type>() {
            prop_assert_eq!(shape.to_string().parse::<Type>().unwrap(), shape);
        }
    }

    #[test]
    fn comparing_ends_and_a_shape_fits_itself(one in any_shape(), other in any_shape()) {
        Changes::between(&one, &other, Codec::Json);
        prop_assert!(Changes::between(&one, &one, Codec::Compact).backward.is_empty());
    }
}

#[test]
fn a_deep_text_is_an_error() {
    for text in [
        "[".repeat(100_000),
        "checked ".repeat(100_000),
        "{a: ".repeat(100_000),
        "(".repeat(100_000),
        "<a: ".repeat(100_000),
    ] {
        assert!(text.parse::<Type>().is_err());
    }
}

/// Asserts that the rules say of two types what serde does with their values.
fn assert_rules_hold<W: Shape + Serialize, R: Shape + DeserializeOwned>(written: &[W]) {
    let changes = Changes::between(&Type::of::<W>(), &Type::of::<R>(), Codec::Json);
    let all_read =
        written.iter().all(|value| serde_json::from_str::<R>(&serde_json::to_string(value).unwrap()).is_ok());
    assert_eq!(changes.is_readable(), all_read, "{} -> {}: {:?}", Type::of::<W>(), Type::of::<R>(), changes.backward);
}

macro_rules! versions {
    ($($name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty),* })*) => {
        $(
            #[derive(Value, Debug, Clone)]
            struct $name { $($(#[$attribute])* $field: $type),* }
        )*
    };
}

versions! {
    One { a: u8, b: Option<String> }
    Added { a: u8, b: Option<String>, c: u8 }
    Defaulted { a: u8, b: Option<String>, #[serde(default)] c: u8 }
    Removed { a: u8 }
    Renamed { #[serde(rename = "x", alias = "a")] a: u8, b: Option<String> }
    Wider { a: i64, b: Option<String> }
    Needed { a: u8, b: String }
    Float { a: f64 }
    List { a: Vec<u8> }
}

#[derive(Value, Debug, Clone)]
#[serde(deny_unknown_fields)]
struct Closed {
    a: u8,
}

#[derive(Value, Debug, Clone)]
enum Two {
    A,
    B(u8),
}

#[derive(Value, Debug, Clone)]
enum Three {
    A,
    B(u8),
    C { c: u8 },
}

/// The rules agree with serde, for values that reach the ends of their types.
#[test]
fn the_rules_say_what_serde_does() {
    let ones = [One { a: 0, b: None }, One { a: u8::MAX, b: Some("x".into()) }];
    assert_rules_hold::<One, One>(&ones);
    assert_rules_hold::<One, Added>(&ones);
    assert_rules_hold::<One, Defaulted>(&ones);
    assert_rules_hold::<One, Removed>(&ones);
    assert_rules_hold::<One, Renamed>(&ones);
    assert_rules_hold::<One, Wider>(&ones);
    assert_rules_hold::<One, Needed>(&ones);
    assert_rules_hold::<One, Closed>(&ones);
    assert_rules_hold::<One, Float>(&ones);
    assert_rules_hold::<One, List>(&ones);
    assert_rules_hold::<One, BTreeMap<String, serde_json::Value>>(&ones);
    assert_rules_hold::<One, BTreeMap<String, u8>>(&ones);
    let wider = [Wider { a: i64::MIN, b: None }, Wider { a: i64::MAX, b: None }];
    assert_rules_hold::<Wider, One>(&wider);
    let removed = [Removed { a: 1 }];
    assert_rules_hold::<Removed, One>(&removed);
    assert_rules_hold::<Removed, Needed>(&removed);
    assert_rules_hold::<Removed, Closed>(&removed);
    assert_rules_hold::<Closed, Added>(&[Closed { a: 1 }]);
    assert_rules_hold::<Float, Removed>(&[Float { a: 0.5 }]);
    assert_rules_hold::<List, Removed>(&[List { a: vec![1] }]);
    assert_rules_hold::<Two, Three>(&[Two::A, Two::B(1)]);
    assert_rules_hold::<Three, Two>(&[Three::A, Three::B(1), Three::C { c: 1 }]);
}
