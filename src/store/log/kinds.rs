//! Tells events of different types apart that have one stored name.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::error::{ErrorKind, Result};
use crate::event::Declared;
use crate::id::{AggregateType, EventType, StreamId};
use crate::store::log::append::Append;

/// The types of the events that this process has appended to a log, under their stored names. Clones share them.
///
/// A reader takes the events of two types for each other if they have one stored name and belong to different aggregates, unless both types
/// say which. Such an append is refused, because a reader could not notice it: often, the payload of one type decodes as the other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kinds(Arc<RwLock<HashMap<EventType, Vec<Kind>>>>);

/// Events of one stored name in one kind of aggregate.
#[derive(Debug)]
struct Kind {
    declared: Declared,
    aggregate_type: AggregateType,
}

impl Kinds {
    /// Notes the types of the events in `append`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if an event's stored name is that of another type, which has been appended to another kind of aggregate, unless
    /// both types name their aggregate.
    pub(crate) fn check(&self, append: &Append) -> Result<()> {
        for part in append.streams() {
            // Streams have few kinds of events, and most appends one event, which needs no list.
            let (mut last, mut checked) = (None, Vec::new());
            for event in &part.events {
                let Some(declared) = event.declared else { continue };
                let kind = (&event.event_type, declared);
                if last != Some(kind) && !checked.contains(&kind) {
                    self.check_kind(&part.stream, kind.0, declared)?;
                    // The type also reads what another one stores under its former names.
                    for name in declared.former_names {
                        self.check_kind(&part.stream, &EventType::new(name)?, declared)?;
                    }
                    checked.extend(last.replace(kind));
                }
            }
        }
        Ok(())
    }

    fn check_kind(&self, stream: &StreamId, event_type: &EventType, declared: Declared) -> Result<()> {
        let aggregate_type = stream.aggregate_type();
        {
            let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
            let kinds = known.get(event_type).map_or(&[][..], Vec::as_slice);
            if kinds.iter().any(|kind| kind.declared == declared && kind.aggregate_type == *aggregate_type) {
                return Ok(());
            }
            if let Some(other) = kinds.iter().find(|kind| kind.is_mixed_with(declared, aggregate_type)) {
                return Err(ErrorKind::Invalid(format!(
                    "event {event_type} for {stream} is of the type {}, and events of this name in {} are of the type {}, so readers would \
                     take one for the other: choose another stored name, or name the aggregate in both types by \
                     `#[event(aggregate = \"..\")]`",
                    declared.path, other.aggregate_type, other.declared.path
                ))
                .into());
            }
        }
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.entry(event_type.clone()).or_default().push(Kind { declared, aggregate_type: aggregate_type.clone() });
        Ok(())
    }
}

impl Kind {
    /// Returns whether a reader may take these events for those of the other type.
    fn is_mixed_with(&self, other: Declared, aggregate_type: &AggregateType) -> bool {
        self.declared.path != other.path
            && self.aggregate_type != *aggregate_type
            && !(self.declared.aggregate.is_some() && other.aggregate.is_some())
    }
}
