//! Views: their rows are the fold of the events under all faults. Needs `POSTGRES_URL` and `MYSQL_URL`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::large_futures, reason = "a test may hold many workers in its future")]

#[path = "support/databases.rs"]
mod databases;
mod support;
#[path = "support/workers.rs"]
mod workers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use databases::{Database, Place};
use futures::{FutureExt, poll};
use retell::event::NewEvent;
use retell::relay::RelayOptions;
use retell::store::{Append, Fields, Step, Switch, ViewId, ViewRow, Work};
use retell::testing::faulty::{Fault, FaultyBroker};
use retell::testing::given_log;
use retell::view::{Paging, ViewProjection};
use retell::worker::WorkerOptions;
use retell::{
    Envelope, ErrorKind, EventStore, ExpectedVersion, Generation, MemoryBroker, MemoryReadModel, MemoryStore,
    MySqlReadModel, Position, PostgresReadModel, Projection, ProjectionName, ReadModel, Relay, Result, SqliteReadModel,
    StreamId, View, ViewKey, ViewStore, Views, Worker,
};
use serde::{Deserialize, Serialize};
use support::CounterEvent;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use workers::{reached, while_running};

/// Counts how often each amount was added, to any counter. The row is deleted at a count of five and starts again.
#[derive(Debug, Clone, Copy)]
struct Amounts;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, retell::Shape)]
struct Times {
    times: u64,
}

impl View for Amounts {
    const NAME: &'static str = "amounts";
    type Event = CounterEvent;
    type State = Times;

    fn key(&self, event: &Envelope<CounterEvent>) -> Option<String> {
        match &event.event {
            CounterEvent::Added { amount } => Some(amount.to_string()),
            CounterEvent::Renamed(_) => None,
        }
    }

    fn apply(&self, state: &mut Times, _: Envelope<CounterEvent>) {
        state.times += 1;
    }

    fn keep(&self, state: &Times) -> bool {
        state.times < 5
    }

    fn fields(&self, state: &Times) -> Fields {
        Fields::new().with("times", state.times)
    }
}

/// Stores each name under a key that the event determines. The name is also a field.
#[derive(Debug, Clone, Copy)]
struct Names;

impl View for Names {
    const NAME: &'static str = "names";
    type Event = CounterEvent;
    type State = String;

    fn key(&self, event: &Envelope<CounterEvent>) -> Option<String> {
        match &event.event {
            CounterEvent::Renamed(name) => Some(name.trim_start_matches('#').to_owned()),
            CounterEvent::Added { .. } => Some("added".into()),
        }
    }

    fn apply(&self, state: &mut String, event: Envelope<CounterEvent>) {
        *state = match event.event {
            CounterEvent::Renamed(name) => name,
            CounterEvent::Added { amount } => amount.to_string(),
        };
    }

    fn fields(&self, name: &String) -> Fields {
        Fields::new().with("name", name).with("length", name.len())
    }
}

fn name(view: &impl View) -> ProjectionName {
    ProjectionName::new(view.name()).unwrap()
}

/// Short sweeps and delays keep the tests fast; no assertion depends on them.
fn eager() -> WorkerOptions {
    let brief = Duration::from_millis(5);
    WorkerOptions::new().with_sweep(brief).with_longest_delay(brief).with_retries(1).with_batch_events(64)
}

async fn append(store: &MemoryStore, id: &str, event: CounterEvent) {
    let event = NewEvent::new(&event).unwrap();
    let stream = StreamId::parse("counter", id).unwrap();
    store.append(Append::new(stream, ExpectedVersion::Any, vec![event])).await.unwrap();
}

async fn add(store: &MemoryStore, id: &str, amount: i64) {
    append(store, id, CounterEvent::Added { amount }).await;
}

async fn rename(store: &MemoryStore, id: &str, name: &str) {
    append(store, id, CounterEvent::Renamed(name.into())).await;
}

async fn all<V: View, M: ViewStore>(views: &Views<V, M>) -> BTreeMap<String, V::State> {
    let mut rows = BTreeMap::new();
    let mut paging = Paging::first(7);
    loop {
        let found = views.all(paging.clone()).await.unwrap();
        rows.extend(found.rows.into_iter().map(|(key, state)| (key.to_string(), state)));
        match found.next {
            Some(next) => paging = paging.after(next),
            None => return rows,
        }
    }
}

/// Drops, doubles, delays and garbles frames in turn.
fn faults() -> impl Iterator<Item = Fault> {
    let faults = [Fault::Drop, Fault::Deliver, Fault::Double, Fault::Late, Fault::Junk, Fault::Deliver];
    faults.into_iter().chain([Fault::LoseConfirm, Fault::Refuse]).cycle().take(400)
}

const EVENTS: i64 = 1_500;

