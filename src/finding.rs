//! Findings about the servers, files and brokers that a program uses.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// How bad a [`Finding`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Severity {
    /// A promise does not hold.
    Broken,
    /// A promise may not hold after a crash or a mistake.
    Risk,
    /// A check could not run.
    Unknown,
    /// Everything holds, but slower than it could.
    Slow,
    /// Good to know.
    Info,
}

/// A thing to know about a server, a file or a broker, and what to do about it.
///
/// # Examples
/// ```
/// use retell::operate::{Finding, Severity};
///
/// let finding = Finding::new("disk-full", Severity::Risk, "1 MiB is free")
///     .breaks("appends fail when the disk is full")
///     .remedy("free disk space");
/// assert_eq!(serde_json::to_value(&finding)?["severity"], "risk");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Finding {
    /// A stable name such as `fsync-off`.
    pub id: String,
    /// How bad it is.
    pub severity: Severity,
    /// The observation.
    pub seen: String,
    /// The promise that it breaks, or its cost.
    pub breaks: String,
    /// The remedy: SQL or a setting where that helps.
    pub remedy: String,
}

impl Finding {
    /// Creates a finding.
    pub fn new(id: impl Into<String>, severity: Severity, seen: impl Into<String>) -> Self {
        Self { id: id.into(), severity, seen: seen.into(), breaks: String::new(), remedy: String::new() }
    }

    /// Sets what the finding breaks.
    #[must_use]
    pub fn breaks(mut self, breaks: impl Into<String>) -> Self {
        self.breaks = breaks.into();
        self
    }

    /// Sets what to do.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    /// Creates the finding of a check that could not run. `check` is the name of the check.
    pub fn unknown(check: &str, reason: impl std::fmt::Display) -> Self {
        Self::new("unknown", Severity::Unknown, format!("the check {check} could not run: {reason}"))
            .breaks("whether a promise holds is not known")
            .remedy("give the user the rights that the reason names, and run the check again")
    }
}

/// A store or a broker that can look at what it depends on.
///
/// A store of your own needs only `impl Examine for MyStore {}` to be listed as not examined.
#[async_trait]
pub trait Examine: Send + Sync {
    /// Returns the name of this part in a report.
    fn part(&self) -> String {
        std::any::type_name::<Self>().to_owned()
    }

    /// Looks at everything that would break a promise. A check that cannot run is a [finding](Finding::unknown). Transactions that are open for
    /// longer than `patience` are findings. Returns `None` if this part does not examine itself.
    async fn examine(&self, patience: Duration) -> Option<Vec<Finding>> {
        let _ = patience;
        None
    }
}
