//! The registered shapes of events, after a restore to a time before them.

use retell::Repository;

use crate::c1_history::log::{databases, go_back_to, position_of_newest};
use crate::counter::{Add, Counter};
use crate::databases::{Place, Store};

/// Takes all shapes out of the log, which a dump from before the first registration does not have.
async fn lose_shapes(place: &Place) {
    let table = if let Place::Postgres(_) = place { "retell.shapes" } else { "retell_shapes" };
    place.run(&format!("DELETE FROM {table}")).await;
}

async fn registered(store: &Store) -> usize {
    store.events.registered_shapes().await.unwrap().len()
}

async fn grown(store: &Store) -> Repository<Counter> {
    let counters = Repository::<Counter>::over(store.events.clone());
    for _ in 0..8 {
        counters.execute("a", Add(vec![1])).await.unwrap();
    }
    assert_eq!(registered(store).await, 2);
    position_of_newest(store).await;
    counters
}

#[tokio::test]
async fn c1_a_lost_state_has_its_shapes_registered_again() {
    for database in databases().await {
        let here = database.place.open().await.unwrap();
        let counters = grown(&here).await;
        go_back_to(&database.place, 6).await;
        lose_shapes(&database.place).await;
        counters.load("a").await.unwrap();
        assert_eq!(registered(&here).await, 0, "a read registers nothing");
        counters.execute("a", Add(vec![1])).await.unwrap();
        assert_eq!(registered(&here).await, 2, "{:?}", database.place);
    }
}

#[tokio::test]
async fn c1_shapes_are_registered_again_by_another_aggregate() {
    for database in databases().await {
        let here = database.place.open().await.unwrap();
        let counters = grown(&here).await;
        go_back_to(&database.place, 6).await;
        lose_shapes(&database.place).await;
        // The repository has no state of this aggregate. Only the number of the commit shows that the log went back.
        counters.execute("b", Add(vec![1])).await.unwrap();
        assert_eq!(registered(&here).await, 2, "{:?}", database.place);
    }
}
