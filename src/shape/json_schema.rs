//! JSON Schemas of wire shapes.

pub(crate) mod leaf;
mod node;

use serde_json::{Map, Value, json};

use crate::codec::Codec;
use crate::shape::json_schema::leaf::{format, key, number};
use crate::shape::json_schema::node::{Node, Object, Property, text_of};
use crate::shape::types::{Enum, Field, Read, Struct, Tagging, Type, Variant, Written};

/// A dialect of JSON Schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Dialect {
    /// Draft 2020-12, the newest one.
    #[default]
    Draft202012,
    /// Draft 7, which AsyncAPI and older tools need.
    Draft07,
}

impl Dialect {
    /// Returns the URI of the dialect, which a schema names under `$schema`.
    pub const fn uri(self) -> &'static str {
        match self {
            Self::Draft202012 => "https://json-schema.org/draft/2020-12/schema",
            Self::Draft07 => "http://json-schema.org/draft-07/schema#",
        }
    }

    /// Returns the keyword of the definitions of a schema: `$defs` or `definitions`.
    pub const fn definitions(self) -> &'static str {
        match self {
            Self::Draft202012 => "$defs",
            Self::Draft07 => "definitions",
        }
    }
}

/// The payloads that a JSON Schema accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Contract {
    /// The payloads that this release writes. Objects have no other fields than those of the shape.
    Written,
    /// The payloads that this release reads: its own ones, and those of other releases that are compatible with it. A field with a default
    /// may be missing, aliases are accepted, and objects may have other fields unless the type refuses them. A consumer of stored events
    /// needs this one, because the log holds events of earlier releases.
    Read,
}

impl Type {
    /// Returns the JSON Schema of the payloads that [`Codec::Json`] writes for the shape.
    ///
    /// A schema says no more than the shape. A part that is opaque or any JSON accepts everything, a checked type accepts what its inner type
    /// accepts, and the limits of 128-bit numbers are left out. The formats `date` and `date-time` have no years beyond 9999. The keys of
    /// each object are sorted, so the text of a schema is the same on every machine.
    ///
    /// # Examples
    /// ```
    /// use retell::Value;
    /// use retell::shape::{Contract, Dialect, Type};
    /// use serde_json::json;
    ///
    /// #[derive(Value)]
    /// struct Line {
    ///     sku: String,
    ///     count: u8,
    ///     #[serde(default)]
    ///     note: Option<String>,
    /// }
    ///
    /// let schema = Type::of::<Line>().json_schema(Dialect::Draft202012, Contract::Written);
    /// assert_eq!(
    ///     schema,
    ///     json!({
    ///         "$schema": "https://json-schema.org/draft/2020-12/schema",
    ///         "type": "object",
    ///         "properties": {
    ///             "sku": { "type": "string" },
    ///             "count": { "type": "integer", "minimum": 0, "maximum": 255 },
    ///             "note": { "anyOf": [{ "type": "string" }, { "type": "null" }] },
    ///         },
    ///         "required": ["sku", "count", "note"],
    ///         "additionalProperties": false,
    ///     })
    /// );
    /// ```
    pub fn json_schema(&self, dialect: Dialect, contract: Contract) -> Value {
        let mut definitions = Definitions::new(dialect, contract, format!("#/{}/", dialect.definitions()));
        let schema = definitions.schema("", self, Codec::Json);
        definitions.document(annotated(schema, &[]))
    }
}

/// Adds annotations to a schema.
pub(crate) fn annotated(schema: Value, annotations: &[(&str, &str)]) -> Value {
    let mut object = match schema {
        // Draft 7 ignores everything next to a reference.
        Value::Object(object) if object.contains_key("$ref") => Map::from_iter([("allOf".to_owned(), json!([object]))]),
        Value::Object(object) => object,
        Value::Bool(false) => Map::from_iter([("not".to_owned(), json!({}))]),
        _ => Map::new(),
    };
    object.extend(annotations.iter().map(|(name, text)| ((*name).to_owned(), json!(text))));
    Value::Object(object)
}

