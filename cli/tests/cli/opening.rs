//! Places without a log, and with one of another release.

use std::fs;

use retell::{EventReader, EventStore, MySqlStore, PostgresStore, ReadModel, SqliteReadModel, SqliteStore};
use serde_json::Value;
use sqlx::{Connection, MySqlConnection, PgConnection};
use tempfile::TempDir;

use crate::databases::{Database, Place};
use crate::pgbouncer::Pooler;
use crate::tool::Tool;

/// Returns the number of tables in a database, and of files next to it.
pub(crate) async fn size(place: &Place) -> i64 {
    match place {
        Place::Sqlite(path) => i64::try_from(fs::read_dir(path.parent().unwrap()).unwrap().count()).unwrap(),
        Place::Postgres(url) => {
            let sql = "SELECT count(*) FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema)'";
            sqlx::query_scalar(sql).fetch_one(&mut PgConnection::connect(url).await.unwrap()).await.unwrap()
        }
        Place::MySql(url) => {
            let sql = "SELECT CAST(count(*) AS SIGNED) FROM information_schema.tables WHERE table_schema = DATABASE()";
            sqlx::query_scalar(sql).fetch_one(&mut MySqlConnection::connect(url).await.unwrap()).await.unwrap()
        }
    }
}

pub(crate) async fn empty_database_is_refused_and_stays_empty(database: &Database) {
    let before = size(&database.place).await;
    for command in ["status", "tail", "schema list", "parked list"] {
        let ran = Tool::of(&database.place).run(command.split(' '));
        assert_eq!((ran.exit, ran.stdout.as_str()), (2, ""), "{ran:?}");
        let said = "error: there is no log and no read model: check the place, or create them with `retell migrate`\n";
        assert_eq!(ran.stderr, said);
    }
    assert_eq!(size(&database.place).await, before);
}

pub(crate) async fn other_schema_is_refused(database: &Database) {
    crate::planted(database).await;
    let (table, newer) = match &database.place {
        Place::Postgres(_) => ("retell.retell_migrations", 99),
        _ => ("retell_migrations", 99),
    };
    database.place.run(&format!("UPDATE {table} SET number = 0")).await;
    let older = Tool::of(&database.place).run(["status"]);
    assert_eq!((older.exit, older.stdout.as_str()), (2, ""), "{older:?}");
    database.place.run(&format!("UPDATE {table} SET number = {newer}")).await;
    let newer = Tool::of(&database.place).run(["status"]);
    assert_eq!((newer.exit, newer.stdout.as_str()), (69, ""), "{newer:?}");
    assert!(newer.stderr.contains("the store has schema 99"), "{newer:?}");
}

#[tokio::test]
async fn files_next_to_the_log_stay_as_they_were() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("shop.db");
    let log = SqliteStore::open(&path).await.unwrap();
    let models = SqliteReadModel::open(folder.path().join("shop.db.models")).await.unwrap();
    crate::plant::everything(&log, &models).await;
    let files = || {
        let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let tool = Tool::of(&Place::Sqlite(path.clone()));
    // While a program has them open, and after.
    let open = files();
    assert_eq!(tool.run(["parked", "list"]).exit, 1);
    assert_eq!(files(), open);
    models.close().await.unwrap();
    log.close().await.unwrap();
    let closed = files();
    assert_eq!(closed, ["shop.db", "shop.db.models"]);
    assert_eq!(tool.run(["parked", "list"]).exit, 1);
    assert_eq!(files(), closed);
    // The log's own file has no read models.
    let own = Tool::of(&Place::Sqlite(path.clone())).with_models(format!("sqlite:{}", path.display()));
    let ran = own.run(["parked", "list"]);
    assert_eq!((ran.exit, ran.stdout.as_str()), (0, ""), "{ran:?}");
}

#[tokio::test]
async fn any_file_is_not_a_log() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("notes.txt");
    fs::write(&path, "some notes, and no database at all".repeat(100)).unwrap();
    let before = fs::read(&path).unwrap();
    let ran = Tool::of(&Place::Sqlite(path.clone())).run(["status"]);
    assert_eq!((ran.exit, ran.stdout.as_str()), (69, ""), "{ran:?}");
    let folder_itself = Tool::at(format!("sqlite:{}", folder.path().display())).run(["status"]);
    assert_eq!(folder_itself.exit, 69, "{folder_itself:?}");
    assert_eq!((fs::read(&path).unwrap(), fs::read_dir(&folder).unwrap().count()), (before, 1));
}

#[tokio::test]
async fn schema_of_postgres_is_named() {
    let database = Database::postgres().await;
    let Place::Postgres(url) = &database.place else { unreachable!("a database on PostgreSQL") };
    let pool = sqlx::PgPool::connect(url).await.unwrap();
    let options = retell::PostgresOptions::new().with_schema("orders");
    let log = PostgresStore::open_with(pool, options).await.unwrap();
    log.close().await.unwrap();
    let tool = Tool::of(&database.place);
    assert_eq!(tool.run(["status", "--postgres-schema", "orders"]).exit, 0);
    assert_eq!(tool.run(["status"]).exit, 2);
    let ran = tool.run(["status", "--postgres-schema", "orders; DROP"]);
    assert_eq!(ran.exit, 2, "{ran:?}");
}

#[tokio::test]
async fn store_that_is_not_migrated_reads_and_writes() {
    let database = Database::mysql().await;
    let Place::MySql(url) = &database.place else { unreachable!("a database on MySQL") };
    MySqlStore::connect(url).await.unwrap().close().await.unwrap();
    let log = MySqlStore::connect_with(url, retell::MySqlOptions::new().without_migration()).await.unwrap();
    assert_eq!(log.head().await.unwrap().get(), 0);
    crate::planted::append(&log, 1, "order", "1", "order.placed").await;
    assert_eq!(log.head().await.unwrap().get(), 1);
    log.close().await.unwrap();
}

/// Behind such a pooler, a statement of another client may run instead of the tool's.
#[tokio::test(flavor = "multi_thread")]
async fn pooler_that_loses_prepared_statements_is_refused() {
    let database = Database::postgres().await;
    crate::planted(&database).await;
    let pooler = Pooler::start(&database, "max_prepared_statements = 0");
    let tool = Tool::at(&pooler.url);
    for command in ["status", "pause orders --reason test --yes", "parked list"] {
        for _ in 0..4 {
            let ran = tool.run(command.split(' '));
            assert_eq!((ran.exit, ran.stdout.as_str()), (69, ""), "{command}: {ran:?}");
            assert!(ran.stderr.contains("use PgBouncer 1.21 or later"), "{command}: {ran:?}");
        }
    }
    let is_paused = || {
        let ran = Tool::of(&database.place).run(["status", "--json"]);
        let status: Value = serde_json::from_str(&ran.stdout).unwrap();
        let processors = status["data"]["processors"]["items"].as_array().unwrap();
        processors.iter().any(|one| one["name"] == "orders" && one["paused"]["reason"] == "test")
    };
    assert!(!is_paused());
    drop(pooler);

    let pooler = Pooler::start(&database, "max_prepared_statements = 100");
    let ran = Tool::at(&pooler.url).run("pause orders --reason test --yes".split(' '));
    assert_eq!(ran.exit, 0, "{ran:?}");
    assert!(is_paused());
}
