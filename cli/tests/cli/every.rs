//! Every command on a store that it may not change, and on one that does not answer.

use std::fs;

use serde_json::Value;
use sqlx::{Connection, MySqlConnection, PgConnection};

use crate::databases::{Database, Place};
use crate::tool::Tool;

/// A command of each kind. The last ones change something.
pub(crate) const COMMANDS: [&str; 25] = [
    "status",
    "why 1",
    "why 1 totals",
    "event 1",
    "show order/1",
    "show order/1 --diff 1 2",
    "tail",
    "parked list",
    "parked show totals order/1",
    "parked retry totals --all --dry-run",
    "audit",
    "doctor",
    "doctor --after-restore",
    "verify",
    "schema list",
    "schema check",
    "schema diff",
    "schema export json-schema",
    "schema export asyncapi",
    "parked retry totals order/9 --yes",
    "parked skip totals order/1 2 --reason poison --yes",
    "pause totals --reason repair --yes",
    "retire totals --reason replaced --yes",
    "resume totals --reason repaired --yes",
    "doctor --after-restore --set-back --yes",
];

/// Returns all that a command could leave: tables, and files next to a file.
async fn found(place: &Place) -> Vec<String> {
    let mut found: Vec<String> = match place {
        Place::Sqlite(path) => {
            let entries = fs::read_dir(path.parent().unwrap()).unwrap();
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
        }
        Place::Postgres(url) => {
            let sql = "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                       WHERE n.nspname !~ '^pg_' UNION ALL SELECT nspname::text FROM pg_namespace WHERE nspname !~ '^pg_(temp|toast_temp)'";
            sqlx::query_scalar(sql).fetch_all(&mut PgConnection::connect(url).await.unwrap()).await.unwrap()
        }
        Place::MySql(url) => {
            let sql = "SELECT CONVERT(table_name USING utf8mb4) FROM information_schema.tables WHERE table_schema = DATABASE()";
            sqlx::query_scalar(sql).fetch_all(&mut MySqlConnection::connect(url).await.unwrap()).await.unwrap()
        }
    };
    found.sort();
    found
}

pub(crate) async fn command_leaves_nothing_behind(database: &Database) {
    let tool = Tool::of(&database.place);
    let empty = found(&database.place).await;
    for command in COMMANDS {
        let ran = tool.run(command.split(' '));
        assert_eq!((ran.exit, ran.stdout.as_str()), (2, ""), "{command}: {ran:?}");
    }
    assert_eq!(found(&database.place).await, empty, "the empty database stays empty");
    crate::planted(database).await;
    let whole = found(&database.place).await;
    for command in COMMANDS {
        let ran = tool.run(command.split(' '));
        assert!(matches!(ran.exit, 0..=2), "{command}: {ran:?}");
        assert_eq!(found(&database.place).await, whole, "{command}");
    }
}

/// Another session holds the table of parked aggregates.
pub(crate) async fn held_table_is_tried_again(database: &Database) {
    crate::planted(database).await;
    let tool = Tool::of(&database.place);
    let retry = ["parked", "retry", "totals", "order/9", "--yes", "--timeout", "1", "--json"];
    let held = || {
        let ran = tool.run(retry);
        assert_eq!(ran.exit, 75, "{ran:?}");
        let envelope: Value = serde_json::from_str(&ran.stdout).unwrap();
        let diagnostic = &envelope["diagnostics"][0];
        assert_eq!((&envelope["status"], &diagnostic["code"]), (&"error".into(), &"try_again".into()), "{envelope}");
    };
    match &database.place {
        Place::Sqlite(path) => {
            let mut other = rusqlite::Connection::open(path.with_extension("models.db")).unwrap();
            let writing = other.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
            held();
            writing.rollback().unwrap();
        }
        Place::Postgres(url) => {
            let mut other = PgConnection::connect(url).await.unwrap();
            let mut tx = other.begin().await.unwrap();
            sqlx::raw_sql("SELECT FROM retell.parked FOR UPDATE").execute(&mut *tx).await.unwrap();
            held();
            tx.rollback().await.unwrap();
        }
        Place::MySql(url) => {
            let mut other = MySqlConnection::connect(url).await.unwrap();
            let mut tx = other.begin().await.unwrap();
            sqlx::raw_sql("SELECT 1 FROM retell_parked FOR UPDATE").execute(&mut *tx).await.unwrap();
            held();
            tx.rollback().await.unwrap();
        }
    }
    assert_eq!(tool.run(retry).exit, 0);
}
