//! Exactly one of the relays that share a name leads at a time, even through failures. Also covers how many pages a
//! relay keeps in flight, and its checkpoint. Tokio's clock is paused and advances only when no task can run, so each
//! test controls exact durations.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::Utc;
use futures::future::ready;
use futures::{FutureExt, TryFutureExt};
use retell::Mark;
use retell::broker::frame::{Frame, ReceivedFrame};
use retell::broker::{Announced, Announcer, Confirm, Publisher};
use retell::error::{Error, Result};
use retell::event::RecordedEvent;
use retell::id::Fence;
use retell::relay::RelayOptions;
use retell::store::RegisteredShape;
use retell::store::{Append, PAGE_BYTES, Page, Query, RelayStatus, RelayStore, Replay, Visitor};
use retell::testing::store::{event, events, stream};
use retell::{
    ErrorKind, EventReader, EventStore, EventType, ExpectedVersion, MemoryStore, Position, Relay, StreamId, async_trait,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const LEASE: Duration = Duration::from_secs(10);

/// Longer than any step of a test takes.
const TIMEOUT: Duration = Duration::from_mins(10);

async fn add(store: &MemoryStore, count: u64) {
    store.append(Append::new(stream("a"), ExpectedVersion::Any, events(count))).await.unwrap();
}

/// The broker of all relays of a test. It records which relay has sent which position, and confirms while it is open.
#[derive(Debug, Clone)]
struct Broker {
    sent: Arc<Mutex<Vec<(&'static str, u64)>>>,
    open: watch::Sender<bool>,
    /// Whether the broker accepts messages.
    reachable: watch::Sender<bool>,
    /// Number of calls that fail before one succeeds.
    failures: Arc<AtomicUsize>,
    /// Number of confirms that fail before one succeeds.
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

    async fn await_sent(&self, count: usize) {
        until(async || self.sent().len() >= count).await;
    }
}

async fn until(reached: impl AsyncFn() -> bool) {
    let poll = async {
        while !reached().await {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(TIMEOUT, poll).await.expect("the condition holds in time");
}

/// The connection of one relay to the broker.
#[derive(Debug, Clone)]
struct Link {
    broker: Broker,
    relay: &'static str,
}

impl Link {
    async fn take(&self, positions: impl IntoIterator<Item = u64>) -> Result<Confirm> {
        let broker = &self.broker;
        take_failure(&broker.failures)?;
        broker.reachable.subscribe().wait_for(|reachable| *reachable).await.unwrap();
        broker.sent.lock().unwrap().extend(positions.into_iter().map(|position| (self.relay, position)));
        let broker = broker.clone();
        let confirmed = async move {
            broker.open.subscribe().wait_for(|open| *open).await.unwrap();
            take_failure(&broker.unconfirmed)
        };
        Ok(confirmed.boxed())
    }
}

/// Fails while `failures` is above zero, and decrements it.
fn take_failure(failures: &AtomicUsize) -> Result<()> {
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

    /// Stops the relay gracefully.
    async fn stop(self) -> Result<()> {
        self.stop.cancel();
        timeout(TIMEOUT, self.task).await.expect("the relay ends in time").unwrap()
    }

    /// Ends the relay like a killed process, without any cleanup.
    async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

fn relay(store: &MemoryStore, unreliable: impl RelayStore, link: Link) -> Relay {
    let options = RelayOptions::new().with_lease(LEASE);
    Relay::new(store.clone(), link).with_checkpoint(unreliable, "main").with_options(options)
}

/// Starts a relay that leads, because it is alone, and then a second one on standby.
async fn leader_and_standby(store: &MemoryStore, broker: &Broker) -> (Running, Running) {
    add(store, 1).await;
    let first = Running::start(relay(store, store.clone(), broker.link("first")));
    broker.await_sent(1).await;
    (first, Running::start(relay(store, store.clone(), broker.link("second"))))
}

#[tokio::test(start_paused = true)]
async fn one_of_two_relays_publishes_as_long_as_it_lives() {
    let (store, broker) = (MemoryStore::new(), Broker::new());
    let (first, second) = leader_and_standby(&store, &broker).await;
    for _ in 0..20 {
        // The leader renews its lease whether or not it is idle.
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
async fn a_stopped_relay_hands_over_at_once_without_repeats() {
    let (store, broker) = (MemoryStore::new(), Broker::new());
    let (first, second) = leader_and_standby(&store, &broker).await;
    first.stop().await.unwrap();
    let stopped = Instant::now();
    add(&store, 9).await;
    broker.await_sent(10).await;
    assert!(stopped.elapsed() <= LEASE / 3 + Duration::from_millis(5), "{:?}", stopped.elapsed());
    assert_eq!(broker.sent_by("second"), (2..=10).collect::<Vec<_>>());
    second.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_killed_relay_is_replaced_when_its_lease_expires() {
    let (store, broker) = (MemoryStore::new(), Broker::new());
    let (first, second) = leader_and_standby(&store, &broker).await;
    sleep(LEASE).await;
    add(&store, 1).await;
    until(async || store.position("main").await.unwrap() == Position::new(2)).await;
    add(&store, 1).await;
    broker.await_sent(3).await;
    first.kill().await;
    let killed = Instant::now();
    add(&store, 8).await;
    until(async || !broker.sent_by("second").is_empty()).await;
    // The leader may have renewed its lease up to a third of its length before the kill.
    let late = killed.elapsed();
    assert!(late + Duration::from_millis(5) >= LEASE * 2 / 3 && late <= LEASE * 4 / 3, "{late:?}");
    broker.await_sent(12).await;
    assert_eq!(
        broker.sent_by("second"),
        (3..=11).collect::<Vec<_>>(),
        "3 was confirmed, but the checkpoint was not saved yet"
    );
    second.stop().await.unwrap();
}

/// A store that a relay may lose its connection to, or get stale answers from.
#[derive(Debug, Clone)]
struct UnreliableStore {
    store: MemoryStore,
    cut_off: Arc<AtomicBool>,
    /// Whether the store keeps granting the lease, as a process with a stopped clock would believe.
    deceived: Arc<AtomicBool>,
}

impl UnreliableStore {
    fn of(store: &MemoryStore) -> Self {
        Self { store: store.clone(), cut_off: Arc::default(), deceived: Arc::default() }
    }

    fn reach(&self) -> Result<&MemoryStore> {
        let cut_off = self.cut_off.load(Ordering::SeqCst);
        if cut_off { Err(ErrorKind::Transient("reach the store".into()).into()) } else { Ok(&self.store) }
    }
}

#[async_trait]
impl RelayStore for UnreliableStore {
    async fn acquire_lease(&self, name: &str, holder: Uuid, length: Duration) -> Result<Option<Fence>> {
        if self.deceived.load(Ordering::SeqCst) {
            return Ok(Some(Fence::new(1)));
        }
        self.reach()?.acquire_lease(name, holder, length).await
    }

    async fn release_lease(&self, name: &str, holder: Uuid) -> Result<()> {
        self.reach()?.release_lease(name, holder).await
    }

    async fn mark(&self, relay: &str) -> Result<Mark> {
        self.reach()?.mark(relay).await
    }

    async fn relay_statuses(&self, limit: usize) -> Result<Option<Vec<RelayStatus>>> {
        self.reach()?.relay_statuses(limit).await
    }

    async fn advance(&self, relay: &str, to: Mark, fence: Fence) -> Result<()> {
        self.reach()?.advance(relay, to, fence).await
    }

    async fn reset(&self, relay: &str, to: Mark) -> Result<()> {
        self.reach()?.reset(relay, to).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_hung_relay_publishes_nothing_after_its_lease_expires() {
    let (store, broker, hanging) = (MemoryStore::new(), Broker::new(), Broker::new());
    let unreliable = UnreliableStore::of(&store);
    add(&store, 20_000).await;
    hanging.open.send_replace(false);
    let first = Running::start(relay(&store, unreliable.clone(), hanging.link("first")));
    hanging.await_sent(8_000).await;
    unreliable.cut_off.store(true, Ordering::SeqCst);
    let cut_off = Instant::now();
    let second = Running::start(relay(&store, store.clone(), broker.link("second")));
    broker.await_sent(20_000).await;
    assert!(cut_off.elapsed() + Duration::from_millis(5) >= LEASE * 2 / 3, "{:?}", cut_off.elapsed());
    hanging.open.send_replace(true);
    sleep(LEASE * 2).await;
    assert_eq!(hanging.sent_by("first"), (1..=8_000).collect::<Vec<_>>());
    assert_eq!(store.position("main").await.unwrap(), Position::new(20_000));

    // The first relay still takes over when it is needed.
    unreliable.cut_off.store(false, Ordering::SeqCst);
    second.stop().await.unwrap();
    add(&store, 1).await;
    hanging.await_sent(8_001).await;
    assert_eq!(hanging.sent_by("first").last(), Some(&20_001));
    first.stop().await.unwrap();
}

/// No checkpoint interferes in this test: the lease alone keeps the relay from publishing.
#[tokio::test(start_paused = true)]
async fn a_relay_sends_nothing_if_its_lease_expired_during_an_outage() {
    for away in ["hangs", "fails"] {
        let (store, broker, gone) = (MemoryStore::new(), Broker::new(), Broker::new());
        let unreliable = UnreliableStore::of(&store);
        add(&store, 10).await;
        if away == "hangs" {
            gone.reachable.send_replace(false);
        } else {
            gone.failures.store(usize::MAX, Ordering::SeqCst);
        }
        let first = Running::start(relay(&store, unreliable.clone(), gone.link("first")));
        sleep(LEASE).await;
        assert_eq!(store.acquire_lease("main", Uuid::nil(), LEASE).await.unwrap(), None, "the first relay leads");
        unreliable.cut_off.store(true, Ordering::SeqCst);
        let second = Running::start(relay(&store, store.clone(), broker.link("second")));
        broker.await_sent(10).await;
        gone.reachable.send_replace(true);
        gone.failures.store(0, Ordering::SeqCst);
        sleep(LEASE * 2).await;
        assert!(gone.sent().is_empty(), "its broker {away}, but it sent {:?}", gone.sent());
        assert_eq!(store.position("main").await.unwrap(), Position::new(10));
        second.stop().await.unwrap();
        first.kill().await;
    }
}

/// This happens when the database restarts while a program shuts down.
#[tokio::test(start_paused = true)]
async fn stopping_in_a_store_outage_releases_the_lease_if_possible() {
    for comes_back in [true, false] {
        let (store, broker) = (MemoryStore::new(), Broker::new());
        let unreliable = UnreliableStore::of(&store);
        add(&store, 1).await;
        let relay = Running::start(relay(&store, unreliable.clone(), broker.link("first")));
        until(async || store.position("main").await.unwrap() == Position::new(1)).await;
        unreliable.cut_off.store(true, Ordering::SeqCst);
        let back = async {
            sleep(LEASE / 20).await;
            unreliable.cut_off.store(!comes_back, Ordering::SeqCst);
        };
        let (ended, ()) = tokio::join!(relay.stop(), back);
        ended.unwrap();
        let free = store.acquire_lease("main", Uuid::nil(), LEASE).await.unwrap().is_some();
        assert_eq!(free, comes_back, "the lease is free only if the store came back");
    }
}

/// Runs on the real clock: the whole process pauses, timers included, for longer than its lease.
#[tokio::test(start_paused = true)]
async fn a_relay_stopped_in_a_store_outage_ends_without_an_error() {
    let (store, broker) = (MemoryStore::new(), Broker::new());
    let unreliable = UnreliableStore::of(&store);
    let first = Running::start(relay(&store, unreliable.clone(), broker.link("first")));
    add(&store, 3).await;
    broker.await_sent(3).await;
    // The relay has published more than it has stored.
    unreliable.cut_off.store(true, Ordering::SeqCst);
    first.stop().await.unwrap();
    assert_eq!(store.position("main").await.unwrap(), Position::ZERO);
    let second = Running::start(relay(&store, store.clone(), broker.link("second")));
    until(async || broker.sent_by("second") == [1, 2, 3]).await;
    second.stop().await.unwrap();
}

#[tokio::test]
async fn a_paused_process_publishes_nothing_until_it_leads_again() {
    /// Pauses the process in its first call. Later calls check whether the lease is free.
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
async fn a_zombies_checkpoint_is_refused_and_it_steps_down() {
    let (store, broker) = (MemoryStore::new(), Broker::new());
    let unreliable = UnreliableStore::of(&store);
    add(&store, 1).await;
    let zombie = Running::start(relay(&store, unreliable.clone(), broker.link("zombie")));
    until(async || store.position("main").await.unwrap() == Position::new(1)).await;
    unreliable.deceived.store(true, Ordering::SeqCst);
    sleep(LEASE * 2).await;
    let fence = store
        .acquire_lease("main", Uuid::nil(), TIMEOUT)
        .await
        .unwrap()
        .expect("the lease expired by the store's clock");
    store.advance("main", Position::new(1).into(), fence).await.unwrap();
    add(&store, 1).await;
    broker.await_sent(2).await;
    unreliable.deceived.store(false, Ordering::SeqCst);
    sleep(LEASE * 2).await;
    assert_eq!(store.position("main").await.unwrap(), Position::new(1), "the zombie could not move the checkpoint");
    add(&store, 1).await;
    sleep(LEASE * 2).await;
    assert_eq!(broker.sent_by("zombie"), [1, 2], "the zombie noticed, and is on standby");
    store.release_lease("main", Uuid::nil()).await.unwrap();
    broker.await_sent(4).await;
    assert_eq!(broker.sent_by("zombie"), [1, 2, 2, 3]);
    zombie.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_position_with_a_newer_fence_is_an_error() {
    let (store, broker) = (MemoryStore::new(), Broker::new());
    store.advance("main", Position::new(1).into(), Fence::new(7)).await.unwrap();
    let ended = relay(&store, store.clone(), broker.link("first")).run(CancellationToken::new()).await;
    let expected = ErrorKind::Fenced { relay: "main".into(), fence: Fence::new(1), newest: Fence::new(7) };
    assert_eq!(*ended.unwrap_err().kind(), expected);
}

/// Counts the pages that it returns, and records the latest limit and the largest page in bytes. A read of one event is no page: it compares a
/// place with the log.
#[derive(Debug, Clone)]
struct CountingReader {
    store: MemoryStore,
    pages: Arc<AtomicUsize>,
    limit: Arc<AtomicUsize>,
    bytes: Arc<AtomicU64>,
}

impl CountingReader {
    fn of(store: &MemoryStore) -> Self {
        Self { store: store.clone(), pages: Arc::default(), limit: Arc::default(), bytes: Arc::default() }
    }
}

#[async_trait]
impl EventReader for CountingReader {
    async fn read(&self, query: Query<'_>) -> Result<Page> {
        let page = self.store.read(query).await?;
        if query.limit > 1 {
            self.limit.store(query.limit, Ordering::SeqCst);
            self.pages.fetch_add(usize::from(!page.events.is_empty()), Ordering::SeqCst);
        }
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

    async fn position_of(&self, token: retell::Token) -> Result<Option<Position>> {
        self.store.position_of(token).await
    }

    async fn registered_shapes(&self) -> Result<Vec<RegisteredShape>> {
        self.store.registered_shapes().await
    }

    async fn next_event_type(&self, after: Option<&EventType>) -> Result<Option<EventType>> {
        self.store.next_event_type(after).await
    }

    fn watch_head(&self) -> watch::Receiver<Position> {
        self.store.watch_head()
    }
}

#[tokio::test(start_paused = true)]
async fn eight_pages_await_confirms_while_one_more_is_read() {
    let (store, broker) = (MemoryStore::new(), Broker::new());
    let counted = CountingReader::of(&store);
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
    broker.await_sent(2_000).await;
    running.stop().await.unwrap();
    assert_eq!(broker.sent_by("first"), (1..=2_000).collect::<Vec<_>>());
    assert_eq!(store.position("main").await.unwrap(), Position::new(2_000));
}

#[tokio::test(start_paused = true)]
async fn a_backlog_of_large_events_is_read_in_small_pages() {
    let (store, broker) = (MemoryStore::new(), Broker::new());
    let counted = CountingReader::of(&store);
    let large = PAGE_BYTES / 3;
    for number in 0..12 {
        let append = Append::new(stream(&number.to_string()), ExpectedVersion::Any, vec![event(vec![b'1'; large])]);
        store.append(append).await.unwrap();
    }
    let relay = Relay::new(counted.clone(), broker.link("first")).with_checkpoint(store.clone(), "main");
    let running = Running::start(relay);
    broker.await_sent(12).await;
    running.stop().await.unwrap();
    assert_eq!(broker.sent_by("first"), (1..=12).collect::<Vec<_>>());
    assert!(counted.bytes.load(Ordering::SeqCst) < (PAGE_BYTES + large) as u64);
    assert_eq!((counted.pages.load(Ordering::SeqCst), counted.limit.load(Ordering::SeqCst)), (3, 6));
}

#[tokio::test(start_paused = true)]
async fn an_unconfirmed_page_is_resent_with_all_later_pages() {
    let (store, broker) = (MemoryStore::new(), Broker::new());
    add(&store, 30).await;
    broker.open.send_replace(false);
    let options = RelayOptions::new().with_page_events(1);
    let relay = Relay::new(store.clone(), broker.link("first")).with_checkpoint(store.clone(), "main");
    let running = Running::start(relay.with_options(options));
    broker.await_sent(8).await;
    broker.unconfirmed.store(1, Ordering::SeqCst);
    broker.open.send_replace(true);
    broker.await_sent(38).await;
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
    broker.await_sent(5).await;
    running.stop().await.unwrap();
    assert_eq!(*unroutable.borrow_and_update(), 3);
    assert_eq!(broker.sent_by("first"), [1, 2, 3, 4, 5]);
    assert_eq!(store.position("main").await.unwrap(), Position::new(5));
}

#[tokio::test(start_paused = true)]
async fn a_permanent_error_ends_the_relay_and_frees_its_lease() {
    /// Refuses every frame with a permanent error.
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
async fn large_frames_are_compressed_if_configured() {
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
    assert_eq!(bodies.iter().map(|frame| frame.body()[0]).collect::<Vec<_>>(), [2, 1], "the second frame is small");
    let events = bodies.iter().flat_map(|frame| ReceivedFrame::parse(frame.body().clone()).unwrap().events().unwrap());
    assert_eq!(events.map(|event| event.position.get()).collect::<Vec<_>>(), (1..=101).collect::<Vec<_>>());
}

/// Refuses the event at one position, as a broker does that has no room for it, and notes what it takes.
#[derive(Debug, Clone)]
struct Picky {
    position: u64,
    refuses: Arc<AtomicBool>,
    attempts: Arc<AtomicUsize>,
    taken: Arc<Mutex<Vec<u64>>>,
}

#[async_trait]
impl Announcer for Picky {
    async fn announce(&self, events: &[RecordedEvent]) -> Result<Confirm<Announced>> {
        let positions = events.iter().map(|event| event.position.get());
        self.taken.lock().unwrap().extend(positions.clone());
        if self.refuses.load(Ordering::SeqCst) && positions.clone().any(|position| position == self.position) {
            self.attempts.fetch_add(1, Ordering::SeqCst);
            let refused = ErrorKind::Transient("publish: no room for the event".into());
            return Ok(ready(Err(Error::new(refused))).boxed());
        }
        Ok(ready(Ok(Announced::default())).boxed())
    }
}

/// The events before it are confirmed, and none but it is sent again and again.
#[tokio::test(start_paused = true)]
async fn a_refused_event_is_sent_again_alone() {
    let store = MemoryStore::new();
    add(&store, 5_000).await;
    let (attempts, taken) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<u64>>>::default());
    let picky = Picky { position: 3_700, refuses: Arc::new(AtomicBool::new(true)), attempts, taken };
    let relay = Relay::announcing(store.clone(), picky.clone()).with_checkpoint(store.clone(), "main");
    let (mut published, status) = (relay.published(), relay.status());
    let running = Running::start(relay);
    timeout(TIMEOUT, published.wait_for(|at| *at == Position::new(3_699))).await.unwrap().unwrap();
    let before = picky.attempts.load(Ordering::SeqCst);
    let (sent, since) = (picky.taken.lock().unwrap().len(), Utc::now());
    until(async || picky.attempts.load(Ordering::SeqCst) >= before + 20).await;
    let again = picky.taken.lock().unwrap()[sent..].to_vec();
    assert!(again.iter().all(|position| *position == 3_700), "{again:?}");
    let waiting = status.borrow().wait().cloned().unwrap();
    assert_eq!(waiting.on, retell::status::Wait::Broker);
    assert!(waiting.error.as_ref().unwrap().contains("no room for the event"), "{waiting}");
    assert!(waiting.since <= since + chrono::TimeDelta::seconds(1), "{waiting}");
    assert_eq!(*published.borrow(), Position::new(3_699));

    picky.refuses.store(false, Ordering::SeqCst);
    timeout(TIMEOUT, published.wait_for(|at| *at == Position::new(5_000))).await.unwrap().unwrap();
    assert_eq!(status.borrow().wait(), None);
    running.stop().await.unwrap();
    let taken = picky.taken.lock().unwrap();
    let mut first_of_each: Vec<u64> = taken.clone();
    let mut seen = std::collections::HashSet::new();
    first_of_each.retain(|position| seen.insert(*position));
    assert_eq!(first_of_each, (1..=5_000).collect::<Vec<_>>(), "every event arrives, in order");
}

/// The broker accepts messages and never confirms them, and the log has no more events.
#[tokio::test(start_paused = true)]
async fn a_late_confirm_is_a_wait_for_the_broker() {
    for form in ["frames", "announcements"] {
        let (store, broker) = (MemoryStore::new(), Broker::new());
        add(&store, 3).await;
        broker.open.send_replace(false);
        let link = broker.link("first");
        let relay =
            if form == "frames" { Relay::new(store.clone(), link) } else { Relay::announcing(store.clone(), link) };
        let relay = relay.with_checkpoint(store.clone(), "main");
        let mut status = relay.status();
        let running = Running::start(relay);
        let waiting =
            timeout(TIMEOUT, status.wait_for(|status| status.wait().is_some())).await.unwrap().unwrap().clone();
        let error = waiting.wait().unwrap().error.clone().unwrap();
        assert!(error.contains("the broker has not confirmed the last messages within 10s"), "{form}: {error}");
        broker.open.send_replace(true);
        timeout(TIMEOUT, status.wait_for(|status| status.wait().is_none())).await.unwrap().unwrap();
        running.stop().await.unwrap();
        assert_eq!(broker.sent_by("first"), [1, 2, 3], "{form}: nothing is sent twice");
    }
}

/// The question is code of the program, too: its panic must not end the relay.
#[tokio::test(start_paused = true)]
async fn a_panic_of_a_broker_that_is_asked_why_stops_no_relay() {
    struct Asked(Link);

    #[async_trait]
    impl Publisher for Asked {
        async fn publish(&self, frames: &[Frame]) -> Result<Confirm> {
            self.0.publish(frames).await
        }

        async fn publishing_blocked(&self) -> Option<String> {
            panic!("no answer")
        }
    }

    let (store, broker) = (MemoryStore::new(), Broker::new());
    add(&store, 3).await;
    broker.open.send_replace(false);
    let relay = Relay::new(store.clone(), Asked(broker.link("first"))).with_checkpoint(store.clone(), "main");
    let (mut status, mut published) = (relay.status(), relay.published());
    let running = Running::start(relay);
    let waiting = timeout(TIMEOUT, status.wait_for(|status| status.wait().is_some())).await.unwrap().unwrap().clone();
    assert_eq!(waiting.wait().unwrap().error.as_deref(), Some("the publisher panicked: no answer"));
    broker.open.send_replace(true);
    timeout(TIMEOUT, published.wait_for(|at| *at == Position::new(3))).await.unwrap().unwrap();
    running.stop().await.unwrap();
}
