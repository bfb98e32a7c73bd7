//! The text of `events.lock`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::codec::Codec;
use crate::registry::violation::Broken;
use crate::shape::types::{Field, Struct, Type};

/// The wire shapes of all events that a log may hold: a text file next to the code.
///
/// There is one block for each stored name, version and codec, with one line for each field, so that a change is easy to review and two
/// branches merge by line:
///
/// ```text
/// [order.placed 2 json]
/// customer: text
/// lines: [{sku: text, count: u32}]
/// ```
///
/// When the shape of a version changes, the block keeps the one before. The log may have events of both, and readers must read both:
///
/// ```text
/// [order.placed 2 json]
/// customer: text
/// lines: [{sku: text, count: u32}]
/// note: text?
/// was {customer: text, lines: [{sku: text, count: u32}]}
/// ```
///
/// The first line of a [public](crate::event::EventSchema::is_public) event is `public`.
///
/// A change that breaks a rule can be allowed once, below the block, with a reason:
///
/// ```text
/// allow E-TYPE-CHANGED at lines[].sku: no event with lines was ever written
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Lock {
    /// The blocks by stored name, version and codec.
    pub blocks: BTreeMap<(String, u32, Codec), Block>,
}

/// The wire shape of one version of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Block {
    /// Whether programs of other teams read the event.
    pub is_public: bool,
    /// The shape.
    pub shape: Type,
    /// The shapes that events of this version had before, the oldest first.
    pub former: Vec<Type>,
    /// The exceptions.
    pub exceptions: Vec<Exception>,
}

/// A change that may break a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exception {
    /// The name of the rule, such as `E-TYPE-CHANGED`.
    pub rule: String,
    /// The place in the payload. Empty for the event itself.
    pub path: String,
    /// Why the change breaks nothing.
    pub reason: String,
    /// Whether it was used. It then allows no further change.
    pub is_used: bool,
}

impl Block {
    pub(super) fn new(shape: Type) -> Self {
        Self { is_public: false, shape, former: Vec::new(), exceptions: Vec::new() }
    }

    /// Returns all shapes that events of this version may have.
    pub(super) fn shapes(&self) -> impl Iterator<Item = &Type> {
        self.former.iter().chain([&self.shape])
    }

    /// Replaces the shape, and keeps the one before if events may have it.
    pub(super) fn change(&mut self, shape: &Type, was_written: bool) {
        let before = std::mem::replace(&mut self.shape, shape.clone());
        if was_written && before != *shape {
            self.former.push(before);
        }
        self.former.retain(|former| former != shape);
    }

    /// Returns whether an exception allows a change, and notes that it was used.
    pub(super) fn allow(&mut self, broken: &Broken) -> bool {
        let found = self.exceptions.iter_mut().find(|exception| exception.fits(broken) && !exception.is_used);
        found.map(|exception| exception.is_used = true).is_some()
    }

    /// Returns whether an exception allows what each check finds again, because the block stays as it is.
    pub(super) fn allows(&self, broken: &Broken) -> bool {
        let is_gone = matches!(broken, Broken::EventRemoved | Broken::VersionRemoved { .. });
        self.exceptions.iter().any(|exception| exception.fits(broken) && (is_gone || !exception.is_used))
    }
}

impl Exception {
    fn fits(&self, broken: &Broken) -> bool {
        self.rule == broken.id() && self.path == broken.path()
    }
}

/// The line of a public event. A field of this name has a colon.
const PUBLIC: &str = "public";

const HEAD: &str = "\
# The wire shapes of all events that the log may hold. A test compares them with the types of the program and adds what is new.
# Review each change: a stored event never changes. To allow a change that breaks a rule, add a line below its block:
#     allow RULE at PLACE: REASON
";

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEAD)?;
        for ((name, version, codec), block) in &self.blocks {
            write!(f, "\n[{name} {version} {}]\n{block}", codec.name())?;
        }
        Ok(())
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_public {
            writeln!(f, "{PUBLIC}")?;
        }
        match &self.shape {
            Type::Struct(Struct { fields, rest, is_closed }) => {
                for field in fields {
                    writeln!(f, "{field}")?;
                }
                if let Some(rest) = rest {
                    writeln!(f, "..{rest}")?;
                }
                if *is_closed {
                    writeln!(f, "!")?;
                }
            }
            other => writeln!(f, "= {other}")?,
        }
        for former in &self.former {
            writeln!(f, "was {former}")?;
        }
        for Exception { rule, path, reason, is_used } in &self.exceptions {
            let word = if *is_used { "allowed" } else { "allow" };
            let place = if path.is_empty() { String::new() } else { format!(" at {path}") };
            writeln!(f, "{word} {rule}{place}: {reason}")?;
        }
        Ok(())
    }
}

