//! C5. Events become visible at once with `jit` at the server's default.
