//! The conformance suite of interventions by operators in a [`ReadModel`]: one function per case, each on a fresh and empty read model.
//!
//! [`intervention_conformance!`](crate::intervention_conformance) expands to one test per case. A read model whose
//! [`intervene`](ReadModel::intervene) refuses need not pass it.
//!
//! # Panics
//! Every case panics if the read model breaks the rule in the case's name.
#![expect(clippy::missing_panics_doc, reason = "documented once, above: every case may panic")]

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::FutureExt;
use futures::channel::oneshot;

use crate::error::{ErrorKind, Result};
use crate::id::mark::Mark;
use crate::id::{EventId, Position, ProjectionName, StreamId, Version};
use crate::store::log::query::Filter;
use crate::store::model::interventions::{Action, By, Intervention};
use crate::store::model::parking::{Parked, ParkedState, ParkingChange, Step};
use crate::store::model::processors::{ProcessorKind, RegisteredProcessor};
use crate::store::model::progress::Turn;
use crate::store::model::read_model::{ReadModel, Work};
use crate::store::model::skipped::SkipState;
use crate::testing::read_model::Counting;

/// Expands to one test per case, named after the case.
///
/// Awaiting the expression returns a fresh empty read model and a guard that must live as long as it.
///
/// # Examples
/// ```
/// use retell::store::memory::MemoryReadModel;
///
/// retell::intervention_conformance!(async { (MemoryReadModel::with_value(0), ()) });
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! intervention_conformance {
    ($fresh:expr) => {
        $crate::intervention_conformance! {
            @cases $fresh;
            a_pause_refuses_steps_until_it_is_resumed,
            a_pause_refuses_a_beginning_a_turn_and_a_sweep,
            a_pause_keeps_the_first_operator,
            a_pause_of_a_name_that_never_ran_is_an_error,
            a_retirement_refuses_steps_until_it_is_resumed,
            a_retirement_replaces_a_pause_and_stays,
            no_step_commits_after_a_pause_has_returned,
            no_turn_commits_after_a_pause_has_returned,
            no_step_commits_after_a_retirement_has_returned,
            no_turn_commits_after_a_retirement_has_returned,
            a_skip_needs_the_version_that_is_parked,
            a_skip_is_kept_and_makes_the_aggregate_due,
            a_withdrawn_skip_is_listed_and_does_not_count,
            a_turn_that_does_not_know_a_skip_changes_nothing,
            each_change_has_its_record,
        }
    };
    (@cases $fresh:expr; $($case:ident,)*) => {
        $(
            #[::tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let (model, _guard) = $fresh.await;
                $crate::testing::interventions::$case(&model).await;
            }
        )*
    };
}

fn totals() -> ProjectionName {
    ProjectionName::new("totals").expect("a valid name")
}

fn stream(id: &str) -> StreamId {
    StreamId::parse("account", id).expect("a valid stream")
}

fn ada() -> By {
    By::new("ada", "the table is copied; ü")
}

fn nothing<Tx: ?Sized + 'static>() -> Work<Tx> {
    Box::new(|_| async { Ok(()) }.boxed())
}

async fn changes(model: &impl ReadModel) -> u64 {
    model.parking(&totals()).await.expect("a known projection").changes
}

/// Steps from position `from` to the next, knowing `changes`, and counts.
async fn step<M: Counting>(model: &M, from: u64, changes: u64) -> Result<()> {
    let step = Step::new(&totals(), Position::new(from), Position::new(from + 1)).with_parking(changes, Vec::new());
    model.commit(step, M::count()).await
}

/// Parks an aggregate of a projection at position 1.
async fn park<M: Counting>(model: &M, projection: &ProjectionName, id: &str) {
    let next_at = DateTime::from_timestamp_micros(4_000_000_000_123_456).expect("a time in range");
    let parked = Parked::new(stream(id), Version::new(3), Position::new(1), "no such account", 17, next_at);
    let parked = ParkingChange::Park(parked.with_state(ParkedState::Dead));
    let step = Step::new(projection, Position::ZERO, Position::new(1)).with_parking(0, vec![parked]);
    model.commit(step, nothing()).await.expect("a step commits");
}

