//! A log and read models on each kind of store, for tests that hold on all of them.

#![allow(dead_code, reason = "each fault uses its own part")]

use retell::{
    MemoryReadModel, MemoryStore, MySqlReadModel, MySqlStore, PostgresReadModel, PostgresStore, SqliteReadModel,
    SqliteStore,
};

use crate::databases::{Database, Place};

/// A log, read models that do not share its connections, and the database that is dropped with them.
pub(crate) struct Site<S, M> {
    pub(crate) store: S,
    pub(crate) models: M,
    pub(crate) database: Option<Database>,
}

pub(crate) fn memory() -> Site<MemoryStore, MemoryReadModel> {
    Site { store: MemoryStore::new(), models: MemoryReadModel::new(), database: None }
}

pub(crate) async fn sqlite() -> Site<SqliteStore, SqliteReadModel> {
    let database = Database::sqlite();
    let Place::Sqlite(path) = &database.place else { unreachable!("a file") };
    let (store, models) = (SqliteStore::open(path), SqliteReadModel::open(path.with_file_name("models.db")));
    Site { store: store.await.unwrap(), models: models.await.unwrap(), database: Some(database) }
}

pub(crate) async fn postgres() -> Site<PostgresStore, PostgresReadModel> {
    let database = Database::postgres().await;
    let Place::Postgres(url) = &database.place else { unreachable!("a PostgreSQL database") };
    let store = PostgresStore::connect(url).await.unwrap();
    Site { store, models: PostgresReadModel::connect(url).await.unwrap(), database: Some(database) }
}

pub(crate) async fn mysql() -> Site<MySqlStore, MySqlReadModel> {
    let database = Database::mysql().await;
    let Place::MySql(url) = &database.place else { unreachable!("a MySQL database") };
    let store = MySqlStore::connect(url).await.unwrap();
    Site { store, models: MySqlReadModel::connect(url).await.unwrap(), database: Some(database) }
}

/// Makes a test of each async function, on each store. The function takes a [`Site`] and a name of the store.
macro_rules! on_every_store {
    ($($case:ident),* $(,)?) => {
        mod on_memory {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case($crate::sites::memory()).await;
            })*
        }

        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case($crate::sites::sqlite().await).await;
            })*
        }

        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case($crate::sites::postgres().await).await;
            })*
        }

        mod on_mysql {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case($crate::sites::mysql().await).await;
            })*
        }
    };
}

pub(crate) use on_every_store;
