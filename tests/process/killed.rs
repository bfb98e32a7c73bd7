//! A manager kills itself before or after some command, repeatedly, while its deadlines pass: in the end every order is either confirmed or
//! cancelled, and the reserved quantity is the confirmed quantity.

use std::collections::HashMap;
use std::env;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use retell::testing::store::whole_log;
use retell::{EventStore, Repository};
use serde::{Deserialize, Serialize};

use crate::databases::Place;
use crate::domain::{Fulfilment, Order, OrderEvent, Payment, PaymentEvent, STOCK};
use crate::managed::run_until;
use crate::models::with_models;
use crate::trials::{block_on, child};

const ORDERS: u32 = 40;

/// Every third order is never paid, and the last ones find nothing left in stock.
fn is_paid(order: u32) -> bool {
    !order.is_multiple_of(3)
}

/// Number of kills. The short form covers each pair of steps; `RETELL_PROCESS=long` runs the rounds that the documentation claims.
fn rounds() -> i64 {
    if env::var("RETELL_PROCESS").is_ok_and(|form| form == "long") { 100 } else { 15 }
}

/// The task of a child process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    place: Place,
    steps_to_live: i64,
}

impl Job {
    /// Runs until the process kills itself.
    pub(crate) async fn run(self) {
        let store = self.place.open().await.unwrap().events;
        let process = Fulfilment::mortal(&store, Duration::from_millis(300), self.steps_to_live);
        with_models!(&self.place, |models| run_until(process, &store, models, 1, async || false).await);
    }
}

pub(crate) fn does_each_thing_once(place: &Place) {
    block_on(order_and_pay(place));
    let (mut round, mut killed) = (0, 0);
    // Rounds differ in length, so that kills hit all kinds of steps.
    while round < rounds() {
        let job = Job { place: place.clone(), steps_to_live: round % 7 };
        let mut child = child(&job).spawn().unwrap();
        let ended = loop {
            if let Some(ended) = child.try_wait().unwrap() {
                break ended;
            }
            // All work is done, so the manager survives.
            if block_on(is_done(place)) {
                child.kill().unwrap();
                break child.wait().unwrap();
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(ended.signal(), Some(9), "the manager ended without being killed");
        killed += 1;
        round += 1;
        if block_on(is_done(place)) {
            block_on(more(place, round));
        }
    }
    block_on(finish(place));
    block_on(check(place));
    assert_eq!(killed, rounds());
}

async fn order_and_pay(place: &Place) {
    let store = place.open().await.unwrap().events;
    let (orders, payments) = (Repository::<Order>::new(store.clone()), Repository::<Payment>::new(store.clone()));
    for number in 0..ORDERS {
        let quantity = 1 + number % 2;
        orders.execute(format!("o{number}"), OrderEvent::Created { quantity }).await.unwrap();
        if is_paid(number) {
            payments.execute(format!("o{number}"), PaymentEvent::Completed).await.unwrap();
        }
    }
    store.close().await.unwrap();
}

/// Adds orders for the remaining rounds.
async fn more(place: &Place, round: i64) {
    let store = place.open().await.unwrap().events;
    let (orders, payments) = (Repository::<Order>::new(store.clone()), Repository::<Payment>::new(store.clone()));
    for number in 0..4 {
        let id = format!("m{round}-{number}");
        orders.execute(id.clone(), OrderEvent::Created { quantity: 1 }).await.unwrap();
        if number % 2 == 0 {
            payments.execute(id, PaymentEvent::Completed).await.unwrap();
        }
    }
    store.close().await.unwrap();
}

async fn finish(place: &Place) {
    let store = place.open().await.unwrap().events;
    let process = Fulfilment::new(&store, Duration::from_millis(300));
    with_models!(place, |models| run_until(process, &store, models, 2, async || all_over(&ends(&*store).await)).await);
}

async fn is_done(place: &Place) -> bool {
    let store = place.open().await.unwrap().events;
    let done = all_over(&ends(&*store).await);
    store.close().await.unwrap();
    done
}

/// Counts the events of an order in the log.
#[derive(Debug, Default, PartialEq, Eq)]
struct End {
    confirmed: u32,
    cancelled: u32,
    unpaid: u32,
    reserved: u32,
    released: u32,
    quantity: u32,
}

fn all_over(ends: &HashMap<String, End>) -> bool {
    !ends.is_empty() && ends.values().all(|end| end.confirmed + end.cancelled > 0)
}

async fn ends(store: &dyn EventStore) -> HashMap<String, End> {
    let mut ends: HashMap<String, End> = HashMap::new();
    for event in whole_log(store).await.unwrap() {
        let payload = || serde_json::from_slice::<serde_json::Value>(&event.event.payload).unwrap();
        let order = || payload()["order"].as_str().unwrap().to_owned();
        let id = event.stream.aggregate_id().to_string();
        match event.event.event_type.as_str() {
            "order.created" => {
                let quantity = payload()["quantity"].as_u64().unwrap();
                ends.entry(id).or_default().quantity = u32::try_from(quantity).unwrap();
            }
            "order.confirmed" => ends.entry(id).or_default().confirmed += 1,
            "order.cancelled" => {
                let end = ends.entry(id).or_default();
                end.cancelled += 1;
                end.unpaid += u32::from(payload()["why"] == "unpaid");
            }
            "stock.reserved" => ends.entry(order()).or_default().reserved += 1,
            "stock.released" => ends.entry(order()).or_default().released += 1,
            _ => {}
        }
    }
    ends
}

async fn check(place: &Place) {
    let store = place.open().await.unwrap().events;
    let ends = ends(&*store).await;
    let mut held = 0;
    for (order, end) in &ends {
        let once = [
            // Paid before its deadline.
            (1, 0, 0, 1, 0),
            // Its deadline passed.
            (0, 1, 1, 1, 1),
            // Sold out.
            (0, 1, 0, 0, 0),
        ];
        let found = (end.confirmed, end.cancelled, end.unpaid, end.reserved, end.released);
        assert!(once.contains(&found), "{order}: {end:?}");
        held += (end.reserved - end.released) * end.quantity;
    }
    assert!(held > 0 && held <= STOCK, "{held} of {STOCK}");
    store.close().await.unwrap();
}
