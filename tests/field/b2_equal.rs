//! A state in memory is the fold of what is stored: in the cache, from a snapshot, and in scenarios.

use std::convert::Infallible;

use retell::prelude::*;
use retell::process::CommandFailure;
use retell::testing::given;
use retell::{Context, Repository};

use crate::stores::every_store;

#[derive(Event, Debug, PartialEq, Clone)]
enum Changed {
    #[event("changed.price")]
    Price(f64),
    #[event("changed.owner")]
    Owner { by: Option<Option<u32>> },
    #[event("changed.note")]
    Note {
        #[serde(skip)]
        note: String,
    },
    #[event("changed.unit")]
    Unit(Option<()>),
    #[event("changed.compact", codec = "compact")]
    Compact(Option<Option<u32>>),
}

#[derive(Aggregate, Clone, Default, Debug, PartialEq)]
#[aggregate("changed", event = Changed, snapshots = 1)]
struct Thing {
    price: f64,
    by: Option<Option<u32>>,
    note: String,
    unit: Option<()>,
}

impl Apply<Changed> for Thing {
    fn apply(&mut self, event: Changed) {
        match event {
            Changed::Price(price) => self.price = price,
            Changed::Owner { by } | Changed::Compact(by) => self.by = by,
            Changed::Note { note } => self.note = note,
            Changed::Unit(unit) => self.unit = unit,
        }
    }
}

impl Handle<Changed> for Thing {
    type Error = Infallible;

    fn handle(&self, event: &Changed) -> Result<Vec<Changed>, Infallible> {
        Ok(vec![event.clone()])
    }
}

/// The same events without snapshots.
#[derive(Aggregate, Clone, Default, Debug, PartialEq)]
#[aggregate("changed", event = Changed, snapshots = never)]
struct Plain(Thing);

impl Apply<Changed> for Plain {
    fn apply(&mut self, event: Changed) {
        Apply::apply(&mut self.0, event);
    }
}

/// Numbers of which JSON without `float_roundtrip` changes about one in eight.
fn floats() -> impl Iterator<Item = f64> {
    (0..200u64).map(|i| f64::from_bits(0x3ff0_0000_0000_0000 + i * 0x000f_1234_5678_9abc))
}

fn changes() -> Vec<Changed> {
    let others = [
        Changed::Owner { by: Some(None) },
        Changed::Note { note: "by phone".into() },
        Changed::Unit(Some(())),
        Changed::Compact(Some(None)),
    ];
    floats().filter(|float| float.is_finite()).map(Changed::Price).chain(others).collect()
}

#[tokio::test]
async fn cache_snapshot_and_fold_of_the_log_agree() {
    for store in every_store().await {
        let here = Repository::<Thing>::over(store.events.clone());
        for event in changes() {
            here.execute("1", event.clone()).await.unwrap();
            here.flush().await;
            let cached = here.load("1").await.unwrap().state;
            let from_snapshot = Repository::<Thing>::over(store.events.clone()).load("1").await.unwrap().state;
            assert_eq!(cached, from_snapshot, "{}: after {event:?}", store.name);
        }
        let cached = here.load("1").await.unwrap().state;
        let folded = Repository::<Plain>::over(store.events).load("1").await.unwrap().state;
        assert_eq!(cached, folded.0, "{}", store.name);
    }
}

#[test]
fn a_float_keeps_every_bit() {
    for float in floats() {
        let new = NewEvent::new(&Changed::Price(float)).unwrap();
        let read: f64 = new.codec.decode(&new.payload).unwrap();
        assert_eq!(read.to_bits(), float.to_bits());
    }
}

#[test]
fn a_scenario_fails_on_an_event_that_storing_changes() {
    for event in [Changed::Owner { by: Some(None) }, Changed::Note { note: "x".into() }, Changed::Unit(Some(()))] {
        let emitted = event.clone();
        std::panic::catch_unwind(|| given::<Thing>([]).when(emitted.clone()).then([emitted])).unwrap_err();
    }
    given::<Thing>([Changed::Note { note: "x".into() }]).then_state(Thing::default());
    given::<Thing>([]).when(Changed::Compact(Some(None))).then([Changed::Compact(Some(None))]);
}

/// Keeps the newest owner of all things.
struct Owner;

impl View for Owner {
    const NAME: &'static str = "owner";
    type Event = Changed;
    type State = Option<Option<u32>>;

    fn key(&self, event: &Envelope<Changed>) -> Option<String> {
        matches!(event.event, Changed::Compact(_)).then(|| event.stream.aggregate_id().to_string())
    }

    fn apply(&self, owner: &mut Option<Option<u32>>, event: Envelope<Changed>) {
        if let Changed::Compact(by) = event.event {
            *owner = by;
        }
    }
}

#[tokio::test]
async fn a_view_state_that_storing_changes_is_refused() {
    let (log, models) = (MemoryStore::new(), MemoryReadModel::new());
    for (id, by) in [("1", Some(None)), ("2", Some(Some(7)))] {
        log.append_events(("changed", id), ExpectedVersion::Any, [Changed::Compact(by)]).await.unwrap();
    }
    let caught_up = Worker::view(Owner, log, models.clone()).catch_up().await.unwrap();
    let [parked] = &caught_up.parked[..] else { panic!("{caught_up:?}") };
    assert!(parked.error.contains("cannot tell `Some` of an empty value"), "{}", parked.error);
    assert_eq!(Views::new(&Owner, models).get("2").await.unwrap(), Some(Some(Some(7))));
}

/// Sends the owner of a thing as a command.
struct Tell;

#[async_trait]
impl Process for Tell {
    const NAME: &'static str = "tell";
    type Event = Changed;
    type State = ();
    type Command = Option<Option<u32>>;

    fn key(&self, event: &Envelope<Changed>) -> Option<AggregateId> {
        Some(event.stream.aggregate_id().clone())
    }

    fn on_event(&self, (): &mut (), event: &Envelope<Changed>, effects: &mut Effects<Option<Option<u32>>>) {
        if let Changed::Compact(by) = event.event {
            effects.send(by);
        }
    }

    async fn execute(&self, _: &AggregateId, by: Option<Option<u32>>, _: Context) -> Result<(), CommandFailure> {
        if by == Some(None) { Err(CommandFailure::Rejected("not the recorded command".into())) } else { Ok(()) }
    }

    fn on_rejected(&self, (): &mut (), _: &Option<Option<u32>>, reason: &str, _: &mut Effects<Option<Option<u32>>>) {
        panic!("{reason}");
    }
}

#[tokio::test]
async fn a_process_sends_its_commands_as_they_are_recorded() {
    let (log, models) = (MemoryStore::new(), MemoryReadModel::new());
    log.append_events(("changed", "1"), ExpectedVersion::Any, [Changed::Compact(Some(None))]).await.unwrap();
    let caught_up = ProcessManager::new(Tell, log, models).catch_up().await.unwrap();
    assert!(caught_up.parked.is_empty(), "{caught_up:?}");
}
