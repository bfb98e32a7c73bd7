//! The rules of compatibility: whether one shape reads what another one writes.
//!
//! A writer is closed: it writes what its shape says and nothing else. A reader is open: it ignores fields that it does not know, unless its
//! type refuses them. So a new optional field breaks nothing, although the old shape does not mention it.

use std::collections::HashSet;
use std::fmt;

use crate::codec::Codec;
use crate::shape::types::{Enum, Field, Number, Read, Struct, Tagging, Type, Variant, Written};

/// The result of a change of an event's shape: what breaks, and for whom.
///
/// # Examples
/// ```
/// use retell::Codec;
/// use retell::shape::{Changes, Type};
///
/// let old: Type = "{sku: text}".parse()?;
/// let new: Type = "{sku: text, count: u32}".parse()?;
/// let changes = Changes::between(&old, &new, Codec::Json);
/// let broken = &changes.backward[0];
/// assert_eq!((broken.rule.id(), &*broken.path), ("E-FIELD-REQUIRED-ADDED", "count"));
/// assert!(changes.forward.is_empty(), "a process of the old release reads what the new one writes");
/// # Ok::<(), retell::BoxError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changes {
    /// Why the new shape cannot read all that the old one has written: the log could not be read.
    pub backward: Vec<Finding>,
    /// Why the old shape cannot read all that the new one writes: a process of the old release could not read new events.
    pub forward: Vec<Finding>,
}

/// A broken rule, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// The place in the payload, such as `lines[].count`. Empty for the payload itself.
    pub path: String,
    /// The two types there, such as `u64 became u32`. Empty if the rule says all.
    pub detail: String,
}

/// A rule of compatibility.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Rule {
    /// A field that a reader needs was added, so older events do not have it.
    FieldRequiredAdded,
    /// A field that older readers need was removed, or is not always written.
    FieldRequiredRemoved,
    /// A field was removed, and the reader refuses fields that it does not know.
    FieldRemovedFromClosed,
    /// A field was added, and older readers refuse fields that they do not know.
    FieldAddedToClosed,
    /// A field of a stored state was removed or renamed. The next event of a row would drop its value.
    StateFieldRemoved,
    /// A number has fewer values than before, or other ones.
    NumberNarrowed,
    /// A number has more values than older readers accept.
    NumberWidened,
    /// A value that could be `null` no longer can.
    OptionRemoved,
    /// A value can be `null` now, which older readers do not accept.
    OptionAdded,
    /// A variant was removed.
    VariantRemoved,
    /// A variant was added, which older readers do not know.
    VariantAdded,
    /// A variant is told apart in another way.
    TaggingChanged,
    /// A type without tags changed, so another variant may fit first.
    UntaggedChanged,
    /// A list of another length.
    LengthChanged,
    /// A type accepts only some of the values that it accepted before.
    CheckAdded,
    /// A type accepts more values than older readers do.
    CheckRemoved,
    /// Another type.
    TypeChanged,
    /// A compact payload consists of values without names, so no change is compatible.
    CompactChanged,
    /// Nothing is known about one of the two types.
    Opaque,
}

