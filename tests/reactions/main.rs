//! Reactions: writes with the inbox happen once and external effects at least once, under all faults. Needs `POSTGRES_URL` and `MYSQL_URL`.
//!
//! The test binary starts itself as the process to kill, so it has its own `main`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/databases.rs"]
mod databases;
mod effects;
mod killed;
#[path = "../support/notebook.rs"]
mod notebook;
#[path = "../support/trials.rs"]
mod trials;
#[path = "../support/workers.rs"]
mod workers;

use libtest_mimic::Trial;
use retell::{MemoryReadModel, MySqlReadModel, PostgresReadModel, SqliteReadModel};
use tokio::runtime::Builder;

use databases::{Database, Place};
use killed::{Job, Order};
use trials::{KINDS, block_on, empty, test};

fn main() {
    trials::run(tests, async |job: Job| killed::react(&job).await);
}

/// Creates a test for each kind of read model.
macro_rules! on_all {
    ($($case:ident,)*) => {
        vec![$(
            test(concat!(stringify!($case), "_in_memory"), || {
                block_on(effects::$case(MemoryReadModel::with_value(Vec::new())));
            }),
            test(concat!(stringify!($case), "_in_sqlite"), || {
                block_on(async { effects::$case(SqliteReadModel::in_memory().await.unwrap()).await });
            }),
            test(concat!(stringify!($case), "_in_postgres"), || {
                block_on(async {
                    let database = Database::postgres().await;
                    let Place::Postgres(url) = &database.place else { unreachable!("a PostgreSQL database") };
                    effects::$case(PostgresReadModel::connect(url).await.unwrap()).await;
                });
            }),
            test(concat!(stringify!($case), "_in_mysql"), || {
                block_on(async {
                    let database = Database::mysql().await;
                    let Place::MySql(url) = &database.place else { unreachable!("a MySQL database") };
                    effects::$case(MySqlReadModel::connect(url).await.unwrap()).await;
                });
            }),
        )*]
    };
}

fn tests() -> Vec<Trial> {
    let mut tests = on_all! {
        a_failing_event_parks_only_its_aggregate,
        a_failing_event_repeats_no_note_of_its_batch,
        a_checkpoint_moved_back_repeats_no_reaction,
        a_new_reaction_ignores_earlier_events,
        workers_share_a_reaction_in_aggregate_order,
        catch_up_reports_parked_events,
        catch_up_reports_parked_events_per_aggregate,
    };
    for kind in KINDS {
        for (order, text) in [(Order::OfTheLog, "in_log_order"), (Order::PerAggregate, "per_aggregate")] {
            tests.push(test(format!("kills_leave_each_note_written_once_on_{kind}_{text}"), move || {
                killed::each_note_is_written_once(&block_on(empty(kind)).place, order);
            }));
        }
    }
    tests.push(test("a_rate_limit_holds_over_any_second", || paused(effects::a_rate_limit_holds_over_any_second())));
    tests.push(test("a_stopped_reaction_leaves_the_rest_of_its_batch", || {
        paused(effects::a_stopped_reaction_leaves_the_rest_of_its_batch());
    }));
    tests
}

fn paused<T>(work: impl Future<Output = T>) -> T {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(work)
}
