use retell::Event;

#[derive(Event)]
enum OrderEvent {
    #[event("order.placed", renamed_from = "order.closed")]
    Placed,
    #[event("order.closed", renamed_from("order.closed", "order.ended"))]
    Closed,
    #[event("order.left", renamed_from = "order.ended")]
    Left,
}

#[derive(Event)]
#[event("user.left", renamed_from("user.gone", "user.gone"))]
struct UserLeft;

fn main() {}
