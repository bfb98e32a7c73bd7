//! An event is decoded again before it is written, unless the types of its fields prove that it reads back.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fmt::Debug;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use chrono::{DateTime, Utc};
use proptest::collection::vec;
use proptest::prelude::*;
use retell::__private::shape::{self, Body};
use retell::event::{DecodeError, EventSchema, EventTypes, StoredEvent};
use retell::prelude::*;
use retell::shape::{Shapes, Type};
use retell::{
    AggregateType, BoxError, ClaimScope, ClaimValue, Codec, CommitId, CorrelationId, ErrorKind, EventId, EventType,
    EventUnion, Fence, Generation, IdempotencyKey, Position, ProjectionName, Repository, Version, ViewKey,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

fn is_exact<T: Shape>() -> bool {
    shape::reads_back(&OnceLock::new(), &Body::Inner(shape::of::<T>))
}

fn check<T: Shape + Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    assert!(is_exact::<T>(), "{}", std::any::type_name::<T>());
    for codec in [Codec::Json, Codec::Compact] {
        let mut payload = Vec::new();
        codec.encode(value, &mut payload).unwrap();
        assert!(codec.decode::<T>(&payload).unwrap() == *value, "{codec:?} changed {value:?}");
    }
}

/// Checks a value, and containers of it.
fn check_all<T>(value: &T)
where
    T: Shape + Serialize + DeserializeOwned + PartialEq + Debug + Clone,
{
    let one = || value.clone();
    let none: [T; 0] = [];
    check(value);
    check(&Box::new(one()));
    check(&(Some(one()), None::<T>, Some(Box::new(one()))));
    check(&(Vec::<T>::new(), vec![one()], vec![vec![one(), one()], vec![]]));
    check(&([one(), one()], (one(),), none));
    check(&(vec![(one(), Some(one()))], Some(vec![None, Some(one())]), [Some(one())]));
    check(&Some(Box::new(vec![Some((one(), one(), one(), one()))])));
}

fn text() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..40).prop_map(String::from_iter)
}

fn name() -> impl Strategy<Value = String> {
    let all = vec(any::<char>().prop_filter("no name has it", |c| *c != '\0'), 1..60).prop_map(String::from_iter);
    prop_oneof![all, Just("x".repeat(255)), Just("\u{10ffff}".repeat(63)), Just("\u{1}\"\\\u{7f}\u{feff}".to_owned())]
}

macro_rules! check_each {
    ($value:expr => $($type:ty),*) => { $(check_all(&<$type>::from($value));)* };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn every_value_of_a_proven_type_reads_back(
        flag: bool, letter: char,
        unsigned: (u8, u16, u32, u64, usize), signed: (i8, i16, i32, i64, isize),
        text in text(), name in name(), id: u128,
    ) {
        check_all(&flag);
        check_all(&letter);
        check_all(&unsigned.0);
        check_all(&unsigned.1);
        check_all(&unsigned.2);
        check_all(&unsigned.3);
        check_all(&unsigned.4);
        check_all(&signed.0);
        check_all(&signed.1);
        check_all(&signed.2);
        check_all(&signed.3);
        check_all(&signed.4);
        check_each!(text.as_str() => String, Box<str>, Arc<str>);
        let id = Uuid::from_u128(id);
        check_each!(id => Uuid, EventId, CorrelationId, AggregateId);
        check_each!(unsigned.3 => Position, Version, CommitId, Generation, Fence);
        check_all(&AggregateId::new(&name).unwrap());
        check_all(&AggregateType::new(&name).unwrap());
        check_all(&ClaimScope::new(&name).unwrap());
        check_all(&ClaimValue::new(&name).unwrap());
        check_all(&EventType::new(&name).unwrap());
        check_all(&IdempotencyKey::new(&name).unwrap());
        check_all(&ProjectionName::new(&name).unwrap());
        check_all(&ViewKey::new(&name).unwrap());
        check_all(&StreamId::parse(&name, &name).unwrap());
        check(&(text.clone(), vec![Some(text)], unsigned.3, vec![(signed.3, letter, Some(flag), [id])]));
    }
}

