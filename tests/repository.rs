//! Commands: the versions they return, the number of calls they make to the store, and their errors.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt;
use proptest::prelude::*;
use retell::event::{NewEvent, RecordedEvent};
use retell::repository::{Loaded, RepositoryOptions, RetryPolicy};
use retell::store::RegisteredShape;
use retell::store::{Append, Appended, Fingerprint, KeyedOutcome, Outcome, Page, Query, Replay, Snapshot, Visitor};
use retell::{
    ClaimScope, ClaimValue, Codec, CommandError, Context, ErrorKind, Event, EventId, EventReader, EventReaderExt,
    EventStore, EventType, ExpectedVersion, Filter, IdempotencyKey, MemoryStore, Position, Repository, Result,
    SqliteStore, StreamId, UpTo, Version, async_trait,
};
use support::{Add, BelowZero, Counter, CounterEvent, Rename};
use tokio::sync::watch;

fn stream(id: &str) -> StreamId {
    StreamId::parse("counter", id).unwrap()
}

fn added(amount: i64) -> NewEvent {
    NewEvent::new(&CounterEvent::Added { amount }).unwrap()
}

fn uncached(store: impl EventStore) -> Repository<Counter> {
    Repository::new(store).with_options(RepositoryOptions::new().with_cached_aggregates(0))
}

async fn log(store: &impl EventReader) -> Vec<RecordedEvent> {
    store.read_all(Position::ZERO, usize::MAX, &Filter::all()).await.unwrap().events
}

/// Counts the calls that reach the store, and lets another process append between them.
#[derive(Debug, Clone)]
struct CountingStore {
    store: MemoryStore,
    reads: Arc<AtomicUsize>,
    appends: Arc<AtomicUsize>,
    /// The append of another process, and the number of the read that it comes before.
    rival: Option<(usize, Append)>,
}

impl CountingStore {
    fn new() -> Self {
        Self { store: MemoryStore::new(), reads: Arc::default(), appends: Arc::default(), rival: None }
    }

    async fn count_read(&self) -> Result<()> {
        let number = self.reads.fetch_add(1, Ordering::SeqCst);
        if let Some((before, append)) = &self.rival
            && *before == number
        {
            self.store.append(append.clone()).await?;
        }
        Ok(())
    }

    fn counts(&self) -> (usize, usize) {
        (self.reads.load(Ordering::SeqCst), self.appends.load(Ordering::SeqCst))
    }
}

#[async_trait]
impl EventReader for CountingStore {
    async fn replay(&self, stream: &StreamId, replay: Replay, visitor: &mut dyn Visitor) -> Result<()> {
        self.count_read().await?;
        self.store.replay(stream, replay, visitor).await
    }

    async fn read(&self, query: Query<'_>) -> Result<Page> {
        self.count_read().await?;
        self.store.read(query).await
    }

    async fn head(&self) -> Result<Position> {
        self.store.head().await
    }

    async fn position_of(&self, token: retell::Token) -> Result<Option<Position>> {
        self.store.position_of(token).await
    }

    async fn registered_shapes(&self) -> Result<Vec<RegisteredShape>> {
        self.store.registered_shapes().await
    }

    async fn next_event_type(&self, after: Option<&EventType>) -> Result<Option<EventType>> {
        self.store.next_event_type(after).await
    }

    fn watch_head(&self) -> watch::Receiver<Position> {
        self.store.watch_head()
    }
}

#[async_trait]
impl EventStore for CountingStore {
    async fn save_snapshot(&self, stream: &StreamId, snapshot: Snapshot) -> Result<()> {
        self.store.save_snapshot(stream, snapshot).await
    }

    async fn append(&self, append: Append) -> Result<Appended> {
        self.appends.fetch_add(1, Ordering::SeqCst);
        self.store.append(append).await
    }

    async fn find_by_key(&self, key: &IdempotencyKey) -> Result<Option<KeyedOutcome>> {
        self.count_read().await?;
        self.store.find_by_key(key).await
    }

    async fn holder(&self, scope: &ClaimScope, value: &ClaimValue) -> Result<Option<StreamId>> {
        self.count_read().await?;
        self.store.holder(scope, value).await
    }

    async fn register_shapes(&self, shapes: &[RegisteredShape]) -> Result<()> {
        self.store.register_shapes(shapes).await
    }

    async fn close(&self) -> Result<()> {
        self.store.close().await
    }
}

