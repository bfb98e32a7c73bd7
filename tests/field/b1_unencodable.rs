//! B1. A value that cannot be decoded again is refused when it is written.

use std::collections::BTreeMap;
use std::convert::Infallible;

use retell::prelude::*;
use retell::process::CommandFailure;
use retell::testing::given;
use retell::{ErrorKind, Repository};

use crate::stores::every_store;

#[derive(Value, Clone, Debug, PartialEq)]
enum Node {
    Leaf,
    List(Vec<Node>),
}

#[derive(Value, Clone, Debug, PartialEq)]
struct Money {
    wei: u128,
}

#[derive(Value, Clone, Debug, PartialEq)]
#[serde(untagged)]
enum Either {
    Wide(i128),
    Text(String),
}

#[derive(Value, Clone, Debug, PartialEq)]
#[serde(tag = "kind")]
enum Tagged {
    Wide { amount: u128 },
}

#[derive(Event, Debug, PartialEq, Clone)]
enum Odd {
    #[event("odd.measured")]
    Measured(f64),
    #[event("odd.guessed")]
    Guessed { about: Option<f32> },
    #[event("odd.nested")]
    Nested(Node),
    #[event("odd.paid")]
    Paid {
        by: String,
        #[serde(flatten)]
        amount: Money,
    },
    #[event("odd.either")]
    Either(Either),
    #[event("odd.tagged")]
    Tagged(Tagged),
    #[event("odd.compact", codec = "compact")]
    Compact(f64),
}

#[derive(Aggregate, Clone, Default, Debug)]
#[aggregate("odd", event = Odd, snapshots = never)]
struct Count(u64);

impl Apply<Odd> for Count {
    fn apply(&mut self, _: Odd) {
        self.0 += 1;
    }
}

impl Handle<Odd> for Count {
    type Error = Infallible;

    fn handle(&self, event: &Odd) -> Result<Vec<Odd>, Infallible> {
        Ok(vec![event.clone()])
    }
}

fn deep(levels: usize) -> Node {
    (0..levels).fold(Node::Leaf, |inner, _| Node::List(vec![inner]))
}

fn unreadable() -> Vec<Odd> {
    const WIDE: u128 = 100_000_000_000_000_000_000;
    vec![
        Odd::Measured(f64::NAN),
        Odd::Measured(f64::NEG_INFINITY),
        Odd::Guessed { about: Some(f32::INFINITY) },
        Odd::Nested(deep(64)),
        Odd::Nested(deep(1_000)),
        Odd::Paid { by: "ada".into(), amount: Money { wei: WIDE } },
        Odd::Paid { by: "ada".into(), amount: Money { wei: 10 } },
        Odd::Either(Either::Wide(-170_141_183_460_469_231_731_687_303_715_884_105_728)),
        Odd::Tagged(Tagged::Wide { amount: WIDE }),
    ]
}

fn is_unencodable(error: &retell::Error) -> bool {
    matches!(error.kind(), ErrorKind::Unencodable(what) if what.contains("odd."))
        && std::error::Error::source(error).is_some()
}

#[tokio::test]
async fn an_event_that_cannot_be_read_back_is_refused() {
    for store in every_store().await {
        let here = Repository::<Count>::over(store.events.clone());
        for (number, event) in unreadable().into_iter().enumerate() {
            let id = format!("{number}");
            let readable = {
                // Where serde itself reads such a number, the event is written, and every reader gets it.
                let mut payload = Vec::new();
                event.encode(&mut payload).is_ok() && NewEvent::new(&event).is_ok()
            };
            match here.execute(id.as_str(), event.clone()).await {
                Err(CommandError::Failed(error)) => assert!(is_unencodable(&error), "{}: {error}", store.name),
                Ok(_) => assert!(readable, "{}: {event:?} was written", store.name),
                Err(other) => panic!("{}: {other}", store.name),
            }
            let there = Repository::<Count>::over(store.events.clone()).load(id.as_str()).await.unwrap();
            assert_eq!(there.state.0, u64::from(readable), "{}: {event:?}", store.name);
            assert_eq!(here.load(id.as_str()).await.unwrap().state.0, there.state.0);

            let appended = store.events.append_events(("odd", id.as_str()), ExpectedVersion::Any, [event]).await;
            assert_eq!(appended.is_ok(), readable, "{}", store.name);
        }
        for fine in [Odd::Compact(f64::NAN), Odd::Nested(deep(60)), Odd::Guessed { about: None }] {
            here.execute("fine", fine).await.unwrap();
        }
        assert_eq!(Repository::<Count>::over(store.events).load("fine").await.unwrap().state.0, 3);
    }
}

#[test]
fn numbers_that_json_lacks_and_deep_nesting_are_refused() {
    for event in unreadable().into_iter().take(5) {
        let refused = NewEvent::new(&event).unwrap_err();
        assert!(is_unencodable(&refused), "{refused}");
    }
}

