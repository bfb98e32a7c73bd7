//! The load of a drill, what is measured during it, and what must hold at its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lapin::options::{BasicAckOptions, BasicGetOptions};
use lapin::{Connection, ConnectionProperties};
use retell::broker::rabbitmq::topology::{Channel, Topology};
use retell::status::{Status, Wait};
use retell::store::Append;
use retell::testing::store::{event, stream};
use retell::{
    AnyEvent, BoxError, CancellationToken, Envelope, EventReader, EventStore, ExpectedVersion, Position, Projection,
    ProjectionName, RabbitMqBroker, RabbitMqOptions, ReadModel, Relay, SqliteReadModel, SqliteStore, Worker,
    async_trait, rusqlite,
};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::{JoinHandle, block_in_place};
use tokio::time::{sleep, timeout};

use crate::certificates::Certificates;
use crate::rabbitmq::{self, RabbitMq};

/// The pause between two appends.
const PAUSE: Duration = Duration::from_millis(5);

/// Time limit for everything to arrive after a fault.
const PATIENCE: Duration = Duration::from_mins(5);

/// The queue of the channel.
const CHANNEL: &str = "all.events";

pub(crate) struct Drill {
    pub(crate) nodes: Vec<RabbitMq>,
    store: SqliteStore,
    frames: Published,
    announcements: Published,
    view: View,
    stop_appends: CancellationToken,
    appends: JoinHandle<()>,
    stop: CancellationToken,
    others: Vec<JoinHandle<()>>,
    _folder: TempDir,
    /// The nodes read their files when they start again.
    _certificates: Certificates,
}

/// The progress of a relay.
struct Published {
    position: watch::Receiver<Position>,
    status: watch::Receiver<Status>,
    /// The longest time without progress, in milliseconds.
    pause: Arc<AtomicU64>,
}

/// The progress of the projection.
struct View {
    models: SqliteReadModel,
    name: ProjectionName,
    /// The largest age of an event when it was applied, in milliseconds.
    lag: Arc<AtomicU64>,
}

/// Writes the position of each event into a table.
struct Followed(Arc<AtomicU64>);

#[async_trait]
impl Projection for Followed {
    const NAME: &'static str = "followed";
    type Event = AnyEvent;
    type Tx = rusqlite::Connection;

    async fn setup(&self, db: &mut rusqlite::Connection) -> Result<(), BoxError> {
        db.execute_batch("CREATE TABLE IF NOT EXISTS seen (number INTEGER PRIMARY KEY, position INTEGER)")?;
        Ok(())
    }

    async fn apply(&self, db: &mut rusqlite::Connection, event: Envelope<AnyEvent>) -> Result<(), BoxError> {
        let position = i64::try_from(event.position.get())?;
        db.prepare_cached("INSERT INTO seen (position) VALUES (?)")?.execute([position])?;
        let age = chrono::Utc::now() - event.recorded_at;
        self.0.fetch_max(u64::try_from(age.num_milliseconds()).unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }
}

impl Drill {
    pub(crate) async fn start() -> Self {
        let certificates = Certificates::new();
        let ports: Vec<u16> = (0..3).map(|_| rabbitmq::free_port()).collect();
        let settings: Vec<String> = ports.iter().map(|&port| certificates.settings(port)).collect();
        let nodes = block_in_place(|| RabbitMq::start_cluster_with(&settings));
        let folder = TempDir::new().unwrap();
        let store = SqliteStore::open(folder.path().join("log.db")).await.unwrap();
        let models = SqliteReadModel::open(folder.path().join("models.db")).await.unwrap();
        let broker = broker(&ports, &certificates);
        let declared = timeout(PATIENCE, async {
            // The plain ports, for which the start waits, may be open before those for TLS.
            while let Err(error) = broker.declare().await {
                assert!(error.is_transient(), "{error:#}");
                sleep(PAUSE).await;
            }
        });
        declared.await.unwrap();
        let relays = [
            Relay::new(store.clone(), broker.clone()).with_checkpoint(store.clone(), "frames"),
            Relay::announcing(store.clone(), broker.clone()).with_checkpoint(store.clone(), "announcements"),
        ];
        let [frames, announcements] = relays.each_ref().map(Published::of);
        let lag = Arc::default();
        let worker = Worker::new(Followed(Arc::clone(&lag)), store.clone(), models.clone()).with_broker(broker);
        let view = View { models, name: ProjectionName::new(Followed::NAME).unwrap(), lag };
        let (stop_appends, stop) = (CancellationToken::new(), CancellationToken::new());
        let appends = tokio::spawn(append(store.clone(), stop_appends.clone()));
        let mut others: Vec<_> = relays
            .into_iter()
            .map(|relay| {
                let stop = stop.clone();
                tokio::spawn(async move { relay.run(stop).await.unwrap() })
            })
            .collect();
        let stopped = stop.clone();
        others.push(tokio::spawn(async move { worker.run(stopped).await.unwrap() }));
        let drill = Self {
            nodes,
            store,
            frames,
            announcements,
            view,
            stop_appends,
            appends,
            stop,
            others,
            _folder: folder,
            _certificates: certificates,
        };
        drill.has_arrived(Position::new(1)).await;
        drill
    }

    /// Lets something happen to the cluster, waits until everything has arrived, and prints what it meant to a user.
    pub(crate) async fn phase(&mut self, name: &str, happens: impl FnOnce(&mut [RabbitMq])) {
        let started = Instant::now();
        self.begin();
        block_in_place(|| happens(&mut self.nodes));
        self.has_arrived(self.store.head().await.unwrap()).await;
        let longest = |time: &AtomicU64| Duration::from_millis(time.load(Ordering::Relaxed));
        eprintln!(
            "{name}: {:.0?}; frames paused for {:.1?}, announcements for {:.1?}, the view was {:.1?} behind",
            started.elapsed(),
            longest(&self.frames.pause),
            longest(&self.announcements.pause),
            longest(&self.view.lag),
        );
    }

