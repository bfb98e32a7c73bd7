//! The shapes of types of `std`, `uuid`, `chrono` and `serde_json`, and of this crate's ids.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, LinkedList, VecDeque};
use std::ffi::{CString, OsString};
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::num::{
    NonZeroI8, NonZeroI16, NonZeroI32, NonZeroI64, NonZeroI128, NonZeroIsize, NonZeroU8, NonZeroU16, NonZeroU32,
    NonZeroU64, NonZeroU128, NonZeroUsize, Saturating, Wrapping,
};
use std::ops::{Bound, Range, RangeFrom, RangeInclusive, RangeTo};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, FixedOffset, Local, Month, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Utc, Weekday};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::id::{
    AggregateId, AggregateType, ClaimScope, ClaimValue, CommitId, CorrelationId, EventId, EventType, Fence, Generation,
    IdempotencyKey, Position, ProjectionName, StreamId, Version, ViewKey,
};
use crate::shape::types::{Enum, Number, Struct, Tagging, Type, Variant};
use crate::shape::{Shape, Shapes};

/// Types whose every value is decoded exactly as it was encoded, in each codec.
macro_rules! exact {
    ($($type:ty => $shape:expr),* $(,)?) => {
        $(
            impl Shape for $type {
                const IS_EXACT: bool = true;

                fn shape(_: &mut Shapes) -> Type {
                    $shape
                }
            }
        )*
    };
}

exact! {
    bool => Type::Bool,
    char => Type::Char,
    u8 => Type::Number(Number::U8),
    u16 => Type::Number(Number::U16),
    u32 => Type::Number(Number::U32),
    u64 => Type::Number(Number::U64),
    usize => Type::Number(Number::U64),
    i8 => Type::Number(Number::I8),
    i16 => Type::Number(Number::I16),
    i32 => Type::Number(Number::I32),
    i64 => Type::Number(Number::I64),
    isize => Type::Number(Number::I64),
    String => Type::Text,
    Box<str> => Type::Text,
    Arc<str> => Type::Text,
    Uuid => Type::Format(Cow::Borrowed("uuid")),
    EventId => Type::Format(Cow::Borrowed("uuid")),
    CorrelationId => Type::Format(Cow::Borrowed("uuid")),
    CommitId => Type::Number(Number::U64),
    Fence => Type::Number(Number::U64),
    Generation => Type::Number(Number::U64),
    Position => Type::Number(Number::U64),
    Version => Type::Number(Number::U64),
    // Decoding a name checks the rules that every existing name keeps.
    AggregateId => Type::Text,
    AggregateType => Type::Text,
    ClaimScope => Type::Text,
    ClaimValue => Type::Text,
    EventType => Type::Text,
    IdempotencyKey => Type::Text,
    ProjectionName => Type::Text,
    ViewKey => Type::Text,
}

/// Other types: some of their values may be decoded as other ones, or not at all.
macro_rules! inexact {
    ($($type:ty => $shape:expr),* $(,)?) => {
        $(
            impl Shape for $type {
                fn shape(_: &mut Shapes) -> Type {
                    $shape
                }
            }
        )*
    };
}

