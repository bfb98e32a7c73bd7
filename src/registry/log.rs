//! A check of the events that the log holds.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use serde_json::value::RawValue;

use crate::codec::Codec;
use crate::error::Result;
use crate::event::{DecodeError, EventSchema, PROCESS_STEPPED, RecordedEvent};
use crate::id::{EventType, StreamId, Version};
use crate::registry::{Known, Registry};
use crate::shape::types::{Read, Struct, Type};
use crate::store::log::reader::{EventReader, EventReaderExt};
use crate::store::log::shapes::RegisteredShape;

/// The result of a check of the log: what it holds, and what the program cannot read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogReport {
    /// The most events of each type that were decoded, beginning with the newest one. Nothing is known about older ones.
    pub newest: usize,
    /// The kinds of events among them, sorted by stored name, version and codec.
    pub kinds: Vec<StoredKind>,
    /// The broken rules.
    pub problems: Vec<LogProblem>,
}

/// The events of one stored name, version and codec among the newest events of the name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredKind {
    /// The stored name.
    pub event_type: EventType,
    /// The schema version.
    pub version: u32,
    /// The codec of the payloads.
    pub codec: Codec,
    /// The number of events.
    pub events: usize,
    /// The fields of JSON payloads that the program no longer reads, and the number of events that still have them. Only fields of the newest
    /// version are counted, and only those of the payload itself.
    pub unread: BTreeMap<String, usize>,
}

/// A broken rule of the events of one type in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogProblem {
    /// The stored name.
    pub event_type: EventType,
    /// The broken rule.
    pub fault: LogFault,
}

/// A rule that stored events break.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogFault {
    /// No type of the program has the event (`E-EVENT-UNKNOWN`).
    EventUnknown {
        /// The stream of the newest such event. `None` if no event was read.
        stream: Option<StreamId>,
    },
    /// The program does not know the schema version (`E-VERSION-UNKNOWN`).
    VersionUnknown {
        /// The schema version.
        version: u32,
        /// The newest version of the program.
        known: u32,
        /// The number of such events.
        events: usize,
    },
    /// Events do not decode (`E-UNDECODABLE`).
    Undecodable {
        /// The schema version.
        version: u32,
        /// The codec of the payloads.
        codec: Codec,
        /// The number of such events.
        events: usize,
        /// The stream of the newest one.
        stream: StreamId,
        /// Its version in the stream.
        at: Version,
        /// The error of the newest one.
        error: String,
    },
    /// No program has registered the version and codec (`E-NOT-REGISTERED`).
    NotRegistered {
        /// The schema version.
        version: u32,
        /// The codec of the payloads.
        codec: Codec,
    },
}

impl LogFault {
    /// Returns the stable name of the rule.
    pub const fn id(&self) -> &'static str {
        match self {
            Self::EventUnknown { .. } => "E-EVENT-UNKNOWN",
            Self::VersionUnknown { .. } => "E-VERSION-UNKNOWN",
            Self::Undecodable { .. } => "E-UNDECODABLE",
            Self::NotRegistered { .. } => "E-NOT-REGISTERED",
        }
    }

    /// Returns what to do.
    pub const fn cure(&self) -> &'static str {
        match self {
            Self::EventUnknown { .. } => {
                "keep the variant for as long as the log holds such events, and add its type to the registry"
            }
            Self::VersionUnknown { .. } => "run the newer release, or bring its version and upcasters back",
            Self::Undecodable { .. } => {
                "change the type or the upcaster so that it reads these payloads, and keep one of them as a golden payload"
            }
            Self::NotRegistered { .. } => {
                "append through a repository, or call `Registry::register` when the program starts: otherwise an older process takes such an \
                 event for a damaged one"
            }
        }
    }
}

