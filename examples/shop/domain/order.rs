//! An order: created once, then confirmed or cancelled.

use chrono::NaiveDate;
use retell::{Aggregate, Apply, Event, Handle, Value};

use super::Cents;

#[derive(Debug, Clone, PartialEq, Event)]
pub enum OrderEvent {
    #[event("order.created")]
    Created { order_id: String, user_id: String, items: Vec<Item>, total_amount: Cents, date: NaiveDate },
    #[event("order.confirmed")]
    Confirmed { order_id: String },
    /// Repeats the contents of the order, so that consumers can subtract it from their sums.
    #[event("order.cancelled")]
    Cancelled { order_id: String, user_id: String, items: Vec<Item>, total_amount: Cents, date: NaiveDate },
}

#[derive(Debug, Clone, PartialEq, Eq, Value)]
pub struct Item {
    pub product_id: String,
    pub quantity: u32,
}

/// The contents of the order after its creation, and its final state.
#[derive(Debug, Clone, Default, PartialEq, Aggregate)]
#[aggregate("order", event = OrderEvent, snapshots = never)]
pub struct Order {
    created: Option<CreateOrder>,
    end: Option<End>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Confirmed,
    Cancelled,
}

impl Apply<OrderEvent> for Order {
    fn apply(&mut self, event: OrderEvent) {
        match event {
            OrderEvent::Created { order_id, user_id, items, total_amount, date } => {
                self.created = Some(CreateOrder { order_id, user_id, items, total_amount, date });
            }
            OrderEvent::Confirmed { .. } => self.end = Some(End::Confirmed),
            OrderEvent::Cancelled { .. } => self.end = Some(End::Cancelled),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct CreateOrder {
    pub order_id: String,
    pub user_id: String,
    pub items: Vec<Item>,
    pub total_amount: Cents,
    pub date: NaiveDate,
}

#[derive(Debug, Clone)]
pub struct ConfirmOrder;

#[derive(Debug, Clone)]
pub struct CancelOrder;

#[derive(Debug, PartialEq, thiserror::Error)]
pub enum OrderRefused {
    #[error("an order needs items")]
    NothingOrdered,
    #[error("the order was created for user {user_id} over {total_amount}")]
    OtherOrder { user_id: String, total_amount: Cents },
    #[error("the order does not exist")]
    NotCreated,
    #[error("the order is confirmed")]
    IsConfirmed,
    #[error("the order is cancelled")]
    IsCancelled,
}

impl Handle<CreateOrder> for Order {
    type Error = OrderRefused;

    fn handle(&self, command: &CreateOrder) -> Result<Vec<OrderEvent>, OrderRefused> {
        match &self.created {
            Some(known) if (&known.user_id, known.total_amount) == (&command.user_id, command.total_amount) => {
                Ok(vec![])
            }
            Some(CreateOrder { user_id, total_amount, .. }) => {
                Err(OrderRefused::OtherOrder { user_id: user_id.clone(), total_amount: *total_amount })
            }
            None if command.items.iter().all(|item| item.quantity == 0) => Err(OrderRefused::NothingOrdered),
            None => Ok(vec![created(command)]),
        }
    }
}

impl Handle<ConfirmOrder> for Order {
    type Error = OrderRefused;

    fn handle(&self, _: &ConfirmOrder) -> Result<Vec<OrderEvent>, OrderRefused> {
        let CreateOrder { order_id, .. } = self.created.as_ref().ok_or(OrderRefused::NotCreated)?;
        match self.end {
            None => Ok(vec![OrderEvent::Confirmed { order_id: order_id.clone() }]),
            Some(End::Confirmed) => Ok(vec![]),
            Some(End::Cancelled) => Err(OrderRefused::IsCancelled),
        }
    }
}

impl Handle<CancelOrder> for Order {
    type Error = OrderRefused;

    fn handle(&self, _: &CancelOrder) -> Result<Vec<OrderEvent>, OrderRefused> {
        let created = self.created.clone().ok_or(OrderRefused::NotCreated)?;
        match self.end {
            None => Ok(vec![cancelled(created)]),
            Some(End::Cancelled) => Ok(vec![]),
            Some(End::Confirmed) => Err(OrderRefused::IsConfirmed),
        }
    }
}

fn created(command: &CreateOrder) -> OrderEvent {
    let CreateOrder { order_id, user_id, items, total_amount, date } = command.clone();
    OrderEvent::Created { order_id, user_id, items, total_amount, date }
}

fn cancelled(CreateOrder { order_id, user_id, items, total_amount, date }: CreateOrder) -> OrderEvent {
    OrderEvent::Cancelled { order_id, user_id, items, total_amount, date }
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
    fn new_order_is_created() {
        given::<Order>([]).when(create("7", 2, 999)).then([created(&create("7", 2, 999))]);
    }

    #[test]
    fn order_may_be_free() {
        given::<Order>([]).when(create("7", 1, 0)).then([created(&create("7", 1, 0))]);
    }

    #[test]
    fn creating_an_order_again_does_nothing() {
        given::<Order>([created(&create("7", 2, 999))]).when(create("7", 2, 999)).then([]);
    }

    #[test]
    fn another_order_with_the_same_id_is_rejected() {
        given::<Order>([created(&create("7", 2, 999))])
            .when(create("8", 2, 999))
            .then_rejected(OrderRefused::OtherOrder { user_id: "7".into(), total_amount: Cents(999) });
    }

    #[test]
    fn empty_order_is_rejected() {
        given::<Order>([]).when(create("7", 0, 999)).then_rejected(OrderRefused::NothingOrdered);
    }

    #[test]
    fn confirmed_order_cannot_be_cancelled() {
        let confirmed = OrderEvent::Confirmed { order_id: "order-2".into() };
        let order = || created(&create("7", 2, 999));
        given::<Order>([order()]).when(ConfirmOrder).then([confirmed.clone()]);
        given::<Order>([order(), confirmed.clone()]).when(ConfirmOrder).then([]);
        given::<Order>([order(), confirmed]).when(CancelOrder).then_rejected(OrderRefused::IsConfirmed);
    }

    #[test]
    fn cancelled_order_cannot_be_confirmed() {
        let (order, cancelled) = (|| created(&create("7", 2, 999)), cancelled(create("7", 2, 999)));
        given::<Order>([order()]).when(CancelOrder).then([cancelled.clone()]);
        given::<Order>([order(), cancelled.clone()]).when(CancelOrder).then([]);
        given::<Order>([order(), cancelled]).when(ConfirmOrder).then_rejected(OrderRefused::IsCancelled);
    }

    #[test]
    fn missing_order_is_neither_confirmed_nor_cancelled() {
        given::<Order>([]).when(ConfirmOrder).then_rejected(OrderRefused::NotCreated);
        given::<Order>([]).when(CancelOrder).then_rejected(OrderRefused::NotCreated);
    }
}
