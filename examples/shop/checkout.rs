//! Turns a sale into commands: register the user, create the order, complete the payment. `fulfilment` handles the rest of the order.

use std::sync::Arc;

use retell::{Context, CorrelationId, EventId, EventStore, Repository};
use tokio_util::sync::CancellationToken;

use crate::commands::{NotSold, SOURCE, execute};
use crate::domain::order::{CreateOrder, Item, Order};
use crate::domain::payment::{CompletePayment, Payment};
use crate::domain::user::{RegisterUser, User};
use crate::orders_file::Sale;
use crate::warehouse::product_id;

/// Prefix of payment ids; the line's number follows.
const PAYMENT: &str = "payment-";

/// The aggregates that a customer uses, and the token that stops the shop.
#[derive(Debug)]
pub struct Checkout {
    users: Repository<User>,
    orders: Repository<Order>,
    payments: Repository<Payment>,
    stop: CancellationToken,
}

impl Checkout {
    pub fn new(log: &Arc<dyn EventStore>, stop: CancellationToken) -> Self {
        let (users, orders) = (Repository::new(log.clone()), Repository::new(log.clone()));
        Self { users, orders, payments: Repository::new(log.clone()), stop }
    }

    /// Registers the customer of this sale as a user.
    pub async fn register(&self, sale: &Sale) -> Result<(), NotSold> {
        self.check_stop()?;
        let user_id = user_id(sale);
        let command = RegisterUser {
            email: format!("customer-{user_id}@shop.example"),
            name: format!("Customer {user_id}"),
            user_id: user_id.clone(),
        };
        let registered = execute(&self.users, &user_id, command, context(sale)).await;
        registered.map(drop).map_err(|error| NotSold::failed(format!("register user {user_id}"), error))
    }

    /// Creates the order and completes its payment. The payment comes last: if it exists, the sale is complete.
    pub async fn sell(&self, sale: &Sale) -> Result<(), NotSold> {
        let order = self.order(sale).await?;
        if sale.is_paid { self.pay(sale, order).await } else { Ok(()) }
    }

    /// Creates the order. Returns the id of its event, or `None` if the order already existed.
    async fn order(&self, sale: &Sale) -> Result<Option<EventId>, NotSold> {
        self.check_stop()?;
        let order_id = order_id(sale);
        let command = CreateOrder {
            order_id: order_id.clone(),
            user_id: user_id(sale),
            items: vec![Item { product_id: product_id(sale.product()), quantity: sale.quantity }],
            total_amount: sale.amount,
            date: sale.date,
        };
        let ordered = execute(&self.orders, &order_id, command, context(sale)).await;
        ordered.map(|ordered| ordered.last_event).map_err(|error| NotSold::failed(format!("create {order_id}"), error))
    }

    async fn pay(&self, sale: &Sale, order: Option<EventId>) -> Result<(), NotSold> {
        self.check_stop()?;
        let payment_id = format!("{PAYMENT}{}", sale.line);
        let command = CompletePayment {
            payment_id: payment_id.clone(),
            order_id: order_id(sale),
            amount: sale.amount,
            payment_method: payment_method(sale).into(),
            date: sale.date,
        };
        let paid = execute(&self.payments, &payment_id, command, caused_by(order, sale)).await;
        paid.map(drop).map_err(|error| NotSold::failed(format!("complete {payment_id}"), error))
    }

    fn check_stop(&self) -> Result<(), NotSold> {
        if self.stop.is_cancelled() { Err(NotSold::Stopped) } else { Ok(()) }
    }
}

/// Returns the line that a payment belongs to.
pub fn line_of(payment_id: &str) -> Option<u64> {
    payment_id.strip_prefix(PAYMENT)?.parse().ok()
}

/// Returns a context whose correlation id is derived from the line's number, so that all events of a line share it even if a second run
/// writes some of them.
fn context(sale: &Sale) -> Context {
    let id = uuid::Builder::from_custom_bytes(u128::from(sale.line).to_be_bytes()).into_uuid();
    Context::new().with_source(SOURCE).with_correlation(CorrelationId::from(id))
}

fn caused_by(order: Option<EventId>, sale: &Sale) -> Context {
    match order {
        Some(order) => context(sale).with_causation(order),
        None => context(sale),
    }
}

/// Returns a customer's id in the format of the file.
pub fn customer_id(customer: u32) -> String {
    format!("{customer:05}")
}

fn user_id(sale: &Sale) -> String {
    customer_id(sale.customer)
}

fn order_id(sale: &Sale) -> String {
    format!("order-{}", sale.line)
}

/// Invents a payment method, since the file has none. It was 1997.
fn payment_method(sale: &Sale) -> &'static str {
    if sale.line.is_multiple_of(3) { "cheque" } else { "credit_card" }
}
