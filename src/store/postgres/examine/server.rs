//! Looks at a server: its settings, its clock, its sessions, and the rights of the user.

use std::collections::HashMap;
use std::time::Duration;

use chrono::Utc;

use crate::error::Result;
use crate::finding::{Finding, Severity};
use crate::store::postgres::check;
use crate::store::postgres::connection::Connections;
use crate::store::postgres::error::classify;
use crate::store::postgres::schema::Schema;
use crate::store::server::examine::{
    CHANGEABLE_EVENTS, CHANGEABLE_RECORDS, Findings, REPEATED, clock, missing_rights, seconds,
};

/// The part of a schema that is examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// The log. The field says whether its appends wait for the disk in any case.
    Events {
        durable: bool,
    },
    Models,
}

/// A server and a schema.
pub(super) struct Server<'a> {
    pub(super) connections: &'a Connections,
    pub(super) schema: &'a Schema,
    pub(super) kept: Kept,
}

/// Process id, user, application, host, state, age in seconds, whether it holds a lane.
type Transaction = (i32, String, String, String, String, f64, bool);

impl Server<'_> {
    /// Examines everything that a log and read models share.
    pub(super) async fn examine(&self, findings: &mut Findings, patience: Duration) {
        findings.add("settings", self.settings().await);
        findings.add("transactions", self.transactions(patience).await);
        findings.add("clock", self.clocks().await);
        findings.add("pooler", self.pooler().await);
        findings.add("statistics", self.statistics().await);
    }

    /// Runs a statement of an examination and returns its rows.
    pub(super) async fn ask<T>(&self, sql: &'static str) -> Result<Vec<T>>
    where
        T: Send + Unpin + for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow>,
    {
        let rows = self.connections.all(sqlx::query_as(self.schema.sql(sql))).await;
        rows.map_err(|error| classify(error, "examine the server"))
    }

    fn changeable(&self) -> &'static str {
        if self.kept == Kept::Models { CHANGEABLE_RECORDS } else { CHANGEABLE_EVENTS }
    }

    async fn settings(&self) -> Result<Vec<Finding>> {
        let settings: HashMap<String, String> = self.ask::<(String, String)>(SETTINGS).await?.into_iter().collect();
        let value = |name: &str| settings.get(name).map_or("", String::as_str);
        let mut found = Vec::new();
        let mut add = |id, severity, seen: &str, breaks: &str, remedy: &str| {
            found.push(Finding::new(id, severity, seen).breaks(breaks).remedy(remedy));
        };
        if value("fsync") == "off" {
            let breaks = "a crash of the machine loses acknowledged events, or damages the database";
            let remedy = "ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf();";
            add("fsync-off", Severity::Broken, "fsync is off", breaks, remedy);
        }
        if value("full_page_writes") == "off" {
            let breaks = "a crash of the machine in the middle of a write damages the database";
            let remedy = "ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf();";
            add("full-page-writes-off", Severity::Broken, "full_page_writes is off", breaks, remedy);
        }
        if value("default_transaction_isolation") != "read committed" {
            let seen = format!("transactions begin in {}", value("default_transaction_isolation"));
            let breaks = "appends fail on concurrent changes and are repeated";
            let remedy = "ALTER DATABASE .. RESET default_transaction_isolation; and the same for the role";
            add("isolation", Severity::Slow, &seen, breaks, remedy);
        }
        if value("jit") == "on" {
            let breaks = "the server may compile a read of a long stream, which takes longer than the read";
            add(
                "jit-on",
                Severity::Slow,
                "jit is on in the sessions of the pool",
                breaks,
                "SET jit = off in `after_connect`",
            );
        }
        if value("transaction_read_only") == "on" {
            let breaks = "appends fail, and new events get no position here";
            add("read-only", Severity::Info, "sessions are read-only", breaks, "connect to the primary to append");
        }
        let overrides = self.ask::<(String, String)>(OVERRIDES).await?;
        let owners = |setting: &str| {
            let owners = overrides.iter().filter(|(_, config)| config == setting).map(|(owner, _)| owner.clone());
            owners.collect::<Vec<_>>().join(", ")
        };
        let sloppy = owners("synchronous_commit=off");
        if value("synchronous_commit") == "off" || !sloppy.is_empty() {
            let severity =
                if self.kept == (Kept::Events { durable: false }) { Severity::Broken } else { Severity::Info };
            let seen =
                format!("synchronous_commit is off ({})", if sloppy.is_empty() { "the server" } else { &sloppy });
            let breaks = match self.kept {
                Kept::Events { .. } => {
                    "a crash of the server loses commits that were acknowledged; appends of a store with the default durability \
                     wait for the disk anyway, other transactions do not"
                }
                Kept::Models => REPEATED,
            };
            let remedy = "ALTER SYSTEM, ALTER DATABASE .. or ALTER ROLE .. RESET synchronous_commit;";
            add("synchronous-commit-off", severity, &seen, breaks, remedy);
        }
        let replica = owners("session_replication_role=replica");
        if !replica.is_empty() {
            let remedy = format!("RESET session_replication_role for {replica}");
            add(
                "triggers-off",
                Severity::Broken,
                &format!("triggers are off for {replica}"),
                self.changeable(),
                &remedy,
            );
        }
        Ok(found)
    }

    /// Reports the triggers that are not as they were created. The statement selects them.
    pub(super) async fn triggers(&self, sql: &'static str) -> Result<Vec<Finding>> {
        let name = self.schema.name();
        let rows: Vec<(String, String, Option<String>, bool)> = self.ask(sql).await?;
        let finding = |(table, trigger, enabled, is_ours): (String, String, Option<String>, bool)| {
            let (id, remedy) = match enabled.as_deref() {
                None => ("trigger-missing", "create it as in migrations/postgres/0001_tables.sql".to_owned()),
                Some("D" | "R") => {
                    ("trigger-disabled", format!("ALTER TABLE {name}.{table} ENABLE TRIGGER {trigger};"))
                }
                _ if !is_ours => {
                    ("trigger-changed", "create it again as in migrations/postgres/0001_tables.sql".to_owned())
                }
                _ => return None,
            };
            let seen = format!("the trigger {trigger} on {name}.{table}");
            Some(Finding::new(id, Severity::Broken, seen).breaks(self.changeable()).remedy(remedy))
        };
        Ok(rows.into_iter().filter_map(finding).collect())
    }

    /// Reports the rights that the user lacks. The statements select them.
    pub(super) async fn rights(&self, statements: &[&'static str]) -> Result<Vec<Finding>> {
        let rows: Vec<(String, bool)> = self.ask(USER).await?;
        let (user, read_only) = rows.into_iter().next().unwrap_or_default();
        let mut missing: Vec<(String, String)> = Vec::new();
        for sql in statements {
            let rows = self.connections.all(sqlx::query_as(self.schema.sql(sql)).bind(read_only)).await;
            missing.extend(rows.map_err(|error| classify(error, "read the rights of the database user"))?);
        }
        missing.sort();
        missing.dedup();
        Ok(missing_rights(missing, &user).collect())
    }

    async fn transactions(&self, patience: Duration) -> Result<Vec<Finding>> {
        let query = sqlx::query_as(self.schema.sql(TRANSACTIONS)).bind(patience.as_secs_f64());
        let rows: Vec<Transaction> =
            self.connections.all(query).await.map_err(|error| classify(error, "list open transactions"))?;
        let finding = |(pid, user, application, host, state, age, holds_lane): Transaction| {
            let age = seconds(Duration::try_from_secs_f64(age).unwrap_or_default());
            let seen =
                format!("session {pid} of {user} ({application}, from {host}) is {state} in a transaction of {age}");
            let (id, severity, breaks) = if holds_lane {
                ("lane-held", Severity::Risk, "commits of the lane get no position until it ends, so readers wait")
            } else {
                ("transaction-open", Severity::Slow, "the server cannot remove old rows, so tables grow")
            };
            let end = ["SELECT pg_terminate_backend(", &pid.to_string(), ");"].concat();
            let remedy = format!("{end} and set idle_in_transaction_session_timeout for {user}");
            Finding::new(id, severity, seen).breaks(breaks).remedy(remedy)
        };
        let mut found: Vec<_> = rows.into_iter().map(finding).collect();
        if self.ask::<(i64,)>(HIDDEN_SESSIONS).await?.iter().any(|(hidden,)| *hidden > 0) {
            let reason = "the database user may not see other sessions; run GRANT pg_read_all_stats TO it";
            found.push(Finding::unknown("transactions", reason));
        }
        Ok(found)
    }

    async fn clocks(&self) -> Result<Option<Finding>> {
        // Connects before the clocks are read.
        self.ask::<(chrono::DateTime<Utc>,)>(CLOCK).await?;
        let before = Utc::now();
        let rows = self.ask::<(chrono::DateTime<Utc>,)>(CLOCK).await?;
        Ok(rows.first().and_then(|(server,)| clock(before, *server, Utc::now())))
    }

    async fn pooler(&self) -> Result<Option<Finding>> {
        let is_pooled = check::is_behind_pooler(self.connections.pool()).await?;
        let found = || {
            Finding::new("pooler", Severity::Slow, "a connection pooler gives each transaction another session")
                .breaks("LISTEN is off, so other processes find new events by polling; session settings such as jit may be lost")
                .remedy("connect directly, or set pool_mode = session")
        };
        Ok(is_pooled.then(found))
    }

    /// Reports the tables that have grown to a multiple of what the planner knows.
    async fn statistics(&self) -> Result<Vec<Finding>> {
        let name = self.schema.name();
        let finding = |(table, known, rows): (String, i64, i64)| {
            let seen = format!(
                "the planner's statistics of {name}.{table} are those of {known} rows, and it has about {rows}"
            );
            Finding::new("statistics-old", Severity::Slow, seen)
                .breaks("sessions that planned their reads while the table was small may scan it")
                .remedy(format!(
                    "ANALYZE {name}.{table}; and see that autovacuum is on, which does this within minutes"
                ))
        };
        Ok(self.ask(OLD_STATISTICS).await?.into_iter().map(finding).collect())
    }
}

