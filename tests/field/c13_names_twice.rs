//! C13. Two parts with one name are refused, and unknown names are errors.

use std::time::Duration;

use retell::app::{Health, State};
use retell::lifecycle::{Stage, stage};
use retell::projection::wait_for;
use retell::store::Work;
use retell::testing::store::{event, stream};
use retell::{
    AnyEvent, App, Append, Envelope, ErrorKind, EventReaderExt, EventStore, ExpectedVersion, Filter, Mark,
    MemoryReadModel, MemoryStore, Position, ProjectionName, ReadModel, View, Views, Worker,
};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_mins(5);

struct Events(&'static str);

impl View for Events {
    const NAME: &'static str = "events";
    type Event = AnyEvent;
    type State = u64;

    fn name(&self) -> &str {
        self.0
    }

    fn key(&self, event: &Envelope<AnyEvent>) -> Option<String> {
        Some(event.stream.to_string())
    }

    fn apply(&self, events: &mut u64, _: Envelope<AnyEvent>) {
        *events += 1;
    }
}

#[tokio::test]
async fn c13_two_parts_of_one_name_are_refused() {
    let (log, models) = (MemoryStore::new(), MemoryReadModel::new());
    log.append(Append::new(stream("a"), ExpectedVersion::Any, vec![event("{}")])).await.unwrap();
    let app = || App::new(log.clone(), models.clone()).view(Events("one")).view(Events("two")).view(Events("one"));
    let refused = app().catch_up().await.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::Invalid(problem) if problem.starts_with("part one: ")), "{refused}");
    assert!(matches!(app().run().await.unwrap_err().kind(), ErrorKind::Invalid(_)));
    let running = app().start();
    running.wait_for_one("two", retell::store::Token::default(), PATIENCE).await.unwrap();
    let mut health = running.health();
    let failed = |health: &Health| matches!(health.task("one"), Some(State::Failed { .. }));
    let health = tokio::time::timeout(PATIENCE, health.wait_for(failed)).await.unwrap().unwrap().clone();
    assert!(!health.is_good() && health.to_string().contains("share one checkpoint"), "{health}");
    assert_eq!(Views::new(&Events("one"), models.clone()).get("account/a").await.unwrap(), None);
    running.stop().await.unwrap();
}

fn name(name: &str) -> ProjectionName {
    ProjectionName::new(name).unwrap()
}

/// `error` says that `totalz` is unknown and which names there are.
fn assert_unknown(error: &retell::Error, known: &[&str]) {
    let ErrorKind::UnknownProjection { projection, known: names } = error.kind() else { panic!("{error:?}") };
    assert_eq!(projection.as_str(), "totalz");
    assert_eq!(names.iter().map(ProjectionName::as_str).collect::<Vec<_>>(), known);
}

/// The read models of the suites refuse a misspelt name in each call (`a_name_that_never_ran_is_an_error`).
#[tokio::test]
async fn c13_misspelt_name_of_a_projection_is_an_error() {
    let (log, models) = (MemoryStore::new(), MemoryReadModel::new());
    let appended = log.append(Append::new(stream("a"), ExpectedVersion::Any, vec![event("{}")])).await.unwrap();
    let event = log.read_all(Position::ZERO, 1, &Filter::all()).await.unwrap().events.remove(0);
    let misspelt = name("totalz");
    assert_unknown(&stage(&event, Position::ZERO, &models, &misspelt).await.unwrap_err(), &[]);
    Worker::view(Events("totals"), log.clone(), models.clone()).catch_up().await.unwrap();
    let known = ["totals"];
    assert_unknown(&stage(&event, Position::ZERO, &models, &misspelt).await.unwrap_err(), &known);
    assert_eq!(stage(&event, Position::ZERO, &models, &name("totals")).await.unwrap(), Stage::Completed);
    let short = Duration::from_millis(1);
    let waited = wait_for(&models, &log, &misspelt, appended.token(), short).await.unwrap_err();
    assert_unknown(&waited, &known);
    wait_for(&models, &log, &name("totals"), appended.token(), short).await.unwrap();
    let nothing: Work<()> = Box::new(|(): &mut ()| Box::pin(async { Ok(()) }));
    assert_unknown(&models.reset(&misspelt, Mark::START, nothing).await.unwrap_err(), &known);
    assert_unknown(&models.checkpoint(&misspelt).await.unwrap_err(), &known);
    assert_unknown(&models.retry_parked(&misspelt, &stream("a")).await.unwrap_err(), &known);
    // A worker that this process has created may be asked for before it has started.
    let worker = Worker::view(Events("new"), log, models.clone());
    assert_eq!(models.checkpoint(&name("new")).await.unwrap(), Position::ZERO);
    drop(worker);
}

#[tokio::test]
async fn c13_misspelt_part_of_an_app_is_an_error() {
    let app = App::new(MemoryStore::new(), MemoryReadModel::new()).view(Events("one")).view(Events("two"));
    let running = app.start();
    let refused = running.wait_for_one("ome", retell::store::Token::default(), PATIENCE).await.unwrap_err();
    assert_eq!(refused.to_string(), "invalid input: the app has no part called ome; it has one, two");
    running.stop().await.unwrap();
}

/// Health could not tell a part from a relay of the same name.
#[tokio::test]
async fn c13_part_with_the_name_of_a_relay_is_refused() {
    let app = || App::new(MemoryStore::new(), MemoryReadModel::new()).view(Events("relay")).view(Events("fine"));
    let running = app().with_broker(retell::MemoryBroker::new()).start();
    let mut health = running.health();
    let failed = |health: &Health| health.to_string().contains("a relay of the app has this name");
    timeout(PATIENCE, health.wait_for(failed)).await.unwrap().unwrap();
    running.stop().await.unwrap();
    app().check().unwrap();
}
