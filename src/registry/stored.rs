//! The wire shapes that programs have registered with a log.

use std::fmt;

use chrono::{SubsecRound, Utc};

use crate::codec::Codec;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{EventSchema, RecordedEvent};
use crate::id::EventType;
use crate::registry::Registry;
use crate::registry::violation::{Broken, Violation};
use crate::shape::compare::{Changes, Finding};
use crate::shape::older::unreadable;
use crate::shape::types::Type;
use crate::store::log::event_store::EventStore;
use crate::store::log::reader::{EventReader, EventReaderExt};
use crate::store::log::shapes::{RegisteredShape, program_name};

/// The number of newest events that are decoded if another release has registered a shape that this one cannot read.
const RIVAL_EVENTS: usize = 100;

/// A version of an event that the log knows and this program does not.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewerVersion {
    /// The stored name of the event.
    pub event_type: EventType,
    /// The newest version that was registered.
    pub registered: u32,
    /// The newest version that the program knows.
    pub known: u32,
}

impl fmt::Display for NewerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { event_type, registered, known } = self;
        write!(f, "a newer release writes version {registered} of {event_type}, this one knows version {known}")
    }
}

/// The result of a comparison of the program's events with those that are registered with the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Compared {
    /// Changes of a version that was registered with another shape, which make its stored events unreadable.
    pub errors: Vec<Violation>,
    /// Versions that only a newer release knows. They are no error, because a release can be rolled back.
    pub newer: Vec<NewerVersion>,
}

impl Registry {
    /// Compares the program's events with those that are registered with the log.
    ///
    /// A shape that is registered is never an error, even if a newer release has registered another one since: a release can be rolled back.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the stored name of an event is not a valid name.
    pub fn compare(&self, registered: &[RegisteredShape]) -> Result<Compared> {
        let mut compared = Compared::default();
        for schema in self.events() {
            let own = shape_of(schema)?;
            let shape = schema.shape().unwrap_or(Type::Opaque);
            for name in schema.names() {
                let of_name: Vec<_> = registered.iter().filter(|each| each.event_type.as_str() == name).collect();
                let newest = of_name.iter().map(|each| each.version).max().unwrap_or_default();
                if newest > own.version {
                    let (event_type, known) = (EventType::new(name)?, own.version);
                    compared.newer.push(NewerVersion { event_type, registered: newest, known });
                }
                if !of_name.iter().any(|each| each.has_shape_of(&own)) {
                    let of_version = of_name.iter().filter(|each| each.version == own.version);
                    let changes = |before: &Type, codec| Changes::between(before, &shape, codec).backward;
                    compared.errors.extend(of_version.flat_map(|other| broken(other, changes, Broken::Rule)));
                }
                compared.errors.extend(upcasters(schema, &of_name));
            }
        }
        Ok(compared)
    }

    /// Registers the program's events with the log, so that older processes know that a newer release writes them. A
    /// [`Repository`](crate::Repository) does this before its first append and once more after it, and again if it notices that the log has lost
    /// events. Call it for events that are appended without one, and again after a restore.
    ///
    /// # Examples
    /// ```
    /// use retell::prelude::*;
    /// use retell::registry::Registry;
    ///
    /// #[derive(Event)]
    /// #[event("order.placed")]
    /// struct Placed {
    ///     customer: String,
    /// }
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let store = MemoryStore::new();
    /// Registry::new().with::<Placed>()?.register(&store).await?;
    /// assert_eq!(store.registered_shapes().await?[0].shape, "{customer: text}");
    /// # Ok::<(), BoxError>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::ShapeChanged`] if the log holds an event that could not be read any more because its shape has changed without a new
    /// version. If two releases with such shapes start in the same moment, each may register before the log has an event. Then a call after the
    /// first append refuses at least one of them. Otherwise [`ErrorKind::Invalid`] as for [`compare`](Self::compare), or an error of the store.
    pub async fn register(&self, store: &(impl EventStore + ?Sized)) -> Result<Compared> {
        let known = store.registered_shapes().await?;
        let compared = self.check_registered(store, &known).await?;
        self.check_rivals(store, &known).await?;
        let mut new = Vec::new();
        for schema in self.events() {
            let own = shape_of(schema)?;
            if !known.iter().any(|each| each.event_type == own.event_type && each.has_shape_of(&own)) {
                new.push(own);
            }
        }
        if new.is_empty() {
            return Ok(compared);
        }
        store.register_shapes(&new).await?;
        // Another release may have registered and written since the first look. Its shapes count as if this one were not registered yet.
        let mut others = store.registered_shapes().await?;
        others.retain(|each| !new.iter().any(|own| own.event_type == each.event_type && own.has_shape_of(each)));
        self.check_registered(store, &others).await
    }

