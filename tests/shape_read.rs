//! Payloads that are read by their shape, without the types of the domain.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, LinkedList, VecDeque};
use std::ffi::CString;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::num::{NonZeroI64, NonZeroU8, NonZeroU128, Saturating, Wrapping};
use std::ops::{Bound, Range, RangeFrom, RangeInclusive, RangeTo};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, FixedOffset, Local, Month, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Utc, Weekday};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use retell::shape::{ReadError, Type};
use retell::{Codec, Event, Shape};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

fn stored<T: Serialize>(codec: Codec, value: &T) -> Vec<u8> {
    let mut payload = Vec::new();
    codec.encode(value, &mut payload).unwrap();
    payload
}

/// Reads a value by its shape from each codec, as the JSON that is stored for it.
fn assert_read<T: Serialize + Shape>(value: &T) {
    let as_json = stored(Codec::Json, value);
    let expected: serde_json::Value = serde_json::from_slice(&as_json).unwrap();
    let shape = Type::of::<T>();
    assert_eq!(shape.decode(Codec::Json, &as_json).unwrap(), expected, "{shape}");
    assert_eq!(shape.decode(Codec::Compact, &stored(Codec::Compact, value)).unwrap(), expected, "{shape}");
}

fn refused(shape: &Type, payload: &[u8]) -> String {
    let error = shape.decode(Codec::Compact, payload).unwrap_err();
    let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}

macro_rules! assert_ready {
    ($($type:ty: $($json:literal),+;)*) => {
        $($(
            let value: $type = serde_json::from_str($json).unwrap_or_else(|error| panic!("{} {}: {error}", stringify!($type), $json));
            assert_read(&value);
        )+)*
    };
}

