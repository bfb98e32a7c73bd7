use retell::{Aggregate, Apply, Event};

#[derive(Default, Clone, Aggregate)]
#[aggregate("account", event = AccountEvent)]
#[aggregate(snapshots = 5)]
struct Account;

#[derive(Event)]
enum AccountEvent {}

impl Apply<AccountEvent> for Account {
    fn apply(&mut self, _: AccountEvent) {}
}

fn main() {}
