//! An order waits for its payment. The process confirms it once it is paid, and cancels it if the time is up before that.

use std::time::Duration;

use retell::prelude::*;
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
    type Command = String;

    fn key(&self, event: &Envelope<OrderEvent>) -> Option<AggregateId> {
        Some(event.stream.aggregate_id().clone())
    }

    fn on_event(&self, (): &mut (), event: &Envelope<OrderEvent>, effects: &mut Effects<String>) {
        match event.event {
            OrderEvent::Created => effects.set_deadline("unpaid", event.recorded_at + Duration::from_millis(300)),
            OrderEvent::Paid => effects.cancel_deadline("unpaid").send("confirm".into()),
        };
    }

    fn on_deadline(&self, (): &mut (), _: &str, effects: &mut Effects<String>) {
        effects.send("cancel".into());
    }

    // Mostly `self.orders.execute_with(order, command, context).await?`.
    async fn execute(&self, order: &AggregateId, command: String, _: Context) -> Result<(), CommandFailure> {
        self.0.send(format!("{command} {order}")).await.map_err(|_| CommandFailure::Rejected("it is over".into()))
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
