use retell::{Aggregate, Apply, Event};

#[derive(Clone, Copy, Aggregate)]
#[aggregate("account", event = AccountEvent)]
union Account {
    cents: u64,
}

impl Default for Account {
    fn default() -> Self {
        Self { cents: 0 }
    }
}

#[derive(Event)]
enum AccountEvent {}

impl Apply<AccountEvent> for Account {
    fn apply(&mut self, _: AccountEvent) {}
}

fn main() {}
