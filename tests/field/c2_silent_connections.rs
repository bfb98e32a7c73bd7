//! C2. A connection that dies silently costs one call a limited time.

use std::time::{Duration, Instant};

use futures::FutureExt;
use retell::prelude::*;
use retell::store::{Append, EventStore, Replay};
use retell::testing::store::{event, replayed, stream};
use retell::{AnyEvent, ErrorKind, ProjectionName, ReadModel, RelayStore, ViewStore, WorkerOptions};

use crate::proxy::{Limits, Proxied, Traffic, on_proxied_servers};

const LIMITS: Limits = Limits { call: Duration::from_secs(2), wait: Duration::from_secs(2) };

/// A time that no call of these tests takes, even on a busy machine.
const FAR: Duration = Duration::from_secs(100);

async fn append(store: &impl EventStore) -> retell::Result<u64> {
    let append = Append::new(stream("1"), ExpectedVersion::Any, vec![event("{}")]);
    Ok(store.append(append).await?.versions[0].get())
}

/// Waits until every connection is back in the pool, so that the next call asks the one that it gets.
async fn idle(all_are_back: impl Fn() -> bool) {
    while !all_are_back() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn silent_idle_connections_are_replaced(
    proxied: &Proxied,
    store: impl EventStore,
    _: impl ReadModel,
    all_are_back: impl Fn() -> bool,
) {
    append(&store).await.unwrap();
    for _ in 0..3 {
        idle(&all_are_back).await;
        proxied.proxy.silence();
        let began = Instant::now();
        append(&store).await.unwrap();
        store.head().await.unwrap();
        assert!(began.elapsed() < FAR, "{:?}", began.elapsed());
    }
    proxied.proxy.silence();
    let began = Instant::now();
    store.close().await.unwrap();
    assert!(began.elapsed() < FAR, "{:?}", began.elapsed());
}

async fn silence_in_a_call_makes_it_transient(
    proxied: &Proxied,
    store: impl EventStore,
    _: impl ReadModel,
    all_are_back: impl Fn() -> bool,
) {
    append(&store).await.unwrap();
    let stream = stream("1");
    for call in 0..3 {
        idle(&all_are_back).await;
        // The connection was just asked, so it is used again without a question.
        store.head().await.unwrap();
        let held = match call {
            0 => async { append(&store).await.map(drop) }.boxed(),
            1 => async { store.head().await.map(drop) }.boxed(),
            _ => async { replayed(&store, &stream, Replay::ALL).await.map(drop) }.boxed(),
        };
        let began = Instant::now();
        let held = proxied.proxy.start_held(held).await;
        proxied.proxy.silence();
        proxied.proxy.set(Traffic::Flows);
        if let Err(error) = held.await {
            assert!(matches!(error.kind(), ErrorKind::Transient(_)), "{error:#}");
        }
        append(&store).await.unwrap();
        assert!(began.elapsed() < FAR, "call {call}: {:?}", began.elapsed());
    }
    store.close().await.unwrap();
}

async fn worker_and_stop_outlast_silence<S, M>(proxied: &Proxied, store: S, models: M, _: impl Fn() -> bool)
where
    S: EventStore + RelayStore + Clone,
    M: ViewStore + Clone,
{
    struct Events;

    impl View for Events {
        const NAME: &'static str = "events";
        type Event = AnyEvent;
        type State = u64;

        fn key(&self, event: &Envelope<AnyEvent>) -> Option<String> {
            Some(event.stream.to_string())
        }

        fn apply(&self, events: &mut u64, _: Envelope<AnyEvent>) {
            *events += 1;
        }
    }

    let options = WorkerOptions::new().with_sweep(Duration::from_millis(20));
    let worker = Worker::view(Events, store.clone(), models.clone()).with_options(options);
    let relay = Relay::new(store.clone(), MemoryBroker::new());
    let (stop, name) = (CancellationToken::new(), ProjectionName::new("events").unwrap());
    let running = tokio::spawn({
        let stop = stop.clone();
        async move { tokio::join!(worker.run(stop.clone()), relay.run(stop)) }
    });
    for round in 1..=3 {
        // A call of the worker or the relay is waiting for its answer.
        proxied.proxy.hold_one().await;
        proxied.proxy.silence();
        proxied.proxy.set(Traffic::Flows);
        while append(&store).await.is_err() {}
        let reached = async {
            while models.checkpoint(&name).await.map_or(0, Position::get) < round {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(5), reached).await.unwrap();
    }
    proxied.proxy.hold_one().await;
    proxied.proxy.go();
    stop.cancel();
    let (worker, relay) = tokio::time::timeout(FAR, running).await.unwrap().unwrap();
    // A call that is cut off in its last step may report the silence.
    for ended in [worker, relay] {
        assert!(ended.as_ref().map_or_else(retell::Error::is_transient, |()| true), "{ended:?}");
    }
    tokio::time::timeout(FAR, store.close()).await.unwrap().unwrap();
}

/// A call that is dropped while its idle connection is asked leaves no answer for the next call.
async fn dropped_question_leaves_no_answer_behind(
    proxied: &Proxied,
    store: impl EventStore,
    _: impl ReadModel,
    all_are_back: impl Fn() -> bool,
) {
    for version in 1..=5 {
        let appended = tokio::time::timeout(FAR, append(&store)).await.expect("an append gets its answer");
        assert_eq!(appended.unwrap(), version);
        idle(&all_are_back).await;
        let asking = proxied.proxy.start_held(store.head()).await;
        drop(asking);
        proxied.proxy.set(Traffic::Flows);
        let next = async {
            assert_eq!(store.head().await.unwrap(), Position::new(version));
            let seen = replayed(&store, &stream("1"), Replay::ALL).await.unwrap();
            assert_eq!(seen.versions(), (1..=version).collect::<Vec<_>>());
        };
        tokio::time::timeout(FAR, next).await.expect("the next calls get their answers");
    }
    store.close().await.unwrap();
}

on_proxied_servers!(4, super::LIMITS, silence_in_a_call_makes_it_transient, worker_and_stop_outlast_silence,);

/// Calls that find a silent connection before they use it, so that no call reaches its limit.
mod asked {
    use super::{LIMITS, Limits, on_proxied_servers, silent_idle_connections_are_replaced};

    const NEVER: Limits = Limits { call: super::Duration::from_mins(10), ..LIMITS };

    on_proxied_servers!(4, super::NEVER, silent_idle_connections_are_replaced);
}

mod one_connection {
    use super::{LIMITS, Limits, dropped_question_leaves_no_answer_behind, on_proxied_servers};

    const NEVER: Limits = Limits { call: super::Duration::from_mins(10), ..LIMITS };

    on_proxied_servers!(1, super::NEVER, dropped_question_leaves_no_answer_behind);
}
