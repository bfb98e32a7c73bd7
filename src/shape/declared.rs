//! Declarations of fields and variants by the derives, with the attributes that change how serde writes and reads them.

use std::collections::HashSet;
use std::marker::PhantomData;
use std::sync::OnceLock;

use crate::shape::types::{Enum, Field, Read, Struct, Tagging, Type, Variant, Written};
use crate::shape::{Shape, Shapes};

/// A function that returns the shape of a type inside.
pub type Of = fn(&mut Shapes) -> Type;

/// The fields of a type, of a variant, or of an event.
#[derive(Debug)]
pub enum Body {
    /// No fields: `null`.
    Unit,
    /// One unnamed field, which is written without anything around it.
    Inner(Of),
    /// One field that is written without anything around it, while others are left out.
    PartOf(Of),
    /// Unnamed fields, and whether one is left out.
    Tuple(&'static [Of], bool),
    /// Named fields, whether unknown ones are refused, and whether a field is left out.
    Named(&'static [FieldOf], bool, bool),
}

/// A named field.
#[derive(Debug)]
pub struct FieldOf {
    /// The name under which it is written.
    pub name: &'static str,
    /// The name under which it is read.
    pub read_as: &'static str,
    pub aliases: &'static [&'static str],
    pub of: Of,
    /// The sum of [`DEFAULT`] and so on.
    pub flags: u8,
}

/// A field that has a default if it is missing.
pub const DEFAULT: u8 = 1;
/// A field, or a variant, that is not always written.
pub const WRITTEN_SOMETIMES: u8 = 2;
/// A field or variant that is not written.
pub const NOT_WRITTEN: u8 = 4;
/// A field or variant that is not read.
pub const NOT_READ: u8 = 8;
/// A field whose own fields are written in place of it.
pub const FLATTENED: u8 = 16;
/// A variant that stands for all unknown ones.
pub const OTHER: u8 = 32;

/// A variant.
#[derive(Debug)]
pub struct VariantOf {
    pub name: &'static str,
    pub read_as: &'static str,
    pub aliases: &'static [&'static str],
    pub body: Body,
    pub flags: u8,
}

/// How a payload tells which variant it has.
#[derive(Debug)]
pub enum TaggingOf {
    External,
    Internal(&'static str),
    Adjacent(&'static str, &'static str),
    Untagged,
}

/// Returns the shape of a type inside.
pub fn of<T: Shape>(shapes: &mut Shapes) -> Type {
    shapes.of::<T>()
}

/// Returns the shape of a field of which nothing is known.
pub fn opaque(shapes: &mut Shapes) -> Type {
    shapes.unproven(Type::Opaque)
}

/// Returns the shape of a type that is written as `T`, of whose values it accepts some.
pub fn checked<T: Shape>(shapes: &mut Shapes) -> Type {
    let inner = shapes.of::<T>();
    shapes.unproven(Type::Checked(Box::new(inner)))
}

/// Returns the shape of the struct `T`.
pub fn of_struct<T: 'static>(shapes: &mut Shapes, body: &Body) -> Type {
    shapes.enter::<T>(|shapes| shapes.body(body))
}

/// Returns the shape of the enum `T`.
pub fn of_enum<T: 'static>(shapes: &mut Shapes, tagging: &TaggingOf, variants: &[VariantOf]) -> Type {
    shapes.enter::<T>(|shapes| shapes.variants(tagging, variants))
}

/// The type `A` of an upcaster's argument.
#[derive(Debug)]
pub struct Argument<A>(PhantomData<fn(A)>);

/// Names the type of a function's argument, which generated code cannot write.
pub fn argument<A, R>(_: fn(A) -> R) -> Argument<A> {
    Argument(PhantomData)
}

/// The shape of an argument that has one. Method calls prefer this trait to [`UnknownArgument`], which needs one more reference.
pub trait KnownArgument {
    fn shape(&self, shapes: &mut Shapes) -> Type;
}

impl<A: Shape> KnownArgument for Argument<A> {
    fn shape(&self, shapes: &mut Shapes) -> Type {
        shapes.of::<A>()
    }
}

/// An argument whose type need not have a shape.
pub trait UnknownArgument {
    fn shape(&self, shapes: &mut Shapes) -> Type;
}

impl<A> UnknownArgument for &Argument<A> {
    fn shape(&self, _: &mut Shapes) -> Type {
        Type::Opaque
    }
}

/// Returns whether each value of an event's fields is decoded exactly as it was encoded. `known` keeps the answer.
pub fn reads_back(known: &OnceLock<bool>, fields: &Body) -> bool {
    *known.get_or_init(|| {
        let mut shapes = Shapes::default();
        shapes.body(fields);
        shapes.read_back()
    })
}

