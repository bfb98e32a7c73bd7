//! Connections to the server.

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgPool, Postgres};

use crate::error::{Error, ErrorKind, Result};
use crate::hosts::{each_host, hosts};
use crate::store::postgres::error::classify;
use crate::store::server::connections;
use crate::store::server::limits::Limits;

/// The only connections of this driver. Nothing runs on the pool directly, so every call has a limit.
pub(crate) type Connections = connections::Connections<Postgres>;

/// Opens a pool of ten connections to the database at `url`, and returns the hosts if the URL names several.
pub(crate) async fn pool(url: &str) -> Result<(PgPool, Vec<String>)> {
    let invalid = |error| Error::with_source(ErrorKind::Invalid("not the URL of a PostgreSQL database".into()), error);
    let options: PgConnectOptions = each_host(url)[0].parse().map_err(invalid)?;
    // `Connections` asks connections that were unused for a while, and keeps the limit of a wait.
    let pool = PgPoolOptions::new()
        .max_connections(10)
        .test_before_acquire(false)
        .acquire_timeout(Limits::default().wait)
        .after_connect(|connection, _| Box::pin(async { sqlx::raw_sql(SETTINGS).execute(connection).await.map(drop) }));
    let hosts = hosts(url);
    if hosts.len() > 1 {
        // The first one may be down.
        return Ok((pool.connect_lazy_with(options), hosts));
    }
    let pool = pool.connect_with(options).await.map_err(|error| classify(error, "connect"))?;
    Ok((pool, Vec::new()))
}

/// The server notices within two minutes that a client has disappeared, and ends its transaction. The default of the system is two hours.
///
/// Without `jit = off`, the server compiles the replay of a long stream. The functions that appends and readers call set it themselves, since they
/// also run on pools of the caller.
const SETTINGS: &str = "
    SET tcp_keepalives_idle = 60; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 6; SET jit = off";
