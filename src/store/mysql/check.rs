//! Looks at the server when a store or a read model opens: its settings, the rights of the database user, and its behavior.
//!
//! Some servers speak MySQL's protocol and break the order of the log silently: nodes that each draw numbers of their own, row locks that
//! hold on one node only. The settings and the self-test at the end find them.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::mysql::MySqlDatabaseError;
use sqlx::{Connection, MySqlConnection, raw_sql};
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};
use crate::store::mysql::connection::Connections;
use crate::store::mysql::error::{classify, is_denied, refusal};
use crate::store::mysql::log::sequence::LOCK_SEQUENCER;
use crate::store::mysql::migrate;
use crate::store::server::convert::to_sql;
use crate::store::server::report::{Missing, Report, add_missing};
use crate::store::server::rounds::Refusal;

/// The longest wait for the second session.
const SECOND_SESSION_TIMEOUT: Duration = Duration::from_secs(5);

/// The part of a schema that is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The log. The field says whether the server's commits must wait for the disk.
    Log {
        durable: bool,
    },
    ReadModels,
}

/// The result of opening a database.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opened {
    /// The size of the server's largest packet in bytes.
    pub(crate) packet: usize,
    /// Whether the server accepts no writes, as a replica does.
    pub(crate) read_only: bool,
    /// Whether the server keeps the locks of a refused insert in repeatable read, even after a rollback to a savepoint. They block every
    /// append. MySQL does this, MariaDB does not.
    pub(crate) keeps_refused_locks: bool,
}

/// Checks the server. If something is missing in the schema, upgrades it, or refuses it without `migrate`.
pub(crate) async fn open(connections: &Connections, part: Part, migrate: bool) -> Result<Opened> {
    let (settings, mut report) = (Settings::read(connections).await?, Report::default());
    settings.check(part, &mut report);
    let opened = Opened {
        packet: settings.number("max_allowed_packet"),
        read_only: settings.is_on("read_only"),
        keeps_refused_locks: !settings.is_mariadb(),
    };
    let Some(database) = settings.database.as_deref() else {
        report.add("no database is selected", "name a database in the URL, as in mysql://host/shop");
        return report.check().map(|()| opened);
    };
    if report.is_empty() {
        let migrated = if migrate { migrate::apply(connections).await } else { migrate::require(connections).await };
        match migrated {
            Err(error) if is_denied(&error) => report_denied(&error, &settings, database, &mut report),
            migrated => migrated?,
        }
    }
    if let Part::Log { .. } = part
        && !opened.read_only
        && report.is_empty()
    {
        let missing = missing_rights(connections, database, &LOG_RIGHTS).await?;
        add_missing(&mut report, &missing, &settings.user);
    }
    report.check().map(|()| opened)
}

/// Adds the rights that reading or upgrading the schema needs and the database user lacks.
fn report_denied(error: &Error, settings: &Settings, database: &str, report: &mut Report) {
    let (user, grants) = (&settings.user, "SELECT, INSERT, UPDATE, DELETE, CREATE, CREATE VIEW, DROP, TRIGGER");
    let cause = crate::error::chain(error).last().map(ToString::to_string).unwrap_or_default();
    report.add(
        format!("the schema is missing or out of date, and the database user {user} may not change it ({cause})"),
        format!("open the log once as a user with more rights, or run GRANT {grants} ON `{database}`.* TO {user};"),
    );
    if settings.is_on("log_bin") && !settings.is_on("log_bin_trust_function_creators") {
        report.add(
            "the server writes a binary log and lets only administrators create triggers",
            "run SET GLOBAL log_bin_trust_function_creators = 1;",
        );
    }
}

/// The server's variables, as far as they matter.
struct Settings {
    values: HashMap<String, String>,
    version: String,
    database: Option<String>,
    user: String,
}

impl Settings {
    async fn read(connections: &Connections) -> Result<Self> {
        let failed = |error| classify(error, "read the server's settings");
        let rows: Vec<(String, String)> = connections.all(sqlx::query_as(SETTINGS)).await.map_err(failed)?;
        let (version, database, user) = connections.one(sqlx::query_as(SESSION)).await.map_err(failed)?;
        let values = rows.into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect();
        Ok(Self { values, version, database, user })
    }

    fn value(&self, name: &str) -> &str {
        self.values.get(name).map_or("", String::as_str)
    }

    fn is_on(&self, name: &str) -> bool {
        matches!(self.value(name), "ON" | "1")
    }

