//! A1. A panic in user code is a failure of that event or append, on every store and in every runner.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use retell::broker::frame::Frame;
use retell::broker::{Confirm, Publisher};
use retell::prelude::*;
use retell::{
    DateTime, DeadlineStore, ErrorKind, Fields, InlineStore, Parked, ParkingOptions, ProjectionName, ReadModel,
    RebuildOptions, RelayStore, ViewStore, WorkerOptions,
};
use serde::{Deserialize, Serialize};

use crate::sites::{Site, on_every_store};

/// The number that every piece of code here panics on.
const UNLUCKY: u64 = 13;

fn check(place: &str, number: u64) {
    assert!(number != UNLUCKY, "{place}: no code here expects {number}");
}

#[derive(Event, Debug, Clone)]
enum Thing {
    #[event("thing.happened")]
    Happened(u64),
    #[event("thing.moved", version = 2, upcast(from_v1))]
    Moved(u64),
    #[event("thing.named")]
    Named(#[event(opaque)] Fragile),
}

fn from_v1(number: u64) -> Thing {
    check("upcaster", number);
    Thing::Moved(number)
}

impl Thing {
    fn number(&self) -> u64 {
        let (Self::Happened(number) | Self::Moved(number) | Self::Named(Fragile(number))) = self;
        *number
    }
}

/// The first version of `Thing::Moved`.
#[derive(Event)]
#[event("thing.moved")]
struct OldMoved(u64);

/// The stored form of `Thing::Named`, from a program that could decode it.
#[derive(Event)]
#[event("thing.named")]
struct PlainNamed(u64);

/// Panics when it is encoded if it is twice the unlucky number, and when it is decoded if it is the unlucky number.
#[derive(Debug, Clone, Default)]
struct Fragile(u64);

impl Serialize for Fragile {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        check("Serialize", self.0 / 2);
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Fragile {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(deserializer)?;
        check("Deserialize", number);
        Ok(Self(number))
    }
}

/// Panics when it applies the unlucky number.
#[derive(Aggregate, Debug, Clone, Default)]
#[aggregate("thing", event = Thing, snapshots = 2)]
struct Things {
    count: u64,
    last: Fragile,
}

impl Apply<Thing> for Things {
    fn apply(&mut self, event: Thing) {
        self.count += 1;
        self.last = Fragile(event.number());
        check("Aggregate::apply", event.number());
    }
}

struct Record(u64);

impl Handle<Record> for Things {
    type Error = Infallible;