    /// Lets something happen after which the cluster accepts nothing. The view still gets every event, and the relays say what they wait for.
    pub(crate) async fn without_frames(&mut self, happens: impl FnOnce(&mut [RabbitMq])) {
        self.begin();
        block_in_place(|| happens(&mut self.nodes));
        sleep(crate::AWAY).await;
        let head = self.store.head().await.unwrap();
        self.view.reaches(head).await;
        for relay in [&self.frames, &self.announcements] {
            relay.waits().await;
            assert!(*relay.position.borrow() < head);
        }
    }

    fn begin(&self) {
        for value in [&self.frames.pause, &self.announcements.pause, &self.view.lag] {
            value.store(0, Ordering::Relaxed);
        }
    }

    async fn has_arrived(&self, head: Position) {
        for relay in [&self.frames, &self.announcements] {
            relay.reaches(head).await;
        }
        self.view.reaches(head).await;
    }

    /// Stops the load, and checks that the view has every event once and in order, and that the channel has every event.
    pub(crate) async fn finish(mut self) {
        self.stop_appends.cancel();
        (&mut self.appends).await.unwrap();
        let head = self.store.head().await.unwrap();
        self.has_arrived(head).await;
        self.stop.cancel();
        for task in self.others {
            task.await.unwrap();
        }
        // A failed comparison would print thousands of numbers.
        assert!(self.view.positions().await.into_iter().eq(1..=head.get()), "the view differs from the log");
        announced(&self.nodes, head.get()).await;
    }
}

impl Published {
    fn of(relay: &Relay) -> Self {
        let (position, status, pause) = (relay.published(), relay.status(), Arc::<AtomicU64>::default());
        let (mut changes, longest) = (position.clone(), Arc::clone(&pause));
        tokio::spawn(async move {
            let mut last = Instant::now();
            while changes.changed().await.is_ok() {
                let pause = u64::try_from(last.elapsed().as_millis()).unwrap();
                longest.fetch_max(pause, Ordering::Relaxed);
                last = Instant::now();
            }
        });
        Self { position, status, pause }
    }

    async fn reaches(&self, head: Position) {
        let mut position = self.position.clone();
        let reached = timeout(PATIENCE, position.wait_for(|position| *position >= head)).await.map(drop);
        assert!(reached.is_ok(), "{} of {head}: {}", *self.position.borrow(), *self.status.borrow());
    }

    /// Waits until the relay says that it waits for the broker, and why.
    async fn waits(&self) {
        let is_waiting =
            |status: &Status| status.waits.iter().any(|waiting| waiting.on == Wait::Broker && waiting.error.is_some());
        let mut status = self.status.clone();
        let waited = timeout(PATIENCE, status.wait_for(is_waiting)).await.map(drop);
        assert!(waited.is_ok(), "published {}: {}", *self.position.borrow(), *self.status.borrow());
    }
}

impl View {
    async fn reaches(&self, head: Position) {
        let reached = timeout(PATIENCE, async {
            while self.models.checkpoint(&self.name).await.unwrap() < head {
                sleep(PAUSE).await;
            }
        });
        assert!(reached.await.is_ok(), "the view is at {:?} of {head}", self.models.checkpoint(&self.name).await);
    }

    /// Returns the positions in the order in which they were applied.
    async fn positions(&self) -> Vec<u64> {
        let read = |db: &rusqlite::Connection| {
            let mut query = db.prepare("SELECT position FROM seen ORDER BY number")?;
            query.query_map([], |row| row.get::<_, i64>(0))?.collect::<rusqlite::Result<Vec<_>>>()
        };
        let positions = self.models.query(read).await.unwrap();
        positions.into_iter().map(i64::cast_unsigned).collect()
    }
}

fn broker(ports: &[u16], certificates: &Certificates) -> RabbitMqBroker {
    let mut topology = Topology::new().with_channel(Channel::new(CHANNEL, ["#"]).with_kind("quorum"));
    topology.dead_letter_queue = topology.dead_letter_queue.with_kind("quorum");
    let addresses: Vec<String> = ports.iter().map(|port| format!("localhost:{port}")).collect();
    let options = RabbitMqOptions::new(&format!("amqps://guest:guest@{}/%2f", addresses.join(","))).unwrap();
    RabbitMqBroker::new(options.with_topology(topology).with_ca(certificates.authority.clone())).unwrap()
}

async fn append(store: SqliteStore, stop: CancellationToken) {
    while stop.run_until_cancelled(sleep(PAUSE)).await.is_some() {
        store.append(Append::new(stream("a"), ExpectedVersion::Any, vec![event("")])).await.unwrap();
    }
}

/// Takes all messages from the channel, and checks that it has every event up to `head`, in order.
async fn announced(nodes: &[RabbitMq], head: u64) {
    let url = format!("amqp://guest:guest@{}/%2f", nodes[2].address());
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let mut last = 0;
    while last < head {
        let message = channel.basic_get(CHANNEL.into(), BasicGetOptions::default()).await.unwrap();
        let message = message.unwrap_or_else(|| panic!("the channel ends at {last} of {head}"));
        let envelope: serde_json::Value = serde_json::from_slice(&message.data).unwrap();
        let position = envelope["position"].as_u64().unwrap();
        // A repetition is allowed, a gap is not.
        assert!(position <= last + 1, "{position} after {last}");
        last = last.max(position);
        message.ack(BasicAckOptions::default()).await.unwrap();
    }
}
