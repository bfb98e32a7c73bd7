//! Looks at the file of read models. Its commits need not wait for the disk: a model continues from the checkpoint that it lost together with
//! its rows.

use std::time::Duration;

use async_trait::async_trait;

use crate::finding::{Examine, Finding};
use crate::store::sqlite::examine::Found;
use crate::store::sqlite::model::read_model::SqliteReadModel;

#[async_trait]
impl Examine for SqliteReadModel {
    fn part(&self) -> String {
        "read models in SQLite".into()
    }

    async fn examine(&self, _: Duration) -> Option<Vec<Finding>> {
        let mut found = Found::default();
        found.of_file(&self.writer, &self.readers, &WANTED).await;
        Some(found.0)
    }
}

/// The triggers that keep records as they are.
const WANTED: [(&str, &str); 4] = [
    ("trigger", "retell_skipped_no_update"),
    ("trigger", "retell_skipped_no_delete"),
    ("trigger", "retell_audit_no_update"),
    ("trigger", "retell_audit_no_delete"),
];
