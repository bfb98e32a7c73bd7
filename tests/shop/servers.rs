//! The shop on database servers. The report equals that on SQLite, even if a process is killed or four processes share
//! the work.

use std::sync::OnceLock;

use serde_json::Value;

use crate::fixture::Fixture;
use crate::orders::{LINES, Random, generated_orders};
use crate::place::Place;
use crate::process::{Shop, text};

const SHARES: [&str; 4] = ["1/4", "2/4", "3/4", "4/4"];

macro_rules! on_each_server {
    ($($test:ident),* $(,)?) => {
        mod postgres {
            $(#[test] fn $test() { super::$test(super::Place::postgres()); })*
        }
        mod mysql {
            $(#[test] fn $test() { super::$test(super::Place::mysql()); })*
        }
    };
}

on_each_server! {
    report_matches_sqlite_and_a_second_run_writes_nothing,
    killed_runs_resume_and_end_with_the_same_report,
    four_processes_share_the_work_despite_a_kill_and_a_duplicate,
    a_missing_database_is_an_error,
}

fn report_matches_sqlite_and_a_second_run_writes_nothing(place: Place) {
    let fixture = Fixture::at(place, &generated_orders(LINES));
    let (on_server, on_file) = (fixture.text_report(&[]), on_sqlite().text_report(&[]));
    assert_eq!(without_times(&on_server), without_times(&on_file));
    assert!(on_server.ends_with("The read models agree with the file, to the cent.\n"), "{on_server}");
    let again = fixture.report(&[]);
    assert_eq!((&again["events_written"], &again["events"]), (&Value::from(0), &Value::from(fixture.count_events())));
}

fn killed_runs_resume_and_end_with_the_same_report(place: Place) {
    let expected = expected();
    let events = expected["events"].as_u64().expect("events are a number");
    let mut random = Random::seeded();
    let mut moments: Vec<_> = (0..3).map(|_| random.below(events)).collect();
    moments.sort_unstable();
    println!("killed at {moments:?} of {events} events");
    let fixture = Fixture::at(place, &generated_orders(LINES));
    for moment in moments {
        fixture.kill_at(moment);
    }
    assert_eq!(facts(&fixture.report(&[])), facts(expected));
    assert_eq!(fixture.count_events(), events);
}

/// All four processes run every consumer on the same tables.
fn four_processes_share_the_work_despite_a_kill_and_a_duplicate(place: Place) {
    let expected = expected();
    let events = expected["events"].as_u64().expect("events are a number");
    let moment = Random::seeded().below(events);
    let killed = usize::try_from(moment % 4).expect("it is less than four");
    println!("{} killed at {moment} of {events} events", SHARES[killed]);
    let fixture = Fixture::at(place, &generated_orders(LINES));
    let mut shops: Vec<Shop> = SHARES.iter().map(|share| fixture.start(&["--share", share])).collect();
    let duplicate = fixture.start(&["--share", SHARES[(killed + 1) % 4]]);
    fixture.await_events(&mut shops[killed], moment);
    shops[killed].kill();
    shops[killed] = fixture.start(&["--share", SHARES[killed]]);
    for shop in shops.into_iter().chain([duplicate]) {
        let output = shop.output();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let report = serde_json::from_slice(&output.stdout).expect("the report is JSON");
        assert_eq!(facts(&report), facts(expected));
    }
    assert_eq!(fixture.count_events(), events);
}

fn a_missing_database_is_an_error(place: Place) {
    place.remove();
    let fixture = Fixture::at(place, &generated_orders(1));
    let output = fixture.start(&[]).output();
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("cannot open the store in ") && message.contains("connect"), "{message}");
}

/// Returns the report that every run must produce, from one run on SQLite.
pub(crate) fn expected() -> &'static Value {
    static EXPECTED: OnceLock<Value> = OnceLock::new();
    EXPECTED.get_or_init(|| on_sqlite().report(&[]))
}

pub(crate) fn on_sqlite() -> Fixture {
    Fixture::with(&generated_orders(LINES))
}

/// Returns the report without the fields that differ between runs, stores and brokers.
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
