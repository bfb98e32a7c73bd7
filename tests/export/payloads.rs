//! JSON Schemas against the payloads of derived types.

use proptest::prelude::*;
use proptest::sample::{Index, select};
use retell::registry::{Lock, Registry};
use retell::shape::{Contract, Dialect, Type};
use retell::{Codec, Event, Shape, Uuid};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::domain::{Group, Line, OrderEvent, Payment, ScaleEvent, lock, registry};
use crate::rich::{Closed, Numbers, Rich, Tree, rich};
use crate::{DIALECTS, Schemas, assert_golden};

fn stored<T: Serialize>(value: &T) -> Value {
    let mut payload = Vec::new();
    Codec::Json.encode(value, &mut payload).unwrap();
    serde_json::from_slice(&payload).unwrap()
}

/// Asserts that both contracts refuse values that are none of the type, as serde does.
fn assert_refused<T: Shape + DeserializeOwned>(values: &[Value]) {
    let schemas = [Schemas::of::<T>(Contract::Written), Schemas::of::<T>(Contract::Read)];
    for value in values {
        assert!(serde_json::from_value::<T>(value.clone()).is_err(), "serde reads {value}");
        for each in &schemas {
            each.assert_invalid(value);
        }
    }
}

#[test]
fn numbers_out_of_range_are_refused() {
    let numbers = [json!(256), json!(-1), json!(0.5), json!("1"), json!(null)];
    assert_refused::<u8>(&numbers);
    assert_refused::<i8>(&[json!(128), json!(-129)]);
    assert_refused::<u16>(&[json!(65_536)]);
    assert_refused::<i16>(&[json!(-32_769)]);
    assert_refused::<u32>(&[json!(4_294_967_296_u64)]);
    assert_refused::<i32>(&[json!(2_147_483_648_u64)]);
    assert_refused::<u64>(&[json!(-1), json!(1e20)]);
    assert_refused::<i64>(&[json!(9_223_372_036_854_775_808_u64)]);
    assert_refused::<u128>(&[json!(-1)]);
    assert_refused::<f64>(&[json!(null), json!("NaN")]);
}

#[test]
fn other_values_than_those_of_the_type_are_refused() {
    assert_refused::<bool>(&[json!(0), json!("true")]);
    assert_refused::<char>(&[json!(""), json!("ab")]);
    assert_refused::<Uuid>(&[json!("7"), json!("67e55044-10b1-426f-9247-bb680e5fe0cX"), json!(7)]);
    assert_refused::<retell::DateTime<retell::Utc>>(&[json!("2026-01-31"), json!(5)]);
    assert_refused::<chrono::NaiveDate>(&[json!("2026-13-31"), json!("x")]);
    assert_refused::<chrono::Weekday>(&[json!("Funday")]);
    assert_refused::<std::net::Ipv4Addr>(&[json!("10.0.0.256"), json!("::1")]);
    assert_refused::<std::net::IpAddr>(&[json!("10.0.0.256")]);
    assert_refused::<std::net::SocketAddrV4>(&[json!("10.0.0.1")]);
    assert_refused::<rust_decimal::Decimal>(&[json!("1,5")]);
    assert_refused::<()>(&[json!(0), json!({})]);
    assert_refused::<[u8; 2]>(&[json!([1]), json!([1, 2, 3]), json!([1, "2"])]);
    assert_refused::<(u8, bool)>(&[json!([1]), json!([1, true, 3]), json!([true, 1])]);
    assert_refused::<std::collections::BTreeMap<u8, u8>>(&[json!({"x": 1}), json!({"1": "x"}), json!([])]);
    assert_refused::<std::collections::BTreeMap<bool, u8>>(&[json!({"yes": 1})]);
}

