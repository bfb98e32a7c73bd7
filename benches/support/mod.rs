//! Shared parts of the benchmarks: an order and its events, derived and hand-written, and the folder of the files.
#![allow(dead_code, reason = "each benchmark uses its part")]

pub(crate) mod by_hand;
pub(crate) mod limit;
pub(crate) mod order;

/// Configures enough samples for a steady median, few enough that a benchmark file runs in two minutes.
#[cfg(feature = "all")]
pub(crate) fn criterion() -> criterion::Criterion {
    use std::time::Duration;

    criterion::Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .without_plots()
        .configure_from_args()
}

/// Creates a folder in cargo's target directory, which is on a disk. `/tmp` is often a tmpfs, where waiting for the disk takes no time.
#[cfg(feature = "all")]
pub(crate) fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}
