//! A schema of its own for each test, on the server that `POSTGRES_URL` names.

use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

use retell::store::postgres::{PostgresOptions, PostgresStore};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

static SCHEMAS: AtomicU32 = AtomicU32::new(0);

/// A pool whose own tables lie in a new schema, and the options that put ours there too.
pub(crate) async fn fresh() -> (PgPool, PostgresOptions) {
    let schema = format!("t{}_{}", std::process::id(), SCHEMAS.fetch_add(1, Ordering::SeqCst));
    let pool = pool_with(&[("search_path", &schema)], 5).await;
    (pool, PostgresOptions::new().with_schema(schema))
}

/// A pool with settings for its sessions.
pub(crate) async fn pool_with(settings: &[(&str, &str)], connections: u32) -> PgPool {
    let pool = PgPoolOptions::new().max_connections(connections).test_before_acquire(false);
    pool.connect_with(server().options(settings.iter().copied())).await.unwrap()
}

pub(crate) fn server() -> PgConnectOptions {
    let url = std::env::var("POSTGRES_URL").expect("POSTGRES_URL names a PostgreSQL server: tests/run.sh starts one");
    PgConnectOptions::from_str(&url).unwrap()
}

pub(crate) async fn store() -> PostgresStore {
    let (pool, options) = fresh().await;
    PostgresStore::open_with(pool, options).await.unwrap()
}
