//! A read model that reveals every mistake: it counts how often each event was applied, checks that each follows the
//! one before it, and folds their weights in a way that depends on their order.

use std::collections::BTreeMap;
use std::fs::File;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::time::Duration;

use retell::event::{Envelope, NewEvent};
use retell::rusqlite::{self, Connection};
use retell::sqlx::{self, AssertSqlSafe, MySqlConnection, PgConnection};
use retell::{BoxError, Event, Projection, async_trait};
use serde::{Deserialize, Serialize};

pub(crate) const NAME: &str = "tally";

/// Keeps the digest small.
const PRIME: i64 = 1_000_003;

#[derive(Event, Debug, Clone, PartialEq)]
pub(crate) enum Spoken {
    #[event("word.spoken")]
    Word { weight: i64 },
}

pub(crate) fn spoken(weight: i64) -> NewEvent {
    NewEvent::new(&Spoken::Word { weight }).unwrap()
}

/// The model's row for an aggregate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, retell::Shape)]
pub(crate) struct Line {
    pub(crate) version: i64,
    pub(crate) applied: i64,
    pub(crate) out_of_order: i64,
    pub(crate) digest: i64,
}

impl Line {
    pub(crate) fn fold(&mut self, version: i64, weight: i64) {
        self.out_of_order += i64::from(version != self.version + 1);
        self.version = version;
        self.applied += 1;
        self.digest = (self.digest * 31 + weight) % PRIME;
    }
}

pub(crate) type Lines = BTreeMap<String, Line>;

/// The weight of a word that is slow to apply.
pub(crate) const SLOW: i64 = -2;

/// Time that a slow word takes.
pub(crate) const SLOW_TIME: Duration = Duration::from_secs(4);

/// The weight of a word that no projection can apply until the file `cure` exists.
pub(crate) const POISON: i64 = -1;

pub(crate) const WORD_IS_POISON: &str = "this word is poison";

/// The extension of a folder next to the file `cure`. If it exists, the handler panics once on some events.
pub(crate) const PANICS: &str = "panics";

/// Panics on one event in twenty, unless a process has panicked on that event before.
pub(crate) fn panic_once(cure: &Path, aggregate: &str, version: i64, weight: i64) {
    // Without a file `cure`, the folder is an empty path, which is no folder.
    let folder = cure.with_extension(PANICS);
    // `create_new` fails for an event that has had its panic.
    let is_due =
        weight % 20 == 0 && folder.is_dir() && File::create_new(folder.join(format!("{aggregate}-{version}"))).is_ok();
    assert!(!is_due, "the handler panics on {aggregate} version {version}");
}

pub(crate) struct Tally<Tx: ?Sized> {
    /// A file. Once it exists, poison is harmless.
    cure: PathBuf,
    tx: PhantomData<fn(&mut Tx)>,
}

impl<Tx: ?Sized> Tally<Tx> {
    pub(crate) fn with_cure(cure: PathBuf) -> Self {
        Self { cure, tx: PhantomData }
    }
}

/// The statements of the model in each database.
#[async_trait]
pub(crate) trait Tallies: Send + 'static {
    async fn create(&mut self) -> Result<(), BoxError>;
    #[allow(dead_code, reason = "each test file uses its own part")]
    async fn clear(&mut self) -> Result<(), BoxError>;
    async fn tally(&mut self, aggregate: &str, version: i64, weight: i64) -> Result<(), BoxError>;
}

#[async_trait]
impl<Tx: Tallies> Projection for Tally<Tx> {
    const NAME: &'static str = NAME;
    type Event = Spoken;
    type Tx = Tx;

    async fn setup(&self, tx: &mut Tx) -> Result<(), BoxError> {
        tx.create().await
    }

    async fn apply(&self, tx: &mut Tx, event: Envelope<Spoken>) -> Result<(), BoxError> {
        let Spoken::Word { weight } = event.event;
        if weight == POISON && !self.cure.exists() {
            return Err(WORD_IS_POISON.into());
        }
        if weight == SLOW {
            tokio::time::sleep(SLOW_TIME).await;
        }
        let (aggregate, version) = (event.stream.aggregate_id().as_str(), i64::try_from(event.version.get())?);
        panic_once(&self.cure, aggregate, version, weight);
        tx.tally(aggregate, version, weight).await
    }
}

