#!/usr/bin/env bash
# Checks what both crates publish: nothing but the files below, small, and complete enough to compile from the packages alone.
#
#   .ci/package.sh
set -euo pipefail
cd "$(dirname "$0")/.."

# Present in every package; cargo writes all but the texts.
common='\.cargo_vcs_info\.json|Cargo\.(lock|toml|toml\.orig)|LICENSE-(APACHE|MIT)|README\.md|src/.+\.rs'

# crate, its other files as a pattern, the most KiB of its archive
check() {
  local crate="$1" allowed="^($common$2)\$" limit="$3" others size
  others="$(cargo package --quiet --allow-dirty --list -p "$crate" | grep -Ev "$allowed" || true)"
  if [ -n "$others" ]; then
    printf 'the package of %s holds files that its users do not need:\n%s\n' "$crate" "$others" >&2
    exit 1
  fi
  size=$(($(cat "target/package/$crate-"[0-9]*.crate | wc -c) / 1024))
  if [ "$size" -gt "$limit" ]; then
    echo "the package of $crate has $size KiB, more than $limit" >&2
    exit 1
  fi
  echo "$crate: $size KiB"
}

# Of an earlier version there may be an archive.
rm -f target/package/*.crate
cargo package --quiet --allow-dirty --no-verify -p retell-macros -p retell
check retell-macros '' 60
check retell '|CHANGELOG\.md|examples/[a-z_]+\.rs|migrations/.+\.sql|src/docs/.+\.(md|svg)' 600
# Compiles each package against the other, as the registry would serve them. The working tree counts as it is.
cargo publish --quiet --dry-run --allow-dirty -p retell-macros -p retell
