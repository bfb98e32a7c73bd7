//! Random sequences of calls, compared with a model that is simple enough to verify by eye: a list of events and a few
//! maps.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::subsequence;
use retell::error::ErrorKind;
use retell::event::NewEvent;
use retell::id::{AggregateType, EventId, EventType, ExpectedVersion, IdempotencyKey, Position, StreamId, Version};
use retell::store::memory::MemoryStore;
use retell::store::sqlite::{SqliteOptions, SqliteStore, Synchronous};
use retell::store::{Append, EventReaderExt, EventStore, Filter, Outcome, Replay, Snapshot, StreamAppend, UpTo};
use retell::testing::store::{Replayed, event, event_at, position_of, replayed, whole_log};
use tempfile::TempDir;
use tokio::runtime;

/// Small sets, so that different steps often touch the same data.
const KINDS: [&str; 2] = ["account", "order"];
const TYPES: [&str; 3] = ["opened", "noted", "closed"];
const STREAMS: usize = 4;
const FINGERPRINTS: [u64; 2] = [7, u64::MAX];

/// One call to the store.
#[derive(Debug, Clone)]
enum Step {
    Append { parts: Vec<Part>, key: Option<u8>, reuse_id: Option<prop::sample::Index> },
    SaveSnapshot { stream: usize, version: u64, fingerprint: u64 },
    Replay { stream: usize, after: u64, up_to: Option<u64>, fingerprint: Option<u64> },
    Read { after: u64, limit: usize, kinds: Vec<&'static str>, types: Vec<&'static str> },
    Newest { event_type: &'static str, limit: usize },
}

#[derive(Debug, Clone)]
struct Part {
    stream: usize,
    expected: ExpectedVersion,
    types: Vec<&'static str>,
}

fn step() -> impl Strategy<Value = Step> {
    let fingerprint = || prop::sample::select(&FINGERPRINTS);
    let parts = (subsequence((0..STREAMS).collect::<Vec<_>>(), 1..=3), vec((expected(), types(1..4)), 3)).prop_map(
        |(streams, rest)| {
            let parts = streams.into_iter().zip(rest);
            parts.map(|(stream, (expected, types))| Part { stream, expected, types }).collect()
        },
    );
    prop_oneof![
        6 => (parts, option::weighted(0.3, 0..4u8), option::weighted(0.1, any::<prop::sample::Index>()))
            .prop_map(|(parts, key, reuse_id)| Step::Append { parts, key, reuse_id }),
        1 => (0..STREAMS, 1..10u64, fingerprint())
            .prop_map(|(stream, version, fingerprint)| Step::SaveSnapshot { stream, version, fingerprint }),
        3 => (0..STREAMS, 0..10u64, option::of(0..10u64), option::of(fingerprint())).prop_map(
            |(stream, after, up_to, fingerprint)| Step::Replay { stream, after, up_to, fingerprint }
        ),
        2 => (0..30u64, 0..10usize, subsequence(KINDS.to_vec(), 0..=1), types(0..3))
            .prop_map(|(after, limit, kinds, types)| Step::Read { after, limit, kinds, types }),
        1 => (prop::sample::select(&TYPES), 0..5usize)
            .prop_map(|(event_type, limit)| Step::Newest { event_type, limit }),
    ]
}

fn types(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<&'static str>> {
    vec(prop::sample::select(&TYPES), count)
}

fn expected() -> impl Strategy<Value = ExpectedVersion> {
    prop_oneof![
        4 => Just(ExpectedVersion::Any),
        1 => Just(ExpectedVersion::NoStream),
        1 => Just(ExpectedVersion::Exists),
        2 => (0..6u64).prop_map(|version| ExpectedVersion::Exact(Version::new(version))),
    ]
}

fn stream(number: usize) -> StreamId {
    StreamId::parse(KINDS[number % 2], &number.to_string()).unwrap()
}

/// The streams of an append, each with the types and payloads of its events.
type Request = Vec<(usize, Vec<(EventType, Bytes)>)>;

/// The expected state of the store.
#[derive(Default)]
struct Model {
    log: Vec<(usize, Version, NewEvent)>,
    keys: HashMap<u8, (Request, Vec<Version>)>,
    snapshots: HashMap<usize, Snapshot>,
}

impl Model {
    fn version(&self, stream: usize) -> Version {
        Version::new(self.log.iter().filter(|(of, ..)| *of == stream).count() as u64)
    }

