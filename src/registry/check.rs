//! The comparison of the program's events with the lock.

use crate::codec::Codec;
use crate::event::EventSchema;
use crate::registry::Registry;
use crate::registry::lock::{Block, Lock};
use crate::registry::violation::{Broken, Readers, Violation};
use crate::shape::compare::{Changes, Finding, Rule};
use crate::shape::older::unreadable;
use crate::shape::opaque::opaque_places;
use crate::shape::types::Type;

/// The name, version and codec of a block.
type Key = (String, u32, Codec);

/// The result of a comparison of the program's events with the lock.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Checked {
    /// Changes that make stored events unreadable, and those that readers of [public](EventSchema::is_public) events cannot follow. The lock
    /// stays as it is until they are mended, or allowed in the lock.
    pub errors: Vec<Violation>,
    /// Changes that processes of the older release cannot read, among them new events and versions, and [doubts](Broken::is_doubt). The former
    /// matter while a release is rolled out or back.
    pub warnings: Vec<Violation>,
    /// The lock with the changes that are allowed.
    pub lock: Lock,
}

impl Registry {
    /// Compares the events with the lock. A change that older readers cannot follow is an error if the event is
    /// [public](EventSchema::is_public), and a warning otherwise.
    ///
    /// # Examples
    /// ```
    /// use retell::{Event, registry};
    ///
    /// #[derive(Event)]
    /// #[event("order.placed", public)]
    /// struct Placed {
    ///     customer: String,
    /// }
    ///
    /// let lock = "[order.placed 1 json]\npublic\ncustomer: text\ncents: u64\n".parse()?;
    /// let checked = registry![Placed]?.check(&lock);
    /// assert_eq!(checked.errors[0].broken.to_string(), "E-FIELD-REQUIRED-REMOVED at cents");
    /// # Ok::<(), retell::BoxError>(())
    /// ```
    pub fn check(&self, lock: &Lock) -> Checked {
        Check::new(lock, false).of(self)
    }

    /// Compares the events with the lock as [`check`](Self::check) does, and refuses every change that processes of the older release could
    /// not follow. A release without errors can be rolled back while the older one runs.
    ///
    /// A new event, version or name is such a change. The lock has it if an earlier release reads it, so add new events to the lock with a
    /// release that does not write them yet, and compare that one by `check`.
    ///
    /// # Examples
    /// ```
    /// use retell::{Event, registry};
    ///
    /// #[derive(Event)]
    /// #[event("order.placed")]
    /// struct Placed {
    ///     customer: String,
    /// }
    ///
    /// let lock = "[order.placed 1 json]\ncustomer: text\ncents: u64\n".parse()?;
    /// let registry = registry![Placed]?;
    /// assert!(registry.check(&lock).errors.is_empty(), "the log stays readable");
    /// assert_eq!(registry.check_forward(&lock).errors[0].broken.id(), "E-FIELD-REQUIRED-REMOVED");
    /// # Ok::<(), retell::BoxError>(())
    /// ```
    pub fn check_forward(&self, lock: &Lock) -> Checked {
        Check::new(lock, true).of(self)
    }
}

/// A comparison that is under way.
struct Check<'l> {
    before: &'l Lock,
    /// Whether processes of the older release must be able to read all new events.
    is_forward: bool,
    checked: Checked,
}

impl<'l> Check<'l> {
    fn new(before: &'l Lock, is_forward: bool) -> Self {
        let checked = Checked { errors: Vec::new(), warnings: Vec::new(), lock: before.clone() };
        Self { before, is_forward, checked }
    }

    fn of(mut self, registry: &Registry) -> Checked {
        for schema in registry.events() {
            self.event(schema);
        }
        for name in &registry.retired {
            self.not_public(|stored| stored == *name);
        }
        // The log keeps events whose name is retired, and so does the lock.
        for (name, version, codec) in
            self.before.blocks.keys().filter(|(name, ..)| !registry.retired.contains(name.as_str()))
        {
            self.locked(name, *version, *codec, registry.known_as(name));
        }
        self.checked
    }