/// The definitions of a document, which schemas refer to.
#[derive(Debug)]
pub(crate) struct Definitions {
    dialect: Dialect,
    contract: Contract,
    /// The place of the definitions in the document, such as `#/$defs/`.
    place: String,
    pub(crate) found: Map<String, Value>,
}

impl Definitions {
    pub(crate) fn new(dialect: Dialect, contract: Contract, place: String) -> Self {
        Self { dialect, contract, place, found: Map::new() }
    }

    /// Returns the schema of a shape. The definitions that it needs begin with `prefix`.
    pub(crate) fn schema(&mut self, prefix: &str, shape: &Type, codec: Codec) -> Value {
        let mut writer = Writer { all: self, prefix, codec, around: Vec::new(), count: 0 };
        writer.node(shape).into_schema()
    }

    /// Adds a definition.
    pub(crate) fn insert(&mut self, name: String, schema: Value) {
        self.found.insert(name, schema);
    }

    /// Returns the reference to a definition.
    pub(crate) fn reference(&self, name: &str) -> String {
        format!("{}{}", self.place, pointer_step(name))
    }

    /// Returns `schema` as a document with the definitions.
    pub(crate) fn document(self, mut schema: Value) -> Value {
        schema["$schema"] = self.dialect.uri().into();
        if !self.found.is_empty() {
            schema[self.dialect.definitions()] = self.found.into();
        }
        // Any crate can switch on a feature of serde_json that keeps the order of insertion.
        schema.sort_all_objects();
        schema
    }
}

/// Escapes a key for a JSON pointer in the fragment of a URI.
pub(crate) fn pointer_step(key: &str) -> String {
    let escaped = |byte: u8| match byte {
        b'~' => "~0".to_owned(),
        b'/' => "~1".to_owned(),
        b'-' | b'.' | b'_' => char::from(byte).into(),
        _ if byte.is_ascii_alphanumeric() => char::from(byte).into(),
        _ => format!("%{byte:02X}"),
    };
    key.bytes().map(escaped).collect()
}

/// Writes the schema of one shape.
struct Writer<'a> {
    all: &'a mut Definitions,
    prefix: &'a str,
    codec: Codec,
    /// The names of the recursive types around this place, from the outside.
    around: Vec<String>,
    count: usize,
}

