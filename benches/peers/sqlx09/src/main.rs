//! Measures one figure of one side, as requested by the driver.

mod by_hand;
#[path = "../../shared/database.rs"]
mod database;
mod evento;
mod ours;

use std::sync::Arc;

use peers::measure::Task;
use peers::side::{Place, Side};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqlSafeStr, SqlStr, SqliteConnection};

use by_hand::{ByHand, ByHandSqlite};
use ours::Ours;

#[tokio::main]
async fn main() {
    let task = Task::from_arguments();
    if task.is("drop") {
        return database::drop(&task.place).await;
    }
    if task.is("version") {
        return println!("{}", serde_json::json!({ "said": version(&task.place).await }));
    }
    if task.is("settle") {
        return database::settle(&task.place).await;
    }
    if task.is("create") {
        database::create(&task.place).await;
    }
    let place = &task.place;
    let side: Arc<dyn Side> = match (task.side.as_str(), place.is_postgres()) {
        ("retell", true) => Arc::new(Ours::postgres(place, true).await),
        ("retell", false) => Arc::new(Ours::sqlite(place, true).await),
        ("retell, no cache", true) => Arc::new(Ours::postgres(place, false).await),
        ("retell, no cache", false) => Arc::new(Ours::sqlite(place, false).await),
        ("sqlx by hand", true) => Arc::new(ByHand::new(database::postgres(place).await)),
        ("sqlx by hand", false) => Arc::new(ByHandSqlite::new(database::sqlite(place).await)),
        ("evento", true) => Arc::new(evento::postgres(database::postgres(place).await, task.is("create")).await),
        ("evento", false) => Arc::new(evento::sqlite(database::sqlite(place).await, task.is("create")).await),
        (side, _) => panic!("{side}"),
    };
    task.run(side).await;
}

/// Returns the name and version of the database.
async fn version(place: &Place) -> String {
    if place.is_postgres() {
        let mut db = PgConnection::connect(&place.server().0).await.unwrap();
        let version: String = sqlx::query_scalar("SHOW server_version").fetch_one(&mut db).await.unwrap();
        format!("PostgreSQL {}", version.split(' ').next().unwrap())
    } else {
        let mut db = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        let version: String = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&mut db).await.unwrap();
        format!("SQLite {version}, WAL, synchronous=FULL")
    }
}

fn statement(sql: String) -> SqlStr {
    AssertSqlSafe(sql).into_sql_str()
}
