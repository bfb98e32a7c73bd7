//! The shop over RabbitMQ: the same report as without it, also where its parts are processes of their own, those are killed, or the broker is,
//! or is not there at all. Needs `AMQP_URL`, `POSTGRES_URL` and `MYSQL_URL`.

use std::env;
use std::net::TcpListener;
use std::path::PathBuf;

use retell::broker::rabbitmq::topology::{Channel, Topology};
use serde_json::Value;
use uuid::Uuid;

use crate::bench::Bench;
use crate::orders::{HEADER, Random, generated_orders};
use crate::place::Place;
use crate::process::{Shop, text};
use crate::rabbitmq::RabbitMq;
use crate::servers::{LINES, expected, facts, on_sqlite};
use crate::stranger::{await_messages, read_events};

/// What a relay or a worker says when it has begun.
const UP: &str = "running until SIGTERM";

/// How often a process is killed.
const KILLS: usize = 6;

#[test]
fn over_rabbitmq_the_report_is_that_of_sqlite_alone() {
    let (party, expected) = (Party::on(Place::postgres()), expected());
    let report = report(party.start("all", &[]));
    assert_eq!(facts(&report), facts(expected));
    assert_eq!((&report["store"], &report["broker"]), (&Value::from("postgres"), &Value::from("rabbitmq")));
    // Started again it writes nothing, counts nothing twice, and its relay sends what it had not.
    let again = report_of_all(&party);
    assert_eq!((facts(&again), &again["events_written"]), (facts(expected), &Value::from(0)));
}

#[test]
fn roles_that_are_killed_at_random_end_with_the_same_report_on_postgres() {
    roles_that_are_killed_at_random_end_with_the_same_report(Place::postgres());
}

#[test]
fn roles_that_are_killed_at_random_end_with_the_same_report_on_mysql() {
    roles_that_are_killed_at_random_end_with_the_same_report(Place::mysql());
}

fn roles_that_are_killed_at_random_end_with_the_same_report(place: Place) {
    let expected = expected();
    let events = count(expected, "events");
    let mut random = Random::seeded();
    let mut moments: Vec<_> = (0..KILLS).map(|_| random.below(events)).collect();
    moments.sort_unstable();
    println!("killed at {moments:?} of {events} events");
    let party = Party::on(place);
    let mut others: Vec<Shop> = OTHERS.iter().map(|role| party.start(role, &[])).collect();
    let mut api = party.start("api", &[]);
    for moment in moments {
        party.bench.await_events(&mut api, moment);
        let slot = usize::try_from(random.below(OTHERS.len() as u64)).expect("it is small");
        others[slot].kill();
        others[slot] = party.start(OTHERS[slot], &[]);
    }
    assert_eq!(facts(&report(api)), facts(expected));
    others.iter_mut().for_each(Shop::assert_running);
    party.assert_announced(expected);
    others.into_iter().for_each(assert_stops);
}

/// Of each more than one.
const OTHERS: [&str; 4] = ["relay", "relay", "worker", "worker"];

/// The last share starts when the broker has been killed for the second time, so nothing has ended before. RabbitMQ 3.10 can come back with
/// a quorum queue that has no leader, and then takes no more frames; what others get has a way of its own.
#[test]
fn a_broker_that_is_killed_twice_changes_nothing() {
    let expected = expected();
    let mut broker = RabbitMq::start();
    // A broker of its own: with the shop's own names.
    let url = format!("amqp://guest:guest@{}/%2f", broker.address());
    let party = Party { bench: Bench::at(Place::postgres(), &generated_orders(LINES)), url, topology: topology() };
    let mut others = OTHERS.map(|role| party.start_with_its_own_names(role, &[]));
    let mut shares = Vec::new();
    for share in ["1/3", "2/3"] {
        let events = party.bench.count_events() + 100;
        let mut api = party.start_with_its_own_names("api", &["--share", share]);
        party.bench.await_events(&mut api, events);
        shares.push(api);
        if share == "1/3" {
            // Before it is killed for the first time, it has been of use.
            await_messages(&party.url, "all.events", 100);
        }
        broker.kill();
        broker.start_again();
    }
    shares.push(party.start_with_its_own_names("api", &["--share", "3/3"]));
    for share in shares {
        assert_eq!(facts(&report(share)), facts(expected));
    }
    others.iter_mut().for_each(Shop::assert_running);
    party.assert_announced(expected);
    others.into_iter().for_each(assert_stops);
}

#[test]
fn without_its_broker_the_report_is_the_same() {
    let party = Party::away(on_sqlite());
    let output = party.start("all", &[]).output();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("RabbitMQ is out of reach, the store carries the events"));
    let found = serde_json::from_slice(&output.stdout).expect("the report is JSON");
    assert_eq!(facts(&found), facts(expected()));
}

#[test]
fn without_their_broker_the_roles_end_with_the_same_report() {
    let party = Party::away(Bench::at(Place::mysql(), &generated_orders(LINES)));
    let others = ["relay", "worker"].map(|role| party.start(role, &[]));
    assert_eq!(facts(&report(party.start("api", &[]))), facts(expected()));
    others.into_iter().for_each(assert_stops);
}