#[test]
fn extreme_values_of_proven_types_read_back() {
    check_each!(u64::MAX => u64, Position);
    check_each!(0u64 => u64, Position);
    check_all(&usize::MAX);
    for number in [i64::MIN, -1, 0, i64::MAX] {
        check_all(&number);
    }
    check_all(&isize::MIN);
    for letter in ['\0', '"', '\\', '\u{7f}', '\u{d7ff}', '\u{e000}', '\u{fffd}', '\u{fffe}', '\u{feff}', '\u{10ffff}']
    {
        check_all(&letter);
        check_all(&letter.to_string());
    }
    check_all(&(0..=31u8).map(char::from).collect::<String>());
    for text in ["", "\0", "null", "$serde_json::private::Number", "\u{2028}\u{2029}", "\\u0000", "\"}"] {
        check_each!(text => String, Box<str>, Arc<str>);
    }
    check_each!(Uuid::nil() => Uuid, EventId);
    check_each!(Uuid::max() => Uuid, EventId);
    let many = 10_000;
    check(&(vec![u64::MAX; many], vec!["\0".to_owned(); many], vec![None::<bool>; many]));
    check(&(vec![[0u8; 0]; many], vec![Vec::<char>::new(); many], "ü\0".repeat(1 << 20)));
}

macro_rules! nested {
    ($inner:ty;) => { $inner };
    ($inner:ty; $level:tt $($levels:tt)*) => { nested!(Vec<Option<$inner>>; $($levels)*) };
}

#[test]
fn nesting_of_a_proven_type_is_limited() {
    type Deepest = nested!(bool; 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5);
    let answers = [is_exact::<Vec<Deepest>>(), is_exact::<Vec<Vec<Deepest>>>(), is_exact::<(u8, Vec<Deepest>)>()];
    assert_eq!(answers, [true, false, false]);
    check(&vec![Some(vec![Some(vec![Some(7u8), None])])]);
}

#[derive(Event, Debug, Clone, PartialEq)]
enum Plain {
    #[event("plain.unit")]
    Unit,
    #[event("plain.none")]
    None(),
    #[event("plain.one")]
    One(Option<String>),
    #[event("plain.two", codec = "compact")]
    Two(u64, [char; 3]),
    #[event("plain.named", version = 2, upcast(from_text))]
    Named {
        r#type: String,
        by: AggregateId,
        #[serde(default)]
        lines: Vec<(Uuid, Option<i32>)>,
        #[serde(default = "seven")]
        count: u8,
    },
    #[event("plain.renamed")]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    Renamed { order_id: Box<str>, line2_of_two: bool },
}

fn from_text(text: String) -> Plain {
    Plain::One(Some(text))
}

fn seven() -> u8 {
    7
}

#[derive(Event, Debug, Clone, PartialEq)]
#[event("plain.struct")]
#[serde(rename_all = "SCREAMING-KEBAB-CASE")]
struct PlainStruct {
    a_b: Vec<Vec<String>>,
    ab: Position,
}

fn plain() -> Vec<Plain> {
    let by = AggregateId::new("ada").unwrap();
    vec![
        Plain::Unit,
        Plain::None(),
        Plain::One(None),
        Plain::One(Some("\0".into())),
        Plain::Two(u64::MAX, ['\0', 'ü', '\u{10ffff}']),
        Plain::Named { r#type: "x".into(), by, lines: vec![(Uuid::max(), None)], count: 0 },
        Plain::Renamed { order_id: "".into(), line2_of_two: true },
    ]
}

#[derive(EventUnion, Debug, Clone, PartialEq)]
enum Either {
    Plain(Plain),
    Other(Other),
    ByHand(Spy<PlainStruct>),
}

#[test]
fn an_event_of_proven_types_is_what_it_decodes_to() {
    for event in plain() {
        assert!(event.reads_back(), "{event:?}");
        let new = NewEvent::new(&event).unwrap();
        let stored = StoredEvent::new(new.event_type.as_str(), new.schema_version, new.codec, &new.payload);
        assert_eq!(Plain::decode(stored).unwrap(), event);
        assert!(Either::Plain(event).reads_back());
    }
    let of_struct = PlainStruct { a_b: vec![vec![]], ab: Position::new(1) };
    assert!(of_struct.reads_back());
    let new = NewEvent::new(&of_struct).unwrap();
    assert_eq!(new.codec.decode::<serde_json::Value>(&new.payload).unwrap(), serde_json::json!({"A-B": [[]], "AB": 1}));
    assert!(!Either::Other(Other::Float(0.5)).reads_back());
    // Each field is written, so no default is needed, and an event has no tag of serde.
    assert!(Defaulted::default().reads_back());
    assert!(Tagged::Tagged { number: 0 }.reads_back());
}

/// A type of the program that has the name of a proven one.
mod own {
    use retell::Shape;
    use serde::{Deserialize, Serialize};

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Shape)]
    pub(super) struct String(f64);

    impl String {
        pub(super) const NEW: Self = Self(f64::NAN);
    }
}

