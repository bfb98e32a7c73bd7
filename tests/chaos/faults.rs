//! The faults that the suite injects.

use std::thread::sleep;
use std::time::Duration;

use lapin::message::BasicGetMessage;
use lapin::options::{BasicGetOptions, BasicPublishOptions, QueuePurgeOptions};
use lapin::types::AMQPValue;
use lapin::{BasicProperties, ConnectionProperties};
use retell::broker::frame::Frame;
use retell::broker::{Broker, SubscriptionMode};
use retell::store::{EventReaderExt, Filter, ParkedState};
use retell::{Position, ProjectionName, StreamId};

use crate::child::Role;
use crate::clock::Clocks;
use crate::failover::Part;
use crate::proxy::{Proxy, Traffic};
use crate::run::{Kind, Process, Run};
use crate::tally::{NAME, PANICS, POISON, SLOW, WORD_IS_POISON, spoken};
use crate::view::KEY_IS_POISON;

type Fault = fn(Run);

pub(crate) const FAULTS: [(&str, Fault); 25] = [
    ("nothing_breaks", Run::work),
    ("the_broker_is_killed", the_broker_is_killed),
    ("the_broker_is_never_up", the_broker_is_never_up),
    ("the_broker_loses_its_data", the_broker_loses_its_data),
    ("the_queue_is_purged", the_queue_is_purged),
    ("messages_are_lost_duplicated_and_reordered", messages_are_lost_duplicated_and_reordered),
    ("old_frames_and_junk_arrive", old_frames_and_junk_arrive),
    ("connections_are_cut", connections_are_cut),
    ("connections_stall", connections_stall),
    ("the_network_is_slow", the_network_is_slow),
    ("processes_are_killed", processes_are_killed),
    ("paused_processes_resume_later", paused_processes_resume_later),
    ("an_event_is_large", an_event_is_large),
    ("the_database_is_killed", the_database_is_killed),
    ("the_queue_drops_messages", the_queue_drops_messages),
    ("a_handler_exceeds_the_consumer_timeout", a_handler_exceeds_the_consumer_timeout),
    ("an_event_is_poison", an_event_is_poison),
    ("faults_come_at_random", faults_come_at_random),
    ("handlers_panic", handlers_panic),
    ("database_connections_go_silent", database_connections_go_silent),
    ("the_database_is_read_only_for_a_while", the_database_is_read_only_for_a_while),
    ("sessions_are_ended", sessions_are_ended),
    ("the_log_loses_its_tail", the_log_loses_its_tail),
    ("log_and_models_lose_their_tail", log_and_models_lose_their_tail),
    ("clocks_jump", clocks_jump),
];

/// Number of parts that a run's events are split into; the fault strikes after each part.
const PARTS: u64 = 5;

impl Run {
    fn work(mut self) {
        self.start();
        self.end();
    }

    /// Sets the clock of each process to another time.
    fn jump(&mut self) {
        for process in self.relays.iter().chain(&self.workers) {
            process.clock.as_ref().unwrap().jump(&mut self.random);
        }
    }

    /// Asserts that the events after `from`, which this process appended, have the time of its clock, give or take the time of a run.
    fn assert_dated_by_the_clock(&self, from: Position) {
        let page = self.runtime.block_on(async {
            let log = self.place.open().await.unwrap().events;
            log.read_all(from, 100_000, &Filter::all()).await.unwrap()
        });
        assert!(!page.events.is_empty());
        for event in page.events {
            let distance = (event.recorded_at - chrono::Utc::now()).abs();
            assert!(distance < chrono::TimeDelta::hours(1), "{} is dated {}", event.position, event.recorded_at);
        }
    }

    /// Injects `fault` while the workers are busy with the part that was just appended.
    fn inject(mut self, mut fault: impl FnMut(&mut Self)) {
        self.start();
        for _ in 1..PARTS {
            self.append_part(PARTS);
            fault(&mut self);
        }
        self.end();
    }

    fn mode(&self) -> SubscriptionMode {
        if self.worker.has_order_per_aggregate() { SubscriptionMode::Competing } else { SubscriptionMode::Exclusive }
    }

    fn queue(&self) -> String {
        self.topology.queue(&ProjectionName::new(NAME).unwrap(), self.mode()).unwrap()
    }

    /// Opens a channel of a client that does not use the library.
    async fn plain_channel(&self) -> lapin::Channel {
        let url = format!("amqp://guest:guest@{}/%2f", self.broker);
        let connection = lapin::Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
        connection.create_channel().await.unwrap()
    }

