//! MySQL and MariaDB pass the suites of stores and read models. Needs `MYSQL_URL`; each test has its own database, which is dropped at its
//! end.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mysql.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod mysql;

use mysql::{Database, fresh, store};
use retell::store::mysql::{MySqlOptions, MySqlReadModel, MySqlStore};
use retell::store::{Step, Work};
use retell::{ErrorKind, Position, ProjectionName, ReadModel};
use sqlx::{AssertSqlSafe, ConnectOptions, MySqlConnection, MySqlPool};

async fn read_model() -> (MySqlReadModel, Database) {
    let (pool, database) = fresh().await;
    let counter = "CREATE TABLE counter (id INT PRIMARY KEY, counted INT NOT NULL)";
    sqlx::raw_sql(counter).execute(&pool).await.unwrap();
    (MySqlReadModel::open(pool).await.unwrap(), database)
}

mod claims {
    retell::store_conformance!(super::store());
}

mod relay_claims {
    retell::relay_store_conformance!(super::store());
}

mod read_model_claims {
    retell::checkpoint_conformance!(super::read_model());
}

#[tokio::test]
async fn a_closed_read_model_refuses() {
    let (models, _database) = read_model().await;
    models.clone().close().await.unwrap();
    let error = models.checkpoint(&ProjectionName::new("totals").unwrap()).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Closed(_)), "{error}");
    models.close().await.unwrap();
}

mod progress_claims {
    retell::progress_conformance!(super::read_model());
}

mod interventions {
    retell::intervention_conformance!(super::read_model());
}

mod inbox {
    retell::inbox_conformance!(super::read_model());
}

mod deadlines {
    retell::deadline_conformance!(super::read_model());
}

mod view_claims {
    retell::view_conformance!(super::read_model());
}

/// `CREATE TABLE` commits implicitly and so releases the lock on the projection's row.
#[tokio::test]
async fn setup_never_moves_a_checkpoint_back() {
    let (models, _database) = read_model().await;
    let totals = ProjectionName::new("totals").unwrap();
    let (faster, name) = (models.clone(), totals.clone());
    let setup: Work<MySqlConnection> = Box::new(move |db| {
        Box::pin(async move {
            sqlx::raw_sql("CREATE TABLE IF NOT EXISTS made (id INT PRIMARY KEY)").execute(db).await.unwrap();
            faster
                .commit(Step::new(&name, Position::ZERO, Position::new(7)), Box::new(|_| Box::pin(async { Ok(()) })))
                .await
        })
    });
    let error = models.commit(Step::new(&totals, Position::ZERO, Position::ZERO), setup).await.unwrap_err();
    assert_eq!(error.to_string(), "projection totals: the checkpoint is at 7, not at 0");
    assert_eq!(models.checkpoint(&totals).await.unwrap(), Position::new(7));
}

/// A process that hangs in a transaction must not block the others forever.
#[tokio::test]
async fn the_server_ends_an_idle_transaction() {
    let (_, database) = fresh().await;
    let models = MySqlReadModel::connect(database.options().to_url_lossy().as_str()).await.unwrap();
    let limit = if database.version().await.contains("MariaDB") {
        "SELECT CAST(@@idle_transaction_timeout AS CHAR)"
    } else {
        "SELECT CAST(@@wait_timeout AS CHAR)"
    };
    let limit: String = sqlx::query_scalar(limit).fetch_one(models.pool()).await.unwrap();
    assert_eq!(limit, "30", "seconds");
}

mod opening {
    use futures::future::try_join_all;
    use retell::store::{Append, EventReader, EventReaderExt, EventStore, Filter};
    use retell::testing::store::{event, events, stream, whole_log};
    use retell::{ErrorKind, ExpectedVersion};
    use sqlx::migrate::{Migration, MigrationType, Migrator};

    use super::{AssertSqlSafe, MySqlOptions, MySqlPool, MySqlReadModel, MySqlStore, fresh, store};

    async fn open(pool: &MySqlPool) -> retell::Result<MySqlStore> {
        MySqlStore::open(pool.clone()).await
    }

    async fn write(store: &MySqlStore, id: &str) {
        store.append(Append::new(stream(id), ExpectedVersion::Any, events(2))).await.unwrap();
    }

