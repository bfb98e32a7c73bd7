//! An exported schema has the same text in a program with these features.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use retell::prelude::*;
use retell::registry::Registry;
use retell::shape::{Contract, Dialect};

#[derive(Event)]
#[event("order.placed")]
struct Placed {
    sku: String,
    count: u64,
    below: i64,
}

const EXPORTED: &str = concat!(
    r#"{"$defs":{"order.placed.v1":{"additionalProperties":false,"properties":{"#,
    r#""below":{"maximum":9223372036854775807,"minimum":-9223372036854775808,"type":"integer"},"#,
    r#""count":{"maximum":18446744073709551615,"minimum":0,"type":"integer"},"sku":{"type":"string"}},"#,
    r#""required":["sku","count","below"],"title":"order.placed.v1","type":"object"}},"#,
    r#""$schema":"https://json-schema.org/draft/2020-12/schema"}"#
);

#[test]
fn a_schema_has_the_same_text_with_these_features() {
    let document = Registry::new().with::<Placed>().unwrap().json_schema(Dialect::Draft202012, Contract::Written);
    assert_eq!(document.to_string(), EXPORTED);
}
