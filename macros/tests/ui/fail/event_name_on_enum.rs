use retell::Event;

#[derive(Event)]
#[event("order")]
enum OrderEvent {
    #[event("order.created")]
    Created,
}

fn main() {}
