//! Parts of a JSON Schema that a tag can still be added to.

use serde_json::{Map, Value, json};

/// The schema of one place.
#[derive(Debug, Clone)]
pub(super) enum Node {
    /// An object.
    Object(Object),
    /// The text of a variant without a value.
    Name(Vec<String>),
    /// `null`.
    Null,
    /// Any of several schemas.
    Any(Vec<Node>),
    /// A definition, by its reference.
    Defined(String, Box<Node>),
    /// Any other schema.
    Other(Value),
}

/// An object with named fields.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) properties: Vec<Property>,
    /// The schema of fields with other names. `false` if there are none.
    pub(super) rest: Value,
}

/// A field of an object.
#[derive(Debug, Clone)]
pub(super) struct Property {
    /// Its possible names. An object has one of them at most.
    pub(super) names: Vec<String>,
    pub(super) schema: Value,
    pub(super) is_required: bool,
}

impl Property {
    pub(super) fn required(name: &str, schema: Value) -> Self {
        Self { names: vec![name.to_owned()], schema, is_required: true }
    }
}

impl Node {
    pub(super) fn anything() -> Self {
        Self::Other(Value::Bool(true))
    }

    /// Adds a tag to each object that the schema accepts, as serde's internal tagging does. `rest` applies to an object of the tag alone.
    pub(super) fn with_tag(self, tag: &Property, rest: &Value) -> Self {
        let object = |more: Option<Property>, rest: Value| {
            Self::Object(Object { properties: [tag.clone()].into_iter().chain(more).collect(), rest })
        };
        match self {
            Self::Object(mut object) => {
                object.properties.insert(0, tag.clone());
                Self::Object(object)
            }
            // serde writes the name of an inner variant as a field without a value.
            Self::Name(names) => {
                let more = Property { names, schema: null(), is_required: true };
                object(Some(more), rest.clone())
            }
            Self::Null => object(None, rest.clone()),
            Self::Any(all) => Self::Any(all.into_iter().map(|each| each.with_tag(tag, rest)).collect()),
            Self::Defined(_, inner) => inner.with_tag(tag, rest),
            // Nothing is known about its fields.
            Self::Other(_) => object(None, Value::Bool(true)),
        }
    }

    pub(super) fn into_schema(self) -> Value {
        match self {
            Self::Object(object) => object.into_schema(),
            Self::Name(names) => text_of(&names),
            Self::Null => null(),
            Self::Any(all) => any(all),
            Self::Defined(reference, _) => json!({ "$ref": reference }),
            Self::Other(schema) => schema,
        }
    }
}

impl Object {
    fn into_schema(self) -> Value {
        let (mut properties, mut required, mut choices) = (Map::new(), Vec::<String>::new(), Vec::new());
        for Property { names, schema, is_required } in self.properties {
            match &names[..] {
                [name] if is_required && !required.contains(name) => required.push(name.clone()),
                [_] => {}
                _ if is_required => {
                    // Some validators want a field that is required to be declared next to it.
                    let one = |name: &String| json!({ "properties": { name: true }, "required": [name] });
                    let names: Vec<_> = names.iter().map(one).collect();
                    choices.push(json!({ "oneOf": names }));
                }
                _ => {}
            }
            properties.extend(names.into_iter().map(|name| (name, schema.clone())));
        }
        let mut schema = json!({ "type": "object" });
        if !properties.is_empty() {
            schema["properties"] = properties.into();
        }
        if !required.is_empty() {
            schema["required"] = required.into();
        }
        if !choices.is_empty() {
            schema["allOf"] = choices.into();
        }
        if self.rest != Value::Bool(true) {
            schema["additionalProperties"] = self.rest;
        }
        schema
    }
}

/// Returns the schema of a text that is one of `names`.
pub(super) fn text_of(names: &[String]) -> Value {
    match names {
        [name] => json!({ "const": name }),
        _ => json!({ "enum": names }),
    }
}

fn null() -> Value {
    json!({ "type": "null" })
}

/// Returns the schema of the values that one of several schemas accepts. It is `anyOf`, and not `oneOf`, because untagged variants may overlap.
fn any(all: Vec<Node>) -> Value {
    let (mut names, mut schemas) = (Vec::new(), Vec::new());
    collect(all, &mut names, &mut schemas);
    if !names.is_empty() {
        schemas.insert(0, text_of(&names));
    }
    if schemas.contains(&Value::Bool(true)) {
        return Value::Bool(true);
    }
    match schemas.len() {
        0 => Value::Bool(false),
        1 => schemas.remove(0),
        _ => json!({ "anyOf": schemas }),
    }
}

/// Collects schemas without repetitions, and the names of variants without a value apart from them.
fn collect(all: Vec<Node>, names: &mut Vec<String>, schemas: &mut Vec<Value>) {
    for node in all {
        match node {
            Node::Any(inner) => collect(inner, names, schemas),
            Node::Name(found) => {
                for name in found {
                    if !names.contains(&name) {
                        names.push(name);
                    }
                }
            }
            other => {
                let schema = other.into_schema();
                if !schemas.contains(&schema) && schema != Value::Bool(false) {
                    schemas.push(schema);
                }
            }
        }
    }
}
