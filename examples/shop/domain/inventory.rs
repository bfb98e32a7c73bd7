//! The stock of one product.
//!
//! The aggregate does not remember the orders it has served, since that list would grow forever. Instead, a command carries an idempotency key.

use retell::{Aggregate, Apply, Event, Handle};

#[derive(Debug, Clone, PartialEq, Event)]
pub enum InventoryEvent {
    #[event("inventory.received")]
    Received { product_id: String, sku_id: String, quantity: u32, remaining_stock: u64 },
    #[event("inventory.deducted")]
    Deducted { product_id: String, sku_id: String, quantity: u32, remaining_stock: u64 },
    #[event("inventory.released")]
    Released { product_id: String, sku_id: String, quantity: u32, remaining_stock: u64 },
}

/// The remaining stock, and the number of deliveries.
#[derive(Debug, Clone, Default, PartialEq, Aggregate)]
#[aggregate("inventory", event = InventoryEvent)]
pub struct Inventory {
    stock: u64,
    deliveries: u64,
}

impl Apply<InventoryEvent> for Inventory {
    fn apply(&mut self, event: InventoryEvent) {
        match event {
            InventoryEvent::Received { remaining_stock, .. } => {
                self.stock = remaining_stock;
                self.deliveries += 1;
            }
            InventoryEvent::Deducted { remaining_stock, .. } | InventoryEvent::Released { remaining_stock, .. } => {
                self.stock = remaining_stock;
            }
        }
    }
}

#[derive(Debug, Clone)]
pub struct ReceiveStock {
    pub product_id: String,
    pub quantity: u32,
}

#[derive(Debug, Clone)]
pub struct DeductStock {
    pub product_id: String,
    pub quantity: u32,
}

/// Returns deducted pieces to the stock.
#[derive(Debug, Clone)]
pub struct ReleaseStock {
    pub product_id: String,
    pub quantity: u32,
}

#[derive(Debug, PartialEq, thiserror::Error)]
pub enum InventoryRefused {
    #[error("the quantity is zero")]
    NoQuantity,
    /// Contains the number of deliveries, so that all commands that wait for the next delivery request the same one.
    #[error("out of stock after {deliveries} deliveries: {wanted} wanted, {left} left")]
    OutOfStock { wanted: u32, left: u64, deliveries: u64 },
}

impl Handle<ReceiveStock> for Inventory {
    type Error = InventoryRefused;

    fn handle(&self, command: &ReceiveStock) -> Result<Vec<InventoryEvent>, InventoryRefused> {
        if command.quantity == 0 {
            return Err(InventoryRefused::NoQuantity);
        }
        Ok(vec![InventoryEvent::Received {
            product_id: command.product_id.clone(),
            sku_id: sku(&command.product_id),
            quantity: command.quantity,
            remaining_stock: self.stock + u64::from(command.quantity),
        }])
    }
}

impl Handle<DeductStock> for Inventory {
    type Error = InventoryRefused;

    fn handle(&self, command: &DeductStock) -> Result<Vec<InventoryEvent>, InventoryRefused> {
        let DeductStock { product_id, quantity } = command;
        if *quantity == 0 {
            return Err(InventoryRefused::NoQuantity);
        }
        let Some(remaining_stock) = self.stock.checked_sub(u64::from(*quantity)) else {
            let (left, deliveries) = (self.stock, self.deliveries);
            return Err(InventoryRefused::OutOfStock { wanted: *quantity, left, deliveries });
        };
        let (product_id, sku_id) = (product_id.clone(), sku(product_id));
        Ok(vec![InventoryEvent::Deducted { product_id, sku_id, quantity: *quantity, remaining_stock }])
    }
}

impl Handle<ReleaseStock> for Inventory {
    type Error = InventoryRefused;

    fn handle(&self, command: &ReleaseStock) -> Result<Vec<InventoryEvent>, InventoryRefused> {
        let ReleaseStock { product_id, quantity } = command;
        if *quantity == 0 {
            return Err(InventoryRefused::NoQuantity);
        }
        let remaining_stock = self.stock + u64::from(*quantity);
        let (product_id, sku_id) = (product_id.clone(), sku(product_id));
        Ok(vec![InventoryEvent::Released { product_id, sku_id, quantity: *quantity, remaining_stock }])
    }
}

/// Returns the SKU. Each product comes in one form: a jewel case.
fn sku(product_id: &str) -> String {
    format!("{product_id}-jewel")
}

#[cfg(test)]
mod tests {
    use retell::testing::given;

    use super::*;

    fn receive(quantity: u32) -> ReceiveStock {
        ReceiveStock { product_id: "cd-001".into(), quantity }
    }

    fn deduct(quantity: u32) -> DeductStock {
        DeductStock { product_id: "cd-001".into(), quantity }
    }

    fn received(quantity: u32, remaining_stock: u64) -> InventoryEvent {
        InventoryEvent::Received { product_id: "cd-001".into(), sku_id: sku("cd-001"), quantity, remaining_stock }
    }

    fn deducted(quantity: u32, remaining_stock: u64) -> InventoryEvent {
        InventoryEvent::Deducted { product_id: "cd-001".into(), sku_id: sku("cd-001"), quantity, remaining_stock }
    }

    #[test]
    fn received_stock_is_added_to_the_remaining_stock() {
        given::<Inventory>([received(10, 10), deducted(4, 6)]).when(receive(5)).then([received(5, 11)]);
    }

    #[test]
    fn last_piece_can_be_deducted() {
        given::<Inventory>([received(10, 10)]).when(deduct(10)).then([deducted(10, 0)]);
    }

    #[test]
    fn released_stock_can_be_deducted_again() {
        let release = ReleaseStock { product_id: "cd-001".into(), quantity: 4 };
        let (product_id, sku_id) = ("cd-001".into(), sku("cd-001"));
        let released = InventoryEvent::Released { product_id, sku_id, quantity: 4, remaining_stock: 10 };
        given::<Inventory>([received(10, 10), deducted(4, 6)]).when(release).then([released.clone()]);
        given::<Inventory>([received(10, 10), deducted(4, 6), released]).when(deduct(10)).then([deducted(10, 0)]);
    }

    #[test]
    fn deducting_too_much_is_rejected_with_the_delivery_count() {
        given::<Inventory>([received(10, 10), deducted(4, 6)])
            .when(deduct(7))
            .then_rejected(InventoryRefused::OutOfStock { wanted: 7, left: 6, deliveries: 1 });
    }

    #[test]
    fn undelivered_product_is_out_of_stock() {
        given::<Inventory>([]).when(deduct(1)).then_rejected(InventoryRefused::OutOfStock {
            wanted: 1,
            left: 0,
            deliveries: 0,
        });
    }

    #[test]
    fn zero_quantity_is_rejected() {
        given::<Inventory>([]).when(receive(0)).then_rejected(InventoryRefused::NoQuantity);
        given::<Inventory>([]).when(deduct(0)).then_rejected(InventoryRefused::NoQuantity);
        let release = ReleaseStock { product_id: "cd-001".into(), quantity: 0 };
        given::<Inventory>([]).when(release).then_rejected(InventoryRefused::NoQuantity);
    }
}
