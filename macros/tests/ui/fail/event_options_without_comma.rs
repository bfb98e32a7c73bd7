use retell::Event;

#[derive(Event)]
enum OrderEvent {
    #[event("order.created" version = 2)]
    Created,
}

fn main() {}
