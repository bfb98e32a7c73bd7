//! Orders that wait for their payment. Handlers accept every repetition, so a command that is executed twice shows.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use retell::process::{CommandFailure, Effects, Process};
use retell::{
    Aggregate, AggregateId, Apply, Context, Envelope, Event, EventStore, EventUnion, Handle, Repository, async_trait,
};
use serde::{Deserialize, Serialize};

#[derive(Event, Debug, Clone, PartialEq, Eq)]
pub(crate) enum OrderEvent {
    #[event("order.created")]
    Created { quantity: u32 },
    #[event("order.confirmed")]
    Confirmed,
    #[event("order.cancelled")]
    Cancelled { why: String },
}

#[derive(Aggregate, Clone, Default)]
#[aggregate("order", event = OrderEvent)]
pub(crate) struct Order;

impl Apply<OrderEvent> for Order {
    fn apply(&mut self, _: OrderEvent) {}
}

impl Handle<OrderEvent> for Order {
    type Error = &'static str;

    fn handle(&self, event: &OrderEvent) -> Result<Vec<OrderEvent>, &'static str> {
        Ok(vec![event.clone()])
    }
}

#[derive(Event, Debug, Clone, PartialEq, Eq)]
pub(crate) enum PaymentEvent {
    #[event("payment.completed")]
    Completed,
}

#[derive(Aggregate, Clone, Default)]
#[aggregate("payment", event = PaymentEvent)]
pub(crate) struct Payment;

impl Apply<PaymentEvent> for Payment {
    fn apply(&mut self, _: PaymentEvent) {}
}

impl Handle<PaymentEvent> for Payment {
    type Error = &'static str;

    fn handle(&self, event: &PaymentEvent) -> Result<Vec<PaymentEvent>, &'static str> {
        Ok(vec![event.clone()])
    }
}

#[derive(Event, Debug, Clone, PartialEq, Eq)]
pub(crate) enum StockEvent {
    #[event("stock.reserved")]
    Reserved { order: String, quantity: u32 },
    #[event("stock.released")]
    Released { order: String, quantity: u32 },
}

/// The reserved quantity of an item.
#[derive(Aggregate, Clone, Default)]
#[aggregate("stock", event = StockEvent)]
pub(crate) struct Stock(u32);

/// The quantity available of each item.
pub(crate) const STOCK: u32 = 30;

impl Apply<StockEvent> for Stock {
    fn apply(&mut self, event: StockEvent) {
        match event {
            StockEvent::Reserved { quantity, .. } => self.0 += quantity,
            StockEvent::Released { quantity, .. } => self.0 -= quantity,
        }
    }
}

impl Handle<StockEvent> for Stock {
    type Error = &'static str;

    fn handle(&self, event: &StockEvent) -> Result<Vec<StockEvent>, &'static str> {
        match event {
            StockEvent::Reserved { quantity, .. } if self.0 + quantity > STOCK => Err("sold out"),
            event => Ok(vec![event.clone()]),
        }
    }
}

#[derive(EventUnion, Debug)]
pub(crate) enum Happened {
    Order(OrderEvent),
    Payment(PaymentEvent),
}

/// The process from an order to its confirmation or cancellation.
#[derive(Clone)]
pub(crate) struct Fulfilment {
    orders: Repository<Order>,
    stock: Repository<Stock>,
    patience: Duration,
    /// Steps left until the process kills itself; a negative number means never.
    steps_to_live: Arc<AtomicI64>,
}

impl Fulfilment {
    pub(crate) fn new(store: &Arc<dyn EventStore>, patience: Duration) -> Self {
        Self::mortal(store, patience, -1)
    }

    pub(crate) fn mortal(store: &Arc<dyn EventStore>, patience: Duration, steps: i64) -> Self {
        let (orders, stock) = (Repository::new(store.clone()), Repository::new(store.clone()));
        Self { orders, stock, patience, steps_to_live: Arc::new(AtomicI64::new(steps)) }
    }

    fn live_on(&self) {
        if self.steps_to_live.fetch_sub(1, Ordering::SeqCst) == 0 {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
            loop {
                std::thread::park();
            }
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, retell::Shape)]
pub(crate) struct Known {
    quantity: u32,
    over: bool,
}

impl Known {
    pub(crate) fn new(quantity: u32, over: bool) -> Self {
        Self { quantity, over }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Do {
    Reserve { order: String, quantity: u32 },
    Release { order: String, quantity: u32 },
    Confirm { order: String },
    Cancel { order: String, why: String },
}

#[async_trait]
impl Process for Fulfilment {
    const NAME: &'static str = "fulfilment";
    type Event = Happened;
    type State = Known;
    type Command = Do;

    fn key(&self, event: &Envelope<Happened>) -> Option<AggregateId> {
        match &event.event {
            Happened::Order(OrderEvent::Created { .. }) | Happened::Payment(_) => {
                Some(event.stream.aggregate_id().clone())
            }
            Happened::Order(_) => None,
        }
    }

    fn on_event(&self, known: &mut Known, event: &Envelope<Happened>, effects: &mut Effects<Do>) {
        let order = effects.key().to_string();
        match &event.event {
            Happened::Order(OrderEvent::Created { quantity }) => {
                known.quantity = *quantity;
                effects.set_deadline("unpaid", event.recorded_at + self.patience);
                effects.send(Do::Reserve { order, quantity: *quantity });
            }
            Happened::Payment(PaymentEvent::Completed) if !known.over => {
                known.over = true;
                effects.cancel_deadline("unpaid").send(Do::Confirm { order });
            }
            _ => {}
        }
    }

    fn on_deadline(&self, known: &mut Known, _: &str, effects: &mut Effects<Do>) {
        let order = effects.key().to_string();
        known.over = true;
        effects.send(Do::Release { order: order.clone(), quantity: known.quantity });
        effects.send(Do::Cancel { order, why: "unpaid".into() });
    }

    fn on_rejected(&self, known: &mut Known, command: &Do, reason: &str, effects: &mut Effects<Do>) {
        if let Do::Reserve { order, .. } = command {
            known.over = true;
            effects.cancel_deadline("unpaid");
            effects.send(Do::Cancel { order: order.clone(), why: reason.to_owned() });
        }
    }

    async fn execute(&self, _: &AggregateId, command: Do, context: Context) -> Result<(), CommandFailure> {
        self.live_on();
        match command {
            Do::Reserve { order, quantity } => {
                self.stock.execute_with("thing", StockEvent::Reserved { order, quantity }, context).await?
            }
            Do::Release { order, quantity } => {
                self.stock.execute_with("thing", StockEvent::Released { order, quantity }, context).await?
            }
            Do::Confirm { order } => self.orders.execute_with(order, OrderEvent::Confirmed, context).await?,
            Do::Cancel { order, why } => {
                self.orders.execute_with(order, OrderEvent::Cancelled { why }, context).await?
            }
        };
        self.live_on();
        Ok(())
    }
}
