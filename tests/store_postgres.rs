//! PostgreSQL keeps the promises of every store. Needs `POSTGRES_URL`; each test has a schema of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

use retell::store::postgres::{PostgresOptions, PostgresReadModel, PostgresStore};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

static SCHEMAS: AtomicU32 = AtomicU32::new(0);

/// A pool whose tables lie in a schema of the test's own, and the options that put ours there too.
async fn fresh() -> (sqlx::PgPool, PostgresOptions) {
    let url = std::env::var("POSTGRES_URL").expect("POSTGRES_URL names a PostgreSQL server: tests/run.sh starts one");
    let schema = format!("t{}_{}", std::process::id(), SCHEMAS.fetch_add(1, Ordering::SeqCst));
    let options = PgConnectOptions::from_str(&url).unwrap().options([("search_path", schema.as_str())]);
    let pool = PgPoolOptions::new().max_connections(4).test_before_acquire(false).connect_with(options).await.unwrap();
    (pool, PostgresOptions::new().with_schema(schema))
}

async fn store() -> PostgresStore {
    let (pool, options) = fresh().await;
    PostgresStore::open(pool, &options).await.unwrap()
}

async fn read_model() -> PostgresReadModel {
    let (pool, options) = fresh().await;
    PostgresReadModel::open(pool, &options).await.unwrap()
}

mod claims {
    retell::store_conformance!(async { (super::store().await, ()) });
}

mod read_model_claims {
    retell::checkpoint_conformance!(async { (super::read_model().await, ()) });
}

#[tokio::test]
async fn a_relays_checkpoint_never_goes_backward() {
    retell::testing::store::a_relays_checkpoint_never_goes_backward(&store().await).await;
}
