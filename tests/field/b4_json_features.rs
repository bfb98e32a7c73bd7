//! B4. Stored events decode with every feature of serde_json.
