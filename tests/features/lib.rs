//! A package of tests only.
