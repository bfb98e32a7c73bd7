//! Behavior of reactions on every kind of read model.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use retell::event::NewEvent;
use retell::reaction::ReactionProjection;
use retell::store::{Append, Step};
use retell::worker::{ParkingOptions, WorkerOptions};
use retell::{
    BoxError, Envelope, Event, EventId, EventReader, EventStore, ExpectedVersion, MemoryReadModel, MemoryStore,
    Position, ProjectionName, Reaction, ReadModel, StartFrom, StreamId, Worker, async_trait,
};
use tokio::time::Instant;

use crate::notebook::{Notebook, Notes};
use crate::workers::{reached, until, while_running};

#[derive(Event, Debug, Clone, PartialEq)]
#[event("order.placed")]
struct Placed {
    fails: bool,
}

#[derive(Event, Debug, Clone, PartialEq)]
#[event("order.viewed")]
struct Viewed;

/// Sends a mail and writes a note of it.
struct Mails<T> {
    /// Attempted mails with the time of each attempt.
    sent: Arc<Mutex<Vec<(EventId, Instant)>>>,
    /// While true, events with `fails` fail.
    is_broken: Arc<Mutex<bool>>,
    tx: PhantomData<fn(&mut T)>,
}

impl<T> Clone for Mails<T> {
    fn clone(&self) -> Self {
        Self { sent: self.sent.clone(), is_broken: self.is_broken.clone(), tx: PhantomData }
    }
}

impl<T> Mails<T> {
    fn new() -> Self {
        Self { sent: Arc::default(), is_broken: Arc::new(Mutex::new(true)), tx: PhantomData }
    }

    fn sent(&self) -> Vec<EventId> {
        self.sent.lock().unwrap().iter().map(|(event, _)| *event).collect()
    }
}

#[async_trait]
impl<T: Notes> Reaction for Mails<T> {
    const NAME: &'static str = "mails";
    type Event = Placed;
    type Tx = T;

    async fn setup(&self, tx: &mut T) -> Result<(), BoxError> {
        tx.make().await
    }

    async fn react(&self, tx: &mut T, event: Envelope<Placed>) -> Result<(), BoxError> {
        tx.note(event.id).await?;
        self.sent.lock().unwrap().push((event.id, Instant::now()));
        if event.event.fails && *self.is_broken.lock().unwrap() { Err("no such address".into()) } else { Ok(()) }
    }
}

fn name() -> ProjectionName {
    ProjectionName::new("mails").unwrap()
}

fn eager() -> WorkerOptions {
    let brief = Duration::from_millis(5);
    let parking = ParkingOptions::new().with_delays(Duration::from_millis(50), Duration::from_millis(50));
    WorkerOptions::new().with_sweep(brief).with_longest_delay(brief).with_retries(1).with_parking(parking)
}

async fn append(log: &MemoryStore, id: &str, event: &impl Event) -> EventId {
    let event = NewEvent::new(event).unwrap();
    let (id, stream) = (event.id, StreamId::parse("order", id).unwrap());
    log.append(Append::new(stream, ExpectedVersion::Any, vec![event])).await.map(|_| id).unwrap()
}

async fn place(log: &MemoryStore, id: &str) -> EventId {
    append(log, id, &Placed { fails: false }).await
}

async fn settled<M: ReadModel>(models: &M, log: &MemoryStore) {
    reached(models, &name(), log.head().await.unwrap().get()).await;
}

async fn released<M: ReadModel>(models: &M) {
    until(async || models.parking(&name()).await.unwrap().parked.is_empty()).await;
}

/// Moves the checkpoint from `from` to the beginning.
async fn set_back<M: ReadModel>(models: &M, from: Position) {
    let changes = models.parking(&name()).await.unwrap().changes;
    let step = Step::new(&name(), from, Position::ZERO).with_parking(changes, Vec::new());
    models.commit(step, Box::new(|_| Box::pin(async { Ok(()) }))).await.unwrap();
}

fn ids(notes: &[String]) -> Vec<String> {
    let mut ids = notes.to_vec();
    ids.sort();
    ids
}

fn of(events: &[EventId]) -> Vec<String> {
    ids(&events.iter().map(ToString::to_string).collect::<Vec<_>>())
}

