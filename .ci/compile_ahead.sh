#!/usr/bin/env bash
# Installs cargo-deny below $1 if it is missing, and does the work of the checks after the tests that takes long. An error shows in its check.
set -euo pipefail
cd "$(dirname "$0")/.."
tools="$1"

if ! command -v cargo-deny >/dev/null && ! [ -x "$tools/bin/cargo-deny" ]; then
  cargo install --quiet --locked --root "$tools" cargo-deny@0.20.2
fi
cargo build --quiet --release --example shop >/dev/null 2>&1 || true
cargo bench --quiet -p retell-benches --no-default-features --bench instructions --no-run >/dev/null 2>&1 || true
.ci/lints.sh >/dev/null 2>&1 || true
