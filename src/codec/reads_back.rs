//! Types whose every value is decoded exactly as it was encoded, in each codec. An event of such fields is not decoded again before it is
//! written.
//!
//! `#[derive(Event)]` asks [`Probe`] about the type of each field. Other types are not listed, and the derive then decodes:
//! - floats, because JSON has no NaN;
//! - 128-bit integers, which serde cannot buffer;
//! - maps: with `serde_json/arbitrary_precision`, a map with one special key is a number;
//! - `()`, and `Option` of an `Option`: JSON writes `Some` of them as `null`;
//! - types of other crates, whose `Deserialize` can refuse or change a value.

use std::marker::PhantomData;
use std::sync::Arc;

use uuid::Uuid;

use crate::id::{
    AggregateId, AggregateType, ClaimScope, ClaimValue, CommitId, CorrelationId, EventId, EventType, Fence, Generation,
    IdempotencyKey, Position, ProjectionName, Version, ViewKey,
};

/// The deepest nesting of arrays that counts as proven. serde_json reads 127 levels, and an event takes one itself.
const MAX_NESTING: usize = 32;

/// A type whose every value is decoded exactly as it was encoded, in each codec.
pub trait ReadsBack {
    /// How deep a value's arrays are nested at most.
    const NESTING: usize;
}

/// A type of which JSON writes no value as `null`.
pub trait NeverNull: ReadsBack {}

/// `Probe::<T>::READS_BACK` is `true` if `T` implements [`ReadsBack`], and `false` for every other type if [`Unproven`] is in scope.
#[derive(Debug)]
pub struct Probe<T>(PhantomData<T>);

impl<T: ReadsBack> Probe<T> {
    /// Shadows the constant of [`Unproven`].
    pub const READS_BACK: bool = T::NESTING <= MAX_NESTING;
}

/// The answer about a type that does not implement [`ReadsBack`].
pub trait Unproven {
    /// The event must be decoded.
    const READS_BACK: bool = false;
}

impl<T> Unproven for Probe<T> {}

macro_rules! leaves {
    ($($type:ty),* $(,)?) => {
        $(
            impl ReadsBack for $type {
                const NESTING: usize = 0;
            }

            impl NeverNull for $type {}
        )*
    };
}

leaves! { bool, char, u8, u16, u32, u64, usize, i8, i16, i32, i64, isize, String, Box<str>, Arc<str>, Uuid }

// Decoding a name checks the rules that every existing name keeps.
leaves! {
    AggregateId, AggregateType, ClaimScope, ClaimValue, CommitId, CorrelationId, EventId, EventType, Fence, Generation,
    IdempotencyKey, Position, ProjectionName, Version, ViewKey,
}

impl<T: NeverNull> ReadsBack for Option<T> {
    const NESTING: usize = T::NESTING;
}

impl<T: ReadsBack> ReadsBack for Box<T> {
    const NESTING: usize = T::NESTING;
}

impl<T: NeverNull> NeverNull for Box<T> {}

impl<T: ReadsBack> ReadsBack for Vec<T> {
    const NESTING: usize = T::NESTING + 1;
}

impl<T: ReadsBack> NeverNull for Vec<T> {}

impl<T: ReadsBack, const N: usize> ReadsBack for [T; N] {
    const NESTING: usize = T::NESTING + 1;
}

impl<T: ReadsBack, const N: usize> NeverNull for [T; N] {}

macro_rules! tuples {
    ($(($($type:ident),*)),* $(,)?) => {
        $(
            impl<$($type: ReadsBack),*> ReadsBack for ($($type,)*) {
                const NESTING: usize = deepest(&[$($type::NESTING),*]) + 1;
            }

            impl<$($type: ReadsBack),*> NeverNull for ($($type,)*) {}
        )*
    };
}

tuples! { (A), (A, B), (A, B, C), (A, B, C, D) }

const fn deepest(nestings: &[usize]) -> usize {
    let (mut deepest, mut n) = (0, 0);
    while n < nestings.len() {
        if nestings[n] > deepest {
            deepest = nestings[n];
        }
        n += 1;
    }
    deepest
}
