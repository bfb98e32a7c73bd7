//! The lag of an inline projection, as health shows it.

use std::marker::PhantomData;

use retell::inline::inline;
use retell::store::Append;
use retell::testing::store::{event, stream};
use retell::{EventStore, ExpectedVersion, MySqlStore, PostgresStore, ProjectionName, SqliteStore};

use crate::claims::Noted;

fn one(id: &str, payload: &str) -> Append {
    Append::new(stream(id), ExpectedVersion::Any, vec![event(payload.to_owned())])
}

fn noted() -> ProjectionName {
    ProjectionName::new("noted").unwrap()
}

pub(crate) async fn health_shows_the_lag_of_an_inline_projection_on_sqlite(log: SqliteStore) {
    let inlined = inline(log.clone(), Noted(PhantomData)).await.unwrap();
    inlined.append(one("a", "x")).await.unwrap();
    assert_eq!(log.health().await.unwrap().projections, [(noted(), 0)]);
    for _ in 0..2 {
        log.append(one("past", "x")).await.unwrap();
    }
    assert_eq!(log.health().await.unwrap().projections, [(noted(), 2)]);
    inlined.append(one("a", "x")).await.unwrap();
    assert_eq!(log.health().await.unwrap().projections, [(noted(), 0)]);
}

/// On a server, an inline projection is never behind, although its checkpoint does not move.
macro_rules! never_behind {
    ($name:ident, $store:ty) => {
        pub(crate) async fn $name(log: $store) {
            let inlined = inline(log.clone(), Noted(PhantomData)).await.unwrap();
            for number in 1..=3 {
                inlined.append(one("a", "x")).await.unwrap();
                // Reading the log assigns the positions.
                assert_eq!(retell::testing::store::whole_log(&log).await.unwrap().len(), number);
                let health = log.health().await.unwrap();
                assert_eq!((health.head.get(), health.projections), (number as u64, vec![(noted(), 0)]));
            }
        }
    };
}

never_behind!(an_inline_projection_is_never_behind_in_health_on_postgres, PostgresStore);
never_behind!(an_inline_projection_is_never_behind_in_health_on_mysql, MySqlStore);