#[test]
fn broken_objects_are_refused() {
    assert_refused::<Line>(&[json!({"sku": "tea"}), json!({"sku": 7, "count": 1}), json!("tea"), json!(null)]);
    assert_refused::<Closed>(&[json!({"count": 1}), json!({"x y": 1, "other": 1}), json!({"x y": 1, "old": 1})]);
    assert_refused::<Payment>(&[
        json!({}),
        json!({"method": "stones"}),
        json!({"method": "card"}),
        json!({"method": "card", "digits": [1, 2, 3]}),
        json!("cash"),
    ]);
    assert_refused::<Tree>(&[
        json!({"value": 1, "children": [{"value": 2}]}),
        json!({"value": 1, "children": [{"value": 2, "children": [7]}]}),
    ]);
    assert_refused::<Result<u8, String>>(&[json!("Ok"), json!({"Ok": 1, "Err": "x"}), json!({"Maybe": 1}), json!({})]);
}

#[test]
fn a_writer_is_closed_and_a_reader_is_open() {
    let (written, read) = (Schemas::of::<Line>(Contract::Written), Schemas::of::<Line>(Contract::Read));
    for (value, is_written) in [
        (json!({"sku": "tea", "count": 1}), true),
        (json!({"sku": "tea", "count": 1, "color": "green"}), false),
        (json!({"sku": "tea", "quantity": 1}), false),
    ] {
        assert!(serde_json::from_value::<Line>(value.clone()).is_ok());
        assert_eq!((written.accept(&value), read.accept(&value)), (is_written, true), "{value}");
    }
    read.assert_invalid(&json!({"sku": "tea", "count": 1, "quantity": 1}));
}

#[test]
fn each_unknown_tag_is_read_as_the_other_variant() {
    #[derive(serde::Serialize, serde::Deserialize, Shape)]
    #[serde(tag = "kind")]
    enum Open {
        Known {
            a: u8,
        },
        #[serde(other)]
        Unknown,
    }

    let (written, read) = (Schemas::of::<Open>(Contract::Written), Schemas::of::<Open>(Contract::Read));
    let foreign = json!({"kind": "New", "b": 1});
    assert!(matches!(serde_json::from_value(foreign.clone()).unwrap(), Open::Unknown));
    assert_eq!((written.accept(&foreign), read.accept(&foreign)), (false, true));
    written.assert_valid(&stored(&Open::Unknown));
    written.assert_valid(&stored(&Open::Known { a: 1 }));
    read.assert_invalid(&json!({"a": 1}));
}

#[test]
fn an_empty_type_has_no_values() {
    #[derive(serde::Serialize, serde::Deserialize, Shape)]
    enum Never {}

    assert_refused::<Never>(&[json!(null), json!({}), json!("x")]);
    let schemas = Schemas::of::<Option<Never>>(Contract::Written);
    schemas.assert_valid(&json!(null));
    schemas.assert_invalid(&json!("x"));
}