    /// Refuses to write next to a release under the same version if neither can read the other's events, and the log has an event that this
    /// program cannot read. Releases that follow each other never have such shapes, because the later one reads the earlier one's events.
    async fn check_rivals(&self, reader: &(impl EventReader + ?Sized), known: &[RegisteredShape]) -> Result<()> {
        let mut refused = Vec::new();
        for own in self.events.values() {
            let rivals = rivals(&own.schema, known);
            if rivals.is_empty() {
                continue;
            }
            let newest = reader.newest(&EventType::new(own.schema.name)?, RIVAL_EVENTS).await?;
            let of_version = |event: &&RecordedEvent| event.event.schema_version == own.schema.version;
            if newest.iter().filter(of_version).any(|event| (own.decode)(event.stored()).is_err()) {
                refused.extend(rivals.iter().map(ToString::to_string));
            }
        }
        if refused.is_empty() { Ok(()) } else { Err(ErrorKind::ShapeChanged(refused).into()) }
    }

    /// Compares the program's events with those that are registered, and refuses a change that makes stored events unreadable.
    pub(crate) async fn check_registered(
        &self,
        reader: &(impl EventReader + ?Sized),
        known: &[RegisteredShape],
    ) -> Result<Compared> {
        let mut compared = self.compare(known)?;
        let mut refused = Vec::new();
        for violation in std::mem::take(&mut compared.errors) {
            // While a program is developed, shapes change before the first event is written.
            if !reader.newest(&EventType::new(violation.event.as_str())?, 1).await?.is_empty() {
                refused.push(violation.to_string());
            }
        }
        if refused.is_empty() { Ok(compared) } else { Err(ErrorKind::ShapeChanged(refused).into()) }
    }
}

/// Replaces the error of an event that this program does not know by [`ErrorKind::BehindDeploy`], if a newer release has registered it.
/// Otherwise, or if that cannot be found out, returns the error as it is.
pub(crate) async fn if_behind_deploy(reader: &(impl EventReader + ?Sized), error: Error) -> Error {
    let (event_type, found) = match error.kind() {
        ErrorKind::UnknownEventType { event_type, .. } => (event_type, None),
        ErrorKind::UnknownSchema { event_type, found, known, .. } if found > known => (event_type, Some(*found)),
        _ => return error,
    };
    let Ok(registered) = reader.registered_shapes().await else { return error };
    let is_known = registered
        .iter()
        .any(|each| each.event_type == *event_type && found.is_none_or(|version| each.version == version));
    if is_known { Error::with_source(ErrorKind::BehindDeploy(event_type.clone()), error) } else { error }
}

/// Returns why a program cannot read the version that it writes in other registered shapes, if their programs cannot read its own shape either.
fn rivals(schema: &EventSchema, registered: &[RegisteredShape]) -> Vec<Violation> {
    let shape = schema.shape().unwrap_or(Type::Opaque);
    let is_rival = |other: &&RegisteredShape| {
        let changes = || Changes::between(&type_of(other), &shape, other.codec);
        (other.event_type.as_str(), other.version) == (schema.name, schema.version)
            && changes().forward.iter().any(|finding| !finding.rule.is_doubt())
    };
    let changes = |before: &Type, codec| Changes::between(before, &shape, codec).backward;
    registered.iter().filter(is_rival).flat_map(|other| broken(other, changes, Broken::Rule)).collect()
}

/// Returns why the upcasters of an event cannot read the older versions of it that are registered under one of its names.
fn upcasters(schema: &EventSchema, registered: &[&RegisteredShape]) -> Vec<Violation> {
    let mut all = Vec::new();
    for other in registered.iter().filter(|each| each.version < schema.version) {
        let Some(reader) = schema.shape_of(other.version) else { continue };
        let text = reader.to_string();
        // As for the newest version, a shape that is registered is accepted.
        let is_known = |each: &&RegisteredShape| (each.version, &each.shape) == (other.version, &text);
        if !registered.iter().any(is_known) {
            all.extend(broken(other, |before, codec| unreadable(before, &reader, codec), Broken::UpcasterInput));
        }
    }
    all
}

/// Returns the rules that a change of a registered shape breaks.
fn broken(
    registered: &RegisteredShape,
    compare: impl FnOnce(&Type, Codec) -> Vec<Finding>,
    broken: fn(Finding) -> Broken,
) -> Vec<Violation> {
    let (event, version) = (registered.event_type.as_str(), registered.version);
    let violation = |finding| Violation { event: event.to_owned(), version, broken: broken(finding) };
    let all = compare(&type_of(registered), registered.codec).into_iter().map(violation);
    all.filter(|violation| !violation.broken.is_doubt()).collect()
}

/// Returns a registered shape as a type. The text of a newer release may be unknown to this one; nothing can be said about it.
fn type_of(registered: &RegisteredShape) -> Type {
    registered.shape.parse().unwrap_or(Type::Opaque)
}

/// Returns the shape of an event of this program, to be registered now.
fn shape_of(schema: &EventSchema) -> Result<RegisteredShape> {
    Ok(RegisteredShape {
        event_type: EventType::new(schema.name)?,
        version: schema.version,
        codec: schema.codec,
        shape: schema.shape().unwrap_or(Type::Opaque).to_string(),
        first_seen: Utc::now().trunc_subsecs(6),
        program: program_name(),
    })
}