    fn handle(&self, Record(number): &Record) -> Result<Vec<Thing>, Infallible> {
        check("Handle::handle", number / 3);
        Ok(vec![Thing::Happened(0), Thing::Happened(*number)])
    }
}

/// Returns an error and its causes as one text.
fn text(error: &dyn std::error::Error) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

async fn append(store: &impl EventStore, stream: &str, events: impl IntoIterator<Item = impl Event>) {
    store.append_events(("thing", stream), ExpectedVersion::Any, events).await.unwrap();
}

/// A command whose decision or whose events panic is refused, and writes nothing. The next one is executed.
async fn panicking_command_writes_nothing<S: EventStore + Clone, M>(Site { store, .. }: Site<S, M>) {
    let things = Repository::<Things>::new(store.clone());
    things.execute("a", Record(1)).await.unwrap();
    for (number, place) in [(UNLUCKY, "Aggregate::apply"), (3 * UNLUCKY, "Handle::handle")] {
        // Once with the cached state, and once without.
        for things in [&things, &Repository::new(store.clone())] {
            let refused = things.execute("a", Record(number)).await.unwrap_err();
            let CommandError::Failed(error) = &refused else { panic!("{refused:?}") };
            assert!(matches!(error.kind(), ErrorKind::Panicked(_)), "{error:?}");
            let text = text(error);
            assert!(text.contains(&format!("panicked: {place}: no code here expects 13")), "{text}");
            assert!(text.contains("thing/a"), "{text}");
        }
    }
    assert_eq!(store.head().await.unwrap(), Position::new(2), "a refused command has written nothing");
    things.execute("a", Record(2)).await.unwrap();
    assert_eq!(things.load("a").await.unwrap().state.count, 4);
}

/// An event that cannot be decoded or applied is an error with the text of the panic, and later commands on other aggregates run.
async fn unreadable_event_is_an_error_with_its_text<S: EventStore + Clone, M>(Site { store, .. }: Site<S, M>) {
    append(&store, "upcast", [OldMoved(UNLUCKY)]).await;
    append(&store, "decode", [PlainNamed(UNLUCKY)]).await;
    append(&store, "apply", [Thing::Happened(UNLUCKY)]).await;
    let things = Repository::<Things>::new(store.clone());
    for (id, place) in [("upcast", "upcaster"), ("decode", "Deserialize"), ("apply", "Aggregate::apply")] {
        for _ in 0..2 {
            let text = text(&things.load(id).await.unwrap_err());
            assert!(text.contains(&format!("panicked: {place}: no code here expects 13")), "{text}");
            assert!(text.contains(&format!("thing/{id}")) && text.contains("version 1"), "{text}");
            assert!(text.contains("thing."), "{text}");
        }
    }
    let encoded = NewEvent::new(&Thing::Named(Fragile(2 * UNLUCKY))).unwrap_err();
    assert!(matches!(encoded.kind(), ErrorKind::Unencodable(_)), "{encoded:?}");
    things.execute("good", Record(1)).await.unwrap();
}

/// A state that cannot be encoded costs its snapshot, and no command.
async fn panicking_snapshot_is_counted<S: EventStore + Clone, M>(Site { store, .. }: Site<S, M>) {
    let things = Repository::<Things>::new(store.clone());
    things.execute("a", Record(2 * UNLUCKY)).await.unwrap();
    things.flush().await;
    assert_eq!(things.snapshot_failures(), 1);
    things.execute("a", Record(1)).await.unwrap();
    assert_eq!(things.load("a").await.unwrap().state.count, 4);
}

/// Where a handler panics on the unlucky number.
#[derive(Debug, Clone, Copy, PartialEq)]
enum At {
    Setup,
    Key,
    Apply,
    Fields,
    Command,
    Deadline,
    Nowhere,
}

impl At {
    fn check(self, here: Self, number: u64) {
        if self == here {
            check(&format!("{here:?}"), number);
        }
    }
}

/// A view under a name of its own.
struct Tally(At, String);

impl View for Tally {
    const NAME: &'static str = "tally";
    type Event = Thing;
    type State = Vec<u64>;

    fn name(&self) -> &str {
        &self.1
    }

    fn key(&self, event: &Envelope<Thing>) -> Option<String> {
        self.0.check(At::Key, event.event.number());
        Some(event.stream.aggregate_id().to_string())
    }

    fn apply(&self, seen: &mut Vec<u64>, event: Envelope<Thing>) {
        seen.push(event.event.number());
        self.0.check(At::Apply, event.event.number());
    }

    fn fields(&self, seen: &Vec<u64>) -> Fields {
        for number in seen {
            self.0.check(At::Fields, *number);
        }
        Fields::new()
    }
}

/// The numbers that a handler of the aggregates `good..` has seen.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<BTreeSet<u64>>>);

impl Seen {
    fn add(&self, number: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
    }

    fn assert_all(&self) {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert!((100..120).all(|number| seen.contains(&number)), "{seen:?}");
    }
}

/// A projection, a reaction or an inline projection.
struct Handler<T: ?Sized> {
    at: At,
    seen: Seen,
    tx: PhantomData<fn(&T)>,
}

impl<T: ?Sized> Handler<T> {
    fn new(at: At) -> Self {
        Self { at, seen: Seen::default(), tx: PhantomData }
    }
}

#[async_trait]
impl<T: Send + ?Sized + 'static> Projection for Handler<T> {
    const NAME: &'static str = "handler";
    type Event = Thing;
    type Tx = T;

    async fn setup(&self, _: &mut T) -> Result<(), BoxError> {
        self.at.check(At::Setup, UNLUCKY);
        Ok(())
    }

    async fn apply(&self, _: &mut T, event: Envelope<Thing>) -> Result<(), BoxError> {
        tokio::task::yield_now().await;
        self.at.check(At::Apply, event.event.number());
        self.seen.add(event.event.number());
        Ok(())
    }
}

struct Following(At, Seen);

