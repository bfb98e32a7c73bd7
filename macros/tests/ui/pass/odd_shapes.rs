//! Rare shapes that are allowed.
#![deny(warnings)]
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::time::Duration;

use retell::{Aggregate, Apply, Event, EventUnion};

#[derive(Event)]
enum NoEvent {}

#[derive(Event)]
enum r#Struct {
    #[event("odd.two_words")]
    r#Match { r#type: u8, r#fn: Option<u8> },
    #[event("a.b_2.c")]
    r#Loop {},
    #[event("odd.tuple")]
    Tuple(),
    #[event("odd.attributes", version = 1, codec = "json", public,)]
    Attributes {
        #[serde(default = "seven", alias = "count", rename(serialize = "n", deserialize = "n"))]
        number: u8,
        #[serde(default, skip_serializing_if = "Option::is_none", with = "nested")]
        #[event(opaque)]
        text: Option<String>,
        #[serde(skip)]
        cache: Vec<NotSerialisable>,
        #[serde(flatten)]
        rest: BTreeMap<String, String>,
    },
    #[event("odd.newtype")]
    Newtype(#[serde(with = "nested")] #[event(opaque)] Option<String>),
    #[event("odd.types")]
    Types(
        <Vec<u8> as IntoIterator>::Item,
        [u8; 2 + 1],
        (u8,),
        Box<str>,
        PhantomData<fn(NotSerialisable) -> u8>,
        Duration,
    ),
    #[event("odd.renamed")]
    #[serde(rename_all(serialize = "camelCase", deserialize = "camelCase"), deny_unknown_fields)]
    Renamed { two_words: u8 },
}

#[derive(Default, Clone)]
struct NotSerialisable;

fn seven() -> u8 {
    7
}

mod nested {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub(super) fn serialize<S: Serializer>(text: &Option<String>, to: S) -> Result<S::Ok, S::Error> {
        text.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
        Option::deserialize(from)
    }
}

/// Private fields in a separate module.
mod hidden {
    #[derive(retell::Event)]
    #[event("odd.hidden")]
    pub struct Hidden(u8, pub(super) u8);

    #[derive(retell::Event)]
    #[event("odd.empty")]
    pub struct Empty {}
}

#[derive(EventUnion)]
enum Inner {
    Hidden(hidden::Hidden),
    r#Type(r#Struct),
}

#[derive(EventUnion)]
enum Outer {
    Inner(Inner),
    Empty(crate::hidden::Empty),
    None(NoEvent),
}

#[derive(Default, Clone, Aggregate)]
#[aggregate("odd", event = self::Outer, snapshots = policy::due, snapshot_version = 3, claims = Self::held,)]
enum Odd {
    #[default]
    Nothing,
    Tuple(),
    r#Fn {
        r#type: u8,
        #[serde(skip)]
        cache: NotSerialisable,
    },
}

impl Odd {
    fn held(_: &Outer) -> Result<Vec<retell::Claim>, retell::InvalidName> {
        Ok(Vec::new())
    }
}

mod policy {
    pub(super) fn due(snapshot: u64, version: u64) -> bool {
        version > snapshot
    }
}

impl Apply<Outer> for Odd {
    fn apply(&mut self, _: Outer) {}
}

macro_rules! declare {
    ($name:ident, $stored:literal, $field:ident: $type:ty) => {
        #[derive(Event)]
        #[event($stored)]
        struct $name {
            $field: $type,
        }
    };
}

declare!(FromMacro, "from.macro", number: Option<u8>);

fn main() {}
