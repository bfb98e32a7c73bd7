//! Opens the read models of a log in any database.

/// Runs a block with the read models of a place.
macro_rules! with_models {
    ($place:expr, |$models:ident| $run:expr) => {
        match $place {
            $crate::databases::Place::Sqlite(path) => {
                let $models = retell::SqliteReadModel::open(path.with_extension("models")).await.unwrap();
                $run
            }
            $crate::databases::Place::Postgres(url) => {
                let $models = retell::PostgresReadModel::connect(url).await.unwrap();
                $run
            }
            $crate::databases::Place::MySql(url) => {
                let $models = retell::MySqlReadModel::connect(url).await.unwrap();
                $run
            }
        }
    };
}
pub(crate) use with_models;
