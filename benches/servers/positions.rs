//! Measures how soon a reader in log order sees an appended event.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use retell::{EventId, EventReaderExt, EventStore, Filter, Position};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::database::Database;
use crate::{Operation, ROUND, at_once, sorted, to_new_stream};

impl Database {
    /// Measures the delay from the answer of an append until a reader sees its event, at half the peak rate.
    pub(crate) async fn positions(&self) {
        const WRITERS: u32 = 128;
        let store = self.store().await;
        let appending = store.clone();
        let operation: Operation = Arc::new(move || {
            let store = appending.clone();
            Box::pin(async move { drop(store.append(to_new_stream(0..1)).await.unwrap()) })
        });
        let peak = at_once(WRITERS, &operation, ROUND).await;
        let pace = ROUND * 2 * WRITERS / u32::try_from(peak).unwrap();
        let stop = CancellationToken::new();
        let follower = tokio::spawn(followed(store.clone(), store.head().await.unwrap(), stop.clone()));
        let until = Instant::now() + 2 * ROUND;
        let writers = (0..WRITERS).map(|_| paced(store.clone(), pace, until));
        let answered: Vec<_> = writers.collect::<JoinSet<_>>().join_all().await.into_iter().flatten().collect();
        stop.cancel();
        let seen = follower.await.unwrap();
        let late = sorted(answered.iter().map(|(id, answered)| seen[id].duration_since(*answered).as_secs_f64()));
        let [half, most] = [late.len() / 2, late.len() * 99 / 100].map(|place| late[place] * 1e3);
        let rate = u32::try_from(answered.len()).map(f64::from).unwrap() / (2 * ROUND).as_secs_f64();
        println!("positions at {rate:.0} appends/s: {half:.1} ms after the answer, 99 of 100 within {most:.1} ms");
    }
}

/// Appends at intervals of `pace` and returns when each append was answered.
async fn paced(store: Arc<dyn EventStore>, pace: Duration, until: Instant) -> Vec<(EventId, Instant)> {
    let mut answered = Vec::new();
    let mut turns = tokio::time::interval(pace);
    turns.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while Instant::now() < until {
        turns.tick().await;
        let append = to_new_stream(0..1);
        let id = append.streams()[0].events[0].id;
        store.append(append).await.unwrap();
        answered.push((id, Instant::now()));
    }
    answered
}

/// Follows the log like a relay and returns when each event became readable.
async fn followed(
    store: Arc<dyn EventStore>,
    mut after: Position,
    stop: CancellationToken,
) -> HashMap<EventId, Instant> {
    let mut seen = HashMap::new();
    let mut grown = store.watch_head();
    loop {
        let all_answered = stop.is_cancelled();
        let page = store.read_all(after, 1_000, &Filter::all()).await.unwrap();
        let now = Instant::now();
        seen.extend(page.events.iter().map(|event| (event.event.id, now)));
        if page.through > after {
            after = page.through;
        } else if all_answered {
            return seen;
        } else {
            drop(tokio::time::timeout(Duration::from_millis(100), grown.changed()).await);
        }
    }
}
