#!/usr/bin/env bash
# Runs the criterion benchmarks listed in floors.txt together with their hand-written twins, and fails if a median is slower than its floor,
# a multiple of the hand-written speed. Run it manually before a release, on an otherwise idle machine; it takes some minutes. A single
# failure may be noise: instructions.sh counts without any.
#
#   benches/guard.sh            all
#   benches/guard.sh replay     the rows of one benchmark
set -euo pipefail
cd "$(dirname "$0")/.."
floors=$(grep "^${1:-[a-z]}" benches/floors.txt)
# A separate folder, so that figures of an earlier run cannot replace missing ones.
CRITERION_HOME="$(mktemp -d)"
export CRITERION_HOME
trap 'rm -rf "$CRITERION_HOME"' EXIT

# Argument: group/function/size. Prints nanoseconds.
median() {
  local found
  found=$(sed -n 's/.*"median":{"confidence_interval":{[^}]*},"point_estimate":\([0-9.e+]*\).*/\1/p' "$CRITERION_HOME/$1/new/estimates.json")
  [ -n "$found" ] || { echo "$1 has no median" >&2; return 1; }
  echo "$found"
}

for bench in $(cut -d' ' -f1 <<<"$floors" | sort -u); do
  only=$(awk -v bench="$bench" '$1 == bench { printf "%s^%s/(by_hand|%s)/%s$", sep, $2, $3, $4; sep = "|" }' <<<"$floors")
  cargo bench --quiet -p retell-benches --bench "$bench" -- --quiet "$only"
done

failed=0
echo
echo "| what | times by hand | floor | |"
echo "|---|---|---|---|"
while read -r _ group ours size floor; do
  by_hand=$(median "$group/by_hand/$size")
  our_own=$(median "$group/$ours/$size")
  awk -v what="$group/$ours/$size" -v by_hand="$by_hand" -v ours="$our_own" -v floor="$floor" 'BEGIN {
    ratio = by_hand / ours
    printf "| %s | %.2f | %.2f | %s |\n", what, ratio, floor, ratio < floor ? "too slow" : ""
    exit ratio < floor
  }' || failed=1
done <<<"$floors"
exit "$failed"
