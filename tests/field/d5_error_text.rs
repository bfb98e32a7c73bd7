//! D5. An error prints its causes.
