//! The tally as a view.

use std::path::PathBuf;

use retell::event::Envelope;
use retell::view::Paging;
use retell::{View, ViewStore, Views};

use crate::tally::{Line, Lines, NAME, POISON, SLOW, SLOW_TIME, Spoken, panic_once};

/// A part of the error that poison causes in a view.
pub(crate) const KEY_IS_POISON: &str = "at most";

/// A view cannot refuse a word, so poison gets a key longer than a row's key may be.
pub(crate) struct TallyView {
    pub(crate) cure: PathBuf,
}

impl View for TallyView {
    const NAME: &'static str = NAME;
    type Event = Spoken;
    type State = Line;

    fn key(&self, event: &Envelope<Spoken>) -> Option<String> {
        let Spoken::Word { weight } = event.event;
        let is_poison = weight == POISON && !self.cure.exists();
        Some(if is_poison { "x".repeat(1 << 16) } else { event.stream.aggregate_id().to_string() })
    }

    fn apply(&self, line: &mut Line, event: Envelope<Spoken>) {
        let Spoken::Word { weight } = event.event;
        if weight == SLOW {
            std::thread::sleep(SLOW_TIME);
        }
        let version = i64::try_from(event.version.get()).unwrap();
        panic_once(&self.cure, event.stream.aggregate_id().as_str(), version, weight);
        line.fold(version, weight);
    }
}

/// Reads all rows through the public query API.
pub(crate) async fn lines(models: impl ViewStore) -> retell::Result<Lines> {
    let found = Views::new(&TallyView { cure: PathBuf::new() }, models).all(Paging::first(100_000)).await?;
    Ok(found.rows.into_iter().map(|(key, line)| (key.to_string(), line)).collect())
}
