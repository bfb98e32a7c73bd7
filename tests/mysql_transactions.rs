//! Cases that need a server with many sessions: callers' own transactions, unrelated transactions, isolation levels,
//! locks and lost connections. Needs `MYSQL_URL`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mysql.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod mysql;

use std::time::Duration;

use mysql::Database;
use mysql::mysql_sessions::sessions;
use retell::event::NewEvent;
use retell::store::mysql::MySqlStore;
use retell::store::{Append, Appended, Health, OpenTransactions, Outcome, Snapshot, Step};
use retell::testing::store::{events, stream};
use retell::{
    ErrorKind, EventReader, EventReaderExt, EventStore, ExpectedVersion, Filter, IdempotencyKey, MySqlReadModel,
    Position, ProjectionName, ReadModel, Version,
};
use sqlx::mysql::MySqlPoolOptions;
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection, raw_sql};

const ISOLATION: [&str; 4] = ["READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];

fn append(id: &str, expected: ExpectedVersion) -> Append {
    Append::new(stream(id), expected, events(1))
}

/// Returns the streams of the log, in order.
async fn log(store: &MySqlStore) -> Vec<String> {
    let page = store.read_all(Position::ZERO, 10_000, &Filter::all()).await.unwrap();
    assert!(page.events.iter().zip(1..).all(|(event, position)| event.position == Position::new(position)));
    page.events.iter().map(|event| event.stream.aggregate_id().as_str().to_owned()).collect()
}

async fn run(connection: &mut MySqlConnection, sql: &str) {
    raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.unwrap();
}

async fn begin(database: &Database, isolation: &str) -> MySqlConnection {
    let mut connection = database.connect().await;
    run(&mut connection, &format!("SET TRANSACTION ISOLATION LEVEL {isolation}; START TRANSACTION")).await;
    connection
}

async fn written(store: &MySqlStore, tx: &mut MySqlConnection, id: &str) -> Appended {
    store.append_in(tx, &append(id, ExpectedVersion::Any)).await.unwrap()
}

/// Returns a transaction of this test's database that waits for a lock and is not `but`, as soon as there is one.
async fn waiting(database: &Database, but: Option<&str>) -> String {
    let mut operator = database.connect().await;
    let is_mariadb = database.version().await.contains("MariaDB");
    loop {
        let found = if is_mariadb { waits_in_status(&mut operator).await } else { waits(&mut operator).await };
        if let Some(found) = found.into_iter().find(|found| Some(found.as_str()) != but) {
            return found;
        }
    }
}

/// MySQL: its status leaves out transactions that have only read.
async fn waits(operator: &mut MySqlConnection) -> Vec<String> {
    let waits = "
        SELECT CAST(w.requesting_engine_transaction_id AS CHAR) FROM performance_schema.data_lock_waits w
        JOIN performance_schema.threads t ON t.thread_id = w.requesting_thread_id WHERE t.processlist_db = DATABASE()";
    sqlx::query_scalar(waits).fetch_all(operator).await.unwrap()
}

/// MariaDB: reads the InnoDB status, because `innodb_trx` shows a cached result to a session that polls it.
async fn waits_in_status(operator: &mut MySqlConnection) -> Vec<String> {
    let word_after = |text: &str, mark: &str| {
        let rest = text.split_once(mark).unwrap().1;
        rest.split([',', ' ']).next().unwrap().to_owned()
    };
    let sessions = concat!("SELECT CAST(id AS CHAR) FROM ", sessions!(), " WHERE db = DATABASE()");
    let ours: Vec<String> = sqlx::query_scalar(sessions).fetch_all(&mut *operator).await.unwrap();
    let (_, _, status): (String, String, String) =
        sqlx::query_as("SHOW ENGINE INNODB STATUS").fetch_one(operator).await.unwrap();
    let waiting = status.split("---").filter(|text| text.starts_with("TRANSACTION ") && text.contains("LOCK WAIT"));
    let of_ours = waiting.filter(|text| ours.contains(&word_after(text, "thread id ")));
    of_ours.map(|text| word_after(text, "TRANSACTION ")).collect()
}

#[tokio::test]
async fn rows_and_events_commit_together_in_every_isolation_level() {
    for isolation in ISOLATION {
        let (store, database) = mysql::store().await;
        store.pool().execute("CREATE TABLE notes (id VARCHAR(9))").await.unwrap();
        for end in ["ROLLBACK", "COMMIT"] {
            let mut tx = begin(&database, isolation).await;
            tx.execute("INSERT INTO notes VALUES ('caller')").await.unwrap();
            written(&store, &mut tx, end).await;
            assert_eq!(log(&store).await.len(), 0, "readers see nothing before the commit");
            run(&mut tx, end).await;
        }
        let rows: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM notes").fetch_one(store.pool()).await.unwrap();
        assert_eq!((rows, log(&store).await), (1, vec!["COMMIT".to_owned()]), "{isolation}");
    }
}

#[tokio::test]
async fn late_commit_with_an_early_number_keeps_its_place() {
    for isolation in ISOLATION {
        let (store, database) = mysql::store().await;
        if isolation == "SERIALIZABLE" && !database.version().await.contains("MariaDB") {
            eprintln!("on MySQL, a serializable transaction also locks the ends of the streams next to its own");
            continue;
        }
        store.pool().execute("CREATE TABLE notes (id VARCHAR(9))").await.unwrap();
        for id in ["a", "b", "x", "y"] {
            store.append(append(id, ExpectedVersion::NoStream)).await.unwrap();
        }
        let mut late = begin(&database, isolation).await;
        late.execute("INSERT INTO notes VALUES ('an id')").await.unwrap();
        let token = written(&store, &mut late, "late").await.token();
        // A serializable transaction locks the gaps from `a` to `x`.
        for id in ["x", "y"] {
            store.append(append(id, ExpectedVersion::Any)).await.unwrap();
        }
        assert_eq!(log(&store).await, ["a", "b", "x", "y", "x", "y"], "readers do not wait for the open transaction");
        assert_eq!(store.position_of(token).await.unwrap(), None);
        run(&mut late, "COMMIT").await;
        store.append(append("c", ExpectedVersion::NoStream)).await.unwrap();
        // Neither `late` nor `c` has a position yet, and `late` has the lower number.
        assert_eq!(log(&store).await[6..], ["late", "c"], "{isolation}");
        assert_eq!(store.position_of(token).await.unwrap(), Some(Position::new(7)));
    }
}

#[tokio::test]
async fn a_hundred_open_transactions_delay_no_append() {
    for isolation in ["READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ"] {
        let (store, database) = mysql::store().await;
        store.append(append("known", ExpectedVersion::NoStream)).await.unwrap();
        let mut open = Vec::new();
        for caller in 0..100 {
            let mut tx = begin(&database, isolation).await;
            written(&store, &mut tx, &format!("open {caller}")).await;
            // A refused append must not block other appends with the locks of its lookup, either.
            let refused = store.append_in(&mut tx, &append("known", ExpectedVersion::NoStream)).await;
            assert!(refused.unwrap_err().is_conflict());
            open.push(tx);
        }
        let ids = (0..100).map(|n| format!("{n} free")).chain((0..100).map(|n| format!("open {n} not")));
        let appends = ids.chain(["known".to_owned()]).map(|id| {
            let (store, append) = (&store, append(&id, ExpectedVersion::Any));
            async move { store.append(append).await }
        });
        for appended in futures::future::join_all(appends).await {
            appended.unwrap();
        }
        assert_eq!(log(&store).await.len(), 202, "{isolation}");
        for tx in &mut open {
            run(tx, "COMMIT").await;
        }
        assert_eq!(log(&store).await.len(), 302, "{isolation}");
    }
}

#[tokio::test]
async fn a_commit_that_becomes_visible_late_keeps_its_place() {
    let (store, database) = mysql::store().await;
    let mut early = begin(&database, "READ COMMITTED").await;
    written(&store, &mut early, "first").await;
    store.append(append("second", ExpectedVersion::NoStream)).await.unwrap();
    store.append(append("third", ExpectedVersion::NoStream)).await.unwrap();
    // The trigger stops the sequencer while it copies the commits that it has seen, until the lock is free.
    let gate = format!("{:?}", std::thread::current().name().unwrap());
    let mut operator = database.connect().await;
    run(&mut operator, &format!("DO GET_LOCK({gate}, 60)")).await;
    let trigger = "CREATE TRIGGER gate BEFORE INSERT ON retell_log FOR EACH ROW";
    run(&mut operator, &format!("{trigger} SET @passed = GET_LOCK({gate}, 60) + RELEASE_LOCK({gate})")).await;
    let reader = store.clone();
    let reading = tokio::spawn(async move { log(&reader).await });
    let stopped = concat!("SELECT COUNT(*) FROM ", sessions!(), " WHERE state = 'User lock' AND db = DATABASE()");
    while sqlx::query_scalar::<_, i64>(stopped).fetch_one(&mut operator).await.unwrap() == 0 {}
    run(&mut early, "COMMIT").await;
    run(&mut operator, &format!("DO RELEASE_LOCK({gate})")).await;
    assert_eq!(reading.await.unwrap(), ["first", "second", "third"]);
}

#[tokio::test]
async fn an_append_does_not_build_on_uncommitted_rows() {
    for (end, expected) in [("ROLLBACK", 1), ("COMMIT", 2)] {
        let (store, database) = mysql::store().await;
        let key = IdempotencyKey::new("key").unwrap();
        let mut other = begin(&database, "READ COMMITTED").await;
        written(&store, &mut other, "a").await;
        let keyed = append("b", ExpectedVersion::Any).with_key(key.clone());
        store.append_in(&mut other, &keyed).await.unwrap();
        // This transaction sees the other's rows, and must wait until the other one ends.
        let mut dirty = begin(&database, "READ UNCOMMITTED").await;
        let (on_top, again) = (append("a", ExpectedVersion::Any), append("b", ExpectedVersion::Any).with_key(key));
        let work = async {
            let on_top = store.append_in(&mut dirty, &on_top).await.unwrap();
            (on_top, store.append_in(&mut dirty, &again).await.unwrap())
        };
        let others_end = async {
            waiting(&database, None).await;
            run(&mut other, end).await;
        };
        let ((on_top, again), ()) = tokio::join!(work, others_end);
        assert_eq!(on_top.versions, [Version::new(expected)], "{end}");
        let outcome = if end == "COMMIT" { Outcome::Repeated } else { Outcome::Written };
        assert_eq!((again.outcome, again.versions), (outcome, vec![Version::new(1)]), "{end}");
        run(&mut dirty, "COMMIT").await;
        let streams = log(&store).await;
        assert_eq!(streams.iter().filter(|id| *id == "b").count(), 1, "{streams:?}");
    }
}

#[tokio::test]
async fn time_never_goes_backward_within_a_stream() {
    let (store, database) = mysql::store().await;
    let mut first = begin(&database, "READ COMMITTED").await;
    written(&store, &mut first, "a").await;
    // This append begins now, and waits until the other transaction ends.
    let waits = tokio::spawn({
        let store = store.clone();
        async move { store.append(append("a", ExpectedVersion::Any)).await }
    });
    waiting(&database, None).await;
    run(&mut first, "COMMIT").await;
    assert_eq!(waits.await.unwrap().unwrap().versions, [Version::new(2)]);
    let times: Vec<(i64, chrono::NaiveDateTime)> =
        sqlx::query_as("SELECT version, recorded_at FROM retell_events ORDER BY version")
            .fetch_all(store.pool())
            .await
            .unwrap();
    assert!(times[0].1 <= times[1].1, "{times:?}");
}

#[tokio::test]
async fn a_transaction_in_another_database_stalls_nothing() {
    let (store, _database) = mysql::store().await;
    let other_database = Database::create().await;
    let mut unrelated = other_database.connect().await;
    run(&mut unrelated, "CREATE TABLE t (id INT); START TRANSACTION; INSERT INTO t VALUES (1); SELECT * FROM t").await;
    store.append(append("a", ExpectedVersion::NoStream)).await.unwrap();
    assert_eq!(log(&store).await, ["a"]);
    run(&mut unrelated, "ROLLBACK").await;
}

#[tokio::test]
async fn a_rolled_back_savepoint_leaves_no_gap() {
    let (store, database) = mysql::store().await;
    let mut tx = begin(&database, "REPEATABLE READ").await;
    written(&store, &mut tx, "kept").await;
    run(&mut tx, "SAVEPOINT s").await;
    written(&store, &mut tx, "undone").await;
    run(&mut tx, "ROLLBACK TO SAVEPOINT s").await;
    written(&store, &mut tx, "kept too").await;
    run(&mut tx, "COMMIT").await;
    store.append(append("next", ExpectedVersion::NoStream)).await.unwrap();
    assert_eq!(log(&store).await, ["kept", "kept too", "next"]);
}

#[tokio::test]
async fn sqlx_savepoints_nest_with_ours() {
    let (store, database) = mysql::store().await;
    let mut connection = database.connect().await;
    let mut tx = connection.begin().await.unwrap();
    written(&store, &mut tx, "kept").await;
    let mut inner = tx.begin().await.unwrap();
    written(&store, &mut inner, "undone").await;
    inner.rollback().await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(log(&store).await, ["kept"]);
}

#[tokio::test]
async fn a_callers_transaction_stays_usable_after_a_conflict() {
    for isolation in ISOLATION {
        let (store, database) = mysql::store().await;
        let mut tx = begin(&database, isolation).await;
        tx.execute("SELECT * FROM retell_relays").await.unwrap();
        // The version check sees the conflict. If the transaction's snapshot is older, only the unique key does.
        store.append(append("a", ExpectedVersion::NoStream)).await.unwrap();
        let error = store.append_in(&mut tx, &append("a", ExpectedVersion::NoStream)).await.unwrap_err();
        if database.ends_stale_transactions(isolation).await {
            assert!(error.is_transient(), "{isolation}: {error}");
            assert!(error.to_string().contains("rolled back the whole transaction"), "{isolation}: {error}");
            let error = store.append_in(&mut tx, &append("b", ExpectedVersion::NoStream)).await.unwrap_err();
            assert_eq!(error.to_string(), "invalid input: the connection has no open transaction", "{isolation}");
        } else {
            let (stream, expected) = (stream("a"), ExpectedVersion::NoStream);
            assert_eq!(*error.kind(), ErrorKind::Conflict { stream, expected, actual: Version::new(1) }, "{isolation}");
            written(&store, &mut tx, "b").await;
            run(&mut tx, "COMMIT").await;
        }
        let kept: &[&str] = if error.is_conflict() { &["a", "b"] } else { &["a"] };
        assert_eq!(log(&store).await, kept, "{isolation}");
    }
}

/// Another writer is faster twice in a row, each time between the lookup and the insert. MySQL would keep the locks of the refused inserts, so
/// the whole transaction is rolled back. On MariaDB it stays usable.
#[tokio::test]
async fn two_lost_races_in_read_committed_are_transient() {
    let (store, database) = mysql::store().await;
    let is_mariadb = database.version().await.contains("MariaDB");
    let (mut operator, mut tx) = (database.connect().await, begin(&database, "READ COMMITTED").await);
    // Each insert of the transaction waits for the next gate.
    let name = database.name();
    run(&mut operator, &format!("DO GET_LOCK('{name} 1', 60), GET_LOCK('{name} 2', 60)")).await;
    let gate = format!("CONCAT('{name} ', @gate)");
    let pass = format!("SET @gate = @gate + 1; SET @passed = GET_LOCK({gate}, 60) + RELEASE_LOCK({gate});");
    let trigger = "CREATE TRIGGER gate BEFORE INSERT ON retell_events FOR EACH ROW";
    run(&mut operator, &format!("{trigger} BEGIN IF @gate IS NOT NULL THEN {pass} END IF; END")).await;
    run(&mut tx, "SET @gate = 0; INSERT INTO retell_relays VALUES ('mine', 0, NULL, 0)").await;
    let at_gate = concat!("SELECT COUNT(*) FROM ", sessions!(), " WHERE state = 'User lock' AND db = DATABASE()");
    let winning = async {
        for gate in 1..=2 {
            while sqlx::query_scalar::<_, i64>(at_gate).fetch_one(&mut operator).await.unwrap() == 0 {}
            store.append(append("a", ExpectedVersion::Any)).await.unwrap();
            run(&mut operator, &format!("DO RELEASE_LOCK('{name} {gate}')")).await;
            while sqlx::query_scalar::<_, i64>(at_gate).fetch_one(&mut operator).await.unwrap() > 0 && gate == 2 {}
        }
    };
    let losing = append("a", ExpectedVersion::Any);
    let (lost, ()) = tokio::join!(store.append_in(&mut tx, &losing), winning);
    let error = lost.unwrap_err();
    assert!(error.is_transient(), "{error:#}");
    assert_eq!(error.to_string().contains("rolled back the whole transaction"), !is_mariadb, "{error:#}");
    run(&mut tx, "SET @gate = NULL").await;
    if is_mariadb {
        written(&store, &mut tx, "b").await;
        run(&mut tx, "COMMIT").await;
    } else {
        let error = store.append_in(&mut tx, &append("b", ExpectedVersion::Any)).await.unwrap_err();
        assert_eq!(error.to_string(), "invalid input: the connection has no open transaction");
    }
    let mine: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM retell_relays").fetch_one(store.pool()).await.unwrap();
    assert_eq!(mine, i64::from(is_mariadb));
    let expected: &[&str] = if is_mariadb { &["a", "a", "b"] } else { &["a", "a"] };
    assert_eq!(log(&store).await, expected);
}

/// In repeatable read, MySQL keeps the locks of a refused insert until the transaction ends.
#[tokio::test]
async fn a_refused_append_in_an_open_transaction_blocks_no_other() {
    for isolation in ["READ COMMITTED", "REPEATABLE READ"] {
        let (store, database) = mysql::store().await;
        let known = append("a", ExpectedVersion::NoStream);
        store.append(known.clone()).await.unwrap();
        let mut tx = begin(&database, isolation).await;
        tx.execute("SELECT * FROM retell_relays").await.unwrap();
        let event = known.streams()[0].events[0].clone();
        let twice = Append::new(stream("b"), ExpectedVersion::Any, vec![event.clone(), event.clone()]);
        for again in [Append::new(stream("b"), ExpectedVersion::Any, vec![event]), twice] {
            let error = store.append_in(&mut tx, &again).await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::DuplicateEvent(_)), "{isolation}: {error}");
        }
        store.append(append("c", ExpectedVersion::NoStream)).await.unwrap();
        // The snapshot of a stricter transaction does not have this stream.
        let error = store.append_in(&mut tx, &append("c", ExpectedVersion::NoStream)).await.unwrap_err();
        assert!(error.is_transient() || error.is_conflict(), "{isolation}: {error}");
        let free = store.append(append("d", ExpectedVersion::NoStream));
        tokio::time::timeout(Duration::from_secs(20), free).await.expect("no append waits").unwrap();
        run(&mut tx, "ROLLBACK").await;
        assert_eq!(log(&store).await, ["a", "c", "d"], "{isolation}");
    }
}

