//! C6. A connection pooler in transaction mode works if it keeps prepared statements, and is refused otherwise. Needs
//! `PGBOUNCER`, the path of PgBouncer 1.21 or later. `PGBOUNCER_OLD` may have the path of an older one.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use futures::future::join_all;
use retell::store::postgres::{PostgresReadModel, PostgresStore};
use retell::store::{Append, EventStore, Filter, ReadModel, Replay, Step};
use retell::testing::store::{events, replayed, stream};
use retell::{Claim, EventReader, EventReaderExt, ExpectedVersion, IdempotencyKey, Position, ProjectionName};
use sqlx::{Acquire, Executor};
use tempfile::TempDir;

use crate::databases::{Database, Place};
use crate::notes;
use crate::programs::here_as_user;
use crate::server::{TIMEOUT, folder};
use crate::unfit::report;

/// A PgBouncer in transaction mode before one database.
struct Pooler {
    process: Child,
    url: String,
    _folder: TempDir,
}

impl Pooler {
    fn start(database: &Database, settings: &str) -> Self {
        let binary = env::var("PGBOUNCER").expect("PGBOUNCER is not set: tests/run.sh makes a PgBouncer");
        Self::start_program(&binary, database, settings)
    }

    fn start_program(binary: &str, database: &Database, settings: &str) -> Self {
        let Place::Postgres(server) = &database.place else { unreachable!("a file has no server") };
        let (host, name) = server.rsplit_once('@').unwrap().1.split_once('/').unwrap();
        let (host, server_port) = host.split_once(':').unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = folder();
        let config = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host={host} port={server_port} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 4\n\
             ignore_startup_parameters = extra_float_digits\n{settings}\n"
        );
        fs::write(&config, text).unwrap();
        let mut command = here_as_user("postgres", binary);
        let process = command.arg("-q").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < TIMEOUT, "PgBouncer does not start");
            thread::sleep(Duration::from_millis(10));
        }
        Self { process, url: format!("postgres://postgres@127.0.0.1:{port}/{name}"), _folder: folder }
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

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