/// A step fails while the projection is paused if it has read the count before the pause, and after the end of the pause, too.
pub async fn a_pause_refuses_steps_until_it_is_resumed<M: Counting>(model: &M) {
    step(model, 0, 0).await.expect("a step commits");
    assert_eq!(model.paused(&totals()).await.expect("a pause can be read"), None);
    assert!(model.pause(&totals(), &ada()).await.expect("a projection is paused"));
    let pause = model.paused(&totals()).await.expect("a pause can be read").expect("it is paused");
    assert_eq!(pause.by, ada());
    let refused = step(model, 1, 0).await.expect_err("the projection is paused");
    assert!(matches!(refused.kind(), ErrorKind::CheckpointMoved { .. }), "{refused}");
    assert!(model.resume(&totals(), &ada()).await.expect("a projection is resumed"));
    assert_eq!(model.paused(&totals()).await.expect("a pause can be read"), None);
    step(model, 1, 0).await.expect_err("the step was read before the pause");
    assert_eq!((changes(model).await, model.counted().await.expect("the read succeeds")), (2, 1));
    step(model, 1, 2).await.expect("the step knows the newest count");
}

/// As a step, for order per aggregate. A projection that is paused is not set up.
pub async fn a_pause_refuses_a_beginning_a_turn_and_a_sweep<M: Counting>(model: &M) {
    model.begin(&totals(), nothing()).await.expect("a projection begins");
    model.pause(&totals(), &ada()).await.expect("a projection is paused");
    let refused = model.begin(&totals(), M::count()).await.expect_err("it is paused");
    let ErrorKind::Paused { projection, who, reason, .. } = refused.kind() else { panic!("{refused}") };
    assert_eq!((projection, By::new(who, reason)), (&totals(), ada()));
    let turn: Turn<M::Tx> = Box::new(|tx, _| M::count()(tx));
    let refused = model.turn(&totals(), 0, vec![stream("a")], turn).await.expect_err("it is paused");
    assert_eq!(*refused.kind(), ErrorKind::ProcessorsChanged(totals()));
    let five = Mark::from(Position::new(5));
    let refused = model.sweep(&totals(), 0, Mark::START, five).await.expect_err("it is paused");
    assert_eq!(*refused.kind(), ErrorKind::ProcessorsChanged(totals()));
    assert_eq!(model.counted().await.expect("the read succeeds"), 0);
    model.resume(&totals(), &ada()).await.expect("a projection is resumed");
    model.begin(&totals(), M::count()).await.expect("a projection begins");
    let turn: Turn<M::Tx> = Box::new(|tx, _| M::count()(tx));
    model.turn(&totals(), 2, vec![stream("a")], turn).await.expect("it knows the newest count");
    assert_eq!(model.sweep(&totals(), 2, Mark::START, five).await.expect("it knows the newest count"), five);
}

/// Pausing what is paused, and resuming what runs, changes nothing.
pub async fn a_pause_keeps_the_first_operator<M: Counting>(model: &M) {
    step(model, 0, 0).await.expect("a step commits");
    assert!(!model.resume(&totals(), &ada()).await.expect("a running projection is no error"));
    assert!(model.pause(&totals(), &ada()).await.expect("a projection is paused"));
    let first = model.paused(&totals()).await.expect("a pause can be read");
    assert!(!model.pause(&totals(), &By::new("bob", "too")).await.expect("a paused projection is no error"));
    assert_eq!(model.paused(&totals()).await.expect("a pause can be read"), first);
    assert_eq!((changes(model).await, model.audit(9, None).await.expect("the audit is read").len()), (1, 1));
    let other = ProjectionName::new("total").expect("a valid name");
    assert_eq!(model.paused(&other).await.expect("a name that never ran is no error"), None);
}

/// A misspelt name, and texts that no store can keep, are refused.
pub async fn a_pause_of_a_name_that_never_ran_is_an_error<M: Counting>(model: &M) {
    let misspelt = ProjectionName::new("total5").expect("a valid name");
    let refused = model.pause(&misspelt, &ada()).await.expect_err("the name never ran");
    assert!(matches!(refused.kind(), ErrorKind::UnknownProjection { .. }), "{refused}");
    step(model, 0, 0).await.expect("a step commits");
    for by in [By::new("", "why"), By::new("ada", ""), By::new("a\0", "why"), By::new("ada", "x".repeat(4_097))] {
        let refused = model.pause(&totals(), &by).await.expect_err("the text does not fit");
        assert!(matches!(refused.kind(), ErrorKind::Invalid(_)), "{refused}");
    }
    assert_eq!(model.audit(9, None).await.expect("the audit is read"), []);
}

