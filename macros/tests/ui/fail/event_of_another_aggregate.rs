use retell::{Aggregate, Apply, Event};

#[derive(Event)]
#[event(aggregate = "customer")]
enum CustomerEvent {
    #[event("item.created")]
    Created,
}

#[derive(Default, Clone, Aggregate)]
#[aggregate("product", event = CustomerEvent)]
struct Product;

impl Apply<CustomerEvent> for Product {
    fn apply(&mut self, _: CustomerEvent) {}
}

#[derive(Event)]
#[event("item.priced", aggregate = "Product")]
struct Priced;

#[derive(Event)]
#[event("item.named", aggregate = product)]
struct Named;

fn main() {}
