#!/usr/bin/env bash
# Runs clippy with every set of features that has code of its own, and builds the documentation. No warning is allowed.
set -euo pipefail
cd "$(dirname "$0")/.."
# A target folder of its own, so that it can run next to the tests.
export CARGO_TARGET_DIR=target/lints

# No feature, each driver alone, and all together.
for features in "" sqlite postgres mysql rabbitmq macros,opentelemetry,rust_decimal,testing,zstd; do
  cargo clippy --quiet -p retell --lib --no-default-features --features "$features" -- -D warnings
done
# The shop has code of its own for each server and broker.
for features in "" postgres mysql rabbitmq; do
  cargo clippy --quiet -p retell --examples --features "$features" -- -D warnings
done
cargo clippy --quiet --workspace --all-targets --all-features -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --quiet --workspace --all-features --no-deps
