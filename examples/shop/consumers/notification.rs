//! Mails to customers: a welcome and receipts. No mail is recorded twice.

use std::marker::PhantomData;

use retell::{BoxError, Envelope, EventUnion, Reaction, async_trait};
use serde::Serialize;

use crate::database::{Database, Insert, Row, Select};
use crate::domain::payment::PaymentEvent;
use crate::domain::user::UserEvent;
use crate::read_models::ReadModels;

pub const NAME: &str = "notification";

const WELCOME: &str = "welcome";

const RECEIPT: &str = "receipt";

pub struct Notification<D>(pub PhantomData<fn() -> D>);

/// Number of mails of each kind.
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
impl<D: Database> Reaction for Notification<D> {
    const NAME: &'static str = NAME;
    type Event = Occasion;
    type Tx = D;

    async fn setup(&self, db: &mut D) -> Result<(), BoxError> {
        db.create(TABLES).await
    }

    /// Records the mail for a mailer to send, in the transaction that also records the event as handled. So each mail is recorded once.
    async fn react(&self, db: &mut D, event: Envelope<Occasion>) -> Result<(), BoxError> {
        let (kind, to) = match event.event {
            Occasion::User(UserEvent::Registered { email, .. }) => (WELCOME, email),
            Occasion::Payment(PaymentEvent::Completed { payment_id, .. }) => (RECEIPT, payment_id),
        };
        db.insert(&ADD, vec![Row::from([event.id.to_string().into(), kind.to_owned().into(), to.into()])]).await
    }
}

/// Returns the number of mails of each kind.
pub async fn sent(models: &impl ReadModels) -> Result<Sent, BoxError> {
    let mut sent = Sent::default();
    for row in models.select(&SENT, Row::default()).await? {
        match row.text(0)?.as_str() {
            WELCOME => sent.welcome_mails = row.number(1)?,
            _ => sent.receipts = row.number(1)?,
        }
    }
    Ok(sent)
}

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS notification_mails (
        event_id VARCHAR(36) PRIMARY KEY, kind VARCHAR(10) NOT NULL, about VARCHAR(200) NOT NULL
    );";

/// Has no conflict clause: recording a mail twice is an error.
const ADD: Insert =
    Insert { into: "INSERT INTO notification_mails (event_id, kind, about)", on_conflict: "", on_duplicate_key: "" };

const SENT: Select = Select::same("SELECT kind, count(*) FROM notification_mails GROUP BY kind");
