//! A5. Workers and relays without an `App` outlast a full disk, a read-only phase and lost sessions.
