use retell::Event;

#[derive(Event)]
enum OrderEvent {
    #[event("")]
    Created,
}

fn main() {}