/// As a pause. After its end, a pause is no retirement.
pub async fn a_retirement_refuses_steps_until_it_is_resumed<M: Counting>(model: &M) {
    step(model, 0, 0).await.expect("a step commits");
    assert!(model.retire(&totals(), &ada()).await.expect("a projection is retired"));
    let retired = model.paused(&totals()).await.expect("a retirement can be read").expect("it is retired");
    assert!(retired.retired && retired.by == ada(), "{retired:?}");
    let refused = step(model, 1, 0).await.expect_err("the projection is retired");
    assert!(matches!(refused.kind(), ErrorKind::CheckpointMoved { .. }), "{refused}");
    assert!(model.resume(&totals(), &ada()).await.expect("a projection is resumed"));
    assert_eq!(model.paused(&totals()).await.expect("a retirement can be read"), None);
    step(model, 1, 2).await.expect("the step knows the newest count");
    assert!(model.pause(&totals(), &ada()).await.expect("a projection is paused"));
    let pause = model.paused(&totals()).await.expect("a pause can be read").expect("it is paused");
    assert!(!pause.retired, "{pause:?}");
}

/// A retirement has its own operator, time and reason, and nothing but the end of it changes them.
pub async fn a_retirement_replaces_a_pause_and_stays<M: Counting>(model: &M) {
    model.begin(&totals(), nothing()).await.expect("a projection begins");
    assert!(model.pause(&totals(), &ada()).await.expect("a projection is paused"));
    let pause = model.paused(&totals()).await.expect("a pause can be read").expect("it is paused");
    let bob = By::new("bob", "replaced by sums");
    assert!(model.retire(&totals(), &bob).await.expect("a projection is retired"));
    let retired = model.paused(&totals()).await.expect("a retirement can be read").expect("it is retired");
    assert!(retired.retired && retired.by == bob && retired.since >= pause.since, "{retired:?} after {pause:?}");
    assert!(!model.retire(&totals(), &ada()).await.expect("a retired projection is no error"));
    assert!(!model.pause(&totals(), &ada()).await.expect("a retired projection is no error"));
    assert_eq!(model.paused(&totals()).await.expect("a retirement can be read"), Some(retired));
    let actions: Vec<_> =
        model.audit(9, None).await.expect("the audit is read").iter().map(|entry| entry.action).collect();
    assert_eq!((changes(model).await, actions), (2, vec![Action::Retire, Action::Pause]));
    let refused = model.begin(&totals(), M::count()).await.expect_err("it is retired");
    assert!(matches!(refused.kind(), ErrorKind::Paused { retired: true, .. }), "{refused}");
    let told = "projection totals is retired by bob: replaced by sums; `retell resume` ends it";
    assert_eq!(refused.to_string(), told);
    assert!(model.resume(&totals(), &bob).await.expect("a projection is resumed"));
    assert!(!model.resume(&totals(), &bob).await.expect("a running projection is no error"));
    model.begin(&totals(), M::count()).await.expect("a projection begins");
}

/// The time between the beginning of a pause and the end of the transaction in progress. A longer time only finds a fault more surely.
const IN_PROGRESS: Duration = Duration::from_millis(100);

/// Returns work that tells that it has begun, waits, and counts.
fn slow<M: Counting>() -> (Work<M::Tx>, oneshot::Receiver<()>) {
    let (begun, has_begun) = oneshot::channel();
    let work: Work<M::Tx> = Box::new(|tx| {
        async move {
            begun.send(()).expect("the case waits for it");
            tokio::time::sleep(IN_PROGRESS).await;
            M::count()(tx).await
        }
        .boxed()
    });
    (work, has_begun)
}

/// Pauses or retires the projection during a transaction, and checks that it is counted at the end exactly if it was when the call had returned.
async fn stop_during<M: Counting>(
    model: &M,
    intervention: Intervention,
    transaction: impl Future<Output = Result<()>>,
    begun: oneshot::Receiver<()>,
) {
    let paused = async {
        begun.await.expect("the work begins");
        model.intervene(&totals(), intervention, &ada()).await.expect("a projection is stopped");
        model.counted().await.expect("the read succeeds")
    };
    let (ended, counted) = futures::join!(transaction, paused);
    assert_eq!(model.counted().await.expect("the read succeeds"), counted, "{ended:?}");
    assert_eq!(u32::from(ended.is_ok()), counted);
}

async fn stop_during_a_step<M: Counting>(model: &M, intervention: Intervention) {
    model.commit(Step::new(&totals(), Position::ZERO, Position::ZERO), nothing()).await.expect("a step commits");
    let (work, begun) = slow::<M>();
    let step = Step::new(&totals(), Position::ZERO, Position::new(1));
    stop_during(model, intervention, model.commit(step, work), begun).await;
}