    async fn run(pool: &MySqlPool, sql: &str) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(pool).await.map(drop)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn eight_processes_can_open_an_empty_database_at_once() {
        let (pool, _database) = fresh().await;
        let stores = try_join_all((0..8).map(|_| open(&pool))).await.unwrap();
        for (store, number) in stores.iter().zip(0..) {
            let number: u32 = number;
            write(store, &number.to_string()).await;
        }
        assert_eq!(whole_log(&stores[0]).await.unwrap().len(), 16);
    }

    #[tokio::test]
    async fn a_migration_killed_half_way_is_completed() {
        let (pool, _database) = fresh().await;
        let log = include_str!("../migrations/mysql/0001_tables.sql");
        // Stops after each of its statements in turn.
        let ends: Vec<usize> = log.match_indices(";\n").map(|(at, _)| at + 1).collect();
        assert!(ends.len() > 10);
        for end in ends {
            run(&pool, &log[..end]).await.unwrap();
            drop(open(&pool).await.unwrap());
            run(&pool, "DELETE FROM retell_migrations").await.unwrap();
        }
        let store = open(&pool).await.unwrap();
        write(&store, "a").await;
        assert_eq!(whole_log(&store).await.unwrap().len(), 2);
        assert!(run(&pool, "DELETE FROM retell_events").await.is_err());
    }

    #[tokio::test]
    async fn a_newer_schema_is_refused() {
        let (pool, _database) = fresh().await;
        drop(open(&pool).await.unwrap());
        run(&pool, "INSERT INTO retell_migrations (number, name) VALUES (99, 'from the future')").await.unwrap();
        let newer = ErrorKind::NewerStore { found: 99, known: 1 };
        assert_eq!(*open(&pool).await.unwrap_err().kind(), newer);
        assert_eq!(*MySqlReadModel::open(pool).await.unwrap_err().kind(), newer);
    }

    #[tokio::test]
    async fn application_migrations_coexist_with_ours() {
        let (pool, _database) = fresh().await;
        let create = "CREATE TABLE orders (id INT PRIMARY KEY)";
        let migration =
            Migration::new(1, "orders".into(), MigrationType::Simple, sqlx::SqlStr::from_static(create), false);
        let migrator = Migrator { migrations: vec![migration].into(), ..Migrator::DEFAULT };
        for _ in 0..2 {
            migrator.run(&pool).await.unwrap();
            write(&open(&pool).await.unwrap(), "a").await;
        }
        run(&pool, "INSERT INTO orders (id) VALUES (1)").await.unwrap();
    }

    #[tokio::test]
    async fn a_counter_behind_the_data_is_reported_and_repaired() {
        let (pool, _database) = fresh().await;
        let store = open(&pool).await.unwrap();
        for _ in 0..5 {
            write(&store, "a").await;
        }
        assert_eq!(store.head().await.unwrap().get(), 10);
        // Simulates tables that were copied manually.
        run(&pool, "ALTER TABLE retell_commits AUTO_INCREMENT = 1").await.unwrap();
        assert!(matches!(open(&pool).await.unwrap_err().kind(), ErrorKind::Corrupt(_)));
        MySqlStore::repair(&pool, &MySqlOptions::new()).await.unwrap();
        let store = open(&pool).await.unwrap();
        write(&store, "a").await;
        assert_eq!(whole_log(&store).await.unwrap().len(), 12);
    }

    #[tokio::test]
    async fn events_can_be_neither_changed_nor_deleted() {
        let (store, _database) = store().await;
        write(&store, "a").await;
        for sql in ["UPDATE retell_events SET version = 7", "DELETE FROM retell_events"] {
            let refused = run(store.pool(), sql).await.unwrap_err();
            assert!(refused.to_string().contains("events are immutable"), "{refused}");
        }
        store.head().await.unwrap();
        let readable = "SELECT payload FROM retell_readable_log ORDER BY position";
        let payloads: Vec<String> = sqlx::query_scalar(readable).fetch_all(store.pool()).await.unwrap();
        assert_eq!(payloads, ["1", "2"]);
    }

