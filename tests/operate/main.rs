//! Answers for operators, on every store: a planted situation for each answer. Needs `POSTGRES_URL` and `MYSQL_URL`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod chain;
#[path = "../support/databases.rs"]
mod databases;
mod held;
mod limits;
mod planted;
mod prune;
mod retired;
mod stream;
mod why;

use retell::store::{By, ProcessorKind, ProjectionState, RegisteredProcessor};
use retell::{ErrorKind, Filter, operate};
use serde_json::Value;

use databases::{Database, Place};
use planted::{Log, Models};

/// Runs cases on a log and its read models in every kind of store.
macro_rules! on_each_store {
    ($($case:path as $name:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $name() {
                let log = retell::MemoryStore::new();
                let models = log.read_model();
                $case(&log, &models).await;
            })*
        }

        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                let database = super::Database::sqlite();
                let (log, models) = super::sqlite_of(&database).await;
                $case(&log, &models).await;
                retell::EventStore::close(&log).await.unwrap();
                retell::ReadModel::close(&models).await.unwrap();
            })*
        }

        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                let database = super::Database::postgres().await;
                let (log, models) = super::postgres_of(&database).await;
                $case(&log, &models).await;
                retell::EventStore::close(&log).await.unwrap();
            })*
        }

        mod mysql {
            $(#[tokio::test]
            async fn $name() {
                let database = super::Database::mysql().await;
                let (log, models) = super::mysql_of(&database).await;
                $case(&log, &models).await;
                retell::EventStore::close(&log).await.unwrap();
            })*
        }
    };
}

on_each_store!(
    super::report_has_the_planted_situation as report_has_the_planted_situation,
    super::empty_log_has_an_empty_report as empty_log_has_an_empty_report,
    super::view_of_one_generation_is_listed as view_of_one_generation_is_listed,
    super::limits::number_beyond_its_limit_is_a_lower_bound as number_beyond_its_limit_is_a_lower_bound,
    super::why::each_processor_tells_what_happened as each_processor_tells_what_happened,
    super::why::order_per_aggregate_is_asked_by_version as order_per_aggregate_is_asked_by_version,
    super::why::unknown_event_and_processor_are_told_apart as unknown_event_and_processor_are_told_apart,
    super::stream::rows_have_their_payloads_as_json as rows_have_their_payloads_as_json,
    super::stream::rows_end_at_the_limit as rows_end_at_the_limit,
    super::held::stream_lists_the_values_it_holds as stream_lists_the_values_it_holds,
    super::chain::request_is_a_tree_of_causes as request_is_a_tree_of_causes,
    super::chain::strange_causes_make_roots as strange_causes_make_roots,
    super::chain::long_request_ends_at_the_limit as long_request_ends_at_the_limit,
    super::prune::pruned_reaction_handles_nothing_again as pruned_reaction_handles_nothing_again,
    super::prune::running_worker_learns_the_new_start as running_worker_learns_the_new_start,
    super::prune::rows_that_a_reaction_needs_stay as rows_that_a_reaction_needs_stay,
    super::prune::retired_reaction_handles_nothing_again as retired_reaction_handles_nothing_again,
    super::prune::keys_of_today_are_never_deleted as keys_of_today_are_never_deleted,
    super::retired::retired_processor_needs_no_attention as retired_processor_needs_no_attention,
);

async fn sqlite_of(database: &Database) -> (retell::SqliteStore, retell::SqliteReadModel) {
    let Place::Sqlite(path) = &database.place else { unreachable!("a SQLite file") };
    (
        retell::SqliteStore::open(path).await.unwrap(),
        retell::SqliteReadModel::open(path.with_extension("models")).await.unwrap(),
    )
}

async fn postgres_of(database: &Database) -> (retell::PostgresStore, retell::PostgresReadModel) {
    let Place::Postgres(url) = &database.place else { unreachable!("a database on PostgreSQL") };
    (retell::PostgresStore::connect(url).await.unwrap(), retell::PostgresReadModel::connect(url).await.unwrap())
}

async fn mysql_of(database: &Database) -> (retell::MySqlStore, retell::MySqlReadModel) {
    let Place::MySql(url) = &database.place else { unreachable!("a database on MySQL") };
    (retell::MySqlStore::connect(url).await.unwrap(), retell::MySqlReadModel::connect(url).await.unwrap())
}

