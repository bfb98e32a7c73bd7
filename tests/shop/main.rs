//! The example `shop` as its users see it: a process that is started, killed, stopped and started again.

mod bench;
mod brokers;
mod orders;
mod place;
mod process;
#[path = "../support/rabbitmq.rs"]
mod rabbitmq;
mod servers;
mod stranger;

use std::fs;
use std::process::Command;

use retell::rusqlite::Connection;

use bench::{Bench, Sums, expected_events};
use orders::{HEADER, LINES, Random, generated_orders};
use process::{run, shop, text};

#[test]
fn the_report_equals_the_sums_of_the_file() {
    let bench = Bench::new();
    assert_eq!(bench.sell(&[]), bench.truth());
}

#[test]
fn one_writer_and_many_arrive_at_the_same_sums() {
    let (one, many) = (Bench::new(), Bench::new());
    assert_eq!(one.sell(&["--writers", "1"]), many.sell(&["--writers", "32"]));
    assert_eq!(one.count_events(), many.count_events());
}

#[test]
fn killed_at_any_moment_it_goes_on_and_arrives_at_the_same_sums() {
    let undisturbed = Bench::new();
    let expected = undisturbed.sell(&[]);
    let events = undisturbed.count_events();
    let mut random = Random::seeded();
    for _ in 0..3 {
        let bench = Bench::new();
        let mut moments: Vec<_> = (0..3).map(|_| random.below(events)).collect();
        moments.sort_unstable();
        println!("killed at {moments:?} of {events} events");
        for moment in moments {
            bench.kill_at(moment);
        }
        assert_eq!(bench.sell(&[]), expected);
        assert_eq!(bench.count_events(), events);
    }
}

#[test]
fn a_finished_run_can_be_started_again_and_writes_nothing() {
    let bench = Bench::new();
    let first = bench.sell(&[]);
    let events = bench.count_events();
    assert_eq!(bench.sell(&[]), first);
    assert_eq!(bench.count_events(), events);
}

#[test]
fn asked_to_stop_it_ends_in_order_and_can_go_on() {
    let bench = Bench::new();
    let shop = bench.start_and_await(1_000);
    shop.ask_to_stop();
    let output = shop.output();
    assert_eq!(output.status.code(), Some(143), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("stopped on request"), "{}", text(&output.stderr));
    assert!(bench.count_events() < expected_events(&bench.truth()));
    assert_eq!(bench.sell(&[]), bench.truth());
}

#[test]
fn all_events_of_a_line_share_one_correlation_id_also_across_a_kill() {
    let bench = Bench::new();
    bench.kill_at(2_000);
    bench.sell(&[]);
    let db = Connection::open(bench.db()).expect("the run has made it");
    let query = "SELECT count(DISTINCT correlation_id) FROM retell_events WHERE event_type = ?1";
    for event_type in ["order.created", "payment.completed", "inventory.deducted"] {
        let ids: i64 = db.query_row(query, [event_type], |row| row.get(0)).expect("the query is sound");
        assert_eq!(ids, i64::from(LINES), "{event_type}");
    }
    let alone = "SELECT count(*) FROM (SELECT 1 FROM retell_events WHERE event_type IN
        ('order.created', 'payment.completed', 'inventory.deducted') GROUP BY correlation_id HAVING count(*) <> 3)";
    assert_eq!(db.query_row(alone, [], |row| row.get::<_, i64>(0)).expect("the query is sound"), 0);
}

/// The third line is not paid, and neither is the sixth, and so on.
#[test]
fn orders_that_are_not_paid_are_cancelled_also_across_a_kill() {
    let bench = Bench::with(&generated_orders(300));
    let unpaid = ["--unpaid", "3", "--patience", "2"];
    let mut shop = bench.start(&unpaid);
    bench.await_events(&mut shop, 1_000);
    shop.kill();
    let report = bench.report(&unpaid);
    let of_type = |event_type: &str| report["events_by_type"][event_type].as_u64().unwrap_or(0);
    // 300 lines after the header, which is line 1: 3, 6, .. 300.
    assert_eq!((report["orders"].as_u64(), report["cancelled"].as_u64()), (Some(200), Some(100)));
    assert_eq!((of_type("order.confirmed"), of_type("payment.completed")), (200, 200));
    assert_eq!((of_type("order.cancelled"), of_type("inventory.released")), (100, 100));
    assert_eq!(of_type("inventory.deducted"), 300);
}

