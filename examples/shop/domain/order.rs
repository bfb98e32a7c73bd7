//! An order: created once.

use chrono::NaiveDate;
use retell::{Aggregate, Apply, Event, Handle};
use serde::{Deserialize, Serialize};

use super::Cents;

#[derive(Debug, Clone, PartialEq, Event)]
pub enum OrderEvent {
    #[event("order.created")]
    Created { order_id: String, user_id: String, items: Vec<Item>, total_amount: Cents, date: NaiveDate },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    pub product_id: String,
    pub quantity: u32,
}

/// Who ordered and for how much, once created.
#[derive(Debug, Clone, Default, PartialEq, Aggregate)]
#[aggregate("order", event = OrderEvent, snapshots = never)]
pub struct Order {
    created: Option<(String, Cents)>,
}

impl Apply<OrderEvent> for Order {
    fn apply(&mut self, event: OrderEvent) {
        let OrderEvent::Created { user_id, total_amount, .. } = event;
        self.created = Some((user_id, total_amount));
    }
}

#[derive(Debug, Clone)]
pub struct CreateOrder {
    pub order_id: String,
    pub user_id: String,
    pub items: Vec<Item>,
    pub total_amount: Cents,
    pub date: NaiveDate,
}

#[derive(Debug, PartialEq, thiserror::Error)]
pub enum OrderRefused {
    #[error("an order needs items")]
    NothingOrdered,
    #[error("the order was created for user {user_id} over {total_amount}")]
    OtherOrder { user_id: String, total_amount: Cents },
}

impl Handle<CreateOrder> for Order {
    type Error = OrderRefused;

    fn handle(&self, command: &CreateOrder) -> Result<Vec<OrderEvent>, OrderRefused> {
        match &self.created {
            Some((user, amount)) if (user, amount) == (&command.user_id, &command.total_amount) => Ok(vec![]),
            Some((user_id, total_amount)) => {
                Err(OrderRefused::OtherOrder { user_id: user_id.clone(), total_amount: *total_amount })
            }
            None if command.items.iter().all(|item| item.quantity == 0) => Err(OrderRefused::NothingOrdered),
            None => Ok(vec![created(command)]),
        }
    }
}

fn created(command: &CreateOrder) -> OrderEvent {
    OrderEvent::Created {
        order_id: command.order_id.clone(),
        user_id: command.user_id.clone(),
        items: command.items.clone(),
        total_amount: command.total_amount,
        date: command.date,
    }
}

#[cfg(test)]
mod tests {
    use retell::testing::given;

    use super::*;

    fn create(user_id: &str, quantity: u32, cents: u64) -> CreateOrder {
        CreateOrder {
            order_id: "order-2".into(),
            user_id: user_id.into(),
            items: vec![Item { product_id: "cd-001".into(), quantity }],
            total_amount: Cents(cents),
            date: NaiveDate::default(),
        }
    }

    #[test]
    fn a_new_order_is_created() {
        given::<Order>([]).when(create("7", 2, 999)).then([created(&create("7", 2, 999))]);
    }

    #[test]
    fn an_order_may_cost_nothing() {
        given::<Order>([]).when(create("7", 1, 0)).then([created(&create("7", 1, 0))]);
    }

    #[test]
    fn creating_it_again_does_nothing() {
        given::<Order>([created(&create("7", 2, 999))]).when(create("7", 2, 999)).then([]);
    }

    #[test]
    fn another_order_under_the_same_id_is_refused() {
        given::<Order>([created(&create("7", 2, 999))])
            .when(create("8", 2, 999))
            .then_rejected(OrderRefused::OtherOrder { user_id: "7".into(), total_amount: Cents(999) });
    }

    #[test]
    fn an_order_of_nothing_is_refused() {
        given::<Order>([]).when(create("7", 0, 999)).then_rejected(OrderRefused::NothingOrdered);
    }
}
