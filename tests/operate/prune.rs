//! Rows that go, rows that stay, and what the deletion must not break.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use retell::event::{AnyEvent, NewEvent};
use retell::operate::{self, PruneOptions, PruneTarget, Pruned};
use retell::store::{Action, By, Inspect, Intervention, Outcome, Step};
use retell::{
    Append, BoxError, CancellationToken, Codec, DeadlineStore, Envelope, ErrorKind, EventReader, EventStore, EventType,
    ExpectedVersion, IdempotencyKey, Mark, Position, Reaction, RelayStore, StartFrom, ViewStore, Worker, async_trait,
};

use crate::databases::{Database, Place};
use crate::planted::{append, id, mark, name, nothing, parked, stream};

pub(crate) trait Log: EventStore + RelayStore + Inspect + Clone {}
impl<L: EventStore + RelayStore + Inspect + Clone> Log for L {}

pub(crate) trait Models: ViewStore + DeadlineStore + Clone {}
impl<M: ViewStore + DeadlineStore + Clone> Models for M {}

/// Counts the mails, and fails on one event while that is asked for.
struct Mails<Tx: ?Sized> {
    sent: Arc<AtomicUsize>,
    fails: Arc<AtomicBool>,
    tx: PhantomData<fn(&mut Tx)>,
}

