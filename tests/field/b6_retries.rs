//! B6. Leases and retries that a clock far ahead has planned are not waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use retell::prelude::*;
use retell::store::ViewStore;
use retell::{Fence, ParkingOptions, ProjectionName, WorkerOptions};
use uuid::Uuid;

use crate::databases::{Database, Place};
use crate::sites::{self, Site};

#[derive(Event)]
#[event("lamp.lit")]
struct Lit(u64);

/// Has no key for an event until it is fixed: a key that is too long is a failure.
struct Lamps {
    name: &'static str,
    is_fixed: Arc<AtomicBool>,
}

impl View for Lamps {
    const NAME: &'static str = "lamps";
    type Event = Lit;
    type State = u64;

    fn name(&self) -> &str {
        self.name
    }

    fn key(&self, lit: &Envelope<Lit>) -> Option<String> {
        let is_fixed = self.is_fixed.load(Ordering::SeqCst);
        Some(if is_fixed { lit.stream.to_string() } else { "x".repeat(1 << 16) })
    }

    fn apply(&self, lit: &mut u64, event: Envelope<Lit>) {
        *lit += event.event.0;
    }
}

/// Moves a time of a table to the year 2096.
async fn set_ahead(place: &Place, table: &str, column: &str) {
    let (prefix, time) = match place {
        Place::Sqlite(_) => ("retell_", "4000000000000000"),
        Place::Postgres(_) => ("retell.", "'2096-10-02 07:06:40+00'"),
        Place::MySql(_) => ("retell_", "'2096-10-02 07:06:40'"),
    };
    place.run(&format!("UPDATE {prefix}{table} SET {column} = {time}")).await;
}

/// A worker whose clock was decades ahead has parked an aggregate, and planned the retry by that clock.
async fn a_retry_planned_by_a_clock_ahead_comes<S, M>(Site { store, models, database }: Site<S, M>)
where
    S: EventStore,
    M: ViewStore + Clone,
{
    let (store, database) = (Arc::new(store), database.unwrap());
    let place = models_of(&database.place);
    store.append_events(("lamp", "1"), ExpectedVersion::NoStream, [Lit(1)]).await.unwrap();
    for (name, is_parallel) in [("lamps", false), ("lamps per aggregate", true)] {
        let is_fixed = Arc::new(AtomicBool::new(false));
        let hour = Duration::from_hours(1);
        let parking = ParkingOptions::new().with_delays(hour, hour);
        let options = WorkerOptions::new().with_retries(0).with_parking(parking);
        let worker = || {
            let view = Lamps { name, is_fixed: is_fixed.clone() };
            let worker = Worker::view(view, store.clone(), models.clone()).with_options(options);
            if is_parallel { worker.with_order_per_aggregate() } else { worker }
        };
        assert_eq!(worker().catch_up().await.unwrap().parked.len(), 1);
        set_ahead(&place, "parked", "next_at").await;
        is_fixed.store(true, Ordering::SeqCst);
        let (worker, stop) = (worker(), CancellationToken::new());
        let released = tokio::time::timeout(Duration::from_secs(30), async {
            let name = ProjectionName::new(name).unwrap();
            while !models.parking(&name).await.unwrap().parked.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let (ran, released) = tokio::join!(worker.run(stop.clone()), async {
            let released = released.await;
            stop.cancel();
            released
        });
        ran.unwrap();
        released.unwrap_or_else(|_| panic!("{name}: the aggregate stays parked until 2096"));
        let view = Lamps { name, is_fixed };
        assert_eq!(Views::new(&view, models.clone()).get("lamp/1").await.unwrap(), Some(1));
    }
}

/// Returns where [`sites`] puts the read models of a log.
fn models_of(log: &Place) -> Place {
    match log {
        Place::Sqlite(path) => Place::Sqlite(path.with_file_name("models.db")),
        server => server.clone(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_planned_by_a_clock_ahead_comes_on_sqlite() {
    let site = sites::sqlite().await;
    a_retry_planned_by_a_clock_ahead_comes(site).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_planned_by_a_clock_ahead_comes_on_postgres() {
    a_retry_planned_by_a_clock_ahead_comes(sites::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_planned_by_a_clock_ahead_comes_on_mysql() {
    a_retry_planned_by_a_clock_ahead_comes(sites::mysql().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_of_a_clock_ahead_is_not_waited_for() {
    for database in [Database::sqlite(), Database::postgres().await, Database::mysql().await] {
        let relays = database.place.open().await.unwrap().relays;
        let (gone, next) = (Uuid::now_v7(), Uuid::now_v7());
        let lease = Duration::from_secs(10);
        let acquire = async |holder| relays.acquire_lease("main", holder, lease).await.unwrap();
        assert_eq!(acquire(gone).await, Some(Fence::new(1)));
        assert_eq!(acquire(next).await, None, "a lease of a right clock is kept");
        set_ahead(&database.place, "leases", "given_at").await;
        set_ahead(&database.place, "leases", "ends_at").await;
        assert_eq!(acquire(next).await, Some(Fence::new(2)), "{:?}", database.place);
        assert_eq!(acquire(gone).await, None, "the new lease ends in time");
    }
}
