//! D4. No payload reaches a log file.
