//! Of the relays of one name one leads, whatever happens to it; and what it holds and confirms meanwhile. Time is tokio's own and passes when
//! nothing else is left to do, so each test says exactly how long things take.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::ready;
use futures::{FutureExt, TryFutureExt};
use retell::broker::frame::{Frame, ReceivedFrame};
use retell::broker::{Announced, Announcer, Confirm, Publisher};
use retell::error::{Error, Result};
use retell::event::RecordedEvent;
use retell::id::{CommitId, Fence};
use retell::relay::RelayOptions;
use retell::store::{Append, PAGE_BYTES, Page, Query, RelayStore, Replay, Visitor};
use retell::testing::store::{event, events, stream};
use retell::{
    ErrorKind, EventReader, EventStore, ExpectedVersion, MemoryStore, Position, Relay, StreamId, async_trait,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const LEASE: Duration = Duration::from_secs(10);

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_mins(10);

async fn add(store: &MemoryStore, count: u64) {
    store.append(Append::new(stream("a"), ExpectedVersion::Any, events(count))).await.unwrap();
}

/// The broker of all relays of a test: notes who sent what, and confirms while it is open.
#[derive(Debug, Clone)]
struct Broker {
    sent: Arc<Mutex<Vec<(&'static str, u64)>>>,
    open: watch::Sender<bool>,
    /// Whether it takes anything.
    reachable: watch::Sender<bool>,
    /// So many calls fail first.
    failures: Arc<AtomicUsize>,
    /// So many confirms fail.
    unconfirmed: Arc<AtomicUsize>,
}

impl Broker {
    fn new() -> Self {
        Self {
            sent: Arc::default(),
            open: watch::Sender::new(true),
            reachable: watch::Sender::new(true),
            failures: Arc::default(),
            unconfirmed: Arc::default(),
        }
    }

    fn link(&self, relay: &'static str) -> Link {
        Link { broker: self.clone(), relay }
    }

    fn sent(&self) -> Vec<(&'static str, u64)> {
        self.sent.lock().unwrap().clone()
    }

    fn sent_by(&self, relay: &str) -> Vec<u64> {
        self.sent().into_iter().filter(|(by, _)| *by == relay).map(|(_, position)| position).collect()
    }

    async fn has(&self, count: usize) {
        until(async || self.sent().len() >= count).await;
    }
}

async fn until(reached: impl AsyncFn() -> bool) {
    let poll = async {
        while !reached().await {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, poll).await.expect("it gets there");
}

/// One relay's connection.
#[derive(Debug, Clone)]
struct Link {
    broker: Broker,
    relay: &'static str,
}

impl Link {
    async fn take(&self, positions: impl IntoIterator<Item = u64>) -> Result<Confirm> {
        let broker = &self.broker;
        one_less(&broker.failures)?;
        broker.reachable.subscribe().wait_for(|reachable| *reachable).await.unwrap();
        broker.sent.lock().unwrap().extend(positions.into_iter().map(|position| (self.relay, position)));
        let broker = broker.clone();
        let confirmed = async move {
            broker.open.subscribe().wait_for(|open| *open).await.unwrap();
            one_less(&broker.unconfirmed)
        };
        Ok(confirmed.boxed())
    }
}

/// Fails while there are any left.
fn one_less(failures: &AtomicUsize) -> Result<()> {
    match failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
        Ok(_) => Err(ErrorKind::Transient("reach the broker".into()).into()),
        Err(_) => Ok(()),
    }
}

#[async_trait]
impl Publisher for Link {
    async fn publish(&self, frames: &[Frame]) -> Result<Confirm> {
        let received = frames.iter().map(|frame| ReceivedFrame::parse(frame.body().clone()).unwrap().events().unwrap());
        self.take(received.flatten().map(|event| event.position.get()).collect::<Vec<_>>()).await
    }
}

#[async_trait]
impl Announcer for Link {
    async fn announce(&self, events: &[RecordedEvent]) -> Result<Confirm<Announced>> {
        let confirm = self.take(events.iter().map(|event| event.position.get())).await?;
        let unroutable = events.iter().filter(|event| event.position.get() % 2 == 1).count() as u64;
        Ok(confirm.map_ok(move |()| Announced::new(unroutable)).boxed())
    }
}

struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<()>>,
}

impl Running {
    fn start(relay: Relay) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let stop = stop.clone();
            async move { relay.run(stop).await }
        });
        Self { stop, task }
    }

    /// Gracefully.
    async fn stop(self) -> Result<()> {
        self.stop.cancel();
        timeout(PATIENCE, self.task).await.expect("it ends").unwrap()
    }

    /// As a killed process ends: without another word.
    async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

