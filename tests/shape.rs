//! The wire shapes of derived types, and the payloads of `#[derive(Value)]`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::num::NonZeroU32;
use std::sync::OnceLock;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use proptest::prelude::*;
use retell::__private::shape::{self as declared, Body};
use retell::shape::Type;
use retell::{AggregateId, Codec, Event, EventId, Position, Shape, Value};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

fn text<T: Shape>() -> String {
    Type::of::<T>().to_string()
}

fn is_exact<T: Shape>() -> bool {
    declared::reads_back(&OnceLock::new(), &Body::Inner(declared::of::<T>))
}

#[test]
fn ready_types_have_their_wire_shape() {
    for (shape, expected) in [
        (text::<(u8, u16, u32, u64, usize)>(), "(u8, u16, u32, u64, u64)"),
        (text::<(i8, i16, i32, i64, isize)>(), "(i8, i16, i32, i64, i64)"),
        (text::<(u128, i128, f32, f64)>(), "(u128, i128, f32, f64)"),
        (text::<(bool, char, String, Box<str>)>(), "(bool, char, text, text)"),
        (text::<[u8; 3]>(), "[u8; 3]"),
        (text::<(u8, u8, u8)>(), "[u8; 3]"),
        (text::<()>(), "()"),
        (text::<Vec<Option<Box<i32>>>>(), "[i32?]"),
        (text::<BTreeSet<String>>(), "[text]"),
        (text::<HashMap<String, BTreeMap<u8, bool>>>(), "{text => {u8 => bool}}"),
        (text::<NonZeroU32>(), "checked u32"),
        (text::<Result<u8, String>>(), "<Ok: u8 | Err: text>"),
        (text::<std::ops::Range<u8>>(), "{start: u8, end: u8}"),
        (text::<Duration>(), "{secs: u64, nanos: u32}"),
        (text::<(Uuid, EventId, AggregateId, Position)>(), "(uuid, uuid, text, u64)"),
        (text::<(DateTime<Utc>, NaiveDate)>(), "(date-time, date)"),
        (text::<(serde_json::Value, serde_json::Number)>(), "(any, number)"),
        (text::<rust_decimal::Decimal>(), "decimal"),
    ] {
        assert_eq!(shape, expected);
    }
}

/// The names that serde writes, for each of its rules.
#[test]
fn names_follow_the_rules_of_serde() {
    macro_rules! rules {
        ($($rule:literal),*) => {
            $({
                #[derive(Serialize, Deserialize, Shape)]
                #[serde(rename_all = $rule)]
                struct Fields {
                    one: u8,
                    two_words: u8,
                    r#type: u8,
                    a1_b: u8,
                }

                #[derive(Serialize, Deserialize, Shape)]
                #[serde(rename_all = $rule)]
                enum Variants {
                    One,
                    TwoWords,
                    HTTPCode,
                    A1B,
                }

                let fields = serde_json::to_string(&Fields { one: 0, two_words: 0, r#type: 0, a1_b: 0 }).unwrap();
                let Type::Struct(shape) = Type::of::<Fields>() else { panic!("a struct") };
                let names = shape.fields.iter().map(|field| format!("{:?}:0", field.name)).collect::<Vec<_>>();
                assert_eq!(fields, format!("{{{}}}", names.join(",")), $rule);

                let all = [Variants::One, Variants::TwoWords, Variants::HTTPCode, Variants::A1B];
                let Type::Enum(shape) = Type::of::<Variants>() else { panic!("an enum") };
                for (variant, declared) in all.iter().zip(&shape.variants) {
                    assert_eq!(serde_json::to_string(variant).unwrap(), format!("{:?}", declared.name), $rule);
                }
            })*
        };
    }
    rules!(
        "lowercase",
        "UPPERCASE",
        "PascalCase",
        "camelCase",
        "snake_case",
        "SCREAMING_SNAKE_CASE",
        "kebab-case",
        "SCREAMING-KEBAB-CASE"
    );
}

#[derive(Shape, Serialize, Deserialize, Debug, PartialEq, Default)]
struct Inner {
    a: u8,
    b: Option<u8>,
}

#[derive(Shape, Serialize, Deserialize, Debug, PartialEq, Default)]
#[serde(deny_unknown_fields)]
struct Closed {
    #[serde(rename = "x y", alias = "old")]
    x: u8,
    #[serde(default)]
    count: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[serde(skip)]
    hidden: u64,
    #[serde(skip_deserializing)]
    total: u64,
    #[serde(rename(serialize = "out", deserialize = "in"))]
    turn: u8,
}

#[derive(Shape, Serialize, Deserialize)]
struct Flat {
    id: u8,
    #[serde(flatten)]
    inner: Inner,
    #[serde(flatten)]
    maybe: Option<Lone>,
    #[serde(flatten)]
    rest: BTreeMap<String, bool>,
}

#[derive(Shape, Serialize, Deserialize)]
struct Lone {
    lone: u8,
    #[serde(default)]
    other: u8,
}

#[derive(Shape, Serialize, Deserialize)]
struct Newtype(Vec<Inner>);

#[derive(Shape, Serialize, Deserialize)]
struct Pair(u8, String);

#[derive(Shape, Serialize, Deserialize)]
struct Nothing;

#[derive(Shape, Serialize, Deserialize)]
#[serde(transparent)]
struct Through {
    inside: u64,
}

#[derive(Shape, Serialize, Deserialize, Clone)]
#[serde(try_from = "String", into = "String")]
struct Email(String);

impl TryFrom<String> for Email {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        if text.contains('@') { Ok(Self(text)) } else { Err("no @") }
    }
}

impl From<Email> for String {
    fn from(email: Email) -> Self {
        email.0
    }
}

#[derive(Shape, Serialize, Deserialize)]
enum Plain {
    Empty,
    One(u8),
    Two(u8, String),
    Named { a: u8 },
}

#[derive(Shape, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all_fields = "camelCase")]
enum Internal {
    Empty,
    Named {
        two_words: u8,
    },
    #[serde(other)]
    Unknown,
}

#[derive(Shape, Serialize, Deserialize)]
#[expect(dead_code, reason = "serde writes no value of the hidden variant")]
#[serde(tag = "t", content = "c")]
enum Adjacent {
    One(u8),
    #[serde(skip)]
    Hidden,
}

#[derive(Shape, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(u8),
    Text(String),
}

