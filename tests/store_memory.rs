//! The store and the read model in memory keep every claim of the suites.

use retell::store::memory::{MemoryReadModel, MemoryStore};

mod store {
    use super::MemoryStore;

    retell::store_conformance!(async { (MemoryStore::new(), ()) });
}

/// An `Arc` hands every call on.
mod store_through_a_pointer {
    use std::sync::Arc;

    use retell::{EventStore, MemoryStore};

    retell::store_conformance!(async { (Arc::new(MemoryStore::new()) as Arc<dyn EventStore>, ()) });
}

mod read_model {
    use super::MemoryReadModel;

    retell::checkpoint_conformance!(async { (MemoryReadModel::new(0), ()) });
}

#[tokio::test]
async fn a_relays_checkpoint_never_goes_backward() {
    retell::testing::store::a_relays_checkpoint_never_goes_backward(&MemoryStore::new()).await;
}

#[tokio::test]
async fn relays_have_names_like_all_others() {
    retell::testing::store::relays_have_names_like_all_others(&MemoryStore::new()).await;
}
