//! The data of a wire shape.

use std::borrow::Cow;

/// The wire shape of a type.
///
/// Its `Display` is one line of text, the same on every machine: `text`, `bool`, `u64`, `T?` for an option, `[T]` for a list, `[T; 3]` for an
/// array, `(A, B)` for a tuple, `{K => V}` for a map, `{name: T}` for an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Type {
    /// `true` or `false`.
    Bool,
    /// A text of one character.
    Char,
    /// Any text.
    Text,
    /// A text in a known format, such as `uuid` or `date-time`.
    Format(Cow<'static, str>),
    /// A number.
    Number(Number),
    /// No value: `null` in JSON, nothing in a compact payload.
    Unit,
    /// Bytes: a list of numbers in JSON.
    Bytes,
    /// Any JSON value.
    Any,
    /// Nothing is known about the values.
    Opaque,
    /// A value or `null`.
    Option(Box<Type>),
    /// Any number of values of one type.
    List(Box<Type>),
    /// A fixed number of values of one type.
    Array(Box<Type>, usize),
    /// Several values, each of its own type.
    Tuple(Vec<Type>),
    /// Pairs of keys and values.
    Map(Box<Type>, Box<Type>),
    /// Named fields.
    Struct(Struct),
    /// One of several variants.
    Enum(Enum),
    /// Written as the inner type, of which it accepts only some values, such as a number that is not zero.
    Checked(Box<Type>),
    /// A type that contains itself: inside, [`Outer`](Self::Outer) refers to it.
    Recursive(Box<Type>),
    /// The `n`-th [`Recursive`](Self::Recursive) type around this place, from the inside, beginning with 0.
    Outer(usize),
}

/// The type of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names of Rust's own types")]
pub enum Number {
    U8,
    U16,
    U32,
    U64,
    U128,
    I8,
    I16,
    I32,
    I64,
    I128,
    F32,
    F64,
    /// Any number that JSON can express.
    Json,
}

/// Named fields.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct Struct {
    /// The fields, in the order in which they are written.
    pub fields: Vec<Field>,
    /// The type of the values of fields with other names, if there can be any (`#[serde(flatten)]` of a map).
    pub rest: Option<Box<Type>>,
    /// Whether a reader refuses a field that it does not know (`#[serde(deny_unknown_fields)]`).
    pub is_closed: bool,
}

/// A named field.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Field {
    /// The name under which it is written.
    pub name: String,
    /// The other names under which it is read.
    pub aliases: Vec<String>,
    /// The type of its value.
    pub value: Type,
    /// Whether a writer writes it.
    pub written: Written,
    /// Whether a reader needs it.
    pub read: Read,
}

/// Whether a writer writes a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Written {
    /// Always.
    Always,
    /// Depending on the value (`#[serde(skip_serializing_if = "..")]`).
    Sometimes,
    /// Never (`#[serde(skip_serializing)]`).
    Never,
}

/// Whether a reader needs a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Read {
    /// A payload without it cannot be read.
    Required,
    /// A payload without it is read with a default.
    Optional,
    /// It is not read (`#[serde(skip_deserializing)]`).
    Never,
}

/// One of several variants.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Enum {
    /// How a payload tells which variant it has.
    pub tagging: Tagging,
    /// The variants, in the order of their declaration, which a compact payload numbers.
    pub variants: Vec<Variant>,
}

/// How a payload tells which variant it has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tagging {
    /// `{"name": value}`, or `"name"` for a variant without fields.
    External,
    /// A field of the value with this name.
    Internal(String),
    /// A field with the first name for the variant, and one with the second name for the value.
    Adjacent(String, String),
    /// Not at all: the first variant that fits is read.
    Untagged,
}