#[derive(Shape, Serialize, Deserialize)]
struct Page<T> {
    items: Vec<T>,
}

#[derive(Shape, Serialize, Deserialize)]
struct Tree {
    value: u8,
    children: Vec<Tree>,
}

#[derive(Shape, Serialize, Deserialize)]
struct Forest(Vec<Branch>);

#[derive(Shape, Serialize, Deserialize)]
enum Branch {
    Leaf,
    Fork(Box<(Branch, Forest)>),
}

#[derive(Shape, Serialize, Deserialize)]
struct Unknown {
    #[shape(opaque)]
    what: std::net::IpAddr,
}

#[test]
fn derived_shapes_say_what_serde_writes_and_reads() {
    for (shape, expected) in [
        (text::<Inner>(), "{a: u8, b: u8?}"),
        (
            text::<Closed>(),
            "{\"x y\"|old: u8, count: u32 = default, note: text? sometimes, total: u64 not read, out: u8 not read, \"in\": u8 not written}!",
        ),
        (
            text::<Flat>(),
            "{id: u8, a: u8, b: u8?, lone: u8 sometimes = default, other: u8 sometimes = default, ..bool}",
        ),
        (text::<Newtype>(), "[{a: u8, b: u8?}]"),
        (text::<Pair>(), "(u8, text)"),
        (text::<Nothing>(), "()"),
        (text::<Through>(), "u64"),
        (text::<Email>(), "checked text"),
        (text::<Plain>(), "<Empty | One: u8 | Two: (u8, text) | Named: {a: u8}>"),
        (text::<Internal>(), "<kind in Empty | Named: {twoWords: u8} | Unknown = others>"),
        (text::<Adjacent>(), "<t and c in One: u8 | Hidden not written not read>"),
        (text::<Untagged>(), "<untagged Number: u8 | Text: text>"),
        (text::<Page<Pair>>(), "{items: [(u8, text)]}"),
        (text::<Tree>(), "recursive {value: u8, children: [outer 0]}"),
        (text::<Forest>(), "recursive [recursive <Leaf | Fork: (outer 0, outer 1)>]"),
        (text::<Unknown>(), "{what: opaque}"),
    ] {
        assert_eq!(shape, expected);
    }
}

/// Attributes and names that do not change the payload do not change the shape.
#[test]
fn what_is_not_on_the_wire_is_not_in_the_shape() {
    #[derive(Shape, Serialize, Deserialize)]
    #[serde(rename = "Other", bound = "")]
    struct Renamed {
        /// A note.
        #[serde(rename = "a")]
        first: u8,
        #[serde(default)]
        b: Option<u8>,
    }
    assert_eq!(Type::of::<Renamed>(), Type::of::<Inner>());
    assert_eq!(Type::of::<Through>(), Type::of::<u64>());
    assert_ne!(Type::of::<Closed>(), Type::of::<Inner>());
}

