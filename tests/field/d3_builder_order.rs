//! D3. The order of an app's builder calls means nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use retell::app::{HealthOptions, Role};
use retell::broker::frame::Frame;
use retell::broker::{
    Announced, Announcer, Broker, Confirm, Consumer, DeadLetter, DeadLetters, Publisher, SubscriptionMode,
};
use retell::prelude::*;
use retell::{AnyEvent, ErrorKind, ProjectionName, Reaction, StartFrom};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_mins(5);

#[derive(Event)]
#[event("step.done")]
struct Done;

/// A broker that notes what is done with it.
#[derive(Clone, Default)]
struct Noting {
    inner: MemoryBroker,
    seen: Arc<Mutex<BTreeSet<String>>>,
}

impl Noting {
    fn note(&self, what: impl Into<String>) {
        self.seen.lock().unwrap().insert(what.into());
    }
}

#[async_trait]
impl Publisher for Noting {
    async fn publish(&self, frames: &[Frame]) -> retell::Result<Confirm> {
        self.note("a frame");
        self.inner.publish(frames).await
    }
}

#[async_trait]
impl Broker for Noting {
    async fn subscribe(&self, name: &ProjectionName, mode: SubscriptionMode) -> retell::Result<Box<dyn Consumer>> {
        self.note(name.as_str());
        self.inner.subscribe(name, mode).await
    }
}

#[async_trait]
impl Announcer for Noting {
    async fn announce(&self, _: &[retell::RecordedEvent]) -> retell::Result<Confirm<Announced>> {
        self.note("an announcement");
        Ok(Box::pin(async { Ok(Announced::new(0)) }))
    }
}

#[async_trait]
impl DeadLetters for Noting {
    async fn add(&self, letter: &DeadLetter) -> retell::Result<()> {
        self.inner.add(letter).await
    }
}

struct Applied;

#[async_trait]
impl Projection for Applied {
    const NAME: &'static str = "applied";
    type Event = AnyEvent;
    type Tx = ();

    async fn apply(&self, (): &mut (), _: Envelope<AnyEvent>) -> Result<(), BoxError> {
        Ok(())
    }
}

/// Cannot be set up.
struct Failing;

#[async_trait]
impl Projection for Failing {
    const NAME: &'static str = "failing";
    type Event = AnyEvent;
    type Tx = ();

    async fn setup(&self, (): &mut ()) -> Result<(), BoxError> {
        Err("no".into())
    }

    async fn apply(&self, (): &mut (), _: Envelope<AnyEvent>) -> Result<(), BoxError> {
        Ok(())
    }
}

struct Counted;

impl View for Counted {
    const NAME: &'static str = "counted";
    type Event = Done;
    type State = u64;

    fn key(&self, _: &Envelope<Done>) -> Option<String> {
        Some("all".into())
    }

    fn apply(&self, count: &mut u64, _: Envelope<Done>) {
        *count += 1;
    }
}

struct Reacted;

#[async_trait]
impl Reaction for Reacted {
    const NAME: &'static str = "reacted";
    type Event = Done;
    type Tx = ();

    async fn react(&self, (): &mut (), _: Envelope<Done>) -> Result<(), BoxError> {
        Ok(())
    }
}

struct Followed;

#[async_trait]
impl Process for Followed {
    const NAME: &'static str = "followed";
    type Event = Done;
    type State = ();
    type Command = ();

    fn key(&self, event: &Envelope<Done>) -> Option<AggregateId> {
        Some(event.stream.aggregate_id().clone())
    }

    fn on_event(&self, (): &mut (), _: &Envelope<Done>, _: &mut Effects<()>) {}

    async fn execute(&self, _: &AggregateId, (): (), _: Context) -> Result<(), CommandFailure> {
        Ok(())
    }
}

/// A builder call.
type Call = Box<dyn FnOnce(App<MemoryReadModel>) -> App<MemoryReadModel>>;

/// The behavior of an app that is built by some order of calls.
#[derive(Debug, PartialEq)]
struct Behavior {
    broker: BTreeSet<String>,
    tasks: BTreeMap<String, bool>,
    failures: BTreeSet<String>,
}

