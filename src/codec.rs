//! The encodings of event payloads and of states.

mod plain;
mod redact;
mod strict;
pub(crate) mod tree;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::redact::redacted;
use crate::codec::strict::{Checked, Nulls};
use crate::error::BoxError;

/// The encoding of an event's payload. The store records it with each event, so a type can change its codec at any time.
///
/// # Examples
/// ```
/// use retell::Codec;
///
/// let mut payload = Vec::new();
/// Codec::Json.encode(&("tea", 12), &mut payload)?;
/// assert_eq!(payload, br#"["tea",12]"#);
/// assert_eq!(Codec::Json.decode::<(String, u32)>(&payload)?, ("tea".to_owned(), 12));
/// # Ok::<(), retell::BoxError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum Codec {
    /// JSON: readable in SQL and by consumers in other languages. A new field with a default needs no new schema version.
    #[default]
    Json,
    /// [postcard](https://docs.rs/postcard): a third of JSON's size and decoding time. It is not self-describing, so *every* change of a
    /// field needs a new schema version.
    Compact,
}

impl Codec {
    /// Returns the number that stores record for this codec.
    pub const fn number(self) -> u8 {
        match self {
            Self::Json => 0,
            Self::Compact => 1,
        }
    }

    /// Returns the codec that stores record as `number`, or `None` if this release does not know it.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Json),
            1 => Some(Self::Compact),
            _ => None,
        }
    }

    /// Returns the name of this codec in locks, golden files and reports: `json` or `compact`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Compact => "compact",
        }
    }

    /// Appends the encoded `value` to `bytes`.
    ///
    /// # Errors
    /// Returns the error of the value's own `Serialize`. JSON refuses NaN and infinity, which it could only write as `null`.
    pub fn encode<T: Serialize + ?Sized>(self, value: &T, bytes: &mut Vec<u8>) -> Result<(), BoxError> {
        match self {
            Self::Json => serde_json::to_writer(bytes, &Checked { value, nulls: Nulls::Allowed })?,
            Self::Compact => {
                postcard::to_io(value, bytes)?;
            }
        }
        Ok(())
    }

    /// Decodes one value that fills `bytes`.
    ///
    /// # Errors
    /// Returns the decoder's error unless `bytes` hold exactly one such value.
    #[inline]
    pub fn decode<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, BoxError> {
        match self {
            Self::Json => Ok(plain::from_slice(bytes).map_err(|error| redacted(&error))?),
            Self::Compact => match postcard::take_from_bytes(bytes)? {
                (value, []) => Ok(value),
                (_, rest) => Err(format!("{} bytes left over", rest.len()).into()),
            },
        }
    }
}

/// Encodes a state as JSON. A state is refused that JSON would change: with NaN, infinity, or `Some` of a value that is written as `null`.
/// Otherwise a state would depend on when it was last stored.
pub(crate) fn encode_state<T: Serialize + ?Sized>(state: &T) -> Result<Vec<u8>, BoxError> {
    Ok(serde_json::to_vec(&Checked { value: state, nulls: Nulls::Refused })?)
}

/// Decodes a state that [`encode_state`] encoded.
pub(crate) fn decode_state<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BoxError> {
    Ok(plain::from_slice(bytes).map_err(|error| redacted(&error))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_codec_round_trips_a_value() {
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
    fn trailing_bytes_are_an_error() {
        assert!(Codec::Json.decode::<u8>(b"1 2").is_err());
        assert!(Codec::Compact.decode::<u8>(&[1, 2]).is_err());
    }

    #[test]
    fn json_refuses_numbers_that_it_cannot_write() {
        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let refused = Codec::Json.encode(&vec![Some(number)], &mut Vec::new()).unwrap_err();
            assert_eq!(refused.to_string(), format!("JSON has no form for the number {number}"));
            Codec::Compact.encode(&number, &mut Vec::new()).unwrap();
        }
        assert!(Codec::Json.encode(&f32::NAN, &mut Vec::new()).is_err());
    }

    #[test]
    fn state_that_json_would_change_is_refused() {
        assert!(encode_state(&Some(None::<u8>)).is_err());
        assert!(encode_state(&vec![Some(Some(()))]).is_err());
        assert!(encode_state(&Some(vec![None::<u8>])).is_ok());
        assert!(encode_state(&(None::<Option<u8>>, Some(Some(1)), ())).is_ok());
    }

    #[test]
    fn every_float_survives_json() {
        for bits in (0..10_000u64).map(|i| 0x3ff0_0000_0000_0000 + i * 0x00f1_2345_6789) {
            let float = f64::from_bits(bits);
            let mut bytes = Vec::new();
            Codec::Json.encode(&float, &mut bytes).unwrap();
            assert_eq!(Codec::Json.decode::<f64>(&bytes).unwrap().to_bits(), bits);
        }
    }
}