#[tokio::test]
async fn a_transaction_sees_its_own_appends() {
    for isolation in ISOLATION {
        let (store, database) = mysql::store().await;
        let mut tx = begin(&database, isolation).await;
        let key = IdempotencyKey::new("key").unwrap();
        for version in 1..=3 {
            assert_eq!(written(&store, &mut tx, "a").await.versions, [Version::new(version)]);
        }
        let keyed = append("b", ExpectedVersion::NoStream).with_key(key);
        let first = store.append_in(&mut tx, &keyed).await.unwrap();
        let again = store.append_in(&mut tx, &keyed).await.unwrap();
        assert_eq!((again.outcome, again.commit), (Outcome::Repeated, first.commit));
        run(&mut tx, "COMMIT").await;
        assert_eq!(log(&store).await, ["a", "a", "a", "b"], "{isolation}");
    }
}

#[tokio::test]
async fn refused_appends_in_a_transaction_are_typed() {
    for isolation in ISOLATION {
        let (store, database) = mysql::store().await;
        let first = append("a", ExpectedVersion::NoStream);
        store.append(first.clone()).await.unwrap();
        let known: NewEvent = first.streams()[0].events[0].clone();
        let mut tx = begin(&database, isolation).await;
        let again = Append::new(stream("b"), ExpectedVersion::Any, vec![known.clone()]);
        let error = store.append_in(&mut tx, &again).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::DuplicateEvent(known.id), "{isolation}");
        let mut none = database.connect().await;
        let error = store.append_in(&mut none, &append("b", ExpectedVersion::Any)).await.unwrap_err();
        assert_eq!(error.to_string(), "invalid input: the connection has no open transaction");
        let empty = Append::new(stream("b"), ExpectedVersion::Any, vec![]);
        assert!(matches!(store.append_in(&mut tx, &empty).await.unwrap_err().kind(), ErrorKind::Invalid(_)));
        run(&mut tx, "COMMIT").await;
        assert_eq!(log(&store).await, ["a"], "{isolation}");
    }
}

