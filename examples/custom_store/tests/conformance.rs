//! The store passes every conformance suite of retell.

use retell_custom_store::RedbStore;
use tempfile::TempDir;

/// A store in a file of its own, and the folder that must outlive it.
async fn store() -> (RedbStore, TempDir) {
    let folder = TempDir::new().expect("a temporary folder");
    (RedbStore::open(folder.path().join("log.redb")).await.expect("a new file"), folder)
}

mod log {
    retell::store_conformance!(super::store());
}

mod relays {
    retell::relay_store_conformance!(super::store());
}
