#!/usr/bin/env bash
# Runs next to the tests, which wait for servers some of the time: the lints, the count of instructions, the check of the packages, and builds that
# later checks need.
# Installs cargo-deny below $1 if it is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
tools="$1"
# Linux shares the processors among sessions, and then within each. This session gets a quarter of them while the tests are busy.
{ echo 5 >/proc/self/autogroup; } 2>/dev/null || renice -n 19 $$ >/dev/null
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
# In the folder of the lints, which has the same dependencies.
step env CARGO_TARGET_DIR="$PWD/target/lints" .ci/package.sh
