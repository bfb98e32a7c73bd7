use retell::Event;

#[derive(Event)]
#[event(5)]
struct Numbered;

fn main() {}
