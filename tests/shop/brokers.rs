//! The shop over RabbitMQ. The report equals that of a run without a broker, even if each role is a process of its own,
//! if roles or the broker are killed, or if the broker is not running at all. Needs `AMQP_URL`, `POSTGRES_URL` and
//! `MYSQL_URL`.

use std::env;
use std::net::TcpListener;
use std::path::PathBuf;

use retell::broker::rabbitmq::topology::{Channel, Topology};
use serde_json::Value;
use uuid::Uuid;

use crate::external_consumer::{await_messages, read_events};
use crate::fixture::Fixture;
use crate::orders::{HEADER, LINES, Random, generated_orders};
use crate::place::Place;
use crate::process::{Shop, text};
use crate::rabbitmq::RabbitMq;
use crate::servers::{expected, facts, on_sqlite};

/// The line that a relay or a worker prints once it runs.
const READY: &str = "running until SIGTERM";

/// Number of times that a process is killed.
const KILLS: usize = 6;

#[test]
fn report_over_rabbitmq_matches_sqlite() {
    let (deployment, expected) = (Deployment::on(Place::postgres()), expected());
    let report = report(deployment.start("all", &[]));
    assert_eq!(facts(&report), facts(expected));
    assert_eq!((&report["store"], &report["broker"]), (&Value::from("postgres"), &Value::from("rabbitmq")));
    // A second run writes nothing and counts nothing twice, and its relay sends the events that the first one had not.
    let again = report_of_all(&deployment);
    assert_eq!((facts(&again), &again["events_written"]), (facts(expected), &Value::from(0)));
}

#[test]
fn killed_roles_end_with_the_same_report_on_postgres() {
    killed_roles_end_with_the_same_report(Place::postgres());
}

#[test]
fn killed_roles_end_with_the_same_report_on_mysql() {
    killed_roles_end_with_the_same_report(Place::mysql());
}

fn killed_roles_end_with_the_same_report(place: Place) {
    let expected = expected();
    let events = count(expected, "events");
    let mut random = Random::seeded();
    let mut moments: Vec<_> = (0..KILLS).map(|_| random.below(events)).collect();
    moments.sort_unstable();
    println!("killed at {moments:?} of {events} events");
    let deployment = Deployment::on(place);
    let mut others: Vec<Shop> = OTHERS.iter().map(|role| deployment.start(role, &[])).collect();
    let mut api = deployment.start("api", &[]);
    for moment in moments {
        deployment.fixture.await_events(&mut api, moment);
        let slot = usize::try_from(random.below(OTHERS.len() as u64)).expect("it is below four");
        others[slot].kill();
        others[slot] = deployment.start(OTHERS[slot], &[]);
    }
    assert_eq!(facts(&report(api)), facts(expected));
    others.iter_mut().for_each(Shop::assert_running);
    deployment.assert_channels_complete(expected);
    others.into_iter().for_each(assert_stops);
}

/// Roles that run next to the API: more than one of each.
const OTHERS: [&str; 4] = ["relay", "relay", "worker", "worker"];

/// RabbitMQ 3.10 can restart with a quorum queue that has no leader and then accepts no more frames; external consumers'
/// queues are not affected.
#[test]
fn killing_the_broker_twice_does_not_change_the_report() {
    let mut broker = RabbitMq::start();
    // The broker serves this test alone, so the queues keep the shop's own names.
    let deployment = Deployment { topology: topology(), ..Deployment::over(&[broker.address()]) };
    deployment.sell_despite(["1/3", "2/3", "3/3"], |_| {
        broker.kill();
        broker.start_again();
    });
}

#[test]
fn a_rolling_restart_of_a_cluster_does_not_change_the_report() {
    let mut nodes = RabbitMq::start_cluster(3);
    let addresses: Vec<String> = nodes.iter().map(RabbitMq::address).collect();
    let mut deployment = Deployment::over(&addresses);
    // While a node is down, its other queues are, too.
    for queue in deployment.topology.channels.iter_mut().chain([&mut deployment.topology.dead_letter_queue]) {
        queue.kind = Some("quorum".into());
    }
    deployment.sell_despite(["1/4", "2/4", "3/4", "4/4"], |number| {
        nodes[number].stop();
        nodes[number].start_again();
    });
}

