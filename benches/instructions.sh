#!/usr/bin/env bash
# Counts the instructions of `instructions.rs`, and fails where one needs 3 % more than instructions.txt says. They do not depend on what else
# the machine does; on the compiler they do, so the file names it, and another one may need 25 % more.
#
#   benches/instructions.sh            compares
#   benches/instructions.sh --record   writes what it found
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tests/services.sh
. tests/services.sh
command -v valgrind >/dev/null || install_package valgrind valgrind PATH

recorded=benches/instructions.txt
# Both runs have the same beginning, so the difference is that of the events in between.
few=300 many=6300
build=$(cargo bench --quiet -p retell-benches --bench instructions --no-run --message-format=json)
program=$(sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' <<<"$build" | tail -1)

count() {
  valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" "$1" "$2" 2>&1 | sed -n 's/.*Collected : //p'
}

found="# instructions an event, $(rustc --version | cut -d' ' -f1-2)"
for part in $("$program" --parts); do
  found+=$'\n'"$part $((($(count "$part" $many) - $(count "$part" $few)) / (many - few)))"
done
if [ "${1:-}" = --record ]; then
  echo "$found" >"$recorded"
fi
slack=3
[ "$(head -1 "$recorded")" = "$(head -1 <<<"$found")" ] || slack=25
awk -v slack=$slack '
  FNR == 1 { next }
  NR == FNR { floor[$1] = $2; next }
  { print $1, $2, "recorded", floor[$1] }
  !($1 in floor) || $2 > floor[$1] * (1 + slack / 100) { print "  more than " slack " % too many"; failed = 1 }
  END { exit failed }
' "$recorded" <(echo "$found")