#[test]
fn ready_types_are_read_from_both_codecs() {
    assert_ready! {
        bool: "true", "false";
        char: r#""ü""#, r#""a""#, r#""\u0000""#;
        u8: "0", "255";
        u16: "0", "128", "65535";
        u32: "0", "4294967295";
        u64: "0", "18446744073709551615";
        usize: "7";
        u128: "0", "18446744073709551616", "340282366920938463463374607431768211455";
        i8: "-128", "127";
        i16: "-32768", "32767";
        i32: "-2147483648", "2147483647";
        i64: "-9223372036854775808", "9223372036854775807";
        isize: "-7";
        i128: "-1", "-170141183460469231731687303715884105728";
        f32: "-2783660.2", "0.1", "-0.0", "1e30", "3.4028235e38", "1e-45", "16777216";
        f64: "0.1", "-0.0", "1e300", "5e-324", "12345678901234567890";
        (): "null";
        String: r#""""#, r#""tea \" ü""#;
        Box<str>: r#""tea""#;
        Arc<str>: r#""tea""#;
        Rc<str>: r#""tea""#;
        Cow<'static, str>: r#""tea""#;
        PathBuf: r#""/var/tea""#;
        Uuid: r#""67e55044-10b1-426f-9247-bb680e5fe0c8""#;
        retell::EventId: r#""67e55044-10b1-426f-9247-bb680e5fe0c8""#;
        retell::CorrelationId: r#""67e55044-10b1-426f-9247-bb680e5fe0c8""#;
        retell::Position: "300";
        retell::Version: "3";
        retell::AggregateId: r#""7""#;
        retell::StreamId: r#"{"aggregate_type":"order","aggregate_id":"7"}"#;
        IpAddr: r#""10.0.0.1""#, r#""2001:db8::1""#;
        Ipv4Addr: r#""10.0.0.1""#;
        Ipv6Addr: r#""::1""#;
        SocketAddr: r#""10.0.0.1:8080""#, r#""[::1]:80""#;
        SocketAddrV4: r#""10.0.0.1:8080""#;
        SocketAddrV6: r#""[::1]:80""#;
        Duration: r#"{"secs":1,"nanos":500000000}"#;
        SystemTime: r#"{"secs_since_epoch":1,"nanos_since_epoch":5}"#;
        DateTime<Utc>: r#""2026-01-31T10:00:00.123456789Z""#, r#""0001-01-01T00:00:00Z""#;
        DateTime<FixedOffset>: r#""2026-01-31T10:00:00+05:30""#;
        DateTime<Local>: r#""2026-01-31T10:00:00Z""#;
        NaiveDate: r#""2026-01-31""#;
        NaiveTime: r#""10:00:00.5""#;
        NaiveDateTime: r#""2026-01-31T10:00:00""#;
        TimeDelta: "[-5,7]";
        Month: r#""January""#;
        Weekday: r#""Mon""#;
        rust_decimal::Decimal: r#""-12.50""#;
        NonZeroU8: "1";
        NonZeroI64: "-1";
        NonZeroU128: "5";
        Box<u8>: "1";
        Arc<u8>: "1";
        Rc<u8>: "1";
        Cell<u8>: "1";
        RefCell<u8>: "1";
        Mutex<u8>: "1";
        RwLock<u8>: "1";
        Wrapping<i16>: "-1";
        Saturating<u16>: "300";
        Vec<u16>: "[]", "[1,300]";
        VecDeque<u16>: "[1,300]";
        LinkedList<u16>: "[1,300]";
        BinaryHeap<u16>: "[300]";
        BTreeSet<u16>: "[1,300]";
        HashSet<u16>: "[300]";
        Box<[u16]>: "[1,300]";
        Option<u8>: "null", "1";
        Vec<Option<()>>: "[null,null]";
        [i16; 3]: "[1,-1,300]";
        [u8; 0]: "[]";
        (u8, String, bool): r#"[1,"a",true]"#;
        BTreeMap<String, u8>: "{}", r#"{"a":1,"b":2}"#;
        HashMap<u32, Option<bool>>: r#"{"300":null}"#;
        BTreeMap<bool, u8>: r#"{"true":1}"#;
        BTreeMap<char, u8>: r#"{"a":1}"#;
        BTreeMap<i128, u8>: r#"{"-170141183460469231731687303715884105728":1}"#;
        BTreeMap<NonZeroU128, u8>: r#"{"340282366920938463463374607431768211455":1}"#;
        BTreeMap<Uuid, u8>: r#"{"67e55044-10b1-426f-9247-bb680e5fe0c8":1}"#;
        BTreeMap<NaiveDate, u8>: r#"{"2026-01-31":1}"#;
        PhantomData<u8>: "null";
        Range<u8>: r#"{"start":1,"end":2}"#;
        RangeInclusive<u8>: r#"{"start":1,"end":2}"#;
        RangeFrom<u8>: r#"{"start":1}"#;
        RangeTo<u8>: r#"{"end":2}"#;
        Bound<u8>: r#""Unbounded""#, r#"{"Included":1}"#, r#"{"Excluded":2}"#;
        Result<u8, String>: r#"{"Ok":1}"#, r#"{"Err":"no"}"#;
    }
    assert_read(&CString::new([1, 255, 7]).unwrap());
    assert_read(&(Position(7), Some(Email("a@b".to_owned()))));
}

#[derive(Shape, Serialize, Deserialize, Clone, Debug)]
struct Position(u64);

#[derive(Shape, Serialize, Deserialize, Clone, Debug)]
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

#[derive(Shape, Serialize, Deserialize, Clone, Debug)]
struct Nothing;

#[derive(Shape, Serialize, Deserialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
enum Kind {
    Empty,
    One(i32),
    Two(u8, String),
    #[serde(skip)]
    #[expect(dead_code, reason = "serde writes no value of the hidden variant")]
    Hidden,
    Named {
        a: u16,
        #[serde(rename = "b c")]
        b: Option<bool>,
    },
    None(),
}

