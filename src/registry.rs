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

use std::collections::{BTreeMap, BTreeSet};

pub use deployed::{Difference, Differs};
pub use lock::{Block, Exception, InvalidLock, Lock};
pub use log::{LogFault, LogProblem, LogReport, StoredKind};
pub use stored::{Compared, NewerVersion};
pub use violation::{Broken, Violation};

use crate::codec::Codec;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{DecodeError, Event, EventSchema, EventTypes, StoredEvent, decode_not_one, decode_stored};
use crate::shape::compare::{Changes, Finding, Rule};
use crate::shape::older::unreadable;
use crate::shape::opaque::opaque_places;
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

    /// Compares the events with the lock.
    pub fn check(&self, lock: &Lock) -> Checked {
        let mut checked = Checked { errors: Vec::new(), warnings: Vec::new(), lock: lock.clone() };
        for schema in self.events() {
            checked.event(schema, lock);
        }
        // The log keeps events whose name is retired, and so does the lock.
        for (name, version, codec) in lock.blocks.keys().filter(|(name, ..)| !self.retired.contains(name.as_str())) {
            checked.locked(name, *version, *codec, self.known_as(name));
        }
        checked
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

/// The result of a comparison of the program's events with the lock.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Checked {
    /// Changes that make stored events unreadable. The lock stays as it is until they are mended, or allowed in the lock.
    pub errors: Vec<Violation>,
    /// Changes that processes of the older release cannot read, among them new events and versions, and [doubts](Broken::is_doubt). The former
    /// matter while a release is rolled out or back.
    pub warnings: Vec<Violation>,
    /// The lock with the changes that are allowed.
    pub lock: Lock,
}

impl Checked {
    /// Compares the newest version of an event with its blocks in the lock, and adds a block if there is none.
    fn event(&mut self, schema: &EventSchema, lock: &Lock) {
        let shape = schema.shape().unwrap_or(Type::Opaque);
        self.renamed(schema);
        for codec in [Codec::Json, Codec::Compact] {
            let key = (schema.name.to_owned(), schema.version, codec);
            match self.lock.blocks.get(&key).cloned() {
                Some(block) => self.block(key, block, &shape),
                None if codec == schema.codec => {
                    self.warnings.extend(added(schema, lock));
                    self.warnings.extend(unknown(schema, &shape));
                    self.lock.blocks.insert(key, Block::new(shape.clone()));
                }
                None => {}
            }
            for former in schema.former_names {
                let key = ((*former).to_owned(), schema.version, codec);
                self.frozen(&key, |block| Changes::between(block, &shape, codec).backward, Broken::Rule);
            }
        }
        self.upcasters(schema);
    }

    /// Compares what the upcasters take with the blocks of the older versions, under each of the names.
    fn upcasters(&mut self, schema: &EventSchema) {
        let is_older = |(name, version, _): &&(String, u32, Codec)| schema.is_named(name) && *version < schema.version;
        let older: Vec<_> = self.lock.blocks.keys().filter(is_older).cloned().collect();
        for key in older {
            if let Some(reader) = schema.shape_of(key.1) {
                self.frozen(&key, |block| unreadable(block, &reader, key.2), Broken::UpcasterInput);
            }
        }
    }

    /// Warns if the lock has the event under a former name alone: processes of the older release do not know the new one.
    fn renamed(&mut self, schema: &EventSchema) {
        let is_locked = |name: &str| self.lock.blocks.keys().any(|(locked, ..)| locked == name);
        let former = schema.former_names.iter().find(|name| is_locked(name));
        if let (Some(from), false) = (former, is_locked(schema.name)) {
            let broken = Broken::Renamed { from };
            self.warnings.push(Violation { event: schema.name.to_owned(), version: schema.version, broken });
        }
    }

    /// Compares a block with the shape that reads it. Nothing is written in this form any more, so the block stays as it is.
    fn frozen(
        &mut self,
        key: &(String, u32, Codec),
        compare: impl Fn(&Type) -> Vec<Finding>,
        broken: fn(Finding) -> Broken,
    ) {
        let Some(block) = self.lock.blocks.get(key) else { return };
        for finding in distinct(block.shapes().flat_map(compare)) {
            let violation = Violation { event: key.0.clone(), version: key.1, broken: broken(finding) };
            if violation.broken.is_doubt() {
                self.warnings.push(violation);
            } else if !block.allows(&violation.broken) {
                self.errors.push(violation);
            }
        }
    }

    fn block(&mut self, key: (String, u32, Codec), mut block: Block, shape: &Type) {
        let violation = |finding| Violation { event: key.0.clone(), version: key.1, broken: Broken::Rule(finding) };
        let backward = distinct(block.shapes().flat_map(|each| Changes::between(each, shape, key.2).backward));
        let forward = Changes::between(&block.shape, shape, key.2).forward;
        self.warnings.extend(forward.into_iter().map(violation));
        let (doubts, errors): (Vec<_>, Vec<_>) = backward.into_iter().partition(|finding| finding.rule.is_doubt());
        if block.shape != *shape {
            self.warnings.extend(doubts.into_iter().map(violation));
        }
        let was_written = errors.is_empty();
        let refused: Vec<_> = errors.into_iter().map(violation).filter(|each| !block.allow(&each.broken)).collect();
        if refused.is_empty() {
            block.change(shape, was_written);
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
        let is_allowed = self.lock.blocks.get(&key).is_some_and(|block| block.allows(&broken));
        if !is_allowed {
            self.errors.push(Violation { event: event.to_owned(), version, broken });
        }
    }
}

/// Returns the places of a new shape about which nothing is known.
fn unknown(schema: &EventSchema, shape: &Type) -> impl Iterator<Item = Violation> {
    let (event, version) = (schema.name.to_owned(), schema.version);
    opaque_places(shape).into_iter().map(move |path| {
        let broken = Broken::Rule(Finding { rule: Rule::Opaque, path, detail: String::new() });
        Violation { event: event.clone(), version, broken }
    })
}

/// Returns each finding once: several shapes of one version may have it.
fn distinct(findings: impl Iterator<Item = Finding>) -> Vec<Finding> {
    let mut distinct = Vec::<Finding>::new();
    for finding in findings {
        if !distinct.iter().any(|other| (other.rule, &other.path) == (finding.rule, &finding.path)) {
            distinct.push(finding);
        }
    }
    distinct
}

/// Returns what an older release cannot read, if this version of an event is not in the lock. Before the first lock there is no older release.
fn added(schema: &EventSchema, lock: &Lock) -> Option<Violation> {
    let of_event = lock.blocks.keys().filter(|(name, ..)| schema.is_named(name)).map(|(_, version, _)| *version);
    let broken = match of_event.max() {
        Some(before) if before < schema.version => Broken::VersionAdded { before },
        // Another codec, which an older release knows, or an older version, which is an error.
        Some(_) => return None,
        None if lock.blocks.is_empty() => return None,
        None => Broken::EventAdded,
    };
    Some(Violation { event: schema.name.to_owned(), version: schema.version, broken })
}
