//! The log side: cached states, snapshots, appends, tokens and deadlines.
