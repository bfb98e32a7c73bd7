//! JSON Schemas of texts, numbers and the keys of maps.

use serde_json::{Value, json};

use crate::codec::Codec;
use crate::shape::json_schema::node::{Node, text_of};
use crate::shape::types::{Number, Tagging, Type};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// The texts that [`Type::decode`] returns for the numbers of a compact payload that JSON cannot express.
const NOT_FINITE: [&str; 3] = ["NaN", "inf", "-inf"];

const UUID: &str = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$";
const LOCAL_TIME: &str = r"^\d{2}:\d{2}:\d{2}(\.\d+)?$";
const LOCAL_DATE_TIME: &str = r"^[+-]?\d{4,6}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?$";
const DECIMAL: &str = r"^-?\d+(\.\d+)?$";
const UNSIGNED: &str = "^(0|[1-9][0-9]*)$";
const SIGNED: &str = "^(0|-?[1-9][0-9]*)$";

/// Returns the schema of a text in a known format. A format that JSON Schema has no name for becomes a pattern.
pub(crate) fn format(name: &str) -> Value {
    match name {
        "date" | "date-time" | "ipv4" | "ipv6" => json!({ "type": "string", "format": name }),
        // Draft 7 does not know the format.
        "uuid" => json!({ "type": "string", "format": name, "pattern": UUID }),
        "ip" => json!({ "type": "string", "anyOf": [{ "format": "ipv4" }, { "format": "ipv6" }] }),
        "socket-address" => pattern(r"^.+:\d{1,5}$"),
        "socket-address-v4" => pattern(r"^\d{1,3}(\.\d{1,3}){3}:\d{1,5}$"),
        "socket-address-v6" => pattern(r"^\[[^\]]+\]:\d{1,5}$"),
        "local-time" => pattern(LOCAL_TIME),
        "local-date-time" => pattern(LOCAL_DATE_TIME),
        "decimal" => pattern(DECIMAL),
        "month" => json!({ "enum": MONTHS }),
        "weekday" => json!({ "enum": WEEKDAYS }),
        _ => json!({ "type": "string" }),
    }
}

fn pattern(pattern: &str) -> Value {
    json!({ "type": "string", "pattern": pattern })
}

/// Returns the schema of a number.
pub(super) fn number(number: Number, codec: Codec) -> Node {
    let range = |least: i64, most: u64| json!({ "type": "integer", "minimum": least, "maximum": most });
    Node::Other(match number {
        Number::U8 => range(0, u8::MAX.into()),
        Number::U16 => range(0, u16::MAX.into()),
        Number::U32 => range(0, u32::MAX.into()),
        Number::U64 => range(0, u64::MAX),
        // A JSON value holds no larger integer without rounding it, so the limits of 128 bits cannot be stated.
        Number::U128 => json!({ "type": "integer", "minimum": 0 }),
        Number::I128 => json!({ "type": "integer" }),
        Number::I8 => range(i8::MIN.into(), i8::MAX.unsigned_abs().into()),
        Number::I16 => range(i16::MIN.into(), i16::MAX.unsigned_abs().into()),
        Number::I32 => range(i32::MIN.into(), i32::MAX.unsigned_abs().into()),
        Number::I64 => range(i64::MIN, i64::MAX.unsigned_abs()),
        // The JSON codec refuses NaN and infinity.
        Number::F32 | Number::F64 if codec == Codec::Compact => {
            return Node::Any(vec![
                Node::Other(json!({ "enum": NOT_FINITE })),
                Node::Other(json!({ "type": "number" })),
            ]);
        }
        Number::F32 | Number::F64 | Number::Json => json!({ "type": "number" }),
    })
}

/// Returns the schema of a map's keys, which JSON writes as text. `None` if any text may be a key.
pub(super) fn key(shape: &Type) -> Option<Value> {
    match shape {
        Type::Char => Some(json!({ "minLength": 1, "maxLength": 1 })),
        Type::Format(name) => Some(format(name)),
        Type::Bool => Some(json!({ "enum": ["true", "false"] })),
        Type::Number(Number::U8 | Number::U16 | Number::U32 | Number::U64 | Number::U128) => Some(pattern(UNSIGNED)),
        Type::Number(Number::I8 | Number::I16 | Number::I32 | Number::I64 | Number::I128) => Some(pattern(SIGNED)),
        Type::Checked(inner) | Type::Option(inner) => key(inner),
        Type::Enum(of) if of.tagging == Tagging::External && of.variants.iter().all(|each| each.value.is_none()) => {
            let names = of.variants.iter().flat_map(|each| [&each.name].into_iter().chain(&each.aliases));
            let is_other = of.variants.iter().any(|each| each.is_other);
            (!is_other).then(|| text_of(&names.cloned().collect::<Vec<_>>()))
        }
        _ => None,
    }
}
