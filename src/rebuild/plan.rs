//! Estimates the cost of a build from a few samples.

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

/// Number of samples of the log, and events per sample.
const SAMPLES: u64 = 5;
const SAMPLE_EVENTS: usize = 2_000;

/// The estimated cost of a build. [`Rebuild::plan`](crate::Rebuild::plan) makes it; see [`Rebuild`](crate::Rebuild) for an example.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Plan {
    /// Checkpoint of the generation.
    pub from: Position,
    /// Head of the log.
    pub head: Position,
    /// Estimated number of events in between that the view wants.
    pub events: u64,
    /// Positions per second at which the samples were read, decoded, folded and encoded.
    pub events_per_second: f64,
    /// Time that the build takes at that speed, or `None` if there is nothing to build. It excludes writing each row at least once, so a
    /// build with few events per row takes longer.
    pub time: Option<Duration>,
}

impl Plan {
    pub(super) async fn of<V: View, M: ViewStore + Clone>(job: &Job<V, M>) -> Result<Self> {
        let from = job.models.mark(job.id()?.projection()).await?.position;
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
        // 128 bits, since the product can exceed 64.
        let events = u128::from(positions) * u128::from(wanted) / u128::from(passed.max(1));
        let events = u64::try_from(events).unwrap_or(u64::MAX).min(positions);
        Ok(Self { from, head, events, events_per_second, time: time(positions, events_per_second) })
    }
}

/// Folds one sample. Returns the position it reached and the number of events it found.
async fn fold_sample<V: View, M: ViewStore + Clone>(job: &Job<V, M>, after: Position) -> Result<(Position, u64)> {
    let page = job.reader.read_all(after, SAMPLE_EVENTS, &job.view.filter()?).await?;
    let events = page.events.len() as u64;
    let mut changes = Vec::new();
    for event in page.events {
        // Skip events that fail: the build parks them.
        drop(Change::add(&mut changes, &*job.view, event));
    }
    let mut cache = Cache::new(Arc::clone(&job.view), Position::ZERO);
    // A sample only measures. The build reports a view that panics.
    drop(cache.fold(changes).and_then(|()| cache.changes()));
    Ok((page.through, events))
}
