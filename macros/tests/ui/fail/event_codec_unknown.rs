use retell::Event;

#[derive(Event)]
#[event(codec = "JSON")]
enum OrderEvent {
    #[event("order.created", codec = "bincode")]
    Created,
    #[event("order.closed", codec = json)]
    Closed,
}

fn main() {}
