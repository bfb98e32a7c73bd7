//! PostgreSQL keeps the promises of every store and read model. Needs `POSTGRES_URL`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/postgres.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod postgres;

use retell::store::postgres::PostgresReadModel;
use retell::store::{Step, Work};
use retell::{CheckpointStore, ErrorKind, Position, ProjectionName};
use sqlx::PgConnection;

async fn read_model() -> PostgresReadModel {
    let (pool, options) = postgres::fresh().await;
    PostgresReadModel::open(pool, &options).await.unwrap()
}

mod claims {
    retell::store_conformance!(async { (super::postgres::store().await, ()) });
}

mod relay_claims {
    retell::relay_store_conformance!(async { (super::postgres::store().await, ()) });
}

mod read_model_claims {
    retell::checkpoint_conformance!(async { (super::read_model().await, ()) });
}

/// A process that stands still within a batch must not stop the others for ever.
#[tokio::test]
async fn a_batch_in_which_nothing_happens_is_ended_by_the_server() {
    let models = read_model().await;
    let asked: Work<PgConnection> = Box::new(|db| {
        Box::pin(async move {
            let limit = sqlx::query_scalar("SHOW idle_in_transaction_session_timeout").fetch_one(db).await;
            assert_eq!(limit.ok(), Some("30s".to_owned()));
            Ok(())
        })
    });
    let totals = ProjectionName::new("totals").unwrap();
    models.advance(Step::new(&totals, Position::ZERO, Position::new(1)), asked).await.unwrap();
    let after: String =
        sqlx::query_scalar("SHOW idle_in_transaction_session_timeout").fetch_one(models.pool()).await.unwrap();
    assert_eq!(after, "0", "the session is as it was");
}

#[tokio::test]
async fn a_closed_read_model_refuses() {
    let models = read_model().await;
    models.clone().close().await.unwrap();
    let error = models.checkpoint(&ProjectionName::new("totals").unwrap()).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Closed(_)), "{error}");
    models.close().await.unwrap();
}

mod progress_claims {
    retell::progress_conformance!(async { (super::read_model().await, ()) });
}

mod inbox {
    retell::inbox_conformance!(async { (super::read_model().await, ()) });
}

mod deadlines {
    retell::deadline_conformance!(async { (super::read_model().await, ()) });
}

mod view_claims {
    retell::view_conformance!(async { (super::read_model().await, ()) });
}
