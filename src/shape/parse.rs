//! Reads the text of a shape.

use std::fmt;
use std::str::FromStr;

use crate::shape::text::is_keyword;
use crate::shape::types::{Enum, Field, Number, Read, Struct, Tagging, Type, Variant, Written};

/// The deepest nesting that is read.
const MAX_DEPTH: usize = 250;

/// A text that is not the text of a shape.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidShape {
    /// The place of the problem, as a number of bytes from the start.
    pub at: usize,
    /// The part that is expected there.
    pub expected: &'static str,
}

impl fmt::Display for InvalidShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {} at byte {} of the shape", self.expected, self.at)
    }
}

impl std::error::Error for InvalidShape {}

/// Reads the text that `Display` writes. White space between words does not count.
///
/// ```
/// use retell::shape::Type;
///
/// let shape: Type = "{sku: text, count: u32 = default}".parse()?;
/// assert_eq!(shape.to_string(), "{sku: text, count: u32 = default}");
/// assert_eq!("{sku}".parse::<Type>().unwrap_err().to_string(), "expected `=>` at byte 4 of the shape");
/// # Ok::<(), retell::BoxError>(())
/// ```
impl FromStr for Type {
    type Err = InvalidShape;

    fn from_str(text: &str) -> Result<Self, InvalidShape> {
        let mut parser = Parser { text, at: 0, depth: 0 };
        let shape = parser.shape()?;
        parser.end()?;
        Ok(shape)
    }
}

/// Reads the text that `Display` writes.
impl FromStr for Field {
    type Err = InvalidShape;

    fn from_str(text: &str) -> Result<Self, InvalidShape> {
        let mut parser = Parser { text, at: 0, depth: 0 };
        let (name, aliases) = parser.names()?;
        let field = parser.field(name, aliases)?;
        parser.end()?;
        Ok(field)
    }
}

