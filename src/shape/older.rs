//! Whether the argument of an upcaster reads what was stored.

use crate::codec::Codec;
use crate::shape::compare::{Changes, Finding, Rule};
use crate::shape::types::{Enum, Read, Struct, Tagging, Type, Variant, Written};

/// The longest array that is compared item by item.
const MAX_ITEMS: usize = 1_024;

/// Returns why a reader of the shape `reader` cannot read what was written as `stored`. The types are those of an older version, and no new
/// event has it.
pub(crate) fn unreadable(stored: &Type, reader: &Type, codec: Codec) -> Vec<Finding> {
    if stored != reader && *reader == Type::Opaque {
        return vec![finding(Rule::Opaque, stored, reader)];
    }
    match codec {
        Codec::Json => Changes::between(stored, reader, codec).backward,
        Codec::Compact => compact(stored, reader).into_iter().collect(),
    }
}

/// Compares the values of compact payloads, which have no names. So a field may have another name than the stored one, and a struct of one
/// field may be read as its value.
fn compact(stored: &Type, reader: &Type) -> Option<Finding> {
    let (one, other) = (values(stored), values(reader));
    if one == other {
        return None;
    }
    let rule = if is_unclear(one) || is_unclear(other) { Rule::Opaque } else { Rule::CompactChanged };
    Some(finding(rule, stored, reader))
}

fn finding(rule: Rule, stored: &Type, reader: &Type) -> Finding {
    Finding { rule, path: String::new(), detail: format!("{stored} is read as {reader}") }
}

/// Returns the shape without names, and with all values of structs and tuples in one row.
fn values(shape: &Type) -> Type {
    match shape {
        Type::Unit => Type::Tuple(Vec::new()),
        Type::Struct(Struct { fields, rest: None, .. })
            if fields.iter().all(|field| field.written == Written::Always && field.read != Read::Never) =>
        {
            row(fields.iter().map(|field| &field.value))
        }
        Type::Struct(_) => Type::Opaque,
        Type::Tuple(types) => row(types),
        Type::Array(item, length) if *length <= MAX_ITEMS => row(std::iter::repeat_n(&**item, *length)),
        Type::Enum(Enum { tagging: Tagging::External, variants }) => {
            let nameless = variants.iter().enumerate().map(|(place, variant)| {
                let value = variant.value.as_ref().map_or_else(|| Type::Tuple(Vec::new()), values);
                Variant::new(place.to_string(), Some(value))
            });
            Type::Enum(Enum::new(Tagging::External, nameless.collect()))
        }
        other => {
            let mut other = other.clone();
            for inner in other.parts_mut() {
                *inner = values(inner);
            }
            other
        }
    }
}

/// Returns the values of several types in a row.
fn row<'t>(types: impl IntoIterator<Item = &'t Type>) -> Type {
    let mut all = Vec::new();
    for each in types {
        match values(each) {
            Type::Tuple(types) => all.extend(types),
            other => all.push(other),
        }
    }
    match all.len() {
        1 => all.remove(0),
        _ => Type::Tuple(all),
    }
}

fn is_unclear(mut shape: Type) -> bool {
    shape == Type::Opaque || shape.parts_mut().into_iter().any(|inner| is_unclear(inner.clone()))
}
