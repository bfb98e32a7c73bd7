//! Walks through the section "When something is wrong" of the guide `operations`, on the shop with PostgreSQL and RabbitMQ. Each console
//! block of that section is run here, in its order, and prints what the page shows. `GOLDEN=write` writes the blocks again. Needs
//! `POSTGRES_URL` and `AMQP_URL`, and the example `shop`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../../tests/support/databases.rs"]
mod databases;
mod deployment;
mod page;
#[path = "../../../tests/shop/process.rs"]
#[allow(dead_code, reason = "this test uses a part of it")]
mod process;
#[path = "../support/steady.rs"]
mod steady;
#[path = "../support/tool.rs"]
mod tool;

use std::time::{Duration, Instant};

use deployment::Deployment;
use page::Page;
use process::Shop;
use retell::event::NewEvent;
use retell::store::{Append, EventStore};
use retell::{Codec, EventId, EventType, ExpectedVersion, PostgresStore, StreamId};
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use tool::Tool;

/// The first orders: customer, date, number of CDs and dollars.
const ORDERS: [&str; 3] = [" 00001 19970101  1   11.77", " 00002 19970112  1   12.00", " 00002 19970112  5   77.00"];

/// Two orders for more than a rule of the database allows.
const EXPENSIVE: &str = " 00003 19970102  2  150.50";
const POISON: &str = " 00004 19970101  2  299.33";

const OTHER: &str = " 00005 19970101  3   21.00";
const LATER: &str = " 00006 19970101  1   16.99";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guide_answers_each_question() {
    let mut page = Page::open();
    let shop = Deployment::create().await;
    let tool = Tool::at(&shop.store);

    let mut relay = shop.start("relay", &ORDERS);
    let mut worker = shop.start("worker", &ORDERS);
    assert!(shop.start("api", &ORDERS).output().status.success());
    until(&tool, is_idle);
    page.shows(&tool, &["status"], 0);
    stop(worker);
    stop(relay);
    shop.back_up().await;

    // A rule in the read model that one order breaks.
    shop.run("ALTER TABLE search_orders ADD CONSTRAINT small_orders CHECK (amount < 10000) NOT VALID").await;
    let orders = [&ORDERS[..], &[EXPENSIVE]].concat();
    sell(&shop, &tool, &orders);
    relay = shop.start("relay", &orders);
    worker = shop.start("worker", &orders);
    until(&tool, |status| is_idle(status) && parked(status, "search") == 1);
    page.shows(&tool, &["status"], 1);
    page.shows(&tool, &["parked", "list"], 1);
    page.shows(&tool, &["tail", "-n", "6"], 0);
    let order = position_of(&tool, "order.created");
    page.shows(&tool, &["why", &order], 1);
    page.shows(&tool, &["event", &order], 0);
    page.shows(&tool, &["trace", &order], 0);
    // Without a worker, which retries on its own.
    stop(worker);
    shop.run("ALTER TABLE search_orders DROP CONSTRAINT small_orders").await;
    page.shows(
        &tool,
        &["parked", "retry", "search", "--all", "--reason", "the rule is gone", "--as", "ada", "--yes"],
        0,
    );
    worker = shop.start("worker", &orders);
    until(&tool, |status| is_idle(status) && parked(status, "search") == 0);
    page.shows(&tool, &["why", &order, "search"], 0);

    // Poison: the rule is right, and the event must not be applied.
    shop.run("ALTER TABLE search_orders ADD CONSTRAINT small_orders CHECK (amount < 10000) NOT VALID").await;
    let orders = [&orders[..], &[POISON]].concat();
    assert!(
        !shop.start("api", &orders).output().status.success(),
        "the read model search has fewer orders than the file"
    );
    until(&tool, |status| is_idle(status) && parked(status, "search") == 1);
    let order = position_of(&tool, "order.created");
    page.shows(&tool, &["parked", "show", "search", "order/order-6"], 0);
    let skip = ["parked", "skip", "search", "order/order-6", "1", "--reason", "a test order", "--as", "ada", "--yes"];
    page.shows(&tool, &skip, 0);
    until(&tool, |status| is_idle(status) && parked(status, "search") == 0);
    page.shows(&tool, &["why", &order, "search"], 1);
    shop.run("ALTER TABLE search_orders DROP CONSTRAINT small_orders").await;

    page.shows(&tool, &["pause", "search", "--reason", "new column", "--as", "ada", "--yes"], 0);
    let orders = [&orders[..], &[OTHER]].concat();
    sell(&shop, &tool, &orders);
    until(&tool, |status| lags(status) == ["search"]);
    page.shows(&tool, &["status", "--max-lag", "100"], 1);
    page.shows(&tool, &["resume", "search", "--reason", "new column", "--as", "ada", "--yes"], 0);
    until(&tool, is_idle);
    page.shows(&tool, &["audit"], 0);

    page.shows(&tool, &["retire", "search", "--reason", "replaced by finder", "--as", "ada", "--yes"], 0);
    page.shows(&tool, &["status"], 0);
    page.shows(&tool, &["resume", "search", "--reason", "still in use", "--as", "ada", "--yes"], 0);

    let mut session = PgConnection::connect(&shop.store).await.unwrap();
    let hold = "BEGIN; SELECT pg_advisory_xact_lock(retell.lane_key(), 64)";
    sqlx::raw_sql(hold).execute(&mut session).await.unwrap();
    // Another program that writes to the log. The shop itself waits for the end of the log before it sells.
    let log = PostgresStore::connect(&shop.store).await.unwrap();
    let opened =
        NewEvent::stored(EventId::generate(), EventType::new("till.opened").unwrap(), 1, Codec::Json, "{}".into());
    let till = StreamId::parse("till", "1").unwrap();
    log.append(Append::new(till, ExpectedVersion::Any, vec![opened])).await.unwrap();
    page.shows(&tool, &["status", "--timeout", "5"], 1);
    sqlx::raw_sql("ROLLBACK").execute(&mut session).await.unwrap();
    until(&tool, is_idle);
    log.close().await.unwrap();

    worker.kill();
    let orders = [&orders[..], &[LATER]].concat();
    sell(&shop, &tool, &orders);
    until(&tool, |status| lags(status).len() == 6);
    page.shows(&tool, &["status", "--max-lag", "0"], 1);
    worker = shop.start("worker", &orders);
    until(&tool, is_idle);

    page.shows(&tool, &["doctor"], 0);
    page.shows(&tool, &["seal"], 0);
    page.shows(&tool, &["verify"], 0);
    stop(worker);
    stop(relay);

    shop.run("ALTER TABLE retell.events DISABLE TRIGGER ALL; DELETE FROM retell.events WHERE aggregate_id = 'order-5'")
        .await;
    page.shows(&tool, &["verify"], 1);
    let set_back =
        ["doctor", "--after-restore", "--set-back", "--reason", "restored last night", "--as", "ada", "--yes"];
    let restored = Tool::at(shop.backup()).with_models(&shop.store);
    page.shows(&restored, &["doctor", "--after-restore"], 1);
    page.shows(&restored, &set_back, 0);

    shop.remove().await;
    page.end();
}

