use retell::Event;

#[derive(Event)]
enum OrderEvent {
    #[event("order.created")]
    Created {
        #[event("id")]
        id: u64,
    },
    #[event("order.noted")]
    Noted(#[event] String),
}

fn main() {}