impl Rule {
    /// Returns the stable name of the rule, such as `E-FIELD-REQUIRED-ADDED`. An error begins with `E`, a doubt with `W`.
    pub const fn id(self) -> &'static str {
        match self {
            Self::FieldRequiredAdded => "E-FIELD-REQUIRED-ADDED",
            Self::FieldRequiredRemoved => "E-FIELD-REQUIRED-REMOVED",
            Self::FieldRemovedFromClosed => "E-FIELD-REMOVED-FROM-CLOSED",
            Self::FieldAddedToClosed => "E-FIELD-ADDED-TO-CLOSED",
            Self::StateFieldRemoved => "E-STATE-FIELD-REMOVED",
            Self::NumberNarrowed => "E-NUMBER-NARROWED",
            Self::NumberWidened => "E-NUMBER-WIDENED",
            Self::OptionRemoved => "E-OPTION-REMOVED",
            Self::OptionAdded => "E-OPTION-ADDED",
            Self::VariantRemoved => "E-VARIANT-REMOVED",
            Self::VariantAdded => "E-VARIANT-ADDED",
            Self::TaggingChanged => "E-TAGGING-CHANGED",
            Self::UntaggedChanged => "E-UNTAGGED-CHANGED",
            Self::LengthChanged => "E-LENGTH-CHANGED",
            Self::CheckAdded => "E-CHECK-ADDED",
            Self::CheckRemoved => "E-CHECK-REMOVED",
            Self::TypeChanged => "E-TYPE-CHANGED",
            Self::CompactChanged => "E-COMPACT-CHANGED",
            Self::Opaque => "W-OPAQUE",
        }
    }

    /// Returns whether the rule only says that the change cannot be judged.
    pub const fn is_doubt(self) -> bool {
        matches!(self, Self::Opaque)
    }

    /// Returns what to do.
    pub const fn cure(self) -> &'static str {
        match self {
            Self::FieldRequiredAdded => {
                "write `#[serde(default)]` above the field if the default is right for old events, or raise `version` and write an upcaster"
            }
            Self::FieldRequiredRemoved => {
                "keep writing the field until every process runs the new release, and remove it in the next one"
            }
            Self::FieldRemovedFromClosed => "keep the field, or remove `deny_unknown_fields`",
            Self::FieldAddedToClosed => {
                "release without `deny_unknown_fields` first, and add the field in the next release"
            }
            Self::StateFieldRemoved => "raise the generation of the view",
            Self::NumberNarrowed | Self::TypeChanged | Self::LengthChanged | Self::TaggingChanged => {
                "keep the old type, or raise `version` and write an upcaster"
            }
            Self::NumberWidened | Self::CheckRemoved | Self::OptionAdded => {
                "deploy a release that reads the new type and writes no new values yet, and then one that writes them"
            }
            Self::OptionRemoved => "keep the option, or raise `version` and write an upcaster that supplies a value",
            Self::VariantRemoved => {
                "keep the variant for as long as the log holds it, or raise `version` and write an upcaster"
            }
            Self::VariantAdded => {
                "deploy a release that reads the variant and does not write it yet, or give readers a variant with `#[serde(other)]` first"
            }
            Self::UntaggedChanged => {
                "raise `version` and write an upcaster: the first variant that fits an old value may be another one"
            }
            Self::CheckAdded => "accept the older values, or raise `version` and write an upcaster that mends them",
            Self::CompactChanged => "raise `version` and write an upcaster",
            Self::Opaque => "keep a stored payload with `assert_golden`, or give the type a shape",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.rule.id())?;
        if !self.path.is_empty() {
            write!(f, " at {}", self.path)?;
        }
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

impl Changes {
    /// Compares the shape that events were written with and a newer one under the same name and version.
    pub fn between(old: &Type, new: &Type, codec: Codec) -> Self {
        if old == new {
            return Self { backward: Vec::new(), forward: Vec::new() };
        }
        if codec == Codec::Compact {
            let finding = Finding { rule: Rule::CompactChanged, path: String::new(), detail: became(old, new) };
            return Self { backward: vec![finding.clone()], forward: vec![finding] };
        }
        Self { backward: problems(old, new, Direction::Backward), forward: problems(new, old, Direction::Forward) }
    }

    /// Compares the shapes of the states that two releases store. Both may read and write the same states for a while, and a reader writes
    /// back only what it knows: it must know every field of the older release.
    pub(crate) fn of_states(old: &Type, new: &Type) -> Self {
        let mut changes = Self::between(old, new, Codec::Json);
        if old != new {
            changes.backward = problems(old, new, Direction::Keeping);
        }
        changes
    }

    /// Returns whether the log stays readable.
    pub fn is_readable(&self) -> bool {
        self.backward.iter().all(|finding| finding.rule.is_doubt())
    }
}

/// Which of the two shapes is the newer one.
#[derive(Clone, Copy, PartialEq)]
enum Direction {
    /// The reader: it reads what was written before.
    Backward,
    /// A reader that writes back what it has read, so it must know every field.
    Keeping,
    /// The writer: an older reader reads it.
    Forward,
}

/// Returns why `reader` cannot read all that `writer` writes.
fn problems(writer: &Type, reader: &Type, direction: Direction) -> Vec<Finding> {
    let mut comparison = Comparison {
        direction,
        path: Vec::new(),
        writers: Vec::new(),
        readers: Vec::new(),
        compared: HashSet::new(),
        findings: Vec::new(),
    };
    comparison.compare(writer, reader);
    comparison.findings
}

