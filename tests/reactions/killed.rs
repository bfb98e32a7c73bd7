//! A reacting process is killed repeatedly at any point between its steps. Notes it writes with its inbox are written once; external
//! effects happen at least once.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::marker::PhantomData;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::time::Duration;

use retell::store::Append;
use retell::testing::store::{event, stream, whole_log};
use retell::{
    AnyEvent, BoxError, Envelope, EventStore, ExpectedVersion, MySqlReadModel, PostgresReadModel, ProjectionName,
    Reaction, ReadModel, SqliteReadModel, StartFrom, Worker, async_trait,
};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::databases::Place;
use crate::notebook::{Notebook, Notes};
use crate::trials::{block_on, child};

const ROUNDS: u64 = 100;
const STREAMS: usize = 40;
const EVENTS_OF_EACH: usize = 60;

/// The task of a child process, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    place: Place,
    order: Order,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Order {
    OfTheLog,
    PerAggregate,
}

/// Writes a note and prints the event's id.
struct Telling<T>(PhantomData<fn(&mut T)>);

#[async_trait]
impl<T: Notes> Reaction for Telling<T> {
    const NAME: &'static str = "telling";
    type Event = AnyEvent;
    type Tx = T;

    async fn setup(&self, tx: &mut T) -> Result<(), BoxError> {
        tx.make().await
    }

    async fn react(&self, tx: &mut T, event: Envelope<AnyEvent>) -> Result<(), BoxError> {
        tx.note(event.id).await?;
        // A single write, so that lines are complete.
        std::io::stdout().write_all(format!("{}\n", event.id).as_bytes())?;
        Ok(())
    }
}

pub(crate) fn each_note_is_written_once(place: &Place, order: Order) {
    let job = Job { place: place.clone(), order };
    block_on(write_log(place));
    let mut told: HashMap<String, u32> = HashMap::new();
    for round in 0..ROUNDS {
        let (mut reacting, mut lines) = start(&job);
        // In some rounds the process is killed before it has begun.
        for _ in 0..round % 8 {
            let mut line = String::new();
            if lines.read_line(&mut line).unwrap() > 0 {
                *told.entry(line.trim().to_owned()).or_default() += 1;
            }
        }
        std::thread::sleep(Duration::from_micros(round * 37 % 1_500));
        reacting.kill().unwrap();
        let mut rest = String::new();
        lines.read_to_string(&mut rest).unwrap();
        for line in rest.lines() {
            *told.entry(line.to_owned()).or_default() += 1;
        }
        assert_eq!(reacting.wait().unwrap().signal(), Some(9), "the process ended without being killed");
    }
    assert!(told.len() < STREAMS * EVENTS_OF_EACH, "the last kill came after all events were handled");
    let (mut reacting, lines) = start(&job);
    for line in lines.lines().take_while(|line| line.as_ref().unwrap() != "done") {
        *told.entry(line.unwrap()).or_default() += 1;
    }
    reacting.kill().unwrap();
    reacting.wait().unwrap();
    let (events, notes) = block_on(read(place));
    let mut sorted = notes;
    sorted.sort();
    assert_eq!(sorted, events, "each event has one note");
    assert!(events.iter().all(|event| told.contains_key(event)), "each event was printed");
    assert_eq!(told.len(), events.len());
}

fn start(job: &Job) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut reacting = child(job).spawn().unwrap();
    let lines = BufReader::new(reacting.stdout.take().unwrap());
    (reacting, lines)
}

async fn write_log(place: &Place) {
    let store = place.open().await.unwrap().events;
    for number in 0..STREAMS {
        let events = (0..EVENTS_OF_EACH).map(|_| event("{}")).collect();
        store.append(Append::new(stream(&number.to_string()), ExpectedVersion::NoStream, events)).await.unwrap();
    }
    store.close().await.unwrap();
}

/// Returns the sorted ids of all events, and the notes.
async fn read(place: &Place) -> (Vec<String>, Vec<String>) {
    let store = place.open().await.unwrap().events;
    let mut events: Vec<_> = whole_log(&store).await.unwrap().iter().map(|event| event.event.id.to_string()).collect();
    events.sort();
    let notes = match place {
        Place::Sqlite(path) => SqliteReadModel::open(path.with_extension("models")).await.unwrap().notes().await,
        Place::Postgres(url) => PostgresReadModel::connect(url).await.unwrap().notes().await,
        Place::MySql(url) => MySqlReadModel::connect(url).await.unwrap().notes().await,
    };
    (events, notes)
}

/// Runs the reaction in the child process.
pub(crate) async fn react(job: &Job) {
    let store = job.place.open().await.unwrap().events;
    match &job.place {
        Place::Sqlite(path) => {
            run(store, SqliteReadModel::open(path.with_extension("models")).await.unwrap(), job).await;
        }
        Place::Postgres(url) => run(store, PostgresReadModel::connect(url).await.unwrap(), job).await,
        Place::MySql(url) => run(store, MySqlReadModel::connect(url).await.unwrap(), job).await,
    }
}

async fn run<M>(store: std::sync::Arc<dyn EventStore>, models: M, job: &Job)
where
    M: Notebook + ReadModel<Tx: Notes + Sized>,
{
    let end = whole_log(&store).await.unwrap().len() as u64;
    let worker = Worker::reaction(Telling(PhantomData), StartFrom::Beginning, store, models.clone());
    let worker = match job.order {
        Order::OfTheLog => worker,
        Order::PerAggregate => worker.with_order_per_aggregate(),
    };
    let name = ProjectionName::new("telling").unwrap();
    let done = async {
        while models.mark(&name).await.unwrap().position.get() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        std::io::stdout().write_all(b"done\n").unwrap();
        std::future::pending::<()>().await;
    };
    let (ended, ()) = tokio::join!(worker.run(CancellationToken::new()), done);
    ended.unwrap();
}
