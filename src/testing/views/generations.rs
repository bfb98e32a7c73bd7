//! Generations of a view: rebuilding, promoting, clearing and deleting them.

use futures::FutureExt;

use crate::error::ErrorKind;
use crate::id::mark::Mark;
use crate::id::{Generation, Position};
use crate::store::model::checkpoint::ProjectionState;
use crate::store::model::parking::Step;
use crate::store::model::read_model::Work;
use crate::store::model::views::{Switch, ViewId, ViewPage, ViewStore};
use crate::testing::views::{key, keys, names, page, totals, view, write};

/// Readers do not see a generation that is being built before it is promoted.
pub async fn readers_see_only_the_live_generation<M: ViewStore + Clone>(models: &M) {
    let second = view("totals", 2);
    assert_eq!(second.projection().as_str(), "totals@2");
    write(models, &totals(), &[("a", Some("1"), Some("Bonn")), ("b", Some("1"), None)]).await;
    write(models, &second, &[("a", Some("2"), Some("Kiel")), ("c", Some("2"), None)]).await;
    assert_eq!(models.live_generation(totals().view()).await.expect("the read succeeds"), Generation::new(1));
    assert_eq!((names(models, None).await, names(models, Some("Kiel")).await), (vec!["a".into(), "b".into()], vec![]));
    for (live, before) in [(2, 1), (1, 2), (2, 1), (2, 2)] {
        let switched =
            models.promote(&view("totals", live), Switch::IfCaughtUp).await.expect("the transaction commits");
        assert_eq!(switched, Generation::new(before));
        assert_eq!(models.live_generation(totals().view()).await.expect("the read succeeds"), Generation::new(live));
    }
    assert_eq!(page(models, None, None, 9).await, [("a", "2"), ("c", "2")].map(|(k, s)| (k.into(), s.into())));
    assert_eq!((names(models, Some("Bonn")).await, names(models, Some("Kiel")).await), (vec![], vec!["a".into()]));
    let found = models.rows(totals().view(), None, &[key("b"), key("c")]).await.expect("the read succeeds");
    assert_eq!(keys(&found), [key("c")]);
}

/// [`promote`](ViewStore::promote) refuses a generation that is behind the live one, unless forced. It always refuses a generation that was
/// never built or has been deleted.
pub async fn promote_refuses_a_generation_that_is_behind<M: ViewStore + Clone>(models: &M) {
    let second = view("totals", 2);
    write(models, &totals(), &[("a", Some("1"), None)]).await;
    let refused = async |when, checkpoint, live| {
        let error = models.promote(&second, when).await.expect_err("the generation is behind");
        let (checkpoint, live) = (Position::new(checkpoint), Position::new(live));
        let behind = ErrorKind::BehindLive { projection: second.projection().clone(), checkpoint, live };
        assert_eq!(error.kind(), &behind);
        assert_eq!(models.live_generation(totals().view()).await.expect("the read succeeds"), ViewId::FIRST);
    };
    refused(Switch::IfCaughtUp, 0, 1).await;
    refused(Switch::Force, 0, 1).await;
    write(models, &second, &[("a", Some("2"), None)]).await;
    write(models, &totals(), &[("b", Some("1"), None)]).await;
    refused(Switch::IfCaughtUp, 1, 2).await;
    assert_eq!(models.promote(&second, Switch::Force).await.expect("the transaction commits"), ViewId::FIRST);
    assert_eq!(page(models, None, None, 9).await, [("a".to_owned(), "2".to_owned())]);
    models.promote(&totals(), Switch::IfCaughtUp).await.expect("the first generation is ahead");
    while !models.delete_generation(&second, 1).await.expect("the transaction commits") {}
    refused(Switch::Force, 0, 2).await;
}

