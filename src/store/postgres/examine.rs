//! Looks at a server for everything that would break a promise, beyond the self-test of a log that opens.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use chrono::Utc;

use crate::error::{ErrorKind, Result};
use crate::finding::{Examine, Finding, Severity};
use crate::store::postgres::check;
use crate::store::postgres::error::classify;
use crate::store::postgres::inspect::MISSING_INDEXES;
use crate::store::postgres::migrate;
use crate::store::postgres::store::{PostgresStore, check_numbers};
use crate::store::server::examine::{Findings, clock, future_event, missing_rights, numbers_behind, seconds};

/// Breaks by a trigger that does not refuse changes.
const CHANGEABLE: &str = "stored events or seals can be changed";

#[async_trait]
impl Examine for PostgresStore {
    fn part(&self) -> String {
        format!("log in PostgreSQL, schema {}", self.schema.name())
    }

    async fn examine(&self, patience: Duration) -> Option<Vec<Finding>> {
        let mut findings = Findings::default();
        findings.add("settings", settings(self).await);
        findings.add("triggers", triggers(self).await);
        findings.add("functions", functions(self).await);
        findings.add("indexes", indexes(self).await);
        findings.add("numbers", numbers(self).await);
        findings.add("lanes", lanes(self).await);
        findings.add("rights", rights(self).await);
        findings.add("transactions", transactions(self, patience).await);
        findings.add("clock", clocks(self).await);
        findings.add("pooler", pooler(self).await);
        findings.add("newest event", self.health().await.map(|health| future_event(health.future_event)));
        Some(findings.0)
    }
}

