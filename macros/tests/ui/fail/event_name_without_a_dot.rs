use retell::Event;

#[derive(Event)]
enum CustomerEvent {
    #[event("created")]
    Created { name: String },
}

#[derive(Event)]
#[event("renamed")]
struct CustomerRenamed {
    name: String,
}

#[derive(Event)]
#[event("paid")]
struct Paid;

fn main() {}
