//! What no store takes: refused before anything waits for a commit.

use std::collections::HashSet;

use crate::claim::Claim;
use crate::error::{ErrorKind, Result};
use crate::event::NewEvent;
use crate::id::StreamId;
use crate::store::log::append::{Append, StreamAppend};
use crate::store::log::claims::gather;

impl Append {
    /// Refuses what no store takes, before anything waits for a commit.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] without events, with a stream named twice or with a value that two streams reserve or two release,
    /// [`ErrorKind::TooLarge`] for an event over `max_payload` bytes, [`ErrorKind::Unencodable`] for metadata that does not fit.
    pub fn check(&self, max_payload: usize) -> Result<()> {
        let mut seen = HashSet::with_capacity(self.streams.len());
        for StreamAppend { stream, events, .. } in &self.streams {
            if events.is_empty() {
                return Err(ErrorKind::Invalid(format!("append to {stream} without events")).into());
            }
            if !seen.insert(stream) {
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
    if event.metadata.extra.contains_key("source") {
        let problem = format!("event {} for {stream}: metadata entry `source` is reserved", event.event_type);
        return Err(ErrorKind::Invalid(problem).into());
    }
    Ok(())
}

/// Refuses claims that contradict each other whoever holds what.
fn check_claims(append: &Append) -> Result<()> {
    let mut twice = None;
    gather(append, |claim| twice = Some(claim));
    let Some(claim) = twice else { return Ok(()) };
    let verb = if matches!(claim, Claim::Reserve { .. }) { "reserves" } else { "releases" };
    let problem = format!("append {verb} {} {} for two streams", claim.scope(), claim.value());
    Err(ErrorKind::Invalid(problem).into())
}