/// Returns every builder call. `settings` are called before the parts if `first`.
fn calls(broker: &Noting, shared: bool, failures: &Arc<Mutex<BTreeSet<String>>>, (log, models): &Stores) -> Vec<Call> {
    let (broker, failures) = (broker.clone(), failures.clone());
    let (log, models) = (log.clone(), models.clone());
    vec![
        Box::new(move |app| if shared { app.with_shared_broker(broker, "d3") } else { app.with_broker(broker) }),
        Box::new(|app| app.with_health(HealthOptions::new().with_beat(Duration::from_millis(10)))),
        Box::new(|app| app.with_grace(Duration::from_secs(5))),
        Box::new(|app| app.with_role(Role::All)),
        Box::new(move |app| {
            app.with_on_failure(move |task, _| {
                failures.lock().unwrap().insert(task.to_owned());
            })
        }),
        Box::new(|app| app.projection(Applied)),
        Box::new(|app| app.projection(Failing)),
        Box::new(|app| app.view(Counted)),
        Box::new(|app| app.reaction(Reacted, StartFrom::Beginning)),
        Box::new(|app| app.process(Followed)),
        Box::new(move |app| app.worker(Worker::new(Named("own"), log, models))),
    ]
}

/// A projection with a worker of its own.
struct Named(&'static str);

#[async_trait]
impl Projection for Named {
    const NAME: &'static str = "named";
    type Event = AnyEvent;
    type Tx = ();

    fn name(&self) -> &str {
        self.0
    }

    async fn apply(&self, (): &mut (), _: Envelope<AnyEvent>) -> Result<(), BoxError> {
        Ok(())
    }
}

type Stores = (MemoryStore, MemoryReadModel);

async fn behavior(shared: bool, order: impl FnOnce(&mut Vec<Call>)) -> Behavior {
    let stores = (MemoryStore::new(), MemoryReadModel::new());
    let (broker, failures) = (Noting::default(), Arc::default());
    let mut calls = calls(&broker, shared, &failures, &stores);
    order(&mut calls);
    let app = calls.into_iter().fold(App::new(stores.0.clone(), stores.1.clone()), |app, call| call(app));
    let running = app.start();
    stores.0.append_events(("step", "1"), ExpectedVersion::Any, [Done]).await.unwrap();
    let parts = ["applied", "counted", "reacted", "followed", "own"];
    for part in parts {
        let done = running.wait_for_one(part, retell::store::Token::default(), PATIENCE).await;
        done.unwrap();
    }
    let wanted = parts.len() + if shared { 2 } else { 1 };
    let seen = async {
        while broker.seen.lock().unwrap().len() < wanted || failures.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("the broker has seen {:?}", broker.seen.lock().unwrap()));
    let mut health = running.health();
    let has_failed = |health: &retell::app::Health| health.task("failing").is_some_and(|state| !state.is_good());
    let health = timeout(PATIENCE, health.wait_for(has_failed)).await.unwrap().unwrap().clone();
    let tasks = health.tasks().map(|(name, _)| (name.to_owned(), name == "failing")).collect();
    running.stop().await.unwrap();
    let (broker, failures) = (broker.seen.lock().unwrap().clone(), failures.lock().unwrap().clone());
    Behavior { broker, tasks, failures }
}

/// Each rotation of the calls puts each setting once before and once after each part.
#[tokio::test]
async fn every_order_of_builder_calls_means_the_same() {
    for shared in [false, true] {
        let first = behavior(shared, |_| {}).await;
        assert!(first.broker.contains("followed") && first.failures.contains("failing"), "{first:?}");
        for places in 1..11 {
            let rotated = behavior(shared, |calls| calls.rotate_left(places)).await;
            assert_eq!(rotated, first, "rotated by {places}");
        }
        assert_eq!(behavior(shared, |calls| calls.reverse()).await, first);
    }
}

/// A role that is set before or after the parts runs the same tasks.
#[tokio::test]
async fn role_may_be_set_at_any_place() {
    let app = || App::new(MemoryStore::new(), MemoryReadModel::new());
    let tasks = |app: App<MemoryReadModel>| {
        let running = app.start();
        let health = running.health().borrow().clone();
        health.tasks().map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
    };
    for (role, expected) in [(Role::Api, vec![]), (Role::Relay, vec!["relay"]), (Role::Worker, vec!["applied"])] {
        let last = app().projection(Applied).with_broker(MemoryBroker::new()).with_role(role);
        let first = app().with_role(role).with_broker(MemoryBroker::new()).projection(Applied);
        assert_eq!(tasks(last), expected);
        assert_eq!(tasks(first), expected);
    }
}

/// `catch_up` checks the same things as `start`, whatever was called first.
#[tokio::test]
async fn check_does_not_depend_on_the_order() {
    let app = || App::new(MemoryStore::new(), MemoryReadModel::new());
    let apps = [
        app().projection(Named("relay")).with_broker(MemoryBroker::new()),
        app().with_broker(MemoryBroker::new()).projection(Named("relay")),
    ];
    for app in apps {
        let refused = app.catch_up().await.unwrap_err();
        assert!(
            matches!(refused.kind(), ErrorKind::Invalid(problem) if problem.contains("a relay of the app")),
            "{refused}"
        );
    }
    // Without a broker there is no relay.
    app().projection(Named("relay")).catch_up().await.unwrap();
}
