//! PostgreSQL keeps the promises of every store and read model. Needs `POSTGRES_URL`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/postgres.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod postgres;

use retell::store::postgres::PostgresReadModel;

async fn read_model() -> PostgresReadModel {
    let (pool, options) = postgres::fresh().await;
    PostgresReadModel::open(pool, &options).await.unwrap()
}

mod claims {
    retell::store_conformance!(async { (super::postgres::store().await, ()) });
}

mod relay_claims {
    retell::relay_store_conformance!(async { (super::postgres::store().await, ()) });
}

mod read_model_claims {
    retell::checkpoint_conformance!(async { (super::read_model().await, ()) });
}

mod progress_claims {
    retell::progress_conformance!(async { (super::read_model().await, ()) });
}
