#!/usr/bin/env bash
# Compares the public API with that of the last release, and fails if a change breaks it without a new version number.
# Run before a release. `.ci/run` leaves it out, because installing the tool takes about ten minutes of processor time.
#
#   .ci/semver.sh            against the revision in .ci/semver-baseline
#   .ci/semver.sh REVISION   against another one
set -euo pipefail
cd "$(dirname "$0")/.."

baseline="${1:-$(cat .ci/semver-baseline)}"
tools="$PWD/target/tools"
export PATH="$PATH:$tools/bin"
command -v cargo-semver-checks >/dev/null ||
  cargo install --quiet --locked --root "$tools" cargo-semver-checks@0.51.0
# The macros crate has no API of its own to compare: its output is covered by the library's tests.
cargo semver-checks --package retell --all-features --baseline-rev "$baseline"
