//! Projections in the append's own transaction: log and model agree under all faults. Needs `POSTGRES_URL` and `MYSQL_URL`.
//!
//! The test binary starts itself as the process to kill, so it has its own `main`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod claims;
#[path = "../support/databases.rs"]
mod databases;
mod killed;
#[path = "../support/notebook.rs"]
mod notebook;
mod state;
#[path = "../support/trials.rs"]
mod trials;

use libtest_mimic::Trial;
use retell::{
    MemoryReadModel, MemoryStore, MySqlReadModel, MySqlStore, PostgresReadModel, PostgresStore, SqliteReadModel,
    SqliteStore,
};

use claims::Noting;
use databases::{Database, Place};
use trials::{KINDS, block_on, empty, test};

fn main() {
    trials::run(tests, async |place: Place| killed::write(&place).await);
}

impl Noting for MemoryStore<Vec<String>> {
    type Models = MemoryReadModel<Vec<String>>;

    fn models(&self) -> MemoryReadModel<Vec<String>> {
        self.read_model()
    }
}

impl Noting for SqliteStore {
    type Models = SqliteReadModel;

    fn models(&self) -> SqliteReadModel {
        self.read_model()
    }
}

impl Noting for PostgresStore {
    type Models = PostgresReadModel;

    fn models(&self) -> PostgresReadModel {
        self.read_model()
    }
}

impl Noting for MySqlStore {
    type Models = MySqlReadModel;

    fn models(&self) -> MySqlReadModel {
        self.read_model()
    }
}

async fn postgres(database: &Database) -> PostgresStore {
    let Place::Postgres(url) = &database.place else { unreachable!("a PostgreSQL database") };
    PostgresStore::connect(url).await.unwrap()
}

async fn mysql(database: &Database) -> MySqlStore {
    let Place::MySql(url) = &database.place else { unreachable!("a MySQL database") };
    MySqlStore::connect(url).await.unwrap()
}

macro_rules! on_servers {
    ($($case:ident,)*) => {
        vec![$(
            test(concat!(stringify!($case), "_on_postgres"), || {
                block_on(async {
                    let database = Database::postgres().await;
                    claims::$case(postgres(&database).await).await;
                });
            }),
            test(concat!(stringify!($case), "_on_mysql"), || {
                block_on(async {
                    let database = Database::mysql().await;
                    claims::$case(mysql(&database).await).await;
                });
            }),
        )*]
    };
}

macro_rules! in_memory {
    ($($case:ident,)*) => {
        vec![$(test(concat!(stringify!($case), "_in_memory"), || {
            block_on(claims::$case(MemoryStore::with_read_model(MemoryReadModel::with_value(Vec::new()))));
        }),)*]
    };
}

macro_rules! on_sqlite {
    ($($case:ident,)*) => {
        vec![$(test(concat!(stringify!($case), "_on_sqlite"), || {
            block_on(async {
                let database = Database::sqlite();
                let Place::Sqlite(path) = &database.place else { unreachable!("a SQLite file") };
                claims::$case(SqliteStore::open(path).await.unwrap()).await;
            });
        }),)*]
    };
}

fn tests() -> Vec<Trial> {
    let mut tests = on_sqlite! {
        sqlite_applies_bypassing_appends_later,
    };
    tests.extend(in_memory! {
        bypassing_appends_are_applied_with_the_next,
        an_append_that_waits_for_itself_is_refused,
    });
    tests.extend(on_servers! {
        a_server_refuses_a_projection_behind_the_log,
    });
    tests.push(test("a_callers_transaction_commits_both_or_neither_on_postgres", || {
        block_on(async {
            let database = Database::postgres().await;
            claims::a_callers_transaction_commits_both_or_neither_on_postgres(postgres(&database).await).await;
        });
    }));
    tests.push(test("a_callers_transaction_commits_both_or_neither_on_mysql", || {
        block_on(async {
            let database = Database::mysql().await;
            claims::a_callers_transaction_commits_both_or_neither_on_mysql(mysql(&database).await).await;
        });
    }));
    tests.extend(states());
    for kind in KINDS {
        tests.push(test(format!("a_killed_writer_leaves_log_and_model_equal_on_{kind}"), move || {
            killed::log_and_model_agree_after_each_kill(&block_on(empty(kind)).place);
        }));
    }
    tests
}

fn states() -> Vec<Trial> {
    let sqlite = |database: &Database| {
        let Place::Sqlite(path) = &database.place else { unreachable!("a SQLite file") };
        path.clone()
    };
    vec![
        test("health_shows_the_lag_of_an_inline_projection_on_sqlite", move || {
            block_on(async {
                let database = Database::sqlite();
                let log = SqliteStore::open(sqlite(&database)).await.unwrap();
                state::health_shows_the_lag_of_an_inline_projection_on_sqlite(log).await;
            });
        }),
        test("an_inline_projection_is_never_behind_in_health_on_postgres", || {
            block_on(async {
                let database = Database::postgres().await;
                state::an_inline_projection_is_never_behind_in_health_on_postgres(postgres(&database).await).await;
            });
        }),
        test("an_inline_projection_is_never_behind_in_health_on_mysql", || {
            block_on(async {
                let database = Database::mysql().await;
                state::an_inline_projection_is_never_behind_in_health_on_mysql(mysql(&database).await).await;
            });
        }),
    ]
}
