//! B2. The state in memory equals the fold of what is stored.
