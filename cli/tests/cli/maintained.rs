//! `retell migrate` and `retell seal`.

use std::io::{BufRead, BufReader};

use serde_json::Value;

use crate::databases::{Database, Place};
use crate::opening::size;
use crate::tool::{Ran, Tool};

fn run(tool: &Tool, command: &str) -> Ran {
    tool.run(command.split(' '))
}

fn json(tool: &Tool, command: &str) -> (i32, Value) {
    let ran = run(tool, command);
    (ran.exit, serde_json::from_str(&ran.stdout).unwrap())
}

pub(crate) async fn only_migrate_creates_a_schema(database: &Database) {
    let tool = Tool::of(&database.place);
    let before = size(&database.place).await;
    let planned = run(&tool, "migrate --dry-run");
    let lines = "log: would be created with schema 1\nread models: would be created with schema 1\n";
    assert_eq!((planned.exit, planned.stdout.as_str()), (0, lines), "{planned:?}");
    let unconfirmed = run(&tool, "migrate");
    assert_eq!((unconfirmed.exit, unconfirmed.stdout.as_str()), (4, ""), "{unconfirmed:?}");
    assert_eq!(run(&tool, "status").exit, 2);
    assert_eq!(size(&database.place).await, before, "nothing was created");

    let nameless = tool.run(["migrate", "--yes", "--as", ""]);
    assert_eq!((nameless.exit, size(&database.place).await), (2, before), "{nameless:?}");
    let created = run(&tool, "migrate --yes");
    assert_eq!(created.stdout, "log: created with schema 1\nread models: created with schema 1\n", "{created:?}");
    assert_eq!((run(&tool, "status").exit, run(&tool, "tail").exit), (0, 0));
    let (_, audit) = json(&tool, "audit --json");
    let records: Vec<_> = audit["data"]["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["who"].clone(), entry["target"].clone()))
        .collect();
    let expected = ["read models to schema 1", "log to schema 1"].map(|target| ("tester".into(), target.into()));
    assert_eq!(records, expected, "{audit}");
    let (exit, again) = json(&tool, "migrate --json");
    assert_eq!((exit, &again["data"]["changed"]), (0, &Value::Bool(false)), "{again}");
    assert_eq!(again["data"]["parts"][0]["found"]["schema"], "up_to_date");
}

/// Here the tables are those of this release already, and one part is missing.
pub(crate) async fn migrate_updates_an_older_schema(database: &Database) {
    crate::planted(database).await;
    let tool = Tool::of(&database.place);
    let expected = match &database.place {
        Place::Postgres(_) => {
            database.place.run("DELETE FROM retell.retell_functions WHERE name = 'append'").await;
            "functions of schema 1 replaced"
        }
        Place::MySql(_) => {
            database.place.run("DELETE FROM retell_migrations; DROP TABLE retell_inbox").await;
            "created with schema 1"
        }
        Place::Sqlite(path) => {
            std::fs::remove_file(path.with_extension("models.db")).unwrap();
            // The log's file has all tables.
            let ran = run(&tool, "migrate --yes");
            assert_eq!(ran.stdout, "log: up to date\nread models: up to date\n", "{ran:?}");
            return;
        }
    };
    assert_eq!(run(&tool, "tail -n 1").exit, 2);
    let ran = run(&tool, "migrate --yes");
    assert_eq!(ran.stdout, format!("log: {expected}\nread models: {expected}\n"), "{ran:?}");
    let tail = run(&tool, "tail -n 1");
    assert!(tail.exit == 0 && tail.stdout.contains("scale.noted"), "{tail:?}");
}

pub(crate) async fn sealed_log_is_verified(database: &Database) {
    crate::planted(database).await;
    let tool = Tool::of(&database.place);
    let (exit, sealed) = json(&tool, "seal --events 5 --json");
    let data = &sealed["data"];
    assert_eq!((exit, &data["seals"], &data["last"]["last"]), (0, &Value::from(3), &Value::from(12)), "{sealed}");
    let digest = data["last"]["digest"].as_str().unwrap();
    let again = run(&tool, "seal");
    let lines = format!("0 seals added\nthe last one ends at position 12: keep its digest {digest} in another place\n");
    assert_eq!((again.exit, again.stdout), (0, lines));
    let (_, verified) = json(&tool, "verify --json");
    assert_eq!(verified["data"]["seals"]["count"], 3, "{verified}");
}

#[tokio::test]
async fn watched_seal_is_repeated() {
    let database = Database::sqlite();
    crate::planted(&database).await;
    let arguments = ["seal", "--watch", "1", "--json"];
    let mut watch = Tool::of(&database.place).command(arguments).spawn().unwrap();
    let lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let seals: Vec<_> = lines
        .take(2)
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap()["data"]["seals"].as_u64())
        .collect();
    watch.kill().unwrap();
    watch.wait().unwrap();
    assert_eq!(seals, [Some(1), Some(0)]);
}
