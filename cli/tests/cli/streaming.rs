//! Output that does not end, and readers that end it.

use std::io::{BufRead, BufReader};
use std::process::Child;

use retell::{MySqlStore, PostgresStore, SqliteStore};
use serde_json::Value;

use crate::databases::{Database, Place};
use crate::planted::append;
use crate::tool::Tool;

/// Ends the child process with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

async fn append_one(place: &Place) {
    let kind = ("order", "7", "order.placed");
    match place {
        Place::Sqlite(path) => append(&SqliteStore::open(path).await.unwrap(), 13, kind.0, kind.1, kind.2).await,
        Place::Postgres(url) => append(&PostgresStore::connect(url).await.unwrap(), 13, kind.0, kind.1, kind.2).await,
        Place::MySql(url) => append(&MySqlStore::connect(url).await.unwrap(), 13, kind.0, kind.1, kind.2).await,
    }
}

pub(crate) async fn tail_follows_the_log(database: &Database) {
    crate::planted(database).await;
    let arguments = ["tail", "--follow", "--json", "--type", "order.*", "-n", "1"];
    let mut tail = Running(Tool::of(&database.place).command(arguments).spawn().unwrap());
    let mut lines = BufReader::new(tail.0.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(next()["position"], 6);
    append_one(&database.place).await;
    let row = next();
    assert_eq!((&row["position"], &row["event_type"]), (&Value::from(13), &Value::from("order.placed")));
}

#[tokio::test]
async fn watched_status_is_repeated() {
    let database = Database::sqlite();
    crate::planted(&database).await;
    let arguments = ["status", "--watch", "--interval", "1", "--json"];
    let mut watch = Running(Tool::of(&database.place).command(arguments).spawn().unwrap());
    let lines = BufReader::new(watch.0.stdout.take().unwrap()).lines();
    for line in lines.take(2) {
        let envelope: Value = serde_json::from_str(&line.unwrap()).unwrap();
        assert_eq!((&envelope["command"], &envelope["status"]), (&"status".into(), &"finding".into()));
    }
}

#[tokio::test]
async fn closed_pipe_ends_quietly() {
    let database = Database::sqlite();
    crate::planted(&database).await;
    for arguments in [["tail", "--from", "1"].as_slice(), &["status"], &["status", "--json"], &["completions", "bash"]]
    {
        let mut child = Tool::of(&database.place).command(arguments).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
    }
}