    /// Returns the expected answer to an append: the new versions and whether they were written, or the error.
    fn append(
        &mut self,
        parts: &[Part],
        append: &Append,
        key: Option<u8>,
    ) -> Result<(Vec<Version>, Outcome), ErrorKind> {
        let streams: Vec<_> = parts.iter().map(|part| part.stream).collect();
        let content = |part: &StreamAppend| {
            part.events.iter().map(|event| (event.event_type.clone(), event.payload.clone())).collect()
        };
        let request: Request = streams.iter().copied().zip(append.streams().iter().map(content)).collect();
        if let Some((name, (first, versions))) = key.and_then(|name| self.keys.get_key_value(&name)) {
            return if *first == request {
                Ok((versions.clone(), Outcome::Repeated))
            } else {
                Err(ErrorKind::KeyReused(key_named(*name)))
            };
        }
        for &Part { stream: number, expected, .. } in parts {
            let actual = self.version(number);
            if !expected.allows(actual) {
                return Err(ErrorKind::Conflict { stream: stream(number), expected, actual });
            }
        }
        let sent: Vec<&NewEvent> = append.streams().iter().flat_map(|part| &part.events).collect();
        if let Some(known) = sent.iter().find(|new| self.log.iter().any(|(_, _, old)| old.id == new.id)) {
            return Err(ErrorKind::DuplicateEvent(known.id));
        }
        for (part, sent) in parts.iter().zip(append.streams()) {
            for event in &sent.events {
                self.log.push((part.stream, self.version(part.stream).next(), event.clone()));
            }
        }
        let versions: Vec<_> = streams.iter().map(|&stream| self.version(stream)).collect();
        if let Some(key) = key {
            self.keys.insert(key, (request, versions.clone()));
        }
        Ok((versions, Outcome::Written))
    }

    fn save(&mut self, stream: usize, snapshot: Snapshot) {
        let is_newer = self
            .snapshots
            .get(&stream)
            .is_none_or(|kept| kept.fingerprint != snapshot.fingerprint || kept.version < snapshot.version);
        if is_newer {
            self.snapshots.insert(stream, snapshot);
        }
    }

    fn replay(&self, stream: usize, replay: Replay) -> Replayed {
        let end = match replay.up_to {
            UpTo::Version(version) => version,
            _ => Version::new(u64::MAX),
        };
        let snapshot = self
            .snapshots
            .get(&stream)
            .filter(|s| Some(s.fingerprint) == replay.snapshot && s.version > replay.after && s.version <= end);
        let after = snapshot.map_or(replay.after, |snapshot| snapshot.version);
        let events = self.log.iter().filter(|(of, version, _)| *of == stream && *version > after && *version <= end);
        Replayed::new(
            snapshot.map(|snapshot| (snapshot.version, snapshot.state.clone())),
            events.map(|(_, version, event)| (*version, event.payload.to_vec())).collect(),
        )
    }

