//! Support for generated code. It is not part of the public API and may change in any release.

use std::marker::PhantomData;

pub use serde;
use sha2::{Digest, Sha256};

use crate::codec;
use crate::error::BoxError;
use crate::event::{EventSchema, EventTypes};
use crate::shape::Shape;
pub use crate::shape::declared as shape;
use crate::shape::types::Type;

/// Encodes `state` for a snapshot. The encoding is self-describing, so that a nested type that changed does not decode into nonsense. A state
/// that would be read back as another one is refused.
pub fn to_snapshot<T: serde::Serialize>(state: &T) -> Result<Vec<u8>, BoxError> {
    codec::encode_state(state)
}

/// Decodes a state that [`to_snapshot`] encoded.
pub fn from_snapshot<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, BoxError> {
    codec::decode_state(bytes)
}

/// Tells whether a field's type has a shape: `SHAPE` below is found before that of [`Unshaped`], if it exists.
#[derive(Debug)]
pub struct Part<T>(PhantomData<T>);

impl<T: Shape> Part<T> {
    pub const SHAPE: Option<fn() -> Type> = Some(Type::of::<T>);
}

/// The shape of a type without one.
pub trait Unshaped {
    const SHAPE: Option<fn() -> Type> = None;
}

impl<T> Unshaped for Part<T> {}

/// Returns the fingerprint of a state: that of its declaration, and the shapes of its fields as far as they are known.
pub fn fingerprint(declared: u64, fields: &[Option<fn() -> Type>]) -> u64 {
    let mut hash = Sha256::new_with_prefix(declared.to_be_bytes());
    for field in fields {
        hash.update(field.map(|shape| shape().to_string()).unwrap_or_default());
        hash.update([0]);
    }
    hash.finalize().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Fails to compile if one of `events` names another aggregate than `aggregate`.
pub const fn belong(events: EventTypes, aggregate: &str) {
    let EventTypes::Only(schemas) = events else { return };
    let mut s = 0;
    while s < schemas.len() {
        if let Some(named) = schemas[s].aggregate {
            assert!(
                same(named, aggregate),
                "an event of this aggregate names another one by `#[event(aggregate = ..)]`: write the stored name of this aggregate there"
            );
        }
        s += 1;
    }
}

/// Returns how many kinds of event the members of a union hold in total.
pub const fn count(members: &[EventTypes]) -> usize {
    let (mut total, mut m) = (0, 0);
    while m < members.len() {
        match members[m] {
            EventTypes::All => {
                panic!("`AnyEvent` holds every event already and cannot be joined with others")
            }
            EventTypes::Only(schemas) => total += schemas.len(),
        }
        m += 1;
    }
    total
}

/// Returns all kinds of event that the members of a union hold. Fails to compile if two members share a stored name.
pub const fn join<const N: usize>(members: &[EventTypes]) -> [EventSchema; N] {
    let mut all = [EventSchema::new("", 0, crate::codec::Codec::Json); N];
    let (mut filled, mut m) = (0, 0);
    while m < members.len() {
        if let EventTypes::Only(schemas) = members[m] {
            let mut s = 0;
            while s < schemas.len() {
                let mut earlier = 0;
                while earlier < filled {
                    assert!(
                        !share_a_name(&all[earlier], &schemas[s]),
                        "two members of this union hold events of the same stored name"
                    );
                    earlier += 1;
                }
                all[filled] = schemas[s];
                filled += 1;
                s += 1;
            }
        }
        m += 1;
    }
    all
}

/// Returns how many stored names the members of a union retire in total.
pub const fn count_retired(members: &[&[&str]]) -> usize {
    let (mut total, mut m) = (0, 0);
    while m < members.len() {
        total += members[m].len();
        m += 1;
    }
    total
}

/// Returns all stored names that the members of a union retire. Fails to compile if one of them is the name of one of its `events`.
pub const fn join_retired<const N: usize>(
    members: &[&'static [&'static str]],
    events: &[EventSchema],
) -> [&'static str; N] {
    let mut all = [""; N];
    let (mut filled, mut m) = (0, 0);
    while m < members.len() {
        let mut n = 0;
        while n < members[m].len() {
            let (name, mut e) = (members[m][n], 0);
            while e < events.len() {
                assert!(
                    !same(name, events[e].name) && !is_one_of(name, events[e].former_names),
                    "a member of this union retires the stored name of an event of another one"
                );
                e += 1;
            }
            all[filled] = name;
            filled += 1;
            n += 1;
        }
        m += 1;
    }
    all
}

/// Returns whether two kinds of event have a stored name in common, former names included.
const fn share_a_name(one: &EventSchema, other: &EventSchema) -> bool {
    if is_one_of(one.name, other.former_names) || same(one.name, other.name) {
        return true;
    }
    let mut n = 0;
    while n < one.former_names.len() {
        if same(one.former_names[n], other.name) || is_one_of(one.former_names[n], other.former_names) {
            return true;
        }
        n += 1;
    }
    false
}

const fn is_one_of(name: &str, names: &[&str]) -> bool {
    let mut n = 0;
    while n < names.len() {
        if same(name, names[n]) {
            return true;
        }
        n += 1;
    }
    false
}

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}