/// Each call of [`delete_generation`](ViewStore::delete_generation) deletes a part. No worker can continue from the remaining rows, and
/// other generations are unaffected.
pub async fn a_generation_is_deleted_in_parts_unless_it_is_live<M: ViewStore + Clone>(models: &M) {
    let (second, names) = (view("totals", 2), ["a", "b", "c", "d", "e"]);
    for generation in [totals(), second.clone()] {
        write(models, &generation, &names.map(|name| (name, Some("1"), Some("Bonn")))).await;
    }
    let error = models.delete_generation(&totals(), 2).await.expect_err("the generation is live");
    assert!(matches!(error.kind(), ErrorKind::Invalid(_)), "{error}");
    let mut calls = 1;
    while !models.delete_generation(&second, 2).await.expect("the transaction commits") {
        calls += 1;
        let state = models.state(second.projection()).await.expect("the read succeeds");
        assert_eq!(state, ProjectionState::Deleting, "workers are refused");
        let nothing: Work<M::Tx> = Box::new(|_| async { Ok(()) }.boxed());
        let refused = models.commit(Step::new(second.projection(), Position::ZERO, Position::new(1)), nothing).await;
        assert!(matches!(refused.expect_err("the generation is being deleted").kind(), ErrorKind::Invalid(_)));
        let nothing: Work<M::Tx> = Box::new(|_| async { Ok(()) }.boxed());
        let refused = models.begin(second.projection(), nothing).await;
        assert!(matches!(refused.expect_err("the generation is being deleted").kind(), ErrorKind::Invalid(_)));
        let swept = models.sweep(second.projection(), 0, Mark::START, Position::new(9).into()).await;
        assert_eq!(swept.expect("the transaction commits"), Mark::START, "a late sweep does not move it");
        assert!(calls < 9, "the deletion ends");
    }
    assert_eq!(models.mark(second.projection()).await.expect("the read succeeds").position, Position::ZERO);
    match models.state(second.projection()).await {
        Ok(state) => assert_eq!(state, ProjectionState::Running, "like a new generation"),
        Err(error) => assert!(matches!(error.kind(), ErrorKind::UnknownProjection { .. }), "{error}"),
    }
    for of in [None, Some(("city".to_owned(), "Bonn".to_owned()))] {
        for (generation, rows) in [(1, 5), (2, 0)] {
            let page = ViewPage { of: of.clone(), after: None, limit: 9 };
            let found = models.page(totals().view(), Some(Generation::new(generation)), &page).await;
            assert_eq!(found.expect("the read succeeds").len(), rows, "{of:?} of {generation}");
        }
    }
    write(models, &second, &[("a", Some("2"), Some("Kiel"))]).await;
    let found = models.rows(totals().view(), Some(second.generation()), &[key("a"), key("b")]).await;
    assert_eq!(
        keys(&found.expect("the read succeeds")),
        [key("a")],
        "the generation starts over without the deleted rows"
    );
}

/// Rows and field values are deleted in the transaction that resets the checkpoint.
pub async fn a_generation_is_cleared_in_one_step<M: ViewStore + Clone>(models: &M) {
    write(models, &totals(), &[("a", Some("1"), Some("Bonn")), ("b", Some("1"), Some("Bonn"))]).await;
    write(models, &view("total", 1), &[("a", Some("1"), Some("Bonn"))]).await;
    let store = models.clone();
    let work: Work<M::Tx> = Box::new(move |tx| async move { store.clear_rows(tx, &totals()).await }.boxed());
    let step = Step::new(totals().projection(), Position::new(1), Position::ZERO);
    models.commit(step, work).await.expect("the transaction commits");
    assert!(names(models, None).await.is_empty() && names(models, Some("Bonn")).await.is_empty());
    write(models, &totals(), &[("b", Some("2"), None)]).await;
    assert_eq!(page(models, None, None, 9).await, [("b".to_owned(), "2".to_owned())]);
    let others = ViewPage { of: None, after: None, limit: 9 };
    let others = models.page(view("total", 1).view(), None, &others).await.expect("the read succeeds");
    assert_eq!(keys(&others), [key("a")]);
}
