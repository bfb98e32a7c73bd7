#!/usr/bin/env bash
# Counts the instructions of `instructions.rs`, and fails if a step needs 3 % more than instructions.txt allows. The count does not depend
# on other work on the machine, but on the compiler. The file names the compiler; another one may need 25 % more.
#
#   benches/instructions.sh            compares
#   benches/instructions.sh --record   writes what it found
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tests/services.sh
. tests/services.sh
command -v valgrind >/dev/null || install_package valgrind valgrind PATH

recorded=benches/instructions.txt
# Both runs have the same startup cost, so the difference is that of the additional events.
few=300 many=6300
# With the features of the example `shop`, so that a build of it and this one share the library.
build=$(cargo build --quiet --release -p retell -p retell-benches --no-default-features --features retell/default --example shop \
  --bench instructions --message-format=json)
program=$(sed -n '/"name":"instructions"/s/.*"executable":"\([^"]*\)".*/\1/p' <<<"$build" | tail -1)

count() {
  valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" "$1" "$2" 2>&1 | sed -n 's/.*Collected : //p'
}

found="# instructions per event, $(rustc --version | cut -d' ' -f1-2)"
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
  !($1 in floor) || $2 > floor[$1] * (1 + slack / 100) { print "  more than " slack " % above the record"; failed = 1 }
  END { exit failed }
' "$recorded" <(echo "$found")
