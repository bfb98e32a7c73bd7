use retell::Event;

#[derive(Event)]
enum OrderEvent {
    #[event("order.created", version = 2, upcast(from_v1, from_v2))]
    Two,
    #[event("order.closed", version = 1, upcast(from_v1))]
    One,
    #[event("order.noted", upcast(from_v1, from_v2))]
    Unversioned,
}

fn main() {}