#[test]
fn texts_of_shapes_have_schemas_that_are_whole() {
    for text in
        ["opaque", "any", "(,)", "outer 0", "recursive outer 0", "<>", "{}", "{..u8}", "star-date", "{x: u8, x: u8}"]
    {
        let shape: Type = text.parse().unwrap();
        for contract in [Contract::Written, Contract::Read] {
            Schemas::from_documents(DIALECTS.map(|dialect| shape.json_schema(dialect, contract)));
        }
    }
    let anything = Schemas::of::<serde_json::Value>(Contract::Written);
    anything.assert_valid(&json!([{"x": null}]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn each_written_value_is_valid(value in rich()) {
        let json = stored(&value);
        prop_assert!(serde_json::from_value::<Rich>(json.clone()).is_ok());
        RICH.with(|[written, read]| {
            written.assert_valid(&json);
            read.assert_valid(&json);
        });
    }

    /// A schema says neither more nor less than serde, on values of which one part was replaced.
    #[test]
    fn schemas_agree_with_serde_on_damaged_values(value in rich(), place: Index, part in parts()) {
        let mut json = stored(&value);
        let count = count(&json);
        damage(&mut json, &mut place.index(count), part.as_ref());
        let is_read = serde_json::from_value::<Rich>(json.clone()).is_ok();
        RICH.with(|[written, read]| {
            prop_assert_eq!(read.accept(&json), is_read, "{:#}", json);
            prop_assert!(is_read || !written.accept(&json), "{:#}", json);
            Ok(())
        })?;
    }
}

thread_local! {
    static RICH: [Schemas; 2] = [Schemas::of::<Rich>(Contract::Written), Schemas::of::<Rich>(Contract::Read)];
}

/// Returns a value that replaces a part. `None` removes the part from an object or a list.
fn parts() -> impl Strategy<Value = Option<Value>> {
    let all = [
        json!(null),
        json!(0.5),
        json!(-1),
        json!(300),
        json!(70_000),
        json!(true),
        json!("x"),
        json!({}),
        json!({"x": 1}),
    ];
    prop_oneof![1 => Just(None), 3 => select(all.to_vec()).prop_map(Some)]
}

/// Returns the number of parts inside.
fn count(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(|item| 1 + count(item)).sum(),
        Value::Object(fields) => fields.values().map(|field| 1 + count(field)).sum(),
        _ => 0,
    }
}

/// Replaces the part with the number `left`, counted from 0.
fn damage(value: &mut Value, left: &mut usize, part: Option<&Value>) -> bool {
    let keys: Vec<String> = match value {
        Value::Array(items) => (0..items.len()).map(|place| place.to_string()).collect(),
        Value::Object(fields) => fields.keys().cloned().collect(),
        _ => Vec::new(),
    };
    for key in keys {
        if *left == 0 {
            replace(value, &key, part);
            return true;
        }
        *left -= 1;
        let inside = if value.is_array() { &mut value[key.parse::<usize>().unwrap()] } else { &mut value[&key] };
        if damage(inside, left, part) {
            return true;
        }
    }
    false
}

fn replace(value: &mut Value, key: &str, part: Option<&Value>) {
    match (value, part) {
        (Value::Array(items), Some(part)) => items[key.parse::<usize>().unwrap()] = part.clone(),
        (Value::Array(items), None) => drop(items.remove(key.parse().unwrap())),
        (Value::Object(fields), Some(part)) => drop(fields.insert(key.to_owned(), part.clone())),
        (Value::Object(fields), None) => drop(fields.remove(key)),
        _ => {}
    }
}

#[test]
fn damage_reaches_each_part() {
    let whole = json!({"a": [1, {"b": 2}], "c": 3});
    assert_eq!(count(&whole), 5);
    let damaged = |mut place: usize, part: Option<Value>| {
        let mut value = whole.clone();
        assert!(damage(&mut value, &mut place, part.as_ref()));
        value
    };
    assert_eq!(damaged(0, Some(json!(0))), json!({"a": 0, "c": 3}));
    assert_eq!(damaged(1, None), json!({"a": [{"b": 2}], "c": 3}));
    assert_eq!(damaged(3, Some(json!(0))), json!({"a": [1, {"b": 0}], "c": 3}));
    assert_eq!(damaged(4, None), json!({"a": [1, {"b": 2}]}));
}

/// Returns the schemas of one event in a document of events.
fn event(document: impl Fn(Dialect) -> Value, name: &str) -> Schemas {
    Schemas::from_documents(DIALECTS.map(|dialect| {
        let mut document = document(dialect);
        let keyword = dialect.definitions();
        assert_eq!(document[keyword][name]["title"], name);
        document["allOf"] = json!([{ "$ref": format!("#/{keyword}/{name}") }]);
        document
    }))
}

fn payload<E: Event>(event: &E) -> Value {
    let mut payload = Vec::new();
    event.encode(&mut payload).unwrap();
    let schema = event.schema();
    schema.shape().unwrap().decode(schema.codec, &payload).unwrap()
}

#[test]
fn a_registry_defines_the_payload_of_each_event() {
    let registry = registry();
    let group = |inside| Group { name: "g".into(), inside };
    let placed = OrderEvent::Placed {
        customer: Uuid::from_u128(7),
        lines: vec![Line { sku: "tea".into(), count: 2 }],
        at: Some(retell::Utc::now()),
        note: None,
    };
    for (name, sent) in [
        ("order.placed.v2", placed),
        ("order.paid.v1", OrderEvent::Paid(Payment::Cash)),
        ("order.paid.v1", OrderEvent::Paid(Payment::Card { digits: [1, 2, 3, 4] })),
        ("order.grouped.v1", OrderEvent::Grouped(group(vec![group(vec![])]))),
        ("order.closed.v1", OrderEvent::Closed),
    ] {
        for contract in [Contract::Written, Contract::Read] {
            let schemas = event(|dialect| registry.json_schema(dialect, contract), name);
            schemas.assert_valid(&payload(&sent));
            schemas.assert_invalid(&json!(7));
        }
    }
}

#[test]
fn a_compact_event_is_described_as_the_json_that_is_shown() {
    let name = "scale.weighed.v1.compact";
    let schemas = event(|dialect| registry().json_schema(dialect, Contract::Written), name);
    for grams in [1.5, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        schemas.assert_valid(&payload(&ScaleEvent::Weighed { grams, of: ("tea".into(), 1) }));
    }
    schemas.assert_invalid(&json!({"grams": "heavy", "of": ["tea", 1]}));
    let document = registry().json_schema(Dialect::Draft202012, Contract::Written);
    let comment = document["$defs"][name]["$comment"].as_str().unwrap();
    assert!(comment.contains("codec `compact`"), "{comment}");
}

#[test]
fn a_lock_defines_all_versions_and_a_registry_the_newest() {
    let names = |document: Value| {
        document["$defs"]
            .as_object()
            .unwrap()
            .keys()
            .filter(|name| name.starts_with("order.placed"))
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(names(registry().json_schema(Dialect::Draft202012, Contract::Read)), ["order.placed.v2"]);
    let all = |dialect| lock().json_schema(dialect, Contract::Read);
    assert_eq!(names(all(Dialect::Draft202012)), ["order.placed.v1", "order.placed.v2"]);
    let first = event(all, "order.placed.v1");
    first.assert_valid(&json!("67e55044-10b1-426f-9247-bb680e5fe0c8"));
    first.assert_invalid(&json!({}));
}

#[test]
fn an_event_without_a_shape_may_be_anything() {
    let lock: Lock = "[by.hand 1 json]\n= opaque\n\n[odd/näme~ 1 json]\n= recursive [outer 0]\n".parse().unwrap();
    let document = |dialect| lock.json_schema(dialect, Contract::Written);
    event(document, "by.hand.v1").assert_valid(&json!([1, {}]));
    let odd = Schemas::from_documents(DIALECTS.map(|dialect| {
        let mut document = document(dialect);
        document["allOf"] = json!([{ "$ref": format!("#/{}/odd~1n%C3%A4me~0.v1", dialect.definitions()) }]);
        document
    }));
    odd.assert_valid(&json!([[], [[]]]));
    odd.assert_invalid(&json!([[], [7]]));
    assert_eq!(
        Registry::new().json_schema(Dialect::Draft07, Contract::Read),
        json!({"$schema": Dialect::Draft07.uri()})
    );
}

#[test]
fn exported_schemas_change_only_in_a_review() {
    for (dialect, name) in [(Dialect::Draft202012, "events-2020-12.json"), (Dialect::Draft07, "events-draft-07.json")] {
        assert_golden(name, &lock().json_schema(dialect, Contract::Written));
    }
    assert_golden("events-read.json", &lock().json_schema(Dialect::Draft202012, Contract::Read));
}

/// The limits of a schema are those of the type.
#[test]
fn limits_of_numbers_are_exact() {
    let schema = Type::of::<Numbers>().json_schema(Dialect::Draft202012, Contract::Written);
    let long = &schema["properties"]["long"];
    assert_eq!((long["minimum"].as_u64(), long["maximum"].as_u64()), (Some(0), Some(u64::MAX)));
    let below = &schema["properties"]["below"];
    assert_eq!((below["minimum"].as_i64(), below["maximum"].as_i64()), (Some(i64::MIN), Some(i64::MAX)));
}