#[tokio::test]
async fn a_command_on_a_hot_aggregate_is_one_append_and_no_read() {
    let store = CountingStore::new();
    let counters = Repository::<Counter>::new(store.clone());
    counters.execute("a", Add(vec![1])).await.unwrap();
    assert_eq!(store.counts(), (1, 1), "the first command loads");
    for _ in 0..20 {
        counters.execute("a", Add(vec![1])).await.unwrap();
    }
    assert_eq!(store.counts(), (1, 21));
}

#[tokio::test]
async fn without_a_cache_each_command_loads() {
    let store = CountingStore::new();
    let counters = uncached(store.clone());
    for _ in 0..3 {
        counters.execute("a", Add(vec![1])).await.unwrap();
    }
    assert_eq!(store.counts(), (3, 3));
}

#[tokio::test]
async fn a_conflict_with_another_process_reloads_and_decides_again() {
    let store = CountingStore::new();
    let (here, there) = (Repository::<Counter>::new(store.clone()), Repository::<Counter>::new(store.clone()));
    here.execute("a", Add(vec![1])).await.unwrap();
    there.execute("a", Add(vec![10])).await.unwrap();
    let executed = here.execute("a", Add(vec![100])).await.unwrap();
    assert_eq!(executed.version, Version::new(3));
    assert_eq!(there.load("a").await.unwrap().state.total, 111);
}

#[tokio::test]
async fn the_conflict_after_the_last_retry_names_the_versions() {
    let store = MemoryStore::new();
    let retry = RetryPolicy::new().with_retries(0);
    let options = RepositoryOptions::new().with_retry(retry);
    let counters = Repository::<Counter>::new(store.clone()).with_options(options);
    counters.execute("a", Add(vec![1])).await.unwrap();
    store.append(Append::new(stream("a"), ExpectedVersion::Any, vec![added(5)])).await.unwrap();
    let error = counters.execute("a", Add(vec![1])).await.unwrap_err();
    let CommandError::Conflict(error) = error else { panic!("not a conflict: {error}") };
    let expected = ExpectedVersion::Exact(Version::new(1));
    assert_eq!(*error.kind(), ErrorKind::Conflict { stream: stream("a"), expected, actual: Version::new(2) });
    assert_eq!(log(&store).await.len(), 2, "nothing was written");
}

#[tokio::test]
async fn a_refusal_is_decided_on_the_newest_state() {
    let store = MemoryStore::new();
    let counters = Repository::<Counter>::new(store.clone());
    counters.execute("a", Add(vec![1])).await.unwrap();
    store.append(Append::new(stream("a"), ExpectedVersion::Any, vec![added(50)])).await.unwrap();
    // The cached state is too old to allow this.
    counters.execute("a", Add(vec![-40])).await.unwrap();
    let error = counters.execute("a", Add(vec![-40])).await.unwrap_err();
    assert!(matches!(error, CommandError::Rejected(BelowZero(11))), "{error}");
    assert_eq!(log(&store).await.len(), 3);
}

#[tokio::test]
async fn a_command_with_nothing_to_do_writes_nothing() {
    let store = CountingStore::new();
    let counters = Repository::<Counter>::new(store.clone());
    counters.execute("a", Add(vec![1])).await.unwrap();
    let executed = counters.execute("a", Add(vec![])).await.unwrap();
    assert_eq!(executed.version, Version::new(1));
    assert_eq!(store.counts().1, 1);
    assert_eq!(executed.token, retell::store::Token::default());
}

#[tokio::test]
async fn a_command_with_a_key_is_executed_once() {
    let store = MemoryStore::new();
    let counters = Repository::<Counter>::new(store.clone());
    let context = Context::new().with_key(IdempotencyKey::new("request 7").unwrap());
    let first = counters.execute_with("a", Add(vec![3]), context.clone()).await.unwrap();
    counters.execute("a", Add(vec![1])).await.unwrap();
    let second = counters.execute_with("a", Add(vec![3]), context.clone()).await.unwrap();
    assert_eq!((first.outcome, second.outcome), (Outcome::Written, Outcome::Repeated));
    assert_eq!((first.version, first.token), (second.version, second.token));
    assert_eq!((first.last_event, second.last_event), (Some(log(&store).await[0].event.id), None));
    assert_eq!(counters.load("a").await.unwrap().state.total, 4);
    let error = counters.execute_with("b", Add(vec![3]), context).await.unwrap_err();
    let CommandError::Failed(error) = error else { panic!("{error}") };
    assert!(matches!(error.kind(), ErrorKind::KeyReused(_)), "{error}");
}

