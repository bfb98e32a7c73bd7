//! Shapes as one line of text.

use std::fmt::{self, Display, Formatter};

use crate::shape::types::{Enum, Field, Number, Read, Struct, Tagging, Type, Variant, Written};

impl Display for Type {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("bool"),
            Self::Char => f.write_str("char"),
            Self::Text => f.write_str("text"),
            Self::Format(format) => f.write_str(format),
            Self::Number(number) => number.fmt(f),
            Self::Unit => f.write_str("()"),
            Self::Bytes => f.write_str("bytes"),
            Self::Any => f.write_str("any"),
            Self::Opaque => f.write_str("opaque"),
            Self::Option(inner) => write!(f, "{inner}?"),
            Self::List(inner) => write!(f, "[{inner}]"),
            Self::Array(inner, length) => write!(f, "[{inner}; {length}]"),
            Self::Tuple(types) if types.is_empty() => f.write_str("(,)"),
            Self::Tuple(types) => {
                f.write_str("(")?;
                separated(f, ", ", types)?;
                f.write_str(")")
            }
            Self::Map(key, value) => write!(f, "{{{key} => {value}}}"),
            Self::Struct(fields) => fields.fmt(f),
            Self::Enum(variants) => variants.fmt(f),
            Self::Checked(inner) => prefixed(f, "checked", inner),
            Self::Recursive(inner) => prefixed(f, "recursive", inner),
            Self::Outer(levels) => write!(f, "outer {levels}"),
        }
    }
}

impl Display for Number {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `{name: T, other: T}`, with `..` for a map that is flattened, and `!` if a reader refuses other fields.
impl Display for Struct {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        separated(f, ", ", &self.fields)?;
        if let Some(rest) = &self.rest {
            let comma = if self.fields.is_empty() { "" } else { ", " };
            write!(f, "{comma}..{rest}")?;
        }
        f.write_str(if self.is_closed { "}!" } else { "}" })
    }
}

/// `name|alias: T`, followed by what is not usual: `= default`, `required` for an option, `sometimes`, `not written`, `not read`.
impl Display for Field {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        names(f, &self.name, &self.aliases)?;
        write!(f, ": {}", self.value)?;
        f.write_str(match self.written {
            Written::Always => "",
            Written::Sometimes => " sometimes",
            Written::Never => " not written",
        })?;
        f.write_str(match (self.read, &self.value) {
            // A missing option is `None`.
            (Read::Required, Type::Option(_)) => " required",
            (Read::Optional, Type::Option(_)) | (Read::Required, _) => "",
            (Read::Optional, _) => " = default",
            (Read::Never, _) => " not read",
        })
    }
}

/// `<a | b: T>`, with the names of the tag and the content in front.
impl Display for Enum {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("<")?;
        match &self.tagging {
            Tagging::External => {}
            Tagging::Internal(tag) => {
                name(f, tag)?;
                f.write_str(" in ")?;
            }
            Tagging::Adjacent(tag, content) => {
                name(f, tag)?;
                f.write_str(" and ")?;
                name(f, content)?;
                f.write_str(" in ")?;
            }
            Tagging::Untagged => f.write_str("untagged ")?,
        }
        separated(f, " | ", &self.variants)?;
        f.write_str(">")
    }
}

impl Display for Variant {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        names(f, &self.name, &self.aliases)?;
        if let Some(value) = &self.value {
            write!(f, ": {value}")?;
        }
        for (holds, word) in
            [(!self.is_written, " not written"), (!self.is_read, " not read"), (self.is_other, " = others")]
        {
            if holds {
                f.write_str(word)?;
            }
        }
        Ok(())
    }
}

/// Writes a word and the type that it belongs to. The mark of an option belongs to both.
fn prefixed(f: &mut Formatter<'_>, word: &str, inner: &Type) -> fmt::Result {
    if matches!(inner, Type::Option(_)) { write!(f, "{word} ({inner})") } else { write!(f, "{word} {inner}") }
}

fn separated<T: Display>(f: &mut Formatter<'_>, separator: &str, items: &[T]) -> fmt::Result {
    for (place, item) in items.iter().enumerate() {
        write!(f, "{}{item}", if place == 0 { "" } else { separator })?;
    }
    Ok(())
}

fn names(f: &mut Formatter<'_>, first: &str, aliases: &[String]) -> fmt::Result {
    name(f, first)?;
    for alias in aliases {
        f.write_str("|")?;
        name(f, alias)?;
    }
    Ok(())
}

/// Words with a meaning of their own at the place of a name.
const KEYWORDS: [&str; 4] = ["and", "in", "not", "untagged"];

pub(super) fn is_keyword(word: &str) -> bool {
    KEYWORDS.contains(&word)
}

/// Writes a name, as a JSON string unless it consists of letters, digits, `_` and `-`.
fn name(f: &mut Formatter<'_>, name: &str) -> fmt::Result {
    let is_plain = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'));
    if is_plain && !is_keyword(name) {
        return f.write_str(name);
    }
    // Text is always valid JSON.
    f.write_str(&serde_json::to_string(name).unwrap_or_default())
}
