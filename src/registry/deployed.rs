//! A comparison of the lock with the shapes that deployed programs have registered.

use std::fmt;

use crate::event::PROCESS_STEPPED;
use crate::registry::lock::{Block, Lock};
use crate::shape::compare::{Changes, Finding};
use crate::shape::types::Type;
use crate::store::log::shapes::RegisteredShape;

/// A registered shape that the lock does not account for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// The shape, and the program that registered it.
    pub registered: RegisteredShape,
    /// The difference.
    pub differs: Differs,
}

/// The way in which a registered shape differs from the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Differs {
    /// The lock has no block for the event, version and codec: a release is deployed whose lock is not this one (`E-NOT-LOCKED`).
    NotLocked,
    /// Events of the registered shape cannot be read with the shape in the lock. The rule says why.
    Unreadable(Finding),
    /// The shape was registered after the one in the lock, which reads it: a newer release is deployed, or was (`W-SHAPE-NEWER`).
    Newer,
}

impl Differs {
    /// Returns the stable name of the rule. An error begins with `E`, a doubt with `W`.
    pub const fn id(&self) -> &'static str {
        match self {
            Self::NotLocked => "E-NOT-LOCKED",
            Self::Unreadable(finding) => finding.rule.id(),
            Self::Newer => "W-SHAPE-NEWER",
        }
    }

    /// Returns whether the difference may be none: an older release can be right after a newer one was rolled back.
    pub const fn is_doubt(&self) -> bool {
        matches!(self, Self::Newer)
    }

    /// Returns what to do.
    pub const fn cure(&self) -> &'static str {
        match self {
            Self::NotLocked => "check in the lock of the release that registered it, or add its block:",
            Self::Unreadable(finding) => finding.rule.cure(),
            Self::Newer => "check in the lock of the newer release, unless that release was rolled back",
        }
    }
}

impl Lock {
    /// Compares the lock with the shapes that programs have registered with a log.
    ///
    /// The lock holds the newest shape of a version. An older shape under the same version is no difference if the one in the lock reads its
    /// events, or if the lock allows the change. A block that no program has registered is none: its release is not deployed yet. The steps of
    /// processes are in no lock.
    ///
    /// # Examples
    /// ```
    /// use retell::prelude::*;
    /// use retell::registry::{Lock, Registry};
    ///
    /// #[derive(Event)]
    /// #[event("order.placed", version = 2, upcast(from_v1))]
    /// struct Placed {
    ///     customer: String,
    /// }
    ///
    /// fn from_v1(customer: String) -> Placed {
    ///     Placed { customer }
    /// }
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let store = MemoryStore::new();
    /// Registry::new().with::<Placed>()?.register(&store).await?;
    ///
    /// let lock: Lock = "[order.placed 1 json]\n= text\n".parse()?;
    /// let differences = lock.compare(&store.registered_shapes().await?);
    /// assert_eq!(differences[0].differs.id(), "E-NOT-LOCKED");
    /// # Ok::<(), BoxError>(())
    /// # }).unwrap();
    /// ```
    pub fn compare(&self, registered: &[RegisteredShape]) -> Vec<Difference> {
        let mut differences = Vec::new();
        for shape in registered.iter().filter(|shape| shape.event_type.as_str() != PROCESS_STEPPED) {
            let key = (shape.event_type.as_str().to_owned(), shape.version, shape.codec);
            let found = match self.blocks.get(&key) {
                None => vec![Differs::NotLocked],
                Some(block) => block.differs(shape, registered),
            };
            differences.extend(found.into_iter().map(|differs| Difference { registered: shape.clone(), differs }));
        }
        differences
    }
}

impl Lock {
    /// Creates a lock of the shapes that programs have registered with a log: the newest one of each version, with the others as former ones.
    /// A shape whose text this release does not know is opaque.
    ///
    /// # Examples
    /// ```
    /// use retell::prelude::*;
    /// use retell::registry::{Lock, Registry};
    ///
    /// #[derive(Event)]
    /// #[event("order.placed")]
    /// struct Placed {
    ///     customer: String,
    /// }
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let (store, registry) = (MemoryStore::new(), Registry::new().with::<Placed>()?);
    /// registry.register(&store).await?;
    /// assert_eq!(Lock::registered(&store.registered_shapes().await?), registry.lock());
    /// # Ok::<(), BoxError>(())
    /// # }).unwrap();
    /// ```
    pub fn registered(registered: &[RegisteredShape]) -> Self {
        let mut shapes: Vec<_> =
            registered.iter().filter(|shape| shape.event_type.as_str() != PROCESS_STEPPED).collect();
        shapes.sort_by_key(|shape| shape.first_seen);
        let mut lock = Self::default();
        for shape in shapes {
            let key = (shape.event_type.as_str().to_owned(), shape.version, shape.codec);
            let parsed = shape.shape.parse().unwrap_or(Type::Opaque);
            lock.blocks.entry(key).or_insert_with(|| Block::new(parsed.clone())).change(&parsed, true);
        }
        lock
    }
}

impl Block {
    /// Compares the block with a shape of its event, version and codec.
    fn differs(&self, shape: &RegisteredShape, registered: &[RegisteredShape]) -> Vec<Differs> {
        let locked = self.shape.to_string();
        if shape.shape == locked {
            return Vec::new();
        }
        // The text of a newer release may be unknown to this one. Nothing can be said about it.
        let written = shape.shape.parse().unwrap_or(Type::Opaque);
        let broken = Changes::between(&written, &self.shape, shape.codec).backward.into_iter();
        let is_allowed = |finding: &Finding| {
            self.exceptions.iter().any(|each| each.rule == finding.rule.id() && each.path == finding.path)
        };
        let broken = broken.filter(|finding| !finding.rule.is_doubt() && !is_allowed(finding));
        let broken: Vec<_> = broken.map(Differs::Unreadable).collect();
        let same = registered.iter().find(|each| {
            (&each.event_type, each.version, each.codec) == (&shape.event_type, shape.version, shape.codec)
                && each.shape == locked
        });
        if broken.is_empty() && same.is_some_and(|same| same.first_seen < shape.first_seen) {
            return vec![Differs::Newer];
        }
        broken
    }
}

/// `order.placed 2 json: E-NOT-LOCKED: registered by shop at 2026-11-28 10:00:00 UTC`, and what to do on further lines.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RegisteredShape { event_type, version, codec, shape, first_seen, program } = &self.registered;
        let codec = codec.name();
        write!(f, "{event_type} {version} {codec}: ")?;
        match &self.differs {
            Differs::Unreadable(finding) => finding.fmt(f)?,
            other => f.write_str(other.id())?,
        }
        let at = first_seen.format("%Y-%m-%d %H:%M:%S UTC");
        write!(f, ": registered by {program} at {at}\n    {}", self.differs.cure())?;
        if self.differs == Differs::NotLocked {
            let block = shape.parse().map_or_else(|_| format!("= {shape}\n"), |shape| Block::new(shape).to_string());
            write!(f, "\n    [{event_type} {version} {codec}]")?;
            for line in block.lines() {
                write!(f, "\n    {line}")?;
            }
        }
        Ok(())
    }
}
