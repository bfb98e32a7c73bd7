//! C8. A server that breaks the order of the log is refused.
