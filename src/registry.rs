//! The events that a program knows, and a check of their changes against `events.lock`.

#[cfg(feature = "rabbitmq")]
#[cfg_attr(docsrs, doc(cfg(feature = "rabbitmq")))]
pub mod asyncapi;
pub(crate) mod deployed;
mod json_schema;
pub(crate) mod lock;
pub(crate) mod log;
pub(crate) mod stored;
pub(crate) mod violation;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

pub use deployed::{Difference, Differs};
pub use lock::{Block, Exception, InvalidLock, Lock};
pub use log::{LogFault, LogProblem, LogReport, StoredKind};
pub use stored::{Compared, NewerVersion};
pub use violation::{Broken, Violation};

use crate::codec::Codec;
use crate::error::{ErrorKind, Result};
use crate::event::{DecodeError, Event, EventSchema, EventTypes, StoredEvent, decode_stored};
use crate::shape::compare::Changes;
use crate::shape::types::Type;

/// The events that a program knows: their stored names, newest versions and wire shapes.
///
/// # Examples
/// A log lives longer than a release. [`check`](Self::check) compares the types with the lock, a text file next to the code, and says what
/// a change breaks:
///
/// ```
/// use retell::registry::{Lock, Registry};
/// use retell::{BoxError, Event};
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
/// let lock = Registry::new().with::<before::Placed>()?.check(&Lock::default()).lock;
/// assert!(lock.to_string().ends_with("[order.placed 1 json]\ncustomer: text\n"));
///
/// let checked = Registry::new().with::<Placed>()?.check(&lock);
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
    /// [`ErrorKind::Invalid`] if another type has declared an event with one of the stored names, or if `E` holds every event, as
    /// [`AnyEvent`](crate::AnyEvent) does.
    pub fn with<E: Event>(mut self) -> Result<Self> {
        let EventTypes::Only(schemas) = E::TYPES else {
            let problem = "a registry needs types that name their events, and this one holds every event";
            return Err(ErrorKind::Invalid(problem.into()).into());
        };
        for schema in schemas {
            match self.events.entry(schema.name) {
                Entry::Vacant(place) => {
                    let decode = |stored: StoredEvent<'_>| decode_stored::<E>(stored).map(drop);
                    place.insert(Known { schema: *schema, decode });
                }
                Entry::Occupied(known) if known.get().schema.declaration == schema.declaration => {}
                Entry::Occupied(known) => {
                    return Err(ErrorKind::Invalid(format!(
                        "two types declare event {}: {} and {}: choose another stored name for one of them",
                        schema.name,
                        known.get().schema.declaration,
                        schema.declaration
                    ))
                    .into());
                }
            }
        }
        Ok(self)
    }

    /// Returns the kinds of events, sorted by their stored names.
    pub fn events(&self) -> impl Iterator<Item = &EventSchema> {
        self.events.values().map(|known| &known.schema)
    }

    /// Returns a lock of the events' newest versions alone.
    pub fn lock(&self) -> Lock {
        self.check(&Lock::default()).lock
    }

    /// Compares the events with the lock.
    pub fn check(&self, lock: &Lock) -> Checked {
        let mut checked = Checked { errors: Vec::new(), warnings: Vec::new(), lock: lock.clone() };
        for schema in self.events() {
            checked.event(schema, lock);
        }
        for (name, version, codec) in lock.blocks.keys() {
            checked.locked(name, *version, *codec, self.events.get(name.as_str()).map(|known| &known.schema));
        }
        checked
    }
}

/// The result of a comparison of the program's events with the lock.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Checked {
    /// Changes that make stored events unreadable. The lock stays as it is until they are mended, or allowed in the lock.
    pub errors: Vec<Violation>,
    /// Changes that processes of the older release cannot read, among them new events and versions. They matter while a release is rolled out
    /// or back.
    pub warnings: Vec<Violation>,
    /// The lock with the changes that are allowed.
    pub lock: Lock,
}

impl Checked {
    /// Compares the newest version of an event with its blocks in the lock, and adds a block if there is none.
    fn event(&mut self, schema: &EventSchema, lock: &Lock) {
        let shape = schema.shape().unwrap_or(Type::Opaque);
        for codec in [Codec::Json, Codec::Compact] {
            let key = (schema.name.to_owned(), schema.version, codec);
            match self.lock.blocks.get(&key).cloned() {
                Some(block) => self.block(key, block, &shape),
                None if codec == schema.codec => {
                    self.warnings.extend(added(schema, lock));
                    self.lock.blocks.insert(key, Block::new(shape.clone()));
                }
                None => {}
            }
        }
    }

    fn block(&mut self, key: (String, u32, Codec), mut block: Block, shape: &Type) {
        let changes = Changes::between(&block.shape, shape, key.2);
        let violation = |finding| Violation { event: key.0.clone(), version: key.1, broken: Broken::Rule(finding) };
        self.warnings.extend(changes.forward.into_iter().map(violation));
        let (doubts, errors): (Vec<_>, Vec<_>) =
            changes.backward.into_iter().partition(|finding| finding.rule.is_doubt());
        self.warnings.extend(doubts.into_iter().map(violation));
        let refused: Vec<_> = errors.into_iter().map(violation).filter(|each| !block.allow(&each.broken)).collect();
        if refused.is_empty() {
            block.shape = shape.clone();
            self.lock.blocks.insert(key, block);
        } else {
            self.errors.extend(refused);
        }
    }

    /// Checks that the program still has a locked event.
    fn locked(&mut self, event: &str, version: u32, codec: Codec, known: Option<&EventSchema>) {
        let broken = match known {
            None => Broken::EventRemoved,
            Some(schema) if version > schema.version => Broken::VersionRemoved { newest: schema.version },
            Some(_) => return,
        };
        let key = (event.to_owned(), version, codec);
        let is_allowed = self.lock.blocks.get_mut(&key).is_some_and(|block| block.allow(&broken));
        if !is_allowed {
            self.errors.push(Violation { event: event.to_owned(), version, broken });
        }
    }
}

/// Returns what an older release cannot read, if this version of an event is not in the lock. Before the first lock there is no older release.
fn added(schema: &EventSchema, lock: &Lock) -> Option<Violation> {
    let of_event = lock.blocks.keys().filter(|(name, ..)| name == schema.name).map(|(_, version, _)| *version);
    let broken = match of_event.max() {
        Some(before) if before < schema.version => Broken::VersionAdded { before },
        // Another codec, which an older release knows, or an older version, which is an error.
        Some(_) => return None,
        None if lock.blocks.is_empty() => return None,
        None => Broken::EventAdded,
    };
    Some(Violation { event: schema.name.to_owned(), version: schema.version, broken })
}
