//! B6. A clock that jumps does not drag the log along.
