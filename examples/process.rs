//! An order waits for its payment. Paid, it is to be confirmed; if its time is up before, it is to be cancelled.

use retell::process::{NotExecuted, Process, Then};
use retell::{AggregateId, App, BoxError, Context, Envelope, Event, EventStore, ExpectedVersion, MemoryReadModel};
use retell::{MemoryStore, StreamId, async_trait, event::NewEvent, store::Append};
use std::time::Duration;
use tokio::sync::mpsc;

#[derive(Event)]
enum OrderEvent {
    #[event("order.created")]
    Created,
    #[event("order.paid")]
    Paid,
}
struct Payment(mpsc::Sender<String>);
#[async_trait]
impl Process for Payment {
    const NAME: &'static str = "payment";
    type Event = OrderEvent;
    type State = ();
    type Change = ();
    type Command = String;

    fn key(&self, event: &Envelope<OrderEvent>) -> Option<AggregateId> {
        Some(event.stream.aggregate_id().clone())
    }

    fn apply((): &mut (), (): ()) {}

    fn on_event(&self, (): &(), event: &Envelope<OrderEvent>, then: &mut Then<Self>) {
        match event.event {
            OrderEvent::Created => then.remind("unpaid", event.recorded_at + Duration::from_millis(300)),
            OrderEvent::Paid => then.cancel("unpaid").send("confirm".into()),
        };
    }

    fn on_deadline(&self, (): &(), _: &str, then: &mut Then<Self>) {
        then.send("cancel".into());
    }

    fn on_rejected(&self, (): &(), _: &String, _: &str, _: &mut Then<Self>) {}

    // Mostly `self.orders.execute_with(order.clone(), command, context).await?`.
    async fn execute(&self, order: &AggregateId, command: String, _: Context) -> Result<(), NotExecuted> {
        self.0.send(format!("{command} {order}")).await.map_err(|_| NotExecuted::Rejected("it is over".into()))
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let (store, (commands, mut sent)) = (MemoryStore::new(), mpsc::channel(9));
    let running = App::new(store.clone(), MemoryReadModel::new()).process(Payment(commands)).start();
    for (order, event) in [("early", OrderEvent::Created), ("late", OrderEvent::Created), ("early", OrderEvent::Paid)] {
        let (stream, event) = (StreamId::parse("order", order)?, NewEvent::new(&event)?);
        store.append(Append::new(stream, ExpectedVersion::Any, vec![event])).await?;
    }
    println!("{:?}, {:?}", sent.recv().await, sent.recv().await);
    Ok(running.stop().await?)
}