inexact! {
    // serde cannot buffer them.
    u128 => Type::Number(Number::U128),
    i128 => Type::Number(Number::I128),
    // JSON has no NaN.
    f32 => Type::Number(Number::F32),
    f64 => Type::Number(Number::F64),
    // JSON writes `Some(())` as `null`.
    () => Type::Unit,
    Rc<str> => Type::Text,
    Cow<'static, str> => Type::Text,
    PathBuf => Type::Text,
    CString => Type::Bytes,
    OsString => Type::Opaque,
    IpAddr => Type::Format(Cow::Borrowed("ip")),
    Ipv4Addr => Type::Format(Cow::Borrowed("ipv4")),
    Ipv6Addr => Type::Format(Cow::Borrowed("ipv6")),
    SocketAddr => Type::Format(Cow::Borrowed("socket-address")),
    SocketAddrV4 => Type::Format(Cow::Borrowed("socket-address-v4")),
    SocketAddrV6 => Type::Format(Cow::Borrowed("socket-address-v6")),
    Duration => parts("secs", Number::U64, "nanos", Number::U32),
    SystemTime => parts("secs_since_epoch", Number::U64, "nanos_since_epoch", Number::U32),
    DateTime<Utc> => Type::Format(Cow::Borrowed("date-time")),
    DateTime<FixedOffset> => Type::Format(Cow::Borrowed("date-time")),
    DateTime<Local> => Type::Format(Cow::Borrowed("date-time")),
    NaiveDate => Type::Format(Cow::Borrowed("date")),
    NaiveTime => Type::Format(Cow::Borrowed("local-time")),
    NaiveDateTime => Type::Format(Cow::Borrowed("local-date-time")),
    TimeDelta => Type::tuple(vec![Type::Number(Number::I64), Type::Number(Number::I32)]),
    Month => Type::Format(Cow::Borrowed("month")),
    Weekday => Type::Format(Cow::Borrowed("weekday")),
    serde_json::Value => Type::Any,
    serde_json::Number => Type::Number(Number::Json),
    serde_json::Map<String, serde_json::Value> => Type::Map(Box::new(Type::Text), Box::new(Type::Any)),
    Box<RawValue> => Type::Any,
}

impl Shape for StreamId {
    const IS_EXACT: bool = true;

    fn shape(_: &mut Shapes) -> Type {
        Type::Struct(Struct::new().with_field("aggregate_type", Type::Text).with_field("aggregate_id", Type::Text))
    }
}

fn parts(first: &str, of_first: Number, second: &str, of_second: Number) -> Type {
    let parts = Struct::new().with_field(first, Type::Number(of_first)).with_field(second, Type::Number(of_second));
    Type::Struct(parts)
}

macro_rules! not_zero {
    ($($type:ty => $number:ident),* $(,)?) => {
        inexact! { $($type => Type::Checked(Box::new(Type::Number(Number::$number))),)* }
    };
}

not_zero! {
    NonZeroU8 => U8, NonZeroU16 => U16, NonZeroU32 => U32, NonZeroU64 => U64, NonZeroU128 => U128, NonZeroUsize => U64,
    NonZeroI8 => I8, NonZeroI16 => I16, NonZeroI32 => I32, NonZeroI64 => I64, NonZeroI128 => I128, NonZeroIsize => I64,
}

/// Types that are written as the type inside.
macro_rules! transparent {
    ($($is_exact:literal: $($type:ident),*;)*) => {
        $($(
            impl<T: Shape> Shape for $type<T> {
                const IS_EXACT: bool = $is_exact;

                fn shape(shapes: &mut Shapes) -> Type {
                    shapes.of::<T>()
                }
            }
        )*)*
    };
}

transparent! {
    true: Box;
    false: Arc, Rc, Cell, RefCell, Mutex, RwLock, Wrapping, Saturating;
}

/// A list that accepts every list of its items.
impl<T: Shape> Shape for Vec<T> {
    const IS_EXACT: bool = true;

    fn shape(shapes: &mut Shapes) -> Type {
        Type::List(Box::new(shapes.of::<T>()))
    }
}

macro_rules! lists {
    ($($type:ident<T $(, $other:ident)?>),* $(,)?) => {
        $(
            impl<T: Shape $(, $other: 'static)?> Shape for $type<T $(, $other)?> {
                fn shape(shapes: &mut Shapes) -> Type {
                    Type::List(Box::new(shapes.of::<T>()))
                }
            }
        )*
    };
}

lists! { VecDeque<T>, LinkedList<T>, BinaryHeap<T>, BTreeSet<T>, HashSet<T, S> }

