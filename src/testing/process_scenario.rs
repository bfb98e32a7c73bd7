//! Scenarios for processes: given past events, when an event arrives or time passes, then the process sends commands.
//!
//! ```
//! # use retell::process::{Effects, CommandFailure, Process};
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
//! #     async fn execute(&self, _: &AggregateId, _: Do, _: Context) -> Result<(), CommandFailure> { Ok(()) }
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
use crate::testing::scenario::{round_trip, text};

/// Limit of deadlines that may pass in one call of [`after`](GivenProcess::after). Beyond it, the process sets them in an endless loop.
const MAX_PASSED_DEADLINES: usize = 10_000;

/// Starts a scenario of one process instance: the instance of the first event that has a [key](Process::key).
///
/// The scenario makes decisions as a [`ProcessManager`](crate::ProcessManager) does, and encodes and decodes each step.
/// It does not execute commands: a command counts as accepted until [`when_rejected`](GivenProcess::when_rejected) rejects it.
/// The clock starts at 1970-01-01T00:00:00Z, and only [`after`](GivenProcess::after) advances it.
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

/// A process instance that has handled its past events. See the [module](self) for an example.
pub struct GivenProcess<P: Process> {
    process: P,
    record: Record,
    now: DateTime<Utc>,
    key: Option<AggregateId>,
    instance: Instance<P>,
    /// Commands of earlier steps that have not been rejected.
    accepted: Vec<(Trigger, P::Command)>,
    /// Commands of the latest step.
    sent: Vec<(Trigger, P::Command)>,
}

impl<P: Process> Debug for GivenProcess<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GivenProcess").field("process", &P::NAME).field("key", &self.key).finish_non_exhaustive()
    }
}

