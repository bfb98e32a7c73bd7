//! The events of a registry, or of a lock, as a JSON Schema.

use serde_json::{Value, json};

use crate::codec::Codec;
use crate::registry::Registry;
use crate::registry::lock::{Block, Lock};
use crate::shape::json_schema::{Contract, Definitions, Dialect, annotated};
use crate::shape::types::Type;

/// The comment of an event that is not stored as JSON.
const OF_COMPACT: &str = "retell stores this event in the codec `compact`, and shows it as this JSON";

impl Lock {
    /// Returns a JSON Schema document that defines the payload of each event in the lock, of all versions.
    ///
    /// The name of a definition is the stored name, followed by the version: `order.placed.v2`. A compact event has the suffix `.compact`. Its
    /// payload is not JSON: the definition describes the JSON that [`Type::decode`] returns for it. Any payload is valid for an event
    /// without a known shape. The document itself accepts everything, so refer to a definition, such as `#/$defs/order.placed.v2`.
    ///
    /// # Examples
    /// ```
    /// use retell::registry::Lock;
    /// use retell::shape::{Contract, Dialect};
    ///
    /// let lock: Lock = "[order.placed 1 json]\ncents: u32\n\n[order.placed 2 json]\ncents: u64\n".parse()?;
    /// let document = lock.json_schema(Dialect::Draft202012, Contract::Read);
    /// assert_eq!(document["$defs"]["order.placed.v1"]["properties"]["cents"]["maximum"], u32::MAX);
    /// assert_eq!(document["$defs"]["order.placed.v2"]["title"], "order.placed.v2");
    /// # Ok::<(), retell::BoxError>(())
    /// ```
    pub fn json_schema(&self, dialect: Dialect, contract: Contract) -> Value {
        let mut definitions = Definitions::new(dialect, contract, format!("#/{}/", dialect.definitions()));
        for ((event, version, codec), block) in &self.blocks {
            define(&mut definitions, (event, *version, *codec), block);
        }
        definitions.document(json!({}))
    }
}

impl Registry {
    /// Returns a JSON Schema document that defines the payload of each event, in its newest version.
    ///
    /// [`Lock::json_schema`] describes the document. Call it on a lock for a document of all versions.
    ///
    /// # Examples
    /// ```
    /// use retell::Event;
    /// use retell::registry::Registry;
    /// use retell::shape::{Contract, Dialect};
    ///
    /// #[derive(Event)]
    /// #[event("order.placed")]
    /// struct Placed {
    ///     customer: String,
    /// }
    ///
    /// let document = Registry::new().with::<Placed>()?.json_schema(Dialect::Draft07, Contract::Written);
    /// assert_eq!(document["$schema"], Dialect::Draft07.uri());
    /// assert_eq!(document["definitions"]["order.placed.v1"]["required"][0], "customer");
    /// # Ok::<(), retell::Error>(())
    /// ```
    pub fn json_schema(&self, dialect: Dialect, contract: Contract) -> Value {
        self.lock().json_schema(dialect, contract)
    }
}

/// Returns the name of the definition of an event, such as `order.placed.v2`.
pub(super) fn definition_of(event: &str, version: u32, codec: Codec) -> String {
    let suffix = if codec == Codec::Compact { ".compact" } else { "" };
    format!("{event}.v{version}{suffix}")
}

/// Adds the definition of an event's payload. Returns its name.
pub(super) fn define(definitions: &mut Definitions, key: (&str, u32, Codec), block: &Block) -> String {
    let (event, version, codec) = key;
    let name = definition_of(event, version, codec);
    let schema = definitions.schema(&name, &block.shape, codec);
    let comment = match (codec, &block.shape) {
        (Codec::Compact, _) => Some(("$comment", OF_COMPACT)),
        (Codec::Json, Type::Opaque) => Some(("$comment", "the shape of this event is unknown")),
        (Codec::Json, _) => None,
    };
    let annotations: Vec<_> = [("title", &*name)].into_iter().chain(comment).collect();
    let schema = annotated(schema, &annotations);
    definitions.insert(name.clone(), schema);
    name
}
