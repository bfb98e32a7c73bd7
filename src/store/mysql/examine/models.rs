//! Looks at read models for everything that would break a promise.

use std::time::Duration;

use async_trait::async_trait;

use crate::finding::{Examine, Finding};
use crate::store::mysql::check::Right;
use crate::store::mysql::examine::server::{Kept, Server};
use crate::store::mysql::model::read_model::MySqlReadModel;
use crate::store::server::examine::Findings;

#[async_trait]
impl Examine for MySqlReadModel {
    fn part(&self) -> String {
        "read models in MySQL or MariaDB".into()
    }

    async fn examine(&self, patience: Duration) -> Option<Vec<Finding>> {
        let mut findings = Findings::default();
        let server = Server { connections: &self.connections, kept: Kept::Models };
        server.examine(&mut findings, patience).await;
        findings.add("triggers", server.triggers(&TRIGGERS).await);
        findings.add("rights", server.rights(&RIGHTS).await);
        Some(findings.0)
    }
}

const TRIGGERS: [&str; 4] =
    ["retell_skipped_no_update", "retell_skipped_no_delete", "retell_audit_no_update", "retell_audit_no_delete"];

/// The rights that the workers of read models need. Pauses and skips need more.
const RIGHTS: [Right; 35] = [
    ("retell_checkpoints", "SELECT", "SELECT 1 FROM retell_checkpoints LIMIT 0"),
    ("retell_checkpoints", "INSERT", "INSERT INTO retell_checkpoints (position) SELECT 1 FROM DUAL WHERE FALSE"),
    ("retell_checkpoints", "UPDATE", "UPDATE retell_checkpoints SET position = position WHERE FALSE"),
    ("retell_gates", "SELECT", "SELECT 1 FROM retell_gates LIMIT 0"),
    ("retell_gates", "INSERT", "INSERT INTO retell_gates (closed) SELECT 1 FROM DUAL WHERE FALSE"),
    ("retell_gates", "UPDATE", "UPDATE retell_gates SET closed = closed WHERE FALSE"),
    ("retell_processors", "SELECT", "SELECT 1 FROM retell_processors LIMIT 0"),
    ("retell_processors", "INSERT", "INSERT INTO retell_processors (number) SELECT 1 FROM DUAL WHERE FALSE"),
    ("retell_processors", "UPDATE", "UPDATE retell_processors SET number = number WHERE FALSE"),
    ("retell_parked", "SELECT", "SELECT 1 FROM retell_parked LIMIT 0"),
    ("retell_parked", "INSERT", "INSERT INTO retell_parked (attempts) SELECT 1 FROM DUAL WHERE FALSE"),
    ("retell_parked", "UPDATE", "UPDATE retell_parked SET attempts = attempts WHERE FALSE"),
    ("retell_progress", "SELECT", "SELECT 1 FROM retell_progress LIMIT 0"),
    ("retell_progress", "INSERT", "INSERT INTO retell_progress (applied) SELECT 1 FROM DUAL WHERE FALSE"),
    ("retell_progress", "UPDATE", "UPDATE retell_progress SET applied = applied WHERE FALSE"),
    ("retell_views", "SELECT", "SELECT 1 FROM retell_views LIMIT 0"),
    ("retell_views", "INSERT", "INSERT INTO retell_views (position) SELECT 1 FROM DUAL WHERE FALSE"),
    ("retell_views", "UPDATE", "UPDATE retell_views SET position = position WHERE FALSE"),
    ("retell_view_fields", "SELECT", "SELECT 1 FROM retell_view_fields LIMIT 0"),
    ("retell_view_fields", "INSERT", "INSERT INTO retell_view_fields (field) SELECT 1 FROM DUAL WHERE FALSE"),
    ("retell_view_fields", "UPDATE", "UPDATE retell_view_fields SET field = field WHERE FALSE"),
    ("retell_view_generations", "SELECT", "SELECT 1 FROM retell_view_generations LIMIT 0"),
    ("retell_view_generations", "INSERT", "INSERT INTO retell_view_generations (live) SELECT 1 FROM DUAL WHERE FALSE"),
    ("retell_view_generations", "UPDATE", "UPDATE retell_view_generations SET live = live WHERE FALSE"),
    ("retell_deadlines", "SELECT", "SELECT 1 FROM retell_deadlines LIMIT 0"),
    ("retell_deadlines", "INSERT", "INSERT INTO retell_deadlines (attempts) SELECT 1 FROM DUAL WHERE FALSE"),
    ("retell_deadlines", "UPDATE", "UPDATE retell_deadlines SET attempts = attempts WHERE FALSE"),
    ("retell_inbox", "SELECT", "SELECT 1 FROM retell_inbox LIMIT 0"),
    ("retell_inbox", "INSERT", "INSERT INTO retell_inbox (reaction) SELECT 1 FROM DUAL WHERE FALSE"),
    ("retell_inbox", "UPDATE", "UPDATE retell_inbox SET reaction = reaction WHERE FALSE"),
    ("retell_reactions", "SELECT", "SELECT 1 FROM retell_reactions LIMIT 0"),
    ("retell_reactions", "INSERT", "INSERT INTO retell_reactions (begins_after) SELECT 1 FROM DUAL WHERE FALSE"),
    ("retell_reactions", "UPDATE", "UPDATE retell_reactions SET begins_after = begins_after WHERE FALSE"),
    ("retell_skipped", "SELECT", "SELECT 1 FROM retell_skipped LIMIT 0"),
    ("retell_audit", "SELECT", "SELECT 1 FROM retell_audit LIMIT 0"),
];
