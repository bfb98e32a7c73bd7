//! Takes CDs from the stock, and puts them back. Where there are too few, more are delivered.

use std::sync::Arc;

use futures::future::try_join_all;
use retell::{CommandError, Context, EventStore, IdempotencyKey, Repository};

use crate::commands::{SOURCE, execute};
use crate::domain::inventory::{DeductStock, Inventory, InventoryRefused, ReceiveStock, ReleaseStock};
use crate::domain::order::Item;
use crate::orders_file::PRODUCTS;
use crate::truth::{DELIVERY, FIRST_STOCK};

/// What it says instead of an answer.
type Refused = CommandError<InventoryRefused>;

#[derive(Debug)]
pub struct Warehouse {
    inventory: Repository<Inventory>,
}

impl Warehouse {
    pub fn new(log: &Arc<dyn EventStore>) -> Self {
        Self { inventory: Repository::new(log.clone()) }
    }

    /// The first delivery of each product.
    pub async fn fill_the_shelves(&self) -> Result<(), Refused> {
        let ids: Vec<_> = (0..PRODUCTS).map(product_id).collect();
        try_join_all(ids.iter().map(|id| self.receive(id, 0, FIRST_STOCK, Context::new()))).await.map(drop)
    }

    /// Takes what was ordered. Ends: each round without enough in stock adds a delivery.
    pub async fn deduct(&self, item: &Item, context: Context) -> Result<(), Refused> {
        let Item { product_id, quantity } = item;
        loop {
            let command = DeductStock { product_id: product_id.clone(), quantity: *quantity };
            match execute(&self.inventory, product_id, command, context.clone()).await {
                Err(CommandError::Rejected(InventoryRefused::OutOfStock { deliveries, .. })) => {
                    self.receive(product_id, deliveries, DELIVERY, context.clone()).await?;
                }
                done => return done.map(drop),
            }
        }
    }

    /// Puts back what was taken.
    pub async fn release(&self, item: &Item, context: Context) -> Result<(), Refused> {
        let Item { product_id, quantity } = item;
        let command = ReleaseStock { product_id: product_id.clone(), quantity: *quantity };
        execute(&self.inventory, product_id, command, context).await.map(drop)
    }

    /// The delivery that follows so many others. Everybody who waits for it names it by the same key, so that it comes once.
    async fn receive(&self, product_id: &str, deliveries: u64, quantity: u32, context: Context) -> Result<(), Refused> {
        let command = ReceiveStock { product_id: product_id.to_owned(), quantity };
        let key = IdempotencyKey::new(format!("receive/{product_id}/{deliveries}"));
        let key = key.map_err(|error| CommandError::Failed(error.into()))?;
        let context = context.with_source(SOURCE).with_key(key);
        execute(&self.inventory, product_id, command, context).await.map(drop)
    }
}

pub fn product_id(product: u64) -> String {
    format!("cd-{product:03}")
}
