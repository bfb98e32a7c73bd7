//! The conformance suite of [`ViewStore`]: one function per case, each on a fresh and empty read model.
//!
//! [`view_conformance!`](crate::view_conformance) expands to one test per case.
//!
//! # Panics
//! Every case panics if the read model breaks the rule in the case's name.
#![expect(clippy::missing_panics_doc, reason = "documented once, above: every case may panic")]

use futures::FutureExt;

use crate::error::{ErrorKind, Result};
use crate::id::{Generation, MAX_NAME_BYTES, Position, ViewKey};
use crate::store::model::parking::Step;
use crate::store::model::read_model::Work;
use crate::store::model::views::{Fields, ViewId, ViewPage, ViewRow, ViewStore};

mod generations;
mod sharing;

pub use generations::*;
pub use sharing::*;

/// Expands to one test per case, named after the case.
///
/// Awaiting the expression returns a fresh empty read model and a guard that must live as long as it.
///
/// # Examples
/// ```
/// use retell::MemoryReadModel;
///
/// retell::view_conformance!(async { (MemoryReadModel::new(), ()) });
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! view_conformance {
    ($fresh:expr) => {
        $crate::view_conformance! {
            @cases $fresh;
            saved_rows_are_loaded_and_read,
            keys_are_compared_by_their_bytes,
            inserted_rows_can_be_read_changed_and_removed,
            a_row_without_a_state_is_gone_until_it_is_saved_again,
            a_failed_batch_changes_nothing,
            rows_are_found_by_their_current_field_values,
            pages_cover_the_rows_exactly_once,
            a_large_batch_is_saved_and_loaded_whole,
            readers_see_only_the_live_generation,
            promote_refuses_a_generation_that_is_behind,
            a_generation_is_deleted_in_parts_unless_it_is_live,
            a_generation_is_cleared_in_one_step,
            views_are_independent,
            workers_that_share_rows_lose_no_change,
        }
    };
    (@cases $fresh:expr; $($case:ident,)*) => {
        $(
            #[::tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let (model, _guard) = $fresh.await;
                $crate::testing::views::$case(&model).await;
            }
        )*
    };
}

fn view(name: &str, generation: u64) -> ViewId {
    ViewId::new(name, Generation::new(generation)).expect("a test's view has a valid name")
}

fn totals() -> ViewId {
    view("totals", 1)
}

fn key(key: &str) -> ViewKey {
    ViewKey::new(key).expect("a test's key is valid")
}

/// A row to write: its key, its state, and the value of its field `city`.
type NewRow<'w> = (&'w str, Option<&'w str>, Option<&'w str>);