impl Registry {
    /// Compares the program with the events that the log really holds: decodes the newest `newest` events of each event type. 100 is a good
    /// number: it shows the versions that are written now, and a few that older processes wrote.
    ///
    /// The check finds each event type by the index of the log, so it also sees types that no program has registered and no lock
    /// has. It leaves out events whose name is [retired](crate::Event::RETIRED), and the steps of processes, which each process manager
    /// checks when it starts. It holds the newest events of one type in memory at a time. Golden payloads in a test
    /// (`testing::assert_golden`) cover the versions that are older.
    ///
    /// # Examples
    /// ```
    /// use retell::prelude::*;
    /// use retell::registry::Registry;
    ///
    /// #[derive(Event)]
    /// enum OrderEvent {
    ///     #[event("order.placed")]
    ///     Placed { customer: String },
    /// }
    ///
    /// /// A release before this one had another event.
    /// #[derive(Event)]
    /// #[event("order.lost")]
    /// struct Lost {}
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let store = MemoryStore::new();
    /// let registry = Registry::new().with::<OrderEvent>()?;
    /// registry.register(&store).await?;
    /// let placed = OrderEvent::Placed { customer: "ada".into() };
    /// store.append_events(("order", "1"), ExpectedVersion::NoStream, [placed]).await?;
    /// assert!(registry.check_log(&store, 100).await?.problems.is_empty());
    ///
    /// store.append_events(("order", "2"), ExpectedVersion::NoStream, [Lost {}]).await?;
    /// let report = registry.check_log(&store, 100).await?;
    /// assert_eq!(
    ///     report.problems[0].to_string(),
    ///     "order.lost: E-EVENT-UNKNOWN: the newest one is in order/2\n    \
    ///      keep the variant for as long as the log holds such events, and add its type to the registry"
    /// );
    /// # Ok::<(), BoxError>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors). Events that cannot be decoded are problems in the report.
    pub async fn check_log(&self, reader: &(impl EventReader + ?Sized), newest: usize) -> Result<LogReport> {
        let registered = reader.registered_shapes().await?;
        let mut report = LogReport { newest, kinds: Vec::new(), problems: Vec::new() };
        let types = reader.event_types().await?;
        let is_checked = |name: &str| name != PROCESS_STEPPED && !self.retired.contains(name);
        for event_type in types.into_iter().filter(|each| is_checked(each.as_str())) {
            let events = reader.newest(&event_type, newest).await?;
            report.add(&event_type, &events, self.known(event_type.as_str()), &registered);
        }
        Ok(report)
    }
}

impl LogReport {
    /// Adds the newest events of one type.
    fn add(
        &mut self,
        event_type: &EventType,
        events: &[RecordedEvent],
        known: Option<&Known>,
        registered: &[RegisteredShape],
    ) {
        // Events of this name in another aggregate belong to another type.
        let is_foreign = |event: &&RecordedEvent| {
            let aggregate = known.and_then(|known| known.schema.aggregate);
            aggregate.is_some_and(|aggregate| event.stream.aggregate_type().as_str() != aggregate)
        };
        let foreign = events.iter().find(|event| known.is_none() || is_foreign(event));
        if foreign.is_some() || known.is_none() {
            self.found(event_type, LogFault::EventUnknown { stream: foreign.map(|event| event.stream.clone()) });
        }
        let fields = known.and_then(|known| read_fields(&known.schema));
        let mut kinds: BTreeMap<_, Tally> = BTreeMap::new();
        for event in events {
            let tally = kinds.entry((event.event.schema_version, event.event.codec)).or_default();
            tally.events += 1;
            let Some(known) = known.filter(|_| !is_foreign(&event)) else { continue };
            match (known.decode)(event.stored()) {
                Ok(()) if event.event.schema_version == known.schema.version => {
                    tally.count_unread(event, fields.as_ref());
                }
                Ok(()) => {}
                Err(error) => tally.failures.push((event.stream.clone(), event.version, error)),
            }
        }
        for ((version, codec), tally) in kinds {
            let is_registered = |each: &RegisteredShape| {
                each.event_type == *event_type && (each.version, each.codec) == (version, codec)
            };
            if !registered.iter().any(is_registered) {
                self.found(event_type, LogFault::NotRegistered { version, codec });
            }
            self.failed(event_type, (version, codec), tally.failures);
            let (event_type, events, unread) = (event_type.clone(), tally.events, tally.unread);
            self.kinds.push(StoredKind { event_type, version, codec, events, unread });
        }
    }

