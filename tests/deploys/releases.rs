//! Two releases of one program. The newer one raises the version of an event, and has another kind of event.

use std::convert::Infallible;

use retell::event::Envelope;
use retell::{Aggregate, Apply, Event, EventUnion, Handle, Value, View};
use serde::{Deserialize, Serialize};

/// Credits an account. The events have the name of the command.
#[derive(Debug, Clone)]
pub(crate) struct Credit {
    pub(crate) command: String,
    pub(crate) cents: u64,
}

/// The row of an account in either view.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, retell::Shape)]
pub(crate) struct Row {
    pub(crate) cents: u64,
    /// The commands of the applied events, in order.
    pub(crate) commands: Vec<String>,
    /// The number of events that each release has applied.
    pub(crate) applied_by: [u64; 2],
    /// The release that has written the row last.
    pub(crate) writer: u32,
    /// The newest release that has written an event of the row.
    pub(crate) newest: u32,
    /// Whether a release has applied an event of a later one.
    pub(crate) is_mistaken: bool,
}

impl Row {
    fn apply(&mut self, reader: u32, written_by: u32, command: String, cents: u64) {
        self.cents += cents;
        self.commands.push(command);
        self.applied_by[reader as usize - 1] += 1;
        self.writer = reader;
        self.newest = self.newest.max(written_by);
        self.is_mistaken |= written_by > reader;
    }
}

/// Declares what differs between the releases only by its types: the state of an account, and its views.
macro_rules! release {
    ($number:literal, $events:ty, $name:expr) => {
        use super::*;

        #[derive(Aggregate, Debug, Default, Clone)]
        #[aggregate("account", event = $events)]
        pub(crate) struct Account {
            credits: u64,
        }

        /// A view in log order.
        pub(crate) struct Balances;

        impl View for Balances {
            const NAME: &'static str = "balances";
            type Event = Credited;
            type State = Row;

            fn key(&self, event: &Envelope<Credited>) -> Option<String> {
                Some(event.stream.aggregate_id().to_string())
            }

            fn apply(&self, row: &mut Row, event: Envelope<Credited>) {
                let (written_by, command, cents) = $name(event.event);
                row.apply($number, written_by, command, cents);
            }
        }

        /// The same view with order per aggregate.
        pub(crate) struct ByAccount;

        impl View for ByAccount {
            const NAME: &'static str = "by_account";
            type Event = Credited;
            type State = Row;

            fn key(&self, event: &Envelope<Credited>) -> Option<String> {
                Balances.key(event)
            }

            fn apply(&self, row: &mut Row, event: Envelope<Credited>) {
                Balances.apply(row, event);
            }
        }
    };
}

pub(crate) mod first {
    release!(1, Credited, |event: Credited| (1, event.command, event.cents));

    #[derive(Event, Debug, Clone)]
    #[event("account.credited")]
    pub(crate) struct Credited {
        pub(crate) command: String,
        pub(crate) cents: u64,
    }

    impl Apply<Credited> for Account {
        fn apply(&mut self, _: Credited) {
            self.credits += 1;
        }
    }

    impl Handle<Credit> for Account {
        type Error = Infallible;

        fn handle(&self, credit: &Credit) -> Result<Vec<Credited>, Infallible> {
            Ok(vec![Credited { command: credit.command.clone(), cents: credit.cents }])
        }
    }
}

pub(crate) mod second {
    release!(2, AccountEvent, |event: Credited| (
        if event.currency.is_some() { 2 } else { 1 },
        event.command,
        event.amount
    ));

    #[derive(Event, Debug, Clone)]
    #[event("account.credited", version = 2, upcast(credited_v1))]
    pub(crate) struct Credited {
        pub(crate) command: String,
        pub(crate) amount: u64,
        /// Known of each event of this release.
        pub(crate) currency: Option<String>,
    }

    #[derive(Value)]
    struct CreditedV1 {
        command: String,
        cents: u64,
    }

    fn credited_v1(CreditedV1 { command, cents }: CreditedV1) -> Credited {
        Credited { command, amount: cents, currency: None }
    }

    /// Comes with every fifth credit of an account.
    #[derive(Event, Debug, Clone)]
    #[event("account.promoted")]
    pub(crate) struct Promoted {
        pub(crate) credits: u64,
    }

    #[derive(EventUnion, Debug, Clone)]
    pub(crate) enum AccountEvent {
        Credited(Credited),
        Promoted(Promoted),
    }

    impl Apply<AccountEvent> for Account {
        fn apply(&mut self, event: AccountEvent) {
            self.credits += u64::from(matches!(event, AccountEvent::Credited(_)));
        }
    }

    impl Handle<Credit> for Account {
        type Error = Infallible;

        fn handle(&self, credit: &Credit) -> Result<Vec<AccountEvent>, Infallible> {
            let (command, amount) = (credit.command.clone(), credit.cents);
            let credited = AccountEvent::Credited(Credited { command, amount, currency: Some("EUR".into()) });
            let credits = self.credits + 1;
            let promoted = credits.is_multiple_of(5).then_some(AccountEvent::Promoted(Promoted { credits }));
            // An older process may find the new kind of event before the new version of the other one.
            Ok(promoted.into_iter().chain([credited]).collect())
        }
    }
}