pub(crate) async fn a_failing_event_parks_only_its_aggregate<M: Notebook>(models: M)
where
    M::Tx: Sized,
{
    let (log, mails) = (MemoryStore::new(), Mails::new());
    let before = place(&log, "a").await;
    let failing = append(&log, "b", &Placed { fails: true }).await;
    append(&log, "a", &Viewed).await;
    let behind = place(&log, "b").await;
    let after = place(&log, "c").await;
    let worker =
        [Worker::reaction(mails.clone(), StartFrom::Beginning, log.clone(), models.clone()).with_options(eager())];
    while_running(&worker, async {
        settled(&models, &log).await;
        let parked = models.parking(&name()).await.unwrap().parked;
        assert_eq!(parked.len(), 1);
        assert_eq!((parked[0].from_position, parked[0].error.contains("no such address")), (Position::new(2), true));
        assert_eq!(models.notes().await, of_in_order(&[before, after]));
        *mails.is_broken.lock().unwrap() = false;
        released(&models).await;
    })
    .await;
    assert_eq!(models.notes().await, of_in_order(&[before, after, failing, behind]));
    let sent = mails.sent();
    let times = |event| sent.iter().filter(|sent| **sent == event).count();
    assert_eq!([before, behind, after].map(times), [1, 1, 1], "a failure repeats no other mail");
    assert!(times(failing) >= 2, "it failed, and was retried when it was released");
}

pub(crate) async fn a_failing_event_repeats_no_note_of_its_batch<M: Notebook>(models: M)
where
    M::Tx: Sized,
{
    let (log, mails) = (MemoryStore::new(), Mails::new());
    let mut good = Vec::new();
    for number in 0..8 {
        if number == 6 {
            append(&log, "poison", &Placed { fails: true }).await;
        } else {
            good.push(place(&log, &number.to_string()).await);
        }
    }
    let worker =
        Worker::reaction(mails.clone(), StartFrom::Beginning, log.clone(), models.clone()).with_options(eager());
    while_running(&[worker.with_reactions_at_once(4)], settled(&models, &log)).await;
    assert_eq!(ids(&models.notes().await), of(&good));
    let sent = mails.sent();
    let times = |event: &EventId| sent.iter().filter(|sent| *sent == event).count();
    assert_eq!((times(&good[0]), times(&good[3])), (1, 1), "the first four have a transaction that succeeds");
    assert!(times(&good[4]) > 1, "the others share one with the event that fails");
}

fn of_in_order(events: &[EventId]) -> Vec<String> {
    events.iter().map(ToString::to_string).collect()
}

pub(crate) async fn a_checkpoint_moved_back_repeats_no_reaction<M: Notebook>(models: M)
where
    M::Tx: Sized,
{
    let (log, mails) = (MemoryStore::new(), Mails::new());
    let mut events = Vec::new();
    for number in 0..30 {
        events.push(place(&log, &format!("{}", number % 7)).await);
    }
    let run = async || {
        let worker =
            [Worker::reaction(mails.clone(), StartFrom::Beginning, log.clone(), models.clone()).with_options(eager())];
        while_running(&worker, settled(&models, &log)).await;
    };
    run().await;
    set_back(&models, Position::new(30)).await;
    events.push(place(&log, "new").await);
    run().await;
    assert_eq!(models.checkpoint(&name()).await.unwrap(), Position::new(31));
    assert_eq!(models.notes().await, of_in_order(&events));
    assert_eq!(mails.sent(), events, "no mail was sent again");
}

pub(crate) async fn a_new_reaction_ignores_earlier_events<M: Notebook>(models: M)
where
    M::Tx: Sized,
{
    let (log, mails) = (MemoryStore::new(), Mails::new());
    for _ in 0..20 {
        place(&log, "past").await;
    }
    let run = async || {
        let worker =
            [Worker::reaction(mails.clone(), StartFrom::Now, log.clone(), models.clone()).with_options(eager())];
        while_running(&worker, settled(&models, &log)).await;
    };
    run().await;
    assert_eq!(mails.sent(), []);
    // The reaction has started: events that arrive while it is stopped are not skipped.
    let event = place(&log, "past").await;
    run().await;
    assert_eq!(mails.sent(), [event]);
    set_back(&models, Position::new(21)).await;
    run().await;
    assert_eq!(models.notes().await, of_in_order(&[event]));
    assert_eq!(mails.sent(), [event]);
}

pub(crate) async fn catch_up_reports_parked_events<M: Notebook>(models: M)
where
    M::Tx: Sized,
{
    let (log, mails) = (MemoryStore::new(), Mails::new());
    let worker = Worker::reaction(mails.clone(), StartFrom::Beginning, log.clone(), models.clone());
    catches_up(&worker.with_options(eager()), &log, &mails, &models).await;
}

pub(crate) async fn catch_up_reports_parked_events_per_aggregate<M: Notebook>(models: M)
where
    M::Tx: Sized,
{
    let (log, mails) = (MemoryStore::new(), Mails::new());
    let worker = Worker::reaction(mails.clone(), StartFrom::Beginning, log.clone(), models.clone());
    catches_up(&worker.with_options(eager()).with_order_per_aggregate(), &log, &mails, &models).await;
}

