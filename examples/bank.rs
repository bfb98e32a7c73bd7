//! A bank account: three commands, three events, and one way to be refused.

use retell::{Aggregate, Apply, CommandError, Event, Handle, Repository, SqliteStore};

#[derive(Event, Debug)]
enum AccountEvent {
    #[event("account.opened")]
    Opened,
    #[event("account.deposited")]
    Deposited(u64),
    #[event("account.withdrawn")]
    Withdrawn(u64),
}

/// The balance in cents, once the account is open.
#[derive(Aggregate, Clone, Default)]
#[aggregate("account", event = AccountEvent)]
struct Account(Option<u64>);

impl Apply<AccountEvent> for Account {
    fn apply(&mut self, event: AccountEvent) {
        self.0 = match event {
            AccountEvent::Opened => Some(0),
            AccountEvent::Deposited(cents) => self.0.map(|balance| balance + cents),
            AccountEvent::Withdrawn(cents) => self.0.map(|balance| balance - cents),
        }
    }
}

enum Command {
    Open,
    Deposit(u64),
    Withdraw(u64),
}

#[derive(Debug)]
struct Refused(&'static str);

impl Handle<Command> for Account {
    type Error = Refused;

    fn handle(&self, command: &Command) -> Result<Vec<AccountEvent>, Refused> {
        match (command, self.0) {
            (Command::Open, None) => Ok(vec![AccountEvent::Opened]),
            (Command::Deposit(cents), Some(_)) => Ok(vec![AccountEvent::Deposited(*cents)]),
            (Command::Withdraw(cents), Some(balance)) if *cents <= balance => Ok(vec![AccountEvent::Withdrawn(*cents)]),
            _ => Err(Refused("open it once, then pay in before you draw")),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), CommandError<Refused>> {
    let accounts = Repository::<Account>::new(SqliteStore::in_memory().await?);
    accounts.execute("alice", Command::Open).await?;
    accounts.execute("alice", Command::Deposit(100)).await?;
    if let Err(CommandError::Rejected(Refused(why))) = accounts.execute("alice", Command::Withdraw(101)).await {
        println!("refused: {why}");
    }
    println!("alice has {:?} cents", accounts.load("alice").await?.state.0);
    Ok(())
}
