use retell::Event;

#[derive(Event)]
#[event(version = 2)]
enum OrderEvent {
    #[event("order.created", verison = 2, codec = "json")]
    Created,
    #[event(Closed)]
    Closed,
}

#[derive(Event)]
#[event("user.registered", name = "x")]
struct UserRegistered;

fn main() {}
