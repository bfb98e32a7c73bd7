//! Stores whose appends apply a projection keep every claim of a store. Needs `POSTGRES_URL` and `MYSQL_URL`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/databases.rs"]
mod databases;
#[path = "support/notebook.rs"]
mod notebook;

use std::marker::PhantomData;

use databases::{Database, Place};
use notebook::Notes;
use retell::inline::inline;
use retell::{
    AnyEvent, BoxError, Envelope, MemoryReadModel, MemoryStore, MySqlStore, PostgresStore, Projection, SqliteStore,
    async_trait, store_conformance,
};

/// A note for each event.
struct Noted<T>(PhantomData<fn(&mut T)>);

#[async_trait]
impl<T: Notes> Projection for Noted<T> {
    const NAME: &'static str = "noted";
    type Event = AnyEvent;
    type Tx = T;

    async fn setup(&self, tx: &mut T) -> Result<(), BoxError> {
        tx.make().await
    }

    async fn apply(&self, tx: &mut T, event: Envelope<AnyEvent>) -> Result<(), BoxError> {
        tx.note(event.id).await
    }
}

mod memory {
    use super::*;

    store_conformance!(async {
        let log = MemoryStore::with_read_model(MemoryReadModel::with_value(Vec::<String>::new()));
        (inline(log, Noted(PhantomData)).await.unwrap(), ())
    });
}

mod sqlite {
    use super::*;

    store_conformance!(async {
        let database = Database::sqlite();
        let Place::Sqlite(path) = &database.place else { unreachable!("it is a file") };
        let log = SqliteStore::open(path).await.unwrap();
        (inline(log, Noted(PhantomData)).await.unwrap(), database)
    });
}

mod postgres {
    use super::*;

    store_conformance!(async {
        let database = Database::postgres().await;
        let Place::Postgres(url) = &database.place else { unreachable!("it is one of PostgreSQL's") };
        let log = PostgresStore::connect(url).await.unwrap();
        (inline(log, Noted(PhantomData)).await.unwrap(), database)
    });
}

mod mysql {
    use super::*;

    store_conformance!(async {
        let database = Database::mysql().await;
        let Place::MySql(url) = &database.place else { unreachable!("it is one of MySQL's") };
        let log = MySqlStore::connect(url).await.unwrap();
        (inline(log, Noted(PhantomData)).await.unwrap(), database)
    });
}