/// Applies events from the store and from the broker, with workers that share the work or are on standby.
async fn equals_the_fold<M>(models: M, shared: [Worker<ViewProjection<Amounts, M>, M>; 3], store: &MemoryStore)
where
    M: ViewStore + Clone,
{
    let broker = FaultyBroker::new(MemoryBroker::new(), faults());
    let workers = shared.map(|worker| worker.with_broker(broker.clone()).with_options(eager()));
    let event = |number: i64| (format!("{}", number * number % 23), (number * 7 + number / 5) % 60);
    let mut expected: BTreeMap<String, Times> = BTreeMap::new();
    for (_, amount) in (0..EVENTS).map(event) {
        expected.entry(amount.to_string()).or_default().times += 1;
    }
    for times in expected.values_mut() {
        times.times %= 5;
    }
    expected.retain(|_, times| times.times > 0);
    let write = async |numbers: std::ops::Range<i64>| {
        for (id, amount) in numbers.map(event) {
            add(store, &id, amount).await;
        }
    };
    write(0..EVENTS / 2).await;
    let stop = CancellationToken::new();
    let relay = Relay::new(store.clone(), broker.clone()).with_options(RelayOptions::new().with_frame_events(3));
    let (relayed, ()) = tokio::join!(relay.run(stop.clone()), async {
        let done = async {
            write(EVENTS / 2..EVENTS).await;
            reached(&models, &name(&Amounts), EVENTS.cast_unsigned()).await;
        };
        while_running(&workers, done).await;
        stop.cancel();
    });
    relayed.unwrap();
    let views = Views::new(&Amounts, models);
    assert_eq!(all(&views).await, expected);
    for times in 1..5 {
        let found = views.find("times", times, Paging::first(100)).await.unwrap();
        let with: Vec<_> =
            expected.iter().filter(|(_, state)| state.times == times).map(|(key, _)| key.clone()).collect();
        assert_eq!(found.rows.iter().map(|(key, _)| key.to_string()).collect::<Vec<_>>(), with);
    }
    let before = expected.get("1").map_or(0, |times| times.times);
    add(store, "0", 1).await;
    let caught_up = workers[0].catch_up().await.unwrap();
    assert_eq!(caught_up.position.get(), EVENTS.cast_unsigned() + 1, "without a broker");
    assert!(caught_up.is_complete(), "{caught_up:?}");
    assert_eq!(all(&views).await.get("1").map_or(0, |times| times.times), (before + 1) % 5);
}

