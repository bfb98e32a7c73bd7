//! A user: registered once.

use retell::{Aggregate, Apply, Event, Handle};

#[derive(Debug, Clone, PartialEq, Event)]
pub enum UserEvent {
    #[event("user.registered")]
    Registered { user_id: String, email: String, name: String },
}

/// The e-mail address, once registered.
#[derive(Debug, Clone, Default, PartialEq, Aggregate)]
#[aggregate("user", event = UserEvent, snapshots = never)]
pub struct User {
    email: Option<String>,
}

impl Apply<UserEvent> for User {
    fn apply(&mut self, event: UserEvent) {
        let UserEvent::Registered { email, .. } = event;
        self.email = Some(email);
    }
}

#[derive(Debug, Clone)]
pub struct RegisterUser {
    pub user_id: String,
    pub email: String,
    pub name: String,
}

#[derive(Debug, PartialEq, thiserror::Error)]
pub enum UserRefused {
    #[error("`{0}` is not an e-mail address")]
    NoAddress(String),
    #[error("already registered with another address")]
    OtherAddress,
}

impl Handle<RegisterUser> for User {
    type Error = UserRefused;

    fn handle(&self, command: &RegisterUser) -> Result<Vec<UserEvent>, UserRefused> {
        let RegisterUser { user_id, email, name } = command;
        match &self.email {
            Some(known) if known == email => Ok(vec![]),
            Some(_) => Err(UserRefused::OtherAddress),
            None if !email.contains('@') => Err(UserRefused::NoAddress(email.clone())),
            None => {
                let (user_id, email, name) = (user_id.clone(), email.clone(), name.clone());
                Ok(vec![UserEvent::Registered { user_id, email, name }])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use retell::testing::given;

    use super::*;

    fn register(email: &str) -> RegisterUser {
        RegisterUser { user_id: "7".into(), email: email.into(), name: "Ada".into() }
    }

    fn registered(email: &str) -> UserEvent {
        UserEvent::Registered { user_id: "7".into(), email: email.into(), name: "Ada".into() }
    }

    #[test]
    fn new_user_is_registered() {
        given::<User>([]).when(register("a@shop.example")).then([registered("a@shop.example")]);
    }

    #[test]
    fn registering_again_does_nothing() {
        given::<User>([registered("a@shop.example")]).when(register("a@shop.example")).then([]);
    }

    #[test]
    fn another_address_is_rejected() {
        given::<User>([registered("a@shop.example")])
            .when(register("b@shop.example"))
            .then_rejected(UserRefused::OtherAddress);
    }

    #[test]
    fn address_without_an_at_sign_is_rejected() {
        given::<User>([]).when(register("ada")).then_rejected(UserRefused::NoAddress("ada".into()));
    }
}
