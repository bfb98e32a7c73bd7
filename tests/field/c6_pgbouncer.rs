//! C6. A connection pooler in transaction mode works if it keeps prepared statements, and is refused otherwise. Needs
//! `PGBOUNCER`, the path of PgBouncer 1.21 or later. `PGBOUNCER_OLD` may have the path of an older one.

use std::env;

use futures::future::join_all;
use retell::store::postgres::{PostgresReadModel, PostgresStore};
use retell::store::{Append, EventStore, Filter, ReadModel, Replay, Step};
use retell::testing::store::{events, replayed, stream};
use retell::{Claim, EventReader, EventReaderExt, ExpectedVersion, IdempotencyKey, Position, ProjectionName};
use sqlx::{Acquire, Executor};

use crate::databases::Database;
use crate::notes;
use crate::pgbouncer::Pooler;
use crate::unfit::report;

#[tokio::test(flavor = "multi_thread")]
async fn pooler_that_keeps_prepared_statements_works() {
    let database = Database::postgres().await;
    let pooler = Pooler::start(&database, "max_prepared_statements = 100");
    let stores = join_all((0..3).map(|_| PostgresStore::connect(&pooler.url))).await;
    let stores: Vec<_> = stores.into_iter().map(Result::unwrap).collect();
    let models = PostgresReadModel::connect(&pooler.url).await.unwrap();
    let write = async |task: usize| {
        let store = &stores[task % 3];
        for number in 0..20_u64 {
            let id = format!("{task}-{number}");
            let append = Append::new(stream(&id), ExpectedVersion::NoStream, events(1 + number % 2));
            let append = match number % 4 {
                1 => append.with_key(IdempotencyKey::new(&*id).unwrap()),
                2 => append.with_claims([Claim::reserve("email", &id).unwrap()]),
                _ => append,
            };
            store.append(append).await.unwrap();
            let read = replayed(store, &stream(&id), Replay::ALL).await.unwrap();
            assert_eq!(read.events.len() as u64, 1 + number % 2);
            store.head().await.unwrap();
        }
    };
    join_all((0..16).map(write)).await;
    let mut own = stores[0].pool().acquire().await.unwrap();
    let mut tx = own.begin().await.unwrap();
    tx.execute("CREATE TABLE notes (text text)").await.unwrap();
    let append = Append::new(stream("with rows"), ExpectedVersion::NoStream, events(1));
    stores[0].append_in(&mut tx, &append).await.unwrap();
    tx.commit().await.unwrap();
    drop(own);
    let page = stores[1].read_all(Position::ZERO, 10_000, &Filter::all()).await.unwrap();
    assert_eq!(page.events.len(), 16 * 30 + 1);
    let name = ProjectionName::new("totals").unwrap();
    for position in 0..20 {
        let step = Step::new(&name, Position::new(position), Position::new(position + 1));
        models.commit(step, Box::new(|_| Box::pin(async { Ok(()) }))).await.unwrap();
    }
    assert_eq!(stores[2].health().await.unwrap().projections, [(name, 16 * 30 + 1 - 20)]);
    for store in stores {
        store.close().await.unwrap();
    }
    models.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pooler_that_loses_prepared_statements_is_refused() {
    let database = Database::postgres().await;
    for settings in ["", "server_round_robin = 1", "default_pool_size = 20", "default_pool_size = 1"] {
        is_refused(&Pooler::start(&database, &format!("max_prepared_statements = 0\n{settings}"))).await;
    }
}

/// PgBouncer before 1.21 has no setting for prepared statements.
#[tokio::test(flavor = "multi_thread")]
async fn old_pooler_is_refused() {
    let Ok(binary) = env::var("PGBOUNCER_OLD") else {
        return notes::show("PgBouncer before 1.21 is tried only if PGBOUNCER_OLD has its path");
    };
    let database = Database::postgres().await;
    is_refused(&Pooler::start_program(&binary, &database, "")).await;
}

/// Each process that opens the log or read models is told what to do.
async fn is_refused(pooler: &Pooler) {
    // Without the test at the start, several of these would open: it depends on the sessions that the pooler hands out.
    for _ in 0..6 {
        let store = PostgresStore::connect(&pooler.url).await.unwrap_err();
        let models = PostgresReadModel::connect(&pooler.url).await.unwrap_err();
        for error in [store, models] {
            let advice = "use PgBouncer 1.21 or later with max_prepared_statements";
            assert!(report(&error).contains(advice), "{error:#}");
        }
    }
}
