//! A7. A type that no longer reads what is stored is refused at the start, and an unreadable state fails its own events.

use std::marker::PhantomData;
use std::time::Duration;

use retell::error::ErrorKind;
use retell::prelude::*;
use retell::rebuild::Rebuild;
use retell::shape::{Shapes, Type};
use retell::view::ViewProjection;
use retell::worker::CaughtUp;
use retell::{DeadlineStore, Generation, ProjectionName, ViewStore};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::sites::{self, Site, on_every_store};

const PATIENCE: Duration = Duration::from_mins(5);
const KEYS: u64 = 20;
/// The first keys, whose states are damaged.
const DAMAGED: u64 = 7;

#[derive(Event, Debug)]
#[event("part.made")]
struct Made;

/// A state that counts events.
trait Count:
    Default + Clone + PartialEq + Serialize + DeserializeOwned + Shape + Send + Sync + std::fmt::Debug + 'static
{
    fn count(&mut self, key: u64);
}

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, Shape)]
struct Old {
    made: u64,
}

/// `Old` with a required field.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, Shape)]
struct Changed {
    made: u64,
    sold: u64,
}

/// `Old` with fields that need not be there.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, Shape)]
struct Extended {
    made: u64,
    #[serde(default)]
    sold: u64,
    note: Option<String>,
}

/// Writes states of which some are no `Old`.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
struct Damaging(Value);

impl Shape for Damaging {
    /// States are damaged, and not of another type.
    fn shape(shapes: &mut Shapes) -> Type {
        shapes.of::<Old>()
    }
}

/// `Extended` with a renamed field. It reads each state of `Extended`, and would drop what was sold.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, Shape)]
struct Renamed {
    made: u64,
    #[serde(default)]
    bought: u64,
    note: Option<String>,
}

/// The parts of a state.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, Shape)]
struct Small {
    made: u32,
}

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, Shape)]
struct Large {
    made: u64,
}

/// A state whose nested type changes. Every state that is stored decodes as the other one, until a number becomes large.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, Shape)]
struct Nested<T: Shape> {
    parts: Vec<T>,
}

impl Count for Old {
    fn count(&mut self, _: u64) {
        self.made += 1;
    }
}

impl Count for Changed {
    fn count(&mut self, _: u64) {
        self.made += 1;
    }
}

impl Count for Extended {
    fn count(&mut self, _: u64) {
        self.made += 1;
    }
}

impl Count for Renamed {
    fn count(&mut self, _: u64) {
        self.made += 1;
    }
}

impl<T> Count for Nested<T>
where
    T: Shape + Default + Clone + PartialEq + Serialize + DeserializeOwned + Send + Sync + std::fmt::Debug,
{
    fn count(&mut self, _: u64) {
        self.parts.push(T::default());
    }
}

impl Count for Damaging {
    fn count(&mut self, key: u64) {
        self.0 = if key < DAMAGED { json!({"made": "many"}) } else { json!({"made": 1}) };
    }
}

fn number(id: &AggregateId) -> u64 {
    id.as_str().parse().unwrap()
}

struct Parts<S>(Generation, PhantomData<fn() -> S>);

impl<S> Parts<S> {
    fn new() -> Self {
        Self(Generation::new(1), PhantomData)
    }
}

impl<S: Count> View for Parts<S> {
    const NAME: &'static str = "parts";
    type Event = Made;
    type State = S;

    fn generation(&self) -> Generation {
        self.0
    }

    fn key(&self, event: &Envelope<Made>) -> Option<String> {
        Some(event.stream.aggregate_id().to_string())
    }

    fn apply(&self, state: &mut S, event: Envelope<Made>) {
        state.count(number(event.stream.aggregate_id()));
    }
}

#[async_trait]
impl<S: Count> Process for Parts<S> {
    const NAME: &'static str = "making";
    type Event = Made;
    type State = S;
    type Command = ();

    fn key(&self, event: &Envelope<Made>) -> Option<AggregateId> {
        Some(event.stream.aggregate_id().clone())
    }

    fn on_event(&self, state: &mut S, event: &Envelope<Made>, _: &mut Effects<()>) {
        state.count(number(event.stream.aggregate_id()));
    }

    async fn execute(&self, _: &AggregateId, (): (), _: Context) -> Result<(), CommandFailure> {
        Ok(())
    }
}

/// Appends an event to each aggregate.
async fn make(store: &impl EventStore) {
    for key in 0..KEYS {
        store.append_events(("part", key.to_string()), ExpectedVersion::Any, [Made]).await.unwrap();
    }
}

async fn worked<S, M>(
    _: PhantomData<S>,
    store: &(impl EventStore + Clone),
    models: &M,
    per_aggregate: bool,
) -> retell::Result<CaughtUp>
where
    S: Count,
    M: ViewStore + Clone,
{
    let worker = Worker::view(Parts::<S>::new(), store.clone(), models.clone());
    let worker = if per_aggregate { worker.with_order_per_aggregate() } else { worker };
    tokio::time::timeout(PATIENCE, worker.catch_up()).await.expect("it is no outage")
}

