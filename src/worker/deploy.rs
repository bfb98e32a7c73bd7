//! A worker of an older release learns of newer ones, and waits at events that only they can apply.

use crate::backoff::retry_transient;
use crate::error::{Error, Result, reason};
use crate::status::Wait;
use crate::store::model::read_model::ReadModel;
use crate::worker::runner::{Order, Runner};

impl<M: ReadModel, O> Runner<'_, M, O> {
    /// Reads which releases are registered and which events are skipped, after the count of changes `known` was read: a later change fails the next transaction.
    pub(super) async fn learn(&mut self, known: u64) -> Result<()> {
        let (models, name) = (&self.job.models, &self.name);
        let registered = retry_transient(&self.stop, self.delays(), || models.processors(name)).await?;
        let skipped = || models.skipped(name, None, usize::MAX);
        let skipped = retry_transient(&self.stop, self.delays(), skipped).await?;
        self.wanted = self.wanted.with(name, registered, skipped)?.into();
        self.known_changes = known;
        Ok(())
    }

    pub(super) fn go_on_after_deploy(&mut self) {
        if self.behind_deploy.take().is_some() {
            self.job.reporter.done(Wait::Deploy);
            self.meter.follows_deploy();
            self.feed.come_back();
        }
    }
}

impl<M: ReadModel, O> Runner<'_, M, O>
where
    Self: Order,
{
    /// Leaves the events to processes of the newer release, and waits. Then continues from the stored place, which they may have moved.
    pub(super) async fn step_back(&mut self, error: Error) -> Result<()> {
        if self.limit.is_some() {
            return Err(error);
        }
        self.job.reporter.waits_after(Wait::Deploy, reason(&error));
        self.meter.waits_for_deploy();
        self.feed.go_away();
        let delays = self.waits();
        self.behind_deploy.get_or_insert(delays).pause(&self.stop).await;
        self.return_to_stored().await
    }
}
