//! Broken rules, and what to do.

use std::fmt;

use crate::codec::Codec;
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
    /// The lock has a public event of this version in another codec (`E-CODEC-CHANGED`).
    CodecChanged {
        /// The codec in the lock.
        before: Codec,
    },
    /// The lock has the event as public, and the program does not, or has retired it (`E-PUBLIC-REMOVED`).
    PublicRemoved,
    /// A change that certain readers cannot follow, although they must. Its name is that of the change, with `E` at the beginning.
    Forward {
        /// The change.
        change: Box<Self>,
        /// The readers.
        readers: Readers,
    },
}

/// The readers that must be able to read what the program writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Readers {
    /// Programs of other teams, which read [public](crate::event::EventSchema::is_public) events.
    OtherTeams,
    /// Processes of the older release, in [`Registry::check_forward`](crate::registry::Registry::check_forward).
    OlderRelease,
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
            Self::CodecChanged { .. } => "E-CODEC-CHANGED",
            Self::PublicRemoved => "E-PUBLIC-REMOVED",
            Self::Forward { change, .. } => match &**change {
                Self::Renamed { .. } => "E-EVENT-RENAMED",
                Self::EventAdded => "E-EVENT-ADDED",
                Self::VersionAdded { .. } => "E-VERSION-ADDED",
                other => other.id(),
            },
        }
    }

    /// Returns the readers that could not read new events, if this is no matter of stored ones.
    pub fn readers(&self) -> Option<Readers> {
        match self {
            Self::CodecChanged { .. } | Self::PublicRemoved => Some(Readers::OtherTeams),
            Self::Forward { readers, .. } => Some(*readers),
            _ => None,
        }
    }

    /// Returns whether it says of certain readers what the finding says of all.
    pub(super) fn is_forward(&self, finding: &Finding) -> bool {
        let Self::Forward { change, .. } = self else { return false };
        matches!(&**change, Self::Rule(found) if (found.rule, &found.path) == (finding.rule, &finding.path))
    }

    /// Returns the place in the payload. Empty for the event itself.
    pub fn path(&self) -> &str {
        match self {
            Self::Rule(finding) | Self::UpcasterInput(finding) => &finding.path,
            Self::Forward { change, .. } => change.path(),
            Self::EventRemoved
            | Self::Renamed { .. }
            | Self::VersionRemoved { .. }
            | Self::EventAdded
            | Self::VersionAdded { .. }
            | Self::CodecChanged { .. }
            | Self::PublicRemoved => "",
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
            Self::PublicRemoved => {
                "keep `public`, and the event, for as long as another team reads it. If no team does, allow the change in the lock"
            }
            Self::CodecChanged { .. } | Self::Forward { readers: Readers::OtherTeams, .. } => {
                "other teams read this event: keep its form, or write another event next to it. If each of their programs reads the new form \
                 before this release is deployed, allow the change in the lock"
            }
            Self::Forward { change, readers: Readers::OlderRelease } => match &**change {
                Self::EventAdded => {
                    "deploy a release that reads the event and does not write it yet, and write it in the next one. Compare the first one by \
                     `check`, which adds the event to the lock"
                }
                Self::VersionAdded { .. } => {
                    "an older process cannot read a newer version: add fields with a default instead. If the release is never rolled back, \
                     compare it by `check`"
                }
                Self::Renamed { .. } => {
                    "deploy a release first that reads the new name by `renamed_from` and writes the old one. If it is deployed, allow the \
                     change in the lock"
                }
                other => other.cure(),
            },
        }
    }
}

impl Broken {
    /// Writes what follows the name and the place.
    fn fmt_detail(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UpcasterInput(finding) if !finding.rule.is_doubt() => {
                write!(f, ": the argument of the upcaster breaks {}", finding.rule.id())?;
                Self::Rule(finding.clone()).fmt_detail(f)
            }
            Self::Rule(finding) | Self::UpcasterInput(finding) if finding.detail.is_empty() => Ok(()),
            Self::Rule(finding) | Self::UpcasterInput(finding) => write!(f, ": {}", finding.detail),
            Self::EventRemoved => f.write_str(": no type of the program has this event"),
            Self::Renamed { from } => write!(f, ": older processes know it as {from}"),
            Self::VersionRemoved { newest } => write!(f, ": the program's newest version is {newest}"),
            Self::EventAdded => f.write_str(": the event is new"),
            Self::VersionAdded { before } => write!(f, ": the newest version was {before}"),
            Self::CodecChanged { before } => write!(f, ": the codec was {}", before.name()),
            Self::PublicRemoved => f.write_str(": the event was public"),
            Self::Forward { change, .. } => change.fmt_detail(f),
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())?;
        if !self.path().is_empty() {
            write!(f, " at {}", self.path())?;
        }
        self.fmt_detail(f)
    }
}

impl Violation {
    /// Returns the header of the block in which the change can be allowed. `None` if the lock has no block of the event.
    #[cfg(feature = "testing")]
    pub(crate) fn block(&self) -> Option<String> {
        let Self { event, version, broken } = self;
        match broken {
            Broken::Forward { change, .. } => match &**change {
                Broken::EventAdded => None,
                Broken::Renamed { from } => Some(format!("[{from} ..]")),
                Broken::VersionAdded { before } => Some(format!("[{event} {before} ..]")),
                _ => Some(format!("[{event} {version} ..]")),
            },
            _ => Some(format!("[{event} {version} ..]")),
        }
    }
}

/// `order.placed 1: E-FIELD-REQUIRED-ADDED at cents`, and what to do on a second line.
impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}\n    {}", self.event, self.version, self.broken, self.broken.cure())
    }
}
