//! Tells whether a command is the one whose events are stored under an idempotency key, if the caller has not given the bytes of its request.
//!
//! A decision is a function of the state and the command. So the command is decided again on the state before the events, where the same
//! command leads to the same events. A handler may also make up parts of an event, such as an id or a time. Two decisions differ in these
//! parts, so only what two decisions agree on is compared with the stored events.

use std::time::Duration;

use crate::aggregate::Handle;
use crate::codec::Codec;
use crate::codec::tree::Tree;
use crate::error::Result;
use crate::event::{DecodeError, Event, NewEvent, StoredEvent, decode_not_one, decode_stored};
use crate::id::{EventId, Version};
use crate::panics::catch;
use crate::repository::fold::Loaded;
use crate::store::log::reader::Visitor;

/// The time between two decisions in which a handler that stamps whole seconds stamps different ones.
pub(super) const TICK: Duration = Duration::from_millis(1_100);

/// An event as it is stored.
struct Kept {
    event_type: String,
    schema_version: u32,
    codec: Codec,
    payload: Vec<u8>,
}

/// Collects the events that are stored under a key.
#[derive(Default)]
pub(super) struct Events(Vec<Kept>);

impl Visitor for Events {
    fn snapshot(&mut self, _: Version, _: EventId, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn event(&mut self, _: Version, _: EventId, event: StoredEvent<'_>) -> Result<()> {
        let StoredEvent { schema_version, codec, .. } = event;
        let (event_type, payload) = (event.event_type.to_owned(), event.payload.to_vec());
        self.0.push(Kept { event_type, schema_version, codec, payload });
        Ok(())
    }
}

impl Events {
    /// Replaces each event that is no longer exactly one by what it is now.
    pub(super) fn into_present<E: Event>(self) -> Self {
        Self(self.0.into_iter().flat_map(Kept::into_present::<E>).collect())
    }
}

/// The first request under a key: the state before its events, and the events.
pub(super) struct FirstRequest<A> {
    pub(super) before: Loaded<A>,
    pub(super) events: Events,
}

/// The answer to whether a command is the first request under its key.
pub(super) enum Likeness {
    Same,
    Other,
    /// Two decisions in a row agree on these events, and the stored ones differ. The handler may have stamped a time that has not moved.
    Unclear(Vec<NewEvent>),
}

impl<A> FirstRequest<A> {
    /// Compares `command` with the first request.
    pub(super) fn compare<C>(&self, command: &C) -> Likeness
    where
        A: Handle<C>,
    {
        let Some(first) = self.decide(command) else { return Likeness::Other };
        let pairs = || self.events.0.iter().zip(&first);
        if pairs().all(|(kept, new)| kept.fits(new, new)) {
            return Likeness::Same;
        }
        if self.is_like_both(&first, command) { Likeness::Same } else { Likeness::Unclear(first) }
    }

    /// Returns whether the stored events are like `first`, an earlier decision, in all that the handler decides now, too.
    pub(super) fn is_like_both<C>(&self, first: &[NewEvent], command: &C) -> bool
    where
        A: Handle<C>,
    {
        let Some(second) = self.decide(command) else { return false };
        self.events.0.iter().zip(first).zip(&second).all(|((kept, first), second)| kept.fits(first, second))
    }

    /// Decides `command` on the state before the events. Returns `None` if that panics, is refused, or leads to other types of event.
    fn decide<C>(&self, command: &C) -> Option<Vec<NewEvent>>
    where
        A: Handle<C>,
    {
        let decided = catch(|| self.before.state.handle(command)).ok()?.ok()?;
        let mut new = Vec::with_capacity(decided.len());
        for event in &decided {
            let kept = self.events.0.get(new.len()).filter(|kept| event.schema().is_named(&kept.event_type))?;
            // A newer release writes the same event in another form. Then only the types can be compared.
            let event = NewEvent::new(event).ok()?;
            let is_of_this_form = (event.schema_version, event.codec) == (kept.schema_version, kept.codec);
            new.push(if is_of_this_form { event } else { kept.as_new(event) });
        }
        (new.len() == self.events.0.len()).then_some(new)
    }
}

impl Kept {
    fn into_present<E: Event>(self) -> Vec<Self> {
        let stored = StoredEvent::new(&self.event_type, self.schema_version, self.codec, &self.payload);
        let Err(DecodeError::NotOne) = decode_stored::<E>(stored) else { return vec![self] };
        let encoded = decode_not_one::<E>(stored).ok().and_then(|events| {
            let encoded: Result<Vec<_>> = events.iter().map(NewEvent::new).collect();
            encoded.ok()
        });
        let kept = |new: NewEvent| Self {
            event_type: new.event_type.to_string(),
            schema_version: new.schema_version,
            codec: new.codec,
            payload: new.payload.to_vec(),
        };
        encoded.map_or_else(|| vec![self], |encoded| encoded.into_iter().map(kept).collect())
    }

    /// Returns `event` with the stored payload.
    fn as_new(&self, event: NewEvent) -> NewEvent {
        NewEvent { payload: self.payload.clone().into(), ..event }
    }

    /// Returns whether the payload is like that of `first` wherever `first` and `second` agree.
    fn fits(&self, first: &NewEvent, second: &NewEvent) -> bool {
        if self.payload == first.payload {
            return true;
        }
        let trees = || Some((Tree::parse(&self.payload)?, Tree::parse(&first.payload)?, Tree::parse(&second.payload)?));
        match (self.codec == Codec::Json).then(trees).flatten() {
            Some((own, first, second)) => own.fits(&first, &second),
            // The parts of a compact payload cannot be told apart.
            None => first.payload != second.payload,
        }
    }
}
