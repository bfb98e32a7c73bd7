//! Projections within the appends' own transactions.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::MySqlConnection;

use crate::error::Result;
use crate::store::log::group_commit::GroupCommit;
use crate::store::log::inline::{Inline, InlineStore};
use crate::store::mysql::model::read_model::MySqlReadModel;
use crate::store::mysql::store::{COMMITS_AT_ONCE, MySqlStore};
use crate::store::server::inline;

impl MySqlStore {
    /// Returns the read models in the log's own database, such as those of [inline](mod@crate::inline) projections.
    ///
    /// They have connections of their own, opened when they are first needed: as many as this store has, and at least two. Handlers may
    /// therefore use the store while their transactions are open. All handles share these connections, and closing the store closes them.
    pub fn read_model(&self) -> MySqlReadModel {
        MySqlReadModel { connections: self.models.clone() }
    }
}

#[async_trait]
impl InlineStore for MySqlStore {
    type Tx = MySqlConnection;

    async fn with_inline(&self, inline: Arc<dyn Inline<MySqlConnection>>) -> Result<Self> {
        inline::begin_inline(&self.read_model(), self, inline.clone()).await?;
        let writer = Arc::new(self.writer.with_inline(inline));
        let commits = Arc::new(GroupCommit::with_queues(writer.clone(), COMMITS_AT_ONCE).with_name("mysql"));
        Ok(Self { writer, commits, ..self.clone() })
    }
}
