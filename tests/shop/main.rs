//! Runs the example `shop` as its users do: starts the process, kills it, stops it and starts it again.

mod brokers;
mod external_consumer;
mod fixture;
mod orders;
mod place;
mod process;
#[path = "../support/programs.rs"]
mod programs;
#[path = "../support/rabbitmq.rs"]
mod rabbitmq;
mod servers;

use std::fs;
use std::process::Command;

use retell::rusqlite::Connection;

use fixture::{Fixture, Sums, expected_events};
use orders::{HEADER, LINES, Random, generated_orders};
use process::{run, shop, text};

#[test]
fn the_report_equals_the_sums_of_the_file() {
    let fixture = Fixture::new();
    assert_eq!(fixture.sell(&[]), fixture.sums_of_file());
}

#[test]
fn one_writer_and_many_writers_end_with_the_same_sums() {
    let (one, many) = (Fixture::new(), Fixture::new());
    assert_eq!(one.sell(&["--writers", "1"]), many.sell(&["--writers", "32"]));
    assert_eq!(one.count_events(), many.count_events());
}

#[test]
fn killed_runs_resume_and_end_with_the_same_sums() {
    let undisturbed = Fixture::new();
    let expected = undisturbed.sell(&[]);
    let events = undisturbed.count_events();
    let mut random = Random::seeded();
    for _ in 0..3 {
        let fixture = Fixture::new();
        let mut moments: Vec<_> = (0..3).map(|_| random.below(events)).collect();
        moments.sort_unstable();
        println!("killed at {moments:?} of {events} events");
        for moment in moments {
            fixture.kill_at(moment);
        }
        assert_eq!(fixture.sell(&[]), expected);
        assert_eq!(fixture.count_events(), events);
    }
}

#[test]
fn a_run_after_a_finished_one_writes_nothing() {
    let fixture = Fixture::new();
    let first = fixture.sell(&[]);
    let events = fixture.count_events();
    assert_eq!(fixture.sell(&[]), first);
    assert_eq!(fixture.count_events(), events);
}

#[test]
fn a_run_stopped_by_sigterm_can_resume() {
    let fixture = Fixture::new();
    let shop = fixture.start_and_await(500);
    shop.ask_to_stop();
    let output = shop.output();
    assert_eq!(output.status.code(), Some(143), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("stopped on request"), "{}", text(&output.stderr));
    assert!(fixture.count_events() < expected_events(&fixture.sums_of_file()));
    assert_eq!(fixture.sell(&[]), fixture.sums_of_file());
}

#[test]
fn events_of_a_line_share_a_correlation_id_across_a_kill() {
    let fixture = Fixture::new();
    fixture.kill_at(1_000);
    fixture.sell(&[]);
    let db = Connection::open(fixture.db()).expect("the run has created it");
    let query = "SELECT count(DISTINCT correlation_id) FROM retell_events WHERE event_type = ?1";
    for event_type in ["order.created", "payment.completed", "inventory.deducted"] {
        let ids: i64 = db.query_row(query, [event_type], |row| row.get(0)).expect("the query is valid");
        assert_eq!(ids, i64::from(LINES), "{event_type}");
    }
    let alone = "SELECT count(*) FROM (SELECT 1 FROM retell_events WHERE event_type IN
        ('order.created', 'payment.completed', 'inventory.deducted') GROUP BY correlation_id HAVING count(*) <> 3)";
    assert_eq!(db.query_row(alone, [], |row| row.get::<_, i64>(0)).expect("the query is valid"), 0);
}