#[tokio::test]
async fn a_repeated_command_is_not_refused() {
    let counters = Repository::<Counter>::new(MemoryStore::new());
    counters.execute("a", Add(vec![5])).await.unwrap();
    let context = Context::new().with_key(IdempotencyKey::new("take all").unwrap());
    let first = counters.execute_with("a", Add(vec![-5]), context.clone()).await.unwrap();
    // By now the same command would fall below zero.
    let second = counters.execute_with("a", Add(vec![-5]), context).await.unwrap();
    assert_eq!((second.version, second.outcome), (first.version, Outcome::Repeated));
    assert!(matches!(counters.execute("a", Add(vec![-5])).await, Err(CommandError::Rejected(BelowZero(0)))));
}

/// The cached state is older than the counter's only event, and another process executes the same command before read
/// `before`.
#[tokio::test]
async fn a_refusal_looks_up_its_key_after_reading_the_state() {
    for before in 1..6 {
        let key = IdempotencyKey::new("take five").unwrap();
        let rival = Append::new(stream("a"), ExpectedVersion::Any, vec![added(-5)]).with_key(key.clone());
        let rival = rival.with_fingerprint(fingerprint_of_a_command().await);
        let store = CountingStore { rival: Some((before, rival)), ..CountingStore::new() };
        let counters = Repository::<Counter>::new(store.clone());
        counters.load("a").await.unwrap();
        store.append(Append::new(stream("a"), ExpectedVersion::Any, vec![added(5)])).await.unwrap();
        let executed = counters.execute_with("a", Add(vec![-5]), Context::new().with_key(key)).await;
        assert_eq!(executed.unwrap().version, Version::new(2), "before read {before}");
        assert_eq!(counters_total(&store.store).await, 0);
    }
}

/// Returns the fingerprint that every command `Add` has under a key.
async fn fingerprint_of_a_command() -> Fingerprint {
    let (store, key) = (MemoryStore::new(), IdempotencyKey::new("any").unwrap());
    let counters = Repository::<Counter>::new(store.clone());
    counters.execute_with("a", Add(vec![1]), Context::new().with_key(key.clone())).await.unwrap();
    store.find_by_key(&key).await.unwrap().unwrap().fingerprint
}

#[tokio::test]
async fn a_key_adds_no_read_on_a_hot_aggregate() {
    let store = CountingStore::new();
    let counters = Repository::<Counter>::new(store.clone());
    counters.execute("a", Add(vec![1])).await.unwrap();
    let context = Context::new().with_key(IdempotencyKey::new("once").unwrap());
    counters.execute_with("a", Add(vec![1]), context).await.unwrap();
    assert_eq!(store.counts(), (1, 2));
}

#[tokio::test]
async fn concurrent_commands_with_one_key_write_once() {
    let store = MemoryStore::new();
    let repositories: Vec<_> = (0..8).map(|_| Repository::<Counter>::new(store.clone())).collect();
    let context = Context::new().with_key(IdempotencyKey::new("once").unwrap());
    let calls = repositories.iter().map(|counters| counters.execute_with("a", Add(vec![3]), context.clone()));
    let outcomes = futures::future::join_all(calls).await;
    let written = outcomes.iter().filter(|executed| executed.as_ref().unwrap().outcome == Outcome::Written);
    assert_eq!(written.count(), 1);
    for counters in &repositories {
        counters.execute("a", Add(vec![1])).await.unwrap();
    }
    assert_eq!(counters_total(&store).await, 3 + 8);
}

async fn counters_total(store: &MemoryStore) -> i64 {
    uncached(store.clone()).load("a").await.unwrap().state.total
}

#[tokio::test]
async fn correlation_and_causation_follow_the_chain() {
    let store = MemoryStore::new();
    let counters = Repository::<Counter>::new(store.clone());
    let context = Context::new().with_source("shop").with_entry("tenant", "7");
    counters.execute_with("a", Add(vec![1, 2]), context).await.unwrap();
    let cause = log(&store).await[1].decode::<CounterEvent>().unwrap();
    counters.execute_with("b", Add(vec![3]), Context::caused_by(&cause)).await.unwrap();
    let named = Context::new().with_causation(cause.id);
    counters.execute_with("c", Add(vec![4]), named).await.unwrap();
    let events = log(&store).await;
    let metadata: Vec<_> = events.iter().map(|recorded| &recorded.event.metadata).collect();
    assert_eq!(
        metadata[0].correlation_id,
        Some(events[0].event.id.into()),
        "the first event's id is the correlation id"
    );
    assert_eq!(metadata[1].correlation_id, metadata[0].correlation_id);
    assert_eq!(metadata[2].correlation_id, metadata[0].correlation_id);
    assert_eq!(metadata[2].causation_id, Some(events[1].event.id));
    assert_eq!(metadata[3].causation_id, Some(events[1].event.id));
    assert_eq!(metadata[0].source.as_deref(), Some("shop"));
    assert_eq!(metadata[0].extra["tenant"], "7");
}

