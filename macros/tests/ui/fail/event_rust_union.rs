use retell::Event;

#[derive(Event)]
#[event("order.created")]
union OrderCreated {
    id: u64,
}

fn main() {}
