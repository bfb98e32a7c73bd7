//! B1. What cannot be decoded again is refused when it is written.
