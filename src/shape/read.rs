//! Reads payloads by their shape alone, without the types of the domain.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use serde::Deserialize;
use serde_json::{Map, Number as JsonNumber, Value};
use uuid::Uuid;

use crate::codec::Codec;
use crate::error::BoxError;
use crate::shape::types::{Enum, Number, Struct, Tagging, Type, Written};

/// The deepest nesting that a compact payload is read to. serde_json stops at a similar depth.
const MAX_NESTING: usize = 256;

/// The most items without a single byte that the lists of a payload may have together. A list of `()` states its length and has no other
/// bytes, so the size of the payload does not limit it.
const MAX_EMPTY_ITEMS: usize = 65_536;

/// The reason why a payload cannot be read by its shape.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The shape does not say how the value at `path` is stored.
    #[error("cannot read the payload at {path}: {reason}")]
    Shape {
        /// The place in the payload, such as `$.lines[2].sku`.
        path: String,
        /// The part of the shape that says too little.
        reason: &'static str,
    },
    /// The value at `path` does not have its shape.
    #[error("the payload does not match its shape at {path}")]
    Payload {
        /// The place in the payload, such as `$.lines[2].sku`.
        path: String,
        /// The error of the codec.
        source: BoxError,
    },
}

impl Type {
    /// Decodes a payload of this shape, and returns the JSON that [`Codec::Json`] writes for the same value.
    ///
    /// A JSON payload is parsed and not compared with the shape. NaN and infinity, which JSON cannot express, become the texts `NaN`, `inf`
    /// and `-inf`. An integer of more than 64 bits is rounded, as in every [`serde_json::Value`].
    ///
    /// # Errors
    /// - [`ReadError::Shape`] if a compact payload has a part that is opaque or any JSON, or that no reader of the codec can decode.
    /// - [`ReadError::Payload`] if the payload is damaged, is nested too deeply, or is of another shape.
    ///
    /// # Examples
    /// ```
    /// use retell::shape::Type;
    /// use retell::{Codec, Value};
    ///
    /// #[derive(Debug, Value)]
    /// struct Line {
    ///     sku: String,
    ///     count: u32,
    /// }
    ///
    /// let mut payload = Vec::new();
    /// Codec::Compact.encode(&Line { sku: "tea".into(), count: 2 }, &mut payload)?;
    ///
    /// let read = Type::of::<Line>().decode(Codec::Compact, &payload)?;
    /// assert_eq!(read["sku"], "tea");
    /// assert_eq!(read["count"], 2);
    /// # Ok::<(), retell::BoxError>(())
    /// ```
    pub fn decode(&self, codec: Codec, payload: &[u8]) -> Result<Value, ReadError> {
        let read = match codec {
            Codec::Json => codec.decode(payload).map_err(Fault::payload),
            Codec::Compact => Reader::new(payload).whole(self),
        };
        read.map_err(Fault::into_error)
    }
}

/// A fault, and its path from the place at which the stack is unwound to.
struct Fault {
    path: String,
    cause: Cause,
}

enum Cause {
    Shape(&'static str),
    Payload(BoxError),
}

impl Fault {
    fn shape(reason: &'static str) -> Self {
        Self { path: String::new(), cause: Cause::Shape(reason) }
    }

    fn payload(cause: impl Into<BoxError>) -> Self {
        Self { path: String::new(), cause: Cause::Payload(cause.into()) }
    }

    fn field(mut self, name: &str) -> Self {
        self.path.insert_str(0, name);
        self.path.insert(0, '.');
        self
    }

    fn item(mut self, place: usize) -> Self {
        self.path.insert_str(0, &format!("[{place}]"));
        self
    }

    fn into_error(self) -> ReadError {
        let path = format!("${}", self.path);
        match self.cause {
            Cause::Shape(reason) => ReadError::Shape { path, reason },
            Cause::Payload(source) => ReadError::Payload { path, source },
        }
    }
}

type Result<T, E = Fault> = std::result::Result<T, E>;

/// The recursive types around a place, from the inside.
#[derive(Clone, Copy)]
struct Around<'a> {
    inner: &'a Type,
    outer: Option<&'a Around<'a>>,
}

/// Reads a compact payload.
struct Reader<'a> {
    /// The bytes that are not yet read.
    rest: &'a [u8],
    nesting: usize,
    empty_items: usize,
}