#[derive(Event)]
#[event("all.kinds")]
struct OfStruct {
    at: DateTime<Utc>,
    #[event(opaque)]
    what: std::net::IpAddr,
}

#[derive(Event)]
#[serde(rename_all_fields = "camelCase", deny_unknown_fields)]
enum OfEnum {
    #[event("of.none")]
    None,
    #[event("of.inner")]
    Inner(Inner),
    #[event("of.pair")]
    Pair(u8, String),
    #[event("of.named")]
    Named {
        two_words: u8,
        #[serde(default)]
        later: u8,
    },
}

#[test]
fn each_kind_of_event_has_a_shape() {
    let retell::event::EventTypes::Only(kinds) = OfEnum::TYPES else { panic!("known kinds") };
    let shapes: Vec<_> = kinds.iter().map(|kind| kind.shape().unwrap().to_string()).collect();
    assert_eq!(shapes, ["{}!", "{a: u8, b: u8?}", "(u8, text)", "{twoWords: u8, later: u8 = default}!"]);
    let retell::event::EventTypes::Only(kinds) = OfStruct::TYPES else { panic!("known kinds") };
    assert_eq!(kinds[0].shape().unwrap().to_string(), "{at: date-time, what: opaque}");
    let by_hand = retell::event::EventSchema::new("by.hand", 1, Codec::Json);
    assert_eq!(by_hand.shape(), None);
}

