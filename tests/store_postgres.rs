//! PostgreSQL passes the suites of stores and read models. Needs `POSTGRES_URL`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/postgres.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod postgres;

use retell::store::postgres::PostgresReadModel;
use retell::store::{Step, Work};
use retell::{ErrorKind, Position, ProjectionName, ReadModel};
use sqlx::PgConnection;

async fn read_model() -> PostgresReadModel {
    let (pool, options) = postgres::fresh().await;
    PostgresReadModel::open_with(pool, options).await.unwrap()
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

/// A process that hangs in a batch must not block others forever.
#[tokio::test]
async fn the_server_ends_an_idle_batch() {
    let models = read_model().await;
    let asked: Work<PgConnection> = Box::new(|db| {
        Box::pin(async move {
            let limit = sqlx::query_scalar("SHOW idle_in_transaction_session_timeout").fetch_one(db).await;
            assert_eq!(limit.ok(), Some("30s".to_owned()));
            Ok(())
        })
    });
    let totals = ProjectionName::new("totals").unwrap();
    models.commit(Step::new(&totals, Position::ZERO, Position::new(1)), asked).await.unwrap();
    let after: String =
        sqlx::query_scalar("SHOW idle_in_transaction_session_timeout").fetch_one(models.pool()).await.unwrap();
    assert_eq!(after, "0", "the session setting is restored");
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

mod interventions {
    retell::intervention_conformance!(async { (super::read_model().await, ()) });
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

/// A function is replaced only if its recorded hash differs.
#[tokio::test]
async fn opening_installs_the_functions_that_differ() {
    let (pool, options) = postgres::fresh().await;
    drop(retell::PostgresStore::open_with(pool.clone(), options.clone()).await.unwrap());
    let text = async || -> Vec<(String, String)> {
        let all = "SELECT proname::text, pg_get_functiondef(oid) FROM pg_proc
            WHERE pronamespace = current_schema()::regnamespace ORDER BY proname, oid";
        sqlx::query_as(all).fetch_all(&pool).await.unwrap()
    };
    let current = text().await;
    for (stale, record) in [
        // A different body with the same signature.
        (
            "CREATE OR REPLACE FUNCTION version_fits(kind text, expected bigint, actual bigint) RETURNS boolean
                LANGUAGE sql IMMUTABLE AS 'SELECT true'",
            "UPDATE retell_functions SET text_hash = 0 WHERE name = 'version_fits'",
        ),
        // Different parameters: the old function is dropped, so that only the current one remains.
        (
            "DROP FUNCTION take_lane; CREATE FUNCTION take_lane(hint integer) RETURNS integer LANGUAGE sql AS 'SELECT hint'",
            "UPDATE retell_functions SET text_hash = 0, signature_hash = 0 WHERE name = 'take_lane'",
        ),
    ] {
        sqlx::raw_sql(stale).execute(&pool).await.unwrap();
        assert_ne!(text().await, current);
        drop(retell::PostgresStore::open_with(pool.clone(), options.clone()).await.unwrap());
        assert_ne!(text().await, current, "a function whose recorded hash is current is not replaced");
        sqlx::raw_sql(record).execute(&pool).await.unwrap();
        drop(retell::PostgresStore::open_with(pool.clone(), options.clone()).await.unwrap());
        assert_eq!(text().await, current);
    }
}
