//! One process as an aggregate: its state and its deadlines, rebuilt from the steps in its stream.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::aggregate::{Aggregate, Handle, SnapshotPolicy};
use crate::codec::Codec;
use crate::error::{BoxError, Result};
use crate::event::{DecodeError, Envelope, Event, EventSchema, EventTypes, NewEvent, StoredEvent};
use crate::id::{AggregateId, IdempotencyKey};
use crate::process::{Effects, Process};

/// Identifies the cause of a step. The trigger of an event is the event's id. All other triggers are derived from the step that they belong
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
}

impl<P: Process> Step<P> {
    /// Returns the step as every reader decodes it, so that the commands sent now are those that a retry would send.
    pub(super) fn into_stored(self) -> Result<Self> {
        // Deadlines and an empty list of commands do not change by being stored.
        if self.commands.is_empty() { Ok(self) } else { Ok(NewEvent::with_stored_form(&self)?.1) }
    }
}

impl<P: Process> Clone for Step<P> {
    fn clone(&self) -> Self {
        let Self { state, commands, set, ended } = self;
        Self { state: state.clone(), commands: commands.clone(), set: set.clone(), ended: ended.clone() }
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
const STEPPED: EventSchema = EventSchema::new("process.stepped", 1, Codec::Json);

/// The state and the pending deadlines of a process, as of its last step.
pub(crate) struct Instance<P: Process> {
    state: P::State,
    deadlines: BTreeMap<String, Pending>,
}

impl<P: Process> Default for Instance<P> {
    fn default() -> Self {
        Self { state: P::State::default(), deadlines: BTreeMap::new() }
    }
}

impl<P: Process> Clone for Instance<P> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone(), deadlines: self.deadlines.clone() }
    }
}

impl<P: Process> Aggregate for Instance<P> {
    const TYPE: &'static str = P::NAME;
    // The stream of a process is short.
    const SNAPSHOTS: SnapshotPolicy = SnapshotPolicy::Never;
    const FINGERPRINT: u64 = 0;
    type Event = Step<P>;

    fn apply(&mut self, step: Step<P>) {
        for ended in step.ended {
            self.deadlines.remove(&ended.name);
        }
        for set in step.set {
            self.deadlines.insert(set.name.clone(), set);
        }
        if let Some(state) = step.state {
            self.state = state;
        }
    }

    fn to_snapshot(&self) -> Result<Vec<u8>, BoxError> {
        Err("a process has no snapshots".into())
    }

    fn from_snapshot(_: &[u8]) -> Result<Self, BoxError> {
        Err("a process has no snapshots".into())
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
        Self::new(process, key, Trigger(*event.id.as_uuid()), Cause::Event(event))
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
        let mut pending = self.deadlines.clone();
        let mut ended = Vec::new();
        if let Cause::Passed(passed) = decision.cause {
            ended.push(pending.remove(&passed.name).filter(|pending| pending.id == passed.id)?);
        }
        let mut state = self.state.clone();
        let effects = decision.decide(&mut state);
        let mut set: Vec<Pending> = Vec::new();
        for (name, at) in effects.deadlines {
            // If the same deadline is set or canceled several times, the last call counts.
            set.retain(|before| before.name != name);
            ended.extend(pending.remove(&name));
            if let Some(at) = at {
                set.push(Pending { id: decision.trigger.deadline(&name).0, name, at });
            }
        }
        Some(Step { state: (state != self.state).then_some(state), commands: effects.commands, set, ended })
    }
}

#[cfg(feature = "testing")]
impl<P: Process> Instance<P> {
    pub(crate) fn state(&self) -> &P::State {
        &self.state
    }

    /// Returns the deadlines that have not passed, ordered by name.
    pub(crate) fn pending(&self) -> impl Iterator<Item = &Pending> {
        self.deadlines.values()
    }
}
