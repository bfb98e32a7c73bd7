//! One user per e-mail address: the event that says who has one also reserves it, and a second user who wants it is told who has it.

use std::convert::Infallible;

use retell::prelude::*;

#[derive(Event, Debug)]
enum UserEvent {
    #[event("user.email_chosen")]
    EmailChosen { former: Option<String>, email: String },
}

#[derive(Aggregate, Clone, Default)]
#[aggregate("user", event = UserEvent, claims = claims_of)]
struct User {
    email: Option<String>,
}

/// Values are compared byte by byte: what is one address to us is made the same bytes here.
fn claims_of(event: &UserEvent) -> Result<Vec<Claim>, InvalidName> {
    let UserEvent::EmailChosen { former, email } = event;
    let release = former.iter().map(|former| Claim::release("user.email", former.to_lowercase()));
    release.chain([Claim::reserve("user.email", email.to_lowercase())]).collect()
}

impl Apply<UserEvent> for User {
    fn apply(&mut self, event: UserEvent) {
        let UserEvent::EmailChosen { email, .. } = event;
        self.email = Some(email);
    }
}

struct ChooseEmail(&'static str);

impl Handle<ChooseEmail> for User {
    type Error = Infallible;

    fn handle(&self, command: &ChooseEmail) -> Result<Vec<UserEvent>, Infallible> {
        Ok(vec![UserEvent::EmailChosen { former: self.email.clone(), email: command.0.to_owned() }])
    }
}

#[tokio::main]
async fn main() -> Result<(), CommandError<Infallible>> {
    let users = Repository::<User>::new(SqliteStore::in_memory().await?);
    for (id, email) in [("ada", "Ada@x.org"), ("bob", "ada@X.org"), ("ada", "ada@y.org"), ("bob", "ada@x.org")] {
        match users.execute(id, ChooseEmail(email)).await {
            Ok(_) => println!("{id} has {email}"),
            Err(CommandError::Taken { value, by, .. }) => println!("{id} cannot have {value}: {by} has it"),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
