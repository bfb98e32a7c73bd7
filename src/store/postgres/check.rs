//! Looks at the server when a store or a read model opens: its settings, the rights of the database user, and its behavior.
//!
//! Some engines speak PostgreSQL's protocol and break the order of the log silently: advisory locks that always succeed, sequences whose
//! sessions keep numbers back. The self-test at the end finds them, and connection poolers that lose prepared statements.

use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, PgPool, Row};
use tokio::time::error::Elapsed;
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result, chain};
use crate::store::postgres::error::{classify, code};
use crate::store::postgres::migrate;
use crate::store::postgres::schema::Schema;
use crate::store::server::report::{Report, add_missing};

/// The second key of the advisory lock that the self-test takes. Lanes have the numbers below 64, the sequencer has 64.
const TEST_LOCK: i32 = 65;

/// The longest wait for the second session, which a pooler without a free connection would delay for minutes.
const SECOND_SESSION_TIMEOUT: Duration = Duration::from_secs(5);

/// The rounds of the search for a pooler.
const POOLER_ROUNDS: usize = 4;

/// The part of a schema that is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Log,
    ReadModels,
}

/// Checks the server. If something is missing in the schema, upgrades it, or refuses it without `migrate`. Returns whether sessions are read-only, as on a replica.
pub(crate) async fn open(pool: &PgPool, schema: &Schema, part: Part, migrate: bool) -> Result<bool> {
    explain(check_and_upgrade(pool, schema, part, migrate).await)
}

/// Tests what the order of the log depends on: a held advisory lock refuses a second session, two sessions draw increasing numbers, and the
/// trigger refuses an update. Everything is rolled back, but the numbers are used up. Returns whether a pooler gives each transaction another
/// session.
pub(crate) async fn test(pool: &PgPool, schema: &Schema) -> Result<bool> {
    explain(self_test(pool, schema).await)
}

/// Replaces the error of a statement that a pooler has lost by a report.
pub(crate) fn explain<T>(result: Result<T>) -> Result<T> {
    if result.as_ref().is_err_and(lost_statement) {
        let mut report = Report::default();
        report.add(
            "a connection pooler loses prepared statements between transactions",
            "use PgBouncer 1.21 or later with max_prepared_statements above 0, or pool_mode = session",
        );
        report.check()?;
    }
    result
}

