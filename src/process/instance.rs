//! One process as an aggregate: its state and its deadlines, rebuilt from the steps in its stream.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use rpds::RedBlackTreeMapSync;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::aggregate::{Aggregate, Handle, SnapshotPolicy};
use crate::codec::{Codec, decode_state, encode_state};
use crate::error::{BoxError, Result};
use crate::event::{DecodeError, Envelope, Event, EventSchema, EventTypes, NewEvent, PROCESS_STEPPED, StoredEvent};
use crate::id::{AggregateId, IdempotencyKey};
use crate::process::{Effects, Process};

/// Identifies the cause of a step. The trigger of an event is its id, or that of its part. All other triggers are derived from the step that they belong
/// to, so each attempt gets the same ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trigger(Uuid);

impl Trigger {
    /// Returns the trigger of the command at index `place` of the step.
    pub(crate) fn command(self, place: usize) -> Self {
        self.derive(&format!("command {place}"))
    }

    /// Returns the trigger of the refusal of this command.
    pub(super) fn rejected(self) -> Self {
        self.derive("rejected")
    }

    /// Returns the trigger of the deadline called `name` that the step sets.
    fn deadline(self, name: &str) -> Self {
        self.derive(&format!("deadline {name}"))
    }

    fn derive(self, label: &str) -> Self {
        Self(Uuid::new_v5(&self.0, label.as_bytes()))
    }

    /// Returns the idempotency key of the append that records the step, or of the command.
    pub(super) fn key<P: Process>(self) -> Result<IdempotencyKey> {
        Ok(IdempotencyKey::new(format!("process:{}:{}", P::NAME, self.0.simple()))?)
    }
}

/// One decision of a process, recorded as one event.
// An unknown field is an error: a reader that ignored it could lose a state.
#[derive(Serialize, Deserialize)]
#[serde(bound = "", deny_unknown_fields)]
pub(crate) struct Step<P: Process> {
    /// The new state, if it has changed.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "present")]
    pub(super) state: Option<P::State>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) commands: Vec<P::Command>,
    /// The deadlines that this step sets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) set: Vec<Pending>,
    /// The deadlines that have passed, or that this step cancels or replaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) ended: Vec<Pending>,
    /// Whether the process ends with this step.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) is_last: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn is_false(value: &bool) -> bool {
    !value
}

impl<P: Process> Step<P> {
    /// Returns a step that leads to nothing.
    fn empty() -> Self {
        Self { state: None, commands: Vec::new(), set: Vec::new(), ended: Vec::new(), is_last: false }
    }

    /// Returns the step as every reader decodes it, so that the commands sent now are those that a retry would send.
    pub(super) fn into_stored(self) -> Result<Self> {
        // Deadlines and an empty list of commands do not change by being stored.
        if self.commands.is_empty() { Ok(self) } else { Ok(NewEvent::with_stored_form(self)?.1) }
    }
}

impl<P: Process> Clone for Step<P> {
    fn clone(&self) -> Self {
        let Self { state, commands, set, ended, is_last } = self;
        Self {
            state: state.clone(),
            commands: commands.clone(),
            set: set.clone(),
            ended: ended.clone(),
            is_last: *is_last,
        }
    }
}

/// Reads a field that is present as a state, even if the state is written as `null`.
mod present {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "the signature that serde calls")]
    pub(super) fn serialize<T: Serialize, S: Serializer>(state: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        state.serialize(serializer)
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        T::deserialize(deserializer).map(Some)
    }
}

/// A deadline that has not passed yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pending {
    pub(crate) name: String,
    pub(super) id: Uuid,
    pub(crate) at: DateTime<Utc>,
}

impl<P: Process> Event for Step<P> {
    const TYPES: EventTypes = EventTypes::Only(&[STEPPED]);

    fn schema(&self) -> EventSchema {
        STEPPED
    }

    fn encode(&self, payload: &mut Vec<u8>) -> Result<(), BoxError> {
        STEPPED.codec.encode(self, payload)
    }

    fn decode(stored: StoredEvent<'_>) -> Result<Self, DecodeError> {
        if stored.event_type != STEPPED.name {
            return Err(DecodeError::UnknownType);
        }
        if stored.schema_version != STEPPED.version {
            return Err(DecodeError::UnknownSchema { found: stored.schema_version, known: STEPPED.version });
        }
        stored.payload()
    }
}

/// The stored name does not name the process, because the aggregate type of the stream does.
pub(super) const STEPPED: EventSchema = EventSchema::new(PROCESS_STEPPED, 1, Codec::Json);