impl PostgresStore {
    /// Runs a statement of an examination and returns its rows.
    async fn ask<T>(&self, sql: &'static str) -> Result<Vec<T>>
    where
        T: Send + Unpin + for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow>,
    {
        let rows = self.writer.connections.all(sqlx::query_as(self.schema.sql(sql))).await;
        rows.map_err(|error| classify(error, "examine the server"))
    }
}

async fn settings(store: &PostgresStore) -> Result<Vec<Finding>> {
    let settings: HashMap<String, String> = store.ask::<(String, String)>(SETTINGS).await?.into_iter().collect();
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
    let overrides = store.ask::<(String, String)>(OVERRIDES).await?;
    let owners = |setting: &str| {
        let owners = overrides.iter().filter(|(_, config)| config == setting).map(|(owner, _)| owner.clone());
        owners.collect::<Vec<_>>().join(", ")
    };
    let sloppy = owners("synchronous_commit=off");
    if value("synchronous_commit") == "off" || !sloppy.is_empty() {
        let severity = if store.writer.durable { Severity::Info } else { Severity::Broken };
        let seen = format!("synchronous_commit is off ({})", if sloppy.is_empty() { "the server" } else { &sloppy });
        let breaks = "a crash of the server loses commits that were acknowledged; appends of a store with the default \
                      durability wait for the disk anyway, other transactions do not";
        let remedy = "ALTER SYSTEM, ALTER DATABASE .. or ALTER ROLE .. RESET synchronous_commit;";
        add("synchronous-commit-off", severity, &seen, breaks, remedy);
    }
    let replica = owners("session_replication_role=replica");
    if !replica.is_empty() {
        let remedy = format!("RESET session_replication_role for {replica}");
        add("triggers-off", Severity::Broken, &format!("triggers are off for {replica}"), CHANGEABLE, &remedy);
    }
    Ok(found)
}

async fn triggers(store: &PostgresStore) -> Result<Vec<Finding>> {
    let name = store.schema.name();
    let rows: Vec<(String, String, Option<String>, bool)> = store.ask(TRIGGERS).await?;
    let finding = |(table, trigger, enabled, is_ours): (String, String, Option<String>, bool)| {
        let (id, remedy) = match enabled.as_deref() {
            None => ("trigger-missing", "create it as in migrations/postgres/0001_tables.sql".to_owned()),
            Some("D" | "R") => ("trigger-disabled", format!("ALTER TABLE {name}.{table} ENABLE TRIGGER {trigger};")),
            _ if !is_ours => {
                ("trigger-changed", "create it again as in migrations/postgres/0001_tables.sql".to_owned())
            }
            _ => return None,
        };
        let seen = format!("the trigger {trigger} on {name}.{table}");
        Some(Finding::new(id, Severity::Broken, seen).breaks(CHANGEABLE).remedy(remedy))
    };
    Ok(rows.into_iter().filter_map(finding).collect())
}

async fn functions(store: &PostgresStore) -> Result<Vec<Finding>> {
    let installed: HashMap<String, String> = store.ask::<(String, String)>(FUNCTIONS).await?.into_iter().collect();
    let name = store.schema.name();
    let finding = |(function, body): (&str, String)| {
        let id = match installed.get(function) {
            None => "function-missing",
            Some(installed) if *installed != body => "function-changed",
            Some(_) => return None,
        };
        let found = Finding::new(id, Severity::Broken, format!("the function {name}.{function}"));
        let remedy = format!(
            "DELETE FROM {name}.retell_functions WHERE name = '{function}'; and open the log again, which installs it"
        );
        Some(found.breaks("appends and the order of the log are not those of this release").remedy(remedy))
    };
    Ok(migrate::bodies(&store.schema).filter_map(finding).collect())
}

async fn indexes(store: &PostgresStore) -> Result<Vec<Finding>> {
    let missing: Vec<(String,)> = store.ask(MISSING_INDEXES).await?;
    let finding = |(name,): (String,)| {
        Finding::new("index-missing", Severity::Broken, format!("the unique index {name} is missing or invalid"))
            .breaks("the database does not refuse a second event under one id, version or position")
            .remedy("run `verify`, then create the constraint again as in migrations/postgres/0001_tables.sql")
    };
    Ok(missing.into_iter().map(finding).collect())
}

async fn numbers(store: &PostgresStore) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    match check_numbers(store.pool(), &store.schema).await {
        Ok(()) => {}
        Err(error) => match error.kind() {
            ErrorKind::Corrupt(problem) => found.push(numbers_behind(problem.clone(), "PostgresStore::repair")),
            _ => return Err(error),
        },
    }
    for (cache, increment, cycles) in store.ask::<(i64, i64, bool)>(SEQUENCE).await? {
        if (cache, increment, cycles) != (1, 1, false) {
            let seen = format!("commit_number has CACHE {cache}, INCREMENT {increment}, CYCLE {cycles}");
            let remedy = format!("ALTER SEQUENCE {}.commit_number CACHE 1 INCREMENT 1 NO CYCLE;", store.schema.name());
            let found_one = Finding::new("sequence-changed", Severity::Broken, seen);
            found.push(
                found_one.breaks("commits get their numbers out of order, so readers skip events").remedy(remedy),
            );
        }
    }
    Ok(found)
}

async fn lanes(store: &PostgresStore) -> Result<Vec<Finding>> {
    let finding = |(lane, sequenced, newest): (i16, i64, i64)| {
        Finding::new(
            "lane-ahead",
            Severity::Broken,
            format!("lane {lane} is sequenced to commit {sequenced}, the log to {newest}"),
        )
        .breaks("new commits of the lane never get a position")
        .remedy("restore the tables `lanes`, `commits` and `log` from one backup")
    };
    Ok(store.ask(LANES_AHEAD).await?.into_iter().map(finding).collect())
}

async fn rights(store: &PostgresStore) -> Result<Vec<Finding>> {
    let rows: Vec<(String, bool)> = store.ask(USER).await?;
    let (user, read_only) = rows.into_iter().next().unwrap_or_default();
    let mut missing: Vec<(String, String)> = Vec::new();
    for sql in [check::LOG_RIGHTS, check::MODEL_RIGHTS] {
        let rows = store.writer.connections.all(sqlx::query_as(store.schema.sql(sql)).bind(read_only)).await;
        missing.extend(rows.map_err(|error| classify(error, "read the rights of the database user"))?);
    }
    missing.sort();
    missing.dedup();
    Ok(missing_rights(missing, &user).collect())
}