#[derive(Clone)]
struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn error<T>(&self, expected: &'static str) -> Result<T, InvalidShape> {
        Err(InvalidShape { at: self.at, expected })
    }

    /// Skips a symbol if it is next.
    fn skip(&mut self, symbol: &str) -> bool {
        self.skip_space();
        let is_next = self.rest().starts_with(symbol);
        if is_next {
            self.at += symbol.len();
        }
        is_next
    }

    fn expect(&mut self, symbol: &str, expected: &'static str) -> Result<(), InvalidShape> {
        if self.skip(symbol) { Ok(()) } else { self.error(expected) }
    }

    fn end(&mut self) -> Result<(), InvalidShape> {
        self.skip_space();
        if self.rest().is_empty() { Ok(()) } else { self.error("the end") }
    }

    /// Returns the next word without moving; empty if there is none.
    fn word(&mut self) -> &'a str {
        self.skip_space();
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | '-')).unwrap_or(rest.len());
        &rest[..end]
    }

    /// Skips a word if it is next.
    fn skip_word(&mut self, word: &str) -> bool {
        let is_next = self.word() == word;
        if is_next {
            self.at += word.len();
        }
        is_next
    }

    fn number(&mut self) -> Result<usize, InvalidShape> {
        let word = self.word();
        let Ok(number) = word.parse() else { return self.error("a number") };
        self.at += word.len();
        Ok(number)
    }

    /// Reads a name, which is in quotes if it is not a plain word.
    fn name(&mut self) -> Result<String, InvalidShape> {
        self.skip_space();
        if !self.rest().starts_with('"') {
            let word = self.word();
            if word.is_empty() || is_keyword(word) {
                return self.error("a name");
            }
            self.at += word.len();
            return Ok(word.to_owned());
        }
        let mut names = serde_json::Deserializer::from_str(self.rest()).into_iter::<String>();
        let Some(Ok(name)) = names.next() else { return self.error("a name in quotes") };
        self.at += names.byte_offset();
        Ok(name)
    }

    fn names(&mut self) -> Result<(String, Vec<String>), InvalidShape> {
        let name = self.name()?;
        let mut aliases = Vec::new();
        // ` | ` separates variants.
        while self.rest().starts_with('|') {
            self.at += 1;
            aliases.push(self.name()?);
        }
        Ok((name, aliases))
    }

    fn shape(&mut self) -> Result<Type, InvalidShape> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.error("fewer levels");
        }
        let mut shape = self.without_mark()?;
        while self.skip("?") {
            shape = Type::Option(Box::new(shape));
        }
        self.depth -= 1;
        Ok(shape)
    }

    /// Reads a shape up to the mark of an option.
    fn without_mark(&mut self) -> Result<Type, InvalidShape> {
        if self.skip("[") {
            return self.list();
        }
        if self.skip("(") {
            return self.tuple();
        }
        if self.skip("{") {
            return self.object();
        }
        if self.skip("<") {
            return self.variants();
        }
        let word = self.word();
        if word.is_empty() {
            return self.error("a type");
        }
        self.at += word.len();
        Ok(match word {
            "bool" => Type::Bool,
            "char" => Type::Char,
            "text" => Type::Text,
            "bytes" => Type::Bytes,
            "any" => Type::Any,
            "opaque" => Type::Opaque,
            "checked" => Type::Checked(Box::new(self.inner()?)),
            "recursive" => Type::Recursive(Box::new(self.inner()?)),
            "outer" => Type::Outer(self.number()?),
            _ => match Number::ALL.iter().find(|number| number.name() == word) {
                Some(number) => Type::Number(*number),
                None => Type::Format(word.to_owned().into()),
            },
        })
    }

    /// Reads the type after `checked` or `recursive`.
    fn inner(&mut self) -> Result<Type, InvalidShape> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.error("fewer levels");
        }
        let inner = self.without_mark()?;
        self.depth -= 1;
        Ok(inner)
    }

    fn list(&mut self) -> Result<Type, InvalidShape> {
        let inner = Box::new(self.shape()?);
        let shape = if self.skip(";") { Type::Array(inner, self.number()?) } else { Type::List(inner) };
        self.expect("]", "`]`")?;
        Ok(shape)
    }

    /// Reads a tuple, or one type in brackets.
    fn tuple(&mut self) -> Result<Type, InvalidShape> {
        if self.skip(")") {
            return Ok(Type::Unit);
        }
        if self.skip(",") {
            self.expect(")", "`)`")?;
            return Ok(Type::Tuple(Vec::new()));
        }
        let mut types = vec![self.shape()?];
        while self.skip(",") {
            types.push(self.shape()?);
        }
        self.expect(")", "`)`")?;
        Ok(match types.len() {
            1 => types.remove(0),
            _ => Type::Tuple(types),
        })
    }

    /// Reads named fields or a map.
    fn object(&mut self) -> Result<Type, InvalidShape> {
        let mut fields = Struct::new();
        if !self.skip("}") {
            let mut ahead = self.clone();
            let has_fields = ahead.skip("..") || ahead.names().is_ok() && ahead.skip(":");
            if !has_fields {
                let key = Box::new(self.shape()?);
                self.expect("=>", "`=>`")?;
                let value = Box::new(self.shape()?);
                self.expect("}", "`}`")?;
                return Ok(Type::Map(key, value));
            }
            loop {
                if self.skip("..") {
                    fields.rest = Some(Box::new(self.shape()?));
                    self.expect("}", "`}`")?;
                    break;
                }
                let (name, aliases) = self.names()?;
                fields.fields.push(self.field(name, aliases)?);
                if !self.skip(",") {
                    self.expect("}", "`,` or `}`")?;
                    break;
                }
            }
        }
        fields.is_closed = self.skip("!");
        Ok(Type::Struct(fields))
    }

    /// Reads a field from the colon on.
    fn field(&mut self, name: String, aliases: Vec<String>) -> Result<Field, InvalidShape> {
        self.expect(":", "`:`")?;
        let value = self.shape()?;
        let is_option = matches!(value, Type::Option(_));
        let mut field = Field::new(name, value);
        field.aliases = aliases;
        if is_option {
            field.read = Read::Optional;
        }
        loop {
            if self.skip_word("sometimes") {
                field.written = Written::Sometimes;
            } else if self.skip_word("required") {
                field.read = Read::Required;
            } else if self.skip("=") {
                if !self.skip_word("default") {
                    return self.error("`default`");
                }
                field.read = Read::Optional;
            } else if self.skip_word("not") {
                if self.skip_word("written") {
                    field.written = Written::Never;
                } else if self.skip_word("read") {
                    field.read = Read::Never;
                } else {
                    return self.error("`written` or `read`");
                }
            } else {
                break;
            }
        }
        Ok(field)
    }

    fn variants(&mut self) -> Result<Type, InvalidShape> {
        let tagging = self.tagging()?;
        let mut variants = Vec::new();
        while !self.skip(">") {
            if !variants.is_empty() {
                self.expect("|", "`|` or `>`")?;
            }
            variants.push(self.variant()?);
        }
        Ok(Type::Enum(Enum::new(tagging, variants)))
    }

    fn tagging(&mut self) -> Result<Tagging, InvalidShape> {
        if self.skip_word("untagged") {
            return Ok(Tagging::Untagged);
        }
        let start = self.at;
        if let Ok(tag) = self.name() {
            if self.skip_word("in") {
                return Ok(Tagging::Internal(tag));
            }
            if self.skip_word("and") {
                let content = self.name()?;
                return if self.skip_word("in") { Ok(Tagging::Adjacent(tag, content)) } else { self.error("`in`") };
            }
        }
        self.at = start;
        Ok(Tagging::External)
    }

    fn variant(&mut self) -> Result<Variant, InvalidShape> {
        let (name, aliases) = self.names()?;
        let value = if self.skip(":") { Some(self.shape()?) } else { None };
        let mut variant = Variant::new(name, value);
        variant.aliases = aliases;
        while self.skip_word("not") {
            if self.skip_word("written") {
                variant.is_written = false;
            } else if self.skip_word("read") {
                variant.is_read = false;
            } else {
                return self.error("`written` or `read`");
            }
        }
        if self.skip("=") {
            if !self.skip_word("others") {
                return self.error("`others`");
            }
            variant.is_other = true;
        }
        Ok(variant)
    }
}