fn rows(wanted: &[NewRow<'_>], position: Position) -> Vec<ViewRow> {
    let mut rows: Vec<_> = wanted
        .iter()
        .map(|(name, state, city)| ViewRow {
            key: key(name),
            state: state.map(str::to_owned),
            fields: city.map_or_else(Fields::new, |city| Fields::new().with("city", city)),
            position,
        })
        .collect();
    rows.sort_by(|one, other| one.key.cmp(&other.key));
    rows
}

fn keys(rows: &[ViewRow]) -> Vec<ViewKey> {
    rows.iter().map(|row| row.key.clone()).collect()
}

/// Loads and saves rows in one transaction, as a worker in log order does. The transaction's work returns `end`.
async fn batch<M: ViewStore + Clone>(models: &M, view: &ViewId, wanted: &[NewRow<'_>], end: Result<()>) -> Result<()> {
    let at = models.mark(view.projection()).await?.position;
    let after = rows(wanted, at.next());
    let (store, id) = (models.clone(), view.clone());
    let work: Work<M::Tx> = Box::new(move |tx| {
        async move {
            let before = store.load_rows(tx, &id, &keys(&after)).await?;
            assert_eq!(keys(&before), keys(&after), "one row per key, in the order of the keys");
            store.save_rows(tx, &id, &before, &after).await?;
            assert_eq!(
                store.load_rows(tx, &id, &keys(&after)).await?,
                loaded(after),
                "a transaction sees its own writes"
            );
            end
        }
        .boxed()
    });
    models.commit(Step::new(view.projection(), at, at.next()), work).await
}

/// Returns the rows as they are loaded after a save: a row without a state is empty.
fn loaded(rows: Vec<ViewRow>) -> Vec<ViewRow> {
    rows.into_iter().map(|row| if row.state.is_some() { row } else { ViewRow::empty(row.key) }).collect()
}

async fn write<M: ViewStore + Clone>(models: &M, view: &ViewId, wanted: &[NewRow<'_>]) {
    batch(models, view, wanted, Ok(())).await.expect("the transaction commits");
}

/// Reads a page of the live rows. Returns their keys and states.
async fn page<M: ViewStore>(
    models: &M,
    city: Option<&str>,
    after: Option<&str>,
    limit: usize,
) -> Vec<(String, String)> {
    let of = city.map(|city| ("city".to_owned(), city.to_owned()));
    let page = ViewPage { of, after: after.map(key), limit };
    let rows = models.page(totals().view(), None, &page).await.expect("the read succeeds");
    rows.into_iter().map(|row| (row.key.to_string(), row.state.expect("only rows with a state are returned"))).collect()
}

async fn names<M: ViewStore>(models: &M, city: Option<&str>) -> Vec<String> {
    page(models, city, None, 100).await.into_iter().map(|(key, _)| key).collect()
}

/// State, fields and position of a row are returned unchanged. A key without a row loads as an empty row.
pub async fn saved_rows_are_loaded_and_read<M: ViewStore + Clone>(models: &M) {
    write(models, &totals(), &[("b", Some("2"), None), ("a", Some(r#"{"name":"Zoë 🦀"}"#), Some("Köln"))]).await;
    write(models, &totals(), &[("b", Some("3"), Some("Bonn")), ("c", None, None)]).await;
    let mut read = models.rows(totals().view(), None, &["c", "b", "a", "d"].map(key)).await.expect("the read succeeds");
    read.sort_by(|one, other| one.key.cmp(&other.key));
    let first = rows(&[("a", Some(r#"{"name":"Zoë 🦀"}"#), Some("Köln"))], Position::new(1));
    let second = rows(&[("b", Some("3"), Some("Bonn"))], Position::new(2));
    assert_eq!(read, [first, second].concat());
    assert!(models.rows(totals().view(), None, &[]).await.expect("an empty list of keys can be read").is_empty());
}

/// Case, accents and trailing spaces are significant. A key may have up to [`MAX_NAME_BYTES`] bytes.
pub async fn keys_are_compared_by_their_bytes<M: ViewStore + Clone>(models: &M) {
    let longest = "ü".repeat(MAX_NAME_BYTES / 2) + "x";
    let names = ["A", "a", "a ", "ä", "ß", "ss", "🦀", "it's", r#""\"#, "%", longest.as_str()];
    for name in names {
        write(models, &totals(), &[(name, Some(&format!("[{}]", name.len())), Some(name))]).await;
    }
    let mut sorted = names.map(str::to_owned);
    sorted.sort();
    assert_eq!(self::names(models, None).await, sorted);
    for name in names {
        assert_eq!(self::names(models, Some(name)).await, [name], "by its value");
        let found = models.rows(totals().view(), None, &[key(name)]).await.expect("the read succeeds");
        assert_eq!(found.len(), 1, "{name}");
        assert_eq!(found[0].state, Some(format!("[{}]", name.len())));
    }
    assert_eq!(key(&longest).as_str().len(), MAX_NAME_BYTES);
}

/// Inserted rows are changed and removed like rows that were saved.
pub async fn inserted_rows_can_be_read_changed_and_removed<M: ViewStore + Clone>(models: &M) {
    write(models, &totals(), &[("b", Some("1"), Some("Bonn"))]).await;
    let new = rows(&[("a", Some("1"), Some("Bonn")), ("c", Some("1"), None), ("d", None, None)], Position::new(2));
    let store = models.clone();
    let work: Work<M::Tx> = Box::new(move |tx| async move { store.insert_rows(tx, &totals(), &new).await }.boxed());
    models
        .commit(Step::new(totals().projection(), Position::new(1), Position::new(2)), work)
        .await
        .expect("the transaction commits");
    assert_eq!(
        (names(models, None).await, names(models, Some("Bonn")).await.len()),
        (["a", "b", "c"].map(String::from).into(), 2)
    );
    write(models, &totals(), &[("a", Some("2"), None), ("c", None, None)]).await;
    assert_eq!(
        (names(models, None).await, names(models, Some("Bonn")).await),
        (["a", "b"].map(String::from).into(), vec!["b".into()])
    );
}

/// No read returns a row without a state, and its field values are removed.
pub async fn a_row_without_a_state_is_gone_until_it_is_saved_again<M: ViewStore + Clone>(models: &M) {
    write(models, &totals(), &[("a", Some("1"), Some("Bonn")), ("b", Some("1"), Some("Bonn"))]).await;
    write(models, &totals(), &[("a", None, None)]).await;
    assert_eq!((names(models, None).await, names(models, Some("Bonn")).await), (vec!["b".into()], vec!["b".into()]));
    assert!(models.rows(totals().view(), None, &[key("a")]).await.expect("the read succeeds").is_empty());
    write(models, &totals(), &[("a", Some("2"), Some("Kiel"))]).await;
    assert_eq!(page(models, None, None, 1).await, [("a".to_owned(), "2".to_owned())]);
    assert_eq!(
        (names(models, Some("Bonn")).await, names(models, Some("Kiel")).await),
        (vec!["b".into()], vec!["a".into()])
    );
}

/// A failed batch changes neither rows nor fields nor the checkpoint.
pub async fn a_failed_batch_changes_nothing<M: ViewStore + Clone>(models: &M) {
    write(models, &totals(), &[("a", Some("1"), Some("Bonn")), ("b", Some("1"), None)]).await;
    let wanted = [("a", Some("2"), Some("Kiel")), ("b", None, None), ("c", Some("1"), Some("Kiel"))];
    let end = Err(ErrorKind::Invalid("on purpose".into()).into());
    let error = batch(models, &totals(), &wanted, end).await.expect_err("the batch fails");
    assert!(matches!(error.kind(), ErrorKind::Invalid(_)), "{error}");
    assert_eq!(page(models, None, None, 9).await, [("a", "1"), ("b", "1")].map(|(k, s)| (k.into(), s.into())));
    assert_eq!((names(models, Some("Bonn")).await, names(models, Some("Kiel")).await), (vec!["a".into()], vec![]));
    let checkpoint = models.mark(totals().projection()).await.expect("the read succeeds").position;
    assert_eq!(checkpoint, Position::new(1));
}

/// A row is found by each of its field values, and no longer by its old ones. It may have several fields, and several values of a field.
pub async fn rows_are_found_by_their_current_field_values<M: ViewStore + Clone>(models: &M) {
    let tagged = |tags: &[&str]| tags.iter().fold(Fields::new(), |fields, tag| fields.with("tag", tag));
    for (tags, position) in [(&["x", "y"][..], 0), (&["y", "z", ""], 1), (&[], 2), (&["x"], 3)] {
        let (store, fields) = (models.clone(), tagged(tags).with("city", "Bonn"));
        let work: Work<M::Tx> = Box::new(move |tx| {
            async move {
                let before = store.load_rows(tx, &totals(), &[key("a")]).await?;
                let row = ViewRow { state: Some("0".into()), fields, ..ViewRow::empty(key("a")) };
                store.save_rows(tx, &totals(), &before, &[row]).await
            }
            .boxed()
        });
        let step = Step::new(totals().projection(), Position::new(position), Position::new(position + 1));
        models.commit(step, work).await.expect("the transaction commits");
        for tag in ["x", "y", "z", "", "Bonn"] {
            let of = Some(("tag".to_owned(), tag.to_owned()));
            let found = models.page(totals().view(), None, &ViewPage { of, after: None, limit: 9 }).await;
            assert_eq!(
                found.expect("the read succeeds").len(),
                usize::from(tags.contains(&tag)),
                "{tag:?} of {tags:?}"
            );
        }
        assert_eq!(names(models, Some("Bonn")).await, ["a"]);
    }
}

/// Pages of all rows, and of the rows with a field value, return each row exactly once.
pub async fn pages_cover_the_rows_exactly_once<M: ViewStore + Clone>(models: &M) {
    let all: Vec<String> = (0..25).map(|number| format!("{number:02}")).collect();
    let city = |name: &str| if name.ends_with('3') { "Kiel" } else { "Bonn" };
    let wanted: Vec<_> = all.iter().map(|name| (name.as_str(), Some("0"), Some(city(name)))).collect();
    write(models, &totals(), &wanted).await;
    for (of, limit) in [(None, 7), (None, 25), (Some("Bonn"), 4), (Some("Kiel"), 1), (Some("Ulm"), 3)] {
        let mut seen: Vec<String> = Vec::new();
        loop {
            let rows = page(models, of, seen.last().map(String::as_str), limit).await;
            let is_last = rows.len() < limit;
            seen.extend(rows.into_iter().map(|(key, _)| key));
            if is_last {
                break;
            }
        }
        let expected: Vec<_> = all.iter().filter(|name| of.is_none_or(|of| city(name) == of)).cloned().collect();
        assert_eq!(seen, expected, "{of:?} by {limit}");
    }
}

/// A batch may insert, change and remove more rows than fit in one statement of any database.
pub async fn a_large_batch_is_saved_and_loaded_whole<M: ViewStore + Clone>(models: &M) {
    let names: Vec<String> = (0..3_000).map(|number| format!("{number:04}")).collect();
    let long = format!("\"{}\"", "x".repeat(3_000));
    let states = |state: Option<&'static str>| names.iter().map(move |name| (name.as_str(), state, Some("Bonn")));
    let long: Vec<_> = names.iter().map(|name| (name.as_str(), Some(long.as_str()), None)).collect();
    write(models, &totals(), &long).await;
    write(models, &totals(), &states(Some("1")).collect::<Vec<_>>()).await;
    assert_eq!(page(models, Some("Bonn"), None, 5_000).await.len(), 3_000);
    let read = models.rows(totals().view(), None, &names.iter().map(|name| key(name)).collect::<Vec<_>>()).await;
    let read = read.expect("the read succeeds");
    assert!(read.len() == 3_000 && read.iter().all(|row| row.state.as_deref() == Some("1")));
    let gone: Vec<_> = names.iter().skip(1).map(|name| (name.as_str(), None, None)).collect();
    write(models, &totals(), &gone).await;
    assert_eq!(self::names(models, None).await, ["0000"]);
}

/// Views with similar names may have rows under the same keys.
pub async fn views_are_independent<M: ViewStore + Clone>(models: &M) {
    write(models, &totals(), &[("a", Some("1"), Some("Bonn"))]).await;
    write(models, &view("total", 1), &[("a", Some("2"), Some("Bonn")), ("b", Some("2"), Some("Bonn"))]).await;
    write(models, &totals(), &[("b", None, None)]).await;
    assert_eq!(page(models, Some("Bonn"), None, 9).await, [("a".to_owned(), "1".to_owned())]);
    let others = ViewPage { of: None, after: None, limit: 9 };
    let others = models.page(view("total", 1).view(), None, &others).await.expect("the read succeeds");
    assert_eq!(keys(&others), [key("a"), key("b")]);
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_macro_names_every_case() {
        let here = include_str!("views.rs");
        let sources = [here, include_str!("views/generations.rs"), include_str!("views/sharing.rs")];
        let names = sources.iter().flat_map(|source| source.split("\npub async fn ").skip(1));
        let names: Vec<_> = names.filter_map(|rest| rest.split(['(', '<']).next()).collect();
        assert_eq!(names.len(), 14, "{names:?}");
        for name in names {
            assert!(here.contains(&format!("            {name},\n")), "{name} is in no test");
        }
    }
}
