//! The sizes of tables, which depend on the server, so there is no golden output.

use crate::databases::{Database, Place};
use crate::tool::Tool;

pub(crate) async fn status_shows_the_sizes_of_tables(database: &Database) {
    crate::planted(database).await;
    if let Place::MySql(_) = &database.place {
        // Otherwise the statistics are of some moment before.
        database.place.run("ANALYZE TABLE retell_events, retell_parked").await;
    }
    let tool = Tool::of(&database.place);
    let ran = tool.run(["status", "--sizes", "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let sizes = &answer["data"]["sizes"];
    let rows = |store: &str, table: &str| {
        let tables = sizes[store]["tables"].as_array().unwrap();
        let found = tables.iter().find(|size| size["table"] == table).unwrap();
        (found["rows"].as_u64().unwrap(), found["count"].as_str().unwrap().to_owned())
    };
    let is_exact = matches!(&database.place, Place::Sqlite(_));
    for (store, table, expected) in [("log", "events", 12), ("models", "parked", 2)] {
        let (rows, count) = rows(store, table);
        assert_eq!(count == "exact", is_exact, "{ran:?}");
        // PostgreSQL counts in the background.
        let is_counted = !matches!(&database.place, Place::Postgres(_));
        assert!(!is_counted || rows == expected, "{table}: {rows} rows\n{ran:?}");
        assert!(sizes[store]["bytes"].as_u64().unwrap() >= 8_192, "{ran:?}");
    }
    let plain = tool.run(["status", "--sizes"]);
    assert_eq!(plain.exit, ran.exit);
    for table in ["keys", "inbox", "all"] {
        assert!(plain.stdout.lines().any(|line| line.split_whitespace().any(|word| word == table)), "{plain:?}");
    }
    assert!(!tool.run(["status", "--json"]).stdout.contains("\"sizes\""));
}
