//! A log with its read models in any store.

use retell::error::Result;
use retell::operate::{self, ArchiveOptions, Exported, Imported, Sealed, Verified, VerifyOptions};
use retell::store::{Archive, RegisteredProcessor};
use retell::{
    EventStore, MemoryStore, MySqlReadModel, MySqlStore, PostgresReadModel, PostgresStore, ProjectionName, ReadModel,
    SqliteReadModel, SqliteStore, View, Views, Worker,
};

use crate::databases::{Database, Place};

pub(crate) trait Log: EventStore + Archive {}
impl<L: EventStore + Archive> Log for L {}

pub(crate) enum Home {
    Memory(MemoryStore),
    Sqlite(SqliteStore, SqliteReadModel, Database),
    Postgres(PostgresStore, PostgresReadModel, Database),
    MySql(MySqlStore, MySqlReadModel, Database),
}

/// Evaluates an expression with the log and the read models of a home.
macro_rules! at {
    ($home:expr, |$log:ident, $models:ident| $run:expr) => {
        match $home {
            Home::Memory(log) => {
                let ($log, $models) = (log, &log.read_model());
                $run
            }
            Home::Sqlite($log, $models, _) => $run,
            Home::Postgres($log, $models, _) => $run,
            Home::MySql($log, $models, _) => $run,
        }
    };
}

impl Home {
    pub(crate) fn memory() -> Self {
        Self::Memory(MemoryStore::new())
    }

    pub(crate) async fn sqlite() -> Self {
        Self::of(Database::sqlite()).await
    }

    pub(crate) async fn postgres() -> Self {
        Self::of(Database::postgres().await).await
    }

    pub(crate) async fn mysql() -> Self {
        Self::of(Database::mysql().await).await
    }

    async fn of(database: Database) -> Self {
        match &database.place {
            Place::Sqlite(path) => {
                let log = SqliteStore::open(path).await.unwrap();
                Self::Sqlite(log, SqliteReadModel::open(path.with_extension("models")).await.unwrap(), database)
            }
            Place::Postgres(url) => {
                let log = PostgresStore::connect(url).await.unwrap();
                Self::Postgres(log.clone(), log.read_model(), database)
            }
            Place::MySql(url) => {
                let log = MySqlStore::connect(url).await.unwrap();
                Self::MySql(log.clone(), log.read_model(), database)
            }
        }
    }

    /// One empty log in each kind of store.
    pub(crate) async fn all() -> [Self; 4] {
        [Self::memory(), Self::sqlite().await, Self::postgres().await, Self::mysql().await]
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Memory(_) => "memory",
            Self::Sqlite(..) => "SQLite",
            Self::Postgres(..) => "PostgreSQL",
            Self::MySql(..) => "MySQL",
        }
    }

    pub(crate) fn log(&self) -> &dyn Log {
        at!(self, |log, _models| log)
    }

    pub(crate) fn place(&self) -> Option<&Place> {
        match self {
            Self::Memory(_) => None,
            Self::Sqlite(_, _, database) | Self::Postgres(_, _, database) | Self::MySql(_, _, database) => {
                Some(&database.place)
            }
        }
    }

    /// Exports without compression.
    pub(crate) async fn export(&self) -> Vec<u8> {
        self.export_with(ArchiveOptions::new().without_compression()).await.unwrap().1
    }

    pub(crate) async fn export_with(&self, options: ArchiveOptions) -> Result<(Exported, Vec<u8>)> {
        let mut file = Vec::new();
        let exported = at!(self, |log, models| operate::export(log, models, &mut file, options).await)?;
        Ok((exported, file))
    }

    pub(crate) async fn import(&self, file: &[u8]) -> Result<Imported> {
        at!(self, |log, models| operate::import(log, models, file, ArchiveOptions::new()).await)
    }

    pub(crate) async fn verify(&self) -> Verified {
        at!(self, |log, models| operate::verify(log, models, VerifyOptions::new()).await).unwrap()
    }

    pub(crate) async fn seal(&self, options: operate::SealOptions) -> Sealed {
        operate::seal(self.log(), options).await.unwrap()
    }

    pub(crate) async fn register(&self, name: &str, processor: &RegisteredProcessor) {
        let name = ProjectionName::new(name).unwrap();
        at!(self, |_log, models| models.register_processor(&name, processor).await).unwrap();
    }

    /// Applies the whole log to a view, and returns its row under `key`.
    pub(crate) async fn viewed<V: View + Copy>(&self, view: V, key: &str) -> Option<V::State> {
        at!(self, |log, models| {
            Worker::view(view, log.clone(), models.clone()).catch_up().await.unwrap();
            Views::new(&view, models.clone()).get(key).await.unwrap()
        })
    }
}
