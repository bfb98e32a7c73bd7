use retell::{Aggregate, Apply, Event};

#[derive(Default, Clone, Aggregate)]
#[aggregate("account", event = AccountEvent, snapshot_version = "2")]
struct Account;

#[derive(Default, Clone, Aggregate)]
#[aggregate("other", event = AccountEvent, snapshot_version = 0)]
struct Other;

#[derive(Event)]
enum AccountEvent {}

impl Apply<AccountEvent> for Account {
    fn apply(&mut self, _: AccountEvent) {}
}

impl Apply<AccountEvent> for Other {
    fn apply(&mut self, _: AccountEvent) {}
}

fn main() {}
