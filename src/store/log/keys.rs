//! The rows of idempotency keys, for verification and pruning.

use crate::id::Position;

/// The keys of processes begin with this text.
const PROCESS: &str = "process:";

/// The row of an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyRow {
    /// The key.
    pub key: String,
    /// The position of the last event of its append; `None` if the log does not place its commit, or not yet.
    pub position: Option<Position>,
    /// Whether the log has the events of its append.
    pub is_whole: bool,
}

impl KeyRow {
    /// Creates a row from its parts.
    pub fn new(key: impl Into<String>, position: Option<Position>, is_whole: bool) -> Self {
        Self { key: key.into(), position, is_whole }
    }

    /// Returns whether this is a key of a process. A process that reads an event again takes no second step only because of its keys, so they
    /// are never pruned.
    pub fn is_of_process(&self) -> bool {
        self.key.starts_with(PROCESS)
    }
}

/// Returns the text after which the keys continue that are not of processes. Keys are in the order of their bytes.
pub(crate) fn after_processes(last: &str) -> String {
    if last.starts_with(PROCESS) { format!("{PROCESS}{}", char::MAX) } else { last.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_leaves_the_keys_of_processes() {
        assert_eq!(after_processes("order"), "order");
        let after = after_processes("process:shipping:17");
        assert!(after.as_str() > "process:zzz" && after.as_str() < "process;" && after.as_str() < "processes");
        assert!(KeyRow::new("process:shipping:17", None, true).is_of_process());
        assert!(!KeyRow::new("processes", None, true).is_of_process());
    }
}
