//! The events that a program knows, and a check of their changes against `events.lock`.

#[cfg(feature = "rabbitmq")]
#[cfg_attr(docsrs, doc(cfg(feature = "rabbitmq")))]
pub mod asyncapi;
pub(crate) mod check;
pub(crate) mod deployed;
mod json_schema;
pub(crate) mod lock;
pub(crate) mod log;
pub(crate) mod stored;
pub(crate) mod violation;

use std::collections::{BTreeMap, BTreeSet};

pub use check::Checked;
pub use deployed::{Difference, Differs};
pub use lock::{Block, Exception, InvalidLock, Lock};
pub use log::{LogFault, LogProblem, LogReport, StoredKind};
pub use stored::{Compared, NewerVersion};
pub use violation::{Broken, Readers, Violation};

use crate::error::{Error, ErrorKind, Result};
use crate::event::{DecodeError, Event, EventSchema, EventTypes, StoredEvent, decode_not_one, decode_stored};

/// Builds a [`Registry`](crate::registry::Registry) of the events of several types, and returns it in a [`Result`](crate::Result). The error is
/// that of [`Registry::with`](crate::registry::Registry::with).
///
/// # Examples
/// ```
/// use retell::{Event, registry};
///
/// #[derive(Event)]
/// #[event("order.placed")]
/// struct Placed;
///
/// #[derive(Event)]
/// #[event("payment.received")]
/// struct Received;
///
/// let registry = registry![Placed, Received]?;
/// assert_eq!(registry.events().map(|event| event.name).collect::<Vec<_>>(), ["order.placed", "payment.received"]);
/// assert!(registry![Placed, Placed].is_ok(), "a type may be there twice");
/// # Ok::<(), retell::Error>(())
/// ```
#[macro_export]
macro_rules! registry {
    ($($events:ty),* $(,)?) => {
        $crate::Result::<$crate::registry::Registry>::Ok($crate::registry::Registry::new())
            $(.and_then($crate::registry::Registry::with::<$events>))*
    };
}

/// The events that a program knows: their stored names, newest versions and wire shapes.
///
/// # Examples
/// A log lives longer than a release. [`check`](Self::check) compares the types with the lock, a text file next to the code, and says what
/// a change breaks:
///
/// ```
/// use retell::registry::Lock;
/// use retell::{BoxError, Event, registry};
///
/// mod before {
///     #[derive(retell::Event)]
///     #[event("order.placed")]
///     pub struct Placed {
///         customer: String,
///     }
/// }
///
/// #[derive(Event)]
/// #[event("order.placed")]
/// struct Placed {
///     customer: String,
///     cents: u64,
/// }
///
/// let lock = registry![before::Placed]?.check(&Lock::default()).lock;
/// assert!(lock.to_string().ends_with("[order.placed 1 json]\ncustomer: text\n"));
///
/// let checked = registry![Placed]?.check(&lock);
/// assert_eq!(
///     checked.errors[0].to_string(),
///     "order.placed 1: E-FIELD-REQUIRED-ADDED at cents\n    \
///      write `#[serde(default)]` above the field if the default is right for old events, or raise `version` and write an upcaster"
/// );
/// # Ok::<(), BoxError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Registry {
    events: BTreeMap<&'static str, Known>,
    /// The name of the event in `events` under each stored name, former ones included.
    names: BTreeMap<&'static str, &'static str>,
    /// The stored names that readers pass over.
    retired: BTreeSet<&'static str>,
}

/// An event of the program.
#[derive(Debug, Clone, Copy)]
struct Known {
    schema: EventSchema,
    /// Decodes a stored event, and drops it.
    decode: fn(StoredEvent<'_>) -> Result<(), DecodeError>,
}

impl Registry {
    /// Creates a registry without events.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the events of `E`: those of an aggregate, or of a union.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if another event has one of the stored names, former and [retired](Event::RETIRED) ones included, or if `E`
    /// holds every event, as [`AnyEvent`](crate::AnyEvent) does.
    pub fn with<E: Event>(mut self) -> Result<Self> {
        let EventTypes::Only(schemas) = E::TYPES else {
            let problem = "a registry needs types that name their events, and this one holds every event";
            return Err(ErrorKind::Invalid(problem.into()).into());
        };
        for schema in schemas {
            for name in schema.names() {
                self.own(name, schema)?;
            }
            self.events.entry(schema.name).or_insert(Known { schema: *schema, decode: decode_any::<E> });
        }
        for name in E::RETIRED {
            if let Some(known) = self.known_as(name) {
                return Err(retired(name, known));
            }
            self.retired.insert(name);
        }
        Ok(self)
    }

    /// Notes that events under the stored name `name` are of the kind `schema`.
    fn own(&mut self, name: &'static str, schema: &EventSchema) -> Result<()> {
        if self.retired.contains(name) {
            return Err(retired(name, schema));
        }
        let Some(known) = self.known_as(name) else {
            self.names.insert(name, schema.name);
            return Ok(());
        };
        if known.name == schema.name && known.declaration == schema.declaration {
            return Ok(());
        }
        let problem = if known.declaration == schema.declaration {
            format!("two events of {} are stored as {name}", known.declaration)
        } else {
            format!("two types declare event {name}: {} and {}", known.declaration, schema.declaration)
        };
        Err(ErrorKind::Invalid(format!("{problem}: choose another stored name for one of them")).into())
    }

    /// Returns the event that is stored under `name`, now or formerly.
    fn known(&self, name: &str) -> Option<&Known> {
        self.names.get(name).and_then(|kind| self.events.get(kind))
    }

    /// Returns the kind of the events that are stored under `name`.
    fn known_as(&self, name: &str) -> Option<&EventSchema> {
        self.known(name).map(|known| &known.schema)
    }

    /// Returns the kinds of events, sorted by their stored names.
    pub fn events(&self) -> impl Iterator<Item = &EventSchema> {
        self.events.values().map(|known| &known.schema)
    }

    /// Returns a lock of the events' newest versions alone.
    pub fn lock(&self) -> Lock {
        self.check(&Lock::default()).lock
    }
}

/// Decodes a stored event, which may be several.
fn decode_any<E: Event>(stored: StoredEvent<'_>) -> Result<(), DecodeError> {
    match decode_stored::<E>(stored) {
        Err(DecodeError::NotOne) => decode_not_one::<E>(stored).map(drop),
        decoded => decoded.map(drop),
    }
}

/// Returns the error of a stored name that one type has retired and another one declares.
fn retired(name: &str, schema: &EventSchema) -> Error {
    ErrorKind::Invalid(format!(
        "event {name} is retired by one type and declared by {}: choose another stored name",
        schema.declaration
    ))
    .into()
}