    fn purge(&self) {
        self.runtime.block_on(async {
            let plain_channel = self.plain_channel().await;
            // The queue may not exist yet.
            drop(plain_channel.queue_purge(self.queue().into(), QueuePurgeOptions::default()).await);
        });
    }

    /// Takes the oldest dead letter.
    fn dead_letter(&self) -> BasicGetMessage {
        self.runtime.block_on(async {
            let queue = self.topology.dead_letter_queue.queue.as_str();
            let letter = self.plain_channel().await.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await;
            letter.unwrap().expect("a dead letter is published before its aggregate is marked dead")
        })
    }

    fn declare_queue(&self) {
        let broker = self.job(Role::Worker).broker();
        let name = ProjectionName::new(NAME).unwrap();
        self.runtime.block_on(broker.subscribe(&name, self.mode())).map(drop).unwrap();
    }

    fn publish(&self, bodies: impl IntoIterator<Item = Vec<u8>>) {
        self.runtime.block_on(async {
            let plain_channel = self.plain_channel().await;
            for body in bodies {
                let (queue, options) = (self.queue().into(), BasicPublishOptions::default());
                plain_channel
                    .basic_publish("".into(), queue, options, &body, BasicProperties::default())
                    .await
                    .unwrap();
            }
            plain_channel.close(200, "done".into()).await.unwrap();
        });
    }
}

fn the_broker_is_killed(mut run: Run) {
    let mut broker = run.with_own_broker("[].");
    run.inject(|run| {
        broker.kill();
        run.append_part(2 * PARTS);
        broker.start_again();
    });
}

fn the_broker_is_never_up(mut run: Run) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    run.broker = format!("127.0.0.1:{port}");
    run.work();
}

fn the_broker_loses_its_data(mut run: Run) {
    let mut broker = run.with_own_broker("[].");
    run.inject(|_| {
        broker.kill();
        broker.wipe();
        broker.start_again();
    });
}

fn the_queue_is_purged(run: Run) {
    run.inject(|run| run.purge());
}

fn messages_are_lost_duplicated_and_reordered(mut run: Run) {
    run.relay = Role::FaultyRelay(run.random.below(u64::MAX));
    run.inject(|_| {});
}

fn old_frames_and_junk_arrive(run: Run) {
    run.inject(|run| {
        let frames: Vec<Frame> = run.frames();
        let junk = [b"{\"hello\":\"world\"}".to_vec(), Vec::new(), vec![1; 100]];
        run.publish(frames.into_iter().rev().map(|frame| frame.body().to_vec()).chain(junk));
    });
}

fn connections_are_cut(mut run: Run) {
    let proxy = Proxy::start(&run.runtime, run.broker.clone());
    run.broker = proxy.address.to_string();
    run.inject(|_| proxy.cut());
}

/// Connections stay open but carry no data; the workers keep up by reading the store.
fn connections_stall(mut run: Run) {
    let proxy = Proxy::start(&run.runtime, run.broker.clone());
    run.broker = proxy.address.to_string();
    run.inject(|run| {
        proxy.set(Traffic::Stalled);
        run.append_part(2 * PARTS);
        run.await_applied(run.appended());
        proxy.set(Traffic::Normal);
    });
}

fn the_network_is_slow(mut run: Run) {
    let proxy = Proxy::start(&run.runtime, run.broker.clone());
    proxy.set(Traffic::Delayed(Duration::from_millis(200)));
    run.broker = proxy.address.to_string();
    run.work();
}

fn processes_are_killed(run: Run) {
    run.inject(|run| {
        for _ in 0..2 {
            run.kill_worker();
            run.kill_relay();
            run.append_part(3 * PARTS);
        }
    });
}

fn paused_processes_resume_later(run: Run) {
    let mut slot = 0;
    run.inject(|run| {
        run.pause_one_of_each(slot);
        run.append_part(2 * PARTS);
        // The other processes take over even if the paused one holds a transaction open, because the server ends that
        // transaction after half a minute. SQLite's file lock stays until the process resumes.
        if slot == 0 && run.kind != Kind::Sqlite {
            run.await_applied(run.appended());
        }
        slot += 1;
        run.resume_all();
    });
}

fn the_database_is_killed(run: Run) {
    // SQLite has no server, so this kills the processes that write its file.
    if run.kind == Kind::Sqlite {
        return processes_are_killed(run);
    }
    run.with_own_server().inject(|run| run.server.as_mut().unwrap().kill_and_start());
}

