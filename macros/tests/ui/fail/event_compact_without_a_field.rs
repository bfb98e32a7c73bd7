use std::collections::BTreeMap;

use retell::Event;

#[derive(Event)]
#[event(codec = "compact")]
enum OrderEvent {
    #[event("order.created")]
    Created {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        total: Option<u64>,
        #[serde(skip)]
        cache: u64,
    },
    #[event("order.noted", codec = "json")]
    Noted {
        #[serde(flatten)]
        notes: BTreeMap<String, String>,
    },
}

#[derive(Event)]
#[event("user.registered", codec = "compact")]
struct UserRegistered {
    #[serde(skip_serializing)]
    id: u64,
    #[serde(flatten)]
    notes: BTreeMap<String, String>,
}

fn main() {}
