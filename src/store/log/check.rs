//! Checks that every store makes on an append before it waits for a commit.

use std::collections::HashSet;

use crate::claim::Claim;
use crate::error::{ErrorKind, Result};
use crate::event::NewEvent;
use crate::id::StreamId;
use crate::store::log::append::{Append, StreamAppend};
use crate::store::log::claims::gather;

impl Append {
    /// Checks the append without reading the log. A store calls this before the append waits for a commit.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if a stream has no events, is named twice or has an event with a metadata entry `source` or of [another
    /// aggregate](crate::event::EventSchema::aggregate), or if two streams reserve or two streams release the same value.
    /// [`ErrorKind::TooLarge`] if the payload of an event exceeds `max_payload` bytes.
    pub fn check(&self, max_payload: usize) -> Result<()> {
        let mut seen = HashSet::new();
        for StreamAppend { stream, events, .. } in &self.streams {
            if events.is_empty() {
                return Err(ErrorKind::Invalid(format!("append to {stream} has no events")).into());
            }
            if self.streams.len() > 1 && !seen.insert(stream) {
                return Err(ErrorKind::Invalid(format!("append names {stream} twice")).into());
            }
            for event in events {
                check_event(stream, event, max_payload)?;
            }
        }
        check_claims(self)
    }
}

fn check_event(stream: &StreamId, event: &NewEvent, max_payload: usize) -> Result<()> {
    if event.payload.len() > max_payload {
        let what = format!("event {} for {stream}", event.event_type);
        return Err(ErrorKind::TooLarge { what, bytes: event.payload.len(), limit: max_payload }.into());
    }
    let owner = event.declared.and_then(|declared| declared.aggregate);
    if let Some(owner) = owner.filter(|owner| *owner != stream.aggregate_type().as_str()) {
        let problem = format!("event {} belongs to aggregate {owner}, not to {stream}", event.event_type);
        return Err(ErrorKind::Invalid(problem).into());
    }
    if event.metadata.extra.contains_key("source") {
        let problem = format!("event {} for {stream}: metadata entry `source` is reserved", event.event_type);
        return Err(ErrorKind::Invalid(problem).into());
    }
    Ok(())
}

/// Refuses claims that contradict each other no matter which stream holds the value.
fn check_claims(append: &Append) -> Result<()> {
    let mut contradiction = None;
    gather(append, |claim| contradiction = Some(claim));
    let Some(claim) = contradiction else { return Ok(()) };
    let verb = if matches!(claim, Claim::Reserve { .. }) { "reserves" } else { "releases" };
    let problem = format!("append {verb} {} {} for two streams", claim.scope(), claim.value());
    Err(ErrorKind::Invalid(problem).into())
}