#[test]
fn a_scenario_fails_on_an_event_that_cannot_be_read() {
    for event in [Odd::Measured(f64::INFINITY), Odd::Nested(deep(64)), Odd::Guessed { about: Some(f32::NAN) }] {
        let emitted = event.clone();
        std::panic::catch_unwind(|| given::<Count>([]).when(emitted.clone()).then([emitted])).unwrap_err();
        std::panic::catch_unwind(|| drop(given::<Count>([event]))).unwrap_err();
    }
}

/// A row whose state cannot be read after the event `odd.compact` with an infinite number.
struct Sums;

impl View for Sums {
    const NAME: &'static str = "sums";
    type Event = Odd;
    type State = f64;

    fn key(&self, event: &Envelope<Odd>) -> Option<String> {
        matches!(event.event, Odd::Compact(_)).then(|| "all".into())
    }

    fn apply(&self, sum: &mut f64, event: Envelope<Odd>) {
        if let Odd::Compact(number) = event.event {
            *sum += number;
        }
    }
}

#[tokio::test]
async fn a_view_row_that_cannot_be_read_parks_one_aggregate() {
    let (log, models) = (MemoryStore::new(), MemoryReadModel::new());
    for (id, number) in [("1", 1.5), ("2", f64::INFINITY), ("3", 2.5)] {
        log.append_events(("odd", id), ExpectedVersion::Any, [Odd::Compact(number)]).await.unwrap();
    }
    let caught_up = Worker::view(Sums, log, models.clone()).catch_up().await.unwrap();
    let [parked] = &caught_up.parked[..] else { panic!("{caught_up:?}") };
    assert_eq!(parked.stream.aggregate_id().as_str(), "2");
    assert!(parked.error.contains("JSON has no form for the number inf"), "{}", parked.error);
    assert_eq!(Views::new(&Sums, models).get("all").await.unwrap(), Some(4.0));
}

/// Sends a command that cannot be read back.
struct Shout;

#[async_trait]
impl Process for Shout {
    const NAME: &'static str = "shout";
    type Event = Odd;
    type State = ();
    type Command = f64;

    fn key(&self, event: &Envelope<Odd>) -> Option<AggregateId> {
        Some(event.stream.aggregate_id().clone())
    }

    fn on_event(&self, (): &mut (), event: &Envelope<Odd>, effects: &mut Effects<f64>) {
        if let Odd::Compact(number) = event.event {
            effects.send(number);
        }
    }

    async fn execute(&self, _: &AggregateId, number: f64, _: retell::Context) -> Result<(), CommandFailure> {
        assert!(number.is_finite(), "a command that was not recorded must not be sent");
        Ok(())
    }
}

#[tokio::test]
async fn a_step_that_cannot_be_read_back_is_not_taken() {
    let (log, models) = (MemoryStore::new(), MemoryReadModel::new());
    for (id, number) in [("1", f64::NAN), ("2", 1.0)] {
        log.append_events(("odd", id), ExpectedVersion::Any, [Odd::Compact(number)]).await.unwrap();
    }
    let caught_up = ProcessManager::new(Shout, log.clone(), models).catch_up().await.unwrap();
    let parked: BTreeMap<_, _> =
        caught_up.parked.iter().map(|parked| (parked.stream.to_string(), &parked.error)).collect();
    assert_eq!(parked.keys().collect::<Vec<_>>(), ["odd/1"], "{parked:?}");
    assert!(parked["odd/1"].contains("JSON has no form for the number NaN"), "{parked:?}");
}

/// A state that a compact event can bring, and that a snapshot in JSON cannot keep.
#[derive(Aggregate, Clone, Default, Debug, PartialEq)]
#[aggregate("odd", event = Odd, snapshots = 1)]
struct Last(Option<f64>);

impl Apply<Odd> for Last {
    fn apply(&mut self, event: Odd) {
        if let Odd::Compact(number) = event {
            self.0 = Some(number);
        }
    }
}

impl Handle<Odd> for Last {
    type Error = Infallible;

    fn handle(&self, event: &Odd) -> Result<Vec<Odd>, Infallible> {
        Ok(vec![event.clone()])
    }
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_read_back_is_not_saved() {
    for store in every_store().await {
        let here = Repository::<Last>::over(store.events.clone());
        here.execute("1", Odd::Compact(f64::INFINITY)).await.unwrap();
        here.flush().await;
        assert_eq!(here.snapshot_failures(), 1, "{}", store.name);
        let there = Repository::<Last>::over(store.events.clone());
        assert_eq!(there.load("1").await.unwrap().state, Last(Some(f64::INFINITY)), "{}", store.name);
        assert_eq!(there.snapshot_failures(), 0);
    }
}