#[tokio::test]
async fn without_autocommit_a_transaction_is_always_open() {
    let (store, database) = mysql::store().await;
    let mut connection = database.connect().await;
    run(&mut connection, "SET autocommit = 0").await;
    written(&store, &mut connection, "a").await;
    assert_eq!(log(&store).await.len(), 0);
    run(&mut connection, "COMMIT").await;
    assert_eq!(log(&store).await, ["a"]);
}

#[tokio::test]
async fn a_deadlock_is_retried() {
    let (store, database) = mysql::store().await;
    let mut other = begin(&database, "READ COMMITTED").await;
    // The server rolls back the lighter of the two transactions, so this makes the other one heavier.
    run(&mut other, "CREATE TEMPORARY TABLE weight (id INT) ENGINE = InnoDB").await;
    run(&mut other, "START TRANSACTION").await;
    for id in 0..20 {
        written(&store, &mut other, &format!("weight {id}")).await;
    }
    written(&store, &mut other, "b").await;
    let both = append("a", ExpectedVersion::NoStream).with_stream(stream("b"), ExpectedVersion::NoStream, events(1));
    let appending = tokio::spawn({
        let store = store.clone();
        async move { store.append(both).await }
    });
    // The append holds `a` and waits for `b`.
    let first = waiting(&database, None).await;
    written(&store, &mut other, "a").await;
    // The append has lost `a` to a deadlock, and retries.
    waiting(&database, Some(&first)).await;
    run(&mut other, "ROLLBACK").await;
    assert_eq!(appending.await.unwrap().unwrap().versions, [Version::new(1), Version::new(1)]);
    assert_eq!(log(&store).await, ["a", "b"]);
}