async fn managed<S, M>(_: PhantomData<S>, store: &(impl EventStore + Clone), models: &M) -> retell::Result<CaughtUp>
where
    S: Count,
    M: DeadlineStore + Clone,
{
    let manager = ProcessManager::new(Parts::<S>::new(), store.clone(), models.clone());
    tokio::time::timeout(PATIENCE, manager.catch_up()).await.expect("it is no outage")
}

fn assert_refused<T: std::fmt::Debug>(result: retell::Result<T>, what: &str, remedy: &str) {
    let refused = result.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::StateChanged { .. }), "{refused:#}");
    let text = format!("{refused:#}");
    assert!(text.starts_with(what) && text.contains(remedy) && text.contains("missing field `sold`"), "{text}");
}

async fn refused_by_view<S, M>(Site { store, models, .. }: Site<S, M>, per_aggregate: bool)
where
    S: EventStore + Clone,
    M: ViewStore + Clone,
{
    make(&store).await;
    worked(PhantomData::<Old>, &store, &models, per_aggregate).await.unwrap();
    make(&store).await;
    assert_refused(worked(PhantomData::<Changed>, &store, &models, per_aggregate).await, "view parts", "generation");
    // Nothing has changed, and a state that reads the rows continues.
    let rows = Views::new(&Parts::<Old>::new(), models.clone());
    assert_eq!(rows.get("3").await.unwrap(), Some(Old { made: 1 }));
    assert!(worked(PhantomData::<Extended>, &store, &models, per_aggregate).await.unwrap().is_complete());
    assert_eq!(rows.get("3").await.unwrap(), Some(Old { made: 2 }));
    // The remedy works: another generation.
    let next = || Parts::<Changed>(Generation::new(2), PhantomData);
    let worker = Worker::view(next(), store.clone(), models.clone());
    let worker = if per_aggregate { worker.with_order_per_aggregate() } else { worker };
    worker.catch_up().await.unwrap();
    Rebuild::new(next(), store, models.clone()).switch().await.unwrap();
    let rows = Views::new(&next(), models);
    assert_eq!(rows.get("3").await.unwrap(), Some(Changed { made: 2, sold: 0 }));
}

async fn required_field_of_a_view_is_refused<S, M>(site: Site<S, M>)
where
    S: EventStore + Clone,
    M: ViewStore + Clone,
{
    refused_by_view(site, false).await;
}

async fn required_field_per_aggregate_is_refused<S, M>(site: Site<S, M>)
where
    S: EventStore + Clone,
    M: ViewStore + Clone,
{
    refused_by_view(site, true).await;
}

async fn required_field_is_refused_by_a_rebuild<S, M>(Site { store, models, database: _database }: Site<S, M>)
where
    S: EventStore + Clone,
    M: ViewStore + Clone,
{
    make(&store).await;
    worked(PhantomData::<Old>, &store, &models, false).await.unwrap();
    make(&store).await;
    let rebuild = Rebuild::new(Parts::<Changed>::new(), store.clone(), models.clone());
    assert_refused(rebuild.run(CancellationToken::new()).await, "view parts", "generation");
    rebuild.reset().await.unwrap();
    rebuild.run(CancellationToken::new()).await.unwrap();
    let rows = Views::new(&Parts::<Changed>::new(), models);
    assert_eq!(rows.get("3").await.unwrap(), Some(Changed { made: 2, sold: 0 }));
}

async fn unreadable_rows<S, M>(Site { store, models, database: _database }: Site<S, M>, per_aggregate: bool)
where
    S: EventStore + Clone,
    M: ViewStore + Clone,
{
    make(&store).await;
    worked(PhantomData::<Damaging>, &store, &models, per_aggregate).await.unwrap();
    make(&store).await;
    let caught_up = worked(PhantomData::<Old>, &store, &models, per_aggregate).await.unwrap();
    assert_eq!(caught_up.position, Position::new(2 * KEYS));
    assert_parked_alone(&caught_up, "view parts: the state under");
    let rows = Views::new(&Parts::<Old>::new(), models);
    for key in 0..KEYS {
        let row = rows.get(key.to_string()).await;
        if key < DAMAGED {
            assert!(row.unwrap_err().is_corrupt());
        } else {
            assert_eq!(row.unwrap(), Some(Old { made: 2 }));
        }
    }
}

/// Each damaged aggregate is parked, with the cause, and no other.
fn assert_parked_alone(caught_up: &CaughtUp, cause: &str) {
    let mut parked: Vec<_> = caught_up.parked.iter().map(|parked| number(parked.stream.aggregate_id())).collect();
    parked.sort_unstable();
    assert!(parked.into_iter().eq(0..DAMAGED), "{caught_up:?}");
    for parked in &caught_up.parked {
        assert!(parked.error.contains(cause) && parked.error.contains("invalid type: string"), "{}", parked.error);
    }
}

async fn unreadable_row_parks_its_aggregate_alone<S, M>(site: Site<S, M>)
where
    S: EventStore + Clone,
    M: ViewStore + Clone,
{
    unreadable_rows(site, false).await;
}

async fn unreadable_row_per_aggregate_parks_one<S, M>(site: Site<S, M>)
where
    S: EventStore + Clone,
    M: ViewStore + Clone,
{
    unreadable_rows(site, true).await;
}

