//! Lists progress and inboxes in memory.

use crate::store::memory::model::committed::Tables;
use crate::store::model::listing::{HandledEvent, ProgressRow};

impl Tables {
    pub(crate) fn progress_after(&self, after: Option<&ProgressRow>, limit: usize) -> Vec<ProgressRow> {
        let key = |row: &ProgressRow| (row.projection.clone(), row.stream.to_string());
        let rows = self.progress.iter().flat_map(|(projection, rows)| {
            let row = |(stream, (applied, seen, seen_id)): (&_, &_)| {
                let stream: &crate::id::StreamId = stream;
                ProgressRow::new(projection.clone(), stream.clone(), (*applied, *seen), *seen_id)
            };
            rows.iter().map(row).collect::<Vec<_>>()
        });
        let mut rows: Vec<_> = rows.filter(|row| after.is_none_or(|after| key(row) > key(after))).collect();
        rows.sort_unstable_by_key(key);
        rows.truncate(limit);
        rows
    }

    pub(crate) fn handled_after(&self, after: Option<&HandledEvent>, limit: usize) -> Vec<HandledEvent> {
        let rows = self.handled.iter().map(|(reaction, event)| HandledEvent::new(reaction.clone(), *event));
        let mut rows: Vec<_> = rows.filter(|row| after.is_none_or(|after| row > after)).collect();
        rows.sort_unstable();
        rows.truncate(limit);
        rows
    }
}
