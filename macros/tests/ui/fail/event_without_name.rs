use retell::Event;

#[derive(Event)]
enum OrderEvent {
    Created { id: u64 },
    #[event]
    Noted(String),
    #[event(version = 2, upcast(from_v1))]
    Closed,
}

#[derive(Event)]
struct UserRegistered;

fn main() {}
