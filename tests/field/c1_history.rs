//! C1. A log that went back in time is noticed by everything that remembers a place in it.

mod between;
mod channels;
mod drills;
mod inline;
mod log;
mod positions;
mod program;
mod shapes;