impl<P: Process> GivenProcess<P> {
    /// Handles past events, each with its aggregate as `type/id`.
    ///
    /// # Panics
    /// As [`when`](Self::when).
    #[must_use = "a scenario checks nothing before its `then`"]
    #[track_caller]
    pub fn given<'a>(mut self, events: impl IntoIterator<Item = (&'a str, P::Event)>) -> Self {
        for (aggregate, event) in events {
            self = self.when(aggregate, event);
        }
        self.accept_sent()
    }

    /// Handles an event of `aggregate`, which has the form `type/id`. The process ignores an event that does not pass its
    /// [filter](Process::filter) or has no [key](Process::key).
    ///
    /// # Panics
    /// If the event belongs to another process instance than the events before it, if `aggregate` does not have the form `type/id`, or if
    /// the event or a step cannot be encoded and decoded.
    #[must_use = "a scenario checks nothing before its `then`"]
    #[track_caller]
    pub fn when(mut self, aggregate: &str, event: P::Event) -> Self {
        self = self.accept_sent();
        let recorded = self.record.next(aggregate, &event, self.now);
        let filter = self.process.filter().unwrap_or_else(|error| panic!("{}", text(&error)));
        if !filter.passes(&recorded) {
            return self;
        }
        let event: Envelope<P::Event> = recorded.decode().unwrap_or_else(|error| panic!("{}", text(&error)));
        let Some(key) = self.process.key(&event) else { return self };
        let own = self.key.get_or_insert_with(|| key.clone());
        assert_eq!(key, *own, "the event of {aggregate} belongs to another process than the events before it");
        take_step(&mut self.instance, &mut self.sent, Decision::on_event(&self.process, &key, &event));
        self
    }

    /// Advances the clock by `time`, and lets each deadline that is due by then pass, earliest first. This includes deadlines that the
    /// process sets meanwhile.
    ///
    /// # Panics
    /// If there is no end to them, because each deadline that passes sets another one that is due.
    #[must_use = "a scenario checks nothing before its `then`"]
    #[track_caller]
    pub fn after(mut self, time: Duration) -> Self {
        self = self.accept_sent();
        self.now += time;
        let Some(key) = self.key.clone() else { return self };
        for _ in 0..MAX_PASSED_DEADLINES {
            let due = self.instance.pending().filter(|pending| pending.at <= self.now);
            let Some(first) = due.min_by_key(|pending| pending.at).cloned() else { return self };
            take_step(&mut self.instance, &mut self.sent, Decision::on_passed(&self.process, &key, &first));
        }
        panic!("{MAX_PASSED_DEADLINES} deadlines have passed, and there are more");
    }

    /// Rejects the latest accepted command that equals `command`, with `reason`.
    ///
    /// # Panics
    /// If the process has not sent `command`, or each one that it sent is rejected already.
    #[must_use = "a scenario checks nothing before its `then`"]
    #[track_caller]
    pub fn when_rejected(mut self, command: P::Command, reason: &str) -> Self
    where
        P::Command: Debug + PartialEq,
    {
        self = self.accept_sent();
        let place = self.accepted.iter().rposition(|(_, accepted)| *accepted == command);
        let (Some(place), Some(key)) = (place, self.key.clone()) else {
            let sent: Vec<_> = self.accepted.iter().map(|(_, accepted)| accepted).collect();
            panic!("{command:?} cannot be rejected: the accepted commands are {sent:?}")
        };
        let (sent, _) = self.accepted.remove(place);
        let decision = Decision::on_rejected(&self.process, &key, sent, &command, reason);
        take_step(&mut self.instance, &mut self.sent, decision);
        self
    }

    /// Asserts that the latest event, deadline or rejection led to exactly the `expected` commands.
    ///
    /// # Panics
    /// If the process sent other commands.
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

    /// Asserts that `deadline` is pending and passes when the time `after` has elapsed.
    ///
    /// # Panics
    /// If no deadline of this name is pending, or it passes at another time.
    #[track_caller]
    pub fn then_deadline(self, deadline: &str, after: Duration) -> Self {
        let (pending, expected) = (self.pending(), self.now + after);
        let others = "the deadline is not pending, or is due at another time";
        assert_eq!(pending.get(deadline), Some(&expected), "{deadline}: {others}; pending are {pending:?}");
        self
    }

    /// Asserts that `deadline` is not pending.
    ///
    /// # Panics
    /// If a deadline of this name is pending.
    #[track_caller]
    pub fn then_no_deadline(self, deadline: &str) -> Self {
        assert_eq!(self.pending().get(deadline), None, "the deadline {deadline} is pending");
        self
    }

    /// Asserts that the process has [ended](crate::process::Effects::end).
    ///
    /// # Panics
    /// If the process has not ended.
    #[track_caller]
    pub fn then_ended(self) -> Self {
        assert!(self.instance.is_over(), "the process has not ended");
        self
    }

    /// Asserts that the process's state equals `expected`.
    ///
    /// # Panics
    /// If the states differ.
    #[track_caller]
    pub fn then_state(self, expected: P::State) -> Self
    where
        P::State: Debug + PartialEq,
    {
        assert_eq!(*self.instance.state(), expected, "the state is not the expected one");
        self
    }

    /// Counts the commands of the latest step as accepted, before the next step begins.
    fn accept_sent(mut self) -> Self {
        self.accepted.append(&mut self.sent);
        self
    }

    fn pending(&self) -> BTreeMap<&str, DateTime<Utc>> {
        self.instance.pending().map(|pending| (pending.name.as_str(), pending.at)).collect()
    }
}

/// Encodes and decodes each step of a decision, then applies it and collects its commands.
#[track_caller]
fn take_step<P: Process>(instance: &mut Instance<P>, sent: &mut Vec<(Trigger, P::Command)>, decision: Decision<'_, P>) {
    let trigger = decision.trigger();
    let steps = match instance.handle(&&decision) {
        Ok(steps) => steps,
        Err(never) => match never {},
    };
    for step in steps {
        let step = round_trip(&step);
        let commands = step.commands.iter().cloned().enumerate();
        sent.extend(commands.map(|(place, command)| (trigger.command(place), command)));
        instance.apply(step);
    }
}
