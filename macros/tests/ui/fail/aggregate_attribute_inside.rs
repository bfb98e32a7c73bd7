use retell::{Aggregate, Apply, Event};

#[derive(Default, Clone, Aggregate)]
#[aggregate("account", event = AccountEvent)]
struct Account {
    #[aggregate("cents")]
    cents: u64,
}

#[derive(Default, Clone, Aggregate)]
#[aggregate("door", event = AccountEvent)]
enum Door {
    #[default]
    #[aggregate("shut")]
    Shut,
}

#[derive(Event)]
enum AccountEvent {}

impl Apply<AccountEvent> for Account {
    fn apply(&mut self, _: AccountEvent) {}
}

impl Apply<AccountEvent> for Door {
    fn apply(&mut self, _: AccountEvent) {}
}

fn main() {}