/// The orders in lines 3, 6, 9 and so on are not paid.
#[test]
fn unpaid_orders_are_cancelled_even_across_a_kill() {
    let fixture = Fixture::with(&generated_orders(300));
    // Longer than the shop needs to start again, even on a busy machine.
    let unpaid = ["--unpaid", "3", "--patience", "15"];
    let mut shop = fixture.start(&unpaid);
    fixture.await_events(&mut shop, 1_000);
    shop.kill();
    let report = fixture.report(&unpaid);
    let of_type = |event_type: &str| report["events_by_type"][event_type].as_u64().unwrap_or(0);
    // 300 orders follow the header, which is line 1, so the unpaid lines are 3, 6, .. 300.
    assert_eq!((report["orders"].as_u64(), report["cancelled"].as_u64()), (Some(200), Some(100)));
    assert_eq!((of_type("order.confirmed"), of_type("payment.completed")), (200, 200));
    assert_eq!((of_type("order.cancelled"), of_type("inventory.released")), (100, 100));
    assert_eq!(of_type("inventory.deducted"), 300);
}

#[test]
fn a_malformed_line_is_reported_and_nothing_is_written() {
    for (line, problem) in [
        ("1 19970101 1", "3 columns"),
        ("1 19970101 1 1.00 1", "5 columns"),
        ("", "0 columns"),
        ("x 19970101 1 1.00", "customer id"),
        ("-1 19970101 1 1.00", "customer id"),
        ("99999999999999999999 19970101 1 1.00", "customer id"),
        ("1 19970229 1 1.00", "date"),
        ("1 1997-01-01 1 1.00", "date"),
        ("1 19971301 1 1.00", "date"),
        ("1 19970101 0 1.00", "number of CDs"),
        ("1 19970101 -2 1.00", "number of CDs"),
        ("1 19970101 1.5 1.00", "number of CDs"),
        ("1 19970101 4294967297 1.00", "number of CDs"),
        ("1 19970101 1 NaN", "amount"),
        ("1 19970101 1 inf", "amount"),
        ("1 19970101 1 -1.00", "amount"),
        ("1 19970101 1 +1.00", "amount"),
        ("1 19970101 1 1e3", "amount"),
        ("1 19970101 1 1.001", "amount"),
        ("1 19970101 1 1.", "amount"),
        ("1 19970101 1 18446744073709551616", "amount"),
        (&"1 ".repeat(150), "longer than"),
    ] {
        let fixture = Fixture::with(&format!(
            "{HEADER}1 19970101 1 1.00\r\n2 19970101 1 1.00\r\n{line}\r\n3 19970101 1 1.00\r\n"
        ));
        fixture.assert_refused(4, problem);
    }
}

#[test]
fn a_file_without_its_header_is_refused() {
    Fixture::with("1 19970101 1 1.00\r\n").assert_refused(1, "header");
    Fixture::with("").assert_refused(1, "header");
}

#[test]
fn invalid_utf8_is_refused() {
    let fixture = Fixture::with("");
    let mut bytes = HEADER.as_bytes().to_vec();
    bytes.extend(b"1 19970101 1 \xff.00\r\n");
    fs::write(&fixture.orders, bytes).expect("the folder is writable");
    fixture.assert_refused(2, "UTF-8");
}

#[test]
fn the_error_names_a_missing_file() {
    let fixture = Fixture::new();
    fs::remove_file(&fixture.orders).expect("the file is there");
    let output = fixture.start(&[]).output();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("orders.txt"), "{}", text(&output.stderr));
}

#[test]
fn a_file_with_only_a_header_sells_nothing() {
    let fixture = Fixture::with(HEADER);
    assert_eq!(fixture.sell(&[]), Sums::default());
}

#[test]
fn a_last_line_without_a_newline_counts() {
    let fixture = Fixture::with(&format!("{HEADER}1 19970101 2 1.05"));
    assert_eq!(fixture.sell(&[]), fixture.sums_of_file());
}

#[test]
fn a_changed_file_over_the_same_log_is_detected() {
    let fixture = Fixture::with(&format!("{HEADER}1 19970101 2 1.05\r\n"));
    fixture.sell(&[]);
    fs::write(&fixture.orders, format!("{HEADER}1 19970101 2 1.06\r\n")).expect("the folder is writable");
    let output = fixture.start(&[]).output();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("revenue: $1.05 in the read models, $1.06 in the file"));
}

