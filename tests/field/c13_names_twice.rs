//! C13. Two parts with one name are refused, and unknown names are errors.

use std::time::Duration;

use retell::app::{Health, State};
use retell::testing::store::{event, stream};
use retell::{
    AnyEvent, App, Append, Envelope, ErrorKind, EventStore, ExpectedVersion, MemoryReadModel, MemoryStore, View, Views,
};

const PATIENCE: Duration = Duration::from_mins(1);

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
