//! Creates a schema for each test on the server at `POSTGRES_URL`.

use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

use retell::store::postgres::{PostgresOptions, PostgresStore};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

static SCHEMAS: AtomicU32 = AtomicU32::new(0);

/// Returns a pool whose own tables are in a new schema, and options that put the library's tables there too.
pub(crate) async fn fresh() -> (PgPool, PostgresOptions) {
    let schema = format!("t{}_{}", std::process::id(), SCHEMAS.fetch_add(1, Ordering::SeqCst));
    let pool = pool_with(&[("search_path", &schema)], 5).await;
    (pool, PostgresOptions::new().with_schema(schema))
}

/// Returns a pool whose sessions have these settings.
pub(crate) async fn pool_with(settings: &[(&str, &str)], connections: u32) -> PgPool {
    let pool = PgPoolOptions::new().max_connections(connections).test_before_acquire(false);
    pool.connect_with(server().options(settings.iter().copied())).await.unwrap()
}

pub(crate) fn server() -> PgConnectOptions {
    let url = std::env::var("POSTGRES_URL").expect("POSTGRES_URL is not set: tests/run.sh starts a PostgreSQL server");
    PgConnectOptions::from_str(&url).unwrap()
}

pub(crate) async fn store() -> PostgresStore {
    let (pool, options) = fresh().await;
    PostgresStore::open_with(pool, options).await.unwrap()
}
