#!/usr/bin/env bash
# Runs next to the tests, which wait for servers most of the time: the lints, the count of instructions, and builds that later checks need.
# Installs cargo-deny below $1 if it is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
tools="$1"
step() { printf '\n== %s\n' "$*"; "$@"; }

if ! command -v cargo-deny >/dev/null && ! [ -x "$tools/bin/cargo-deny" ]; then
  # Without optimization: it runs once.
  step cargo install --quiet --debug --locked --root "$tools" cargo-deny@0.20.2
fi
step cargo build --quiet --release --example shop
# Counts instructions, so a busy machine does not matter.
step benches/instructions.sh
for feature in arbitrary_precision preserve_order; do
  step cargo test --quiet --manifest-path tests/features/Cargo.toml --target-dir target/features --features "$feature" --no-run
done
step .ci/lints.sh
