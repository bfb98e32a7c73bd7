//! A6. The cost of a step depends on what it changes, not on how long the process is or how many deadlines it has.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeZone, Utc};
use retell::prelude::*;
use retell::store::{Replay, Snapshot};
use retell::testing::given_process;
use retell::testing::store::replayed;
use retell::{DeadlineStore, EventReaderExt, MemoryReadModel, ProjectionName, SnapshotPolicy};
use serde::{Deserialize, Serialize};

use crate::counter::{Add, Counter, CounterEvent};
use crate::counting::Counting;
use crate::sites::{Site, on_every_store};

#[derive(Event, Debug, Clone)]
enum ClockEvent {
    /// Leads to as many deadlines.
    #[event("clock.wound")]
    Wound { deadlines: u32 },
    #[event("clock.ticked")]
    Ticked,
    #[event("clock.stopped")]
    Stopped,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Do {
    Count,
    /// Is refused.
    CountDown,
}

/// Counts the events of a clock, and ends when it stops.
struct Watch(Repository<Counter>);

fn far() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2200, 1, 1, 0, 0, 0).unwrap()
}

#[async_trait]
impl Process for Watch {
    const NAME: &'static str = "watch";
    const SNAPSHOTS: SnapshotPolicy = SnapshotPolicy::Every(10);
    type Event = ClockEvent;
    type State = u64;
    type Command = Do;

    fn key(&self, event: &Envelope<ClockEvent>) -> Option<AggregateId> {
        Some(event.stream.aggregate_id().clone())
    }

    fn on_event(&self, events: &mut u64, event: &Envelope<ClockEvent>, effects: &mut Effects<Do>) {
        *events += 1;
        match event.event {
            ClockEvent::Wound { deadlines } => {
                for deadline in 0..deadlines {
                    effects.set_deadline(format!("deadline {deadline}"), far());
                }
            }
            ClockEvent::Ticked => {
                effects.set_deadline("next", far());
            }
            ClockEvent::Stopped => {
                effects.send(Do::Count).send(Do::CountDown).set_deadline("late", far()).end();
            }
        }
    }

    fn on_rejected(&self, _: &mut u64, _: &Do, _: &str, effects: &mut Effects<Do>) {
        effects.send(Do::Count);
    }

    async fn execute(&self, key: &AggregateId, command: Do, context: Context) -> Result<(), CommandFailure> {
        let amount = if command == Do::Count { 1 } else { -1_000 };
        self.0.execute_with(key.clone(), Add(vec![amount]), context).await?;
        Ok(())
    }
}

async fn append(store: &impl EventStore, events: impl IntoIterator<Item = ClockEvent>) {
    store.append_events(("clock", "a"), ExpectedVersion::Any, events).await.unwrap();
}

/// Takes the steps of all events with a manager that has nothing in memory. Returns the log that it has used.
async fn catch_up<M: DeadlineStore + Clone>(store: &(impl EventStore + Clone), models: &M) -> Counting {
    let log = Counting::new(Arc::new(store.clone()));
    let manager = ProcessManager::new(Watch(Repository::new(store.clone())), log.clone(), models.clone());
    let caught_up = manager.catch_up().await.unwrap();
    assert!(caught_up.is_complete(), "{caught_up:?}");
    assert_eq!(manager.snapshot_failures(), 0);
    log
}

fn process() -> StreamId {
    StreamId::parse(Watch::NAME, "a").unwrap()
}

/// The fingerprint of the snapshots of processes.
const FINGERPRINT: u64 = 1;