#[async_trait]
impl Process for Following {
    const NAME: &'static str = "following";
    type Event = Thing;
    type State = u64;
    type Command = u64;

    fn key(&self, event: &Envelope<Thing>) -> Option<AggregateId> {
        self.0.check(At::Key, event.event.number());
        Some(event.stream.aggregate_id().clone())
    }

    fn on_event(&self, state: &mut u64, event: &Envelope<Thing>, effects: &mut Effects<u64>) {
        self.0.check(At::Apply, event.event.number());
        *state = event.event.number();
        effects.send(event.event.number());
        if self.0 == At::Deadline {
            effects.set_deadline("passed", event.recorded_at);
        }
    }

    fn on_deadline(&self, state: &mut u64, _: &str, _: &mut Effects<u64>) {
        self.0.check(At::Deadline, *state);
        *state = 0;
    }

    async fn execute(&self, _: &AggregateId, number: u64, _: Context) -> Result<(), CommandFailure> {
        self.0.check(At::Command, number);
        self.1.add(number);
        Ok(())
    }
}

/// Appends the unlucky event to the aggregate `bad` between events of twenty others.
async fn append_one_unlucky(store: &impl EventStore, event: impl Event) {
    for number in 100..110 {
        append(store, &format!("good{number}"), [Thing::Happened(number)]).await;
    }
    append(store, "bad", [event]).await;
    append(store, "bad", [Thing::Happened(1)]).await;
    for number in 110..120 {
        append(store, &format!("good{number}"), [Thing::Happened(number)]).await;
    }
}

/// Parks at once, and does not retry what is parked.
fn options() -> WorkerOptions {
    let long = Duration::from_hours(1);
    WorkerOptions::new().with_retries(0).with_parking(ParkingOptions::new().with_delays(long, long))
}

fn assert_bad_is_parked(parked: &[Parked], place: &str) {
    let [parked] = parked else { panic!("{place}: {parked:?}") };
    assert_eq!(parked.stream.to_string(), "thing/bad");
    assert_eq!(parked.from_version, Version::new(1));
    assert!(parked.error.contains(&format!("panicked: {place}: no code here expects 13")), "{}", parked.error);
    assert!(parked.error.contains("thing."), "{}", parked.error);
}

/// An event that panics in a view parks its aggregate alone, in both orders and in a rebuild.
async fn panic_in_a_view_parks_its_aggregate<S, M>(Site { store, models, .. }: Site<S, M>)
where
    S: EventStore + Clone,
    M: ViewStore + Clone,
{
    append_one_unlucky(&store, Thing::Happened(UNLUCKY)).await;
    for (at, name) in [(At::Key, "key"), (At::Apply, "apply"), (At::Fields, "fields")] {
        for how in ["log", "aggregate", "rebuild"] {
            let name = format!("{name}_{how}");
            let view = || Tally(at, name.clone());
            let worker = Worker::view(view(), store.clone(), models.clone()).with_options(options());
            match how {
                "log" => drop(worker.catch_up().await.unwrap()),
                "aggregate" => drop(worker.with_order_per_aggregate().catch_up().await.unwrap()),
                _ => {
                    let rebuild = Rebuild::new(view(), store.clone(), models.clone());
                    let options = RebuildOptions::new().with_worker(options());
                    rebuild.with_options(options).run(CancellationToken::new()).await.unwrap();
                }
            }
            let projection = ProjectionName::new(&*name).unwrap();
            assert_bad_is_parked(&models.parking(&projection).await.unwrap().parked, &format!("{at:?}"));
            let rows = Views::new(&view(), models.clone());
            for number in 100..120 {
                assert_eq!(rows.get(&*format!("good{number}")).await.unwrap(), Some(vec![number]), "{name}");
            }
        }
    }
}

