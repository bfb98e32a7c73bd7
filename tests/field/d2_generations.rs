//! D2. Readers and `wait_for` agree on the generation of a view.

use std::time::Duration;

use retell::app::{Health, HealthOptions, State};
use retell::testing::store::{event, stream};
use retell::{
    AnyEvent, App, Append, Envelope, ErrorKind, EventStore, ExpectedVersion, Generation, MemoryReadModel, MemoryStore,
    Rebuild, View, Views, Worker,
};

const PATIENCE: Duration = Duration::from_mins(5);

struct Events(u32);

impl View for Events {
    const NAME: &'static str = "events";
    type Event = AnyEvent;
    type State = u64;

    fn generation(&self) -> Generation {
        Generation::new(self.0.into())
    }

    fn key(&self, event: &Envelope<AnyEvent>) -> Option<String> {
        Some(event.stream.to_string())
    }

    fn apply(&self, events: &mut u64, _: Envelope<AnyEvent>) {
        *events += 1;
    }
}

#[tokio::test]
async fn d2_waits_are_for_the_generation_that_readers_see() {
    let (log, models) = (MemoryStore::new(), MemoryReadModel::new());
    let append = || log.append(Append::new(stream("a"), ExpectedVersion::Any, vec![event("{}")]));
    append().await.unwrap();
    Worker::view(Events(1), log.clone(), models.clone()).catch_up().await.unwrap();
    let second = append().await.unwrap();
    let options = HealthOptions::new().with_limit(Duration::from_millis(20)).with_beat(Duration::from_millis(5));
    let running = App::new(log.clone(), models.clone()).view(Events(2)).with_health(options).start();
    for name in ["events", "events@2"] {
        let behind = running.wait_for_one(name, &second, Duration::from_millis(300)).await.unwrap_err();
        let ErrorKind::Behind { projection, applied, .. } = behind.kind() else { panic!("{behind}") };
        assert_eq!((projection.as_str(), applied.get()), ("events", 1), "readers see the first generation");
    }
    let mut health = running.health();
    let frozen = |health: &Health| matches!(health.task("events (live)"), Some(State::Stuck { .. }));
    let seen = tokio::time::timeout(PATIENCE, health.wait_for(frozen)).await.unwrap().unwrap().clone();
    assert!(!seen.is_good() && seen.to_string().contains("switch them to events@2 with `Rebuild::switch`"), "{seen}");
    Rebuild::new(Events(2), log.clone(), models.clone()).switch().await.unwrap();
    running.wait_for_one("events", &second, PATIENCE).await.unwrap();
    assert_eq!(Views::new(&Events(2), models).get("account/a").await.unwrap(), Some(2));
    tokio::time::timeout(PATIENCE, health.wait_for(Health::is_good)).await.unwrap().unwrap();
    running.stop().await.unwrap();
}
