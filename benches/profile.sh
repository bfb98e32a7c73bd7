#!/usr/bin/env bash
# Profiles this process along an event's path: the share of each crate, the kernel and the allocator, with Linux's `perf`, which must be
# installed. It excludes the work of servers and the time in which the process waits. Inlined code counts for the function it is inlined
# into.
#
#   POSTGRES_URL=.. AMQP_URL=.. benches/profile.sh [PART ..]     append, load, rebuild, relay, worker; all without an argument
#
# With FLAMES=folder, `perf script` also writes a file for `flamegraph.pl` or `inferno-flamegraph` there for each part.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v perf >/dev/null || { echo "perf is missing: on Debian apt-get install linux-perf" >&2; exit 1; }
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT

# Argument: bench. Prints the path of its program.
program() {
  cargo bench --quiet -p retell-benches --profile profiling --bench "$1" --no-run --message-format=json | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1
}

record() {
  perf record --quiet -F 1999 -g -o "$folder/data" -- "$@" >/dev/null
}

# Prints the process ids in the order in which the processes started.
pids() {
  perf report --quiet --no-children -g none --sort pid -i "$folder/data" 2>/dev/null | sed -n 's/.* \([0-9]*\):.*/\1/p' | sort -n
}

# Arguments: the part's name, and optionally which processes to include.
shares() {
  local name="$1" only=("${@:2}")
  echo "$name"
  perf report --quiet --no-children -g none --sort sym "${only[@]}" -i "$folder/data" 2>/dev/null | awk '
    function crate(symbol) {
      if (symbol ~ /^\[k\]/) return "the kernel"
      if (symbol ~ /retell/) return "retell"
      if (symbol ~ /sqlx/) return "sqlx"
      if (symbol ~ /serde|itoa|ryu|zmij/) return "serde"
      if (symbol ~ /lapin|amq/) return "lapin"
      if (symbol ~ /[Zz][Ss][Tt][Dd]|HUF_|FSE_/) return "zstd"
      if (symbol ~ /tokio|mio|futures/) return "tokio and futures"
      if (symbol ~ /sqlite3|wal|pager|vdbe|btree|pcache|balance|Page|Cell|Mem/) return "SQLite"
      if (symbol ~ /malloc|free|realloc|calloc/) return "the allocator"
      if (symbol ~ /memcpy|memmove|memcmp|memset|mem_|from_utf8/) return "bytes moved and compared"
      return "the rest"
    }
    /%/ { share = $1; sub(/%/, "", share); symbol = $0; sub(/^ *[0-9.]+% */, "", symbol); total[crate(symbol)] += share; all += share }
    END { for (name in total) printf "%7.1f %%  %s\n", 100 * total[name] / all, name }
  ' | sort -rn
  if [ -n "${FLAMES:-}" ]; then perf script -i "$folder/data" >"$FLAMES/$name.perf" 2>/dev/null; fi
}

for part in "${@:-append load rebuild relay worker}"; do for part in $part; do
  case "$part" in
  append) record "$(program append)" --bench --profile-time 5 'append/store/16$' ;;
  load) record "$(program load)" --bench --profile-time 5 'load/repository/10000$' ;;
  rebuild) record "$(program views)" 300000 rebuild ;;
  relay | worker) record "$(program delivery)" memory ;;
  *) echo "no part $part" >&2; exit 1 ;;
  esac
  case "$part" in
  # The first process starts the others, alternating between a relay and a worker.
  relay) shares relay --pid "$(pids | awk 'NR % 2 == 0' | paste -sd,)" ;;
  worker) shares worker --pid "$(pids | awk 'NR % 2 == 1 && NR > 1' | paste -sd,)" ;;
  *) shares "$part" ;;
  esac
done; done
