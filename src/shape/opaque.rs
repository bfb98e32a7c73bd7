//! The places of a shape about which nothing is known.

use crate::shape::types::{Enum, Struct, Type};

/// Returns the opaque places, such as `lines[].from`.
pub(crate) fn opaque_places(shape: &Type) -> Vec<String> {
    let mut places = Vec::new();
    add(shape, String::new(), &mut places);
    places
}

fn add(shape: &Type, path: String, places: &mut Vec<String>) {
    let field = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match shape {
        Type::Opaque => places.push(path),
        Type::Option(inner) | Type::Checked(inner) | Type::Recursive(inner) => add(inner, path, places),
        Type::List(inner) | Type::Array(inner, _) => add(inner, format!("{path}[]"), places),
        Type::Tuple(types) => {
            for (place, each) in types.iter().enumerate() {
                add(each, format!("{path}[{place}]"), places);
            }
        }
        Type::Map(key, value) => {
            add(key, format!("{path}{{key}}"), places);
            add(value, format!("{path}{{}}"), places);
        }
        Type::Struct(Struct { fields, rest, .. }) => {
            for each in fields {
                add(&each.value, field(&each.name), places);
            }
            if let Some(rest) = rest {
                add(rest, field("*"), places);
            }
        }
        Type::Enum(Enum { variants, .. }) => {
            for variant in variants {
                if let Some(value) = &variant.value {
                    add(value, format!("{path}<{}>", variant.name), places);
                }
            }
        }
        Type::Bool
        | Type::Char
        | Type::Text
        | Type::Format(_)
        | Type::Number(_)
        | Type::Unit
        | Type::Bytes
        | Type::Any
        | Type::Outer(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_opaque_place_is_found() {
        let shape = "{a: opaque?, b: [{c: opaque, d: u8}], e: {text => (text, opaque)}, f: <g: opaque | h>}";
        assert_eq!(opaque_places(&shape.parse().expect("a shape")), ["a", "b[].c", "e{}[1]", "f<g>"]);
        assert_eq!(opaque_places(&Type::Opaque), [""]);
        assert_eq!(opaque_places(&"{a: text, b: any}".parse().expect("a shape")), [""; 0]);
    }
}
