//! A process that follows each order to its end. It takes the CDs from the stock, waits for the payment and confirms the order. If the
//! payment does not arrive in time, it cancels the order and returns the CDs.

use std::sync::Arc;
use std::time::Duration;

use retell::process::{CommandFailure, Effects, Process};
use retell::{AggregateId, Context, Envelope, EventStore, EventUnion, Repository, async_trait};
use serde::{Deserialize, Serialize};

use crate::commands::{SOURCE, execute};
use crate::domain::order::{CancelOrder, ConfirmOrder, Item, Order, OrderEvent};
use crate::domain::payment::PaymentEvent;
use crate::warehouse::Warehouse;

/// The name of each order's deadline.
const UNPAID: &str = "unpaid";

#[derive(Debug)]
pub struct Fulfilment {
    orders: Repository<Order>,
    warehouse: Warehouse,
    /// How long an order waits for its payment.
    payment_timeout: Duration,
}

#[derive(Debug, Clone, EventUnion)]
pub enum Followed {
    Order(OrderEvent),
    Payment(PaymentEvent),
}

/// The commands that the process sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Command {
    Deduct(Item),
    Confirm,
    Cancel,
    Release(Item),
}

impl Fulfilment {
    pub fn new(log: &Arc<dyn EventStore>, payment_timeout: Duration) -> Self {
        Self { orders: Repository::new(log.clone()), warehouse: Warehouse::new(log), payment_timeout }
    }
}

#[async_trait]
impl Process for Fulfilment {
    const NAME: &'static str = "fulfilment";
    type Event = Followed;
    /// The items taken from the stock for the order.
    type State = Vec<Item>;
    type Command = Command;

    fn key(&self, event: &Envelope<Followed>) -> Option<AggregateId> {
        match &event.event {
            Followed::Order(OrderEvent::Confirmed { .. }) => None,
            Followed::Order(_) => Some(event.stream.aggregate_id().clone()),
            Followed::Payment(PaymentEvent::Completed { order_id, .. }) => AggregateId::new(order_id).ok(),
        }
    }

    fn on_event(&self, taken: &mut Vec<Item>, event: &Envelope<Followed>, effects: &mut Effects<Command>) {
        match &event.event {
            Followed::Order(OrderEvent::Created { items, .. }) => {
                taken.clone_from(items);
                effects.set_deadline(UNPAID, event.recorded_at + self.payment_timeout);
                for item in items {
                    effects.send(Command::Deduct(item.clone()));
                }
            }
            Followed::Payment(_) => {
                effects.cancel_deadline(UNPAID).send(Command::Confirm);
            }
            Followed::Order(OrderEvent::Cancelled { .. }) => {
                for item in taken {
                    effects.send(Command::Release(item.clone()));
                }
            }
            Followed::Order(OrderEvent::Confirmed { .. }) => {}
        }
    }

    // There is no `on_rejected`: a command is only rejected if the order was paid too late, and that money is returned manually.
    fn on_deadline(&self, _: &mut Vec<Item>, _: &str, effects: &mut Effects<Command>) {
        effects.send(Command::Cancel);
    }

    async fn execute(&self, order: &AggregateId, command: Command, context: Context) -> Result<(), CommandFailure> {
        let (order, context) = (order.as_str(), context.with_source(SOURCE));
        match command {
            Command::Deduct(item) => self.warehouse.deduct(&item, context).await?,
            Command::Release(item) => self.warehouse.release(&item, context).await?,
            Command::Confirm => drop(execute(&self.orders, order, ConfirmOrder, context).await?),
            Command::Cancel => drop(execute(&self.orders, order, CancelOrder, context).await?),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use chrono::NaiveDate;
    use retell::MemoryStore;
    use retell::testing::given_process;
    use retell::testing::process_scenario::GivenProcess;

    use super::*;
    use crate::domain::Cents;

    const PAYMENT_TIMEOUT: Duration = Duration::from_mins(30);

    fn items() -> Vec<Item> {
        vec![Item { product_id: "cd-001".into(), quantity: 2 }, Item { product_id: "cd-002".into(), quantity: 1 }]
    }

    fn created() -> Followed {
        let (order_id, user_id) = ("order-2".into(), "7".into());
        let (items, total_amount, date) = (items(), Cents(999), NaiveDate::default());
        Followed::Order(OrderEvent::Created { order_id, user_id, items, total_amount, date })
    }

    fn cancelled() -> Followed {
        let Followed::Order(OrderEvent::Created { order_id, user_id, items, total_amount, date }) = created() else {
            unreachable!("`created` returns an order")
        };
        Followed::Order(OrderEvent::Cancelled { order_id, user_id, items, total_amount, date })
    }

    fn paid() -> Followed {
        let (payment_id, order_id, payment_method) = ("payment-2".into(), "order-2".into(), "cheque".into());
        let (amount, date) = (Cents(999), NaiveDate::default());
        Followed::Payment(PaymentEvent::Completed { payment_id, order_id, amount, payment_method, date })
    }

    fn created_order() -> GivenProcess<Fulfilment> {
        let log: Arc<dyn EventStore> = Arc::new(MemoryStore::new());
        given_process(Fulfilment::new(&log, PAYMENT_TIMEOUT))
            .when("order/order-2", created())
            .then_sends(items().into_iter().map(Command::Deduct))
            .then_deadline(UNPAID, PAYMENT_TIMEOUT)
    }

    #[test]
    fn paid_order_is_confirmed() {
        created_order()
            .when("payment/payment-2", paid())
            .then_sends([Command::Confirm])
            .then_no_deadline(UNPAID)
            .after(2 * PAYMENT_TIMEOUT)
            .then_sends([]);
    }

    #[test]
    fn unpaid_order_is_cancelled_and_its_items_released() {
        created_order()
            .after(PAYMENT_TIMEOUT)
            .then_sends([Command::Cancel])
            .when("order/order-2", cancelled())
            .then_sends(items().into_iter().map(Command::Release));
    }

    #[test]
    fn order_paid_too_late_is_not_confirmed() {
        created_order()
            .given([("order/order-2", cancelled())])
            .when("payment/payment-2", paid())
            .when_rejected(Command::Confirm, "the order is cancelled")
            .then_sends([]);
    }
}