    /// Returns the positions of the events that pass, and the position that the page has read through.
    fn read(&self, after: u64, limit: usize, passes: impl Fn(usize, &NewEvent) -> bool) -> (Vec<u64>, u64) {
        let later = self.log.iter().zip(1..).filter(|(_, position)| *position > after);
        let passing: Vec<u64> =
            later.filter(|((of, _, event), _)| passes(*of, event)).map(|(_, position)| position).take(limit).collect();
        let through = match passing.last() {
            Some(last) if passing.len() == limit => *last,
            _ if limit == 0 => after,
            _ => after.max(self.log.len() as u64),
        };
        (passing, through)
    }
}

fn key_named(name: u8) -> IdempotencyKey {
    IdempotencyKey::new(format!("key {name}")).unwrap()
}

/// Runs the steps on the store and on the model. Compares every answer, and the whole log at the end.
async fn compare(store: &dyn EventStore, steps: Vec<Step>) {
    let mut model = Model::default();
    for (number, step) in steps.into_iter().enumerate() {
        run_step(store, &mut model, step, number).await;
    }
    let log = whole_log(store).await.unwrap();
    assert!(log.iter().zip(1..).all(|(event, position)| event.position == Position::new(position)));
    let log = log.into_iter().map(|recorded| (recorded.stream, recorded.version, recorded.event));
    let expected = model.log.into_iter().map(|(number, version, event)| (stream(number), version, event));
    assert_eq!(log.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
}

async fn run_step(store: &dyn EventStore, model: &mut Model, step: Step, number: usize) {
    match step {
        Step::Append { parts, key, reuse_id } => {
            let append = append_of(&parts, key, reuse_id.map(|index| known_id(model, index)), number);
            let expected = model.append(&parts, &append, key);
            let found = match store.append(append).await {
                Ok(appended) => {
                    position_of(store, &appended).await;
                    Ok((appended.versions, appended.outcome))
                }
                Err(error) => Err(error.kind().clone()),
            };
            assert_eq!(found, expected, "append in step {number}");
        }
        Step::SaveSnapshot { stream: of, version, fingerprint } => {
            // A caller never saves a snapshot of a version that does not exist yet.
            let version = model.version(of).min(Version::new(version));
            if version > Version::ZERO {
                let event = event_at(store, &stream(of), version.get()).await;
                let snapshot =
                    Snapshot::new(version, event, fingerprint, format!("state in step {number}").into_bytes());
                store.save_snapshot(&stream(of), snapshot.clone()).await.unwrap();
                model.save(of, snapshot);
            }
        }
        Step::Replay { stream: of, after, up_to, fingerprint } => {
            let up_to = up_to.map_or(UpTo::Head, |version| UpTo::Version(Version::new(version)));
            let replay = Replay::after(Version::new(after)).with_up_to(up_to);
            let replay = fingerprint.map_or(replay, |fingerprint| replay.with_snapshot(fingerprint));
            let found = replayed(store, &stream(of), replay).await.unwrap();
            assert_eq!(found, model.replay(of, replay), "step {number}: {replay:?} of stream {of}");
        }
        Step::Read { after, limit, kinds, types } => {
            let filter = Filter::all()
                .with_aggregate_types(kinds.iter().map(|kind| AggregateType::new(kind).unwrap()))
                .with_event_types(types.iter().map(|event_type| EventType::new(event_type).unwrap()));
            let page = store.read_all(Position::new(after), limit, &filter).await.unwrap();
            let found = (page.events.iter().map(|event| event.position.get()).collect(), page.through.get());
            let expected = model.read(after, limit, |of, event| {
                (kinds.is_empty() || kinds.contains(&KINDS[of % 2]))
                    && (types.is_empty() || types.contains(&event.event_type.as_str()))
            });
            assert_eq!(found, expected, "step {number}: {limit} after {after}, {filter:?}");
        }
        Step::Newest { event_type, limit } => {
            let newest = store.newest(&EventType::new(event_type).unwrap(), limit).await.unwrap();
            let expected =
                model.log.iter().map(|(_, _, event)| event).rev().filter(|e| e.event_type.as_str() == event_type);
            assert!(newest.iter().map(|recorded| &recorded.event).eq(expected.take(limit)), "step {number}");
        }
    }
}

fn append_of(parts: &[Part], key: Option<u8>, id: Option<EventId>, step: usize) -> Append {
    let mut parts = parts.iter().map(|part| {
        let events = part.types.iter().zip(1..).map(|(event_type, number)| {
            let mut event = event(format!("event {number} for stream {} in step {step}", part.stream));
            event.event_type = EventType::new(event_type).unwrap();
            event
        });
        (stream(part.stream), part.expected, events.collect::<Vec<_>>())
    });
    let (stream, expected, mut events) = parts.next().unwrap();
    if let (Some(id), Some(last)) = (id, events.last_mut()) {
        last.id = id;
    }
    let append = parts.fold(Append::new(stream, expected, events), |append, (stream, expected, events)| {
        append.with_stream(stream, expected, events)
    });
    match key {
        Some(name) => append.with_key(key_named(name)),
        None => append,
    }
}

/// Returns the id of an event in the log, or a new id if the log is empty.
fn known_id(model: &Model, index: prop::sample::Index) -> EventId {
    if model.log.is_empty() { EventId::generate() } else { index.get(&model.log).2.id }
}

fn block_on(work: impl Future<Output = ()>) {
    runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn memory_store_agrees_with_the_model(steps in vec(step(), 1..60)) {
        block_on(compare(&MemoryStore::new(), steps));
    }

    #[test]
    fn sqlite_in_memory_agrees_with_the_model(steps in vec(step(), 1..60)) {
        block_on(async { compare(&SqliteStore::in_memory().await.unwrap(), steps).await });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 50, ..ProptestConfig::default() })]

    #[test]
    fn sqlite_in_a_file_agrees_with_the_model(steps in vec(step(), 1..60)) {
        block_on(async {
            let directory = TempDir::new().unwrap();
            let options = SqliteOptions::new().with_synchronous(Synchronous::Normal);
            let store = SqliteStore::open_with(directory.path().join("log.db"), options).await.unwrap();
            compare(&store, steps).await;
            store.close().await.unwrap();
        });
    }
}