const SETTINGS: &str = "
    SELECT name, setting FROM pg_settings WHERE name IN (
        'fsync', 'full_page_writes', 'synchronous_commit', 'jit', 'default_transaction_isolation', 'transaction_read_only')";

/// Settings of databases and roles.
const OVERRIDES: &str = "
    SELECT coalesce('role ' || r.rolname, 'all roles') || coalesce(' in ' || d.datname, ''), c.config
    FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole,
        unnest(s.setconfig) AS c (config)
    WHERE c.config IN ('synchronous_commit=off', 'session_replication_role=replica')
        AND (d.datname IS NULL OR d.datname = current_database())
    ORDER BY 1 LIMIT 20";

const USER: &str = "SELECT quote_ident(current_user), current_setting('transaction_read_only')::boolean";

/// Binds: age in seconds.
const TRANSACTIONS: &str = "
    SELECT a.pid, coalesce(a.usename::text, ''), coalesce(a.application_name, ''), coalesce(host(a.client_addr), 'this machine'),
        coalesce(a.state, ''), extract(epoch FROM clock_timestamp() - a.xact_start)::double precision, EXISTS (
            SELECT FROM pg_locks l
            WHERE l.pid = a.pid AND l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.objid <= 64
                AND l.classid::bigint = ({schema}.lane_key()::bigint & 4294967295))
    FROM pg_stat_activity a
    WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.backend_type = 'client backend'
        AND a.xact_start < clock_timestamp() - make_interval(secs => $1)
    ORDER BY a.xact_start LIMIT 20";

const HIDDEN_SESSIONS: &str = "
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query = '<insufficient privilege>'";

/// A scan of a smaller table takes a few milliseconds.
const OLD_STATISTICS: &str = "
    SELECT s.relname::text, greatest(c.reltuples, 0)::bigint, s.n_live_tup
    FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid
    WHERE s.schemaname = '{schema}' AND s.n_live_tup > 100000 AND s.n_live_tup > 2 * greatest(c.reltuples, 0)
    ORDER BY 1 LIMIT 20";

const CLOCK: &str = "SELECT clock_timestamp()";