    #[tokio::test]
    async fn an_open_foreign_transaction_delays_no_append_or_reader() {
        let (store, _database) = store().await;
        write(&store, "a").await;
        // An append in progress: its number is assigned and its row is locked.
        let mut open = store.pool().begin().await.unwrap();
        sqlx::query("INSERT INTO retell_commits (events) VALUES (2)").execute(&mut *open).await.unwrap();
        write(&store, "b").await;
        assert_eq!(whole_log(&store).await.unwrap().len(), 4);
        let event = "INSERT INTO retell_events (commit_id, ordinal, event_id, aggregate_type, aggregate_id, version, event_type,
            schema_version, codec, recorded_at, payload)
            VALUES (LAST_INSERT_ID(), ?, UNHEX(LPAD(HEX(?), 32, '0')), 'account', 'late', ?, 'account.noted', 1, 0, UTC_TIMESTAMP(6), '1')";
        for number in [1, 2] {
            sqlx::query(event).bind(number).bind(number).bind(number).execute(&mut *open).await.unwrap();
        }
        write(&store, "c").await;
        assert_eq!(store.head().await.unwrap().get(), 6);
        open.commit().await.unwrap();
        let log = whole_log(&store).await.unwrap();
        let ids: Vec<_> = log.iter().map(|event| event.stream.aggregate_id().as_str()).collect();
        assert_eq!(ids, ["a", "a", "b", "b", "c", "c", "late", "late"]);
    }

    #[tokio::test]
    async fn positions_appear_when_durable_even_if_the_sequencer_dies() {
        let (store, _database) = store().await;
        write(&store, "a").await;
        assert_eq!(store.head().await.unwrap().get(), 2);
        // The state a sequencer leaves if it dies between its two commits.
        run(store.pool(), "UPDATE retell_head SET position = 0").await.unwrap();
        let page = store.read_all(retell::Position::ZERO, 10, &Filter::all()).await.unwrap();
        assert_eq!(page.events.len(), 2);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn stores_of_several_processes_write_one_log_without_gaps() {
        let (pool, _database) = fresh().await;
        let stores = try_join_all((0..4).map(|_| open(&pool))).await.unwrap();
        let shared = stream("shared");
        let append = |store: MySqlStore, own: usize| {
            let shared = shared.clone();
            async move {
                for _ in 0..25 {
                    let append = Append::new(shared.clone(), ExpectedVersion::Any, vec![event("1")]);
                    let own = stream(&own.to_string());
                    store.append(append.with_stream(own, ExpectedVersion::Any, events(2))).await.unwrap();
                }
            }
        };
        // Reads concurrently, like a relay in a fifth process.
        let reader = open(&pool).await.unwrap();
        let reading = tokio::spawn(async move {
            let (mut read, mut last) = (0, retell::Position::ZERO);
            while read < 4 * 25 * 3 {
                let page = reader.read_all(last, 7, &Filter::all()).await.unwrap();
                for event in page.events {
                    assert_eq!(event.position, last.next());
                    last = event.position;
                    read += 1;
                }
            }
        });
        let writers: Vec<_> =
            stores.iter().cloned().zip(0..).map(|(store, number)| tokio::spawn(append(store, number))).collect();
        for writer in writers {
            writer.await.unwrap();
        }
        reading.await.unwrap();
        let log = whole_log(&stores[0]).await.unwrap();
        assert_eq!(log.len(), 4 * 25 * 3);
        assert!(log.iter().zip(1..).all(|(event, position)| event.position.get() == position));
        let versions = log.iter().filter(|event| event.stream == shared).map(|event| event.version.get());
        assert!(versions.eq(1..=100), "versions are in log order");
    }

    #[tokio::test]
    async fn an_append_may_exceed_the_size_of_one_statement() {
        let (store, _database) = store().await;
        let mut large = Append::new(stream("0"), ExpectedVersion::NoStream, events(1_300));
        for number in 1..200 {
            large = large.with_stream(stream(&number.to_string()), ExpectedVersion::NoStream, events(1));
        }
        let key = retell::IdempotencyKey::new("large").unwrap();
        let large = large.with_key(key.clone());
        let first = store.append(large.clone()).await.unwrap();
        assert_eq!(store.append(large).await.unwrap().versions, first.versions);
        assert_eq!(store.find_by_key(&key).await.unwrap().unwrap().appended.commit, first.commit);
        assert_eq!(whole_log(&store).await.unwrap().len(), 1_499);
    }
}