    fn number(&self, name: &str) -> usize {
        self.value(name).parse().unwrap_or(usize::MAX)
    }

    fn check(&self, part: Part, report: &mut Report) {
        if self.is_too_old() {
            report.add(format!("the server's version is {}", self.version), "use MySQL 8 or MariaDB 10.6, or later");
        }
        if self.version.contains("TiDB") {
            report.add("TiDB draws AUTO_INCREMENT numbers on each node separately", "use MySQL or MariaDB");
        }
        for name in ["character_set_client", "character_set_results"] {
            if !matches!(self.value(name), "utf8mb4" | "binary") {
                report.add(
                    format!("sessions have {name} = {}, which cannot hold all text", self.value(name)),
                    "connect with charset=utf8mb4, the default of sqlx",
                );
            }
        }
        if !self.is_on("autocommit") {
            report.add(
                "sessions have autocommit = 0, so reads would never see new events",
                "run SET GLOBAL autocommit = 1;",
            );
        }
        if self.is_on("log_bin") && self.value("binlog_format") == "STATEMENT" {
            report.add(
                "the binary log has binlog_format = STATEMENT, with which the server refuses writes in read committed",
                "run SET GLOBAL binlog_format = 'ROW'; and reconnect",
            );
        }
        if let Part::Log { durable } = part {
            self.check_log(durable, report);
        }
    }

    fn check_log(&self, durable: bool, report: &mut Report) {
        if !matches!(self.value("auto_increment_increment"), "" | "1") {
            let step = self.value("auto_increment_increment");
            report.add(
                format!("auto_increment_increment is {step}: several servers draw commit numbers in turn, which has no order"),
                "write through one server, and run SET GLOBAL auto_increment_increment = 1; there",
            );
        }
        if self.is_on("wsrep_on") {
            report.add(
                "the server is a node of a Galera cluster, where a row lock holds on one node only",
                "use a server without wsrep_on, or asynchronous or semi-synchronous replicas",
            );
        }
        if self.value("group_replication_single_primary_mode") == "OFF" {
            report.add(
                "the server is a member of a group with several primaries, where a row lock holds on one member only",
                "run SELECT group_replication_switch_to_single_primary_mode();",
            );
        }
        let flush = self.value("innodb_flush_log_at_trx_commit");
        let forgets = match (flush, self.is_on("log_bin"), self.value("sync_binlog")) {
            ("1", false, _) | ("1", _, "1") => None,
            // With a binary log, the server rolls back a commit that is missing from it after a crash.
            ("1", _, sync) => Some(("sync_binlog", sync)),
            _ => Some(("innodb_flush_log_at_trx_commit", flush)),
        };
        if let Some((setting, value)) = forgets.filter(|_| durable) {
            report.add(
                format!("the server can lose commits in a crash: {setting} is {value}"),
                format!("run SET GLOBAL {setting} = 1; or allow it with `MySqlOptions::with_durability_of_the_server`"),
            );
        }
    }

    /// Returns whether the server has no `SKIP LOCKED`.
    fn is_too_old(&self) -> bool {
        let mut numbers =
            self.version.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        version < if self.is_mariadb() { (10, 6) } else { (8, 0) }
    }

    fn is_mariadb(&self) -> bool {
        self.version.contains("MariaDB")
    }
}

