//! Looks at a log for everything that would break a promise, beyond the self-test when it opens.

mod models;
mod server;

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::{ErrorKind, Result};
use crate::finding::{Examine, Finding, Severity};
use crate::store::postgres::check;
use crate::store::postgres::examine::server::{Kept, Server};
use crate::store::postgres::inspect::MISSING_INDEXES;
use crate::store::postgres::migrate;
use crate::store::postgres::store::{PostgresStore, check_numbers};
use crate::store::server::examine::{Findings, future_event, numbers_behind};

#[async_trait]
impl Examine for PostgresStore {
    fn part(&self) -> String {
        format!("log in PostgreSQL, schema {}", self.schema.name())
    }

    async fn examine(&self, patience: Duration) -> Option<Vec<Finding>> {
        let mut findings = Findings::default();
        let server = Server {
            connections: &self.writer.connections,
            schema: &self.schema,
            kept: Kept::Events { durable: self.writer.durable },
        };
        server.examine(&mut findings, patience).await;
        findings.add("triggers", server.triggers(TRIGGERS).await);
        findings.add("functions", functions(&server).await);
        findings.add("indexes", indexes(&server).await);
        findings.add("numbers", numbers(&server).await);
        findings.add("lanes", lanes(&server).await);
        findings.add("rights", server.rights(&[check::LOG_RIGHTS, check::MODEL_RIGHTS]).await);
        findings.add("newest event", self.health().await.map(|health| future_event(health.future_event)));
        Some(findings.0)
    }
}

async fn functions(server: &Server<'_>) -> Result<Vec<Finding>> {
    let installed: HashMap<String, String> = server.ask::<(String, String)>(FUNCTIONS).await?.into_iter().collect();
    let name = server.schema.name();
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
    Ok(migrate::bodies(server.schema).filter_map(finding).collect())
}

async fn indexes(server: &Server<'_>) -> Result<Vec<Finding>> {
    let missing: Vec<(String,)> = server.ask(MISSING_INDEXES).await?;
    let finding = |(name,): (String,)| {
        Finding::new("index-missing", Severity::Broken, format!("the unique index {name} is missing or invalid"))
            .breaks("the database does not refuse a second event under one id, version or position")
            .remedy("run `verify`, then create the constraint again as in migrations/postgres/0001_tables.sql")
    };
    Ok(missing.into_iter().map(finding).collect())
}

async fn numbers(server: &Server<'_>) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    match check_numbers(server.connections.pool(), server.schema).await {
        Ok(()) => {}
        Err(error) => match error.kind() {
            ErrorKind::Corrupt(problem) => found.push(numbers_behind(problem.clone(), "PostgresStore::repair")),
            _ => return Err(error),
        },
    }
    for (cache, increment, cycles) in server.ask::<(i64, i64, bool)>(SEQUENCE).await? {
        if (cache, increment, cycles) != (1, 1, false) {
            let seen = format!("commit_number has CACHE {cache}, INCREMENT {increment}, CYCLE {cycles}");
            let remedy = format!("ALTER SEQUENCE {}.commit_number CACHE 1 INCREMENT 1 NO CYCLE;", server.schema.name());
            let found_one = Finding::new("sequence-changed", Severity::Broken, seen);
            found.push(
                found_one.breaks("commits get their numbers out of order, so readers skip events").remedy(remedy),
            );
        }
    }
    Ok(found)
}

async fn lanes(server: &Server<'_>) -> Result<Vec<Finding>> {
    let finding = |(lane, sequenced, newest): (i16, i64, i64)| {
        Finding::new(
            "lane-ahead",
            Severity::Broken,
            format!("lane {lane} is sequenced to commit {sequenced}, the log to {newest}"),
        )
        .breaks("new commits of the lane never get a position")
        .remedy("restore the tables `lanes`, `commits` and `log` from one backup")
    };
    Ok(server.ask(LANES_AHEAD).await?.into_iter().map(finding).collect())
}

const FUNCTIONS: &str = "SELECT proname::text, prosrc FROM pg_proc WHERE pronamespace = '{schema}'::regnamespace";

const SEQUENCE: &str =
    "SELECT seqcache, seqincrement, seqcycle FROM pg_sequence WHERE seqrelid = '{schema}.commit_number'::regclass";

const LANES_AHEAD: &str = "
    SELECT n.lane, n.sequenced, newest.id
    FROM {schema}.lanes n, (SELECT coalesce(max(commit_id), 0) AS id FROM {schema}.log) AS newest
    WHERE n.sequenced > newest.id ORDER BY n.lane";

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
