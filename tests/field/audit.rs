//! Each change is recorded with its operator and reason, in its own transaction, on every store.

use std::time::Duration;

use retell::operate;
use retell::prelude::*;
use retell::store::{AuditEntry, By, Work};
use retell::{ErrorKind, Generation, Mark, ProjectionName, ReadModel, RelayStore, Uuid, ViewStore};

use crate::sites::{Site, on_every_store};

#[derive(Event)]
#[event("till.rung")]
struct Rung {
    cents: u64,
}

/// The sum of each till, in a generation.
struct Sums(Generation);

impl View for Sums {
    const NAME: &'static str = "sums";
    type Event = Rung;
    type State = u64;

    fn generation(&self) -> Generation {
        self.0
    }

    fn key(&self, rung: &Envelope<Rung>) -> Option<String> {
        Some(rung.stream.aggregate_id().to_string())
    }

    fn apply(&self, sum: &mut u64, rung: Envelope<Rung>) {
        *sum += rung.event.cents;
    }
}

fn name() -> ProjectionName {
    ProjectionName::new("sums").unwrap()
}

fn nothing<Tx: Send + ?Sized + 'static>() -> Work<Tx> {
    Box::new(|_| Box::pin(async { Ok(()) }))
}

async fn append(store: &impl EventStore) {
    for till in ["1", "2", "3"] {
        store.append_events(("till", till), ExpectedVersion::Any, [Rung { cents: 100 }]).await.unwrap();
    }
}

/// Returns the records, the oldest first.
async fn records<S: RelayStore, M: ReadModel>(store: &S, models: &M) -> Vec<AuditEntry> {
    let mut records = operate::audit_with_log(store, models, 100).await.unwrap();
    records.reverse();
    records
}

async fn each_change_is_recorded_with_its_operator<S, M>(Site { store, models, database: _database }: Site<S, M>)
where
    S: EventStore + RelayStore + Clone,
    M: ViewStore + Clone,
{
    append(&store).await;
    let (first, second) = (Generation::new(1), Generation::new(2));
    let by = |reason: &str| By::new("ada", reason);
    Worker::view(Sums(first), store.clone(), models.clone()).catch_up().await.unwrap();
    let rebuild = Rebuild::new(Sums(second), store.clone(), models.clone());
    rebuild.run(CancellationToken::new()).await.unwrap();
    rebuild.switch().await.unwrap();
    // Readers see it already.
    rebuild.switch().await.unwrap();
    let rebuild = rebuild.with_operator(by("drill"));
    rebuild.reset().await.unwrap();
    rebuild.switch_back(first).await.unwrap();
    rebuild.drop_old(second).await.unwrap();
    // One row a transaction, and one record.
    let third = Rebuild::new(Sums(Generation::new(3)), store.clone(), models.clone());
    third.run(CancellationToken::new()).await.unwrap();
    let third = retell::store::ViewId::new("sums", Generation::new(3)).unwrap();
    while !models.delete_generation_by(&third, 1, &by("too large")).await.unwrap() {}
    models.reset_by(&name(), Mark::START, nothing(), &by("a wrong sum")).await.unwrap();
    models.reset(&name(), Mark::START, nothing()).await.unwrap();
    store.acquire_lease("frames", Uuid::from_u128(1), Duration::from_secs(10)).await.unwrap().unwrap();
    let place = store.mark_at(Position::new(2)).await.unwrap();
    store.reset_by("frames", place, &by("a new broker")).await.unwrap();

    let records = records(&store, &models).await;
    let told: Vec<_> = records
        .iter()
        .map(|record| {
            let AuditEntry { action, target, by, count, .. } = record;
            let who = if by.who.starts_with("the program ") { "program" } else { &by.who };
            format!("{who}: {action} {target}: {} ({count})", by.reason)
        })
        .collect();
    let expected = [
        "program: switch sums from generation 1 to 2: rebuild of sums (1)",
        "ada: reset sums@2 to position 0: drill (1)",
        "ada: switch sums from generation 2 to 1: drill (1)",
        "ada: delete_generation sums@2: drill (1)",
        "ada: delete_generation sums@3: too large (1)",
        "ada: reset sums to position 0: a wrong sum (1)",
        "program: reset sums to position 0: no reason given (1)",
        "ada: reset_relay frames to position 2: a new broker (1)",
    ];
    assert_eq!(told, expected);
    assert!(records[0].by.who.len() > "the program ".len(), "{records:?}");
}

async fn change_that_fails_has_no_record<S, M>(Site { store, models, database: _database }: Site<S, M>)
where
    S: EventStore + RelayStore + Clone,
    M: ViewStore + Clone,
{
    append(&store).await;
    Worker::view(Sums(Generation::new(1)), store.clone(), models.clone()).catch_up().await.unwrap();
    let by = By::new("ada", "drill");
    let fails: Work<M::Tx> = Box::new(|_| Box::pin(async { Err(ErrorKind::Invalid("no".into()).into()) }));
    models.reset_by(&name(), Mark::START, fails, &by).await.unwrap_err();
    let unsaid = By::new("ada", "");
    let refused = [
        models.reset_by(&name(), Mark::START, nothing(), &unsaid).await.unwrap_err(),
        store.reset_by("frames", Mark::START, &unsaid).await.unwrap_err(),
        store.reset_by("misspelt", Mark::START, &by).await.unwrap_err(),
    ];
    assert!(matches!(refused[0].kind(), ErrorKind::Invalid(_)) && matches!(refused[1].kind(), ErrorKind::Invalid(_)));
    assert!(matches!(refused[2].kind(), ErrorKind::UnknownRelay { .. }), "{refused:?}");
    assert_eq!(records(&store, &models).await, []);
    assert_eq!(models.checkpoint(&name()).await.unwrap(), Position::new(3));
}

on_every_store!(each_change_is_recorded_with_its_operator, change_that_fails_has_no_record);
