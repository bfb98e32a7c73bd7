//! The meter of events that are older than their type.

use ::metrics::Counter;

use crate::metrics::names::SCHEMA_UPCASTS;

/// The handles of the event types that a reader decodes. It has none for types with a single schema version.
pub(crate) struct UpcastMeter {
    /// The newest schema version of all types. A reader of types with one version only compares with it.
    newest: u32,
    older: Vec<(&'static str, Vec<Counter>)>,
}

impl UpcastMeter {
    /// Takes the handles of `types`: each stored name with the newest schema version.
    pub(crate) fn new(types: impl IntoIterator<Item = (&'static str, u32)>) -> Self {
        let (mut newest, mut older) = (1, Vec::new());
        for (name, version) in types.into_iter().filter(|(_, version)| *version > 1) {
            newest = newest.max(version);
            let counter = |from: u32| SCHEMA_UPCASTS.counter(&[name, &from.to_string()]);
            older.push((name, (1..version).map(counter).collect()));
        }
        Self { newest, older }
    }

    /// Counts an event if an upcaster has decoded it.
    #[inline]
    pub(crate) fn decoded(&self, event_type: &str, version: u32) {
        if version < self.newest {
            self.count(event_type, version);
        }
    }

    fn count(&self, event_type: &str, version: u32) {
        let of_type = self.older.iter().find(|(name, _)| *name == event_type);
        let place = usize::try_from(version).unwrap_or(usize::MAX).wrapping_sub(1);
        if let Some(counter) = of_type.and_then(|(_, counters)| counters.get(place)) {
            counter.increment(1);
        }
    }
}
