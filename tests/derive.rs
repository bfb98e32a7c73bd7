//! The code that the derive macros generate, from a user's view: stored names, exact bytes, old versions and snapshots.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::needless_pass_by_value, reason = "an upcaster takes the older event")]

use std::collections::BTreeMap;
use std::error::Error as _;

use retell::event::{DecodeError, EventSchema, EventTypes, StoredEvent};
use retell::{Aggregate, Apply, Codec, Event, EventUnion, Shape, SnapshotPolicy};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Event)]
enum OrderEvent {
    #[event("order.created", version = 3, upcast(created_v1, Self::created_v2))]
    Created {
        order_id: u64,
        #[serde(rename = "t", default)]
        total: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        r#type: Option<String>,
    },
    #[event("order.noted")]
    Noted(String, u8),
    #[event("order.paid")]
    Paid(PaidBody),
    #[event("order.weighed")]
    Weighed(
        #[serde(with = "as_text")]
        #[event(opaque)]
        u64,
    ),
    #[event("order.closed")]
    Closed,
    #[event("order.reopened")]
    Reopened(),
    #[event("order.packed", codec = "compact")]
    Packed { boxes: Vec<u16>, fragile: bool },
    #[event("order.sealed", codec = "compact")]
    Sealed,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Shape)]
struct PaidBody {
    cents: u32,
}