/// An event that panics in a projection or a reaction parks its aggregate alone, in both orders.
async fn panic_in_a_handler_parks_its_aggregate<S, M>(Site { store, models, .. }: Site<S, M>)
where
    S: EventStore + Clone,
    M: ReadModel + Clone,
{
    append_one_unlucky(&store, Thing::Happened(UNLUCKY)).await;
    let handler = Handler::<M::Tx>::new(At::Apply);
    let seen = handler.seen.clone();
    let worker = Worker::new(handler, store.clone(), models.clone()).with_options(options());
    assert_bad_is_parked(&worker.catch_up().await.unwrap().parked, "Apply");
    seen.assert_all();
    for per_aggregate in [false, true] {
        let handler = Handler::<M::Tx>::new(At::Apply);
        let seen = handler.seen.clone();
        let name = format!("reaction{per_aggregate}");
        let reaction = NamedReaction(handler, name);
        let worker = Worker::reaction(reaction, StartFrom::Beginning, store.clone(), models.clone());
        let worker = worker.with_options(options());
        let worker = if per_aggregate { worker.with_order_per_aggregate() } else { worker };
        assert_bad_is_parked(&worker.catch_up().await.unwrap().parked, "Apply");
        seen.assert_all();
    }
}

/// A reaction under a name of its own.
struct NamedReaction<T: ?Sized>(Handler<T>, String);

#[async_trait]
impl<T: Send + ?Sized + 'static> Reaction for NamedReaction<T> {
    const NAME: &'static str = "named";
    type Event = Thing;
    type Tx = T;

    fn name(&self) -> &str {
        &self.1
    }

    async fn react(&self, tx: &mut T, event: Envelope<Thing>) -> Result<(), BoxError> {
        self.0.apply(tx, event).await
    }
}

/// An event whose upcaster or `Deserialize` panics parks its aggregate alone.
async fn panic_while_decoding_parks_its_aggregate<S, M>(Site { store, models, .. }: Site<S, M>)
where
    S: EventStore + Clone,
    M: ReadModel + Clone,
{
    append_one_unlucky(&store, OldMoved(UNLUCKY)).await;
    let handler = Handler::new(At::Nowhere);
    let seen = handler.seen.clone();
    let worker = Worker::new(handler, store.clone(), models.clone()).with_options(options());
    assert_bad_is_parked(&worker.catch_up().await.unwrap().parked, "upcaster");
    seen.assert_all();
    append(&store, "worse", [PlainNamed(UNLUCKY)]).await;
    let parked = worker.catch_up().await.unwrap().parked;
    assert_eq!(parked.len(), 2);
    assert!(parked.iter().any(|parked| parked.error.contains("panicked: Deserialize")), "{parked:?}");
}

/// An event that panics in a process, or whose command does, parks its aggregate alone.
async fn process_panics<S, M>(Site { store, models, .. }: Site<S, M>, at: At)
where
    S: EventStore + Clone,
    M: DeadlineStore + Clone,
{
    append_one_unlucky(&store, Thing::Happened(UNLUCKY)).await;
    let seen = Seen::default();
    let manager = ProcessManager::new(Following(at, seen.clone()), store.clone(), models).with_options(options());
    assert_bad_is_parked(&manager.catch_up().await.unwrap().parked, &format!("{at:?}"));
    seen.assert_all();
}

async fn panic_in_a_process_parks_its_aggregate<S, M>(site: Site<S, M>)
where
    S: EventStore + Clone,
    M: DeadlineStore + Clone,
{
    process_panics(site, At::Apply).await;
}

async fn panic_in_a_process_key_parks_its_aggregate<S, M>(site: Site<S, M>)
where
    S: EventStore + Clone,
    M: DeadlineStore + Clone,
{
    process_panics(site, At::Key).await;
}

async fn panic_in_a_command_parks_its_aggregate<S, M>(site: Site<S, M>)
where
    S: EventStore + Clone,
    M: DeadlineStore + Clone,
{
    process_panics(site, At::Command).await;
}

/// A deadline that panics is postponed with the panic's text, and the others pass.
async fn panicking_deadline_is_postponed<S, M>(Site { store, models, .. }: Site<S, M>)
where
    S: EventStore + Clone,
    M: DeadlineStore + Clone,
{
    append(&store, "bad", [Thing::Happened(UNLUCKY)]).await;
    append(&store, "good", [Thing::Happened(1)]).await;
    let manager = ProcessManager::new(Following(At::Deadline, Seen::default()), store.clone(), models.clone());
    manager.catch_up().await.unwrap();
    let name = ProjectionName::new(Following::NAME).unwrap();
    let due = models.due_deadlines(&name, DateTime::<retell::Utc>::MAX_UTC, 10).await.unwrap();
    let [due] = &due[..] else { panic!("{due:?}") };
    assert_eq!((due.key.as_str(), due.attempts), ("bad", 1));
}

