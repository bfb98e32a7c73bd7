//! Types that use each part of a wire shape, and strategies for their values.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use chrono::{DateTime, Month, NaiveDate, NaiveDateTime, NaiveTime, Utc, Weekday};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use retell::Shape;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

#[derive(Shape, Serialize, Deserialize, Debug, Clone)]
pub(crate) struct Rich {
    pub(crate) numbers: Numbers,
    texts: Texts,
    composed: Composed,
    tagged: Vec<Tagged>,
    trees: (Tree, Forest),
    closed: Closed,
    flat: Flat,
}

#[derive(Shape, Serialize, Deserialize, Debug, Clone)]
pub(crate) struct Numbers {
    bytes: (u8, i8),
    words: (u16, i16, u32, i32),
    long: u64,
    below: i64,
    wide: u128,
    deep: i128,
    float: f64,
    single: f32,
    flag: bool,
}

#[derive(Shape, Serialize, Deserialize, Debug, Clone)]
struct Texts {
    letter: char,
    text: String,
    id: Uuid,
    ip: IpAddr,
    at: DateTime<Utc>,
    day: NaiveDate,
    time: NaiveTime,
    local: NaiveDateTime,
    month: Month,
    weekday: Weekday,
}

#[derive(Shape, Serialize, Deserialize, Debug, Clone)]
struct Composed {
    nothing: (),
    maybe: Option<Box<Option<u8>>>,
    list: Vec<Option<bool>>,
    array: [u16; 3],
    pair: (u8, String, bool),
    named: BTreeMap<String, u8>,
    by_number: BTreeMap<i32, u8>,
    by_id: BTreeMap<Uuid, bool>,
    by_kind: BTreeMap<Kind, bool>,
    result: Result<u8, String>,
    lasts: Duration,
}

#[derive(Shape, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Small,
    VeryLarge,
}

/// One variant for each style of tags, and for each kind of content.
#[derive(Shape, Serialize, Deserialize, Debug, Clone)]
enum Tagged {
    Empty,
    #[serde(alias = "Uno")]
    One(u8),
    Two(u8, String),
    Named {
        a: u8,
        b: Option<u8>,
    },
    Internal(Internal),
    Adjacent(Adjacent),
    Untagged(Untagged),
}

#[derive(Shape, Serialize, Deserialize, Debug, Clone)]
#[serde(tag = "kind")]
enum Internal {
    Empty,
    Named { a: u8 },
    Struct(Inner),
    Closed(Closed),
    Map(BTreeMap<String, u8>),
    Tree(Tree),
    Nested(Adjacent),
}

#[derive(Shape, Serialize, Deserialize, Debug, Clone)]
#[serde(tag = "t", content = "c", rename_all = "kebab-case")]
enum Adjacent {
    Empty,
    MaybeOne(Option<u8>),
    Two(u8, bool),
    Named { a: u8 },
}

#[derive(Shape, Serialize, Deserialize, Debug, Clone)]
#[serde(untagged)]
enum Untagged {
    Number(u8),
    Pair(bool, bool),
    Inner(Inner),
    Nothing,
}

#[derive(Shape, Serialize, Deserialize, Debug, Clone)]
struct Inner {
    a: u8,
    #[serde(default)]
    later: u8,
}

#[derive(Shape, Serialize, Deserialize, Debug, Clone)]
#[serde(deny_unknown_fields)]
pub(crate) struct Closed {
    #[serde(rename = "x y", alias = "old")]
    x: u8,
    #[serde(default)]
    count: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[expect(dead_code, reason = "serde does not write it")]
    #[serde(skip)]
    hidden: u64,
}

#[derive(Shape, Serialize, Deserialize, Debug, Clone)]
struct Flat {
    id: u8,
    #[serde(flatten)]
    inner: Inner,
    #[serde(flatten)]
    rest: BTreeMap<String, bool>,
}

#[derive(Shape, Serialize, Deserialize, Debug, Clone)]
pub(crate) struct Tree {
    value: u8,
    children: Vec<Tree>,
}

#[derive(Shape, Serialize, Deserialize, Debug, Clone)]
struct Forest(Vec<Branch>);

#[derive(Shape, Serialize, Deserialize, Debug, Clone)]
enum Branch {
    Leaf,
    Fork(Box<(Branch, Forest)>),
}

fn numbers() -> impl Strategy<Value = Numbers> {
    let small = (any::<(u8, i8)>(), any::<(u16, i16, u32, i32)>(), any::<u64>(), any::<i64>());
    // A JSON value of more than 64 bits is rounded.
    let large = (any::<u64>(), any::<i64>(), -1e300..1e300, -1e30f32..1e30, any::<bool>());
    (small, large).prop_map(|((bytes, words, long, below), (wide, deep, float, single, flag))| Numbers {
        bytes,
        words,
        long,
        below,
        wide: wide.into(),
        deep: deep.into(),
        float,
        single,
        flag,
    })
}

fn uuids() -> impl Strategy<Value = Uuid> {
    any::<u128>().prop_map(Uuid::from_u128)
}