const CREATE: &str = "CREATE TABLE IF NOT EXISTS tally (
    aggregate VARCHAR(100) NOT NULL PRIMARY KEY, version BIGINT NOT NULL, applied BIGINT NOT NULL, out_of_order BIGINT NOT NULL,
    digest BIGINT NOT NULL)";

/// Binds: aggregate, version, weight.
const TALLY: &str = "
    INSERT INTO tally AS t (aggregate, version, applied, out_of_order, digest)
    VALUES ($1, $2, 1, CASE WHEN $2 = 1 THEN 0 ELSE 1 END, $3)
    ON CONFLICT (aggregate) DO UPDATE SET version = excluded.version, applied = t.applied + 1,
        out_of_order = t.out_of_order + CASE WHEN excluded.version = t.version + 1 THEN 0 ELSE 1 END,
        digest = (t.digest * 31 + excluded.digest) % 1000003";

/// Binds: aggregate, version, version, weight. MySQL evaluates the assignments in order, so each sees the ones before
/// it.
const MYSQL_TALLY: &str = "
    INSERT INTO tally (aggregate, version, applied, out_of_order, digest)
    VALUES (?, ?, 1, CASE WHEN ? = 1 THEN 0 ELSE 1 END, ?)
    ON DUPLICATE KEY UPDATE out_of_order = out_of_order + CASE WHEN VALUES(version) = version + 1 THEN 0 ELSE 1 END,
        version = VALUES(version), applied = applied + 1, digest = (digest * 31 + VALUES(digest)) % 1000003";

#[allow(dead_code, reason = "each test file uses its own part")]
const CLEAR: &str = "DELETE FROM tally";

const LINES: &str = "SELECT aggregate, version, applied, out_of_order, digest FROM tally";

#[async_trait]
impl Tallies for Connection {
    async fn create(&mut self) -> Result<(), BoxError> {
        Ok(self.execute_batch(CREATE)?)
    }

    async fn clear(&mut self) -> Result<(), BoxError> {
        Ok(self.execute_batch(CLEAR)?)
    }

    async fn tally(&mut self, aggregate: &str, version: i64, weight: i64) -> Result<(), BoxError> {
        self.prepare_cached(TALLY)?.execute((aggregate, version, weight))?;
        Ok(())
    }
}

#[async_trait]
impl Tallies for PgConnection {
    async fn create(&mut self) -> Result<(), BoxError> {
        sqlx::raw_sql(CREATE).execute(self).await?;
        Ok(())
    }

    async fn clear(&mut self) -> Result<(), BoxError> {
        sqlx::raw_sql(CLEAR).execute(self).await?;
        Ok(())
    }

    async fn tally(&mut self, aggregate: &str, version: i64, weight: i64) -> Result<(), BoxError> {
        sqlx::query(TALLY).bind(aggregate).bind(version).bind(weight).execute(self).await?;
        Ok(())
    }
}

#[async_trait]
impl Tallies for MySqlConnection {
    async fn create(&mut self) -> Result<(), BoxError> {
        sqlx::raw_sql(CREATE).execute(self).await?;
        Ok(())
    }

    async fn clear(&mut self) -> Result<(), BoxError> {
        sqlx::raw_sql(CLEAR).execute(self).await?;
        Ok(())
    }

    async fn tally(&mut self, aggregate: &str, version: i64, weight: i64) -> Result<(), BoxError> {
        let query = sqlx::query(MYSQL_TALLY).bind(aggregate).bind(version).bind(version).bind(weight);
        query.execute(self).await?;
        Ok(())
    }
}

type Row = (String, i64, i64, i64, i64);

fn lines(rows: impl IntoIterator<Item = Row>) -> Lines {
    let line = |(aggregate, version, applied, out_of_order, digest)| {
        (aggregate, Line { version, applied, out_of_order, digest })
    };
    rows.into_iter().map(line).collect()
}

pub(crate) fn of_sqlite(db: &Connection) -> rusqlite::Result<Lines> {
    let mut statement = db.prepare(LINES)?;
    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?));
    let rows = statement.query_map([], row)?.collect::<rusqlite::Result<Vec<Row>>>()?;
    Ok(lines(rows))
}

pub(crate) async fn of_postgres(db: &mut PgConnection) -> Lines {
    lines(sqlx::query_as::<_, Row>(AssertSqlSafe(LINES)).fetch_all(db).await.unwrap())
}

pub(crate) async fn of_mysql(db: &mut MySqlConnection) -> Lines {
    lines(sqlx::query_as::<_, Row>(AssertSqlSafe(LINES)).fetch_all(db).await.unwrap())
}
