//! C12. Time travel into a long stream has a bounded cost.
