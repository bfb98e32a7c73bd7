//! Makes commands of a sale: register the user, create the order, take the CDs from the stock, complete the payment.
//!
//! Each of them may come again. What has happened does not happen twice, so that a run that was killed can simply go on.

use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use futures::future::try_join_all;
use retell::command::Executed;
use retell::{
    Aggregate, BoxError, CommandError, Context, CorrelationId, EventId, EventStore, Handle, IdempotencyKey, Repository,
};
use tokio_util::sync::CancellationToken;

use crate::domain::inventory::{DeductStock, Inventory, InventoryRefused, ReceiveStock};
use crate::domain::order::{CreateOrder, Item, Order};
use crate::domain::payment::{CompletePayment, Payment};
use crate::domain::user::{RegisterUser, User};
use crate::orders_file::{PRODUCTS, Sale};
use crate::truth::{DELIVERY, FIRST_STOCK};

/// What the ids of payments begin with. The line's number follows.
const PAYMENT: &str = "payment-";

/// Who writes the events.
const SOURCE: &str = "shop";

/// How often a command is sent again while the store is busy or the shop's other processes are faster. The waits double from
/// [`FIRST_WAIT`] on: a minute or two of patience.
const RETRIES: usize = 10;

const FIRST_WAIT: Duration = Duration::from_millis(100);

/// The four kinds of aggregates, and when to stop.
#[derive(Debug)]
pub struct Checkout {
    users: Repository<User>,
    orders: Repository<Order>,
    inventory: Repository<Inventory>,
    payments: Repository<Payment>,
    stop: CancellationToken,
}

/// Why a sale did not come about.
#[derive(Debug, thiserror::Error)]
pub enum NotSold {
    #[error("stopped on request")]
    Stopped,
    #[error("cannot {command}")]
    Failed { command: String, source: BoxError },
}

impl Checkout {
    pub fn new(log: &Arc<dyn EventStore>, stop: CancellationToken) -> Self {
        Self {
            users: Repository::new(log.clone()),
            orders: Repository::new(log.clone()),
            inventory: Repository::new(log.clone()),
            payments: Repository::new(log.clone()),
            stop,
        }
    }

    /// The first delivery of each product.
    pub async fn fill_the_shelves(&self) -> Result<(), NotSold> {
        let deliveries = (0..PRODUCTS).map(|product| self.receive(product, 0, FIRST_STOCK, Context::new()));
        try_join_all(deliveries).await.map(drop)
    }

    /// The customer of this sale becomes a user.
    pub async fn register(&self, sale: &Sale) -> Result<(), NotSold> {
        self.go_on()?;
        let user_id = user_id(sale);
        let command = RegisterUser {
            email: format!("customer-{user_id}@shop.example"),
            name: format!("Customer {user_id}"),
            user_id: user_id.clone(),
        };
        let registered = execute(&self.users, &user_id, command, context(sale)).await;
        registered.map(drop).map_err(|error| failed(format!("register user {user_id}"), error))
    }

    /// Order, stock and payment. The payment comes last: where it is there, all of the sale is.
    pub async fn sell(&self, sale: &Sale) -> Result<(), NotSold> {
        let order = self.order(sale).await?;
        self.deduct(sale, order).await?;
        self.pay(sale, order).await
    }

    /// The event that tells of the order, if it is new.
    async fn order(&self, sale: &Sale) -> Result<Option<EventId>, NotSold> {
        self.go_on()?;
        let order_id = order_id(sale);
        let command = CreateOrder {
            order_id: order_id.clone(),
            user_id: user_id(sale),
            items: vec![Item { product_id: product_id(sale.product()), quantity: sale.quantity }],
            total_amount: sale.amount,
            date: sale.date,
        };
        let ordered = execute(&self.orders, &order_id, command, context(sale)).await;
        ordered.map(|ordered| ordered.last_event).map_err(|error| failed(format!("create {order_id}"), error))
    }

