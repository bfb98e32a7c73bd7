use retell::{Aggregate, Apply, Event};

#[derive(Default, Clone, Aggregate)]
#[aggregate("account")]
struct Account;

#[derive(Event)]
enum AccountEvent {}

impl Apply<AccountEvent> for Account {
    fn apply(&mut self, _: AccountEvent) {}
}

fn main() {}