/// Sells while no process follows the log.
fn sell(shop: &Deployment, tool: &Tool, orders: &[&str]) {
    let mut api = shop.start("api", orders);
    let paid = || tool.run(["tail", "--type", "payment.completed", "-n", "100", "--json"]).stdout.lines().count();
    wait(|| paid() == orders.len(), || "the orders are not paid".to_owned());
    api.kill();
}

fn processor<'a>(status: &'a Value, name: &str) -> &'a Value {
    status["processors"]["items"].as_array().unwrap().iter().find(|each| each["name"] == name).unwrap()
}

fn parked(status: &Value, name: &str) -> u64 {
    let parked = &processor(status, name)["parked"];
    parked["waiting"]["count"].as_u64().unwrap() + parked["dead"]["count"].as_u64().unwrap()
}

/// Returns the position of the last event of a type.
fn position_of(tool: &Tool, event_type: &str) -> String {
    let ran = tool.run(["tail", "--type", event_type, "-n", "1", "--json"]);
    let event: Value = serde_json::from_str(&ran.stdout).unwrap();
    event["position"].to_string()
}

/// Stops a relay or a worker as an operator does.
fn stop(shop: Shop) {
    shop.ask_to_stop();
    assert!(shop.output().status.success());
}

/// Waits until the status is so.
fn until(tool: &Tool, is_so: impl Fn(&Value) -> bool) {
    let status = || tool.run(["status", "--json"]).stdout;
    // While the log is blocked, the answer has only its blockers.
    let is_so = |status: &Value| !status["head"].is_null() && is_so(status);
    wait(|| is_so(&data(&status())), status);
}

fn data(answer: &str) -> Value {
    serde_json::from_str::<Value>(answer).unwrap()["data"].take()
}

fn wait(is_so: impl Fn() -> bool, seen: impl Fn() -> String) {
    let end = Instant::now() + Duration::from_mins(5);
    while !is_so() {
        assert!(Instant::now() < end, "{}", seen());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Returns the relays and processors that have not passed the last event of the log.
fn lags(status: &Value) -> Vec<&str> {
    let rows = ["relays", "processors"].into_iter().flat_map(|part| status[part]["items"].as_array().unwrap());
    rows.filter(|row| row["lag"]["events"] != 0).map(|row| row["name"].as_str().unwrap()).collect()
}

fn is_idle(status: &Value) -> bool {
    // The processors register when their workers start.
    lags(status).is_empty() && status["processors"]["items"].as_array().unwrap().len() == 6
}