#[tokio::test]
async fn sixty_four_tasks_on_eight_hot_aggregates_lose_no_update() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("log.db")).await.unwrap();
    // Two repositories, as two processes would have.
    let repositories = [Repository::<Counter>::new(store.clone()), Repository::<Counter>::new(store.clone())];
    let tasks = (0..64).map(|task: usize| {
        let counters = repositories[task % 2].clone();
        let id = format!("hot {}", task % 8);
        tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for _ in 0..20 {
                match counters.execute(&id, Add(vec![1])).await {
                    Ok(executed) => acknowledged.push((id.clone(), executed.version)),
                    Err(CommandError::Conflict(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            acknowledged
        })
    });
    let acknowledged: Vec<_> =
        futures::future::join_all(tasks).await.into_iter().flat_map(|task| task.unwrap()).collect();
    let events = log(&store).await;
    let in_log: HashSet<_> =
        events.iter().map(|event| (event.stream.aggregate_id().as_str().to_owned(), event.version)).collect();
    assert_eq!(acknowledged.iter().cloned().collect::<HashSet<_>>(), in_log);
    assert_eq!(acknowledged.len(), events.len(), "each Ok is in the log exactly once");
    assert!(events.iter().zip(1..).all(|(event, position)| event.position == Position::new(position)));
    for task in 0..8 {
        let id = format!("hot {task}");
        let counter = repositories[0].load(&id).await.unwrap();
        assert_eq!(counter.version.get(), counter.state.events);
        assert_eq!(
            counter.state.events,
            events.iter().filter(|e| e.stream.aggregate_id().as_str() == id).count() as u64
        );
    }
}

#[tokio::test]
async fn a_dropped_command_leaves_store_and_cache_consistent() {
    let store = MemoryStore::new();
    let counters = Repository::<Counter>::new(store.clone());
    counters.execute("a", Add(vec![1])).await.unwrap();
    for polls in 0..6 {
        let mut command = Box::pin(counters.execute("a", Add(vec![1])));
        for _ in 0..polls {
            if (&mut command).now_or_never().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(command);
        let before = uncached(store.clone()).load("a").await.unwrap();
        counters.execute("a", Add(vec![100])).await.unwrap();
        let after = uncached(store.clone()).load("a").await.unwrap();
        let dropped = after.version.since(before.version) - 1;
        assert!(dropped <= 1, "the dropped command wrote at most once");
        assert_eq!(after.state.total, before.state.total + 100 + i64::try_from(dropped).unwrap());
        assert_eq!(counters.load("a").await.unwrap().state, after.state);
    }
}

async fn plant(store: &MemoryStore, event_type: &str, schema_version: u32, codec: Codec, payload: &'static [u8]) {
    let event = NewEvent::stored(
        EventId::generate(),
        EventType::new(event_type).unwrap(),
        schema_version,
        codec,
        payload.into(),
    );
    let append = Append::new(stream("a"), ExpectedVersion::Any, vec![added(7), event]);
    store.append(append).await.unwrap();
}

#[tokio::test]
async fn an_undecodable_event_is_an_error_and_not_an_empty_state() {
    let (stream, version) = (stream("a"), Version::new(2));
    let kind = |event_type| (stream.clone(), version, EventType::new(event_type).unwrap());
    let cases = [
        ("counter.gone", 1, Codec::Json, &b"{}"[..]),
        ("counter.added", 2, Codec::Json, b"{}"),
        ("counter.added", 1, Codec::Json, b"{\"amount\":\"x\"}"),
        ("counter.renamed", 1, Codec::Compact, b"\x09abc"),
    ];
    for (event_type, schema_version, codec, payload) in cases {
        let store = MemoryStore::new();
        plant(&store, event_type, schema_version, codec, payload).await;
        let counters = Repository::<Counter>::new(store.clone());
        let (stream, version, event_type) = kind(event_type);
        let expected = match (event_type.as_str(), schema_version) {
            ("counter.gone", _) => ErrorKind::UnknownEventType { stream, version, event_type },
            (_, 2) => ErrorKind::UnknownSchema { stream, version, event_type, found: 2, known: 1 },
            _ => ErrorKind::Undecodable { stream, version, event_type },
        };
        assert_eq!(*counters.load("a").await.unwrap_err().kind(), expected);
        let error = counters.execute("a", Add(vec![1])).await.unwrap_err();
        assert!(matches!(&error, CommandError::Corrupt(inner) if *inner.kind() == expected), "{error}");
        assert_eq!(log(&store).await.len(), 2, "nothing was written");
    }
}

#[tokio::test]
async fn invalid_ids_are_refused() {
    let counters = Repository::<Counter>::new(MemoryStore::new());
    for id in [String::new(), "a\0b".to_owned(), "x".repeat(1024 * 1024)] {
        let error = counters.execute(id.clone(), Add(vec![1])).await.unwrap_err();
        assert!(matches!(&error, CommandError::Failed(e) if matches!(e.kind(), ErrorKind::Invalid(_))), "{error}");
        assert!(matches!(counters.load(id).await.unwrap_err().kind(), ErrorKind::Invalid(_)));
    }
}

#[tokio::test]
async fn an_undecodable_snapshot_is_skipped_and_counted() {
    let store = MemoryStore::new();
    for amount in 1..=6 {
        store.append(Append::new(stream("a"), ExpectedVersion::Any, vec![added(amount)])).await.unwrap();
    }
    let fingerprint = <Counter as retell::Aggregate>::fingerprint();
    let fourth = retell::testing::store::event_at(&store, &stream("a"), 4).await;
    let snapshot = Snapshot::new(Version::new(4), fourth, fingerprint, b"{\"total\":".to_vec());
    store.save_snapshot(&stream("a"), snapshot).await.unwrap();
    let counters = Repository::<Counter>::new(store);
    assert_eq!(counters.load("a").await.unwrap().state.total, 21);
    assert_eq!(counters.snapshot_failures(), 1);
}

#[tokio::test]
async fn a_snapshot_of_another_shape_is_never_read() {
    let store = MemoryStore::new();
    store.append(Append::new(stream("a"), ExpectedVersion::Any, vec![added(1)])).await.unwrap();
    let fingerprint = <Counter as retell::Aggregate>::fingerprint() ^ 1;
    let state = br#"{"total":99,"events":99,"name":""}"#.to_vec();
    let first = retell::testing::store::event_at(&store, &stream("a"), 1).await;
    store.save_snapshot(&stream("a"), Snapshot::new(Version::new(1), first, fingerprint, state)).await.unwrap();
    assert_eq!(Repository::<Counter>::new(store).load("a").await.unwrap().state.total, 1);
}

/// Records the versions that a replay visits, and the version of the snapshot.
struct Replayed(Vec<Version>, Option<Version>);

impl Visitor for Replayed {
    fn snapshot(&mut self, version: Version, _: retell::EventId, _: &[u8]) -> Result<()> {
        self.1 = Some(version);
        Ok(())
    }

    fn event(&mut self, version: Version, _: retell::EventId, _: retell::event::StoredEvent<'_>) -> Result<()> {
        self.0.push(version);
        Ok(())
    }
}

#[tokio::test]
async fn snapshots_are_written_by_policy_and_shorten_the_load() {
    let store = MemoryStore::new();
    let counters = Repository::<Counter>::new(store.clone());
    for _ in 0..12 {
        counters.execute("a", Add(vec![1])).await.unwrap();
        counters.flush().await;
    }
    let mut replayed = Replayed(Vec::new(), None);
    let replay = Replay::ALL.with_snapshot(<Counter as retell::Aggregate>::fingerprint());
    store.replay(&stream("a"), replay, &mut replayed).await.unwrap();
    assert_eq!((replayed.1, replayed.0), (Some(Version::new(10)), vec![Version::new(11), Version::new(12)]));
    assert_eq!(counters.snapshot_failures(), 0);
}

/// One step of a random history, on one of three counters.
#[derive(Debug, Clone)]
enum Step {
    Add(usize, Vec<i64>),
    Rename(usize),
    AppendElsewhere(usize, i64),
    Load(usize),
    LoadVersion(usize, u64),
    LoadTime(usize, usize),
    Evict,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let counter = 0..3usize;
    let step = prop_oneof![
        4 => (counter.clone(), prop::collection::vec(-3..10i64, 0..4)).prop_map(|(c, amounts)| Step::Add(c, amounts)),
        1 => counter.clone().prop_map(Step::Rename),
        2 => (counter.clone(), 0..5i64).prop_map(|(c, amount)| Step::AppendElsewhere(c, amount)),
        1 => counter.clone().prop_map(Step::Load),
        1 => (counter.clone(), 0..20u64).prop_map(|(c, version)| Step::LoadVersion(c, version)),
        1 => (counter, 0..20usize).prop_map(|(c, event)| Step::LoadTime(c, event)),
        1 => Just(Step::Evict),
    ];
    prop::collection::vec(step, 1..40)
}

fn fold(events: &[CounterEvent]) -> Counter {
    let mut state = Counter::default();
    for event in events {
        retell::Aggregate::apply(&mut state, event.clone());
    }
    state
}

fn assert_same(loaded: &Loaded<Counter>, events: &[CounterEvent]) {
    assert_eq!(loaded.version.get(), events.len() as u64);
    assert_eq!(loaded.state, fold(events));
}

async fn run_steps(store: impl EventStore + Clone, steps: Vec<Step>) {
    let mut counters = Repository::<Counter>::new(store.clone());
    let mut model: HashMap<usize, Vec<CounterEvent>> = HashMap::new();
    for step in steps {
        match step {
            Step::Add(counter, amounts) => {
                let events = model.entry(counter).or_default();
                let decided = retell::Handle::handle(&fold(events), &Add(amounts.clone()));
                match (counters.execute(format!("c{counter}"), Add(amounts)).await, decided) {
                    (Ok(executed), Ok(new)) => {
                        events.extend(new);
                        assert_eq!(executed.version.get(), events.len() as u64);
                    }
                    (Err(CommandError::Rejected(refusal)), Err(expected)) => assert_eq!(refusal, expected),
                    (executed, decided) => panic!("the repository returned {executed:?}, the model {decided:?}"),
                }
            }
            Step::Rename(counter) => {
                counters.execute(format!("c{counter}"), Rename("x")).await.unwrap();
                model.entry(counter).or_default().push(CounterEvent::Renamed("x".into()));
            }
            // Another process appends, and the cache does not see it.
            Step::AppendElsewhere(counter, amount) => {
                let append = Append::new(stream(&format!("c{counter}")), ExpectedVersion::Any, vec![added(amount)]);
                store.append(append).await.unwrap();
                model.entry(counter).or_default().push(CounterEvent::Added { amount });
            }
            Step::Load(counter) => {
                assert_same(&counters.load(format!("c{counter}")).await.unwrap(), model.entry(counter).or_default());
            }
            Step::LoadVersion(counter, version) => {
                let events = model.entry(counter).or_default();
                let prefix = &events[..events.len().min(usize::try_from(version).unwrap())];
                let at = UpTo::Version(Version::new(version));
                assert_same(&counters.load_at(format!("c{counter}"), at).await.unwrap(), prefix);
            }
            Step::LoadTime(counter, event) => {
                let id = format!("c{counter}");
                let recorded: Vec<_> =
                    log(&store).await.into_iter().filter(|e| e.stream.aggregate_id().as_str() == id).collect();
                let Some(moment) = recorded.get(event).map(|event| event.recorded_at) else { continue };
                let count = recorded.iter().filter(|event| event.recorded_at <= moment).count();
                let loaded = counters.load_at(id, UpTo::Time(moment)).await.unwrap();
                assert_same(&loaded, &model.entry(counter).or_default()[..count]);
            }
            Step::Evict => {
                counters.flush().await;
                counters = Repository::new(store.clone());
            }
        }
    }
    for (counter, events) in model {
        assert_same(&uncached(store.clone()).load(format!("c{counter}")).await.unwrap(), &events);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_history_equals_the_fold_of_its_events(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            run_steps(MemoryStore::new(), steps.clone()).await;
            run_steps(SqliteStore::in_memory().await.unwrap(), steps).await;
        });
    }

    #[test]
    fn every_event_round_trips_through_its_stored_form(amount: i64, name: String) {
        for event in [CounterEvent::Added { amount }, CounterEvent::Renamed(name)] {
            let schema = event.schema();
            let new = NewEvent::new(&event).unwrap();
            prop_assert_eq!(new.codec, schema.codec);
            let stored =
                retell::event::StoredEvent::new(new.event_type.as_str(), new.schema_version, new.codec, &new.payload);
            prop_assert_eq!(CounterEvent::decode(stored).unwrap(), event);
        }
    }
}
