#!/usr/bin/env bash
# Checks the packages of both crates: they contain only the files listed below, stay small, and compile on their own.
#
#   .ci/package.sh
set -euo pipefail
cd "$(dirname "$0")/.."

target="${CARGO_TARGET_DIR:-target}"
# Files of every package. Cargo generates some of them.
common='\.cargo_vcs_info\.json|Cargo\.(lock|toml|toml\.orig)|LICENSE-(APACHE|MIT)|README\.md|src/.+\.rs'

# Arguments: crate, pattern of its other files, size limit of its archive in KiB.
check() {
  local crate="$1" allowed="^($common$2)\$" limit="$3" others size
  others="$(cargo package --quiet --allow-dirty --list -p "$crate" | grep -Ev "$allowed" || true)"
  if [ -n "$others" ]; then
    printf 'the package of %s contains files that its users do not need:\n%s\n' "$crate" "$others" >&2
    exit 1
  fi
  size=$(($(cat "$target/package/$crate-"[0-9]*.crate | wc -c) / 1024))
  if [ "$size" -gt "$limit" ]; then
    echo "the package of $crate has $size KiB, the limit is $limit KiB" >&2
    exit 1
  fi
  echo "$crate: $size KiB"
}

# Removes archives of earlier versions.
rm -f "$target"/package/*.crate
cargo package --quiet --allow-dirty --no-verify -p retell-macros -p retell
check retell-macros '' 60
check retell '|CHANGELOG\.md|examples/[a-z_]+\.rs|migrations/.+\.sql|src/docs/.+\.(md|svg)' 1000
# Compiles each package against the other, as the registry would serve them, including uncommitted changes.
cargo publish --quiet --dry-run --allow-dirty -p retell-macros -p retell
