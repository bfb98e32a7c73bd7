//! Given these events, when that one comes or so much time has passed, a process sends those commands.
//!
//! ```
//! # use retell::process::{Effects, NotExecuted, Process};
//! # use retell::{AggregateId, Context, Envelope, Event, async_trait};
//! # #[derive(Event)]
//! # enum OrderEvent { #[event("order.created")] Created, #[event("order.paid")] Paid }
//! # #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
//! # enum Do { Confirm, Cancel, Apologise(String) }
//! # struct Payment;
//! # #[async_trait]
//! # impl Process for Payment {
//! #     const NAME: &'static str = "payment";
//! #     type Event = OrderEvent;
//! #     type State = bool;
//! #     type Command = Do;
//! #     fn key(&self, event: &Envelope<OrderEvent>) -> Option<AggregateId> { Some(event.stream.aggregate_id().clone()) }
//! #     fn on_event(&self, paid: &mut bool, event: &Envelope<OrderEvent>, effects: &mut Effects<Do>) {
//! #         *paid = matches!(event.event, OrderEvent::Paid);
//! #         match event.event {
//! #             OrderEvent::Created => effects.set_deadline("unpaid", event.recorded_at + Duration::from_mins(30)),
//! #             OrderEvent::Paid => effects.cancel_deadline("unpaid").send(Do::Confirm),
//! #         };
//! #     }
//! #     fn on_deadline(&self, _: &mut bool, _: &str, effects: &mut Effects<Do>) { effects.send(Do::Cancel); }
//! #     fn on_rejected(&self, _: &mut bool, _: &Do, reason: &str, effects: &mut Effects<Do>) { effects.send(Do::Apologise(reason.into())); }
//! #     async fn execute(&self, _: &AggregateId, _: Do, _: Context) -> Result<(), NotExecuted> { Ok(()) }
//! # }
//! use retell::testing::given_process;
//! use std::time::Duration;
//!
//! given_process(Payment)
//!     .when("order/1", OrderEvent::Created)
//!     .then_sends([])
//!     .then_deadline("unpaid", Duration::from_mins(30))
//!     .after(Duration::from_mins(30))
//!     .then_sends([Do::Cancel]);
//!
//! given_process(Payment)
//!     .given([("order/1", OrderEvent::Created)])
//!     .when("order/1", OrderEvent::Paid)
//!     .then_sends([Do::Confirm])
//!     .then_no_deadline("unpaid")
//!     .then_state(true)
//!     .when_rejected(Do::Confirm, "it is closed")
//!     .then_sends([Do::Apologise("it is closed".into())]);
//! ```

#![expect(clippy::needless_pass_by_value, reason = "a scenario reads as a sentence, without `&`")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::aggregate::{Aggregate, Handle};
use crate::event::Envelope;
use crate::id::AggregateId;
use crate::process::Process;
use crate::process::instance::{Decision, Instance, Trigger};
use crate::testing::record::Record;
use crate::testing::scenario::stored_and_back;

/// More deadlines than any process lets pass in one span of time.
const ENDLESS: usize = 10_000;

/// Starts a scenario of one process: that of the first event that has a [key](Process::key).
///
/// Decisions are made as a [`ProcessManager`](crate::ProcessManager) makes them, and each step goes through its stored form and back.
/// Commands are not executed: all of them are taken for accepted, until [`when_rejected`](GivenProcess::when_rejected) says otherwise.
/// The clock stands still at the beginning of 1970, and only [`after`](GivenProcess::after) moves it.
#[must_use = "a scenario checks nothing before its `then`"]
pub fn given_process<P: Process>(process: P) -> GivenProcess<P> {
    GivenProcess {
        process,
        record: Record::default(),
        now: DateTime::UNIX_EPOCH,
        key: None,
        instance: Instance::default(),
        accepted: Vec::new(),
        sent: Vec::new(),
    }
}

/// A process with a past.
pub struct GivenProcess<P: Process> {
    process: P,
    record: Record,
    now: DateTime<Utc>,
    key: Option<AggregateId>,
    instance: Instance<P>,
    /// Commands of the steps before, as long as nobody refuses them.
    accepted: Vec<(Trigger, P::Command)>,
    /// Those that the last thing that happened has led to.
    sent: Vec<(Trigger, P::Command)>,
}

impl<P: Process> Debug for GivenProcess<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GivenProcess").field("process", &P::NAME).field("key", &self.key).finish_non_exhaustive()
    }
}

