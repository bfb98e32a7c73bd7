//! The unique values of a stream.

use retell::event::NewEvent;
use retell::operate::{self, MAX_ROWS};
use retell::store::Inspect;
use retell::{Append, Claim, Codec, EventId, EventType, ExpectedVersion};

use crate::planted::{Log, Models, stream};

async fn claim(log: &impl Log, id: &str, claims: impl IntoIterator<Item = Claim>) {
    let event_type = EventType::new("user.changed").unwrap();
    let event = NewEvent::stored(EventId::generate(), event_type, 1, Codec::Json, "{}".into());
    let append = Append::new(stream("user", id), ExpectedVersion::Any, vec![event]).with_claims(claims);
    log.append(append).await.unwrap();
}

async fn held(log: &(impl Log + Inspect), id: &str, limit: usize) -> (Vec<String>, bool) {
    let held = operate::held_values(log, &stream("user", id), limit).await.unwrap().unwrap();
    (held.items.iter().map(|held| format!("{} {}", held.scope, held.value)).collect(), held.truncated)
}

pub(crate) async fn stream_lists_the_values_it_holds(log: &(impl Log + Inspect), _: &impl Models) {
    let reserve = |scope: &str, value: &str| Claim::reserve(scope, value).unwrap();
    claim(log, "1", [reserve("user.name", "ada"), reserve("user.email", "b@x"), reserve("user.email", "A@x")]).await;
    claim(log, "11", [reserve("user.email", "c@x")]).await;
    assert_eq!(
        held(log, "1", 10).await,
        (["user.email A@x", "user.email b@x", "user.name ada"].map(Into::into).into(), false)
    );
    assert_eq!(held(log, "1", 2).await, (["user.email A@x", "user.email b@x"].map(Into::into).into(), true));
    assert_eq!(held(log, "1", 0).await, (vec![], true));
    assert_eq!(held(log, "2", 10).await, (vec![], false));

    // A released value, one that another stream takes over, and one that was refused.
    claim(log, "1", [Claim::release("user.email", "b@x").unwrap()]).await;
    claim(log, "2", [reserve("user.email", "b@x")]).await;
    let event =
        NewEvent::stored(EventId::generate(), EventType::new("user.changed").unwrap(), 1, Codec::Json, "{}".into());
    let refused = Append::new(stream("user", "3"), ExpectedVersion::Any, vec![event]);
    let refused = log.append(refused.with_claims([reserve("user.email", "b@x"), reserve("user.email", "new@x")])).await;
    assert!(matches!(refused.unwrap_err().kind(), retell::ErrorKind::Taken { .. }));
    assert_eq!(held(log, "1", 10).await, (["user.email A@x", "user.name ada"].map(Into::into).into(), false));
    assert_eq!(held(log, "2", 10).await, (["user.email b@x"].map(Into::into).into(), false));
    assert_eq!(held(log, "3", 10).await, (vec![], false));

    let many = (0..=MAX_ROWS).map(|number| reserve("user.token", &format!("{number:05}")));
    claim(log, "4", many).await;
    let (values, truncated) = held(log, "4", usize::MAX).await;
    assert_eq!((values.len(), values[999].as_str(), truncated), (MAX_ROWS, "user.token 00999", true));
}
