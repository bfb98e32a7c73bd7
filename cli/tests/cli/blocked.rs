//! `retell status` while a transaction keeps commits from getting positions: then the end of the log cannot be read.

use retell::event::NewEvent;
use retell::store::{Append, EventStore};
use retell::{Codec, EventId, EventType, ExpectedVersion, PostgresStore, StreamId};
use serde_json::Value;
use sqlx::{Connection, PgConnection};

use crate::databases::{Database, Place};
use crate::tool::Tool;

#[tokio::test(flavor = "multi_thread")]
async fn status_names_the_session_that_blocks_the_log() {
    let database = Database::postgres().await;
    let Place::Postgres(url) = &database.place else { unreachable!("a PostgreSQL database") };
    let log = PostgresStore::connect(url).await.unwrap();
    let mut session = PgConnection::connect(url).await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut session).await.unwrap();
    let hold = "BEGIN; SELECT pg_advisory_xact_lock(retell.lane_key(), 64)";
    sqlx::raw_sql(hold).execute(&mut session).await.unwrap();
    let opened = EventType::new("door.opened").unwrap();
    let event = NewEvent::stored(EventId::generate(), opened, 1, Codec::Json, "{}".into());
    let door = StreamId::parse("door", "1").unwrap();
    log.append(Append::new(door, ExpectedVersion::Any, vec![event])).await.unwrap();

    let tool = Tool::of(&database.place);
    let plain = tool.run(["status", "--timeout", "5"]);
    assert_eq!(plain.exit, 1, "{plain:?}");
    let row = plain.stdout.lines().find(|line| line.starts_with(&format!("{pid} "))).unwrap_or_default();
    assert!(row.contains("the sequencer") && row.contains("idle in transaction"), "{plain:?}");
    let json: Value = serde_json::from_str(&tool.run(["status", "--timeout", "5", "--json"]).stdout).unwrap();
    assert_eq!(json["data"]["unsequenced"], 1, "{json:#}");
    assert_eq!(json["data"]["blockers"]["items"][0]["session"], pid, "{json:#}");
    assert_eq!(json["diagnostics"][0]["code"], "blocked", "{json:#}");
    sqlx::raw_sql("ROLLBACK").execute(&mut session).await.unwrap();
}
