//! The shop on database servers: the same report as on SQLite, also when killed, and with four processes sharing the work.

use std::sync::OnceLock;

use serde_json::Value;

use crate::bench::Bench;
use crate::orders::{Random, generated_orders};
use crate::place::Place;
use crate::process::{Shop, text};

/// Enough that deliveries come on top of the first.
pub(crate) const LINES: u32 = 600;

const SHARES: [&str; 4] = ["1/4", "2/4", "3/4", "4/4"];

macro_rules! on_each_server {
    ($($claim:ident),* $(,)?) => {
        mod postgres {
            $(#[test] fn $claim() { super::$claim(super::Place::postgres()); })*
        }
        mod mysql {
            $(#[test] fn $claim() { super::$claim(super::Place::mysql()); })*
        }
    };
}

on_each_server! {
    the_report_is_that_of_sqlite_and_started_again_nothing_is_written,
    killed_at_any_moment_it_goes_on_and_arrives_at_the_same_report,
    four_processes_share_the_work_also_when_one_is_killed_and_one_doubled,
    a_database_that_is_not_there_is_an_error,
}

fn the_report_is_that_of_sqlite_and_started_again_nothing_is_written(place: Place) {
    let bench = Bench::at(place, &generated_orders(LINES));
    let (here, there) = (bench.report_for_people(&[]), on_sqlite().report_for_people(&[]));
    assert_eq!(without_times(&here), without_times(&there));
    assert!(here.ends_with("The read models agree with the file, to the cent.\n"), "{here}");
    let again = bench.report(&[]);
    assert_eq!((&again["events_written"], &again["events"]), (&Value::from(0), &Value::from(bench.count_events())));
}

fn killed_at_any_moment_it_goes_on_and_arrives_at_the_same_report(place: Place) {
    let expected = expected();
    let events = expected["events"].as_u64().expect("events are a number");
    let mut random = Random::seeded();
    let mut moments: Vec<_> = (0..3).map(|_| random.below(events)).collect();
    moments.sort_unstable();
    println!("killed at {moments:?} of {events} events");
    let bench = Bench::at(place, &generated_orders(LINES));
    for moment in moments {
        bench.kill_at(moment);
    }
    assert_eq!(facts(&bench.report(&[])), facts(expected));
    assert_eq!(bench.count_events(), events);
}

/// All of them run every consumer on the same tables.
fn four_processes_share_the_work_also_when_one_is_killed_and_one_doubled(place: Place) {
    let expected = expected();
    let events = expected["events"].as_u64().expect("events are a number");
    let moment = Random::seeded().below(events);
    let killed = usize::try_from(moment % 4).expect("it is less than four");
    println!("{} killed at {moment} of {events} events", SHARES[killed]);
    let bench = Bench::at(place, &generated_orders(LINES));
    let mut shops: Vec<Shop> = SHARES.iter().map(|share| bench.start(&["--share", share])).collect();
    let doubled = bench.start(&["--share", SHARES[(killed + 1) % 4]]);
    bench.await_events(&mut shops[killed], moment);
    shops[killed].kill();
    shops[killed] = bench.start(&["--share", SHARES[killed]]);
    for shop in shops.into_iter().chain([doubled]) {
        let output = shop.output();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let report = serde_json::from_slice(&output.stdout).expect("the report is JSON");
        assert_eq!(facts(&report), facts(expected));
    }
    assert_eq!(bench.count_events(), events);
}

fn a_database_that_is_not_there_is_an_error(place: Place) {
    place.remove();
    let bench = Bench::at(place, &generated_orders(1));
    let output = bench.start(&[]).output();
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("cannot open the store in ") && message.contains("connect"), "{message}");
}

/// What everybody must arrive at: sold once, on SQLite.
pub(crate) fn expected() -> &'static Value {
    static EXPECTED: OnceLock<Value> = OnceLock::new();
    EXPECTED.get_or_init(|| on_sqlite().report(&[]))
}

pub(crate) fn on_sqlite() -> Bench {
    Bench::with(&generated_orders(LINES))
}

/// The report without what differs from run to run, from store to store, and from broker to broker.
pub(crate) fn facts(report: &Value) -> Value {
    let mut facts = report.clone();
    for field in ["seconds", "events_per_second", "events_written", "store", "broker"] {
        facts.as_object_mut().expect("the report is an object").remove(field).expect("it has this field");
    }
    facts
}

fn without_times(report: &str) -> Vec<&str> {
    report.lines().filter(|line| !line.starts_with("seconds") && !line.starts_with("events/s")).collect()
}