    /// Ends: each round without enough in stock adds a delivery.
    async fn deduct(&self, sale: &Sale, order: Option<EventId>) -> Result<(), NotSold> {
        let product_id = product_id(sale.product());
        loop {
            self.go_on()?;
            let command = DeductStock { product_id: product_id.clone(), quantity: sale.quantity };
            let context = caused_by(order, sale).with_key(key(&format!("deduct/{}", order_id(sale)))?);
            match execute(&self.inventory, &product_id, command, context).await {
                Ok(_) => return Ok(()),
                Err(CommandError::Rejected(InventoryRefused::OutOfStock { deliveries, .. })) => {
                    self.receive(sale.product(), deliveries, DELIVERY, self::context(sale)).await?;
                }
                Err(error) => return Err(failed(format!("deduct the stock for {}", order_id(sale)), error)),
            }
        }
    }

    /// The delivery that follows so many others. Everybody who waits for it names it by the same key, so that it comes once.
    async fn receive(&self, product: u64, deliveries: u64, quantity: u32, context: Context) -> Result<(), NotSold> {
        self.go_on()?;
        let product_id = product_id(product);
        let command = ReceiveStock { product_id: product_id.clone(), quantity };
        let context = context.with_source(SOURCE).with_key(key(&format!("receive/{product_id}/{deliveries}"))?);
        let received = execute(&self.inventory, &product_id, command, context).await;
        received.map(drop).map_err(|error| failed(format!("receive {product_id}"), error))
    }

    async fn pay(&self, sale: &Sale, order: Option<EventId>) -> Result<(), NotSold> {
        self.go_on()?;
        let payment_id = format!("{PAYMENT}{}", sale.line);
        let command = CompletePayment {
            payment_id: payment_id.clone(),
            order_id: order_id(sale),
            amount: sale.amount,
            payment_method: payment_method(sale).into(),
            date: sale.date,
        };
        let paid = execute(&self.payments, &payment_id, command, caused_by(order, sale)).await;
        paid.map(drop).map_err(|error| failed(format!("complete {payment_id}"), error))
    }

    fn go_on(&self) -> Result<(), NotSold> {
        if self.stop.is_cancelled() { Err(NotSold::Stopped) } else { Ok(()) }
    }
}

/// Executes a command, and again where that may help: each of ours may come twice.
async fn execute<A, C>(
    repository: &Repository<A>,
    id: &str,
    command: C,
    context: Context,
) -> Result<Executed, CommandError<A::Error>>
where
    A: Aggregate + Handle<C>,
    C: Clone,
{
    (|| repository.execute_with(id, command.clone(), context.clone()))
        .retry(ExponentialBuilder::new().with_min_delay(FIRST_WAIT).with_max_times(RETRIES).with_jitter())
        .when(|error| matches!(error, CommandError::Transient(_) | CommandError::Conflict(_)))
        .await
}

/// The line that a payment belongs to.
pub fn line_of(payment_id: &str) -> Option<u64> {
    payment_id.strip_prefix(PAYMENT)?.parse().ok()
}

fn failed(command: String, source: impl Into<BoxError>) -> NotSold {
    NotSold::Failed { command, source: source.into() }
}

fn key(text: &str) -> Result<IdempotencyKey, NotSold> {
    IdempotencyKey::new(text).map_err(|error| failed(format!("use the key {text}"), error))
}

/// All events of one line belong together, also when a second run writes the rest of them: so its number makes the correlation id.
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

/// The id of a customer as the file writes it.
pub fn customer_id(customer: u32) -> String {
    format!("{customer:05}")
}

fn user_id(sale: &Sale) -> String {
    customer_id(sale.customer)
}

fn order_id(sale: &Sale) -> String {
    format!("order-{}", sale.line)
}

fn product_id(product: u64) -> String {
    format!("cd-{product:03}")
}

/// The file does not say. It was 1997.
fn payment_method(sale: &Sale) -> &'static str {
    if sale.line.is_multiple_of(3) { "cheque" } else { "credit_card" }
}