    /// Compares the newest version of an event with its blocks in the lock, and adds a block if there is none.
    fn event(&mut self, schema: &EventSchema) {
        let shape = schema.shape().unwrap_or(Type::Opaque);
        if !schema.is_public {
            self.not_public(|name| schema.is_named(name));
        }
        let is_followed = self.renamed(schema);
        for codec in [Codec::Json, Codec::Compact] {
            let key = (schema.name.to_owned(), schema.version, codec);
            match self.checked.lock.blocks.get(&key).cloned() {
                Some(block) => self.block(schema, key, block, &shape),
                None if codec == schema.codec => {
                    self.checked.warnings.extend(unknown(schema, &shape));
                    let is_followed = self.added(schema) && is_followed;
                    if is_followed {
                        let block = Block { is_public: schema.is_public, ..Block::new(shape.clone()) };
                        self.checked.lock.blocks.insert(key, block);
                    }
                }
                None => {}
            }
            for former in schema.former_names {
                let key = ((*former).to_owned(), schema.version, codec);
                self.frozen(&key, |block| Changes::between(block, &shape, codec).backward, Broken::Rule);
            }
        }
        self.upcasters(schema);
    }

    /// Compares what the upcasters take with the blocks of the older versions, under each of the names.
    fn upcasters(&mut self, schema: &EventSchema) {
        let is_older = |(name, version, _): &&Key| schema.is_named(name) && *version < schema.version;
        let older: Vec<_> = self.checked.lock.blocks.keys().filter(is_older).cloned().collect();
        for key in older {
            if let Some(reader) = schema.shape_of(key.1) {
                self.frozen(&key, |block| unreadable(block, &reader, key.2), Broken::UpcasterInput);
            }
        }
    }

    /// Reports an event that the lock has under a former name alone: processes of the older release do not know the new one. Returns whether
    /// it may be renamed.
    fn renamed(&mut self, schema: &EventSchema) -> bool {
        let is_locked = |name: &str| self.before.blocks.keys().any(|(locked, ..)| locked == name);
        let former = schema.former_names.iter().find(|name| is_locked(name));
        match former {
            Some(from) if !is_locked(schema.name) => self.follow(schema, Broken::Renamed { from }),
            _ => true,
        }
    }

    /// Reports what an older reader cannot read, if this version of an event is not in the lock. Returns whether it may be added.
    fn added(&mut self, schema: &EventSchema) -> bool {
        let of_event = self.before.blocks.keys().filter(|(name, ..)| schema.is_named(name));
        let newest = of_event.max_by_key(|(_, version, _)| *version);
        match newest {
            Some((_, before, _)) if *before < schema.version => {
                self.follow(schema, Broken::VersionAdded { before: *before })
            }
            // An older release of the program knows each codec.
            Some((_, version, before)) if schema.is_public && *version == schema.version && *before != schema.codec => {
                self.follow(schema, Broken::CodecChanged { before: *before })
            }
            // An older version, which is an error.
            Some(_) => true,
            // Before the first lock there is no older release.
            None => self.before.blocks.is_empty() || self.follow(schema, Broken::EventAdded),
        }
    }

    /// Returns the readers that must be able to read all new events of a kind.
    fn readers(&self, schema: &EventSchema) -> Option<Readers> {
        if schema.is_public { Some(Readers::OtherTeams) } else { self.is_forward.then_some(Readers::OlderRelease) }
    }

    /// Reports a change of a whole event that older readers cannot follow. Returns whether it may be made.
    fn follow(&mut self, schema: &EventSchema, change: Broken) -> bool {
        let readers = match change {
            // No other team reads it yet.
            Broken::EventAdded => self.is_forward.then_some(Readers::OlderRelease),
            _ => self.readers(schema),
        };
        let violation = |broken| Violation { event: schema.name.to_owned(), version: schema.version, broken };
        if let Some(readers) = readers {
            let broken = forward(change.clone(), readers);
            let mut blocks = self.checked.lock.blocks.iter_mut().filter(|((name, ..), _)| schema.is_named(name));
            if !blocks.any(|(_, block)| block.allow(&broken)) {
                self.checked.errors.push(violation(broken));
                return false;
            }
        }
        self.checked.warnings.push(violation(change));
        true
    }

    /// Checks that no event of these names was public in its newest version.
    fn not_public(&mut self, is_named: impl Fn(&str) -> bool) {
        let of_event = self.before.blocks.keys().filter(|(name, ..)| is_named(name));
        let Some(newest) = of_event.map(|(_, version, _)| *version).max() else { return };
        let blocks = self.checked.lock.blocks.iter_mut();
        let blocks =
            blocks.filter(|((name, version, _), block)| is_named(name) && *version == newest && block.is_public);
        for ((name, version, _), block) in blocks {
            if block.allow(&Broken::PublicRemoved) {
                block.is_public = false;
            } else {
                let violation = Violation { event: name.clone(), version: *version, broken: Broken::PublicRemoved };
                self.checked.errors.push(violation);
            }
        }
    }