    fn found(&mut self, event_type: &EventType, fault: LogFault) {
        self.problems.push(LogProblem { event_type: event_type.clone(), fault });
    }

    fn failed(
        &mut self,
        event_type: &EventType,
        (version, codec): (u32, Codec),
        failures: Vec<(StreamId, Version, DecodeError)>,
    ) {
        let events = failures.len();
        // All events of one version have the same fault, unless only some payloads do not decode. The newest one comes first.
        let Some((stream, at, error)) = failures.into_iter().next() else { return };
        let fault = match error {
            DecodeError::UnknownType => LogFault::EventUnknown { stream: Some(stream) },
            DecodeError::UnknownSchema { found, known } => LogFault::VersionUnknown { version: found, known, events },
            DecodeError::Payload(_) | DecodeError::NotOne => {
                LogFault::Undecodable { version, codec, events, stream, at, error: format!("{error:#}") }
            }
        };
        self.found(event_type, fault);
    }
}

/// The events of one version and codec.
#[derive(Default)]
struct Tally {
    events: usize,
    unread: BTreeMap<String, usize>,
    failures: Vec<(StreamId, Version, DecodeError)>,
}

impl Tally {
    fn count_unread(&mut self, event: &RecordedEvent, fields: Option<&HashSet<String>>) {
        let Some(fields) = fields.filter(|_| event.event.codec == Codec::Json) else { return };
        // A payload that is no object has no names.
        let Ok(stored) = serde_json::from_slice::<BTreeMap<String, &RawValue>>(&event.event.payload) else { return };
        for name in stored.into_keys().filter(|name| !fields.contains(name)) {
            *self.unread.entry(name).or_insert(0) += 1;
        }
    }
}

/// Returns the names under which the program reads the fields of an event. `None` if it reads fields of any name, or none by their names.
fn read_fields(schema: &EventSchema) -> Option<HashSet<String>> {
    let Some(Type::Struct(Struct { fields, rest: None, .. })) = schema.shape() else { return None };
    let read = fields.into_iter().filter(|field| field.read != Read::Never);
    Some(read.flat_map(|field| field.aliases.into_iter().chain([field.name])).collect())
}

/// `order.placed 1 json: 40 events, 3 still have the field note, which is not read`
impl fmt::Display for StoredKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { event_type, version, codec, events, unread } = self;
        let word = if *events == 1 { "event" } else { "events" };
        write!(f, "{event_type} {version} {}: {events} {word}", codec.name())?;
        for (name, events) in unread {
            write!(f, ", field {name} is not read and still stored in {events}")?;
        }
        Ok(())
    }
}

/// `order.placed: E-VERSION-UNKNOWN: ..`, and what to do on a second line.
impl fmt::Display for LogProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.event_type, self.fault.id())?;
        match &self.fault {
            LogFault::EventUnknown { stream: Some(stream) } => write!(f, ": the newest one is in {stream}")?,
            LogFault::EventUnknown { stream: None } => {}
            LogFault::VersionUnknown { version, known, events } => {
                write!(f, ": {events} of version {version}, and the program knows 1 to {known}")?;
            }
            LogFault::Undecodable { version, codec, events, stream, at, error } => {
                let codec = codec.name();
                write!(
                    f,
                    ": {events} of version {version} {codec}, the newest one in {stream} at version {at}: {error}"
                )?;
            }
            LogFault::NotRegistered { version, codec } => write!(f, ": version {version} {}", codec.name())?,
        }
        write!(f, "\n    {}", self.fault.cure())
    }
}

/// One line for each kind of event, and the problems.
impl fmt::Display for LogReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the log, by at most {} of the newest events of each type:", self.newest)?;
        for kind in &self.kinds {
            write!(f, "\n{kind}")?;
        }
        for problem in &self.problems {
            write!(f, "\n{problem}")?;
        }
        Ok(())
    }
}
