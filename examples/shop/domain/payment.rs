//! A payment: completed once.

use chrono::NaiveDate;
use retell::{Aggregate, Apply, Event, Handle};

use super::Cents;

#[derive(Debug, Clone, PartialEq, Event)]
pub enum PaymentEvent {
    #[event("payment.completed")]
    Completed { payment_id: String, order_id: String, amount: Cents, payment_method: String, date: NaiveDate },
}

/// The order and amount of the payment, once completed.
#[derive(Debug, Clone, Default, PartialEq, Aggregate)]
#[aggregate("payment", event = PaymentEvent, snapshots = never)]
pub struct Payment {
    completed: Option<(String, Cents)>,
}

impl Apply<PaymentEvent> for Payment {
    fn apply(&mut self, event: PaymentEvent) {
        let PaymentEvent::Completed { order_id, amount, .. } = event;
        self.completed = Some((order_id, amount));
    }
}

#[derive(Debug, Clone)]
pub struct CompletePayment {
    pub payment_id: String,
    pub order_id: String,
    pub amount: Cents,
    pub payment_method: String,
    pub date: NaiveDate,
}

#[derive(Debug, PartialEq, thiserror::Error)]
pub enum PaymentRefused {
    #[error("the payment was already completed with {amount} for {order_id}")]
    OtherPayment { order_id: String, amount: Cents },
}

impl Handle<CompletePayment> for Payment {
    type Error = PaymentRefused;

    fn handle(&self, command: &CompletePayment) -> Result<Vec<PaymentEvent>, PaymentRefused> {
        match &self.completed {
            Some((order, amount)) if (order, amount) == (&command.order_id, &command.amount) => Ok(vec![]),
            Some((order_id, amount)) => {
                Err(PaymentRefused::OtherPayment { order_id: order_id.clone(), amount: *amount })
            }
            None => Ok(vec![completed(command)]),
        }
    }
}

fn completed(command: &CompletePayment) -> PaymentEvent {
    PaymentEvent::Completed {
        payment_id: command.payment_id.clone(),
        order_id: command.order_id.clone(),
        amount: command.amount,
        payment_method: command.payment_method.clone(),
        date: command.date,
    }
}

#[cfg(test)]
mod tests {
    use retell::testing::given;

    use super::*;

    fn pay(order_id: &str, cents: u64) -> CompletePayment {
        CompletePayment {
            payment_id: "payment-2".into(),
            order_id: order_id.into(),
            amount: Cents(cents),
            payment_method: "card".into(),
            date: NaiveDate::default(),
        }
    }

    #[test]
    fn payment_is_completed() {
        given::<Payment>([]).when(pay("order-2", 999)).then([completed(&pay("order-2", 999))]);
    }

    #[test]
    fn paying_again_does_nothing() {
        given::<Payment>([completed(&pay("order-2", 999))]).when(pay("order-2", 999)).then([]);
    }

    #[test]
    fn another_amount_is_rejected() {
        given::<Payment>([completed(&pay("order-2", 999))])
            .when(pay("order-2", 998))
            .then_rejected(PaymentRefused::OtherPayment { order_id: "order-2".into(), amount: Cents(999) });
    }
}