/// Counts how often it is decoded.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Counted;

thread_local!(static DECODED: AtomicUsize = const { AtomicUsize::new(0) });

fn decoded() -> usize {
    DECODED.with(|decoded| decoded.swap(0, Ordering::Relaxed))
}

fn count() {
    DECODED.with(|decoded| decoded.fetch_add(1, Ordering::Relaxed));
}

impl Shape for Counted {
    fn shape(_: &mut Shapes) -> Type {
        Type::Unit
    }
}

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        count();
        <()>::deserialize(from).map(|()| Self)
    }
}

mod as_text {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    pub(crate) fn serialize<S: Serializer>(number: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(number)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Shape)]
struct Generic<T>(T);

type Alias = f64;

#[allow(unreachable_patterns, reason = "fields that share a name")]
#[derive(Event, Debug, Clone, PartialEq)]
enum Other {
    #[event("other.counted")]
    Counted(Counted),
    #[event("other.listed")]
    Listed { all: Vec<Option<(u8, Counted)>>, text: String },
    #[event("other.float")]
    Float(f64),
    #[event("other.small")]
    Small { of: Option<Vec<f32>> },
    #[event("other.alias")]
    Alias(Alias),
    #[event("other.wide")]
    Wide(u128, i128),
    #[event("other.own")]
    Own(own::String),
    #[event("other.generic")]
    Generic(Generic<u8>),
    #[event("other.twice")]
    #[allow(clippy::option_option, reason = "JSON cannot tell `Some(None)` from `None`")]
    Twice(Option<Option<u8>>),
    #[event("other.boxed")]
    Boxed(Option<Box<Option<u8>>>),
    #[event("other.empty")]
    Empty(Option<()>),
    #[event("other.time")]
    Time(DateTime<Utc>),
    #[event("other.map")]
    Map(BTreeMap<String, u8>, HashMap<String, u8>),
    #[event("other.nested")]
    Nested(#[event(opaque)] Vec<Self>),
    #[event("other.with")]
    With(
        #[serde(with = "as_text")]
        #[event(opaque)]
        u64,
    ),
    #[event("other.skip")]
    Skip {
        #[serde(skip)]
        number: u8,
    },
    #[event("other.skip_if")]
    SkipIf {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        number: Option<u8>,
    },
    #[event("other.flatten")]
    Flatten {
        id: u8,
        #[serde(flatten)]
        rest: BTreeMap<String, String>,
    },
    #[event("other.same")]
    Same {
        #[serde(rename = "b")]
        a: u8,
        b: u8,
    },
    #[event("other.directions")]
    #[serde(rename_all(serialize = "camelCase", deserialize = "snake_case"))]
    Directions { one_two: u8 },
    #[event("other.collision")]
    #[serde(rename_all = "PascalCase")]
    Collision { a1: u8, a_1: u8 },
    #[event("other.alias_of")]
    AliasOf {
        #[serde(alias = "b")]
        a: u8,
        b: u8,
    },
}

impl<'de> Deserialize<'de> for Other {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        u8::deserialize(from).map(|number| Self::Skip { number })
    }
}

impl Serialize for Other {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u8(0)
    }
}

fn others() -> Vec<Other> {
    vec![
        Other::Counted(Counted),
        Other::Listed { all: vec![], text: String::new() },
        Other::Float(0.5),
        Other::Small { of: None },
        Other::Alias(0.5),
        Other::Wide(0, 0),
        Other::Own(own::String::NEW),
        Other::Generic(Generic(0)),
        Other::Twice(None),
        Other::Boxed(None),
        Other::Empty(None),
        Other::Time(DateTime::UNIX_EPOCH),
        Other::Map(BTreeMap::new(), HashMap::new()),
        Other::Nested(vec![]),
        Other::With(0),
        Other::Skip { number: 0 },
        Other::SkipIf { number: None },
        Other::Flatten { id: 0, rest: BTreeMap::new() },
        Other::Same { a: 0, b: 0 },
        Other::Directions { one_two: 0 },
        Other::Collision { a1: 0, a_1: 0 },
        Other::AliasOf { a: 0, b: 0 },
    ]
}