#[derive(Shape, Serialize, Deserialize, Clone, Debug)]
#[serde(tag = "t", content = "c")]
enum Adjacent {
    Empty,
    One(u16),
    Named { a: u8 },
}

#[derive(Shape, Serialize, Deserialize, Clone, Debug)]
struct Tree {
    kind: Adjacent,
    children: Vec<Tree>,
    next: Option<Box<Tree>>,
}

#[derive(Shape, Serialize, Deserialize, Clone, Debug)]
struct Forest(Vec<Branch>);

#[derive(Shape, Serialize, Deserialize, Clone, Debug)]
enum Branch {
    Leaf,
    Fork(Box<(Branch, Forest)>),
}

#[derive(Shape, Serialize, Deserialize, Clone, Debug)]
struct Everything {
    number: u64,
    signed: i64,
    small: i8,
    text: String,
    kinds: Vec<Kind>,
    tree: Tree,
    forest: Forest,
    nothing: Nothing,
    map: BTreeMap<String, Vec<Option<i32>>>,
    by_number: BTreeMap<i16, (bool, char)>,
    id: Uuid,
    pair: Option<(u8, u8)>,
    #[serde(skip)]
    #[expect(dead_code, reason = "serde leaves it out")]
    hidden: u64,
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Empty),
        Just(Kind::None()),
        any::<i32>().prop_map(Kind::One),
        any::<(u8, String)>().prop_map(|(a, b)| Kind::Two(a, b)),
        any::<(u16, Option<bool>)>().prop_map(|(a, b)| Kind::Named { a, b }),
    ]
}

fn adjacent() -> impl Strategy<Value = Adjacent> {
    prop_oneof![
        Just(Adjacent::Empty),
        any::<u16>().prop_map(Adjacent::One),
        any::<u8>().prop_map(|a| Adjacent::Named { a }),
    ]
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = adjacent().prop_map(|kind| Tree { kind, children: Vec::new(), next: None });
    leaf.prop_recursive(4, 16, 3, |inner| {
        (adjacent(), vec(inner.clone(), 0..3), proptest::option::of(inner.prop_map(Box::new)))
            .prop_map(|(kind, children, next)| Tree { kind, children, next })
    })
}

fn branch() -> impl Strategy<Value = Branch> {
    Just(Branch::Leaf).prop_recursive(4, 16, 3, |inner| {
        (inner.clone(), vec(inner, 0..3)).prop_map(|(one, more)| Branch::Fork(Box::new((one, Forest(more)))))
    })
}

fn everything() -> impl Strategy<Value = Everything> {
    let first = (any::<(u64, i64, i8, String)>(), vec(kind(), 0..4), tree(), vec(branch(), 0..3));
    let second = (
        btree_map(any::<String>(), vec(any::<Option<i32>>(), 0..3), 0..3),
        btree_map(any::<i16>(), any::<(bool, char)>(), 0..3),
        any::<u128>(),
        any::<Option<(u8, u8)>>(),
    );
    (first, second).prop_map(|(first, second)| {
        let ((number, signed, small, text), kinds, tree, branches) = first;
        let (map, by_number, id, pair) = second;
        let (id, forest, nothing) = (Uuid::from_u128(id), Forest(branches), Nothing);
        Everything { number, signed, small, text, kinds, tree, forest, nothing, map, by_number, id, pair, hidden: 0 }
    })
}

/// Reads any bytes by the shape if the type itself can be decoded from them, and with the same result.
fn assert_agrees<T: Serialize + DeserializeOwned + Shape>(bytes: &[u8]) {
    let read = Type::of::<T>().decode(Codec::Compact, bytes);
    if let Ok(value) = Codec::Compact.decode::<T>(bytes) {
        let expected: serde_json::Value = serde_json::from_slice(&stored(Codec::Json, &value)).unwrap();
        assert_eq!(read.unwrap(), expected);
    }
}

