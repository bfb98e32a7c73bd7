//! The orders and revenue of each customer: a view, without SQL.

use retell::view::Paging;
use retell::{Envelope, View, Views};

use crate::domain::Cents;
use crate::domain::order::OrderEvent;
use crate::read_models::ReadModels;
use crate::truth::Customer;

/// Rows per read.
const PAGE: usize = 5_000;

pub const NAME: &str = "customers";

#[derive(Debug)]
pub struct Customers;

impl View for Customers {
    const NAME: &'static str = NAME;
    type Event = OrderEvent;
    type State = Customer;

    fn key(&self, event: &Envelope<OrderEvent>) -> Option<String> {
        match &event.event {
            OrderEvent::Created { user_id, .. } | OrderEvent::Cancelled { user_id, .. } => Some(user_id.clone()),
            OrderEvent::Confirmed { .. } => None,
        }
    }

    fn apply(&self, customer: &mut Customer, event: Envelope<OrderEvent>) {
        let Customer { orders, revenue: Cents(cents) } = customer;
        match event.event {
            OrderEvent::Created { total_amount, .. } => {
                *orders += 1;
                *cents += total_amount.0;
            }
            OrderEvent::Cancelled { total_amount, .. } => {
                *orders = orders.saturating_sub(1);
                *cents = cents.saturating_sub(total_amount.0);
            }
            OrderEvent::Confirmed { .. } => {}
        }
    }
}

/// Returns all customers, ordered by their ids.
pub async fn all(models: &impl ReadModels) -> retell::Result<Vec<(String, Customer)>> {
    let (views, mut all, mut paging) = (Views::new(&Customers, models.clone()), Vec::new(), Paging::first(PAGE));
    loop {
        let found = views.all(paging).await?;
        all.extend(found.rows.into_iter().map(|(key, customer)| (key.to_string(), customer)));
        let Some(next) = found.next else { return Ok(all) };
        paging = Paging::first(PAGE).after(next);
    }
}
