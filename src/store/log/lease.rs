//! The rule of a lease: which holder gets it, and under which fence.

use uuid::Uuid;

use crate::id::Fence;

/// The row of a lease, with times as the store keeps them. The default is a lease that no relay has ever held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lease<T> {
    /// The fence of the newest holder. A lease that was released keeps it.
    pub fence: Fence,
    /// The holder and the end of its lease; `None` if it was released.
    pub held: Option<(Uuid, T)>,
}

impl<T> Default for Lease<T> {
    fn default() -> Self {
        Self { fence: Fence::default(), held: None }
    }
}

impl<T: PartialOrd + Copy> Lease<T> {
    /// Creates the row of a lease from what a store keeps.
    pub fn new(fence: Fence, held: Option<(Uuid, T)>) -> Self {
        Self { fence, held }
    }

    /// Gives the lease to `holder` until `end`, and returns its fence. A holder that has the lease keeps its fence, each new holder gets a
    /// larger one. Returns `None` and changes nothing while another holder has it.
    pub fn acquire(&mut self, holder: Uuid, now: T, end: T) -> Option<Fence> {
        match &self.held {
            Some((same, _)) if *same == holder => {}
            Some((_, ends_at)) if now < *ends_at => return None,
            _ => self.fence = self.fence.next(),
        }
        self.held = Some((holder, end));
        Some(self.fence)
    }

    /// Releases the lease if `holder` has it.
    pub fn release(&mut self, holder: Uuid) {
        if self.held.as_ref().is_some_and(|(held_by, _)| *held_by == holder) {
            self.held = None;
        }
    }
}