#[tokio::test]
async fn a_lock_timeout_is_retried() {
    let database = Database::create().await;
    let pool = MySqlPoolOptions::new().max_connections(4).after_connect(|connection, _| {
        Box::pin(async move { connection.execute("SET SESSION innodb_lock_wait_timeout = 1").await.map(drop) })
    });
    let pool = pool.connect_with(database.options()).await.unwrap();
    let store = MySqlStore::open(pool).await.unwrap();
    let mut other = begin(&database, "READ COMMITTED").await;
    written(&store, &mut other, "a").await;
    let appending = tokio::spawn({
        let store = store.clone();
        async move { store.append(append("a", ExpectedVersion::Any)).await }
    });
    let first = waiting(&database, None).await;
    waiting(&database, Some(&first)).await;
    run(&mut other, "COMMIT").await;
    assert_eq!(appending.await.unwrap().unwrap().versions, [Version::new(2)]);
    assert_eq!(log(&store).await, ["a", "a"]);
}

#[tokio::test]
async fn a_transient_lock_timeout_undoes_only_the_append() {
    let (store, database) = mysql::store().await;
    let mut other = begin(&database, "READ COMMITTED").await;
    written(&store, &mut other, "a").await;
    let mut tx = begin(&database, "READ COMMITTED").await;
    run(&mut tx, "SET SESSION innodb_lock_wait_timeout = 1").await;
    written(&store, &mut tx, "kept").await;
    let error = store.append_in(&mut tx, &append("a", ExpectedVersion::Any)).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    run(&mut tx, "COMMIT").await;
    run(&mut other, "ROLLBACK").await;
    assert_eq!(log(&store).await, ["kept"]);
}

