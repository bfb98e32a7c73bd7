//! Exported JSON Schemas and AsyncAPI documents, held to real payloads and to the schemas of both standards.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod asyncapi;
mod domain;
mod payloads;
mod rich;
mod sent;
#[path = "../support/workers.rs"]
mod workers;

use std::path::Path;
use std::{env, fs};

use jsonschema::Validator;
use retell::Shape;
use retell::shape::{Contract, Dialect, Type};
use serde_json::Value;

const DIALECTS: [Dialect; 2] = [Dialect::Draft202012, Dialect::Draft07];

/// Compiles a schema, after a comparison with the meta-schema that it names.
fn compiled(schema: &Value) -> Validator {
    if let Err(error) = jsonschema::meta::validate(schema) {
        panic!("{error} in {schema:#}");
    }
    jsonschema::options().should_validate_formats(true).build(schema).unwrap()
}

/// The schema of a type in both dialects.
struct Schemas(Vec<(Value, Validator)>);

impl Schemas {
    fn of<T: Shape>(contract: Contract) -> Self {
        let shape = Type::of::<T>();
        Self::from_documents(DIALECTS.map(|dialect| shape.json_schema(dialect, contract)))
    }

    fn from_documents(documents: [Value; 2]) -> Self {
        Self(documents.into_iter().map(|schema| (schema.clone(), compiled(&schema))).collect())
    }

    fn assert_valid(&self, value: &Value) {
        for (schema, validator) in &self.0 {
            if let Err(error) = validator.validate(value) {
                panic!("{error} at {} of {value:#} in {schema:#}", error.instance_path());
            }
        }
    }

    fn assert_invalid(&self, value: &Value) {
        for (schema, validator) in &self.0 {
            assert!(!validator.is_valid(value), "{value} is valid in {schema:#}");
        }
    }

    /// Returns whether a value is valid. The dialects agree.
    fn accept(&self, value: &Value) -> bool {
        let accepted: Vec<_> = self.0.iter().map(|(_, validator)| validator.is_valid(value)).collect();
        assert!(accepted.iter().all(|each| *each == accepted[0]), "the dialects differ on {value}");
        accepted[0]
    }
}

/// Compares a document with a golden file. `RETELL_MAKE_FIXTURES=1` writes it.
#[track_caller]
fn assert_golden(name: &str, document: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/export").join(name);
    let text = format!("{document:#}\n");
    if env::var_os("RETELL_MAKE_FIXTURES").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_default().replace("\r\n", "\n");
    assert!(golden == text, "{name} is not up to date: RETELL_MAKE_FIXTURES=1 writes it. It should be:\n{text}");
}
