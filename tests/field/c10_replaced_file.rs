//! C10. A SQLite file that was deleted or replaced is noticed.
