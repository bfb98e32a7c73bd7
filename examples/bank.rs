//! A bank account: three commands, three events, and one way to be refused.

use retell::prelude::*;

#[derive(Event, Debug)]
enum Entry {
    #[event("account.opened")]
    Opened,
    #[event("account.deposited")]
    Deposited { cents: u64 },
    #[event("account.withdrawn")]
    Withdrawn { cents: u64 },
}

/// Without a balance until it is opened.
#[derive(Aggregate, Clone, Default)]
#[aggregate("account", event = Entry)]
struct Account {
    balance: Option<u64>,
}

impl Apply<Entry> for Account {
    fn apply(&mut self, entry: Entry) {
        self.balance = match entry {
            Entry::Opened => Some(0),
            Entry::Deposited { cents } => self.balance.map(|balance| balance + cents),
            Entry::Withdrawn { cents } => self.balance.map(|balance| balance - cents),
        }
    }
}

enum Command {
    Open,
    Deposit { cents: u64 },
    Withdraw { cents: u64 },
}

impl Handle<Command> for Account {
    type Error = &'static str;

    fn handle(&self, command: &Command) -> Result<Vec<Entry>, &'static str> {
        match (command, self.balance) {
            (Command::Open, None) => Ok(vec![Entry::Opened]),
            (&Command::Deposit { cents }, Some(_)) => Ok(vec![Entry::Deposited { cents }]),
            (&Command::Withdraw { cents }, Some(balance)) if cents <= balance => Ok(vec![Entry::Withdrawn { cents }]),
            _ => Err("open the account once, and deposit before you withdraw"),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let accounts = Repository::<Account>::new(SqliteStore::in_memory().await?);
    accounts.execute("alice", Command::Open).await?;
    accounts.execute("alice", Command::Deposit { cents: 100 }).await?;
    if let Err(CommandError::Rejected(reason)) = accounts.execute("alice", Command::Withdraw { cents: 101 }).await {
        println!("refused: {reason}");
    }
    println!("alice has {:?} cents", accounts.load("alice").await?.state.balance);
    Ok(())
}
