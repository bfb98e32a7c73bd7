//! Values reserved within a caller's own transaction take effect with its commit, or not at all.

use std::time::Duration;

use retell::error::{BoxError, ErrorKind, Result};
use retell::store::mysql::MySqlStore;
use retell::store::postgres::PostgresStore;
use retell::store::sqlite::SqliteStore;
use retell::store::{Append, Appended};
use retell::testing::store::{events, stream, whole_log};
use retell::{Claim, ClaimScope, ClaimValue, EventStore, ExpectedVersion};
use sqlx::{AssertSqlSafe, Connection, MySqlConnection, PgConnection, raw_sql};
use tokio::task::JoinHandle;

use crate::databases::Place;
use crate::databases::mysql_sessions::sessions;

fn reserving(id: &str, value: &str) -> Append {
    let claim = Claim::reserve("user.email", value).unwrap();
    Append::new(stream(id), ExpectedVersion::Any, events(1)).with_claims([claim])
}

fn taken(value: &str, by: &str) -> ErrorKind {
    let (scope, value) = (ClaimScope::new("user.email").unwrap(), ClaimValue::new(value).unwrap());
    ErrorKind::Taken { scope, value, by: stream(by) }
}

async fn holder(store: &impl EventStore, value: &str) -> Option<String> {
    let (scope, value) = (ClaimScope::new("user.email").unwrap(), ClaimValue::new(value).unwrap());
    store.holder(&scope, &value).await.unwrap().map(|stream| stream.aggregate_id().to_string())
}

/// Tries to reserve a value while the caller's transaction is open, and waits for its end if it has to.
fn rival(store: &(impl EventStore + Clone), value: &str) -> JoinHandle<Result<Appended>> {
    let (store, append) = (store.clone(), reserving("rival", value));
    tokio::spawn(async move { store.append(append).await })
}

pub(crate) async fn a_sqlite_append_whose_work_fails_reserves_nothing() {
    let store = SqliteStore::in_memory().await.unwrap();
    let failing = store.append_with(reserving("a", "x"), |_| Err::<(), BoxError>("no".into())).await;
    assert_eq!(failing.unwrap_err().to_string(), "no");
    assert_eq!(holder(&store, "x").await, None);
    store.append_with(reserving("b", "x"), |_| Ok::<_, BoxError>(())).await.unwrap();
    let unreachable_work =
        |_: &rusqlite::Connection| -> Result<()> { panic!("the work of a refused append must not run") };
    let error = store.append_with(reserving("a", "x"), unreachable_work).await.unwrap_err();
    assert_eq!(*error.kind(), taken("x", "b"));
}

/// Runs the same steps on each server; only the types differ.
macro_rules! steps {
    ($store:expr, $url:expr, $connection:ty, $begin:expr, $isolation:expr, $waiting:expr) => {{
        let (store, isolation) = ($store, $isolation);
        let [kept, dropped, own, passed] =
            ["kept", "dropped", "own", "passed"].map(|value| format!("{value}, {isolation}"));
        let mut tx = <$connection>::connect($url).await.unwrap();
        let begin = || raw_sql(AssertSqlSafe($begin));

        begin().execute(&mut tx).await.unwrap();
        store.append_in(&mut tx, &reserving("caller", &dropped)).await.unwrap();
        let waiting = rival(store, &dropped);
        raw_sql("ROLLBACK").execute(&mut tx).await.unwrap();
        waiting.await.unwrap().expect("a rolled-back reservation blocks no other append");
        assert_eq!(holder(store, &dropped).await.as_deref(), Some("rival"), "{isolation}");

        begin().execute(&mut tx).await.unwrap();
        store.append_in(&mut tx, &reserving("caller", &kept)).await.unwrap();
        let waiting = rival(store, &kept);
        let error = store.append_in(&mut tx, &reserving("caller", &dropped)).await.unwrap_err();
        assert_eq!(*error.kind(), taken(&dropped, "rival"), "{isolation}");
        store.append_in(&mut tx, &reserving("caller", &own)).await.expect("the transaction stays usable");
        raw_sql("COMMIT").execute(&mut tx).await.unwrap();
        let error = waiting.await.unwrap().unwrap_err();
        assert_eq!(*error.kind(), taken(&kept, "caller"), "{isolation}");
        assert_eq!(holder(store, &own).await.as_deref(), Some("caller"), "{isolation}");

        // An append that waits for a value comes after the append that releases it, even if the releasing transaction
        // held the value's lock the whole time.
        store.append(reserving("caller", &passed)).await.unwrap();
        begin().execute(&mut tx).await.unwrap();
        store.append_in(&mut tx, &reserving("caller", &passed)).await.unwrap();
        let waiting = rival(store, &passed);
        while sqlx::query_scalar::<_, i64>($waiting).fetch_one(store.pool()).await.unwrap() == 0 {
            // The server repeats its last answer to a session that polls more often than every 100 ms.
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        let claim = Claim::release("user.email", &passed).unwrap();
        let release = Append::new(stream("caller"), ExpectedVersion::Any, events(1)).with_claims([claim]);
        store.append_in(&mut tx, &release).await.unwrap();
        raw_sql("COMMIT").execute(&mut tx).await.unwrap();
        waiting.await.unwrap().expect("the value is free now");
        let log = whole_log(store).await.unwrap();
        let last = log[log.len() - 2..].iter().map(|event| event.stream.aggregate_id().as_str());
        assert_eq!(last.collect::<Vec<_>>(), ["caller", "rival"], "{isolation}");
    }};
}

pub(crate) async fn postgres(place: &Place) {
    let Place::Postgres(url) = place else { unreachable!("the test passes a PostgreSQL database") };
    let store = PostgresStore::connect(url).await.unwrap();
    for isolation in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        steps!(&store, url, PgConnection, format!("BEGIN ISOLATION LEVEL {isolation}"), isolation, POSTGRES_WAITING);
    }
    store.close().await.unwrap();
}

pub(crate) async fn mysql(place: &Place) {
    let Place::MySql(url) = place else { unreachable!("the test passes a MySQL database") };
    let store = MySqlStore::connect(url).await.unwrap();
    for isolation in ["READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let begin = format!("SET TRANSACTION ISOLATION LEVEL {isolation}; START TRANSACTION");
        steps!(&store, url, MySqlConnection, begin.clone(), isolation, MYSQL_WAITING);
    }
    store.close().await.unwrap();
}

/// Counts the sessions of this database that wait for a row lock.
const POSTGRES_WAITING: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";

const MYSQL_WAITING: &str = concat!(
    "SELECT count(*) FROM information_schema.innodb_trx t JOIN ",
    sessions!(),
    " ON s.id = t.trx_mysql_thread_id WHERE s.db = DATABASE() AND t.trx_state = 'LOCK WAIT'"
);
