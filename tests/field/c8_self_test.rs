//! C8. A server that breaks the order of the log is refused.

use retell::store::EventStore;
use retell::store::mysql::{MySqlOptions, MySqlStore};
use retell::store::postgres::{PostgresOptions, PostgresStore};
use sqlx::mysql::MySqlPoolOptions;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::databases::{Database, Place};
use crate::unfit::{report, sql};

#[tokio::test]
async fn postgres_that_breaks_every_rule_is_refused_in_one_report() {
    let database = Database::postgres().await;
    let Place::Postgres(url) = &database.place else { unreachable!() };
    PostgresStore::connect(url).await.unwrap().close().await.unwrap();
    // Locks that always succeed, as some engines have them.
    let lock =
        "CREATE SCHEMA always; CREATE FUNCTION always.pg_try_advisory_xact_lock(integer, integer) RETURNS boolean
        LANGUAGE sql AS 'SELECT true'";
    let others =
        "ALTER SEQUENCE retell.commit_number CACHE 20; ALTER TABLE retell.events DISABLE TRIGGER events_no_change";
    for sql in [lock, others] {
        database.place.run(sql).await;
    }
    let options: PgConnectOptions = url.parse().unwrap();
    let pool =
        PgPoolOptions::new().connect_with(options.options([("search_path", "always,pg_catalog")])).await.unwrap();
    let error = PostgresStore::open_with(pool, PostgresOptions::new()).await.unwrap_err();
    let told = report(&error);
    assert_eq!(told.lines().count(), 3, "{told}");
    assert!(told.contains("the same advisory lock") && told.contains("drew the commit numbers"), "{told}");
    assert!(told.contains("stored events can be changed"), "{told}");

    // The SQL of the report mends what is the database's own.
    database.place.run(&sql(&error)).await;
    let store = PostgresStore::connect(url).await.unwrap();
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM retell.events").fetch_one(store.pool()).await.unwrap();
    assert_eq!(left, 0, "the self-test leaves nothing behind");
}

#[tokio::test]
async fn sessions_without_triggers_are_refused() {
    let database = Database::postgres().await;
    let Place::Postgres(url) = &database.place else { unreachable!() };
    let options: PgConnectOptions = url.parse().unwrap();
    let options = options.options([("session_replication_role", "replica")]);
    let pool = PgPoolOptions::new().connect_with(options).await.unwrap();
    let error = PostgresStore::open(pool).await.unwrap_err();
    assert!(report(&error).contains("session_replication_role"), "{error}");
}

#[tokio::test]
async fn one_connection_is_enough_to_open() {
    let database = Database::postgres().await;
    let Place::Postgres(url) = &database.place else { unreachable!() };
    let pool = PgPoolOptions::new().max_connections(1).connect(url).await.unwrap();
    PostgresStore::open_with(pool, PostgresOptions::new().without_listening()).await.unwrap();
    let database = Database::mysql().await;
    let Place::MySql(url) = &database.place else { unreachable!() };
    let pool = MySqlPoolOptions::new().max_connections(1).connect(url).await.unwrap();
    MySqlStore::open_with(pool, MySqlOptions::new()).await.unwrap();
}

#[tokio::test]
async fn mysql_with_several_number_sources_is_refused() {
    let database = Database::mysql().await;
    let Place::MySql(url) = &database.place else { unreachable!() };
    MySqlStore::connect(url).await.unwrap().close().await.unwrap();
    for (setting, told) in [
        ("SET auto_increment_increment = 2, auto_increment_offset = 2", "draw commit numbers in turn"),
        ("SET autocommit = 0", "autocommit = 0"),
    ] {
        let pool = MySqlPoolOptions::new()
            .after_connect(move |db, _| Box::pin(async move { sqlx::raw_sql(setting).execute(db).await.map(drop) }));
        let error = MySqlStore::open(pool.connect(url).await.unwrap()).await.unwrap_err();
        assert!(report(&error).contains(told), "{error}");
    }
}

#[tokio::test]
async fn mysql_without_its_triggers_or_engine_is_refused() {
    let database = Database::mysql().await;
    let Place::MySql(url) = &database.place else { unreachable!() };
    let store = MySqlStore::connect(url).await.unwrap();
    database.place.run("DROP TRIGGER retell_events_no_update; DROP TRIGGER retell_events_no_delete").await;
    let error = MySqlStore::connect(url).await.unwrap_err();
    assert_eq!(report(&error).matches("stored events can be changed").count(), 2, "{error}");
    let left: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM retell_events").fetch_one(store.pool()).await.unwrap();
    assert_eq!(left, 0, "the self-test leaves nothing behind");
    database.place.run("ALTER TABLE retell_head ENGINE = MyISAM").await;
    let error = MySqlStore::connect(url).await.unwrap_err();
    assert!(report(&error).contains("not in InnoDB"), "{error}");
}
