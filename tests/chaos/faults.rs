//! What breaks.

use std::time::Duration;

use lapin::message::BasicGetMessage;
use lapin::options::{BasicGetOptions, BasicPublishOptions, QueuePurgeOptions};
use lapin::types::AMQPValue;
use lapin::{BasicProperties, ConnectionProperties};
use retell::broker::frame::Frame;
use retell::broker::{Broker, Consumption};
use retell::store::ParkedState;
use retell::{ProjectionName, StreamId};

use crate::child::Role;
use crate::proxy::{Proxy, Weather};
use crate::run::{Kind, Run};
use crate::tally::{NAME, POISON, SLOW, WORD_IS_POISON, spoken};
use crate::view::KEY_IS_POISON;

type Fault = fn(Run);

pub(crate) const FAULTS: [(&str, Fault); 18] = [
    ("nothing_breaks", Run::work),
    ("the_broker_is_killed", the_broker_is_killed),
    ("the_broker_is_never_there", the_broker_is_never_there),
    ("the_broker_loses_its_data", the_broker_loses_its_data),
    ("the_queue_is_purged", the_queue_is_purged),
    ("messages_are_lost_doubled_and_shuffled", messages_are_lost_doubled_and_shuffled),
    ("old_frames_and_junk_come_between", old_frames_and_junk_come_between),
    ("connections_are_cut", connections_are_cut),
    ("connections_fall_silent", connections_fall_silent),
    ("the_network_is_slow", the_network_is_slow),
    ("processes_are_killed", processes_are_killed),
    ("processes_are_paused_and_come_back_as_zombies", processes_are_paused_and_come_back_as_zombies),
    ("an_event_is_large", an_event_is_large),
    ("the_database_is_killed", the_database_is_killed),
    ("the_queue_drops_what_is_old_or_too_much", the_queue_drops_what_is_old_or_too_much),
    ("a_handler_is_slower_than_the_broker_waits", a_handler_is_slower_than_the_broker_waits),
    ("an_event_is_poison", an_event_is_poison),
    ("many_things_break_at_random", many_things_break_at_random),
];

/// Into how many parts a run is cut; something breaks after each.
const PARTS: u64 = 5;

impl Run {
    fn work(mut self) {
        self.start();
        self.end();
    }

    /// Something breaks while the workers are at what was just appended.
    fn break_by(mut self, mut fault: impl FnMut(&mut Self)) {
        self.start();
        for _ in 1..PARTS {
            self.append_part(PARTS);
            fault(&mut self);
        }
        self.end();
    }

    fn consumption(&self) -> Consumption {
        if self.worker.has_order_per_aggregate() { Consumption::Shared } else { Consumption::Sole }
    }

    fn queue(&self) -> String {
        self.topology.queue(&ProjectionName::new(NAME).unwrap(), self.consumption()).unwrap()
    }

    /// A channel of somebody who knows nothing of the library.
    async fn stranger(&self) -> lapin::Channel {
        let url = format!("amqp://guest:guest@{}/%2f", self.broker);
        let connection = lapin::Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
        connection.create_channel().await.unwrap()
    }

    fn purge(&self) {
        self.runtime.block_on(async {
            let stranger = self.stranger().await;
            // It may not be there yet.
            drop(stranger.queue_purge(self.queue().into(), QueuePurgeOptions::default()).await);
        });
    }

    /// The oldest of them.
    fn dead_letter(&self) -> BasicGetMessage {
        self.runtime.block_on(async {
            let queue = self.topology.dead_letter_queue.queue.as_str();
            let letter = self.stranger().await.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await;
            letter.unwrap().expect("the dead are buried before they are called dead")
        })
    }

    fn make_queue(&self) {
        let broker = self.job(Role::Worker).broker();
        let name = ProjectionName::new(NAME).unwrap();
        self.runtime.block_on(broker.subscribe(&name, self.consumption())).map(drop).unwrap();
    }

    fn publish(&self, bodies: impl IntoIterator<Item = Vec<u8>>) {
        self.runtime.block_on(async {
            let stranger = self.stranger().await;
            for body in bodies {
                let (queue, options) = (self.queue().into(), BasicPublishOptions::default());
                stranger.basic_publish("".into(), queue, options, &body, BasicProperties::default()).await.unwrap();
            }
            stranger.close(200, "done".into()).await.unwrap();
        });
    }
}

fn the_broker_is_killed(mut run: Run) {
    let mut broker = run.with_own_broker("[].");
    run.break_by(|run| {
        broker.kill();
        run.append_part(2 * PARTS);
        broker.start_again();
    });
}

fn the_broker_is_never_there(mut run: Run) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    run.broker = format!("127.0.0.1:{port}");
    run.work();
}

fn the_broker_loses_its_data(mut run: Run) {
    let mut broker = run.with_own_broker("[].");
    run.break_by(|_| {
        broker.kill();
        broker.wipe();
        broker.start_again();
    });
}

fn the_queue_is_purged(run: Run) {
    run.break_by(|run| run.purge());
}

fn messages_are_lost_doubled_and_shuffled(mut run: Run) {
    run.relay = Role::FaultyRelay(run.random.below(u64::MAX));
    run.break_by(|_| {});
}