/// Catches up without a broker or another running task.
async fn catches_up<M: Notebook>(
    worker: &Worker<ReactionProjection<Mails<M::Tx>, M>, M>,
    log: &MemoryStore,
    mails: &Mails<M::Tx>,
    models: &M,
) where
    M::Tx: Sized,
{
    assert_eq!(worker.catch_up().await.unwrap().position, Position::ZERO, "an empty log");
    let mut events = vec![place(log, "good").await];
    let failing = append(log, "bad", &Placed { fails: true }).await;
    let after = place(log, "bad").await;
    events.push(place(log, "good").await);
    append(log, "good", &Viewed).await;
    let caught_up = worker.catch_up().await.unwrap();
    assert_eq!(caught_up.position, Position::new(5), "the last event is not wanted");
    let [parked] = &*caught_up.parked else { panic!("{caught_up:?}") };
    assert_eq!((parked.stream.to_string().as_str(), parked.from_position), ("order/bad", Position::new(2)));
    assert!(parked.error.contains("no such address") && !caught_up.is_complete(), "{parked:?}");
    assert_eq!(models.checkpoint(&name()).await.unwrap(), Position::new(5));
    assert_eq!(*worker.applied().borrow(), Position::new(5));
    assert_eq!(ids(&models.notes().await), of(&events));
    assert_eq!(worker.catch_up().await.unwrap().position, Position::new(5), "nothing to do");
    *mails.is_broken.lock().unwrap() = false;
    until(async || worker.catch_up().await.unwrap().is_complete()).await;
    events.extend([failing, after]);
    assert_eq!(ids(&models.notes().await), of(&events), "catch_up retries aggregates that are due");
}

pub(crate) async fn workers_share_a_reaction_in_aggregate_order<M: Notebook>(models: M)
where
    M::Tx: Sized,
{
    let (log, mails) = (MemoryStore::new(), Mails::new());
    for number in 0..10 {
        place(&log, &format!("{}", number % 3)).await;
    }
    let worker = || {
        Worker::reaction(mails.clone(), StartFrom::Now, log.clone(), models.clone())
            .with_options(eager())
            .with_order_per_aggregate()
    };
    while_running(&[worker()], settled(&models, &log)).await;
    let mut events = Vec::new();
    let failing = append(&log, "bad", &Placed { fails: true }).await;
    for number in 0..60 {
        events.push(place(&log, &format!("{}", number % 5)).await);
    }
    while_running(&[worker(), worker(), worker()], async {
        settled(&models, &log).await;
        assert_eq!(ids(&models.notes().await), of(&events), "neither past events nor the failing one");
        *mails.is_broken.lock().unwrap() = false;
        released(&models).await;
    })
    .await;
    events.push(failing);
    assert_eq!(ids(&models.notes().await), of(&events));
    for number in 0..5 {
        let of_one: Vec<_> = events.iter().take(60).skip(number).step_by(5).copied().collect();
        let mut sent = mails.sent();
        sent.retain(|event| of_one.contains(event));
        assert_eq!(sent, of_one, "each aggregate's in order");
    }
}

/// Runs with a paused clock that advances only by the waits themselves.
pub(crate) async fn a_rate_limit_holds_over_any_second() {
    let (log, models, mails) = (MemoryStore::new(), MemoryReadModel::with_value(Vec::new()), Mails::new());
    for number in 0..23 {
        place(&log, &number.to_string()).await;
    }
    let worker = Worker::reaction(mails.clone(), StartFrom::Beginning, log.clone(), models.clone());
    while_running(&[worker.with_rate(5).with_reactions_at_once(10)], settled(&models, &log)).await;
    let times: Vec<_> = mails.sent.lock().unwrap().iter().map(|(_, at)| *at).collect();
    assert_eq!(times.len(), 23);
    assert!(times.windows(6).all(|six| six[5] - six[0] >= Duration::from_secs(1)), "{times:?}");
    assert!(times[22] - times[0] < Duration::from_secs(5), "the limit is used up");
}

pub(crate) async fn a_stopped_reaction_leaves_the_rest_of_its_batch() {
    let (log, models, mails) = (MemoryStore::new(), MemoryReadModel::with_value(Vec::new()), Mails::new());
    for number in 0..10 {
        place(&log, &number.to_string()).await;
    }
    let worker = [Worker::reaction(mails.clone(), StartFrom::Beginning, log.clone(), models.clone()).with_rate(1)];
    while_running(&worker, until(async || mails.sent().len() >= 3)).await;
    assert_eq!((mails.sent().len(), models.notes().await.len()), (3, 3));
    while_running(&worker, settled(&models, &log)).await;
    assert_eq!(models.notes().await.len(), 10);
}
