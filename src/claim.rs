//! Values that one stream at a time may hold, such as the e-mail address of a user.

use serde::{Deserialize, Serialize};

use crate::id::{ClaimScope, ClaimValue, InvalidName};

/// A reservation or a release of a value that only one stream may hold. The store commits a claim together with the append's events.
///
/// Values are compared byte by byte: to treat `Ada@example.org` and `ada@example.org` as one, convert them to lower case first.
///
/// # Examples
/// ```
/// use retell::Claim;
///
/// let claim = Claim::reserve("user.email", "Ada@example.org".to_lowercase())?;
/// assert_eq!(claim.value().as_str(), "ada@example.org");
/// # Ok::<(), retell::InvalidName>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Claim {
    /// Makes the stream the holder of the value. The append is refused if another stream holds it; nothing changes if this stream does.
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
    /// Creates a claim that reserves `value` in `scope`.
    ///
    /// # Errors
    /// Returns [`InvalidName`] if `scope` or `value` is empty, is longer than 255 bytes, or contains a NUL character.
    pub fn reserve(scope: impl AsRef<str>, value: impl AsRef<str>) -> Result<Self, InvalidName> {
        Ok(Self::Reserve { scope: ClaimScope::new(scope)?, value: ClaimValue::new(value)? })
    }

    /// Creates a claim that releases `value` in `scope`.
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

/// A unique value that a stream holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HeldValue {
    /// The scope that the value is unique in.
    pub scope: ClaimScope,
    /// The value.
    pub value: ClaimValue,
}

impl HeldValue {
    /// Creates a value. For drivers.
    pub const fn new(scope: ClaimScope, value: ClaimValue) -> Self {
        Self { scope, value }
    }

    /// Creates a value from two stored names.
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    pub(crate) fn parse(scope: &str, value: &str) -> Result<Self, InvalidName> {
        Ok(Self::new(ClaimScope::new(scope)?, ClaimValue::new(value)?))
    }
}