#[tokio::test]
async fn a_transient_deadlock_reports_the_lost_transaction() {
    let (store, database) = mysql::store().await;
    let mut other = begin(&database, "READ COMMITTED").await;
    for id in 0..20 {
        written(&store, &mut other, &format!("weight {id}")).await;
    }
    written(&store, &mut other, "b").await;
    let mut tx = begin(&database, "READ COMMITTED").await;
    written(&store, &mut tx, "a").await;
    let on_b = append("b", ExpectedVersion::Any);
    let others = async {
        waiting(&database, None).await;
        written(&store, &mut other, "a").await;
    };
    let (refused, ()) = tokio::join!(store.append_in(&mut tx, &on_b), others);
    let error = refused.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(error.to_string().contains("rolled back the whole transaction"), "{error}");
    run(&mut other, "COMMIT").await;
    assert_eq!(log(&store).await.len(), 22);
}

#[tokio::test]
async fn order_holds_under_every_default_isolation_level() {
    for isolation in ISOLATION {
        let database = Database::create().await;
        let pool = MySqlPoolOptions::new().max_connections(8).after_connect(move |connection, _| {
            let set = AssertSqlSafe(format!("SET SESSION TRANSACTION ISOLATION LEVEL {isolation}"));
            Box::pin(async move { raw_sql(set).execute(connection).await.map(drop) })
        });
        let pool = pool.connect_with(database.options()).await.unwrap();
        let store = MySqlStore::open(pool).await.unwrap();
        let writers = (0..16).map(|writer| {
            let store = store.clone();
            async move {
                for n in 0..10 {
                    let id = format!("{writer} {n}");
                    store.append(append(&id, ExpectedVersion::NoStream)).await.unwrap();
                    store.read_all(Position::ZERO, 1_000, &Filter::all()).await.unwrap();
                }
            }
        });
        futures::future::join_all(writers).await;
        assert_eq!(log(&store).await.len(), 160, "{isolation}");
    }
}