impl Shapes {
    pub(crate) fn body(&mut self, body: &Body) -> Type {
        match body {
            // An option of it is written as its own `None`.
            Body::Unit => self.unproven(Type::Unit),
            Body::Inner(of) => of(self),
            Body::PartOf(of) => {
                let shape = of(self);
                self.unproven(shape)
            }
            Body::Tuple(types, is_partial) => {
                let types = types.iter().map(|of| of(self)).collect();
                let shape = Type::tuple(types);
                if *is_partial { self.unproven(shape) } else { shape }
            }
            Body::Named(fields, is_closed, is_partial) => {
                let shape = Type::Struct(self.fields(fields, *is_closed));
                if *is_partial { self.unproven(shape) } else { shape }
            }
        }
    }

    fn fields(&mut self, fields: &[FieldOf], is_closed: bool) -> Struct {
        let mut all = Struct { is_closed, ..Struct::new() };
        for field in fields {
            let value = (field.of)(self);
            if field.flags & FLATTENED != 0 {
                all.flatten(self.unproven(value), false);
            } else {
                self.field(&mut all, field, value);
            }
        }
        let mut names = HashSet::new();
        if !all.fields.iter().all(|field| names.insert(&field.name)) {
            self.note_unproven();
        }
        all
    }

    fn field(&mut self, all: &mut Struct, field: &FieldOf, value: Type) {
        let has = |flag| field.flags & flag != 0;
        let is_renamed = field.name != field.read_as;
        if field.flags & !DEFAULT != 0 || is_renamed || !field.aliases.is_empty() {
            self.note_unproven();
        }
        let written = match () {
            () if has(NOT_WRITTEN) => Written::Never,
            () if has(WRITTEN_SOMETIMES) => Written::Sometimes,
            () => Written::Always,
        };
        let read = match () {
            () if has(NOT_READ) => Read::Never,
            // serde reads a missing option as `None`.
            () if has(DEFAULT) || matches!(value, Type::Option(_)) => Read::Optional,
            () => Read::Required,
        };
        let aliases = field.aliases.iter().map(|&alias| alias.to_owned()).collect();
        let one = Field { name: field.name.to_owned(), aliases, value, written, read };
        if is_renamed && read != Read::Never {
            let reader = Field { name: field.read_as.to_owned(), written: Written::Never, ..one.clone() };
            let writer = Field { aliases: Vec::new(), read: Read::Never, ..one };
            all.fields.extend(
                [writer, reader]
                    .into_iter()
                    .filter(|field| field.written != Written::Never || field.read != Read::Never),
            );
        } else {
            all.fields.push(one);
        }
    }

    fn variants(&mut self, tagging: &TaggingOf, variants: &[VariantOf]) -> Type {
        let is_plain =
            |variant: &VariantOf| variant.flags == 0 && variant.aliases.is_empty() && variant.name == variant.read_as;
        let mut names = HashSet::new();
        if !matches!(tagging, TaggingOf::External)
            || !variants.iter().all(|variant| is_plain(variant) && names.insert(variant.name))
        {
            self.note_unproven();
        }
        let tagging = match *tagging {
            TaggingOf::External => Tagging::External,
            TaggingOf::Internal(tag) => Tagging::Internal(tag.to_owned()),
            TaggingOf::Adjacent(tag, content) => Tagging::Adjacent(tag.to_owned(), content.to_owned()),
            TaggingOf::Untagged => Tagging::Untagged,
        };
        let variants = variants.iter().map(|variant| self.variant(variant)).collect();
        Type::Enum(Enum { tagging, variants })
    }

    fn variant(&mut self, variant: &VariantOf) -> Variant {
        let has = |flag| variant.flags & flag != 0;
        let mut aliases: Vec<_> = variant.aliases.iter().map(|&alias| alias.to_owned()).collect();
        if variant.name != variant.read_as {
            aliases.insert(0, variant.read_as.to_owned());
        }
        Variant {
            name: variant.name.to_owned(),
            aliases,
            // The tag alone says that there are no fields.
            value: (!matches!(variant.body, Body::Unit)).then(|| self.body(&variant.body)),
            is_other: has(OTHER),
            is_written: !has(NOT_WRITTEN),
            is_read: !has(NOT_READ),
        }
    }
}

impl Struct {
    /// Adds the fields of a value that are written in place of it.
    fn flatten(&mut self, value: Type, is_optional: bool) {
        match value {
            Type::Struct(Struct { fields, rest, .. }) => {
                self.fields.extend(fields.into_iter().map(|mut field| {
                    if is_optional && field.written == Written::Always {
                        field.written = Written::Sometimes;
                    }
                    if is_optional && field.read == Read::Required {
                        field.read = Read::Optional;
                    }
                    field
                }));
                if rest.is_some() {
                    self.rest = rest;
                }
            }
            Type::Option(inner) => self.flatten(*inner, true),
            Type::Map(_, value) => self.rest = Some(value),
            Type::Any => self.rest = Some(Box::new(Type::Any)),
            _ => self.rest = Some(Box::new(Type::Opaque)),
        }
    }
}