fn an_event_is_large(run: Run) {
    run.inject(|run| {
        let mut large = spoken(7);
        // Leading blanks are valid JSON.
        let mut payload = vec![b' '; 10 * 1024 * 1024];
        payload.extend_from_slice(&large.payload);
        large.payload = payload.into();
        run.append_these(vec![(1, large)]);
    });
}

fn the_queue_drops_messages(mut run: Run) {
    run.topology.projections.max_length = Some(2);
    run.topology.projections.message_ttl_ms = Some(5);
    run.inject(|_| {});
}

/// The broker closes the channel of a consumer that acknowledges too late, or its queue cancels the consumer. Its messages are delivered again.
fn a_handler_exceeds_the_consumer_timeout(mut run: Run) {
    let _broker = run.with_own_broker("[{rabbit, [{consumer_timeout, 1000}, {channel_tick_interval, 500}]}].");
    let timed_out = |run: &Run| {
        let errors: String = run.workers.iter().map(Process::errors).collect();
        errors.contains("delivery acknowledgement on channel") || errors.contains("exceeded the consumer timeout")
    };
    run.start();
    for _ in 1..PARTS {
        run.append_part(PARTS);
        run.append_these(vec![(1, spoken(SLOW))]);
    }
    for _ in 0..PARTS {
        // Under load the store may bring the event before the broker does.
        if !timed_out(&run) {
            run.await_applied(run.appended());
            run.append_these(vec![(1, spoken(SLOW))]);
        }
    }
    run.append_rest();
    run.await_applied(run.appended());
    run.until(|run| timed_out(run));
    run.end();
}

/// Parks the poisoned aggregate while all others progress. Its dead letter gives the reason; after a fix and a retry no
/// event is missing.
fn an_event_is_poison(mut run: Run) {
    let poisoned = StreamId::parse("word", "a1").unwrap();
    run.start();
    run.append_part(PARTS);
    run.append_these(vec![(1, spoken(POISON)), (1, spoken(5))]);
    for _ in 2..PARTS {
        run.kill_worker();
        run.append_part(PARTS);
    }
    run.append_rest();
    run.await_applied(run.appended());
    run.until(|run| run.parked().iter().any(|parked| parked.state == ParkedState::Dead));
    run.assert_good_but(poisoned.aggregate_id().as_str());
    let letter = run.dead_letter();
    let headers = letter.properties.headers().clone().unwrap();
    let header = |name: &str| headers.inner()[name].clone();
    let text = |text: &str| AMQPValue::LongString(text.into());
    assert_eq!(header("aggregate_id"), text("a1"));
    assert_eq!(header("projection"), text(NAME));
    let AMQPValue::LongString(reason) = header("reason") else { panic!("{headers:?}") };
    let complaint = if run.worker.keeps_a_view() { KEY_IS_POISON } else { WORD_IS_POISON };
    assert!(String::from_utf8_lossy(reason.as_bytes()).contains(complaint), "{headers:?}");
    assert_eq!(header("attempts"), AMQPValue::LongLongInt(3));
    std::fs::write(run.cure(), "fixed").unwrap();
    run.retry_parked(&poisoned);
    run.until(|run| run.parked().is_empty());
    run.end();
}

/// Ends all sessions of the database several times in a row, as an administrator or a failover does.
fn sessions_are_ended(run: Run) {
    // SQLite has no sessions, so this kills the processes that write its file.
    if run.kind == Kind::Sqlite {
        return processes_are_killed(run);
    }
    run.inject(|run| {
        for _ in 0..5 {
            run.end_sessions();
            run.append_part(10 * PARTS);
        }
    });
}

/// The log goes back and grows another tail, while the read models remember the lost one: a failover to an asynchronous replica of the log's
/// server, or an older file.
fn the_log_loses_its_tail(run: Run) {
    lose_the_tail(run, Part::Log);
}

/// The log and the read models go back together.
fn log_and_models_lose_their_tail(run: Run) {
    lose_the_tail(run, Part::LogAndModels);
}

fn lose_the_tail(run: Run, part: Part) {
    let (mut run, mut standby) = run.with_standby(part);
    run.start();
    // Once in the short form, with an applied tail. In the long form also with a tail that is applied in part.
    let strikes = if run.events > 3_000 { 4 } else { 1 };
    for strike in 0..strikes {
        run.append_part(2 * (strikes + 1));
        standby.leave(&run);
        run.append_part(2 * (strikes + 1));
        let resets = run.resets;
        if strike % 2 == 0 {
            run.settle();
        }
        standby = standby.take_over(&mut run);
        run.append_part(2 * (strikes + 1));
        run.settle();
        // The model had applied every lost event.
        assert!(
            part == Part::LogAndModels || strike % 2 == 1 || run.resets > resets,
            "no worker noticed the lost events"
        );
    }
    run.append_rest();
    run.settle();
    run.stop();
    run.assert_good();
}