#[derive(Event, Default)]
#[event("other.defaulted")]
#[serde(default)]
struct Defaulted {
    number: u8,
}

#[derive(Event, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Tagged {
    #[event("other.tagged")]
    Tagged { number: u8 },
}

#[test]
fn an_event_of_any_other_field_is_decoded_again() {
    for event in others() {
        assert!(!event.reads_back(), "{event:?}");
        assert!(!Either::Other(event).reads_back());
    }
    NewEvent::new(&Other::Counted(Counted)).unwrap();
    assert_eq!(decoded(), 1);
    NewEvent::new(&Other::Listed { all: vec![Some((1, Counted)), None], text: String::new() }).unwrap();
    assert_eq!(decoded(), 1);
}

#[test]
fn an_event_that_does_not_read_back_is_refused() {
    let unreadable = [
        Other::Own(own::String::NEW),
        Other::Same { a: 1, b: 2 },
        Other::Directions { one_two: 0 },
        Other::Collision { a1: 1, a_1: 2 },
        Other::AliasOf { a: 1, b: 2 },
    ];
    for event in unreadable {
        let refused = NewEvent::new(&event).unwrap_err();
        assert!(matches!(refused.kind(), ErrorKind::Unencodable(_)), "{event:?}: {refused}");
    }
}

/// An event that counts how often it is decoded, and else is the event inside.
#[derive(Debug, Clone, PartialEq)]
struct Spy<E>(E);

impl<E: Event> Event for Spy<E> {
    const TYPES: EventTypes = E::TYPES;

    fn schema(&self) -> EventSchema {
        self.0.schema()
    }

    fn encode(&self, payload: &mut Vec<u8>) -> Result<(), BoxError> {
        self.0.encode(payload)
    }

    fn decode(stored: StoredEvent<'_>) -> Result<Self, DecodeError> {
        count();
        E::decode(stored).map(Self)
    }

    fn reads_back(&self) -> bool {
        self.0.reads_back()
    }
}

/// An implementation by hand, which says nothing about itself.
struct ByHand;

impl Event for ByHand {
    const TYPES: EventTypes = EventTypes::Only(&[EventSchema::new("by.hand", 1, Codec::Json)]);

    fn schema(&self) -> EventSchema {
        EventSchema::new("by.hand", 1, Codec::Json)
    }

    fn encode(&self, payload: &mut Vec<u8>) -> Result<(), BoxError> {
        Codec::Json.encode(&(), payload)
    }

    fn decode(_: StoredEvent<'_>) -> Result<Self, DecodeError> {
        Err(DecodeError::UnknownType)
    }
}

#[test]
fn an_implementation_by_hand_is_decoded_again() {
    assert!(!ByHand.reads_back());
    assert!(matches!(NewEvent::new(&ByHand).unwrap_err().kind(), ErrorKind::Unencodable(_)));
}

#[derive(Aggregate, Clone, Default, Debug, PartialEq)]
#[aggregate("plain", event = Spy<Plain>, snapshots = never)]
struct Count(usize, Option<String>);

impl Apply<Spy<Plain>> for Count {
    fn apply(&mut self, event: Spy<Plain>) {
        self.0 += 1;
        if let Plain::One(text) = event.0 {
            self.1 = text;
        }
    }
}

impl Handle<Vec<Plain>> for Count {
    type Error = Infallible;

    fn handle(&self, events: &Vec<Plain>) -> Result<Vec<Spy<Plain>>, Infallible> {
        Ok(events.iter().cloned().map(Spy).collect())
    }
}

#[tokio::test]
async fn a_command_decodes_no_event_of_proven_types_again() {
    let log = MemoryStore::new();
    let counts = Repository::<Count>::new(log.clone());
    counts.execute("1", plain()).await.unwrap();
    assert_eq!(decoded(), 0);
    let cached = counts.load("1").await.unwrap().state;
    assert_eq!(decoded(), 0);
    assert_eq!(cached, Count(plain().len(), Some("\0".into())));
    assert_eq!(Repository::<Count>::new(log).load("1").await.unwrap().state, cached);
    assert_eq!(decoded(), plain().len());
}

#[test]
fn a_scenario_decodes_every_event() {
    retell::testing::given::<Count>([Spy(Plain::Unit)]).when(plain()).then(plain().into_iter().map(Spy));
    assert_eq!(decoded(), plain().len() + 1);
}
