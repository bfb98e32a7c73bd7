//! The kinds of stored events, and the names of their files.

use std::fmt;

use crate::codec::Codec;
use crate::event::{EventSchema, NewEvent};

pub(super) const EXTENSION: &str = ".golden";

/// A stored name, a schema version and a codec.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    pub(super) name: String,
    pub(super) version: u32,
    pub(super) codec: Codec,
}

/// The key of a block of `events.lock`.
impl From<(String, u32, Codec)> for Kind {
    fn from((name, version, codec): (String, u32, Codec)) -> Self {
        Self { name, version, codec }
    }
}

impl Kind {
    pub(super) fn of(event: &NewEvent) -> Self {
        Self { name: event.event_type.as_str().to_owned(), version: event.schema_version, codec: event.codec }
    }

    /// Returns the kind of new events.
    pub(super) fn newest(schema: &EventSchema) -> Self {
        Self { name: schema.name.to_owned(), version: schema.version, codec: schema.codec }
    }

    /// Returns the name of the file of a sample. `place` is its place among the samples of this kind, beginning with 1.
    pub(super) fn file_name(&self, place: usize) -> String {
        let digit = |half: u8| char::from_digit(half.into(), 16);
        let mut file = String::new();
        for byte in self.name.bytes() {
            match byte {
                // Upper case is written as a number, because some file systems ignore it.
                b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' => file.push(char::from(byte)),
                _ => file.extend([Some('%'), digit(byte >> 4), digit(byte & 15)].into_iter().flatten()),
            }
        }
        let number = if place == 1 { String::new() } else { format!(".{place}") };
        format!("{file}.{}.{}{number}{EXTENSION}", self.version, self.codec.name())
    }
}

/// `[order.placed 1 json]`
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} {} {}]", self.name, self.version, self.codec.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_file() {
        let name = |name: &str, place| Kind { name: name.into(), version: 2, codec: Codec::Compact }.file_name(place);
        assert_eq!(name("order.placed", 1), "order.placed.2.compact.golden");
        assert_eq!(name("order.placed", 2), "order.placed.2.compact.2.golden");
        assert_eq!(name("Order/ä", 1), "%4frder%2f%c3%a4.2.compact.golden");
    }
}