#[tokio::test]
async fn callers_of_all_isolation_levels_share_one_ordered_log() {
    let (store, database) = mysql::store().await;
    let shared = stream("shared");
    let callers = (0..8).map(|caller| {
        let (store, database, isolation) = (&store, &database, ISOLATION[caller % 4]);
        let shared = shared.clone();
        async move {
            let mut committed = 0;
            while committed < 10 {
                let mut tx = begin(database, isolation).await;
                let append = Append::new(shared.clone(), ExpectedVersion::Any, events(1));
                let append =
                    append.with_stream(stream(&format!("{caller} {committed}")), ExpectedVersion::NoStream, events(1));
                match store.append_in(&mut tx, &append).await {
                    Ok(_) => {
                        run(&mut tx, "COMMIT").await;
                        committed += 1;
                    }
                    Err(error) => {
                        assert!(error.is_transient(), "{isolation}: {error}");
                        run(&mut tx, "ROLLBACK").await;
                    }
                }
                tx.close().await.unwrap();
            }
        }
    });
    futures::future::join_all(callers).await;
    let page = store.read_all(Position::ZERO, 1_000, &Filter::all()).await.unwrap();
    let versions = page.events.iter().filter(|event| event.stream == shared).map(|event| event.version.get());
    assert!(versions.eq(1..=80), "versions are in order");
    assert_eq!(page.events.len(), 160);
}

