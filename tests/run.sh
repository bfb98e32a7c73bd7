#!/usr/bin/env bash
# Runs all tests. Installs missing programs (by apt, as root on Debian or Ubuntu), starts temporary servers on free ports of 127.0.0.1,
# and stops them at the end, even after a failure.
#
#   tests/run.sh            everything
#   tests/run.sh ARG ...    passed on to cargo test, such as a test's name
#
# Some tests start servers of their own with the installed programs. Two of them fill a small disk (tmpfs), which they mount as root or
# with sudo. If neither is allowed, they fail and say so.
#
# tests/matrix.sh runs the suites that need servers on newer versions of them.
#
# To use your own servers, set POSTGRES_URL=postgres://.. MYSQL_URL=mysql://.. AMQP_URL=amqp://.. (see compose.yaml). To use your own Python
# with pika, set PIKA_PYTHON=/path/to/python; to use your own PgBouncer (1.21 or later), set PGBOUNCER=/path/to/pgbouncer.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tests/services.sh
. tests/services.sh

command -v cargo >/dev/null || missing cargo "install Rust, see https://rustup.rs"
command -v cc >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null ||
  missing "a C compiler" "on Debian or Ubuntu: apt-get install gcc"

# Temporary files of servers and tests are below this folder and are deleted with it.
SERVICES="$(mktemp -d)"
# The test programs that run, by the number of their process group.
names=()
end() {
  local pid
  for pid in "${!names[@]}"; do kill -- "-$pid" 2>/dev/null || true; done
  stop_services
  rm -rf "$SERVICES"
}
trap end EXIT
# The servers run as other users, who must be able to enter the folder.
chmod 755 "$SERVICES"
start_postgres
start_mariadb
start_rabbitmq
find_faketime
make_python
make_pgbouncer
mkdir "$SERVICES/tmp"
export TMPDIR="$SERVICES/tmp"

# Most tests wait for servers most of the time, so several programs run at once, and several tests of each.
export RUST_TEST_THREADS="${RUST_TEST_THREADS:-4}"
at_once=3

# One build for all, so that no dependency is compiled with other features again. Some tests run the example programs.
cargo build --workspace --all-features --examples --tests
cargo test --workspace --all-features --lib --bins --example shop --tests --no-run

mkdir "$SERVICES/logs"
failed=()
# Each background job gets a process group, so that an interruption ends its programs, too.
set -m

# Starts `cargo test` in the background. Arguments: a name, and those of cargo.
start() {
  local name="$1"
  shift
  while [ "${#names[@]}" -ge "$at_once" ]; do finish_one; done
  cargo test --quiet "$@" >"$SERVICES/logs/$name" 2>&1 </dev/null &
  names[$!]="$name"
}

# Waits for one of the programs, and prints what it printed.
finish_one() {
  local pid code=0
  wait -n -p pid "${!names[@]}" || code=$?
  printf '\n== %s (after %s s)\n' "${names[$pid]}" "$SECONDS"
  cat "$SERVICES/logs/${names[$pid]}"
  if [ "$code" != 0 ]; then failed+=("${names[$pid]}"); fi
  unset "names[$pid]"
}

# The longest first: otherwise they would run alone at the end.
programs="$(cargo metadata --no-deps --format-version 1 | "$PIKA_PYTHON" -c '
import json, sys
first = ["shop", "chaos", "field", "cluster", "history", "delivery_model", "broker_rabbitmq_limits", "ui", "failover"]
names = [t["name"] for p in json.load(sys.stdin)["packages"] for t in p["targets"] if "test" in t["kind"]]
print(*sorted(names, key=lambda name: (first + [name]).index(name)))
')"
start doc --workspace --all-features --doc -- "$@"
for program in $programs; do
  start "$program" --workspace --all-features --test "$program" -- "$@"
done
# The shop is the only example that has tests.
start unit --workspace --all-features --lib --bins --example shop -- "$@"
# Features of serde_json that any crate of a program can switch on.
for feature in arbitrary_precision preserve_order; do
  start "features-$feature" --manifest-path tests/features/Cargo.toml --target-dir target/features --features "$feature" -- "$@"
done
while [ "${#names[@]}" -gt 0 ]; do finish_one; done
if [ "${#failed[@]}" -gt 0 ]; then
  for name in "${failed[@]}"; do
    printf '\n== failed: %s\n' "$name"
    # The log is printed far above.
    grep -n -A 12 'panicked at\|^error' "$SERVICES/logs/$name" | tail -n 120 || true
  done
  exit 1
fi
