//! Broken rules, and what to do.

use std::fmt;

use crate::shape::compare::Finding;

/// A broken rule of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// The stored name of the event.
    pub event: String,
    /// Its schema version.
    pub version: u32,
    /// The broken rule.
    pub broken: Broken,
}

/// A rule that a change of an event breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Broken {
    /// A rule of compatibility.
    Rule(Finding),
    /// The argument of an upcaster cannot read the events of its version (`E-UPCASTER-INPUT`), or it is not known whether it can (`W-OPAQUE`).
    UpcasterInput(Finding),
    /// The lock has the event, and no type of the program does (`E-EVENT-REMOVED`).
    EventRemoved,
    /// The lock has the event under a former name alone, so older processes do not know the new one (`W-EVENT-RENAMED`).
    Renamed {
        /// The former name.
        from: &'static str,
    },
    /// The lock has a newer version than the program (`E-VERSION-REMOVED`).
    VersionRemoved {
        /// The newest version of the program.
        newest: u32,
    },
    /// The lock has other events, and not this one (`W-EVENT-ADDED`).
    EventAdded,
    /// The lock has only older versions of the event (`W-VERSION-ADDED`).
    VersionAdded {
        /// The newest version in the lock.
        before: u32,
    },
}

impl Broken {
    /// Returns the stable name of the rule.
    pub fn id(&self) -> &'static str {
        match self {
            Self::UpcasterInput(finding) if !finding.rule.is_doubt() => "E-UPCASTER-INPUT",
            Self::Rule(finding) | Self::UpcasterInput(finding) => finding.rule.id(),
            Self::EventRemoved => "E-EVENT-REMOVED",
            Self::Renamed { .. } => "W-EVENT-RENAMED",
            Self::VersionRemoved { .. } => "E-VERSION-REMOVED",
            Self::EventAdded => "W-EVENT-ADDED",
            Self::VersionAdded { .. } => "W-VERSION-ADDED",
        }
    }

    /// Returns the place in the payload. Empty for the event itself.
    pub fn path(&self) -> &str {
        match self {
            Self::Rule(finding) | Self::UpcasterInput(finding) => &finding.path,
            Self::EventRemoved
            | Self::Renamed { .. }
            | Self::VersionRemoved { .. }
            | Self::EventAdded
            | Self::VersionAdded { .. } => "",
        }
    }

    /// Returns whether it only says that something cannot be judged.
    pub fn is_doubt(&self) -> bool {
        matches!(self, Self::Rule(finding) | Self::UpcasterInput(finding) if finding.rule.is_doubt())
    }

    /// Returns what to do.
    pub fn cure(&self) -> &'static str {
        match self {
            Self::UpcasterInput(finding) if finding.rule.is_doubt() => {
                "write `#[derive(Value)]` above the argument of the upcaster, or `#[derive(Shape)]` if it has serde's derives"
            }
            Self::Rule(finding) => finding.rule.cure(),
            Self::UpcasterInput(_) => {
                "let the upcaster take what the lock has for this version, since stored events never change"
            }
            Self::EventRemoved => {
                "keep the variant for as long as the log holds such events, or write its name in `renamed_from` or `retired`"
            }
            Self::Renamed { .. } => {
                "deploy every worker before the first process that writes the new name: an older worker passes over it"
            }
            Self::VersionRemoved { .. } => "keep the newer version: the log may hold events of it",
            Self::EventAdded | Self::VersionAdded { .. } => {
                "deploy every process that reads it before those that write it"
            }
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UpcasterInput(finding) if !finding.rule.is_doubt() => {
                let place = if finding.path.is_empty() { String::new() } else { format!(" at {}", finding.path) };
                write!(f, "{}{place}: the argument of the upcaster breaks {}", self.id(), finding.rule.id())?;
                if finding.detail.is_empty() { Ok(()) } else { write!(f, ": {}", finding.detail) }
            }
            Self::Rule(finding) | Self::UpcasterInput(finding) => finding.fmt(f),
            Self::EventRemoved => write!(f, "{}: no type of the program has this event", self.id()),
            Self::Renamed { from } => write!(f, "{}: older processes know it as {from}", self.id()),
            Self::VersionRemoved { newest } => write!(f, "{}: the program's newest version is {newest}", self.id()),
            Self::EventAdded => write!(f, "{}: the event is new", self.id()),
            Self::VersionAdded { before } => write!(f, "{}: the newest version was {before}", self.id()),
        }
    }
}

/// `order.placed 1: E-FIELD-REQUIRED-ADDED at cents`, and what to do on a second line.
impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}\n    {}", self.event, self.version, self.broken, self.broken.cure())
    }
}