#[test]
fn report_is_the_same_without_a_broker() {
    let deployment = Deployment::without_broker(on_sqlite());
    let output = deployment.start("all", &[]).output();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("RabbitMQ is unreachable, the consumers read the store instead"));
    let found = serde_json::from_slice(&output.stdout).expect("the report is JSON");
    assert_eq!(facts(&found), facts(expected()));
}

#[test]
fn roles_end_with_the_same_report_without_a_broker() {
    let deployment = Deployment::without_broker(Fixture::at(Place::mysql(), &generated_orders(LINES)));
    let others = ["relay", "worker"].map(|role| deployment.start(role, &[]));
    assert_eq!(facts(&report(deployment.start("api", &[]))), facts(expected()));
    others.into_iter().for_each(assert_stops);
}

#[test]
fn a_stopped_api_does_not_wait_for_the_workers() {
    let deployment = Deployment::new(Fixture::with(&generated_orders(LINES)), url());
    let mut api = deployment.start("api", &[]);
    deployment.fixture.await_events(&mut api, 500);
    api.ask_to_stop();
    assert_eq!(api.output().status.code(), Some(143));
}

#[test]
fn a_wrong_setup_ends_every_role_at_once() {
    let mut unsafe_queues = Deployment::new(Fixture::with(HEADER), url());
    unsafe_queues.topology.projections.kind = "classic".into();
    let mut differs = Deployment::new(Fixture::with(HEADER), url());
    report_of_all(&differs);
    differs.topology.channels[1].max_length = 10;
    let wrong_vhost = Deployment::new(Fixture::with(HEADER), url().replace("%2f", "nowhere"));
    let wrong_scheme = Deployment::new(Fixture::with(HEADER), "http://guest:secret@localhost".into());
    for (deployment, problem) in [
        (unsafe_queues, "use quorum queues"),
        (differs, "order.events: already exists with other arguments"),
        (wrong_vhost, "cannot set up RabbitMQ: "),
        (wrong_scheme, "not a RabbitMQ URL"),
    ] {
        for role in ["all", "api", "relay", "worker"] {
            let output = deployment.start(role, &[]).output();
            let message = text(&output.stderr);
            assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""), "{role}: {message}");
            assert!(message.contains(problem) && !message.contains("secret"), "{role}: {message}");
        }
    }
}

#[test]
fn the_error_names_an_unreadable_topology_file() {
    let fixture = Fixture::with(HEADER);
    let arguments = |file: &str| ["--broker", "amqp://localhost", "--topology", file].map(str::to_owned);
    let missing = fixture.file("x", "").with_file_name("missing.json");
    let misspelled = fixture.file("misspelled.json", r#"{"chanels": []}"#);
    for (file, problem) in [(missing, "missing.json: No such file"), (misspelled, "unknown field `chanels`")] {
        let arguments = arguments(file.to_str().expect("its name is text"));
        let output = fixture.start(&arguments.each_ref().map(String::as_str)).output();
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains("cannot read the topology in ") && message.contains(problem), "{message}");
    }
}

/// Processes on one store and one broker, with queue names of their own.
struct Deployment {
    fixture: Fixture,
    url: String,
    /// The URL for consumers that know a single node.
    external_url: String,
    topology: Topology,
}

impl Deployment {
    fn on(place: Place) -> Self {
        Self::new(Fixture::at(place, &generated_orders(LINES)), url())
    }

    fn new(fixture: Fixture, url: String) -> Self {
        let topology = topology().with_prefix(&format!("shop-{}.", Uuid::new_v4()));
        Self { fixture, external_url: url.clone(), url, topology }
    }

