//! Reactions: what they write with their inbox happens once, what they do outside at least once, whatever fails on the way. Needs
//! `POSTGRES_URL` and `MYSQL_URL`.
//!
//! The test binary starts itself again as the process to be killed, which is why it has a `main` of its own.

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

/// A test of each kind of read model.
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
                    let Place::Postgres(url) = &database.place else { unreachable!("it is one of PostgreSQL's") };
                    effects::$case(PostgresReadModel::connect(url).await.unwrap()).await;
                });
            }),
            test(concat!(stringify!($case), "_in_mysql"), || {
                block_on(async {
                    let database = Database::mysql().await;
                    let Place::MySql(url) = &database.place else { unreachable!("it is one of MySQL's") };
                    effects::$case(MySqlReadModel::connect(url).await.unwrap()).await;
                });
            }),
        )*]
    };
}

fn tests() -> Vec<Trial> {
    let mut tests = on_all! {
        a_failing_event_parks_its_aggregate_and_others_go_on,
        several_at_once_are_written_once_where_another_fails,
        a_checkpoint_that_is_set_back_repeats_nothing,
        one_that_begins_now_never_reacts_to_the_past,
        several_workers_share_it_in_the_order_of_aggregates,
        catch_up_reports_what_is_parked,
        catch_up_reports_what_is_parked_with_order_per_aggregate,
    };
    for kind in KINDS {
        for (order, text) in [(Order::OfTheLog, "in_log_order"), (Order::PerAggregate, "with_order_per_aggregate")] {
            tests.push(test(format!("killed_at_any_point_it_writes_each_note_once_on_{kind}_{text}"), move || {
                killed::what_is_written_with_the_inbox_is_written_once(&block_on(empty(kind)).place, order);
            }));
        }
    }
    tests.push(test("a_rate_is_kept_over_any_second", || paused(effects::a_rate_is_kept_over_any_second())));
    tests.push(test("one_that_is_told_to_stop_leaves_the_rest_of_the_batch", || {
        paused(effects::one_that_is_told_to_stop_leaves_the_rest_of_the_batch());
    }));
    tests
}

fn paused<T>(work: impl Future<Output = T>) -> T {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(work)
}