struct Comparison<'a> {
    direction: Direction,
    path: Vec<String>,
    /// The recursive types around this place.
    writers: Vec<&'a Type>,
    readers: Vec<&'a Type>,
    /// The pairs of recursive types whose comparison has begun.
    compared: HashSet<(*const Type, *const Type)>,
    findings: Vec<Finding>,
}

impl<'a> Comparison<'a> {
    fn find(&mut self, rule: Rule, writer: &Type, reader: &Type) {
        let detail = match self.direction {
            Direction::Backward | Direction::Keeping => became(writer, reader),
            Direction::Forward => became(reader, writer),
        };
        self.find_with(rule, detail);
    }

    fn find_with(&mut self, rule: Rule, detail: String) {
        self.findings.push(Finding { rule, path: self.path.concat(), detail });
    }

    /// Returns the first rule if the reader is the newer shape, and the second one otherwise.
    fn either(&self, backward: Rule, forward: Rule) -> Rule {
        if self.direction == Direction::Forward { forward } else { backward }
    }

    fn inside(&mut self, step: String, compare: impl FnOnce(&mut Self)) {
        self.path.push(step);
        compare(self);
        self.path.pop();
    }

    fn compare(&mut self, writer: &'a Type, reader: &'a Type) {
        match (writer, reader) {
            (Type::Recursive(inner), _) => {
                if matches!(reader, Type::Recursive(_))
                    && !self.compared.insert((&raw const *writer, &raw const *reader))
                {
                    return;
                }
                self.writers.push(writer);
                self.compare(inner, reader);
                self.writers.pop();
            }
            (_, Type::Recursive(inner)) => {
                self.readers.push(reader);
                self.compare(writer, inner);
                self.readers.pop();
            }
            (Type::Outer(levels), _) => self.outer_writer(*levels, reader),
            (_, Type::Outer(levels)) => self.outer_reader(writer, *levels),
            (Type::Opaque, Type::Opaque)
            | (_, Type::Any)
            | (Type::Unit, Type::Option(_))
            | (Type::Char | Type::Format(_), Type::Text) => {}
            (Type::Opaque, _) | (_, Type::Opaque) => self.find(Rule::Opaque, writer, reader),
            (Type::Checked(one), Type::Checked(other)) | (Type::Option(one), Type::Option(other)) => {
                self.compare(one, other);
            }
            (Type::Checked(inner), _) => self.compare(inner, reader),
            (_, Type::Checked(inner)) => {
                let before = self.findings.len();
                self.compare(writer, inner);
                if self.findings.len() == before {
                    let rule = self.either(Rule::CheckAdded, Rule::CheckRemoved);
                    self.find(rule, writer, reader);
                }
            }
            (Type::Option(one), _) => {
                let rule = self.either(Rule::OptionRemoved, Rule::OptionAdded);
                self.find(rule, writer, reader);
                self.compare(one, reader);
            }
            (_, Type::Option(other)) => self.compare(writer, other),
            (Type::Number(one), Type::Number(other)) => {
                if !one.fits(*other) {
                    let rule = self.either(Rule::NumberNarrowed, Rule::NumberWidened);
                    self.find(rule, writer, reader);
                }
            }
            (Type::List(one) | Type::Array(one, _), Type::List(other)) => {
                self.inside("[]".into(), |all| all.compare(one, other));
            }
            (Type::Tuple(types), Type::List(other)) => {
                for one in types {
                    self.inside("[]".into(), |all| all.compare(one, other));
                }
            }
            (Type::Array(..) | Type::Tuple(_), Type::Array(..) | Type::Tuple(_)) => self.tuples(writer, reader),
            (Type::Map(key, value), Type::Map(other_key, other_value)) => {
                self.inside("{key}".into(), |all| all.compare(key, other_key));
                self.inside("{}".into(), |all| all.compare(value, other_value));
            }
            (Type::Struct(one), Type::Struct(other)) => self.structs(one, other),
            (Type::Struct(one), Type::Map(key, value)) if **key == Type::Text => {
                for field in one.fields.iter().filter(|field| field.written != Written::Never) {
                    self.inside(self.step(&field.name), |all| all.compare(&field.value, value));
                }
                if let Some(rest) = &one.rest {
                    self.inside(self.step("*"), |all| all.compare(rest, value));
                }
            }
            (Type::Enum(one), Type::Enum(other)) => self.enums(one, other, writer, reader),
            _ => {
                if writer != reader {
                    self.find(Rule::TypeChanged, writer, reader);
                }
            }
        }
    }