    /// Creates a deployment whose broker is not running.
    fn without_broker(fixture: Fixture) -> Self {
        // A port that was just released.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        Self::new(fixture, format!("amqp://guest:guest@127.0.0.1:{}/%2f", port.port()))
    }

    /// Creates a deployment over a broker of the test's own.
    fn over(addresses: &[String]) -> Self {
        let url = |addresses: &[String]| format!("amqp://guest:guest@{}/%2f", addresses.join(","));
        let fixture = Fixture::at(Place::postgres(), &generated_orders(LINES));
        Self { external_url: url(&addresses[..1]), ..Self::new(fixture, url(addresses)) }
    }

    /// Sells each share but the last while something happens to the broker, and the last one afterwards, so no process ends before it. The
    /// channels and the report are complete.
    fn sell_despite<const N: usize>(&self, shares: [&str; N], mut happens: impl FnMut(usize)) {
        let expected = expected();
        let mut others = OTHERS.map(|role| self.start(role, &[]));
        let apis = shares.into_iter().enumerate().map(|(number, share)| {
            let events = self.fixture.count_events() + 100;
            let mut api = self.start("api", &["--share", share]);
            if number < N - 1 {
                self.fixture.await_events(&mut api, events);
                if number == 0 {
                    // The broker must have delivered messages before.
                    await_messages(&self.external_url, &self.topology.channels[4].queue, 100);
                }
                happens(number);
            }
            api
        });
        for api in apis.collect::<Vec<_>>() {
            assert_eq!(facts(&report(api)), facts(expected));
        }
        others.iter_mut().for_each(Shop::assert_running);
        self.assert_channels_complete(expected);
        others.into_iter().for_each(assert_stops);
    }

    fn start(&self, role: &str, more: &[&str]) -> Shop {
        let arguments = [&["--broker", &self.url, "--role", role], more].concat();
        if self.topology == topology() {
            // The shop's own names.
            return self.fixture.start(&arguments);
        }
        let json = serde_json::to_string(&self.topology).expect("a topology is JSON");
        let file: PathBuf = self.fixture.file("topology.json", &json);
        let file = file.to_str().expect("its name is text");
        self.fixture.start(&[&arguments[..], &["--topology", file]].concat())
    }

    /// Asserts that the external channels also got every event, by its type.
    fn assert_channels_complete(&self, expected: &Value) {
        let of_type = |event_type: &str| count(&expected["events_by_type"], event_type);
        let orders = of_type("order.created") + of_type("order.confirmed");
        for (channel, events) in [(1, orders), (4, count(expected, "events"))] {
            let positions = read_events(&self.external_url, &self.topology.channels[channel].queue, events);
            assert!(channel == 1 || positions == (1..=events).collect(), "{positions:?}");
        }
    }
}

/// Declares a channel for each kind of event, as an external consumer would ask for.
fn topology() -> Topology {
    [("user", "user.*"), ("order", "order.*"), ("payment", "payment.*"), ("inventory", "inventory.*"), ("all", "#")]
        .into_iter()
        .fold(Topology::new(), |topology, (name, binding)| {
            topology.with_channel(Channel::new(format!("{name}.events"), [binding]))
        })
}

fn url() -> String {
    env::var("AMQP_URL").expect("AMQP_URL is not set: tests/run.sh starts a RabbitMQ")
}

fn report_of_all(deployment: &Deployment) -> Value {
    report(deployment.start("all", &[]))
}

/// Waits for a successful end and returns the report.
fn report(shop: Shop) -> Value {
    let output = shop.output();
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("the report is JSON")
}

fn count(object: &Value, field: &str) -> u64 {
    object[field].as_u64().unwrap_or_else(|| panic!("no number {field} in {object}"))
}

/// Asserts that a role that runs until it is stopped exits with success.
fn assert_stops(mut shop: Shop) {
    shop.await_line(READY);
    shop.ask_to_stop();
    let output = shop.output();
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), ""), "{}", text(&output.stderr));
}
