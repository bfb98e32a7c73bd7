//! Macros that define the three kinds of id type, with their conversions: a checked name, a number, and a UUID.

/// Defines a name that is checked when it is created. `$kind` names it in error messages.
macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(::std::sync::Arc<str>);

        impl $type {
            /// Creates a name of 1 to [`MAX_NAME_BYTES`](crate::id::MAX_NAME_BYTES) bytes without NUL characters.
            ///
            /// # Errors
            /// Returns an [`InvalidName`](crate::id::InvalidName) that says which of the three rules is broken.
            pub fn new(text: impl AsRef<str>) -> Result<Self, $crate::id::InvalidName> {
                $crate::id::parse_name($kind, text.as_ref()).map(Self)
            }

            /// Returns the name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl ::std::fmt::Display for $type {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl ::std::fmt::Debug for $type {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                ::std::fmt::Debug::fmt(&self.0, f)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        // Sound: the derived `Eq`, `Ord` and `Hash` agree with those of the text.
        impl ::std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl ::std::str::FromStr for $type {
            type Err = $crate::id::InvalidName;
            fn from_str(text: &str) -> Result<Self, $crate::id::InvalidName> {
                Self::new(text)
            }
        }

        impl ::serde::Serialize for $type {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $type {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(<String as ::serde::Deserialize>::deserialize(deserializer)?).map_err(::serde::de::Error::custom)
            }
        }

        impl TryFrom<&str> for $type {
            type Error = $crate::id::InvalidName;
            fn try_from(text: &str) -> Result<Self, $crate::id::InvalidName> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $type {
            type Error = $crate::id::InvalidName;
            fn try_from(text: String) -> Result<Self, $crate::id::InvalidName> {
                Self::new(text)
            }
        }

        // Functions that take `impl TryInto` do not dereference, so this impl and the next one let them accept `&id`.
        impl TryFrom<&String> for $type {
            type Error = $crate::id::InvalidName;
            fn try_from(text: &String) -> Result<Self, $crate::id::InvalidName> {
                Self::new(text)
            }
        }

        impl From<&$type> for $type {
            fn from(name: &$type) -> Self {
                name.clone()
            }
        }
    };
}

/// Defines a number that does not mix with other numbers.
macro_rules! number {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, ::serde::Serialize, ::serde::Deserialize,
        )]
        #[serde(transparent)]
        pub struct $type(u64);

        impl $type {
            /// The number before the first number.
            pub const ZERO: Self = Self(0);

            /// Creates a value from a plain number.
            pub const fn new(number: u64) -> Self {
                Self(number)
            }

            /// Returns the plain number.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// Returns the next number.
            #[must_use]
            pub const fn next(self) -> Self {
                self.plus(1)
            }

            /// Returns the number `count` steps after this one.
            #[must_use]
            pub const fn plus(self, count: u64) -> Self {
                Self(self.0.saturating_add(count))
            }

            /// Returns the distance from `earlier` to this number; zero if `earlier` is not earlier.
            pub const fn since(self, earlier: Self) -> u64 {
                self.0.saturating_sub(earlier.0)
            }
        }

        impl From<u64> for $type {
            fn from(number: u64) -> Self {
                Self(number)
            }
        }

        impl From<$type> for u64 {
            fn from(number: $type) -> Self {
                number.0
            }
        }

        impl ::std::str::FromStr for $type {
            type Err = ::std::num::ParseIntError;
            fn from_str(text: &str) -> Result<Self, ::std::num::ParseIntError> {
                text.parse().map(Self)
            }
        }

        impl ::std::fmt::Display for $type {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                ::std::fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

/// Defines a UUID that does not mix with other ids.
macro_rules! uuid_id {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ::serde::Serialize, ::serde::Deserialize)]
        #[serde(transparent)]
        pub struct $type(::uuid::Uuid);

        impl $type {
            /// Creates an id from a new UUID version 7. Ids sort by the time of their creation.
            pub fn generate() -> Self {
                Self(::uuid::Uuid::now_v7())
            }

            /// Returns the id as a UUID.
            pub const fn as_uuid(&self) -> &::uuid::Uuid {
                &self.0
            }
        }

        impl From<::uuid::Uuid> for $type {
            fn from(id: ::uuid::Uuid) -> Self {
                Self(id)
            }
        }

        impl From<$type> for ::uuid::Uuid {
            fn from(id: $type) -> Self {
                id.0
            }
        }

        impl ::std::str::FromStr for $type {
            type Err = ::uuid::Error;
            fn from_str(text: &str) -> Result<Self, ::uuid::Error> {
                text.parse().map(Self)
            }
        }

        impl ::std::fmt::Display for $type {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                ::std::fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

pub(super) use {name, number, uuid_id};
