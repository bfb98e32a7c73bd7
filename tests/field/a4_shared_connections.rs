//! A4. A program that is written in the shortest way does not wait for itself, however few connections it has.

use std::marker::PhantomData;
use std::time::Duration;

use retell::app::Running;
use retell::prelude::*;
use retell::rusqlite::Connection;
use retell::store::ViewStore;
use retell::{CommandError, DeadlineStore, EventReaderExt, RelayStore, SqliteReadModel};
use sqlx::mysql::MySqlPoolOptions;
use sqlx::postgres::PgPoolOptions;
use tokio::time::{sleep, timeout};

use crate::counter::{Add, Counter};
use crate::databases::{Database, Place};

const PATIENCE: Duration = Duration::from_mins(5);

/// Each processor handles an event of each of them.
const THINGS: usize = 4;

#[derive(Event, Debug)]
#[event("thing.came")]
struct Came;

/// A view with a name of its own.
struct Seen(String);

impl View for Seen {
    const NAME: &'static str = "seen";
    type Event = Came;
    type State = u64;

    fn name(&self) -> &str {
        &self.0
    }

    fn key(&self, event: &Envelope<Came>) -> Option<String> {
        Some(event.stream.aggregate_id().to_string())
    }

    fn apply(&self, seen: &mut u64, _: Envelope<Came>) {
        *seen += 1;
    }
}

/// A reaction that executes a command within its transaction.
struct Reacting<T: ?Sized> {
    name: String,
    counters: Repository<Counter>,
    tx: PhantomData<fn(&T)>,
}

#[async_trait]
impl<T: Send + ?Sized + 'static> Reaction for Reacting<T> {
    const NAME: &'static str = "reacting";
    type Event = Came;
    type Tx = T;

    fn name(&self) -> &str {
        &self.name
    }

    async fn react(&self, _: &mut T, event: Envelope<Came>) -> Result<(), BoxError> {
        let id = format!("{}-{}", self.name, event.stream.aggregate_id());
        self.counters.execute_with(id, Add(vec![1]), Context::caused_by(&event)).await?;
        Ok(())
    }
}

const NAMES: [&str; 17] =
    ["p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8", "p9", "p10", "p11", "p12", "p13", "p14", "p15", "p16"];

struct Commanding<const N: usize>(Repository<Counter>);

#[async_trait]
impl<const N: usize> Process for Commanding<N> {
    const NAME: &'static str = NAMES[N];
    type Event = Came;
    type State = ();
    type Command = ();

    fn key(&self, event: &Envelope<Came>) -> Option<AggregateId> {
        Some(event.stream.aggregate_id().clone())
    }

    fn on_event(&self, (): &mut (), _: &Envelope<Came>, effects: &mut Effects<()>) {
        effects.send(());
    }

    async fn execute(&self, key: &AggregateId, (): (), context: Context) -> Result<(), CommandFailure> {
        self.0.execute_with(format!("{}-{key}", NAMES[N]), Add(vec![1]), context).await?;
        Ok(())
    }
}

macro_rules! processes {
    ($app:expr, $counters:expr, $($number:literal)*) => {
        $app$(.process(Commanding::<$number>($counters.clone())))*
    };
}

const VIEWS: usize = 17;
const REACTIONS: usize = 16;

/// Fifty processors on `models`.
fn fifty<S, M>(store: &S, models: &M, counters: &Repository<Counter>) -> App<M>
where
    S: EventStore + RelayStore + Clone,
    M: ViewStore + DeadlineStore + Clone,
{
    let mut app = App::new(store.clone(), models.clone());
    for number in 0..VIEWS {
        app = app.view(Seen(format!("v{number}")));
    }
    for number in 0..REACTIONS {
        let reacting = Reacting::<M::Tx> { name: format!("r{number}"), counters: counters.clone(), tx: PhantomData };
        app = app.reaction(reacting, StartFrom::Beginning);
    }
    processes!(app, counters, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16)
}

/// Counts the commands that took effect.
async fn commands(store: &impl EventStore) -> usize {
    let counted = store.newest(&"counter.added".try_into().unwrap(), 1_000).await.unwrap();
    counted.iter().filter(|event| event.stream.aggregate_id().as_str() != "outside").count()
}

