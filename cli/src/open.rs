//! Opens what a URL names. Only a migration creates anything.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use retell::store::{AuditEntry, EventStore};
use retell::{
    MySqlOptions, MySqlReadModel, MySqlStore, PostgresOptions, PostgresReadModel, PostgresStore, SqliteOptions,
    SqliteReadModel, SqliteStore,
};

use crate::args::Place;
use crate::failure::Failure;
use crate::ports::{Log, Models, Stores};
use crate::text::without_passwords;

/// Where a log or read models are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Url {
    Sqlite(PathBuf),
    Postgres(String),
    MySql(String),
}

impl Url {
    fn parse(text: &str) -> Result<Self, Failure> {
        if let Some(path) = text.strip_prefix("sqlite://").or_else(|| text.strip_prefix("sqlite:"))
            && !path.is_empty()
        {
            return Ok(Self::Sqlite(path.into()));
        }
        match text.split_once("://") {
            Some(("postgres" | "postgresql", _)) => Ok(Self::Postgres(text.to_owned())),
            Some(("mysql", _)) => Ok(Self::MySql(text.to_owned())),
            Some(("mariadb", rest)) => Ok(Self::MySql(format!("mysql://{rest}"))),
            _ => Err(Failure::Usage(format!(
                "{:?} is no URL of a store: write sqlite:PATH, postgres://HOST/DATABASE or mysql://HOST/DATABASE",
                without_passwords(text)
            ))),
        }
    }

    /// Returns the place of the read models that belong to this log: the same database. A log in the file `shop.db` has them in
    /// `shop.db.models` or `shop.models.db`, or in its own file.
    fn models(&self) -> Self {
        let Self::Sqlite(path) = self else { return self.clone() };
        let mut behind = path.clone().into_os_string();
        behind.push(".models");
        let within = path.with_extension(match path.extension() {
            Some(extension) => format!("models.{}", extension.to_string_lossy()),
            None => "models".to_owned(),
        });
        let found = [PathBuf::from(behind), within].into_iter().find(|path| path.exists());
        Self::Sqlite(found.unwrap_or_else(|| path.clone()))
    }
}

/// Whether opening a store may change its schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Schema {
    Required,
    Migrated,
}

/// The parts that have tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Log,
    Models,
}

impl Part {
    pub(crate) const ALL: [Self; 2] = [Self::Log, Self::Models];
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Log => "log",
            Self::Models => "read models",
        })
    }
}

/// Returns the URLs of the log and of the read models.
fn urls(place: &Place) -> Result<(Url, Url), Failure> {
    let Some(store) = place.store.as_deref() else {
        return Err(Failure::Usage("no store: write --store URL, or set RETELL_STORE".to_owned()));
    };
    let store = Url::parse(store)?;
    let models = place.models.as_deref().map_or_else(|| Ok(store.models()), Url::parse)?;
    Ok((store, models))
}

/// Opens the log and the read models.
pub(crate) async fn open(place: &Place) -> Result<Stores, Failure> {
    let (store, models) = urls(place)?;
    // Boxed, because the futures are large.
    let log = Box::pin(async {
        let log = open_log(store, place, Schema::Required).await?;
        // A server that holds a lock must not hold up the tool: the first read shows whether the log answers.
        // It must not need the end of the log, which cannot be read while a transaction blocks it.
        log.next_event_type(None).await?;
        Ok(log)
    });
    let models = Box::pin(open_models(models, place, Schema::Required));
    let opening = async {
        let (log, models) = tokio::join!(log, models);
        Ok(Stores { log: log.map_err(Failure::Opening)?, models: models.map_err(Failure::Opening)? })
    };
    within(place.limit(), opening).await
}

/// Opens a part and closes it, to see whether its schema is that of this release.
pub(crate) async fn try_part(place: &Place, part: Part) -> Result<(), Failure> {
    within(place.limit(), part_with(place, part, Schema::Required)).await
}

/// Creates the tables of a part, or updates them. An index of a large table takes minutes, so only the server limits the time.
pub(crate) async fn migrate_part(place: &Place, part: Part) -> Result<(), Failure> {
    part_with(place, part, Schema::Migrated).await
}

