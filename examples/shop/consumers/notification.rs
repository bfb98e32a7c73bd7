//! Mails to customers: a welcome and receipts. They are only counted here; real mail would be sent once, from a reaction.

use retell::{BoxError, Envelope, EventUnion, Projection, async_trait};
use serde::Serialize;

use crate::database::{Database, Insert, Row, Select};
use crate::domain::payment::PaymentEvent;
use crate::domain::user::UserEvent;
use crate::read_models::ReadModels;

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
    type Tx = dyn Database;

    fn name(&self) -> &'static str {
        "notification"
    }

    async fn setup(&self, db: &mut Self::Tx) -> Result<(), BoxError> {
        db.create(TABLES).await
    }

    async fn apply(&self, db: &mut Self::Tx, event: Envelope<Occasion>) -> Result<(), BoxError> {
        self.apply_batch(db, vec![event]).await
    }

    async fn apply_batch(&self, db: &mut Self::Tx, events: Vec<Envelope<Occasion>>) -> Result<(), BoxError> {
        let (mut welcome_mails, mut receipts) = (0, 0);
        for event in events {
            match event.event {
                Occasion::User(UserEvent::Registered { .. }) => welcome_mails += 1,
                Occasion::Payment(PaymentEvent::Completed { .. }) => receipts += 1,
            }
        }
        db.insert(&ADD, vec![Row::from([1.into(), welcome_mails.into(), receipts.into()])]).await
    }
}

/// How many mails of each kind there were.
pub async fn sent(models: &ReadModels) -> Result<Sent, BoxError> {
    let rows = models.select(&SENT, []).await?;
    let sent = rows.first().map(|row| Ok(Sent { welcome_mails: row.number(0)?, receipts: row.number(1)? }));
    sent.unwrap_or_else(|| Ok(Sent::default()))
}

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS notification_sent (
        one BIGINT PRIMARY KEY, welcome_mails BIGINT NOT NULL, receipts BIGINT NOT NULL
    );";

const ADD: Insert = Insert {
    into: "INSERT INTO notification_sent (one, welcome_mails, receipts)",
    on_conflict: "
        ON CONFLICT (one) DO UPDATE SET
        welcome_mails = notification_sent.welcome_mails + excluded.welcome_mails,
        receipts = notification_sent.receipts + excluded.receipts",
    on_duplicate_key: "
        ON DUPLICATE KEY UPDATE
        welcome_mails = welcome_mails + VALUES(welcome_mails), receipts = receipts + VALUES(receipts)",
};

const SENT: Select = Select::same("SELECT welcome_mails, receipts FROM notification_sent");