fn texts() -> impl Strategy<Value = Texts> {
    let seconds = 0i64..200_000_000_000;
    let parts = (any::<char>(), any::<String>(), uuids(), any::<IpAddr>(), seconds, 0u32..1_000_000_000);
    parts.prop_map(|(letter, text, id, ip, seconds, nanos)| {
        let at = DateTime::from_timestamp(seconds, nanos).unwrap();
        let local = at.naive_utc();
        let month = Month::try_from(u8::try_from(seconds % 12 + 1).unwrap()).unwrap();
        let weekday = Weekday::try_from(u8::try_from(seconds % 7).unwrap()).unwrap();
        Texts { letter, text, id, ip, at, day: local.date(), time: local.time(), local, month, weekday }
    })
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Small), Just(Kind::VeryLarge)]
}

fn composed() -> impl Strategy<Value = Composed> {
    let lists = (any::<Option<u8>>(), vec(any::<Option<bool>>(), 0..3), any::<[u16; 3]>(), any::<(u8, String, bool)>());
    let maps = (
        btree_map(any::<String>(), any::<u8>(), 0..3),
        btree_map(any::<i32>(), any::<u8>(), 0..3),
        btree_map(uuids(), any::<bool>(), 0..3),
        btree_map(kinds(), any::<bool>(), 0..3),
    );
    let others = (any::<Result<u8, String>>(), any::<Duration>());
    (lists, maps, others).prop_map(
        |((maybe, list, array, pair), (named, by_number, by_id, by_kind), (result, lasts))| Composed {
            nothing: (),
            maybe: maybe.map(|inside| Box::new(Some(inside))),
            list,
            array,
            pair,
            named,
            by_number,
            by_id,
            by_kind,
            result,
            lasts,
        },
    )
}

fn trees() -> impl Strategy<Value = Tree> {
    let leaf = any::<u8>().prop_map(|value| Tree { value, children: Vec::new() });
    leaf.prop_recursive(3, 6, 2, |inner| {
        (any::<u8>(), vec(inner, 0..3)).prop_map(|(value, children)| Tree { value, children })
    })
}

fn branches() -> impl Strategy<Value = Branch> {
    Just(Branch::Leaf).prop_recursive(3, 6, 2, |inner| {
        (inner.clone(), vec(inner, 0..3)).prop_map(|(one, others)| Branch::Fork(Box::new((one, Forest(others)))))
    })
}

fn inner() -> impl Strategy<Value = Inner> {
    any::<(u8, u8)>().prop_map(|(a, later)| Inner { a, later })
}

fn closed() -> impl Strategy<Value = Closed> {
    any::<(u8, u32, Option<String>)>().prop_map(|(x, count, note)| Closed { x, count, note, hidden: 0 })
}

fn adjacent() -> impl Strategy<Value = Adjacent> {
    prop_oneof![
        Just(Adjacent::Empty),
        any::<Option<u8>>().prop_map(Adjacent::MaybeOne),
        any::<(u8, bool)>().prop_map(|(one, other)| Adjacent::Two(one, other)),
        any::<u8>().prop_map(|a| Adjacent::Named { a }),
    ]
}

fn internal() -> impl Strategy<Value = Internal> {
    prop_oneof![
        Just(Internal::Empty),
        any::<u8>().prop_map(|a| Internal::Named { a }),
        inner().prop_map(Internal::Struct),
        closed().prop_map(Internal::Closed),
        btree_map("[a-d]", any::<u8>(), 0..3).prop_map(Internal::Map),
        trees().prop_map(Internal::Tree),
        adjacent().prop_map(Internal::Nested),
    ]
}

fn tagged() -> impl Strategy<Value = Tagged> {
    prop_oneof![
        Just(Tagged::Empty),
        any::<u8>().prop_map(Tagged::One),
        any::<(u8, String)>().prop_map(|(one, other)| Tagged::Two(one, other)),
        any::<(u8, Option<u8>)>().prop_map(|(a, b)| Tagged::Named { a, b }),
        internal().prop_map(Tagged::Internal),
        adjacent().prop_map(Tagged::Adjacent),
        prop_oneof![
            any::<u8>().prop_map(Untagged::Number),
            any::<(bool, bool)>().prop_map(|(one, other)| Untagged::Pair(one, other)),
            inner().prop_map(Untagged::Inner),
            Just(Untagged::Nothing),
        ]
        .prop_map(Tagged::Untagged),
    ]
}

pub(crate) fn rich() -> impl Strategy<Value = Rich> {
    let flat = (any::<u8>(), inner(), btree_map("[p-z]{1,3}", any::<bool>(), 0..3));
    let flat = flat.prop_map(|(id, inner, rest)| Flat { id, inner, rest });
    let trees = (trees(), vec(branches(), 0..2).prop_map(Forest));
    (numbers(), texts(), composed(), vec(tagged(), 0..4), trees, closed(), flat).prop_map(
        |(numbers, texts, composed, tagged, trees, closed, flat)| Rich {
            numbers,
            texts,
            composed,
            tagged,
            trees,
            closed,
            flat,
        },
    )
}
