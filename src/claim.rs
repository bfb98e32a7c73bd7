//! Values that one stream at a time may hold, such as the e-mail address of a user.

use crate::id::{ClaimScope, ClaimValue, InvalidName};

/// What an append does with a value that only one stream may hold. It becomes durable with the append's events, or not at all.
///
/// Values are compared byte by byte: whoever wants `Ada@example.org` and `ada@example.org` to be one lowers the case first.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Claim {
    /// From now on the stream holds the value. Refused if another stream does; nothing happens if this one does already.
    Reserve {
        /// What the value must be unique among, such as `user.email`.
        scope: ClaimScope,
        /// The value.
        value: ClaimValue,
    },
    /// From now on the stream does not hold the value. Nothing happens if it did not.
    Release {
        /// What the value must be unique among.
        scope: ClaimScope,
        /// The value.
        value: ClaimValue,
    },
}

impl Claim {
    /// Reserves a value.
    ///
    /// # Errors
    /// [`InvalidName`] for a scope or a value that is empty, longer than 255 bytes, or has a NUL character in it.
    pub fn reserve(scope: impl AsRef<str>, value: impl AsRef<str>) -> Result<Self, InvalidName> {
        Ok(Self::Reserve { scope: ClaimScope::new(scope)?, value: ClaimValue::new(value)? })
    }

    /// Releases a value.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    pub fn release(scope: impl AsRef<str>, value: impl AsRef<str>) -> Result<Self, InvalidName> {
        Ok(Self::Release { scope: ClaimScope::new(scope)?, value: ClaimValue::new(value)? })
    }

    /// What the value must be unique among.
    pub fn scope(&self) -> &ClaimScope {
        match self {
            Self::Reserve { scope, .. } | Self::Release { scope, .. } => scope,
        }
    }

    /// The value.
    pub fn value(&self) -> &ClaimValue {
        match self {
            Self::Reserve { value, .. } | Self::Release { value, .. } => value,
        }
    }
}
