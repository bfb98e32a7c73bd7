//! A process that appends through an inline projection is killed repeatedly: log and model always agree.

use std::io::{BufRead, BufReader, Write};
use std::marker::PhantomData;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use retell::inline::inline;
use retell::store::Append;
use retell::testing::store::{event, stream, whole_log};
use retell::{ExpectedVersion, MySqlStore, PostgresStore, SqliteStore};
use tokio::task::JoinSet;

use crate::claims::{Noted, Noting};
use crate::databases::Place;
use crate::notebook::Notebook;
use crate::trials::{block_on, child};

const ROUNDS: u64 = 25;

pub(crate) fn log_and_model_agree_after_each_kill(place: &Place) {
    let mut events = 0;
    for round in 0..ROUNDS {
        let mut writer = child(place).spawn().unwrap();
        let mut lines = BufReader::new(writer.stdout.take().unwrap());
        for _ in 0..=round % 5 * 8 {
            let mut line = String::new();
            assert_ne!(lines.read_line(&mut line).unwrap(), 0, "the writer writes until it is killed");
        }
        std::thread::sleep(Duration::from_micros(round * 137 % 2_000));
        writer.kill().unwrap();
        assert_eq!(writer.wait().unwrap().signal(), Some(9), "the writer ended without being killed");
        events = block_on(check(place));
    }
    assert!(events > 100, "only {events} events were written");
}

async fn check(place: &Place) -> usize {
    match place {
        Place::Sqlite(path) => settled(SqliteStore::open(path).await.unwrap()).await,
        Place::Postgres(url) => settled(PostgresStore::connect(url).await.unwrap()).await,
        Place::MySql(url) => settled(MySqlStore::connect(url).await.unwrap()).await,
    }
}

/// Waits until log and model agree: a server may still execute the last statement of a killed process.
async fn settled<S: Noting>(log: S) -> usize {
    let began = Instant::now();
    loop {
        let mut events: Vec<_> =
            whole_log(&log).await.unwrap().iter().map(|event| event.event.id.to_string()).collect();
        let mut notes = log.models().notes().await;
        events.sort();
        notes.sort();
        if events == notes {
            log.close().await.unwrap();
            return events.len();
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{} events, {} notes", events.len(), notes.len());
    }
}

/// Appends in the child process until it is killed.
pub(crate) async fn write(place: &Place) {
    match place {
        Place::Sqlite(path) => append(SqliteStore::open(path).await.unwrap()).await,
        Place::Postgres(url) => append(PostgresStore::connect(url).await.unwrap()).await,
        Place::MySql(url) => append(MySqlStore::connect(url).await.unwrap()).await,
    }
}

async fn append<S: Noting>(log: S) {
    let log = inline(log, Noted(PhantomData)).await.unwrap();
    let mut tasks = JoinSet::new();
    for task in 0..8 {
        let log = log.clone();
        tasks.spawn(async move {
            for number in 0_u64.. {
                let events = vec![event("1"), event("2")];
                let append = Append::new(stream(&((task + number) % 11).to_string()), ExpectedVersion::Any, events);
                log.append(append).await.unwrap();
                // A single write, so that lines are complete.
                std::io::stdout().write_all(b"ok\n").unwrap();
            }
        });
    }
    tasks.join_next().await.unwrap().unwrap();
}