    /// Compares a block with the shape that reads it. Nothing is written in this form any more, so the block stays as it is.
    fn frozen(&mut self, key: &Key, compare: impl Fn(&Type) -> Vec<Finding>, broken: fn(Finding) -> Broken) {
        let Some(block) = self.checked.lock.blocks.get(key) else { return };
        for finding in distinct(block.shapes().flat_map(compare)) {
            let violation = Violation { event: key.0.clone(), version: key.1, broken: broken(finding) };
            if violation.broken.is_doubt() {
                self.checked.warnings.push(violation);
            } else if !block.allows(&violation.broken) {
                self.checked.errors.push(violation);
            }
        }
    }

    /// Compares a block with the newest shape of its version.
    fn block(&mut self, schema: &EventSchema, key: Key, mut block: Block, shape: &Type) {
        let violation = |broken| Violation { event: key.0.clone(), version: key.1, broken };
        let backward = distinct(block.shapes().flat_map(|each| Changes::between(each, shape, key.2).backward));
        let (doubts, errors): (Vec<_>, Vec<_>) = backward.into_iter().partition(|finding| finding.rule.is_doubt());
        let mut refused = errors.clone().into_iter().map(Broken::Rule).collect::<Vec<_>>();
        if let Some(readers) = self.readers(schema) {
            let found = not_followed(&block, shape, key.2, readers).into_iter();
            // A change that breaks both is one error, and one exception allows it.
            let found = found.filter(|finding| !finding.rule.is_doubt() && !has(&errors, finding));
            refused.extend(found.map(|finding| forward(Broken::Rule(finding), readers)));
        }
        refused.retain(|broken| !block.allow(broken));
        let mut warnings = Changes::between(&block.shape, shape, key.2).forward;
        warnings.retain(|finding| !refused.iter().any(|broken| broken.is_forward(finding)));
        if block.shape != *shape {
            warnings.extend(doubts);
        }
        self.checked.warnings.extend(warnings.into_iter().map(Broken::Rule).map(violation));
        if refused.is_empty() {
            block.is_public |= schema.is_public;
            block.change(shape, errors.is_empty());
            self.checked.lock.blocks.insert(key, block);
        } else {
            self.checked.errors.extend(refused.into_iter().map(violation));
        }
    }

    /// Checks that the program still has a locked event.
    fn locked(&mut self, event: &str, version: u32, codec: Codec, known: Option<&EventSchema>) {
        let broken = match known {
            None => Broken::EventRemoved,
            Some(schema) if version > schema.version => Broken::VersionRemoved { newest: schema.version },
            Some(_) => return,
        };
        let key = (event.to_owned(), version, codec);
        let is_allowed = self.checked.lock.blocks.get(&key).is_some_and(|block| block.allows(&broken));
        if !is_allowed {
            self.checked.errors.push(Violation { event: event.to_owned(), version, broken });
        }
    }
}

/// Returns what the readers of a block's shapes cannot read in a new shape. A program of another team may still read a former shape, but
/// what it could not follow before is not found again.
fn not_followed(block: &Block, shape: &Type, codec: Codec, readers: Readers) -> Vec<Finding> {
    let forward = |old: &Type, new: &Type| Changes::between(old, new, codec).forward;
    match readers {
        Readers::OlderRelease => forward(&block.shape, shape),
        Readers::OtherTeams => distinct(block.shapes().flat_map(|each| {
            let known = forward(each, &block.shape);
            forward(each, shape).into_iter().filter(move |finding| !has(&known, finding))
        })),
    }
}

fn forward(change: Broken, readers: Readers) -> Broken {
    Broken::Forward { change: Box::new(change), readers }
}

/// Returns the places of a new shape about which nothing is known.
fn unknown(schema: &EventSchema, shape: &Type) -> impl Iterator<Item = Violation> {
    let (event, version) = (schema.name.to_owned(), schema.version);
    opaque_places(shape).into_iter().map(move |path| {
        let broken = Broken::Rule(Finding { rule: Rule::Opaque, path, detail: String::new() });
        Violation { event: event.clone(), version, broken }
    })
}

/// Returns each finding once: several shapes of one version may have it.
fn distinct(findings: impl Iterator<Item = Finding>) -> Vec<Finding> {
    let mut distinct = Vec::<Finding>::new();
    for finding in findings {
        if !has(&distinct, &finding) {
            distinct.push(finding);
        }
    }
    distinct
}

/// Returns whether a rule is broken at the same place.
fn has(findings: &[Finding], finding: &Finding) -> bool {
    findings.iter().any(|other| (other.rule, &other.path) == (finding.rule, &finding.path))
}