/// The state and the pending deadlines of a process, as of its last step.
pub(crate) struct Instance<P: Process> {
    state: P::State,
    /// By name. Copies share their entries, because each decision works on a copy and changes few of them.
    deadlines: RedBlackTreeMapSync<String, Pending>,
    /// Whether the process has ended.
    is_over: bool,
}

/// The form of an instance in a snapshot.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredInstance<S, D> {
    state: S,
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    deadlines: Vec<D>,
    #[serde(default, skip_serializing_if = "is_false")]
    is_over: bool,
}

/// The version of [`StoredInstance`]. It says nothing about the process's own state: a step holds a whole state, so a snapshot decodes to the
/// same state as the step that it replaces.
const SNAPSHOT_FORMAT: u64 = 1;

impl<P: Process> Default for Instance<P> {
    fn default() -> Self {
        Self { state: P::State::default(), deadlines: RedBlackTreeMapSync::new_sync(), is_over: false }
    }
}

impl<P: Process> Clone for Instance<P> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone(), deadlines: self.deadlines.clone(), is_over: self.is_over }
    }
}

impl<P: Process> Aggregate for Instance<P> {
    const TYPE: &'static str = P::NAME;
    const SNAPSHOTS: SnapshotPolicy = P::SNAPSHOTS;
    type Event = Step<P>;

    fn fingerprint() -> u64 {
        SNAPSHOT_FORMAT
    }

    fn apply(&mut self, step: Step<P>) {
        for ended in step.ended {
            self.deadlines.remove_mut(&ended.name);
        }
        for set in step.set {
            self.deadlines.insert_mut(set.name.clone(), set);
        }
        if let Some(state) = step.state {
            self.state = state;
        }
        self.is_over |= step.is_last;
    }

    fn to_snapshot(&self) -> Result<Vec<u8>, BoxError> {
        let deadlines: Vec<_> = self.deadlines.values().collect();
        encode_state(&StoredInstance { state: &self.state, deadlines, is_over: self.is_over })
    }

    fn from_snapshot(bytes: &[u8]) -> Result<Self, BoxError> {
        let StoredInstance { state, deadlines, is_over } = decode_state::<StoredInstance<P::State, Pending>>(bytes)?;
        let deadlines = deadlines.into_iter().map(|pending| (pending.name.clone(), pending)).collect();
        Ok(Self { state, deadlines, is_over })
    }
}

/// The cause of a decision.
enum Cause<'d, P: Process> {
    Event(&'d Envelope<P::Event>),
    /// A deadline that has passed.
    Passed(&'d Pending),
    /// A refused command, and the reason.
    Rejected(&'d P::Command, &'d str),
}

/// The only command of an [`Instance`]: decide what a cause leads to.
pub(crate) struct Decision<'d, P: Process> {
    process: &'d P,
    pub(super) key: &'d AggregateId,
    trigger: Trigger,
    cause: Cause<'d, P>,
    /// The step of the last attempt. If an attempt was recorded, it was the last one.
    step: Mutex<Option<Step<P>>>,
}

impl<'d, P: Process> Decision<'d, P> {
    fn new(process: &'d P, key: &'d AggregateId, trigger: Trigger, cause: Cause<'d, P>) -> Self {
        Self { process, key, trigger, cause, step: Mutex::default() }
    }

    /// Creates the decision on an event.
    pub(crate) fn on_event(process: &'d P, key: &'d AggregateId, event: &'d Envelope<P::Event>) -> Self {
        Self::new(process, key, Trigger(*event.part_id().as_uuid()), Cause::Event(event))
    }

    /// Creates the decision on a deadline that has passed. It leads to no step if the deadline is no longer pending.
    pub(crate) fn on_passed(process: &'d P, key: &'d AggregateId, passed: &'d Pending) -> Self {
        Self::new(process, key, Trigger(passed.id), Cause::Passed(passed))
    }

    /// Creates the decision on the refusal of `command`. `sent` is the trigger of the command.
    pub(crate) fn on_rejected(
        process: &'d P,
        key: &'d AggregateId,
        sent: Trigger,
        command: &'d P::Command,
        reason: &'d str,
    ) -> Self {
        Self::new(process, key, sent.rejected(), Cause::Rejected(command, reason))
    }

    /// Returns the trigger of the step that the decision leads to.
    pub(crate) fn trigger(&self) -> Trigger {
        self.trigger
    }