fn old_frames_and_junk_come_between(run: Run) {
    run.break_by(|run| {
        let frames: Vec<Frame> = run.frames();
        let junk = [b"{\"hello\":\"world\"}".to_vec(), Vec::new(), vec![1; 100]];
        run.publish(frames.into_iter().rev().map(|frame| frame.body().to_vec()).chain(junk));
    });
}

fn connections_are_cut(mut run: Run) {
    let proxy = Proxy::start(&run.runtime, run.broker.clone());
    run.broker = proxy.address.to_string();
    run.break_by(|_| proxy.cut());
}

/// They stay open, and nothing comes through: the store carries on.
fn connections_fall_silent(mut run: Run) {
    let proxy = Proxy::start(&run.runtime, run.broker.clone());
    run.broker = proxy.address.to_string();
    run.break_by(|run| {
        proxy.set(Weather::Silent);
        run.append_part(2 * PARTS);
        run.await_applied(run.appended());
        proxy.set(Weather::Fine);
    });
}

fn the_network_is_slow(mut run: Run) {
    let proxy = Proxy::start(&run.runtime, run.broker.clone());
    proxy.set(Weather::Slow(Duration::from_millis(200)));
    run.broker = proxy.address.to_string();
    run.work();
}

fn processes_are_killed(run: Run) {
    run.break_by(|run| {
        for _ in 0..2 {
            run.kill_worker();
            run.kill_relay();
            run.append_part(3 * PARTS);
        }
    });
}

fn processes_are_paused_and_come_back_as_zombies(run: Run) {
    let mut slot = 0;
    run.break_by(|run| {
        run.pause_one_of_each(slot);
        run.append_part(2 * PARTS);
        // The others take over, also where the paused one holds a transaction open: the server ends it after half a minute. The lock on
        // a file of SQLite's stays until it goes on.
        if slot == 0 && run.kind != Kind::Sqlite {
            run.await_applied(run.appended());
        }
        slot += 1;
        run.go_on();
    });
}

fn the_database_is_killed(run: Run) {
    // A file of SQLite's has no server: there the processes that write it die.
    if run.kind == Kind::Sqlite {
        return processes_are_killed(run);
    }
    run.with_own_server().break_by(|run| run.server.as_mut().unwrap().kill_and_start());
}

fn an_event_is_large(run: Run) {
    run.break_by(|run| {
        let mut large = spoken(7);
        // JSON does not mind the blanks.
        let mut payload = vec![b' '; 10 * 1024 * 1024];
        payload.extend_from_slice(&large.payload);
        large.payload = payload.into();
        run.append_these(vec![(1, large)]);
    });
}

fn the_queue_drops_what_is_old_or_too_much(mut run: Run) {
    run.topology.projections.max_length = Some(2);
    run.topology.projections.message_ttl_ms = Some(5);
    run.break_by(|_| {});
}

/// The broker closes the channel of a consumer that acknowledges too late, and delivers again.
fn a_handler_is_slower_than_the_broker_waits(mut run: Run) {
    let broker = run.with_own_broker("[{rabbit, [{consumer_timeout, 1000}, {channel_tick_interval, 500}]}].");
    let complains = || broker.has_said("delivery acknowledgement on channel");
    run.start();
    for _ in 1..PARTS {
        run.append_part(PARTS);
        run.append_these(vec![(1, spoken(SLOW))]);
    }
    for _ in 0..PARTS {
        // While there is much to do, the store may bring it first.
        if !complains() {
            run.await_applied(run.appended());
            run.append_these(vec![(1, spoken(SLOW))]);
        }
    }
    run.end();
    assert!(complains(), "nothing was slower than the broker waits");
}

/// One aggregate is set aside, and every other goes on. Its letter says why; with a cure it is taken up again, and nothing is missing.
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
    std::fs::write(run.cure(), "found").unwrap();
    run.retry_parked(&poisoned);
    run.until(|run| run.parked().is_empty());
    run.end();
}

/// Everything that a run can bear in turn, in an order that the seed says.
fn many_things_break_at_random(mut run: Run) {
    let proxy = Proxy::start(&run.runtime, run.broker.clone());
    let direct = std::mem::replace(&mut run.broker, proxy.address.to_string());
    run.start();
    while !run.is_all_appended() {
        run.append_part(20);
        match run.random.below(8) {
            0 => run.kill_worker(),
            1 => run.kill_relay(),
            2 => proxy.cut(),
            3 => proxy.set(Weather::Slow(Duration::from_millis(20))),
            4 => proxy.set(Weather::Silent),
            5 => proxy.set(Weather::Fine),
            6 => {
                let through_proxy = std::mem::replace(&mut run.broker, direct.clone());
                run.purge();
                let frames = run.frames();
                run.publish(frames.into_iter().rev().map(|frame| frame.body().to_vec()));
                run.broker = through_proxy;
            }
            _ => run.await_applied(run.appended()),
        }
    }
    proxy.set(Weather::Fine);
    run.end();
}

/// The suite is worth something only if it sees what the gate prevents.
pub(crate) fn without_the_gate_the_suite_fails() {
    let mut run = Run::new(Kind::Sqlite, 1_000);
    run.relay = Role::FaultyRelay(run.random.below(u64::MAX));
    run.worker = Role::WithoutGate;
    // What is published before there is a queue is gone.
    run.make_queue();
    run.start();
    run.append_rest();
    run.await_applied(retell::Position::new(run.appended().get() / 2));
    run.stop();
    assert!(run.faults() > 0, "whatever came was applied, and nobody saw it");
}