/// A variant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Variant {
    /// The name that is written.
    pub name: String,
    /// The other names that are read.
    pub aliases: Vec<String>,
    /// The type of its value; `None` without fields.
    pub value: Option<Type>,
    /// Whether a reader takes each unknown variant for it (`#[serde(other)]`).
    pub is_other: bool,
    /// Whether it is written (no `#[serde(skip_serializing)]`).
    pub is_written: bool,
    /// Whether it is read (no `#[serde(skip_deserializing)]`).
    pub is_read: bool,
}

impl Type {
    /// Returns the type of a tuple. Equal types make it an array, which is written in the same way.
    pub fn tuple(types: Vec<Self>) -> Self {
        match types.first() {
            Some(first) if types.iter().all(|each| each == first) => {
                let first = Box::new(first.clone());
                Self::Array(first, types.len())
            }
            _ => Self::Tuple(types),
        }
    }

    /// Returns the types directly inside.
    pub(super) fn parts_mut(&mut self) -> Vec<&mut Self> {
        match self {
            Self::Option(inner)
            | Self::List(inner)
            | Self::Array(inner, _)
            | Self::Checked(inner)
            | Self::Recursive(inner) => vec![inner],
            Self::Tuple(types) => types.iter_mut().collect(),
            Self::Map(key, value) => vec![key, value],
            Self::Struct(Struct { fields, rest, .. }) => {
                fields.iter_mut().map(|field| &mut field.value).chain(rest.as_deref_mut()).collect()
            }
            Self::Enum(Enum { variants, .. }) => {
                variants.iter_mut().filter_map(|variant| variant.value.as_mut()).collect()
            }
            Self::Bool
            | Self::Char
            | Self::Text
            | Self::Format(_)
            | Self::Number(_)
            | Self::Unit
            | Self::Bytes
            | Self::Any
            | Self::Opaque
            | Self::Outer(_) => Vec::new(),
        }
    }

    /// Returns whether JSON can write a value of it as `null`.
    pub(crate) fn may_be_null(&self) -> bool {
        match self {
            Self::Unit | Self::Any | Self::Opaque | Self::Option(_) => true,
            Self::Checked(inner) | Self::Recursive(inner) => inner.may_be_null(),
            // A variant without a tag may have no fields, or an optional value.
            Self::Enum(Enum { tagging, .. }) => *tagging == Tagging::Untagged,
            Self::Bool
            | Self::Char
            | Self::Text
            | Self::Format(_)
            | Self::Number(_)
            | Self::Bytes
            | Self::List(_)
            | Self::Array(..)
            | Self::Tuple(_)
            | Self::Map(..)
            | Self::Struct(_)
            | Self::Outer(_) => false,
        }
    }
}

impl Number {
    pub(super) const ALL: [Self; 13] = [
        Self::U8,
        Self::U16,
        Self::U32,
        Self::U64,
        Self::U128,
        Self::I8,
        Self::I16,
        Self::I32,
        Self::I64,
        Self::I128,
        Self::F32,
        Self::F64,
        Self::Json,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::U16 => "u16",
            Self::U32 => "u32",
            Self::U64 => "u64",
            Self::U128 => "u128",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::I128 => "i128",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Json => "number",
        }
    }
}

impl Field {
    /// Creates a field that is always written and has to be there.
    pub fn new(name: impl Into<String>, value: Type) -> Self {
        Self { name: name.into(), aliases: Vec::new(), value, written: Written::Always, read: Read::Required }
    }
}

impl Struct {
    /// Creates a type without fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a field that is always written and has to be there.
    pub fn with_field(mut self, name: impl Into<String>, value: Type) -> Self {
        self.fields.push(Field::new(name, value));
        self
    }
}

impl Variant {
    /// Creates a variant that is written and read under one name.
    pub fn new(name: impl Into<String>, value: Option<Type>) -> Self {
        Self { name: name.into(), aliases: Vec::new(), value, is_other: false, is_written: true, is_read: true }
    }
}

impl Enum {
    /// Creates the type of one of several variants.
    pub fn new(tagging: Tagging, variants: Vec<Variant>) -> Self {
        Self { tagging, variants }
    }
}
