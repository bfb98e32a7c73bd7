use retell::{Aggregate, Apply, Event};

#[derive(Default, Clone, Aggregate)]
#[aggregate(event = AccountEvent)]
struct Account;

#[derive(Default, Clone, Aggregate)]
#[aggregate]
struct BankAccount;

#[derive(Event)]
enum AccountEvent {}

impl Apply<AccountEvent> for Account {
    fn apply(&mut self, _: AccountEvent) {}
}

impl Apply<AccountEvent> for BankAccount {
    fn apply(&mut self, _: AccountEvent) {}
}

fn main() {}
