//! The SQLite store and read model keep every claim of the suites, in a file and in memory.

use retell::store::sqlite::{SqliteReadModel, SqliteStore};
use tempfile::TempDir;

async fn store_in_a_file() -> (SqliteStore, TempDir) {
    let directory = TempDir::new().expect("a temporary directory");
    (SqliteStore::open(directory.path().join("log.db")).await.expect("a new log"), directory)
}

async fn read_model_in_a_file() -> (SqliteReadModel, TempDir) {
    let directory = TempDir::new().expect("a temporary directory");
    (SqliteReadModel::open(directory.path().join("views.db")).await.expect("a new read model"), directory)
}

mod store {
    retell::store_conformance!(super::store_in_a_file());
}

mod store_in_memory {
    use super::SqliteStore;

    retell::store_conformance!(async { (SqliteStore::in_memory().await.expect("a new log"), ()) });
}

mod relay_claims {
    retell::relay_store_conformance!(super::store_in_a_file());
}

mod read_model {
    retell::checkpoint_conformance!(super::read_model_in_a_file());
}

mod read_model_in_memory {
    use super::SqliteReadModel;

    retell::checkpoint_conformance!(async { (SqliteReadModel::in_memory().await.expect("a new read model"), ()) });
}

mod progress {
    retell::progress_conformance!(super::read_model_in_a_file());
}

mod progress_in_memory {
    use super::SqliteReadModel;

    retell::progress_conformance!(async { (SqliteReadModel::in_memory().await.expect("a new read model"), ()) });
}
