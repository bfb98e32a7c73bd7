//! A processor that an operator has retired needs no attention, and nothing of it is lost.

use retell::operate::{self, Answer};
use retell::store::By;
use retell::{EventReader, EventStore, Position, ProjectionName, ReadModel};

use crate::databases::Database;
use crate::planted::{Log, Models, name, situation};

fn by() -> By {
    By::new("ada", "replaced")
}

/// Six processors: `lost` has another history, `shipping` has due deadlines, and `totals` is behind and has parked aggregates.
pub(crate) async fn retired_processor_needs_no_attention(log: &impl Log, models: &impl Models) {
    situation(log, models).await;
    let before = operate::status(log, models).await.unwrap();
    for retired in ["lost", "shipping", "totals"] {
        assert!(operate::retire(models, &name(retired), &by()).await.unwrap());
    }
    let report = operate::status(log, models).await.unwrap();
    let retired = report.processors.items.iter().filter(|one| one.is_retired());
    let retired: Vec<_> = retired.map(|one| (one.name.as_str(), one.lag, one.history_changed)).collect();
    assert_eq!(retired, [("lost", None, false), ("shipping", None, false), ("totals", None, false)]);
    assert_eq!((before.deadlines.len(), report.deadlines.len()), (1, 0));
    let parked = |report: &operate::Report| report.processors.items.last().unwrap().parked.waiting.count;
    assert_eq!((parked(&before), parked(&report)), (1, 1), "nothing is deleted");

    // The second event has failed, and the third was not reached.
    for position in [2, 3] {
        let why = operate::why(log, models, Position::new(position), &name("totals")).await.unwrap().unwrap();
        let Answer::Retired { retired, checkpoint } = why.answer else { panic!("{why:?}") };
        assert_eq!((retired.by, checkpoint.get()), (by(), 2));
    }
    let why = operate::why(log, models, Position::new(1), &name("totals")).await.unwrap().unwrap();
    assert_eq!(why.answer, Answer::Applied);

    for retired in ["lost", "shipping", "totals"] {
        assert!(operate::resume(models, &name(retired), &by()).await.unwrap());
    }
    let mut after = operate::status(log, models).await.unwrap();
    after.at = before.at;
    let without_times = |report: &operate::Report| {
        let mut json = serde_json::to_value(report).unwrap();
        crate::steady(&mut json);
        json
    };
    assert_eq!(without_times(&after), without_times(&before));
}

/// Retires a projection, and resumes it. `listed` returns the projections of a store's health.
async fn lists_a_retired_projection_again(
    models: &impl ReadModel,
    listed: impl AsyncFn() -> Vec<(ProjectionName, u64)>,
) {
    let is_listed = async || listed().await.iter().any(|(projection, _)| *projection == name("totals"));
    assert!(is_listed().await);
    models.retire(&name("totals"), &by()).await.unwrap();
    assert!(!is_listed().await);
    models.resume(&name("totals"), &by()).await.unwrap();
    assert!(is_listed().await);
}

#[tokio::test]
async fn health_does_not_list_a_retired_projection() {
    let database = Database::sqlite();
    let (log, models) = crate::sqlite_of(&database).await;
    situation(&log, &models).await;
    let head = log.head().await.unwrap();
    lists_a_retired_projection_again(&models, async || models.behind(head).await.unwrap()).await;
}

#[tokio::test]
async fn health_of_postgres_does_not_list_a_retired_projection() {
    let database = Database::postgres().await;
    let (log, models) = crate::postgres_of(&database).await;
    situation(&log, &models).await;
    lists_a_retired_projection_again(&models, async || log.health().await.unwrap().projections).await;
    log.close().await.unwrap();
}

#[tokio::test]
async fn health_of_mysql_does_not_list_a_retired_projection() {
    let database = Database::mysql().await;
    let (log, models) = crate::mysql_of(&database).await;
    situation(&log, &models).await;
    lists_a_retired_projection_again(&models, async || log.health().await.unwrap().projections).await;
    log.close().await.unwrap();
}
