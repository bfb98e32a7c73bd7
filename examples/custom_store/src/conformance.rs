//! The store passes every conformance suite of retell.

use redb::{ReadableTable, TableDefinition, WriteTransaction};
use retell::store::{Append, By, Step, Work};
use retell::testing::read_model::Counting;
use retell::testing::store::{events, stream, whole_log};
use retell::{
    Error, ErrorKind, EventReader, EventStore, ExpectedVersion, IdempotencyKey, Position, ProjectionName, ReadModel,
    Result, Version, async_trait,
};
use tempfile::TempDir;

use crate::{RedbReadModel, RedbStore};

/// Creates a log in its own file. Returns it with the folder that must outlive it.
async fn store() -> (RedbStore, TempDir) {
    let folder = TempDir::new().expect("a temporary folder");
    (RedbStore::open(folder.path().join("log.redb")).await.expect("a new file"), folder)
}

/// Creates read models in their own file. Returns them with the folder that must outlive them.
async fn read_model() -> (RedbReadModel, TempDir) {
    let folder = TempDir::new().expect("a temporary folder");
    (RedbReadModel::open(folder.path().join("models.redb")).await.expect("a new file"), folder)
}

/// A table of a projection, next to the table of the store.
const COUNTER: TableDefinition<'_, (), u32> = TableDefinition::new("counter");

#[async_trait]
impl Counting for RedbReadModel {
    fn count() -> Work<WriteTransaction> {
        fn add_one(tx: &WriteTransaction) -> Result<(), redb::Error> {
            let mut counter = tx.open_table(COUNTER)?;
            let before = counter.get(())?.map_or(0, |row| row.value());
            counter.insert((), before + 1)?;
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

#[tokio::test]
async fn closed_file_opens_again_with_everything_in_it() {
    let (store, folder) = store().await;
    let append = Append::new(stream("7"), ExpectedVersion::NoStream, events(3));
    store.append(append.with_key(IdempotencyKey::new("once").expect("a name"))).await.expect("a new stream");
    store.close().await.expect("the store closes");
    let refused = store.head().await.expect_err("the store is closed");
    assert!(matches!(refused.kind(), ErrorKind::Closed(_)), "{refused}");

    let store = RedbStore::open(folder.path().join("log.redb")).await.expect("the file is closed");
    assert_eq!(whole_log(&store).await.expect("a log").len(), 3);
    let kept = store.find_by_key(&IdempotencyKey::new("once").expect("a name")).await.expect("the read succeeds");
    assert_eq!(kept.expect("the key was used").appended.versions, [Version::new(3)]);
}

#[tokio::test]
async fn panic_in_a_projection_changes_nothing_and_reaches_the_caller() {
    let (models, _folder) = read_model().await;
    let totals = ProjectionName::new("totals").expect("a name");
    let step = || Step::new(&totals, Position::ZERO, Position::new(1));
    let (own, failing) = (models.clone(), step());
    let work: Work<WriteTransaction> = Box::new(|tx| {
        Box::pin(async move {
            RedbReadModel::count()(tx).await?;
            panic!("on purpose")
        })
    });
    let ended = tokio::spawn(async move { own.commit(failing, work).await }).await;
    assert!(ended.expect_err("the work panicked").is_panic());
    assert_eq!(models.counted().await.expect("the read succeeds"), 0);
    models.commit(step(), RedbReadModel::count()).await.expect("the file is usable");
    assert_eq!(models.counted().await.expect("the read succeeds"), 1);
}

/// This read model does not keep interventions, so it runs everything else and refuses them.
#[tokio::test]
async fn interventions_are_refused() {
    let (models, _folder) = read_model().await;
    let totals = ProjectionName::new("totals").expect("a name");
    models.commit(Step::new(&totals, Position::ZERO, Position::new(1)), RedbReadModel::count()).await.expect("a step");
    let refused = models.pause(&totals, &By::new("ada", "a test")).await.expect_err("it keeps no interventions");
    assert!(matches!(refused.kind(), ErrorKind::Invalid(_)), "{refused}");
    assert_eq!(models.paused(&totals).await.expect("the read succeeds"), None);
    assert_eq!(models.audit(9, None).await.expect("the read succeeds"), []);
}

/// Counts lines of code, without blank lines and comments.
fn lines(sources: &[&str]) -> usize {
    let lines = sources.iter().flat_map(|source| source.lines()).map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with("//")).count()
}

/// Keeps the ports small enough to implement in an afternoon.
#[test]
fn log_takes_fewer_than_580_lines_and_all_ports_fewer_than_1100() {
    let log =
        lines(&[include_str!("lib.rs"), include_str!("file.rs"), include_str!("rows.rs"), include_str!("log.rs")]);
    assert!(log < 580, "the log has {log} lines of code");
    let models = lines(&[include_str!("model.rs"), include_str!("views.rs"), include_str!("deadlines.rs")]);
    assert!(log + models < 1100, "log and read models have {} lines of code", log + models);
}
