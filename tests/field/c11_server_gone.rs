//! C11. A call to a server that is gone ends within seconds.