#[test]
fn a_malformed_line_is_named_and_nothing_is_written() {
    for (line, complaint) in [
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
        let bench =
            Bench::with(&format!("{HEADER}1 19970101 1 1.00\r\n2 19970101 1 1.00\r\n{line}\r\n3 19970101 1 1.00\r\n"));
        bench.assert_refused(4, complaint);
    }
}

#[test]
fn a_file_without_its_header_is_refused() {
    Bench::with("1 19970101 1 1.00\r\n").assert_refused(1, "header");
    Bench::with("").assert_refused(1, "header");
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    let bench = Bench::with("");
    let mut bytes = HEADER.as_bytes().to_vec();
    bytes.extend(b"1 19970101 1 \xff.00\r\n");
    fs::write(&bench.orders, bytes).expect("the folder is writable");
    bench.assert_refused(2, "UTF-8");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let bench = Bench::new();
    fs::remove_file(&bench.orders).expect("the file is there");
    let output = bench.start(&[]).output();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("orders.txt"), "{}", text(&output.stderr));
}

#[test]
fn a_file_of_nothing_but_the_header_sells_nothing() {
    let bench = Bench::with(HEADER);
    assert_eq!(bench.sell(&[]), Sums::default());
}

#[test]
fn a_last_line_without_its_end_counts() {
    let bench = Bench::with(&format!("{HEADER}1 19970101 2 1.05"));
    assert_eq!(bench.sell(&[]), bench.truth());
}

#[test]
fn another_file_over_the_same_log_is_found_out() {
    let bench = Bench::with(&format!("{HEADER}1 19970101 2 1.05\r\n"));
    bench.sell(&[]);
    fs::write(&bench.orders, format!("{HEADER}1 19970101 2 1.06\r\n")).expect("the folder is writable");
    let output = bench.start(&[]).output();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("revenue: $1.05 in the read models, $1.06 in the file"));
}

#[test]
fn an_event_that_a_consumer_has_parked_is_missed_in_the_report() {
    let bench = Bench::with(&format!("{HEADER}1 19970101 2 1.05\r\n"));
    bench.sell(&[]);
    fs::write(&bench.orders, format!("{HEADER}1 19970101 2 1.05\r\n1 19970102 1 2.00\r\n"))
        .expect("the folder is writable");
    let models = Connection::open(bench.db().with_extension("db.models")).expect("the read models are there");
    models.execute("UPDATE audit_last SET position = position + 1", []).expect("the audit has a table");
    drop(models);
    let output = bench.start(&[]).output();
    assert_eq!(output.status.code(), Some(1));
    let message = text(&output.stderr);
    // The audit finds the first of six new events, the order, behind what it has seen, and goes on with those of other aggregates: all but
    // the order's confirmation.
    assert!(message.contains("events: 111 in the read models, 113 in the file"), "{message}");
}

#[test]
fn read_models_without_their_log_are_refused() {
    let bench = Bench::with(&format!("{HEADER}1 19970101 2 1.05\r\n"));
    bench.sell(&[]);
    fs::remove_file(bench.db()).expect("the log is there");
    let output = bench.start(&[]).output();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("lies beyond the log's head"), "{}", text(&output.stderr));
}

#[test]
fn json_is_one_object_with_every_field() {
    let bench = Bench::new();
    let report = bench.report(&[]);
    for field in ["customers", "orders", "units", "revenue_cents", "events"] {
        assert!(report[field].is_u64(), "{field}: {}", report[field]);
    }
    assert!(report["revenue_by_month"].is_object());
    assert!(report["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0));
    assert!(report["events_per_second"].as_f64().is_some_and(|speed| speed > 0.0));
    assert_eq!((report["store"].as_str(), report["broker"].as_str()), (Some("sqlite"), Some("memory")));
    assert_eq!(report["events"], bench.count_events());
}

#[test]
fn people_get_a_chart_and_the_totals() {
    let bench = Bench::new();
    let output = run(Command::new(shop()).arg("--orders").arg(&bench.orders)).output();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report = text(&output.stdout);
    for part in ["Revenue by month", "█", "Best customers", "came back", "1,500", "agree with the file"] {
        assert!(report.contains(part), "{part} is missing in {report}");
    }
}

#[test]
fn processes_share_one_file_as_well() {
    let bench = Bench::new();
    let shops = ["1/2", "2/2"].map(|share| bench.start(&["--share", share]));
    for shop in shops {
        let output = shop.output();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let events = bench.count_events();
    assert_eq!(bench.sell(&[]), bench.truth());
    assert_eq!(bench.count_events(), events);
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    for (arguments, complaint) in [
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
        assert!(text(&output.stderr).contains(complaint), "{}", text(&output.stderr));
    }
}
