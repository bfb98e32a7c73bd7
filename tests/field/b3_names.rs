//! B3. Events of two aggregates do not mix under one stored name.