async fn stop_during_a_turn<M: Counting>(model: &M, intervention: Intervention) {
    model.begin(&totals(), nothing()).await.expect("a projection begins");
    let (work, begun) = slow::<M>();
    let turn: Turn<M::Tx> = Box::new(|tx, _| work(tx));
    stop_during(model, intervention, model.turn(&totals(), 0, vec![stream("a")], turn), begun).await;
}

/// A pause waits for the step in progress, or refuses it.
pub async fn no_step_commits_after_a_pause_has_returned<M: Counting>(model: &M) {
    stop_during_a_step(model, Intervention::Pause).await;
}

/// A pause waits for the turns in progress, or refuses them, although turns do not exclude each other.
pub async fn no_turn_commits_after_a_pause_has_returned<M: Counting>(model: &M) {
    stop_during_a_turn(model, Intervention::Pause).await;
}

/// As a pause.
pub async fn no_step_commits_after_a_retirement_has_returned<M: Counting>(model: &M) {
    stop_during_a_step(model, Intervention::Retire).await;
}

/// As a pause.
pub async fn no_turn_commits_after_a_retirement_has_returned<M: Counting>(model: &M) {
    stop_during_a_turn(model, Intervention::Retire).await;
}

/// Only the event that the aggregate is parked from can be skipped.
pub async fn a_skip_needs_the_version_that_is_parked<M: Counting>(model: &M) {
    park(model, &totals(), "a").await;
    for (id, version, parked) in [("a", 2, Some(3)), ("a", 4, Some(3)), ("b", 3, None)] {
        let skipped = model.skip_parked(&totals(), &stream(id), Version::new(version), &ada()).await;
        let refused = skipped.expect_err("the aggregate is not parked from this version");
        let expected = ErrorKind::NotParked {
            projection: totals(),
            stream: stream(id),
            version: Version::new(version),
            parked: parked.map(Version::new),
        };
        assert_eq!(*refused.kind(), expected);
    }
    assert_eq!(model.skipped(&totals(), None, 9).await.expect("skips are read"), []);
    assert_eq!((changes(model).await, model.audit(9, None).await.expect("the audit is read")), (1, Vec::new()));
}

/// The row has the failure, the operator and the time, and all generations of a view share it.
pub async fn a_skip_is_kept_and_makes_the_aggregate_due<M: Counting>(model: &M) {
    let second = ProjectionName::new("totals@2").expect("a valid name");
    park(model, &totals(), "a").await;
    park(model, &second, "a").await;
    let (id, version) = (EventId::generate(), Version::new(3));
    let skip = || Intervention::SkipParked { stream: stream("a"), version, event_id: Some(id) };
    assert!(model.intervene(&totals(), skip(), &ada()).await.expect("an event is skipped"));
    let rows = model.skipped(&totals(), None, 9).await.expect("skips are read");
    let [row] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!(
        (&row.projection, &row.stream, row.version, row.position),
        (&totals(), &stream("a"), version, Position::new(1))
    );
    assert_eq!(
        (row.event_id, row.error.as_str(), &row.by, row.state),
        (Some(id), "no such account", &ada(), SkipState::Skipped)
    );
    let parked = model.parked(&totals(), None, 9).await.expect("parked rows are read");
    assert_eq!((parked[0].from_version, parked[0].state, parked[0].attempts), (version, ParkedState::Waiting, 0));
    assert!(parked[0].next_at <= Utc::now() + chrono::TimeDelta::seconds(60), "{}", parked[0].next_at);
    assert_eq!(changes(model).await, 2);

    assert_eq!(model.skipped(&second, None, 9).await.expect("skips are read"), rows);
    assert!(!model.intervene(&second, skip(), &ada()).await.expect("it is skipped in every generation"));
    let parked = model.parked(&second, None, 9).await.expect("parked rows are read");
    assert_eq!(parked[0].state, ParkedState::Waiting);
    assert_eq!(model.skipped(&totals(), Some(&stream("b")), 9).await.expect("skips are read"), []);
    assert_eq!(model.skipped(&totals(), Some(&stream("a")), 0).await.expect("skips are read"), []);
    let other = ProjectionName::new("total").expect("a valid name");
    assert_eq!(model.skipped(&other, None, 9).await.expect("skips are read"), []);

    model.reset(&totals(), Mark::START, nothing()).await.expect("a projection is reset");
    assert_eq!(model.skipped(&totals(), None, 9).await.expect("skips are read"), rows);
}