/// Waits for a snapshot of the process at `version` or later. Snapshots are written in the background.
async fn snapshot_at(store: &impl EventStore, version: u64) {
    let waiting = async {
        loop {
            let seen = replayed(store, &process(), Replay::ALL.with_snapshot(FINGERPRINT)).await.unwrap();
            if seen.snapshot.is_some_and(|(found, _)| found.get() >= version) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(5), waiting).await.expect("a snapshot is saved");
}

async fn last_step(store: &impl EventStore) -> String {
    let mut steps = store.read_stream(&process(), Version::ZERO, 1_000).await.unwrap();
    String::from_utf8(steps.pop().unwrap().event.payload.to_vec()).unwrap()
}

/// All deadlines of the process, at most 10,000.
async fn deadlines(models: &impl DeadlineStore) -> usize {
    let name = ProjectionName::new(Watch::NAME).unwrap();
    models.due_deadlines(&name, DateTime::<Utc>::MAX_UTC, 10_000).await.unwrap().len()
}

async fn cold_step_replays_few_steps<S, M>(Site { store, models, database: _database }: Site<S, M>)
where
    S: EventStore + Clone,
    M: DeadlineStore + Clone,
{
    append(&store, [ClockEvent::Wound { deadlines: 3 }]).await;
    append(&store, (0..44).map(|_| ClockEvent::Ticked)).await;
    catch_up(&store, &models).await;
    snapshot_at(&store, 30).await;
    append(&store, [ClockEvent::Ticked]).await;
    let log = catch_up(&store, &models).await;
    // A snapshot that is skipped, because others are being written, is due again with the next step.
    assert!(log.replayed() <= 15 && log.snapshots() == 1, "{} steps", log.replayed());
    assert!(last_step(&store).await.contains(r#""state":46"#));
    assert_eq!(deadlines(&models).await, 4);
    // The snapshot is as good as the steps.
    let from_start = replayed(&store, &process(), Replay::ALL).await.unwrap();
    assert_eq!(from_start.versions().len(), 46);
}

async fn step_writes_only_what_it_changes<S, M>(Site { store, models, database: _database }: Site<S, M>)
where
    S: EventStore + Clone,
    M: DeadlineStore + Clone,
{
    append(&store, [ClockEvent::Wound { deadlines: 3_000 }]).await;
    let first = catch_up(&store, &models).await;
    assert_eq!((first.appends(), deadlines(&models).await), (1, 3_000));
    append(&store, (0..20).map(|_| ClockEvent::Ticked)).await;
    let later = catch_up(&store, &models).await;
    assert_eq!((later.appends(), deadlines(&models).await), (20, 3_001));
    let bytes = later.payload_bytes();
    assert!(bytes < 20 * 500, "20 steps have {bytes} bytes, and the step with all deadlines {}", first.payload_bytes());
}

/// The end of a process is final. Later events cost one read of its snapshot and leave nothing.
async fn ended_process_ignores_later_events<S, M>(Site { store, models, database: _database }: Site<S, M>)
where
    S: EventStore + Clone,
    M: DeadlineStore + Clone,
{
    append(&store, [ClockEvent::Wound { deadlines: 50 }]).await;
    append(&store, (0..16).map(|_| ClockEvent::Ticked)).await;
    catch_up(&store, &models).await;
    append(&store, [ClockEvent::Stopped]).await;
    catch_up(&store, &models).await;
    assert_eq!(deadlines(&models).await, 0, "its deadlines are gone");
    let counted = async || Repository::<Counter>::new(store.clone()).load("a").await.unwrap().state.total;
    assert_eq!(counted().await, 1, "its last command was sent, and the refusal of the other led to nothing");
    let steps = async || store.read_stream(&process(), Version::ZERO, 1_000).await.unwrap().len();
    assert_eq!(steps().await, 19, "18 events and a refusal");

    append(&store, [ClockEvent::Ticked, ClockEvent::Stopped, ClockEvent::Wound { deadlines: 5 }, ClockEvent::Ticked])
        .await;
    let log = catch_up(&store, &models).await;
    assert_eq!(log.appends(), 0);
    // The refusal may have been recorded after the snapshot.
    assert!(log.replayed() <= 1 && log.snapshots() == 1, "{} steps", log.replayed());
    assert_eq!((deadlines(&models).await, counted().await, steps().await), (0, 1, 19));

    // A manager that starts over, without a checkpoint, finds what was done.
    catch_up(&store, &MemoryReadModel::new()).await;
    assert_eq!((counted().await, steps().await), (1, 19));
}

async fn unreadable_snapshot_of_a_process_is_counted<S, M>(Site { store, models, database: _database }: Site<S, M>)
where
    S: EventStore + Clone,
    M: DeadlineStore + Clone,
{
    append(&store, (0..5).map(|_| ClockEvent::Ticked)).await;
    catch_up(&store, &models).await;
    let last = store.read_stream(&process(), Version::new(4), 1).await.unwrap().remove(0);
    let damaged = Snapshot::new(last.version, last.event.id, FINGERPRINT, b"{}".to_vec());
    store.save_snapshot(&process(), damaged).await.unwrap();
    append(&store, [ClockEvent::Ticked]).await;
    let manager = ProcessManager::new(Watch(Repository::new(store.clone())), store.clone(), models);
    assert!(manager.catch_up().await.unwrap().is_complete());
    assert_eq!(manager.snapshot_failures(), 1);
    assert!(last_step(&store).await.contains(r#""state":6"#));
}

on_every_store! {
    cold_step_replays_few_steps,
    step_writes_only_what_it_changes,
    ended_process_ignores_later_events,
    unreadable_snapshot_of_a_process_is_counted,
}

#[test]
fn scenario_shows_the_end_of_a_process() {
    let watch = || given_process(Watch(Repository::new(MemoryStore::new())));
    watch()
        .given([("clock/a", ClockEvent::Wound { deadlines: 2 })])
        .when("clock/a", ClockEvent::Stopped)
        .then_sends([Do::Count, Do::CountDown])
        .then_no_deadline("deadline 0")
        .then_no_deadline("late")
        .then_ended()
        .when("clock/a", ClockEvent::Ticked)
        .then_sends([])
        .then_state(2)
        .after(Duration::from_hours(24 * 365 * 300))
        .then_sends([]);
    watch()
        .given([("clock/a", ClockEvent::Stopped)])
        .when_rejected(Do::CountDown, "too low")
        .then_sends([])
        .then_ended();
}

#[test]
fn last_call_for_a_deadline_counts() {
    struct Undecided;

    #[async_trait]
    impl Process for Undecided {
        const NAME: &'static str = "undecided";
        type Event = CounterEvent;
        type State = ();
        type Command = ();

        fn key(&self, event: &Envelope<CounterEvent>) -> Option<AggregateId> {
            Some(event.stream.aggregate_id().clone())
        }

        fn on_event(&self, (): &mut (), event: &Envelope<CounterEvent>, effects: &mut Effects<()>) {
            let at = |hours| event.recorded_at + Duration::from_hours(hours);
            effects.set_deadline("twice", at(1)).set_deadline("twice", at(2));
            effects.set_deadline("canceled", at(1)).cancel_deadline("canceled");
            effects.cancel_deadline("set").set_deadline("set", at(3));
        }

        async fn execute(&self, _: &AggregateId, (): (), _: Context) -> Result<(), CommandFailure> {
            Ok(())
        }
    }
    let added = || CounterEvent::Added { amount: 1 };
    for given in [vec![], vec![("counter/a", added())]] {
        given_process(Undecided)
            .given(given)
            .when("counter/a", added())
            .then_deadline("twice", Duration::from_hours(2))
            .then_deadline("set", Duration::from_hours(3))
            .then_no_deadline("canceled");
    }
}