    pub(crate) fn into_step(self) -> Option<Step<P>> {
        self.step.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn decide(&self, state: &mut P::State) -> Effects<P::Command> {
        let mut effects = Effects::new(self.key.clone());
        match self.cause {
            Cause::Event(event) => self.process.on_event(state, event, &mut effects),
            Cause::Passed(passed) => self.process.on_deadline(state, &passed.name, &mut effects),
            Cause::Rejected(command, reason) => self.process.on_rejected(state, command, reason, &mut effects),
        }
        effects
    }
}

impl<P: Process> Handle<&Decision<'_, P>> for Instance<P> {
    type Error = Infallible;

    fn handle(&self, decision: &&Decision<'_, P>) -> Result<Vec<Step<P>>, Infallible> {
        let step = self.decide(decision);
        decision.step.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&step);
        Ok(step.into_iter().collect())
    }
}

impl<P: Process> Instance<P> {
    fn decide(&self, decision: &Decision<'_, P>) -> Option<Step<P>> {
        if self.is_over {
            // A refusal is recorded, so that the command is not sent again. It has no other consequence.
            return matches!(decision.cause, Cause::Rejected(..)).then(Step::empty);
        }
        let passed = match decision.cause {
            Cause::Passed(passed) => Some(self.deadlines.get(&passed.name).filter(|found| found.id == passed.id)?),
            Cause::Event(_) | Cause::Rejected(..) => None,
        };
        let mut state = self.state.clone();
        let Effects { commands, deadlines, is_last, .. } = decision.decide(&mut state);
        let state = (state != self.state).then_some(state);
        if is_last {
            let ended = self.deadlines.values().cloned().collect();
            return Some(Step { state, commands, set: Vec::new(), ended, is_last });
        }
        // If the same deadline is set or canceled several times, the last call counts.
        let changed: BTreeMap<String, Option<DateTime<Utc>>> = deadlines.into_iter().collect();
        let replaced = changed.keys().filter_map(|name| self.deadlines.get(name));
        let replaced = replaced.filter(|pending| passed.is_none_or(|passed| passed.id != pending.id));
        let ended = passed.into_iter().chain(replaced).cloned().collect();
        let set = changed.into_iter().filter_map(|(name, at)| {
            let id = decision.trigger.deadline(&name).0;
            Some(Pending { name, id, at: at? })
        });
        Some(Step { state, commands, set: set.collect(), ended, is_last })
    }
}

#[cfg(feature = "testing")]
impl<P: Process> Instance<P> {
    pub(crate) fn state(&self) -> &P::State {
        &self.state
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Returns the deadlines that have not passed, ordered by name.
    pub(crate) fn pending(&self) -> impl Iterator<Item = &Pending> {
        self.deadlines.values()
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::command::Context;
    use crate::event::AnyEvent;
    use crate::process::CommandFailure;

    struct Nothing;

    #[async_trait]
    impl Process for Nothing {
        const NAME: &'static str = "nothing";
        type Event = AnyEvent;
        type State = ();
        type Command = ();

        fn key(&self, _: &Envelope<AnyEvent>) -> Option<AggregateId> {
            None
        }

        fn on_event(&self, (): &mut (), _: &Envelope<AnyEvent>, _: &mut Effects<()>) {}

        async fn execute(&self, _: &AggregateId, (): (), _: Context) -> Result<(), CommandFailure> {
            Ok(())
        }
    }

    fn pending(number: u128) -> Pending {
        Pending { name: format!("deadline {number}"), id: Uuid::from_u128(number), at: DateTime::UNIX_EPOCH }
    }

    #[test]
    fn copies_share_their_deadlines() {
        let mut instance = Instance::<Nothing>::default();
        instance.apply(Step { set: (0..10_000).map(pending).collect(), ..Step::empty() });
        let before = instance.clone();
        instance.apply(Step { set: vec![pending(10_000)], ended: vec![pending(17)], ..Step::empty() });
        let is_shared =
            |pending: &&Pending| before.deadlines.get(&pending.name).is_some_and(|other| std::ptr::eq(other, *pending));
        assert_eq!((before.deadlines.size(), instance.deadlines.size()), (10_000, 10_000));
        assert_eq!(instance.deadlines.values().filter(is_shared).count(), 9_999);
    }

    #[test]
    fn snapshot_of_a_process_holds_everything() {
        let mut instance = Instance::<Nothing>::default();
        instance.apply(Step { set: (0..3).map(pending).collect(), ..Step::empty() });
        for is_last in [false, true] {
            instance.apply(Step { is_last, ..Step::empty() });
            let read = Instance::<Nothing>::from_snapshot(&instance.to_snapshot().unwrap()).unwrap();
            assert!(read.deadlines == instance.deadlines && read.is_over == is_last);
        }
        assert!(Instance::<Nothing>::from_snapshot(b"{}").is_err());
    }
}
