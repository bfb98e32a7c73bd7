use retell::Event;

#[derive(Event)]
enum OrderEvent {
    #[event = "order.created"]
    Created,
}

fn main() {}
