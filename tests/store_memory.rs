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

mod relay_claims {
    retell::relay_store_conformance!(async { (super::MemoryStore::new(), ()) });
}

mod read_model {
    use super::MemoryReadModel;

    retell::checkpoint_conformance!(async { (MemoryReadModel::new(0), ()) });
}

mod progress {
    use super::MemoryReadModel;

    retell::progress_conformance!(async { (MemoryReadModel::new(0), ()) });
}

mod views {
    use retell::MemoryViews;

    use super::MemoryReadModel;

    retell::view_conformance!(async { (MemoryReadModel::new(MemoryViews::new()), ()) });
}
