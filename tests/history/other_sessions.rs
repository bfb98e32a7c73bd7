//! Other sessions of the same PostgreSQL server with long transactions, some of which append to the log.

use std::str::FromStr;
use std::sync::mpsc::Sender;

use retell::{CommitId, Token};
use sqlx::error::DatabaseError;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::check::{Answer, Call, Entry, Part};
use crate::child::now;
use crate::database::Postgres;

pub(crate) const OTHER_SESSIONS: u64 = 2;

/// Starts sessions that run until the count of acknowledged appends is dropped. A server that is killed ends them.
pub(crate) fn start(runtime: &Runtime, postgres: &Postgres, lines: &Sender<Entry>, acknowledged: &watch::Sender<u64>) {
    runtime.spawn(write_in_another_database(postgres.url.clone(), acknowledged.subscribe()));
    for number in 0..OTHER_SESSIONS {
        let session = OtherSession { number, lines: lines.clone(), acknowledged: acknowledged.subscribe() };
        let postgres = postgres.clone();
        let failures = lines.clone();
        runtime.spawn(async move {
            if let Err(error) = session.run(&postgres).await
                && !is_lost_server(&error)
            {
                drop(failures.send(Entry::Failed(format!("another session: {error:?}"))));
            }
        });
    }
}

fn is_lost_server(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    matches!(error, sqlx::Error::Io(_)) || code.is_some_and(|code| code.starts_with("57P"))
}

/// Keeps a transaction with an assigned id open the whole time.
async fn write_in_another_database(url: String, mut acknowledged: watch::Receiver<u64>) -> sqlx::Result<()> {
    let url = PgConnectOptions::from_str(&url)?.database("postgres");
    let mut db = PgConnection::connect_with(&url).await?;
    let mut tx = db.begin().await?;
    tx.execute("CREATE TABLE pg_temp.note (text text)").await?;
    drop(acknowledged.wait_for(|_| false).await);
    tx.rollback().await
}

pub(crate) struct OtherSession {
    pub(crate) number: u64,
    pub(crate) lines: Sender<Entry>,
    pub(crate) acknowledged: watch::Receiver<u64>,
}

impl OtherSession {
    async fn run(mut self, postgres: &Postgres) -> sqlx::Result<()> {
        let mut db = postgres.connect().await;
        for number in 0.. {
            let call = Call {
                append: format!("session{}.{number}", self.number),
                at: now(),
                parts: vec![Part { stream: format!("session{}", self.number), expected: None, events: 1 }],
                keyed: false,
            };
            if !self.transaction(&mut db, postgres, call).await? {
                break;
            }
        }
        db.close().await
    }

    /// Takes a transaction id early, rolls back a first attempt, appends, and commits or rolls back long after
    /// concurrent appends. Returns `false` at the end of the run.
    async fn transaction(&mut self, db: &mut PgConnection, postgres: &Postgres, call: Call) -> sqlx::Result<bool> {
        let mut tx = db.begin().await?;
        tx.execute("SELECT pg_current_xact_id()").await?;
        self.wait(50).await;
        let append = APPEND.replace("{schema}", &postgres.schema);
        let rolls_back = call.append.ends_with(['3', '7']);
        let id = uuid::Uuid::new_v4();
        let (name, stream, event) = (call.append.clone(), call.parts[0].stream.clone(), call.event(0, 0));
        self.record(Entry::Called(call));
        tx.execute("SAVEPOINT tried").await?;
        sqlx::query(AssertSqlSafe(&*append)).bind(&stream).bind(&event).bind(id).fetch_one(&mut *tx).await?;
        tx.execute("ROLLBACK TO SAVEPOINT tried").await?;
        let row = sqlx::query(AssertSqlSafe(&*append)).bind(&stream).bind(&event).bind(id).fetch_one(&mut *tx).await?;
        let (found, commit): (i64, i64) = (row.try_get("found")?, row.try_get("commit_number")?);
        let continues = self.wait(100).await;
        let answer = if rolls_back {
            tx.rollback().await?;
            Answer::Refused
        } else {
            tx.commit().await?;
            // The format of the library's `CommitId`: the number, then the place within the commit.
            let commit = CommitId::new(commit.unsigned_abs() << 24 | 1);
            let token = Token::new(commit, id.into()).to_string();
            Answer::Written { token, versions: vec![found.unsigned_abs() + 1] }
        };
        self.record(Entry::Answered { append: name, at: now(), answer });
        Ok(continues)
    }

    /// Waits for `more` acknowledged appends; returns `false` at the end of the run.
    pub(crate) async fn wait(&mut self, more: u64) -> bool {
        let wanted = *self.acknowledged.borrow() + more;
        self.acknowledged.wait_for(|acknowledged| *acknowledged >= wanted).await.is_ok()
    }

    pub(crate) fn record(&self, entry: Entry) {
        // The receiver is gone once the run has ended.
        drop(self.lines.send(entry));
    }
}

/// Binds: stream, payload, event id.
const APPEND: &str = "
    SELECT *, versions[1] AS found FROM {schema}.append(0, true, true, '{}', '{}', '{}', ARRAY[1], ARRAY['account'], ARRAY[$1], ARRAY['any'],
        ARRAY[NULL]::bigint[], ARRAY[NULL]::uuid[], ARRAY[1],
        ARRAY[1], ARRAY[1], ARRAY[$3::uuid], ARRAY['account.noted'], ARRAY[1]::bigint[], ARRAY[0]::smallint[], ARRAY[NULL]::uuid[],
        ARRAY[NULL]::uuid[], ARRAY[NULL]::text[], ARRAY[convert_to($2, 'UTF8')], NULL, NULL, NULL, NULL, NULL)";
