//! PostgreSQL keeps the promises of every store. Needs `POSTGRES_URL`; each test has a schema of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicU32, Ordering};

use retell::store::postgres::{PostgresOptions, PostgresReadModel, PostgresStore};

static SCHEMAS: AtomicU32 = AtomicU32::new(0);

async fn fresh() -> (sqlx::PgPool, PostgresOptions) {
    let url = std::env::var("POSTGRES_URL").expect("POSTGRES_URL names a PostgreSQL server: tests/run.sh starts one");
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(5).connect(&url).await.unwrap();
    let schema = format!("t{}_{}", std::process::id(), SCHEMAS.fetch_add(1, Ordering::SeqCst));
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

mod store_cases {
    retell::store_conformance!(async { (super::store().await, ()) });
}

#[tokio::test]
async fn a_relays_checkpoint_never_goes_backward() {
    retell::testing::store::a_relays_checkpoint_never_goes_backward(&store().await).await;
}
