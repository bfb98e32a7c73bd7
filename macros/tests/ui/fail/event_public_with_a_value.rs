use retell::Event;

#[derive(Event)]
enum OrderEvent {
    #[event("order.created", public = true)]
    Created,
    #[event("order.closed", public("billing"))]
    Closed,
    #[event("order.opened", public, public)]
    Opened,
}

fn main() {}
