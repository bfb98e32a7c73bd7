use retell::{Aggregate, Apply, Event};

#[derive(Default, Clone, Aggregate)]
#[aggregate("account", event = AccountEvent)]
struct Account<T> {
    state: T,
}

#[derive(Default, Clone, Aggregate)]
#[aggregate("named", event = AccountEvent)]
struct Named<'a> {
    name: &'a str,
}

#[derive(Event)]
enum AccountEvent {}

impl<T> Apply<AccountEvent> for Account<T> {
    fn apply(&mut self, _: AccountEvent) {}
}

impl Apply<AccountEvent> for Named<'_> {
    fn apply(&mut self, _: AccountEvent) {}
}

fn main() {}
