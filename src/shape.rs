//! The wire shapes of events: which fields and types their payloads consist of.
//!
//! A shape describes what a codec writes, and not the Rust type: names of types, the order of attributes and documentation do not count. Two
//! types of one shape are stored in the same way.

pub(crate) mod compare;
#[doc(hidden)]
#[allow(missing_docs, reason = "support for generated code")]
pub mod declared;
pub(crate) mod json_schema;
pub(crate) mod older;
pub(crate) mod opaque;
mod parse;
mod read;
mod ready;
mod text;
pub(crate) mod types;

use std::any::TypeId;

pub use compare::{Changes, Finding, Rule};
pub use json_schema::{Contract, Dialect};
pub use parse::InvalidShape;
pub use read::ReadError;
pub use types::{Enum, Field, Number, Read, Struct, Tagging, Type, Variant, Written};

/// The deepest nesting that counts as proven to read back. serde_json reads 127 levels, and a type takes two at most.
const MAX_NESTING: usize = 32;

/// Added to the place of a recursive type that is not yet expanded.
const UNBOUND: usize = 1 << 31;

/// A type whose wire shape is known: a part of an event.
///
/// - `#[derive(Value)]` implements it together with serde's traits. This is the shortest way, and the quickest: an event of such parts is not
///   decoded again before it is written.
/// - `#[derive(Shape)]` implements it for a type that has serde's derives already. It reads their `#[serde(..)]` attributes.
/// - It is ready for the types of `std`, [`uuid`], [`chrono`] and [`serde_json`] that serde knows, and for the ids of this crate.
/// - `#[event(opaque)]` above a field of an event, and `#[shape(opaque)]` above one of a part, is the way out for any other type: nothing
///   is known about the field, and no check sees a change of it.
///
/// # Examples
/// ```
/// use retell::shape::Type;
/// use retell::{Shape, Value};
///
/// #[derive(Debug, Value)]
/// struct Line {
///     sku: String,
///     count: u32,
///     #[serde(default)]
///     note: Option<String>,
/// }
///
/// assert_eq!(Type::of::<Vec<Line>>().to_string(), "[{sku: text, count: u32, note: text?}]");
/// ```
#[diagnostic::on_unimplemented(
    message = "the wire shape of `{Self}` is unknown",
    label = "its wire shape is unknown",
    note = "write `#[derive(Value)]` above `{Self}`, or `#[derive(Shape)]` if it has serde's derives; for a type of another crate write `#[event(opaque)]` above the field of an event, and `#[shape(opaque)]` above any other field"
)]
pub trait Shape: 'static {
    /// Returns the shape. Call [`Shapes::of`] for the types inside.
    ///
    /// # Examples
    /// ```
    /// use retell::Shape;
    /// use retell::shape::{Shapes, Type};
    ///
    /// /// Written as text, such as `12.50 EUR`.
    /// struct Money(u64);
    ///
    /// impl Shape for Money {
    ///     fn shape(_: &mut Shapes) -> Type {
    ///         Type::Text
    ///     }
    /// }
    ///
    /// assert_eq!(Type::of::<Option<Money>>().to_string(), "text?");
    /// ```
    fn shape(shapes: &mut Shapes) -> Type;

    /// Whether each value of the type is decoded exactly as it was encoded, if that is so of its parts. It is not part of the public API.
    #[doc(hidden)]
    const IS_EXACT: bool = false;
}

impl Type {
    /// Returns the shape of `T`.
    pub fn of<T: Shape>() -> Self {
        Shapes::default().of::<T>()
    }
}

/// Expands a type through the types inside.
#[derive(Debug, Default)]
pub struct Shapes {
    /// The derived types around this place.
    around: Vec<Around>,
    /// The nesting of types at this place.
    depth: usize,
    /// Whether a part was found of which it is not proven that its values read back.
    has_unproven: bool,
}

#[derive(Debug)]
struct Around {
    id: TypeId,
    is_recursive: bool,
}

impl Shapes {
    /// Returns the shape of a type inside.
    pub fn of<T: Shape>(&mut self) -> Type {
        if !T::IS_EXACT {
            self.has_unproven = true;
        }
        self.depth += 1;
        let shape = T::shape(self);
        self.has_unproven |= self.depth > MAX_NESTING;
        self.depth -= 1;
        shape
    }

    /// Returns whether each value of the parts so far is decoded exactly as it was encoded.
    pub(crate) fn read_back(&self) -> bool {
        !self.has_unproven
    }

    /// Notes that values of this part may not read back.
    pub(crate) fn note_unproven(&mut self) {
        self.has_unproven = true;
    }

    /// As [`note_unproven`](Self::note_unproven), and returns the shape of the part.
    pub(crate) fn unproven(&mut self, shape: Type) -> Type {
        self.note_unproven();
        shape
    }

    /// Expands a type that may contain itself.
    pub(crate) fn enter<T: 'static>(&mut self, expand: impl FnOnce(&mut Self) -> Type) -> Type {
        let id = TypeId::of::<T>();
        if let Some(place) = self.around.iter().position(|around| around.id == id) {
            self.around[place].is_recursive = true;
            // Its values are nested as deep as their writer wants.
            self.has_unproven = true;
            return Type::Outer(UNBOUND + place);
        }
        self.around.push(Around { id, is_recursive: false });
        let place = UNBOUND + self.around.len() - 1;
        let mut shape = expand(self);
        if self.around.pop().is_some_and(|around| around.is_recursive) {
            bind(&mut shape, place, 0);
            return Type::Recursive(Box::new(shape));
        }
        shape
    }
}

/// Refers to the recursive type at `place` by the number of recursive types in between.
fn bind(shape: &mut Type, place: usize, between: usize) {
    if *shape == Type::Outer(place) {
        *shape = Type::Outer(between);
    }
    let between = between + usize::from(matches!(shape, Type::Recursive(_)));
    for inner in shape.parts_mut() {
        bind(inner, place, between);
    }
}