    /// Continues with the recursive type around the writer. Its pair with the reader was compared before if it is one that encloses this place.
    fn outer_writer(&mut self, levels: usize, reader: &'a Type) {
        let Some(place) = self.writers.len().checked_sub(levels + 1) else {
            return self.find_with(Rule::Opaque, "a shape that is not whole".into());
        };
        let around = self.writers[place];
        let reader = match reader {
            Type::Outer(levels) => match self.readers.len().checked_sub(levels + 1) {
                Some(place) => self.readers[place],
                None => return self.find_with(Rule::Opaque, "a shape that is not whole".into()),
            },
            other => other,
        };
        if !self.compared.insert((&raw const *around, &raw const *reader)) {
            return;
        }
        let Type::Recursive(inner) = around else { return };
        let kept = self.writers.split_off(place + 1);
        self.compare(inner, reader);
        self.writers.extend(kept);
    }

    fn outer_reader(&mut self, writer: &'a Type, levels: usize) {
        let Some(place) = self.readers.len().checked_sub(levels + 1) else {
            return self.find_with(Rule::Opaque, "a shape that is not whole".into());
        };
        let around = self.readers[place];
        if !self.compared.insert((&raw const *writer, &raw const *around)) {
            return;
        }
        let Type::Recursive(inner) = around else { return };
        let kept = self.readers.split_off(place + 1);
        self.compare(writer, inner);
        self.readers.extend(kept);
    }

    fn tuples(&mut self, writer: &'a Type, reader: &'a Type) {
        let (Some(one), Some(other)) = (length(writer), length(reader)) else { return };
        if one != other {
            return self.find(Rule::LengthChanged, writer, reader);
        }
        if let (Type::Array(one, _), Type::Array(other, _)) = (writer, reader) {
            return self.inside("[]".into(), |all| all.compare(one, other));
        }
        // At least one of them is a tuple, so there are few.
        for place in 0..one {
            if let (Some(one), Some(other)) = (item(writer, place), item(reader, place)) {
                self.inside(format!("[{place}]"), |all| all.compare(one, other));
            }
        }
    }

    fn structs(&mut self, writer: &'a Struct, reader: &'a Struct) {
        for field in &writer.fields {
            if field.written == Written::Never {
                continue;
            }
            match reader.fields.iter().find(|other| other.is_read_as(&field.name)) {
                Some(other) => self.inside(self.step(&field.name), |all| all.compare(&field.value, &other.value)),
                None => self.unknown_field(field, reader),
            }
        }
        for field in &reader.fields {
            if field.read == Read::Required && !writer.fields.iter().any(|other| other.always_supplies(field)) {
                let rule = self.either(Rule::FieldRequiredAdded, Rule::FieldRequiredRemoved);
                self.inside(self.step(&field.name), |all| all.find_with(rule, String::new()));
            }
        }
        match (&writer.rest, &reader.rest) {
            (Some(one), Some(other)) => self.inside(self.step("*"), |all| all.compare(one, other)),
            // Any of the reader's fields may be among them.
            (Some(_), None) => self.inside(self.step("*"), |all| {
                all.find_with(Rule::Opaque, "fields of any name".into());
            }),
            (None, _) => {}
        }
    }

    /// Compares a field that the reader does not name.
    fn unknown_field(&mut self, field: &'a Field, reader: &'a Struct) {
        if let Some(rest) = &reader.rest {
            self.inside(self.step(&field.name), |all| all.compare(&field.value, rest));
        } else if reader.is_closed {
            let rule = self.either(Rule::FieldRemovedFromClosed, Rule::FieldAddedToClosed);
            self.inside(self.step(&field.name), |all| all.find_with(rule, String::new()));
        } else if self.direction == Direction::Keeping {
            self.inside(self.step(&field.name), |all| all.find_with(Rule::StateFieldRemoved, String::new()));
        }
    }