impl Writer<'_> {
    fn is_written(&self) -> bool {
        self.all.contract == Contract::Written
    }

    fn schema(&mut self, shape: &Type) -> Value {
        self.node(shape).into_schema()
    }

    fn node(&mut self, shape: &Type) -> Node {
        Node::Other(match shape {
            Type::Bool => json!({ "type": "boolean" }),
            Type::Char => json!({ "type": "string", "minLength": 1, "maxLength": 1 }),
            Type::Text => json!({ "type": "string" }),
            Type::Format(name) => format(name),
            Type::Number(of) => return number(*of, self.codec),
            Type::Unit => return Node::Null,
            Type::Bytes => json!({ "type": "array", "items": { "type": "integer", "minimum": 0, "maximum": 255 } }),
            Type::Any | Type::Opaque => return Node::anything(),
            Type::Option(inner) => return Node::Any(vec![self.node(inner), Node::Null]),
            Type::List(inner) => json!({ "type": "array", "items": self.schema(inner) }),
            Type::Array(inner, length) => {
                json!({ "type": "array", "items": self.schema(inner), "minItems": length, "maxItems": length })
            }
            Type::Tuple(types) => self.tuple(types),
            Type::Map(key, value) => return self.map(key, value),
            Type::Struct(fields) => return self.fields(fields),
            Type::Enum(variants) => return self.variants(variants),
            Type::Checked(inner) => return self.node(inner),
            Type::Recursive(inner) => return self.recursive(inner),
            Type::Outer(levels) => {
                let place = self.around.len().checked_sub(levels + 1);
                let name = place.map(|place| &self.around[place]);
                // A shape that is not whole says nothing here.
                name.map_or(Value::Bool(true), |name| json!({ "$ref": self.all.reference(name) }))
            }
        })
    }

    fn tuple(&mut self, types: &[Type]) -> Value {
        let items: Vec<_> = types.iter().map(|each| self.schema(each)).collect();
        let length = items.len();
        match self.all.dialect {
            // The dialects accept no empty list of items.
            _ if items.is_empty() => json!({ "type": "array", "maxItems": 0 }),
            Dialect::Draft202012 => {
                json!({ "type": "array", "prefixItems": items, "items": false, "minItems": length })
            }
            Dialect::Draft07 => {
                json!({ "type": "array", "items": items, "additionalItems": false, "minItems": length })
            }
        }
    }

    fn map(&mut self, keys: &Type, value: &Type) -> Node {
        let rest = self.schema(value);
        let Some(names) = key(keys) else { return Node::Object(Object { properties: Vec::new(), rest }) };
        Node::Other(json!({ "type": "object", "propertyNames": names, "additionalProperties": rest }))
    }

    fn fields(&mut self, fields: &Struct) -> Node {
        let properties = fields.fields.iter().filter_map(|field| self.field(field)).collect();
        let rest = match &fields.rest {
            Some(rest) => self.schema(rest),
            None => Value::Bool(!self.is_written() && !fields.is_closed),
        };
        Node::Object(Object { properties, rest })
    }

    fn field(&mut self, field: &Field) -> Option<Property> {
        let is_there = if self.is_written() { field.written != Written::Never } else { field.read != Read::Never };
        is_there.then(|| Property {
            names: self.names(&field.name, &field.aliases),
            schema: self.schema(&field.value),
            is_required: if self.is_written() {
                field.written == Written::Always
            } else {
                field.read == Read::Required
            },
        })
    }

    fn names(&self, name: &str, aliases: &[String]) -> Vec<String> {
        let aliases = if self.is_written() { &[] } else { aliases };
        [name.to_owned()].into_iter().chain(aliases.iter().cloned()).collect()
    }

    fn variants(&mut self, Enum { tagging, variants }: &Enum) -> Node {
        let is_written = self.is_written();
        let is_there = |variant: &&Variant| if is_written { variant.is_written } else { variant.is_read };
        Node::Any(variants.iter().filter(is_there).map(|variant| self.variant(tagging, variant)).collect())
    }

    fn variant(&mut self, tagging: &Tagging, variant: &Variant) -> Node {
        let names = self.names(&variant.name, &variant.aliases);
        let value = variant.value.as_ref().map(|shape| self.node(shape));
        let is_other = variant.is_other && !self.is_written();
        let tag = if is_other { json!({ "type": "string" }) } else { text_of(&names) };
        // A reader ignores other fields next to the tag.
        let rest = Value::Bool(!self.is_written());
        match (tagging, value) {
            (Tagging::External, None) if is_other => Node::Other(tag),
            (Tagging::External, None) => Node::Name(names),
            (Tagging::External, Some(value)) => {
                let only = Property { names, schema: value.into_schema(), is_required: true };
                Node::Object(Object { properties: vec![only], rest: Value::Bool(false) })
            }
            (Tagging::Internal(name), value) => {
                value.unwrap_or(Node::Null).with_tag(&Property::required(name, tag), &rest)
            }
            (Tagging::Adjacent(name, content), value) => {
                // A missing option is read as `None`.
                let may_be_missing = !self.is_written() && matches!(variant.value, Some(Type::Option(_)));
                let content = value.map(|value| Property {
                    is_required: !may_be_missing,
                    ..Property::required(content, value.into_schema())
                });
                let properties = [Property::required(name, tag)].into_iter().chain(content).collect();
                Node::Object(Object { properties, rest })
            }
            (Tagging::Untagged, value) => value.unwrap_or(Node::Null),
        }
    }

    fn recursive(&mut self, inner: &Type) -> Node {
        self.count += 1;
        let dot = if self.prefix.is_empty() { "" } else { "." };
        let name = format!("{}{dot}recursive.{}", self.prefix, self.count);
        self.around.push(name.clone());
        let node = self.node(inner);
        self.around.pop();
        let reference = self.all.reference(&name);
        self.all.insert(name, node.clone().into_schema());
        Node::Defined(reference, Box::new(node))
    }
}