#[async_trait]
impl<Tx: Send + ?Sized + 'static> Reaction for Mails<Tx> {
    const NAME: &'static str = "mails";
    type Event = AnyEvent;
    type Tx = Tx;

    async fn react(&self, _: &mut Tx, event: Envelope<AnyEvent>) -> Result<(), BoxError> {
        if event.position.get() == 3 && self.fails.load(Ordering::SeqCst) {
            return Err("the address is wrong".into());
        }
        self.sent.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// The mails of a log, with their read model.
struct Sending<L: Log, M: Models> {
    log: L,
    models: M,
    sent: Arc<AtomicUsize>,
    fails: Arc<AtomicBool>,
}

impl<L: Log, M: Models> Sending<L, M> {
    fn new(log: &L, models: &M) -> Self {
        Self { log: log.clone(), models: models.clone(), sent: Arc::default(), fails: Arc::default() }
    }

    fn worker(&self) -> Worker<impl retell::Projection<Tx = M::Tx>, M> {
        let mails = Mails { sent: self.sent.clone(), fails: self.fails.clone(), tx: PhantomData };
        Worker::reaction(mails, StartFrom::Beginning, self.log.clone(), self.models.clone())
    }

    async fn send(&self) -> usize {
        self.worker().catch_up().await.unwrap();
        self.sent.load(Ordering::SeqCst)
    }
}

fn by() -> By {
    By::new("ada", "weekly")
}

/// Any age will do: the inbox is never deleted too early.
fn any_age() -> PruneOptions {
    PruneOptions::older_than(Duration::ZERO)
}

async fn inbox(log: &impl Log, models: &impl Models, options: &PruneOptions) -> Pruned {
    let planned = operate::prunable(log, models, PruneTarget::Inbox, options).await.unwrap();
    let pruned = operate::prune(log, models, PruneTarget::Inbox, options, &by()).await.unwrap();
    assert_eq!(planned.parts, pruned.parts);
    pruned
}

async fn fill(log: &impl Log, events: u64) {
    for position in 1..=events {
        append(log, position, "order", &format!("{}", position % 2), "order.placed").await;
    }
    assert_eq!(log.head().await.unwrap().get(), events);
}

pub(crate) async fn pruned_reaction_handles_nothing_again(log: &impl Log, models: &impl Models) {
    fill(log, 5).await;
    let sending = Sending::new(log, models);
    assert_eq!(sending.send().await, 5);
    let pruned = inbox(log, models, &any_age()).await;
    assert_eq!((pruned.rows(), pruned.is_complete, pruned.parts.len()), (5, true, 1));
    assert_eq!(pruned.parts[0].through, Some(Position::new(5)));
    assert_eq!(inbox(log, models, &any_age()).await.rows(), 0);
    let audit = operate::audit(models, 10, None).await.unwrap();
    let entries: Vec<_> = audit.iter().map(|entry| (entry.action, entry.target.as_str(), entry.count)).collect();
    assert_eq!(entries, [(Action::PruneInbox, "mails 5", 5)]);
    // The inbox is empty, and the start is after its events.
    models.reset(&name("mails"), Mark::START, nothing()).await.unwrap();
    append(log, 6, "order", "1", "order.placed").await;
    assert_eq!(sending.send().await, 6);
}

/// The worker has read the old start before the rows were deleted.
pub(crate) async fn running_worker_learns_the_new_start(log: &impl Log, models: &impl Models) {
    fill(log, 4).await;
    let sending = Sending::new(log, models);
    let (worker, stop) = (sending.worker(), CancellationToken::new());
    let mut applied = worker.applied();
    let deleting = async {
        applied.wait_for(|position| position.get() == 4).await.unwrap();
        assert_eq!(inbox(log, models, &any_age()).await.rows(), 4);
        models.reset(&name("mails"), Mark::START, nothing()).await.unwrap();
        append(log, 5, "order", "1", "order.placed").await;
        log.head().await.unwrap();
        while models.mark(&name("mails")).await.unwrap().position.get() < 5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stop.cancel();
    };
    let (ran, ()) = tokio::join!(worker.run(stop.clone()), deleting);
    ran.unwrap();
    assert_eq!(sending.sent.load(Ordering::SeqCst), 5);
}

pub(crate) async fn rows_that_a_reaction_needs_stay(log: &impl Log, models: &impl Models) {
    fill(log, 3).await;
    let sending = Sending::new(log, models);
    assert_eq!(sending.send().await, 3);
    append(log, 4, "order", "0", "order.placed").await;
    log.head().await.unwrap();
    let pruned = inbox(log, models, &any_age().with_limit(1)).await;
    assert!(!pruned.is_complete && pruned.rows() == 1, "{pruned:?}");
    // Its checkpoint is at 3.
    let pruned = inbox(log, models, &any_age()).await;
    assert_eq!((pruned.rows(), pruned.parts[0].through), (2, Some(Position::new(3))));
    let holder = pruned.parts[0].held_by.clone().unwrap();
    assert_eq!((holder.position.get(), holder.is_parked), (3, false));
    // A parked aggregate needs its events.
    let changes = vec![retell::store::ParkingChange::Park(parked(stream("order", "0"), 2, 4))];
    let count = models.parking(&name("mails")).await.unwrap().changes;
    let step = Step::new(&name("mails"), mark(3), mark(4)).with_parking(count, changes);
    models.commit(step, nothing()).await.unwrap();
    let pruned = inbox(log, models, &any_age()).await;
    let holder = pruned.parts[0].held_by.clone().unwrap();
    assert_eq!((pruned.rows(), holder.position.get(), holder.is_parked), (0, 3, true));
    // A young event keeps everything after it.
    let hour = PruneOptions::older_than(Duration::from_hours(1));
    let pruned = inbox(log, models, &hour).await;
    assert!(pruned.rows() == 0 && pruned.parts[0].held_by.is_none(), "{pruned:?}");
}

/// A retired reaction may be resumed, so its inbox stays after its checkpoint.
pub(crate) async fn retired_reaction_handles_nothing_again(log: &impl Log, models: &impl Models) {
    fill(log, 3).await;
    let sending = Sending::new(log, models);
    assert_eq!(sending.send().await, 3);
    models.reset(&name("mails"), Mark::START, nothing()).await.unwrap();
    models.retire(&name("mails"), &by()).await.unwrap();
    assert_eq!(inbox(log, models, &any_age()).await.rows(), 0);
    models.resume(&name("mails"), &by()).await.unwrap();
    assert_eq!(sending.send().await, 3);
}

pub(crate) async fn keys_of_today_are_never_deleted(log: &impl Log, models: &impl Models) {
    for target in [Duration::ZERO, Duration::from_secs(24 * 3_600 - 1)].map(PruneOptions::older_than) {
        let refused = operate::prune(log, models, PruneTarget::Keys, &target, &by()).await;
        assert!(matches!(refused.unwrap_err().kind(), ErrorKind::Unsafe(_)));
    }
    let unnamed = operate::prune(log, models, PruneTarget::Inbox, &any_age(), &By::new("", "")).await;
    assert!(matches!(unnamed.unwrap_err().kind(), ErrorKind::Invalid(_)));
    assert!(operate::audit(models, 10, None).await.unwrap().is_empty());
}

/// Appends an event under a key.
async fn keyed(log: &impl Log, number: u64, key: &str) -> Outcome {
    let event_type = EventType::new("order.placed").unwrap();
    let event = NewEvent::stored(id(number), event_type, 1, Codec::Json, "{}".into());
    let append = Append::new(stream("order", key), ExpectedVersion::Any, vec![event]);
    let appended = log.append(append.with_key(IdempotencyKey::new(key).unwrap())).await.unwrap();
    log.head().await.unwrap();
    appended.outcome
}

/// Gives the first `events` events a time of a month ago.
async fn make_old(place: &Place, events: u64) {
    let ids: Vec<_> = (1..=events).map(|number| format!("'{number:032x}'")).collect();
    let ids = ids.join(", ");
    let sql = match place {
        Place::Sqlite(_) => format!(
            "DROP TRIGGER retell_events_no_update;
             UPDATE retell_events SET recorded_at = recorded_at - 2592000000000 WHERE lower(hex(event_id)) IN ({ids})"
        ),
        Place::Postgres(_) => format!(
            "ALTER TABLE retell.events DISABLE TRIGGER USER;
             UPDATE retell.events SET recorded_at = recorded_at - interval '30 days' WHERE replace(event_id::text, '-', '') IN ({ids});
             UPDATE retell.commits c SET recorded_at = e.recorded_at FROM retell.events e WHERE e.commit_id = c.commit_id;
             UPDATE retell.log l SET recorded_at = e.recorded_at FROM retell.events e WHERE e.commit_id = l.commit_id"
        ),
        Place::MySql(_) => format!(
            "DROP TRIGGER retell_events_no_update;
             UPDATE retell_events SET recorded_at = recorded_at - INTERVAL 30 DAY WHERE LOWER(HEX(event_id)) IN ({ids})"
        ),
    };
    place.run(&sql).await;
}

/// Deletes old keys; those of processes, of young appends and of appends that a reaction may repeat stay.
async fn old_keys_are_deleted(log: &impl Log, models: &impl Models, place: &Place) {
    for (number, key) in (1..).zip(["b", "process:shipping:1", "a", "processes", "c", "d"]) {
        assert_eq!(keyed(log, number, key).await, Outcome::Written);
    }
    make_old(place, 5).await;
    let week = PruneOptions::older_than(Duration::from_hours(7 * 24));
    // A reaction that is at position 3 may append under the keys `processes` and `c` again.
    models.start_after(&name("mails"), Mark::START).await.unwrap();
    models.commit(Step::new(&name("mails"), Mark::START, mark(3)), nothing()).await.unwrap();
    let planned = operate::prunable(log, models, PruneTarget::Keys, &week).await.unwrap();
    let holder = planned.parts[0].held_by.clone().unwrap();
    assert_eq!((planned.rows(), holder.reaction, holder.position.get()), (2, name("mails"), 3));
    // A pause may end, and a retirement is meant to be final.
    for (retires, rows) in [(false, 2), (true, 4)] {
        let change = if retires { Intervention::Retire } else { Intervention::Pause };
        models.intervene(&name("mails"), change, &by()).await.unwrap();
        let planned = operate::prunable(log, models, PruneTarget::Keys, &week).await.unwrap();
        assert_eq!((planned.rows(), planned.parts[0].held_by.is_none()), (rows, retires));
    }
    models.resume(&name("mails"), &by()).await.unwrap();
    let changes = models.parking(&name("mails")).await.unwrap().changes;
    let step = Step::new(&name("mails"), mark(3), mark(6)).with_parking(changes, Vec::new());
    models.commit(step, nothing()).await.unwrap();
    let planned = operate::prunable(log, models, PruneTarget::Keys, &week).await.unwrap();
    assert_eq!((planned.rows(), planned.parts[0].through), (4, Some(Position::new(5))));
    assert!(planned.parts[0].held_by.is_none() && planned.is_complete, "{planned:?}");

    let two = operate::prune(log, models, PruneTarget::Keys, &week.clone().with_limit(2), &by()).await.unwrap();
    assert!(two.rows() == 2 && !two.is_complete, "{two:?}");
    let rest = operate::prune(log, models, PruneTarget::Keys, &week, &by()).await.unwrap();
    assert!(rest.rows() == 2 && rest.is_complete, "{rest:?}");
    let left: Vec<_> = log.keys("", 10).await.unwrap().unwrap().into_iter().map(|row| row.key).collect();
    assert_eq!(left, ["d", "process:shipping:1"]);
    assert_eq!(keyed(log, 6, "d").await, Outcome::Repeated);
    assert_eq!(keyed(log, 9, "a").await, Outcome::Written);
    let audit = operate::audit(models, 10, None).await.unwrap();
    let entries: Vec<_> = audit.iter().map(|entry| (entry.action, entry.target.as_str(), entry.count)).collect();
    assert_eq!(entries[..2], [(Action::PruneKeys, "keys 5", 2), (Action::PruneKeys, "keys 5", 2)]);
}

#[tokio::test]
async fn old_keys_are_deleted_in_sqlite() {
    let database = Database::sqlite();
    let (log, models) = crate::sqlite_of(&database).await;
    old_keys_are_deleted(&log, &models, &database.place).await;
    let none = operate::prune(&log, &models, PruneTarget::Commits, &any_age(), &by()).await;
    assert!(matches!(none.unwrap_err().kind(), ErrorKind::Invalid(_)));
}

#[tokio::test]
async fn old_keys_are_deleted_in_mysql() {
    let database = Database::mysql().await;
    let (log, models) = crate::mysql_of(&database).await;
    old_keys_are_deleted(&log, &models, &database.place).await;
    log.close().await.unwrap();
}

#[tokio::test]
async fn old_keys_and_commits_are_deleted_in_postgres() {
    let database = Database::postgres().await;
    let (log, models) = crate::postgres_of(&database).await;
    old_keys_are_deleted(&log, &models, &database.place).await;

    // Seven commits, of which five are old. One more has no position.
    let week = PruneOptions::older_than(Duration::from_hours(7 * 24));
    append(&log, 10, "order", "x", "order.placed").await;
    let commits = async |options: &PruneOptions| {
        let planned = operate::prunable(&log, &models, PruneTarget::Commits, options).await.unwrap();
        let pruned = operate::prune(&log, &models, PruneTarget::Commits, options, &by()).await.unwrap();
        assert_eq!(planned.rows(), pruned.rows());
        (pruned.rows(), pruned.is_complete)
    };
    assert_eq!(commits(&week.clone().with_limit(2)).await, (2, false));
    assert_eq!(commits(&week).await, (3, true));
    assert_eq!(commits(&any_age()).await, (2, true), "the commit without a position stays");
    assert_eq!(log.head().await.unwrap(), Position::new(8));
    append(&log, 11, "order", "x", "order.placed").await;
    assert_eq!(log.head().await.unwrap(), Position::new(9));
    let verified = operate::verify(&log, &models, operate::VerifyOptions::new()).await.unwrap();
    assert!(verified.faults.is_empty(), "{verified:?}");
    log.close().await.unwrap();
}