async fn in_both_orders<M: ViewStore + Clone>(models: impl AsyncFn() -> M) {
    let worker = |store: &MemoryStore, models: &M| Worker::view(Amounts, store.clone(), models.clone());
    let (store, in_log_order) = (MemoryStore::new(), models().await);
    equals_the_fold(in_log_order.clone(), [(); 3].map(|()| worker(&store, &in_log_order)), &store).await;
    let (store, per_aggregate) = (MemoryStore::new(), models().await);
    let workers = [(); 3].map(|()| worker(&store, &per_aggregate).with_order_per_aggregate());
    equals_the_fold(per_aggregate, workers, &store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_the_fold_of_all_events_under_faults_in_memory() {
    in_both_orders(async || MemoryReadModel::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_the_fold_of_all_events_under_faults_in_sqlite() {
    let folder = tempfile::TempDir::new().unwrap();
    let files = std::sync::atomic::AtomicU32::new(0);
    in_both_orders(async || {
        let number = files.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        SqliteReadModel::open(folder.path().join(number.to_string())).await.unwrap()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_the_fold_of_all_events_under_faults_in_postgres() {
    let databases = [Database::postgres().await, Database::postgres().await];
    let next = std::sync::atomic::AtomicUsize::new(0);
    in_both_orders(async || {
        let number = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let Place::Postgres(url) = &databases[number].place else { unreachable!("a PostgreSQL database") };
        PostgresReadModel::connect(url).await.unwrap()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_the_fold_of_all_events_under_faults_in_mysql() {
    let databases = [Database::mysql().await, Database::mysql().await];
    let next = std::sync::atomic::AtomicUsize::new(0);
    in_both_orders(async || {
        let number = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let Place::MySql(url) = &databases[number].place else { unreachable!("a MySQL database") };
        MySqlReadModel::connect(url).await.unwrap()
    })
    .await;
}

#[tokio::test]
async fn an_event_with_an_invalid_row_parks_only_its_aggregate() {
    let long = "ü".repeat(128);
    let cases = [
        ("#".to_owned(), "view key is empty"),
        (long.clone(), "view key has 256 bytes, at most 255 are allowed"),
        ("a\0b".to_owned(), "view key contains a NUL character"),
        ("#".to_owned() + &"x".repeat(255), "its value has 256 bytes, at most 255 are allowed"),
    ];
    let (store, models) = (MemoryStore::new(), SqliteReadModel::in_memory().await.unwrap());
    for (number, (text, _)) in cases.iter().enumerate() {
        rename(&store, "fine", &format!("before {number}")).await;
        rename(&store, &format!("bad {number}"), text).await;
        rename(&store, &format!("bad {number}"), "never").await;
        rename(&store, "fine", &"y".repeat(255)).await;
    }
    let worker = [Worker::view(Names, store.clone(), models.clone()).with_options(eager())];
    while_running(&worker, reached(&models, &name(&Names), 16)).await;
    let parked = models.parking(&name(&Names)).await.unwrap().parked;
    assert_eq!(parked.len(), cases.len());
    for (parked, (number, (_, error))) in parked.iter().zip(cases.iter().enumerate()) {
        assert_eq!(parked.stream.aggregate_id().as_str(), format!("bad {number}"));
        assert!(parked.error.contains(error), "{}", parked.error);
    }
    let rows = all(&Views::new(&Names, models)).await;
    assert_eq!(rows.len(), 5, "{rows:?}");
    assert!(!rows.contains_key("never"));
}

/// Simulates a change of the state type that existing rows do not match.
#[tokio::test]
async fn a_row_of_another_state_is_an_error_and_unchanged() {
    #[derive(Debug)]
    struct Changed;

    impl View for Changed {
        const NAME: &'static str = "names";
        type Event = CounterEvent;
        type State = u64;

        fn key(&self, event: &Envelope<CounterEvent>) -> Option<String> {
            Names.key(event)
        }

        fn apply(&self, state: &mut u64, _: Envelope<CounterEvent>) {
            *state += 1;
        }
    }

    let (store, models) = (MemoryStore::new(), SqliteReadModel::in_memory().await.unwrap());
    rename(&store, "a", "Ada").await;
    let worker = [Worker::view(Names, store.clone(), models.clone()).with_options(eager())];
    while_running(&worker, reached(&models, &name(&Names), 1)).await;
    rename(&store, "b", "Bob").await;
    rename(&store, "a", "Ada").await;
    let refused = Worker::view(Changed, store.clone(), models.clone()).catch_up().await.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::StateChanged { .. }), "{refused:#}");
    assert!(format!("{refused:#}").contains("the state under Ada cannot be decoded"), "{refused:#}");
    assert!(models.parking(&name(&Names)).await.unwrap().parked.is_empty());
    let views = Views::new(&Changed, models.clone());
    assert_eq!(views.get("Bob").await.unwrap(), None);
    assert!(matches!(views.get("Ada").await.unwrap_err().kind(), ErrorKind::Corrupt(_)));
    assert_eq!(Views::new(&Names, models).get("Ada").await.unwrap(), Some("Ada".into()));
}

#[tokio::test]
async fn rows_are_read_by_key_by_field_and_in_pages() {
    let (store, models) = (MemoryStore::new(), SqliteReadModel::in_memory().await.unwrap());
    for text in ["Ada", "Bob", "Cy", "#Cy", "Dora", "Eve"] {
        rename(&store, text, text).await;
    }
    let worker = [Worker::view(Names, store.clone(), models.clone()).with_options(eager())];
    while_running(&worker, reached(&models, &name(&Names), 6)).await;
    let views = Views::new(&Names, models);
    assert_eq!((views.get("Cy").await.unwrap(), views.get("Zoë").await.unwrap()), (Some("#Cy".into()), None));
    let many = views.get_many(["Eve", "Zoë", "Ada", "Eve"]).await.unwrap();
    assert_eq!(many.into_values().collect::<Vec<_>>(), ["Ada", "Eve"]);
    assert!(matches!(views.get("").await.unwrap_err().kind(), ErrorKind::Invalid(_)));
    let first = views.find("length", 3, Paging::first(2)).await.unwrap();
    assert_eq!(first.rows.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>(), ["Ada", "Bob"]);
    let rest = views.find("length", 3, Paging::first(2).after(first.next.unwrap())).await.unwrap();
    assert_eq!(rest.rows.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>(), ["#Cy", "Eve"]);
    assert_eq!(rest.next, None, "a last page that is full has no next page");
    let some = views.all(Paging::first(0)).await.unwrap();
    assert_eq!((some.rows.len(), some.next), (1, Some(ViewKey::new("Ada").unwrap())));
    assert!(views.find("name", "Cy", Paging::first(9)).await.unwrap().rows.is_empty(), "its name was changed");
}

/// Stores only that a row exists: its state keeps its default.
struct Named;

impl View for Named {
    const NAME: &'static str = "named";
    type Event = CounterEvent;
    type State = ();

    fn key(&self, event: &Envelope<CounterEvent>) -> Option<String> {
        Some(event.stream.aggregate_id().to_string())
    }

    fn apply(&self, (): &mut (), _: Envelope<CounterEvent>) {}
}

#[test]
fn a_row_in_its_default_state_is_still_a_row() {
    let named = || CounterEvent::Renamed("a".into());
    given_log([("counter/1", named())]).then_row(&Named, "1", ()).then_no_row(&Named, "2");
    // An `Arc` of a view is the same view.
    given_log([("counter/1", named())]).then_row(&Arc::new(Named), "1", ());
}

#[tokio::test]
async fn a_name_that_looks_like_a_generation_is_refused() {
    #[derive(Debug)]
    struct At;

    impl View for At {
        const NAME: &'static str = "names@2";
        type Event = CounterEvent;
        type State = ();

        fn key(&self, _: &Envelope<CounterEvent>) -> Option<String> {
            None
        }

        fn apply(&self, (): &mut (), _: Envelope<CounterEvent>) {}
    }

    async fn run(worker: Worker<impl Projection<Tx = ()>, MemoryReadModel>) -> Result<()> {
        worker.run(CancellationToken::new()).await
    }

    let models = MemoryReadModel::new();
    let error = run(Worker::view(At, MemoryStore::new(), models.clone())).await.unwrap_err();
    assert!(error.to_string().contains("must not contain `@`"), "{error}");
    assert!(Views::new(&At, models).get("a").await.is_err());
}

/// Restores rows, fields, the checkpoint and parked aggregates.
#[tokio::test]
async fn a_view_in_memory_continues_from_its_snapshot() {
    let (store, models) = (MemoryStore::new(), MemoryReadModel::new());
    for text in ["Ada", "Bob", "Cy"] {
        rename(&store, text, text).await;
    }
    rename(&store, "bad", "#").await;
    let worker = [Worker::view(Names, store.clone(), models.clone()).with_options(eager())];
    while_running(&worker, reached(&models, &name(&Names), 4)).await;
    let snapshot = models.snapshot().unwrap();
    let restored: MemoryReadModel = MemoryReadModel::restore(&snapshot).unwrap();
    assert_eq!(restored.checkpoint(&name(&Names)).await.unwrap(), Position::new(4));
    let parking = restored.parking(&name(&Names)).await.unwrap();
    assert_eq!((parking.parked.len(), &parking), (1, &models.parking(&name(&Names)).await.unwrap()));
    rename(&store, "Cy", "#Cy").await;
    let worker = [Worker::view(Names, store.clone(), restored.clone()).with_options(eager())];
    while_running(&worker, reached(&restored, &name(&Names), 5)).await;
    let views = Views::new(&Names, restored);
    assert_eq!(all(&views).await.into_values().collect::<Vec<_>>(), ["Ada", "Bob", "#Cy"]);
    let found = views.find("length", 3, Paging::first(9)).await.unwrap();
    assert_eq!(found.rows.len(), 3);
    assert_eq!(all(&Views::new(&Names, models)).await["Cy"], "Cy", "the original model is unchanged");
    for damaged in [&snapshot[1..], b"{}", &snapshot[..snapshot.len() - 1]] {
        assert!(MemoryReadModel::<()>::restore(damaged).unwrap_err().is_corrupt());
    }
    let newer = String::from_utf8(snapshot).unwrap().replace(r#""format":1"#, r#""format":2"#);
    assert!(MemoryReadModel::<()>::restore(newer.as_bytes()).unwrap_err().is_corrupt());
}

#[tokio::test]
async fn promote_waits_for_the_open_transaction_and_keeps_its_rows() {
    let models = MemoryReadModel::new();
    let id = |generation| ViewId::new("amounts", Generation::new(generation)).unwrap();
    let (at_work, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (kept, told, waits) = (models.clone(), at_work.clone(), go_on.clone());
    let work: Work<()> = Box::new(move |tx| {
        async move {
            let row = ViewRow::empty(ViewKey::new("1")?);
            let after = row.clone().with_state("{}");
            kept.save_rows(tx, &id(2), &[row], &[after]).await?;
            told.notify_one();
            waits.notified().await;
            Ok(())
        }
        .boxed()
    });
    let step = Step::new(id(2).projection(), Position::ZERO, Position::new(1));
    let advance = models.commit(step, work);
    let switch = async {
        at_work.notified().await;
        let new = id(2);
        let mut switch = models.promote(&new, Switch::Force);
        assert!(poll!(&mut switch).is_pending());
        go_on.notify_one();
        switch.await
    };
    let (advanced, switched) = tokio::join!(advance, switch);
    advanced.unwrap();
    assert_eq!(switched.unwrap(), Generation::new(1));
}
