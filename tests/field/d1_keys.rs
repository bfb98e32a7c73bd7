//! D1. Another request under a used idempotency key is refused.

use std::collections::HashMap;

use retell::prelude::*;
use retell::store::Outcome;
use retell::{ErrorKind, IdempotencyKey, Repository};

use crate::stores::every_store;

#[derive(Event, Debug, Clone)]
enum HallEvent {
    #[event("hall.held")]
    Held { seat: u32, taken: usize },
    #[event("hall.priced")]
    Priced { cents_by_row: HashMap<String, u64> },
    #[event("hall.closed")]
    Closed,
}

#[derive(Aggregate, Clone, Default, Debug)]
#[aggregate("hall", event = HallEvent, snapshots = 2)]
struct Hall {
    seats: Vec<u32>,
    closed: bool,
}

impl Apply<HallEvent> for Hall {
    fn apply(&mut self, event: HallEvent) {
        match event {
            HallEvent::Held { seat, .. } => self.seats.push(seat),
            HallEvent::Priced { .. } => {}
            HallEvent::Closed => self.closed = true,
        }
    }
}

/// Holds seats, unless one is taken.
#[derive(Clone)]
struct Hold(Vec<u32>);

impl Handle<Hold> for Hall {
    type Error = &'static str;

    /// The payload depends on the state: decided again on a newer state, the same command leads to other events.
    fn handle(&self, hold: &Hold) -> Result<Vec<HallEvent>, &'static str> {
        if self.closed || hold.0.iter().any(|seat| self.seats.contains(seat)) {
            return Err("taken");
        }
        let numbered = hold.0.iter().zip(1..);
        Ok(numbered.map(|(seat, more)| HallEvent::Held { seat: *seat, taken: self.seats.len() + more }).collect())
    }
}

/// Sells a seat, even if it is taken.
#[derive(Clone)]
struct Sell(u32);

impl Handle<Sell> for Hall {
    type Error = &'static str;

    fn handle(&self, sale: &Sell) -> Result<Vec<HallEvent>, &'static str> {
        Ok(vec![HallEvent::Held { seat: sale.0, taken: self.seats.len() + 1 }])
    }
}

struct Price;

impl Handle<Price> for Hall {
    type Error = &'static str;

    fn handle(&self, _: &Price) -> Result<Vec<HallEvent>, &'static str> {
        let rows = (0..50).map(|row| (format!("row {row}"), row * 100));
        Ok(vec![HallEvent::Priced { cents_by_row: rows.collect() }])
    }
}

struct Close;

impl Handle<Close> for Hall {
    type Error = &'static str;

    fn handle(&self, _: &Close) -> Result<Vec<HallEvent>, &'static str> {
        Ok(if self.closed { vec![] } else { vec![HallEvent::Closed] })
    }
}

fn under(key: &str) -> retell::Context {
    retell::Context::new().with_key(IdempotencyKey::new(key).unwrap())
}

fn is_reused(error: &CommandError<&str>) -> bool {
    matches!(error, CommandError::Failed(error) if matches!(error.kind(), ErrorKind::KeyReused(_)))
}

#[tokio::test]
async fn another_command_under_a_key_is_refused() {
    for store in every_store().await {
        let halls = Repository::<Hall>::over(store.events.clone());
        halls.execute_with("1", Hold(vec![1]), under("k")).await.unwrap();
        for halls in [&halls, &Repository::over(store.events.clone())] {
            // The aggregate would accept the first of these commands, and refuse the second.
            let accepted = halls.execute_with("1", Hold(vec![2]), under("k")).await.unwrap_err();
            let refused = halls.execute_with("1", Hold(vec![1, 3]), under("k")).await.unwrap_err();
            let other = halls.execute_with("1", Close, under("k")).await.unwrap_err();
            assert!(is_reused(&accepted) && is_reused(&refused) && is_reused(&other), "{}", store.name);
            assert_eq!(halls.load("1").await.unwrap().state.seats, [1], "{}", store.name);
        }
        halls.execute("1", Close).await.unwrap();
        let nothing = halls.execute_with("1", Close, under("k")).await.unwrap_err();
        assert!(is_reused(&nothing), "{}", store.name);
        let elsewhere = halls.execute_with("2", Hold(vec![1]), under("k")).await.unwrap_err();
        assert!(is_reused(&elsewhere), "{}", store.name);
    }
}

#[tokio::test]
async fn a_retry_returns_the_first_outcome_on_any_later_state() {
    for store in every_store().await {
        let halls = Repository::<Hall>::over(store.events.clone());
        for seat in 0..5 {
            halls.execute("1", Sell(seat)).await.unwrap();
        }
        let sold = halls.execute_with("1", Sell(7), under("sell")).await.unwrap();
        let held = halls.execute_with("1", Hold(vec![8, 9, 10]), under("hold")).await.unwrap();
        let priced = halls.execute_with("1", Price, under("price")).await.unwrap();
        let closed = halls.execute_with("1", Close, under("close")).await.unwrap();
        halls.flush().await;
        for halls in [&halls, &Repository::over(store.events.clone())] {
            let again = [
                (halls.execute_with("1", Sell(7), under("sell")).await.unwrap(), sold),
                (halls.execute_with("1", Hold(vec![8, 9, 10]), under("hold")).await.unwrap(), held),
                (halls.execute_with("1", Price, under("price")).await.unwrap(), priced),
                (halls.execute_with("1", Close, under("close")).await.unwrap(), closed),
            ];
            for (again, first) in again {
                assert_eq!(again.outcome, Outcome::Repeated, "{}", store.name);
                assert_eq!((again.version, again.token), (first.version, first.token), "{}", store.name);
            }
        }
        assert_eq!(halls.load("1").await.unwrap().version, Version::new(11));
    }
}
