//! Values that one stream at a time may hold, such as the e-mail address of a user.

use crate::id::{ClaimScope, ClaimValue, InvalidName};

/// Reserves or releases a value that only one stream may hold. The claim becomes durable with the append's events, or not at all.
///
/// Values are compared byte by byte: to treat `Ada@example.org` and `ada@example.org` as one, convert them to lower case first.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Claim {
    /// Makes the stream the holder of the value. The append is refused if another stream holds it; nothing changes if this one does.
    Reserve {
        /// The scope that the value is unique in, such as `user.email`.
        scope: ClaimScope,
        /// The value.
        value: ClaimValue,
    },
    /// Frees the value. Nothing changes if the stream does not hold it.
    Release {
        /// The scope that the value is unique in.
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

    /// Returns the scope that the value is unique in.
    pub fn scope(&self) -> &ClaimScope {
        match self {
            Self::Reserve { scope, .. } | Self::Release { scope, .. } => scope,
        }
    }

    /// Returns the value.
    pub fn value(&self) -> &ClaimValue {
        match self {
            Self::Reserve { value, .. } | Self::Release { value, .. } => value,
        }
    }
}
