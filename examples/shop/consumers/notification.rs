//! Mails to customers: a welcome and receipts. They are only counted here.
//!
//! The count lives in memory, so a new start counts the whole log again. Real mail would be sent once, from a reaction.

use retell::{BoxError, Envelope, EventUnion, Projection, async_trait};
use serde::Serialize;

use crate::domain::payment::PaymentEvent;
use crate::domain::user::UserEvent;

#[derive(Debug)]
pub struct Notification;

/// What was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sent {
    pub welcome_mails: u64,
    pub receipts: u64,
}

#[derive(Debug, EventUnion)]
pub enum Occasion {
    User(UserEvent),
    Payment(PaymentEvent),
}

#[async_trait]
impl Projection for Notification {
    type Event = Occasion;
    type Tx = Sent;

    fn name(&self) -> &'static str {
        "notification"
    }

    async fn apply(&self, sent: &mut Sent, event: Envelope<Occasion>) -> Result<(), BoxError> {
        match event.event {
            Occasion::User(UserEvent::Registered { .. }) => sent.welcome_mails += 1,
            Occasion::Payment(PaymentEvent::Completed { .. }) => sent.receipts += 1,
        }
        Ok(())
    }
}
