//! D1. Another request under a used idempotency key is refused.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::Utc;
use retell::prelude::*;
use retell::store::Outcome;
use retell::{Append, ErrorKind, IdempotencyKey, NewEvent, Repository, StreamId};
use uuid::Uuid;

use crate::stores::every_store;

#[derive(Event, Debug, Clone)]
enum HallEvent {
    #[event("hall.opened")]
    Opened { by: String, ticket: Uuid, nanos: i64, millis: i64, seconds: i64, log: HashMap<Uuid, String> },
    #[event("hall.stamped", codec = "compact")]
    Stamped { by: u32, ticket: Uuid },
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
            HallEvent::Priced { .. } | HallEvent::Opened { .. } | HallEvent::Stamped { .. } => {}
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

/// Opens the hall. The handler makes up ids, and stamps the time in several forms.
struct Open(&'static str);

impl Handle<Open> for Hall {
    type Error = &'static str;

    fn handle(&self, open: &Open) -> Result<Vec<HallEvent>, &'static str> {
        let (now, ticket) = (Utc::now(), Uuid::now_v7());
        let (millis, seconds) = (now.timestamp_millis(), now.timestamp());
        let (by, nanos) = (open.0.to_owned(), now.timestamp_nanos_opt().unwrap());
        let log = HashMap::from([(ticket, by.clone()), (Uuid::now_v7(), "opened".into())]);
        Ok(vec![HallEvent::Opened { by, ticket, nanos, millis, seconds, log }, HallEvent::Closed])
    }
}

/// Stamps a ticket that is stored in the compact codec.
struct Stamp(u32);

impl Handle<Stamp> for Hall {
    type Error = &'static str;

    fn handle(&self, stamp: &Stamp) -> Result<Vec<HallEvent>, &'static str> {
        Ok(vec![HallEvent::Stamped { by: stamp.0, ticket: Uuid::now_v7() }])
    }
}

/// Holds a seat while the box office is open. It never is on the second decision.
struct HoldInTime(u32, AtomicBool);

impl Handle<HoldInTime> for Hall {
    type Error = &'static str;

    fn handle(&self, hold: &HoldInTime) -> Result<Vec<HallEvent>, &'static str> {
        if hold.1.load(Ordering::Relaxed) {
            return Err("closed by now");
        }
        Ok(vec![HallEvent::Held { seat: hold.0, taken: 0 }])
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

/// A retry of a handler that makes up ids and times is a retry.
#[tokio::test]
async fn a_retry_of_a_handler_that_stamps_gets_the_first_outcome() {
    for store in every_store().await {
        let halls = Repository::<Hall>::over(store.events.clone());
        halls.execute("1", Sell(3)).await.unwrap();
        let opened = halls.execute_with("1", Open("Ada"), under("open")).await.unwrap();
        let stamped = halls.execute_with("1", Stamp(1), under("stamp")).await.unwrap();
        halls.execute("1", Sell(4)).await.unwrap();
        for halls in [&halls, &Repository::over(store.events.clone())] {
            let again = halls.execute_with("1", Open("Ada"), under("open")).await.unwrap();
            assert_eq!((again.outcome, again.token), (Outcome::Repeated, opened.token), "{}", store.name);
            let again = halls.execute_with("1", Stamp(1), under("stamp")).await.unwrap();
            assert_eq!((again.outcome, again.token), (Outcome::Repeated, stamped.token), "{}", store.name);
            let other = halls.execute_with("1", Open("Bob"), under("open")).await.unwrap_err();
            assert!(is_reused(&other), "{}: {other}", store.name);
        }
        assert_eq!(halls.load("1").await.unwrap().version, Version::new(5), "{}", store.name);
    }
}

#[tokio::test]
async fn the_callers_bytes_decide_what_a_retry_is() {
    for store in every_store().await {
        let halls = Repository::<Hall>::over(store.events.clone());
        let request = |bytes: &str| under("k").with_request(bytes);
        let hold = |seat, late| HoldInTime(seat, AtomicBool::new(late));
        let first = halls.execute_with("1", hold(1, false), request("hold 1")).await.unwrap();
        for halls in [&halls, &Repository::over(store.events.clone())] {
            // Neither the command nor its decision counts.
            for retry in [hold(1, false), hold(1, true), hold(9, false)] {
                let again = halls.execute_with("1", retry, request("hold 1")).await.unwrap();
                assert_eq!((again.outcome, again.token), (Outcome::Repeated, first.token), "{}", store.name);
            }
            let bytes = halls.execute_with("1", hold(1, false), request("hold 2")).await.unwrap_err();
            let kind = halls.execute_with("1", Sell(1), request("hold 1")).await.unwrap_err();
            let elsewhere = halls.execute_with("2", hold(1, false), request("hold 1")).await.unwrap_err();
            assert!([bytes, kind, elsewhere].iter().all(is_reused), "{}", store.name);
        }
        assert_eq!(halls.load("1").await.unwrap().state.seats, [1], "{}", store.name);
    }
}

/// Two types of command are two requests, even if they lead to equal events.
#[tokio::test]
async fn a_command_of_another_type_is_refused() {
    for store in every_store().await {
        let halls = Repository::<Hall>::over(store.events.clone());
        halls.execute_with("1", Hold(vec![1]), under("k")).await.unwrap();
        let other = halls.execute_with("1", Sell(1), under("k")).await.unwrap_err();
        assert!(is_reused(&other), "{}: {other}", store.name);
        let fewer = halls.execute_with("2", Hold(vec![1, 2]), under("two")).await.unwrap();
        assert_eq!(fewer.version, Version::new(2));
        // On the state between the two events, this command leads to the second one.
        let last = halls.execute_with("2", Hold(vec![2]), under("two")).await.unwrap_err();
        assert!(is_reused(&last), "{}: {last}", store.name);
    }
}

#[tokio::test]
async fn another_append_under_a_key_is_refused() {
    for store in every_store().await {
        let append = |event: &HallEvent| {
            let (stream, new) = (StreamId::parse("hall", "1").unwrap(), NewEvent::new(event).unwrap());
            Append::new(stream, ExpectedVersion::Any, vec![new]).with_key(IdempotencyKey::new("k").unwrap())
        };
        let prices = |cents| {
            let rows = (0..50).map(|row| (format!("row {row}"), cents));
            append(&HallEvent::Priced { cents_by_row: rows.collect() })
        };
        let first = store.events.append(prices(5)).await.unwrap();
        // The map of each append has its entries in another order.
        let again = store.events.append(prices(5)).await.unwrap();
        assert_eq!((again.outcome, again.token()), (Outcome::Repeated, first.token()), "{}", store.name);
        for other in [prices(6), append(&HallEvent::Closed)] {
            let refused = store.events.append(other).await.unwrap_err();
            assert!(matches!(refused.kind(), ErrorKind::KeyReused(_)), "{}: {refused}", store.name);
        }
    }
}