#[test]
fn an_api_that_is_asked_to_stop_does_not_wait_for_the_workers() {
    let party = Party::new(Bench::with(&generated_orders(LINES)), url());
    let mut api = party.start("api", &[]);
    party.bench.await_events(&mut api, 500);
    api.ask_to_stop();
    assert_eq!(api.output().status.code(), Some(143));
}

#[test]
fn a_set_up_that_is_wrong_ends_every_role_at_once() {
    let mut unsafe_party = Party::new(Bench::with(HEADER), url());
    unsafe_party.topology.projections.kind = "classic".into();
    let mut differs = Party::new(Bench::with(HEADER), url());
    report_of_all(&differs);
    differs.topology.channels[1].max_length = 10;
    let elsewhere = Party::new(Bench::with(HEADER), url().replace("%2f", "nowhere"));
    let no_address = Party::new(Bench::with(HEADER), "http://guest:secret@localhost".into());
    for (party, complaint) in [
        (unsafe_party, "use quorum queues"),
        (differs, "order.events: it is there with other arguments"),
        (elsewhere, "cannot set up RabbitMQ: "),
        (no_address, "not an address of RabbitMQ"),
    ] {
        for role in ["all", "api", "relay", "worker"] {
            let output = party.start(role, &[]).output();
            let message = text(&output.stderr);
            assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""), "{role}: {message}");
            assert!(message.contains(complaint) && !message.contains("secret"), "{role}: {message}");
        }
    }
}

#[test]
fn a_topology_that_cannot_be_read_is_named() {
    let bench = Bench::with(HEADER);
    let arguments = |file: &str| ["--broker", "amqp://localhost", "--topology", file].map(str::to_owned);
    let missing = bench.file("x", "").with_file_name("missing.json");
    let misspelt = bench.file("misspelt.json", r#"{"chanels": []}"#);
    for (file, complaint) in [(missing, "missing.json: No such file"), (misspelt, "unknown field `chanels`")] {
        let arguments = arguments(file.to_str().expect("its name is text"));
        let output = bench.start(&arguments.each_ref().map(String::as_str)).output();
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains("cannot read the topology in ") && message.contains(complaint), "{message}");
    }
}

/// Processes on one store and one broker, under names of their own.
struct Party {
    bench: Bench,
    url: String,
    topology: Topology,
}

impl Party {
    fn on(place: Place) -> Self {
        Self::new(Bench::at(place, &generated_orders(LINES)), url())
    }

    fn new(bench: Bench, url: String) -> Self {
        Self { bench, url, topology: topology().with_prefix(&format!("shop-{}.", Uuid::new_v4())) }
    }

    /// Nobody listens where its broker would be.
    fn away(bench: Bench) -> Self {
        // A port that was just given back.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        Self::new(bench, format!("amqp://guest:guest@127.0.0.1:{}/%2f", port.port()))
    }

    fn start(&self, role: &str, more: &[&str]) -> Shop {
        let json = serde_json::to_string(&self.topology).expect("a topology is JSON");
        let file: PathBuf = self.bench.file("topology.json", &json);
        let file = file.to_str().expect("its name is text");
        self.start_with_its_own_names(role, &[&["--topology", file], more].concat())
    }

    /// Without a file: the names are the shop's.
    fn start_with_its_own_names(&self, role: &str, more: &[&str]) -> Shop {
        self.bench.start(&[&["--broker", &self.url, "--role", role], more].concat())
    }

    /// Others have got every event as well, by its type.
    fn assert_announced(&self, expected: &Value) {
        let of_type = |event_type: &str| count(&expected["events_by_type"], event_type);
        let orders = of_type("order.created") + of_type("order.confirmed");
        for (channel, events) in [(1, orders), (4, count(expected, "events"))] {
            let positions = read_events(&self.url, &self.topology.channels[channel].queue, events);
            assert!(channel == 1 || positions == (1..=events).collect(), "{positions:?}");
        }
    }
}

/// As somebody else would write it down who binds queues of that kind.
fn topology() -> Topology {
    [("user", "user.*"), ("order", "order.*"), ("payment", "payment.*"), ("inventory", "inventory.*"), ("all", "#")]
        .into_iter()
        .fold(Topology::new(), |topology, (name, binding)| {
            topology.with_channel(Channel::new(format!("{name}.events"), [binding]))
        })
}

fn url() -> String {
    env::var("AMQP_URL").expect("AMQP_URL names a RabbitMQ: tests/run.sh starts one")
}

fn report_of_all(party: &Party) -> Value {
    report(party.start("all", &[]))
}

/// What it has printed at its good end.
fn report(shop: Shop) -> Value {
    let output = shop.output();
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("the report is JSON")
}

fn count(object: &Value, field: &str) -> u64 {
    object[field].as_u64().unwrap_or_else(|| panic!("no number {field} in {object}"))
}

/// To be asked to stop is no failure for those who run until then.
fn assert_stops(mut shop: Shop) {
    shop.await_line(UP);
    shop.ask_to_stop();
    let output = shop.output();
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), ""), "{}", text(&output.stderr));
}
