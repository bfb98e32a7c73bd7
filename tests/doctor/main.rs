//! Finds each planted problem of a server or a file by its name, and nothing on a healthy one. Needs `POSTGRES_URL`, `MYSQL_URL`
//! and `PGBOUNCER`, the path of PgBouncer 1.21 or later.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod broker;
#[path = "../support/databases.rs"]
mod databases;
mod models;
mod mysql;
mod mysql_server;
#[path = "../support/pgbouncer.rs"]
mod pgbouncer;
mod pooler;
mod postgres;
#[path = "../support/programs.rs"]
mod programs;
#[path = "../support/rabbitmq.rs"]
mod rabbitmq;
#[path = "../support/server.rs"]
mod server;
#[path = "../history/server.rs"]
mod servers;
mod sqlite;

use std::time::Duration;

use retell::operate::{self, Examine, Finding, Severity};

/// Longer than any transaction of a test.
const PATIENCE: Duration = Duration::from_hours(1);

/// Returns the findings of a part.
async fn findings(part: &dyn Examine) -> Vec<Finding> {
    let diagnosis = operate::doctor(&[part], PATIENCE).await;
    let json = serde_json::to_value(&diagnosis).unwrap();
    assert_eq!(serde_json::from_value::<operate::Diagnosis>(json).unwrap(), diagnosis);
    diagnosis.findings().cloned().collect()
}

/// Expects findings with exactly these names, each with what it breaks and a remedy.
async fn expect(part: &dyn Examine, ids: &[&str]) {
    let found = findings(part).await;
    let mut found_ids: Vec<_> = found.iter().map(|finding| finding.id.as_str()).collect();
    found_ids.sort_unstable();
    found_ids.dedup();
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    assert_eq!(found_ids, ids, "{found:#?}");
    for finding in &found {
        assert!(!finding.seen.is_empty() && !finding.breaks.is_empty() && !finding.remedy.is_empty(), "{finding:?}");
    }
}

/// A part of a program that cannot examine itself.
struct Opaque;

impl Examine for Opaque {}

#[tokio::test]
async fn part_that_cannot_examine_itself_says_so() {
    expect(&Opaque, &["not-examined"]).await;
    assert!(!operate::doctor(&[&Opaque], PATIENCE).await.needs_attention());
}

#[tokio::test]
async fn log_in_memory_is_healthy() {
    let log = retell::MemoryStore::new();
    expect(&log, &[]).await;
    expect(&log.read_model(), &[]).await;
}

#[tokio::test]
async fn worst_finding_comes_first() {
    struct Two;

    #[retell::async_trait]
    impl Examine for Two {
        async fn examine(&self, _: Duration) -> Option<Vec<Finding>> {
            Some(vec![Finding::new("a", Severity::Info, "a"), Finding::new("b", Severity::Broken, "b")])
        }
    }

    let found = findings(&Two).await;
    assert_eq!(found.iter().map(|finding| finding.id.as_str()).collect::<Vec<_>>(), ["b", "a"]);
}
