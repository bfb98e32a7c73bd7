//! B1. A value that cannot be decoded again is refused when it is written.
