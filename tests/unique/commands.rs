//! Commands whose events reserve values: the caller's result, and the state of the store.

use std::pin::Pin;

use futures::future::join_all;
use retell::store::Outcome;
use retell::testing::store::whole_log;
use retell::{
    Aggregate, Apply, Claim, ClaimScope, ClaimValue, CommandError, Context, ErrorKind, Event, EventReader, EventStore,
    Handle, IdempotencyKey, InvalidName, MemoryStore, Repository,
};

use crate::databases::Place;

#[derive(Event)]
enum UserEvent {
    #[event("user.email_given_up")]
    EmailGivenUp(String),
    #[event("user.email_chosen")]
    EmailChosen(String),
}

#[derive(Aggregate, Clone, Default)]
#[aggregate("user", event = UserEvent, claims = Self::claims_of)]
struct User {
    email: Option<String>,
}

impl User {
    fn claims_of(event: &UserEvent) -> Result<Vec<Claim>, InvalidName> {
        let claim = match event {
            UserEvent::EmailGivenUp(email) => Claim::release("user.email", email.to_lowercase()),
            UserEvent::EmailChosen(email) => Claim::reserve("user.email", email.to_lowercase()),
        };
        Ok(vec![claim?])
    }
}

impl Apply<UserEvent> for User {
    fn apply(&mut self, event: UserEvent) {
        self.email = match event {
            UserEvent::EmailGivenUp(_) => None,
            UserEvent::EmailChosen(email) => Some(email),
        };
    }
}

/// Takes two events if the user already has an address.
struct ChooseEmail(&'static str);

impl Handle<ChooseEmail> for User {
    type Error = std::convert::Infallible;

    fn handle(&self, command: &ChooseEmail) -> Result<Vec<UserEvent>, Self::Error> {
        let former = self.email.iter().cloned().map(UserEvent::EmailGivenUp);
        Ok(former.chain([UserEvent::EmailChosen(command.0.to_owned())]).collect())
    }
}

/// A test on the in-memory store.
pub(crate) type Test = fn() -> Pin<Box<dyn Future<Output = ()>>>;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("a_user_who_is_refused_can_choose_another_address", || {
        Box::pin(a_user_who_is_refused_can_choose_another_address())
    }),
    ("a_repeated_key_returns_the_first_outcome", || Box::pin(a_repeated_key_returns_the_first_outcome())),
    ("an_invalid_value_is_refused", || Box::pin(an_invalid_value_is_refused())),
];

async fn holder(store: &impl EventStore, email: &str) -> Option<String> {
    let (scope, value) = (ClaimScope::new("user.email").unwrap(), ClaimValue::new(email).unwrap());
    store.holder(&scope, &value).await.unwrap().map(|stream| stream.aggregate_id().to_string())
}

/// Uses a repository for each user, as separate processes would.
pub(crate) async fn fifty_users(place: &Place) {
    let store = place.open().await.unwrap().events;
    let users = (0..50).map(|n| {
        let users = Repository::<User>::new(store.clone());
        async move { users.execute(n.to_string(), ChooseEmail("ada@x.org")).await }
    });
    let outcomes = join_all(users).await;
    let winner = holder(&store, "ada@x.org").await.expect("one user has the address");
    for (outcome, user) in outcomes.into_iter().zip(0..) {
        match outcome {
            Ok(_) => assert_eq!(user.to_string(), winner),
            Err(CommandError::Taken { scope, value, by }) => {
                assert_ne!(user.to_string(), winner);
                assert_eq!((scope.as_str(), value.as_str()), ("user.email", "ada@x.org"));
                assert_eq!(by.to_string(), format!("user/{winner}"));
            }
            Err(error) => panic!("user {user}: {error}"),
        }
    }
    assert_eq!(whole_log(&store).await.unwrap().len(), 1);
    store.close().await.unwrap();
}

async fn a_user_who_is_refused_can_choose_another_address() {
    let store = MemoryStore::new();
    let users = Repository::<User>::new(store.clone());
    users.execute("ada", ChooseEmail("ada@x.org")).await.unwrap();
    users.execute("bob", ChooseEmail("bob@x.org")).await.unwrap();
    let error = users.execute("bob", ChooseEmail("ADA@x.org")).await.unwrap_err();
    assert_eq!(error.to_string(), "user.email ada@x.org is taken by user/ada");
    assert_eq!(users.load("bob").await.unwrap().state.email.as_deref(), Some("bob@x.org"));

    users.execute("bob", ChooseEmail("bob@y.org")).await.unwrap();
    assert_eq!(holder(&store, "bob@x.org").await, None, "the former address is free");
    assert_eq!(holder(&store, "bob@y.org").await.as_deref(), Some("bob"));
}

/// Repeats a command whose value has another holder by now.
async fn a_repeated_key_returns_the_first_outcome() {
    let store = MemoryStore::new();
    let users = Repository::<User>::new(store.clone());
    let key = || Context::new().with_key(IdempotencyKey::new("register ada").unwrap());
    let first = users.execute_with("ada", ChooseEmail("ada@x.org"), key()).await.unwrap();
    users.execute("ada", ChooseEmail("ada@y.org")).await.unwrap();
    users.execute("bob", ChooseEmail("ada@x.org")).await.unwrap();
    let again = users.execute_with("ada", ChooseEmail("ada@x.org"), key()).await.unwrap();
    assert_eq!((again.outcome, again.version, again.token), (Outcome::Repeated, first.version, first.token));
    assert_eq!(holder(&store, "ada@x.org").await.as_deref(), Some("bob"));
}

async fn an_invalid_value_is_refused() {
    let store = MemoryStore::new();
    let users = Repository::<User>::new(store.clone());
    for (email, problem) in [
        ("", "invalid input: claimed value is empty"),
        ("a\0b", "invalid input: claimed value contains a NUL character"),
    ] {
        let error = users.execute("ada", ChooseEmail(email)).await.unwrap_err();
        assert!(matches!(&error, CommandError::Failed(error) if matches!(error.kind(), ErrorKind::Invalid(_))));
        assert_eq!(error.to_string(), problem);
    }
    assert_eq!(store.head().await.unwrap().get(), 0);
}