/// The same declarations by `Value`, and by serde's derives.
macro_rules! twins {
    ($($item:item)*) => {
        mod by_value {
            use super::*;
            $(#[derive(Debug, Clone, PartialEq, Value)] $item)*
        }

        mod by_serde {
            use super::*;
            $(#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)] $item)*
        }
    };
}

twins! {
    pub(super) struct Unit;

    pub(super) struct Newtype(pub(super) u64);

    pub(super) struct Pair(pub(super) i8, pub(super) String);

    #[serde(transparent)]
    pub(super) struct Through {
        pub(super) inside: Vec<u8>,
    }

    #[serde(rename_all = "kebab-case")]
    pub(super) struct Named {
        pub(super) pair: Pair,
        pub(super) two_words: Option<Newtype>,
        #[serde(default)]
        pub(super) later: u8,
        #[serde(rename = "kind")]
        pub(super) r#type: Kind,
    }

    #[serde(rename_all = "snake_case")]
    pub(super) enum Kind {
        Empty,
        NewType(u8),
        Tuple(u8, bool),
        Named { a: u8, b: Vec<Kind> },
    }

    #[serde(tag = "kind", deny_unknown_fields)]
    pub(super) enum Tagged {
        Empty,
        Named { a: u8 },
    }
}

fn stored<T: Serialize>(value: &T) -> Vec<Vec<u8>> {
    let encode = |codec: Codec| {
        let mut payload = Vec::new();
        codec.encode(value, &mut payload).unwrap();
        payload
    };
    vec![encode(Codec::Json), encode(Codec::Compact)]
}

fn assert_reads<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, payloads: &[Vec<u8>]) {
    for (codec, payload) in [Codec::Json, Codec::Compact].iter().zip(payloads) {
        assert_eq!(&codec.decode::<T>(payload).unwrap(), value);
    }
}

macro_rules! assert_twins {
    ($($value:expr),* $(,)?) => {
        $({
            let ours = { use by_value::*; $value };
            let theirs = { use by_serde::*; $value };
            assert_eq!(stored(&ours), stored(&theirs));
            assert_reads(&ours, &stored(&theirs));
            assert_reads(&theirs, &stored(&ours));
        })*
    };
}

proptest! {
    #[test]
    fn values_have_the_form_of_serdes_derives(number: u64, small: i8, text: String, bytes: Vec<u8>, flag: bool) {
        assert_twins! {
            Newtype(number),
            Pair(small, text.clone()),
            Through { inside: bytes.clone() },
            Kind::Empty,
            Kind::NewType(7),
            Kind::Tuple(7, flag),
            Kind::Named { a: 1, b: vec![Kind::Empty, Kind::NewType(2)] },
            Named {
                pair: Pair(small, text.clone()),
                two_words: flag.then_some(Newtype(number)),
                later: 3,
                r#type: Kind::Tuple(1, flag),
            },
        }
    }
}

#[test]
fn tagged_values_have_the_form_of_serdes_derives() {
    for (ours, theirs) in [
        (by_value::Tagged::Empty, by_serde::Tagged::Empty),
        (by_value::Tagged::Named { a: 1 }, by_serde::Tagged::Named { a: 1 }),
    ] {
        let json = serde_json::to_string(&ours).unwrap();
        assert_eq!(json, serde_json::to_string(&theirs).unwrap());
        assert_eq!(serde_json::from_str::<by_value::Tagged>(&json).unwrap(), ours);
    }
    assert!(serde_json::from_str::<by_value::Tagged>(r#"{"kind":"Named","a":1,"b":2}"#).is_err());
    assert_eq!(stored(&by_value::Unit), stored(&by_serde::Unit));
}

#[derive(Value, Debug, Clone, PartialEq)]
struct Line {
    sku: String,
    count: u32,
    unit: Measure,
    #[serde(default, rename = "n")]
    note: Option<String>,
}

#[derive(Value, Debug, Clone, Copy, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Measure {
    Piece,
    Kilogram { grams: u16 },
    Box(u8),
}

/// The library knows how a `Value` is written, and only trusts what a type with serde's derives says of itself for its shape.
#[test]
fn only_values_are_not_decoded_again() {
    #[derive(Value)]
    struct Unit;

    assert!(is_exact::<Line>() && is_exact::<Vec<Option<(Line, Measure)>>>());
    assert!(!is_exact::<Inner>() && !is_exact::<Pair>() && !is_exact::<Plain>());
    assert!(!is_exact::<Unit>(), "JSON writes it as null");
}

macro_rules! not_exact {
    ($($(#[$serde:meta])* { $(#[$field:meta])* $type:ty })*) => {
        $({
            #[derive(Value)]
            #[allow(dead_code, unreachable_patterns, reason = "only its shape counts")]
            $(#[$serde])*
            struct Odd {
                $(#[$field])*
                field: $type,
                other: u8,
            }
            assert!(!is_exact::<Odd>(), "{}", text::<Odd>());
        })*
    };
}

#[test]
fn a_value_with_any_doubt_is_decoded_again() {
    #[derive(Value)]
    #[expect(dead_code, reason = "only its shape counts")]
    #[serde(transparent)]
    struct Transparent {
        inside: u64,
        #[serde(skip)]
        lost: u8,
    }

    #[derive(Value)]
    #[expect(dead_code, reason = "only its shape counts")]
    #[serde(transparent)]
    struct TransparentPair(u64, #[serde(skip)] u8);

    #[derive(Value)]
    #[serde(untagged)]
    enum Untagged {
        Text(String),
        Number(u8),
    }

    #[derive(Value)]
    #[allow(unreachable_patterns, reason = "only its shape counts")]
    enum Renamed {
        #[serde(rename = "Two")]
        One,
        Two,
    }

    #[derive(Value)]
    struct Nested {
        inside: Vec<Nested>,
    }

    not_exact! {
        { f64 }
        { u128 }
        { () }
        { Option<Option<u8>> }
        { BTreeMap<String, u8> }
        { DateTime<Utc> }
        { serde_json::Value }
        { Email }
        { Inner }
        { NonZeroU32 }
        { #[serde(skip)] u8 }
        { #[serde(default, skip_serializing_if = "Option::is_none")] Option<u8> }
        { #[serde(rename = "other")] u8 }
        { #[serde(alias = "other")] u8 }
        { #[serde(flatten)] Line }
        { #[shape(opaque)] u8 }
    }
    assert!(!is_exact::<Untagged>());
    assert!(!is_exact::<Transparent>() && !is_exact::<TransparentPair>());
    assert_eq!([text::<Transparent>(), text::<TransparentPair>()], ["u64", "u64"]);
    assert!(!is_exact::<Renamed>());
    assert!(!is_exact::<Nested>(), "as deep as its writer wants");
}

proptest! {
    #[test]
    fn every_value_of_exact_parts_reads_back(sku: String, count: u32, grams: u16, note: Option<String>) {
        for unit in [Measure::Piece, Measure::Kilogram { grams }, Measure::Box(1)] {
            let line = Line { sku: sku.clone(), count, unit, note: note.clone() };
            let lines = vec![(Some(line.clone()), unit), (None, unit)];
            assert_reads(&line, &stored(&line));
            assert_reads(&lines, &stored(&lines));
        }
    }
}
