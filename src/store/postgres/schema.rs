//! The schema of a log, and the statements for it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use sqlx::AssertSqlSafe;

use crate::error::{ErrorKind, Result};

/// The schema that holds the tables: a plain lower-case identifier, so that it can stand in a statement unquoted.
///
/// Each statement is a constant with `{schema}` where the name belongs. The text with the name is made at its first use and kept, so that a
/// call pays for a lookup and not for a new text. Clones share what was made.
#[derive(Clone)]
pub(crate) struct Schema(Arc<Named>);

struct Named {
    name: String,
    /// By the address of the constant: the text of a `&'static str` never changes.
    statements: RwLock<HashMap<(usize, usize), Arc<str>>>,
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Schema").field(&self.0.name).finish()
    }
}

impl Schema {
    /// Checks the name.
    pub(crate) fn parse(name: &str) -> Result<Self> {
        let mut bytes = name.bytes();
        let starts = bytes.next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
        if starts && name.len() <= 63 && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
            return Ok(Self(Arc::new(Named { name: name.to_owned(), statements: RwLock::default() })));
        }
        let problem =
            format!("schema {name:?}: use a lower-case letter and then letters, digits and `_`, 63 bytes at most");
        Err(ErrorKind::Invalid(problem).into())
    }

    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    /// Returns a statement with the schema's name in it. The name was checked by [`parse`](Self::parse), so no user input gets into the text of
    /// a statement.
    pub(crate) fn sql(&self, statement: &'static str) -> AssertSqlSafe<Arc<str>> {
        let key = (statement.as_ptr().addr(), statement.len());
        let made = self.0.statements.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        AssertSqlSafe(made.unwrap_or_else(|| {
            let made: Arc<str> = self.script(statement).0.into();
            self.0.statements.write().unwrap_or_else(PoisonError::into_inner).insert(key, made.clone());
            made
        }))
    }

    /// Returns the text with the schema's name in it, for a script that runs once.
    pub(crate) fn script(&self, text: &str) -> AssertSqlSafe<String> {
        AssertSqlSafe(text.replace("{schema}", &self.0.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_made_once_for_each_schema() {
        const READ: &str = "SELECT 1 FROM {schema}.events";
        let (one, other) = (Schema::parse("one").unwrap(), Schema::parse("other").unwrap());
        assert_eq!(&*one.sql(READ).0, "SELECT 1 FROM one.events");
        assert_eq!(&*other.sql(READ).0, "SELECT 1 FROM other.events");
        assert!(Arc::ptr_eq(&one.sql(READ).0, &one.clone().sql(READ).0));
    }
}
