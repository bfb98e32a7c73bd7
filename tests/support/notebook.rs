//! Read models for reactions that write notes. Each call adds a row, so that a repeated reaction is visible.

#![allow(dead_code, reason = "each test file uses its own part")]

use retell::sqlx::{MySqlConnection, PgConnection, query, query_scalar, raw_sql};
use retell::{
    BoxError, EventId, MemoryReadModel, MySqlReadModel, PostgresReadModel, ReadModel, SqliteReadModel, async_trait,
    rusqlite,
};

/// A transaction that notes can be written to.
#[async_trait]
pub(crate) trait Notes: Send + 'static {
    async fn make(&mut self) -> Result<(), BoxError>;

    async fn note(&mut self, event: EventId) -> Result<(), BoxError>;
}

/// A read model whose notes a test can read.
#[async_trait]
pub(crate) trait Notebook: ReadModel<Tx: Notes> + Clone {
    async fn notes(&self) -> Vec<String>;
}

#[async_trait]
impl Notes for Vec<String> {
    async fn make(&mut self) -> Result<(), BoxError> {
        Ok(())
    }

    async fn note(&mut self, event: EventId) -> Result<(), BoxError> {
        self.push(event.to_string());
        Ok(())
    }
}

#[async_trait]
impl Notebook for MemoryReadModel<Vec<String>> {
    async fn notes(&self) -> Vec<String> {
        self.value().to_vec()
    }
}

#[async_trait]
impl Notes for rusqlite::Connection {
    async fn make(&mut self) -> Result<(), BoxError> {
        Ok(self.execute_batch("CREATE TABLE IF NOT EXISTS notes (event_id TEXT)")?)
    }

    async fn note(&mut self, event: EventId) -> Result<(), BoxError> {
        self.execute("INSERT INTO notes VALUES (?1)", [event.to_string()])?;
        Ok(())
    }
}

#[async_trait]
impl Notebook for SqliteReadModel {
    async fn notes(&self) -> Vec<String> {
        let read = |db: &rusqlite::Connection| {
            db.prepare("SELECT event_id FROM notes")?.query_map([], |row| row.get(0))?.collect()
        };
        self.query(read).await.unwrap()
    }
}

#[async_trait]
impl Notes for PgConnection {
    async fn make(&mut self) -> Result<(), BoxError> {
        raw_sql("CREATE TABLE IF NOT EXISTS notes (event_id text)").execute(self).await?;
        Ok(())
    }

    async fn note(&mut self, event: EventId) -> Result<(), BoxError> {
        query("INSERT INTO notes VALUES ($1)").bind(event.to_string()).execute(self).await?;
        Ok(())
    }
}

#[async_trait]
impl Notebook for PostgresReadModel {
    async fn notes(&self) -> Vec<String> {
        query_scalar("SELECT event_id FROM notes").fetch_all(self.pool()).await.unwrap()
    }
}

#[async_trait]
impl Notes for MySqlConnection {
    async fn make(&mut self) -> Result<(), BoxError> {
        raw_sql("CREATE TABLE IF NOT EXISTS notes (event_id VARCHAR(36))").execute(self).await?;
        Ok(())
    }

    async fn note(&mut self, event: EventId) -> Result<(), BoxError> {
        query("INSERT INTO notes VALUES (?)").bind(event.to_string()).execute(self).await?;
        Ok(())
    }
}

#[async_trait]
impl Notebook for MySqlReadModel {
    async fn notes(&self) -> Vec<String> {
        query_scalar("SELECT event_id FROM notes").fetch_all(self.pool()).await.unwrap()
    }
}
