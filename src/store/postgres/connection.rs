//! Connections to the server.

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgPool, Postgres};

use crate::error::{Error, ErrorKind, Result};
use crate::store::postgres::error::classify;
use crate::store::server::connections;

/// The connections for frequent statements. Rare statements run directly on the pool.
pub(crate) type Connections = connections::Connections<Postgres>;

/// Opens a pool of ten connections to the database at `url`.
pub(crate) async fn pool(url: &str) -> Result<PgPool> {
    let invalid = |error| Error::with_source(ErrorKind::Invalid("not the URL of a PostgreSQL database".into()), error);
    let options: PgConnectOptions = url.parse().map_err(invalid)?;
    // A test before each use would cost a round trip. A call on a lost connection returns an error anyway.
    let pool = PgPoolOptions::new().max_connections(10).test_before_acquire(false).connect_with(options).await;
    pool.map_err(|error| classify(error, "connect"))
}