/// A withdrawal is a row of its own: nothing is deleted.
pub async fn a_withdrawn_skip_is_listed_and_does_not_count<M: Counting>(model: &M) {
    park(model, &totals(), "a").await;
    let withdraw = || Intervention::WithdrawSkip { stream: stream("a"), version: Version::new(3) };
    assert!(!model.intervene(&totals(), withdraw(), &ada()).await.expect("a missing skip is no error"));
    assert!(model.skip_parked(&totals(), &stream("a"), Version::new(3), &ada()).await.expect("an event is skipped"));
    let bob = By::new("bob", "it was a bug");
    assert!(model.intervene(&totals(), withdraw(), &bob).await.expect("a skip is withdrawn"));
    assert!(!model.intervene(&totals(), withdraw(), &bob).await.expect("a withdrawn skip is no error"));
    let rows = model.skipped(&totals(), Some(&stream("a")), 9).await.expect("skips are read");
    let states: Vec<_> = rows.iter().map(|row| (row.by.who.as_str(), row.state)).collect();
    assert_eq!(states, [("ada", SkipState::Skipped), ("bob", SkipState::Withdrawn)]);
    assert!(model.skip_parked(&totals(), &stream("a"), Version::new(3), &ada()).await.expect("it is skipped again"));
    assert_eq!(model.skipped(&totals(), None, 2).await.expect("skips are read"), rows);
    assert_eq!(model.skipped(&totals(), None, 9).await.expect("skips are read").len(), 3);
}

/// A skip increments the count of changes, so a worker that would apply the event reads the rows again first.
pub async fn a_turn_that_does_not_know_a_skip_changes_nothing<M: Counting>(model: &M) {
    model.begin(&totals(), nothing()).await.expect("a projection begins");
    let next_at = DateTime::from_timestamp_micros(4_000_000_000_123_456).expect("a time in range");
    let parked = Parked::new(stream("a"), Version::new(1), Position::new(1), "no such account", 1, next_at);
    let park: Turn<M::Tx> = Box::new(|_, rows| {
        (rows[0].seen, rows[0].parked) = (Version::new(1), Some(parked));
        async { Ok(()) }.boxed()
    });
    model.turn(&totals(), 0, vec![stream("a")], park).await.expect("an aggregate is parked");
    assert!(model.skip_parked(&totals(), &stream("a"), Version::new(1), &ada()).await.expect("an event is skipped"));
    let turn = || -> Turn<M::Tx> { Box::new(|tx, _| M::count()(tx)) };
    let refused = model.turn(&totals(), 0, vec![stream("a")], turn()).await.expect_err("it does not know the skip");
    assert_eq!(*refused.kind(), ErrorKind::ProcessorsChanged(totals()));
    model.turn(&totals(), 1, vec![stream("a")], turn()).await.expect("it knows the skip");
}

/// The records are in the order of the changes, and are read in pages.
pub async fn each_change_has_its_record<M: Counting>(model: &M) {
    park(model, &totals(), "a").await;
    let release = RegisteredProcessor::new(ProcessorKind::Projection, Filter::all(), Utc::now(), "shop");
    model.register_processor(&totals(), &release).await.expect("a release is registered");
    let changes = [
        Intervention::Pause,
        Intervention::Retire,
        Intervention::RetryParked(stream("a")),
        Intervention::SkipParked { stream: stream("a"), version: Version::new(3), event_id: None },
        Intervention::WithdrawSkip { stream: stream("a"), version: Version::new(3) },
        Intervention::ForgetProcessor(release),
        Intervention::Resume,
    ];
    for change in &changes {
        assert!(model.intervene(&totals(), change.clone(), &ada()).await.expect("a change is made"), "{change:?}");
    }
    for change in [Intervention::Resume, changes[4].clone(), changes[5].clone(), Intervention::RetryParked(stream("b"))]
    {
        assert!(!model.intervene(&totals(), change, &ada()).await.expect("nothing is there to change"));
    }
    let all = model.audit(99, None).await.expect("the audit is read");
    let actions: Vec<_> = all.iter().rev().map(|entry| entry.action).collect();
    let expected: Vec<Action> = changes.iter().map(Intervention::action).collect();
    assert_eq!(actions, expected);
    assert!(all.windows(2).all(|pair| pair[0].id > pair[1].id), "{all:?}");
    assert_eq!((all[0].target.as_str(), &all[0].by, all[0].count), ("totals", &ada(), 1));
    assert_eq!((all[3].target.as_str(), all[4].target.as_str()), ("totals account/a 3", "totals account/a"));
    assert_eq!(model.audit(2, Some(all[1].id)).await.expect("the audit is read"), all[2..4]);
    assert_eq!(model.audit(0, None).await.expect("the audit is read"), []);
}