impl<'a> Reader<'a> {
    fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload, nesting: 0, empty_items: 0 }
    }

    fn whole(mut self, shape: &Type) -> Result<Value> {
        let value = self.value(shape, None)?;
        match self.rest {
            [] => Ok(value),
            rest => Err(Fault::payload(format!("{} bytes left over", rest.len()))),
        }
    }

    /// Reads one value with the codec itself.
    fn take<T: Deserialize<'a>>(&mut self) -> Result<T> {
        let (value, rest) = postcard::take_from_bytes(self.rest).map_err(Fault::payload)?;
        self.rest = rest;
        Ok(value)
    }

    fn value(&mut self, shape: &Type, around: Option<&Around<'_>>) -> Result<Value> {
        if self.nesting == MAX_NESTING {
            return Err(Fault::payload(format!("nested deeper than {MAX_NESTING} levels")));
        }
        self.nesting += 1;
        let value = match shape {
            Type::Bool => Value::Bool(self.take()?),
            Type::Char => Value::String(self.take::<char>()?.into()),
            Type::Text => Value::String(self.take::<&str>()?.to_owned()),
            Type::Format(format) => Value::String(self.format(format)?),
            Type::Number(number) => self.number(*number)?,
            Type::Unit => Value::Null,
            Type::Bytes => self.take::<&[u8]>()?.into(),
            Type::Any => return Err(Fault::shape("any JSON value has no readable form in a compact payload")),
            Type::Opaque => return Err(Fault::shape("the field is opaque")),
            Type::Option(inner) => self.option(inner, around)?,
            Type::List(inner) => self.list(inner, around)?,
            Type::Array(inner, length) => self.items(*length, |_| inner, around)?,
            Type::Tuple(types) => self.items(types.len(), |place| &types[place], around)?,
            Type::Map(key, value) => self.map(key, value, around)?,
            Type::Struct(fields) => self.fields(fields, around)?,
            Type::Enum(variants) => self.variant(variants, around)?,
            Type::Checked(inner) => self.value(inner, around)?,
            Type::Recursive(inner) => self.value(inner, Some(&Around { inner, outer: around }))?,
            Type::Outer(levels) => self.outer(*levels, around)?,
        };
        self.nesting -= 1;
        Ok(value)
    }

    /// Reads a text. Only some types have another form in a compact payload.
    fn format(&mut self, format: &str) -> Result<String> {
        Ok(match format {
            "uuid" => self.take::<Uuid>()?.to_string(),
            "ip" => self.take::<IpAddr>()?.to_string(),
            "ipv4" => self.take::<Ipv4Addr>()?.to_string(),
            "ipv6" => self.take::<Ipv6Addr>()?.to_string(),
            "socket-address" => self.take::<SocketAddr>()?.to_string(),
            "socket-address-v4" => self.take::<SocketAddrV4>()?.to_string(),
            "socket-address-v6" => self.take::<SocketAddrV6>()?.to_string(),
            _ => self.take::<&str>()?.to_owned(),
        })
    }

    fn number(&mut self, number: Number) -> Result<Value> {
        Ok(match number {
            Number::U8 => self.take::<u8>()?.into(),
            Number::U16 => self.take::<u16>()?.into(),
            Number::U32 => self.take::<u32>()?.into(),
            Number::U64 => self.take::<u64>()?.into(),
            Number::U128 => from_digits(&self.take::<u128>()?.to_string())?,
            Number::I8 => self.take::<i8>()?.into(),
            Number::I16 => self.take::<i16>()?.into(),
            Number::I32 => self.take::<i32>()?.into(),
            Number::I64 => self.take::<i64>()?.into(),
            Number::I128 => from_digits(&self.take::<i128>()?.to_string())?,
            Number::F32 => {
                let number = self.take::<f32>()?;
                // JSON has the fewest digits that tell it from other `f32`, and serde_json and `std` differ in the last one.
                if number.is_finite() {
                    from_digits(&serde_json::to_string(&number).map_err(Fault::payload)?)?
                } else {
                    float(number.into())
                }
            }
            Number::F64 => float(self.take()?),
            Number::Json => return Err(Fault::shape("a compact payload does not tell the type of a JSON number")),
        })
    }

    fn option(&mut self, inner: &Type, around: Option<&Around<'_>>) -> Result<Value> {
        match self.take::<u8>()? {
            0 => Ok(Value::Null),
            1 => self.value(inner, around),
            tag => Err(Fault::payload(format!("{tag} is not the tag of an option"))),
        }
    }

    fn length(&mut self) -> Result<usize> {
        usize::try_from(self.take::<u64>()?).map_err(Fault::payload)
    }

    fn list(&mut self, inner: &Type, around: Option<&Around<'_>>) -> Result<Value> {
        let length = self.length()?;
        self.items(length, |_| inner, around)
    }

    /// Reads values without anything around them.
    fn items<'t>(
        &mut self,
        length: usize,
        shape: impl Fn(usize) -> &'t Type,
        around: Option<&Around<'_>>,
    ) -> Result<Value> {
        // The length may be false: the list grows with the values that are there.
        let mut items = Vec::new();
        for place in 0..length {
            let before = self.rest.len();
            items.push(self.value(shape(place), around).map_err(|fault| fault.item(place))?);
            self.count_empty(before)?;
        }
        Ok(Value::Array(items))
    }

    fn count_empty(&mut self, before: usize) -> Result<()> {
        self.empty_items += usize::from(before == self.rest.len());
        if self.empty_items > MAX_EMPTY_ITEMS {
            return Err(Fault::payload(format!("more than {MAX_EMPTY_ITEMS} items without content")));
        }
        Ok(())
    }

    fn map(&mut self, key: &Type, value: &Type, around: Option<&Around<'_>>) -> Result<Value> {
        let mut entries = Map::new();
        for place in 0..self.length()? {
            let before = self.rest.len();
            // The path has the number of the entry: its key is a part of the payload, which must not get into a log.
            let key = self.key(key, around).map_err(|fault| fault.item(place))?;
            let value = self.value(value, around).map_err(|fault| fault.item(place))?;
            entries.insert(key, value);
            self.count_empty(before)?;
        }
        Ok(Value::Object(entries))
    }

    fn key(&mut self, shape: &Type, around: Option<&Around<'_>>) -> Result<String> {
        match shape {
            Type::Checked(inner) => self.key(inner, around),
            Type::Number(Number::U128) => Ok(self.take::<u128>()?.to_string()),
            Type::Number(Number::I128) => Ok(self.take::<i128>()?.to_string()),
            _ => match self.value(shape, around)? {
                Value::String(text) => Ok(text),
                scalar @ (Value::Bool(_) | Value::Number(_)) => Ok(scalar.to_string()),
                Value::Null | Value::Array(_) | Value::Object(_) => {
                    Err(Fault::shape("JSON has no form for this type of key"))
                }
            },
        }
    }

    fn fields(&mut self, fields: &Struct, around: Option<&Around<'_>>) -> Result<Value> {
        if fields.rest.is_some() {
            return Err(Fault::shape("a compact payload cannot have flattened fields"));
        }
        let mut object = Map::new();
        for field in &fields.fields {
            match field.written {
                Written::Always => {
                    let value = self.value(&field.value, around).map_err(|fault| fault.field(&field.name))?;
                    object.insert(field.name.clone(), value);
                }
                Written::Sometimes => {
                    let reason = "a compact payload does not tell whether this field was written";
                    return Err(Fault::shape(reason).field(&field.name));
                }
                Written::Never => {}
            }
        }
        Ok(Value::Object(object))
    }

    fn variant(&mut self, Enum { tagging, variants }: &Enum, around: Option<&Around<'_>>) -> Result<Value> {
        if matches!(tagging, Tagging::Internal(_) | Tagging::Untagged) {
            return Err(Fault::shape("a compact payload cannot have an enum with an internal tag or without a tag"));
        }
        let index = self.take::<u32>()?;
        let place = usize::try_from(index).map_err(Fault::payload)?;
        let variant = variants.get(place).filter(|variant| variant.is_written);
        let variant = variant.ok_or_else(|| Fault::payload(format!("no variant has the number {index}")))?;
        let value = match &variant.value {
            Some(shape) => Some(self.value(shape, around).map_err(|fault| fault.field(&variant.name))?),
            None => None,
        };
        let name = variant.name.clone();
        Ok(match (tagging, value) {
            (Tagging::Adjacent(tag, content), value) => {
                let tag = (tag.clone(), Value::String(name));
                Value::Object([tag].into_iter().chain(value.map(|value| (content.clone(), value))).collect())
            }
            (_, Some(value)) => Value::Object([(name, value)].into_iter().collect()),
            (_, None) => Value::String(name),
        })
    }

    fn outer(&mut self, levels: usize, around: Option<&Around<'_>>) -> Result<Value> {
        let mut place = around;
        for _ in 0..levels {
            place = place.and_then(|around| around.outer);
        }
        let around = place.ok_or_else(|| Fault::shape("the shape refers to a type that is not around it"))?;
        self.value(around.inner, Some(around))
    }
}

/// Parses a number as JSON does.
fn from_digits(digits: &str) -> Result<Value> {
    serde_json::from_str(digits).map_err(Fault::payload)
}

fn float(number: f64) -> Value {
    JsonNumber::from_f64(number).map_or_else(|| Value::String(number.to_string()), Value::Number)
}
