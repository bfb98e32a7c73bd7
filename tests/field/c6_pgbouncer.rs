//! C6. The log works behind PgBouncer in transaction mode.
