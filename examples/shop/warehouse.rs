//! Takes CDs from the stock and returns them. If there are too few, the warehouse receives a delivery.

use std::sync::Arc;

use futures::future::try_join_all;
use retell::{CommandError, Context, EventStore, IdempotencyKey, Repository};

use crate::commands::{SOURCE, execute};
use crate::domain::inventory::{DeductStock, Inventory, InventoryRefused, ReceiveStock, ReleaseStock};
use crate::domain::order::Item;
use crate::orders_file::PRODUCTS;
use crate::truth::{DELIVERY_SIZE, INITIAL_STOCK};

/// The error of a command to the inventory.
type Refused = CommandError<InventoryRefused>;

#[derive(Debug)]
pub struct Warehouse {
    inventory: Repository<Inventory>,
}

impl Warehouse {
    pub fn new(log: &Arc<dyn EventStore>) -> Self {
        Self { inventory: Repository::new(log.clone()) }
    }

    /// Receives the initial stock of each product.
    pub async fn receive_initial_stock(&self) -> Result<(), Refused> {
        let ids: Vec<_> = (0..PRODUCTS).map(product_id).collect();
        try_join_all(ids.iter().map(|id| self.receive(id, 0, INITIAL_STOCK, Context::new()))).await.map(drop)
    }

    /// Takes the ordered pieces. The loop ends, since each round with too little stock adds a delivery.
    pub async fn deduct(&self, item: &Item, context: Context) -> Result<(), Refused> {
        let Item { product_id, quantity } = item;
        loop {
            let command = DeductStock { product_id: product_id.clone(), quantity: *quantity };
            match execute(&self.inventory, product_id, command, context.clone()).await {
                Err(CommandError::Rejected(InventoryRefused::OutOfStock { deliveries, .. })) => {
                    self.receive(product_id, deliveries, DELIVERY_SIZE, context.clone()).await?;
                }
                done => return done.map(drop),
            }
        }
    }

    /// Returns the pieces to the stock.
    pub async fn release(&self, item: &Item, context: Context) -> Result<(), Refused> {
        let Item { product_id, quantity } = item;
        let command = ReleaseStock { product_id: product_id.clone(), quantity: *quantity };
        execute(&self.inventory, product_id, command, context).await.map(drop)
    }

    /// Receives delivery number `deliveries` + 1. All commands that wait for it use the same idempotency key, so it arrives once.
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
