//! C13. Two parts with one name are refused, and unknown names are errors.
