use retell::Event;

#[derive(Event)]
enum OrderEvent {
    #[event("order.created", version = "2")]
    Text,
    #[event("order.closed", version = 1.5)]
    Fraction,
    #[event("order.noted", version = -1)]
    Negative,
    #[event("order.moved", version = 4294967296)]
    TooLarge,
    #[event("order.paid", version)]
    Nothing,
}

fn main() {}
