//! Commits without a position: the report names the session that blocks them.

use retell::operate;
use retell::prelude::*;
use retell::store::{Blocker, Hold};
use retell::{DeadlineStore, MySqlReadModel, MySqlStore, PostgresReadModel, PostgresStore, RelayStore, ViewStore};
use sqlx::{Connection, MySqlConnection, PgConnection};

use crate::databases::Place;
use crate::sites::{self, Site};

#[derive(Event)]
#[event("door.opened")]
struct Opened;

async fn append(store: &impl EventStore) {
    store.append_events(("door", "1"), ExpectedVersion::Any, [Opened]).await.unwrap();
}

/// Appends while a session holds a lock, and returns what the report tells about it.
async fn blocked_by(store: &impl EventStore, session: u64) -> Blocker {
    append(store).await;
    let blocked = operate::blocked(store).await.unwrap();
    assert_eq!(blocked.unsequenced, 1);
    let found = blocked.blockers.items.iter().find(|blocker| blocker.session == session);
    found.unwrap_or_else(|| panic!("session {session} is not named: {blocked:#?}")).clone()
}

/// After the end of the transaction, nothing blocks.
async fn is_free<S, M>(store: &S, models: &M)
where
    S: EventStore + RelayStore,
    M: ViewStore + DeadlineStore,
{
    let report = until_sequenced(store, models).await;
    assert!(report.blockers.items.is_empty(), "{report:#?}");
}

async fn until_sequenced<S, M>(store: &S, models: &M) -> operate::Report
where
    S: EventStore + RelayStore,
    M: ViewStore + DeadlineStore,
{
    for _ in 0..10_000 {
        store.head().await.unwrap();
        let report = operate::status(store, models).await.unwrap();
        if report.unsequenced == 0 {
            return report;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the commit gets no position");
}

async fn on_postgres() -> (Site<PostgresStore, PostgresReadModel>, PgConnection, u64) {
    let site = sites::postgres().await;
    let Some(Place::Postgres(url)) = site.database.as_ref().map(|database| &database.place) else { unreachable!() };
    let mut session = PgConnection::connect(url).await.unwrap();
    let set = "SET application_name = 'a report'";
    sqlx::raw_sql(set).execute(&mut session).await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut session).await.unwrap();
    (site, session, u64::from(pid.unsigned_abs()))
}

#[tokio::test(flavor = "multi_thread")]
async fn holder_of_the_sequencer_is_named_on_postgres() {
    let (Site { store, models, database: _database }, mut session, id) = on_postgres().await;
    let hold = "BEGIN; SELECT pg_advisory_xact_lock(retell.lane_key(), 64)";
    sqlx::raw_sql(hold).execute(&mut session).await.unwrap();
    let blocker = blocked_by(&store, id).await;
    assert_eq!(blocker.holds, Hold::Sequencer);
    assert_eq!(blocker.program.as_deref(), Some("a report"));
    assert_eq!(blocker.state.as_deref(), Some("idle in transaction"));
    sqlx::raw_sql("ROLLBACK").execute(&mut session).await.unwrap();
    is_free(&store, &models).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holder_of_a_lane_is_named_on_postgres() {
    let (Site { store, models, database: _database }, mut session, id) = on_postgres().await;
    let hold =
        "BEGIN; SELECT pg_advisory_xact_lock(retell.lane_key(), 5), pg_advisory_xact_lock(retell.lane_key(), 64)";
    sqlx::raw_sql(hold).execute(&mut session).await.unwrap();
    append(&store).await;
    let report = operate::blocked(&store).await.unwrap();
    let holds: Vec<_> = report.blockers.items.iter().filter(|one| one.session == id).map(|one| one.holds).collect();
    assert!(holds.contains(&Hold::Lane(5)) && holds.contains(&Hold::Sequencer), "{report:#?}");
    let json = serde_json::to_value(&report.blockers.items).unwrap().to_string();
    assert!(json.contains(r#""holds":{"lane":5}"#) && json.contains(r#""holds":"sequencer""#), "{json}");
    sqlx::raw_sql("ROLLBACK").execute(&mut session).await.unwrap();
    is_free(&store, &models).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holder_of_the_sequencer_is_named_on_mysql() {
    let Site { store, models, database } = sites::mysql().await;
    let (store, models): (MySqlStore, MySqlReadModel) = (store, models);
    let Some(Place::MySql(url)) = database.as_ref().map(|database| &database.place) else { unreachable!() };
    let mut session = MySqlConnection::connect(url).await.unwrap();
    let id: u64 = sqlx::query_scalar("SELECT CONNECTION_ID()").fetch_one(&mut session).await.unwrap();
    let hold = "BEGIN; SELECT id FROM retell_sequencer WHERE id = 1 FOR UPDATE";
    sqlx::raw_sql(hold).execute(&mut session).await.unwrap();
    let blocker = blocked_by(&store, id).await;
    assert_eq!((blocker.holds, blocker.state.as_deref()), (Hold::Unknown, Some("Sleep")));
    assert!(blocker.client.is_some(), "{blocker:?}");
    sqlx::raw_sql("ROLLBACK").execute(&mut session).await.unwrap();
    is_free(&store, &models).await;
}
