use retell::Event;

#[derive(Event)]
enum OrderEvent {
    #[event("order.placed", renamed_from = 1)]
    Placed,
    #[event("order.closed", renamed_from("order.ended", Ended))]
    Closed,
    #[event("order.left", renamed_from = "")]
    Left,
    #[event("order.lost", renamed_from = "order lost")]
    Lost,
    #[event("order.found", renamed_from = "a.b", renamed_from = "c.d")]
    Found,
}

fn main() {}