/// Returns whether the server does not know a prepared statement, or knows another one of that name: a pooler has switched the session. The other
/// statement may have other parameters, or it is executed and returns other columns.
fn lost_statement(error: &Error) -> bool {
    let cause = chain(error).find_map(|cause| cause.downcast_ref::<sqlx::Error>());
    cause.is_some_and(|cause| match cause {
        sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::Decode(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::RowNotFound => true,
        _ => matches!(code(cause).as_deref(), Some("08P01" | "26000" | "42P05")),
    })
}

async fn check_and_upgrade(pool: &PgPool, schema: &Schema, part: Part, migrate: bool) -> Result<bool> {
    let mut connection = pool.acquire().await.map_err(|error| classify(error, "connect"))?;
    let (facts, mut report) = (Facts::read(&mut connection, schema).await?, Report::default());
    facts.check_settings(&mut report);
    let readable = facts.check_rights(&mut connection, schema, part, &mut report).await?;
    if readable && !(facts.has_tables && migrate::is_up_to_date(&mut connection, schema).await?) {
        if !migrate {
            return Err(migrate::missing(&mut connection, schema, facts.has_tables).await?);
        }
        if !facts.read_only {
            facts.check_upgrade_rights(&mut connection, schema, &mut report).await?;
        }
        if report.is_empty() {
            migrate::run(&mut connection, schema, facts.schema_exists).await?;
        }
    }
    report.check()?;
    Ok(facts.read_only)
}

/// The server's settings and the state of the schema.
#[expect(clippy::struct_excessive_bools, reason = "each is an answer of the server to one question")]
struct Facts {
    version: i32,
    server_encoding: String,
    client_encoding: String,
    read_only: bool,
    replication_role: String,
    user: String,
    database: String,
    schema_exists: bool,
    may_use: bool,
    may_create: bool,
    may_create_schema: bool,
    has_tables: bool,
}

impl Facts {
    async fn read(connection: &mut PgConnection, schema: &Schema) -> Result<Self> {
        let row = sqlx::query(FACTS).bind(schema.name()).fetch_one(connection).await;
        let parse = |row: PgRow| {
            Ok(Self {
                version: row.try_get("version")?,
                server_encoding: row.try_get("server_encoding")?,
                client_encoding: row.try_get("client_encoding")?,
                read_only: row.try_get("read_only")?,
                replication_role: row.try_get("replication_role")?,
                user: row.try_get("user_name")?,
                database: row.try_get("database_name")?,
                schema_exists: row.try_get("schema_exists")?,
                may_use: row.try_get("may_use")?,
                may_create: row.try_get("may_create")?,
                may_create_schema: row.try_get("may_create_schema")?,
                has_tables: row.try_get("has_tables")?,
            })
        };
        row.and_then(parse).map_err(|error| classify(error, "read the server's settings"))
    }

    fn check_settings(&self, report: &mut Report) {
        let (database, user) = (&self.database, &self.user);
        if self.version < 140_000 {
            report.add(format!("the server's version is {}", self.version), "use PostgreSQL 14 or later");
        }
        if self.server_encoding != "UTF8" {
            report.add(
                format!("database {database} has the encoding {}, which cannot hold all text", self.server_encoding),
                "create another database: CREATE DATABASE .. ENCODING 'UTF8' TEMPLATE template0;",
            );
        }
        if self.client_encoding != "UTF8" {
            report.add(
                format!("sessions have the client encoding {}", self.client_encoding),
                "leave `client_encoding` to sqlx, which sets UTF8, also in a pooler's configuration",
            );
        }
        if self.replication_role == "replica" {
            report.add(
                "sessions have session_replication_role = replica, which turns the triggers off that keep events unchanged",
                format!("run ALTER ROLE {user} RESET session_replication_role;"),
            );
        }
    }

    /// Adds the rights that calls need and the database user lacks. Returns whether the state of the schema can be read.
    async fn check_rights(
        &self,
        connection: &mut PgConnection,
        schema: &Schema,
        part: Part,
        report: &mut Report,
    ) -> Result<bool> {
        if !self.schema_exists {
            return Ok(true);
        }
        let (name, user) = (schema.name(), &self.user);
        if !self.may_use {
            report.add(
                format!("the database user {user} may not use the schema {name}"),
                format!("run GRANT USAGE ON SCHEMA {name} TO {user};"),
            );
            return Ok(false);
        }
        let rights = if part == Part::Log { LOG_RIGHTS } else { MODEL_RIGHTS };
        let missing = sqlx::query_as(schema.sql(rights)).bind(self.read_only).fetch_all(connection).await;
        let missing = missing.map_err(|error| classify(error, "read the rights of the database user"))?;
        add_missing(report, &missing, user);
        let unreadable = |(object, right): &(String, String)| right == "SELECT" && object.contains(".retell_");
        Ok(!missing.iter().any(unreadable))
    }

    /// Adds the rights that an upgrade of the schema needs and the database user lacks.
    async fn check_upgrade_rights(
        &self,
        connection: &mut PgConnection,
        schema: &Schema,
        report: &mut Report,
    ) -> Result<()> {
        let (name, user, database) = (schema.name(), &self.user, &self.database);
        if !self.schema_exists && !self.may_create_schema {
            report.add(
                format!("the schema {name} is missing, and the database user {user} may not create it"),
                format!("run CREATE SCHEMA {name} AUTHORIZATION {user}; in the database {database}"),
            );
        }
        if self.schema_exists && !self.may_create {
            report.add(
                format!("the schema {name} is out of date, and the database user {user} may not create anything in it"),
                format!("open the log once as the schema's owner, or run GRANT CREATE ON SCHEMA {name} TO {user};"),
            );
        }
        let owners: Vec<String> = sqlx::query_scalar(OTHER_OWNERS)
            .bind(name)
            .fetch_all(connection)
            .await
            .map_err(|error| classify(error, "read the owners of the schema"))?;
        for owner in owners {
            report.add(
                format!("the schema {name} is out of date, and some of it belongs to {owner}"),
                format!("open the log once as {owner}, or run GRANT {owner} TO {user};"),
            );
        }
        Ok(())
    }
}

/// Tests what read models depend on: prepared statements stay.
pub(crate) async fn test_models(pool: &PgPool) -> Result<()> {
    is_behind_pooler(pool).await.map(drop)
}

/// Returns whether a pooler gives each transaction another session.
pub(crate) async fn is_behind_pooler(pool: &PgPool) -> Result<bool> {
    let failed = |error| classify(error, "test the server's behavior");
    let mut first = pool.acquire().await.map_err(failed)?;
    let test = async {
        let mut second = second_session(pool).await.map_err(failed)?;
        let pooled = is_pooled(&mut first, &mut second).await.map_err(failed)?;
        drop(second.close().await);
        Ok(pooled)
    };
    explain(tokio::time::timeout(SECOND_SESSION_TIMEOUT, test).await.map_err(late).and_then(|tested| tested))
}

fn late(_: Elapsed) -> Error {
    ErrorKind::Transient("test the server's behavior: no second session in time".into()).into()
}

async fn self_test(pool: &PgPool, schema: &Schema) -> Result<bool> {
    let failed = |error| classify(error, "test the server's behavior");
    let mut first = pool.acquire().await.map_err(failed)?;
    let mut report = Report::default();
    let test = async {
        let mut second = second_session(pool).await.map_err(failed)?;
        let pooled = is_pooled(&mut first, &mut second).await.map_err(failed)?;
        // Rolls back when dropped.
        let mut tx = first.begin().await.map_err(failed)?;
        test_lock(&mut tx, &mut second, schema, &mut report).await.map_err(failed)?;
        test_numbers(&mut tx, &mut second, schema, &mut report).await.map_err(failed)?;
        test_trigger(&mut tx, schema, &mut report).await.map_err(failed)?;
        tx.rollback().await.map_err(failed)?;
        // The session ends without a message. It holds no transaction.
        drop(second.close().await);
        Ok::<_, Error>(pooled)
    };
    let pooled = tokio::time::timeout(SECOND_SESSION_TIMEOUT, test).await.map_err(late)??;
    report.check().map(|()| pooled)
}

/// Takes a session that the pool has to spare, or opens one outside of the pool: waiting for the pool while holding one of its connections
/// could wait forever.
async fn second_session(pool: &PgPool) -> Result<PgConnection, sqlx::Error> {
    match pool.try_acquire() {
        Some(spare) => Ok(spare.detach()),
        None => pool.connect_options().connect().await,
    }
}

/// Returns whether the first session continues in another session of the server while the second one has a transaction open. All statements
/// are prepared once and used in several transactions. After this, the second session has no open transaction.
async fn is_pooled(first: &mut PgConnection, second: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let before: i32 = sqlx::query_scalar(BACKEND).fetch_one(&mut *first).await?;
    second.execute("BEGIN").await?;
    let other: i32 = sqlx::query_scalar(BACKEND).fetch_one(&mut *second).await?;
    let after: i32 = sqlx::query_scalar(BACKEND).fetch_one(&mut *first).await?;
    second.execute("ROLLBACK").await?;
    let mut is_pooled = before != after || before == other;
    // Other clients of a pooler may take the sessions in between, so that each client seems to keep its own for a while. The order differs
    // from round to round, because a pooler may also give its sessions out in turn.
    for _ in 0..POOLER_ROUNDS {
        for _ in 0..2 {
            let now: i32 = sqlx::query_scalar(BACKEND).fetch_one(&mut *second).await?;
            is_pooled |= now != other;
        }
        for _ in 0..3 {
            let now: i32 = sqlx::query_scalar(BACKEND).fetch_one(&mut *first).await?;
            is_pooled |= now != before;
        }
    }
    Ok(is_pooled)
}

async fn test_lock(
    first: &mut PgConnection,
    second: &mut PgConnection,
    schema: &Schema,
    report: &mut Report,
) -> Result<(), sqlx::Error> {
    let key: i32 = sqlx::query_scalar(schema.sql(LANE_KEY)).fetch_one(&mut *first).await?;
    let lock = || sqlx::query_scalar(TRY_LOCK).bind(key).bind(TEST_LOCK);
    let held: bool = lock().fetch_one(first).await?;
    // If the first attempt fails, another process is testing: the lock has just refused a second session.
    if held && lock().fetch_one(second).await? {
        report.add(
            "two sessions hold the same advisory lock, which would lose or reorder events",
            "use a server whose pg_try_advisory_xact_lock excludes other sessions, as PostgreSQL does",
        );
    }
    Ok(())
}

async fn test_numbers(
    first: &mut PgConnection,
    second: &mut PgConnection,
    schema: &Schema,
    report: &mut Report,
) -> Result<(), sqlx::Error> {
    let draw = || sqlx::query_scalar(schema.sql(DRAW_NUMBER));
    let one: i64 = draw().fetch_one(&mut *first).await?;
    let two: i64 = match draw().fetch_one(second).await {
        // The second session may not have switched to the role that the pool's sessions use.
        Err(error) if code(&error).as_deref() == Some("42501") => return Ok(()),
        drawn => drawn?,
    };
    let three: i64 = draw().fetch_one(first).await?;
    report
        .expect_increasing([one, two, three], &format!("run ALTER SEQUENCE {}.commit_number CACHE 1;", schema.name()));
    Ok(())
}

async fn test_trigger(db: &mut PgConnection, schema: &Schema, report: &mut Report) -> Result<(), sqlx::Error> {
    // The rollback leaves the row in the indexes until the next vacuum. It sorts before most rows: at the end of an index, it would take from
    // all new rows the quick way to the last page.
    let random = Uuid::new_v4();
    let id = Uuid::from_u64_pair(0, random.as_u64_pair().0);
    // Negative, so it is never the number of a commit.
    let commit = -(i64::from(random.as_fields().0) + 1);
    let insert = sqlx::query(schema.sql(INSERT_EVENT)).bind(commit).bind(id);
    insert.execute(&mut *db).await?;
    let changed = sqlx::query(schema.sql(CHANGE_EVENT)).bind(commit).execute(db).await;
    match changed.as_ref().map_err(code) {
        // Refused by the trigger, or by the rights of the database user.
        Err(Some(code)) if matches!(&*code, "23001" | "42501") => Ok(()),
        Ok(_) => {
            let name = schema.name();
            report.add(
                "stored events can be changed",
                format!("run ALTER TABLE {name}.events ENABLE TRIGGER events_no_change;"),
            );
            Ok(())
        }
        Err(_) => changed.map(drop),
    }
}

const FACTS: &str = "
    SELECT current_setting('server_version_num')::integer AS version, current_setting('server_encoding') AS server_encoding,
        current_setting('client_encoding') AS client_encoding, current_setting('transaction_read_only')::boolean AS read_only,
        current_setting('session_replication_role') AS replication_role,
        quote_ident(current_user) AS user_name, quote_ident(current_database()) AS database_name,
        n.oid IS NOT NULL AS schema_exists,
        coalesce(has_schema_privilege(n.oid, 'USAGE'), false) AS may_use,
        coalesce(has_schema_privilege(n.oid, 'CREATE'), false) AS may_create,
        has_database_privilege(current_database(), 'CREATE') AS may_create_schema,
        EXISTS (SELECT FROM pg_class AS c WHERE c.relnamespace = n.oid AND c.relname = 'retell_migrations')
            AND EXISTS (SELECT FROM pg_class AS c WHERE c.relnamespace = n.oid AND c.relname = 'retell_functions') AS has_tables
    FROM (SELECT) AS one LEFT JOIN pg_namespace AS n ON n.nspname = $1";

/// Binds: whether sessions are read-only. Selects objects and the rights on them that the user lacks. The right to delete reservations is not
/// demanded, because only releasing a value needs it.
pub(crate) const LOG_RIGHTS: &str = "
    SELECT '{schema}.' || c.relname, wanted.privilege
    FROM (VALUES
        ('retell_migrations', 'SELECT'), ('retell_functions', 'SELECT'), ('events', 'SELECT'), ('commits', 'SELECT'),
        ('lanes', 'SELECT'), ('log', 'SELECT'), ('keys', 'SELECT'), ('reservations', 'SELECT'), ('snapshots', 'SELECT'),
        ('shapes', 'SELECT'), ('shapes', 'INSERT'), ('seals', 'SELECT'),
        ('relays', 'SELECT'), ('leases', 'SELECT'), ('checkpoints', 'SELECT'),
        ('events', 'INSERT'), ('commits', 'INSERT'), ('log', 'INSERT'), ('keys', 'INSERT'), ('reservations', 'INSERT'),
        ('snapshots', 'INSERT'), ('relays', 'INSERT'), ('leases', 'INSERT'),
        ('lanes', 'UPDATE'), ('reservations', 'UPDATE'), ('snapshots', 'UPDATE'), ('relays', 'UPDATE'), ('leases', 'UPDATE'),
        ('snapshots', 'DELETE')
    ) AS wanted (name, privilege)
    JOIN pg_class AS c ON c.relname = wanted.name AND c.relnamespace = '{schema}'::regnamespace
    WHERE NOT has_table_privilege(c.oid, wanted.privilege) AND NOT ($1 AND wanted.privilege <> 'SELECT')
    UNION ALL
    SELECT 'SEQUENCE {schema}.commit_number', wanted.privilege FROM (VALUES ('SELECT'), ('USAGE')) AS wanted (privilege)
    JOIN pg_class AS c ON c.relname = 'commit_number' AND c.relnamespace = '{schema}'::regnamespace
    WHERE NOT has_sequence_privilege(c.oid, wanted.privilege) AND NOT ($1 AND wanted.privilege <> 'SELECT')
    UNION ALL
    SELECT 'ALL FUNCTIONS IN SCHEMA {schema}', 'EXECUTE'
    WHERE NOT $1 AND EXISTS (
        SELECT FROM pg_proc AS p WHERE p.pronamespace = '{schema}'::regnamespace AND NOT has_function_privilege(p.oid, 'EXECUTE'))";

/// Binds: whether sessions are read-only. As `LOG_RIGHTS`, for read models. A user who may not write to `checkpoints` only reads them.
pub(crate) const MODEL_RIGHTS: &str = "
    SELECT '{schema}.' || c.relname, wanted.privilege
    FROM (VALUES ('SELECT'), ('INSERT'), ('UPDATE')) AS wanted (privilege), pg_class AS c, pg_class AS writable
    WHERE c.relnamespace = '{schema}'::regnamespace AND c.relname IN (
            'retell_migrations', 'retell_functions', 'checkpoints', 'processors', 'parked', 'progress', 'views', 'view_fields',
            'view_generations', 'deadlines', 'inbox', 'reactions')
        AND writable.relnamespace = c.relnamespace AND writable.relname = 'checkpoints'
        AND NOT has_table_privilege(c.oid, wanted.privilege)
        AND (wanted.privilege = 'SELECT'
            OR NOT $1 AND c.relname NOT LIKE 'retell%' AND has_table_privilege(writable.oid, 'INSERT'))";

/// Binds: schema. Selects the owners of functions and tables whose rights the user does not have.
const OTHER_OWNERS: &str = "
    SELECT DISTINCT quote_ident(r.rolname) FROM pg_roles AS r, pg_namespace AS n
    WHERE n.nspname = $1 AND NOT pg_has_role(r.oid, 'USAGE') AND (
        EXISTS (SELECT FROM pg_proc AS p WHERE p.pronamespace = n.oid AND p.proowner = r.oid)
        OR EXISTS (SELECT FROM pg_class AS c WHERE c.relnamespace = n.oid AND c.relowner = r.oid))";

const BACKEND: &str = "SELECT pg_backend_pid()";

const LANE_KEY: &str = "SELECT {schema}.lane_key()";

/// Binds: the two keys of the lock.
const TRY_LOCK: &str = "SELECT pg_try_advisory_xact_lock($1, $2)";

const DRAW_NUMBER: &str = "SELECT nextval('{schema}.commit_number')";

/// Binds: commit number, event id.
const INSERT_EVENT: &str = "
    INSERT INTO {schema}.events (commit_id, ordinal, event_id, aggregate_type, aggregate_id, version, event_type, schema_version, codec,
        recorded_at, payload)
    VALUES ($1, 1, $2, '0.test', $2::text, 1, '0.tested', 1, 0, clock_timestamp(), '')";

/// Binds: commit number.
const CHANGE_EVENT: &str = "UPDATE {schema}.events SET version = version WHERE commit_id = $1";
