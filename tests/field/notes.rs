//! Notes of tests that run only if they are asked to.

use std::io::{Write, stderr};

/// Shows a note although the test passes, unlike `eprintln!`.
pub(crate) fn show(note: &str) {
    stderr().write_all(format!("{note}\n").as_bytes()).unwrap();
}
