//! The parts of a log and of read models that the commands use, without the types of their transactions.

use std::io::{Read, Write};
use std::sync::Arc;

use retell::async_trait;
use retell::error::Result;
use retell::operate::{
    self, ArchiveOptions, EventRef, Examine, Exported, Follower, Imported, List, Places, PruneOptions, PruneTarget,
    Pruned, Report, Sizes, Verified, VerifyOptions, Why,
};
use retell::store::{Archive, AuditEntry, By, DeadlineStore, EventStore, Parked, ReadModel, RelayStore, ViewStore};
use retell::{Position, ProjectionName, StreamId, Version};

/// A log.
pub(crate) trait Log: EventStore + RelayStore + Archive + Examine {}

impl<L: EventStore + RelayStore + Archive + Examine> Log for L {}

/// Read models of any store.
#[async_trait]
pub(crate) trait Models: Examine {
    async fn status(&self, log: &dyn Log) -> Result<Report>;

    async fn sizes(&self, log: &dyn Log) -> Result<Sizes>;

    async fn why(&self, log: &dyn Log, event: EventRef, processor: &ProjectionName) -> Result<Option<Why>>;

    async fn why_each(&self, log: &dyn Log, event: EventRef) -> Result<Option<List<Why>>>;

    /// Returns the first `limit` processors by name.
    async fn processors(&self, limit: usize) -> Result<Vec<ProjectionName>>;

    /// Refuses the name of a processor that has never run.
    async fn check_name(&self, processor: &ProjectionName) -> Result<()>;

    async fn parked(&self, processor: &ProjectionName, stream: Option<&StreamId>, limit: usize) -> Result<Vec<Parked>>;

    async fn is_retired(&self, processor: &ProjectionName) -> Result<bool>;

    async fn retry_parked(&self, processor: &ProjectionName, stream: &StreamId, by: &By) -> Result<bool>;

    async fn skip_parked(
        &self,
        log: &dyn Log,
        processor: &ProjectionName,
        event: (&StreamId, Version),
        by: &By,
    ) -> Result<bool>;

    async fn withdraw_skip(&self, processor: &ProjectionName, event: (&StreamId, Version), by: &By) -> Result<bool>;

    async fn pause(&self, processor: &ProjectionName, by: &By) -> Result<bool>;

    async fn retire(&self, processor: &ProjectionName, by: &By) -> Result<bool>;

    async fn resume(&self, processor: &ProjectionName, by: &By) -> Result<bool>;

    /// Returns the newest changes of operators.
    async fn audit(&self, log: &dyn Log, limit: usize) -> Result<Vec<AuditEntry>>;

    async fn record(&self, entry: &AuditEntry) -> Result<()>;

    async fn verify(&self, log: &dyn Log, options: VerifyOptions) -> Result<Verified>;

    async fn after_restore(&self, log: &dyn Log) -> Result<Places>;

    async fn set_back(&self, log: &dyn Log, follower: &Follower, by: &By) -> Result<Position>;

    /// Deletes old rows, or counts them if there is no operator.
    async fn prune(
        &self,
        log: &dyn Log,
        target: PruneTarget,
        options: &PruneOptions,
        by: Option<&By>,
    ) -> Result<Pruned>;

    async fn export(&self, log: &dyn Log, to: &mut (dyn Write + Send), options: ArchiveOptions) -> Result<Exported>;

    async fn import(&self, log: &dyn Log, from: &mut (dyn Read + Send), options: ArchiveOptions) -> Result<Imported>;

    async fn close(&self) -> Result<()>;
}

#[async_trait]
impl<M: ViewStore + DeadlineStore + Examine> Models for M {
    async fn status(&self, log: &dyn Log) -> Result<Report> {
        operate::status(log, self).await
    }

    async fn sizes(&self, log: &dyn Log) -> Result<Sizes> {
        operate::sizes(log, self).await
    }

    async fn why(&self, log: &dyn Log, event: EventRef, processor: &ProjectionName) -> Result<Option<Why>> {
        operate::why(log, self, event, processor).await
    }

    async fn why_each(&self, log: &dyn Log, event: EventRef) -> Result<Option<List<Why>>> {
        operate::why_each(log, self, event).await
    }

    async fn processors(&self, limit: usize) -> Result<Vec<ProjectionName>> {
        Ok(self.projections(limit).await?.into_iter().map(|status| status.projection).collect())
    }

    async fn check_name(&self, processor: &ProjectionName) -> Result<()> {
        ReadModel::check_name(self, processor).await
    }

    async fn parked(&self, processor: &ProjectionName, stream: Option<&StreamId>, limit: usize) -> Result<Vec<Parked>> {
        ReadModel::parked(self, processor, stream, limit).await
    }

    async fn is_retired(&self, processor: &ProjectionName) -> Result<bool> {
        Ok(self.paused(processor).await?.is_some_and(|pause| pause.retired))
    }

    async fn retry_parked(&self, processor: &ProjectionName, stream: &StreamId, by: &By) -> Result<bool> {
        operate::retry_parked(self, processor, stream, by).await
    }

    async fn skip_parked(
        &self,
        log: &dyn Log,
        processor: &ProjectionName,
        event: (&StreamId, Version),
        by: &By,
    ) -> Result<bool> {
        operate::skip_parked(log, self, processor, event, by).await
    }

    async fn withdraw_skip(
        &self,
        processor: &ProjectionName,
        (stream, version): (&StreamId, Version),
        by: &By,
    ) -> Result<bool> {
        operate::withdraw_skip(self, processor, stream, version, by).await
    }

    async fn pause(&self, processor: &ProjectionName, by: &By) -> Result<bool> {
        operate::pause(self, processor, by).await
    }

    async fn retire(&self, processor: &ProjectionName, by: &By) -> Result<bool> {
        operate::retire(self, processor, by).await
    }

    async fn resume(&self, processor: &ProjectionName, by: &By) -> Result<bool> {
        operate::resume(self, processor, by).await
    }

    async fn audit(&self, log: &dyn Log, limit: usize) -> Result<Vec<AuditEntry>> {
        operate::audit_with_log(log, self, limit).await
    }

    async fn record(&self, entry: &AuditEntry) -> Result<()> {
        ReadModel::record(self, entry).await
    }

    async fn verify(&self, log: &dyn Log, options: VerifyOptions) -> Result<Verified> {
        operate::verify(log, self, options).await
    }

    async fn after_restore(&self, log: &dyn Log) -> Result<Places> {
        operate::after_restore(log, self).await
    }

    async fn set_back(&self, log: &dyn Log, follower: &Follower, by: &By) -> Result<Position> {
        operate::set_back(log, self, follower, by).await
    }

    async fn prune(
        &self,
        log: &dyn Log,
        target: PruneTarget,
        options: &PruneOptions,
        by: Option<&By>,
    ) -> Result<Pruned> {
        match by {
            Some(by) => operate::prune(log, self, target, options, by).await,
            None => operate::prunable(log, self, target, options).await,
        }
    }

    async fn export(&self, log: &dyn Log, to: &mut (dyn Write + Send), options: ArchiveOptions) -> Result<Exported> {
        operate::export(log, self, to, options).await
    }

    async fn import(&self, log: &dyn Log, from: &mut (dyn Read + Send), options: ArchiveOptions) -> Result<Imported> {
        operate::import(log, self, from, options).await
    }

    async fn close(&self) -> Result<()> {
        ReadModel::close(self).await
    }
}

/// An open log and its read models.
#[derive(Clone)]
pub(crate) struct Stores {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) models: Arc<dyn Models>,
}
