//! A3. `stop` ends within its grace period, whatever the handlers do.
