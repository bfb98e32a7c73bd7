//! What the benchmarks share: an order and its events, once for the library and once written by hand, and where the files lie.
#![allow(dead_code, reason = "each benchmark uses its part")]

pub(crate) mod by_hand;
pub(crate) mod limit;
pub(crate) mod order;

use std::time::Duration;

use criterion::Criterion;
use tempfile::TempDir;

/// Samples enough for a steady median, and so short that a file of benchmarks runs in two minutes.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .without_plots()
        .configure_from_args()
}

/// Below cargo's target directory, which lies on a disk: what waits for the disk would measure nothing on a tmpfs such as `/tmp`
/// often is.
pub(crate) fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}
