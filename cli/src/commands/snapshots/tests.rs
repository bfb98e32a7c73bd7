use retell::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::*;

#[derive(Event)]
enum ShelfEvent {
    #[event("shelf.filled")]
    Filled { books: u32 },
}

#[derive(Aggregate, Clone, Default, Serialize, Deserialize)]
#[aggregate("shelf", event = ShelfEvent, snapshots = 1)]
struct Shelf {
    books: u32,
}

impl Apply<ShelfEvent> for Shelf {
    fn apply(&mut self, event: ShelfEvent) {
        let ShelfEvent::Filled { books } = event;
        self.books += books;
    }
}

struct Fill(u32);

impl Handle<Fill> for Shelf {
    type Error = std::convert::Infallible;

    fn handle(&self, fill: &Fill) -> Result<Vec<ShelfEvent>, Self::Error> {
        Ok(vec![ShelfEvent::Filled { books: fill.0 }])
    }
}

/// The same aggregate in a program that adds twice as many: every snapshot of the first program is wrong for it.
#[derive(Aggregate, Clone, Default, Serialize, Deserialize)]
#[aggregate("shelf", event = ShelfEvent, snapshots = 1)]
struct Double {
    books: u32,
}

impl Apply<ShelfEvent> for Double {
    fn apply(&mut self, event: ShelfEvent) {
        let ShelfEvent::Filled { books } = event;
        self.books += 2 * books;
    }
}

fn types(states: impl States + 'static) -> Types {
    let mut types = Types::default();
    types.states.insert("shelf", Box::new(states));
    types
}

fn arguments(only: Option<&str>, after: Option<&str>, limit: usize) -> VerifySnapshots {
    VerifySnapshots { only: only.map(str::to_owned), after: after.map(|text| stream(text).unwrap()), limit }
}

async fn verified(types: &Types, log: &MemoryStore, arguments: VerifySnapshots) -> Answer {
    answer(types, log, &arguments, Duration::from_mins(1)).await.unwrap()
}

#[tokio::test]
async fn wrong_snapshots_are_found_and_shown() {
    let log = MemoryStore::new();
    let shelves = Repository::<Shelf>::new(log.clone());
    for id in ["a", "b", "c"] {
        shelves.execute(id, Fill(12)).await.unwrap();
    }
    shelves.flush().await;
    let right = types(shelves);
    let good = verified(&right, &log, arguments(None, None, 10)).await;
    assert_eq!((good.exit, &good.data["equal"], &good.data["different"]), (Exit::Good, &3.into(), &0.into()));

    let wrong = types(Repository::<Double>::new(log.clone()));
    let found = verified(&wrong, &log, arguments(None, None, 10)).await;
    assert_eq!((found.exit, &found.data["equal"], &found.data["different"]), (Exit::Finding, &0.into(), &3.into()));
    let one = verified(&wrong, &log, arguments(Some("shelf/b"), None, 10)).await;
    assert_eq!(one.data["faults"][0]["fault"], "the snapshot at version 1 differs from its events");
    assert_eq!(one.data["faults"].as_array().map(Vec::len), Some(1));

    // Bounded, and continued.
    let begun = verified(&right, &log, arguments(Some("shelf"), None, 2)).await;
    assert_eq!((begun.exit, &begun.data["equal"]), (Exit::Partly, &2.into()));
    assert!(begun.diagnostics[0].message.contains("--after shelf/b"), "{begun:?}");
    let rest = verified(&right, &log, arguments(None, Some("shelf/b"), 2)).await;
    assert_eq!((rest.exit, &rest.data["equal"]), (Exit::Good, &1.into()));
    let none = verified(&right, &log, arguments(None, Some("shelf/c"), 2)).await;
    assert_eq!((none.exit, &none.data["last"]), (Exit::Good, &Value::Null));
    assert!(answer(&right, &log, &arguments(Some("box"), None, 1), Duration::from_mins(1)).await.is_err());
}
