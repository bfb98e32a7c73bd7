use retell::Event;

#[derive(Event)]
#[event(crate = retell)]
enum OrderEvent {}

#[derive(Event)]
#[event(crate = "not a path")]
enum UserEvent {}

fn main() {}