#[test]
fn the_report_reveals_a_parked_aggregate() {
    let fixture = Fixture::with(&format!("{HEADER}1 19970101 2 1.05\r\n"));
    fixture.sell(&[]);
    fs::write(&fixture.orders, format!("{HEADER}1 19970101 2 1.05\r\n1 19970102 1 2.00\r\n"))
        .expect("the folder is writable");
    let models = Connection::open(fixture.db().with_extension("db.models")).expect("the read models are there");
    models.execute("UPDATE audit_last SET position = position + 1", []).expect("the audit has a table");
    drop(models);
    let output = fixture.start(&[]).output();
    assert_eq!(output.status.code(), Some(1));
    let message = text(&output.stderr);
    // The audit skips the first of the six new events, the order, because its position is before that of the audit. It
    // parks that aggregate and applies the events of the others: all but the order's confirmation.
    assert!(message.contains("events: 111 in the read models, 113 in the file"), "{message}");
}

#[test]
fn read_models_without_their_log_are_refused() {
    let fixture = Fixture::with(&format!("{HEADER}1 19970101 2 1.05\r\n"));
    fixture.sell(&[]);
    fs::remove_file(fixture.db()).expect("the log is there");
    let output = fixture.start(&[]).output();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("the log has another history"), "{}", text(&output.stderr));
}

#[test]
fn json_is_one_object_with_every_field() {
    let fixture = Fixture::new();
    let report = fixture.report(&[]);
    for field in ["customers", "orders", "units", "revenue_cents", "events"] {
        assert!(report[field].is_u64(), "{field}: {}", report[field]);
    }
    assert!(report["revenue_by_month"].is_object());
    assert!(report["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0));
    assert!(report["events_per_second"].as_f64().is_some_and(|speed| speed > 0.0));
    assert_eq!((report["store"].as_str(), report["broker"].as_str()), (Some("sqlite"), Some("memory")));
    assert_eq!(report["events"], fixture.count_events());
}

#[test]
fn the_text_report_has_a_chart_and_totals() {
    let fixture = Fixture::with(&generated_orders(1_000));
    let output = run(Command::new(shop()).arg("--orders").arg(&fixture.orders)).output();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report = text(&output.stdout);
    for part in ["Revenue by month", "█", "Best customers", "came back", "1,000", "agree with the file"] {
        assert!(report.contains(part), "{part} is missing in {report}");
    }
}

#[test]
fn processes_can_share_one_sqlite_file() {
    let fixture = Fixture::new();
    let shops = ["1/2", "2/2"].map(|share| fixture.start(&["--share", share]));
    for shop in shops {
        let output = shop.output();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let events = fixture.count_events();
    assert_eq!(fixture.sell(&[]), fixture.sums_of_file());
    assert_eq!(fixture.count_events(), events);
}

#[test]
fn invalid_arguments_are_refused() {
    for (arguments, problem) in [
        (&["--store", "redis://localhost"][..], "postgres://.. or mysql://.."),
        (&["--db", "shop.db", "--share", "5/4"], "K/N"),
        (&["--share", "1/4"], "required"),
        (&["--unpaid", "0"], "non-zero"),
        (&["--patience", "-1"], "unexpected"),
        (&["--db", "shop.db", "--store", "mysql://localhost/shop"], "cannot be used with"),
        (&["--role", "boss"], "all, api, relay, worker"),
        (&["--db", "shop.db", "--role", "api"], "--broker <URL>"),
        (&["--broker", "amqp://localhost", "--role", "relay"], "--db <PATH>|--store <URL>"),
        (&["--broker", "amqp://localhost", "--role", "worker"], "--db <PATH>|--store <URL>"),
        (&["--topology", "topology.json"], "--broker <URL>"),
    ] {
        let output = run(Command::new(shop()).args(arguments)).output();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(problem), "{}", text(&output.stderr));
    }
}
