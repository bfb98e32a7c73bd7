//! Looks at a server for everything that would break a promise, beyond the self-test of a log that opens.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{NaiveDateTime, Utc};

use crate::error::{ErrorKind, Result};
use crate::finding::{Examine, Finding, Severity};
use crate::store::mysql::check;
use crate::store::mysql::error::classify;
use crate::store::mysql::health::open_transactions;
use crate::store::mysql::store::{MySqlStore, check_numbers};
use crate::store::server::examine::{Findings, clock, future_event, missing_rights, numbers_behind, seconds};
use crate::store::server::health::OpenTransactions;

/// The smallest packet that leaves room for ordinary payloads.
const SMALL_PACKET: u64 = 4 * 1024 * 1024;

#[async_trait]
impl Examine for MySqlStore {
    fn part(&self) -> String {
        "log in MySQL or MariaDB".into()
    }

    async fn examine(&self, patience: Duration) -> Option<Vec<Finding>> {
        let mut findings = Findings::default();
        findings.add("settings", settings(self).await);
        findings.add("triggers", triggers(self).await);
        findings.add("numbers", numbers(self).await);
        findings.add("rights", rights(self).await);
        findings.add("transactions", transactions(self, patience).await);
        findings.add("clock", clocks(self).await);
        findings.add("newest event", self.health().await.map(|health| future_event(health.future_event)));
        Some(findings.0)
    }
}

