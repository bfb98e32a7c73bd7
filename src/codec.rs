//! Events to stored bytes and back.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::BoxError;

/// The encoding of an event's payload. It is stored with each event, so a type can change its codec at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Codec {
    /// JSON: readable in SQL and by consumers in other languages; added fields with a default need no new schema version.
    #[default]
    Json,
    /// [postcard](https://docs.rs/postcard): a third of the size and of the time to decode. Not self-describing: *every* change of
    /// a field needs a new schema version.
    Compact,
}

impl Codec {
    /// Returns the number that is stored.
    pub const fn number(self) -> u8 {
        match self {
            Self::Json => 0,
            Self::Compact => 1,
        }
    }

    /// Returns the codec of a stored number; `None` if this release does not know it.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Json),
            1 => Some(Self::Compact),
            _ => None,
        }
    }

    /// Appends `value` to `bytes`.
    ///
    /// # Errors
    /// Returns the error of the value's own `Serialize`.
    pub fn encode<T: Serialize + ?Sized>(self, value: &T, bytes: &mut Vec<u8>) -> Result<(), BoxError> {
        match self {
            Self::Json => serde_json::to_writer(bytes, value)?,
            Self::Compact => {
                postcard::to_io(value, bytes)?;
            }
        }
        Ok(())
    }

    /// Reads one value that fills `bytes`.
    ///
    /// # Errors
    /// Returns the decoder's error unless the bytes hold exactly one such value.
    #[inline]
    pub fn decode<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, BoxError> {
        match self {
            Self::Json => Ok(serde_json::from_slice(bytes)?),
            Self::Compact => match postcard::take_from_bytes(bytes)? {
                (value, []) => Ok(value),
                (_, rest) => Err(format!("{} bytes left over", rest.len()).into()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_codecs_return_what_they_were_given() {
        for codec in [Codec::Json, Codec::Compact] {
            let mut bytes = Vec::new();
            codec.encode(&("ü", 7u64, Some(true)), &mut bytes).unwrap();
            let back: (String, u64, Option<bool>) = codec.decode(&bytes).unwrap();
            assert_eq!(back, ("ü".to_owned(), 7, Some(true)));
            assert_eq!(Codec::from_number(codec.number()), Some(codec));
        }
        assert_eq!(Codec::from_number(2), None);
    }

    #[test]
    fn bytes_left_over_are_an_error() {
        assert!(Codec::Json.decode::<u8>(b"1 2").is_err());
        assert!(Codec::Compact.decode::<u8>(&[1, 2]).is_err());
    }
}
