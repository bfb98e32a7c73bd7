//! Projections within the log's own transactions. They keep their checkpoints and the log order as a worker does.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::Connection;
use tokio::runtime::Handle;

use crate::error::{ErrorKind, Result};
use crate::store::log::group_commit::GroupCommit;
use crate::store::log::inline::{Inline, InlineStore, set_up};
use crate::store::model::names;
use crate::store::sqlite::error::{Failure, classify_work};
use crate::store::sqlite::log::append::Writer;
use crate::store::sqlite::log::apply::catch_up;
use crate::store::sqlite::log::read;
use crate::store::sqlite::model::parking::parked;
use crate::store::sqlite::model::read_model::SqliteReadModel;
use crate::store::sqlite::store::SqliteStore;
use crate::store::sqlite::transaction::OpenTransaction;

impl SqliteStore {
    /// Returns the read models in the log's own file, such as those of [inline](mod@crate::inline) projections. A worker that writes there takes
    /// turns with the appends, so other read models belong in a separate file.
    pub fn read_model(&self) -> SqliteReadModel {
        SqliteReadModel { writer: self.writer.pool.clone(), readers: self.readers.clone() }
    }
}

#[async_trait]
impl InlineStore for SqliteStore {
    type Tx = Connection;

    async fn with_inline(&self, inline: Arc<dyn Inline<Connection>>) -> Result<Self> {
        names::add(inline.projection().as_str());
        let (runtime, new) = (Handle::current(), inline.clone());
        self.writer
            .pool
            .run_handler("set up an inline projection", move |db| {
                let open = OpenTransaction::begin(db)?;
                if !parked(open.db, new.projection(), 1)?.is_empty() {
                    let problem = format!(
                        "projection {} has parked aggregates: release them before it is applied inline",
                        new.projection()
                    );
                    return Err(Failure::Own(ErrorKind::Invalid(problem).into()));
                }
                runtime.block_on(set_up(&*new, open.db)).map_err(classify_work)?;
                let head = read::head(open.db)?;
                catch_up(open.db, &runtime, &*new, read::mark_at(open.db, head)?)?;
                open.commit()
            })
            .await?;
        let inline = self.writer.inline.and(inline);
        let writer = Arc::new(Writer { pool: self.writer.pool.clone(), head: self.writer.head.clone(), inline });
        Ok(Self { commits: Arc::new(GroupCommit::new(writer.clone()).with_name("sqlite")), writer, ..self.clone() })
    }
}