    fn enums(&mut self, writer: &'a Enum, reader: &'a Enum, of_writer: &Type, of_reader: &Type) {
        if writer.tagging != reader.tagging {
            return self.find(Rule::TaggingChanged, of_writer, of_reader);
        }
        if writer.tagging == Tagging::Untagged {
            // The first variant that fits is read, so even a change that fits could be read as another variant.
            if writer != reader {
                self.find(Rule::UntaggedChanged, of_writer, of_reader);
            }
            return;
        }
        for variant in writer.variants.iter().filter(|variant| variant.is_written) {
            match reader.variants.iter().find(|other| other.is_read_as(&variant.name)) {
                Some(other) => self.inside(format!("<{}>", variant.name), |all| {
                    all.variants(variant, other, writer.tagging != Tagging::External);
                }),
                None if reader.variants.iter().any(|other| other.is_other) => {}
                None => {
                    let rule = self.either(Rule::VariantRemoved, Rule::VariantAdded);
                    self.inside(format!("<{}>", variant.name), |all| all.find_with(rule, String::new()));
                }
            }
        }
    }

    fn variants(&mut self, writer: &'a Variant, reader: &'a Variant, has_tag_field: bool) {
        match (&writer.value, &reader.value) {
            (Some(one), Some(other)) => self.compare(one, other),
            (None, None) => {}
            // A tag in a field leaves the other fields empty.
            (None, Some(Type::Struct(fields))) if has_tag_field => {
                for field in fields.fields.iter().filter(|field| field.read == Read::Required) {
                    let rule = self.either(Rule::FieldRequiredAdded, Rule::FieldRequiredRemoved);
                    self.inside(self.step(&field.name), |all| all.find_with(rule, String::new()));
                }
            }
            (Some(Type::Struct(_)), None) if has_tag_field => {}
            (one, other) => {
                let unit = Type::Unit;
                let (one, other) = (one.as_ref().unwrap_or(&unit), other.as_ref().unwrap_or(&unit));
                self.find(Rule::TypeChanged, one, other);
            }
        }
    }

    fn step(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!(".{name}") }
    }
}

impl Field {
    fn is_read_as(&self, name: &str) -> bool {
        self.read != Read::Never && (self.name == name || self.aliases.iter().any(|alias| alias == name))
    }

    fn always_supplies(&self, reader: &Self) -> bool {
        self.written == Written::Always && reader.is_read_as(&self.name)
    }
}

impl Variant {
    fn is_read_as(&self, name: &str) -> bool {
        self.is_read && (self.name == name || self.aliases.iter().any(|alias| alias == name))
    }
}

impl Number {
    /// Returns whether each value is read by a reader of `other` as the same number.
    fn fits(self, other: Self) -> bool {
        if self == other || other == Self::Json {
            return true;
        }
        match (self.integer(), other.integer()) {
            (Some((signed, bits)), Some((other_signed, other_bits))) => {
                if signed == other_signed {
                    bits <= other_bits
                } else {
                    other_signed && bits < other_bits
                }
            }
            // A float is exact for integers of as many bits as it has for digits.
            (Some((_, bits)), None) => bits <= if other == Self::F64 { 32 } else { 16 },
            (None, None) => self == Self::F32 && other == Self::F64,
            (None, Some(_)) => false,
        }
    }

    /// Returns whether an integer is signed, and its bits.
    const fn integer(self) -> Option<(bool, u32)> {
        Some(match self {
            Self::U8 => (false, 8),
            Self::U16 => (false, 16),
            Self::U32 => (false, 32),
            Self::U64 => (false, 64),
            Self::U128 => (false, 128),
            Self::I8 => (true, 8),
            Self::I16 => (true, 16),
            Self::I32 => (true, 32),
            Self::I64 => (true, 64),
            Self::I128 => (true, 128),
            Self::F32 | Self::F64 | Self::Json => return None,
        })
    }
}

fn length(tuple: &Type) -> Option<usize> {
    match tuple {
        Type::Array(_, length) => Some(*length),
        Type::Tuple(types) => Some(types.len()),
        _ => None,
    }
}

fn item(tuple: &Type, place: usize) -> Option<&Type> {
    match tuple {
        Type::Array(item, _) => Some(item),
        Type::Tuple(types) => types.get(place),
        _ => None,
    }
}

fn became(old: &Type, new: &Type) -> String {
    format!("{old} became {new}")
}
