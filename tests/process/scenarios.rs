//! Decisions of a process, tested without a store, a server or a clock.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use retell::process::{CommandFailure, Effects, Process};
use retell::testing::given_process;
use retell::testing::process_scenario::GivenProcess;
use retell::{AggregateId, Context, Envelope, EventStore, MemoryStore, async_trait};

use crate::domain::{Do, Fulfilment, Happened, Known, OrderEvent, PaymentEvent};

pub(crate) const TESTS: [(&str, fn()); 7] = [
    ("a_paid_order_is_confirmed_and_its_deadline_removed", paid),
    ("an_unpaid_order_is_cancelled_at_its_deadline", unpaid),
    ("a_deadline_that_is_set_again_does_not_pass_at_its_old_time", set_again),
    ("a_refused_command_leads_to_another_and_is_refused_once", refused),
    ("deadlines_set_by_deadlines_pass_in_order", chained_deadlines),
    ("events_of_other_processes_have_no_effect", others),
    ("a_wrong_expectation_fails_and_reports_the_actual_value", wrong),
];

const PATIENCE: Duration = Duration::from_mins(30);
const SECOND: Duration = Duration::from_secs(1);

fn fulfilment() -> GivenProcess<Fulfilment> {
    let store: Arc<dyn EventStore> = Arc::new(MemoryStore::new());
    given_process(Fulfilment::new(&store, PATIENCE))
}

fn created() -> Happened {
    Happened::Order(OrderEvent::Created { quantity: 2 })
}

fn completed() -> Happened {
    Happened::Payment(PaymentEvent::Completed)
}

fn reserve() -> Do {
    Do::Reserve { order: "1".into(), quantity: 2 }
}

fn cancel(why: &str) -> Do {
    Do::Cancel { order: "1".into(), why: why.into() }
}

fn paid() {
    fulfilment()
        .when("order/1", created())
        .then_sends([reserve()])
        .then_deadline("unpaid", PATIENCE)
        .then_state(Known::new(2, false))
        .when("payment/1", completed())
        .then_sends([Do::Confirm { order: "1".into() }])
        .then_no_deadline("unpaid")
        .then_state(Known::new(2, true))
        .after(2 * PATIENCE)
        .then_sends([]);
}

fn unpaid() {
    let release = Do::Release { order: "1".into(), quantity: 2 };
    fulfilment()
        .given([("order/1", created())])
        .after(Duration::from_mins(29))
        .then_sends([])
        .then_deadline("unpaid", Duration::from_mins(1))
        .after(Duration::from_mins(1))
        .then_sends([release, cancel("unpaid")])
        .then_no_deadline("unpaid")
        .after(PATIENCE)
        .then_sends([])
        .when("payment/1", completed())
        .then_sends([]);
}

fn set_again() {
    fulfilment()
        .given([("order/1", created())])
        .after(SECOND)
        .when("order/1", created())
        .then_deadline("unpaid", PATIENCE)
        .after(Duration::from_mins(29))
        .then_sends([])
        .then_deadline("unpaid", Duration::from_mins(1))
        .after(Duration::from_mins(1))
        .then_no_deadline("unpaid");
}

fn refused() {
    let refused = fulfilment()
        .when("order/1", created())
        .when_rejected(reserve(), "sold out")
        .then_sends([cancel("sold out")])
        .then_no_deadline("unpaid")
        .then_state(Known::new(2, true));
    fails(|| refused.when_rejected(reserve(), "again"), "cannot be rejected: the accepted commands are [Cancel");
}

fn others() {
    let confirmed = || Happened::Order(OrderEvent::Confirmed);
    let given = fulfilment().when("order/2", confirmed()).then_sends([]).when("order/1", created());
    let given = given.when("order/1", confirmed()).then_sends([]).then_state(Known::new(2, false));
    fails(|| given.when("order/2", created()), "the event of order/2 belongs to another process");
    fails(|| fulfilment().when("order", created()), "invalid aggregate \"order\": expected type/id");
}

fn wrong() {
    let given = || fulfilment().when("order/1", created());
    let sent = "Reserve { order: \"1\", quantity: 2 }";
    fails(|| given().then_sends([]), "the process sends other commands");
    fails(|| given().then_sends([]), sent);
    fails(|| given().then_sends([reserve(), reserve()]), "the process sends other commands");
    fails(|| given().after(SECOND).then_sends([reserve()]), "the process sends other commands");
    fails(|| given().then_deadline("unpaid", SECOND), "unpaid: the deadline is not pending, or is due at another time");
    fails(|| given().then_deadline("unpaid", SECOND), "1970-01-01T00:30:00Z");
    fails(|| given().then_deadline("late", PATIENCE), "pending are {\"unpaid\"");
    fails(|| given().then_no_deadline("unpaid"), "the deadline unpaid is pending");
    fails(|| given().then_state(Known::default()), "the state is not the expected one");
    fails(|| given().when_rejected(cancel("?"), "no"), &format!("the accepted commands are [{sent}]"));
}

/// Asserts that `scenario` panics with a message that contains `because`.
fn fails<T>(scenario: impl FnOnce() -> T, because: &str) {
    let panic = catch_unwind(AssertUnwindSafe(scenario)).map(drop).expect_err("the scenario must fail");
    let said = panic.downcast_ref::<String>().unwrap();
    assert!(said.contains(because), "{said}");
}

/// Rings every second, three times, or forever if `is_broken`.
struct Alarm {
    is_broken: bool,
}

#[async_trait]
impl Process for Alarm {
    const NAME: &'static str = "alarm";
    type Event = OrderEvent;
    type State = DateTime<Utc>;
    type Command = String;

    fn key(&self, event: &Envelope<OrderEvent>) -> Option<AggregateId> {
        Some(event.stream.aggregate_id().clone())
    }

    fn on_event(&self, last: &mut DateTime<Utc>, event: &Envelope<OrderEvent>, effects: &mut Effects<String>) {
        *last = event.recorded_at + SECOND;
        effects.set_deadline("first", *last).set_deadline("later", *last + 10 * SECOND);
    }

    fn on_deadline(&self, last: &mut DateTime<Utc>, deadline: &str, effects: &mut Effects<String>) {
        if !self.is_broken {
            *last += SECOND;
        }
        effects.send(deadline.to_owned());
        match deadline {
            "first" => effects.set_deadline("second", *last),
            "second" => effects.set_deadline(if self.is_broken { "first" } else { "third" }, *last),
            _ => effects,
        };
    }

    async fn execute(&self, _: &AggregateId, _: String, _: Context) -> Result<(), CommandFailure> {
        unreachable!("a scenario executes nothing")
    }
}

fn chained_deadlines() {
    let ringing = |is_broken| given_process(Alarm { is_broken }).given([("order/1", OrderEvent::Confirmed)]);
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    ringing(false).after(2 * SECOND).then_sends(names(&["first", "second"])).then_deadline("third", SECOND);
    ringing(false).after(PATIENCE).then_sends(names(&["first", "second", "third", "later"]));
    fails(|| ringing(true).after(PATIENCE), "deadlines have passed, and there are more");
}
