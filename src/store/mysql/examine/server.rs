//! Looks at a server: its settings, its clock, its sessions, and the rights of the user.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{NaiveDateTime, Utc};

use crate::error::Result;
use crate::finding::{Finding, Severity};
use crate::store::mysql::check;
use crate::store::mysql::connection::Connections;
use crate::store::mysql::error::classify;
use crate::store::mysql::health::open_transactions;
use crate::store::server::examine::{
    CHANGEABLE_EVENTS, CHANGEABLE_RECORDS, Findings, REPEATED, clock, missing_rights, seconds,
};
use crate::store::server::health::OpenTransactions;

/// The smallest packet that leaves room for ordinary payloads.
const SMALL_PACKET: u64 = 4 * 1024 * 1024;

/// The part of a database that is examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    Events,
    Models,
}

/// A server and the database that the connections have selected.
pub(super) struct Server<'a> {
    pub(super) connections: &'a Connections,
    pub(super) kept: Kept,
}

impl Server<'_> {
    /// Examines everything that a log and read models share.
    pub(super) async fn examine(&self, findings: &mut Findings, patience: Duration) {
        findings.add("settings", self.settings().await);
        findings.add("transactions", self.transactions(patience).await);
        findings.add("clock", self.clocks().await);
    }

    /// Runs a statement of an examination and returns its rows.
    async fn ask<T>(&self, sql: &'static str) -> Result<Vec<T>>
    where
        T: Send + Unpin + for<'r> sqlx::FromRow<'r, sqlx::mysql::MySqlRow>,
    {
        self.connections.all(sqlx::query_as(sql)).await.map_err(|error| classify(error, "examine the server"))
    }

    async fn settings(&self) -> Result<Vec<Finding>> {
        let rows: Vec<(String, String)> = self.ask(SETTINGS).await?;
        let settings: HashMap<_, _> = rows.into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect();
        let value = |name: &str| settings.get(name).map_or("", String::as_str);
        let is_on = |name: &str| matches!(value(name), "ON" | "1");
        let mut found = Vec::new();
        let mut add = |id: &str, severity, seen: String, breaks: &str, remedy: &str| {
            found.push(Finding::new(id, severity, seen).breaks(breaks).remedy(remedy));
        };
        // A read model continues from the checkpoint that it lost together with its rows.
        let (severity, harm) = match self.kept {
            Kept::Events => (Severity::Broken, "a crash loses events that were acknowledged"),
            Kept::Models => (Severity::Info, REPEATED),
        };
        if value("innodb_flush_log_at_trx_commit") != "1" {
            let seen = format!("innodb_flush_log_at_trx_commit is {}", value("innodb_flush_log_at_trx_commit"));
            add("flush-log-off", severity, seen, harm, "SET GLOBAL innodb_flush_log_at_trx_commit = 1;");
        }
        if is_on("log_bin") && value("sync_binlog") != "1" {
            let seen = format!("the server writes a binary log, and sync_binlog is {}", value("sync_binlog"));
            add("sync-binlog-off", severity, seen, harm, "SET GLOBAL sync_binlog = 1;");
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
            let breaks = "larger payloads and states are refused";
            let remedy = "SET GLOBAL max_allowed_packet = 67108864; and open the log again";
            add("packet-small", Severity::Risk, format!("max_allowed_packet is {packet} bytes"), breaks, remedy);
        }
        Ok(found)
    }

    /// Reports the triggers that are not as they were created.
    pub(super) async fn triggers(&self, wanted: &[&str]) -> Result<Vec<Finding>> {
        let present: HashMap<String, String> = self.ask::<(String, String)>(TRIGGERS).await?.into_iter().collect();
        if !wanted.iter().any(|name| present.contains_key(*name)) {
            let reason =
                "no trigger is visible: either all are gone, or the user lacks the right TRIGGER on the tables";
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
                    .breaks(if self.kept == Kept::Models { CHANGEABLE_RECORDS } else { CHANGEABLE_EVENTS })
                    .remedy("create it as in migrations/mysql/0001_tables.sql"),
            )
        };
        Ok(wanted.iter().filter_map(finding).collect())
    }

    /// Reports the rights that the user lacks.
    pub(super) async fn rights(&self, wanted: &[check::Right]) -> Result<Vec<Finding>> {
        let rows: Vec<(String, String)> = self.ask(USER).await?;
        let (user, database) = rows.into_iter().next().unwrap_or_default();
        let missing = check::missing_rights(self.connections, &database, wanted).await?;
        Ok(missing_rights(missing, &user).collect())
    }

    async fn transactions(&self, patience: Duration) -> Result<Vec<Finding>> {
        let failed = |error| classify(error, "list open transactions");
        let open = match open_transactions(self.connections).await.map_err(failed)? {
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

    async fn clocks(&self) -> Result<Option<Finding>> {
        // Connects before the clocks are read.
        self.ask::<(NaiveDateTime,)>(CLOCK).await?;
        let before = Utc::now();
        let rows = self.ask::<(NaiveDateTime,)>(CLOCK).await?;
        Ok(rows.first().and_then(|(server,)| clock(before, server.and_utc(), Utc::now())))
    }
}

const SETTINGS: &str = "
    SHOW VARIABLES WHERE Variable_name IN ('innodb_flush_log_at_trx_commit', 'sync_binlog', 'log_bin', 'innodb_doublewrite',
        'sql_mode', 'transaction_isolation', 'tx_isolation', 'read_only', 'max_allowed_packet')";

const TRIGGERS: &str = "
    SELECT CONVERT(trigger_name USING utf8mb4), CONVERT(action_statement USING utf8mb4) FROM information_schema.triggers
    WHERE event_object_schema = DATABASE()
        AND event_object_table IN ('retell_events', 'retell_seals', 'retell_skipped', 'retell_audit')";

const USER: &str = "SELECT CURRENT_USER(), DATABASE()";

const CLOCK: &str = "SELECT UTC_TIMESTAMP(6)";
