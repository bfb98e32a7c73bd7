use retell::{Aggregate, Apply, Event};

#[derive(Default, Clone, Aggregate)]
#[aggregate("", event = AccountEvent)]
struct Empty;

#[derive(Default, Clone, Aggregate)]
#[aggregate("Account", event = AccountEvent)]
struct Upper;

#[derive(Default, Clone, Aggregate)]
#[aggregate("bank account", event = AccountEvent)]
struct Space;

#[derive(Default, Clone, Aggregate)]
#[aggregate("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", event = AccountEvent)]
struct Long;

#[derive(Event)]
enum AccountEvent {}

impl Apply<AccountEvent> for Empty {
    fn apply(&mut self, _: AccountEvent) {}
}

impl Apply<AccountEvent> for Upper {
    fn apply(&mut self, _: AccountEvent) {}
}

impl Apply<AccountEvent> for Space {
    fn apply(&mut self, _: AccountEvent) {}
}

impl Apply<AccountEvent> for Long {
    fn apply(&mut self, _: AccountEvent) {}
}

fn main() {}
