use retell::Event;

#[derive(Event)]
enum OrderEvent {
    #[event("order.placed", version = 2, upcast(split(a, b)))]
    Placed,
    #[event("order.closed", version = 2, upcast(split()))]
    Closed,
}

#[derive(Event)]
#[event("user.left", version = 2, upcast(split(one)))]
struct UserLeft;

fn one(_: u8) -> UserLeft {
    UserLeft
}

fn main() {}