/// Process id, user, application, host, state, age in seconds, whether it holds a lane.
type Transaction = (i32, String, String, String, String, f64, bool);

async fn transactions(store: &PostgresStore, patience: Duration) -> Result<Vec<Finding>> {
    let query = sqlx::query_as(store.schema.sql(TRANSACTIONS)).bind(patience.as_secs_f64());
    let rows: Vec<Transaction> =
        store.writer.connections.all(query).await.map_err(|error| classify(error, "list open transactions"))?;
    let finding = |(pid, user, application, host, state, age, holds_lane): Transaction| {
        let age = seconds(Duration::try_from_secs_f64(age).unwrap_or_default());
        let seen = format!("session {pid} of {user} ({application}, from {host}) is {state} in a transaction of {age}");
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
    if store.ask::<(i64,)>(HIDDEN_SESSIONS).await?.iter().any(|(hidden,)| *hidden > 0) {
        let reason = "the database user may not see other sessions; run GRANT pg_read_all_stats TO it";
        found.push(Finding::unknown("transactions", reason));
    }
    Ok(found)
}

async fn clocks(store: &PostgresStore) -> Result<Option<Finding>> {
    // Connects before the clocks are read.
    store.ask::<(chrono::DateTime<Utc>,)>(CLOCK).await?;
    let before = Utc::now();
    let rows = store.ask::<(chrono::DateTime<Utc>,)>(CLOCK).await?;
    Ok(rows.first().and_then(|(server,)| clock(before, *server, Utc::now())))
}

async fn pooler(store: &PostgresStore) -> Result<Option<Finding>> {
    let is_pooled = check::is_behind_pooler(store.pool()).await?;
    let found = || {
        Finding::new("pooler", Severity::Slow, "a connection pooler gives each transaction another session")
            .breaks("LISTEN is off, so other processes find new events by polling; session settings such as jit may be lost")
            .remedy("connect directly, or set pool_mode = session")
    };
    Ok(is_pooled.then(found))
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

/// A row trigger before an update or delete has the type 27, a statement trigger before a truncate has 34.
const TRIGGERS: &str = "
    SELECT wanted.relation, wanted.name, t.tgenabled::text, coalesce(
        t.tgtype = wanted.type AND t.tgqual IS NULL AND p.proname = 'refuse_change' AND p.pronamespace = '{schema}'::regnamespace, false)
    FROM (VALUES
        ('events', 'events_no_change', 27), ('events', 'events_no_truncate', 34),
        ('seals', 'seals_no_change', 27), ('seals', 'seals_no_truncate', 34)) AS wanted (relation, name, type)
    LEFT JOIN pg_class c ON c.relname = wanted.relation AND c.relnamespace = '{schema}'::regnamespace
    LEFT JOIN pg_trigger t ON t.tgrelid = c.oid AND t.tgname = wanted.name
    LEFT JOIN pg_proc p ON p.oid = t.tgfoid";

const FUNCTIONS: &str = "SELECT proname::text, prosrc FROM pg_proc WHERE pronamespace = '{schema}'::regnamespace";

const SEQUENCE: &str =
    "SELECT seqcache, seqincrement, seqcycle FROM pg_sequence WHERE seqrelid = '{schema}.commit_number'::regclass";

const LANES_AHEAD: &str = "
    SELECT n.lane, n.sequenced, newest.id
    FROM {schema}.lanes n, (SELECT coalesce(max(commit_id), 0) AS id FROM {schema}.log) AS newest
    WHERE n.sequenced > newest.id ORDER BY n.lane";

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

const CLOCK: &str = "SELECT clock_timestamp()";