/// Stores a number as text.
mod as_text {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    pub(crate) fn serialize<S: Serializer>(number: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(number)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[derive(Deserialize)]
struct CreatedV1 {
    id: u64,
}

#[derive(Deserialize)]
struct CreatedV2 {
    id: u64,
    total: u64,
}

fn created_v1(old: CreatedV1) -> CreatedV2 {
    CreatedV2 { id: old.id, total: 1 }
}

impl OrderEvent {
    fn created_v2(old: CreatedV2) -> Self {
        Self::Created { order_id: old.id, total: old.total, r#type: None }
    }
}

// The generated code must neither use the user's own serde form nor clash with it.
#[derive(Debug, Clone, PartialEq, Event, Shape, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all_fields = "camelCase", deny_unknown_fields)]
enum UserEvent {
    #[event("user.renamed")]
    #[serde(rename = "moved")]
    Renamed { new_name: String },
    #[event("user.left")]
    #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
    Left { last_words: String },
    #[event("user.merged")]
    Merged { before: Vec<Self> },
}

#[derive(Debug, Clone, PartialEq, Default, Event)]
#[event("user.registered", version = 2, upcast(registered_v1))]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct UserRegistered {
    user_id: u64,
    #[serde(skip)]
    cached_length: usize,
}

fn registered_v1(user_id: u64) -> UserRegistered {
    UserRegistered { user_id, cached_length: 0 }
}

#[derive(Debug, Clone, PartialEq, Event)]
#[event("clock.ticked", codec = "compact")]
struct Ticked(u8, String);

#[derive(Debug, Clone, PartialEq, Event)]
#[event("clock.stopped")]
struct Stopped;

#[derive(Debug, Clone, PartialEq, Event)]
#[event("clock.set")]
struct Set(
    #[serde(with = "as_text")]
    #[event(opaque)]
    u64,
);

#[derive(Debug, Clone, PartialEq, Event)]
enum Partial {
    #[event("partial.one")]
    One {
        #[serde(skip)]
        one: u8,
    },
    #[event("partial.two")]
    Two(u8, #[serde(skip)] u8),
    #[event("partial.rest")]
    Rest {
        id: u8,
        #[serde(flatten)]
        rest: BTreeMap<String, String>,
    },
}

#[derive(Debug, Clone, PartialEq, Event)]
#[event(codec = "compact")]
enum CompactByDefault {
    #[event("compact.a")]
    A(u8),
    #[event("compact.b", codec = "json")]
    B(u8),
}

#[derive(Event)]
enum NoEvent {}

#[derive(Debug, Clone, PartialEq, EventUnion)]
enum ShopEvent {
    Order(OrderEvent),
    User(UserEvent),
    Registered(UserRegistered),
}

fn created(total: u64) -> OrderEvent {
    OrderEvent::Created { order_id: 7, total, r#type: None }
}

fn json<E: Event>(event: &E) -> String {
    assert_eq!(event.schema().codec, Codec::Json);
    let mut payload = Vec::new();
    event.encode(&mut payload).unwrap();
    String::from_utf8(payload).unwrap()
}

fn stored<'a>(event_type: &'a str, schema_version: u32, payload: &'a str) -> StoredEvent<'a> {
    StoredEvent::new(event_type, schema_version, Codec::Json, payload.as_bytes())
}

fn round_trip<E: Event>(event: &E) -> E {
    let mut payload = Vec::new();
    event.encode(&mut payload).unwrap();
    let EventSchema { name, version, codec, .. } = event.schema();
    E::decode(StoredEvent::new(name, version, codec, &payload)).unwrap()
}

fn every_order_event() -> Vec<OrderEvent> {
    vec![
        created(9),
        OrderEvent::Created { order_id: 1, total: 2, r#type: Some("x".to_owned()) },
        OrderEvent::Noted("hi".to_owned(), 3),
        OrderEvent::Paid(PaidBody { cents: 4 }),
        OrderEvent::Weighed(5),
        OrderEvent::Closed,
        OrderEvent::Reopened(),
        OrderEvent::Packed { boxes: vec![1, 2], fragile: true },
        OrderEvent::Sealed,
    ]
}

#[test]
fn names_versions_and_codecs_are_as_declared() {
    let EventTypes::Only(schemas) = OrderEvent::TYPES else { panic!("expected a list of event types") };
    assert_eq!(schemas.len(), 8);
    let expected = EventSchema::new("order.created", 3, Codec::Json);
    assert_eq!((schemas[0], created(1).schema()), (expected, expected));
    let expected = EventSchema::new("order.packed", 1, Codec::Compact);
    assert_eq!(schemas[6], expected);
    assert_eq!(Stopped.schema().name, "clock.stopped");
    assert_eq!(UserRegistered::default().schema().version, 2);
    assert_eq!(NoEvent::TYPES, EventTypes::Only(&[]));
}

#[test]
fn the_enums_codec_is_the_default_of_its_variants() {
    assert_eq!(CompactByDefault::A(1).schema().codec, Codec::Compact);
    assert_eq!(CompactByDefault::B(1).schema().codec, Codec::Json);
}

#[test]
fn each_shape_has_stable_json_bytes() {
    assert_eq!(json(&created(9)), r#"{"order_id":7,"t":9}"#);
    let typed = OrderEvent::Created { order_id: 7, total: 9, r#type: Some("x".to_owned()) };
    assert_eq!(json(&typed), r#"{"order_id":7,"t":9,"type":"x"}"#);
    assert_eq!(json(&OrderEvent::Noted("hi".to_owned(), 3)), r#"["hi",3]"#);
    assert_eq!(json(&OrderEvent::Paid(PaidBody { cents: 4 })), r#"{"cents":4}"#);
    assert_eq!(json(&OrderEvent::Weighed(5)), r#""5""#);
    assert_eq!(json(&OrderEvent::Closed), "{}");
    assert_eq!(json(&OrderEvent::Reopened()), "{}");
    assert_eq!(json(&UserRegistered { user_id: 1, cached_length: 2 }), r#"{"userId":1}"#);
    assert_eq!(json(&Stopped), "{}");
    assert_eq!(json(&Set(5)), r#""5""#);
    let rest = Partial::Rest { id: 1, rest: [("a".to_owned(), "b".to_owned())].into() };
    assert_eq!(json(&rest), r#"{"id":1,"a":"b"}"#);
}

#[test]
fn compact_payloads_hold_only_the_fields() {
    let mut payload = Vec::new();
    OrderEvent::Packed { boxes: vec![1, 2], fragile: true }.encode(&mut payload).unwrap();
    assert_eq!(payload, [2, 1, 2, 1]);
    payload.clear();
    OrderEvent::Sealed.encode(&mut payload).unwrap();
    assert!(payload.is_empty());
    Ticked(9, "x".to_owned()).encode(&mut payload).unwrap();
    assert_eq!(payload, [9, 1, b'x']);
}

#[test]
fn encode_appends_to_the_buffer() {
    let mut payload = b"before ".to_vec();
    OrderEvent::Closed.encode(&mut payload).unwrap();
    assert_eq!(payload, b"before {}");
}

#[test]
fn every_shape_round_trips() {
    for event in every_order_event() {
        assert_eq!(round_trip(&event), event);
    }
    let ticked = Ticked(9, "x".to_owned());
    assert_eq!(round_trip(&ticked), ticked);
    assert_eq!(round_trip(&Stopped), Stopped);
    assert_eq!(round_trip(&Set(5)), Set(5));
    let rest = Partial::Rest { id: 1, rest: [("a".to_owned(), "b".to_owned())].into() };
    assert_eq!(round_trip(&rest), rest);
    assert_eq!(round_trip(&CompactByDefault::A(1)), CompactByDefault::A(1));
    assert_eq!(round_trip(&CompactByDefault::B(1)), CompactByDefault::B(1));
}

#[test]
fn a_skipped_field_decodes_as_its_default() {
    assert_eq!(round_trip(&Partial::One { one: 1 }), Partial::One { one: 0 });
    assert_eq!(round_trip(&Partial::Two(1, 2)), Partial::Two(1, 0));
}

#[test]
fn the_stored_codec_overrides_the_declared_one() {
    let packed = r#"{"boxes":[1],"fragile":false}"#;
    let event = OrderEvent::decode(stored("order.packed", 1, packed)).unwrap();
    assert_eq!(event, OrderEvent::Packed { boxes: vec![1], fragile: false });
}

#[test]
fn a_missing_field_takes_its_default() {
    let event = OrderEvent::decode(stored("order.created", 3, r#"{"order_id":7}"#)).unwrap();
    assert_eq!(event, created(0));
    let event = UserRegistered::decode(stored("user.registered", 2, "{}")).unwrap();
    assert_eq!(event, UserRegistered::default());
}

#[test]
fn an_event_without_fields_ignores_later_fields() {
    for name in ["order.closed", "order.reopened"] {
        assert!(OrderEvent::decode(stored(name, 1, "{}")).is_ok());
        assert!(OrderEvent::decode(stored(name, 1, r#"{"reason":"later"}"#)).is_ok());
    }
    assert_eq!(Stopped::decode(stored("clock.stopped", 1, "{}")).unwrap(), Stopped);
}

#[test]
fn fields_are_renamed_by_the_variant_or_else_by_the_enum() {
    let renamed = UserEvent::Renamed { new_name: "a".to_owned() };
    assert_eq!(json(&renamed), r#"{"newName":"a"}"#);
    assert_eq!(round_trip(&renamed), renamed);
    let left = UserEvent::Left { last_words: "b".to_owned() };
    assert_eq!(json(&left), r#"{"LAST_WORDS":"b"}"#);
    assert_eq!(round_trip(&left), left);
}

#[test]
fn an_event_may_hold_its_own_type() {
    let before = vec![UserEvent::Renamed { new_name: "a".to_owned() }];
    let merged = UserEvent::Merged { before };
    assert_eq!(json(&merged), r#"{"before":[{"kind":"moved","newName":"a"}]}"#);
    assert_eq!(round_trip(&merged), merged);
}

#[test]
fn the_users_own_serde_form_is_unchanged() {
    let renamed = UserEvent::Renamed { new_name: "a".to_owned() };
    let own = serde_json::to_string(&renamed).unwrap();
    assert_eq!(own, r#"{"kind":"moved","newName":"a"}"#);
}

#[test]
fn unknown_fields_are_refused_only_on_request() {
    let extra = r#"{"newName":"a","x":1}"#;
    let refused = UserEvent::decode(stored("user.renamed", 1, extra));
    assert!(matches!(refused, Err(DecodeError::Payload(_))));
    let refused = UserRegistered::decode(stored("user.registered", 2, r#"{"x":1}"#));
    assert!(matches!(refused, Err(DecodeError::Payload(_))));
    let extra = r#"{"order_id":7,"t":9,"x":1}"#;
    assert_eq!(OrderEvent::decode(stored("order.created", 3, extra)).unwrap(), created(9));
}

#[test]
fn every_older_version_is_upcast() {
    let event = OrderEvent::decode(stored("order.created", 1, r#"{"id":7}"#)).unwrap();
    assert_eq!(event, created(1));
    let event = OrderEvent::decode(stored("order.created", 2, r#"{"id":7,"total":5}"#)).unwrap();
    assert_eq!(event, created(5));
    let event = UserRegistered::decode(stored("user.registered", 1, "8")).unwrap();
    assert_eq!(event, UserRegistered { user_id: 8, cached_length: 0 });
}

#[test]
fn unknown_versions_are_refused() {
    for version in [0, 4] {
        let refused = OrderEvent::decode(stored("order.created", version, "{}"));
        assert!(matches!(refused, Err(DecodeError::UnknownSchema { found, known: 3 }) if found == version));
    }
    let refused = Stopped::decode(stored("clock.stopped", 2, "{}"));
    assert!(matches!(refused, Err(DecodeError::UnknownSchema { found: 2, known: 1 })));
}

#[test]
fn unknown_names_are_refused() {
    let names = ["order.creates", "Order.created", "order.created ", ""];
    for name in names {
        let refused = OrderEvent::decode(stored(name, 1, "{}"));
        assert!(matches!(refused, Err(DecodeError::UnknownType)));
    }
    assert!(matches!(NoEvent::decode(stored("a", 1, "{}")), Err(DecodeError::UnknownType)));
    assert!(matches!(Stopped::decode(stored("a", 1, "{}")), Err(DecodeError::UnknownType)));
}

#[test]
fn a_payload_error_names_the_expected_event() {
    let Err(DecodeError::Payload(error)) = OrderEvent::decode(stored("order.created", 3, r#""text""#)) else {
        panic!("a string was decoded as an object");
    };
    let message = error.to_string();
    assert!(message.contains("expected the payload of `order.created`"), "{message}");
    let error = OrderEvent::decode(stored("order.closed", 1, "null")).unwrap_err();
    assert!(error.source().is_some());
    let error = OrderEvent::decode(stored("order.created", 1, "{}")).unwrap_err();
    assert!(error.source().unwrap().to_string().contains("missing field `id`"));
}

#[test]
fn a_union_lists_the_event_types_of_its_members_in_order() {
    let EventTypes::Only(schemas) = ShopEvent::TYPES else { panic!("expected a list of event types") };
    let names: Vec<_> = schemas.iter().map(|schema| schema.name).collect();
    assert_eq!(names.len(), 12);
    assert_eq!((names[0], names[8], names[11]), ("order.created", "user.renamed", "user.registered"));
}

#[test]
fn a_union_routes_each_event_to_its_member() {
    let left = UserEvent::Left { last_words: "b".to_owned() };
    for event in [ShopEvent::from(created(9)), ShopEvent::from(left), ShopEvent::from(UserRegistered::default())] {
        assert_eq!(round_trip(&event), event);
    }
    assert_eq!(ShopEvent::from(OrderEvent::Closed).schema(), OrderEvent::Closed.schema());
    assert_eq!(json(&ShopEvent::from(created(9))), json(&created(9)));
    let event = ShopEvent::decode(stored("order.created", 1, r#"{"id":7}"#)).unwrap();
    assert_eq!(event, ShopEvent::Order(created(1)));
    assert!(matches!(ShopEvent::decode(stored("x", 1, "{}")), Err(DecodeError::UnknownType)));
}

#[derive(Debug, Clone, PartialEq, Event)]
enum AccountEvent {
    #[event("account.opened")]
    Opened,
    #[event("account.deposited")]
    Deposited { cents: u64 },
}

/// Two forms of a part of a state. The types of one name differ inside.
mod parts {
    pub(crate) mod small {
        use super::super::{Deserialize, Serialize};

        #[derive(Debug, Clone, PartialEq, retell::Value)]
        pub(crate) struct Limit {
            pub(crate) cents: u32,
        }

        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub(crate) struct Unshaped {
            pub(crate) cents: u32,
        }
    }

    pub(crate) mod large {
        use super::super::{Deserialize, Serialize};

        #[derive(Debug, Clone, PartialEq, retell::Value)]
        pub(crate) struct Limit {
            pub(crate) cents: u64,
        }

        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub(crate) struct Unshaped {
            pub(crate) cents: u64,
        }
    }
}

/// Declares an aggregate in its own module, so that tests can compare declarations.
macro_rules! account {
    ($module:ident, $options:tt, $($state:tt)*) => {
        mod $module {
            #[allow(unused_imports, reason = "not every state has a map")]
            use std::collections::BTreeMap;

            #[allow(unused_imports, reason = "not every state has these parts")]
            use super::parts::{large, small};
            use super::AccountEvent;

            account!(@state $options $($state)*);

            impl retell::Apply<AccountEvent> for Account {
                fn apply(&mut self, _: AccountEvent) {}
            }
        }
    };
    (@state { $($options:tt)* } $($state:tt)*) => {
        #[derive(Debug, Clone, PartialEq, Default, retell::Aggregate)]
        #[aggregate($($options)*)]
        $($state)*
    };
}

account!(plain, { "account", event = AccountEvent },
    pub(crate) struct Account { pub(crate) open: bool, pub(crate) owners: BTreeMap<u8, String> });
account!(formatted, { "account", event = AccountEvent, snapshots = 7, snapshot_version = 1 },
/// The same declaration in another format.
pub(crate) struct Account {
    open: bool,
    owners: BTreeMap<
        u8,
        String,
    >,
});
account!(other_name, { "accounts", event = AccountEvent },
    pub(crate) struct Account { open: bool, owners: BTreeMap<u8, String> });
account!(other_field, { "account", event = AccountEvent },
    pub(crate) struct Account { opened: bool, owners: BTreeMap<u8, String> });
account!(other_type, { "account", event = AccountEvent },
    pub(crate) struct Account { open: bool, owners: BTreeMap<u16, String> });
account!(other_version, { "account", event = AccountEvent, snapshot_version = 2 },
    pub(crate) struct Account { open: bool, owners: BTreeMap<u8, String> });
account!(other_container, { "account", event = AccountEvent },
    #[serde(rename_all = "camelCase")]
    pub(crate) struct Account { open: bool, owners: BTreeMap<u8, String> });
account!(other_attribute, { "account", event = AccountEvent },
    pub(crate) struct Account { #[serde(default)] open: bool, owners: BTreeMap<u8, String> });

// Both have a field of the type `Limits`, which is another type in each.
account!(small_limits, { "account", event = AccountEvent },
    pub(crate) struct Account { limits: Vec<Limits> } type Limits = small::Limit;);
account!(large_limits, { "account", event = AccountEvent },
    pub(crate) struct Account { limits: Vec<Limits> } type Limits = large::Limit;);
account!(small_unshaped, { "account", event = AccountEvent },
    pub(crate) struct Account { limits: Vec<Limits> } type Limits = small::Unshaped;);
account!(large_unshaped, { "account", event = AccountEvent },
    pub(crate) struct Account { limits: Vec<Limits> } type Limits = large::Unshaped;);

#[test]
fn the_fingerprint_sees_a_change_inside_a_part_with_a_shape() {
    assert_ne!(small_limits::Account::fingerprint(), large_limits::Account::fingerprint());
}

/// `snapshot_version` is for these.
#[test]
fn the_fingerprint_sees_no_change_inside_a_part_without_a_shape() {
    assert_eq!(small_unshaped::Account::fingerprint(), large_unshaped::Account::fingerprint());
}

#[test]
fn the_fingerprint_is_the_same_for_the_same_shape() {
    assert_eq!(plain::Account::fingerprint(), formatted::Account::fingerprint());
}

#[test]
fn the_fingerprint_differs_for_another_shape() {
    for (difference, other) in [
        ("name", other_name::Account::fingerprint()),
        ("field", other_field::Account::fingerprint()),
        ("type", other_type::Account::fingerprint()),
        ("version", other_version::Account::fingerprint()),
        ("container attribute", other_container::Account::fingerprint()),
        ("field attribute", other_attribute::Account::fingerprint()),
    ] {
        assert_ne!(plain::Account::fingerprint(), other, "{difference}");
    }
}

/// A golden value: a different number would invalidate every user's snapshots once.
#[test]
fn the_fingerprint_of_a_shape_is_stable() {
    assert_eq!(plain::Account::fingerprint(), 3_350_632_945_077_031_139);
}

// Has its own serde form, which the generated code must neither use nor clash with.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Aggregate)]
#[aggregate("account", event = AccountEvent, snapshots = 250)]
#[serde(rename_all = "camelCase", default)]
struct Account {
    is_open: bool,
    #[serde(with = "as_text")]
    cents: u64,
    #[serde(skip)]
    cache: Vec<u8>,
    children: Vec<Self>,
}

impl Apply<AccountEvent> for Account {
    fn apply(&mut self, event: AccountEvent) {
        match event {
            AccountEvent::Opened => self.is_open = true,
            AccountEvent::Deposited { cents } => self.cents += cents,
        }
    }
}

impl<'de> Deserialize<'de> for Account {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        AccountParts::deserialize(from).map(|cents| Self { cents: cents.0, ..Self::default() })
    }
}

#[derive(Deserialize)]
struct AccountParts(u64);

#[test]
fn a_derived_aggregate_has_the_declared_options() {
    assert_eq!(Account::TYPE, "account");
    assert!(matches!(Account::SNAPSHOTS, SnapshotPolicy::Every(250)));
    assert!(matches!(plain::Account::SNAPSHOTS, SnapshotPolicy::Every(100)));
    assert!(matches!(Unsnapshotted::SNAPSHOTS, SnapshotPolicy::Never));
}

#[test]
fn a_derived_aggregate_uses_the_users_apply() {
    let mut account = Account::default();
    Aggregate::apply(&mut account, AccountEvent::Opened);
    Aggregate::apply(&mut account, AccountEvent::Deposited { cents: 5 });
    assert_eq!((account.is_open, account.cents), (true, 5));
}

#[test]
fn a_snapshot_round_trips_except_for_skipped_fields() {
    let account = Account { is_open: true, cents: 5, cache: vec![1], children: vec![] };
    let bytes = account.to_snapshot().unwrap();
    assert_eq!(str::from_utf8(&bytes).unwrap(), r#"{"isOpen":true,"cents":"5","children":[]}"#);
    let back = Account::from_snapshot(&bytes).unwrap();
    assert_eq!(back, Account { cache: vec![], ..account });
}

#[test]
fn a_snapshot_of_another_shape_is_an_error() {
    assert!(plain::Account::from_snapshot(b"{}").is_err());
    assert!(plain::Account::from_snapshot(b"").is_err());
    assert_eq!(Account::from_snapshot(b"{}").unwrap(), Account::default());
}

#[derive(Debug, Clone, PartialEq, Default, Aggregate)]
#[aggregate("door", event = AccountEvent, snapshots = is_due)]
#[serde(rename_all_fields = "camelCase")]
enum Door {
    #[default]
    Shut,
    #[serde(rename = "o")]
    Open {
        opened_by: String,
    },
    Broken(u8, u8),
    Sold(String),
}

fn is_due(snapshot: u64, version: u64) -> bool {
    version >= snapshot + 3
}

impl Apply<AccountEvent> for Door {
    fn apply(&mut self, _: AccountEvent) {}
}

#[test]
fn every_variant_of_an_enum_survives_a_snapshot() {
    let open = Door::Open { opened_by: "me".to_owned() };
    assert_eq!(open.to_snapshot().unwrap(), br#"{"o":{"openedBy":"me"}}"#);
    for door in [Door::Shut, open, Door::Broken(1, 2), Door::Sold("you".to_owned())] {
        assert_eq!(Door::from_snapshot(&door.to_snapshot().unwrap()).unwrap(), door);
    }
}

#[test]
fn a_function_can_decide_when_a_snapshot_is_due() {
    assert!(!Door::SNAPSHOTS.is_due(4, 6));
    assert!(Door::SNAPSHOTS.is_due(4, 7));
}

#[derive(Debug, Clone, PartialEq, Default, Aggregate)]
#[aggregate("pair", event = AccountEvent)]
struct Pair(u8, String);

impl Apply<AccountEvent> for Pair {
    fn apply(&mut self, _: AccountEvent) {}
}

#[derive(Debug, Clone, PartialEq, Default, Aggregate)]
#[aggregate("nothing", event = AccountEvent)]
struct Nothing;

impl Apply<AccountEvent> for Nothing {
    fn apply(&mut self, _: AccountEvent) {}
}

#[test]
fn tuple_and_unit_structs_survive_a_snapshot() {
    let pair = Pair(1, "x".to_owned());
    assert_eq!(Pair::from_snapshot(&pair.to_snapshot().unwrap()).unwrap(), pair);
    assert_eq!(Nothing::from_snapshot(&Nothing.to_snapshot().unwrap()).unwrap(), Nothing);
}

#[derive(Debug, Clone, Default)]
struct NotSerializable;

#[derive(Debug, Clone, Default, Aggregate)]
#[aggregate("unsnapshotted", event = ShopEvent, snapshots = never)]
struct Unsnapshotted {
    state: NotSerializable,
}

impl Apply<ShopEvent> for Unsnapshotted {
    fn apply(&mut self, _: ShopEvent) {
        self.state = NotSerializable;
    }
}

#[test]
fn an_aggregate_without_snapshots_refuses_save_and_load() {
    let expected = "aggregate `unsnapshotted` keeps no snapshots";
    assert_eq!(Unsnapshotted::default().to_snapshot().unwrap_err().to_string(), expected);
    assert_eq!(Unsnapshotted::from_snapshot(b"{}").unwrap_err().to_string(), expected);
}