proptest! {
    #[test]
    fn derived_types_are_read_from_both_codecs(value in everything()) {
        assert_read(&value);
    }

    #[test]
    fn floats_are_read_as_json_writes_them(numbers: (f32, f64)) {
        prop_assume!(numbers.0.is_finite() && numbers.1.is_finite());
        assert_read(&numbers);
        assert_read(&BTreeMap::from([(7, numbers)]));
    }

    #[test]
    fn bytes_that_a_type_decodes_are_read_alike(bytes: Vec<u8>) {
        assert_agrees::<Everything>(&bytes);
        assert_agrees::<Vec<Branch>>(&bytes);
        assert_agrees::<(u8, Tree)>(&bytes);
        assert_agrees::<BTreeMap<u128, Option<Kind>>>(&bytes);
        assert_agrees::<(IpAddr, Uuid, char)>(&bytes);
        assert_agrees::<(i16, u32, i64, u128)>(&bytes);
    }

    #[test]
    fn damaged_payload_is_read_like_its_type(value in everything(), changes in vec(any::<(u16, u8)>(), 1..4), cut: u16) {
        let mut bytes = stored(Codec::Compact, &value);
        for (place, byte) in changes {
            let place = usize::from(place) % bytes.len();
            bytes[place] = byte;
        }
        assert_agrees::<Everything>(&bytes);
        bytes.truncate(usize::from(cut) % bytes.len());
        assert_agrees::<Everything>(&bytes);
    }
}

#[derive(Event)]
#[event("shoe.sold", codec = "compact")]
struct Sold {
    sku: String,
    cents: u64,
}

#[test]
fn compact_event_is_read_by_its_shape() {
    let sold = Sold { sku: "tea".to_owned(), cents: 500 };
    let schema = sold.schema();
    assert_eq!(schema.codec, Codec::Compact);
    let mut payload = Vec::new();
    sold.encode(&mut payload).unwrap();
    let read = schema.shape().unwrap().decode(schema.codec, &payload).unwrap();
    assert_eq!(read, json!({ "sku": "tea", "cents": 500 }));
}

#[test]
fn floats_without_a_json_form_are_texts() {
    let numbers = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    let read = |payload: Vec<u8>, shape: Type| shape.decode(Codec::Compact, &payload).unwrap();
    let expected = json!(["NaN", "inf", "-inf"]);
    assert_eq!(read(stored(Codec::Compact, &numbers), Type::of::<[f64; 3]>()), expected);
    let numbers = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    assert_eq!(read(stored(Codec::Compact, &numbers), Type::of::<[f32; 3]>()), expected);
}

#[derive(Shape, Serialize, Deserialize)]
struct Unreadable<T> {
    first: u8,
    inside: Vec<T>,
}

#[derive(Shape, Serialize, Deserialize)]
struct Sometimes {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<u8>,
}

#[derive(Shape, Serialize, Deserialize)]
struct Flat {
    #[serde(flatten)]
    rest: BTreeMap<String, u8>,
}

#[derive(Shape, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(u8),
}

#[derive(Shape, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Internal {
    Named { a: u8 },
}