#[tokio::test]
async fn health_lists_open_transactions_and_unsequenced_commits() {
    let (store, database) = mysql::store().await;
    store.append(append("a", ExpectedVersion::NoStream)).await.unwrap();
    assert_eq!(store.health().await.unwrap().unsequenced, 1, "no reader has sequenced it yet");
    let mut tx = begin(&database, "READ COMMITTED").await;
    written(&store, &mut tx, "slow").await;
    let session: u64 = sqlx::query_scalar("SELECT CAST(CONNECTION_ID() AS UNSIGNED)").fetch_one(&mut tx).await.unwrap();
    log(&store).await;
    let named = |health: &Health| health.open.seen().iter().any(|open| open.session == session);
    let health = until(&store, named).await;
    assert_eq!((health.head, health.unsequenced), (Position::new(1), 0));
    let open = health.open.seen().iter().find(|open| open.session == session).unwrap();
    assert!(open.lane.is_none() && open.age < Duration::from_mins(10), "{open:?}");
    run(&mut tx, "ROLLBACK").await;
    until(&store, |health| !named(health)).await;
}

/// Waits for a health that satisfies `wanted`. The server refreshes its list of transactions only for a session that
/// has not polled it for a while.
async fn until(store: &MySqlStore, wanted: impl Fn(&Health) -> bool) -> Health {
    loop {
        let health = store.health().await.unwrap();
        if wanted(&health) {
            return health;
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
}

#[tokio::test]
async fn health_reports_a_missing_privilege() {
    let database = Database::create().await;
    let (mut operator, name) = (database.connect().await, database.name());
    // A server with a binary log lets only administrators create the triggers.
    MySqlStore::open(database.pool(2).await).await.unwrap().close().await.unwrap();
    let user = format!("CREATE USER {name} IDENTIFIED BY 'retell'; GRANT ALL ON {name}.* TO {name}");
    run(&mut operator, &user).await;
    let options = database.options().username(name).password("retell");
    let pool = MySqlPoolOptions::new().connect_with(options).await.unwrap();
    let store = MySqlStore::open(pool).await.unwrap();
    store.append(append("a", ExpectedVersion::NoStream)).await.unwrap();
    let health = store.health().await.unwrap();
    assert_eq!((health.open, health.unsequenced), (OpenTransactions::NotGranted, 1));
    store.close().await.unwrap();
    run(&mut operator, &format!("DROP USER {name}")).await;
}

#[tokio::test]
async fn user_without_rights_on_the_schema_uses_a_log_that_is_there() {
    let database = Database::create().await;
    let (mut operator, name) = (database.connect().await, database.name());
    let user = format!("{name}_app");
    run(&mut operator, &format!("CREATE USER {user} IDENTIFIED BY 'retell'")).await;
    run(&mut operator, &format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {name}.* TO {user}")).await;
    let pool =
        MySqlPoolOptions::new().connect_with(database.options().username(&user).password("retell")).await.unwrap();
    let refused = MySqlStore::open(pool.clone()).await.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::UnfitServer(_)), "{refused:?}");

    let owner = MySqlPoolOptions::new().connect_with(database.options()).await.unwrap();
    let owners = MySqlStore::open(owner).await.unwrap();
    let store = MySqlStore::open(pool.clone()).await.unwrap();
    store.append(append("a", ExpectedVersion::NoStream)).await.unwrap();
    let first = retell::testing::store::event_at(&store, &stream("a"), 1).await;
    store.save_snapshot(&stream("a"), Snapshot::new(Version::new(1), first, 1, vec![1])).await.unwrap();
    let models = MySqlReadModel::open(pool).await.unwrap();
    let name = ProjectionName::new("totals").unwrap();
    let step = Step::new(&name, Position::ZERO, Position::new(1));
    models.commit(step, Box::new(|_| Box::pin(async { Ok(()) }))).await.unwrap();
    assert_eq!(models.checkpoint(&name).await.unwrap(), Position::new(1));
    assert_eq!(log(&store).await, ["a"]);
    assert_eq!(log(&owners).await, ["a"]);
    store.close().await.unwrap();
    run(&mut operator, &format!("DROP USER {user}")).await;
}

#[tokio::test]
async fn a_pool_without_a_free_connection_is_transient() {
    let database = Database::create().await;
    let pool = MySqlPoolOptions::new().max_connections(1).acquire_timeout(Duration::from_millis(300));
    let pool = pool.connect_with(database.options()).await.unwrap();
    let store = MySqlStore::open(pool.clone()).await.unwrap();
    let mut taken = pool.begin().await.unwrap();
    assert!(store.append(append("a", ExpectedVersion::Any)).await.unwrap_err().is_transient());
    assert!(store.head().await.unwrap_err().is_transient());
    // The caller's transaction needs no second connection, even if the append is refused.
    let first = append("a", ExpectedVersion::NoStream);
    store.append_in(&mut taken, &first).await.unwrap();
    let known = first.streams()[0].events[0].clone();
    let again = Append::new(stream("b"), ExpectedVersion::Any, vec![known.clone()]);
    let error = store.append_in(&mut taken, &again).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::DuplicateEvent(known.id));
    taken.commit().await.unwrap();
    store.append(append("a", ExpectedVersion::Any)).await.unwrap();
    assert_eq!(log(&store).await, ["a", "a"]);
}

#[tokio::test]
async fn the_key_decides_after_a_lost_connection() {
    let (store, database) = mysql::store().await;
    let mut operator = database.connect().await;
    for round in 0..20 {
        let key = IdempotencyKey::new(format!("round {round}")).unwrap();
        let call = || append(&round.to_string(), ExpectedVersion::NoStream).with_key(key.clone());
        let cut = mysql::mysql_sessions::end(&mut operator, database.name());
        let (first, ()) = tokio::join!(store.append(call()), cut);
        if let Err(error) = first {
            assert!(error.is_transient(), "{error}");
        }
        // Retries until the pool has a connection again.
        let second = loop {
            match store.append(call()).await {
                Ok(appended) => break appended,
                Err(error) => assert!(error.is_transient(), "{error}"),
            }
        };
        assert_eq!(second.versions, [Version::new(1)]);
    }
    let streams = loop {
        match store.read_all(Position::ZERO, 100, &Filter::all()).await {
            Ok(page) => break page.events.len(),
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
    };
    assert_eq!(streams, 20);
}
