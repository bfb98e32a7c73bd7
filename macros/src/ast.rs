//! The parsed input of each derive. Parsing accepts input that breaks the rules; `check` reports it.

use syn::{Data, DeriveInput, Field, Fields, Ident, Meta, Type};

use crate::attr::{self, Attr};
use crate::errors::Errors;

/// Input of `#[derive(Event)]`.
pub(crate) struct Event<'a> {
    pub(crate) input: &'a DeriveInput,
    pub(crate) attr: Attr,
    pub(crate) serde: Vec<Meta>,
    /// One per variant of an enum; empty for a struct, which `attr` and `serde` describe.
    pub(crate) variants: Vec<Variant<'a>>,
}

/// A variant of an enum, with its attributes.
pub(crate) struct Variant<'a> {
    pub(crate) ident: &'a Ident,
    pub(crate) fields: &'a Fields,
    pub(crate) attr: Attr,
    pub(crate) serde: Vec<Meta>,
}

/// Input of `#[derive(EventUnion)]`.
pub(crate) struct Union<'a> {
    pub(crate) input: &'a DeriveInput,
    pub(crate) attr: Attr,
    pub(crate) members: Vec<Member<'a>>,
}

/// A variant of a union of events.
pub(crate) struct Member<'a> {
    pub(crate) variant: &'a syn::Variant,
    /// The variant's only, unnamed field; `None` if the variant has another shape.
    pub(crate) event: Option<&'a Type>,
}

/// Input of `#[derive(Aggregate)]`.
pub(crate) struct Aggregate<'a> {
    pub(crate) input: &'a DeriveInput,
    pub(crate) attr: Attr,
    pub(crate) serde: Vec<Meta>,
}

/// Input of `#[derive(Shape)]` and `#[derive(Value)]`.
pub(crate) struct Part<'a> {
    pub(crate) input: &'a DeriveInput,
    pub(crate) attr: Attr,
    pub(crate) serde: Vec<Meta>,
}

impl<'a> Part<'a> {
    pub(crate) fn parse(input: &'a DeriveInput, errors: &mut Errors) -> Self {
        Self { input, attr: Attr::parse(&input.attrs, &attr::PART, errors), serde: attr::serde(&input.attrs, errors) }
    }
}

impl<'a> Event<'a> {
    pub(crate) fn parse(input: &'a DeriveInput, errors: &mut Errors) -> Self {
        let target = match input.data {
            Data::Enum(_) => &attr::EVENT_ENUM,
            Data::Struct(_) | Data::Union(_) => &attr::EVENT_STRUCT,
        };
        Self {
            input,
            attr: Attr::parse(&input.attrs, target, errors),
            serde: attr::serde(&input.attrs, errors),
            variants: variants(input).map(|variant| Variant::parse(variant, errors)).collect(),
        }
    }
}

impl<'a> Variant<'a> {
    fn parse(variant: &'a syn::Variant, errors: &mut Errors) -> Self {
        Self {
            ident: &variant.ident,
            fields: &variant.fields,
            attr: Attr::parse(&variant.attrs, &attr::EVENT_VARIANT, errors),
            serde: attr::serde(&variant.attrs, errors),
        }
    }
}

impl<'a> Union<'a> {
    pub(crate) fn parse(input: &'a DeriveInput, errors: &mut Errors) -> Self {
        Self {
            input,
            attr: Attr::parse(&input.attrs, &attr::UNION, errors),
            members: variants(input).map(Member::parse).collect(),
        }
    }
}

impl<'a> Member<'a> {
    fn parse(variant: &'a syn::Variant) -> Self {
        let event = match &variant.fields {
            Fields::Unnamed(fields) if fields.unnamed.len() == 1 => fields.unnamed.first().map(|field| &field.ty),
            _ => None,
        };
        Self { variant, event }
    }
}

impl<'a> Aggregate<'a> {
    pub(crate) fn parse(input: &'a DeriveInput, errors: &mut Errors) -> Self {
        Self {
            input,
            attr: Attr::parse(&input.attrs, &attr::AGGREGATE, errors),
            serde: attr::serde(&input.attrs, errors),
        }
    }
}

/// Returns the variants of an enum; none for other types.
pub(crate) fn variants(input: &DeriveInput) -> impl Iterator<Item = &syn::Variant> {
    let variants = match &input.data {
        Data::Enum(data) => Some(data.variants.iter()),
        Data::Struct(_) | Data::Union(_) => None,
    };
    variants.into_iter().flatten()
}

/// Returns the fields of a struct, or of all variants of an enum.
pub(crate) fn fields(input: &DeriveInput) -> impl Iterator<Item = &Field> {
    let of_struct = match &input.data {
        Data::Struct(data) => Some(&data.fields),
        Data::Enum(_) | Data::Union(_) => None,
    };
    let of_variants = variants(input).map(|variant| &variant.fields);
    of_struct.into_iter().chain(of_variants).flatten()
}
