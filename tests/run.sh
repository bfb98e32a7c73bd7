#!/usr/bin/env bash
# Runs all tests. Needs Rust and a C compiler (for the bundled SQLite), nothing else; installs nothing, leaves nothing behind.
#
#   tests/run.sh            everything
#   tests/run.sh ARG ...    passed on to cargo test, such as a test's name
set -euo pipefail
cd "$(dirname "$0")/.."

missing() {
  echo "tests/run.sh: $1 is missing: $2" >&2
  exit 1
}
command -v cargo >/dev/null || missing cargo "install Rust, see https://rustup.rs"
command -v cc >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null ||
  missing "a C compiler" "on Debian or Ubuntu: apt-get install gcc"

# Whatever a test leaves in a temporary folder goes with this one.
TMPDIR="$(mktemp -d)"
export TMPDIR
# Some tests run a part of themselves as a user with fewer rights, who must get in.
chmod 755 "$TMPDIR"
trap 'rm -rf "$TMPDIR"' EXIT

# tests/shop.rs runs the program that people run, and cargo builds an example that has tests of its own only as those tests.
cargo build --workspace --all-features --example shop
# The library, its macros, the examples' own tests and every test of tests/; then the documentation's examples.
cargo test --workspace --all-features --lib --bins --examples --tests -- "$@"
cargo test --workspace --all-features --doc -- "$@"
