use retell::Event;

#[derive(Event)]
enum OrderEvent {
    #[event("order.created", version = 3, upcast(from_v1, from_v2))]
    Created { id: u64 },
    #[event("order.closed", version = 2, upcast(closed_v1))]
    Closed,
}

fn from_v1(id: u8) -> u16 {
    u16::from(id)
}

fn from_v2(id: u32) -> OrderEvent {
    OrderEvent::Created { id: u64::from(id) }
}

fn closed_v1(id: u32) -> u32 {
    id
}

fn main() {}
