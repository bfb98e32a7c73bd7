use retell::Event;

#[derive(Event)]
enum OrderEvent {
    #[event("order.created")]
    Created(#[serde(skip)] u64),
    #[event("order.noted")]
    Noted(#[serde(default, skip_serializing)] String),
}

#[derive(Event)]
#[event("user.registered")]
struct UserRegistered(#[serde(skip_deserializing)] u64);

fn main() {}