#[test]
fn parts_without_a_readable_form_are_named() {
    let payload = [1, 1, 1, 1];
    let of = |reason: &str| format!("cannot read the payload at $.inside[0]{reason}");
    for (shape, expected) in [
        (Type::of::<Unreadable<std::ffi::OsString>>(), of(": the field is opaque")),
        (Type::of::<Unreadable<serde_json::Value>>(), of(": any JSON value has no readable form in a compact payload")),
        (
            Type::of::<Unreadable<serde_json::Number>>(),
            of(": a compact payload does not tell the type of a JSON number"),
        ),
        (
            Type::of::<Unreadable<Sometimes>>(),
            of(".note: a compact payload does not tell whether this field was written"),
        ),
        (Type::of::<Unreadable<Flat>>(), of(": a compact payload cannot have flattened fields")),
        (
            Type::of::<Unreadable<Untagged>>(),
            of(": a compact payload cannot have an enum with an internal tag or without a tag"),
        ),
        (
            Type::of::<Unreadable<Internal>>(),
            of(": a compact payload cannot have an enum with an internal tag or without a tag"),
        ),
    ] {
        assert!(matches!(shape.decode(Codec::Compact, &payload), Err(ReadError::Shape { .. })));
        assert_eq!(refused(&shape, &payload), expected);
        // JSON says by its form how it is read.
        assert_eq!(shape.decode(Codec::Json, b"[7]").unwrap(), json!([7]));
    }
    let by_bytes = Type::of::<BTreeMap<CString, u8>>();
    assert_eq!(
        refused(&by_bytes, &[1, 1, 1, 1]),
        "cannot read the payload at $[0]: JSON has no form for this type of key"
    );
    assert_eq!(
        refused(&Type::List(Box::new(Type::Outer(0))), &[1]),
        "cannot read the payload at $[0]: the shape refers to a type that is not around it"
    );
}

#[test]
fn hostile_payloads_are_errors() {
    let huge = [255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
    for (shape, payload, expected) in [
        (Type::of::<Vec<u8>>(), &huge[..], "$[0]: Hit the end of buffer"),
        (Type::of::<String>(), &huge[..], "$: Hit the end of buffer"),
        (Type::of::<CString>(), &huge[..], "$: Hit the end of buffer"),
        (Type::of::<Vec<()>>(), &huge[..], "$: more than 65536 items without content"),
        (Type::of::<Vec<Vec<[(); 100_000]>>>(), &[1, 2][..], "$[0][0]: more than 65536 items without content"),
        (Type::of::<BTreeMap<String, u8>>(), &huge[..], "$[0]: Hit the end of buffer"),
        (Type::of::<u8>(), &[][..], "$: Hit the end of buffer"),
        (Type::of::<u8>(), &[1, 2, 3][..], "$: 2 bytes left over"),
        (Type::of::<bool>(), &[2][..], "$: Found a bool that wasn't 0 or 1"),
        (Type::of::<Option<u8>>(), &[2, 0][..], "$: 2 is not the tag of an option"),
        (Type::of::<u16>(), &[255, 255, 255][..], "$: Found a varint"),
        (Type::of::<(u8, String)>(), &[1, 1, 255][..], "$[1]: Tried to parse invalid utf-8"),
        (Type::of::<Uuid>(), &[2, 1, 1][..], "$: "),
        (Type::of::<Kind>(), &[77][..], "$: no variant has the number 77"),
        (Type::of::<Kind>(), &[3][..], "$: no variant has the number 3"),
    ] {
        let error = refused(&shape, payload);
        let expected = format!("the payload does not match its shape at {expected}");
        assert!(error.starts_with(&expected), "{shape}: {error}, and not {expected}");
    }
}

/// Each level of a chain is one byte, and each type that contains itself without one is endless.
#[test]
fn deep_nesting_is_an_error() {
    let chain = Type::Recursive(Box::new(Type::Option(Box::new(Type::Outer(0)))));
    let mut payload = vec![1; 50];
    payload.push(0);
    assert_eq!(chain.decode(Codec::Compact, &payload).unwrap(), json!(null));
    for (shape, payload) in [
        (chain, vec![1; 1_000_000]),
        (Type::of::<Forest>(), vec![1; 1_000_000]),
        (Type::of::<Tree>(), [0, 1].repeat(500_000)),
        (Type::Recursive(Box::new(Type::Outer(0))), Vec::new()),
        (Type::Recursive(Box::new(Type::tuple(vec![Type::Outer(0); 9]))), Vec::new()),
    ] {
        let error = refused(&shape, &payload);
        assert!(error.ends_with("nested deeper than 256 levels"), "{error}");
    }
    let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
    assert!(Type::Any.decode(Codec::Json, &deep).is_err());
}