/// Replaces what differs between two runs: times of the clock and ages.
fn steady(value: &mut Value) {
    match value {
        Value::Object(entries) => {
            for (name, value) in entries {
                match name.as_str() {
                    "recorded_at" | "ends_at" | "since" if value.is_string() => {
                        assert!(value.as_str().unwrap().ends_with('Z'), "UTC: {value}");
                        *value = "<time>".into();
                    }
                    "seconds" | "oldest_seconds" if value.is_u64() => *value = "<seconds>".into(),
                    _ => steady(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(steady),
        _ => {}
    }
}

async fn report_has_the_planted_situation(log: &impl Log, models: &impl Models) {
    planted::situation(log, models).await;
    let report = operate::status(log, models).await.unwrap();
    let mut json = serde_json::to_value(&report).unwrap();
    assert_eq!(serde_json::from_value::<operate::Report>(json.clone()).unwrap(), report);
    json.as_object_mut().unwrap().remove("at").unwrap();
    steady(&mut json);
    let golden: Value = serde_json::from_str(include_str!("status.json")).unwrap();
    assert_eq!(json, golden, "{json:#}");
}

async fn empty_log_has_an_empty_report(log: &impl Log, models: &impl Models) {
    let report = operate::status(log, models).await.unwrap();
    assert_eq!((report.head.position.get(), report.head.recorded_at, report.unsequenced), (0, None, 0));
    assert!(report.relays.unwrap().items.is_empty() && report.processors.items.is_empty());
    assert!(report.views.is_empty() && report.deadlines.is_empty());
    assert!(operate::why(log, models, retell::Position::new(1), &planted::name("totals")).await.unwrap().is_none());
}

/// A view that was never rebuilt is one by its kind, not by its name.
async fn view_of_one_generation_is_listed(log: &impl Log, models: &impl Models) {
    for (name, kind) in [("orders", ProcessorKind::View), ("totals", ProcessorKind::Projection)] {
        let own = RegisteredProcessor::new(kind, Filter::all(), planted::then(), "shop");
        models.register_processor(&planted::name(name), &own).await.unwrap();
    }
    let report = operate::status(log, models).await.unwrap();
    let kinds: Vec<_> = report.processors.items.iter().map(|one| (one.name.as_str(), one.kind)).collect();
    assert_eq!(kinds, [("orders", Some(ProcessorKind::View)), ("totals", Some(ProcessorKind::Projection))]);
    let [view] = &report.views[..] else { panic!("{:?}", report.views) };
    assert_eq!((view.view.as_str(), view.live.get(), view.generations.len()), ("orders", 1, 1));
}

/// Sets the states that a worker never sets by hand.
async fn states_are_reported(log: &impl Log, models: &impl Models, place: &Place, table: &str) {
    planted::situation(log, models).await;
    place.run(&format!("UPDATE {table} SET state = 'deleting' WHERE projection = 'lost'")).await;
    let is_server = !matches!(place, Place::Sqlite(_));
    if is_server {
        place.run(&format!("UPDATE {table} SET state = 'inline' WHERE projection = 'totals'")).await;
    }
    let report = operate::status(log, models).await.unwrap();
    let of = |name: &str| report.processors.items.iter().find(|one| one.name.as_str() == name).unwrap();
    let lost = of("lost");
    assert_eq!((lost.state, lost.lag, lost.history_changed), (ProjectionState::Deleting, None, false));
    let refused = operate::retire(models, &planted::name("lost"), &By::new("ada", "replaced")).await.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::Invalid(_)), "{refused}");
    let why = operate::why_each(log, models, retell::Position::new(3)).await.unwrap().unwrap();
    let answer = |name: &str| why.items.iter().find(|one| one.processor.as_str() == name).unwrap().answer.clone();
    assert_eq!(answer("lost"), operate::Answer::Deleting);
    if is_server {
        let totals = of("totals");
        assert_eq!((totals.state, totals.checkpoint.get()), (ProjectionState::Inline, 6));
        assert_eq!(totals.lag.map(|lag| (lag.events, lag.seconds)), Some((0, 0)));
        assert_eq!(answer("totals"), operate::Answer::Applied);
    }
}

#[tokio::test]
async fn states_in_sqlite_are_reported() {
    let database = Database::sqlite();
    let (log, models) = sqlite_of(&database).await;
    let Place::Sqlite(path) = &database.place else { unreachable!("a SQLite file") };
    states_are_reported(&log, &models, &Place::Sqlite(path.with_extension("models")), "retell_checkpoints").await;
}

#[tokio::test]
async fn states_in_postgres_are_reported() {
    let database = Database::postgres().await;
    let (log, models) = postgres_of(&database).await;
    states_are_reported(&log, &models, &database.place, "retell.checkpoints").await;
}

#[tokio::test]
async fn states_in_mysql_are_reported() {
    let database = Database::mysql().await;
    let (log, models) = mysql_of(&database).await;
    states_are_reported(&log, &models, &database.place, "retell_checkpoints").await;
}
