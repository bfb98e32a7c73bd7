//! The side of positions: checkpoints, rows of progress, relays, frames and generations.
