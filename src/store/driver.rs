//! For authors of stores: the rules that every driver keeps, stated once.
//!
//! A program that uses a store needs none of this. This module follows semantic versioning like the rest of the crate: a new rule is a new item, and a driver that compiled goes on
//! compiling within a major version. A new rule may fail a new case of a conformance suite, so run the suites at every update.

pub use crate::store::log::claims::{Claimed, claimed};
pub use crate::store::log::judge::{Verdict, Written, judge, record};
pub use crate::store::log::relay::{LONGEST_LEASE, check_fence, check_lease_name, check_relay_name};
