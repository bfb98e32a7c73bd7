//! The faults found so far, up to a limit.

use crate::store::log::fault::Fault;

/// Faults up to a limit.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) faults: Vec<Fault>,
    limit: usize,
    pub(super) is_truncated: bool,
}

impl Found {
    pub(super) fn up_to(limit: usize) -> Self {
        Self { faults: Vec::new(), limit, is_truncated: false }
    }

    pub(super) fn add(&mut self, fault: Fault) {
        if self.faults.len() < self.limit {
            self.faults.push(fault);
        } else {
            self.is_truncated = true;
        }
    }
}
