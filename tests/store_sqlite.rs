//! The SQLite store and read model pass every case of the suites, in a file and in memory.

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

/// SQLite has one writer, whose clock sets every recorded time.
#[tokio::test]
async fn recorded_times_never_decrease_along_the_log() {
    use retell::testing::store::{events, stream, whole_log};
    use retell::{EventStore, ExpectedVersion, store::Append};
    let (store, _directory) = store_in_a_file().await;
    let appends = (0..64).map(|n| store.append(Append::new(stream(&n.to_string()), ExpectedVersion::Any, events(2))));
    assert!(futures::future::join_all(appends).await.iter().all(Result::is_ok));
    let times: Vec<_> = whole_log(&store).await.expect("a log").iter().map(|event| event.recorded_at).collect();
    assert!(times.len() == 128 && times.is_sorted(), "{times:?}");
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

mod interventions {
    retell::intervention_conformance!(super::read_model_in_a_file());
}

mod inbox {
    retell::inbox_conformance!(super::read_model_in_a_file());
}

mod deadlines {
    retell::deadline_conformance!(super::read_model_in_a_file());
}

mod deadlines_in_memory {
    use super::SqliteReadModel;

    retell::deadline_conformance!(async { (SqliteReadModel::in_memory().await.expect("a new read model"), ()) });
}

mod views {
    retell::view_conformance!(super::read_model_in_a_file());
}

mod views_in_memory {
    use super::SqliteReadModel;

    retell::view_conformance!(async { (SqliteReadModel::in_memory().await.expect("a new read model"), ()) });
}
