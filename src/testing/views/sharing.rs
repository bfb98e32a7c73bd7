//! Rows that workers with per-aggregate order share.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::{join_all, try_join_all};

use crate::error::Error;
use crate::id::{StreamId, Version};
use crate::store::model::progress::{Progress, Turn};
use crate::store::model::views::{Fields, ViewRow, ViewStore};
use crate::testing::views::{key, page, totals};

/// With per-aggregate order, several workers change the same rows concurrently, for different aggregates. The rows are created and deleted
/// meanwhile, and no worker deadlocks.
pub async fn workers_that_share_rows_lose_no_change<M: ViewStore + Clone>(models: &M) {
    const ROUNDS: usize = 15;
    models.begin(totals().projection(), Box::new(|_| async { Ok(()) }.boxed())).await.expect("a projection begins");
    let names: Arc<[String]> = (0..20).map(|number| format!("{number:02}")).collect();
    let racer = async |racer: usize| {
        for round in 0..ROUNDS {
            let mut taken: Vec<_> = names.iter().map(|name| key(name)).collect();
            taken.rotate_left((racer * 7 + round) % 20);
            taken.truncate(12);
            taken.sort();
            let store = models.clone();
            let turn: Turn<M::Tx> = Box::new(move |tx, progress| {
                progress.iter_mut().for_each(advance_by_one);
                async move {
                    let before = store.load_rows(tx, &totals(), &taken).await?;
                    let after: Vec<_> = before.iter().map(counted).collect();
                    store.save_rows(tx, &totals(), &before, &after).await
                }
                .boxed()
            });
            let own = StreamId::parse("racer", &racer.to_string()).expect("a valid name");
            models.turn(totals().projection(), 0, vec![own], turn).await?;
        }
        Ok::<_, Error>(())
    };
    // The second pass starts with rows that were created and deleted before.
    for times in 1..=2 {
        try_join_all((0..4).map(&racer)).await.expect("no turn fails");
        let mut expected: BTreeMap<String, usize> = BTreeMap::new();
        for (racer, round) in (0..4).flat_map(|racer| (0..ROUNDS).map(move |round| (racer, round))) {
            let taken = (0..12).map(|place| (place + racer * 7 + round) % 20);
            taken.for_each(|name| *expected.entry(names[name].clone()).or_default() += 1);
        }
        let expected = expected.into_iter().map(|(name, count)| (name, (count * times) % 3));
        let expected: Vec<_> = expected.filter(|(_, count)| *count > 0).collect();
        let found = page(models, None, None, 100).await;
        let found: Vec<_> = found.into_iter().map(|(key, state)| (key, state.parse().unwrap_or(usize::MAX))).collect();
        assert_eq!(found, expected);
        let by_city = join_all(["1", "2"].map(|count| page(models, Some(count), None, 100))).await.concat();
        assert_eq!(by_city.len(), found.len(), "fields come and go with their rows");
    }
}

fn advance_by_one(row: &mut Progress) {
    row.applied = Version::new(row.applied.get() + 1);
    row.seen = row.applied;
}

/// Increments the row's count, and removes the row when the count reaches three.
fn counted(row: &ViewRow) -> ViewRow {
    let count = row.state.as_deref().map_or(0, |state| state.parse::<u32>().unwrap_or(u32::MAX)) + 1;
    if count == 3 {
        return ViewRow::empty(row.key.clone());
    }
    let (state, fields) = (Some(count.to_string()), Fields::new().with("city", count));
    ViewRow { key: row.key.clone(), state, fields, position: row.position.next() }
}
