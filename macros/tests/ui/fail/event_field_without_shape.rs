use retell::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Line {
    sku: String,
}

#[derive(Event)]
enum OrderEvent {
    #[event("order.placed")]
    Placed { lines: Vec<Line> },
}

fn main() {}
