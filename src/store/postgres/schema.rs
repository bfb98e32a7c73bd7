//! The schema of a log, and the statements for it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use sqlx::AssertSqlSafe;

use crate::error::{ErrorKind, Result};

/// The schema that holds the tables. Its name is a plain lower-case identifier, so statements can use it unquoted.
///
/// Each statement is a constant with `{schema}` as the placeholder of the name. The first use builds and caches the text with the name, so later
/// calls pay only for a lookup. Clones share the cache.
#[derive(Clone)]
pub(crate) struct Schema(Arc<Named>);

struct Named {
    name: String,
    /// The built statements by the address and length of their constant: the text of a `&'static str` never changes.
    statements: RwLock<HashMap<(usize, usize), Arc<str>>>,
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Schema").field(&self.0.name).finish()
    }
}

impl Schema {
    /// Creates a schema after checking that its name is a plain identifier.
    pub(crate) fn parse(name: &str) -> Result<Self> {
        let mut bytes = name.bytes();
        let starts = bytes.next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
        if starts && name.len() <= 63 && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
            return Ok(Self(Arc::new(Named { name: name.to_owned(), statements: RwLock::default() })));
        }
        let problem = format!(
            "schema name {name:?}: start with a lower-case letter or `_`, then use those and digits, at most 63 bytes"
        );
        Err(ErrorKind::Invalid(problem).into())
    }

    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    /// Returns a statement with the schema's name in it. [`parse`](Self::parse) has checked the name, so it cannot inject SQL.
    pub(crate) fn sql(&self, statement: &'static str) -> AssertSqlSafe<Arc<str>> {
        let key = (statement.as_ptr().addr(), statement.len());
        let built = self.0.statements.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        AssertSqlSafe(built.unwrap_or_else(|| {
            let built: Arc<str> = self.script(statement).0.into();
            self.0.statements.write().unwrap_or_else(PoisonError::into_inner).insert(key, built.clone());
            built
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
    fn statement_is_built_once_per_schema() {
        const READ: &str = "SELECT 1 FROM {schema}.events";
        let (one, other) = (Schema::parse("one").unwrap(), Schema::parse("other").unwrap());
        assert_eq!(&*one.sql(READ).0, "SELECT 1 FROM one.events");
        assert_eq!(&*other.sql(READ).0, "SELECT 1 FROM other.events");
        assert!(Arc::ptr_eq(&one.sql(READ).0, &one.clone().sql(READ).0));
    }
}