impl<P: Process> GivenProcess<P> {
    /// This has happened: each event with its aggregate, as `type/id`.
    ///
    /// # Panics
    /// As [`when`](Self::when).
    #[must_use = "a scenario checks nothing before its `then`"]
    #[track_caller]
    pub fn given<'a>(mut self, events: impl IntoIterator<Item = (&'a str, P::Event)>) -> Self {
        for (aggregate, event) in events {
            self = self.when(aggregate, event);
        }
        self.at_rest()
    }

    /// An event comes, of an aggregate that is named `type/id`. One that does not pass the process's [filter](Process::filter), or has no
    /// [key](Process::key), leads to nothing.
    ///
    /// # Panics
    /// It belongs to another process than the events before it. An aggregate without a `/`, or an event or a step that cannot be
    /// encoded and decoded.
    #[must_use = "a scenario checks nothing before its `then`"]
    #[track_caller]
    pub fn when(mut self, aggregate: &str, event: P::Event) -> Self {
        self = self.at_rest();
        let recorded = self.record.next(aggregate, &event, self.now);
        let filter = self.process.filter().unwrap_or_else(|error| panic!("{error}"));
        if !filter.passes(&recorded) {
            return self;
        }
        let event: Envelope<P::Event> = recorded.decode().unwrap_or_else(|error| panic!("{error}"));
        let Some(key) = self.process.key(&event) else { return self };
        let own = self.key.get_or_insert_with(|| key.clone());
        assert_eq!(key, *own, "the event of {aggregate} belongs to another process than those before it");
        take_step(&mut self.instance, &mut self.sent, Decision::on_event(&self.process, &key, &event));
        self
    }

    /// So much time passes, and with it the deadlines that are due by then, one after the other; also such as follow from those.
    ///
    /// # Panics
    /// It does not come to an end: a deadline that passes sets another that has passed, again and again.
    #[must_use = "a scenario checks nothing before its `then`"]
    #[track_caller]
    pub fn after(mut self, time: Duration) -> Self {
        self = self.at_rest();
        self.now += time;
        let Some(key) = self.key.clone() else { return self };
        for _ in 0..ENDLESS {
            let due = self.instance.pending().filter(|pending| pending.at <= self.now);
            let Some(first) = due.min_by_key(|pending| pending.at).cloned() else { return self };
            take_step(&mut self.instance, &mut self.sent, Decision::on_passed(&self.process, &key, &first));
        }
        panic!("{ENDLESS} deadlines have passed, and there are more");
    }

    /// A command that the process has sent is refused by the domain.
    ///
    /// # Panics
    /// It has sent no such command, or as many were refused before.
    #[must_use = "a scenario checks nothing before its `then`"]
    #[track_caller]
    pub fn when_rejected(mut self, command: P::Command, reason: &str) -> Self
    where
        P::Command: Debug + PartialEq,
    {
        self = self.at_rest();
        let place = self.accepted.iter().rposition(|(_, accepted)| *accepted == command);
        let (Some(place), Some(key)) = (place, self.key.clone()) else {
            let sent: Vec<_> = self.accepted.iter().map(|(_, accepted)| accepted).collect();
            panic!("{command:?} cannot be refused: accepted so far are {sent:?}")
        };
        let (sent, _) = self.accepted.remove(place);
        let decision = Decision::on_rejected(&self.process, &key, sent, &command, reason);
        take_step(&mut self.instance, &mut self.sent, decision);
        self
    }

    /// What has happened last led to exactly these commands.
    ///
    /// # Panics
    /// It led to others.
    #[track_caller]
    pub fn then_sends(self, expected: impl IntoIterator<Item = P::Command>) -> Self
    where
        P::Command: Debug + PartialEq,
    {
        let sent: Vec<_> = self.sent.iter().map(|(_, command)| command).collect();
        let expected: Vec<_> = expected.into_iter().collect();
        assert_eq!(sent, expected.iter().collect::<Vec<_>>(), "the process sends other commands");
        self
    }

    /// A deadline of this name is pending, and passes when so much time has.
    ///
    /// # Panics
    /// There is none of this name, or it passes at another time.
    #[track_caller]
    pub fn then_deadline(self, deadline: &str, after: Duration) -> Self {
        let (pending, expected) = (self.pending(), self.now + after);
        let others = "the deadline is not pending, or not for that time";
        assert_eq!(pending.get(deadline), Some(&expected), "{deadline}: {others}; pending are {pending:?}");
        self
    }

    /// No deadline of this name is pending.
    ///
    /// # Panics
    /// There is one.
    #[track_caller]
    pub fn then_no_deadline(self, deadline: &str) -> Self {
        assert_eq!(self.pending().get(deadline), None, "the deadline {deadline} is pending");
        self
    }

    /// The process knows this.
    ///
    /// # Panics
    /// It knows something else.
    #[track_caller]
    pub fn then_state(self, expected: P::State) -> Self
    where
        P::State: Debug + PartialEq,
    {
        assert_eq!(*self.instance.state(), expected, "the state is not the expected one");
        self
    }

    /// Before the next thing happens.
    fn at_rest(mut self) -> Self {
        self.accepted.append(&mut self.sent);
        self
    }

    fn pending(&self) -> BTreeMap<&str, DateTime<Utc>> {
        self.instance.pending().map(|pending| (pending.name.as_str(), pending.at)).collect()
    }
}

/// As it is recorded, and read again.
#[track_caller]
fn take_step<P: Process>(instance: &mut Instance<P>, sent: &mut Vec<(Trigger, P::Command)>, decision: Decision<'_, P>) {
    let trigger = decision.trigger();
    let steps = match instance.handle(&&decision) {
        Ok(steps) => steps,
        Err(never) => match never {},
    };
    for step in steps {
        let step = stored_and_back(&step);
        let commands = step.commands.iter().cloned().enumerate();
        sent.extend(commands.map(|(place, command)| (trigger.command(place), command)));
        instance.apply(step);
    }
}