impl<T: Shape> Shape for Box<[T]> {
    fn shape(shapes: &mut Shapes) -> Type {
        Type::List(Box::new(shapes.of::<T>()))
    }
}

impl<T: Shape> Shape for Option<T> {
    const IS_EXACT: bool = true;

    fn shape(shapes: &mut Shapes) -> Type {
        let inner = shapes.of::<T>();
        if inner.may_be_null() {
            // JSON writes both `None` and `Some(None)` as `null`.
            shapes.note_unproven();
        }
        Type::Option(Box::new(inner))
    }
}

impl<T: Shape, const N: usize> Shape for [T; N] {
    const IS_EXACT: bool = true;

    fn shape(shapes: &mut Shapes) -> Type {
        Type::Array(Box::new(shapes.of::<T>()), N)
    }
}

macro_rules! tuples {
    ($(($($type:ident),*)),* $(,)?) => {
        $(
            impl<$($type: Shape),*> Shape for ($($type,)*) {
                const IS_EXACT: bool = true;

                fn shape(shapes: &mut Shapes) -> Type {
                    Type::tuple(vec![$(shapes.of::<$type>()),*])
                }
            }
        )*
    };
}

tuples! { (A), (A, B), (A, B, C), (A, B, C, D), (A, B, C, D, E), (A, B, C, D, E, F), (A, B, C, D, E, F, G), (A, B, C, D, E, F, G, H) }

// With `serde_json/arbitrary_precision`, a map with one special key is a number.
impl<K: Shape, V: Shape> Shape for BTreeMap<K, V> {
    fn shape(shapes: &mut Shapes) -> Type {
        Type::Map(Box::new(shapes.of::<K>()), Box::new(shapes.of::<V>()))
    }
}

impl<K: Shape, V: Shape, S: 'static> Shape for HashMap<K, V, S> {
    fn shape(shapes: &mut Shapes) -> Type {
        Type::Map(Box::new(shapes.of::<K>()), Box::new(shapes.of::<V>()))
    }
}

impl<T: 'static> Shape for PhantomData<T> {
    fn shape(_: &mut Shapes) -> Type {
        Type::Unit
    }
}

macro_rules! ranges {
    ($($type:ident => $($bound:literal),*;)*) => {
        $(
            impl<T: Shape> Shape for $type<T> {
                fn shape(shapes: &mut Shapes) -> Type {
                    let bound = shapes.of::<T>();
                    let range = Struct::new();
                    $(let range = range.with_field($bound, bound.clone());)*
                    Type::Struct(range)
                }
            }
        )*
    };
}

ranges! {
    Range => "start", "end";
    RangeInclusive => "start", "end";
    RangeFrom => "start";
    RangeTo => "end";
}

impl<T: Shape> Shape for Bound<T> {
    fn shape(shapes: &mut Shapes) -> Type {
        let bound = shapes.of::<T>();
        let variants = vec![
            Variant::new("Unbounded", None),
            Variant::new("Included", Some(bound.clone())),
            Variant::new("Excluded", Some(bound)),
        ];
        Type::Enum(Enum { tagging: Tagging::External, variants })
    }
}

impl<T: Shape, E: Shape> Shape for Result<T, E> {
    fn shape(shapes: &mut Shapes) -> Type {
        let variants = vec![Variant::new("Ok", Some(shapes.of::<T>())), Variant::new("Err", Some(shapes.of::<E>()))];
        Type::Enum(Enum { tagging: Tagging::External, variants })
    }
}

#[cfg(feature = "rust_decimal")]
impl Shape for rust_decimal::Decimal {
    fn shape(_: &mut Shapes) -> Type {
        // A feature of that crate decides, which any crate of the program can switch on.
        match serde_json::to_value(Self::ONE) {
            Ok(serde_json::Value::String(_)) => Type::Format(Cow::Borrowed("decimal")),
            _ => Type::Number(Number::Json),
        }
    }
}
