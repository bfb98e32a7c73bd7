//! Looks at a log for everything that would break a promise, beyond the self-test when it opens.

mod models;
mod server;

use std::time::Duration;

use async_trait::async_trait;

use crate::error::{ErrorKind, Result};
use crate::finding::{Examine, Finding};
use crate::store::mysql::check;
use crate::store::mysql::examine::server::{Kept, Server};
use crate::store::mysql::store::{MySqlStore, check_numbers};
use crate::store::server::examine::{Findings, future_event, numbers_behind};

#[async_trait]
impl Examine for MySqlStore {
    fn part(&self) -> String {
        "log in MySQL or MariaDB".into()
    }

    async fn examine(&self, patience: Duration) -> Option<Vec<Finding>> {
        let mut findings = Findings::default();
        let server = Server { connections: &self.writer.connections, kept: Kept::Events };
        server.examine(&mut findings, patience).await;
        findings.add("triggers", server.triggers(&TRIGGERS).await);
        findings.add("numbers", numbers(self).await);
        findings.add("rights", server.rights(&check::LOG_RIGHTS).await);
        findings.add("newest event", self.health().await.map(|health| future_event(health.future_event)));
        Some(findings.0)
    }
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

const TRIGGERS: [&str; 4] =
    ["retell_events_no_update", "retell_events_no_delete", "retell_seals_no_update", "retell_seals_no_delete"];
