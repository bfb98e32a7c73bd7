//! The store passes every conformance suite of retell.

use redb::{ReadableTable, TableDefinition, WriteTransaction};
use retell::store::Work;
use retell::testing::read_model::Counting;
use retell::{Error, ErrorKind, Result, async_trait};
use tempfile::TempDir;

use crate::{RedbReadModel, RedbStore};

/// A log in a file of its own, and the folder that must outlive it.
async fn store() -> (RedbStore, TempDir) {
    let folder = TempDir::new().expect("a temporary folder");
    (RedbStore::open(folder.path().join("log.redb")).await.expect("a new file"), folder)
}

async fn read_model() -> (RedbReadModel, TempDir) {
    let folder = TempDir::new().expect("a temporary folder");
    (RedbReadModel::open(folder.path().join("models.redb")).await.expect("a new file"), folder)
}

/// A table of a projection's own, next to those of the library.
const COUNTER: TableDefinition<'_, (), u32> = TableDefinition::new("counter");

#[async_trait]
impl Counting for RedbReadModel {
    fn count() -> Work<WriteTransaction> {
        fn add_one(tx: &WriteTransaction) -> Result<(), redb::Error> {
            let mut counter = tx.open_table(COUNTER)?;
            let counted = counter.get(())?.map_or(0, |counted| counted.value());
            counter.insert((), counted + 1)?;
            Ok(())
        }
        Box::new(|tx| {
            let counted = add_one(tx).map_err(|error| Error::with_source(ErrorKind::Backend("count".into()), error));
            Box::pin(async { counted })
        })
    }

    async fn counted(&self) -> Result<u32> {
        let counted = self.file.write("count", |tx| Ok(tx.open_table(COUNTER)?.get(())?.map_or(0, |row| row.value())));
        counted.await
    }
}

mod log {
    retell::store_conformance!(super::store());
}

mod relays {
    retell::relay_store_conformance!(super::store());
}

mod read_models {
    retell::checkpoint_conformance!(super::read_model());
}

mod progress {
    retell::progress_conformance!(super::read_model());
}

mod inboxes {
    retell::inbox_conformance!(super::read_model());
}

mod views {
    retell::view_conformance!(super::read_model());
}

mod deadlines {
    retell::deadline_conformance!(super::read_model());
}