impl MySqlStore {
    /// Runs a statement of an examination and returns its rows.
    async fn ask<T>(&self, sql: &'static str) -> Result<Vec<T>>
    where
        T: Send + Unpin + for<'r> sqlx::FromRow<'r, sqlx::mysql::MySqlRow>,
    {
        self.writer.connections.all(sqlx::query_as(sql)).await.map_err(|error| classify(error, "examine the server"))
    }
}

async fn settings(store: &MySqlStore) -> Result<Vec<Finding>> {
    let rows: Vec<(String, String)> = store.ask(SETTINGS).await?;
    let settings: HashMap<_, _> = rows.into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect();
    let value = |name: &str| settings.get(name).map_or("", String::as_str);
    let is_on = |name: &str| matches!(value(name), "ON" | "1");
    let mut found = Vec::new();
    let mut add = |id: &str, severity, seen: String, breaks: &str, remedy: &str| {
        found.push(Finding::new(id, severity, seen).breaks(breaks).remedy(remedy));
    };
    let loses = "a crash loses events that were acknowledged";
    if value("innodb_flush_log_at_trx_commit") != "1" {
        let seen = format!("innodb_flush_log_at_trx_commit is {}", value("innodb_flush_log_at_trx_commit"));
        add("flush-log-off", Severity::Broken, seen, loses, "SET GLOBAL innodb_flush_log_at_trx_commit = 1;");
    }
    if is_on("log_bin") && value("sync_binlog") != "1" {
        let seen = format!("the server writes a binary log, and sync_binlog is {}", value("sync_binlog"));
        add("sync-binlog-off", Severity::Broken, seen, loses, "SET GLOBAL sync_binlog = 1;");
    }
    if value("innodb_doublewrite") == "OFF" {
        let breaks = "a crash of the machine in the middle of a write damages the database";
        let remedy = "set innodb_doublewrite = ON in the configuration, and restart the server";
        add("doublewrite-off", Severity::Broken, "innodb_doublewrite is OFF".into(), breaks, remedy);
    }
    if !value("sql_mode").contains("STRICT_") {
        let breaks = "the server shortens values that do not fit, without an error";
        let remedy = "SET GLOBAL sql_mode = CONCAT(@@GLOBAL.sql_mode, ',STRICT_TRANS_TABLES'); and reconnect";
        add("sql-mode-not-strict", Severity::Risk, format!("sql_mode is {}", value("sql_mode")), breaks, remedy);
    }
    let isolation = settings.get("transaction_isolation").or(settings.get("tx_isolation"));
    if isolation.is_some_and(|level| level == "SERIALIZABLE") {
        let breaks = "reads take locks, and transactions wait for each other";
        let remedy = "SET GLOBAL TRANSACTION ISOLATION LEVEL READ COMMITTED;";
        add("isolation", Severity::Slow, "transactions begin in SERIALIZABLE".into(), breaks, remedy);
    }
    if is_on("read_only") {
        let breaks = "appends fail for users without administrative rights, and new events get no position here";
        add("read-only", Severity::Info, "read_only is on".into(), breaks, "connect to the primary to append");
    }
    let packet: u64 = value("max_allowed_packet").parse().unwrap_or(u64::MAX);
    if packet < SMALL_PACKET {
        let breaks = "appends of larger payloads are refused";
        let remedy = "SET GLOBAL max_allowed_packet = 67108864; and open the log again";
        add("packet-small", Severity::Risk, format!("max_allowed_packet is {packet} bytes"), breaks, remedy);
    }
    Ok(found)
}

async fn triggers(store: &MySqlStore) -> Result<Vec<Finding>> {
    let present: HashMap<String, String> = store.ask::<(String, String)>(TRIGGERS).await?.into_iter().collect();
    if present.is_empty() {
        let reason =
            "no trigger is visible: either all are gone, or the user lacks the right TRIGGER on the log's tables";
        return Ok(vec![Finding::unknown("triggers", reason)]);
    }
    let finding = |name: &&str| {
        let id = match present.get(*name) {
            None => "trigger-missing",
            Some(statement) if !statement.to_uppercase().contains("SIGNAL SQLSTATE '45000'") => "trigger-changed",
            Some(_) => return None,
        };
        let found = Finding::new(id, Severity::Broken, format!("the trigger {name}"));
        Some(
            found
                .breaks("stored events or seals can be changed")
                .remedy("create it as in migrations/mysql/0001_tables.sql"),
        )
    };
    Ok(OUR_TRIGGERS.iter().filter_map(finding).collect())
}

async fn numbers(store: &MySqlStore) -> Result<Option<Finding>> {
    match check_numbers(&store.writer.connections).await {
        Ok(()) => Ok(None),
        Err(error) => match error.kind() {
            ErrorKind::Corrupt(problem) => Ok(Some(numbers_behind(problem.clone(), "MySqlStore::repair"))),
            _ => Err(error),
        },
    }
}

async fn rights(store: &MySqlStore) -> Result<Vec<Finding>> {
    let rows: Vec<(String, String)> = store.ask(USER).await?;
    let (user, database) = rows.into_iter().next().unwrap_or_default();
    let missing = check::missing_rights(&store.writer.connections, &database).await?;
    Ok(missing_rights(missing, &user).collect())
}

async fn transactions(store: &MySqlStore, patience: Duration) -> Result<Vec<Finding>> {
    let failed = |error| classify(error, "list open transactions");
    let open = match open_transactions(&store.writer.connections).await.map_err(failed)? {
        OpenTransactions::Seen(open) => open,
        OpenTransactions::NotGranted => {
            let reason = "the database user lacks the right PROCESS";
            return Ok(vec![Finding::unknown("transactions", reason)]);
        }
    };
    let long = open.into_iter().filter(|open| open.age > patience).take(20);
    let finding = |open: crate::store::server::health::OpenTransaction| {
        let (session, age) = (open.session, seconds(open.age));
        Finding::new("transaction-open", Severity::Slow, format!("session {session} has a transaction of {age}"))
            .breaks("appends to the same streams wait for it, and the server cannot remove old rows")
            .remedy(format!("SHOW PROCESSLIST; tells whose it is, KILL {session}; ends it"))
    };
    Ok(long.map(finding).collect())
}

async fn clocks(store: &MySqlStore) -> Result<Option<Finding>> {
    // Connects before the clocks are read.
    store.ask::<(NaiveDateTime,)>(CLOCK).await?;
    let before = Utc::now();
    let rows = store.ask::<(NaiveDateTime,)>(CLOCK).await?;
    Ok(rows.first().and_then(|(server,)| clock(before, server.and_utc(), Utc::now())))
}

const SETTINGS: &str = "
    SHOW VARIABLES WHERE Variable_name IN ('innodb_flush_log_at_trx_commit', 'sync_binlog', 'log_bin', 'innodb_doublewrite',
        'sql_mode', 'transaction_isolation', 'tx_isolation', 'read_only', 'max_allowed_packet')";

const OUR_TRIGGERS: [&str; 4] =
    ["retell_events_no_update", "retell_events_no_delete", "retell_seals_no_update", "retell_seals_no_delete"];

const TRIGGERS: &str = "
    SELECT CONVERT(trigger_name USING utf8mb4), CONVERT(action_statement USING utf8mb4) FROM information_schema.triggers
    WHERE event_object_schema = DATABASE() AND event_object_table IN ('retell_events', 'retell_seals')";

const USER: &str = "SELECT CURRENT_USER(), DATABASE()";

const CLOCK: &str = "SELECT UTC_TIMESTAMP(6)";