async fn required_field_of_a_process_is_refused<S, M>(Site { store, models, database: _database }: Site<S, M>)
where
    S: EventStore + Clone,
    M: DeadlineStore + Clone,
{
    make(&store).await;
    managed(PhantomData::<Old>, &store, &models).await.unwrap();
    make(&store).await;
    assert_refused(managed(PhantomData::<Changed>, &store, &models).await, "process making", "a default");
    assert!(managed(PhantomData::<Extended>, &store, &models).await.unwrap().is_complete());
}

async fn unreadable_step_parks_its_aggregate_alone<S, M>(Site { store, models, database: _database }: Site<S, M>)
where
    S: EventStore + Clone,
    M: DeadlineStore + Clone,
{
    make(&store).await;
    managed(PhantomData::<Damaging>, &store, &models).await.unwrap();
    make(&store).await;
    let caught_up = managed(PhantomData::<Old>, &store, &models).await.unwrap();
    assert!(caught_up.position.get() >= 2 * KEYS);
    assert_parked_alone(&caught_up, "process.stepped");
}

fn assert_state_refused<T: std::fmt::Debug>(result: retell::Result<T>, rule: &str) {
    let refused = result.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::StateChanged { .. }), "{refused:#}");
    let text = format!("{refused:#}");
    assert!(text.contains(rule) && text.contains("generation") && text.contains("forget_processor"), "{text}");
}

/// Each stored state decodes, and the change is refused by the registered shape.
async fn change_that_decodes_is_refused<S, M>(Site { store, models, database: _database }: Site<S, M>)
where
    S: EventStore + Clone,
    M: ViewStore + DeadlineStore + Clone,
{
    let parts = ProjectionName::new("parts").unwrap();
    make(&store).await;
    worked(PhantomData::<Extended>, &store, &models, false).await.unwrap();
    make(&store).await;
    let dropped = "E-STATE-FIELD-REMOVED at sold";
    assert_state_refused(worked(PhantomData::<Renamed>, &store, &models, false).await, dropped);
    let rebuild = Rebuild::new(Parts::<Renamed>::new(), store.clone(), models.clone());
    assert_state_refused(rebuild.run(CancellationToken::new()).await, dropped);
    assert_eq!(models.checkpoint(&parts).await.unwrap(), Position::new(KEYS));
    assert_eq!(models.processors(&parts).await.unwrap().len(), 1, "a refused release is not registered");
    // The release that wrote the states continues.
    worked(PhantomData::<Extended>, &store, &models, false).await.unwrap();
    // The remedies work: without rows there is nothing to drop, and an operator knows better.
    rebuild.reset().await.unwrap();
    rebuild.run(CancellationToken::new()).await.unwrap();
    assert_state_refused(
        worked(PhantomData::<Extended>, &store, &models, false).await,
        "E-STATE-FIELD-REMOVED at bought",
    );
    let renamed = models.processors(&parts).await.unwrap().pop().unwrap();
    assert!(models.forget_processor(&parts, &renamed).await.unwrap());
    worked(PhantomData::<Extended>, &store, &models, false).await.unwrap();

    managed(PhantomData::<Extended>, &store, &models).await.unwrap();
    assert_state_refused(managed(PhantomData::<Renamed>, &store, &models).await, dropped);
    managed(PhantomData::<Old>, &store, &models).await.unwrap_err();
    managed(PhantomData::<Extended>, &store, &models).await.unwrap();
}

async fn change_inside_a_nested_type_is_refused<S, M>(Site { store, models, database: _database }: Site<S, M>)
where
    S: EventStore + Clone,
    M: ViewStore + Clone,
{
    make(&store).await;
    worked(PhantomData::<Nested<Large>>, &store, &models, true).await.unwrap();
    let refused = worked(PhantomData::<Nested<Small>>, &store, &models, true).await;
    assert_state_refused(refused, "E-NUMBER-NARROWED at parts[].made");
}

on_every_store! {
    change_that_decodes_is_refused,
    change_inside_a_nested_type_is_refused,
    required_field_of_a_view_is_refused,
    required_field_per_aggregate_is_refused,
    required_field_is_refused_by_a_rebuild,
    unreadable_row_parks_its_aggregate_alone,
    unreadable_row_per_aggregate_parks_one,
    required_field_of_a_process_is_refused,
    unreadable_step_parks_its_aggregate_alone,
}

#[tokio::test]
async fn required_field_is_refused_by_an_inline_view() {
    let log = SqliteStore::in_memory().await.unwrap();
    let models = log.read_model();
    let old = inline(log.clone(), ViewProjection::new(Parts::<Old>::new(), models.clone())).await.unwrap();
    make(&old).await;
    let changed = inline(log, ViewProjection::new(Parts::<Changed>::new(), models)).await;
    assert_refused(changed.map(drop), "view parts", "generation");
    let Site { store, models, database: _database } = sites::memory();
    make(&store).await;
    // A view without rows has nothing to refuse.
    worked(PhantomData::<Changed>, &store, &models, false).await.unwrap();
}
