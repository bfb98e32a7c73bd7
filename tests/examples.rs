//! Compares the output of the small examples with the file next to each.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

#[test]
fn each_example_prints_its_expected_output() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let files = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let expected: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|kind| kind == "txt")).collect();
    for path in &expected {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let output = Command::new(built(name)).output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), fs::read_to_string(path).unwrap(), "{name}");
        let lines = fs::read_to_string(path.with_extension("rs")).unwrap().lines().count();
        assert!(lines <= 60, "{name} has {lines} lines: a small example has at most 60");
    }
    assert!(!expected.is_empty());
}

/// Returns the path of a built example. Cargo builds the examples along with all tests, but not for a single test.
fn built(name: &str) -> PathBuf {
    let test = env::current_exe().unwrap();
    let folder = test.parent().and_then(Path::parent).unwrap();
    let example = folder.join("examples").join(format!("{name}{}", env::consts::EXE_SUFFIX));
    assert!(example.exists(), "{} is missing: run `cargo build --all-features --examples`", example.display());
    example
}