/// All processors handle all events, and commands from outside are executed meanwhile.
async fn get_through<S, M>(store: S, models: M)
where
    S: EventStore + RelayStore + Clone,
    M: ViewStore + DeadlineStore + Clone,
{
    let counters = Repository::<Counter>::new(store.clone());
    for thing in 0..THINGS {
        store.append_events(("thing", thing.to_string()), ExpectedVersion::Any, [Came]).await.unwrap();
    }
    let running: Running = fifty(&store, &models, &counters).start();
    let handled = async {
        let (mut busy, mut outside) = (0, 0);
        while commands(&store).await < (REACTIONS + NAMES.len()) * THINGS {
            // A command may have to wait for its connection longer than it wants to, and is executed again.
            match counters.execute("outside", Add(vec![1])).await {
                Ok(_) => outside += 1,
                Err(CommandError::Transient(_)) => busy += 1,
                Err(error) => panic!("{error:#}"),
            }
            sleep(Duration::from_millis(20)).await;
        }
        for view in 0..VIEWS {
            let seen = Views::new(&Seen(format!("v{view}")), models.clone());
            for thing in 0..THINGS {
                while seen.get(thing.to_string()).await.unwrap() != Some(1) {
                    sleep(Duration::from_millis(20)).await;
                }
            }
        }
        (outside, busy)
    };
    let waited = timeout(PATIENCE, handled).await;
    let Ok((outside, busy)) = waited else {
        panic!("{} commands; {}", commands(&store).await, *running.health().borrow())
    };
    assert!(outside > 0, "no command from outside was executed, {busy} were not");
    assert_eq!(commands(&store).await, (REACTIONS + NAMES.len()) * THINGS, "each command once");
    running.stop().await.unwrap();
}

async fn get_through_on_postgres(connections: u32) {
    let database = Database::postgres().await;
    let Place::Postgres(url) = &database.place else { unreachable!() };
    let pool = PgPoolOptions::new().max_connections(connections).connect(url).await.unwrap();
    let store = PostgresStore::open(pool).await.unwrap();
    get_through(store.clone(), store.read_model()).await;
}

async fn get_through_on_mysql(connections: u32) {
    let database = Database::mysql().await;
    let Place::MySql(url) = &database.place else { unreachable!() };
    let pool = MySqlPoolOptions::new().max_connections(connections).connect(url).await.unwrap();
    let store = MySqlStore::open(pool).await.unwrap();
    get_through(store.clone(), store.read_model()).await;
}

macro_rules! pools {
    ($($name:ident: $run:ident($connections:literal)),* $(,)?) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            $run($connections).await;
        })*
    };
}

pools! {
    fifty_processors_on_one_connection_of_postgres: get_through_on_postgres(1),
    fifty_processors_on_two_connections_of_postgres: get_through_on_postgres(2),
    fifty_processors_on_ten_connections_of_postgres: get_through_on_postgres(10),
    fifty_processors_on_one_connection_of_mysql: get_through_on_mysql(1),
    fifty_processors_on_two_connections_of_mysql: get_through_on_mysql(2),
    fifty_processors_on_ten_connections_of_mysql: get_through_on_mysql(10),
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_processors_with_a_file_of_their_own() {
    let database = Database::sqlite();
    let Place::Sqlite(path) = &database.place else { unreachable!() };
    let store = SqliteStore::open(path).await.unwrap();
    get_through(store, SqliteReadModel::open(path.with_file_name("models.db")).await.unwrap()).await;
}

/// A file has one writer. A handler that writes to the log within its own transaction would wait for itself, and is told so at once.
#[tokio::test(flavor = "multi_thread")]
async fn handler_that_writes_to_its_own_file_is_refused() {
    let database = Database::sqlite();
    let Place::Sqlite(path) = &database.place else { unreachable!() };
    let store = SqliteStore::open(path).await.unwrap();
    store.append_events(("thing", "1"), ExpectedVersion::Any, [Came]).await.unwrap();
    let (counters, models) = (Repository::<Counter>::new(store.clone()), store.read_model());
    let reacting = Reacting::<Connection> { name: "r".into(), counters: counters.clone(), tx: PhantomData };
    let reacting = Worker::reaction(reacting, StartFrom::Beginning, store.clone(), models.clone());
    let commanding = ProcessManager::new(Commanding::<0>(counters.clone()), store.clone(), models);
    let refused = async {
        let (reacted, commanded) = (reacting.catch_up().await.unwrap(), commanding.catch_up().await.unwrap());
        for parked in [reacted.parked, commanded.parked] {
            let [parked] = &*parked else { panic!("{parked:?}") };
            assert!(parked.error.contains("file of its own"), "{}", parked.error);
        }
    };
    timeout(Duration::from_mins(5), refused).await.expect("the handlers are told at once");
    counters.execute("outside", Add(vec![1])).await.unwrap();
    assert_eq!(commands(&store).await, 0);
}
