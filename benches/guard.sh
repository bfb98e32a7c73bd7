#!/usr/bin/env bash
# Runs what floors.txt names of the criterion benchmarks, with its twin written by hand beside it, and fails where the median is slower than
# the floor says, in times by hand. By hand and before a release, on a machine that does nothing else; it takes some minutes. What
# fails once may be noise: instructions.sh counts without any.
#
#   benches/guard.sh            all
#   benches/guard.sh replay     the rows of one benchmark
set -euo pipefail
cd "$(dirname "$0")/.."
floors=$(grep "^${1:-[a-z]}" benches/floors.txt)
# A folder of its own: figures of an earlier run must not stand in for those that are missing.
CRITERION_HOME="$(mktemp -d)"
export CRITERION_HOME
trap 'rm -rf "$CRITERION_HOME"' EXIT

# group/function/size; prints nanoseconds
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
