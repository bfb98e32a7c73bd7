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

/// The rolled back row of the self-test stays in the indexes. At their end it would half fill all pages that follow.
#[tokio::test]
async fn the_self_test_leaves_no_row_at_the_end_of_an_index() {
    let database = Database::postgres().await;
    let Place::Postgres(url) = &database.place else { unreachable!() };
    let store = PostgresStore::connect(url).await.unwrap();
    let mut session = store.pool().acquire().await.unwrap();
    sqlx::query("SELECT setval('retell.commit_number', 1000)").execute(&mut *session).await.unwrap();
    for commit in 1..=100_i64 {
        if commit % 10 == 0 {
            PostgresStore::connect(url).await.unwrap().close().await.unwrap();
        }
        sqlx::query(
            "INSERT INTO retell.events (commit_id, ordinal, event_id, aggregate_type, aggregate_id, version, event_type,
                schema_version, codec, recorded_at, payload)
            SELECT $1, n, lpad(to_hex($1 * 1000 + n), 32, '0')::uuid, 'order', to_char($1 * 1000 + n, '0000000000000000'), 1,
                'order.placed', 1, 0, clock_timestamp(), '' FROM generate_series(1, 100) AS n",
        )
        .bind(commit)
        .execute(&mut *session)
        .await
        .unwrap();
    }
    // Pages that are filled in order are nine tenths full, and others half.
    for (index, most) in [("events_stream", 60), ("events_type", 12), ("events_id", 45), ("events_pkey", 40)] {
        let size = sqlx::query_scalar("SELECT pg_relation_size($1::regclass)").bind(format!("retell.{index}"));
        let size: i64 = size.fetch_one(&mut *session).await.unwrap();
        assert!(size / 10_000 < most, "{index}: {} bytes for each event", size / 10_000);
    }
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