/// A text that is not a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidLock {
    /// The number of the line, beginning with 1.
    pub line: usize,
    /// The problem.
    pub problem: String,
}

impl fmt::Display for InvalidLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} of the lock: {}", self.line, self.problem)
    }
}

impl std::error::Error for InvalidLock {}

impl FromStr for Lock {
    type Err = InvalidLock;

    fn from_str(text: &str) -> Result<Self, InvalidLock> {
        let mut lock = Self::default();
        let mut open = None;
        for (place, line) in text.lines().enumerate() {
            let line = line.trim();
            let read = match line {
                _ if line.is_empty() || line.starts_with('#') => Ok(()),
                _ if line.starts_with('[') => header(line).and_then(|key| {
                    let known = lock.blocks.insert(key.clone(), Block::new(Type::Struct(Struct::new())));
                    open = Some(key);
                    if known.is_some() { Err("this block is there twice".to_owned()) } else { Ok(()) }
                }),
                _ => match open.as_ref().and_then(|key| lock.blocks.get_mut(key)) {
                    Some(block) => block.read(line),
                    None => Err("expected a block, such as `[order.placed 1 json]`".into()),
                },
            };
            read.map_err(|problem| InvalidLock { line: place + 1, problem })?;
        }
        Ok(lock)
    }
}

impl Block {
    fn read(&mut self, line: &str) -> Result<(), String> {
        // A field can have the name `allow` or `was`: its colon follows directly.
        let exception = [("allow ", false), ("allowed ", true)].iter().find_map(|(word, is_used)| {
            let rest = line.strip_prefix(word)?;
            Some((rest, *is_used))
        });
        if let Some((rest, is_used)) = exception {
            self.exceptions.push(read_exception(rest, is_used)?);
            return Ok(());
        }
        if line == PUBLIC {
            self.is_public = true;
            return Ok(());
        }
        if let Some(former) = line.strip_prefix("was ") {
            self.former.push(former.parse().map_err(|error| format!("{error}"))?);
            return Ok(());
        }
        if let Some(shape) = line.strip_prefix('=') {
            self.shape = shape.parse().map_err(|error| format!("{error}"))?;
            return Ok(());
        }
        let Type::Struct(fields) = &mut self.shape else {
            return Err("a block has fields or one line that begins with `=`".into());
        };
        if line == "!" {
            fields.is_closed = true;
        } else if let Some(rest) = line.strip_prefix("..") {
            fields.rest = Some(Box::new(rest.parse().map_err(|error| format!("{error}"))?));
        } else {
            fields.fields.push(line.parse::<Field>().map_err(|error| error.to_string())?);
        }
        Ok(())
    }
}

/// Reads `[order.placed 1 json]`.
pub(crate) fn header(line: &str) -> Result<(String, u32, Codec), String> {
    let words: Vec<_> = line.trim_matches(['[', ']']).split_whitespace().collect();
    let expected =
        || format!("expected a name, a version and a codec, such as `[order.placed 1 json]`, and not `{line}`");
    let [name, version, codec] = words[..] else { return Err(expected()) };
    let codec = [Codec::Json, Codec::Compact].into_iter().find(|each| each.name() == codec).ok_or_else(expected)?;
    Ok((name.to_owned(), version.parse().map_err(|_| expected())?, codec))
}

/// Reads `RULE at PLACE: REASON`.
fn read_exception(text: &str, is_used: bool) -> Result<Exception, String> {
    let expected = || "expected `allow RULE at PLACE: REASON`".to_owned();
    let (broken, reason) = text.split_once(": ").ok_or_else(expected)?;
    let (rule, path) = broken.split_once(" at ").unwrap_or((broken, ""));
    let reason = reason.trim();
    if reason.is_empty() {
        return Err(expected());
    }
    Ok(Exception { rule: rule.trim().to_owned(), path: path.trim().to_owned(), reason: reason.to_owned(), is_used })
}
