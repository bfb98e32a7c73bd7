//! C11. While the server is gone, calls are answered soon, a command has one time limit, and health tells.

use std::time::{Duration, Instant};

use retell::app::{HealthOptions, State};
use retell::prelude::*;
use retell::status::Wait;
use retell::store::{Append, EventStore, ReadModel};
use retell::testing::store::{event, stream};
use retell::{CommandError, MemoryReadModel, RelayStore, RepositoryOptions};

use crate::counter::{Add, Counter};
use crate::proxy::{Limits, Proxied, Traffic, on_proxied_servers};

/// The limit of a call is minutes long, so only other limits can end the test in time.
const LIMITS: Limits = Limits { call: Duration::from_mins(5), wait: Duration::from_millis(500) };

const FAR: Duration = Duration::from_secs(100);

async fn calls_end_soon_and_succeed_when_it_is_back(
    proxied: &Proxied,
    store: impl EventStore,
    _: impl ReadModel,
    all_are_back: impl Fn() -> bool,
) {
    let append = || store.append(Append::new(stream("1"), ExpectedVersion::Any, vec![event("{}")]));
    append().await.unwrap();
    while !all_are_back() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    proxied.proxy.go();
    let began = Instant::now();
    for _ in 0..4 {
        assert!(append().await.unwrap_err().is_transient());
        assert!(store.head().await.unwrap_err().is_transient());
    }
    assert!(began.elapsed() < FAR, "{:?}", began.elapsed());
    proxied.proxy.set(Traffic::Flows);
    let back = async { while append().await.is_err() {} };
    tokio::time::timeout(Duration::from_mins(5), back).await.unwrap();
    store.close().await.unwrap();
}

async fn command_has_one_limit(
    proxied: &Proxied,
    store: impl EventStore + Clone,
    _: impl ReadModel,
    _: impl Fn() -> bool,
) {
    let options = RepositoryOptions::new().with_command_timeout(Duration::from_millis(300));
    let counters = Repository::<Counter>::new(store.clone()).with_options(options);
    // A busy machine may need longer for the first one.
    let known = async { while counters.execute("known", Add(vec![1])).await.is_err() {} };
    tokio::time::timeout(Duration::from_mins(5), known).await.unwrap();
    proxied.proxy.set(Traffic::Held);
    // One waits for its load, one for its append, and one for the command before it.
    let (unknown, known, waiting) = tokio::join!(
        counters.execute("unknown", Add(vec![1])),
        counters.execute("known", Add(vec![1])),
        counters.execute("known", Add(vec![1]))
    );
    for executed in [unknown, known, waiting] {
        let error = executed.unwrap_err();
        assert!(matches!(&error, CommandError::Transient(_)), "{error:#}");
        assert!(error.to_string().contains("within 300ms"), "{error:#}");
    }
    proxied.proxy.set(Traffic::Flows);
    proxied.proxy.cut();
    let back = async { while counters.execute("known", Add(vec![1])).await.is_err() {} };
    tokio::time::timeout(Duration::from_mins(5), back).await.unwrap();
    store.close().await.unwrap();
}

async fn health_tells_that_the_log_cannot_be_read(
    proxied: &Proxied,
    store: impl EventStore + RelayStore + Clone,
    _: impl ReadModel,
    _: impl Fn() -> bool,
) {
    let options = HealthOptions::new().with_beat(Duration::from_millis(20));
    let app = App::new(store, MemoryReadModel::new()).with_health(options).start();
    let mut health = app.health();
    let mut until = async |holds: fn(&State) -> bool| {
        let holds = health.wait_for(|health| holds(health.log()));
        tokio::time::timeout(Duration::from_mins(5), holds).await.unwrap().unwrap().to_string()
    };
    until(|log| *log == State::Running).await;
    proxied.proxy.cut();
    proxied.proxy.go();
    let told =
        until(|log| matches!(log, State::Waiting(wait) if wait.on == Wait::Database && wait.error.is_some())).await;
    assert!(told.contains("log: waiting for the database"), "{told}");
    proxied.proxy.set(Traffic::Flows);
    until(|log| *log == State::Running).await;
    app.stop().await.unwrap();
}

on_proxied_servers!(
    4,
    super::LIMITS,
    calls_end_soon_and_succeed_when_it_is_back,
    command_has_one_limit,
    health_tells_that_the_log_cannot_be_read,
);