/// Writes records into the read models, which have the tables of this release.
pub(crate) async fn record(place: &Place, entries: &[AuditEntry]) -> Result<(), Failure> {
    let (_, models) = urls(place)?;
    let recording = async {
        let models = open_models(models, place, Schema::Required).await.map_err(Failure::Opening)?;
        for entry in entries {
            models.record(entry).await?;
        }
        models.close().await.map_err(Failure::Store)
    };
    within(place.limit(), Box::pin(recording)).await
}

async fn part_with(place: &Place, part: Part, schema: Schema) -> Result<(), Failure> {
    let (store, models) = urls(place)?;
    let closed = match part {
        Part::Log => open_log(store, place, schema).await.map_err(Failure::Opening)?.close().await,
        Part::Models => open_models(models, place, schema).await.map_err(Failure::Opening)?.close().await,
    };
    closed.map_err(Failure::Opening)
}

async fn within<T>(limit: Duration, opening: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let late = |_| Failure::TimedOut { attempt: "open the store", limit, is_opening: true };
    tokio::time::timeout(limit, opening).await.map_err(late)?
}

async fn open_log(url: Url, place: &Place, schema: Schema) -> retell::Result<Arc<dyn Log>> {
    Ok(match url {
        Url::Sqlite(path) => Arc::new(SqliteStore::open_with(path, sqlite(place.limit(), schema)).await?),
        Url::Postgres(url) => Arc::new(PostgresStore::connect_with(&url, postgres(place, schema)).await?),
        Url::MySql(url) => Arc::new(MySqlStore::connect_with(&url, mysql(place.limit(), schema)).await?),
    })
}

async fn open_models(url: Url, place: &Place, schema: Schema) -> retell::Result<Arc<dyn Models>> {
    Ok(match url {
        Url::Sqlite(path) => Arc::new(SqliteReadModel::open_with(path, sqlite(place.limit(), schema)).await?),
        Url::Postgres(url) => Arc::new(PostgresReadModel::connect_with(&url, postgres(place, schema)).await?),
        Url::MySql(url) => Arc::new(MySqlReadModel::connect_with(&url, mysql(place.limit(), schema)).await?),
    })
}

fn sqlite(limit: Duration, schema: Schema) -> SqliteOptions {
    let options = SqliteOptions::new().with_busy_timeout(limit).with_acquire_timeout(limit);
    if schema == Schema::Migrated { options } else { options.without_migration() }
}

fn postgres(place: &Place, schema: Schema) -> PostgresOptions {
    let limit = place.limit();
    let options = PostgresOptions::new().without_listening().with_durability_of_the_server();
    let options = options.with_call_timeout(limit).with_acquire_timeout(limit);
    let options = if schema == Schema::Migrated { options } else { options.without_migration() };
    match &place.postgres_schema {
        Some(name) => options.with_schema(name),
        None => options,
    }
}

fn mysql(limit: Duration, schema: Schema) -> MySqlOptions {
    let options = MySqlOptions::new().with_durability_of_the_server();
    let options = options.with_call_timeout(limit).with_acquire_timeout(limit);
    if schema == Schema::Migrated { options } else { options.without_migration() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_their_store() {
        let sqlite = |path: &str| Url::Sqlite(path.into());
        assert_eq!(Url::parse("sqlite:shop.db").unwrap(), sqlite("shop.db"));
        assert_eq!(Url::parse("sqlite:///var/shop.db").unwrap(), sqlite("/var/shop.db"));
        assert_eq!(Url::parse("mariadb://db/shop").unwrap(), Url::MySql("mysql://db/shop".into()));
        for wrong in ["sqlite:", "shop.db", "redis://db"] {
            assert!(matches!(Url::parse(wrong), Err(Failure::Usage(_))), "{wrong}");
        }
        let secret = Url::parse("redis://shop:secret@db").unwrap_err().to_string();
        assert!(!secret.contains("secret"), "{secret}");
    }

    #[test]
    fn read_models_are_found_next_to_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| Url::Sqlite(folder.path().join(name));
        let touch = |name: &str| std::fs::write(folder.path().join(name), "").unwrap();
        assert_eq!(at("shop.db").models(), at("shop.db"));
        touch("shop.models.db");
        assert_eq!(at("shop.db").models(), at("shop.models.db"));
        touch("shop.db.models");
        assert_eq!(at("shop.db").models(), at("shop.db.models"));
        assert_eq!(Url::Postgres("a".into()).models(), Url::Postgres("a".into()));
    }
}