fn relay(store: &MemoryStore, keeper: impl RelayStore, link: Link) -> Relay {
    let options = RelayOptions::new().with_lease(LEASE);
    Relay::new(store.clone(), link).with_checkpoint(keeper, "main").with_options(options)
}

/// A relay that leads, since nobody else is there, and one that stands by.
async fn two(store: &MemoryStore, broker: &Broker) -> (Running, Running) {
    add(store, 1).await;
    let first = Running::start(relay(store, store.clone(), broker.link("first")));
    broker.has(1).await;
    (first, Running::start(relay(store, store.clone(), broker.link("second"))))
}

#[tokio::test(start_paused = true)]
async fn of_two_relays_one_publishes_for_as_long_as_it_lives() {
    let (store, broker) = (MemoryStore::new(), Broker::new());
    let (first, second) = two(&store, &broker).await;
    for _ in 0..20 {
        // Idle or not, it prolongs its lease.
        sleep(LEASE / 3).await;
        add(&store, 2).await;
        sleep(LEASE / 3).await;
        assert_eq!(store.acquire_lease("main", Uuid::nil(), LEASE).await.unwrap(), None);
    }
    assert_eq!(broker.sent_by("first"), (1..=41).collect::<Vec<_>>());
    assert!(broker.sent_by("second").is_empty());
    first.stop().await.unwrap();
    second.stop().await.unwrap();
    assert_eq!(store.position("main").await.unwrap(), Position::new(41));
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_is_stopped_hands_over_at_once_and_nothing_is_sent_twice() {
    let (store, broker) = (MemoryStore::new(), Broker::new());
    let (first, second) = two(&store, &broker).await;
    first.stop().await.unwrap();
    let stopped = Instant::now();
    add(&store, 9).await;
    broker.has(10).await;
    assert!(stopped.elapsed() <= LEASE / 3 + Duration::from_millis(5), "{:?}", stopped.elapsed());
    assert_eq!(broker.sent_by("second"), (2..=10).collect::<Vec<_>>());
    second.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_is_killed_is_replaced_after_the_end_of_its_lease() {
    let (store, broker) = (MemoryStore::new(), Broker::new());
    let (first, second) = two(&store, &broker).await;
    sleep(LEASE).await;
    add(&store, 1).await;
    until(async || store.position("main").await.unwrap() == Position::new(2)).await;
    add(&store, 1).await;
    broker.has(3).await;
    first.kill().await;
    let killed = Instant::now();
    add(&store, 8).await;
    until(async || !broker.sent_by("second").is_empty()).await;
    // It may have been prolonged up to a third of its length before.
    let late = killed.elapsed();
    assert!(late + Duration::from_millis(5) >= LEASE * 2 / 3 && late <= LEASE * 4 / 3, "{late:?}");
    broker.has(12).await;
    assert_eq!(broker.sent_by("second"), (3..=11).collect::<Vec<_>>(), "3 was confirmed, but not yet kept");
    second.stop().await.unwrap();
}

/// A store that a relay may lose sight of, or be deceived about.
#[derive(Debug, Clone)]
struct Keeper {
    store: MemoryStore,
    cut_off: Arc<AtomicBool>,
    /// What it goes on answering, as to a process whose clock stands still.
    deceived: Arc<AtomicBool>,
}

impl Keeper {
    fn of(store: &MemoryStore) -> Self {
        Self { store: store.clone(), cut_off: Arc::default(), deceived: Arc::default() }
    }

    fn reach(&self) -> Result<&MemoryStore> {
        let cut_off = self.cut_off.load(Ordering::SeqCst);
        if cut_off { Err(ErrorKind::Transient("reach the store".into()).into()) } else { Ok(&self.store) }
    }
}

#[async_trait]
impl RelayStore for Keeper {
    async fn acquire_lease(&self, name: &str, holder: Uuid, length: Duration) -> Result<Option<Fence>> {
        if self.deceived.load(Ordering::SeqCst) {
            return Ok(Some(Fence::new(1)));
        }
        self.reach()?.acquire_lease(name, holder, length).await
    }

    async fn release_lease(&self, name: &str, holder: Uuid) -> Result<()> {
        self.reach()?.release_lease(name, holder).await
    }

    async fn position(&self, relay: &str) -> Result<Position> {
        self.reach()?.position(relay).await
    }

    async fn advance(&self, relay: &str, position: Position, fence: Fence) -> Result<()> {
        self.reach()?.advance(relay, position, fence).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_relay_whose_lease_ran_out_while_the_publisher_hung_publishes_nothing_more() {
    let (store, broker, hanging) = (MemoryStore::new(), Broker::new(), Broker::new());
    let keeper = Keeper::of(&store);
    add(&store, 20_000).await;
    hanging.open.send_replace(false);
    let first = Running::start(relay(&store, keeper.clone(), hanging.link("first")));
    hanging.has(8_000).await;
    keeper.cut_off.store(true, Ordering::SeqCst);
    let cut_off = Instant::now();
    let second = Running::start(relay(&store, store.clone(), broker.link("second")));
    broker.has(20_000).await;
    assert!(cut_off.elapsed() + Duration::from_millis(5) >= LEASE * 2 / 3, "{:?}", cut_off.elapsed());
    hanging.open.send_replace(true);
    sleep(LEASE * 2).await;
    assert_eq!(hanging.sent_by("first"), (1..=8_000).collect::<Vec<_>>());
    assert_eq!(store.position("main").await.unwrap(), Position::new(20_000));

    // It is still there when it is needed.
    keeper.cut_off.store(false, Ordering::SeqCst);
    second.stop().await.unwrap();
    add(&store, 1).await;
    hanging.has(8_001).await;
    assert_eq!(hanging.sent_by("first").last(), Some(&20_001));
    first.stop().await.unwrap();
}

/// No checkpoint comes in between here: the lease alone keeps it from sending.
#[tokio::test(start_paused = true)]
async fn a_relay_whose_lease_ran_out_while_its_broker_was_away_publishes_nothing_when_it_is_back() {
    for away in ["hangs", "fails"] {
        let (store, broker, gone) = (MemoryStore::new(), Broker::new(), Broker::new());
        let keeper = Keeper::of(&store);
        add(&store, 10).await;
        if away == "hangs" {
            gone.reachable.send_replace(false);
        } else {
            gone.failures.store(usize::MAX, Ordering::SeqCst);
        }
        let first = Running::start(relay(&store, keeper.clone(), gone.link("first")));
        sleep(LEASE).await;
        assert_eq!(store.acquire_lease("main", Uuid::nil(), LEASE).await.unwrap(), None, "it leads");
        keeper.cut_off.store(true, Ordering::SeqCst);
        let second = Running::start(relay(&store, store.clone(), broker.link("second")));
        broker.has(10).await;
        gone.reachable.send_replace(true);
        gone.failures.store(0, Ordering::SeqCst);
        sleep(LEASE * 2).await;
        assert!(gone.sent().is_empty(), "its broker {away}, and it sent {:?}", gone.sent());
        assert_eq!(store.position("main").await.unwrap(), Position::new(10));
        second.stop().await.unwrap();
        first.kill().await;
    }
}

/// As when the database restarts while a program ends.
#[tokio::test(start_paused = true)]
async fn a_relay_that_is_stopped_while_its_store_is_away_ends_well_and_gives_its_lease_back_if_it_can() {
    for comes_back in [true, false] {
        let (store, broker) = (MemoryStore::new(), Broker::new());
        let keeper = Keeper::of(&store);
        add(&store, 1).await;
        let relay = Running::start(relay(&store, keeper.clone(), broker.link("first")));
        until(async || store.position("main").await.unwrap() == Position::new(1)).await;
        keeper.cut_off.store(true, Ordering::SeqCst);
        let back = async {
            sleep(LEASE / 20).await;
            keeper.cut_off.store(!comes_back, Ordering::SeqCst);
        };
        let (ended, ()) = tokio::join!(relay.stop(), back);
        ended.unwrap();
        let free = store.acquire_lease("main", Uuid::nil(), LEASE).await.unwrap().is_some();
        assert_eq!(free, comes_back, "otherwise it ends by itself");
    }
}

/// On the real clock: the whole process stands still, its timers too, for longer than its lease.
#[tokio::test]
async fn a_process_that_stood_still_sends_nothing_before_it_has_the_lease_again() {
    /// Stands still in its first call; later it looks whether the lease is free.
    #[derive(Debug, Clone)]
    struct Frozen {
        store: MemoryStore,
        calls: Arc<AtomicUsize>,
        without_lease: Arc<AtomicUsize>,
    }

    #[async_trait]
    impl Publisher for Frozen {
        async fn publish(&self, _: &[Frame]) -> Result<Confirm> {
            if self.calls.fetch_add(1, Ordering::SeqCst) == 0 {
                std::thread::sleep(Duration::from_millis(300));
            } else if self.store.acquire_lease("main", Uuid::nil(), LEASE).await?.is_some() {
                self.without_lease.fetch_add(1, Ordering::SeqCst);
            }
            Ok(ready(Ok(())).boxed())
        }
    }

    let store = MemoryStore::new();
    add(&store, 3).await;
    let frozen = Frozen { store: store.clone(), calls: Arc::default(), without_lease: Arc::default() };
    let options = RelayOptions::new().with_page_events(1).with_lease(Duration::from_millis(100));
    let relay = Relay::new(store.clone(), frozen.clone()).with_checkpoint(store.clone(), "main").with_options(options);
    let running = Running::start(relay);
    until(async || frozen.calls.load(Ordering::SeqCst) >= 3).await;
    running.stop().await.unwrap();
    assert_eq!(frozen.without_lease.load(Ordering::SeqCst), 0);
    assert_eq!(store.position("main").await.unwrap(), Position::new(3));
}

#[tokio::test(start_paused = true)]
async fn a_zombies_checkpoint_is_refused_and_it_leads_no_more() {
    let (store, broker) = (MemoryStore::new(), Broker::new());
    let keeper = Keeper::of(&store);
    add(&store, 1).await;
    let zombie = Running::start(relay(&store, keeper.clone(), broker.link("zombie")));
    until(async || store.position("main").await.unwrap() == Position::new(1)).await;
    keeper.deceived.store(true, Ordering::SeqCst);
    sleep(LEASE * 2).await;
    let fence =
        store.acquire_lease("main", Uuid::nil(), PATIENCE).await.unwrap().expect("it has ended by the store's clock");
    store.advance("main", Position::new(1), fence).await.unwrap();
    add(&store, 1).await;
    broker.has(2).await;
    keeper.deceived.store(false, Ordering::SeqCst);
    sleep(LEASE * 2).await;
    assert_eq!(store.position("main").await.unwrap(), Position::new(1), "it could not move it");
    add(&store, 1).await;
    sleep(LEASE * 2).await;
    assert_eq!(broker.sent_by("zombie"), [1, 2], "it found out, and stands by");
    store.release_lease("main", Uuid::nil()).await.unwrap();
    broker.has(4).await;
    assert_eq!(broker.sent_by("zombie"), [1, 2, 2, 3]);
    zombie.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_position_beyond_all_leases_is_an_error_and_not_a_silent_wait() {
    let (store, broker) = (MemoryStore::new(), Broker::new());
    store.advance("main", Position::new(1), Fence::new(7)).await.unwrap();
    let ended = relay(&store, store.clone(), broker.link("first")).run(CancellationToken::new()).await;
    let expected = ErrorKind::Fenced { relay: "main".into(), fence: Fence::new(1), newest: Fence::new(7) };
    assert_eq!(*ended.unwrap_err().kind(), expected);
}

/// Counts the pages it hands out, and the largest limit asked for since the last look.
#[derive(Debug, Clone)]
struct Counted {
    store: MemoryStore,
    pages: Arc<AtomicUsize>,
    limit: Arc<AtomicUsize>,
    bytes: Arc<AtomicU64>,
}

impl Counted {
    fn of(store: &MemoryStore) -> Self {
        Self { store: store.clone(), pages: Arc::default(), limit: Arc::default(), bytes: Arc::default() }
    }
}

#[async_trait]
impl EventReader for Counted {
    async fn read(&self, query: Query<'_>) -> Result<Page> {
        let page = self.store.read(query).await?;
        self.limit.store(query.limit, Ordering::SeqCst);
        self.pages.fetch_add(usize::from(!page.events.is_empty()), Ordering::SeqCst);
        let bytes = page.events.iter().map(RecordedEvent::payload_bytes).sum::<usize>() as u64;
        self.bytes.fetch_max(bytes, Ordering::SeqCst);
        Ok(page)
    }

    async fn replay(&self, stream: &StreamId, replay: Replay, visitor: &mut dyn Visitor) -> Result<()> {
        self.store.replay(stream, replay, visitor).await
    }

    async fn head(&self) -> Result<Position> {
        self.store.head().await
    }

    async fn position_of(&self, commit: CommitId) -> Result<Option<Position>> {
        self.store.position_of(commit).await
    }

    fn watch_head(&self) -> watch::Receiver<Position> {
        self.store.watch_head()
    }
}

#[tokio::test(start_paused = true)]
async fn eight_pages_wait_for_the_broker_and_one_more_is_read() {
    let (store, broker) = (MemoryStore::new(), Broker::new());
    let counted = Counted::of(&store);
    for _ in 0..20 {
        add(&store, 100).await;
    }
    broker.open.send_replace(false);
    let options = RelayOptions::new().with_page_events(100);
    let relay = Relay::new(counted.clone(), broker.link("first")).with_checkpoint(store.clone(), "main");
    let running = Running::start(relay.with_options(options));
    until(async || counted.pages.load(Ordering::SeqCst) == 9).await;
    sleep(LEASE * 3).await;
    assert_eq!((counted.pages.load(Ordering::SeqCst), broker.sent().len()), (9, 800));
    assert_eq!(store.position("main").await.unwrap(), Position::ZERO, "nothing was confirmed");
    broker.open.send_replace(true);
    broker.has(2_000).await;
    running.stop().await.unwrap();
    assert_eq!(broker.sent_by("first"), (1..=2_000).collect::<Vec<_>>());
    assert_eq!(store.position("main").await.unwrap(), Position::new(2_000));
}

#[tokio::test(start_paused = true)]
async fn a_backlog_of_large_events_is_read_in_small_pages() {
    let (store, broker) = (MemoryStore::new(), Broker::new());
    let counted = Counted::of(&store);
    let large = PAGE_BYTES / 3;
    for number in 0..12 {
        let append = Append::new(stream(&number.to_string()), ExpectedVersion::Any, vec![event(vec![b'1'; large])]);
        store.append(append).await.unwrap();
    }
    let relay = Relay::new(counted.clone(), broker.link("first")).with_checkpoint(store.clone(), "main");
    let running = Running::start(relay);
    broker.has(12).await;
    running.stop().await.unwrap();
    assert_eq!(broker.sent_by("first"), (1..=12).collect::<Vec<_>>());
    assert!(counted.bytes.load(Ordering::SeqCst) < (PAGE_BYTES + large) as u64);
    assert_eq!((counted.pages.load(Ordering::SeqCst), counted.limit.load(Ordering::SeqCst)), (3, 6));
}

#[tokio::test(start_paused = true)]
async fn a_page_that_is_not_confirmed_is_sent_again_with_all_that_follow() {
    let (store, broker) = (MemoryStore::new(), Broker::new());
    add(&store, 30).await;
    broker.open.send_replace(false);
    let options = RelayOptions::new().with_page_events(1);
    let relay = Relay::new(store.clone(), broker.link("first")).with_checkpoint(store.clone(), "main");
    let running = Running::start(relay.with_options(options));
    broker.has(8).await;
    broker.unconfirmed.store(1, Ordering::SeqCst);
    broker.open.send_replace(true);
    broker.has(38).await;
    running.stop().await.unwrap();
    assert_eq!(broker.sent_by("first"), (1..=8).chain(1..=30).collect::<Vec<_>>());
    assert_eq!(store.position("main").await.unwrap(), Position::new(30));
}

#[tokio::test(start_paused = true)]
async fn a_relay_may_announce_single_events() {
    let (store, broker) = (MemoryStore::new(), Broker::new());
    add(&store, 5).await;
    let relay = Relay::announcing(store.clone(), broker.link("first")).with_checkpoint(store.clone(), "main");
    let mut unroutable = relay.unroutable();
    let running = Running::start(relay);
    broker.has(5).await;
    running.stop().await.unwrap();
    assert_eq!(*unroutable.borrow_and_update(), 3);
    assert_eq!(broker.sent_by("first"), [1, 2, 3, 4, 5]);
    assert_eq!(store.position("main").await.unwrap(), Position::new(5));
}

#[tokio::test(start_paused = true)]
async fn an_error_that_lasts_ends_the_relay_and_frees_its_lease() {
    /// Refuses for good.
    struct Refusing;

    #[async_trait]
    impl Publisher for Refusing {
        async fn publish(&self, _: &[Frame]) -> Result<Confirm> {
            Err(Error::new(ErrorKind::Closed("the broker")))
        }
    }

    let store = MemoryStore::new();
    add(&store, 1).await;
    let relay = Relay::new(store.clone(), Refusing).with_checkpoint(store.clone(), "main");
    assert_eq!(*relay.run(CancellationToken::new()).await.unwrap_err().kind(), ErrorKind::Closed("the broker"));
    assert_eq!(store.acquire_lease("main", Uuid::nil(), LEASE).await.unwrap(), Some(Fence::new(2)));
    assert_eq!(store.position("main").await.unwrap(), Position::ZERO);
}

#[tokio::test(start_paused = true)]
async fn large_frames_travel_compressed_where_that_is_asked_for() {
    #[derive(Debug, Clone, Default)]
    struct Bodies(Arc<Mutex<Vec<Frame>>>);

    #[async_trait]
    impl Publisher for Bodies {
        async fn publish(&self, frames: &[Frame]) -> Result<Confirm> {
            self.0.lock().unwrap().extend_from_slice(frames);
            Ok(ready(Ok(())).boxed())
        }
    }

    let (store, bodies) = (MemoryStore::new(), Bodies::default());
    add(&store, 100).await;
    add(&store, 1).await;
    let options = RelayOptions::new().with_compression(1_000);
    let relay = Relay::new(store.clone(), bodies.clone()).with_checkpoint(store.clone(), "main").with_options(options);
    let running = Running::start(relay);
    until(async || bodies.0.lock().unwrap().len() == 2).await;
    running.stop().await.unwrap();
    let bodies = bodies.0.lock().unwrap();
    assert_eq!(bodies.iter().map(|frame| frame.body()[0]).collect::<Vec<_>>(), [2, 1], "the second is small");
    let events = bodies.iter().flat_map(|frame| ReceivedFrame::parse(frame.body().clone()).unwrap().events().unwrap());
    assert_eq!(events.map(|event| event.position.get()).collect::<Vec<_>>(), (1..=101).collect::<Vec<_>>());
}