/// The processes' clocks are wrong by minutes to decades, each by another time, and jump. One event in twenty fails once, so its retry is
/// planned by such a clock. Other processes, whose clocks are right again, continue with everything.
fn clocks_jump(mut run: Run) {
    std::fs::create_dir(run.cure().with_extension(PANICS)).unwrap();
    run.clocks = Some(Clocks::new());
    run.start();
    for _ in 1..PARTS {
        run.append_part_elsewhere(2 * PARTS);
        run.jump();
        run.append_part(2 * PARTS);
        run.append_these(vec![(1, spoken(POISON)), (1, spoken(5))]);
        run.kill_worker();
        run.kill_relay();
    }
    for process in run.relays.iter().chain(&run.workers) {
        process.clock.as_ref().unwrap().set("+0");
    }
    run.clocks = None;
    run.kill_relay();
    let from = run.appended();
    run.append_rest();
    run.await_applied(run.appended());
    run.until(|run| run.parked().iter().all(|parked| parked.state == ParkedState::Dead));
    std::fs::write(run.cure(), "fixed").unwrap();
    for parked in run.parked() {
        run.retry_parked(&parked.stream);
    }
    run.until(|run| run.parked().is_empty() && run.relayed() == run.appended());
    run.assert_dated_by_the_clock(from);
    run.stop();
    run.assert_good();
}

/// The handler panics once on one event in twenty.
fn handlers_panic(run: Run) {
    std::fs::create_dir(run.cure().with_extension(PANICS)).unwrap();
    run.inject(Run::kill_worker);
}

/// Makes the database read-only, as a demoted primary or a full disk does. On SQLite, another process holds the write locks.
fn the_database_is_read_only_for_a_while(run: Run) {
    run.with_own_server().inject(|run| {
        run.set_read_only(true);
        sleep(Duration::from_secs(1));
        run.set_read_only(false);
    });
}

/// The connections to the database carry no more data, and neither side is told. New connections work.
fn database_connections_go_silent(mut run: Run) {
    // SQLite has no connections, so this pauses the processes that write its file.
    if run.kind == Kind::Sqlite {
        return paused_processes_resume_later(run);
    }
    let proxy = run.with_database_proxy();
    run.start();
    run.append_part(2);
    proxy.silence();
    run.append_rest();
    run.end();
}

/// Injects every fault that a run can survive, in an order that the seed decides.
fn faults_come_at_random(mut run: Run) {
    let proxy = Proxy::start(&run.runtime, run.broker.clone());
    let direct = std::mem::replace(&mut run.broker, proxy.address.to_string());
    std::fs::create_dir(run.cure().with_extension(PANICS)).unwrap();
    run.start();
    while !run.is_all_appended() {
        run.append_part(20);
        match run.random.below(9) {
            0 => run.kill_worker(),
            1 => run.kill_relay(),
            2 => proxy.cut(),
            3 => proxy.set(Traffic::Delayed(Duration::from_millis(20))),
            4 => proxy.set(Traffic::Stalled),
            5 => proxy.set(Traffic::Normal),
            6 => {
                let through_proxy = std::mem::replace(&mut run.broker, direct.clone());
                run.purge();
                let frames = run.frames();
                run.publish(frames.into_iter().rev().map(|frame| frame.body().to_vec()));
                run.broker = through_proxy;
            }
            7 => run.end_sessions(),
            _ => run.await_applied(run.appended()),
        }
    }
    proxy.set(Traffic::Normal);
    run.end();
}

/// Runs without the gate and expects faults: a suite that misses them proves nothing.
pub(crate) fn without_the_gate_the_suite_fails() {
    let mut run = Run::new(Kind::Sqlite, 1_000);
    run.relay = Role::FaultyRelay(run.random.below(u64::MAX));
    run.worker = Role::WithoutGate;
    // A message published before the queue exists is lost.
    run.declare_queue();
    run.start();
    run.append_rest();
    run.await_applied(retell::Position::new(run.appended().get() / 2));
    run.stop();
    assert!(run.faults() > 0, "the suite did not notice that the gate was missing");
}