/// Returns those of the rights that the database user lacks. Tries a statement for each, because no table of the server lists the
/// rights that a user has through roles.
pub(crate) async fn missing_rights(connections: &Connections, database: &str, wanted: &[Right]) -> Result<Missing> {
    let failed = |error| classify(error, "test the rights of the database user");
    let mut lease = connections.lease().await.map_err(failed)?;
    let mut missing = Missing::new();
    for (table, right, statement) in wanted.iter().copied() {
        match raw_sql(statement).execute(&mut *lease).await {
            Err(error) if is_denied_by_server(&error) => missing.push((format!("`{database}`.{table}"), right.into())),
            // Any other refusal, such as that of `sql_safe_updates`, is none of rights.
            Ok(_) | Err(sqlx::Error::Database(_)) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    lease.end(Ok(())).map_err(failed)?;
    Ok(missing)
}

fn is_denied_by_server(error: &sqlx::Error) -> bool {
    let number = error.as_database_error().and_then(|error| error.try_downcast_ref::<MySqlDatabaseError>());
    number.is_some_and(|error| matches!(error.number(), 1044 | 1142 | 1143))
}

/// Tests what the order of the log depends on: a locked row is skipped by a second session, two sessions draw increasing numbers, and the
/// triggers refuse changes. Everything is rolled back, but the numbers are used up.
pub(crate) async fn test(connections: &Connections) -> Result<()> {
    let failed = |error| classify(error, "test the server's behavior");
    let late = |_| Error::new(ErrorKind::Transient("test the server's behavior: no second session in time".into()));
    let mut report = Report::default();
    let test = async {
        let engines: (i64,) = connections.one(sqlx::query_as(OTHER_ENGINES)).await?;
        if engines.0 > 0 {
            report.add(
                "some of the log's tables are not in InnoDB",
                "run ALTER TABLE .. ENGINE = InnoDB; for each of them",
            );
            return Ok(());
        }
        let mut lease = connections.lease().await?;
        let mut second = connections.second_session().await?;
        let mut tx = lease.begin().await?;
        raw_sql(BEGIN).execute(&mut second).await?;
        let held = sqlx::query(LOCK_SEQUENCER).persistent(false).fetch_optional(&mut *tx).await?;
        // If another session has the row, this statement has just skipped it.
        if held.is_some() && sqlx::query(LOCK_SEQUENCER).persistent(false).fetch_optional(&mut second).await?.is_some()
        {
            report.add(
                "two sessions hold the lock of the same row, which would lose or reorder events",
                "use a server whose SELECT .. FOR UPDATE SKIP LOCKED excludes other sessions, as MySQL and MariaDB do",
            );
        }
        test_numbers(&mut tx, &mut second, &mut report).await?;
        test_triggers(&mut tx, &mut report).await?;
        let rolled_back = tx.rollback().await;
        // This ends the transaction of the second session, too.
        drop(second.close().await);
        lease.end(rolled_back)
    };
    tokio::time::timeout(SECOND_SESSION_TIMEOUT, test).await.map_err(late)?.map_err(failed)?;
    report.check()
}

async fn test_numbers(
    first: &mut MySqlConnection,
    second: &mut MySqlConnection,
    report: &mut Report,
) -> Result<(), sqlx::Error> {
    let (Some(one), Some(two), Some(three)) = (draw(first).await?, draw(second).await?, draw(first).await?) else {
        return Ok(());
    };
    report.expect_increasing(
        [one, two, three],
        "use a server that draws AUTO_INCREMENT numbers in order for all sessions",
    );
    Ok(())
}

/// Draws a commit number. Returns `None` if the number is behind the data, which is tested later, or if the session lacks the right.
async fn draw(session: &mut MySqlConnection) -> Result<Option<i64>, sqlx::Error> {
    match sqlx::query(DRAW_NUMBER).persistent(false).execute(session).await {
        Ok(drawn) => Ok(Some(to_sql(drawn.last_insert_id()))),
        Err(error) if refusal(&error) == Refusal::Taken || is_denied_by_server(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn test_triggers(db: &mut MySqlConnection, report: &mut Report) -> Result<(), sqlx::Error> {
    let id = Uuid::new_v4();
    // Negative, so it is never the number of a commit.
    let commit = -(i64::from(id.as_fields().0) + 1);
    sqlx::query(INSERT_EVENT).bind(commit).bind(id).bind(id).persistent(false).execute(&mut *db).await?;
    for (statement, trigger) in [(CHANGE_EVENT, "retell_events_no_update"), (DELETE_EVENT, "retell_events_no_delete")] {
        // Refused by the trigger, or by the rights of the database user.
        if sqlx::query(statement).bind(commit).persistent(false).execute(&mut *db).await.is_ok() {
            report.add(
                format!("stored events can be changed: the trigger {trigger} is missing"),
                "create it as in migrations/mysql/0001_tables.sql",
            );
        }
    }
    Ok(())
}

const SETTINGS: &str = "
    SHOW VARIABLES WHERE Variable_name IN ('autocommit', 'auto_increment_increment', 'binlog_format', 'character_set_client',
        'character_set_results', 'group_replication_single_primary_mode', 'innodb_flush_log_at_trx_commit', 'log_bin',
        'log_bin_trust_function_creators', 'max_allowed_packet', 'read_only', 'sync_binlog', 'wsrep_on')";

const SESSION: &str = "SELECT VERSION(), DATABASE(), CURRENT_USER()";

const BEGIN: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; START TRANSACTION";

const OTHER_ENGINES: &str = "
    SELECT CAST(COUNT(*) AS SIGNED) FROM information_schema.tables
    WHERE table_schema = DATABASE() AND table_name IN ('retell_events', 'retell_commits', 'retell_log', 'retell_sequencer', 'retell_head')
        AND table_type = 'BASE TABLE' AND engine <> 'InnoDB'";

const DRAW_NUMBER: &str = "INSERT INTO retell_commits (events) VALUES (0)";

/// Binds: commit number, event id, event id as the aggregate's id.
const INSERT_EVENT: &str = "
    INSERT INTO retell_events (commit_id, ordinal, event_id, aggregate_type, aggregate_id, version, event_type, schema_version, codec,
        recorded_at, payload)
    VALUES (?, 1, ?, '0.test', ?, 1, '0.tested', 1, 0, UTC_TIMESTAMP(6), '')";

const CHANGE_EVENT: &str = "UPDATE retell_events SET version = version WHERE commit_id = ?";

const DELETE_EVENT: &str = "DELETE FROM retell_events WHERE commit_id = ?";

/// A table, a right, and a statement that tests it and changes nothing.
pub(crate) type Right = (&'static str, &'static str, &'static str);

/// The rights that calls on a log need.
pub(crate) const LOG_RIGHTS: [Right; 27] = [
    ("retell_events", "SELECT", "SELECT 1 FROM retell_events LIMIT 0"),
    ("retell_events", "INSERT", "INSERT INTO retell_events (commit_id) SELECT 1 FROM DUAL WHERE FALSE"),
    ("retell_commits", "SELECT", "SELECT 1 FROM retell_commits LIMIT 0"),
    ("retell_commits", "INSERT", "INSERT INTO retell_commits (commit_id) SELECT 1 FROM DUAL WHERE FALSE"),
    ("retell_commits", "DELETE", "DELETE FROM retell_commits WHERE FALSE"),
    ("retell_log", "SELECT", "SELECT 1 FROM retell_log LIMIT 0"),
    ("retell_log", "INSERT", "INSERT INTO retell_log (commit_id) SELECT 1 FROM DUAL WHERE FALSE"),
    ("retell_log", "DELETE", "DELETE FROM retell_log WHERE FALSE"),
    ("retell_sequencer", "SELECT", "SELECT 1 FROM retell_sequencer LIMIT 0"),
    ("retell_sequencer", "UPDATE", "UPDATE retell_sequencer SET runs = runs WHERE FALSE"),
    ("retell_head", "SELECT", "SELECT 1 FROM retell_head LIMIT 0"),
    ("retell_head", "UPDATE", "UPDATE retell_head SET position = position WHERE FALSE"),
    ("retell_keys", "SELECT", "SELECT 1 FROM retell_keys LIMIT 0"),
    ("retell_keys", "INSERT", "INSERT INTO retell_keys (commit_id) SELECT 1 FROM DUAL WHERE FALSE"),
    ("retell_snapshots", "SELECT", "SELECT 1 FROM retell_snapshots LIMIT 0"),
    ("retell_snapshots", "INSERT", "INSERT INTO retell_snapshots (version) SELECT 1 FROM DUAL WHERE FALSE"),
    ("retell_snapshots", "UPDATE", "UPDATE retell_snapshots SET version = version WHERE FALSE"),
    ("retell_snapshots", "DELETE", "DELETE FROM retell_snapshots WHERE FALSE"),
    ("retell_shapes", "SELECT", "SELECT 1 FROM retell_shapes LIMIT 0"),
    ("retell_shapes", "INSERT", "INSERT INTO retell_shapes (schema_version) SELECT 1 FROM DUAL WHERE FALSE"),
    ("retell_seals", "SELECT", "SELECT 1 FROM retell_seals LIMIT 0"),
    ("retell_relays", "SELECT", "SELECT 1 FROM retell_relays LIMIT 0"),
    ("retell_relays", "INSERT", "INSERT INTO retell_relays (position) SELECT 1 FROM DUAL WHERE FALSE"),
    ("retell_relays", "UPDATE", "UPDATE retell_relays SET position = position WHERE FALSE"),
    ("retell_leases", "SELECT", "SELECT 1 FROM retell_leases LIMIT 0"),
    ("retell_leases", "INSERT", "INSERT INTO retell_leases (fence) SELECT 1 FROM DUAL WHERE FALSE"),
    ("retell_leases", "UPDATE", "UPDATE retell_leases SET fence = fence WHERE FALSE"),
];
