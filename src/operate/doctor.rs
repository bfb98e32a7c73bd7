//! Examines servers, files and brokers for settings and states that would break a promise.

use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use serde::{Deserialize, Serialize};

use crate::finding::{Examine, Finding, Severity};

/// The longest examination of a part.
const TIME_LIMIT: Duration = Duration::from_mins(2);

/// The answer of [`doctor`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Diagnosis {
    /// When the examination began, by the clock of this process.
    pub at: DateTime<Utc>,
    /// The parts, in the order in which they were given.
    pub parts: Vec<Examined>,
}

impl Diagnosis {
    /// Returns all findings.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.parts.iter().flat_map(|part| &part.findings)
    }

    /// Returns whether there is a finding that breaks a promise, may break one, or hides whether it does.
    pub fn needs_attention(&self) -> bool {
        self.findings().any(|finding| finding.severity <= Severity::Unknown)
    }
}

/// A part that was examined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Examined {
    /// Its name.
    pub part: String,
    /// The findings, the worst first. A part that does not examine itself has one with the id `not-examined`.
    pub findings: Vec<Finding>,
}

/// Examines stores and brokers for everything that would break a promise: settings, rights, triggers, numbers, clocks and blocking transactions.
///
/// It goes further than the self-test of a store that opens, and explains. Each part takes at most two minutes. A transaction that is open for longer than
/// `patience` is a finding; 10 seconds are usual.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// use retell::operate;
/// use retell::prelude::*;
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let log = SqliteStore::in_memory().await?;
/// let diagnosis = operate::doctor(&[&log], Duration::from_secs(10)).await;
/// for finding in diagnosis.findings() {
///     println!("{}: {}", finding.id, finding.remedy);
/// }
/// assert!(!diagnosis.needs_attention());
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
pub async fn doctor(parts: &[&dyn Examine], patience: Duration) -> Diagnosis {
    let at = Utc::now().trunc_subsecs(6);
    let mut examined = Vec::new();
    for part in parts {
        let mut findings = match tokio::time::timeout(TIME_LIMIT, part.examine(patience)).await {
            Ok(Some(findings)) => findings,
            Ok(None) => vec![
                Finding::new("not-examined", Severity::Info, "this part does not examine itself")
                    .breaks("whether its promises hold is not known")
                    .remedy("implement `Examine::examine` for it"),
            ],
            Err(_) => vec![Finding::unknown("everything", format_args!("no answer within {TIME_LIMIT:?}"))],
        };
        findings.sort_by_key(|finding| finding.severity);
        examined.push(Examined { part: part.part(), findings });
    }
    Diagnosis { at, parts: examined }
}