/// A panic in `setup` is the error of the start, and a later start works.
async fn panicking_setup_fails_the_start<S, M>(Site { store, models, .. }: Site<S, M>)
where
    S: EventStore + Clone,
    M: ReadModel + Clone,
{
    let worker = |at| Worker::new(Handler::<M::Tx>::new(at), store.clone(), models.clone());
    let failed = worker(At::Setup).catch_up().await.unwrap_err();
    assert!(text(&failed).contains("set up projection handler: panicked: Setup"), "{}", text(&failed));
    worker(At::Nowhere).catch_up().await.unwrap();
    let failed = worker(At::Setup).with_order_per_aggregate().catch_up().await.unwrap_err();
    assert!(text(&failed).contains("set up projection handler: panicked: Setup"), "{}", text(&failed));
}

/// A panic in an inline projection fails its append alone. Later appends and appends through other handles are written.
async fn inline_panic_fails_its_append_alone<S, M>(Site { store, .. }: Site<S, M>)
where
    S: InlineStore + Clone,
{
    let setup = inline(store.clone(), Handler::<S::Tx>::new(At::Setup)).await.err().unwrap();
    assert!(text(&setup).contains("set up projection handler: panicked: Setup"), "{}", text(&setup));
    let log = inline(store.clone(), Handler::<S::Tx>::new(At::Apply)).await.unwrap();
    for round in 0..2 {
        let appends = (100..140).map(|number| {
            let (log, is_bad) = (log.clone(), number % 15 == 0);
            async move {
                let event = Thing::Happened(if is_bad { UNLUCKY } else { number });
                let stream = ("thing", format!("{round}-{number}"));
                (is_bad, log.append_events(stream, ExpectedVersion::NoStream, [event]).await)
            }
        });
        for (is_bad, result) in join_all(appends).await {
            assert_eq!(result.is_err(), is_bad, "{result:?}");
            let Err(error) = result else { continue };
            assert!(matches!(error.kind(), ErrorKind::Projection { .. }), "{error:?}");
            assert!(text(&error).contains("panicked: Apply: no code here expects 13"), "{}", text(&error));
        }
    }
    store.append_events(("thing", "other"), ExpectedVersion::NoStream, [Thing::Happened(1)]).await.unwrap();
    assert_eq!(store.head().await.unwrap(), Position::new(2 * (40 - 3) + 1));
}

/// Panics on its first two batches.
struct Fussy(AtomicU64, MemoryBroker);

#[async_trait]
impl Publisher for Fussy {
    async fn publish(&self, frames: &[Frame]) -> retell::Result<Confirm<()>> {
        assert!(self.0.fetch_add(1, Ordering::SeqCst) > 1, "a fussy publisher");
        self.1.publish(frames).await
    }
}

/// A publisher that panics delays its relay, and does not end it.
#[tokio::test(start_paused = true)]
async fn panicking_publisher_does_not_end_its_relay() {
    let store = MemoryStore::new();
    append(&store, "a", [Thing::Happened(1)]).await;
    let relay = Relay::new(store.clone(), Fussy(AtomicU64::new(0), MemoryBroker::new()));
    let relay = relay.with_checkpoint(store.clone(), "frames");
    let stop = CancellationToken::new();
    let (ended, ()) = tokio::join!(relay.run(stop.clone()), async {
        while store.position("frames").await.unwrap() < Position::new(1) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stop.cancel();
    });
    ended.unwrap();
}

on_every_store! {
    panicking_command_writes_nothing,
    unreadable_event_is_an_error_with_its_text,
    panicking_snapshot_is_counted,
    panic_in_a_view_parks_its_aggregate,
    panic_in_a_handler_parks_its_aggregate,
    panic_while_decoding_parks_its_aggregate,
    panic_in_a_process_parks_its_aggregate,
    panic_in_a_process_key_parks_its_aggregate,
    panic_in_a_command_parks_its_aggregate,
    panicking_deadline_is_postponed,
    panicking_setup_fails_the_start,
    inline_panic_fails_its_append_alone,
}
