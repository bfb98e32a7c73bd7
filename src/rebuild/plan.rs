//! What a build would take, from a few samples.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::id::Position;
use crate::rebuild::cache::{Cache, Change};
use crate::rebuild::job::Job;
use crate::rebuild::progress::{rate, time};
use crate::store::log::reader::{EventReader, EventReaderExt};
use crate::store::model::views::ViewStore;
use crate::view::View;

/// Places of the log that are tried, and events of each.
const SAMPLES: u64 = 5;
const SAMPLE_EVENTS: usize = 2_000;

/// What a build would take.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Plan {
    /// Where the generation is.
    pub from: Position,
    /// Where the log ends.
    pub head: Position,
    /// About how many of the events in between the view wants.
    pub events: u64,
    /// Positions a second, as the samples were read, decoded, folded and encoded.
    pub events_per_second: f64,
    /// How long the build takes at that speed. Rows must be written as well, each once at least: where there are few events for each of them,
    /// it takes longer. `None` where there is nothing to build.
    pub time: Option<Duration>,
}

impl Plan {
    pub(super) async fn of<V: View, M: ViewStore + Clone>(job: &Job<V, M>) -> Result<Self> {
        let from = job.models.checkpoint(job.id()?.projection()).await?;
        let head = job.reader.head().await?;
        let positions = head.since(from.min(head));
        let (mut passed, mut wanted, began) = (0, 0, Instant::now());
        for sample in 0..SAMPLES {
            let after = from.plus(positions / SAMPLES * sample);
            let (through, events) = fold_sample(job, after.min(head)).await?;
            passed += through.since(after.min(through));
            wanted += events;
        }
        let events_per_second = rate(passed, began.elapsed());
        // In wide numbers: a log and a sample multiply to more than fits.
        let events = u128::from(positions) * u128::from(wanted) / u128::from(passed.max(1));
        let events = u64::try_from(events).unwrap_or(u64::MAX).min(positions);
        Ok(Self { from, head, events, events_per_second, time: time(positions, events_per_second) })
    }
}

/// Returns how far it went, and how many events it found.
async fn fold_sample<V: View, M: ViewStore + Clone>(job: &Job<V, M>, after: Position) -> Result<(Position, u64)> {
    let page = job.reader.read_all(after, SAMPLE_EVENTS, &job.view.filter()?).await?;
    let events = page.events.len() as u64;
    // Those that fail are the build's to park.
    let changes = page.events.into_iter().filter_map(|event| Change::of(&*job.view, event).ok().flatten());
    let mut cache = Cache::new(Arc::clone(&job.view), Position::ZERO);
    cache.fold(changes.collect());
    drop(cache.changes());
    Ok((page.through, events))
}
