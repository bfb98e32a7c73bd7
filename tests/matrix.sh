#!/usr/bin/env bash
# Runs the suites that need servers against several versions of each, and prints one report: servers, suite, result, seconds.
#
#   tests/matrix.sh                  every set of servers below
#   tests/matrix.sh SET ..           these sets
#
#   trixie   PostgreSQL 17, MariaDB 11.8, RabbitMQ 4.0, from a root of Debian 13
#   sid      PostgreSQL 18, MySQL 9, RabbitMQ 4.3, from a root of Debian unstable, whose versions change
#   here     the servers that this machine's packages have, as in tests/run.sh
#   urls     the servers at POSTGRES_URL, MYSQL_URL and AMQP_URL; servers that a test starts for itself are those of this machine
#
# Makes a root when it is missing (1.3 GB), which needs root's rights on Debian or Ubuntu. The report is also in target/matrix.txt,
# and the output of each suite in target/matrix/. Settings:
#
#   RETELL_ROOTS     the folder of the roots, target/roots by default
#   SUITES           the suites to run, separated by spaces, all by default
#   and those of tests/roots.sh, tests/run.sh and the suites, such as RETELL_HISTORY_SECONDS
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tests/services.sh
. tests/services.sh
# shellcheck source=tests/roots.sh
. tests/roots.sh

# The suites, the servers that each uses (P, M and R for PostgreSQL, MySQL or MariaDB, and RabbitMQ), and the seconds after which one has
# failed. Suites that need no server are not here: tests/run.sh runs them.
PLAN="
broker_rabbitmq        R    300
broker_rabbitmq_limits R    400
broker_rabbitmq_tls    R    200
foreign                R    300
cluster                R    400
store_mysql            M    300
mysql_transactions     M    300
mysql_dropped_calls    M    100
store_postgres         P    300
postgres_transactions  P    300
postgres_operations    P    400
postgres_plans         P    300
inline                 PM   300
inline_conformance     PM   300
own_tables             PM   200
parallel               PM   300
parking_servers        PM   300
process                PM   400
reactions              PM   300
rebuild                PM   400
startup                PM   200
unique                 PM   300
upgrade                PM   300
views                  PM   300
failover               PM   300
history                PM   900
field                  PMR  1200
shop                   PMR  900
chaos                  PMR  1800
"

# Tests that a set of servers cannot run: the set, the suite, the test, and the reason. There are none.
SKIPPED="
"

# Prints the version of each server of the set that runs now.
versions() {
  local postgres mysql rabbitmq
  postgres="$(server_version postgres)"
  mysql="$(server_version mysql)"
  rabbitmq="$(server_version rabbitmq)"
  echo "P: $postgres, M: $mysql, R: $rabbitmq"
}

server_version() {
  case "$1" in
    postgres) client "$(postgres_programs)/postgres" --version | sed 's/^postgres (PostgreSQL) /PostgreSQL /; s/ (.*//' ;;
    mysql)
      if [ -n "$(mariadb_program || true)" ]; then
        client "$(mariadb_program)" --version | sed 's/.*Ver \([0-9.]*\).*/MariaDB \1/'
      else
        client mysqld --version | sed 's/.*Ver \([0-9.]*\).*/MySQL \1/'
      fi
      ;;
    rabbitmq) basename "$(dirname "$(rabbitmq_programs)")" | sed 's/rabbitmq_server-/RabbitMQ /' ;;
  esac
}

start_servers() {
  start_postgres
  if [ -n "${RETELL_ROOT:-}" ] && [ -z "$(mariadb_program || true)" ]; then start_mysql; else start_mariadb; fi
  start_rabbitmq
}

# Runs one suite and adds its line to the report.
run_suite() { # set, suite, limit
  local set="$1" suite="$2" limit="$3" started ended result rc=0 skipped=() line
  while read -r line; do
    # shellcheck disable=SC2086 # a line of words
    set -- $line
    if [ "${1:-}" = "$set" ] && [ "${2:-}" = "$suite" ]; then skipped+=(--skip "$3"); fi
  done <<<"$SKIPPED"
  started="$(date +%s)"
  timeout "$limit" cargo test --quiet -p retell-tests --all-features --test "$suite" -- ${skipped[@]+"${skipped[@]}"} \
    >"target/matrix/$set-$suite.txt" 2>&1 || rc=$?
  ended="$(date +%s)"
  case "$rc" in 0) result=passed ;; 124) result="no end in $limit s" ;; *) result=FAILED ;; esac
  if [ "$rc" != 0 ]; then FAILED=1; fi
  printf '%-8s %-24s %-16s %5d\n' "$set" "$suite" "$result" "$((ended - started))" | tee -a target/matrix.txt
}

run_set() { # set
  local set="$1" suite servers limit
  echo "$set: $(if [ "$set" = urls ]; then echo "servers of your own"; else versions; fi)" | tee -a target/matrix.txt
  while read -r suite servers limit; do
    if [ -n "$suite" ] && chosen "$suite"; then run_suite "$set" "$suite" "$limit"; fi
  done <<<"$PLAN"
}

# One set, in a shell of its own, which leaves nothing behind.
with_servers() { # set
  local set="$1"
  SERVICES="$(mktemp -d)"
  chmod 755 "$SERVICES"
  mkdir "$SERVICES/tmp"
  trap 'stop_services; if [ -n "${RETELL_ROOT:-}" ]; then leave_root "$RETELL_ROOT" "$SERVICES"; umount -l "$SERVICES"; fi; rm -rf "$SERVICES"' EXIT
  if [ "$set" != urls ]; then unset POSTGRES_URL MYSQL_URL AMQP_URL; fi
  # They run on this machine, whatever has the servers.
  find_faketime
  make_python
  make_pgbouncer
  case "$set" in
    trixie | sid)
      RETELL_ROOT="$ROOTS/$set"
      if [ "$set" = trixie ]; then
        make_root "$RETELL_ROOT" trixie postgresql mariadb-server rabbitmq-server
      else
        make_root "$RETELL_ROOT" sid postgresql mysql-server rabbitmq-server
      fi
      export RETELL_ROOT
      mount_system "$RETELL_ROOT"
      show_in_root "$RETELL_ROOT" "$SERVICES"
      ;;
    here | urls) ;;
    *) missing "$set" "trixie, sid, here or urls" ;;
  esac
  if [ "$set" != urls ]; then start_servers; fi
  # The tests' own: users of servers may not write there.
  export TMPDIR="$SERVICES/tmp"
  run_set "$set"
}

ROOTS="$(realpath -m "${RETELL_ROOTS:-target/roots}")"
export RUST_TEST_THREADS="${RUST_TEST_THREADS:-4}"
mkdir -p target/matrix
: >target/matrix.txt
FAILED=0
chosen() {
  [[ " ${SUITES:-$1} " == *" $1 "* ]]
}

TARGETS=()
while read -r suite _; do
  if [ -n "$suite" ] && chosen "$suite"; then TARGETS+=(--test "$suite"); fi
done <<<"$PLAN"
[ "${#TARGETS[@]}" -gt 0 ] || missing "${SUITES:-}" "no such suite"
# tests/shop runs an example program.
if chosen shop; then cargo build --workspace --all-features --examples; fi
cargo test -p retell-tests --all-features --no-run "${TARGETS[@]}"
[ $# -gt 0 ] || set -- trixie sid here
for set in "$@"; do
  (with_servers "$set" && exit "$FAILED") || FAILED=1
done
echo "report: target/matrix.txt"
exit "$FAILED"
