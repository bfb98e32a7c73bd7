//! A connection pooler, and clocks that differ.

use retell::{EventStore, MySqlStore, PostgresReadModel, PostgresStore};

use crate::databases::{Database, Place};
use crate::pgbouncer::Pooler;
use crate::server::Server;
use crate::{expect, findings};

#[tokio::test]
async fn pooler_in_transaction_mode_is_found() {
    let database = Database::postgres().await;
    let Place::Postgres(url) = &database.place else { unreachable!("a database on PostgreSQL") };
    // The session that answers may not be the one that the pool has set up.
    database.place.run(&format!("ALTER DATABASE {} SET jit = off", url.rsplit_once('/').unwrap().1)).await;
    let pooler = Pooler::start(&database, "max_prepared_statements = 100");
    let log = PostgresStore::connect(&pooler.url).await.unwrap();
    expect(&log, &["pooler"]).await;
    expect(&PostgresReadModel::connect(&pooler.url).await.unwrap(), &["pooler"]).await;
    let pooler = Pooler::start(&database, "max_prepared_statements = 100\npool_mode = session");
    let log = PostgresStore::connect(&pooler.url).await.unwrap();
    expect(&log, &[]).await;
}

#[tokio::test]
async fn clock_of_a_postgres_that_differs_is_found() {
    let server = Server::start_with_clock("+1h");
    let log = PostgresStore::connect(&server.url()).await.unwrap();
    expect(&log, &["clocks-differ", "synchronous-commit-off"]).await;
    let found = findings(&log).await;
    let clock = found.iter().find(|finding| finding.id == "clocks-differ").unwrap();
    assert!(clock.seen.ends_with("s ahead of the one of this process"), "{clock:?}");
}

#[tokio::test]
async fn clock_of_a_mysql_that_differs_is_found() {
    let database = Database::mysql().await;
    MySqlStore::connect(crate::mysql::url(&database)).await.unwrap().close().await.unwrap();
    let log = crate::mysql::with_setting(&database, "SET timestamp = 1700000000").await;
    expect(&log, &["clocks-differ"]).await;
    assert!(findings(&log).await[0].seen.contains("behind"));
}
