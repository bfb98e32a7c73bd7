//! Looks at read models for everything that would break a promise.

use std::time::Duration;

use async_trait::async_trait;

use crate::finding::{Examine, Finding};
use crate::store::postgres::check;
use crate::store::postgres::examine::server::{Kept, Server};
use crate::store::postgres::model::read_model::PostgresReadModel;
use crate::store::server::examine::Findings;

#[async_trait]
impl Examine for PostgresReadModel {
    fn part(&self) -> String {
        format!("read models in PostgreSQL, schema {}", self.schema.name())
    }

    async fn examine(&self, patience: Duration) -> Option<Vec<Finding>> {
        let mut findings = Findings::default();
        let server = Server { connections: &self.connections, schema: &self.schema, kept: Kept::Models };
        server.examine(&mut findings, patience).await;
        findings.add("triggers", server.triggers(TRIGGERS).await);
        findings.add("rights", server.rights(&[check::MODEL_RIGHTS]).await);
        Some(findings.0)
    }
}

/// A row trigger before an update or delete has the type 27, a statement trigger before a truncate has 34.
const TRIGGERS: &str = "
    SELECT wanted.relation, wanted.name, t.tgenabled::text, coalesce(
        t.tgtype = wanted.type AND t.tgqual IS NULL AND p.proname = 'refuse_change_of_record' AND p.pronamespace = '{schema}'::regnamespace, false)
    FROM (VALUES
        ('skipped', 'skipped_no_change', 27), ('skipped', 'skipped_no_truncate', 34),
        ('audit', 'audit_no_change', 27), ('audit', 'audit_no_truncate', 34)) AS wanted (relation, name, type)
    LEFT JOIN pg_class c ON c.relname = wanted.relation AND c.relnamespace = '{schema}'::regnamespace
    LEFT JOIN pg_trigger t ON t.tgrelid = c.oid AND t.tgname = wanted.name
    LEFT JOIN pg_proc p ON p.oid = t.tgfoid";
